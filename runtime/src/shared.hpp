// Records that several workers share: those of a group's loops that have flag_shared.
//
// A pinned task is its home loop's, and so is all of its record but what handles reach: the count of references and the
// list of waiters. Who wants to wake or cancel it elsewhere posts to its home.
//
// A floating task runs on one worker at a time, and may be woken, taken and run by another at any moment after it has
// told somebody that it waits. So await_suspend tells as its last act, and touches nothing afterwards.
//
// Who may touch what:
//   refs         Counted atomically. One reference, own_ref, is the task's own: it is let go of when the frame is
//                suspended at its end (leave_shared), so no other thread destroys a frame that still runs. A task of
//                which that is the only one at its end is not suspended there at all.
//   flags        Written by the thread that runs the task, or schedules it; while it is suspended, by whoever holds its
//                lock; flag_done and the outcome by the one who completes it, under the lock, with a release.
//   waiters      Under the lock, until it is done; who completes it takes the whole list.
//   cancel_word  Under the lock: its own highest bit. The count, and word_due: the cancellation that flag_must_cancel
//                says in a record of one thread. The task turns it into that flag when it suspends and when it resumes.
//   waiting_on   Written by the task, under the lock. Set when it is about to tell somebody that it waits; cleared when
//                it runs again and not by who wakes it. So whoever holds the lock and sees it set has a live awaiter
//                before him, though the task may be on its way to run: then what it waited for is done.
//   home         Of a floating task the worker where it ran last, written at each resume. Sleeps and operations are on
//                that worker, and touched there alone: a cancellation from elsewhere is sent there (word_due says
//                meanwhile that it is due, wherever the task resumes).
//
// Private tasks. A gather's child that has not suspended yet (flag_first_step) is known to its gather alone, by nothing
// but the count of the unfinished: no handle names it, no list, no canceller finds it. So it needs no locks: it starts,
// gathers children itself, and ends without an atomic instruction besides those of the deque. publish() ends that: when
// it suspends for something else than children that it gathers, or when somebody asks for a handle. Then it is listed
// in its gather, and so are those above it that wait for their children, up to the first that is listed already. A
// gather that is cancelled or fails does not reach the private ones below it; they look up whenever they would start a
// child (WorkerGroup::aborting).
//
// Locks are held for a few instructions, and never two at a time but in this order: a task's, then that of the gather
// for which it waits, or of the one of which it is a child.
#pragma once

#include <string>
#include <vector>

#include <ouro/runtime/detail/core.hpp>
#include <ouro/runtime/detail/gather_state.hpp>
#include <ouro/runtime/detail/spin_lock.hpp>
#include <ouro/runtime/futures.hpp>

namespace ouro::detail {

struct Worker;
class WorkerGroup;

// Holds the lock of a shared record.
class RecordLock {
 public:
  explicit RecordLock(FutureState& record) noexcept : word_(record.cancel_word) { lock(word_); }
  ~RecordLock() { unlock(word_); }
  RecordLock(const RecordLock&) = delete;

  unsigned word() const noexcept { return __atomic_load_n(&word_, __ATOMIC_RELAXED) & ~unsigned{word_locked}; }
  void set(unsigned bits) noexcept { change(word() | bits); }
  void clear(unsigned bits) noexcept { change(word() & ~bits); }
  void forget_request() noexcept { change(word() - 1); }
  void count_request() noexcept {
    if ((word() & word_requests) != word_requests) change(word() + 1);
  }

 private:
  void change(unsigned word) noexcept {
    __atomic_store_n(&word_, static_cast<std::uint16_t>(word | word_locked), __ATOMIC_RELAXED);
  }
  static void lock(std::uint16_t& word) noexcept {
    std::uint32_t attempt = 0;
    // Acquire: pairs with the release in unlock().
    while (__atomic_fetch_or(&word, word_locked, __ATOMIC_ACQUIRE) & word_locked) {
      while (__atomic_load_n(&word, __ATOMIC_RELAXED) & word_locked) wait_for_lock(attempt++);
    }
  }
  static void unlock(std::uint16_t& word) noexcept {
    const unsigned unlocked = __atomic_load_n(&word, __ATOMIC_RELAXED) & ~unsigned{word_locked};
    __atomic_store_n(&word, static_cast<std::uint16_t>(unlocked), __ATOMIC_RELEASE);
  }

  friend class MaybeLock;
  std::uint16_t& word_;
};

// Holds the lock of a record that is shared; does nothing for another.
class MaybeLock {
 public:
  explicit MaybeLock(FutureState& record) noexcept : word_(record.has(flag_shared) ? &record.cancel_word : nullptr) {
    if (word_) RecordLock::lock(*word_);
  }
  ~MaybeLock() {
    if (word_) RecordLock::unlock(*word_);
  }
  MaybeLock(const MaybeLock&) = delete;

 private:
  std::uint16_t* word_;
};

inline bool is_private(const FutureState& task) noexcept {
  return (task.all_flags() & (flag_first_step | flag_shared)) == (flag_first_step | flag_shared);
}

// The tasks of the group that can be found, and the children of their gathers, behind their parents.
std::vector<FutureHandle> all_shared_tasks(WorkerGroup& group);
// Something else than the library resumed the floating task by hand, here: this is its worker now.
void move_here(FutureState& task) noexcept;
// Ready again, on its home or wherever a worker takes it.
void make_ready(FutureState& task) noexcept;
// False if somebody completes or has completed it. Else nobody else will, until settle_shared().
bool claim(FutureState& future) noexcept;
// It is not completed after all; or it is cancelled, if a cancellation came meanwhile.
void unclaim(FutureState& future) noexcept;
void settle_shared(FutureState& state) noexcept;
// As complete(): true if the frame is to go.
bool complete_shared(FutureState& state) noexcept;
bool link_shared_waiter(FutureState& state, Waiter& waiter) noexcept;      // false if it is done
bool unlink_shared_waiter(FutureState& state, Waiter& waiter) noexcept;    // false if it is being told
bool waits_for_shared(FutureState& state, const Waiter& waiter) noexcept;  // it is linked, and not being told
// What another thread left in the record, a Rare, is destroyed with it. Before its frame goes.
void take_belongings(FutureState& state) noexcept;
bool cancel_shared(FutureState& first, const std::string& message) noexcept;
void destroy_shared(FutureState& state) noexcept;
void destroy_shared_now(FutureState& state) noexcept;  // it is suspended at its end, and has no reference left
// On a thread that is no worker: a gather's child comes to its end, and its frame `goes` if it has no handle. nullptr:
// the frame is to stay.
LoopState* end_elsewhere(GatherState& gather, FutureState& child, bool goes) noexcept;
// Likewise: sends a task that has suspended at its end, and that nobody has, to a loop that
// destroys it. False: that is closed.
bool leave_elsewhere(FutureState& state) noexcept;
// True if the entry of a queue was one of these, which has gone.
bool discard_ended(ReadyNode& node) noexcept;
// Destroys what was left for later on this thread.
void destroy_left_over() noexcept;

// Who destroys records while it holds a lock leaves them for later.
class DeferredDestruction {
 public:
  DeferredDestruction() noexcept;
  ~DeferredDestruction();
  DeferredDestruction(const DeferredDestruction&) = delete;

 private:
  bool outer_;
};

}  // namespace ouro::detail
