// What a loop shows to futures and tasks, and what they do with it and with each other. The record itself is in
// record.hpp; what is no inline operation is in src/core.cpp.
#pragma once

#include <coroutine>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <source_location>
#include <string>
#include <string_view>
#include <type_traits>

#include <ouro/runtime/clock.hpp>
#include <ouro/runtime/config.hpp>
#include <ouro/runtime/detail/atomic.hpp>
#include <ouro/runtime/detail/frame_pool.hpp>
#include <ouro/runtime/detail/ready_queue.hpp>
#include <ouro/runtime/detail/record.hpp>

namespace ouro {
class BaseEventLoop;
class EventLoop;
class Parker;
}  // namespace ouro

namespace ouro::detail {

class AsyncGeneratorState;
class TimerWheel;

// A context that takes the place of a task's own: inside Context::run, and in callbacks.
struct ContextSlot {
  std::uintptr_t word = 0;             // see detail/context_state.hpp
  const FutureState* owner = nullptr;  // the task in which that was, or nullptr: it counts only there
  bool scoped = false;                 // a ContextScope takes it away
};

// What a loop shows to futures and tasks. Made with the loop; outlives it while records refer to it.
// Threads: the loop's, but for `inbox`.
struct LoopState {
  ReadyQueue ready;                // what runs in the next turn
  ReadyQueue batch;                // what is left of this turn
  FutureState* current = nullptr;  // the task that runs now; nullptr in callbacks and between
  ContextSlot context;             // of what runs now, if that is no task's own
  std::uint32_t budget = 0;        // how many more may run before the loop looks at the ring, timers and inbox
  bool attention = false;          // something wants the loop to look now: stop, an interrupt, a timer due at once
  bool debug = false;
  bool closed = false;
  bool closing = false;  // destructors run, which may complete futures that nobody hears of any more
  bool eager = false;    // the task factory starts tasks at once, and does nothing else
  bool has_factory = false;
  bool running = false;  // some thread is inside run_*
  bool special = false;  // one of the four above, or a worker: making a task takes the long way
  // In a group: what is done once what runs now has stopped.
  FutureState* hop = nullptr;                // runs next
  GatherState* ended = nullptr;              // a child of it ended, whose frame is on its way out
  GatherShare* ended_share = nullptr;        // from which that child was started, or what gather_state.hpp has for it
  struct Worker* worker = nullptr;           // its place in a group of several loops; nullptr for a single loop
  FutureState* tasks = nullptr;              // the linked tasks, newest first
  GatherState* gathers = nullptr;            // the gathers in flight, newest first: they list their own children
  AsyncGeneratorState* asyncgens = nullptr;  // the generators that have started and not ended, newest first
  class CancelWalk* cancel_walk = nullptr;   // over the gathers below one that is being cancelled or has failed
  AsyncGeneratorState* closing_asyncgens = nullptr;  // of these the ones that a task closes
  bool asyncgens_shut_down = false;                  // one that starts from now on is reported
  std::uint32_t last_number = 0;                     // of default task names
  std::uint32_t last_named = 0;                      // of tasks that had other names from the start
  std::uint32_t number_step = 1;                     // in a group each loop has numbers of its own
  std::uint64_t last_callback = 0;                   // of done-callbacks' tokens
  std::uint64_t live = 0;                            // records that name this loop as their home
  bool destroying = false;                           // a record is being destroyed; the next ones wait:
  ReadyNode* doomed = nullptr;                       // records without a handle, newest first
  FutureState* errands = nullptr;   // the futures that other threads will complete, newest first: executors.hpp
  BaseEventLoop* loop = nullptr;    // nullptr once it is destroyed
  EventLoop* event_loop = nullptr;  // the same, if io made it
  TimerWheel* timers = nullptr;
  const Clock* clock = nullptr;
  std::exception_ptr interrupt;    // a KeyboardInterrupt, or a DeadlockError, on its way out of run_*
  FutureState* awaited = nullptr;  // for which run() or run_until_complete() waits; it is no deadlock without that

  // ---- What other threads touch ----

  // Tasks of which other threads wait for the results, or may cancel them. Relaxed: the loop's thread reads it.
  Atomic<std::uint32_t> remote_tasks{0};

