// Servers where it is rare: on sockets that others share, without the kernel's multishot requests, with callbacks that
// close them or throw a KeyboardInterrupt, and with a start that fails.
#include <gmock/gmock.h>

#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <memory>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include <ouro/ouro.hpp>

#include "support/wire.hpp"

namespace ouro {
namespace {

using namespace std::chrono_literals;
using test::Echo;
using test::end_of;
using test::falls_asleep;
using test::Record;
using test::Recorder;
using test::until;
using testing::HasSubstr;

class ServerEdges : public test::WireTest {};

std::unique_ptr<Echo> echo() { return std::make_unique<Echo>(); }

Coroutine<Socket> connected_to(Address address) {
  Socket socket(address.family());
  co_await get_running_loop().sock_connect(socket, address);
  co_return socket;
}

// What a new connection's other side answers to "x"; "" if it closes.
Coroutine<std::string> answer_of(Address address) {
  EventLoop& loop = get_running_loop();
  Socket client = co_await connected_to(address);
  co_await loop.sock_sendall(client, "x");
  std::string answer;
  try {
    answer = co_await loop.sock_recv(client, 10);
  } catch (const OSError&) {
    // It was reset.
  }
  co_return answer;
}

Coroutine<> close_and_wait(Server server) {
  server.close();
  co_await server.wait_closed();
}

// Denies the loops that are made now the kernel's multishot accept.
class OneShot {
 public:
  OneShot() { ::setenv("OURO_RING_DISABLE", "multishot_accept", 1); }
  ~OneShot() { ::unsetenv("OURO_RING_DISABLE"); }
  OneShot(const OneShot&) = delete;
};

// ---- Sockets that the caller gave ----

// A socket of the program's, bound and with a second descriptor, as a new process would have one.
struct Given {
  Socket socket{AF_INET};
  Socket other;
  Address address;

  explicit Given(bool nonblocking = false) {
    socket.bind(Address::ip("127.0.0.1", 0));
    address = socket.getsockname();
    if (nonblocking) ::fcntl(socket.fileno(), F_SETFL, ::fcntl(socket.fileno(), F_GETFL) | O_NONBLOCK);
    other = Socket::adopt(::fcntl(socket.fileno(), F_DUPFD_CLOEXEC, 0));
  }
};

TEST_F(ServerEdges, ClosingLeavesOthersTheSocketThatTheyShare) {
  run([]() -> Coroutine<> {
    EventLoop& loop = get_running_loop();
    Given given;
    Server server = co_await loop.create_server(echo, std::move(given.socket));
    const std::string answer = co_await answer_of(given.address);
    EXPECT_EQ(answer, "x");
    co_await close_and_wait(server);

    Socket client = co_await connected_to(given.address);  // the other descriptor still listens
    Server next = co_await loop.create_server(echo, std::move(given.other));
    co_await loop.sock_sendall(client, "y");
    const std::string from_next = co_await loop.sock_recv(client, 10);
    EXPECT_EQ(from_next, "y");
    client.close();
    co_await close_and_wait(next);
    const std::string refused = co_await end_of(connected_to(given.address));
    EXPECT_THAT(refused, HasSubstr("Connection refused")) << "that was the last descriptor";
  });
}

TEST_F(ServerEdges, ANonBlockingSocketStaysAsItIs) {
  run([]() -> Coroutine<> {
    Given given(true);
    auto record = std::make_shared<Record>();
    const auto recorded_once = [&record]() -> std::shared_ptr<Protocol> {
      if (record.use_count() == 1) return std::make_shared<Recorder>(record);
      return echo();
    };
    Server server =
        co_await get_running_loop().create_server(recorded_once, std::move(given.socket), {.spread = false});
    Socket first = co_await connected_to(given.address);
    co_await until([&record] { return record->transport != nullptr; });
    const auto accepted = record->transport->get_extra_info<TransportSocket>("socket", TransportSocket(-1));
    EXPECT_EQ(accepted.getsockopt(IPPROTO_TCP, TCP_NODELAY), 1);
    EXPECT_EQ(given.other.getsockopt(IPPROTO_TCP, TCP_NODELAY), 0);
    EXPECT_NE(::fcntl(given.other.fileno(), F_GETFL) & O_NONBLOCK, 0);
    for (int round = 0; round < 3; ++round) {
      const bool sleeps = co_await falls_asleep();
      EXPECT_TRUE(sleeps);
      std::vector<Task<std::string>> answers;
      for (int i = 0; i < 5; ++i) answers.push_back(create_task(answer_of(given.address)));
      for (Task<std::string>& answer : answers) {
        const std::string text = co_await answer;
        EXPECT_EQ(text, "x");
      }
    }
    first.close();
    co_await close_and_wait(server);
  });
}

// ---- One accepted connection after the other ----

// connection_made() ends the connection and the server, of which nobody has a handle then.
class LastOne final : public Protocol {
 public:
  explicit LastOne(std::optional<Server>& server) : server_(server) {}
  void connection_made(Transport& transport) override {
    transport.abort();
    server_->close();
    server_.reset();
  }

