// map of floating tasks: ranges of all kinds, limits, and errors of the function, the range and the children.
#include <gmock/gmock.h>

#include <atomic>
#include <chrono>
#include <forward_list>
#include <memory>
#include <numeric>
#include <ranges>
#include <sstream>
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
using testing::ElementsAre;

INSTANTIATE_TEST_SUITE_P(Workers, GroupsOfAnySize, testing::Values(1U, 2U, 4U, 16U), testing::PrintToStringParamName());

Coroutine<int> twice(int i) {
  if (i % 3 == 0) co_await sleep(0s);
  if (i % 7 == 0) co_await sleep(20us);
  co_return 2 * i;
}

std::vector<int> expected(int n) {
  std::vector<int> results(static_cast<std::size_t>(n));
  for (int i = 0; i < n; ++i) results[static_cast<std::size_t>(i)] = 2 * i;
  return results;
}

constexpr std::size_t limits[] = {1, 2, 5, 1000};

// ---- Ranges ----

TEST_P(GroupsOfAnySize, VectorsAndViews) {
  const auto main = []() -> Coroutine<> {
    std::vector<int> numbers(300);
    std::iota(numbers.begin(), numbers.end(), 0);
    const auto half = [](int i) { return i / 2; };
    for (const std::size_t limit : limits) {
      const MapOptions options{.limit = limit};
      EXPECT_EQ(co_await map(twice, numbers, options), expected(300));
      EXPECT_EQ(co_await map(twice, std::views::iota(0, 300), options), expected(300));
      const std::vector<int> halves =
          co_await map(twice, std::views::iota(0, 600) | std::views::transform(half) | std::views::take(4), options);
      EXPECT_THAT(halves, ElementsAre(0, 0, 2, 2));
      std::vector<int> copy = numbers;
      EXPECT_EQ(co_await map(twice, std::move(copy), options), expected(300));
    }
  };
  run(main);
}

TEST_P(GroupsOfAnySize, RangesWithoutNumbers) {
  const auto main = []() -> Coroutine<> {
    std::forward_list<int> list;
    for (int i = 299; i >= 0; --i) list.push_front(i);
    const auto even = [](int i) { return i % 2 == 0; };
    for (const std::size_t limit : limits) {
      const MapOptions options{.limit = limit};
      EXPECT_EQ(co_await map(twice, list, options), expected(300));
      const std::vector<int> filtered = co_await map(twice, std::views::iota(0, 8) | std::views::filter(even), options);
      EXPECT_THAT(filtered, ElementsAre(0, 4, 8, 12));
    }
  };
  run(main);
}

TEST_P(GroupsOfAnySize, RangesThatCanBeReadOnce) {
  const auto main = []() -> Coroutine<> {
    for (const std::size_t limit : limits) {
      std::istringstream words("0 1 2 3 4 5 6 7 8 9");
      EXPECT_EQ(co_await map(twice, std::views::istream<int>(words), {.limit = limit}), expected(10));
    }
  };
  run(main);
}

TEST_P(GroupsOfAnySize, ElementsAreGivenByReference) {
  const auto main = []() -> Coroutine<> {
    std::vector<std::string> words(100, "word");
    const auto change = [](std::string& word) -> Coroutine<> {
      co_await sleep(0s);
      word += " changed";
    };
    co_await map(change, words);
    EXPECT_EQ(words, std::vector<std::string>(100, "word changed"));
    std::vector<std::unique_ptr<int>> boxes;
    for (int i = 0; i < 100; ++i) boxes.push_back(std::make_unique<int>(i));
    const auto look = [](const std::unique_ptr<int>& box) -> Coroutine<int> { co_return 2 * *box; };
    EXPECT_EQ(co_await map(look, boxes, {.limit = 3}), expected(100));
  };
  run(main);
}

// ---- Limits ----

TEST_P(GroupsOfAnySize, NeverMoreAtOnceThanTheLimit) {
  const auto main = []() -> Coroutine<> {
    for (const int limit : {1, 2, 3, 7}) {
      Crowd crowd;
      const auto child = [&](int i) -> Coroutine<int> {
        crowd.enter();
        while (crowd.most() < limit) co_await sleep(0s);  // as many as may do get in
        if (i % 2 == 0) co_await sleep(10us);
        if (i % 5 == 0) co_await to_thread([] {});
        crowd.leave();
        co_return 2 * i;
      };
      const MapOptions options{.limit = static_cast<std::size_t>(limit)};
      EXPECT_EQ(co_await map(child, std::views::iota(0, 200), options), expected(200));
      EXPECT_EQ(crowd.most(), limit);
      EXPECT_EQ(crowd.inside(), 0);
    }
  };
  run(main);
}

