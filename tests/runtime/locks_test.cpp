// Lock, Event, Semaphore, BoundedSemaphore and RWLock on one loop, as asyncio's.
#include <ouro/runtime/locks.hpp>

#include <gmock/gmock.h>

#include <chrono>
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

static_assert(std::is_nothrow_move_constructible_v<Lock::Guard> && !std::is_copy_constructible_v<Lock::Guard>);
static_assert(std::is_move_constructible_v<decltype(std::declval<Lock&>().acquire())>);
static_assert(!std::is_copy_constructible_v<Lock> && !std::is_constructible_v<Lock, test::TestLoop&>);  // B262

class Locks : public test::SyncTest {};

// B257, B258
TEST_P(Locks, AreTakenInTurn) {
  auto lock = make<Lock>();
  EXPECT_FALSE(lock->locked());
  EXPECT_EQ(thrown_by([&] { lock->release(); }), "RuntimeError: Lock is not acquired.");
  EXPECT_TRUE(run([](Lock& l) -> Coroutine<bool> { co_return co_await l.acquire(); }(*lock)));
  EXPECT_TRUE(lock->locked());
  EXPECT_FALSE(lock->try_acquire());
  for (const char* name : {"a", "b", "c"}) note(name, [&] { return lock->acquire(); });
  turn(3);
  EXPECT_THAT(ended, IsEmpty());
  lock->release();
  EXPECT_FALSE(lock->locked()) << "the next one has not run yet";
  EXPECT_FALSE(lock->try_acquire()) << "but it is promised";
  EXPECT_EQ(thrown_by([&] { lock->release(); }), "RuntimeError: Lock is not acquired.");
  turn();
  EXPECT_THAT(ended, ElementsAre("a"));
  EXPECT_TRUE(lock->locked());
  lock->release();
  turn();
  lock->release();
  turn(2);
  EXPECT_THAT(ended, ElementsAre("a", "b", "c"));
  EXPECT_TRUE(lock->locked());
  lock->release();
  EXPECT_FALSE(lock->locked());
  EXPECT_TRUE(lock->try_acquire());
}

// B259
TEST_P(Locks, ACancelledWaiterDoesNotTakeIt) {
  auto lock = make<Lock>();
  ASSERT_TRUE(lock->try_acquire());
  Task<> a = note("a", [&] { return lock->acquire(); });
  note("b", [&] { return lock->acquire(); });
  turn();
  EXPECT_TRUE(a.cancel());
  turn();
  EXPECT_TRUE(a.cancelled());
  lock->release();
  turn(2);
  EXPECT_THAT(ended, ElementsAre("a!", "b"));
  EXPECT_TRUE(lock->locked());
}

// B260, and T11: it was woken, and is cancelled before it runs.
TEST_P(Locks, AWokenWaiterThatIsCancelledPassesItOn) {
  auto lock = make<Lock>();
  ASSERT_TRUE(lock->try_acquire());
  Task<> a = note("a", [&] { return lock->acquire(); });
  note("b", [&] { return lock->acquire(); });
  turn();
  lock->release();
  EXPECT_TRUE(a.cancel());
  turn(2);
  EXPECT_THAT(ended, ElementsAre("a!", "b"));
  EXPECT_TRUE(lock->locked());
  // With nobody behind it: free.
  Task<> c = note("c", [&] { return lock->acquire(); });
  turn();
  lock->release();
  c.cancel();
  turn(2);
  EXPECT_FALSE(lock->locked());
  EXPECT_TRUE(lock->try_acquire());
}

// B261, T11: cancelled and released in one turn, in either order, exactly one more task has it.
TEST_P(Locks, CancelAndReleaseInOneTurn) {
  for (const bool cancel_first : {false, true}) {
    auto lock = make<Lock>();
    ASSERT_TRUE(lock->try_acquire());
    Task<> a = note("a", [&] { return lock->acquire(); });
    note("b", [&] { return lock->acquire(); });
    note("c", [&] { return lock->acquire(); });
    turn();
    if (cancel_first) a.cancel();
    lock->release();
    if (!cancel_first) a.cancel();
    turn(4);
    EXPECT_EQ(ended.size(), 2U);
    EXPECT_EQ(ended.back(), "b");
    EXPECT_TRUE(lock->locked());
    lock->release();
    turn();
    lock->release();
    ended.clear();
  }
}

