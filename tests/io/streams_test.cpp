// Streams over sockets: connections and servers, back-pressure both ways, how connections end, and what becomes of the
// tasks that serve them.
#include <gmock/gmock.h>

#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <filesystem>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <ouro/ouro.hpp>

#include "support/wire.hpp"

namespace ouro {
namespace {

using namespace std::chrono_literals;
using test::end_of;
using test::pattern;
using test::Reports;
using test::until;
using testing::AnyOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::StartsWith;

class StreamsTest : public test::WireTest {};

int port_of(const Server& server) { return server.sockets().front().getsockname().port(); }

Coroutine<> echo(StreamReader& reader, StreamWriter& writer) {
  while (std::optional<std::string> line = co_await reader.next()) {
    writer.write(*line);
    co_await writer.drain();
  }
}

Coroutine<> close_and_wait(Server server) {
  server.close();
  co_await server.wait_closed();
}

Coroutine<> close_and_wait(StreamWriter& writer) {
  writer.close();
  co_await writer.wait_closed();
}

// A stream, and the bare socket at its other end.
struct Peer {
  Streams streams;
  Socket socket;
};

Coroutine<Peer> make_peer(StreamOptions options = {}) {
  auto [left, right] = Socket::pair();
  Streams streams = co_await open_connection(std::move(left), options);
  Peer peer{std::move(streams), std::move(right)};
  co_return peer;
}

Coroutine<std::string> received_by(const Socket& socket) {
  std::string all;
  while (true) {
    const std::string piece = co_await get_running_loop().sock_recv(socket, 1 << 16);
    if (piece.empty()) break;
    all += piece;
  }
  co_return all;
}

void reset_when_closed(const Socket& socket) {
  const linger now{.l_onoff = 1, .l_linger = 0};
  ::setsockopt(socket.fileno(), SOL_SOCKET, SO_LINGER, &now, sizeof now);
}

// B304, B323
TEST_F(StreamsTest, AConnectionAndItsServer) {
  run([]() -> Coroutine<> {
    Server server = co_await start_server(echo, "127.0.0.1", 0);
    const int port = port_of(server);
    {
      auto [reader, writer] = co_await open_connection("127.0.0.1", port);
      EXPECT_EQ(writer.get_extra_info<Address>("peername").port(), port);
      EXPECT_TRUE(writer.can_write_eof());
      EXPECT_FALSE(writer.is_closing());
      writer.writelines({"one\n", "", "two\n"});
      std::string line = co_await reader.readline();
      EXPECT_EQ(line, "one\n");
      line = co_await reader.readline();
      EXPECT_EQ(line, "two\n");
      const std::vector<std::string_view> nothing;
      writer.writelines(nothing);
      writer.write("rest");
      writer.write_eof();
      line = co_await reader.read();
      EXPECT_EQ(line, "rest") << "the handler is left at the end, and the connection closed";
      EXPECT_TRUE(reader.at_eof());
      co_await close_and_wait(writer);
      EXPECT_TRUE(writer.is_closing());
    }
    co_await close_and_wait(server);
    EXPECT_THAT(co_await end_of(open_connection("127.0.0.1", port)), HasSubstr("Connection refused"));
    StreamOptions none;
    none.limit = 0;
    EXPECT_EQ(co_await end_of(open_connection("127.0.0.1", port, none)), "ValueError: Limit cannot be <= 0");
    EXPECT_THROW(static_cast<void>(start_server(echo, "127.0.0.1", 0, none)), ValueError);
  });
}

// B323
TEST_F(StreamsTest, OverUnixSockets) {
  run([]() -> Coroutine<> {
    const auto path = std::filesystem::temp_directory_path() / ("ouro-streams-" + std::to_string(::getpid()));
    Server server = co_await start_unix_server(echo, path);
    Streams streams = co_await open_unix_connection(path);
    streams.second.write("hello\n");
    const std::string line = co_await streams.first.readline();
    EXPECT_EQ(line, "hello\n");
    co_await close_and_wait(streams.second);
    co_await close_and_wait(server);
    EXPECT_FALSE(std::filesystem::exists(path));
  });
}

// B323
TEST_F(StreamsTest, HandlersOfAllKinds) {
  run([]() -> Coroutine<> {
    std::atomic<int> called{0};
    // A plain function that gets the halves gives them to a task.
    auto gives_away = [&called](StreamReader reader, StreamWriter writer) {
      auto serve = [&called](StreamReader in, StreamWriter out) -> Coroutine<> {
        const std::string line = co_await in.readline();
        out.write(line);
        ++called;
      };
      create_task(serve, std::move(reader), std::move(writer));
    };
    auto refuses = [&called](StreamReader&, StreamWriter&) { ++called; };
    auto owns = [name = std::string("a captured string, too long to lie in place"), &called](
                    StreamReader, StreamWriter writer) -> Coroutine<int> {
      co_await sleep(0s);
      writer.write(name);
      co_return ++called;
    };
    std::vector<Server> servers;
    servers.push_back(co_await start_server(gives_away, "127.0.0.1", 0));
    servers.push_back(co_await start_server(refuses, "127.0.0.1", 0));
    servers.push_back(co_await start_server(std::move(owns), "127.0.0.1", 0));
    std::vector<std::string> answers;
    for (const Server& server : servers) {
      Streams streams = co_await open_connection("127.0.0.1", port_of(server));
      if (answers.empty()) streams.second.write("line\n");
      std::string answer;
      while (true) {
        const std::string piece = co_await streams.first.read(100);
        if (piece.empty()) break;
        answer += piece;
      }
      answers.push_back(answer);
    }
    EXPECT_THAT(answers, ElementsAre("line\n", "", "a captured string, too long to lie in place"));
    EXPECT_EQ(called, 3);
    for (const Server& server : servers) co_await close_and_wait(server);
  });
}

// What a task writes in one turn in small pieces is one send, in order with what is large.
TEST_F(StreamsTest, SmallPiecesGoTogether) {
  run([]() -> Coroutine<> {
    auto [left, right] = Socket::pair(SOCK_STREAM);
    Streams streams = co_await open_connection(std::move(left));
    StreamWriter& writer = streams.second;
    writer.write("a");
    EXPECT_EQ(writer.transport().get_write_buffer_size(), 1U) << "it waits for the others";
    writer.write("b");
    writer.writelines({"c", "d"});
    const std::string first = co_await get_running_loop().sock_recv(right, 100);
    EXPECT_EQ(first, "abcd");
    EXPECT_EQ(writer.transport().get_write_buffer_size(), 0U);

    writer.write("small");
    writer.write(pattern(10'000));
    writer.write("small");
    const std::string large = pattern(9'000);
    writer.writelines({large, "end"});
    writer.close();
    const std::string all = co_await received_by(right);
    EXPECT_EQ(all, "small" + pattern(10'000) + "small" + large + "end");
    co_await writer.wait_closed();
  });
}

// B325, T27
TEST_F(StreamsTest, DrainWaitsForTheOtherSide) {
  run([]() -> Coroutine<> {
    Peer peer = co_await make_peer();
    StreamWriter& writer = peer.streams.second;
    co_await writer.drain();
    const std::string much = pattern(4 << 20);
    writer.write(much);
    std::vector<Task<>> drains;
    for (int i = 0; i < 10; ++i) {
      auto drain = [&writer]() -> Coroutine<> { co_await writer.drain(); };
      drains.push_back(get_running_loop().create_task(drain));
    }
    for (int turns = 0; turns < 20; ++turns) co_await sleep(0s);
    for (const Task<>& drain : drains) EXPECT_FALSE(drain.done());
    std::string got;
    while (got.size() != much.size()) got += co_await get_running_loop().sock_recv(peer.socket, 1 << 16);
    EXPECT_EQ(got, much);
    for (Task<>& drain : drains) co_await drain;
    co_await close_and_wait(writer);
  });
}

// B322: who does not read makes the other side wait; and nothing is lost.
TEST_F(StreamsTest, AReaderThatDoesNotReadHoldsTheOtherSideUp) {
  run([]() -> Coroutine<> {
    Peer peer = co_await make_peer({.limit = 1000});
    auto& [reader, writer] = peer.streams;
    const std::string much = pattern(4 << 20);
    auto send_all = [&peer, &much]() -> Coroutine<> {
      co_await get_running_loop().sock_sendall(peer.socket, much);
      peer.socket.shutdown(SHUT_WR);
    };
    Task<> sending = get_running_loop().create_task(send_all);
    co_await until([&writer] { return !writer.transport().is_reading(); });
    for (int turns = 0; turns < 20; ++turns) co_await sleep(0s);
    EXPECT_FALSE(sending.done());
    std::string got = co_await reader.read(500);
    EXPECT_EQ(got.size(), 500U);
    while (!reader.at_eof()) got += co_await reader.read(100'000);
    EXPECT_EQ(got.size(), much.size());
    EXPECT_EQ(got, much);
    co_await sending;
    co_await close_and_wait(writer);
  });
}

// B326, B327, B307
TEST_F(StreamsTest, AConnectionThatIsReset) {
  run([]() -> Coroutine<> {
    EventLoop& loop = get_running_loop();
    Socket listener(AF_INET);
    listener.bind(Address::ip("127.0.0.1", 0));
    listener.listen();
    Streams streams = co_await open_connection("127.0.0.1", listener.getsockname().port());
    auto& [reader, writer] = streams;
    auto [socket, address] = co_await loop.sock_accept(listener);
    writer.write(pattern(16 << 20));
    auto drain = [&writer]() -> Coroutine<> { co_await writer.drain(); };
    Task<> draining = loop.create_task(drain);
    Task<std::string> reading = loop.create_task(reader.readline());
    for (int turns = 0; turns < 10; ++turns) co_await sleep(0s);
    EXPECT_FALSE(draining.done());
    reset_when_closed(socket);
    socket.close();
    // The kernel tells of the reset once; a send that comes after that finds a broken pipe, and may be heard first.
    const std::string why = co_await end_of(draining);
    EXPECT_THAT(why, AnyOf(HasSubstr("Connection reset"), HasSubstr("Broken pipe")));
    EXPECT_EQ(co_await end_of(reading), why);
    EXPECT_EQ(co_await end_of(writer.drain()), why);
    EXPECT_EQ(co_await end_of(reader.read(1)), why);
    EXPECT_EQ(co_await end_of(writer.wait_closed()), why);
    EXPECT_TRUE(writer.is_closing());
    writer.write("dropped");
  });
}

// B326, B328, T27
TEST_F(StreamsTest, DrainAfterClose) {
  run([]() -> Coroutine<> {
    Peer peer = co_await make_peer();
    StreamWriter& writer = peer.streams.second;
    writer.write("sent");
    writer.close();
    writer.write("dropped");
    bool reset = false;
    try {
      co_await writer.drain();
    } catch (const ConnectionResetError& error) {
      reset = std::string(error.what()) == "Connection lost";
    }
    EXPECT_TRUE(reset);
    co_await writer.wait_closed();
    EXPECT_EQ(co_await end_of(writer.drain()), "exception: Connection lost");
    const std::string got = co_await received_by(peer.socket);
    EXPECT_EQ(got, "sent");
  });
}

// B327, B329
TEST_F(StreamsTest, CloseWithUnreadData) {
  run([]() -> Coroutine<> {
    Peer peer = co_await make_peer();
    auto& [reader, writer] = peer.streams;
    EXPECT_EQ(::send(peer.socket.fileno(), "unread\nrest", 11, 0), 11);
    const std::string line = co_await reader.readline();
    EXPECT_EQ(line, "unread\n");
    writer.close();
    peer.socket.close();
    co_await writer.wait_closed();
    const std::string rest = co_await reader.read();
    EXPECT_EQ(rest, "rest") << "what had been received is still there";
  });
}

// B330: a writer that goes closes its connection, and what it wrote is sent.
TEST_F(StreamsTest, AWriterThatGoes) {
  run([]() -> Coroutine<> {
    Socket other;
    {
      Peer peer = co_await make_peer();
      peer.streams.second.write("farewell");
      other = std::move(peer.socket);
    }
    const std::string got = co_await received_by(other);
    EXPECT_EQ(got, "farewell");

    Peer first = co_await make_peer();
    Peer second = co_await make_peer();
    first.streams.second = std::move(second.streams.second);
    const std::string end = co_await received_by(first.socket);
    EXPECT_EQ(end, "");
    first.streams.second.write("of the second");
    first.streams.second.close();
    const std::string moved = co_await received_by(second.socket);
    EXPECT_EQ(moved, "of the second");
  });
}

// B331, T29
TEST_F(StreamsTest, AHandlerThatThrows) {
  run([]() -> Coroutine<> {
    auto throws = [](StreamReader& reader, StreamWriter&) -> Coroutine<> {
      static_cast<void>(co_await reader.readline());
      throw std::runtime_error("a bug");
    };
    Server server = co_await start_server(throws, "127.0.0.1", 0);
    Streams streams = co_await open_connection("127.0.0.1", port_of(server));
    streams.second.write("x\n");
    const std::string end = co_await streams.first.read();
    EXPECT_EQ(end, "");
    EXPECT_THAT(Reports::take(), ElementsAre("Unhandled exception in client_connected_cb: exception: a bug"));
    co_await close_and_wait(server);
  });
}

// B331: a handler that is cancelled is not reported; its connection is closed. All are cancelled at the end of run().
TEST_F(StreamsTest, HandlersThatAreCancelled) {
  std::vector<std::string> ends;
  run([&ends]() -> Coroutine<> {
    auto waits = [&ends](StreamReader& reader, StreamWriter&) -> Coroutine<> {
      try {
        static_cast<void>(co_await reader.readline());
      } catch (const CancelledError&) {
        ends.emplace_back("cancelled");
        throw;
      }
    };
    Server server = co_await start_server(waits, "127.0.0.1", 0, {}, {.spread = false});
    Streams first = co_await open_connection("127.0.0.1", port_of(server));
    Streams second = co_await open_connection("127.0.0.1", port_of(server));
    for (int turns = 0; turns < 20; ++turns) co_await sleep(0s);
    server.close();
  });
  EXPECT_THAT(ends, ElementsAre("cancelled", "cancelled"));
}

// B331
TEST_F(StreamsTest, AHandlerThatIsCancelledBeforeItBegins) {
  run([]() -> Coroutine<> {
    EventLoop& loop = get_running_loop();
    Server server = co_await start_server(echo, "127.0.0.1", 0, {}, {.spread = false});
    const Address address = server.sockets().front().getsockname();
    loop.set_task_factory([](BaseEventLoop&, AnyTask task, TaskOptions&) { task.cancel(); });
    Socket client(AF_INET);
    EXPECT_EQ(::connect(client.fileno(), address.data(), static_cast<socklen_t>(address.size())), 0);
    const std::string end = co_await loop.sock_recv(client, 1);
    EXPECT_EQ(end, "") << "its connection is closed";
    loop.set_task_factory(nullptr);
    co_await close_and_wait(server);
  });
}

// T29: the end of a server does not touch its handlers, and waits for them; close_clients() ends them.
TEST_F(StreamsTest, AServerWaitsForItsConnections) {
  run([]() -> Coroutine<> {
    Server server = co_await start_server(echo, "127.0.0.1", 0);
    Streams streams = co_await open_connection("127.0.0.1", port_of(server));
    streams.second.write("x\n");
    std::string line = co_await streams.first.readline();
    server.close();
    Task<> waiting = get_running_loop().create_task(server.wait_closed());
    streams.second.write("y\n");
    line = co_await streams.first.readline();
    EXPECT_EQ(line, "y\n");
    EXPECT_FALSE(waiting.done());
    server.close_clients();
    co_await waiting;
    line = co_await streams.first.read();
    EXPECT_EQ(line, "");
  });
}

// B333
Coroutine<std::string> read_too_much(int port) {
  auto [reader, writer] = co_await open_connection("127.0.0.1", port);
  writer.write("go\n");
  try {
    static_cast<void>(co_await reader.readexactly(100));
  } catch (const IncompleteReadError& error) {
    co_return error.partial();
  }
  co_return "nothing was missing";
}

TEST_F(StreamsTest, AHundredThatEndTooEarly) {
  run([]() -> Coroutine<> {
    auto short_answer = [](StreamReader& reader, StreamWriter& writer) -> Coroutine<> {
      static_cast<void>(co_await reader.readline());
      writer.write("short");
    };
    Server server = co_await start_server(short_answer, "127.0.0.1", 0);
    std::vector<Coroutine<std::string>> clients;
    for (int i = 0; i < 100; ++i) clients.push_back(read_too_much(port_of(server)));
    const std::vector<std::string> partial = co_await gather(std::move(clients));
    for (const std::string& one : partial) EXPECT_EQ(one, "short");
    co_await close_and_wait(server);
  });
}

// A protocol of one's own making: the same halves over any transport.
TEST_F(StreamsTest, AroundATransport) {
  run([]() -> Coroutine<> {
    auto [left, right] = Socket::pair();
    auto protocol = std::make_shared<StreamReaderProtocol>();
    auto factory = [&protocol] { return protocol; };
    auto made = co_await get_running_loop().create_connection(factory, std::move(left));
    EXPECT_EQ(made.first->share(), made.first);
    StreamReader reader(protocol);
    StreamWriter writer(made.first, protocol);
    EXPECT_EQ(::send(right.fileno(), "x", 1, 0), 1);
    const std::string got = co_await reader.readexactly(1);
    EXPECT_EQ(got, "x");
    co_await close_and_wait(writer);
  });
}

// The halves of one connection in tasks that move between loops: what is written anywhere arrives in order.
class FloatingStreams : public test::GroupsOfAnySize {};

Coroutine<> write_much(StreamWriter& writer, const std::string& all) {
  for (std::size_t at = 0; at < all.size(); at += 1500) {
    writer.write(std::string_view(all).substr(at, 1500));
    co_await writer.drain();
    if (at % 4 == 0) co_await sleep(0s);
  }
  writer.write_eof();
}

Coroutine<std::string> read_all(StreamReader& reader) {
  std::string all;
  while (true) {
    const std::string piece = co_await reader.read(5000);
    if (piece.empty()) break;
    all += piece;
  }
  co_return all;
}

Coroutine<bool> exchange(int port) {
  auto [reader, writer] = co_await open_connection("127.0.0.1", port);
  const std::string all = pattern(300'000);
  Task<std::string> reading = spawn(read_all(reader));
  Task<> writing = spawn(write_much(writer, all));
  const std::string got = co_await reading;
  co_await writing;
  co_await close_and_wait(writer);
  co_return got == all;
}

Coroutine<> send_back(StreamReader& reader, StreamWriter& writer) {
  while (true) {
    const std::string_view piece = co_await reader.read_view(10'000);
    if (piece.empty()) break;
    writer.write(piece);
    co_await writer.drain();
  }
}

TEST_P(FloatingStreams, KeepTheOrder) {
  run([]() -> Coroutine<> {
    Server server = co_await start_server(send_back, "127.0.0.1", 0);
    std::vector<Coroutine<bool>> clients;
    for (int i = 0; i < 20; ++i) clients.push_back(exchange(port_of(server)));
    const std::vector<bool> right = co_await gather(std::move(clients));
    for (const bool one : right) EXPECT_TRUE(one);
    co_await close_and_wait(server);
  });
}

INSTANTIATE_TEST_SUITE_P(Workers, FloatingStreams, testing::Values(1U, 2U, 4U));

}  // namespace
}  // namespace ouro
