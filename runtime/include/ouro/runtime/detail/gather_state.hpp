// What gather and map have in common: a node of the ready queue that runs children one after the other, counts them,
// and wakes the parent after the last. Typed results are stored by the children themselves, at their final_suspend.
//
// A gather takes one place in the ready queue, not one for each child: when the loop reaches it, it starts the children
// in order, as many as the loop's budget allows, and takes its place at the front of the turn again for the rest. So
// the order is that of tasks queued one by one, while a child's frame is touched once and not twice.
//
// `pending` counts the children that have not completed (of a map: those that suspended), and one for the runner until
// it has started the last: the parent is never woken while the runner is queued. The parent resumes through the ready
// queue, never inside a child.
//
// Errors. The first error (unless exceptions are returned as results) cancels the children that the gather owns and
// waits for them; children not started yet are destroyed unrun; futures of the caller are let go. A cancellation of the
// parent is passed on to every child, owned or not; then the gather ends with CancelledError.
#pragma once

#include <cstdint>
#include <exception>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <ouro/runtime/config.hpp>
#include <ouro/runtime/detail/core.hpp>
#include <ouro/runtime/detail/result.hpp>
#include <ouro/runtime/detail/spin_lock.hpp>

namespace ouro::detail {

class MapGather;
struct MapRun;
struct Worker;
class FutureHandle;

// A future of the caller's among the children. Imitates a frame, to be posted to the gather's loop by another.
struct GatherNode : FrameHeader, ReadyNode, Waiter {
  GatherNode() noexcept : FrameHeader{nullptr, nullptr}, ReadyNode{nullptr, nullptr}, Waiter{} {}
  FutureState* future = nullptr;  // one reference is held
  GatherState* gather = nullptr;
  std::uint32_t index = 0;
  bool linked = false;                        // of a gather of one thread; with others the future's lock says it
  void (*store)(GatherNode& self) = nullptr;  // copies the future's value to its slot
};

// Children of a gather that have not started, in a group: whoever holds the share starts them, and puts it into his
// deque while one of them runs. src/gather_shared.cpp
struct alignas(8) GatherShare {
  GatherState* gather;
  std::uint32_t next;
  std::uint32_t end;
  // Of a map:
  GatherShare* held_next;  // see MapGather::held_back
  std::uint32_t spare;     // without a limit: counts that whoever takes it holds beyond its own (src/map_shared.cpp),
  std::uint32_t bite;      // and how many children a worker runs between two looks
};

// In ChildPlace::share and LoopState::ended_share: of a child behind which nothing of its share was left, or which has
// become public.
inline constexpr GatherShare* nothing_left = nullptr;
inline GatherShare* became_public() noexcept { return reinterpret_cast<GatherShare*>(alignof(GatherShare)); }

// What a map does for itself.
struct MapKind {
  // Makes the child for the i-th element. Threads: several at once. Throws: what the user's code throws.
  FutureState* (*make_child)(GatherState& self, std::uint32_t i);
  // Runs children until one does not end in its first step, or something wants a look.
  void (*run_some)(GatherState& self, MapRun& run);
  // Its list of suspended children got shorter.
  void (*unlisted)(GatherState& self, std::uint32_t left) noexcept;
};

// Children of a map that one worker runs one after the other, without a look at its deque between two of them.
struct MapRun {
  LoopState& loop;
  GatherShare* from;
  const Atomic<std::uint64_t>& idle;  // not zero: some worker would take children
  std::uint32_t next;
  std::uint32_t end;
  bool all_ended;  // those that ran ended in their first steps; else the last one did not
};

class OURO_EXPORT GatherState : public FrameHeader, public ReadyNode, public Waitee {
 public:
  GatherState(const GatherState&) = delete;

  // ---- In a group: a floating parent's ----
  enum class Listed : std::uint8_t { now, before, aborting };
  // A private child becomes public.
  Listed list_shared(FutureState& child) noexcept;
  FutureState* parent_task() const noexcept { return parent; }
  // A child ended, whose value has been stored. `child` was private until its end. nullptr: its frame is to stay.
  LoopState* private_child_ended(FutureState& child) noexcept;
  // Does what the end of a child leads to: see LoopState::ended. And for one that was sent here: src/elsewhere.cpp.
  static void finish_end(Worker& worker);
  void child_left(Worker& worker) noexcept;
  // Runs what children and gathers leave to be run next, until nothing is left.
  static void run_hops(Worker& worker);
  std::string locked_cancel_message() noexcept;
  bool pin() noexcept;  // keeps it from ending; false if it is over
  void unpin() noexcept;
  // As child_done().
  bool shared_child_done(FutureState& child) noexcept;
  // The public children of the gather for which the task waits, a handle to each, at the end of `tasks`.
  static void append_children(FutureState& task, std::vector<FutureHandle>& tasks);
  // Goes on with a share that was taken out of a deque, of another worker if it was `stolen`.
  static void run_share(GatherShare& share, Worker& worker, bool stolen);

