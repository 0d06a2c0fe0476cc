// staggered_race on one loop, in a time that is moved by hand.
#include <gmock/gmock.h>

#include <chrono>
#include <cstddef>
#include <deque>
#include <exception>
#include <functional>
#include <list>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <ouro/runtime/locks.hpp>
#include <ouro/runtime/sleep.hpp>
#include <ouro/runtime/staggered.hpp>
#include <ouro/runtime/tasks.hpp>
#include <ouro/runtime/timeouts.hpp>

#include "support/manual_clock.hpp"

namespace ouro {
namespace {

using namespace std::chrono_literals;
using test::describe;
using test::end_of;
using testing::ElementsAre;
using testing::IsEmpty;

using Attempt = std::function<Coroutine<int>()>;
using Log = std::vector<std::string>;

class StaggeredTest : public testing::Test {
 protected:
  template <class A>
  decltype(auto) run(A&& awaitable) {
    return sim.loop().run_until_complete(std::forward<A>(awaitable));
  }
  Duration passed() { return sim.clock().now() - start; }

  // An attempt that says when it begins, and how it ends after `takes`.
  Attempt attempt(std::string name, Duration takes, std::optional<int> result) {
    return [this, name, takes, result]() -> Coroutine<int> {
      log.push_back(name + " begins " + at());
      try {
        co_await sleep(takes);
      } catch (const CancelledError&) {
        log.push_back(name + " cancelled " + at());
        throw;
      }
      log.push_back(name + (result ? " succeeds " : " fails ") + at());
      if (!result) throw std::runtime_error(name);
      co_return *result;
    };
  }
  // In milliseconds since the start.
  std::string at() { return std::to_string(std::chrono::duration_cast<std::chrono::milliseconds>(passed()).count()); }

