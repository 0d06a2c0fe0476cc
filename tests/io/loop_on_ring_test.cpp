// EventLoop over the real ring: order of sleeps, wake-ups between threads and loops, a ring that the system denies, and
// wrong use; each with the ring's fallbacks.
#include <gtest/gtest.h>

#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <functional>
#include <iostream>
#include <latch>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <ouro/io/errors.hpp>
#include <ouro/io/event_loop.hpp>
#include <ouro/io/policies.hpp>
#include <ouro/io/runners.hpp>
#include <ouro/runtime/exceptions.hpp>
#include <ouro/runtime/gather.hpp>
#include <ouro/runtime/sleep.hpp>
#include <ouro/runtime/threads.hpp>

#include "support/child.hpp"
#include "support/test_run.hpp"

namespace ouro {
namespace {

using namespace std::chrono_literals;
using test::deny;
using test::in_child;
using EventLoop = test::Tested<ouro::EventLoop>;

bool contains(const std::string& text, const std::string& part) { return text.find(part) != text.npos; }

template <class Body>
std::string text_of(Body body) {
  try {
    body();
  } catch (const RuntimeError& error) {
    return error.what();
  }
  return {};
}

Coroutine<int> give(int value) {
  co_await sleep(1ms);
  co_return value;
}
Coroutine<> append_after(Duration delay, std::vector<int>& log, int value) {
  co_await sleep(delay);
  log.push_back(value);
}

// The parameter is OURO_RING_DISABLE.
class LoopOnRing : public testing::TestWithParam<const char*>, public test::OverLoops {
 protected:
  LoopOnRing() { ::setenv("OURO_RING_DISABLE", GetParam(), 1); }
  ~LoopOnRing() override { ::unsetenv("OURO_RING_DISABLE"); }
};

TEST_P(LoopOnRing, SleepsInOrder) {
  std::vector<int> log;
  const auto main = [&]() -> Coroutine<> {
    std::vector<Coroutine<>> children;
    for (const int ms : {5, 1, 4, 2, 3}) children.push_back(append_after(std::chrono::milliseconds(ms), log, ms));
    const TimePoint start = get_running_loop().time();
    co_await gather(std::move(children));
    EXPECT_GE(get_running_loop().time() - start, 5ms);
  };
  run(main);
  EXPECT_EQ(log, (std::vector<int>{1, 2, 3, 4, 5}));
}

TEST_P(LoopOnRing, SleepsOnceForATimer) {  // B48
  EventLoop loop;
  loop.set_spin(0ns);
  bool fired = false;
  loop.call_later(3ms, [&] {
    fired = true;
    loop.stop();
  });
  loop.run_forever();
  EXPECT_TRUE(fired);
  EXPECT_LE(loop.counters().looks, 8U);  // no spinning for the last nanoseconds
}

TEST_P(LoopOnRing, IsWokenByAThread) {  // B44
  for (const std::chrono::nanoseconds spin : {0ns, 50'000ns}) {
    EventLoop loop;
    loop.set_spin(spin);
    int calls = 0;
    std::thread poster([&] {
      for (int i = 0; i < 100; ++i) {
        while (loop.state().inbox.load() != detail::asleep()) std::this_thread::yield();
        loop.call_soon_threadsafe([&] {
          if (++calls == 100) loop.stop();
        });
      }
    });
    loop.run_forever();
    poster.join();
    EXPECT_EQ(calls, 100);
  }
}

TEST_P(LoopOnRing, LosesNoPost) {  // B45
  EventLoop loop;
  std::vector<int> log;
  std::thread poster([&] {
    for (int i = 0; i < 4096; ++i) loop.call_soon_threadsafe([&, i] { log.push_back(i); });
    loop.call_soon_threadsafe([&] { loop.stop(); });
  });
  loop.run_forever();
  poster.join();
  ASSERT_EQ(log.size(), 4096U);
  for (int i = 0; i < 4096; ++i) EXPECT_EQ(log[static_cast<std::size_t>(i)], i);
}

TEST_P(LoopOnRing, TakesPostsOfManyThreads) {
  EventLoop loop;
  constexpr int threads = 4;
  constexpr int each = 2000;
  std::vector<int> next(threads, 0);
  int left = threads * each;
  std::vector<std::thread> posters;
  for (std::size_t t = 0; t < threads; ++t) {
    posters.emplace_back([&, t] {
      for (int i = 0; i < each; ++i) {
        loop.call_soon_threadsafe([&, t, i] {
          EXPECT_EQ(next[t]++, i);
          if (--left == 0) loop.stop();
        });
      }
    });
  }
  loop.run_forever();
  for (std::thread& poster : posters) poster.join();
  EXPECT_EQ(left, 0);
}

TEST_P(LoopOnRing, MakesTenThousandRoundTripsWithAThread) {
  constexpr int rounds = 10'000;
  EventLoop loop;
  std::atomic<int> answered{0};
  int asked = 0;
  std::thread other([&] {
    for (int i = 1; i <= rounds; ++i) {
      loop.call_soon_threadsafe([&] {
        ++asked;
        answered.store(asked, std::memory_order_release);
        answered.notify_one();
      });
      for (int seen = i - 1; seen != i; seen = answered.load(std::memory_order_acquire)) answered.wait(i - 1);
    }
    loop.call_soon_threadsafe([&] { loop.stop(); });
  });
  loop.run_forever();
  other.join();
  EXPECT_EQ(asked, rounds);
}

TEST_P(LoopOnRing, PostsToAnotherLoopAndBack) {
  constexpr int rounds = 2'000;
  EventLoop left;
  EventLoop right;
  int at_left = 0;
  int at_right = 0;
  std::function<void()> ping = [&] {
    ++at_right;
    left.call_soon_threadsafe([&] {
      if (++at_left == rounds) {
        right.call_soon_threadsafe([&] { right.stop(); });
        left.stop();
      } else {
        right.call_soon_threadsafe([&] { ping(); });
      }
    });
  };
  right.call_soon_threadsafe([&] { ping(); });
  std::thread thread([&] { right.run_forever(); });
  left.run_forever();
  thread.join();
  EXPECT_EQ(at_left, rounds);
  EXPECT_EQ(at_right, rounds);
}

TEST_P(LoopOnRing, RunsOnAnotherThreadThanItWasMadeOn) {
  EventLoop loop;
  Future<int> future = loop.create_future<int>();
  loop.call_soon([&] { future.set_result(4); });
  std::thread([&] { EXPECT_EQ(loop.run_until_complete(future), 4); }).join();
  EXPECT_EQ(loop.run_until_complete(give(5)), 5);
  std::thread([&] { EXPECT_EQ(loop.run_until_complete(give(6)), 6); }).join();
  auto other = std::make_unique<EventLoop>();
  std::thread([&] {
    EXPECT_EQ(other->run_until_complete(give(7)), 7);
    other.reset();
  }).join();
}

TEST_P(LoopOnRing, SendsCoroutinesToARunningLoop) {
  EventLoop loop;
  std::thread thread([&] { loop.run_forever(); });
  std::vector<ConcurrentFuture<int>> futures;
  for (int i = 0; i < 100; ++i) futures.push_back(run_coroutine_threadsafe(give(i), loop));
  for (int i = 0; i < 100; ++i) EXPECT_EQ(futures[static_cast<std::size_t>(i)].result(), i);
  loop.call_soon_threadsafe([&] { loop.stop(); });
  thread.join();
}

TEST_P(LoopOnRing, RunsManyLoopsOneAfterTheOther) {
  for (int i = 0; i < 50; ++i) EXPECT_EQ(run(give(i)), i);
}

// ---- Wrong use ----

TEST_P(LoopOnRing, RefusesWrongUseAndLosesNothing) {
  EventLoop loop;
  EventLoop other;
  const auto main = [&]() -> Coroutine<int> {
    EXPECT_EQ(text_of([&] { loop.run_forever(); }), "This event loop is already running");
    EXPECT_EQ(text_of([&] { other.run_forever(); }), "Cannot run the event loop while another loop is running");
    EXPECT_EQ(text_of([&] { loop.close(); }),
              test::forced_workers() == 1 ? "Cannot close a running event loop" : "close() on a loop in a group");
    EXPECT_EQ(text_of([&] { run(give(1)); }), "run() cannot be called from a running event loop");
    co_await sleep(1ms);
    co_return 3;
  };
  EXPECT_EQ(loop.run_until_complete(main), 3);
  EXPECT_EQ(other.run_until_complete(give(4)), 4);
  loop.close();
  EXPECT_EQ(text_of([&] { loop.run_until_complete(give(1)); }), "Event loop is closed");
  EXPECT_EQ(text_of([&] { loop.call_soon([] {}); }), "Event loop is closed");
  EXPECT_EQ(text_of([&] { loop.call_soon_threadsafe([] {}); }), "Event loop is closed");
  EXPECT_EQ(text_of([&] { loop.create_task(give(1)); }), "Event loop is closed");
  std::thread([&] {
    EXPECT_EQ(text_of([&] { run_coroutine_threadsafe(give(1), loop); }), "Event loop is closed");
  }).join();
}

TEST_P(LoopOnRing, RefusesToRunOnTwoThreadsAtOnce) {
  EventLoop loop;
  const auto main = [&]() -> Coroutine<> {
    std::thread([&] { EXPECT_EQ(text_of([&] { loop.run_forever(); }), "This event loop is already running"); }).join();
    co_return;
  };
  loop.run_until_complete(main);
}

TEST_P(LoopOnRing, ReportsOnceWhatItHeldWhenItIsClosed) {
  constexpr std::size_t count = 10'000;
  EventLoop loop;
  std::size_t reports = 0;
  std::string message;
  loop.set_exception_handler([&](ouro::EventLoop& which, const ExceptionContext& context) {
    EXPECT_EQ(&which, &loop);
    ++reports;
    message = context.message;
  });
  std::vector<Task<>> tasks;
  for (std::size_t i = 0; i < count; ++i) tasks.push_back(loop.create_task(sleep(1h)));
  loop.stop();
  loop.run_forever();
  loop.close();
  EXPECT_EQ(reports, 1U);
  EXPECT_TRUE(contains(message, "10000 tasks")) << message;
  for (const Task<>& task : tasks) EXPECT_TRUE(task.cancelled());
}

INSTANTIATE_TEST_SUITE_P(Fallbacks, LoopOnRing,
                         testing::Values("", "defer_taskrun", "defer_taskrun,single_issuer", "ext_arg",
                                         "multishot_poll", "registered_ring",
                                         "defer_taskrun,single_issuer,coop_taskrun,submit_all,taskrun_flag,"
                                         "registered_ring,msg_ring,ext_arg,multishot_poll,skip_success"));

// ---- A ring that the system denies ----

// What run() of a coroutine throws and writes to stderr in a process that is denied `call` with `error`.
struct Denied {
  Denied(long call, int error) {
    testing::internal::CaptureStderr();
    good = in_child([&] {
      if (!deny(call, error)) return false;
      bool started = false;
      const auto main = [&]() -> Coroutine<> {
        started = true;
        co_return;
      };
      for (int i = 0; i < 2; ++i) {  // the second time is like the first
        try {
          run(main);
          return false;
        } catch (const OSError& failure) {
          std::cout << "what: " << failure.what() << "\nhint: " << failure.hint() << std::endl;
          if (failure.errno_value() != error) return false;
        }
      }
      return !started && text_of([] { get_running_loop(); }) == "no running event loop";
    });
    written = testing::internal::GetCapturedStderr();
  }
  bool good;
  std::string written;
};

TEST(DeniedRing, IsExplainedAsASeccompFilter) {
  testing::internal::CaptureStdout();
  const Denied denied(SYS_io_uring_setup, EPERM);
  const std::string text = testing::internal::GetCapturedStdout();
  EXPECT_TRUE(denied.good) << text;
  EXPECT_TRUE(contains(text, "io_uring_setup")) << text;
  EXPECT_TRUE(contains(text, "seccomp") || contains(text, "kernel.io_uring_disabled")) << text;
  EXPECT_TRUE(contains(text, "hint: ")) << text;
  EXPECT_EQ(denied.written, "");  // one error, and no reports beside it
}

TEST(DeniedRing, IsExplainedAsAnOldKernel) {
  testing::internal::CaptureStdout();
  const Denied denied(SYS_io_uring_setup, ENOSYS);
  const std::string text = testing::internal::GetCapturedStdout();
  EXPECT_TRUE(denied.good) << text;
  EXPECT_TRUE(contains(text, "no io_uring in this kernel")) << text;
  EXPECT_TRUE(contains(text, "Linux 5.15 or newer")) << text;
  EXPECT_EQ(denied.written, "");
}

TEST(DeniedRing, IsExplainedAsALackOfDescriptors) {
  testing::internal::CaptureStdout();
  const Denied denied(SYS_io_uring_setup, EMFILE);
  const std::string text = testing::internal::GetCapturedStdout();
  EXPECT_TRUE(denied.good) << text;
  EXPECT_TRUE(contains(text, "RLIMIT_NOFILE")) << text;
  EXPECT_EQ(denied.written, "");
}

TEST(DeniedRing, LeavesALoopThatWasUsedDirectlyIntact) {
  EXPECT_TRUE(in_child([] {
    if (!deny(SYS_io_uring_setup, EPERM)) return false;
    EventLoop loop;
    Task<int> task = loop.create_task(give(1));
    int refusals = 0;
    for (int i = 0; i < 2; ++i) {
      try {
        loop.run_until_complete(task);
      } catch (const OSError&) {
        ++refusals;
      }
    }
    int reports = 0;
    loop.set_exception_handler([&](ouro::EventLoop&, const ExceptionContext&) { ++reports; });
    const bool intact = refusals == 2 && !loop.is_running() && !task.done();
    loop.close();
    return intact && reports == 1 && task.cancelled();
  }));
}

TEST(DeniedRing, IsSaidForAnUnknownFallback) {
  ::setenv("OURO_RING_DISABLE", "nonsense", 1);
  EXPECT_TRUE(contains(text_of([] { run(give(1)); }), "nonsense"));
  ::unsetenv("OURO_RING_DISABLE");
  EXPECT_EQ(run(give(1)), 1);
}

}  // namespace
}  // namespace ouro
