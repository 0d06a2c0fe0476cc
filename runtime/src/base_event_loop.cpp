// One turn of the loop, and the loop's life.
//
// A turn
//   1. look: let the parker submit and reap; move due timers to `events_`, what other threads sent to `injected_`. If
//      nothing at all is ready: spin, then park until the next deadline, and look again.
//   2. run exactly what was ready when the turn began (`batch`); what becomes ready meanwhile waits for the next turn.
//   3. run `events_` and `injected_`.
// A turn that begins with work and with budget left skips the look: a lone task that yields costs no clock reading and
// no look at the ring.
//
// Fairness. After every `looks_every` runs the loop looks in the middle of a batch, and runs what the look found, at
// most `looks_every` of each kind, before it goes on with the batch. So with any number of ready tasks a due timer, a
// completed operation and a posted callback get their turn within 61 runs of each kind. A gather's runner takes part:
// it counts its children against the budget and queues itself at the front of the batch again.
//
// Sleeping. The inbox word decides (see LoopState::inbox): the loop exchanges nullptr for asleep(), and does not sleep
// if that fails; a poster that replaces asleep() unparks, which is latched, so that it does not matter whether the loop
// is inside park() yet. Before it parks, the loop spins on the parker and the inbox, for as long as that has paid
// lately.
#include <ouro/runtime/base_event_loop.hpp>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <thread>
#include <typeinfo>

#include <ouro/runtime/detail/gather_state.hpp>
#include <ouro/runtime/detail/generator_state.hpp>
#include <ouro/runtime/exceptions.hpp>

#include "drive.hpp"
#include "report.hpp"
#include "timer_wheel.hpp"

