// Very many tasks: each is spawned, does one of the things that tasks do, and ends or is cancelled. Whatever happens,
// what was spawned has finished or was cancelled, the memory does not grow, and no worker sleeps beside work
// (group_watch.hpp).
//
// OURO_SOAK_TASKS=50000000 makes it so many tasks; it tells how fast it went, and the resident memory on the way.
#include <gtest/gtest.h>

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <deque>
#include <fstream>
#include <iostream>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <ouro/ouro.hpp>

#include "support/group.hpp"

namespace ouro {
namespace {

using namespace std::chrono_literals;
using test::GroupsOfAnySize;
using test::GroupWatch;
using test::Ledger;

INSTANTIATE_TEST_SUITE_P(Workers, GroupsOfAnySize, testing::Values(2U, 4U, 16U), testing::PrintToStringParamName());

long wanted_tasks() {
  if (const char* told = std::getenv("OURO_SOAK_TASKS")) return std::atol(told);
  return OURO_TSAN || OURO_ASAN ? 30'000 : 300'000;
}

double resident_mib() {
  std::ifstream file("/proc/self/statm");
  long size = 0;
  long resident = 0;
  file >> size >> resident;
  return static_cast<double>(resident) * static_cast<double>(::sysconf(_SC_PAGESIZE)) / 1048576.0;
}

// The same numbers each time.
class Random {
 public:
  explicit Random(std::uint64_t seed) noexcept : state_(0x9e3779b97f4a7c15U * (seed + 1)) {}
  std::uint32_t below(std::uint32_t limit) noexcept {
    state_ ^= state_ << 13;
    state_ ^= state_ >> 7;
    state_ ^= state_ << 17;
    return static_cast<std::uint32_t>(state_ >> 33) % limit;
  }
  EventLoop& loop() { return *loops_[below(static_cast<std::uint32_t>(loops_.size()))]; }

