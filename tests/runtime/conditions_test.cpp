// Condition and Barrier on one loop, as asyncio's.
#include <ouro/runtime/conditions.hpp>

#include <gmock/gmock.h>

#include <algorithm>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <ouro/runtime/gather.hpp>
#include <ouro/runtime/sleep.hpp>

#include "support/sync_fixture.hpp"

namespace ouro {
namespace {

using namespace std::chrono_literals;
using test::thrown_by;
using testing::ElementsAre;
using testing::IsEmpty;
using testing::UnorderedElementsAre;

class Conditions : public test::SyncTest {
 protected:
  // Waits with the lock held, and says how that ended.
  Task<> wait_in(std::string name, Condition& condition) {
    return note(std::move(name), [&condition] { return wait_once(condition); });
  }
  static Coroutine<bool> wait_once(Condition& condition) {
    auto guard = co_await condition.scoped();
    const bool notified = co_await condition.wait();
    EXPECT_TRUE(condition.locked());
    co_return notified;
  }
  void locked(Condition& condition, const std::function<void()>& f) {
    run([](Condition& c, const std::function<void()>& body) -> Coroutine<> {
      auto guard = co_await c.scoped();
      body();
    }(condition, f));
  }
};

// B270
TEST_P(Conditions, NotifyInTurn) {
  auto condition = make<Condition>();
  EXPECT_EQ(thrown_by([&] { condition->notify(); }), "RuntimeError: cannot notify on un-acquired lock");
  EXPECT_EQ(thrown_by([&] { condition->notify_all(); }), "RuntimeError: cannot notify on un-acquired lock");
  EXPECT_EQ(thrown_by([&] { run(condition->wait()); }), "RuntimeError: cannot wait on un-acquired lock");
  for (const char* name : {"a", "b", "c", "d"}) wait_in(name, *condition);
  turn(2);
  EXPECT_FALSE(condition->locked());
  locked(*condition, [&] {
    condition->notify();
    EXPECT_TRUE(condition->locked());
  });
  turn(4);
  EXPECT_THAT(ended, ElementsAre("a"));
  locked(*condition, [&] { condition->notify(2); });
  turn(4);
  EXPECT_THAT(ended, ElementsAre("a", "b", "c"));
  locked(*condition, [&] { condition->notify_all(); });
  turn(4);
  EXPECT_THAT(ended, ElementsAre("a", "b", "c", "d"));
  EXPECT_FALSE(condition->locked());
}

// B270: the predicate's value; B271: a lock of the user's, and what others do with it.
TEST_P(Conditions, WaitForAPredicate) {
  auto lock = make<Lock>();
  Condition condition(*lock);
  int value = 0;
  int asked = 0;
  Task<> waits = loop.create_task([](Condition& c, int& v, int& n, std::vector<std::string>& log) -> Coroutine<> {
    auto guard = co_await c.scoped();
    const int got = co_await c.wait_for([&] {
      ++n;
      return v >= 3 ? v : 0;
    });
    log.push_back(std::to_string(got));
  }(condition, value, asked, ended));
  turn(2);
  for (value = 1; value < 4; ++value) {
    ASSERT_TRUE(lock->try_acquire());
    condition.notify();
    lock->release();
    turn(4);
  }
  run(waits);
  EXPECT_THAT(ended, ElementsAre("3"));
  EXPECT_EQ(asked, 4);
  auto without = [](Condition& c) -> Coroutine<bool> { co_return co_await c.wait_for([] { return false; }); };
  EXPECT_EQ(thrown_by([&] { run(without(condition)); }), "RuntimeError: cannot wait on un-acquired lock");
}

// B268, T12: cancelled while it waits, it has the lock all the same.
TEST_P(Conditions, ACancelledWaiterHasTheLock) {
  auto condition = make<Condition>();
  Task<> a = wait_in("a", *condition);
  turn(2);
  ASSERT_TRUE(run([](Condition& c) -> Coroutine<bool> { co_return co_await c.acquire(); }(*condition)));
  a.cancel();
  turn(3);
  EXPECT_THAT(ended, IsEmpty()) << "it waits for the lock";
  condition->release();
  turn(3);
  EXPECT_THAT(ended, ElementsAre("a!"));
  EXPECT_FALSE(condition->locked());
}

// B268, T12: cancelled when it has been notified, or while it waits for the lock, it notifies another.
TEST_P(Conditions, ANotificationIsPassedOn) {
  for (const bool late : {false, true}) {
    auto condition = make<Condition>();
    Task<> a = wait_in("a", *condition);
    wait_in("b", *condition);
    wait_in("c", *condition);
    turn(2);
    ASSERT_TRUE(run([](Condition& c) -> Coroutine<bool> { co_return co_await c.acquire(); }(*condition)));
    condition->notify();
    if (late) turn(2);
    a.cancel();
    turn(2);
    condition->release();
    turn(6);
    EXPECT_THAT(ended, ElementsAre("a!", "b"));
    locked(*condition, [&] { condition->notify_all(); });
    turn(4);
    ended.clear();
  }
}

// T12: it can be cancelled again while it waits for the lock, and the last of the errors is what it hears of.
TEST_P(Conditions, ManyCancellations) {
  auto condition = make<Condition>();
  std::string message;
  Task<> a = loop.create_task([](Condition& c, std::string& said) -> Coroutine<> {
    auto guard = co_await c.scoped();
    try {
      co_await c.wait();
    } catch (const CancelledError& error) {
      said = error.message();
      throw;
    }
  }(*condition, message));
  turn(2);
  ASSERT_TRUE(run([](Condition& c) -> Coroutine<bool> { co_return co_await c.acquire(); }(*condition)));
  for (const char* text : {"first", "second", "third"}) {
    a.cancel(text);
    turn(2);
  }
  EXPECT_FALSE(a.done());
  condition->release();
  turn(3);
  EXPECT_TRUE(a.cancelled());
  EXPECT_EQ(message, "third");
  EXPECT_FALSE(condition->locked());
}

// B263
TEST(ConditionsOfLoops, AreBoundToThem) {
  OURO_TEST_ALONE("in a group all is shared");
  std::unique_ptr<Condition> condition;
  test::TestLoop first;
  first.run_until_complete([](std::unique_ptr<Condition>& made) -> Coroutine<> {
    made = std::make_unique<Condition>();
    co_return;
  }(condition));
  test::TestLoop second;
  auto wait = [](Condition& c) -> Coroutine<> {
    auto guard = co_await c.scoped();
    co_await c.wait();
  };
  EXPECT_EQ(thrown_by([&] { second.run_until_complete(wait(*condition)); }),
            "RuntimeError: Condition is bound to a different event loop");
  EXPECT_FALSE(condition->locked());
}

// ---- Barrier ----

class Barriers : public Conditions {
 protected:
  Task<> wait_at(std::string name, Barrier& barrier) {
    return note(std::move(name), [this, &barrier] { return arrive(*this, barrier); });
  }
  static Coroutine<> arrive(Barriers& test, Barrier& barrier) {
    try {
      test.places.push_back(co_await barrier.wait());
    } catch (const BrokenBarrierError& error) {
      test.broken.emplace_back(error.what());
    }
  }
  void reset(Barrier& barrier) {
    run([](Barrier& b) -> Coroutine<> { co_await b.reset(); }(barrier));
  }
  void abort(Barrier& barrier) {
    run([](Barrier& b) -> Coroutine<> { co_await b.abort(); }(barrier));
  }

