// The timers of sleeping tasks.
#include <ouro/runtime/sleep.hpp>

#include <ouro/runtime/detail/core.hpp>
#include <ouro/runtime/exceptions.hpp>

#include "shared.hpp"
#include "timer_wheel.hpp"

namespace ouro::detail {

void arm_sleep_until(FutureState& task, TimerNode& timer, TimePoint deadline) noexcept {
  LoopState& home = *task.home;
  const TimePoint now = home.clock->now();
  timer.deadline = deadline;
  timer.kind = timer_of_task;
  home.timers->insert(timer, now);
  if (deadline <= now) home.attention = true;
}

void arm_sleep(FutureState& task, TimerNode& timer, Duration delay) noexcept {
  LoopState& home = *task.home;
  const TimePoint now = home.clock->now();
  timer.deadline = saturating_add(now, delay);
  timer.kind = timer_of_task;
  home.timers->insert(timer, now);
}

const WaiteeKind SleepAwaiterBase::sleep_kind{[](Waitee& self, FutureState& task, const std::string&) noexcept {
                                                TimerNode& timer = static_cast<SleepAwaiterBase&>(self).timer_;
                                                // In a group: it has fired, and the task is on its way to run.
                                                if (!timer.armed()) return false;
                                                disarm(*task.home, timer);
                                                task.set(flag_deliver_cancel);
                                                wake(task);
                                                return true;
                                              },
                                              nullptr, nullptr, "sleep"};

void SleepAwaiterBase::suspend_shared(FutureState& task, Duration delay, bool until,
                                      std::source_location where) noexcept {
  publish(task);
  if (task.floating()) move_here(task);
  if (delay <= Duration::zero() || task.has(flag_must_cancel)) return make_ready(task);
  kind = &sleep_kind;
  site = where;
  begin_shared_wait(task, *this);
  if (task.has(flag_must_cancel)) return make_ready(task);  // it came meanwhile
  if (until) {
    arm_sleep_until(task, timer_, timer_.deadline);
  } else {
    arm_sleep(task, timer_, delay);
  }
}

void disarm(LoopState& home, TimerNode& timer) noexcept { home.timers->cancel(timer); }
void disarm_timer(LoopState& home, TimerNode& timer) noexcept { home.timers->cancel(timer); }

void throw_nan_delay() { throw ValueError("Invalid delay: NaN (not a number)"); }

}  // namespace ouro::detail