 private:
  std::optional<Server>& server_;
};

class ClosedInside : public ServerEdges, public testing::WithParamInterface<bool> {};

TEST_P(ClosedInside, AServerMayCloseInsideAConnectionsCallback) {
  const auto one_shot = GetParam() ? std::make_unique<OneShot>() : nullptr;
  run([]() -> Coroutine<> {
    EventLoop& loop = get_running_loop();
    for (int i = 0; i < 20; ++i) {
      std::optional<Server> server;
      auto factorys = std::make_shared<int>();
      const std::weak_ptr<int> alive = factorys;
      auto factory = [&server, owned = std::move(factorys)] { return std::make_unique<LastOne>(server); };
      server = co_await loop.create_server(std::move(factory), "127.0.0.1", 0, {.spread = false});
      const Address address = server->sockets().front().getsockname();
      const std::string answer = co_await answer_of(address);
      EXPECT_EQ(answer, "");
      co_await until([&alive] { return alive.expired(); });
    }
  });
}
INSTANTIATE_TEST_SUITE_P(OneShot, ClosedInside, testing::Bool());

// ---- KeyboardInterrupt ----

// Throws it in its factory, or in connection_made(), for the first connection.
struct Interrupting {
  bool in_factory;
  int calls = 0;

  class Made final : public Protocol {
   public:
    void connection_made(Transport&) override { throw KeyboardInterrupt(); }
  };
  std::shared_ptr<Protocol> operator()() {
    if (++calls != 1) return std::make_shared<Echo>();
    if (in_factory) throw KeyboardInterrupt();
    return std::make_shared<Made>();
  }
};

class InterruptedServers : public testing::TestWithParam<std::tuple<bool, bool>> {};

// B29
TEST_P(InterruptedServers, GoOnWhenTheLoopDoes) {
  const auto [one_shot, in_factory] = GetParam();
  const auto denied = one_shot ? std::make_unique<OneShot>() : nullptr;
  EventLoop loop;
  Interrupting factory{in_factory};
  const auto make = [&]() -> Coroutine<Server> {
    Server made = co_await loop.create_server([&] { return factory(); }, "127.0.0.1", 0, {.start_serving = false});
    co_return made;
  };
  Server server = loop.run_until_complete(make());
  const Address address = server.sockets().front().getsockname();
  std::vector<Task<std::string>> answers;
  Future<> enough = loop.create_future();
  const auto serve = [&]() -> Coroutine<> {
    co_await server.start_serving();
    for (int i = 0; i < 4; ++i) answers.push_back(loop.create_task(answer_of(address)));
    co_await enough;
  };
  EXPECT_THROW(loop.run_until_complete(serve()), KeyboardInterrupt);
  const auto rest = [&]() -> Coroutine<std::size_t> {
    std::size_t served = 0;
    for (Task<std::string>& answer : answers) {
      const std::string text = co_await answer;
      if (text == "x") ++served;
    }
    enough.set_result();
    co_await close_and_wait(server);
    co_return served;
  };
  EXPECT_EQ(loop.run_until_complete(rest()), 3U);
}
INSTANTIATE_TEST_SUITE_P(Each, InterruptedServers, testing::Combine(testing::Bool(), testing::Bool()));

// ---- A start that fails ----

TEST_F(ServerEdges, AStartThatFailedMayBeRepeated) {
  run([]() -> Coroutine<> {
    EventLoop& loop = get_running_loop();
    Socket rival(AF_INET);
    rival.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1);
    rival.bind(Address::ip("127.0.0.2", 0));
    const int port = rival.getsockname().port();
    std::vector<std::string> hosts{"127.0.0.1", "127.0.0.2"};
    Server server = co_await loop.create_server(echo, hosts, port, {.start_serving = false});
    rival.listen();
    const std::string failed = co_await end_of(server.start_serving());
    EXPECT_THAT(failed, HasSubstr("Address already in use"));
    EXPECT_FALSE(server.is_serving());
    rival.close();
    co_await server.start_serving();
    EXPECT_TRUE(server.is_serving());
    for (const std::string& host : hosts) {
      const std::string answer = co_await answer_of(Address::ip(host, port));
      EXPECT_EQ(answer, "x") << host;
    }
    co_await close_and_wait(server);
  });
}

}  // namespace
}  // namespace ouro
