// fork and join: the calls of a recursion as tasks, at the price of calls. For the innermost loops of programs that
// compute; what waits for the outside is as well off with gather.
#pragma once

#include <array>
#include <coroutine>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <source_location>
#include <type_traits>
#include <utility>

#include <ouro/runtime/config.hpp>
#include <ouro/runtime/coroutine.hpp>
#include <ouro/runtime/detail/core.hpp>
#include <ouro/runtime/detail/gather_state.hpp>
#include <ouro/runtime/detail/result.hpp>

namespace ouro {
namespace detail {

// The state of a scope: a gather whose children come one after the other while its parent runs. src/fork_join.cpp
class OURO_EXPORT ForkState : public GatherState {
 public:
  ForkState() noexcept {
    this->waiting = this->shared = this->aborting = this->cancel_requested = false;
    this->counted_abort = this->cancelled_late = this->starved = false;
    this->indirect = true;
    this->fixed = false;
    this->child_stage = stage_of_children(SlotKind::value);
    this->slots = first_slots_.data();
    this->children = first_children_.data();
    this->share.gather = this;
    this->share.next = this->share.end = 0;
  }
  ForkState(ForkState&&) = delete;
  ~ForkState() {
    if (OURO_UNLIKELY(this->waiting)) abandon();
    if (OURO_UNLIKELY(newest_ != nullptr)) free_tables();
  }

  // Starts the child, and has the task go on behind it. Takes the child over in any case. Gives the frame to run next.
  // Throws: std::bad_alloc; RuntimeError in another task than before.
  void* fork(FutureState& task, void* frame, FutureState& child, void* slot, std::source_location where);
  // True: every child has ended, and join_later() is not needed.
  bool all_ended() const noexcept {
    if (OURO_LIKELY(this->shared)) return taken_ == 0;
    return !this->waiting || this->pending == 1;
  }
  // Throws: RuntimeError in another task than the forks'.
  void join_later(FutureState& task, void* frame, std::source_location where);
  // Throws: what a child or a call has thrown.
  void joined() {
    if (OURO_LIKELY(this->waiting)) {
      close();
    } else {
      taken_ = 0;  // a canceller may still look at the rest
    }
    if (!this->parent) return;
    if (OURO_UNLIKELY(this->aborting)) return joined_slowly();
    this->rethrow_if_failed();
    this->parent = nullptr;
  }

  // What is done with a share that is a continuation, when it was taken from a deque: the task to run.
  static FutureState& take_continuation(GatherShare& continuation) noexcept;

  // No child starts any more: one has failed, or the task was cancelled.
  bool stopping() const noexcept { return this->stop_requested(); }
  void call_failed(FutureState& task, void* frame, std::exception_ptr error, std::source_location where) noexcept;

 private:
  static constexpr std::uint32_t first_room = 8;
  static constexpr std::uint64_t far = std::uint64_t{1} << 62;

  void open(FutureState& task, void* frame, std::source_location where) noexcept;
  void close() noexcept {
    this->waiting = this->holds_children = false;
    if (OURO_UNLIKELY(!this->shared)) close_pinned();
  }
  void close_pinned() noexcept;
  OURO_NOINLINE void* fork_unusually(FutureState& task, void* frame, FutureState& child, void* slot,
                                     std::source_location where);
  void fork_later(FutureState& task, void* frame, FutureState& child, void* slot, std::source_location where);
  void fork_pinned(FutureState& task, FutureState& child, void* slot);
  std::uint32_t add(FutureState* child, void* slot, bool is_public);
  void make_room(bool is_public);
  void joined_slowly();
  [[noreturn]] static void throw_other_task();
  void free_tables() noexcept;
  void abandon() noexcept;

