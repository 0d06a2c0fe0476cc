// What awaiting an operation of the ring means, whatever the operation is: the awaiter of a socket's, a pipe's or a
// file's operation is one of these, and lives in the frame of the coroutine that waits.
//
// The operation goes to the ring of the loop on which the task runs as it suspends, and ends there: that loop is the
// task's home until it resumes, wherever a floating task goes afterwards. All that happens in between, a cancellation
// included, happens on that loop's thread (runtime/src/shared.hpp says how one from elsewhere gets there).
//
// A cancellation only asks the kernel to end the operation; the task resumes with its last CQE. If that says -ECANCELED
// the task gets its CancelledError. If it brings a result that was faster, or an error, the task gets that, for what
// has been received or accepted must not be lost; the cancellation stays due, at the task's next await.
//
// A descriptor in non-blocking mode makes the kernel say EAGAIN where it would else wait. Then the operation waits for
// the descriptor to be ready, and tries again: whoever waits does not notice.
//
// A frame that is destroyed while its operation is in flight, as close() does, ends the operation first.
#pragma once

#include <coroutine>
#include <cstdint>
#include <source_location>
#include <string>

#include <ouro/io/detail/operation.hpp>
#include <ouro/runtime/config.hpp>
#include <ouro/runtime/detail/core.hpp>

namespace ouro::detail {

class Proactor;

class OURO_EXPORT IoWait : public Waitee, private Operation {
 public:
  bool await_ready() const noexcept { return false; }

  template <class Promise>
  void await_suspend(std::coroutine_handle<Promise> coroutine,
                     std::source_location where = std::source_location::current()) {
    suspend(task_of(coroutine, name_), coroutine.address(), where);
  }

  // Asks the operation to end. False: it has ended, and the task is on its way to run.
  bool ask_to_end() noexcept;

 protected:
  // `name`: of the operation, for errors; a literal. `loop`: on which it was asked for, nullptr: any.
  IoWait(const char* name, const BaseEventLoop* loop, int fd, unsigned ready_mask) noexcept
      : name_(name), loop_(loop), fd_(fd), ready_mask_(ready_mask) {}
  // Before it waits.
  IoWait(IoWait&& other) noexcept : IoWait(other.name_, other.loop_, other.fd_, other.ready_mask_) {}
  // Requires: nothing is in flight. So each destructor of a derived class calls end(), before its members go.
  ~IoWait() = default;
  void end() noexcept {
    if (OURO_UNLIKELY(in_flight())) finish();
  }

  // Starts the operation: calls one of the Proactor's functions with operation().
  // Throws: as those.
  virtual void begin(Proactor& proactor) = 0;
  // It brought `result`, not negative. True: it is complete; false: it is to begin once more.
  virtual bool take(int result) noexcept {
    static_cast<void>(result);
    return true;
  }
  // The descriptor has become ready after EAGAIN: a result that makes another try unnecessary, or -EAGAIN.
  virtual int retry() noexcept;

  // What the operation was done to, for errors.
  virtual std::string object() const;

  // True once it waits, or has waited.
  bool started() const noexcept { return task_ != nullptr; }
  // The end of the wait: the result, not negative.
  // Throws: CancelledError, OSError.
  int resume();

  Operation& operation() noexcept { return *this; }
  int fd() const noexcept { return fd_; }
  const char* name() const noexcept { return name_; }

 private:
  void suspend(FutureState& task, void* leaf, std::source_location where);
  void complete(int result, unsigned flags) noexcept final;
  bool go_on() noexcept;
  void finish() noexcept;
  [[noreturn, gnu::cold]] void fail(int error) const;

  static const WaiteeKind io_kind;

  const char* name_;
  const BaseEventLoop* loop_;
  FutureState* task_ = nullptr;
  Proactor* proactor_ = nullptr;  // nullptr: the operation has not been started
  int fd_;
  int result_ = 0;
  unsigned ready_mask_;  // of poll(2): when to try again after EAGAIN
  bool polls_ = false;   // it waits for the descriptor to be ready
  bool asked_ = false;   // to end
};

}  // namespace ouro::detail
