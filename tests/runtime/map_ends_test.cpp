// How maps over asynchronous sources and map_unordered end before their time: cancelled, closed, dropped half way, or
// destroyed with their loop; and what the clean-up of children and source throws then.
#include <gmock/gmock.h>

#include <algorithm>
#include <cstddef>
#include <exception>
#include <memory>
#include <ranges>
#include <stdexcept>
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
using testing::ElementsAre;
using testing::IsEmpty;
using testing::SizeIs;

class MapEndsTest : public test::LoopTest {
 protected:
  // The clean-up of children and source logs, awaits, and logs again.
  Coroutine<int> child(int i) {
    const test::Counted here(alive);
    ++begun;
    std::exception_ptr why;
    try {
      if (i >= 2) co_await loop.create_future();
    } catch (const CancelledError& error) {
      words.push_back("cancelled: " + error.message());
      why = std::current_exception();
    }
    if (why) co_await sleep(0s);
    if (why && child_throws) throw std::runtime_error("a child");
    if (why) std::rethrow_exception(why);
    co_return i;
  }
  AsyncGenerator<int> source(int n) {
    const test::Counted here(alive);
    std::exception_ptr why;
    try {
      for (int i = 0; i < n; ++i) co_yield i;
      if (blocks) co_await loop.create_future();
    } catch (...) {
      why = std::current_exception();
    }
    co_await sleep(0s);
    words.push_back("source closed");
    if (why && source_throws) throw std::runtime_error("the source");
    if (why) std::rethrow_exception(why);
  }
  auto children() {
    return [this](int i) { return child(i); };
  }
  // Asks for `n` results, and returns the generator.
  auto take(std::size_t n, MapOptions options = {.limit = 4}) {
    return [](auto results, std::size_t wanted) -> Coroutine<decltype(results)> {
      for (std::size_t i = 0; i < wanted; ++i) EXPECT_TRUE(co_await results.next());
      co_return std::move(results);
    }(map_unordered(children(), source(9), options), n);
  }

  void TearDown() override {
    LoopTest::TearDown();
    EXPECT_EQ(alive, 0);
  }

  std::vector<std::string> words;
  int begun = 0;
  int alive = 0;
  bool child_throws = false;
  bool source_throws = false;
  bool blocks = false;
};

int number_of(const AnyTask& task) { return std::stoi(task.get_name().substr(5)); }

// ---- Cancelled ----

TEST_F(MapEndsTest, CancelledItCancelsChildrenAndSourceAndAwaitsThem) {
  for (const bool in_source : {false, true}) {
    words.clear();
    blocks = in_source;
    const int elements = in_source ? 4 : 100;
    Task<std::vector<int>> task = loop.create_task(map(children(), source(elements), {.limit = in_source ? 9U : 2U}));
    turn(12);
    task.cancel("stop");
    EXPECT_EQ(test::thrown_by([&] { run(task); }), "CancelledError: stop");
    EXPECT_THAT(words, ElementsAre("cancelled: stop", "cancelled: stop", "source closed"));
    EXPECT_EQ(alive, 0);
  }
}

TEST_F(MapEndsTest, CancelledBeforeItBeganNothingIsMade) {
  Task<std::vector<int>> task = loop.create_task(map(children(), source(5)));
  task.cancel("early");
  EXPECT_EQ(test::thrown_by([&] { run(task); }), "CancelledError: early");
  EXPECT_EQ(begun, 0);
  EXPECT_THAT(words, IsEmpty());
}

TEST_F(MapEndsTest, ACancelledNextEndsTheGenerator) {
  auto results = run(take(2));
  const auto next = [&]() -> Coroutine<> { co_await results.next(); };
  Task<> task = loop.create_task(next);
  turn(8);
  task.cancel("stop");
  EXPECT_EQ(test::thrown_by([&] { run(task); }), "CancelledError: stop");
  std::sort(words.begin(), words.end());
  EXPECT_THAT(words,
              ElementsAre("cancelled: stop", "cancelled: stop", "cancelled: stop", "cancelled: stop", "source closed"));
  run([&]() -> Coroutine<> { EXPECT_FALSE(co_await results.next()); });
}

TEST_F(MapEndsTest, CancelledWhileItCleansUpAfterAnErrorItAwaitsAllAndTellsOfTheCancellation) {
  auto f = [this](int i) -> Coroutine<int> {
    if (i == 1) throw std::runtime_error("one");
    for (int asked = 0; asked < 2;) {
      try {
        co_await loop.create_future();
      } catch (const CancelledError& error) {
        ++asked;
        words.push_back("asked: " + error.message());
      }
    }
    co_return i;
  };
  const auto await = [&]() -> Coroutine<> { co_await map(f, source(2)); };
  Task<> task = loop.create_task(await);
  turn(10);
  EXPECT_FALSE(task.done());
  EXPECT_THAT(words, ElementsAre("source closed", "asked: "));
  task.cancel("now");
  EXPECT_EQ(test::thrown_by([&] { run(task); }), "CancelledError: now");
  EXPECT_THAT(words, ElementsAre("source closed", "asked: ", "asked: now"));
}

