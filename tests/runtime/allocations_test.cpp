// What costs memory: one frame for each coroutine, one vector for the results, and nothing else.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <new>
#include <thread>
#include <utility>
#include <vector>

#include <ouro/runtime/base_event_loop.hpp>
#include <ouro/runtime/channel.hpp>
#include <ouro/runtime/gather.hpp>
#include <ouro/runtime/locks.hpp>
#include <ouro/runtime/map.hpp>
#include <ouro/runtime/queues.hpp>
#include <ouro/runtime/sleep.hpp>

#include "support/loop_fixture.hpp"

namespace {

std::atomic<std::uint64_t> allocations{0};

}  // namespace

#if !OURO_TSAN  // which has operators of its own, not to be replaced
// Counted: everything that this program takes from the heap.
[[gnu::noinline]] void* operator new(std::size_t bytes) {
  allocations.fetch_add(1, std::memory_order_relaxed);
  if (void* memory = std::malloc(bytes ? bytes : 1)) return memory;
  throw std::bad_alloc();
}
[[gnu::noinline]] void operator delete(void* memory) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
#endif

namespace ouro {
namespace {

using namespace std::chrono_literals;

struct Costs {
  std::uint64_t heap;
  std::uint64_t frames;
};

Coroutine<int> immediate(int i) { co_return i; }

Coroutine<int> yielding(int i) {
  co_await sleep(0s);
  co_return i;
}

Coroutine<int> sleeping(int i) {
  co_await sleep(1ms);
  co_return i;
}

Coroutine<int> nested(int i) { co_return co_await immediate(i); }

template <class F>
std::vector<Coroutine<int>> many(int n, F make) {
  std::vector<Coroutine<int>> children;
  children.reserve(static_cast<std::size_t>(n));
  for (int i = 0; i < n; ++i) children.push_back(make(i));
  return children;
}

class AllocationsTest : public test::LoopTest {
 protected:
  void SetUp() override {
    if (OURO_TSAN) GTEST_SKIP() << "nothing is counted";
  }

  // Of this thread, since the test began.
  Costs costs() const {
    // Under AddressSanitizer the frames come from the heap, one by one.
    const std::uint64_t frames = counter_.count();
    return {allocations.load() - (OURO_ASAN ? frames : 0), frames};
  }
  Costs since(const Costs& before) const {
    const Costs now = costs();
    return {now.heap - before.heap, now.frames - before.frames};
  }

