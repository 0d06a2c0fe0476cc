// map over asynchronous sources, and map_unordered: results, elements, how much is read ahead, errors.
#include <ouro/runtime/map_unordered.hpp>

#include <gmock/gmock.h>

#include <algorithm>
#include <cstddef>
#include <functional>
#include <memory>
#include <optional>
#include <ranges>
#include <sstream>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <ouro/runtime/as_completed.hpp>
#include <ouro/runtime/base_event_loop.hpp>
#include <ouro/runtime/sleep.hpp>

#include "support/loop_fixture.hpp"

namespace ouro {
namespace {

using namespace std::chrono_literals;
using testing::ElementsAre;
using testing::IsEmpty;
using testing::SizeIs;

Coroutine<int> twice(int i) { co_return 2 * i; }

// Ends at once for even numbers, after two turns for odd ones.
Coroutine<int> mixed(int i) {
  if (i % 2 == 1) {
    co_await sleep(0s);
    co_await sleep(0s);
  }
  co_return 2 * i;
}

AsyncGenerator<int> count(int n) {
  for (int i = 0; i < n; ++i) {
    if (i % 3 == 0) co_await sleep(0s);
    co_yield i;
  }
}

class MapUnorderedTest : public test::LoopTest {
 protected:
  void TearDown() override {
    gates.clear();
    LoopTest::TearDown();
  }
  void log(std::string word) { words.push_back(std::move(word)); }

  // Waits for the i-th of `gates`, and logs its end.
  Coroutine<int> gated(int i) {
    ++begun;
    try {
      co_await gates.at(static_cast<std::size_t>(i));
    } catch (const CancelledError& error) {
      log("cancelled " + std::to_string(i) + ": " + error.message());
      throw;
    }
    co_return 10 * i;
  }
  void make_gates(std::size_t n) {
    for (std::size_t i = 0; i < n; ++i) gates.push_back(loop.create_future());
  }
  auto through_gates() {
    return [this](int i) { return gated(i); };
  }

  // Logs how it ends, after an await.
  AsyncGenerator<int> watched(int n) {
    std::exception_ptr why;
    try {
      for (int i = 0; i < n; ++i) {
        ++asked;
        co_yield i;
      }
    } catch (...) {
      why = std::current_exception();
    }
    co_await sleep(0s);
    log("source closed");
    if (why) std::rethrow_exception(why);
  }

