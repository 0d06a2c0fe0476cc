// How a run over several loops ends: the tasks that are left, what else is, KeyboardInterrupt and SIGINT, and handles
// that outlive it.
#include <gmock/gmock.h>

#include <atomic>
#include <chrono>
#include <csignal>
#include <memory>
#include <optional>
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
using test::Reports;
using test::thrown_by;
using test::until;
using testing::ElementsAre;
using testing::SizeIs;

INSTANTIATE_TEST_SUITE_P(Workers, GroupsOfAnySize, testing::Values(1U, 2U, 4U, 16U), testing::PrintToStringParamName());

class GroupEnd : public GroupTest {
 protected:
  template <class A>
  static decltype(auto) run(A&& main) {
    return run_on(4, std::forward<A>(main));
  }
};

Coroutine<int> give(int value) {
  co_await sleep(0s);
  co_return value;
}

// ---- Tasks that are left ----

Coroutine<> sleeping(Ledger& ledger) {
  Ledger::Entry entry(ledger);
  co_await sleep(1h);
  entry.finish();
}

Coroutine<> awaiting(Ledger& ledger, Future<> future) {
  Ledger::Entry entry(ledger);
  co_await future;
  entry.finish();
}

Coroutine<> joining(Ledger& ledger, Task<> task) {
  Ledger::Entry entry(ledger);
  co_await task;
  entry.finish();
}

Coroutine<> gathering(Ledger& ledger, int depth) {
  Ledger::Entry entry(ledger);
  if (depth == 0) {
    co_await sleep(1h);
  } else {
    co_await gather(gathering(ledger, depth - 1), gathering(ledger, depth - 1));
  }
  entry.finish();
}

Coroutine<> mapping(Ledger& ledger) {
  Ledger::Entry entry(ledger);
  const auto child = [&ledger](int) { return sleeping(ledger); };
  co_await map(child, std::views::iota(0, 20), {.limit = 5});
  entry.finish();
}

Coroutine<> yielding(Ledger& ledger) {
  Ledger::Entry entry(ledger);
  for (;;) co_await sleep(0s);
}

Coroutine<> in_executor(Ledger& ledger, std::atomic<bool>& let_go) {
  Ledger::Entry entry(ledger);
  co_await to_thread([&let_go] {
    while (!let_go) std::this_thread::yield();
  });
  entry.finish();
}

TEST_P(GroupsOfAnySize, WhatIsLeftIsCancelledAndAwaited) {
  Ledger ledger;
  std::atomic<bool> let_go{false};
  const auto main = [&]() -> Coroutine<int> {
    const std::vector<EventLoop*> loops = workers();
    Future<> never = current_loop().create_future();
    for (EventLoop* loop : loops) {
      loop->create_task(sleeping(ledger));
      loop->create_task(awaiting(ledger, never));
      loop->create_task(gathering(ledger, 2));
      loop->create_task(yielding(ledger));
      loop->create_task(joining(ledger, spawn(sleeping(ledger))));
    }
    for (int i = 0; i < 4; ++i) {
      spawn(sleeping(ledger));
      spawn(awaiting(ledger, never));
      spawn(gathering(ledger, 3));
      spawn(mapping(ledger));
      spawn(yielding(ledger));
      spawn(joining(ledger, loops.back()->create_task(sleeping(ledger))));
    }
    spawn(in_executor(ledger, let_go));
    const long each = 2 + 7 + 1 + 2;
    const long floating = 4 * (2 + 15 + 6 + 1 + 2) + 1;
    co_await until([&] { return ledger.begun() == each * static_cast<long>(loops.size()) + floating; });
    let_go = true;
    co_return 5;
  };
  EXPECT_EQ(run(main), 5);
  EXPECT_EQ(ledger.open(), 0);
  EXPECT_LE(ledger.finished(), 1);  // the executor's
}

Coroutine<> takes(Ledger::Entry) { co_return; }

TEST_P(GroupsOfAnySize, WhatHasNotStartedIsDestroyed) {
  Ledger ledger;
  const auto main = [&]() -> Coroutine<> {
    for (int i = 0; i < 100; ++i) {
      for (EventLoop* loop : workers()) loop->create_task(takes(Ledger::Entry(ledger)));
      spawn(takes(Ledger::Entry(ledger)));
      create_task(takes(Ledger::Entry(ledger)));
    }
    co_return;
  };
  run(main);
  EXPECT_EQ(ledger.begun(), 100 * (static_cast<long>(GetParam()) + 2));
  EXPECT_EQ(ledger.open(), 0);
}

