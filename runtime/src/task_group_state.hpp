// What a task group is made of: taskgroups.cpp and group_join.cpp.
//
// A child is a node in a list of its group and in the list of its task's waiters. When the task ends, wherever that is,
// the node hears of it, and becomes the place of its error, if there is one. `unfinished` counts the children that have
// not ended, those that are being made, and an abort that is at work; the parent is woken when it comes to zero, by
// whoever brings it there, and that is its last touch.
//
// In a group of loops all of this is under the state's lock. Under it nothing is woken, cancelled, freed or asked for.
// A record in the list is alive while the lock is held, for who ends it has yet to tell the node.
#pragma once

#include <cstddef>
#include <cstdint>
#include <exception>
#include <new>
#include <string>
#include <typeinfo>
#include <utility>
#include <vector>

#include <ouro/runtime/detail/atomic.hpp>
#include <ouro/runtime/detail/core.hpp>
#include <ouro/runtime/detail/frame_pool.hpp>
#include <ouro/runtime/detail/spin_lock.hpp>
#include <ouro/runtime/futures.hpp>

#include "worker.hpp"

namespace ouro::detail {

class TaskGroupState;

struct GroupChild : Waiter {
  GroupChild* before = nullptr;
  GroupChild* after = nullptr;
  struct ChildList* list = nullptr;
  TaskGroupState* group = nullptr;
  FutureState* task = nullptr;
  std::exception_ptr error;
};

struct ChildList {
  GroupChild* first = nullptr;
  GroupChild* last = nullptr;

  void append(GroupChild& child) noexcept {
    child.list = this;
    child.after = nullptr;
    child.before = last;
    (last ? last->after : first) = &child;
    last = &child;
  }
  static void remove(GroupChild& child) noexcept {
    ChildList* list = std::exchange(child.list, nullptr);
    if (!list) return;
    (child.before ? child.before->after : list->first) = child.after;
    (child.after ? child.after->before : list->last) = child.before;
  }
};

inline GroupChild* make_child() { return ::new (allocate_frame(sizeof(GroupChild))) GroupChild; }
inline void free_child(GroupChild& child) noexcept {
  child.~GroupChild();
  free_frame(&child, sizeof(GroupChild));
}

// The type is E itself.
template <class E>
bool is_a(const std::exception_ptr& error) noexcept {
  if (!error) return false;
#ifdef __GLIBCXX__
  return *error.__cxa_exception_type() == typeid(E);  // rethrowing it would cost 1 us
#else
  return exception_as<E>(error) != nullptr;
#endif
}

class TaskGroupState {
 public:
  static TaskGroupState* make() { return ::new (allocate_frame(sizeof(TaskGroupState))) TaskGroupState; }
  void drop() noexcept {
    // Acquire and release: who frees it has what all others did.
    const std::uint32_t left = shared ? refs.fetch_sub(1, std::memory_order_acq_rel) - 1 : lower(refs);
    if (left != 0) return;
    this->~TaskGroupState();
    free_frame(this, sizeof(TaskGroupState));
  }
  void hold() noexcept {
    if (shared) {
      refs.fetch_add(1, std::memory_order_relaxed);
    } else {
      refs.store(refs.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
    }
  }

  class Lock {
   public:
    explicit Lock(TaskGroupState& state) noexcept : lock_(state.shared ? &state.lock : nullptr) {
      if (lock_) lock_->lock();
    }
    ~Lock() { open(); }
    void open() noexcept {
      if (SpinLock* held = std::exchange(lock_, nullptr)) held->unlock();
    }
    Lock(const Lock&) = delete;

   private:
    SpinLock* lock_;
  };

  void enter(FutureState& task);
  std::string describe();
  void ended(GroupChild& child, FutureState& done) noexcept;
  void one_less() noexcept;
  void post_abort() noexcept;
  void abort() noexcept;
  void cancel_children() noexcept;
  std::vector<std::exception_ptr> take_errors();
  void report(const std::string& message, std::exception_ptr exception) noexcept;
  bool closing() const noexcept { return home && (home->closed || (home->worker && home->worker->group.ending)); }

  Atomic<std::uint32_t> refs{1};
  FutureState* parent = nullptr;   // no reference: the group is in its frame
  LoopState* home = nullptr;       // of the parent, when it made the group
  FutureState* waiting = nullptr;  // the parent, while it is suspended in the join
  SpinLock lock;
  ChildList children;  // that have not ended
  ChildList asked;     // likewise, and were cancelled by an abort
  ChildList failed;    // ended, with their errors
  std::exception_ptr base_error;
  std::size_t count = 0;  // in the first two lists
  std::size_t unfinished = 0;
  bool shared = false;
  bool joining = false;  // the body is over
  bool finished = false;
  bool aborting = false;
  bool abort_posted = false;
  bool parent_cancelled = false;  // by the group, in its body
  bool cancelled_in_join = false;
  bool cancel_on_enter = false;
  bool orphaned = false;  // the group object is gone

 private:
  TaskGroupState() = default;
  ~TaskGroupState() {
    while (GroupChild* child = failed.first) {
      ChildList::remove(*child);
      free_child(*child);
    }
  }
  static std::uint32_t lower(Atomic<std::uint32_t>& word) noexcept {
    const std::uint32_t left = word.load(std::memory_order_relaxed) - 1;
    word.store(left, std::memory_order_relaxed);
    return left;
  }
};

}  // namespace ouro::detail
