// Coroutines that give a series of values: Generator, which runs in whoever asks for the next one, and AsyncGenerator,
// which may also await.
#pragma once

#include <concepts>
#include <coroutine>
#include <cstddef>
#include <exception>
#include <iterator>
#include <memory>
#include <source_location>
#include <type_traits>
#include <utility>

#include <ouro/runtime/config.hpp>
#include <ouro/runtime/coroutine.hpp>
#include <ouro/runtime/detail/core.hpp>
#include <ouro/runtime/detail/frame_pool.hpp>
#include <ouro/runtime/detail/generator_state.hpp>
#include <ouro/runtime/detail/result.hpp>
#include <ouro/runtime/exceptions.hpp>
#include <ouro/runtime/futures.hpp>
#include <ouro/runtime/tasks.hpp>

namespace ouro {
namespace detail {

[[noreturn, gnu::cold]] OURO_EXPORT void throw_stop_iteration();
[[noreturn, gnu::cold]] OURO_EXPORT void throw_generator_running();
[[noreturn, gnu::cold]] OURO_EXPORT void throw_send_unstarted();
[[noreturn, gnu::cold]] OURO_EXPORT void throw_nothing_to_send();
[[noreturn]] OURO_EXPORT void rethrow_given(std::exception_ptr exception);

// co_yield in a Generator: nothing to decide but what the expression gives.
template <class Promise, class Place>
class GeneratorYield : private Place {
 public:
  template <class Operand>
  GeneratorYield(Promise& promise, Operand& operand) : Place(operand), promise_(promise) {}

  bool await_ready() const noexcept { return false; }
  void await_suspend(std::coroutine_handle<>) noexcept { promise_.value = this->place(); }
  typename Promise::Received await_resume() { return promise_.receive(); }

 private:
  Promise& promise_;
};

template <class T, class Sent>
class GeneratorPromise;

}  // namespace detail

// A series of values of type T (or references), each made when it is asked for; move-only. It runs inside the call that
// asks, needs no loop, and cannot co_await. With a `Sent` type, co_yield gives what the caller sent.
//
//     for (int i : countdown(3)) ...         every value, or the rest of them: a second loop goes on where one stopped
//
// Its end is the end of the coroutine function; an exception that leaves the function comes out of the call that asked
// for the next value, and ends it too. Its arguments live until it has ended: by reference the caller's must.
//
// Threads: any, one at a time.
// Throws: every member that runs it, ValueError "generator already executing" when called from inside it.
template <class T, class Sent = void>
class [[nodiscard("a generator runs only when it is asked for values")]] Generator {
  static_assert(detail::Yieldable<T>, "a Generator gives values (T) or references (T&, const T&)");
  static_assert(std::is_void_v<Sent> || (std::is_object_v<Sent> && !std::is_const_v<Sent>), "values are sent by value");

 public:
  using promise_type = detail::GeneratorPromise<T, Sent>;
  using value_type = std::remove_cvref_t<T>;

  // Values are handed over: `auto x`, `auto&& x` and `const auto& x` can take them.
  class Iterator {
   public:
    using iterator_concept = std::input_iterator_tag;
    using value_type = Generator::value_type;
    using difference_type = std::ptrdiff_t;

    Iterator() noexcept = default;
    explicit Iterator(Generator& generator) noexcept : generator_(&generator) {}

    T&& operator*() const noexcept { return static_cast<T&&>(*generator_->frame_.promise().value); }
    Iterator& operator++() {
      generator_->advance();
      return *this;
    }
    void operator++(int) { ++*this; }
    bool operator==(std::default_sentinel_t) const noexcept { return !generator_->frame_; }

   private:
    Generator* generator_ = nullptr;
  };

  // An empty object, as after a move: it has ended.
  Generator() noexcept = default;
  Generator(Generator&& other) noexcept : frame_(std::exchange(other.frame_, {})) {}
  Generator& operator=(Generator&& other) noexcept {
    Generator(std::move(other)).swap(*this);
    return *this;
  }
  ~Generator() { destroy(); }

  void swap(Generator& other) noexcept { std::swap(frame_, other.frame_); }

  // Runs it up to its next value.
  // Lifetime: the element lives until it is incremented; the generator must neither move nor die while it is iterated.
  Iterator begin() {
    advance();
    return Iterator(*this);
  }
  std::default_sentinel_t end() const noexcept { return {}; }

