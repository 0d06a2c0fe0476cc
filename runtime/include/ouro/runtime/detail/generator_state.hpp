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
// clean-up, which may await; so a task closes it. A frame without an owner is the list's.
//
// In a group the first loop has the lists, and the group's guard is held by whoever changes them, or `owner`, or looks
// at both. Who has the object, on any worker, and the shutdown, on the first loop, agree by `phase`: a generator is
// taken out of `idle` by an exchange, to give its next value or to be closed, and the other finds it taken. A frame
// that is closed while somebody has the object stays his.
#pragma once

#include <coroutine>
#include <cstdint>
#include <exception>
#include <memory>
#include <optional>
#include <source_location>
#include <type_traits>
#include <utility>

#include <ouro/runtime/config.hpp>
#include <ouro/runtime/detail/atomic.hpp>
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
  enum class Phase : std::uint8_t {
    idle,     // waits at its start or at a co_yield
    running,  // from next() or aclose() until what it gave has been taken, or the end
    closing,  // a task closes it, or is about to
    ended,    // closed by a task while somebody had the object
  };

  LoopState* loop = nullptr;               // in whose list it is; nullptr before it starts and after the loop closed
  AsyncGeneratorState** owner = nullptr;   // what points to it in the object that owns it; nullptr: the list owns it
  AsyncGeneratorState** closer = nullptr;  // what points to it in the task that is to close it, until that has begun
  FutureState* finaliser = nullptr;        // that task; in a group once it is scheduled
  const void* value = nullptr;             // what it gave; nullptr while it runs, and when it has ended
  bool closing = false;                    // GeneratorExit is due, or has been thrown

  // It goes on, in `task`. False: another task closes it, or has. Throws: RuntimeError if it runs already, or is in the
  // list of another loop.
  bool enter(FutureState& in, const char* operation) {
    if (OURO_UNLIKELY(phase_.load(std::memory_order_relaxed) != Phase::idle || only_loop_ != in.home)) {
      if (!enter_first(in, operation)) return false;
    }
    phase_.store(Phase::running, std::memory_order_relaxed);
    task = &in;
    value = nullptr;
    set(flag_nested | flag_started);
    return true;
  }
  // What it gave has been taken.
  void rest() noexcept { phase_.store(Phase::idle, std::memory_order_release); }  // pairs with the exchanges from idle
  // It goes on to its end, in `task`, which closes it.
  void enter_closing(FutureState& in) noexcept;

  // It has ended, or it has given a value when it should have ended: the frame is freed.
  // Throws: what the function threw; RuntimeError for such a value.
  void finish();

  // The frame gets another owner.
  void own(AsyncGeneratorState** new_owner) noexcept {
    if (OURO_UNLIKELY(loop != nullptr)) return own_listed(new_owner);
    if (owner) *owner = nullptr;
    owner = new_owner;
  }

  // Its owner goes. True: it is to be closed, by close_in_task(); false: that is settled, and it may be gone.
  bool abandon() noexcept;
  // The task that closes it has been made: its frame may go.
  void let_go(FutureState* closing_task) noexcept;
  // Who had `place`, a closer of `home`, does not close it after all: it is left to the next shutdown, or destroyed.
  static void give_up_closing(LoopState& home, AsyncGeneratorState*& place) noexcept;

  void destroy() noexcept { std::coroutine_handle<>::from_address(frame()).destroy(); }

 protected:
  explicit AsyncGeneratorState(std::source_location where) noexcept { initialise(*this, where); }
  ~AsyncGeneratorState();

  // Called inside a catch block: the function threw.
  void store_exit() noexcept;

 private:
  friend void drop_asyncgens(LoopState& home) noexcept;
  friend class AsyncGeneratorShutdown;
  friend bool any_asyncgen_closing(LoopState& home) noexcept;
  friend FutureState* closing_task(LoopState& home) noexcept;
  bool enter_first(FutureState& in, const char* operation);
  void own_listed(AsyncGeneratorState** new_owner) noexcept;
  bool leave_to_owner() noexcept;
  bool take(Phase to) noexcept;
  bool is_left() const noexcept;  // nobody closes it
  void move_to(AsyncGeneratorState*& list) noexcept;
  void unlink() noexcept;

  LoopState* only_loop_ = nullptr;        // `loop`, if that is not one of several
  AsyncGeneratorState** link_ = nullptr;  // what points to it in the list
  AsyncGeneratorState* older_ = nullptr;  // the next in the list
  Atomic<Phase> phase_{Phase::idle};      // written by who has taken it out of `idle`
  bool held_ = false;  // the task that closes it is being made, and may end before who makes it goes on
};

