// Tasks, futures and callbacks over several loops: where they run, what crosses between them, and in which order.
#include <gmock/gmock.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <memory>
#include <set>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <ouro/ouro.hpp>

#include "support/group.hpp"

namespace ouro {
namespace {

using namespace std::chrono_literals;
using test::GroupTest;
using test::Ledger;
using test::meet;
using test::thrown_by;
using test::until;
using testing::ElementsAre;

constexpr unsigned workers_here = 4;

class GroupTasks : public GroupTest {
 protected:
  template <class A>
  static decltype(auto) run(A&& main) {
    return run_on(workers_here, std::forward<A>(main));
  }
};

Coroutine<int> give(int value) {
  co_await sleep(0s);
  co_return value;
}

Coroutine<EventLoop*> where() {
  co_await sleep(0s);
  co_return &current_loop();
}

// Every worker but the caller's is held by a task that runs, until `go`.
class Holding {
 public:
  // Held are those that `held` gives; awaits until they are.
  Coroutine<> hold(std::vector<EventLoop*> held) {
    const auto wait = [this]() -> Coroutine<> {
      ++holding_;
      while (!go_) std::this_thread::yield();
      co_return;
    };
    for (EventLoop* loop : held) tasks_.push_back(loop->create_task(wait()));
    co_await until([this, n = static_cast<int>(held.size())] { return holding_ == n; });
  }
  Coroutine<> let_go() {
    go_ = true;
    for (const Task<>& task : tasks_) co_await task;
  }
  void release() noexcept { go_ = true; }

