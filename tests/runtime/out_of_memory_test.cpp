// Allocations that fail while tasks, futures and callbacks are made: std::bad_alloc comes out, nothing leaks, and the
// loop goes on. A program of its own, because it replaces operator new.
#include <gmock/gmock.h>

#include <array>
#include <cstddef>
#include <cstdlib>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include <ouro/runtime/futures.hpp>
#include <ouro/runtime/gather.hpp>
#include <ouro/runtime/sleep.hpp>
#include <ouro/runtime/tasks.hpp>

#include "support/loop_fixture.hpp"

namespace {

// While it is not negative, so many more allocations succeed on this thread and the next one fails.
thread_local long allocations_left = -1;
thread_local bool failed = false;

[[maybe_unused]] void* allocate(std::size_t bytes) {
  if (allocations_left >= 0 && allocations_left-- == 0) {
    failed = true;
    throw std::bad_alloc();
  }
  if (void* memory = std::malloc(bytes != 0 ? bytes : 1)) return memory;
  throw std::bad_alloc();
}

}  // namespace

#if !OURO_TSAN  // which has operators of its own, not to be replaced
void* operator new(std::size_t bytes) { return allocate(bytes); }
void* operator new[](std::size_t bytes) { return allocate(bytes); }
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete[](void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
void operator delete[](void* memory, std::size_t) noexcept { std::free(memory); }
#endif

namespace ouro {
namespace {

using namespace std::chrono_literals;
using test::Counted;

class OutOfMemoryTest : public test::LoopTest {
 protected:
  void SetUp() override {
    LoopTest::SetUp();
    if (OURO_TSAN) GTEST_SKIP() << "no allocation fails";
  }

  // Calls `f` again and again, and lets one allocation after the other fail, until none is left to fail. What fails
  // must throw bad_alloc, and leave a loop that works.
  template <class F>
  void fail_each_allocation(F&& f) {
    for (long n = 0; n < 1000; ++n) {
      failed = false;
      allocations_left = n;
      bool threw = false;
      try {
        f();
      } catch (const std::bad_alloc&) {
        threw = true;
      }
      allocations_left = -1;
      EXPECT_EQ(threw, failed) << "allocation " << n;
      EXPECT_EQ(probe(), 42) << "allocation " << n;
      turn(3);  // what was scheduled before the failure ends
      EXPECT_EQ(alive, 0) << "allocation " << n;
      if (!failed) return;
      ++failures;
    }
    ADD_FAILURE() << "there is no end";
  }

  int probe() {
    const auto body = []() -> Coroutine<int> {
      co_await sleep(0ms);
      co_return 42;
    };
    return run(body());
  }

  int alive = 0;
  int failures = 0;
};

// Its frame is larger than what comes from the pool, and so needs operator new.
Coroutine<int> large(Counted) {
  std::array<char, 4096> local{};
  asm volatile("" : : "r"(local.data()) : "memory");  // or the compiler finds out that most of it is not needed
  co_await sleep(0ms);
  local[17] = 1;
  co_await sleep(0ms);
  co_return local[17];
}

TEST_F(OutOfMemoryTest, ALargeFrameThatCannotBeAllocatedThrowsAtTheCall) {
  fail_each_allocation([this] { EXPECT_EQ(run(large(Counted(alive))), 1); });
  EXPECT_GT(failures, 0);
}

TEST_F(OutOfMemoryTest, ATaskWithANameThrowsAndDestroysTheCoroutine) {
  const auto body = [](Counted) -> Coroutine<> { co_await sleep(0ms); };
  fail_each_allocation([&] {
    const TaskOptions options{.name = "a name that does not fit into a small string"};
    run(loop.create_task(body(Counted(alive)), options));
  });
  EXPECT_GT(failures, 0);  // of the text; what it lies in may come from the pool of frames
}

TEST_F(OutOfMemoryTest, ANestedFrameThrowsInTheCaller) {
  const auto body = [](int& counter) -> Coroutine<int> {
    int result = 0;
    try {
      result = co_await large(Counted(counter));
    } catch (const std::bad_alloc&) {
      result = -1;
    }
    co_return result;
  };
  int caught = 0;
  fail_each_allocation([&] {
    if (run(body(alive)) == 1) return;
    ++caught;
    throw std::bad_alloc();
  });
  EXPECT_EQ(caught, 1);
}

struct Big {
  std::array<char, 4096> bytes{};
};

TEST_F(OutOfMemoryTest, ALargeFutureOrCallbackThrows) {
  fail_each_allocation([this] {
    auto future = loop.create_future<Big>();
    future.add_done_callback([big = Big(), counted = Counted(alive)](Future<Big>) { static_cast<void>(big); });
    auto handle = loop.call_soon([big = Big(), counted = Counted(alive)] { static_cast<void>(big); });
    auto timer = loop.call_later(1h, [big = Big(), counted = Counted(alive)] { static_cast<void>(big); });
    handle.cancel();
    timer.cancel();
  });
  EXPECT_GE(failures, 4);
}

TEST_F(OutOfMemoryTest, AGatherThatCannotAllocateItsResultsThrowsAtTheAwait) {
  const auto body = [](int& counter) -> Coroutine<std::size_t> {
    std::vector<Coroutine<int>> children;
    for (int i = 0; i < 3; ++i) children.push_back(large(Counted(counter)));
    auto all = gather(std::move(children));
    const auto results = co_await all;
    co_return results.size();
  };
  fail_each_allocation([&] { EXPECT_EQ(run(body(alive)), 3U); });
  EXPECT_GT(failures, 2);
}

TEST_F(OutOfMemoryTest, ACancelMessageThatCannotBeKeptIsLostAndTheCancelIsNot) {
  const std::string message(100, 'm');
  const auto body = []() -> Coroutine<> { co_await sleep(1h); };
  for (long n = 0; n < 4; ++n) {
    auto task = loop.create_task(body());
    turn();
    std::string copy = message;
    allocations_left = n;
    EXPECT_TRUE(task.cancel(std::move(copy)));
    allocations_left = -1;
    turn();
    EXPECT_TRUE(task.cancelled());
  }
}

}  // namespace
}  // namespace ouro
