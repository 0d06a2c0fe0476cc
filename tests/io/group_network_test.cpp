// Connections and servers of several loops: what destructors may still do to them when the loops end, and a server's
// handle that all workers use at once.
#include <gmock/gmock.h>

#include <atomic>
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
using test::end_of;
using test::GroupsOfAnySize;
using testing::HasSubstr;

INSTANTIATE_TEST_SUITE_P(Workers, GroupsOfAnySize, testing::Values(1U, 2U, 4U, 16U), testing::PrintToStringParamName());

// ---- The end of the loops ----

// Closes the other one, wherever that is, when it goes.
class Proxy final : public Protocol {
 public:
  explicit Proxy(std::atomic<int>& gone) : gone_(gone) {}
  ~Proxy() override {
    peer->write("late");
    peer->writelines({"la", "te"});
    peer->pause_reading();
    peer->resume_reading();
    peer->write_eof();
    peer->close();
    peer->abort();
    server->close();
    server->abort_clients();
    ++gone_;
  }
  std::shared_ptr<Transport> peer;
  std::shared_ptr<Server> server;

 private:
  std::atomic<int>& gone_;
};

// Two connections that know each other.
Coroutine<> acquaint(EventLoop& one, EventLoop& other, std::shared_ptr<Server> server, std::atomic<int>& gone) {
  auto [left, right] = Socket::pair();
  const auto make = [&gone] { return std::make_unique<Proxy>(gone); };
  auto first = co_await one.create_connection(make, std::move(left));
  auto second = co_await other.create_connection(make, std::move(right));
  first.second->peer = second.first;
  second.second->peer = first.first;
  first.second->server = second.second->server = std::move(server);
}

TEST_P(GroupsOfAnySize, DestructorsMayCloseConnectionsOfAnyLoop) {
  std::atomic<int> gone{0};
  int made = 0;
  run([&]() -> Coroutine<> {
    const std::vector<EventLoop*> loops = workers();
    for (std::size_t i = 0; i < loops.size(); ++i) {
      for (const std::size_t step : {std::size_t{0}, std::size_t{1}, loops.size() - 1}) {
        const auto echo = [] { return std::make_unique<Echo>(); };
        Server server = co_await loops[i]->create_server(echo, "127.0.0.1", 0);
        EventLoop& other = *loops[(i + step) % loops.size()];
        co_await acquaint(*loops[i], other, std::make_shared<Server>(std::move(server)), gone);
        made += 2;
      }
    }
  });
  EXPECT_EQ(gone, made);
}

// ---- A server that everybody has ----

Coroutine<> use(Server server, std::atomic<int>& turns) {
  while (server.is_serving()) {
    for (const TransportSocket& socket : server.sockets()) EXPECT_GE(socket.fileno(), 0);
    if (++turns == 50) server.close();
    co_await sleep(0s);
  }
  co_await server.wait_closed();
  EXPECT_TRUE(server.sockets().empty());
  const std::string again = co_await end_of(server.serve_forever());
  EXPECT_THAT(again, HasSubstr("RuntimeError: the server is closed"));
  server.close();
  server.abort_clients();
  const bool drained = co_await server.drain(1h);
  EXPECT_TRUE(drained);
}

TEST_P(GroupsOfAnySize, AllWorkersMayHaveTheServer) {
  run([]() -> Coroutine<> {
    for (int round = 0; round < 20; ++round) {
      EventLoop& home = *workers().back();
      const auto echo = [] { return std::make_unique<Echo>(); };
      Server server = co_await home.create_server(echo, "127.0.0.1", 0);
      std::atomic<int> turns{0};
      std::vector<Task<>> users;
      for (EventLoop* loop : workers()) users.push_back(loop->create_task(use(server, turns)));
      for (Task<>& user : users) co_await user;
    }
  });
}

}  // namespace
}  // namespace ouro
