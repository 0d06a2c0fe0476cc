// The line "If cancelled: …" of each awaitable, checked: cancelled before it starts, while it waits, in the turn in
// which what it waits for ends, and afterwards. One row for each; on one loop and on four.
#include <gmock/gmock.h>

#include <chrono>
#include <functional>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <ouro/ouro.hpp>

#include "support/cancel_contract.hpp"

namespace ouro {
namespace {

using namespace std::chrono_literals;
using test::awaits;
using test::call;
using test::drop_result;
using test::empty_pool;
using test::Fate;
using test::fate_of;
using test::fate_of_call;
using test::let_call_end;
using test::Row;
using test::takes;
using test::until;
using test::World;

// ---- Sleeps ----

// Asked in the look in which the timer fires: of timers with the same deadline, the one that was set first is first.
Coroutine<> sleeps_until(World& world) {
  const TimePoint when = get_running_loop().time() + (world.ends ? Duration(100us) : Duration(1h));
  if (world.asks) get_running_loop().call_at(when, [self = current_task()]() mutable { self.cancel("stop"); });
  co_await ouro::sleep_until(when);
}
Coroutine<> sleeps(World& world) {
  if (world.asks) get_running_loop().call_soon([self = current_task()]() mutable { self.cancel("stop"); });
  co_await sleep(world.ends ? Duration(0) : Duration(1h));
}

Row sleep_row(const char* name, Coroutine<> (*use)(World&)) {
  Row row{name, use, Fate::pending};
  row.asks_itself = true;
  row.complete = [](World& world) { world.ends = true; };
  row.fate = [](World& world) { return world.ends ? Fate::done : Fate::pending; };
  return row;
}

// ---- Generators, scopes, pools ----

AsyncGenerator<int> gives(World& world) {
  co_yield 1;
  co_yield co_await awaits(world);
}
AsyncGenerator<int> closes(World& world) {
  try {
    co_yield 1;
  } catch (const GeneratorExit&) {
  }
  co_await awaits(world);
}
AsyncGenerator<int> gives_one() { co_yield 1; }
Coroutine<> asks_next(World& world) {
  world.generator = gives(world);
  co_await world.generator.next();
  co_await world.generator.next();
  co_await world.generator.aclose();
}
Coroutine<> closes_one(World& world) {
  world.generator = closes(world);
  co_await world.generator.next();
  co_await world.generator.aclose();
}
Coroutine<> closes_all(World& world) {
  world.generator = closes(world);
  co_await world.generator.next();
  co_await shutdown_asyncgens(get_running_loop());
}
Coroutine<> asks_unordered(World& world) {
  const auto f = [](World* of) { return awaits(*of); };
  auto results = map_unordered(f, std::vector{&world});
  static_cast<void>(co_await results.next());
}

Coroutine<> forks(World& world) {
  int result = 0;
  ForkScope scope;
  co_await scope.fork(result, awaits(world));
  co_await scope.join();
}
Coroutine<> calls(World& world) {
  int result = 0;
  ForkScope scope;
  co_await scope.call(result, awaits(world));
  co_await scope.join();
}

Coroutine<> ends_executor(World& world) {
  auto result = to_thread(call(world));
  co_await until([&] { return world.begun == 1; });
  co_await shutdown_default_executor(get_running_loop());
  static_cast<void>(result);
}

Row call_row(const char* name, std::function<Coroutine<>(World&)> use) {
  Row row{name, std::move(use), Fate::pending};
  row.coroutines = 1;
  row.complete = &let_call_end;
  row.fate = &fate_of_call;
  return row;
}

Fate fate_of_waiting_call(World& world) {
  if (world.begun < 2) empty_pool(world);
  return world.begun == 2 ? Fate::done : Fate::cancelled;
}

Row waiting_call_row() {
  Row row{"BaseEventLoop::run_in_executor of a call that has not begun",
          [](World& w) -> Coroutine<> { co_await get_running_loop().run_in_executor(&*w.pool, call(w)); },
          Fate::cancelled};
  row.prepare = [](World& w) {
    w.pool.emplace(1);
    static_cast<void>(executor_submit(*w.pool, call(w)));
    while (w.begun == 0) std::this_thread::yield();
  };
  row.coroutines = 1;
  row.complete = &empty_pool;
  row.fate = &fate_of_waiting_call;
  row.before = Fate::cancelled;
  return row;
}

Row wrap_row() {
  Row row{"wrap_future", [](World& w) -> Coroutine<> { co_await wrap_future(w.other); }, Fate::cancelled};
  row.complete = [](World& w) { w.other.set_result(7); };
  row.fate = [](World& w) { return fate_of(w.other); };
  return row;
}

// ---- The table ----

std::vector<Row> waits_and_groups() {
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
      {"NextCompleted", [](World& w) { return takes(w, *w.element); }, Fate::pending, make_element},
      {"AsCompleted::next", [](World& w) { return takes(w, w.all->next()); }, Fate::pending, make_all},
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

std::vector<Row> others() {
  const auto nothing = [](World&) {};
  const auto inner = [](World& w) { return drop_result(*w.inner); };
  return {
      sleep_row("sleep", &sleeps),
      sleep_row("sleep_until", &sleeps_until),
      call_row("to_thread", [](World& w) -> Coroutine<> { co_await to_thread(call(w)); }),
      call_row("BaseEventLoop::run_in_executor",
               [](World& w) -> Coroutine<> { co_await get_running_loop().run_in_executor(nullptr, call(w)); }),
      waiting_call_row(),
      wrap_row(),
      call_row("shutdown_default_executor", &ends_executor),
      {"create_task", inner, Fate::cancelled, [](World& w) { w.inner = create_task(awaits(w)); }, 1},
      {"spawn", inner, Fate::cancelled, [](World& w) { w.inner = spawn(awaits(w)); }, 1},
      {"ensure_future", inner, Fate::cancelled, [](World& w) { w.inner = ensure_future(awaits(w)); }, 1},
      {"BaseEventLoop::create_task", inner, Fate::cancelled,
       [](World& w) { w.inner = get_running_loop().create_task(awaits(w)); }, 1},
      {"BaseEventLoop::create_future", [](World& w) { return drop_result(w.source); }, Fate::cancelled},
      {"TaskGroup::create_task",
       [](World& w) {
         return task_group([&w](TaskGroup& group) -> Coroutine<> { co_await group.create_task(awaits(w)); });
       },
       Fate::cancelled, nothing, 1},
      {"AsyncGenerator::next", &asks_next, Fate::cancelled, nothing, 1},
      {"AsyncGenerator::next of map_unordered", &asks_unordered, Fate::cancelled, nothing, 1},
      {"AsyncGenerator::aclose", &closes_one, Fate::cancelled, nothing, 1},
      {"aclosing",
       [](World& w) {
         const auto body = [&w](AsyncGenerator<int>&) { return awaits(w); };
         return drop_result(aclosing(gives(w), body));
       },
       Fate::cancelled, nothing, 1},
      {"shutdown_asyncgens", &closes_all, Fate::cancelled, nothing, 1},
      {"ForkScope::fork", &forks, Fate::cancelled, nothing, 1},
      {"ForkScope::call", &calls, Fate::cancelled, nothing, 1},
      {"ForkScope::join", &forks, Fate::cancelled, nothing, 1},
      {"map of an asynchronous source",
       [](World& w) {
         const auto f = [&w](int) { return awaits(w); };
         return drop_result(map(f, gives_one()));
       },
       Fate::cancelled, nothing, 1},
      {"map under a MapLimit",
       [](World& w) {
         const auto f = [](World* world) { return awaits(*world); };
         return drop_result(map(f, std::vector{&w}, w.limit));
       },
       Fate::cancelled, nothing, 1},
  };
}

class CancelContract : public test::CancelContract {
  std::vector<Row> rows() const override {
    std::vector<Row> all = waits_and_groups();
    for (Row& row : others()) all.push_back(std::move(row));
    return all;
  }
};
INSTANTIATE_TEST_SUITE_P(Workers, CancelContract, testing::Values(1U, 4U));

TEST_P(CancelContract, BeforeItStarts) { before_it_starts(); }
TEST_P(CancelContract, WhileItWaits) { while_it_waits(); }
// B150, T10
TEST_P(CancelContract, InTheTurnInWhichItCompletes) { in_the_turn_in_which_it_completes(); }
TEST_P(CancelContract, Afterwards) { afterwards(); }

}  // namespace
}  // namespace ouro
