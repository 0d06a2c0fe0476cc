// Tests of several loops: ones that keep their reports, and what tasks on several threads count and wait by.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <memory>
#include <mutex>
#include <new>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <ouro/io/event_loop.hpp>
#include <ouro/io/runners.hpp>
#include <ouro/runtime/coroutine.hpp>
#include <ouro/runtime/events.hpp>
#include <ouro/runtime/sleep.hpp>

#include "support/group_watch.hpp"
#include "support/loop_fixture.hpp"

namespace ouro::test {

// Counts what began, and how it ended. Threads: any.
class Ledger {
 public:
  // One that began: it is broken off unless it says that it finished. As a local of a coroutine, or an argument.
  class Entry {
   public:
    explicit Entry(Ledger& ledger) noexcept : ledger_(&ledger) { ++ledger.begun_; }
    Entry(Entry&& other) noexcept : ledger_(std::exchange(other.ledger_, nullptr)), finished_(other.finished_) {}
    Entry& operator=(Entry&&) = delete;
    ~Entry() {
      if (ledger_) ++(finished_ ? ledger_->finished_ : ledger_->broken_off_);
    }
    void finish() noexcept { finished_ = true; }

   private:
    Ledger* ledger_;
    bool finished_ = false;
  };

  long begun() const noexcept { return begun_; }
  long finished() const noexcept { return finished_; }
  long broken_off() const noexcept { return broken_off_; }
  long open() const noexcept { return begun_ - finished_ - broken_off_; }

 private:
  std::atomic<long> begun_{0};
  std::atomic<long> finished_{0};
  std::atomic<long> broken_off_{0};
};

// The most that were inside at once. Threads: any.
class Crowd {
 public:
  void enter() noexcept {
    const int now = ++inside_;
    for (int before = most_; before < now && !most_.compare_exchange_weak(before, now);) {
    }
  }
  void leave() noexcept { --inside_; }
  int inside() const noexcept { return inside_; }
  int most() const noexcept { return most_; }

 private:
  std::atomic<int> inside_{0};
  std::atomic<int> most_{0};
};

// The place of an object that may go while others are about to leave it: who touches it after that is found out.
template <class T>
class Grave {
 public:
  template <class... Args>
  explicit Grave(Args... args) {
    ::new (static_cast<void*>(bytes_)) T(args...);
  }
  Grave(const Grave&) = delete;

  T& operator*() noexcept { return *std::launder(reinterpret_cast<T*>(bytes_)); }
  T* operator->() noexcept { return &**this; }
  void bury() noexcept {
    std::destroy_at(&**this);
    std::memset(bytes_, mark, sizeof(T));
  }
  bool untouched() const noexcept {
    return std::all_of(std::begin(bytes_), std::end(bytes_), [](unsigned char byte) { return byte == mark; });
  }

 private:
  static constexpr unsigned char mark = 0xdd;
  alignas(T) unsigned char bytes_[sizeof(T)];
};

// Holds its thread until so many have come: they pass only if as many threads are here at the same time.
inline void meet(std::atomic<int>& arrived, int expected) {
  ++arrived;
  while (arrived.load() < expected) std::this_thread::yield();
}

// Gives others their turns until the condition holds.
template <class Condition>
Coroutine<> until(Condition condition) {
  using namespace std::chrono_literals;
  while (!condition()) co_await sleep(0s);
}

// What the loops of quiet_loop() report, of all threads.
class Reports {
 public:
  static void add(const ExceptionContext& context) {
    const std::lock_guard hold(mutex_);
    texts_.push_back(context.message + (context.exception ? ": " + describe(context.exception) : std::string()));
  }
  static std::vector<std::string> take() {
    const std::lock_guard hold(mutex_);
    return std::exchange(texts_, {});
  }

 private:
  inline static std::mutex mutex_;
  inline static std::vector<std::string> texts_;
};

// A loop factory. The loops' group is watched.
inline std::unique_ptr<EventLoop> quiet_loop() {
  auto loop = std::make_unique<Watched<EventLoop>>();
  loop->set_exception_handler([](EventLoop&, const ExceptionContext& context) { Reports::add(context); });
  loop->deadlock_grace = hangs_after;
  return loop;
}

// Runs over several loops. At the end of a test every frame has been given back, nothing was reported that the test has
// not taken, and no worker has slept beside work (group_watch.hpp).
class GroupTest : public testing::Test {
 protected:
  static RunOptions with(unsigned workers) { return {.workers = workers, .loop_factory = &quiet_loop}; }

  template <class A>
  static decltype(auto) run_on(unsigned workers, A&& main) {
    return ouro::run(std::forward<A>(main), with(workers));
  }

  void TearDown() override {
    for (const std::string& report : Reports::take()) ADD_FAILURE() << "reported: " << report;
    for (const std::string& fault : GroupWatch::take_faults()) ADD_FAILURE() << fault;
    EXPECT_EQ(live_frames(), frames_before_) << "frames, futures or callback nodes leaked";
  }

 private:
  const std::uint64_t frames_before_ = live_frames();
};

// The same for each number of workers.
class GroupsOfAnySize : public GroupTest, public testing::WithParamInterface<unsigned> {
 protected:
  template <class A>
  static decltype(auto) run(A&& main) {
    return run_on(GetParam(), std::forward<A>(main));
  }
};

}  // namespace ouro::test
