// Tasks of a group that wait for each other in rings, through gathers: a cancellation ends them, wherever they are.
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cstddef>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include <ouro/ouro.hpp>

#include "support/group.hpp"

namespace ouro {
namespace {

using namespace std::chrono_literals;
using test::GroupsOfAnySize;
using test::Ledger;
using test::meet;
using test::until;

// How a task waits for others: for each of them by itself, for a gather of them, for a gather of coroutines that await
// them, or for a gather in a gather, beside a sleep that has nothing to do with it.
enum class Way { await, gather, gather_of_awaiters, nested_gather };
constexpr Way all_ways[] = {Way::await, Way::gather, Way::gather_of_awaiters, Way::nested_gather};

// Where the tasks are.
enum class Place { floating, one_loop, different_loops, mixed };
constexpr Place all_places[] = {Place::floating, Place::one_loop, Place::different_loops, Place::mixed};

Coroutine<> await_it(Task<> other, std::atomic<int>& waiting) {
  ++waiting;
  co_await other;
}
Coroutine<> gather_all(std::vector<Task<>> others, std::atomic<int>& waiting) {
  ++waiting;
  co_await gather(std::move(others));
}
Coroutine<> sleep_long() { co_await sleep(24h); }
Coroutine<> nothing() { co_return; }

// Tasks, and for each which others it waits for.
class Web {
 public:
  struct Member {
    std::vector<std::size_t> others;
    Way way = Way::gather;
    std::ptrdiff_t home = -1;  // the loop to which it is pinned, or -1: it floats
  };

  explicit Web(std::vector<Member> members) : members_(std::move(members)), tasks_(members_.size()) {
    for (const Member& member : members_) {
      const bool counts_children = member.way == Way::gather_of_awaiters && !member.others.empty();
      expected_ += counts_children ? static_cast<int>(member.others.size()) : 1;
    }
  }

  // A ring; task i goes by ways[i % ways.size()].
  static std::vector<Member> ring(std::size_t length, const std::vector<Way>& ways, Place place) {
    std::vector<Member> members(length);
    for (std::size_t i = 0; i < length; ++i) {
      members[i] = {{(i + 1) % length}, ways[i % ways.size()], home_at(place, i)};
    }
    return members;
  }
  static std::ptrdiff_t home_at(Place place, std::size_t i) {
    if (place == Place::floating || (place == Place::mixed && i % 3 == 1)) return -1;
    return place == Place::one_loop ? 0 : static_cast<std::ptrdiff_t>(i);
  }

  // Makes the tasks; returns when each is about to wait, or with `settled` when each waits.
  Coroutine<> begin(bool settled) {
    const std::vector<EventLoop*> loops = workers();
    for (std::size_t i = 0; i < tasks_.size(); ++i) {
      const std::ptrdiff_t home = members_[i].home;
      tasks_[i] = home < 0 ? spawn(run_member(i))
                           : loops[static_cast<std::size_t>(home) % loops.size()]->create_task(run_member(i));
    }
    complete_ = true;
    co_await until([this] { return waiting_ == expected_; });
    if (!settled) co_return;
    // Each worker has ended the step in which it counted, and has begun the gathers which that made.
    for (EventLoop* loop : loops) co_await loop->create_task(nothing());
  }

  std::size_t size() const { return tasks_.size(); }
  Task<>& operator[](std::size_t i) { return tasks_[i]; }

  // Those that can be reached from `first`, itself among them.
  std::vector<std::size_t> below(std::size_t first) const {
    std::vector<bool> seen(members_.size());
    std::vector<std::size_t> found = {first};
    seen[first] = true;
    for (std::size_t i = 0; i < found.size(); ++i) {
      for (const std::size_t other : members_[found[i]].others) {
        if (!seen[other]) found.push_back(other);
        seen[other] = true;
      }
    }
    return found;
  }

  Coroutine<> end_of(std::size_t i) {
    co_await until([this, i] { return tasks_[i].done(); });
    EXPECT_TRUE(tasks_[i].cancelled()) << i;
  }
  Coroutine<> all_below_are_cancelled(std::size_t first) {
    for (const std::size_t i : below(first)) co_await end_of(i);
  }
  Coroutine<> cancel_all() {
    for (Task<>& task : tasks_) task.cancel();
    for (std::size_t i = 0; i < tasks_.size(); ++i) co_await end_of(i);
    forget();
  }

