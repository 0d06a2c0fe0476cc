// Queue, PriorityQueue and LifoQueue on one loop, as asyncio's.
#include <ouro/runtime/queues.hpp>

#include <gmock/gmock.h>

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <ouro/runtime/gather.hpp>
#include <ouro/runtime/sleep.hpp>

#include "support/sync_fixture.hpp"

namespace ouro {
namespace {

using namespace std::chrono_literals;
using test::thrown_by;
using testing::ElementsAre;
using testing::IsEmpty;

constexpr QueueOptions one{.maxsize = 1};
constexpr QueueOptions two{.maxsize = 2};

class Queues : public test::SyncTest {
 protected:
  // Gets an item and says so: "a:1", or "a!" if cancelled, "a shut" after a shutdown.
  template <class Q>
  Task<> get(std::string name, Q& queue) {
    return loop.create_task([](Queues& test, std::string as, Q& from) -> Coroutine<> {
      bool cancelled = false;
      try {
        test.ended.push_back(as + ":" + std::to_string(co_await from.get()));
      } catch (const QueueShutDown&) {
        test.ended.push_back(as + " shut");
      } catch (const CancelledError&) {
        cancelled = true;
      }
      if (!cancelled) co_return;
      test.ended.push_back(as + "!");
      throw CancelledError();
    }(*this, std::move(name), queue));
  }
  template <class Q>
  Task<> put(std::string name, Q& queue, int item) {
    return loop.create_task([](Queues& test, std::string as, Q& to, int x) -> Coroutine<> {
      bool cancelled = false;
      try {
        co_await to.put(x);
        test.ended.push_back(as);
      } catch (const QueueShutDown&) {
        test.ended.push_back(as + " shut");
      } catch (const CancelledError&) {
        cancelled = true;
      }
      if (!cancelled) co_return;
      test.ended.push_back(as + "!");
      throw CancelledError();
    }(*this, std::move(name), queue, item));
  }
};

// B282, B284
TEST_P(Queues, HaveABound) {
  auto queue = make<Queue<int>>(two);
  EXPECT_EQ(queue->maxsize(), 2);
  EXPECT_TRUE(queue->empty() && !queue->full() && queue->qsize() == 0);
  EXPECT_EQ(thrown_by([&] { queue->get_nowait(); }), "RuntimeError: the queue is empty");
  EXPECT_THROW(queue->get_nowait(), QueueEmpty);
  queue->put_nowait(1);
  queue->put_nowait(2);
  EXPECT_TRUE(!queue->empty() && queue->full() && queue->qsize() == 2);
  EXPECT_THROW(queue->put_nowait(3), QueueFull);
  EXPECT_EQ(queue->get_nowait(), 1);
  EXPECT_FALSE(queue->full());
  for (const std::ptrdiff_t unbounded : {0, -1}) {
    auto wide = make<Queue<int>>(QueueOptions{.maxsize = unbounded});
    for (int i = 0; i < 1000; ++i) wide->put_nowait(i);
    EXPECT_TRUE(!wide->full() && wide->qsize() == 1000);
    for (int i = 0; i < 1000; ++i) EXPECT_EQ(wide->get_nowait(), i);
  }
}

TEST_P(Queues, WhileAnItemIsPromisedItMayBeEmptyAndFull) {
  auto queue = make<Queue<int>>(QueueOptions{.maxsize = 1});
  note("got", [&] { return queue->get(); });
  turn(2);
  queue->put_nowait(1);
  EXPECT_TRUE(queue->empty() && queue->full());
  turn(2);
  EXPECT_TRUE(queue->empty() && !queue->full());
  EXPECT_EQ(ended, std::vector<std::string>{"got"});
}

// B283
TEST_P(Queues, HaveAnOrder) {
  auto fifo = make<Queue<int>>();
  auto lifo = make<LifoQueue<int>>();
  auto least = make<PriorityQueue<int>>();
  auto most = make<PriorityQueue<int, std::greater<int>>>();
  std::vector<int> got;
  for (int i : {3, 1, 2}) {
    fifo->put_nowait(i);
    lifo->put_nowait(i);
    least->put_nowait(i);
    most->put_nowait(i);
  }
  for (int i = 0; i < 3; ++i) got.push_back(fifo->get_nowait());
  for (int i = 0; i < 3; ++i) got.push_back(lifo->get_nowait());
  for (int i = 0; i < 3; ++i) got.push_back(least->get_nowait());
  for (int i = 0; i < 3; ++i) got.push_back(most->get_nowait());
  EXPECT_THAT(got, ElementsAre(3, 1, 2, 2, 1, 3, 1, 2, 3, 3, 2, 1));
}

// The item of the moment in which the getter runs is its.
TEST_P(Queues, AGetterTakesTheBestOfItsMoment) {
  auto queue = make<PriorityQueue<int>>();
  get("a", *queue);
  turn();
  queue->put_nowait(5);
  queue->put_nowait(1);
  turn();
  EXPECT_THAT(ended, ElementsAre("a:1"));
}

// B285, B289
TEST_P(Queues, WakeEachOther) {
  auto queue = make<Queue<int>>(one);
  get("a", *queue);
  get("b", *queue);
  turn();
  put("p", *queue, 1);
  put("q", *queue, 2);
  turn(4);
  EXPECT_THAT(ended, testing::UnorderedElementsAre("p", "q", "a:1", "b:2"));
  ended.clear();
  for (int i = 1; i <= 3; ++i) put(std::to_string(i), *queue, i);
  turn(2);
  EXPECT_THAT(ended, ElementsAre("1"));
  EXPECT_EQ(queue->get_nowait(), 1);
  turn();
  EXPECT_EQ(queue->get_nowait(), 2);
  turn();
  EXPECT_EQ(queue->get_nowait(), 3);
  EXPECT_THAT(ended, ElementsAre("1", "2", "3"));
  // Two getters, and twice an item in one turn.
  auto wide = make<Queue<int>>();
  ended.clear();
  get("c", *wide);
  get("d", *wide);
  turn();
  wide->put_nowait(7);
  wide->put_nowait(8);
  turn(2);
  EXPECT_THAT(ended, ElementsAre("c:7", "d:8"));
  auto produce = [](Queue<int>& to) -> Coroutine<> {
    for (int i = 0; i < 5; ++i) co_await to.put(i);
  };
  auto consume = [](Queue<int>& from) -> Coroutine<int> {
    int sum = 0;
    for (int i = 0; i < 5; ++i) sum += co_await from.get();
    co_return sum;
  };
  auto [nothing, sum] = run(gather(produce(*queue), consume(*queue)));
  static_cast<void>(nothing);
  EXPECT_EQ(sum, 10);
}

// Who was woken is not overtaken.
TEST_P(Queues, PromisesAreKept) {
  auto queue = make<Queue<int>>(one);
  get("a", *queue);
  turn();
  queue->put_nowait(1);
  EXPECT_TRUE(queue->empty()) << "it is promised";
  EXPECT_TRUE(queue->full()) << "and there";
  EXPECT_THROW(queue->get_nowait(), QueueEmpty);
  get("b", *queue);
  turn();
  EXPECT_THAT(ended, ElementsAre("a:1"));
  put("p", *queue, 2);
  turn(3);
  EXPECT_THAT(ended, ElementsAre("a:1", "p", "b:2"));
  queue->put_nowait(3);
  put("q", *queue, 4);
  turn();
  EXPECT_EQ(queue->get_nowait(), 3);
  EXPECT_TRUE(queue->full()) << "the room is kept";
  EXPECT_THROW(queue->put_nowait(5), QueueFull);
  turn();
  EXPECT_EQ(queue->get_nowait(), 4);
}

// B286, B288, T14
TEST_P(Queues, ACancelledGetterLosesNothing) {
  auto queue = make<Queue<int>>();
  Task<> a = get("a", *queue);
  Task<> b = get("b", *queue);
  get("c", *queue);
  turn();
  a.cancel();  // while it waits
  turn();
  queue->put_nowait(1);
  b.cancel();  // when it has been woken
  turn(2);
  EXPECT_THAT(ended, ElementsAre("a!", "b!", "c:1"));
  Task<> d = get("d", *queue);
  turn();
  queue->put_nowait(2);
  d.cancel();
  turn();
  EXPECT_EQ(queue->get_nowait(), 2) << "with nobody behind it, it stays";
  for (int i = 0; i < 3; ++i) {
    Task<> gone = get("e", *queue);
    turn();
    gone.cancel();
    turn();
  }
  queue->put_nowait(3);
  EXPECT_EQ(queue->qsize(), 1U) << "nobody waits";
}

// B287, B288, T14
TEST_P(Queues, ACancelledPutterPutsNothingIn) {
  auto queue = make<Queue<int>>(one);
  queue->put_nowait(0);
  Task<> a = put("a", *queue, 1);
  Task<> b = put("b", *queue, 2);
  put("c", *queue, 3);
  turn();
  a.cancel();
  EXPECT_EQ(queue->get_nowait(), 0);
  b.cancel();
  turn(3);
  EXPECT_THAT(ended, ElementsAre("a!", "b!", "c"));
  EXPECT_EQ(queue->get_nowait(), 3);
  EXPECT_FALSE(queue->full());
  queue->put_nowait(4);
}

// B290
TEST_P(Queues, JoinWaitsForAllThatWasPut) {
  auto queue = make<Queue<int>>();
  EXPECT_EQ(thrown_by([&] { queue->task_done(); }), "ValueError: task_done() called too many times");
  run([](Queue<int>& q) -> Coroutine<> { co_await q.join(); }(*queue));
  for (int i = 0; i < 2; ++i) queue->put_nowait(i);
  note("j", [&] { return queue->join(); });
  Task<> gone = note("g", [&] { return queue->join(); });
  turn(2);
  gone.cancel();
  EXPECT_EQ(queue->get_nowait(), 0);
  EXPECT_EQ(queue->get_nowait(), 1);
  queue->task_done();
  turn(2);
  EXPECT_THAT(ended, ElementsAre("g!"));
  queue->task_done();
  turn();
  EXPECT_THAT(ended, ElementsAre("g!", "j"));
  EXPECT_THROW(queue->task_done(), ValueError);
}

// B291
TEST_P(Queues, ShutdownDrains) {
  auto queue = make<Queue<int>>(two);
  queue->put_nowait(1);
  queue->put_nowait(2);
  put("p", *queue, 3);
  turn();
  queue->shutdown();
  EXPECT_THROW(queue->put_nowait(4), QueueShutDown);
  turn();
  EXPECT_THAT(ended, ElementsAre("p shut"));
  put("q", *queue, 3);
  get("a", *queue);
  get("b", *queue);
  get("c", *queue);
  turn(2);
  EXPECT_THAT(ended, ElementsAre("p shut", "q shut", "a:1", "b:2", "c shut"));
  EXPECT_THROW(queue->get_nowait(), QueueShutDown);
  queue->task_done();
  queue->task_done();
  queue->shutdown(true);
  auto empty = make<Queue<int>>();
  ended.clear();
  get("d", *empty);
  Task<> e = get("e", *empty);
  turn();
  empty->put_nowait(5);
  empty->shutdown();
  e.cancel();
  turn(2);
  EXPECT_THAT(ended, ElementsAre("d:5", "e!")) << "what was promised is given";
}

// Room that was kept for a putter is of no use to it any more.
TEST_P(Queues, ShutdownBeforeThePutterRuns) {
  auto queue = make<Queue<int>>(one);
  queue->put_nowait(1);
  put("p", *queue, 2);
  turn();
  EXPECT_EQ(queue->get_nowait(), 1);
  queue->shutdown();
  turn();
  EXPECT_THAT(ended, ElementsAre("p shut"));
  EXPECT_FALSE(queue->full());
}

// B292
TEST_P(Queues, ShutdownAtOnceDropsTheItems) {
  int alive = 0;
  auto queue = make<Queue<std::shared_ptr<test::Counted>>>();
  for (int i = 0; i < 3; ++i) queue->put_nowait(std::make_shared<test::Counted>(alive));
  note("j", [&] { return queue->join(); });
  turn();
  queue->get_nowait().reset();
  queue->shutdown(true);
  EXPECT_EQ(alive, 0);
  EXPECT_TRUE(queue->empty());
  EXPECT_THROW(queue->get_nowait(), QueueShutDown);
  turn(2);
  EXPECT_THAT(ended, IsEmpty()) << "one was got and is not done";
  queue->task_done();
  turn();
  EXPECT_THAT(ended, ElementsAre("j"));
  // Of what was promised to a getter that has not run nothing is left.
  auto promised = make<Queue<int>>();
  get("a", *promised);
  turn();
  promised->put_nowait(1);
  promised->shutdown(true);
  turn();
  EXPECT_EQ(ended.back(), "a shut");
  EXPECT_EQ(promised->qsize(), 0U);
}

// Move-only items, and what throws when it is moved.
TEST_P(Queues, ItemsOfAnyKind) {
  auto queue = make<Queue<std::unique_ptr<int>>>(one);
  run([](Queue<std::unique_ptr<int>>& q) -> Coroutine<> {
    auto item = std::make_unique<int>(7);
    co_await q.put(std::move(item));
    const std::unique_ptr<int> got = co_await q.get();
    EXPECT_EQ(*got, 7);
  }(*queue));
  struct Picky {
    explicit Picky(bool& b) : bad(&b) {}
    Picky(const Picky& other) : bad(other.bad) {
      if (*bad) throw 7;
    }
    bool* bad;
  };
  bool bad = false;
  auto picky = make<Queue<Picky>>();
  picky->put_nowait(Picky(bad));
  bad = true;
  EXPECT_THROW(picky->get_nowait(), int);
  EXPECT_EQ(picky->qsize(), 1U);
  bad = false;
  picky->get_nowait();
  Picky item(bad);
  bad = true;
  EXPECT_THROW(picky->put_nowait(item), int);
  EXPECT_TRUE(picky->empty());
}

// B263
TEST(QueuesOfLoops, AreBoundToThem) {
  OURO_TEST_ALONE("in a group all is shared");
  std::unique_ptr<Queue<int>> queue;
  test::TestLoop first;
  first.run_until_complete([](std::unique_ptr<Queue<int>>& made) -> Coroutine<> {
    made = std::make_unique<Queue<int>>();
    co_return;
  }(queue));
  test::TestLoop second;
  auto get = [](Queue<int>& q) -> Coroutine<int> { co_return co_await q.get(); };
  EXPECT_EQ(thrown_by([&] { second.run_until_complete(get(*queue)); }),
            "RuntimeError: Queue is bound to a different event loop");
  queue->put_nowait(1);
  EXPECT_EQ(second.run_until_complete(get(*queue)), 1) << "without a wait it works, as asyncio's";
}

// A loop that is closed, with getters and putters in any stage.
TEST_P(Queues, CloseWithWaiters) {
  auto queue = make<Queue<int>>(one);
  auto empty = make<Queue<int>>();
  queue->put_nowait(1);
  for (int i = 0; i < 3; ++i) {
    put("p", *queue, i);
    get("g", *empty);
    note("j", [&] { return queue->join(); });
  }
  turn(2);
  EXPECT_EQ(queue->get_nowait(), 1);
  empty->put_nowait(1);
  destroy_loop();
  EXPECT_EQ(take_reports().size(), 1U);
  EXPECT_EQ(empty->qsize(), 1U);
}

OURO_SYNC_TESTS(Queues);

}  // namespace
}  // namespace ouro
