// Deadlines of tasks that move between workers.
#include <gmock/gmock.h>

#include <atomic>
#include <chrono>
#include <exception>
#include <string>
#include <utility>
#include <vector>

#include <ouro/ouro.hpp>

#include "support/group.hpp"

namespace ouro {
namespace {

using namespace std::chrono_literals;
using test::end_of;

class GroupTimeouts : public test::GroupsOfAnySize {};
INSTANTIATE_TEST_SUITE_P(Workers, GroupTimeouts, testing::Values(1U, 2U, 4U));

constexpr const char* timed_out = "TimeoutError: the deadline has passed";

Coroutine<int> yields(int times) {
  for (int i = 0; i < times; ++i) co_await sleep(0s);
  co_return times;
}

// B207, B213: armed on one worker, over on another, thousands of times.
TEST_P(GroupTimeouts, ATimerIsDisarmedWhereverTheTaskEnds) {
  const auto child = []() -> Coroutine<int> {
    int sum = 0;
    for (int i = 0; i < 50; ++i) sum += co_await timeout(1h, yields(3));
    co_return sum;
  };
  const auto main = [&]() -> Coroutine<int> {
    std::vector<Coroutine<int>> children;
    for (int i = 0; i < 100; ++i) children.push_back(child());
    int sum = 0;
    for (int one : co_await gather(std::move(children))) sum += one;
    co_return sum;
  };
  EXPECT_EQ(run(main()), 100 * 50 * 3);
}

TEST_P(GroupTimeouts, TheDeadlineCancelsWhereverTheTaskIs) {
  const auto child = [](int i) -> Coroutine<bool> {
    const std::string end = co_await end_of(timeout(std::chrono::microseconds(200 + i * 7), yields(1 << 30)));
    EXPECT_EQ(end, timed_out);
    EXPECT_EQ(current_task().cancelling(), 0);
    co_await sleep(0s);  // no cancellation comes after the scope
    co_return true;
  };
  const auto main = [&]() -> Coroutine<std::size_t> {
    std::vector<Coroutine<bool>> children;
    for (int i = 0; i < 200; ++i) children.push_back(child(i));
    co_return (co_await gather(std::move(children))).size();
  };
  EXPECT_EQ(run(main()), 200U);
}

// The end of the scope and the deadline at the same instant: one of the two, and nothing afterwards.
TEST_P(GroupTimeouts, TheEndAndTheDeadlineRace) {
  std::atomic<int> late{0};
  const auto child = [&](int i) -> Coroutine<> {
    for (int round = 0; round < 20; ++round) {
      const auto delay = std::chrono::microseconds(20 + (i * 13 + round * 7) % 60);
      const std::string end = co_await end_of(timeout(delay, sleep(std::chrono::microseconds(50))));
      if (!end.empty()) ++late;
      EXPECT_TRUE(end.empty() || end == timed_out) << end;
      EXPECT_EQ(current_task().cancelling(), 0);
      EXPECT_EQ(co_await end_of(sleep(0s)), "");
    }
  };
  const auto main = [&]() -> Coroutine<> {
    std::vector<Coroutine<>> children;
    for (int i = 0; i < 100; ++i) children.push_back(child(i));
    co_await gather(std::move(children));
  };
  run(main());
  EXPECT_GT(late.load(), 0);
}

// B209
TEST_P(GroupTimeouts, ADeadlineThatHasPassedCancelsAtTheFirstAwait) {
  const auto main = []() -> Coroutine<> {
    EXPECT_EQ(co_await end_of(timeout(0s, yields(1))), timed_out);
    EXPECT_EQ(co_await end_of(timeout(-1s, sleep(1h))), timed_out);
    EXPECT_EQ(co_await end_of(wait_for(yields(1), 0s)), timed_out);
    EXPECT_EQ(current_task().cancelling(), 0);
    EXPECT_EQ(co_await timeout(std::nullopt, yields(2)), 2);
  };
  run(main());
}

TEST_P(GroupTimeouts, CanBeRescheduledAfterTheTaskHasMoved) {
  const auto body = [](Timeout& scope) -> Coroutine<int> {
    for (int i = 0; i < 50; ++i) {
      scope.reschedule(get_running_loop().time() + (i % 2 == 0 ? 1h : 2h));
      co_await yields(2);
    }
    scope.reschedule(std::nullopt);
    co_return 1;
  };
  const auto main = [&]() -> Coroutine<int> {
    std::vector<Coroutine<int>> children;
    for (int i = 0; i < 50; ++i) {
      children.push_back([](auto f) -> Coroutine<int> { co_return co_await timeout(1h, f); }(body));
    }
    int sum = 0;
    for (int one : co_await gather(std::move(children))) sum += one;
    co_return sum;
  };
  EXPECT_EQ(run(main()), 50);
}

// A gather's child that only gathers is known to nobody, until it has a deadline.
TEST_P(GroupTimeouts, ADeadlineFindsAPrivateChild) {
  const auto child = []() -> Coroutine<std::string> {
    co_return co_await end_of(timeout(2ms, gather(yields(1 << 30), yields(1 << 30))));
  };
  const auto main = [&]() -> Coroutine<> {
    auto [a, b] = co_await gather(child(), child());
    EXPECT_EQ(a, timed_out);
    EXPECT_EQ(b, timed_out);
  };
  run(main());
}

TEST_P(GroupTimeouts, OfAPinnedTask) {
  const auto main = []() -> Coroutine<> {
    std::vector<Task<std::string>> tasks;
    for (BaseEventLoop* loop : workers()) {
      tasks.push_back(loop->create_task(end_of(timeout(1ms, sleep(1h)))));
      tasks.push_back(loop->create_task(end_of(timeout(1h, yields(10)))));
    }
    for (std::size_t i = 0; i < tasks.size(); ++i) EXPECT_EQ(co_await tasks[i], i % 2 == 0 ? timed_out : "");
  };
  run(main());
}

// The run ends while scopes are open.
TEST_P(GroupTimeouts, IsCancelledWithItsGroup) {
  const auto main = []() -> Coroutine<> {
    for (int i = 0; i < 20; ++i) create_task(timeout(1h, sleep(2h)));
    co_await yields(3);
  };
  run(main());
}

}  // namespace
}  // namespace ouro
