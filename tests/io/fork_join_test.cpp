// fork and join: what the scope gives, in which order, what errors and cancellations do, and that a thief's half and
// the rest come together. On a single loop, in groups, and of pinned tasks in them.
#include <gmock/gmock.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
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
using test::describe;
using test::GroupsOfAnySize;
using test::GroupTest;
using test::Ledger;
using test::until;
using testing::ElementsAre;

INSTANTIATE_TEST_SUITE_P(Workers, GroupsOfAnySize, testing::Values(1U, 2U, 4U, 16U), testing::PrintToStringParamName());

// Runs a main task as it is, and once more as a pinned task.
template <class F>
Coroutine<> floating_and_pinned(F body) {
  co_await body();
  co_await current_loop().create_task(body());
}

Coroutine<long> fib(int n) {
  if (n < 2) co_return n;
  long one = 0, other = 0;
  ForkScope scope;
  co_await scope.fork(one, fib(n - 1));
  co_await scope.call(other, fib(n - 2));
  co_await scope.join();
  co_return one + other;
}

// Goes about it in different ways: at once, after its turn, after a moment, by way of an executor.
Coroutine<> detour(std::uint32_t i) {
  if (i % 4 == 1) co_await sleep(0s);
  if (i % 16 == 2) co_await sleep(50us);
  if (i % 64 == 3) co_await to_thread([] {});
}

// ---- Results ----

TEST_P(GroupsOfAnySize, FibIsRight) {
  const auto body = []() -> Coroutine<> { EXPECT_EQ(co_await fib(18), 2584); };
  run(floating_and_pinned(body));
}

Coroutine<std::string> text(std::uint32_t i) {
  co_await detour(i);
  co_return std::string(40, static_cast<char>('a' + i % 26));
}
Coroutine<std::unique_ptr<int>> boxed(int i) {
  co_await detour(static_cast<std::uint32_t>(i));
  co_return std::make_unique<int>(i);
}
Coroutine<bool> odd(int i) {
  co_await detour(static_cast<std::uint32_t>(i));
  co_return i % 2 == 1;
}
Coroutine<> count_up(std::atomic<int>& counter) {
  co_await sleep(0s);
  ++counter;
}

TEST_P(GroupsOfAnySize, ResultsOfAnyKind) {
  const auto body = []() -> Coroutine<> {
    for (std::uint32_t i = 0; i < 64; ++i) {
      std::string word, called;
      std::unique_ptr<int> box;
      bool is_odd = false;
      std::atomic<int> counter = 0;
      ForkScope scope;
      co_await scope.fork(word, text(i));
      co_await scope.fork(box, boxed(static_cast<int>(i)));
      co_await scope.fork(is_odd, odd(static_cast<int>(i)));
      co_await scope.fork(count_up(counter));
      co_await scope.call(called, text(i + 1));
      co_await scope.call(count_up(counter));
      co_await scope.join();
      EXPECT_EQ(word, std::string(40, static_cast<char>('a' + i % 26)));
      EXPECT_EQ(called, std::string(40, static_cast<char>('a' + (i + 1) % 26)));
      EXPECT_EQ(*box, static_cast<int>(i));
      EXPECT_EQ(is_odd, i % 2 == 1);
      EXPECT_EQ(counter, 2);
    }
  };
  run(floating_and_pinned(body));
}

Coroutine<int> number(int i, Ledger& ledger) {
  Ledger::Entry entry(ledger);
  co_await detour(static_cast<std::uint32_t>(i));
  entry.finish();
  co_return i;
}

TEST_P(GroupsOfAnySize, ManyForksAndTheScopeAgain) {
  Ledger ledger;
  const auto body = [&ledger]() -> Coroutine<> {
    ForkScope scope;
    co_await scope.join();  // of nothing
    for (const int forks : {1, 8, 9, 700, 3, 40, 2000}) {
      std::vector<int> results(static_cast<std::size_t>(forks), -1);
      for (int i = 0; i < forks; ++i) co_await scope.fork(results[static_cast<std::size_t>(i)], number(i, ledger));
      co_await scope.join();
      for (int i = 0; i < forks; ++i) EXPECT_EQ(results[static_cast<std::size_t>(i)], i);
    }
  };
  run(floating_and_pinned(body));
  EXPECT_EQ(ledger.begun(), 2 * 2761);
  EXPECT_EQ(ledger.finished(), ledger.begun());
}

