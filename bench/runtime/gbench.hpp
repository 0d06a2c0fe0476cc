// What the benchmarks share: the loop, and how a work of bench/works.hpp becomes a benchmark.
// `--benchmark_repetitions=9` gives the minimum beside mean and median.
#pragma once

#include <benchmark/benchmark.h>

#include <algorithm>
#include <vector>

#include "works.hpp"

namespace bench {

inline ouro::EventLoop& loop() { return ouro::get_event_loop(); }

// Runs the work in batches, so that entering and leaving the loop does not count; `each` is the time of one of the n.
template <class Rounds>
void run_rounds(benchmark::State& state, std::size_t n, Rounds rounds) {
  const std::size_t batch = std::max<std::size_t>(1, 200'000 / n);
  while (state.KeepRunningBatch(static_cast<benchmark::IterationCount>(batch))) rounds(n, batch);
  state.counters["each"] = benchmark::Counter(
      static_cast<double>(n), benchmark::Counter::kIsIterationInvariantRate | benchmark::Counter::kInvert);
}

// A work that is a coroutine, on the loop.
template <auto rounds>
void in_loop(benchmark::State& state) {
  run_rounds(state, static_cast<std::size_t>(state.range(0)),
             [](std::size_t n, std::size_t count) { return loop().run_until_complete(rounds(n, count)); });
}

inline double least(const std::vector<double>& repetitions) {
  return *std::min_element(repetitions.begin(), repetitions.end());
}

}  // namespace bench
