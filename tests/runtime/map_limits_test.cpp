// MapLimit: raised and lowered while maps run under it.
#include <gmock/gmock.h>

#include <cstddef>
#include <memory>
#include <ranges>
#include <string>
#include <utility>
#include <vector>

#include <ouro/runtime/base_event_loop.hpp>
#include <ouro/runtime/map_unordered.hpp>
#include <ouro/runtime/sleep.hpp>

#include "support/loop_fixture.hpp"

namespace ouro {
namespace {

using namespace std::chrono_literals;
using testing::SizeIs;

class MapLimitTest : public test::LoopTest {
 protected:
  MapLimitTest() {
    for (int i = 0; i < 60; ++i) gates.push_back(loop.create_future());
  }
  void TearDown() override {
    gates.clear();
    LoopTest::TearDown();
  }
  auto gated() {
    return [this](int i) -> Coroutine<int> {
      ++begun;
      co_await gates.at(static_cast<std::size_t>(i));
      ++ended;
      co_return i;
    };
  }
  // Ends the children from..to-1, and lets all happen that follows.
  void end(std::size_t from, std::size_t to) {
    for (; from < to; ++from) gates[from].set_result();
    turn(6);
  }

  std::vector<Future<>> gates;
  int begun = 0;
  int ended = 0;
};

TEST_F(MapLimitTest, RaisedFurtherChildrenStartAtOnceAndLoweredNoneUntilAsManyHaveEnded) {
  MapLimit limit(2);
  Task<std::vector<int>> task = loop.create_task(map(gated(), std::views::iota(0, 60), limit));
  turn(6);
  EXPECT_EQ(begun, 2);
  limit.set(5);
  EXPECT_EQ(limit.get(), 5U);
  turn(6);
  EXPECT_EQ(begun, 5);
  limit.set(2);
  end(0, 3);  // two are left: as many as may be
  EXPECT_EQ(ended, 3);
  EXPECT_EQ(begun, 5);
  end(3, 4);
  EXPECT_EQ(begun, 6);
  limit.set(1);
  end(4, 5);
  EXPECT_EQ(begun, 6);
  end(5, 6);
  EXPECT_EQ(begun, 7);
  limit.set(1000);
  turn(6);
  EXPECT_EQ(begun, 60);
  end(6, 60);
  EXPECT_THAT(run(task), SizeIs(60));
}

TEST_F(MapLimitTest, ItHoldsForResultsAsTheyCome) {
  auto limit = std::make_unique<MapLimit>(1);
  auto results = map_unordered(gated(), std::views::iota(0, 60), *limit);
  const auto next = [&]() -> Coroutine<std::size_t> {
    auto one = co_await results.next();
    co_return one->index;
  };
  Task<std::size_t> first = loop.create_task(next);
  turn(6);
  EXPECT_EQ(begun, 1);
  limit->set(3);  // of children that run, and results that nobody has taken
  end(0, 2);
  EXPECT_EQ(run(first), 0U);
  turn(6);
  EXPECT_EQ(begun, 4);
  limit->set(2);
  turn(6);
  EXPECT_EQ(run(loop.create_task(next)), 1U);
  turn(6);
  EXPECT_EQ(begun, 4);
  end(2, 4);
  EXPECT_EQ(run(loop.create_task(next)), 2U);
  turn(6);
  EXPECT_EQ(begun, 5);
  limit.reset();  // the last one holds on
  EXPECT_EQ(run(loop.create_task(next)), 3U);
  turn(6);
  EXPECT_EQ(begun, 6);
  run([&]() -> Coroutine<> { co_await results.aclose(); });
}

TEST_F(MapLimitTest, EachOfSeveralMapsMayHaveAsMany) {
  MapLimit limit(1);
  Task<std::vector<int>> one = loop.create_task(map(gated(), std::views::iota(0, 20), limit));
  Task<std::vector<int>> other = loop.create_task(map(gated(), std::views::iota(20, 40), limit));
  turn(6);
  EXPECT_EQ(begun, 2);
  limit.set(4);
  turn(6);
  EXPECT_EQ(begun, 8);
  one.cancel();
  turn(6);
  limit.set(5);  // the other is there still
  turn(6);
  EXPECT_EQ(begun, 9);
  end(20, 40);
  EXPECT_THAT(run(other), SizeIs(20));
  limit.set(6);  // and nobody now
  EXPECT_EQ(limit.get(), 6U);
}

TEST_F(MapLimitTest, AChildMayChangeIt) {
  MapLimit limit(1);
  int inside = 0;
  std::vector<int> seen;
  auto f = [&](int i) -> Coroutine<> {
    seen.push_back(++inside);
    if (i == 4) limit.set(3);
    if (i == 20) limit.set(1);
    for (int n = 0; n < 8; ++n) co_await sleep(0s);
    --inside;
  };
  run(map(f, std::views::iota(0, 40), limit));
  ASSERT_THAT(seen, SizeIs(40));
  for (std::size_t i = 0; i <= 4; ++i) EXPECT_EQ(seen[i], 1) << i;
  EXPECT_EQ(seen[6], 3);
  for (std::size_t i = 23; i < 40; ++i) EXPECT_EQ(seen[i], 1) << i;
}

TEST_F(MapLimitTest, ZeroIsAValueErrorAndChangesNothing) {
  EXPECT_THROW(MapLimit(0), ValueError);
  MapLimit limit(2);
  EXPECT_EQ(test::thrown_by([&] { limit.set(0); }), "ValueError: map: the limit must be at least 1");
  EXPECT_EQ(limit.get(), 2U);
}

}  // namespace
}  // namespace ouro
