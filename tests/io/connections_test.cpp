// create_connection and its kin: over IPv4, IPv6 and unix sockets, in both forms of a protocol, and every way in which
// a connection does not come about; none of which leaves a descriptor open.
#include <gmock/gmock.h>

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstddef>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <ouro/ouro.hpp>

#include "support/wire.hpp"

namespace ouro {
namespace {

using namespace std::chrono_literals;
using test::BufferedRecorder;
using test::Echo;
using test::end_of;
using test::pattern;
using test::Record;
using test::Recorder;
using test::Reports;
using test::until;
using testing::ElementsAre;
using testing::HasSubstr;

class ConnectionsTest : public test::WireTest {};

std::unique_ptr<Echo> echo() { return std::make_unique<Echo>(); }

// A port on which nobody listens.
int closed_port() {
  Socket socket(AF_INET);
  socket.bind(Address::ip("127.0.0.1", 0));
  return socket.getsockname().port();
}

// Sends the data to an echo server, and closes when all is back. Gives what came back.
Coroutine<std::string> through(Coroutine<detail::Connection<Recorder>> connecting, std::shared_ptr<Record> record,
                               std::string data) {
  auto [transport, protocol] = co_await std::move(connecting);
  EXPECT_THAT(record->events, ElementsAre("made"));
  EXPECT_EQ(record->transport, transport.get());
  EXPECT_EQ(transport->get_protocol(), protocol);
  transport->write(data);
  co_await until([&] { return record->received.size() >= data.size(); });
  transport->close();
  co_await until([&] { return record->lost(); });
  co_return record->received;
}

// B356, B364
TEST_F(ConnectionsTest, OverEachFamily) {
  run([]() -> Coroutine<> {
    EventLoop& loop = get_running_loop();
    const std::string data = pattern(1 << 20);
    for (const char* host : {"127.0.0.1", "::1", "localhost"}) {
      auto record = std::make_shared<Record>();
      int calls = 0;
      const auto factory = [&] {
        ++calls;
        return std::make_unique<Recorder>(record);
      };
      Server server = co_await loop.create_server(echo, host, 0);
      const int port = server.sockets().front().getsockname().port();
      record->then = [&record](const std::string& event) {
        if (event != "made") return;
        const auto socket = record->transport->get_extra_info<TransportSocket>("socket", TransportSocket(-1));
        EXPECT_NE(socket.getsockopt(IPPROTO_TCP, TCP_NODELAY), 0);
      };
      const std::string back = co_await through(loop.create_connection(factory, host, port), record, data);
      EXPECT_TRUE(back == data) << host;
      EXPECT_EQ(calls, 1);
      server.close();
      co_await server.wait_closed();
    }
  });
}

// B356
TEST_F(ConnectionsTest, OverAUnixSocketAndASocketOfTheCallers) {
  run([]() -> Coroutine<> {
    EventLoop& loop = get_running_loop();
    const std::string data = pattern(1 << 20);
    const std::string path = testing::TempDir() + "ouro_connections_test_" + std::to_string(::getpid());
    auto record = std::make_shared<Record>();
    const auto factory = [&record] { return std::make_shared<Recorder>(record); };
    Server server = co_await loop.create_unix_server(echo, path);
    const std::string back = co_await through(loop.create_unix_connection(factory, path), record, data);
    EXPECT_TRUE(back == data);

    *record = {};
    Socket socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK);
    co_await loop.sock_connect(socket, Address::unix_path(path));
    const std::string again = co_await through(loop.create_unix_connection(factory, std::move(socket)), record, data);
    EXPECT_TRUE(again == data);
    server.close();
    co_await server.wait_closed();
  });
}

// B359
TEST_F(ConnectionsTest, RefuseOtherSockets) {
  run([]() -> Coroutine<> {
    EventLoop& loop = get_running_loop();
    const std::string none = co_await end_of(loop.create_connection(echo, Socket()));
    EXPECT_THAT(none, HasSubstr("ValueError: a socket was expected"));
    const std::string datagrams = co_await end_of(loop.create_connection(echo, Socket(AF_INET, SOCK_DGRAM)));
    EXPECT_THAT(datagrams, HasSubstr("ValueError: A Stream Socket was expected"));
    const std::string internet = co_await end_of(loop.create_unix_connection(echo, Socket(AF_INET)));
    EXPECT_THAT(internet, HasSubstr("ValueError: A UNIX Domain Stream Socket was expected"));
  });
}

// B358, B363
TEST_F(ConnectionsTest, ARefusedConnectionIsAnErrorOfItsAddress) {
  run([]() -> Coroutine<> {
    EventLoop& loop = get_running_loop();
    const int port = closed_port();
    bool caught = false;
    try {
      static_cast<void>(co_await loop.create_connection(echo, "127.0.0.1", port));
    } catch (const ConnectionRefusedError& error) {
      caught = true;
      EXPECT_EQ(error.object(), "127.0.0.1:" + std::to_string(port));
    }
    EXPECT_TRUE(caught);
    const std::string all = co_await end_of(loop.create_connection(echo, "127.0.0.1", port, {.all_errors = true}));
    EXPECT_THAT(all, HasSubstr("create_connection failed"));
    const std::string path = co_await end_of(loop.create_unix_connection(echo, "/nowhere/at/all"));
    EXPECT_THAT(path, HasSubstr("No such file or directory"));
  });
}

// B357
TEST_F(ConnectionsTest, BindToALocalAddressFirst) {
  run([]() -> Coroutine<> {
    EventLoop& loop = get_running_loop();
    Server server = co_await loop.create_server(echo, "127.0.0.1", 0);
    const int port = server.sockets().front().getsockname().port();
    const Address local = Address::ip("127.0.0.2", 0);
    auto [transport, protocol] = co_await loop.create_connection(echo, "127.0.0.1", port, {.local_addr = local});
    EXPECT_EQ(transport->get_extra_info<Address>("sockname").host(), "127.0.0.2");
    transport->close();

    const Address six = Address::ip("::1", 0);
    const std::string family = co_await end_of(loop.create_connection(echo, "127.0.0.1", port, {.local_addr = six}));
    EXPECT_THAT(family, HasSubstr("no matching local address with family=2 found"));
    const Address taken = server.sockets().front().getsockname();
    const std::string in_use = co_await end_of(loop.create_connection(echo, "127.0.0.1", port, {.local_addr = taken}));
    EXPECT_THAT(in_use, HasSubstr("error while attempting to bind on address " + taken.str()));
    server.close();
    co_await server.wait_closed();
  });
}

// T30
TEST_F(ConnectionsTest, AFactoryThatThrowsLeavesNothingOpen) {
  run([]() -> Coroutine<> {
    EventLoop& loop = get_running_loop();
    Server server = co_await loop.create_server(echo, "127.0.0.1", 0);
    const int port = server.sockets().front().getsockname().port();
    const auto throws = []() -> std::unique_ptr<Echo> { throw std::runtime_error("no protocol"); };
    const std::string thrown = co_await end_of(loop.create_connection(throws, "127.0.0.1", port));
    EXPECT_EQ(thrown, "exception: no protocol");
    const auto gives_none = []() -> std::unique_ptr<Echo> { return nullptr; };
    const std::string none = co_await end_of(loop.create_connection(gives_none, "127.0.0.1", port));
    EXPECT_THAT(none, HasSubstr("the protocol factory gave no protocol"));
    server.close();
    co_await server.wait_closed();
  });
}

// B360, T30: in each turn of its making.
TEST_F(ConnectionsTest, ACancelledConnectionLeavesNothingOpen) {
  run([]() -> Coroutine<> {
    EventLoop& loop = get_running_loop();
    Server server = co_await loop.create_server(echo, "127.0.0.1", 0);
    const int port = server.sockets().front().getsockname().port();
    for (int turns = 0; turns < 12; ++turns) {
      auto record = std::make_shared<Record>();
      const auto factory = [&record] { return std::make_unique<Recorder>(record); };
      auto connecting = loop.create_task(loop.create_connection(factory, "localhost", port));
      for (int i = 0; i < turns; ++i) co_await sleep(0s);
      connecting.cancel();
      const std::string end = co_await end_of(connecting);
      EXPECT_EQ(end.empty(), !record->events.empty());
      if (record->transport) record->transport->abort();
      co_await until([&record] { return record->events.empty() || record->lost(); });
    }
    server.close();
    co_await server.wait_closed();
  });
}

// Happy eyeballs: an address that refuses, and one that does not.
TEST_F(ConnectionsTest, ADelayLetsTheNextAddressTry) {
  run([]() -> Coroutine<> {
    EventLoop& loop = get_running_loop();
    Server server = co_await loop.create_server(echo, "127.0.0.1", 0);
    const int port = server.sockets().front().getsockname().port();
    ConnectionOptions options;
    options.happy_eyeballs_delay = 1h;
    auto [transport, protocol] = co_await loop.create_connection(echo, "localhost", port, options);
    EXPECT_EQ(transport->get_extra_info<Address>("peername").port(), port);
    transport->close();
    server.close();
    co_await server.wait_closed();
  });
}

// B389
TEST_F(ConnectionsTest, ABufferedProtocolSaysWhere) {
  run([]() -> Coroutine<> {
    EventLoop& loop = get_running_loop();
    const std::string data = pattern(300'000);
    auto record = std::make_shared<Record>();
    auto [left, right] = Socket::pair();
    auto buffered = co_await loop.create_connection(
        [&record] { return std::make_unique<BufferedRecorder>(record, 700); }, std::move(left));
    record->then = [&record, &loop](const std::string& event) {
      if (event != "data" || record->pieces % 50 != 0) return;
      record->transport->pause_reading();
      loop.call_soon([&record] { record->transport->resume_reading(); });
    };
    co_await loop.sock_sendall(right, data);
    co_await until([&] { return record->received.size() == data.size(); });
    EXPECT_TRUE(record->received == data);
    EXPECT_GE(record->pieces, data.size() / 700);
    record->then = nullptr;
    right.close();
    co_await until([&] { return record->lost(); });
    EXPECT_THAT(record->events, ElementsAre("made", "data", "eof", "lost"));

    auto empty = std::make_shared<Record>();
    auto [first, second] = Socket::pair();
    auto bad = co_await loop.create_connection([&empty] { return std::make_unique<BufferedRecorder>(empty, 0); },
                                               std::move(first));
    co_await loop.sock_sendall(second, "x");
    co_await until([&] { return empty->lost(); });
    EXPECT_THAT(empty->events.back(), HasSubstr("get_buffer() returned an empty buffer"));
    EXPECT_THAT(Reports::take(), ElementsAre(HasSubstr("protocol.get_buffer() call failed")));
  });
}

// B390
TEST_F(ConnectionsTest, TheProtocolMayChangeItsForm) {
  run([]() -> Coroutine<> {
    EventLoop& loop = get_running_loop();
    auto streaming = std::make_shared<Record>();
    auto buffered = std::make_shared<Record>();
    auto [left, right] = Socket::pair();
    auto made = co_await loop.create_connection([&] { return std::make_unique<Recorder>(streaming); }, std::move(left));
    streaming->then = [&](const std::string& event) {
      if (event != "data") return;
      buffered->events.push_back("set");
      made.second.reset();  // the transport alone has it now, and lets go of it inside its own callback
      streaming->transport->set_protocol(std::make_shared<BufferedRecorder>(buffered, 3));
    };
    co_await loop.sock_sendall(right, "first");
    co_await until([&] { return !buffered->events.empty(); });
    co_await loop.sock_sendall(right, "second");
    right.close();
    co_await until([&] { return buffered->lost(); });
    EXPECT_EQ(streaming->received, "first");
    EXPECT_EQ(buffered->received, "second");
    EXPECT_THAT(streaming->events, ElementsAre("made", "data"));
    EXPECT_THAT(buffered->events, ElementsAre("set", "data", "eof", "lost"));
  });
}

// Each of many gets its own back.
TEST_F(ConnectionsTest, ManyAtOnce) {
  run([]() -> Coroutine<> {
    EventLoop& loop = get_running_loop();
    Server server = co_await loop.create_server(echo, "127.0.0.1", 0);
    const int port = server.sockets().front().getsockname().port();
    std::vector<Task<std::string>> all;
    const auto one = [](EventLoop& on, int to, std::string data) -> Coroutine<std::string> {
      auto record = std::make_shared<Record>();
      const auto factory = [&record] { return std::make_unique<Recorder>(record); };
      co_return co_await through(on.create_connection(factory, "127.0.0.1", to), record, std::move(data));
    };
    for (int i = 0; i < 300; ++i)
      all.push_back(loop.create_task(one(loop, port, pattern(static_cast<std::size_t>(100 * i + 1)))));
    for (int i = 0; i < 300; ++i) {
      const std::string back = co_await all[static_cast<std::size_t>(i)];
      EXPECT_TRUE(back == pattern(static_cast<std::size_t>(100 * i + 1))) << i;
    }
    server.close();
    co_await server.wait_closed();
  });
}

}  // namespace
}  // namespace ouro
