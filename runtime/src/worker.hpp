// A worker: a loop in a group of several, with the floating tasks that any of the group's workers may take.
//
// A worker's floating tasks lie in two places. `deque` holds what is new: the shares of gathers, and tasks that have
// not run; its owner takes the newest first, which keeps a fork-join program's memory as small as its depth. `lane`
// holds tasks that ran and are ready again, first in, first out. Both are StealDeques, so everything in them is visible
// to every other worker; who empties the lane from its front is its owner or anybody else.
//
// An entry is a task (a FutureState), or with the lowest bit set a share of a gather (a GatherShare). Whoever takes an
// entry owns it: there is one entry for each task and each share at any time.
//
// Threads that are no workers of the group put tasks into its injection queue.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include <ouro/runtime/config.hpp>
#include <ouro/runtime/detail/atomic.hpp>
#include <ouro/runtime/detail/core.hpp>
#include <ouro/runtime/detail/counter.hpp>
#include <ouro/runtime/detail/gather_state.hpp>
#include <ouro/runtime/detail/loop_timer.hpp>
#include <ouro/runtime/detail/spin_lock.hpp>
#include <ouro/runtime/detail/worker_group.hpp>

#include "barrier.hpp"
#include "idle_workers.hpp"
#include "inject_queue.hpp"
#include "quiet_gate.hpp"
#include "registry.hpp"
#include "steal_deque.hpp"

namespace ouro::detail {

// An entry of a worker's deque or lane.
inline ReadyNode* entry_of(GatherShare& share) noexcept {
  return reinterpret_cast<ReadyNode*>(reinterpret_cast<std::uintptr_t>(&share) | 1);
}
inline GatherShare* share_of(ReadyNode* entry) noexcept {
  const auto bits = reinterpret_cast<std::uintptr_t>(entry);
  return bits & 1 ? reinterpret_cast<GatherShare*>(bits - 1) : nullptr;
}

struct Worker {
  Worker(WorkerGroup& of, unsigned place, LoopState& loop);

  WorkerGroup& group;
  const bool light;  // pushes leave the barrier to who falls asleep
  const unsigned index;
  LoopState& state;
  StealDeque<ReadyNode> deque;
  StealDeque<ReadyNode> lane;
  InjectQueue<ReadyNode>::Consumer injected;
  std::uint64_t random;                // of the order in which it looks at the others
  ReadyNode* stolen = nullptr;         // what the last search found: it runs next
  GatherShare* unstealable = nullptr;  // shares for which the deque had no memory
  bool may_run = false;                // its Runner runs the loop; nobody else does
  bool slept_once = false;             // long enough for a second look: the next one is strict
  bool in_sight = true;                // while it sleeps: something that it knows of may wake it
  bool looking = false;                // the loop looks at the ring and the timers: what that wakes runs next
  std::int64_t oldest = 0;             // the place of the oldest entry of the deque,
  std::uint32_t oldest_looks = 0;      // and for how many looks it has been that

  // Timers of this loop that floating tasks have no more use for and left elsewhere: detail/loop_timer.hpp.
  SpinLock left_lock;
  Atomic<LoopTimer::Node*> left_timers{nullptr};

  // Written by the worker, read by any thread.
  alignas(64) Counter steals;
  Counter steal_attempts;
  Counter wakeups;  // of other workers
  Counter born;     // records that name a loop of the group
  Counter gone;
  Counter made;  // tasks
  Counter ended;

  // An entry becomes visible to all. Without memory it waits in the loop's own queue, which nobody steals from.
  void push(ReadyNode* entry) noexcept { put(deque, entry); }
  // The same where there is room: for one that the worker has just taken out of its deque, or after has_room().
  void push_again(ReadyNode* entry) noexcept { deque.put_back(entry, light); }
  void push_behind(ReadyNode* entry) noexcept { put(lane, entry); }

 private:
  OURO_INLINE void put(StealDeque<ReadyNode>& where, ReadyNode* entry) noexcept {
    try {
      where.push(entry, light);
    } catch (...) {
      put_aside(entry);
    }
  }
  void put_aside(ReadyNode* entry) noexcept;
};

class WorkerGroup {
 public:
  explicit WorkerGroup(unsigned count) : idle(count), size(count) { workers.reserve(count); }
  ~WorkerGroup();

  IdleWorkers idle;
  const unsigned size;
  const bool light = has_heavy_barrier();
  const bool crowded = size > std::thread::hardware_concurrency();  // some workers share a processor
  std::vector<std::unique_ptr<Worker>> workers;                     // complete before any of them runs
  InjectQueue<ReadyNode> injection;
  // Raised after each push to `injection`, which itself only releases: what a worker that falls asleep reads.
  alignas(64) Atomic<std::uint64_t> injections{0};
  Atomic<std::uint32_t> wakers{0};  // threads between wake_one() and the end of unpark(), or inside inject()

  Atomic<std::uint64_t> ended_elsewhere{0};  // tasks, on threads that are no workers

  Registry tasks;  // that have suspended and not ended

  // How many gathers have failed or were cancelled, and have not ended: while it is not zero, whoever starts a child
  // looks whether one of them is above it. Relaxed: it is a hint that something is to be looked at.
  Atomic<std::uint32_t> aborting{0};
  Atomic<bool> unstarted_cancelled{false};

  Atomic<FutureState*> main{nullptr};  // the task of which the run is, for comparison alone; while that runs
  bool ending = false;                 // all have stopped, and what is left is destroyed

  QuietGate gate;
  Atomic<Duration::rep> grace{Duration::max().count()};  // before a look, as the first loop had it when it fell asleep
  Atomic<bool> looked{false};  // for a deadlock, since a worker last woke up; relaxed: a look too many does no harm

  // One cancellation at a time walks over tasks and gathers.
  std::recursive_mutex cancelling;
  class SharedCancel* walk = nullptr;  // the one that goes on, under `cancelling`
  std::uint64_t sweeps = 0;            // requests so far, likewise

  std::recursive_mutex guard;  // of what follows, and of the lists of asynchronous generators
  bool over = false;           // every loop is destroyed
  unsigned loops_gone = 0;
  std::uint64_t gone_elsewhere = 0;  // records that threads which are no workers destroyed
  std::uint64_t left = 0;            // when it is over: records that live

  // After work became visible: wakes a worker if one should look.
  void work_visible() noexcept {
    if (OURO_UNLIKELY(idle.should_wake())) wake_somebody();
  }
  // From any thread.
  void inject(ReadyNode& task) noexcept;
  // Whether a worker that has just fallen asleep, or was the last to search, would leave work lying about. Not
  // `strictly`: what was pushed in the last instants may be missed.
  bool any_visible(bool strictly) noexcept;

 private:
  void wake_somebody() noexcept;
};

// Holds the group's guard; for a single loop nothing.
inline std::unique_lock<std::recursive_mutex> lock_group(const LoopState& loop) {
  return loop.worker ? std::unique_lock(loop.worker->group.guard) : std::unique_lock<std::recursive_mutex>();
}

// Takes out of the wheel, and frees, what was left elsewhere. Threads: the worker's, or none that runs.
void free_left_timers(Worker& worker) noexcept;
// The worker that runs on this thread, or nullptr.
Worker* running_worker() noexcept;
// A loop of a group is destroyed.
void leave_group(LoopState& state) noexcept;
// Destroys the tasks that have not ended. Nothing of the group runs any more.
void bury_tasks(WorkerGroup& group) noexcept;
void count_record_in_group(LoopState& home) noexcept;
void discount_record_in_group(LoopState& home) noexcept;

}  // namespace ouro::detail
