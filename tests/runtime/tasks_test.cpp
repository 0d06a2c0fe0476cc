// Tasks: how they are made, started, named, found and looked into.
#include <ouro/runtime/tasks.hpp>

#include <gmock/gmock.h>

#include <coroutine>
#include <functional>
#include <memory>
#include <source_location>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <ouro/runtime/gather.hpp>
#include <ouro/runtime/sleep.hpp>

#include "support/loop_fixture.hpp"

namespace ouro {
namespace {

using namespace std::chrono_literals;
using test::Counted;
using test::describe;
using test::task_name;
using test::thrown_by;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::SizeIs;
using testing::StrEq;
using testing::UnorderedElementsAre;

using Log = std::vector<std::string>;

Coroutine<> nothing() { co_return; }
Coroutine<int> answer() { co_return 42; }
Coroutine<> yields(int times) {
  for (int i = 0; i < times; ++i) co_await sleep(0ms);
}
Coroutine<> waits_for(Future<> future) { co_await future; }
Coroutine<> holds(Counted) { co_await sleep(0ms); }

std::vector<std::string> names(const std::vector<AnyTask>& tasks) {
  std::vector<std::string> all;
  for (const AnyTask& task : tasks) all.push_back(task.get_name());
  return all;
}

// ---- Making ----

class TaskTest : public test::LoopTest {
 protected:
  Log log;
};

template <class A>
concept CanBeATask = requires(A awaitable, BaseEventLoop& loop) { loop.create_task(std::move(awaitable)); };

// B114 B123: what is no awaitable does not compile.
static_assert(!CanBeATask<int> && !CanBeATask<std::string> && !CanBeATask<int (*)()>);
static_assert(CanBeATask<Coroutine<int>> && CanBeATask<Future<int>> && CanBeATask<Coroutine<> (*)()>);
static_assert(!Awaitable<int> && !Awaitable<std::string>);

// B135
static_assert(is_coroutine<Coroutine<>> && is_coroutine<Coroutine<int>&> && !is_coroutine<Task<int>>);
static_assert(is_coroutine_function<decltype(nothing)> && is_coroutine_function<decltype(&answer)>);
static_assert(is_coroutine_function<Coroutine<int> (&)(int)> && !is_coroutine_function<int()>);

// B119
TEST_F(TaskTest, StartsInALaterTurnInTheOrderOfCreation) {
  const auto notes = [this](std::string name) -> Coroutine<> {
    log.push_back(name);
    co_return;
  };
  const auto body = [&]() -> Coroutine<> {
    auto first = create_task(notes("first"));
    auto second = create_task(notes("second"));
    log.push_back("made");
    co_await sleep(0ms);
    EXPECT_TRUE(first.done());
    EXPECT_TRUE(second.done());
  };
  run(body());
  EXPECT_THAT(log, ElementsAre("made", "first", "second"));
}

// B115
struct AnswerAwaiter {
  bool await_ready() const noexcept { return true; }
  void await_suspend(std::coroutine_handle<>) const noexcept {}
  int await_resume() const noexcept { return 42; }
};
struct AnswerAwaitable {
  AnswerAwaiter operator co_await() const noexcept { return {}; }
};
TEST_F(TaskTest, AnyAwaitableCanBeATask) {
  EXPECT_EQ(run(loop.create_task(AnswerAwaiter())), 42);
  EXPECT_EQ(run(loop.create_task(AnswerAwaitable())), 42);
  auto future = loop.create_future<std::string>();
  future.set_result("from a future");
  EXPECT_THAT(run(loop.create_task(future)), StrEq("from a future"));
}

// B116
TEST_F(TaskTest, TheFreeFunctionUsesTheRunningLoop) {
  const auto body = []() -> Coroutine<std::string> {
    auto plain = create_task(answer());
    auto named = create_task(answer(), {.name = "named"});
    EXPECT_EQ(&plain.get_loop(), &AnyTask(current_task()).get_loop());
    EXPECT_EQ(co_await plain, 42);
    EXPECT_EQ(co_await named, 42);
    co_return named.get_name();
  };
  EXPECT_THAT(run(body()), StrEq("named"));
}

// B117 B131
TEST_F(TaskTest, WithoutARunningLoopTheCoroutineIsDestroyed) {
  OURO_TEST_ALONE("there is a running loop between the runs, too");
  int alive = 0;
  EXPECT_THAT(thrown_by([&] { create_task(holds(Counted(alive))); }), StrEq("RuntimeError: no running event loop"));
  EXPECT_EQ(alive, 0);
  EXPECT_THAT(thrown_by([&] { create_task(holds, Counted(alive)); }), StrEq("RuntimeError: no running event loop"));
  EXPECT_EQ(alive, 0);
}

// B117
TEST_F(TaskTest, OnAClosedLoopTheCoroutineIsDestroyed) {
  int alive = 0;
  loop.close();
  EXPECT_THAT(thrown_by([&] { loop.create_task(holds(Counted(alive))); }), StrEq("RuntimeError: Event loop is closed"));
  EXPECT_EQ(alive, 0);
  EXPECT_THAT(thrown_by([&] { run(holds(Counted(alive))); }), StrEq("RuntimeError: Event loop is closed"));
  EXPECT_EQ(alive, 0);
}

// B117: in debug mode too there is no complaint that it was never awaited.
TEST_F(TaskTest, OneThatCannotBeMadeIsNotReportedAsNeverAwaited) {
  loop.set_debug(true);
  loop.close();
  testing::internal::CaptureStderr();
  EXPECT_THROW(loop.create_task(nothing()), RuntimeError);
  EXPECT_THAT(testing::internal::GetCapturedStderr(), IsEmpty());
}

// B125
TEST_F(TaskTest, ACoroutineIsUsedOnce) {
  const auto body = []() -> Coroutine<> {
    auto once = answer();
    EXPECT_TRUE(once);
    EXPECT_EQ(co_await once, 42);
    EXPECT_FALSE(once);
    std::string second;
    try {
      co_await once;
    } catch (...) {
      second = describe(std::current_exception());
    }
    EXPECT_THAT(second, StrEq("RuntimeError: cannot reuse already awaited coroutine"));
  };
  run(body());
  auto scheduled = answer();
  run(std::move(scheduled));
  EXPECT_THAT(thrown_by([&] { run(std::move(scheduled)); }),  // NOLINT: what a moved one does is promised
              StrEq("RuntimeError: cannot reuse already awaited coroutine"));
}

TEST_F(TaskTest, ACallableLivesWithItsCapturesAsLongAsTheTask) {
  auto owned = std::make_shared<std::string>("captured");
  const std::weak_ptr<std::string> watch = owned;
  {
    auto task = loop.create_task([owned = std::move(owned)]() -> Coroutine<std::string> {
      co_await sleep(0ms);
      co_await sleep(0ms);
      co_return *owned;
    });
    EXPECT_THAT(run(task), StrEq("captured"));
    EXPECT_FALSE(watch.expired());
  }
  EXPECT_TRUE(watch.expired());
}

TEST_F(TaskTest, ArgumentsAreKeptByValueUnlessTheyAreReferences) {
  const auto appends = [](std::string& target, std::string_view tail) -> Coroutine<> {
    co_await sleep(0ms);
    target += tail;
  };
  std::string target = "a";
  {
    std::string tail = "b";
    loop.create_task(appends, std::ref(target), tail);
    tail = "x";
  }
  turn(2);
  EXPECT_THAT(target, StrEq("ab"));
  const auto body = [&]() -> Coroutine<std::string> {
    const TaskOptions options{.name = "with arguments"};
    auto task = create_task(options, appends, std::ref(target), std::string("c"));
    co_await task;
    co_return task.get_name();
  };
  EXPECT_THAT(run(body()), StrEq("with arguments"));
  EXPECT_THAT(target, StrEq("abc"));
}

// T16
TEST_F(TaskTest, RunsWithoutAnyHandle) {
  int done = 0;
  const auto body = [&done](int rounds) -> Coroutine<> {
    co_await yields(rounds);
    ++done;
  };
  for (int i = 0; i < 100; ++i) loop.create_task(body(i % 3));
  turn(3);
  EXPECT_EQ(done, 100);
}

// B120
TEST_F(TaskTest, CannotBeSetFromOutside) {
  auto task = loop.create_task(answer());
  EXPECT_THAT(thrown_by([&] { task.set_result(1); }),
              StrEq("RuntimeError: Task does not support set_result operation"));
  EXPECT_THAT(thrown_by([&] { task.set_exception(std::runtime_error("")); }),
              StrEq("RuntimeError: Task does not support set_exception operation"));
  EXPECT_EQ(run(task), 42);
  EXPECT_THAT(thrown_by([&] { task.set_result(1); }),
              StrEq("RuntimeError: Task does not support set_result operation"));
}

TEST_F(TaskTest, IsAFuture) {
  auto task = loop.create_task(answer());
  const Future<int> future = task;
  EXPECT_EQ(future, task);
  task.add_done_callback([this](Future<int> done) { log.push_back(std::to_string(done.result())); });
  EXPECT_THAT(thrown_by([&] { future.result(); }), StrEq("InvalidStateError: Result is not set."));
  turn();
  EXPECT_TRUE(future.done());
  EXPECT_THAT(log, IsEmpty());
  turn();
  EXPECT_THAT(log, ElementsAre("42"));
}

// B138
TEST_F(TaskTest, ResultThrowsTheSameExceptionEveryTime) {
  const auto fails = []() -> Coroutine<int> {
    co_await sleep(0ms);
    throw std::runtime_error("boom");
  };
  auto task = loop.create_task(fails());
  turn(2);
  const std::exception_ptr exception = task.exception();
  EXPECT_THAT(describe(exception), StrEq("exception: boom"));
  for (int i = 0; i < 2; ++i) {
    try {
      task.result();
      ADD_FAILURE();
    } catch (...) {
      EXPECT_EQ(std::current_exception(), exception);
    }
  }
  const auto awaits = [](Task<int> failed) -> Coroutine<bool> {
    const std::exception_ptr expected = failed.exception();
    try {
      co_await failed;
    } catch (...) {
      co_return std::current_exception() == expected;
    }
    co_return false;
  };
  EXPECT_TRUE(run(awaits(task)));
}

TEST_F(TaskTest, ItsOutcomeIsVisibleAfterItsLocalsAreDestroyed) {
  struct Looks {
    Task<>& task;
    bool& done;
    ~Looks() { done = task.done(); }
  };
  Task<> task;
  bool done = true;
  const auto body = [&]() -> Coroutine<> {
    const Looks looks{task, done};
    co_await sleep(0ms);
  };
  task = loop.create_task(body());
  run(task);
  EXPECT_FALSE(done);
}

// B121
TEST_F(TaskTest, AFutureOfAnotherLoopIsRefusedAtTheAwait) {
  BaseEventLoop other(std::make_unique<ThreadParker>());
  auto foreign = other.create_future();
  const auto body = [](Future<> future) -> Coroutine<std::string> {
    std::string text;
    try {
      co_await future;
    } catch (...) {
      text = describe(std::current_exception());
    }
    co_await sleep(0ms);
    co_return text;
  };
  auto task = loop.create_task(body(foreign));
  EXPECT_THAT(run(task),
              testing::MatchesRegex("RuntimeError: Task " + task_name(1) + " got .*attached to a different loop"));
  foreign.set_result();
  EXPECT_THAT(run(body(foreign)), StrEq(""));  // a done one needs no loop
}

// B122
TEST_F(TaskTest, CannotAwaitItself) {
  Task<> task;
  const auto body = [&task]() -> Coroutine<> { co_await task; };
  task = loop.create_task(body());
  EXPECT_THAT(thrown_by([&] { run(task); }), StrEq("RuntimeError: Task cannot await on itself: " + task_name(1)));
}

// B137
TEST_F(TaskTest, StoppedWhileItIsAwaitedItGoesOnLater) {
  int step = 0;
  const auto body = [&]() -> Coroutine<int> {
    step = 1;
    loop.stop();
    co_await sleep(0ms);
    step = 2;
    co_return 7;
  };
  auto task = loop.create_task(body());
  EXPECT_THAT(thrown_by([&] { run(task); }), StrEq("RuntimeError: Event loop stopped before Future completed."));
  EXPECT_EQ(step, 1);
  EXPECT_FALSE(task.done());
  EXPECT_EQ(run(task), 7);
  EXPECT_EQ(step, 2);
}

// B139
TEST_F(TaskTest, AKeyboardInterruptIsKeptAndComesOutOfTheLoop) {
  const auto body = []() -> Coroutine<> {
    co_await sleep(0ms);
    throw KeyboardInterrupt();
  };
  auto task = loop.create_task(body());
  auto other = loop.create_task(yields(5));
  EXPECT_THROW(loop.run_forever(), KeyboardInterrupt);
  ASSERT_TRUE(task.done());
  EXPECT_THAT(describe(task.exception()), StrEq("KeyboardInterrupt"));
  EXPECT_FALSE(other.done());
  run(other);
  EXPECT_THROW(run(body()), KeyboardInterrupt);
  EXPECT_EQ(run(answer()), 42);
}

// B139
TEST_F(TaskTest, AKeyboardInterruptInANestedCoroutineCanBeCaught) {
  const auto interrupts = []() -> Coroutine<> {
    co_await sleep(0ms);
    throw KeyboardInterrupt();
  };
  const auto body = [&]() -> Coroutine<std::string> {
    try {
      co_await interrupts();
    } catch (const KeyboardInterrupt&) {
      co_return "caught";
    }
    co_return "missed";
  };
  EXPECT_THAT(run(body()), StrEq("caught"));
}

// ---- ensure_future ----

TEST_F(TaskTest, EnsureFuturePassesFuturesAndSchedulesTheRest) {
  OURO_TEST_ALONE("there is a running loop between the runs, too");
  auto future = loop.create_future<int>();
  EXPECT_EQ(ensure_future(future), future);
  auto task = loop.create_task(answer());
  EXPECT_EQ(ensure_future(task), task);
  EXPECT_EQ(ensure_future(task, loop), task);
  auto made = ensure_future(answer(), loop);
  EXPECT_FALSE(made.done());
  EXPECT_EQ(run(made), 42);
  run(task);
  EXPECT_THAT(thrown_by([&] { ensure_future(answer()); }), StrEq("RuntimeError: no running event loop"));
  BaseEventLoop other(std::make_unique<ThreadParker>());
  EXPECT_THAT(thrown_by([&] { ensure_future(future, other); }),
              StrEq("ValueError: The future belongs to a different loop than the one specified as the loop argument"));
}

// ---- Names ----

TEST_F(TaskTest, NamesAreNumberedAndCanBeSet) {
  auto first = loop.create_task(nothing());
  auto second = loop.create_task(nothing());
  auto named = loop.create_task(nothing(), {.name = "my task"});
  auto fourth = loop.create_task(nothing());
  EXPECT_THAT(first.get_name(), StrEq(task_name(1)));
  EXPECT_THAT(second.get_name(), StrEq(task_name(2)));
  EXPECT_THAT(named.get_name(), StrEq("my task"));
  EXPECT_THAT(fourth.get_name(), StrEq(task_name(3)));
  second.set_name("renamed");
  AnyTask(first).set_name(std::string(300, 'n'));
  EXPECT_THAT(second.get_name(), StrEq("renamed"));
  EXPECT_THAT(first.get_name(), SizeIs(300));
  turn();
  EXPECT_THAT(second.get_name(), StrEq("renamed"));
  second.set_name("");
  EXPECT_THAT(second.get_name(), StrEq(""));
}

TEST_F(TaskTest, ItsNameIsCopied) {
  Task<> task;
  {
    std::string name = "a name that is too long for any small string";
    task = loop.create_task(nothing(), {.name = name});
    name.assign(name.size(), 'x');
  }
  EXPECT_THAT(task.get_name(), StrEq("a name that is too long for any small string"));
  turn();
}

// ---- current_task and all_tasks ----

// B131
TEST_F(TaskTest, CurrentTaskIsTheOneThatRuns) {
  OURO_TEST_ALONE("there is a running loop between the runs, too");
  EXPECT_THAT(thrown_by([] { current_task(); }), StrEq("RuntimeError: no running event loop"));
  EXPECT_THAT(thrown_by([] { all_tasks(); }), StrEq("RuntimeError: no running event loop"));
  EXPECT_FALSE(current_task(loop));
  loop.call_soon([this] {
    EXPECT_FALSE(current_task());
    log.push_back("callback");
  });
  const auto nested = []() -> Coroutine<std::string> {
    co_await sleep(0ms);
    co_return current_task().get_name();
  };
  const auto body = [&](int rounds) -> Coroutine<> {
    const std::string own = current_task().get_name();
    for (int i = 0; i < rounds; ++i) {
      co_await sleep(0ms);
      EXPECT_EQ(current_task().get_name(), own);
      EXPECT_EQ(co_await nested(), own);
      auto child = create_task(nested());
      EXPECT_EQ(current_task().get_name(), own);
      EXPECT_EQ(co_await child, child.get_name());
      EXPECT_EQ(current_task().get_name(), own);
    }
    log.push_back(own);
  };
  auto first = loop.create_task(body(3), {.name = "first"});
  auto second = loop.create_task(body(4), {.name = "second"});
  run(second);
  EXPECT_TRUE(first.done());
  EXPECT_THAT(log, ElementsAre("callback", "first", "second"));
  EXPECT_FALSE(current_task(loop));
}

// B133
TEST_F(TaskTest, AllTasksAreThoseThatAreNotDone) {
  auto future = loop.create_future();
  auto waiting = loop.create_task(waits_for(future), {.name = "waiting"});
  auto brief = loop.create_task(nothing(), {.name = "brief"});
  EXPECT_THAT(names(all_tasks(loop)), UnorderedElementsAre("waiting", "brief"));
  turn();
  EXPECT_THAT(names(all_tasks(loop)), ElementsAre("waiting"));
  const auto body = []() -> Coroutine<Log> { co_return names(all_tasks()); };
  EXPECT_THAT(run(loop.create_task(body(), {.name = "asking"})), UnorderedElementsAre("waiting", "asking"));
  BaseEventLoop other(std::make_unique<ThreadParker>());
  EXPECT_THAT(all_tasks(other), IsEmpty());
  future.set_result();
  turn();
  EXPECT_THAT(all_tasks(loop), IsEmpty());
}

// B133
TEST_F(TaskTest, AllTasksHaveTheChildrenOfGathers) {
  OURO_TEST_ALONE("all_tasks of a group has no children of pinned gathers, and no first steps");
  auto future = loop.create_future();
  const auto child = [](Future<> awaited, std::string name) -> Coroutine<> {
    AnyTask(current_task()).set_name(name);
    co_await awaited;
  };
  const auto parent = [&]() -> Coroutine<> {
    auto first = child(future, "first");
    auto second = child(future, "second");
    co_await gather(std::move(first), std::move(second));
  };
  auto task = loop.create_task(parent(), {.name = "parent"});
  turn(2);
  EXPECT_THAT(names(all_tasks(loop)), UnorderedElementsAre("parent", "first", "second"));
  future.set_result();
  run(task);
  EXPECT_THAT(all_tasks(loop), IsEmpty());
}

// B133: a handle from all_tasks is a handle like any other.
TEST_F(TaskTest, AllTasksCanBeCancelled) {
  auto future = loop.create_future();
  auto first = loop.create_task(waits_for(future));
  auto second = loop.create_task(yields(1000));
  turn();
  for (AnyTask& task : all_tasks(loop)) EXPECT_TRUE(task.cancel());
  turn(2);
  EXPECT_TRUE(first.cancelled());
  EXPECT_TRUE(second.cancelled());
}

// ---- get_stack ----

// B127
TEST_F(TaskTest, ItsStackIsThePlacesOfItsAwaitsInnermostFirst) {
  auto future = loop.create_future();
  static unsigned inner_line = 0;
  static unsigned outer_line = 0;
  const auto inner = [](Future<> awaited) -> Coroutine<> {
    inner_line = std::source_location::current().line() + 1;
    co_await awaited;
  };
  const auto outer = [&inner](Future<> awaited) -> Coroutine<> {
    outer_line = std::source_location::current().line() + 1;
    co_await inner(awaited);
    EXPECT_THAT(current_task().get_stack(), IsEmpty());
  };
  auto task = loop.create_task(outer(future));
  EXPECT_THAT(task.get_stack(), IsEmpty());
  turn();
  const auto stack = task.get_stack();
  ASSERT_THAT(stack, SizeIs(2));
  EXPECT_EQ(stack[0].line(), inner_line);
  EXPECT_EQ(stack[1].line(), outer_line);
  EXPECT_THAT(stack[0].file_name(), HasSubstr("tasks_test"));
  future.set_result();
  EXPECT_THAT(task.get_stack(), IsEmpty());
  run(task);
  EXPECT_THAT(task.get_stack(), IsEmpty());
}

}  // namespace
}  // namespace ouro