  // The next value. In a generator that is sent values, a co_yield that is left by next() gives Sent().
  // Throws: StopIteration after the last; RuntimeError if Sent() does not exist and it waits at a co_yield.
  T next() { return required(advance()); }

  // The next value, or nothing after the last; for references a pointer.
  detail::Maybe<T> try_next() { return detail::take_yielded<T>(advance()); }

  // Makes the co_yield at which it waits give `value`, and returns the next value.
  // Throws: RuntimeError before the first next(), for there is no co_yield yet; StopIteration after the last.
  T send(typename promise_type::Mail value)
    requires(!std::is_void_v<Sent>)
  {
    if (frame_ && !frame_.promise().started) detail::throw_send_unstarted();
    return required(advance(std::addressof(value)));
  }

  // Throws the exception at the co_yield at which it waits, and returns the next value. One that has not started or has
  // ended throws it to the caller, and has ended.
  // Throws: what the generator does not catch; StopIteration if it ends; ValueError for a null pointer.
  T throw_(std::exception_ptr exception) {
    if (exception && frame_ && frame_.promise().started) return required(advance(nullptr, std::move(exception)));
    if (exception) close();
    detail::rethrow_given(std::move(exception));
  }
  template <class E>
    requires(!std::same_as<std::remove_cvref_t<E>, std::exception_ptr> && !std::is_null_pointer_v<E>)
  T throw_(E exception) {
    return throw_(std::make_exception_ptr(std::move(exception)));
  }

  // Ends it where it waits: the destructors of its locals run, its catch blocks do not.
  void close() {
    if (frame_ && frame_.promise().running) detail::throw_generator_running();
    destroy();
  }

  // For the library.
  explicit Generator(std::coroutine_handle<promise_type> frame) noexcept : frame_(frame) {}

 private:
  using Place = std::remove_reference_t<T>*;

  void destroy() noexcept {
    if (frame_) std::exchange(frame_, {}).destroy();
  }

  // Runs it up to its next value. Returns where that is, or nullptr at the end, and then the frame is gone.
  Place advance(typename promise_type::Mail* sent = nullptr, std::exception_ptr thrown = nullptr) {
    if (!frame_) return nullptr;
    promise_type& promise = frame_.promise();
    if (OURO_UNLIKELY(promise.running)) detail::throw_generator_running();
    if constexpr (!promise_type::can_default) {
      if (promise.started && !sent && !thrown) detail::throw_nothing_to_send();
    }
    promise.value = nullptr;
    promise.sent = sent;
    promise.exception = std::move(thrown);
    promise.started = promise.running = true;
    frame_.resume();
    promise.running = false;
    if (OURO_LIKELY(promise.value != nullptr)) return promise.value;
    std::exception_ptr exception = std::move(promise.exception);
    destroy();
    if (OURO_UNLIKELY(exception != nullptr)) std::rethrow_exception(std::move(exception));
    return nullptr;
  }

  static T required(Place place) {
    if (OURO_UNLIKELY(!place)) detail::throw_stop_iteration();
    return static_cast<T&&>(*place);
  }

  std::coroutine_handle<promise_type> frame_;
};

namespace detail {

template <class T, class Sent>
class GeneratorPromise {
 public:
  using Mail = std::conditional_t<std::is_void_v<Sent>, Unit, Sent>;
  using Received = Sent;
  using Value = std::remove_reference_t<T>;
  using Operand = GeneratorYield<GeneratorPromise, YieldedOperand<Value>>;
  using Copy = GeneratorYield<GeneratorPromise, YieldedCopy<Value>>;
  static constexpr bool can_default = std::is_void_v<Sent> || std::is_default_constructible_v<Mail>;

  static void* operator new(std::size_t bytes) { return allocate_frame(bytes); }
  static void operator delete(void* memory, std::size_t bytes) noexcept { free_frame(memory, bytes); }

  Generator<T, Sent> get_return_object() noexcept {
    return Generator<T, Sent>(std::coroutine_handle<GeneratorPromise>::from_promise(*this));
  }
  std::suspend_always initial_suspend() const noexcept { return {}; }
  std::suspend_always final_suspend() const noexcept { return {}; }
  void return_void() const noexcept {}
  void unhandled_exception() noexcept { exception = std::current_exception(); }

  // Values: an rvalue is handed over from where it is, an lvalue is copied first. References: passed on.
  Operand yield_value(T&& operand) { return Operand(*this, operand); }
  Copy yield_value(const Value& operand)
    requires(!std::is_reference_v<T> && std::copy_constructible<Value>)
  {
    return Copy(*this, operand);
  }

