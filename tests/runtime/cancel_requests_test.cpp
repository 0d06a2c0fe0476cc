// Requests to cancel: how they are counted and taken back, and what becomes of their messages.
#include <gmock/gmock.h>

#include <chrono>
#include <string>
#include <vector>

#include <ouro/runtime/futures.hpp>
#include <ouro/runtime/sleep.hpp>
#include <ouro/runtime/tasks.hpp>

#include "support/loop_fixture.hpp"

namespace ouro {
namespace {

using namespace std::chrono_literals;
using test::thrown_by;
using testing::ElementsAre;
using testing::StrEq;

class CancelRequestTest : public test::LoopTest {
 protected:
  std::vector<std::string> log;
};

Coroutine<> waits_for_task(Task<> task) { co_await task; }
Coroutine<> sleeps() { co_await sleep(1h); }

// B152
TEST_F(CancelRequestTest, RequestsAreCountedAndTakenBack) {
  auto task = loop.create_task(sleeps());
  EXPECT_EQ(task.cancelling(), 0);
  EXPECT_EQ(task.uncancel(), 0);
  turn();
  EXPECT_TRUE(task.cancel());
  EXPECT_EQ(task.cancelling(), 1);
  EXPECT_TRUE(task.cancel());
  EXPECT_EQ(task.cancelling(), 2);
  EXPECT_EQ(task.uncancel(), 1);
  EXPECT_EQ(task.cancelling(), 1);
  EXPECT_EQ(task.uncancel(), 0);
  EXPECT_EQ(task.uncancel(), 0);
  EXPECT_EQ(task.cancelling(), 0);
  turn();
  EXPECT_TRUE(task.cancelled());  // it was on its way already
  EXPECT_FALSE(task.cancel());
  EXPECT_EQ(task.cancelling(), 0);
}

// B152: what a structured block does that ends its own cancellation.
TEST_F(CancelRequestTest, ATaskThatTakesItsCancellationBackGoesOn) {
  const auto body = [this]() -> Coroutine<> {
    try {
      co_await sleep(1h);
    } catch (const CancelledError&) {
      EXPECT_EQ(current_task().cancelling(), 1);
      EXPECT_EQ(current_task().uncancel(), 0);
    }
    co_await sleep(0ms);
    log.push_back("went on");
  };
  auto task = loop.create_task(body());
  turn();
  task.cancel();
  run(task);
  EXPECT_FALSE(task.cancelled());
  EXPECT_THAT(log, ElementsAre("went on"));
}

// B153
TEST_F(CancelRequestTest, TakenBackBeforeTheDeliveryItIsNotDelivered) {
  const auto body = [this]() -> Coroutine<> {
    current_task().cancel();
    current_task().cancel();
    EXPECT_EQ(current_task().uncancel(), 1);
    EXPECT_EQ(current_task().uncancel(), 0);
    co_await sleep(0ms);
    log.push_back("went on");
  };
  run(body());
  auto unstarted = loop.create_task(body());
  unstarted.cancel();
  unstarted.uncancel();
  run(unstarted);
  EXPECT_THAT(log, ElementsAre("went on", "went on"));
}

// B153: one of two requests is left.
TEST_F(CancelRequestTest, TakenBackInPartItIsDelivered) {
  const auto body = []() -> Coroutine<> {
    current_task().cancel("first");
    current_task().cancel("second");
    EXPECT_EQ(current_task().uncancel(), 1);
    co_await sleep(0ms);
  };
  EXPECT_THAT(thrown_by([&] { run(body()); }), StrEq("CancelledError: second"));
}

// B155
TEST_F(CancelRequestTest, TheMessageGoesThroughChainsOfTasksAndCoroutines) {
  const auto innermost = [](Future<> future) -> Coroutine<> { co_await future; };
  const auto nested = [&](Future<> future) -> Coroutine<> { co_await innermost(future); };
  const auto middle = [](Task<> inner) -> Coroutine<> { co_await inner; };
  auto future = loop.create_future();
  auto first = loop.create_task(nested(future));
  auto second = loop.create_task(middle(first));
  auto third = loop.create_task(middle(second));
  turn();
  EXPECT_TRUE(third.cancel("all the way"));
  EXPECT_THAT(thrown_by([&] { run(third); }), StrEq("CancelledError: all the way"));
  EXPECT_THAT(thrown_by([&] { future.result(); }), StrEq("CancelledError: all the way"));
  EXPECT_THAT(thrown_by([&] { first.result(); }), StrEq("CancelledError: all the way"));
  EXPECT_THAT(thrown_by([&] { second.result(); }), StrEq("CancelledError: all the way"));
}

// B155: a message belongs to its own cancellation.
TEST_F(CancelRequestTest, AMessageOfAnEarlierCancelIsForgotten) {
  const auto body = []() -> Coroutine<> {
    try {
      co_await sleep(1h);
    } catch (const CancelledError&) {
    }
    co_await sleep(1h);
  };
  auto task = loop.create_task(body());
  turn();
  task.cancel("old");
  turn();
  task.cancel();
  turn();
  EXPECT_THAT(thrown_by([&] { task.result(); }), StrEq("CancelledError: "));
}

// B155: what the task throws itself is what its awaiters get.
TEST_F(CancelRequestTest, ATaskMayThrowACancelledErrorOfItsOwn) {
  const auto body = []() -> Coroutine<> {
    try {
      co_await sleep(1h);
    } catch (const CancelledError&) {
      throw CancelledError("replaced");
    }
  };
  auto task = loop.create_task(body());
  auto outer = loop.create_task(waits_for_task(task));
  turn();
  task.cancel("original");
  turn(2);
  EXPECT_TRUE(task.cancelled());
  EXPECT_THAT(thrown_by([&] { task.result(); }), StrEq("CancelledError: replaced"));
  EXPECT_THAT(thrown_by([&] { outer.result(); }), StrEq("CancelledError: replaced"));
  const auto own = []() -> Coroutine<> {
    throw CancelledError("never asked for");
    co_return;
  };
  auto unasked = loop.create_task(own());
  turn();
  EXPECT_TRUE(unasked.cancelled());
  EXPECT_EQ(unasked.cancelling(), 0);
}

}  // namespace
}  // namespace ouro
