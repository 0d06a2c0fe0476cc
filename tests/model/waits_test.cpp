// Waits that several may end: two futures that another worker completes, a cancellation from there, and the task in
// whose frame all that hears of them lies. The workers have no loops (model/group.hpp). A wait that ends twice, or a
// node that is told after its frame went, is seen as a data race or as memory used after its end; one that nobody ends
// by the group's counts.
#include <thread>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include <model/group.hpp>
#include <model/mutants.hpp>
#include <ouro/runtime/futures.hpp>
#include <ouro/runtime/tasks.hpp>
#include <ouro/runtime/wait.hpp>

namespace {

using ouro::Coroutine;
using ouro::Future;
using ouro::ReturnWhen;
using ouro::Task;
using ouro::model::check;
using ouro::model::Excuse;
using ouro::model::Group;
using ouro::model::Model;
using ouro::model::Mutant;
using ouro::model::Mutate;
using ouro::model::Options;

// What became of one wait. Its memory is plain: two that resume at once are a data race.
struct Fate {
  int ended = 0;
  int cancelled = 0;
};

Coroutine<> waits(std::vector<Future<int>> futures, ReturnWhen when, Fate& fate) {
  const std::size_t all = futures.size();
  ouro::WaitOptions options;
  options.return_when = when;
  bool cancelled = false;
  try {
    auto result = co_await ouro::wait(std::move(futures), options);
    check(!result.done.empty(), "one is done");
    if (when == ouro::ALL_COMPLETED) check(result.done.size() == all, "all are done");
    for (const auto& future : result.done) check(future.result() == 7, "the result is whole");
    ++fate.ended;
  } catch (const ouro::CancelledError&) {
    cancelled = true;
  }
  if (cancelled) ++fate.cancelled;
}

Coroutine<> shielded(Future<int> future, Fate& fate) {
  bool cancelled = false;
  try {
    check(co_await ouro::shield(future) == 7, "the result is whole");
    ++fate.ended;
  } catch (const ouro::CancelledError&) {
    cancelled = true;
  }
  if (cancelled) ++fate.cancelled;
}

// Two are completed there while the task begins to wait for one, or both, here.
void completed(ReturnWhen when) {
  Group group(2);
  Fate fate;
  Future<int> one = group.make_future<int>(0);
  Future<int> two = group.make_future<int>(0);
  std::thread other = group.thread(1, [one, two]() mutable {
    one.set_result(7);
    two.set_result(7);
    one = two = Future<int>();
  });
  group.as(0, [&] {
    std::vector<Future<int>> futures;
    futures.push_back(std::move(one));
    futures.push_back(std::move(two));
    static_cast<void>(ouro::spawn(waits(std::move(futures), when, fate)));
    group.run(0);
  });
  other.join();
  group.settle();
  check(fate.ended == 1 && fate.cancelled == 0, "the wait has ended, once");
}

// One is completed there, the other one here.
void completed_on_both_sides() {
  Group group(2);
  Fate fate;
  Future<int> one = group.make_future<int>(0);
  Future<int> two = group.make_future<int>(0);
  group.as(0, [&] {
    std::vector<Future<int>> futures;
    futures.push_back(one);
    futures.push_back(two);
    static_cast<void>(ouro::spawn(waits(std::move(futures), ouro::ALL_COMPLETED, fate)));
    group.run(0);
  });
  std::thread other = group.thread(1, [one]() mutable {
    one.set_result(7);
    one = Future<int>();
  });
  group.as(0, [&] {
    two.set_result(7);
    group.run(0);
  });
  other.join();
  group.settle();
  one = two = Future<int>();
  check(fate.ended == 1 && fate.cancelled == 0, "the wait has ended, once");
}

// Completed there, and cancelled here.
void cancelled(bool shield) {
  Group group(2);
  Fate fate;
  Task<> task;
  Future<int> future = group.make_future<int>(0);
  group.as(0, [&] {
    task = shield ? ouro::spawn(shielded(future, fate))
                  : ouro::spawn(waits(std::vector<Future<int>>(1, future), ouro::ALL_COMPLETED, fate));
    group.run(0);
  });
  std::thread other = group.thread(1, [future]() mutable {
    future.set_result(7);
    future = Future<int>();
  });
  group.as(0, [&] {
    static_cast<void>(task.cancel());
    task = Task<>();
    group.run(0);
  });
  other.join();
  group.settle();
  check(!future.cancelled() && future.result() == 7, "the future goes on");
  future = Future<int>();
  check(fate.ended + fate.cancelled == 1, "the wait has ended, once");
}

Options bound(unsigned preemptions, unsigned stale = 1000) {
  Options options;
  options.preemptions = preemptions;
  options.stale = stale;
  return options;
}

const std::vector<Model> models{
    {"the first of two", [] { completed(ouro::FIRST_COMPLETED); }, bound(1)},
    {"both", [] { completed(ouro::ALL_COMPLETED); }, bound(1)},
    {"both, one from here", &completed_on_both_sides, bound(1)},
    {"a wait is cancelled", [] { cancelled(false); }, bound(1, 0)},
    {"a shield is cancelled", [] { cancelled(true); }, bound(1, 0)},
};

const std::vector<Mutant> mutants{
    {"who won is not written", {Mutate::drop, "WaitCore::win", "exchange"}},
    {"a hold is let go of in two steps", {Mutate::tear, "WaitCore::let_go", "fetch_sub"}},
    {"futures are counted in two steps", {Mutate::tear, "ManyWait::heard", "fetch_sub"}},
    {"a node does not say that it was told", {Mutate::drop, "WaitNode::notified", "store"}},
};

const std::vector<Excuse> excuses;

TEST(WaitsModel, Correct) { ouro::model::expect_correct(models); }
TEST(WaitsModel, Mutants) { ouro::model::expect_killed(models, mutants, excuses, {"wait_core.hpp", "wait.cpp"}); }

}  // namespace
