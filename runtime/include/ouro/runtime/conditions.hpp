// Condition and Barrier: waiting for what other tasks bring about. The head of locks.hpp holds for them, too.
#pragma once

#include <concepts>
#include <coroutine>
#include <cstddef>
#include <exception>
#include <functional>
#include <source_location>
#include <type_traits>
#include <utility>

#include <ouro/runtime/config.hpp>
#include <ouro/runtime/coroutine.hpp>
#include <ouro/runtime/detail/core.hpp>
#include <ouro/runtime/detail/wait_list.hpp>
#include <ouro/runtime/exceptions.hpp>
#include <ouro/runtime/locks.hpp>

namespace ouro {
namespace detail {

// Those who wait for a condition.
class OURO_EXPORT ConditionState : public SyncState {
 public:
  ConditionState() noexcept = default;
  ~ConditionState() { waiting_.let_go_if_any(); }
  // Wakes as many, those who have waited longest.
  void wake_some(std::size_t n) noexcept;

  static const SyncKind kind;

 private:
  WaitList waiting_;
};

// Waits to be notified, and releases the lock when it does: a notification that comes after that finds it waiting.
class ConditionAwaiter final : public ListWaiter {
 public:
  ConditionAwaiter(ConditionState& condition, Lock& lock) noexcept : ListWaiter(condition), lock_(&lock) {}
  ConditionAwaiter(ConditionAwaiter&&) noexcept = default;

  bool await_ready() const noexcept { return false; }
  template <class Promise>
  void await_suspend(std::coroutine_handle<Promise> coroutine,
                     std::source_location where = std::source_location::current()) {
    Lock* const lock = lock_;
    suspend(task_of(coroutine, "Condition"), coroutine.address(), ConditionState::kind, where);
    lock->release();
  }
  void await_resume() { resume(); }

 private:
  Lock* lock_;
};

// The state of a barrier, asyncio's: tasks come while it fills, and leave while it drains or is reset.
class OURO_EXPORT BarrierState : public SyncState {
 public:
  enum class Phase : unsigned char { filling, draining, resetting, broken };

  // Throws: ValueError for less than one.
  explicit BarrierState(int parties);
  ~BarrierState() { waiting_.let_go_if_any(); }

  // The place of one that came, or -1: it has to wait until those before have left. The last one lets all go.
  // Throws: BrokenBarrierError.
  int arrive();
  // After the wait: throws BrokenBarrierError if the barrier was broken or reset.
  void check_drains() const;
  void leave() noexcept;
  void reset() noexcept;
  void abort() noexcept;

  int parties() const noexcept { return parties_; }
  int n_waiting() const noexcept;
  bool broken() const noexcept { return phase() == Phase::broken; }
  bool fills() const noexcept { return phase() == Phase::filling; }

  static const SyncKind until_drained;
  static const SyncKind until_full;

 private:
  Phase phase() const noexcept {
    const Hold hold(*this);
    return phase_;
  }
  void enter_phase(Phase phase, Wakes& wakes) noexcept;
  bool blocks() const noexcept { return phase_ == Phase::draining || phase_ == Phase::resetting; }

  const int parties_;
  int count_ = 0;
  Phase phase_ = Phase::filling;
  WaitList waiting_;
};

// Waits until the barrier's phase changes.
class BarrierAwaiter final : public ListWaiter {
 public:
  BarrierAwaiter(BarrierState& barrier, const SyncKind& how) noexcept : ListWaiter(barrier), how_(&how) {}
  BarrierAwaiter(BarrierAwaiter&&) noexcept = default;

  bool await_ready() const noexcept { return false; }
  template <class Promise>
  void await_suspend(std::coroutine_handle<Promise> coroutine,
                     std::source_location where = std::source_location::current()) {
    suspend(task_of(coroutine, "Barrier"), coroutine.address(), *how_, where);
  }
  void await_resume() { resume(); }

 private:
  const SyncKind* how_;
};

// co_await of what is done at once, as asyncio has it.
class [[nodiscard("it does nothing until it is awaited")]] BarrierAction final {
 public:
  BarrierAction(BarrierState& barrier, void (BarrierState::*action)() noexcept) noexcept
      : barrier_(&barrier), action_(action) {}

  bool await_ready() const noexcept {
    (barrier_->*action_)();
    return true;
  }
  void await_suspend(std::coroutine_handle<>) const noexcept {}
  void await_resume() const noexcept {}

