// What locks, events, semaphores, barriers, queues and channels have in common: an object with lists of tasks that wait
// for it, first come, first served.
//
// Who may touch what. An object that was made on a loop that is alone is that loop's, and nothing about it is atomic.
// One that was made in a group, or outside any run, is shared: a SpinLock guards it, which is taken by one atomic
// instruction and let go of by a plain store. Which of the two it is was decided when it was made (SyncState::home_).
//
// A waiter is the awaiter itself, in the frame of the task that waits. It is in a list of its object
//   waiting   until somebody wakes it, or the task is cancelled, which takes it out at once;
//   woken     from then until its task runs, if it was given something that must not be lost: a lock, a permit, the
//             promise of an item. If it is cancelled meanwhile, or destroyed, it passes that on.
// So an object knows all waiters that have something to do with it, and one that is destroyed lets go of them: a loop
// that closes destroys tasks and what they wait for in any order (but not what they hold). Between threads an object
// must outlive the waits.
//
// In the order of locks the object's comes after those of records (src/shared.hpp). Tasks of a group are woken when the
// lock has been let go of; a task of another loop that is alone is posted to it under the lock: one that was given
// something takes the lock before it goes, so it is there. One that was given nothing does not, and must not be closed
// while others wake it.
#pragma once

#include <coroutine>
#include <cstdint>
#include <source_location>
#include <string>

#include <ouro/runtime/config.hpp>
#include <ouro/runtime/detail/core.hpp>
#include <ouro/runtime/detail/spin_lock.hpp>

namespace ouro::detail {

class ListWaiter;
class SyncState;

// Tasks that become ready when the lock of the object has been let go of: declared before what holds it.
class Wakes {
 public:
  Wakes() noexcept = default;
  Wakes(const Wakes&) = delete;
  ~Wakes() {
    if (OURO_UNLIKELY(first_ != nullptr)) wake_all();
  }
  void add(FutureState& task) noexcept {
    task.next = nullptr;  // it is in no queue
    (last_ ? last_->next : first_) = &task;
    last_ = &task;
  }

 private:
  OURO_EXPORT void wake_all() noexcept;

  ReadyNode* first_ = nullptr;
  ReadyNode* last_ = nullptr;
};

// A circular list, first in, first out.
class WaitList {
 public:
  WaitList() noexcept = default;
  WaitList(const WaitList&) = delete;

  bool empty() const noexcept { return first_ == nullptr; }
  ListWaiter* front() const noexcept { return first_; }
  void push_back(ListWaiter& waiter) noexcept;
  void push_front(ListWaiter& waiter) noexcept;
  void remove(ListWaiter& waiter) noexcept;
  // The object is destroyed.
  void let_go_if_any() noexcept {
    if (OURO_UNLIKELY(first_ != nullptr)) let_go();
  }

 private:
  OURO_EXPORT void let_go() noexcept;

  ListWaiter* first_ = nullptr;
};

// Which task has locked something: for the report of a deadlock alone (src/wait_graph.hpp). Nothing relies on it; the
// task may have ended, and another one lie where it lay.
struct Holder {
  const FutureState* task = nullptr;
  // The numbers of the tasks that were made last before, on the same loop.
  std::uint32_t newest = 0;
  std::uint32_t newest_named = 0;
};

// How one waits for an object. Each is called under the object's lock.
struct SyncKind : WaiteeKind {
  // The list in which it has to wait; nullptr: it need not, and is as one that was woken.
  WaitList* (*enter)(SyncState& object, ListWaiter& waiter) noexcept;
  // It was woken and does not take what it was given, or (not `woken`) it has left its list. nullptr: nothing is to be
  // done.
  void (*pass_on)(SyncState& object, ListWaiter& waiter, bool woken, Wakes& wakes) noexcept;
  // Says who holds it. nullptr: nobody can, or it is not known. Throws: std::bad_alloc.
  void (*holders)(const SyncState& object, Needs& needs) = nullptr;
};

class SyncState {
 public:
  SyncState() noexcept : home_(home_of_new()) {}
  SyncState(const SyncState&) = delete;
  SyncState& operator=(const SyncState&) = delete;

  bool is_shared() const noexcept { return home_ == nullptr; }

 protected:
  ~SyncState() = default;

  // Holds the lock of an object that is shared; does nothing for another.
  class Hold {
   public:
    explicit Hold(const SyncState& object) noexcept : lock_(object.home_ ? nullptr : &object.lock_) {
      if (lock_) lock_->lock();
    }
    ~Hold() {
      if (lock_) lock_->unlock();
    }
    Hold(const Hold&) = delete;

   private:
    SpinLock* lock_;
  };

  friend class ListWaiter;
  // Under the lock: it was woken, and has something of which it must not be forgotten.
  static bool has_something(const ListWaiter& waiter) noexcept;
  // Under the lock: it runs, and has what it was given.
  static void forget(ListWaiter& waiter) noexcept;
  // Under the lock: takes the waiter out of its list, and lets its task run. `into`: the object's list of those who
  // were woken and have something; nullptr: it has nothing more to do with the object.
  OURO_EXPORT static void wake(ListWaiter& waiter, WaitList* into, Wakes& wakes) noexcept;

