// The parts of FutureState that are no templates: completion, cancellation, destruction.
#include <ouro/runtime/detail/core.hpp>

#include <cxxabi.h>
#include <pthread.h>

#include <cstdio>
#include <cstring>
#include <typeinfo>
#include <utility>

#include <ouro/runtime/base_event_loop.hpp>
#include <ouro/runtime/detail/context_state.hpp>
#include <ouro/runtime/detail/gather_state.hpp>
#include <ouro/runtime/detail/result.hpp>
#include <ouro/runtime/events.hpp>
#include <ouro/runtime/exceptions.hpp>

#include "drive.hpp"
#include "report.hpp"
#include "shared.hpp"
#include "worker.hpp"

ouro::CancelledError::CancelledError(detail::FutureState& task) noexcept : message_(detail::cancel_message_of(task)) {}

namespace ouro::detail {

constinit thread_local void* transfer_slot = nullptr;
constinit thread_local LoopState* running_loop = nullptr;
constinit thread_local LoopState* group_loop = nullptr;

namespace {

constinit thread_local LoopState* driven_loop = nullptr;  // by run_forever on this thread

void destroy_frame(void* frame) noexcept { std::coroutine_handle<>::from_address(frame).destroy(); }

}  // namespace

void set_transfer_slot(void* frame) noexcept {
  // Occupied: the caller resumed another coroutine by hand, and that one's transfer has not happened yet. It happens
  // now, inside the caller, as it would have where transfers are tail calls.
  if (OURO_UNLIKELY(transfer_slot != nullptr)) drive_inline(std::exchange(transfer_slot, nullptr));
  transfer_slot = frame;
}

OURO_NOINLINE LoopState* running_state() noexcept { return running_loop; }

// A process that was forked inside a loop has none that runs: it may make its own, as asyncio has it.
LoopState* set_running_state(LoopState* loop) noexcept {
  static const int watched = ::pthread_atfork(nullptr, nullptr, [] { running_loop = group_loop = nullptr; });
  static_cast<void>(watched);
  driven_loop = loop;
  group_loop = loop && loop->worker ? loop : nullptr;
  return std::exchange(running_loop, loop);
}

void drive_transferred() { drive_inline(std::exchange(transfer_slot, nullptr)); }

LoopState& require_running() {
  LoopState* loop = running_state();
  if (!loop) throw RuntimeError("no running event loop", "call it from a coroutine or callback that a loop runs");
  return *loop;
}

FutureState& require_task(const char* operation) {
  FutureState* task = require_running().current;
  if (!task) throw RuntimeError(std::string(operation) + " should be used inside a task");
  return *task;
}

void throw_awaited_twice() {
  throw RuntimeError("cannot reuse already awaited coroutine",
                     "call the coroutine function again, or make a task and await that several times");
}

std::exception_ptr no_result_error() noexcept {
  return std::make_exception_ptr(RuntimeError("the coroutine ended without co_return of its value"));
}

void throw_no_result() { std::rethrow_exception(no_result_error()); }

void throw_shared_result() {
  throw RuntimeError("the result can only be moved, and another handle to the task exists",
                     "await the last handle, or await an lvalue to get a reference");
}

// ---- The list of waiters ----

void link_waiter(FutureState& state, Waiter& waiter) noexcept {
  Waiter* first = state.waiters;
  if (!first) {
    waiter.next = waiter.prev = &waiter;
    state.waiters = &waiter;
    return;
  }
  waiter.next = first;
  waiter.prev = first->prev;
  first->prev->next = &waiter;
  first->prev = &waiter;
}

void unlink_waiter(FutureState& state, Waiter& waiter) noexcept {
  if (waiter.next == &waiter) {
    state.waiters = nullptr;
  } else {
    waiter.prev->next = waiter.next;
    waiter.next->prev = waiter.prev;
    if (state.waiters == &waiter) state.waiters = waiter.next;
  }
  waiter.next = waiter.prev = nullptr;
}

void notify_waiters(FutureState& state) noexcept {
  while (Waiter* waiter = state.waiters) {
    unlink_waiter(state, *waiter);
    waiter->notify(*waiter, state);
  }
}

// ---- Names ----

Rare& rare_of(FutureState& state) {
  if (Rare* rare = rare_if(state); rare && state.rare != 0) return *rare;
  auto* rare = new Rare;
  rare->number = static_cast<std::uint32_t>(state.rare >> 1);
  // Release: pairs with the acquire of a child that looks for its context (src/contextvars.cpp).
  __atomic_store_n(&state.rare, reinterpret_cast<std::uintptr_t>(rare), __ATOMIC_RELEASE);
  if (state.has(flag_shared) && !is_private(state)) {
    __atomic_fetch_or(&state.cancel_word, word_belongings, __ATOMIC_RELAXED);
  } else {
    state.set(flag_belongings);
  }
  return *rare;
}

void drop_belongings(FutureState& state) noexcept {
  if (state.outcome() == outcome_exception) exception_of(state).~exception_ptr();
  delete_rare(state);
}

void* Rare::operator new(std::size_t bytes) { return allocate_frame(bytes); }
void Rare::operator delete(void* memory, std::size_t bytes) noexcept { free_frame(memory, bytes); }
void Rare::drop_context() noexcept { drop_context_word(context); }

void delete_rare(FutureState& state) noexcept {
  if (state.rare != 0) delete rare_if(state);
  state.rare = 0;
}

std::string name_of(FutureState& state) {
  MaybeLock lock(state);
  const Rare* rare = state.rare ? rare_if(state) : nullptr;
  if (rare && rare->named) return rare->name;
  std::uint32_t number = rare ? rare->number : static_cast<std::uint32_t>(state.rare >> 1);
  if (number == 0) {
    number = new_number(home_of(state));
    if (state.rare) {
      rare_of(state).number = number;
    } else {
      __atomic_store_n(&state.rare, std::uintptr_t{number} << 1 | 1, __ATOMIC_RELAXED);  // a child may look
    }
  }
  return "Task-" + std::to_string(number);
}

void set_name(FutureState& state, std::string_view name) {
  MaybeLock lock(state);
  Rare& rare = rare_of(state);
  rare.name = name;
  rare.named = true;
}

// ---- Becoming and being a task ----

void count_record(LoopState& home) noexcept {
  if (OURO_UNLIKELY(home.worker != nullptr)) return count_record_in_group(home);
  ++home.live;
}

void link_task(FutureState& state) noexcept {
  LoopState& home = *state.home;
  state.link.prev = nullptr;
  state.link.next = home.tasks;
  if (home.tasks) home.tasks->link.prev = &state;
  home.tasks = &state;
  state.set(flag_linked);
}

namespace {

void unlink_task(FutureState& state) noexcept {
  LoopState& home = *state.home;
  (state.link.prev ? state.link.prev->link.next : home.tasks) = state.link.next;
  if (state.link.next) state.link.next->link.prev = state.link.prev;
  state.clear(flag_linked);
}

}  // namespace

namespace {

void end_unstarted(void*);

// A task whose leaf a canceller on another thread cannot replace.
bool is_cancelled_unstarted(FutureState& task) noexcept {
  {
    RecordLock lock(task);
    if (lock.word() & word_due) {
      lock.clear(word_due);
      return true;
    }
  }
  if (!task.floating()) return false;
  Worker* worker = home_of(task).worker;
  return worker->group.unstarted_cancelled.load(std::memory_order_relaxed);
}

// The leaf of a task that has not run: from here on it has started.
void begin_task(void*) {
  FutureState& state = *driven_loop->current;
  if (OURO_UNLIKELY(state.has(flag_shared)) && is_cancelled_unstarted(state)) return end_unstarted(nullptr);
  state.set(flag_started);
  state.leaf = state.frame();
  std::coroutine_handle<>::from_address(state.leaf).resume();
}

}  // namespace

constinit const FrameHeader first_step{&begin_task, nullptr};

void retire(FutureState& state) noexcept;

void settle(FutureState& state) noexcept {
  if (OURO_UNLIKELY(state.has(flag_shared))) return settle_shared(state);
  if (state.outcome() == outcome_exception) state.set(flag_unretrieved);
  state.set(flag_done);
  notify_waiters(state);
}

bool complete(FutureState& state) noexcept {
  if (OURO_UNLIKELY(state.has(flag_shared))) return complete_shared(state);
  if (state.outcome() == outcome_exception) state.set(flag_unretrieved);
  state.set(flag_done);
  if (state.waiters) notify_waiters(state);
  if (state.has(flag_linked)) unlink_task(state);
  if (--state.refs != 0) return false;
  retire(state);
  state.home->current = nullptr;  // the frame goes, and the destructors of its arguments may ask
  return true;
}

bool same_group(const FutureState& a, const FutureState& b) noexcept {
  const Worker* one = home_of(a).worker;
  const Worker* other = home_of(b).worker;
  return one && other && &one->group == &other->group;
}

void prepare_await(FutureState& task, FutureState& awaited) {
  if (OURO_UNLIKELY(&task == &awaited)) {
    throw RuntimeError("Task cannot await on itself: " + name_of(task));
  }
  if (OURO_UNLIKELY(&home_of(task) != &home_of(awaited)) && !same_group(task, awaited)) {
    throw RuntimeError("Task " + name_of(task) + " got a future attached to a different loop",
                       "await it on its own loop, or use run_coroutine_threadsafe and wrap_future");
  }
}

namespace {

// What it throws comes out of the run as its result.
bool is_main_of_group(const FutureState& state) noexcept {
  const Worker* worker = home_of(state).worker;
  return worker && worker->group.main.load(std::memory_order_relaxed) == &state;
}

}  // namespace

bool caught_cancellation(FutureState& state) noexcept {
  const std::type_info* type = abi::__cxa_current_exception_type();
  if (!type) return false;
  if (*type == typeid(CancelledError)) {
    if (state.has(flag_nested)) return true;
    // The message is read through the pointer that an exception_ptr is; rethrowing to read it would cost 1 us.
    const std::exception_ptr exception = std::current_exception();
    const CancelledError* error = nullptr;
    static_assert(sizeof(exception) == sizeof(error));
    std::memcpy(&error, &exception, sizeof(error));
    try {
      MaybeLock lock(state);
      if (!error->message().empty()) {
        rare_of(state).cancel_message = error->message();
      } else if (const Rare* rare = state.rare ? rare_if(state) : nullptr; rare && !rare->cancel_message.empty()) {
        rare_of(state).cancel_message.clear();
      }
    } catch (...) {
      // Without memory the cancellation goes on without its message.
    }
    return true;
  }
  if (*type == typeid(KeyboardInterrupt) && !state.has(flag_nested) && !is_main_of_group(state)) {
    state.home->interrupt = std::current_exception();
    state.home->attention = true;
    state.home->budget = 1;
  }
  return false;
}

// ---- Cancellation ----

namespace {

// What a task that was cancelled before its first step has for a leaf: its body never runs a line.
void end_unstarted(void*) {
  LoopState& loop = *driven_loop;
  FutureState& state = *loop.current;
  state.clear(flag_must_cancel);
  state.set_outcome(outcome_cancelled);
  if (complete(state)) {
    destroy_frame(state.frame());
  } else if (state.has(flag_shared)) {
    leave_shared(state);
  }
}

constinit FrameHeader cancelled_before_start{&end_unstarted, nullptr};

}  // namespace

void remember_message(FutureState& state, const std::string& message) noexcept {
  const Rare* rare = state.rare ? rare_if(state) : nullptr;
  if (message.empty() && (!rare || rare->cancel_message.empty())) return;
  try {
    rare_of(state).cancel_message = message;
  } catch (...) {
    // Without memory the cancellation goes on without its message.
  }
}

void owe_cancel(FutureState& task) noexcept {
  task.set(flag_must_cancel);
  if (!task.has(flag_started)) task.leaf = &cancelled_before_start;
}

FutureState* awaited_by(const FutureState& state) noexcept {
  if (!state.has(flag_task)) return nullptr;
  // What other workers change is for SharedCancel.
  if (OURO_UNLIKELY(state.has(flag_shared)) && (state.floating() || state.home != running_loop)) return nullptr;
  return state.waiting_on ? state.waiting_on->forward() : nullptr;
}

FutureState* find_ring(FutureState& first) noexcept {
  FutureState* mark = &first;
  std::uint64_t steps = 0;
  std::uint64_t limit = 2;
  for (FutureState* state = awaited_by(first); state; state = awaited_by(*state)) {
    if (state == mark) return state;
    if (++steps == limit) {
      mark = state;
      steps = 0;
      limit *= 2;
    }
  }
  return nullptr;
}

bool cancel(FutureState& first, const std::string& message) noexcept {
  if (OURO_UNLIKELY(home_of(first).worker != nullptr)) return cancel_shared(first, message);
  GatherState* gather = nullptr;
  const bool accepted = cancel_up_to_gather(first, message, gather);
  if (gather) gather->cancel_or_owe(message);
  return accepted;
}

bool cancel_up_to_gather(FutureState& first, const std::string& message, GatherState*& gather) noexcept {
  if (first.done()) return false;
  if (OURO_UNLIKELY(home_of(first).worker != nullptr)) return cancel_shared(first, message);
  FutureState* const ring = find_ring(first);
  FutureState* state = &first;
  for (;;) {
    remember_message(*state, message);
    if (!state->has(flag_task)) {
      Waitee* source = std::exchange(state->waiting_on, nullptr);
      state->set_outcome(outcome_cancelled);
      settle(*state);
      if (source) source->cancel(*state, message);
      return true;
    }
    count_request(*state);
    if (OURO_UNLIKELY(state->home->closed)) return true;  // a destructor asks: the close is about to destroy the task
    Waitee* waitee = state->waiting_on;
    if (!waitee) {
      owe_cancel(*state);
      return true;
    }
    FutureState* inner = state == ring ? nullptr : waitee->forward();  // in a ring one task has to stop waiting
    if (!inner) {
      gather = GatherState::from(*waitee);
      if (!gather && !waitee->cancel(*state, message)) owe_cancel(*state);
      return true;
    }
    state = inner;  // it is pending: a task stops waiting for a future in the moment in which that is done
  }
}

std::string cancel_message_of(FutureState& state) noexcept {
  try {
    MaybeLock lock(state);
    const Rare* rare = state.rare ? rare_if(state) : nullptr;
    return rare ? rare->cancel_message : std::string();
  } catch (...) {
    return std::string();  // without memory the cancellation goes on without its message
  }
}

void throw_cancelled(FutureState& task) {
  task.clear(flag_must_cancel | flag_deliver_cancel);
  throw CancelledError(task);
}

void reset_unstarted(FutureState& task) noexcept {
  if (!task.has(flag_started)) task.leaf = const_cast<FrameHeader*>(&first_step);
}

// ---- Outcomes ----

void throw_no_value(FutureState& state) {
  if (!state.done()) throw InvalidStateError("Result is not set.", "await the future, or ask done() first");
  state.clear(flag_unretrieved);
  if (state.outcome() == outcome_cancelled) {
    const Rare* rare = state.rare ? rare_if(state) : nullptr;
    throw CancelledError(rare ? rare->cancel_message : std::string());
  }
  std::rethrow_exception(exception_of(state));
}

std::exception_ptr exception_or_cancellation(FutureState& state) {
  if (state.outcome() == outcome_exception) {
    state.clear(flag_unretrieved);
    return exception_of(state);
  }
  return std::make_exception_ptr(CancelledError(cancel_message_of(state)));
}

}  // namespace ouro::detail
