// Between ouro and what others brought: std::stop_token, std::future, coroutines that resume on threads of their own.
// A function that takes a callback needs nothing of this: ConcurrentFuture::to_address() says how.
#pragma once

#include <chrono>
#include <concepts>
#include <cstdint>
#include <exception>
#include <future>
#include <memory>
#include <mutex>
#include <optional>
#include <stop_token>
#include <type_traits>
#include <utility>
#include <vector>

#include <ouro/runtime/awaitable.hpp>
#include <ouro/runtime/base_event_loop.hpp>
#include <ouro/runtime/concurrent_future.hpp>
#include <ouro/runtime/config.hpp>
#include <ouro/runtime/coroutine.hpp>
#include <ouro/runtime/detail/core.hpp>
#include <ouro/runtime/exceptions.hpp>
#include <ouro/runtime/futures.hpp>
#include <ouro/runtime/tasks.hpp>
#include <ouro/runtime/threads.hpp>
#include <ouro/runtime/wait.hpp>

namespace ouro {
namespace detail {

// How a stop request, on any thread, reaches a task: it asks the loop to cancel it. Who waits for the task cuts the
// link before he lets go of it, so the task and the loop are there for as long as the link has them.
class OURO_EXPORT StopLink {
 public:
  StopLink(FutureState& task, BaseEventLoop& loop) noexcept : task_(&task), loop_(&loop) {}

  // Threads: any.
  static void request(const std::shared_ptr<StopLink>& self);
  void cut() noexcept;

 private:
  void cancel() noexcept;

  std::mutex mutex_;  // held while either is used
  FutureState* task_;
  BaseEventLoop* loop_;
};

// Links a task to a token for as long as it lives. So long a thread may cancel the task: it is no deadlock.
class OURO_EXPORT StopScope {
 public:
  StopScope(const std::stop_token& token, FutureState& task);
  ~StopScope();
  StopScope(const StopScope&) = delete;