  std::vector<std::string> words;
  std::vector<Future<>> gates;
  int begun = 0;
  int asked = 0;
};

// ---- map over an asynchronous source ----

TEST_F(MapUnorderedTest, AnAsynchronousSourceGivesResultsInTheOrderOfItsElements) {
  for (const std::size_t limit : {std::size_t{1}, std::size_t{2}, std::size_t{7}, std::size_t{1000}}) {
    const std::vector<int> results = run(map(mixed, count(200), {.limit = limit}));
    ASSERT_THAT(results, SizeIs(200));
    for (std::size_t i = 0; i < 200; ++i) EXPECT_EQ(results[i], static_cast<int>(2 * i));
  }
  EXPECT_THAT(run(map(mixed, count(0))), IsEmpty());
  EXPECT_THAT(run(map(return_exceptions, mixed, count(0))), IsEmpty());
}

TEST_F(MapUnorderedTest, AMapOfASourceKeepsToItsLimitAndReadsNothingAhead) {
  make_gates(20);
  Task<std::vector<int>> task = loop.create_task(map(through_gates(), watched(20), {.limit = 3}));
  turn(5);
  EXPECT_EQ(begun, 3);
  EXPECT_EQ(asked, 3);
  gates[1].set_result();
  turn(5);
  EXPECT_EQ(begun, 4);
  EXPECT_EQ(asked, 4);
  for (const std::size_t i : {0U, 2U}) gates[i].set_result();
  turn(5);
  EXPECT_EQ(begun, 6);
  EXPECT_EQ(asked, 6);
  for (Future<>& gate : gates) {
    if (!gate.done()) gate.set_result();
  }
  EXPECT_THAT(run(task), SizeIs(20));
  EXPECT_THAT(words, ElementsAre("source closed"));
}

TEST_F(MapUnorderedTest, GivesEveryKindOfResult) {
  int target = 7;
  run([&]() -> Coroutine<> {
    auto nothing = [](int) -> Coroutine<> { co_return; };
    auto truth = [](int i) -> Coroutine<bool> { co_return i != 1; };
    auto box = [](int i) -> Coroutine<std::unique_ptr<int>> { co_return std::make_unique<int>(i); };
    auto reference = [&](int) -> Coroutine<int&> { co_return target; };
    static_assert(std::is_void_v<await_result_t<decltype(map(nothing, count(3)))>>);
    co_await map(nothing, count(3));
    EXPECT_THAT(co_await map(truth, count(3)), ElementsAre(true, false, true));
    auto boxes = co_await map(box, count(3));
    EXPECT_EQ(*boxes[2], 2);
    auto references = co_await map(reference, count(2));
    references[1].get() = 8;
    EXPECT_EQ(target, 8);

    auto numbers = map_unordered(nothing, count(3));
    static_assert(std::is_same_v<decltype(numbers)::value_type, MapResult<void>>);
    std::size_t sum = 0;
    while (auto one = co_await numbers.next()) sum += one->index;
    EXPECT_EQ(sum, 3U);
    auto owned = map_unordered(box, count(3));
    while (auto one = co_await owned.next()) EXPECT_EQ(*one->value, static_cast<int>(one->index));
    auto referred = map_unordered(reference, count(1));
    auto first = co_await referred.next();
    EXPECT_EQ(&first->value.get(), &target);
    auto tasks = map_unordered([](int i) { return create_task(twice(i)); }, count(3));
    int total = 0;
    while (auto one = co_await tasks.next()) total += one->value;
    EXPECT_EQ(total, 6);
  });
}

AsyncGenerator<std::string> texts(int n) {
  for (int i = 0; i < n; ++i) {
    std::string text = "a text that is too long to be stored in place " + std::to_string(i);
    co_yield std::move(text);
  }
}

TEST_F(MapUnorderedTest, AnElementLivesAsLongAsItsChild) {
  auto length = [](const std::string& text) -> Coroutine<std::size_t> {
    co_await sleep(0s);
    co_await sleep(0s);
    co_return text.size();
  };
  EXPECT_THAT(run(map(length, texts(3))), ElementsAre(47, 47, 47));
  std::istringstream stream("a bb ccc");
  MapLimit limit(2);
  EXPECT_THAT(run(map(length, std::views::istream<std::string>(stream), limit)), ElementsAre(1, 2, 3));
}

AsyncGenerator<int&> references_to(std::vector<int>& numbers) {
  for (int& number : numbers) co_yield number;
}

TEST_F(MapUnorderedTest, ReferencesArePassedOn) {
  std::vector<int> numbers{1, 2, 3};
  auto increment = [](int& i) -> Coroutine<> {
    co_await sleep(0s);
    ++i;
  };
  run(map(increment, references_to(numbers)));
  EXPECT_THAT(numbers, ElementsAre(2, 3, 4));
  run([&]() -> Coroutine<> {
    auto done = map_unordered(increment, numbers);
    while (co_await done.next()) {
    }
  });
  EXPECT_THAT(numbers, ElementsAre(3, 4, 5));
}

// Anything that has next().
class Countdown {
 public:
  explicit Countdown(int from) : left_(from) {}
  Coroutine<std::optional<int>> next() {
    co_await sleep(0s);
    if (left_ == 0) co_return std::nullopt;
    co_return left_--;
  }

