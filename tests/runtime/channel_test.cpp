// Channel on one loop.
#include <ouro/runtime/channel.hpp>

#include <gmock/gmock.h>

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <ouro/runtime/gather.hpp>
#include <ouro/runtime/sleep.hpp>

#include "support/sync_fixture.hpp"

namespace ouro {
namespace {

using test::thrown_by;
using testing::ElementsAre;
using testing::Eq;
using testing::IsEmpty;

class Channels : public test::SyncTest {
 protected:
  Task<> recv(std::string name, Channel<int>& channel) {
    return loop.create_task([](Channels& test, std::string as, Channel<int>& from) -> Coroutine<> {
      bool cancelled = false;
      try {
        const std::optional<int> got = co_await from.recv();
        test.ended.push_back(got ? as + ":" + std::to_string(*got) : as + " ended");
      } catch (const CancelledError&) {
        cancelled = true;
      }
      if (!cancelled) co_return;
      test.ended.push_back(as + "!");
      throw CancelledError();
    }(*this, std::move(name), channel));
  }
  Task<> send(std::string name, Channel<int>& channel, int item) {
    return loop.create_task([](Channels& test, std::string as, Channel<int>& to, int x) -> Coroutine<> {
      bool cancelled = false;
      try {
        co_await to.send(x);
        test.ended.push_back(as);
      } catch (const QueueShutDown&) {
        test.ended.push_back(as + " closed");
      } catch (const CancelledError&) {
        cancelled = true;
      }
      if (!cancelled) co_return;
      test.ended.push_back(as + "!");
      throw CancelledError();
    }(*this, std::move(name), channel, item));
  }
};

TEST_P(Channels, HoldSoMany) {
  EXPECT_EQ(thrown_by([] { Channel<int> channel(0); }), "ValueError: Channel capacity must be > 0");
  for (const std::size_t capacity : {1U, 2U, 3U, 4U, 7U, 8U}) {
    auto channel = make<Channel<int>>(capacity);
    EXPECT_EQ(channel->capacity(), capacity);
    int in = 0;
    int out = 0;
    for (int round = 0; round < 5; ++round) {
      EXPECT_TRUE(channel->empty());
      EXPECT_THAT(channel->try_recv(), Eq(std::nullopt));
      while (channel->try_send(in)) ++in;
      EXPECT_TRUE(channel->full());
      EXPECT_EQ(static_cast<std::size_t>(in - out), capacity);
      while (const std::optional<int> got = channel->try_recv()) EXPECT_EQ(*got, out++);
      EXPECT_EQ(in, out);
    }
  }
}

TEST_P(Channels, WakeEachOther) {
  auto channel = make<Channel<int>>(2U);
  for (const char* name : {"a", "b", "c"}) recv(name, *channel);
  turn(2);
  EXPECT_THAT(ended, IsEmpty());
  for (int i = 0; i < 2; ++i) EXPECT_TRUE(channel->try_send(i));
  turn(5);
  EXPECT_THAT(ended, ElementsAre("a:0", "b:1"));
  send("p", *channel, 2);
  turn(5);
  EXPECT_THAT(ended, ElementsAre("a:0", "b:1", "p", "c:2"));
  ended.clear();
  for (int i = 0; i < 5; ++i) send(std::to_string(i), *channel, i);
  turn(2);
  EXPECT_THAT(ended, ElementsAre("0", "1"));
  for (int i = 0; i < 5; ++i) {
    EXPECT_THAT(channel->try_recv(), Eq(i));
    turn(3);
  }
  EXPECT_THAT(ended, ElementsAre("0", "1", "2", "3", "4"));
  auto produce = [](Channel<int>& to) -> Coroutine<> {
    for (int i = 1; i <= 1000; ++i) co_await to.send(i);
    to.close();
  };
  auto consume = [](Channel<int>& from) -> Coroutine<int> {
    int sum = 0;
    while (const std::optional<int> got = co_await from.recv()) sum += *got;
    co_return sum;
  };
  auto sums = run(gather(consume(*channel), produce(*channel), consume(*channel)));
  EXPECT_EQ(std::get<0>(sums) + std::get<2>(sums), 500500);
}

// Who was woken, but was overtaken, waits before the others.
TEST_P(Channels, WhoIsOvertakenComesFirst) {
  auto channel = make<Channel<int>>(4U);
  recv("a", *channel);
  recv("b", *channel);
  turn();
  EXPECT_TRUE(channel->try_send(1));
  EXPECT_THAT(channel->try_recv(), Eq(1));
  turn(2);
  EXPECT_THAT(ended, IsEmpty());
  EXPECT_TRUE(channel->try_send(2));
  EXPECT_TRUE(channel->try_send(3));
  turn(3);
  EXPECT_THAT(ended, ElementsAre("a:2", "b:3"));
}

TEST_P(Channels, CancelledOnesLoseNothing) {
  auto channel = make<Channel<int>>(1U);
  Task<> a = recv("a", *channel);
  Task<> b = recv("b", *channel);
  recv("c", *channel);
  turn();
  a.cancel();
  turn();
  EXPECT_TRUE(channel->try_send(1));
  b.cancel();
  turn(3);
  EXPECT_THAT(ended, ElementsAre("a!", "b!", "c:1"));
  ended.clear();
  EXPECT_TRUE(channel->try_send(0));
  Task<> p = send("p", *channel, 1);
  Task<> q = send("q", *channel, 2);
  send("r", *channel, 3);
  turn();
  p.cancel();
  EXPECT_THAT(channel->try_recv(), Eq(0));
  q.cancel();
  turn(3);
  EXPECT_THAT(ended, ElementsAre("p!", "q!", "r"));
  EXPECT_THAT(channel->try_recv(), Eq(3));
  EXPECT_TRUE(channel->empty());
}

TEST_P(Channels, Close) {
  auto channel = make<Channel<int>>(1U);
  EXPECT_TRUE(channel->try_send(1));
  send("p", *channel, 2);
  turn();
  EXPECT_FALSE(channel->closed());
  channel->close();
  channel->close();
  EXPECT_TRUE(channel->closed());
  turn(2);
  EXPECT_EQ(thrown_by([&] { channel->try_send(3); }), "RuntimeError: the channel is closed");
  for (const char* name : {"a", "b"}) recv(name, *channel);
  turn(2);
  EXPECT_THAT(ended, ElementsAre("p closed", "a:1", "b ended"));
  EXPECT_THAT(channel->try_recv(), Eq(std::nullopt));
  auto other = make<Channel<int>>(1U);
  ended.clear();
  for (const char* name : {"c", "d", "e"}) recv(name, *other);
  turn();
  EXPECT_TRUE(other->try_send(7));
  other->close();
  turn(4);
  EXPECT_THAT(ended, ElementsAre("c:7", "d ended", "e ended"));
}

TEST_P(Channels, ValuesOfAnyKind) {
  int alive = 0;
  {
    auto channel = make<Channel<std::unique_ptr<test::Counted>>>(3U);
    for (int i = 0; i < 3; ++i) channel->try_send(std::make_unique<test::Counted>(alive));
    channel->try_recv();
    EXPECT_EQ(alive, 2);
  }
  EXPECT_EQ(alive, 0);
}

TEST_P(Channels, CloseOfTheLoopWithWaiters) {
  auto channel = make<Channel<int>>(1U);
  auto empty = make<Channel<int>>(1U);
  EXPECT_TRUE(channel->try_send(1));
  for (int i = 0; i < 3; ++i) {
    send("p", *channel, i);
    recv("g", *empty);
  }
  turn(2);
  channel->try_recv();
  EXPECT_TRUE(empty->try_send(1));
  destroy_loop();
  EXPECT_EQ(take_reports().size(), 1U);
  EXPECT_THAT(empty->try_recv(), Eq(1));
}

OURO_SYNC_TESTS(Channels);

}  // namespace
}  // namespace ouro
