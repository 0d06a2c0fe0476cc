// Task groups: tasks that end together, before who started them goes on.
//
// The first child that fails makes the group abort: its siblings are cancelled, and so is the parent, if it is in the
// body of the group still. When all have ended the errors come out of the join as one ExceptionGroup, and the parent's
// cancellation is taken back. A cancellation from outside cancels the children, and comes out when they have ended.
//
// As in asyncio the abort is an event of its own: what was ready beside the child that failed has its turn first, and
// so several errors of one turn are all in the group. A child's end is heard of at once, without a callback.
//
// The parent is the task that makes the group. Children have its home: of a floating parent they float. In a group of
// loops children end, and create_task and cancel may be called, on any worker: a lock guards what they change. On one
// loop there is none.
#pragma once

#include <concepts>
#include <coroutine>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <source_location>
#include <string>
#include <type_traits>
#include <utility>

#include <ouro/runtime/awaitable.hpp>
#include <ouro/runtime/config.hpp>
#include <ouro/runtime/coroutine.hpp>
#include <ouro/runtime/detail/core.hpp>
#include <ouro/runtime/exception_group.hpp>
#include <ouro/runtime/exceptions.hpp>
#include <ouro/runtime/tasks.hpp>
#include <ouro/runtime/timeouts.hpp>

namespace ouro {

class TaskGroup;

namespace detail {

class TaskGroupState;
struct GroupChild;

// The end of a group's body, and the wait for its children.
class OURO_EXPORT GroupJoin : public Waitee {
 public:
  // `body`: what the body threw, if it did.
  GroupJoin(TaskGroupState& group, std::exception_ptr body) noexcept : group_(&group), body_(std::move(body)) {}
  GroupJoin(GroupJoin&& other) noexcept : group_(other.group_), body_(std::move(other.body_)) {}

  bool await_ready();
  template <class Promise>
  void await_suspend(std::coroutine_handle<Promise> coroutine,
                     std::source_location where = std::source_location::current()) {
    suspend(task_of(coroutine, "join"), coroutine.address(), where);
  }
  // False: the body was cut short by the group's own cancel().
  bool finish();
  void await_resume() { static_cast<void>(finish()); }

 private:
  friend class TaskGroupState;
  static const WaiteeKind join_kind;
  void suspend(FutureState& task, void* leaf, std::source_location where) noexcept;

  TaskGroupState* group_;
  std::exception_ptr body_;
  FutureState* task_ = nullptr;
};

// The same, and tells whether the body came to its end.
class BodyJoin final : public GroupJoin {
 public:
  using GroupJoin::GroupJoin;
  bool await_resume() { return finish(); }
};

}  // namespace detail

// A group of tasks, to be joined by the task that made it, in the frame of which it lives.
//
// co_await group.join() must come before it goes, whatever happens: prefer task_group(f), which sees to that. Where the
// body may throw before the join, catch that and give it to join(), which decides what comes out.
// Threads: create_task() and cancel() those of the parent's loops; all else the parent's.
// Lifetime: a group that goes while children run cancels them, lets go of them, and reports an error to the loop's
// exception handler; where the library was built without NDEBUG it aborts the program.
class OURO_EXPORT TaskGroup {
 public:
  // The parent is the current task, or if there is none the first one that uses the group.
  TaskGroup();
  TaskGroup(const TaskGroup&) = delete;
  ~TaskGroup();

  // Schedules a coroutine, or any awaitable, as a child.
  // Throws: RuntimeError outside a task, and when the group has ended or aborts; the coroutine is destroyed then.
  template <class A>
    requires Awaitable<std::remove_cvref_t<A>>
  auto create_task(A&& awaitable, TaskOptions options = {},
                   std::source_location where = std::source_location::current()) {
    if constexpr (is_coroutine<A>) {
      static_assert(!std::is_lvalue_reference_v<A>, "a coroutine is move-only: pass std::move(coroutine)");
    }
    return start(detail::to_coroutine(std::forward<A>(awaitable)), options, where);
  }
  // Schedules `f(args...)`. The callable, with its captures, and the arguments live for as long as the task.
  template <class F, class... Args>
    requires CoroutineCallable<std::decay_t<F>&, std::decay_t<Args>...>
  auto create_task(F&& f, Args&&... args) {
    auto coroutine = detail::to_coroutine(std::forward<F>(f), std::forward<Args>(args)...);
    const std::source_location where = coroutine.get()->created;
    return start(std::move(coroutine), TaskOptions(), where);
  }
  template <class F, class... Args>
    requires CoroutineCallable<std::decay_t<F>&, std::decay_t<Args>...>
  auto create_task(TaskOptions options, F&& f, Args&&... args) {
    auto coroutine = detail::to_coroutine(std::forward<F>(f), std::forward<Args>(args)...);
    const std::source_location where = coroutine.get()->created;
    return start(std::move(coroutine), options, where);
  }