 private:
  BarrierState* barrier_;
  void (BarrierState::*action_)() noexcept;
};

}  // namespace detail

OURO_TRANSFER_NAMESPACE {

// Tasks that hold a lock wait until others that hold it say that something has changed.
class Condition {
 public:
  // With a lock of its own, or with one that others use as well.
  Condition() noexcept : lock_(&own_) {}
  explicit Condition(Lock& lock) noexcept : lock_(&lock) {}
  Condition(const Condition&) = delete;
  Condition& operator=(const Condition&) = delete;

  // The lock's. If cancelled: as Lock's.
  auto acquire() noexcept { return lock_->acquire(); }
  // If cancelled: as Lock's.
  auto scoped() noexcept { return lock_->scoped(); }
  void release() { lock_->release(); }
  bool locked() const noexcept { return lock_->locked(); }

  // Releases the lock, waits until it is notified, and acquires the lock again. Gives true, as asyncio does. It may
  // return though nobody notified it: ask for what you wait for, or use wait_for().
  // Suspends: always. Throws: RuntimeError if the lock is not locked, and for a condition of another loop.
  // If cancelled: the lock is acquired again all the same; a notification that it got goes to another.
  Coroutine<bool> wait() {
    if (!lock_->locked()) throw RuntimeError("cannot wait on un-acquired lock");
    std::exception_ptr error;
    try {
      detail::ConditionAwaiter notified(state_, *lock_);
      co_await std::move(notified);
    } catch (const CancelledError&) {
      error = std::current_exception();
    }
    for (bool acquired = false; !acquired;) {
      try {
        acquired = co_await lock_->acquire();
      } catch (const CancelledError&) {
        error = std::current_exception();  // the last one is what the caller hears of
      }
    }
    if (error) {
      state_.wake_some(1);
      std::rethrow_exception(error);
    }
    co_return true;
  }

  // Waits until `predicate()`, which is called with the lock held, gives what counts as true; gives that.
  // With g++ 12 a predicate that owns something is named before the co_await, and moved in.
  // If cancelled: as wait().
  template <class Predicate>
    requires std::invocable<Predicate&>
  Coroutine<std::decay_t<std::invoke_result_t<Predicate&>>> wait_for(Predicate predicate) {
    for (;;) {
      auto result = std::invoke(predicate);
      if (result) co_return result;
      co_await wait();
    }
  }

  // Wakes as many of those who wait, or all: they go on when they get the lock.
  // Throws: RuntimeError if the lock is not locked.
  void notify(std::size_t n = 1) {
    if (!lock_->locked()) throw RuntimeError("cannot notify on un-acquired lock");
    state_.wake_some(n);
  }
  void notify_all() { notify(static_cast<std::size_t>(-1)); }

 private:
  Lock own_;
  Lock* lock_;
  detail::ConditionState state_;
};

// So many tasks wait for each other, again and again.
class Barrier {
 public:
  // Throws: ValueError for less than one.
  explicit Barrier(int parties) : state_(parties) {}
  Barrier(const Barrier&) = delete;
  Barrier& operator=(const Barrier&) = delete;

  // Waits until as many tasks wait as there are parties; then all go on. Gives the place in which the caller came, from
  // 0. Who comes while the ones before have not all gone on waits for the next round.
  // Throws: BrokenBarrierError if the barrier is, or is meanwhile, broken, or reset.
  // If cancelled: the caller does not count; the others need one more.
  Coroutine<int> wait() {
    int place = state_.arrive();
    while (place < 0) {
      detail::BarrierAwaiter drained(state_, detail::BarrierState::until_drained);
      co_await std::move(drained);
      place = state_.arrive();
    }
    struct Departure {
      detail::BarrierState& barrier;
      explicit Departure(detail::BarrierState& of) noexcept : barrier(of) {}
      Departure(const Departure&) = delete;
      ~Departure() { barrier.leave(); }
    } const departure(state_);
    if (place + 1 < state_.parties()) {
      while (state_.fills()) {
        detail::BarrierAwaiter full(state_, detail::BarrierState::until_full);
        co_await std::move(full);
      }
      state_.check_drains();
    }
    co_return place;
  }

  // Those who wait get BrokenBarrierError; when they have gone the barrier is as new. If cancelled: it never waits.
  auto reset() noexcept { return detail::BarrierAction(state_, &detail::BarrierState::reset); }
  // Those who wait, and who come, get BrokenBarrierError, until reset(). If cancelled: it never waits.
  auto abort() noexcept { return detail::BarrierAction(state_, &detail::BarrierState::abort); }

  int parties() const noexcept { return state_.parties(); }
  // How many wait until it is full.
  int n_waiting() const noexcept { return state_.n_waiting(); }
  bool broken() const noexcept { return state_.broken(); }

 private:
  detail::BarrierState state_;
};

}  // namespace transfer
}  // namespace ouro
