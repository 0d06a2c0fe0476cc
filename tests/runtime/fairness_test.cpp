// The bound of fairness: whatever keeps the loop busy, a due timer, a post of another thread and a completed operation
// each get their turn within 61 runs of each kind. Counted in runs; no time passes but by hand.
#include <gtest/gtest.h>

#include <chrono>
#include <cstddef>
#include <functional>
#include <ranges>
#include <thread>
#include <utility>
#include <vector>

#include <ouro/runtime/base_event_loop.hpp>
#include <ouro/runtime/gather.hpp>
#include <ouro/runtime/map.hpp>
#include <ouro/runtime/sleep.hpp>

#include "support/manual_clock.hpp"

namespace ouro {
namespace {

using namespace std::chrono_literals;
using test::SimulatedLoop;

constexpr int bound = 61;
constexpr int many = 100'000;

// One timer, one post and one operation, all due in the middle of a load; how many runs of the load each then waited.
class Guests {
 public:
  enum Kind : std::size_t { timer, post, operation, kinds };

  Guests(SimulatedLoop& home, int call_at_run) : home_(home), call_at_run_(call_at_run) {
    when_ = home_.clock().now() + 1s;
    home_.loop().call_at(when_, [this] { served(timer); });
  }

  // Every run of the load calls it.
  void count_run() {
    if (++runs_ == call_at_run_) call();
    if (runs_ == 50 * many) home_.loop().stop();  // starved: the test fails instead of hanging
  }
  bool all_served() const noexcept { return left_ == 0; }

  // Runs the loop until all have been served.
  void run_until_served() {
    stops_ = true;
    home_.loop().run_forever();
  }

  void expect_within(int runs, std::initializer_list<Kind> of = {timer, post, operation}) const {
    for (const Kind kind : of) {
      EXPECT_GE(waited_[kind], 0) << "kind " << kind << " never had its turn";
      EXPECT_LE(waited_[kind], runs) << "kind " << kind;
    }
  }

 private:
  void call() {
    called_at_ = runs_;
    home_.clock().set(when_);
    std::thread([this] { home_.loop().call_soon_threadsafe([this] { served(post); }); }).join();
    home_.parker().complete_now([this] { home_.loop().call_soon([this] { served(operation); }); });
  }
  void served(Kind kind) {
    EXPECT_EQ(waited_[kind], -1);
    waited_[kind] = runs_ - called_at_;
    if (--left_ == 0 && stops_) home_.loop().stop();
  }

