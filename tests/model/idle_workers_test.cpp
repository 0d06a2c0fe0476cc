// The parking of a group's workers, with their deques and the real ThreadParker. Who waits for a piece of work does so
// until it has run, before the group is stopped, for that would wake everybody: a lost wake-up shows as a deadlock.
// Pieces that meet wait for each other, so that one worker awake is not enough. In the end nobody may count as
// searching or asleep.
#include "idle_workers.hpp"

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include <model/mutants.hpp>
#include <ouro/runtime/clock.hpp>
#include <ouro/runtime/detail/atomic.hpp>
#include <ouro/runtime/detail/futex.hpp>
#include <ouro/runtime/thread_parker.hpp>

#include "steal_deque.hpp"

namespace {

using ouro::detail::Atomic;
using ouro::detail::IdleWorkers;
using ouro::detail::StealDeque;
using ouro::model::check;
using ouro::model::Excuse;
using ouro::model::Model;
using ouro::model::Mutant;
using ouro::model::Mutate;
using ouro::model::mutated;
using ouro::model::Options;

constexpr auto relaxed = std::memory_order_relaxed;
constexpr auto acquire = std::memory_order_acquire;
constexpr auto release = std::memory_order_release;
constexpr auto acq_rel = std::memory_order_acq_rel;

// Counts down to zero.
class Latch {
 public:
  explicit Latch(std::uint32_t count) : left_(count) {}
  void count_down() noexcept {
    if (left_.fetch_sub(1, acq_rel) == 1) ouro::detail::futex_wake(left_, 8);
  }
  void wait() noexcept {
    while (const std::uint32_t left = left_.load(acquire)) ouro::detail::futex_wait(left_, left);
  }

 private:
  Atomic<std::uint32_t> left_;
};

// Its memory is plain: a piece that two workers run, or one that runs before it is whole, is a data race.
struct Piece {
  explicit Piece(Latch& counts, Latch* keeps = nullptr) : ended(&counts), waits_for(keeps) {}
  std::array<Piece*, 2> children{};  // pushed
  Latch* ended;                      // then counted down
  Latch* waits_for;                  // then waited for
  int runs = 0;
};

// Workers, and one thread that is none, has a deque of its own all the same, and sleeps when it likes.
class Group {
 public:
  // Where work comes from; the fewer places, the fewer steps.
  enum From : unsigned { outside = 1, inside = 2, inboxes = 4 };

  explicit Group(unsigned workers, unsigned from = outside) : from_(from), idle_(workers) {
    for (unsigned i = 0; i < workers; ++i) workers_.push_back(std::make_unique<Worker>());
  }
  // Work that a worker has before it starts.
  void prepare(unsigned worker, Piece& piece) { workers_[worker]->first = &piece; }
  void start() {
    for (unsigned i = 0; i < workers_.size(); ++i) {
      workers_[i]->thread = std::thread([this, i] { work(i); });
    }
  }
  // They may fall asleep, at no preemption's cost.
  void settle() { std::this_thread::yield(); }
  void stop() {
    stop_.store(true, relaxed);  // parkers tell the rest
    for (auto& worker : workers_) worker->parker.unpark();
    for (auto& worker : workers_) worker->thread.join();
    check(idle_.searchers() == 0, "nobody counts as searching");
    check(idle_.sleepers() == 0, "nobody counts as asleep");
    for (unsigned i = 0; i < workers_.size(); ++i) {
      int taken_back = workers_[i]->taken_back + woken_[i];
      for (auto& worker : workers_) taken_back += worker->woken[i];
      check(taken_back == workers_[i]->slept, "a bit is taken away once");
    }
  }

  void push(Piece& piece) { push_to(pushers_, woken_, piece); }
  // What one worker alone is to do: it wakes for a reason of its own.
  void send(unsigned worker, Piece& piece) {
    workers_[worker]->inbox.store(&piece, release);
    workers_[worker]->parker.unpark();
  }

 private:
  using Counts = std::array<int, 2>;  // by worker

