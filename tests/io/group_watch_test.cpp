// The watch of group_watch.hpp, which every test of several loops has: it notices a worker that nobody wakes.
#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <string>
#include <thread>
#include <vector>

#include <ouro/ouro.hpp>

// The library's own, for faults that no program can make.
#include "../../runtime/src/worker.hpp"
#include "support/group.hpp"

namespace ouro {
namespace {

using namespace std::chrono_literals;
using test::GroupsOfAnySize;
using test::GroupWatch;

INSTANTIATE_TEST_SUITE_P(Workers, GroupsOfAnySize, testing::Values(2U, 4U, 16U), testing::PrintToStringParamName());

// Watches closely.
class Closely {
 public:
  Closely() { GroupWatch::set_bounds({.period = 10ms, .quiet = 50ms, .searching = 200ms}); }
  ~Closely() { GroupWatch::set_bounds({}); }
  Closely(const Closely&) = delete;
};

Coroutine<> run_once(std::atomic<bool>& ran) {
  ran = true;
  co_return;
}

// Holds this worker's thread until another one has taken the task, or the watch has seen that nobody does.
void wait_for_either(const std::atomic<bool>& ran) {
  while (!ran && !GroupWatch::any_fault()) std::this_thread::yield();
}

void expect_fault(const std::string& part) {
  const std::vector<std::string> faults = GroupWatch::take_faults();
  ASSERT_EQ(faults.size(), 1U);
  EXPECT_NE(faults.front().find(part), std::string::npos) << faults.front();
  EXPECT_NE(faults.front().find("1 in its deque"), std::string::npos) << faults.front();
}

// Until all others sleep, and have looked for the second time, that is, for longer than 5 ms (group_turns.cpp).
void wait_until_all_sleep(detail::WorkerGroup& group) {
  const auto looks = [&group] {
    std::uint64_t sum = 0;
    for (const auto& worker : group.workers) sum += worker->steal_attempts.get();
    return sum;
  };
  std::uint64_t before = looks();
  for (auto since = std::chrono::steady_clock::now(); std::chrono::steady_clock::now() - since < 20ms;) {
    std::this_thread::yield();
    if (group.idle.sleepers() == group.size - 1 && looks() == before) continue;
    before = looks();
    since = std::chrono::steady_clock::now();
  }
}

// Who sleeps may wake up for another reason, and take the task: then once more.
template <class Suppress>
Coroutine<> hide_work(Suppress suppress) {
  while (!GroupWatch::any_fault()) {
    std::atomic<bool> ran{false};
    detail::WorkerGroup& group = *detail::group_of(current_loop());
    wait_until_all_sleep(group);
    Task<> task = suppress(group, run_once(ran));
    wait_for_either(ran);
    group.work_visible();
    co_await task;
  }
}

TEST_P(GroupsOfAnySize, ASearcherThatLeavesWithoutALookIsNoticed) {
  const Closely closely;
  run([]() -> Coroutine<> {
    co_await hide_work([](detail::WorkerGroup& group, Coroutine<> work) {
      EXPECT_TRUE(group.idle.begin_search());
      Task<> task = spawn(std::move(work));  // wakes nobody: there is one who searches
      EXPECT_TRUE(group.idle.found());       // and who should look now whether there is more
      return task;
    });
  });
  expect_fault("and nobody searches");
}

TEST_P(GroupsOfAnySize, ASearcherThatNeverSearchesIsNoticed) {
  const Closely closely;
  run([]() -> Coroutine<> {
    detail::WorkerGroup* lost_in = nullptr;
    co_await hide_work([&lost_in](detail::WorkerGroup& group, Coroutine<> work) {
      if (!lost_in) group.idle.begin_search();
      lost_in = &group;
      return spawn(std::move(work));
    });
    static_cast<void>(lost_in->idle.found());
  });
  expect_fault("though somebody seems to search");
}

TEST_P(GroupsOfAnySize, WhoSleepsBesideNothingIsNotAccused) {
  const Closely closely;
  run([]() -> Coroutine<> {
    std::atomic<bool> ran{false};
    co_await sleep(200ms);
    // A worker that is busy for long, and work that is pinned to it.
    Task<> pinned = current_loop().create_task(run_once(ran));
    const auto until = std::chrono::steady_clock::now() + 200ms;
    while (std::chrono::steady_clock::now() < until) std::this_thread::yield();
    co_await pinned;
  });
  EXPECT_FALSE(GroupWatch::any_fault());
}

}  // namespace
}  // namespace ouro
