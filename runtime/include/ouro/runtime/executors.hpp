// Where blocking work goes: the Executor interface, and the pool of threads behind run_in_executor.
#pragma once

#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <limits>
#include <memory>
#include <optional>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <utility>

#include <ouro/runtime/concurrent_future.hpp>
#include <ouro/runtime/config.hpp>
#include <ouro/runtime/detail/atomic.hpp>
#include <ouro/runtime/detail/core.hpp>
#include <ouro/runtime/detail/errand.hpp>
#include <ouro/runtime/detail/frame_pool.hpp>
#include <ouro/runtime/detail/result.hpp>

namespace ouro {

// A piece of work on its way through an executor.
// Lifetime: whoever holds it calls run() or cancel(), once; it is gone then.
class OURO_EXPORT Job {
 public:
  // Does the work, on the calling thread. What it throws goes to whoever waits for it.
  virtual void run() noexcept = 0;
  // Gives the work up: whoever waits for it gets CancelledError.
  virtual void cancel() noexcept = 0;

 protected:
  Job() = default;
  Job(const Job&) = delete;
  Job& operator=(const Job&) = delete;
  ~Job() = default;
};

// Something that runs jobs on other threads.
class OURO_EXPORT Executor {
 public:
  virtual ~Executor() = default;

  // Takes the job over, to run it some time.
  // Threads: any.
  // Throws: RuntimeError after shutdown, when it is full, or when it has no thread and gets none; the job then stays
  // the caller's.
  virtual void submit(Job& job) = 0;

  // Takes no more jobs. With `cancel_futures` those that have not started are cancelled; with `wait` returns when all
  // have ended.
  // Threads: any; with `wait` none of its own.
  virtual void shutdown(bool wait, bool cancel_futures) = 0;

  // True if the calling thread is one of its own: a job that waits for another job there could wait for ever.
  // Threads: any.
  virtual bool on_own_thread() const noexcept { return false; }

 protected:
  Executor() = default;
  Executor(const Executor&) = delete;
  Executor& operator=(const Executor&) = delete;
};

struct ThreadPoolOptions {
  std::size_t max_queued = std::numeric_limits<std::size_t>::max();  // jobs waiting; beyond it submit() throws
  std::string_view thread_name_prefix = "ouro";                      // a thread is called prefix_0, prefix_1, ...
};

// Threads made on demand up to a limit, fed by one queue; jobs of one submitting thread start in the order of
// submission.
//
// A job may submit others to its own executor. If it waits for one with ConcurrentFuture::result() and that one has not
// started, it is run there and then, on the waiting thread, so that nested waits need no free thread. If every thread
// waits for something else while jobs are queued, a line on stderr says so.
class OURO_EXPORT ThreadPoolExecutor : public Executor {
 public:
  using Options = ThreadPoolOptions;

  // min(32, processors + 4) threads at most.
  ThreadPoolExecutor();
  // Throws: ValueError for max_workers == 0 or beyond 32767, and for max_queued == 0.
  explicit ThreadPoolExecutor(std::size_t max_workers, Options options = {});
  // As shutdown(): waits for the jobs that are queued. After a shutdown without waiting, or on a thread of its own, it
  // waits for nothing: the threads end by themselves.
  ~ThreadPoolExecutor() override;

  // Throws: as Executor says; std::bad_alloc.
  // Complexity: one atomic read-modify-write beside the queue's; a system call only if a thread sleeps and none is
  // awake and looking for work.
  void submit(Job& job) override;
  // May be called again, to wait for what a call without `wait` left running.
  // Throws: RuntimeError for `wait` on a thread of its own.
  void shutdown(bool wait, bool cancel_futures) override;
  void shutdown() { shutdown(true, false); }
  bool on_own_thread() const noexcept override;

  // Threads: any; a snapshot.
  std::size_t max_workers() const noexcept;
  std::size_t threads() const noexcept;      // that have been started
  std::size_t queue_depth() const noexcept;  // jobs that wait for a thread
  std::size_t max_queued() const noexcept;

