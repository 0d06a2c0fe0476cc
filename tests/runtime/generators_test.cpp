// Generator: values, sending, throwing, closing.
#include <ouro/runtime/generators.hpp>

#include <gmock/gmock.h>

#include <memory>
#include <numeric>
#include <ranges>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <ouro/runtime/exceptions.hpp>

namespace ouro {
namespace {

using testing::ElementsAre;
using testing::StrEq;

std::uint64_t live_frames() { return detail::frames_alive(); }

// The text of the E that `f` throws.
template <class E, class F>
std::string text_of(F&& f) {
  try {
    f();
  } catch (const E& error) {
    return error.what();
  } catch (...) {
    return "another exception";
  }
  return "no exception";
}

// Counts what is destroyed.
struct Local {
  explicit Local(int& counter) : destroyed(counter) {}
  Local(const Local&) = delete;
  ~Local() { ++destroyed; }
  int& destroyed;
};

Generator<int> count_to(int last) {
  for (int i = 1; i <= last; ++i) co_yield i;
}

Generator<double, double> average() {
  double sum = 0;
  double mean = 0;
  for (int n = 1;; ++n) {
    sum += co_yield mean;
    mean = sum / n;
  }
}

TEST(GeneratorTest, GivesItsValuesInOrder) {
  std::vector<int> values;
  for (const int i : count_to(3)) values.push_back(i);
  EXPECT_THAT(values, ElementsAre(1, 2, 3));
  for (const int i : count_to(0)) ADD_FAILURE() << i;
}

TEST(GeneratorTest, IsLazyAndFreesItsFrameAtTheEnd) {
  const std::uint64_t before = live_frames();
  int runs = 0;
  int destroyed = 0;
  const auto body = [&]() -> Generator<int> {
    const Local local(destroyed);
    ++runs;
    co_yield 1;
    ++runs;
  };
  auto generator = body();
  EXPECT_EQ(runs, 0);
  EXPECT_EQ(generator.next(), 1);
  EXPECT_EQ(runs, 1);
  EXPECT_FALSE(generator.try_next());
  EXPECT_EQ(runs, 2);
  EXPECT_EQ(destroyed, 1);
  EXPECT_EQ(live_frames(), before);
}

TEST(GeneratorTest, ASecondLoopGoesOnWhereTheFirstStopped) {
  auto generator = count_to(5);
  EXPECT_EQ(generator.next(), 1);
  for (const int i : generator) {
    if (i == 3) break;
  }
  std::vector<int> rest;
  for (const int i : generator) rest.push_back(i);
  EXPECT_THAT(rest, ElementsAre(4, 5));
}

TEST(GeneratorTest, NextThrowsStopIterationAfterTheLast) {
  auto generator = count_to(1);
  EXPECT_EQ(generator.next(), 1);
  EXPECT_THROW(generator.next(), StopIteration);
  EXPECT_THROW(generator.next(), StopIteration);
  EXPECT_EQ(generator.try_next(), std::nullopt);
}

TEST(GeneratorTest, AMovedOneGoesOnAndLeavesAnEndedOne) {
  auto first = count_to(3);
  EXPECT_EQ(first.next(), 1);
  auto second = std::move(first);
  EXPECT_EQ(second.next(), 2);
  EXPECT_EQ(first.try_next(), std::nullopt);  // NOLINT: what a moved one does is promised
  second = count_to(9);
  EXPECT_EQ(second.next(), 1);
  EXPECT_EQ(Generator<int>().try_next(), std::nullopt);
}

TEST(GeneratorTest, IsAnInputRange) {
  static_assert(std::ranges::input_range<Generator<int>>);
  static_assert(std::ranges::input_range<Generator<std::unique_ptr<int>>>);
  static_assert(std::ranges::input_range<Generator<const std::string&>>);
  std::vector<int> values;
  for (const int i : count_to(10) | std::views::filter([](int n) { return n % 2 == 0; }) | std::views::take(2)) {
    values.push_back(i);
  }
  EXPECT_THAT(values, ElementsAre(2, 4));
}

TEST(GeneratorTest, SendGivesItsValueToTheYield) {
  auto mean = average();
  EXPECT_EQ(mean.next(), 0.0);
  EXPECT_EQ(mean.send(10), 10.0);
  EXPECT_EQ(mean.send(20), 15.0);
  EXPECT_EQ(mean.send(60), 30.0);
  EXPECT_EQ(mean.next(), 22.5);  // next() sends double()
}

TEST(GeneratorTest, SendNeedsAYieldThatWaits) {
  auto mean = average();
  EXPECT_THAT(text_of<RuntimeError>([&] { mean.send(1); }),
              StrEq("can't send non-None value to a just-started generator"));
  EXPECT_EQ(mean.next(), 0.0);
  mean.close();
  EXPECT_THROW(mean.send(1), StopIteration);
}

TEST(GeneratorTest, SendsMoveOnlyValuesAndNeedsThemWithoutADefault) {
  struct Parcel {
    explicit Parcel(int n) : content(std::make_unique<int>(n)) {}
    std::unique_ptr<int> content;
  };
  const auto body = []() -> Generator<int, Parcel> {
    int got = 0;
    for (;;) {
      const Parcel parcel = co_yield got;
      got = *parcel.content;
    }
  };
  auto generator = body();
  EXPECT_EQ(generator.next(), 0);
  EXPECT_EQ(generator.send(Parcel(7)), 7);
  EXPECT_THROW(generator.next(), RuntimeError);
  EXPECT_EQ(generator.send(Parcel(8)), 8);  // the refused next() changed nothing
}

TEST(GeneratorTest, AnExceptionComesOutAndEndsIt) {
  const auto body = []() -> Generator<int> {
    co_yield 1;
    throw std::logic_error("broken");
  };
  auto generator = body();
  EXPECT_EQ(generator.next(), 1);
  EXPECT_THAT(text_of<std::logic_error>([&] { generator.next(); }), StrEq("broken"));
  EXPECT_THROW(generator.next(), StopIteration);

  std::vector<int> values;
  EXPECT_THROW(for (const int i : body()) values.push_back(i), std::logic_error);
  EXPECT_THAT(values, ElementsAre(1));
}

TEST(GeneratorTest, HandsMoveOnlyValuesOver) {
  const auto body = []() -> Generator<std::unique_ptr<int>> {
    co_yield std::make_unique<int>(1);
    auto second = std::make_unique<int>(2);
    co_yield std::move(second);
    co_yield std::make_unique<int>(3);
  };
  auto generator = body();
  EXPECT_EQ(*generator.next(), 1);
  EXPECT_EQ(**generator.try_next(), 2);
  for (std::unique_ptr<int> value : generator) EXPECT_EQ(*value, 3);
}

TEST(GeneratorTest, CopiesLvaluesAndConvertsValues) {
  const auto body = []() -> Generator<std::string> {
    std::string kept = "kept by the generator";
    co_yield kept;
    co_yield kept + "!";
    co_yield "from a literal";
    const std::string constant = "constant";
    co_yield constant;
  };
  auto generator = body();
  EXPECT_EQ(generator.next(), "kept by the generator");
  EXPECT_EQ(generator.next(), "kept by the generator!");
  EXPECT_EQ(generator.next(), "from a literal");
  EXPECT_EQ(generator.next(), "constant");
}

TEST(GeneratorTest, PassesReferencesOn) {
  std::vector<int> data = {1, 2, 3};
  const auto body = [&]() -> Generator<int&> {
    for (int& i : data) co_yield i;
  };
  for (int& i : body()) i *= 10;
  EXPECT_THAT(data, ElementsAre(10, 20, 30));
  auto generator = body();
  EXPECT_EQ(&generator.next(), &data[0]);
  int* second = generator.try_next();
  EXPECT_EQ(second, &data[1]);
  generator.next();
  EXPECT_EQ(generator.try_next(), nullptr);

  const auto constant = [&]() -> Generator<const int&> {
    for (const int& i : data) co_yield i;
    co_yield 4;
  };
  auto constants = constant();
  EXPECT_EQ(&constants.next(), &data[0]);
  std::vector<int> rest;
  for (const int& i : constants) rest.push_back(i);
  EXPECT_THAT(rest, ElementsAre(20, 30, 4));
}

TEST(GeneratorTest, ThrowArrivesAtTheYield) {
  const auto body = []() -> Generator<std::string> {
    for (;;) {
      std::string answer = "ready";
      try {
        co_yield answer;
      } catch (const std::logic_error& error) {
        answer = error.what();
      }
      if (answer != "ready") co_yield answer;
    }
  };
  auto generator = body();
  EXPECT_EQ(generator.next(), "ready");
  EXPECT_EQ(generator.throw_(std::logic_error("caught")), "caught");
  EXPECT_EQ(generator.next(), "ready");
  EXPECT_THROW(generator.throw_(std::exception_ptr()), ValueError);
  EXPECT_THROW(generator.throw_(std::runtime_error("not caught")), std::runtime_error);
  EXPECT_THROW(generator.next(), StopIteration);
  EXPECT_THROW(generator.throw_(std::logic_error("ended")), std::logic_error);

  auto unstarted = body();
  EXPECT_THROW(unstarted.throw_(std::logic_error("not started")), std::logic_error);
  EXPECT_THROW(unstarted.next(), StopIteration);
}

TEST(GeneratorTest, CloseAndDestructionRunDestructors) {
  const std::uint64_t before = live_frames();
  int destroyed = 0;
  const auto body = [&]() -> Generator<int> {
    const Local local(destroyed);
    for (int i = 0;; ++i) co_yield i;
  };
  auto closed = body();
  closed.next();
  closed.close();
  EXPECT_EQ(destroyed, 1);
  EXPECT_THROW(closed.next(), StopIteration);
  closed.close();
  {
    auto dropped = body();
    dropped.next();
  }
  EXPECT_EQ(destroyed, 2);
  {
    const auto unstarted = body();
  }
  EXPECT_EQ(destroyed, 2);
  EXPECT_EQ(live_frames(), before);
}

TEST(GeneratorTest, CannotBeEnteredFromInside) {
  Generator<int> generator;
  std::vector<std::string> texts;
  const auto body = [&]() -> Generator<int> {
    texts.push_back(text_of<ValueError>([&] { generator.next(); }));
    texts.push_back(text_of<ValueError>([&] { generator.close(); }));
    texts.push_back(text_of<ValueError>([&] { generator.throw_(std::logic_error("")); }));
    co_yield 1;
  };
  generator = body();
  EXPECT_EQ(generator.next(), 1);
  EXPECT_THAT(texts, testing::Each(StrEq("generator already executing")));
  EXPECT_EQ(texts.size(), 3U);
}

template <class G, class A>
concept CanAwait = requires(typename G::promise_type& promise, A awaitable) { promise.await_transform(awaitable); };

TEST(GeneratorTest, CannotAwait) {
  static_assert(!CanAwait<Generator<int>, std::suspend_never>);
  static_assert(!CanAwait<Generator<int, int>, Coroutine<>>);
}

TEST(GeneratorTest, GivesAMillionValues) {
  long long sum = 0;
  for (const int i : count_to(1'000'000)) sum += i;
  EXPECT_EQ(sum, 500'000'500'000LL);
}

TEST(GeneratorTest, GeneratorsNest) {
  struct Tree {
    static Generator<int> walk(int depth) {
      if (depth == 0) co_return;
      for (const int i : walk(depth - 1)) co_yield i;
      co_yield depth;
      for (const int i : walk(depth - 1)) co_yield i;
    }
  };
  std::vector<int> values;
  for (const int i : Tree::walk(3)) values.push_back(i);
  EXPECT_THAT(values, ElementsAre(1, 2, 1, 3, 1, 2, 1));
}

}  // namespace
}  // namespace ouro
