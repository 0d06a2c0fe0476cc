// Endpoints of datagrams where protocols do what is rare: replace themselves, throw a KeyboardInterrupt, use a handle
// when the loop is gone; and the context of their calls.
#include <gmock/gmock.h>

#include <sys/socket.h>

#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <ouro/ouro.hpp>

#include "support/mail.hpp"

namespace ouro {
namespace {

using test::Box;
using test::close_box;
using test::Mail;
using test::Mailbox;
using test::open_box;
using test::Reports;
using test::thrown_by;
using test::until;
using testing::ElementsAre;
using testing::HasSubstr;

class DatagramEdges : public test::WireTest {};

Address loopback() { return Address::ip("127.0.0.1", 0); }

// A unix socket with a name, which nobody reads.
Socket unread() {
  Socket socket(AF_UNIX, SOCK_DGRAM);
  socket.bind(Address::unix_path(""));
  return socket;
}

// B391
TEST_F(DatagramEdges, ABareProtocolIsEnough) {
  run([]() -> Coroutine<> {
    EventLoop& loop = get_running_loop();
    Socket reader = unread();
    const DatagramOptions options{.remote = reader.getsockname()};
    auto made = co_await loop.create_datagram_endpoint([] { return std::make_shared<DatagramProtocol>(); }, options);
    std::weak_ptr<DatagramTransport> transport = made.first;
    made.first->set_write_buffer_limits(0);
    for (int i = 0; i < 40; ++i) made.first->sendto("x");
    auto handle = made.first->share();
    made = {};
    const auto [got, from] = co_await loop.sock_recvfrom(reader, 10);
    EXPECT_EQ(got, "x");
    reader.close();  // then they are refused
    co_await until([&handle] { return handle->get_write_buffer_size() == 0; });
    handle->close();
    handle = nullptr;
    EXPECT_FALSE(transport.expired()) << "the loop keeps it";
    co_await until([&transport] { return transport.expired(); });
  });
}

// Replaces itself twice in one call, and lives until that returns.
class Replaced final : public DatagramProtocol {
 public:
  Replaced(std::shared_ptr<DatagramProtocol> next, bool& gone) : next_(std::move(next)), gone_(gone) {}
  ~Replaced() override { gone_ = true; }
  void connection_made(DatagramTransport& transport) override { transport_ = &transport; }
  void datagram_received(std::span<const std::byte>, const Address&) override {
    transport_->set_protocol(std::make_shared<DatagramProtocol>());
    transport_->set_protocol(next_);
    EXPECT_FALSE(gone_) << "while it runs";
  }

