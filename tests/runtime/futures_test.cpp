// Futures: their states, and what their awaiters see of them.
#include <ouro/runtime/futures.hpp>

#include <gmock/gmock.h>

#include <cstddef>
#include <memory>
#include <source_location>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <ouro/runtime/tasks.hpp>

#include "support/loop_fixture.hpp"

namespace ouro {
namespace {

using test::describe;
using test::thrown_by;
using testing::ElementsAre;
using testing::IsEmpty;
using testing::SizeIs;
using testing::StrEq;

using Log = std::vector<std::string>;

// ---- States ----

class FutureTest : public test::LoopTest {};

// B88
static_assert(isfuture<Future<int>> && isfuture<Future<>&> && isfuture<const Task<std::string>&>);
static_assert(!isfuture<int> && !isfuture<Coroutine<int>> && !isfuture<AnyFuture>);
static_assert(Awaitable<Future<int>> && Awaitable<Future<int>&> && Awaitable<Task<>>);

// B89
TEST_F(FutureTest, ANewOneIsPending) {
  const auto future = loop.create_future<int>();
  EXPECT_TRUE(future);
  EXPECT_FALSE(future.done());
  EXPECT_FALSE(future.cancelled());
  EXPECT_THAT(thrown_by([&] { future.result(); }), StrEq("InvalidStateError: Result is not set."));
  EXPECT_THAT(thrown_by([&] { return future.exception(); }), StrEq("InvalidStateError: Exception is not set."));
}

TEST_F(FutureTest, KnowsItsLoopAndWhereItWasMade) {
  const unsigned line = std::source_location::current().line() + 1;
  const auto future = loop.create_future();
  EXPECT_EQ(&future.get_loop(), &loop);
  EXPECT_EQ(future.created().line(), line);
  EXPECT_THAT(future.created().file_name(), testing::HasSubstr("futures_test"));
}

// B90 B91
TEST_F(FutureTest, AnUninitialisedOneThrowsRuntimeError) {
  constexpr auto text = "RuntimeError: Future object is not initialized.";
  Future<int> future;
  EXPECT_FALSE(future);
  EXPECT_THAT(thrown_by([&] { return future.done(); }), StrEq(text));
  EXPECT_THAT(thrown_by([&] { return future.cancelled(); }), StrEq(text));
  EXPECT_THAT(thrown_by([&] { return future.cancel(); }), StrEq(text));
  EXPECT_THAT(thrown_by([&] { future.result(); }), StrEq(text));
  EXPECT_THAT(thrown_by([&] { return future.exception(); }), StrEq(text));
  EXPECT_THAT(thrown_by([&] { future.set_result(1); }), StrEq(text));
  EXPECT_THAT(thrown_by([&] { future.set_exception(std::runtime_error("")); }), StrEq(text));
  EXPECT_THAT(thrown_by([&] { future.add_done_callback([](Future<int>) {}); }), StrEq(text));
  EXPECT_THAT(thrown_by([&] { return future.remove_done_callback(CallbackToken{1}); }), StrEq(text));
  EXPECT_THAT(thrown_by([&] { future.get_loop(); }), StrEq(text));
  EXPECT_THAT(thrown_by([&] { future.created(); }), StrEq(text));
  EXPECT_THAT(thrown_by([&] { run(future); }), StrEq(text));
  Task<> task;
  EXPECT_THAT(thrown_by([&] { return task.get_name(); }), StrEq(text));
  EXPECT_THAT(thrown_by([&] { task.set_name("x"); }), StrEq(text));
  EXPECT_THAT(thrown_by([&] { return task.cancelling(); }), StrEq(text));
  EXPECT_THAT(thrown_by([&] { return task.uncancel(); }), StrEq(text));
  EXPECT_THAT(thrown_by([&] { return task.get_stack(); }), StrEq(text));
  const auto awaits = [](Future<int>& nothing) -> Coroutine<int> { co_return co_await nothing; };
  EXPECT_THAT(thrown_by([&] { run(awaits(future)); }), StrEq(text));
  future = loop.create_future<int>();
  EXPECT_FALSE(future.done());
}

// B92
TEST_F(FutureTest, CancelSucceedsOnce) {
  auto future = loop.create_future<int>();
  EXPECT_TRUE(future.cancel());
  EXPECT_TRUE(future.cancelled());
  EXPECT_TRUE(future.done());
  EXPECT_THAT(thrown_by([&] { future.result(); }), StrEq("CancelledError: "));
  EXPECT_THAT(thrown_by([&] { return future.exception(); }), StrEq("CancelledError: "));
  EXPECT_THAT(thrown_by([&] { future.set_result(1); }), StrEq("InvalidStateError: invalid state"));
  EXPECT_THAT(thrown_by([&] { future.set_exception(std::runtime_error("")); }),
              StrEq("InvalidStateError: invalid state"));
  EXPECT_FALSE(future.cancel());
  EXPECT_TRUE(future.cancelled());
}

// B93
TEST_F(FutureTest, TheMessageOfTheCancelIsInEveryCancelledError) {
  auto future = loop.create_future();
  EXPECT_TRUE(future.cancel("no longer needed"));
  EXPECT_FALSE(future.cancel("too late"));
  EXPECT_THAT(thrown_by([&] { future.result(); }), StrEq("CancelledError: no longer needed"));
  EXPECT_THAT(thrown_by([&] { future.result(); }), StrEq("CancelledError: no longer needed"));
  EXPECT_THAT(thrown_by([&] { return future.exception(); }), StrEq("CancelledError: no longer needed"));
  const auto awaits = [](Future<> cancelled) -> Coroutine<> { co_await cancelled; };
  EXPECT_THAT(thrown_by([&] { run(awaits(future)); }), StrEq("CancelledError: no longer needed"));
}

// B94
TEST_F(FutureTest, AResultIsSetOnce) {
  auto future = loop.create_future<int>();
  future.set_result(42);
  EXPECT_TRUE(future.done());
  EXPECT_FALSE(future.cancelled());
  EXPECT_EQ(future.result(), 42);
  EXPECT_EQ(future.exception(), nullptr);
  EXPECT_THAT(thrown_by([&] { future.set_result(1); }), StrEq("InvalidStateError: invalid state"));
  EXPECT_THAT(thrown_by([&] { future.set_exception(std::runtime_error("")); }),
              StrEq("InvalidStateError: invalid state"));
  EXPECT_FALSE(future.cancel());
  EXPECT_EQ(future.result(), 42);
}

// B95 B138
TEST_F(FutureTest, AnExceptionIsGivenAsTheSameObjectEveryTime) {
  auto future = loop.create_future<int>();
  const auto exception = std::make_exception_ptr(std::runtime_error("boom"));
  future.set_exception(exception);
  EXPECT_TRUE(future.done());
  EXPECT_FALSE(future.cancelled());
  EXPECT_EQ(future.exception(), exception);
  for (int i = 0; i < 2; ++i) {
    try {
      future.result();
      ADD_FAILURE();
    } catch (const std::runtime_error&) {
      EXPECT_EQ(std::current_exception(), exception);
    }
  }
  EXPECT_FALSE(future.cancel());
  EXPECT_THAT(thrown_by([&] { future.set_result(1); }), StrEq("InvalidStateError: invalid state"));
}

// B96
TEST_F(FutureTest, AnExceptionMayBeGivenByValue) {
  auto future = loop.create_future();
  future.set_exception(std::out_of_range("far"));
  EXPECT_THROW(future.result(), std::out_of_range);
  auto other = loop.create_future();
  other.set_exception(7);
  EXPECT_THROW(other.result(), int);
}

// B97: no exception is reserved, but there must be one.
TEST_F(FutureTest, ANullExceptionIsRefused) {
  auto future = loop.create_future<int>();
  EXPECT_THAT(thrown_by([&] { future.set_exception(std::exception_ptr()); }),
              StrEq("ValueError: set_exception: the exception_ptr is null"));
  EXPECT_FALSE(future.done());
  future.set_exception(StopIteration("last"));
  EXPECT_THAT(describe(future.exception()), StrEq("StopIteration: last"));
}

TEST_F(FutureTest, ACancelledErrorSetAsTheExceptionIsAFailure) {
  auto future = loop.create_future();
  future.set_exception(CancelledError("as told"));
  EXPECT_FALSE(future.cancelled());
  EXPECT_THAT(describe(future.exception()), StrEq("CancelledError: as told"));
  const auto awaits = [](Future<> failed) -> Coroutine<> { co_await failed; };
  auto task = loop.create_task(awaits(future));
  EXPECT_THAT(thrown_by([&] { run(task); }), StrEq("CancelledError: as told"));
  EXPECT_TRUE(task.cancelled());
}

TEST_F(FutureTest, CopiesShareTheStateAndCompareEqual) {
  auto future = loop.create_future<std::string>();
  const Future<std::string> copy = future;
  EXPECT_EQ(copy, future);
  EXPECT_FALSE(copy == loop.create_future<std::string>());
  future.set_result("shared");
  EXPECT_THAT(copy.result(), StrEq("shared"));
  EXPECT_EQ(&copy.result(), &future.result());
}

TEST_F(FutureTest, AFutureOfAnotherLoopCannotBeRunHere) {
  BaseEventLoop other(std::make_unique<ThreadParker>());
  auto future = other.create_future();
  EXPECT_THAT(thrown_by([&] { run(future); }),
              StrEq("ValueError: The future belongs to a different loop than the one specified as the loop argument"));
}

TEST_F(FutureTest, RunGivesADoneFuturesResultAndKeepsItForTheHolder) {
  auto future = loop.create_future<std::string>();
  future.set_result("kept");
  EXPECT_THAT(run(future), StrEq("kept"));
  EXPECT_THAT(run(future), StrEq("kept"));
  EXPECT_THAT(run(std::move(future)), StrEq("kept"));
}

TEST_F(FutureTest, InDebugModeAnotherThreadIsRefused) {
  loop.set_debug(true);
  auto future = loop.create_future<int>();
  std::string set;
  std::string cancelled;
  const auto body = [&]() -> Coroutine<> {
    std::thread thread([&] {
      set = thrown_by([&] { future.set_result(1); });
      cancelled = thrown_by([&] { return future.cancel(); });
    });
    thread.join();
    co_return;
  };
  run(body());
  constexpr auto text = "RuntimeError: Non-thread-safe operation invoked on an event loop other than the current one: ";
  EXPECT_EQ(set, text + std::string("set_result"));
  EXPECT_EQ(cancelled, text + std::string("cancel"));
  EXPECT_FALSE(future.done());
}

TEST_F(FutureTest, LivesOnWhenItsLoopIsGone) {
  auto future = loop.create_future<int>();
  auto pending = loop.create_future<int>();
  future.set_result(5);
  destroy_loop();
  EXPECT_EQ(future.result(), 5);
  EXPECT_THAT(thrown_by([&] { future.get_loop(); }), testing::StartsWith("RuntimeError: "));
  EXPECT_THAT(thrown_by([&] { future.add_done_callback([](Future<int>) {}); }),
              StrEq("RuntimeError: Event loop is closed"));
  EXPECT_TRUE(pending.cancel());
  EXPECT_TRUE(pending.cancelled());
}

TEST_F(FutureTest, ThatSomebodyWaitsForCannotBeSetOnAClosedLoop) {
  OURO_TEST_ALONE("a shared future lets go of its callbacks when its loop is closed, and can be set");
  auto future = loop.create_future<int>();
  int runs = 0;
  future.add_done_callback([&](Future<int>) { ++runs; });
  loop.close();
  EXPECT_THAT(thrown_by([&] { future.set_result(1); }), StrEq("RuntimeError: Event loop is closed"));
  EXPECT_TRUE(future.cancel());
  EXPECT_EQ(runs, 0);
}

// ---- Awaiters ----

class FutureAwaitTest : public test::LoopTest {
 protected:
  Log log;
};

// B98
TEST_F(FutureAwaitTest, AwaitedSeveralTimesItGivesTheSameResult) {
  auto future = loop.create_future<std::string>();
  const auto body = [](Future<std::string> twice) -> Coroutine<std::string> {
    std::string first = co_await twice;
    std::string second = co_await twice;
    co_return first + second;
  };
  loop.call_soon([&] { future.set_result("ab"); });
  EXPECT_THAT(run(body(future)), StrEq("abab"));
}

// B136
TEST_F(FutureAwaitTest, AnAwaiterResumesInTheNextTurnInOrderWithTheCallbacks) {
  auto future = loop.create_future<int>();
  const auto waits = [this](Future<int> awaited, std::string name) -> Coroutine<> {
    log.push_back(name + "=" + std::to_string(co_await awaited));
  };
  future.add_done_callback([this](Future<int>) { log.push_back("callback 1"); });
  auto first = loop.create_task(waits(future, "first"));
  auto second = loop.create_task(waits(future, "second"));
  turn();
  future.add_done_callback([this](Future<int>) { log.push_back("callback 2"); });
  future.set_result(5);
  EXPECT_THAT(log, IsEmpty());
  turn();
  EXPECT_THAT(log, ElementsAre("callback 1", "first=5", "second=5", "callback 2"));
  EXPECT_TRUE(first.done());
  EXPECT_TRUE(second.done());
}

TEST_F(FutureAwaitTest, ADoneOneIsAwaitedWithoutASuspension) {
  auto future = loop.create_future<int>();
  future.set_result(5);
  const auto body = [](Future<int> done) -> Coroutine<int> {
    int sum = 0;
    for (int i = 0; i < 1000; ++i) sum += co_await done;
    co_return sum;
  };
  auto task = loop.create_task(body(future));
  turn();
  EXPECT_TRUE(task.done());
  EXPECT_EQ(task.result(), 5000);
}

TEST_F(FutureAwaitTest, TenThousandAwaitersResumeInOrder) {
  auto future = loop.create_future<int>();
  std::vector<int> order;
  const auto waits = [&order](Future<int> awaited, int i) -> Coroutine<> {
    const int offset = co_await awaited;
    order.push_back(i + offset);
  };
  for (int i = 0; i < 10'000; ++i) loop.create_task(waits(future, i));
  turn();
  future.set_result(0);
  turn();
  ASSERT_THAT(order, SizeIs(10'000));
  for (int i = 0; i < 10'000; ++i) ASSERT_EQ(order[static_cast<std::size_t>(i)], i);
}

// B113
TEST_F(FutureAwaitTest, AFailedOneAwaitedAgainAndAgainThrowsTheSameObject) {
  auto future = loop.create_future<int>();
  const auto exception = std::make_exception_ptr(std::runtime_error("boom"));
  const auto body = [&exception](Future<int> failed) -> Coroutine<int> {
    int same = 0;
    for (int i = 0; i < 10; ++i) {
      try {
        co_await failed;
      } catch (const std::runtime_error&) {
        if (std::current_exception() == exception) ++same;
      }
    }
    co_return same;
  };
  loop.call_soon([&] { future.set_exception(exception); });
  EXPECT_EQ(run(body(future)), 10);
}

TEST_F(FutureAwaitTest, AnAwaiterKeepsTheFutureAlive) {
  auto future = loop.create_future<std::string>();
  const auto body = [](Future<std::string> owned) -> Coroutine<std::string> { co_return co_await std::move(owned); };
  auto task = loop.create_task(body(future));
  turn();
  loop.call_soon([held = std::exchange(future, {})]() mutable { held.set_result("done"); });
  EXPECT_THAT(run(task), StrEq("done"));
}

TEST_F(FutureAwaitTest, AnAwaiterThatIsCancelledTakesTheFutureAlongAndTheOthersSeeIt) {
  auto future = loop.create_future<int>();
  const auto waits = [](Future<int> awaited) -> Coroutine<int> { co_return co_await awaited; };
  auto first = loop.create_task(waits(future));
  auto second = loop.create_task(waits(future));
  turn();
  EXPECT_TRUE(first.cancel("enough"));
  EXPECT_TRUE(future.cancelled());
  turn();
  EXPECT_TRUE(first.cancelled());
  EXPECT_TRUE(second.cancelled());
  EXPECT_THAT(thrown_by([&] { second.result(); }), StrEq("CancelledError: enough"));
  EXPECT_EQ(first.cancelling(), 1);
  EXPECT_EQ(second.cancelling(), 0);
}

}  // namespace
}  // namespace ouro
