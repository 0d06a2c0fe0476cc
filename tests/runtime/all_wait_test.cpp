// Runs in which everything waits, but nobody for each other: what is reported, and what must not be.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <coroutine>
#include <cstdint>
#include <memory>
#include <ranges>
#include <string>
#include <thread>
#include <utility>

#include <ouro/runtime/config.hpp>
#include <ouro/runtime/locks.hpp>
#include <ouro/runtime/map.hpp>
#include <ouro/runtime/queues.hpp>
#include <ouro/runtime/sleep.hpp>
#include <ouro/runtime/threads.hpp>
#include <ouro/runtime/timeouts.hpp>

#include "support/deadlock_fixture.hpp"

namespace ouro::test {
namespace {

using namespace std::chrono_literals;
using testing::HasSubstr;
using testing::StrEq;

class AllWaitTest : public DeadlockTest {};
OURO_SYNC_TESTS(AllWaitTest);

// ---- Everything waits, without a ring ----

TEST_P(AllWaitTest, AQueueThatNobodyFillsIsReportedOnceAndFilledByAThread) {
  Queue<int> queue;
  const auto main = [&]() -> Coroutine<int> {
    const int one = co_await at(at_main, queue.get());
    // Asleep again: it is not reported again.
    help_when_asleep([&] { queue.put_nowait(2); });
    co_return 10 * one + co_await queue.get();
  };
  help([&queue] { queue.put_nowait(4); });
  EXPECT_EQ(run(loop.create_task(main(), {.name = "main"})), 42);
  EXPECT_THAT(only_report(), StrEq(alone("main waits at " + text_of(at_main) + " for Queue")));
}

TEST_P(AllWaitTest, ALockWhoseHolderHasEnded) {
  Lock& lock = new_lock();
  run(lock_and_keep(lock));
  // It lies where the other one lay, and is not taken for it.
  const auto main = [&]() -> Coroutine<> { co_await at(at_main, lock.acquire()); };
  help([&lock] { lock.release(); });
  run(loop.create_task(main(), {.name = "main"}));
  const std::string holder = lock.is_shared() ? ", or is elsewhere" : " without a release";
  const std::string text = only_report();
  EXPECT_THAT(text, HasSubstr("main waits at " + text_of(at_main) + " for Lock, whose holder has ended"));
  EXPECT_THAT(text, HasSubstr(holder));
  lock.release();
}

TEST_P(AllWaitTest, ATaskInPlaceOfTheHolderIsNotTakenForIt) {
  Lock& lock = new_lock();
  const void* place = nullptr;
  const auto body = [](Lock& of, const void** where, std::source_location* here) -> Coroutine<> {
    *where = &current_task().handle().state();
    if (here) {
      co_await at(*here, of.acquire());
    } else {
      co_await of.acquire();
    }
  };
  run(body(lock, &place, nullptr));
  const void* const first = std::exchange(place, nullptr);
  help([&lock] { lock.release(); });
  run(body(lock, &place, &at_a));
  EXPECT_THAT(only_report(), HasSubstr("for Lock, whose holder has ended"));
  lock.release();
  if (!OURO_ASAN) {
    EXPECT_EQ(place, first) << "the frame was not used again";
  }
}

TEST_P(AllWaitTest, ALockThatNoTaskHolds) {
  Lock& lock = new_lock();
  EXPECT_TRUE(lock.try_acquire());
  const auto main = [&]() -> Coroutine<> { co_await at(at_main, lock.acquire()); };
  help([&lock] { lock.release(); });
  run(loop.create_task(main(), {.name = "main"}));
  EXPECT_THAT(only_report(), StrEq(alone("main waits at " + text_of(at_main) + " for Lock, which no task holds")));
  lock.release();
}

TEST_P(AllWaitTest, AnObjectThatIsGone) {
  auto event = std::make_unique<Event>();
  const auto main = [&]() -> Coroutine<> { co_await at(at_main, event->wait()); };
  a = loop.create_task(main(), {.name = "main"});
  turn(2);
  event.reset();
  help([this] { a.cancel(); });
  EXPECT_EQ(thrown_by([this] { run(a); }), "CancelledError: ");
  EXPECT_THAT(only_report(),
              StrEq(alone("main waits at " + text_of(at_main) + " for Event, which has been destroyed")));
}

TEST_P(AllWaitTest, AListOfManyIsCut) {
  Event event;
  const auto child = [&event](int) -> Coroutine<> { co_await event.wait(); };
  const auto main = [&]() -> Coroutine<> { co_await map(child, std::views::iota(0, 40)); };
  help([&event] { event.set(); });
  run(main());
  const std::string text = only_report();
  EXPECT_THAT(text, HasSubstr("All 41 tasks wait"));
  EXPECT_THAT(text, HasSubstr("\n  and 17 more"));
}

TEST_P(AllWaitTest, TheReportComesOncePerRun) {
  for (int i = 0; i < 2; ++i) {
    Event event;
    threads.clear();
    help([&event] { event.set(); });
    run(event.wait());
    EXPECT_THAT(only_report(), HasSubstr("The only task waits"));
  }
}

// ---- Something is in sight ----

TEST_P(AllWaitTest, NoReportWhileAnExecutorWorks) {
  const auto main = [&]() -> Coroutine<int> {
    const std::uint64_t before = loop.counters().parks;
    // Only the job's result can wake the loop from its second sleep, if it has one.
    co_return co_await to_thread([this, before] {
      while (loop.counters().parks == before) std::this_thread::yield();
      return 5;
    });
  };
  loop.set_spin(0ns);
  EXPECT_EQ(run(main()), 5);
  expect_no_reports();
}

TEST_P(AllWaitTest, NoErrorWhileATimerIsSet) {
  Lock& first = new_lock();
  Lock& second = new_lock();
  a = loop.create_task(lock_both(first, second, at_a));
  b = loop.create_task(lock_both(second, first, at_b));
  EXPECT_EQ(thrown_by([this] { run(wait_for(a, 2ms)); }), "TimeoutError: the deadline has passed");
  run(b);
  expect_no_reports();
}

TEST_P(AllWaitTest, NoReportWhileAThreadWaitsForATask) {
  Event event;
  const auto remote = [&event]() -> Coroutine<int> {
    co_await event.wait();
    co_return 3;
  };
  const auto main = [&]() -> Coroutine<> {
    auto future = run_coroutine_threadsafe(remote, loop);
    co_await sleep(0s);
    help_when_asleep([&event] { event.set(); });
    co_await event.wait();
    while (!future.done()) co_await sleep(0s);
    EXPECT_EQ(future.result(), 3);
  };
  loop.set_spin(0ns);
  run(main());
  expect_no_reports();
  // It has been counted off.
  Event other;
  help([&other] { other.set(); });
  threads.clear();
  run(other.wait());
  EXPECT_THAT(only_report(), HasSubstr("The only task waits"));
}

// Suspends until another thread resumes it by hand, in a callback.
class ByHand {
 public:
  explicit ByHand(std::coroutine_handle<>& frame) : frame_(&frame) {}
  bool await_ready() const noexcept { return false; }
  void await_suspend(std::coroutine_handle<> frame) const noexcept { *frame_ = frame; }
  void await_resume() const noexcept {}

