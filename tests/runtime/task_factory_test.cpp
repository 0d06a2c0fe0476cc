// Task factories, and the hard cases of tasks that start at once.
#include <gmock/gmock.h>

#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <ouro/runtime/sleep.hpp>
#include <ouro/runtime/tasks.hpp>

#include "support/loop_fixture.hpp"

namespace ouro {
namespace {

using namespace std::chrono_literals;
using test::Counted;
using test::describe;
using test::task_name;
using test::thrown_by;
using testing::ElementsAre;
using testing::IsEmpty;
using testing::StrEq;
using testing::UnorderedElementsAre;

using Log = std::vector<std::string>;

Coroutine<int> answer() { co_return 42; }
Coroutine<> waits_for(Future<> future) { co_await future; }
Coroutine<> holds(Counted) { co_await sleep(0ms); }

std::vector<std::string> names(const std::vector<AnyTask>& tasks) {
  std::vector<std::string> all;
  for (const AnyTask& task : tasks) all.push_back(task.get_name());
  return all;
}

// ---- Factories ----

class TaskFactoryTest : public test::LoopTest {
 protected:
  Log log;
};

// B134
TEST_F(TaskFactoryTest, SeesEveryTaskAndMayNameIt) {
  EXPECT_FALSE(loop.get_task_factory());
  loop.set_task_factory([this](BaseEventLoop& on, AnyTask task, TaskOptions& options) {
    EXPECT_EQ(&on, &loop);
    EXPECT_FALSE(task.done());
    log.push_back(std::string(options.name));
    if (options.name.empty()) options.name = "by the factory";
  });
  EXPECT_TRUE(loop.get_task_factory());
  auto plain = loop.create_task(answer());
  auto named = loop.create_task(answer(), {.name = "given"});
  EXPECT_THAT(plain.get_name(), StrEq("by the factory"));
  EXPECT_THAT(named.get_name(), StrEq("given"));
  EXPECT_EQ(run(plain), 42);
  EXPECT_EQ(run(named), 42);
  EXPECT_EQ(run(answer()), 42);
  EXPECT_THAT(log, ElementsAre("", "given", ""));
  loop.set_task_factory(nullptr);
  EXPECT_FALSE(loop.get_task_factory());
  EXPECT_EQ(run(answer()), 42);
  EXPECT_THAT(log, testing::SizeIs(3));
}

// B117
TEST_F(TaskFactoryTest, OneThatThrowsDestroysTheCoroutineOnce) {
  int alive = 0;
  loop.set_task_factory([](BaseEventLoop&, AnyTask, TaskOptions&) { throw std::runtime_error("no task today"); });
  EXPECT_THAT(thrown_by([&] { loop.create_task(holds(Counted(alive))); }), StrEq("exception: no task today"));
  EXPECT_EQ(alive, 0);
  EXPECT_THAT(thrown_by([&] { loop.create_task(holds, Counted(alive)); }), StrEq("exception: no task today"));
  EXPECT_EQ(alive, 0);
  EXPECT_THAT(thrown_by([&] { run(holds(Counted(alive))); }), StrEq("exception: no task today"));
  EXPECT_EQ(alive, 0);
  EXPECT_THAT(all_tasks(loop), IsEmpty());
  loop.set_task_factory(nullptr);
  EXPECT_EQ(run(answer()), 42);
}

// B117
TEST_F(TaskFactoryTest, OneThatThrowsDoesNotLeaveACoroutineThatWasNeverAwaited) {
  const auto body = []() -> Coroutine<> {
    BaseEventLoop& on = current_task().get_loop();
    on.set_debug(true);
    on.set_task_factory([](BaseEventLoop&, AnyTask, TaskOptions&) { throw std::runtime_error("no"); });
    EXPECT_THROW(create_task(answer()), std::runtime_error);
    on.set_task_factory(nullptr);
    co_return;
  };
  testing::internal::CaptureStderr();
  run(body());
  EXPECT_THAT(testing::internal::GetCapturedStderr(), IsEmpty());
}

// B117: what was not scheduled can be scheduled again.
TEST_F(TaskFactoryTest, ACoroutineThatAFactoryRefusedCanBeUsedStill) {
  bool refuse = true;
  loop.set_task_factory([&refuse](BaseEventLoop&, AnyTask task, TaskOptions&) {
    if (!std::exchange(refuse, false)) return;
    task.cancel();
    throw std::runtime_error("not yet");
  });
  auto coroutine = answer();
  EXPECT_THROW(loop.create_task(std::move(coroutine), {.name = "a name that is too long for a small string"}),
               std::runtime_error);
  ASSERT_TRUE(coroutine);  // NOLINT: what a refused one holds is promised
  auto task = loop.create_task(std::move(coroutine));
  EXPECT_THAT(task.get_name(), StrEq(task_name(1)));
  EXPECT_EQ(task.cancelling(), 0);
  EXPECT_EQ(run(task), 42);
}

// B117: the coroutine object that was to be scheduled is used up, whoever holds it.
TEST_F(TaskFactoryTest, OneThatThrowsLeavesTheCoroutineWithItsOwner) {
  int alive = 0;
  loop.set_task_factory([](BaseEventLoop&, AnyTask, TaskOptions&) { throw std::runtime_error("no"); });
  {
    auto coroutine = holds(Counted(alive));
    EXPECT_THROW(loop.create_task(std::move(coroutine)), std::runtime_error);
  }
  EXPECT_EQ(alive, 0);
}

// B117
TEST_F(TaskFactoryTest, AHandleKeptByOneThatThrowsStaysValid) {
  int alive = 0;
  AnyTask kept;
  loop.set_task_factory([&kept](BaseEventLoop&, AnyTask task, TaskOptions&) {
    kept = std::move(task);
    throw std::runtime_error("no");
  });
  EXPECT_THROW(loop.create_task(holds(Counted(alive)), {.name = "kept"}), std::runtime_error);
  ASSERT_TRUE(kept);
  EXPECT_TRUE(kept.done());
  EXPECT_TRUE(kept.cancelled());
  EXPECT_FALSE(kept.cancel());
  EXPECT_THAT(kept.get_name(), StrEq("kept"));
  kept = {};
  EXPECT_EQ(alive, 0);
  turn(2);
}

// B117: the coroutine object and the kept handle may go in either order.
TEST_F(TaskFactoryTest, ACoroutineWhoseHandleWasKeptByOneThatThrowsIsUsedUp) {
  int alive = 0;
  AnyTask kept;
  loop.set_task_factory([&kept](BaseEventLoop&, AnyTask task, TaskOptions&) {
    kept = std::move(task);
    throw std::runtime_error("no");
  });
  {
    auto coroutine = holds(Counted(alive));
    EXPECT_THROW(loop.create_task(std::move(coroutine)), std::runtime_error);
    EXPECT_FALSE(coroutine);
    EXPECT_EQ(alive, 1);
    loop.set_task_factory(nullptr);
    EXPECT_THROW(loop.create_task(std::move(coroutine)), RuntimeError);
    kept = {};
    EXPECT_EQ(alive, 0);
  }
}

TEST_F(TaskFactoryTest, MayKeepAHandle) {
  std::vector<AnyTask> kept;
  loop.set_task_factory([&kept](BaseEventLoop&, AnyTask task, TaskOptions& options) {
    kept.push_back(std::move(task));
    options.eager_start = kept.size() == 2;
  });
  const auto body = []() -> Coroutine<> {
    auto task = create_task(answer());
    EXPECT_TRUE(task.done());
    EXPECT_EQ(co_await std::move(task), 42);
  };
  run(body());
  ASSERT_THAT(kept, testing::SizeIs(2));
  EXPECT_TRUE(kept[0].done());
  EXPECT_TRUE(kept[1].done());
}

TEST_F(TaskFactoryTest, MayCancelTheTask) {
  int alive = 0;
  loop.set_task_factory([](BaseEventLoop&, AnyTask task, TaskOptions&) { task.cancel("refused"); });
  auto task = loop.create_task(holds(Counted(alive)));
  turn();
  EXPECT_TRUE(task.cancelled());
  EXPECT_THAT(thrown_by([&] { task.result(); }), StrEq("CancelledError: refused"));
}

// B143
TEST_F(TaskFactoryTest, ATaskThatItCancelsDoesNotStartNotEvenAtOnce) {
  loop.set_task_factory([](BaseEventLoop&, AnyTask task, TaskOptions& options) {
    options.eager_start = true;
    if (options.name == "cancelled") task.cancel("refused");
  });
  bool ran = false;
  const auto runs = [&ran]() -> Coroutine<> {
    ran = true;
    co_return;
  };
  const auto body = [&]() -> Coroutine<> {
    const TaskOptions options{.name = "cancelled"};
    auto task = create_task(runs(), options);
    EXPECT_FALSE(task.done());
    co_await sleep(0ms);
    EXPECT_TRUE(task.cancelled());
    EXPECT_EQ(task.cancelling(), 1);
  };
  run(body());
  EXPECT_FALSE(ran);
}

// ---- Eager tasks ----

class EagerTaskTest : public test::LoopTest {
 protected:
  Log log;
};

// B248
TEST_F(EagerTaskTest, AnErrorIsKeptInTheTask) {
  const auto fails = []() -> Coroutine<> {
    throw std::runtime_error("at once");
    co_return;
  };
  const auto body = [&]() -> Coroutine<> {
    auto task = create_task(fails(), {.eager_start = true});
    EXPECT_TRUE(task.done());
    EXPECT_THAT(describe(task.exception()), StrEq("exception: at once"));
    co_return;
  };
  run(body());
}

// B251
TEST_F(EagerTaskTest, FromACallbackThereIsNoTaskBeforeAndAfter) {
  const auto inner = [this]() -> Coroutine<> {
    log.push_back(current_task().get_name());
    co_return;
  };
  loop.call_soon([&] {
    EXPECT_FALSE(current_task());
    create_task(inner(), {.name = "eager", .eager_start = true});
    EXPECT_FALSE(current_task());
  });
  turn();
  EXPECT_THAT(log, ElementsAre("eager"));
}

// B252
TEST_F(EagerTaskTest, AllTasksHaveItOnlyWhileItIsNotDone) {
  OURO_TEST_ALONE("all_tasks of a group has no children of pinned gathers, and no first steps");
  auto future = loop.create_future();
  const auto looks = [this]() -> Coroutine<> {
    log = names(all_tasks());
    co_return;
  };
  const auto body = [&]() -> Coroutine<> {
    auto done = create_task(answer(), {.name = "done", .eager_start = true});
    auto blocked = create_task(waits_for(future), {.name = "blocked", .eager_start = true});
    EXPECT_THAT(names(all_tasks()), UnorderedElementsAre("main", "blocked"));
    auto looking = create_task(looks(), {.name = "looking", .eager_start = true});
    EXPECT_THAT(log, UnorderedElementsAre("main", "blocked", "looking"));
    EXPECT_THAT(names(all_tasks()), UnorderedElementsAre("main", "blocked"));
    future.set_result();
    co_await blocked;
    EXPECT_THAT(names(all_tasks()), ElementsAre("main"));
  };
  auto task = loop.create_task(body(), {.name = "main"});
  run(task);
}

// B145
TEST_F(EagerTaskTest, OneThatCancelsItselfAndDoesNotWaitEndsCancelled) {
  const auto cancels = []() -> Coroutine<int> {
    EXPECT_TRUE(current_task().cancel("by itself"));
    co_return 1;
  };
  const auto body = [&]() -> Coroutine<> {
    const TaskOptions options{.eager_start = true};
    auto task = create_task(cancels(), options);
    EXPECT_TRUE(task.cancelled());
    EXPECT_THAT(thrown_by([&] { task.result(); }), StrEq("CancelledError: by itself"));
    EXPECT_EQ(current_task().cancelling(), 0);
    co_await sleep(0ms);
  };
  run(body());
}

TEST_F(EagerTaskTest, EagerTasksNest) {
  struct Nest {
    static Coroutine<int> level(int depth) {
      if (depth == 0) co_return 0;
      const TaskOptions options{.eager_start = true};
      auto task = create_task(level(depth - 1), options);
      EXPECT_TRUE(task.done());
      co_return 1 + co_await std::move(task);
    }
  };
  EXPECT_EQ(run(Nest::level(50)), 50);
}

TEST_F(EagerTaskTest, ItCanBeCancelledOnceItWaits) {
  const auto body = [](Future<> future) -> Coroutine<> {
    auto task = create_task(waits_for(future), {.eager_start = true});
    EXPECT_TRUE(task.cancel("enough"));
    EXPECT_TRUE(future.cancelled());
    std::string text;
    try {
      co_await task;
    } catch (...) {
      text = describe(std::current_exception());
    }
    EXPECT_THAT(text, StrEq("CancelledError: enough"));
  };
  run(body(loop.create_future()));
}

TEST_F(EagerTaskTest, AKeyboardInterruptInTheFirstStepComesOutOfTheLoop) {
  const auto interrupts = []() -> Coroutine<> {
    throw KeyboardInterrupt();
    co_return;
  };
  Task<> task;
  loop.call_soon([&] { task = create_task(interrupts(), {.eager_start = true}); });
  EXPECT_THROW(loop.run_forever(), KeyboardInterrupt);
  ASSERT_TRUE(task.done());
  EXPECT_THAT(describe(task.exception()), StrEq("KeyboardInterrupt"));
}

}  // namespace
}  // namespace ouro
