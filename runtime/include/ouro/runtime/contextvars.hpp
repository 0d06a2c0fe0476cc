// Context variables: values that follow the tasks, as Python's contextvars has them. ContextVar, Token, Context,
// copy_context.
//
// A task, and a callback given to the loop, works in a copy of the context in which it was made: it sees what was set
// there until then, and what it sets itself nobody else sees. A coroutine that is awaited directly shares the context
// of its awaiter. The children of gather and map have contexts of their own, which begin as the parent's: as tasks
// would, but nothing is copied until they set something. What a map calls for its elements runs in the parent's.
//
// Cost. Copying a context is one count, a variable that is set a copy of one or two small nodes. Tasks and callbacks of
// a program that never sets a variable pay a look at one flag.
#pragma once

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <new>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>

#include <ouro/runtime/awaitable.hpp>
#include <ouro/runtime/config.hpp>
#include <ouro/runtime/detail/context_state.hpp>
#include <ouro/runtime/detail/frame_pool.hpp>
#include <ouro/runtime/exceptions.hpp>

namespace ouro {

template <class T>
class ContextVar;

namespace detail {

template <class T>
struct TypedContextValue final : ContextValue {
  template <class U>
  static ValueRef make(std::uint64_t number, U&& given) {
    static_assert(alignof(T) <= 16, "a context variable of an over-aligned type: keep a pointer in it");
    void* memory = allocate_frame(sizeof(TypedContextValue));
    try {
      return ValueRef(::new (memory) TypedContextValue(number, std::forward<U>(given)));
    } catch (...) {
      free_frame(memory, sizeof(TypedContextValue));
      throw;
    }
  }

  T value;

 private:
  template <class U>
  TypedContextValue(std::uint64_t number, U&& given)
      : ContextValue{.variable = number, .destroy = &destroy_this}, value(std::forward<U>(given)) {}
  ~TypedContextValue() = default;
  static void destroy_this(ContextValue& self) noexcept {
    auto* const whole = static_cast<TypedContextValue*>(&self);
    whole->~TypedContextValue();
    free_frame(whole, sizeof(TypedContextValue));
  }
};

OURO_EXPORT std::uint64_t new_context_variable() noexcept;
[[noreturn]] OURO_EXPORT void throw_no_context_value(const std::string& name);

// What a Token knows whatever the type.
class OURO_EXPORT TokenState {
 public:
  TokenState() noexcept = default;
  TokenState(std::uint64_t variable, CellRef context, ValueRef old) noexcept
      : variable_(variable), context_(std::move(context)), old_(std::move(old)) {}
  TokenState(TokenState&&) noexcept = default;
  TokenState& operator=(TokenState&&) noexcept = default;

  // Throws: RuntimeError, ValueError, as ContextVar::reset says.
  void reset(std::uint64_t variable, const std::string& name);
  ContextValue* old() const noexcept { return old_.get(); }

 private:
  std::uint64_t variable_ = 0;  // 0: used, or moved from
  CellRef context_;
  ValueRef old_;
};

OURO_EXPORT TokenState set_current_value(ValueRef value);

}  // namespace detail

// What ContextVar::set gives, and reset takes, once.
template <class T>
class Token {
 public:
  Token(Token&&) noexcept = default;
  Token& operator=(Token&&) noexcept = default;

  // The value that the variable had in the context before, or nothing.
  std::optional<T> old_value() const {
    if (!state_.old()) return std::nullopt;
    return static_cast<detail::TypedContextValue<T>*>(state_.old())->value;
  }

 private:
  friend class ContextVar<T>;
  explicit Token(detail::TokenState state) noexcept : state_(std::move(state)) {}
  detail::TokenState state_;
};

// A variable of which each context has a value of its own. Usually a global; values are destroyed on whichever thread
// lets go of the last context that has them.
//
// Threads: any, each in the context of what it runs; on a thread without a loop that is the thread's own.
// Lifetime: a variable that goes leaves its values to the contexts that have them.
template <class T>
class ContextVar {
 public:
  static_assert(std::copy_constructible<T>, "several contexts have the value: keep a std::shared_ptr in the variable");

  explicit ContextVar(std::string name) : name_(std::move(name)) {}
  ContextVar(std::string name, T default_value) : name_(std::move(name)), default_(std::move(default_value)) {}
  ContextVar(const ContextVar&) = delete;

