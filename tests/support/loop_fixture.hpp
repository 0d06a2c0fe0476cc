// A loop of its own for each test (test_loop.hpp): its reports kept in a list, and at the end every frame given back.
#pragma once

#include <gmock/gmock.h>

#include <chrono>
#include <cstdint>
#include <exception>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <ouro/runtime/base_event_loop.hpp>
#include <ouro/runtime/coroutine.hpp>
#include <ouro/runtime/detail/frame_pool.hpp>
#include <ouro/runtime/events.hpp>
#include <ouro/runtime/exceptions.hpp>
#include <ouro/runtime/tasks.hpp>
#include <ouro/runtime/thread_parker.hpp>

#include "support/test_loop.hpp"

namespace ouro::test {

// How many frames, futures and callback nodes are alive.
inline std::uint64_t live_frames() { return detail::frames_alive(); }

// "type: text" of the library's exceptions and of std::exception; "" for nullptr.
inline std::string describe(const std::exception_ptr& exception) {
  if (!exception) return "";
  try {
    std::rethrow_exception(exception);
  } catch (const CancelledError& error) {
    return "CancelledError: " + error.message();
  } catch (const KeyboardInterrupt&) {
    return "KeyboardInterrupt";
  } catch (const InvalidStateError& error) {
    return std::string("InvalidStateError: ") + error.what();
  } catch (const StopIteration& error) {
    return std::string("StopIteration: ") + error.what();
  } catch (const TimeoutError& error) {
    return std::string("TimeoutError: ") + error.what();
  } catch (const RuntimeError& error) {
    return std::string("RuntimeError: ") + error.what();
  } catch (const ValueError& error) {
    return std::string("ValueError: ") + error.what();
  } catch (const std::exception& error) {
    return std::string("exception: ") + error.what();
  } catch (...) {
    return "another exception";
  }
}

// What awaiting it throws, as describe() says it; "" if it gives a result.
template <class A>
Coroutine<std::string> end_of(A awaitable) {
  try {
    co_await std::move(awaitable);
  } catch (...) {
    co_return describe(std::current_exception());
  }
  co_return "";
}

// What `f` throws, as describe() says it; "nothing" if it returns.
template <class F>
std::string thrown_by(F&& f) {
  try {
    static_cast<void>(std::forward<F>(f)());
  } catch (...) {
    return describe(std::current_exception());
  }
  return "nothing";
}

// Counts how many of it are alive.
class Counted {
 public:
  explicit Counted(int& alive) : alive_(&alive) { ++*alive_; }
  Counted(const Counted& other) : alive_(other.alive_) { ++*alive_; }
  Counted& operator=(const Counted&) = delete;
  ~Counted() { --*alive_; }

 private:
  int* alive_;
};

// What waits for longer than that is a hang, even on a machine with much else to do: the report says who waits.
inline constexpr std::chrono::seconds hangs_after(20);

class LoopTest : public testing::Test {
 protected:
  LoopTest() {
    loop.set_exception_handler([this](BaseEventLoop&, const ExceptionContext& context) { reports.push_back(context); });
    loop.deadlock_grace = hangs_after;
  }

  // Runs the loop until the awaitable is done; gives its result or throws its exception.
  template <class A>
  decltype(auto) run(A&& awaitable) {
    return loop.run_until_complete(std::forward<A>(awaitable));
  }

  // Makes so many turns, none of which sleeps.
  void turn(int times = 1) {
    for (; times > 0; --times) {
      loop.stop();
      loop.run_forever();
    }
  }

  // What the exception handler got since the last call. A test that expects reports takes them: what is left at its end
  // fails it.
  std::vector<ExceptionContext> take_reports() { return std::exchange(reports, {}); }
  void expect_no_reports() {
    for (const ExceptionContext& report : take_reports()) {
      ADD_FAILURE() << "reported: " << report.message << ", task " << report.task << ", " << describe(report.exception);
    }
  }

  // Closes the loop and destroys it; `loop` must not be used any more.
  void destroy_loop() { owned_loop.reset(); }

  void TearDown() override {
    destroy_loop();
    expect_no_reports();
    EXPECT_EQ(live_frames(), frames_before) << "frames, futures or callback nodes leaked";
  }

  const std::uint64_t frames_before = live_frames();
  std::vector<ExceptionContext> reports;
  std::unique_ptr<TestLoop> owned_loop = std::make_unique<TestLoop>();
  TestLoop& loop = *owned_loop;
};

}  // namespace ouro::test
