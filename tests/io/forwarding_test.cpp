// The buffers that are received into. What is sent on as it was received is not copied: it arrives whole, however
// slowly it is taken, and those who do not take it stop nobody.
#include <gmock/gmock.h>

#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <ouro/ouro.hpp>

#include "network.hpp"
#include "proactor.hpp"
#include "support/wire.hpp"

namespace ouro {
namespace {

using test::make_wire;
using test::pattern;
using test::until;
using test::Wire;

class ForwardingTest : public test::WireTest {};

using Pass = std::function<void(Transport&, std::span<const std::byte>)>;

void pass_whole(Transport& to, std::span<const std::byte> data) { to.write(data); }

// Gives what comes to `pass`, and does not read on while that cannot be sent.
class Forward final : public Protocol {
 public:
  Forward(std::shared_ptr<Transport> from, std::shared_ptr<Transport> to, Pass pass)
      : from_(std::move(from)), to_(std::move(to)), pass_(std::move(pass)) {}
  void data_received(std::span<const std::byte> data) override { pass_(*to_, data); }
  bool eof_received() override {
    to_->write_eof();
    return true;
  }
  void connection_lost(std::exception_ptr) override {
    from_.reset();
    to_.reset();
  }

 private:
  std::shared_ptr<Transport> from_;
  std::shared_ptr<Transport> to_;
  Pass pass_;
};

// What is written to in.left goes to in.right, which writes it to out.left, and arrives at out.right.
struct Chain {
  Wire in;
  Wire out;
};

Coroutine<Chain> make_chain(Pass pass = pass_whole) {
  Chain chain;
  chain.in = co_await make_wire([](Wire& made) { made.left_record->keep_open = true; });
  chain.out = co_await make_wire([](Wire& made) { made.right_record->keep_open = true; });
  auto forward = std::make_shared<Forward>(chain.in.right, chain.out.left, std::move(pass));
  chain.in.right->set_protocol(std::move(forward));
  co_return chain;
}

Coroutine<> end(Chain& chain) {
  for (const auto& transport : {chain.in.left, chain.in.right, chain.out.left, chain.out.right}) transport->abort();
  co_await until([&chain] {
    return chain.in.left_record->lost() && chain.out.left_record->lost() && chain.out.right_record->lost() &&
           chain.in.right->get_protocol() == nullptr;
  });
}

std::string text(std::span<const std::byte> data) { return {reinterpret_cast<const char*>(data.data()), data.size()}; }

bool kernel_chooses_buffers() { return detail::network_of(get_running_loop()).proactor.receives_many(); }

unsigned lent_buffers() {
  return kernel_chooses_buffers() ? detail::network_of(get_running_loop()).proactor.buffers().lent() : 0;
}

TEST_F(ForwardingTest, ArrivesWhole) {
  run([]() -> Coroutine<> {
    Chain chain = co_await make_chain();
    const std::string data = pattern(8 << 20);
    chain.in.left->write(data);
    chain.in.left->write_eof();
    co_await until([&chain] { return chain.out.right_record->has("eof"); });
    EXPECT_TRUE(chain.out.right_record->received == data);
    EXPECT_EQ(lent_buffers(), 0U);
    co_await end(chain);
  });
}

TEST_F(ForwardingTest, EchoesArriveWhole) {
  run([]() -> Coroutine<> {
    Wire wire = co_await make_wire();
    wire.right->set_protocol(std::make_shared<Forward>(wire.right, wire.right, pass_whole));
    const std::string data = pattern(4 << 20);
    wire.left->write(data);
    co_await until([&] { return wire.left_record->received.size() == data.size(); });
    EXPECT_TRUE(wire.left_record->received == data);
    wire.left->abort();
    wire.right->abort();
    co_await until([&wire] { return wire.left_record->lost() && wire.right->get_protocol() == nullptr; });
    EXPECT_EQ(lent_buffers(), 0U);
  });
}

// Parts of a piece, twice, with something else between them, and something large that is not a part.
TEST_F(ForwardingTest, PartsStayInOrder) {
  run([]() -> Coroutine<> {
    std::string expected;
    const std::string large = pattern(20'000);
    auto pass = [&expected, &large](Transport& to, std::span<const std::byte> data) {
      const auto first = data.first(data.size() / 2);
      const auto second = data.subspan(data.size() / 2);
      to.write(first);
      to.write("between");
      to.write(second);
      to.write(large);
      to.write(first);
      expected += text(first) + "between" + text(second) + large + text(first);
    };
    Chain chain = co_await make_chain(pass);
    chain.in.left->write(pattern(1 << 20));
    chain.in.left->write_eof();
    co_await until([&chain] { return chain.out.right_record->has("eof"); });
    EXPECT_TRUE(chain.out.right_record->received == expected);
    EXPECT_EQ(lent_buffers(), 0U);
    co_await end(chain);
  });
}

// More of them than there are buffers.
TEST_F(ForwardingTest, ThoseWhoDoNotTakeItStopNobody) {
  run([]() -> Coroutine<> {
    const std::string data = pattern(1 << 20);
    std::vector<Chain> stuck;
    for (int i = 0; i < 150; ++i) {
      stuck.push_back(co_await make_chain());
      stuck.back().out.right->pause_reading();
      stuck.back().in.left->write(data);
    }
    Chain chain = co_await make_chain();
    chain.in.left->write(data);
    co_await until([&] { return chain.out.right_record->received.size() == data.size(); });
    EXPECT_TRUE(chain.out.right_record->received == data);
    EXPECT_EQ(lent_buffers() != 0, kernel_chooses_buffers()) << "then this test shows nothing";
    if (kernel_chooses_buffers()) {
      detail::ReceiveBuffers& buffers = detail::network_of(get_running_loop()).proactor.buffers();
      EXPECT_LE(buffers.lent(), buffers.lent_max());
    }

    for (std::size_t i = 0; i < stuck.size(); i += 2) stuck[i].out.right->resume_reading();
    for (std::size_t i = 0; i < stuck.size(); i += 2) {
      co_await until([&] { return stuck[i].out.right_record->received.size() == data.size(); });
      EXPECT_TRUE(stuck[i].out.right_record->received == data) << i;
    }
    // What the others hold comes back when they end.
    for (Chain& one : stuck) co_await end(one);
    co_await end(chain);
    EXPECT_EQ(lent_buffers(), 0U);
  });
}

// However many it is written to, it is one buffer.
TEST_F(ForwardingTest, APieceForManyIsLentOnce) {
  run([]() -> Coroutine<> {
    std::vector<Wire> receivers;
    for (int i = 0; i < 100; ++i) receivers.push_back(co_await make_wire());
    unsigned most = 0;
    auto pass = [&receivers, &most](Transport&, std::span<const std::byte> data) {
      for (Wire& wire : receivers) wire.left->write(data);
      most = std::max(most, lent_buffers());
    };
    Chain chain = co_await make_chain(pass);
    const std::string data = pattern(10'000);
    chain.in.left->write(data);
    for (Wire& wire : receivers) {
      co_await until([&] { return wire.right_record->received.size() == data.size(); });
      EXPECT_TRUE(wire.right_record->received == data);
    }
    EXPECT_EQ(most, kernel_chooses_buffers() ? 1U : 0U);
    EXPECT_EQ(lent_buffers(), 0U);
    for (Wire& wire : receivers) wire.left->close();
    for (Wire& wire : receivers) {
      co_await until([&wire] { return wire.left_record->lost() && wire.right_record->lost(); });
    }
    co_await end(chain);
  });
}

// What waits for the end of a turn is not without bound: beyond it the kernel is asked at once.
TEST_F(ForwardingTest, WhatAllHoldTogetherIsBounded) {
  run([]() -> Coroutine<> {
    std::vector<Wire> receivers;
    for (int i = 0; i < 200; ++i) receivers.push_back(co_await make_wire());
    const std::string data = pattern(60'000);
    std::size_t most = 0;
    auto pass = [&receivers, &most, &data](Transport&, std::span<const std::byte>) {
      for (Wire& wire : receivers) wire.left->write(data);
      most = detail::network_of(get_running_loop()).queued;
    };
    Chain chain = co_await make_chain(pass);
    chain.in.left->write("go");
    for (Wire& wire : receivers) {
      co_await until([&] { return wire.right_record->received.size() == data.size(); });
      EXPECT_TRUE(wire.right_record->received == data);
    }
    EXPECT_GT(most, 1U << 20);
    EXPECT_LT(most, 5U << 20);
    for (Wire& wire : receivers) wire.left->close();
    for (Wire& wire : receivers) {
      co_await until([&wire] { return wire.left_record->lost() && wire.right_record->lost(); });
    }
    co_await end(chain);
    EXPECT_EQ(detail::network_of(get_running_loop()).queued, 0U);
  });
}

// There is no end of a turn that would send it.
TEST(WritingOutsideOfARun, IsSentAtOnce) {
  auto [ours, theirs] = Socket::pair();
  const std::string data = pattern(10'000);
  std::string got(data.size(), '\0');
  {
    EventLoop loop;
    auto connect = [&ours]() -> Coroutine<Streams> { return open_connection(std::move(ours)); };
    Streams streams = loop.run_until_complete(connect());
    streams.second.write(data);
    EXPECT_EQ(::recv(theirs.fileno(), got.data(), got.size(), MSG_WAITALL | MSG_DONTWAIT),
              static_cast<ssize_t>(data.size()));
  }
  EXPECT_TRUE(got == data);
}

// In a child the loop is gone, its sockets are not.
TEST_F(ForwardingTest, TheChildOfAForkInACallbackCanWrite) {
  OURO_TEST_ALONE("a transport of a group hands what is written without a loop to its own loop");
  run([]() -> Coroutine<> {
    const std::string data = pattern(10'000);
    pid_t child = 0;
    auto pass = [&child, &data](Transport& to, std::span<const std::byte>) {
      child = ::fork();
      if (child != 0) return;
      to.write(data);
      ::_exit(0);
    };
    Chain chain = co_await make_chain(pass);
    chain.in.left->write("go");
    co_await until([&] { return chain.out.right_record->received.size() == data.size(); });
    EXPECT_TRUE(chain.out.right_record->received == data);
    EXPECT_EQ(::waitpid(child, nullptr, 0), child);
    co_await end(chain);
  });
}

// More at once than there are buffers: there are more from then on.
TEST_F(ForwardingTest, ManyWhoHaveSentBeforeTheyAreAcceptedGetMoreBuffers) {
  run([]() -> Coroutine<> {
    constexpr std::size_t many = 400;
    const auto record = std::make_shared<test::Record>();
    const ServerOptions here{.backlog = many, .spread = false};
    const auto recorder = [&record] { return std::make_unique<test::Recorder>(record); };
    Server server = co_await get_running_loop().create_server(recorder, "127.0.0.1", 0, here);
    const Address address = server.sockets().front().getsockname();
    std::vector<Socket> clients;
    for (std::size_t i = 0; i < many; ++i) {
      clients.emplace_back(AF_INET);
      const Socket& client = clients.back();
      EXPECT_EQ(::connect(client.fileno(), address.data(), static_cast<socklen_t>(address.size())), 0);
      EXPECT_EQ(::send(client.fileno(), "hello", 5, 0), 5);
    }
    co_await until([&record] { return record->received.size() == 5 * many; });
    if (kernel_chooses_buffers()) {
      EXPECT_GT(detail::network_of(get_running_loop()).proactor.buffers().lent_max(), 64U);
    }
    for (Socket& client : clients) client.close();
    server.close();
    co_await server.wait_closed();
  });
}

// The frames, descriptors and buffers of chains that are in the middle of it.
TEST_F(ForwardingTest, TheLoopMayEndFirst) {
  std::vector<Chain> left_behind;
  run([&left_behind]() -> Coroutine<> {
    for (int i = 0; i < 10; ++i) {
      left_behind.push_back(co_await make_chain());
      left_behind.back().out.right->pause_reading();
      left_behind.back().in.left->write(pattern(1 << 20));
    }
    for (int i = 0; i < 20; ++i) co_await sleep(std::chrono::seconds(0));
  });
  for (const Chain& chain : left_behind) EXPECT_EQ(chain.out.left->get_write_buffer_size(), 0U);
}

}  // namespace
}  // namespace ouro
