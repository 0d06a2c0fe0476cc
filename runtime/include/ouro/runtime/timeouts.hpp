// timeout, timeout_at, wait_for: what is awaited is cancelled when its time is up.
//
// All three are one scope around a plain await in the current task: no second task, and no frame. When the deadline
// passes, the task is cancelled as by cancel(): what it awaits hears of it, may clean up, and ends. Then the scope
// takes the request back, and if none is left but those from before it, the CancelledError becomes a TimeoutError.
//
// The timer belongs to the worker where it was armed; the task may have moved when it disarms it. What that takes is
// said in detail/loop_timer.hpp.
//
// A cancellation is an event, not a state: who catches the CancelledError inside the scope and goes on is not cancelled
// again.
#pragma once

#include <coroutine>
#include <exception>
#include <functional>
#include <memory>
#include <new>
#include <optional>
#include <source_location>
#include <tuple>
#include <type_traits>
#include <utility>

#include <ouro/runtime/awaitable.hpp>
#include <ouro/runtime/clock.hpp>
#include <ouro/runtime/config.hpp>
#include <ouro/runtime/coroutine.hpp>
#include <ouro/runtime/detail/core.hpp>
#include <ouro/runtime/detail/loop_timer.hpp>
#include <ouro/runtime/exceptions.hpp>
#include <ouro/runtime/futures.hpp>
#include <ouro/runtime/sleep.hpp>

namespace ouro {

// How long something may take: a duration, or std::nullopt for as long as it likes.
class OptionalDelay {
 public:
  constexpr OptionalDelay() noexcept = default;
  constexpr OptionalDelay(std::nullopt_t) noexcept {}  // NOLINT: stands for a duration
  // Throws: ValueError for a NaN.
  template <class Rep, class Period>
  OptionalDelay(std::chrono::duration<Rep, Period> delay)
      : delay_(detail::checked_delay(delay)), given_(true) {}  // NOLINT
  template <class Rep, class Period>
  OptionalDelay(std::optional<std::chrono::duration<Rep, Period>> delay)  // NOLINT
      : OptionalDelay(delay ? OptionalDelay(*delay) : OptionalDelay()) {}

  constexpr explicit operator bool() const noexcept { return given_; }
  constexpr Duration operator*() const noexcept { return delay_; }

 private:
  Duration delay_{};
  bool given_ = false;
};

// The scope of a timeout, as a callable that runs inside it sees it.
//
// Threads: the task's that is inside. Lifetime: until the callable has ended.
class OURO_EXPORT Timeout {
 public:
  // For the library.
  enum class Kind : std::uint8_t { never, after, at };
  Timeout(Kind kind, TimePoint when, bool at_once) noexcept : when_(when), kind_(kind), at_once_(at_once) {}
  Timeout(Timeout&& other) noexcept : Timeout(other.kind_, other.when_, other.at_once_) {}
  ~Timeout();

  // When it expires; nullopt: never.
  std::optional<TimePoint> when() const noexcept;
  // Another deadline; nullopt: none any more. One that has passed expires before the task's next await is over.
  // Throws: RuntimeError if it has expired.
  void reschedule(std::optional<TimePoint> when);
  // Whether the deadline passed before the scope ended.
  bool expired() const noexcept { return state_ == State::expired || fired(); }

  // For the library: the task is inside from now on.
  void enter(detail::FutureState& task);
  bool entered() const noexcept { return state_ != State::created; }
  // The end of the scope. True: it expired, and nobody else has cancelled the task.
  bool leave() noexcept;

 private:
  enum class State : std::uint8_t { created, active, expired, finished };

  bool fired() const noexcept { return past_ || timer_.has_fired(); }
  void arm(TimePoint when);
  static void fire(void* self) noexcept;

  detail::LoopTimer timer_;
  TimePoint when_;                       // Kind::after: since the epoch
  detail::FutureState* task_ = nullptr;  // that is inside
  int requests_ = 0;                     // its requests when it came, but one that it had not heard of
  Kind kind_;
  State state_ = State::created;
  bool at_once_;       // a deadline that has passed cancels the task before it waits for anything
  bool past_ = false;  // it was so, and did
};

namespace detail {

[[noreturn, gnu::cold]] OURO_EXPORT void throw_timeout();  // nested in it: the exception that is being handled
[[noreturn, gnu::cold]] OURO_EXPORT void throw_timeout_unstarted();  // nothing was begun
OURO_EXPORT bool is_cancellation_in_flight() noexcept;               // called inside a catch block
OURO_EXPORT void drop_unstarted(FutureState* coroutine) noexcept;

// A place for something that is made there, and maybe never.
template <class T>
class Place {
 public:
  Place() noexcept {}
  Place(const Place&) = delete;
  ~Place() {
    if (made_) std::destroy_at(std::addressof(value_));
  }
  template <class Make>
  T& make(Make&& make) {
    ::new (static_cast<void*>(std::addressof(value_))) T(std::forward<Make>(make)());
    made_ = true;
    return value_;
  }
  T& operator*() noexcept { return value_; }
  explicit operator bool() const noexcept { return made_; }

