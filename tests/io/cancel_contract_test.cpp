// The line "If cancelled: …" of each awaitable, checked: cancelled before it starts, while it waits, in the turn in
// which what it waits for ends, and afterwards. One row for each; on one loop and on four.
#include <gmock/gmock.h>

#include <atomic>
#include <chrono>
#include <exception>
#include <functional>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <ouro/ouro.hpp>

#include "support/group.hpp"

namespace ouro {
namespace {

using namespace std::chrono_literals;
using test::until;

// What an awaitable waits for in the end: one future of the test's, which some wrap in a task.
struct World {
  Future<int> source = get_running_loop().create_future<int>();
  std::optional<Task<int>> inner;
  std::optional<AsCompleted<Future<int>>> all;
  std::optional<NextCompleted<Future<int>>> element;
  std::atomic<int> begun{0};
};

// A coroutine that waits for it.
Coroutine<int> awaits(World& world) {
  ++world.begun;
  co_return co_await world.source;
}

enum class Fate { pending, cancelled, done };
std::string name_of(Fate fate) {
  return fate == Fate::pending ? "pending" : fate == Fate::cancelled ? "cancelled" : "done";
}
template <class F>
Fate fate_of(const F& future) {
  return !future.done() ? Fate::pending : future.cancelled() ? Fate::cancelled : Fate::done;
}

struct Row {
  const char* name;
  std::function<Coroutine<>(World&)> use;
  Fate while_waiting;  // what became of the source after a cancellation
  std::function<void(World&)> prepare = [](World&) {};
  int coroutines = 0;  // that wait for the source inside

