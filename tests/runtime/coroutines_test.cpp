// Coroutine<T>: lazy, awaited once, move-only; what else can be awaited; callables; traits and concepts.
#include <ouro/runtime/coroutine.hpp>

#include <gmock/gmock.h>

#include <concepts>
#include <coroutine>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <ouro/runtime/base_event_loop.hpp>
#include <ouro/runtime/exceptions.hpp>
#include <ouro/runtime/gather.hpp>
#include <ouro/runtime/generators.hpp>
#include <ouro/runtime/map.hpp>
#include <ouro/runtime/sleep.hpp>

#include "support/loop_fixture.hpp"

namespace ouro {
namespace {

using namespace std::chrono_literals;
using testing::ElementsAre;
using testing::IsEmpty;

Coroutine<int> number(int i) { co_return i; }
Coroutine<> nothing() { co_return; }

// ---- Types ----

struct Functor {
  Coroutine<int> operator()(int i) const { return number(i); }
};
struct Overloaded {
  Coroutine<int> operator()(int i) { return number(i); }
  Coroutine<> operator()() { return nothing(); }
};

// B135
static_assert(is_coroutine_function<decltype(number)>);
static_assert(is_coroutine_function<decltype(&number)>);
static_assert(is_coroutine_function<Functor>);
static_assert(is_coroutine_function<std::function<Coroutine<>(int)>>);
static_assert(is_coroutine_function<decltype([](int i) { return number(i); })>);
static_assert(!is_coroutine_function<int(int)>);
static_assert(!is_coroutine_function<Generator<int>()>);
static_assert(!is_coroutine_function<Coroutine<int>>);
static_assert(!is_coroutine_function<Overloaded>);

static_assert(is_coroutine<Coroutine<int>> && is_coroutine<Coroutine<>&> && is_coroutine<const Coroutine<int>>);
static_assert(!is_coroutine<Task<int>> && !is_coroutine<int> && !is_coroutine<decltype(number)>);

static_assert(std::movable<Coroutine<int>> && !std::copyable<Coroutine<int>>);
static_assert(std::is_nothrow_move_constructible_v<Coroutine<std::string>>);
static_assert(sizeof(Coroutine<int>) == sizeof(void*));

// What may stand behind co_await, and what may not. B114 B123
static_assert(Awaitable<Coroutine<int>> && Awaitable<Future<int>> && Awaitable<Task<>&> && Awaitable<const Task<>&>);
static_assert(Awaitable<decltype(sleep(1s))> && Awaitable<decltype(gather(number(1)))>);
static_assert(Awaitable<std::suspend_always>);
static_assert(!Awaitable<int> && !Awaitable<void*> && !Awaitable<Functor> && !Awaitable<Generator<int>>);
template <class T>
concept CanBeATask = requires(BaseEventLoop& loop, T&& value) { loop.create_task(std::forward<T>(value)); };
template <class T>
concept CanRun = requires(BaseEventLoop& loop, T&& value) { loop.run_until_complete(std::forward<T>(value)); };
static_assert(CanBeATask<Coroutine<int>> && CanBeATask<Coroutine<> (*)()> && CanBeATask<decltype(gather(number(1)))>);
static_assert(!CanBeATask<int> && !CanBeATask<Functor> && !CanBeATask<int (*)()> && !CanBeATask<Generator<int>>);
static_assert(CanRun<Coroutine<int>> && CanRun<Future<int>&> && !CanRun<int> && !CanRun<std::string>);  // B25

static_assert(std::same_as<await_result_t<Coroutine<int>>, int>);
static_assert(std::same_as<await_result_t<Coroutine<int&>>, int&>);
static_assert(std::same_as<await_result_t<Coroutine<>>, void>);
static_assert(std::same_as<await_result_t<Task<std::string>&>, std::string>);
static_assert(std::same_as<await_result_t<Future<std::unique_ptr<int>>&>, const std::unique_ptr<int>&>);
static_assert(std::same_as<await_result_t<Future<std::unique_ptr<int>>>, std::unique_ptr<int>>);

static_assert(CoroutineCallable<Functor&, int> && !CoroutineCallable<Functor&>);
static_assert(CoroutineCallable<decltype([] { return sleep(1s); })>);
static_assert(!CoroutineCallable<Coroutine<int>>);

// ---- Behaviour ----

class CoroutineTest : public test::LoopTest {
 protected:
  void log(std::string word) { log_.push_back(std::move(word)); }
  std::vector<std::string> log_;
};

TEST_F(CoroutineTest, IsLazyAndRunsAtOnceWhenItIsAwaited) {
  run([&]() -> Coroutine<> {
    auto child = [&]() -> Coroutine<int> {
      log("child");
      co_return 1;
    };
    loop.call_soon([&] { log("callback"); });
    Coroutine<int> coroutine = child();
    log("made");
    EXPECT_EQ(co_await coroutine, 1);
    log("awaited");
    co_await sleep(0s);
  });
  EXPECT_THAT(log_, ElementsAre("made", "child", "awaited", "callback"));
}

TEST_F(CoroutineTest, RunsInsideTheTaskThatAwaitsIt) {
  run([&]() -> Coroutine<> {
    AnyTask mine = current_task();
    auto child = [&]() -> Coroutine<> {
      EXPECT_EQ(current_task(), mine);
      co_await sleep(0s);
      EXPECT_EQ(current_task(), mine);
      EXPECT_EQ(all_tasks().size(), 1U);
    };
    co_await child();
  });
}

// B125
TEST_F(CoroutineTest, AwaitedOrScheduledTwiceItSaysSo) {
  const std::string again = "RuntimeError: cannot reuse already awaited coroutine";
  run([&]() -> Coroutine<> {
    std::vector<std::string> errors;
    const auto await = [&errors](Coroutine<int>& coroutine) -> Coroutine<> {
      try {
        co_await coroutine;
      } catch (...) {
        errors.push_back(test::describe(std::current_exception()));
      }
    };
    Coroutine<int> awaited = number(1);
    co_await await(awaited);
    EXPECT_FALSE(awaited);
    co_await await(awaited);
    Coroutine<int> scheduled = number(2);
    Task<int> task = create_task(std::move(scheduled));
    co_await await(scheduled);  // NOLINT: it is about this
    Coroutine<int> empty;
    co_await await(empty);
    EXPECT_THAT(errors, ElementsAre(again, again, again));
    EXPECT_EQ(test::thrown_by([&] { create_task(std::move(awaited)); }), again);  // NOLINT
    EXPECT_EQ(co_await task, 2);
  });
}

TEST_F(CoroutineTest, MovesAndSwapsWithoutRunning) {
  auto held = std::make_shared<int>(3);
  auto child = [](std::shared_ptr<int> p) -> Coroutine<int> { co_return *p; };
  Coroutine<int> first = child(held);
  Coroutine<int> second = std::move(first);
  EXPECT_FALSE(first);  // NOLINT: it is about this
  EXPECT_TRUE(second);
  first = std::move(second);
  first.swap(second);
  EXPECT_EQ(held.use_count(), 2);
  first = child(held);
  first = Coroutine<int>();  // destroyed unrun, with its argument
  EXPECT_EQ(held.use_count(), 2);
  EXPECT_EQ(run(std::move(second)), 3);
  EXPECT_EQ(held.use_count(), 1);
}

TEST_F(CoroutineTest, ExceptionsGoThroughEveryLevel) {
  struct Levels {
    static Coroutine<int> down(int n, int& unwound) {
      struct Count {
        int& n;
        ~Count() { ++n; }
      } count{unwound};
      if (n == 0) throw std::runtime_error("deep");
      co_return co_await down(n - 1, unwound);
    }
  };
  int unwound = 0;
  EXPECT_EQ(test::thrown_by([&] { run(Levels::down(50, unwound)); }), "exception: deep");
  EXPECT_EQ(unwound, 51);
}

// B128
TEST_F(CoroutineTest, ExceptionsCanBeNestedAcrossAwaits) {
  run([&]() -> Coroutine<> {
    auto fails = []() -> Coroutine<> {
      co_await sleep(0s);
      throw std::runtime_error("inner");
    };
    auto wraps = [&]() -> Coroutine<> {
      try {
        co_await fails();
      } catch (const std::runtime_error&) {
        std::throw_with_nested(std::logic_error("outer"));
      }
    };
    std::string both;
    try {
      co_await wraps();
    } catch (const std::logic_error& error) {
      both = error.what();
      try {
        std::rethrow_if_nested(error);
      } catch (const std::runtime_error& inner) {
        both += std::string(" ") + inner.what();
      }
    }
    EXPECT_EQ(both, "outer inner");
  });
}

TEST_F(CoroutineTest, ACancelledErrorThrownByHandIsAnExceptionLikeAnyOther) {
  run([&]() -> Coroutine<> {
    auto throws = []() -> Coroutine<> {
      throw CancelledError("mine");
      co_return;
    };
    std::string message;
    try {
      co_await throws();
    } catch (const CancelledError& error) {
      message = error.message();
    }
    EXPECT_EQ(message, "mine");
    EXPECT_EQ(current_task().cancelling(), 0);
    co_await sleep(0s);
  });
}

TEST_F(CoroutineTest, GivesReferencesAndMoveOnlyResultsAsTheyAre) {
  int target = 1;
  run([&]() -> Coroutine<> {
    auto reference = [&]() -> Coroutine<int&> { co_return target; };
    auto constant = [&]() -> Coroutine<const int&> { co_return target; };
    auto box = []() -> Coroutine<std::unique_ptr<int>> { co_return std::make_unique<int>(2); };
    int& got = co_await reference();
    EXPECT_EQ(&got, &target);
    const int& fixed = co_await constant();
    EXPECT_EQ(&fixed, &target);
    auto value = co_await box();
    EXPECT_EQ(*value, 2);
  });
}

TEST_F(CoroutineTest, ArgumentsByValueLiveInTheFrame) {
  run([&]() -> Coroutine<> {
    auto child = [](std::string text) -> Coroutine<std::string> {
      co_await sleep(0s);
      co_return text + "!";
    };
    std::string longer(100, 'x');
    Coroutine<std::string> coroutine = child(longer);
    longer.assign(100, 'y');
    EXPECT_EQ(co_await coroutine, std::string(100, 'x') + "!");
  });
}

// B117
TEST_F(CoroutineTest, DroppedUnawaitedItIsFreedAndInDebugModeReported) {
  testing::internal::CaptureStderr();
  {
    Coroutine<int> dropped = number(1);
  }
  EXPECT_THAT(testing::internal::GetCapturedStderr(), IsEmpty());
  loop.set_debug(true);
  loop.call_soon([] { Coroutine<int> dropped = number(1); });
  testing::internal::CaptureStderr();
  turn();
  EXPECT_THAT(testing::internal::GetCapturedStderr(), testing::HasSubstr("was never awaited"));
  testing::internal::CaptureStderr();
  run(number(2));
  EXPECT_THAT(testing::internal::GetCapturedStderr(), IsEmpty());
}

// ---- Other awaitables ----

// A type with operator co_await that passes on to the library's.
class Delivery {
 public:
  explicit Delivery(Future<int> future) : future_(std::move(future)) {}
  auto operator co_await() const { return future_.operator co_await(); }

