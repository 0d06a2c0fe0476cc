// Servers of several loops where something goes wrong: factories that throw, want of descriptors, and the end of the
// group while connections arrive.
#include <gmock/gmock.h>

#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <cstddef>
#include <exception>
#include <memory>
#include <stdexcept>
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
using test::answer_to;
using test::close_and_wait;
using test::GroupServers;
using test::Guest;
using test::guests;
using test::many_connected_to;
using test::Reports;
using test::Tally;
using test::until;
using testing::ElementsAre;
using testing::HasSubstr;

INSTANTIATE_TEST_SUITE_P(Workers, GroupServers, testing::Values(1U, 2U, 4U, 16U), testing::PrintToStringParamName());

// ---- What goes wrong ----

std::unique_ptr<EventLoop> checking_loop() {
  std::unique_ptr<EventLoop> loop = test::quiet_loop();
  loop->set_exception_handler([](EventLoop& of, const ExceptionContext& context) {
    EXPECT_EQ(&of, &get_running_loop());
    Reports::add(context);
  });
  return loop;
}

// The loop on which it was called hears of it, and the connection is closed.
TEST_P(GroupServers, AFactoryThatThrows) {
  const auto main = []() -> Coroutine<> {
    Tally tally;
    std::atomic<int> calls{0};
    const auto factory = [&]() -> std::unique_ptr<Guest> {
      const int call = ++calls;
      if (call % 3 == 1) throw std::runtime_error("not now");
      if (call % 3 == 2) return nullptr;
      return std::make_unique<Guest>(tally);
    };
    Server server = co_await get_running_loop().create_server(factory, "127.0.0.1", 0);
    const std::vector<Socket> clients = co_await many_connected_to(address_of(server), 60);
    int closed = 0;
    for (const Socket& client : clients) {
      const std::string answer = co_await answer_to(client);
      if (answer.empty()) ++closed;
    }
    EXPECT_EQ(closed, 40);
    const std::vector<std::string> reports = Reports::take();
    EXPECT_EQ(reports.size(), 40U);
    for (const std::string& report : reports) {
      EXPECT_THAT(report, HasSubstr("Error on transport creation for incoming connection: "));
    }
    server.close();
    server.close_clients();
    co_await server.wait_closed();
    EXPECT_EQ(tally.all, 20);
  };
  ouro::run(main, {.workers = GetParam(), .loop_factory = &checking_loop});
}

TEST_P(GroupServers, AKeyboardInterruptOfAFactoryEndsTheRun) {
  for (int nth = 1; nth <= 4; ++nth) {
    std::atomic<int> calls{0};
    Tally tally;  // the main task may be cancelled when it has not come to its try block yet
    const auto main = [&]() -> Coroutine<> {
      Event never;
      const auto factory = [&]() -> std::unique_ptr<Guest> {
        if (++calls == nth) throw KeyboardInterrupt();
        return std::make_unique<Guest>(tally);
      };
      Server server = co_await get_running_loop().create_server(factory, "127.0.0.1", 0);
      const std::vector<Socket> clients = co_await many_connected_to(address_of(server), 5);
      std::exception_ptr cancelled;
      try {
        co_await never.wait();
      } catch (const CancelledError&) {
        cancelled = std::current_exception();
      }
      server.close();
      server.abort_clients();
      co_await server.wait_closed();
      std::rethrow_exception(cancelled);
    };
    EXPECT_THROW(run(main), KeyboardInterrupt);
    EXPECT_GE(calls, nth);
  }
}

// B350
TEST_P(GroupServers, ComeBackFromWantOfDescriptors) {
  rlimit before{};
  ::getrlimit(RLIMIT_NOFILE, &before);
  const auto main = [before](EventLoop& home) -> Coroutine<> {
    co_await test::rehearse();
    Tally tally;
    Server server = co_await home.create_server(guests(tally), "127.0.0.1", 0, {.start_serving = false});
    Socket client(AF_INET);
    const int next = ::dup(client.fileno());
    ::close(next);
    // At once: whoever describes the exception may need a descriptor (UBSan does).
    home.set_exception_handler([before](EventLoop&, const ExceptionContext& context) {
      ::setrlimit(RLIMIT_NOFILE, &before);
      Reports::add(context);
    });
    rlimit none = before;
    none.rlim_cur = static_cast<rlim_t>(next);
    ::setrlimit(RLIMIT_NOFILE, &none);
    co_await server.start_serving();
    co_await home.sock_connect(client, address_of(server));
    std::vector<std::string> reports;
    while (reports.empty()) {
      co_await sleep(0s);
      reports = Reports::take();
    }
    EXPECT_THAT(reports, ElementsAre(HasSubstr("socket.accept() out of system resource")));
    std::vector<Socket> clients = co_await many_connected_to(address_of(server), 2 * static_cast<int>(loops()));
    clients.push_back(std::move(client));
    for (const Socket& one : clients) {
      const std::string answer = co_await answer_to(one);
      EXPECT_NE(answer, "");
    }
    EXPECT_GT(tally.least(loops()), 0);
    clients.clear();
    co_await close_and_wait(server);
  };
  run([&main]() -> Coroutine<> {
    EventLoop& home = *workers().back();
    Task<> task = home.create_task(main(home));
    co_await task;
  });
}

