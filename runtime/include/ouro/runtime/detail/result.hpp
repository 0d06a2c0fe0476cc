// A future's record with its result: the value or the exception, in one place behind FutureState.
#pragma once

#include <concepts>
#include <cstring>
#include <exception>
#include <memory>
#include <optional>
#include <tuple>
#include <type_traits>
#include <utility>
#include <variant>

#include <ouro/runtime/config.hpp>
#include <ouro/runtime/detail/core.hpp>
#include <ouro/runtime/exceptions.hpp>

namespace ouro {

// What became of one of several: its value, or the exception that it ended with (CancelledError among them).
// As gather(return_exceptions, ...) gives it.
template <class T>
class Outcome {
 public:
  Outcome() noexcept = default;
  explicit Outcome(std::exception_ptr exception) noexcept : content_(std::in_place_index<0>, std::move(exception)) {}
  template <class U>
    requires std::constructible_from<T, U&&>
  Outcome(std::in_place_t, U&& value) : content_(std::in_place_index<1>, std::forward<U>(value)) {}
  Outcome(const Outcome&) = default;
  Outcome(Outcome&&) = default;
  // T need not be assignable; what its move throws becomes the outcome.
  Outcome& operator=(Outcome other) noexcept {
    try {
      if (other.has_value()) {
        content_.template emplace<1>(std::get<1>(std::move(other.content_)));
        return *this;
      }
    } catch (...) {
      other.content_.template emplace<0>(std::current_exception());
    }
    content_.template emplace<0>(std::get<0>(std::move(other.content_)));
    return *this;
  }

  bool has_value() const noexcept { return content_.index() == 1; }
  explicit operator bool() const noexcept { return has_value(); }

  // The value; throws the exception if there is one instead.
  const T& value() const& {
    if (!has_value()) std::rethrow_exception(exception());
    return std::get<1>(content_);
  }
  T value() && {
    if (!has_value()) std::rethrow_exception(exception());
    return std::get<1>(std::move(content_));
  }
  const T& operator*() const& { return value(); }

  // The exception, or nullptr.
  std::exception_ptr exception() const noexcept { return has_value() ? nullptr : std::get<0>(content_); }

 private:
  std::variant<std::exception_ptr, T> content_;
};

template <class T>
  requires std::is_reference_v<T>
class Outcome<T> {
 public:
  Outcome() noexcept = default;
  explicit Outcome(std::exception_ptr exception) noexcept : exception_(std::move(exception)) {}
  Outcome(std::in_place_t, T value) noexcept : value_(std::addressof(value)) {}

  bool has_value() const noexcept { return value_ != nullptr; }
  explicit operator bool() const noexcept { return has_value(); }
  T value() const {
    if (!value_) std::rethrow_exception(exception_);
    return static_cast<T>(*value_);
  }
  T operator*() const { return value(); }
  std::exception_ptr exception() const noexcept { return exception_; }

 private:
  std::remove_reference_t<T>* value_ = nullptr;
  std::exception_ptr exception_;
};

template <>
class Outcome<void> {
 public:
  Outcome() noexcept = default;
  explicit Outcome(std::exception_ptr exception) noexcept : exception_(std::move(exception)) {}
  explicit Outcome(std::in_place_t) noexcept {}

  bool has_value() const noexcept { return !exception_; }
  explicit operator bool() const noexcept { return has_value(); }
  void value() const {
    if (exception_) std::rethrow_exception(exception_);
  }
  std::exception_ptr exception() const noexcept { return exception_; }

 private:
  std::exception_ptr exception_;
};

namespace detail {

struct Unit {};

// std::is_copy_constructible, but a container of what cannot be copied says no.
template <class T>
struct IsCopyable : std::is_copy_constructible<T> {};
template <class T>
  requires requires {
    typename T::value_type;
    typename T::allocator_type;
  }
struct IsCopyable<T> : std::conjunction<std::is_copy_constructible<T>, IsCopyable<typename T::value_type>> {};
template <class... T>
struct IsCopyable<std::tuple<T...>> : std::conjunction<IsCopyable<T>...> {};
template <class A, class B>
struct IsCopyable<std::pair<A, B>> : std::conjunction<IsCopyable<A>, IsCopyable<B>> {};
template <class T>
struct IsCopyable<std::optional<T>> : IsCopyable<T> {};
template <class T>
inline constexpr bool is_copyable = IsCopyable<T>::value;

// What is given for a T that is a number is converted by who gives it, as in `T x = value`: what a compiler has to say
// about that, it says of his line.
template <class T, class... Given>
concept ConvertedByGiver = std::is_arithmetic_v<T> && sizeof...(Given) == 1 && (std::is_convertible_v<Given, T> && ...);
template <class T>
using Number = std::conditional_t<std::is_arithmetic_v<T>, T, Unit>;

// A value whose alignment a coroutine frame cannot give lives in memory of its own.
template <class T>
struct Boxed {
  std::unique_ptr<T> value;
};

[[noreturn, gnu::cold]] OURO_EXPORT void throw_awaited_twice();
[[noreturn, gnu::cold]] OURO_EXPORT void throw_no_result();
// std::rethrow_exception, whose argument by value its caller would have to destroy on the unwinder's way. What is
// passed for that is the address of an exception_ptr, by the ABI that g++ and clang share; it is copied, and stays the
// caller's. The coroutine itself calls it, for each frame between costs a tenth of a throw; and it is cold, as is all
// that throws: g++ then has the call in a part of the function whose unwinding table is short, where the whole
// function's costs an unwinder as much again. With another standard library than libstdc++ it is the plain call.
#if defined(__GLIBCXX__)
[[noreturn, gnu::cold]] void rethrow_stored(const std::exception_ptr& exception) __asm__(
    "_ZSt17rethrow_exceptionNSt15__exception_ptr13exception_ptrE");
#else
[[noreturn]] inline void rethrow_stored(const std::exception_ptr& exception) { std::rethrow_exception(exception); }
#endif
[[noreturn, gnu::cold]] OURO_EXPORT void throw_shared_result();
OURO_EXPORT std::exception_ptr no_result_error() noexcept;
OURO_EXPORT void destroy_unstarted(FutureState& coroutine) noexcept;
// The end of a record with flag_belongings.
OURO_EXPORT void drop_belongings(FutureState& state) noexcept;

// Where the exception of any record lies, whatever the type of its value.
inline std::exception_ptr& exception_of(FutureState& state) noexcept {
  return *reinterpret_cast<std::exception_ptr*>(&state + 1);
}

template <class T>
class FutureResult : public FutureState {
 public:
  using Constructed = T;
  static constexpr bool is_boxed = alignof(T) > 16;
  using Stored = std::conditional_t<is_boxed, Boxed<T>, T>;