 private:
  std::coroutine_handle<>* frame_;
};

TEST_P(AllWaitTest, NoReportWhileATaskAwaitsSomethingForeign) {
  a = loop.create_task(await_task(b, at_a));
  b = loop.create_task(await_task(a, at_b));
  std::coroutine_handle<> frame;
  auto future = loop.create_future();
  const auto foreign = [&]() -> Coroutine<> { co_await ByHand(frame); };
  c = loop.create_task(foreign());
  help_when_asleep([&] {
    future.set_result();
    c.cancel();
    frame.resume();
  });
  loop.set_spin(0ns);
  run(future);
  expect_no_reports();
}

TEST_P(AllWaitTest, RunForeverNeverReports) {
  a = loop.create_task(await_task(b, at_a));
  b = loop.create_task(await_task(a, at_b));
  help_when_asleep([this] { loop.stop(); });
  loop.set_spin(0ns);
  loop.run_forever();
  expect_no_reports();
}

TEST_P(AllWaitTest, NeverLooksWithAnEndlessGrace) {
  loop.deadlock_grace = std::chrono::nanoseconds::max();
  Event event;
  help_when_asleep([&event] { event.set(); });
  loop.set_spin(0ns);
  run(event.wait());
  expect_no_reports();
}

}  // namespace
}  // namespace ouro::test
