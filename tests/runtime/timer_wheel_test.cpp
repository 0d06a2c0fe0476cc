// The wheel against a std::multimap, which keeps deadlines in order and equal ones in order of insertion, under a
// manual clock; then its edges one by one.
#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <new>
#include <random>
#include <vector>

#include <gtest/gtest.h>

#include "timer_wheel.hpp"

namespace {

[[maybe_unused]] bool out_of_memory = false;

}  // namespace

#if !OURO_TSAN  // which has operators of its own, not to be replaced: there no allocation fails
// The wheel asks for memory without exceptions only; every other allocation of the test passes by.
void* operator new[](std::size_t size, const std::nothrow_t&) noexcept {
  if (out_of_memory) return nullptr;
  try {
    return ::operator new[](size);
  } catch (...) {
    return nullptr;
  }
}
#endif

namespace {

using ouro::Duration;
using ouro::TimePoint;
using ouro::detail::TimerNode;
using ouro::detail::TimerWheel;
using namespace std::chrono_literals;

constexpr std::int64_t tick_ns = std::int64_t{1} << 17;

TimePoint at(std::int64_t ns) { return TimePoint(Duration(ns)); }

TimePoint plus(TimePoint base, std::int64_t ns) { return ouro::detail::saturating_add(base, Duration(ns)); }

// A wheel and its model, driven alike and compared at every pop.
class Twin {
 public:
  using Delay = std::function<std::int64_t(std::mt19937_64&)>;

  struct Timer {
    TimerNode node;
    std::multimap<TimePoint, Timer*>::iterator place;
    std::size_t index;
  };

  Twin(std::size_t count, TimePoint start, std::uint64_t seed) : now(start), random(seed), timers_(count) {
    for (Timer& timer : timers_) idle_.push_back(&timer);
  }

  bool arm(TimePoint deadline) {
    if (idle_.empty()) return false;
    Timer* timer = idle_.back();
    idle_.pop_back();
    timer->node.deadline = deadline;
    wheel.insert(timer->node, now);
    timer->place = model_.emplace(deadline, timer);
    timer->index = armed_.size();
    armed_.push_back(timer);
    return true;
  }

  void cancel_any() {
    if (armed_.empty()) return;
    Timer* timer = armed_[random() % armed_.size()];
    wheel.cancel(timer->node);
    forget(timer);
  }

  // Pops one timer from both; false if both agree that nothing is due.
  bool pop() {
    const bool due = !model_.empty() && model_.begin()->first <= now && model_.begin()->first != TimePoint::max();
    const TimePoint promised = wheel.next_deadline();
    TimerNode* node = wheel.pop_due(now);
    if (!due) {
      EXPECT_EQ(node, nullptr);
      return false;
    }
    Timer* expected = model_.begin()->second;
    EXPECT_LE(promised, expected->node.deadline);
    EXPECT_EQ(node, &expected->node);
    if (node != &expected->node) return false;
    EXPECT_FALSE(node->armed());
    forget(expected);
    return true;
  }

  bool agree() const { return wheel.size() == model_.size(); }
  std::size_t armed() const { return armed_.size(); }
  TimePoint nearest() const { return model_.empty() ? TimePoint::max() : model_.begin()->first; }

  TimerWheel wheel;
  TimePoint now;
  std::mt19937_64 random;

 private:
  void forget(Timer* timer) {
    EXPECT_FALSE(timer->node.armed());
    model_.erase(timer->place);
    armed_.back()->index = timer->index;
    std::swap(armed_[timer->index], armed_.back());
    armed_.pop_back();
    idle_.push_back(timer);
  }

