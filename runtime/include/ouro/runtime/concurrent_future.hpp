// ConcurrentFuture<T>: a result for threads, as concurrent.futures has it. Future<T> is for coroutines, on one loop;
// this one is for code that may block: the main thread beside a loop, a job in an executor.
#pragma once

#include <chrono>
#include <concepts>
#include <cstdint>
#include <exception>
#include <functional>
#include <mutex>
#include <tuple>
#include <type_traits>
#include <utility>

#include <ouro/runtime/clock.hpp>
#include <ouro/runtime/config.hpp>
#include <ouro/runtime/detail/atomic.hpp>
#include <ouro/runtime/detail/core.hpp>
#include <ouro/runtime/detail/result.hpp>
#include <ouro/runtime/exceptions.hpp>

namespace ouro {

class Executor;
template <class T>
class ConcurrentFuture;

namespace detail {

// Calls, and keeps what comes of it.
template <class R, class F, class... Args>
ouro::Outcome<R> call_for_outcome(F&& f, std::tuple<Args...>&& args) noexcept {
  try {
    if constexpr (std::is_void_v<R>) {
      std::apply(std::forward<F>(f), std::move(args));
      return ouro::Outcome<R>(std::in_place);
    } else {
      return ouro::Outcome<R>(std::in_place, std::apply(std::forward<F>(f), std::move(args)));
    }
  } catch (...) {
    return ouro::Outcome<R>(std::current_exception());
  }
}

class ConcurrentStateBase;

// A done-callback.
class ConcurrentCallback {
 public:
  virtual ~ConcurrentCallback() = default;
  virtual void call(ConcurrentStateBase& done) = 0;
  ConcurrentCallback* next = nullptr;
};

// What the copies of a ConcurrentFuture share, whatever the type.
//
// `word_` holds the phase, and a bit that says that somebody sleeps on it. The phase goes from pending to running to
// finished, or from pending to cancelled, or at once to finished. It changes under the mutex, which also guards the
// list of callbacks and the outcome until that is final; the exchange to a final phase releases, and whoever reads a
// final phase (acquire) may read the outcome without the mutex. The bit is set by who is about to sleep, in the same
// word, so the exchange that ends the future cannot miss it.
class OURO_EXPORT ConcurrentStateBase {
 public:
  void add_ref() noexcept { refs_.fetch_add(1, std::memory_order_relaxed); }
  void drop_ref() noexcept {
    if (refs_.fetch_sub(1, std::memory_order_acq_rel) == 1) delete this;
  }
  // True if nobody else has a handle, and what others did with theirs is visible.
  bool unique() const noexcept { return refs_.load(std::memory_order_acquire) == 1; }

  bool done() const noexcept { return phase() >= cancelled_phase; }
  bool cancelled() const noexcept { return phase() == cancelled_phase; }
  bool running() const noexcept { return phase() == running_phase; }
  bool pending() const noexcept { return phase() == pending_phase; }

  // pending -> running. False if it is anything but pending.
  bool begin() noexcept;
  // pending -> cancelled, with its callbacks. True if it is cancelled now.
  bool request_cancel() noexcept;
  // As request_cancel(), for a producer that gives up: a running one is cancelled too.
  void break_off() noexcept;
  // Blocks until it is done. False if `deadline` came first.
  bool wait(TimePoint deadline);
  // Takes the callback over; calls it now if the future is done.
  void add_callback(ConcurrentCallback& callback) noexcept;

  // The loop that will complete it, if one will: its own thread must not wait.
  void set_home(const LoopState& home) noexcept { home_ = &home; }

 protected:
  enum Phase : std::uint32_t { pending_phase, running_phase, cancelled_phase, finished_phase };

  ConcurrentStateBase() noexcept = default;
  ConcurrentStateBase(const ConcurrentStateBase&) = delete;
  ConcurrentStateBase& operator=(const ConcurrentStateBase&) = delete;
  virtual ~ConcurrentStateBase();

