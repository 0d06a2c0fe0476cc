// What a cancellation costs: 100,000 tasks that sleep at a depth of nested coroutines, cancelled and run to their ends,
// beside as many bare throws and catches; the least of several interleaved rounds. The bounds: 1.5 throws at depth 0,
// and one more for each level. Then a task group of which one child fails, for each child, and a timeout that is not
// reached.
#include <ouro/ouro.hpp>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <limits>
#include <stdexcept>
#include <vector>

namespace {

using namespace std::chrono_literals;
using Steady = std::chrono::steady_clock;

constexpr int tasks_at_once = 100'000;
constexpr int rounds = 7;
constexpr int deepest = 3;

double ns_since(Steady::time_point begin, double count) {
  return std::chrono::duration<double, std::nano>(Steady::now() - begin).count() / count;
}

__attribute__((noinline)) void throws() {
  asm volatile("");
  throw ouro::CancelledError();
}

double bare_throw() {
  int caught = 0;
  const auto begin = Steady::now();
  for (int i = 0; i < tasks_at_once; ++i) {
    try {
      throws();
    } catch (const ouro::CancelledError&) {
      ++caught;
    }
  }
  const double each = ns_since(begin, tasks_at_once);
  if (caught != tasks_at_once) std::abort();
  return each;
}

ouro::Coroutine<> sleeps(int depth) {
  if (depth == 0) {
    co_await ouro::sleep(1h);
  } else {
    co_await sleeps(depth - 1);
  }
}

ouro::Coroutine<> cancel_all(int depth, double& each) {
  std::vector<ouro::Task<>> tasks;
  tasks.reserve(tasks_at_once);
  for (int i = 0; i < tasks_at_once; ++i) tasks.push_back(ouro::create_task(sleeps(depth)));
  co_await ouro::sleep(0s);
  const auto begin = Steady::now();
  for (auto& task : tasks) task.cancel();
  while (!tasks.back().done()) co_await ouro::sleep(0s);
  each = ns_since(begin, tasks_at_once);
  for (const auto& task : tasks) {
    if (!task.cancelled()) std::abort();
  }
}

ouro::Coroutine<> fails() {
  co_await ouro::sleep(0s);
  throw std::runtime_error("one");
}

// Made, cancelled by the one that fails, and joined.
ouro::Coroutine<> failing_group(int children, double& each) {
  const auto begin = Steady::now();
  try {
    co_await ouro::task_group([children](ouro::TaskGroup& group) -> ouro::Coroutine<> {
      for (int i = 1; i < children; ++i) group.create_task(sleeps(0));
      group.create_task(fails());
      co_return;
    });
  } catch (const ouro::ExceptionGroup&) {
    each = ns_since(begin, children);
  }
}

ouro::Coroutine<> joined_group(int children, double& each) {
  const auto begin = Steady::now();
  co_await ouro::task_group([children](ouro::TaskGroup& group) -> ouro::Coroutine<> {
    for (int i = 0; i < children; ++i) group.create_task([]() -> ouro::Coroutine<> { co_return; }());
    co_return;
  });
  each = ns_since(begin, children);
}

ouro::Coroutine<> in_time(double& each) {
  constexpr int times = 200'000;
  const auto begin = Steady::now();
  for (int i = 0; i < times; ++i) co_await ouro::timeout(1h, ouro::sleep(0s));
  each = ns_since(begin, times);
}
ouro::Coroutine<> yields(double& each) {
  constexpr int times = 200'000;
  const auto begin = Steady::now();
  for (int i = 0; i < times; ++i) co_await ouro::sleep(0s);
  each = ns_since(begin, times);
}

}  // namespace

int main() {
  constexpr double never = std::numeric_limits<double>::infinity();
  double bare = never;
  double with_timeout = never;
  double yield = never;
  double cancel[deepest + 1] = {never, never, never, never};
  const int sizes[] = {10'000, 100'000, 1'000'000};
  double group[3] = {never, never, never};
  double joined = never;
  for (int round = 0; round < rounds; ++round) {
    double each = 0;
    bare = std::min(bare, bare_throw());
    for (int depth = 0; depth <= deepest; ++depth) {
      ouro::run(cancel_all(depth, each));
      cancel[depth] = std::min(cancel[depth], each);
    }
    for (int i = 0; i < 3; ++i) {
      if (sizes[i] == 1'000'000 && round > 2) continue;
      ouro::run(failing_group(sizes[i], each));
      group[i] = std::min(group[i], each);
    }
    ouro::run(joined_group(100'000, each));
    joined = std::min(joined, each);
    ouro::run(in_time(each));
    with_timeout = std::min(with_timeout, each);
    ouro::run(yields(each));
    yield = std::min(yield, each);
  }
  std::printf("a bare throw and catch                %8.1f ns\n", bare);
  bool passed = true;
  for (int depth = 0; depth <= deepest; ++depth) {
    const bool within = cancel[depth] <= (1.5 + depth) * bare;
    passed = passed && within;
    std::printf("a cancellation at depth %d             %8.1f ns, %.2f throws, at most %.1f: %s\n", depth,
                cancel[depth], cancel[depth] / bare, 1.5 + depth, within ? "PASS" : "MISS");
  }
  for (int i = 0; i < 3; ++i) {
    std::printf("a child of a failing group of %7d %8.1f ns, %.2f throws\n", sizes[i], group[i], group[i] / bare);
  }
  std::printf("a child of a group that ends          %8.1f ns\n", joined);
  std::printf("a yield, and with a timeout around it %8.1f ns, %.1f ns\n", yield, with_timeout);
  return passed ? 0 : 1;
}
