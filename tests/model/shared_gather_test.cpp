// A gather of a floating parent: its children started by several workers, by way of its shares; children that suspend,
// fail, are cancelled, while others end. The parent resumes once, after the frames of all children have gone: their
// arguments write to its memory in their destructors, and what it reads afterwards would be a data race, or memory used
// after its end.
#include <array>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include <model/group.hpp>
#include <model/mutants.hpp>
#include <ouro/runtime/futures.hpp>
#include <ouro/runtime/gather.hpp>
#include <ouro/runtime/map.hpp>
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

// What became of the parent.
struct Fate {
  int values = 0;
  int cancels = 0;
  int errors = 0;
  int ends() const { return values + cancels + errors; }
};

// An argument of a child: says, in the parent's memory, that the child's frame has gone.
class Mark {
 public:
  explicit Mark(int& gone) noexcept : gone_(&gone) {}
  Mark(Mark&& other) noexcept : gone_(std::exchange(other.gone_, nullptr)) {}
  Mark& operator=(Mark&&) = delete;
  ~Mark() {
    if (gone_) ++*gone_;
  }

 private:
  int* gone_;
};

// ---- Children ----

Coroutine<int> end_at_once(Mark) { co_return 7; }

Coroutine<int> wait_first(Mark, Future<int> future) { co_return co_await future; }

// A handle to a child, as it is given away.
struct Shown {
  ouro::AnyTask task;
  ouro::detail::Atomic<bool> there{false};
};

Coroutine<int> show(Shown& shown) {
  shown.task = ouro::current_task();
  shown.there.store(true, std::memory_order_release);
  co_return 7;
}

Coroutine<int> fail(Mark) {
  throw 7;
  co_return 0;
}

// What each of them does.
enum class Child { ends, waits, shows, fails };

// ---- Parents ----

// What they gather, and what they saw of it.
template <std::size_t count>
struct Children {
  std::array<Child, count> kinds;
  Future<int> future = {};  // that some wait for
  Shown shown = {};
  std::array<int, count> gone{};
  Fate fate = {};

  std::vector<Coroutine<int>> make() {
    std::vector<Coroutine<int>> made;
    made.reserve(count);
    for (std::size_t i = 0; i < count; ++i) {
      switch (kinds[i]) {
        case Child::ends:
          made.push_back(end_at_once(Mark(gone[i])));
          break;
        case Child::waits:
          made.push_back(wait_first(Mark(gone[i]), future));
          break;
        case Child::shows:
          made.push_back(show(shown));
          gone[i] = 1;  // its frame goes with the handle
          break;
        case Child::fails:
          made.push_back(fail(Mark(gone[i])));
          break;
      }
    }
    return made;
  }
  void check_gone() {
    for (int& one : gone) check(std::exchange(one, 0) == 1, "a child's frame has gone, once");
  }
};

template <std::size_t count>
Coroutine<int> gather_all(Children<count>& of) {
  bool cancelled = false;
  bool failed = false;
  try {
    const std::vector<int> values = co_await ouro::gather(of.make());
    for (const int value : values) check(value == 7, "a result is whole");
    ++of.fate.values;
  } catch (const ouro::CancelledError&) {
    cancelled = true;
  } catch (int) {
    failed = true;
  }
  of.check_gone();
  of.fate.cancels += cancelled;
  of.fate.errors += failed;
  if (cancelled) throw ouro::CancelledError();
  co_return 7;
}

// The parent is the only child of a gather itself, and so private.
template <std::size_t count>
Coroutine<int> gather_below(Children<count>& of) {
  std::vector<Coroutine<int>> one;
  one.push_back(gather_all(of));
  const std::vector<int> values = co_await ouro::gather(std::move(one));
  co_return values.front();
}

template <std::size_t count>
Task<int> start(Group& group, Children<count>& of, bool below) {
  Task<int> task;
  group.as(0, [&] { task = below ? ouro::spawn(gather_below(of)) : ouro::spawn(gather_all(of)); });
  return task;
}

// ---- Programs ----

// All children end at once; another worker steals, so often.
template <std::size_t count>
void at_once(bool below, int steals) {
  Group group(2);
  Children<count> children{};
  start(group, children, below);
  std::thread thief = group.thread(1, [&group, steals] {
    for (int i = 0; i < steals; ++i) {
      group.steal(1, 0);
      group.run(1);
    }
  });
  group.as(0, [&] { group.run(0); });
  thief.join();
  check(children.fate.values == 1 && children.fate.ends() == 1, "the parent has resumed, once");
}

