// Interop over several loops, and races: stop requests against completion and destruction, awaitables that resume on
// threads of their own.
#include <gmock/gmock.h>

#include <atomic>
#include <chrono>
#include <coroutine>
#include <future>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <ouro/ouro.hpp>

#include "support/group.hpp"

namespace ouro {
namespace {

using namespace std::chrono_literals;

class GroupInterop : public test::GroupsOfAnySize {};

constexpr int rounds = 100;

// Ends by itself after a few turns, so that a stop from another thread meets it at any point.
Coroutine<int> few_turns(int turns) {
  for (int i = 0; i < turns; ++i) co_await sleep(0s);
  co_return turns;
}

// 1: it came to its end; 0: it was stopped.
Coroutine<int> ended(std::stop_token token, int turns) {
  try {
    const int result = co_await cancel_on_stop(std::move(token), few_turns(turns));
    EXPECT_EQ(result, turns);
    co_return 1;
  } catch (const CancelledError& error) {
    EXPECT_EQ(error.message(), "stop was requested");
    co_return 0;
  }
}

TEST_P(GroupInterop, AStopMeetsACompletion) {
  run([]() -> Coroutine<> {
    for (int round = 0; round < rounds; ++round) {
      std::stop_source source;
      std::jthread other;
      std::vector<Task<int>> tasks;
      for (int i = 0; i < 8; ++i) tasks.push_back(spawn(ended(source.get_token(), round % 8 * i / 2)));
      other = std::jthread([&] { source.request_stop(); });
      for (Task<int>& task : tasks) {
        const int how = co_await std::move(task);
        EXPECT_TRUE(how == 0 || how == 1);
      }
    }
  });
}

TEST_P(GroupInterop, AStopMeetsACancellation) {
  run([]() -> Coroutine<> {
    for (int round = 0; round < rounds; ++round) {
      std::stop_source source;
      const auto waits = [](std::stop_token token) -> Coroutine<int> {
        co_return co_await cancel_on_stop(std::move(token), few_turns(1000000));
      };
      Task<int> task = spawn(waits(source.get_token()));
      std::jthread other([&] { source.request_stop(); });
      for (int i = 0; i < round % 5; ++i) co_await sleep(0s);
      task.cancel("by the task");
      std::string message = "none";
      try {
        co_await task;
      } catch (const CancelledError& error) {
        message = error.message();
      }
      EXPECT_TRUE(message == "by the task" || message == "stop was requested") << message;
    }
  });
}

// The run ends while others request stops: what is left is cancelled, by the one or the other.
TEST_P(GroupInterop, AStopMeetsTheEndOfTheRun) {
  for (int round = 0; round < 20; ++round) {
    std::stop_source source;
    std::jthread other;
    run([&]() -> Coroutine<> {
      for (int i = 0; i < 4; ++i) spawn(cancel_on_stop(source.get_token(), few_turns(1000000)));
      co_await few_turns(3);
      other = std::jthread([&] { source.request_stop(); });
    });
  }
}

TEST_P(GroupInterop, CancellationsStopThreads) {
  run([]() -> Coroutine<> {
    std::atomic<int> stopped{0};
    std::atomic<int> begun{0};
    std::vector<Task<int>> tasks;
    const auto work = [&](std::stop_token token) {
      ++begun;
      while (!token.stop_requested()) std::this_thread::yield();
      return ++stopped;
    };
    for (int i = 0; i < 4; ++i) {
      auto start = [&](std::stop_token token) { return to_thread(work, std::move(token)); };
      tasks.push_back(spawn(stop_on_cancel(start)));
    }
    co_await test::until([&] { return begun == 4; });
    for (Task<int>& task : tasks) task.cancel();
    for (Task<int>& task : tasks) {
      bool cancelled = false;
      try {
        co_await task;
      } catch (const CancelledError&) {
        cancelled = true;
      }
      EXPECT_TRUE(cancelled);
    }
    EXPECT_EQ(stopped, 4);
  });
}

// Resumes on a thread of its own.
class OnAThread {
 public:
  explicit OnAThread(int value) noexcept : value_(value) {}
  bool await_ready() const noexcept { return false; }
  void await_suspend(std::coroutine_handle<> coroutine) const { std::thread(coroutine).detach(); }
  int await_resume() const noexcept { return value_; }

 private:
  int value_;
};

TEST_P(GroupInterop, WhatResumesElsewhereIsBroughtHome) {
  run([]() -> Coroutine<> {
    const auto one = [](int value) -> Coroutine<int> {
      const int got = co_await resume_here(OnAThread(value));
      EXPECT_TRUE(current_task());  // on a worker
      co_return got;
    };
    std::vector<int> values;
    for (int i = 0; i < 50; ++i) values.push_back(i);
    EXPECT_EQ(co_await map(one, values), values);
    // Cancelled while it is elsewhere: the result is dropped.
    std::vector<Task<int>> tasks;
    for (int i = 0; i < 50; ++i) tasks.push_back(spawn(one(i)));
    for (Task<int>& task : tasks) task.cancel();
    for (Task<int>& task : tasks) {
      try {
        co_await task;
      } catch (const CancelledError&) {
      }
      EXPECT_TRUE(task.done());
    }
  });
}

TEST_P(GroupInterop, CallbacksOfManyThreads) {
  run([]() -> Coroutine<> {
    const auto one = [](int value) -> Coroutine<int> {
      const auto result = ConcurrentFuture<int>::create();
      void* const address = result.to_address();
      std::thread([=] { ConcurrentFuture<int>::from_address(address).try_set_result(value); }).detach();
      co_return co_await wrap_future(result);
    };
    std::vector<int> values;
    for (int i = 0; i < 50; ++i) values.push_back(i);
    EXPECT_EQ(co_await map(one, values), values);
  });
}

TEST_P(GroupInterop, StdFuturesOfManyTasks) {
  run([]() -> Coroutine<> {
    std::vector<std::promise<int>> promises(16);
    std::vector<Task<int>> tasks;
    for (std::promise<int>& promise : promises) {
      const auto waits = [](std::future<int> future) -> Coroutine<int> {
        co_return co_await wrap_future(std::move(future));
      };
      tasks.push_back(spawn(waits(promise.get_future())));
    }
    for (std::size_t i = 0; i < 16; ++i) promises[i].set_value(static_cast<int>(i));
    for (std::size_t i = 0; i < 16; ++i) EXPECT_EQ(co_await tasks[i], static_cast<int>(i));
  });
}

INSTANTIATE_TEST_SUITE_P(Workers, GroupInterop, testing::Values(1U, 2U, 4U));

}  // namespace
}  // namespace ouro
