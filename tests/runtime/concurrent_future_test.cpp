// ConcurrentFuture by itself, and between loops and threads: run_coroutine_threadsafe, wrap_future.
#include <atomic>
#include <chrono>
#include <latch>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <type_traits>
#include <vector>

#include <gtest/gtest.h>

#include <ouro/runtime/base_event_loop.hpp>
#include <ouro/runtime/concurrent_future.hpp>
#include <ouro/runtime/sleep.hpp>
#include <ouro/runtime/threads.hpp>

#include "support/test_loop.hpp"

namespace {

using namespace std::chrono_literals;
using ouro::BaseEventLoop;
using ouro::CancelledError;
using ouro::ConcurrentFuture;
using ouro::Coroutine;
using ouro::InvalidStateError;
using ouro::test::TestLoop;

// A loop that runs on a thread of its own until the object goes.
class LoopThread {
 public:
  LoopThread() : thread_([this] { loop_.run_forever(); }) {}
  LoopThread(const LoopThread&) = delete;
  LoopThread& operator=(const LoopThread&) = delete;
  ~LoopThread() { join(); }

  void join() {
    if (!thread_.joinable()) return;
    loop_.call_soon_threadsafe([this] { loop_.stop(); });
    thread_.join();
  }
  // Runs `f` on the loop's thread, and returns when it has run.
  template <class F>
  void run(F f) {
    std::latch ran(1);
    loop_.call_soon_threadsafe([&] {
      f();
      ran.count_down();
    });
    ran.wait();
  }
  TestLoop& loop() { return loop_; }

