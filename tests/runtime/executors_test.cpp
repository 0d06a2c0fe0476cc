// The pool of threads, and jobs on their way between loops and executors.
#include <pthread.h>
#include <signal.h>

#include <array>
#include <atomic>
#include <barrier>
#include <chrono>
#include <cstddef>
#include <latch>
#include <memory>
#include <set>
#include <stdexcept>
#include <string>
#include <thread>
#include <type_traits>
#include <vector>

#include <gtest/gtest.h>

#include <ouro/runtime/base_event_loop.hpp>
#include <ouro/runtime/executors.hpp>
#include <ouro/runtime/gather.hpp>
#include <ouro/runtime/threads.hpp>

#include "support/test_loop.hpp"

namespace {

using namespace std::chrono_literals;
using ouro::BaseEventLoop;
using ouro::CancelledError;
using ouro::ConcurrentFuture;
using ouro::Coroutine;
using ouro::executor_submit;
using ouro::Future;
using ouro::RuntimeError;
using ouro::ThreadPoolExecutor;
using ouro::test::TestLoop;

std::unique_ptr<TestLoop> make_loop() { return std::make_unique<TestLoop>(); }

// One turn of the loop, and whatever was ready for it.
void turn(TestLoop& loop) {
  loop.call_soon([&loop] { loop.stop(); });
  loop.run_forever();
}

std::string thread_name() {
  std::array<char, 16> name{};
  pthread_getname_np(pthread_self(), name.data(), name.size());
  return name.data();
}

// A pool with one thread, which is busy until open().
class BusyPool {
 public:
  explicit BusyPool(ouro::ThreadPoolOptions options = {}) : pool_(1, options) {
    blocker_ = executor_submit(pool_, [this] {
      running_.count_down();
      gate_.wait();
    });
    running_.wait();
  }
  BusyPool(const BusyPool&) = delete;
  BusyPool& operator=(const BusyPool&) = delete;
  ~BusyPool() {
    open();
    blocker_.wait();
  }

  void open() {
    if (!std::exchange(opened_, true)) gate_.count_down();
  }
  ThreadPoolExecutor& pool() { return pool_; }

