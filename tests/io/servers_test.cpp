// Servers: where they listen, how they begin and end, what becomes of their connections, and what happens when the
// system has no descriptor left for one.
#include <gmock/gmock.h>

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <fstream>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <ouro/ouro.hpp>

#include "support/wire.hpp"

namespace ouro {
namespace {

using namespace std::chrono_literals;
using test::Echo;
using test::end_of;
using test::pattern;
using test::Record;
using test::Recorder;
using test::Reports;
using test::thrown_by;
using test::until;
using testing::ElementsAre;
using testing::HasSubstr;

class ServersTest : public test::WireTest {};

std::unique_ptr<Echo> echo() { return std::make_unique<Echo>(); }

Coroutine<Socket> connected_to(Address address) {
  Socket socket(address.family());
  co_await get_running_loop().sock_connect(socket, address);
  co_return socket;
}

// Sends it and receives as much.
Coroutine<std::string> echoed(const Socket& socket, std::string text) {
  EventLoop& loop = get_running_loop();
  co_await loop.sock_sendall(socket, text);
  std::string answer;
  while (answer.size() < text.size()) {
    std::string piece = co_await loop.sock_recv(socket, text.size());
    if (piece.empty()) break;
    answer += piece;
  }
  co_return answer;
}

Coroutine<> close_and_wait(Server server) {
  server.close();
  co_await server.wait_closed();
}

// B335, B336, B349
TEST_F(ServersTest, ServeOnAPortOfTheKernelsChoice) {
  run([]() -> Coroutine<> {
    EventLoop& loop = get_running_loop();
    Server server = co_await loop.create_server(echo, "127.0.0.1", 0);
    EXPECT_TRUE(server.is_serving());
    EXPECT_EQ(&server.get_loop(), &loop);
    const std::vector<TransportSocket> sockets = server.sockets();
    EXPECT_EQ(sockets.size(), 1U);
    EXPECT_EQ(sockets[0].family(), AF_INET);
    EXPECT_EQ(sockets[0].type(), SOCK_STREAM);
    const Address address = sockets[0].getsockname();
    EXPECT_NE(address.port(), 0);
    std::vector<Socket> clients;
    for (int i = 0; i < 150; ++i) {
      clients.push_back(co_await connected_to(address));
      const std::string answer = co_await echoed(clients.back(), pattern(100));
      EXPECT_EQ(answer, pattern(100));
    }
    clients.clear();
    co_await close_and_wait(server);
    EXPECT_TRUE(server.sockets().empty());
  });
}

// B338
TEST_F(ServersTest, AllInterfacesAndSeveralHosts) {
  run([]() -> Coroutine<> {
    EventLoop& loop = get_running_loop();
    Server all = co_await loop.create_server(echo, "", 0);
    const std::vector<TransportSocket> sockets = all.sockets();
    EXPECT_TRUE(std::any_of(sockets.begin(), sockets.end(), [](const auto& one) { return one.family() == AF_INET; }));
    for (const TransportSocket& socket : sockets) {
      if (socket.family() != AF_INET6) continue;
      EXPECT_EQ(socket.getsockopt(IPPROTO_IPV6, IPV6_V6ONLY), 1);
      Socket client = co_await connected_to(Address::ip("::1", socket.getsockname().port()));
      const std::string answer = co_await echoed(client, "six");
      EXPECT_EQ(answer, "six");
    }
    co_await close_and_wait(all);

    std::vector<std::string> hosts{"127.0.0.1", "127.0.0.2", "127.0.0.1"};
    Server several = co_await loop.create_server(echo, hosts, 0);
    EXPECT_EQ(several.sockets().size(), 2U) << "each address but once";
    for (const TransportSocket& socket : several.sockets()) {
      Socket client = co_await connected_to(socket.getsockname());
      const std::string answer = co_await echoed(client, "x");
      EXPECT_EQ(answer, "x");
    }
    co_await close_and_wait(several);
  });
}

// B339
TEST_F(ServersTest, OnePortForTwo) {
  run([]() -> Coroutine<> {
    EventLoop& loop = get_running_loop();
    Server first = co_await loop.create_server(echo, "127.0.0.1", 0, {.reuse_port = true});
    const int port = first.sockets().front().getsockname().port();
    Server second = co_await loop.create_server(echo, "127.0.0.1", port, {.reuse_port = true});
    const std::string refused = co_await end_of(loop.create_server(echo, "127.0.0.1", port));
    EXPECT_THAT(refused, HasSubstr("error while attempting to bind on address 127.0.0.1:" + std::to_string(port)));
    co_await close_and_wait(first);
    co_await close_and_wait(second);
  });
}

// B340, B352
TEST_F(ServersTest, TakeASocketOfTheCallers) {
  run([]() -> Coroutine<> {
    EventLoop& loop = get_running_loop();
    Socket socket(AF_INET);
    socket.bind(Address::ip("127.0.0.1", 0));
    const Address address = socket.getsockname();
    Server server = co_await loop.create_server(echo, std::move(socket));
    EXPECT_FALSE(socket);
    Socket client = co_await connected_to(address);
    const std::string answer = co_await echoed(client, "x");
    EXPECT_EQ(answer, "x");
    client.close();
    co_await close_and_wait(server);

    const std::string none = co_await end_of(loop.create_server(echo, Socket()));
    EXPECT_THAT(none, HasSubstr("ValueError: a socket was expected"));
    const std::string datagrams = co_await end_of(loop.create_server(echo, Socket(AF_INET, SOCK_DGRAM)));
    EXPECT_THAT(datagrams, HasSubstr("ValueError: A Stream Socket was expected"));
    const std::string internet = co_await end_of(loop.create_unix_server(echo, Socket(AF_INET)));
    EXPECT_THAT(internet, HasSubstr("ValueError: A UNIX Domain Stream Socket was expected"));
  });
}

// B342, B343, T29
TEST_F(ServersTest, ClosingStopsListeningAndLetsConnectionsGoOn) {
  run([]() -> Coroutine<> {
    EventLoop& loop = get_running_loop();
    Server server = co_await loop.create_server(echo, "127.0.0.1", 0);
    const Address address = server.sockets().front().getsockname();
    Socket client = co_await connected_to(address);
    const std::string before = co_await echoed(client, "before");
    EXPECT_EQ(before, "before");
    Task<> waiting = loop.create_task(server.wait_closed());  // before it is closed
    server.close();
    server.close();
    EXPECT_FALSE(server.is_serving());
    const std::string refused = co_await end_of(connected_to(address));
    EXPECT_THAT(refused, HasSubstr("Connection refused"));
    const std::string after = co_await echoed(client, "after");
    EXPECT_EQ(after, "after");
    EXPECT_FALSE(waiting.done());
    client.close();
    co_await waiting;
    co_await server.wait_closed();  // once more
    const std::string started = co_await end_of(server.start_serving());
    EXPECT_THAT(started, HasSubstr("RuntimeError: the server is closed"));
    server.close_clients();
  });
}

// B344
TEST_F(ServersTest, AConnectionThatEndsAsTheServerCloses) {
  run([]() -> Coroutine<> {
    EventLoop& loop = get_running_loop();
    for (int i = 0; i < 20; ++i) {
      auto record = std::make_shared<Record>();
      Server server = co_await loop.create_server([&record] { return std::make_unique<Recorder>(record); }, "127.0.0.1",
                                                  0, {.spread = false});
      record->then = [&server](const std::string& event) {
        if (event == "eof") server.close();
      };
      Socket client = co_await connected_to(server.sockets().front().getsockname());
      client.close();
      co_await server.wait_closed();
      EXPECT_TRUE(record->lost());
    }
  });
}

// Those that come while it closes are closed.
TEST_F(ServersTest, ConnectionsThatComeAsTheServerCloses) {
  run([]() -> Coroutine<> {
    EventLoop& loop = get_running_loop();
    for (int i = 0; i < 20; ++i) {
      Server server = co_await loop.create_server(echo, "127.0.0.1", 0);
      const Address address = server.sockets().front().getsockname();
      std::vector<Task<Socket>> connecting;
      for (int k = 0; k < 5; ++k) connecting.push_back(loop.create_task(connected_to(address)));
      for (int turns = 0; turns < i % 5; ++turns) co_await sleep(0s);
      server.close();
      for (Task<Socket>& task : connecting) static_cast<void>(co_await end_of(std::move(task)));
      co_await server.wait_closed();
    }
  });
}

// B345
TEST_F(ServersTest, CloseAndAbortItsClients) {
  run([]() -> Coroutine<> {
    EventLoop& loop = get_running_loop();
    for (const bool aborts : {false, true}) {
      const std::string data = pattern(8 << 20);  // more than the kernel holds
      auto record = std::make_shared<Record>();
      Server server = co_await loop.create_server([&record] { return std::make_unique<Recorder>(record); }, "127.0.0.1",
                                                  0, {.spread = false});
      Socket client = co_await connected_to(server.sockets().front().getsockname());
      co_await until([&record] { return record->transport != nullptr; });
      record->transport->write(data);
      server.close();
      if (aborts) {
        server.abort_clients();
      } else {
        server.close_clients();
      }
      Task<> waiting = loop.create_task(server.wait_closed());
      std::size_t bytes = 0;
      for (;;) {
        const std::string piece = co_await loop.sock_recv(client, 1 << 20);
        if (piece.empty()) break;
        bytes += piece.size();
      }
      co_await waiting;
      EXPECT_EQ(bytes == data.size(), !aborts);
      EXPECT_EQ(record->events.back(), "lost");
    }
  });
}

// A graceful end, with and without who hangs on.
TEST_F(ServersTest, DrainGivesThemTimeAndNoMore) {
  run([]() -> Coroutine<> {
    EventLoop& loop = get_running_loop();
    Server patient = co_await loop.create_server(echo, "127.0.0.1", 0);
    Socket client = co_await connected_to(patient.sockets().front().getsockname());
    const std::string answer = co_await echoed(client, "x");
    EXPECT_EQ(answer, "x");
    Task<bool> draining = loop.create_task(patient.drain(1h));
    while (patient.is_serving()) co_await sleep(0s);
    client.close();
    const bool all_ended = co_await draining;
    EXPECT_TRUE(all_ended);

    Server hasty = co_await loop.create_server(echo, "127.0.0.1", 0);
    Socket clinging = co_await connected_to(hasty.sockets().front().getsockname());
    const std::string once = co_await echoed(clinging, "x");
    EXPECT_EQ(once, "x");
    const bool ended = co_await hasty.drain(1ms);
    EXPECT_FALSE(ended);
    const std::string end = co_await loop.sock_recv(clinging, 1);
    EXPECT_EQ(end, "");
  });
}

// B346
TEST_F(ServersTest, ServeForeverEndsByCancellationOrClose) {
  run([]() -> Coroutine<> {
    EventLoop& loop = get_running_loop();
    for (const bool closes : {false, true}) {
      Server server = co_await loop.create_server(echo, "127.0.0.1", 0, {.start_serving = false});
      EXPECT_FALSE(server.is_serving());
      Task<> serving = loop.create_task(server.serve_forever());
      co_await until([&server] { return server.is_serving(); });
      const std::string twice = co_await end_of(server.serve_forever());
      EXPECT_THAT(twice, HasSubstr("RuntimeError: the server is already being awaited"));
      if (closes) {
        server.close();
      } else {
        serving.cancel("enough");
      }
      const std::string end = co_await end_of(serving);
      EXPECT_THAT(end, HasSubstr(closes ? "CancelledError" : "CancelledError: enough"));
      EXPECT_FALSE(server.is_serving());
      const std::string again = co_await end_of(server.serve_forever());
      EXPECT_THAT(again, HasSubstr("RuntimeError: the server is closed"));
    }
  });
}

// B347
TEST_F(ServersTest, StartServingWhenItIsTime) {
  run([]() -> Coroutine<> {
    EventLoop& loop = get_running_loop();
    Server server = co_await loop.create_server(echo, "127.0.0.1", 0, {.start_serving = false});
    const Address address = server.sockets().front().getsockname();
    const std::string early = co_await end_of(connected_to(address));
    EXPECT_THAT(early, HasSubstr("Connection refused"));
    co_await server.start_serving();
    co_await server.start_serving();
    Socket client = co_await connected_to(address);
    const std::string answer = co_await echoed(client, "x");
    EXPECT_EQ(answer, "x");
    client.close();
    co_await close_and_wait(server);
  });
}

// B348
TEST_F(ServersTest, TheLoopKeepsAServerWithoutAHandle) {
  run([]() -> Coroutine<> {
    EventLoop& loop = get_running_loop();
    Address address;
    {
      Server server = co_await loop.create_server(echo, "127.0.0.1", 0);
      address = server.sockets().front().getsockname();
    }
    Socket client = co_await connected_to(address);
    const std::string answer = co_await echoed(client, "x");
    EXPECT_EQ(answer, "x");
  });
}

TEST_F(ServersTest, AHandleMayOutliveTheLoop) {
  std::optional<Server> kept;
  run([&kept]() -> Coroutine<> { kept = co_await get_running_loop().create_server(echo, "127.0.0.1", 0); });
  EXPECT_FALSE(kept->is_serving());
  EXPECT_TRUE(kept->sockets().empty());
  kept->close();
  kept->abort_clients();
}

// B350
TEST_F(ServersTest, ComesBackFromWantOfDescriptors) {
  run([]() -> Coroutine<> {
    EventLoop& loop = get_running_loop();
    co_await test::rehearse();
    Server server = co_await loop.create_server(echo, "127.0.0.1", 0, {.start_serving = false});
    Socket client(AF_INET);
    rlimit before{};
    ::getrlimit(RLIMIT_NOFILE, &before);
    const int next = ::dup(client.fileno());
    ::close(next);
    // At once: whoever describes the exception may need a descriptor (UBSan does).
    loop.set_exception_handler([before](EventLoop&, const ExceptionContext& context) {
      ::setrlimit(RLIMIT_NOFILE, &before);
      Reports::add(context);
    });
    rlimit none = before;
    none.rlim_cur = static_cast<rlim_t>(next);
    ::setrlimit(RLIMIT_NOFILE, &none);
    co_await server.start_serving();  // the kernel looks at the limit when it gets the request, not when it accepts
    co_await loop.sock_connect(client, server.sockets().front().getsockname());
    std::vector<std::string> reports;
    while (reports.empty()) {
      co_await sleep(0s);
      reports = Reports::take();
    }
    EXPECT_THAT(reports, ElementsAre(HasSubstr("socket.accept() out of system resource")));
    const std::string answer = co_await echoed(client, "back");
    EXPECT_EQ(answer, "back");
    client.close();
    co_await close_and_wait(server);
  });
}

// A factory that throws costs one connection.
TEST_F(ServersTest, AFactoryThatThrows) {
  run([]() -> Coroutine<> {
    EventLoop& loop = get_running_loop();
    int calls = 0;
    Server server = co_await loop.create_server(
        [&calls] {
          if (++calls == 1) throw std::runtime_error("not now");
          return std::make_unique<Echo>();
        },
        "127.0.0.1", 0, {.spread = false});
    const Address address = server.sockets().front().getsockname();
    Socket first = co_await connected_to(address);
    const std::string end = co_await loop.sock_recv(first, 1);
    EXPECT_EQ(end, "");
    EXPECT_THAT(Reports::take(), ElementsAre(HasSubstr("Error on transport creation for incoming connection")));
    Socket second = co_await connected_to(address);
    const std::string answer = co_await echoed(second, "x");
    EXPECT_EQ(answer, "x");
    second.close();
    co_await close_and_wait(server);
  });
}

// ---- Unix ----

class UnixServersTest : public ServersTest {
 protected:
  const std::string path = testing::TempDir() + "ouro_servers_test_" + std::to_string(::getpid());
  bool is_there() const {
    struct stat file;
    return ::stat(path.c_str(), &file) == 0;
  }
  void TearDown() override {
    ::unlink(path.c_str());
    ServersTest::TearDown();
  }
};

// B351, B353
TEST_F(UnixServersTest, ReplaceWhatIsStaleAndLeaveNothing) {
  run([&]() -> Coroutine<> {
    EventLoop& loop = get_running_loop();
    Socket stale(AF_UNIX);
    stale.bind(Address::unix_path(path));
    stale.close();
    EXPECT_TRUE(is_there());
    Server server = co_await loop.create_unix_server(echo, path);
    Socket client = co_await connected_to(Address::unix_path(path));
    const std::string answer = co_await echoed(client, "x");
    EXPECT_EQ(answer, "x");
    client.close();
    co_await close_and_wait(server);
    EXPECT_FALSE(is_there());

    Server keeps = co_await loop.create_unix_server(echo, path, {.cleanup_socket = false});
    co_await close_and_wait(keeps);
    EXPECT_TRUE(is_there());
  });
}

// B351
TEST_F(UnixServersTest, DoNotReplaceAFile) {
  run([&]() -> Coroutine<> {
    std::ofstream(path) << "precious";
    const std::string end = co_await end_of(get_running_loop().create_unix_server(echo, path));
    EXPECT_THAT(end, HasSubstr("is already in use"));
    EXPECT_TRUE(is_there());
  });
}

// B353
TEST_F(UnixServersTest, LeaveAloneWhatIsNotTheirs) {
  run([&]() -> Coroutine<> {
    EventLoop& loop = get_running_loop();
    Server first = co_await loop.create_unix_server(echo, path);
    Server second = co_await loop.create_unix_server(echo, path);
    co_await close_and_wait(first);
    EXPECT_TRUE(is_there());
    ::unlink(path.c_str());
    co_await close_and_wait(second);
  });
}

TEST_F(UnixServersTest, AbstractNames) {
  run([&]() -> Coroutine<> {
    EventLoop& loop = get_running_loop();
    std::string name(1, '\0');
    name += path;
    Server server = co_await loop.create_unix_server(echo, name);
    Socket client = co_await connected_to(Address::unix_path(name));
    const std::string answer = co_await echoed(client, "x");
    EXPECT_EQ(answer, "x");
    client.close();
    co_await close_and_wait(server);
    EXPECT_FALSE(is_there());
  });
}

}  // namespace
}  // namespace ouro