 private:
  class Pool;
  std::shared_ptr<Pool> pool_;
  // The last word was a shutdown without waiting: the destructor does not wait either. Orders nothing.
  detail::Atomic<bool> unattended_{false};
};

namespace detail {

// A job that came from a loop and goes back to it.
class OURO_EXPORT LoopJob : public Job, public Errand {
 public:
  using Errand::Errand;

  void run() noexcept final;
  void cancel() noexcept final;

 protected:
  virtual void call() noexcept = 0;  // executor's thread
};

template <class R, class F, class... Args>
class TypedLoopJob final : public LoopJob {
 public:
  template <class G, class... A>
  TypedLoopJob(LoopState& home, FutureState& future, G&& callable, A&&... args)
      : LoopJob(home, future), callable_(std::forward<G>(callable)), args_(std::forward<A>(args)...) {}

  static void* operator new(std::size_t bytes) {
    static_assert(alignof(TypedLoopJob) <= 16, "run_in_executor: an over-aligned callable or argument; pass a pointer");
    return allocate_frame(bytes);
  }
  static void operator delete(void* memory, std::size_t bytes) noexcept { free_frame(memory, bytes); }

 private:
  ~TypedLoopJob() override = default;

  void call() noexcept override { result_ = call_for_outcome<R>(std::move(callable_), std::move(args_)); }

  void deliver(FutureState& future) noexcept override {
    auto& result = static_cast<FutureResult<R>&>(future);
    if (std::exception_ptr exception = result_.exception()) {
      result.emplace_exception(std::move(exception));
      return;
    }
    try {
      if constexpr (std::is_void_v<R>) {
        result.emplace();
      } else {
        result.emplace(std::move(result_).value());
      }
    } catch (...) {
      result.emplace_exception(std::current_exception());
    }
  }

  void release() noexcept override { delete this; }

  F callable_;
  [[no_unique_address]] std::tuple<Args...> args_;
  ouro::Outcome<R> result_;
};

// Sends a job out. After an exception it is gone.
OURO_EXPORT void submit_job(LoopState& home, Executor* executor, LoopJob& job);

// A job whose result goes into a ConcurrentFuture; both are one object. The executor's queue holds one reference.
template <class R, class F, class... Args>
class SubmittedJob final : public Job, public ConcurrentState<R> {
 public:
  template <class G, class... A>
  explicit SubmittedJob(const Executor& executor, G&& callable, A&&... args)
      : executor_(&executor),
        work_(std::in_place, std::forward<G>(callable), std::tuple<Args...>(std::forward<A>(args)...)) {}

  void run() noexcept override {
    work();
    this->drop_ref();
  }
  void cancel() noexcept override {
    this->request_cancel();
    this->drop_ref();
  }

  // A thread of the executor is about to wait for it: if it has not started, it starts here.
  void help() noexcept override {
    if (this->pending() && executor_of_this_thread() == executor_) work();
  }

 private:
  struct Work {
    template <class G>
    Work(G&& callable, std::tuple<Args...>&& arguments) : f(std::forward<G>(callable)), args(std::move(arguments)) {}
    F f;
    std::tuple<Args...> args;
  };

  void work() noexcept {
    if (!this->begin()) return;
    ouro::Outcome<R> outcome = call_for_outcome<R>(std::move(work_->f), std::move(work_->args));
    work_.reset();
    this->finish(std::move(outcome));
  }

  const Executor* executor_;  // compared, never followed: it may be gone
  std::optional<Work> work_;
};

}  // namespace detail

// Runs `f(args...)` on a thread of `executor`, for a caller that is no loop.
// Threads: any. Throws: as executor.submit().
template <class F, class... Args>
  requires std::invocable<std::decay_t<F>, std::decay_t<Args>...>
auto executor_submit(Executor& executor, F&& f, Args&&... args) {
  using R = std::invoke_result_t<std::decay_t<F>, std::decay_t<Args>...>;
  using Submitted = detail::SubmittedJob<R, std::decay_t<F>, std::decay_t<Args>...>;
  auto* job = new Submitted(executor, std::forward<F>(f), std::forward<Args>(args)...);
  ConcurrentFuture<R> future{detail::ConcurrentHandle(*job)};
  job->add_ref();
  try {
    executor.submit(*job);
  } catch (...) {
    job->drop_ref();
    throw;
  }
  return future;
}

}  // namespace ouro
