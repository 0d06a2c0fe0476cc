// How generators give values, and the machinery of the asynchronous ones: their record, and the loop's list of them.
//
// An asynchronous generator is a coroutine that its users await piece by piece: at every next() its record names anew
// the task in which it runs and the awaiter to which it returns. So each piece can be asked for by another coroutine or
// task, and be cancelled, shown and destroyed like a nested coroutine.
//
// Its frame belongs to the AsyncGenerator object. The record knows what points to it there, and clears that when the
// frame is destroyed, by whomever: by the object, with a task that is destroyed while it waits for a piece, at the end.
//
// From its first piece until it ends it is in a list of its loop. Dropped between two pieces it must still run its
// clean-up, which may await; so a task takes the frame over and closes it. A frame without an owner is the list's.
#pragma once

#include <coroutine>
#include <exception>
#include <memory>
#include <optional>
#include <source_location>
#include <type_traits>
#include <utility>

#include <ouro/runtime/config.hpp>
#include <ouro/runtime/detail/core.hpp>
#include <ouro/runtime/detail/result.hpp>
#include <ouro/runtime/exceptions.hpp>

namespace ouro::detail {

// What generators can give: values, and references as T&.
template <class T>
concept Yieldable = std::is_lvalue_reference_v<T> || (std::is_object_v<T> && !std::is_const_v<T>);

// A value that may be missing; a reference that may be missing is a pointer.
template <class T>
using Maybe = std::conditional_t<std::is_reference_v<T>, std::remove_reference_t<T>*, std::optional<T>>;

// Takes the value out of its place in the generator's frame; nullptr: there is none.
template <class T>
Maybe<T> take_yielded(std::remove_reference_t<T>* place) {
  if constexpr (std::is_reference_v<T>) {
    return place;
  } else {
    return place ? Maybe<T>(std::in_place, std::move(*place)) : Maybe<T>();
  }
}

// The place of a yielded value while the generator is suspended: the operand of co_yield itself, or a copy of it.
template <class V>
class YieldedOperand {
 public:
  explicit YieldedOperand(V& operand) noexcept : place_(std::addressof(operand)) {}
  V* place() noexcept { return place_; }

 private:
  V* place_;
};
template <class V>
class YieldedCopy {
 public:
  explicit YieldedCopy(const V& operand) : value_(operand) {}
  V* place() noexcept { return std::addressof(value_); }

 private:
  V value_;
};

// The promise of an asynchronous generator, but for what depends on the type of its values.
class OURO_EXPORT AsyncGeneratorState : public FutureResult<void> {
 public:
  LoopState* loop = nullptr;              // in whose list it is; nullptr before it starts and after the loop closed
  AsyncGeneratorState** owner = nullptr;  // what points to it in the object that owns it; nullptr: the list owns it
  FutureState* finaliser = nullptr;       // the task that took it over to close it
  const void* value = nullptr;            // what it gave; nullptr while it runs, and when it has ended
  bool running = false;                   // from next() or aclose() to the value or the end
  bool closing = false;                   // GeneratorExit is due, or has been thrown

  // It goes on, in `task`. Throws: RuntimeError if it runs already, or is in the list of another loop.
  void enter(FutureState& in, const char* operation) {
    if (OURO_UNLIKELY(running || loop != in.home)) enter_first(in, operation);
    task = &in;
    value = nullptr;
    running = true;
    set(flag_nested | flag_started);
  }

  // It has ended, or it has given a value when it should have ended: the frame is freed.
  // Throws: what the function threw; RuntimeError for such a value.
  void finish();

  // The frame gets another owner.
  void own(AsyncGeneratorState** new_owner) noexcept {
    if (owner) *owner = nullptr;
    owner = new_owner;
  }

  // Its owner goes. True: the loop shall close it; false: that is settled, and it may be gone.
  bool abandon() noexcept;

  void destroy() noexcept { std::coroutine_handle<>::from_address(frame()).destroy(); }
  void move_to(AsyncGeneratorState*& list) noexcept;

 protected:
  explicit AsyncGeneratorState(std::source_location where) noexcept { initialise(*this, where); }
  ~AsyncGeneratorState();

  // Called inside a catch block: the function threw.
  void store_exit() noexcept;

 private:
  friend void drop_asyncgens(LoopState& home) noexcept;
  friend void begin_asyncgen_shutdown(LoopState& home) noexcept;
  friend FutureState* closing_task(LoopState& home) noexcept;
  void enter_first(FutureState& in, const char* operation);
  void unlink() noexcept;