 private:
  TestLoop loop_{TestLoop::RunsElsewhere()};
  std::thread thread_;
};

Coroutine<int> add(int a, int b) {
  co_await ouro::sleep(0s);
  co_return a + b;
}
Coroutine<> fail() {
  co_await ouro::sleep(0s);
  throw std::domain_error("from the loop");
}
// Tells how it ended: +1 for its start, +10 for a cancellation.
Coroutine<> sleep_long(std::atomic<int>& trace) {
  ++trace;
  try {
    co_await ouro::sleep(1h);
  } catch (const CancelledError&) {
    trace += 10;
    throw;
  }
}

TEST(ConcurrentFuture, GivesItsResultToEveryThread) {
  const auto future = ConcurrentFuture<std::string>::create();
  std::vector<std::thread> readers;
  std::atomic<int> right{0};
  for (int i = 0; i < 4; ++i) {
    readers.emplace_back([&] { right += future.result() == "value"; });
  }
  EXPECT_FALSE(future.done());
  future.set_result("value");
  for (std::thread& reader : readers) reader.join();
  EXPECT_EQ(right, 4);
  EXPECT_TRUE(future.done());
  EXPECT_FALSE(future.cancelled());
  EXPECT_EQ(future.exception(), nullptr);
  EXPECT_THROW(future.set_result("again"), InvalidStateError);
  EXPECT_THROW(future.set_exception(std::domain_error("again")), InvalidStateError);
  EXPECT_FALSE(future.cancel());
}

TEST(ConcurrentFuture, HoldsEveryKindOfResult) {
  int target = 1;
  const auto reference = ConcurrentFuture<int&>::create();
  reference.set_result(target);
  EXPECT_EQ(&reference.result(), &target);

  const auto nothing = ConcurrentFuture<>::create();
  nothing.set_result();
  nothing.result();
  static_assert(std::is_void_v<decltype(nothing.result())>);

  auto moved = ConcurrentFuture<std::unique_ptr<int>>::create();
  moved.set_result(std::make_unique<int>(7));
  EXPECT_EQ(*moved.result(), 7);
  EXPECT_EQ(*std::move(moved).result(), 7);
}

TEST(ConcurrentFuture, ThrowsItsException) {
  const auto future = ConcurrentFuture<int>::create();
  future.set_exception(std::domain_error("failed"));
  EXPECT_THROW(future.result(), std::domain_error);
  EXPECT_THROW(std::rethrow_exception(future.exception()), std::domain_error);
  EXPECT_THROW(ConcurrentFuture<int>::create().set_exception(std::exception_ptr()), ouro::ValueError);
  EXPECT_THROW(ConcurrentFuture<int>().done(), ouro::RuntimeError);
}

TEST(ConcurrentFuture, WaitsNoLongerThanItIsTold) {
  const auto future = ConcurrentFuture<int>::create();
  EXPECT_THROW(future.result(0s), ouro::TimeoutError);
  EXPECT_THROW(future.result(-1h), ouro::TimeoutError);
  EXPECT_THROW(future.exception(2ms), ouro::TimeoutError);
  EXPECT_FALSE(future.wait(1ms));
  future.set_result(1);
  EXPECT_EQ(future.result(std::chrono::hours::max()), 1);
  EXPECT_TRUE(future.wait(0s));
}

TEST(ConcurrentFuture, IsCancelledUntilItRuns) {
  const auto cancelled = ConcurrentFuture<int>::create();
  std::thread waiter([&] { EXPECT_THROW(cancelled.result(), CancelledError); });
  EXPECT_TRUE(cancelled.cancel());
  EXPECT_TRUE(cancelled.cancel());
  waiter.join();
  EXPECT_TRUE(cancelled.cancelled());
  EXPECT_FALSE(cancelled.set_running_or_notify_cancel());
  EXPECT_THROW(cancelled.set_result(1), InvalidStateError);

  const auto running = ConcurrentFuture<int>::create();
  EXPECT_TRUE(running.set_running_or_notify_cancel());
  EXPECT_TRUE(running.running());
  EXPECT_FALSE(running.cancel());
  running.set_result(1);
  EXPECT_EQ(running.result(), 1);
}

TEST(ConcurrentFuture, CallsBackOnceInOrderOnTheCompletingThread) {
  const auto future = ConcurrentFuture<int>::create();
  std::vector<int> order;
  std::thread::id where;
  future.add_done_callback([&](const ConcurrentFuture<int>& done) {
    where = std::this_thread::get_id();
    order.push_back(done.result());
  });
  future.add_done_callback([](const ConcurrentFuture<int>&) { throw std::domain_error("goes to stderr"); });
  future.add_done_callback([&](const ConcurrentFuture<int>&) { order.push_back(2); });
  testing::internal::CaptureStderr();
  std::thread completer([&] { future.set_result(1); });
  const auto completing = completer.get_id();
  completer.join();
  EXPECT_NE(testing::internal::GetCapturedStderr().find("goes to stderr"), std::string::npos);
  EXPECT_EQ(where, completing);
  future.add_done_callback([&](const ConcurrentFuture<int>&) { order.push_back(3); });
  EXPECT_EQ(order, (std::vector<int>{1, 2, 3}));
}

TEST(ConcurrentFuture, CompletesOnceWhenManyRace) {
  for (int round = 0; round < 200; ++round) {
    const auto future = ConcurrentFuture<int>::create();
    std::atomic<int> winners{0};
    std::latch start(3);
    const auto race = [&](int value) {
      start.arrive_and_wait();
      try {
        if (value < 0) {
          winners += future.cancel();
        } else {
          future.set_result(value);
          ++winners;
        }
      } catch (const InvalidStateError&) {
      }
    };
    std::thread a(race, 1);
    std::thread b(race, 2);
    race(-1);
    a.join();
    b.join();
    EXPECT_EQ(winners, 1);
  }
}

// B297
TEST(RunCoroutineThreadsafe, GivesTheResultOrTheException) {
  LoopThread there;
  EXPECT_EQ(ouro::run_coroutine_threadsafe(add(1, 2), there.loop()).result(), 3);
  EXPECT_EQ(ouro::run_coroutine_threadsafe(there.loop(), add, 3, 4).result(), 7);
  EXPECT_EQ(ouro::run_coroutine_threadsafe([] { return add(5, 6); }, there.loop()).result(), 11);
  EXPECT_THROW(ouro::run_coroutine_threadsafe(fail(), there.loop()).result(), std::domain_error);
}

template <class T>
concept Runnable = requires(T value, BaseEventLoop& loop) { ouro::run_coroutine_threadsafe(std::move(value), loop); };

// B297: what is no coroutine is refused by the compiler.
TEST(RunCoroutineThreadsafe, TakesCoroutinesOnly) {
  static_assert(Runnable<Coroutine<int>>);
  static_assert(!Runnable<int>);
  static_assert(!Runnable<int (*)()>);
  static_assert(!Runnable<ouro::Future<int>>);
}

// B297: an error of the task factory goes into the future and to the exception handler.
TEST(RunCoroutineThreadsafe, PassesOnTheErrorOfTheTaskFactory) {
  LoopThread there;
  std::atomic<int> handled{0};
  there.run([&] {
    there.loop().set_exception_handler([&](BaseEventLoop&, const ouro::ExceptionContext&) { ++handled; });
    there.loop().set_task_factory(
        [](BaseEventLoop&, const ouro::AnyTask&, ouro::TaskOptions&) { throw std::domain_error("factory"); });
  });
  EXPECT_THROW(ouro::run_coroutine_threadsafe(add(1, 2), there.loop()).result(), std::domain_error);
  there.run([&] { there.loop().set_task_factory(nullptr); });
  EXPECT_EQ(handled, 1);
}

// B298, T21
TEST(RunCoroutineThreadsafe, CancelReachesTheTask) {
  LoopThread there;
  std::atomic<int> trace{0};
  auto future = ouro::run_coroutine_threadsafe(sleep_long(trace), there.loop());
  EXPECT_THROW(future.result(1ms), ouro::TimeoutError);
  while (trace == 0) there.run([] {});
  EXPECT_TRUE(future.cancel());
  EXPECT_THROW(future.result(), CancelledError);
  while (trace != 11) there.run([] {});
  there.run([&] { EXPECT_TRUE(ouro::all_tasks(there.loop()).empty()); });
}

// B298: the other way round, and before it has started.
TEST(RunCoroutineThreadsafe, ACancelledTaskCancelsTheFuture) {
  LoopThread there;
  std::atomic<int> trace{0};
  auto future = ouro::run_coroutine_threadsafe(sleep_long(trace), there.loop());
  there.run([&] {
    for (ouro::AnyTask& task : ouro::all_tasks(there.loop())) task.cancel();
  });
  EXPECT_THROW(future.result(), CancelledError);

  trace = 0;
  there.run([&] {
    auto early = ouro::run_coroutine_threadsafe(sleep_long(trace), there.loop());
    EXPECT_TRUE(early.cancel());
  });
  there.run([] {});
  EXPECT_EQ(trace, 0);
}

// B303
TEST(RunCoroutineThreadsafe, LosesNothingFromManyThreads) {
  constexpr int each = 300;
  LoopThread there;
  std::atomic<int> sum{0};
  std::atomic<int> failures{0};
  std::vector<std::thread> callers;
  for (int t = 0; t < 4; ++t) {
    callers.emplace_back([&] {
      for (int i = 0; i < each; ++i) {
        sum += ouro::run_coroutine_threadsafe(add(i, 1), there.loop()).result();
        try {
          ouro::run_coroutine_threadsafe(fail(), there.loop()).result();
        } catch (const std::domain_error&) {
          ++failures;
        }
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  EXPECT_EQ(sum, 4 * (each * (each - 1) / 2 + each));
  EXPECT_EQ(failures, 4 * each);
}

TEST(RunCoroutineThreadsafe, RefusesToWaitOnItsOwnLoop) {
  TestLoop loop;
  loop.call_soon([&] {
    auto future = ouro::run_coroutine_threadsafe(add(1, 2), loop);
    EXPECT_THROW(future.result(), ouro::RuntimeError);
    EXPECT_THROW(future.result(1s), ouro::RuntimeError);
    loop.stop();
  });
  loop.run_forever();
}

TEST(RunCoroutineThreadsafe, AClosedLoopRefusesAndAClosingOneCancels) {
  std::atomic<int> trace{0};
  ConcurrentFuture<> started;
  ConcurrentFuture<> not_started;
  {
    LoopThread there;
    there.run([&] { there.loop().set_exception_handler([](BaseEventLoop&, const ouro::ExceptionContext&) {}); });
    started = ouro::run_coroutine_threadsafe(sleep_long(trace), there.loop());
    while (trace == 0) there.run([] {});
    there.join();
    not_started = ouro::run_coroutine_threadsafe(sleep_long(trace), there.loop());
    there.loop().close();
    EXPECT_THROW(ouro::run_coroutine_threadsafe(sleep_long(trace), there.loop()), ouro::RuntimeError);
  }
  EXPECT_THROW(started.result(), CancelledError);
  EXPECT_THROW(not_started.result(), CancelledError);
  EXPECT_FALSE(started.set_running_or_notify_cancel());
  EXPECT_EQ(trace, 1);
}

// The cancel comes from another thread while the loop is torn down.
TEST(RunCoroutineThreadsafe, CancelRacesWithClose) {
  for (int round = 0; round < 100; ++round) {
    std::atomic<int> trace{0};
    std::latch go(2);
    ConcurrentFuture<> future;
    std::thread canceller;
    {
      LoopThread there;
      there.run([&] { there.loop().set_exception_handler([](BaseEventLoop&, const ouro::ExceptionContext&) {}); });
      future = ouro::run_coroutine_threadsafe(sleep_long(trace), there.loop());
      there.run([] {});
      there.join();
      canceller = std::thread([&] {
        go.arrive_and_wait();
        future.cancel();
      });
      go.arrive_and_wait();
    }
    canceller.join();
    EXPECT_TRUE(future.cancelled());
  }
}

Coroutine<int> wait_for_both(ConcurrentFuture<int> source, std::thread::id& where) {
  const int value = co_await ouro::wrap_future(source);
  where = std::this_thread::get_id();
  co_return value;
}

// B109
TEST(WrapFuture, CompletesInTheLoop) {
  TestLoop loop;
  const auto source = ConcurrentFuture<int>::create();
  std::thread::id where;
  std::thread producer;
  loop.call_soon([&] { producer = std::thread([&] { source.set_result(5); }); });
  EXPECT_EQ(loop.run_until_complete(wait_for_both(source, where)), 5);
  EXPECT_EQ(where, std::this_thread::get_id());
  producer.join();
  EXPECT_EQ(loop.run_until_complete(ouro::wrap_future(source, loop)), 5);
}

// B109
TEST(WrapFuture, ReturnsAFutureAsItIs) {
  OURO_TEST_ALONE("there is a running loop between the runs, too");
  TestLoop loop;
  auto future = loop.create_future<int>();
  EXPECT_EQ(ouro::wrap_future(future), future);
  future.cancel();
  EXPECT_THROW(ouro::wrap_future(ConcurrentFuture<int>::create()), ouro::RuntimeError);
}

// B111
TEST(WrapFuture, CopiesExceptionsAndCancellations) {
  TestLoop loop;
  const auto failing = ConcurrentFuture<int>::create();
  auto failed = ouro::wrap_future(failing, loop);
  failing.set_exception(std::domain_error("failed"));
  EXPECT_THROW(loop.run_until_complete(failed), std::domain_error);

  const auto cancelling = ConcurrentFuture<int>::create();
  auto cancelled = ouro::wrap_future(cancelling, loop);
  cancelling.cancel();
  EXPECT_THROW(loop.run_until_complete(cancelled), CancelledError);
  EXPECT_TRUE(cancelled.cancelled());
}

// B111
TEST(WrapFuture, ACancelGoesToTheSource) {
  TestLoop loop;
  const auto source = ConcurrentFuture<int>::create();
  auto wrapped = ouro::wrap_future(source, loop);
  EXPECT_TRUE(wrapped.cancel());
  EXPECT_TRUE(source.cancelled());

  const auto running = ConcurrentFuture<int>::create();
  auto follower = ouro::wrap_future(running, loop);
  EXPECT_TRUE(running.set_running_or_notify_cancel());
  EXPECT_TRUE(follower.cancel());
  running.set_result(1);  // comes to nobody
  loop.call_soon([&] { loop.stop(); });
  loop.run_forever();
  EXPECT_TRUE(follower.cancelled());
}

TEST(WrapFuture, OutlivesItsLoop) {
  const auto source = ConcurrentFuture<std::string>::create();
  {
    TestLoop loop;
    auto wrapped = ouro::wrap_future(source, loop);
    auto forgotten = ouro::wrap_future(ConcurrentFuture<std::string>::create(), loop);
  }
  source.set_result("nobody hears it");
}

}  // namespace