// ---- The order ----

Coroutine<> note(std::vector<int>& order, int i) {
  order.push_back(i);
  co_return;
}
Coroutine<> note_twice(std::vector<int>& order, int i) {
  order.push_back(i);
  co_await sleep(0s);
  order.push_back(-i);
}

TEST(ForkJoin, AChildRunsAtOnceAndTheCallerGoesOnWhenItWaits) {
  std::vector<int> order;
  const auto main = [&order]() -> Coroutine<> {
    ForkScope scope;
    co_await scope.fork(note(order, 1));
    order.push_back(2);
    co_await scope.fork(note_twice(order, 3));
    order.push_back(4);
    co_await scope.call(note(order, 5));
    co_await scope.join();
    order.push_back(6);
  };
  ouro::run(main());
  EXPECT_THAT(order, ElementsAre(1, 2, 3, 4, 5, -3, 6));
}

TEST_P(GroupsOfAnySize, AChildMayWaitForALaterOne) {
  const auto body = []() -> Coroutine<> {
    auto future = current_loop().create_future<int>();
    const auto wait = [](Future<int> f) -> Coroutine<int> { co_return co_await f; };
    const auto tell = [](Future<int> f) -> Coroutine<> {
      f.set_result(7);
      co_return;
    };
    int result = 0;
    ForkScope scope;
    co_await scope.fork(result, wait(future));
    co_await scope.fork(tell(future));
    co_await scope.join();
    EXPECT_EQ(result, 7);
  };
  run(floating_and_pinned(body));
}

TEST_P(GroupsOfAnySize, TheCallerIsStolenFromAChildThatComputes) {
  if (GetParam() == 1) GTEST_SKIP() << "nobody else is there";
  const auto main = []() -> Coroutine<> {
    std::atomic<bool> went_on = false;
    const auto compute = [](std::atomic<bool>& flag) -> Coroutine<> {
      while (!flag) std::this_thread::yield();
      co_return;
    };
    ForkScope scope;
    co_await scope.fork(compute(went_on));
    went_on = true;  // on another worker, while the child holds this one
    co_await scope.join();
  };
  run(main());
}

TEST_P(GroupsOfAnySize, FramesOfChildrenAreGoneWhenTheJoinReturns) {
  const auto body = []() -> Coroutine<> {
    for (std::uint32_t round = 0; round < 200; ++round) {
      std::atomic<int> alive = 0;
      struct Alive {
        explicit Alive(std::atomic<int>& of) : count(&of) { ++*count; }
        Alive(Alive&& other) noexcept : count(std::exchange(other.count, nullptr)) {}
        ~Alive() {
          if (count) --*count;
        }
        std::atomic<int>* count;
      };
      const auto child = [](Alive, std::uint32_t i) -> Coroutine<> { co_await detour(i); };
      ForkScope scope;
      for (std::uint32_t i = 0; i < 3; ++i) {
        auto argument = Alive(alive);
        auto coroutine = child(std::move(argument), round + i);
        co_await scope.fork(std::move(coroutine));
      }
      co_await scope.join();
      EXPECT_EQ(alive, 0);
    }
  };
  run(floating_and_pinned(body));
}

// ---- Errors ----

Coroutine<> fail_after(std::uint32_t i, std::string what) {
  co_await detour(i);
  throw std::runtime_error(what);
}
Coroutine<> forever(Ledger& ledger) {
  const Ledger::Entry entry(ledger);
  co_await sleep(24h);
}

template <class F>
Coroutine<std::string> error_of(F body) {
  try {
    co_await body();
  } catch (...) {
    co_return describe(std::current_exception());
  }
  co_return "nothing";
}

TEST_P(GroupsOfAnySize, AnErrorCancelsTheOthersAndComesOutOfTheJoin) {
  const auto body = []() -> Coroutine<> {
    for (std::uint32_t i = 0; i < 8; ++i) {
      Ledger ledger;
      const auto failing = [&ledger, i]() -> Coroutine<> {
        ForkScope scope;
        co_await scope.fork(forever(ledger));
        co_await scope.fork(forever(ledger));
        co_await scope.fork(fail_after(i, "first"));
        co_await until([&ledger] { return ledger.open() == 0; });
        co_await scope.fork(forever(ledger));  // is not started
        co_await scope.call(forever(ledger));  // nor this
        co_await scope.join();
      };
      EXPECT_EQ(co_await error_of(failing), "exception: first");
      EXPECT_EQ(ledger.begun(), 2);
      EXPECT_EQ(ledger.broken_off(), 2);
    }
  };
  run(floating_and_pinned(body));
}

