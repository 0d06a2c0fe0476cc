// TaskGroup on one loop: cancel(), eager children, how groups end that are not joined, and large ones.
#include <gmock/gmock.h>

#include <chrono>
#include <exception>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <ouro/runtime/gather.hpp>
#include <ouro/runtime/sleep.hpp>
#include <ouro/runtime/taskgroups.hpp>
#include <ouro/runtime/tasks.hpp>
#include <ouro/runtime/timeouts.hpp>

#include "support/loop_fixture.hpp"

namespace ouro {
namespace {

using namespace std::chrono_literals;
using test::describe;
using testing::ElementsAre;

class TaskGroupLifeTest : public test::LoopTest {
 protected:
  std::vector<std::string> log;

  // Waits until it is cancelled, and says so.
  Coroutine<> waits(std::string name) {
    try {
      co_await sleep(1h);
    } catch (const CancelledError&) {
      log.push_back(name + " cancelled");
      throw;
    }
  }
};

// "unhandled errors in a TaskGroup[a b]", or as describe() says it.
std::string told(const std::exception_ptr& error) {
  const auto* group = exception_as<ExceptionGroup>(error);
  if (!group) return describe(error);
  std::string text;
  for (const std::exception_ptr& member : group->exceptions()) text += (text.empty() ? "" : ", ") + told(member);
  return "[" + text + "]";
}
template <class A>
Coroutine<std::string> end_of(A awaitable) {
  try {
    co_await std::move(awaitable);
  } catch (...) {
    co_return told(std::current_exception());
  }
  co_return "";
}

Coroutine<> yields(int times = 1) {
  for (int i = 0; i < times; ++i) co_await sleep(0s);
}
Coroutine<> fails(const char* text, int after = 1) {
  co_await yields(after);
  throw std::runtime_error(text);
}
// B245
TEST_F(TaskGroupLifeTest, CancelEndsTheGroupWithoutAnError) {
  const auto main = [this]() -> Coroutine<> {
    const auto body = [this](TaskGroup& group) -> Coroutine<> {
      group.create_task(waits("a"));
      co_await yields(2);
      group.cancel();
      group.cancel();
      co_await waits("body");
    };
    EXPECT_EQ(co_await end_of(task_group(body)), "");
    EXPECT_EQ(current_task().cancelling(), 0);
    EXPECT_THAT(log, ElementsAre("a cancelled", "body cancelled"));
    co_await yields();
    // While the parent waits for its children.
    co_await task_group([this](TaskGroup& group) -> Coroutine<> {
      group.create_task(waits("b"));
      group.create_task([&group]() -> Coroutine<> {
        co_await yields(3);
        group.cancel();
        EXPECT_EQ(co_await end_of(sleep(1h)), "CancelledError: ");
      });
      co_return;
    });
    EXPECT_EQ(log.back(), "b cancelled");
    EXPECT_EQ(current_task().cancelling(), 0);
  };
  run(main());
}

// B245: before its first use, and after its end.
TEST_F(TaskGroupLifeTest, CancelBeforeAndAfter) {
  TaskGroup group;
  group.cancel();
  const auto main = [&]() -> Coroutine<> {
    EXPECT_EQ(test::thrown_by([&] { group.create_task(yields()); }),
              "RuntimeError: TaskGroup <TaskGroup cancelling> is shutting down");
    EXPECT_EQ(co_await end_of(sleep(1h)), "CancelledError: ");
    co_await group.join();
    EXPECT_EQ(current_task().cancelling(), 0);
    group.cancel();
    co_await yields(2);
  };
  run(main());
}

TEST_F(TaskGroupLifeTest, AGroupThatIsOverOutlivesItsLoop) {
  TaskGroup group;  // goes last
  const auto main = [&]() -> Coroutine<> {
    group.create_task(yields());
    co_await group.join();
  };
  run(main());
  destroy_loop();
}

TEST_F(TaskGroupLifeTest, ABodyWithoutAResultBecauseOfCancel) {
  const auto body = [](TaskGroup& group) -> Coroutine<int> {
    group.cancel();
    co_await sleep(1h);
    co_return 1;
  };
  EXPECT_EQ(run(end_of(task_group(body))), "CancelledError: ");
}

// T5: a request from outside after cancel() is not swallowed.
TEST_F(TaskGroupLifeTest, ACancellationFromOutsideAfterCancelStaysOne) {
  const auto main = []() -> Coroutine<> {
    for (const bool in_body : {false, true}) {
      TaskGroup* open = nullptr;
      auto parent = create_task(task_group([&open, in_body](TaskGroup& group) -> Coroutine<> {
        open = &group;
        group.create_task([]() -> Coroutine<> {
          static_cast<void>(co_await end_of(sleep(1h)));
          co_await yields(5);
        });
        if (in_body) co_await sleep(1h);
      }));
      co_await yields(3);
      open->cancel();
      co_await yields(2);
      parent.cancel("outside");
      EXPECT_EQ(co_await end_of(parent), "CancelledError: outside");
      EXPECT_TRUE(parent.cancelled());
    }
  };
  run(main());
}

// T6
TEST_F(TaskGroupLifeTest, EagerChildrenCount) {
  const auto main = [this]() -> Coroutine<> {
    const auto at_once = [](const char* text) -> Coroutine<> {
      throw std::runtime_error(text);
      co_return;
    };
    // The body goes on; it hears of the error at its next await.
    bool went_on = false;
    const auto body = [&](TaskGroup& group) -> Coroutine<> {
      group.create_task({.eager_start = true}, at_once, "first");
      went_on = true;
      group.create_task({.eager_start = true}, at_once, "second");
      co_await waits("body");
    };
    EXPECT_EQ(co_await end_of(task_group(body)), "[exception: first, exception: second]");
    EXPECT_TRUE(went_on);
    EXPECT_EQ(current_task().cancelling(), 0);
    // One that cancels the group in its first step, and waits then.
    const auto cancels = [](TaskGroup& group) -> Coroutine<> {
      group.cancel();
      co_await sleep(1h);
    };
    const auto other = [&](TaskGroup& group) -> Coroutine<> {
      auto child = group.create_task({.eager_start = true}, cancels, std::ref(group));
      co_await end_of(sleep(1h));
      co_await yields();
      EXPECT_TRUE(child.cancelled());
    };
    EXPECT_EQ(co_await end_of(task_group(other)), "");
  };
  run(main());
}

TEST_F(TaskGroupLifeTest, AnErrorThatTheBodyCatchesIsGivenToJoin) {
  const auto main = []() -> Coroutine<std::string> {
    TaskGroup group;
    std::exception_ptr error;
    group.create_task(fails("child"));
    try {
      co_await sleep(1h);
    } catch (...) {
      error = std::current_exception();  // the group's cancellation
    }
    co_return co_await end_of(group.join(error));
  };
  EXPECT_EQ(run(main()), "[exception: child]");
}

// In builds with assertions it aborts.
TEST_F(TaskGroupLifeTest, AGroupThatIsNotJoinedLetsItsTasksGo) {
  const auto main = [this]() -> Coroutine<> {
    {
      TaskGroup group;
      group.create_task(waits("a"));
      group.create_task(fails("kept", 0));
      co_await yields();
    }
    co_await yields(3);
  };
#ifdef NDEBUG
  run(main());
  EXPECT_THAT(log, ElementsAre("a cancelled"));
  std::vector<std::string> texts;
  for (const auto& report : take_reports()) texts.push_back(report.message);
  EXPECT_THAT(texts, ElementsAre("TaskGroup was destroyed with 1 unfinished tasks, which are cancelled: co_await its "
                                 "join() before it goes",
                                 "TaskGroup was destroyed without a join: exception of a task"));
#else
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_DEATH(run(main()), "joined before it is destroyed");
#endif
}

TEST_F(TaskGroupLifeTest, IsDestroyedWithItsLoop) {
  auto task = loop.create_task(task_group([this](TaskGroup& group) -> Coroutine<> {
    group.create_task(waits("a"));
    co_return;
  }));
  auto other = loop.create_task(task_group([this](TaskGroup& group) -> Coroutine<> {
    group.create_task(waits("a"));
    co_await sleep(1h);
  }));
  turn(3);
  destroy_loop();
  EXPECT_TRUE(task.cancelled() && other.cancelled());
  EXPECT_EQ(take_reports().size(), 1U);
}

TEST_F(TaskGroupLifeTest, GroupsInGroupsAreCancelledWithoutRecursion) {
  struct Nest {
    static Coroutine<> at(int depth) {
      if (depth == 0) co_return co_await sleep(1h);
      co_await task_group([depth](TaskGroup& group) -> Coroutine<> {
        group.create_task(at(depth - 1));
        co_return;
      });
    }
  };
  constexpr int depth = 20'000;
  const auto main = []() -> Coroutine<std::string> {
    auto task = create_task(Nest::at(depth));
    co_await yields(depth + 10);
    task.cancel();
    co_return co_await end_of(std::move(task));
  };
  EXPECT_EQ(run(main()), "CancelledError: ");
}

TEST_F(TaskGroupLifeTest, AMillionChildrenOneOfWhichFails) {
  constexpr int many = OURO_ASAN || OURO_TSAN ? 20'000 : 1'000'000;
  const auto main = []() -> Coroutine<std::size_t> {
    int ended = 0;
    std::size_t errors = 0;
    const auto child = [](int& count) -> Coroutine<> {
      struct Count {
        int& n;
        ~Count() { ++n; }
      } counted{count};
      co_await sleep(1h);
    };
    try {
      co_await task_group([&](TaskGroup& group) -> Coroutine<> {
        for (int i = 1; i < many; ++i) group.create_task(child(ended));
        group.create_task(fails("one"));
        co_return;
      });
    } catch (const ExceptionGroup& group) {
      errors = group.exceptions().size();
    }
    EXPECT_EQ(ended, many - 1);
    co_return errors;
  };
  EXPECT_EQ(run(main()), 1U);
}

}  // namespace
}  // namespace ouro
