// run and Runner: a loop from its making to its orderly end, and SIGINT.
#include <gtest/gtest.h>

#include <pthread.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdlib>
#include <fstream>
#include <latch>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <ouro/io/event_loop.hpp>
#include <ouro/io/policies.hpp>
#include <ouro/io/runners.hpp>
#include <ouro/runtime/exceptions.hpp>
#include <ouro/runtime/generators.hpp>
#include <ouro/runtime/sleep.hpp>
#include <ouro/runtime/threads.hpp>

#include "support/child.hpp"
#include "support/test_run.hpp"

namespace ouro {
namespace {

using namespace std::chrono_literals;

using Log = std::vector<std::string>;

template <class Error, class Body>
std::string text_of(Body body) {
  try {
    body();
  } catch (const Error& error) {
    return error.what();
  }
  return {};
}

Coroutine<int> give(int value) {
  co_await sleep(0s);
  co_return value;
}
Coroutine<> fail(std::string text) {
  co_await sleep(0s);
  throw std::runtime_error(text);
}
Coroutine<bool> debugging() { co_return get_running_loop().get_debug(); }

// Sets and counts what Runner asks of its policy.
class CountingPolicy : public DefaultEventLoopPolicy {
 public:
  void set_event_loop(EventLoop* loop) override {
    {
      const std::lock_guard hold(mutex_);
      calls.push_back(loop);
    }
    DefaultEventLoopPolicy::set_event_loop(loop);
  }
  std::unique_ptr<EventLoop> new_event_loop() override {
    ++made;
    return DefaultEventLoopPolicy::new_event_loop();
  }
  std::vector<EventLoop*> calls;
  int made = 0;

