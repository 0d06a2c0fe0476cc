// Task factories over several loops: what a factory keeps may be used on any worker at once.
#include <gmock/gmock.h>

#include <atomic>
#include <mutex>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <ouro/ouro.hpp>

#include "support/group.hpp"

namespace ouro {
namespace {

using namespace std::chrono_literals;
using test::GroupsOfAnySize;
using test::thrown_by;
using test::until;

INSTANTIATE_TEST_SUITE_P(Workers, GroupsOfAnySize, testing::Values(1U, 2U, 4U, 16U), testing::PrintToStringParamName());

Coroutine<int> give(int value) {
  co_await sleep(0s);
  co_return value;
}

// What a factory has seen, for a task on another worker.
class Seen {
 public:
  void add(AnyTask task) {
    const std::lock_guard hold(mutex_);
    tasks_.push_back(std::move(task));
  }
  std::vector<AnyTask> take() {
    const std::lock_guard hold(mutex_);
    return std::exchange(tasks_, {});
  }

 private:
  std::mutex mutex_;
  std::vector<AnyTask> tasks_;
};

void use(const AnyTask& task) {
  AnyTask another = task;
  static_cast<void>(another.get_name());
  another.set_name("looked at");
  static_cast<void>(another.done());
  static_cast<void>(another.cancelling());
  static_cast<void>(another.get_stack());
}

TEST_P(GroupsOfAnySize, AHandleThatAFactoryKeepsIsUsedElsewhereAtOnce) {
  constexpr int rounds = 300;
  const auto main = []() -> Coroutine<> {
    Seen seen;
    std::atomic<bool> over{false};
    int seen_there = 0;
    int cancelled = 0;
    const std::vector<EventLoop*> loops = workers();
    const auto watch = [&]() -> Coroutine<> {
      for (bool last = false; !last;) {
        last = over;
        for (AnyTask& task : seen.take()) {
          use(task);
          if (++seen_there % 3 == 0 && task.cancel()) ++cancelled;
        }
        co_await sleep(0s);
      }
    };
    Task<> watching = loops.back()->create_task(watch());
    const auto factory = [&](BaseEventLoop&, AnyTask task, TaskOptions& options) {
      seen.add(std::move(task));
      options.name = "renamed";
    };
    for (EventLoop* loop : loops) loop->set_task_factory(factory);
    int values = 0;
    for (int i = 0; i < rounds; ++i) {
      const TaskOptions options{.eager_start = i % 2 == 0};
      for (EventLoop* loop : {static_cast<EventLoop*>(nullptr), loops.front(), loops.back()}) {
        Task<int> task = loop ? loop->create_task(give(i), options) : spawn(give(i), options);
        try {
          values += co_await task == i;
        } catch (const CancelledError&) {
        }
      }
    }
    for (EventLoop* loop : loops) loop->set_task_factory(nullptr);
    over = true;
    co_await watching;
    EXPECT_EQ(seen_there, 3 * rounds);
    EXPECT_GE(values, 3 * rounds - cancelled);
  };
  run(main);
}

TEST_P(GroupsOfAnySize, AHandleKeptByAFactoryThatThrowsStaysValidElsewhere) {
  constexpr int rounds = 100;
  const auto main = []() -> Coroutine<> {
    Seen seen;
    std::atomic<bool> over{false};
    int cancelled = 0;
    const std::vector<EventLoop*> loops = workers();
    const auto watch = [&]() -> Coroutine<> {
      for (bool last = false; !last;) {
        last = over;
        for (AnyTask& task : seen.take()) {
          use(task);
          task.cancel();
          co_await until([&] { return task.done(); });
          cancelled += task.cancelled();
        }
        co_await sleep(0s);
      }
    };
    Task<> watching = loops.back()->create_task(watch());
    const auto factory = [&](BaseEventLoop&, AnyTask task, TaskOptions&) {
      seen.add(std::move(task));
      throw std::runtime_error("refused");
    };
    for (EventLoop* loop : loops) loop->set_task_factory(factory);
    for (int i = 0; i < rounds; ++i) {
      EXPECT_EQ(thrown_by([&] { spawn(give(i)); }), "exception: refused");
      EXPECT_EQ(thrown_by([&] { loops.back()->create_task(give(i)); }), "exception: refused");
    }
    for (EventLoop* loop : loops) loop->set_task_factory(nullptr);
    over = true;
    co_await watching;
    EXPECT_EQ(cancelled, 2 * rounds);
  };
  run(main);
}

TEST_P(GroupsOfAnySize, AFactoryThatThrowsAndKeepsNothingLeavesTheCoroutineToItsOwner) {
  const auto main = []() -> Coroutine<> {
    EventLoop& loop = *workers().back();
    loop.set_task_factory([](BaseEventLoop&, const AnyTask&, TaskOptions&) { throw std::runtime_error("refused"); });
    Coroutine<int> coroutine = give(7);
    EXPECT_EQ(thrown_by([&] { loop.create_task(std::move(coroutine)); }), "exception: refused");
    loop.set_task_factory(nullptr);
    EXPECT_EQ(co_await loop.create_task(std::move(coroutine)), 7);
  };
  run(main);
}

TEST_P(GroupsOfAnySize, ATaskThatItsFactoryCancelsNeverStarts) {
  const auto main = []() -> Coroutine<> {
    const std::vector<EventLoop*> loops = workers();
    const auto factory = [](BaseEventLoop&, AnyTask task, TaskOptions&) { EXPECT_TRUE(task.cancel()); };
    const auto never = []() -> Coroutine<> {
      ADD_FAILURE() << "it was cancelled";
      co_return;
    };
    for (EventLoop* loop : loops) loop->set_task_factory(factory);
    std::vector<Task<>> tasks;
    for (const bool eager : {false, true}) {
      const TaskOptions options{.eager_start = eager};
      tasks.push_back(spawn(never(), options));
      tasks.push_back(loops.front()->create_task(never(), options));
      tasks.push_back(loops.back()->create_task(never(), options));
    }
    for (EventLoop* loop : loops) loop->set_task_factory(nullptr);
    for (Task<>& task : tasks) {
      co_await until([&] { return task.done(); });
      EXPECT_TRUE(task.cancelled());
    }
  };
  run(main);
}

}  // namespace
}  // namespace ouro
