// Debug mode: slow callbacks, the wrong thread, coroutines that were never awaited, and how it is switched on.
#include <gtest/gtest.h>

#include <chrono>
#include <cstdlib>
#include <functional>
#include <memory>
#include <source_location>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <ouro/runtime/base_event_loop.hpp>
#include <ouro/runtime/exceptions.hpp>
#include <ouro/runtime/gather.hpp>
#include <ouro/runtime/sleep.hpp>
#include <ouro/runtime/thread_parker.hpp>

#include "support/manual_clock.hpp"

namespace ouro {
namespace {

using namespace std::chrono_literals;
using test::ManualClock;
using test::SimulatedLoop;
using test::text_of;

bool contains(const std::string& text, const std::string& part) { return text.find(part) != text.npos; }

Coroutine<int> give(int value) { co_return value; }
Coroutine<> dawdle(ManualClock& clock, Duration first, Duration second) {
  clock.advance(first);
  co_await sleep(0s);
  clock.advance(second);
}

class DebugMode : public testing::Test, protected SimulatedLoop {
 protected:
  DebugMode() { loop().set_debug(true); }

  // Runs `body` on another thread while the loop runs.
  void on_another_thread(std::function<void()> body) {
    loop().call_soon([&] { std::thread(body).join(); });
    run_turns(1);
  }
};

// ---- Slow callbacks ----

TEST_F(DebugMode, ReportsASlowCallback) {
  EXPECT_EQ(loop().slow_callback_duration, 100ms);
  const auto line = std::source_location::current().line() + 1;
  loop().call_soon([this] { clock().advance(150ms + 2us); });
  loop().call_soon([this] { clock().advance(100ms); });
  loop().call_soon([this] { clock().advance(100ms - 1ns); });
  run_turns(1);
  ASSERT_EQ(errors().size(), 2U);
  EXPECT_EQ(errors()[0].message, "Executing callback took 150.002 ms");
  EXPECT_EQ(errors()[0].created.line(), line);
  EXPECT_EQ(errors()[0].exception, nullptr);
  EXPECT_EQ(errors()[1].message, "Executing callback took 100.000 ms");
}

TEST_F(DebugMode, ReportsASlowStepOfATask) {
  loop().create_task(dawdle(clock(), 50ms, 250ms), {.name = "dawdler"});
  const auto line = std::source_location::current().line() - 1;
  run_turns(3);
  ASSERT_EQ(errors().size(), 1U);  // not the sum of its steps
  EXPECT_EQ(errors()[0].message, "Executing task took 250.000 ms");
  EXPECT_EQ(errors()[0].task, "dawdler");
  EXPECT_EQ(errors()[0].created.line(), line);
}

TEST_F(DebugMode, ReportsSlowTimersAndPosts) {
  loop().call_later(0s, [this] { clock().advance(1s); });
  loop().call_soon_threadsafe([this] { clock().advance(2s); });
  run_turns(1);
  ASSERT_EQ(errors().size(), 2U);
  EXPECT_EQ(errors()[0].message, "Executing callback took 1000.000 ms");
  EXPECT_EQ(errors()[1].message, "Executing callback took 2000.000 ms");
}

TEST_F(DebugMode, TakesTheThresholdFromTheProgram) {
  loop().slow_callback_duration = 10ms;
  loop().call_soon([this] { clock().advance(10ms); });
  loop().call_soon([this] { clock().advance(9ms); });
  run_turns(1);
  EXPECT_EQ(errors().size(), 1U);
}

TEST_F(DebugMode, ReportsNothingSlowOnceItIsOff) {
  loop().set_debug(false);
  EXPECT_FALSE(loop().get_debug());
  loop().call_soon([this] { clock().advance(10s); });
  run_turns(1);
  EXPECT_TRUE(errors().empty());
}

TEST_F(DebugMode, IsSwitchedWhileTheLoopRuns) {  // B68
  loop().set_debug(false);
  loop().call_soon([this] { loop().set_debug(true); });
  loop().call_soon([this] {
    clock().advance(1s);
    loop().set_debug(false);
  });
  loop().call_soon([this] { clock().advance(1s); });
  run_turns(1);
  EXPECT_EQ(errors().size(), 1U);
}

TEST_F(DebugMode, RunsEverythingThatAQuietLoopRuns) {
  std::vector<Coroutine<int>> children;
  for (int i = 0; i < 200; ++i) children.push_back(give(i));
  const std::vector<int> results = loop().run_until_complete(gather(std::move(children)));
  EXPECT_EQ(results.size(), 200U);
  EXPECT_EQ(results[199], 199);
  loop().run_until_complete(sleep(1h));
  EXPECT_TRUE(errors().empty());
}

// ---- The wrong thread ----

TEST_F(DebugMode, RefusesCallsOfAnotherThread) {  // B43
  Future<int> future = loop().create_future<int>();
  const auto refused = [](auto body) {
    return contains(text_of<RuntimeError>(body),
                    "Non-thread-safe operation invoked on an event loop other than the current one");
  };
  on_another_thread([&] {
    EXPECT_TRUE(refused([&] { loop().call_soon([] {}); }));
    EXPECT_TRUE(refused([&] { loop().call_at(clock().now(), [] {}); }));
    EXPECT_TRUE(refused([&] { loop().call_later(1s, [] {}); }));
    EXPECT_TRUE(refused([&] { loop().create_task(give(1)); }));
    EXPECT_TRUE(refused([&] { future.set_result(1); }));
    EXPECT_TRUE(refused([&] { future.cancel(); }));
    loop().call_soon_threadsafe([] {});
  });
  EXPECT_FALSE(future.done());
  EXPECT_TRUE(errors().empty());
}

TEST_F(DebugMode, TellsTheRemedyForTheWrongThread) {
  on_another_thread([&] {
    try {
      loop().call_soon([] {});
      ADD_FAILURE();
    } catch (const RuntimeError& error) {
      EXPECT_TRUE(contains(error.hint(), "call_soon_threadsafe"));
    }
  });
}

TEST_F(DebugMode, RefusesCallsFromAnotherLoop) {  // B43
  SimulatedLoop other;
  loop().call_soon([&] {
    std::thread([&] {
      other.loop().call_soon([&] { EXPECT_THROW(loop().call_soon([] {}), RuntimeError); });
      other.run_turns(1);
    }).join();
  });
  run_turns(1);
  EXPECT_TRUE(other.errors().empty());
}

TEST_F(DebugMode, AllowsAnotherThreadToPrepareALoopThatDoesNotRun) {
  int calls = 0;
  std::thread([&] { loop().call_soon([&] { ++calls; }); }).join();
  run_turns(1);
  EXPECT_EQ(calls, 1);
}

// ---- Never awaited ----

TEST_F(DebugMode, NamesACoroutineThatWasNeverAwaited) {
  loop().call_soon([] { static_cast<void>(give(1)); });
  testing::internal::CaptureStderr();
  run_turns(1);
  const std::string text = testing::internal::GetCapturedStderr();
  EXPECT_TRUE(contains(text, "was never awaited")) << text;
  EXPECT_TRUE(contains(text, "debug_test.cpp:")) << text;
  EXPECT_TRUE(contains(text, "give")) << text;
}

TEST_F(DebugMode, NamesThoseOfAGatherThatWasNeverAwaited) {
  loop().call_soon([] {
    std::vector<Coroutine<int>> children;
    children.push_back(give(1));
    children.push_back(give(2));
    auto forgotten = gather(std::move(children));
    static_cast<void>(forgotten);
  });
  testing::internal::CaptureStderr();
  run_turns(1);
  const std::string text = testing::internal::GetCapturedStderr();
  const auto first = text.find("was never awaited");
  ASSERT_NE(first, text.npos) << text;
  EXPECT_NE(text.find("was never awaited", first + 1), text.npos) << text;
}

TEST_F(DebugMode, SaysNothingOfCoroutinesThatRan) {
  testing::internal::CaptureStderr();
  loop().run_until_complete([] { return give(1); });
  loop().create_task(give(2));
  run_turns(1);
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "");
}

TEST_F(DebugMode, SaysNothingOfForgottenCoroutinesOnceItIsOff) {
  loop().set_debug(false);
  testing::internal::CaptureStderr();
  loop().call_soon([] { static_cast<void>(give(1)); });
  run_turns(1);
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "");
}

// ---- The environment ----

TEST(DebugEnvironment, SwitchesItOn) {  // B68
  const auto debug_with = [](const char* value) {
    if (value) {
      ::setenv("OURO_DEBUG", value, 1);
    } else {
      ::unsetenv("OURO_DEBUG");
    }
    const BaseEventLoop loop(std::make_unique<ThreadParker>());
    ::unsetenv("OURO_DEBUG");
    return loop.get_debug();
  };
  EXPECT_FALSE(debug_with(nullptr));
  EXPECT_FALSE(debug_with(""));
  EXPECT_FALSE(debug_with("0"));
  EXPECT_TRUE(debug_with("1"));
  EXPECT_TRUE(debug_with("yes"));
}

}  // namespace
}  // namespace ouro
