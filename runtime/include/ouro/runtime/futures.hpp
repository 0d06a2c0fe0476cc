// Future<T>: a result to come. Pending, then exactly one of done, failed or cancelled; shared by its copies, awaited by
// many, with callbacks.
#pragma once

#include <concepts>
#include <cstdint>
#include <exception>
#include <new>
#include <source_location>
#include <string>
#include <type_traits>
#include <utility>

#include <ouro/runtime/awaitable.hpp>
#include <ouro/runtime/config.hpp>
#include <ouro/runtime/detail/callback_node.hpp>
#include <ouro/runtime/detail/context_state.hpp>
#include <ouro/runtime/detail/core.hpp>
#include <ouro/runtime/detail/result.hpp>
#include <ouro/runtime/exceptions.hpp>

namespace ouro {

template <class T>
class Future;
template <class T>
class Task;

// What add_done_callback gives and remove_done_callback takes.
struct CallbackToken {
  std::uint64_t id = 0;
  friend bool operator==(CallbackToken, CallbackToken) noexcept = default;
};

namespace detail {

// A done-callback in a future's list.
struct DoneWaiter : Waiter {
  CallbackNode* node = nullptr;
  FutureState* future = nullptr;  // one reference is held from the moment it is done until the callback has run
  std::uint64_t id = 0;
  void (*function)() = nullptr;  // if it is a plain function
};

// The callable of a done-callback's node.
template <class F, class Argument>
struct DoneCall {
  DoneCall(F&& callable) : f(std::move(callable)) {}  // NOLINT: made in place
  DoneCall(const F& callable) : f(callable) {}        // NOLINT
  DoneCall(const DoneCall&) = delete;
  ~DoneCall() {
    if (waiter.future) drop_ref(*waiter.future);
  }
  void operator()() { static_cast<void>(f(Argument(*std::exchange(waiter.future, nullptr)))); }

  DoneWaiter waiter;
  F f;
};

OURO_EXPORT CallbackToken add_done_waiter(FutureState& state, DoneWaiter& waiter, CallbackNode& node);
OURO_EXPORT std::size_t remove_done_waiters(FutureState& state, CallbackToken token, void (*function)()) noexcept;
OURO_EXPORT void notify_done_waiter(Waiter& self, FutureState& done) noexcept;
[[noreturn, gnu::cold]] OURO_EXPORT void throw_uninitialised();
[[noreturn, gnu::cold]] OURO_EXPORT void throw_already_done(const FutureState& state);
// In a group nobody else can end the future from here to settle(), or to give_claim_back().
OURO_EXPORT void check_settable(FutureState& state, const char* operation);
OURO_EXPORT void give_claim_back(FutureState& state) noexcept;
// The loop on which a callback of the future runs that is added here and now.
OURO_EXPORT LoopState& callback_home(FutureState& state) noexcept;
OURO_EXPORT void check_thread(const LoopState& home, const char* operation);
OURO_EXPORT void settle(FutureState& state) noexcept;
OURO_EXPORT void count_record(LoopState& home) noexcept;
OURO_EXPORT void prepare_await(FutureState& task, FutureState& awaited);
OURO_EXPORT BaseEventLoop& loop_of(FutureState& state);

// A future that is no task: allocated so that it imitates a coroutine frame.
template <class T>
struct PlainFuture : FrameHeader, FutureResult<T> {
  static FutureResult<T>& make(LoopState& home, std::source_location where) {
    auto* future = ::new (allocate_frame(sizeof(PlainFuture))) PlainFuture;
    initialise(*future, where);
    future->home = &home;
    future->refs = 1;
    if (OURO_UNLIKELY(home.worker != nullptr)) future->set_flags(flag_shared);
    count_record(home);
    return *future;
  }

