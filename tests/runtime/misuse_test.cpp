// Wrong use gets a clear error and loses nothing: results read early, things awaited twice, loops that are closed or at
// work, memory that is not there.
#include <gmock/gmock.h>

#include <atomic>
#include <cstdlib>
#include <memory>
#include <new>
#include <ranges>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <ouro/runtime/base_event_loop.hpp>
#include <ouro/runtime/gather.hpp>
#include <ouro/runtime/map.hpp>
#include <ouro/runtime/sleep.hpp>

#include "support/loop_fixture.hpp"

namespace {

// The allocation that fails, counted down from when it is set; 0: none does.
thread_local std::uint64_t fails_at = 0;

}  // namespace

#if !OURO_TSAN  // which has operators of its own, not to be replaced
[[gnu::noinline]] void* operator new(std::size_t bytes) {
  if (fails_at != 0 && --fails_at == 0) throw std::bad_alloc();
  if (void* memory = std::malloc(bytes ? bytes : 1)) return memory;
  throw std::bad_alloc();
}
[[gnu::noinline]] void operator delete(void* memory) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
#endif

namespace ouro {
namespace {

using namespace std::chrono_literals;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::SizeIs;
using testing::StartsWith;

const std::string reused = "RuntimeError: cannot reuse already awaited coroutine";

class MisuseTest : public test::LoopTest {};

Coroutine<int> number(int i) { co_return i; }

Coroutine<int> number_later(int i) {
  co_await sleep(0s);
  co_return i;
}

TEST_F(MisuseTest, AResultReadEarlyIsAnErrorAndComesAfterAll) {
  Task<int> task = loop.create_task(number_later(3));
  EXPECT_EQ(test::thrown_by([&] { static_cast<void>(task.result()); }), "InvalidStateError: Result is not set.");
  EXPECT_EQ(test::thrown_by([&] { static_cast<void>(task.exception()); }), "InvalidStateError: Exception is not set.");
  EXPECT_EQ(run(task), 3);
  EXPECT_EQ(task.result(), 3);
}

TEST_F(MisuseTest, AGatherOfAnAwaitedCoroutineIsAnErrorAndFreesTheOthers) {
  int alive = 0;
  auto child = [](test::Counted) -> Coroutine<int> { co_return 1; };
  run([&]() -> Coroutine<> {
    std::vector<std::string> errors;
    Coroutine<int> used = number(1);
    co_await used;
    std::vector<Coroutine<int>> children;
    children.push_back(child(test::Counted(alive)));
    children.push_back(std::move(used));
    children.push_back(child(test::Counted(alive)));
    try {
      co_await gather(std::move(children));
    } catch (...) {
      errors.push_back(test::describe(std::current_exception()));
    }
    EXPECT_EQ(alive, 0);
    try {
      co_await gather(child(test::Counted(alive)), Coroutine<int>(), child(test::Counted(alive)));
    } catch (...) {
      errors.push_back(test::describe(std::current_exception()));
    }
    EXPECT_EQ(alive, 0);
    auto once = gather(number(1), number(2));
    co_await once;
    try {
      co_await once;
    } catch (...) {
      errors.push_back(test::describe(std::current_exception()));
    }
    auto gives_empty = [](int) { return Coroutine<int>(); };
    const std::vector<int> one(1);
    try {
      co_await map(gives_empty, one);
    } catch (...) {
      errors.push_back(test::describe(std::current_exception()));
    }
    EXPECT_THAT(errors, ElementsAre(reused, reused, reused, reused));
  });
}

// B91
TEST_F(MisuseTest, AnUninitialisedFutureSaysSoWhereverItIsUsed) {
  const std::string text = "RuntimeError: Future object is not initialized.";
  Future<int> future;
  Task<int> task;
  EXPECT_EQ(test::thrown_by([&] { static_cast<void>(future.done()); }), text);
  EXPECT_EQ(test::thrown_by([&] { future.set_result(1); }), text);
  EXPECT_EQ(test::thrown_by([&] { future.cancel(); }), text);
  EXPECT_EQ(test::thrown_by([&] { static_cast<void>(task.get_name()); }), text);
  EXPECT_EQ(test::thrown_by([&] { run(task); }), text);
  EXPECT_EQ(test::thrown_by([&] { run(gather(task, number(1))); }), text);
  std::vector<Future<int>> several(2);
  EXPECT_EQ(test::thrown_by([&] { run(gather(several)); }), text);
}

TEST_F(MisuseTest, AClosedLoopRefusesWorkAndDestroysTheCoroutine) {
  const std::string closed = "RuntimeError: Event loop is closed";
  int alive = 0;
  auto child = [](test::Counted) -> Coroutine<> { co_return; };
  loop.close();
  EXPECT_EQ(test::thrown_by([&] { loop.create_task(child(test::Counted(alive))); }), closed);
  EXPECT_EQ(test::thrown_by([&] { run(child(test::Counted(alive))); }), closed);
  EXPECT_EQ(test::thrown_by([&] { run(gather(child(test::Counted(alive)))); }), closed);
  EXPECT_EQ(test::thrown_by([&] { static_cast<void>(ensure_future(child(test::Counted(alive)), loop)); }), closed);
  EXPECT_EQ(test::thrown_by([&] { loop.call_soon([counted = test::Counted(alive)] {}); }), closed);
  EXPECT_EQ(test::thrown_by([&] { loop.call_soon_threadsafe([counted = test::Counted(alive)] {}); }), closed);
  EXPECT_EQ(test::thrown_by([&] { loop.call_later(1s, [counted = test::Counted(alive)] {}); }), closed);
  EXPECT_EQ(test::thrown_by([&] { loop.run_forever(); }), closed);
  EXPECT_EQ(alive, 0);
}

// B117
TEST_F(MisuseTest, WithoutARunningLoopATaskIsRefusedAndTheCoroutineDestroyed) {
  OURO_TEST_ALONE("there is a running loop between the runs, too");
  int alive = 0;
  auto child = [](test::Counted) -> Coroutine<> { co_return; };
  const std::string none = "RuntimeError: no running event loop";
  EXPECT_EQ(test::thrown_by([&] { create_task(child(test::Counted(alive))); }), none);
  EXPECT_EQ(test::thrown_by([&] { create_task(child, test::Counted(alive)); }), none);
  EXPECT_EQ(test::thrown_by([&] { static_cast<void>(ensure_future(child(test::Counted(alive)))); }), none);
  EXPECT_EQ(test::thrown_by([&] { static_cast<void>(current_task()); }), none);
  EXPECT_EQ(alive, 0);
}

// B117
TEST_F(MisuseTest, ATaskFactoryThatThrowsEndsCreateTaskAndTheCoroutineIsDestroyed) {
  int alive = 0;
  auto child = [](test::Counted) -> Coroutine<> { co_return; };
  loop.set_task_factory([](BaseEventLoop&, AnyTask, TaskOptions&) { throw std::runtime_error("no"); });
  EXPECT_EQ(test::thrown_by([&] { loop.create_task(child(test::Counted(alive))); }), "exception: no");
  EXPECT_EQ(alive, 0);
  loop.set_task_factory(nullptr);
  EXPECT_TRUE(all_tasks(loop).empty());
  run(child(test::Counted(alive)));
}

TEST_F(MisuseTest, ALoopThatRunsRefusesToRunAgainAndGoesOn) {
  OURO_TEST_ALONE("close() says there that run() ends the loops");
  run([&]() -> Coroutine<> {
    EXPECT_EQ(test::thrown_by([&] { loop.run_forever(); }), "RuntimeError: This event loop is already running");
    EXPECT_EQ(test::thrown_by([&] { run(number(1)); }), "RuntimeError: This event loop is already running");
    EXPECT_EQ(test::thrown_by([&] { loop.close(); }), "RuntimeError: Cannot close a running event loop");
    BaseEventLoop other(std::make_unique<ThreadParker>());
    EXPECT_EQ(test::thrown_by([&] { other.run_until_complete(number(1)); }),
              "RuntimeError: Cannot run the event loop while another loop is running");
    EXPECT_EQ(co_await number_later(2), 2);
  });
}

TEST_F(MisuseTest, InDebugModeAnotherThreadIsToldSo) {
  loop.set_debug(true);
  run([&]() -> Coroutine<> {
    std::vector<std::string> errors;
    Future<int> future = loop.create_future<int>();
    std::thread other([&] {
      errors.push_back(test::thrown_by([&] { loop.call_soon([] {}); }));
      errors.push_back(test::thrown_by([&] { loop.create_task(number(1)); }));
      errors.push_back(test::thrown_by([&] { future.set_result(1); }));
      errors.push_back(test::thrown_by([&] { future.cancel(); }));
    });
    other.join();
    EXPECT_THAT(errors, testing::Each(StartsWith("RuntimeError: Non-thread-safe operation invoked")));
    EXPECT_FALSE(future.done());
    EXPECT_EQ(co_await number_later(1), 1);
  });
}

TEST_F(MisuseTest, ACallbackThatThrowsIsReportedAndTheOthersRun) {
  int ran = 0;
  loop.call_soon([&] { throw std::runtime_error("callback"); });
  loop.call_soon([&] { ++ran; });
  Task<int> task = loop.create_task(number(1));
  task.add_done_callback([](Future<int>) -> void { throw std::runtime_error("done callback"); });
  task.add_done_callback([&](Future<int>) { ++ran; });
  turn(2);
  EXPECT_EQ(ran, 2);
  const auto told = take_reports();
  ASSERT_THAT(told, SizeIs(2));
  EXPECT_EQ(test::describe(told[0].exception), "exception: callback");
  EXPECT_EQ(test::describe(told[1].exception), "exception: done callback");
}

TEST_F(MisuseTest, AnExecutorThatIsShutDownRefusesAndTheLoopGoesOn) {
  ThreadPoolExecutor executor;
  executor.shutdown();
  run([&]() -> Coroutine<> {
    EXPECT_THAT(test::thrown_by([&] { loop.run_in_executor(&executor, [] { return 1; }); }), HasSubstr("shutdown"));
    EXPECT_EQ(co_await number_later(1), 1);
  });
}

TEST_F(MisuseTest, AMillionPendingTasksAtTheCloseAreOneReport) {
  constexpr int count = 1'000'000;
  int alive = 0;
  auto waits = [&](bool) -> Coroutine<> {
    test::Counted counted(alive);
    co_await sleep(24h);
  };
  for (int i = 0; i < count; ++i) loop.create_task(waits(true));
  turn();
  EXPECT_EQ(alive, count);
  loop.close();
  EXPECT_EQ(alive, 0);
  const auto told = take_reports();
  ASSERT_THAT(told, SizeIs(1));
  EXPECT_THAT(told[0].message, StartsWith("1000000 tasks were destroyed but they are pending!"));
}

// ---- Memory that is not there ----

class OutOfMemoryTest : public MisuseTest {
 protected:
  void SetUp() override {
    if (OURO_TSAN) GTEST_SKIP() << "nothing fails";
  }

