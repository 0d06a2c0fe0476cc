// The line "If cancelled: …" of each awaitable, checked: cancelled before it starts, while it waits, in the turn in
// which what it waits for ends, and afterwards. One row for each; on one loop and on four.
#include <gmock/gmock.h>

#include <atomic>
#include <chrono>
#include <coroutine>
#include <exception>
#include <functional>
#include <future>
#include <optional>
#include <semaphore>
#include <stop_token>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <ouro/ouro.hpp>

#include "support/group.hpp"

namespace ouro {
namespace {

using namespace std::chrono_literals;
using test::until;

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
  std::promise<int> promise;
  std::coroutine_handle<> elsewhere;  // another thread resumes it
  std::stop_source stop;
  std::optional<ThreadPoolExecutor> pool;
  std::counting_semaphore<> gate{0};
  std::atomic<int> begun{0};
  std::atomic<int> called{0};  // on other threads
  std::atomic<int> ended{0};   // of these
  bool ends = false;           // a sleep is to end
  bool asks = false;           // and to be cancelled in that turn
  bool taken = false;          // what `all` had
};

// A coroutine that waits for it.
Coroutine<int> awaits(World& world) {
  ++world.begun;
  co_return co_await world.source;
}

// What is called on another thread.
auto call(World& world) {
  return [&world] {
    ++world.called;
    ++world.begun;
    world.gate.acquire();
    ++world.ended;
    return 7;
  };
}

enum class Fate { pending, cancelled, done };
std::string name_of(Fate fate) {
  return fate == Fate::pending ? "pending" : fate == Fate::cancelled ? "cancelled" : "done";
}
template <class F>
Fate fate_of(const F& future) {
  return !future.done() ? Fate::pending : future.cancelled() ? Fate::cancelled : Fate::done;
}

void complete_source(World& world) { world.source.set_result(7); }
Fate fate_of_source(World& world) { return fate_of(world.source); }

// The call returns; its result is on its way.
void let_call_end(World& world) {
  world.gate.release();
  while (world.ended == 0) std::this_thread::yield();
}
Fate fate_of_call(World& world) { return world.ended != 0 ? Fate::done : Fate::pending; }

// The only thread of the pool is let go of: a call that waits behind begins, or never will.
void empty_pool(World& world) {
  world.gate.release(2);
  world.pool->shutdown();
}
Fate fate_of_waiting_call(World& world) {
  if (world.begun < 2) empty_pool(world);
  return world.begun == 2 ? Fate::done : Fate::cancelled;
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

Coroutine<> drop_result(auto awaitable) { static_cast<void>(co_await std::move(awaitable)); }
Coroutine<> takes(World& world, auto awaitable) {
  static_cast<void>(co_await std::move(awaitable));
  world.taken = true;
}

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

// ---- Others' ways ----

// A coroutine that heeds stop requests alone.
Coroutine<> until_stopped(World& world, std::stop_token token) {
  ++world.begun;
  while (!token.stop_requested() && !world.source.done()) co_await sleep(0s);
}

Row promise_row() {
  Row row{"wrap_future of a std::future", [](World& w) -> Coroutine<> { co_await wrap_future(w.promise.get_future()); },
          Fate::pending};
  row.complete = [](World& w) {
    w.promise.set_value(7);
    ++w.ended;
    ++w.called;
  };
  row.fate = &fate_of_call;
  return row;
}

// Resumed by another thread.
struct Elsewhere {
  World* world;
  bool await_ready() const noexcept { return false; }
  void await_suspend(std::coroutine_handle<> coroutine) const {
    world->elsewhere = coroutine;
    ++world->called;
    ++world->begun;
  }
  int await_resume() const noexcept { return 7; }
};
void resume_elsewhere(World& world) {
  std::thread(world.elsewhere).join();
  ++world.ended;
}

Row elsewhere_row() {
  Row row{"resume_here", [](World& w) { return drop_result(resume_here(Elsewhere{&w})); }, Fate::pending};
  row.coroutines = 1;
  row.complete = &resume_elsewhere;
  row.fate = &fate_of_call;
  return row;
}

std::vector<Row> interop() {
  const auto nothing = [](World&) {};
  return {
      {"cancel_on_stop", [](World& w) { return drop_result(cancel_on_stop(w.stop.get_token(), awaits(w))); },
       Fate::cancelled, nothing, 1},
      {"stop_on_cancel",
       [](World& w) {
         return drop_result(stop_on_cancel([&w](std::stop_token token) { return until_stopped(w, std::move(token)); }));
       },
       Fate::pending, nothing, 1},
      promise_row(),
      elsewhere_row(),
  };
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

std::vector<Row> rows() {
  std::vector<Row> all = waits_and_groups();
  for (Row& row : others()) all.push_back(std::move(row));
  for (Row& row : interop()) all.push_back(std::move(row));
  return all;
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

// What the row is about must be over when the world goes.
Coroutine<> tidy(World& world) {
  if (!world.source.done()) world.source.set_result(1);
  if (world.inner) static_cast<void>(co_await end_of(*world.inner));
  if (world.pool) empty_pool(world);
  if (world.called != world.ended) world.gate.release();
  co_await until([&] { return world.called == world.ended; });
}

// The result is there for whoever asks next.
Coroutine<> expect_not_lost(World& world, const Row& row) {
  EXPECT_EQ(name_of(row.fate(world)), "done") << row.name;
  if (world.all) {
    EXPECT_TRUE((co_await world.all->next()).has_value()) << row.name;
  }
}

Coroutine<> do_nothing() { co_return; }

// What was asked of other loops is on its way when the task has ended, and is heard of before what is sent after it.
Coroutine<> expect_fate(World& world, const Row& row) {
  for (EventLoop* loop : workers()) co_await loop->create_task(do_nothing());
  for (int i = 0; i < 100'000 && row.fate(world) != row.while_waiting; ++i) co_await sleep(0s);
  EXPECT_EQ(name_of(row.fate(world)), name_of(row.while_waiting)) << row.name;
}

// Each row in a run of its own, because some end what a run has once.
class CancelContract : public test::GroupsOfAnySize {
 protected:
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
INSTANTIATE_TEST_SUITE_P(Workers, CancelContract, testing::Values(1U, 4U));

TEST_P(CancelContract, BeforeItStarts) {
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

TEST_P(CancelContract, WhileItWaits) {
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

// B150, T10
TEST_P(CancelContract, InTheTurnInWhichItCompletes) {
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
    EXPECT_TRUE(end == "CancelledError: stop" || end == "result") << row.name << ": " << end;
    // A task that is cancelled behind its last await ends cancelled, and had its result.
    if (world.taken) world.all.reset();
    co_await expect_not_lost(world, row);
  });
}

TEST_P(CancelContract, Afterwards) {
  for_each_row([](World& world, const Row& row) -> Coroutine<> {
    world.ends = true;
    row.prepare(world);
    auto task = create_task(row.use(world));
    co_await until([&] { return row.waits(world, task); });
    row.complete(world);
    EXPECT_EQ(co_await end_of(task), "result") << row.name;
    EXPECT_FALSE(task.cancel("stop")) << row.name;
    EXPECT_FALSE(task.cancelled()) << row.name;
  });
}

}  // namespace
}  // namespace ouro
