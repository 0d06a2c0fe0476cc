// Asynchronous generators over several loops.
#include <gmock/gmock.h>

#include <memory>
#include <utility>
#include <vector>

#include <ouro/ouro.hpp>

#include "support/group.hpp"

namespace ouro {
namespace {

using namespace std::chrono_literals;
using test::GroupsOfAnySize;
using test::Ledger;

INSTANTIATE_TEST_SUITE_P(Workers, GroupsOfAnySize, testing::Values(1U, 2U, 4U, 16U), testing::PrintToStringParamName());

// Holds a value that is seen to be used by two threads at once.
AsyncGenerator<std::unique_ptr<int>> ticks(Ledger& ledger, bool waits) {
  const Ledger::Entry entry(ledger);
  for (int i = 0;; ++i) {
    if (waits) co_await sleep(0s);
    auto tick = std::make_unique<int>(i);
    co_yield std::move(tick);
  }
}

TEST_P(GroupsOfAnySize, OnesInAVectorThatGrows) {
  Ledger ledger;
  const auto main = [&]() -> Coroutine<> {
    std::vector<AsyncGenerator<std::unique_ptr<int>>> some;
    for (int i = 0; i < 10; ++i) {
      some.push_back(ticks(ledger, i % 2 == 0));
      if (i >= 5) continue;
      EXPECT_TRUE(co_await some.back().next());
    }
    for (auto& generator : some) EXPECT_TRUE(co_await generator.next());
    for (auto& generator : some) co_await generator.aclose();
  };
  run(main);
  EXPECT_EQ(ledger.begun(), 10);
  EXPECT_EQ(ledger.open(), 0);
}

}  // namespace
}  // namespace ouro
