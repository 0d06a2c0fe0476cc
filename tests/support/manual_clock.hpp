// Time that a test moves by hand, and a loop that lives in it: nothing sleeps, and every run is the same.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <ouro/runtime/base_event_loop.hpp>
#include <ouro/runtime/clock.hpp>
#include <ouro/runtime/events.hpp>
#include <ouro/runtime/parker.hpp>

#include "support/loop_fixture.hpp"

namespace ouro::test {

// Threads: any may read it.
class ManualClock final : public Clock {
 public:
  explicit ManualClock(TimePoint start = TimePoint(std::chrono::hours(1))) noexcept
      : now_(start.time_since_epoch().count()) {}

  TimePoint now() const noexcept override { return TimePoint(Duration(now_.load(std::memory_order_relaxed))); }

  void advance(Duration by) noexcept { set(detail::saturating_add(now(), by)); }
  // It never goes back.
  void set(TimePoint to) noexcept { now_.store(std::max(now(), to).time_since_epoch().count()); }

 private:
  std::atomic<Duration::rep> now_;
};

// Instead of sleeping until the deadline it moves the clock there. What a kernel would complete meanwhile, the test
// says beforehand. It cannot wait for other threads: a park() that only they could end throws.
class FakeParker final : public Parker {
 public:
  explicit FakeParker(ManualClock& clock) noexcept : clock_(&clock) {}

  // `completion` is called by the first poll() or park() that finds the clock at `when` or later; in order of time,
  // ties in order of the calls. As a Parker's completion it makes tasks or callbacks ready, and runs nothing else.
  void complete_at(TimePoint when, std::function<void()> completion) {
    const auto later =
        std::find_if(operations_.begin(), operations_.end(), [&](const Operation& o) { return o.when > when; });
    operations_.insert(later, Operation{when, std::move(completion)});
  }
  void complete_now(std::function<void()> completion) { complete_at(clock_->now(), std::move(completion)); }

  bool poll() override {
    ++polls_;
    const bool woken = notified_.exchange(false);
    return complete() || woken;
  }

  void park(TimePoint deadline) override {
    deadlines_.push_back(deadline);
    if (notified_.exchange(false)) return;
    const TimePoint until = operations_.empty() ? deadline : std::min(deadline, operations_.front().when);
    if (until == TimePoint::max()) throw std::logic_error("FakeParker: nothing would ever wake this loop");
    clock_->set(until);
    complete();
  }

  void unpark() noexcept override { notified_.store(true); }
  bool idle() const noexcept override { return operations_.empty(); }

  std::size_t polls() const noexcept { return polls_; }
  // What each park() was given.
  const std::vector<TimePoint>& deadlines() const noexcept { return deadlines_; }

 private:
  struct Operation {
    TimePoint when;
    std::function<void()> completion;
  };

  bool complete() {
    bool any = false;
    while (!operations_.empty() && operations_.front().when <= clock_->now()) {
      const std::function<void()> completion = std::move(operations_.front().completion);
      operations_.erase(operations_.begin());
      completion();
      any = true;
    }
    return any;
  }

  ManualClock* clock_;
  std::atomic<bool> notified_{false};
  std::vector<Operation> operations_;
  std::vector<TimePoint> deadlines_;
  std::size_t polls_ = 0;
};

// A loop over both, which keeps the errors that are reported to it, and at its end has given every frame back. It does
// not spin: its clock would stand still.
class SimulatedLoop {
 public:
  SimulatedLoop() {
    [] { OURO_TEST_ALONE("its time is moved by hand, and its parker cannot wait for other threads"); }();
    loop_->set_spin(std::chrono::nanoseconds(0));
    loop_->set_exception_handler(
        [this](BaseEventLoop&, const ExceptionContext& context) { errors_.push_back(context); });
  }
  ~SimulatedLoop() {
    loop_.reset();
    EXPECT_EQ(test::live_frames(), frames_before_) << "frames, futures or callback nodes leaked";
  }
  SimulatedLoop(const SimulatedLoop&) = delete;

  BaseEventLoop& loop() noexcept { return *loop_; }
  ManualClock& clock() noexcept { return clock_; }
  FakeParker& parker() noexcept { return static_cast<FakeParker&>(loop_->parker()); }
  std::vector<ExceptionContext>& errors() noexcept { return errors_; }

  // Makes so many turns, none of which sleeps.
  void run_turns(int turns) {
    for (int i = 0; i < turns; ++i) {
      loop_->stop();
      loop_->run_forever();
    }
  }

 private:
  const std::uint64_t frames_before_ = test::live_frames();
  ManualClock clock_;
  std::vector<ExceptionContext> errors_;
  std::unique_ptr<BaseEventLoop> loop_ = std::make_unique<BaseEventLoop>(std::make_unique<FakeParker>(clock_), clock_);
};

// The text of an error, or "" if `body` throws none of the type.
template <class Error, class Body>
std::string text_of(Body body) {
  try {
    body();
  } catch (const Error& error) {
    return error.what();
  }
  return {};
}

}  // namespace ouro::test
