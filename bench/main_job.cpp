// The main job on ouro, in the form in which it runs beside the peers: one RESULT line for each work and size, as soon
// as it is measured. bench/driver.hpp has the arguments and the rule of sampling.
#include <exception>

#include "driver.hpp"
#include "works.hpp"

namespace {

template <class Rounds>
auto on(ouro::EventLoop& loop, Rounds rounds) {
  return [&loop, rounds](std::size_t n, std::size_t count) { return loop.run_until_complete(rounds(n, count)); };
}

void tasks(const bench::Options& options, ouro::EventLoop& loop) {
  const std::vector<std::size_t>& sizes = options.sizes;
  bench::run(options, {"ouro", "gather_imm"}, sizes, on(loop, bench::gather_rounds<bench::immediate>));
  bench::run(options, {"ouro", "gather_yield"}, sizes, on(loop, bench::gather_rounds<bench::yielding>));
  bench::run(options, {"ouro", "gather_sleep", 1, bench::Meter::cpu}, sizes,
             on(loop, bench::gather_rounds<bench::sleeping>));
  bench::run(options, {"ouro", "map"}, sizes, on(loop, bench::map_rounds<bench::immediate>));
  bench::run(options, {"ouro", "eager"}, sizes, on(loop, bench::eager_rounds));
  bench::run(options, {"ouro", "spawn_join"}, sizes, on(loop, bench::spawn_join_rounds));
  bench::run(options, {"ouro", "yield"}, {1'000'000}, on(loop, bench::yield_rounds));
}

void wake(const bench::Options& options, ouro::EventLoop& loop) {
  if (!options.wants("wake")) return;
  bench::OtherLoop other;
  bench::ThereAndBack trip(loop, other.loop());
  bench::run(options, {"ouro", "wake", 2}, {20'000},
             [&trip](std::size_t n, std::size_t count) { trip.rounds(n, count); });
}

void executor(const bench::Options& options, ouro::EventLoop& loop) {
  ouro::ThreadPoolExecutor pool(1);
  const auto one_by_one = [&pool](std::size_t n, std::size_t count) { return bench::call_one_by_one(pool, n, count); };
  const auto at_once = [&pool](std::size_t n, std::size_t count) { return bench::call_at_once(pool, n, count); };
  bench::run(options, {"ouro", "executor_single", 2}, {20'000}, on(loop, one_by_one));
  bench::run(options, {"ouro", "executor_10k", 2}, {10'000}, on(loop, at_once));
  pool.shutdown();
}

}  // namespace

int main(int argc, char** argv) try {
  const bench::Options options = bench::parse(argc, argv);
  ouro::EventLoop& loop = ouro::get_event_loop();
  tasks(options, loop);
  wake(options, loop);
  executor(options, loop);
  loop.close();
} catch (const std::exception& error) {
  std::fprintf(stderr, "main_job: %s\n", error.what());
  return 1;
}