  std::vector<Timer> timers_;
  std::vector<Timer*> idle_;
  std::vector<Timer*> armed_;
  std::multimap<TimePoint, Timer*> model_;
};

struct Mix {
  const char* name;
  std::size_t timers;
  int operations;
  std::int64_t start;
  Twin::Delay delay;  // of a new timer
  Twin::Delay step;   // of the clock
};

std::int64_t below(std::mt19937_64& random, std::int64_t limit) {
  return static_cast<std::int64_t>(random() % static_cast<std::uint64_t>(limit));
}

// Around 64^k ticks, to the nanosecond before and after.
std::int64_t boundary(std::mt19937_64& random) {
  const auto level = static_cast<unsigned>(below(random, 8));
  return (tick_ns << (6 * level)) * (1 + below(random, 2)) + below(random, 5) - 2;
}

std::vector<Mix> mixes() {
  const auto any = [](std::int64_t limit) { return [=](std::mt19937_64& random) { return below(random, limit); }; };
  const auto any_scale = [](std::mt19937_64& random) { return below(random, std::int64_t{1} << (1 + random() % 62)); };
  return {
      {"dense", 2000, 200'000, 0, any(20 * tick_ns), any(tick_ns / 50)},
      {"equal", 500, 100'000, 5, [](auto& random) { return below(random, 4) * tick_ns; }, any(tick_ns / 10)},
      {"constant", 3000, 100'000, -77, [](auto&) { return std::int64_t{5'000'000}; }, any(10'000)},
      {"within a tick", 5000, 150'000, -1, any(tick_ns), any(60)},
      {"few values", 2000, 100'000, 1, any(40), any(2)},
      {"past", 2000, 150'000, 1'000'000'000, [](auto& random) { return below(random, 9 * tick_ns) - 8 * tick_ns; },
       any(tick_ns / 100)},
      {"boundaries", 3000, 150'000, 64 * 64 * tick_ns - 1, boundary, boundary},
      {"every scale", 3000, 150'000, INT64_MIN, any_scale, [=](auto& random) { return any_scale(random) >> 12; }},
      {"seconds", 4000, 100'000, -5'000'000'000, any(10'000'000'000), any(20'000'000)},
      {"idle jumps", 20, 100'000, 123, any(3'600'000'000'000), any(3'600'000'000'000)},
      {"large", 60'000, 250'000, 42, any(30'000'000), any(3'000)},
  };
}

enum class Memory { enough, now_and_then };

void run(const Mix& mix, std::uint64_t seed, Memory memory) {
  Twin twin(mix.timers, at(mix.start), seed);
  const int weight = mix.timers > 1000 ? 12 : 8;
  for (int i = 0; i < mix.operations && !testing::Test::HasFailure(); ++i) {
    out_of_memory = memory == Memory::now_and_then && i / 1024 % 4 != 3;
    const auto dice = static_cast<int>(twin.random() % 16);
    if (dice < weight) {
      twin.arm(plus(twin.now, mix.delay(twin.random)));
    } else if (dice < weight + 2) {
      twin.cancel_any();
    } else {
      twin.now = std::min(plus(twin.now, mix.step(twin.random)), at(INT64_MAX - 1));
      // Between two pops: re-arm, cancel what may be due.
      for (int pops = 0; pops < 100 && twin.pop(); ++pops) {
        if (pops % 4 == 1) twin.arm(plus(twin.now, mix.delay(twin.random)));
        if (pops % 8 == 2) twin.cancel_any();
        if (pops % 8 == 3) twin.arm(twin.now);
      }
    }
    ASSERT_TRUE(twin.agree());
  }
  twin.now = at(INT64_MAX - 1);
  while (twin.pop()) {
  }
  ASSERT_TRUE(twin.agree());
  while (twin.armed() > 0) twin.cancel_any();
  out_of_memory = false;
  EXPECT_EQ(twin.wheel.size(), 0U);
  EXPECT_EQ(twin.wheel.next_deadline(), TimePoint::max());
}

TEST(TimerWheelTest, AgreesWithMultimap) {
  for (const Mix& mix : mixes()) {
    SCOPED_TRACE(mix.name);
    run(mix, 1, Memory::enough);
  }
}

TEST(TimerWheelTest, AgreesWithMultimapShortOfMemory) {
  for (Mix& mix : mixes()) {
    SCOPED_TRACE(mix.name);
    mix.operations /= 2;
    run(mix, 2, Memory::now_and_then);
  }
}

class TimerWheelEdges : public testing::Test {
 protected:
  TimerNode& arm(TimePoint deadline) {
    nodes_.push_back(std::make_unique<TimerNode>());
    nodes_.back()->deadline = deadline;
    wheel.insert(*nodes_.back(), now);
    return *nodes_.back();
  }

  TimePoint now{1h};
  TimerWheel wheel;

 private:
  std::vector<std::unique_ptr<TimerNode>> nodes_;
};

TEST_F(TimerWheelEdges, EmptyWheelHasNothing) {
  EXPECT_EQ(wheel.pop_due(TimePoint::max()), nullptr);
  EXPECT_EQ(wheel.pop_any(), nullptr);
  EXPECT_EQ(wheel.next_deadline(), TimePoint::max());
  EXPECT_EQ(wheel.size(), 0U);
}

// T23
TEST_F(TimerWheelEdges, FiresAtItsNanosecondAndNotBefore) {
  for (const std::int64_t delay : {std::int64_t{1}, tick_ns - 1, tick_ns, 64 * tick_ns, 4096 * tick_ns + 7}) {
    TimerNode& timer = arm(now + Duration(delay));
    EXPECT_EQ(wheel.next_deadline(), timer.deadline);
    EXPECT_EQ(wheel.pop_due(timer.deadline - 1ns), nullptr);
    EXPECT_EQ(wheel.next_deadline(), timer.deadline);
    EXPECT_EQ(wheel.pop_due(timer.deadline), &timer);
    now = timer.deadline;
  }
}

// T23
TEST_F(TimerWheelEdges, MaxNeverFiresAndMinFiresAtOnce) {
  TimerNode& endless = arm(TimePoint::max());
  EXPECT_EQ(wheel.next_deadline(), TimePoint::max());
  EXPECT_EQ(wheel.size(), 1U);
  EXPECT_EQ(wheel.pop_due(TimePoint::max()), nullptr);
  TimerNode& last = arm(TimePoint::max() - 1ns);
  TimerNode& first = arm(TimePoint::min());
  EXPECT_EQ(wheel.next_deadline(), TimePoint::min());
  EXPECT_EQ(wheel.pop_due(now), &first);
  EXPECT_EQ(wheel.pop_due(now), nullptr);
  EXPECT_EQ(wheel.pop_due(TimePoint::max()), &last);
  EXPECT_EQ(wheel.pop_due(TimePoint::max()), nullptr);
  wheel.cancel(endless);
  EXPECT_EQ(wheel.size(), 0U);
}

TEST_F(TimerWheelEdges, PastDeadlinesKeepTheirOrder) {
  TimerNode& third = arm(now - 1s);
  TimerNode& first = arm(now - 3s);
  TimerNode& second = arm(now - 2s);
  TimerNode& fourth = arm(now - 1s);
  for (TimerNode* timer : {&first, &second, &third, &fourth}) EXPECT_EQ(wheel.pop_due(now), timer);
}

TEST_F(TimerWheelEdges, EqualDeadlinesFromDifferentTimesKeepTheirOrder) {
  const TimePoint deadline = now + 100s;
  std::vector<TimerNode*> timers;
  for (; now < deadline; now += 1s) {
    timers.push_back(&arm(deadline));
    EXPECT_EQ(wheel.pop_due(now), nullptr);
  }
  for (TimerNode* timer : timers) EXPECT_EQ(wheel.pop_due(deadline), timer);
}

TEST_F(TimerWheelEdges, ClockMayJumpByCenturies) {
  now = TimePoint::min();
  TimerNode& soon = arm(now + 5ms);
  TimerNode& later = arm(now + std::chrono::hours(24 * 365 * 200));
  for (int century = 0; century < 5; ++century) now += std::chrono::hours(24 * 365 * 100);
  EXPECT_EQ(wheel.pop_due(now), &soon);
  EXPECT_EQ(wheel.pop_due(now), &later);
  TimerNode& next = arm(now + 1ns);
  EXPECT_EQ(wheel.pop_due(now), nullptr);
  EXPECT_EQ(wheel.pop_due(now + 1ns), &next);
}

TEST_F(TimerWheelEdges, RearmsFromWithinPopping) {
  TimerNode& timer = arm(now);
  for (int i = 0; i < 1000; ++i) {
    ASSERT_EQ(wheel.pop_due(now), &timer);
    timer.deadline = now += Duration(i * 1000);
    wheel.insert(timer, now);
    ASSERT_EQ(wheel.size(), 1U);
  }
}

TEST_F(TimerWheelEdges, CancelsWithinTheDueList) {
  std::vector<TimerNode*> timers;
  for (int i = 0; i < 9; ++i) timers.push_back(&arm(now + Duration(i)));
  now += 1s;
  EXPECT_EQ(wheel.pop_due(now), timers[0]);
  for (const std::size_t i : {1U, 4U, 8U}) wheel.cancel(*timers[i]);
  for (const std::size_t i : {2U, 3U, 5U, 6U, 7U}) EXPECT_EQ(wheel.pop_due(now), timers[i]);
  EXPECT_EQ(wheel.pop_due(now), nullptr);
}

// Too far before the end of the due list to be searched for, and then alone.
TEST_F(TimerWheelEdges, EarlierThanManyDueOnes) {
  TimerNode& first = arm(now);
  std::vector<TimerNode*> later;
  for (int i = 0; i < 100; ++i) later.push_back(&arm(now + 100ns));
  TimerNode& between = arm(now + 50ns);
  TimerNode& same = arm(now + 50ns);
  EXPECT_EQ(wheel.pop_due(now), &first);
  EXPECT_EQ(wheel.pop_due(now), nullptr);
  EXPECT_EQ(wheel.next_deadline(), between.deadline);
  for (TimerNode* timer : later) wheel.cancel(*timer);
  EXPECT_EQ(wheel.pop_due(now + 49ns), nullptr);
  EXPECT_EQ(wheel.next_deadline(), between.deadline);
  EXPECT_EQ(wheel.pop_due(now + 50ns), &between);
  EXPECT_EQ(wheel.pop_due(now + 50ns), &same);
  EXPECT_EQ(wheel.pop_due(now + 1s), nullptr);
}

TEST_F(TimerWheelEdges, EarlierThanDueOnesThatAreAllCancelled) {
  std::vector<TimerNode*> others{&arm(now)};
  for (int i = 0; i < 100; ++i) others.push_back(&arm(now + 100ns));
  TimerNode& between = arm(now + 50ns);
  for (TimerNode* timer : others) wheel.cancel(*timer);
  EXPECT_EQ(wheel.pop_due(now + 49ns), nullptr);
  EXPECT_EQ(wheel.next_deadline(), between.deadline);
  EXPECT_EQ(wheel.pop_due(now + 50ns), &between);
}

TEST_F(TimerWheelEdges, PopAnyEmptiesEveryList) {
  for (unsigned k = 0; k < 62; ++k) arm(plus(now, std::int64_t{1} << k));
  for (int i = 0; i < 40; ++i) arm(now - Duration(i));
  arm(TimePoint::max());
  std::size_t count = 0;
  for (; TimerNode* node = wheel.pop_any(); ++count) EXPECT_FALSE(node->armed());
  EXPECT_EQ(count, 103U);
  EXPECT_EQ(wheel.size(), 0U);
  EXPECT_EQ(wheel.next_deadline(), TimePoint::max());
}

// With many timers armed, waypoints are set; one of them becomes the head of its list for some k.
TEST_F(TimerWheelEdges, CancelsFromTheFrontAmongMany) {
  for (int i = 0; i < 20'000; ++i) arm(now + 10h);
  std::vector<TimerNode> nodes(200);
  for (std::size_t k = 0; k < 130; ++k, now += 1s) {
    for (TimerNode& node : nodes) {
      node.deadline = now + 1ms;
      wheel.insert(node, now);
    }
    for (std::size_t i = 0; i < k; ++i) wheel.cancel(nodes[i]);
    for (std::size_t i = k; i < nodes.size(); ++i) ASSERT_EQ(wheel.pop_due(now + 1ms), &nodes[i]);
    ASSERT_EQ(wheel.pop_due(now + 1ms), nullptr);
    ASSERT_EQ(wheel.size(), 20'000U);
  }
}

// Each would take minutes if an insertion walked over what is armed already.
TEST_F(TimerWheelEdges, FloodsIntoTheCurrentTick) {
  constexpr std::size_t count = 1'000'000;
  std::vector<TimerNode> nodes(count);
  const auto flood = [&](auto delay) {
    for (std::size_t i = 0; i < count; ++i) {
      nodes[i].deadline = now + Duration(delay(static_cast<std::int64_t>(i)));
      wheel.insert(nodes[i], now);
    }
    TimePoint last = TimePoint::min();
    for (std::size_t i = 0; i < count; ++i) {
      TimerNode* node = wheel.pop_due(now + 1s);
      ASSERT_NE(node, nullptr);
      ASSERT_GE(node->deadline, last);
      last = node->deadline;
    }
    now += 2s;
  };
  flood([](std::int64_t i) { return i / 10; });
  flood([](std::int64_t) { return 0; });
  flood([](std::int64_t i) { return -i; });
  flood([](std::int64_t i) { return i * 7919 % tick_ns; });
}

}  // namespace