// A cancellation that is called off before it is delivered: the lock is held.
TEST_P(Locks, ACancellationThatIsCalledOff) {
  auto lock = make<Lock>();
  ASSERT_TRUE(lock->try_acquire());
  Task<> a = note("a", [&] { return lock->acquire(); });
  turn();
  lock->release();
  a.cancel();
  EXPECT_EQ(a.uncancel(), 0);
  turn();
  EXPECT_THAT(ended, ElementsAre("a"));
  EXPECT_TRUE(lock->locked());
}

// B262
TEST_P(Locks, GuardsReleaseThem) {
  auto lock = make<Lock>();
  std::string order;
  auto hold = [&](char name) -> Coroutine<> {
    auto guard = co_await lock->scoped();
    order += name;
    Lock::Guard moved = std::move(guard);
    co_await sleep(0s);
    EXPECT_TRUE(lock->locked());
    if (name == 'b') moved.release();
  };
  auto throws = [&]() -> Coroutine<> {
    auto guard = co_await lock->scoped();
    throw 7;
  };
  run([&]() -> Coroutine<> { co_await gather(hold('a'), hold('b'), hold('c')); }());
  EXPECT_EQ(order, "abc");
  EXPECT_FALSE(lock->locked());
  EXPECT_EQ(thrown_by([&] { run(throws()); }), "another exception");
  EXPECT_FALSE(lock->locked());
  Lock::Guard none;
  EXPECT_FALSE(none);
  none.release();
}

// B263, T15
TEST(LocksOfLoops, AreBoundToThem) {
  OURO_TEST_ALONE("in a group all is shared");
  std::unique_ptr<Lock> lock;
  Lock everywhere;
  std::vector<std::string> texts;
  {
    test::TestLoop first;
    first.run_until_complete([](std::unique_ptr<Lock>& made) -> Coroutine<> {
      made = std::make_unique<Lock>();
      co_await made->acquire();
    }(lock));
    ASSERT_TRUE(everywhere.try_acquire());
    test::TestLoop second;
    auto wait = [](Lock& l) -> Coroutine<> { co_await l.acquire(); };
    texts.push_back(thrown_by([&] { second.run_until_complete(wait(*lock)); }));
    Task<> waits = second.create_task(wait(everywhere));
    Task<> too = first.create_task(wait(everywhere));
    second.stop();
    second.run_forever();
    first.stop();
    first.run_forever();
    everywhere.release();  // here, where neither loop runs
    second.run_until_complete(waits);
    everywhere.release();
    first.run_until_complete(too);
    EXPECT_TRUE(everywhere.locked());
  }
  EXPECT_THAT(texts, ElementsAre("RuntimeError: Lock is bound to a different event loop"));
}

// ---- Event ----

// B264
TEST_P(Locks, EventsWakeAllInTurn) {
  auto event = make<Event>();
  EXPECT_FALSE(event->is_set());
  for (const char* name : {"a", "b", "c"}) note(name, [&] { return event->wait(); });
  turn();
  event->set();
  event->clear();  // they have waited for long enough
  turn();
  EXPECT_THAT(ended, ElementsAre("a", "b", "c"));
  EXPECT_FALSE(event->is_set());
  note("d", [&] { return event->wait(); });
  turn(2);
  EXPECT_EQ(ended.size(), 3U);
  event->set();
  event->set();
  turn();
  EXPECT_EQ(ended.back(), "d");
  EXPECT_TRUE(run([](Event& e) -> Coroutine<bool> { co_return co_await e.wait(); }(*event)));
}

// B265
TEST_P(Locks, AnEventsWaiterThatIsCancelledIsTheOnlyOne) {
  auto event = make<Event>();
  Task<> a = note("a", [&] { return event->wait(); });
  note("b", [&] { return event->wait(); });
  Task<> c = note("c", [&] { return event->wait(); });
  turn();
  a.cancel();
  turn();
  event->set();
  c.cancel();
  turn();
  EXPECT_THAT(ended, ElementsAre("a!", "b", "c!"));
}

// On one loop an event may go before those that it woke have run.
TEST_P(Locks, AnEventGoesEarly) {
  auto event = make<Event>();
  Task<> a = note("a", [&] { return event->wait(); });
  Task<> b = note("b", [&] { return event->wait(); });
  turn();
  event->set();
  event.reset();
  b.cancel();
  turn();
  EXPECT_THAT(ended, ElementsAre("a", "b!"));
}

// ---- Semaphore ----

