// Errors that nobody looked at: reported once, when the last handle goes, with the name and the place; and not at all
// when somebody did.
#include <gmock/gmock.h>

#include <source_location>
#include <stdexcept>
#include <string>

#include <ouro/runtime/futures.hpp>
#include <ouro/runtime/sleep.hpp>
#include <ouro/runtime/tasks.hpp>

#include "support/loop_fixture.hpp"

namespace ouro {
namespace {

using namespace std::chrono_literals;
using test::describe;
using test::task_name;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::SizeIs;
using testing::StrEq;

class NeverRetrievedTest : public test::LoopTest {};

Coroutine<int> fails() {
  co_await sleep(0ms);
  throw std::runtime_error("boom");
}
Coroutine<> fails_at_once() {
  throw std::runtime_error("at once");
  co_return;
}
Coroutine<> waits_for(Future<> future) { co_await future; }

// B106
TEST_F(NeverRetrievedTest, AFailedFutureReportsItselfWhenItDies) {
  auto future = loop.create_future();
  const unsigned line = std::source_location::current().line() - 1;
  future.set_exception(std::runtime_error("boom"));
  auto copy = future;
  future = {};
  turn();
  EXPECT_THAT(reports, IsEmpty());
  copy = {};
  const auto taken = take_reports();
  ASSERT_THAT(taken, SizeIs(1));
  EXPECT_THAT(taken[0].message, StrEq("Future exception was never retrieved"));
  EXPECT_THAT(describe(taken[0].exception), StrEq("exception: boom"));
  EXPECT_THAT(taken[0].task, StrEq(""));
  EXPECT_EQ(taken[0].created.line(), line);
  EXPECT_THAT(taken[0].created.file_name(), HasSubstr("never_retrieved_test"));
}

// B71 B130 T17
TEST_F(NeverRetrievedTest, AFailedTaskReportsItselfWithItsNameAndWhereItWasMade) {
  auto task = loop.create_task(fails(), {.name = "the failing one"});
  const unsigned line = std::source_location::current().line() - 1;
  turn(3);
  EXPECT_TRUE(task.done());
  EXPECT_THAT(reports, IsEmpty());
  task = {};
  const auto taken = take_reports();
  ASSERT_THAT(taken, SizeIs(1));
  EXPECT_THAT(taken[0].message, StrEq("Task exception was never retrieved"));
  EXPECT_THAT(describe(taken[0].exception), StrEq("exception: boom"));
  EXPECT_THAT(taken[0].task, StrEq("the failing one"));
  EXPECT_EQ(taken[0].created.line(), line);
  EXPECT_THAT(taken[0].created.file_name(), HasSubstr("never_retrieved_test"));
}

// B71 T16 T17
TEST_F(NeverRetrievedTest, AFailedTaskThatNobodyHoldsReportsItselfAtItsEnd) {
  loop.create_task(fails());
  loop.create_task(fails_at_once());
  turn();
  auto taken = take_reports();
  ASSERT_THAT(taken, SizeIs(1));
  EXPECT_THAT(taken[0].task, StrEq(task_name(2)));
  EXPECT_THAT(describe(taken[0].exception), StrEq("exception: at once"));
  turn(2);
  taken = take_reports();
  ASSERT_THAT(taken, SizeIs(1));
  EXPECT_THAT(taken[0].task, StrEq(task_name(1)));
}

TEST_F(NeverRetrievedTest, AnEagerTaskThatFailsAtOnceReportsItselfWhenItsHandleGoes) {
  const auto body = [this]() -> Coroutine<> {
    const TaskOptions options{.name = "eager", .eager_start = true};
    auto task = create_task(fails_at_once(), options);
    EXPECT_TRUE(task.done());
    EXPECT_THAT(reports, IsEmpty());
    task = {};
    EXPECT_THAT(reports, SizeIs(1));
    create_task(fails_at_once(), options);
    EXPECT_THAT(reports, SizeIs(2));
    co_return;
  };
  run(body());
  for (const ExceptionContext& report : take_reports()) EXPECT_THAT(report.task, StrEq("eager"));
}

// B107 B130
TEST_F(NeverRetrievedTest, WhatWasLookedAtIsNotReported) {
  {
    auto by_result = loop.create_future();
    by_result.set_exception(std::runtime_error("boom"));
    EXPECT_THROW(by_result.result(), std::runtime_error);
    auto by_exception = loop.create_future();
    by_exception.set_exception(std::runtime_error("boom"));
    EXPECT_TRUE(by_exception.exception());
    auto by_run = loop.create_future();
    by_run.set_exception(std::runtime_error("boom"));
    EXPECT_THROW(run(by_run), std::runtime_error);
    auto task = loop.create_task(fails());
    EXPECT_THROW(run(task), std::runtime_error);
    EXPECT_THROW(run(fails()), std::runtime_error);
    AnyTask untyped = loop.create_task(fails());
    turn(2);
    EXPECT_TRUE(untyped.exception());
  }
  expect_no_reports();
}

// B107
TEST_F(NeverRetrievedTest, WhatWasAwaitedIsNotReportedByTheAwaitedOne) {
  auto future = loop.create_future();
  auto task = loop.create_task(waits_for(future));
  turn();
  future.set_exception(std::runtime_error("boom"));
  future = {};
  turn();
  EXPECT_THAT(reports, IsEmpty());
  EXPECT_THAT(describe(task.exception()), StrEq("exception: boom"));
}

// The error is the awaiting task's from then on: it reports it once, under its own name.
TEST_F(NeverRetrievedTest, WhatGoesThroughAChainOfTasksIsReportedOnceByTheLast) {
  const auto awaits = [](Task<int> inner) -> Coroutine<> { co_await inner; };
  loop.create_task(awaits(loop.create_task(fails(), {.name = "inner"})), {.name = "outer"});
  turn(5);
  const auto taken = take_reports();
  ASSERT_THAT(taken, SizeIs(1));
  EXPECT_THAT(taken[0].task, StrEq("outer"));
}

// B107: looking at it once is enough for all handles.
TEST_F(NeverRetrievedTest, OneOfManyAwaitersIsEnough) {
  {
    auto task = loop.create_task(fails());
    const auto catches = [](Task<int> failed) -> Coroutine<> {
      try {
        co_await failed;
      } catch (const std::runtime_error&) {
      }
    };
    loop.create_task(catches(task));
    loop.create_task(catches(task));
    turn(4);
    EXPECT_TRUE(task.done());
  }
  expect_no_reports();
}

// B107
TEST_F(NeverRetrievedTest, CancelledAbandonedAndSuccessfulOnesAreNotReported) {
  {
    auto cancelled = loop.create_future();
    cancelled.cancel();
    const auto abandoned = loop.create_future<int>();
    auto succeeded = loop.create_future<int>();
    succeeded.set_result(1);
    auto cancelled_task = loop.create_task(fails());
    cancelled_task.cancel();
    auto late = loop.create_task(fails());
    turn();
    late.cancel();
    turn(2);
    EXPECT_TRUE(cancelled_task.cancelled());
    EXPECT_TRUE(late.cancelled());
  }
  expect_no_reports();
}

// B130
TEST_F(NeverRetrievedTest, ATaskThatFailsWhileItIsCancelledIsReported) {
  const auto body = []() -> Coroutine<> {
    try {
      co_await sleep(1h);
    } catch (const CancelledError&) {
      throw std::runtime_error("from the cleanup");
    }
  };
  auto task = loop.create_task(body());
  turn();
  task.cancel();
  task = {};
  turn();
  const auto taken = take_reports();
  ASSERT_THAT(taken, SizeIs(1));
  EXPECT_THAT(describe(taken[0].exception), StrEq("exception: from the cleanup"));
}

TEST_F(NeverRetrievedTest, ADoneCallbackThatLooksIsEnoughAndOneThatDoesNotIsNot) {
  loop.create_task(fails()).add_done_callback([](Future<int> done) { EXPECT_TRUE(done.exception()); });
  turn(3);
  expect_no_reports();
  loop.create_task(fails()).add_done_callback([](Future<int>) {});
  turn(3);
  EXPECT_THAT(take_reports(), SizeIs(1));
}

TEST_F(NeverRetrievedTest, AFailureThatOutlivesTheLoopIsStillToldToStderr) {
  auto future = loop.create_future();
  future.set_exception(std::runtime_error("too late"));
  destroy_loop();
  testing::internal::CaptureStderr();
  future = {};
  const std::string text = testing::internal::GetCapturedStderr();
  EXPECT_THAT(text, HasSubstr("Future exception was never retrieved"));
  EXPECT_THAT(text, HasSubstr("too late"));
}

TEST_F(NeverRetrievedTest, WithoutAHandlerItIsWrittenToStderrWithThePlace) {
  loop.set_exception_handler(nullptr);
  testing::internal::CaptureStderr();
  loop.create_task(fails_at_once(), {.name = "unlucky"});
  turn();
  const std::string text = testing::internal::GetCapturedStderr();
  EXPECT_THAT(text, HasSubstr("Task exception was never retrieved"));
  EXPECT_THAT(text, HasSubstr("unlucky"));
  EXPECT_THAT(text, HasSubstr("at once"));
  EXPECT_THAT(text, HasSubstr("never_retrieved_test.cpp:"));
}

TEST_F(NeverRetrievedTest, TheHandlerMayUseTheLoop) {
  int called = 0;
  loop.set_exception_handler([&called](BaseEventLoop& on, const ExceptionContext&) {
    on.call_soon([&called] { ++called; });
    on.create_task(waits_for(on.create_future())).cancel();
  });
  loop.create_task(fails_at_once());
  turn(3);
  EXPECT_EQ(called, 1);
}

// B139 B107: what came out of the loop has been seen.
TEST_F(NeverRetrievedTest, AnInterruptThatCameOutOfTheLoopIsNotReportedForTheMainTask) {
  const auto interrupts = []() -> Coroutine<> {
    throw KeyboardInterrupt();
    co_return;
  };
  EXPECT_THROW(run(interrupts()), KeyboardInterrupt);
  expect_no_reports();
}

}  // namespace
}  // namespace ouro
