// gather: what it takes, what it gives, in which order it starts its children, and what an error does.
#include <ouro/runtime/gather.hpp>

#include <gmock/gmock.h>

#include <functional>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>
#include <variant>
#include <vector>

#include <ouro/runtime/base_event_loop.hpp>
#include <ouro/runtime/exceptions.hpp>
#include <ouro/runtime/sleep.hpp>
#include <ouro/runtime/thread_parker.hpp>

#include "support/loop_fixture.hpp"

namespace ouro {
namespace {

using namespace std::chrono_literals;
using testing::ElementsAre;
using testing::IsEmpty;

class GatherTest : public test::LoopTest {
 protected:
  void log(std::string word) { log_.push_back(std::move(word)); }

  std::vector<std::string> log_;
};

struct NoDefault {
  explicit NoDefault(int v) : value(v) {}
  int value;
};

struct alignas(64) Wide {
  int value = 0;
};

Coroutine<int> number(int i) { co_return i; }

Coroutine<int> number_later(int i) {
  co_await sleep(0s);
  co_return i;
}

Coroutine<std::string> text(std::string s) { co_return s; }

Coroutine<> nothing() { co_return; }

Coroutine<int> failing(std::string what) {
  co_await sleep(0s);
  throw std::runtime_error(what);
}

Coroutine<bool> truth(bool b) { co_return b; }

Coroutine<std::unique_ptr<int>> boxed(int i) { co_return std::make_unique<int>(i); }

Coroutine<int&> same(int& i) { co_return i; }

Coroutine<NoDefault> no_default(int i) { co_return NoDefault(i); }

Coroutine<Wide> wide(int i) {
  Wide result;
  result.value = i;
  co_return result;
}

// ---- What it gives ----

TEST_F(GatherTest, GivesATupleOfResultsInTheOrderOfTheArguments) {
  run([&]() -> Coroutine<> {
    auto results = co_await gather(number_later(1), text("two"), nothing(), truth(true), boxed(5), no_default(6));
    static_assert(std::is_same_v<decltype(results),
                                 std::tuple<int, std::string, std::monostate, bool, std::unique_ptr<int>, NoDefault>>);
    EXPECT_EQ(std::get<0>(results), 1);
    EXPECT_EQ(std::get<1>(results), "two");
    EXPECT_TRUE(std::get<3>(results));
    EXPECT_EQ(*std::get<4>(results), 5);
    EXPECT_EQ(std::get<5>(results).value, 6);
  });
}

TEST_F(GatherTest, GivesReferencesAsReferencesInATuple) {
  int target = 1;
  run([&]() -> Coroutine<> {
    auto results = co_await gather(same(target), number(2));
    static_assert(std::is_same_v<std::tuple_element_t<0, decltype(results)>, int&>);
    EXPECT_EQ(&std::get<0>(results), &target);
  });
}

template <class T, class F>
std::vector<Coroutine<T>> three(F make) {
  std::vector<Coroutine<T>> coroutines;
  for (int i = 0; i < 3; ++i) coroutines.push_back(make(i));
  return coroutines;
}

TEST_F(GatherTest, GivesAVectorOfResultsInOrder) {
  const std::vector<int> results = run(gather(three<int>([](int i) { return i == 0 ? number_later(i) : number(i); })));
  EXPECT_THAT(results, ElementsAre(0, 1, 2));
}

TEST_F(GatherTest, GivesNothingForAVectorOfVoid) {
  auto children = three<void>([](int) { return nothing(); });
  static_assert(std::is_void_v<await_result_t<decltype(gather(std::move(children)))>>);
  run(gather(std::move(children)));
}

TEST_F(GatherTest, GivesAVectorOfBool) {
  const std::vector<bool> results = run(gather(three<bool>([](int i) { return truth(i != 1); })));
  EXPECT_THAT(results, ElementsAre(true, false, true));
}

TEST_F(GatherTest, GivesMoveOnlyNonDefaultConstructibleAndOverAlignedResults) {
  const auto boxes = run(gather(three<std::unique_ptr<int>>(boxed)));
  EXPECT_EQ(*boxes[0] + *boxes[1] + *boxes[2], 3);
  const auto plain = run(gather(three<NoDefault>(no_default)));
  EXPECT_EQ(plain[2].value, 2);
  const auto aligned = run(gather(three<Wide>(wide)));
  EXPECT_EQ(aligned[2].value, 2);
}

TEST_F(GatherTest, GivesReferenceWrappersInAVector) {
  std::vector<int> targets{1, 2, 3};
  auto refs = run(gather(three<int&>([&](int i) { return same(targets[static_cast<std::size_t>(i)]); })));
  static_assert(std::is_same_v<decltype(refs), std::vector<std::reference_wrapper<int>>>);
  refs[1].get() = 20;
  EXPECT_THAT(targets, ElementsAre(1, 20, 3));
}

TEST_F(GatherTest, TakesFuturesTasksCoroutinesCallablesAndGathersTogether) {
  run([&]() -> Coroutine<> {
    Future<int> future = loop.create_future<int>();
    Task<std::string> task = create_task(text("task"));
    loop.call_soon([&] { future.set_result(7); });
    auto callable = [&]() -> Coroutine<int> { co_return 8; };
    auto inner = gather(number(9), number_later(10));
    auto results = co_await gather(future, task, number(11), callable, std::move(inner));
    EXPECT_EQ(std::get<0>(results), 7);
    EXPECT_EQ(std::get<1>(results), "task");
    EXPECT_EQ(std::get<2>(results), 11);
    EXPECT_EQ(std::get<3>(results), 8);
    EXPECT_EQ(std::get<1>(std::get<4>(results)), 10);
    EXPECT_EQ(future.result(), 7);  // the caller's stay usable
    EXPECT_EQ(task.result(), "task");
  });
}

TEST_F(GatherTest, TakesAVectorOfFuturesOfCallablesAndOfGathers) {
  run([&]() -> Coroutine<> {
    std::vector<Task<int>> tasks;
    for (int i = 0; i < 3; ++i) tasks.push_back(create_task(number_later(i)));
    EXPECT_THAT(co_await gather(tasks), ElementsAre(0, 1, 2));
    std::vector<std::function<Coroutine<int>()>> callables;
    for (int i = 0; i < 3; ++i) callables.emplace_back([i] { return number(i); });
    EXPECT_THAT(co_await gather(std::move(callables)), ElementsAre(0, 1, 2));
    std::vector<decltype(gather(number(1), number(2)))> gathers;
    for (int i = 0; i < 2; ++i) gathers.push_back(gather(number(i), number(i + 10)));
    EXPECT_THAT(co_await gather(std::move(gathers)), ElementsAre(std::tuple(0, 10), std::tuple(1, 11)));
  });
}

// B177
TEST_F(GatherTest, GivesTheResultOfADuplicateAtEachOfItsPlaces) {
  int runs = 0;
  run([&]() -> Coroutine<> {
    auto once = [&]() -> Coroutine<int> {
      ++runs;
      co_return 4;
    };
    Task<int> task = create_task(once);
    auto results = co_await gather(task, task, number(5), task);
    EXPECT_EQ(results, std::tuple(4, 4, 5, 4));
    std::vector<Task<int>> twice{task, task};
    EXPECT_THAT(co_await gather(std::move(twice)), ElementsAre(4, 4));
  });
  EXPECT_EQ(runs, 1);
}

// B173
TEST_F(GatherTest, GivesEmptyResultsForNoChildrenWithoutSuspending) {
  bool other = false;
  run([&]() -> Coroutine<> {
    loop.call_soon([&] { other = true; });
    EXPECT_THAT(co_await gather(std::vector<Coroutine<int>>()), IsEmpty());
    EXPECT_EQ(co_await gather(), std::tuple<>());
    co_await gather(std::vector<Coroutine<>>());
    EXPECT_THAT(co_await gather(std::vector<Future<int>>()), IsEmpty());
    EXPECT_FALSE(other);
  });
}

// B173
TEST_F(GatherTest, EnsureFutureOfAnEmptyOneNeedsARunningLoop) {
  OURO_TEST_ALONE("there is a running loop between the runs, too");
  EXPECT_THROW(static_cast<void>(ensure_future(gather())), RuntimeError);
  EXPECT_EQ(run(gather()), std::tuple<>());
}

// B180, T7
TEST_F(GatherTest, TakesFuturesThatAreDoneBeforeDuringAndAfter) {
  run([&]() -> Coroutine<> {
    std::vector<Future<int>> futures;
    for (int i = 0; i < 4; ++i) futures.push_back(loop.create_future<int>());
    futures[0].set_result(0);
    futures[3].set_result(3);
    loop.call_soon([&] { futures[2].set_result(2); });
    auto complete = [&]() -> Coroutine<> {
      futures[1].set_result(1);
      co_return;
    };
    auto inner = gather(futures);
    auto results = co_await gather(complete, std::move(inner));
    EXPECT_THAT(std::get<1>(results), ElementsAre(0, 1, 2, 3));
    EXPECT_THAT(co_await gather(futures), ElementsAre(0, 1, 2, 3));
  });
}

TEST_F(GatherTest, MovesAMoveOnlyResultOutOfTheLastHandleAndRefusesASharedOne) {
  run([&]() -> Coroutine<> {
    Task<std::unique_ptr<int>> only = create_task(boxed(1));
    auto results = co_await gather(std::move(only), number(2));
    EXPECT_EQ(*std::get<0>(results), 1);
    Task<std::unique_ptr<int>> shared = create_task(boxed(3));
    bool refused = false;
    try {
      co_await gather(shared, number(4));
    } catch (const RuntimeError&) {
      refused = true;
    }
    EXPECT_TRUE(refused);
    EXPECT_EQ(*shared.result(), 3);
  });
}

// ---- The order of starts ----

TEST_F(GatherTest, StartsNothingBeforeItIsAwaited) {
  run([&]() -> Coroutine<> {
    auto child = [&]() -> Coroutine<> {
      log("child");
      co_return;
    };
    auto waiting = gather(child, child);
    co_await sleep(0s);
    log("awaits");
    co_await std::move(waiting);
    log("done");
  });
  EXPECT_THAT(log_, ElementsAre("awaits", "child", "child", "done"));
}

TEST_F(GatherTest, OneThatIsKeptMayMoveUntilItIsAwaitedOnce) {
  run([]() -> Coroutine<> {
    auto first = gather(number(1), text("two"), nothing());
    auto waiting = std::move(first);
    EXPECT_EQ(co_await waiting, std::tuple(1, "two", std::monostate()));
    bool refused = false;
    try {
      co_await std::move(waiting);
    } catch (const RuntimeError&) {
      refused = true;
    }
    EXPECT_TRUE(refused);
    refused = false;
    try {
      co_await first;  // its children have gone
    } catch (const RuntimeError&) {
      refused = true;
    }
    EXPECT_TRUE(refused);
  });
}

TEST_F(GatherTest, ChildrenStartAfterTheParentSuspendsInOrderAmongCallbacks) {
  auto child = [this](std::string name) -> Coroutine<> {
    log(name + " starts");
    loop.call_soon([this, name] { log(name + "'s callback"); });
    co_await sleep(0s);
    log(name + " ends");
  };
  run([&]() -> Coroutine<> {
    loop.call_soon([this] { log("earlier callback"); });
    Task<> task = create_task(child, "task");
    co_await gather(child("a"), child("b"));
    log("parent");
    co_await task;
  });
  EXPECT_THAT(log_, ElementsAre("earlier callback", "task starts", "a starts", "b starts", "task's callback",
                                "task ends", "a's callback", "a ends", "b's callback", "b ends", "parent"));
}

TEST_F(GatherTest, TwoGathersStartInTheOrderInWhichTheyWereAwaited) {
  auto child = [this](std::string name) -> Coroutine<> {
    log(name);
    co_await sleep(0s);
    log(name);
  };
  auto parent = [&](std::string name) -> Coroutine<> { co_await gather(child(name + "1"), child(name + "2")); };
  run([&]() -> Coroutine<> { co_await gather(parent("a"), parent("b")); });
  EXPECT_THAT(log_, ElementsAre("a1", "a2", "b1", "b2", "a1", "a2", "b1", "b2"));
}

TEST_F(GatherTest, TheParentResumesThroughTheReadyQueue) {
  run([&]() -> Coroutine<> {
    Future<> last = loop.create_future();
    auto completes = [&]() -> Coroutine<> {
      co_await sleep(0s);
      loop.call_soon([this] { log("queued before"); });
      last.set_result();
      loop.call_soon([this] { log("queued after"); });
      log("completed");
    };
    Task<> task = create_task(completes);
    co_await gather(last, nothing());
    log("parent");
    co_await task;
  });
  EXPECT_THAT(log_, ElementsAre("completed", "queued before", "parent", "queued after"));
}

// ---- Errors ----

// B171
TEST_F(GatherTest, TheFirstErrorCancelsAndAwaitsTheChildrenItOwns) {
  run([&]() -> Coroutine<> {
    Future<> never = loop.create_future();
    auto careful = [&](std::string name) -> Coroutine<int> {
      bool cancelled = false;
      try {
        co_await never;
      } catch (const CancelledError&) {
        cancelled = true;
      }
      EXPECT_TRUE(cancelled);
      co_await sleep(0s);  // the clean-up is awaited
      log(name + " cleaned up");
      co_return 0;
    };
    Future<> other = loop.create_future();
    auto unwary = [&]() -> Coroutine<int> {
      co_await other;
      log("not reached");
      co_return 0;
    };
    try {
      co_await gather(careful("a"), unwary(), failing("the first"), failing("the second"));
    } catch (const std::runtime_error& error) {
      log(error.what());
    }
    EXPECT_EQ(current_task().cancelling(), 0);
    never = {};
  });
  EXPECT_THAT(log_, ElementsAre("a cleaned up", "the first"));
}

// B171
TEST_F(GatherTest, TasksAndFuturesOfTheCallerRunOnAfterAnError) {
  run([&]() -> Coroutine<> {
    Future<int> future = loop.create_future<int>();
    auto waits = [&]() -> Coroutine<int> { co_return co_await future + 1; };
    Task<int> task = create_task(waits);
    bool failed = false;
    try {
      co_await gather(task, future, failing("early"));
    } catch (const std::runtime_error&) {
      failed = true;
    }
    EXPECT_TRUE(failed);
    EXPECT_FALSE(task.done());
    EXPECT_FALSE(future.done());
    EXPECT_EQ(task.cancelling(), 0);
    future.set_result(1);
    EXPECT_EQ(co_await task, 2);
  });
}

TEST_F(GatherTest, AnErrorOfAFutureOfTheCallerEndsIt) {
  run([&]() -> Coroutine<> {
    Future<int> future = loop.create_future<int>();
    loop.call_soon([&] { future.set_exception(std::runtime_error("of the future")); });
    Future<> never = loop.create_future();
    auto child = [&]() -> Coroutine<> { co_await never; };
    try {
      co_await gather(child, future);
    } catch (const std::runtime_error& error) {
      log(error.what());
    }
    EXPECT_TRUE(never.cancelled());  // by the child that waited for it
  });
  EXPECT_THAT(log_, ElementsAre("of the future"));
}

TEST_F(GatherTest, ChildrenThatWereNotStartedAreDestroyedUnrun) {
  auto held = std::make_shared<int>(1);
  auto throwing = []() -> Coroutine<> {
    throw std::logic_error("at once");
    co_return;
  };
  auto child = [this](std::shared_ptr<int>) -> Coroutine<> {
    log("ran");
    co_return;
  };
  run([&]() -> Coroutine<> {
    try {
      co_await gather(throwing(), child(held), child(held));
    } catch (const std::logic_error&) {
      EXPECT_EQ(held.use_count(), 1);
    }
  });
  EXPECT_THAT(log_, IsEmpty());
}

// B179
TEST_F(GatherTest, FurtherErrorsOfItsChildrenAreNotReported) {
  run([&]() -> Coroutine<> {
    Future<> never = loop.create_future();
    auto bad_cleanup = [&]() -> Coroutine<> {
      try {
        co_await never;
      } catch (const CancelledError&) {
        throw std::runtime_error("in the clean-up");
      }
    };
    try {
      co_await gather(bad_cleanup, failing("first"), failing("second"));
    } catch (const std::runtime_error& error) {
      log(error.what());
    }
  });
  EXPECT_THAT(log_, ElementsAre("first"));
}

// B179
TEST_F(GatherTest, ATaskOfTheCallerThatFailsLaterReportsItself) {
  run([&]() -> Coroutine<> {
    auto fails_at_once = []() -> Coroutine<> {
      throw std::runtime_error("first");
      co_return;
    };
    try {
      co_await gather(fails_at_once, create_task(failing("second")));
    } catch (const std::runtime_error& error) {
      log(error.what());
    }
    co_await sleep(0s);
    co_await sleep(0s);
  });
  EXPECT_THAT(log_, ElementsAre("first"));
  const auto told = take_reports();
  ASSERT_THAT(told, testing::SizeIs(1));
  EXPECT_EQ(test::describe(told[0].exception), "exception: second");
}

// B172 B176
TEST_F(GatherTest, ReturnExceptionsWaitsForAllAndPutsErrorsInPlace) {
  run([&]() -> Coroutine<> {
    Future<int> cancelled = loop.create_future<int>();
    cancelled.cancel("why");
    auto results = co_await gather(return_exceptions, failing("one"), number_later(2), cancelled, nothing(), boxed(5));
    EXPECT_THROW(std::get<0>(results).value(), std::runtime_error);
    EXPECT_EQ(*std::get<1>(results), 2);
    EXPECT_FALSE(std::get<2>(results));
    try {
      std::get<2>(results).value();
    } catch (const CancelledError& error) {
      log(error.message());
    }
    EXPECT_TRUE(std::get<3>(results).has_value());
    EXPECT_EQ(*std::get<4>(std::move(results)).value(), 5);
  });
  EXPECT_THAT(log_, ElementsAre("why"));
}

// B172
TEST_F(GatherTest, ReturnExceptionsWorksForVectorsOfEveryKind) {
  run([&]() -> Coroutine<> {
    std::vector<Coroutine<int>> numbers;
    numbers.push_back(failing("bad"));
    numbers.push_back(number(1));
    const auto outcomes = co_await gather(return_exceptions, std::move(numbers));
    EXPECT_TRUE(outcomes[0].exception());
    EXPECT_EQ(outcomes[1].value(), 1);

    std::vector<Coroutine<>> nothings;
    nothings.push_back(nothing());
    EXPECT_TRUE((co_await gather(return_exceptions, std::move(nothings)))[0]);

    int target = 3;
    std::vector<Coroutine<int&>> references;
    references.push_back(same(target));
    const auto refs = co_await gather(return_exceptions, std::move(references));
    EXPECT_EQ(&*refs[0], &target);

    std::vector<Task<int>> tasks{create_task(failing("task")), create_task(number(2))};
    const auto of_tasks = co_await gather(return_exceptions, tasks);
    EXPECT_FALSE(of_tasks[0]);
    EXPECT_EQ(*of_tasks[1], 2);
  });
}

// B175
TEST_F(GatherTest, ACancelledChildGivesCancelledErrorAsAnException) {
  run([&]() -> Coroutine<> {
    Future<> never = loop.create_future();
    auto waits = [&]() -> Coroutine<> { co_await never; };
    Task<> task = create_task(waits);
    Task<std::tuple<std::monostate, int>> outer = ensure_future(gather(task, number(1)));
    co_await sleep(0s);
    task.cancel("the child");
    try {
      co_await outer;
    } catch (const CancelledError& error) {
      log(error.message());
    }
    EXPECT_EQ(outer.cancelling(), 0);
    EXPECT_EQ(current_task().cancelling(), 0);
  });
  EXPECT_THAT(log_, ElementsAre("the child"));
}

// B174
TEST_F(GatherTest, RefusesAFutureOfAnotherLoopAndItsOwnTask) {
  BaseEventLoop other(std::make_unique<ThreadParker>());
  Future<int> foreign = other.create_future<int>();
  run([&]() -> Coroutine<> {
    bool refused = false;
    try {
      co_await gather(number(1), foreign);
    } catch (const ValueError&) {
      refused = true;
    }
    EXPECT_TRUE(refused);
  });
  Task<> self;
  auto awaits_itself = [&]() -> Coroutine<> { co_await gather(nothing(), self); };
  self = loop.create_task(awaits_itself);
  EXPECT_THROW(run(self), RuntimeError);
  self = {};
}

TEST_F(GatherTest, AMillionChildrenOfWhichOneFailsTakeLinearTime) {
  constexpr int count = 1'000'000;
  int started = 0;
  int ended = 0;
  std::vector<Coroutine<int>> children;
  children.reserve(count);
  auto child = [&](int i) -> Coroutine<int> {
    ++started;
    struct Ends {
      int& n;
      ~Ends() { ++n; }
    } ends{ended};
    if (i == count / 2) throw std::runtime_error("one");
    if (i % 50 == 0) co_await sleep(1h);
    co_return i;
  };
  for (int i = 0; i < count; ++i) children.push_back(child(i));
  EXPECT_THROW(run(gather(std::move(children))), std::runtime_error);
  EXPECT_EQ(started, count / 2 + 1);
  EXPECT_EQ(ended, started);
}

}  // namespace
}  // namespace ouro
