// Between loops and threads: to_thread, run_coroutine_threadsafe, wrap_future.
#pragma once

#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <source_location>
#include <string>
#include <type_traits>
#include <utility>

#include <ouro/runtime/base_event_loop.hpp>
#include <ouro/runtime/concurrent_future.hpp>
#include <ouro/runtime/config.hpp>
#include <ouro/runtime/coroutine.hpp>
#include <ouro/runtime/detail/core.hpp>
#include <ouro/runtime/detail/errand.hpp>
#include <ouro/runtime/detail/result.hpp>
#include <ouro/runtime/exceptions.hpp>
#include <ouro/runtime/futures.hpp>
#include <ouro/runtime/tasks.hpp>

namespace ouro {

// Runs `f(args...)` on a thread of the running loop's default executor, at once, in a copy of the current context; the
// future is its result.
// If cancelled: so is the future: a call that has not begun when the loop hears of that never will; one that runs is
// not interrupted.
// Throws: RuntimeError without a running loop, and when the executor is shut down or full.
template <class F, class... Args>
  requires std::invocable<std::decay_t<F>, std::decay_t<Args>...>
auto to_thread(F&& f, Args&&... args) {
  BaseEventLoop& loop = *detail::require_running().loop;
  if (OURO_LIKELY(!detail::contexts_in_use())) {
    return loop.run_in_executor(nullptr, std::forward<F>(f), std::forward<Args>(args)...);
  }
  auto call = [context = copy_context(), f = std::decay_t<F>(std::forward<F>(f))]<class... A>(A&&... given) mutable {
    return context.run(std::move(f), std::forward<A>(given)...);
  };
  return loop.run_in_executor(nullptr, std::move(call), std::forward<Args>(args)...);
}

namespace detail {

// How other threads reach a task. Shared by the task's done-callback and the ConcurrentFuture's. The former cuts it
// when the task is done or destroyed, on the loop's thread; from then on the loop may be destroyed.
class OURO_EXPORT RemoteTask {
 public:
  RemoteTask(FutureState& task, BaseEventLoop& loop) noexcept : task_(&task), loop_(&loop) {
    loop.state().remote_tasks.fetch_add(1, std::memory_order_relaxed);
  }

  // Threads: any.
  static void cancel(const std::shared_ptr<RemoteTask>& self) {
    const std::lock_guard lock(self->mutex_);
    if (!self->loop_) return;
    try {
      self->loop_->call_soon_threadsafe([self] {
        if (self->task_) detail::cancel(*self->task_, std::string());
      });
    } catch (const RuntimeError&) {
      // The loop is closing: it destroys the task.
    }
  }

  // The loop's thread.
  void cut() noexcept {
    const std::lock_guard lock(mutex_);
    if (loop_) loop_->state().remote_tasks.fetch_sub(1, std::memory_order_relaxed);
    task_ = nullptr;
    loop_ = nullptr;
  }

 private:
  std::mutex mutex_;
  FutureState* task_;    // not counted: the task's callback cuts before it goes; the loop's thread only
  BaseEventLoop* loop_;  // with the mutex
};

// The done-callback of a task whose result goes to another thread. If it is dropped without having been called, because
// the loop closes, the future is cancelled.
template <class T>
class RemoteResult {
 public:
  RemoteResult(ConcurrentFuture<T> future, std::shared_ptr<RemoteTask> task) noexcept
      : future_(std::move(future)), task_(std::move(task)) {}
  RemoteResult(RemoteResult&&) noexcept = default;
  RemoteResult& operator=(RemoteResult&&) = delete;
  ~RemoteResult() {
    if (!task_) return;
    task_->cut();
    future_.state().break_off();
  }

  void operator()(Future<T> done) {
    std::exchange(task_, nullptr)->cut();
    FutureState& state = done.handle().state();
    if (state.cancelled()) {
      future_.state().break_off();
    } else if (future_.set_running_or_notify_cancel()) {
      future_.state().finish(outcome_of(state));
    } else {
      state.clear(flag_unretrieved);
    }
  }

 private:
  static ouro::Outcome<T> outcome_of(FutureState& state) noexcept {
    try {
      if constexpr (std::is_void_v<T>) {
        take_value<T>(state);
        return ouro::Outcome<T>(std::in_place);
      } else {
        return ouro::Outcome<T>(std::in_place, take_value<T>(state));
      }
    } catch (...) {
      return ouro::Outcome<T>(std::current_exception());
    }
  }

  ConcurrentFuture<T> future_;
  std::shared_ptr<RemoteTask> task_;
};

// A coroutine on its way to a loop, as a callback of that loop.
template <class T>
class RemoteStart {
 public:
  RemoteStart(BaseEventLoop& loop, Coroutine<T> coroutine, ConcurrentFuture<T> future) noexcept
      : loop_(&loop), coroutine_(std::move(coroutine)), future_(std::move(future)) {}
  RemoteStart(RemoteStart&&) noexcept = default;
  RemoteStart& operator=(RemoteStart&&) = delete;
  ~RemoteStart() {
    if (future_) future_.state().break_off();  // never started, or not to the end: the loop closes
  }