// Some suspend, and another worker, which steals before that, completes what they wait for.
template <std::size_t count>
void with_waits(std::array<Child, count> kinds, bool below, bool steals) {
  Group group(2);
  Children<count> children{kinds};
  children.future = group.make_future<int>(0);
  start(group, children, below);
  std::thread other = group.thread(1, [&group, steals, future = children.future]() mutable {
    if (steals) {
      group.steal(1, 0);
      group.run(1);
    }
    future.set_result(7);
  });
  group.as(0, [&] { group.run(0); });
  other.join();
  const Fate& fate = children.fate;
  check(fate.values == 1 && fate.ends() == 1, "the parent has resumed, once");
}

// One fails; those that wait are cancelled.
template <std::size_t count>
void with_failures(std::array<Child, count> kinds, bool below) {
  Group group(2);
  Children<count> children{kinds};
  children.future = group.make_future<int>(0);
  start(group, children, below);
  std::thread thief = group.thread(1, [&group] { group.steal(1, 0); });
  group.as(0, [&] { group.run(0); });
  thief.join();
  group.settle();
  check(children.fate.errors == 1 && children.fate.ends() == 1, "the parent has heard of the error, once");
}

// Another worker cancels the task, and perhaps steals.
template <std::size_t count>
void cancelled(std::array<Child, count> kinds, bool below, bool steals) {
  Group group(2);
  Children<count> children{kinds};
  children.future = group.make_future<int>(0);
  Task<int> task = start(group, children, below);
  bool accepted = false;
  std::thread other = group.thread(1, [&group, &accepted, steals, task]() mutable {
    if (steals) group.steal(1, 0);
    accepted = task.cancel();
    task = Task<int>();
  });
  group.as(0, [&] { group.run(0); });
  other.join();
  group.settle();
  check(task.done(), "the task has ended");
  check(children.fate.ends() <= 1, "the parent has resumed once");
  bool waits = false;
  for (const Child kind : kinds) waits = waits || kind == Child::waits;
  if (waits) check(accepted && task.cancelled(), "what waits for ever is cancelled");
}

// A child gives away a handle to itself, which outlives it.
void shown(bool below) {
  Group group(2);
  Children<2> children{{Child::shows, Child::ends}};
  start(group, children, below);
  std::thread other = group.thread(1, [&shown = children.shown] {
    if (!shown.there.load(std::memory_order_acquire)) return;
    auto& state = shown.task.handle().state();
    if (state.done()) check(static_cast<ouro::detail::FutureResult<int>&>(state).value() == 7, "the result is whole");
    shown.task = ouro::AnyTask();
  });
  group.as(0, [&] { group.run(0); });
  other.join();
  check(children.fate.values == 1 && children.fate.ends() == 1, "the parent has resumed, once");
  if (children.shown.task) check(children.shown.task.done(), "the child is done");
  children.shown.task = ouro::AnyTask();
}

// Of the caller's futures; another worker completes them meanwhile, or cancels who waits for them, or both.
Coroutine<> gather_futures(std::vector<Future<int>> futures, Fate& fate) {
  bool cancelled = false;
  try {
    const std::vector<int> values = co_await ouro::gather(std::move(futures));
    for (const int value : values) check(value == 7, "a result is whole");
    ++fate.values;
  } catch (const ouro::CancelledError&) {
    cancelled = true;
  }
  if (!cancelled) co_return;
  ++fate.cancels;
  throw ouro::CancelledError();
}

void futures(bool pinned, bool is_completed, bool is_cancelled) {
  Group group(2);
  Fate fate;
  Future<int> first = group.make_future<int>(0);
  const Future<int> second = is_completed ? first : group.make_future<int>(0);
  Task<> task;
  group.as(0, [&] {
    std::vector<Future<int>> both;
    both.push_back(first);
    both.push_back(second);
    auto parent = gather_futures(std::move(both), fate);
    task = pinned ? group.pin(0, std::move(parent)) : ouro::spawn(std::move(parent));
  });
  std::thread other = group.thread(1, [=]() mutable {
    if (is_cancelled) task.cancel();
    if (!is_completed) return;
    try {
      first.set_result(7);
    } catch (const ouro::InvalidStateError&) {
      check(is_cancelled, "it was pending");
    }
  });
  group.as(0, [&] { group.run(0); });
  other.join();
  group.settle();
  check(task.done() && fate.ends() <= 1, "the parent has resumed, once");
  check(task.cancelled() == is_cancelled, "it has heard of a cancellation");
}

