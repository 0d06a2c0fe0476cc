// The state that futures, tasks and nested coroutines share, and the part of a loop that they touch. Everything here is
// plain data with the few inline operations of the hot path; the rest is in src/core.cpp.
//
// One record serves three roles, so that a coroutine becomes a task without another allocation:
//   plain future   allocated by create_future; imitates a coroutine frame (resume, destroy, state) to be freed alike
//   task           the promise of a coroutine that create_task, gather or run scheduled
//   nested         the promise of a coroutine that another coroutine awaits directly: it runs inside that one's task
//
// A record belongs to its home loop; only that loop's thread reads or writes it, so nothing here is atomic. What other
// threads send comes through LoopState::inbox. (A loop in a group of several will set flag_shared when it makes a
// record; records of a single loop never pay for it.)
//
// Life. `refs` counts the handles, and one for the loop while a task is not finished; a task that only a gather owns
// has no count at all: the gather's vector holds it until it completes. A coroutine that nobody needs when it ends does
// not suspend there: it flows off its end, and the compiler's own code destroys the frame. No frame is destroyed inside
// its own await_suspend.
//
// Outcome. flag_done and the outcome become visible at final_suspend, after the destructors of the coroutine's locals.
// Waiters are told in the order of registration, and each only becomes ready: nothing of the user's runs in between.
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

namespace ouro {
class BaseEventLoop;
class EventLoop;
class Parker;
}  // namespace ouro

namespace ouro::detail {

struct LoopState;
struct FutureState;
class AsyncGeneratorState;
class TimerWheel;

class Waitee;

// What can be done with a thing that is waited for. One constant for each kind of thing.
struct WaiteeKind {
  // Asks it to end early. True: the task will be resumed, and with CancelledError unless what is awaited decides
  // otherwise; false: nothing could be done, and the caller remembers the cancellation.
  bool (*cancel)(Waitee& self, FutureState& task, const std::string& message) noexcept;
  // The future or task to which a cancellation goes on instead; nullptr, or one that gives nullptr: none.
  FutureState* (*forward)(const Waitee& self) noexcept;
  // Takes one suspended child out, for destruction before its parent; gives nullptr if there is none (left).
  FutureState* (*take_child)(Waitee& self) noexcept;
  // What it is, in a word or two.
  const char* what;
};

// What a suspended task waits for. It lives in the awaiter, in the frame of the innermost coroutine. No virtual
// functions: an awaiter that does not have to wait writes nothing here.
class Waitee {
 public:
  bool cancel(FutureState& task, const std::string& message) noexcept { return kind->cancel(*this, task, message); }
  FutureState* forward() const noexcept { return kind->forward ? kind->forward(*this) : nullptr; }
  FutureState* take_child() noexcept { return kind->take_child ? kind->take_child(*this) : nullptr; }

  const WaiteeKind* kind;  // set before a task waits
  union {
    std::source_location site;  // of the co_await; likewise
  };

