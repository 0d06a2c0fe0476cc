// Task<T>: a Future that drives a coroutine. create_task, ensure_future, current_task, all_tasks.
#pragma once

#include <cstddef>
#include <functional>
#include <source_location>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <ouro/runtime/config.hpp>
#include <ouro/runtime/contextvars.hpp>
#include <ouro/runtime/coroutine.hpp>
#include <ouro/runtime/detail/core.hpp>
#include <ouro/runtime/futures.hpp>

namespace ouro {

class BaseEventLoop;

// How a task is made.
struct TaskOptions {
  std::string_view name = {};        // default: "Task-" and a number
  bool eager_start = false;          // run it inside create_task up to its first suspension
  const Context* context = nullptr;  // that it runs in; default: a copy of the current one
};

// A task whatever its result, as current_task and all_tasks give it.
class OURO_EXPORT AnyTask : public AnyFuture {
 public:
  using AnyFuture::AnyFuture;
  template <class T>
  AnyTask(const Task<T>& task) noexcept : AnyFuture(task.handle()) {}  // NOLINT: a view of the same task

  std::string get_name() const { return detail::name_of(handle_.state()); }
  void set_name(std::string_view name) { detail::set_name(handle_.state(), name); }

  // How many times cancel() was asked for, less the uncancel()s.
  int cancelling() const { return static_cast<int>(handle_.state().cancel_requests()); }
  // Takes one request back; at zero, a CancelledError that has not been delivered is called off. Returns what is left.
  int uncancel();

  // The context that it runs in. Throws: std::bad_alloc.
  // A child of a gather that never set anything has none of its own: once it is done, this is an empty one.
  Context get_context() const;

  // The places of the awaits at which it is suspended, innermost first; empty while it runs, is ready or done.
  std::vector<std::source_location> get_stack() const;
};

// A scheduled coroutine. It runs whether or not the handle is kept: the loop owns it until it is done.
//
// Threads, Lifetime: as Future. Awaiting an rvalue task moves the result out.
// If cancelled: while it is awaited, so is the task (shield protects it). One that has not run never runs a line.
template <class T = void>
class Task : public Future<T> {
 public:
  using Future<T>::Future;