 private:
  struct Call {
    std::shared_ptr<StopLink> link;
    void operator()() const { StopLink::request(link); }
  };
  LoopState& loop_;
  const std::uint32_t remote_;  // 1, or 0 if nobody can request a stop
  std::shared_ptr<StopLink> link_;
  std::stop_callback<Call> callback_;
};

[[noreturn]] OURO_EXPORT void throw_stopped();

template <class T>
Coroutine<T> run_until_stop(std::stop_token token, Coroutine<T> inner) {
  if (token.stop_requested()) throw_stopped();
  TaskOptions options;
  options.eager_start = true;
  const Task<T> task = create_task(std::move(inner), options);
  if (!task.done()) {
    const StopScope scope(token, task.handle().state());
    co_await CompletionAwaiter(task.handle());
  }
  co_return take_value<T>(task.handle().state());
}

// Requests a stop when it goes.
struct StopAtEnd {
  std::stop_source source;
  ~StopAtEnd() { source.request_stop(); }
};

template <class F>
using StoppableResult = await_result_t<std::invoke_result_t<F&, std::stop_token>>;

template <class F>
Coroutine<StoppableResult<F>> run_stoppable(F f) {
  const StopAtEnd end;
  std::stop_source source = end.source;
  auto future = ensure_future(f(source.get_token()));
  using T = typename decltype(future)::value_type;
  std::optional<CancelledError> cancelled;
  while (!future.done()) {
    std::vector<decltype(future)> futures(1, future);
    try {
      co_await wait(std::move(futures));
    } catch (const CancelledError& error) {
      if (cancelled) future.cancel(error.message());
      cancelled.emplace(error);
      source.request_stop();
    }
  }
  if (cancelled && (future.cancelled() || !future.exception())) throw CancelledError(*cancelled);
  co_return take_value<T>(future.handle().state());
}

}  // namespace detail

// ---- Stop tokens ----
// The names say which request makes which: cancel_on_stop(), stop_on_cancel().

// Awaits it in a task of its own, which a stop request, on any thread, cancels: a token of the standard library's makes
// ouro's cancellation. What has not begun when the stop is requested never does.
// Throws at the co_await: what the awaitable throws, CancelledError that is after a stop.
// If cancelled: so is the awaitable.
template <class A>
  requires Awaitable<std::remove_cvref_t<A>>
auto cancel_on_stop(std::stop_token token, A&& awaitable) {
  return detail::run_until_stop(std::move(token), detail::to_coroutine(std::forward<A>(awaitable)));
}
// The same for `f(args...)`, which live as long as the task.
template <class F, class... Args>
  requires CoroutineCallable<std::decay_t<F>&, std::decay_t<Args>...>
auto cancel_on_stop(std::stop_token token, F&& f, Args&&... args) {
  return detail::run_until_stop(std::move(token),
                                detail::to_coroutine(std::forward<F>(f), std::forward<Args>(args)...));
}

// Awaits `f(token)`, and turns a cancellation into a stop request: ouro's cancellation makes a token of the standard
// library's, for code that is driven by one: f may be `[](std::stop_token token) { return to_thread(work, token); }`.
// What f gave is awaited to its end, so nothing of it is left when CancelledError arrives; an error that it ends with
// takes that one's place.
// If cancelled: stop is requested; a second time, what f gave is cancelled, and a job that runs on a thread is left.
// Stop is also requested when all is over, and when the loop is closed.
template <class F>
  requires std::invocable<std::decay_t<F>&, std::stop_token> &&
           Awaitable<std::invoke_result_t<std::decay_t<F>&, std::stop_token>>
auto stop_on_cancel(F&& f) {
  return detail::run_stoppable<std::decay_t<F>>(std::forward<F>(f));
}

// ---- Futures of the standard library ----

namespace detail {

[[noreturn]] OURO_EXPORT void throw_no_state();

// Of a shared future the value is copied, for the copy that the job has goes with it.
template <class T, class F>
T get_from(F& future) {
  return future.get();
}

template <class T, class F>
Future<T> wrap_std_future(F future, BaseEventLoop& loop) {
  if (!future.valid()) throw_no_state();
  if (future.wait_for(std::chrono::seconds(0)) != std::future_status::ready) {
    auto job = [given = std::move(future)]() mutable -> T { return get_from<T>(given); };
    return loop.run_in_executor(nullptr, std::move(job));
  }
  Future<T> wrapped(PlainFuture<T>::make(loop.home_of_errands(), std::source_location::current()));
  try {
    if constexpr (std::is_void_v<T>) {
      future.get();
      wrapped.set_result();
    } else {
      wrapped.set_result(get_from<T>(future));
    }
  } catch (...) {
    wrapped.set_exception(std::current_exception());
  }
  return wrapped;
}

}  // namespace detail

// A future of `loop` (or the running one) with what the other one gives. A std::future calls nobody back: one that is
// ready costs nothing, any other blocks a thread of the loop's default executor until it is. So do not wrap hundreds,
// nor one that waits for a job of the same executor: where the producer can be changed, give him a ConcurrentFuture.
// If cancelled: the wait is given up; the thread stays blocked until the other future is ready.
// Throws: ValueError for one without a state; RuntimeError without a running loop; as run_in_executor.
template <class T>
Future<T> wrap_future(std::future<T> future, BaseEventLoop& loop) {
  return detail::wrap_std_future<T>(std::move(future), loop);
}
template <class T>
Future<T> wrap_future(std::future<T> future) {
  return wrap_future(std::move(future), *detail::require_running().loop);
}
// The same with a copy of the value.
template <class T>
Future<T> wrap_future(std::shared_future<T> future, BaseEventLoop& loop) {
  return detail::wrap_std_future<T>(std::move(future), loop);
}
template <class T>
Future<T> wrap_future(std::shared_future<T> future) {
  return wrap_future(std::move(future), *detail::require_running().loop);
}

// ---- Awaitables that resume elsewhere ----

namespace detail {

// A coroutine that belongs to nobody and to no loop. It runs where it is resumed, and goes at its end.
struct Detached {
  struct promise_type {
    Detached get_return_object() noexcept { return {}; }
    std::suspend_never initial_suspend() noexcept { return {}; }
    std::suspend_never final_suspend() noexcept { return {}; }
    void return_void() noexcept {}
    void unhandled_exception() noexcept { std::terminate(); }
  };
};

template <class T, class A>
Detached deliver(A awaitable, ConcurrentFuture<T> result) {
  try {
    if constexpr (std::is_void_v<T>) {
      co_await std::move(awaitable);
      result.try_set_result();
    } else {
      T value = co_await std::move(awaitable);
      result.try_set_result(std::forward<T>(value));
    }
  } catch (...) {
    result.try_set_exception(std::current_exception());
  }
}

template <class T, class A>
Coroutine<T> await_elsewhere(A awaitable) {
  const auto result = ConcurrentFuture<T>::create();
  deliver<T>(std::move(awaitable), result);
  co_return co_await wrap_future(result);
}

}  // namespace detail

// Awaits an awaitable that is not ouro's and resumes on threads of its own, and goes on where the caller belongs.
//
// Anything with operator co_await can be awaited, gathered, made a task. But who awaits it himself is resumed by it:
// that has to happen on the loop's thread, from a callback say (call_soon_threadsafe), and until the next co_await of
// something of ouro's the code counts as part of that callback. Here nothing of the caller's is resumed by the other.
// If cancelled: the wait is given up; the other operation goes on, and its result is dropped.
// Lifetime: the awaitable is moved, and lives until it has resumed. Complexity: three allocations.
template <class A>
  requires Awaitable<std::remove_cvref_t<A>>
auto resume_here(A&& awaitable) {
  static_assert(!is_coroutine<A> && !isfuture<A>, "what is ouro's resumes where it belongs: co_await it");
  return detail::await_elsewhere<await_result_t<std::remove_cvref_t<A>>, std::remove_cvref_t<A>>(
      std::forward<A>(awaitable));
}

}  // namespace ouro