  AsyncGeneratorState** link_ = nullptr;  // what points to it in the list
  AsyncGeneratorState* older_ = nullptr;  // the next in the list
};

// Lists with the live generators those that should have been closed and were not: they ran, or the task was cancelled
// before it began.
OURO_EXPORT void begin_asyncgen_shutdown(LoopState& home) noexcept;

// At shutdown: true if it runs in some task and so cannot be closed, which is reported.
OURO_EXPORT bool refuse_running(AsyncGeneratorState& generator) noexcept;

// A task that is closing a generator, with one reference for the caller; nullptr if there is none.
OURO_EXPORT FutureState* closing_task(LoopState& home) noexcept;

// The loop closes, its tasks are destroyed: lets go of all generators, and destroys those without an owner.
OURO_EXPORT void drop_asyncgens(LoopState& home) noexcept;

// Called inside a catch block: the clean-up of the generator made at `created` failed.
OURO_EXPORT void report_asyncgen_error(LoopState& home, std::source_location created) noexcept;

OURO_TRANSFER_NAMESPACE {

// Takes the generator from its owner and makes the task that closes it; a failure is reported.
void close_in_task(AsyncGeneratorState& generator) noexcept;

// Owns the frame of a generator until that ends, however it does.
class AsyncGeneratorHandle {
 public:
  AsyncGeneratorHandle() noexcept = default;
  explicit AsyncGeneratorHandle(AsyncGeneratorState& state) noexcept : state_(&state) { state_->own(&state_); }
  // A vector that grows promises the compiler that nothing but `other` leads to what is moved from.
  AsyncGeneratorHandle(AsyncGeneratorHandle&& other) noexcept : state_(std::exchange(other.state_, nullptr)) {
    if (state_) state_->own(&state_);
  }
  AsyncGeneratorHandle& operator=(AsyncGeneratorHandle&& other) noexcept {
    if (this == &other) return *this;
    reset();
    state_ = std::exchange(other.state_, nullptr);
    if (state_) state_->own(&state_);
    return *this;
  }
  ~AsyncGeneratorHandle() { reset(); }

  AsyncGeneratorState* get() const noexcept { return state_; }

 private:
  void reset() noexcept {
    if (state_ && state_->abandon()) close_in_task(*state_);
  }

  AsyncGeneratorState* state_ = nullptr;
};

// Runs a generator inside the awaiting task, up to its next value or its end. While that is under way, `child` is
// set: should the awaiting frame be destroyed then, the generator's must be before.
class AsyncGeneratorAwaiter : public NestedAwaiter {
 public:
  explicit AsyncGeneratorAwaiter(AsyncGeneratorHandle& generator) noexcept : generator_(&generator) {}
  AsyncGeneratorAwaiter(AsyncGeneratorAwaiter&& other) noexcept : generator_(other.generator_) {}
  AsyncGeneratorAwaiter& operator=(AsyncGeneratorAwaiter&&) = delete;
  ~AsyncGeneratorAwaiter() {
    if (OURO_UNLIKELY(child)) leave()->destroy();
  }

 protected:
  std::coroutine_handle<> enter(FutureState& task, std::coroutine_handle<> coroutine, std::source_location where,
                                const char* operation) {
    AsyncGeneratorState& generator = *generator_->get();
    generator.enter(task, operation);
    generator.awaiter = this;
    child = &generator;
    parent = coroutine;
    site = where;
    return transfer(std::coroutine_handle<>::from_address(generator.frame()));
  }
  AsyncGeneratorState* leave() noexcept { return static_cast<AsyncGeneratorState*>(std::exchange(child, nullptr)); }

  AsyncGeneratorHandle* generator_;
};

template <class T>
class AsyncNextAwaiter : public AsyncGeneratorAwaiter {
 public:
  using AsyncGeneratorAwaiter::AsyncGeneratorAwaiter;

  bool await_ready() const noexcept { return generator_->get() == nullptr; }

  template <class Promise>
  std::coroutine_handle<> await_suspend(std::coroutine_handle<Promise> coroutine,
                                        std::source_location where = std::source_location::current()) {
    return enter(task_of(coroutine, "anext()"), coroutine, where, "anext()");
  }

  Maybe<T> await_resume() {
    AsyncGeneratorState* generator = leave();
    if (!generator) return {};
    if (!generator->value) {
      generator->task->leaf = parent.address();  // as CoroutineAwaiter does
      generator->finish();
      return {};
    }
    using Place = std::remove_reference_t<T>*;
    Maybe<T> result = take_yielded<T>(static_cast<Place>(const_cast<void*>(generator->value)));
    if (OURO_UNLIKELY(!generator->owner)) AsyncGeneratorHandle dropped_meanwhile(*generator);
    return result;
  }
};

class AsyncCloseAwaiter : public AsyncGeneratorAwaiter {
 public:
  using AsyncGeneratorAwaiter::AsyncGeneratorAwaiter;

  bool await_ready() const noexcept {
    AsyncGeneratorState* generator = generator_->get();
    if (generator && generator->has(flag_started)) return false;
    if (generator) generator->destroy();
    return true;
  }

  template <class Promise>
  std::coroutine_handle<> await_suspend(std::coroutine_handle<Promise> coroutine,
                                        std::source_location where = std::source_location::current()) {
    const auto next = enter(task_of(coroutine, "aclose()"), coroutine, where, "aclose()");
    generator_->get()->closing = true;
    return next;
  }

  void await_resume() {
    if (AsyncGeneratorState* generator = leave()) {
      generator->task->leaf = parent.address();
      generator->finish();
    }
  }
};

// The generator gives way to who awaits it: with a value, or at its end.
inline std::coroutine_handle<> give_way(AsyncGeneratorState& generator) noexcept {
  generator.running = false;
  return transfer(generator.awaiter->parent);
}

template <class Promise, class Place>
class AsyncGeneratorYield : private Place {
 public:
  template <class Operand>
  AsyncGeneratorYield(Promise& promise, Operand& operand) : Place(operand), promise_(promise) {}

  bool await_ready() const noexcept { return false; }
  std::coroutine_handle<> await_suspend(std::coroutine_handle<>) noexcept {
    promise_.value = this->place();
    return give_way(promise_);
  }
  void await_resume() const {
    if (OURO_UNLIKELY(promise_.closing)) throw GeneratorExit();
  }

 private:
  Promise& promise_;
};

class AsyncGeneratorEnd {
 public:
  bool await_ready() const noexcept { return false; }
  template <class Promise>
  std::coroutine_handle<> await_suspend(std::coroutine_handle<Promise> coroutine) const noexcept {
    return give_way(coroutine.promise());
  }
  void await_resume() const noexcept {}
};

}  // namespace transfer

}  // namespace ouro::detail
