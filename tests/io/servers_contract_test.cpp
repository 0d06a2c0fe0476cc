// The line "If cancelled: …" of each awaitable of connections and servers, checked: cancelled before it starts and
// while it waits; then whatever it was about goes on as the line says. One row for each; on one loop and on four.
#include <gmock/gmock.h>

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <ouro/ouro.hpp>

#include "support/wire.hpp"

namespace ouro {
namespace {

using namespace std::chrono_literals;
using test::Echo;
using test::Record;
using test::Recorder;
using test::until;

class ServersContract : public test::WireTest {};

// A server with one connection, and a port on which nobody accepts and nobody else may wait.
struct World {
  std::shared_ptr<Server> server;
  std::shared_ptr<Record> record = std::make_shared<Record>();  // of the connection to it
  Socket full{AF_INET};
  Socket waiting{AF_INET};
  int port = 0;
  std::shared_ptr<Record> made = std::make_shared<Record>();  // of one that the row makes

  auto factory() {
    return [this] { return std::make_unique<Recorder>(made); };
  }
};

Coroutine<> prepare(World& world) {
  EventLoop& loop = get_running_loop();
  const auto echo = [] { return std::make_unique<Echo>(); };
  world.server = std::make_shared<Server>(co_await loop.create_server(echo, "127.0.0.1", 0));
  const int port = world.server->sockets().front().getsockname().port();
  const auto records = [&world] { return std::make_unique<Recorder>(world.record); };
  static_cast<void>(co_await loop.create_connection(records, "127.0.0.1", port));
  world.record->transport->write("x");
  co_await until([&world] { return world.record->received == "x"; });
  world.full.bind(Address::ip("127.0.0.1", 0));
  world.full.listen(0);
  world.port = world.full.getsockname().port();
  co_await loop.sock_connect(world.waiting, world.full.getsockname());
}

Coroutine<> drop(auto awaitable) { static_cast<void>(co_await std::move(awaitable)); }

struct Row {
  const char* name;
  std::function<Coroutine<>(World&)> use;
  bool waits = true;    // else it ends at once
  bool closes = false;  // the server, when it has begun
};

std::vector<Row> rows() {
  return {
      {"EventLoop::create_unix_connection",
       [](World& w) {
         return drop(get_running_loop().create_unix_connection(w.factory(), std::string("\0ouro nobody", 12)));
       },
       false},
      {"EventLoop::create_connection",
       [](World& w) { return drop(get_running_loop().create_connection(w.factory(), "127.0.0.1", w.port)); }},
      {"EventLoop::create_server",
       [](World& w) { return drop(get_running_loop().create_server(w.factory(), "localhost", 0)); }, false},
      {"EventLoop::create_unix_server",
       [](World& w) {
         return drop(get_running_loop().create_unix_server(w.factory(), std::string("\0ouro cancel", 12)));
       },
       false},
      {"EventLoop::create_datagram_endpoint",
       [](World&) {
         const auto factory = [] { return std::make_unique<DatagramProtocol>(); };
         return drop(get_running_loop().create_datagram_endpoint(factory, {.local = {"localhost", 0}}));
       },
       false},
      {"Server::start_serving", [](World& w) { return w.server->start_serving(); }, false},
      {"Server::wait_closed", [](World& w) { return w.server->wait_closed(); }},
      {"Server::serve_forever", [](World& w) { return w.server->serve_forever(); }, true, true},
      {"Server::drain", [](World& w) { return drop(w.server->drain(1h)); }, true, true},
  };
}

// The connection to the server lives through every cancellation, and everything ends when it does.
Coroutine<> expect_unharmed(World& world, const Row& row, bool closed) {
  EXPECT_TRUE(world.made->events.empty()) << row.name;
  EXPECT_EQ(world.server->is_serving(), !closed) << row.name;
  world.record->transport->write("y");
  co_await until([&world] { return world.record->received == "xy"; });
  world.server->close();
  world.record->transport->close();
  co_await world.server->wait_closed();
}

TEST_F(ServersContract, BeforeItStarts) {
  for (const Row& row : rows()) {
    run([&row]() -> Coroutine<> {
      World world;
      co_await prepare(world);
      Task<> task = get_running_loop().create_task(row.use(world));
      task.cancel("stop");
      const std::string end = co_await test::end_of(task);
      EXPECT_EQ(end, "CancelledError: stop") << row.name;
      EXPECT_TRUE(task.cancelled()) << row.name;
      co_await expect_unharmed(world, row, false);
    });
  }
}

TEST_F(ServersContract, WhileItWaits) {
  for (const Row& row : rows()) {
    if (!row.waits) continue;
    run([&row]() -> Coroutine<> {
      World world;
      co_await prepare(world);
      Task<> task = get_running_loop().create_task(row.use(world));
      co_await until([&task] { return task.done() || !task.get_stack().empty(); });
      for (int turns = 0; turns < 10; ++turns) co_await sleep(0s);
      EXPECT_FALSE(task.done()) << row.name;
      EXPECT_TRUE(task.cancel("stop")) << row.name;
      // serve_forever() awaits the connections, unless it is cancelled once more.
      for (int turns = 0; turns < 10; ++turns) co_await sleep(0s);
      if (!task.done()) task.cancel("stop");
      const std::string end = co_await test::end_of(task);
      EXPECT_EQ(end, "CancelledError: stop") << row.name;
      co_await expect_unharmed(world, row, row.closes);
    });
  }
}

// What ends at once ends in the turn of the request, or was cancelled: nothing is left of it either way.
TEST_F(ServersContract, InTheTurnInWhichItEnds) {
  for (const Row& row : rows()) {
    if (row.waits) continue;
    for (int turns = 1; turns < 8; ++turns) {
      run([&row, turns]() -> Coroutine<> {
        World world;
        co_await prepare(world);
        Task<> task = get_running_loop().create_task(row.use(world));
        for (int i = 0; i < turns; ++i) co_await sleep(0s);
        task.cancel("stop");
        const std::string end = co_await test::end_of(task);
        EXPECT_TRUE(end.empty() || task.cancelled() || end.find("refused") != std::string::npos) << row.name << end;
        co_await expect_unharmed(world, row, false);
      });
    }
  }
}

}  // namespace
}  // namespace ouro
