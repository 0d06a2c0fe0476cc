// run() over several loops: what comes out of it, what it refuses, and how it ends.
#include <gmock/gmock.h>

#include <pthread.h>
#include <sched.h>

#include <atomic>
#include <chrono>
#include <ctime>
#include <memory>
#include <set>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <ouro/ouro.hpp>

#include "support/group.hpp"

namespace ouro {
namespace {

using namespace std::chrono_literals;
using test::GroupsOfAnySize;
using test::GroupTest;
using test::Ledger;
using test::thrown_by;
using testing::HasSubstr;

Coroutine<int> give(int value) {
  co_await sleep(0s);
  co_return value;
}

class Options : public GroupTest {
 protected:
  static RunOptions four() { return with(4); }
};

INSTANTIATE_TEST_SUITE_P(Workers, GroupsOfAnySize, testing::Values(1U, 2U, 4U, 16U), testing::PrintToStringParamName());

// ---- What comes out ----

Coroutine<std::string> text() { co_return "a text that is too long to be kept in place"; }
Coroutine<std::unique_ptr<int>> boxed(int value) {
  co_await sleep(0s);
  co_return std::make_unique<int>(value);
}
Coroutine<int&> same(int& value) { co_return value; }

TEST_P(GroupsOfAnySize, GivesTheResultOfMain) {
  EXPECT_EQ(run(give(7)), 7);
  EXPECT_EQ(run(text()), "a text that is too long to be kept in place");
  EXPECT_EQ(*run(boxed(8)), 8);
  int target = 0;
  EXPECT_EQ(&run(same(target)), &target);
  run([]() -> Coroutine<> { co_return; });
  run(sleep(0s));
}

template <class E>
Coroutine<> fail(E error) {
  co_await sleep(0s);
  throw E(error);
}

TEST_P(GroupsOfAnySize, ThrowsWhatMainThrew) {
  EXPECT_EQ(thrown_by([] { run(fail(std::runtime_error("boom"))); }), "exception: boom");
  EXPECT_THROW(run(fail(17)), int);
  EXPECT_EQ(thrown_by([] { run(fail(CancelledError("mine"))); }), "CancelledError: mine");
  EXPECT_THROW(run(fail(KeyboardInterrupt())), KeyboardInterrupt);
  EXPECT_EQ(run(give(1)), 1);
}

TEST_P(GroupsOfAnySize, EndsInCancelledErrorIfMainCancelsItself) {
  const auto main = []() -> Coroutine<> {
    current_task().cancel("enough");
    co_await sleep(1h);
  };
  EXPECT_EQ(thrown_by([&] { run(main); }), "CancelledError: enough");
}

// ---- Where one is ----

Coroutine<> look_around(std::size_t place, std::size_t size, std::set<std::thread::id>& threads) {
  const std::vector<EventLoop*> loops = workers();
  EXPECT_EQ(loops.size(), size);
  EXPECT_EQ(&current_loop(), loops[place]);
  EXPECT_EQ(&get_running_loop(), loops[place]);
  EXPECT_TRUE(loops[place]->is_running());
  threads.insert(std::this_thread::get_id());
  co_return;
}

TEST_P(GroupsOfAnySize, HasItsLoopsInOrderEachOnItsThread) {
  const auto main = [&]() -> Coroutine<> {
    const std::vector<EventLoop*> loops = workers();
    EXPECT_EQ(loops.size(), GetParam());
    EXPECT_EQ(std::set<EventLoop*>(loops.begin(), loops.end()).size(), GetParam());
    EXPECT_THAT(loops, testing::Contains(&current_loop()));
    std::set<std::thread::id> threads;
    for (std::size_t i = 0; i < loops.size(); ++i) {
      co_await loops[i]->create_task(look_around(i, loops.size(), threads));
    }
    EXPECT_EQ(threads.size(), GetParam());
  };
  run(main);
  EXPECT_THROW(workers(), RuntimeError);
  EXPECT_THROW(current_loop(), RuntimeError);
}

TEST_F(Options, TheFirstLoopIsTheCallersThread) {
  const auto caller = std::this_thread::get_id();
  const auto main = [&]() -> Coroutine<bool> {
    const auto where = []() -> Coroutine<std::thread::id> { co_return std::this_thread::get_id(); };
    const std::thread::id first = co_await workers()[0]->create_task(where);
    const std::thread::id second = co_await workers()[1]->create_task(where);
    co_return first == caller&& second != caller;
  };
  EXPECT_TRUE(ouro::run(main, four()));
}

TEST_F(Options, AsManyWorkersAsProcessors) {
  const auto main = []() -> Coroutine<std::size_t> { co_return workers().size(); };
  EXPECT_EQ(ouro::run(main, with(0)), static_cast<std::size_t>(process_cpu_count()));
}

TEST_F(Options, FortyEightWorkersAtMost) {
  const auto main = []() -> Coroutine<std::size_t> { co_return workers().size(); };
  EXPECT_EQ(ouro::run(main, with(48)), 48U);
  EXPECT_THAT(thrown_by([&] { ouro::run(main, with(49)); }), HasSubstr("ValueError: "));
  EXPECT_THROW(Runner(with(1000)), ValueError);
}

TEST_F(Options, DebuggingIsForAllOfThem) {
  const auto main = []() -> Coroutine<bool> {
    const auto debugging = []() -> Coroutine<bool> { co_return current_loop().get_debug(); };
    bool all = co_await spawn(debugging);
    for (EventLoop* loop : workers()) {
      const bool one = co_await loop->create_task(debugging);
      all = all && one && loop->get_debug();
    }
    co_return all;
  };
  RunOptions options = four();
  options.debug = true;
  EXPECT_TRUE(ouro::run(main, options));
}

// ---- What is refused ----

TEST_P(GroupsOfAnySize, RefusesToRunInsideItself) {
  const auto nested = []() -> Coroutine<> {
    EXPECT_EQ(thrown_by([] { ouro::run(give(1)); }), "RuntimeError: run() cannot be called from a running event loop");
    EXPECT_THROW(ouro::run(give(1), with(2)), RuntimeError);
    co_return;
  };
  const auto main = [&]() -> Coroutine<> {
    co_await nested();
    for (EventLoop* loop : workers()) co_await loop->create_task(nested());
  };
  run(main);
}

template <class F>
void expect_refused(F&& f) {
  try {
    f();
    ADD_FAILURE() << "nothing was thrown";
  } catch (const RuntimeError& error) {
    EXPECT_THAT(std::string(error.what()) + error.hint(), HasSubstr("run"));
  }
}

Coroutine<> misuse_all() {
  for (EventLoop* loop : workers()) {
    expect_refused([&] { loop->stop(); });
    expect_refused([&] { loop->close(); });
    expect_refused([&] { loop->run_forever(); });
    expect_refused([&] { loop->run_until_complete(give(1)); });
    EXPECT_FALSE(loop->is_closed());
    EXPECT_TRUE(loop->is_running());
  }
  co_return;
}

TEST_F(Options, ALoopOfAGroupEndsWithItsRunOnly) {
  const auto main = []() -> Coroutine<int> {
    for (EventLoop* loop : workers()) co_await loop->create_task(give(1));  // each of them runs by now
    co_await misuse_all();
    for (EventLoop* loop : workers()) co_await loop->create_task(misuse_all());
    co_return 3;
  };
  EXPECT_EQ(ouro::run(main, four()), 3);
}

TEST_F(Options, TheRunnersLoopIsNotForItsUserBetweenRuns) {
  Runner runner(four());
  EventLoop& loop = runner.get_loop();
  EXPECT_THROW(loop.run_forever(), RuntimeError);
  EXPECT_THROW(loop.run_until_complete(give(1)), RuntimeError);
  EXPECT_THROW(loop.stop(), RuntimeError);
  EXPECT_THROW(loop.close(), RuntimeError);
  EXPECT_EQ(runner.run(give(2)), 2);
}

TEST_F(Options, NothingIsScheduledWithoutARunningLoop) {
  ouro::run(give(1), four());
  Ledger ledger;
  const auto child = [](Ledger::Entry) -> Coroutine<> { co_return; };
  EXPECT_THROW(spawn(child(Ledger::Entry(ledger))), RuntimeError);
  EXPECT_THROW(create_task(child(Ledger::Entry(ledger))), RuntimeError);
  EXPECT_EQ(ledger.broken_off(), 2);
}

// ---- Loops that cannot be made ----

std::atomic<int> loops_made{0};
std::atomic<int> loops_alive{0};
std::atomic<int> fail_at{0};
std::atomic<bool> give_nothing{false};

class CountedLoop : public EventLoop {
 public:
  CountedLoop() { ++loops_alive; }
  ~CountedLoop() override { --loops_alive; }
};

std::unique_ptr<EventLoop> counted_loop() {
  if (++loops_made == fail_at) {
    if (give_nothing) return nullptr;
    throw std::runtime_error("no loop");
  }
  return std::make_unique<CountedLoop>();
}

class CountedPolicy : public DefaultEventLoopPolicy {
 public:
  std::unique_ptr<EventLoop> new_event_loop() override { return counted_loop(); }
};

Coroutine<int> never_run(Ledger::Entry) { co_return 1; }

class UnmakableLoops : public Options, public testing::WithParamInterface<int> {
 protected:
  UnmakableLoops() {
    loops_made = 0;
    fail_at = GetParam();
    give_nothing = false;
  }
  void expect_failure(const RunOptions& options, const std::string& error) {
    Ledger ledger;
    EXPECT_EQ(thrown_by([&] { ouro::run(never_run(Ledger::Entry(ledger)), options); }), error);
    EXPECT_EQ(ledger.open(), 0);
    EXPECT_EQ(loops_alive, 0);
    EXPECT_EQ(loops_made, GetParam());
    EXPECT_THROW(get_running_loop(), RuntimeError);
    EXPECT_EQ(ouro::run(give(4), with(4)), 4);
  }
};

INSTANTIATE_TEST_SUITE_P(TheFirstToTheLast, UnmakableLoops, testing::Values(1, 2, 3, 4));

TEST_P(UnmakableLoops, WhatTheFactoryThrowsComesOut) {
  RunOptions options;
  options.workers = 4;
  options.loop_factory = &counted_loop;
  expect_failure(options, "exception: no loop");
}

TEST_P(UnmakableLoops, AFactoryThatGivesNothing) {
  give_nothing = true;
  RunOptions options;
  options.workers = 4;
  options.pin_to_cores = true;
  options.loop_factory = &counted_loop;
  expect_failure(options, "RuntimeError: the loop factory gave no loop");
}

TEST_P(UnmakableLoops, WhatThePolicyThrowsComesOut) {
  set_event_loop_policy(std::make_shared<CountedPolicy>());
  RunOptions options;
  options.workers = 4;
  expect_failure(options, "exception: no loop");
  set_event_loop_policy(nullptr);
}

TEST_F(Options, EveryWorkersLoopComesFromThePolicyOnItsThread) {
  class Policy : public CountedPolicy {
   public:
    std::unique_ptr<EventLoop> new_event_loop() override {
      threads.push_back(std::this_thread::get_id());  // one after the other
      return CountedPolicy::new_event_loop();
    }
    std::vector<std::thread::id> threads;
  };
  fail_at = 0;
  const auto policy = std::make_shared<Policy>();
  set_event_loop_policy(policy);
  const auto main = []() -> Coroutine<> {
    const auto own = []() -> Coroutine<bool> { co_return &get_event_loop() == &current_loop(); };
    for (EventLoop* loop : workers()) EXPECT_TRUE(co_await loop->create_task(own));
  };
  ouro::run(main, {.workers = 4});
  set_event_loop_policy(nullptr);
  EXPECT_EQ(policy->threads.front(), std::this_thread::get_id());
  EXPECT_EQ(std::set<std::thread::id>(policy->threads.begin(), policy->threads.end()).size(), 4U);
  EXPECT_EQ(loops_alive, 0);
}

// ---- Processors ----

cpu_set_t affinity() {
  cpu_set_t set;
  CPU_ZERO(&set);
  ::pthread_getaffinity_np(::pthread_self(), sizeof set, &set);
  return set;
}

bool equal(const cpu_set_t& a, const cpu_set_t& b) { return CPU_EQUAL(&a, &b) != 0; }

TEST_F(Options, PinningLastsAsLongAsTheRun) {
  const cpu_set_t before = affinity();
  const auto main = [](bool fails) -> Coroutine<int> {
    const auto processors = []() -> Coroutine<int> {
      const cpu_set_t here = affinity();
      co_return CPU_COUNT(&here);
    };
    for (EventLoop* loop : workers()) EXPECT_EQ(co_await loop->create_task(processors), 1);
    if (fails) throw std::runtime_error("boom");
    co_return 1;
  };
  RunOptions options = four();
  options.pin_to_cores = true;
  ouro::run(main(false), options);
  EXPECT_TRUE(equal(before, affinity()));
  EXPECT_THROW(ouro::run(main(true), options), std::runtime_error);
  EXPECT_TRUE(equal(before, affinity()));
}

std::chrono::nanoseconds processor_time() {
  timespec now{};
  ::clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return std::chrono::seconds(now.tv_sec) + std::chrono::nanoseconds(now.tv_nsec);
}

TEST_F(Options, AGroupWithNothingToDoSleeps) {
  const auto main = []() -> Coroutine<std::chrono::nanoseconds> {
    co_await sleep(5ms);
    const std::chrono::nanoseconds before = processor_time();
    co_await sleep(300ms);
    co_return processor_time() - before;
  };
  RunOptions options = four();
  options.spin = 0ns;
  EXPECT_LT(ouro::run(main, options), 60ms);
}

// ---- Several runs ----

TEST_P(GroupsOfAnySize, SeveralRunsOnTheSameLoops) {
  Runner runner(with(GetParam()));
  EventLoop& first = runner.get_loop();
  const auto all = []() -> Coroutine<std::vector<EventLoop*>> { co_return workers(); };
  const std::vector<EventLoop*> loops = runner.run(all);
  EXPECT_EQ(loops.front(), &first);
  EXPECT_EQ(thrown_by([&] { runner.run(fail(std::runtime_error("boom"))); }), "exception: boom");
  EXPECT_EQ(runner.run(all), loops);
  Task<int> task = runner.run([]() -> Coroutine<Task<int>> { co_return create_task(give(3)); });
  EXPECT_EQ(runner.run(std::move(task)), 3);
  runner.close();
  runner.close();
  EXPECT_EQ(thrown_by([&] { runner.run(give(1)); }), "RuntimeError: Runner is closed");
}

TEST_P(GroupsOfAnySize, ARunnerThatWasNeverUsed) {
  Runner unused(with(GetParam()));
  Runner made(with(GetParam()));
  made.get_loop();
  Runner closed(with(GetParam()));
  closed.close();
  EXPECT_THROW(closed.get_loop(), RuntimeError);
}

}  // namespace
}  // namespace ouro
