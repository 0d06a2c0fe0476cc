// Depth: long loops of awaits and long chains of them fit a stack of 8 MiB, in every build.
#include <gtest/gtest.h>
#include <pthread.h>

#include <memory>
#include <ranges>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <ouro/runtime/base_event_loop.hpp>
#include <ouro/runtime/exceptions.hpp>
#include <ouro/runtime/gather.hpp>
#include <ouro/runtime/map.hpp>
#include <ouro/runtime/sleep.hpp>

#include "support/loop_fixture.hpp"

namespace ouro {
namespace {

using namespace std::chrono_literals;

constexpr int depth = 100'000;

// Runs `body` with a loop, on a thread that has 8 MiB of stack, and closes the loop there.
template <class F>
void on_small_stack(F body) {
  const std::uint64_t before = test::live_frames();
  pthread_attr_t attributes;
  ASSERT_EQ(pthread_attr_init(&attributes), 0);
  ASSERT_EQ(pthread_attr_setstacksize(&attributes, std::size_t{8} << 20), 0);
  pthread_t thread{};
  const auto start = [](void* argument) -> void* {
    test::TestLoop loop;
    loop.set_exception_handler([](BaseEventLoop&, const ExceptionContext&) {});
    (*static_cast<F*>(argument))(loop);
    return nullptr;
  };
  ASSERT_EQ(pthread_create(&thread, &attributes, start, &body), 0);
  ASSERT_EQ(pthread_join(thread, nullptr), 0);
  pthread_attr_destroy(&attributes);
  EXPECT_EQ(test::live_frames(), before);
}

Coroutine<int> immediate(int i) { co_return i; }

void turns(test::TestLoop& loop, int n) {
  for (int i = 0; i < n; ++i) {
    loop.stop();
    loop.run_forever();
  }
}

enum class End { value, yield, error, wait };

// Sees that the levels are destroyed one after the other, the innermost first.
struct Order {
  int next = 0;
  bool right = true;
};
class Level {
 public:
  Level(Order* order, int n) : order_(order), n_(n) {}
  Level(const Level&) = delete;
  ~Level() {
    if (order_->next++ != n_) order_->right = false;
  }

