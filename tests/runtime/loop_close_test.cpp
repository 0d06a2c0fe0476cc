// Closing a loop that has work left: tasks, futures, callbacks, and handles that outlive it.
#include <gmock/gmock.h>

#include <cstddef>
#include <functional>
#include <memory>
#include <source_location>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <ouro/runtime/config.hpp>
#include <ouro/runtime/futures.hpp>
#include <ouro/runtime/gather.hpp>
#include <ouro/runtime/sleep.hpp>
#include <ouro/runtime/tasks.hpp>

#include "support/loop_fixture.hpp"

namespace ouro {
namespace {

using namespace std::chrono_literals;
using test::Counted;
using test::task_name;
using test::thrown_by;
using testing::ElementsAre;
using testing::IsEmpty;
using testing::SizeIs;
using testing::StrEq;

using Log = std::vector<std::string>;

// Notes its name when it is destroyed.
class Noted {
 public:
  Noted(Log& log, std::string name) : log_(log), name_(std::move(name)) {}
  Noted(const Noted&) = delete;
  ~Noted() { log_.push_back(name_); }

 private:
  Log& log_;
  std::string name_;
};

// Runs a function when it is destroyed.
template <class F>
class AtExit {
 public:
  explicit AtExit(F f) : f_(std::move(f)) {}
  AtExit(const AtExit&) = delete;
  ~AtExit() { f_(); }

