// TaskGroup on one loop: who is cancelled when, and what comes out.
#include <gmock/gmock.h>

#include <chrono>
#include <exception>
#include <memory>
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

class TaskGroupTest : public test::LoopTest {
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
Coroutine<int> gives(int value) {
  co_await sleep(0s);
  co_return value;
}

TEST_F(TaskGroupTest, WaitsForAllChildren) {
  const auto main = []() -> Coroutine<int> {
    int sum = 0;
    co_await task_group([&](TaskGroup& group) -> Coroutine<> {
      for (int i = 1; i <= 10; ++i) {
        group.create_task(
            [&sum](int n) -> Coroutine<> {
              co_await yields(n);
              sum += n;
            },
            i);
      }
      EXPECT_EQ(group.size(), 10U);
      co_return;
    });
    co_return sum;
  };
  EXPECT_EQ(run(main()), 55);
}

TEST_F(TaskGroupTest, GivesTheBodysResult) {
  const auto body = [](TaskGroup& group, std::unique_ptr<int> base) -> Coroutine<int> {
    auto a = group.create_task(gives(3));
    auto b = group.create_task(gives(4));
    co_return *base + co_await a + co_await b;
  };
  EXPECT_EQ(run(task_group(body, std::make_unique<int>(10))), 17);
  run(task_group([](TaskGroup&) -> Coroutine<> { co_return; }));
}

// B224
TEST_F(TaskGroupTest, TheFirstErrorCancelsTheOthers) {
  const auto body = [this](TaskGroup& group) -> Coroutine<> {
    group.create_task(waits("a"));
    group.create_task(fails("one failed"));
    group.create_task(waits("b"));
    co_await waits("body");
  };
  EXPECT_EQ(run(end_of(task_group(body))), "[exception: one failed]");
  EXPECT_THAT(log, ElementsAre("a cancelled", "b cancelled", "body cancelled"));
}

// B224: the errors of one turn are all told.
TEST_F(TaskGroupTest, ErrorsOfOneTurnAreAllInTheGroup) {
  const auto body = [this](TaskGroup& group) -> Coroutine<> {
    group.create_task(fails("first"));
    group.create_task(waits("a"));
    group.create_task(fails("second"));
    co_return;
  };
  EXPECT_EQ(run(end_of(task_group(body))), "[exception: first, exception: second]");
  EXPECT_THAT(log, ElementsAre("a cancelled"));
}

// B223
TEST_F(TaskGroupTest, AChildThatIsCancelledDoesNotFailTheGroup) {
  const auto body = [this](TaskGroup& group) -> Coroutine<int> {
    auto child = group.create_task(waits("a"));
    co_await yields();
    child.cancel();
    co_await yields(3);
    EXPECT_TRUE(child.cancelled());
    co_return 3;
  };
  EXPECT_EQ(run(task_group(body)), 3);
}

// B225, B235
TEST_F(TaskGroupTest, ACancellationOfTheParentCancelsTheChildren) {
  const auto main = [this](bool in_body) -> Coroutine<std::string> {
    auto parent = create_task(task_group([this, in_body](TaskGroup& group) -> Coroutine<> {
      group.create_task(waits("a"));
      if (in_body) co_await waits("body");
    }));
    co_await yields(3);
    parent.cancel("enough");
    std::string end = co_await end_of(parent);
    EXPECT_TRUE(parent.cancelled());
    co_return end;
  };
  EXPECT_EQ(run(main(false)), "CancelledError: enough");
  EXPECT_THAT(log, ElementsAre("a cancelled"));
  log.clear();
  EXPECT_EQ(run(main(true)), "CancelledError: enough");
  EXPECT_THAT(log, ElementsAre("body cancelled", "a cancelled"));
}

// B226: also a child that fails in its clean-up.
TEST_F(TaskGroupTest, AnErrorCountsMoreThanTheCancellation) {
  const auto child = []() -> Coroutine<> {
    try {
      co_await sleep(1h);
    } catch (const CancelledError&) {
    }
    throw std::runtime_error("clean-up");
  };
  const auto main = [&](bool in_body) -> Coroutine<> {
    auto parent = create_task(task_group([&, in_body](TaskGroup& group) -> Coroutine<> {
      group.create_task(child());
      if (in_body) co_await sleep(1h);
    }));
    co_await yields(3);
    parent.cancel();
    EXPECT_EQ(co_await end_of(parent), "[exception: clean-up]");
    EXPECT_FALSE(parent.cancelled());
    EXPECT_EQ(parent.cancelling(), 1);
  };
  run(main(false));
  run(main(true));
}

// B227
TEST_F(TaskGroupTest, AnErrorOfTheBodyCancelsTheChildren) {
  const auto body = [this](TaskGroup& group) -> Coroutine<> {
    group.create_task(waits("a"));
    co_await yields();
    throw std::runtime_error("body");
  };
  EXPECT_EQ(run(end_of(task_group(body))), "[exception: body]");
  EXPECT_THAT(log, ElementsAre("a cancelled"));
  EXPECT_EQ(run(end_of(task_group([](TaskGroup&) -> Coroutine<> {
              throw std::runtime_error("alone");
              co_return;
            }))),
            "[exception: alone]");
}

// B229
TEST_F(TaskGroupTest, AnInnerGroupIsCancelledInSilence) {
  const auto body = [this](TaskGroup& group) -> Coroutine<> {
    group.create_task(fails("outer", 3));
    co_await task_group([this](TaskGroup& inner) -> Coroutine<> {
      inner.create_task(waits("inner"));
      co_return;
    });
  };
  EXPECT_EQ(run(end_of(task_group(body))), "[exception: outer]");
  EXPECT_THAT(log, ElementsAre("inner cancelled"));
}

// B230
TEST_F(TaskGroupTest, ABodyThatPutsItsCancellationOff) {
  const auto body = [](TaskGroup& group) -> Coroutine<> {
    group.create_task(fails("child", 4));
    try {
      co_await sleep(1h);
    } catch (const CancelledError&) {
      throw;
    }
  };
  const auto main = [&]() -> Coroutine<> {
    auto parent = create_task(task_group(body));
    co_await yields(2);
    parent.cancel();
    EXPECT_EQ(co_await end_of(parent), "CancelledError: ");  // the child is cancelled before it fails
  };
  run(main());
  const auto stubborn = [](TaskGroup& group) -> Coroutine<> {
    group.create_task(fails("child", 4));
    const std::string end = co_await end_of(sleep(1h));
    co_await yields(6);
    throw CancelledError("late");
  };
  const auto other = [&]() -> Coroutine<> {
    auto parent = create_task(task_group(stubborn));
    co_await yields(2);
    parent.cancel();
    EXPECT_EQ(co_await end_of(parent), "[exception: child]");
  };
  run(other());
}

// B231
TEST_F(TaskGroupTest, ACancelledGroupWithoutChildren) {
  const auto main = [](bool own_error) -> Coroutine<std::string> {
    auto parent = create_task(task_group([own_error](TaskGroup&) -> Coroutine<> {
      const std::string end = co_await end_of(sleep(1h));
      if (own_error) throw std::runtime_error("in place of it");
      throw CancelledError();
    }));
    co_await yields(2);
    parent.cancel();
    co_return co_await end_of(parent);
  };
  EXPECT_EQ(run(main(false)), "CancelledError: ");
  EXPECT_EQ(run(main(true)), "[exception: in place of it]");
}

// B232
TEST_F(TaskGroupTest, ErrorsOfAChildAndOfTheBodysCleanUpAreBothTold) {
  const auto body = [](TaskGroup& group) -> Coroutine<> {
    group.create_task(fails("child"));
    const std::string end = co_await end_of(sleep(1h));
    throw std::runtime_error("body");
  };
  EXPECT_EQ(run(end_of(task_group(body))), "[exception: child, exception: body]");
}

// B233
TEST_F(TaskGroupTest, AnInterruptOfTheBodyComesOutBare) {
  const auto main = [this]() -> Coroutine<std::string> {
    const auto body = [this](TaskGroup& group) -> Coroutine<> {
      group.create_task(fails("lost", 0));
      group.create_task(waits("a"));
      co_await yields();
      throw KeyboardInterrupt();
    };
    co_return co_await end_of(task_group(body));
  };
  EXPECT_EQ(run(main()), "KeyboardInterrupt");
  EXPECT_THAT(log, ElementsAre("a cancelled"));
  const auto told_of = take_reports();
  ASSERT_EQ(told_of.size(), 1U);
  EXPECT_EQ(describe(told_of[0].exception), "exception: lost");
}

// B234: there is one class of groups, which holds anything.
TEST_F(TaskGroupTest, WhatIsNoStandardExceptionIsInTheGroupToo) {
  const auto body = [](TaskGroup& group) -> Coroutine<> {
    group.create_task([]() -> Coroutine<> {
      throw 42;
      co_return;
    });
    co_return;
  };
  EXPECT_EQ(run(end_of(task_group(body))), "[another exception]");
}

// B237, B238
TEST_F(TaskGroupTest, ChildrenMakeSiblingsUntilTheGroupAborts) {
  struct Spawner {
    static Coroutine<> run(TaskGroup& group, int depth, int& made, std::string& refused) {
      ++made;
      if (depth > 0) group.create_task(run(group, depth - 1, made, refused));
      try {
        co_await sleep(1h);
      } catch (const CancelledError&) {
        try {
          group.create_task(run(group, 0, made, refused));
        } catch (const RuntimeError& error) {
          refused = error.what();
        }
        throw;
      }
    }
  };
  int made = 0;
  std::string refused;
  const auto body = [&](TaskGroup& group) -> Coroutine<> {
    group.create_task(Spawner::run(group, 5, made, refused));
    co_await yields(10);
    group.create_task(fails("enough"));
  };
  EXPECT_EQ(run(end_of(task_group(body))), "[exception: enough]");
  EXPECT_EQ(made, 6);
  EXPECT_EQ(refused.substr(0, 26), "TaskGroup <TaskGroup tasks");
  EXPECT_NE(refused.find("is shutting down"), std::string::npos);
}

// B239
TEST_F(TaskGroupTest, ChildrenHaveTheNamesThatTheyAreGiven) {
  const auto body = [](TaskGroup& group) -> Coroutine<> {
    auto named = group.create_task(gives(1), {.name = "first"});
    EXPECT_EQ(named.get_name(), "first");
    auto eager = group.create_task({.name = "second", .eager_start = true}, gives, 2);
    EXPECT_EQ(eager.get_name(), "second");
    co_return;
  };
  run(task_group(body));
}

// B241
TEST_F(TaskGroupTest, AnEndedGroupTakesNoMoreTasks) {
  const auto main = []() -> Coroutine<> {
    TaskGroup group;
    group.create_task(yields());
    co_await group.join();
    EXPECT_EQ(test::thrown_by([&] { group.create_task(yields()); }),
              "RuntimeError: TaskGroup <TaskGroup entered> is finished");
    co_await group.join();  // again: nothing
  };
  run(main());
}

// B242
TEST_F(TaskGroupTest, ATaskIsItsParent) {
  {
    TaskGroup group;
    if (test::forced_workers() == 1) {  // else the test counts as running on its loop
      EXPECT_EQ(test::thrown_by([&] { group.create_task(yields()); }), "RuntimeError: no running event loop");
    }
    std::string text;
    loop.call_soon([&] { text = test::thrown_by([&] { group.create_task(yields()); }); });
    turn();
    EXPECT_EQ(text, "RuntimeError: TaskGroup <TaskGroup> cannot determine the parent task");
  }
  const auto main = []() -> Coroutine<> {
    TaskGroup group;
    auto other = create_task([&group]() -> Coroutine<> { co_await group.join(); });
    EXPECT_EQ(co_await end_of(other),
              "RuntimeError: TaskGroup <TaskGroup entered> is joined by another task than its parent");
    co_await group.join();
  };
  run(main());
}

// B243
TEST_F(TaskGroupTest, TheParentsCountOfRequestsIsAsBefore) {
  const auto main = [](int before) -> Coroutine<> {
    for (int i = 0; i < before; ++i) {
      current_task().cancel();
      static_cast<void>(co_await end_of(sleep(1h)));
    }
    for (const bool in_body : {false, true}) {
      const auto body = [in_body](TaskGroup& group) -> Coroutine<> {
        group.create_task(fails("child"));
        if (in_body) co_await sleep(1h);
      };
      EXPECT_EQ(co_await end_of(task_group(body)), "[exception: child]");
      EXPECT_EQ(current_task().cancelling(), before);
      // A request from outside is called to mind again: the next await hears of it, as in asyncio.
      EXPECT_EQ(co_await end_of(sleep(0s)), before == 0 ? "" : "CancelledError: ");
    }
    EXPECT_EQ(co_await end_of(task_group([](TaskGroup&) { return yields(); })), "");
    EXPECT_EQ(current_task().cancelling(), before);
  };
  run(main(0));
  run(main(1));
}

// B244, T5
TEST_F(TaskGroupTest, NestedGroupsDoNotSwallowACancellationFromOutside) {
  const auto main = []() -> Coroutine<> {
    const auto slow_to_fail = [](const char* text) -> Coroutine<> {
      static_cast<void>(co_await end_of(sleep(1h)));
      throw std::runtime_error(text);
    };
    std::string inner_end;
    auto parent = create_task([&]() -> Coroutine<std::string> {
      std::string end = "nothing";
      try {
        co_await task_group([&](TaskGroup& outer) -> Coroutine<> {
          outer.create_task(slow_to_fail("outer child"));
          inner_end = co_await end_of(task_group([&](TaskGroup& inner) -> Coroutine<> {
            inner.create_task(slow_to_fail("inner child"));
            co_await sleep(1h);
          }));
          co_await sleep(1h);  // hears of the request again
        });
      } catch (...) {
        end = told(std::current_exception());
        end += ", cancelling " + std::to_string(current_task().cancelling());
      }
      co_return end + ", then " + co_await end_of(sleep(1h));
    });
    co_await yields(3);
    parent.cancel();
    EXPECT_EQ(co_await parent, "[exception: outer child], cancelling 1, then CancelledError: ");
    EXPECT_EQ(inner_end, "[exception: inner child]");
  };
  run(main());
}

// B221
TEST_F(TaskGroupTest, ATimeoutAroundItIsATimeout) {
  const auto body = [this](TaskGroup& group) -> Coroutine<> {
    group.create_task(waits("a"));
    co_return;
  };
  EXPECT_EQ(run(end_of(timeout(1ms, task_group(body)))), "TimeoutError: the deadline has passed");
  EXPECT_THAT(log, ElementsAre("a cancelled"));
}

}  // namespace
}  // namespace ouro