  const std::string& name() const noexcept { return name_; }

  // The value in the current context, else the default.
  // Throws: LookupError if there is neither. Complexity: one step for each 16-fold of the number of variables.
  T get() const {
    if (std::optional<T> value = find()) return *std::move(value);
    if (!default_) detail::throw_no_context_value(name_);
    return *default_;
  }
  // The same with another default.
  T get(T fallback) const {
    std::optional<T> value = find();
    return value ? *std::move(value) : std::move(fallback);
  }

  // Changes the value in the current context, and in no other.
  // Throws: std::bad_alloc; what the move of the value throws.
  Token<T> set(T value) {
    detail::use_contexts();
    return Token<T>(detail::set_current_value(detail::TypedContextValue<T>::make(id_, std::move(value))));
  }

  // The variable is again what it was before the set() that gave the token.
  // Throws: RuntimeError for a token that was used; ValueError for one of another variable, or of another context.
  void reset(Token<T>& token) { token.state_.reset(id_, name_); }
  void reset(Token<T>&& token) { reset(token); }

 private:
  friend class Context;

  std::optional<T> find() const {
    if (OURO_LIKELY(!detail::contexts_in_use())) return std::nullopt;
    using Value = detail::TypedContextValue<T>;
    if constexpr (std::is_trivially_copyable_v<T> && std::is_default_constructible_v<T> &&
                  std::is_copy_assignable_v<T>) {
      T value;
      const auto copy = [](const detail::ContextValue& from, void* to) noexcept {
        *static_cast<T*>(to) = static_cast<const Value&>(from).value;
      };
      if (!detail::read_current_value(id_, &value, copy)) return std::nullopt;
      return value;
    } else {
      const detail::ValueRef value = detail::current_value(id_);
      if (!value) return std::nullopt;
      return static_cast<const Value&>(*value).value;
    }
  }

  const std::uint64_t id_ = detail::new_context_variable();
  const std::string name_;
  const std::optional<T> default_;
};

// The values of all variables, for one line of work. Copies of the handle are the same context; copy() makes another.
//
// Threads: any; a context may be shared by tasks on several workers.
class OURO_EXPORT Context {
 public:
  // An empty one. Throws: std::bad_alloc.
  Context();
  // For the library.
  explicit Context(detail::CellRef cell) noexcept : cell_(std::move(cell)) {}

  // Calls `f(args...)` in this context, and gives what that returns.
  // Throws: what it throws; RuntimeError if somebody is in this context already, the caller included.
  template <class F, class... Args>
    requires std::invocable<F, Args...>
  std::invoke_result_t<F, Args...> run(F&& f, Args&&... args) const {
    static_assert(!Awaitable<std::remove_cvref_t<std::invoke_result_t<F, Args...>>>,
                  "a coroutine runs in the context of who awaits it: give create_task this context instead");
    const Entered entered(*cell_);
    return std::invoke(std::forward<F>(f), std::forward<Args>(args)...);
  }

  // Another one with the same values. Complexity: constant. Throws: std::bad_alloc.
  Context copy() const;

  // How many variables have a value here. Complexity: linear.
  std::size_t size() const noexcept;
  template <class T>
  bool contains(const ContextVar<T>& variable) const noexcept {
    return static_cast<bool>(cell_->find(variable.id_));
  }
  // The value here, or nothing, whatever the default.
  template <class T>
  std::optional<T> get(const ContextVar<T>& variable) const {
    const detail::ValueRef value = cell_->find(variable.id_);
    if (!value) return std::nullopt;
    return static_cast<const detail::TypedContextValue<T>&>(*value).value;
  }

  friend bool operator==(const Context& a, const Context& b) noexcept { return a.cell_.get() == b.cell_.get(); }

 private:
  friend detail::ContextCell* detail::cell_of(const Context& context) noexcept;
  class OURO_EXPORT Entered {
   public:
    explicit Entered(detail::ContextCell& cell);
    ~Entered() { cell_.leave(); }
    Entered(const Entered&) = delete;

   private:
    static detail::ContextCell& enter(detail::ContextCell& cell);
    detail::ContextCell& cell_;
    detail::ContextScope scope_;
  };

  detail::CellRef cell_;
};

// A copy of the context of the code that runs now. Complexity: constant. Throws: std::bad_alloc.
OURO_EXPORT Context copy_context();

}  // namespace ouro
