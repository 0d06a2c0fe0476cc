// gather and map of floating tasks: what they give, in which order, what an error does, and how deep and wide they go.
#include <gmock/gmock.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <fstream>
#include <memory>
#include <ranges>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>
#include <variant>
#include <vector>

#include <unistd.h>

#include <ouro/ouro.hpp>

#include "support/group.hpp"

namespace ouro {
namespace {

using namespace std::chrono_literals;
using test::Crowd;
using test::describe;
using test::GroupsOfAnySize;
using test::Ledger;
using test::meet;
using test::until;

INSTANTIATE_TEST_SUITE_P(Workers, GroupsOfAnySize, testing::Values(1U, 2U, 4U), testing::PrintToStringParamName());

struct NoDefault {
  explicit NoDefault(int v) : value(v) {}
  int value;
};

struct alignas(64) Wide {
  int value = 0;
};

// How a child goes about it: at once, after its turn, after a moment, or by way of an executor.
Coroutine<> detour(int i) {
  switch (i % 4) {
    case 0:
      break;
    case 1:
      co_await sleep(0s);
      break;
    case 2:
      co_await sleep(50us);
      break;
    default:
      co_await to_thread([] {});
  }
}

Coroutine<int> number(int i) {
  co_await detour(i);
  co_return i;
}
Coroutine<std::string> text(int i) {
  co_await detour(i);
  co_return std::string(40, static_cast<char>('a' + i % 26));
}
Coroutine<std::unique_ptr<int>> boxed(int i) {
  co_await detour(i);
  co_return std::make_unique<int>(i);
}
Coroutine<> nothing(int i, std::atomic<int>& ran) {
  co_await detour(i);
  ++ran;
}
Coroutine<int&> same(int& i) {
  co_await detour(i);
  co_return i;
}
Coroutine<bool> truth(int i) {
  co_await detour(i);
  co_return i % 3 == 0;
}
Coroutine<NoDefault> no_default(int i) {
  co_await detour(i);
  co_return NoDefault(i);
}
Coroutine<Wide> wide(int i) {
  co_await detour(i);
  Wide result;
  result.value = i;
  co_return result;
}
Coroutine<int> failing(std::string what, int i) {
  co_await detour(i);
  throw std::runtime_error(what);
}

constexpr int many = 200;

template <class F>
auto make_many(F make) {
  std::vector<decltype(make(0))> coroutines;
  for (int i = 0; i < many; ++i) coroutines.push_back(make(i));
  return coroutines;
}

// ---- What they give ----

TEST_P(GroupsOfAnySize, AVectorOfResultsInOrder) {
  const auto main = []() -> Coroutine<> {
    const std::vector<int> numbers = co_await gather(make_many(number));
    const std::vector<std::string> texts = co_await gather(make_many(text));
    const std::vector<std::unique_ptr<int>> boxes = co_await gather(make_many(boxed));
    const std::vector<bool> truths = co_await gather(make_many(truth));
    const std::vector<NoDefault> plain = co_await gather(make_many(no_default));
    const std::vector<Wide> aligned = co_await gather(make_many(wide));
    for (int i = 0; i < many; ++i) {
      const auto at = static_cast<std::size_t>(i);
      EXPECT_EQ(numbers[at], i);
      EXPECT_EQ(texts[at], std::string(40, static_cast<char>('a' + i % 26)));
      EXPECT_EQ(*boxes[at], i);
      EXPECT_EQ(truths[at], i % 3 == 0);
      EXPECT_EQ(plain[at].value, i);
      EXPECT_EQ(aligned[at].value, i);
    }
  };
  run(main);
}

TEST_P(GroupsOfAnySize, ReferencesAndVoid) {
  const auto main = []() -> Coroutine<> {
    std::vector<int> targets(many);
    for (int i = 0; i < many; ++i) targets[static_cast<std::size_t>(i)] = i;
    const auto refs = co_await gather(make_many([&](int i) { return same(targets[static_cast<std::size_t>(i)]); }));
    for (std::size_t i = 0; i < targets.size(); ++i) EXPECT_EQ(&refs[i].get(), &targets[i]);
    std::atomic<int> ran{0};
    co_await gather(make_many([&](int i) { return nothing(i, ran); }));
    EXPECT_EQ(ran, many);
  };
  run(main);
}

TEST_P(GroupsOfAnySize, ATupleOfResultsInOrder) {
  const auto main = []() -> Coroutine<> {
    for (int i = 0; i < 20; ++i) {
      std::atomic<int> ran{0};
      int target = i;
      auto results = co_await gather(number(i), text(i + 1), nothing(i + 2, ran), truth(i + 3), boxed(i),
                                     no_default(i + 1), wide(i + 2), same(target));
      static_assert(std::is_same_v<decltype(results), std::tuple<int, std::string, std::monostate, bool,
                                                                 std::unique_ptr<int>, NoDefault, Wide, int&>>);
      EXPECT_EQ(std::get<0>(results), i);
      EXPECT_EQ(std::get<1>(results).size(), 40U);
      EXPECT_EQ(ran, 1);
      EXPECT_EQ(std::get<3>(results), (i + 3) % 3 == 0);
      EXPECT_EQ(*std::get<4>(results), i);
      EXPECT_EQ(std::get<5>(results).value, i + 1);
      EXPECT_EQ(std::get<6>(results).value, i + 2);
      EXPECT_EQ(&std::get<7>(results), &target);
    }
  };
  run(main);
}

TEST_P(GroupsOfAnySize, Nothing) {
  const auto main = []() -> Coroutine<> {
    std::vector<Coroutine<int>> none;
    EXPECT_TRUE((co_await gather(std::move(none))).empty());
    std::vector<Task<int>> no_tasks;
    EXPECT_TRUE((co_await gather(std::move(no_tasks))).empty());
    const std::tuple<> empty = co_await gather();
    static_cast<void>(empty);
    std::vector<int> no_numbers;
    EXPECT_TRUE((co_await map(number, no_numbers)).empty());
    EXPECT_TRUE((co_await map(number, no_numbers, {.limit = 2})).empty());
  };
  run(main);
}

TEST_P(GroupsOfAnySize, ExceptionsAsResults) {
  const auto main = []() -> Coroutine<> {
    const auto child = [](int i) -> Coroutine<int> {
      co_await detour(i / 3);
      if (i % 3 == 1) throw std::runtime_error("one");
      if (i % 3 == 2) throw CancelledError("two");
      co_return i;
    };
    const auto check = [](std::vector<Outcome<int>> outcomes) {
      EXPECT_EQ(outcomes.size(), static_cast<std::size_t>(many));
      for (int i = 0; i < many; ++i) {
        const Outcome<int>& outcome = outcomes[static_cast<std::size_t>(i)];
        EXPECT_EQ(static_cast<bool>(outcome), i % 3 == 0);
        if (i % 3 == 0) {
          EXPECT_EQ(*outcome, i);
        }
        if (i % 3 == 1) {
          EXPECT_EQ(describe(outcome.exception()), "exception: one");
        }
        if (i % 3 == 2) {
          EXPECT_EQ(describe(outcome.exception()), "CancelledError: two");
        }
      }
    };
    check(co_await gather(return_exceptions, make_many(child)));
    check(co_await map(return_exceptions, child, std::views::iota(0, many)));
    check(co_await map(return_exceptions, child, std::views::iota(0, many), {.limit = 3}));
  };
  run(main);
}

// ---- Errors ----

Coroutine<int> waits(Ledger& ledger) {
  Ledger::Entry entry(ledger);
  co_await sleep(1h);
  entry.finish();
  co_return 0;
}

TEST_P(GroupsOfAnySize, TheFirstErrorEndsTheOthers) {
  const auto main = []() -> Coroutine<> {
    for (int round = 0; round < 20; ++round) {
      Ledger ledger;
      const auto child = [&](int i) -> Coroutine<int> {
        if (i != round) return waits(ledger);
        return failing("boom", round);
      };
      std::string thrown;
      try {
        co_await gather(make_many(child));
      } catch (const std::runtime_error& error) {
        thrown = error.what();
      }
      EXPECT_EQ(thrown, "boom");
      EXPECT_EQ(ledger.open(), 0);
      EXPECT_EQ(ledger.finished(), 0);
    }
  };
  run(main);
}

TEST_P(GroupsOfAnySize, ErrorsOfSeveralAtOnce) {
  const auto main = []() -> Coroutine<> {
    const int at_once = static_cast<int>(workers().size());
    for (int round = 0; round < 100; ++round) {
      std::atomic<int> arrived{0};
      Ledger ledger;
      const auto child = [&](int i) -> Coroutine<int> {
        Ledger::Entry entry(ledger);
        if (at_once > 1) meet(arrived, at_once);
        throw std::runtime_error(std::to_string(i));
        co_return i;
      };
      std::vector<Coroutine<int>> children;
      for (int i = 0; i < at_once; ++i) children.push_back(child(i));
      std::string thrown;
      try {
        co_await gather(std::move(children));
      } catch (const std::runtime_error& error) {
        thrown = error.what();
      }
      EXPECT_FALSE(thrown.empty());
      EXPECT_EQ(ledger.open(), 0);
    }
  };
  run(main);
}

TEST_P(GroupsOfAnySize, AnErrorDeepInATreeEndsAllOfIt) {
  const auto main = []() -> Coroutine<> {
    Ledger ledger;
    const auto tree = [&](auto& self, int depth, int seed) -> Coroutine<int> {
      Ledger::Entry entry(ledger);
      if (depth == 0) {
        if (seed == 77) co_return co_await failing("deep", seed);
        co_return co_await waits(ledger);
      }
      const auto [a, b] = co_await gather(self(self, depth - 1, 2 * seed), self(self, depth - 1, 2 * seed + 1));
      entry.finish();
      co_return a + b;
    };
    for (int round = 0; round < 10; ++round) {
      std::string thrown;
      try {
        co_await tree(tree, 7, 0);
      } catch (const std::runtime_error& error) {
        thrown = error.what();
      }
      EXPECT_EQ(thrown, "deep");
      EXPECT_EQ(ledger.open(), 0);
    }
  };
  run(main);
}

// ---- Futures of the caller ----

TEST_P(GroupsOfAnySize, FuturesAmongTheChildren) {
  const auto main = []() -> Coroutine<> {
    for (int round = 0; round < 20; ++round) {
      Future<int> before = current_loop().create_future<int>();
      before.set_result(1);
      Future<int> after = workers().back()->create_future<int>();
      Task<int> task = spawn(number(3));
      Task<> completes = spawn([](Future<int> future, int i) -> Coroutine<> {
        co_await detour(i);
        future.set_result(2);
      }(after, round));
      const auto [a, b, c, d, e] = co_await gather(before, after, task, number(round), after);
      EXPECT_EQ(std::make_tuple(a, b, c, d, e), std::make_tuple(1, 2, 3, round, 2));
      co_await completes;
    }
  };
  run(main);
}

TEST_P(GroupsOfAnySize, ACancelledFutureAmongTheChildren) {
  const auto main = []() -> Coroutine<> {
    for (const bool at_once : {true, false}) {
      Ledger ledger;
      Future<int> future = workers().back()->create_future<int>();
      if (at_once) future.cancel("gone");
      Task<> cancels = spawn([](Future<int> f) -> Coroutine<> {
        co_await sleep(50us);
        f.cancel("gone");
      }(future));
      Task<int> other = spawn(waits(ledger));
      co_await until([&] { return ledger.begun() == 1; });
      std::string thrown;
      try {
        co_await gather(future, waits(ledger), other);
      } catch (const CancelledError&) {
        thrown = "cancelled";
      }
      EXPECT_EQ(thrown, "cancelled");
      EXPECT_FALSE(other.done());  // the caller's own runs on
      EXPECT_EQ(ledger.open(), 1);
      other.cancel();
      co_await cancels;
      co_await until([&] { return other.done(); });
    }
  };
  run(main);
}

// ---- Depth and width ----

Coroutine<int> nested(int depth) {
  if (depth == 0) co_return 0;
  const auto [below, one] = co_await gather(nested(depth - 1), number(1));
  co_return below + one;
}

TEST_P(GroupsOfAnySize, AThousandDeep) {
  for (int round = 0; round < 3; ++round) EXPECT_EQ(run(nested(1000)), 1000);
}

// How much of any thread's stack lay between two calls of look().
class StackSpan {
 public:
  __attribute__((noinline)) void look() {
    static thread_local std::uintptr_t lowest = 0, highest = 0;
    const auto here = reinterpret_cast<std::uintptr_t>(__builtin_frame_address(0));
    if (highest < here) highest = here;
    if (lowest == 0 || lowest > here) lowest = here;
    std::uintptr_t seen = most_.load();
    while (seen < highest - lowest && !most_.compare_exchange_weak(seen, highest - lowest)) {
    }
  }
  std::uintptr_t most() const { return most_.load(); }

