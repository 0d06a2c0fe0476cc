// Lock, Event, Semaphore, BoundedSemaphore and RWLock: how tasks wait for each other. All are fair, first come, first
// served, and a waiter that is cancelled passes its turn on. Condition and Barrier are in conditions.hpp.
//
// Made inside a loop that is alone, an object is that loop's, and costs no atomic instruction. Made in a group of
// loops, or outside any run, it may be used by the tasks of any loop and, where nothing suspends, from any thread: with
// one atomic instruction to acquire, one to release.
//
// Lifetime, of all: until the waits for it have returned, and the guards of it have gone.
#pragma once

#include <coroutine>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <source_location>
#include <type_traits>
#include <utility>

#include <ouro/runtime/config.hpp>
#include <ouro/runtime/detail/atomic.hpp>
#include <ouro/runtime/detail/core.hpp>
#include <ouro/runtime/detail/wait_list.hpp>
#include <ouro/runtime/exceptions.hpp>

namespace ouro {

class Lock;
class Event;
class Semaphore;
class RWLock;

namespace detail {

// Ways to wait for an object: what is tried without waiting, how one waits, what a task that was woken does when it
// runs, and how what it got is given back.
struct OURO_EXPORT LockWay {
  using Object = Lock;
  static const SyncKind kind;
  static bool try_take(Lock& lock) noexcept;
  static void took(Lock& lock, ListWaiter& waiter) noexcept;
  static void give_back(Lock& lock);
};
struct OURO_EXPORT EventWay {
  using Object = Event;
  static const SyncKind kind;
  static bool try_take(Event& event) noexcept;
  static void took(Event& event, ListWaiter& waiter) noexcept;
};
struct OURO_EXPORT SemaphoreWay {
  using Object = Semaphore;
  static const SyncKind kind;
  static bool try_take(Semaphore& semaphore) noexcept;
  static void took(Semaphore& semaphore, ListWaiter& waiter) noexcept;
  static void give_back(Semaphore& semaphore);
};
struct OURO_EXPORT ReadWay {
  using Object = RWLock;
  static const SyncKind kind;
  static bool try_take(RWLock& lock) noexcept;
  static void took(RWLock& lock, ListWaiter& waiter) noexcept;
  static void give_back(RWLock& lock);
};
struct OURO_EXPORT WriteWay {
  using Object = RWLock;
  static const SyncKind kind;
  static bool try_take(RWLock& lock) noexcept;
  static void took(RWLock& lock, ListWaiter& waiter) noexcept;
  static void give_back(RWLock& lock);
};

// What `scoped()` gives: it gives back what was acquired when it goes, or when release() is called on it.
// Requires: nobody else gives that back meanwhile; a guard that goes and finds nothing to give back ends the program.
template <class Way>
class [[nodiscard("what it holds is given back at once")]] Guard {
 public:
  using Object = typename Way::Object;

  Guard() noexcept = default;
  explicit Guard(Object& held) noexcept : held_(&held) {}
  Guard(Guard&& other) noexcept : held_(std::exchange(other.held_, nullptr)) {}
  Guard& operator=(Guard&& other) noexcept {
    Guard(std::move(other)).swap(*this);
    return *this;
  }
  ~Guard() {
    if (held_) Way::give_back(*held_);
  }
  void swap(Guard& other) noexcept { std::swap(held_, other.held_); }

  void release() {
    if (held_) Way::give_back(*std::exchange(held_, nullptr));
  }
  explicit operator bool() const noexcept { return held_ != nullptr; }

 private:
  Object* held_ = nullptr;
};

// co_await of an acquisition. `Result` is a guard, or bool: true, as asyncio has it.
template <class Way, class Result>
class [[nodiscard("it does nothing until it is awaited")]] AcquireAwaiter final : public ListWaiter {
 public:
  using Object = typename Way::Object;

  explicit AcquireAwaiter(Object& object) noexcept : ListWaiter(object) {}

  bool await_ready() const noexcept { return Way::try_take(object()); }

  template <class Promise>
  void await_suspend(std::coroutine_handle<Promise> coroutine,
                     std::source_location where = std::source_location::current()) {
    suspend(task_of(coroutine, Way::kind.what), coroutine.address(), Way::kind, where);
  }

  Result await_resume() {
    if (OURO_UNLIKELY(has_waited())) {
      resume();
      Way::took(object(), *this);
    }
    if constexpr (std::is_same_v<Result, bool>) {
      return true;
    } else {
      return Result(object());
    }
  }

 private:
  Object& object() const noexcept { return static_cast<Object&>(*object_); }
};

}  // namespace detail

// One task at a time. Not reentrant.
class OURO_EXPORT Lock : public detail::SyncState {
 public:
  using Guard = detail::Guard<detail::LockWay>;

  Lock() noexcept = default;
  ~Lock() {
    waiting_.let_go_if_any();
    woken_.let_go_if_any();
  }