 protected:
  Waitee() noexcept {}  // NOLINT: see above
  explicit Waitee(const WaiteeKind& of) noexcept : kind(&of) {}
  ~Waitee() = default;
};

// One who wants to hear that a future is done. Linked into the future's list while it is not.
struct Waiter {
  Waiter* next;
  Waiter* prev;
  void (*notify)(Waiter& self, FutureState& done) noexcept;  // the waiter is unlinked already
};

// The rare belongings of a future or task, made when first needed.
struct Rare {
  std::string name;
  std::string cancel_message;
  std::uint32_t number = 0;  // of the default name
  bool named = false;
};

enum Flag : std::uint16_t {
  outcome_none = 0,
  outcome_value = 1,
  outcome_exception = 2,
  outcome_cancelled = 3,
  outcome_mask = 3,
  flag_done = 1 << 2,
  flag_task = 1 << 3,            // drives a coroutine
  flag_nested = 1 << 4,          // runs inside the task that `owner.task` names
  flag_gathered = 1 << 5,        // owned by a gather alone: see owner.gather and index
  flag_started = 1 << 6,         // has run at least once
  flag_must_cancel = 1 << 7,     // CancelledError is due at the next suspension, or at this resume
  flag_deliver_cancel = 1 << 8,  // what was awaited was cancelled: CancelledError at this resume
  flag_unretrieved = 1 << 9,     // failed, and nobody has looked at the exception
  flag_linked = 1 << 10,         // in the loop's list of tasks
  flag_belongings = 1 << 11,     // an exception or a Rare is to be destroyed with the record
  flag_direct = 1 << 12,         // a gather's child without handles whose value goes to slots[index] as it is
  flag_shared = 1 << 13,         // used by several threads (groups of loops)
  flag_foreign = 1 << 14,        // a coroutine type that is not ours suspended inside this task
  flag_first_step = 1 << 15,     // a map's child, as flag_direct, which has not suspended yet; or an eager task which
                                 // has not, of which there is one handle: the loop's reference is not counted yet
};

class GatherState;

// A task in its loop's list.
struct TaskLink {
  FutureState* prev;
  FutureState* next;
};

// A child in its gather.
struct ChildPlace {
  std::uint32_t index;     // which result is its
  std::uint32_t position;  // where the gather's list of children names it, or `not_listed`
};

struct FutureState : ReadyNode {
  union {
    LoopState* home;    // task, plain future
    FutureState* task;  // nested: the task in which it runs
  };
  union {
    Waiter* waiters;               // first of a circular list, or nullptr
    GatherState* gather;           // flag_gathered
    class NestedAwaiter* awaiter;  // nested: what awaits it, in its parent's frame
  };
  Waitee* waiting_on;   // what the suspended task waits for; nullptr while it runs or is ready
  std::uintptr_t rare;  // 0, or a Rare*, or (number << 1 | 1) of the default name
  union {
    TaskLink link;     // flag_linked
    ChildPlace child;  // flag_gathered
  };
  std::source_location created;
  std::uint32_t refs;
  std::uint16_t flags;
  std::uint16_t cancel_requests;

  bool done() const noexcept { return (flags & flag_done) != 0; }
  Flag outcome() const noexcept { return static_cast<Flag>(flags & outcome_mask); }
  bool cancelled() const noexcept { return done() && outcome() == outcome_cancelled; }
  bool has(Flag flag) const noexcept { return (flags & flag) != 0; }
  // Always stored whole, and loaded as that. Left to itself a compiler stores the one byte that changed, or loads the
  // neighbours too, and a load that is wider than a store before it waits until that has left the store buffer.
  OURO_INLINE void set_flags(unsigned all) noexcept {
    __atomic_store_n(&flags, static_cast<std::uint16_t>(all), __ATOMIC_RELAXED);
  }
  OURO_INLINE unsigned all_flags() const noexcept { return __atomic_load_n(&flags, __ATOMIC_RELAXED); }
  OURO_INLINE void set(unsigned bits) noexcept { set_flags(all_flags() | bits); }
  OURO_INLINE void clear(unsigned bits) noexcept { set_flags(all_flags() & ~bits); }
  OURO_INLINE void set_outcome(Flag ending) noexcept {
    set_flags((all_flags() & ~static_cast<unsigned>(outcome_mask)) | ending);
  }

  // The address of the frame that this record is the promise of (or of what imitates it).
  void* frame() noexcept { return reinterpret_cast<char*>(this) - sizeof(FrameHeader); }

