// Stream transports where protocols do what is rare: write inside pause_writing(), replace themselves twice, throw a
// KeyboardInterrupt, use a handle when the loop is gone, change the descriptor's mode; and the context of their calls.
#include <gmock/gmock.h>

#include <fcntl.h>

#include <chrono>
#include <cstddef>
#include <exception>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <ouro/ouro.hpp>

#include "support/wire.hpp"

namespace ouro {
namespace {

using namespace std::chrono_literals;
using test::falls_asleep;
using test::make_wire;
using test::pattern;
using test::Record;
using test::Recorder;
using test::until;
using test::Wire;
using testing::ElementsAre;

class TransportEdges : public test::WireTest {};

Coroutine<> both_lost(Wire& wire) {
  co_await until([&wire] { return wire.left_record->lost() && wire.right_record->lost(); });
}

// Gives others so many turns, and says whether the condition held in one of them.
template <class Condition>
Coroutine<bool> soon(Condition condition) {
  for (int turns = 0; turns < 20'000; ++turns) {
    if (condition()) co_return true;
    co_await sleep(0s);
  }
  co_return false;
}

// ---- Writing inside pause_writing() ----

// Bytes of a kind of their own, so that whatever is in the wrong place is seen.
std::string numbered(std::size_t bytes) {
  static int last = 0;
  std::string text = std::to_string(++last) + ":";
  text.resize(bytes, static_cast<char>('a' + last % 26));
  return text;
}

struct Writes {
  std::vector<std::size_t> sizes;  // of the writes of a callback, one after the other
  bool as_lines = false;           // the last two go through writelines
  bool closes = false;
};

class WritesInsidePause : public TransportEdges, public testing::WithParamInterface<Writes> {};

TEST_P(WritesInsidePause, GoBehindWhatWasWrittenBefore) {
  run([]() -> Coroutine<> {
    const Writes& writes = GetParam();
    Wire wire = co_await make_wire();
    Wire other = co_await make_wire();
    std::string expected;
    const auto write = [&](std::size_t bytes) {
      const std::string text = numbered(bytes);
      expected += text;
      wire.left->write(text);
    };
    wire.left->set_write_buffer_limits({.low = 0, .high = 1000});
    wire.left_record->then = [&](const std::string& event) {
      if (event == "pause") {
        for (int i = 0; i < 4; ++i) write(4000);
      } else if (event == "data") {
        for (const std::size_t bytes : writes.sizes) write(bytes);
        if (writes.as_lines) {
          const std::string one = numbered(300);
          const std::string two = numbered(3000);
          expected += one + two;
          wire.left->writelines({one, two});
        }
        if (writes.closes) wire.left->close();
      }
    };
    other.left_record->then = [&](const std::string& event) {
      if (event == "data") other.left->write("mine");
    };
    wire.right->write("go");
    other.right->write("go");
    co_await until([&] { return other.right_record->received.size() >= 4; });
    const bool all = co_await soon([&] { return wire.right_record->received.size() >= expected.size(); });
    EXPECT_TRUE(all) << wire.right_record->received.size() << " of " << expected.size();
    EXPECT_TRUE(wire.right_record->received == expected);
    EXPECT_EQ(other.right_record->received, "mine");
    EXPECT_TRUE(wire.left_record->has("pause"));
    wire.left->close();
    other.left->close();
    co_await both_lost(wire);
    co_await both_lost(other);
  });
}
INSTANTIATE_TEST_SUITE_P(Each, WritesInsidePause,
                         testing::Values(Writes{{4000, 4000, 4000}},                          // when the callback ends
                                         Writes{{4000, 4000, 4000, 4000, 4000, 4000, 4000}},  // when the cork is full
                                         Writes{{100, 20'000, 100}},                          // too large for the cork
                                         Writes{{4000, 4000}, true}, Writes{{4000, 4000}, false, true},
                                         Writes{{4000, 4000, 4000, 4000, 4000, 50'000, 1}, true, true}));

// The same where the writes of a callback end with the end.
TEST_F(TransportEdges, WriteEofComesBehindWhatPauseWritingWrites) {
  run([]() -> Coroutine<> {
    Wire wire = co_await make_wire();
    wire.left->set_write_buffer_limits({.low = 0, .high = 1000});
    wire.left_record->then = [&](const std::string& event) {
      if (event == "pause") wire.left->write("second");
      if (event != "data") return;
      wire.left->write(std::string(2000, 'x'));
      wire.left->write_eof();
    };
    wire.right->write("go");
    co_await both_lost(wire);
    EXPECT_EQ(wire.right_record->received, std::string(2000, 'x') + "second");
  });
}

// ---- Protocols that go ----

// Replaces itself twice in one call, and lives until that returns.
class Replaced final : public Protocol {
 public:
  Replaced(std::shared_ptr<StreamProtocol> next, bool& gone) : next_(std::move(next)), gone_(gone) {}
  ~Replaced() override { gone_ = true; }
  void connection_made(Transport& transport) override { transport_ = &transport; }
  void data_received(std::span<const std::byte>) override {
    transport_->set_protocol(std::make_shared<Protocol>());
    transport_->set_protocol(next_);
    EXPECT_FALSE(gone_) << "while it runs";
  }

 private:
  std::shared_ptr<StreamProtocol> next_;
  bool& gone_;
  Transport* transport_ = nullptr;
};

TEST_F(TransportEdges, AProtocolLivesUntilItsCallbackReturns) {
  run([]() -> Coroutine<> {
    EventLoop& loop = get_running_loop();
    auto record = std::make_shared<Record>();
    bool gone = false;
    auto [left, right] = Socket::pair();
    auto made = co_await loop.create_connection(
        [&] { return std::make_unique<Replaced>(std::make_shared<Recorder>(record), gone); }, std::move(left));
    made.second = nullptr;
    co_await loop.sock_sendall(right, "first");
    co_await until([&gone] { return gone; });
    EXPECT_FALSE(made.first->is_closing()) << "it goes though nothing more happens to the connection";
    record->events.emplace_back("made");
    co_await loop.sock_sendall(right, "second");
    co_await until([&record] { return record->received == "second"; });
    right.close();
    co_await until([&record] { return record->lost(); });
  });
}

// The transport is the loop's alone, and goes with its last callback.
TEST_F(TransportEdges, NobodyNeedsToKeepATransport) {
  run([]() -> Coroutine<> {
    EventLoop& loop = get_running_loop();
    for (const bool aborts : {false, true}) {
      auto record = std::make_shared<Record>();
      Server server = co_await loop.create_server([&record] { return std::make_unique<Recorder>(record); }, "127.0.0.1",
                                                  0, {.spread = false});
      record->then = [&](const std::string& event) {
        if (event == "data" && aborts) record->transport->abort();
      };
      Socket client(AF_INET);
      co_await loop.sock_connect(client, server.sockets().front().getsockname());
      co_await loop.sock_sendall(client, "x");
      co_await until([&record] { return record->received == "x"; });
      client.close();
      co_await until([&record] { return record->lost(); });
      server.close();
      co_await server.wait_closed();
    }
  });
}

// ---- Handles that outlive their loop ----

TEST_F(TransportEdges, AHandleOutlivesTheLoop) {
  std::shared_ptr<Transport> open;
  std::shared_ptr<Transport> lost;
  run([&]() -> Coroutine<> {
    Wire wire = co_await make_wire();
    open = wire.left;
    wire.right->pause_reading();
    wire.left->write(pattern(4 << 20));
    EXPECT_GT(open->get_write_buffer_size(), 0U);
    Wire other = co_await make_wire();
    lost = other.left;
    lost->close();
    co_await both_lost(other);
  });
  const auto use = [&] {
    for (const auto& transport : {open, lost}) {
      EXPECT_EQ(transport->get_write_buffer_size(), 0U);
      for (int i = 0; i < 10; ++i) transport->write("nothing");
      transport->writelines({"no", "thing"});
      transport->set_write_buffer_limits(0);
      transport->set_protocol(std::make_shared<Protocol>());
      transport->pause_reading();
      transport->resume_reading();
      transport->write_eof();
      transport->close();
      transport->abort();
      EXPECT_TRUE(transport->is_closing());
      EXPECT_EQ(transport->get_protocol(), nullptr);
    }
  };
  use();
  run([&]() -> Coroutine<> {  // perhaps where the other was
    Wire wire = co_await make_wire();
    use();
    wire.left->close();
    co_await both_lost(wire);
  });
  test::Reports::take();
}

// ---- KeyboardInterrupt ----

class InterruptedTransports : public testing::Test {
 protected:
  EventLoop loop;

  void interrupted(Coroutine<> main) { EXPECT_THROW(loop.run_until_complete(std::move(main)), KeyboardInterrupt); }
};

void interrupt_once(Record& record, std::string which) {
  record.then = [which, once = true](const std::string& event) mutable {
    if (event == which && std::exchange(once, false)) throw KeyboardInterrupt();
  };
}

// B29
TEST_F(InterruptedTransports, ResumeWriting) {
  Wire wire = loop.run_until_complete(make_wire());
  const std::string data = pattern(2 << 20);
  interrupt_once(*wire.left_record, "resume");
  interrupted([](Wire& both, const std::string& all) -> Coroutine<> {
    both.left->write(all);
    both.left->write_eof();
    co_await until([&both] { return both.right_record->has("eof"); });
  }(wire, data));
  const bool ended = loop.run_until_complete(soon([&wire] { return wire.right_record->has("eof"); }));
  EXPECT_TRUE(ended);
  EXPECT_TRUE(wire.right_record->received == data);
  loop.run_until_complete(both_lost(wire));
}

// B29
TEST_F(InterruptedTransports, PauseWritingInsideACallback) {
  Wire wire = loop.run_until_complete(make_wire());
  Wire other = loop.run_until_complete(make_wire());
  wire.left->set_write_buffer_limits(0);
  wire.left_record->then = [&wire](const std::string& event) {
    if (event == "data") wire.left->write("answer");
    if (event != "pause") return;
    wire.left->write("more");
    throw KeyboardInterrupt();
  };
  interrupted([](Wire& both) -> Coroutine<> {
    both.right->write("go");
    co_await until([&both] { return both.right_record->has("data"); });
  }(wire));
  EXPECT_TRUE(wire.left->is_closing());
  other.left->write("x");
  loop.run_until_complete(both_lost(wire));
  const bool got = loop.run_until_complete(soon([&other] { return other.right_record->received == "x"; }));
  EXPECT_TRUE(got);
  other.left->close();
  loop.run_until_complete(both_lost(other));
}

class InterruptedCallbacks : public InterruptedTransports, public testing::WithParamInterface<const char*> {};

// B29
TEST_P(InterruptedCallbacks, EndTheirConnectionAndNoOther) {
  Wire wire = loop.run_until_complete(make_wire());
  Wire other = loop.run_until_complete(make_wire());
  interrupt_once(*wire.right_record, GetParam());
  Future<> enough = loop.create_future();
  interrupted([](Wire& both, Wire& others, Future<> end) -> Coroutine<> {
    both.left->write("x");
    both.left->close();
    others.left->write("y");
    others.left->close();
    co_await end;
  }(wire, other, enough));
  enough.set_result();
  loop.run_until_complete(both_lost(wire));
  loop.run_until_complete(both_lost(other));
  EXPECT_EQ(other.right_record->received, "y");
}
INSTANTIATE_TEST_SUITE_P(Each, InterruptedCallbacks, testing::Values("data", "eof", "lost"));

// ---- Descriptors that somebody made non-blocking ----

void make_nonblocking(const Transport& transport) {
  const int fd = transport.get_extra_info<TransportSocket>("socket", TransportSocket(-1)).fileno();
  EXPECT_EQ(::fcntl(fd, F_SETFL, ::fcntl(fd, F_GETFL) | O_NONBLOCK), 0);
}

TEST_F(TransportEdges, ADescriptorThatWasMadeNonBlocking) {
  run([]() -> Coroutine<> {
    Wire wire = co_await make_wire();
    make_nonblocking(*wire.left);
    make_nonblocking(*wire.right);
    wire.left->write("x");  // the receive that waits is from before; the next one is not
    wire.right->write("y");
    co_await until([&wire] { return wire.right_record->received == "x" && wire.left_record->received == "y"; });
    wire.right->pause_reading();
    co_await sleep(0s);
    wire.right->resume_reading();
    const bool sleeps = co_await falls_asleep();
    EXPECT_TRUE(sleeps) << "while it waits for data";

    wire.right->pause_reading();
    const std::string data = pattern(4 << 20);
    wire.left->write(data);
    EXPECT_GT(wire.left->get_write_buffer_size(), 0U);
    const bool sleeps_full = co_await falls_asleep();
    EXPECT_TRUE(sleeps_full) << "while it waits until it can send";
    wire.right->resume_reading();
    co_await until([&] { return wire.right_record->received.size() == data.size() + 1; });
    EXPECT_TRUE(wire.right_record->received == "x" + data);
    wire.left->close();
    co_await both_lost(wire);
  });
}

// ---- Contexts ----

ContextVar<int> number("number", 0);

// Notes the variable in each of its calls, and then sets it.
class Noting final : public Protocol {
 public:
  Noting(std::vector<int>& seen, int sets) : seen_(seen), sets_(sets) {}
  void connection_made(Transport& transport) override {
    transport_ = &transport;
    transport.set_write_buffer_limits(0);
    note();
  }
  void data_received(std::span<const std::byte>) override {
    note();
    number.set(sets_);
    transport_->write("answer");
  }
  void pause_writing() override { note(); }
  void resume_writing() override { note(); }
  bool eof_received() override { return note(), false; }
  void connection_lost(std::exception_ptr) override { note(); }

 private:
  void note() { seen_.push_back(number.get()); }

  std::vector<int>& seen_;
  int sets_;
  Transport* transport_ = nullptr;
};

// B482
TEST_F(TransportEdges, CallbacksHaveTheContextOfTheConnection) {
  run([]() -> Coroutine<> {
    EventLoop& loop = get_running_loop();
    std::vector<int> seen[2];
    Socket others[2];
    number.set(1);
    for (int i = 0; i < 2; ++i) {
      auto [mine, other] = Socket::pair();
      others[i] = std::move(other);
      co_await loop.create_connection([&, i] { return std::make_unique<Noting>(seen[i], 10 + i); }, std::move(mine));
    }
    number.set(2);
    for (int i = 0; i < 2; ++i) {
      co_await loop.sock_sendall(others[i], "x");
      const std::string answer = co_await loop.sock_recv(others[i], 10);
      EXPECT_EQ(answer, "answer");
      int after = 0;
      loop.call_soon([&after] { after = number.get(); });
      co_await until([&after] { return after != 0; });
      EXPECT_EQ(after, 2);
      others[i].close();
    }
    co_await until([&seen] { return seen[0].size() == 6 && seen[1].size() == 6; });
    // made, data, pause, resume, end, lost
    EXPECT_THAT(seen[0], ElementsAre(1, 1, 10, 10, 10, 10));
    EXPECT_THAT(seen[1], ElementsAre(1, 1, 11, 11, 11, 11)) << "what the other has set is its own";
    EXPECT_EQ(number.get(), 2);
  });
}

// B355, B482
TEST_F(TransportEdges, AServersCallsHaveItsContext) {
  run([]() -> Coroutine<> {
    EventLoop& loop = get_running_loop();
    std::vector<int> made;
    std::vector<int> seen;
    number.set(1);
    Server server = co_await loop.create_server(
        [&] {
          made.push_back(number.get());
          return std::make_unique<Noting>(seen, 10);
        },
        "127.0.0.1", 0, {.spread = false});
    number.set(2);
    for (int i = 0; i < 2; ++i) {
      seen.clear();
      Socket client(AF_INET);
      co_await loop.sock_connect(client, server.sockets().front().getsockname());
      co_await loop.sock_sendall(client, "x");
      const std::string answer = co_await loop.sock_recv(client, 10);
      EXPECT_EQ(answer, "answer");
      client.close();
      co_await until([&seen] { return seen.size() == 6; });
      EXPECT_THAT(seen, ElementsAre(1, 1, 10, 10, 10, 10));
    }
    EXPECT_THAT(made, ElementsAre(1, 1));
    server.close();
    co_await server.wait_closed();
  });
}

}  // namespace
}  // namespace ouro