 private:
  PlainFuture() noexcept : FrameHeader{nullptr, &destroy_frame} {
    static_assert(sizeof(FrameHeader) == 16 && alignof(FutureResult<T>) <= 16);
  }
  static void destroy_frame(void* frame) {
    auto* self = static_cast<PlainFuture*>(static_cast<FrameHeader*>(frame));
    self->~PlainFuture();
    free_frame(self, sizeof(PlainFuture));
  }
};

// A counted handle without the type.
class OURO_EXPORT FutureHandle {
 public:
  FutureHandle() noexcept = default;
  explicit FutureHandle(FutureState& counted) noexcept : state_(&counted) {}  // takes over one reference
  FutureHandle(const FutureHandle& other) noexcept : state_(other.state_) {
    if (state_) add_ref(*state_);
  }
  FutureHandle(FutureHandle&& other) noexcept : state_(std::exchange(other.state_, nullptr)) {}
  FutureHandle& operator=(FutureHandle other) noexcept {
    std::swap(state_, other.state_);
    return *this;
  }
  ~FutureHandle() {
    if (state_) drop_ref(*state_);
  }

  FutureState& state() const {
    if (OURO_UNLIKELY(!state_)) throw_uninitialised();
    return *state_;
  }
  FutureState* get() const noexcept { return state_; }

 private:
  FutureState* state_ = nullptr;
};

// co_await of a future: nothing when it is done, else the task sleeps until it is.
class FutureAwaiterBase : public Waitee, public Waiter {
 public:
  explicit FutureAwaiterBase(FutureHandle future) noexcept
      : Waiter{nullptr, nullptr, &resumed}, future_(std::move(future)) {}
  FutureAwaiterBase(FutureAwaiterBase&& other) noexcept
      : Waiter{nullptr, nullptr, &resumed}, future_(std::move(other.future_)) {}

  bool await_ready() const { return future_.state().done(); }

  // True for the waiter by which `task` waits.
  static bool waits_for(const Waiter& waiter, const FutureState& task) noexcept;

  template <class Promise>
  void await_suspend(std::coroutine_handle<Promise> coroutine,
                     std::source_location where = std::source_location::current()) {
    FutureState& task = task_of(coroutine, "co_await");
    prepare_await(task, *future_.get());
    task_ = &task;
    kind = &future_kind;
    site = where;
    task.leaf = coroutine.address();
    if (OURO_UNLIKELY((task.all_flags() | future_.get()->all_flags()) & flag_shared)) return suspend_shared(task);
    task.waiting_on = this;
    link_waiter(*future_.get(), *this);
    if (OURO_UNLIKELY(task.has(flag_must_cancel))) forward_due_cancel(task);
  }

 protected:
  ~FutureAwaiterBase() {
    if (next) unlink_waiter(*future_.get(), *this);
  }

  void check_resumed() {
    if (!task_) return;
    if (OURO_UNLIKELY((task_->all_flags() | future_.get()->all_flags()) & flag_shared)) return resume_shared();
    check_cancelled(*task_);
  }

  FutureHandle future_;
  FutureState* task_ = nullptr;