  bool waits(const World& world, const Task<>& task) const {
    return !task.get_stack().empty() && world.begun == coroutines;
  }
};

Coroutine<> drop_result(auto awaitable) { static_cast<void>(co_await std::move(awaitable)); }

std::vector<Row> rows() {
  const auto nothing = [](World&) {};
  const auto make_inner = [](World& world) { world.inner = create_task(awaits(world)); };
  const auto make_all = [](World& world) { world.all = as_completed(std::vector{world.source}); };
  const auto make_element = [](World& world) {
    world.all = as_completed(std::vector{world.source});
    world.element = *world.all->begin();
  };
  return {
      {"Future", [](World& w) { return drop_result(w.source); }, Fate::cancelled},
      {"Task", [](World& w) { return drop_result(*w.inner); }, Fate::cancelled, make_inner, 1},
      {"Coroutine", [](World& w) { return drop_result(awaits(w)); }, Fate::cancelled, nothing, 1},
      {"gather", [](World& w) { return drop_result(gather(awaits(w))); }, Fate::cancelled, nothing, 1},
      {"gather of futures", [](World& w) { return drop_result(gather(w.source)); }, Fate::cancelled},
      {"map",
       [](World& w) {
         const auto f = [](World* world) { return awaits(*world); };
         return drop_result(map(f, std::vector{&w}));
       },
       Fate::cancelled, nothing, 1},
      {"timeout", [](World& w) { return drop_result(timeout(1h, w.source)); }, Fate::cancelled},
      {"timeout of a callable", [](World& w) { return drop_result(timeout(1h, [&w](Timeout&) { return awaits(w); })); },
       Fate::cancelled, nothing, 1},
      {"timeout_at", [](World& w) { return drop_result(timeout_at(get_running_loop().time() + 1h, awaits(w))); },
       Fate::cancelled, nothing, 1},
      {"wait_for", [](World& w) { return drop_result(wait_for(awaits(w), 1h)); }, Fate::cancelled, nothing, 1},
      {"wait", [](World& w) { return drop_result(wait(std::vector{w.source})); }, Fate::pending},
      {"wait with a limit", [](World& w) { return drop_result(wait(std::vector{w.source}, {.timeout = 1h})); },
       Fate::pending},
      {"staggered_race",
       [](World& w) {
         std::vector attempts{[&w] { return awaits(w); }};
         return drop_result(staggered_race(std::move(attempts), 1h));
       },
       Fate::cancelled, nothing, 1},
      {"shield", [](World& w) { return drop_result(shield(w.source)); }, Fate::pending},
      {"as_completed", [](World& w) { return drop_result(*w.element); }, Fate::pending, make_element},
      {"as_completed, next()", [](World& w) { return drop_result(w.all->next()); }, Fate::pending, make_all},
      {"task_group",
       [](World& w) {
         return task_group([&w](TaskGroup& group) -> Coroutine<> {
           group.create_task(awaits(w));
           co_return;
         });
       },
       Fate::cancelled, nothing, 1},
      {"TaskGroup::join",
       [](World& w) -> Coroutine<> {
         TaskGroup group;
         group.create_task(awaits(w));
         co_await group.join();
       },
       Fate::cancelled, nothing, 1},
  };
}

template <class A>
Coroutine<std::string> end_of(A awaitable) {
  try {
    co_await std::move(awaitable);
  } catch (...) {
    co_return test::describe(std::current_exception());
  }
  co_return "result";
}

class CancelContract : public test::GroupsOfAnySize {};
INSTANTIATE_TEST_SUITE_P(Workers, CancelContract, testing::Values(1U, 4U));

// What the row is about must be over when the world goes.
Coroutine<> tidy(World& world) {
  if (!world.source.done()) world.source.set_result(1);
  if (world.inner) static_cast<void>(co_await end_of(*world.inner));
}

// The result is there for whoever asks next.
Coroutine<> expect_not_lost(World& world, const Row& row) {
  EXPECT_EQ(name_of(fate_of(world.source)), "done") << row.name;
  if (world.all) {
    EXPECT_TRUE((co_await world.all->next()).has_value()) << row.name;
  }
}

TEST_P(CancelContract, BeforeItStarts) {
  const auto main = []() -> Coroutine<> {
    for (const Row& row : rows()) {
      World world;
      row.prepare(world);
      auto task = get_running_loop().create_task(row.use(world));  // pinned, so that it has not begun elsewhere
      task.cancel("stop");
      EXPECT_EQ(co_await end_of(task), "CancelledError: stop") << row.name;
      EXPECT_TRUE(task.cancelled()) << row.name;
      EXPECT_EQ(name_of(fate_of(world.source)), "pending") << row.name;
      co_await tidy(world);
    }
  };
  run([&]() -> Coroutine<> { co_await get_running_loop().create_task(main()); });
}

TEST_P(CancelContract, WhileItWaits) {
  const auto main = []() -> Coroutine<> {
    for (const Row& row : rows()) {
      World world;
      row.prepare(world);
      auto task = create_task(row.use(world));
      co_await until([&] { return row.waits(world, task); });
      EXPECT_TRUE(task.cancel("stop")) << row.name;
      EXPECT_EQ(co_await end_of(task), "CancelledError: stop") << row.name;
      EXPECT_TRUE(task.cancelled()) << row.name;
      EXPECT_EQ(name_of(fate_of(world.source)), name_of(row.while_waiting)) << row.name;
      const bool kept = row.while_waiting == Fate::pending;
      co_await tidy(world);
      if (kept) co_await expect_not_lost(world, row);
    }
  };
  run(main());
}

TEST_P(CancelContract, InTheTurnInWhichItCompletes) {
  const auto main = []() -> Coroutine<> {
    for (const Row& row : rows()) {
      World world;
      row.prepare(world);
      auto task = create_task(row.use(world));
      co_await until([&] { return row.waits(world, task); });
      world.source.set_result(7);
      task.cancel("stop");
      const std::string end = co_await end_of(task);
      // On several loops it may have gone on before it was asked.
      if (GetParam() == 1) {
        EXPECT_EQ(end, "CancelledError: stop") << row.name;
      }
      EXPECT_TRUE(end == "CancelledError: stop" || end == "result") << row.name << ": " << end;
      co_await tidy(world);
      if (end == "result") {
        EXPECT_EQ(name_of(fate_of(world.source)), "done") << row.name;
      } else {
        co_await expect_not_lost(world, row);
      }
    }
  };
  run(main());
}

TEST_P(CancelContract, Afterwards) {
  const auto main = []() -> Coroutine<> {
    for (const Row& row : rows()) {
      World world;
      row.prepare(world);
      auto task = create_task(row.use(world));
      co_await until([&] { return row.waits(world, task); });
      world.source.set_result(7);
      EXPECT_EQ(co_await end_of(task), "result") << row.name;
      EXPECT_FALSE(task.cancel("stop")) << row.name;
      EXPECT_FALSE(task.cancelled()) << row.name;
      co_await tidy(world);
    }
  };
  run(main());
}

}  // namespace
}  // namespace ouro