TEST_P(GroupsOfAnySize, ALimitOfChildrenThatNeverSuspend) {
  const auto main = []() -> Coroutine<> {
    for (const int limit : {1, 2, 3}) {
      Crowd crowd;
      const auto child = [&](int i) -> Coroutine<int> {
        crowd.enter();
        std::this_thread::yield();
        crowd.leave();
        co_return 2 * i;
      };
      const MapOptions options{.limit = static_cast<std::size_t>(limit)};
      EXPECT_EQ(co_await map(child, std::views::iota(0, 2000), options), expected(2000));
      EXPECT_LE(crowd.most(), limit);
    }
  };
  run(main);
}

// ---- Errors ----

TEST_P(GroupsOfAnySize, AFunctionThatThrows) {
  const auto main = []() -> Coroutine<> {
    for (const std::size_t limit : limits) {
      for (const int at : {0, 1, 50, 99}) {
        Ledger ledger;
        const auto child = [&](Ledger::Entry entry, int i) -> Coroutine<> {
          if (i % 2 == 0) co_await sleep(10us);
          entry.finish();
        };
        const auto f = [&](int i) -> Coroutine<> {
          if (i == at) throw std::runtime_error("no child");
          return child(Ledger::Entry(ledger), i);
        };
        std::string thrown;
        try {
          co_await map(f, std::views::iota(0, 100), {.limit = limit});
        } catch (const std::runtime_error& error) {
          thrown = error.what();
        }
        EXPECT_EQ(thrown, "no child");
        EXPECT_EQ(ledger.open(), 0);
      }
    }
  };
  run(main);
}

TEST_P(GroupsOfAnySize, ARangeThatThrows) {
  const auto main = []() -> Coroutine<> {
    const auto checked = [](int i) {
      if (i == 30) throw std::out_of_range("thirty");
      return i;
    };
    for (const std::size_t limit : limits) {
      std::string thrown;
      try {
        co_await map(twice, std::views::iota(0, 100) | std::views::transform(checked), {.limit = limit});
      } catch (const std::out_of_range& error) {
        thrown = error.what();
      }
      EXPECT_EQ(thrown, "thirty");
    }
  };
  run(main);
}

TEST_P(GroupsOfAnySize, ChildrenThatThrow) {
  const auto main = []() -> Coroutine<> {
    for (const std::size_t limit : limits) {
      for (const int at : {0, 50, 99}) {
        Ledger ledger;
        const auto child = [&](int i) -> Coroutine<> {
          Ledger::Entry entry(ledger);
          if (i % 2 == 0) co_await sleep(0s);
          if (i >= at) throw std::runtime_error("boom");
          if (i % 3 == 0) co_await sleep(10us);
          entry.finish();
        };
        std::string thrown;
        try {
          co_await map(child, std::views::iota(0, 100), {.limit = limit});
        } catch (const std::runtime_error& error) {
          thrown = error.what();
        }
        EXPECT_EQ(thrown, "boom");
        EXPECT_EQ(ledger.open(), 0);
      }
    }
  };
  run(main);
}

TEST_P(GroupsOfAnySize, NoMoreChildrenAfterAnError) {
  const auto main = []() -> Coroutine<> {
    std::atomic<int> begun{0};
    const auto child = [&](int) -> Coroutine<> {
      ++begun;
      throw std::runtime_error("boom");
      co_return;
    };
    std::string thrown;
    try {
      co_await map(child, std::views::iota(0, 1'000'000), {.limit = 2});
    } catch (const std::runtime_error& error) {
      thrown = error.what();
    }
    EXPECT_EQ(thrown, "boom");
    EXPECT_LE(begun, 2);
  };
  run(main);
}

// ---- In each other ----

TEST_P(GroupsOfAnySize, MapsInMaps) {
  const auto main = []() -> Coroutine<> {
    const auto row = [](int i) -> Coroutine<int> {
      const auto cell = [](int j) -> Coroutine<int> { co_return co_await twice(j); };
      const std::vector<int> cells = co_await map(cell, std::views::iota(0, i), {.limit = 4});
      co_return std::accumulate(cells.begin(), cells.end(), 0);
    };
    const std::vector<int> rows = co_await map(row, std::views::iota(0, 60), {.limit = 3});
    for (int i = 0; i < 60; ++i) EXPECT_EQ(rows[static_cast<std::size_t>(i)], i * (i - 1));
  };
  run(main);
}

}  // namespace
}  // namespace ouro