 private:
  union {
    T value_;
  };
  bool made_ = false;
};
template <class T>
  requires std::is_reference_v<T>
class Place<T> {
 public:
  template <class Make>
  std::remove_reference_t<T>& make(Make&& make) {
    auto&& made = std::forward<Make>(make)();
    value_ = std::addressof(made);
    return *value_;
  }
  std::remove_reference_t<T>& operator*() noexcept { return *value_; }
  explicit operator bool() const noexcept { return value_ != nullptr; }

 private:
  std::remove_reference_t<T>* value_ = nullptr;
};

// An awaitable that was given to a function of the library. A future that the caller keeps is awaited as he would do
// it, so that its result stays with it; anything else is used up.
template <class A>
class Given {
 public:
  static constexpr bool kept_future = std::is_lvalue_reference_v<A> && isfuture<A>;
  static constexpr bool is_future = isfuture<A>;
  using Awaitable = std::remove_cvref_t<A>;

  template <class B>
  explicit Given(std::in_place_t, B&& awaitable) : awaitable_(std::forward<B>(awaitable)) {}

  decltype(auto) awaiter() {
    if constexpr (isfuture<A>) state_ = &awaitable_.handle().state();
    if constexpr (kept_future) {
      return awaiter_of(static_cast<const Awaitable&>(awaitable_));
    } else {
      return awaiter_of(static_cast<Awaitable&&>(awaitable_));
    }
  }
  decltype(auto) begin(Timeout&) { return awaiter(); }
  void drop() noexcept {
    if constexpr (is_coroutine<A>) drop_unstarted(awaitable_.release());
  }
  // A future that has a result.
  bool has_result() const noexcept { return state_ && state_->done() && state_->outcome() == outcome_value; }

  static constexpr bool needs_scope = false;

 private:
  Awaitable awaitable_;
  FutureState* state_ = nullptr;  // of a future, once it is awaited
};

// A call that is told of the scope. The callable and the arguments live until what it returned has ended.
template <class F, class... Args>
class GivenCall {
 public:
  using Made = std::invoke_result_t<F&, Timeout&, Args&&...>;
  static constexpr bool is_future = false;

  template <class G, class... Given>
  explicit GivenCall(std::in_place_t, G&& f, Given&&... args)
      : f_(std::forward<G>(f)), args_(std::forward<Given>(args)...) {}
  GivenCall(GivenCall&& other) : f_(std::move(other.f_)), args_(std::move(other.args_)) {}

  decltype(auto) begin(Timeout& scope) {
    const auto call = [&](Args&... args) -> Made { return std::invoke(f_, scope, static_cast<Args&&>(args)...); };
    auto& made = made_.make([&]() -> Made { return std::apply(call, args_); });
    return awaiter_of(static_cast<std::remove_reference_t<Made>&&>(made));
  }
  void drop() noexcept {}
  bool has_result() const noexcept { return false; }

  static constexpr bool needs_scope = true;

 private:
  F f_;
  std::tuple<Args...> args_;
  Place<Made> made_;
};

// co_await of something with a deadline.
template <class Body>
class [[nodiscard("a timeout does nothing until it is awaited")]] Timed {
  using Inner = decltype(std::declval<Body&>().begin(std::declval<Timeout&>()));
  using Result = decltype(std::declval<std::remove_reference_t<Inner>&>().await_resume());

 public:
  template <class... Args>
  Timed(Timeout scope, bool starts, Args&&... args)
      : scope_(std::move(scope)), body_(std::in_place, std::forward<Args>(args)...), starts_(starts) {}
  // Before it is awaited.
  Timed(Timed&& other) : scope_(std::move(other.scope_)), body_(std::move(other.body_)), starts_(other.starts_) {}

  bool await_ready() {
    if (OURO_UNLIKELY(inner_ || scope_.entered())) throw_awaited_twice();
    if (OURO_UNLIKELY(!starts_)) return true;
    if constexpr (Body::needs_scope) scope_.enter(require_task("timeout"));
    try {
      return inner_.make([&]() -> Inner { return body_.begin(scope_); }).await_ready();
    } catch (...) {
      leave_by_exception();
    }
  }

  template <class Promise>
  auto await_suspend(std::coroutine_handle<Promise> coroutine,
                     std::source_location where = std::source_location::current()) {
    try {
      FutureState& task = task_of(coroutine, "timeout");
      if (!scope_.entered()) scope_.enter(task);
      if constexpr (requires { (*inner_).await_suspend(coroutine, where); }) {
        return (*inner_).await_suspend(coroutine, where);
      } else {
        return (*inner_).await_suspend(coroutine);
      }
    } catch (...) {
      leave_by_exception();
    }
  }

  Result await_resume() {
    if (OURO_UNLIKELY(!starts_)) {
      body_.drop();
      throw_timeout_unstarted();
    }
    try {
      if constexpr (std::is_void_v<Result>) {
        (*inner_).await_resume();
        scope_.leave();
        return;
      } else {
        Result result = (*inner_).await_resume();
        scope_.leave();
        return static_cast<Result&&>(result);
      }
    } catch (...) {
      const bool cancelled = is_cancellation_in_flight();
      if (!scope_.leave() || !cancelled) throw;
      // The result came in the turn in which the deadline passed.
      if (!Body::is_future || !body_.has_result()) throw_timeout();
    }
    return (*inner_).await_resume();
  }

