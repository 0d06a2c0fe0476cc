// gather and cancellation: through it, into it, and at the end of the loop.
#include <ouro/runtime/gather.hpp>

#include <gmock/gmock.h>

#include <algorithm>
#include <memory>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include <ouro/runtime/base_event_loop.hpp>
#include <ouro/runtime/exceptions.hpp>
#include <ouro/runtime/sleep.hpp>

#include "support/loop_fixture.hpp"

namespace ouro {
namespace {

using namespace std::chrono_literals;
using testing::ElementsAre;
using testing::IsEmpty;
using testing::SizeIs;

class GatherCancelTest : public test::LoopTest {
 protected:
  void log(std::string word) { log_.push_back(std::move(word)); }

  // Never ends by itself; logs its start, and what ended it.
  Coroutine<int> endless(std::string name) {
    log(name + " starts");
    try {
      co_await loop.create_future();
    } catch (const CancelledError& error) {
      log(name + " cancelled" + (error.message().empty() ? "" : ": ") + error.message());
      throw;
    }
    co_return 0;
  }

  std::vector<std::string> log_;
};

Coroutine<int> number(int i) { co_return i; }

// Logs its destruction.
struct Local {
  Local(std::vector<std::string>& l, std::string n) : log(l), name(std::move(n)) {}
  Local(const Local&) = delete;
  ~Local() { log.push_back(name); }
  std::vector<std::string>& log;
  std::string name;
};

// ---- Through it ----

TEST_F(GatherCancelTest, ATaskCancelledBeforeItStartsNeverMakesItsGather) {
  auto parent = [this]() -> Coroutine<> {
    log("parent");
    co_await gather(endless("a"));
  };
  Task<> task = loop.create_task(parent);
  EXPECT_TRUE(task.cancel());
  EXPECT_THROW(run(task), CancelledError);
  EXPECT_THAT(log_, IsEmpty());
}

TEST_F(GatherCancelTest, CancelledBeforeTheChildrenStartNoneRuns) {
  auto parent = [this]() -> Coroutine<> { co_await gather(endless("a"), endless("b")); };
  Task<> task = loop.create_task(parent);
  loop.call_soon([&] { EXPECT_TRUE(task.cancel("early")); });
  try {
    run(task);
  } catch (const CancelledError& error) {
    log(error.message());
  }
  EXPECT_TRUE(task.cancelled());
  EXPECT_THAT(log_, ElementsAre("early"));
}

TEST_F(GatherCancelTest, CancelledWhileChildrenRunAllOfThemAreAndAreAwaited) {
  auto slow_to_end = [this](std::string name) -> Coroutine<int> {
    bool cancelled = false;
    try {
      co_await endless(name);
    } catch (const CancelledError&) {
      cancelled = true;
    }
    EXPECT_TRUE(cancelled);
    co_await sleep(0s);
    log(name + " ends");
    throw CancelledError("again");
  };
  Task<int> outside = loop.create_task(endless("task"));
  Future<int> future = loop.create_future<int>();
  auto parent = [&]() -> Coroutine<> {
    co_await gather(slow_to_end("a"), endless("b"), outside, future, number(1));
    log("not reached");
  };
  Task<> task = loop.create_task(parent);
  turn();
  turn();
  EXPECT_TRUE(task.cancel("stop"));
  EXPECT_FALSE(task.done());
  EXPECT_EQ(task.cancelling(), 1);
  EXPECT_THROW(run(task), CancelledError);
  EXPECT_TRUE(task.cancelled());
  EXPECT_TRUE(outside.cancelled());
  EXPECT_TRUE(future.cancelled());
  EXPECT_THAT(log_, ElementsAre("task starts", "a starts", "b starts", "a cancelled: stop", "b cancelled: stop",
                                "task cancelled: stop", "a ends"));
}

// B150
TEST_F(GatherCancelTest, CancelledInTheTurnInWhichTheLastChildCompletesItStillIs) {
  Future<> last = loop.create_future();
  auto parent = [&]() -> Coroutine<> { co_await gather(last, number(1)); };
  Task<> task = loop.create_task(parent);
  turn();
  turn();
  last.set_result();
  EXPECT_TRUE(task.cancel("late"));
  EXPECT_THROW(run(task), CancelledError);
}

TEST_F(GatherCancelTest, CancelledByItsLastChildItStillIs) {
  Task<> task;
  auto child = [&]() -> Coroutine<int> {
    task.cancel();
    co_return 1;
  };
  auto parent = [&]() -> Coroutine<> { co_await gather(number(1), child()); };
  task = loop.create_task(parent);
  EXPECT_THROW(run(task), CancelledError);
}

TEST_F(GatherCancelTest, ACancellationThatIsDueArrivesAtTheGather) {
  auto parent = [&]() -> Coroutine<> {
    current_task().cancel("due");
    try {
      co_await gather(endless("a"), loop.create_future());
    } catch (const CancelledError& error) {
      log(error.message());
    }
    co_await sleep(0s);  // and not again
    log("runs on");
  };
  run(parent);
  EXPECT_THAT(log_, ElementsAre("due", "runs on"));
}

TEST_F(GatherCancelTest, AnEmptyGatherLeavesADueCancellationToTheNextAwait) {
  auto parent = [&]() -> Coroutine<> {
    current_task().cancel();
    co_await gather();
    log("after the gather");
    co_await sleep(0s);
    log("not reached");
  };
  EXPECT_THROW(run(parent), CancelledError);
  EXPECT_THAT(log_, ElementsAre("after the gather"));
}

TEST_F(GatherCancelTest, GoesThroughNestedGathersToTheInnermostChildren) {
  auto inner = [this](std::string name) -> Coroutine<> { co_await gather(endless(name + "1"), endless(name + "2")); };
  auto parent = [&]() -> Coroutine<> { co_await gather(inner("a"), inner("b")); };
  Task<> task = loop.create_task(parent);
  for (int i = 0; i < 4; ++i) turn();
  log_.clear();
  task.cancel("m");
  EXPECT_THROW(run(task), CancelledError);
  EXPECT_THAT(log_, ElementsAre("a1 cancelled: m", "a2 cancelled: m", "b1 cancelled: m", "b2 cancelled: m"));
}

// B182, T7
TEST_F(GatherCancelTest, AChildThatSwallowsTheCancellationDoesNotHideIt) {
  auto stubborn = [this]() -> Coroutine<int> {
    try {
      co_await endless("a");
    } catch (const CancelledError&) {
      log("swallowed");
    }
    co_return 7;
  };
  const auto check = [this](auto&& parent) {
    log_.clear();
    Task<> task = loop.create_task(parent);
    turn();
    turn();
    task.cancel("why");
    try {
      run(task);
    } catch (const CancelledError& error) {
      log(error.message());
    }
    EXPECT_TRUE(task.cancelled());
    EXPECT_THAT(log_, ElementsAre("a starts", "a cancelled: why", "swallowed", "why"));
  };
  check([&]() -> Coroutine<> { co_await gather(stubborn(), number(1)); });
  check([&]() -> Coroutine<> { co_await gather(return_exceptions, stubborn(), number(1)); });
  check([&]() -> Coroutine<> {
    std::vector<Coroutine<int>> children;
    children.push_back(stubborn());
    co_await gather(return_exceptions, std::move(children));
  });
}

TEST_F(GatherCancelTest, AnErrorInACleanUpComesInPlaceOfTheCancellation) {
  auto bad = [this]() -> Coroutine<int> {
    try {
      co_await endless("a");
    } catch (const CancelledError&) {
      throw std::runtime_error("clean-up");
    }
    co_return 0;
  };
  auto parent = [&]() -> Coroutine<> { co_await gather(bad(), endless("b")); };
  Task<> task = loop.create_task(parent);
  turn();
  turn();
  task.cancel();
  EXPECT_THROW(run(task), std::runtime_error);
  EXPECT_FALSE(task.cancelled());
}

TEST_F(GatherCancelTest, CancellingTwiceReachesTheChildrenTwice) {
  auto twice = [this]() -> Coroutine<int> {
    for (int i = 0; i < 2; ++i) {
      try {
        co_await loop.create_future();
      } catch (const CancelledError& error) {
        log(error.message());
      }
    }
    co_return 1;
  };
  auto parent = [&]() -> Coroutine<> { co_await gather(twice(), number(1)); };
  Task<> task = loop.create_task(parent);
  turn();
  turn();
  task.cancel("one");
  turn();
  task.cancel("two");
  EXPECT_THROW(run(task), CancelledError);
  EXPECT_THAT(log_, ElementsAre("one", "two"));
}

// ---- ensure_future(gather) ----

TEST_F(GatherCancelTest, EnsureFutureStartsAGatherAtOnceAndGivesItCallbacks) {
  run([&]() -> Coroutine<> {
    auto future = ensure_future(gather(number(1), number(2)));
    future.add_done_callback([this](auto done) { log("sum " + std::to_string(std::get<1>(done.result()) + 1)); });
    auto started = ensure_future(gather(endless("a"), endless("b")));
    log("not before this");
    co_await sleep(0s);
    EXPECT_TRUE(started.cancel("all"));
    try {
      co_await started;
    } catch (const CancelledError&) {
      log("cancelled");
    }
    EXPECT_TRUE(started.cancelled());
  });
  EXPECT_THAT(log_, ElementsAre("not before this", "a starts", "b starts", "a cancelled: all", "b cancelled: all",
                                "sum 3", "cancelled"));
}

TEST_F(GatherCancelTest, CancellingAGatherThatIsDoneGivesFalse) {
  run([&]() -> Coroutine<> {
    auto future = ensure_future(gather(number(1), number(2)));
    co_await future;
    EXPECT_FALSE(future.cancel());
    EXPECT_FALSE(future.cancelled());
  });
}

// ---- Children as tasks ----

TEST_F(GatherCancelTest, ChildrenAreTasksWithNamesAndAreInAllTasks) {
  OURO_TEST_ALONE("all_tasks of a group has no children of pinned gathers, and no first steps");
  AnyTask kept;
  run([&]() -> Coroutine<> {
    AnyTask parent = current_task();
    auto child = [&]() -> Coroutine<> {
      kept = current_task();
      EXPECT_NE(kept, parent);
      EXPECT_THAT(all_tasks(), SizeIs(3));
      EXPECT_THAT(kept.get_name(), testing::StartsWith("Task-"));
      kept.set_name("mine");
      co_await sleep(0s);
      EXPECT_EQ(current_task(), kept);
      EXPECT_THAT(all_tasks(), SizeIs(2));  // the other has ended
      EXPECT_EQ(kept.get_name(), "mine");
    };
    EXPECT_THAT(all_tasks(), SizeIs(1));
    co_await gather(child(), number(2));
    EXPECT_EQ(current_task(), parent);
    EXPECT_THAT(all_tasks(), SizeIs(1));
  });
  EXPECT_TRUE(kept.done());
  EXPECT_FALSE(kept.cancelled());
  EXPECT_EQ(kept.get_name(), "mine");
  EXPECT_FALSE(kept.cancel());
}

// The handle to the child that waits for what `f` does with it.
class OneChildTest : public GatherCancelTest {
 protected:
  void SetUp() override { OURO_TEST_ALONE("all_tasks of a group has no children of pinned gathers"); }

