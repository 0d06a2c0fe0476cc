// The futex under the parker, and the parker: latched, merged, never lost, woken by threads and by signal handlers.
#include <signal.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <thread>

#include <gtest/gtest.h>

#include <ouro/runtime/base_event_loop.hpp>
#include <ouro/runtime/detail/futex.hpp>
#include <ouro/runtime/thread_parker.hpp>

namespace {

using namespace std::chrono_literals;
using ouro::Clock;
using ouro::ThreadParker;
using ouro::TimePoint;

TimePoint soon() { return Clock::steady().now() + 2ms; }

// A thread of a default executor may still run while the objects of the process are destroyed.
TEST(ClockDeathTest, TheSteadyOneIsThereUntilTheProcessHasEnded) {
  testing::FLAGS_gtest_death_test_style = "threadsafe";  // in a process where nobody has used the clock before
  struct ReadsItAtTheEnd {
    ~ReadsItAtTheEnd() {
      if (clock->now() < start) std::abort();
    }
    const Clock* volatile clock = nullptr;
    TimePoint start;
  };
  const auto end = [] {
    static ReadsItAtTheEnd reader;  // made before the clock, so destroyed after it
    reader.clock = &Clock::steady();
    reader.start = reader.clock->now();
    std::exit(0);
  };
  EXPECT_EXIT(end(), testing::ExitedWithCode(0), "");
}

TEST(Futex, DoesNotSleepOnAnotherValue) {
  const std::atomic<std::uint32_t> word{1};
  EXPECT_TRUE(ouro::detail::futex_wait(word, 0));
}

TEST(Futex, SaysWhenTheDeadlineHasPassed) {
  const std::atomic<std::uint32_t> word{0};
  EXPECT_FALSE(ouro::detail::futex_wait(word, 0, TimePoint::min()));
  EXPECT_FALSE(ouro::detail::futex_wait(word, 0, TimePoint()));
  const TimePoint deadline = soon();
  while (ouro::detail::futex_wait(word, 0, deadline)) {
  }
  EXPECT_GE(Clock::steady().now(), deadline);
}

TEST(Futex, WakesASleeper) {
  std::atomic<std::uint32_t> word{0};
  std::thread waker([&] {
    word.store(1);
    ouro::detail::futex_wake(word, 1);
  });
  while (word.load() == 0) ouro::detail::futex_wait(word, 0);
  waker.join();
}

TEST(ThreadParker, PollTakesInWhatCame) {
  ThreadParker parker;
  EXPECT_TRUE(parker.idle());
  EXPECT_FALSE(parker.poll());
  parker.unpark();
  parker.unpark();
  EXPECT_TRUE(parker.poll());
  EXPECT_FALSE(parker.poll());
}

TEST(ThreadParker, AnEarlyUnparkIsKept) {
  ThreadParker parker;
  parker.unpark();
  parker.park(TimePoint::max());
  EXPECT_FALSE(parker.poll());
}

TEST(ThreadParker, ReturnsAtTheDeadline) {
  ThreadParker parker;
  parker.park(TimePoint::min());
  const TimePoint deadline = soon();
  parker.park(deadline);
  EXPECT_GE(Clock::steady().now(), deadline);
  EXPECT_FALSE(parker.poll());
}

// What was written before unpark() is seen after park(); no hand-over is lost in either direction.
TEST(ThreadParker, PassesABallToAndFro) {
  constexpr int rounds = 2000;
  ThreadParker here;
  ThreadParker there;
  std::atomic<int> ball{0};
  std::thread other([&] {
    for (int i = 1; i <= rounds; ++i) {
      while (ball.load(std::memory_order_relaxed) != 2 * i - 1) there.park(TimePoint::max());
      ball.store(2 * i, std::memory_order_relaxed);
      here.unpark();
    }
  });
  for (int i = 1; i <= rounds; ++i) {
    ball.store(2 * i - 1, std::memory_order_relaxed);
    there.unpark();
    while (ball.load(std::memory_order_relaxed) != 2 * i) here.park(TimePoint::max());
  }
  other.join();
}

ThreadParker* parker_of_handler = nullptr;

TEST(ThreadParker, WakesFromASignalHandler) {
  if (OURO_TSAN) GTEST_SKIP() << "it runs signal handlers at calls that it intercepts, and a bare futex is none";
  ThreadParker parker;
  parker_of_handler = &parker;
  struct sigaction action{};
  struct sigaction before{};
  action.sa_handler = [](int) { parker_of_handler->unpark(); };
  ASSERT_EQ(sigaction(SIGUSR1, &action, &before), 0);
  const pthread_t self = pthread_self();
  std::thread sender([self] { pthread_kill(self, SIGUSR1); });
  parker.park(TimePoint::max());
  sender.join();
  sigaction(SIGUSR1, &before, nullptr);
}

TEST(ThreadParker, CarriesALoop) {
  ouro::BaseEventLoop loop(std::make_unique<ThreadParker>());
  std::thread other([&] { loop.call_soon_threadsafe([&] { loop.stop(); }); });
  loop.run_forever();
  other.join();
}

}  // namespace
