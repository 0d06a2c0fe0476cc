// What nobody could catch: who is told, in which words, and what comes of a handler that fails itself.
#include <gtest/gtest.h>

#include <chrono>
#include <exception>
#include <source_location>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <ouro/runtime/base_event_loop.hpp>
#include <ouro/runtime/events.hpp>
#include <ouro/runtime/exceptions.hpp>
#include <ouro/runtime/sleep.hpp>

#include "support/manual_clock.hpp"

namespace ouro {
namespace {

using namespace std::chrono_literals;
using test::describe;
using test::SimulatedLoop;

Coroutine<> fail(std::string text) {
  throw std::runtime_error(text);
  co_return;
}
void throw_boom() { throw std::runtime_error("boom"); }

bool contains(const std::string& text, const std::string& part) { return text.find(part) != text.npos; }

class ExceptionHandler : public testing::Test, protected SimulatedLoop {
 protected:
  // What two turns write to stderr.
  std::string stderr_of_turns() {
    testing::internal::CaptureStderr();
    run_turns(2);
    return testing::internal::GetCapturedStderr();
  }
};

TEST_F(ExceptionHandler, IsToldOfACallbackThatThrows) {  // B73
  int calls = 0;
  loop().set_exception_handler([&](BaseEventLoop& which, const ExceptionContext& context) {
    ++calls;
    EXPECT_EQ(&which, &loop());
    EXPECT_EQ(context.message, "Exception in callback");
    EXPECT_EQ(describe(context.exception), "exception: boom");
    EXPECT_TRUE(context.task.empty());
    EXPECT_NE(context.created.line(), 0U);
  });
  EXPECT_TRUE(static_cast<bool>(loop().get_exception_handler()));
  bool next = false;
  loop().call_soon(&throw_boom);
  loop().call_soon([&] { next = true; });
  run_turns(1);
  EXPECT_EQ(calls, 1);
  EXPECT_TRUE(next);  // the loop goes on
}

TEST_F(ExceptionHandler, IsToldOfTimersPostsAndDoneCallbacksThatThrow) {
  loop().call_later(0s, &throw_boom);
  loop().call_soon_threadsafe(&throw_boom);
  Future<> future = loop().create_future<>();
  future.add_done_callback([](Future<>) { throw_boom(); });
  future.set_result();
  run_turns(2);
  ASSERT_EQ(errors().size(), 3U);
  for (const ExceptionContext& error : errors()) EXPECT_EQ(describe(error.exception), "exception: boom");
}

TEST_F(ExceptionHandler, IsToldOfACallbackThatThrowsACancellation) {
  loop().call_soon([]() -> void { throw CancelledError("why"); });
  run_turns(1);
  ASSERT_EQ(errors().size(), 1U);
  EXPECT_EQ(describe(errors()[0].exception), "CancelledError: why");
}

TEST_F(ExceptionHandler, WritesACallbacksErrorToStderrByDefault) {  // B70
  loop().set_exception_handler(nullptr);
  EXPECT_FALSE(static_cast<bool>(loop().get_exception_handler()));
  const auto line = std::source_location::current().line() + 1;
  loop().call_soon(&throw_boom);
  const std::string text = stderr_of_turns();
  EXPECT_TRUE(contains(text, "ouro: Exception in callback\n")) << text;
  EXPECT_TRUE(contains(text, "runtime_error")) << text;
  EXPECT_TRUE(contains(text, "boom")) << text;
  EXPECT_TRUE(contains(text, "created at ")) << text;  // B78
  EXPECT_TRUE(contains(text, "exception_handler_test.cpp:" + std::to_string(line))) << text;
}

TEST_F(ExceptionHandler, WritesATasksNameAndOriginToStderrByDefault) {  // B70 B78
  loop().set_exception_handler(nullptr);
  const auto line = std::source_location::current().line() + 1;
  loop().create_task(fail("lost"), {.name = "the task"});
  const std::string text = stderr_of_turns();
  EXPECT_TRUE(contains(text, "Task exception was never retrieved")) << text;
  EXPECT_TRUE(contains(text, "the task")) << text;
  EXPECT_TRUE(contains(text, "lost")) << text;
  EXPECT_TRUE(contains(text, "exception_handler_test.cpp:" + std::to_string(line))) << text;
}

TEST_F(ExceptionHandler, WritesWhateverItIsGiven) {
  testing::internal::CaptureStderr();
  ExceptionContext context;
  loop().default_exception_handler(context);
  context.message = "a message";
  context.exception = std::make_exception_ptr(CancelledError("a cancellation"));
  loop().default_exception_handler(context);
  context.exception = std::make_exception_ptr(ValueError("a value"));
  loop().default_exception_handler(context);
  context.exception = std::make_exception_ptr(17);
  loop().default_exception_handler(context);
  const std::string text = testing::internal::GetCapturedStderr();
  EXPECT_TRUE(contains(text, "Unhandled exception in event loop")) << text;
  EXPECT_TRUE(contains(text, "a message")) << text;
  EXPECT_TRUE(contains(text, "a cancellation")) << text;
  EXPECT_TRUE(contains(text, "  ouro::ValueError: a value\n")) << text;
  EXPECT_TRUE(contains(text, "no std::exception")) << text;
}

TEST_F(ExceptionHandler, IsToldOfATaskWhoseErrorNobodyFetched) {  // B71
  {
    const Task<> task = loop().create_task(fail("lost"));
    run_turns(1);
    EXPECT_TRUE(task.done());
    EXPECT_TRUE(errors().empty());  // somebody may still ask
  }
  ASSERT_EQ(errors().size(), 1U);
  EXPECT_EQ(errors()[0].message, "Task exception was never retrieved");
  EXPECT_EQ(describe(errors()[0].exception), "exception: lost");
  EXPECT_TRUE(errors()[0].task.starts_with("Task-"));
  EXPECT_NE(errors()[0].created.line(), 0U);
}

TEST_F(ExceptionHandler, IsToldOfAFutureWhoseErrorNobodyFetched) {  // B71
  loop().create_future<int>().set_exception(std::runtime_error("lost"));
  ASSERT_EQ(errors().size(), 1U);
  EXPECT_EQ(errors()[0].message, "Future exception was never retrieved");
  EXPECT_TRUE(errors()[0].task.empty());
}

TEST_F(ExceptionHandler, IsNotToldOfAnErrorThatWasFetched) {  // B71
  const Task<> asked = loop().create_task(fail("seen"));
  Task<> awaited = loop().create_task(fail("seen"));
  run_turns(1);
  EXPECT_NE(asked.exception(), nullptr);
  EXPECT_THROW(loop().run_until_complete(std::move(awaited)), std::runtime_error);
  EXPECT_TRUE(errors().empty());
}

TEST_F(ExceptionHandler, MayHandOnToTheDefaultOne) {  // B73
  loop().set_exception_handler(
      [](BaseEventLoop& which, const ExceptionContext& context) { which.default_exception_handler(context); });
  loop().call_soon(&throw_boom);
  const std::string text = stderr_of_turns();
  EXPECT_TRUE(contains(text, "Exception in callback")) << text;
}

TEST_F(ExceptionHandler, MayReplaceItself) {
  int first = 0;
  int second = 0;
  loop().set_exception_handler([&](BaseEventLoop& which, const ExceptionContext&) {
    which.set_exception_handler([&](BaseEventLoop&, const ExceptionContext&) { ++second; });
    ++first;  // its captures still live
  });
  loop().call_soon(&throw_boom);
  loop().call_soon(&throw_boom);
  run_turns(1);
  EXPECT_EQ(first, 1);
  EXPECT_EQ(second, 1);
}

TEST_F(ExceptionHandler, IsReportedItselfWhenItThrows) {  // B74
  loop().set_exception_handler(
      [](BaseEventLoop&, const ExceptionContext&) { throw std::runtime_error("broken handler"); });
  bool next = false;
  loop().call_soon(&throw_boom);
  loop().call_soon([&] { next = true; });
  const std::string text = stderr_of_turns();
  EXPECT_TRUE(contains(text, "Unhandled error in exception handler")) << text;
  EXPECT_TRUE(contains(text, "broken handler")) << text;
  EXPECT_TRUE(contains(text, "Exception in callback")) << text;  // the first error is not lost
  EXPECT_TRUE(contains(text, "boom")) << text;
  EXPECT_TRUE(next);
}

TEST_F(ExceptionHandler, IsReportedOnceWhenItThrowsAfterTheDefaultOne) {  // B75
  loop().set_exception_handler([](BaseEventLoop& which, const ExceptionContext& context) {
    which.default_exception_handler(context);
    throw std::runtime_error("broken handler");
  });
  loop().call_soon(&throw_boom);
  const std::string text = stderr_of_turns();
  const auto first = text.find("Unhandled error in exception handler");
  ASSERT_NE(first, text.npos) << text;
  EXPECT_EQ(text.find("Unhandled error in exception handler", first + 1), text.npos) << text;
}

TEST_F(ExceptionHandler, MayReportAnErrorOfItsOwn) {
  int depth = 0;
  loop().set_exception_handler([&](BaseEventLoop& which, const ExceptionContext& context) {
    if (++depth == 1) which.call_exception_handler(context);
  });
  loop().call_soon(&throw_boom);
  run_turns(1);
  EXPECT_EQ(depth, 2);
}

TEST_F(ExceptionHandler, LetsAKeyboardInterruptThrough) {  // B77
  loop().set_exception_handler([](BaseEventLoop&, const ExceptionContext&) { throw KeyboardInterrupt(); });
  bool later = false;
  loop().call_soon(&throw_boom);
  loop().call_soon([&] { loop().call_soon([&] { later = true; }); });
  EXPECT_THROW(loop().run_forever(), KeyboardInterrupt);
  EXPECT_FALSE(loop().is_running());
  run_turns(2);
  EXPECT_TRUE(later);
}

TEST_F(ExceptionHandler, NeverHearsOfAKeyboardInterrupt) {  // B77
  loop().call_soon([]() -> void { throw KeyboardInterrupt(); });
  EXPECT_THROW(loop().run_forever(), KeyboardInterrupt);
  loop().call_later(1ms, []() -> void { throw KeyboardInterrupt(); });
  EXPECT_THROW(loop().run_forever(), KeyboardInterrupt);
  loop().call_soon_threadsafe([]() -> void { throw KeyboardInterrupt(); });
  EXPECT_THROW(loop().run_forever(), KeyboardInterrupt);
  EXPECT_TRUE(errors().empty());
}

TEST_F(ExceptionHandler, IsToldOfTasksThatAClosedLoopDestroys) {
  loop().create_task(sleep(1h), {.name = "sleeper"});
  run_turns(1);
  loop().close();
  ASSERT_EQ(errors().size(), 1U);
  EXPECT_EQ(errors()[0].message, "Task was destroyed but it is pending!");
  EXPECT_EQ(errors()[0].task, "sleeper");
}

}  // namespace
}  // namespace ouro
