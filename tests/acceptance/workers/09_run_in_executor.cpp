// Blocking work leaves the loops' threads, whichever worker's loop it is given to; pinned tasks get its result at home.
#include <ouro/ouro.hpp>

#include <atomic>
#include <cstdio>
#include <stdexcept>
#include <thread>
#include <type_traits>
#include <vector>

using namespace std::chrono_literals;

ouro::Coroutine<> at_home(ouro::EventLoop& home) {
  const auto here = std::this_thread::get_id();
  auto future = home.run_in_executor(nullptr, [] { return std::this_thread::get_id(); });
  static_assert(std::is_same_v<decltype(future), ouro::Future<std::thread::id>>);
  std::printf("another thread %d\n", co_await future != here);
  std::printf("back home %d\n", std::this_thread::get_id() == here && &ouro::current_loop() == &home);
}

ouro::Coroutine<> tick(std::atomic<int>& count) {
  for (;;) {
    co_await ouro::sleep(1ms);
    ++count;
  }
}

ouro::Coroutine<> run() {
  for (ouro::EventLoop* loop : ouro::workers()) co_await loop->create_task(at_home(*loop));

  std::atomic<int> ticks{0};
  auto ticking = ouro::create_task(tick(ticks));
  co_await ouro::to_thread([&ticks] {
    while (ticks < 5) std::this_thread::yield();
  });
  ticking.cancel();
  try {
    co_await ticking;
  } catch (const ouro::CancelledError&) {
    std::printf("the loops went on %d\n", ticks >= 5);
  }

  try {
    co_await ouro::to_thread([]() -> int { throw std::domain_error("from the pool"); });
  } catch (const std::domain_error& error) {
    std::printf("domain_error: %s\n", error.what());
  }

  ouro::ThreadPoolExecutor pool(4);
  const std::vector<ouro::EventLoop*> loops = ouro::workers();
  std::vector<ouro::Future<int>> squares;
  for (std::size_t i = 0; i < 1000; ++i) {
    squares.push_back(loops[i % loops.size()]->run_in_executor(&pool, [i] { return static_cast<int>(i * i); }));
  }
  long sum = 0;
  for (int square : co_await ouro::gather(std::move(squares))) sum += square;
  std::printf("sum of squares %ld\n", sum);
  pool.shutdown();
}

int main() { ouro::run(run(), {.workers = 4}); }
