// Coroutine<T>: the lazy object that a coroutine function returns. Calling is not starting: it runs when it is awaited,
// inside the task that awaits it, or when it is given to create_task, gather or run.
#pragma once

#include <coroutine>
#include <cstddef>
#include <exception>
#include <functional>
#include <memory>
#include <new>
#include <source_location>
#include <type_traits>
#include <utility>

#include <ouro/runtime/awaitable.hpp>
#include <ouro/runtime/config.hpp>
#include <ouro/runtime/detail/core.hpp>
#include <ouro/runtime/detail/gather_slots.hpp>
#include <ouro/runtime/detail/gather_state.hpp>
#include <ouro/runtime/detail/result.hpp>
#include <ouro/runtime/exceptions.hpp>

namespace ouro {
namespace detail {
OURO_TRANSFER_NAMESPACE {

// The end of every coroutine. A nested one continues its awaiter; a task that somebody still holds stays suspended; one
// that nobody needs is ready, and so flows off its end and is destroyed.
class FinalAwaiter {
 public:
  explicit FinalAwaiter(bool goes) noexcept : goes_(goes) {}

  bool await_ready() const noexcept { return goes_; }

  template <class Promise>
  std::coroutine_handle<> await_suspend(std::coroutine_handle<Promise> coroutine) const noexcept {
    auto& promise = coroutine.promise();
    if (promise.has(flag_nested)) return transfer(promise.awaiter->parent);
    if (OURO_UNLIKELY(promise.has(flag_shared))) leave_shared(promise);
    return std::noop_coroutine();
  }

  void await_resume() const noexcept {}

 private:
  bool goes_;
};

// What the end of a task comes to when it is not one of the usual ones. True: the frame is to go.
template <class T>
OURO_NOINLINE bool end_task(FutureResult<T>& promise) noexcept {
  if (OURO_UNLIKELY(promise.has(flag_shared))) {
    end_shared_wait(promise);  // a cancellation that came since the last await
  } else {
    leave_first_step(promise);
  }
  if (promise.has(flag_must_cancel) || promise.outcome() == outcome_none) promise.correct_outcome();
  return promise.has(flag_gathered) ? give_to_gather(promise) : complete(promise);
}

template <class T>
class CoroutinePromise;

// co_await of a coroutine: runs it at once, in the same task.
template <class T>
class CoroutineAwaiter : public NestedAwaiter {
 public:
  explicit CoroutineAwaiter(FutureResult<T>* coroutine) noexcept { child = coroutine; }
  CoroutineAwaiter(CoroutineAwaiter&& other) noexcept : NestedAwaiter(other) { other.child = nullptr; }
  CoroutineAwaiter& operator=(CoroutineAwaiter&&) = delete;
  ~CoroutineAwaiter() {
    if (child) std::coroutine_handle<>::from_address(child->frame()).destroy();
  }

  bool await_ready() const {
    if (OURO_UNLIKELY(child == nullptr)) throw_awaited_twice();
    return false;
  }

  template <class Promise>
  std::coroutine_handle<> await_suspend(std::coroutine_handle<Promise> coroutine,
                                        std::source_location where = std::source_location::current()) {
    child->task = &task_of(coroutine, "co_await");
    child->awaiter = this;
    child->set(flag_nested | flag_started);
    parent = coroutine;
    site = where;
    return transfer(std::coroutine_handle<>::from_address(child->frame()));
  }

  T await_resume() {
    auto& result = static_cast<FutureResult<T>&>(*child);
    result.task->leaf = parent.address();  // the child goes, and an awaiter that is not ours sets no leaf
    if (OURO_UNLIKELY(result.outcome() != outcome_value)) result.rethrow_nested();
    return result.take();
  }
};

}  // namespace transfer
}  // namespace detail

OURO_TRANSFER_NAMESPACE {

// A call of a coroutine function that has not run yet; move-only.
//
// co_await runs it inside the current task and gives what it returns, or throws what it threw. It can be awaited or
// scheduled once: a second time throws RuntimeError. Dropped without either, it is destroyed, and in debug mode that is
// reported. Its arguments live in its frame: by value they live as long as it does, by reference the caller's must.
// If cancelled: the CancelledError arrives at the innermost await.
template <class T = void>
class [[nodiscard("a coroutine runs only when it is awaited or scheduled")]] Coroutine {
 public:
  using promise_type = detail::CoroutinePromise<T>;
  using value_type = T;

  // An empty object, as after a move.
  Coroutine() noexcept = default;
  Coroutine(Coroutine&& other) noexcept : state_(std::exchange(other.state_, nullptr)) {}
  Coroutine& operator=(Coroutine&& other) noexcept {
    Coroutine(std::move(other)).swap(*this);
    return *this;
  }
  ~Coroutine() {
    if (state_) detail::destroy_unstarted(*state_);
  }

  void swap(Coroutine& other) noexcept { std::swap(state_, other.state_); }

  // False once it has been awaited, scheduled or moved from.
  explicit operator bool() const noexcept { return state_ != nullptr; }

  // Throws: RuntimeError when it has been awaited before.
  detail::CoroutineAwaiter<T> operator co_await() noexcept { return detail::CoroutineAwaiter<T>(release()); }

  // For the library: gives the frame away.
  detail::FutureResult<T>* release() noexcept {
    return static_cast<detail::FutureResult<T>*>(std::exchange(state_, nullptr));
  }
  detail::FutureResult<T>* get() const noexcept { return static_cast<detail::FutureResult<T>*>(state_); }
  explicit Coroutine(detail::FutureResult<T>* state) noexcept : state_(state) {}

 private:
  detail::FutureState* state_ = nullptr;  // the only member: a gather reads a vector of these as an array of pointers
};

}  // namespace transfer

namespace detail {
OURO_TRANSFER_NAMESPACE {

template <class T>
class CoroutinePromiseBase : public FutureResult<T> {
 public:
  explicit CoroutinePromiseBase(std::source_location where) noexcept { initialise(*this, where); }

  static void* operator new(std::size_t bytes) { return allocate_frame(bytes); }
  static void operator delete(void* memory, std::size_t bytes) noexcept { free_frame(memory, bytes); }

  Coroutine<T> get_return_object() noexcept { return Coroutine<T>(this); }
  std::suspend_always initial_suspend() const noexcept { return {}; }
  OURO_INLINE FinalAwaiter final_suspend() noexcept {
    const unsigned state = this->all_flags();
    if (state & flag_nested) return FinalAwaiter(false);
    if constexpr (has_plain_slot<T>) {
      if (OURO_LIKELY(state == (direct_child | outcome_value))) {
        return FinalAwaiter(give_to_slot<T>(*this));
      }
      if (state == (private_child | outcome_value)) {
        return FinalAwaiter(give_to_shared_slot<T>(*this));
      }
      if (state == (first_step_child | outcome_value)) {
        return FinalAwaiter(give_to_slot_at_once<T>(*this));
      }
    }
    return FinalAwaiter(!complete_quietly(*this) && end_task<T>(*this));
  }
  void unhandled_exception() noexcept { this->store_current_exception(); }
};

template <class T>
class CoroutinePromise final : public CoroutinePromiseBase<T> {
 public:
  CoroutinePromise(std::source_location where = std::source_location::current()) noexcept  // NOLINT: a default
      : CoroutinePromiseBase<T>(where) {}

  void return_value(Number<T> value) noexcept
    requires std::is_arithmetic_v<T>
  {
    this->emplace(value);
  }
  template <class U = T>
    requires(std::constructible_from<typename FutureResult<T>::Constructed, U &&> && !ConvertedByGiver<T, U &&>)
  void return_value(U&& value) noexcept(std::is_nothrow_constructible_v<typename FutureResult<T>::Constructed, U&&>) {
    this->emplace(std::forward<U>(value));
  }
};

template <>
class CoroutinePromise<void> final : public CoroutinePromiseBase<void> {
 public:
  CoroutinePromise(std::source_location where = std::source_location::current()) noexcept  // NOLINT: a default
      : CoroutinePromiseBase<void>(where) {}

  void return_void() noexcept { this->emplace(); }
};

template <class T>
inline constexpr bool is_coroutine_object = false;
template <class T>
inline constexpr bool is_coroutine_object<Coroutine<T>> = true;

template <class F>
struct ReturnOf {
  using type = void;
};
template <class F>
  requires requires { &std::remove_cvref_t<F>::operator(); }
struct ReturnOf<F> {
  template <class C, class R, class... A>
  static R probe(R (C::*)(A...));
  template <class C, class R, class... A>
  static R probe(R (C::*)(A...) const);
  template <class C, class R, class... A>
  static R probe(R (C::*)(A...) noexcept);
  template <class C, class R, class... A>
  static R probe(R (C::*)(A...) const noexcept);
  template <class C, class R, class... A>
  static R probe(R (C::*)(A...) &);
  template <class C, class R, class... A>
  static R probe(R (C::*)(A...) const&);
  using type = decltype(probe(&std::remove_cvref_t<F>::operator()));
};
template <class R, class... A>
struct ReturnOf<R(A...)> {
  using type = R;
};
template <class R, class... A>
struct ReturnOf<R (*)(A...)> {
  using type = R;
};
template <class R, class... A>
struct ReturnOf<R(A...) noexcept> {
  using type = R;
};
template <class R, class... A>
struct ReturnOf<R (*)(A...) noexcept> {
  using type = R;
};

}  // namespace transfer
}  // namespace detail

// True for the objects that coroutine functions return.
template <class T>
inline constexpr bool is_coroutine = detail::is_coroutine_object<std::remove_cvref_t<T>>;

// True for functions, and for callables with a single call operator, that return a Coroutine.
template <class F>
inline constexpr bool is_coroutine_function = is_coroutine<typename detail::ReturnOf<std::remove_cvref_t<F>>::type>;

// A callable that gives an awaitable when it is called with these arguments.
template <class F, class... Args>
concept CoroutineCallable = !Awaitable<F> && std::invocable<F, Args...> && Awaitable<std::invoke_result_t<F, Args...>>;

namespace detail {
OURO_TRANSFER_NAMESPACE {

// Any awaitable as a coroutine.
template <class A>
Coroutine<std::remove_cvref_t<await_result_t<A>>> as_coroutine(A awaitable) {
  co_return co_await std::move(awaitable);
}

// What a call gives: a coroutine's own result type, of anything else the value.
template <class A>
struct CallResult {
  using type = std::remove_cvref_t<await_result_t<A>>;
};
template <class T>
struct CallResult<Coroutine<T>> {
  using type = T;
};

// A call of `f`, which lives in the frame for as long as what it returned, and so do the arguments.
template <class F, class... Args>
Coroutine<typename CallResult<std::invoke_result_t<F&, Args&&...>>::type> call_coroutine(F f, Args... args) {
  if constexpr (std::is_member_pointer_v<F>) {
    co_return co_await std::invoke(f, static_cast<Args&&>(args)...);
  } else {
    co_return co_await f(static_cast<Args&&>(args)...);  // what the arguments are converted to lives as long
  }
}

// A coroutine of whatever the user gave: a coroutine, another awaitable, or a callable with its arguments.
template <class F, class... Args>
auto to_coroutine(F&& f, Args&&... args) {
  if constexpr (sizeof...(Args) == 0 && is_coroutine<F>) {
    static_assert(!std::is_lvalue_reference_v<F>, "a coroutine is move-only: pass std::move(coroutine)");
    return std::remove_cvref_t<F>(std::forward<F>(f));
  } else if constexpr (sizeof...(Args) == 0 && Awaitable<std::remove_cvref_t<F>>) {
    return as_coroutine<std::remove_cvref_t<F>>(std::forward<F>(f));
  } else {
    return call_coroutine<std::decay_t<F>, std::decay_t<Args>...>(std::forward<F>(f), std::forward<Args>(args)...);
  }
}

}  // namespace transfer
}  // namespace detail
}  // namespace ouro