// B272, B275
TEST_P(Locks, SemaphoresCount) {
  EXPECT_EQ(thrown_by([] { Semaphore semaphore(-1); }), "ValueError: Semaphore initial value must be >= 0");
  EXPECT_TRUE(make<Semaphore>(0)->locked());
  auto semaphore = make<Semaphore>(2);
  EXPECT_TRUE(semaphore->try_acquire());
  EXPECT_FALSE(semaphore->locked());
  EXPECT_TRUE(semaphore->try_acquire());
  EXPECT_TRUE(semaphore->locked());
  EXPECT_FALSE(semaphore->try_acquire());
  for (int i = 0; i < 3; ++i) semaphore->release();
  EXPECT_FALSE(semaphore->locked());
  auto bounded = make<BoundedSemaphore>(1);
  EXPECT_EQ(thrown_by([&] { bounded->release(); }), "ValueError: BoundedSemaphore released too many times");
  EXPECT_TRUE(bounded->try_acquire());
  bounded->release();
  EXPECT_EQ(thrown_by([&] { bounded->release(); }), "ValueError: BoundedSemaphore released too many times");
}

// B273, T13: who comes late does not overtake those that were woken, though there is a permit.
TEST_P(Locks, NobodyBargesIntoASemaphore) {
  auto semaphore = make<Semaphore>(0);
  note("a", [&] { return semaphore->acquire(); });
  note("b", [&] { return semaphore->acquire(); });
  turn();
  for (int i = 0; i < 3; ++i) semaphore->release();
  EXPECT_TRUE(semaphore->locked()) << "others run first";
  EXPECT_FALSE(semaphore->try_acquire());
  note("c", [&] { return semaphore->acquire(); });
  note("d", [&] { return semaphore->acquire(); });
  turn(3);
  EXPECT_THAT(ended, ElementsAre("a", "b", "c"));
  semaphore->release();
  turn();
  EXPECT_EQ(ended.back(), "d");
  EXPECT_TRUE(semaphore->locked());
  semaphore->release();
  EXPECT_FALSE(semaphore->locked());
}

// B274, T13
TEST_P(Locks, ACancelledWaiterGivesItsPermitBack) {
  auto semaphore = make<Semaphore>(1);
  ASSERT_TRUE(semaphore->try_acquire());
  Task<> a = note("a", [&] { return semaphore->acquire(); });
  Task<> b = note("b", [&] { return semaphore->acquire(); });
  note("c", [&] { return semaphore->acquire(); });
  turn();
  a.cancel();  // before it is woken
  semaphore->release();
  b.cancel();  // afterwards
  turn(2);
  EXPECT_THAT(ended, ElementsAre("a!", "b!", "c"));
  semaphore->release();
  EXPECT_FALSE(semaphore->locked());
  // All of several that were woken, and one that came meanwhile.
  auto many = make<Semaphore>(0);
  std::vector<Task<>> tasks;
  for (const char* name : {"d", "e", "f"}) tasks.push_back(note(name, [&] { return many->acquire(); }));
  turn();
  for (int i = 0; i < 2; ++i) many->release();
  tasks[0].cancel();
  tasks[1].cancel();
  turn(3);
  EXPECT_EQ(ended.back(), "f");
  EXPECT_FALSE(many->locked());
  EXPECT_TRUE(many->try_acquire());
}

TEST_P(Locks, SemaphoresLetSoManyIn) {
  auto semaphore = make<Semaphore>(2);
  int inside = 0;
  int most = 0;
  auto enter = [&]() -> Coroutine<> {
    auto guard = co_await semaphore->scoped();
    most = std::max(most, ++inside);
    co_await sleep(0s);
    --inside;
  };
  std::vector<Coroutine<>> many;
  for (int i = 0; i < 10; ++i) many.push_back(enter());
  run([](std::vector<Coroutine<>> all) -> Coroutine<> { co_await gather(std::move(all)); }(std::move(many)));
  EXPECT_EQ(most, 2);
  EXPECT_FALSE(semaphore->locked());
}

// ---- RWLock ----