  static AnyTask other_than(const AnyTask& parent, std::size_t i) {
    std::vector<AnyTask> children;
    for (const AnyTask& task : all_tasks()) {
      if (task != parent) children.push_back(task);
    }
    return children.at(i);
  }
};

TEST_F(OneChildTest, CancelledBeforeItStartedItNeverRuns) {
  AnyTask victim;
  run([&]() -> Coroutine<> {
    AnyTask parent = current_task();
    loop.call_soon([&, parent] {
      victim = other_than(parent, 1);
      EXPECT_TRUE(victim.cancel("you"));
    });
    try {
      co_await gather(endless("a"), endless("b"));
    } catch (const CancelledError& error) {
      log(error.message());
    }
  });
  EXPECT_TRUE(victim.cancelled());
  EXPECT_THAT(log_, ElementsAre("a starts", "a cancelled", "you"));
}

// B176
TEST_F(OneChildTest, CancelledBeforeItStartedItIsAnOutcomeAmongOthers) {
  run([&]() -> Coroutine<> {
    AnyTask parent = current_task();
    loop.call_soon([&, parent] { other_than(parent, 1).cancel("you"); });
    auto results = co_await gather(return_exceptions, number(1), endless("b"), number(3));
    EXPECT_EQ(*std::get<0>(results), 1);
    EXPECT_EQ(*std::get<2>(results), 3);
    EXPECT_THROW(std::get<1>(results).value(), CancelledError);

    loop.call_soon([&, parent] { other_than(parent, 0).cancel("you"); });
    auto nothing = []() -> Coroutine<> { co_return; };
    std::vector<Coroutine<>> children;
    children.push_back(nothing());
    children.push_back(nothing());
    auto more = co_await gather(return_exceptions, std::move(children));
    EXPECT_FALSE(more[0].has_value());
    EXPECT_TRUE(more[1].has_value());
  });
}

TEST_F(OneChildTest, CancelledAndUncancelledBeforeItStartedItRuns) {
  run([&]() -> Coroutine<> {
    AnyTask parent = current_task();
    loop.call_soon([&, parent] {
      AnyTask child = other_than(parent, 0);
      child.cancel();
      EXPECT_EQ(child.uncancel(), 0);
    });
    auto yields = []() -> Coroutine<int> {
      co_await sleep(0s);
      co_return 5;
    };
    EXPECT_EQ(co_await gather(yields(), number(6)), std::tuple(5, 6));
  });
}

TEST_F(OneChildTest, CancelledWhileItRunsItGivesTheGatherCancelledError) {
  AnyTask victim;
  run([&]() -> Coroutine<> {
    AnyTask parent = current_task();
    auto cancels = [&]() -> Coroutine<int> {
      victim = other_than(parent, 0);
      EXPECT_TRUE(victim.cancel("you"));
      co_return 1;
    };
    auto results = co_await gather(return_exceptions, endless("a"), cancels());
    EXPECT_THROW(std::get<0>(results).value(), CancelledError);
    EXPECT_TRUE(victim.cancelled());
  });
  EXPECT_THAT(log_, ElementsAre("a starts", "a cancelled: you"));
}

TEST_F(OneChildTest, AHandleToAnAbortedChildTellsThatItWasCancelled) {
  AnyTask unstarted;
  run([&]() -> Coroutine<> {
    AnyTask parent = current_task();
    loop.call_soon([&, parent] { unstarted = other_than(parent, 1); });
    auto throws = []() -> Coroutine<int> {
      throw std::runtime_error("at once");
      co_return 0;
    };
    try {
      co_await gather(throws(), endless("b"));
    } catch (const std::runtime_error&) {
      log("failed");
    }
  });
  EXPECT_TRUE(unstarted.cancelled());
  EXPECT_THROW(static_cast<void>(unstarted.exception()), CancelledError);
  EXPECT_THAT(log_, ElementsAre("failed"));
}

TEST_F(OneChildTest, HandlesToChildrenOutliveTheLoop) {
  std::vector<AnyTask> handles;
  auto parent = [&]() -> Coroutine<> { co_await gather(endless("a"), endless("b")); };
  loop.create_task(parent);
  turn();
  handles = all_tasks(loop);  // the children have not started
  EXPECT_THAT(handles, SizeIs(3));
  loop.close();
  for (const AnyTask& handle : handles) EXPECT_TRUE(handle.cancelled());
  EXPECT_THAT(log_, IsEmpty());
  destroy_loop();
  for (const AnyTask& handle : handles) EXPECT_TRUE(handle.done());
  EXPECT_THAT(take_reports(), SizeIs(1));
}

TEST_F(OneChildTest, HandlesToStartedChildrenOutliveTheLoop) {
  auto parent = [&]() -> Coroutine<> { co_await gather(endless("a"), endless("b")); };
  loop.create_task(parent);
  turn();
  turn();
  std::vector<AnyTask> handles = all_tasks(loop);
  EXPECT_THAT(handles, SizeIs(3));
  loop.close();
  for (const AnyTask& handle : handles) EXPECT_TRUE(handle.cancelled());
  EXPECT_THAT(log_, ElementsAre("a starts", "b starts"));
  EXPECT_THAT(take_reports(), SizeIs(1));
}

// ---- Ends ----

TEST_F(GatherCancelTest, AGatherThatIsNeverAwaitedFreesItsChildren) {
  auto held = std::make_shared<int>(1);
  auto child = [](std::shared_ptr<int> p) -> Coroutine<int> { co_return *p; };
  {
    auto tuple = gather(child(held), child(held));
    std::vector<Coroutine<int>> children;
    children.push_back(child(held));
    auto vector = gather(std::move(children));
    auto moved = std::move(tuple);
    EXPECT_EQ(held.use_count(), 4);
  }
  EXPECT_EQ(held.use_count(), 1);
}

// B129
TEST_F(GatherCancelTest, ClosingTheLoopDestroysTheInnermostFirstAndReportsOnce) {
  auto leaf = [this](std::string name) -> Coroutine<> {
    Local local(log_, name);
    co_await loop.create_future();
  };
  auto nested = [&](std::string name) -> Coroutine<> {
    Local local(log_, name);
    co_await gather(leaf(name + "1"), leaf(name + "2"));
  };
  auto parent = [&]() -> Coroutine<> {
    Local local(log_, "parent");
    co_await gather(nested("a"), nested("b"));
  };
  Task<> task = loop.create_task(parent);
  for (int i = 0; i < 4; ++i) turn();
  loop.close();
  ASSERT_THAT(log_, SizeIs(7));
  const auto at = [this](const std::string& name) { return std::find(log_.begin(), log_.end(), name) - log_.begin(); };
  EXPECT_LT(at("a1"), at("a"));
  EXPECT_LT(at("a2"), at("a"));
  EXPECT_LT(at("b2"), at("b"));
  EXPECT_EQ(at("parent"), 6);
  EXPECT_TRUE(task.cancelled());
  const auto told = take_reports();
  ASSERT_THAT(told, SizeIs(1));
  EXPECT_EQ(told[0].message, "Task was destroyed but it is pending!");
}

TEST_F(GatherCancelTest, ClosingTheLoopWithFuturesOfTheCallerLeavesThemUsable) {
  Future<int> future = loop.create_future<int>();
  auto parent = [&]() -> Coroutine<> { co_await gather(future, endless("a"), future); };
  loop.create_task(parent);
  turn();
  turn();
  loop.close();
  EXPECT_FALSE(future.done());
  EXPECT_THAT(take_reports(), SizeIs(1));
}

}  // namespace
}  // namespace ouro
