// wait_for, wait, as_completed and shield on one loop.
#include <gmock/gmock.h>

#include <chrono>
#include <exception>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <ouro/runtime/as_completed.hpp>
#include <ouro/runtime/gather.hpp>
#include <ouro/runtime/sleep.hpp>
#include <ouro/runtime/tasks.hpp>
#include <ouro/runtime/timeouts.hpp>
#include <ouro/runtime/wait.hpp>

#include "support/loop_fixture.hpp"
#include "support/manual_clock.hpp"

namespace ouro {
namespace {

using namespace std::chrono_literals;
using test::describe;
using test::end_of;
using testing::ElementsAre;
using testing::IsEmpty;

class WaitTest : public testing::Test {
 protected:
  template <class A>
  decltype(auto) run(A&& awaitable) {
    return sim.loop().run_until_complete(std::forward<A>(awaitable));
  }
  Duration passed() { return sim.clock().now() - start; }
  template <class T = int>
  Future<T> future() {
    return sim.loop().create_future<T>();
  }

  test::SimulatedLoop sim;
  const TimePoint start = sim.clock().now();
};

Coroutine<int> sleeps_for(Duration delay, int result = 7) {
  co_await sleep(delay);
  co_return result;
}
Coroutine<int> fails_after(Duration delay, const char* text) {
  co_await sleep(delay);
  throw std::runtime_error(text);
}
constexpr const char* timed_out = "TimeoutError: the deadline has passed";

// ---- wait_for ----

// B195, B205
TEST_F(WaitTest, WaitForGivesTheResult) {
  EXPECT_EQ(run(wait_for(sleeps_for(1ms), 10ms)), 7);
  EXPECT_EQ(run(wait_for(sleeps_for(1h), std::nullopt)), 7);
  EXPECT_EQ(run(wait_for(sleeps_for(1h), std::chrono::duration<double>(HUGE_VAL))), 7);
  EXPECT_EQ(run(wait_for([] { return sleeps_for(1ms, 2); }, 10ms)), 2);
  EXPECT_EQ(run(wait_for(sim.loop().create_task(sleeps_for(1ms, 3)), 10ms)), 3);
}

// B196, T2
TEST_F(WaitTest, WaitForWaitsForTheEndOfTheCancellation) {
  bool cleaned = false;
  const auto slow = [&]() -> Coroutine<> {
    try {
      co_await sleep(1h);
    } catch (const CancelledError&) {
    }
    co_await sleep(50ms);
    cleaned = true;
    throw CancelledError();
  };
  EXPECT_EQ(run(end_of(wait_for(slow(), 10ms))), timed_out);
  EXPECT_TRUE(cleaned);
  EXPECT_EQ(passed(), 60ms);
}

TEST_F(WaitTest, WaitForWithoutTimeBeginsNothing) {
  bool begun = false;
  const auto body = [&]() -> Coroutine<int> {
    begun = true;
    co_return 1;
  };
  for (const Duration delay : {Duration(0ms), Duration(-1ms)})
    EXPECT_EQ(run(end_of(wait_for(body(), delay))), timed_out);
  const auto of_a_task = [&]() -> Coroutine<std::string> {
    co_return co_await end_of(wait_for(create_task(body()), 0ms));
  };
  EXPECT_EQ(run(of_a_task()), timed_out);
  EXPECT_FALSE(begun);
  Future<int> done = future();
  done.set_result(4);
  EXPECT_EQ(run(wait_for(done, 0s)), 4);
  Future<int> pending = future();
  EXPECT_EQ(run(end_of(wait_for(pending, 0s))), timed_out);
  EXPECT_TRUE(pending.cancelled());
}

// B199: also where both come in one look of the loop.
TEST_F(WaitTest, AResultInTheTurnOfTheDeadlineIsNotLost) {
  Future<int> early = future();
  sim.loop().call_later(10ms, [early]() mutable { early.set_result(1); });
  EXPECT_EQ(run(wait_for(early, 20ms)), 1);
  Future<int> same = future();
  sim.parker().complete_at(sim.clock().now() + 10ms, [same]() mutable { same.set_result(2); });
  EXPECT_EQ(run(wait_for(same, 10ms)), 2);
  EXPECT_EQ(run(sleeps_for(1ms)), 7);
}

// B200
TEST_F(WaitTest, AValueInPlaceOfTheCancellationIsTheResult) {
  const auto stubborn = []() -> Coroutine<int> {
    try {
      co_await sleep(1h);
    } catch (const CancelledError&) {
    }
    co_return 5;
  };
  EXPECT_EQ(run(wait_for(stubborn(), 1ms)), 5);
  EXPECT_EQ(run(wait_for(sim.loop().create_task(stubborn()), 1ms)), 5);
}

// B201, T2
TEST_F(WaitTest, AnErrorOfTheCleanUpComesOut) {
  const auto fails = []() -> Coroutine<> {
    try {
      co_await sleep(1h);
    } catch (const CancelledError&) {
    }
    throw std::runtime_error("clean-up");
  };
  EXPECT_EQ(run(end_of(wait_for(fails(), 1ms))), "exception: clean-up");
  EXPECT_EQ(run(end_of(wait_for(sim.loop().create_task(fails()), 1ms))), "exception: clean-up");
}

// B202
TEST_F(WaitTest, CancellingWaitForCancelsWhatItWaitsFor) {
  const auto main = []() -> Coroutine<> {
    auto inner = create_task(sleeps_for(2h));
    auto outer = create_task(wait_for(inner, 1h));
    co_await sleep(1ms);
    outer.cancel("enough");
    EXPECT_EQ(co_await end_of(outer), "CancelledError: enough");
    EXPECT_TRUE(inner.cancelled() && outer.cancelled());
  };
  run(main());
}

// B203, T1
TEST_F(WaitTest, ACancellationInTheTurnOfTheResultIsNotHidden) {
  const auto main = [this]() -> Coroutine<> {
    Future<int> inner = future();
    bool went_on = false;
    const auto body = [&]() -> Coroutine<> {
      co_await wait_for(inner, 1h);
      went_on = true;
    };
    auto outer = create_task(body());
    co_await sleep(1ms);
    inner.set_result(1);
    outer.cancel();
    EXPECT_EQ(co_await end_of(outer), "CancelledError: ");
    EXPECT_TRUE(outer.cancelled());
    EXPECT_FALSE(went_on);
  };
  run(main());
}

// B204
TEST_F(WaitTest, AShieldedTaskSurvivesTheDeadline) {
  const auto main = []() -> Coroutine<int> {
    auto inner = create_task(sleeps_for(50ms, 42));
    EXPECT_EQ(co_await end_of(wait_for(shield(inner), 10ms)), timed_out);
    EXPECT_EQ(co_await end_of(wait_for(shield(inner), 0ms)), timed_out);
    EXPECT_FALSE(inner.done());
    co_return co_await wait_for(shield(inner), std::nullopt);
  };
  EXPECT_EQ(run(main()), 42);
}

// ---- shield ----

// B163
TEST_F(WaitTest, AShieldGivesWhatIsInside) {
  EXPECT_EQ(run([]() -> Coroutine<int> { co_return co_await shield(sleeps_for(1ms)); }), 7);
  EXPECT_EQ(run([]() -> Coroutine<std::string> { co_return co_await end_of(shield(fails_after(1ms, "inside"))); }),
            "exception: inside");
}

// B164, B166, B158
TEST_F(WaitTest, ACancellationStopsAtTheShield) {
  const auto main = []() -> Coroutine<> {
    auto inner = create_task(sleeps_for(5ms));
    auto outer = create_task(shield(inner));
    co_await sleep(1ms);
    EXPECT_TRUE(outer.cancel("outer"));
    EXPECT_EQ(co_await end_of(outer), "CancelledError: outer");
    EXPECT_FALSE(inner.done());
    EXPECT_EQ(inner.cancelling(), 0);
    EXPECT_EQ(co_await inner, 7);

    auto other = create_task(sleeps_for(1h));
    auto behind = create_task(shield(other));
    co_await sleep(1ms);
    other.cancel("inner");
    EXPECT_EQ(co_await end_of(behind), "CancelledError: inner");
  };
  run(main());
}

// B165
TEST_F(WaitTest, AShieldOfADoneFutureDoesNotWait) {
  const auto main = [this]() -> Coroutine<int> {
    Future<int> done = future();
    done.set_result(8);
    const auto before = sim.loop().counters().runs;
    const int result = co_await shield(done);
    EXPECT_EQ(sim.loop().counters().runs, before);
    EXPECT_EQ(shield(done).inner(), done);
    co_return result;
  };
  EXPECT_EQ(run(main()), 8);
}

// B167
TEST_F(WaitTest, ShieldAndGatherKeepBothRules) {
  const auto main = []() -> Coroutine<> {
    auto a = create_task(sleeps_for(5ms, 1));
    auto b = create_task(sleeps_for(5ms, 2));
    auto outer = create_task(shield(gather(a, b)));
    co_await sleep(1ms);
    outer.cancel();
    EXPECT_EQ(co_await end_of(outer), "CancelledError: ");
    EXPECT_EQ(co_await a + co_await b, 3);

    auto c = create_task(sleeps_for(5ms, 3));
    auto gathered = create_task(gather(shield(c), shield(c)));
    co_await sleep(1ms);
    gathered.cancel();
    EXPECT_EQ(co_await end_of(gathered), "CancelledError: ");
    EXPECT_EQ(co_await c, 3);
  };
  run(main());
}

// B168
TEST_F(WaitTest, AShieldOfACoroutineNeedsALoop) {
  EXPECT_EQ(test::thrown_by([] { return shield(sleeps_for(1ms)); }), "RuntimeError: no running event loop");
}

// B169, T20
TEST_F(WaitTest, AnErrorBehindAShieldIsReportedOnceNobodyWaits) {
  const auto main = [](bool look) -> Coroutine<> {
    auto inner = create_task(fails_after(5ms, "lost"));
    auto outer = create_task(shield(inner));
    co_await sleep(1ms);
    outer.cancel();
    EXPECT_EQ(co_await end_of(outer), "CancelledError: ");
    if (look) {
      EXPECT_EQ(co_await end_of(inner), "exception: lost");
    }
  };
  run(main(true));
  EXPECT_THAT(sim.errors(), IsEmpty());
  run(main(false));
  run(sleep(10ms));
  ASSERT_EQ(sim.errors().size(), 1U);
  EXPECT_EQ(describe(sim.errors()[0].exception), "exception: lost");
}

TEST_F(WaitTest, AMoveOnlyResultComesOutOfAShield) {
  const auto main = []() -> Coroutine<int> {
    auto made = []() -> Coroutine<std::unique_ptr<int>> {
      co_await sleep(1ms);
      co_return std::make_unique<int>(3);
    };
    auto moved = co_await shield(made());
    co_return *moved;
  };
  EXPECT_EQ(run(main()), 3);
}

// ---- wait ----

template <class R>
concept can_be_waited_for = requires(R futures) { wait(std::move(futures)); };

std::vector<Task<int>> tasks(BaseEventLoop& loop, std::initializer_list<int> delays) {
  std::vector<Task<int>> made;
  for (int delay : delays) {
    made.push_back(loop.create_task(delay > 0 ? sleeps_for(delay * 1ms, delay) : fails_after(-delay * 1ms, "failed")));
  }
  return made;
}
std::vector<int> results(const std::vector<Task<int>>& done) {
  std::vector<int> values;
  for (const auto& task : done) values.push_back(task.result());
  return values;
}

// B185
TEST_F(WaitTest, WaitsForAll) {
  auto result = run(wait(tasks(sim.loop(), {30, 10, 20})));
  EXPECT_THAT(results(result.done), ElementsAre(30, 10, 20));
  EXPECT_THAT(result.pending, IsEmpty());
  EXPECT_EQ(passed(), 30ms);
  result = run(wait(tasks(sim.loop(), {10, -20, 30})));
  EXPECT_EQ(result.done.size(), 3U);  // and no error comes out
  EXPECT_NE(result.done[1].exception(), nullptr);
}

// B187
TEST_F(WaitTest, WaitsForTheFirst) {
  auto made = tasks(sim.loop(), {20, 10, 10, 30});
  auto [done, pending] = run(wait(made, {.return_when = FIRST_COMPLETED}));
  EXPECT_THAT(results(done), ElementsAre(10, 10));
  EXPECT_EQ(pending.size(), 2U);
  auto again = run(wait(made, {.return_when = FIRST_COMPLETED}));  // it is so already
  EXPECT_EQ(again.done.size(), 2U);
  EXPECT_EQ(run(wait(pending)).done.size(), 2U);
}

TEST_F(WaitTest, WaitsForTheFirstError) {
  auto [done, pending] = run(wait(tasks(sim.loop(), {10, -20, 30}), {.return_when = FIRST_EXCEPTION}));
  EXPECT_EQ(done.size(), 2U);
  EXPECT_NE(done[1].exception(), nullptr);
  EXPECT_EQ(passed(), 20ms);
  auto made = tasks(sim.loop(), {20, 10});
  made[1].cancel();  // is no error
  EXPECT_EQ(run(wait(made, {.return_when = FIRST_EXCEPTION})).done.size(), 2U);
  EXPECT_EQ(run(wait(pending)).done.size(), 1U);
}

// B186
TEST_F(WaitTest, TheTimeLimitCancelsNobody) {
  auto [done, pending] = run(wait(tasks(sim.loop(), {10, 30}), {.timeout = 20ms}));
  EXPECT_EQ(passed(), 20ms);
  EXPECT_THAT(results(done), ElementsAre(10));
  ASSERT_EQ(pending.size(), 1U);
  EXPECT_EQ(run(pending[0]), 30);
  EXPECT_EQ(run(wait(tasks(sim.loop(), {10}), {.timeout = 0ms})).pending.size(), 1U);
  run(sleep(1s));
}

// B183
TEST_F(WaitTest, WhatCannotBeWaitedForIsRefused) {
  EXPECT_EQ(run(end_of(wait(std::vector<Task<int>>()))), "ValueError: Set of Tasks/Futures is empty.");
  EXPECT_EQ(run(end_of(wait(tasks(sim.loop(), {1}), {.return_when = static_cast<ReturnWhen>(7)}))),
            "ValueError: Invalid return_when value: 7");
  EXPECT_EQ(run(end_of(wait(std::vector<Future<int>>(1)))), "RuntimeError: Future object is not initialized.");
  static_assert(!can_be_waited_for<std::vector<Coroutine<int>>> && !can_be_waited_for<Task<int>>);
  run(sleep(1s));
}

// B184
TEST_F(WaitTest, TakesAnyRangeAndEachFutureOnce) {
  auto made = tasks(sim.loop(), {10, 20});
  std::vector<Task<int>> twice{made[0], made[1], made[0]};
  EXPECT_THAT(results(run(wait(twice)).done), ElementsAre(10, 20));
  auto view = made | std::views::transform([](const Task<int>& task) { return AnyTask(task); });
  EXPECT_EQ(run(wait(view)).done.size(), 2U);
}

// B158
TEST_F(WaitTest, ACancellationOfTheWaitLeavesTheFuturesAlone) {
  const auto main = [this]() -> Coroutine<> {
    auto made = tasks(sim.loop(), {10, 20});
    auto waiting = create_task(wait(made, {.timeout = 1h}));
    co_await sleep(1ms);
    waiting.cancel("enough");
    EXPECT_EQ(co_await end_of(waiting), "CancelledError: enough");
    for (auto& task : made) EXPECT_EQ(task.cancelling(), 0);
    EXPECT_EQ((co_await wait(made)).done.size(), 2U);
  };
  run(main());
}

TEST_F(WaitTest, IsDestroyedWithItsLoop) {
  auto one = sim.loop().create_task(wait(tasks(sim.loop(), {1000}), {.timeout = 1h}));
  auto two = sim.loop().create_task(shield(future()));
  sim.run_turns(2);
  sim.loop().close();
  EXPECT_TRUE(one.cancelled() && two.cancelled());
  EXPECT_EQ(sim.errors().size(), 1U);
}

// ---- as_completed ----

TEST_F(WaitTest, AnElementIsAwaitedAgainAfterItsTimeout) {
  const auto main = [&]() -> Coroutine<std::vector<int>> {
    std::vector<int> order;
    for (auto next : as_completed(tasks(sim.loop(), {20, 10, 30}))) {
      for (bool done = false; !done;) {
        try {
          order.push_back(co_await timeout(4ms, next));
          done = true;
        } catch (const TimeoutError&) {
        }
      }
    }
    co_return order;
  };
  EXPECT_THAT(run(main()), ElementsAre(10, 20, 30));
}

TEST_F(WaitTest, AnElementTooManyIsRefused) {
  const auto main = [&]() -> Coroutine<std::string> {
    auto all = as_completed(tasks(sim.loop(), {10}));
    auto it = all.begin();
    auto only = *it;
    auto another = *it;
    EXPECT_EQ(co_await only, 10);
    co_return co_await end_of(another);
  };
  EXPECT_EQ(run(main()), "RuntimeError: as_completed: every one of them has been awaited");
}

TEST_F(WaitTest, FuturesOfAnotherLoopAreRefused) {
  test::SimulatedLoop other;
  Future<int> theirs = other.loop().create_future<int>();
  const auto main = [&]() -> Coroutine<std::string> {
    co_return test::thrown_by([&] { static_cast<void>(as_completed(std::vector{theirs})); });
  };
  EXPECT_EQ(run(main()), "RuntimeError: as_completed got a future attached to a different loop");
}

// B190
TEST_F(WaitTest, GivesResultsAsTheyCome) {
  const auto main = []() -> Coroutine<std::vector<int>> {
    std::vector<Coroutine<int>> many;
    for (int delay : {30, 10, 20}) many.push_back(sleeps_for(delay * 1ms, delay));
    std::vector<int> order;
    for (auto next : as_completed(std::move(many))) order.push_back(co_await next);
    co_return order;
  };
  EXPECT_THAT(run(main()), ElementsAre(10, 20, 30));
}

// B190: the objects themselves.
TEST_F(WaitTest, GivesTheTasksAsTheyCome) {
  const auto main = [this]() -> Coroutine<> {
    auto made = tasks(sim.loop(), {30, -10, 20});
    auto all = as_completed(made);
    std::vector<Task<int>> order;
    while (std::optional<Task<int>> task = co_await all.next()) {
      EXPECT_TRUE(task->done());
      order.push_back(*task);
    }
    EXPECT_THAT(order, ElementsAre(made[1], made[2], made[0]));
    EXPECT_NE(made[1].exception(), nullptr);
    EXPECT_FALSE((co_await all.next()).has_value());
  };
  run(main());
}

// B191
TEST_F(WaitTest, AfterTheTimeLimitTheRestThrows) {
  const auto main = [this]() -> Coroutine<std::vector<std::string>> {
    auto made = tasks(sim.loop(), {10, 30, 40});
    std::vector<std::string> ends;
    for (auto next : as_completed(made, 20ms)) {
      auto taken = next;
      ends.push_back(co_await end_of(std::move(taken)));
    }
    EXPECT_EQ(sim.clock().now() - start, 20ms);
    EXPECT_FALSE(made[1].done());
    for (auto next : as_completed(made, 1h)) co_await next;
    co_return ends;
  };
  EXPECT_THAT(run(main()), ElementsAre("", timed_out, timed_out));
  EXPECT_EQ(passed(), 40ms);
}

// B192
TEST_F(WaitTest, GoesOnWhereItStopped) {
  const auto main = [this]() -> Coroutine<std::vector<int>> {
    auto all = as_completed(tasks(sim.loop(), {40, 10, 30, 20}));
    std::vector<int> order;
    for (auto next : all) {
      order.push_back(co_await next);
      break;
    }
    order.push_back((co_await all.next())->result());
    for (auto next : all) order.push_back(co_await next);
    co_return order;
  };
  EXPECT_THAT(run(main()), ElementsAre(10, 20, 30, 40));
}

// B193
TEST_F(WaitTest, WhoWaitsFirstGetsWhatEndsFirst) {
  const auto main = [this]() -> Coroutine<> {
    std::vector<NextCompleted<Task<int>>> elements;
    for (auto next : as_completed(tasks(sim.loop(), {20, 10}))) elements.push_back(next);
    auto last = create_task(elements[1]);
    auto first = create_task(elements[0]);
    EXPECT_EQ(co_await last, 10);
    EXPECT_EQ(co_await first, 20);
  };
  run(main());
}

TEST_F(WaitTest, ACancelledWaitPassesItsResultOn) {
  const auto main = [this]() -> Coroutine<> {
    Future<int> one = future();
    Future<int> two = future();
    auto all = as_completed(std::vector{one, two});
    auto a = create_task(all.next());
    auto b = create_task(all.next());
    co_await sleep(1ms);
    one.set_result(1);
    a.cancel();  // in the turn in which it got it
    EXPECT_EQ(co_await end_of(a), "CancelledError: ");
    co_await sleep(1ms);
    EXPECT_TRUE(b.done());
    EXPECT_EQ(b.result(), one);
    two.set_result(2);
    EXPECT_EQ((co_await all.next()).value(), two);
    EXPECT_FALSE((co_await all.next()).has_value());
  };
  run(main());
}

TEST_F(WaitTest, MoveOnlyResultsAreMoved) {
  const auto main = []() -> Coroutine<int> {
    const auto made = [](int value) -> Coroutine<std::unique_ptr<int>> {
      co_await sleep(value * 1ms);
      co_return std::make_unique<int>(value);
    };
    std::vector<Coroutine<std::unique_ptr<int>>> many;
    many.push_back(made(2));
    many.push_back(made(1));
    int sum = 0;
    for (auto next : as_completed(std::move(many))) {
      auto value = co_await next;
      sum = sum * 10 + *value;
    }
    co_return sum;
  };
  EXPECT_EQ(run(main()), 12);
}

}  // namespace
}  // namespace ouro