 private:
  F f_;
};

class LoopCloseTest : public test::LoopTest {
 protected:
  Log log;
};

// A group has no order among its tasks.
const std::string pending_tasks = std::string(" tasks were destroyed but they are pending! ") +
                                  (test::forced_workers() == 1 ? "The first:" : "One of them:");

Coroutine<> sleeps() { co_await sleep(1h); }
Coroutine<> waits_for(Future<> future) { co_await future; }
Coroutine<> waits_for_task(Task<> task) { co_await task; }
Coroutine<> holds(Counted) { co_await sleep(1h); }

// B129
TEST_F(LoopCloseTest, APendingTaskIsReportedWithItsNameAndPlace) {
  loop.create_task(sleeps(), {.name = "forgotten"});
  const unsigned line = std::source_location::current().line() - 1;
  turn();
  loop.close();
  const auto taken = take_reports();
  ASSERT_THAT(taken, SizeIs(1));
  EXPECT_THAT(taken[0].message, StrEq("Task was destroyed but it is pending!"));
  EXPECT_THAT(taken[0].task, StrEq("forgotten"));
  EXPECT_EQ(taken[0].created.line(), line);
  loop.close();
  expect_no_reports();
}

// B129
TEST_F(LoopCloseTest, ManyPendingTasksAreOneReport) {
  auto future = loop.create_future();
  for (int i = 0; i < 3; ++i) loop.create_task(waits_for(future));
  loop.create_task(sleeps());  // one that has not started
  turn();
  loop.create_task(sleeps());
  destroy_loop();
  const auto taken = take_reports();
  ASSERT_THAT(taken, SizeIs(1));
  EXPECT_THAT(taken[0].message, StrEq("5" + pending_tasks));
  if (test::forced_workers() == 1) {
    EXPECT_THAT(taken[0].task, StrEq("Task-1"));
  }
}

TEST_F(LoopCloseTest, DestroysTheFramesInnermostFirst) {
  const auto level = [this](auto& self, int depth) -> Coroutine<> {
    const Noted noted(log, "level " + std::to_string(depth));
    if (depth == 3) {
      co_await sleep(1h);
    } else {
      co_await self(self, depth + 1);
    }
    log.push_back("never");
  };
  loop.create_task(level(level, 0));
  turn();
  destroy_loop();
  EXPECT_THAT(log, ElementsAre("level 3", "level 2", "level 1", "level 0"));
  EXPECT_THAT(take_reports(), SizeIs(1));
}

TEST_F(LoopCloseTest, DestroysTheChildrenOfAGatherBeforeItsParent) {
  const auto child = [this](std::string name) -> Coroutine<> {
    const Noted noted(log, name);
    co_await sleep(1h);
  };
  const auto parent = [&]() -> Coroutine<> {
    const Noted noted(log, "parent");
    auto first = child("first");
    auto second = child("second");
    co_await gather(std::move(first), std::move(second));
  };
  loop.create_task(parent());
  turn(2);
  destroy_loop();
  EXPECT_THAT(log, SizeIs(3));
  EXPECT_THAT(log.back(), StrEq("parent"));
  EXPECT_THAT(take_reports(), SizeIs(1));
}

TEST_F(LoopCloseTest, RunsDestructorsOnlyAndNoHandlers) {
  const auto body = [this]() -> Coroutine<> {
    const Noted noted(log, "destroyed");
    try {
      co_await sleep(1h);
    } catch (...) {
      log.push_back("caught");
      throw;
    }
    log.push_back("went on");
  };
  auto task = loop.create_task(body());
  turn();
  loop.close();
  EXPECT_TRUE(task.done());
  EXPECT_TRUE(task.cancelled());
  task = {};
  EXPECT_THAT(log, ElementsAre("destroyed"));
  EXPECT_THAT(take_reports(), SizeIs(1));
}

TEST_F(LoopCloseTest, ATaskWithAHandleIsCancelledAndItsNestedFramesAreGone) {
  const auto inner = [this]() -> Coroutine<> {
    const Noted noted(log, "inner");
    co_await sleep(1h);
  };
  const auto outer = [&]() -> Coroutine<int> {
    const Noted noted(log, "outer");
    co_await inner();
    co_return 1;
  };
  auto task = loop.create_task(outer(), {.name = "held"});
  auto unstarted = loop.create_task(outer(), {.name = "held and not started"});
  turn();
  auto copy = task;
  destroy_loop();
  EXPECT_THAT(take_reports(), SizeIs(1));
  EXPECT_THAT(log, testing::Contains("inner"));
  for (auto* held : {&task, &copy, &unstarted}) {
    EXPECT_TRUE(held->done());
    EXPECT_TRUE(held->cancelled());
    EXPECT_FALSE(held->cancel());
    EXPECT_THAT(thrown_by([&] { held->result(); }), StrEq("CancelledError: "));
  }
  EXPECT_THAT(task.get_name(), StrEq("held"));
  EXPECT_THAT(task.get_stack(), IsEmpty());
  EXPECT_THAT(thrown_by([&] { task.get_loop(); }), testing::StartsWith("RuntimeError: "));
  task = {};
  EXPECT_THAT(log, testing::Not(testing::Contains("outer")));
  copy = {};
  EXPECT_THAT(log, testing::Contains("outer"));
}

TEST_F(LoopCloseTest, ADoneTaskOutlivesTheLoopWithItsResult) {
  const auto gives = []() -> Coroutine<std::string> { co_return "still here"; };
  const auto fails = []() -> Coroutine<> {
    throw std::runtime_error("still here");
    co_return;
  };
  auto task = loop.create_task(gives());
  auto failed = loop.create_task(fails());
  turn();
  destroy_loop();
  EXPECT_THAT(task.result(), StrEq("still here"));
  EXPECT_THAT(thrown_by([&] { failed.result(); }), StrEq("exception: still here"));
  EXPECT_THAT(task.get_name(), StrEq(task_name(1)));
}

TEST_F(LoopCloseTest, AFutureThatWasAwaitedCanBeHeldAndEndedAfterwards) {
  auto future = loop.create_future();
  loop.create_task(waits_for(future));
  auto other = loop.create_task(waits_for(future));
  turn();
  destroy_loop();
  EXPECT_FALSE(future.done());
  other = {};
  future.set_result();
  EXPECT_TRUE(future.done());
  EXPECT_THAT(take_reports(), SizeIs(1));
}

TEST_F(LoopCloseTest, DoneCallbacksOfPendingTasksAreDestroyedUnrun) {
  int alive = 0;
  bool ran = false;
  loop.create_task(sleeps()).add_done_callback([&ran, counted = Counted(alive)](Future<>) { ran = true; });
  auto held = loop.create_task(sleeps());
  held.add_done_callback([&ran, counted = Counted(alive)](Future<>) { ran = true; });
  turn();
  destroy_loop();
  held = {};
  EXPECT_EQ(alive, 0);
  EXPECT_FALSE(ran);
  EXPECT_THAT(take_reports(), SizeIs(1));
}

TEST_F(LoopCloseTest, CallbacksAndTimersAreDestroyedUnrun) {
  int alive = 0;
  bool ran = false;
  auto handle = loop.call_soon([&ran, counted = Counted(alive)] { ran = true; });
  auto timer = loop.call_later(1h, [&ran, counted = Counted(alive)] { ran = true; });
  loop.call_soon_threadsafe([&ran, counted = Counted(alive)] { ran = true; });
  EXPECT_EQ(alive, 3);
  loop.close();
  EXPECT_EQ(alive, 0);
  EXPECT_FALSE(ran);
  handle.cancel();
  timer.cancel();
  EXPECT_THAT(thrown_by([&] { loop.call_soon([] {}); }), StrEq("RuntimeError: Event loop is closed"));
}

TEST_F(LoopCloseTest, TasksThatAwaitEachOtherGo) {
  int alive = 0;
  auto first = loop.create_task(holds(Counted(alive)));
  auto second = loop.create_task(waits_for_task(first));
  auto third = loop.create_task(waits_for_task(std::move(second)));
  auto fourth = loop.create_task(waits_for_task(first));
  turn();
  first = {};
  fourth = {};
  destroy_loop();
  EXPECT_TRUE(third.cancelled());
  third = {};
  EXPECT_EQ(alive, 0);
  EXPECT_THAT(take_reports(), SizeIs(1));
}

TEST_F(LoopCloseTest, ReadyTasksGoToo) {
  int alive = 0;
  auto future = loop.create_future();
  const auto body = [](Future<> awaited, Counted) -> Coroutine<> { co_await awaited; };
  for (int i = 0; i < 10; ++i) loop.create_task(body(future, Counted(alive)));
  turn();
  future.set_result();
  destroy_loop();
  EXPECT_EQ(alive, 0);
  EXPECT_THAT(take_reports(), SizeIs(1));
}

// What dies at the close may hold on to other tasks, and give them up or cancel them.
TEST_F(LoopCloseTest, ADestructorMayCancelAnotherTask) {
  int alive = 0;
  for (int i = 0; i < 10; ++i) {
    auto other = loop.create_task(holds(Counted(alive)));
    const auto owner = [](Task<> owned, Counted) -> Coroutine<> {
      AtExit cancels([&owned] { owned.cancel("owner died"); });
      co_await sleep(1h);
    };
    loop.create_task(owner(std::move(other), Counted(alive)));
    loop.create_task(owner(loop.create_task(holds(Counted(alive))), Counted(alive)));
  }
  turn();
  destroy_loop();
  EXPECT_EQ(alive, 0);
  EXPECT_THAT(take_reports(), SizeIs(1));
}

TEST_F(LoopCloseTest, ADestructorOfACallbackMayCancelATask) {
  int alive = 0;
  auto task = loop.create_task(holds(Counted(alive)));
  turn();
  auto cancels = std::make_shared<AtExit<std::function<void()>>>([&task] { task.cancel(); });
  loop.call_later(1h, [cancels] {});
  loop.call_soon([cancels = std::move(cancels)] {});
  destroy_loop();
  EXPECT_TRUE(task.cancelled());
  task = {};
  EXPECT_EQ(alive, 0);
  EXPECT_THAT(take_reports(), SizeIs(1));
}

TEST_F(LoopCloseTest, ADestructorMayEndFuturesAndCannotMakeTasks) {
  std::string made;
  auto future = loop.create_future();
  auto waiting = loop.create_task(waits_for(future));
  const auto body = [](std::string& text, BaseEventLoop& on, Future<> end) -> Coroutine<> {
    AtExit ends([&] {
      end.cancel();
      text = thrown_by([&] { on.create_task(sleeps()); });
    });
    co_await sleep(1h);
  };
  loop.create_task(body(made, loop, future));
  turn();
  destroy_loop();
  EXPECT_THAT(made, StrEq("RuntimeError: Event loop is closed"));
  EXPECT_TRUE(future.cancelled());
  EXPECT_THAT(take_reports(), SizeIs(1));
}

TEST_F(LoopCloseTest, ADestructorMayCancelItsOwnTaskAndItsSiblings) {
  OURO_TEST_ALONE("all_tasks of a group has no children of pinned gathers, and no first steps");
  Task<> task;
  int cancelled = 0;
  const auto child = [&]() -> Coroutine<> {
    AtExit cancels([&] {
      task.cancel();
      for (AnyTask& other : all_tasks(loop)) cancelled += other.cancel() ? 1 : 0;
    });
    co_await sleep(1h);
  };
  const auto parent = [&]() -> Coroutine<> {
    auto first = child();
    auto second = child();
    auto third = child();
    co_await gather(std::move(first), std::move(second), std::move(third));
  };
  loop.create_task(child());
  task = loop.create_task(parent());
  loop.create_task(child());
  turn(2);
  EXPECT_THAT(all_tasks(loop), SizeIs(6));
  loop.close();
  EXPECT_GT(cancelled, 0);
  EXPECT_TRUE(task.cancelled());
  EXPECT_THAT(take_reports(), SizeIs(1));
}

TEST_F(LoopCloseTest, AMillionPendingTasksGo) {
  constexpr std::size_t many = OURO_ASAN || OURO_TSAN ? 100'000 : 1'000'000;
  auto future = loop.create_future();
  std::vector<Task<>> held;
  for (std::size_t i = 0; i < many; ++i) {
    auto task = loop.create_task(waits_for(future));
    if (i % 1000 == 0) held.push_back(std::move(task));
  }
  turn();
  EXPECT_THAT(all_tasks(loop), SizeIs(many));
  loop.close();
  const auto taken = take_reports();
  ASSERT_THAT(taken, SizeIs(1));
  EXPECT_EQ(taken[0].message, std::to_string(many) + pending_tasks);
  for (const Task<>& task : held) ASSERT_TRUE(task.cancelled());
}

// The handle that dies with the frame is the last one of a task that waits for another, and so on.
TEST_F(LoopCloseTest, AChainOfOwnersGoesFromAnyEnd) {
  int alive = 0;
  const auto owner = [](Task<> owned, Counted) -> Coroutine<> {
    co_await sleep(1h);
    co_await owned;
  };
  auto last = loop.create_task(holds(Counted(alive)));
  for (int i = 0; i < 1000; ++i) last = loop.create_task(owner(std::move(last), Counted(alive)));
  turn();
  destroy_loop();
  EXPECT_EQ(alive, 1001);  // the last one is held, and its frame holds the others
  EXPECT_TRUE(last.cancelled());
  last = {};
  EXPECT_EQ(alive, 0);
  EXPECT_THAT(take_reports(), SizeIs(1));
}

TEST_F(LoopCloseTest, AHandlerThatThrowsOrUsesTheLoopDoesNotStopIt) {
  int alive = 0;
  loop.create_task(holds(Counted(alive)));
  turn();
  std::string made;
  loop.set_exception_handler([&made](BaseEventLoop& on, const ExceptionContext&) {
    EXPECT_TRUE(on.is_closed());
    made = thrown_by([&] { on.create_task(sleeps()); });
    throw std::runtime_error("from the handler");
  });
  testing::internal::CaptureStderr();
  loop.close();
  EXPECT_THAT(testing::internal::GetCapturedStderr(), testing::HasSubstr("Task was destroyed but it is pending!"));
  EXPECT_EQ(alive, 0);
  EXPECT_THAT(made, StrEq("RuntimeError: Event loop is closed"));
}

TEST_F(LoopCloseTest, CannotBeDoneWhileItRuns) {
  OURO_TEST_ALONE("close() says there that run() ends the loops");
  std::string text;
  loop.call_soon([&] { text = thrown_by([&] { loop.close(); }); });
  turn();
  EXPECT_THAT(text, StrEq("RuntimeError: Cannot close a running event loop"));
  EXPECT_FALSE(loop.is_closed());
}

}  // namespace
}  // namespace ouro