 private:
  std::atomic<int> holding_{0};
  std::atomic<bool> go_{false};
  std::vector<Task<>> tasks_;
};

// ---- Homes ----

Coroutine<> stays(EventLoop& home, const std::vector<EventLoop*>& loops, int rounds) {
  const auto thread = std::this_thread::get_id();
  const auto check = [&] { EXPECT_TRUE(&current_loop() == &home && std::this_thread::get_id() == thread); };
  for (int i = 0; i < rounds; ++i) {
    check();
    co_await sleep(0s);
    check();
    EXPECT_EQ(co_await spawn(give(i)), i);
    check();
    EXPECT_EQ(co_await loops[static_cast<std::size_t>(i) % loops.size()]->create_task(give(i)), i);
    check();
    EXPECT_EQ(co_await to_thread([i] { return i; }), i);
    check();
    const auto [a, b] = co_await gather(give(1), give(2));
    EXPECT_EQ(a + b, 3);
    check();
    co_await sleep(50us);
    check();
  }
}

TEST_F(GroupTasks, APinnedTaskIsAlwaysOnItsLoop) {
  const auto main = []() -> Coroutine<> {
    const std::vector<EventLoop*> loops = workers();
    std::vector<Task<>> tasks;
    for (int i = 0; i < 3; ++i) {
      for (EventLoop* loop : loops) tasks.push_back(loop->create_task(stays(*loop, loops, 20)));
    }
    co_await gather(std::move(tasks));
  };
  run(main);
}

TEST_F(GroupTasks, WhatAPinnedTaskMakesIsPinnedThere) {
  const auto children = [](EventLoop& home) -> Coroutine<> {
    for (int i = 0; i < 20; ++i) {
      EXPECT_EQ(co_await create_task(where()), &home);
      const auto [a, b] = co_await gather(where(), where());
      EXPECT_TRUE(a == &home && b == &home);
      const std::vector<EventLoop*> mapped = co_await map([](int) { return where(); }, std::views::iota(0, 5));
      EXPECT_EQ(std::count(mapped.begin(), mapped.end(), &home), 5);
    }
  };
  const auto main = [&]() -> Coroutine<> {
    for (EventLoop* loop : workers()) co_await loop->create_task(children(*loop));
  };
  run(main);
}

TEST_F(GroupTasks, WhatACallbackMakesIsPinnedThere) {
  const auto main = []() -> Coroutine<> {
    for (EventLoop* loop : workers()) {
      Future<EventLoop*> seen = loop->create_future<EventLoop*>();
      loop->call_soon([seen]() mutable {
        EXPECT_FALSE(current_task());
        create_task([seen]() mutable -> Coroutine<> { seen.set_result(co_await where()); });
      });
      EXPECT_EQ(co_await seen, loop);
    }
  };
  run(main);
}

// All workers but one are held: only a floating task could run elsewhere, and there is one place left for all.
TEST_F(GroupTasks, FloatingTasksRunWhereThereIsRoom) {
  const auto maker = [](std::vector<Task<EventLoop*>>& made) -> Coroutine<> {
    made.push_back(spawn(where()));
    co_return;
  };
  const auto main = [&]() -> Coroutine<> {
    const std::vector<EventLoop*> loops = workers();
    std::vector<Task<EventLoop*>> made;
    for (EventLoop* loop : loops) co_await loop->create_task(maker(made));
    made.push_back(create_task(where()));
    for (Task<EventLoop*>& task : made) co_await task;
    Holding holding;
    const std::vector<EventLoop*> held(loops.begin() + 1, loops.end());
    co_await loops[0]->create_task(holding.hold(held));
    for (int i = 0; i < 10; ++i) {
      EXPECT_EQ(co_await spawn(where()), loops[0]);
      EXPECT_EQ(co_await create_task(where()), loops[0]);
    }
    co_await holding.let_go();
  };
  run(main);
}

TEST_F(GroupTasks, AFloatingTasksResultComesToThePinnedAwaitersLoop) {
  const auto main = []() -> Coroutine<> {
    const auto pinned = [](EventLoop& home, Task<int> task, int expected) -> Coroutine<> {
      EXPECT_EQ(co_await task, expected);
      EXPECT_EQ(&current_loop(), &home);
    };
    std::vector<Task<>> all;
    for (int i = 0; i < 100; ++i) {
      Task<int> task = spawn(give(i));
      for (EventLoop* loop : workers()) all.push_back(loop->create_task(pinned(*loop, task, i)));
    }
    co_await gather(std::move(all));
  };
  run(main);
}

// ---- Stealing ----

TEST_F(GroupTasks, AsManyTasksRunAtOnceAsThereAreWorkers) {
  const auto main = []() -> Coroutine<> {
    const auto meeting = [](std::atomic<int>& arrived) -> Coroutine<std::thread::id> {
      meet(arrived, workers_here);
      co_return std::this_thread::get_id();
    };
    for (int round = 0; round < 20; ++round) {
      std::atomic<int> arrived{0};
      std::vector<Task<std::thread::id>> tasks;
      for (unsigned i = 0; i < workers_here; ++i) tasks.push_back(spawn(meeting(arrived)));
      std::set<std::thread::id> threads;
      for (Task<std::thread::id>& task : tasks) threads.insert(co_await task);
      EXPECT_EQ(threads.size(), workers_here);
    }
  };
  run(main);
}

TEST_F(GroupTasks, ChildrenOfAGatherRunAtOnce) {
  const auto main = []() -> Coroutine<> {
    const auto meeting = [](std::atomic<int>& arrived) -> Coroutine<> {
      meet(arrived, workers_here);
      co_return;
    };
    for (int round = 0; round < 20; ++round) {
      std::atomic<int> arrived{0};
      co_await gather(meeting(arrived), meeting(arrived), meeting(arrived), meeting(arrived));
      arrived = 0;
      co_await map([&](int) { return meeting(arrived); }, std::views::iota(0U, workers_here));
    }
  };
  run(main);
}

TEST_F(GroupTasks, WokenTasksAreStolenToo) {
  const auto main = []() -> Coroutine<> {
    const auto meeting = [](std::atomic<int>& ready, Future<> start, std::atomic<int>& arrived) -> Coroutine<> {
      ++ready;
      co_await start;
      meet(arrived, workers_here);
    };
    for (int round = 0; round < 20; ++round) {
      std::atomic<int> ready{0};
      std::atomic<int> arrived{0};
      Future<> start = current_loop().create_future();
      std::vector<Task<>> tasks;
      for (unsigned i = 0; i < workers_here; ++i) tasks.push_back(spawn(meeting(ready, start, arrived)));
      co_await until([&] { return ready == workers_here; });
      start.set_result();
      co_await gather(std::move(tasks));
    }
  };
  run(main);
}

// ---- Futures ----

TEST_F(GroupTasks, AFutureIsCompletedFromAnyWorker) {
  const auto main = []() -> Coroutine<> {
    const std::vector<EventLoop*> loops = workers();
    const auto complete = [](Future<std::string> future, std::string value) -> Coroutine<> {
      future.set_result(std::move(value));
      co_return;
    };
    const auto await_it = [](Future<std::string> future) -> Coroutine<std::string> { co_return co_await future; };
    for (EventLoop* owner : loops) {
      for (EventLoop* completer : loops) {
        Future<std::string> future = owner->create_future<std::string>();
        std::vector<Task<std::string>> awaiters;
        for (EventLoop* loop : loops) awaiters.push_back(loop->create_task(await_it(future)));
        awaiters.push_back(spawn(await_it(future)));
        std::string value = "a value too long to be kept in place";
        Task<> completing = completer->create_task(complete(future, value));
        for (Task<std::string>& task : awaiters) EXPECT_EQ(co_await task, value);
        co_await completing;
      }
    }
  };
  run(main);
}

TEST_F(GroupTasks, OneOfTwoWhoSetAResultIsRefused) {
  const auto main = []() -> Coroutine<> {
    const auto set = [](Future<int> future, std::atomic<int>& arrived, int value) -> Coroutine<int> {
      meet(arrived, 2);
      try {
        if (value == 1) {
          future.set_result(value);
        } else {
          future.set_exception(std::runtime_error("two"));
        }
      } catch (const InvalidStateError&) {
        co_return 0;
      }
      co_return value;
    };
    for (int round = 0; round < 500; ++round) {
      Future<int> future = current_loop().create_future<int>();
      std::atomic<int> arrived{0};
      const auto [a, b] = co_await gather(spawn(set(future, arrived, 1)), spawn(set(future, arrived, 2)));
      EXPECT_TRUE((a == 0) != (b == 0));
      EXPECT_EQ(thrown_by([&] { future.result(); }), a == 1 ? "nothing" : "exception: two");
    }
  };
  run(main);
}

TEST_F(GroupTasks, CancelAndSetResultAtTheSameTime) {
  const auto main = []() -> Coroutine<> {
    const auto cancel = [](Future<int> future, std::atomic<int>& arrived) -> Coroutine<bool> {
      meet(arrived, 2);
      co_return future.cancel();
    };
    const auto set = [](Future<int> future, std::atomic<int>& arrived) -> Coroutine<bool> {
      meet(arrived, 2);
      try {
        future.set_result(5);
      } catch (const InvalidStateError&) {
        co_return false;
      }
      co_return true;
    };
    for (int round = 0; round < 500; ++round) {
      Future<int> future = current_loop().create_future<int>();
      std::atomic<int> arrived{0};
      const auto [cancelled, full] = co_await gather(spawn(cancel(future, arrived)), spawn(set(future, arrived)));
      EXPECT_NE(cancelled, full);
      EXPECT_EQ(future.cancelled(), cancelled);
      if (full) {
        EXPECT_EQ(future.result(), 5);
      }
    }
  };
  run(main);
}

// ---- Callbacks ----

TEST_F(GroupTasks, DoneCallbacksRunInOrderWhereTheyWereAdded) {
  const auto main = []() -> Coroutine<> {
    const std::vector<EventLoop*> loops = workers();
    const auto add = [](Future<int> future, std::vector<int>& order, std::atomic<int>& ran) -> Coroutine<> {
      for (int i = 0; i < 10; ++i) {
        future.add_done_callback([&order, &ran, i, home = &current_loop()](Future<int> done) {
          EXPECT_EQ(&current_loop(), home);
          EXPECT_EQ(done.result(), 3);
          order.push_back(i);
          ++ran;
        });
      }
      co_return;
    };
    for (int round = 0; round < 20; ++round) {
      Future<int> future = loops[1]->create_future<int>();
      std::vector<std::vector<int>> orders(loops.size());
      std::atomic<int> ran{0};
      for (std::size_t i = 0; i < loops.size(); ++i) co_await loops[i]->create_task(add(future, orders[i], ran));
      future.set_result(3);
      co_await until([&] { return ran == 10 * static_cast<int>(loops.size()); });
      for (const std::vector<int>& order : orders) EXPECT_THAT(order, ElementsAre(0, 1, 2, 3, 4, 5, 6, 7, 8, 9));
      ran = 0;
      co_await loops[2]->create_task(add(future, orders[0], ran));  // it is done
      co_await until([&] { return ran == 10; });
    }
  };
  run(main);
}

TEST_F(GroupTasks, ARemovedCallbackDoesNotRun) {
  const auto main = []() -> Coroutine<> {
    Future<> future = workers()[2]->create_future();
    std::atomic<int> ran{0};
    const CallbackToken removed = future.add_done_callback([&](const Future<>&) { ran += 100; });
    future.add_done_callback([&](const Future<>&) { ++ran; });
    co_await spawn([](Future<> f, CallbackToken token) -> Coroutine<> {
      EXPECT_EQ(f.remove_done_callback(token), 1U);
      EXPECT_EQ(f.remove_done_callback(token), 0U);
      co_return;
    }(future, removed));
    future.set_result();
    co_await until([&] { return ran != 0; });
    EXPECT_EQ(ran, 1);
  };
  run(main);
}

TEST_F(GroupTasks, CallbacksOfAnotherWorkersLoopRunThere) {
  const auto main = []() -> Coroutine<> {
    for (EventLoop* loop : workers()) {
      std::atomic<int> ran{0};
      std::vector<int> order;
      for (int i = 0; i < 5; ++i) {
        loop->call_soon([&ran, &order, loop, i] {
          EXPECT_EQ(&current_loop(), loop);
          order.push_back(i);
          ++ran;
        });
      }
      loop->call_later(100us, [&ran, loop] {
        EXPECT_EQ(&current_loop(), loop);
        ++ran;
      });
      loop->call_at(loop->time(), [&ran, loop] {
        EXPECT_EQ(&current_loop(), loop);
        ++ran;
      });
      co_await until([&] { return ran == 7; });
      EXPECT_THAT(order, ElementsAre(0, 1, 2, 3, 4));
    }
  };
  run(main);
}

TEST_F(GroupTasks, CallbacksOfAnotherWorkersLoopCanBeCalledOff) {
  const auto main = []() -> Coroutine<> {
    Holding holding;
    EventLoop* const loop = workers()[1];
    std::atomic<bool> last{false};
    const auto use = [&]() -> Coroutine<> {
      const std::vector<EventLoop*> held{loop};
      co_await holding.hold(held);
      Handle soon = loop->call_soon([] { ADD_FAILURE() << "it was called off"; });
      TimerHandle later = loop->call_later(0s, [] { ADD_FAILURE() << "it was called off"; });
      TimerHandle much_later = loop->call_later(1h, [] {});
      soon.cancel();
      later.cancel();
      much_later.cancel();
      EXPECT_TRUE(soon.cancelled() && later.cancelled() && much_later.cancelled());
      loop->call_soon([&] { last = true; });
      co_await holding.let_go();
    };
    co_await workers()[0]->create_task(use());
    co_await until([&] { return last.load(); });
  };
  run(main);
}

TEST_F(GroupTasks, ExecutorsReturnToWhoAsked) {
  const auto main = []() -> Coroutine<> {
    ThreadPoolExecutor pool(2);
    const auto ask = [](EventLoop* of, ThreadPoolExecutor* on) -> Coroutine<> {
      const std::thread::id here = std::this_thread::get_id();
      EXPECT_NE(co_await of->run_in_executor(on, [] { return std::this_thread::get_id(); }), here);
      EXPECT_EQ(std::this_thread::get_id(), here);
      Future<> failing = of->run_in_executor(on, [] { throw std::runtime_error("boom"); });
      co_await until([&] { return failing.done(); });
      EXPECT_EQ(thrown_by([&] { failing.result(); }), "exception: boom");
    };
    for (EventLoop* home : workers()) {
      for (EventLoop* of : workers()) {
        co_await home->create_task(ask(of, nullptr));
        co_await home->create_task(ask(of, &pool));
      }
    }
    std::vector<Future<int>> all;
    for (int i = 0; i < 200; ++i) all.push_back(to_thread([i] { return i; }));
    int sum = 0;
    for (int i : co_await gather(std::move(all))) sum += i;
    EXPECT_EQ(sum, 199 * 100);
    pool.shutdown();
  };
  run(main);
}

TEST_F(GroupTasks, WrappedFuturesReturnToWhoAsked) {
  const auto main = []() -> Coroutine<> {
    const auto ask = [](EventLoop* of) -> Coroutine<> {
      const std::thread::id here = std::this_thread::get_id();
      for (int i = 0; i < 100; ++i) {
        const auto source = ConcurrentFuture<int>::create();
        Future<int> future = wrap_future(source, *of);
        Future<int> given_up = wrap_future(ConcurrentFuture<int>::create(), *of);
        auto give = [source, i] { source.set_result(i); };
        co_await to_thread(give);
        EXPECT_EQ(co_await future, i);
        EXPECT_EQ(std::this_thread::get_id(), here);
        EXPECT_TRUE(given_up.cancel());
      }
    };
    for (EventLoop* of : workers()) {
      std::vector<Task<>> all;
      for (EventLoop* home : workers()) all.push_back(home->create_task(ask(of)));
      for (const Task<>& task : all) co_await task;
    }
  };
  run(main);
}

// Runs jobs inside submit(), which lasts until the test says so.
class SlowToSubmit final : public Executor {
 public:
  SlowToSubmit(std::atomic<bool>& inside, std::atomic<bool>& go, std::atomic<bool>& gone) noexcept
      : inside_(inside), go_(go), gone_(gone) {}
  ~SlowToSubmit() override { gone_ = true; }

