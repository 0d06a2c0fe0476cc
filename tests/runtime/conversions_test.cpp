// Numbers given where a result of another type is wanted: nothing in our headers is warned about. This file compiles
// with every warning about conversions, as errors in every build (CMakeLists.txt).
#include <gmock/gmock.h>

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>

#include <ouro/runtime/concurrent_future.hpp>
#include <ouro/runtime/coroutine.hpp>
#include <ouro/runtime/futures.hpp>
#include <ouro/runtime/gather.hpp>
#include <ouro/runtime/generators.hpp>
#include <ouro/runtime/threads.hpp>

#include "support/loop_fixture.hpp"

namespace ouro {
namespace {

using namespace std::chrono_literals;

class ConversionsTest : public test::LoopTest {};

struct Explicit {
  explicit operator int() const { return 6; }
};

Coroutine<std::uint64_t> from_int() { co_return 1; }
Coroutine<std::uint8_t> from_wider() { co_return 2; }
Coroutine<double> from_variable(int value) { co_return value; }
Coroutine<float> from_double() { co_return 0.5; }
Coroutine<bool> from_pointer(const void* pointer) { co_return pointer; }
Coroutine<std::uint64_t> from_braces() { co_return {}; }
Coroutine<int> from_explicit() { co_return Explicit(); }
Coroutine<std::optional<std::uint64_t>> inside_another() { co_return 7; }
Coroutine<std::chrono::nanoseconds> from_seconds() { co_return 8s; }
AsyncGenerator<std::uint64_t> yielded() { co_yield 9; }

TEST_F(ConversionsTest, OfWhatACoroutineReturns) {
  EXPECT_EQ(run(from_int()), 1U);
  EXPECT_EQ(run(from_wider()), 2);
  EXPECT_EQ(run(from_variable(3)), 3.0);
  EXPECT_EQ(run(from_double()), 0.5F);
  EXPECT_TRUE(run(from_pointer(this)));
  EXPECT_EQ(run(from_braces()), 0U);
  EXPECT_EQ(run(from_explicit()), 6);
  EXPECT_EQ(run(inside_another()), 7U);
  EXPECT_EQ(run(from_seconds()), 8s);
}

TEST_F(ConversionsTest, OfChildrenAndValues) {
  const auto body = []() -> Coroutine<> {
    const auto [one, half] = co_await gather(from_int(), from_double());
    EXPECT_EQ(one, 1U);
    EXPECT_EQ(half, 0.5F);
    AsyncGenerator<std::uint64_t> generator = yielded();
    EXPECT_EQ(co_await generator.next(), 9U);
    co_await generator.aclose();
  };
  run(body());
}

TEST_F(ConversionsTest, OfWhatAFutureIsSetTo) {
  Future<std::uint64_t> future = loop.create_future<std::uint64_t>();
  future.set_result(1);
  EXPECT_EQ(future.result(), 1U);
  Future<int> other = loop.create_future<int>();
  other.set_result(Explicit());
  EXPECT_EQ(other.result(), 6);
  Future<int> nothing_given = loop.create_future<int>();
  nothing_given.set_result();
  EXPECT_EQ(nothing_given.result(), 0);
  Future<std::string> text = loop.create_future<std::string>();
  text.set_result(3U, 'x');
  EXPECT_EQ(text.result(), "xxx");
  const auto elsewhere = ConcurrentFuture<std::uint64_t>::create();
  elsewhere.set_result(2);
  EXPECT_EQ(elsewhere.result(), 2U);
}

}  // namespace
}  // namespace ouro
