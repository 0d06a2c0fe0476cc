// map over asynchronous sources, MapLimit and map_unordered in groups of loops: from floating and from pinned tasks.
#include <gmock/gmock.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <exception>
#include <memory>
#include <numeric>
#include <ranges>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <ouro/ouro.hpp>

#include "support/group.hpp"

namespace ouro {
namespace {

using namespace std::chrono_literals;
using test::Crowd;
using test::GroupsOfAnySize;
using test::Ledger;
using test::until;
using testing::SizeIs;

INSTANTIATE_TEST_SUITE_P(Workers, GroupsOfAnySize, testing::Values(1U, 2U, 4U, 16U), testing::PrintToStringParamName());

Coroutine<int> twice(int i) {
  if (i % 3 == 0) co_await sleep(0s);
  if (i % 7 == 0) co_await sleep(20us);
  co_return 2 * i;
}

AsyncGenerator<int> count(Ledger& ledger, int n) {
  Ledger::Entry entry(ledger);
  for (int i = 0; i < n; ++i) {
    if (i % 5 == 0) co_await sleep(0s);
    co_yield i;
  }
  entry.finish();
}

// In the main task, which floats; and in one that is pinned to each loop in turn.
template <class Body>
Coroutine<> in_both(Body& body) {
  co_await body();
  for (EventLoop* loop : workers()) co_await loop->create_task(body());
}

TEST_P(GroupsOfAnySize, AsynchronousSourcesInOrder) {
  Ledger ledger;
  const auto body = [&]() -> Coroutine<> {
    std::vector<int> expected(300);
    std::iota(expected.begin(), expected.end(), 0);
    for (int& number : expected) number *= 2;
    for (const std::size_t limit : {std::size_t{1}, std::size_t{3}, std::size_t{1000}}) {
      const MapOptions options{.limit = limit};
      EXPECT_EQ(co_await map(twice, count(ledger, 300), options), expected);
    }
  };
  run([&]() -> Coroutine<> { co_await in_both(body); });
  EXPECT_EQ(ledger.finished(), ledger.begun());
}

TEST_P(GroupsOfAnySize, ResultsAsTheyComeAreCompleteAndNoMoreThanTheLimitIsUntaken) {
  Ledger ledger;
  const auto body = [&]() -> Coroutine<> {
    std::atomic<int> untaken{0};
    std::atomic<int> most{0};
    const auto f = [&](int i) -> Coroutine<int> {
      const int now = ++untaken;
      for (int before = most; before < now && !most.compare_exchange_weak(before, now);) {
      }
      co_return co_await twice(i);
    };
    auto results = map_unordered(f, count(ledger, 400), {.limit = 5});
    std::vector<bool> seen(400);
    while (auto one = co_await results.next()) {
      --untaken;
      EXPECT_EQ(one->value, static_cast<int>(2 * one->index));
      EXPECT_FALSE(seen[one->index]);
      seen[one->index] = true;
    }
    EXPECT_EQ(std::count(seen.begin(), seen.end(), true), 400);
    // One is handed out, and the next one may start, before it is subtracted here.
    EXPECT_LE(most, 6);
  };
  run([&]() -> Coroutine<> { co_await in_both(body); });
  EXPECT_EQ(ledger.finished(), ledger.begun());
}

TEST_P(GroupsOfAnySize, ALimitThatOthersChange) {
  const auto body = [&]() -> Coroutine<> {
    MapLimit limit(1);
    Crowd crowd;
    std::atomic<bool> over{false};
    const auto f = [&](int i) -> Coroutine<int> {
      crowd.enter();
      const int result = co_await twice(i);
      crowd.leave();
      co_return result;
    };
    Task<> changes = spawn([&]() -> Coroutine<> {
      for (std::size_t i = 0; !over; ++i) {
        limit.set(i % 8 + 1);
        co_await sleep(0s);
      }
    });
    EXPECT_THAT(co_await map(f, std::views::iota(0, 500), limit), SizeIs(500));
    auto results = map_unordered(f, std::views::iota(0, 500), limit);
    int taken = 0;
    while (co_await results.next()) ++taken;
    over = true;
    co_await changes;
    EXPECT_EQ(taken, 500);
    EXPECT_LE(crowd.most(), 8);
    EXPECT_EQ(crowd.inside(), 0);
  };
  run([&]() -> Coroutine<> { co_await in_both(body); });
}

// Every child, the source and the callable ends however the map does.
TEST_P(GroupsOfAnySize, ErrorsCancellationsClosesAndDrops) {
  Ledger ledger;
  const auto child = [&](int i) -> Coroutine<int> {
    Ledger::Entry entry(ledger);
    if (i % 4 == 1) co_await sleep(0s);
    if (i == 60) throw std::runtime_error("sixty");
    if (i > 60) co_await sleep(1h);
    entry.finish();
    co_return i;
  };
  const auto body = [&]() -> Coroutine<> {
    for (int i = 0; i < 40; ++i) {
      const MapOptions options{.limit = static_cast<std::size_t>(i % 9 + 1)};
      Task<std::vector<int>> fails = create_task(map(child, count(ledger, 100), options));
      Task<std::vector<int>> stopped = create_task(map(child, count(ledger, 50), options));
      auto results = map_unordered(child, count(ledger, 100), options);
      for (int n = 0; n < i; ++n) EXPECT_TRUE(co_await results.next());
      stopped.cancel();
      if (i % 3 == 0) co_await results.aclose();
      if (i % 3 == 1) auto dropped = std::move(results);
      std::string error;
      try {
        co_await fails;
      } catch (const std::runtime_error& e) {
        error = e.what();
      }
      EXPECT_EQ(error, "sixty");
      const std::vector<Task<std::vector<int>>> last{stopped};
      co_await wait(last);
      EXPECT_TRUE(stopped.cancelled() || stopped.result().size() == 50);
    }
  };
  run([&]() -> Coroutine<> { co_await in_both(body); });
  EXPECT_EQ(ledger.open(), 0);
  EXPECT_GT(ledger.broken_off(), 0);
}

TEST_P(GroupsOfAnySize, AMapMayBeTheSourceOfAnother) {
  Ledger ledger;
  const auto half = [](MapResult<int> result) { return twice(result.value / 2); };
  const auto body = [&]() -> Coroutine<> {
    auto first = map_unordered(twice, count(ledger, 200), {.limit = 7});
    auto second = map_unordered(half, std::move(first), {.limit = 3});
    long sum = 0;
    while (auto one = co_await second.next()) sum += one->value;
    EXPECT_EQ(sum, 200 * 199);
  };
  run([&]() -> Coroutine<> { co_await in_both(body); });
}

TEST_P(GroupsOfAnySize, AGroupThatEndsClosesTheMapsThatAreLeft) {
  Ledger ledger;
  const auto child = [&](int i) -> Coroutine<int> {
    const Ledger::Entry entry(ledger);
    if (i % 3 != 0) co_await sleep(1h);
    co_return i;
  };
  const auto source = [&]() -> AsyncGenerator<int> { return count(ledger, 1000); };
  run([&]() -> Coroutine<> {
    auto results = std::make_shared<AsyncGenerator<MapResult<int>>>(map_unordered(child, source(), {.limit = 6}));
    EXPECT_TRUE(co_await results->next());
    spawn([results, &child, &source]() -> Coroutine<> { co_await map(child, source(), {.limit = 2}); });
    co_await until([&] { return ledger.begun() >= 4; });
  });
  EXPECT_EQ(ledger.open(), 0);
}

}  // namespace
}  // namespace ouro
