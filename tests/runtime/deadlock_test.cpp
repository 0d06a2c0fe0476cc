// Tasks that wait for each other: the error of the run that needs them, and the report of one that does not.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <source_location>
#include <string>
#include <utility>
#include <vector>

#include <ouro/runtime/as_completed.hpp>
#include <ouro/runtime/conditions.hpp>
#include <ouro/runtime/gather.hpp>
#include <ouro/runtime/locks.hpp>
#include <ouro/runtime/sleep.hpp>
#include <ouro/runtime/taskgroups.hpp>
#include <ouro/runtime/wait.hpp>

#include "support/deadlock_fixture.hpp"

namespace ouro::test {
namespace {

using namespace std::chrono_literals;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;
using testing::SizeIs;
using testing::StrEq;

OURO_SYNC_TESTS(DeadlockTest);

// ---- Rings ----

TEST_P(DeadlockTest, TwoTasksThatAwaitEachOther) {
  a = loop.create_task(await_task(b, at_a), {.name = "a"});
  b = loop.create_task(await_task(a, at_b), {.name = "b"});
  const std::string text = deadlock_of(a);
  EXPECT_THAT(text, StrEq("Deadlock: 2 tasks wait for each other"
                          "\n  a waits at " +
                          text_of(at_a) +
                          " for b"
                          "\n  b waits at " +
                          text_of(at_b) + " for a"));
  EXPECT_FALSE(a.done());
}

TEST_P(DeadlockTest, NamesTheFunctions) {
  a = loop.create_task(await_task(a, at_a), {.name = "a"});
  b = loop.create_task(await_task(c, at_b), {.name = "b"});
  c = loop.create_task(await_task(b, at_c), {.name = "c"});
  std::string text;
  try {
    run(b);
  } catch (const DeadlockError& error) {
    text = error.what();
  }
  EXPECT_THAT(text, HasSubstr(" in "));
  EXPECT_THAT(text, HasSubstr("await_task("));
  EXPECT_THAT(text, Not(HasSubstr("Frame*")));
  EXPECT_THAT(thrown_by([this] { run(a); }), HasSubstr("Task cannot await on itself"));
}

TEST_P(DeadlockTest, TellsHowTheRunNeedsTheRing) {
  a = loop.create_task(await_task(b, at_a), {.name = "a"});
  b = loop.create_task(await_task(c, at_b), {.name = "b"});
  c = loop.create_task(await_task(a, at_c), {.name = "c"});
  Task<> main = loop.create_task(await_task(a, at_main), {.name = "main"});
  const std::string text = deadlock_of(main);
  EXPECT_THAT(text, StrEq("Deadlock: 3 tasks wait for each other"
                          "\n  a waits at " +
                          text_of(at_a) +
                          " for b"
                          "\n  b waits at " +
                          text_of(at_b) +
                          " for c"
                          "\n  c waits at " +
                          text_of(at_c) +
                          " for a"
                          "\nand for these"
                          "\n  main waits at " +
                          text_of(at_main) + " for a"));
}

TEST_P(DeadlockTest, ATaskThatAwaitsItselfThroughTwoOthers) {
  const auto nested = [](Task<>& other, std::source_location& place) -> Coroutine<> {
    co_await await_task(other, place);
  };
  a = loop.create_task(nested(b, at_a), {.name = "a"});
  b = loop.create_task(nested(c, at_b), {.name = "b"});
  c = loop.create_task(nested(a, at_c), {.name = "c"});
  const std::string text = deadlock_of(a);
  EXPECT_THAT(text, StrEq("Deadlock: 3 tasks wait for each other"
                          "\n  a waits at " +
                          text_of(at_a) +
                          " for b"
                          "\n  b waits at " +
                          text_of(at_b) +
                          " for c"
                          "\n  c waits at " +
                          text_of(at_c) + " for a"));
}

TEST_P(DeadlockTest, TwoLocksInTwoOrders) {
  Lock& first = new_lock();
  Lock& second = new_lock();
  a = loop.create_task(lock_both(first, second, at_a), {.name = "a"});
  b = loop.create_task(lock_both(second, first, at_b), {.name = "b"});
  const std::string text = deadlock_of(a);
  EXPECT_THAT(text, StrEq("Deadlock: 2 tasks wait for each other"
                          "\n  a waits at " +
                          text_of(at_a) +
                          " for Lock, which b holds"
                          "\n  b waits at " +
                          text_of(at_b) + " for Lock, which a holds"));
}

TEST_P(DeadlockTest, ALockThatItsHolderLocksAgain) {
  Lock& lock = new_lock();
  a = loop.create_task(lock_both(lock, lock, at_a), {.name = "a"});
  const std::string text = deadlock_of(a);
  EXPECT_THAT(text, StrEq("Deadlock: a task waits for itself"
                          "\n  a waits at " +
                          text_of(at_a) + " for Lock, which it holds itself"));
}

// A lock that was waited for has the one who got it as its holder.
TEST_P(DeadlockTest, ALockThatWasHandedOn) {
  Lock& first = new_lock();
  Lock& second = new_lock();
  c = loop.create_task([](Lock& lock) -> Coroutine<> {
    const auto held = co_await lock.scoped();
    co_await sleep(0s);
  }(first));
  a = loop.create_task(lock_both(first, second, at_a), {.name = "a"});
  b = loop.create_task(lock_both(second, first, at_b), {.name = "b"});
  const std::string text = deadlock_of(b);
  EXPECT_THAT(text, StrEq("Deadlock: 2 tasks wait for each other"
                          "\n  b waits at " +
                          text_of(at_b) +
                          " for Lock, which a holds"
                          "\n  a waits at " +
                          text_of(at_a) + " for Lock, which b holds"));
}

TEST_P(DeadlockTest, ChildrenOfAGatherThatLockInTwoOrders) {
  Lock& first = new_lock();
  Lock& second = new_lock();
  const auto main = [&]() -> Coroutine<> {
    co_await at(at_main, gather(lock_both(first, second, at_a), lock_both(second, first, at_b)));
  };
  const std::string text = deadlock_of(loop.create_task(main(), {.name = "main"}));
  EXPECT_THAT(text, HasSubstr("Deadlock: 2 tasks wait for each other\n  "));
  EXPECT_THAT(text, HasSubstr(" waits at " + text_of(at_a) + " for Lock, which "));
  EXPECT_THAT(text, HasSubstr(" waits at " + text_of(at_b) + " for Lock, which "));
  EXPECT_THAT(text, HasSubstr("\nand for these\n  main waits at " + text_of(at_main) + " for "));
  EXPECT_THAT(text, HasSubstr(" (gather)"));
}

// One child of several is enough, though another could still be helped.
TEST_P(DeadlockTest, AGatherWhoseChildAwaitsItsParent) {
  auto future = loop.create_future();
  Task<> main;
  const auto child = [&]() -> Coroutine<> { co_await at(at_a, main); };
  const auto other = [&]() -> Coroutine<> { co_await future; };
  const auto parent = [&]() -> Coroutine<> { co_await at(at_main, gather(other(), child())); };
  main = loop.create_task(parent(), {.name = "main"});
  const std::string text = deadlock_of(main);
  EXPECT_THAT(text, HasSubstr("Deadlock: 2 tasks wait for each other\n  main waits at " + text_of(at_main) + " for "));
  EXPECT_THAT(text, HasSubstr(" waits at " + text_of(at_a) + " for main"));
}

TEST_P(DeadlockTest, AGatherOfTasksThatWaitForEachOther) {
  a = loop.create_task(await_task(b, at_a), {.name = "a"});
  b = loop.create_task(await_task(a, at_b), {.name = "b"});
  const auto main = [&]() -> Coroutine<> { co_await at(at_main, gather(a, b)); };
  const std::string text = deadlock_of(loop.create_task(main(), {.name = "main"}));
  EXPECT_THAT(text, StrEq("Deadlock: 2 tasks wait for each other"
                          "\n  a waits at " +
                          text_of(at_a) +
                          " for b"
                          "\n  b waits at " +
                          text_of(at_b) +
                          " for a"
                          "\nand for these"
                          "\n  main waits at " +
                          text_of(at_main) + " for a (gather)"));
}

TEST_P(DeadlockTest, ReadersThatWantToWrite) {
  RWLock& lock = new_rw_lock();
  const auto upgrade = [&lock](std::source_location& place) -> Coroutine<> {
    const auto reads = co_await lock.scoped_read();
    co_await sleep(0s);
    const auto writes = co_await at(place, lock.scoped_write());
  };
  a = loop.create_task(upgrade(at_a), {.name = "a"});
  b = loop.create_task(upgrade(at_b), {.name = "b"});
  const std::string text = deadlock_of(b);
  EXPECT_THAT(text, StrEq("Deadlock: a task waits for itself"
                          "\n  a waits at " +
                          text_of(at_a) +
                          " for RWLock, which it holds itself"
                          "\nand for these"
                          "\n  b waits at " +
                          text_of(at_b) + " for RWLock, which a holds"));
}

TEST_P(DeadlockTest, AWriterAndAReaderThatWaitForEachOther) {
  RWLock& shared = new_rw_lock();
  Lock& lock = new_lock();
  const auto reader = [&]() -> Coroutine<> {
    const auto reads = co_await shared.scoped_read();
    co_await sleep(0s);
    const auto held = co_await at(at_a, lock.scoped());
  };
  const auto writer = [&]() -> Coroutine<> {
    const auto held = co_await lock.scoped();
    co_await sleep(0s);
    const auto writes = co_await at(at_b, shared.scoped_write());
  };
  a = loop.create_task(reader(), {.name = "a"});
  b = loop.create_task(writer(), {.name = "b"});
  const std::string text = deadlock_of(a);
  EXPECT_THAT(text, StrEq("Deadlock: 2 tasks wait for each other"
                          "\n  a waits at " +
                          text_of(at_a) +
                          " for Lock, which b holds"
                          "\n  b waits at " +
                          text_of(at_b) + " for RWLock, which a holds"));
}

// A reader that has gone is no holder any more.
TEST_P(DeadlockTest, AReaderThatHasReleasedIsNotWaitedFor) {
  RWLock& lock = new_rw_lock();
  auto future = loop.create_future();
  const auto reader = [&]() -> Coroutine<> {
    {
      const auto reads = co_await lock.scoped_read();
      co_await sleep(0s);
    }
    co_await at(at_a, b);
  };
  const auto keeper = [&]() -> Coroutine<> {
    const auto reads = co_await lock.scoped_read();
    co_await at(at_c, future);
  };
  const auto writer = [&]() -> Coroutine<> {
    co_await sleep(0s);
    const auto writes = co_await at(at_b, lock.scoped_write());
  };
  a = loop.create_task(reader(), {.name = "a"});
  c = loop.create_task(keeper(), {.name = "c"});
  b = loop.create_task(writer(), {.name = "b"});
  help([&future] { future.set_result(); });
  EXPECT_THAT(deadlock_of(a), StrEq("no deadlock"));
  EXPECT_THAT(only_report(), HasSubstr("\n  b waits at " + text_of(at_b) + " for RWLock, which c holds"));
}

TEST_P(DeadlockTest, WhoWasNotifiedWaitsForTheLock) {
  Condition condition(new_lock());
  const auto waits = [&]() -> Coroutine<> {
    const auto held = co_await condition.scoped();
    co_await at(at_a, condition.wait());
  };
  const auto notifies = [&]() -> Coroutine<> {
    co_await condition.acquire();
    condition.notify();
    co_await at(at_b, a);
  };
  a = loop.create_task(waits(), {.name = "a"});
  b = loop.create_task(notifies(), {.name = "b"});
  const std::string text = deadlock_of(b);
  EXPECT_THAT(text, StrEq("Deadlock: 2 tasks wait for each other"
                          "\n  b waits at " +
                          text_of(at_b) +
                          " for a"
                          "\n  a waits at " +
                          text_of(at_a) + " for Lock, which b holds"));
  condition.release();
  run(b);
}

TEST_P(DeadlockTest, ATaskGroupWhoseChildrenLockInTwoOrders) {
  Lock& first = new_lock();
  Lock& second = new_lock();
  const auto main = [&]() -> Coroutine<> {
    TaskGroup group;
    group.create_task(lock_both(first, second, at_a));
    group.create_task(lock_both(second, first, at_b));
    co_await at(at_main, group.join());
  };
  const std::string text = deadlock_of(loop.create_task(main(), {.name = "main"}));
  EXPECT_THAT(text, HasSubstr("Deadlock: 2 tasks wait for each other"));
  EXPECT_THAT(text, HasSubstr("\nand for these\n  main waits at " + text_of(at_main) + " for "));
  EXPECT_THAT(text, HasSubstr(" (task group)"));
}

TEST_P(DeadlockTest, ShieldAndWaitForAllAreSeenThrough) {
  const auto main = [&]() -> Coroutine<> {
    std::vector<Task<>> both{a, b};
    co_await at(at_main, wait(std::move(both)));
  };
  const auto shielded = [&]() -> Coroutine<> { co_await at(at_a, shield(c)); };
  Task<> first = loop.create_task(main(), {.name = "main"});
  a = loop.create_task(shielded(), {.name = "a"});
  b = loop.create_task(sleep(0s));
  c = loop.create_task(await_task(first, at_c), {.name = "c"});
  const std::string text = deadlock_of(first);
  EXPECT_THAT(text, StrEq("Deadlock: 3 tasks wait for each other"
                          "\n  main waits at " +
                          text_of(at_main) +
                          " for a (wait)"
                          "\n  a waits at " +
                          text_of(at_a) +
                          " for c (shield)"
                          "\n  c waits at " +
                          text_of(at_c) + " for main"));
}

TEST_P(DeadlockTest, WhoWaitsForTheFirstIsStuckOnlyIfAllAre) {
  a = loop.create_task(await_task(b, at_a), {.name = "a"});
  b = loop.create_task(await_task(a, at_b), {.name = "b"});
  auto future = loop.create_future();
  const auto first_of = [&](bool also_future) -> Coroutine<> {
    std::vector<AnyFuture> futures{a, b};
    if (also_future) futures.emplace_back(future);
    const WaitOptions how{.return_when = FIRST_COMPLETED};
    co_await at(at_main, wait(std::move(futures), how));
  };
  const std::string text = deadlock_of(loop.create_task(first_of(false), {.name = "main"}));
  EXPECT_THAT(text, HasSubstr("\nand for these\n  main waits at " + text_of(at_main) + " for a (wait)"));
  EXPECT_THAT(take_reports(), IsEmpty());

  help([&future] { future.set_result(); });
  EXPECT_THAT(deadlock_of(first_of(true)), StrEq("no deadlock"));
  const std::vector<ExceptionContext> told = take_reports();
  ASSERT_THAT(told, SizeIs(2));
  EXPECT_THAT(told[0].message, HasSubstr("Deadlock: "));
  EXPECT_THAT(told[1].message, HasSubstr("All 4 tasks wait"));
}

TEST_P(DeadlockTest, AsCompletedIsStuckOnlyIfAllAre) {
  a = loop.create_task(await_task(b, at_a), {.name = "a"});
  b = loop.create_task(await_task(a, at_b), {.name = "b"});
  c = loop.create_task(sleep(0s));
  const auto main = [&]() -> Coroutine<> {
    auto all = as_completed(std::vector{a, b, c});
    co_await all.next();
    co_await at(at_main, all.next());
  };
  const std::string text = deadlock_of(loop.create_task(main(), {.name = "main"}));
  EXPECT_THAT(text, HasSubstr("\nand for these\n  main waits at " + text_of(at_main) + " for a (as_completed)"));
}

TEST_P(DeadlockTest, ALongRingIsCut) {
  std::vector<Task<>> ring(30);
  std::vector<std::source_location> places(30);
  for (std::size_t i = 0; i < 30; ++i) {
    ring[i] = loop.create_task(await_task(ring[(i + 1) % 30], places[i]));
  }
  const std::string text = deadlock_of(ring[0]);
  EXPECT_THAT(text, HasSubstr("Deadlock: 30 tasks wait for each other"));
  EXPECT_THAT(text, HasSubstr("\n  and 6 more"));
  EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 25);
}

// The loop is as it was: what waits can be helped, and run again.
TEST_P(DeadlockTest, TheLoopCanBeRunAgain) {
  a = loop.create_task(await_task(b, at_a), {.name = "a"});
  b = loop.create_task(await_task(a, at_b), {.name = "b"});
  const std::string first = deadlock_of(a);
  EXPECT_THAT(first, HasSubstr("Deadlock: 2 tasks wait for each other\n  a waits"));
  const std::string second = deadlock_of(b);
  EXPECT_THAT(second, HasSubstr("Deadlock: 2 tasks wait for each other\n  b waits"));
  loop.call_soon([this] { b.cancel(); });
  EXPECT_EQ(thrown_by([this] { run(a); }), "CancelledError: ");
}

// ---- Rings of which the run is not ----

TEST_P(DeadlockTest, ARingThatTheRunDoesNotNeedIsReported) {
  a = loop.create_task(await_task(b, at_a), {.name = "a"});
  b = loop.create_task(await_task(a, at_b), {.name = "b"});
  auto future = loop.create_future();
  const auto main = [&]() -> Coroutine<int> {
    co_await at(at_main, future);
    co_return 7;
  };
  help([&future] { future.set_result(); });
  EXPECT_EQ(run(main()), 7);
  const std::vector<ExceptionContext> told = take_reports();
  ASSERT_THAT(told, SizeIs(2));
  EXPECT_THAT(told[0].message, HasSubstr("Deadlock: 2 tasks wait for each other"));
  EXPECT_THAT(told[1].message, HasSubstr("All 3 tasks wait, and nothing is in sight"));
  EXPECT_THAT(shorten(told[1].message), HasSubstr(" waits at " + text_of(at_main) + " for a future that was made at "));
}

}  // namespace
}  // namespace ouro::test
