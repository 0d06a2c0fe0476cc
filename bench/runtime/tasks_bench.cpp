// Tasks: spawned and joined, started eagerly, yielding; and a callback's way to another loop and back.
#include "gbench.hpp"

namespace {

void wake(benchmark::State& state) {
  bench::OtherLoop other;
  bench::ThereAndBack trip(bench::loop(), other.loop());
  bench::run_rounds(state, 1'000, [&trip](std::size_t n, std::size_t count) { trip.rounds(n, count); });
}

void sizes(benchmark::internal::Benchmark* benchmark) {
  for (const int n : {2'000, 10'000, 100'000, 1'000'000}) benchmark->Arg(n);
  benchmark->ComputeStatistics("min", bench::least);
}

BENCHMARK(bench::in_loop<bench::spawn_join_rounds>)->Name("spawn_join")->Apply(sizes);
BENCHMARK(bench::in_loop<bench::eager_rounds>)->Name("eager")->Apply(sizes);
BENCHMARK(bench::in_loop<bench::yield_rounds>)->Name("yield")->Arg(100'000)->ComputeStatistics("min", bench::least);
BENCHMARK(wake)->MeasureProcessCPUTime()->UseRealTime()->ComputeStatistics("min", bench::least);

}  // namespace

BENCHMARK_MAIN();
