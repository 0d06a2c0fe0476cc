// Cancellation over several loops: of tasks in any state, from any worker, at any moment.
#include <gmock/gmock.h>

#include <atomic>
#include <chrono>
#include <memory>
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
using test::until;

class GroupCancel : public GroupTest {
 protected:
  template <class A>
  static decltype(auto) run(A&& main) {
    return run_on(4, std::forward<A>(main));
  }
};

// How a task ended: its CancelledError's message, or "result", or "error".
template <class T>
Coroutine<std::string> end_of(Task<T> task) {
  std::string end = "result";
  try {
    co_await task;
  } catch (const CancelledError& error) {
    end = "cancelled: " + error.message();
  } catch (const std::exception& error) {
    end = std::string("error: ") + error.what();
  }
  co_return end;
}

// Makes the task with `make` pinned on each loop and floating; once `ready` holds, cancels it from each loop, and from
// a floating task. All have to end cancelled, with the message.
template <class Make, class Ready>
Coroutine<> cancel_from_everywhere(Make make, Ready ready) {
  const std::vector<EventLoop*> loops = workers();
  const auto cancel = [](AnyTask task) -> Coroutine<bool> { co_return task.cancel("enough"); };
  for (std::size_t home = 0; home <= loops.size(); ++home) {
    for (std::size_t from = 0; from <= loops.size(); ++from) {
      Task<> task = home < loops.size() ? loops[home]->create_task(make()) : spawn(make());
      co_await until(ready);
      const bool asked =
          from < loops.size() ? co_await loops[from]->create_task(cancel(task)) : co_await spawn(cancel(task));
      EXPECT_TRUE(asked);
      EXPECT_GE(task.cancelling(), 1);
      EXPECT_EQ(co_await end_of(task), "cancelled: enough") << home << " from " << from;
      EXPECT_FALSE(task.cancel());
      EXPECT_TRUE(task.cancelled());
    }
  }
}

// ---- What the task does ----

TEST_F(GroupCancel, OfASleep) {
  Ledger ledger;
  const auto sleeper = [&]() -> Coroutine<> {
    Ledger::Entry entry(ledger);
    co_await sleep(1h);
  };
  run([&]() -> Coroutine<> { co_await cancel_from_everywhere(sleeper, [&] { return ledger.open() == 1; }); });
  EXPECT_EQ(ledger.broken_off(), 25);
}

TEST_F(GroupCancel, OfATaskThatTakesTurns) {
  Ledger ledger;
  const auto spinner = [&]() -> Coroutine<> {
    Ledger::Entry entry(ledger);
    for (;;) co_await sleep(0s);
  };
  run([&]() -> Coroutine<> { co_await cancel_from_everywhere(spinner, [&] { return ledger.open() == 1; }); });
  EXPECT_EQ(ledger.open(), 0);
}

TEST_F(GroupCancel, OfAWaitForAFuture) {
  Ledger ledger;
  const auto waiter = [&]() -> Coroutine<> {
    Ledger::Entry entry(ledger);
    Future<> future = workers()[static_cast<std::size_t>(ledger.begun()) % 4]->create_future();
    co_await future;
  };
  run([&]() -> Coroutine<> { co_await cancel_from_everywhere(waiter, [&] { return ledger.open() == 1; }); });
  EXPECT_EQ(ledger.open(), 0);
}

TEST_F(GroupCancel, OfAChainOfTasks) {
  Ledger ledger;
  const auto chain = [&](auto& self, int length) -> Coroutine<> {
    Ledger::Entry entry(ledger);
    if (length == 0) {
      co_await sleep(1h);
    } else if (length % 2 == 0) {
      co_await spawn(self(self, length - 1));
    } else {
      co_await workers()[static_cast<std::size_t>(length) % 4]->create_task(self(self, length - 1));
    }
  };
  run([&]() -> Coroutine<> {
    co_await cancel_from_everywhere([&] { return chain(chain, 9); }, [&] { return ledger.open() == 10; });
  });
  EXPECT_EQ(ledger.broken_off(), 250);
}

