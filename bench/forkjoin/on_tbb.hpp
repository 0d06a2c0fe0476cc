// Runs a work in an arena of oneTBB, each thread on a processor of its own, as ouro's workers are.
#pragma once

#include <tbb/global_control.h>
#include <tbb/task_arena.h>
#include <tbb/task_group.h>
#include <tbb/task_scheduler_observer.h>

#include "program.hpp"

namespace forkjoin {

class Pinned : public tbb::task_scheduler_observer {
 public:
  explicit Pinned(tbb::task_arena& arena) : task_scheduler_observer(arena), processors_(processors()) { observe(true); }
  ~Pinned() override { observe(false); }

  void on_scheduler_entry(bool) override {
    const auto place = static_cast<std::size_t>(tbb::this_task_arena::current_thread_index());
    pin_to(processors_[place % processors_.size()]);
  }

 private:
  std::vector<unsigned> processors_;
};

// `once(n)` gives the result.
template <class Once>
int run_on_tbb(const Work& work, int argc, char** argv, Once once) {
  Program program("tbb", work, argc, argv);
  const unsigned threads = program.alone() ? 1 : program.threads();
  tbb::global_control most(tbb::global_control::max_allowed_parallelism, threads);
  tbb::task_arena arena(static_cast<int>(threads));
  Pinned pinned(arena);
  arena.execute([&] {
    for (std::size_t i = 0; i < program.rounds(); ++i) {
      program.begin();
      const std::uint64_t result = once(program.n());
      program.end(result);
    }
  });
  program.report();
  return 0;
}

}  // namespace forkjoin
