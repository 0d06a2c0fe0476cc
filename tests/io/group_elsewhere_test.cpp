// Coroutines that an awaitable of the user's resumes by hand, on a thread that is no worker.
#include <gmock/gmock.h>

#include <atomic>
#include <coroutine>
#include <mutex>
#include <ranges>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <ouro/ouro.hpp>

#include "support/group.hpp"

namespace ouro {
namespace {

using namespace std::chrono_literals;
using test::GroupsOfAnySize;
using test::Ledger;
using test::thrown_by;
using test::until;

INSTANTIATE_TEST_SUITE_P(Workers, GroupsOfAnySize, testing::Values(2U, 4U, 16U), testing::PrintToStringParamName());

// A thread for each that goes elsewhere; joined when this goes.
class Elsewhere {
 public:
  ~Elsewhere() {
    for (std::thread& thread : threads_) thread.join();
  }

  class Awaiter {
   public:
    explicit Awaiter(Elsewhere& elsewhere) noexcept : elsewhere_(elsewhere) {}
    bool await_ready() const noexcept { return false; }
    void await_suspend(std::coroutine_handle<> coroutine) const {
      Elsewhere& elsewhere = elsewhere_;  // this may be gone before the thread is noted
      const std::lock_guard hold(elsewhere.mutex_);
      elsewhere.threads_.emplace_back([coroutine] { coroutine.resume(); });
    }
    void await_resume() const noexcept {}

   private:
    Elsewhere& elsewhere_;
  };
  Awaiter operator co_await() noexcept { return Awaiter(*this); }

 private:
  std::mutex mutex_;
  std::vector<std::thread> threads_;
};

// An argument that takes its time to go.
class Lasting {
 public:
  explicit Lasting(std::atomic<int>& alive) noexcept : alive_(&alive) { ++alive; }
  Lasting(Lasting&& other) noexcept : alive_(std::exchange(other.alive_, nullptr)) {}
  Lasting& operator=(Lasting&&) = delete;
  ~Lasting() {
    if (!alive_) return;
    for (int i = 0; i < 200; ++i) std::this_thread::yield();
    --*alive_;
  }

 private:
  std::atomic<int>* alive_;
};

Coroutine<int> away(Elsewhere& elsewhere, int value, Lasting) {
  co_await elsewhere;
  co_return value;
}

Coroutine<std::string> away_in_vain(Elsewhere& elsewhere, Lasting) {
  co_await elsewhere;
  throw std::runtime_error("in vain");
}

TEST_P(GroupsOfAnySize, AGathersChildHasGoneWhenItsParentGoesOn) {
  std::atomic<int> alive{0};
  Elsewhere elsewhere;
  const auto main = [&]() -> Coroutine<> {
    for (int round = 0; round < 10; ++round) {
      std::vector<Coroutine<int>> children;
      for (int i = 0; i < 4; ++i) children.push_back(away(elsewhere, i, Lasting(alive)));
      children.push_back([](Lasting) -> Coroutine<int> { co_return 4; }(Lasting(alive)));
      int sum = 0;
      for (int i : co_await gather(std::move(children))) sum += i;
      EXPECT_EQ(sum, 10);
      EXPECT_EQ(alive, 0);
    }
  };
  run(main);
}

TEST_P(GroupsOfAnySize, AChildThatFailsElsewhereHasGoneToo) {
  std::atomic<int> alive{0};
  Elsewhere elsewhere;
  const auto main = [&]() -> Coroutine<> {
    for (int round = 0; round < 10; ++round) {
      Coroutine<std::string> first = away_in_vain(elsewhere, Lasting(alive));
      Coroutine<std::string> second = away_in_vain(elsewhere, Lasting(alive));
      std::string failed;
      try {
        co_await gather(std::move(first), std::move(second));
      } catch (const std::runtime_error& error) {
        failed = error.what();
      }
      EXPECT_EQ(failed, "in vain");
      EXPECT_EQ(alive, 0);
    }
  };
  run(main);
}

TEST_P(GroupsOfAnySize, AMapWithALimitHearsOfThoseThatEndElsewhere) {
  std::atomic<int> alive{0};
  Elsewhere elsewhere;
  test::Crowd crowd;
  const auto main = [&]() -> Coroutine<> {
    const auto child = [&](int i) -> Coroutine<int> {
      Lasting lasting(alive);
      crowd.enter();
      if (i % 3 != 0) co_await elsewhere;
      crowd.leave();
      co_return i;
    };
    int sum = 0;
    for (int i : co_await map(child, std::views::iota(0, 60), {.limit = 3})) sum += i;
    EXPECT_EQ(sum, 59 * 30);
    EXPECT_EQ(alive, 0);
    EXPECT_LE(crowd.most(), 3);
  };
  run(main);
}

// A handle to a child keeps its frame, and delays nobody.
TEST_P(GroupsOfAnySize, AChildThatIsHeldMayEndElsewhere) {
  Elsewhere elsewhere;
  const auto main = [&]() -> Coroutine<> {
    std::vector<AnyTask> held(3);
    const auto child = [&](int i) -> Coroutine<int> {
      held[static_cast<std::size_t>(i)] = current_task();
      co_await elsewhere;
      co_return i;
    };
    int sum = 0;
    for (int i : co_await map(child, std::views::iota(0, 3), {.limit = 1})) sum += i;
    EXPECT_EQ(sum, 3);
    for (const AnyTask& task : held) EXPECT_TRUE(task.done());
  };
  run(main);
}

TEST_P(GroupsOfAnySize, ATaskMayEndElsewhere) {
  std::atomic<int> alive{0};
  Elsewhere elsewhere;
  const auto main = [&]() -> Coroutine<> {
    for (int i = 0; i < 100; ++i) {
      Coroutine<int> awaited = away(elsewhere, i, Lasting(alive));
      EXPECT_EQ(co_await spawn(std::move(awaited)), i);
      Task<int> held = spawn(away(elsewhere, i, Lasting(alive)));
      spawn(away(elsewhere, i, Lasting(alive)));
      EXPECT_EQ(co_await held, i);
    }
    co_await until([&] { return alive == 0; });
  };
  run(main);
}

// The last handle goes with the run, perhaps before the thread has let go of the task.
TEST_P(GroupsOfAnySize, ATaskMayEndElsewhereAsTheRunEnds) {
  for (int i = 0; i < 50; ++i) {
    std::atomic<int> alive{0};
    Elsewhere elsewhere;
    const auto main = [&]() -> Coroutine<int> {
      Coroutine<int> awaited = away(elsewhere, i, Lasting(alive));
      co_return co_await spawn(std::move(awaited));
    };
    EXPECT_EQ(run(main), i);
  }
}

}  // namespace
}  // namespace ouro
