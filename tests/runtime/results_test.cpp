// Results of every kind of type, as coroutines, tasks and futures give them.
#include <gmock/gmock.h>

#include <any>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <ouro/runtime/coroutine.hpp>
#include <ouro/runtime/futures.hpp>
#include <ouro/runtime/sleep.hpp>
#include <ouro/runtime/tasks.hpp>

#include "support/loop_fixture.hpp"

namespace ouro {
namespace {

using namespace std::chrono_literals;
using test::Counted;
using test::thrown_by;
using testing::Pointee;
using testing::StrEq;

class ResultTest : public test::LoopTest {};

// A type without a default constructor, which can be moved and not copied.
struct MoveOnly {
  explicit MoveOnly(int n) : value(std::make_unique<int>(n)) {}
  std::unique_ptr<int> value;
};

// A type that can be constructed only with a value, and copied.
struct NoDefault {
  explicit NoDefault(int n) : value(n) {}
  int value;
};

// Stricter than a frame's alignment.
struct alignas(64) Aligned {
  explicit Aligned(int n) : value(n) {}
  Aligned(Aligned&&) = default;
  bool is_aligned() const { return reinterpret_cast<std::uintptr_t>(this) % 64 == 0; }
  int value;
};

// Its moves throw while they are armed.
struct Throwing {
  explicit Throwing(int n) : value(n) {}
  Throwing(Throwing&& other) : value(other.value) {  // NOLINT: that it throws is the point
    if (armed) throw std::runtime_error("moved");
  }
  int value;
  static inline bool armed = false;
};

template <class T>
Coroutine<T> now(T value) {
  co_return std::move(value);
}
template <class T>
Coroutine<T> later(T value) {
  co_await sleep(0ms);
  co_return std::move(value);
}

// ---- What an await gives ----

static_assert(std::is_same_v<await_result_t<Coroutine<int>>, int>);
static_assert(std::is_same_v<await_result_t<Coroutine<int&>>, int&>);
static_assert(std::is_same_v<await_result_t<Coroutine<>>, void>);
static_assert(std::is_same_v<await_result_t<Future<int>&>, int>);
static_assert(std::is_same_v<await_result_t<Future<int>>, int>);
static_assert(std::is_same_v<await_result_t<Future<int&>&>, int&>);
static_assert(std::is_same_v<await_result_t<Future<>&>, void>);
static_assert(std::is_same_v<await_result_t<Task<MoveOnly>&>, const MoveOnly&>);
static_assert(std::is_same_v<await_result_t<Task<MoveOnly>>, MoveOnly>);
static_assert(std::is_same_v<decltype(std::declval<const Future<int>&>().result()), const int&>);
static_assert(std::is_same_v<decltype(std::declval<const Future<int&>&>().result()), int&>);
static_assert(std::is_void_v<decltype(std::declval<const Future<>&>().result())>);

// A value goes through a nested await, a task awaited as an lvalue and as an rvalue, and a future.
template <class T>
Coroutine<bool> goes_everywhere(BaseEventLoop& loop, T value) {
  T nested = co_await later<T>(value);
  if (!(nested == value)) co_return false;
  auto task = create_task(later<T>(value));
  T from_lvalue = co_await task;
  T again = co_await task;
  if (!(from_lvalue == value && again == value && task.result() == value)) co_return false;
  T from_rvalue = co_await std::move(task);
  if (!(from_rvalue == value)) co_return false;
  auto future = loop.create_future<T>();
  future.set_result(value);
  T from_future = co_await future;
  co_return from_future == value;
}

TEST_F(ResultTest, ValuesGoThroughCoroutinesTasksAndFutures) {
  EXPECT_TRUE(run(goes_everywhere<int>(loop, 42)));
  EXPECT_TRUE(run(goes_everywhere<bool>(loop, true)));
  EXPECT_TRUE(run(goes_everywhere<char>(loop, 'x')));
  EXPECT_TRUE(run(goes_everywhere<std::string>(loop, std::string(100, 'x'))));
  EXPECT_TRUE(run(goes_everywhere<std::vector<int>>(loop, std::vector<int>(1000, 7))));
  EXPECT_TRUE(run(goes_everywhere<std::shared_ptr<int>>(loop, std::make_shared<int>(1))));
  EXPECT_TRUE(run(goes_everywhere<std::exception_ptr>(loop, std::make_exception_ptr(1))));
  EXPECT_TRUE(run(goes_everywhere<const char*>(loop, "text")));
}

TEST_F(ResultTest, ATypeThatIsBuiltFromAnythingIsAValue) {
  const auto gives = []() -> Coroutine<std::any> {
    std::any value = std::string("any");
    co_return value;
  };
  EXPECT_THAT(std::any_cast<std::string>(run(gives())), StrEq("any"));
  auto future = loop.create_future<std::function<int()>>();
  future.set_result([] { return 3; });
  EXPECT_EQ(run(future)(), 3);
}

// Also void.
TEST_F(ResultTest, VoidIsWaitedFor) {
  int done = 0;
  const auto counts = [&done]() -> Coroutine<> {
    co_await sleep(0ms);
    ++done;
  };
  const auto body = [&]() -> Coroutine<> {
    co_await counts();
    auto task = create_task(counts());
    co_await task;
    co_await task;
    task.result();
    co_await std::move(task);
  };
  run(body());
  EXPECT_EQ(done, 2);
  auto future = loop.create_future();
  future.set_result();
  run(future);
  future.result();
}

TEST_F(ResultTest, AReferenceStaysOne) {
  int target = 1;
  const auto gives = [&target]() -> Coroutine<int&> {
    co_await sleep(0ms);
    co_return target;
  };
  const auto body = [&]() -> Coroutine<bool> {
    int& nested = co_await gives();
    auto task = create_task(gives());
    int& shared = co_await task;
    int& owned = co_await std::move(task);
    co_return &nested == &target && &shared == &target && &owned == &target;
  };
  EXPECT_TRUE(run(body()));
  auto task = loop.create_task(gives());
  run(task) = 5;
  EXPECT_EQ(target, 5);
  EXPECT_EQ(&task.result(), &target);
  const std::string text = "constant";
  auto future = loop.create_future<const std::string&>();
  future.set_result(text);
  EXPECT_EQ(&future.result(), &text);
  EXPECT_EQ(&run(future), &text);
}

// B136: an lvalue gives the result object itself, an rvalue moves it out.
TEST_F(ResultTest, AMoveOnlyResultOfAnLvalueIsAReferenceAndOfAnRvalueAMove) {
  const auto body = []() -> Coroutine<> {
    MoveOnly nested = co_await later(MoveOnly(1));
    EXPECT_THAT(nested.value, Pointee(1));
    auto task = create_task(later(MoveOnly(2)));
    const MoveOnly& shared = co_await task;
    EXPECT_EQ(&shared, &task.result());
    EXPECT_THAT(shared.value, Pointee(2));
    const MoveOnly& again = co_await task;
    EXPECT_EQ(&again, &shared);
    MoveOnly owned = co_await std::move(task);
    EXPECT_THAT(owned.value, Pointee(2));
  };
  run(body());
  EXPECT_THAT(run(now(MoveOnly(3))).value, Pointee(3));
  auto task = loop.create_task(later(MoveOnly(4)));
  EXPECT_THAT(run(std::move(task)).value, Pointee(4));
}

TEST_F(ResultTest, AMoveOnlyResultIsNotTakenFromUnderAnotherHandle) {
  auto task = loop.create_task(later(MoveOnly(1)));
  auto copy = task;
  const auto takes = [](Task<MoveOnly> last) -> Coroutine<> { co_await std::move(last); };
  EXPECT_THAT(thrown_by([&] { run(takes(std::move(copy))); }),
              StrEq("RuntimeError: the result can only be moved, and another handle to the task exists"));
  EXPECT_THAT(task.result().value, Pointee(1));
}

TEST_F(ResultTest, ACopyableResultOfASharedTaskIsCopied) {
  auto task = loop.create_task(later(std::string("shared")));
  auto copy = task;
  const auto takes = [](Task<std::string> handle) -> Coroutine<std::string> { co_return co_await std::move(handle); };
  EXPECT_THAT(run(takes(std::move(copy))), StrEq("shared"));
  EXPECT_THAT(task.result(), StrEq("shared"));
}

TEST_F(ResultTest, NeedsNoDefaultConstructor) {
  EXPECT_EQ(run(now(NoDefault(1))).value, 1);
  auto task = loop.create_task(later(NoDefault(2)));
  EXPECT_EQ(run(task).value, 2);
  auto future = loop.create_future<NoDefault>();
  future.set_result(3);
  EXPECT_EQ(future.result().value, 3);
  const auto by_argument = []() -> Coroutine<NoDefault> { co_return 4; };
  EXPECT_EQ(run(by_argument()).value, 4);
}

TEST_F(ResultTest, BracesAreAValue) {
  const auto empty = []() -> Coroutine<std::string> { co_return {}; };
  EXPECT_THAT(run(empty()), StrEq(""));
  const auto filled = []() -> Coroutine<std::vector<int>> { co_return {1, 2, 3}; };
  EXPECT_THAT(run(filled()), testing::ElementsAre(1, 2, 3));
}

TEST_F(ResultTest, AnOverAlignedOneIsAligned) {
  const auto gives = [](int n) -> Coroutine<Aligned> {
    co_await sleep(0ms);
    co_return n;
  };
  auto task = loop.create_task(gives(1));
  const Aligned taken = run(gives(2));
  EXPECT_EQ(taken.value, 2);
  EXPECT_TRUE(taken.is_aligned());
  EXPECT_TRUE(task.result().is_aligned());
  EXPECT_EQ(task.result().value, 1);
  auto future = loop.create_future<Aligned>();
  future.set_result(3);
  EXPECT_TRUE(future.result().is_aligned());
  const auto looks = [](Future<Aligned> awaited) -> Coroutine<int> {
    const Aligned& shared = co_await awaited;
    EXPECT_TRUE(shared.is_aligned());
    co_return shared.value;
  };
  EXPECT_EQ(run(looks(future)), 3);
  EXPECT_EQ(run(std::move(future)).value, 3);
}

TEST_F(ResultTest, AMoveThatThrowsAtTheReturnFailsTheTask) {
  const auto gives = []() -> Coroutine<Throwing> {
    Throwing value(1);
    co_await sleep(0ms);
    Throwing::armed = true;
    co_return std::move(value);
  };
  auto task = loop.create_task(gives());
  turn(2);
  Throwing::armed = false;
  ASSERT_TRUE(task.done());
  EXPECT_THAT(thrown_by([&] { task.result(); }), StrEq("exception: moved"));
  const auto nests = [&gives]() -> Coroutine<> {
    try {
      co_await gives();
      ADD_FAILURE();
    } catch (const std::runtime_error& error) {
      EXPECT_THAT(error.what(), StrEq("moved"));
    }
    Throwing::armed = false;
  };
  run(nests());
}

TEST_F(ResultTest, AMoveThatThrowsInSetResultLeavesTheFuturePending) {
  auto future = loop.create_future<Throwing>();
  Throwing value(1);
  Throwing::armed = true;
  EXPECT_THAT(thrown_by([&] { future.set_result(std::move(value)); }), StrEq("exception: moved"));
  Throwing::armed = false;
  EXPECT_FALSE(future.done());
  future.set_result(2);
  EXPECT_EQ(future.result().value, 2);
}

TEST_F(ResultTest, AMoveThatThrowsAtTheAwaitIsThrownThere) {
  const auto body = []() -> Coroutine<> {
    const auto gives = []() -> Coroutine<Throwing> { co_return 1; };
    Throwing::armed = true;
    try {
      co_await gives();
      ADD_FAILURE();
    } catch (const std::runtime_error&) {
    }
    auto task = create_task(gives());
    const Throwing& shared = co_await task;
    EXPECT_EQ(shared.value, 1);
    try {
      co_await std::move(task);
      ADD_FAILURE();
    } catch (const std::runtime_error&) {
    }
    Throwing::armed = false;
  };
  run(body());
}

TEST_F(ResultTest, ATaskCanReturnATask) {
  const auto body = []() -> Coroutine<Task<int>> { co_return create_task(later(7)); };
  Task<int> inner = run(body());
  EXPECT_FALSE(inner.done());
  EXPECT_EQ(run(inner), 7);
}

TEST_F(ResultTest, IsDestroyedOnceWithTheLastHandle) {
  int alive = 0;
  {
    auto task = loop.create_task(later(Counted(alive)));
    run(task);
    EXPECT_GE(alive, 1);
    auto future = loop.create_future<Counted>();
    future.set_result(alive);
    const auto copy = future;
  }
  EXPECT_EQ(alive, 0);
}

TEST_F(ResultTest, AnExceptionAfterTheReturnReplacesTheValue) {
  int alive = 0;
  struct Throws {
    ~Throws() noexcept(false) { throw std::runtime_error("from a destructor"); }
  };
  const auto body = [&alive]() -> Coroutine<Counted> {
    const Throws throws;
    co_return alive;
  };
  auto task = loop.create_task(body());
  turn();
  ASSERT_TRUE(task.done());
  EXPECT_THAT(thrown_by([&] { task.result(); }), StrEq("exception: from a destructor"));
  EXPECT_EQ(alive, 0);
}

}  // namespace
}  // namespace ouro
