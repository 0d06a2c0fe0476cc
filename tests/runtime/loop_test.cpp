// BaseEventLoop: its life, its callbacks, its timers. Most of it in simulated time.
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cstddef>
#include <limits>
#include <memory>
#include <source_location>
#include <stdexcept>
#include <string>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

#include <ouro/runtime/base_event_loop.hpp>
#include <ouro/runtime/exceptions.hpp>
#include <ouro/runtime/sleep.hpp>
#include <ouro/runtime/thread_parker.hpp>

#include "support/manual_clock.hpp"
#include "timer_wheel.hpp"

namespace ouro {
namespace {

using namespace std::chrono_literals;
using test::SimulatedLoop;
using test::text_of;

Coroutine<int> give(int value) { co_return value; }
Coroutine<int> give_after(Duration delay, int value) {
  co_await sleep(delay);
  co_return value;
}
Coroutine<> fail(std::string text) {
  throw std::runtime_error(text);
  co_return;
}
Coroutine<> interrupt() {
  throw KeyboardInterrupt();
  co_return;
}

class LoopLife : public testing::Test, protected SimulatedLoop {
 protected:
  auto note(int value) {
    return [this, value] { log.push_back(value); };
  }
  std::vector<int> log;
};

// ---- Running and stopping ----

TEST_F(LoopLife, RunsForeverUntilItIsStopped) {
  EXPECT_FALSE(loop().is_running());
  loop().call_later(10ms, [this] {
    log.push_back(loop().is_running() ? 1 : 0);
    loop().stop();
  });
  loop().run_forever();
  EXPECT_EQ(log, std::vector<int>{1});
  EXPECT_FALSE(loop().is_running());
  EXPECT_FALSE(loop().is_closed());
}

TEST_F(LoopLife, RunsUntilTheAwaitableIsDone) {
  EXPECT_EQ(loop().run_until_complete(give_after(5ms, 7)), 7);
  Future<int> future = loop().create_future<int>();
  loop().call_soon([future]() mutable { future.set_result(8); });
  EXPECT_EQ(loop().run_until_complete(future), 8);
  EXPECT_EQ(loop().run_until_complete(future), 8);  // it keeps its result, and is done already
  EXPECT_EQ(loop().run_until_complete([] { return give(9); }), 9);
  Task<int> task = loop().create_task(give(10));
  EXPECT_EQ(loop().run_until_complete(std::move(task)), 10);
}

TEST_F(LoopLife, SaysThatItWasStoppedBeforeTheFutureWasDone) {  // B24
  Future<int> future = loop().create_future<int>();
  loop().call_soon([this] { loop().stop(); });
  EXPECT_EQ(text_of<RuntimeError>([&] { loop().run_until_complete(future); }),
            "Event loop stopped before Future completed.");
  // Its done-callback is gone: the future ends without stopping a later run.
  loop().call_soon([future]() mutable { future.set_result(1); });
  loop().call_later(1ms, [this] {
    log.push_back(1);
    loop().stop();
  });
  loop().run_forever();
  EXPECT_EQ(log, std::vector<int>{1});
}

template <class L, class A>
concept RunsIt = requires(L& loop, A awaitable) { loop.run_until_complete(awaitable); };
static_assert(RunsIt<BaseEventLoop, Future<int>>);
static_assert(!RunsIt<BaseEventLoop, int> && !RunsIt<BaseEventLoop, const char*>);  // B25

TEST_F(LoopLife, RefusesAFutureOfAnotherLoop) {  // B25
  SimulatedLoop other;
  Future<int> future = other.loop().create_future<int>();
  EXPECT_THROW(loop().run_until_complete(future), ValueError);
  EXPECT_FALSE(loop().is_running());
}

TEST_F(LoopLife, ReportsNothingOfAnOrphanFutureWhenItIsClosed) {  // B26
  Future<int> orphan = loop().create_future<int>();
  loop().close();
  EXPECT_EQ(text_of<RuntimeError>([&] { loop().run_until_complete(give(1)); }), "Event loop is closed");
  EXPECT_THROW(loop().run_until_complete(orphan), RuntimeError);
  EXPECT_TRUE(errors().empty());
}

TEST_F(LoopLife, RunsAgainAfterAnException) {  // B27
  EXPECT_EQ(text_of<std::runtime_error>([&] { loop().run_until_complete(fail("boom")); }), "boom");
  EXPECT_EQ(loop().run_until_complete(give(3)), 3);
  EXPECT_TRUE(errors().empty());
}

TEST_F(LoopLife, LetsAKeyboardInterruptOutAndLosesNothing) {  // B29 T19
  loop().call_soon(note(1));
  loop().call_soon([]() -> void { throw KeyboardInterrupt(); });
  loop().call_soon(note(2));
  EXPECT_THROW(loop().run_forever(), KeyboardInterrupt);
  EXPECT_FALSE(loop().is_running());
  EXPECT_FALSE(loop().is_closed());
  run_turns(1);
  EXPECT_EQ(log, (std::vector<int>{1, 2}));
  EXPECT_TRUE(errors().empty());
}

TEST_F(LoopLife, LetsAKeyboardInterruptOfATaskOut) {  // B29 T19
  EXPECT_THROW(loop().run_until_complete(interrupt()), KeyboardInterrupt);
  Task<> task = loop().create_task(interrupt());
  EXPECT_THROW(loop().run_forever(), KeyboardInterrupt);
  EXPECT_TRUE(task.done());
  EXPECT_THROW(std::rethrow_exception(task.exception()), KeyboardInterrupt);
  EXPECT_EQ(loop().run_until_complete(give(4)), 4);
}

TEST_F(LoopLife, MakesOneTurnThatDoesNotSleepWhenItWasStoppedBefore) {  // B30
  loop().call_soon([this] { loop().call_soon(note(2)); });
  loop().call_soon(note(1));
  loop().call_later(1h, note(3));
  loop().stop();
  loop().run_forever();
  EXPECT_EQ(log, std::vector<int>{1});
  EXPECT_EQ(parker().polls(), 2U) << "its look, and one at the end for what was begun";
  EXPECT_TRUE(parker().deadlines().empty());
  // Once only: the next run sleeps.
  loop().call_later(2h, [this] { loop().stop(); });
  loop().run_forever();
  EXPECT_EQ(log, (std::vector<int>{1, 2, 3}));
}

TEST_F(LoopLife, EndsAfterTheTurnInWhichItWasStopped) {  // B31
  loop().call_soon([this] {
    loop().stop();
    loop().call_soon(note(3));
  });
  loop().call_soon(note(1));
  loop().call_soon(note(2));
  loop().run_forever();
  EXPECT_EQ(log, (std::vector<int>{1, 2}));
  run_turns(1);
  EXPECT_EQ(log, (std::vector<int>{1, 2, 3}));
}

TEST_F(LoopLife, EndsAfterALongTurnInWhichItWasStopped) {  // B31
  loop().call_soon([this] {
    loop().call_soon([this] {
      loop().stop();
      loop().call_soon(note(-1));
    });
    for (int i = 0; i < 500; ++i) loop().call_soon(note(i));
  });
  loop().run_forever();
  EXPECT_EQ(log.size(), 500U);
  EXPECT_EQ(log.back(), 499);
  run_turns(1);
  EXPECT_EQ(log.back(), -1);
}

TEST_F(LoopLife, IsDrivenTurnByTurnByAForeignLoop) {  // B32
  Task<int> task = loop().create_task(give_after(3ms, 5));
  int turns = 0;
  while (!task.done()) {
    run_turns(1);
    clock().advance(1ms);
    ++turns;
  }
  EXPECT_EQ(task.result(), 5);
  EXPECT_GE(turns, 4);
}

TEST_F(LoopLife, RefusesToRunInsideItselfAndInsideAnother) {
  SimulatedLoop other;
  loop().call_soon([&] {
    EXPECT_EQ(text_of<RuntimeError>([&] { loop().run_forever(); }), "This event loop is already running");
    EXPECT_EQ(text_of<RuntimeError>([&] { loop().run_until_complete(give(1)); }), "This event loop is already running");
    EXPECT_EQ(text_of<RuntimeError>([&] { other.loop().run_forever(); }),
              "Cannot run the event loop while another loop is running");
    EXPECT_THROW(other.loop().run_until_complete(give(1)), RuntimeError);
  });
  run_turns(1);
  EXPECT_TRUE(errors().empty());
  EXPECT_EQ(other.loop().run_until_complete(give(1)), 1);
}

// ---- Closing ----

TEST_F(LoopLife, IsClosedOnceAndForAll) {  // B33
  EXPECT_FALSE(loop().is_closed());
  loop().close();
  EXPECT_TRUE(loop().is_closed());
  loop().close();
  EXPECT_TRUE(loop().is_closed());
}

TEST_F(LoopLife, RefusesToBeClosedWhileItRuns) {  // B34
  loop().call_soon(
      [this] { EXPECT_EQ(text_of<RuntimeError>([this] { loop().close(); }), "Cannot close a running event loop"); });
  run_turns(1);
  EXPECT_FALSE(loop().is_closed());
  EXPECT_TRUE(errors().empty());
}

TEST_F(LoopLife, RefusesEverythingOnceItIsClosed) {  // B35
  loop().close();
  const auto refused = [](auto body) { return text_of<RuntimeError>(body) == "Event loop is closed"; };
  EXPECT_TRUE(refused([this] { loop().run_forever(); }));
  EXPECT_TRUE(refused([this] { loop().run_until_complete(give(1)); }));
  EXPECT_TRUE(refused([this] { loop().run_until_complete(loop().create_future<>()); }));
  EXPECT_TRUE(refused([this] { loop().call_soon([] {}); }));
  EXPECT_TRUE(refused([this] { loop().call_soon_threadsafe([] {}); }));
  EXPECT_TRUE(refused([this] { loop().call_later(1s, [] {}); }));
  EXPECT_TRUE(refused([this] { loop().call_at(clock().now(), [] {}); }));
  EXPECT_TRUE(refused([this] { loop().create_task(give(1)); }));
  EXPECT_TRUE(refused([this] { loop().run_in_executor(nullptr, [] {}); }));
  std::thread([&] { EXPECT_TRUE(refused([this] { loop().call_soon_threadsafe([] {}); })); }).join();
  EXPECT_TRUE(errors().empty());
}

TEST_F(LoopLife, DropsItsCallbacksWhenItIsClosed) {
  const auto held = std::make_shared<int>(0);
  const auto hold = [held, this] { log.push_back(1); };
  Handle kept = loop().call_soon(hold);
  loop().call_soon_threadsafe(hold);
  loop().call_later(1s, hold);
  loop().call_later(-1s, hold);
  ASSERT_EQ(held.use_count(), 6);
  loop().close();
  EXPECT_EQ(held.use_count(), 2);
  EXPECT_TRUE(kept.cancelled());
  kept.cancel();
  EXPECT_TRUE(log.empty());
}

TEST_F(LoopLife, DestroysItsTasksWhenItIsClosedAndReportsThemOnce) {
  std::vector<Task<int>> tasks;
  for (int i = 0; i < 100; ++i) tasks.push_back(loop().create_task(give_after(1s, i)));
  run_turns(1);
  loop().close();
  ASSERT_EQ(errors().size(), 1U);
  EXPECT_EQ(errors()[0].message, "100 tasks were destroyed but they are pending! The first:");
  for (const Task<int>& task : tasks) EXPECT_TRUE(task.cancelled());
}

TEST_F(LoopLife, CountsWhatItDoes) {
  loop().call_later(1ms, [this] { loop().stop(); });
  loop().call_soon_threadsafe([] {});
  loop().run_forever();
  EXPECT_EQ(loop().counters().parks, 1U);
  EXPECT_EQ(loop().counters().posts, 1U);
  EXPECT_GE(loop().counters().looks, 2U);
}

// ---- call_soon ----

TEST_F(LoopLife, CallsSoonInOrderAndNeverInline) {  // B39
  for (int i = 0; i < 5; ++i) loop().call_soon(note(i));
  EXPECT_TRUE(log.empty());
  run_turns(1);
  EXPECT_EQ(log, (std::vector<int>{0, 1, 2, 3, 4}));
}

TEST_F(LoopLife, CallsInTheNextTurnWhatACallbackScheduled) {  // B40
  loop().call_soon([this] { loop().call_soon(note(1)); });
  run_turns(1);
  EXPECT_TRUE(log.empty());
  run_turns(1);
  EXPECT_EQ(log, std::vector<int>{1});
}

TEST_F(LoopLife, SkipsACancelledCallback) {  // B41
  Handle first = loop().call_soon(note(1));
  Handle second;
  loop().call_soon([&] { second.cancel(); });
  second = loop().call_soon(note(2));
  loop().call_soon(note(3));
  first.cancel();
  EXPECT_TRUE(first.cancelled());
  run_turns(1);
  EXPECT_EQ(log, std::vector<int>{3});
  EXPECT_TRUE(second.cancelled());
}

TEST_F(LoopLife, TakesACancelAfterTheCallAsNothing) {  // B56
  Handle handle = loop().call_soon(note(1));
  run_turns(1);
  handle.cancel();
  EXPECT_FALSE(handle.cancelled());
  EXPECT_EQ(log, std::vector<int>{1});
  Handle empty;
  empty.cancel();
  EXPECT_FALSE(empty.cancelled());
}

TEST_F(LoopLife, LetsGoOfWhatACancelledCallbackHeld) {  // B56
  const auto held = std::make_shared<int>(0);
  std::vector<Handle> handles;
  handles.push_back(loop().call_soon([held] {}));
  handles.push_back(loop().call_soon_threadsafe([held] {}));
  handles.push_back(loop().call_later(1s, [held] {}));
  ASSERT_EQ(held.use_count(), 4);
  for (Handle& handle : handles) handle.cancel();
  EXPECT_EQ(held.use_count(), 1);
  for (Handle& handle : handles) handle.cancel();
  for (const Handle& handle : handles) EXPECT_TRUE(handle.cancelled());
  run_turns(2);
}

TEST_F(LoopLife, LetsGoOfWhatACallbackHeldOnceItHasRun) {
  const auto held = std::make_shared<int>(0);
  const Handle handle = loop().call_soon([held] {});
  run_turns(1);
  EXPECT_EQ(held.use_count(), 1);
}

template <class L, class F>
concept Schedules = requires(L& loop, F f) { loop.call_soon(f); };
static_assert(Schedules<BaseEventLoop, void (*)()> && !Schedules<BaseEventLoop, int>);  // B42
static_assert(!Schedules<BaseEventLoop, Coroutine<>> && !Schedules<BaseEventLoop, void (*)(int)>);
template <class L, class T>
concept SchedulesAt = requires(L& loop, T when, void (*f)()) { loop.call_at(when, f); };
static_assert(SchedulesAt<BaseEventLoop, TimePoint> && !SchedulesAt<BaseEventLoop, std::nullptr_t>);  // B50

TEST_F(LoopLife, KnowsWhereACallbackWasScheduled) {  // B58
  const auto thrower = []() -> void { throw std::runtime_error("boom"); };
  const auto line = std::source_location::current().line() + 1;
  Handle soon = loop().call_soon(thrower);
  loop().call_later(1ms, thrower);
  loop().call_soon_threadsafe(thrower);
  loop().call_later(2ms, [this] { loop().stop(); });
  loop().run_forever();
  ASSERT_EQ(errors().size(), 3U);
  EXPECT_EQ(errors()[0].created.line(), line);
  EXPECT_EQ(errors()[1].created.line(), line + 2);
  EXPECT_EQ(errors()[2].created.line(), line + 1);
}

TEST_F(LoopLife, ComparesHandlesByWhatTheyReferTo) {  // B59
  const TimerHandle one = loop().call_at(clock().now() + 1s, [] {});
  const TimerHandle two = loop().call_at(clock().now() + 1s, [] {});
  const TimerHandle copy = one;
  EXPECT_TRUE(one == copy);
  EXPECT_FALSE(one == two);
  EXPECT_EQ(one.when(), two.when());
}

static_assert(std::is_abstract_v<Parker> && std::is_abstract_v<Clock>);  // B61

// ---- From other threads ----

TEST_F(LoopLife, KeepsTheOrderOfBothKindsOnItsOwnThread) {  // B44
  loop().call_soon_threadsafe(note(1));
  loop().call_soon(note(2));
  loop().call_soon_threadsafe(note(3));
  run_turns(1);
  EXPECT_EQ(log, (std::vector<int>{1, 2, 3}));
  loop().call_soon([this] {
    loop().call_soon(note(4));
    loop().call_soon_threadsafe(note(5));
    loop().call_soon(note(6));
  });
  run_turns(2);
  EXPECT_EQ(log, (std::vector<int>{1, 2, 3, 4, 5, 6}));
}

class ThreadedLoop : public testing::TestWithParam<std::chrono::nanoseconds> {
 protected:
  ThreadedLoop() : loop(std::make_unique<ThreadParker>()) { loop.set_spin(GetParam()); }