  FutureState() noexcept {}  // NOLINT: initialise() sets what matters
};
inline constexpr std::uint32_t not_listed = 0xffffffffU;
static_assert(sizeof(FutureState) == 80);

// What a loop shows to futures and tasks. Made with the loop; outlives it while records refer to it.
// Threads: the loop's, but for `inbox`.
struct LoopState {
  ReadyQueue ready;                // what runs in the next turn
  ReadyQueue batch;                // what is left of this turn
  FutureState* current = nullptr;  // the task that runs now; nullptr in callbacks and between
  std::uint32_t budget = 0;        // how many more may run before the loop looks at the ring, timers and inbox
  bool attention = false;          // something wants the loop to look now: stop, an interrupt, a timer due at once
  bool debug = false;
  bool closed = false;
  bool closing = false;  // destructors run, which may complete futures that nobody hears of any more
  bool eager = false;    // the task factory starts tasks at once, and does nothing else
  bool has_factory = false;
  bool running = false;                      // some thread is inside run_*
  bool special = false;                      // one of the four above: making a task takes the long way
  FutureState* tasks = nullptr;              // the linked tasks, newest first
  GatherState* gathers = nullptr;            // the gathers in flight, newest first: they list their own children
  AsyncGeneratorState* asyncgens = nullptr;  // the generators that have started and not ended, newest first
  class CancelWalk* cancel_walk = nullptr;   // over the gathers below one that is being cancelled or has failed
  AsyncGeneratorState* closing_asyncgens = nullptr;  // of these the ones that a task closes
  bool asyncgens_shut_down = false;                  // one that starts from now on is reported
  std::uint32_t last_number = 0;                     // of default task names
  std::uint64_t last_callback = 0;                   // of done-callbacks' tokens
  std::uint64_t live = 0;                            // records that name this loop as their home
  bool destroying = false;                           // a record is being destroyed; the next ones wait:
  ReadyNode* doomed = nullptr;                       // records without a handle, newest first
  FutureState* errands = nullptr;   // the futures that other threads will complete, newest first: executors.hpp
  BaseEventLoop* loop = nullptr;    // nullptr once it is destroyed
  EventLoop* event_loop = nullptr;  // the same, if io made it
  TimerWheel* timers = nullptr;
  const Clock* clock = nullptr;
  std::exception_ptr interrupt;  // a KeyboardInterrupt on its way out of run_*

  // ---- What other threads touch ----

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
  loop.special = loop.debug || loop.closed || loop.eager || loop.has_factory;
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

// Makes a suspended task ready.
inline void wake(FutureState& task) noexcept {
  task.waiting_on = nullptr;
  task.home->ready.push_back(task);
}

// For src/ alone.
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
  state.cancel_requests = 0;
}

extern const FrameHeader first_step;  // the leaf of a task that has not run
// Gives a task the number of its default name, unless it has a name.
inline void number_task(FutureState& state, LoopState& home) noexcept {
  if (OURO_LIKELY(state.rare == 0)) state.rare = std::uintptr_t{++home.last_number} << 1 | 1;
}
// The words that say how far a task is, in one store.
inline void set_stage(FutureState& state, std::uint32_t refs, unsigned flags) noexcept {
  state.refs = refs;
  state.flags = static_cast<std::uint16_t>(flags);
  state.cancel_requests = 0;
}

// A task ended: tells its waiters, and lets go of the loop's reference. True if that was the last one: the frame is to
// go.
OURO_EXPORT bool complete(FutureState& state) noexcept;
// The usual end of a task that nobody waits for yet. True if it was that, and the frame stays.
OURO_INLINE inline bool complete_quietly(FutureState& state) noexcept {
  if (state.flags == (flag_task | flag_started | flag_first_step | outcome_value)) {
    state.set_flags(flag_task | flag_started | flag_done | outcome_value);
    return true;
  }
  if (state.flags != (flag_task | flag_started | outcome_value) || state.waiters || state.refs == 1) return false;
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

// At a resume: throws CancelledError if one is due.
[[noreturn]] OURO_EXPORT void throw_cancelled(FutureState& task);
inline void check_cancelled(FutureState& task) {
  if (OURO_UNLIKELY(task.flags & (flag_must_cancel | flag_deliver_cancel))) throw_cancelled(task);
}

// Throws what a record without a value holds: its exception, CancelledError, or that it is not done.
[[noreturn]] OURO_EXPORT void throw_no_value(FutureState& state);

inline void add_ref(FutureState& state) noexcept { ++state.refs; }
// From now on there may be handles to a task, and it may be found: the short ways of ending are closed.
inline void leave_first_step(FutureState& task) noexcept {
  if (task.has(flag_first_step) && !task.has(flag_gathered)) add_ref(task);  // the loop's
  task.clear(flag_direct | flag_first_step);
}
OURO_EXPORT void destroy(FutureState& state) noexcept;
inline void drop_ref(FutureState& state) noexcept {
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