 private:
  std::latch running_{1};
  std::latch gate_{1};
  bool opened_ = false;
  ThreadPoolExecutor pool_;
  ConcurrentFuture<> blocker_;
};

// ---- The pool ----

TEST(ThreadPool, RunsJobsElsewhereAndGivesTheirResults) {
  ThreadPoolExecutor pool(2);
  EXPECT_NE(executor_submit(pool, [] { return std::this_thread::get_id(); }).result(), std::this_thread::get_id());
  EXPECT_EQ(executor_submit(
                pool, [](int a, std::unique_ptr<int> b) { return a + *b; }, 1, std::make_unique<int>(2))
                .result(),
            3);
  EXPECT_THROW(executor_submit(pool, [] { throw std::domain_error("job"); }).result(), std::domain_error);
  auto moved = executor_submit(pool, [] { return std::make_unique<int>(4); });
  EXPECT_EQ(*moved.result(), 4);
}

TEST(ThreadPool, MakesThreadsOnDemandUpToItsLimit) {
  ThreadPoolExecutor pool(3);
  EXPECT_EQ(pool.max_workers(), 3U);
  EXPECT_EQ(pool.threads(), 0U);
  for (int i = 0; i < 20; ++i) executor_submit(pool, [] {}).result();
  std::barrier together(3);
  std::vector<ConcurrentFuture<>> futures;
  for (int i = 0; i < 9; ++i) futures.push_back(executor_submit(pool, [&] { together.arrive_and_wait(); }));
  for (auto& future : futures) future.result();
  EXPECT_EQ(pool.threads(), 3U);
}

// B295: asyncio's pool is called asyncio_N.
TEST(ThreadPool, NamesItsThreads) {
  ThreadPoolExecutor plain(1);
  EXPECT_EQ(executor_submit(plain, thread_name).result(), "ouro_0");
  ThreadPoolExecutor pool(2, {.thread_name_prefix = "a_very_long_prefix"});
  std::barrier together(2);
  auto name = [&] {
    together.arrive_and_wait();
    return thread_name();
  };
  auto first = executor_submit(pool, name);
  auto second = executor_submit(pool, name);
  EXPECT_EQ((std::set{first.result(), second.result()}), (std::set<std::string>{"a_very_long_p_0", "a_very_long_p_1"}));
}

TEST(ThreadPool, BlocksSignalsInItsThreads) {
  ThreadPoolExecutor pool(1);
  EXPECT_TRUE(executor_submit(pool, [] {
                sigset_t set;
                pthread_sigmask(SIG_SETMASK, nullptr, &set);
                return sigismember(&set, SIGINT) == 1 && sigismember(&set, SIGTERM) == 1 && !sigismember(&set, SIGSEGV);
              }).result());
  sigset_t set;
  pthread_sigmask(SIG_SETMASK, nullptr, &set);
  EXPECT_EQ(sigismember(&set, SIGINT), 0);
}

TEST(ThreadPool, RefusesSenselessOptions) {
  EXPECT_THROW(ThreadPoolExecutor(0), ouro::ValueError);
  EXPECT_THROW(ThreadPoolExecutor(40000), ouro::ValueError);
  EXPECT_THROW(ThreadPoolExecutor(1, {.max_queued = 0}), ouro::ValueError);
}

TEST(ThreadPool, RunsEveryJobOfManySubmitters) {
  constexpr int each = 3000;
  for (const std::size_t workers : {1U, 2U, 4U}) {
    std::atomic<int> ran{0};
    {
      ThreadPoolExecutor pool(workers);
      std::vector<std::thread> submitters;
      for (int t = 0; t < 3; ++t) {
        submitters.emplace_back([&] {
          for (int i = 0; i < each; ++i) executor_submit(pool, [&] { ++ran; });
        });
      }
      for (std::thread& submitter : submitters) submitter.join();
    }
    EXPECT_EQ(ran, 3 * each);
  }
}

TEST(ThreadPool, LosesNoWakeUpOneAtATime) {
  for (const std::size_t workers : {1U, 3U}) {
    ThreadPoolExecutor pool(workers);
    for (int i = 0; i < 2000; ++i) ASSERT_EQ(executor_submit(pool, [i] { return i; }).result(), i);
  }
}

TEST(ThreadPool, AJobMayWaitForTheNext) {
  ThreadPoolExecutor pool(2);
  for (int i = 0; i < 200; ++i) {
    std::latch second_ran(1);
    auto first = executor_submit(pool, [&] { second_ran.wait(); });
    auto second = executor_submit(pool, [&] { second_ran.count_down(); });
    first.result();
    second.result();
  }
}

// ---- Shutdown ----

TEST(Shutdown, WaitsForWhatIsQueuedAndRefusesMore) {
  std::atomic<int> ran{0};
  ThreadPoolExecutor pool(1);
  for (int i = 0; i < 100; ++i) executor_submit(pool, [&] { ++ran; });
  pool.shutdown();
  EXPECT_EQ(ran, 100);
  EXPECT_THROW(executor_submit(pool, [] {}), RuntimeError);
  pool.shutdown();
  pool.shutdown(false, true);
}

TEST(Shutdown, OfAPoolThatNeverRan) {
  ThreadPoolExecutor pool(2);
  pool.shutdown();
  EXPECT_THROW(executor_submit(pool, [] {}), RuntimeError);
}

TEST(Shutdown, CancelsWhatHasNotStarted) {
  BusyPool busy;
  std::atomic<int> ran{0};
  std::vector<ConcurrentFuture<>> futures;
  for (int i = 0; i < 100; ++i) futures.push_back(executor_submit(busy.pool(), [&] { ++ran; }));
  EXPECT_EQ(busy.pool().queue_depth(), 100U);
  busy.pool().shutdown(false, true);
  for (auto& future : futures) EXPECT_TRUE(future.cancelled());
  EXPECT_EQ(busy.pool().queue_depth(), 0U);
  busy.open();
  busy.pool().shutdown();
  EXPECT_EQ(ran, 0);
}

// Jobs that the only thread has taken in one go and not begun.
TEST(Shutdown, CancelsABatch) {
  ThreadPoolExecutor pool(1);
  std::latch gate(1);
  std::latch second_gate(1);
  std::latch in_batch(1);
  auto first = executor_submit(pool, [&] { gate.wait(); });
  auto holding = executor_submit(pool, [&] {
    in_batch.count_down();
    second_gate.wait();
  });
  std::vector<ConcurrentFuture<>> futures;
  for (int i = 0; i < 20; ++i) futures.push_back(executor_submit(pool, [] {}));
  gate.count_down();
  in_batch.wait();
  EXPECT_EQ(pool.queue_depth(), 20U);
  pool.shutdown(false, true);
  for (auto& future : futures) EXPECT_TRUE(future.cancelled());
  second_gate.count_down();
  holding.result();
  pool.shutdown();
}

TEST(Shutdown, OnItsOwnThreadIsAnErrorIfItWaits) {
  ThreadPoolExecutor pool(1);
  executor_submit(pool, [&] {
    EXPECT_TRUE(pool.on_own_thread());
    EXPECT_THROW(pool.shutdown(), RuntimeError);
    pool.shutdown(false, false);
  }).result();
  EXPECT_FALSE(pool.on_own_thread());
}

TEST(Shutdown, WithoutWaitingLetsTheThreadsEndByThemselves) {
  std::latch gate(1);
  ConcurrentFuture<> last;
  {
    ThreadPoolExecutor pool(1);
    executor_submit(pool, [&] { gate.wait(); });
    last = executor_submit(pool, [] {});
    pool.shutdown(false, false);
  }
  gate.count_down();
  last.result();
}

TEST(Shutdown, RacesWithSubmissions) {
  for (int round = 0; round < 200; ++round) {
    ThreadPoolExecutor pool(2);
    std::latch start(3);
    std::atomic<int> accepted{0};
    std::atomic<int> ran{0};
    const auto submitting = [&] {
      start.arrive_and_wait();
      try {
        for (int i = 0; i < 50; ++i) {
          executor_submit(pool, [&] { ++ran; });
          ++accepted;
        }
      } catch (const RuntimeError&) {
      }
    };
    std::thread a(submitting);
    std::thread b(submitting);
    start.arrive_and_wait();
    pool.shutdown();
    a.join();
    b.join();
    pool.shutdown();
    EXPECT_EQ(ran, accepted);
  }
}

// ---- Bounds and nesting ----

TEST(Bound, IsNamedWhenItIsReached) {
  BusyPool busy({.max_queued = 3});
  EXPECT_EQ(busy.pool().max_queued(), 3U);
  for (int i = 0; i < 3; ++i) executor_submit(busy.pool(), [] {});
  EXPECT_EQ(busy.pool().queue_depth(), 3U);
  try {
    executor_submit(busy.pool(), [] {});
    ADD_FAILURE();
  } catch (const RuntimeError& error) {
    EXPECT_NE(std::string(error.what()).find('3'), std::string::npos);
    EXPECT_FALSE(error.hint().empty());
  }
  busy.open();
  busy.pool().shutdown();
  EXPECT_EQ(busy.pool().queue_depth(), 0U);
}

int factorial_in(ThreadPoolExecutor& pool, int n) {
  if (n == 0) return 1;
  return n * executor_submit(pool, factorial_in, std::ref(pool), n - 1).result();
}

// A wait for a job of the same executor runs that job.
TEST(Nesting, NeedsNoFreeThread) {
  for (const std::size_t workers : {1U, 2U}) {
    ThreadPoolExecutor pool(workers);
    EXPECT_EQ(executor_submit(pool, factorial_in, std::ref(pool), 10).result(), 3628800);
    std::vector<ConcurrentFuture<int>> many;
    for (int i = 0; i < 50; ++i) many.push_back(executor_submit(pool, factorial_in, std::ref(pool), 3));
    for (auto& future : many) EXPECT_EQ(future.result(), 6);
  }
}

Coroutine<int> ask_pool(BaseEventLoop& loop, ThreadPoolExecutor& pool) {
  co_return co_await loop.run_in_executor(&pool, [] { return 1; });
}

// The ring through a loop: the pool's thread waits for a task that waits for the pool. It is reported, and ends when
// somebody gives up.
TEST(Nesting, ThroughALoopIsReported) {
  auto loop = make_loop();
  ThreadPoolExecutor pool(1);
  testing::internal::CaptureStderr();
  auto job = loop->run_in_executor(&pool, [&] {
    auto inner = ouro::run_coroutine_threadsafe(ask_pool(*loop, pool), *loop);
    std::thread rescuer([&] {
      while (!inner.wait(1500ms)) inner.cancel();  // the report comes after a second
    });
    EXPECT_THROW(inner.result(), CancelledError);
    rescuer.join();
  });
  loop->run_until_complete(job);
  EXPECT_NE(testing::internal::GetCapturedStderr().find("wait in ConcurrentFuture::result()"), std::string::npos);
}

// ---- run_in_executor ----

Coroutine<std::thread::id> ask_thread(BaseEventLoop& loop, ouro::Executor* executor) {
  co_return co_await loop.run_in_executor(executor, [] { return std::this_thread::get_id(); });
}

// B293
TEST(RunInExecutor, RunsElsewhereAndGivesTheResult) {
  auto loop = make_loop();
  ThreadPoolExecutor pool(1);
  EXPECT_NE(loop->run_until_complete(ask_thread(*loop, &pool)), std::this_thread::get_id());
  EXPECT_NE(loop->run_until_complete(ask_thread(*loop, nullptr)), std::this_thread::get_id());
  auto sum = loop->run_in_executor(&pool, [](int a, int b) { return a + b; }, 1, 2);
  static_assert(std::is_same_v<decltype(sum), Future<int>>);
  EXPECT_EQ(loop->run_until_complete(sum), 3);
}

// B293
TEST(RunInExecutor, GivesTheException) {
  auto loop = make_loop();
  auto failing = loop->run_in_executor(nullptr, [](const std::string& text) { throw std::domain_error(text); }, "job");
  EXPECT_THROW(loop->run_until_complete(failing), std::domain_error);
}

Coroutine<int> square(BaseEventLoop& loop, ThreadPoolExecutor& pool, int i) {
  co_return co_await loop.run_in_executor(&pool, [i] { return i * i; });
}

TEST(RunInExecutor, ManyInFlight) {
  auto loop = make_loop();
  for (const std::size_t workers : {1U, 3U}) {
    ThreadPoolExecutor pool(workers);
    std::vector<Coroutine<int>> squares;
    for (int i = 0; i < 2000; ++i) squares.push_back(square(*loop, pool, i));
    const std::vector<int> results = loop->run_until_complete(ouro::gather(std::move(squares)));
    for (int i = 0; i < 2000; ++i) ASSERT_EQ(results[static_cast<std::size_t>(i)], i * i);
  }
}

TEST(RunInExecutor, ACancelledJobThatHasNotStartedNeverRuns) {
  auto loop = make_loop();
  BusyPool busy;
  std::atomic<int> ran{0};
  auto future = loop->run_in_executor(&busy.pool(), [&] { ++ran; });
  auto kept = loop->run_in_executor(&busy.pool(), [&] { return 5; });
  EXPECT_TRUE(future.cancel());
  EXPECT_TRUE(future.cancelled());
  busy.open();
  EXPECT_EQ(loop->run_until_complete(kept), 5);
  EXPECT_EQ(ran, 0);
}

// T22
TEST(RunInExecutor, ACancelledJobThatRunsIsLetGo) {
  auto loop = make_loop();
  std::latch running(1);
  std::latch gate(1);
  ThreadPoolExecutor pool(1);
  auto future = loop->run_in_executor(&pool, [&] {
    running.count_down();
    gate.wait();
  });
  running.wait();
  EXPECT_TRUE(future.cancel());
  gate.count_down();
  EXPECT_THROW(loop->run_until_complete(future), CancelledError);
}

// B294
TEST(RunInExecutor, ACancelledFutureDoesNotCallIntoAClosedLoop) {
  std::latch running(1);
  std::latch gate(1);
  ThreadPoolExecutor pool(1);
  bool called = false;
  {
    auto loop = make_loop();
    auto future = loop->run_in_executor(&pool, [&] {
      running.count_down();
      gate.wait();
    });
    future.add_done_callback([&](const Future<>&) { called = true; });
    running.wait();
    future.cancel();
    loop->close();
  }
  gate.count_down();
  pool.shutdown();
  EXPECT_FALSE(called);
}

// B294: and so do jobs that nobody cancelled: queued, running, on their way back.
TEST(RunInExecutor, ALoopMayCloseUnderItsJobs) {
  for (int round = 0; round < 200; ++round) {
    ThreadPoolExecutor pool(1 + static_cast<std::size_t>(round % 2));
    std::atomic<int> ran{0};
    {
      auto loop = make_loop();
      for (int i = 0; i < round % 40; ++i) loop->run_in_executor(&pool, [&] { ++ran; });
      if (round % 3 == 0) turn(*loop);
    }
    pool.shutdown();
    EXPECT_LE(ran, round % 40);
  }
}

TEST(RunInExecutor, FuturesMayOutliveTheLoop) {
  BusyPool busy;
  Future<int> future;
  {
    auto loop = make_loop();
    future = loop->run_in_executor(&busy.pool(), [] { return 1; });
  }
  busy.open();
  busy.pool().shutdown();
}

TEST(RunInExecutor, AShutDownOrFullPoolIsAnErrorThatLosesNothing) {
  auto loop = make_loop();
  BusyPool busy({.max_queued = 1});
  auto kept = std::make_shared<int>(1);
  auto first = loop->run_in_executor(&busy.pool(), [kept] { return *kept; });
  EXPECT_THROW(loop->run_in_executor(&busy.pool(), [kept] {}), RuntimeError);
  EXPECT_EQ(kept.use_count(), 2);
  busy.open();
  EXPECT_EQ(loop->run_until_complete(first), 1);
  busy.pool().shutdown();
  EXPECT_THROW(loop->run_in_executor(&busy.pool(), [kept] {}), RuntimeError);
}

TEST(RunInExecutor, APoolThatCancelsItsJobsCancelsTheFutures) {
  auto loop = make_loop();
  BusyPool busy;
  auto future = loop->run_in_executor(&busy.pool(), [] { return 1; });
  busy.pool().shutdown(false, true);
  EXPECT_THROW(loop->run_until_complete(future), CancelledError);
}

// B67
TEST(RunInExecutor, AClosedLoopRefuses) {
  auto loop = make_loop();
  loop->close();
  EXPECT_THROW(loop->run_in_executor(nullptr, [] {}), RuntimeError);
}

// An executor of the user's own.
class Immediate final : public ouro::Executor {
 public:
  void submit(ouro::Job& job) override { job.run(); }
  void shutdown(bool, bool) override {}
};

// B295: what is no executor is refused by the compiler; what is one is used.
TEST(DefaultExecutor, CanBeReplaced) {
  static_assert(!std::is_convertible_v<std::shared_ptr<int>, std::shared_ptr<ouro::Executor>>);
  auto loop = make_loop();
  EXPECT_THROW(loop->set_default_executor(nullptr), ouro::ValueError);
  loop->set_default_executor(std::make_shared<Immediate>());
  EXPECT_EQ(loop->run_until_complete(ask_thread(*loop, nullptr)), std::this_thread::get_id());
}

Coroutine<std::string> name_by_to_thread() {
  auto future = ouro::to_thread(thread_name);
  co_return co_await future;
}

// B295
TEST(ToThread, UsesTheDefaultExecutor) {
  OURO_TEST_ALONE("there is a running loop between the runs, too");
  auto loop = make_loop();
  EXPECT_EQ(loop->run_until_complete(name_by_to_thread()).substr(0, 4), "ouro");
  EXPECT_THROW(ouro::to_thread([] {}), RuntimeError);
}

// B66
TEST(DefaultExecutor, ClosingTheLoopDoesNotWaitForIt) {
  std::latch running(1);
  auto gate = std::make_shared<std::latch>(1);
  auto ended = ConcurrentFuture<>::create();
  {
    auto loop = make_loop();
    loop->run_in_executor(nullptr, [&running, gate, ended] {
      running.count_down();
      gate->wait();
      ended.set_result();
    });
    running.wait();
  }
  gate->count_down();
  ended.result();
}

}  // namespace