Coroutine<> slow_to_leave(std::atomic<int>& left) {
  bool cancelled = false;
  try {
    co_await sleep(1h);
  } catch (const CancelledError&) {
    cancelled = true;
  }
  for (int i = 0; i < 5; ++i) co_await sleep(100us);
  ++left;
  if (cancelled) throw CancelledError();
}

TEST_P(GroupsOfAnySize, WhatCleansUpWithAwaitsIsAwaited) {
  std::atomic<int> left{0};
  const auto main = [&](bool fails) -> Coroutine<> {
    for (EventLoop* loop : workers()) loop->create_task(slow_to_leave(left));
    for (int i = 0; i < 10; ++i) spawn(slow_to_leave(left));
    co_await sleep(1ms);
    if (fails) throw std::runtime_error("boom");
  };
  run(main(false));
  EXPECT_LE(left, 10 + static_cast<int>(GetParam()));
  EXPECT_EQ(thrown_by([&] { run(main(true)); }), "exception: boom");
}

Coroutine<> makes_more(Ledger& ledger, int generations) {
  Ledger::Entry entry(ledger);
  bool cancelled = false;
  try {
    co_await sleep(1h);
  } catch (const CancelledError&) {
    cancelled = true;
  }
  if (generations > 0) spawn(makes_more(ledger, generations - 1));
  entry.finish();
  if (cancelled) throw CancelledError();
}

TEST_F(GroupEnd, WhatIsMadeDuringTheEndEndsToo) {
  Ledger ledger;
  const auto main = [&]() -> Coroutine<> {
    for (int i = 0; i < 5; ++i) spawn(makes_more(ledger, 3));
    co_await until([&] { return ledger.begun() == 5; });
  };
  run(main);
  EXPECT_EQ(ledger.open(), 0);
  EXPECT_EQ(ledger.finished(), ledger.begun());
}

Coroutine<> fails_when_cancelled(std::atomic<int>& ready) {
  bool cancelled = false;
  ++ready;
  try {
    co_await sleep(1h);
  } catch (const CancelledError&) {
    cancelled = true;
  }
  if (cancelled) throw std::runtime_error("on the way out");
}

TEST_P(GroupsOfAnySize, WhatFailsWhileItIsCancelledIsReported) {
  std::atomic<int> ready{0};
  const auto main = [&]() -> Coroutine<int> {
    spawn(fails_when_cancelled(ready));
    workers().back()->create_task(fails_when_cancelled(ready));
    co_await until([&] { return ready == 2; });
    co_return 6;
  };
  EXPECT_EQ(run(main), 6);
  const std::string line = "unhandled exception during run() shutdown: exception: on the way out";
  EXPECT_THAT(Reports::take(), ElementsAre(line, line));
}

// ---- What else is left ----

AsyncGenerator<int> count(Ledger& ledger) {
  const Ledger::Entry entry(ledger);
  for (int i = 0;; ++i) {
    co_await sleep(0s);
    co_yield i;
  }
}

TEST_P(GroupsOfAnySize, AsyncGeneratorsAreClosed) {
  Ledger ledger;
  std::vector<AsyncGenerator<int>> left(8);
  const auto main = [&]() -> Coroutine<> {
    const auto use = [&](std::size_t i) -> Coroutine<> {
      left[i] = count(ledger);
      co_await left[i].next();
      co_await left[i].next();
    };
    for (std::size_t i = 0; i < left.size(); ++i) {
      if (i % 2 == 0) {
        co_await spawn(use(i));
      } else {
        co_await workers()[i % workers().size()]->create_task(use(i));
      }
    }
  };
  run(main);
  EXPECT_EQ(ledger.begun(), 8);
  EXPECT_EQ(ledger.open(), 0);
}

TEST_P(GroupsOfAnySize, TheDefaultExecutorIsAwaited) {
  std::atomic<bool> begun{false};
  std::atomic<bool> finished{false};
  const auto main = [&]() -> Coroutine<> {
    workers().back()->run_in_executor(nullptr, [&] {
      begun = true;
      for (int i = 0; i < 1000; ++i) std::this_thread::yield();
      finished = true;
    });
    co_await until([&] { return begun.load(); });
  };
  run(main);
  EXPECT_TRUE(finished);
}