TEST_P(GroupsOfAnySize, TheErrorOfACallWaitsForTheJoin) {
  const auto body = []() -> Coroutine<> {
    Ledger ledger;
    bool came_by = false;
    const auto failing = [&ledger, &came_by]() -> Coroutine<> {
      ForkScope scope;
      co_await scope.call(fail_after(0, "called"));
      co_await scope.fork(forever(ledger));
      came_by = true;
      co_await scope.join();
    };
    EXPECT_EQ(co_await error_of(failing), "exception: called");
    EXPECT_TRUE(came_by);
    EXPECT_EQ(ledger.begun(), 0);
    const auto beside = [&ledger]() -> Coroutine<> {
      ForkScope scope;
      co_await scope.fork(forever(ledger));
      co_await scope.call(fail_after(1, "called"));
      co_await scope.join();
    };
    EXPECT_EQ(co_await error_of(beside), "exception: called");
    EXPECT_EQ(ledger.broken_off(), 1);
  };
  run(floating_and_pinned(body));
}

// Two workers, both busy: what the one does comes in order with what the other does, and nobody steals.
void wait_for_step(const std::atomic<int>& step, int expected) {
  while (step.load() < expected) std::this_thread::yield();
}
Coroutine<> outlasts_its_cancellation(std::atomic<int>& step) {
  Future<int> never = current_loop().create_future<int>();
  try {
    co_await never;
  } catch (const CancelledError&) {
    step = 1;
  }
  wait_for_step(step, 2);
}
Coroutine<> gathers_a_failure(std::atomic<int>& step) {
  try {
    co_await gather(outlasts_its_cancellation(step), fail_after(0, "on purpose"));
  } catch (const std::runtime_error&) {
    step = 3;
  }
  wait_for_step(step, 4);
}
Coroutine<std::size_t> given(std::size_t value) { co_return value; }
Coroutine<> forks_beside_it(std::atomic<int>& step) {
  std::vector<std::size_t> results(41);
  ForkScope scope;
  wait_for_step(step, 1);
  for (std::size_t i = 0; i < 40; ++i) co_await scope.fork(results[i], given(i));
  step = 2;
  wait_for_step(step, 3);
  co_await scope.fork(results[40], given(40));
  step = 4;
  co_await scope.join();
  for (std::size_t i = 0; i < 41; ++i) EXPECT_EQ(results[i], i);
}

// While a gather of the group ends early, forks take a place of their own each; after that they share the first one.
TEST_F(GroupTest, ForksFindTheirPlacesWhenAFailureElsewhereIsOver) {
  const auto main = []() -> Coroutine<> {
    std::atomic<int> step{0};
    co_await gather(gathers_a_failure(step), forks_beside_it(step));
  };
  run_on(2, main());
}

TEST_P(GroupsOfAnySize, AScopeServesAgainAfterAnError) {
  const auto body = []() -> Coroutine<> {
    ForkScope scope;
    for (std::uint32_t i = 0; i < 20; ++i) {
      std::string caught;
      co_await scope.fork(fail_after(i, "again"));
      try {
        co_await scope.join();
      } catch (const std::runtime_error& error) {
        caught = error.what();
      }
      EXPECT_EQ(caught, "again");
      Ledger ledger;
      int result = 0;
      co_await scope.fork(result, number(5, ledger));
      co_await scope.join();
      EXPECT_EQ(result, 5);
    }
  };
  run(floating_and_pinned(body));
}

// A result is assigned to, as the slots of a gather are.
struct NoDefault {
  explicit NoDefault(int v) : value(v) {}
  int value;
};
template <class T>
concept Forkable = requires(ForkScope& scope, T& result, Coroutine<T> child) { scope.fork(result, std::move(child)); };
static_assert(Forkable<int> && Forkable<std::unique_ptr<int>> && !Forkable<NoDefault>);

