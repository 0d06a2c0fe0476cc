// Shapes of expressions around co_await that compilers have got wrong, with the library's own types and an object that
// notices when it is copied bitwise, destroyed twice or not at all. What g++ 12 cannot do is compiled for clang alone:
// there the comment says what goes wrong, and how to write it instead.
#include <gtest/gtest.h>

#include <cstdint>
#include <exception>
#include <memory>
#include <set>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <ouro/runtime/base_event_loop.hpp>
#include <ouro/runtime/gather.hpp>
#include <ouro/runtime/sleep.hpp>

#include "support/loop_fixture.hpp"

namespace ouro {
namespace {

using namespace std::chrono_literals;

// Knows where it lives.
class Tracked {
 public:
  explicit Tracked(int v) : value(v) { born(); }
  Tracked(const Tracked& other) : value(other.value) {
    check(other);
    if (throw_on_copy) throw std::runtime_error("copy");
    born();
  }
  Tracked(Tracked&& other) noexcept : value(other.value) {
    check(other);
    other.value = -1;
    born();
  }
  Tracked& operator=(const Tracked&) = delete;
  ~Tracked() {
    check(*this);
    alive.erase(this);
  }

  static void check(const Tracked& one) {
    if (!alive.contains(&one)) ++strangers;
  }

  static inline std::set<const Tracked*> alive;
  static inline int strangers = 0;
  static inline bool throw_on_copy = false;

  int value;