  // The tasks hold handles to each other no more, but these do.
  void forget() { tasks_.clear(); }

  Ledger ledger;

 private:
  Coroutine<> run_member(std::size_t i) {
    Ledger::Entry entry(ledger);
    co_await until([this] { return complete_.load(); });
    std::vector<Task<>> others;
    for (const std::size_t other : members_[i].others) others.push_back(tasks_[other]);
    if (others.empty()) {
      ++waiting_;
      co_await sleep(24h);
    } else if (members_[i].way == Way::await) {
      ++waiting_;
      for (Task<>& other : others) co_await other;
    } else if (members_[i].way == Way::gather) {
      ++waiting_;
      co_await gather(std::move(others));
    } else if (members_[i].way == Way::gather_of_awaiters) {
      std::vector<Coroutine<>> children;
      for (Task<>& other : others) children.push_back(await_it(other, waiting_));
      co_await gather(std::move(children));
    } else {
      co_await gather(sleep_long(), gather_all(std::move(others), waiting_));
    }
    entry.finish();
  }

  std::vector<Member> members_;
  std::vector<Task<>> tasks_;
  std::atomic<bool> complete_{false};
  std::atomic<int> waiting_{0};
  int expected_ = 0;
};

class GroupRings : public GroupsOfAnySize {
 protected:
  // Cancels one task of the ring, from a loop or from a floating task, each in its turn.
  static void cancel_ring(std::size_t length, const std::vector<Way>& ways, Place place) {
    SCOPED_TRACE("place " + std::to_string(static_cast<int>(place)) + ", length " + std::to_string(length));
    static std::size_t turn = 0;
    const std::size_t from = turn++ % 5;
    run([&]() -> Coroutine<> {
      const auto cancel = [](AnyTask task) -> Coroutine<bool> { co_return task.cancel("ring"); };
      const std::vector<EventLoop*> loops = workers();
      Web web(Web::ring(length, ways, place));
      co_await web.begin(from % 2 == 0);
      AnyTask victim = web[from % length];
      const bool asked =
          from < 3 ? co_await loops[from % loops.size()]->create_task(cancel(victim)) : co_await spawn(cancel(victim));
      EXPECT_TRUE(asked);
      co_await web.all_below_are_cancelled(from % length);
      web.forget();
      EXPECT_EQ(web.ledger.finished(), 0);
      EXPECT_EQ(web.ledger.open(), 0);
    });
  }

  // The main task returns while the web is pending.
  static void leave(std::vector<Web::Member> members) {
    Web web(std::move(members));
    run([&]() -> Coroutine<> { co_await web.begin(false); });
    for (std::size_t i = 0; i < web.size(); ++i) {
      EXPECT_TRUE(web[i].cancelled()) << i;
    }
    EXPECT_EQ(web.ledger.open(), 0);
    EXPECT_EQ(web.ledger.finished(), 0);
  }

