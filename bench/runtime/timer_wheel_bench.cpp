// The timer wheel against the two usual structures, each in exact order with ties first in, first out: std::multimap
// (a red-black tree) and an indexed 4-ary heap. One iteration arms all timers, cancels a random half, and lets the
// rest expire in turns of `turn`; the counters are nanoseconds per operation of each phase.
#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <map>
#include <numeric>
#include <random>
#include <vector>

#include <benchmark/benchmark.h>

#include "timer_wheel.hpp"

namespace {

using ouro::Duration;
using ouro::TimePoint;
using ouro::detail::TimerNode;
using ouro::detail::TimerWheel;
using namespace std::chrono_literals;

class Wheel {
 public:
  using Timer = TimerNode;
  explicit Wheel(std::size_t) {}
  void insert(Timer& timer, TimePoint now) { wheel_.insert(timer, now); }
  void cancel(Timer& timer) { wheel_.cancel(timer); }
  Timer* pop_due(TimePoint now) { return wheel_.pop_due(now); }
  TimePoint next_deadline() const { return wheel_.next_deadline(); }

 private:
  TimerWheel wheel_;
};

class Multimap {
 public:
  struct Timer {
    TimePoint deadline;
    std::multimap<TimePoint, Timer*>::iterator place;
  };
  explicit Multimap(std::size_t) {}
  TimePoint next_deadline() const { return timers_.begin()->first; }
  void insert(Timer& timer, TimePoint) { timer.place = timers_.emplace(timer.deadline, &timer); }
  void cancel(Timer& timer) { timers_.erase(timer.place); }
  Timer* pop_due(TimePoint now) {
    if (timers_.empty() || timers_.begin()->first > now) return nullptr;
    Timer* timer = timers_.begin()->second;
    timers_.erase(timers_.begin());
    return timer;
  }

 private:
  std::multimap<TimePoint, Timer*> timers_;
};

// The keys lie in the heap's own array; each timer knows its index, so that cancelling finds it.
class Heap4 {
 public:
  struct Timer {
    TimePoint deadline;
    std::size_t index;
  };
  explicit Heap4(std::size_t count) { entries_.reserve(count); }
  void insert(Timer& timer, TimePoint) {
    entries_.emplace_back();
    up(entries_.size() - 1, Entry{timer.deadline, sequence_++, &timer});
  }
  void cancel(Timer& timer) { remove(timer.index); }
  TimePoint next_deadline() const { return entries_[0].deadline; }
  Timer* pop_due(TimePoint now) {
    if (entries_.empty() || entries_[0].deadline > now) return nullptr;
    Timer* timer = entries_[0].timer;
    remove(0);
    return timer;
  }

 private:
  struct Entry {
    TimePoint deadline;
    std::uint64_t sequence;
    Timer* timer;
    bool operator<(const Entry& other) const {
      return deadline != other.deadline ? deadline < other.deadline : sequence < other.sequence;
    }
  };

  void put(std::size_t index, const Entry& entry) {
    entries_[index] = entry;
    entry.timer->index = index;
  }
  void up(std::size_t index, const Entry& entry) {
    while (index > 0 && entry < entries_[(index - 1) / 4]) {
      put(index, entries_[(index - 1) / 4]);
      index = (index - 1) / 4;
    }
    put(index, entry);
  }
  void down(std::size_t index, const Entry& entry) {
    for (;;) {
      const std::size_t first = 4 * index + 1;
      const std::size_t last = std::min(first + 4, entries_.size());
      if (first >= last) break;
      std::size_t best = first;
      for (std::size_t child = first + 1; child < last; ++child) {
        if (entries_[child] < entries_[best]) best = child;
      }
      if (!(entries_[best] < entry)) break;
      put(index, entries_[best]);
      index = best;
    }
    put(index, entry);
  }
  void remove(std::size_t index) {
    const Entry last = entries_.back();
    entries_.pop_back();
    if (index == entries_.size()) return;
    if (index > 0 && last < entries_[(index - 1) / 4]) {
      up(index, last);
    } else {
      down(index, last);
    }
  }

  std::vector<Entry> entries_;
  std::uint64_t sequence_ = 0;
};

class Stopwatch {
 public:
  double lap() {
    const auto now = std::chrono::steady_clock::now();
    const double result = std::chrono::duration<double, std::nano>(now - last_).count();
    last_ = now;
    return result;
  }

