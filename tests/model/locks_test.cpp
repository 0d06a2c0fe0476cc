// Locks between workers: what is waited for in the lists of detail/wait_list.hpp, while others release it and cancel
// the waits. Two that hold a lock at once are a data race; a turn or a permit that is lost leaves a task that does not
// end, or an object that is not as it was.
#include <thread>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include <model/group.hpp>
#include <model/mutants.hpp>
#include <ouro/runtime/locks.hpp>
#include <ouro/runtime/queues.hpp>
#include <ouro/runtime/tasks.hpp>

namespace {

using ouro::Coroutine;
using ouro::Event;
using ouro::Lock;
using ouro::Queue;
using ouro::Semaphore;
using ouro::Task;
using ouro::model::check;
using ouro::model::Excuse;
using ouro::model::Group;
using ouro::model::Model;
using ouro::model::Mutant;
using ouro::model::Mutate;
using ouro::model::Options;

Coroutine<> hold(Lock& lock, int& inside) {
  auto guard = co_await lock.scoped();
  ++inside;
}

// Two tasks on two workers, one after the other.
void lock_for_two() {
  Group group(2);
  Lock lock;
  int inside = 0;
  std::thread other = group.thread(1, [&] { ouro::spawn(hold(lock, inside)); });
  group.as(0, [&] {
    ouro::spawn(hold(lock, inside));
    group.run(0);
  });
  other.join();
  group.settle();
  check(inside == 2 && !lock.locked(), "both had it");
}

// One that waits is cancelled while the lock is released; another one waits behind it.
void lock_cancelled(bool pinned) {
  Group group(2);
  Lock lock;
  int first = 0;
  int second = 0;
  check(lock.try_acquire(), "it is free");
  Task<> task;
  group.as(0, [&] {
    task = pinned ? group.pin(0, hold(lock, first)) : ouro::spawn(hold(lock, first));
    ouro::spawn(hold(lock, second));
    group.run(0);
  });
  std::thread other = group.thread(1, [&] { lock.release(); });
  bool accepted = false;
  group.as(0, [&] {
    accepted = task.cancel();
    group.run(0);
  });
  other.join();
  group.settle();
  check(first == 1 || (accepted && task.cancelled()), "it has it, or hears of the cancellation");
  check(second == 1 && lock.try_acquire(), "its turn is passed on");
}

Coroutine<> enter(Semaphore& semaphore, int& done) {
  co_await semaphore.acquire();
  ++done;
}

// Two that wait, a permit from each side, and one that is cancelled.
void semaphore() {
  Group group(2);
  Semaphore semaphore(0);
  int first = 0;
  int second = 0;
  Task<> task;
  group.as(0, [&] {
    task = ouro::spawn(enter(semaphore, first));
    ouro::spawn(enter(semaphore, second));
    group.run(0);
  });
  std::thread other = group.thread(1, [&] { semaphore.release(); });
  group.as(0, [&] {
    task.cancel();
    semaphore.release();
    group.run(0);
  });
  other.join();
  group.settle();
  check(second == 1, "it got one");
  check(first == 1 || semaphore.try_acquire(), "and the other is not lost");
  check(semaphore.locked(), "there are no more");
}

Coroutine<> pass(Event& event, int& seen, const int& said) {
  co_await event.wait();
  seen = said;
}

// One waits, or comes too late for that, while the other says something and sets it.
void event() {
  Group group(2);
  Event event;
  int said = 0;
  int seen = 0;
  std::thread other = group.thread(1, [&] { ouro::spawn(pass(event, seen, said)); });
  group.as(0, [&] {
    said = 7;
    event.set();
    group.run(0);
  });
  other.join();
  group.settle();
  check(seen == 7, "it sees what was said");
}

Coroutine<> get(Queue<int>& queue, int& sum) { sum += co_await queue.get(); }

// An item for two, of which one is cancelled.
void queue() {
  Group group(2);
  Queue<int> queue;
  int first = 0;
  int second = 0;
  Task<> task;
  group.as(0, [&] {
    task = ouro::spawn(get(queue, first));
    ouro::spawn(get(queue, second));
    group.run(0);
  });
  std::thread other = group.thread(1, [&] { queue.put_nowait(1); });
  group.as(0, [&] {
    task.cancel();
    group.run(0);
    if (first == 1) queue.put_nowait(1);
  });
  other.join();
  group.settle();
  if (second == 0) group.as(0, [&] { queue.put_nowait(1); });
  group.settle();
  check(second == 1, "it is not lost");
  check(first + second == 1 || !task.cancelled(), "nor doubled");
}

Options bound(unsigned preemptions, unsigned stale = 1000) {
  Options options;
  options.preemptions = preemptions;
  options.stale = stale;
  return options;
}

const std::vector<Model> models{
    {"a lock for two", &lock_for_two, bound(2, 1)},
    {"a lock, cancelled", [] { lock_cancelled(false); }, bound(1, 1)},
    {"a lock, cancelled, pinned", [] { lock_cancelled(true); }, bound(2, 1)},
    {"a semaphore", &semaphore, bound(2, 0)},
    {"an event", &event, bound(2, 1)},
    {"a queue", &queue, bound(2, 1)},
};

const std::vector<Mutant> mutants{
    {"the lock is not taken", {Mutate::drop, "SpinLock::lock", "exchange"}},
    {"the lock is taken in two steps", {Mutate::tear, "SpinLock::lock", "exchange"}},
    {"the lock is not let go of", {Mutate::drop, "SpinLock::unlock", "store"}},
    {"it is not said how far a waiter is", {Mutate::drop, "set_stage", "store"}},
    {"an event is not set", {Mutate::drop, "set_and_wake", "store"}},
};

const char* const by_lock =
    "who waits takes the lock besides; it is for a program that asks is_set() and does not wait";
const std::vector<Excuse> excuses{
    {"set_and_wake", "store", 0, Mutate::weaken, std::memory_order_relaxed, by_lock},
    {"is_set", "load", 0, Mutate::weaken, std::memory_order_relaxed, by_lock},
};

TEST(LocksModel, Correct) { ouro::model::expect_correct(models); }
TEST(LocksModel, Mutants) {
  // One preemption finds them all.
  std::vector<Model> quick = models;
  for (Model& model : quick) model.options.preemptions = 1;
  ouro::model::expect_killed(quick, mutants, excuses,
                             {"wait_list.hpp", "wait_list.cpp", "locks.hpp", "locks.cpp", "spin_lock.hpp"});
}

}  // namespace