// ---- The end of the group ----

// The last connections end on the other loops while the server's own does not run.
TEST_P(GroupServers, AServerMayEndBetweenTwoRuns) {
  Tally tally;
  std::vector<Server> kept;
  std::vector<Socket> clients;
  Runner runner(with(GetParam()));
  runner.run([&]() -> Coroutine<> {
    Server server = co_await workers().front()->create_server(guests(tally), "127.0.0.1", 0);
    kept.push_back(server);
    clients = co_await many_connected_to(address_of(server), 20);
    int at_home = 0;
    for (Socket& client : clients) {
      const std::string place = co_await answer_to(client);
      if (place != "a") continue;
      client.close();
      ++at_home;
    }
    co_await until([&] { return tally.open == 20 - at_home; });
    server.close();
    for (int turns = 0; turns < 20; ++turns) co_await sleep(0s);
  });
  clients.clear();
  while (tally.open != 0) std::this_thread::yield();
  runner.run([&]() -> Coroutine<> {
    co_await kept.front().wait_closed();
    const bool drained = co_await kept.front().drain(1h);
    EXPECT_TRUE(drained);
  });
  runner.close();
}

// Connects again and again to a unix socket, on a thread of its own. When it has many connections it ends them, and
// waits until the other side has: whatever becomes of that, it closes them all.
class Crowding {
 public:
  ~Crowding() {
    end_ = true;
    if (thread_.joinable()) thread_.join();
  }
  void begin(Address address) {
    thread_ = std::thread([this, address] {
      std::vector<Socket> sockets;
      while (!end_) {
        Socket socket(AF_UNIX);
        const auto length = static_cast<socklen_t>(address.size());
        if (::connect(socket.fileno(), address.data(), length) == 0) sockets.push_back(std::move(socket));
        if (sockets.size() > 50) await_end_of_all(sockets);
      }
      await_end_of_all(sockets);
    });
  }

 private:
  static void await_end_of_all(std::vector<Socket>& sockets) {
    for (const Socket& socket : sockets) {
      ::shutdown(socket.fileno(), SHUT_WR);
      char some[16];
      while (::recv(socket.fileno(), some, sizeof some, 0) > 0) continue;
    }
    sockets.clear();
  }

  std::atomic<bool> end_{false};
  std::thread thread_;
};

std::string unused_name() {
  static int number = 0;
  return std::string("\0ouro group server ", 19) + std::to_string(::getpid()) + " " + std::to_string(++number);
}

Coroutine<> handle_one(StreamReader& reader, StreamWriter& writer) {
  const std::string line = co_await reader.readline();
  writer.write(line);
}

TEST_P(GroupServers, AGroupMayEndWhileTheyArrive) {
  for (int round = 0; round < 12; ++round) {
    Tally tally;
    std::vector<Server> kept;
    Crowding crowding;
    const auto main = [&]() -> Coroutine<> {
      EventLoop& home = *workers()[static_cast<std::size_t>(round) % loops()];
      Server server = co_await home.create_unix_server(guests(tally), unused_name());
      kept.push_back(server);
      crowding.begin(address_of(server));
      co_await until([&] { return tally.all >= 5 * round; });
      if (round % 3 == 1) server.abort_clients();
      if (round % 3 == 2) server.close();
      if (round % 2 == 1) throw std::runtime_error("enough");
    };
    if (round % 2 == 1) {
      EXPECT_THROW(run(main), std::runtime_error);
    } else {
      run(main);
    }
    EXPECT_FALSE(kept.front().is_serving());
    kept.front().close();
    kept.front().abort_clients();
  }
}

// Their handlers are cancelled with all other tasks. What comes after that has a handler that nobody awaits.
TEST_P(GroupServers, AGroupMayEndWhileTheirHandlersBegin) {
  for (int round = 0; round < 12; ++round) {
    Crowding crowding;
    run([&]() -> Coroutine<> {
      Server server = co_await start_unix_server(handle_one, unused_name());
      crowding.begin(address_of(server));
      for (int turns = 0; turns < 10 * round; ++turns) co_await sleep(0s);
    });
  }
  for (const std::string& report : Reports::take()) EXPECT_THAT(report, HasSubstr("destroyed but"));
}

}  // namespace
}  // namespace ouro
