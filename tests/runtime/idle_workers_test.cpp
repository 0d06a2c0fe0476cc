// The parking of workers: what the word says, and a crowd of workers with deques that fall asleep and are woken. A lost
// wake-up would leave work lying while all sleep, and the test hanging; its time limit says so.
#include "idle_workers.hpp"

#include <gtest/gtest.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include <ouro/runtime/clock.hpp>
#include <ouro/runtime/thread_parker.hpp>

#include "steal_deque.hpp"

namespace ouro::detail {
namespace {

TEST(IdleWorkersTest, WakesOneSleeperUnlessSomebodySearches) {
  IdleWorkers idle(4);
  EXPECT_EQ(idle.wake_one(), -1);
  idle.fall_asleep(2, false);
  idle.fall_asleep(1, false);
  EXPECT_EQ(idle.sleepers(), 2U);
  EXPECT_EQ(idle.wake_one(), 1);
  EXPECT_EQ(idle.searchers(), 1U);
  EXPECT_EQ(idle.wake_one(), -1) << "worker 1 searches already";
  EXPECT_FALSE(idle.wake_up(1)) << "it was woken";
  EXPECT_TRUE(idle.found()) << "the last that searched, and 2 sleeps";
  EXPECT_EQ(idle.wake_one(), 2);
  EXPECT_FALSE(idle.found()) << "nobody sleeps";
  EXPECT_EQ(idle.sleepers(), 0U);
}

TEST(IdleWorkersTest, HalfOfThemSearch) {
  IdleWorkers idle(4);
  EXPECT_TRUE(idle.begin_search());
  EXPECT_TRUE(idle.begin_search());
  EXPECT_FALSE(idle.begin_search());
  EXPECT_FALSE(idle.found());
  EXPECT_TRUE(idle.begin_search());
  idle.fall_asleep(0, true);
  idle.fall_asleep(1, true);
  EXPECT_EQ(idle.searchers(), 0U);
  EXPECT_TRUE(idle.wake_up(0));
  EXPECT_FALSE(idle.wake_up(0));
  EXPECT_EQ(idle.sleepers(), 1U);
}

TEST(IdleWorkersTest, OneAloneSearchesToo) {
  IdleWorkers idle(1);
  EXPECT_TRUE(idle.begin_search());
  EXPECT_FALSE(idle.begin_search());
  EXPECT_FALSE(idle.found());
}

// ---- A crowd ----

// A piece of work, which makes others until its depth is zero.
struct Work {
  int depth = 0;
};

class Crowd {
 public:
  explicit Crowd(unsigned workers) : idle_(workers) {
    for (unsigned i = 0; i < workers; ++i) workers_.push_back(std::make_unique<Worker>());
    for (unsigned i = 0; i < workers; ++i) workers_[i]->thread = std::thread([this, i] { work(i); });
  }
  ~Crowd() {
    stop_.store(true);
    for (auto& worker : workers_) worker->parker.unpark();
    for (auto& worker : workers_) worker->thread.join();
  }

  // From outside, as through an injection queue.
  void give(int count, int depth) {
    pending_.fetch_add(count);
    {
      const std::scoped_lock lock(mutex_);
      for (int i = 0; i < count; ++i) injected_.push_back(new Work{depth});
      injected_size_.store(injected_.size());  // sequentially consistent: made visible
    }
    wake_one();
  }
  void wait() {
    while (pending_.load() != 0) std::this_thread::yield();
  }

  unsigned sleepers() const { return idle_.sleepers(); }
  std::uint64_t parks() const {
    std::uint64_t sum = 0;
    for (const auto& worker : workers_) sum += worker->parks.load();
    return sum;
  }

 private:
  struct Worker {
    StealDeque<Work> deque{2};
    ThreadParker parker;
    std::atomic<std::uint64_t> parks{0};
    std::thread thread;
  };

  void wake_one() {
    const int worker = idle_.wake_one();
    if (worker >= 0) workers_[static_cast<unsigned>(worker)]->parker.unpark();
  }

  bool anything() {
    if (injected_size_.load() != 0) return true;
    for (auto& worker : workers_) {
      if (!worker->deque.empty()) return true;
    }
    return false;
  }

  Work* look(unsigned me) {
    if (Work* work = workers_[me]->deque.pop()) return work;
    for (std::size_t i = 1; i < workers_.size(); ++i) {
      StealDeque<Work>& deque = workers_[(me + i) % workers_.size()]->deque;
      bool lost = true;
      while (lost) {
        if (Work* work = deque.steal(lost)) return work;
      }
    }
    if (injected_size_.load() == 0) return nullptr;
    const std::scoped_lock lock(mutex_);
    if (injected_.empty()) return nullptr;
    Work* work = injected_.back();
    injected_.pop_back();
    injected_size_.store(injected_.size());
    return work;
  }

  void run(unsigned me, Work* work) {
    for (int i = 0; i < 2 && work->depth > 0; ++i) {
      pending_.fetch_add(1);
      workers_[me]->deque.push(new Work{work->depth - 1});
      wake_one();
    }
    delete work;
    pending_.fetch_sub(1);
  }

  void work(unsigned me) {
    Worker& self = *workers_[me];
    bool searching = false;
    while (!stop_.load()) {
      Work* found = self.deque.pop();
      if (!found) {
        if (!searching) searching = idle_.begin_search();
        if (searching) found = look(me);
      }
      if (found) {
        if (searching) {
          searching = false;
          if (idle_.found() && anything()) wake_one();
        }
        run(me, found);
        continue;
      }
      idle_.fall_asleep(me, searching);
      searching = true;  // from when it is woken, or takes itself back
      if (!anything() && !stop_.load()) {
        self.parks.fetch_add(1);
        self.parker.park(TimePoint::max());
      }
      static_cast<void>(idle_.wake_up(me));
    }
  }

  IdleWorkers idle_;
  std::vector<std::unique_ptr<Worker>> workers_;
  std::atomic<std::int64_t> pending_{0};
  std::atomic<bool> stop_{false};
  std::mutex mutex_;
  std::vector<Work*> injected_;
  std::atomic<std::size_t> injected_size_{0};
};

TEST(IdleWorkersTest, NoWorkIsLeftLyingWhileAllSleep) {
  for (const unsigned workers : {1U, 2U, 4U, 16U}) {
    Crowd crowd(workers);
    for (int round = 0; round < 300; ++round) {
      crowd.give(1 + round % 3, round % 7);
      crowd.wait();
    }
    EXPECT_GT(crowd.parks(), 0U);
  }
}

TEST(IdleWorkersTest, ACrowdWithoutWorkFallsAsleep) {
  Crowd crowd(4);
  crowd.give(10, 3);
  crowd.wait();
  while (crowd.sleepers() != 4) std::this_thread::yield();
  const std::uint64_t parks = crowd.parks();
  for (int i = 0; i < 1000; ++i) std::this_thread::yield();
  // A wake-up that was latched may come once more to each.
  EXPECT_LE(crowd.parks(), parks + 4) << "somebody wakes for nothing";
}

}  // namespace
}  // namespace ouro::detail
