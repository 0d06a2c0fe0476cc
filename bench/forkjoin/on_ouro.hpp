// Runs a work in a group of ouro's loops, each on a processor of its own. The main task floats, and everything that it
// gathers may be taken by another worker.
#pragma once

#include <atomic>
#include <exception>
#include <thread>

#include <ouro/ouro.hpp>

#include "program.hpp"

namespace forkjoin {

// Keeps all workers but the calling one from the work while it lives: each runs a callback that waits on a futex. They
// take no processor time, and the worker that is left finds nobody to wake. So one worker can be measured in the form
// that a group has: with a single loop, gather starts its children in asyncio's order.
class Alone {
 public:
  Alone() {
    const ouro::EventLoop* here = &ouro::current_loop();
    for (ouro::EventLoop* loop : ouro::workers()) {
      if (loop == here) continue;
      ++others_;
      loop->call_soon_threadsafe([this] {
        asleep_.fetch_add(1);
        over_.wait(false);
        asleep_.fetch_sub(1);
      });
    }
    while (asleep_.load() != others_) std::this_thread::yield();
  }
  Alone(const Alone&) = delete;
  ~Alone() {
    over_.store(true);
    over_.notify_all();
    while (asleep_.load() != 0) std::this_thread::yield();
  }

 private:
  int others_ = 0;
  std::atomic<int> asleep_{0};
  std::atomic<bool> over_{false};
};

template <class Make>
ouro::Coroutine<> rounds(Program& program, Make make) {
  for (std::size_t i = 0; i < program.rounds(); ++i) {
    ouro::Coroutine<std::uint64_t> root = make(program.n());
    program.begin();
    const std::uint64_t result = co_await std::move(root);
    program.end(result);
  }
}

template <class Make>
ouro::Coroutine<> rounds_alone(Program& program, Make make) {
  const Alone alone;
  co_await rounds(program, make);
}

// `make(n)` gives the coroutine of the whole work.
template <class Make>
int run_on_ouro(const char* variant, const Work& work, int argc, char** argv, Make make) try {
  Program program(variant, work, argc, argv);
  const ouro::RunOptions options{.workers = program.threads(), .pin_to_cores = true};
  ouro::run(program.alone() ? rounds_alone(program, make) : rounds(program, make), options);
  program.report();
  return 0;
} catch (const std::exception& error) {
  std::fprintf(stderr, "%s: %s\n", argv[0], error.what());
  return 1;
}

}  // namespace forkjoin