  // Waits until it is the caller's turn, and locks it. Gives true, as asyncio does.
  // Suspends: unless it is unlocked, and nobody is about to lock it. Throws: RuntimeError for a lock of another loop.
  // If cancelled: it is not locked by the caller, and whose turn is next has it.
  auto acquire() noexcept { return detail::AcquireAwaiter<detail::LockWay, bool>(*this); }
  // The same, and gives a Guard, which unlocks it. If cancelled: as acquire().
  auto scoped() noexcept { return detail::AcquireAwaiter<detail::LockWay, Guard>(*this); }
  // Locks it if it is unlocked and nobody is about to lock it.
  bool try_acquire() noexcept {
    if (OURO_UNLIKELY(!home_)) return try_acquire_shared();
    if (state_ != State::unlocked) return false;
    state_ = State::locked;
    note_this_task(holder_);
    return true;
  }

  // Unlocks it; whoever has waited longest locks it when it runs, and nobody else before.
  // Throws: RuntimeError if it is not locked.
  void release() {
    if (OURO_LIKELY(home_ && state_ == State::locked && waiting_.empty())) {
      state_ = State::unlocked;
    } else {
      release_or_wake();
    }
  }

  // Not true between a release and the moment in which the next one runs.
  bool locked() const noexcept {
    const Hold hold(*this);
    return state_ == State::locked;
  }

 private:
  friend struct detail::LockWay;
  enum class State : std::uint8_t { unlocked, locked, promised };

  bool try_acquire_shared() noexcept;
  void release_or_wake();
  void open(detail::Wakes& wakes) noexcept;

  State state_ = State::unlocked;
  detail::Holder holder_;  // while it is locked
  detail::WaitList waiting_;
  detail::WaitList woken_;  // the one to which it is promised
};

// Tasks wait until it is set.
class OURO_EXPORT Event : public detail::SyncState {
 public:
  Event() noexcept = default;
  ~Event() { waiting_.let_go_if_any(); }

  // Waits until it is set. Gives true, as asyncio does. A task that was woken has waited for long enough, though the
  // event be cleared before it runs.
  // Suspends: unless it is set. Throws: RuntimeError for an event of another loop.
  // If cancelled: nothing is left behind; the event and its other waiters stay as they are.
  auto wait() noexcept { return detail::AcquireAwaiter<detail::EventWay, bool>(*this); }

  // Wakes all who wait, in the order in which they came; who waits from now on does not wait.
  // Complexity: linear in their number.
  void set() noexcept {
    if (OURO_LIKELY(home_ && waiting_.empty())) {
      set_.store(true, std::memory_order_relaxed);
    } else {
      set_and_wake();
    }
  }
  // From now on they wait again. Release: who finds it so sees what was done before, as with set().
  void clear() noexcept { set_.store(false, std::memory_order_release); }
  // Acquire: pairs with the releases in set_and_wake() and clear().
  bool is_set() const noexcept { return set_.load(std::memory_order_acquire); }

 private:
  friend struct detail::EventWay;
  void set_and_wake() noexcept;

  detail::Atomic<bool> set_{false};
  detail::WaitList waiting_;
};

// A number of permits: as many tasks at a time.
class OURO_EXPORT Semaphore : public detail::SyncState {
 public:
  using Guard = detail::Guard<detail::SemaphoreWay>;

  // Throws: ValueError for a negative number.
  explicit Semaphore(std::ptrdiff_t value = 1) : Semaphore(value, std::numeric_limits<std::ptrdiff_t>::max()) {}
  ~Semaphore() {
    waiting_.let_go_if_any();
    woken_.let_go_if_any();
  }

  // Waits until it is the caller's turn, and takes a permit. Gives true, as asyncio does.
  // Suspends: if locked(). Throws: RuntimeError for a semaphore of another loop.
  // If cancelled: no permit is taken; one that was meant for the caller goes to whose turn is next.
  auto acquire() noexcept { return detail::AcquireAwaiter<detail::SemaphoreWay, bool>(*this); }
  // The same, and gives a Guard, which gives the permit back. If cancelled: as acquire().
  auto scoped() noexcept { return detail::AcquireAwaiter<detail::SemaphoreWay, Guard>(*this); }
  // Takes a permit unless locked().
  bool try_acquire() noexcept {
    const Hold hold(*this);
    if (value_ == 0 || anybody()) return false;
    --value_;
    return true;
  }

  // Gives a permit back, or adds one; it goes to whoever has waited longest.
  // Throws: ValueError if there would be more than a BoundedSemaphore began with.
  void release() {
    if (OURO_LIKELY(home_ && value_ < bound_ && waiting_.empty())) {
      ++value_;
    } else {
      release_or_wake();
    }
  }

  // True if acquire() would wait: no permit is there, or others have to run first.
  bool locked() const noexcept {
    const Hold hold(*this);
    return value_ == 0 || anybody();
  }