 private:
  std::atomic<std::uintptr_t> most_{0};
};

// An eager task runs inside the call that makes it, but the children of its gather do not: or a chain of such tasks
// would overflow the stack.
Coroutine<int> eagerly(StackSpan& stack, int depth);
Coroutine<int> in_an_eager_task(StackSpan& stack, int depth) {
  TaskOptions options;
  options.eager_start = true;
  Task<int> below = create_task(eagerly(stack, depth), options);
  co_return co_await std::move(below);
}
Coroutine<int> eagerly(StackSpan& stack, int depth) {
  stack.look();
  if (depth == 0) co_return 0;
  const auto [below, nought] = co_await gather(in_an_eager_task(stack, depth - 1), number(0));
  co_return below + nought + 1;
}

TEST_P(GroupsOfAnySize, EagerTasksThatGatherGrowNoStack) {
  constexpr int depth = 10000;
  StackSpan stack;
  EXPECT_EQ(run(in_an_eager_task(stack, depth)), depth);
  EXPECT_LT(stack.most(), 64U * 1024);
}

// Counts the frames that live, from their making on.
class Frame {
 public:
  explicit Frame(Crowd& crowd) noexcept : crowd_(&crowd) { crowd.enter(); }
  Frame(Frame&& other) noexcept : crowd_(std::exchange(other.crowd_, nullptr)) {}
  Frame& operator=(Frame&&) = delete;
  ~Frame() {
    if (crowd_) crowd_->leave();
  }
  Crowd& crowd() const noexcept { return *crowd_; }

