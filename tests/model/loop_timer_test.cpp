// Timers of tasks that end on another worker than they began on: the loop whose wheel the timer hangs in against the
// task that needs it no more. The workers have no loops (model/group.hpp), and their time stands still; the node's
// word, the list of those that were left and the wheel are the library's own. What runs after the task has gone on, or
// a node that goes too early, twice or never, is seen as a data race, memory used after its end, freed twice or left
// behind.
#include <chrono>
#include <memory>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include <model/group.hpp>
#include <model/mutants.hpp>
#include <ouro/runtime/detail/loop_timer.hpp>
#include <ouro/runtime/futures.hpp>

#include "timer_wheel.hpp"
#include "worker.hpp"

namespace {

using namespace std::chrono_literals;
using ouro::Future;
using ouro::TimePoint;
using ouro::detail::LoopTimer;
using ouro::detail::TimerWheel;
using ouro::model::check;
using ouro::model::Excuse;
using ouro::model::Group;
using ouro::model::Model;
using ouro::model::Mutant;
using ouro::model::Mutate;
using ouro::model::Options;

constexpr auto relaxed = std::memory_order_relaxed;
constexpr TimePoint due{1h};

class StillClock final : public ouro::Clock {
 public:
  TimePoint now() const noexcept override { return TimePoint(); }
};

// What the timer belongs to. Its memory is plain.
struct Scope {
  LoopTimer timer;
  int fired = 0;

  static void fire(void* self) noexcept { ++static_cast<Scope*>(self)->fired; }
  // The task goes on: whatever the timer did, it has done.
  void leave() {
    const bool in_time = timer.disarm();
    check(fired == (in_time ? 0 : 1), "it has fired, or never will");
    fired = 100;
  }
};

// Two workers; the timers hang in the wheel of the first.
class World {
 public:
  World() {
    home().timers = &wheel_;
    home().clock = &clock_;
  }
  ~World() {
    ouro::detail::free_left_timers(*home().worker);
    home().timers = nullptr;
    home().clock = nullptr;
  }

  void arm(Scope& scope) {
    group.as(0, [&] { scope.timer.arm(task_.handle().state(), due, &Scope::fire, &scope, true); });
  }
  // The first worker looks at its timers.
  void look() {
    group.as(0, [&] {
      while (ouro::detail::TimerNode* timer = wheel_.pop_due(due)) LoopTimer::expire(*timer);
    });
  }

  Group group{2};

 private:
  ouro::detail::LoopState& home() { return group.loop(0); }

  StillClock clock_;
  TimerWheel wheel_;
  Future<int> task_ = group.make_future<int>(0);
};

// The time comes while the task goes on elsewhere.
void fires_and_is_left() {
  World world;
  auto scope = std::make_unique<Scope>();
  world.arm(*scope);
  std::thread other = world.group.thread(1, [&scope] {
    scope->leave();
    scope.reset();
  });
  world.look();
  other.join();
  world.look();
}

// It is left, and its worker arms the next one.
void left_and_armed_again() {
  World world;
  auto scope = std::make_unique<Scope>();
  Scope next;
  world.arm(*scope);
  std::thread other = world.group.thread(1, [&scope] {
    scope->leave();
    scope.reset();
  });
  world.arm(next);
  world.look();
  other.join();
  world.group.as(0, [&] { next.leave(); });
}

// The task looks whether it has expired.
void is_asked() {
  World world;
  Scope scope;
  world.arm(scope);
  std::thread other = world.group.thread(1, [&scope] {
    const bool fired = scope.timer.has_fired();
    const bool in_time = scope.timer.disarm();
    check(!fired || !in_time, "what has fired stays so");
  });
  world.look();
  other.join();
  check(scope.fired <= 1, "it fires once");
}

const std::vector<Model> models{
    {"fires and is left", &fires_and_is_left, {}},
    {"left, and armed again", &left_and_armed_again, {}},
    {"is asked", &is_asked, {}},
};

const std::vector<Mutant> mutants{
    {"the task does not ask whether it fires", {Mutate::pretend, "disarm", "compare_exchange_strong"}},
    {"the task asks in two steps", {Mutate::tear, "disarm", "compare_exchange_strong"}},
    {"the loop does not ask whether it was left", {Mutate::pretend, "expire", "compare_exchange_strong"}},
    {"the loop asks in two steps", {Mutate::tear, "expire", "compare_exchange_strong"}},
    {"the loop does not say that it has fired", {Mutate::drop, "expire", "store"}},
    {"what is left is not listed", {Mutate::drop, "leave_behind", "store"}},
    {"the list is not emptied", {Mutate::drop, "free_left_timers", "store"}},
};

const std::vector<Excuse> excuses{
    {"has_fired", "load", 0, Mutate::weaken, relaxed, "the answer alone matters here; who acts on it disarms"},
};

TEST(LoopTimerModel, Correct) { ouro::model::expect_correct(models); }
TEST(LoopTimerModel, Mutants) {
  ouro::model::expect_killed(models, mutants, excuses, {"loop_timer.hpp", "loop_timer.cpp"});
}

}  // namespace
