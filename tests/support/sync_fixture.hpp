// Tests of locks, queues and channels on one loop, with objects of both kinds: that loop's own, and shared ones.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <ouro/runtime/coroutine.hpp>
#include <ouro/runtime/sleep.hpp>
#include <ouro/runtime/tasks.hpp>

#include "support/loop_fixture.hpp"

namespace ouro::test {

enum class Made { on_the_loop, outside };

class SyncTest : public LoopTest, public testing::WithParamInterface<Made> {
 protected:
  // Inside the loop, where it is the loop's own unless that is in a group; or outside, where it is shared.
  template <class T, class... Args>
  std::unique_ptr<T> make(Args... args) {
    if (GetParam() == Made::outside) {
      detail::LoopState* const here = detail::set_running_state(nullptr);
      auto made = std::make_unique<T>(args...);
      detail::set_running_state(here);
      return made;
    }
    return run(
        [](Args... given) -> Coroutine<std::unique_ptr<T>> { co_return std::make_unique<T>(given...); }(args...));
  }

  // Runs an awaitable in a task of its own, and says when it came to its end and how: "name" or "name!" if cancelled.
  template <class MakeAwaitable>
  Task<> note(std::string name, MakeAwaitable make_awaitable) {
    return loop.create_task([](SyncTest& test, std::string as, MakeAwaitable to_await) -> Coroutine<> {
      bool cancelled = false;
      try {
        auto awaitable = to_await();
        static_cast<void>(co_await std::move(awaitable));
      } catch (const CancelledError&) {
        cancelled = true;
      }
      test.ended.push_back(cancelled ? as + "!" : as);
      if (cancelled) throw CancelledError();
    }(*this, std::move(name), std::move(make_awaitable)));
  }

  std::vector<std::string> ended;
};

inline std::string name_of_made(const testing::TestParamInfo<Made>& info) {
  return info.param == Made::on_the_loop ? "OnTheLoop" : "Outside";
}
#define OURO_SYNC_TESTS(fixture)                                                                          \
  INSTANTIATE_TEST_SUITE_P(Made, fixture,                                                                 \
                           testing::Values(::ouro::test::Made::on_the_loop, ::ouro::test::Made::outside), \
                           ::ouro::test::name_of_made)

}  // namespace ouro::test