  // What they sent: nullptr (nothing), `asleep()` (nothing, and the loop sleeps or is about to), `shut()` (the loop is
  // closed), or the newest of a chain that is linked backwards. Any thread replaces it by a compare-and-swap (release;
  // pairs with the acquire of the loop that takes the chain); only the loop's thread stores the special values. All
  // decisions are exchanges on this one word, so they have one order: exactly one poster replaces `asleep()`, and that
  // one must unpark; a poster that came before makes the loop's own exchange to `asleep()` fail.
  alignas(64) Atomic<ReadyNode*> inbox{nullptr};

  // Posters that are about to unpark. Raised before the exchange that replaces `asleep()`, lowered (release) after
  // unpark(); the loop's destructor shuts the inbox and then waits for zero (acquire), so that the Parker outlives
  // them.
  Atomic<std::uint32_t> posters{0};

  Parker* parker = nullptr;  // constant while the loop lives
};

inline void update_special(LoopState& loop) noexcept {
  loop.special = loop.debug || loop.closed || loop.eager || loop.has_factory || loop.worker != nullptr;
}

// The value of LoopState::inbox while its loop sleeps.
inline ReadyNode* asleep() noexcept { return reinterpret_cast<ReadyNode*>(1); }
// The value of LoopState::inbox once its loop is closed.
inline ReadyNode* shut() noexcept { return reinterpret_cast<ReadyNode*>(2); }

// Posts a node to the loop, and wakes it if it sleeps. False if the loop is closed: the node stays the caller's.
// Threads: any. Requires: the loop object lives.
OURO_EXPORT bool post_to(LoopState& loop, ReadyNode& node) noexcept;

// The loop that runs on this thread, or nullptr. Out of line, so that its address is not cached across a suspension.
OURO_EXPORT LoopState* running_state() noexcept;

// The task in which the caller runs; throws RuntimeError that names `operation` if there is none.
OURO_EXPORT FutureState& require_task(const char* operation);

// ---- Resuming ----

// Where a trampolined transfer leaves the frame that comes next. At most one is pending on a thread, and only between
// an await_suspend and the drive loop that resumed it.
OURO_EXPORT extern constinit thread_local void* transfer_slot;
OURO_EXPORT void set_transfer_slot(void* frame) noexcept;

OURO_TRANSFER_NAMESPACE {
// What await_suspend returns to run `next` in place of the caller, without growing the stack.
inline std::coroutine_handle<> transfer(std::coroutine_handle<> next) noexcept {
#if OURO_TAIL_CALLS
  return next;
#else
  set_transfer_slot(next.address());
  return std::noop_coroutine();
#endif
}
}  // namespace transfer

// Resumes what was left in the slot and whatever it transfers to, until all are suspended or have ended.
OURO_EXPORT void drive_transferred();
// Resumes a frame, likewise.
inline void drive_here(void* frame) {
  std::coroutine_handle<>::from_address(frame).resume();
  if (OURO_UNLIKELY(transfer_slot != nullptr)) drive_transferred();
}

// ---- Tasks and futures ----

// The task that a suspending coroutine runs in.
template <class Promise>
FutureState& task_of(std::coroutine_handle<Promise> coroutine, const char* operation) {
  if constexpr (std::is_base_of_v<FutureState, Promise>) {
    FutureState& state = coroutine.promise();
    return state.has(flag_nested) ? *state.task : state;
  } else {
    FutureState& task = require_task(operation);
    task.set(flag_foreign);
    return task;
  }
}

// The home of a task, which other workers may change meanwhile if it floats. Acquire and release are a pair, and spare;
// what loops of a group show each other is there before the group runs.
inline LoopState& home_of(const FutureState& task) noexcept { return *__atomic_load_n(&task.home, __ATOMIC_ACQUIRE); }
inline void set_home(FutureState& task, LoopState& home) noexcept {
  __atomic_store_n(&task.home, &home, __ATOMIC_RELEASE);
}

// ---- The ways of shared records: src/shared.hpp ----

// A task of a group is about to suspend: from now on others can find it.
OURO_EXPORT void publish(FutureState& task) noexcept;
// A shared task is about to wait for something of the loop that runs here: others can find it, and if it floats that
// loop is its home.
OURO_EXPORT void settle_here(FutureState& task) noexcept;
// It waits for `waitee` from now on; a cancellation that came meanwhile sets flag_must_cancel.
OURO_EXPORT void begin_shared_wait(FutureState& task, Waitee& waitee) noexcept;
// It runs again, and waits for nothing. Sets flag_must_cancel if a cancellation is due.
OURO_EXPORT void end_shared_wait(FutureState& task) noexcept;
OURO_EXPORT void wake_shared(FutureState& task) noexcept;
OURO_EXPORT void drop_shared_ref(FutureState& state) noexcept;
// A shared task is at its end and suspended: lets go of the reference that kept it.
OURO_EXPORT void leave_shared(FutureState& state) noexcept;

inline void begin_wait(FutureState& task, Waitee& waitee) noexcept {
  if (OURO_UNLIKELY(task.has(flag_shared))) return begin_shared_wait(task, waitee);
  task.waiting_on = &waitee;
}
// Makes a suspended task ready.
inline void wake(FutureState& task) noexcept {
  if (OURO_UNLIKELY(task.has(flag_shared))) return wake_shared(task);
  task.waiting_on = nullptr;
  task.home->ready.push_back(task);
}

// For src/ alone.
inline void count_request(FutureState& task) noexcept {
  const std::uint16_t word = __atomic_load_n(&task.cancel_word, __ATOMIC_RELAXED);
  if ((word & word_requests) == word_requests) return;
  __atomic_store_n(&task.cancel_word, static_cast<std::uint16_t>(word + 1), __ATOMIC_RELAXED);
}
void remember_message(FutureState& task, const std::string& message) noexcept;
std::string cancel_message_of(FutureState& state) noexcept;
bool same_group(const FutureState& a, const FutureState& b) noexcept;
void retire(FutureState& state) noexcept;
void settle_debts(FutureState& state) noexcept;
// A new number for a default name of a task that this thread makes.
std::uint32_t new_number(LoopState& home) noexcept;
LoopState* set_running_state(LoopState* loop) noexcept;
void link_task(FutureState& state) noexcept;
void reset_unstarted(FutureState& task) noexcept;
void delete_rare(FutureState& state) noexcept;
// What a suspended task waits for, if that is a future or a task.
FutureState* awaited_by(const FutureState& state) noexcept;
// Tasks that wait for each other in a ring: one of them, or nullptr if the chain that begins with `first` has an end.
FutureState* find_ring(FutureState& first) noexcept;
void release_loop_state(LoopState& home) noexcept;
void destroy_nested(FutureState& outermost) noexcept;
// Destroys a suspended task, innermost frames first: the children of its gathers before it. Without recursion.
void bury(LoopState& home, FutureState& task) noexcept;

// Initialises what a record needs before anything else; the rest is set by the role that it takes.
inline void initialise(FutureState& state, std::source_location where) noexcept {
  state.waiters = nullptr;
  state.waiting_on = nullptr;
  state.rare = 0;
  state.created = where;
  state.refs = 0;
  state.flags = 0;
  state.cancel_word = 0;
}

extern const FrameHeader first_step;  // the leaf of a task that has not run
// Gives a task the number of its default name, unless it has a name.
inline void number_task(FutureState& state, LoopState& home) noexcept {
  if (OURO_LIKELY(state.rare == 0)) state.rare = std::uintptr_t{home.last_number += home.number_step} << 1 | 1;
}
// The words that say how far a task is, in one store.
inline void set_stage(FutureState& state, std::uint32_t refs, unsigned flags, unsigned word = 0) noexcept {
  state.refs = refs;
  state.flags = static_cast<std::uint16_t>(flags);
  state.cancel_word = static_cast<std::uint16_t>(word);
}

// A task ended: tells its waiters, and lets go of the loop's reference. True if that was the last one: the frame is to
// go.
OURO_EXPORT bool complete(FutureState& state) noexcept;
// The usual end of a task that nobody waits for yet. True if it was that, and the frame stays.
OURO_INLINE inline bool complete_quietly(FutureState& state) noexcept {
  const unsigned flags = state.all_flags();
  if (flags == (flag_task | flag_started | flag_first_step | outcome_value)) {
    state.set_flags(flag_task | flag_started | flag_done | outcome_value);
    return true;
  }
  if (flags != (flag_task | flag_started | outcome_value) || state.waiters || state.refs == 1) return false;
  state.set_flags(flag_task | flag_started | flag_done | outcome_value);
  --state.refs;
  return true;
}
OURO_EXPORT void notify_waiters(FutureState& state) noexcept;

// Called inside a catch block: classifies what a coroutine threw. True if it is a cancellation.
OURO_EXPORT bool caught_cancellation(FutureState& state) noexcept;

// Cancels a task or a plain future, and what it waits for; iterative along a chain of tasks. False if it was done.
OURO_EXPORT bool cancel(FutureState& state, const std::string& message) noexcept;
// The same, but a gather at the end of the chain is left to the caller: `gather` is set to it.
bool cancel_up_to_gather(FutureState& first, const std::string& message, GatherState*& gather) noexcept;
void owe_cancel(FutureState& task) noexcept;
// As AnyTask::uncancel().
OURO_EXPORT unsigned take_request_back(FutureState& task) noexcept;

// At a resume: throws CancelledError if one is due.
[[noreturn, gnu::cold]] OURO_EXPORT void throw_cancelled(FutureState& task);
inline void check_cancelled(FutureState& task) {
  if (OURO_UNLIKELY(task.all_flags() & (flag_must_cancel | flag_deliver_cancel | flag_shared))) {
    if (task.has(flag_shared)) end_shared_wait(task);
    if (task.all_flags() & (flag_must_cancel | flag_deliver_cancel)) throw_cancelled(task);
  }
}

// Throws what a record without a value holds: its exception, CancelledError, or that it is not done.
[[noreturn, gnu::cold]] OURO_EXPORT void throw_no_value(FutureState& state);

inline void add_ref(FutureState& state) noexcept {
  if (OURO_UNLIKELY(state.has(flag_shared))) {
    __atomic_fetch_add(&state.refs, 1, __ATOMIC_RELAXED);
  } else {
    ++state.refs;
  }
}
// From now on there may be handles to a task, and it may be found: the short ways of ending are closed.
inline void leave_first_step(FutureState& task) noexcept {
  if (OURO_UNLIKELY(task.has(flag_shared))) return publish(task);
  if (task.has(flag_first_step) && !task.has(flag_gathered)) add_ref(task);  // the loop's
  task.clear(flag_direct | flag_first_step);
}
// Handles; for a task of a single loop that is not done, and the loop's reference. Acquire: pairs with the release in
// drop_shared_ref(), so that who finds none has everything that they did.
inline std::uint32_t handles_of(const FutureState& state) noexcept {
  return __atomic_load_n(&state.refs, __ATOMIC_ACQUIRE) & ~own_ref;
}
// The same for a record of any loop, before a handle is given away.
inline void open_to_handles(FutureState& task) noexcept {
  if (OURO_UNLIKELY(task.home->worker != nullptr)) return publish(task);
  leave_first_step(task);
}
OURO_EXPORT void destroy(FutureState& state) noexcept;
inline void drop_ref(FutureState& state) noexcept {
  if (OURO_UNLIKELY(state.has(flag_shared))) return drop_shared_ref(state);
  if (--state.refs == 0) destroy(state);
}

// Destroys a suspended coroutine and what it awaits directly, innermost first, without recursion.
OURO_EXPORT void destroy_suspended(FutureState& outermost) noexcept;

// A coroutine object died without having been awaited: in debug mode it says so.
OURO_EXPORT void report_never_awaited(const FutureState& state) noexcept;

OURO_EXPORT void link_waiter(FutureState& state, Waiter& waiter) noexcept;
OURO_EXPORT void unlink_waiter(FutureState& state, Waiter& waiter) noexcept;

OURO_EXPORT Rare& rare_of(FutureState& state);
inline Rare* rare_if(const FutureState& state) noexcept {
  return state.rare & 1 ? nullptr : reinterpret_cast<Rare*>(state.rare);
}
OURO_EXPORT std::string name_of(FutureState& state);
OURO_EXPORT void set_name(FutureState& state, std::string_view name);

// The await of a coroutine by another: the link in both directions that lets a chain be destroyed from its inner end.
class NestedAwaiter {
 public:
  std::coroutine_handle<> parent;
  FutureState* child = nullptr;
  std::source_location site;
};

}  // namespace ouro::detail