 private:
  void born() {
    if (!alive.insert(this).second) ++strangers;
  }
};

class CompilerProbe : public test::LoopTest {
 protected:
  void TearDown() override {
    EXPECT_TRUE(Tracked::alive.empty());
    EXPECT_EQ(Tracked::strangers, 0);
    Tracked::throw_on_copy = false;
    LoopTest::TearDown();
  }
};

Coroutine<int> number(int i) {
  co_await sleep(0s);
  co_return i;
}
Coroutine<int> now(int i) { co_return i; }
Coroutine<std::string> text(std::string s) {
  co_await sleep(0s);
  co_return s;
}
Coroutine<bool> truth(bool b) {
  co_await sleep(0s);
  co_return b;
}
Coroutine<int> by_value(Tracked t) {
  co_await sleep(0s);
  co_return t.value;
}
Coroutine<int> by_rvalue(Tracked&& t) {
  co_await sleep(0s);
  co_return t.value;
}
Coroutine<int> by_constant(const Tracked& t) {
  co_await sleep(0s);
  co_return t.value;
}
Coroutine<int> by_pointer(std::unique_ptr<Tracked> t) {
  co_await sleep(0s);
  co_return t->value;
}
Coroutine<Tracked> make(int i) {
  co_await sleep(0s);
  co_return Tracked(i);
}

struct Member {
  int base;
  Coroutine<int> add(int i, Tracked extra = Tracked(100)) const {
    co_await sleep(0s);
    co_return base + i + extra.value;
  }
};

TEST_F(CompilerProbe, ParametersAreMovedAndDestroyedOnce) {
  run([]() -> Coroutine<> {
    EXPECT_EQ(co_await by_value(Tracked(1)), 1);
    Tracked named(2);
    EXPECT_EQ(co_await by_value(named), 2);
    EXPECT_EQ(co_await by_value(std::move(named)), 2);
    EXPECT_EQ(co_await by_pointer(std::make_unique<Tracked>(3)), 3);
    EXPECT_EQ(co_await gather(by_value(Tracked(4)), by_value(Tracked(5))), std::tuple(4, 5));
    EXPECT_EQ(co_await create_task(by_value(Tracked(6))), 6);
    EXPECT_EQ(co_await create_task(by_value, Tracked(7)), 7);
  });
}

TEST_F(CompilerProbe, TemporariesInTheOperandLiveUntilTheAwaitEnds) {
  run([]() -> Coroutine<> {
    EXPECT_EQ(co_await by_constant(Tracked(1)), 1);
    EXPECT_EQ(co_await by_rvalue(Tracked(2)), 2);
    EXPECT_EQ(co_await by_constant(co_await make(3)), 3);
    EXPECT_EQ((co_await make(4)).value + (co_await make(5)).value, 9);
    EXPECT_EQ((co_await text("a long enough text to be on the heap")).substr(2, 4), "long");
    EXPECT_EQ(co_await Member{10}.add(1), 111);
    const Member member{20};
    EXPECT_EQ(co_await member.add(2, Tracked(3)), 25);
  });
}

TEST_F(CompilerProbe, AParkedCoroutineIsDestroyedWithAllItHolds) {
  auto parks = [&](Tracked t) -> Coroutine<> {
    Tracked local(t.value + 1);
    co_await by_value(Tracked(3));
    co_await loop.create_future();
  };
  loop.create_task(parks(Tracked(1)));
  {
    auto unstarted = parks(Tracked(5));
  }
  turn(3);
  EXPECT_EQ(Tracked::alive.size(), 2U);
  loop.close();
  EXPECT_TRUE(Tracked::alive.empty());
  take_reports();
}

TEST_F(CompilerProbe, AnExceptionFromAParametersCopyFreesTheFrame) {
  const Tracked original(1);
  const std::uint64_t frames = test::live_frames();
  Tracked::throw_on_copy = true;
  EXPECT_EQ(test::thrown_by([&] { static_cast<void>(by_value(original)); }), "exception: copy");
  EXPECT_EQ(test::thrown_by([&] { loop.create_task(by_value, original); }), "exception: copy");
  Tracked::throw_on_copy = false;
  EXPECT_EQ(test::live_frames(), frames);
}

TEST_F(CompilerProbe, Conditions) {
  run([]() -> Coroutine<> {
    const bool yes = co_await truth(true);
    EXPECT_EQ(yes ? co_await number(1) : co_await number(2), 1);
    EXPECT_EQ(!yes ? co_await now(1) : co_await number(2), 2);
    EXPECT_TRUE(co_await truth(true) && co_await truth(true));
    EXPECT_FALSE(co_await truth(false) && (co_await number(1) == 2 || co_await truth(true)));
    EXPECT_TRUE(co_await truth(true) || co_await truth(false));
    int rounds = 0;
    while (co_await truth(rounds < 3)) ++rounds;
    for (int i = 0; co_await truth(i < 2); i += co_await number(1)) ++rounds;
    do ++rounds;
    while (co_await truth(rounds < 7));
    switch (co_await number(2)) {
      case 2:
        rounds += co_await number(10);
        break;
      default:
        rounds = 0;
    }
    if (const int got = co_await number(5); got == 5) ++rounds;
    EXPECT_EQ(rounds, 18);
  });
}

TEST_F(CompilerProbe, SeveralAwaitsInOneExpression) {
  run([]() -> Coroutine<> {
    const auto pair = std::pair(co_await number(1), co_await text("two"));
    EXPECT_EQ(pair.second, "two");
    int values[3] = {0, 0, 0};
    int i = 0;
    values[i++] = co_await number(7);
    values[co_await number(2)] = co_await number(8);
    EXPECT_EQ(values[0] + values[2], 15);
    const std::string joined = co_await text("a") + co_await text("b") + std::to_string(co_await now(3));
    EXPECT_EQ(joined, "ab3");
    EXPECT_EQ(co_await number(co_await number(co_await now(4))), 4);
    std::vector<int> list;
    list.push_back(co_await number(1));
    list.emplace_back(co_await number(2));
    EXPECT_EQ(list.size(), 2U);
  });
}

TEST_F(CompilerProbe, ExceptionsAroundAwaits) {
  run([]() -> Coroutine<> {
    auto fails = [](Tracked t) -> Coroutine<int> {
      co_await sleep(0s);
      if (t.value > 0) throw std::runtime_error("failed");
      co_return 0;
    };
    std::exception_ptr kept;
    int caught = 0;
    try {
      Tracked local(1);
      try {
        co_await fails(Tracked(2));
      } catch (const std::logic_error&) {
        ADD_FAILURE();
      }
    } catch (const std::runtime_error&) {
      ++caught;
      kept = std::current_exception();
    }
    co_await sleep(0s);
    try {
      std::rethrow_exception(kept);
    } catch (const std::runtime_error& error) {
      EXPECT_STREQ(error.what(), "failed");
      ++caught;
    }
    try {
      EXPECT_EQ(co_await by_value(Tracked(co_await fails(Tracked(3)))), 0);
    } catch (const std::runtime_error&) {
      ++caught;
    }
    EXPECT_EQ(caught, 3);
  });
}

TEST_F(CompilerProbe, LambdasThatOutliveTheirCall) {
  run([]() -> Coroutine<> {
    Tracked captured(5);
    auto capturing = [captured](int i) -> Coroutine<int> {
      co_await sleep(0s);
      co_return captured.value + i;
    };
    EXPECT_EQ(co_await capturing(1), 6);
    auto make_adder = [](int a) {
      return [](int x, int y) -> Coroutine<int> {
        co_await sleep(0s);
        co_return x + y;
      }(a, 10);
    };
    EXPECT_EQ(co_await make_adder(1), 11);
    Task<int> task = create_task(capturing, 2);
    EXPECT_EQ(co_await task, 7);
  });
}

TEST_F(CompilerProbe, LvaluesOfTheLibraryAreAwaitedInPlace) {
  run([&]() -> Coroutine<> {
    std::vector<Task<int>> tasks;
    tasks.push_back(create_task(number(1)));
    tasks.push_back(create_task(number(2)));
    EXPECT_EQ(co_await tasks[0] + co_await tasks[1], 3);
    EXPECT_EQ(co_await tasks[0], 1);
    std::vector<Coroutine<int>> coroutines;
    coroutines.push_back(number(3));
    EXPECT_EQ(co_await coroutines[0], 3);
    EXPECT_FALSE(coroutines[0]);
    Task<int>& chosen = co_await truth(true) ? tasks[0] : tasks[1];
    EXPECT_EQ(co_await chosen, 1);
    auto nap = sleep(0s);
    co_await std::move(nap);
  });
}

// A frame lies at a multiple of 16; what needs more alignment lies apart.
TEST_F(CompilerProbe, OverAlignedResultsAreAligned) {
  struct alignas(64) Wide {
    volatile std::uintptr_t own;
    explicit Wide(std::uintptr_t o) : own(o) {}
    Wide(const Wide& other) : own(other.own) {}
  };
  auto wide = []() -> Coroutine<Wide> {
    co_await sleep(0s);
    co_return Wide(3);
  };
  Task<Wide> task = loop.create_task(wide);
  run(task);
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(&task.result()) % 64, 0U);
  EXPECT_EQ(task.result().own, 3U);
}

#ifdef __clang__

struct Aggregate {
  Tracked tracked;
  std::string name;
};
Coroutine<int> of_aggregate(Aggregate a) {
  co_await sleep(0s);
  co_return a.tracked.value;
}

// g++ 12 copies the temporary bitwise and destroys it twice. Give the type a constructor, or name the object.
TEST_F(CompilerProbe, AnAggregateMadeInTheOperand) {
  run([]() -> Coroutine<> { EXPECT_EQ(co_await of_aggregate({Tracked(1), "short"}), 1); });
}

// g++ 12 destroys the value of the arm that was not taken. Write an if.
TEST_F(CompilerProbe, AnAwaitInOneArmBesideAnObjectInTheOther) {
  run([]() -> Coroutine<> {
    for (const bool b : {true, false}) {
      const std::string chosen = b ? co_await text("awaited") : std::string("not awaited");
      EXPECT_EQ(chosen, b ? "awaited" : "not awaited");
      const Tracked tracked = b ? co_await make(1) : Tracked(2);
      EXPECT_EQ(tracked.value, b ? 1 : 2);
    }
  });
}

// g++ 12 crashes. Choose first: `auto chosen = b ? number(1) : now(2); co_await std::move(chosen);`.
TEST_F(CompilerProbe, AChoiceOfTwoCoroutines) {
  run([]() -> Coroutine<> {
    for (const bool b : {true, false}) EXPECT_EQ(co_await (b ? number(1) : now(2)), b ? 1 : 2);
    EXPECT_EQ(co_await by_value(co_await truth(true) ? Tracked(3) : Tracked(4)), 3);
  });
}

// g++ 12: "array used as initializer". Name the container first.
TEST_F(CompilerProbe, BracedListsInTheOperand) {
  run([]() -> Coroutine<> {
    auto count = [](std::vector<std::string> words) -> Coroutine<std::size_t> { co_return words.size(); };
    EXPECT_EQ(co_await count({"a", "b"}), 2U);
    const std::vector<int> values{co_await number(1), co_await number(2)};
    EXPECT_EQ(values.size(), 2U);
  });
}

// g++ 12 destroys the captures twice. Name the lambda, or give it to create_task, which keeps it.
TEST_F(CompilerProbe, ACapturingLambdaMadeInTheOperand) {
  run([]() -> Coroutine<> {
    const Tracked captured(3);
    EXPECT_EQ((co_await [captured]() -> Coroutine<int> {
                co_await sleep(0s);
                co_return captured.value;
              }()),
              3);
  });
}

#endif

}  // namespace
}  // namespace ouro
