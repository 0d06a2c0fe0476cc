// The main job on standalone asio with its C++20 coroutines. asio (1.22) has no gather of a range: co_spawn with a
// handler that counts down is its idiom.
#define ASIO_NO_DEPRECATED
#include <asio.hpp>
#include <chrono>
#include <thread>
#include <utility>

#include "driver.hpp"

namespace {

using asio::awaitable;
using asio::co_spawn;
using asio::use_awaitable;

awaitable<std::uint64_t> immediate(std::uint64_t i) { co_return i; }

awaitable<std::uint64_t> yielding(std::uint64_t i) {
  co_await asio::post(use_awaitable);
  co_return i;
}

awaitable<std::uint64_t> sleeping(std::uint64_t i) {
  asio::steady_timer timer(co_await asio::this_coro::executor, std::chrono::milliseconds(1 + i % 10));
  co_await timer.async_wait(use_awaitable);
  co_return i;
}

std::vector<std::uint64_t> gather(asio::io_context& io, std::size_t n,
                                  awaitable<std::uint64_t> (*make)(std::uint64_t)) {
  std::vector<std::uint64_t> results(n);
  std::size_t pending = n;
  for (std::size_t i = 0; i < n; ++i) {
    co_spawn(io, make(i), [&results, &pending, i](std::exception_ptr, std::uint64_t value) {
      results[i] = value;
      --pending;
    });
  }
  io.restart();
  io.run();
  if (pending != 0) bench::fail("a coroutine did not finish");
  return results;
}

void gathers(const bench::Options& options) {
  asio::io_context io(1);
  const auto rounds = [&io](auto make) {
    return [&io, make](std::size_t n, std::size_t count) {
      for (; count > 1; --count) gather(io, n, make);
      return gather(io, n, make);
    };
  };
  bench::run(options, {"asio", "gather_imm"}, options.sizes, rounds(immediate));
  bench::run(options, {"asio", "gather_yield"}, options.sizes, rounds(yielding));
  bench::run(options, {"asio", "gather_sleep", 1, bench::Meter::cpu}, options.sizes, rounds(sleeping));
  bench::run(options, {"asio", "spawn_join"}, options.sizes, rounds(immediate));
}

awaitable<void> yield_often(std::size_t times) {
  for (; times > 0; --times) co_await asio::post(use_awaitable);
}

// Runs one coroutine to its end on io.
void run_alone(asio::io_context& io, awaitable<void> coroutine) {
  co_spawn(io, std::move(coroutine), [](std::exception_ptr error) {
    if (error) bench::fail("an exception");
  });
  io.restart();
  io.run();
}

awaitable<void> go_there_and_back(asio::io_context& there, std::size_t times) {
  for (; times > 0; --times) co_await asio::post(there, use_awaitable);  // resumes on its own executor
}

void wake(const bench::Options& options) {
  asio::io_context here(1);
  asio::io_context there(1);
  auto work = asio::make_work_guard(there);
  std::thread other([&there] { there.run(); });
  bench::run(options, {"asio", "wake", 2}, {20'000},
             [&](std::size_t n, std::size_t count) { run_alone(here, go_there_and_back(there, n * count)); });
  work.reset();
  other.join();
}

// Calls a function in the pool and brings its value back to the awaiting coroutine's executor.
auto call_in(asio::thread_pool& pool, int (*function)()) {
  auto start = [&pool, function](auto handler) {
    auto home = asio::make_work_guard(asio::get_associated_executor(handler));
    asio::post(pool, [function, handler = std::move(handler), home]() mutable {
      const int result = function();
      const auto executor = asio::get_associated_executor(handler);
      asio::post(executor, [handler = std::move(handler), result]() mutable { std::move(handler)(result); });
    });
  };
  return asio::async_initiate<decltype(use_awaitable), void(int)>(std::move(start), use_awaitable);
}

int one() { return 1; }

awaitable<void> call_one_by_one(asio::thread_pool& pool, std::size_t times) {
  for (; times > 0; --times) {
    const int result = co_await call_in(pool, one);
    if (result != 1) bench::fail("executor");
  }
}

void executor(const bench::Options& options) {
  asio::io_context io(1);
  asio::thread_pool pool(1);
  bench::run(options, {"asio", "executor_single", 2}, {20'000},
             [&](std::size_t n, std::size_t count) { run_alone(io, call_one_by_one(pool, n * count)); });
  bench::run(options, {"asio", "executor_10k", 2}, {10'000}, [&](std::size_t n, std::size_t count) {
    for (; count > 0; --count) {
      for (std::size_t i = 0; i < n; ++i) co_spawn(io, call_one_by_one(pool, 1), asio::detached);
      io.restart();
      io.run();
    }
  });
}

}  // namespace

int main(int argc, char** argv) {
  const bench::Options options = bench::parse(argc, argv);
  gathers(options);
  asio::io_context io(1);
  bench::run(options, {"asio", "yield"}, {1'000'000},
             [&io](std::size_t n, std::size_t count) { run_alone(io, yield_often(n * count)); });
  wake(options);
  executor(options);
}