 private:
  int left_;
};
static_assert(AsyncIterable<Countdown> && AsyncIterable<AsyncGenerator<int>> && !AsyncIterable<std::vector<int>>);

TEST_F(MapUnorderedTest, AnySourceWithNextWillDoAndAMapIsOne) {
  EXPECT_THAT(run(map(twice, Countdown(3))), ElementsAre(6, 4, 2));
  auto half = [](MapResult<int> result) { return twice(result.value); };
  std::vector<int> results = run(map(half, map_unordered(mixed, Countdown(4), {.limit = 2}), {.limit = 2}));
  std::sort(results.begin(), results.end());
  EXPECT_THAT(results, ElementsAre(4, 8, 12, 16));
}

TEST_F(MapUnorderedTest, AnLvalueSourceIsReferredToAndClosedAsWell) {
  run([&]() -> Coroutine<> {
    auto source = watched(10);
    EXPECT_EQ(co_await source.next(), 0);
    auto results = map_unordered(twice, source, {.limit = 1});
    auto first = co_await results.next();
    EXPECT_EQ(first->index, 0U);
    EXPECT_EQ(first->value, 2);
    co_await results.aclose();
    EXPECT_THAT(words, ElementsAre("source closed"));
    EXPECT_FALSE(co_await source.next());
  });
}

// ---- Results as they come ----

TEST_F(MapUnorderedTest, ResultsComeInTheOrderInWhichChildrenEnd) {
  make_gates(4);
  run([&]() -> Coroutine<> {
    auto results = map_unordered(through_gates(), std::views::iota(0, 4));
    std::vector<std::size_t> order;
    for (const std::size_t i : {2U, 0U, 3U, 1U}) {
      loop.call_soon([this, i] { gates[i].set_result(); });
      auto result = co_await results.next();
      EXPECT_EQ(result->value, static_cast<int>(10 * result->index));
      order.push_back(result->index);
    }
    EXPECT_THAT(order, ElementsAre(2, 0, 3, 1));
    EXPECT_FALSE(co_await results.next());
    EXPECT_FALSE(co_await results.next());
  });
}

TEST_F(MapUnorderedTest, OfWhatHasStartedNoMoreThanTheLimitIsUntaken) {
  int ended = 0;
  auto f = [&](int i) -> Coroutine<int> {
    ++begun;
    if (i % 2 == 1) co_await sleep(0s);
    ++ended;
    co_return i;
  };
  run([&]() -> Coroutine<> {
    auto results = map_unordered(f, watched(1000), {.limit = 4});
    EXPECT_EQ(begun, 0);  // it is lazy
    for (int taken = 1; taken <= 10; ++taken) {
      EXPECT_TRUE(co_await results.next());
      for (int i = 0; i < 8; ++i) co_await sleep(0s);
      EXPECT_EQ(begun, taken + 4);
      EXPECT_EQ(ended, taken + 4);  // children go on while nobody asks
      EXPECT_EQ(asked, taken + 4);
    }
    co_await results.aclose();
  });
}

TEST_F(MapUnorderedTest, OthersGetTheirTurnsWhileItStartsChildren) {
  run([&]() -> Coroutine<> {
    int at = -1;
    auto child = [&](int) -> Coroutine<> {
      ++begun;
      co_return;
    };
    loop.call_later(0s, [&] { at = begun; });
    auto results = map_unordered(child, std::views::iota(0, 20'000));
    int taken = 0;
    while (co_await results.next()) ++taken;
    EXPECT_EQ(taken, 20'000);
    EXPECT_GE(at, 0);
    EXPECT_LE(at, 122);
  });
}

TEST_F(MapUnorderedTest, ChildrenMayStartEagerly) {
  loop.set_task_factory(eager_task_factory);
  EXPECT_THAT(run(map(mixed, count(5), {.limit = 2})), ElementsAre(0, 2, 4, 6, 8));
  run([&]() -> Coroutine<> {
    auto results = map_unordered(mixed, count(50), {.limit = 3});
    int sum = 0;
    while (auto one = co_await results.next()) sum += one->value;
    EXPECT_EQ(sum, 2450);
  });
}

// ---- Errors ----

TEST_F(MapUnorderedTest, TheFirstErrorCancelsAndAwaitsTheRestAndClosesTheSource) {
  auto f = [this](int i) -> Coroutine<int> {
    ++begun;
    if (i == 2) {
      co_await sleep(0s);
      throw std::runtime_error("two");
    }
    try {
      co_await loop.create_future();
    } catch (const CancelledError&) {
      log("cancelled");
    }
    co_await sleep(0s);  // the clean-up is awaited
    log("cleaned up");
    co_return i;
  };
  EXPECT_EQ(test::thrown_by([&] { run(map(f, watched(100), {.limit = 3})); }), "exception: two");
  EXPECT_EQ(begun, 3);
  EXPECT_THAT(words, ElementsAre("cancelled", "cancelled", "cleaned up", "cleaned up", "source closed"));
  words.clear();
  const auto unordered = [&]() -> Coroutine<> {
    auto results = map_unordered(f, watched(100), {.limit = 3});
    co_await results.next();
  };
  EXPECT_EQ(test::thrown_by([&] { run(unordered()); }), "exception: two");
  EXPECT_EQ(begun, 6);
  EXPECT_THAT(words, ElementsAre("cancelled", "cancelled", "cleaned up", "cleaned up", "source closed"));
}

TEST_F(MapUnorderedTest, ResultsThatCameBeforeAnErrorAreGivenBeforeIt) {
  make_gates(5);
  run([&]() -> Coroutine<> {
    auto results = map_unordered(through_gates(), std::views::iota(0, 5));
    loop.call_soon([this] { gates[1].set_result(); });
    EXPECT_EQ((co_await results.next())->index, 1U);
    gates[3].set_result();
    co_await sleep(0s);
    gates[0].set_exception(std::runtime_error("nought"));
    co_await sleep(0s);
    EXPECT_EQ((co_await results.next())->index, 3U);
    std::string end = "nothing";
    try {
      co_await results.next();
    } catch (const std::exception& error) {
      end = error.what();
    }
    EXPECT_EQ(end, "nought");
    EXPECT_THAT(words, ElementsAre("cancelled 4: ", "cancelled 2: "));
    EXPECT_FALSE(co_await results.next());
  });
}

TEST_F(MapUnorderedTest, ReturnExceptionsMakesErrorsResults) {
  auto some_fail = [](int i) -> Coroutine<int> {
    co_await sleep(0s);
    if (i == 1) throw std::runtime_error("one");
    if (i == 2) throw CancelledError("two");
    co_return i;
  };
  const auto outcomes = run(map(return_exceptions, some_fail, count(4), {.limit = 2}));
  ASSERT_THAT(outcomes, SizeIs(4));
  EXPECT_EQ(*outcomes[0], 0);
  EXPECT_EQ(test::describe(outcomes[1].exception()), "exception: one");
  EXPECT_EQ(test::describe(outcomes[2].exception()), "CancelledError: two");
  EXPECT_EQ(*outcomes[3], 3);
  run([&]() -> Coroutine<> {
    auto results = map_unordered(return_exceptions, some_fail, count(4), {.limit = 2});
    std::size_t failed = 0;
    std::size_t all = 0;
    while (auto one = co_await results.next()) {
      ++all;
      if (one->value.exception()) failed += one->index;
    }
    EXPECT_EQ(all, 4U);
    EXPECT_EQ(failed, 3U);
  });
}

AsyncGenerator<int> breaks(int after) {
  for (int i = 0; i < after; ++i) co_yield i;
  co_await sleep(0s);
  throw std::runtime_error("the source");
}

TEST_F(MapUnorderedTest, AnErrorOfTheSourceOrTheCallableEndsIt) {
  make_gates(9);
  EXPECT_EQ(test::thrown_by([&] { run(map(through_gates(), breaks(2))); }), "exception: the source");
  EXPECT_THAT(words, ElementsAre("cancelled 1: ", "cancelled 0: "));
  EXPECT_EQ(test::thrown_by([&] { run(map(return_exceptions, mixed, breaks(3))); }), "exception: the source");
  auto refuses = [](int i) {
    if (i == 2) throw std::runtime_error("the callable");
    return mixed(i);
  };
  words.clear();
  EXPECT_EQ(test::thrown_by([&] { run(map(return_exceptions, refuses, watched(9))); }), "exception: the callable");
  EXPECT_THAT(words, ElementsAre("source closed"));
  MapLimit limit(2);
  auto throwing = std::views::iota(0, 10) | std::views::transform([](int i) {
                    if (i == 4) throw std::runtime_error("dereferenced");
                    return i;
                  });
  EXPECT_EQ(test::thrown_by([&] { run(map(mixed, throwing, limit)); }), "exception: dereferenced");
  run([&]() -> Coroutine<> {
    auto results = map_unordered(twice, breaks(3));
    int taken = 0;
    std::string end;
    try {
      while (co_await results.next()) ++taken;
    } catch (const std::exception& error) {
      end = error.what();
    }
    EXPECT_EQ(taken, 3);  // they had ended before
    EXPECT_EQ(end, "the source");
  });
}

TEST_F(MapUnorderedTest, ALimitOfZeroIsAValueError) {
  EXPECT_THROW(static_cast<void>(map(twice, count(3), {.limit = 0})), ValueError);
  EXPECT_THROW(static_cast<void>(map_unordered(twice, count(3), {.limit = 0})), ValueError);
  EXPECT_THROW(static_cast<void>(map_unordered(return_exceptions, twice, count(3), {.limit = 0})), ValueError);
}

}  // namespace
}  // namespace ouro
