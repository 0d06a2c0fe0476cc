// One armed timer, as the wheel links it. It lives in whatever waits (the sleep's awaiter, a TimerHandle), so arming
// allocates nothing; that owner cancels it before it goes.
#pragma once

#include <cstdint>

#include <ouro/runtime/clock.hpp>

namespace ouro::detail {

struct ReadyNode;

// TimerNode::kind, as the loop uses it: what its target is.
inline constexpr std::uint32_t timer_of_task = 0;
inline constexpr std::uint32_t timer_of_callback = 1;
inline constexpr std::uint32_t timer_of_call = 2;  // none: it is a LoopTimer::Node

struct TimerNode {
  static constexpr std::uint32_t not_armed = ~std::uint32_t{0};

  bool armed() const noexcept { return slot != not_armed; }

  TimePoint deadline;              // set by the owner before insert(), constant while armed; max(): never fires
  TimerNode* next;                 // the wheel's, while armed
  TimerNode* prev;                 // the wheel's, while armed
  ReadyNode* target;               // what the loop makes ready; the wheel does not look at it
  std::uint32_t slot = not_armed;  // the list it is in, written by the wheel alone
  std::uint32_t kind;              // free for the loop's use
};

static_assert(sizeof(TimerNode) == 40);

}  // namespace ouro::detail
