// The parts of futures and of callback nodes that are no templates.
#include <ouro/runtime/futures.hpp>

#include <string>
#include <thread>

#include <ouro/runtime/base_event_loop.hpp>
#include <ouro/runtime/events.hpp>

#include "drive.hpp"
#include "report.hpp"
#include "shared.hpp"
#include "worker.hpp"

namespace ouro {
namespace detail {

// ---- Callback nodes ----

bool CallbackNode::begin(State to) noexcept {
  State expected = pending;
  if (is_threadsafe()) return state_.compare_exchange_strong(expected, to, std::memory_order_acq_rel);
  if (state_.load(std::memory_order_relaxed) != pending) return false;
  state_.store(to, std::memory_order_relaxed);
  return true;
}

void CallbackNode::run(void* leaf) {
  auto& node = *static_cast<CallbackNode*>(static_cast<FrameHeader*>(leaf));
  node.home->current = nullptr;
  if (node.begin(running)) {
    struct End {
      CallbackNode& node;
      ~End() {
        node.kind_->drop(node);
        if (OURO_UNLIKELY(contexts_in_use())) drop_loose_context(*node.home);
        node.state_.store(done, std::memory_order_release);
        node.drop_ref();
      }
    } end{node};
    try {
      node.kind_->call(node);
    } catch (const KeyboardInterrupt&) {
      throw;
    } catch (const CancelledError& error) {
      node.report_failure("CancelledError " + error.message());
    } catch (...) {
      node.report_failure({});
    }
  } else {
    node.drop_ref();
  }
}

void CallbackNode::run_in_context(void* leaf) {
  auto& node = *static_cast<CallbackNode*>(static_cast<FrameHeader*>(leaf));
  node.home->current = nullptr;
  const CellRef cell = CellRef::share(node.context());
  const ContextScope scope(word_for(*cell));
  run(leaf);
}

void CallbackNode::drop_ref_otherwise() noexcept {
  if (is_threadsafe()) {
    if (refs_.fetch_sub(1, std::memory_order_acq_rel) != 1) return;
  } else {
    const std::uint32_t left = refs_.load(std::memory_order_relaxed) - 1;
    refs_.store(left, std::memory_order_relaxed);
    if (left != 0) return;
  }
  if ((ways_ & way_context) == 0) return free(*this);
  if (state_.load(std::memory_order_acquire) == pending) kind_->drop(*this);
  (*cell_place())->drop_ref();
  const std::size_t bytes = kind_->bytes + sizeof(ContextCell*);
  this->~CallbackNode();
  free_frame(this, bytes);
}

void CallbackNode::report_failure(const std::string& detail) noexcept {
  try {
    ExceptionContext context;
    context.message = detail.empty() ? "Exception in callback" : "Exception in callback: " + detail;
    context.exception = std::current_exception();
    context.created = site;
    report_error(*home, context);
  } catch (...) {
    print_error(ExceptionContext());
  }
}

void CallbackNode::cancel() noexcept {
  if (!begin(cancelled)) return;
  if (is_threadsafe() && running_state() != home) {
    kind_->drop(*this);  // the loop will find it cancelled
    return;
  }
  if (timer.armed()) {
    disarm_timer(*home, timer);
    kind_->drop(*this);
    drop_ref();  // the loop's: it will not meet the node again
    return;
  }
  kind_->drop(*this);
}

void CallbackNode::abandon() noexcept {
  if (begin(cancelled)) kind_->drop(*this);
  drop_ref();
}

void CallbackNode::free(CallbackNode& node) noexcept {
  // Not run and not cancelled: the loop went away with it.
  if (node.state_.load(std::memory_order_acquire) == pending) node.kind_->drop(node);
  const std::uint32_t bytes = node.kind_->bytes;
  node.~CallbackNode();
  free_frame(&node, bytes);
}

// ---- Done-callbacks ----

void notify_done_waiter(Waiter& self, FutureState& done) noexcept {
  auto& waiter = static_cast<DoneWaiter&>(self);
  LoopState& home = *waiter.node->home;
  if (!done.done() || home.closed) {
    waiter.node->abandon();
    return;
  }
  add_ref(done);
  waiter.future = &done;
  CallbackNode& node = *waiter.node;
  if (OURO_LIKELY(!done.has(flag_shared)) || running_loop == &home) {
    home.ready.push_back(node);
  } else if (!post_to(home, node)) {
    node.abandon();
  }
}

LoopState& callback_home(FutureState& state) noexcept {
  LoopState* here = running_state();
  return state.has(flag_shared) && here && here->worker ? *here : home_of(state);
}

namespace {

// In a group several threads add callbacks to one future.
std::uint64_t new_callback_number(FutureState& state) noexcept {
  if (!state.has(flag_shared)) return ++state.home->last_callback;
  static Atomic<std::uint64_t> last{0};
  return last.fetch_add(1, std::memory_order_relaxed) + 1;
}

}  // namespace

CallbackToken add_done_waiter(FutureState& state, DoneWaiter& waiter, CallbackNode& node) {
  waiter.notify = &notify_done_waiter;
  waiter.node = &node;
  waiter.id = new_callback_number(state);
  const CallbackToken token{waiter.id};
  if (home_of(state).closed) {
    node.abandon();
    throw RuntimeError("Event loop is closed");
  }
  if (state.has(flag_shared) ? !link_shared_waiter(state, waiter) : state.done()) {
    waiter.next = waiter.prev = nullptr;
    notify_done_waiter(waiter, state);
  } else if (!state.has(flag_shared)) {
    link_waiter(state, waiter);
  }
  return token;
}

namespace {

// Takes one callback out, and gives it; nullptr if none is left that has the token, or the function.
DoneWaiter* take_done_waiter(FutureState& state, CallbackToken token, void (*function)()) noexcept {
  RecordLock lock(state);
  Waiter* waiter = state.done() ? nullptr : state.waiters;
  for (; waiter; waiter = waiter->next == state.waiters ? nullptr : waiter->next) {
    if (waiter->notify != &notify_done_waiter) continue;
    auto& candidate = static_cast<DoneWaiter&>(*waiter);
    if (function ? candidate.function != function : candidate.id != token.id) continue;
    unlink_waiter(state, candidate);
    return &candidate;
  }
  return nullptr;
}

}  // namespace

std::size_t remove_done_waiters(FutureState& state, CallbackToken token, void (*function)()) noexcept {
  std::size_t removed = 0;
  if (OURO_UNLIKELY(state.has(flag_shared))) {
    while (DoneWaiter* taken = take_done_waiter(state, token, function)) {
      taken->node->abandon();
      ++removed;
      if (!function) break;
    }
    return removed;
  }
  Waiter* waiter = state.done() ? nullptr : state.waiters;
  while (waiter) {
    Waiter* next = waiter->next == state.waiters ? nullptr : waiter->next;
    if (waiter->notify == &notify_done_waiter) {
      auto& candidate = static_cast<DoneWaiter&>(*waiter);
      if (function ? candidate.function == function : candidate.id == token.id) {
        unlink_waiter(state, candidate);
        candidate.node->abandon();  // destroys the callable, which may change the list; a plain function does not
        if (!function) return 1;
        ++removed;
      }
    }
    waiter = next;
  }
  return removed;
}

// ---- Checks ----

void throw_uninitialised() {
  throw RuntimeError("Future object is not initialized.", "make it with loop.create_future() or create_task()");
}

void throw_already_done(const FutureState&) {
  throw InvalidStateError("invalid state", "a future can be ended once: ask done() first");
}

void check_thread(const LoopState& home, const char* operation) {
  const LoopState* running = running_state();
  if (running && running->worker && home.worker && &running->worker->group == &home.worker->group) return;
  if (running == &home || !home.loop || !home.loop->is_running()) return;
  throw RuntimeError(
      std::string("Non-thread-safe operation invoked on an event loop other than the current one: ") + operation,
      "from another thread use call_soon_threadsafe");
}

void check_settable(FutureState& state, const char* operation) {
  if (home_of(state).debug) check_thread(home_of(state), operation);
  if (OURO_UNLIKELY(state.has(flag_task))) {
    throw RuntimeError(std::string("Task does not support ") + operation + " operation");
  }
  if (OURO_UNLIKELY(state.done())) throw_already_done(state);
  if (OURO_UNLIKELY(state.has(flag_shared))) {
    if (!claim(state)) throw_already_done(state);
    return;
  }
  if (OURO_UNLIKELY(state.home->closed && state.waiters && !state.home->closing))
    throw RuntimeError("Event loop is closed");
}

void give_claim_back(FutureState& state) noexcept {
  if (state.has(flag_shared)) unclaim(state);
}

BaseEventLoop& loop_of(FutureState& state) {
  LoopState& home = home_of(state);
  if (!home.loop) throw RuntimeError("the loop of this future is destroyed");
  return *home.loop;
}

// ---- Awaiting ----

const WaiteeKind FutureAwaiterBase::future_kind{
    // Only asked of a task in a ring of tasks that wait for each other: elsewhere what is awaited is cancelled instead.
    [](Waitee& waitee, FutureState& task, const std::string&) noexcept {
      auto& self = static_cast<FutureAwaiterBase&>(waitee);
      if (self.future_.get()->has(flag_shared)) {
        if (!unlink_shared_waiter(*self.future_.get(), self)) return false;  // it is done, and about to tell
      } else {
        unlink_waiter(*self.future_.get(), self);
      }
      task.set(flag_deliver_cancel);
      wake(task);
      return true;
    },
    [](const Waitee& self) noexcept { return static_cast<const FutureAwaiterBase&>(self).future_.get(); }, nullptr,
    "future"};

bool FutureAwaiterBase::waits_for(const Waiter& waiter, const FutureState& task) noexcept {
  return waiter.notify == &resumed && static_cast<const FutureAwaiterBase&>(waiter).task_ == &task;
}

void FutureAwaiterBase::resumed(Waiter& self, FutureState& done) noexcept {
  FutureState& task = *static_cast<FutureAwaiterBase&>(self).task_;
  if (OURO_UNLIKELY(done.has(flag_shared))) return wake_shared(task);
  if (OURO_LIKELY(!task.home->closed)) wake(task);
}

void FutureAwaiterBase::forward_due_cancel(FutureState& task) noexcept {
  const bool shared = task.has(flag_shared);
  if (detail::cancel(*future_.get(), cancel_message_of(task))) {
    if (!shared) task.clear(flag_must_cancel);
  } else if (shared) {
    task.set(flag_must_cancel);
  }
}

}  // namespace detail

bool AnyFuture::cancel(std::string message) {
  detail::FutureState& state = handle_.state();
  if (detail::LoopState& home = detail::home_of(state); home.debug) detail::check_thread(home, "cancel");
  return detail::cancel(state, message);
}

std::exception_ptr AnyFuture::exception() const {
  detail::FutureState& state = handle_.state();
  if (!state.done()) throw InvalidStateError("Exception is not set.", "await the future, or ask done() first");
  state.clear(detail::flag_unretrieved);
  if (state.outcome() == detail::outcome_value) return nullptr;
  if (state.outcome() == detail::outcome_cancelled) detail::throw_no_value(state);
  return detail::exception_of(state);
}

std::size_t AnyFuture::remove_done_callback(CallbackToken token) {
  return detail::remove_done_waiters(handle_.state(), token, nullptr);
}

}  // namespace ouro