 private:
  std::chrono::steady_clock::time_point last_ = std::chrono::steady_clock::now();
};

enum class Cancel { none, half };

// What is armed, and how the clock moves on: in turns of `turn`, or each time to the next deadline.
struct Scenario {
  Duration least;
  Duration most;
  Duration turn;
  bool half_cancelled;
};

std::vector<Duration> between(std::mt19937_64& random, std::int64_t count, Duration least, Duration most) {
  std::uniform_int_distribution<std::int64_t> delay(least.count(), most.count());
  std::vector<Duration> delays(static_cast<std::size_t>(count));
  for (Duration& each : delays) each = Duration(delay(random));
  return delays;
}

template <class Queue>
std::size_t expire(Queue& queue, std::size_t left, TimePoint& now, Duration turn) {
  std::size_t disorder = 0;
  TimePoint last = TimePoint::min();
  while (left > 0) {
    now = turn == Duration() ? queue.next_deadline() : now + turn;
    while (auto* timer = queue.pop_due(now)) {
      disorder += timer->deadline < last || timer->deadline > now;
      last = timer->deadline;
      --left;
    }
  }
  return disorder;
}

template <class Queue>
void measure(benchmark::State& state, const Scenario& scenario) {
  const auto count = static_cast<std::size_t>(state.range(0));
  std::mt19937_64 random(42);
  std::vector<typename Queue::Timer> timers(count);
  std::vector<std::size_t> victims(count);
  Queue queue(count);
  TimePoint now(1h);
  double insert_ns = 0;
  double cancel_ns = 0;
  double expire_ns = 0;
  for (auto _ : state) {
    // Fresh numbers each time, or the branch predictor learns them.
    const std::vector<Duration> delays = between(random, state.range(0), scenario.least, scenario.most);
    victims.resize(count);
    std::iota(victims.begin(), victims.end(), std::size_t{0});
    std::shuffle(victims.begin(), victims.end(), random);
    victims.resize(scenario.half_cancelled ? count / 2 : 0);
    Stopwatch watch;
    for (std::size_t i = 0; i < count; ++i) {
      timers[i].deadline = now + delays[i];
      queue.insert(timers[i], now);
    }
    const double inserting = watch.lap();
    for (const std::size_t victim : victims) queue.cancel(timers[victim]);
    const double cancelling = watch.lap();
    if (expire(queue, count - victims.size(), now, scenario.turn) > 0) state.SkipWithError("out of order");
    const double expiring = watch.lap();
    insert_ns += inserting;
    cancel_ns += cancelling;
    expire_ns += expiring;
    state.SetIterationTime((inserting + cancelling + expiring) * 1e-9);
  }
  const double rounds = static_cast<double>(state.iterations());
  const double all = rounds * static_cast<double>(count);
  const double cancelled = rounds * static_cast<double>(victims.size());
  state.counters["insert"] = insert_ns / all;
  if (!victims.empty()) state.counters["cancel"] = cancel_ns / cancelled;
  state.counters["expire"] = expire_ns / (all - cancelled);
}

// Any delay up to ten seconds; half of them cancelled; the clock then jumps to the end.
template <class Queue>
void random_delays(benchmark::State& state) {
  measure<Queue>(state, {.least = 0s, .most = 10s, .turn = 10s, .half_cancelled = true});
}

// The usual timeouts of a server: all the same, half of them cancelled.
template <class Queue>
void equal_delays(benchmark::State& state) {
  measure<Queue>(state, {.least = 5s, .most = 5s, .turn = 10s, .half_cancelled = true});
}

// Any delay up to ten seconds; the loop sleeps until the next deadline each time.
template <class Queue>
void one_by_one(benchmark::State& state) {
  measure<Queue>(state, {.least = 0s, .most = 10s, .turn = 0s, .half_cancelled = false});
}

// Many tasks that sleep 1..10 ms, woken in turns of 50 us.
template <class Queue>
void short_sleeps(benchmark::State& state) {
  measure<Queue>(state, {.least = 1ms, .most = 10ms, .turn = 50us, .half_cancelled = false});
}

// The same, in a turn so long that all are due at once.
template <class Queue>
void short_sleeps_at_once(benchmark::State& state) {
  measure<Queue>(state, {.least = 1ms, .most = 10ms, .turn = 10ms, .half_cancelled = false});
}

// All in the tick that is current already.
template <class Queue>
void within_a_tick(benchmark::State& state) {
  measure<Queue>(state, {.least = 0us, .most = 100us, .turn = 100us, .half_cancelled = false});
}

// A turn in which nothing is due, with so many armed.
template <class Queue>
void nothing_due(benchmark::State& state) {
  std::mt19937_64 random(42);
  const std::vector<Duration> delays = between(random, state.range(0), 5s, 10s);
  std::vector<typename Queue::Timer> timers(delays.size());
  Queue queue(delays.size());
  TimePoint now(1h);
  for (std::size_t i = 0; i < delays.size(); ++i) {
    timers[i].deadline = now + delays[i];
    queue.insert(timers[i], now);
  }
  for (auto _ : state) {
    now += 1ns;
    benchmark::DoNotOptimize(queue.pop_due(now));
  }
}

#define OF_BOTH_SIZES(scenario, queue) \
  BENCHMARK_TEMPLATE(scenario, queue)->Arg(1000)->Arg(1000000)->UseManualTime()->MinTime(0.1)
#define OF_ALL_QUEUES(scenario)   \
  OF_BOTH_SIZES(scenario, Wheel); \
  OF_BOTH_SIZES(scenario, Heap4); \
  OF_BOTH_SIZES(scenario, Multimap)

OF_ALL_QUEUES(random_delays);
OF_ALL_QUEUES(equal_delays);
OF_ALL_QUEUES(one_by_one);
OF_ALL_QUEUES(short_sleeps);
OF_ALL_QUEUES(short_sleeps_at_once);
OF_ALL_QUEUES(within_a_tick);
BENCHMARK_TEMPLATE(nothing_due, Wheel)->Arg(1000)->Arg(1000000)->MinTime(0.1);
BENCHMARK_TEMPLATE(nothing_due, Heap4)->Arg(1000)->Arg(1000000)->MinTime(0.1);
BENCHMARK_TEMPLATE(nothing_due, Multimap)->Arg(1000)->Arg(1000000)->MinTime(0.1);

}  // namespace

BENCHMARK_MAIN();