  // Lets each allocation of `work` fail in its turn, until one of its runs meets none that fails.
  template <class F>
  void let_every_allocation_fail(F work) {
    for (std::uint64_t i = 1; i < 1000; ++i) {
      const std::uint64_t frames = test::live_frames();
      bool failed = false;
      fails_at = i;
      try {
        work();
      } catch (const std::bad_alloc&) {
        failed = true;
      }
      const bool through = fails_at != 0;
      fails_at = 0;
      for (int k = 0; k < 100; ++k) turn();  // a task may have been left, which can end now
      ASSERT_TRUE(failed || through) << "allocation " << i << " failed, and nobody heard of it";
      ASSERT_EQ(test::live_frames(), frames) << "after allocation " << i;
      ASSERT_TRUE(all_tasks(loop).empty()) << "after allocation " << i;
      if (through) return;
    }
    FAIL() << "it allocates for ever";
  }
};

// Its frame is too large for the pool's lists, so that it comes from the heap.
Coroutine<int> large(int i) {
  volatile char room[4096] = {};
  room[i] = 1;
  co_await sleep(0s);
  co_return room[i];
}

TEST_F(OutOfMemoryTest, WithoutMemoryForATaskNothingIsLost) {
  int alive = 0;
  let_every_allocation_fail([&] {
    auto child = [](test::Counted) -> Coroutine<int> { co_return co_await large(1); };
    TaskOptions options;
    options.name = "a name that is too long to be kept without an allocation";
    Task<int> task = loop.create_task(child(test::Counted(alive)), options);
    run(task);
  });
  EXPECT_EQ(alive, 0);
}

// Without matchers: gmock's leak when an allocation of theirs fails.
TEST_F(OutOfMemoryTest, WithoutMemoryForAGatherNothingIsLost) {
  let_every_allocation_fail([&] {
    run([&]() -> Coroutine<> {
      std::vector<Coroutine<int>> children;
      for (int i = 0; i < 3; ++i) children.push_back(large(i));
      const std::vector<int> results = co_await gather(std::move(children));
      EXPECT_TRUE(results.size() == 3 && results[2] == 1);
      std::vector<Task<int>> tasks;
      for (int i = 0; i < 3; ++i) tasks.push_back(create_task(number_later(i)));
      const std::vector<int> of_tasks = co_await gather(std::move(tasks));
      EXPECT_TRUE(of_tasks.size() == 3 && of_tasks[2] == 2);
    });
  });
}

TEST_F(OutOfMemoryTest, WithoutMemoryForAMapNothingIsLost) {
  let_every_allocation_fail([&] {
    run([&]() -> Coroutine<> {
      const auto results = co_await map(large, std::views::iota(0, 200));
      EXPECT_TRUE(results.size() == 200);
    });
  });
}

}  // namespace
}  // namespace ouro