TEST_P(Locks, ReadersShareAndWritersDoNot) {
  auto lock = make<RWLock>();
  EXPECT_EQ(thrown_by([&] { lock->release_read(); }), "RuntimeError: RWLock is not acquired for reading.");
  EXPECT_EQ(thrown_by([&] { lock->release_write(); }), "RuntimeError: RWLock is not acquired for writing.");
  EXPECT_TRUE(lock->try_acquire_read());
  EXPECT_TRUE(lock->try_acquire_read());
  EXPECT_FALSE(lock->try_acquire_write());
  note("w1", [&] { return lock->acquire_write(); });
  note("r1", [&] { return lock->acquire_read(); });
  note("r2", [&] { return lock->acquire_read(); });
  note("w2", [&] { return lock->acquire_write(); });
  note("r3", [&] { return lock->acquire_read(); });
  turn(2);
  EXPECT_FALSE(lock->try_acquire_read()) << "the writer waits";
  lock->release_read();
  turn(2);
  EXPECT_THAT(ended, IsEmpty());
  lock->release_read();
  turn();
  EXPECT_THAT(ended, ElementsAre("w1"));
  lock->release_write();
  turn();
  EXPECT_THAT(ended, ElementsAre("w1", "r1", "r2"));
  lock->release_read();
  lock->release_read();
  turn();
  EXPECT_EQ(ended.back(), "w2");
  lock->release_write();
  turn();
  EXPECT_EQ(ended.back(), "r3");
  lock->release_read();
  EXPECT_FALSE(lock->locked());
  run([&]() -> Coroutine<> {
    {
      auto reading = co_await lock->scoped_read();
      EXPECT_TRUE(lock->try_acquire_read());
      lock->release_read();
    }
    auto writing = co_await lock->scoped_write();
    EXPECT_FALSE(lock->try_acquire_read());
  }());
  EXPECT_FALSE(lock->locked());
}

TEST_P(Locks, AWriterThatIsCancelledLetsTheReadersPass) {
  auto lock = make<RWLock>();
  ASSERT_TRUE(lock->try_acquire_read());
  Task<> writer = note("w", [&] { return lock->acquire_write(); });
  note("r", [&] { return lock->acquire_read(); });
  turn();
  writer.cancel();
  turn(2);
  EXPECT_THAT(ended, testing::UnorderedElementsAre("w!", "r"));
  // One that has been woken.
  Task<> second = note("w2", [&] { return lock->acquire_write(); });
  note("r2", [&] { return lock->acquire_read(); });
  turn();
  lock->release_read();
  lock->release_read();
  second.cancel();
  turn(2);
  EXPECT_EQ(ended.back(), "r2");
  lock->release_read();
  EXPECT_FALSE(lock->locked());
}

// ---- Ends ----

// A loop that is closed destroys tasks and what they wait for in any order.
TEST_P(Locks, CloseWithWaiters) {
  auto lock = make<Lock>();
  auto semaphore = make<Semaphore>(0);
  auto event = make<Event>();
  ASSERT_TRUE(lock->try_acquire());
  std::vector<Task<>> tasks;
  for (int i = 0; i < 3; ++i) {
    tasks.push_back(note("l", [&] { return lock->acquire(); }));
    tasks.push_back(note("s", [&] { return semaphore->acquire(); }));
    tasks.push_back(note("e", [&] { return event->wait(); }));
  }
  // Both of these hold what others wait for, and the older one waits for what the newer one has.
  std::unique_ptr<Lock>* theirs = nullptr;
  tasks.push_back(loop.create_task([](std::unique_ptr<Lock>*& shown) -> Coroutine<> {
    co_await sleep(0s);
    co_await (*shown)->acquire();
  }(theirs)));
  tasks.push_back(loop.create_task([](std::unique_ptr<Lock>*& shown) -> Coroutine<> {
    auto own = std::make_unique<Lock>();
    co_await own->acquire();
    shown = &own;
    co_await sleep(1h);
  }(theirs)));
  turn(3);
  lock->release();
  semaphore->release();
  destroy_loop();
  EXPECT_FALSE(lock->locked());
  EXPECT_EQ(take_reports().size(), 1U);
  for (Task<>& task : tasks) EXPECT_TRUE(task.cancelled());
}

TEST_P(Locks, OneThatGoesLeavesItsWaitersCancellable) {
  auto lock = make<Lock>();
  ASSERT_TRUE(lock->try_acquire());
  Task<> a = note("a", [&] { return lock->acquire(); });
  turn();
  lock.reset();
  turn();
  EXPECT_TRUE(a.cancel());
  turn();
  EXPECT_THAT(ended, ElementsAre("a!"));
}

OURO_SYNC_TESTS(Locks);

}  // namespace
}  // namespace ouro
