// run() over one and several loops whose tasks wait for each other, or all for something from outside; they float.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <memory>
#include <optional>
#include <source_location>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <ouro/io/event_loop.hpp>
#include <ouro/io/runners.hpp>
#include <ouro/runtime/gather.hpp>
#include <ouro/runtime/locks.hpp>
#include <ouro/runtime/map.hpp>
#include <ouro/runtime/queues.hpp>
#include <ouro/runtime/sleep.hpp>
#include <ouro/runtime/taskgroups.hpp>
#include <ouro/runtime/threads.hpp>

#include "support/deadlock_fixture.hpp"
#include "support/group.hpp"

namespace ouro::test {
namespace {

using namespace std::chrono_literals;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::SizeIs;

std::unique_ptr<EventLoop> prompt_loop() {
  auto loop = quiet_loop();
  loop->deadlock_grace = 0ns;
  return loop;
}

class GroupDeadlock : public GroupsOfAnySize {
 protected:
  template <class A>
  static decltype(auto) run(A&& main) {
    return ouro::run(std::forward<A>(main), {.workers = GetParam(), .loop_factory = &prompt_loop});
  }
  template <class A>
  static std::string deadlock_of(A&& main) {
    try {
      run(std::forward<A>(main));
    } catch (const DeadlockError& error) {
      return shorten(error.what());
    }
    return "no deadlock";
  }
};
// Who is cancelled first lets go of its lock, and on several loops the other may have it before it is cancelled too.
void expect_ended(const Ledger& ledger, int begun) {
  EXPECT_EQ(ledger.begun(), begun);
  EXPECT_EQ(ledger.open(), 0);
  EXPECT_GE(ledger.broken_off(), 1);
}

INSTANTIATE_TEST_SUITE_P(Workers, GroupDeadlock, testing::Values(1, 2, 4));

// Holds one lock when it comes to the meeting, and then wants the other.
Coroutine<> lock_after_meeting(Lock& first, Lock& second, std::atomic<int>& met, int expected, Ledger& ledger,
                               std::source_location& place) {
  Ledger::Entry entry(ledger);
  const auto one = co_await first.scoped();
  ++met;
  while (met.load() < expected) co_await sleep(0s);
  const auto two = co_await at(place, second.scoped());
  entry.finish();
}

// What waits is cancelled and awaited, as at the end of every run.
TEST_P(GroupDeadlock, EndsTheRunWithTheRingAndCancelsItsTasks) {
  Ledger ledger;
  std::source_location at_a, at_b, at_main;
  // They outlive the tasks, of which main may be the first to end.
  Lock left;
  Lock right;
  std::atomic<int> met{0};
  const auto main = [&]() -> Coroutine<> {
    Task<> a = spawn(lock_after_meeting(left, right, met, 2, ledger, at_a));
    Task<> b = spawn(lock_after_meeting(right, left, met, 2, ledger, at_b));
    a.set_name("a");
    b.set_name("b");
    current_task().set_name("main");
    co_await at(at_main, a);
  };
  const std::string text = deadlock_of(main());
  EXPECT_EQ(text, "Deadlock: 2 tasks wait for each other\n  a waits at " + text_of(at_a) +
                      " for Lock, which b holds\n  b waits at " + text_of(at_b) +
                      " for Lock, which a holds\nand for these\n  main waits at " + text_of(at_main) + " for a");
  expect_ended(ledger, 2);
}

TEST_P(GroupDeadlock, SeesThroughGathersInGathers) {
  Ledger ledger;
  std::source_location at_a, at_b, at_main;
  // They outlive the tasks, of which main may be the first to end.
  Lock left;
  Lock right;
  std::atomic<int> met{0};
  const auto inner = [&](Lock& first, Lock& second, std::source_location& place) -> Coroutine<> {
    co_await gather(sleep(0s), lock_after_meeting(first, second, met, 2, ledger, place));
  };
  const auto main = [&]() -> Coroutine<> {
    current_task().set_name("main");
    co_await at(at_main, gather(inner(left, right, at_a), inner(right, left, at_b)));
  };
  const std::string text = deadlock_of(main());
  EXPECT_THAT(text, HasSubstr("Deadlock: 2 tasks wait for each other"));
  EXPECT_THAT(text, HasSubstr(" waits at " + text_of(at_a) + " for Lock, which "));
  EXPECT_THAT(text, HasSubstr(" waits at " + text_of(at_b) + " for Lock, which "));
  EXPECT_THAT(text, HasSubstr("\n  main waits at " + text_of(at_main) + " for "));
  expect_ended(ledger, 2);
}

// Some float, some are pinned to one of the loops, with children of their own.
TEST_P(GroupDeadlock, ARingOfPinnedAndFloatingTasks) {
  Ledger ledger;
  std::source_location at_a, at_b, at_main;
  // They outlive the tasks, of which main may be the first to end.
  Lock left;
  Lock right;
  std::atomic<int> met{0};
  const auto pinned = [&]() -> Coroutine<> {
    co_await gather(sleep(0s), lock_after_meeting(left, right, met, 2, ledger, at_a));
  };
  const auto main = [&]() -> Coroutine<> {
    Task<> a = workers().back()->create_task(pinned());
    Task<> b = spawn(lock_after_meeting(right, left, met, 2, ledger, at_b));
    current_task().set_name("main");
    co_await at(at_main, gather(a, b));
  };
  const std::string text = deadlock_of(main());
  EXPECT_THAT(text, HasSubstr("Deadlock: 2 tasks wait for each other"));
  EXPECT_THAT(text, HasSubstr(" waits at " + text_of(at_a) + " for Lock, which "));
  EXPECT_THAT(text, HasSubstr(" waits at " + text_of(at_b) + " for Lock, which "));
  expect_ended(ledger, 2);
}

TEST_P(GroupDeadlock, ATaskGroupWhoseMembersAwaitEachOther) {
  std::source_location at_a, at_b;
  const auto main = [&]() -> Coroutine<> {
    std::atomic<bool> both{false};
    Task<> a, b;
    const auto member = [&](Task<>& other, std::source_location& place) -> Coroutine<> {
      while (!both) co_await sleep(0s);
      co_await at(place, other);
    };
    TaskGroup group;
    a = group.create_task(member(b, at_a));
    b = group.create_task(member(a, at_b));
    both = true;
    co_await group.join();
  };
  const std::string text = deadlock_of(main());
  EXPECT_THAT(text, HasSubstr("Deadlock: 2 tasks wait for each other"));
  EXPECT_THAT(text, HasSubstr(" (task group)"));
}

TEST_P(GroupDeadlock, AThreadHelpsAfterTheReport) {
  std::optional<std::jthread> thread;
  std::source_location at_main;
  const auto main = [&]() -> Coroutine<int> {
    current_task().set_name("main");
    Queue<int> queue;
    Event event;
    EventLoop& first = *workers().front();
    first.set_exception_handler([&](EventLoop&, const ExceptionContext& context) {
      Reports::add(context);
      if (!thread) {
        // A shared object may be used by any thread; that of a loop that is alone, by a callback.
        thread.emplace([&] { first.call_soon_threadsafe([&] { queue.put_nowait(5), event.set(); }); });
      }
    });
    const auto waiter = [&](int) -> Coroutine<> { co_await event.wait(); };
    std::vector<int> ten(10);
    auto all = ensure_future(map(waiter, ten));
    const int got = co_await at(at_main, queue.get());
    co_await all;
    co_return got;
  };
  EXPECT_EQ(run(main()), 5);
  thread.reset();
  const std::vector<std::string> told = Reports::take();
  ASSERT_THAT(told, SizeIs(1));
  EXPECT_THAT(told.front(), HasSubstr("All 12 tasks wait, and nothing is in sight that would wake them"));
  EXPECT_THAT(shorten(told.front()), HasSubstr("\n  main waits at " + text_of(at_main) + " for Queue"));
}

// What another thread sends at the very moment of a look is never lost, and no look finds a ring where there is none.
TEST_P(GroupDeadlock, LooksWhileThreadsWakeTasks) {
  constexpr int rounds = 300;
  std::optional<std::jthread> thread;
  std::atomic<int> asked{0};
  const auto main = [&]() -> Coroutine<int> {
    Queue<int> queue;
    EventLoop& first = *workers().front();
    thread.emplace([&] {
      for (int i = 1; i <= rounds; ++i) {
        while (asked.load() < i) std::this_thread::yield();
        if (i % 2 == 0 && queue.is_shared()) {
          queue.put_nowait(i);
        } else {
          first.call_soon_threadsafe([&queue, i] { queue.put_nowait(i); });
        }
      }
    });
    int sum = 0;
    for (int i = 0; i < rounds; ++i) {
      ++asked;
      sum += co_await queue.get();
    }
    co_return sum;
  };
  EXPECT_EQ(run(main()), rounds * (rounds + 1) / 2);
  thread.reset();
  for (const std::string& report : Reports::take()) EXPECT_THAT(report, HasSubstr(" for Queue"));
}

TEST_P(GroupDeadlock, NoReportWhileAnExecutorWorks) {
  const auto main = []() -> Coroutine<int> {
    auto until_all_have_slept = [loops = workers()] {
      for (const EventLoop* loop : loops) {
        while (loop->counters().parks == 0) std::this_thread::yield();
      }
      return 5;
    };
    co_return co_await to_thread(std::move(until_all_have_slept));
  };
  EXPECT_EQ(run(main()), 5);
}

TEST_P(GroupDeadlock, NoReportWhileAThreadWaitsForATask) {
  std::optional<std::jthread> thread;
  const auto main = [&]() -> Coroutine<> {
    Event event;
    EventLoop& loop = *workers().back();
    const auto remote = [&event]() -> Coroutine<int> {
      co_await event.wait();
      co_return 3;
    };
    const std::uint64_t before = loop.counters().parks;
    auto future = run_coroutine_threadsafe(remote, loop);
    while (loop.state().remote_tasks.load() == 0) co_await sleep(0s);
    thread.emplace([&loop, &event, before] {
      while (loop.counters().parks == before) std::this_thread::yield();
      loop.call_soon_threadsafe([&event] { event.set(); });
    });
    co_await event.wait();
    while (!future.done()) co_await sleep(0s);
    EXPECT_EQ(future.result(), 3);
  };
  run(main());
}

}  // namespace
}  // namespace ouro::test