  struct Worker {
    Atomic<Piece*> inbox{nullptr};
    StealDeque<Piece> deque{1};
    ouro::ThreadParker parker;
    Piece* first = nullptr;
    bool searching = false;
    int slept = 0, taken_back = 0;
    Counts woken{};  // by this one
    std::thread thread;
  };

  void push_to(StealDeque<Piece>& deque, Counts& woken, Piece& piece) {
    if (mutated("wakes, and then pushes")) wake_one(woken);
    deque.push(&piece);
    if (!mutated("wakes, and then pushes")) wake_one(woken);
  }

  void wake_one(Counts& woken) {
    const int worker = idle_.wake_one();
    if (worker < 0) return;
    ++woken[static_cast<unsigned>(worker)];
    workers_[static_cast<unsigned>(worker)]->parker.unpark();
  }

  bool anything() {
    if ((from_ & outside) && !pushers_.empty()) return true;
    for (auto& worker : workers_) {
      if ((from_ & inside) && !worker->deque.empty()) return true;
    }
    return false;
  }

  Piece* steal(StealDeque<Piece>& deque) {
    for (;;) {
      bool lost = false;
      Piece* const piece = deque.steal(lost);
      if (piece || !lost) return piece;
    }
  }

  Piece* look(unsigned me) {
    Piece* piece = from_ & outside ? steal(pushers_) : nullptr;
    for (unsigned i = 0; !piece && (from_ & inside) && i < workers_.size(); ++i) {
      if (i != me) piece = steal(workers_[i]->deque);
    }
    return piece;
  }

  void run(Worker& self, Piece& piece) {
    ++piece.runs;
    for (Piece* const child : piece.children) {
      if (child) push_to(self.deque, self.woken, *child);
    }
    Latch* const waits_for = piece.waits_for;
    piece.ended->count_down();  // and the piece may be gone
    if (waits_for) waits_for->wait();
  }

  // It has something to do, and may be busy with it for long.
  void leave_search(Worker& self) {
    if (!self.searching) return;
    self.searching = false;
    if (mutated("looks for more, and then leaves the search")) {
      const bool more = anything();
      if (idle_.found() && more) wake_one(self.woken);
    } else if (idle_.found() && !mutated("does not look for more") && anything()) {
      wake_one(self.woken);
    }
  }

  // The next thing to do, or nullptr: there is nothing.
  Piece* next(unsigned me) {
    Worker& self = *workers_[me];
    if (self.first) return std::exchange(self.first, nullptr);
    if ((from_ & inboxes) && self.inbox.load(acquire)) {
      Piece* const piece = self.inbox.load(relaxed);
      self.inbox.store(nullptr, relaxed);
      return piece;
    }
    if (from_ & inside) {
      if (Piece* const piece = self.deque.pop()) return piece;
    }
    if (!self.searching) self.searching = idle_.begin_search();
    return self.searching ? look(me) : nullptr;
  }

  void sleep(unsigned me) {
    Worker& self = *workers_[me];
    const bool looks_before = mutated("looks, and then falls asleep");
    bool found = looks_before && anything();
    ++self.slept;
    idle_.fall_asleep(me, self.searching && !mutated("falls asleep, and counts as searching"));
    if (!looks_before && !mutated("falls asleep, and does not look")) found = anything();
    if (!found) self.parker.park(ouro::TimePoint::max());
    if (!mutated("does not take itself back")) self.taken_back += idle_.wake_up(me);
    self.searching = true;
  }

  void work(unsigned me) {
    Worker& self = *workers_[me];
    while (!stop_.load(relaxed)) {
      if (Piece* const piece = next(me)) {
        if (!mutated("is busy, and counts as searching")) leave_search(self);
        run(self, *piece);
      } else {
        sleep(me);
      }
    }
    if (self.searching) static_cast<void>(idle_.found());
  }

