// The parts of ConcurrentFuture that are no templates.
#include <ouro/runtime/concurrent_future.hpp>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <exception>

#include <ouro/runtime/detail/futex.hpp>

namespace ouro::detail {
namespace {

constexpr std::chrono::seconds report_interval{1};

constinit thread_local ExecutorThread* executor_thread = nullptr;

void call_callback(ConcurrentCallback& callback, ConcurrentStateBase& done) noexcept {
  try {
    callback.call(done);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "ouro: exception in a done-callback of a ConcurrentFuture: %s\n", error.what());
  } catch (...) {
    std::fputs("ouro: exception in a done-callback of a ConcurrentFuture\n", stderr);
  }
  delete &callback;
}

// Says to the executor, while it lives, that its thread waits.
class Blocked {
 public:
  Blocked() noexcept : thread_(executor_thread) {
    if (thread_) thread_->block();
  }
  Blocked(const Blocked&) = delete;
  Blocked& operator=(const Blocked&) = delete;
  ~Blocked() {
    if (thread_) thread_->unblock();
  }

  ExecutorThread* thread() const noexcept { return thread_; }

 private:
  ExecutorThread* thread_;
};

}  // namespace

void set_executor_thread(ExecutorThread* thread) noexcept { executor_thread = thread; }

const Executor* executor_of_this_thread() noexcept { return executor_thread ? executor_thread->executor() : nullptr; }

ConcurrentStateBase::~ConcurrentStateBase() {
  while (ConcurrentCallback* callback = first_) {
    first_ = callback->next;
    delete callback;
  }
}

bool ConcurrentStateBase::begin() noexcept {
  const std::lock_guard lock(mutex_);
  if (phase() != pending_phase) return false;
  word_.fetch_add(running_phase - pending_phase, std::memory_order_relaxed);  // orders nothing: it is not final
  return true;
}

bool ConcurrentStateBase::request_cancel() noexcept {
  std::unique_lock lock(mutex_);
  if (phase() != pending_phase) return phase() == cancelled_phase;
  end(cancelled_phase, std::move(lock));
  return true;
}

void ConcurrentStateBase::break_off() noexcept {
  std::unique_lock lock(mutex_);
  if (phase() < cancelled_phase) end(cancelled_phase, std::move(lock));
}

void ConcurrentStateBase::check_settable() const {
  if (phase() == cancelled_phase) {
    throw InvalidStateError("CANCELLED", "a producer asks set_running_or_notify_cancel() first");
  }
  if (phase() == finished_phase) throw InvalidStateError("FINISHED", "a future can be ended once: ask done() first");
}

void ConcurrentStateBase::end(Phase final_phase, std::unique_lock<std::mutex> lock) noexcept {
  ConcurrentCallback* callback = std::exchange(first_, nullptr);
  add_ref();  // whoever sees the end may drop the last handle
  const std::uint32_t before = word_.exchange(final_phase, std::memory_order_acq_rel);
  lock.unlock();
  if (before & sleeper_bit) futex_wake(word_, ~std::uint32_t{0});
  while (callback) {
    ConcurrentCallback* next = callback->next;
    call_callback(*callback, *this);
    callback = next;
  }
  drop_ref();
}

void ConcurrentStateBase::add_callback(ConcurrentCallback& callback) noexcept {
  {
    const std::lock_guard lock(mutex_);
    if (phase() < cancelled_phase) {
      (first_ ? last_->next : first_) = &callback;
      last_ = &callback;
      return;
    }
  }
  call_callback(callback, *this);
}

bool ConcurrentStateBase::wait(TimePoint deadline) {
  if (done()) return true;
  if (home_ && running_state() == home_) {
    throw RuntimeError("ConcurrentFuture: waiting on the thread of the loop that would complete it would never end",
                       "co_await wrap_future(future), or wait on another thread");
  }
  if (deadline == TimePoint::max()) help();
  sleep_until_done(deadline);
  return done();
}

void ConcurrentStateBase::sleep_until_done(TimePoint deadline) noexcept {
  if (done()) return;
  const bool forever = deadline == TimePoint::max();
  const Blocked blocked;
  bool in_time = true;
  while (in_time) {
    // The bit and the phase are one word: either this sees the final phase, or the exchange that sets it sees the bit.
    const std::uint32_t seen = word_.fetch_or(sleeper_bit, std::memory_order_acquire) | sleeper_bit;
    if ((seen & phase_mask) >= cancelled_phase) return;
    if (!blocked.thread() || !forever) {
      in_time = futex_wait(word_, seen, deadline);
    } else if (!futex_wait(word_, seen, saturating_add(Clock::steady().now(), report_interval))) {
      blocked.thread()->still_blocked();
    }
  }
}

void throw_uninitialised_concurrent() {
  throw RuntimeError("ConcurrentFuture object is not initialized.", "make it with ConcurrentFuture<T>::create()");
}

void throw_concurrent_timeout() { throw TimeoutError("the result was not there in time", "the work goes on"); }

void throw_concurrent_cancelled() { throw CancelledError(); }

void throw_null_exception() { throw ValueError("set_exception: the exception_ptr is null"); }

}  // namespace ouro::detail
