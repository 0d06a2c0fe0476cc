// What others brought: stop tokens, futures of the standard library, callbacks, awaitables that are not ouro's.
#include <ouro/runtime/interop.hpp>

#include <gmock/gmock.h>

#include <chrono>
#include <coroutine>
#include <cstdint>
#include <future>
#include <memory>
#include <optional>
#include <stdexcept>
#include <stop_token>
#include <string>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>

#include <ouro/runtime/as_completed.hpp>
#include <ouro/runtime/gather.hpp>
#include <ouro/runtime/shutdown.hpp>
#include <ouro/runtime/sleep.hpp>
#include <ouro/runtime/taskgroups.hpp>
#include <ouro/runtime/timeouts.hpp>

#include "support/loop_fixture.hpp"

namespace ouro {
namespace {

using namespace std::chrono_literals;
using test::describe;
using test::thrown_by;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::StartsWith;

using Interop = test::LoopTest;

template <class A>
Coroutine<std::string> error_of(A awaitable) {
  try {
    co_await std::move(awaitable);
  } catch (...) {
    co_return describe(std::current_exception());
  }
  co_return "nothing";
}

Coroutine<int> give(int value) { co_return value; }
Coroutine<int> give_later(int value) {
  co_await sleep(0s);
  co_return value;
}
Coroutine<> for_ever(BaseEventLoop& loop) { co_await loop.create_future(); }

// ---- A stop request cancels ----

TEST_F(Interop, WithoutAStopTheResultComesThrough) {
  std::stop_source source;
  EXPECT_EQ(run(cancel_on_stop(source.get_token(), give(1))), 1);
  EXPECT_EQ(run(cancel_on_stop(source.get_token(), give_later(2))), 2);
  EXPECT_EQ(run(cancel_on_stop(std::stop_token(), give_later(3))), 3);
  EXPECT_EQ(run(cancel_on_stop(source.get_token(), [](int a) { return give(a); }, 4)), 4);
  const auto unique = []() -> Coroutine<std::unique_ptr<int>> {
    co_await sleep(0s);
    co_return std::make_unique<int>(5);
  };
  EXPECT_EQ(*run(cancel_on_stop(source.get_token(), unique())), 5);
  const auto fails = []() -> Coroutine<> {
    co_await sleep(0s);
    throw std::runtime_error("of its own");
  };
  EXPECT_EQ(run(error_of(cancel_on_stop(source.get_token(), fails()))), "exception: of its own");
}

TEST_F(Interop, AStopRequestCancels) {
  std::stop_source source;
  bool cleaned_up = false;
  const auto waits = [](BaseEventLoop& in, bool& clean) -> Coroutine<> {
    struct Clean {
      bool& clean;
      ~Clean() { clean = true; }
    } last{clean};
    co_await in.create_future();
  };
  Task<std::string> task = loop.create_task(error_of(cancel_on_stop(source.get_token(), waits(loop, cleaned_up))));
  turn(2);
  EXPECT_FALSE(task.done());
  source.request_stop();
  EXPECT_EQ(run(task), "CancelledError: stop was requested");
  EXPECT_TRUE(cleaned_up);
  EXPECT_EQ(task.cancelling(), 0);  // the task around was not asked
}

TEST_F(Interop, AStopFromAnotherThreadWakesTheLoop) {
  std::stop_source source;
  std::jthread other;
  const auto main = [&]() -> Coroutine<std::string> {
    other = std::jthread([&] { source.request_stop(); });
    co_return co_await error_of(cancel_on_stop(source.get_token(), for_ever(loop)));
  };
  EXPECT_EQ(run(main()), "CancelledError: stop was requested");
}

TEST_F(Interop, WhatWasStoppedBeforeNeverBegins) {
  std::stop_source source;
  source.request_stop();
  bool ran = false;
  const auto sets = [](bool& flag) -> Coroutine<> {
    flag = true;
    co_return;
  };
  EXPECT_EQ(run(error_of(cancel_on_stop(source.get_token(), sets(ran)))), "CancelledError: stop was requested");
  EXPECT_FALSE(ran);
}

TEST_F(Interop, WhoIsStoppedMayEndOtherwise) {
  std::stop_source source;
  const auto stubborn = [](BaseEventLoop& in) -> Coroutine<int> {
    try {
      co_await in.create_future();
    } catch (const CancelledError&) {
    }
    co_return co_await give_later(6);
  };
  Task<int> task = loop.create_task(cancel_on_stop(source.get_token(), stubborn(loop)));
  turn(2);
  source.request_stop();
  EXPECT_EQ(run(task), 6);
}

TEST_F(Interop, ACancellationGoesThroughToWhatMayBeStopped) {
  std::stop_source source;
  Task<> task = loop.create_task(cancel_on_stop(source.get_token(), for_ever(loop)));
  turn(2);
  task.cancel("enough");
  EXPECT_EQ(thrown_by([&] { run(task); }), "CancelledError: enough");
  source.request_stop();  // nobody is there any more
  turn(2);
}

// It waits in a ring of tasks, but a thread may break that: with no grace at all the run would end with an error.
TEST_F(Interop, WhatMayBeStoppedIsNoDeadlock) {
  loop.deadlock_grace = 0ns;
  std::stop_source source;
  const auto waits_for = [](Task<>& other) -> Coroutine<> { co_await other; };
  Task<> a;
  Task<> b = loop.create_task(waits_for(a));
  a = loop.create_task(cancel_on_stop(source.get_token(), waits_for(b)));
  const std::uint64_t before = loop.counters().parks;
  std::jthread other([&] {
    while (loop.counters().parks == before) std::this_thread::yield();
    source.request_stop();
  });
  EXPECT_EQ(thrown_by([&] { run(a); }), "CancelledError: stop was requested");
  EXPECT_EQ(thrown_by([&] { run(b); }), "CancelledError: stop was requested");
}

TEST_F(Interop, AStopAfterTheLoopIsGoneReachesNobody) {
  std::stop_source source;
  Task<> task = loop.create_task(cancel_on_stop(source.get_token(), for_ever(loop)));
  turn(2);
  task = {};
  loop.close();
  EXPECT_THAT(take_reports(), testing::SizeIs(testing::Gt(0U)));
  source.request_stop();
}

// ---- A cancellation requests a stop ----

TEST_F(Interop, ACancellationStopsAThreadAndWaitsForIt) {
  std::promise<void> begun;
  std::optional<bool> stopped;
  const auto work = [&](std::stop_token token) {
    begun.set_value();
    std::promise<void> asked;
    const std::stop_callback callback(token, [&] { asked.set_value(); });
    asked.get_future().wait();
    stopped = token.stop_requested();
    return 7;
  };
  Task<int> task =
      loop.create_task(stop_on_cancel([&](std::stop_token token) { return to_thread(work, std::move(token)); }));
  turn(2);
  begun.get_future().wait();
  EXPECT_FALSE(stopped);
  task.cancel("enough");
  EXPECT_EQ(thrown_by([&] { run(task); }), "CancelledError: enough");
  EXPECT_EQ(stopped, true);
  EXPECT_TRUE(task.cancelled());
}

TEST_F(Interop, UncancelledItGivesTheResult) {
  std::stop_token kept;
  const auto keep = [&](std::stop_token token) {
    kept = token;
    EXPECT_FALSE(token.stop_requested());
    return give_later(3);
  };
  EXPECT_EQ(run(stop_on_cancel(keep)), 3);
  EXPECT_TRUE(kept.stop_requested());  // all is over
  EXPECT_EQ(*run(stop_on_cancel(
                [](std::stop_token) -> Coroutine<std::unique_ptr<int>> { co_return std::make_unique<int>(4); })),
            4);
}

TEST_F(Interop, AnErrorAfterTheStopIsTheOneThatComes) {
  const auto fails = [](std::stop_token token) -> Coroutine<> {
    while (!token.stop_requested()) co_await sleep(0s);
    throw std::runtime_error("could not stop");
  };
  Task<> task = loop.create_task(stop_on_cancel(fails));
  turn(2);
  task.cancel();
  EXPECT_EQ(thrown_by([&] { run(task); }), "exception: could not stop");
}

TEST_F(Interop, ASecondCancellationIsNoRequestAnyMore) {
  std::stop_token kept;
  Task<> task = loop.create_task(stop_on_cancel([&](std::stop_token token) {
    kept = std::move(token);
    return for_ever(loop);
  }));
  turn(2);
  task.cancel("please");
  turn(3);
  EXPECT_TRUE(kept.stop_requested());
  EXPECT_FALSE(task.done());
  task.cancel("now");
  EXPECT_EQ(thrown_by([&] { run(task); }), "CancelledError: now");
}

TEST_F(Interop, BothWaysAtOnce) {
  std::stop_source outer;
  std::stop_token inner;
  const auto waits = [&](std::stop_token token) -> Coroutine<> {
    inner = token;
    while (!token.stop_requested()) co_await sleep(0s);
  };
  auto task = loop.create_task(error_of(cancel_on_stop(outer.get_token(), stop_on_cancel(waits))));
  turn(3);
  EXPECT_FALSE(inner.stop_requested());
  outer.request_stop();
  EXPECT_EQ(run(task), "CancelledError: stop was requested");
  EXPECT_TRUE(inner.stop_requested());
}

// ---- Futures of the standard library ----

TEST_F(Interop, AReadyStdFutureCostsNoThread) {
  std::promise<int> promise;
  promise.set_value(4);
  std::promise<void> broken;
  broken.set_exception(std::make_exception_ptr(std::runtime_error("broken")));
  std::promise<std::unique_ptr<int>> unique;
  unique.set_value(std::make_unique<int>(5));
  std::promise<int&> reference;
  int target = 0;
  reference.set_value(target);
  const auto main = [&]() -> Coroutine<> {
    const Future<int> ready = wrap_future(promise.get_future());
    EXPECT_TRUE(ready.done());
    EXPECT_EQ(co_await ready, 4);
    EXPECT_EQ(co_await error_of(wrap_future(broken.get_future())), "exception: broken");
    EXPECT_EQ(*co_await wrap_future(unique.get_future()), 5);
    EXPECT_EQ(&co_await wrap_future(reference.get_future()), &target);
  };
  run(main());
  EXPECT_THAT(thrown_by([&] { wrap_future(std::future<int>(), loop); }), StartsWith("ValueError: wrap_future"));
}

TEST_F(Interop, APendingStdFutureIsAwaitedThroughTheExecutor) {
  std::promise<std::string> promise;
  std::promise<int> shared;
  const std::shared_future<int> source = shared.get_future().share();
  const auto main = [&]() -> Coroutine<> {
    Future<std::string> first = wrap_future(promise.get_future());
    Future<int> second = wrap_future(source);
    Future<int> third = wrap_future(source, loop);
    EXPECT_FALSE(first.done());
    co_await sleep(0s);
    promise.set_value("text");
    shared.set_exception(std::make_exception_ptr(std::runtime_error("broken")));
    EXPECT_EQ(co_await std::move(first), "text");
    EXPECT_EQ(co_await error_of(std::move(second)), "exception: broken");
    EXPECT_EQ(co_await error_of(std::move(third)), "exception: broken");
    auto deferred = std::async(std::launch::deferred, [] { return std::this_thread::get_id(); });
    EXPECT_NE(co_await wrap_future(std::move(deferred)), std::this_thread::get_id());
  };
  run(main());
}

TEST_F(Interop, ACancelledWaitForAStdFutureLeavesItsThread) {
  std::promise<void> promise;
  const auto main = [&]() -> Coroutine<> {
    Future<> future = wrap_future(promise.get_future());
    co_await sleep(0s);
    future.cancel();
    EXPECT_EQ(co_await error_of(std::move(future)), "CancelledError: ");
    promise.set_value();  // or the executor's thread would wait for ever
    co_await shutdown_default_executor(loop, 1h);
  };
  run(main());
}

// ---- Callbacks with a void* ----

using Callback = void (*)(int status, void* context);

TEST_F(Interop, AnAddressHoldsTheResultUntilTheCallbackComes) {
  const auto main = [&]() -> Coroutine<> {
    const auto on_done = [](int status, void* context) {
      EXPECT_EQ(ConcurrentFuture<int>::from_address(context).try_set_result(status), status == 1);
    };
    const auto result = ConcurrentFuture<int>::create();
    std::jthread other(Callback(on_done), 1, result.to_address());
    EXPECT_EQ(co_await wrap_future(result), 1);

    void* address = nullptr;  // who waits has gone when the callback comes
    {
      const auto dropped = ConcurrentFuture<int>::create();
      address = dropped.to_address();
      Future<int> waits = wrap_future(dropped);
      co_await sleep(0s);
      waits.cancel();
      co_await sleep(0s);
      EXPECT_TRUE(dropped.cancelled());
    }
    on_done(2, address);
  };
  run(main());
}

TEST_F(Interop, TryingToSetDoesNotThrow) {
  const auto result = ConcurrentFuture<std::string>::create();
  EXPECT_TRUE(result.try_set_result("first"));
  EXPECT_FALSE(result.try_set_result("second"));
  EXPECT_FALSE(result.try_set_exception(std::make_exception_ptr(1)));
  EXPECT_EQ(result.result(), "first");
  const auto failed = ConcurrentFuture<>::create();
  EXPECT_TRUE(failed.try_set_exception(std::make_exception_ptr(std::runtime_error("first"))));
  EXPECT_FALSE(failed.try_set_result());
  EXPECT_THAT(thrown_by([&] { failed.result(); }), HasSubstr("first"));
}

// ---- Awaitables that are not ouro's ----

// Gives twice its number, when a callback of the loop resumes it.
class ByCallback {
 public:
  ByCallback(BaseEventLoop& loop, int value) noexcept : loop_(&loop), value_(value) {}
  bool await_ready() const noexcept { return false; }
  void await_suspend(std::coroutine_handle<> coroutine) const {
    loop_->call_soon([coroutine] { coroutine.resume(); });
  }
  int await_resume() const noexcept { return 2 * value_; }