 private:
  Crowd* crowd_;
};

Coroutine<long> fib(int n) {
  if (n < 2) co_return n;
  const auto [a, b] = co_await gather(fib(n - 1), fib(n - 2));
  co_return a + b;
}

Coroutine<long> skynet(Frame frame, long first, long size) {
  if (size == 1) co_return first;
  std::vector<Coroutine<long>> children;
  children.reserve(10);
  for (long i = 0; i < 10; ++i) children.push_back(skynet(Frame(frame.crowd()), first + i * size / 10, size / 10));
  long sum = 0;
  for (long part : co_await gather(std::move(children))) sum += part;
  co_return sum;
}

long resident_kilobytes() {
  std::ifstream statm("/proc/self/statm");
  long all = 0;
  long resident = 0;
  statm >> all >> resident;
  return resident * ::sysconf(_SC_PAGESIZE) / 1024;
}

// A million tasks, of which only those on the ways down live at once, a way for each worker. On one loop the children
// of a gather take turns instead.
TEST_P(GroupsOfAnySize, AForkJoinProgramNeedsLittleMemory) {
  if (GetParam() == 1) return;
  Crowd crowd;
  EXPECT_EQ(run(fib(15)), 610);
  EXPECT_EQ(run(skynet(Frame(crowd), 0, 1000)), 499'500);
  const long before = resident_kilobytes();
  EXPECT_EQ(run(fib(27)), 196'418);
  EXPECT_EQ(run(skynet(Frame(crowd), 0, 1'000'000)), 499'999'500'000);
  EXPECT_LT(crowd.most(), 10'000);
#if !OURO_ASAN && !OURO_TSAN
  // A frame takes some hundred bytes: all at once would be more than 100 MiB.
  EXPECT_LT(resident_kilobytes() - before, 32 * 1024);
#else
  static_cast<void>(before);
#endif
}

}  // namespace
}  // namespace ouro