  // Notes the task that runs here.
  void note_this_task(Holder& holder) const noexcept {
    const LoopState* const here = OURO_LIKELY(home_ != nullptr) ? home_ : loop_of_thread();
    if (OURO_UNLIKELY(!here)) {
      holder = Holder();
      return;
    }
    holder.task = here->current;
    holder.newest = here->last_number;
    holder.newest_named = here->last_named;
  }

  LoopState* const home_;  // the loop of an object that is not shared
  mutable SpinLock lock_;

 private:
  OURO_EXPORT static LoopState* home_of_new() noexcept;
  OURO_EXPORT static const LoopState* loop_of_thread() noexcept;
};

// One that waits, as the base of an awaiter. It may be moved until it is awaited.
class OURO_EXPORT ListWaiter : public Waitee {
 public:
  static constexpr SyncKind kind_of(const char* what, decltype(SyncKind::enter) enter,
                                    decltype(SyncKind::pass_on) pass_on,
                                    decltype(SyncKind::holders) holders = nullptr) noexcept {
    return SyncKind{{&cancel_wait, nullptr, nullptr, what, &tell_needs}, enter, pass_on, holders};
  }

  // Where nobody waits little is written.
  explicit ListWaiter(SyncState& object) noexcept : object_(&object) {}    // NOLINT: see begin()
  ListWaiter(ListWaiter&& other) noexcept : ListWaiter(*other.object_) {}  // NOLINT: it has not been awaited
  ListWaiter& operator=(ListWaiter&&) = delete;

 protected:
  ~ListWaiter() {
    if (OURO_UNLIKELY(task_ != nullptr)) abandon();
  }

  // Begins to wait, unless that is not necessary any more; the task is resumed in any case. In a group nothing of the
  // awaiter may be touched after it. `ahead`: its turn had come, in vain, so it waits before the others.
  // Throws: RuntimeError for an object of another loop.
  void suspend(FutureState& task, void* frame, const SyncKind& of, std::source_location where, bool ahead = false);
  // The task runs again: it was woken.
  // Throws: CancelledError, when what it was given has been passed on.
  void resume();

  bool has_waited() const noexcept { return task_ != nullptr; }

  SyncState* const object_;

 private:
  friend class WaitList;
  friend class SyncState;
  // none: the object has nothing to do with it (any more). orphan: it was destroyed, and nobody wakes the task.
  enum class Stage : std::uint8_t { none, waiting, woken, orphan };

  // Written under the lock. Who reads it without looks again under the lock, unless it says that no object is there.
  Stage stage() const noexcept { return static_cast<Stage>(__atomic_load_n(&stage_, __ATOMIC_RELAXED)); }
  void set_stage(Stage to) noexcept { __atomic_store_n(&stage_, static_cast<std::uint8_t>(to), __ATOMIC_RELAXED); }
  static bool cancel_wait(Waitee& waitee, FutureState& task, const std::string& message) noexcept;
  static void tell_needs(const Waitee& waitee, Needs& needs);
  void abandon() noexcept;
  bool begin(FutureState& task, void* frame, const SyncKind& of, std::source_location where);
  void pass_on(bool woken, Wakes& wakes) noexcept;

  FutureState* task_ = nullptr;  // from the moment in which it begins to wait until it runs again
  // Meaningless before that.
  ListWaiter* next_;
  ListWaiter* prev_;
  WaitList* list_;
  std::uint8_t stage_;
};

inline bool SyncState::has_something(const ListWaiter& waiter) noexcept {
  return waiter.stage() == ListWaiter::Stage::woken;
}

inline void SyncState::forget(ListWaiter& waiter) noexcept {
  waiter.list_->remove(waiter);
  waiter.set_stage(ListWaiter::Stage::none);
}

inline void WaitList::push_back(ListWaiter& waiter) noexcept {
  waiter.list_ = this;
  if (!first_) {
    waiter.next_ = waiter.prev_ = &waiter;
    first_ = &waiter;
    return;
  }
  waiter.next_ = first_;
  waiter.prev_ = first_->prev_;
  first_->prev_->next_ = &waiter;
  first_->prev_ = &waiter;
}

inline void WaitList::push_front(ListWaiter& waiter) noexcept {
  push_back(waiter);
  first_ = &waiter;
}

inline void WaitList::remove(ListWaiter& waiter) noexcept {
  if (waiter.next_ == &waiter) {
    first_ = nullptr;
  } else {
    waiter.prev_->next_ = waiter.next_;
    waiter.next_->prev_ = waiter.prev_;
    if (first_ == &waiter) first_ = waiter.next_;
  }
  waiter.next_ = waiter.prev_ = nullptr;
  waiter.list_ = nullptr;
}

}  // namespace ouro::detail
