// wait, shield, as_completed and wait_for over futures that other workers complete.
#include <gmock/gmock.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <exception>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <ouro/ouro.hpp>

#include "support/group.hpp"

namespace ouro {
namespace {

using namespace std::chrono_literals;
using test::end_of;

class GroupWait : public test::GroupsOfAnySize {};
INSTANTIATE_TEST_SUITE_P(Workers, GroupWait, testing::Values(1U, 2U, 4U));

Coroutine<int> yields(int times) {
  for (int i = 0; i < times; ++i) co_await sleep(0s);
  co_return times;
}
std::vector<Task<int>> tasks(int count) {
  std::vector<Task<int>> made;
  for (int i = 0; i < count; ++i) made.push_back(create_task(yields(i % 7)));
  return made;
}

// B185
TEST_P(GroupWait, WaitsForAll) {
  const auto main = []() -> Coroutine<> {
    for (int round = 0; round < 50; ++round) {
      auto result = co_await wait(tasks(40));
      EXPECT_EQ(result.done.size(), 40U);
      for (std::size_t i = 0; i < result.done.size(); ++i) EXPECT_EQ(result.done[i].result(), static_cast<int>(i % 7));
    }
  };
  run(main());
}

// B187, B186
TEST_P(GroupWait, WaitsForTheFirstOrTheTimeLimit) {
  const auto main = []() -> Coroutine<> {
    for (int round = 0; round < 100; ++round) {
      auto made = tasks(20);
      std::size_t seen = 0;
      while (!made.empty()) {
        const WaitOptions options{.timeout = std::chrono::microseconds(round * 5), .return_when = FIRST_COMPLETED};
        auto result = co_await wait(std::move(made), options);
        seen += result.done.size();
        made = std::move(result.pending);
      }
      EXPECT_EQ(seen, 20U);
    }
  };
  run(main());
}

// B158: the cancellation and the end of the futures at the same time.
TEST_P(GroupWait, CancellationsOfWaitsLeaveTheFuturesAlone) {
  const auto main = []() -> Coroutine<> {
    for (int round = 0; round < 100; ++round) {
      auto made = tasks(10);
      const WaitOptions options{.timeout = 1h};
      auto waiting = create_task(wait(made, options));
      co_await yields(round % 8);
      waiting.cancel();
      const std::string end = co_await end_of(waiting);
      EXPECT_TRUE(end.empty() || end == "CancelledError: ") << end;
      EXPECT_EQ((co_await wait(made)).done.size(), 10U);
      for (auto& task : made) EXPECT_FALSE(task.cancelled());
    }
  };
  run(main());
}

// B164, B166
TEST_P(GroupWait, AShieldKeepsCancellationsAway) {
  const auto main = []() -> Coroutine<> {
    for (int round = 0; round < 200; ++round) {
      auto inner = create_task(yields(5));
      auto outer = create_task(shield(inner));
      co_await yields(round % 8);
      outer.cancel();
      const std::string end = co_await end_of(outer);
      EXPECT_TRUE(end.empty() || end == "CancelledError: ") << end;
      EXPECT_EQ(co_await inner, 5);
      EXPECT_EQ(co_await shield(inner), 5);
    }
  };
  run(main());
}

// B190, B193: whoever waits gets one, each of them once.
TEST_P(GroupWait, EachResultIsGivenOnce) {
  const auto main = []() -> Coroutine<> {
    for (int round = 0; round < 20; ++round) {
      auto all = as_completed(tasks(40));
      std::atomic<int> got{0};
      const auto consumer = [](AsCompleted<Task<int>> from, std::atomic<int>& count) -> Coroutine<> {
        while (std::optional<Task<int>> task = co_await from.next()) {
          EXPECT_TRUE(task->done());
          ++count;
        }
      };
      co_await gather(consumer(all, got), consumer(all, got), consumer(all, got));
      EXPECT_EQ(got.load(), 40);
    }
  };
  run(main());
}

TEST_P(GroupWait, ACancelledWaitPassesItsResultOn) {
  const auto main = []() -> Coroutine<> {
    for (int round = 0; round < 100; ++round) {
      auto all = as_completed(tasks(6));
      std::atomic<int> got{0};
      const auto taker = [](AsCompleted<Task<int>> from, std::atomic<int>& count) -> Coroutine<> {
        if (co_await from.next()) ++count;
      };
      std::vector<Task<>> takers;
      for (int i = 0; i < 4; ++i) takers.push_back(create_task(taker(all, got)));
      co_await yields(round % 5);
      takers[0].cancel();
      takers[2].cancel();
      static_cast<void>(co_await wait(takers));
      while (std::optional<Task<int>> task = co_await all.next()) ++got;
      EXPECT_EQ(got.load(), 6);
    }
  };
  run(main());
}

// B191
TEST_P(GroupWait, AsCompletedHasATimeLimit) {
  const auto main = []() -> Coroutine<> {
    for (int round = 0; round < 50; ++round) {
      auto forever = create_task(yields(1 << 30));
      std::vector<Task<int>> made = tasks(5);
      made.push_back(forever);
      int got = 0;
      int late = 0;
      for (auto next : as_completed(made, std::chrono::microseconds(50 * round))) {
        const std::string end = co_await end_of(next);
        (end.empty() ? got : late) += 1;
      }
      EXPECT_EQ(got + late, 6);
      EXPECT_GE(late, 1);
      forever.cancel();
      static_cast<void>(co_await wait(made));
    }
  };
  run(main());
}

// B199, B203: the result and the deadline at the same time.
TEST_P(GroupWait, NoResultIsLostToADeadline) {
  const auto main = []() -> Coroutine<> {
    int results = 0;
    for (int round = 0; round < 300; ++round) {
      auto inner = create_task(yields(4));
      const std::string end = co_await end_of(wait_for(inner, std::chrono::microseconds(round % 40)));
      if (end.empty()) {
        ++results;
        EXPECT_EQ(inner.result(), 4);
      } else {
        EXPECT_EQ(end, "TimeoutError: the deadline has passed");
        EXPECT_TRUE(inner.cancelled());
      }
      EXPECT_EQ(current_task().cancelling(), 0);
    }
    EXPECT_GT(results, 0);
  };
  run(main());
}

}  // namespace
}  // namespace ouro