  // A thread is about to wait: a chance to do the work on it.
  virtual void help() noexcept {}

  // With the mutex held: throws InvalidStateError if it is done.
  void check_settable() const;
  // With the mutex held, which it releases: ends the future, wakes those who sleep, calls the callbacks.
  void end(Phase phase, std::unique_lock<std::mutex> lock) noexcept;

  std::mutex mutex_;

 private:
  static constexpr std::uint32_t phase_mask = 3;
  static constexpr std::uint32_t sleeper_bit = 4;

  Phase phase() const noexcept { return static_cast<Phase>(word_.load(std::memory_order_acquire) & phase_mask); }
  void sleep_until_done(TimePoint deadline) noexcept;

  Atomic<std::uint32_t> refs_{1};  // the handles; acquire-release, so that the last one sees what all others did
  Atomic<std::uint32_t> word_{pending_phase};
  const LoopState* home_ = nullptr;  // compared, never followed
  ConcurrentCallback* first_ = nullptr;
  ConcurrentCallback* last_ = nullptr;
};

template <class T>
class ConcurrentState : public ConcurrentStateBase {
 public:
  ConcurrentState() noexcept = default;

  // For what has begun(): cannot fail.
  void finish(ouro::Outcome<T> outcome) noexcept {
    std::unique_lock lock(mutex_);
    outcome_ = std::move(outcome);
    end(finished_phase, std::move(lock));
  }

  // Throws: InvalidStateError if it is done; what the construction of the value throws.
  template <class... U>
  void set(U&&... outcome) {
    std::unique_lock lock(mutex_);
    check_settable();
    outcome_ = ouro::Outcome<T>(std::forward<U>(outcome)...);
    end(finished_phase, std::move(lock));
  }

  // The same, but false if it is done.
  template <class... U>
  bool try_set(U&&... outcome) {
    std::unique_lock lock(mutex_);
    if (done()) return false;
    outcome_ = ouro::Outcome<T>(std::forward<U>(outcome)...);
    end(finished_phase, std::move(lock));
    return true;
  }

  // Requires: finished.
  ouro::Outcome<T>& outcome() noexcept { return outcome_; }

 protected:
  ~ConcurrentState() override = default;

 private:
  ouro::Outcome<T> outcome_;
};

// A counted handle without the type.
class ConcurrentHandle {
 public:
  ConcurrentHandle() noexcept = default;
  explicit ConcurrentHandle(ConcurrentStateBase& counted) noexcept : state_(&counted) {}  // takes over one reference
  ConcurrentHandle(const ConcurrentHandle& other) noexcept : state_(other.state_) {
    if (state_) state_->add_ref();
  }
  ConcurrentHandle(ConcurrentHandle&& other) noexcept : state_(std::exchange(other.state_, nullptr)) {}
  ConcurrentHandle& operator=(ConcurrentHandle other) noexcept {
    std::swap(state_, other.state_);
    return *this;
  }
  ~ConcurrentHandle() {
    if (state_) state_->drop_ref();
  }

  ConcurrentStateBase* get() const noexcept { return state_; }

 private:
  ConcurrentStateBase* state_ = nullptr;
};

// A thread of an executor, as seen by what blocks on it.
class OURO_EXPORT ExecutorThread {
 public:
  explicit ExecutorThread(const Executor& executor) noexcept : executor_(&executor) {}

  const Executor* executor() const noexcept { return executor_; }
  virtual void block() noexcept = 0;          // it is about to wait without a deadline
  virtual void still_blocked() noexcept = 0;  // called every second of the wait
  virtual void unblock() noexcept = 0;        // it has waited

 protected:
  ~ExecutorThread() = default;

