// Tasks that end in their first step take short ways, which are closed when somebody gets hold of them meanwhile:
// eager tasks, and the children of gather and map.
#include <gtest/gtest.h>

#include <coroutine>
#include <ranges>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <ouro/runtime/gather.hpp>
#include <ouro/runtime/map.hpp>
#include <ouro/runtime/sleep.hpp>
#include <ouro/runtime/tasks.hpp>

#include "support/loop_fixture.hpp"

namespace ouro {
namespace {

using namespace std::chrono_literals;

class FirstStepsTest : public test::LoopTest {
 protected:
  enum class End { value, error, after_a_yield, error_after_a_yield };

  // Takes a handle to itself, or to all tasks, in its first step.
  Coroutine<int> child(int i, End end, bool through_all_tasks) {
    if (through_all_tasks) {
      for (AnyTask& task : all_tasks()) handles.push_back(std::move(task));
    } else {
      handles.push_back(current_task());
    }
    if (end == End::after_a_yield || end == End::error_after_a_yield) co_await sleep(0s);
    if (end == End::error || end == End::error_after_a_yield) throw std::runtime_error("no " + std::to_string(i));
    co_return i;
  }

  std::vector<AnyTask> handles;
};

TEST_F(FirstStepsTest, AnEagerTaskThatSomebodyHeldOutlivesItsEnd) {
  OURO_TEST_ALONE("all_tasks of a group has no children of pinned gathers, and no first steps");
  for (const bool all : {false, true}) {
    for (const End end : {End::value, End::error, End::after_a_yield, End::error_after_a_yield}) {
      run([&]() -> Coroutine<> {
        auto coroutine = child(7, end, all);
        auto task = create_task(std::move(coroutine), {.eager_start = true});
        EXPECT_EQ(task.done(), end == End::value || end == End::error);
        co_await sleep(0s);
        co_await sleep(0s);
        EXPECT_TRUE(task.done());
        const bool fails = end == End::error || end == End::error_after_a_yield;
        EXPECT_EQ(task.exception() != nullptr, fails);
        if (!fails) {
          EXPECT_EQ(task.result(), 7);
        }
        bool found = false;
        for (const AnyTask& handle : handles) found = found || handle == AnyTask(task);
        EXPECT_TRUE(found);
        task = {};
        for (const AnyTask& handle : handles) EXPECT_FALSE(handle.get_name().empty());
        handles.clear();
      });
    }
  }
}

TEST_F(FirstStepsTest, AnEagerTaskWhoseOnlyHandleIsDroppedRunsToItsEnd) {
  run([&]() -> Coroutine<> {
    int ended = 0;
    const auto body = [](int& count, bool yields) -> Coroutine<> {
      if (yields) co_await sleep(0s);
      ++count;
    };
    for (const bool yields : {false, true}) {
      auto coroutine = body(ended, yields);
      create_task(std::move(coroutine), {.eager_start = true});
    }
    EXPECT_EQ(ended, 1);
    co_await sleep(0s);
    EXPECT_EQ(ended, 2);
  });
}

TEST_F(FirstStepsTest, AGathersChildThatSomebodyHeldGivesItsResultAndLivesOn) {
  for (const bool all : {false, true}) {
    for (const End end : {End::value, End::after_a_yield}) {
      run([&]() -> Coroutine<> {
        std::vector<Coroutine<int>> children;
        for (int i = 0; i < 3; ++i) children.push_back(child(i, end, all));
        const std::vector<int> results = co_await gather(std::move(children));
        EXPECT_EQ(results, (std::vector<int>{0, 1, 2}));
        for (const AnyTask& handle : handles) {
          EXPECT_TRUE(handle.done() || handle == current_task());
        }
        EXPECT_GE(handles.size(), 3U);
        handles.clear();
      });
    }
  }
}

TEST_F(FirstStepsTest, AMapsChildThatSomebodyHeldGivesItsResultAndLivesOn) {
  for (const bool all : {false, true}) {
    for (const End end : {End::value, End::after_a_yield}) {
      for (const std::size_t limit : {std::size_t{1}, std::size_t{2}, std::size_t{1000}}) {
        run([&]() -> Coroutine<> {
          const auto make = [&](int i) { return child(i, end, all); };
          MapOptions options;
          options.limit = limit;
          const std::vector<int> results = co_await map(make, std::views::iota(0, 200), options);
          EXPECT_EQ(results.size(), 200U);
          for (int i = 0; i < 200; ++i) EXPECT_EQ(results[static_cast<std::size_t>(i)], i);
          EXPECT_GE(handles.size(), 200U);
          for (const AnyTask& handle : handles) {
            EXPECT_TRUE(handle.done() || handle == current_task());
          }
          handles.clear();
        });
      }
    }
  }
}

TEST_F(FirstStepsTest, AMapsChildThatFailsInItsFirstStepEndsTheMap) {
  for (const std::size_t limit : {std::size_t{1}, std::size_t{2}, std::size_t{1000}}) {
    int started = 0;
    EXPECT_EQ(test::thrown_by([&] {
                run([&]() -> Coroutine<> {
                  const auto make = [&](int i) -> Coroutine<int> {
                    ++started;
                    if (i % 2 == 0) co_await sleep(0s);
                    if (i == 5) throw std::runtime_error("five");
                    co_return i;
                  };
                  MapOptions options;
                  options.limit = limit;
                  co_await map(make, std::views::iota(0, 100), options);
                });
              }),
              "exception: five");
    EXPECT_EQ(started, 6);
  }
}

// An awaiter of the user's own, which the library knows nothing of: the frame is found all the same when the loop goes.
struct Never {
  bool await_ready() const noexcept { return false; }
  void await_suspend(std::coroutine_handle<>) const noexcept {}
  void await_resume() const noexcept {}
};

Coroutine<int> stuck(int& alive) {
  const test::Counted counted(alive);
  co_await Never();
  co_return 1;
}
Coroutine<int> stuck_inside(int& alive) {
  const test::Counted counted(alive);
  co_return co_await stuck(alive);
}

TEST_F(FirstStepsTest, AFirstStepThatEndsAtAnAwaiterOfTheUsersIsDestroyedWithTheLoop) {
  int alive = 0;
  const auto gathered = [](int& count) -> Coroutine<> {
    std::vector<Coroutine<int>> children;
    for (int i = 0; i < 3; ++i) children.push_back(stuck_inside(count));
    co_await gather(std::move(children));
  };
  const auto mapped = [](int& count) -> Coroutine<> {
    const auto make = [&count](int) { return stuck_inside(count); };
    co_await map(make, std::views::iota(0, 3));
  };
  run([&]() -> Coroutine<> {
    loop.create_task(gathered(alive));
    loop.create_task(mapped(alive));
    auto coroutine = stuck_inside(alive);
    loop.create_task(std::move(coroutine), {.eager_start = true});
    loop.create_task(stuck_inside(alive));
    co_await sleep(0s);
    co_await sleep(0s);
  });
  EXPECT_EQ(alive, 16);
  destroy_loop();
  EXPECT_EQ(alive, 0);
  take_reports();
}

// A handle to a child that has not run, through which it is cancelled and called back.
TEST_F(FirstStepsTest, AChildWhoseCancellationWasCalledOffRunsAsAnyOther) {
  int alive = 0;
  const auto probe = []() -> Coroutine<int> {
    for (AnyTask& task : all_tasks()) {
      if (task != current_task() && task.get_stack().empty() && task.cancel()) task.uncancel();
    }
    co_return 0;
  };
  const auto parent = [&](int& count) -> Coroutine<> { co_await gather(probe(), stuck_inside(count)); };
  Task<> task = loop.create_task(parent(alive));
  turn(4);
  EXPECT_EQ(alive, 2);
  task = {};
  destroy_loop();
  EXPECT_EQ(alive, 0);
  take_reports();
}

}  // namespace
}  // namespace ouro
