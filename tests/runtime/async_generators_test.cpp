// AsyncGenerator: values, awaits, cancellation, closing, and what becomes of one that is dropped.
#include <ouro/runtime/generators.hpp>

#include <gmock/gmock.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <ouro/runtime/base_event_loop.hpp>
#include <ouro/runtime/sleep.hpp>
#include <ouro/runtime/thread_parker.hpp>

#include "support/test_loop.hpp"

namespace ouro {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;
using testing::StrEq;

constexpr auto turn = std::chrono::seconds(0);      // of the loop: what sleep(turn) waits for
constexpr auto forever = std::chrono::hours(1000);  // never waited for
constexpr const char* closing_failed = "an error occurred during closing of asynchronous generator";

std::string text_of(std::exception_ptr exception) {
  if (!exception) return "no exception";
  try {
    std::rethrow_exception(std::move(exception));
  } catch (const std::exception& error) {
    return error.what();
  } catch (const CancelledError& error) {
    return "CancelledError " + error.message();
  } catch (...) {
    return "another exception";
  }
}

// What the exception of awaiting `awaitable` says.
template <class A>
Coroutine<std::string> error_of(A awaitable) {
  std::exception_ptr exception;
  try {
    static_cast<void>(co_await std::move(awaitable));
  } catch (...) {
    exception = std::current_exception();
  }
  co_return text_of(std::move(exception));
}

// Notes its end.
struct Local {
  Local(std::vector<std::string>& to, std::string what) : log(to), text(std::move(what)) {}
  Local(const Local&) = delete;
  ~Local() { log.push_back(text); }
  std::vector<std::string>& log;
  std::string text;
};

class AsyncGeneratorTest : public testing::Test {
 protected:
  AsyncGeneratorTest() {
    loop->set_exception_handler([this](BaseEventLoop&, const ExceptionContext& context) {
      reports.push_back(context.message + ": " + text_of(context.exception));
    });
  }
  ~AsyncGeneratorTest() override {
    loop.reset();
    EXPECT_EQ(live_frames(), frames_before_);
  }

  static std::uint64_t live_frames() { return detail::frames_alive(); }
  template <class F>
  auto run(F&& f) {
    return loop->run_until_complete(std::forward<F>(f));
  }
  void run_turns(int count) {
    run([count]() -> Coroutine<> {
      for (int i = 0; i < count; ++i) co_await sleep(turn);
    });
  }

  // Counts up without end; logs its clean-up, which takes two turns of the loop.
  AsyncGenerator<int> count_and_clean_up(std::string name) {
    const Local local(log, name + " gone");
    std::exception_ptr error;
    try {
      for (int i = 1;; ++i) {
        co_await sleep(turn);
        co_yield i;
      }
    } catch (...) {
      error = std::current_exception();
    }
    log.push_back(name + " cleans up");
    co_await sleep(turn);
    co_await sleep(turn);
    log.push_back(name + " is clean");
    std::rethrow_exception(std::move(error));
  }

