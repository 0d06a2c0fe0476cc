// The works of the main job on ouro, as a program would write them. bench/main_job.cpp times them beside the peers, and
// bench/runtime/*_bench.cpp with Google Benchmark.
//
// `rounds(n, count)` does the work of size n count times. A work that gathers returns the results of its last time.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <future>
#include <memory>
#include <ranges>
#include <thread>
#include <utility>
#include <vector>

#include <ouro/ouro.hpp>

namespace bench {

using Results = std::vector<std::uint64_t>;
using Child = ouro::Coroutine<std::uint64_t> (*)(std::uint64_t);

inline ouro::Coroutine<std::uint64_t> immediate(std::uint64_t i) { co_return i; }

inline ouro::Coroutine<std::uint64_t> yielding(std::uint64_t i) {
  co_await ouro::sleep(std::chrono::seconds(0));
  co_return i;
}

inline ouro::Coroutine<std::uint64_t> sleeping(std::uint64_t i) {
  co_await ouro::sleep(std::chrono::milliseconds(1 + i % 10));
  co_return i;
}

template <Child make>
ouro::Coroutine<Results> gather_rounds(std::size_t n, std::size_t count) {
  for (;; --count) {
    std::vector<ouro::Coroutine<std::uint64_t>> coros;
    coros.reserve(n);
    for (std::uint64_t i = 0; i < n; ++i) coros.push_back(make(i));
    Results results = co_await ouro::gather(std::move(coros));
    if (count == 1) co_return results;
  }
}

template <Child make>
ouro::Coroutine<Results> map_rounds(std::size_t n, std::size_t count) {
  for (;; --count) {
    Results results = co_await ouro::map(make, std::views::iota(std::uint64_t{0}, std::uint64_t{n}));
    if (count == 1) co_return results;
  }
}

// Each task runs inside create_task, and is done when that returns.
inline ouro::Coroutine<Results> eager_rounds(std::size_t n, std::size_t count) {
  for (;; --count) {
    Results results(n);
    for (std::uint64_t i = 0; i < n; ++i) {
      results[i] = ouro::create_task(immediate(i), {.eager_start = true}).result();
    }
    if (count == 1) co_return results;
  }
}

inline ouro::Coroutine<Results> spawn_join_rounds(std::size_t n, std::size_t count) {
  for (;; --count) {
    std::vector<ouro::Task<std::uint64_t>> tasks;
    tasks.reserve(n);
    for (std::uint64_t i = 0; i < n; ++i) tasks.push_back(ouro::create_task(immediate(i)));
    Results results;
    results.reserve(n);
    for (ouro::Task<std::uint64_t>& task : tasks) results.push_back(co_await task);
    if (count == 1) co_return results;
  }
}

inline ouro::Coroutine<> yield_rounds(std::size_t n, std::size_t count) {
  for (std::size_t i = 0; i < n * count; ++i) co_await ouro::sleep(std::chrono::seconds(0));
}

// A second thread with a loop of its own.
class OtherLoop {
 public:
  OtherLoop() {
    std::promise<ouro::EventLoop*> made;
    thread_ = std::thread([&made] {
      const std::unique_ptr<ouro::EventLoop> loop = ouro::new_event_loop();
      made.set_value(loop.get());
      loop->run_forever();
      loop->close();
    });
    loop_ = made.get_future().get();
  }
  OtherLoop(const OtherLoop&) = delete;
  ~OtherLoop() {
    loop_->call_soon_threadsafe([loop = loop_] { loop->stop(); });
    thread_.join();
  }
  ouro::EventLoop& loop() { return *loop_; }

 private:
  ouro::EventLoop* loop_ = nullptr;
  std::thread thread_;
};

// A callback that goes to the other loop and comes back, n * count times.
class ThereAndBack {
 public:
  ThereAndBack(ouro::EventLoop& here, ouro::EventLoop& there) : here_(here), there_(there) {}

  void rounds(std::size_t n, std::size_t count) {
    left_ = n * count;
    go();
    here_.run_forever();
  }

 private:
  void go() {
    there_.call_soon_threadsafe([this] { here_.call_soon_threadsafe([this] { come_back(); }); });
  }
  void come_back() {
    if (--left_ > 0) return go();
    here_.stop();
  }

  ouro::EventLoop& here_;
  ouro::EventLoop& there_;
  std::size_t left_ = 0;
};

inline int one() { return 1; }

inline ouro::Coroutine<> call_one_by_one(ouro::ThreadPoolExecutor& pool, std::size_t n, std::size_t count) {
  ouro::EventLoop& loop = ouro::get_running_loop();
  for (std::size_t i = 0; i < n * count; ++i) {
    const int result = co_await loop.run_in_executor(&pool, one);
    if (result != 1) throw ouro::RuntimeError("the executor gave a wrong result");
  }
}

inline ouro::Coroutine<std::uint64_t> call_once(ouro::ThreadPoolExecutor& pool, std::uint64_t i) {
  const int result = co_await ouro::get_running_loop().run_in_executor(&pool, one);
  co_return i + static_cast<std::uint64_t>(result) - 1;
}

// n coroutines, each of which awaits a call.
inline ouro::Coroutine<Results> call_at_once(ouro::ThreadPoolExecutor& pool, std::size_t n, std::size_t count) {
  for (;; --count) {
    std::vector<ouro::Coroutine<std::uint64_t>> coros;
    coros.reserve(n);
    for (std::uint64_t i = 0; i < n; ++i) coros.push_back(call_once(pool, i));
    Results results = co_await ouro::gather(std::move(coros));
    if (count == 1) co_return results;
  }
}

}  // namespace bench