  FutureResult() noexcept {}
  FutureResult(const FutureResult&) = delete;
  ~FutureResult() {
    if constexpr (!std::is_trivially_destructible_v<Stored>) {
      if (outcome() == outcome_value) stored_.~Stored();
    }
    if (OURO_UNLIKELY(has(flag_belongings))) drop_belongings(*this);
  }

  template <class... Args>
  void emplace(Args&&... args) {
    if constexpr (is_boxed) {
      ::new (static_cast<void*>(std::addressof(stored_))) Stored{std::make_unique<T>(std::forward<Args>(args)...)};
    } else {
      ::new (static_cast<void*>(std::addressof(stored_))) Stored(std::forward<Args>(args)...);
    }
    set(outcome_value);  // it was none
  }

  T& value() noexcept {
    if constexpr (is_boxed) {
      return *stored_.value;
    } else {
      return stored_;
    }
  }
  T take() noexcept(std::is_nothrow_move_constructible_v<T>) { return std::move(value()); }

  void emplace_exception(std::exception_ptr exception) noexcept {
    ::new (static_cast<void*>(std::addressof(exception_))) std::exception_ptr(std::move(exception));
    set_outcome(outcome_exception);
    set(flag_belongings);
  }

  // Called inside a catch block.
  void store_current_exception() noexcept {
    if (outcome() == outcome_value) stored_.~Stored();
    set_outcome(outcome_none);
    if (caught_cancellation(*this) && !has(flag_nested)) {
      set_outcome(outcome_cancelled);
    } else {
      emplace_exception(std::current_exception());
    }
  }

  // At the end of a task: asked to cancel itself and ended without another await, it ends cancelled, as in asyncio; and
  // one that fell off its end without a value has failed.
  OURO_NOINLINE void correct_outcome() noexcept {
    if (outcome() == outcome_none) emplace_exception(no_result_error());
    if (has(flag_must_cancel) && outcome() == outcome_value) {
      stored_.~Stored();
      set_outcome(outcome_cancelled);
    }
    clear(flag_must_cancel);
  }

  [[noreturn]] OURO_INLINE void rethrow_nested() {
    if (outcome() != outcome_exception) throw_no_result();
    rethrow_stored(exception_);
  }

  const std::exception_ptr& exception() const noexcept { return exception_; }

 private:
  union {
    Stored stored_;
    std::exception_ptr exception_;
  };
};

template <>
class FutureResult<void> : public FutureState {
 public:
  FutureResult() noexcept {}
  FutureResult(const FutureResult&) = delete;
  ~FutureResult() {
    if (OURO_UNLIKELY(has(flag_belongings))) drop_belongings(*this);
  }

  void emplace() noexcept { set(outcome_value); }  // it was none
  void value() const noexcept {}
  void take() const noexcept {}

  void emplace_exception(std::exception_ptr exception) noexcept {
    ::new (static_cast<void*>(std::addressof(exception_))) std::exception_ptr(std::move(exception));
    set_outcome(outcome_exception);
    set(flag_belongings);
  }

  void store_current_exception() noexcept {
    set_outcome(outcome_none);
    if (caught_cancellation(*this) && !has(flag_nested)) {
      set_outcome(outcome_cancelled);
    } else {
      emplace_exception(std::current_exception());
    }
  }

  // At the end of a task: asked to cancel itself and ended without another await, it ends cancelled, as in asyncio; and
  // one that fell off its end without a value has failed.
  OURO_NOINLINE void correct_outcome() noexcept {
    if (outcome() == outcome_none) emplace_exception(no_result_error());
    if (has(flag_must_cancel) && outcome() == outcome_value) {
      set_outcome(outcome_cancelled);
    }
    clear(flag_must_cancel);
  }

  [[noreturn]] OURO_INLINE void rethrow_nested() {
    if (outcome() != outcome_exception) throw_no_result();
    rethrow_stored(exception_);
  }

  const std::exception_ptr& exception() const noexcept { return exception_; }

 private:
  union {
    std::exception_ptr exception_;
  };
};

template <class T>
class FutureResult<T&> : public FutureResult<T*> {
 public:
  using Constructed = T&;
  void emplace(T& value) noexcept { FutureResult<T*>::emplace(std::addressof(value)); }
  T& value() noexcept { return *FutureResult<T*>::value(); }
  T& take() noexcept { return *FutureResult<T*>::value(); }
};

// ---- Gathered children ----

// How the results of a gather are laid out.
enum class SlotKind : std::uint8_t {
  value,     // T[]
  optional,  // std::optional<T>[], or for a tuple a std::optional<T>* each
  outcome,   // Outcome<T>[], or for a tuple an Outcome<T>* each
};

}  // namespace detail
}  // namespace ouro