TEST_F(GroupCancel, OfAGatherOfGathers) {
  Ledger ledger;
  const auto tree = [&](auto& self, int depth) -> Coroutine<> {
    Ledger::Entry entry(ledger);
    if (depth > 0) {
      co_await gather(self(self, depth - 1), self(self, depth - 1));
    } else if (ledger.begun() % 2 == 0) {
      co_await sleep(1h);
    } else {
      co_await current_loop().create_future();
    }
  };
  run([&]() -> Coroutine<> {
    co_await cancel_from_everywhere([&] { return tree(tree, 4); }, [&] { return ledger.open() == 31; });
  });
  EXPECT_EQ(ledger.broken_off(), 31 * 25);
}

TEST_F(GroupCancel, OfAMapWithALimit) {
  Ledger ledger;
  const auto mapper = [&]() -> Coroutine<> {
    const auto child = [&](int) -> Coroutine<> {
      Ledger::Entry entry(ledger);
      co_await sleep(1h);
    };
    co_await map(child, std::views::iota(0, 100), {.limit = 7});
  };
  run([&]() -> Coroutine<> { co_await cancel_from_everywhere(mapper, [&] { return ledger.open() == 7; }); });
  EXPECT_EQ(ledger.broken_off(), 7 * 25);
}

TEST_F(GroupCancel, OfAWaitForAnExecutor) {
  Ledger ledger;
  std::atomic<bool> let_go{false};
  const auto asker = [&]() -> Coroutine<> {
    Ledger::Entry entry(ledger);
    co_await to_thread([&let_go] {
      while (!let_go) std::this_thread::yield();
    });
  };
  run([&]() -> Coroutine<> {
    co_await cancel_from_everywhere(asker, [&] { return ledger.open() == 1; });
    let_go = true;
  });
  EXPECT_EQ(ledger.open(), 0);
}

Coroutine<> takes(Ledger::Entry entry) {
  entry.finish();
  co_return;
}

TEST_F(GroupCancel, OfATaskThatHasNotStarted) {
  Ledger ledger;
  const auto main = [&]() -> Coroutine<> {
    const std::vector<EventLoop*> loops = workers();
    std::atomic<int> held{0};
    std::atomic<bool> go{false};
    const auto hold = [&]() -> Coroutine<> {
      ++held;
      while (!go) std::this_thread::yield();
      co_return;
    };
    std::vector<Task<>> holders;
    const auto here = [&]() -> Coroutine<> {
      for (std::size_t i = 1; i < loops.size(); ++i) holders.push_back(loops[i]->create_task(hold()));
      co_await until([&] { return held == 3; });
      std::vector<Task<>> tasks;
      for (EventLoop* loop : loops) tasks.push_back(loop->create_task(takes(Ledger::Entry(ledger))));
      tasks.push_back(spawn(takes(Ledger::Entry(ledger))));
      tasks.push_back(create_task(takes(Ledger::Entry(ledger))));
      for (Task<>& task : tasks) EXPECT_TRUE(task.cancel("never"));
      go = true;
      for (Task<>& task : tasks) EXPECT_EQ(co_await end_of(task), "cancelled: never");
      for (Task<>& task : holders) co_await task;
    };
    co_await loops[0]->create_task(here());
  };
  run(main);
  EXPECT_EQ(ledger.begun(), 6);
  EXPECT_EQ(ledger.broken_off(), 6);
}

TEST_F(GroupCancel, OfATaskThatRuns) {
  const auto main = []() -> Coroutine<> {
    for (std::size_t home = 0; home <= 4; ++home) {
      std::atomic<bool> running{false};
      std::atomic<bool> asked{false};
      const auto busy = [&]() -> Coroutine<> {
        running = true;
        while (!asked) std::this_thread::yield();
        EXPECT_EQ(current_task().cancelling(), 1);
        co_await sleep(1h);
        ADD_FAILURE() << "its next await should have thrown";
      };
      const auto cancel = [&](AnyTask task) -> Coroutine<> {
        while (!running) std::this_thread::yield();
        EXPECT_TRUE(task.cancel("now"));
        asked = true;
        co_return;
      };
      Task<> task = home < 4 ? workers()[home]->create_task(busy()) : spawn(busy());
      // Pinned to a worker that the task does not block.
      Task<> canceller = home < 4 ? workers()[(home + 1) % 4]->create_task(cancel(task)) : spawn(cancel(task));
      co_await canceller;
      EXPECT_EQ(co_await end_of(task), "cancelled: now");
    }
  };
  run(main);
}

