// Records that several workers share: a future that one completes, a task that waits for it on another, a third that
// cancels either, handles that go meanwhile. The workers have no loops (model/group.hpp); the records, their locks, the
// waking and the end of frames are the library's own. A record that goes too early, twice or never is seen as memory
// used after its end, freed twice, left behind, or by the group's counts; a result that is not whole as a data race.
#include <array>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include <model/group.hpp>
#include <model/mutants.hpp>
#include <ouro/runtime/detail/context_state.hpp>
#include <ouro/runtime/futures.hpp>
#include <ouro/runtime/tasks.hpp>

namespace {

using ouro::Coroutine;
using ouro::Future;
using ouro::Task;
using ouro::model::check;
using ouro::model::Excuse;
using ouro::model::Group;
using ouro::model::Model;
using ouro::model::Mutant;
using ouro::model::Mutate;
using ouro::model::Options;

constexpr auto relaxed = std::memory_order_relaxed;

// What became of one wait. Its memory is plain: two that resume at once are a data race.
struct Fate {
  int values = 0;
  int cancels = 0;
  int ends() const { return values + cancels; }
};

Coroutine<> wait_for(Future<int> future, Fate& fate) {
  bool cancelled = false;
  try {
    const int value = co_await future;
    check(value == 7, "the result is whole");
    ++fate.values;
  } catch (const ouro::CancelledError&) {
    cancelled = true;
  }
  if (cancelled) {
    ++fate.cancels;
    throw ouro::CancelledError();
  }
}

bool set(Future<int>& future) {
  try {
    future.set_result(7);
    return true;
  } catch (const ouro::InvalidStateError&) {
    return false;
  }
}

// ---- Completion ----

// A task begins to wait while another worker completes what it waits for. `keep`: its handle lives as long.
void completed(bool keep) {
  Group group(2);
  Fate fate;
  Task<> task;
  Future<int> future = group.make_future<int>(0);
  std::thread other = group.thread(1, [future]() mutable {
    check(set(future), "it was pending");
    future = Future<int>();
  });
  group.as(0, [&] {
    task = ouro::spawn(wait_for(std::move(future), fate));
    if (!keep) task = Task<>();
    group.run(0);
  });
  other.join();
  if (keep) check(task.done() && !task.cancelled(), "the waiter is done");
  check(fate.values == 1 && fate.ends() == 1, "the waiter has resumed, once");
}

// Two wait for it, on two workers; one of them completes it before it waits.
void completed_for_two() {
  Group group(2);
  std::array<Fate, 2> fates;
  Future<int> future = group.make_future<int>(0);
  std::thread other = group.thread(1, [&group, &fates, future]() mutable {
    ouro::spawn(wait_for(future, fates[1]));
    group.run(1);
  });
  group.as(0, [&] {
    ouro::spawn(wait_for(future, fates[0]));
    group.run(0);
    check(set(future), "it was pending");
    group.run(0);
  });
  other.join();
  for (const Fate& fate : fates) check(fate.values == 1 && fate.ends() == 1, "the waiter has resumed, once");
}

// Two complete it.
void completed_by_two() {
  Group group(2);
  Future<int> future = group.make_future<int>(0);
  bool here = false;
  bool there = false;
  std::thread other = group.thread(1, [future, &there]() mutable { there = set(future); });
  group.as(0, [&] { here = set(future); });
  if (future.done()) check(future.result() == 7, "the result is whole");
  other.join();
  check(here != there, "one has completed it");
  check(future.result() == 7, "the result is whole");
}

// A task pinned to one worker waits for what another completes.
void completed_for_pinned() {
  Group group(2);
  Fate fate;
  Future<int> future = group.make_future<int>(0);
  std::thread other = group.thread(1, [future]() mutable { check(set(future), "it was pending"); });
  group.as(0, [&] {
    group.pin(0, wait_for(std::move(future), fate));
    group.run(0);
  });
  other.join();
  group.settle();
  check(fate.values == 1 && fate.ends() == 1, "the waiter has resumed, once");
}

// ---- Tasks ----

Coroutine<std::unique_ptr<int>> give() { co_return std::make_unique<int>(7); }

Coroutine<> take_from(Task<std::unique_ptr<int>> task, Fate& fate) {
  const std::unique_ptr<int> value = co_await std::move(task);
  check(value && *value == 7, "the result is whole");
  ++fate.values;
}

// A task ends while another one, which has the last handle, begins to wait for it, and takes the result out.
void task_ends() {
  Group group(2);
  Fate fate;
  Task<std::unique_ptr<int>> task;
  group.as(0, [&] { task = ouro::spawn(give()); });
  std::thread other = group.thread(1, [&group, &fate, task = std::move(task)]() mutable {
    ouro::spawn(take_from(std::move(task), fate));
    group.run(1);
  });
  group.as(0, [&] { group.run(0); });
  other.join();
  check(fate.values == 1, "the waiter has resumed, once");
}

// A task ends while its last handle goes, after a look.
void handle_goes(bool named) {
  Group group(2);
  Task<std::unique_ptr<int>> task;
  group.as(0, [&] { task = ouro::spawn(give()); });
  std::thread other = group.thread(1, [named, task = std::move(task)]() mutable {
    if (named) task.set_name("it");
    if (task.done()) check(*task.result() == 7, "the result is whole");
    task = Task<std::unique_ptr<int>>();
  });
  group.as(0, [&] { group.run(0); });
  other.join();
}

// A task that nobody holds ends while another worker asks for all tasks.
void all_tasks() {
  Group group(2);
  Fate fate;
  Future<int> future = group.make_future<int>(0);
  group.as(0, [&] {
    ouro::spawn(wait_for(future, fate));
    group.run(0);
  });
  std::thread other = group.thread(1, [&group] {
    for (const auto& task : ouro::detail::all_shared_tasks(*group.get())) static_cast<void>(task.get()->done());
  });
  group.as(0, [&] {
    check(set(future), "it was pending");
    group.run(0);
  });
  other.join();
  check(fate.values == 1 && fate.ends() == 1, "the waiter has resumed, once");
}

// ---- Cancellation ----

// What the two sides of a cancellation say.
struct Cancel {
  ouro::detail::Atomic<bool> over{false};
  bool accepted = false;
  bool was_over = false;  // before the future was completed
  bool set = false;

