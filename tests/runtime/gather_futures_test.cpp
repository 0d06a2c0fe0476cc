// gather over futures and tasks of the caller, where their lives and the gather's cross; and results that only move.
#include <gmock/gmock.h>

#include <coroutine>
#include <memory>
#include <stdexcept>
#include <utility>
#include <vector>

#include <ouro/runtime/gather.hpp>
#include <ouro/runtime/generators.hpp>
#include <ouro/runtime/sleep.hpp>
#include <ouro/runtime/tasks.hpp>

#include "support/loop_fixture.hpp"

namespace ouro {
namespace {

using namespace std::chrono_literals;

class GatherFuturesTest : public test::LoopTest {};

TEST_F(GatherFuturesTest, AVectorThatWaitsWhenTheLoopClosesLeavesTheFuturesUsable) {
  auto future = loop.create_future<int>();
  const auto body = [](std::vector<Future<int>> futures) -> Coroutine<> { co_await gather(std::move(futures)); };
  std::vector<Future<int>> two{future, future};
  loop.create_task(body(std::move(two)));
  turn(2);
  loop.close();
  take_reports();
  EXPECT_TRUE(future.cancel());
  EXPECT_TRUE(future.cancelled());
}

TEST_F(GatherFuturesTest, AMoveOnlyResultOfATaskThatIsStillRunningIsMovedOut) {
  const auto boxed = []() -> Coroutine<std::unique_ptr<int>> {
    co_await sleep(1ms);
    co_return std::make_unique<int>(7);
  };
  const auto body = [&]() -> Coroutine<int> {
    auto task = create_task(boxed());
    auto [box] = co_await gather(std::move(task));
    co_return *box;
  };
  EXPECT_EQ(run(body()), 7);
}

TEST_F(GatherFuturesTest, RunOfAnLvalueGivesAMoveOnlyResultByReference) {
  const auto boxed = []() -> Coroutine<std::unique_ptr<int>> { co_return std::make_unique<int>(7); };
  auto task = loop.create_task(boxed());
  const std::unique_ptr<int>& box = loop.run_until_complete(task);
  EXPECT_EQ(*box, 7);
  EXPECT_EQ(&box, &task.result());
}

TEST_F(GatherFuturesTest, ACancellationAfterTheFirstErrorIsWhatTheParentHearsOf) {
  const auto slow = [](int& cancels) -> Coroutine<> {
    for (int round = 0; round < 2; ++round) {
      try {
        co_await sleep(1h);
      } catch (const CancelledError&) {
        ++cancels;
      }
    }
  };
  const auto bad = []() -> Coroutine<> {
    throw std::runtime_error("bad");
    co_return;
  };
  int cancels = 0;
  const auto body = [&]() -> Coroutine<> { co_await gather(slow(cancels), bad()); };
  auto task = loop.create_task(body());
  turn(3);
  EXPECT_EQ(cancels, 1);  // the error has cancelled the sibling, which is not done yet
  EXPECT_TRUE(task.cancel());
  turn(4);
  EXPECT_EQ(cancels, 2);
  EXPECT_TRUE(task.cancelled());
}

TEST_F(GatherFuturesTest, ATaskThatWaitsForSomethingForeignAfterAGeneratorIsDestroyedWithItsLoop) {
  const auto numbers = []() -> AsyncGenerator<int> {
    co_yield 1;
    co_await sleep(0ms);
    co_yield 2;
  };
  int alive = 0;
  const auto body = [&](test::Counted) -> Coroutine<> {
    auto generator = numbers();
    int sum = 0;
    while (auto number = co_await generator.next()) sum += *number;
    EXPECT_EQ(sum, 3);
    co_await std::suspend_always();
  };
  loop.create_task(body(test::Counted(alive)));
  turn(4);
  EXPECT_EQ(alive, 1);
  loop.close();
  take_reports();
  EXPECT_EQ(alive, 0);
}

int kept_value = 7;

TEST_F(GatherFuturesTest, AReferenceComesOutOfACallableAsOutOfItsCoroutine) {
  const auto refers = []() -> Coroutine<int&> { co_return kept_value; };
  auto by_call = loop.create_task(refers);
  static_assert(std::is_same_v<decltype(by_call), Task<int&>>);
  int& value = loop.run_until_complete(by_call);
  EXPECT_EQ(&value, &kept_value);
}

}  // namespace
}  // namespace ouro