// A program of which most never suspends: nobody has a handle to its tasks.
TEST_F(GroupCancel, OfADeepForkJoinProgram) {
  const auto main = []() -> Coroutine<> {
    std::atomic<long> begun{0};
    const auto fib = [&](auto& self, int n) -> Coroutine<long> {
      begun.fetch_add(1, std::memory_order_relaxed);
      if (n < 2) co_return n;
      const auto [a, b] = co_await gather(self(self, n - 1), self(self, n - 2));
      co_return a + b;
    };
    for (int home = 0; home < 2; ++home) {
      begun = 0;
      Task<long> task = spawn(fib(fib, 90));
      co_await until([&] { return begun > 1000; });
      EXPECT_TRUE(task.cancel("enough"));
      EXPECT_EQ(co_await end_of(task), "cancelled: enough");
    }
  };
  run(main);
}

TEST_F(GroupCancel, OfAMapThatNeverSuspends) {
  const auto main = []() -> Coroutine<> {
    std::atomic<long> begun{0};
    const auto child = [&](int) -> Coroutine<> {
      begun.fetch_add(1, std::memory_order_relaxed);
      co_return;
    };
    const auto mapper = [&]() -> Coroutine<> {
      for (;;) co_await map(child, std::views::iota(0, 1000));
    };
    Task<> task = spawn(mapper());
    co_await until([&] { return begun > 10'000; });
    EXPECT_TRUE(task.cancel("enough"));
    EXPECT_EQ(co_await end_of(task), "cancelled: enough");
  };
  run(main);
}

// ---- When ----

using Meeting = std::shared_ptr<std::atomic<int>>;

template <class Start>
Coroutine<> cancel_at_the_end(Start start, int rounds) {
  const auto cancel = [](AnyTask task, Meeting meeting) -> Coroutine<bool> {
    meet(*meeting, 2);
    co_return task.cancel("race");
  };
  for (int round = 0; round < rounds; ++round) {
    const auto meeting = std::make_shared<std::atomic<int>>(0);
    Task<int> task = start(meeting, round);
    Task<bool> cancelling = spawn(cancel(task, meeting));
    const std::string end = co_await end_of(task);
    const bool accepted = co_await cancelling;
    EXPECT_TRUE(end == "result" || (end == "cancelled: race" && accepted)) << end << accepted;
    EXPECT_EQ(task.cancelled(), end != "result");
    if (end == "result") {
      EXPECT_EQ(task.result(), round);
    }
  }
}

TEST_F(GroupCancel, AtTheMomentOfCompletion) {
  Ledger ledger;
  const auto task = [&](Meeting meeting, int round) -> Coroutine<int> {
    Ledger::Entry entry(ledger);
    meet(*meeting, 2);
    if (round % 2 == 0) co_await sleep(0s);
    entry.finish();
    co_return round;
  };
  run(cancel_at_the_end([&](Meeting meeting, int round) { return spawn(task(meeting, round)); }, 1000));
  EXPECT_EQ(ledger.begun(), 1000);
  EXPECT_EQ(ledger.open(), 0);
}

TEST_F(GroupCancel, AtTheMomentWhenTheAwaitedFutureIsDone) {
  Ledger ledger;
  const auto waiter = [&](Future<int> future) -> Coroutine<int> {
    Ledger::Entry entry(ledger);
    const int result = co_await future;
    entry.finish();
    co_return result;
  };
  const auto completer = [](Future<int> future, Meeting meeting, int value) -> Coroutine<> {
    meet(*meeting, 2);
    if (!future.done()) {
      try {
        future.set_result(value);
      } catch (const InvalidStateError&) {
        co_return;  // it was cancelled first
      }
    }
  };
  const auto start = [&](Meeting meeting, int round) {
    Future<int> future = current_loop().create_future<int>();
    Task<int> task = round % 2 == 0 ? spawn(waiter(future)) : workers()[1]->create_task(waiter(future));
    spawn(completer(future, meeting, round));
    return task;
  };
  run(cancel_at_the_end(start, 1000));
  EXPECT_EQ(ledger.open(), 0);
}

TEST_F(GroupCancel, AtTheMomentWhenAGatherIsDone) {
  Ledger ledger;
  const auto child = [&](Meeting meeting, int i) -> Coroutine<int> {
    Ledger::Entry entry(ledger);
    if (i == 0) meet(*meeting, 2);
    if (i % 2 == 0) co_await sleep(0s);
    entry.finish();
    co_return i;
  };
  const auto parent = [&](Meeting meeting, int round) -> Coroutine<int> {
    co_await gather(child(meeting, 1), child(meeting, 2), child(meeting, 0));
    co_return round;
  };
  run(cancel_at_the_end([&](Meeting meeting, int round) { return spawn(parent(meeting, round)); }, 500));
  EXPECT_EQ(ledger.open(), 0);
}

TEST_F(GroupCancel, OfTheSameTaskFromEveryWorkerAtOnce) {
  const auto main = []() -> Coroutine<> {
    const auto forever = []() -> Coroutine<> { co_await sleep(1h); };
    const auto cancel = [](AnyTask task, std::atomic<int>& arrived) -> Coroutine<bool> {
      meet(arrived, 4);
      co_return task.cancel("all");
    };
    for (int round = 0; round < 100; ++round) {
      std::atomic<int> arrived{0};
      Task<> task = round % 2 == 0 ? spawn(forever()) : workers()[0]->create_task(forever());
      std::vector<Task<bool>> cancelling;
      for (EventLoop* loop : workers()) cancelling.push_back(loop->create_task(cancel(task, arrived)));
      bool any = false;
      for (Task<bool>& one : cancelling) any = co_await one || any;
      EXPECT_TRUE(any);
      EXPECT_EQ(co_await end_of(task), "cancelled: all");
    }
  };
  run(main);
}

// ---- Counts ----

TEST_F(GroupCancel, RequestsAreCountedAndTakenBack) {
  const auto main = []() -> Coroutine<> {
    const auto survivor = [](std::atomic<int>& caught) -> Coroutine<int> {
      caught = 0;
      for (;;) {
        try {
          co_await sleep(1h);
        } catch (const CancelledError& error) {
          EXPECT_EQ(error.message(), "again");
        }
        EXPECT_EQ(current_task().cancelling(), 1);
        EXPECT_EQ(current_task().uncancel(), 0);
        EXPECT_EQ(current_task().uncancel(), 0);
        if (++caught == 20) co_return 20;
      }
    };
    for (std::size_t home = 0; home <= 4; ++home) {
      std::atomic<int> caught{-1};  // it has not started
      Task<int> task = home < 4 ? workers()[home]->create_task(survivor(caught)) : spawn(survivor(caught));
      for (int i = 0; i < 20; ++i) {
        co_await until([&] { return caught == i && task.cancelling() == 0; });
        EXPECT_TRUE(task.cancel("again"));
      }
      EXPECT_EQ(co_await task, 20);
    }
  };
  run(main);
}

// ---- Rings ----

TEST_F(GroupCancel, OfTasksThatWaitForEachOther) {
  Ledger ledger;
  const auto main = [&]() -> Coroutine<> {
    for (const int length : {2, 3, 10}) {
      for (const bool pinned : {false, true}) {
        std::vector<Task<>> ring(static_cast<std::size_t>(length));
        std::atomic<bool> complete{false};
        std::atomic<int> waiting{0};
        const auto member = [&](std::size_t i) -> Coroutine<> {
          Ledger::Entry entry(ledger);
          co_await until([&] { return complete.load(); });
          Task<> next = ring[(i + 1) % ring.size()];
          ++waiting;
          co_await next;
        };
        for (std::size_t i = 0; i < ring.size(); ++i) {
          ring[i] = pinned && i % 2 == 0 ? workers()[i % 4]->create_task(member(i)) : spawn(member(i));
        }
        complete = true;
        co_await until([&] { return waiting == length; });
        ring[0].cancel("ring");
        for (Task<>& task : ring) EXPECT_EQ((co_await end_of(task)).substr(0, 9), "cancelled");
        ring.clear();
      }
    }
  };
  run(main);
  EXPECT_EQ(ledger.open(), 0);
}

}  // namespace
}  // namespace ouro
