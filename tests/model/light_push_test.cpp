// Light pushes (src/barrier.hpp): the owner's push is a plain store, and the worker that falls asleep pays for both,
// when it has slept for a while. A loop of a group, all of it the library's own, searches, falls asleep, looks,
// sleeps and looks again, while another worker, which stays busy, pushes floating tasks and waits until they have run.
// Deadlines pass only when all wait: so a task that is seen by nobody's second look is a deadlock.
#include <array>
#include <chrono>
#include <cstdint>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include <model/mutants.hpp>
#include <ouro/runtime/base_event_loop.hpp>
#include <ouro/runtime/detail/futex.hpp>
#include <ouro/runtime/detail/worker_group.hpp>
#include <ouro/runtime/tasks.hpp>
#include <ouro/runtime/thread_parker.hpp>

namespace {

using ouro::BaseEventLoop;
using ouro::Coroutine;
using ouro::detail::Atomic;
using ouro::model::check;
using ouro::model::Model;
using ouro::model::Mutant;
using ouro::model::Mutate;
using ouro::model::Options;

constexpr auto relaxed = std::memory_order_relaxed;

// Counts down to zero.
class Latch {
 public:
  explicit Latch(std::uint32_t count) : left_(count) {}
  void count_down() noexcept {
    if (left_.fetch_sub(1, std::memory_order_acq_rel) == 1) ouro::detail::futex_wake(left_, 8);
  }
  void wait() noexcept {
    while (const std::uint32_t left = left_.load(std::memory_order_acquire)) ouro::detail::futex_wait(left_, left);
  }

 private:
  Atomic<std::uint32_t> left_;
};

// Its memory is plain: one that runs twice is a data race.
struct Piece {
  Latch* ended;
  Latch* waits_for = nullptr;  // keeps its worker
  int runs = 0;
};

Coroutine<> run(Piece& piece) {
  ++piece.runs;
  Latch* const waits_for = piece.waits_for;
  piece.ended->count_down();  // and the piece may be gone
  if (waits_for) waits_for->wait();
  co_return;
}

// The first worker is the calling thread, which runs no loop; the others are loops on threads of their own.
class Group {
 public:
  explicit Group(unsigned workers) : group_(ouro::detail::make_group(workers)) {
    for (unsigned i = 0; i < workers; ++i) {
      loops_.push_back(std::make_unique<BaseEventLoop>(std::make_unique<ouro::ThreadParker>()));
      loops_.back()->set_spin(std::chrono::nanoseconds(0));
      ouro::detail::join_group(*group_, *loops_.back());
      ouro::detail::let_run(*loops_.back(), true);
    }
    for (unsigned i = 1; i < workers; ++i) {
      threads_.emplace_back([loop = loops_[i].get()] { loop->run_forever(); });
    }
  }
  Group(const Group&) = delete;
  Group& operator=(const Group&) = delete;
  ~Group() {
    for (std::size_t i = 1; i < loops_.size(); ++i) {
      BaseEventLoop* const loop = loops_[i].get();
      loop->call_soon_threadsafe([loop] { loop->end_run(); });
    }
    for (std::thread& thread : threads_) thread.join();
    ouro::detail::end_group(*group_);
  }

  void push(Piece& piece) {
    ouro::detail::LoopState* const before = ouro::detail::set_running_state(&ouro::detail::state_of(*loops_[0]));
    ouro::spawn(run(piece));
    ouro::detail::set_running_state(before);
  }
  // They may fall asleep, at no preemption's cost.
  void settle() { std::this_thread::yield(); }

 private:
  ouro::detail::WorkerGroup* const group_;
  std::vector<std::unique_ptr<BaseEventLoop>> loops_;
  std::vector<std::thread> threads_;
};

void one_by_one(unsigned workers, int count) {
  Group group(workers);
  for (int i = 0; i < count; ++i) {
    Latch ended(1);
    Piece piece{&ended};
    group.push(piece);
    ended.wait();
    check(piece.runs == 1, "it has run");
  }
}

// Both workers are needed: who found the one piece has to see to it that the other one is found.
void two_meet() {
  Group group(3);
  Latch ended(2);
  Piece first{&ended, &ended};
  Piece second{&ended, &ended};
  group.push(first);
  group.settle();
  group.push(second);
  ended.wait();
  check(first.runs == 1 && second.runs == 1, "they have run");
}

// `stale`: how many old values an execution may read. `light`: the system has a barrier for it.
Options bound(unsigned preemptions, unsigned stale, bool light = true) {
  Options options;
  options.preemptions = preemptions;
  options.stale = stale;
  options.heavy_barrier = light;
  return options;
}

const std::vector<Model> killers{
    {"one piece", [] { one_by_one(2, 1); }, bound(1, 1)},
    {"one by one", [] { one_by_one(2, 2); }, bound(0, 1)},
};
const std::vector<Model> others{
    {"one piece", [] { one_by_one(2, 1); }, bound(2, 1)},
    {"one by one", [] { one_by_one(2, 2); }, bound(1, 1)},
    {"two that meet", &two_meet, bound(0, 1)},
    {"one piece, no light pushes", [] { one_by_one(2, 1); }, bound(2, 1, false)},
    {"one by one, no light pushes", [] { one_by_one(2, 2); }, bound(1, 1, false)},
};

const std::vector<Mutant> mutants{
    {"the barrier does nothing", {Mutate::drop, "heavy_barrier", "heavy_barrier"}},
    {"the barrier is the sleeper's own", {Mutate::custom, "a heavy barrier of one thread"}},
    {"a push does not release", {Mutate::weaken, "::put_in", "store", 1, relaxed}},
    {"who falls asleep does not say so", {Mutate::drop, "fall_asleep", "fetch_add"}},
    {"a pusher does not look who sleeps", {Mutate::pretend, "should_wake", "load", 0, relaxed, 0}},
    {"nobody is woken", {Mutate::no_wake}},
};

TEST(LightPushModel, Correct) { ouro::model::expect_correct(others); }
TEST(LightPushModel, Mutants) { ouro::model::expect_killed(killers, mutants, {}, {}); }

}  // namespace
