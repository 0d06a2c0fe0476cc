// run() and Runner as most tests call them: over one loop. If the environment has OURO_TEST_WORKERS=N over N, with the
// main task pinned to the first one (test_loop.hpp). A fixture that derives from OverLoops has both under their names.
#pragma once

#include <type_traits>
#include <utility>

#include <ouro/io/event_loop.hpp>
#include <ouro/io/runners.hpp>
#include <ouro/runtime/coroutine.hpp>
#include <ouro/runtime/tasks.hpp>

#include "support/test_loop.hpp"

namespace ouro::test {

class OverLoops {
 public:
  class Runner : public ouro::Runner {
   public:
    explicit Runner(RunOptions options = {}) : ouro::Runner(over(options)) {}

    template <class A>
    decltype(auto) run(A&& main) {
      return ouro::Runner::run(pinned(std::forward<A>(main)));
    }
  };

  template <class A>
  static decltype(auto) run(A&& main, RunOptions options = {}) {
    return ouro::run(pinned(std::forward<A>(main)), over(options));
  }

 private:
  static RunOptions over(RunOptions options) {
    if (options.workers == 1) options.workers = forced_workers();
    return options;
  }

  template <class T>
  static Coroutine<T> on_first_loop(Coroutine<T> main) {
    Task<T> task = workers().front()->create_task(std::move(main));
    co_return co_await std::move(task);
  }
  template <class A>
  static auto pinned(A&& main) {
    auto coroutine = detail::to_coroutine(std::forward<A>(main));
    return forced_workers() == 1 ? std::move(coroutine) : on_first_loop(std::move(coroutine));
  }
};

}  // namespace ouro::test
