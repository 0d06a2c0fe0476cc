// Programs made at random over several loops: tasks that are spawned, pinned, gathered, mapped, awaited, completed from
// elsewhere and cancelled in any state. Whatever happens, each that began ends once, and nothing is left.
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <random>
#include <stdexcept>
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

INSTANTIATE_TEST_SUITE_P(Workers, GroupsOfAnySize, testing::Values(2U, 4U, 16U), testing::PrintToStringParamName());

// A failed task that nobody looks at says so: that is no fault here.
void expect_harmless_reports() {
  for (const std::string& report : Reports::take())
    EXPECT_EQ(report, "Task exception was never retrieved: exception: leaf");
}

// The programs that one number stands for: the same each time, but for the order of what happens at once.
class Program {
 public:
  explicit Program(Ledger& ledger) noexcept : ledger_(ledger) {}

  Coroutine<long> tree(int depth, std::uint32_t seed) {
    Ledger::Entry entry(ledger_);
    std::mt19937 generator(seed);
    const auto random = [&generator] { return static_cast<std::uint32_t>(generator()) % 100'000; };
    long sum = 0;
    if (depth == 0) {
      sum = co_await leaf(random());
    } else {
      switch (random() % 6) {
        case 0:
          sum = co_await gathers(depth, random());
          break;
        case 1:
          sum = co_await gathers_outcomes(depth, random());
          break;
        case 2:
          sum = co_await spawns(depth, random());
          break;
        case 3:
          sum = co_await pins(depth, random());
          break;
        case 4:
          sum = co_await maps(depth, random());
          break;
        default:
          sum = co_await gathers_tasks(depth, random());
      }
    }
    entry.finish();
    co_return sum;
  }

 private:
  Coroutine<long> leaf(std::uint32_t seed) {
    Ledger::Entry entry(ledger_);
    switch (seed % 9) {
      case 0:
        co_await sleep(0s);
        break;
      case 1:
        co_await sleep(std::chrono::microseconds(seed % 300));
        break;
      case 2:
        for (int i = 0; i < 3; ++i) co_await sleep(0s);
        break;
      case 3:
        co_await completed_elsewhere(seed);
        break;
      case 4:
        co_await to_thread([] {});
        break;
      case 5:
        if (seed % 13 == 0) throw std::runtime_error("leaf");
        break;
      default:
        break;
    }
    entry.finish();
    co_return 1;
  }

  Coroutine<> completed_elsewhere(std::uint32_t seed) {
    const std::vector<EventLoop*> loops = workers();
    Future<long> future = loops[seed % loops.size()]->create_future<long>();
    const auto complete = [](Future<long> f) -> Coroutine<> {
      co_await sleep(0s);
      try {
        f.set_result(1);
      } catch (const InvalidStateError&) {
        // Its awaiter was cancelled, and so was it.
      }
    };
    Task<> completing = loops[seed / 7 % loops.size()]->create_task(complete(future));
    co_await future;
    co_await completing;
  }

  Coroutine<long> gathers(int depth, std::uint32_t seed) {
    const auto [a, b] = co_await gather(tree(depth - 1, seed), tree(depth - 1, seed / 2));
    co_return a + b;
  }

  Coroutine<long> gathers_outcomes(int depth, std::uint32_t seed) {
    std::vector<Coroutine<long>> children;
    for (std::uint32_t i = 0; i < 4; ++i) children.push_back(tree(depth - 1, seed + i));
    long sum = 0;
    for (const Outcome<long>& outcome : co_await gather(return_exceptions, std::move(children))) {
      if (outcome) sum += *outcome;
    }
    co_return sum;
  }

  Coroutine<long> spawns(int depth, std::uint32_t seed) {
    Task<long> floating = spawn(tree(depth - 1, seed));
    Task<long> inheriting = create_task(tree(depth - 1, seed / 3));
    co_await sleep(0s);
    if (seed % 4 == 0) floating.cancel();
    const long sum = co_await value_or_zero(floating);
    co_return sum + co_await value_or_zero(inheriting);
  }

  Coroutine<long> pins(int depth, std::uint32_t seed) {
    const std::vector<EventLoop*> loops = workers();
    Task<long> pinned = loops[seed % loops.size()]->create_task(tree(depth - 1, seed));
    if (seed % 5 == 0) {
      co_await sleep(10us);
      pinned.cancel();
    }
    co_return co_await value_or_zero(pinned);
  }

  Coroutine<long> maps(int depth, std::uint32_t seed) {
    const auto child = [this, depth](std::uint32_t s) { return tree(depth - 1, s); };
    const MapOptions options{.limit = seed % 2 == 0 ? 2U : 100U};
    long sum = 0;
    for (const long one : co_await map(child, std::views::iota(seed, seed + 5), options)) sum += one;
    co_return sum;
  }

  Coroutine<long> gathers_tasks(int depth, std::uint32_t seed) {
    Task<long> own = spawn(tree(depth - 1, seed));
    const auto [a, b, c] = co_await gather(own, tree(depth - 1, seed / 2), own);
    co_return a + b + c;
  }

  // A cancellation of the one who awaits ends here too; what comes later is cancelled again.
  static Coroutine<long> value_or_zero(Task<long> task) {
    long value = 0;
    bool cancelled = false;
    try {
      value = co_await task;
    } catch (const CancelledError&) {
      cancelled = true;
    } catch (const std::exception&) {
      value = 0;
    }
    if (cancelled && current_task().cancelling() != 0) throw CancelledError();
    co_return value;
  }

  Ledger& ledger_;
};

Coroutine<> quietly(Task<long> task) {
  try {
    co_await task;
  } catch (const CancelledError&) {
    co_return;
  } catch (const std::exception&) {
    co_return;
  }
}

constexpr int programs = OURO_TSAN || OURO_ASAN ? 60 : 300;

TEST_P(GroupsOfAnySize, ProgramsMadeAtRandom) {
  Ledger ledger;
  Program program(ledger);
  const auto main = [&]() -> Coroutine<> {
    for (std::uint32_t i = 0; i < programs; ++i) {
      Task<long> first = spawn(program.tree(5, 3 * i));
      Task<long> second = workers()[i % workers().size()]->create_task(program.tree(5, 3 * i + 1));
      co_await sleep(std::chrono::microseconds(i % 100));
      if (i % 3 == 0) first.cancel();
      if (i % 5 == 0) second.cancel();
      co_await quietly(first);
      co_await quietly(second);
    }
  };
  run(main);
  EXPECT_GT(ledger.begun(), 0);
  EXPECT_EQ(ledger.open(), 0);
  expect_harmless_reports();
}

TEST_P(GroupsOfAnySize, ProgramsThatAreLeftAtTheEnd) {
  for (std::uint32_t round = 0; round < programs / 10; ++round) {
    Ledger ledger;
    Program program(ledger);
    const auto main = [&]() -> Coroutine<> {
      for (std::uint32_t i = 0; i < 5; ++i) {
        spawn(program.tree(4, 100 * round + i));
        workers()[i % workers().size()]->create_task(program.tree(4, 200 * round + i));
      }
      co_await sleep(std::chrono::microseconds(20 * round));
    };
    run(main);
    EXPECT_EQ(ledger.open(), 0);
    for (const std::string& report : Reports::take()) EXPECT_NE(report.find("exception: leaf"), report.npos) << report;
  }
}

}  // namespace
}  // namespace ouro