 private:
  std::mutex mutex_;  // the workers of a group end at the same time
};

class Run : public testing::Test, public test::OverLoops {
 protected:
  Run() { set_event_loop_policy(policy); }
  ~Run() override { set_event_loop_policy(nullptr); }
  std::shared_ptr<CountingPolicy> policy = std::make_shared<CountingPolicy>();
  Log log;
  const int loops = static_cast<int>(test::forced_workers());
};

// ---- run ----

TEST_F(Run, GivesTheResult) {  // B1
  EXPECT_EQ(run(give(7)), 7);
  run([]() -> Coroutine<> { co_return; });
  std::unique_ptr<int> moved = run([]() -> Coroutine<std::unique_ptr<int>> { co_return std::make_unique<int>(8); });
  EXPECT_EQ(*moved, 8);
  run(sleep(0s));  // any awaitable
}

TEST_F(Run, ThrowsWhatTheCoroutineThrew) {  // B1
  EXPECT_EQ(text_of<std::runtime_error>([] { run(fail("boom")); }), "boom");
  EXPECT_THROW(run([]() -> Coroutine<> {
                 co_await sleep(0s);
                 throw 17;
               }),
               int);
  EXPECT_THROW(run([]() -> Coroutine<> {
                 co_await sleep(0s);
                 throw KeyboardInterrupt();
               }),
               KeyboardInterrupt);
  EXPECT_THROW(run([]() -> Coroutine<> {
                 co_await sleep(0s);
                 throw CancelledError("mine");
               }),
               CancelledError);
  EXPECT_EQ(run(give(1)), 1);
}

template <class T>
concept Runs = requires(T value) { run(std::move(value)); };
static_assert(Runs<Coroutine<>> && Runs<Future<int>> && !Runs<int> && !Runs<std::string>);  // B2 B14

TEST_F(Run, SwitchesDebuggingAgainstTheEnvironment) {  // B3
  EXPECT_FALSE(run(debugging()));
  EXPECT_TRUE(run(debugging(), {.debug = true}));
  ::setenv("OURO_DEBUG", "1", 1);
  EXPECT_TRUE(run(debugging()));
  EXPECT_FALSE(run(debugging(), {.debug = false}));
  ::unsetenv("OURO_DEBUG");
}

TEST_F(Run, RefusesToRunInsideALoop) {  // B4
  const auto nested = [&]() -> Coroutine<> {
    Coroutine<int> inner = give(1);
    EXPECT_EQ(text_of<RuntimeError>([&] { run(std::move(inner)); }),
              "run() cannot be called from a running event loop");
    EXPECT_FALSE(static_cast<bool>(inner));  // destroyed
    co_return;
  };
  run(nested);
  EXPECT_EQ(policy->made, loops);
}

// Notes when it is cancelled, and whether it could still await then.
Coroutine<> hang(Log& log, std::string name) {
  bool cancelled = false;
  try {
    co_await sleep(1h);
  } catch (const CancelledError&) {
    cancelled = true;
  }
  co_await sleep(1ms);
  log.push_back(name + (cancelled ? " cleaned up" : " ended"));
  if (cancelled) throw CancelledError();
}

TEST_F(Run, CancelsAndAwaitsTheTasksThatAreLeft) {  // B5
  const auto main = [&]() -> Coroutine<int> {
    create_task(hang(log, "one"));
    create_task(hang(log, "two"));
    co_await sleep(0s);
    co_return 5;
  };
  EXPECT_EQ(run(main), 5);
  EXPECT_EQ(log.size(), 2U);
  for (const std::string& line : log) EXPECT_TRUE(line.ends_with(" cleaned up")) << line;
}

TEST_F(Run, CancelsTheTasksThatAreLeftAfterAnErrorToo) {  // B5
  const auto main = [&]() -> Coroutine<> {
    create_task(hang(log, "one"));
    co_await sleep(0s);
    throw std::runtime_error("boom");
  };
  EXPECT_EQ(text_of<std::runtime_error>([&] { run(main); }), "boom");
  EXPECT_EQ(log, Log{"one cleaned up"});
}

Coroutine<> fail_when_cancelled() {
  bool cancelled = false;
  try {
    co_await sleep(1h);
  } catch (const CancelledError&) {
    cancelled = true;
  }
  if (cancelled) throw std::runtime_error("on the way out");
}

void keep_reports(Log& log) {
  get_running_loop().set_exception_handler([&log](EventLoop&, const ExceptionContext& context) {
    try {
      log.push_back(context.message + ", " + context.task);
      if (context.exception) std::rethrow_exception(context.exception);
    } catch (const std::exception& error) {
      log.back() += std::string(": ") + error.what();
    }
  });
}

TEST_F(Run, ReportsALeftTaskThatFailsWhileItIsCancelled) {  // B6
  const auto main = [&]() -> Coroutine<int> {
    keep_reports(log);
    create_task(fail_when_cancelled(), {.name = "left"});
    co_await sleep(0s);
    co_return 6;
  };
  EXPECT_EQ(run(main), 6);
  EXPECT_EQ(log, Log{"unhandled exception during run() shutdown, left: on the way out"});
}

struct Note {
  Note(Log& to, std::string what) : log(to), text(std::move(what)) {}
  Note(const Note&) = delete;
  ~Note() { log.push_back(text); }
  Log& log;
  std::string text;
};

AsyncGenerator<int> count(Log& log) {
  const Note note(log, "generator closed");
  for (int i = 0;; ++i) co_yield i;
}

TEST_F(Run, ClosesAsyncGeneratorsAfterTheTasks) {  // B7
  const auto main = [&]() -> Coroutine<> {
    keep_reports(log);
    static AsyncGenerator<int> left;
    left = count(log);
    co_await left.next();
    create_task(fail_when_cancelled(), {.name = "left"});
    co_await sleep(0s);
  };
  run(main);
  EXPECT_EQ(log, (Log{"unhandled exception during run() shutdown, left: on the way out", "generator closed"}));
}

TEST_F(Run, WaitsForTheDefaultExecutor) {
  std::latch begun(1);
  bool finished = false;
  const auto main = [&]() -> Coroutine<> {
    to_thread([&] {
      begun.count_down();
      for (int i = 0; i < 1000; ++i) std::this_thread::yield();
      finished = true;
    });
    begun.wait();
    co_return;
  };
  run(main);
  EXPECT_TRUE(finished);
}

TEST_F(Run, LeavesNoLoopBehind) {
  run(give(1));
  EXPECT_EQ(text_of<RuntimeError>([] { get_running_loop(); }), "no running event loop");
  EXPECT_NE(text_of<RuntimeError>([] { get_event_loop(); }), "");  // none is set
}

std::unique_ptr<EventLoop> factory() {
  auto loop = std::make_unique<EventLoop>();
  loop->slow_callback_duration = 12345ms;
  return loop;
}

TEST_F(Run, TakesItsLoopFromAFactory) {  // B22
  const auto main = []() -> Coroutine<std::chrono::nanoseconds> {
    co_return get_running_loop().slow_callback_duration;
  };
  EXPECT_EQ(run(main, {.loop_factory = &factory}), 12345ms);
  EXPECT_EQ(policy->made, 0);
  EXPECT_TRUE(policy->calls.empty());
  RunOptions nothing;
  nothing.loop_factory = []() -> std::unique_ptr<EventLoop> { return nullptr; };
  EXPECT_THROW(run(give(1), nothing), RuntimeError);
}

TEST_F(Run, RunsWithAndWithoutASpin) {
  for (const std::chrono::nanoseconds spin : {0ns, 50'000ns, std::chrono::nanoseconds(1ms)}) {
    const auto main = []() -> Coroutine<std::uint64_t> {
      co_await sleep(3ms);
      co_return get_running_loop().counters().spins;
    };
    const std::uint64_t spins = run(main, {.spin = spin});
    EXPECT_TRUE(spin != 0ns || spins == 0);
  }
}

// ---- Runner ----

TEST_F(Run, SeveralTimesOnOneLoop) {  // B20
  OURO_TEST_ALONE("every worker asks the policy");
  {
    Runner runner;
    EventLoop& loop = runner.get_loop();
    EXPECT_EQ(runner.run(give(1)), 1);
    EXPECT_EQ(runner.run(give(2)), 2);
    EXPECT_EQ(&runner.get_loop(), &loop);
    EXPECT_EQ(policy->calls, std::vector<EventLoop*>{&loop});
    EXPECT_EQ(&get_event_loop(), &loop);
  }
  ASSERT_EQ(policy->calls.size(), 2U);
  EXPECT_EQ(policy->calls[1], nullptr);
  EXPECT_EQ(policy->made, 1);
}

TEST_F(Run, KeepsTasksFromOneRunToTheNext) {
  Runner runner;
  Task<int> task = runner.run([]() -> Coroutine<Task<int>> { co_return create_task(give(3)); });
  EXPECT_EQ(runner.run(std::move(task)), 3);
}

TEST_F(Run, LeavesDebuggingToTheLoopUnlessItIsTold) {  // B10
  EXPECT_FALSE(Runner().get_loop().get_debug());
  EXPECT_TRUE(Runner({.debug = true}).get_loop().get_debug());
}

TEST_F(Run, RefusesEverythingOnceTheRunnerIsClosed) {  // B11 B13
  Runner runner;
  EXPECT_EQ(runner.run(give(1)), 1);
  runner.close();
  EXPECT_EQ(text_of<RuntimeError>([&] { runner.run(give(1)); }), "Runner is closed");
  EXPECT_EQ(text_of<RuntimeError>([&] { runner.get_loop(); }), "Runner is closed");
  runner.close();  // B12
  Runner unused;
  unused.close();
  unused.close();
  EXPECT_EQ(policy->made, loops);
}

TEST_F(Run, RefusesARunInsideARunOfTheSameRunner) {  // B16
  Runner runner;
  const auto main = [&]() -> Coroutine<> {
    EXPECT_EQ(text_of<RuntimeError>([&] { runner.run(give(1)); }), "run() cannot be called from a running event loop");
    EXPECT_THROW(runner.close(), RuntimeError);
    co_return;
  };
  runner.run(main);
  EXPECT_EQ(runner.run(give(2)), 2);
}

TEST_F(Run, NeverLooksAtTheResult) {  // B21
  struct Opaque {
    explicit Opaque(int v) : value(v) {}
    Opaque(Opaque&&) = default;
    Opaque& operator=(Opaque&&) = delete;
    int value;
  };
  EXPECT_EQ(run([]() -> Coroutine<Opaque> { co_return Opaque(4); }).value, 4);
}

TEST_F(Run, ClosesALoopThatTheProgramClosedAlready) {
  OURO_TEST_ALONE("close() says there that run() ends the loops");
  Runner runner;
  runner.get_loop().close();
  runner.close();
  EXPECT_NE(text_of<RuntimeError>([&] { runner.run(give(1)); }), "");
}

// ---- SIGINT ----

struct sigaction disposition() {
  struct sigaction now{};
  ::sigaction(SIGINT, nullptr, &now);
  return now;
}
bool is_default() { return disposition().sa_handler == SIG_DFL; }

class Interrupted : public Run {
 protected:
  Interrupted() { std::signal(SIGINT, SIG_DFL); }
  ~Interrupted() override { EXPECT_TRUE(is_default()); }
};

// Until this process's main thread sleeps in the kernel.
void wait_until_main_thread_sleeps() {
  const std::string path = "/proc/self/task/" + std::to_string(::getpid()) + "/stat";
  for (;;) {
    std::ifstream file(path);
    std::string stat;
    std::getline(file, stat);
    const auto name_end = stat.rfind(')');
    if (name_end != stat.npos && stat.compare(name_end, 3, ") S") == 0) return;
    std::this_thread::yield();
  }
}

Coroutine<> raise_and_sleep(Log& log) {
  EXPECT_FALSE(is_default());
  ::raise(SIGINT);
  bool cancelled = false;
  try {
    co_await sleep(1h);
  } catch (const CancelledError&) {
    cancelled = true;
  }
  log.push_back(cancelled ? "cancelled" : "ended");
  if (cancelled) throw CancelledError();
}

TEST_F(Interrupted, CancelsTheMainTaskAndThrowsKeyboardInterrupt) {  // B17
  EXPECT_THROW(run(raise_and_sleep(log)), KeyboardInterrupt);
  EXPECT_EQ(log, Log{"cancelled"});
  EXPECT_TRUE(is_default());
}

TEST_F(Interrupted, WakesTheLoopThatSleepsInTheRing) {  // B17 T19
  for (const bool directed : {true, false}) {
    for (const std::chrono::nanoseconds spin : {0ns, 50'000ns}) {
      std::thread signaller;
      const auto main = [&]() -> Coroutine<> {
        signaller = std::thread([directed, thread = ::pthread_self()] {
          wait_until_main_thread_sleeps();
          if (directed) {
            ::pthread_kill(thread, SIGINT);
          } else {
            ::raise(SIGINT);  // the handler runs on this thread
          }
        });
        co_await sleep(1h);
      };
      EXPECT_THROW(run(main, {.spin = spin}), KeyboardInterrupt);
      signaller.join();
    }
  }
}

TEST_F(Interrupted, LetsTheMainTaskGoOnIfItWantsTo) {  // B17
  const auto main = []() -> Coroutine<int> {
    bool cancelled = false;
    ::raise(SIGINT);
    try {
      co_await sleep(1h);
    } catch (const CancelledError&) {
      cancelled = true;
    }
    co_await sleep(1ms);
    co_return cancelled ? 8 : 0;
  };
  EXPECT_EQ(run(main), 8);
}

TEST_F(Interrupted, ThrowsAtTheSecondSignalWhateverTheTaskDoes) {  // B17
  const auto main = [&]() -> Coroutine<> {
    for (int round = 1; round <= 2; ++round) {
      ::raise(SIGINT);
      try {
        co_await sleep(1h);
      } catch (const CancelledError&) {
        log.push_back("cancelled");
      }
    }
    log.push_back("ended");
  };
  EXPECT_THROW(run(main), KeyboardInterrupt);
  EXPECT_EQ(log, (Log{"cancelled", "cancelled", "ended"}));  // by the signal, then by the runner's end
}

TEST_F(Interrupted, ThrowsCancelledErrorIfTheTaskWasCancelledBefore) {  // B18
  OURO_TEST_ALONE("the task that is cancelled is pinned, and not the main task");
  const auto main = [&]() -> Coroutine<> {
    const auto canceller = [](AnyTask task) -> Coroutine<> {
      co_await sleep(0s);
      task.cancel();
      ::raise(SIGINT);
    };
    create_task(canceller, current_task());
    co_await sleep(1h);
  };
  EXPECT_THROW(run(main), CancelledError);
}

TEST_F(Interrupted, CleansUpTheOtherTasks) {  // B17
  const auto main = [&]() -> Coroutine<> {
    create_task(hang(log, "other"));
    co_await sleep(0s);
    ::raise(SIGINT);
    co_await sleep(1h);
  };
  EXPECT_THROW(run(main), KeyboardInterrupt);
  EXPECT_EQ(log, Log{"other cleaned up"});
}

TEST_F(Interrupted, RunsAgainAfterwards) {
  Runner runner;
  EXPECT_THROW(runner.run(raise_and_sleep(log)), KeyboardInterrupt);
  EXPECT_TRUE(is_default());
  EXPECT_EQ(runner.run(give(1)), 1);
  EXPECT_THROW(runner.run(raise_and_sleep(log)), KeyboardInterrupt);
}

TEST_F(Interrupted, LeavesAHandlerOfTheProgramAlone) {  // B19
  static int signals;
  signals = 0;
  std::signal(SIGINT, [](int) { ++signals; });
  const auto main = []() -> Coroutine<int> {
    ::raise(SIGINT);
    co_await sleep(1ms);
    co_return signals;
  };
  EXPECT_EQ(run(main), 1);
  std::signal(SIGINT, SIG_IGN);
  EXPECT_EQ(run(main), 1);
  EXPECT_EQ(disposition().sa_handler, SIG_IGN);
  std::signal(SIGINT, SIG_DFL);
}

TEST_F(Interrupted, InstallsNothingOnOtherThreads) {  // B19
  std::thread([] {
    EXPECT_TRUE(run([]() -> Coroutine<bool> {
      co_await sleep(0s);
      co_return is_default();
    }));
  }).join();
}

TEST_F(Interrupted, ReachesTheMainThreadWhileOthersRunLoops) {  // B17
  std::latch other_runs(1);
  EventLoop* other_loop = nullptr;
  std::thread other([&] {
    const auto main = [&]() -> Coroutine<> {
      other_loop = &get_running_loop();
      other_runs.count_down();
      co_await sleep(1h);
    };
    EXPECT_THROW(run(main), CancelledError);
  });
  other_runs.wait();
  EXPECT_THROW(run(raise_and_sleep(log)), KeyboardInterrupt);
  other_loop->call_soon_threadsafe([&] {
    for (AnyTask& task : all_tasks()) task.cancel();
  });
  other.join();
}

TEST_F(Interrupted, IsHandledByAForkedChildForItself) {  // B86
#if OURO_TSAN
  OURO_TEST_ALONE("ThreadSanitizer lets a forked child start no threads");
#endif
  const auto main = [&]() -> Coroutine<bool> {
    const bool good = test::in_child([&] {
      if (!is_default()) return false;
      try {
        run(raise_and_sleep(log));
      } catch (const KeyboardInterrupt&) {
        return is_default();
      }
      return false;
    });
    co_await sleep(1ms);  // nothing of the child's signal came here
    co_return good;
  };
  EXPECT_TRUE(run(main));
}

}  // namespace
}  // namespace ouro
