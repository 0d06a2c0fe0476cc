// Context variables on one loop: what tasks, callbacks and coroutines inherit, and what stays with them.
#include <ouro/runtime/contextvars.hpp>

#include <gmock/gmock.h>

#include <chrono>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <ouro/runtime/base_event_loop.hpp>
#include <ouro/runtime/detail/loop_event.hpp>
#include <ouro/runtime/fork_join.hpp>
#include <ouro/runtime/futures.hpp>
#include <ouro/runtime/gather.hpp>
#include <ouro/runtime/generators.hpp>
#include <ouro/runtime/map.hpp>
#include <ouro/runtime/sleep.hpp>
#include <ouro/runtime/taskgroups.hpp>
#include <ouro/runtime/tasks.hpp>
#include <ouro/runtime/threads.hpp>
#include <ouro/runtime/timeouts.hpp>
#include <ouro/runtime/wait.hpp>

#include "support/loop_fixture.hpp"

namespace ouro {
namespace {

using namespace std::chrono_literals;
using test::describe;
using test::thrown_by;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::SizeIs;
using testing::StartsWith;

ContextVar<int> number("number", 0);
ContextVar<std::string> text("text", "none");

using ContextVars = test::LoopTest;

Coroutine<int> read_later() {
  const int before = number.get();
  co_await sleep(0s);
  EXPECT_EQ(number.get(), before);
  co_return before;
}
Coroutine<int> set_and_read(int value) {
  number.set(value);
  co_await sleep(0s);
  co_return number.get();
}

// ---- The variable ----

TEST_F(ContextVars, WithoutAValueTheDefaultElseLookupError) {
  ContextVar<int> bare("bare");
  EXPECT_EQ(number.get(), 0);
  EXPECT_EQ(number.get(7), 7);
  EXPECT_EQ(bare.get(7), 7);
  EXPECT_EQ(bare.name(), "bare");
  EXPECT_THAT(thrown_by([&] { return bare.get(); }), HasSubstr("ContextVar 'bare'"));
  EXPECT_THROW(bare.get(), LookupError);
  Context().run([&] {
    bare.set(3);
    EXPECT_EQ(bare.get(), 3);
    EXPECT_EQ(bare.get(7), 3);
  });
  EXPECT_THROW(bare.get(), LookupError);
}

TEST_F(ContextVars, ATokenTakesItsSetBack) {
  Context().run([] {
    Token<std::string> first = text.set("a");
    EXPECT_EQ(first.old_value(), std::nullopt);
    Token<std::string> second = text.set("b");
    EXPECT_EQ(second.old_value(), "a");
    text.reset(second);
    EXPECT_EQ(text.get(), "a");
    text.reset(first);
    EXPECT_EQ(text.get(), "none");
    EXPECT_THAT(thrown_by([&] { text.reset(first); }), HasSubstr("has already been used once"));
    EXPECT_THROW(text.reset(first), RuntimeError);
    text.reset(text.set("c"));
    EXPECT_EQ(text.get(), "none");
  });
}

TEST_F(ContextVars, ATokenIsOfOneVariableAndOneContext) {
  ContextVar<int> other("other");
  const Context context;
  Token<int> token = context.run([] { return number.set(1); });
  EXPECT_THAT(thrown_by([&] { context.run([&] { other.reset(token); }); }), StartsWith("ValueError"));
  EXPECT_THAT(thrown_by([&] { context.copy().run([&] { number.reset(token); }); }), HasSubstr("different Context"));
  EXPECT_THAT(thrown_by([&] { number.reset(token); }), HasSubstr("different Context"));
  context.run([&] { number.reset(token); });  // the failures have not used it up
  EXPECT_FALSE(context.contains(number));
}

TEST_F(ContextVars, ManyVariablesEachWithItsValue) {
  std::vector<std::unique_ptr<ContextVar<int>>> many;
  for (int i = 0; i < 700; ++i) many.push_back(std::make_unique<ContextVar<int>>("v", -1));
  const Context context;
  context.run([&] {
    for (int i = 0; i < 700; ++i) many[static_cast<std::size_t>(i)]->set(i);
  });
  EXPECT_EQ(context.size(), 700U);
  const Context copy = context.copy();
  copy.run([&] {
    for (int i = 0; i < 700; i += 2)
      many[static_cast<std::size_t>(i)]->reset(many[static_cast<std::size_t>(i)]->set(0));
    for (int i = 0; i < 700; i += 3) many[static_cast<std::size_t>(i)]->set(1000 + i);
  });
  for (int i = 0; i < 700; ++i) {
    EXPECT_EQ(context.get(*many[static_cast<std::size_t>(i)]), i);
    EXPECT_EQ(copy.get(*many[static_cast<std::size_t>(i)]), i % 3 == 0 ? 1000 + i : i);
  }
}

TEST_F(ContextVars, ValuesThatAreTakenBackLeaveNothing) {
  std::vector<std::unique_ptr<ContextVar<int>>> many;
  std::vector<Token<int>> tokens;
  for (int i = 0; i < 300; ++i) many.push_back(std::make_unique<ContextVar<int>>("v"));
  const Context context;
  context.run([&] {
    for (const auto& variable : many) tokens.push_back(variable->set(1));
    for (std::size_t i = 0; i < 300; i += 2) many[i]->reset(tokens[i]);
    EXPECT_EQ(context.size(), 150U);
    for (std::size_t i = 0; i < 300; ++i) EXPECT_EQ(many[i]->get(0), i % 2 == 0 ? 0 : 1);
    for (std::size_t i = 1; i < 300; i += 2) many[i]->reset(tokens[i]);
  });
  EXPECT_EQ(context.size(), 0U);
}

TEST_F(ContextVars, AValueLivesAsLongAsAContextHasIt) {
  ContextVar<std::shared_ptr<int>> shared("shared");
  std::weak_ptr<int> watched;
  {
    const Context context;
    context.run([&] {
      shared.set(std::make_shared<int>(4));
      watched = shared.get();
      const Context copy = copy_context();
      shared.set(nullptr);
      EXPECT_EQ(*copy.get(shared).value(), 4);
      EXPECT_FALSE(watched.expired());
    });
    EXPECT_TRUE(watched.expired());
  }
}

// ---- The context ----

TEST_F(ContextVars, AContextRunsAndKeepsWhatWasSet) {
  const Context context;
  const int sum = context.run([](int a, int b) { return number.set(a + b), number.get(); }, 2, 3);
  EXPECT_EQ(sum, 5);
  EXPECT_EQ(number.get(), 0);
  EXPECT_EQ(context.get(number), 5);
  EXPECT_EQ(context.get(text), std::nullopt);
  EXPECT_TRUE(context.contains(number));
  EXPECT_EQ(context.size(), 1U);
  const Context again = context;
  EXPECT_EQ(again, context);
  EXPECT_FALSE(context.copy() == context);
  EXPECT_EQ(context.copy().get(number), 5);
  EXPECT_THROW(context.run([] { throw std::logic_error("out of it"); }), std::logic_error);
  EXPECT_EQ(number.get(), 0);
}

TEST_F(ContextVars, NobodyEntersAContextTwice) {
  const Context context;
  context.run([&] {
    EXPECT_THAT(thrown_by([&] { context.run([] {}); }), HasSubstr("cannot enter context"));
    Context().run([&] { EXPECT_THROW(context.run([] {}), RuntimeError); });
    context.copy().run([] { number.set(2); });
    EXPECT_EQ(number.get(), 0);
  });
  context.run([] {});
  run([](Context own) -> Coroutine<> {
    TaskOptions options{.context = &own};
    co_await create_task(
        [&own]() -> Coroutine<> {
          EXPECT_THROW(own.run([] {}), RuntimeError);
          co_return;
        }(),
        options);
  }(context));
}

TEST_F(ContextVars, AThreadHasItsOwn) {
  Context().run([] {
    number.set(1);
    std::thread([] {
      EXPECT_EQ(number.get(), 0);
      number.set(2);
      EXPECT_EQ(number.get(), 2);
      std::thread([] { EXPECT_EQ(number.get(), 0); }).join();
    }).join();
    EXPECT_EQ(number.get(), 1);
  });
}

// ---- Tasks ----

// B140, B253, B481
TEST_F(ContextVars, ATaskBeginsWithACopyAndKeepsItsChanges) {
  run([]() -> Coroutine<> {
    number.set(1);
    Task<int> reads = create_task(read_later());
    Task<int> sets = create_task(set_and_read(2));
    Task<int> eager = create_task(set_and_read(3), {.eager_start = true});
    EXPECT_EQ(number.get(), 1);
    number.set(4);
    EXPECT_EQ(co_await reads, 1);
    EXPECT_EQ(co_await sets, 2);
    EXPECT_EQ(co_await eager, 3);
    EXPECT_EQ(number.get(), 4);
  }());
  EXPECT_EQ(number.get(), 0);
}

// B140
TEST_F(ContextVars, ACoroutineThatIsAwaitedSharesTheContext) {
  run([]() -> Coroutine<> {
    number.set(1);
    EXPECT_EQ(co_await set_and_read(2), 2);
    EXPECT_EQ(number.get(), 2);
    co_await timeout(10s, set_and_read(3));
    EXPECT_EQ(number.get(), 3);
  }());
}

// B140, B239
TEST_F(ContextVars, ATaskRunsInTheContextThatItIsGiven) {
  const Context context;
  run([](Context given) -> Coroutine<> {
    given.run([] { number.set(5); });
    EXPECT_EQ(co_await create_task(read_later(), {.context = &given}), 5);
    EXPECT_EQ(co_await create_task(set_and_read(6), {.name = "named", .context = &given}), 6);
    EXPECT_EQ(given.get(number), 6);
    EXPECT_EQ(co_await create_task(set_and_read(7), {.eager_start = true, .context = &given}), 7);
    EXPECT_EQ(co_await spawn(set_and_read(8), {.context = &given}), 8);
    EXPECT_EQ(given.get(number), 8);
    co_await task_group([given](TaskGroup& group) -> Coroutine<> {
      group.create_task(set_and_read(9), {.name = "in the group", .context = &given});
      co_return;
    });
    EXPECT_EQ(given.get(number), 9);
    EXPECT_EQ(number.get(), 0);
  }(context));
}

// B127
TEST_F(ContextVars, GetContextIsWhereTheTaskRuns) {
  run([]() -> Coroutine<> {
    const Context given;
    const Task<int> task = create_task(set_and_read(5), {.context = &given});
    EXPECT_EQ(task.get_context(), given);
    const Task<int> other = create_task(set_and_read(6));
    const Context own = other.get_context();
    EXPECT_EQ(own, other.get_context());
    EXPECT_FALSE(own == given);
    co_await task;
    co_await other;
    EXPECT_EQ(own.get(number), 6);
    EXPECT_EQ(AnyTask(other).get_context(), own);
    EXPECT_EQ(task.get_name(), AnyTask(task).get_name());
    number.set(1);
    EXPECT_EQ(current_task().get_context().get(number), 1);
  }());
}

// B141
TEST_F(ContextVars, StateOfAContextIsPerTaskAcrossAwaits) {
  const auto worker = [](int precision) -> Coroutine<std::vector<int>> {
    std::vector<int> seen;
    number.set(precision);
    for (int i = 0; i < 4; ++i) {
      seen.push_back(number.get());
      co_await sleep(0s);
    }
    co_return seen;
  };
  run([](auto work) -> Coroutine<> {
    auto [a, b, c] = co_await gather(work(1), work(2), create_task(work(3)));
    EXPECT_THAT(a, testing::Each(1));
    EXPECT_THAT(b, testing::Each(2));
    EXPECT_THAT(c, testing::Each(3));
  }(worker));
}

TEST_F(ContextVars, ADefaultNameStaysInOrder) {
  run([]() -> Coroutine<> {
    number.set(1);
    const Task<int> a = create_task(read_later());
    const Task<int> b = create_task(read_later());
    const auto number_of = [](const Task<int>& task) { return std::stoi(task.get_name().substr(5)); };
    EXPECT_LT(number_of(a), number_of(b));
    co_await gather(a, b);
  }());
}

// ---- Children ----

// B481
TEST_F(ContextVars, ChildrenOfAGatherSeeTheParentsAndChangeTheirOwn) {
  run([]() -> Coroutine<> {
    number.set(1);
    const auto nested = []() -> Coroutine<int> {
      const auto [a, b] = co_await gather(read_later(), set_and_read(8));
      EXPECT_EQ(number.get(), 1);
      co_return 10 * a + b;
    };
    const auto [a, b, c, d] = co_await gather(read_later(), set_and_read(5), read_later(), nested());
    EXPECT_THAT((std::vector<int>{a, b, c, d}), ElementsAre(1, 5, 1, 18));
    EXPECT_EQ(number.get(), 1);
    const std::vector<int> elements{1, 2, 3};
    EXPECT_THAT(co_await map(set_and_read, elements), ElementsAre(1, 2, 3));
    EXPECT_EQ(number.get(), 1);
    const auto at_once = [](int value) -> Coroutine<int> {
      number.set(number.get() + value);
      co_return number.get();
    };
    EXPECT_THAT(co_await map(at_once, elements), ElementsAre(2, 3, 4));
  }());
}

// B481
TEST_F(ContextVars, ChildrenOfAForkSeeWhatWasSetBeforeIt) {
  run([]() -> Coroutine<> {
    int first = 0;
    int second = 0;
    number.set(1);
    ForkScope scope;
    co_await scope.fork(first, read_later());
    number.set(2);
    co_await scope.fork(second, set_and_read(3));
    co_await scope.join();
    EXPECT_EQ(first, 1);
    EXPECT_EQ(second, 3);
    EXPECT_EQ(number.get(), 2);
  }());
}

TEST_F(ContextVars, WhatIsWrappedInATaskInheritsToo) {
  run([]() -> Coroutine<> {
    number.set(1);
    EXPECT_EQ(co_await wait_for(read_later(), 10s), 1);
    EXPECT_EQ(co_await shield(read_later()), 1);
    EXPECT_EQ(co_await ensure_future(gather(read_later(), set_and_read(4))), std::tuple(1, 4));
    EXPECT_EQ(number.get(), 1);
  }());
}

TEST_F(ContextVars, AGeneratorSharesTheContextOfItsConsumer) {
  const auto numbers = []() -> AsyncGenerator<int> {
    for (int i = 0; i < 2; ++i) {
      number.set(number.get() + 1);
      co_yield number.get();
    }
  };
  run([](auto make) -> Coroutine<> {
    auto generator = make();
    EXPECT_EQ(co_await generator.next(), 1);
    number.set(10);
    EXPECT_EQ(co_await generator.next(), 11);
    EXPECT_EQ(number.get(), 11);
    co_await generator.aclose();
  }(numbers));
}

// ---- Callbacks ----

// B140, B480
TEST_F(ContextVars, CallbacksRunInACopyOfTheirCreatorsContext) {
  std::vector<int> seen;
  const auto note = [&seen] {
    seen.push_back(number.get());
    number.set(-1);
    seen.push_back(number.get());
  };
  run([](BaseEventLoop& in, auto callback) -> Coroutine<> {
    number.set(1);
    Handle soon = in.call_soon(callback);
    number.set(2);
    in.call_soon_threadsafe(callback);
    number.set(3);
    in.call_later(0s, callback);
    number.set(4);
    in.call_at(in.time(), callback);
    number.set(5);
    auto future = in.create_future();
    future.add_done_callback([callback](const Future<>&) { callback(); });
    number.set(6);
    future.set_result();
    co_await sleep(1ms);
    EXPECT_EQ(number.get(), 6);
    EXPECT_EQ(soon.get_context().get(number), -1);
  }(loop, note));
  std::vector<int> expected{1, -1, 2, -1, 3, -1, 4, -1, 5, -1};
  EXPECT_THAT(seen, testing::UnorderedElementsAreArray(expected));
  EXPECT_EQ(number.get(), 0);
}

// B480
TEST_F(ContextVars, CallbacksRunInTheContextThatTheyAreGiven) {
  const Context context;
  std::vector<int> seen;
  const auto count = [&seen] {
    number.set(number.get() + 1);
    seen.push_back(number.get());
  };
  run([](BaseEventLoop& in, auto callback, Context given) -> Coroutine<> {
    const Handle handle = in.call_soon(callback, given);
    EXPECT_EQ(handle.get_context(), given);
    in.call_soon_threadsafe(callback, given);
    in.call_later(0s, callback, given);
    in.call_at(in.time(), callback, given);
    auto future = in.create_future();
    future.add_done_callback([callback](const Future<>&) { callback(); }, given);
    future.set_result();
    co_await sleep(1ms);
    EXPECT_EQ(number.get(), 0);
  }(loop, count, context));
  EXPECT_THAT(seen, ElementsAre(1, 2, 3, 4, 5));
  EXPECT_EQ(context.get(number), 5);
}

// B140: also where nothing was inherited, so that the callback has no context of its own yet.
TEST_F(ContextVars, ACallbacksChangesEndWithIt) {
  std::vector<int> seen;
  const auto note = [&seen] {
    seen.push_back(number.get());
    number.set(9);
    seen.push_back(number.get());
    current_task();
  };
  loop.call_soon(note);
  loop.call_soon(note);
  const Handle bare = loop.call_soon(note);
  turn(2);
  EXPECT_THAT(seen, ElementsAre(0, 9, 0, 9, 0, 9));
  EXPECT_EQ(bare.get_context().size(), 0U);
  run([]() -> Coroutine<> {
    EXPECT_EQ(number.get(), 0);
    co_return;
  }());
}

TEST_F(ContextVars, ACancelledCallbackLetsGoOfItsContext) {
  ContextVar<std::shared_ptr<int>> shared("shared");
  std::weak_ptr<int> watched;
  run([](BaseEventLoop& in, auto& variable, auto& watch) -> Coroutine<> {
    {
      Context context;
      context.run([&] { variable.set(std::make_shared<int>(1)), watch = variable.get(); });
      Handle handle = in.call_later(1h, [] {}, context);
      Handle other = in.call_soon([] {}, context);
      handle.cancel();
      other.cancel();
      context = Context();
      EXPECT_FALSE(watch.expired());
    }
    co_await sleep(0s);
    co_await sleep(0s);
    EXPECT_TRUE(watch.expired());
  }(loop, shared, watched));
}

// ---- Handlers, threads ----

// B76
TEST_F(ContextVars, AnExceptionHandlerRunsInTheContextOfWhatFailed) {
  std::vector<std::string> seen;
  loop.set_exception_handler([&seen](BaseEventLoop&, const ExceptionContext& context) {
    seen.push_back(context.message + ": " + text.get());
    text.set("handler");
    EXPECT_EQ(text.get(), "handler");
  });
  run([](BaseEventLoop& in) -> Coroutine<> {
    text.set("callback");
    in.call_soon([] { throw std::runtime_error("callback"); });
    text.set("task");
    create_task([]() -> Coroutine<> {
      throw std::runtime_error("inherited");
      co_return;
    });
    create_task([]() -> Coroutine<> {
      text.set("changed");
      throw std::runtime_error("task");
      co_return;
    });
    text.set("main");
    co_await sleep(1ms);
  }(loop));
  turn();
  EXPECT_THAT(
      seen, testing::UnorderedElementsAre("Exception in callback: callback", "Task exception was never retrieved: task",
                                          "Task exception was never retrieved: changed"));
}

// As what connections and servers do when something has come for them.
class SettingEvent final : private detail::LoopEvent {
 public:
  explicit SettingEvent(BaseEventLoop& loop) : LoopEvent(loop.state(), kind) {}
  using LoopEvent::raise;