  const std::uint64_t frames_before_ = live_frames();
  std::vector<std::string> log;
  std::vector<std::string> reports;
  std::unique_ptr<test::TestLoop> loop = std::make_unique<test::TestLoop>();
};

AsyncGenerator<int> count_to(int last, bool sleeps = true) {
  for (int i = 1; i <= last; ++i) {
    if (sleeps) co_await sleep(turn);
    co_yield i;
  }
}

AsyncGenerator<int> fail_to_clean_up() {
  try {
    co_yield 1;
  } catch (const GeneratorExit&) {
    throw std::logic_error("broken");
  }
}

Coroutine<> first_of(AsyncGenerator<int>& generator) {
  const std::optional<int> first = co_await generator.next();
  EXPECT_EQ(first, 1);
}

TEST_F(AsyncGeneratorTest, GivesItsValuesAndThenNothing) {
  std::vector<int> values;
  run([&]() -> Coroutine<> {
    auto ticks = count_to(3);
    while (auto tick = co_await ticks.next()) values.push_back(*tick);
    const std::optional<int> after = co_await ticks.next();
    EXPECT_EQ(after, std::nullopt);
  });
  EXPECT_THAT(values, ElementsAre(1, 2, 3));
}

TEST_F(AsyncGeneratorTest, IsLazyAndMoves) {
  run([&]() -> Coroutine<> {
    auto unstarted = count_and_clean_up("unstarted");
    auto first = count_to(3);
    co_await first_of(first);
    AsyncGenerator<int> second = std::move(first);
    const std::optional<int> two = co_await second.next();
    EXPECT_EQ(two, 2);
    const std::optional<int> none = co_await first.next();  // NOLINT: what a moved one does is promised
    EXPECT_EQ(none, std::nullopt);
    second = count_to(5);
    co_await first_of(second);
    AsyncGenerator<int> empty;
    const std::optional<int> nothing = co_await empty.next();
    EXPECT_EQ(nothing, std::nullopt);
  });
  run_turns(3);
  EXPECT_THAT(log, IsEmpty());
}

TEST_F(AsyncGeneratorTest, AMillionValuesDoNotGrowTheStack) {
  long long sum = 0;
  run([&]() -> Coroutine<> {
    auto numbers = count_to(1'000'000, false);
    while (auto number = co_await numbers.next()) sum += *number;
  });
  EXPECT_EQ(sum, 500'000'500'000LL);
}

TEST_F(AsyncGeneratorTest, HandsMoveOnlyValuesOverAndPassesReferencesOn) {
  const auto moved = []() -> AsyncGenerator<std::unique_ptr<int>> {
    co_yield std::make_unique<int>(1);
    auto second = std::make_unique<int>(2);
    co_yield std::move(second);
  };
  int data = 7;
  const auto referred = [&]() -> AsyncGenerator<int&> { co_yield data; };
  const auto constant = [&]() -> AsyncGenerator<const int&> { co_yield data; };
  const auto copied = []() -> AsyncGenerator<std::string> {
    const std::string kept = "kept by the generator";
    co_yield kept;
    co_yield kept;
  };
  run([&]() -> Coroutine<> {
    auto pointers = moved();
    const auto one = co_await pointers.next();
    EXPECT_EQ(**one, 1);
    const auto two = co_await pointers.next();
    EXPECT_EQ(**two, 2);
    auto references = referred();
    int* const reference = co_await references.next();
    EXPECT_EQ(reference, &data);
    int* const end = co_await references.next();
    EXPECT_EQ(end, nullptr);
    auto constants = constant();
    const int* const same = co_await constants.next();
    EXPECT_EQ(same, &data);
    auto strings = copied();
    while (auto string = co_await strings.next()) EXPECT_EQ(*string, "kept by the generator");
  });
}

TEST_F(AsyncGeneratorTest, AnExceptionComesOutAndEndsIt) {
  const auto body = []() -> AsyncGenerator<int> {
    co_await sleep(turn);
    co_yield 1;
    co_await sleep(turn);
    throw std::logic_error("broken");
  };
  run([&]() -> Coroutine<> {
    auto generator = body();
    co_await first_of(generator);
    const std::string text = co_await error_of(generator.next());
    EXPECT_EQ(text, "broken");
    const std::optional<int> after = co_await generator.next();
    EXPECT_EQ(after, std::nullopt);
  });
}

TEST_F(AsyncGeneratorTest, EachValueMayBeAskedForInAnotherTask) {
  auto generator = count_to(3);
  for (int i = 1; i <= 3; ++i) {
    auto task = loop->create_task(generator.next());
    EXPECT_EQ(run(std::move(task)), i);
  }
}

TEST_F(AsyncGeneratorTest, OnlyOneMayAskAtATime) {
  run([&]() -> Coroutine<> {
    auto generator = count_to(3);
    auto first = create_task(generator.next());
    auto second = create_task(error_of(generator.next()));
    auto closing = create_task(error_of(generator.aclose()));
    const std::optional<int> one = co_await first;
    EXPECT_EQ(one, 1);
    const std::string text = co_await second;
    EXPECT_EQ(text, "anext(): asynchronous generator is already running");
    const std::string close_text = co_await closing;
    EXPECT_EQ(close_text, "aclose(): asynchronous generator is already running");
    const std::optional<int> two = co_await generator.next();
    EXPECT_EQ(two, 2);
  });
}

TEST_F(AsyncGeneratorTest, BelongsToOneLoop) {
  OURO_TEST_ALONE("there is a running loop between the runs, too");
  auto generator = count_to(3);
  run([&] { return first_of(generator); });
  BaseEventLoop other(std::make_unique<ThreadParker>());
  EXPECT_THAT(other.run_until_complete(error_of(generator.next())),
              StrEq("anext(): asynchronous generator is attached to a different loop"));
  loop->close();
  EXPECT_EQ(other.run_until_complete(generator.next()), 2);
}

TEST_F(AsyncGeneratorTest, ACancellationArrivesAtItsInnermostAwait) {
  const auto body = [&]() -> AsyncGenerator<int> {
    const Local local(log, "gone");
    try {
      co_await sleep(forever);
    } catch (const CancelledError& error) {
      log.push_back("caught " + error.message());
    }
    co_yield 1;
    co_await sleep(forever);
  };
  run([&]() -> Coroutine<> {
    auto generator = body();
    for (int i = 0; i < 2; ++i) {
      auto task = create_task(generator.next());
      co_await sleep(turn);
      EXPECT_EQ(task.get_stack().size(), 2U);  // the sleep and next()
      task.cancel("stop");
      const std::string text = co_await error_of(task);
      EXPECT_EQ(text, i == 0 ? "no exception" : "CancelledError stop");
    }
    const std::optional<int> after = co_await generator.next();
    EXPECT_EQ(after, std::nullopt);
  });
  EXPECT_THAT(log, ElementsAre("caught stop", "gone"));
}

// ---- Closing ----

TEST_F(AsyncGeneratorTest, AcloseRunsTheCleanUp) {
  run([&]() -> Coroutine<> {
    auto generator = count_and_clean_up("it");
    co_await first_of(generator);
    co_await generator.aclose();
    log.push_back("closed");
    co_await generator.aclose();
    const std::optional<int> after = co_await generator.next();
    EXPECT_EQ(after, std::nullopt);
  });
  EXPECT_THAT(log, ElementsAre("it cleans up", "it is clean", "it gone", "closed"));
}

TEST_F(AsyncGeneratorTest, AcloseOfAnUnstartedOneDestroysIt) {
  run([&]() -> Coroutine<> {
    auto generator = count_and_clean_up("it");
    co_await generator.aclose();
    const std::optional<int> after = co_await generator.next();
    EXPECT_EQ(after, std::nullopt);
  });
  EXPECT_THAT(log, IsEmpty());
}

TEST_F(AsyncGeneratorTest, AcloseThrowsWhatTheCleanUpThrows) {
  const auto swallows = []() -> AsyncGenerator<int> {
    try {
      co_yield 1;
    } catch (const GeneratorExit&) {
    }
  };
  const auto ignores = [&]() -> AsyncGenerator<int> {
    const Local local(log, "gone");
    for (int i = 1;; ++i) {
      try {
        co_yield i;
      } catch (...) {
      }
    }
  };
  run([&]() -> Coroutine<> {
    auto failing = fail_to_clean_up();
    co_await first_of(failing);
    const std::string text = co_await error_of(failing.aclose());
    EXPECT_EQ(text, "broken");
    auto swallowing = swallows();
    co_await first_of(swallowing);
    co_await swallowing.aclose();
    auto ignoring = ignores();
    co_await first_of(ignoring);
    const std::string ignored = co_await error_of(ignoring.aclose());
    EXPECT_EQ(ignored, "async generator ignored GeneratorExit");
    const std::optional<int> after = co_await ignoring.next();
    EXPECT_EQ(after, std::nullopt);
  });
  EXPECT_THAT(log, ElementsAre("gone"));
}

TEST_F(AsyncGeneratorTest, AclosingClosesWhateverComesOfTheBody) {
  run([&]() -> Coroutine<> {
    const auto second = [](AsyncGenerator<int>& generator) -> Coroutine<int> {
      co_await first_of(generator);
      const std::optional<int> two = co_await generator.next();
      co_return *two;
    };
    auto wanted = aclosing(count_and_clean_up("wanted"), second);
    const int two = co_await wanted;
    EXPECT_EQ(two, 2);
    const auto fails = [](AsyncGenerator<int>& generator) -> Coroutine<> {
      co_await first_of(generator);
      throw std::logic_error("broken");
    };
    const std::string text = co_await error_of(aclosing(count_and_clean_up("failed"), fails));
    EXPECT_EQ(text, "broken");
  });
  EXPECT_THAT(log, ElementsAre("wanted cleans up", "wanted is clean", "wanted gone", "failed cleans up",
                               "failed is clean", "failed gone"));
}

// ---- Dropped ----

TEST_F(AsyncGeneratorTest, OneThatIsDroppedIsClosedByTheLoop) {  // B64
  run([&]() -> Coroutine<> {
    {
      auto generator = count_and_clean_up("it");
      co_await first_of(generator);
    }
    log.push_back("dropped");
    for (int i = 0; i < 4; ++i) co_await sleep(turn);
  });
  EXPECT_THAT(log, ElementsAre("dropped", "it cleans up", "it is clean", "it gone"));
  EXPECT_THAT(reports, IsEmpty());
}

TEST_F(AsyncGeneratorTest, AnErrorInAClosingByTheLoopIsReported) {
  run([&]() -> Coroutine<> {
    auto generator = fail_to_clean_up();
    co_await first_of(generator);
  });
  run_turns(2);
  EXPECT_THAT(reports, ElementsAre(std::string(closing_failed) + ": broken"));
}

TEST_F(AsyncGeneratorTest, DroppedWithoutARunningLoopOnlyDestructorsRun) {
  OURO_TEST_ALONE("there is a running loop between the runs, too");
  {
    auto before_close = count_and_clean_up("before");
    run([&] { return first_of(before_close); });
  }
  auto after_close = count_and_clean_up("after");
  run([&] { return first_of(after_close); });
  loop->close();
  after_close = AsyncGenerator<int>();
  EXPECT_THAT(log, ElementsAre("before gone", "after gone"));
  EXPECT_THAT(reports, IsEmpty());
}

TEST_F(AsyncGeneratorTest, DroppedWhileItRunsItIsClosedAfterItsValue) {
  run([&]() -> Coroutine<> {
    auto generator = std::make_unique<AsyncGenerator<int>>(count_and_clean_up("it"));
    auto task = create_task(generator->next());
    co_await sleep(turn);
    generator.reset();
    const std::optional<int> one = co_await task;
    EXPECT_EQ(one, 1);
    for (int i = 0; i < 4; ++i) co_await sleep(turn);
  });
  EXPECT_THAT(log, ElementsAre("it cleans up", "it is clean", "it gone"));
}

TEST_F(AsyncGeneratorTest, ItsClosingCancelledBeforeItBeganIsLeftToTheShutdown) {
  run([&]() -> Coroutine<> {
    {
      auto generator = count_and_clean_up("it");
      co_await first_of(generator);
    }
    std::vector<AnyTask> tasks = all_tasks();  // keeps the cancelled one, and what it holds, for longer
    for (AnyTask& task : tasks) {
      if (!(task == current_task())) task.cancel();
    }
    for (int i = 0; i < 4; ++i) co_await sleep(turn);
    EXPECT_THAT(log, IsEmpty());
    co_await shutdown_asyncgens(*loop);
  });
  EXPECT_THAT(log, ElementsAre("it cleans up", "it is clean", "it gone"));
}

TEST_F(AsyncGeneratorTest, ItIsClosedByEagerTasksToo) {
  loop->set_task_factory(&eager_task_factory);
  auto kept = count_and_clean_up("kept");
  run([&]() -> Coroutine<> {
    co_await first_of(kept);
    {
      auto dropped = count_and_clean_up("dropped");
      co_await first_of(dropped);
    }
    EXPECT_THAT(log, ElementsAre("dropped cleans up"));
    for (int i = 0; i < 3; ++i) co_await sleep(turn);
    co_await shutdown_asyncgens(*loop);
  });
  EXPECT_EQ(log.size(), 6U);
}

TEST_F(AsyncGeneratorTest, WithoutATaskToCloseItItIsDestroyedWithTheLoop) {
  run([&]() -> Coroutine<> {
    auto generator = count_and_clean_up("it");
    co_await first_of(generator);
    loop->set_task_factory([](BaseEventLoop&, AnyTask, TaskOptions&) { throw std::logic_error("no task"); });
  });
  loop->set_task_factory(nullptr);
  EXPECT_THAT(reports, ElementsAre(std::string(closing_failed) + ": no task"));
  EXPECT_THAT(log, IsEmpty());
  loop->close();
  EXPECT_THAT(log, ElementsAre("it gone"));
}

// ---- The end of the loop ----

TEST_F(AsyncGeneratorTest, TheShutdownAwaitsAllCleanUps) {  // B7 as far as it is the loop's, B62
  auto first = count_and_clean_up("first");
  auto second = count_and_clean_up("second");
  auto ended = count_to(1);
  auto unstarted = count_and_clean_up("unstarted");
  run([&]() -> Coroutine<> {
    co_await first_of(first);
    co_await first_of(second);
    co_await first_of(ended);
    const std::optional<int> end = co_await ended.next();
    EXPECT_EQ(end, std::nullopt);
    auto dropped = count_and_clean_up("dropped");
    co_await first_of(dropped);
  });
  run(shutdown_asyncgens(*loop));
  EXPECT_THAT(log, testing::UnorderedElementsAre("first cleans up", "first is clean", "first gone", "second cleans up",
                                                 "second is clean", "second gone", "dropped cleans up",
                                                 "dropped is clean", "dropped gone"));
  EXPECT_EQ(run(first.next()), std::nullopt);
  run(shutdown_asyncgens(*loop));
  EXPECT_THAT(reports, IsEmpty());
}

TEST_F(AsyncGeneratorTest, TheShutdownReportsErrorsAndClosesTheOthers) {  // B63
  const auto waits = []() -> AsyncGenerator<int> {
    co_await sleep(forever);
    co_yield 1;
  };
  auto first = count_and_clean_up("first");
  auto failing = fail_to_clean_up();
  auto second = count_and_clean_up("second");
  auto running = waits();
  auto task = loop->create_task(running.next());
  run([&]() -> Coroutine<> {
    co_await first_of(first);
    co_await first_of(failing);
    co_await first_of(second);
    co_await shutdown_asyncgens(*loop);
    task.cancel();
    co_await sleep(turn);
  });
  EXPECT_EQ(log.size(), 6U);
  EXPECT_THAT(reports, testing::UnorderedElementsAre(
                           std::string(closing_failed) + ": broken",
                           std::string(closing_failed) + ": aclose(): asynchronous generator is already running"));
}

TEST_F(AsyncGeneratorTest, AShutdownCanBeCancelled) {
  auto generator = count_and_clean_up("it");
  run([&]() -> Coroutine<> {
    co_await first_of(generator);
    auto shutdown = create_task(shutdown_asyncgens(*loop));
    co_await sleep(turn);
    co_await sleep(turn);
    shutdown.cancel();
    const std::string text = co_await error_of(shutdown);
    EXPECT_EQ(text, "CancelledError ");
  });
  EXPECT_THAT(log, ElementsAre("it cleans up", "it gone"));
}

TEST_F(AsyncGeneratorTest, OneThatStartsAfterTheShutdownIsReported) {
  run(shutdown_asyncgens(*loop));
  auto generator = count_to(2);
  run([&] { return first_of(generator); });
  EXPECT_EQ(run(generator.next()), 2);
  EXPECT_THAT(reports, ElementsAre("asynchronous generator was scheduled after loop.shutdown_asyncgens() call: "
                                   "no exception"));
}

TEST_F(AsyncGeneratorTest, ALoopThatClosesDestroysWhatIsSuspendedInNext) {
  const auto waits = [&](std::string name) -> AsyncGenerator<int> {
    const Local local(log, std::move(name));
    co_await sleep(forever);
    co_yield 1;
  };
  const auto outer = [&](AsyncGenerator<int> inner) -> AsyncGenerator<int> {
    const Local local(log, "outer");
    const std::optional<int> value = co_await inner.next();
    co_yield *value;
  };
  const auto main = [&](AsyncGenerator<int> generator) -> Coroutine<> {
    const Local local(log, "coroutine");
    co_await first_of(generator);
  };
  auto mine = waits("mine");
  auto nested = loop->create_task(main(outer(waits("inner"))));
  run_turns(3);
  auto borrowed = loop->create_task(mine.next());
  run_turns(3);
  loop->close();
  EXPECT_TRUE(nested.cancelled());
  EXPECT_TRUE(borrowed.cancelled());
  nested = Task<>();  // the outermost frame lives as long as its handles
  EXPECT_THAT(log, testing::UnorderedElementsAre("inner", "outer", "coroutine", "mine"));
  EXPECT_LT(std::find(log.begin(), log.end(), "inner"), std::find(log.begin(), log.end(), "outer"));
  EXPECT_LT(std::find(log.begin(), log.end(), "outer"), std::find(log.begin(), log.end(), "coroutine"));
  BaseEventLoop other(std::make_unique<ThreadParker>());
  EXPECT_EQ(other.run_until_complete(mine.next()), std::nullopt);
}

TEST_F(AsyncGeneratorTest, ALoopThatClosesDestroysOneThatWasToBeClosed) {
  run([&]() -> Coroutine<> {
    auto generator = count_and_clean_up("it");
    co_await first_of(generator);
  });
  loop->close();
  EXPECT_THAT(log, ElementsAre("it cleans up", "it gone"));
}

AsyncGenerator<int> countdown(int from) {
  if (from == 0) {
    co_await sleep(forever);
  } else {
    auto lower = countdown(from - 1);
    while (auto value = co_await lower.next()) co_yield *value;
  }
}

TEST_F(AsyncGeneratorTest, ADeepChainIsCancelledAndDestroyedWithoutRecursion) {
  auto chain = countdown(100'000);
  auto cancelled = loop->create_task(error_of(chain.next()));
  auto destroyed = loop->create_task([]() -> Coroutine<> {
    auto generator = countdown(100'000);
    static_cast<void>(co_await generator.next());
  });
  run_turns(3);
  cancelled.cancel();
  EXPECT_EQ(run(cancelled), "CancelledError ");
  loop->close();
  EXPECT_TRUE(destroyed.cancelled());
}

}  // namespace
}  // namespace ouro