// The generators that a shutdown is to close: those that had started when it began, and those that should have been
// closed before and were not: they ran, or the task was cancelled before it began.
class OURO_EXPORT AsyncGeneratorShutdown {
 public:
  explicit AsyncGeneratorShutdown(LoopState& of) noexcept;
  ~AsyncGeneratorShutdown() { OURO_ASSERT(!left_); }
  AsyncGeneratorShutdown(const AsyncGeneratorShutdown&) = delete;

  // One of them, for close_in_task(); nullptr: there is none left. Those that run in some task cannot be closed, which
  // is reported.
  AsyncGeneratorState* take() noexcept;
  LoopState& home() const noexcept { return home_; }  // which has the lists

 private:
  LoopState& home_;
  AsyncGeneratorState* left_ = nullptr;
};

// Whether one is being closed, or is about to.
OURO_EXPORT bool any_asyncgen_closing(LoopState& home) noexcept;
// A task that is closing a generator, with one reference for the caller; nullptr if there is none.
OURO_EXPORT FutureState* closing_task(LoopState& home) noexcept;

// The loop closes, its tasks are destroyed: lets go of all generators, and destroys those without an owner.
OURO_EXPORT void drop_asyncgens(LoopState& home) noexcept;

// Called inside a catch block: the clean-up of the generator made at `created` failed.
OURO_EXPORT void report_asyncgen_error(LoopState& home, std::source_location created) noexcept;

OURO_TRANSFER_NAMESPACE {

// Makes the task that closes it; a failure is reported.
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
  AsyncGeneratorAwaiter() noexcept = default;
  AsyncGeneratorAwaiter(AsyncGeneratorAwaiter&&) noexcept : NestedAwaiter() {}  // before the wait
  AsyncGeneratorAwaiter& operator=(AsyncGeneratorAwaiter&&) = delete;
  ~AsyncGeneratorAwaiter() {
    if (OURO_UNLIKELY(child)) leave()->destroy();
  }

 protected:
  std::coroutine_handle<> begin(AsyncGeneratorState& generator, std::coroutine_handle<> coroutine,
                                std::source_location where) noexcept {
    generator.awaiter = this;
    child = &generator;
    parent = coroutine;
    site = where;
    return transfer(std::coroutine_handle<>::from_address(generator.frame()));
  }
  AsyncGeneratorState* leave() noexcept { return static_cast<AsyncGeneratorState*>(std::exchange(child, nullptr)); }
  void finish(AsyncGeneratorState& generator) {
    generator.task->leaf = parent.address();  // as CoroutineAwaiter does
    generator.finish();
  }
};

template <class T>
class AsyncNextAwaiter : public AsyncGeneratorAwaiter {
 public:
  explicit AsyncNextAwaiter(AsyncGeneratorHandle& generator) noexcept : generator_(&generator) {}

  bool await_ready() const noexcept { return generator_->get() == nullptr; }

  template <class Promise>
  std::coroutine_handle<> await_suspend(std::coroutine_handle<Promise> coroutine,
                                        std::source_location where = std::source_location::current()) {
    AsyncGeneratorState& generator = *generator_->get();
    if (OURO_UNLIKELY(!generator.enter(task_of(coroutine, "anext()"), "anext()"))) return transfer(coroutine);
    return begin(generator, coroutine, where);
  }

