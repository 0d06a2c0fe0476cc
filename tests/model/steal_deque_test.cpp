// The deque of a worker: its owner, who pushes and pops, against one thief or two. The array is tiny, so that it grows
// under a thief's hands. What an element holds is plain memory, written before the push: who takes it without having
// the right to is a data race, and so is who takes it too early.
#include "steal_deque.hpp"

#include <cstddef>
#include <initializer_list>
#include <string_view>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include <model/mutants.hpp>
#include <ouro/runtime/detail/atomic.hpp>

namespace {

using ouro::detail::Atomic;
using ouro::detail::StealDeque;
using ouro::model::check;
using ouro::model::Excuse;
using ouro::model::Model;
using ouro::model::Mutant;
using ouro::model::Mutate;
using ouro::model::Options;

constexpr auto relaxed = std::memory_order_relaxed;
constexpr auto acquire = std::memory_order_acquire;
constexpr auto acq_rel = std::memory_order_acq_rel;
constexpr auto total = std::memory_order_seq_cst;

struct Item {
  int number = -1;
  int taken = 0;
};

void take_by_steal(StealDeque<Item>& deque, int& last) {
  bool lost = false;
  Item* const item = deque.steal(lost);
  check(!item || !lost, "lost means nothing");
  if (!item) return;
  check(item->number > last, "a thief takes the older ones first");
  last = item->number;
  ++item->taken;
}

// What the owner does: + pushes, - pops, ~ pops and puts back.
class Owner {
 public:
  Owner(StealDeque<Item>& deque, std::vector<Item>& items) : deque_(&deque), items_(&items) {}

  void act(std::string_view acts) {
    for (const char what : acts) {
      if (what == '+') {
        push();
      } else if (what == '~') {
        pop_and_put_back();
      } else {
        pop();
      }
    }
  }
  bool pop() {
    Item* const item = deque_->pop();
    if (item) {
      check(!own_.empty() && item->number == own_.back(), "the owner takes the newest");
      ++item->taken;
      own_.pop_back();
    } else {
      own_.clear();  // thieves have all of them
    }
    return item != nullptr;
  }
  int pushed() const { return next_; }

 private:
  void push() {
    Item& item = (*items_)[static_cast<std::size_t>(next_)];
    item.number = next_;
    own_.push_back(next_++);
    deque_->push(&item);
  }

  void pop_and_put_back() {
    Item* const item = deque_->pop();
    if (!item) return own_.clear();
    check(!own_.empty() && item->number == own_.back(), "the owner takes the newest");
    deque_->put_back(item, false);
  }

