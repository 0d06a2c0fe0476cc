// Asynchronous generators over several loops: who closes one that workers and a shutdown reach for at once.
#include <gmock/gmock.h>

#include <atomic>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <ouro/ouro.hpp>

#include "support/group.hpp"

namespace ouro {
namespace {

using namespace std::chrono_literals;
using test::GroupsOfAnySize;
using test::Ledger;
using test::Reports;
using test::until;
using testing::AnyOf;
using testing::Each;
using testing::HasSubstr;

INSTANTIATE_TEST_SUITE_P(Workers, GroupsOfAnySize, testing::Values(1U, 2U, 4U, 16U), testing::PrintToStringParamName());

// Holds a value that is seen to be used by two threads at once.
AsyncGenerator<std::unique_ptr<int>> ticks(Ledger& ledger, bool waits) {
  const Ledger::Entry entry(ledger);
  for (int i = 0;; ++i) {
    if (waits) co_await sleep(0s);
    auto tick = std::make_unique<int>(i);
    co_yield std::move(tick);
  }
}

// Takes some values, and lets go of the generator; or keeps it, and asks for more when it may have been closed.
Coroutine<> use(Ledger& ledger, int i) {
  auto generator = ticks(ledger, i % 2 == 0);
  for (int n = 0; n < i % 7; ++n) {
    auto tick = co_await generator.next();
    if (!tick) co_return;
    EXPECT_EQ(**tick, n);
  }
  if (i % 3 == 0) co_await generator.aclose();
  if (i % 3 == 1) auto moved = std::move(generator);
}

const auto known = AnyOf(HasSubstr("was scheduled after loop.shutdown_asyncgens() call"),
                         HasSubstr("asynchronous generator is already running"));

TEST_P(GroupsOfAnySize, AShutdownMeetsGeneratorsThatOthersUse) {
  Ledger ledger;
  const auto main = [&]() -> Coroutine<> {
    std::atomic<int> working{0};
    const auto work = [&](int from) -> Coroutine<> {
      for (int i = from; i < from + 300; ++i) co_await use(ledger, i);
      --working;
    };
    const std::vector<EventLoop*> loops = workers();
    std::vector<Task<>> tasks;
    working = 4 + static_cast<int>(loops.size());
    for (int i = 0; i < 4; ++i) tasks.push_back(spawn(work(i)));
    for (EventLoop* loop : loops) tasks.push_back(loop->create_task(work(5)));
    for (std::size_t i = 0; working != 0; ++i) {
      co_await shutdown_asyncgens(*loops[i % loops.size()]);
      co_await sleep(0s);
    }
    for (const Task<>& task : tasks) co_await task;
  };
  run(main);
  EXPECT_EQ(ledger.open(), 0);
  EXPECT_THAT(Reports::take(), Each(known));
}

TEST_P(GroupsOfAnySize, OnesInAVectorThatGrows) {
  Ledger ledger;
  const auto main = [&]() -> Coroutine<> {
    std::vector<AsyncGenerator<std::unique_ptr<int>>> some;
    for (int i = 0; i < 10; ++i) {
      some.push_back(ticks(ledger, i % 2 == 0));
      if (i >= 5) continue;
      EXPECT_TRUE(co_await some.back().next());
    }
    for (auto& generator : some) EXPECT_TRUE(co_await generator.next());
    for (auto& generator : some) co_await generator.aclose();
  };
  run(main);
  EXPECT_EQ(ledger.begun(), 10);
  EXPECT_EQ(ledger.open(), 0);
}

TEST_P(GroupsOfAnySize, OneThatAShutdownClosedHasEnded) {
  Ledger ledger;
  const auto main = [&]() -> Coroutine<> {
    const std::vector<EventLoop*> loops = workers();
    std::vector<AsyncGenerator<std::unique_ptr<int>>> kept;
    for (int i = 0; i < 10; ++i) kept.push_back(ticks(ledger, i % 2 == 0));
    const auto take = [&](std::size_t i) -> Coroutine<bool> {
      auto tick = co_await kept[i].next();
      co_return tick.has_value();
    };
    for (std::size_t i = 0; i < kept.size(); ++i) EXPECT_TRUE(co_await loops[i % loops.size()]->create_task(take(i)));
    co_await shutdown_asyncgens(*loops.back());
    EXPECT_EQ(ledger.open(), 0);
    for (std::size_t i = 0; i < kept.size(); ++i) EXPECT_FALSE(co_await loops[i % loops.size()]->create_task(take(i)));
    for (auto& generator : kept) co_await generator.aclose();
    auto moved = std::move(kept.front());
    EXPECT_FALSE(co_await moved.next());
    co_await shutdown_asyncgens(*loops.front());
  };
  run(main);
  EXPECT_EQ(ledger.open(), 0);
}

}  // namespace
}  // namespace ouro
