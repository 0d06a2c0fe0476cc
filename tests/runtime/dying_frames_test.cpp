// By-value arguments whose destructors ask which task runs, or which there are: their own task is neither, for its
// frame is being destroyed.
#include <gtest/gtest.h>

#include <memory>
#include <ranges>
#include <stdexcept>
#include <utility>
#include <vector>

#include <ouro/runtime/gather.hpp>
#include <ouro/runtime/map.hpp>
#include <ouro/runtime/sleep.hpp>
#include <ouro/runtime/tasks.hpp>

#include "support/loop_fixture.hpp"

namespace ouro {
namespace {

using namespace std::chrono_literals;

// What destructors saw.
struct Seen {
  int destroyed = 0;
  int nobody = 0;            // no current task
  std::vector<AnyTask> all;  // handles that they kept
};

// As a tracing span, or a logger, might do.
class Span {
 public:
  explicit Span(Seen& seen) : seen_(&seen) {}
  Span(Span&& other) noexcept : seen_(std::exchange(other.seen_, nullptr)) {}
  ~Span() {
    if (!seen_) return;
    ++seen_->destroyed;
    if (AnyTask task = current_task()) {
      seen_->all.push_back(std::move(task));
    } else {
      ++seen_->nobody;
    }
    for (AnyTask& task : all_tasks()) seen_->all.push_back(std::move(task));
  }

 private:
  Seen* seen_;
};

Coroutine<int> work(int i, Span, bool yields, bool fails) {
  if (yields) co_await sleep(0s);
  if (fails) throw std::runtime_error("work");
  co_return i;
}

class DyingFramesTest : public test::LoopTest {
 protected:
  // Every handle that was kept is to a task that lives: the one that runs the test.
  void expect(int destroyed) {
    EXPECT_EQ(seen.destroyed, destroyed);
    for (const AnyTask& task : seen.all) EXPECT_EQ(task, main);
    forget();
  }
  // The last handle to a child may go, and its destructor see something too.
  void forget() {
    while (!seen.all.empty()) std::exchange(seen.all, {}).clear();
    seen = {};
  }
  Seen seen;
  AnyTask main;
};

TEST_F(DyingFramesTest, OfATaskThatNobodyHolds) {
  run([&]() -> Coroutine<> {
    main = current_task();
    for (const bool yields : {false, true}) {
      create_task(work(1, Span(seen), yields, false));
      co_await sleep(0s);
      co_await sleep(0s);
      EXPECT_EQ(seen.nobody, 1);
      expect(1);
    }
    create_task(work(1, Span(seen), true, true));
    co_await sleep(0s);
    co_await sleep(0s);
    take_reports();
    expect(1);
    main = {};
  });
}

TEST_F(DyingFramesTest, OfAGathersChildren) {
  run([&]() -> Coroutine<> {
    main = current_task();
    for (const bool yields : {false, true}) {
      std::vector<Coroutine<int>> children;
      for (int i = 0; i < 3; ++i) children.push_back(work(i, Span(seen), yields, false));
      const std::vector<int> results = co_await gather(std::move(children));
      EXPECT_EQ(results, (std::vector<int>{0, 1, 2}));
      EXPECT_GE(seen.destroyed, 1);  // those that were pending then are held
      EXPECT_EQ(seen.nobody, seen.destroyed);
      while (!seen.all.empty()) std::exchange(seen.all, {}).clear();
      EXPECT_EQ(seen.destroyed, 3);
      forget();
    }
    main = {};
  });
}

TEST_F(DyingFramesTest, OfChildrenThatNeverRan) {
  run([&]() -> Coroutine<> {
    main = current_task();
    std::vector<Coroutine<int>> children;
    for (int i = 0; i < 3; ++i) children.push_back(work(i, Span(seen), false, i == 0));
    bool failed = false;
    try {
      co_await gather(std::move(children));
    } catch (const std::runtime_error&) {
      failed = true;
    }
    EXPECT_TRUE(failed);
    EXPECT_GE(seen.destroyed, 1);
    while (!seen.all.empty()) std::exchange(seen.all, {}).clear();
    EXPECT_EQ(seen.destroyed, 3);
    forget();
    main = {};
  });
}

TEST_F(DyingFramesTest, OfAMapsChildren) {
  run([&]() -> Coroutine<> {
    main = current_task();
    const auto make = [&](int i) { return work(i, Span(seen), false, false); };
    const std::vector<int> results = co_await map(make, std::views::iota(0, 3));
    EXPECT_EQ(results.size(), 3U);
    expect(3);
    main = {};
  });
}

// A result whose assignment, into the vector of results, gets hold of the task.
std::vector<AnyTask>* kept = nullptr;
struct Grasping {
  int value = 0;
  Grasping() = default;
  explicit Grasping(int v) : value(v) {}
  Grasping(const Grasping&) = default;
  Grasping& operator=(const Grasping& other) noexcept {
    value = other.value;
    if (kept) kept->push_back(current_task());
    return *this;
  }
};
Coroutine<Grasping> grasping(int i, bool yields) {
  if (yields) co_await sleep(0s);
  co_return Grasping(i);
}

TEST_F(DyingFramesTest, OfAChildWhoseResultGetsHoldOfIt) {
  std::vector<AnyTask> handles;
  run([&]() -> Coroutine<> {
    for (const bool yields : {false, true}) {
      kept = &handles;
      std::vector<Coroutine<Grasping>> children;
      for (int i = 0; i < 3; ++i) children.push_back(grasping(i, yields));
      std::vector<Grasping> results = co_await gather(std::move(children));
      const auto make = [yields](int i) { return grasping(i, yields); };
      results = co_await map(make, std::views::iota(0, 3));
      kept = nullptr;
      EXPECT_EQ(results[2].value, 2);
      EXPECT_EQ(handles.size(), 6U);
      for (const AnyTask& handle : handles) EXPECT_TRUE(handle.done());
      handles.clear();
    }
  });
}

}  // namespace
}  // namespace ouro
