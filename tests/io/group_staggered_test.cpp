// Races whose attempts run on several workers: one winner, and nothing of the losers is left.
#include <gmock/gmock.h>

#include <atomic>
#include <chrono>
#include <exception>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <ouro/ouro.hpp>

#include "support/group.hpp"

namespace ouro {
namespace {

using namespace std::chrono_literals;

class GroupStaggered : public test::GroupsOfAnySize {};
INSTANTIATE_TEST_SUITE_P(Workers, GroupStaggered, testing::Values(1U, 2U, 4U));

// What an attempt gives: it counts how many of it are alive, wherever they are made and destroyed.
class Socket {
 public:
  explicit Socket(std::atomic<int>& open) : open_(&open) { ++open; }
  Socket(Socket&& other) noexcept : open_(std::exchange(other.open_, nullptr)) {}
  Socket& operator=(Socket&&) = delete;
  ~Socket() {
    if (open_) --*open_;
  }

 private:
  std::atomic<int>* open_;
};

struct Sea {
  std::atomic<int> open{0};
  test::Ledger ledger;
};

// Yields so many times, then gives a socket, or fails.
auto attempt(Sea& sea, int yields, bool fails) {
  return [&sea, yields, fails]() -> Coroutine<Socket> {
    test::Ledger::Entry entry(sea.ledger);
    Socket socket(sea.open);
    for (int i = 0; i < yields; ++i) co_await sleep(0s);
    if (fails) throw std::runtime_error("refused");
    entry.finish();
    co_return std::move(socket);
  };
}
using Attempts = std::vector<decltype(attempt(std::declval<Sea&>(), 0, false))>;

Attempts attempts(Sea& sea, int count, int seed) {
  Attempts made;
  for (int i = 0; i < count; ++i) made.push_back(attempt(sea, (seed * 7 + i * 3) % 11, (seed + i) % 4 == 0));
  return made;
}

// T32: whichever end at once, and wherever.
TEST_P(GroupStaggered, OneWinsAndTheOthersAreClosed) {
  const auto main = []() -> Coroutine<> {
    for (int round = 0; round < 300; ++round) {
      Sea sea;
      {
        const OptionalDelay delay = std::chrono::microseconds(round % 3 == 0 ? 0 : round);
        auto result = co_await staggered_race(attempts(sea, 8, round), delay);
        EXPECT_TRUE(result.winner_index && result.winner_result);
        EXPECT_EQ(sea.open, 1);
        EXPECT_EQ(sea.ledger.open(), 0);
        EXPECT_GE(static_cast<long>(result.exceptions.size()), sea.ledger.begun());  // some never ran a line
        EXPECT_EQ(result.exceptions[*result.winner_index], nullptr);
        std::size_t others = 0;
        for (const std::exception_ptr& error : result.exceptions) others += error ? 1U : 0U;
        EXPECT_EQ(others + 1, result.exceptions.size());
      }
      EXPECT_EQ(sea.open, 0);
    }
  };
  run(main());
}

// B366
TEST_P(GroupStaggered, AllErrorsAreTold) {
  const auto main = []() -> Coroutine<> {
    for (int round = 0; round < 100; ++round) {
      Sea sea;
      Attempts made;
      for (int i = 0; i < 8; ++i) made.push_back(attempt(sea, (round + i * 5) % 9, true));
      OptionalDelay delay;
      if (round % 2 == 0) delay = 0s;
      const auto result = co_await staggered_race(std::move(made), delay);
      EXPECT_FALSE(result.winner_index || result.winner_result);
      EXPECT_EQ(result.exceptions.size(), 8U);
      for (const auto& error : result.exceptions) EXPECT_EQ(test::describe(error), "exception: refused");
      EXPECT_EQ(sea.open, 0);
    }
  };
  run(main());
}

// B366: a cancellation at any moment.
TEST_P(GroupStaggered, ACancellationLeavesNothing) {
  const auto main = []() -> Coroutine<> {
    int cancelled = 0;
    for (int round = 0; round < 300; ++round) {
      Sea sea;
      {
        auto task = create_task(staggered_race(attempts(sea, 8, round), round % 2 == 0 ? 0us : 20us));
        for (int i = 0; i < round % 10; ++i) co_await sleep(0s);
        task.cancel();
        try {
          const auto result = co_await std::move(task);
          EXPECT_TRUE(result.winner_index);
        } catch (const CancelledError&) {
          ++cancelled;
        }
        EXPECT_EQ(sea.ledger.open(), 0);
      }
      EXPECT_EQ(sea.open, 0) << round;
    }
    EXPECT_GT(cancelled, 0);
  };
  run(main());
}

}  // namespace
}  // namespace ouro