// A child fails, and another worker completes a future, which is let go of.
Coroutine<> gather_with_future(Future<int> future, int& gone, Fate& fate) {
  bool failed = false;
  try {
    static_cast<void>(co_await ouro::gather(fail(Mark(gone)), std::move(future)));
  } catch (int) {
    failed = true;
  }
  check(failed && gone == 1, "the child's frame has gone, once");
  ++fate.errors;
}

void fails_beside_future() {
  Group group(2);
  Fate fate;
  int gone = 0;
  Future<int> future = group.make_future<int>(0);
  group.as(0, [&] { ouro::spawn(gather_with_future(future, gone, fate)); });
  std::thread other = group.thread(1, [future]() mutable { future.set_result(7); });
  group.as(0, [&] { group.run(0); });
  other.join();
  group.settle();
  check(fate.errors == 1, "the parent has heard of the error, once");
}

// At most one child at a time: a share waits until there is room. Two that run at once are a data race.
Coroutine<int> take_turn(Mark, int& turns) {
  ++turns;
  co_return 7;
}

Coroutine<> one_by_one(std::array<int, 2>& gone, Fate& fate) {
  int turns = 0;
  const auto make = [&turns](int& one) { return take_turn(Mark(one), turns); };
  const std::vector<int> values = co_await ouro::map(make, gone, ouro::MapOptions{1});
  for (const int value : values) check(value == 7, "a result is whole");
  for (const int one : gone) check(one == 1, "a child's frame has gone, once");
  check(turns == 2, "all have run");
  ++fate.values;
}

void limited() {
  Group group(2);
  Fate fate;
  std::array<int, 2> gone{};
  group.as(0, [&] { ouro::spawn(one_by_one(gone, fate)); });
  std::thread thief = group.thread(1, [&group] { group.steal(1, 0); });
  group.as(0, [&] { group.run(0); });
  thief.join();
  group.settle();
  check(fate.values == 1, "the parent has resumed, once");
}

// Without a limit: children are taken several at a time when there are enough, and a thief may want the rest of those.
// The one at `waits` suspends.
Coroutine<int> wait_if(Mark mark, Future<int> future) {
  if (future) co_return co_await wait_first(std::move(mark), std::move(future));
  co_return 7;
}

template <std::size_t count>
Coroutine<> map_all(std::array<int, count>& gone, Future<int> future, std::size_t waits, Fate& fate) {
  const auto make = [&](int& one) { return wait_if(Mark(one), &one == gone.data() + waits ? future : Future<int>()); };
  const std::vector<int> values = co_await ouro::map(make, gone);
  for (const int value : values) check(value == 7, "a result is whole");
  for (const int one : gone) check(one == 1, "a child's frame has gone, once");
  ++fate.values;
}

template <std::size_t count>
void bites(std::size_t waits) {
  Group group(2);
  Fate fate;
  std::array<int, count> gone{};
  Future<int> future = group.make_future<int>(0);
  group.as(0, [&] { ouro::spawn(map_all(gone, future, waits, fate)); });
  std::thread thief = group.thread(1, [&group, future]() mutable {
    ouro::detail::IdleWorkers& idle = group.get()->idle;
    static_cast<void>(idle.begin_search());  // that somebody searches ends a bite
    group.steal(1, 0);
    static_cast<void>(idle.found());
    group.run(1);
    future.set_result(7);
  });
  group.as(0, [&] { group.run(0); });
  thief.join();
  group.settle();
  check(fate.values == 1, "the parent has resumed, once");
}

Options bound(unsigned preemptions, unsigned stale = 1000) {
  Options options;
  options.preemptions = preemptions;
  options.stale = stale;
  return options;
}

constexpr Child ends = Child::ends;
constexpr Child waits = Child::waits;
constexpr Child fails = Child::fails;

