// Tasks that wait for each other through gathers: a cancellation reaches them all, ends, and lets them end.
#include <gtest/gtest.h>

#include <cstddef>
#include <utility>
#include <vector>

#include <ouro/runtime/gather.hpp>
#include <ouro/runtime/sleep.hpp>
#include <ouro/runtime/tasks.hpp>

#include "support/loop_fixture.hpp"

namespace ouro {
namespace {

using namespace std::chrono_literals;

class GatherRingsTest : public test::LoopTest {
 protected:
  // Task i waits for task i + 1 in a way of its own: for a gather of it, for a gather of a coroutine that awaits it, or
  // for itself.
  enum class Way { gather, gather_of_awaiter, await };

  static Coroutine<> await_it(Task<>& other) { co_await other; }
  static Coroutine<> wait(Task<>& other, Way way) {
    co_await sleep(0s);
    if (way == Way::await) {
      co_await other;
    } else if (way == Way::gather) {
      std::vector<Task<>> children;
      children.push_back(other);
      co_await gather(std::move(children));
    } else {
      co_await gather(await_it(other), await_it(other));
    }
  }

  void cancel_ring(const std::vector<Way>& ways) {
    std::vector<Task<>> tasks(ways.size());
    run([&]() -> Coroutine<> {
      for (std::size_t i = 0; i < ways.size(); ++i) {
        tasks[i] = loop.create_task(wait(tasks[(i + 1) % ways.size()], ways[i]));
      }
      for (int i = 0; i < 4; ++i) co_await sleep(0s);
      EXPECT_TRUE(tasks[0].cancel());
      for (std::size_t i = 0; i < 8 * ways.size(); ++i) co_await sleep(0s);
      for (Task<>& task : tasks) {
        EXPECT_TRUE(task.cancelled());
        EXPECT_GE(task.cancelling(), 1);
        EXPECT_LE(task.cancelling(), 3);  // by who asked, and by who waits for it
      }
    });
    tasks.clear();
  }
};

TEST_F(GatherRingsTest, OfTwo) {
  cancel_ring({Way::gather, Way::gather});
  cancel_ring({Way::gather, Way::await});
  cancel_ring({Way::await, Way::gather});
  cancel_ring({Way::gather_of_awaiter, Way::await});
  cancel_ring({Way::await, Way::gather_of_awaiter});
}

TEST_F(GatherRingsTest, OfThree) {
  const Way all[] = {Way::gather, Way::gather_of_awaiter, Way::await};
  for (const Way a : all) {
    for (const Way b : all) {
      if (a == Way::await && b == Way::await) continue;
      cancel_ring({a, b, Way::gather});
    }
  }
}

// A child that waits for its own parent.
TEST_F(GatherRingsTest, OfAChildAndItsParent) {
  Task<> parent;
  const auto child = [](Task<>& of) -> Coroutine<> { co_await of; };
  run([&]() -> Coroutine<> {
    parent = loop.create_task([&]() -> Coroutine<> { co_await gather(child(parent), child(parent)); });
    for (int i = 0; i < 4; ++i) co_await sleep(0s);
    EXPECT_TRUE(parent.cancel());
    for (int i = 0; i < 8; ++i) co_await sleep(0s);
    EXPECT_TRUE(parent.cancelled());
  });
  parent = {};
}

// Two ways down to the same gather are no ring: it is cancelled once, and what it makes of that is what both get.
TEST_F(GatherRingsTest, TwoWaysDownAreNoRing) {
  int caught = 0;
  const auto shared = [&]() -> Coroutine<int> {
    bool cancelled = false;
    try {
      co_await gather(sleep(24h), sleep(24h));
    } catch (const CancelledError&) {
      cancelled = true;
      ++caught;
    }
    co_return cancelled ? 7 : 0;
  };
  const auto wait = [](Task<int>& task) -> Coroutine<int> { co_return co_await task; };
  run([&]() -> Coroutine<> {
    Task<int> bottom = loop.create_task(shared());
    Task<int> left = loop.create_task(wait(bottom));
    Task<int> right = loop.create_task(wait(bottom));
    Task<> top = loop.create_task([&]() -> Coroutine<> {
      std::vector<Task<int>> both;
      both.push_back(left);
      both.push_back(right);
      co_await gather(std::move(both));
    });
    for (int i = 0; i < 4; ++i) co_await sleep(0s);
    EXPECT_TRUE(top.cancel());
    for (int i = 0; i < 8; ++i) co_await sleep(0s);
    EXPECT_EQ(caught, 1);
    EXPECT_EQ(bottom.result(), 7);
    EXPECT_EQ(left.result(), 7);
    EXPECT_EQ(right.result(), 7);
    EXPECT_TRUE(top.cancelled());
  });
}

}  // namespace
}  // namespace ouro
