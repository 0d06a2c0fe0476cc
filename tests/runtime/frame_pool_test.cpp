// The pool behind frames, futures and callback handles: what it counts, what crosses threads, how frames lie.
#include <ouro/runtime/detail/frame_pool.hpp>

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <initializer_list>
#include <latch>
#include <set>
#include <thread>
#include <vector>

#include "support/child.hpp"

namespace ouro::detail {
namespace {

std::vector<void*> allocate_many(std::size_t count, std::size_t bytes) {
  std::vector<void*> frames(count);
  for (void*& frame : frames) {
    frame = allocate_frame(bytes);
    std::memset(frame, 0x5a, bytes);
  }
  return frames;
}

void free_all(const std::vector<void*>& frames, std::size_t bytes) {
  for (void* frame : frames) free_frame(frame, bytes);
}

TEST(FramePoolTest, CountsWhatIsAlive) {
  const std::uint64_t before = frames_alive();
  for (const std::size_t bytes : std::initializer_list<std::size_t>{1, 16, 128, 1000, 1024, 1025, 100'000}) {
    const std::vector<void*> frames = allocate_many(3000, bytes);
    EXPECT_EQ(frames_alive(), before + 3000) << bytes;
    EXPECT_EQ(std::set<void*>(frames.begin(), frames.end()).size(), 3000U);
    free_all(frames, bytes);
    EXPECT_EQ(frames_alive(), before) << bytes;
  }
}

TEST(FramePoolTest, EveryFrameIsAlignedAndThoseOfWholeCacheLinesBeginWithOne) {
  for (std::size_t bytes = 16; bytes <= 1024; bytes += 16) {
    const std::vector<void*> frames = allocate_many(100, bytes);
    for (void* frame : frames) {
      const std::size_t alignment = bytes % 64 == 0 && !OURO_ASAN ? 64 : 16;
      ASSERT_EQ(reinterpret_cast<std::uintptr_t>(frame) % alignment, 0U) << bytes;
    }
    free_all(frames, bytes);
  }
}

TEST(FramePoolTest, FramesDoNotOverlap) {
  constexpr std::size_t bytes = 112;
  std::vector<void*> frames = allocate_many(5000, bytes);
  std::sort(frames.begin(), frames.end());
  for (std::size_t i = 1; i < frames.size(); ++i) {
    ASSERT_GE(static_cast<char*>(frames[i]) - static_cast<char*>(frames[i - 1]), 112);
  }
  free_all(frames, bytes);
}

// Frames that one thread allocates and another frees come back to the first through the depot: the memory does not
// grow with the number of rounds.
TEST(FramePoolTest, FramesFreedOnAnotherThreadAreUsedAgain) {
  if (OURO_ASAN) GTEST_SKIP() << "frames come from the heap";
  constexpr std::size_t bytes = 208;
  const std::uint64_t before = frames_alive();
  std::set<void*> seen;
  std::thread([&] {
    for (int round = 0; round < 50; ++round) {
      const std::vector<void*> frames = allocate_many(2000, bytes);
      seen.insert(frames.begin(), frames.end());
      std::thread([&] { free_all(frames, bytes); }).join();
    }
  }).join();
  EXPECT_EQ(frames_alive(), before);
  EXPECT_LT(seen.size(), 6000U);
}

TEST(FramePoolTest, AThreadLeavesNothingBehind) {
  constexpr std::size_t bytes = 304;
  const std::uint64_t before = frames_alive();
  std::vector<void*> frames;
  std::thread([&] {
    frames = allocate_many(1500, bytes);
    for (std::size_t i = 0; i < 700; ++i) free_frame(frames[i], bytes);
    frames.erase(frames.begin(), frames.begin() + 700);
  }).join();
  EXPECT_EQ(frames_alive(), before + 800);
  free_all(frames, bytes);
  EXPECT_EQ(frames_alive(), before);
}

TEST(FramePoolTest, ACounterCountsTheAllocationsOfItsThread) {
  free_all(allocate_many(1200, 96), 96);
  const std::uint64_t before = frames_alive();
  {
    const FrameCounter counter;
    const std::vector<void*> small = allocate_many(600, 96);
    free_all(small, 96);
    const std::vector<void*> again = allocate_many(10, 96);
    EXPECT_EQ(counter.count(), 610U);
    std::thread([] { free_all(allocate_many(5, 96), 96); }).join();
    EXPECT_EQ(counter.count(), 610U);
    {
      const FrameCounter inner;
      free_all(allocate_many(3, 5000), 5000);
      EXPECT_EQ(inner.count(), 3U);
    }
    EXPECT_EQ(counter.count(), 613U);
    EXPECT_EQ(frames_alive(), before + 10);
    free_all(again, 96);
  }
  EXPECT_EQ(frames_alive(), before);
  const std::vector<void*> after = allocate_many(1200, 96);
  EXPECT_EQ(frames_alive(), before + 1200);
  free_all(after, 96);
}

TEST(FramePoolTest, ThreadsThatExchangeFramesLoseNone) {
  constexpr std::size_t bytes = 144;
  const std::uint64_t before = frames_alive();
  std::vector<std::vector<void*>> given(4);
  for (int round = 0; round < 20; ++round) {
    std::vector<std::thread> threads;
    for (std::size_t t = 0; t < 4; ++t) {
      threads.emplace_back([&given, t] {
        free_all(given[t], bytes);
        given[t] = allocate_many(700 + 100 * t, bytes);
      });
    }
    for (std::thread& thread : threads) thread.join();
    std::rotate(given.begin(), given.begin() + 1, given.end());
  }
  EXPECT_EQ(frames_alive(), before + 700 + 800 + 900 + 1000);
  for (const auto& frames : given) free_all(frames, bytes);
  EXPECT_EQ(frames_alive(), before);
}

// Objects of a thread that are destroyed after its pool.
struct Late {
  ~Late() {
    if (held) free_frame(held, 100);
    for (; allocations > 0; --allocations) free_frame(allocate_frame(100), 100);
    if (large) free_frame(large, 5000);
  }
  void* held = nullptr;
  void* large = nullptr;
  int allocations = 0;
};
thread_local Late late;

TEST(FramePoolTest, NothingIsLostBehindTheEndOfAThread) {
  const std::vector<void*> frames = allocate_many(5000, 100);
  std::thread([&] { free_all(frames, 100); }).join();  // the depot has whole magazines
  const std::uint64_t before = frames_alive();
  for (int i = 0; i < 4; ++i) {
    std::thread([] {
      late.allocations = 3;
      free_frame(allocate_frame(2000), 2000);
    }).join();
    EXPECT_EQ(frames_alive(), before);
    std::thread([] {
      late.held = nullptr;
      late.held = allocate_frame(100);
      late.large = allocate_frame(5000);
    }).join();
    EXPECT_EQ(frames_alive(), before);
  }
}

TEST(FramePoolTest, AForkedChildKnowsOfNoThreadButItsOwn) {
  if (OURO_TSAN) GTEST_SKIP() << "a child of several threads starts none there";
  std::latch ready(8);
  std::latch go(1);
  std::vector<std::thread> threads;
  for (int i = 0; i < 8; ++i) {
    threads.emplace_back([&] {
      free_all(allocate_many(10, 100), 100);
      ready.count_down();
      go.wait();
    });
  }
  ready.wait();
  const std::uint64_t before = frames_alive();
  EXPECT_TRUE(test::in_child([before] {
    for (int round = 0; round < 3; ++round) {
      std::vector<std::thread> own;
      for (int i = 0; i < 8; ++i) own.emplace_back([] { free_all(allocate_many(10, 100), 100); });
      for (std::thread& thread : own) thread.join();
    }
    return frames_alive() == before;
  }));
  go.count_down();
  for (std::thread& thread : threads) thread.join();
}

}  // namespace
}  // namespace ouro::detail