const std::vector<Model> models{
    {"two at once", [] { at_once<2>(false, 1); }, bound(2, 1)},
    {"two at once, below", [] { at_once<2>(true, 1); }, bound(2, 1)},
    {"two at once, below, two steals", [] { at_once<2>(true, 2); }, bound(2, 0)},
    {"three at once", [] { at_once<3>(false, 1); }, bound(2, 0)},
    {"three at once, below", [] { at_once<3>(true, 1); }, bound(2, 0)},
    {"one waits", [] { with_waits<2>({waits, ends}, false, true); }, bound(1, 0)},
    {"one waits, below", [] { with_waits<2>({waits, ends}, true, true); }, bound(1, 0)},
    {"the last waits, below", [] { with_waits<2>({ends, waits}, true, true); }, bound(1, 0)},
    {"two wait, below", [] { with_waits<2>({waits, waits}, true, true); }, bound(1, 0)},
    {"one waits, and one fails", [] { with_failures<2>({waits, fails}, false); }, bound(1, 0)},
    {"one fails, and one waits, below", [] { with_failures<2>({fails, waits}, true); }, bound(1, 0)},
    {"one waits, and one fails, below", [] { with_failures<2>({waits, fails}, true); }, bound(1, 0)},
    {"two wait, cancelled", [] { cancelled<2>({waits, waits}, false, true); }, bound(1, 0)},
    {"one waits, cancelled below", [] { cancelled<2>({ends, waits}, true, true); }, bound(1, 0)},
    {"shown", [] { shown(false); }, bound(1, 1)},
    {"shown, below", [] { shown(true); }, bound(1, 1)},
    {"one by one", &limited, bound(1, 1)},
    {"bites of one", [] { bites<3>(3); }, bound(1, 1)},
    {"bites of one, and one waits", [] { bites<3>(1); }, bound(1, 0)},
    {"futures", [] { futures(false, true, false); }, bound(1, 0)},
    {"futures, cancelled", [] { futures(false, false, true); }, bound(1, 0)},
    {"futures, cancelled and completed", [] { futures(false, true, true); }, bound(1, 0)},
    {"futures, pinned", [] { futures(true, true, false); }, bound(1, 0)},
    {"futures, pinned, cancelled", [] { futures(true, false, true); }, bound(1, 0)},
    {"futures, pinned, cancelled and completed", [] { futures(true, true, true); }, bound(1, 0)},
    {"one fails beside a future", &fails_beside_future, bound(1, 0)},
    {"two at once, cancelled below", [] { cancelled<2>({ends, ends}, true, true); }, bound(1, 0)},
};

const std::vector<Model> long_ones{
    {"bites", [] { bites<17>(17); }, bound(1, 0)},
    {"bites, and one waits", [] { bites<17>(1); }, bound(0, 0)},
};
// A canceller holds the last count: that takes two preemptions.
const Model last{"two at once, cancelled", [] { cancelled<2>({ends, ends}, false, false); }, bound(2, 0)};

const std::vector<Mutant> mutants{
    {"a gather is pinned in two steps", {Mutate::tear, "GatherState::pin", "compare_exchange_weak"}},
    {"what is pinned is not let go of", {Mutate::drop, "GatherState::unpin", "fetch_sub"}},
    {"what is pinned is let go of in two steps", {Mutate::tear, "GatherState::unpin", "fetch_sub"}},
    {"a count goes down in two steps", {Mutate::tear, "subtract_count", "fetch_sub"}},
    {"a count does not go up", {Mutate::drop, "add_count", "fetch_add"}},
    {"a count goes up in two steps", {Mutate::tear, "add_count", "fetch_add"}},
    {"a child that is kept is not done", {Mutate::drop, "shared_child_done", "store"}},
    {"a gather that ends early does not say so", {Mutate::drop, "begin_abort", "store"}},
};

const char* const found_under_lock = "who pins has found the gather under a lock, which orders what is there";
const char* const of_scopes = "only a ForkScope changes it while others look, and no model has one yet";
const std::vector<Excuse> excuses{
    {"GatherState::count_of", "load", 0, Mutate::weaken, relaxed, of_scopes},
    {"GatherState::slot_table", "load", 0, Mutate::weaken, relaxed, of_scopes},
    {"GatherState::pin", "load", 0, Mutate::weaken, relaxed, found_under_lock},
    {"GatherState::pin", "compare_exchange_weak", 0, Mutate::weaken, relaxed, found_under_lock},
    {"GatherState::pin", "compare_exchange_weak", 0, Mutate::weaken_failure, relaxed, found_under_lock},
};

TEST(SharedGatherModel, Correct) {
  ouro::model::expect_correct(models);
  ouro::model::expect_correct(long_ones);
  ouro::model::expect_correct({last});
}
TEST(SharedGatherModel, Mutants) {
  std::vector<Model> quick = models;
  for (Model& model : quick) model.options.preemptions = 1;
  quick.push_back(last);
  ouro::model::expect_killed(
      quick, mutants, excuses,
      {"gather_shared.hpp", "gather_shared.cpp", "map_shared.cpp", "gather_public.cpp", "gather_state.hpp"});
}

}  // namespace
