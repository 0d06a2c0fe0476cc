// What the tables of cancellations share: a row says what an awaitable does when it is cancelled, and is checked four
// ways: cancelled before it starts, while it waits, in the turn in which what it waits for ends, and afterwards.
#pragma once

#include <gmock/gmock.h>

#include <array>
#include <atomic>
#include <chrono>
#include <coroutine>
#include <cstddef>
#include <exception>
#include <functional>
#include <future>
#include <memory>
#include <optional>
#include <semaphore>
#include <stop_token>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <ouro/ouro.hpp>

#include "support/group.hpp"

namespace ouro::test {

using namespace std::chrono_literals;

// What an awaitable waits for in the end: one future of the test's, which some wrap in a task; a future of another
// thread's; or a call on another thread, which waits at a gate.
struct World {
  Future<int> source = get_running_loop().create_future<int>();
  std::optional<Task<int>> inner;
  std::optional<AsCompleted<Future<int>>> all;
  std::optional<NextCompleted<Future<int>>> element;
  AsyncGenerator<int> generator;
  MapLimit limit{1};
  ConcurrentFuture<int> other = ConcurrentFuture<int>::create();
  std::optional<ThreadPoolExecutor> pool;
  std::counting_semaphore<> gate{0};
  std::atomic<int> begun{0};
  std::atomic<int> called{0};  // on other threads
  std::atomic<int> ended{0};   // of these
  bool ends = false;           // a sleep is to end
  bool asks = false;           // and to be cancelled in that turn
  bool taken = false;          // what the row's awaitable gives, where it matters

  std::shared_ptr<Executor> single;  // an executor of one thread
  std::pair<Socket, Socket> pair;
  Socket listener;
  std::vector<Socket> others;
  Address address;
  std::array<std::byte, 16> buffer{};
  std::string stuffed;  // what was sent before, until there was no room

  std::promise<int> promise;
  std::coroutine_handle<> elsewhere;  // another thread resumes it
  std::stop_source stop;
};

// A coroutine that waits for it.
inline Coroutine<int> awaits(World& world) {
  ++world.begun;
  co_return co_await world.source;
}

// What is called on another thread.
inline auto call(World& world) {
  return [&world] {
    ++world.called;
    ++world.begun;
    world.gate.acquire();
    ++world.ended;
    return 7;
  };
}

enum class Fate { pending, cancelled, done };
inline std::string name_of(Fate fate) {
  return fate == Fate::pending ? "pending" : fate == Fate::cancelled ? "cancelled" : "done";
}
template <class F>
inline Fate fate_of(const F& future) {
  return !future.done() ? Fate::pending : future.cancelled() ? Fate::cancelled : Fate::done;
}

inline void complete_source(World& world) { world.source.set_result(7); }
inline Fate fate_of_source(World& world) { return fate_of(world.source); }

// The call returns; its result is on its way.
inline void let_call_end(World& world) {
  world.gate.release();
  while (world.ended == 0) std::this_thread::yield();
}
inline Fate fate_of_call(World& world) { return world.ended != 0 ? Fate::done : Fate::pending; }

// The only thread of the pool is let go of: a call that waits behind begins, or never will.
inline void empty_pool(World& world) {
  world.gate.release(2);
  world.pool->shutdown();
}
struct Row {
  const char* name;
  std::function<Coroutine<>(World&)> use;
  Fate while_waiting;  // what became of the source after a cancellation
  std::function<void(World&)> prepare = [](World&) {};
  int coroutines = 0;  // or calls, that have begun when it waits
  std::function<void(World&)> complete = &complete_source;
  std::function<Fate(World&)> fate = &fate_of_source;
  Fate before = Fate::pending;  // and after one before it began
  bool asks_itself = false;     // in the turn in which it completes

