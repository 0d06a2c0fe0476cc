// Servers of several loops: how connections are dealt out, that each stays where it is, and how a server ends while
// connections are on their way from loop to loop.
#include <gmock/gmock.h>

#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <ouro/ouro.hpp>

#include "support/guests.hpp"

namespace ouro {
namespace {

using namespace std::chrono_literals;
using test::address_of;
using test::all_closed;
using test::answer_to;
using test::close_and_wait;
using test::end_of;
using test::GroupServers;
using test::Guest;
using test::guests;
using test::many_connected_to;
using test::place_here;
using test::Tally;
using test::until;

INSTANTIATE_TEST_SUITE_P(Workers, GroupServers, testing::Values(1U, 2U, 4U, 16U), testing::PrintToStringParamName());

// ---- How they are dealt out ----

Coroutine<> expect_spread(Server server, Address address, Tally& tally, std::size_t loops) {
  constexpr int many = 400;
  std::vector<Socket> clients = co_await many_connected_to(address, many);
  co_await until([&tally] { return tally.all == many; });
  const double mean = static_cast<double>(many) / static_cast<double>(loops);
  EXPECT_LE(tally.most(), 1.5 * mean);
  EXPECT_LE(tally.most() - tally.least(loops), 1) << "while none ends they are dealt out by turns";
  clients.clear();
  co_await close_and_wait(server);
  EXPECT_EQ(tally.open, 0);
}

TEST_P(GroupServers, ConnectionsAreOnAllLoops) {
  run([]() -> Coroutine<> {
    Tally tally;
    Server server = co_await get_running_loop().create_server(guests(tally), "127.0.0.1", 0, {.backlog = 1000});
    co_await expect_spread(server, address_of(server), tally, loops());
  });
}

TEST_P(GroupServers, ThoseOfAUnixSocketToo) {
  run([]() -> Coroutine<> {
    Tally tally;
    const std::string name = std::string("\0ouro group servers ", 20) + std::to_string(::getpid());
    Server server = co_await workers().back()->create_unix_server(guests(tally), name, {.backlog = 1000});
    co_await expect_spread(server, Address::unix_path(name), tally, loops());
  });
}

TEST_P(GroupServers, ThoseOfASocketThatTheCallerGaveToo) {
  run([]() -> Coroutine<> {
    Tally tally;
    Socket given(AF_INET);
    given.bind(Address::ip("127.0.0.1", 0));
    const Address address = given.getsockname();
    Server server = co_await workers().back()->create_server(guests(tally), std::move(given), {.backlog = 1000});
    co_await expect_spread(server, address, tally, loops());
  });
}

// Those of one loop end, and it is given more than others until it has as many.
TEST_P(GroupServers, ALoopThatHasFewerGetsMore) {
  run([]() -> Coroutine<> {
    const int each = 160 / static_cast<int>(loops());
    Tally tally;
    Server server = co_await get_running_loop().create_server(guests(tally), "127.0.0.1", 0, {.backlog = 1000});
    const Address address = address_of(server);
    std::vector<Socket> clients = co_await many_connected_to(address, 160);
    for (Socket& client : clients) {
      const std::string place = co_await answer_to(client);
      if (place == "a") client.close();
    }
    co_await until([&] { return tally.open == 160 - each; });
    const std::vector<Socket> more = co_await many_connected_to(address, each);
    co_await until([&] { return tally.all == 160 + each; });
    EXPECT_GE(tally.made[0], each + each / static_cast<int>(loops()));
    for (std::size_t i = 1; i < loops(); ++i) EXPECT_LE(tally.made[i], each + each / 2);
    clients.clear();
    server.close();
    server.abort_clients();
    co_await server.wait_closed();
  });
}

// A loop is busy with something long. Not all that are its turn wait for it: home has the others.
TEST_P(GroupServers, ALoopThatTakesNoneGetsNoMore) {
  run([]() -> Coroutine<> {
    constexpr int many = 400;
    Tally tally;
    EventLoop& home = *workers().front();
    const auto connect = [&]() -> Coroutine<> {
      Server server = co_await home.create_server(guests(tally), "127.0.0.1", 0, {.backlog = 100});
      std::atomic<std::size_t> busy{0};
      std::atomic<bool> go_on{false};
      for (EventLoop* loop : workers()) {
        if (loop == &home) continue;
        loop->call_soon_threadsafe([&busy, &go_on] {
          ++busy;
          while (!go_on) std::this_thread::yield();
        });
      }
      co_await until([&busy] { return busy == loops() - 1; });
      std::vector<Socket> clients = co_await many_connected_to(address_of(server), many);
      const int others = std::min(128 * static_cast<int>(loops() - 1), many - many / static_cast<int>(loops()));
      co_await until([&] { return tally.made[0] == many - others; });
      EXPECT_EQ(tally.all, many - others);
      go_on = true;
      co_await until([&] { return tally.all == many; });
      clients.clear();
      co_await close_and_wait(server);
    };
    Task<> task = home.create_task(connect);
    co_await task;
  });
}

TEST_P(GroupServers, AllStayAtHomeIfTheyAreToldTo) {
  run([]() -> Coroutine<> {
    Tally tally;
    EventLoop& home = *workers().back();
    Server server = co_await home.create_server(guests(tally), "127.0.0.1", 0, {.spread = false});
    EXPECT_EQ(&server.get_loop(), &home);
    const std::vector<Socket> clients = co_await many_connected_to(address_of(server), 20);
    co_await until([&tally] { return tally.all == 20; });
    EXPECT_EQ(tally.made[loops() - 1], 20);
    server.close();
    server.close_clients();
    co_await server.wait_closed();
  });
}

// ---- Where they stay ----

ContextVar<int> number("number", 0);

TEST_P(GroupServers, AHandlerStaysOnTheLoopOfItsConnection) {
  run([]() -> Coroutine<> {
    std::array<std::atomic<int>, detail::most_workers> served{};
    auto handle = [&served](StreamReader& reader, StreamWriter& writer) -> Coroutine<> {
      EventLoop& home = writer.transport().get_loop();
      EXPECT_EQ(number.get(), 7) << "the server's context";
      number.set(8);
      while (std::optional<std::string> line = co_await reader.next()) {
        EXPECT_EQ(&current_loop(), &home);
        co_await sleep(0s);
        EXPECT_EQ(&current_loop(), &home);
        co_await to_thread([] {});
        EXPECT_EQ(&current_loop(), &home);
        const int heavy = co_await spawn([]() -> Coroutine<int> {
          co_await sleep(0s);
          co_return 1;
        });
        EXPECT_EQ(heavy, 1);
        EXPECT_EQ(&current_loop(), &home);
        writer.write(*line);
        co_await writer.drain();
      }
      EXPECT_EQ(number.get(), 8);
      ++served[place_here()];
    };
    number.set(7);
    Server server = co_await start_server(handle, "127.0.0.1", 0);
    number.set(9);
    const int port = address_of(server).port();
    auto ask = [](int to) -> Coroutine<bool> {
      auto [reader, writer] = co_await open_connection("127.0.0.1", to);
      bool right = true;
      for (int i = 0; i < 10; ++i) {
        writer.write("line\n");
        const std::string line = co_await reader.readline();
        right = right && line == "line\n";
        co_await sleep(0s);
      }
      writer.close();
      co_await writer.wait_closed();
      co_return right;
    };
    std::vector<Coroutine<bool>> clients;
    for (int i = 0; i < 64; ++i) clients.push_back(ask(port));
    const std::vector<bool> right = co_await gather(std::move(clients));
    for (const bool one : right) EXPECT_TRUE(one);
    co_await close_and_wait(server);
    int all = 0;
    for (std::size_t i = 0; i < loops(); ++i) {
      EXPECT_GT(served[i], 0) << i;
      all += served[i];
    }
    EXPECT_EQ(all, 64);
  });
}

// ---- How a server ends ----

// B343
TEST_P(GroupServers, WaitClosedWaitsForTheLastOneOnAnyLoop) {
  run([]() -> Coroutine<> {
    for (std::size_t last = 0; last < loops(); last += loops() / 2 + 1) {
      Tally tally;
      Server server = co_await get_running_loop().create_server(guests(tally), "127.0.0.1", 0);
      std::vector<Socket> clients = co_await many_connected_to(address_of(server), 2 * static_cast<int>(loops()));
      co_await until([&] { return tally.open == 2 * static_cast<int>(loops()); });
      std::atomic<bool> ended{false};
      auto wait = [&ended](Server closed) -> Coroutine<> {
        co_await closed.wait_closed();
        ended = true;
      };
      std::vector<Task<>> waiting;
      for (EventLoop* loop : workers()) waiting.push_back(loop->create_task(wait(server)));
      server.close();
      std::rotate(clients.begin(), clients.begin() + static_cast<std::ptrdiff_t>(last), clients.end());
      while (clients.size() > 1) {
        clients.pop_back();
        EXPECT_FALSE(ended);
      }
      co_await until([&tally] { return tally.open == 1; });
      EXPECT_FALSE(ended);
      clients.clear();
      for (Task<>& task : waiting) {
        co_await task;
        EXPECT_EQ(tally.open, 0);
      }
    }
  });
}

// B346
TEST_P(GroupServers, ServeForeverAwaitsThemAll) {
  run([]() -> Coroutine<> {
    Tally tally;
    ServerOptions later;
    later.start_serving = false;
    Server server = co_await get_running_loop().create_server(guests(tally), "127.0.0.1", 0, later);
    const Address address = address_of(server);
    auto forever = [&tally](Server serving) -> Coroutine<> {
      try {
        co_await serving.serve_forever();
      } catch (const CancelledError&) {
        EXPECT_EQ(tally.open, 0);
        throw;
      }
    };
    Task<> serving = create_task(forever(server));
    co_await until([&server] { return server.is_serving(); });
    std::vector<Socket> clients = co_await many_connected_to(address, 20);
    co_await until([&tally] { return tally.open == 20; });
    serving.cancel("enough");
    co_await until([&server] { return !server.is_serving(); });
    clients.clear();
    const std::string end = co_await end_of(serving);
    EXPECT_EQ(end, "CancelledError: enough");
  });
}

// B345: some are on their way to their loops when it is asked for.
TEST_P(GroupServers, ClosingAndAbortingReachesAllOfThem) {
  run([]() -> Coroutine<> {
    for (int round = 0; round < 40; ++round) {
      Tally tally;
      Server server = co_await workers().back()->create_server(guests(tally), "127.0.0.1", 0);
      const Address address = address_of(server);
      const std::vector<Socket> clients = co_await many_connected_to(address, 20);
      for (int turns = 0; turns < round % 8; ++turns) co_await sleep(0s);
      if (round % 8 == 7) co_await until([&tally] { return tally.all == 20; });
      server.close();
      if (round % 2 == 0) {
        server.abort_clients();
      } else {
        server.close_clients();
      }
      co_await server.wait_closed();
      EXPECT_EQ(tally.open, 0);
      co_await all_closed(clients);
    }
  });
}

TEST_P(GroupServers, AServerGoesOnWhenItsClientsAreClosed) {
  run([]() -> Coroutine<> {
    Tally tally;
    Server server = co_await get_running_loop().create_server(guests(tally), "127.0.0.1", 0);
    for (int round = 0; round < 5; ++round) {
      const std::vector<Socket> clients = co_await many_connected_to(address_of(server), 20);
      co_await until([&] { return tally.all == 20 * (round + 1); });
      server.abort_clients();
      co_await all_closed(clients);
    }
    co_await close_and_wait(server);
  });
}

TEST_P(GroupServers, DrainTellsWhetherAllHadEnded) {
  run([]() -> Coroutine<> {
    for (const bool cling : {false, true}) {
      Tally tally;
      Server server = co_await get_running_loop().create_server(guests(tally), "127.0.0.1", 0);
      std::vector<Socket> clients = co_await many_connected_to(address_of(server), 20);
      co_await until([&tally] { return tally.all == 20; });
      bool all_ended = false;
      if (cling) {
        all_ended = co_await server.drain(1ms);
        co_await all_closed(clients);
      } else {
        Task<bool> draining = create_task(server.drain(1h));
        co_await until([&server] { return !server.is_serving(); });
        clients.clear();
        all_ended = co_await draining;
      }
      EXPECT_EQ(all_ended, !cling);
      EXPECT_EQ(tally.open, 0);
    }
    Tally tally;
    Server unused = co_await get_running_loop().create_server(guests(tally), "127.0.0.1", 0);
    const bool none_left = co_await unused.drain(0s);
    EXPECT_TRUE(none_left);
  });
}

// B344, T29: connections end on all loops, and the server is closed by all, at any moment.
Coroutine<> come_and_go(Server server, Address address, int round) {
  for (int i = 0; i < 8 && server.is_serving(); ++i) {
    Socket client(AF_INET);
    try {
      co_await get_running_loop().sock_connect(client, address);
    } catch (const OSError&) {
      break;  // it is closed
    }
    for (int turns = 0; turns < (round + i) % 3; ++turns) co_await sleep(0s);
  }
  server.close();
  co_await server.wait_closed();
}

TEST_P(GroupServers, EndAtAnyMoment) {
  run([]() -> Coroutine<> {
    for (int round = 0; round < 50; ++round) {
      Tally tally;
      auto factorys = std::make_shared<int>();
      const std::weak_ptr<int> alive = factorys;
      {
        auto factory = [&tally, owned = std::move(factorys)] { return std::make_unique<Guest>(tally); };
        EventLoop& home = *workers()[static_cast<std::size_t>(round) % loops()];
        Server server = co_await home.create_server(std::move(factory), "127.0.0.1", 0, {.backlog = 1000});
        const Address address = address_of(server);
        std::vector<Task<>> users;
        for (EventLoop* loop : workers()) users.push_back(loop->create_task(come_and_go(server, address, round)));
        for (Task<>& user : users) co_await user;
        EXPECT_EQ(tally.open, 0);
      }
      co_await until([&alive] { return alive.expired(); });
    }
  });
}

}  // namespace
}  // namespace ouro