 private:
  [[noreturn]] void leave_by_exception() {
    const bool cancelled = is_cancellation_in_flight();
    if (scope_.leave() && cancelled) throw_timeout();
    throw;
  }

  Timeout scope_;
  Body body_;
  Place<Inner> inner_;
  bool starts_;
};

template <class A>
auto timed(Timeout scope, bool starts, A&& awaitable) {
  static_assert(!std::is_lvalue_reference_v<A> || !is_coroutine<A>, "a coroutine is move-only: use std::move");
  return Timed<Given<A>>(std::move(scope), starts, std::forward<A>(awaitable));
}

inline Timeout scope_for(OptionalDelay delay, bool at_once) noexcept {
  return Timeout(delay ? Timeout::Kind::after : Timeout::Kind::never, TimePoint(*delay), at_once);
}
inline Timeout scope_until(std::optional<TimePoint> when) noexcept {
  return Timeout(when ? Timeout::Kind::at : Timeout::Kind::never, when ? *when : TimePoint(), false);
}

}  // namespace detail

// A callable that gets the Timeout first, and gives an awaitable.
template <class F, class... Args>
concept TimeoutCallable = CoroutineCallable<F, Timeout&, Args...>;

namespace detail {

template <class F, class... Args>
auto timed_call(Timeout scope, F&& f, Args&&... args) {
  if constexpr (TimeoutCallable<std::decay_t<F>&, std::decay_t<Args>...>) {
    return Timed<GivenCall<std::decay_t<F>, std::decay_t<Args>...>>(std::move(scope), true, std::forward<F>(f),
                                                                    std::forward<Args>(args)...);
  } else {
    return timed(std::move(scope), true, to_coroutine(std::forward<F>(f), std::forward<Args>(args)...));
  }
}
template <class F, class... Args>
concept TimedCallable = TimeoutCallable<F, Args...> || CoroutineCallable<F, Args...>;

}  // namespace detail

// Awaits something for at most `delay` (std::nullopt: for as long as it takes), and gives its result.
//
// When the time is up the current task is cancelled, and with it what it awaits here; when that has ended, TimeoutError
// is thrown, with the CancelledError nested in it. If it ends otherwise (with a result, with an error of its own) that
// counts; and a cancellation by somebody else stays one. A delay of zero or less cancels at the first await that waits.
// In a group of loops a timer fires on the worker where the task was, in that one's next look at its timers.
// If cancelled: so is what is awaited; the timer is gone, and CancelledError is thrown.
template <class A>
  requires Awaitable<std::remove_cvref_t<A>>
auto timeout(OptionalDelay delay, A&& awaitable) {
  return detail::timed(detail::scope_for(delay, false), true, std::forward<A>(awaitable));
}
// The same, until `when` on the loop's clock. If cancelled: as above.
template <class A>
  requires Awaitable<std::remove_cvref_t<A>>
auto timeout_at(std::optional<TimePoint> when, A&& awaitable) {
  return detail::timed(detail::scope_until(when), true, std::forward<A>(awaitable));
}

// Calls `f(scope, args...)` and awaits what it gives: f may look at the Timeout, and reschedule it. Or just
// `f(args...)`, if it takes no Timeout&.
// Lifetime: f and the arguments live until that has ended.
// If cancelled: as above.
template <class F, class... Args>
  requires detail::TimedCallable<std::decay_t<F>&, std::decay_t<Args>...>
auto timeout(OptionalDelay delay, F&& f, Args&&... args) {
  return detail::timed_call(detail::scope_for(delay, false), std::forward<F>(f), std::forward<Args>(args)...);
}
template <class F, class... Args>
  requires detail::TimedCallable<std::decay_t<F>&, std::decay_t<Args>...>
auto timeout_at(std::optional<TimePoint> when, F&& f, Args&&... args) {
  return detail::timed_call(detail::scope_until(when), std::forward<F>(f), std::forward<Args>(args)...);
}

// As timeout(delay, awaitable), but with a delay of zero or less nothing is begun: a coroutine does not run a line, a
// future or task that is not done is cancelled at once and awaited. A result that comes in the same turn in which the
// time is up is given, and not lost.
// Throws: TimeoutError; what the awaitable throws, also while it is being cancelled.
// If cancelled: so is what is awaited; when that has ended, CancelledError is thrown.
template <class A>
  requires(Awaitable<std::remove_cvref_t<A>> || CoroutineCallable<std::decay_t<A>&>)
auto wait_for(A&& awaitable, OptionalDelay delay) {
  const bool starts = isfuture<A> || !delay || *delay > Duration::zero();
  if constexpr (Awaitable<std::remove_cvref_t<A>>) {
    return detail::timed(detail::scope_for(delay, true), starts, std::forward<A>(awaitable));
  } else {
    return detail::timed(detail::scope_for(delay, true), starts, detail::to_coroutine(std::forward<A>(awaitable)));
  }
}

}  // namespace ouro