 private:
  Future<int> future_;
};

// One whose operator is free.
struct Parcel {
  explicit Parcel(int v) : value(v) {}
  int value;
};
auto operator co_await(Parcel parcel) { return number(parcel.value).operator co_await(); }

// An awaiter that never suspends.
class Ready {
 public:
  explicit Ready(int value) : value_(value) {}
  bool await_ready() const noexcept { return true; }
  void await_suspend(std::coroutine_handle<>) const noexcept {}
  int await_resume() const noexcept { return value_; }

 private:
  int value_;
};

// An awaiter that resumes its coroutine through a callback of the loop.
class Callback {
 public:
  explicit Callback(BaseEventLoop& loop) : loop_(&loop) {}
  bool await_ready() const noexcept { return false; }
  void await_suspend(std::coroutine_handle<> coroutine) const {
    loop_->call_soon([coroutine] { coroutine.resume(); });
  }
  int await_resume() const noexcept { return 5; }

 private:
  BaseEventLoop* loop_;
};

// B115
TEST_F(CoroutineTest, AnyTypeWithTheOperatorOrTheThreeFunctionsCanBeAwaited) {
  run([&]() -> Coroutine<> {
    Future<int> future = loop.create_future<int>();
    loop.call_soon([&] { future.set_result(4); });
    EXPECT_EQ(co_await Delivery(future), 4);
    EXPECT_EQ(co_await Parcel(2), 2);
    EXPECT_EQ(co_await Ready(3), 3);
    EXPECT_EQ(co_await create_task(Delivery(future)), 4);
    EXPECT_EQ(co_await create_task(Parcel(7)), 7);
    EXPECT_EQ(co_await gather(Ready(1), Delivery(future), Parcel(6)), std::tuple(1, 4, 6));
    Task<int> ensured = ensure_future(Ready(8));
    EXPECT_EQ(co_await ensured, 8);
  });
}

TEST_F(CoroutineTest, AnAwaiterMayResumeTheCoroutineThroughTheLoopItself) {
  run([&]() -> Coroutine<> {
    auto nested = [&]() -> Coroutine<int> {
      const int first = co_await Callback(loop);
      co_await sleep(0s);
      co_return first + co_await Callback(loop);
    };
    EXPECT_EQ(co_await nested(), 10);
    EXPECT_EQ(co_await Callback(loop), 5);
    co_await sleep(0s);
  });
}

TEST_F(CoroutineTest, ATaskThatWaitsForAForeignAwaiterIsDestroyedWithItsLoop) {
  int alive = 0;
  auto parent = [&]() -> Coroutine<> {
    test::Counted counted(alive);
    auto nested = [&]() -> Coroutine<> {
      test::Counted inner(alive);
      co_await sleep(0s);
    };
    auto waits = [&]() -> Coroutine<> {
      test::Counted inner(alive);
      co_await std::suspend_always();
    };
    co_await nested();
    co_await waits();
  };
  loop.create_task(parent);
  turn(2);
  EXPECT_EQ(alive, 2);
  loop.close();
  EXPECT_EQ(alive, 0);
  EXPECT_EQ(take_reports().size(), 1U);
}

// ---- Callables ----

// B116
TEST_F(CoroutineTest, CallablesAreTakenWithTheirArgumentsAndKeepTheirCaptures) {
  auto held = std::make_shared<int>(1);
  run([&]() -> Coroutine<> {
    TaskOptions options;
    options.name = "named";
    Task<int> plain = create_task(number, 4);
    Task<int> functor = create_task(options, Functor(), 5);
    Task<int> lambda = create_task(
        [held](int i) -> Coroutine<int> {
          co_await sleep(0s);
          co_return *held + i;
        },
        5);
    EXPECT_EQ(functor.get_name(), "named");
    EXPECT_EQ(held.use_count(), 2);
    EXPECT_EQ(co_await plain, 4);
    EXPECT_EQ(co_await functor, 5);
    EXPECT_EQ(co_await lambda, 6);
  });
  EXPECT_EQ(held.use_count(), 1);
  EXPECT_EQ(run([&]() -> Coroutine<int> { co_return *held; }), 1);
  auto task =
      loop.create_task([held](const std::string& text) -> Coroutine<std::string> { co_return text; }, "by value");
  EXPECT_EQ(run(task), "by value");
}

// A plain C++ event, whose setter resumes the waiter there and then.
struct ByHand {
  struct Awaiter {
    explicit Awaiter(ByHand& of) noexcept : event(of) {}
    bool await_ready() const noexcept { return false; }
    void await_suspend(std::coroutine_handle<> coroutine) const noexcept { event.waiter = coroutine; }
    void await_resume() const noexcept {}
    ByHand& event;
  };
  Awaiter operator co_await() noexcept { return Awaiter(*this); }
  std::coroutine_handle<> waiter;
};

TEST_F(CoroutineTest, ACoroutineResumedByHandInsideAnotherIsNotLostAtTheNextAwait) {
  ByHand event;
  std::string order;
  const auto leaf = [&]() -> Coroutine<> {
    co_await event;
    order += "leaf ";
  };
  const auto waits = [&]() -> Coroutine<> {
    co_await leaf();
    order += "waiter ";
  };
  const auto nothing = []() -> Coroutine<> { co_return; };
  const auto resumes = [&]() -> Coroutine<> {
    event.waiter.resume();
    co_await nothing();
    order += "resumer";
  };
  loop.create_task(waits());
  turn(2);
  loop.create_task(resumes());
  turn(3);
  EXPECT_EQ(order, "leaf waiter resumer");
}

}  // namespace
}  // namespace ouro