  std::uint64_t taken_;  // how often the task went on otherwise than by the end of a child
  // Of more children than the first tables take: their names, then the places of their results.
  struct Table {
    Table* before;
    std::size_t bytes;
  };
  Table* newest_ = nullptr;
  std::uint32_t room_ = first_room;
  std::array<FutureState*, first_room> first_children_;
  std::array<void*, first_room> first_slots_;
};

OURO_TRANSFER_NAMESPACE {

template <class T>
class ForkAwaiter {
 public:
  ForkAwaiter(ForkState& scope, void* slot, FutureState* child) noexcept : scope_(&scope), slot_(slot), child_(child) {}
  ForkAwaiter(ForkAwaiter&& other) noexcept
      : scope_(other.scope_), slot_(other.slot_), child_(std::exchange(other.child_, nullptr)) {}
  ~ForkAwaiter() {
    if (OURO_UNLIKELY(child_ != nullptr)) destroy_unstarted(*child_);
  }

  bool await_ready() const {
    if (OURO_UNLIKELY(child_ == nullptr)) throw_awaited_twice();
    return false;
  }
  template <class Promise>
  std::coroutine_handle<> await_suspend(std::coroutine_handle<Promise> coroutine,
                                        std::source_location where = std::source_location::current()) {
    FutureState& task = task_of(coroutine, "fork");
    // From here on another worker may go on with the caller, and this object be gone.
    void* const next = scope_->fork(task, coroutine.address(), *std::exchange(child_, nullptr), slot_, where);
    return transfer(std::coroutine_handle<>::from_address(next));
  }
  void await_resume() const noexcept {}

 private:
  ForkState* scope_;
  void* slot_;
  FutureState* child_;
};

// A call of the scope's: as co_await of the coroutine, but its error waits for the join.
template <class T>
class ForkCallAwaiter : public CoroutineAwaiter<T> {
 public:
  using Slot = std::conditional_t<std::is_void_v<T>, void, T>;
  ForkCallAwaiter(ForkState& scope, Slot* slot, FutureResult<T>* called) noexcept
      : CoroutineAwaiter<T>(called), scope_(&scope), slot_(slot) {}

  bool await_ready() const { return CoroutineAwaiter<T>::await_ready() || OURO_UNLIKELY(scope_->stopping()); }
  void await_resume() noexcept {
    auto& result = static_cast<FutureResult<T>&>(*this->child);
    if (OURO_UNLIKELY(!result.has(flag_nested))) return;  // not called
    FutureState& task = *result.task;
    task.leaf = this->parent.address();
    try {
      if (OURO_UNLIKELY(result.outcome() != outcome_value)) result.rethrow_nested();
      if constexpr (std::is_void_v<T>) {
        result.take();
      } else {
        *slot_ = result.take();
      }
    } catch (...) {
      scope_->call_failed(task, this->parent.address(), std::current_exception(), this->site);
    }
  }

 private:
  ForkState* scope_;
  Slot* slot_;
};

class JoinAwaiter {
 public:
  explicit JoinAwaiter(ForkState& scope) noexcept : scope_(&scope) {}

  bool await_ready() const noexcept { return scope_->all_ended(); }
  template <class Promise>
  void await_suspend(std::coroutine_handle<Promise> coroutine,
                     std::source_location where = std::source_location::current()) const {
    scope_->join_later(task_of(coroutine, "join"), coroutine.address(), where);
  }
  void await_resume() const { scope_->joined(); }

 private:
  ForkState* scope_;
};

}  // namespace transfer
}  // namespace detail

// Children of one coroutine that run beside it, for recursions without a cut-off:
//
//     long a = 0, b = 0;
//     ForkScope scope;
//     co_await scope.fork(a, fib(n - 1));
//     co_await scope.call(b, fib(n - 2));
//     co_await scope.join();
//
// fork() runs the child at once, and the caller goes on when the child ends or waits for something. In a group an idle
// worker takes the caller over meanwhile, so what is stolen is the larger half, and a program that nobody steals from
// runs as its calls would, in their order and their memory. After a join the scope may be used again.
//
// Errors. The first one, of a child or a call, cancels the children that run; those not started never are; join()
// throws it when all have ended. fork() and call() throw nothing of a child's, so that the way from a fork to its join
// is straight. A scope that goes before its join, by what the caller itself throws there or lets through (a plain
// co_await may throw CancelledError), terminates the program.
// Threads: the task's that forks, until the join. The results may be written by others until join() returns.
// Lifetime: results, and what children refer to, are declared before the scope; all outlive the join.
// all_tasks() names children of a floating task that wait only once their parent does.
// Source: the split counter of libfork (Williams and Elliott, "Libfork: portable continuation-stealing with stackless
// coroutines", arXiv:2402.18480), with children that may wait.
class ForkScope {
 public:
  ForkScope() noexcept = default;
  ForkScope(ForkScope&&) = delete;

  // Starts `child`; what it returns goes to `result`.
  // If cancelled: the child has been started, unless the scope was cancelled before; join() hears of it.
  // Throws at the co_await: std::bad_alloc; RuntimeError for a coroutine that was awaited before, and in another task.
  template <class T>
    requires(std::is_default_constructible_v<T> && std::is_move_assignable_v<T>)
  [[nodiscard("a fork starts when it is awaited")]] auto fork(T& result, Coroutine<T> child) noexcept {
    return detail::ForkAwaiter<T>(state_, std::addressof(result), child.release());
  }
  [[nodiscard("a fork starts when it is awaited")]] auto fork(Coroutine<void> child) noexcept {
    return detail::ForkAwaiter<void>(state_, nullptr, child.release());
  }

  // Runs `child` in place, as co_await would; an error waits for the join.
  // If cancelled: so is the child; join() throws CancelledError.
  template <class T>
    requires(std::is_default_constructible_v<T> && std::is_move_assignable_v<T>)
  [[nodiscard("a call runs when it is awaited")]] auto call(T& result, Coroutine<T> child) noexcept {
    return detail::ForkCallAwaiter<T>(state_, std::addressof(result), child.release());
  }
  [[nodiscard("a call runs when it is awaited")]] auto call(Coroutine<void> child) noexcept {
    return detail::ForkCallAwaiter<void>(state_, nullptr, child.release());
  }

  // Waits until all children have ended.
  // If cancelled: so are the children; when they have ended, CancelledError is thrown.
  // Throws at the co_await: what the first of them has thrown; CancelledError.
  [[nodiscard("a join waits when it is awaited")]] auto join() noexcept { return detail::JoinAwaiter(state_); }

 private:
  detail::ForkState state_;
};

}  // namespace ouro