  Maybe<T> await_resume() {
    AsyncGeneratorState* generator = leave();
    if (!generator) return {};
    if (!generator->value) {
      finish(*generator);
      return {};
    }
    struct Rest {
      AsyncGeneratorState& generator;
      ~Rest() {
        std::optional<AsyncGeneratorHandle> dropped_meanwhile;
        if (OURO_UNLIKELY(!generator.owner)) dropped_meanwhile.emplace(generator);
        generator.rest();
      }
    } rest{*generator};
    using Place = std::remove_reference_t<T>*;
    return take_yielded<T>(static_cast<Place>(const_cast<void*>(generator->value)));
  }

 private:
  AsyncGeneratorHandle* generator_;
};

class AsyncCloseAwaiter : public AsyncGeneratorAwaiter {
 public:
  explicit AsyncCloseAwaiter(AsyncGeneratorHandle& generator) noexcept : generator_(&generator) {}

  bool await_ready() const noexcept {
    AsyncGeneratorState* generator = generator_->get();
    if (generator && generator->has(flag_started)) return false;
    if (generator) generator->destroy();
    return true;
  }

  template <class Promise>
  std::coroutine_handle<> await_suspend(std::coroutine_handle<Promise> coroutine,
                                        std::source_location where = std::source_location::current()) {
    AsyncGeneratorState& generator = *generator_->get();
    if (OURO_UNLIKELY(!generator.enter(task_of(coroutine, "aclose()"), "aclose()"))) return transfer(coroutine);
    generator.closing = true;
    return begin(generator, coroutine, where);
  }

  void await_resume() {
    if (AsyncGeneratorState* generator = leave()) finish(*generator);
  }

 private:
  AsyncGeneratorHandle* generator_;
};

// The duty to close a generator, until its task has begun.
class AsyncGeneratorCloser {
 public:
  explicit AsyncGeneratorCloser(AsyncGeneratorState& state) noexcept : home_(state.loop), state_(&state) {
    state_->closer = &state_;
  }
  AsyncGeneratorCloser(AsyncGeneratorCloser&& other) noexcept
      : home_(std::exchange(other.home_, nullptr)), state_(std::exchange(other.state_, nullptr)) {
    if (state_) state_->closer = &state_;
  }
  AsyncGeneratorCloser& operator=(AsyncGeneratorCloser&&) = delete;
  ~AsyncGeneratorCloser() {
    if (home_) AsyncGeneratorState::give_up_closing(*home_, state_);
  }

  AsyncGeneratorState* get() const noexcept { return state_; }
  AsyncGeneratorState& take() noexcept {
    home_ = nullptr;
    state_->closer = nullptr;
    return *std::exchange(state_, nullptr);
  }

 private:
  LoopState* home_;             // nullptr: its duty is done
  AsyncGeneratorState* state_;  // nullptr also if a shutdown took it over, or the generator is gone
};

class AsyncClosingAwaiter : public AsyncGeneratorAwaiter {
 public:
  explicit AsyncClosingAwaiter(AsyncGeneratorCloser& closer) noexcept : closer_(&closer) {}

  bool await_ready() const noexcept { return false; }

  template <class Promise>
  std::coroutine_handle<> await_suspend(std::coroutine_handle<Promise> coroutine,
                                        std::source_location where = std::source_location::current()) {
    FutureState& in = task_of(coroutine, "aclose()");
    AsyncGeneratorState& generator = closer_->take();
    generator.enter_closing(in);
    return begin(generator, coroutine, where);
  }

  void await_resume() { finish(*leave()); }

 private:
  AsyncGeneratorCloser* closer_;
};

// The generator gives way to who awaits it: with a value, or at its end.
inline std::coroutine_handle<> give_way(AsyncGeneratorState& generator) noexcept {
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
