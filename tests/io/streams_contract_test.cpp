// The line "If cancelled: …" of each awaitable of streams, checked: cancelled before it starts, while it waits, and in
// the turn in which it ends, before and after that. Then the stream is used as if nothing had been: not a byte is lost
// (T25). One row for each; on one loop and on four.
#include <gmock/gmock.h>

#include <array>
#include <functional>
#include <memory>
#include <optional>
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
using test::until;

class StreamsContract : public test::WireTest {};

Coroutine<> drop(auto awaitable) { static_cast<void>(co_await std::move(awaitable)); }
Coroutine<> drop_void(auto awaitable) { co_await std::move(awaitable); }

// ---- What reads ----

constexpr std::array<std::string_view, 2> ends{"\n", "--"};

struct ReadRow {
  const char* name;
  std::function<Coroutine<>(StreamReader&)> use;
};

// Each is answered by "ab\n" and the end, and by nothing less.
std::vector<ReadRow> read_rows() {
  return {
      {"StreamReader::read", [](StreamReader& r) { return drop(r.read()); }},
      {"StreamReader::readexactly", [](StreamReader& r) { return drop(r.readexactly(3)); }},
      {"StreamReader::readline", [](StreamReader& r) { return drop(r.readline()); }},
      {"StreamReader::readuntil", [](StreamReader& r) { return drop(r.readuntil()); }},
      {"StreamReader::readuntil of several", [](StreamReader& r) { return drop(r.readuntil(ends)); }},
      {"StreamReader::next", [](StreamReader& r) { return drop(r.next()); }},
      {"StreamReader::readexactly_view", [](StreamReader& r) { return drop(r.readexactly_view(3)); }},
      {"StreamReader::readline_view", [](StreamReader& r) { return drop(r.readline_view()); }},
      {"StreamReader::readuntil_view", [](StreamReader& r) { return drop(r.readuntil_view("b\n")); }},
  };
}

// These are answered by whatever there is.
std::vector<ReadRow> some_rows() {
  return {
      {"StreamReader::read of some", [](StreamReader& r) { return drop(r.read(3)); }},
      {"StreamReader::read_view", [](StreamReader& r) { return drop(r.read_view(3)); }},
  };
}

// What the reader has is all of it.
Coroutine<> expect_all(StreamReader& reader, const char* name) {
  const std::string all = co_await reader.read();
  EXPECT_EQ(all, "ab\n") << name;
  EXPECT_TRUE(reader.at_eof()) << name;
}

enum class When { before, waiting, then_answered, answered };

Coroutine<> cancel_reading(const ReadRow& row, bool some, When when) {
  StreamReader reader;
  if (!some) reader.feed_data("ab");
  Task<> task = get_running_loop().create_task(row.use(reader));
  if (when != When::before) {
    co_await until([&task] { return !task.get_stack().empty(); });
    co_await sleep(0s);
    EXPECT_FALSE(task.done()) << row.name;
  }
  const std::string rest = some ? "ab\n" : "\n";
  const auto answer = [&reader, &rest] {
    reader.feed_data(rest);
    reader.feed_eof();
  };
  if (when == When::answered) answer();
  EXPECT_TRUE(task.cancel("stop")) << row.name;
  if (when == When::then_answered) answer();
  const std::string end = co_await end_of(task);
  EXPECT_EQ(end, "CancelledError: stop") << row.name;
  if (when == When::before || when == When::waiting) answer();
  co_await expect_all(reader, row.name);
}

TEST_F(StreamsContract, Reading) {
  for (const bool some : {false, true}) {
    for (const ReadRow& row : some ? some_rows() : read_rows()) {
      for (const When when : {When::before, When::waiting, When::then_answered, When::answered}) {
        run([&row, some, when] { return cancel_reading(row, some, when); });
      }
    }
  }
}

// ---- Connections and servers ----

// A connection to a server whose handler reads nothing until it is told to.
struct World {
  std::optional<Server> server;
  std::optional<StreamReader> reader;
  std::optional<StreamWriter> writer;
  std::string received;
  Event go_on;
  Socket full{AF_INET};  // nobody accepts, and nobody else may wait
  Socket waiting{AF_INET};
  int port = 0;
};

Coroutine<> nothing(StreamReader&, StreamWriter&) { co_return; }

Coroutine<> prepare(World& world) {
  EventLoop& loop = get_running_loop();
  auto handler = [&world](StreamReader& reader, StreamWriter&) -> Coroutine<> {
    co_await world.go_on.wait();
    world.received = co_await reader.read();
  };
  world.server = co_await start_server(handler, "127.0.0.1", 0, {}, {.spread = false});
  auto streams = co_await open_connection("127.0.0.1", world.server->sockets().front().getsockname().port());
  world.reader.emplace(std::move(streams.first));
  world.writer.emplace(std::move(streams.second));
  world.full.bind(Address::ip("127.0.0.1", 0));
  world.full.listen(0);
  world.port = world.full.getsockname().port();
  co_await loop.sock_connect(world.waiting, world.full.getsockname());
}

struct Row {
  const char* name;
  std::function<Coroutine<>(World&)> use;
  std::size_t bytes = 0;  // that are written before
  bool waits = true;      // else it ends at once
};

std::string nobody() { return std::string("\0ouro no stream", 15); }

std::vector<Row> rows() {
  return {
      {"StreamWriter::drain", [](World& w) { return drop_void(w.writer->drain()); }, 16 << 20},
      {"StreamWriter::wait_closed", [](World& w) { return drop_void(w.writer->wait_closed()); }, 10},
      {"open_connection", [](World& w) { return drop(open_connection("127.0.0.1", w.port)); }},
      {"open_unix_connection", [](World&) { return drop(open_unix_connection(nobody())); }, 10, false},
      {"start_server", [](World&) { return drop(start_server(nothing, "localhost", 0)); }, 10, false},
      {"start_unix_server", [](World&) { return drop(start_unix_server(nothing, nobody())); }, 10, false},
  };
}

Coroutine<> cancel_row(const Row& row, int turns) {
  World world;
  co_await prepare(world);
  world.writer->write(std::string(row.bytes, 'x'));
  Task<> task = get_running_loop().create_task(row.use(world));
  for (int i = 0; i < turns; ++i) co_await sleep(0s);
  EXPECT_TRUE(!row.waits || !task.done()) << row.name;
  task.cancel("stop");
  const std::string end = co_await end_of(task);
  if (row.waits || turns == 0) {
    EXPECT_EQ(end, "CancelledError: stop") << row.name;
  } else {
    EXPECT_TRUE(end.empty() || task.cancelled() || end.find("refused") != std::string::npos) << row.name << end;
  }
  world.writer->write("end");
  world.writer->write_eof();
  world.go_on.set();
  const std::string nothing_more = co_await world.reader->read();
  EXPECT_EQ(nothing_more, "");
  EXPECT_EQ(world.received, std::string(row.bytes, 'x') + "end") << row.name;
  world.writer->close();
  co_await world.writer->wait_closed();
  world.server->close();
  co_await world.server->wait_closed();
}

TEST_F(StreamsContract, ConnectionsAndServers) {
  for (const Row& row : rows()) {
    for (int turns = 0; turns < 8; turns += row.waits ? 7 : 1) {
      run([&row, turns] { return cancel_row(row, turns); });
    }
  }
}

}  // namespace
}  // namespace ouro