  template <class F>
  void ask(F&& future) {
    accepted = future.cancel();
    over.store(true, std::memory_order_release);
  }
  void complete(Future<int>& future) {
    was_over = over.load(std::memory_order_acquire);
    set = ::set(future);
  }
  void check_task(const Task<>& task, const Future<int>& future, const Fate& fate) const {
    check(task.done(), "the task has ended");
    check(future.done(), "the future is done");
    check(set != future.cancelled(), "it was completed or cancelled");
    check(fate.ends() <= 1, "the waiter has resumed once");
    check(fate.ends() == 1 || task.cancelled(), "the waiter has resumed, unless it never ran");
    check(accepted || (fate.values == 1 && !task.cancelled()), "a cancellation that is refused comes too late");
    check(!accepted || !was_over || task.cancelled(), "a cancellation that is accepted is delivered");
  }
};

// A task that is about to wait, or waits, is cancelled, and nobody completes what it waits for.
void cancelled_alone(bool pinned) {
  Group group(2);
  Fate fate;
  Future<int> future = group.make_future<int>(0);
  Task<> task;
  group.as(0, [&] { task = pinned ? group.pin(0, wait_for(future, fate)) : ouro::spawn(wait_for(future, fate)); });
  bool accepted = false;
  std::thread other = group.thread(1, [&accepted, task]() mutable {
    accepted = task.cancel();
    task = Task<>();
  });
  group.as(0, [&] { group.run(0); });
  other.join();
  group.settle();
  check(accepted, "it was not done");
  check(task.done() && task.cancelled() && fate.values == 0, "it has heard of it");
}

// The same, with one that completes the future. `suspended`: the task waits already.
void cancelled(bool suspended, bool pinned) {
  Group group(3);
  Fate fate;
  Cancel cancel;
  Future<int> future = group.make_future<int>(0);
  Task<> task;
  group.as(0, [&] {
    task = pinned ? group.pin(0, wait_for(future, fate)) : ouro::spawn(wait_for(future, fate));
    if (suspended) group.run(0);
  });
  std::thread completer = group.thread(1, [&cancel, future]() mutable { cancel.complete(future); });
  std::thread canceller;
  if (!suspended) canceller = group.thread(2, [&cancel, task]() mutable { cancel.ask(task); });
  group.as(0, [&] {
    if (suspended) cancel.ask(task);
    group.run(0);
  });
  completer.join();
  if (!suspended) canceller.join();
  group.settle();
  cancel.check_task(task, future, fate);
}

// The future itself is cancelled while it is completed, and a task begins to wait for it.
void future_cancelled() {
  Group group(2);
  Fate fate;
  Cancel cancel;
  Future<int> future = group.make_future<int>(0);
  Task<> task;
  group.as(0, [&] {
    task = ouro::spawn(wait_for(future, fate));
    group.run(0);
  });
  std::thread completer = group.thread(1, [&cancel, future]() mutable { cancel.complete(future); });
  group.as(0, [&] {
    cancel.ask(future);
    group.run(0);
  });
  completer.join();
  group.settle();
  check(cancel.accepted != cancel.set, "it was completed or cancelled");
  cancel.accepted = true;
  cancel.check_task(task, future, fate);
  check(cancel.set == (fate.values == 1), "the waiter hears of what happened");
}

Options bound(unsigned preemptions, unsigned stale = 1000) {
  Options options;
  options.preemptions = preemptions;
  options.stale = stale;
  return options;
}

// A task that goes on waiting is cancelled while what it waits for is completed: whichever comes first, it hears of it.
Coroutine<> wait_on(Future<int> first, Future<int> second, Fate& fate) {
  check(co_await first == 7, "the result is whole");
  ++fate.values;
  co_await second;
}

// `there`: who cancels completes it as well.
void cancelled_in_between(bool pinned, bool there) {
  Group group(2);
  Fate fate;
  Future<int> first = group.make_future<int>(0);
  const Future<int> second = group.make_future<int>(0);
  Task<> task;
  group.as(0, [&] {
    task = pinned ? group.pin(0, wait_on(first, second, fate)) : ouro::spawn(wait_on(first, second, fate));
    group.run(0);
  });
  std::thread canceller = group.thread(1, [task, first, there]() mutable {
    check(task.cancel(), "it was not done");
    if (!there) return;
    std::this_thread::yield();
    static_cast<void>(set(first));
  });
  group.as(0, [&] {
    if (there) {
      std::this_thread::yield();
    } else {
      static_cast<void>(set(first));
    }
    group.run(0);
  });
  canceller.join();
  group.settle();
  check(task.done() && task.cancelled(), "it has heard of it");
}

// A value that cannot be made: who completes the future with it gives it back, though it may have been cancelled.
struct Unmakable {
  explicit Unmakable(int) { throw 7; }
};

Coroutine<> wait_in_vain(Future<Unmakable> future) { co_await future; }

void given_back() {
  Group group(2);
  Future<Unmakable> future = group.make_future<Unmakable>(0);
  Task<> task;
  group.as(0, [&] {
    task = ouro::spawn(wait_in_vain(future));
    group.run(0);
  });
  std::thread completer = group.thread(1, [future]() mutable {
    try {
      future.set_result(7);
    } catch (int) {
    } catch (const ouro::InvalidStateError&) {
    }
  });
  std::this_thread::yield();  // at no preemption's cost
  group.as(0, [&] {
    check(task.cancel(), "it was not done");
    group.run(0);
  });
  completer.join();
  check(task.done() && task.cancelled() && future.cancelled(), "both have heard of it");
}

// ---- Counts ----

Coroutine<> leave_a_mark(int& mark) {
  mark = 7;
  co_return;
}

// Who finds no unfinished task sees what the tasks have done. `elsewhere`: it ends on a thread that is no worker.
void none_is_unfinished(bool elsewhere) {
  Group group(2);
  int mark = 0;
  Task<> task;
  group.as(0, [&] { task = ouro::spawn(leave_a_mark(mark)); });
  std::thread other([&group, elsewhere] {
    if (elsewhere) {
      ouro::detail::ReadyNode* const entry = group.take_entry(0);
      ouro::detail::drive_inline(static_cast<ouro::detail::FutureState*>(entry)->frame());
    } else {
      group.as(0, [&] { group.run(0); });
    }
  });
  if (ouro::detail::unfinished(*group.get()) == 0) check(mark == 7, "the task's work is seen");
  other.join();
}

// A task gets its belongings while a child on another worker looks there for a context.
void named_while_looked_at() {
  Group group(2);
  Fate fate;
  Task<> task;
  Future<int> future = group.make_future<int>(0);
  group.as(0, [&] { task = ouro::spawn(wait_for(future, fate)); });
  std::thread other =
      group.thread(1, [&task] { check(ouro::detail::context_word(task.handle().state()) == 0, "it has no context"); });
  group.as(0, [&] {
    task.set_name("with a name");
    check(set(future), "it was pending");
    group.run(0);
  });
  other.join();
  check(fate.values == 1, "the waiter has resumed");
}

const std::vector<Model> models{
    {"completed", [] { completed(false); }, bound(2, 1)},
    {"completed, with a handle kept", [] { completed(true); }, bound(2, 1)},
    {"completed for two", &completed_for_two, bound(1, 0)},
    {"completed by two", &completed_by_two, bound(2, 1)},
    {"completed for a pinned task", &completed_for_pinned, bound(2, 1)},
    {"a task ends", &task_ends, bound(1, 1)},
    {"a task ends", &task_ends, bound(2, 0)},
    {"a handle goes", [] { handle_goes(false); }, bound(2, 1)},
    {"a handle goes, of a task with a name", [] { handle_goes(true); }, bound(2, 1)},
    {"all tasks", &all_tasks, bound(1, 1)},
    {"cancelled alone", [] { cancelled_alone(false); }, bound(1, 0)},
    {"cancelled alone, pinned", [] { cancelled_alone(true); }, bound(1, 0)},
    {"cancelled, and completed", [] { cancelled(true, false); }, bound(1, 0)},
    {"cancelled, and completed, pinned", [] { cancelled(true, true); }, bound(1, 0)},
    {"cancelled, completed, and begun", [] { cancelled(false, false); }, bound(1, 0)},
    {"cancelled, completed, and begun, pinned", [] { cancelled(false, true); }, bound(1, 0)},
    {"cancelled in between", [] { cancelled_in_between(false, false); }, bound(1, 1)},
    {"cancelled in between, pinned", [] { cancelled_in_between(true, false); }, bound(2, 0)},
    {"cancelled in between, pinned, from there", [] { cancelled_in_between(true, true); }, bound(2, 0)},
    {"given back", &given_back, bound(1, 0)},
    {"none is unfinished", [] { none_is_unfinished(false); }, bound(1, 0)},
    {"none is unfinished, elsewhere", [] { none_is_unfinished(true); }, bound(1, 0)},
    {"a future is cancelled", &future_cancelled, bound(1, 0)},
    {"named while a child looks", &named_while_looked_at, bound(1, 1)},
};

const std::vector<Mutant> mutants{
    {"the lock is not taken", {Mutate::drop, "RecordLock::lock", "fetch_or"}},
    {"the lock is taken in two steps", {Mutate::tear, "RecordLock::lock", "fetch_or"}},
    {"the lock is not let go of", {Mutate::drop, "RecordLock::unlock", "store"}},
    {"it does not say that it is done", {Mutate::drop, "close_list", "store"}},
    {"a reference is not counted", {Mutate::drop, "add_ref", "fetch_add"}},
    {"a reference is counted in two steps", {Mutate::tear, "add_ref", "fetch_add"}},
    {"a reference is let go of in two steps", {Mutate::tear, "drop_shared_ref", "fetch_sub"}},
    {"a task lets go of itself in two steps", {Mutate::tear, "leave_shared", "fetch_sub"}},
    {"a task does not let go of itself", {Mutate::drop, "leave_shared", "fetch_sub"}},
    {"a task that ends is not counted", {Mutate::drop, "add_release", "store"}},
};

const std::vector<Excuse> excuses{
    {"home_of", "load", 0, Mutate::weaken, relaxed, "which loop it is matters; what a loop shows here never changes"},
    {"set_home", "store", 0, Mutate::weaken, relaxed, "the same"},
};

TEST(SharedRecordModel, Correct) { ouro::model::expect_correct(models); }
TEST(SharedRecordModel, Mutants) {
  // One preemption finds them all.
  std::vector<Model> quick = models;
  for (Model& model : quick) model.options.preemptions = 1;
  ouro::model::expect_killed(quick, mutants, excuses,
                             {"shared.hpp", "shared.cpp", "cancel_shared.cpp", "core.hpp", "record.hpp", "core.cpp",
                              "counter.hpp", "worker_group.cpp"});
}

}  // namespace