  std::string get_name() const { return detail::name_of(this->handle_.state()); }
  void set_name(std::string_view name) { detail::set_name(this->handle_.state(), name); }
  int cancelling() const { return AnyTask(*this).cancelling(); }
  int uncancel() { return AnyTask(*this).uncancel(); }
  Context get_context() const { return AnyTask(*this).get_context(); }
  std::vector<std::source_location> get_stack() const { return AnyTask(*this).get_stack(); }
};

// Called for every task that create_task makes, before it is scheduled: may change the options and look at the task.
// What it throws comes out of create_task, and the coroutine is destroyed.
using TaskFactory = std::function<void(BaseEventLoop& loop, AnyTask task, TaskOptions& options)>;

// A task factory with which every task starts at once.
OURO_EXPORT void eager_task_factory(BaseEventLoop& loop, AnyTask task, TaskOptions& options);

namespace detail {

// The loop that runs on this thread; throws RuntimeError "no running event loop".
OURO_EXPORT LoopState& require_running();
OURO_EXPORT LoopState& state_of(BaseEventLoop& loop) noexcept;

// In place of a loop, for schedule_later(): the new task floats.
inline LoopState* floats() noexcept { return reinterpret_cast<LoopState*>(1); }

// A task that was started eagerly suspended in its first step.
OURO_EXPORT void suspended_eagerly(LoopState& home, FutureState& state) noexcept;
// Makes the record a task of `home` (nullptr: with the home of the current task; floats()), with two references, the
// loop's and the handle's, and queues or starts it.
OURO_EXPORT void schedule_task(LoopState* home, FutureState& state, const TaskOptions& options,
                               std::source_location where);

template <class T>
Task<T> schedule_later(LoopState* home, Coroutine<T>& coroutine, const TaskOptions& options,
                       std::source_location where) {
  FutureResult<T>& state = *coroutine.get();
  try {
    schedule_task(home, state, options, where);
  } catch (...) {
    // A task factory that kept a handle made it a task that was cancelled: the coroutine is used up.
    if (state.done()) drop_ref(*coroutine.release());
    throw;
  }
  coroutine.release();
  return Task<T>(state);
}

template <class T>
Task<T> float_task(Coroutine<T>&& coroutine, const TaskOptions& options, std::source_location where) {
  if (OURO_UNLIKELY(!coroutine)) throw_awaited_twice();
  return schedule_later(floats(), coroutine, options, where);
}

// Eager starts are in line, because the calls would often cost as much as the task.
template <class T>
OURO_INLINE inline Task<T> schedule(LoopState* home, Coroutine<T>&& coroutine, const TaskOptions& options,
                                    std::source_location where) {
  if (OURO_UNLIKELY(!coroutine)) throw_awaited_twice();
  if (options.eager_start && options.name.empty()) {
    LoopState* const on = home ? home : running_state();
    if (OURO_LIKELY(on && !on->special && on->running && !contexts_in_use())) {
      FutureResult<T>& state = *coroutine.release();
      state.created = where;
      state.leaf = state.frame();
      state.home = on;
      ++on->live;
      set_stage(state, 1, flag_task | flag_started | flag_first_step);
      FutureState* const outer = std::exchange(on->current, &state);
      drive_here(state.leaf);
      on->current = outer;
      if (!state.done()) suspended_eagerly(*on, state);
      return Task<T>(state);
    }
  }
  return schedule_later(home, coroutine, options, where);
}

}  // namespace detail

// Schedules a coroutine, or any awaitable, on the running loop; it starts in a later turn. The task has the home of the
// current one.
// Throws: RuntimeError without a running loop; the coroutine is destroyed then.
template <class A>
  requires Awaitable<std::remove_cvref_t<A>>
OURO_INLINE inline auto create_task(A&& awaitable, TaskOptions options = {},
                                    std::source_location where = std::source_location::current()) {
  if constexpr (is_coroutine<A>) {
    static_assert(!std::is_lvalue_reference_v<A>, "a coroutine is move-only: pass std::move(coroutine)");
    return detail::schedule(nullptr, std::move(awaitable), options, where);
  } else {
    auto coroutine = detail::to_coroutine(std::forward<A>(awaitable));
    return detail::schedule(nullptr, std::move(coroutine), options, where);
  }
}

// Schedules `f(args...)`. The callable, with its captures, and the arguments live for as long as the task.
template <class F, class... Args>
  requires CoroutineCallable<std::decay_t<F>&, std::decay_t<Args>...>
auto create_task(F&& f, Args&&... args) {
  auto coroutine = detail::to_coroutine(std::forward<F>(f), std::forward<Args>(args)...);
  const std::source_location where = coroutine.get()->created;
  return detail::schedule(nullptr, std::move(coroutine), TaskOptions(), where);
}
template <class F, class... Args>
  requires CoroutineCallable<std::decay_t<F>&, std::decay_t<Args>...>
auto create_task(TaskOptions options, F&& f, Args&&... args) {
  auto coroutine = detail::to_coroutine(std::forward<F>(f), std::forward<Args>(args)...);
  const std::source_location where = coroutine.get()->created;
  return detail::schedule(nullptr, std::move(coroutine), options, where);
}

// Schedules a coroutine, or any awaitable, to run on whichever worker is free: the task floats, wherever it is made. On
// a single loop it is create_task.
// Threads: those of a running loop; others use run_coroutine_threadsafe.
// Throws: RuntimeError without a running loop; the coroutine is destroyed then.
template <class A>
  requires Awaitable<std::remove_cvref_t<A>>
auto spawn(A&& awaitable, TaskOptions options = {}, std::source_location where = std::source_location::current()) {
  if constexpr (is_coroutine<A>) {
    static_assert(!std::is_lvalue_reference_v<A>, "a coroutine is move-only: pass std::move(coroutine)");
    return detail::float_task(std::move(awaitable), options, where);
  } else {
    auto coroutine = detail::to_coroutine(std::forward<A>(awaitable));
    return detail::float_task(std::move(coroutine), options, where);
  }
}
// The same for `f(args...)`, which live as long as the task.
template <class F, class... Args>
  requires CoroutineCallable<std::decay_t<F>&, std::decay_t<Args>...>
auto spawn(F&& f, Args&&... args) {
  auto coroutine = detail::to_coroutine(std::forward<F>(f), std::forward<Args>(args)...);
  const std::source_location where = coroutine.get()->created;
  return detail::float_task(std::move(coroutine), TaskOptions(), where);
}

namespace detail {

template <class A>
auto ensure_future_on(LoopState* home, A&& awaitable, std::source_location where) {
  if constexpr (isfuture<A>) {
    if (home && &home_of(awaitable.handle().state()) != home) {
      throw ValueError("The future belongs to a different loop than the one specified as the loop argument");
    }
    return std::remove_cvref_t<A>(std::forward<A>(awaitable));
  } else {
    TaskOptions options;
    options.eager_start = !is_coroutine<A> && running_state() != nullptr;
    return schedule(home, to_coroutine(std::forward<A>(awaitable)), options, where);
  }
}

}  // namespace detail

// A coroutine is scheduled; a future or task passes through untouched. Any other awaitable, a gather say, starts at
// once in a task of its own, which gives it cancel() and callbacks.
template <class A>
  requires Awaitable<std::remove_cvref_t<A>>
auto ensure_future(A&& awaitable, std::source_location where = std::source_location::current()) {
  return detail::ensure_future_on(nullptr, std::forward<A>(awaitable), where);
}
// On `loop`. Throws: ValueError for a future of another loop.
template <class A>
  requires Awaitable<std::remove_cvref_t<A>>
auto ensure_future(A&& awaitable, BaseEventLoop& loop, std::source_location where = std::source_location::current()) {
  return detail::ensure_future_on(&detail::state_of(loop), std::forward<A>(awaitable), where);
}

// The task that is running; an empty AnyTask in a callback.
// Throws: RuntimeError without a running loop.
OURO_EXPORT AnyTask current_task();
OURO_EXPORT AnyTask current_task(BaseEventLoop& loop);

// The tasks that are not done, of the running loop or of `loop`.
// In a group: the pinned ones of all its loops, and the floating ones that have suspended once. Of the children of
// gathers and maps only those of floating tasks: a pinned task's children belong to its loop's thread alone, which
// changes their list without a lock and may end any of them at any moment, so a handle to one can be made there only,
// by current_task inside it.
// Complexity: linear in their number.
OURO_EXPORT std::vector<AnyTask> all_tasks();
OURO_EXPORT std::vector<AnyTask> all_tasks(BaseEventLoop& loop);

}  // namespace ouro