 private:
  detail::FrameCounter counter_;
};

TEST_F(AllocationsTest, AGatheredCoroutineCostsItsFrameAndAllTogetherTheirResults) {
  run([&]() -> Coroutine<> {
    for (const auto make : {&immediate, &yielding, &sleeping}) {
      co_await gather(many(3000, make));  // the pool and the timers have what they need
      Costs before = costs();
      std::vector<Coroutine<int>> children = many(1000, make);
      Costs cost = since(before);
      EXPECT_EQ(cost.frames, 1000U);
      EXPECT_EQ(cost.heap, 1U);  // the vector
      before = costs();
      const std::vector<int> results = co_await gather(std::move(children));
      cost = since(before);
      EXPECT_EQ(cost.frames, 0U);
      EXPECT_EQ(cost.heap, 1U);  // the results
      EXPECT_EQ(results.size(), 1000U);
    }
  });
}

TEST_F(AllocationsTest, ATupleOfChildrenCostsNothingButTheirFrames) {
  run([&]() -> Coroutine<> {
    co_await gather(immediate(1), yielding(2));
    const Costs before = costs();
    const auto results = co_await gather(immediate(1), yielding(2), sleeping(3));
    const Costs cost = since(before);
    EXPECT_EQ(results, std::tuple(1, 2, 3));
    EXPECT_EQ(cost.frames, 3U);
    EXPECT_EQ(cost.heap, 0U);
  });
}

TEST_F(AllocationsTest, FuturesInAGatherCostOneMoreVector) {
  run([&]() -> Coroutine<> {
    std::vector<Task<int>> tasks;
    for (int i = 0; i < 100; ++i) tasks.push_back(create_task(yielding(i)));
    const Costs before = costs();
    const auto results = co_await gather(std::move(tasks));
    const Costs cost = since(before);
    EXPECT_EQ(results.size(), 100U);
    EXPECT_EQ(cost.frames, 0U);
    EXPECT_LE(cost.heap, 2U);
  });
}

TEST_F(AllocationsTest, AMapCostsAFrameForEachChildAndItsResults) {
  run([&]() -> Coroutine<> {
    const std::vector<int> numbers(1000, 1);
    co_await map(immediate, numbers);
    const Costs before = costs();
    const auto results = co_await map(immediate, numbers);
    const Costs cost = since(before);
    EXPECT_EQ(results.size(), 1000U);
    EXPECT_EQ(cost.frames, 1000U);
    EXPECT_LE(cost.heap, 2U);  // the results, and the list of those that are suspended
  });
}

TEST_F(AllocationsTest, ASleepAYieldAndAnAwaitCostNothing) {
  run([&]() -> Coroutine<> {
    Future<int> done = loop.create_future<int>();
    done.set_result(1);
    co_await sleep(1ms);
    Costs before = costs();
    for (int i = 0; i < 1000; ++i) co_await sleep(0s);
    for (int i = 0; i < 20; ++i) co_await sleep(10us);
    for (int i = 0; i < 1000; ++i) co_await done;
    Costs cost = since(before);
    EXPECT_EQ(cost.frames, 0U);
    EXPECT_EQ(cost.heap, 0U);
    before = costs();
    for (int i = 0; i < 1000; ++i) co_await nested(i);
    cost = since(before);
    EXPECT_EQ(cost.frames, 2000U);
    EXPECT_EQ(cost.heap, 0U);
  });
}

TEST_F(AllocationsTest, ATaskCostsItsFrameAlone) {
  run([&]() -> Coroutine<> {
    co_await create_task(yielding(0));
    const Costs before = costs();
    for (int i = 0; i < 1000; ++i) co_await create_task(yielding(i));
    const Costs cost = since(before);
    EXPECT_EQ(cost.frames, 1000U);
    EXPECT_EQ(cost.heap, 0U);
  });
}

TEST_F(AllocationsTest, ACallbackAndAFutureCostOneBlockEach) {
  run([&]() -> Coroutine<> {
    int calls = 0;
    loop.call_soon([&calls] { ++calls; });
    co_await sleep(0s);
    const Costs before = costs();
    for (int i = 0; i < 100; ++i) {
      Future<int> future = loop.create_future<int>();
      future.add_done_callback([&calls](Future<int>) { ++calls; });
      loop.call_soon([future]() mutable { future.set_result(1); });
      co_await future;
    }
    co_await sleep(0s);
    const Costs cost = since(before);
    EXPECT_EQ(calls, 101);
    EXPECT_EQ(cost.frames, 300U);
    EXPECT_EQ(cost.heap, 0U);
  });
}

// How many bytes one frame of what `make` gives takes from the pool: frames of one size that a new thread cuts from its
// slab lie side by side.
// Neither those who wait in locks, queues and channels cost anything, nor the items, once the queue is as wide as it
// gets. Who waits for a channel has a frame, of the pool.
Coroutine<> hand_over(Lock& lock, Semaphore& semaphore, Queue<int>& from, Queue<int>& to, int n) {
  for (int i = 0; i < n; ++i) {
    const int item = co_await from.get();
    auto guard = co_await lock.scoped();
    auto permit = co_await semaphore.scoped();
    co_await to.put(item + 1);
    from.task_done();
    co_await sleep(0s);
  }
}

TEST_F(AllocationsTest, LocksAndQueuesCostNothing) {
  run([&]() -> Coroutine<> {
    Lock lock;
    Semaphore semaphore(2);
    Queue<int> one({.maxsize = 4});
    Queue<int> other({.maxsize = 4});
    Channel<int> channel(1);
    const auto round = [&]() -> Coroutine<Costs> {
      for (int i = 0; i < 4; ++i) one.put_nowait(i);
      Task<> there = create_task(hand_over(lock, semaphore, one, other, 100));
      Task<> back = create_task(hand_over(lock, semaphore, other, one, 100));
      const Costs before = costs();
      co_await there;
      co_await back;
      for (int i = 0; i < 100; ++i) {
        co_await channel.send(i);
        EXPECT_EQ(co_await channel.recv(), i);
      }
      const Costs cost = since(before);
      while (!one.empty()) one.get_nowait();
      co_return cost;
    };
    co_await round();
    const Costs cost = co_await round();
    EXPECT_EQ(cost.frames, 0U);
    EXPECT_EQ(cost.heap, 0U);
  });
}

template <class F>
std::size_t frame_bytes(F make) {
  std::size_t bytes = 0;
  std::thread measure([&] {
    std::vector<Coroutine<int>> children = many(2000, make);
    std::vector<std::uintptr_t> places;
    places.reserve(children.size());
    for (const Coroutine<int>& child : children) places.push_back(reinterpret_cast<std::uintptr_t>(child.get()));
    std::sort(places.begin(), places.end());
    bytes = places[1] - places[0];
    for (std::size_t i = 1; i < places.size(); ++i) bytes = std::min<std::size_t>(bytes, places[i] - places[i - 1]);
  });
  measure.join();
  return bytes;
}

TEST_F(AllocationsTest, AFrameIsAsSmallAsPromised) {
  if (OURO_ASAN) GTEST_SKIP() << "the pool steps aside";
  const std::size_t made = frame_bytes(immediate);
  const std::size_t asleep = frame_bytes(sleeping);
  const std::size_t parent = frame_bytes(nested);
  std::printf("bytes of a frame: Coroutine<int> %zu, asleep with its timer %zu, awaiting another %zu\n", made, asleep,
              parent);
#ifdef __OPTIMIZE__
  EXPECT_LE(made, 144U);
  EXPECT_LE(asleep, 208U);
#endif
}

}  // namespace
}  // namespace ouro
