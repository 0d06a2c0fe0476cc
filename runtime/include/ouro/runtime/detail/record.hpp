// The record that futures, tasks and nested coroutines are: plain data, with the few inline operations of the hot path.
//
// One record serves three roles, so that a coroutine becomes a task without another allocation:
//   plain future   allocated by create_future; imitates a coroutine frame (resume, destroy, state) to be freed alike
//   task           the promise of a coroutine that create_task, gather or run scheduled
//   nested         the promise of a coroutine that another coroutine awaits directly: it runs inside that one's task
//
// A record belongs to its home loop; only that loop's thread reads or writes it, so nothing here is atomic. What other
// threads send comes through LoopState::inbox. In a group of several loops records have flag_shared from the start, and
// take the ways of src/shared.hpp, where it is said who may touch what; records of a single loop pay one well-predicted
// branch for it.
//
// Life. `refs` counts the handles, and one for the loop while a task is not finished; a task that only a gather owns
// has no count at all: the gather's vector holds it until it completes. A coroutine that nobody needs when it ends does
// not suspend there: it flows off its end, and the compiler's own code destroys the frame. No frame is destroyed inside
// its own await_suspend.
//
// Outcome. flag_done and the outcome become visible at final_suspend, after the destructors of the coroutine's locals.
// Waiters are told in the order of registration, and each only becomes ready: nothing of the user's runs in between.
#pragma once

#include <cstddef>
#include <cstdint>
#include <source_location>
#include <string>

#include <ouro/runtime/config.hpp>
#include <ouro/runtime/detail/ready_queue.hpp>

namespace ouro::detail {

struct LoopState;
struct FutureState;

class Waitee;
class Needs;

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
  // Says whose doing it is that the wait ends, as far as that is known: src/wait_graph.hpp. nullptr: of what `forward`
  // gives, if it gives something. Throws: std::bad_alloc.
  void (*needs)(const Waitee& self, Needs& needs) = nullptr;
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
  Rare() noexcept = default;
  Rare(const Rare&) = delete;
  ~Rare() {
    if (OURO_UNLIKELY(context != 0)) drop_context();
  }
  static void* operator new(std::size_t bytes);
  static void operator delete(void* memory, std::size_t bytes) noexcept;

  std::string name;
  std::string cancel_message;
  std::uintptr_t context = 0;  // see detail/context_state.hpp. Stored with a release, for children that read it
  std::uint32_t number = 0;    // of the default name
  std::uint32_t named_as = 0;  // of one that had a name from the start: see LoopState::last_named
  bool named = false;

 private:
  void drop_context() noexcept;
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

// The bits of FutureState::cancel_word. All but the count are of shared records alone, and are said in src/shared.hpp.
enum CancelWord : std::uint16_t {
  word_requests = 0x0fff,    // cancel()s less uncancel()s
  word_belongings = 0x1000,  // a Rare is to be destroyed with the record: flag_belongings, by whoever made it
  word_due = 0x2000,         // CancelledError is due at the next suspension, or at this resume
  word_floating = 0x4000,    // the task's home is the group
  word_locked = 0x8000,      // somebody changes what the lock guards
};

class GatherState;
struct GatherShare;

// A task in its loop's list.
struct TaskLink {
  FutureState* prev;
  FutureState* next;
};

// A child in its gather.
struct ChildPlace {
  std::uint32_t index;     // which result is its
  std::uint32_t position;  // where the gather's list of children names it, or `not_listed`
  union {
    GatherShare* share;     // of a floating child: the share of the gather that it was started from
    GatherState* ended_in;  // of one that handles keep: its gather, until that has heard (src/elsewhere.cpp)
  };
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
  std::uint16_t cancel_word;  // how often its cancellation was asked for; see CancelWord

  // Acquire: pairs with the release of a record that another worker completes; costs nothing on x86.
  unsigned acquire_flags() const noexcept { return __atomic_load_n(&flags, __ATOMIC_ACQUIRE); }
  bool done() const noexcept { return (acquire_flags() & flag_done) != 0; }
  unsigned cancel_requests() const noexcept { return __atomic_load_n(&cancel_word, __ATOMIC_RELAXED) & word_requests; }
  bool floating() const noexcept { return (__atomic_load_n(&cancel_word, __ATOMIC_RELAXED) & word_floating) != 0; }
  Flag outcome() const noexcept { return static_cast<Flag>(all_flags() & outcome_mask); }
  bool cancelled() const noexcept { return done() && outcome() == outcome_cancelled; }
  bool has(Flag flag) const noexcept { return (all_flags() & flag) != 0; }
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
// In `refs`: the reference that a shared task has of itself, until it is suspended at its end; or the one that an
// errand has of its future. The rest is handles.
inline constexpr std::uint32_t own_ref = 0x80000000U;
static_assert(sizeof(FutureState) == 80);

}  // namespace ouro::detail
