// Tests of runs that would never end: where their tasks wait, and who helps them. With locks of both kinds.
#pragma once

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <regex>
#include <source_location>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <ouro/runtime/locks.hpp>
#include <ouro/runtime/sleep.hpp>
#include <ouro/runtime/tasks.hpp>

#include "support/sync_fixture.hpp"

namespace ouro::test {

// Where a co_await stands: `co_await at(place, awaitable)`.
template <class A>
A&& at(std::source_location& place, A&& awaitable, std::source_location here = std::source_location::current()) {
  place = here;
  return std::forward<A>(awaitable);
}

inline std::string text_of(const std::source_location& place) {
  return std::string(place.file_name()) + ":" + std::to_string(place.line());
}
// Without the names of the functions, in which compilers differ.
inline std::string shorten(const std::string& text) {
  return std::regex_replace(text, std::regex("(:[0-9]+) in [^\n]* for "), "$1 for ");
}

inline Coroutine<> await_task(Task<>& other, std::source_location& place) { co_await at(place, other); }
inline Coroutine<> lock_both(Lock& first, Lock& second, std::source_location& place) {
  const auto one = co_await first.scoped();
  co_await sleep(std::chrono::seconds(0));
  const auto two = co_await at(place, second.scoped());
}
inline Coroutine<> lock_and_keep(Lock& lock) { co_await lock.acquire(); }

class DeadlockTest : public SyncTest {
 protected:
  DeadlockTest() { loop.deadlock_grace = std::chrono::nanoseconds(0); }

  void TearDown() override {
    end_tasks();
    threads.clear();
    a = b = c = Task<>();
    locks.clear();
    rw_locks.clear();
    SyncTest::TearDown();
  }

  // What is left of tasks ends as at the end of run().
  void end_tasks() {
    for (int i = 0; i < 10 && !all_tasks(loop).empty(); ++i) {
      for (AnyTask& task : all_tasks(loop)) task.cancel();
      turn(3);
    }
    EXPECT_THAT(all_tasks(loop), testing::IsEmpty());
  }

  Lock& new_lock() { return *locks.emplace_back(make<Lock>()); }
  RWLock& new_rw_lock() { return *rw_locks.emplace_back(make<RWLock>()); }

  template <class A>
  std::string deadlock_of(A&& awaitable) {
    try {
      run(std::forward<A>(awaitable));
    } catch (const DeadlockError& error) {
      EXPECT_THAT(error.hint(), testing::HasSubstr("one order"));
      return shorten(error.what());
    }
    return "no deadlock";
  }

  // At the first report another thread sends this to the loop.
  void help(std::function<void()> with) {
    loop.set_exception_handler([this, with](BaseEventLoop&, const ExceptionContext& context) {
      reports.push_back(context);
      if (threads.empty()) threads.emplace_back([this, with] { loop.call_soon_threadsafe(with); });
    });
  }
  // Another thread sends this to the loop once that has gone to sleep.
  void help_when_asleep(std::function<void()> with) {
    const std::uint64_t before = loop.counters().parks;
    threads.emplace_back([this, with, before] {
      while (loop.counters().parks == before) std::this_thread::yield();
      loop.call_soon_threadsafe(with);
    });
  }
  std::string only_report() {
    const std::vector<ExceptionContext> all = take_reports();
    EXPECT_THAT(all, testing::SizeIs(1));
    return all.empty() ? std::string() : shorten(all.front().message);
  }

  static std::string alone(const std::string& line) {
    return "The only task waits, and nothing is in sight that would wake it; the loop waits for other threads\n  " +
           line;
  }

  std::vector<std::unique_ptr<Lock>> locks;
  std::vector<std::unique_ptr<RWLock>> rw_locks;
  std::vector<std::jthread> threads;
  std::source_location at_a, at_b, at_c, at_main;
  Task<> a, b, c;
};

}  // namespace ouro::test
