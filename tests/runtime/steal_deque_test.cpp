// The deque of a worker: in the hands of its owner, and with thieves at the other end.
#include "steal_deque.hpp"

#include <gtest/gtest.h>

#include <atomic>
#include <cstddef>
#include <thread>
#include <vector>

namespace ouro::detail {
namespace {

struct Item {
  std::atomic<int> taken{0};
};

Item* steal_from(StealDeque<Item>& deque) {
  for (;;) {
    bool lost = false;
    if (Item* item = deque.steal(lost)) return item;
    if (!lost) return nullptr;
  }
}

TEST(StealDequeTest, TheOwnerTakesTheNewestAndAThiefTheOldest) {
  StealDeque<Item> deque(4);
  std::vector<Item> items(6);
  EXPECT_TRUE(deque.empty());
  EXPECT_EQ(deque.pop(), nullptr);
  EXPECT_EQ(steal_from(deque), nullptr);
  for (Item& item : items) deque.push(&item);
  EXPECT_EQ(deque.size(), 6U);
  EXPECT_EQ(deque.pop(), &items[5]);
  EXPECT_EQ(steal_from(deque), &items[0]);
  EXPECT_EQ(deque.pop(), &items[4]);
  EXPECT_EQ(steal_from(deque), &items[1]);
  EXPECT_EQ(deque.pop(), &items[3]);
  EXPECT_FALSE(deque.empty());
  EXPECT_EQ(deque.pop(), &items[2]);
  EXPECT_TRUE(deque.empty());
  EXPECT_EQ(deque.pop(), nullptr);
  deque.push(&items[0]);
  EXPECT_EQ(steal_from(deque), &items[0]);
  EXPECT_EQ(deque.pop(), nullptr);
}

TEST(StealDequeTest, GrowsAndGoesRound) {
  StealDeque<Item> deque(2);
  std::vector<Item> items(1000);
  std::size_t oldest = 0;
  std::size_t next = 0;
  for (int round = 0; round < 200; ++round) {
    for (int i = 0; i < 5; ++i) deque.push(&items[next++ % items.size()]);
    for (int i = 0; i < 3; ++i) ASSERT_EQ(steal_from(deque), &items[oldest++ % items.size()]);
  }
  EXPECT_EQ(deque.size(), 400U);
  while (Item* item = deque.pop()) ASSERT_EQ(item, &items[--next % items.size()]);
  EXPECT_EQ(next, oldest);
}

// Whatever the owner pushes is taken once: it pops some of it, thieves steal the rest. Tiny, so that it is often empty,
// holds one element, or has to grow.
void race(int thieves, int rounds, int burst) {
  StealDeque<Item> deque(2);
  std::vector<Item> items(static_cast<std::size_t>(rounds * burst));
  std::atomic<bool> done{false};
  std::atomic<int> stolen{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < thieves; ++i) {
    threads.emplace_back([&] {
      while (!done.load(std::memory_order_acquire) || !deque.empty()) {
        bool lost = false;
        if (Item* item = deque.steal(lost)) {
          item->taken.fetch_add(1, std::memory_order_relaxed);
          stolen.fetch_add(1, std::memory_order_relaxed);
        } else if (!lost) {
          std::this_thread::yield();
        }
      }
    });
  }
  int popped = 0;
  std::size_t next = 0;
  for (int round = 0; round < rounds; ++round) {
    for (int i = 0; i < burst; ++i) deque.push(&items[next++]);
    for (int i = 0; i < burst - round % 2; ++i) {
      if (Item* item = deque.pop()) {
        item->taken.fetch_add(1, std::memory_order_relaxed);
        ++popped;
      }
    }
    if (round % 64 == 0) std::this_thread::yield();
  }
  while (Item* item = deque.pop()) {
    item->taken.fetch_add(1, std::memory_order_relaxed);
    ++popped;
  }
  done.store(true, std::memory_order_release);
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(popped + stolen.load(), rounds * burst);
  for (const Item& item : items) ASSERT_EQ(item.taken.load(), 1);
}

TEST(StealDequeTest, EveryElementIsTakenOnce) {
  for (const int thieves : {1, 2, 3}) {
    for (const int burst : {1, 2, 7}) race(thieves, 20'000, burst);
  }
}

}  // namespace
}  // namespace ouro::detail