 protected:
  Semaphore(std::ptrdiff_t value, std::ptrdiff_t bound);

 private:
  friend struct detail::SemaphoreWay;
  bool anybody() const noexcept { return !waiting_.empty() || !woken_.empty(); }
  void release_or_wake();
  void serve(detail::Wakes& wakes) noexcept;

  std::ptrdiff_t value_;
  const std::ptrdiff_t bound_;
  detail::WaitList waiting_;
  detail::WaitList woken_;  // have a permit each, and have not run
};

// One that has never more permits than it began with.
class OURO_EXPORT BoundedSemaphore : public Semaphore {
 public:
  // Throws: ValueError for a negative number.
  explicit BoundedSemaphore(std::ptrdiff_t value = 1) : Semaphore(value, value) {}
};

// Many readers at a time, or one writer. Who comes after a writer that waits, waits as well, so that writers get their
// turn; readers that wait one behind the other get theirs together.
class OURO_EXPORT RWLock : public detail::SyncState {
 public:
  using ReadGuard = detail::Guard<detail::ReadWay>;
  using WriteGuard = detail::Guard<detail::WriteWay>;

  RWLock() noexcept = default;
  ~RWLock() {
    waiting_.let_go_if_any();
    woken_.let_go_if_any();
  }

  // Waits until it is the caller's turn, and lets it read. Gives true.
  // Suspends: unless nobody writes or waits. Throws: RuntimeError for a lock of another loop.
  // If cancelled: the caller does not read, and whose turn is next has it.
  auto acquire_read() noexcept { return detail::AcquireAwaiter<detail::ReadWay, bool>(*this); }
  // The same for writing: nobody else reads or writes.
  // If cancelled: the caller does not write, and whose turn is next has it.
  auto acquire_write() noexcept { return detail::AcquireAwaiter<detail::WriteWay, bool>(*this); }
  // They give guards.
  // If cancelled: as acquire_read().
  auto scoped_read() noexcept { return detail::AcquireAwaiter<detail::ReadWay, ReadGuard>(*this); }
  // If cancelled: as acquire_write().
  auto scoped_write() noexcept { return detail::AcquireAwaiter<detail::WriteWay, WriteGuard>(*this); }
  // Without waiting, if acquire_read() or acquire_write() would not wait.
  bool try_acquire_read() noexcept {
    const Hold hold(*this);
    if (readers_ < 0 || !waiting_.empty()) return false;
    ++readers_;
    note_holder();
    return true;
  }
  bool try_acquire_write() noexcept {
    const Hold hold(*this);
    if (readers_ != 0 || !waiting_.empty()) return false;
    readers_ = writer;
    note_holder();
    return true;
  }

  // Throws: RuntimeError if nobody reads, or writes.
  void release_read();
  void release_write();

  // Somebody reads or writes, or has been given its turn.
  bool locked() const noexcept {
    const Hold hold(*this);
    return readers_ != 0;
  }

 private:
  friend struct detail::ReadWay;
  friend struct detail::WriteWay;
  static constexpr std::ptrdiff_t writer = -1;
  void note_holder() noexcept;
  void forget_holder() noexcept;
  static void tell_holders(const detail::SyncState& object, detail::Needs& needs);
  void serve(detail::Wakes& wakes) noexcept;
  void leave(detail::Wakes& wakes) noexcept;
  static void pass_on(detail::SyncState& object, detail::ListWaiter& waiter, bool woken, detail::Wakes& wakes) noexcept;

  std::ptrdiff_t readers_ = 0;  // or `writer`
  detail::Holder holders_[4];   // some of those who read, or who writes
  detail::WaitList waiting_;
  detail::WaitList woken_;  // count among the readers, or are the writer, and have not run
};

namespace detail {

inline bool LockWay::try_take(Lock& lock) noexcept { return lock.try_acquire(); }
inline void LockWay::give_back(Lock& lock) { lock.release(); }
inline bool EventWay::try_take(Event& event) noexcept {
  if (!event.is_set()) return false;
  const Event::Hold hold(event);  // who has set it has left it then: it may go as soon as this wait has returned
  return true;
}
inline void EventWay::took(Event&, ListWaiter&) noexcept {}
inline bool SemaphoreWay::try_take(Semaphore& semaphore) noexcept { return semaphore.try_acquire(); }
inline void SemaphoreWay::give_back(Semaphore& semaphore) { semaphore.release(); }
inline bool ReadWay::try_take(RWLock& lock) noexcept { return lock.try_acquire_read(); }
inline void ReadWay::give_back(RWLock& lock) { lock.release_read(); }
inline bool WriteWay::try_take(RWLock& lock) noexcept { return lock.try_acquire_write(); }
inline void WriteWay::give_back(RWLock& lock) { lock.release_write(); }

}  // namespace detail
}  // namespace ouro
