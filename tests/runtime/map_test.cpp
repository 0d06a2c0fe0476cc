// map: a coroutine for each element, made when it is started; the limit, the order, errors and cancellation.
#include <ouro/runtime/map.hpp>

#include <gmock/gmock.h>

#include <algorithm>
#include <list>
#include <memory>
#include <numeric>
#include <ranges>
#include <sstream>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <ouro/runtime/base_event_loop.hpp>
#include <ouro/runtime/exceptions.hpp>
#include <ouro/runtime/generators.hpp>
#include <ouro/runtime/sleep.hpp>

#include "support/loop_fixture.hpp"

namespace ouro {
namespace {

using namespace std::chrono_literals;
using testing::ElementsAre;
using testing::IsEmpty;
using testing::SizeIs;

class MapTest : public test::LoopTest {
 protected:
  void log(std::string word) { log_.push_back(std::move(word)); }
  std::vector<std::string> log_;
};

std::vector<int> up_to(int n) {
  std::vector<int> numbers(static_cast<std::size_t>(n));
  std::iota(numbers.begin(), numbers.end(), 0);
  return numbers;
}

Coroutine<int> twice(int i) { co_return 2 * i; }

Coroutine<int> twice_later(int i) {
  co_await sleep(0s);
  co_return 2 * i;
}

// Ends at once for even numbers, after two turns for odd ones.
Coroutine<int> mixed(int i) {
  if (i % 2 == 1) {
    co_await sleep(0s);
    co_await sleep(0s);
  }
  co_return 2 * i;
}

Generator<std::string> words(int n) {
  for (int i = 0; i < n; ++i) co_yield std::to_string(i);
}

// ---- Results ----

TEST_F(MapTest, GivesTheResultsInTheOrderOfTheElements) {
  for (const std::size_t limit : {std::size_t{1}, std::size_t{2}, std::size_t{7}, std::size_t{1000}}) {
    MapOptions options;
    options.limit = limit;
    const std::vector<int> numbers = up_to(200);
    const std::vector<int> results = run(map(mixed, numbers, options));
    ASSERT_THAT(results, SizeIs(200));
    for (std::size_t i = 0; i < 200; ++i) EXPECT_EQ(results[i], static_cast<int>(2 * i));
  }
}

TEST_F(MapTest, OfNothingGivesNothing) {
  EXPECT_THAT(run(map(twice, std::vector<int>())), IsEmpty());
  EXPECT_THAT(run(map(return_exceptions, twice, std::vector<int>())), IsEmpty());
  EXPECT_THAT(run(map(twice, std::list<int>())), IsEmpty());
}

TEST_F(MapTest, TakesSizedUnsizedAndInputRangesViewsAndTemporaries) {
  const auto numbers = std::views::iota(0, 3);
  EXPECT_THAT(run(map(twice_later, numbers)), ElementsAre(0, 2, 4));
  EXPECT_THAT(run(map(twice, std::list<int>{5, 6})), ElementsAre(10, 12));
  auto odd = std::views::iota(0, 200) | std::views::filter([](int i) { return i % 2 == 1; });
  EXPECT_THAT(run(map(twice_later, odd)), SizeIs(100));
  std::istringstream stream("1 2 3");
  EXPECT_THAT(run(map(twice_later, std::views::istream<int>(stream))), ElementsAre(2, 4, 6));
  std::vector<int> pieces{1, 2, 3, 4};
  EXPECT_THAT(run(map(twice, pieces | std::views::drop(1) | std::views::transform([](int i) { return i + 1; }))),
              ElementsAre(6, 8, 10));
}

TEST_F(MapTest, AnElementOfAnInputRangeIsThereForTheWholeFirstStep) {
  auto length = [](const std::string& word) -> Coroutine<std::string> { co_return word + "!"; };
  EXPECT_THAT(run(map(length, words(3))), ElementsAre("0!", "1!", "2!"));
  std::istringstream stream("a b c");
  EXPECT_THAT(run(map(length, std::views::istream<std::string>(stream))), ElementsAre("a!", "b!", "c!"));
}

TEST_F(MapTest, AnRvalueRangeLivesInTheMapAndAnLvalueIsReferredTo) {
  run([&]() -> Coroutine<> {
    auto by_reference = [](int& i) -> Coroutine<> {
      co_await sleep(0s);
      ++i;
    };
    std::vector<int> numbers{1, 2};
    co_await map(by_reference, numbers);
    EXPECT_THAT(numbers, ElementsAre(2, 3));
    auto whole = map(mixed, up_to(100));
    auto moved = std::move(whole);
    EXPECT_THAT(co_await std::move(moved), SizeIs(100));
  });
}

TEST_F(MapTest, GivesEveryKindOfResult) {
  const std::vector<int> numbers{0, 1, 2};
  run([&]() -> Coroutine<> {
    auto nothing = [](int) -> Coroutine<> { co_return; };
    auto truth = [](int i) -> Coroutine<bool> { co_return i != 1; };
    auto box = [](int i) -> Coroutine<std::unique_ptr<int>> { co_return std::make_unique<int>(i); };
    std::vector<int> targets{7, 8, 9};
    auto reference = [&](int i) -> Coroutine<int&> { co_return targets[static_cast<std::size_t>(i)]; };
    static_assert(std::is_void_v<await_result_t<decltype(map(nothing, numbers))>>);
    co_await map(nothing, numbers);
    EXPECT_THAT(co_await map(truth, numbers), ElementsAre(true, false, true));
    auto boxes = co_await map(box, numbers);
    EXPECT_EQ(*boxes[2], 2);
    auto references = co_await map(reference, numbers);
    references[0].get() = 70;
    EXPECT_EQ(targets[0], 70);
  });
}

TEST_F(MapTest, TakesFunctionsThatGiveOtherAwaitables) {
  const std::vector<int> numbers{1, 2, 3};
  run([&]() -> Coroutine<> {
    auto task = [&](int i) { return create_task(twice_later(i)); };
    EXPECT_THAT(co_await map(task, numbers), ElementsAre(2, 4, 6));
    auto several = [](int i) { return gather(twice(i), twice_later(i + 1)); };
    EXPECT_THAT(co_await map(several, numbers), ElementsAre(std::tuple(2, 4), std::tuple(4, 6), std::tuple(6, 8)));
    auto sleeps = [](int i) { return sleep(0s, i); };
    EXPECT_THAT(co_await map(sleeps, numbers), ElementsAre(1, 2, 3));
    auto nested = [&](int n) { return map(twice_later, up_to(n)); };
    EXPECT_THAT(co_await map(nested, numbers), ElementsAre(SizeIs(1), SizeIs(2), SizeIs(3)));
  });
}

TEST_F(MapTest, KeepsTheCallableWithItsCapturesForAsLongAsItRuns) {
  auto held = std::make_shared<int>(10);
  {
    auto add = [held](int i) -> Coroutine<int> {
      co_await sleep(0s);
      co_return *held + i;
    };
    auto waiting = map(std::move(add), up_to(3));
    EXPECT_EQ(held.use_count(), 2);
    EXPECT_THAT(run(std::move(waiting)), ElementsAre(10, 11, 12));
  }
  EXPECT_EQ(held.use_count(), 1);
}

TEST_F(MapTest, ReturnExceptionsPutsErrorsInPlace) {
  auto some_fail = [](int i) -> Coroutine<int> {
    co_await sleep(0s);
    if (i == 1) throw std::runtime_error("one");
    if (i == 2) throw CancelledError("two");
    co_return i;
  };
  MapOptions options;
  options.limit = 2;
  const auto outcomes = run(map(return_exceptions, some_fail, up_to(4), options));
  ASSERT_THAT(outcomes, SizeIs(4));
  EXPECT_EQ(*outcomes[0], 0);
  EXPECT_EQ(test::describe(outcomes[1].exception()), "exception: one");
  EXPECT_EQ(test::describe(outcomes[2].exception()), "CancelledError: two");
  EXPECT_EQ(*outcomes[3], 3);
}

// ---- Starts ----

TEST_F(MapTest, KeepsToItsLimit) {
  int inside = 0;
  int most = 0;
  auto busy = [&](int i) -> Coroutine<int> {
    most = std::max(most, ++inside);
    for (int k = i % 5; k >= 0; --k) co_await sleep(0s);
    --inside;
    co_return i;
  };
  for (const int limit : {1, 3, 64}) {
    most = 0;
    MapOptions options;
    options.limit = static_cast<std::size_t>(limit);
    EXPECT_THAT(run(map(busy, up_to(300), options)), SizeIs(300));
    EXPECT_EQ(most, limit);
    EXPECT_EQ(inside, 0);
  }
}

TEST_F(MapTest, ALimitOfZeroIsAValueError) {
  MapOptions options;
  options.limit = 0;
  EXPECT_THROW(static_cast<void>(map(twice, up_to(3), options)), ValueError);
  EXPECT_THROW(static_cast<void>(map(return_exceptions, twice, up_to(0), options)), ValueError);
}

TEST_F(MapTest, MakesEachChildWhenItStartsIt) {
  auto f = [this](int i) {
    log("made " + std::to_string(i));
    return [](std::vector<std::string>& words, int k) -> Coroutine<> {
      words.push_back("started " + std::to_string(k));
      co_await sleep(0s);
      words.push_back("ended " + std::to_string(k));
    }(log_, i);
  };
  run([&]() -> Coroutine<> {
    MapOptions options;
    options.limit = 1;
    auto waiting = map(f, up_to(2), options);
    log("awaits");
    co_await std::move(waiting);
  });
  EXPECT_THAT(log_, ElementsAre("awaits", "made 0", "started 0", "ended 0", "made 1", "started 1", "ended 1"));
}

TEST_F(MapTest, RecyclesTheFramesOfImmediateChildren) {
  run([&]() -> Coroutine<> {
    const std::uint64_t before = test::live_frames();
    std::uint64_t most = 0;
    auto watch = [&](int) -> Coroutine<> {
      most = std::max(most, test::live_frames() - before);
      co_return;
    };
    co_await map(watch, up_to(10'000));
    EXPECT_EQ(most, 1U);
  });
}

TEST_F(MapTest, OthersGetTheirTurnsWhileItStartsChildren) {
  run([&]() -> Coroutine<> {
    int started = 0;
    int at = -1;
    auto child = [&](int) -> Coroutine<> {
      ++started;
      co_return;
    };
    loop.call_later(0s, [&] { at = started; });
    co_await map(child, std::views::iota(0, 100'000));
    EXPECT_GE(at, 0);
    EXPECT_LE(at, 122);
  });
}

// ---- Errors and cancellation ----

TEST_F(MapTest, TheFirstErrorStopsNewChildrenAndCancelsAndAwaitsThoseThatRun) {
  int started = 0;
  int cancelled = 0;
  auto f = [&](int i) -> Coroutine<int> {
    ++started;
    if (i == 3) {
      co_await sleep(0s);
      throw std::runtime_error("third");
    }
    try {
      co_await loop.create_future();
    } catch (const CancelledError&) {
      ++cancelled;
    }
    co_await sleep(0s);  // the clean-up is awaited
    log("cleaned up");
    co_return i;
  };
  MapOptions options;
  options.limit = 4;
  EXPECT_EQ(test::thrown_by([&] { run(map(f, up_to(100), options)); }), "exception: third");
  EXPECT_EQ(started, 4);
  EXPECT_EQ(cancelled, 3);
  EXPECT_THAT(log_, SizeIs(3));
}

TEST_F(MapTest, AnImmediateErrorStopsIt) {
  int started = 0;
  auto f = [&](int i) -> Coroutine<int> {
    ++started;
    if (i == 3) throw std::runtime_error("at once");
    co_return i;
  };
  EXPECT_EQ(test::thrown_by([&] { run(map(f, up_to(100))); }), "exception: at once");
  EXPECT_EQ(started, 4);
}

TEST_F(MapTest, AnErrorOfTheCallableItselfEndsIt) {
  int cancelled = 0;
  auto f = [&](int i) {
    if (i == 2) throw std::runtime_error("the callable");
    return [](BaseEventLoop& on, int& count) -> Coroutine<> {
      try {
        co_await on.create_future();
      } catch (const CancelledError&) {
        ++count;
      }
    }(loop, cancelled);
  };
  EXPECT_EQ(test::thrown_by([&] { run(map(f, up_to(9))); }), "exception: the callable");
  EXPECT_EQ(cancelled, 2);
  EXPECT_EQ(test::thrown_by([&] { run(map(return_exceptions, f, up_to(9))); }), "exception: the callable");
}

TEST_F(MapTest, AnErrorOfTheIterationEndsIt) {
  auto throwing = std::views::iota(0, 10) | std::views::transform([](int i) {
                    if (i == 4) throw std::runtime_error("dereferenced");
                    return i;
                  });
  EXPECT_EQ(test::thrown_by([&] { run(map(twice_later, throwing)); }), "exception: dereferenced");
  auto filtered = std::views::iota(0, 10) | std::views::filter([](int i) {
                    if (i == 4) throw std::runtime_error("advanced");
                    return true;
                  });
  EXPECT_EQ(test::thrown_by([&] { run(map(twice_later, filtered)); }), "exception: advanced");
  EXPECT_EQ(test::thrown_by([&] { run(map(twice, filtered)); }), "exception: advanced");
  auto at_the_begin =
      std::views::iota(0, 1) | std::views::filter([](int) -> bool { throw std::runtime_error("begun"); });
  EXPECT_EQ(test::thrown_by([&] { run(map(twice, at_the_begin)); }), "exception: begun");
}

struct ThrowingEnd {
  friend bool operator==(const std::vector<int>::const_iterator& at, const ThrowingEnd&) {
    if (*at == 2) throw std::runtime_error("compared");
    return false;
  }
};

TEST_F(MapTest, AnErrorOfTheComparisonWithTheEndEndsIt) {
  const std::vector<int> numbers{0, 1, 2, 3};
  const auto make = [](int i) -> Coroutine<int> { co_return i; };
  const auto range = std::ranges::subrange(numbers.begin(), ThrowingEnd());
  EXPECT_EQ(test::thrown_by([&] { run(map(make, range)); }), "exception: compared");
}

TEST_F(MapTest, AbortedItTakesNoFurtherElement) {
  std::istringstream stream("1 2 3 4");
  const auto make = [](int i) -> Coroutine<int> {
    if (i == 2) throw std::runtime_error("two");
    co_return i;
  };
  EXPECT_EQ(test::thrown_by([&] { run(map(make, std::views::istream<int>(stream))); }), "exception: two");
  int next = 0;
  stream >> next;
  EXPECT_EQ(next, 3);
}

TEST_F(MapTest, CancelledBeforeAnyChildStartedNoneIsMade) {
  auto f = [this](int) -> Coroutine<> {
    log("made");
    co_return;
  };
  auto parent = [&]() -> Coroutine<> { co_await map(f, up_to(3)); };
  Task<> task = loop.create_task(parent);
  loop.call_soon([&] { task.cancel("early"); });
  EXPECT_EQ(test::thrown_by([&] { run(task); }), "CancelledError: early");
  EXPECT_THAT(log_, IsEmpty());
}

TEST_F(MapTest, CancelledItCancelsItsChildrenAndStartsNoMore) {
  auto f = [this](int i) -> Coroutine<int> {
    log("start");
    if (i % 2 == 0) co_return i;  // the list of those that run must survive the others
    try {
      co_await loop.create_future();
    } catch (const CancelledError& error) {
      log(error.message());
      throw;
    }
    co_return i;
  };
  const auto check = [&](auto&& parent) {
    log_.clear();
    Task<> task = loop.create_task(parent);
    turn(2);
    task.cancel("stop");
    EXPECT_EQ(test::thrown_by([&] { run(task); }), "CancelledError: stop");
    EXPECT_EQ(std::count(log_.begin(), log_.end(), "start"), 10);
    EXPECT_EQ(std::count(log_.begin(), log_.end(), "stop"), 5);
  };
  MapOptions options;
  options.limit = 5;
  check([&]() -> Coroutine<> { co_await map(f, up_to(100), options); });
  check([&]() -> Coroutine<> { co_await map(return_exceptions, f, up_to(100), options); });
}

TEST_F(MapTest, AChildThatCancelsTheMapInItsFirstStepIsCancelledToo) {
  Task<> task;
  auto f = [&](int i) -> Coroutine<> {
    if (i == 1) task.cancel("from within");
    try {
      co_await loop.create_future();
    } catch (const CancelledError& error) {
      log(error.message());
      throw;
    }
  };
  auto parent = [&]() -> Coroutine<> { co_await map(f, up_to(5)); };
  task = loop.create_task(parent);
  EXPECT_EQ(test::thrown_by([&] { run(task); }), "CancelledError: from within");
  EXPECT_THAT(log_, ElementsAre("from within", "from within"));
}

TEST_F(MapTest, ChildrenAreTasksFromTheirFirstStep) {
  OURO_TEST_ALONE("all_tasks of a group has no children of pinned gathers, and no first steps");
  std::vector<AnyTask> handles;
  run([&]() -> Coroutine<> {
    AnyTask parent = current_task();
    auto f = [&](int i) -> Coroutine<> {
      AnyTask self = current_task();
      EXPECT_NE(self, parent);
      EXPECT_THAT(all_tasks(), testing::Contains(self));
      handles.push_back(self);
      if (i == 0) co_await sleep(0s);
      EXPECT_EQ(current_task(), self);
      EXPECT_THAT(all_tasks(), testing::Contains(self));
    };
    co_await map(f, up_to(3));
    EXPECT_EQ(current_task(), parent);
    EXPECT_THAT(all_tasks(), SizeIs(1));
  });
  for (const AnyTask& handle : handles) EXPECT_TRUE(handle.done());
}

TEST_F(MapTest, OneChildCancelledThroughItsHandleEndsItWithCancelledError) {
  auto f = [this](int) -> Coroutine<> { co_await loop.create_future(); };
  auto parent = [&]() -> Coroutine<> { co_await map(f, up_to(3)); };
  Task<> task = loop.create_task(parent);
  turn(2);
  AnyTask(all_tasks(loop).back()).cancel("you");
  EXPECT_EQ(test::thrown_by([&] { run(task); }), "CancelledError: you");
}

TEST_F(MapTest, ClosingTheLoopDestroysItsChildrenFirst) {
  int alive = 0;
  auto f = [&](int i) -> Coroutine<> {
    test::Counted counted(alive);
    if (i % 3 != 0) co_return;
    co_await loop.create_future();
  };
  bool children_first = false;
  auto parent = [&]() -> Coroutine<> {
    struct Check {
      int& alive;
      bool& first;
      ~Check() { first = alive == 0; }
    } check{alive, children_first};
    co_await map(f, up_to(10));
  };
  loop.create_task(parent);
  turn(2);
  EXPECT_EQ(alive, 4);
  loop.close();
  EXPECT_TRUE(children_first);
  EXPECT_THAT(take_reports(), SizeIs(1));
}

TEST_F(MapTest, AwaitedTwiceIsAnError) {
  run([&]() -> Coroutine<> {
    auto once = map(twice, up_to(2));
    co_await once;
    std::string error;
    try {
      co_await once;
    } catch (const RuntimeError& e) {
      error = e.what();
    }
    EXPECT_EQ(error, "cannot reuse already awaited coroutine");
  });
}

}  // namespace
}  // namespace ouro
