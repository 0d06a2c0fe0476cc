// The memory of the checker against the litmus tests of the literature: each must show exactly the outcomes that C++20
// allows. What is not offered could hide a bug of the library; what is offered too much would report one that is not.
#include <atomic>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include <model/checker.hpp>
#include <ouro/runtime/detail/atomic.hpp>

#include "barrier.hpp"

namespace {

using ouro::detail::Atomic;
using ouro::model::explore;
using ouro::model::fence;
using ouro::model::Options;
using ouro::model::record;
using Outcomes = std::set<std::vector<int>>;

constexpr auto relaxed = std::memory_order_relaxed;
constexpr auto acquire = std::memory_order_acquire;
constexpr auto release = std::memory_order_release;
constexpr auto acq_rel = std::memory_order_acq_rel;
constexpr auto seq_cst = std::memory_order_seq_cst;

Options unbounded() {
  Options options;
  options.preemptions = 20;
  return options;
}

// All outcomes, without a bound that matters.
Outcomes outcomes_of(const std::function<void()>& program) {
  const auto report = explore(unbounded(), program);
  EXPECT_FALSE(report.failed) << report.summary();
  EXPECT_TRUE(report.complete);
  return report.outcomes;
}

// Runs the functions as threads and waits for them.
template <class... F>
void in_threads(F... functions) {
  std::vector<std::thread> threads;
  threads.reserve(sizeof...(F));
  (threads.emplace_back(functions), ...);
  for (std::thread& thread : threads) thread.join();
}

// ---- Store buffering (Dekker): may both threads miss the other's store? ----

Outcomes store_buffering(std::memory_order stores, std::memory_order loads, bool fences, bool second_fence = true) {
  return outcomes_of([=] {
    Atomic<int> x{0}, y{0};
    int a = 0, b = 0;
    in_threads(
        [&] {
          x.store(1, stores);
          if (fences) fence(seq_cst);
          a = y.load(loads);
        },
        [&] {
          y.store(1, stores);
          if (fences && second_fence) fence(seq_cst);
          b = x.load(loads);
        });
    record({a, b});
  });
}

const Outcomes all_of_two{{0, 0}, {0, 1}, {1, 0}, {1, 1}};
const Outcomes not_both_missed{{0, 1}, {1, 0}, {1, 1}};

TEST(Litmus, StoreBufferingIsForbiddenBySeqCstAlone) {
  EXPECT_EQ(all_of_two, store_buffering(relaxed, relaxed, false));
  EXPECT_EQ(all_of_two, store_buffering(release, acquire, false));
  EXPECT_EQ(all_of_two, store_buffering(seq_cst, acquire, false));
  EXPECT_EQ(all_of_two, store_buffering(release, seq_cst, false));
  EXPECT_EQ(not_both_missed, store_buffering(seq_cst, seq_cst, false));
}

TEST(Litmus, StoreBufferingIsForbiddenByTwoSeqCstFences) {
  EXPECT_EQ(not_both_missed, store_buffering(relaxed, relaxed, true));
  EXPECT_EQ(all_of_two, store_buffering(relaxed, relaxed, true, false));
}

TEST(Litmus, StoreBufferingWithAFenceOnOneSideAndSeqCstOnTheOther) {
  EXPECT_EQ(not_both_missed, store_buffering(seq_cst, seq_cst, true, false));
}

// A barrier that makes all threads execute a fence does for both.
TEST(Litmus, StoreBufferingWithAHeavyBarrierOnOneSide) {
  const auto outcomes = [](bool barrier) {
    return outcomes_of([=] {
      Atomic<int> x{0}, y{0};
      int a = 0, b = 0;
      in_threads(
          [&] {
            x.store(1, release);
            a = y.load(relaxed);
          },
          [&] {
            y.store(1, relaxed);
            if (barrier) ouro::detail::heavy_barrier();
            b = x.load(relaxed);
          });
      record({a, b});
    });
  };
  EXPECT_EQ(outcomes(false), (Outcomes{{0, 0}, {0, 1}, {1, 0}, {1, 1}}));
  EXPECT_EQ(outcomes(true), (Outcomes{{0, 1}, {1, 0}, {1, 1}}));
}

// It orders nothing else: who reads what was stored before it does not know what came before that.
TEST(Litmus, AHeavyBarrierReleasesNothing) {
  const auto report = explore(unbounded(), [] {
    int plain = 0;
    Atomic<int> x{0};
    in_threads(
        [&] {
          plain = 1;
          x.store(1, relaxed);
        },
        [&] {
          ouro::detail::heavy_barrier();
          if (x.load(relaxed) == 1) record({plain});
        });
  });
  EXPECT_TRUE(report.failed);
}

TEST(Litmus, StoreBufferingWithExchanges) {
  const auto exchanges = [](std::memory_order order) {
    return outcomes_of([=] {
      Atomic<int> x{0}, y{0};
      int a = 0, b = 0;
      in_threads(
          [&] {
            x.exchange(1, order);
            a = y.load(order == acq_rel ? acquire : seq_cst);
          },
          [&] {
            y.exchange(1, order);
            b = x.load(order == acq_rel ? acquire : seq_cst);
          });
      record({a, b});
    });
  };
  EXPECT_EQ(all_of_two, exchanges(acq_rel));
  EXPECT_EQ(not_both_missed, exchanges(seq_cst));
}

// ---- Message passing ----

Outcomes message_passing(std::memory_order stores, std::memory_order loads, std::memory_order before = relaxed,
                         std::memory_order behind = relaxed) {
  return outcomes_of([=] {
    Atomic<int> data{0}, flag{0};
    int a = 0, b = 0;
    in_threads(
        [&] {
          data.store(1, relaxed);
          if (before != relaxed) fence(before);
          flag.store(1, stores);
        },
        [&] {
          a = flag.load(loads);
          if (behind != relaxed) fence(behind);
          b = data.load(relaxed);
        });
    record({a, b});
  });
}

TEST(Litmus, MessagePassing) {
  const Outcomes passed{{0, 0}, {0, 1}, {1, 1}};
  EXPECT_EQ(passed, message_passing(release, acquire));
  EXPECT_EQ(passed, message_passing(seq_cst, seq_cst));
  EXPECT_EQ(passed, message_passing(relaxed, relaxed, release, acquire));
  EXPECT_EQ(passed, message_passing(release, relaxed, relaxed, acquire));
  EXPECT_EQ(passed, message_passing(relaxed, acquire, release, relaxed));
  EXPECT_EQ(passed, message_passing(relaxed, relaxed, seq_cst, seq_cst));
  EXPECT_EQ(all_of_two, message_passing(relaxed, acquire));
  EXPECT_EQ(all_of_two, message_passing(release, relaxed));
  EXPECT_EQ(all_of_two, message_passing(relaxed, relaxed, acquire, acquire));
  EXPECT_EQ(all_of_two, message_passing(relaxed, relaxed, release, release));
}

// ---- Independent reads of independent writes: do two readers agree on the order? ----

bool readers_disagree(std::memory_order stores, std::memory_order loads, bool fences = false) {
  const Outcomes seen = outcomes_of([=] {
    Atomic<int> x{0}, y{0};
    int a = 0, b = 0, c = 0, d = 0;
    in_threads([&] { x.store(1, stores); }, [&] { y.store(1, stores); },
               [&] {
                 a = x.load(loads);
                 if (fences) fence(seq_cst);
                 b = y.load(loads);
               },
               [&] {
                 c = y.load(loads);
                 if (fences) fence(seq_cst);
                 d = x.load(loads);
               });
    record({a, b, c, d});
  });
  EXPECT_EQ(seen.size(), seen.count({1, 0, 1, 0}) != 0 ? 16U : 15U);
  return seen.count({1, 0, 1, 0}) != 0;
}

TEST(Litmus, IndependentReadsOfIndependentWrites) {
  EXPECT_TRUE(readers_disagree(relaxed, relaxed));
  EXPECT_TRUE(readers_disagree(release, acquire));
  EXPECT_FALSE(readers_disagree(seq_cst, seq_cst));
  EXPECT_TRUE(readers_disagree(seq_cst, acquire));
  EXPECT_FALSE(readers_disagree(release, seq_cst));  // since C++20: what the loads have seen orders them
  EXPECT_FALSE(readers_disagree(relaxed, relaxed, true));
}

// ---- Coherence ----

TEST(Litmus, ReadsOfOneLocationDoNotGoBack) {
  const Outcomes seen = outcomes_of([] {
    Atomic<int> x{0};
    int a = 0, b = 0;
    in_threads(
        [&] {
          x.store(1, relaxed);
          x.store(2, relaxed);
        },
        [&] {
          a = x.load(relaxed);
          b = x.load(relaxed);
        });
    record({a, b});
  });
  EXPECT_EQ((Outcomes{{0, 0}, {0, 1}, {0, 2}, {1, 1}, {1, 2}, {2, 2}}), seen);
}

TEST(Litmus, TwoReadersAgreeOnTheOrderOfOneLocation) {
  const Outcomes seen = outcomes_of([] {
    Atomic<int> x{0};
    int a = 0, b = 0, c = 0, d = 0;
    in_threads([&] { x.store(1, relaxed); }, [&] { x.store(2, relaxed); },
               [&] {
                 a = x.load(relaxed);
                 b = x.load(relaxed);
               },
               [&] {
                 c = x.load(relaxed);
                 d = x.load(relaxed);
               });
    record({a, b, c, d});
  });
  EXPECT_EQ(0U, seen.count({1, 2, 2, 1}));
  EXPECT_EQ(0U, seen.count({2, 1, 1, 2}));
  EXPECT_EQ(1U, seen.count({1, 2, 1, 2}));
  EXPECT_EQ(1U, seen.count({2, 1, 2, 1}));
}

// 2+2W: the modification orders need not be the order in which the stores were executed.
TEST(Litmus, StoresToTwoLocationsMayCross) {
  const auto crossing = [](std::memory_order order) {
    return outcomes_of([=] {
      Atomic<int> x{0}, y{0};
      in_threads(
          [&] {
            x.store(1, order);
            y.store(2, order);
          },
          [&] {
            y.store(1, order);
            x.store(2, order);
          });
      record({x.load(relaxed), y.load(relaxed)});
    });
  };
  EXPECT_EQ((Outcomes{{1, 1}, {1, 2}, {2, 1}, {2, 2}}), crossing(relaxed));
  EXPECT_EQ((Outcomes{{1, 1}, {1, 2}, {2, 1}, {2, 2}}), crossing(release));
  EXPECT_EQ((Outcomes{{1, 2}, {2, 1}, {2, 2}}), crossing(seq_cst));
}

// Load buffering would need an operation that reads what has not been executed: not offered, as in RC11.
TEST(Litmus, LoadBufferingIsNotOffered) {
  const Outcomes seen = outcomes_of([] {
    Atomic<int> x{0}, y{0};
    int a = 0, b = 0;
    in_threads(
        [&] {
          a = x.load(relaxed);
          y.store(1, relaxed);
        },
        [&] {
          b = y.load(relaxed);
          x.store(1, relaxed);
        });
    record({a, b});
  });
  EXPECT_EQ((Outcomes{{0, 0}, {0, 1}, {1, 0}}), seen);
}

// ---- Read-modify-writes ----

TEST(Litmus, AdditionsAreNotLost) {
  const Outcomes seen = outcomes_of([] {
    Atomic<int> x{0};
    const auto add = [&] {
      x.fetch_add(1, relaxed);
      x.fetch_add(1, relaxed);
    };
    in_threads(add, add);
    record({x.load(relaxed)});
  });
  EXPECT_EQ((Outcomes{{4}}), seen);
}

TEST(Litmus, OneCompareExchangeWins) {
  const Outcomes seen = outcomes_of([] {
    Atomic<int> x{0};
    int won = 0;
    Atomic<int> wins{0};
    const auto take = [&] {
      int expected = 0;
      if (x.compare_exchange_strong(expected, 1, relaxed, relaxed)) wins.fetch_add(1, relaxed);
    };
    in_threads(take, take, take);
    won = wins.load(relaxed);
    record({won});
  });
  EXPECT_EQ((Outcomes{{1}}), seen);
}

// A read-modify-write may read a store that is not the newest, as long as nothing comes between.
TEST(Litmus, AReadModifyWriteMayComeBeforeANewerStore) {
  const Outcomes seen = outcomes_of([] {
    Atomic<int> x{0}, y{0};
    int flag = 0, old = 0;
    in_threads(
        [&] {
          x.store(10, relaxed);
          y.store(1, relaxed);
        },
        [&] {
          flag = y.load(relaxed);
          old = x.fetch_add(1, relaxed);
        });
    record({flag, old, x.load(relaxed)});
  });
  EXPECT_EQ((Outcomes{{0, 0, 10}, {0, 10, 11}, {1, 0, 10}, {1, 10, 11}}), seen);
}

// ---- Release sequences ----

// flag: 1 released, then `between`, then whoever reads what came of it looks at the data.
bool data_is_missed(const std::function<void(Atomic<int>&)>& same_thread,
                    const std::function<void(Atomic<int>&)>& other_thread, int found) {
  const Outcomes seen = outcomes_of([&] {
    Atomic<int> data{0}, flag{0};
    int a = 0, b = 0;
    in_threads(
        [&] {
          data.store(1, relaxed);
          flag.store(1, release);
          if (same_thread) same_thread(flag);
        },
        [&] {
          if (other_thread) other_thread(flag);
        },
        [&] {
          a = flag.load(acquire);
          b = data.load(relaxed);
        });
    record({a, b});
  });
  EXPECT_EQ(1U, seen.count({found, 1}));
  return seen.count({found, 0}) != 0;
}

TEST(Litmus, ReleaseSequences) {
  const auto add = [](Atomic<int>& flag) { flag.fetch_add(2, relaxed); };
  const auto store = [](Atomic<int>& flag) { flag.store(3, relaxed); };
  const auto add_if_set = [](Atomic<int>& flag) {
    int one = 1;
    flag.compare_exchange_strong(one, 3, relaxed, relaxed);
  };
  EXPECT_FALSE(data_is_missed(add, nullptr, 3));
  EXPECT_FALSE(data_is_missed(nullptr, add_if_set, 3));
  // Since C++20 a relaxed store ends the sequence, also one of the same thread.
  EXPECT_TRUE(data_is_missed(store, nullptr, 3));
  EXPECT_TRUE(data_is_missed(nullptr, store, 3));
}

// ---- The order of seq_cst operations and the rest ----

// C++20 lets seq_cst operations be seen in an order that happens-before through weaker ones of them contradicts
// ([atomics.order] note 6; P0668): the first thread's seq_cst store is released to the second by way of itself.
TEST(Litmus, SeqCstFollowsStronglyHappensBeforeOnly) {
  const Outcomes seen = outcomes_of([] {
    Atomic<int> x{0}, y{0};
    int a = 0, b = 0, c = 0;
    in_threads(
        [&] {
          x.store(1, seq_cst);
          y.store(1, release);
        },
        [&] {
          b = y.fetch_add(1, seq_cst);
          c = y.load(relaxed);
        },
        [&] {
          y.store(3, seq_cst);
          a = x.load(seq_cst);
        });
    record({a, b, c});
  });
  EXPECT_EQ(1U, seen.count({0, 1, 3}));
}

TEST(Litmus, AFenceBetweenReadsOrdersThem) {
  // Read-to-write causality: the second thread has seen x, so who is behind its fence must not miss it.
  const auto causality = [](bool fences) {
    return outcomes_of([=] {
      Atomic<int> x{0}, y{0};
      int a = 0, b = 0, c = 0;
      in_threads([&] { x.store(1, relaxed); },
                 [&] {
                   a = x.load(relaxed);
                   if (fences) fence(seq_cst);
                   b = y.load(relaxed);
                 },
                 [&] {
                   y.store(1, relaxed);
                   if (fences) fence(seq_cst);
                   c = x.load(relaxed);
                 });
      record({a, b, c});
    });
  };
  EXPECT_EQ(1U, causality(false).count({1, 0, 0}));
  EXPECT_EQ(0U, causality(true).count({1, 0, 0}));
}

// Peterson's lock holds with seq_cst, and not with less.
bool both_inside(std::memory_order stores, std::memory_order loads) {
  const auto report = explore(unbounded(), [=] {
    Atomic<int> wants0{0}, wants1{0}, turn{0};
    int inside = 0;
    const auto enter = [&](Atomic<int>& mine, Atomic<int>& other, int me) {
      mine.store(1, stores);
      turn.store(1 - me, stores);
      if (other.load(loads) != 0 && turn.load(loads) != me) return;
      ++inside;
      mine.store(0, release);
    };
    in_threads([&] { enter(wants0, wants1, 0); }, [&] { enter(wants1, wants0, 1); });
  });
  return report.failed;
}

TEST(Litmus, PetersonsLock) {
  EXPECT_FALSE(both_inside(seq_cst, seq_cst));
  EXPECT_TRUE(both_inside(release, acquire));
}

}  // namespace
