// sleep: the wait for a time, and with no time at all the yield.
#pragma once

#include <chrono>
#include <cmath>
#include <coroutine>
#include <source_location>
#include <string>
#include <type_traits>
#include <utility>

#include <ouro/runtime/clock.hpp>
#include <ouro/runtime/config.hpp>
#include <ouro/runtime/detail/core.hpp>
#include <ouro/runtime/detail/timer_node.hpp>
#include <ouro/runtime/exceptions.hpp>

namespace ouro {
namespace detail {

// Arms `timer` for `deadline`, or `delay` from now; its task becomes ready then.
OURO_EXPORT void arm_sleep(FutureState& task, TimerNode& timer, Duration delay) noexcept;
OURO_EXPORT void arm_sleep_until(FutureState& task, TimerNode& timer, TimePoint deadline) noexcept;
OURO_EXPORT void disarm(LoopState& home, TimerNode& timer) noexcept;
[[noreturn, gnu::cold]] OURO_EXPORT void throw_nan_delay();

class SleepAwaiterBase : public Waitee {
 public:
  explicit SleepAwaiterBase(Duration delay) noexcept { timer_.deadline = TimePoint(delay); }
  SleepAwaiterBase(SleepAwaiterBase&& other) noexcept { timer_.deadline = other.timer_.deadline; }

  bool await_ready() const noexcept { return false; }

  template <class Promise>
  void await_suspend(std::coroutine_handle<Promise> coroutine,
                     std::source_location where = std::source_location::current()) {
    FutureState& task = task_of(coroutine, "sleep");
    task.leaf = coroutine.address();
    timer_.target = &task;
    const Duration delay = timer_.deadline.time_since_epoch();
    const unsigned flags = task.all_flags();
    if (OURO_UNLIKELY(flags & flag_shared)) return suspend_shared(task, delay, false, where);
    if (delay <= Duration::zero() || (flags & flag_must_cancel)) {
      task.home->ready.push_back(task);
      return;
    }
    kind = &sleep_kind;
    site = where;
    task.waiting_on = this;
    arm_sleep(task, timer_, delay);
  }

  void await_resume() { check_cancelled(*static_cast<FutureState*>(timer_.target)); }

 protected:
  ~SleepAwaiterBase() {
    if (OURO_UNLIKELY(timer_.armed())) disarm(*static_cast<FutureState*>(timer_.target)->home, timer_);
  }

  OURO_EXPORT static const WaiteeKind sleep_kind;
  // In a group. With `until` timer_.deadline is the time itself.
  OURO_EXPORT void suspend_shared(FutureState& task, Duration delay, bool until, std::source_location where) noexcept;
  TimerNode timer_;
};

class SleepAwaiter final : public SleepAwaiterBase {
 public:
  using SleepAwaiterBase::SleepAwaiterBase;
};

class SleepUntilAwaiter final : public SleepAwaiterBase {
 public:
  explicit SleepUntilAwaiter(TimePoint deadline) noexcept : SleepAwaiterBase(deadline.time_since_epoch()) {}

  template <class Promise>
  void await_suspend(std::coroutine_handle<Promise> coroutine,
                     std::source_location where = std::source_location::current()) {
    FutureState& task = task_of(coroutine, "sleep_until");
    task.leaf = coroutine.address();
    timer_.target = &task;
    const unsigned flags = task.all_flags();
    if (OURO_UNLIKELY(flags & flag_shared)) return suspend_shared(task, Duration(1), true, where);
    if (flags & flag_must_cancel) {
      task.home->ready.push_back(task);
      return;
    }
    kind = &sleep_kind;
    site = where;
    task.waiting_on = this;
    arm_sleep_until(task, timer_, timer_.deadline);
  }
};

template <class R>
class SleepResultAwaiter final : public SleepAwaiterBase {
 public:
  SleepResultAwaiter(Duration delay, R result) : SleepAwaiterBase(delay), result_(std::move(result)) {}
  R await_resume() {
    SleepAwaiterBase::await_resume();
    return std::move(result_);
  }

 private:
  R result_;
};

template <class Rep, class Period>
Duration checked_delay(std::chrono::duration<Rep, Period> delay) {
  if constexpr (std::is_floating_point_v<Rep>) {
    if (std::isnan(delay.count())) throw_nan_delay();
  }
  return saturating_duration(delay);
}

}  // namespace detail

// Suspends the current task for at least `delay`. A delay of zero or less gives every other ready task a turn, and
// comes back in the next one.
// Throws: ValueError for a NaN.
// If cancelled: the timer is gone, and CancelledError is thrown.
template <class Rep, class Period>
[[nodiscard("sleep does nothing until it is awaited")]] detail::SleepAwaiter sleep(
    std::chrono::duration<Rep, Period> delay) {
  return detail::SleepAwaiter(detail::checked_delay(delay));
}

// The same, and gives `result`. If cancelled: that is gone, too.
template <class Rep, class Period, class R>
[[nodiscard("sleep does nothing until it is awaited")]] detail::SleepResultAwaiter<std::decay_t<R>> sleep(
    std::chrono::duration<Rep, Period> delay, R&& result) {
  return detail::SleepResultAwaiter<std::decay_t<R>>(detail::checked_delay(delay), std::forward<R>(result));
}

// Suspends the current task until `deadline` on the loop's clock.
// If cancelled: the timer is gone, and CancelledError is thrown.
[[nodiscard("sleep_until does nothing until it is awaited")]] inline detail::SleepUntilAwaiter sleep_until(
    TimePoint deadline) noexcept {
  return detail::SleepUntilAwaiter(deadline);
}

}  // namespace ouro