 private:
  BaseEventLoop* loop_;
  int value_;
};
// The same by a member operator, and by a free one.
struct WithMember {
  BaseEventLoop* loop;
  int value;
  ByCallback operator co_await() const noexcept { return {*loop, value}; }
};
struct WithFree {
  BaseEventLoop* loop;
  int value;
};
ByCallback operator co_await(const WithFree& from) noexcept { return {*from.loop, from.value}; }

static_assert(Awaitable<ByCallback> && Awaitable<WithMember> && Awaitable<WithFree>);

TEST_F(Interop, ForeignAwaitablesAreAwaitedEverywhere) {
  const WithMember member{&loop, 1};
  const WithFree free{&loop, 2};
  const auto main = [&]() -> Coroutine<> {
    EXPECT_EQ(co_await ByCallback(loop, 0), 0);
    EXPECT_EQ(co_await member, 2);
    EXPECT_EQ(co_await free, 4);
    EXPECT_EQ(co_await gather(member, free, ByCallback(loop, 3)), std::tuple(2, 4, 6));
    EXPECT_EQ(co_await create_task(member), 2);
    EXPECT_EQ(co_await loop.create_task(free), 4);
    EXPECT_EQ(co_await ensure_future(free), 4);
    EXPECT_EQ(co_await spawn(member), 2);
    EXPECT_EQ(co_await wait_for(member, 1h), 2);
    EXPECT_EQ(co_await timeout(1h, free), 4);
    EXPECT_EQ(co_await shield(member), 2);
    EXPECT_EQ(co_await cancel_on_stop(std::stop_token(), free), 4);
    std::vector<Task<int>> tasks;
    tasks.push_back(create_task(member));
    tasks.push_back(create_task(free));
    int sum = 0;
    for (auto next : as_completed(tasks)) sum += co_await next;
    EXPECT_EQ(sum, 6);
  };
  run(main());
  EXPECT_EQ(run(member), 2);
  EXPECT_EQ(run(free), 4);
}

// Resumes on a thread of its own, with the handle that it was given.
class OnAThread {
 public:
  explicit OnAThread(int value) noexcept : value_(value) {}
  bool await_ready() const noexcept { return false; }
  void await_suspend(std::coroutine_handle<> coroutine) const { std::thread(coroutine).detach(); }
  int await_resume() const {
    if (value_ < 0) throw std::runtime_error("negative");
    return value_;
  }

 private:
  int value_;
};

TEST_F(Interop, WhatResumesElsewhereIsBroughtHome) {
  const std::thread::id here = std::this_thread::get_id();
  const auto main = [&]() -> Coroutine<> {
    EXPECT_EQ(co_await resume_here(OnAThread(1)), 1);
    EXPECT_EQ(std::this_thread::get_id(), here);
    const auto results = co_await gather(resume_here(OnAThread(2)), give_later(3), resume_here(OnAThread(4)));
    EXPECT_EQ(results, std::tuple(2, 3, 4));
    EXPECT_EQ(std::this_thread::get_id(), here);
    EXPECT_EQ(co_await error_of(resume_here(OnAThread(-1))), "exception: negative");
    EXPECT_EQ(co_await wait_for(resume_here(OnAThread(5)), 1h), 5);
    co_await resume_here(std::suspend_never());
  };
  run(main());
}

}  // namespace
}  // namespace ouro
