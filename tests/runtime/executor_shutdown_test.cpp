// shutdown_default_executor: what waits, what it leaves behind, and what comes after it.
#include <gmock/gmock.h>

#include <latch>
#include <memory>
#include <string>
#include <utility>

#include <ouro/runtime/executors.hpp>
#include <ouro/runtime/shutdown.hpp>
#include <ouro/runtime/sleep.hpp>
#include <ouro/runtime/threads.hpp>

#include "support/loop_fixture.hpp"

namespace ouro {
namespace {

using namespace std::chrono_literals;
using testing::HasSubstr;
using testing::SizeIs;

// An executor whose shutdown(wait) lasts until the test says so.
class StuckExecutor final : public Executor {
 public:
  void submit(Job& job) override { job.run(); }
  void shutdown(bool wait, bool) override {
    if (!wait) return;
    waits.count_down();
    go.wait();
    gone.count_down();
  }

  std::latch waits{1};
  std::latch go{1};
  std::latch gone{1};
};

class ExecutorShutdownTest : public test::LoopTest {};

// B66
TEST_F(ExecutorShutdownTest, WaitsForTheThreads) {
  bool ran = false;
  const auto body = [](BaseEventLoop& on, bool& done) -> Coroutine<> {
    auto work = [&done] { done = true; };
    auto future = on.run_in_executor(nullptr, work);
    co_await shutdown_default_executor(on);
    EXPECT_TRUE(done);
    co_await future;
  };
  run(body(loop, ran));
  EXPECT_TRUE(ran);
}

// B66, T22
TEST_F(ExecutorShutdownTest, AfterTheTimeoutSaysSoAndLeavesTheThreadsToThemselves) {
  auto stuck = std::make_shared<StuckExecutor>();
  loop.set_default_executor(stuck);
  run(shutdown_default_executor(loop, 5ms));
  const auto told = take_reports();
  ASSERT_THAT(told, SizeIs(1));
  EXPECT_THAT(told[0].message, HasSubstr("did not finish joining"));
  stuck->go.count_down();  // they end later, and nobody waits: nothing happens
  stuck->gone.wait();
}

TEST_F(ExecutorShutdownTest, CancelledLeavesTheThreadsToThemselves) {
  auto stuck = std::make_shared<StuckExecutor>();
  loop.set_default_executor(stuck);
  auto task = loop.create_task(shutdown_default_executor(loop));
  turn(2);
  stuck->waits.wait();
  EXPECT_TRUE(task.cancel());
  turn(3);
  EXPECT_TRUE(task.cancelled());
  stuck->go.count_down();
  stuck->gone.wait();
}

// B67
TEST_F(ExecutorShutdownTest, LaterWorkIsRefusedAndLosesNothing) {
  run(shutdown_default_executor(loop));
  auto held = std::make_shared<int>(7);
  const auto body = [](BaseEventLoop& on, std::shared_ptr<int>& shared) -> Coroutine<std::string> {
    auto work = [shared] { return *shared; };
    std::string text;
    try {
      auto future = on.run_in_executor(nullptr, work);
      co_await future;
    } catch (const RuntimeError& error) {
      text = error.what();
    }
    co_return text;
  };
  EXPECT_EQ(run(body(loop, held)), "Executor shutdown has been called");
  EXPECT_EQ(held.use_count(), 1);
}

}  // namespace
}  // namespace ouro
