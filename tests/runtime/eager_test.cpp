// Eager starts: eager_task_factory for a loop, eager_start for a task.
#include <gmock/gmock.h>

#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <ouro/runtime/base_event_loop.hpp>
#include <ouro/runtime/exceptions.hpp>
#include <ouro/runtime/gather.hpp>
#include <ouro/runtime/sleep.hpp>

#include "support/loop_fixture.hpp"

namespace ouro {
namespace {

using namespace std::chrono_literals;
using testing::Contains;
using testing::ElementsAre;
using testing::Not;
using testing::SizeIs;

class EagerTest : public test::LoopTest {
 protected:
  void SetUp() override { loop.set_task_factory(eager_task_factory); }

  void log(std::string word) { log_.push_back(std::move(word)); }
  std::vector<std::string> log_;
};

Coroutine<int> number(int i) { co_return i; }

Coroutine<int> number_later(int i) {
  co_await sleep(0s);
  co_return i;
}

// B247
TEST_F(EagerTest, TheFactoryIsSetPerLoopAndCanBeAskedFor) {
  using Plain = void (*)(BaseEventLoop&, AnyTask, TaskOptions&);
  const Plain* set = loop.get_task_factory().target<Plain>();
  ASSERT_NE(set, nullptr);
  EXPECT_EQ(*set, &eager_task_factory);
  BaseEventLoop other(std::make_unique<ThreadParker>());
  EXPECT_FALSE(other.get_task_factory());
  loop.set_task_factory(nullptr);
  EXPECT_FALSE(loop.get_task_factory());
  run([&]() -> Coroutine<> {
    Task<int> task = create_task(number(1));
    EXPECT_FALSE(task.done());
    co_await task;
  });
}

// B248
TEST_F(EagerTest, WhatDoesNotBlockIsDoneWhenCreateTaskReturns) {
  run([&]() -> Coroutine<> {
    Task<int> task = create_task(number(3));
    EXPECT_TRUE(task.done());
    EXPECT_EQ(task.result(), 3);
    EXPECT_EQ(co_await task, 3);
    EXPECT_EQ(co_await std::move(task), 3);
    auto throws = []() -> Coroutine<> {
      throw std::runtime_error("at once");
      co_return;
    };
    Task<> failed = create_task(throws);
    EXPECT_TRUE(failed.done());
    EXPECT_EQ(test::describe(failed.exception()), "exception: at once");
    auto cancels = []() -> Coroutine<> {
      throw CancelledError("itself");
      co_return;
    };
    EXPECT_TRUE(create_task(cancels).cancelled());
  });
}

// B248
TEST_F(EagerTest, TheOptionStartsOneTaskEagerly) {
  loop.set_task_factory(nullptr);
  run([&]() -> Coroutine<> {
    TaskOptions options;
    options.eager_start = true;
    options.name = "soon";
    Task<int> task = create_task(number(3), options);
    EXPECT_TRUE(task.done());
    EXPECT_EQ(task.get_name(), "soon");
    Task<int> lazy = create_task(number(4));
    EXPECT_FALSE(lazy.done());
    EXPECT_EQ(co_await lazy, 4);
  });
}

// B248
TEST_F(EagerTest, CallbacksOfATaskThatEndedAtOnceStillGoThroughTheLoop) {
  run([&]() -> Coroutine<> {
    Task<int> task = create_task(number(3));
    task.add_done_callback([this](Future<int> done) { log("callback " + std::to_string(done.result())); });
    log("after");
    co_await sleep(0s);
  });
  EXPECT_THAT(log_, ElementsAre("after", "callback 3"));
}

// B249
TEST_F(EagerTest, WhatBlocksIsATaskFromItsFirstSuspension) {
  run([&]() -> Coroutine<> {
    auto child = [&]() -> Coroutine<int> {
      log("begins");
      co_await sleep(0s);
      log("ends");
      co_return 1;
    };
    Task<int> task = create_task(child);
    EXPECT_FALSE(task.done());
    log("goes on");
    EXPECT_EQ(co_await task, 1);
    Task<int> cancelled = create_task(child);
    EXPECT_TRUE(cancelled.cancel());
    EXPECT_THROW(co_await cancelled, CancelledError);
  });
  EXPECT_THAT(log_, ElementsAre("begins", "goes on", "ends", "begins"));
}

// B249
TEST_F(EagerTest, WithoutARunningLoopTasksAreScheduled) {
  Task<int> task = loop.create_task(number(5));
  EXPECT_FALSE(task.done());
  EXPECT_EQ(run(task), 5);
}

// B250
TEST_F(EagerTest, AFutureCanBeAwaitedInTheEagerStep) {
  run([&]() -> Coroutine<> {
    Future<int> done = loop.create_future<int>();
    done.set_result(1);
    auto of_done = [&]() -> Coroutine<int> { co_return co_await done; };
    EXPECT_EQ(create_task(of_done).result(), 1);
    Future<int> pending = loop.create_future<int>();
    auto of_pending = [&]() -> Coroutine<int> { co_return co_await pending + 1; };
    Task<int> task = create_task(of_pending);
    EXPECT_FALSE(task.done());
    pending.set_result(2);
    EXPECT_EQ(co_await task, 3);
  });
}

// B251, T18
TEST_F(EagerTest, CurrentTaskIsTheNewOneDuringTheStepAndTheOldOneAfterIt) {
  run([&]() -> Coroutine<> {
    AnyTask outer = current_task();
    AnyTask seen;
    AnyTask after_nested;
    auto innermost = [&]() -> Coroutine<> {
      EXPECT_NE(current_task(), seen);
      co_return;
    };
    auto child = [&]() -> Coroutine<> {
      seen = current_task();
      create_task(innermost);
      after_nested = current_task();
      co_await sleep(0s);
      EXPECT_EQ(current_task(), seen);
    };
    Task<> task = create_task(child);
    EXPECT_EQ(AnyTask(task), seen);
    EXPECT_EQ(seen, after_nested);
    EXPECT_EQ(current_task(), outer);
    co_await task;
    auto throws = []() -> Coroutine<> {
      throw std::runtime_error("x");
      co_return;
    };
    Task<> failed = create_task(throws);
    EXPECT_TRUE(failed.exception());
    EXPECT_EQ(current_task(), outer);
  });
  loop.call_soon([&] {
    create_task(number(1));
    EXPECT_FALSE(current_task());
  });
  turn();
}

// B252
TEST_F(EagerTest, AllTasksHasThoseThatBlockedAndNoneThatEndedAtOnce) {
  run([&]() -> Coroutine<> {
    auto looks = [&]() -> Coroutine<> {
      EXPECT_THAT(all_tasks(), Contains(current_task()));
      co_return;
    };
    Task<> ended = create_task(looks);
    Task<int> blocked = create_task(number_later(1));
    EXPECT_THAT(all_tasks(), Contains(AnyTask(blocked)));
    EXPECT_THAT(all_tasks(), Not(Contains(AnyTask(ended))));
    EXPECT_THAT(all_tasks(), SizeIs(2));
    co_await blocked;
  });
}

// B255
TEST_F(EagerTest, RecursiveWorkThatDoesNotBlockSchedulesNothing) {
  int made = 0;
  struct Recursive {
    static Coroutine<int> sum(int n, int& count) {
      ++count;
      if (n == 0) co_return 1;
      int total = 0;
      for (int i = 0; i < 5; ++i) {
        Task<int> child = create_task(sum(n - 1, count));
        EXPECT_TRUE(child.done());
        total += co_await child;
      }
      co_return total;
    }
  };
  run([&]() -> Coroutine<> {
    const std::uint64_t turns = loop.counters().looks;
    bool other = false;
    loop.call_soon([&] { other = true; });
    EXPECT_EQ(co_await Recursive::sum(4, made), 625);
    EXPECT_EQ(made, 781);
    EXPECT_FALSE(other);
    EXPECT_EQ(loop.counters().looks, turns);
    co_await sleep(0s);
  });
}

TEST_F(EagerTest, AFactoryOfOnesOwnCanChooseTheEagerStart) {
  loop.set_task_factory(
      [](BaseEventLoop&, AnyTask task, TaskOptions& options) { options.eager_start = task.get_name() == "now"; });
  run([&]() -> Coroutine<> {
    TaskOptions options;
    options.name = "now";
    EXPECT_TRUE(create_task(number(1), options).done());
    Task<int> later = create_task(number(2));
    EXPECT_FALSE(later.done());
    co_await later;
  });
}

TEST_F(EagerTest, ATaskThatCancelsItselfInItsEagerStepIsCancelledAtItsFirstAwait) {
  run([&]() -> Coroutine<> {
    auto child = [&]() -> Coroutine<> {
      current_task().cancel("self");
      co_await sleep(0s);
      log("not reached");
    };
    Task<> task = create_task(child);
    EXPECT_FALSE(task.done());
    std::string message;
    try {
      co_await task;
    } catch (const CancelledError& error) {
      message = error.message();
    }
    EXPECT_EQ(message, "self");
  });
  EXPECT_THAT(log_, testing::IsEmpty());
}

TEST_F(EagerTest, AnEagerTaskCanGatherAndItsChildrenStartInOrder) {
  run([&]() -> Coroutine<> {
    auto child = [&](int i) -> Coroutine<int> {
      log(std::to_string(i));
      co_return i;
    };
    auto parent = [&]() -> Coroutine<int> {
      const auto results = co_await gather(child(1), child(2));
      co_return std::get<0>(results) + std::get<1>(results);
    };
    Task<int> task = create_task(parent);
    EXPECT_FALSE(task.done());
    EXPECT_EQ(co_await task, 3);
  });
  EXPECT_THAT(log_, ElementsAre("1", "2"));
}

}  // namespace
}  // namespace ouro