 private:
  std::uint64_t state_;
  std::vector<EventLoop*> loops_ = workers();
};

// ---- What tasks do ----

Coroutine<> end(Ledger::Entry entry) {
  entry.finish();
  co_return;
}

Coroutine<> yield(Ledger::Entry entry, std::uint32_t times) {
  for (; times != 0; --times) co_await sleep(0s);
  entry.finish();
}

Coroutine<> nap(Ledger::Entry entry, Duration time) {
  co_await sleep(time);
  entry.finish();
}

Coroutine<int> give(int value) { co_return value; }
Coroutine<int> give_later(int value) {
  co_await sleep(0s);
  co_return value;
}

Coroutine<> gather_two(Ledger::Entry entry) {
  const auto [a, b] = co_await gather(give(1), give_later(2));
  EXPECT_EQ(a + b, 3);
  entry.finish();
}

Coroutine<> await_one(Ledger::Entry entry, Task<> other) {
  co_await other;
  entry.finish();
}

Coroutine<> await_future(Ledger::Entry entry, Future<int> future) {
  const int value = co_await future;
  EXPECT_EQ(value, 7);
  entry.finish();
}

// A future of one loop, which another one completes: unless its awaiter was cancelled, and so was it.
Task<> complete_elsewhere(Ledger::Entry entry, Random& random) {
  Future<int> future = random.loop().create_future<int>();
  Task<> task = spawn(await_future(std::move(entry), future));
  random.loop().call_soon_threadsafe([future]() mutable {
    try {
      future.set_result(7);
    } catch (const InvalidStateError&) {
      EXPECT_TRUE(future.cancelled());
    }
  });
  return task;
}

// ---- Who spawns ----

struct Plot {
  Ledger ledger;
  long spawned = 0;
  long finished = 0;
  long cancelled = 0;
};

struct InFlight {
  Task<> task;
  bool cancel;  // before it is awaited
};

InFlight spawn_one(Ledger& ledger, Random& random) {
  const bool cancel = random.below(10) == 0;
  Ledger::Entry entry(ledger);
  const std::uint32_t what = random.below(100);
  if (what < 30) return {spawn(end(std::move(entry))), cancel};
  if (what < 40) return {random.loop().create_task(end(std::move(entry))), cancel};
  if (what < 55) return {spawn(yield(std::move(entry), 1 + random.below(3))), cancel};
  if (what < 60) return {random.loop().create_task(yield(std::move(entry), 2)), cancel};
  if (what < 70) return {spawn(nap(std::move(entry), std::chrono::microseconds(random.below(200)))), cancel};
  if (what < 80) return {spawn(gather_two(std::move(entry))), cancel};
  if (what < 95) return {complete_elsewhere(std::move(entry), random), cancel};
  return {spawn(nap(std::move(entry), 1h)), true};
}

// Keeps some tasks in flight until it has spawned so many, and awaits the oldest.
Coroutine<> tend(Plot& plot, Random& random, long tasks) {
  std::deque<InFlight> in_flight;
  for (long spawned = 0; spawned < tasks || !in_flight.empty();) {
    while (spawned < tasks && in_flight.size() < 48) {
      in_flight.push_back(spawn_one(plot.ledger, random));
      ++spawned;
      if (random.below(8) == 0) {
        in_flight.push_back({spawn(await_one(Ledger::Entry(plot.ledger), in_flight.back().task)), false});
        ++spawned;
      }
      if (random.below(40) == 0) in_flight.back().task.cancel();  // it has not run, or just begins
    }
    InFlight oldest = std::move(in_flight.front());
    in_flight.pop_front();
    if (oldest.cancel) oldest.task.cancel();
    bool finished = true;
    try {
      co_await oldest.task;
    } catch (const CancelledError&) {
      finished = false;
    }
    ++plot.spawned;
    ++(finished ? plot.finished : plot.cancelled);
  }
}

void expect_all_ended(const Plot& plot) {
  EXPECT_EQ(plot.spawned, plot.finished + plot.cancelled);
  EXPECT_EQ(plot.ledger.begun(), plot.spawned);
  EXPECT_EQ(plot.ledger.open(), 0);
  // As in asyncio, a cancellation that comes while the body ends by itself has the last word.
  EXPECT_GE(plot.ledger.finished(), plot.finished);
  EXPECT_LE(plot.ledger.broken_off(), plot.cancelled);
}

TEST_P(GroupsOfAnySize, VeryManyTasks) {
  const long tasks = wanted_tasks();
  std::vector<double> resident;
  std::vector<std::unique_ptr<Plot>> plots;
  GroupWatch::take_longest();
  const auto began = std::chrono::steady_clock::now();
  const auto main = [&]() -> Coroutine<> {
    std::vector<Random> randoms;
    for (unsigned i = 0; i < std::max(4U, GetParam()); ++i) {
      plots.push_back(std::make_unique<Plot>());
      randoms.emplace_back(i);
    }
    for (const int percent : {10, 40, 50}) {
      std::vector<Task<>> tenders;
      const long each = tasks * percent / 100 / static_cast<long>(plots.size()) + 1;
      for (std::size_t i = 0; i < plots.size(); ++i) tenders.push_back(spawn(tend(*plots[i], randoms[i], each)));
      for (Task<>& tender : tenders) co_await tender;
      resident.push_back(resident_mib());
    }
  };
  run(main);
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - began;
  // After the run: arguments go with the last reference to a task, maybe after who awaited it has resumed.
  long spawned = 0;
  for (const auto& plot : plots) {
    expect_all_ended(*plot);
    spawned += plot->spawned;
  }
  EXPECT_GE(spawned, tasks);
  // A pool of frames fills up for a while, each thread's own. A sanitizer keeps what was freed.
  if (!OURO_ASAN && !OURO_TSAN) {
    EXPECT_LT(resident[2], resident[0] + 16 + 2 * GetParam());
  }
  const std::chrono::duration<double, std::milli> longest = GroupWatch::take_longest();
  std::cout << spawned << " tasks on " << GetParam() << " workers in " << took.count() << " s, "
            << took.count() / static_cast<double>(spawned) * 1e9
            << " ns each; resident at 10, 50, 100 %: " << resident[0] << ", " << resident[1] << ", " << resident[2]
            << " MiB; longest sleep beside work: " << longest.count() << " ms" << std::endl;
}

}  // namespace
}  // namespace ouro