 private:
  Order* order_;
  int n_;
};

Coroutine<int> chain(int n, End end, Order* order) {
  Level level(order, n);
  if (n > 0) co_return co_await chain(n - 1, end, order) + 1;
  if (end == End::error) throw std::runtime_error("at the bottom");
  if (end == End::yield) co_await sleep(0s);
  if (end == End::wait) co_await sleep(24h);
  co_return 0;
}

TEST(DepthTest, AMillionAwaitsThatCompleteAtOnceDoNotGrowTheStack) {
  on_small_stack([](test::TestLoop& loop) {
    auto sum = []() -> Coroutine<long> {
      long total = 0;
      for (int i = 0; i < 1'000'000; ++i) total += co_await immediate(i);
      co_return total;
    };
    EXPECT_EQ(loop.run_until_complete(sum), 499'999'500'000L);
  });
}

TEST(DepthTest, AMillionAwaitsOfDoneFuturesDoNotGrowTheStack) {
  on_small_stack([](test::TestLoop& loop) {
    Future<int> done = loop.create_future<int>();
    done.set_result(1);
    auto sum = [&]() -> Coroutine<long> {
      long total = 0;
      for (int i = 0; i < 1'000'000; ++i) total += co_await done;
      co_return total;
    };
    EXPECT_EQ(loop.run_until_complete(sum), 1'000'000L);
  });
}

TEST(DepthTest, AMillionImmediateChildrenDoNotGrowTheStack) {
  on_small_stack([](test::TestLoop& loop) {
    auto counts = []() -> Coroutine<> {
      const auto results = co_await map(immediate, std::views::iota(0, 1'000'000));
      EXPECT_EQ(results.back(), 999'999);
    };
    loop.run_until_complete(counts);
  });
}

TEST(DepthTest, AChainRuns) {
  on_small_stack([](test::TestLoop& loop) {
    for (const End end : {End::value, End::yield}) {
      Order order;
      EXPECT_EQ(loop.run_until_complete(chain(depth, end, &order)), depth);
      EXPECT_TRUE(order.right);
      EXPECT_EQ(order.next, depth + 1);
    }
  });
}

TEST(DepthTest, AChainFails) {
  on_small_stack([](test::TestLoop& loop) {
    Order order;
    EXPECT_THROW(loop.run_until_complete(chain(depth, End::error, &order)), std::runtime_error);
    EXPECT_TRUE(order.right);
    EXPECT_EQ(order.next, depth + 1);
  });
}

TEST(DepthTest, AChainIsCancelled) {
  on_small_stack([](test::TestLoop& loop) {
    Order order;
    Task<int> task = loop.create_task(chain(depth, End::wait, &order));
    turns(loop, 1);
    EXPECT_EQ(task.get_stack().size(), static_cast<std::size_t>(depth) + 1);
    EXPECT_TRUE(task.cancel());
    EXPECT_THROW(loop.run_until_complete(task), CancelledError);
    EXPECT_TRUE(task.cancelled());
    EXPECT_TRUE(order.right);
  });
}

TEST(DepthTest, AChainIsDestroyedWhileSuspended) {
  on_small_stack([](test::TestLoop& loop) {
    Order order;
    loop.create_task(chain(depth, End::wait, &order));
    turns(loop, 1);
    EXPECT_EQ(order.next, 0);
    loop.close();
    EXPECT_TRUE(order.right);
    EXPECT_EQ(order.next, depth + 1);
  });
}

TEST(DepthTest, AGatheredChainIsDestroyedWhileSuspended) {
  on_small_stack([](test::TestLoop& loop) {
    Order order;
    auto parent = [&]() -> Coroutine<> { co_await gather(chain(depth, End::wait, &order), immediate(1)); };
    loop.create_task(parent);
    turns(loop, 2);
    loop.close();
    EXPECT_TRUE(order.right);
    EXPECT_EQ(order.next, depth + 1);
  });
}

// ---- Tasks that await tasks ----

Coroutine<int> one_more(Task<int> inner) { co_return co_await inner + 1; }

Coroutine<int> innermost(Future<int> future) { co_return co_await future; }

// The last is the outermost. Each holds the next as its argument.
std::vector<Task<int>> tasks_in_a_row(test::TestLoop& loop, const Future<int>& future) {
  std::vector<Task<int>> tasks;
  tasks.push_back(loop.create_task(innermost(future)));
  for (int i = 1; i < depth; ++i) tasks.push_back(loop.create_task(one_more(tasks.back())));
  return tasks;
}

TEST(DepthTest, TasksInARowRun) {
  on_small_stack([](test::TestLoop& loop) {
    Future<int> future = loop.create_future<int>();
    std::vector<Task<int>> tasks = tasks_in_a_row(loop, future);
    turns(loop, 1);
    future.set_result(1);
    EXPECT_EQ(loop.run_until_complete(tasks.back()), depth);
  });
}

// B149
TEST(DepthTest, TasksInARowAreCancelledFromTheOuterEnd) {
  on_small_stack([](test::TestLoop& loop) {
    Future<int> future = loop.create_future<int>();
    std::vector<Task<int>> tasks = tasks_in_a_row(loop, future);
    turns(loop, 1);
    EXPECT_TRUE(tasks.back().cancel("far"));
    EXPECT_TRUE(future.cancelled());
    std::string message;
    try {
      loop.run_until_complete(tasks.back());
    } catch (const CancelledError& error) {
      message = error.message();
    }
    EXPECT_EQ(message, "far");
    for (const Task<int>& task : tasks) ASSERT_TRUE(task.cancelled());
  });
}

TEST(DepthTest, TasksInARowAreDestroyedWhileSuspended) {
  on_small_stack([](test::TestLoop& loop) {
    std::vector<Task<int>> tasks = tasks_in_a_row(loop, loop.create_future<int>());
    turns(loop, 1);
    loop.close();
    for (const Task<int>& task : tasks) ASSERT_TRUE(task.cancelled());
  });
}

TEST(DepthTest, TheLastHandleOfTasksInARowFreesThemAll) {
  on_small_stack([](test::TestLoop& loop) {
    Future<int> future = loop.create_future<int>();
    Task<int> outermost = tasks_in_a_row(loop, future).back();
    future.set_result(1);
    EXPECT_EQ(loop.run_until_complete(outermost), depth);
    outermost = {};
  });
}

// ---- Gathers in gathers ----

Coroutine<int> nest(int n, End end, Order* order) {
  Level level(order, n);
  if (n > 0) {
    const auto results = co_await gather(nest(n - 1, end, order));
    co_return std::get<0>(results) + 1;
  }
  if (end == End::error) throw std::runtime_error("at the bottom");
  if (end == End::wait) co_await sleep(24h);
  co_return 0;
}

TEST(DepthTest, GathersInGathersRunAndFail) {
  on_small_stack([](test::TestLoop& loop) {
    Order order;
    EXPECT_EQ(loop.run_until_complete(nest(depth, End::value, &order)), depth);
    EXPECT_TRUE(order.right);
    order = Order();
    EXPECT_THROW(loop.run_until_complete(nest(depth, End::error, &order)), std::runtime_error);
    EXPECT_TRUE(order.right);
  });
}

TEST(DepthTest, GathersInGathersAreDestroyedWhileSuspended) {
  on_small_stack([](test::TestLoop& loop) {
    Order order;
    loop.create_task(nest(depth, End::wait, &order));
    turns(loop, depth + 2);
    loop.close();
    EXPECT_TRUE(order.right);
    EXPECT_EQ(order.next, depth + 1);
  });
}

TEST(DepthTest, GathersInGathersAreCancelled) {
  on_small_stack([](test::TestLoop& loop) {
    Order order;
    Task<int> task = loop.create_task(nest(depth, End::wait, &order));
    turns(loop, depth + 2);
    EXPECT_TRUE(task.cancel());
    EXPECT_THROW(loop.run_until_complete(task), CancelledError);
    EXPECT_TRUE(order.right);
  });
}

// What recursed would overflow at this depth too; every level costs an exception.
constexpr int gathered_depth = depth / 4;

// A task that awaits a gather of a task that awaits a gather.
Coroutine<int> nest_tasks(test::TestLoop& loop, int n, Order* order) {
  Level level(order, n);
  if (n > 0) {
    Task<int> inner = loop.create_task(nest_tasks(loop, n - 1, order));
    const auto results = co_await gather(inner);
    co_return std::get<0>(results) + 1;
  }
  co_await sleep(24h);
  co_return 0;
}

TEST(DepthTest, GathersOfTasksInARowAreCancelled) {
  on_small_stack([](test::TestLoop& loop) {
    Order order;
    Task<int> task = loop.create_task(nest_tasks(loop, gathered_depth, &order));
    turns(loop, 2 * gathered_depth + 2);
    EXPECT_TRUE(task.cancel());
    EXPECT_THROW(loop.run_until_complete(task), CancelledError);
    EXPECT_TRUE(order.right);
    EXPECT_EQ(order.next, gathered_depth + 1);
  });
}

// Each gather fails because the future before it is cancelled, and cancels the next.
Coroutine<> link(Future<>& before, Future<>& next) {
  const auto wait = [](Future<>& future) -> Coroutine<> { co_await future; };
  co_await gather(before, wait(next));
}

TEST(DepthTest, GathersLinkedByFuturesFailOneAfterTheOther) {
  on_small_stack([](test::TestLoop& loop) {
    std::vector<Future<>> futures;
    for (int i = 0; i <= gathered_depth; ++i) futures.push_back(loop.create_future<>());
    std::vector<Task<>> tasks;
    for (std::size_t i = 0; i < gathered_depth; ++i)
      tasks.push_back(loop.create_task(link(futures[i], futures[i + 1])));
    turns(loop, 4);
    EXPECT_TRUE(futures[0].cancel());
    turns(loop, 4);
    for (const Task<>& task : tasks) ASSERT_TRUE(task.cancelled());
  });
}

}  // namespace
}  // namespace ouro