  std::vector<int> places;
  std::vector<std::string> broken;
};

// B276
TEST_P(Barriers, LetGoOfAllTogether) {
  EXPECT_EQ(thrown_by([] { Barrier barrier(0); }), "ValueError: parties must be >= 1");
  auto barrier = make<Barrier>(3);
  EXPECT_EQ(barrier->parties(), 3);
  for (int round = 0; round < 3; ++round) {
    wait_at("a", *barrier);
    wait_at("b", *barrier);
    turn(2);
    EXPECT_EQ(barrier->n_waiting(), 2);
    EXPECT_THAT(ended, IsEmpty());
    wait_at("c", *barrier);
    turn(3);
    EXPECT_THAT(ended, UnorderedElementsAre("a", "b", "c"));
    EXPECT_THAT(places, UnorderedElementsAre(0, 1, 2));
    EXPECT_EQ(barrier->n_waiting(), 0);
    ended.clear();
    places.clear();
  }
  auto alone = make<Barrier>(1);
  EXPECT_EQ(run(alone->wait()), 0);
}

// B277: those who come while others leave wait for the next round.
TEST_P(Barriers, WhoComesWhileItDrainsWaits) {
  auto barrier = make<Barrier>(2);
  wait_at("a", *barrier);
  turn();
  wait_at("b", *barrier);  // fills it
  wait_at("c", *barrier);  // comes while it drains
  wait_at("d", *barrier);
  turn();
  EXPECT_EQ(barrier->n_waiting(), 0);
  turn(4);
  EXPECT_THAT(ended, UnorderedElementsAre("a", "b", "c", "d"));
  EXPECT_THAT(places, UnorderedElementsAre(0, 1, 0, 1));
}

// B278
TEST_P(Barriers, ACancelledOneDoesNotCount) {
  auto barrier = make<Barrier>(3);
  Task<> a = wait_at("a", *barrier);
  wait_at("b", *barrier);
  turn(2);
  a.cancel();
  turn(2);
  EXPECT_EQ(barrier->n_waiting(), 1);
  wait_at("c", *barrier);
  turn(3);
  EXPECT_THAT(ended, ElementsAre("a!"));
  wait_at("d", *barrier);
  turn(4);
  EXPECT_EQ(ended.size(), 4U);
}

// B279
TEST_P(Barriers, ResetBreaksWhoWaits) {
  auto barrier = make<Barrier>(3);
  reset(*barrier);
  wait_at("a", *barrier);
  wait_at("b", *barrier);
  turn(2);
  reset(*barrier);
  EXPECT_EQ(barrier->n_waiting(), 0);
  EXPECT_FALSE(barrier->broken());
  turn(3);
  EXPECT_THAT(broken, ElementsAre("Abort or reset of barrier", "Abort or reset of barrier"));
  for (const char* name : {"c", "d", "e"}) wait_at(name, *barrier);
  turn(4);
  EXPECT_THAT(places, UnorderedElementsAre(0, 1, 2));
  EXPECT_EQ(broken.size(), 2U);
}

// B279: the last one to leave resets it, while those before it wait for the next round.
TEST_P(Barriers, ResetByTheLastToLeave) {
  auto barrier = make<Barrier>(3);
  int left = 0;
  int passed = 0;
  auto take_part = [&]() -> Coroutine<> {
    co_await barrier->wait();
    if (++left == 3) co_await barrier->reset();
    co_await barrier->wait();
    co_await barrier->wait();
    ++passed;
  };
  run([&]() -> Coroutine<> { co_await gather(take_part(), take_part(), take_part()); }());
  EXPECT_EQ(passed, 3);
}

// B280
TEST_P(Barriers, AbortBreaksThemUntilReset) {
  auto barrier = make<Barrier>(2);
  wait_at("a", *barrier);
  turn(2);
  abort(*barrier);
  EXPECT_TRUE(barrier->broken());
  turn(3);
  wait_at("b", *barrier);
  turn(2);
  EXPECT_THAT(broken, ElementsAre("Abort or reset of barrier", "Barrier aborted"));
  reset(*barrier);
  EXPECT_FALSE(barrier->broken());
  wait_at("c", *barrier);
  wait_at("d", *barrier);
  turn(4);
  EXPECT_THAT(places, UnorderedElementsAre(0, 1));
}

OURO_SYNC_TESTS(Conditions);
OURO_SYNC_TESTS(Barriers);

}  // namespace
}  // namespace ouro