  SimulatedLoop& home_;
  TimePoint when_;
  int call_at_run_;
  int runs_ = 0;
  int called_at_ = 0;
  int left_ = kinds;
  bool stops_ = false;
  int waited_[kinds] = {-1, -1, -1};
};

class FairnessAmong : public testing::TestWithParam<int>, protected SimulatedLoop {};
class FairnessOfMany : public testing::Test, protected SimulatedLoop {};

Coroutine<> yield_until_served(Guests& guests) {
  while (!guests.all_served()) {
    guests.count_run();
    co_await sleep(0s);
  }
}

// One of a pair: wakes its partner and sleeps until it is woken.
Coroutine<> play(BaseEventLoop& loop, Guests& guests, Future<>& mine, Future<>& partners) {
  while (!guests.all_served()) {
    guests.count_run();
    if (!partners.done()) partners.set_result();
    co_await mine;
    mine = loop.create_future<>();
  }
  if (!partners.done()) partners.set_result();
}

Coroutine<> run_once(Guests& guests) {
  guests.count_run();
  co_return;
}
Coroutine<> run_twice(Guests& guests) {
  guests.count_run();
  co_await sleep(0s);
  guests.count_run();
}

TEST_P(FairnessAmong, ReadyTasks) {
  Guests guests(*this, 500);
  const int count = 500 * GetParam();
  std::vector<Task<>> tasks;
  for (int i = 0; i < count; ++i) tasks.push_back(loop().create_task(run_once(guests)));
  guests.run_until_served();
  run_turns(2);
  guests.expect_within(bound);
}

TEST_P(FairnessAmong, ReadyCallbacks) {
  Guests guests(*this, 500);
  const int count = 500 * GetParam();
  for (int i = 0; i < count; ++i) loop().call_soon([&] { guests.count_run(); });
  guests.run_until_served();
  guests.expect_within(bound);
}

// Completions that one look found, a thousand of them say: a timer that is due does not wait behind them.
TEST_P(FairnessAmong, Completions) {
  Guests guests(*this, 500);
  const int count = 500 * GetParam();
  parker().complete_now([&] {
    for (int i = 0; i < count; ++i) loop().call_soon([&] { guests.count_run(); });
  });
  guests.run_until_served();
  run_turns(2);
  guests.expect_within(2 * bound, {Guests::timer, Guests::post});  // one turn of the completions in between
}

TEST_P(FairnessAmong, SelfYieldingTasks) {
  Guests guests(*this, 5000);
  std::vector<Task<>> tasks;
  for (int i = 0; i < GetParam(); ++i) tasks.push_back(loop().create_task(yield_until_served(guests)));
  guests.run_until_served();
  guests.expect_within(bound);
  run_turns(2);
}

TEST_P(FairnessAmong, EndlessChainsOfCallbacks) {
  Guests guests(*this, 5000);
  std::function<void()> again = [&] {
    guests.count_run();
    if (!guests.all_served()) loop().call_soon([&] { again(); });
  };
  for (int i = 0; i < GetParam(); ++i) loop().call_soon([&] { again(); });
  guests.run_until_served();
  guests.expect_within(bound);
}

TEST_P(FairnessAmong, PingPongPairs) {
  Guests guests(*this, 5000);
  std::vector<Future<>> cups(static_cast<std::size_t>(2 * GetParam()));
  for (Future<>& cup : cups) cup = loop().create_future<>();
  std::vector<Task<>> players;
  for (std::size_t i = 0; i < cups.size(); i += 2) {
    players.push_back(loop().create_task(play(loop(), guests, cups[i], cups[i + 1])));
    players.push_back(loop().create_task(play(loop(), guests, cups[i + 1], cups[i])));
  }
  guests.run_until_served();
  guests.expect_within(bound);
  run_turns(4);
  for (const Task<>& player : players) EXPECT_TRUE(player.done());
}

TEST_P(FairnessAmong, ChainsOfZeroDelayTimers) {
  Guests guests(*this, 5000);
  std::function<void()> again = [&] {
    guests.count_run();
    if (!guests.all_served()) loop().call_later(0s, [&] { again(); });
  };
  for (int i = 0; i < GetParam(); ++i) loop().call_later(0s, [&] { again(); });
  guests.run_until_served();
  // Those that were due before the guest's timer come before it.
  guests.expect_within(2 * bound + GetParam(), {Guests::timer});
  guests.expect_within(2 * bound, {Guests::post, Guests::operation});
}

INSTANTIATE_TEST_SUITE_P(Count, FairnessAmong, testing::Values(1, 2, 60, 61, 62, 1000));

TEST_F(FairnessOfMany, ZeroDelayTimers) {
  Guests guests(*this, 5000);
  int fired = 0;
  for (int i = 0; i < many; ++i) {
    loop().call_later(0s, [&, i] {
      EXPECT_EQ(fired++, i);
      guests.count_run();
    });
  }
  guests.run_until_served();
  EXPECT_EQ(fired, many);
  // Up to 61 timers are on their way when the others become due, and 61 more are taken in with them. The guest's timer
  // is later than all of these.
  guests.expect_within(2 * bound, {Guests::post, Guests::operation});
  guests.expect_within(many, {Guests::timer});
}

TEST_F(FairnessOfMany, GatheredChildren) {
  Guests guests(*this, many / 2);
  std::vector<Coroutine<>> children;
  for (int i = 0; i < many; ++i) children.push_back(run_once(guests));
  loop().run_until_complete(gather(std::move(children)));
  guests.expect_within(bound);
}

TEST_F(FairnessOfMany, GatheredChildrenThatYield) {
  Guests guests(*this, many + many / 2);  // when all of them are ready again
  std::vector<Coroutine<>> children;
  for (int i = 0; i < many; ++i) children.push_back(run_twice(guests));
  loop().run_until_complete(gather(std::move(children)));
  guests.expect_within(bound);
}

TEST_F(FairnessOfMany, MappedElements) {
  Guests guests(*this, many / 2);
  const auto once = [&](int) { return run_once(guests); };
  loop().run_until_complete(map(once, std::views::iota(0, many)));
  guests.expect_within(bound);
}

TEST_F(FairnessOfMany, MappedElementsWithALimit) {
  Guests guests(*this, many / 2);
  const auto twice = [&](int) { return run_twice(guests); };
  MapOptions options;
  options.limit = 100;
  loop().run_until_complete(map(twice, std::views::iota(0, many), options));
  guests.expect_within(bound);
}

TEST_F(FairnessOfMany, PostsOfItsOwnThread) {
  Guests guests(*this, 5000);
  std::function<void()> again = [&] {
    guests.count_run();
    if (!guests.all_served()) loop().call_soon_threadsafe([&] { again(); });
  };
  for (int i = 0; i < 1000; ++i) loop().call_soon_threadsafe([&] { again(); });
  guests.run_until_served();
  guests.expect_within(bound);
}

// What is ready is not kept waiting by those either.
TEST_F(FairnessOfMany, CompletedOperationsLeaveTheOthersTheirTurn) {
  int completed = 0;
  int longest = 0;
  int since = 0;
  for (int i = 0; i < 10'000; ++i) {
    parker().complete_now([&] {
      loop().call_soon([&] {
        ++completed;
        longest = std::max(longest, ++since);
      });
    });
  }
  std::function<void()> again = [&] {
    since = 0;
    if (completed == 10'000) return loop().stop();
    loop().call_soon([&] { again(); });
  };
  loop().call_soon([&] { again(); });
  loop().run_forever();
  EXPECT_EQ(completed, 10'000);
  EXPECT_LE(longest, bound);
}

}  // namespace
}  // namespace ouro
