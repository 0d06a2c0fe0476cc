// Endpoints of datagrams of several loops: they belong to the loop whose function made them, and what other loops ask
// of them is done there.
#include <gmock/gmock.h>

#include <atomic>
#include <chrono>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <ouro/ouro.hpp>

#include "support/mail.hpp"

namespace ouro {
namespace {

using namespace std::chrono_literals;
using test::GroupsOfAnySize;
using test::text_of;
using test::thrown_by;
using test::until;
using testing::HasSubstr;

INSTANTIATE_TEST_SUITE_P(Workers, GroupsOfAnySize, testing::Values(1U, 2U, 4U, 16U), testing::PrintToStringParamName());

// Is called on one loop alone, and counts.
class Counter final : public DatagramProtocol {
 public:
  explicit Counter(EventLoop& home) : home_(home) {}
  void connection_made(DatagramTransport& transport) override {
    check();
    transport_ = &transport;
  }
  void datagram_received(std::span<const std::byte> data, const Address& from) override {
    check();
    const std::string text = text_of(data);
    const std::size_t sender = std::stoul(text);
    const unsigned long number = std::stoul(text.substr(text.find(':') + 1));
    if (next.size() <= sender) next.resize(sender + 1);
    EXPECT_EQ(next[sender]++, number) << "out of order";
    transport_->sendto(data, from);
    ++received;
  }
  void connection_lost(std::exception_ptr error) override {
    check();
    EXPECT_FALSE(error);
    ++lost;
  }

  std::atomic<int> received{0};
  std::atomic<int> lost{0};
  std::vector<unsigned long> next;  // of each sender

 private:
  void check() const { EXPECT_EQ(&get_running_loop(), &home_); }

  EventLoop& home_;
  DatagramTransport* transport_ = nullptr;
};

// Answers, counted.
class Answers final : public DatagramProtocol {
 public:
  void datagram_received(std::span<const std::byte>, const Address&) override { ++received; }
  std::atomic<int> received{0};
};

constexpr int datagrams_each = 200;

// Sends over its own endpoint, which lives on the last loop, from wherever it runs.
Coroutine<> talk(std::size_t number, Address there) {
  EventLoop& home = *workers().back();
  const DatagramOptions options{.local = Address::unix_path(""), .remote = there};
  auto [transport, answers] =
      co_await home.create_datagram_endpoint([] { return std::make_unique<Answers>(); }, options);
  EXPECT_EQ(&transport->get_loop(), &home);
  EXPECT_EQ(transport->getpeername(), there);
  EXPECT_THAT(thrown_by([&] { transport->sendto("x", Address::ip("127.0.0.1", 1)); }), HasSubstr("ValueError"));
  for (int i = 0; i < datagrams_each; ++i) {
    std::string text = std::to_string(number) + ":" + std::to_string(i);
    transport->sendto(text);
    text.assign(text.size(), '?');
    if (i % 16 == 0) co_await sleep(0s);
  }
  co_await until([&] { return answers->received == datagrams_each; });
  transport->close();
}

TEST_P(GroupsOfAnySize, EndpointsMayBeUsedFromEverywhere) {
  run([]() -> Coroutine<> {
    EventLoop& home = *workers().front();
    const DatagramOptions options{.local = Address::unix_path("")};
    auto [transport, counter] =
        co_await home.create_datagram_endpoint([&home] { return std::make_unique<Counter>(home); }, options);
    EXPECT_EQ(&transport->get_loop(), &home);
    std::vector<Task<>> talks;
    for (std::size_t i = 0; i < 8; ++i) talks.push_back(spawn(talk(i, transport->getsockname())));
    for (Task<>& task : talks) co_await task;
    EXPECT_EQ(counter->received, 8 * datagrams_each);
    transport->close();
    co_await until([&counter] { return counter->lost == 1; });
    EXPECT_TRUE(transport->is_closing());
    for (int i = 0; i < 4; ++i) transport->sendto("nobody gets it", Address::ip("127.0.0.1", 9));
    transport->abort();
  });
}

// Uses the other one, wherever that is, when it goes.
class Proxy final : public DatagramProtocol {
 public:
  explicit Proxy(std::atomic<int>& gone) : gone_(gone) {}
  ~Proxy() override {
    peer->sendto("late", Address::ip("127.0.0.1", 9));
    peer->close();
    peer->abort();
    ++gone_;
  }
  std::shared_ptr<DatagramTransport> peer;

 private:
  std::atomic<int>& gone_;
};

TEST_P(GroupsOfAnySize, DestructorsMayCloseEndpointsOfAnyLoop) {
  std::atomic<int> gone{0};
  run([&gone]() -> Coroutine<> {
    const std::vector<EventLoop*> loops = workers();
    const auto make = [&gone] { return std::make_unique<Proxy>(gone); };
    for (std::size_t i = 0; i < loops.size(); ++i) {
      const DatagramOptions options{.local = {"127.0.0.1", 0}};
      auto first = co_await loops[i]->create_datagram_endpoint(make, options);
      auto second = co_await loops[(i + 1) % loops.size()]->create_datagram_endpoint(make, options);
      first.second->peer = second.first;
      second.second->peer = first.first;
    }
  });
  EXPECT_EQ(static_cast<unsigned>(gone), 2 * GetParam());
}

}  // namespace
}  // namespace ouro
