// The workers of a Runner with several loops: their threads, from the making of their loops to the end of these.
#pragma once

#include <sched.h>

#include <atomic>
#include <exception>
#include <latch>
#include <semaphore>
#include <thread>
#include <vector>

#include <ouro/io/runners.hpp>
#include <ouro/runtime/detail/worker_group.hpp>

namespace ouro {
namespace detail {

// A loop as a run wants it. What the system denies it denies here, before there is a task.
std::unique_ptr<EventLoop> make_worker_loop(const RunOptions& options);

// Tells the loop's exception handler what tasks threw that were cancelled at the end of a run.
void report_failures(EventLoop& loop, const std::vector<AnyTask>& tasks);

}  // namespace detail

// The first loop is the caller's; every other one is made, run, closed and destroyed on a thread of its own.
class Runner::Crew {
 public:
  // Makes the other loops, one after the other, and starts them.
  // Throws: what the policy or the loop factory throws, for any of them; std::system_error if there is no thread left.
  Crew(const RunOptions& options, EventLoop& first);
  ~Crew();
  Crew(const Crew&) = delete;

  // The time in which the Runner runs the first loop. A KeyboardInterrupt of another loop comes out of it; later ones
  // are dropped: the main task has ended, and with the same exception if it had heard of it.
  class Running {
   public:
    explicit Running(Crew& crew) noexcept : crew_(crew) { detail::let_run(crew.first_, true); }
    ~Running() {
      crew_.run_number_.fetch_add(1, std::memory_order_relaxed);
      detail::set_main(*crew_.group_, nullptr);
      detail::let_run(crew_.first_, false);
    }
    Running(const Running&) = delete;

   private:
    Crew& crew_;
  };

  // Cancels the tasks of all workers, again and again until none is left: what they make while they end is cancelled
  // too. What they throw is reported.
  void cancel_all_tasks(EventLoop& first);

  // Stops the other loops, destroys what is left of tasks, and joins the threads.
  void leave() noexcept;

 private:
  void work(unsigned index);
  void run(EventLoop& loop) noexcept;
  void pin(unsigned index) noexcept;
  void dismiss() noexcept;

  const RunOptions options_;
  EventLoop& first_;
  detail::WorkerGroup* group_;
  std::vector<std::thread> threads_;
  std::exception_ptr error_;             // of a loop that could not be made; before `go_`
  bool dismissed_ = false;               // there is nothing to run; before `go_`
  std::atomic<unsigned> run_number_{0};  // of the run that goes on: see Running
  std::atomic<bool> broken_{false};      // a loop threw and does not run any more
  std::counting_semaphore<> made_{0};    // the next loop has been made, or not: see error_
  std::latch go_{1};
  std::latch buried_{1};                 // the group has ended: the loops can go
  std::unique_ptr<std::latch> started_;  // how many loops do not run yet
  std::unique_ptr<std::latch> stopped_;  // how many loops still run
  std::unique_ptr<std::latch> emptied_;  // how many still have something of the program's: no loop goes before
  std::vector<unsigned> processors_;     // to which the workers are pinned
  cpu_set_t before_{};                   // of the calling thread
  bool left_ = false;
};

}  // namespace ouro
