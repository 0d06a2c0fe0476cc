// Queues between tasks on several threads: each item arrives once, whoever is cancelled meanwhile.
#include <ouro/runtime/queues.hpp>

#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include <ouro/runtime/gather.hpp>
#include <ouro/runtime/sleep.hpp>
#include <ouro/runtime/tasks.hpp>

#include "support/group.hpp"

namespace ouro {
namespace {

using namespace std::chrono_literals;

class GroupQueues : public test::GroupsOfAnySize {
 protected:
  template <class F>
  static Task<> start(int i, F&& make) {
    if (i % 2 == 0) return spawn(make());
    const auto loops = workers();
    return loops[static_cast<std::size_t>(i / 2) % loops.size()]->create_task(make());
  }
  static Coroutine<> end(std::vector<Task<>> tasks) {
    for (Task<>& task : tasks) {
      try {
        co_await task;
      } catch (const CancelledError&) {
      }
    }
  }

  // Producers, of which the last are cancelled, and consumers that are cancelled and replaced.
  template <class Q>
  static void hand_over(Q& queue) {
    constexpr int items = 300;
    std::atomic<long> put{0};
    std::atomic<long> got{0};
    std::atomic<long> put_count{0};
    std::atomic<long> got_count{0};
    auto produce = [&](int base) -> Coroutine<> {
      for (int i = 0; i < items; ++i) {
        co_await queue.put(base + i);
        put += base + i;
        ++put_count;
      }
    };
    auto consume = [&]() -> Coroutine<> {
      for (;;) {
        const int item = co_await queue.get();
        got += item;
        ++got_count;
        queue.task_done();
      }
    };
    run([&]() -> Coroutine<> {
      std::vector<Task<>> producers;
      std::vector<Task<>> consumers;
      for (int i = 0; i < 10; ++i) producers.push_back(start(i, [&] { return produce(1000 * i); }));
      for (int i = 0; i < 20; ++i) consumers.push_back(start(i, consume));
      for (std::size_t i = 0; i < 10; ++i) {
        co_await sleep(0s);
        consumers[i].cancel();
        if (i >= 7) producers[i].cancel();
      }
      co_await end(std::move(producers));
      co_await queue.join();
      for (Task<>& task : consumers) task.cancel();
      co_await end(std::move(consumers));
      EXPECT_TRUE(queue.empty() && !queue.full());
    }());
    EXPECT_EQ(put_count.load(), got_count.load());
    EXPECT_EQ(put.load(), got.load());
    EXPECT_GE(got_count.load(), 7 * items);
  }
};

// B285, B286, B287, B289, B290, T14
TEST_P(GroupQueues, NoItemIsLost) {
  Queue<int> bounded({.maxsize = 4});
  hand_over(bounded);
  Queue<int> unbounded;
  hand_over(unbounded);
}
TEST_P(GroupQueues, NoItemOfTheOthersIsLost) {
  LifoQueue<int> lifo({.maxsize = 3});
  hand_over(lifo);
  PriorityQueue<int> least({.maxsize = 1});
  hand_over(least);
}

// B291: all who wait end, and every item that went in comes out.
TEST_P(GroupQueues, Shutdown) {
  for (int round = 0; round < 30; ++round) {
    Queue<int> queue({.maxsize = 2});
    std::atomic<int> put{0};
    std::atomic<int> got{0};
    auto produce = [&]() -> Coroutine<> {
      try {
        for (;;) {
          co_await queue.put(1);
          ++put;
        }
      } catch (const QueueShutDown&) {
      }
    };
    auto consume = [&]() -> Coroutine<> {
      try {
        for (;;) got += co_await queue.get();
      } catch (const QueueShutDown&) {
      }
    };
    run([&]() -> Coroutine<> {
      std::vector<Task<>> tasks;
      for (int i = 0; i < 12; ++i) {
        tasks.push_back(i % 3 == 0 ? start(i, produce) : start(i, consume));
      }
      co_await test::until([&] { return got > 20; });
      queue.shutdown();
      co_await end(std::move(tasks));
    }());
    EXPECT_EQ(put.load(), got.load());
  }
}

// B292: join() ends, whatever was on its way.
TEST_P(GroupQueues, ShutdownAtOnce) {
  for (int round = 0; round < 30; ++round) {
    Queue<int> queue({.maxsize = 4});
    auto produce = [&]() -> Coroutine<> {
      try {
        for (;;) co_await queue.put(1);
      } catch (const QueueShutDown&) {
      }
    };
    auto consume = [&]() -> Coroutine<> {
      try {
        for (;;) {
          co_await queue.get();
          queue.task_done();
        }
      } catch (const QueueShutDown&) {
      }
    };
    run([&]() -> Coroutine<> {
      std::vector<Task<>> tasks;
      for (int i = 0; i < 8; ++i) tasks.push_back(i % 2 == 0 ? start(i, produce) : start(i, consume));
      for (int i = 0; i < round; ++i) co_await sleep(0s);
      Task<> joins = spawn([](Queue<int>& q) -> Coroutine<> { co_await q.join(); }(queue));
      queue.shutdown(true);
      co_await joins;
      co_await end(std::move(tasks));
    }());
  }
}

// A thread without a loop hands items to a group, and one of another loop takes some.
TEST_P(GroupQueues, FromAnyThread) {
  Queue<int> queue;
  std::atomic<long> sum{0};
  auto consume = [&]() -> Coroutine<> {
    try {
      for (;;) sum += co_await queue.get();
    } catch (const QueueShutDown&) {
    }
  };
  std::thread outside([&] {
    for (int i = 1; i <= 1000; ++i) queue.put_nowait(i);
    queue.shutdown();
  });
  std::thread alone([&] { run_on(1, consume()); });
  run([&]() -> Coroutine<> { co_await gather(consume(), consume(), consume()); }());
  alone.join();
  outside.join();
  EXPECT_EQ(sum.load(), 500500);
}

INSTANTIATE_TEST_SUITE_P(Workers, GroupQueues, testing::Values(2U, 4U), testing::PrintToStringParamName());

}  // namespace
}  // namespace ouro