  // Until the loop has declared that it sleeps.
  void wait_until_asleep() {
    while (loop.state().inbox.load() != detail::asleep()) std::this_thread::yield();
  }
  BaseEventLoop loop;
};

TEST_P(ThreadedLoop, IsWokenByAPost) {  // B44
  int calls = 0;
  std::thread poster([&] {
    for (int i = 0; i < 100; ++i) {
      wait_until_asleep();
      loop.call_soon_threadsafe([&] {
        if (++calls == 100) loop.stop();
      });
    }
  });
  loop.run_forever();
  poster.join();
  EXPECT_EQ(calls, 100);
}

TEST_P(ThreadedLoop, LosesNoPostAndKeepsTheirOrder) {  // B45
  std::vector<int> log;
  std::thread poster([&] {
    for (int i = 0; i < 4096; ++i) loop.call_soon_threadsafe([&log, i] { log.push_back(i); });
    loop.call_soon_threadsafe([this] { loop.stop(); });
  });
  loop.run_forever();
  poster.join();
  ASSERT_EQ(log.size(), 4096U);
  for (int i = 0; i < 4096; ++i) EXPECT_EQ(log[static_cast<std::size_t>(i)], i);
}

TEST_P(ThreadedLoop, LetsAnotherThreadCallAPostOff) {
  std::atomic<int> ran{0};
  std::atomic<int> cancelled{0};
  std::thread poster([&] {
    for (int i = 0; i < 1000; ++i) {
      Handle handle = loop.call_soon_threadsafe([&] { ran.fetch_add(1); });
      handle.cancel();
      if (handle.cancelled()) cancelled.fetch_add(1);
    }
    loop.call_soon_threadsafe([this] { loop.stop(); });
  });
  loop.run_forever();
  poster.join();
  EXPECT_EQ(ran.load() + cancelled.load(), 1000);
}

TEST_P(ThreadedLoop, IsClosedWhileOthersPost) {
  std::atomic<int> accepted{0};
  const auto held = std::make_shared<int>(0);
  std::thread poster([&] {
    for (;;) {
      try {
        loop.call_soon_threadsafe([held] {});
        accepted.fetch_add(1);
      } catch (const RuntimeError&) {
        return;
      }
    }
  });
  while (accepted.load() < 1000) {
    loop.stop();
    loop.run_forever();
  }
  loop.close();
  poster.join();
  EXPECT_EQ(held.use_count(), 1);
}

INSTANTIATE_TEST_SUITE_P(Spin, ThreadedLoop, testing::Values(0ns, 50us));

// ---- Timers ----

TEST_F(LoopLife, CallsInOrderOfTimeTiesInOrderOfTheCalls) {
  for (const int ms : {30, 10, 20, 10, 30, 20}) loop().call_later(std::chrono::milliseconds(ms), note(ms));
  loop().call_later(20ms, note(21));
  loop().call_later(20ms, note(22));
  loop().call_later(40ms, [this] { loop().stop(); });
  loop().run_forever();
  EXPECT_EQ(log, (std::vector<int>{10, 10, 20, 20, 21, 22, 30, 30}));
}

TEST_F(LoopLife, CallsWithANegativeDelaySoonInOrderOfTime) {  // B47
  loop().call_later(-1s, note(-1));
  loop().call_later(-2s, note(-2));
  loop().call_later(0s, note(0));
  loop().call_later(std::chrono::duration<double>(-1e300), note(-3));
  EXPECT_TRUE(log.empty());
  run_turns(1);
  EXPECT_EQ(log, (std::vector<int>{-3, -2, -1, 0}));
}

TEST_F(LoopLife, NeverCallsEarlierThanAskedAndSleepsOnceForEach) {  // B48 T23
  const TimePoint start = clock().now();
  for (const Duration delay : {Duration(1), Duration(999), Duration(1'000'001), Duration(131'071), Duration(131'073)}) {
    loop().call_later(delay, [this, when = start + delay] { EXPECT_EQ(clock().now(), when); });
  }
  loop().call_later(1s, [this] { loop().stop(); });
  loop().run_forever();
  EXPECT_EQ(parker().deadlines().size(), 6U);
}

TEST_F(LoopLife, NeverCallsACancelledTimerAndKeepsItsTime) {  // B49
  const TimePoint when = clock().now() + 1s;
  TimerHandle cancelled = loop().call_later(1s, note(1));
  TimerHandle fired = loop().call_at(when, [this] { loop().stop(); });
  cancelled.cancel();
  EXPECT_TRUE(cancelled.cancelled());
  EXPECT_EQ(cancelled.when(), when);
  loop().run_forever();
  EXPECT_TRUE(log.empty());
  EXPECT_EQ(fired.when(), when);
  fired.cancel();
  EXPECT_FALSE(fired.cancelled());
  EXPECT_EQ(TimerHandle().when(), TimePoint{});
}

TEST_F(LoopLife, CancelsATimerThatIsDueAlready) {  // B49
  TimerHandle second;
  loop().call_later(1ms, [&] { second.cancel(); });
  second = loop().call_later(1ms, note(1));
  loop().call_later(1ms, [this] { loop().stop(); });
  loop().run_forever();
  EXPECT_TRUE(log.empty());
}

TEST_F(LoopLife, CallsAtATimeOfItsClock) {  // B50
  EXPECT_EQ(loop().time(), clock().now());
  const TimePoint when = loop().time() + 100ms;
  loop().call_at(when, [&] {
    EXPECT_EQ(loop().time(), when);
    loop().stop();
  });
  loop().run_forever();
  EXPECT_EQ(parker().deadlines(), std::vector<TimePoint>{when});
}

TEST_F(LoopLife, NeverCallsWhatIsBeyondTheEndOfTime) {  // B51
  loop().call_later(std::chrono::duration<double>(std::numeric_limits<double>::infinity()), note(1));
  loop().call_later(std::chrono::seconds(std::int64_t{1} << 55), note(2));
  loop().call_later(std::chrono::hours(std::numeric_limits<std::int32_t>::max()), note(3));
  loop().call_later(Duration::max(), note(4));
  loop().call_at(TimePoint::max(), note(5));
  loop().call_later(1ms, note(6));
  loop().call_later(24h * 365, [this] { loop().stop(); });
  loop().run_forever();
  EXPECT_EQ(log, std::vector<int>{6});
  EXPECT_THROW(loop().call_later(std::chrono::duration<float>(std::numeric_limits<float>::quiet_NaN()), [] {}),
               ValueError);
}

TEST_F(LoopLife, TellsTheTimeAfreshInEveryCallback) {  // B52
  const TimePoint start = loop().time();
  loop().call_soon([&] {
    clock().advance(50ms);  // a callback that blocks
    EXPECT_EQ(loop().time(), start + 50ms);
    loop().call_later(10ms, [this] { loop().stop(); });
  });
  loop().run_forever();
  EXPECT_EQ(loop().time(), start + 60ms);
}

TEST_F(LoopLife, SleepsUntilTheFirstTimerThatIsNotCancelled) {  // B53
  const TimePoint start = clock().now();
  TimerHandle first = loop().call_later(1s, note(1));
  loop().call_later(48h, [this] { loop().stop(); });
  first.cancel();
  loop().call_soon([this] { loop().call_soon([this] { loop().call_soon(note(2)); }); });  // no sleep before these
  loop().run_forever();
  EXPECT_EQ(parker().deadlines(), std::vector<TimePoint>{start + 48h});
  EXPECT_EQ(log, std::vector<int>{2});
}

TEST_F(LoopLife, SleepsWithoutADeadlineWhenThereIsNoTimer) {  // B53
  parker().complete_at(clock().now() + 1h, [this] { loop().call_soon([this] { loop().stop(); }); });
  loop().run_forever();
  EXPECT_EQ(parker().deadlines(), std::vector<TimePoint>{TimePoint::max()});
}

TEST_F(LoopLife, KeepsNoCancelledTimer) {  // B54
  std::vector<TimerHandle> handles;
  for (int i = 0; i < 1000; ++i) handles.push_back(loop().call_later(std::chrono::seconds(i % 7), note(i)));
  for (int i = 0; i < 1000; ++i) {
    if (i != 500) handles[static_cast<std::size_t>(i)].cancel();
  }
  EXPECT_EQ(loop().state().timers->size(), 1U);
  loop().call_later(10s, [this] { loop().stop(); });
  loop().run_forever();
  EXPECT_EQ(log, std::vector<int>{500});
}

}  // namespace
}  // namespace ouro