 private:
  OURO_EXPORT static const WaiteeKind future_kind;
  OURO_EXPORT static void resumed(Waiter& self, FutureState& done) noexcept;
  OURO_EXPORT void forward_due_cancel(FutureState& task) noexcept;
  OURO_EXPORT void suspend_shared(FutureState& task) noexcept;
  OURO_EXPORT void resume_shared();
};

// The outcome as a value, an exception or a CancelledError.
template <class T>
FutureResult<T>& require_value(FutureState& state) {
  if (OURO_UNLIKELY((state.acquire_flags() & (flag_done | outcome_mask)) != (flag_done | outcome_value)))
    throw_no_value(state);
  // Laundered, for g++ 12 would warn at -O2 that the value lies outside of the state.
  return *std::launder(static_cast<FutureResult<T>*>(&state));
}

// The value for a caller whose handle is an rvalue: moved out of the last handle, copied from a shared one.
template <class T>
T take_value(FutureState& state) {
  FutureResult<T>& result = require_value<T>(state);
  if constexpr (std::is_void_v<T> || std::is_reference_v<T>) {
    return result.take();
  } else {
    if (handles_of(state) == 1) return result.take();
    if constexpr (is_copyable<T>) {
      return result.value();
    } else {
      throw_shared_result();
    }
  }
}

// By value if the type can be copied; a move-only result stays with the future and is given by reference.
template <class T>
using SharedResult = std::conditional_t<std::is_void_v<T> || std::is_reference_v<T> || is_copyable<T>, T,
                                        std::add_lvalue_reference_t<const T>>;

template <class T>
class SharedFutureAwaiter final : public FutureAwaiterBase {
 public:
  using FutureAwaiterBase::FutureAwaiterBase;
  SharedResult<T> await_resume() {
    check_resumed();
    return require_value<T>(*future_.get()).value();
  }
};

// Only waits for the end.
class CompletionAwaiter final : public FutureAwaiterBase {
 public:
  using FutureAwaiterBase::FutureAwaiterBase;
  void await_resume() { check_resumed(); }
};

template <class T>
class OwnedFutureAwaiter final : public FutureAwaiterBase {
 public:
  using FutureAwaiterBase::FutureAwaiterBase;
  T await_resume() {
    check_resumed();
    return take_value<T>(*future_.get());
  }
};

}  // namespace detail

// What futures of every type can do.
class OURO_EXPORT AnyFuture {
 public:
  // An uninitialised future: every use but assignment throws RuntimeError.
  AnyFuture() noexcept = default;
  explicit AnyFuture(detail::FutureHandle handle) noexcept : handle_(std::move(handle)) {}

  explicit operator bool() const noexcept { return handle_.get() != nullptr; }

  bool done() const { return handle_.state().done(); }
  bool cancelled() const { return handle_.state().cancelled(); }

  // Asks a task, or what it waits for, to stop; cancels a plain future. Awaiters get CancelledError with `message`.
  // Returns false if it was done already.
  // Throws: in debug mode RuntimeError on a thread that is not the loop's.
  bool cancel(std::string message = {});

  // The exception that it failed with, or nullptr; it then counts as seen.
  // Throws: InvalidStateError while it is pending, CancelledError if it was cancelled.
  std::exception_ptr exception() const;

  // Calls one off. Returns how many were: 0 if it has run or is about to.
  std::size_t remove_done_callback(CallbackToken token);

  // The loop that it belongs to.
  BaseEventLoop& get_loop() const { return detail::loop_of(handle_.state()); }

  // Where it was made.
  std::source_location created() const { return handle_.state().created; }

  friend bool operator==(const AnyFuture& a, const AnyFuture& b) noexcept { return a.handle_.get() == b.handle_.get(); }

  const detail::FutureHandle& handle() const& noexcept { return handle_; }
  detail::FutureHandle handle() && noexcept { return std::move(handle_); }

 protected:
  detail::FutureHandle handle_;
};

// A result of type T (void and references included) that will be there some time. Copies share it.
//
// Threads: its loop's. Other threads complete it through call_soon_threadsafe.
// Lifetime: the result lives until the last copy goes; so do, for a task, its by-value arguments.
// If cancelled: while it is awaited, so is the future (shield protects it).
template <class T = void>
class Future : public AnyFuture {
 public:
  using value_type = T;

  Future() noexcept = default;
  // For the library: takes over one reference.
  explicit Future(detail::FutureState& counted) noexcept : AnyFuture(detail::FutureHandle(counted)) {}

  // The result, for as long as the future lives; the exception is thrown if it failed.
  // Throws: InvalidStateError while it is pending, CancelledError if it was cancelled.
  decltype(auto) result() const {
    detail::FutureResult<T>& result = detail::require_value<T>(handle_.state());
    if constexpr (std::is_void_v<T>) {
      return;
    } else if constexpr (std::is_reference_v<T>) {
      return static_cast<T>(result.value());
    } else {
      return static_cast<const T&>(result.value());
    }
  }

  // Ends it with a value; the awaiters and callbacks become ready, in the order in which they came.
  // Throws: InvalidStateError if it is done; RuntimeError for a task, and when the loop is closed.
  void set_result(detail::Number<T> value)
    requires std::is_arithmetic_v<T>
  {
    end_with(value);
  }
  template <class... U>
    requires((std::is_void_v<T> ? sizeof...(U) == 0 : std::constructible_from<T, U && ...>) &&
             !detail::ConvertedByGiver<T, U && ...>)
  void set_result(U&&... value) {
    end_with(std::forward<U>(value)...);
  }