  // ---- For children ----
  void* slots;             // the results: an array, or with `indirect` an array of pointers
  FutureState** children;  // the owned ones; an entry is nullptr once it has completed, or is a future's
  LoopState* home;
  // What the derived class says, and what a start finds as it was made: with the eight bytes after it that the start
  // sets, two stores.
  SlotKind slot_kind = SlotKind::value;
  bool indirect = false;
  bool fixed = true;  // `children` has an entry for every child (gather), or for the suspended ones (map)
  bool return_exceptions = false;
  bool awaited = false;
  bool troubled = false;  // first_error or `trouble` is set
  bool limited = false;   // a map in a group, of which MapGather::most_running children may run
  // In the list of a CancelWalk or SharedCancel: all but `no` and `before`, which says that `swept` is valid.
  enum class Walked : std::uint8_t { no, before, to_fail, to_cancel, done };
  Walked walked = Walked::no;

  bool waiting;                 // started and not finished
  bool shared;                  // the parent floats: counts and lists are under `lock`, or atomic
  bool aborting;                // no further child is started
  bool cancel_requested;        // these two imply `aborting`
  bool counted_abort;           // in WorkerGroup::aborting
  bool cancelled_late;          // after the first error: the cancellation is what the parent hears of
  bool starved;                 // the runner left because the limit was reached: the next child that ends queues it
  bool holds_children = false;  // some may be there when the awaiter goes

  bool ended_at_once;  // map: the child that the runner has started ended in its first step

  // A scope gets more children while others look. Acquire: what is below the number is there.
  std::uint32_t count_of() const noexcept { return __atomic_load_n(&count, __ATOMIC_ACQUIRE); }
  // With `indirect`: a scope's (fork_join.hpp) may be replaced by a larger one meanwhile.
  void* slot_table() const noexcept { return __atomic_load_n(&slots, __ATOMIC_ACQUIRE); }

  // The last child has ended: wakes the parent.
  void finish() noexcept;
  // Somebody holds a handle to a child that is done: it lives on as any task.
  void keep_child(FutureState& child) noexcept;
  bool let_go(FutureState& child) noexcept {
    home->current = nullptr;  // the frame goes, and the destructors of its arguments may ask
    if (OURO_LIKELY(child.refs == 0)) return true;
    if (handles_of(child) == 0) return true;
    keep_child(child);
    return false;
  }
  // A child ended with an exception, or (nullptr) with a cancellation.
  void child_failed(FutureState& child, std::exception_ptr exception) noexcept;
  // A child ended. True if its frame is to go.
  bool child_done(FutureState& child) noexcept {
    if (OURO_UNLIKELY(shared)) return shared_child_done(child);
    if (OURO_LIKELY(fixed)) {
      children[child.child.position] = nullptr;
    } else if (child.child.position == not_listed) {
      ended_at_once = true;
      return let_go(child);
    } else {
      forget(child);
    }
    if (OURO_UNLIKELY(starved)) refill();
    if (--pending == 0) finish();
    return let_go(child);
  }

  // ---- For all_tasks ----
  GatherState* older;
  GatherState* newer;
  // Calls `f` with each child that has not completed.
  template <class F>
  void each_child(F&& f) {
    for (std::uint32_t i = 0; i < listed; ++i) {
      if (children[i]) {
        adopt_child(*children[i], i);
        f(*children[i]);
      }
    }
  }

  // True if what imitates a frame is a gather's.
  static bool is_runner(const FrameHeader& header) noexcept { return header.destroy == &never_destroyed; }

  // ---- Waitee ----
  bool cancel_all(const std::string& message) noexcept;
  void cancel_or_owe(const std::string& message) noexcept {
    if (!cancel_all(message)) owe_cancel(*parent);
  }
  // What is waited for, if that is a gather or a map.
  static GatherState* from(Waitee& waitee) noexcept {
    return waitee.kind == &gather_kind ? static_cast<GatherState*>(&waitee) : nullptr;
  }
  FutureState* take_suspended_child() noexcept;

 protected:
  friend class CancelWalk;
  friend class WaitGraph;
  // Small gathers are made by the million: what starting sets is not set here.
  GatherState() noexcept : first_error() {}               // NOLINT
  GatherState(GatherState&&) noexcept : GatherState() {}  // NOLINT: before it started
  ~GatherState() {
    if (OURO_UNLIKELY(troubled)) end_trouble();
  }

