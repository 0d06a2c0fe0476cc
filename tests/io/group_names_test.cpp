// What tasks of several loops are called, who finds them, and generators in them; debug mode, eager tasks, executors.
#include <gmock/gmock.h>

#include <atomic>
#include <chrono>
#include <memory>
#include <set>
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
using test::until;
using testing::Contains;
using testing::Not;

Coroutine<int> give(int value) { co_return value; }

class GroupNames : public GroupTest {
 protected:
  template <class A>
  static decltype(auto) run(A&& main) {
    return run_on(4, std::forward<A>(main));
  }
};

TEST_F(GroupNames, DefaultNamesAreUnique) {
  const auto main = []() -> Coroutine<> {
    const auto name = []() -> Coroutine<std::string> { co_return current_task().get_name(); };
    const auto names = [&]() -> Coroutine<std::vector<std::string>> {
      std::vector<Task<std::string>> tasks;
      for (int i = 0; i < 200; ++i) tasks.push_back(i % 2 == 0 ? spawn(name()) : create_task(name()));
      std::vector<std::string> found = co_await gather(std::move(tasks));
      co_return found;
    };
    std::vector<Task<std::vector<std::string>>> tasks;
    for (EventLoop* loop : workers()) tasks.push_back(loop->create_task(names()));
    tasks.push_back(spawn(names()));
    std::set<std::string> all;
    for (const std::vector<std::string>& some : co_await gather(std::move(tasks))) all.insert(some.begin(), some.end());
    EXPECT_EQ(all.size(), 1000U);
  };
  run(main);
}

TEST_F(GroupNames, AGivenNameIsSeenEverywhere) {
  const auto main = []() -> Coroutine<> {
    const auto own = []() -> Coroutine<std::string> {
      co_await sleep(0s);
      co_return current_task().get_name();
    };
    const TaskOptions named{.name = "a name that is long enough to be allocated"};
    EXPECT_EQ(co_await spawn(own(), named), named.name);
    EXPECT_EQ(co_await create_task(own(), named), named.name);
    for (EventLoop* loop : workers()) {
      Task<std::string> task = loop->create_task(own(), named);
      EXPECT_EQ(task.get_name(), named.name);
      EXPECT_EQ(co_await task, named.name);
    }
  };
  run(main);
}

TEST_F(GroupNames, TheCurrentTaskIsTheOneThatRuns) {
  const auto main = []() -> Coroutine<> {
    const auto same_name = []() -> Coroutine<bool> {
      const std::string before = current_task().get_name();
      bool same = true;
      for (int i = 0; i < 10; ++i) {
        co_await sleep(i % 2 == 0 ? 0us : 10us);
        same = same && current_task().get_name() == before;
      }
      co_return same;
    };
    for (int round = 0; round < 20; ++round) {
      const auto [a, b] = co_await gather(same_name(), same_name());
      EXPECT_TRUE(a && b);
      EXPECT_TRUE(co_await spawn(same_name()));
      EXPECT_TRUE(co_await workers()[static_cast<std::size_t>(round) % 4]->create_task(same_name()));
    }
  };
  run(main);
}

std::vector<std::string> names_of(const std::vector<AnyTask>& tasks) {
  std::vector<std::string> names;
  for (const AnyTask& task : tasks) names.push_back(task.get_name());
  return names;
}

TEST_F(GroupNames, AllTasksAreThoseThatHaveSuspendedOnAnyLoop) {
  const auto main = []() -> Coroutine<> {
    std::atomic<int> ready{0};
    Future<> end = current_loop().create_future();
    const auto waits = [&](std::string name) -> Coroutine<> {
      current_task().set_name(name);
      ++ready;
      co_await end;
    };
    const auto parent = [&]() -> Coroutine<> {
      current_task().set_name("parent");
      co_await gather(waits("child 1"), waits("child 2"));
    };
    std::vector<Task<>> tasks;
    for (std::size_t i = 0; i < 4; ++i) {
      tasks.push_back(workers()[i]->create_task(waits("pinned " + std::to_string(i))));
      tasks.push_back(spawn(waits("floating " + std::to_string(i))));
    }
    tasks.push_back(spawn(parent()));
    co_await until([&] { return ready == 10; });
    // The last of them counted before it suspended; it is listed a moment later.
    co_await until([] { return all_tasks().size() >= 12; });
    for (EventLoop* loop : workers()) EXPECT_EQ(names_of(all_tasks(*loop)).size(), 12U);
    const std::vector<std::string> names = names_of(all_tasks());
    for (const char* name : {"pinned 0", "pinned 3", "floating 0", "floating 3", "parent", "child 1", "child 2"}) {
      EXPECT_THAT(names, Contains(name));
    }
    end.set_result();
    co_await gather(std::move(tasks));
    EXPECT_THAT(names_of(all_tasks()), Not(Contains("parent")));
  };
  run(main);
}

