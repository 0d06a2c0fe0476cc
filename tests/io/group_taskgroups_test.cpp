// Task groups whose children run, end and fail on any worker.
#include <gmock/gmock.h>

#include <atomic>
#include <chrono>
#include <exception>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <ouro/ouro.hpp>

#include "support/group.hpp"

namespace ouro {
namespace {

using namespace std::chrono_literals;
using test::Ledger;

class GroupTaskGroups : public test::GroupsOfAnySize {};
INSTANTIATE_TEST_SUITE_P(Workers, GroupTaskGroups, testing::Values(1U, 2U, 4U));

template <class A>
Coroutine<std::string> end_of(A awaitable) {
  try {
    co_await std::move(awaitable);
  } catch (const ExceptionGroup& group) {
    co_return group.what();
  } catch (...) {
    co_return test::describe(std::current_exception());
  }
  co_return "";
}

Coroutine<> yields(int times) {
  for (int i = 0; i < times; ++i) co_await sleep(0s);
}
Coroutine<> counted(Ledger& ledger, int times) {
  Ledger::Entry entry(ledger);
  co_await yields(times);
  entry.finish();
}
Coroutine<> fails(int after) {
  co_await yields(after);
  throw std::runtime_error("failed");
}
constexpr int forever = 1 << 30;

TEST_P(GroupTaskGroups, WaitsForAllChildren) {
  Ledger ledger;
  const auto body = [&](TaskGroup& group) -> Coroutine<> {
    for (int i = 0; i < 2000; ++i) group.create_task(counted(ledger, i % 5));
    co_return;
  };
  const auto main = [&]() -> Coroutine<> {
    for (int round = 0; round < 5; ++round) {
      co_await task_group(body);
      EXPECT_EQ(ledger.open(), 0);
    }
  };
  run(main());
  EXPECT_EQ(ledger.finished(), 10'000);
}

// B224, B243
TEST_P(GroupTaskGroups, OneErrorCancelsAllOthersWhereverTheyAre) {
  Ledger ledger;
  const auto main = [&]() -> Coroutine<> {
    for (int round = 0; round < 40; ++round) {
      const bool in_body = round % 2 == 0;
      const auto body = [&](TaskGroup& group) -> Coroutine<> {
        for (int i = 0; i < 50; ++i) group.create_task(counted(ledger, forever));
        group.create_task(fails(round % 7));
        for (int i = 0; i < 50; ++i) {
          if (group.size() > 100) break;
          try {
            group.create_task(counted(ledger, forever));
          } catch (const RuntimeError&) {
            break;  // it aborts already
          }
        }
        if (in_body) co_await sleep(1h);
      };
      EXPECT_EQ(co_await end_of(task_group(body)), "unhandled errors in a TaskGroup (1 sub-exception)");
      EXPECT_EQ(ledger.open(), 0);
      EXPECT_EQ(current_task().cancelling(), 0);
      EXPECT_EQ(co_await end_of(sleep(0s)), "");  // no cancellation is left
    }
  };
  run(main());
}

// Many fail at the same time.
TEST_P(GroupTaskGroups, NoErrorIsLost) {
  const auto main = []() -> Coroutine<> {
    for (int round = 0; round < 20; ++round) {
      std::atomic<int> thrown{0};
      std::size_t told = 0;
      const auto child = [](std::atomic<int>& count, int after) -> Coroutine<> {
        co_await yields(after);
        ++count;
        throw std::runtime_error("failed");
      };
      try {
        co_await task_group([&](TaskGroup& group) -> Coroutine<> {
          for (int i = 0; i < 30; ++i) {
            try {
              group.create_task(child(thrown, i % 3));
            } catch (const RuntimeError&) {
              break;
            }
          }
          co_return;
        });
      } catch (const ExceptionGroup& group) {
        told = group.exceptions().size();
      }
      EXPECT_EQ(told, static_cast<std::size_t>(thrown.load()));
      EXPECT_GT(told, 0U);
    }
  };
  run(main());
}

// B225, B235
TEST_P(GroupTaskGroups, ACancellationOfTheParentReachesAll) {
  Ledger ledger;
  const auto main = [&]() -> Coroutine<> {
    for (int round = 0; round < 40; ++round) {
      auto parent = create_task(task_group([&, round](TaskGroup& group) -> Coroutine<> {
        for (int i = 0; i < 20; ++i) group.create_task(counted(ledger, forever));
        if (round % 2 == 0) co_await sleep(1h);
      }));
      co_await yields(round % 9);
      parent.cancel("enough");
      EXPECT_EQ(co_await end_of(parent), "CancelledError: enough");
      EXPECT_EQ(ledger.open(), 0);
    }
  };
  run(main());
}

// The end of the last child, an error and the cancellation at the same time: one end, all joined.
TEST_P(GroupTaskGroups, EndErrorAndCancellationRace) {
  Ledger ledger;
  const auto main = [&]() -> Coroutine<> {
    for (int round = 0; round < 100; ++round) {
      auto parent = create_task(task_group([&, round](TaskGroup& group) -> Coroutine<> {
        group.create_task(counted(ledger, round % 4));
        group.create_task(counted(ledger, round % 5));
        if (round % 3 == 0) group.create_task(fails(round % 6));
        co_await yields(round % 3);
      }));
      co_await yields(1 + round % 4);
      parent.cancel();
      const std::string end = co_await end_of(parent);
      EXPECT_TRUE(end.empty() || end == "CancelledError: " ||
                  end == "unhandled errors in a TaskGroup (1 sub-exception)" ||
                  end == "RuntimeError: TaskGroup <TaskGroup cancelling> is shutting down")
          << end;
      EXPECT_EQ(ledger.open(), 0);
    }
  };
  run(main());
}

// B237, B238
TEST_P(GroupTaskGroups, ChildrenMakeSiblingsFromAnyWorker) {
  Ledger ledger;
  struct Tree {
    static Coroutine<> grow(TaskGroup& group, Ledger& ledger, int depth) {
      Ledger::Entry entry(ledger);
      if (depth > 0) {
        group.create_task(grow(group, ledger, depth - 1));
        group.create_task(grow(group, ledger, depth - 1));
      }
      co_await yields(1);
      entry.finish();
    }
  };
  run(task_group([&](TaskGroup& group) -> Coroutine<> {
    group.create_task(Tree::grow(group, ledger, 9));
    co_return;
  }));
  EXPECT_EQ(ledger.finished(), 1023);
}

// B245
TEST_P(GroupTaskGroups, CancelFromAChildOnAnyWorker) {
  Ledger ledger;
  const auto main = [&]() -> Coroutine<> {
    for (int round = 0; round < 40; ++round) {
      const auto body = [&](TaskGroup& group) -> Coroutine<> {
        for (int i = 0; i < 20; ++i) group.create_task(counted(ledger, forever));
        group.create_task([&group]() -> Coroutine<> {
          co_await yields(2);
          group.cancel();
        });
        if (round % 2 == 0) co_await sleep(1h);
      };
      EXPECT_EQ(co_await end_of(task_group(body)), "");
      EXPECT_EQ(ledger.open(), 0);
      EXPECT_EQ(current_task().cancelling(), 0);
      EXPECT_EQ(co_await end_of(sleep(0s)), "");
    }
  };
  run(main());
}

TEST_P(GroupTaskGroups, AGatherOfGroupsIsCancelledByOneError) {
  Ledger ledger;
  const auto child = [&](bool bad) -> Coroutine<> {
    co_await task_group([&](TaskGroup& group) -> Coroutine<> {
      for (int i = 0; i < 10; ++i) group.create_task(counted(ledger, forever));
      if (bad) group.create_task(fails(3));
      co_return;
    });
  };
  const auto main = [&]() -> Coroutine<> {
    std::vector<Coroutine<>> many;
    for (int i = 0; i < 10; ++i) many.push_back(child(i == 7));
    EXPECT_EQ(co_await end_of(gather(std::move(many))), "unhandled errors in a TaskGroup (1 sub-exception)");
    EXPECT_EQ(ledger.open(), 0);
  };
  run(main());
}

// B221
TEST_P(GroupTaskGroups, ADeadlineAroundAGroup) {
  Ledger ledger;
  const auto main = [&]() -> Coroutine<> {
    const auto body = [&](TaskGroup& group) -> Coroutine<> {
      for (int i = 0; i < 20; ++i) group.create_task(counted(ledger, forever));
      co_return;
    };
    EXPECT_EQ(co_await end_of(timeout(2ms, task_group(body))), "TimeoutError: the deadline has passed");
    EXPECT_EQ(ledger.open(), 0);
  };
  run(main());
}

TEST_P(GroupTaskGroups, ChildrenOfAPinnedParentStayOnItsLoop) {
  const auto on_home = [](BaseEventLoop& home) -> Coroutine<> {
    co_await task_group([&](TaskGroup& group) -> Coroutine<> {
      for (int i = 0; i < 20; ++i) {
        group.create_task([&home]() -> Coroutine<> {
          for (int n = 0; n < 5; ++n) {
            co_await sleep(0s);
            EXPECT_EQ(&get_running_loop(), &home);
          }
        });
      }
      co_return;
    });
    EXPECT_EQ(co_await end_of(task_group([](TaskGroup& group) -> Coroutine<> {
                group.create_task(fails(1));
                group.create_task(yields(forever));
                co_return;
              })),
              "unhandled errors in a TaskGroup (1 sub-exception)");
  };
  const auto main = [&]() -> Coroutine<> {
    std::vector<Task<>> tasks;
    for (BaseEventLoop* loop : workers()) tasks.push_back(loop->create_task(on_home(*loop)));
    for (auto& task : tasks) co_await task;
  };
  run(main());
}

TEST_P(GroupTaskGroups, ManyChildrenOneOfWhichFails) {
  constexpr int many = OURO_ASAN || OURO_TSAN ? 5'000 : 100'000;
  Ledger ledger;
  const auto main = [&]() -> Coroutine<std::string> {
    co_return co_await end_of(task_group([&](TaskGroup& group) -> Coroutine<> {
      const auto child = [](Ledger& of) -> Coroutine<> {
        Ledger::Entry entry(of);
        co_await sleep(1h);
      };
      for (int i = 0; i < many; ++i) group.create_task(child(ledger));
      group.create_task(fails(1));
      co_return;
    }));
  };
  EXPECT_EQ(run(main()), "unhandled errors in a TaskGroup (1 sub-exception)");
  EXPECT_EQ(ledger.open(), 0);
}

}  // namespace
}  // namespace ouro