  void submit(Job& job) override {
    inside_ = true;
    while (!go_) std::this_thread::yield();
    job.run();
  }
  void shutdown(bool, bool) override {}

 private:
  std::atomic<bool>& inside_;
  std::atomic<bool>& go_;
  std::atomic<bool>& gone_;
};

TEST_F(GroupTasks, ADefaultExecutorThatIsReplacedLivesUntilNobodySubmits) {
  const auto main = []() -> Coroutine<> {
    std::atomic<bool> inside{false};
    std::atomic<bool> go{false};
    std::atomic<bool> gone{false};
    const std::vector<EventLoop*> loops = workers();
    loops[3]->set_default_executor(std::make_shared<SlowToSubmit>(inside, go, gone));
    const auto submit = [](EventLoop* loop) -> Coroutine<> {
      EXPECT_EQ(co_await loop->run_in_executor(nullptr, [] { return 7; }), 7);
    };
    Task<> submitting = loops[1]->create_task(submit(loops[1]));
    const auto replace = [&](EventLoop* loop) -> Coroutine<> {
      co_await until([&] { return inside.load(); });
      loop->set_default_executor(std::make_shared<ThreadPoolExecutor>(1));
      EXPECT_FALSE(gone);
      go = true;
    };
    Task<> replacing = loops[2]->create_task(replace(loops[2]));
    co_await replacing;
    co_await submitting;
    EXPECT_TRUE(gone);
  };
  run(main);
}

}  // namespace
}  // namespace ouro