TEST_F(MapEndsTest, AnErrorOfAChildThatIsCancelledComesOutInPlaceOfTheCancellation) {
  child_throws = true;
  Task<std::vector<int>> task = loop.create_task(map(children(), source(4)));
  turn(10);
  task.cancel("stop");
  EXPECT_EQ(test::thrown_by([&] { run(task); }), "exception: a child");
}

TEST_F(MapEndsTest, OneChildOrTheFeederCancelledThroughItsHandleEndsIt) {
  for (const bool the_child : {true, false}) {
    words.clear();
    Task<std::vector<int>> task = loop.create_task(map(children(), source(9), {.limit = 1}));
    turn(12);
    std::vector<AnyTask> others;
    for (AnyTask& one : all_tasks(loop)) {
      if (one != AnyTask(task)) others.push_back(one);
    }
    ASSERT_THAT(others, SizeIs(2));
    // The feeder was made first.
    std::sort(others.begin(), others.end(),
              [](const AnyTask& a, const AnyTask& b) { return number_of(a) < number_of(b); });
    others[the_child ? 1 : 0].cancel("you");
    EXPECT_EQ(test::thrown_by([&] { run(task); }), "CancelledError: you");
    EXPECT_THAT(words, SizeIs(2));
    EXPECT_EQ(words.back(), "source closed");
  }
}

// ---- Closed ----

TEST_F(MapEndsTest, ClosedItCancelsChildrenThenClosesTheSource) {
  auto results = run(take(2));
  turn(8);
  run([&]() -> Coroutine<> {
    co_await results.aclose();
    EXPECT_THAT(words, ElementsAre("cancelled: ", "cancelled: ", "cancelled: ", "cancelled: ", "source closed"));
    EXPECT_EQ(alive, 0);
    EXPECT_FALSE(co_await results.next());
    co_await results.aclose();
  });
}

TEST_F(MapEndsTest, AcloseThrowsTheErrorOfAChildOrOfTheSource) {
  child_throws = true;
  EXPECT_EQ(test::thrown_by([&] {
              auto results = run(take(2));
              run([&]() -> Coroutine<> { co_await results.aclose(); });
            }),
            "exception: a child");
  child_throws = false;
  source_throws = true;
  EXPECT_EQ(test::thrown_by([&] {
              auto results = run(take(1));
              run([&]() -> Coroutine<> { co_await results.aclose(); });
            }),
            "exception: the source");
}

TEST_F(MapEndsTest, WhatTheSourceThrowsWhenItIsClosedComesOutIfNothingElseDoes) {
  source_throws = true;
  auto fails = [](int i) -> Coroutine<int> {
    if (i == 1) throw std::runtime_error("one");
    co_return i;
  };
  EXPECT_EQ(test::thrown_by([&] { run(map(fails, source(9), {.limit = 1})); }), "exception: one");
  Task<std::vector<int>> task = loop.create_task(map(children(), source(9), {.limit = 1}));
  turn(12);
  task.cancel("stop");
  EXPECT_EQ(test::thrown_by([&] { run(task); }), "exception: the source");
}

TEST_F(MapEndsTest, OneThatNeverBeganHasNothingToClose) {
  {
    auto results = map_unordered(children(), source(5));
    auto moved = std::move(results);
    run([&]() -> Coroutine<> { co_await moved.aclose(); });
  }
  static_cast<void>(map(children(), source(5)));
  EXPECT_EQ(begun, 0);
  EXPECT_THAT(words, IsEmpty());
}

// ---- Dropped ----

TEST_F(MapEndsTest, DroppedHalfWayATaskOfTheLoopClosesIt) {
  run([&]() -> Coroutine<> {
    {
      auto results = co_await take(2);
      for (int i = 0; i < 8; ++i) co_await sleep(0s);
    }
    EXPECT_EQ(alive, 5);
    while (alive != 0) co_await sleep(0s);
    EXPECT_THAT(words, ElementsAre("cancelled: ", "cancelled: ", "cancelled: ", "cancelled: ", "source closed"));
  });
}

TEST_F(MapEndsTest, DroppedWhileTheLoopDoesNotRunItsChildrenAreCancelledWhenItDoes) {
  OURO_TEST_ALONE("in a group the test counts as running on the loop");
  {
    auto results = run(take(2));
    turn(8);
  }
  EXPECT_THAT(words, IsEmpty());
  turn(8);
  EXPECT_THAT(words, ElementsAre("cancelled: ", "cancelled: ", "cancelled: ", "cancelled: ", "source closed"));
  EXPECT_EQ(alive, 0);
}

TEST_F(MapEndsTest, ALoopThatClosesDestroysAllOfIt) {
  {
    auto kept = run(take(2));
    Task<std::vector<int>> task = loop.create_task(map(children(), source(9), {.limit = 3}));
    blocks = true;
    Task<std::vector<int>> other = loop.create_task(map(children(), source(4)));
    turn(12);
    EXPECT_GT(alive, 8);
    destroy_loop();
    EXPECT_TRUE(task.cancelled());
    EXPECT_TRUE(other.cancelled());
    EXPECT_THAT(take_reports(), SizeIs(1));
  }
  EXPECT_THAT(words, IsEmpty());
}

}  // namespace
}  // namespace ouro