TEST_P(GroupsOfAnySize, NothingOfAJoinThatThrewIsLeftForTheNext) {
  const auto body = []() -> Coroutine<> {
    Ledger ledger;
    int result = 0;
    ForkScope scope;
    co_await scope.fork(fail_after(0, "old"));
    current_task().cancel();
    const auto join = [&scope]() -> Coroutine<> { co_await scope.join(); };
    // With a thief the error may come after the cancellation, and be what is heard.
    EXPECT_THAT(co_await error_of(join), testing::AnyOf(testing::StartsWith("CancelledError"), "exception: old"));
    current_task().uncancel();
    EXPECT_EQ(co_await error_of(join), "nothing");
    co_await scope.fork(result, number(5, ledger));
    EXPECT_EQ(co_await error_of(join), "nothing");
    EXPECT_EQ(result, 5);
  };
  run(floating_and_pinned(body));
}

Coroutine<> join_twice(Ledger& ledger, std::vector<std::string>& heard) {
  ForkScope scope;
  const auto join = [&scope]() -> Coroutine<> { co_await scope.join(); };
  for (int i = 0; i < 2; ++i) {
    co_await scope.fork(forever(ledger));
    heard.push_back(co_await error_of(join));
    current_task().uncancel();
  }
}

TEST_P(GroupsOfAnySize, TheMessageOfACancellationIsHeardOnce) {
  const auto body = []() -> Coroutine<> {
    Ledger ledger;
    std::vector<std::string> heard;
    auto task = create_task(join_twice(ledger, heard));
    co_await until([&ledger] { return ledger.begun() == 1; });
    co_await sleep(0s);
    task.cancel("first");
    co_await until([&ledger] { return ledger.begun() == 2; });
    co_await sleep(0s);
    task.cancel();
    co_await task;
    EXPECT_THAT(heard, ElementsAre("CancelledError: first", "CancelledError: "));
  };
  run(floating_and_pinned(body));
}

TEST_P(GroupsOfAnySize, AScopeOfAnotherTaskIsRefused) {
  const auto body = []() -> Coroutine<> {
    Ledger ledger;
    ForkScope scope;
    std::string caught;
    const auto intrude = [](ForkScope& other, Ledger& l, std::string& what) -> Coroutine<> {
      int result = 0;
      try {
        co_await other.fork(result, number(0, l));
      } catch (const RuntimeError& error) {
        what = error.what();
      }
    };
    co_await scope.fork(intrude(scope, ledger, caught));
    co_await scope.join();
    EXPECT_THAT(caught, testing::HasSubstr("ForkScope belongs to the task"));
    EXPECT_EQ(ledger.begun(), 0);
  };
  run(floating_and_pinned(body));
}

// An error from deep below goes through all the scopes above, which cancel what runs beside it.
Coroutine<int> tree(int depth, std::uint32_t place, std::uint32_t bad, Ledger& ledger) {
  Ledger::Entry entry(ledger);
  co_await detour(place);
  if (depth == 0) {
    if (place == bad) throw std::runtime_error("leaf");
    entry.finish();
    co_return 1;
  }
  std::vector<int> leaves(3);
  ForkScope scope;
  co_await scope.fork(leaves[0], tree(depth - 1, 3 * place, bad, ledger));
  co_await scope.fork(leaves[1], tree(depth - 1, 3 * place + 1, bad, ledger));
  co_await scope.call(leaves[2], tree(depth - 1, 3 * place + 2, bad, ledger));
  co_await scope.join();
  entry.finish();
  co_return leaves[0] + leaves[1] + leaves[2];
}

TEST_P(GroupsOfAnySize, TreesWithAndWithoutABadLeaf) {
  const auto body = []() -> Coroutine<> {
    Ledger ledger;
    EXPECT_EQ(co_await tree(6, 0, 729, ledger), 729);
    EXPECT_EQ(ledger.finished(), ledger.begun());
    for (const std::uint32_t bad : {0U, 1U, 400U, 728U}) {
      const auto failing = [&ledger, bad]() -> Coroutine<> { co_await tree(6, 0, bad, ledger); };
      EXPECT_EQ(co_await error_of(failing), "exception: leaf");
      EXPECT_EQ(ledger.open(), 0);
    }
  };
  run(floating_and_pinned(body));
}

// ---- Cancellation ----

Coroutine<> two_forever(Ledger& ledger, bool call) {
  ForkScope scope;
  co_await scope.fork(forever(ledger));
  if (call) {
    co_await scope.call(forever(ledger));
  } else {
    co_await scope.fork(forever(ledger));
  }
  co_await scope.join();
}