  // Ends the body and waits until no child is left. `body`: what the body threw, if it did.
  // Throws: ExceptionGroup of the errors, the body's among them; CancelledError if the parent was cancelled from
  // outside; KeyboardInterrupt bare. RuntimeError in another task than the parent.
  // If cancelled: the children are cancelled; when they have ended, CancelledError is thrown, or the ExceptionGroup.
  [[nodiscard("a join waits for nothing until it is awaited")]] detail::GroupJoin join(std::exception_ptr body = {}) {
    return detail::GroupJoin(enter(), std::move(body));
  }

  // Cancels the children and the parent's body; the join then ends without an error of it. Before the first use: as
  // soon as that comes. After the join: nothing.
  void cancel() noexcept;

  // How many children have not ended.
  std::size_t size() const noexcept;

  // For the library.
  detail::BodyJoin join_body(std::exception_ptr body) { return detail::BodyJoin(enter(), std::move(body)); }

 private:
  template <class T>
  Task<T> start(Coroutine<T> coroutine, const TaskOptions& options, std::source_location where) {
    if (OURO_UNLIKELY(!coroutine)) detail::throw_awaited_twice();
    coroutine.get()->set(detail::flag_task);  // if it is refused, nobody forgot to await it
    Place place(*this);
    Task<T> task = detail::schedule(place.home(), std::move(coroutine), options, where);
    place.fill(task.handle().state());
    return task;
  }

  // A child's place, before it is scheduled: what may fail has been done.
  class OURO_EXPORT Place {
   public:
    explicit Place(TaskGroup& group);
    ~Place();
    Place(const Place&) = delete;
    detail::LoopState* home() const noexcept;
    void fill(detail::FutureState& task) noexcept;

   private:
    detail::TaskGroupState& group_;
    detail::GroupChild* child_;
  };

  detail::TaskGroupState& enter();

  detail::TaskGroupState* state_;
};

namespace detail {

[[noreturn, gnu::cold]] OURO_EXPORT void throw_group_cancelled();

template <class F, class... Args>
using GroupBody = std::invoke_result_t<F&, TaskGroup&, Args&&...>;

template <class F, class... Args>
Coroutine<std::remove_cvref_t<await_result_t<GroupBody<F, Args...>>>> run_task_group(F f, Args... args) {
  using Result = std::remove_cvref_t<await_result_t<GroupBody<F, Args...>>>;
  TaskGroup group;
  std::exception_ptr error;
  if constexpr (std::is_void_v<Result>) {
    try {
      co_await std::invoke(f, group, static_cast<Args&&>(args)...);
    } catch (...) {
      error = std::current_exception();
    }
    static_cast<void>(co_await group.join_body(std::move(error)));
  } else {
    std::optional<Result> result;
    try {
      result.emplace(co_await std::invoke(f, group, static_cast<Args&&>(args)...));
    } catch (...) {
      error = std::current_exception();
    }
    const bool ended = co_await group.join_body(std::move(error));
    if (!ended) throw_group_cancelled();
    co_return std::move(*result);
  }
}

}  // namespace detail

// Calls `f(group, args...)`, awaits what it gives, and then the children that were made with `group.create_task`; gives
// the body's result. No child outlives it, whatever leaves it.
//
// The first error of a child, or of the body, cancels the rest; when all have ended an ExceptionGroup of the errors is
// thrown ("unhandled errors in a TaskGroup"). A body that was to give a result, and was cut short by group.cancel(),
// has none: CancelledError is thrown. f and the arguments live until the end.
// If cancelled: the body and the children are; when they have ended, CancelledError is thrown, or the ExceptionGroup if
// there were errors.
template <class F, class... Args>
  requires CoroutineCallable<std::decay_t<F>&, TaskGroup&, std::decay_t<Args>...>
[[nodiscard("a task group does nothing until it is awaited")]] auto task_group(F&& f, Args&&... args) {
  return detail::run_task_group<std::decay_t<F>, std::decay_t<Args>...>(std::forward<F>(f),
                                                                        std::forward<Args>(args)...);
}

}  // namespace ouro