 private:
  const Executor* executor_;
};

// Says what the calling thread is; nullptr: none of an executor's.
OURO_EXPORT void set_executor_thread(ExecutorThread* thread) noexcept;
// The executor whose thread this is, or nullptr. To be compared: it may have been destroyed.
OURO_EXPORT const Executor* executor_of_this_thread() noexcept;

[[noreturn, gnu::cold]] OURO_EXPORT void throw_uninitialised_concurrent();
[[noreturn, gnu::cold]] OURO_EXPORT void throw_concurrent_timeout();
[[noreturn, gnu::cold]] OURO_EXPORT void throw_concurrent_cancelled();
[[noreturn, gnu::cold]] OURO_EXPORT void throw_null_exception();

}  // namespace detail

// A result of type T (void and references included) that another thread, or a loop, will have some time. Copies share
// it.
//
// Threads: any, at the same time.
template <class T = void>
class ConcurrentFuture {
 public:
  using value_type = T;

  // An empty handle: every use but assignment throws RuntimeError.
  ConcurrentFuture() noexcept = default;
  // For the library.
  explicit ConcurrentFuture(detail::ConcurrentHandle handle) noexcept : handle_(std::move(handle)) {}

  // A pending one, for a producer that will call set_result or set_exception.
  static ConcurrentFuture create() {
    struct Plain final : detail::ConcurrentState<T> {};
    return ConcurrentFuture(detail::ConcurrentHandle(*new Plain));
  }

  explicit operator bool() const noexcept { return handle_.get() != nullptr; }

  bool done() const { return state().done(); }
  bool cancelled() const { return state().cancelled(); }
  bool running() const { return state().running(); }

  // Cancels what has not begun; what comes from run_coroutine_threadsafe can be cancelled until it is done, and the
  // task is cancelled in its loop. Waiters get CancelledError. Returns true if it is cancelled now.
  bool cancel() const { return state().request_cancel(); }

  // The result, for as long as a handle lives; blocks until it is there. The exception is thrown if it failed.
  // Throws: CancelledError if it was cancelled; RuntimeError on the thread of the running loop that would complete it.
  decltype(auto) result() const& { return value(TimePoint::max()); }
  // The same for a handle that is a temporary: moves the result out if it is the last one, or if T cannot be copied.
  T result() && { return take(TimePoint::max()); }
  // The same, and waits no longer than `timeout`: throws TimeoutError then. The work goes on.
  template <class Rep, class Period>
  decltype(auto) result(std::chrono::duration<Rep, Period> timeout) const& {
    return value(deadline_after(timeout));
  }
  template <class Rep, class Period>
  T result(std::chrono::duration<Rep, Period> timeout) && {
    return take(deadline_after(timeout));
  }

  // Blocks like result(); gives the exception that it failed with, or nullptr.
  std::exception_ptr exception() const { return finished(TimePoint::max()).exception(); }
  template <class Rep, class Period>
  std::exception_ptr exception(std::chrono::duration<Rep, Period> timeout) const {
    return finished(deadline_after(timeout)).exception();
  }

  // Blocks until it is done, however it ends. False if `timeout` came first.
  template <class Rep, class Period>
  bool wait(std::chrono::duration<Rep, Period> timeout) const {
    return state().wait(deadline_after(timeout));
  }
  void wait() const { state().wait(TimePoint::max()); }

  // Calls `callback(future)` once when it is done, on the thread that ends it; at once if it is done. What it throws
  // goes to stderr.
  template <class F>
    requires std::invocable<std::decay_t<F>&, ConcurrentFuture<T>>
  void add_done_callback(F&& callback) const {
    struct Callback final : detail::ConcurrentCallback {
      explicit Callback(F&& given) : f(std::forward<F>(given)) {}
      void call(detail::ConcurrentStateBase& done) override {
        done.add_ref();
        static_cast<void>(f(ConcurrentFuture<T>(detail::ConcurrentHandle(done))));
      }
      std::decay_t<F> f;
    };
    detail::ConcurrentStateBase& base = state();
    base.add_callback(*new Callback(std::forward<F>(callback)));
  }

  // ---- For producers ----