  StealDeque<Item>* deque_;
  std::vector<Item>* items_;
  std::vector<int> own_;  // pushed and not popped
  int next_ = 0;
};

// `steals`: how often each thief tries. What is left in the end the owner pops.
void race(std::size_t capacity, std::string_view acts, std::initializer_list<int> steals) {
  std::vector<Item> items(6);
  StealDeque<Item> deque(capacity);
  Owner owner(deque, items);
  std::vector<std::thread> thieves;
  thieves.reserve(steals.size());
  for (const int tries : steals) {
    thieves.emplace_back([&deque, tries] {
      int last = -1;
      for (int i = 0; i < tries; ++i) take_by_steal(deque, last);
    });
  }
  owner.act(acts);
  for (std::thread& thief : thieves) thief.join();
  while (owner.pop()) {
  }
  check(deque.empty() && deque.size() == 0, "nothing is left");
  for (int i = 0; i < owner.pushed(); ++i) {
    check(items[static_cast<std::size_t>(i)].taken == 1, "each is taken once");
  }
}

// Nobody else is there.
void alone() {
  std::vector<Item> items(6);
  StealDeque<Item> deque(1);
  Owner owner(deque, items);
  owner.act("-+-~+~++~");
  check(deque.size() == 3 && !deque.empty(), "what was pushed is there");
  int last = -1;
  take_by_steal(deque, last);
  check(last == 1, "a thief takes the oldest");
  owner.act("-+-");
  take_by_steal(deque, last);
  check(last == -1 || deque.size() <= 1, "what was taken is not there");
  while (owner.pop()) {
  }
  check(deque.empty(), "nothing is left");
}

// Parking: of who pushes and then looks who sleeps, and who says that it sleeps and then looks, one sees the other.
// `acts`: before the push.
void one_sees_the_other(std::string_view acts) {
  std::vector<Item> items(6);
  StealDeque<Item> deque(2);
  Owner owner(deque, items);
  Atomic<bool> sleeps{false};
  bool found = false;
  std::thread sleeper([&] {
    sleeps.store(true, total);
    found = !deque.empty();
  });
  owner.act(acts);
  owner.act("+");
  const bool seen = sleeps.load(total);
  sleeper.join();
  check(seen || found, "one sees the other");
  while (owner.pop()) {
  }
}

Options bound(unsigned preemptions) {
  Options options;
  options.preemptions = preemptions;
  return options;
}

const std::vector<Model> models{
    {"parking", [] { one_sees_the_other(""); }, {}},
    {"parking after a pop", [] { one_sees_the_other("+-"); }, {}},
    {"one and one thief", [] { race(1, "+-", {1}); }, {}},
    {"two, and one thief twice", [] { race(2, "++--", {2}); }, {}},
    {"two, and two thieves", [] { race(2, "++-", {1, 1}); }, {}},
    {"grows under a thief", [] { race(1, "++", {1}); }, {}},
    {"grows, and a thief twice", [] { race(1, "+++-", {2}); }, {}},
    {"emptied and filled", [] { race(1, "+-+-", {2}); }, {}},
    {"goes round", [] { race(1, "++-+", {2}); }, {}},
    {"grows under two thieves", [] { race(1, "+++", {1, 1}); }, bound(2)},
    {"grows under two thieves, and pops", [] { race(1, "++-+", {1, 2}); }, bound(1)},
    {"the last one put back under a thief", [] { race(1, "+~-", {2}); }, {}},
    {"put back, and one more", [] { race(2, "++~-+", {1, 1}); }, bound(2)},
    {"the owner alone", &alone, {}},
};

const char* const strong = "compare_exchange_strong";
const std::vector<Mutant> mutants{
    {"a push does not say so", {Mutate::drop, "put_in", "store", 1}},
    {"a push says so before the element is there", {Mutate::delay, "put_in", "store", 0}},
    {"a push says so after its look who sleeps", {Mutate::delay, "put_in", "store", 1}},
    {"a pop does not lower the bottom", {Mutate::drop, "pop", "exchange"}},
    {"a pop lowers the bottom after its look at the top", {Mutate::delay, "pop", "exchange"}},
    {"a pop takes the last one unasked", {Mutate::pretend, "pop", strong}},
    {"a pop takes the last one in two steps", {Mutate::tear, "pop", strong}},
    {"a pop of the last one leaves the bottom low", {Mutate::drop, "pop", "store"}},
    {"a pop does not look at the top", {Mutate::pretend, "pop", "load", 2, relaxed, 0}},
    {"a steal does not look at the bottom", {Mutate::pretend, "steal", "load", 1, relaxed, 3}},
    {"a steal takes unasked", {Mutate::pretend, "steal", strong}},
    {"a steal takes in two steps", {Mutate::tear, "steal", strong}},
    {"a larger array is not shown to thieves", {Mutate::drop, "make_room", "store", 1}},
    {"a larger array lacks what was there", {Mutate::drop, "make_room", "store", 0}},
    {"who is full believes that thieves have come far", {Mutate::pretend, "make_room", "load", 0, relaxed, 4}},
};

const char* const by_loads =
    "all loads of the top that are followed by a look at the bottom, or follow a change of it, are in the one order, "
    "and who reads what it wrote comes behind who reads what was there before";
const char* const by_buffering = "only a load that is done after the exchange it decides would tell: not explored";
const std::vector<Excuse> excuses{
    {"pop", "store", 0, Mutate::weaken, relaxed, by_buffering},
    {"pop", strong, 0, Mutate::weaken, acq_rel, by_loads},
    {"steal", strong, 0, Mutate::weaken, acq_rel, by_loads},
    {"empty", "load", 0, Mutate::weaken, acquire,
     "the top only grows: who reads an old one finds the deque less empty than it is, and looks once more"},
    {"make_room", "load", 0, Mutate::weaken, relaxed,
     "a thief would read what is written on the strength of its later exchange: load buffering, which is not explored"},
};

TEST(StealDequeModel, Correct) { ouro::model::expect_correct(models); }
TEST(StealDequeModel, Mutants) { ouro::model::expect_killed(models, mutants, excuses, {"steal_deque.hpp"}); }

}  // namespace
