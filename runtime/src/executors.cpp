// The parts of the executors that are no templates.
#include <ouro/runtime/executors.hpp>

#include <algorithm>
#include <memory>
#include <thread>
#include <utility>

#include <ouro/runtime/base_event_loop.hpp>
#include <ouro/runtime/exceptions.hpp>

#include "thread_pool.hpp"
#include "worker.hpp"

namespace ouro {
namespace {

std::size_t default_workers() noexcept {
  return std::min<std::size_t>(32, std::max(1U, std::thread::hardware_concurrency()) + 4);
}

}  // namespace

ThreadPoolExecutor::ThreadPoolExecutor() : ThreadPoolExecutor(default_workers()) {}

ThreadPoolExecutor::ThreadPoolExecutor(std::size_t max_workers, Options options)
    : pool_(std::make_shared<Pool>(*this, max_workers, options)) {}

ThreadPoolExecutor::~ThreadPoolExecutor() {
  pool_->shut(false);
  if (unattended_ || on_own_thread()) {
    pool_->detach();
  } else {
    pool_->join();
  }
}

void ThreadPoolExecutor::submit(Job& job) { pool_->submit(job); }

void ThreadPoolExecutor::shutdown(bool wait, bool cancel_futures) {
  if (wait && on_own_thread()) {
    throw RuntimeError("shutdown: a thread of the executor cannot wait for itself to end",
                       "call shutdown(false, ...) there, or shut it down from another thread");
  }
  pool_->shut(cancel_futures);
  unattended_ = !wait;
  if (wait) pool_->join();
}

bool ThreadPoolExecutor::on_own_thread() const noexcept { return detail::executor_of_this_thread() == this; }

std::size_t ThreadPoolExecutor::max_workers() const noexcept { return pool_->max_workers; }
std::size_t ThreadPoolExecutor::max_queued() const noexcept { return pool_->max_queued; }
std::size_t ThreadPoolExecutor::queue_depth() const noexcept { return pool_->depth(); }
std::size_t ThreadPoolExecutor::threads() const noexcept { return pool_->started.load(std::memory_order_relaxed); }

// ---- The default executor of a loop; in a group the first loop's is all loops' ----

void BaseEventLoop::set_default_executor(std::shared_ptr<Executor> executor) {
  if (detail::Worker* worker = state_->worker; worker && worker->index != 0) {
    return worker->group.workers.front()->state.loop->set_default_executor(std::move(executor));
  }
  if (!executor) throw ValueError("set_default_executor: the executor is null");
  const auto hold = detail::lock_group(*state_);
  // The old one ends outside the lock, for that waits for its threads; or when another worker has submitted to it.
  executor_.swap(executor);
}

Executor& BaseEventLoop::default_executor(std::shared_ptr<Executor>& keeper) {
  if (detail::Worker* worker = state_->worker; worker && worker->index != 0) {
    return worker->group.workers.front()->state.loop->default_executor(keeper);
  }
  const auto hold = detail::lock_group(*state_);
  if (executor_shut_down_) throw RuntimeError("Executor shutdown has been called");
  if (!executor_) executor_ = std::make_shared<ThreadPoolExecutor>();
  if (OURO_UNLIKELY(state_->worker != nullptr)) keeper = executor_;
  return *executor_;
}

std::shared_ptr<Executor> BaseEventLoop::take_default_executor() noexcept {
  if (detail::Worker* worker = state_->worker; worker && worker->index != 0) {
    return worker->group.workers.front()->state.loop->take_default_executor();
  }
  const auto hold = detail::lock_group(*state_);
  executor_shut_down_ = true;
  return std::exchange(executor_, nullptr);
}

// ---- Jobs ----

namespace detail {

void LoopJob::run() noexcept {
  if (!wanted()) {
    release();
    return;
  }
  call();
  come_back();
}

void LoopJob::cancel() noexcept {
  cancelled_ = true;
  come_back();
}

void submit_job(LoopState&, Executor* executor, LoopJob& job) {
  job.set_out();
  try {
    executor->submit(job);
  } catch (...) {
    job.discard();
    throw;
  }
}

}  // namespace detail
}  // namespace ouro