// The group has one default executor, whichever of its loops is asked.
TEST_P(GroupsOfAnySize, TheDefaultExecutorIsShutDownThroughAnyLoop) {
  const auto main = [](std::size_t of, std::size_t on) -> Coroutine<> {
    std::atomic<bool> ran{false};
    auto work = [&ran] {
      for (int i = 0; i < 1000; ++i) std::this_thread::yield();
      ran = true;
    };
    Future<> future = current_loop().run_in_executor(nullptr, work);
    const std::vector<EventLoop*> loops = workers();
    co_await loops[on]->create_task(shutdown_default_executor(*loops[of]));
    EXPECT_TRUE(ran);
    co_await future;
    for (EventLoop* loop : loops) {
      EXPECT_EQ(thrown_by([&] { loop->run_in_executor(nullptr, [] {}); }),
                "RuntimeError: Executor shutdown has been called");
    }
  };
  const std::size_t last = GetParam() - 1;
  for (const std::size_t of : {std::size_t{0}, last}) {
    for (const std::size_t on : {std::size_t{0}, last}) run([&] { return main(of, on); });
  }
}

// Its threads do not end before the test says so.
class LastingExecutor final : public Executor {
 public:
  void submit(Job& job) override { job.run(); }
  void shutdown(bool wait, bool) override {
    if (wait) go.wait(false);
  }

  std::atomic<bool> go{false};
};

TEST_P(GroupsOfAnySize, TheDefaultExecutorIsLeftToItselfAfterATimeout) {
  const auto main = [](std::size_t of, bool floats) -> Coroutine<> {
    const std::vector<EventLoop*> loops = workers();
    auto lasting = std::make_shared<LastingExecutor>();
    loops[of]->set_default_executor(lasting);
    Coroutine<> shutdown = shutdown_default_executor(*loops[of], 1ms);
    if (floats) {
      co_await spawn(std::move(shutdown));
    } else {
      co_await loops.front()->create_task(std::move(shutdown));
    }
    EXPECT_THAT(Reports::take(), ElementsAre("The executor did not finish joining its threads within 1 ms."));
    lasting->go = true;
    lasting->go.notify_all();
  };
  const std::size_t last = GetParam() - 1;
  for (int i = 0; i < 10; ++i) run([&] { return main(last, i % 2 == 0); });
}

TEST_P(GroupsOfAnySize, CallbacksAndTimersThatAreLeftAreDropped) {
  Ledger ledger;
  const auto main = [&]() -> Coroutine<> {
    for (EventLoop* loop : workers()) {
      const auto entry = std::make_shared<Ledger::Entry>(ledger);
      loop->call_later(1h, [entry] {});
      loop->call_soon([entry] {});
      current_loop().create_future().add_done_callback([entry](const Future<>&) {});
    }
    co_return;
  };
  run(main);
  EXPECT_EQ(ledger.begun(), static_cast<long>(GetParam()));
  EXPECT_EQ(ledger.open(), 0);
}

// ---- KeyboardInterrupt ----

Coroutine<> interrupt() {
  co_await sleep(0s);
  throw KeyboardInterrupt();
}

TEST_P(GroupsOfAnySize, KeyboardInterruptInAnyTaskEndsTheRun) {
  for (std::size_t place = 0; place <= GetParam(); ++place) {
    Ledger ledger;
    const auto main = [&]() -> Coroutine<> {
      spawn(sleeping(ledger));
      for (EventLoop* loop : workers()) loop->create_task(sleeping(ledger));
      co_await until([&] { return ledger.begun() == static_cast<long>(GetParam()) + 1; });
      if (place == GetParam()) {
        spawn(interrupt());
      } else {
        workers()[place]->create_task(interrupt());
      }
      co_await sleep(1h);
    };
    EXPECT_THROW(run(main), KeyboardInterrupt);
    EXPECT_EQ(ledger.open(), 0);
    EXPECT_EQ(ledger.finished(), 0);
    EXPECT_THAT(Reports::take(), ElementsAre("Task exception was never retrieved: KeyboardInterrupt"));
  }
}

TEST_P(GroupsOfAnySize, KeyboardInterruptInACallbackEndsTheRun) {
  for (std::size_t place = 0; place < GetParam(); ++place) {
    const auto main = [&]() -> Coroutine<> {
      workers()[place]->call_soon([] { throw KeyboardInterrupt(); });
      co_await sleep(1h);
    };
    EXPECT_THROW(run(main), KeyboardInterrupt);
  }
}

TEST_P(GroupsOfAnySize, WhatMainLeavesEndsThoughItWasKeyboardInterrupt) {
  for (int round = 0; round < 20; ++round) {
    std::atomic<int> left{0};
    const auto main = [&]() -> Coroutine<> {
      std::atomic<int> begun{0};
      const auto child = [&]() -> Coroutine<> {
        ++begun;
        co_await slow_to_leave(left);
      };
      for (int i = 0; i < 4; ++i) spawn(child());
      co_await until([&] { return begun == 4; });
      throw KeyboardInterrupt();
    };
    EXPECT_THROW(run(main), KeyboardInterrupt);
    EXPECT_EQ(left, 4);
  }
}