namespace ouro {
namespace {

constexpr std::uint32_t looks_every = 61;
constexpr std::chrono::nanoseconds default_spin = std::chrono::microseconds(50);
constexpr std::chrono::nanoseconds shortest_spin = std::chrono::microseconds(2);
constexpr std::uint32_t timer_of_task = 0;
constexpr std::uint32_t timer_of_callback = 1;

bool debug_from_environment() noexcept {
  const char* value = std::getenv("OURO_DEBUG");
  return value && *value != '\0' && !(value[0] == '0' && value[1] == '\0');
}

// Of a task; harmless for anything else, and for nullptr.
inline void prefetch_frame(const detail::ReadyNode* node) noexcept {
  __builtin_prefetch(
      reinterpret_cast<const void*>(reinterpret_cast<std::uintptr_t>(node) - sizeof(detail::FrameHeader)));
}

void pause() noexcept {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace

namespace detail {

// ---- Posting
// ----------------------------------------------------------------------------------------------------------

bool post_to(LoopState& loop, ReadyNode& node) noexcept {
  bool counted = false;
  ReadyNode* seen = loop.inbox.load(std::memory_order_relaxed);
  for (;;) {
    if (seen == shut()) {
      if (counted) loop.posters.fetch_sub(1, std::memory_order_release);
      return false;
    }
    if (seen == asleep() && !counted) {
      loop.posters.fetch_add(1, std::memory_order_relaxed);  // ordered by the exchange below
      counted = true;
    }
    node.next = seen == asleep() ? nullptr : seen;
    // Release: the loop sees the node as it was made (pairs with the acquire in take_inbox and close). A success that
    // replaces asleep() also publishes `posters`.
    if (loop.inbox.compare_exchange_weak(seen, &node, std::memory_order_release, std::memory_order_relaxed)) break;
  }
  if (counted) {
    if (seen == asleep()) loop.parker->unpark();
    loop.posters.fetch_sub(1, std::memory_order_release);  // pairs with the acquire in ~BaseEventLoop
  }
  return true;
}

void release_loop_state(LoopState& home) noexcept {
  if (!home.loop) delete &home;
}

// ---- Timers
// -------------------------------------------------------------------------------------------------------------

void arm_sleep_until(FutureState& task, TimerNode& timer, TimePoint deadline) noexcept {
  LoopState& home = *task.home;
  const TimePoint now = home.clock->now();
  timer.deadline = deadline;
  timer.kind = timer_of_task;
  home.timers->insert(timer, now);
  if (deadline <= now) home.attention = true;
}

void arm_sleep(FutureState& task, TimerNode& timer, Duration delay) noexcept {
  LoopState& home = *task.home;
  const TimePoint now = home.clock->now();
  timer.deadline = saturating_add(now, delay);
  timer.kind = timer_of_task;
  home.timers->insert(timer, now);
}

void disarm(LoopState& home, TimerNode& timer) noexcept { home.timers->cancel(timer); }
void disarm_timer(LoopState& home, TimerNode& timer) noexcept { home.timers->cancel(timer); }

void throw_nan_delay() { throw ValueError("Invalid delay: NaN (not a number)"); }

}  // namespace detail

// ---- Life
// ---------------------------------------------------------------------------------------------------------------

BaseEventLoop::BaseEventLoop(std::unique_ptr<Parker> parker, const Clock& clock)
    : state_(new detail::LoopState),
      parker_(std::move(parker)),
      spin_longest_(std::thread::hardware_concurrency() > 1 ? default_spin : std::chrono::nanoseconds(0)),
      spin_now_(spin_longest_) {
  state_->loop = this;
  state_->clock = &clock;
  state_->parker = parker_.get();
  set_debug(debug_from_environment());
  try {
    state_->timers = new detail::TimerWheel;
  } catch (...) {
    delete state_;
    throw;
  }
}

BaseEventLoop::~BaseEventLoop() {
  if (!running_) BaseEventLoop::close();
  while (state_->posters.load(std::memory_order_acquire) != 0) std::this_thread::yield();
  delete state_->timers;
  state_->timers = nullptr;
  state_->parker = nullptr;
  state_->loop = nullptr;
  if (state_->live == 0) delete state_;
}

void BaseEventLoop::throw_closed() {
  throw RuntimeError("Event loop is closed", "make a new loop with new_event_loop()");
}

void BaseEventLoop::check_runnable() const {
  check_open();
  if (running_) throw RuntimeError("This event loop is already running");
  if (detail::running_state()) throw RuntimeError("Cannot run the event loop while another loop is running");
}

void BaseEventLoop::stop() noexcept {
  stopping_ = true;
  state_->attention = true;
}

namespace {

// A callback or an errand that came back, which is let go of; tasks and gathers are buried elsewhere.
void let_go(detail::ReadyNode& node) noexcept {
  auto* header = static_cast<detail::FrameHeader*>(node.leaf);
  if (detail::CallbackNode::is_one(*header)) {
    static_cast<detail::CallbackNode*>(header)->abandon();
  } else if (detail::Errand* errand = detail::Errand::of(node)) {
    errand->discard();
  }
}

}  // namespace

void BaseEventLoop::drop_callbacks() noexcept {
  for (detail::ReadyQueue* queue : {&state_->batch, &state_->ready, &events_, &injected_}) {
    while (!queue->empty()) let_go(*queue->pop_front());
  }
  while (detail::TimerNode* timer = state_->timers->pop_any()) {
    if (timer->kind == timer_of_callback) let_go(*timer->target);
  }
}

void BaseEventLoop::destroy_tasks() noexcept {
  std::size_t pending = 0;
  ExceptionContext context;
  for (detail::FutureState* task = state_->tasks; task; task = task->link.next) {
    ++pending;
    if (!task->link.next) {
      try {
        context.task = detail::name_of(*task);
        context.created = task->created;
      } catch (...) {
        context.task.clear();
      }
    }
  }
  if (pending != 0) {
    try {
      context.message = pending == 1
                            ? "Task was destroyed but it is pending!"
                            : std::to_string(pending) + " tasks were destroyed but they are pending! The first:";
    } catch (...) {
      context.message.clear();
    }
    call_exception_handler(context);
  }
  while (detail::FutureState* task = state_->tasks) {
    state_->tasks = task->link.next;
    task->clear(detail::flag_linked);
    detail::bury(*state_, *task);
  }
}

void BaseEventLoop::close() {
  if (running_)
    throw RuntimeError("Cannot close a running event loop", "stop() it, and close it when run_* has returned");
  if (state_->closed) return;
  state_->closed = true;
  detail::update_special(*state_);
  detail::LoopState* outer = detail::set_running_state(nullptr);
  take_inbox(state_->inbox.exchange(detail::shut(), std::memory_order_acquire));
  drop_callbacks();
  destroy_tasks();
  drop_callbacks();
  detail::drop_asyncgens(*state_);
  detail::drop_errands(*state_);
  if (std::shared_ptr<Executor> executor = std::exchange(executor_, nullptr)) {
    try {
      executor->shutdown(false, false);
    } catch (...) {
      ExceptionContext context;
      context.message = "the executor could not be shut down";
      context.exception = std::current_exception();
      call_exception_handler(context);
    }
  }
  executor_shut_down_ = true;
  detail::set_running_state(outer);
}

// ---- Running
// ------------------------------------------------------------------------------------------------------------

void BaseEventLoop::run_forever() {
  check_runnable();
  struct Running {
    BaseEventLoop& loop;
    explicit Running(BaseEventLoop& l) : loop(l) {
      loop.running_ = true;
      loop.state_->running = true;
      detail::set_running_state(loop.state_);
    }
    ~Running() {
      loop.running_ = false;
      loop.state_->running = false;
      loop.stopping_ = false;
      loop.state_->current = nullptr;
      loop.state_->budget = 0;
      detail::set_running_state(nullptr);
    }
  } running(*this);
  run_turns();
}

void BaseEventLoop::run_turns() {
  detail::LoopState& s = *state_;
  do {
    if (s.budget == 0 || s.attention || s.ready.empty()) look();
    run_batch();
  } while (!stopping_);
  if (s.interrupt) std::rethrow_exception(std::exchange(s.interrupt, nullptr));
}

void BaseEventLoop::run_batch() {
  detail::LoopState& s = *state_;
  s.batch.splice_back(s.ready);
  for (;;) {
    while (!s.batch.empty()) {
      detail::ReadyNode* node = s.batch.pop_front();
      prefetch_frame(node->next);
      if (OURO_UNLIKELY(s.debug)) {
        run_node_debug(*node);
      } else {
        s.current = static_cast<detail::FutureState*>(node);
        detail::drive_inline(node->leaf);
      }
      if (--s.budget == 0) break;
    }
    const bool finished = s.batch.empty();
    if (!finished) look();
    if (!events_.empty()) run_some(events_, looks_every);
    if (!injected_.empty()) run_some(injected_, looks_every);
    if (finished) return;
  }
}

void BaseEventLoop::run_some(detail::ReadyQueue& queue, std::uint32_t most) {
  detail::LoopState& s = *state_;
  for (; most != 0 && !queue.empty(); --most) {
    detail::ReadyNode* node = queue.pop_front();
    prefetch_frame(node->next);
    if (OURO_UNLIKELY(s.debug)) {
      run_node_debug(*node);
    } else {
      s.current = static_cast<detail::FutureState*>(node);
      detail::drive_inline(node->leaf);
    }
  }
}

void BaseEventLoop::run_node_debug(detail::ReadyNode& node) {
  detail::LoopState& s = *state_;
  auto* header = static_cast<detail::FrameHeader*>(node.leaf);
  const bool callback = detail::CallbackNode::is_one(*header);
  std::string what;
  ExceptionContext context;
  if (callback) {
    context.created = static_cast<detail::CallbackNode*>(header)->site;
    what = "callback";
  } else if (!detail::Errand::of(node) && !detail::GatherState::is_runner(*header)) {
    auto& task = static_cast<detail::FutureState&>(node);
    context.created = task.created;
    context.task = detail::name_of(task);
    what = "task";
  }
  const TimePoint began = time();
  s.current = static_cast<detail::FutureState*>(&node);
  detail::drive_inline(node.leaf);
  const auto took = time() - began;
  if (took < slow_callback_duration || what.empty()) return;
  const auto ms = std::chrono::duration_cast<std::chrono::microseconds>(took).count();
  context.message = "Executing " + what + " took " + std::to_string(ms / 1000) + "." +
                    std::to_string(ms % 1000 + 1000).substr(1) + " ms";
  call_exception_handler(context);
}

void BaseEventLoop::look() {
  detail::LoopState& s = *state_;
  ++counters_.looks;
  s.current = nullptr;
  s.budget = looks_every;
  s.attention = false;
  if (OURO_UNLIKELY(interrupted_.load(std::memory_order_relaxed))) {
    interrupted_.store(false, std::memory_order_relaxed);
    if (interrupt_handler_) interrupt_handler_();
  }
  if (OURO_UNLIKELY(s.interrupt != nullptr)) std::rethrow_exception(std::exchange(s.interrupt, nullptr));

  // What the parker completes is kept apart from what was ready before.
  struct Apart {
    detail::LoopState& s;
    detail::ReadyQueue& events;
    detail::ReadyQueue ready;
    Apart(detail::LoopState& state, detail::ReadyQueue& queue) : s(state), events(queue), ready(state.ready) {
      s.ready = detail::ReadyQueue();
    }
    ~Apart() {
      events.splice_back(s.ready);
      s.ready = ready;
    }
  } apart(s, events_);
  parker_->poll();
  fire_timers();
  if (s.inbox.load(std::memory_order_relaxed)) take_inbox(s.inbox.exchange(nullptr, std::memory_order_acquire));
  if (apart.ready.empty() && s.ready.empty() && s.batch.empty() && events_.empty() && injected_.empty() && !stopping_) {
    wait_for_work();
    fire_timers();
  }
}

void BaseEventLoop::wait_for_work() {
  detail::LoopState& s = *state_;
  const TimePoint deadline = s.timers->next_deadline();
  if (spin(deadline)) {
    ++counters_.spins;
    if (s.inbox.load(std::memory_order_relaxed)) take_inbox(s.inbox.exchange(nullptr, std::memory_order_acquire));
    return;
  }
  detail::ReadyNode* seen = nullptr;
  // Release and acquire: pairs with posters on both sides; see LoopState::inbox.
  if (s.inbox.compare_exchange_strong(seen, detail::asleep(), std::memory_order_acq_rel, std::memory_order_relaxed)) {
    ++counters_.parks;
    const TimePoint before = spin_longest_.count() != 0 ? time() : TimePoint();
    try {
      parker_->park(deadline);
    } catch (...) {
      take_inbox(s.inbox.exchange(nullptr, std::memory_order_acquire));
      throw;
    }
    if (spin_longest_.count() != 0) {
      const TimePoint now = time();
      if (now < deadline && now - before < 2 * spin_longest_) spin_now_ = spin_longest_;  // a spin would have paid
    }
  }
  take_inbox(s.inbox.exchange(nullptr, std::memory_order_acquire));
}

bool BaseEventLoop::spin(TimePoint deadline) {
  if (spin_now_ < shortest_spin) return false;
  detail::LoopState& s = *state_;
  const TimePoint end = std::min(deadline, detail::saturating_add(time(), spin_now_));
  for (unsigned round = 0;; ++round) {
    if (s.inbox.load(std::memory_order_relaxed) || interrupted_.load(std::memory_order_relaxed) || parker_->poll() ||
        !s.ready.empty()) {
      spin_now_ = spin_longest_;
      return true;
    }
    for (int i = 0; i < 16; ++i) pause();
    if (time() >= end) break;
    if (round % 8 == 7) std::this_thread::yield();  // who is to wake us may share this processor
  }
  if (deadline <= end) return true;
  spin_now_ /= 2;
  return false;
}

void BaseEventLoop::take_inbox(detail::ReadyNode* newest) noexcept {
  if (!newest || newest == detail::asleep() || newest == detail::shut()) return;
  ++counters_.posts;
  detail::ReadyNode* oldest = nullptr;
  while (newest) {
    detail::ReadyNode* next = newest->next;
    newest->next = oldest;
    oldest = newest;
    newest = next;
  }
  while (oldest) {
    detail::ReadyNode* next = oldest->next;
    injected_.push_back(*oldest);
    oldest = next;
  }
}

void BaseEventLoop::fire_timers() noexcept {
  detail::LoopState& s = *state_;
  if (s.timers->size() == 0) return;
  const TimePoint now = time();
  std::uint32_t left = looks_every;
  while (detail::TimerNode* timer = s.timers->pop_due(now)) {
    if (timer->kind == timer_of_task) {
      static_cast<detail::FutureState*>(timer->target)->waiting_on = nullptr;
    }
    events_.push_back(*timer->target);
    if (--left == 0) break;
  }
}

void BaseEventLoop::run_until_done(detail::FutureState& state) {
  if (state.home != state_)
    throw ValueError("The future belongs to a different loop than the one specified as the loop argument");
  struct Stop : detail::Waiter {
    explicit Stop(BaseEventLoop& loop) {
      next = prev = nullptr;
      auto callback = [&loop] { loop.stop(); };
      using Node = detail::TypedCallbackNode<decltype(callback)>;
      node = Node::make(loop.state(), std::source_location(), false, callback);
      notify = [](detail::Waiter& self, detail::FutureState& done) noexcept {
        auto& stop = static_cast<Stop&>(self);
        stop.node->add_ref();
        done.home->ready.push_back(*stop.node);
      };
    }
    ~Stop() {
      node->cancel();
      node->drop_ref();
    }
    detail::CallbackNode* node;
  } stop(*this);
  if (state.done()) {
    stop.notify(stop, state);
  } else {
    detail::link_waiter(state, stop);
  }
  struct Unlink {
    Stop& stop;
    detail::FutureState& state;
    ~Unlink() {
      if (stop.next) detail::unlink_waiter(state, stop);
    }
  } unlink{stop, state};
  try {
    run_forever();
  } catch (...) {
    if (state.done()) state.clear(detail::flag_unretrieved);  // the caller hears of the other exception
    throw;
  }
  if (!state.done()) throw RuntimeError("Event loop stopped before Future completed.");
}

// ---- Callbacks
// ------------------------------------------------------------------------------------------------------------

bool BaseEventLoop::post(detail::ReadyNode& node) noexcept { return detail::post_to(*state_, node); }

void BaseEventLoop::arm(detail::CallbackNode& node, TimePoint when) noexcept {
  node.when = when;
  node.timer.deadline = when;
  node.timer.target = &node;
  node.timer.kind = timer_of_callback;
  const TimePoint now = time();
  state_->timers->insert(node.timer, now);
  if (when <= now) state_->attention = true;
}

void BaseEventLoop::raise_interrupt() noexcept {
  interrupted_.store(true, std::memory_order_relaxed);
  parker_->unpark();
}

void BaseEventLoop::set_spin(std::chrono::nanoseconds longest) noexcept {
  spin_longest_ = std::max(longest, std::chrono::nanoseconds(0));
  spin_now_ = spin_longest_;
}

// ---- Tasks, executors ----------------------------------------------------------------------------------------------

void BaseEventLoop::set_task_factory(TaskFactory factory) {
  using Plain = void (*)(BaseEventLoop&, AnyTask, TaskOptions&);
  const Plain* plain = factory.target<Plain>();
  state_->eager = plain && *plain == &eager_task_factory;
  state_->has_factory = factory && !state_->eager;
  detail::update_special(*state_);
  factory_ = std::move(factory);
}

void BaseEventLoop::set_default_executor(std::shared_ptr<Executor> executor) {
  if (!executor) throw ValueError("set_default_executor: the executor is null");
  executor_ = std::move(executor);
}

Executor& BaseEventLoop::default_executor() {
  if (executor_shut_down_) throw RuntimeError("Executor shutdown has been called");
  if (!executor_) executor_ = std::make_shared<ThreadPoolExecutor>();
  return *executor_;
}

std::shared_ptr<Executor> BaseEventLoop::take_default_executor() noexcept {
  executor_shut_down_ = true;
  return std::exchange(executor_, nullptr);
}

}  // namespace ouro