  // The work begins: cancel() comes too late from here on. False if it was cancelled; then the work is not wanted.
  bool set_running_or_notify_cancel() const { return state().begin(); }

  // Ends it with a value; wakes those who wait, and calls the callbacks on this thread.
  // Throws: InvalidStateError if it is done, also by cancel().
  template <class... U>
    requires(std::is_void_v<T> ? sizeof...(U) == 0 : sizeof...(U) == 1 && std::constructible_from<T, U && ...>)
  void set_result(U&&... result) const {
    state().set(std::in_place, std::forward<U>(result)...);
  }
  void set_exception(std::exception_ptr exception) const {
    if (!exception) detail::throw_null_exception();
    state().set(std::move(exception));
  }
  template <class E>
    requires(!std::same_as<std::remove_cvref_t<E>, std::exception_ptr> && !std::is_null_pointer_v<E>)
  void set_exception(E exception) const {
    set_exception(std::make_exception_ptr(std::move(exception)));
  }

  // The same for producers that may come too late, or must not throw: false if it is done, also by cancel().
  template <class... U>
    requires(std::is_void_v<T> ? sizeof...(U) == 0 : sizeof...(U) == 1 && std::constructible_from<T, U && ...>)
  bool try_set_result(U&&... result) const {
    return state().try_set(std::in_place, std::forward<U>(result)...);
  }
  bool try_set_exception(std::exception_ptr exception) const {
    if (!exception) detail::throw_null_exception();
    return state().try_set(std::move(exception));
  }

  // For interfaces that give a callback a void*: the address holds a reference, which from_address() takes over, once.
  // So the result has a place until the callback has come, whether or not anybody waits for it any more.
  void* to_address() const {
    detail::ConcurrentStateBase& counted = state();
    counted.add_ref();
    return &counted;
  }
  static ConcurrentFuture from_address(void* address) noexcept {
    return ConcurrentFuture(detail::ConcurrentHandle(*static_cast<detail::ConcurrentStateBase*>(address)));
  }

  friend bool operator==(const ConcurrentFuture& a, const ConcurrentFuture& b) noexcept {
    return a.handle_.get() == b.handle_.get();
  }

  // ---- For the library ----

  detail::ConcurrentState<T>& state() const {
    if (OURO_UNLIKELY(!handle_.get())) detail::throw_uninitialised_concurrent();
    return static_cast<detail::ConcurrentState<T>&>(*handle_.get());
  }

  // The result as result() && gives it.
  T take(TimePoint deadline = TimePoint::max()) const {
    ouro::Outcome<T>& outcome = finished(deadline);
    if constexpr (std::is_void_v<T> || std::is_reference_v<T>) {
      return outcome.value();
    } else if constexpr (detail::is_copyable<T>) {
      if (!state().unique()) return std::as_const(outcome).value();
      return std::move(outcome).value();
    } else {
      return std::move(outcome).value();
    }
  }

 private:
  template <class Rep, class Period>
  static TimePoint deadline_after(std::chrono::duration<Rep, Period> timeout) {
    return detail::saturating_add(Clock::steady().now(), detail::saturating_duration(timeout));
  }

  ouro::Outcome<T>& finished(TimePoint deadline) const {
    detail::ConcurrentState<T>& shared = state();
    if (!shared.done() && !shared.wait(deadline)) detail::throw_concurrent_timeout();
    if (shared.cancelled()) detail::throw_concurrent_cancelled();
    return shared.outcome();
  }

  decltype(auto) value(TimePoint deadline) const {
    ouro::Outcome<T>& outcome = finished(deadline);
    if constexpr (std::is_void_v<T>) {
      outcome.value();
    } else if constexpr (std::is_reference_v<T>) {
      return static_cast<T>(outcome.value());
    } else {
      return static_cast<const T&>(std::as_const(outcome).value());
    }
  }

  detail::ConcurrentHandle handle_;
};

}  // namespace ouro
