// Context variables over several loops: contexts that move with their tasks, and ones that several workers share.
#include <gmock/gmock.h>

#include <atomic>
#include <chrono>
#include <memory>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include <ouro/ouro.hpp>

#include "support/group.hpp"

namespace ouro {
namespace {

using namespace std::chrono_literals;

ContextVar<int> number("number", 0);
ContextVar<std::shared_ptr<std::string>> text("text");

class GroupContextVars : public test::GroupsOfAnySize {};

// Sets its own value, and finds it again wherever it goes on.
Coroutine<int> own_value(int value) {
  number.set(value);
  text.set(std::make_shared<std::string>(std::to_string(value)));
  for (int i = 0; i < 3; ++i) {
    co_await sleep(0s);
    if (number.get() != value || *text.get() != std::to_string(value)) co_return -1;
    number.set(number.get());
  }
  co_return value;
}

Coroutine<int> inherited() {
  const int first = number.get();
  co_await sleep(0s);
  co_return first == number.get() ? first : -1;
}

// The sum of what the leaves of a tree see, each branch with a value of its own at `levels` 3.
Coroutine<long> tree(int levels) {
  if (levels == 0) co_return number.get();
  if (levels == 3) number.set(number.get() + 1);
  const auto [a, b] = co_await gather(tree(levels - 1), tree(levels - 1));
  co_return a + b;
}

Coroutine<long> forked_tree(int levels, int expected) {
  if (number.get() != expected) co_return -1000000;
  if (levels == 0) co_return number.get();
  long a = 0;
  long b = 0;
  number.set(expected + 1);
  ForkScope scope;
  co_await scope.fork(a, forked_tree(levels - 1, expected + 1));
  number.set(expected + 2);
  co_await scope.call(b, forked_tree(levels - 1, expected + 2));
  number.set(expected + 3);
  co_await scope.join();
  co_return a + b;
}
long forked_sum(int levels, int value) {
  return levels == 0 ? value : forked_sum(levels - 1, value + 1) + forked_sum(levels - 1, value + 2);
}

// B141, B481
TEST_P(GroupContextVars, WhatATaskSetsMovesWithIt) {
  run([]() -> Coroutine<> {
    number.set(1000);
    std::vector<Task<int>> tasks;
    for (int i = 0; i < 300; ++i) {
      tasks.push_back(i % 3 == 0 ? create_task(inherited()) : create_task(own_value(i)));
      if (i % 7 == 0) number.set(1000 + i);
    }
    const int last = number.get();
    for (int i = 0; i < 300; ++i) {
      const int seen = co_await tasks[static_cast<std::size_t>(i)];
      const int set_before = i == 0 ? 1000 : 1000 + (i - 1) / 7 * 7;
      EXPECT_EQ(seen, i % 3 == 0 ? set_before : i);
    }
    EXPECT_EQ(number.get(), last);
  });
}

// B481
TEST_P(GroupContextVars, ChildrenReadThroughTheirParents) {
  run([]() -> Coroutine<> {
    number.set(5);
    EXPECT_EQ(co_await tree(8), 6 * 256);
    EXPECT_EQ(number.get(), 5);
    std::vector<int> elements(500);
    std::iota(elements.begin(), elements.end(), 0);
    EXPECT_EQ(co_await map(own_value, elements), elements);
    const auto seen = co_await map([](int) { return inherited(); }, elements);
    EXPECT_THAT(seen, testing::Each(5));
    EXPECT_EQ(number.get(), 5);
  });
}

// B481
TEST_P(GroupContextVars, ForkedChildrenSeeWhatWasSetBeforeTheFork) {
  run([]() -> Coroutine<> {
    number.set(1);
    const long sum = co_await create_task(forked_tree(7, 1));
    EXPECT_EQ(sum, forked_sum(7, 1));
    EXPECT_EQ(number.get(), 1);
  });
}

TEST_P(GroupContextVars, TasksOnSeveralWorkersMayShareAContext) {
  const Context shared;
  run([](Context given) -> Coroutine<> {
    given.run([] { text.set(std::make_shared<std::string>("a")); });
    std::vector<Task<int>> tasks;
    for (int i = 1; i <= 64; ++i) {
      const auto replace = [](int value) -> Coroutine<int> {
        for (int n = 0; n < 50; ++n) {
          text.set(std::make_shared<std::string>(n % 2 == 0 ? "even" : "odd"));
          number.set(value);
          const std::shared_ptr<std::string> seen = text.get();
          EXPECT_TRUE(*seen == "even" || *seen == "odd");
          EXPECT_GT(number.get(), 0);
        }
        co_await sleep(0s);
        co_return value;
      };
      tasks.push_back(spawn(replace(i), {.context = &given}));
    }
    for (Task<int>& task : tasks) co_await task;
    EXPECT_EQ(given.size(), 2U);
  }(shared));
  EXPECT_GT(shared.get(number).value(), 0);
}

// B127: of a task that runs, on whichever worker, and of the children of a gather.
TEST_P(GroupContextVars, GetContextOfATaskThatRunsElsewhere) {
  run([]() -> Coroutine<> {
    number.set(2);
    std::vector<Task<int>> tasks;
    for (int i = 0; i < 100; ++i) tasks.push_back(create_task(own_value(i)));
    std::vector<Context> contexts;
    for (const Task<int>& task : tasks) contexts.push_back(task.get_context());
    const auto child = []() -> Coroutine<int> {
      const AnyTask self = current_task();
      const int seen = self.get_context().get(number).value_or(-1);
      co_await sleep(0s);
      number.set(seen + 1);
      co_return self.get_context().get(number).value_or(-1);
    };
    const auto [a, b] = co_await gather(child(), child());
    EXPECT_EQ(a + b, 6);
    for (std::size_t i = 0; i < 100; ++i) {
      EXPECT_EQ(co_await tasks[i], static_cast<int>(i));
      EXPECT_EQ(contexts[i], tasks[i].get_context());
      EXPECT_EQ(contexts[i].get(number), static_cast<int>(i));
    }
  });
}

// B480
TEST_P(GroupContextVars, CallbacksTakeTheirContextToOtherLoops) {
  run([]() -> Coroutine<> {
    std::atomic<int> sum{0};
    std::atomic<int> ran{0};
    const auto note = [&] {
      sum += number.get();
      number.set(0);
      ++ran;
    };
    int expected = 0;
    for (int i = 0; i < 100; ++i) {
      for (EventLoop* loop : workers()) {
        number.set(i);
        expected += i;
        loop->call_soon(note);
      }
    }
    number.set(-1);
    const int all = 100 * static_cast<int>(workers().size());
    co_await test::until([&] { return ran == all; });
    EXPECT_EQ(sum, expected);
    EXPECT_EQ(number.get(), -1);
    EXPECT_EQ(co_await to_thread([] { return number.get(); }), -1);
  });
}

// B15
TEST_P(GroupContextVars, ARunnerHasOneContextForAllItsRuns) {
  Runner runner(with(GetParam()));
  const auto add = [](int more) -> Coroutine<int> {
    number.set(number.get() + more);
    co_await sleep(0s);
    co_return number.get();
  };
  EXPECT_EQ(runner.run(add(1)), 1);
  EXPECT_EQ(runner.run(add(2)), 3);
  const Context other;
  EXPECT_EQ(runner.run(add(10), other), 10);
  EXPECT_EQ(other.get(number), 10);
  EXPECT_EQ(runner.run(add(4)), 7);
  EXPECT_THROW(runner.run([]() -> Coroutine<> {
    number.set(20);
    throw ValueError("out of the run");
    co_return;
  }),
               ValueError);
  EXPECT_EQ(runner.run(add(1)), 21);
  EXPECT_EQ(number.get(), 0);
  runner.close();
}

TEST_P(GroupContextVars, ARunnerBeginsWithACopyOfItsCallersContext) {
  Context().run([] {
    number.set(3);
    Runner runner(with(GetParam()));
    EXPECT_EQ(runner.run(inherited()), 3);
    number.set(4);
    EXPECT_EQ(runner.run(inherited()), 3);
    EXPECT_EQ(runner.run(own_value(9)), 9);
    EXPECT_EQ(number.get(), 4);
    runner.close();
  });
}

INSTANTIATE_TEST_SUITE_P(Workers, GroupContextVars, testing::Values(1U, 2U, 4U));

}  // namespace
}  // namespace ouro
