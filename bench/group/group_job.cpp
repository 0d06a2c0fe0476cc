// The works of a group of loops, one RESULT line each. bench/driver.hpp has the arguments and the rule of sampling;
// `--workers` says how many loops there are, each on a processor of its own.
//
// map         as in the main job, from a floating task
// spawn_each  a task of each coroutine, spawned one by one from one worker, then awaited one by one
// wake        there and back between the first two loops: a task pinned to each, and a future that the other completes
#include <array>
#include <exception>

#include "driver.hpp"
#include "works.hpp"

namespace {

ouro::Coroutine<bench::Results> spawn_each(std::size_t n, std::size_t count) {
  for (;; --count) {
    std::vector<ouro::Task<std::uint64_t>> tasks;
    tasks.reserve(n);
    for (std::uint64_t i = 0; i < n; ++i) tasks.push_back(ouro::spawn(bench::immediate(i)));
    bench::Results results;
    results.reserve(n);
    for (ouro::Task<std::uint64_t>& task : tasks) results.push_back(co_await task);
    if (count == 1) co_return results;
  }
}

// Each side makes the future for which it will wait before it completes the other's: so the other one finds it.
struct Side {
  ouro::EventLoop* loop;
  ouro::Future<> future;
  std::byte apart[128] = {};  // each in cache lines of its own
};

ouro::Coroutine<> player(Side& mine, Side& other, bool begins, std::size_t strokes) {
  for (std::size_t i = 0; i < strokes; ++i) {
    if (!begins) co_await mine.future;
    ouro::Future<> next = mine.loop->create_future();
    mine.future = next;
    other.future.set_result();
    if (begins) co_await next;
  }
}

ouro::Coroutine<> wake(std::size_t n, std::size_t count) {
  const std::vector<ouro::EventLoop*> loops = ouro::workers();
  std::array<Side, 2> sides = {Side{loops[0], loops[0]->create_future()}, Side{loops[1], loops[1]->create_future()}};
  ouro::Task<> there = loops[1]->create_task(player(sides[1], sides[0], false, n * count));
  ouro::Task<> here = loops[0]->create_task(player(sides[0], sides[1], true, n * count));
  co_await here;
  co_await there;
}

}  // namespace

int main(int argc, char** argv) try {
  const bench::Options options = bench::parse(argc, argv);
  ouro::RunOptions run_options{.workers = options.workers, .pin_to_cores = true};
  if (options.spin_us >= 0) run_options.spin = std::chrono::nanoseconds(static_cast<long>(options.spin_us * 1e3));
  ouro::Runner runner(run_options);
  const int threads = static_cast<int>(options.workers);
  const auto in_group = [&runner](auto rounds) {
    return [&runner, rounds](std::size_t n, std::size_t count) { return runner.run(rounds(n, count)); };
  };
  bench::run(options, {"ouro", "map", threads}, options.sizes, in_group(bench::map_rounds<bench::immediate>));
  bench::run(options, {"ouro", "spawn_each", threads}, options.sizes, in_group(spawn_each));
  if (options.workers > 1) bench::run(options, {"ouro", "wake", threads}, {5'000}, in_group(wake));
  runner.close();
} catch (const std::exception& error) {
  std::fprintf(stderr, "group_job: %s\n", error.what());
  return 1;
}
