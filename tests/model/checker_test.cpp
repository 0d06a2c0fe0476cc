// The checker against programs with known mistakes: each must be found, and the same program without it must pass. And
// that it finds them at the bound where they are, tells them by a schedule that can be replayed, and leaves nothing out
// when it cuts off what it has seen.
#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sched.h>

#include <model/mutants.hpp>
#include <ouro/runtime/detail/atomic.hpp>
#include <ouro/runtime/detail/futex.hpp>

namespace {

using ouro::detail::Atomic;
using ouro::detail::futex_wait;
using ouro::detail::futex_wake;
using ouro::model::check;
using ouro::model::explore;
using ouro::model::Options;
using ouro::model::Report;
using testing::HasSubstr;
using testing::StartsWith;

constexpr auto relaxed = std::memory_order_relaxed;
constexpr auto acquire = std::memory_order_acquire;
constexpr auto release = std::memory_order_release;
constexpr auto acq_rel = std::memory_order_acq_rel;

Report run(const std::function<void()>& program, unsigned preemptions = 3) {
  Options options;
  options.preemptions = preemptions;
  const Report report = explore(options, program);
  EXPECT_TRUE(report.failed || report.complete);
  return report;
}

// What the program fails with; empty if it does not.
std::string failure(const std::function<void()>& program, unsigned preemptions = 3) {
  return run(program, preemptions).message;
}

// ---- Plain memory ----

void publish(std::memory_order stores, std::memory_order loads) {
  int data = 0;
  Atomic<bool> ready{false};
  std::thread writer([&] {
    data = 1;
    ready.store(true, stores);
  });
  if (ready.load(loads)) check(data == 1, "published");
  writer.join();
}

TEST(Checker, FindsDataRaces) {
  EXPECT_EQ("", failure([] { publish(release, acquire); }));
  EXPECT_THAT(failure([] { publish(relaxed, acquire); }), StartsWith("data race"));
  EXPECT_THAT(failure([] { publish(release, relaxed); }), StartsWith("data race"));
  // Also where the value is right in every execution; and bytes of one word are apart.
  EXPECT_THAT(failure([] {
                int data = 0;
                std::thread other([&] { data = 1; });
                data = 1;
                other.join();
              }),
              StartsWith("data race"));
  EXPECT_EQ("", failure([] {
              struct {
                char a, b;
              } data{};
              std::thread other([&] { data.a = 1; });
              data.b = 1;
              other.join();
            }));
}

TEST(Checker, KnowsWhatAMutexOrders) {
  const auto program = [](bool locked) {
    std::mutex mutex;
    int data = 0;
    const auto add = [&] {
      std::unique_lock lock(mutex, std::defer_lock);
      if (locked) lock.lock();
      ++data;
    };
    std::thread other(add);
    add();
    other.join();
    check(data == 2, "both have added");
  };
  EXPECT_EQ("", failure([&] { program(true); }));
  EXPECT_THAT(failure([&] { program(false); }), StartsWith("data race"));
}

// ---- Memory ----

void count_down(std::memory_order order) {
  struct Shared {
    Atomic<int> count{2};
    int data = 0;
  };
  auto* shared = new Shared;
  const auto let_go = [shared, order] {
    static_cast<void>(shared->data);
    if (shared->count.fetch_sub(1, order) == 1) delete shared;
  };
  std::thread other(let_go);
  let_go();
  other.join();
}

TEST(Checker, FindsUseAfterFree) {
  EXPECT_EQ("", failure([] { count_down(acq_rel); }));
  EXPECT_THAT(failure([] { count_down(relaxed); }), StartsWith("freed while it may be in use"));
  EXPECT_THAT(failure([] {
                auto value = std::make_unique<Atomic<int>>(0);
                Atomic<int>* const kept = value.get();
                value.reset();
                kept->load();
              }),
              StartsWith("use after free"));
  Options options;
  options.warm_up = false;
  const Report twice = explore(options, [] {
    void* volatile memory = ::operator new(4);
    ::operator delete(memory);
    ::operator delete(memory);
  });
  EXPECT_THAT(twice.message, StartsWith("memory is freed twice"));
}

TEST(Checker, FindsWhatIsLeftBehind) {
  EXPECT_THAT(failure([] { [[maybe_unused]] void* volatile memory = ::operator new(4); }), HasSubstr("4 bytes of T0"));
}

// ---- Waiting ----

// Sleeps until `word` is set. `again`: sets a bit that says so, in the same word.
void sleep_and_wake(bool says_so) {
  Atomic<std::uint32_t> word{0};
  std::thread waker([&] {
    if (word.exchange(2, acq_rel) == 1 || !says_so) futex_wake(word, 1);
  });
  std::uint32_t seen = 0;
  if (says_so && !word.compare_exchange_strong(seen, 1, acq_rel, relaxed)) {
    waker.join();
    return;
  }
  while ((seen = word.load(relaxed)) != 2) futex_wait(word, seen);
  waker.join();
}

TEST(Checker, FindsLostWakeUps) {
  EXPECT_EQ("", failure([] { sleep_and_wake(true); }));
  EXPECT_EQ("", failure([] { sleep_and_wake(false); }));
  // The flag is not the word that is slept on: the wake may come between the look and the sleep.
  EXPECT_THAT(failure([] {
                Atomic<std::uint32_t> word{0};
                Atomic<bool> flag{false};
                std::thread waker([&] {
                  flag.store(true);
                  futex_wake(word, 1);
                });
                while (!flag.load()) futex_wait(word, 0);
                waker.join();
              }),
              StartsWith("deadlock"));
}

TEST(Checker, FindsDeadlocksOfMutexes) {
  const auto program = [](bool crossed) {
    std::mutex a, b;
    const auto lock = [](std::mutex& first, std::mutex& second) {
      const std::lock_guard outer(first);
      const std::lock_guard inner(second);
    };
    std::thread other([&] { lock(a, b); });
    crossed ? lock(b, a) : lock(a, b);
    other.join();
  };
  EXPECT_EQ("", failure([&] { program(false); }));
  EXPECT_THAT(failure([&] { program(true); }), StartsWith("deadlock"));
}

TEST(Checker, LetsSpinnersSpinAndFindsThoseThatSpinForEver) {
  const auto program = [](bool sets) {
    Atomic<bool> flag{false}, other_flag{false};
    std::thread other([&] {
      while (!other_flag.load(relaxed)) sched_yield();
      if (sets) flag.store(true, relaxed);
    });
    other_flag.store(true, relaxed);
    while (!flag.load(relaxed)) sched_yield();
    other.join();
  };
  EXPECT_EQ("", failure([&] { program(true); }));
  EXPECT_THAT(failure([&] { program(false); }), StartsWith("threads spin for ever"));
}

TEST(Checker, SurprisesAreTried) {
  Options options;
  const auto program = [] {
    Atomic<int> x{0};
    int expected = 0;
    check(x.compare_exchange_weak(expected, 1), "a weak exchange succeeds");
  };
  EXPECT_FALSE(explore(options, program).failed);
  options.surprises = 1;
  EXPECT_TRUE(explore(options, program).failed);
}

// ---- Exploring ----

// Fails only if the other thread's steps come one by one between this one's.
void needs_preemptions(int count) {
  Atomic<int> turn{0};
  std::thread other([&] {
    for (int i = 0; i < count; ++i) turn.fetch_add(1, relaxed);
  });
  int seen = 0;
  for (int i = 0; i <= count; ++i) seen += turn.fetch_add(100, relaxed) % 100 == i;
  other.join();
  check(seen <= count, "not interrupted so often");
}

TEST(Checker, FindsAMistakeAtItsBound) {
  for (const int count : {1, 2}) {
    const auto needed = static_cast<unsigned>(2 * count - 1);
    EXPECT_EQ("", failure([=] { needs_preemptions(count); }, needed - 1));
    EXPECT_NE("", failure([=] { needs_preemptions(count); }, needed));
  }
}

TEST(Checker, AFailureCanBeReplayed) {
  const auto program = [] { publish(relaxed, acquire); };
  const Report found = run(program);
  ASSERT_TRUE(found.failed);
  EXPECT_THAT(found.trace, HasSubstr("store"));
  EXPECT_THAT(found.trace, HasSubstr("checker_test.cpp"));
  Options options;
  options.schedule = found.schedule;
  const Report again = explore(options, program);
  EXPECT_TRUE(again.failed);
  EXPECT_EQ(found.message, again.message);
  EXPECT_EQ(found.trace, again.trace);
  EXPECT_EQ(1U, again.executions);
}

// Cutting off what was seen leaves out no outcome.
TEST(Checker, NothingIsLostByCuttingOff) {
  const auto program = [] {
    Atomic<int> x{0}, y{0};
    int a = 0, b = 0, c = 0;
    std::thread first([&] {
      x.store(1, relaxed);
      a = y.exchange(1, acq_rel);
    });
    std::thread second([&] {
      y.store(2, release);
      b = x.fetch_add(2, relaxed);
    });
    c = x.load(acquire) * 10 + y.load(relaxed);
    first.join();
    second.join();
    ouro::model::record({a, b, c, x.load(relaxed), y.load(relaxed)});
  };
  Options options;
  options.preemptions = 20;
  options.only_contested = false;
  const Report cut = explore(options, program);
  options.cut_off = false;
  const Report whole = explore(options, program);
  ASSERT_TRUE(cut.complete && whole.complete) << whole.summary();
  EXPECT_EQ(whole.outcomes, cut.outcomes);
  EXPECT_LT(cut.executions * 4, whole.executions);
}

// Nor by preempting nobody where nothing is contested.
TEST(Checker, NothingIsLostByPreemptingWhereItMatters) {
  const auto program = [] {
    Atomic<int> x{0}, y{0}, own{0};
    int a = 0, b = 0;
    std::thread other([&] {
      Atomic<int> mine{0};
      mine.fetch_add(1);
      x.store(1, relaxed);
      mine.fetch_add(1);
      a = y.load(relaxed);
      mine.fetch_add(1);
    });
    own.fetch_add(1);
    y.store(1, relaxed);
    own.fetch_add(1);
    b = x.load(relaxed);
    own.fetch_add(1);
    other.join();
    ouro::model::record({a, b, own.load(relaxed)});
  };
  Options options;
  options.preemptions = 6;
  const Report some = explore(options, program);
  options.only_contested = false;
  const Report all = explore(options, program);
  ASSERT_TRUE(some.complete && all.complete) << some.summary();
  EXPECT_EQ(all.outcomes, some.outcomes);
  EXPECT_LT(some.states * 2, all.states);
}

// ---- Words that are atomic and plain by turns ----

TEST(Checker, PlainAndAtomicByTurns) {
  const auto program = [](bool beside) {
    int word = 1;
    std::thread other([&] {
      __atomic_store_n(&word, 2, __ATOMIC_RELAXED);
      word = 3;
    });
    if (beside) static_cast<void>(__atomic_load_n(&word, __ATOMIC_ACQUIRE));
    other.join();
    check(__atomic_fetch_add(&word, 1, __ATOMIC_RELAXED) == 3, "a plain write begins it anew");
    check(word == 4, "what an operation wrote is in the object");
  };
  EXPECT_EQ("", failure([&] { program(false); }));
  EXPECT_THAT(failure([&] { program(true); }), StartsWith("data race"));
}

TEST(Checker, APlainReadBesideAnAtomicWrite) {
  const auto program = [](int order) {
    int word = 0;
    int flag = 0;
    std::thread other([&] {
      __atomic_store_n(&word, 1, __ATOMIC_RELAXED);
      __atomic_store_n(&flag, 1, order);
    });
    if (__atomic_load_n(&flag, __ATOMIC_ACQUIRE) == 1) check(word == 1, "it is the value that was stored");
    other.join();
  };
  EXPECT_EQ("", failure([&] { program(__ATOMIC_RELEASE); }));
  EXPECT_THAT(failure([&] { program(__ATOMIC_RELAXED); }), StartsWith("data race"));
}

TEST(Checker, ARecursiveMutexIsLockedAgain) {
  const auto program = [](bool both) {
    std::recursive_mutex mutex;
    int plain = 0;
    std::thread other([&] {
      const std::lock_guard outer(mutex);
      {
        const std::lock_guard inner(mutex);
      }
      ++plain;
    });
    if (both) mutex.lock();
    ++plain;
    if (both) mutex.unlock();
    other.join();
  };
  EXPECT_EQ("", failure([&] { program(true); }));
  EXPECT_THAT(failure([&] { program(false); }), StartsWith("data race"));
}

// ---- Mutants ----

TEST(Checker, AMutantIsMadeWhereItIsNamed) {
  const auto program = [] { publish(release, acquire); };
  const Report original = run(program);
  ASSERT_FALSE(original.failed);
  Options options;
  options.sites = &original.sites;
  const ouro::model::Mutation weak{ouro::model::Mutate::weaken, "publish", "load", 0, relaxed};
  options.mutation = &weak;
  EXPECT_TRUE(explore(options, program).failed);
  const ouro::model::Mutation elsewhere{ouro::model::Mutate::weaken, "publish", "load", 1, relaxed};
  options.mutation = &elsewhere;
  EXPECT_FALSE(explore(options, program).failed);
}

}  // namespace
