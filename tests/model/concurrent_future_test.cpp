// ConcurrentFuture: who waits, who ends it, who cancels it, and who lets go of the last handle. The word is lock-free,
// the rest is under its mutex; both are here as they are.
#include <memory>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include <model/mutants.hpp>
#include <ouro/runtime/concurrent_future.hpp>

namespace {

using ouro::ConcurrentFuture;
using ouro::model::check;
using ouro::model::Excuse;
using ouro::model::Model;
using ouro::model::Mutant;
using ouro::model::Mutate;

constexpr auto relaxed = std::memory_order_relaxed;
constexpr auto release = std::memory_order_release;

// Both threads let go as soon as they can: the waiter may destroy the state while the producer still wakes.
void one_waits() {
  auto future = ConcurrentFuture<std::unique_ptr<int>>::create();
  std::thread producer([future]() mutable {
    future.set_result(std::make_unique<int>(7));
    future = {};
  });
  check(*std::move(future).result() == 7, "the result is whole");
  future = {};
  producer.join();
}

void two_wait() {
  auto future = ConcurrentFuture<int>::create();
  const auto wait = [future] { check(future.result() == 7, "the result is whole"); };
  std::thread first(wait), second(wait);
  future.set_result(7);
  future = {};
  first.join();
  second.join();
}

// One looks without waiting.
void one_asks() {
  auto future = ConcurrentFuture<std::unique_ptr<int>>::create();
  std::thread producer([future] { future.set_result(std::make_unique<int>(7)); });
  if (future.done()) check(*future.result() == 7, "who sees the end sees the result");
  future = {};
  producer.join();
}

void cancelled_or_begun() {
  auto future = ConcurrentFuture<int>::create();
  int ran = 0;
  std::thread worker([future, &ran] {
    if (!future.set_running_or_notify_cancel()) return;
    ran = 1;
    future.set_result(7);
  });
  const bool cancelled = future.cancel();
  bool threw = false;
  try {
    check(future.result() == 7, "the result is whole");
  } catch (const ouro::CancelledError&) {
    threw = true;
  }
  check(threw == cancelled, "cancelled, or run");
  worker.join();
  check(ran == !cancelled, "it runs unless it was cancelled");
}

// A callback is called once, whenever it is added.
void a_callback_is_added() {
  auto future = ConcurrentFuture<int>::create();
  int calls = 0;
  std::thread producer([future] { future.set_result(7); });
  future.add_done_callback([&calls](ConcurrentFuture<int> done) {
    check(done.result() == 7, "the callback sees the result");
    ++calls;
  });
  future = {};
  producer.join();
  check(calls == 1, "a callback is called once");
}

// The last handle moves the result out, which others with theirs have read.
void the_last_one_takes() {
  auto future = ConcurrentFuture<std::vector<int>>::create();
  future.set_result(std::vector<int>{7});
  std::thread reader([copy = future]() mutable {
    check(copy.result().front() == 7, "the result is whole");
    copy = {};
  });
  check(std::move(future).result().front() == 7, "the result is whole");
  reader.join();
}

const std::vector<Model> models{
    {"one waits", &one_waits, {}},
    {"two wait", &two_wait, {}},
    {"one asks", &one_asks, {}},
    {"cancelled, or begun", &cancelled_or_begun, {}},
    {"a callback is added", &a_callback_is_added, {}},
    {"the last one takes", &the_last_one_takes, {}},
};

const std::vector<Mutant> mutants{
    {"references are added in two steps", {Mutate::tear, "add_ref", "fetch_add"}},
    {"references are dropped in two steps", {Mutate::tear, "drop_ref", "fetch_sub"}},
    {"the end does not hold on to itself", {Mutate::drop, "add_ref", "fetch_add"}},
    {"the last one takes though others read", {Mutate::pretend, "unique", "load", 0, relaxed, 1}},
    {"the sleeper's bit is set in two steps", {Mutate::tear, "sleep_until_done", "fetch_or"}},
    {"the sleeper's bit is not set", {Mutate::drop, "sleep_until_done", "fetch_or"}},
    {"the end is told in two steps", {Mutate::tear, "ConcurrentStateBase::end", "exchange"}},
    {"nobody is woken", {Mutate::no_wake}},
};

const std::vector<Excuse> excuses{
    {"ConcurrentStateBase::end", "exchange", 0, Mutate::weaken, release, "it reads the sleepers' bit, nothing with it"},
    {"sleep_until_done", "fetch_or", 0, Mutate::weaken, relaxed, "wait() looks again, with an acquire"},
};

TEST(ConcurrentFutureModel, Correct) { ouro::model::expect_correct(models); }
TEST(ConcurrentFutureModel, Mutants) {
  ouro::model::expect_killed(models, mutants, excuses, {"concurrent_future.hpp", "concurrent_future.cpp"});
}

}  // namespace
