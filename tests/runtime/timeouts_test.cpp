// timeout and timeout_at: the scope, its counts, and who hears of what.
#include <gmock/gmock.h>

#include <chrono>
#include <cmath>
#include <exception>
#include <limits>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>

#include <ouro/runtime/gather.hpp>
#include <ouro/runtime/sleep.hpp>
#include <ouro/runtime/tasks.hpp>
#include <ouro/runtime/timeouts.hpp>

#include "support/manual_clock.hpp"

namespace ouro {
namespace {

using namespace std::chrono_literals;
using test::describe;
using test::end_of;
using testing::StrEq;

class TimeoutTest : public testing::Test {
 protected:
  template <class A>
  decltype(auto) run(A&& awaitable) {
    return sim.loop().run_until_complete(std::forward<A>(awaitable));
  }
  Duration passed() { return sim.clock().now() - start; }

  test::SimulatedLoop sim;
  const TimePoint start = sim.clock().now();
};

// What awaiting it threw, or "".

Coroutine<int> sleeps_for(Duration delay, int result = 7) {
  co_await sleep(delay);
  co_return result;
}
constexpr const char* timed_out = "TimeoutError: the deadline has passed";

// B207
TEST_F(TimeoutTest, WhatEndsInTimeGivesItsResult) {
  EXPECT_EQ(run(timeout(10ms, sleeps_for(1ms))), 7);
  EXPECT_EQ(passed(), 1ms);
  const auto main = []() -> Coroutine<bool> {
    bool expired = true;
    co_await timeout(10ms, [&](Timeout& scope) -> Coroutine<> {
      co_await sleep(1ms);
      expired = scope.expired();
    });
    co_await sleep(20ms);  // the timer is gone
    co_return expired;
  };
  EXPECT_FALSE(run(main()));
}

TEST_F(TimeoutTest, TheDeadlineThrowsTimeoutError) {
  EXPECT_EQ(run(end_of(timeout(10ms, sleeps_for(1s)))), timed_out);
  EXPECT_EQ(passed(), 10ms);
  EXPECT_EQ(run(end_of(timeout_at(start + 15ms, sleeps_for(1s)))), timed_out);
  EXPECT_EQ(passed(), 15ms);
  EXPECT_EQ(run(end_of(timeout(10ms, sleep(1h)))), timed_out);  // no coroutine of its own
}

// B208
TEST_F(TimeoutTest, WithoutADeadlineItNeverFires) {
  EXPECT_EQ(run(timeout(std::nullopt, sleeps_for(1h))), 7);
  EXPECT_EQ(run(timeout_at(std::nullopt, sleeps_for(1h))), 7);
  EXPECT_EQ(run(timeout(std::optional<std::chrono::seconds>(), sleeps_for(1h))), 7);
  const auto main = []() -> Coroutine<bool> {
    co_return co_await timeout(std::nullopt, [](Timeout& scope) -> Coroutine<bool> {
      co_await sleep(1ms);
      co_return scope.when().has_value();
    });
  };
  EXPECT_FALSE(run(main()));
}

TEST_F(TimeoutTest, AnEndlessDelayNeverFires) {
  EXPECT_EQ(run(timeout(std::chrono::duration<double>(std::numeric_limits<double>::infinity()), sleeps_for(1h))), 7);
  EXPECT_THROW(static_cast<void>(timeout(std::chrono::duration<double>(std::nan("")), sleep(1h))), ValueError);
}

// B209
TEST_F(TimeoutTest, ADeadlineThatHasPassedCancelsAtTheFirstAwait) {
  for (const Duration delay : {Duration(0ms), Duration(-1s)}) {
    EXPECT_EQ(run(end_of(timeout(delay, sleeps_for(1h)))), timed_out);
    EXPECT_EQ(run(end_of(timeout(delay, sleeps_for(0s)))), timed_out);  // also where it only yields
    EXPECT_EQ(run(end_of(timeout_at(start - 1s, sleeps_for(0s)))), timed_out);
  }
  EXPECT_EQ(passed(), 0s);
  const auto at_once = []() -> Coroutine<int> { co_return 3; };
  EXPECT_EQ(run(timeout(0s, at_once())), 3);  // there was none
  EXPECT_EQ(run(sleeps_for(0s)), 7);          // and nothing is left behind
}

// B210
TEST_F(TimeoutTest, OtherErrorsPassThrough) {
  const auto fails = [](Duration after) -> Coroutine<> {
    try {
      co_await sleep(after);
    } catch (const CancelledError&) {
    }
    throw std::runtime_error("its own");
  };
  EXPECT_EQ(run(end_of(timeout(10ms, fails(1ms)))), "exception: its own");
  EXPECT_EQ(run(end_of(timeout(10ms, fails(1h)))), "exception: its own");  // though the deadline has passed
  const auto counts = [&]() -> Coroutine<int> {
    static_cast<void>(co_await end_of(timeout(10ms, fails(1h))));
    co_return current_task().cancelling();
  };
  EXPECT_EQ(run(counts()), 0);
}

// B211
TEST_F(TimeoutTest, TheCancellationIsNestedInTheTimeoutError) {
  const auto main = []() -> Coroutine<std::string> {
    try {
      co_await timeout(1ms, sleeps_for(1h));
    } catch (const TimeoutError& error) {
      try {
        std::rethrow_if_nested(error);
      } catch (...) {
        co_return describe(std::current_exception());
      }
    }
    co_return "nothing";
  };
  EXPECT_EQ(run(main()), "CancelledError: ");
}

// B212
TEST_F(TimeoutTest, ACancellationBeforeTheDeadlineStaysOne) {
  const auto main = []() -> Coroutine<std::string> {
    auto task = create_task(timeout(1h, sleeps_for(2h)));
    co_await sleep(1ms);
    task.cancel("by hand");
    std::string end = co_await end_of(task);
    co_return end + (task.cancelled() ? ", cancelled" : "");
  };
  EXPECT_EQ(run(main()), "CancelledError: by hand, cancelled");
}

// B212: the body gives itself up.
TEST_F(TimeoutTest, ACancelledErrorOfTheBodysOwnIsNoTimeout) {
  const auto gives_up = []() -> Coroutine<> {
    co_await sleep(1ms);
    throw CancelledError("mine");
  };
  EXPECT_EQ(run(end_of(timeout(1h, gives_up()))), "CancelledError: mine");
}

// B213
TEST_F(TimeoutTest, AfterwardsTheTaskIsNotCancelled) {
  const auto main = []() -> Coroutine<int> {
    EXPECT_EQ(co_await end_of(timeout(1ms, sleeps_for(1h))), timed_out);
    EXPECT_EQ(current_task().cancelling(), 0);
    co_return co_await sleeps_for(1ms, 5);
  };
  EXPECT_EQ(run(main()), 5);
}

TEST_F(TimeoutTest, TheInnerDeadlineIsTheInnerScopes) {
  const auto main = []() -> Coroutine<std::string> {
    co_return co_await timeout(1h, [](Timeout& outer) -> Coroutine<std::string> {
      const std::string end = co_await end_of(timeout(1ms, sleeps_for(1h)));
      EXPECT_FALSE(outer.expired());
      co_await sleep(1ms);
      co_return end;
    });
  };
  EXPECT_EQ(run(main()), timed_out);
}

TEST_F(TimeoutTest, TheOuterDeadlineIsTheOuterScopes) {
  const auto main = []() -> Coroutine<std::string> {
    std::string inner;
    const auto body = [&]() -> Coroutine<> {
      try {
        co_await timeout(1h, sleeps_for(2h));
      } catch (...) {
        inner = describe(std::current_exception());
        throw;
      }
    };
    const std::string outer = co_await end_of(timeout(1ms, body));
    co_return inner + "; " + outer;
  };
  EXPECT_EQ(run(main()), std::string("CancelledError: ; ") + timed_out);
}

// B215: what the inner one hears of is not its deadline's cancellation alone, so it stays one; the outer one's counts.
TEST_F(TimeoutTest, BothDeadlinesPassedWhileTheLoopWasBusy) {
  const auto main = [this]() -> Coroutine<std::string> {
    std::string inner;
    const auto body = [&]() -> Coroutine<> {
      try {
        co_await timeout(1ms, [&](Timeout&) -> Coroutine<> {
          sim.clock().advance(1s);  // the loop was busy
          co_await sleep(1ms);
        });
      } catch (...) {
        inner = describe(std::current_exception());
        throw;
      }
    };
    const std::string outer = co_await end_of(timeout(10ms, body));
    EXPECT_EQ(current_task().cancelling(), 0);
    co_return inner + "; " + outer;
  };
  EXPECT_EQ(run(main()), std::string("CancelledError: ; ") + timed_out);
}

// B217, T3: what was asked for before the scope counts as it did.
TEST_F(TimeoutTest, RequestsFromBeforeTheScopeDoNotCount) {
  const auto main = [](bool another) -> Coroutine<std::string> {
    current_task().cancel();
    EXPECT_EQ(co_await end_of(sleep(1h)), "CancelledError: ");
    EXPECT_EQ(current_task().cancelling(), 1);
    const auto body = [&]() -> Coroutine<> {
      if (another) current_task().cancel("another");
      co_await sleep(1h);
    };
    std::string end = co_await end_of(timeout(1ms, body));
    EXPECT_EQ(current_task().cancelling(), another ? 2 : 1);
    co_return end;
  };
  EXPECT_EQ(run(main(false)), timed_out);
  EXPECT_EQ(run(main(true)), "CancelledError: another");
}

// T3: a request that the task has not heard of when it enters is not swallowed by a deadline that has passed.
TEST_F(TimeoutTest, ACancellationFromJustBeforeTheScopeIsNotSwallowed) {
  const auto main = [](Duration delay) -> Coroutine<std::string> {
    current_task().cancel("before");
    co_return co_await end_of(timeout(delay, sleeps_for(1h)));
  };
  EXPECT_THAT(run(main(0s)), StrEq("CancelledError: "));  // the deadline's own cancel() took the message
  EXPECT_EQ(run(main(1h)), "CancelledError: before");
}

// T3: the other order.
TEST_F(TimeoutTest, ACancellationAfterTheDeadlineIsNotSwallowed) {
  const auto main = []() -> Coroutine<std::string> {
    const auto body = []() -> Coroutine<> {
      try {
        co_await sleep(1h);
      } catch (const CancelledError&) {
        current_task().cancel("after");
        throw;
      }
    };
    const std::string end = co_await end_of(timeout(1ms, body));
    EXPECT_EQ(current_task().cancelling(), 1);
    co_return end + "; " + co_await end_of(sleep(1h));
  };
  EXPECT_EQ(run(main()), "CancelledError: ; CancelledError: after");
}

// T4
TEST_F(TimeoutTest, WhoSwallowsTheCancellationGoesOn) {
  const auto main = []() -> Coroutine<int> {
    const auto body = [](Timeout& scope) -> Coroutine<int> {
      static_cast<void>(co_await end_of(sleep(1h)));
      EXPECT_TRUE(scope.expired());
      co_return co_await sleeps_for(1h, 9);
    };
    const int result = co_await timeout(1ms, body);
    EXPECT_EQ(current_task().cancelling(), 0);
    co_return result;
  };
  EXPECT_EQ(run(main()), 9);
}

TEST_F(TimeoutTest, CanBeRescheduled) {
  const auto main = [this]() -> Coroutine<> {
    co_await timeout(1ms, [this](Timeout& scope) -> Coroutine<> {
      EXPECT_EQ(scope.when(), start + 1ms);
      scope.reschedule(start + 1h);
      EXPECT_EQ(scope.when(), start + 1h);
      co_await sleep(10ms);
      scope.reschedule(std::nullopt);
      EXPECT_EQ(scope.when(), std::nullopt);
      co_await sleep(2h);
      scope.reschedule(start);  // it has passed, and is taken back before anybody looked
      scope.reschedule(sim.clock().now() + 5ms);
      EXPECT_FALSE(scope.expired());
      co_await sleep(1h);
    });
  };
  EXPECT_EQ(run(end_of(main())), timed_out);
  EXPECT_EQ(passed(), 2h + 15ms);
}

// B219
TEST_F(TimeoutTest, AnExpiredScopeCannotBeRescheduled) {
  const auto main = []() -> Coroutine<std::string> {
    std::string text;
    const auto body = [&](Timeout& scope) -> Coroutine<> {
      static_cast<void>(co_await end_of(sleep(1h)));
      text = test::thrown_by([&] { scope.reschedule(std::nullopt); });
    };
    co_await timeout(1ms, body);
    co_return text;
  };
  EXPECT_EQ(run(main()), "RuntimeError: Cannot change state of expiring Timeout");
  Timeout fresh(Timeout::Kind::never, TimePoint(), false);
  EXPECT_EQ(test::thrown_by([&] { fresh.reschedule(std::nullopt); }),
            "RuntimeError: Cannot change state of created Timeout");
}

// B219
TEST_F(TimeoutTest, IsAwaitedOnce) {
  const auto main = []() -> Coroutine<std::string> {
    auto once = timeout(1ms, sleeps_for(0s));
    co_await once;  // as it stands, not moved
    co_return co_await end_of(std::move(once));
  };
  EXPECT_EQ(run(main()), "RuntimeError: cannot reuse already awaited coroutine");
}

TEST_F(TimeoutTest, KeepsTheCallableAndItsArguments) {
  auto text = std::make_unique<std::string>("owned");
  auto f = [captured = std::make_unique<int>(4)](Timeout&,
                                                 std::unique_ptr<std::string> argument) -> Coroutine<std::string> {
    co_await sleep(1ms);
    co_return *argument + std::to_string(*captured);
  };
  auto operation = timeout(1h, std::move(f), std::move(text));
  EXPECT_EQ(run(std::move(operation)), "owned4");
}

TEST_F(TimeoutTest, AFutureThatIsKeptKeepsItsResult) {
  const auto main = [this]() -> Coroutine<int> {
    Future<std::unique_ptr<int>> future = sim.loop().create_future<std::unique_ptr<int>>();
    sim.loop().call_later(1ms, [future]() mutable { future.set_result(std::make_unique<int>(6)); });
    const std::unique_ptr<int>& kept = co_await timeout(1h, future);
    EXPECT_EQ(kept.get(), future.result().get());
    auto moved = co_await timeout(1h, std::move(future));
    co_return *moved;
  };
  EXPECT_EQ(run(main()), 6);
}

TEST_F(TimeoutTest, CancelsAWholeGather) {
  int cleaned = 0;
  const auto child = [&]() -> Coroutine<> {
    try {
      co_await sleep(1h);
    } catch (const CancelledError&) {
      ++cleaned;
      throw;
    }
  };
  EXPECT_EQ(run(end_of(timeout(1ms, gather(child(), child(), child())))), timed_out);
  EXPECT_EQ(cleaned, 3);
}

// The order of timers is that of their deadlines, ties in the order of their making, whatever they do.
TEST_F(TimeoutTest, FiresAmongTheOtherTimersInOrder) {
  std::string order;
  const auto sleeper = [&](char name) -> Coroutine<> {
    co_await sleep(5ms);
    order += name;
  };
  const auto timed = [&](char name) -> Coroutine<> {
    static_cast<void>(co_await end_of(timeout(5ms, sleep(1h))));
    order += name;
  };
  run(gather(sleeper('a'), timed('b'), sleeper('c'), timed('d')));
  EXPECT_EQ(order, "abcd");
}

TEST_F(TimeoutTest, IsDestroyedWithItsLoop) {
  auto task = sim.loop().create_task(timeout(1h, sleeps_for(2h)));
  sim.run_turns(2);
  sim.loop().close();
  EXPECT_TRUE(task.cancelled());
  EXPECT_EQ(sim.errors().size(), 1U);
}

}  // namespace
}  // namespace ouro
