// The loops of most tests: alone, as asyncio's is. If the environment has OURO_TEST_WORKERS=N each is the first of a
// group of N: what the test makes is pinned to it, and so runs in the same order; but its records go the ways of shared
// ones, its turns are those of a group, and the other workers search and sleep beside it. The library knows nothing of
// that variable.
//
// A test that can only be of a loop alone says so, and why: OURO_TEST_ALONE("...").
#pragma once

#include <gtest/gtest.h>

#include <cstdlib>
#include <exception>
#include <memory>
#include <source_location>
#include <string>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

#include <ouro/runtime/awaitable.hpp>
#include <ouro/runtime/base_event_loop.hpp>
#include <ouro/runtime/detail/core.hpp>
#include <ouro/runtime/detail/worker_group.hpp>
#include <ouro/runtime/thread_parker.hpp>

#include "support/group_watch.hpp"

namespace ouro::test {

inline unsigned forced_workers() {
  static const unsigned workers = [] {
    const char* told = std::getenv("OURO_TEST_WORKERS");
    return told ? static_cast<unsigned>(std::stoul(told)) : 1U;
  }();
  return workers;
}

// What the n-th task of the first loop is called. In a group each loop has numbers of its own.
inline std::string task_name(unsigned n) { return "Task-" + std::to_string(n * forced_workers()); }

// In the body of a test or of SetUp().
#define OURO_TEST_ALONE(reason) \
  if (::ouro::test::forced_workers() != 1) GTEST_SKIP() << "not in a group (OURO_TEST_WORKERS): " << (reason)

template <class Base>
class Tested : public Base {
 public:
  template <class... Args>
  explicit Tested(Args&&... args) : Base(std::forward<Args>(args)...) {
    if (forced_workers() > 1) others_ = std::make_unique<Others>(*this, forced_workers());
  }
  ~Tested() override { others_.reset(); }

  // What the base refuses in a group, where run() ends the loops.
  void stop() { this->end_run(); }
  void close() {
    if (!this->is_running()) others_.reset();
    Base::close();
  }

 private:
  // The other workers, until the group ends.
  class Others {
   public:
    Others(BaseEventLoop& first, unsigned workers) : group_(detail::make_group(workers)) {
      detail::join_group(*group_, first);
      for (unsigned i = 1; i < workers; ++i) {
        loops_.push_back(std::make_unique<BaseEventLoop>(std::make_unique<ThreadParker>()));
        detail::join_group(*group_, *loops_.back());
      }
      detail::let_run(first, true);
      for (const auto& loop : loops_) threads_.emplace_back([&worker = *loop] { run(worker); });
      watch_ = std::make_unique<GroupWatch>(*group_);
    }

    ~Others() {
      watch_.reset();
      for (const auto& loop : loops_) loop->call_soon_threadsafe([&worker = *loop] { worker.end_run(); });
      for (std::thread& thread : threads_) thread.join();
      detail::end_group(*group_);
      loops_.clear();
      for (const std::string& fault : GroupWatch::take_faults()) ADD_FAILURE() << fault;
    }
    Others(const Others&) = delete;

   private:
    static void run(BaseEventLoop& loop) noexcept {
      detail::let_run(loop, true);
      try {
        loop.run_forever();
      } catch (...) {
        ADD_FAILURE() << "another worker's loop threw";
      }
    }

    detail::WorkerGroup* group_;
    std::vector<std::unique_ptr<BaseEventLoop>> loops_;
    std::vector<std::thread> threads_;
    std::unique_ptr<GroupWatch> watch_;
  };

  std::unique_ptr<Others> others_;
};

// On a ThreadParker. What a test does to a loop between two runs is done at once if the loop is alone, but in a group
// it would be sent to the loop, as from any thread that is not a worker: so there the test counts as running on it.
class TestLoop : public Tested<BaseEventLoop> {
 public:
  TestLoop() : TestLoop(true) {}
  // For a loop that runs on another thread.
  struct RunsElsewhere {};
  explicit TestLoop(RunsElsewhere) : TestLoop(false) {}
  ~TestLoop() override { leave(); }

  void run_forever() {
    const Outside outside(*this);
    Tested::run_forever();
  }
  template <class A>
  decltype(auto) run_until_complete(A&& awaitable, std::source_location where = std::source_location::current()) {
    const Outside outside(*this);
    if constexpr (Awaitable<std::remove_cvref_t<A>>) {
      return Tested::run_until_complete(std::forward<A>(awaitable), where);
    } else {
      return Tested::run_until_complete(std::forward<A>(awaitable));
    }
  }
  void close() {
    if (!is_running()) leave();
    Tested::close();
  }

 private:
  explicit TestLoop(bool here) : Tested(std::make_unique<ThreadParker>()), inside_(here && forced_workers() > 1) {
    if (inside_) detail::set_running_state(&state());
  }
  void leave() {
    if (std::exchange(inside_, false)) detail::set_running_state(nullptr);
  }

  // For the time of a run.
  class Outside {
   public:
    explicit Outside(TestLoop& loop)
        : loop_(loop), was_inside_(loop.inside_ && detail::running_state() == &loop.state()) {
      if (was_inside_ && !loop.is_running()) detail::set_running_state(nullptr);
    }
    ~Outside() {
      if (was_inside_) detail::set_running_state(&loop_.state());
    }
    Outside(const Outside&) = delete;

   private:
    TestLoop& loop_;
    const bool was_inside_;
  };

  bool inside_;
};

}  // namespace ouro::test