 private:
  std::shared_ptr<DatagramProtocol> next_;
  bool& gone_;
  DatagramTransport* transport_ = nullptr;
};

TEST_F(DatagramEdges, AProtocolMayBeReplaced) {
  run([]() -> Coroutine<> {
    auto mail = std::make_shared<Mail>();
    const auto next = std::make_shared<Mailbox>(mail);
    bool gone = false;
    const auto factory = [&] { return std::make_unique<Replaced>(next, gone); };
    const DatagramOptions options{.local = loopback()};
    auto made = co_await get_running_loop().create_datagram_endpoint(factory, options);
    made.second = nullptr;
    DatagramTransport& transport = *made.first;
    EXPECT_THAT(thrown_by([&] { transport.set_protocol(nullptr); }), HasSubstr("ValueError"));
    transport.sendto("first", transport.getsockname());
    co_await until([&gone] { return gone; });
    EXPECT_EQ(transport.get_protocol(), next);
    transport.sendto("second", transport.getsockname());
    co_await until([&mail] { return !mail->received.empty(); });
    EXPECT_THAT(mail->received, ElementsAre("second"));
    transport.close();
    co_await until([&mail] { return mail->lost(); });
    EXPECT_THAT(mail->events, ElementsAre("lost")) << "connection_made() is not called";
  });
}

// ---- The loop's end ----

TEST_F(DatagramEdges, TheLoopMayEndFirst) {
  std::vector<std::shared_ptr<Mail>> mails;
  std::vector<std::shared_ptr<DatagramTransport>> kept;
  run([&]() -> Coroutine<> {
    Socket reader = unread();
    const Address there = reader.getsockname();
    Box full = co_await open_box({.remote = there});
    Box resting = co_await open_box({.family = AF_UNIX});
    Box idle = co_await open_box({.local = loopback()});
    Box busy = co_await open_box({.local = loopback()});
    for (int i = 0; i < 50; ++i) {
      full.transport->sendto("x");
      resting.transport->sendto("x", there);
      busy.transport->sendto("x", busy.transport->getsockname());
    }
    co_await test::falls_asleep();
    busy.transport->sendto("x", busy.transport->getsockname());
    for (const Box* box : {&full, &resting, &idle, &busy}) {
      mails.push_back(box->mail);
      kept.push_back(box->transport);
    }
  });
  for (const auto& mail : mails) EXPECT_FALSE(mail->lost());
  const Address there = Address::ip("127.0.0.1", 9);
  for (const auto& transport : kept) {
    EXPECT_TRUE(transport->is_closing());
    EXPECT_EQ(transport->get_write_buffer_size(), 0U);
    EXPECT_EQ(transport->get_protocol(), nullptr);
    if (!transport->getpeername()) transport->sendto("nothing", there);
    transport->set_write_buffer_limits(0);
    transport->set_protocol(std::make_shared<DatagramProtocol>());
    transport->close();
    transport->abort();
  }
}

// ---- KeyboardInterrupt ----

// B29
TEST_F(DatagramEdges, AKeyboardInterruptLeavesTheLoopAndEndsNoEndpoint) {
  EventLoop loop;
  for (const std::string which : {"data", "error"}) {
    Box box = loop.run_until_complete(open_box({.local = loopback()}));
    box.mail->then = [&which, once = true](const std::string& event) mutable {
      if (event.substr(0, which.size()) == which && std::exchange(once, false)) throw KeyboardInterrupt();
    };
    EXPECT_THROW(loop.run_until_complete([](Box& of) -> Coroutine<> {
      of.transport->sendto("x", of.transport->getsockname());
      of.transport->sendto("x", Address::ip("::1", 1));
      of.transport->sendto("y", of.transport->getsockname());
      co_await until([&of] { return of.received().size() == 2 && of.mail->errors() == 1; });
    }(box)),
                 KeyboardInterrupt);
    const auto rest = [](Box& of) -> Coroutine<> {
      co_await until([&of] { return of.received().size() == 2 && of.mail->errors() == 1; });
      co_await close_box(of);
    };
    loop.run_until_complete(rest(box));
  }
}

// ---- Contexts ----

ContextVar<int> number("number", 0);

// Notes the variable in each of its calls, and then sets it.
class Noting final : public DatagramProtocol {
 public:
  Noting(std::vector<int>& seen, int sets) : seen_(seen), sets_(sets) {}
  void connection_made(DatagramTransport& transport) override {
    transport.set_write_buffer_limits(0);
    note();
  }
  void datagram_received(std::span<const std::byte>, const Address&) override {
    note();
    number.set(sets_);
  }
  void error_received(std::exception_ptr) override { note(); }
  void pause_writing() override { note(); }
  void resume_writing() override { note(); }
  void connection_lost(std::exception_ptr) override { note(); }

 private:
  void note() { seen_.push_back(number.get()); }

  std::vector<int>& seen_;
  int sets_;
};

// B482
TEST_F(DatagramEdges, CallbacksHaveTheContextOfTheEndpoint) {
  run([]() -> Coroutine<> {
    EventLoop& loop = get_running_loop();
    std::vector<int> seen[2];
    std::shared_ptr<DatagramTransport> transports[2];
    Socket reader = unread();
    number.set(1);
    for (int i = 0; i < 2; ++i) {
      const DatagramOptions options{.local = Address::unix_path("")};
      auto made =
          co_await loop.create_datagram_endpoint([&, i] { return std::make_unique<Noting>(seen[i], 10 + i); }, options);
      transports[i] = made.first;
    }
    number.set(2);
    for (int i = 0; i < 2; ++i) {
      transports[i]->sendto("x", transports[i]->getsockname());
      co_await until([&] { return seen[i].size() == 2; });
      while (seen[i].size() == 2) transports[i]->sendto("x", reader.getsockname());
      while (seen[i].size() == 3) static_cast<void>(co_await loop.sock_recvfrom(reader, 10));
      transports[i]->sendto("x", Address::unix_path(std::string("\0ouro nobody", 12)));
      co_await until([&] { return seen[i].size() == 5; });
      transports[i]->close();
      co_await until([&] { return seen[i].size() == 6; });
    }
    // made, data, pause, resume, error, lost
    EXPECT_THAT(seen[0], ElementsAre(1, 1, 10, 10, 10, 10));
    EXPECT_THAT(seen[1], ElementsAre(1, 1, 11, 11, 11, 11)) << "what the other has set is its own";
    EXPECT_EQ(number.get(), 2);
  });
}

}  // namespace
}  // namespace ouro
