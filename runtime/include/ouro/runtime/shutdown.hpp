// The end of a loop's default executor.
#pragma once

#include <chrono>
#include <exception>
#include <memory>
#include <string>
#include <thread>
#include <utility>

#include <ouro/runtime/base_event_loop.hpp>
#include <ouro/runtime/concurrent_future.hpp>
#include <ouro/runtime/config.hpp>
#include <ouro/runtime/coroutine.hpp>
#include <ouro/runtime/events.hpp>
#include <ouro/runtime/executors.hpp>
#include <ouro/runtime/threads.hpp>

namespace ouro {
namespace detail {

// A thread that waits for an executor's threads, so that no loop has to. Dropped before it ended, it is left to itself.
class ExecutorJoiner {
 public:
  // `joined` becomes true when they have ended; who has no patience may make it false before.
  ExecutorJoiner(std::shared_ptr<Executor> executor, ConcurrentFuture<bool> joined)
      : thread_([executor = std::move(executor), joined = std::move(joined)]() mutable {
          std::exception_ptr error;
          try {
            executor->shutdown(true, false);
            executor.reset();
          } catch (...) {
            error = std::current_exception();
          }
          if (!joined.set_running_or_notify_cancel()) return;  // nobody waits any more
          error ? joined.set_exception(error) : joined.set_result(true);
        }) {}
  ExecutorJoiner(const ExecutorJoiner&) = delete;
  ExecutorJoiner& operator=(const ExecutorJoiner&) = delete;
  ~ExecutorJoiner() {
    if (thread_.joinable()) thread_.detach();
  }

  void join() { thread_.join(); }

 private:
  std::thread thread_;
};

}  // namespace detail

OURO_TRANSFER_NAMESPACE {

// Takes no more work for `loop`'s default executor, and waits until its threads have ended. After `timeout` it says so
// through the exception handler and leaves them to themselves. run_in_executor(nullptr, ...) throws RuntimeError from
// now on.
// If cancelled: the threads are left to themselves.
inline Coroutine<> shutdown_default_executor(BaseEventLoop& loop, std::chrono::nanoseconds timeout = Duration::max()) {
  std::shared_ptr<Executor> executor = loop.take_default_executor();
  if (!executor) co_return;
  ConcurrentFuture<bool> joined = ConcurrentFuture<bool>::create();
  Future<bool> done = wrap_future(joined, loop);
  detail::ExecutorJoiner joiner(executor, joined);
  // It may fire while another worker runs this coroutine: it touches `joined` alone.
  TimerHandle timer = loop.call_later(timeout, [joined] {
    if (joined.set_running_or_notify_cancel()) joined.set_result(false);
  });
  bool in_time = false;
  try {
    in_time = co_await done;
  } catch (...) {
    timer.cancel();
    throw;
  }
  if (in_time) {
    timer.cancel();
    joiner.join();
    co_return;
  }
  ExceptionContext context;
  context.message = "The executor did not finish joining its threads within " +
                    std::to_string(std::chrono::duration_cast<std::chrono::milliseconds>(timeout).count()) + " ms.";
  loop.call_exception_handler(context);
  executor->shutdown(false, false);
}

}  // namespace transfer
}  // namespace ouro
