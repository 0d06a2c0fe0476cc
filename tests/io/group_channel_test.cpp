// Channels between workers: every value arrives once, in each sender's order, whoever is cancelled meanwhile.
#include <ouro/runtime/channel.hpp>

#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include <ouro/runtime/gather.hpp>
#include <ouro/runtime/sleep.hpp>
#include <ouro/runtime/tasks.hpp>

#include "support/group.hpp"

namespace ouro {
namespace {

using namespace std::chrono_literals;

class GroupChannels : public test::GroupsOfAnySize {
 protected:
  template <class F>
  static Task<> start(int i, F&& make) {
    if (i % 2 == 0) return spawn(make());
    const auto loops = workers();
    return loops[static_cast<std::size_t>(i / 2) % loops.size()]->create_task(make());
  }
  static Coroutine<> end(std::vector<Task<>> tasks) {
    for (Task<>& task : tasks) {
      try {
        co_await task;
      } catch (const CancelledError&) {
      }
    }
  }
};

TEST_P(GroupChannels, EachValueOnceAndInOrder) {
  for (const std::size_t capacity : {1U, 3U, 64U}) {
    constexpr int senders = 6;
    constexpr int values = 2000;
    Channel<std::pair<int, int>> channel(capacity);
    std::vector<std::vector<std::pair<int, int>>> got(6);
    auto send = [&](int who) -> Coroutine<> {
      for (int i = 0; i < values; ++i) {
        co_await channel.send(std::pair(who, i));
        if (i % 100 == 0) co_await sleep(0s);
      }
    };
    auto receive = [&](std::vector<std::pair<int, int>>& mine) -> Coroutine<> {
      while (auto value = co_await channel.recv()) mine.push_back(*value);
    };
    run([&]() -> Coroutine<> {
      std::vector<Task<>> sending;
      std::vector<Task<>> receiving;
      for (int i = 0; i < senders; ++i) {
        sending.push_back(start(i, [&] { return send(i); }));
        receiving.push_back(start(i, [&] { return receive(got[static_cast<std::size_t>(i)]); }));
      }
      co_await end(std::move(sending));
      channel.close();
      co_await end(std::move(receiving));
    }());
    std::vector<int> count(senders * values);
    for (const auto& mine : got) {
      std::vector<int> last(senders, -1);
      for (const auto& [who, value] : mine) {
        EXPECT_LT(last[static_cast<std::size_t>(who)], value);
        last[static_cast<std::size_t>(who)] = value;
        ++count[static_cast<std::size_t>(who * values + value)];
      }
    }
    for (const int n : count) EXPECT_EQ(n, 1);
  }
}

// Senders and receivers are cancelled at any moment: what was sent is received, or still there.
TEST_P(GroupChannels, CancelledOnesLoseNothing) {
  for (int round = 0; round < 20; ++round) {
    Channel<int> channel(2);
    std::atomic<long> sent{0};
    std::atomic<long> got{0};
    auto send = [&]() -> Coroutine<> {
      for (;;) {
        co_await channel.send(1);
        ++sent;
      }
    };
    auto receive = [&]() -> Coroutine<> {
      while (auto value = co_await channel.recv()) got += *value;
    };
    run([&]() -> Coroutine<> {
      std::vector<Task<>> sending;
      std::vector<Task<>> receiving;
      for (int i = 0; i < 8; ++i) {
        sending.push_back(start(i, send));
        receiving.push_back(start(i, receive));
      }
      for (std::size_t i = 0; i < 7; ++i) {
        co_await sleep(0s);
        sending[i].cancel();
        receiving[i].cancel();
      }
      co_await test::until([&, before = got.load()] { return got > before + 50; });
      sending[7].cancel();
      co_await end(std::move(sending));
      channel.close();
      co_await end(std::move(receiving));
      EXPECT_TRUE(channel.empty());
    }());
    EXPECT_EQ(sent.load(), got.load());
  }
}

// It is closed while others send and receive: what was sent is received, and all end.
TEST_P(GroupChannels, CloseAtAnyMoment) {
  for (int round = 0; round < 30; ++round) {
    Channel<int> channel(3);
    std::atomic<long> sent{0};
    std::atomic<long> got{0};
    auto send = [&]() -> Coroutine<> {
      try {
        for (;;) {
          co_await channel.send(1);
          ++sent;
        }
      } catch (const QueueShutDown&) {
      }
    };
    auto receive = [&]() -> Coroutine<> {
      while (auto value = co_await channel.recv()) got += *value;
    };
    run([&]() -> Coroutine<> {
      std::vector<Task<>> tasks;
      for (int i = 0; i < 10; ++i) tasks.push_back(i % 3 == 0 ? start(i, send) : start(i, receive));
      co_await test::until([&] { return got > 10 * round; });
      channel.close();
      co_await end(std::move(tasks));
    }());
    EXPECT_EQ(sent.load(), got.load());
  }
}

TEST_P(GroupChannels, FromAnyThread) {
  Channel<int> channel(16);
  std::atomic<long> sum{0};
  auto receive = [&]() -> Coroutine<> {
    while (auto value = co_await channel.recv()) sum += *value;
  };
  std::thread outside([&] {
    for (int i = 1; i <= 1000;) {
      if (channel.try_send(i)) {
        ++i;
      } else {
        std::this_thread::yield();
      }
    }
    channel.close();
  });
  std::thread alone([&] { run_on(1, receive()); });
  run([&]() -> Coroutine<> { co_await gather(receive(), receive()); }());
  alone.join();
  outside.join();
  EXPECT_EQ(sum.load(), 500500);
}

// Received or refused: who finds it closed knows that close() has left it.
TEST_P(GroupChannels, WhoFindsItClosedMayBeItsEnd) {
  run([]() -> Coroutine<> {
    for (int i = 0; i < 3000; ++i) {
      test::Grave<Channel<int>> channel(1U);
      Task<> closes = spawn([&channel]() -> Coroutine<> {
        channel->close();
        co_return;
      });
      if (i % 3 == 0) co_await test::until([&] { return channel->closed(); });
      bool refused = false;
      if (i % 2 == 0) {
        EXPECT_FALSE(co_await channel->recv());
      } else {
        for (int n = 0; !refused; ++n) {
          try {
            co_await channel->send(n);
            static_cast<void>(channel->try_recv());
          } catch (const QueueShutDown&) {
            refused = true;
          }
          co_await sleep(0s);
        }
      }
      channel.bury();
      co_await closes;
      EXPECT_TRUE(channel.untouched()) << i;
    }
  });
}

INSTANTIATE_TEST_SUITE_P(Workers, GroupChannels, testing::Values(2U, 4U), testing::PrintToStringParamName());

}  // namespace
}  // namespace ouro