  bool waits(const World& world, const Task<>& task) const {
    return task.done() || (!task.get_stack().empty() && world.begun == coroutines);
  }
};

inline Coroutine<> drop_result(auto awaitable) { static_cast<void>(co_await std::move(awaitable)); }
inline Coroutine<> takes(World& world, auto awaitable) {
  static_cast<void>(co_await std::move(awaitable));
  world.taken = true;
}

// What the row is about must be over when the world goes.
inline Coroutine<> tidy(World& world) {
  if (!world.source.done()) world.source.set_result(1);
  if (world.inner) static_cast<void>(co_await end_of(*world.inner));
  if (world.pool) empty_pool(world);
  if (world.called != world.ended) world.gate.release();
  co_await until([&] { return world.called == world.ended; });
}

// The result is there for whoever asks next.
inline Coroutine<> expect_not_lost(World& world, const Row& row) {
  EXPECT_EQ(name_of(row.fate(world)), "done") << row.name;
  if (world.all) {
    EXPECT_TRUE((co_await world.all->next()).has_value()) << row.name;
  }
}

inline Coroutine<> do_nothing() { co_return; }

// What was asked of other loops is on its way when the task has ended, and is heard of before what is sent after it.
inline Coroutine<> expect_fate(World& world, const Row& row) {
  for (EventLoop* loop : workers()) co_await loop->create_task(do_nothing());
  for (int i = 0; i < 100'000 && row.fate(world) != row.while_waiting; ++i) co_await sleep(0s);
  EXPECT_EQ(name_of(row.fate(world)), name_of(row.while_waiting)) << row.name;
}

// Each row in a run of its own, because some end what a run has once.
class CancelContract : public GroupsOfAnySize {
 protected:
  virtual std::vector<Row> rows() const = 0;

  void before_it_starts() {
    for_each_row([](World& world, const Row& row) -> Coroutine<> {
      const auto main = [](World& w, const Row& of) -> Coroutine<> {
        of.prepare(w);
        auto task = get_running_loop().create_task(of.use(w));  // pinned, so that it has not begun elsewhere
        task.cancel("stop");
        EXPECT_EQ(co_await end_of(task), "CancelledError: stop") << of.name;
        EXPECT_TRUE(task.cancelled()) << of.name;
        EXPECT_EQ(name_of(of.fate(w)), name_of(of.before)) << of.name;
      };
      co_await get_running_loop().create_task(main(world, row));
    });
  }

  void while_it_waits() {
    for_each_row([](World& world, const Row& row) -> Coroutine<> {
      row.prepare(world);
      auto task = create_task(row.use(world));
      co_await until([&] { return row.waits(world, task); });
      EXPECT_TRUE(task.cancel("stop")) << row.name;
      EXPECT_EQ(co_await end_of(task), "CancelledError: stop") << row.name;
      EXPECT_TRUE(task.cancelled()) << row.name;
      co_await expect_fate(world, row);
      if (row.while_waiting != Fate::pending) co_return;
      row.complete(world);
      co_await expect_not_lost(world, row);
    });
  }

  void in_the_turn_in_which_it_completes() {
    for_each_row([](World& world, const Row& row) -> Coroutine<> {
      world.ends = world.asks = true;
      row.prepare(world);
      auto task = create_task(row.use(world));
      co_await until([&] { return row.waits(world, task); });
      row.complete(world);
      if (!row.asks_itself) task.cancel("stop");
      const std::string end = co_await end_of(task);
      // On several loops it may have gone on before it was asked.
      if (workers().size() == 1) {
        EXPECT_EQ(end, "CancelledError: stop") << row.name;
      }
      EXPECT_TRUE(end == "CancelledError: stop" || end.empty()) << row.name << ": " << end;
      // A task that is cancelled behind its last await ends cancelled, and had its result.
      if (world.taken) world.all.reset();
      co_await expect_not_lost(world, row);
    });
  }

  void afterwards() {
    for_each_row([](World& world, const Row& row) -> Coroutine<> {
      world.ends = true;
      row.prepare(world);
      auto task = create_task(row.use(world));
      co_await until([&] { return row.waits(world, task); });
      row.complete(world);
      EXPECT_EQ(co_await end_of(task), "") << row.name;
      EXPECT_FALSE(task.cancel("stop")) << row.name;
      EXPECT_FALSE(task.cancelled()) << row.name;
    });
  }

 private:
  using Body = Coroutine<> (*)(World&, const Row&);
  void for_each_row(Body body) {
    for (const Row& row : rows()) {
      run([&]() -> Coroutine<> {
        World world;
        co_await body(world, row);
        co_await tidy(world);
      });
    }
  }
};

}  // namespace ouro::test
