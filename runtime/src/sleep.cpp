// The timers of sleeping tasks.
#include <ouro/runtime/sleep.hpp>

#include <ouro/runtime/detail/core.hpp>
#include <ouro/runtime/exceptions.hpp>

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
                                                disarm(*task.home, static_cast<SleepAwaiterBase&>(self).timer_);
                                                task.set(flag_deliver_cancel);
                                                wake(task);
                                                return true;
                                              },
                                              nullptr, nullptr, "sleep"};

void disarm(LoopState& home, TimerNode& timer) noexcept { home.timers->cancel(timer); }
void disarm_timer(LoopState& home, TimerNode& timer) noexcept { home.timers->cancel(timer); }

void throw_nan_delay() { throw ValueError("Invalid delay: NaN (not a number)"); }

}  // namespace ouro::detail
