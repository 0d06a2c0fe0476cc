// Done-callbacks of futures: when they run, how they are removed, what they may do.
#include <gmock/gmock.h>

#include <cstddef>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <ouro/runtime/futures.hpp>
#include <ouro/runtime/tasks.hpp>

#include "support/loop_fixture.hpp"

namespace ouro {
namespace {

using test::Counted;
using test::describe;
using testing::ElementsAre;
using testing::IsEmpty;
using testing::SizeIs;
using testing::StrEq;

using Log = std::vector<std::string>;

class DoneCallbackTest : public test::LoopTest {
 protected:
  // A callback that notes its name.
  auto note(std::string name) {
    return [this, name = std::move(name)](Future<int>) { log.push_back(name); };
  }
  Log log;
  Future<int> future = loop.create_future<int>();

  void TearDown() override {
    future = {};
    LoopTest::TearDown();
  }
};

// B101
TEST_F(DoneCallbackTest, RunInOrderWithTheFutureThroughTheLoop) {
  for (const std::string name : {"a", "b", "c"}) {
    future.add_done_callback([this, name](Future<int> done) {
      EXPECT_EQ(done, future);
      EXPECT_TRUE(done.done());
      EXPECT_FALSE(current_task());
      log.push_back(name);
    });
  }
  turn();
  EXPECT_THAT(log, IsEmpty());
  future.set_result(1);
  EXPECT_THAT(log, IsEmpty());
  turn();
  EXPECT_THAT(log, ElementsAre("a", "b", "c"));
  turn(3);
  EXPECT_THAT(log, SizeIs(3));
}

// B101
TEST_F(DoneCallbackTest, RunOnAnExceptionAndOnACancel) {
  future.add_done_callback([this](Future<int> done) { log.push_back(describe(done.exception())); });
  future.set_exception(std::runtime_error("boom"));
  turn();
  auto cancelled = loop.create_future<int>();
  cancelled.add_done_callback([this](Future<int> done) { log.push_back(done.cancelled() ? "cancelled" : "not"); });
  cancelled.cancel();
  turn();
  EXPECT_THAT(log, ElementsAre("exception: boom", "cancelled"));
}

// B102
TEST_F(DoneCallbackTest, AddedToADoneFutureRunInTheNextTurnInTheirTurn) {
  future.set_result(1);
  loop.call_soon([this] { log.push_back("before"); });
  future.add_done_callback(note("callback"));
  loop.call_soon([this] { log.push_back("after"); });
  EXPECT_THAT(log, IsEmpty());
  turn();
  EXPECT_THAT(log, ElementsAre("before", "callback", "after"));
}

// B102
TEST_F(DoneCallbackTest, AddedByACallbackRunInTheTurnAfter) {
  future.add_done_callback([this](Future<int> done) {
    log.push_back("first");
    done.add_done_callback(note("added"));
  });
  future.add_done_callback(note("second"));
  future.set_result(1);
  turn();
  EXPECT_THAT(log, ElementsAre("first", "second"));
  turn();
  EXPECT_THAT(log, ElementsAre("first", "second", "added"));
}

int plain_runs = 0;
void plain_callback(Future<int>) { ++plain_runs; }
void other_plain_callback(Future<int>) { plain_runs += 100; }

// B103
TEST_F(DoneCallbackTest, APlainFunctionAddedThriceIsRemovedThrice) {
  plain_runs = 0;
  for (int i = 0; i < 3; ++i) future.add_done_callback(plain_callback);
  future.add_done_callback(&other_plain_callback);
  EXPECT_EQ(future.remove_done_callback(plain_callback), 3U);
  EXPECT_EQ(future.remove_done_callback(plain_callback), 0U);
  future.add_done_callback(plain_callback);
  future.add_done_callback(plain_callback);
  future.set_result(1);
  EXPECT_EQ(future.remove_done_callback(plain_callback), 0U);
  turn();
  EXPECT_EQ(plain_runs, 102);
}

// B103 B105
TEST_F(DoneCallbackTest, ATokenRemovesItsOwnOne) {
  const CallbackToken first = future.add_done_callback(note("first"));
  future.add_done_callback(note("second"));
  const CallbackToken third = future.add_done_callback(note("third"));
  const CallbackToken fourth = future.add_done_callback(note("fourth"));
  EXPECT_FALSE(first == third);
  EXPECT_EQ(future.remove_done_callback(first), 1U);
  EXPECT_EQ(future.remove_done_callback(first), 0U);
  EXPECT_EQ(future.remove_done_callback(third), 1U);
  future.set_result(1);
  turn();
  EXPECT_THAT(log, ElementsAre("second", "fourth"));
  EXPECT_EQ(future.remove_done_callback(fourth), 0U);
}

TEST_F(DoneCallbackTest, ATokenOfAnotherFutureRemovesNothing) {
  auto other = loop.create_future<int>();
  const CallbackToken token = other.add_done_callback(note("other"));
  future.add_done_callback(note("own"));
  EXPECT_EQ(future.remove_done_callback(token), 0U);
  future.set_result(1);
  turn();
  EXPECT_THAT(log, ElementsAre("own"));
}

TEST_F(DoneCallbackTest, ARemovedOneIsDestroyedAtOnce) {
  int alive = 0;
  const CallbackToken token = future.add_done_callback([counted = Counted(alive)](Future<int>) {});
  EXPECT_EQ(alive, 1);
  EXPECT_EQ(future.remove_done_callback(token), 1U);
  EXPECT_EQ(alive, 0);
}

TEST_F(DoneCallbackTest, OneThatHasRunIsDestroyed) {
  int alive = 0;
  future.add_done_callback([counted = Counted(alive)](Future<int>) {});
  future.set_result(1);
  EXPECT_EQ(alive, 1);
  turn();
  EXPECT_EQ(alive, 0);
}

// Runs a function when the last copy dies.
auto at_death(std::function<void()> f) {
  return std::shared_ptr<void>(nullptr, [f = std::move(f)](void*) { f(); });
}

// B104
TEST_F(DoneCallbackTest, ADestructorOfARemovedOneMayRemoveTheRest) {
  std::vector<CallbackToken> rest;
  std::size_t removed = 0;
  const auto first = future.add_done_callback([guard = at_death([&] {
                                                 for (const CallbackToken token : rest) {
                                                   removed += future.remove_done_callback(token);
                                                 }
                                               })](Future<int>) {});
  for (int i = 0; i < 3; ++i) rest.push_back(future.add_done_callback(note("never")));
  EXPECT_EQ(future.remove_done_callback(first), 1U);
  EXPECT_EQ(removed, 3U);
  future.set_result(1);
  turn();
  EXPECT_THAT(log, IsEmpty());
}

// B104
TEST_F(DoneCallbackTest, ADestructorOfARemovedOneMayAddAnother) {
  const auto first =
      future.add_done_callback([guard = at_death([&] { future.add_done_callback(note("added")); })](Future<int>) {});
  future.add_done_callback(note("second"));
  EXPECT_EQ(future.remove_done_callback(first), 1U);
  future.set_result(1);
  turn();
  EXPECT_THAT(log, ElementsAre("second", "added"));
}

// B104
TEST_F(DoneCallbackTest, ADestructorOfARemovedOneMayEndTheFuture) {
  const auto first = future.add_done_callback([guard = at_death([&] { future.set_result(9); })](Future<int>) {});
  future.add_done_callback(note("second"));
  EXPECT_EQ(future.remove_done_callback(first), 1U);
  EXPECT_EQ(future.result(), 9);
  turn();
  EXPECT_THAT(log, ElementsAre("second"));
}

TEST_F(DoneCallbackTest, WhatOneThrowsIsReportedAndTheOthersRun) {
  future.add_done_callback([](Future<int>) { throw std::runtime_error("from a callback"); });
  future.add_done_callback(note("second"));
  future.add_done_callback([](Future<int> done) {
    done.cancel();
    throw CancelledError("odd");
  });
  future.add_done_callback(note("fourth"));
  future.set_result(1);
  turn();
  EXPECT_THAT(log, ElementsAre("second", "fourth"));
  const auto taken = take_reports();
  ASSERT_THAT(taken, SizeIs(2));
  EXPECT_THAT(taken[0].message, testing::StartsWith("Exception in callback"));
  EXPECT_THAT(describe(taken[0].exception), StrEq("exception: from a callback"));
  EXPECT_THAT(taken[0].created.file_name(), testing::HasSubstr("done_callbacks_test"));
  EXPECT_THAT(describe(taken[1].exception), StrEq("CancelledError: odd"));
}

// B107
TEST_F(DoneCallbackTest, OfAPendingFutureThatDiesAreDestroyedUnrun) {
  int alive = 0;
  auto dies = loop.create_future<int>();
  for (int i = 0; i < 3; ++i) {
    dies.add_done_callback([this, counted = Counted(alive)](Future<int>) { log.push_back("never"); });
  }
  EXPECT_EQ(alive, 3);
  dies = {};
  EXPECT_EQ(alive, 0);
  turn(2);
  EXPECT_THAT(log, IsEmpty());
}

TEST_F(DoneCallbackTest, KeepTheFutureAliveUntilTheyHaveRun) {
  auto dies = loop.create_future<std::string>();
  dies.add_done_callback([this](Future<std::string> done) { log.push_back(done.result()); });
  dies.set_result("still here");
  dies = {};
  turn();
  EXPECT_THAT(log, ElementsAre("still here"));
}

TEST_F(DoneCallbackTest, ThatNeverRanGoWithTheLoop) {
  int alive = 0;
  future.add_done_callback([counted = Counted(alive)](Future<int>) {});
  future.set_result(1);
  auto pending = loop.create_future<int>();
  pending.add_done_callback([counted = Counted(alive)](Future<int>) {});
  EXPECT_EQ(alive, 2);
  destroy_loop();
  EXPECT_EQ(alive, 1);
  pending = {};
  EXPECT_EQ(alive, 0);
}

TEST_F(DoneCallbackTest, MayTakeAnAnyCallableAndAMoveOnlyOne) {
  std::function<void(Future<int>)> erased = note("erased");
  future.add_done_callback(erased);
  future.add_done_callback([this, owned = std::make_unique<int>(3)](const Future<int>& done) {
    log.push_back(std::to_string(done.result() + *owned));
  });
  future.set_result(4);
  turn();
  EXPECT_THAT(log, ElementsAre("erased", "7"));
}

}  // namespace
}  // namespace ouro