TEST_P(GroupsOfAnySize, ACancelledTaskEndsAfterItsChildren) {
  const auto body = []() -> Coroutine<> {
    for (const bool call : {false, true}) {
      for (int round = 0; round < 20; ++round) {
        Ledger ledger;
        auto task = create_task(two_forever(ledger, call));
        if (round % 2 == 0) co_await until([&ledger] { return ledger.begun() == 2; });
        task.cancel();
        const auto wait = [](Task<>& t) -> Coroutine<> { co_await t; };
        std::string caught;
        try {
          co_await wait(task);
        } catch (const CancelledError&) {
          caught = "cancelled";
        }
        EXPECT_EQ(caught, "cancelled");
        EXPECT_TRUE(task.cancelled());
        EXPECT_EQ(ledger.open(), 0);
      }
    }
  };
  run(floating_and_pinned(body));
}

TEST_P(GroupsOfAnySize, ATreeOfScopesIsCancelledWhole) {
  const auto body = []() -> Coroutine<> {
    for (int round = 0; round < 30; ++round) {
      Ledger ledger;
      auto task = create_task(tree(7, 0, 99999, ledger));
      for (int i = 0; i < round; ++i) co_await sleep(0s);
      task.cancel();
      try {
        EXPECT_EQ(co_await task, 2187);  // it may have been faster
      } catch (const CancelledError&) {
      }
      EXPECT_EQ(ledger.open(), 0);
    }
  };
  run(floating_and_pinned(body));
}

TEST_P(GroupsOfAnySize, TheEndOfARunBreaksOffWhatIsForked) {
  Ledger ledger;
  const auto main = [&ledger]() -> Coroutine<> {
    std::vector<Task<>> tasks;
    for (int i = 0; i < 10; ++i) tasks.push_back(create_task(two_forever(ledger, i % 2 == 0)));
    tasks.push_back(current_loop().create_task(two_forever(ledger, false)));
    co_await until([&ledger] { return ledger.begun() == 22; });
  };
  run(main());
  EXPECT_EQ(ledger.open(), 0);
}

TEST_P(GroupsOfAnySize, AllTasksNamesTheChildrenThatWait) {
  const auto main = []() -> Coroutine<> {
    Ledger ledger;
    auto task = create_task(two_forever(ledger, false));
    co_await until([&ledger] { return ledger.begun() == 2; });
    co_await until([] { return all_tasks().size() >= 4; });
    task.cancel();
    try {
      co_await task;
    } catch (const CancelledError&) {
    }
  };
  run(main());
}

// ---- Misuse ----

TEST(ForkJoin, ACoroutineIsForkedOnce) {
  const auto main = []() -> Coroutine<> {
    std::vector<int> order;
    ForkScope scope;
    auto coroutine = note(order, 1);
    co_await scope.fork(std::move(coroutine));
    std::string caught;
    try {
      co_await scope.fork(std::move(coroutine));
    } catch (const RuntimeError& error) {
      caught = error.what();
    }
    EXPECT_NE(caught, "");
    caught.clear();
    try {
      co_await scope.call(std::move(coroutine));
    } catch (const RuntimeError& error) {
      caught = error.what();
    }
    EXPECT_NE(caught, "");
    co_await scope.join();
  };
  ouro::run(main());
}

TEST_P(GroupsOfAnySize, WhatIsNotAwaitedIsDestroyed) {
  const auto body = []() -> Coroutine<> {
    Ledger ledger;
    ForkScope scope;
    int result = 0;
    static_cast<void>(scope.fork(result, number(1, ledger)));
    static_cast<void>(scope.call(result, number(1, ledger)));
    co_await scope.join();
    EXPECT_EQ(ledger.begun(), 0);
  };
  run(floating_and_pinned(body));
}

TEST(ForkJoinDeathTest, AScopeThatGoesBeforeItsJoinIsNamed) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  for (const unsigned workers : {1U, 2U}) {
    const auto main = []() -> Coroutine<> {
      std::vector<int> order;
      ForkScope scope;
      co_await scope.fork(note(order, 1));
      throw std::runtime_error("in between");
    };
    const RunOptions options{.workers = workers};
    EXPECT_DEATH(ouro::run(main(), options), "ForkScope was destroyed between fork\\(\\) and join\\(\\)");
  }
}

}  // namespace
}  // namespace ouro