  const unsigned from_;
  IdleWorkers idle_;
  StealDeque<Piece> pushers_{1};
  Counts woken_{};  // by the pusher
  std::vector<std::unique_ptr<Worker>> workers_;
  Atomic<bool> stop_{false};
};

// One after the other: the workers may have fallen asleep in between, or be about to.
void one_by_one(unsigned workers, int count) {
  Group group(workers);
  group.start();
  for (int i = 0; i < count; ++i) {
    Latch ended(1);
    Piece piece(ended);
    group.push(piece);
    ended.wait();
    check(piece.runs == 1, "it has run");
  }
  group.stop();
}

void at_once(unsigned workers) {
  Latch ended(2);
  Piece first(ended), second(ended);
  Group group(workers);
  group.start();
  group.push(first);
  group.push(second);
  ended.wait();
  group.stop();
  check(first.runs == 1 && second.runs == 1, "they have run");
}

// Both workers are needed: who found the one piece has to see to it that the other one is found.
void two_meet() {
  Latch ended(2);
  Piece first(ended, &ended), second(ended, &ended);
  Group group(2);
  group.start();
  group.settle();
  group.push(first);
  group.settle();
  group.push(second);
  ended.wait();
  group.stop();
  check(first.runs == 1 && second.runs == 1, "they have run");
}

// A piece that pushes two more, which meet.
void makes_two() {
  Latch began(1), ended(2);
  Piece root(began), first(ended, &ended), second(ended, &ended);
  root.children = {&first, &second};
  Group group(2, Group::inside);
  group.prepare(0, root);
  group.start();
  ended.wait();
  group.stop();
  check(root.runs == 1 && first.runs == 1 && second.runs == 1, "they have run");
}

// The one pushes and waits for the other, which pushes and waits for the one.
void for_each_other() {
  Latch began(1), middle(1), ended(1);
  Piece root(began, &middle), child(middle, &ended), grandchild(ended);
  root.children = {&child};
  child.children = {&grandchild};
  Group group(2, Group::inside);
  group.prepare(0, root);
  group.start();
  ended.wait();
  group.stop();
  check(root.runs == 1 && child.runs == 1 && grandchild.runs == 1, "they have run");
}

// A worker has a reason of its own to wake, while a pusher wakes it, or relies on it.
void own_reason(unsigned workers, bool by_another) {
  Latch ended(2);
  Piece own(ended), piece(ended);
  if (workers > 1) own.waits_for = &ended;  // and it keeps the worker
  Group group(workers, Group::outside | Group::inboxes);
  group.start();
  group.settle();
  std::thread other;
  if (by_another) {
    other = std::thread([&] { group.send(0, own); });
  } else {
    group.send(0, own);
  }
  group.push(piece);
  ended.wait();
  if (by_another) other.join();
  group.stop();
  check(own.runs == 1 && piece.runs == 1, "they have run");
}

// `stale`: how many old values an execution may read. `surprises`: how often an exchange fails, or a sleep ends, for no
// reason.
Options bound(unsigned preemptions, unsigned stale, unsigned surprises = 0) {
  Options options;
  options.preemptions = preemptions;
  options.stale = stale;
  options.surprises = surprises;
  return options;
}

// Those that kill the mutants, the quick ones first.
const std::vector<Model> killers{
    {"one worker, one piece", [] { one_by_one(1, 1); }, bound(2, 1000)},
    {"one worker, one by one", [] { one_by_one(1, 2); }, bound(1, 1)},
    {"two workers, one piece", [] { one_by_one(2, 1); }, bound(1, 0)},
    {"two workers, two that meet", &two_meet, bound(0, 1)},
};
const std::vector<Model> others{
    {"one worker, one by one", [] { one_by_one(1, 2); }, bound(2, 1)},
    {"one worker, one piece, surprised", [] { one_by_one(1, 1); }, bound(1, 1, 2)},
    {"two workers, two that meet, surprised", &two_meet, bound(0, 0, 1)},
    {"one worker, two at once", [] { at_once(1); }, bound(2, 1)},
    {"two workers, one piece", [] { one_by_one(2, 1); }, bound(1, 1)},
    {"two workers, one by one", [] { one_by_one(2, 2); }, bound(1, 0)},
    {"two workers, one by one", [] { one_by_one(2, 2); }, bound(0, 1)},
    {"two workers, two that meet", &two_meet, bound(1, 0)},
    {"a piece makes two", &makes_two, bound(0, 1)},
    {"a piece makes two", &makes_two, bound(1, 0)},
    {"for each other", &for_each_other, bound(0, 1)},
    {"for each other", &for_each_other, bound(1, 0)},
    {"a reason of its own", [] { own_reason(1, false); }, bound(2, 1)},
    {"a reason of its own, by another", [] { own_reason(1, true); }, bound(1, 1)},
    {"two workers, a reason of its own", [] { own_reason(2, false); }, bound(0, 1)},
    {"two workers, a reason of its own", [] { own_reason(2, false); }, bound(1, 0)},
    {"two workers, a reason of its own, by another", [] { own_reason(2, true); }, bound(0, 1)},
    {"two workers, a reason of its own, by another", [] { own_reason(2, true); }, bound(1, 0)},
};

const char* const weak = "compare_exchange_weak";
const std::vector<Mutant> mutants{
    {"a push comes after its look who sleeps", {Mutate::custom, "wakes, and then pushes"}},
    {"a push is not in the one order", {Mutate::weaken, "put_in", "store", 1, release}},
    {"a look is not in the one order", {Mutate::weaken, "empty", "load", 1, acquire}},
    {"who falls asleep does not look again", {Mutate::custom, "falls asleep, and does not look"}},
    {"who falls asleep looks before", {Mutate::custom, "looks, and then falls asleep"}},
    {"who found something does not look for more", {Mutate::custom, "does not look for more"}},
    {"who found something looks for more before", {Mutate::custom, "looks for more, and then leaves the search"}},
    {"who falls asleep counts as searching", {Mutate::custom, "falls asleep, and counts as searching"}},
    {"who is busy counts as searching", {Mutate::custom, "is busy, and counts as searching"}},
    {"who comes out of the park does not say so", {Mutate::custom, "does not take itself back"}},
    {"nobody is woken", {Mutate::no_wake}},
    {"a waker takes no bit", {Mutate::pretend, "IdleWorkers::wake_one", weak}},
    {"a waker takes a bit in two steps", {Mutate::tear, "IdleWorkers::wake_one", weak}},
    {"a waker does not look", {Mutate::pretend, "IdleWorkers::wake_one", "load"}},
    {"a searcher is not counted", {Mutate::pretend, "begin_search", weak}},
    {"a searcher is counted in two steps", {Mutate::tear, "begin_search", weak}},
    {"who found something still counts", {Mutate::drop, "found", "fetch_sub"}},
    {"who found something is counted down in two steps", {Mutate::tear, "found", "fetch_sub"}},
    {"who falls asleep does not say so", {Mutate::drop, "fall_asleep", "fetch_add"}},
    {"who falls asleep says so in two steps", {Mutate::tear, "fall_asleep", "fetch_add"}},
    {"who takes itself back is not counted", {Mutate::pretend, "wake_up", weak}},
    {"who takes itself back does so in two steps", {Mutate::tear, "wake_up", weak}},
    {"who wakes does not look whether it was woken", {Mutate::pretend, "wake_up", "load", 0, relaxed, 0}},
};

// The one order has to hold: the push, wake_one()'s first load, the two that leave the search or fall asleep, and the
// look behind them. What changes the word between that load and one of those two is between them in the one order too,
// for they are operations of the same word: whatever its own order.
const char* const first_load = "the load before it is in the one order, and before whatever changes the word later";
const char* const only_counts = "who relies on the count relies on the operation that counts down";
const std::vector<Excuse> excuses{
    {"IdleWorkers::wake_one", weak, 0, Mutate::weaken, acq_rel, first_load},
    {"IdleWorkers::wake_one", weak, 0, Mutate::weaken_failure, acquire, first_load},
    {"begin_search", weak, 0, Mutate::weaken, acq_rel, only_counts},
    {"wake_up", weak, 0, Mutate::weaken, acq_rel, only_counts},
};

TEST(IdleWorkersModel, Correct) {
  ouro::model::expect_correct(killers);
  ouro::model::expect_correct(others);
}
TEST(IdleWorkersModel, Mutants) { ouro::model::expect_killed(killers, mutants, excuses, {"idle_workers.hpp"}); }

}  // namespace
