// run_in_executor with one thread in the pool: one call at a time, and many in flight.
#include "gbench.hpp"

namespace {

void single(benchmark::State& state) {
  ouro::ThreadPoolExecutor pool(1);
  bench::run_rounds(state, 1'000, [&pool](std::size_t n, std::size_t count) {
    bench::loop().run_until_complete(bench::call_one_by_one(pool, n, count));
  });
}

void in_flight(benchmark::State& state) {
  ouro::ThreadPoolExecutor pool(1);
  bench::run_rounds(state, static_cast<std::size_t>(state.range(0)), [&pool](std::size_t n, std::size_t count) {
    return bench::loop().run_until_complete(bench::call_at_once(pool, n, count));
  });
}

void wall(benchmark::internal::Benchmark* benchmark) {
  benchmark->MeasureProcessCPUTime()->UseRealTime()->ComputeStatistics("min", bench::least);
}

BENCHMARK(single)->Name("executor_single")->Apply(wall);
BENCHMARK(in_flight)->Name("executor_in_flight")->Arg(100)->Arg(10'000)->Apply(wall);

}  // namespace

BENCHMARK_MAIN();
