// Context variables: what get and set cost, and what tasks and children cost in a context with values.
#include <memory>
#include <vector>

#include "gbench.hpp"

namespace {

// As many as the benchmark's argument says have a value. One more, `probe`, is what is read and set.
ouro::ContextVar<int> probe("probe", 0);
std::vector<std::unique_ptr<ouro::ContextVar<int>>> others;

// Runs `f` in a context with that many values; 0: in none at all, as a program without variables.
template <class F>
void in_context(benchmark::State& state, F f) {
  const auto count = static_cast<std::size_t>(state.range(0));
  while (others.size() < count) others.push_back(std::make_unique<ouro::ContextVar<int>>("other", 0));
  if (count == 0) return f();
  ouro::Context().run([&] {
    for (std::size_t i = 1; i < count; ++i) others[i]->set(1);
    probe.set(1);
    f();
  });
}

void get(benchmark::State& state) {
  in_context(state, [&] {
    for (auto _ : state) benchmark::DoNotOptimize(probe.get());
  });
}

void set(benchmark::State& state) {
  in_context(state, [&] {
    for (auto _ : state) probe.set(2);
  });
}

// In a copy each time, so that the map is shared and has to be copied.
void copy_and_set(benchmark::State& state) {
  in_context(state, [&] {
    for (auto _ : state) ouro::copy_context().run([] { probe.set(2); });
  });
}

template <auto rounds>
void tasks(benchmark::State& state) {
  constexpr std::size_t n = 2'000;
  in_context(state, [&] {
    bench::run_rounds(state, n, [](std::size_t each, std::size_t count) {
      return bench::loop().run_until_complete(rounds(each, count));
    });
  });
}

ouro::Coroutine<int> reads(int) { co_return probe.get(); }
ouro::Coroutine<int> sets(int value) {
  probe.set(value);
  co_return value;
}
template <auto child>
ouro::Coroutine<> mapped(std::size_t n, std::size_t rounds) {
  const std::vector<int> elements(n, 3);
  for (; rounds > 0; --rounds) benchmark::DoNotOptimize(co_await ouro::map(child, elements));
}

void sizes(benchmark::internal::Benchmark* benchmark) {
  for (const int n : {1, 10, 100}) benchmark->Arg(n);
  benchmark->ComputeStatistics("min", bench::least);
}
// Those without come first: once something was set, the flag stays.
void with_and_without(benchmark::internal::Benchmark* benchmark) {
  for (const int n : {0, 1, 10}) benchmark->Arg(n);
  benchmark->ComputeStatistics("min", bench::least);
}

BENCHMARK(tasks<bench::spawn_join_rounds>)->Name("spawn_join_without")->Arg(0)->ComputeStatistics("min", bench::least);
BENCHMARK(tasks<mapped<reads>>)->Name("map_reads_without")->Arg(0)->ComputeStatistics("min", bench::least);
BENCHMARK(tasks<bench::spawn_join_rounds>)->Name("spawn_join")->Apply(with_and_without);
BENCHMARK(tasks<mapped<reads>>)->Name("map_reads")->Apply(with_and_without);
BENCHMARK(tasks<mapped<sets>>)->Name("map_sets")->Apply(with_and_without);
BENCHMARK(get)->Apply(sizes);
BENCHMARK(set)->Apply(sizes);
BENCHMARK(copy_and_set)->Apply(sizes);

}  // namespace

BENCHMARK_MAIN();
