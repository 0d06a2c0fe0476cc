// Locks, events, semaphores, conditions and barriers used by floating and pinned tasks on several threads: nobody is in
// two places, and no turn, permit or wake-up is lost, whoever is cancelled.
#include <ouro/runtime/locks.hpp>

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <ouro/runtime/conditions.hpp>
#include <ouro/runtime/gather.hpp>
#include <ouro/runtime/sleep.hpp>
#include <ouro/runtime/tasks.hpp>

#include "support/group.hpp"

namespace ouro {
namespace {

using namespace std::chrono_literals;

class GroupLocks : public test::GroupsOfAnySize {
 protected:
  // Half of the tasks float, the others are pinned to one worker each.
  template <class F>
  static Task<> start(int i, F&& make) {
    if (i % 2 == 0) return spawn(make());
    const auto loops = workers();
    return loops[static_cast<std::size_t>(i / 2) % loops.size()]->create_task(make());
  }
  // Waits for all; those that were cancelled have ended, too.
  static Coroutine<> end(std::vector<Task<>> tasks) {
    for (Task<>& task : tasks) {
      try {
        co_await task;
      } catch (const CancelledError&) {
      }
    }
  }
};

// B257, B259, B260, B261, T11: plain data under a lock, and tasks that are cancelled at any moment.
TEST_P(GroupLocks, OneTaskAtATime) {
  Lock lock;
  long counted = 0;
  std::atomic<long> entered{0};
  auto take = [&](int times) -> Coroutine<> {
    for (int i = 0; i < times; ++i) {
      auto guard = co_await lock.scoped();
      entered.fetch_add(1, std::memory_order_relaxed);
      const long before = counted;
      if (i % 8 == 0) co_await sleep(0s);
      counted = before + 1;
    }
  };
  run([&]() -> Coroutine<> {
    std::vector<Task<>> tasks;
    for (int i = 0; i < 32; ++i) tasks.push_back(start(i, [&] { return take(200); }));
    for (int i = 0; i < 32; i += 3) {
      co_await sleep(0s);
      tasks[static_cast<std::size_t>(i)].cancel();
    }
    co_await end(std::move(tasks));
    EXPECT_FALSE(lock.locked());
  }());
  EXPECT_GE(entered.load(), counted);  // cancelled between the two
  EXPECT_LE(entered.load() - counted, 32);
  EXPECT_GE(counted, 21 * 200);
}

// B272, B273, B274, T13
TEST_P(GroupLocks, NoPermitIsLost) {
  Semaphore semaphore(3);
  test::Crowd crowd;
  auto enter = [&](int times) -> Coroutine<> {
    for (int i = 0; i < times; ++i) {
      auto guard = co_await semaphore.scoped();
      struct Inside {
        test::Crowd& crowd;
        explicit Inside(test::Crowd& of) : crowd(of) { crowd.enter(); }
        Inside(const Inside&) = delete;
        ~Inside() { crowd.leave(); }
      } const inside(crowd);
      if (i % 4 == 0) co_await sleep(0s);
    }
  };
  run([&]() -> Coroutine<> {
    std::vector<Task<>> tasks;
    for (int i = 0; i < 32; ++i) tasks.push_back(start(i, [&] { return enter(100); }));
    for (int i = 0; i < 32; i += 2) {
      co_await sleep(0s);
      tasks[static_cast<std::size_t>(i)].cancel();
    }
    co_await end(std::move(tasks));
    for (int i = 0; i < 3; ++i) EXPECT_TRUE(semaphore.try_acquire());
    EXPECT_TRUE(semaphore.locked());
  }());
  EXPECT_LE(crowd.most(), 3);
  EXPECT_EQ(crowd.inside(), 0);
}

// B264, B265
TEST_P(GroupLocks, EventsWakeWhoeverWaits) {
  for (int round = 0; round < 50; ++round) {
    std::atomic<int> came{0};
    std::atomic<int> cancelled{0};
    Event event;
    auto wait = [&]() -> Coroutine<> {
      try {
        EXPECT_TRUE(co_await event.wait());
        ++came;
      } catch (const CancelledError&) {
        ++cancelled;
      }
    };
    run([&]() -> Coroutine<> {
      std::vector<Task<>> tasks;
      for (int i = 0; i < 24; ++i) tasks.push_back(start(i, wait));
      co_await sleep(0s);
      Task<> sets = spawn([](Event& e) -> Coroutine<> {
        e.set();
        co_return;
      }(event));
      for (std::size_t i = 0; i < 24; i += 5) tasks[i].cancel();
      co_await end(std::move(tasks));
      co_await sets;
    }());
    EXPECT_LE(came + cancelled, 24);  // some may have been cancelled before they began
    EXPECT_GE(came.load(), 19);
  }
}

// B268, B270, T12: what is put is taken, though those that are notified are cancelled.
TEST_P(GroupLocks, NoNotificationIsLost) {
  Condition condition;
  int items = 0;
  std::atomic<int> taken{0};
  auto take = [&]() -> Coroutine<> {
    auto guard = co_await condition.scoped();
    co_await condition.wait_for([&] { return items > 0; });
    --items;
    ++taken;
  };
  auto put = [&](int times) -> Coroutine<> {
    for (int i = 0; i < times; ++i) {
      auto guard = co_await condition.scoped();
      ++items;
      condition.notify();
    }
  };
  run([&]() -> Coroutine<> {
    std::vector<Task<>> takers;
    std::vector<Task<>> putters;
    for (int i = 0; i < 60; ++i) takers.push_back(start(i, take));
    co_await sleep(0s);
    for (int i = 0; i < 4; ++i) putters.push_back(start(i, [&] { return put(10); }));
    for (std::size_t i = 0; i < 60; i += 3) takers[i].cancel();  // 40 are left
    co_await end(std::move(putters));
    co_await test::until([&] { return taken == 40; });
    for (Task<>& task : takers) task.cancel();
    co_await end(std::move(takers));
  }());
  EXPECT_EQ(taken.load(), 40);
  EXPECT_EQ(items, 0);
}

// B276, B277
TEST_P(GroupLocks, BarriersKeepStep) {
  constexpr int parties = 6;
  constexpr int rounds = 60;
  Barrier barrier(parties);
  std::atomic<int> sum{0};
  std::atomic<int> inside[rounds]{};
  auto march = [&]() -> Coroutine<> {
    for (int round = 0; round < rounds; ++round) {
      ++inside[round];
      sum += co_await barrier.wait();
      EXPECT_EQ(inside[round].load(), parties);
    }
  };
  run([&]() -> Coroutine<> {
    std::vector<Task<>> tasks;
    for (int i = 0; i < parties; ++i) tasks.push_back(start(i, march));
    co_await end(std::move(tasks));
  }());
  EXPECT_EQ(sum.load(), rounds * parties * (parties - 1) / 2);
}

TEST_P(GroupLocks, ReadersAndWriters) {
  RWLock lock;
  long first = 0;
  long second = 0;
  auto write = [&](int times) -> Coroutine<> {
    for (int i = 0; i < times; ++i) {
      auto guard = co_await lock.scoped_write();
      ++first;
      if (i % 8 == 0) co_await sleep(0s);
      second = first;
    }
  };
  auto read = [&](int times) -> Coroutine<> {
    for (int i = 0; i < times; ++i) {
      auto guard = co_await lock.scoped_read();
      const long seen = first;
      if (i % 8 == 0) co_await sleep(0s);
      EXPECT_EQ(seen, second);
    }
  };
  run([&]() -> Coroutine<> {
    std::vector<Task<>> tasks;
    for (int i = 0; i < 24; ++i) {
      tasks.push_back(start(i, [&] { return i % 4 == 0 ? write(50) : read(50); }));
    }
    for (std::size_t i = 1; i < 24; i += 5) {
      co_await sleep(0s);
      if (i % 4 != 0) tasks[i].cancel();
    }
    co_await end(std::move(tasks));
    EXPECT_FALSE(lock.locked());
  }());
  EXPECT_EQ(first, 6 * 50);
}

// The children of gathers, of floating and of pinned parents, wait as tasks do.
TEST_P(GroupLocks, ChildrenOfGathers) {
  Lock lock;
  long counted = 0;
  auto child = [&]() -> Coroutine<> {
    auto guard = co_await lock.scoped();
    const long before = counted;
    co_await sleep(0s);
    counted = before + 1;
  };
  auto parent = [&]() -> Coroutine<> {
    std::vector<Coroutine<>> children;
    for (int i = 0; i < 20; ++i) children.push_back(child());
    co_await gather(std::move(children));
  };
  run([&]() -> Coroutine<> {
    std::vector<Task<>> tasks;
    for (int i = 0; i < 8; ++i) tasks.push_back(start(i, parent));
    co_await end(std::move(tasks));
  }());
  EXPECT_EQ(counted, 160);
}

// A lock of nobody's, used by tasks of a group and of two loops that are alone, and released by a thread without one.
TEST_P(GroupLocks, ALockOfTheWholeProcess) {
  Lock lock;
  long counted = 0;
  auto take = [&]() -> Coroutine<> {
    for (int i = 0; i < 100; ++i) {
      auto guard = co_await lock.scoped();
      ++counted;
      if (i % 16 == 0) co_await sleep(0s);
    }
  };
  auto main = [&]() -> Coroutine<> {
    std::vector<Task<>> tasks;
    for (int i = 0; i < 4; ++i) tasks.push_back(start(i, take));
    co_await end(std::move(tasks));
  };
  ASSERT_TRUE(lock.try_acquire());
  std::vector<std::thread> threads;
  for (const unsigned n : {1U, GetParam(), 1U}) threads.emplace_back([&, n] { run_on(n, main()); });
  lock.release();
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(counted, 3 * 4 * 100);
}

// Whether it was found set, or woke who waited: the one that sets it has left it.
TEST_P(GroupLocks, AnEventMayGoAsSoonAsAWaitForItHasReturned) {
  run([]() -> Coroutine<> {
    for (int i = 0; i < 3000; ++i) {
      test::Grave<Event> event;
      Task<> sets = spawn([&event]() -> Coroutine<> {
        event->set();
        co_return;
      });
      if (i % 2 == 0) co_await test::until([&] { return event->is_set(); });
      co_await event->wait();
      event.bury();
      co_await sets;
      EXPECT_TRUE(event.untouched()) << i;
    }
  });
}

INSTANTIATE_TEST_SUITE_P(Workers, GroupLocks, testing::Values(2U, 4U), testing::PrintToStringParamName());

}  // namespace
}  // namespace ouro