// B301, T18
TEST_F(GroupNames, AllTasksMayBeAskedForWhileTheyComeAndGo) {
  const auto main = []() -> Coroutine<> {
    std::atomic<bool> over{false};
    const auto leaf = [](int i) -> Coroutine<> {
      if (i % 3 != 0) co_await sleep(0s);
    };
    const auto churn = [&]() -> Coroutine<> {
      while (!over) {
        co_await gather(leaf(1), leaf(2), leaf(3));
        co_await spawn(leaf(1));
      }
    };
    std::vector<Task<>> tasks;
    for (int i = 0; i < 8; ++i) tasks.push_back(spawn(churn()));
    for (int i = 0; i < 300; ++i) {
      for (const AnyTask& task : all_tasks()) {
        EXPECT_FALSE(task.get_name().empty());
        static_cast<void>(task.get_stack());
        static_cast<void>(task.done());
      }
      co_await sleep(0s);
    }
    over = true;
    co_await gather(std::move(tasks));
  };
  run(main);
}

// ---- Generators ----

AsyncGenerator<int> ticks(int n, Ledger& ledger) {
  Ledger::Entry entry(ledger);
  for (int i = 0; i < n; ++i) {
    co_await sleep(i % 2 == 0 ? 0us : 10us);
    co_yield i;
  }
  entry.finish();
}

TEST_F(GroupNames, AsyncGeneratorsMoveWithTheirTasks) {
  Ledger ledger;
  const auto main = [&]() -> Coroutine<> {
    const auto sum = [&]() -> Coroutine<int> {
      AsyncGenerator<int> generator = ticks(50, ledger);
      int total = 0;
      while (auto tick = co_await generator.next()) total += *tick;
      co_return total;
    };
    std::vector<Task<int>> tasks;
    for (int i = 0; i < 20; ++i) tasks.push_back(spawn(sum()));
    for (int total : co_await gather(std::move(tasks))) EXPECT_EQ(total, 49 * 25);
  };
  run(main);
  EXPECT_EQ(ledger.finished(), 20);
  EXPECT_EQ(ledger.open(), 0);
}

TEST_F(GroupNames, AnAsyncGeneratorThatIsClosedEarlyIsUnwound) {
  Ledger ledger;
  const auto main = [&]() -> Coroutine<> {
    const auto first = [](AsyncGenerator<int>& generator) -> Coroutine<int> {
      co_await generator.next();
      co_return *co_await generator.next();
    };
    const auto some = [&]() -> Coroutine<int> { co_return co_await aclosing(ticks(50, ledger), first); };
    std::vector<Task<int>> tasks;
    for (int i = 0; i < 20; ++i) tasks.push_back(spawn(some()));
    for (int second : co_await gather(std::move(tasks))) EXPECT_EQ(second, 1);
  };
  run(main);
  EXPECT_EQ(ledger.broken_off(), 20);
  EXPECT_EQ(ledger.open(), 0);
}

TEST_F(GroupNames, EagerTasksAndFuturesOfGathersFloatWithTheirMaker) {
  const auto floats = []() -> Coroutine<bool> {
    // A floating task is on another worker sooner or later, if its own is kept busy.
    EventLoop* const home = &current_loop();
    for (int i = 0; i < 1'000'000 && &current_loop() == home; ++i) {
      std::atomic<bool> left{false};
      auto busy = home->create_task([&left]() -> Coroutine<> {
        while (!left) std::this_thread::yield();
        co_return;
      });
      co_await sleep(0s);
      left = true;
      co_await busy;
    }
    co_return &current_loop() != home;
  };
  const auto main = [&]() -> Coroutine<> {
    Task<bool> eager = create_task(floats(), {.eager_start = true});
    EXPECT_TRUE(co_await eager);
  };
  run(main);
}

TEST_F(GroupNames, DebugModeKnowsWhatComesFromOtherLoops) {
  const auto pinned = []() -> Coroutine<int> {
    int sum = 0;
    for (int i = 0; i < 100; ++i) {
      auto [a, b] = co_await gather(spawn(give(1)), spawn(give(2)));
      sum += a + b;
    }
    co_return sum;
  };
  const auto main = [&]() -> Coroutine<int> { co_return co_await workers()[2]->create_task(pinned()); };
  RunOptions options = with(4);
  options.debug = true;
  EXPECT_EQ(ouro::run(main, options), 300);
}

TEST_F(GroupNames, ResultsOfExecutorsThatCanOnlyBeMoved) {
  const auto make = [] { return std::make_unique<int>(7); };
  const auto main = [&]() -> Coroutine<> {
    for (int i = 0; i < 200; ++i) {
      std::unique_ptr<int> one = co_await to_thread(make);
      EXPECT_EQ(*one, 7);
      auto [two, three] = co_await gather(to_thread(make), to_thread(make));
      EXPECT_EQ(*two + *three, 14);
    }
  };
  for (const unsigned count : {1U, 4U}) ouro::run(main, with(count));
}

}  // namespace
}  // namespace ouro