TEST_P(GroupsOfAnySize, ARunnerGoesOnAfterKeyboardInterrupt) {
  Runner runner(with(GetParam()));
  for (int round = 0; round < 10; ++round) {
    EXPECT_THROW(runner.run(interrupt()), KeyboardInterrupt);
    EXPECT_EQ(runner.run(give(round)), round);
  }
}

Coroutine<> raise_and_sleep(std::atomic<int>& cleaned) {
  ::raise(SIGINT);
  bool cancelled = false;
  try {
    co_await sleep(1h);
  } catch (const CancelledError&) {
    cancelled = true;
  }
  ++cleaned;
  if (cancelled) throw CancelledError();
}

TEST_P(GroupsOfAnySize, SigintCancelsMainWhereverItRuns) {
  std::signal(SIGINT, SIG_DFL);
  std::atomic<int> cleaned{0};
  Runner runner(with(GetParam()));
  for (int round = 1; round <= 5; ++round) {
    EXPECT_THROW(runner.run(raise_and_sleep(cleaned)), KeyboardInterrupt);
    EXPECT_EQ(cleaned, round);
  }
  EXPECT_EQ(runner.run(give(2)), 2);
}

// ---- Handles that outlive the run ----

struct Kept {
  Task<std::string> done;
  Task<> failed;
  Task<> cancelled;
  Task<> left;
  Task<> pinned;
  Future<int> pending;
  Future<int> full;
  std::optional<Handle> callback;
  std::optional<TimerHandle> timer;
};

Coroutine<std::string> text() { co_return "a text that is too long to be kept in place"; }
Coroutine<> boom() {
  co_await sleep(0s);
  throw std::runtime_error("boom");
}

Coroutine<> keep_handles(Kept& kept, Ledger& ledger) {
  EventLoop& last = *workers().back();
  kept.done = create_task(text(), {.name = "the first"});
  kept.failed = spawn(boom());
  kept.cancelled = spawn(sleeping(ledger));
  kept.left = spawn(sleeping(ledger));
  kept.pinned = last.create_task(sleeping(ledger));
  kept.pending = last.create_future<int>();
  kept.full = current_loop().create_future<int>();
  kept.full.set_result(4);
  kept.callback = last.call_later(1h, [] {});
  kept.timer = current_loop().call_later(1h, [] {});
  co_await until([&] { return ledger.begun() == 3 && kept.done.done() && kept.failed.done(); });
  kept.cancelled.cancel("enough");
  co_await until([&] { return kept.cancelled.done(); });
}

void inspect(Kept& kept) {
  EXPECT_EQ(kept.done.result(), "a text that is too long to be kept in place");
  EXPECT_EQ(kept.done.get_name(), "the first");
  EXPECT_EQ(thrown_by([&] { kept.failed.result(); }), "exception: boom");
  EXPECT_EQ(thrown_by([&] { kept.cancelled.result(); }), "CancelledError: enough");
  for (const Task<>& task : {kept.cancelled, kept.left, kept.pinned}) {
    EXPECT_TRUE(task.cancelled());
    EXPECT_EQ(task.cancelling(), 1);
    EXPECT_THAT(task.get_stack(), SizeIs(0));
  }
  EXPECT_FALSE(kept.left.cancel());
  EXPECT_FALSE(kept.left.get_name().empty());
  EXPECT_FALSE(kept.pending.done());
  EXPECT_THROW(kept.pending.result(), InvalidStateError);
  EXPECT_EQ(kept.full.result(), 4);
  EXPECT_GT(kept.timer->when(), TimePoint());
}

TEST_P(GroupsOfAnySize, HandlesMayBeLookedAtAndDroppedAfterwards) {
  Ledger ledger;
  auto kept = std::make_unique<Kept>();
  run(keep_handles(*kept, ledger));
  EXPECT_EQ(ledger.open(), 0);
  inspect(*kept);
  kept->timer->cancel();
  kept->callback->cancel();
  kept.reset();
}

TEST_P(GroupsOfAnySize, HandlesMayBeDroppedOnAnotherThread) {
  Ledger ledger;
  auto kept = std::make_unique<Kept>();
  run(keep_handles(*kept, ledger));
  std::thread([&] {
    inspect(*kept);
    kept.reset();
  }).join();
}

TEST_F(GroupEnd, AHandleDroppedDuringAnotherRun) {
  std::optional<Kept> kept(std::in_place);
  Ledger ledger;
  run(keep_handles(*kept, ledger));
  const auto drop = [&]() -> Coroutine<> {
    co_await sleep(0s);
    inspect(*kept);
    kept.reset();
  };
  run(drop);
  EXPECT_FALSE(kept);
}

}  // namespace
}  // namespace ouro