  test::SimulatedLoop sim;
  const TimePoint start = sim.clock().now();
  Log log;
};

template <class T>
Log ends(const StaggeredResult<T>& result) {
  Log texts;
  for (const std::exception_ptr& error : result.exceptions) texts.push_back(describe(error));
  return texts;
}

// ---- The order of the attempts ----

// B366
TEST_F(StaggeredTest, WithoutAttemptsNobodyWins) {
  for (const OptionalDelay delay : {OptionalDelay(), OptionalDelay(1s)}) {
    const auto result = run(staggered_race(std::vector<Attempt>(), delay));
    EXPECT_FALSE(result.winner_result || result.winner_index);
    EXPECT_THAT(result.exceptions, IsEmpty());
  }
  EXPECT_EQ(passed(), 0s);
}

// B366
TEST_F(StaggeredTest, AFirstThatSucceedsIsAlone) {
  for (const OptionalDelay delay : {OptionalDelay(), OptionalDelay(250ms)}) {
    log.clear();
    const auto result = run(staggered_race(std::vector{attempt("a", 0ms, 1), attempt("b", 0ms, 2)}, delay));
    EXPECT_EQ(result.winner_result, 1);
    EXPECT_EQ(result.winner_index, 0U);
    EXPECT_THAT(ends(result), ElementsAre(""));
    EXPECT_THAT(log, ElementsAre("a begins 0", "a succeeds 0"));
  }
  EXPECT_EQ(passed(), 0s);  // nor does it wait for the delay
}

// B366
TEST_F(StaggeredTest, TheDelayStartsTheNext) {
  const auto result = run(staggered_race(
      std::vector{attempt("a", 10s, 1), attempt("b", 10s, 2), attempt("c", 100ms, 3), attempt("d", 0ms, 4)}, 250ms));
  EXPECT_EQ(result.winner_result, 3);
  EXPECT_EQ(result.winner_index, 2U);
  EXPECT_THAT(ends(result), ElementsAre("CancelledError: ", "CancelledError: ", ""));
  EXPECT_THAT(log, ElementsAre("a begins 0", "b begins 250", "c begins 500", "c succeeds 600", "a cancelled 600",
                               "b cancelled 600"));
  EXPECT_EQ(passed(), 600ms);
}

// B366
TEST_F(StaggeredTest, AFailureStartsTheNextAtOnce) {
  const auto result = run(staggered_race(
      std::vector{attempt("a", 10ms, std::nullopt), attempt("b", 20ms, std::nullopt), attempt("c", 5ms, 3)}, 250ms));
  EXPECT_EQ(result.winner_result, 3);
  EXPECT_THAT(ends(result), ElementsAre("exception: a", "exception: b", ""));
  EXPECT_THAT(log,
              ElementsAre("a begins 0", "a fails 10", "b begins 10", "b fails 30", "c begins 30", "c succeeds 35"));
}

// The failure of one that was started before the last does not hurry the next, nor put it off.
TEST_F(StaggeredTest, OnlyTheLastOnesFailureStartsTheNext) {
  const auto result = run(staggered_race(
      std::vector{attempt("a", 300ms, std::nullopt), attempt("b", 10s, 2), attempt("c", 10ms, 3)}, 250ms));
  EXPECT_EQ(result.winner_index, 2U);
  EXPECT_THAT(log, ElementsAre("a begins 0", "b begins 250", "a fails 300", "c begins 500", "c succeeds 510",
                               "b cancelled 510"));
}

TEST_F(StaggeredTest, TheLastOnesFailureStartsTheNextBesideTheOthers) {
  const auto result = run(staggered_race(
      std::vector{attempt("a", 10s, 1), attempt("b", 10ms, std::nullopt), attempt("c", 10ms, 3)}, 250ms));
  EXPECT_EQ(result.winner_index, 2U);
  EXPECT_THAT(log, ElementsAre("a begins 0", "b begins 250", "b fails 260", "c begins 260", "c succeeds 270",
                               "a cancelled 270"));
}

// B366
TEST_F(StaggeredTest, WithoutADelayTheyAreMadeOneAfterTheOther) {
  const auto result = run(staggered_race(
      std::vector{attempt("a", 1h, std::nullopt), attempt("b", 1h, 2), attempt("c", 0ms, 3)}, std::nullopt));
  EXPECT_EQ(result.winner_index, 1U);
  EXPECT_THAT(ends(result), ElementsAre("exception: a", ""));
  EXPECT_EQ(passed(), 2h);
}

TEST_F(StaggeredTest, WithNoDelayAtAllTheyStartTogether) {
  for (const Duration delay : {Duration(0), Duration(-1s)}) {
    log.clear();
    const std::string now = at();
    const auto result =
        run(staggered_race(std::vector{attempt("a", 20ms, 1), attempt("b", 10ms, 2), attempt("c", 1h, 3)}, delay));
    EXPECT_EQ(result.winner_index, 1U);
    ASSERT_EQ(log.size(), 6U);
    EXPECT_THAT(Log(log.begin(), log.begin() + 3),
                ElementsAre("a begins " + now, "b begins " + now, "c begins " + now));
  }
}

// B366: nobody wins, and all errors are told.
TEST_F(StaggeredTest, WhenAllFailAllErrorsAreTold) {
  const auto result =
      run(staggered_race(std::vector{attempt("a", 500ms, std::nullopt), attempt("b", 10ms, std::nullopt)}, 250ms));
  EXPECT_FALSE(result.winner_result || result.winner_index);
  EXPECT_THAT(ends(result), ElementsAre("exception: a", "exception: b"));
  EXPECT_EQ(passed(), 500ms);  // not when the last one failed: the first might have succeeded
}

// The first is slow, the last fails, and the race is not given up.
TEST_F(StaggeredTest, ASlowOneMayWinWhenAllOthersHaveFailed) {
  const auto result = run(staggered_race(std::vector{attempt("a", 10s, 1), attempt("b", 10ms, std::nullopt)}, 250ms));
  EXPECT_EQ(result.winner_index, 0U);
  EXPECT_THAT(ends(result), ElementsAre("", "exception: b"));
}

// ---- Several at once ----

// B366, T32: one winner, and what the other gave is destroyed before the result is there.
TEST_F(StaggeredTest, OfTwoThatSucceedAtOnceOneWins) {
  int alive = 0;
  const auto opens = [&alive](Duration takes) {
    return [&alive, takes]() -> Coroutine<std::unique_ptr<test::Counted>> {
      co_await sleep(takes);
      co_return std::make_unique<test::Counted>(alive);
    };
  };
  std::vector attempts{opens(260ms), opens(10ms), opens(10ms)};
  const auto main = [&]() -> Coroutine<std::size_t> {
    auto result = co_await staggered_race(std::move(attempts), 250ms);
    EXPECT_EQ(alive, 1);
    EXPECT_NE(*result.winner_result, nullptr);
    EXPECT_THAT(ends(result), ElementsAre("", "CancelledError: "));
    co_return *result.winner_index;
  };
  EXPECT_EQ(run(main()), 0U);  // both at 260: the one that was started first
  EXPECT_EQ(alive, 0);
}

// T32: who has the event behind him when another wins, and so cannot be stopped.
TEST_F(StaggeredTest, ALoserThatIsReadyIsCancelledOrDropped) {
  Event event;
  int alive = 0;
  int seen = 0;
  const auto waits = [&](int yields) {
    return [&, yields]() -> Coroutine<std::unique_ptr<test::Counted>> {
      co_await event.wait();
      ++seen;
      for (int i = 0; i < yields; ++i) co_await sleep(0s);
      co_return std::make_unique<test::Counted>(alive);
    };
  };
  std::vector attempts{waits(0), waits(0), waits(1), waits(5)};
  const auto main = [&]() -> Coroutine<> {
    sim.loop().call_later(10s, [&] { event.set(); });
    const auto result = co_await staggered_race(std::move(attempts), 1ms);
    EXPECT_EQ(result.winner_index, 0U);
    EXPECT_EQ(alive, 1);
    EXPECT_THAT(ends(result), ElementsAre("", "CancelledError: ", "CancelledError: ", "CancelledError: "));
  };
  run(main());
  EXPECT_EQ(seen, 4);
  EXPECT_EQ(alive, 0);
}

// T32: attempts that end before create_task has returned.
TEST_F(StaggeredTest, EagerAttemptsMayEndAtOnce) {
  sim.loop().set_task_factory(eager_task_factory);
  const auto at_once = [this](std::string name, std::optional<int> result) -> Attempt {
    return [this, name, result]() -> Coroutine<int> {
      log.push_back(name);
      if (!result) throw std::runtime_error(name);
      co_return *result;
    };
  };
  for (const OptionalDelay delay : {OptionalDelay(), OptionalDelay(1s)}) {
    log.clear();
    const auto result =
        run(staggered_race(std::vector{at_once("a", std::nullopt), at_once("b", 2), at_once("c", 3)}, delay));
    EXPECT_EQ(result.winner_result, 2);
    EXPECT_THAT(ends(result), ElementsAre("exception: a", ""));
    EXPECT_THAT(log, ElementsAre("a", "b"));
  }
  const auto none = run(staggered_race(std::vector{at_once("a", std::nullopt), at_once("b", std::nullopt)}, 1s));
  EXPECT_THAT(ends(none), ElementsAre("exception: a", "exception: b"));
  EXPECT_EQ(passed(), 0s);
}

// The race comes back when the losers have ended, whatever they do with their cancellation.
TEST_F(StaggeredTest, WaitsUntilTheLosersHaveEnded) {
  const auto cleans_up = [this](std::string name, bool fails) -> Attempt {
    return [this, name, fails]() -> Coroutine<int> {
      try {
        co_await sleep(1h);
      } catch (const CancelledError&) {
      }
      co_await sleep(50ms);
      log.push_back(name + " has cleaned up");
      if (fails) throw std::runtime_error(name);
      co_return 7;  // it says that it succeeded, but is late
    };
  };
  const auto result =
      run(staggered_race(std::vector{cleans_up("a", true), cleans_up("b", false), attempt("c", 0ms, 3)}, 1ms));
  EXPECT_EQ(result.winner_result, 3);
  EXPECT_THAT(ends(result), ElementsAre("exception: a", "CancelledError: ", ""));
  EXPECT_THAT(log, ElementsAre("c begins 2", "c succeeds 2", "a has cleaned up", "b has cleaned up"));
  EXPECT_EQ(passed(), 52ms);
  EXPECT_THAT(sim.errors(), IsEmpty());
}

// ---- Cancellation ----

// B366
TEST_F(StaggeredTest, ACancellationEndsAllAttempts) {
  std::vector attempts{attempt("a", 1h, 1), attempt("b", 1h, 2), attempt("c", 1h, 3)};
  auto task = sim.loop().create_task(staggered_race(std::move(attempts), 250ms));
  sim.loop().call_later(400ms, [&] { task.cancel("enough"); });
  EXPECT_EQ(run(end_of(task)), "CancelledError: enough");
  EXPECT_THAT(log, ElementsAre("a begins 0", "b begins 250", "a cancelled 400", "b cancelled 400"));
  EXPECT_TRUE(task.cancelled());
  EXPECT_THAT(sim.errors(), IsEmpty());
}

// B366: a second cancellation reaches attempts that have caught the first; the race waits still.
TEST_F(StaggeredTest, EveryCancellationIsPassedOn) {
  const auto stubborn = [this]() -> Coroutine<int> {
    for (int i = 1; i <= 2; ++i) {
      try {
        co_await sleep(1h);
      } catch (const CancelledError&) {
        log.push_back("cancelled " + std::to_string(i));
      }
    }
    co_await sleep(10ms);
    co_return 1;
  };
  auto task = sim.loop().create_task(staggered_race(std::vector{stubborn}, std::nullopt));
  sim.loop().call_later(1s, [&] { task.cancel("one"); });
  sim.loop().call_later(2s, [&] { task.cancel("two"); });
  EXPECT_EQ(run(end_of(task)), "CancelledError: two");
  EXPECT_THAT(log, ElementsAre("cancelled 1", "cancelled 2"));
  EXPECT_EQ(passed(), 2s + 10ms);
}

// The winner is there, the losers are not gone yet: the result must not be lost without being destroyed.
TEST_F(StaggeredTest, ACancellationWhileTheLosersEndDestroysTheResult) {
  int alive = 0;
  const auto opens = [&alive]() -> Coroutine<std::unique_ptr<test::Counted>> {
    co_return std::make_unique<test::Counted>(alive);
  };
  const auto lingers = []() -> Coroutine<std::unique_ptr<test::Counted>> {
    try {
      co_await sleep(1h);
    } catch (const CancelledError&) {
    }
    co_await sleep(1s);
    throw std::runtime_error("gone");
  };
  using Opens = std::function<Coroutine<std::unique_ptr<test::Counted>>()>;
  auto task = sim.loop().create_task(staggered_race(std::vector<Opens>{lingers, opens}, 1ms));
  sim.loop().call_later(500ms, [&] {
    EXPECT_EQ(alive, 1);
    task.cancel();
  });
  EXPECT_EQ(run(end_of(task)), "CancelledError: ");
  EXPECT_EQ(alive, 0);
}

TEST_F(StaggeredTest, ATimeoutEndsIt) {
  EXPECT_EQ(run(end_of(timeout(300ms, staggered_race(std::vector{attempt("a", 1h, 1), attempt("b", 1h, 2)}, 250ms)))),
            "TimeoutError: the deadline has passed");
  EXPECT_THAT(log, ElementsAre("a begins 0", "b begins 250", "a cancelled 300", "b cancelled 300"));
}

// An attempt that is cancelled by somebody else has failed.
TEST_F(StaggeredTest, ACancelledAttemptStartsTheNext) {
  const auto gives_up = []() -> Coroutine<int> {
    current_task().cancel("by itself");
    co_await sleep(1h);
    co_return 1;
  };
  const auto result = run(staggered_race(std::vector<Attempt>{gives_up, attempt("b", 0ms, 2)}, 1h));
  EXPECT_EQ(result.winner_index, 1U);
  EXPECT_THAT(ends(result), ElementsAre("CancelledError: by itself", ""));
  EXPECT_EQ(passed(), 0s);
}

// ---- What is given, and how long it lives ----

TEST_F(StaggeredTest, TakesAnyRangeOfCallables) {
  const auto give = [](int value) { return [value]() -> Coroutine<int> { co_return value; }; };
  std::list attempts{give(1), give(2)};
  EXPECT_EQ(run(staggered_race(attempts, std::nullopt)).winner_result, 1);
  std::deque<Attempt> others{attempt("a", 0ms, std::nullopt), give(5)};
  EXPECT_EQ(run(staggered_race(others, 1s)).winner_result, 5);
}

TEST_F(StaggeredTest, AttemptsMayGiveNothing) {
  int ran = 0;
  const auto body = [&ran]() -> Coroutine<> {
    ++ran;
    co_return;
  };
  const auto result = run(staggered_race(std::vector{body, body}, std::nullopt));
  EXPECT_TRUE(result.winner_result.has_value());
  EXPECT_EQ(result.winner_index, 0U);
  EXPECT_EQ(ran, 1);
}

// The callable and its captures live as long as the attempt; those that were not needed go with the race.
TEST_F(StaggeredTest, AnAttemptLivesAsLongAsItsTask) {
  int alive = 0;
  const auto keeps = [&alive](Duration takes) {
    return [owned = std::make_shared<test::Counted>(alive), takes]() -> Coroutine<int> {
      co_await sleep(takes);
      co_return owned != nullptr ? 1 : 0;
    };
  };
  {
    std::vector attempts{keeps(2s), keeps(3s), keeps(1s), keeps(1s)};
    const auto result = run(staggered_race(std::move(attempts), 1s));
    EXPECT_EQ(result.winner_result, 1);
    EXPECT_EQ(result.winner_index, 0U);
  }
  EXPECT_EQ(alive, 0);
}

TEST_F(StaggeredTest, ALoopMayCloseInTheMiddle) {
  int alive = 0;
  const auto keeps = [owned = std::make_shared<test::Counted>(alive)]() -> Coroutine<int> {
    co_await sleep(1h);
    co_return owned != nullptr ? 1 : 0;
  };
  {
    auto task = sim.loop().create_task(staggered_race(std::vector{keeps, keeps}, 0ms));
    sim.run_turns(3);
    EXPECT_FALSE(task.done());
    sim.loop().close();
  }
  EXPECT_EQ(sim.errors().size(), 1U);  // of the tasks that it destroyed
  EXPECT_EQ(alive, 1);                 // the one here
}

// What a task factory throws comes out when those that were started have ended.
TEST_F(StaggeredTest, ARefusedAttemptEndsTheOthers) {
  int made = 0;
  sim.loop().set_task_factory([&made](BaseEventLoop&, AnyTask, TaskOptions&) {
    if (++made == 3) throw std::runtime_error("no more tasks");
  });
  const auto race = [this]() { return staggered_race(std::vector{attempt("a", 1h, 1), attempt("b", 1h, 2)}, 250ms); };
  EXPECT_EQ(run(end_of(race())), "exception: no more tasks");
  EXPECT_THAT(log, ElementsAre("a begins 0", "a cancelled 250"));
}

}  // namespace
}  // namespace ouro