  // Starts a gather, of any parent. Gives the frame to run next in place of the parent's; for children that are all its
  // own the second one, which is shorter.
  OURO_NOINLINE void* launch(FutureState& task, void* frame, std::source_location where) noexcept;
  void* launch_owned(FutureState& task, void* frame, std::source_location where) noexcept;
  // Queues the runner; from now on the object must not move.
  void start(void (*run)(void*), FutureState& task, void* frame, std::source_location where) noexcept;
  void begin(FutureState& task, void* frame, std::source_location where) noexcept {
    parent = &task;
    home = task.home;
    task.leaf = frame;
    kind = &gather_kind;
    site = where;
    waiting = true;
    shared = aborting = cancel_requested = counted_abort = cancelled_late = starved = false;
    holds_children = true;
  }

  // ---- In a group: src/gather_shared.cpp ----
  friend class SharedCancel;
  friend class RingSearch;
  // Starts the first child in place of the parent. Requires: the derived class is ready to make children.
  void start_shared(FutureState& task, void* frame, std::source_location where) noexcept;
  void advance_map(GatherShare& first, Worker& worker, unsigned spare);
  GatherShare* leave_bite(MapRun& run, Worker& worker);
  void change_counts(unsigned held, unsigned needed) noexcept;
  GatherShare* make_share(std::uint32_t from, std::uint32_t to, std::uint32_t bite) noexcept;
  void link_futures() noexcept;
  bool keeps_parent_private() const noexcept;
  bool stop_requested() const noexcept { return __atomic_load_n(&aborting, __ATOMIC_RELAXED); }
  bool stopped(Worker& worker) noexcept;
  bool stopped_from_above() noexcept;
  void advance(GatherShare& from, Worker& worker, unsigned spare);
  FutureState* take_child(std::uint32_t i) noexcept;
  FutureState* make_or_fail(std::uint32_t i, Worker& worker) noexcept;
  void prepare_child(FutureState& child, std::uint32_t i, GatherShare* from, LoopState& loop) noexcept {
    child.leaf = child.frame();
    child.home = &loop;
    child.gather = this;
    child.child.index = i;
    child.child.share = from;
    set_stage(child, child_stage.refs, child_stage.flags, child_stage.word);
  }
  void start_child(FutureState& child, std::uint32_t i, GatherShare* from, Worker& worker) noexcept;
  bool take_back(GatherShare* from, Worker& worker) noexcept;
  void release_share(GatherShare& from) noexcept;
  void retire(GatherShare& from, Worker& worker, unsigned spare) noexcept;
  bool may_start_shared(GatherShare& from) noexcept;
  void one_less_runs(Worker& worker) noexcept;
  void release_held(Worker& worker) noexcept;
  void count_down(Worker* worker, unsigned counts) noexcept;
  FutureState* count_down_here(Worker& worker, GatherShare* from) noexcept;
  OURO_NOINLINE static void* wake_and_go(FutureState& first, Worker& worker) noexcept;
  void finish_shared(Worker* worker) noexcept;
  void unlist_shared(FutureState& child) noexcept;
  LoopState* leave_end(FutureState& child, GatherShare* from, bool goes) noexcept;
  FutureState* follow_child(GatherShare* from, Worker& worker);
  // Public children from place `from` on, a reference for each; `from` moves on.
  std::size_t collect_public(FutureState** found, std::size_t most, std::uint32_t& from) noexcept;
  // True if it was not ending early before.
  bool begin_abort(std::exception_ptr error, bool cancelled, const std::string& message) noexcept;
  void leave_group_abort() noexcept;
  void fail_shared(std::exception_ptr exception) noexcept;
  void cancel_children_in_group(bool also_futures) noexcept;
  FutureState* take_public_child() noexcept;
  static void arrived(void* leaf);  // a future of the caller's is done, on another thread