  void operator()() {
    const ConcurrentFuture<T> future = future_;
    try {
      Task<T> task = loop_->create_task(std::move(coroutine_));
      auto remote = std::make_shared<RemoteTask>(task.handle().state(), *loop_);
      task.add_done_callback(RemoteResult<T>(future, remote));
      if (future.cancelled()) {
        task.cancel();
      } else {
        future.add_done_callback([remote](const ConcurrentFuture<T>& done) {
          if (done.cancelled()) RemoteTask::cancel(remote);
        });
      }
    } catch (...) {
      if (future.set_running_or_notify_cancel()) future.state().finish(ouro::Outcome<T>(std::current_exception()));
      throw;
    }
    future_ = ConcurrentFuture<T>();
  }

 private:
  BaseEventLoop* loop_;
  Coroutine<T> coroutine_;
  ConcurrentFuture<T> future_;  // empty once the task has it
};

template <class T>
ConcurrentFuture<T> start_remotely(BaseEventLoop& loop, Coroutine<T> coroutine, std::source_location where) {
  if (!coroutine) throw_awaited_twice();
  auto future = ConcurrentFuture<T>::create();
  future.state().set_home(loop.state());
  loop.call_soon_threadsafe(RemoteStart<T>(loop, std::move(coroutine), future), where);
  return future;
}

// A Future that follows a ConcurrentFuture.
template <class T>
class FollowingErrand final : public Errand {
 public:
  static Future<T> start(BaseEventLoop& loop, ConcurrentFuture<T> source) {
    LoopState& home = loop.home_of_errands();
    Future<T> future(PlainFuture<T>::make(home, std::source_location::current()));
    auto* errand = new FollowingErrand(home, future.handle().state(), source);
    errand->set_out();
    source.add_done_callback(Return(*errand));  // should that fail, the Return that dies brings the errand home
    return future;
  }

 private:
  // The source's done-callback: brings the errand home, if only because the source is gone.
  class Return {
   public:
    explicit Return(FollowingErrand& errand) noexcept : errand_(&errand) {}
    Return(Return&& other) noexcept : errand_(std::exchange(other.errand_, nullptr)) {}
    Return& operator=(Return&&) = delete;
    ~Return() {
      if (errand_) errand_->come_home(true);
    }
    void operator()(const ConcurrentFuture<T>& done) { std::exchange(errand_, nullptr)->come_home(done.cancelled()); }

   private:
    FollowingErrand* errand_;
  };

  FollowingErrand(LoopState& home, FutureState& future, ConcurrentFuture<T> source) noexcept
      : Errand(home, future), source_(std::move(source)) {}
  ~FollowingErrand() override = default;

  void come_home(bool cancelled) noexcept {
    cancelled_ = cancelled;
    come_back();
  }

  void deliver(FutureState& future) noexcept override {
    auto& result = static_cast<FutureResult<T>&>(future);
    try {
      if constexpr (std::is_void_v<T>) {
        source_.take();
        result.emplace();
      } else {
        result.emplace(source_.take());
      }
    } catch (...) {
      result.emplace_exception(std::current_exception());
    }
  }

  void release() noexcept override { delete this; }
  void leave_source(bool cancelled) noexcept override {
    const ConcurrentFuture<T> source = std::exchange(source_, ConcurrentFuture<T>());
    if (cancelled && source) source.cancel();
  }

  ConcurrentFuture<T> source_;  // the loop's thread only
};

}  // namespace detail

// Schedules a coroutine, or what a callable without arguments makes, on a loop that runs on another thread. Cancelling
// the future cancels the task there, and the other way round. What the task factory throws, the future fails with; it
// also goes to the loop's exception handler. If the loop closes before the task is done, the future is cancelled.
// Threads: any, while the loop object lives. Throws: RuntimeError if the loop is closed; the coroutine is destroyed
// then.
template <class A>
  requires(is_coroutine<A> || CoroutineCallable<std::decay_t<A>&>)
auto run_coroutine_threadsafe(A&& awaitable, BaseEventLoop& loop,
                              std::source_location where = std::source_location::current()) {
  return detail::start_remotely(loop, detail::to_coroutine(std::forward<A>(awaitable)), where);
}
// The same for `f(args...)`.
template <class F, class... Args>
  requires CoroutineCallable<std::decay_t<F>&, std::decay_t<Args>...>
auto run_coroutine_threadsafe(BaseEventLoop& loop, F&& f, Args&&... args) {
  auto coroutine = detail::to_coroutine(std::forward<F>(f), std::forward<Args>(args)...);
  const std::source_location where = coroutine.get()->created;
  return detail::start_remotely(loop, std::move(coroutine), where);
}

// A future of `loop` (the running one, or another worker's of its group) that ends as the other one does.
// If cancelled: so is the other one, unless its work has begun; what that gives is not lost there.
// Throws: RuntimeError without a running loop.
template <class T>
Future<T> wrap_future(ConcurrentFuture<T> future, BaseEventLoop& loop) {
  future.state();
  return detail::FollowingErrand<T>::start(loop, std::move(future));
}
template <class T>
Future<T> wrap_future(ConcurrentFuture<T> future) {
  return wrap_future(std::move(future), *detail::require_running().loop);
}
// A future or task is returned as it is.
template <class F>
  requires isfuture<F>
std::remove_cvref_t<F> wrap_future(F&& future) {
  return std::forward<F>(future);
}

}  // namespace ouro