  static std::vector<Web::Member> random_web(std::minstd_rand& random, std::size_t size, bool ways_that_await) {
    std::vector<Web::Member> members(size);
    for (std::size_t i = 0; i < size; ++i) {
      const std::size_t wanted = random() % 4;
      for (std::size_t n = 0; n < wanted; ++n) {
        const std::size_t other = random() % size;
        if (other != i) members[i].others.push_back(other);
      }
      members[i].way = all_ways[ways_that_await ? random() % 4 : 1 + random() % 3];
      members[i].home = static_cast<std::ptrdiff_t>(random() % 5) - 1;
    }
    return members;
  }
};
INSTANTIATE_TEST_SUITE_P(Workers, GroupRings, testing::Values(1U, 2U, 4U, 16U));

TEST_P(GroupRings, OfTwo) {
  for (const Place place : all_places) {
    cancel_ring(2, {Way::gather}, place);
    cancel_ring(2, {Way::gather, Way::await}, place);
    cancel_ring(2, {Way::await, Way::gather_of_awaiters}, place);
    cancel_ring(2, {Way::nested_gather, Way::gather_of_awaiters}, place);
  }
}

TEST_P(GroupRings, OfThree) {
  for (const Place place : all_places) {
    for (const Way a : all_ways) {
      for (const Way b : all_ways) cancel_ring(3, {a, b, Way::gather}, place);
    }
  }
}

TEST_P(GroupRings, OfAHundred) {
  for (const Place place : all_places) {
    cancel_ring(100, {Way::gather}, place);
    cancel_ring(100, {Way::gather, Way::await, Way::await, Way::nested_gather, Way::gather_of_awaiters}, place);
  }
}

TEST_P(GroupRings, EndWithTheRun) {
  for (const Place place : all_places) {
    for (const std::size_t length : {2U, 3U, 100U}) {
      leave(Web::ring(length, {Way::gather}, place));
      leave(Web::ring(length, {Way::nested_gather, Way::await, Way::gather_of_awaiters}, place));
    }
  }
}

// A child that waits for the task in whose gather it is.
TEST_P(GroupRings, OfAChildAndItsParent) {
  run([]() -> Coroutine<> {
    const std::vector<EventLoop*> loops = workers();
    for (std::size_t home = 0; home <= loops.size() && home <= 2; ++home) {
      Ledger ledger;
      std::atomic<bool> complete{false};
      std::atomic<int> waiting{0};
      Task<> parent;
      const auto child = [&]() -> Coroutine<> {
        Ledger::Entry entry(ledger);
        co_await until([&] { return complete.load(); });
        Task<> above = parent;
        ++waiting;
        co_await above;
      };
      const auto top = [&]() -> Coroutine<> { co_await gather(child(), child(), sleep_long()); };
      parent = home < loops.size() ? loops[home]->create_task(top()) : spawn(top());
      complete = true;
      co_await until([&] { return waiting == 2; });
      EXPECT_TRUE(parent.cancel());
      co_await until([&] { return parent.done(); });
      EXPECT_TRUE(parent.cancelled());
      EXPECT_EQ(ledger.broken_off(), 2);
      parent = {};
    }
  });
}

// Rings that have tasks in common, below a task that is in none of them.
TEST_P(GroupRings, BesideEachOther) {
  for (const Place place : all_places) {
    run([&]() -> Coroutine<> {
      Web web({{{1, 2, 3}, Way::gather, Web::home_at(place, 0)},
               {{2, 4}, Way::gather, Web::home_at(place, 1)},
               {{1, 3}, Way::await, Web::home_at(place, 2)},
               {{4, 5}, Way::nested_gather, Web::home_at(place, 3)},
               {{2, 4}, Way::gather_of_awaiters, Web::home_at(place, 4)},
               {{}, Way::await, Web::home_at(place, 5)}});
      co_await web.begin(true);
      EXPECT_TRUE(web[0].cancel());
      co_await web.end_of(0);
      co_await web.cancel_all();
    });
  }
}

// Each of two cancellations comes to both tasks of a ring, and may find that the other one has been there.
TEST_P(GroupRings, CancelledFromTwoSidesAtOnce) {
  run([]() -> Coroutine<> {
    for (int round = 0; round < 50; ++round) {
      Web web({{{2, 3}, Way::gather, -1}, {{2, 3}, Way::gather, -1}, {{3}, Way::gather, 0}, {{2}, Way::gather, 1}});
      co_await web.begin(true);
      std::atomic<int> arrived{0};
      const auto cancel = [&](std::size_t i) -> Coroutine<> {
        if (workers().size() > 1) meet(arrived, 2);
        web[i].cancel();
        co_return;
      };
      const std::vector<EventLoop*> loops = workers();
      Task<> one = loops.front()->create_task(cancel(0));
      Task<> other = loops.back()->create_task(cancel(1));
      co_await one;
      co_await other;
      co_await web.all_below_are_cancelled(0);
      co_await web.all_below_are_cancelled(1);
      web.forget();
    }
  });
}

// Whatever waits for whatever: who is cancelled ends. (Not all below need do: a gather of which one task has ended lets
// go of the others, and a cancellation may come after that.)
TEST_P(GroupRings, InAnyWeb) {
  std::minstd_rand random(1);
  for (int round = 0; round < 30; ++round) {
    const std::vector<Web::Member> members = random_web(random, 2 + random() % 20, false);
    const std::size_t first = random() % members.size();
    const std::size_t second = random() % members.size();
    run([&]() -> Coroutine<> {
      Web web(members);
      const auto cancel = [](AnyTask task) -> Coroutine<> {
        task.cancel();
        co_return;
      };
      co_await web.begin(true);
      const std::vector<EventLoop*> loops = workers();
      Task<> one = loops[random() % loops.size()]->create_task(cancel(web[first]));
      web[second].cancel();
      co_await one;
      co_await web.end_of(first);
      co_await web.end_of(second);
      co_await web.cancel_all();
    });
    leave(random_web(random, 2 + random() % 20, true));
  }
}

// Two ways down to the same task are no ring: it is cancelled, and what it makes of that is what both get.
TEST_P(GroupRings, TwoWaysDownAreNoRing) {
  run([]() -> Coroutine<> {
    const std::vector<EventLoop*> loops = workers();
    for (std::size_t home = 0; home <= 2; ++home) {
      std::atomic<int> waiting{0};
      std::atomic<int> caught{0};
      const auto bottom_task = [&]() -> Coroutine<int> {
        ++waiting;
        try {
          co_await gather(sleep(24h), sleep(24h));
        } catch (const CancelledError&) {
          ++caught;
        }
        co_return caught == 1 ? 7 : 0;
      };
      Task<int> bottom = home < 2 ? loops[home % loops.size()]->create_task(bottom_task()) : spawn(bottom_task());
      const auto wait = [&]() -> Coroutine<int> {
        Task<int> below = bottom;
        ++waiting;
        co_return co_await below;
      };
      Task<int> left = spawn(wait());
      Task<int> right = spawn(wait());
      Task<> top = spawn([&]() -> Coroutine<> {
        std::vector<Task<int>> both;
        both.push_back(left);
        both.push_back(right);
        ++waiting;
        co_await gather(std::move(both));
      });
      co_await until([&] { return waiting == 4; });
      for (EventLoop* loop : loops) co_await loop->create_task(nothing());
      EXPECT_TRUE(top.cancel());
      co_await until([&] { return top.done() && left.done() && right.done(); });
      EXPECT_TRUE(top.cancelled());
      EXPECT_EQ(left.result(), 7);
      EXPECT_EQ(right.result(), 7);
    }
  });
}

// ---- Depth: nothing of it is on the native stack ----

constexpr int deep = 100'000;

Coroutine<> nest(int depth, std::atomic<int>& bottoms, Task<>* ring) {
  if (depth > 0) {
    co_await gather(nest(depth - 1, bottoms, ring));
  } else if (ring) {
    co_await until([&] { return bottoms != 0; });
    Task<> top = *ring;
    ++bottoms;
    co_await top;
  } else {
    ++bottoms;
    co_await sleep(24h);
  }
}

TEST_P(GroupRings, GathersInGathers) {
  run([]() -> Coroutine<> {
    const auto cancel = [](AnyTask task) -> Coroutine<bool> { co_return task.cancel("deep"); };
    EventLoop* const from = workers().back();
    for (const bool pinned : {true, false}) {
      std::atomic<int> bottoms{0};
      Task<> task =
          pinned ? workers()[0]->create_task(nest(deep, bottoms, nullptr)) : spawn(nest(deep, bottoms, nullptr));
      co_await until([&] { return bottoms == 1; });
      EXPECT_TRUE(co_await from->create_task(cancel(task)));
      co_await until([&] { return task.done(); });
      EXPECT_TRUE(task.cancelled());
    }
  });
}

TEST_P(GroupRings, OfADeepChildAndItsForebear) {
  run([]() -> Coroutine<> {
    for (const bool pinned : {true, false}) {
      std::atomic<int> bottoms{0};
      Task<> task;
      task = pinned ? workers().back()->create_task(nest(deep, bottoms, &task)) : spawn(nest(deep, bottoms, &task));
      bottoms = 1;
      co_await until([&] { return bottoms == 2; });
      EXPECT_TRUE(task.cancel());
      co_await until([&] { return task.done(); });
      EXPECT_TRUE(task.cancelled());
      task = {};
    }
  });
}

TEST_P(GroupRings, OfManyTasks) {
  run([]() -> Coroutine<> {
    for (const Place place : all_places) {
      const bool by_messages = place == Place::different_loops || place == Place::mixed;
      Web web(Web::ring(by_messages ? 500 : 10'000, {Way::gather, Way::gather, Way::await}, place));
      co_await web.begin(true);
      EXPECT_TRUE(web[0].cancel());
      co_await web.all_below_are_cancelled(0);
      web.forget();
    }
  });
}

}  // namespace
}  // namespace ouro