 private:
  static const Kind kind;
};
const detail::LoopEvent::Kind SettingEvent::kind{[](LoopEvent&) { number.set(9); }, [](LoopEvent&) noexcept {}};

TEST_F(ContextVars, AnEventOfTheLoopLeavesNothingToTheNextCallback) {
  SettingEvent event(loop);
  int seen = -1;
  event.raise();
  loop.call_soon([&seen] { seen = number.get(); });
  turn();
  EXPECT_EQ(seen, 0);
}

TEST_F(ContextVars, ToThreadTakesTheContextAlongAndRunInExecutorDoesNot) {
  run([](BaseEventLoop& in) -> Coroutine<> {
    number.set(1);
    const auto there = [](int more) { return number.set(number.get() + more), number.get(); };
    EXPECT_EQ(co_await to_thread(there, 4), 5);
    EXPECT_EQ(number.get(), 1);
    EXPECT_EQ(co_await to_thread(there, 4), 5);
    EXPECT_EQ(co_await in.run_in_executor(nullptr, [] { return number.get(); }), 0);
  }(loop));
}

TEST_F(ContextVars, ATaskFromAnotherThreadHasThatThreadsContext) {
  auto future = loop.create_future();
  int seen = 0;
  std::thread other([&, &in = static_cast<BaseEventLoop&>(loop)] {
    number.set(7);
    run_coroutine_threadsafe(
        [&seen, future]() mutable -> Coroutine<> {
          seen = number.get();
          future.set_result();
          co_return;
        },
        in);
  });
  other.join();
  run(future);
  EXPECT_EQ(seen, 7);
}

TEST_F(ContextVars, ATaskFactoryMayChangeTheContext) {
  const Context other;
  other.run([] { number.set(3); });
  loop.set_task_factory([&](BaseEventLoop&, AnyTask, TaskOptions& options) {
    if (options.name == "other") options.context = &other;
  });
  run([]() -> Coroutine<> {
    number.set(1);
    EXPECT_EQ(co_await create_task(read_later(), {.name = "other"}), 3);
    EXPECT_EQ(co_await create_task(read_later(), {.name = "mine"}), 1);
  }());
  loop.set_task_factory(nullptr);
}

}  // namespace
}  // namespace ouro
