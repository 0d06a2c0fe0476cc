// The exceptions of the library, with asyncio's names and, where asyncio has one, its text. What to do about an error
// is in hint(), beside the text and not inside it.
#pragma once

#include <exception>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <ouro/runtime/config.hpp>

namespace ouro {

namespace detail {
struct FutureState;
[[noreturn, gnu::cold]] OURO_EXPORT void throw_cancelled(FutureState& task);
}  // namespace detail

// Arrives at the await point of a task that was cancelled. It is no std::exception, so that catch (const
// std::exception&) does not swallow a cancellation by accident.
class OURO_EXPORT CancelledError final {
 public:
  CancelledError() noexcept = default;
  explicit CancelledError(std::string message) noexcept : message_(std::move(message)) {}

  // What was given to cancel(), or the empty string.
  const std::string& message() const noexcept { return message_; }

 private:
  friend void detail::throw_cancelled(detail::FutureState& task);
  // With the task's message. Made where it is thrown from: a string beside it would have to be destroyed on the way,
  // and each landing of the unwinder costs half a throw.
  explicit CancelledError(detail::FutureState& task) noexcept;

  std::string message_;
};

// The library was used in a way or at a time that it does not allow.
class OURO_EXPORT RuntimeError : public std::runtime_error {
 public:
  explicit RuntimeError(const std::string& text, std::string hint = {})
      : std::runtime_error(text), hint_(std::move(hint)) {}

  // What to do about it, in a sentence; empty where the text says it.
  const std::string& hint() const noexcept { return hint_; }

 private:
  std::string hint_;
};

// A context variable has no value (Python's LookupError).
class OURO_EXPORT LookupError : public RuntimeError {
 public:
  using RuntimeError::RuntimeError;
};

// A future was asked for what its state does not allow: a result too early, or a second result.
class OURO_EXPORT InvalidStateError : public RuntimeError {
 public:
  using RuntimeError::RuntimeError;
};

// A generator was asked for a value after its end.
class OURO_EXPORT StopIteration : public RuntimeError {
 public:
  using RuntimeError::RuntimeError;
};

// Arrives at the co_yield of an asynchronous generator that is being closed. Like CancelledError it is no
// std::exception; a generator that catches it may clean up and must then end.
class OURO_EXPORT GeneratorExit{};

// A deadline passed.
class OURO_EXPORT TimeoutError : public RuntimeError {
 public:
  using RuntimeError::RuntimeError;
};

// Tasks wait for each other, so that what run() or run_until_complete() waits for never ends. The text says which task
// waits where for whom.
class OURO_EXPORT DeadlockError : public RuntimeError {
 public:
  using RuntimeError::RuntimeError;
};

// A Barrier was broken, or reset while the caller waited in it.
class OURO_EXPORT BrokenBarrierError : public RuntimeError {
 public:
  using RuntimeError::RuntimeError;
};

// A queue has nothing, and the caller does not wait.
class OURO_EXPORT QueueEmpty : public RuntimeError {
 public:
  using RuntimeError::RuntimeError;
};

// A queue has no room, and the caller does not wait.
class OURO_EXPORT QueueFull : public RuntimeError {
 public:
  using RuntimeError::RuntimeError;
};

// A queue was shut down, or a channel closed.
class OURO_EXPORT QueueShutDown : public RuntimeError {
 public:
  using RuntimeError::RuntimeError;
};

// An argument has a value that makes no sense (Python's ValueError).
class OURO_EXPORT ValueError : public std::invalid_argument {
 public:
  using std::invalid_argument::invalid_argument;
};

// SIGINT arrived while run() was at work, and the main task ended by it. Like CancelledError it is no std::exception.
class OURO_EXPORT KeyboardInterrupt{};

}  // namespace ouro
