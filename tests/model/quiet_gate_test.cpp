// One worker of a group looks at what belongs to another, which sleeps, and wakes up: by itself or because a third
// thread wakes it. What both touch is plain memory, so a look at a worker that runs is a data race; and what was done
// behind the gate has to be seen by who passes it.
#include "quiet_gate.hpp"

#include <array>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include <model/mutants.hpp>
#include <ouro/runtime/thread_parker.hpp>

#include "idle_workers.hpp"

namespace {

using ouro::detail::IdleWorkers;
using ouro::detail::QuietGate;
using ouro::model::check;
using ouro::model::Excuse;
using ouro::model::Model;
using ouro::model::Mutant;
using ouro::model::Mutate;
using ouro::model::mutated;

constexpr auto relaxed = std::memory_order_relaxed;

class World {
 public:
  explicit World(unsigned workers) : idle(workers) {}

  // A worker's: it works, sleeps, and works again.
  void sleep_once(unsigned me) {
    ++work_[me];
    idle.fall_asleep(me, false);
    parkers[me].park(ouro::TimePoint());
    idle.wake_up(me);
    if (!mutated("does not pass the gate")) gate.pass(idle);
    ++work_[me];
    static_cast<void>(idle.found());
  }

  // Of the worker that fell asleep last.
  void look(unsigned me) {
    idle.fall_asleep(me, false);
    const bool asks_before = mutated("asks, and then closes the gate");
    const bool all = asks_before && idle.all_asleep();
    if (gate.close()) {
      if (asks_before ? all : idle.all_asleep() || mutated("does not ask")) {
        for (int& work : work_) ++work;
      }
      gate.open();
    }
    idle.wake_up(me);
    gate.pass(idle);
    ++work_[me];
    static_cast<void>(idle.found());
  }

  void wake_somebody() {
    const int worker = idle.wake_one();
    if (worker >= 0) parkers[static_cast<unsigned>(worker)].unpark();
  }

  IdleWorkers idle;
  QuietGate gate;
  std::array<ouro::ThreadParker, 2> parkers;

 private:
  std::array<int, 2> work_{};
};

void wakes_by_itself() {
  World world(2);
  std::thread worker([&] { world.sleep_once(0); });
  world.look(1);
  worker.join();
  check(!world.idle.all_asleep(), "they are awake");
}

void is_woken() {
  World world(2);
  std::thread worker([&] { world.sleep_once(0); });
  std::thread other([&] { world.wake_somebody(); });
  world.look(1);
  other.join();
  worker.join();
}

// Both take themselves for the last.
void both_look() {
  World world(2);
  std::thread worker([&] { world.look(0); });
  world.look(1);
  worker.join();
}

const std::vector<Model> models{
    {"wakes by itself", &wakes_by_itself, {}},
    {"both look", &both_look, {}},
    {"is woken", &is_woken, {}},
};

const std::vector<Mutant> mutants{
    {"who wakes up does not pass the gate", {Mutate::custom, "does not pass the gate"}},
    {"who looks asks before", {Mutate::custom, "asks, and then closes the gate"}},
    {"who looks does not ask", {Mutate::custom, "does not ask"}},
    {"the gate is not closed", {Mutate::drop, "close", "exchange"}},
    {"the gate is closed in two steps", {Mutate::tear, "close", "exchange"}},
    {"the gate is not opened", {Mutate::drop, "open", "store"}},
    {"the gate is not looked at", {Mutate::pretend, "pass", "load", 1, relaxed, 0}},
};

const std::vector<Excuse> excuses{
    {"pass", "load", 0, Mutate::weaken, relaxed,
     "it puts the load behind it after the waker's exchange in the one order, which here is that of the execution"},
};

TEST(QuietGateModel, Correct) { ouro::model::expect_correct(models); }
TEST(QuietGateModel, Mutants) { ouro::model::expect_killed(models, mutants, excuses, {"quiet_gate.hpp"}); }

}  // namespace
