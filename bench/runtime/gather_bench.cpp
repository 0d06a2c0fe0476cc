// gather, map and their children: immediate, yielding once, sleeping 1-10 ms. Processor time counts.
#include "gbench.hpp"

namespace {

void sizes(benchmark::internal::Benchmark* benchmark) {
  for (const int n : {2'000, 10'000, 100'000, 1'000'000}) benchmark->Arg(n);
  benchmark->MeasureProcessCPUTime()->ComputeStatistics("min", bench::least);
}

BENCHMARK(bench::in_loop<bench::gather_rounds<bench::immediate>>)->Name("gather_imm")->Apply(sizes);
BENCHMARK(bench::in_loop<bench::gather_rounds<bench::yielding>>)->Name("gather_yield")->Apply(sizes);
BENCHMARK(bench::in_loop<bench::gather_rounds<bench::sleeping>>)->Name("gather_sleep")->Apply(sizes);
BENCHMARK(bench::in_loop<bench::map_rounds<bench::immediate>>)->Name("map_imm")->Apply(sizes);
BENCHMARK(bench::in_loop<bench::map_rounds<bench::yielding>>)->Name("map_yield")->Apply(sizes);

}  // namespace

BENCHMARK_MAIN();
