// Cancellation: when it arrives, and where. And sleep, where it arrives most often.
#include <gmock/gmock.h>

#include <chrono>
#include <cstddef>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

#include <ouro/runtime/futures.hpp>
#include <ouro/runtime/sleep.hpp>
#include <ouro/runtime/tasks.hpp>

#include "support/loop_fixture.hpp"

namespace ouro {
namespace {

using namespace std::chrono_literals;
using test::Counted;
using test::describe;
using test::thrown_by;
using testing::ElementsAre;
using testing::IsEmpty;
using testing::StrEq;

using Log = std::vector<std::string>;

class CancelTest : public test::LoopTest {
 protected:
  Log log;
};

Coroutine<> nothing() { co_return; }
Coroutine<> waits_for(Future<> future) { co_await future; }
Coroutine<> waits_for_task(Task<> task) { co_await task; }
Coroutine<> sleeps() { co_await sleep(1h); }

// B142
TEST_F(CancelTest, ASuspendedTaskGetsItAtItsAwaitInTheNextTurn) {
  auto future = loop.create_future();
  const auto body = [this](Future<> awaited) -> Coroutine<> {
    try {
      co_await awaited;
      log.push_back("not cancelled");
    } catch (const CancelledError& error) {
      log.push_back("cancelled: " + error.message());
      throw;
    }
  };
  auto task = loop.create_task(body(future));
  turn();
  EXPECT_TRUE(task.cancel("enough"));
  EXPECT_TRUE(future.cancelled());
  EXPECT_FALSE(task.done());
  EXPECT_THAT(log, IsEmpty());
  turn();
  EXPECT_THAT(log, ElementsAre("cancelled: enough"));
  EXPECT_TRUE(task.done());
  EXPECT_TRUE(task.cancelled());
  EXPECT_FALSE(task.cancel());
  EXPECT_THAT(thrown_by([&] { task.result(); }), StrEq("CancelledError: enough"));
  EXPECT_THAT(thrown_by([&] { return task.exception(); }), StrEq("CancelledError: enough"));
}

// B142
TEST_F(CancelTest, ASleepingTaskGetsItInTheNextTurnAndItsTimerIsGone) {
  auto task = loop.create_task(sleeps());
  turn();
  EXPECT_TRUE(task.cancel());
  turn();
  EXPECT_TRUE(task.cancelled());
}

// B143
TEST_F(CancelTest, BeforeTheFirstStepTheBodyNeverRunsALine) {
  int alive = 0;
  bool ran = false;
  const auto body = [&ran](Counted) -> Coroutine<> {
    ran = true;
    co_return;
  };
  auto task = loop.create_task(body(Counted(alive)));
  EXPECT_TRUE(task.cancel("before"));
  EXPECT_FALSE(task.done());
  turn();
  EXPECT_TRUE(task.cancelled());
  EXPECT_FALSE(ran);
  EXPECT_THAT(thrown_by([&] { task.result(); }), StrEq("CancelledError: before"));
  task = {};
  EXPECT_EQ(alive, 0);
  loop.create_task(body(Counted(alive))).cancel();
  turn();
  EXPECT_FALSE(ran);
  EXPECT_EQ(alive, 0);
}

// B143
TEST_F(CancelTest, BeforeTheFirstStepTwiceItKeepsTheLastMessage) {
  auto task = loop.create_task(nothing());
  EXPECT_TRUE(task.cancel("first"));
  EXPECT_TRUE(task.cancel("second"));
  EXPECT_EQ(task.cancelling(), 2);
  turn();
  EXPECT_THAT(thrown_by([&] { task.result(); }), StrEq("CancelledError: second"));
}

// B144
TEST_F(CancelTest, OfTheCurrentTaskItArrivesAtTheNextAwait) {
  const auto body = [this](bool of_a_future) -> Coroutine<> {
    EXPECT_TRUE(current_task().cancel("by itself"));
    log.push_back("goes on");
    auto future = current_task().get_loop().create_future();
    std::string text;
    try {
      if (of_a_future) {
        co_await future;
      } else {
        co_await sleep(1h);
      }
    } catch (...) {
      text = describe(std::current_exception());
    }
    log.push_back(text);
    EXPECT_EQ(future.cancelled(), of_a_future);
  };
  run(body(true));
  run(body(false));
  EXPECT_THAT(log, ElementsAre("goes on", "CancelledError: by itself", "goes on", "CancelledError: by itself"));
}

// B144: an await of what is done does not suspend, and so is no place to arrive at.
TEST_F(CancelTest, OfTheCurrentTaskItPassesAwaitsThatDoNotWait) {
  auto future = loop.create_future<int>();
  future.set_result(1);
  const auto nested = [](Future<int> done) -> Coroutine<int> { co_return co_await done; };
  const auto body = [&](Future<int> done) -> Coroutine<> {
    current_task().cancel();
    const int direct = co_await done;
    const int through = co_await nested(done);
    log.push_back(std::to_string(direct + through));
    co_await sleep(0ms);
    log.push_back("never");
  };
  auto task = loop.create_task(body(future));
  EXPECT_THAT(thrown_by([&] { run(task); }), StrEq("CancelledError: "));
  EXPECT_THAT(log, ElementsAre("2"));
}

// B145
TEST_F(CancelTest, OfTheCurrentTaskThatThenEndsItEndsCancelled) {
  const auto body = []() -> Coroutine<int> {
    current_task().cancel("at the end");
    co_return 42;
  };
  auto task = loop.create_task(body());
  EXPECT_THAT(thrown_by([&] { run(task); }), StrEq("CancelledError: at the end"));
  EXPECT_TRUE(task.cancelled());
  const auto fails = []() -> Coroutine<int> {
    current_task().cancel();
    throw std::runtime_error("an error wins");
    co_return 1;
  };
  auto failed = loop.create_task(fails());
  EXPECT_THAT(thrown_by([&] { run(failed); }), StrEq("exception: an error wins"));
  EXPECT_FALSE(failed.cancelled());
}

// B146
TEST_F(CancelTest, CaughtTheTaskMayEndWithAValue) {
  const auto body = []() -> Coroutine<int> {
    try {
      co_await sleep(1h);
    } catch (const CancelledError&) {
      co_return 42;
    }
    co_return 1;
  };
  auto task = loop.create_task(body());
  turn();
  EXPECT_TRUE(task.cancel());
  EXPECT_EQ(run(task), 42);
  EXPECT_FALSE(task.cancelled());
  EXPECT_EQ(task.cancelling(), 1);
}

// B147
TEST_F(CancelTest, CaughtItIsNotDeliveredAgain) {
  const auto body = [this]() -> Coroutine<std::string> {
    try {
      co_await sleep(1h);
    } catch (const CancelledError&) {
      log.push_back("caught");
    }
    co_await sleep(0ms);
    co_await sleep(1ms);
    co_return "went on";
  };
  auto task = loop.create_task(body());
  turn();
  task.cancel();
  EXPECT_THAT(run(task), StrEq("went on"));
  EXPECT_THAT(log, ElementsAre("caught"));
}

// B147
TEST_F(CancelTest, ATaskThatCaughtItCanBeCancelledAgain) {
  const auto body = [this]() -> Coroutine<> {
    for (int i = 0; i < 2; ++i) {
      try {
        co_await sleep(1h);
      } catch (const CancelledError& error) {
        log.push_back(error.message());
      }
    }
    co_await sleep(1h);
  };
  auto task = loop.create_task(body());
  for (const char* message : {"one", "two", "three"}) {
    turn();
    EXPECT_TRUE(task.cancel(message));
  }
  turn();
  EXPECT_THAT(log, ElementsAre("one", "two"));
  EXPECT_TRUE(task.cancelled());
  EXPECT_THAT(thrown_by([&] { task.result(); }), StrEq("CancelledError: three"));
}

// B148
TEST_F(CancelTest, OfTheTaskAndOfItsFutureIsOneError) {
  auto future = loop.create_future();
  const auto body = [this](Future<> awaited) -> Coroutine<> {
    try {
      co_await awaited;
    } catch (const CancelledError&) {
      log.push_back("caught");
    }
    co_await sleep(0ms);
    co_await sleep(0ms);
    log.push_back("went on");
  };
  auto task = loop.create_task(body(future));
  turn();
  EXPECT_TRUE(task.cancel());
  EXPECT_FALSE(future.cancel());
  run(task);
  EXPECT_THAT(log, ElementsAre("caught", "went on"));
}

// B148 B150: the other way round the task hears of both at once.
TEST_F(CancelTest, OfTheFutureAndThenOfTheTaskIsOneError) {
  auto future = loop.create_future();
  const auto body = [this](Future<> awaited) -> Coroutine<> {
    try {
      co_await awaited;
    } catch (const CancelledError& error) {
      log.push_back("caught " + error.message());
    }
    co_await sleep(0ms);
    co_await sleep(0ms);
    log.push_back("went on");
  };
  auto task = loop.create_task(body(future));
  turn();
  EXPECT_TRUE(future.cancel("the future"));
  EXPECT_TRUE(task.cancel("the task"));
  run(task);
  EXPECT_THAT(log, ElementsAre("caught the task", "went on"));
}

// B149 T9
TEST_F(CancelTest, GoesThroughATaskToTheOneThatItAwaits) {
  const auto inner_body = [this]() -> Coroutine<> {
    std::string message;
    try {
      co_await sleep(1h);
    } catch (const CancelledError& error) {
      message = error.message();
    }
    co_await sleep(0ms);
    log.push_back("inner cleaned up");
    throw CancelledError(message);
  };
  const auto outer_body = [this](Task<> inner) -> Coroutine<> {
    try {
      co_await inner;
    } catch (const CancelledError& error) {
      EXPECT_TRUE(inner.cancelled());
      log.push_back("outer: " + error.message());
      throw;
    }
  };
  auto inner = loop.create_task(inner_body());
  auto outer = loop.create_task(outer_body(inner));
  turn();
  EXPECT_TRUE(outer.cancel("down"));
  EXPECT_EQ(inner.cancelling(), 1);
  EXPECT_EQ(outer.cancelling(), 1);
  EXPECT_THAT(thrown_by([&] { run(outer); }), StrEq("CancelledError: down"));
  EXPECT_THAT(log, ElementsAre("inner cleaned up", "outer: down"));
  EXPECT_TRUE(outer.cancelled());
}

// B149
TEST_F(CancelTest, SwallowedByTheInnerTaskTheOuterGetsItsValue) {
  const auto inner_body = []() -> Coroutine<int> {
    try {
      co_await sleep(1h);
    } catch (const CancelledError&) {
    }
    co_return 42;
  };
  const auto outer_body = [](Task<int> inner) -> Coroutine<int> { co_return co_await inner; };
  auto outer = loop.create_task(outer_body(loop.create_task(inner_body())));
  turn();
  EXPECT_TRUE(outer.cancel());
  EXPECT_EQ(run(outer), 42);
  EXPECT_EQ(outer.cancelling(), 1);
}

// B149: the task that is awaited has not even started.
TEST_F(CancelTest, GoesThroughToATaskThatHasNotStarted) {
  bool ran = false;
  const auto inner_body = [&ran]() -> Coroutine<> {
    ran = true;
    co_return;
  };
  const auto outer_body = [&]() -> Coroutine<> {
    auto inner = create_task(inner_body());
    current_task().cancel("early");
    co_await inner;
  };
  auto outer = loop.create_task(outer_body());
  EXPECT_THAT(thrown_by([&] { run(outer); }), StrEq("CancelledError: early"));
  EXPECT_FALSE(ran);
}

// B150 T10
TEST_F(CancelTest, AfterTheFutureIsDoneItStillArrivesAtTheResume) {
  auto future = loop.create_future();
  const auto body = [this](Future<> awaited) -> Coroutine<> {
    try {
      co_await awaited;
      log.push_back("result");
    } catch (const CancelledError& error) {
      log.push_back(error.message());
    }
    co_await sleep(0ms);
    log.push_back("went on");
  };
  auto task = loop.create_task(body(future));
  turn();
  future.set_result();
  EXPECT_TRUE(task.cancel("late"));
  run(task);
  EXPECT_THAT(log, ElementsAre("late", "went on"));
  EXPECT_FALSE(future.cancelled());
}

// B150
TEST_F(CancelTest, OfATaskThatYieldedItArrivesAtTheResume) {
  const auto body = [this]() -> Coroutine<> {
    co_await sleep(0ms);
    log.push_back("first");
    co_await sleep(0ms);
    log.push_back("never");
  };
  auto task = loop.create_task(body());
  turn(2);
  EXPECT_TRUE(task.cancel());
  turn();
  EXPECT_TRUE(task.cancelled());
  EXPECT_THAT(log, ElementsAre("first"));
}

// B150: of a task that waits for one that has just ended.
TEST_F(CancelTest, AfterTheInnerTaskIsDoneItStillArrivesAtTheResume) {
  auto inner = loop.create_task(sleeps());
  auto outer = loop.create_task(waits_for_task(inner));
  turn();
  inner.cancel("inner");
  turn();
  EXPECT_TRUE(inner.done());
  EXPECT_FALSE(outer.done());
  EXPECT_TRUE(outer.cancel("outer"));
  turn();
  EXPECT_THAT(thrown_by([&] { outer.result(); }), StrEq("CancelledError: outer"));
}

// B157
TEST_F(CancelTest, OfATaskAtAFutureOfANestedCoroutineArrivesInnermostFirst) {
  auto future = loop.create_future();
  const auto inner = [this](Future<> awaited) -> Coroutine<> {
    try {
      co_await awaited;
    } catch (const CancelledError&) {
      log.push_back("inner");
      throw;
    }
  };
  const auto outer = [&](Future<> awaited) -> Coroutine<> {
    try {
      co_await inner(awaited);
    } catch (const CancelledError&) {
      log.push_back("outer");
      throw;
    }
  };
  auto task = loop.create_task(outer(future));
  turn();
  EXPECT_TRUE(task.cancel());
  turn();
  EXPECT_TRUE(task.cancelled());
  EXPECT_TRUE(future.cancelled());
  EXPECT_THAT(log, ElementsAre("inner", "outer"));
}

// B160
TEST_F(CancelTest, OfTheFutureDirectlyEndsTheAwaitingTask) {
  auto future = loop.create_future();
  auto task = loop.create_task(waits_for(future));
  turn();
  EXPECT_TRUE(future.cancel("directly"));
  turn();
  EXPECT_TRUE(task.cancelled());
  EXPECT_EQ(task.cancelling(), 0);
  EXPECT_THAT(thrown_by([&] { task.result(); }), StrEq("CancelledError: directly"));
}

TEST_F(CancelTest, ACatchOfStdExceptionDoesNotSwallowIt) {
  const auto body = []() -> Coroutine<> {
    try {
      co_await sleep(1h);
    } catch (const std::exception&) {
    }
  };
  auto task = loop.create_task(body());
  turn();
  task.cancel();
  turn();
  EXPECT_TRUE(task.cancelled());
}

// Tasks that wait for each other can only be freed by a cancellation.
TEST_F(CancelTest, EndsADeadlockOfTasks) {
  std::vector<Task<>> tasks(3);
  const auto waits = [&tasks](std::size_t other) -> Coroutine<> { co_await tasks[other]; };
  tasks[0] = loop.create_task(waits(1));
  tasks[1] = loop.create_task(waits(2));
  tasks[2] = loop.create_task(waits(0));
  auto before = loop.create_task(waits_for_task(tasks[0]));
  turn();
  EXPECT_TRUE(before.cancel("knot"));
  EXPECT_THAT(thrown_by([&] { run(before); }), StrEq("CancelledError: knot"));
  for (const Task<>& task : tasks) EXPECT_TRUE(task.cancelled());
}

// ---- sleep ----

// B161
TEST_F(CancelTest, SleepOfZeroIsOneTurn) {
  const auto body = [this](std::string name) -> Coroutine<> {
    for (int i = 0; i < 2; ++i) {
      log.push_back(name + std::to_string(i));
      co_await sleep(0ms);
    }
  };
  auto first = loop.create_task(body("a"));
  auto second = loop.create_task(body("b"));
  turn();
  EXPECT_THAT(log, ElementsAre("a0", "b0"));
  turn();
  EXPECT_THAT(log, ElementsAre("a0", "b0", "a1", "b1"));
  EXPECT_FALSE(first.done());
  turn();
  EXPECT_TRUE(first.done());
  EXPECT_TRUE(second.done());
}

// B161
TEST_F(CancelTest, SleepGivesItsResultAndRefusesNaN) {
  const auto body = []() -> Coroutine<> {
    std::string text("slept");
    std::string result = co_await sleep(1ms, text);
    EXPECT_THAT(result, StrEq("slept"));
    EXPECT_EQ(co_await sleep(-5ms, 7), 7);
    const std::chrono::duration<double> nan(std::numeric_limits<double>::quiet_NaN());
    EXPECT_THROW(static_cast<void>(sleep(nan)), ValueError);
  };
  run(body());
}

}  // namespace
}  // namespace ouro