  template <class A>
  std::suspend_always await_transform(A&&) = delete;  // a Generator cannot co_await: make it an AsyncGenerator

  // What the co_yield gives, or throws.
  Sent receive() {
    if (OURO_UNLIKELY(exception != nullptr)) std::rethrow_exception(std::exchange(exception, nullptr));
    if constexpr (!std::is_void_v<Sent>) {
      if constexpr (can_default) {
        if (!sent) return Sent();
      }
      return std::move(*sent);
    }
  }

  Value* value = nullptr;        // in the frame, while it waits at a co_yield
  Mail* sent = nullptr;          // the caller's; nullptr: next() was called
  std::exception_ptr exception;  // on its way in from throw_(), or out
  bool started = false;
  bool running = false;
};

OURO_TRANSFER_NAMESPACE {
template <class T>
class AsyncGeneratorPromise;
LoopState& close_asyncgens(LoopState& of);
Future<> turn_of(LoopState& home);
}  // namespace transfer
}  // namespace detail

OURO_TRANSFER_NAMESPACE {

// A series of values of type T (or references), whose making may await; move-only.
//
//     while (auto tick = co_await ticks.next()) std::printf("%d\n", *tick);
//
// Each piece runs inside the task that awaits it, with no scheduling; one piece at a time. An exception that leaves
// the coroutine function comes out of next() and ends the generator; so does a cancellation that it does not catch.
//
// To let it go before its end: `co_await generator.aclose()`, or aclosing() below. The co_yield at which it waits
// throws GeneratorExit then. C++ cannot await in a catch block: clean-up that awaits notes the exception, goes on
// behind the block, and throws it again at its end. Merely dropped while its loop runs, it is closed by a task that
// the loop makes; dropped when no loop runs, its locals are destroyed and nothing else. At the end of run() the loop
// closes those that are left.
//
// Do not co_yield inside a timeout or a task group (PEP 789): these cancel the task that entered them, and while the
// generator waits at a co_yield that task is outside of them, in the code that asked for the value.
//
// Threads: its loop's, from the first next() on.
// Lifetime: its arguments live until it has ended: by reference the caller's must.
template <class T>
class [[nodiscard("a generator runs only when it is asked for values")]] AsyncGenerator {
  static_assert(detail::Yieldable<T>, "an AsyncGenerator gives values (T) or references (T&, const T&)");

 public:
  using promise_type = detail::AsyncGeneratorPromise<T>;
  using value_type = std::remove_cvref_t<T>;

  // An empty object, as after a move: it has ended.
  AsyncGenerator() noexcept = default;

  // Gives a std::optional<T> with the next value (for references a pointer, good until the next one is asked for), or
  // without one after the last.
  // Throws: what the function throws; RuntimeError if it is running already, or belongs to another loop.
  // Requires: this object stays in its place until the wait has begun.
  // If cancelled: CancelledError arrives at the innermost await of the generator; if it leaves it, that has ended.
  [[nodiscard("next() does nothing until it is awaited")]] detail::AsyncNextAwaiter<T> next() & noexcept {
    return detail::AsyncNextAwaiter<T>(generator_);
  }

  // Ends it: GeneratorExit is thrown at the co_yield at which it waits. One that has not started is destroyed.
  // Throws: what its clean-up throws; RuntimeError if it gives another value (its frame is destroyed), or is running.
  // If cancelled: CancelledError arrives at the innermost await of its clean-up.
  [[nodiscard("aclose() does nothing until it is awaited")]] detail::AsyncCloseAwaiter aclose() & noexcept {
    return detail::AsyncCloseAwaiter(generator_);
  }

  // For the library.
  explicit AsyncGenerator(detail::AsyncGeneratorState& state) noexcept : generator_(state) {}

 private:
  detail::AsyncGeneratorHandle generator_;
};

// Closes every asynchronous generator that has started on `loop`, or on any loop of its group, and has not ended, all
// at the same time. What their clean-up throws goes to the loop's exception handler, and so does a generator that is
// running: it cannot be closed. A generator that starts later is reported.
// If cancelled: so is the clean-up that it waits for; the others go on in tasks of their own, if the loop runs on.
inline Coroutine<> shutdown_asyncgens(BaseEventLoop& loop) {
  const detail::FutureState& task = detail::require_task("shutdown_asyncgens");
  detail::LoopState& home = detail::close_asyncgens(detail::state_of(loop));
  while (detail::any_asyncgen_closing(home)) {
    detail::FutureState* counted = detail::closing_task(home);
    const Future<> closed = counted ? Future<>(*counted) : detail::turn_of(home);
    const auto requests = task.cancel_requests();
    try {
      co_await closed;
    } catch (const CancelledError&) {
      if (task.cancel_requests() != requests) throw;
    }
  }
}

// Awaits `body(generator)`, then closes the generator, whatever came of the body; gives what the body gave.
// Throws: what the body throws, or what the clean-up throws instead.
// If cancelled: CancelledError arrives in the body or in the clean-up.
template <class T, class F>
auto aclosing(AsyncGenerator<T> generator, F body)
    -> Coroutine<std::remove_cvref_t<await_result_t<std::invoke_result_t<F&, AsyncGenerator<T>&>>>> {
  using R = std::remove_cvref_t<await_result_t<std::invoke_result_t<F&, AsyncGenerator<T>&>>>;
  std::exception_ptr error;
  detail::Maybe<std::conditional_t<std::is_void_v<R>, detail::Unit, R>> result;
  try {
    if constexpr (std::is_void_v<R>) {
      co_await body(generator);
    } else {
      result.emplace(co_await body(generator));
    }
  } catch (...) {
    error = std::current_exception();
  }
  co_await generator.aclose();
  if (error) std::rethrow_exception(std::move(error));
  if constexpr (!std::is_void_v<R>) co_return std::move(*result);
}

}  // namespace transfer

namespace detail {
OURO_TRANSFER_NAMESPACE {

template <class T>
class AsyncGeneratorPromise final : public AsyncGeneratorState {
 public:
  using Value = std::remove_reference_t<T>;
  using Operand = AsyncGeneratorYield<AsyncGeneratorPromise, YieldedOperand<Value>>;
  using Copy = AsyncGeneratorYield<AsyncGeneratorPromise, YieldedCopy<Value>>;

  AsyncGeneratorPromise(std::source_location where = std::source_location::current()) noexcept  // NOLINT: a default
      : AsyncGeneratorState(where) {}

  static void* operator new(std::size_t bytes) { return allocate_frame(bytes); }
  static void operator delete(void* memory, std::size_t bytes) noexcept { free_frame(memory, bytes); }

  AsyncGenerator<T> get_return_object() noexcept { return AsyncGenerator<T>(*this); }
  std::suspend_always initial_suspend() const noexcept { return {}; }
  AsyncGeneratorEnd final_suspend() const noexcept { return {}; }
  void return_void() const noexcept {}
  void unhandled_exception() noexcept { store_exit(); }

  Operand yield_value(T&& operand) { return Operand(*this, operand); }
  Copy yield_value(const Value& operand)
    requires(!std::is_reference_v<T> && std::copy_constructible<Value>)
  {
    return Copy(*this, operand);
  }
};

// What a task of its own does with a generator that nobody wants any more.
inline Coroutine<> close_abandoned(AsyncGeneratorCloser closer) {
  LoopState& home = *closer.get()->loop;
  const std::source_location created = closer.get()->created;
  try {
    co_await AsyncClosingAwaiter(closer);
  } catch (const CancelledError&) {
    throw;
  } catch (...) {
    report_asyncgen_error(home, created);
  }
}

inline void close_in_task(AsyncGeneratorState& generator) noexcept {
  LoopState& home = *generator.loop;
  const std::source_location created = generator.created;
  Task<> task;
  try {
    Coroutine<> closing = close_abandoned(AsyncGeneratorCloser(generator));
    // In a group others would find a task that is being made.
    if (!home.worker) generator.finaliser = closing.get();
    task = schedule(&home, std::move(closing), TaskOptions(), created);
  } catch (...) {
    report_asyncgen_error(home, created);
  }
  generator.let_go(task.handle().get());
}

// Each in a task. Gives the loop of these tasks.
inline LoopState& close_asyncgens(LoopState& of) {
  AsyncGeneratorShutdown shutdown(of);
  while (AsyncGeneratorState* generator = shutdown.take()) close_in_task(*generator);
  return shutdown.home();
}

inline Coroutine<> do_nothing() { co_return; }

// Done when the tasks that are on their way to the loop have begun.
inline Future<> turn_of(LoopState& home) {
  return schedule(&home, do_nothing(), TaskOptions(), std::source_location::current());
}

}  // namespace transfer
}  // namespace detail
}  // namespace ouro
