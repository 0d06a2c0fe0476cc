// Streams at their edges: on loops that stop or go, and of connections that end while others still use them, from
// wherever.
#include <gmock/gmock.h>

#include <sys/socket.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include <ouro/ouro.hpp>

#include "support/wire.hpp"

namespace ouro {
namespace {

using namespace std::chrono_literals;
using test::end_of;
using test::pattern;
using test::until;

class StreamEdges : public test::WireTest {};

// What the kernel has for it now.
std::string there_now(const Socket& socket) {
  std::string data(1 << 16, '\0');
  const ssize_t bytes = ::recv(socket.fileno(), data.data(), data.size(), MSG_DONTWAIT);
  data.resize(bytes > 0 ? static_cast<std::size_t>(bytes) : 0);
  return data;
}

// What was written in the last turn before a loop stops does not wait for the next run.
TEST_F(StreamEdges, WhatIsWrittenAtTheEndOfARunIsSent) {
  auto [left, right] = Socket::pair();
  Runner runner;
  std::optional<Streams> streams;
  auto open = [](Socket socket, std::optional<Streams>& to) -> Coroutine<> {
    to.emplace(co_await open_connection(std::move(socket)));
  };
  runner.run(open(std::move(left), streams));
  auto request = [](StreamWriter& writer) -> Coroutine<> {
    writer.write("now");
    co_return;
  };
  runner.run(request(streams->second));
  EXPECT_EQ(there_now(right), "now");
  auto last = [](StreamWriter& writer) -> Coroutine<> {
    writer.write("and again");
    throw RuntimeError("it ends with an error");
    co_return;
  };
  EXPECT_THROW(runner.run(last(streams->second)), RuntimeError);
  EXPECT_EQ(there_now(right), "and again");
  streams.reset();
}

// A loop may be destroyed on another thread than the one that ran it, though somebody waits for data.
TEST_F(StreamEdges, ALoopThatIsDestroyedElsewhere) {
  for (const bool writes : {false, true}) {
    auto [left, right] = Socket::pair();
    {
      EventLoop loop;
      std::atomic<bool> waits = false;
      auto talk = [](Socket socket, bool much_to_write, std::atomic<bool>& ready) -> Coroutine<> {
        auto [reader, writer] = co_await open_connection(std::move(socket));
        const std::string much = pattern(4 << 20);
        if (much_to_write) writer.write(much);
        ready = true;
        co_await reader.readline();
        ADD_FAILURE() << "there was no line";
      };
      Task<> task = loop.create_task(talk(std::move(left), writes, waits));
      std::thread runs([&loop] { loop.run_forever(); });
      while (!waits) std::this_thread::yield();
      loop.call_soon_threadsafe([&loop] { loop.stop(); });
      runs.join();
    }
    // What the kernel had got is there, and then the end: the descriptor is closed, be it a little later.
    std::string rest;
    std::string piece(1 << 16, '\0');
    ssize_t bytes = 0;
    while ((bytes = ::recv(right.fileno(), piece.data(), piece.size(), 0)) > 0) {
      rest.append(piece, 0, static_cast<std::size_t>(bytes));
    }
    EXPECT_EQ(bytes, 0) << errno;
    EXPECT_EQ(rest.empty(), !writes);
    EXPECT_EQ(rest, pattern(4 << 20).substr(0, rest.size()));
  }
}

// B327: who waited to be allowed to write has been, once all was sent, though the connection is closed then.
TEST_F(StreamEdges, ADrainThatEndsWithTheConnection) {
  run([]() -> Coroutine<> {
    auto [left, right] = Socket::pair();
    auto [reader, writer] = co_await open_connection(std::move(left));
    // All that waits goes at once in the end: from above the limit to nothing.
    writer.transport().set_write_buffer_limits({.low = 0, .high = 0});
    const std::string much = pattern(4 << 20);
    writer.write(much);
    auto drain = [](StreamWriter& to) -> Coroutine<> { co_await to.drain(); };
    Task<> drained = get_running_loop().create_task(drain(writer));
    co_await sleep(0s);
    EXPECT_FALSE(drained.done());
    writer.close();
    std::string got;
    while (true) {
      const std::string piece = co_await get_running_loop().sock_recv(right, 1 << 16);
      if (piece.empty()) break;
      got += piece;
    }
    EXPECT_EQ(got.size(), much.size());
    EXPECT_EQ(got, much);
    EXPECT_EQ(co_await end_of(std::move(drained)), "");
    co_await writer.wait_closed();
  });
}

// A handler that has given its writer away, and throws, has its connection closed all the same.
TEST_F(StreamEdges, AHandlerThatThrowsWithoutItsWriter) {
  run([]() -> Coroutine<> {
    std::optional<StreamWriter> kept;
    auto throws = [&kept](StreamReader reader, StreamWriter writer) -> Coroutine<> {
      static_cast<void>(co_await reader.readline());
      kept.emplace(std::move(writer));
      throw RuntimeError("a bug");
    };
    const ServerOptions here{.spread = false};
    Server server = co_await start_server(throws, "127.0.0.1", 0, StreamOptions{}, here);
    auto [reader, writer] = co_await open_connection("127.0.0.1", server.sockets().front().getsockname().port());
    writer.write("x\n");
    const std::string end = co_await reader.read();
    EXPECT_EQ(end, "");
    EXPECT_TRUE(kept && kept->is_closing());
    EXPECT_EQ(test::Reports::take().size(), 1U);
    kept.reset();
    server.close();
    co_await server.wait_closed();
  });
}

// ---- Elsewhere than on the connection's loop ----

class FloatingEdges : public test::GroupsOfAnySize {};

Coroutine<> ask(StreamWriter& writer, std::atomic<bool>& over, std::atomic<int>& named) {
  while (!over) {
    if (writer.get_extra_info<Address>("peername").port() != 0) ++named;
    if (writer.get_extra_info<Address>("sockname").port() != 0) ++named;
    co_await sleep(0s);
  }
}

// Names may be asked for anywhere, while the connection is paused, closed and gone.
TEST_P(FloatingEdges, NamesAreAskedForAnywhere) {
  run([]() -> Coroutine<> {
    auto flood = [](StreamReader&, StreamWriter& writer) -> Coroutine<> {
      const std::string much = pattern(1 << 20);
      writer.write(much);
      co_await writer.drain();
    };
    Server server = co_await start_server(flood, "127.0.0.1", 0);
    const int port = server.sockets().front().getsockname().port();
    for (int round = 0; round < 10; ++round) {
      auto [reader, writer] = co_await open_connection("127.0.0.1", port, StreamOptions{.limit = 1000});
      std::atomic<bool> over = false;
      std::atomic<int> named = 0;
      std::vector<Task<>> asking;
      for (int i = 0; i < 3; ++i) asking.push_back(spawn(ask(writer, over, named)));
      const std::string got = co_await reader.read();
      EXPECT_EQ(got.size(), std::size_t{1} << 20);
      writer.close();
      co_await writer.wait_closed();
      co_await until([&named] { return named > 10; });
      const int before = named;
      co_await until([&named, before] { return named > before; });
      over = true;
      for (Task<>& one : asking) co_await one;
    }
    server.close();
    co_await server.wait_closed();
  });
}

Coroutine<> write_some(StreamWriter& writer, char what, int times) {
  for (int i = 0; i < times && !writer.is_closing(); ++i) {
    writer.write(std::string_view(&what, 1));
    if (i % 4 == 0) co_await sleep(0s);
  }
}

// What a task has written before it closes the connection is sent, whoever else writes meanwhile.
TEST_P(FloatingEdges, NobodysCloseOvertakesItsWrites) {
  run([]() -> Coroutine<> {
    for (int round = 0; round < 50; ++round) {
      auto [left, right] = Socket::pair();
      auto [reader, writer] = co_await open_connection(std::move(left));
      auto write_and_end = [](StreamWriter& to, bool closes) -> Coroutine<> {
        co_await write_some(to, 'b', 40);
        to.write("last");
        if (closes) {
          to.close();
        } else {
          to.write_eof();
        }
      };
      Task<> other = spawn(write_some(writer, 'a', 100));
      Task<> ender = spawn(write_and_end(writer, round % 2 == 0));
      std::string got;
      while (true) {
        const std::string piece = co_await get_running_loop().sock_recv(right, 1 << 16);
        if (piece.empty()) break;
        got += piece;
      }
      co_await ender;
      const std::string ended = co_await end_of(std::move(other));
      EXPECT_TRUE(ended.empty() || ended.ends_with("Cannot call write() after write_eof()")) << ended;
      EXPECT_EQ(std::count(got.begin(), got.end(), 'b'), 40);
      EXPECT_NE(got.find("last"), std::string::npos);
      writer.close();
      co_await writer.wait_closed();
    }
  });
}

// write_eof() is for all that follows, and who writes on hears of it himself.
TEST_P(FloatingEdges, NothingIsWrittenAfterTheEnd) {
  run([]() -> Coroutine<> {
    auto [left, right] = Socket::pair();
    auto [reader, writer] = co_await open_connection(std::move(left));
    auto end_and_write = [](StreamWriter& to) -> Coroutine<std::string> {
      to.write("all");
      to.write_eof();
      const std::string much = pattern(100 << 10);
      std::string said = "it was written";
      try {
        to.write(much);
      } catch (const RuntimeError& error) {
        said = error.what();
      }
      co_await to.drain();
      co_return said;
    };
    Task<std::string> task = spawn(end_and_write(writer));
    const std::string said = co_await task;
    EXPECT_EQ(said, "Cannot call write() after write_eof()");
    std::string got;
    while (true) {
      const std::string piece = co_await get_running_loop().sock_recv(right, 1 << 16);
      if (piece.empty()) break;
      got += piece;
    }
    EXPECT_EQ(got, "all");
    writer.close();
    co_await writer.wait_closed();
  });
}

INSTANTIATE_TEST_SUITE_P(Workers, FloatingEdges, testing::Values(1U, 2U, 4U));

}  // namespace
}  // namespace ouro