  // Before the start, if there are futures among the children.
  // Throws: ValueError for a future of another loop, RuntimeError for the task itself.
  void prepare_futures(FutureState& task);
  // The end of the wait: throws what the gather has to throw.
  void rethrow_if_failed() {
    if (OURO_UNLIKELY(aborting)) return rethrow_slowly();
    const unsigned flags = parent->all_flags();
    if ((flags & (flag_shared | flag_first_step)) == (flag_shared | flag_first_step)) {
      parent->waiting_on = nullptr;  // private: see src/shared.hpp
    } else if (OURO_UNLIKELY(flags & (flag_must_cancel | flag_deliver_cancel | flag_shared))) {
      rethrow_slowly();
    }
  }
  void rethrow_slowly();
  void forget(FutureState& child) noexcept;
  void refill() noexcept;
  // Map: f or the range threw.
  void fail(std::exception_ptr exception) noexcept;
  // Destroys what has not completed; the derived class calls it before its results go.
  void destroy_children() noexcept;
  // The runner has nothing more to start.
  void runner_done() noexcept;
  void adopt_child(FutureState& child, std::uint32_t i, unsigned more_flags = 0) noexcept {
    const unsigned flags = child.all_flags();
    if (OURO_UNLIKELY(flags & flag_gathered)) return;
    adopt_new_child(child, i, flags | more_flags);
  }
  void adopt_new_child(FutureState& child, std::uint32_t i, unsigned flags) noexcept {
    child.leaf = child.frame();
    child.home = home;
    child.gather = this;
    child.child.index = i;
    child.child.position = i;
    child.set_flags(flags | flag_task | flag_gathered | child_flags);
  }
  void abort() noexcept {
    aborting = true;
    brake = 0;
  }
  bool is_map() const noexcept { return !fixed && !indirect; }
  MapGather& as_map() noexcept;  // requires: it is one
  bool has_unstarted() const noexcept { return fixed ? next_child < count : pending > 0; }
  // Cancels the started children, and with `also_futures` the caller's. True if any accepted.
  bool cancel_children(const std::string& message, bool also_futures) noexcept;
  void begin_cancel(const std::string& message) noexcept;
  void let_go_of_futures() noexcept;
  void let_go_of(GatherNode& node) noexcept;
  static void notified(Waiter& self, FutureState& done) noexcept;
  void future_done(GatherNode& node) noexcept;

  static const WaiteeKind gather_kind;
  void start_future(GatherNode& node) noexcept;
  void end_unstarted(FutureState& child) noexcept;
  static void run_fixed(void* leaf);
  static void never_destroyed(void* leaf);  // marks the header

  // What few gathers need.
  struct Trouble {
    std::string cancel_message;
    // With return_exceptions: the children that were cancelled before their first step. Their typed slots wait for the
    // awaiter.
    std::vector<std::pair<std::uint32_t, std::exception_ptr>> unrun;
  };
  Trouble& trouble_of();  // throws: std::bad_alloc
  void set_cancel_message(const std::string& message) noexcept;
  std::string cancel_message() const { return trouble ? trouble->cancel_message : std::string(); }
  void end_trouble() noexcept;  // and first_error

  FutureState* parent = nullptr;
  std::uint32_t count;   // of children
  unsigned child_flags;  // flag_direct or flag_first_step, if the children's values are stored as they are
  // In a group: with what a child begins.
  struct ChildStage {
    std::uint32_t refs;
    std::uint16_t flags;
    std::uint16_t word;
  };
  static constexpr ChildStage stage_of_children(SlotKind kind) noexcept {
    const unsigned direct = kind == SlotKind::value ? flag_direct : 0;
    return {
        own_ref,
        static_cast<std::uint16_t>(flag_task | flag_gathered | flag_started | flag_first_step | flag_shared | direct),
        word_floating};
  }
  ChildStage child_stage;
  // What is above is read with each child; what changes for all is below, two lines away, with the seldom used between.
  union {
    std::exception_ptr first_error;
  };
  Trouble* trouble = nullptr;
  GatherState* next_walked;
  std::uint64_t swept;          // in a group: the number of the request that has walked over it last
  GatherNode* nodes = nullptr;  // beside children, or nullptr if all are owned
  std::uint32_t listed;         // of entries in `children`; of one loop
  std::uint32_t next_child;     // the first that has not been started
  std::uint64_t brake;          // map: how many children may have been made before the runner looks at the rest

 public:
  std::uint64_t pending;  // for children, too

 protected:
  // In a group.
  GatherShare share;  // the first one
  SpinLock lock;      // of the list of public children, and of how the gather ends early
};

// What a map has besides, lest gathers and scopes make frames larger by it.
class MapGather : public GatherState {
 public:
  const MapKind* map_kind;
  // In a group, with a limit:
  GatherShare* held_back;      // shares that wait until a child ends
  std::uint32_t running_now;   // children that have started and not ended
  std::uint32_t most_running;  // the limit

 protected:
  MapGather() noexcept {}  // NOLINT: as GatherState()
  MapGather(MapGather&& other) noexcept : GatherState(std::move(other)) {}
  ~MapGather() = default;
};

inline MapGather& GatherState::as_map() noexcept { return static_cast<MapGather&>(*this); }

}  // namespace ouro::detail