  // Ends it with an exception.
  void set_exception(std::exception_ptr exception) {
    detail::FutureState& state = handle_.state();
    detail::check_settable(state, "set_exception");
    if (!exception) {
      detail::give_claim_back(state);
      throw ValueError("set_exception: the exception_ptr is null");
    }
    static_cast<detail::FutureResult<T>&>(state).emplace_exception(std::move(exception));
    detail::settle(state);
  }
  template <class E>
    requires(!std::same_as<std::remove_cvref_t<E>, std::exception_ptr> && !std::is_null_pointer_v<E>)
  void set_exception(E exception) {
    set_exception(std::make_exception_ptr(std::move(exception)));
  }

  // Calls `callback(future)` through the loop when it is done; at once through the loop if it is.
  // Lifetime: the callback is kept until it has run, is removed, or the future dies pending.
  template <class F>
    requires std::invocable<std::decay_t<F>&, Future<T>>
  CallbackToken add_done_callback(F&& callback, std::source_location where = std::source_location::current()) {
    return add_callback(std::forward<F>(callback), nullptr, where);
  }
  // The same in `context`, and not in a copy of the current one.
  template <class F>
    requires std::invocable<std::decay_t<F>&, Future<T>>
  CallbackToken add_done_callback(F&& callback, const Context& context,
                                  std::source_location where = std::source_location::current()) {
    return add_callback(std::forward<F>(callback), &context, where);
  }

  using AnyFuture::remove_done_callback;
  // Removes a plain function however often it was added. Returns how many times that was.
  std::size_t remove_done_callback(void (*callback)(Future<T>)) {
    return detail::remove_done_waiters(handle_.state(), {}, reinterpret_cast<void (*)()>(callback));
  }

  // Gives a copy of the result (of a move-only one a reference); throws as result() does.
  detail::SharedFutureAwaiter<T> operator co_await() const& { return detail::SharedFutureAwaiter<T>(handle_); }
  // Gives the result itself: moved out if this is the last handle, else a copy.
  detail::OwnedFutureAwaiter<T> operator co_await() && { return detail::OwnedFutureAwaiter<T>(std::move(handle_)); }

 private:
  template <class F>
  CallbackToken add_callback(F&& callback, const Context* context, std::source_location where) {
    detail::FutureState& state = handle_.state();
    using Call = detail::DoneCall<std::decay_t<F>, Future<T>>;
    auto* node = detail::TypedCallbackNode<Call>::make_in(context, detail::callback_home(state), where,
                                                          state.has(detail::flag_shared), std::forward<F>(callback));
    detail::DoneWaiter& waiter = node->callable().waiter;
    if constexpr (std::is_function_v<std::remove_pointer_t<std::decay_t<F>>>) {
      waiter.function = reinterpret_cast<void (*)()>(static_cast<std::decay_t<F>>(callback));
    }
    return detail::add_done_waiter(state, waiter, *node);
  }
  template <class... U>
  void end_with(U&&... value) {
    detail::FutureState& state = handle_.state();
    detail::check_settable(state, "set_result");
    auto* result = static_cast<detail::FutureResult<T>*>(&state);
    asm("" : "+r"(result));  // or g++ takes it for the size of a record without a result, and warns
    try {
      result->emplace(std::forward<U>(value)...);
    } catch (...) {
      detail::give_claim_back(state);
      throw;
    }
    detail::settle(state);
  }
};

namespace detail {

template <class T>
struct FutureValue {};
template <class T>
struct FutureValue<Future<T>> {
  using type = T;
};
template <class T>
struct FutureValue<Task<T>> {
  using type = T;
};

}  // namespace detail

// True for Future<T> and Task<T>.
template <class F>
inline constexpr bool isfuture = requires { typename detail::FutureValue<std::remove_cvref_t<F>>::type; };

}  // namespace ouro
