// Stream transports: the order of a connection's callbacks, flow control in both directions, half-close, the ends of a
// transport, and what happens when a callback throws.
#include <gmock/gmock.h>

#include <sys/socket.h>

#include <array>
#include <cstddef>
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

using test::make_wire;
using test::pattern;
using test::Record;
using test::Recorder;
using test::Reports;
using test::thrown_by;
using test::until;
using test::Wire;
using testing::ElementsAre;
using testing::HasSubstr;

class TransportsTest : public test::WireTest {};

Coroutine<> both_lost(Wire& wire) {
  co_await until([&wire] { return wire.left_record->lost() && wire.right_record->lost(); });
}

// B370, B371, B380
TEST_F(TransportsTest, CallbacksComeInOrderAndOnce) {
  run([]() -> Coroutine<> {
    Wire wire = co_await make_wire();
    wire.left->write("hello, ");
    wire.left->write("world");
    EXPECT_FALSE(wire.left->is_closing());
    wire.left->close();
    wire.left->close();
    EXPECT_TRUE(wire.left->is_closing());
    EXPECT_THAT(wire.left_record->events, ElementsAre("made")) << "connection_lost() inside close()";
    co_await both_lost(wire);
    EXPECT_THAT(wire.left_record->events, ElementsAre("made", "lost"));
    EXPECT_THAT(wire.right_record->events, ElementsAre("made", "data", "eof", "lost"));
    EXPECT_EQ(wire.right_record->received, "hello, world");
    EXPECT_EQ(wire.right->get_protocol(), nullptr);
  });
}

// B371
TEST_F(TransportsTest, ReadingMayBePausedFromTheBeginning) {
  run([]() -> Coroutine<> {
    Wire wire = co_await make_wire([](Wire& made) {
      made.right_record->then = [record = made.right_record.get()](const std::string& event) {
        if (event == "made") record->transport->pause_reading();
      };
    });
    EXPECT_FALSE(wire.right->is_reading());
    wire.left->write("x");
    bool turned = false;
    Wire other = co_await make_wire();  // by the time this has carried data, the first would have too
    other.right_record->then = [&turned](const std::string&) { turned = true; };
    other.left->write("y");
    co_await until([&turned] { return turned; });
    EXPECT_EQ(wire.right_record->received, "");
    wire.right->resume_reading();
    co_await until([&wire] { return wire.right_record->received == "x"; });
    wire.left->close();
    other.left->close();
    co_await both_lost(wire);
    co_await both_lost(other);
  });
}

// B372
TEST_F(TransportsTest, PausingAndResumingLosesNothing) {
  run([]() -> Coroutine<> {
    const std::string data = pattern(3 << 20);
    Wire wire = co_await make_wire();
    Record& record = *wire.right_record;
    record.then = [&](const std::string& event) {
      if (event != "data" || record.pieces % 3 != 0) return;
      wire.right->pause_reading();
      wire.right->pause_reading();
      EXPECT_FALSE(wire.right->is_reading());
      get_running_loop().call_soon([&wire] {
        wire.right->resume_reading();
        wire.right->resume_reading();
        EXPECT_TRUE(wire.right->is_reading() || wire.right->is_closing());
      });
    };
    wire.left->write(data);
    wire.left->close();
    co_await both_lost(wire);
    EXPECT_TRUE(record.received == data);
    EXPECT_GT(record.pieces, 10U);
    wire.right->pause_reading();
    wire.right->resume_reading();
    EXPECT_FALSE(wire.right->is_reading());
  });
}

// A paused transport that is being fed holds none of the buffers that the others need.
TEST_F(TransportsTest, OneThatDoesNotReadStopsNobody) {
  run([]() -> Coroutine<> {
    std::vector<Wire> silent;
    for (int i = 0; i < 20; ++i) {
      silent.push_back(co_await make_wire());
      silent.back().left->write(pattern(1 << 20));
      silent.back().right_record->then = [wire = silent.back()](const std::string& event) {
        if (event == "data") wire.right->pause_reading();
      };
    }
    Wire wire = co_await make_wire();
    const std::string data = pattern(4 << 20);
    wire.left->write(data);
    co_await until([&] { return wire.right_record->received.size() == data.size(); });
    wire.left->close();
    co_await both_lost(wire);
    for (Wire& one : silent) {
      one.right_record->then = nullptr;
      one.right->abort();
      one.left->abort();
      co_await both_lost(one);
    }
  });
}

// B373, B382
TEST_F(TransportsTest, HalfCloseKeepsTheOtherHalfOpen) {
  run([]() -> Coroutine<> {
    Wire wire = co_await make_wire([](Wire& made) { made.right_record->keep_open = true; });
    EXPECT_TRUE(wire.left->can_write_eof());
    const std::string data = pattern(1 << 20);  // more than the kernel takes at once
    wire.left->write(data);
    wire.left->write_eof();
    wire.left->write_eof();
    EXPECT_THAT(thrown_by([&] { wire.left->write("more"); }), HasSubstr("Cannot call write() after write_eof()"));
    co_await until([&wire] { return wire.right_record->has("eof"); });
    EXPECT_TRUE(wire.right_record->received == data);
    EXPECT_FALSE(wire.right->is_closing());
    wire.right->write("answer");
    co_await until([&wire] { return wire.left_record->received == "answer"; });
    wire.right->close();
    co_await both_lost(wire);
    EXPECT_THAT(wire.left_record->events, ElementsAre("made", "pause", "resume", "data", "eof", "lost"));
    EXPECT_THAT(wire.right_record->events, ElementsAre("made", "data", "eof", "lost"));
    wire.left->write_eof();
  });
}

// B376, B378, B387
TEST_F(TransportsTest, ManySmallWritesArriveInOrder) {
  run([]() -> Coroutine<> {
    Wire wire = co_await make_wire();
    std::string all;
    for (int i = 0; i < 30'000; ++i) {
      std::string piece = std::to_string(i) + ";";
      all += piece;
      if (i % 7 == 0) {
        std::array<std::string_view, 3> pieces{piece, "", piece};
        all += piece;
        wire.left->writelines(pieces);
      } else {
        wire.left->write(piece);
      }
      piece.assign(piece.size(), '?');  // what was written is the transport's, not ours
    }
    wire.left->writelines({"the ", "", "end"});
    wire.left->writelines({""});
    all += "the end";
    wire.left->close();
    co_await both_lost(wire);
    EXPECT_TRUE(wire.right_record->received == all);
  });
}

// B377
TEST_F(TransportsTest, WritingNothingDoesNothing) {
  run([]() -> Coroutine<> {
    Wire wire = co_await make_wire();
    wire.left->write("");
    wire.left->writelines({});
    EXPECT_EQ(wire.left->get_write_buffer_size(), 0U);
    wire.left->close();
    co_await both_lost(wire);
    EXPECT_EQ(wire.right_record->received, "");
  });
}

// What is written inside a callback, in however many pieces, is there for the other side, and counted.
TEST_F(TransportsTest, WritesInsideACallbackGoTogether) {
  run([]() -> Coroutine<> {
    const std::string big = pattern(20'000);
    std::string expected;
    Wire wire = co_await make_wire();
    wire.right_record->then = [&](const std::string& event) {
      if (event != "data") return;
      for (int i = 0; i < 5000; ++i) wire.right->write("answer " + std::to_string(i) + "\n");
      EXPECT_GT(wire.right->get_write_buffer_size(), 0U);
      wire.right->write(big);
      wire.right->write("end");
      wire.right->writelines({"1", "2"});
      wire.right->write("3");
      wire.right->close();
    };
    for (int i = 0; i < 5000; ++i) expected += "answer " + std::to_string(i) + "\n";
    expected += big + "end123";
    wire.left->write("go");
    co_await both_lost(wire);
    EXPECT_TRUE(wire.left_record->received == expected) << wire.left_record->received.size();
  });
}

// B383, B384, T28
TEST_F(TransportsTest, WaterMarksPauseAndResume) {
  run([]() -> Coroutine<> {
    Wire wire = co_await make_wire();
    EXPECT_EQ(wire.left->get_write_buffer_limits().high, 64U << 10);
    EXPECT_EQ(wire.left->get_write_buffer_limits().low, 16U << 10);
    EXPECT_THAT(thrown_by([&] { wire.left->set_write_buffer_limits({.low = 2, .high = 1}); }), HasSubstr("ValueError"));
    wire.left->set_write_buffer_limits(1000);
    EXPECT_EQ(wire.left->get_write_buffer_limits().low, 250U);
    wire.left->set_write_buffer_limits({.low = 0, .high = 1 << 30});
    wire.right->pause_reading();
    const std::string data = pattern(2 << 20);
    const std::string_view lines[] = {data, data};
    wire.left->writelines(lines);
    EXPECT_GT(wire.left->get_write_buffer_size(), 1U << 20);
    EXPECT_FALSE(wire.left_record->has("pause"));
    wire.left->set_write_buffer_limits(1 << 20);  // less than there is
    EXPECT_TRUE(wire.left_record->has("pause"));
    wire.left->writelines(lines);
    wire.right->resume_reading();
    co_await until([&wire] { return wire.left_record->has("resume"); });
    co_await until([&] { return wire.right_record->received.size() == 4 * data.size(); });
    EXPECT_THAT(wire.left_record->events, ElementsAre("made", "pause", "resume"));
    wire.left->close();
    co_await both_lost(wire);
  });
}

// B384, B385
TEST_F(TransportsTest, ResumeWritingMayWriteElsewhere) {
  run([]() -> Coroutine<> {
    Wire wire = co_await make_wire();
    Wire other = co_await make_wire();
    wire.left_record->then = [&other](const std::string& event) {
      if (event == "resume") other.left->write("resumed");
      if (event == "pause" || event == "resume") throw std::runtime_error("in " + event);
    };
    const std::string data = pattern(2 << 20);
    wire.left->write(data);
    EXPECT_TRUE(wire.left_record->has("pause"));
    co_await until([&other] { return other.right_record->received == "resumed"; });
    co_await until([&] { return wire.right_record->received.size() == data.size(); });
    EXPECT_THAT(Reports::take(), ElementsAre("protocol.pause_writing() failed: exception: in pause",
                                             "protocol.resume_writing() failed: exception: in resume"));
    wire.left->close();
    other.left->close();
    co_await both_lost(wire);
    co_await both_lost(other);
  });
}

// B381
TEST_F(TransportsTest, AbortDropsWhatWaits) {
  run([]() -> Coroutine<> {
    Wire wire = co_await make_wire();
    wire.right->pause_reading();
    const std::string data = pattern(4 << 20);
    wire.left->write(data);
    wire.left->abort();
    wire.left->abort();
    EXPECT_FALSE(wire.left_record->lost());
    co_await until([&wire] { return wire.left_record->lost(); });
    EXPECT_EQ(wire.left->get_write_buffer_size(), 0U);
    wire.right->resume_reading();
    co_await both_lost(wire);
    EXPECT_LT(wire.right_record->received.size(), data.size());
    EXPECT_EQ(wire.left_record->events.back(), "lost");
  });
}

// B380
TEST_F(TransportsTest, CloseSendsWhatWaits) {
  run([]() -> Coroutine<> {
    Wire wire = co_await make_wire();
    const std::string data = pattern(4 << 20);
    wire.right->pause_reading();
    wire.left->write(data);
    wire.left->close();
    wire.left->write("dropped");
    wire.right->resume_reading();
    co_await both_lost(wire);
    EXPECT_TRUE(wire.right_record->received == data);
  });
}

// B379
TEST_F(TransportsTest, WritesAfterTheEndAreDroppedAndToldOfOnce) {
  run([]() -> Coroutine<> {
    Wire wire = co_await make_wire();
    wire.left->close();
    co_await both_lost(wire);
    for (int i = 0; i < 4; ++i) wire.left->write("x");
    EXPECT_THAT(Reports::take(), ElementsAre());
    for (int i = 0; i < 20; ++i) wire.left->write("x");
    EXPECT_THAT(Reports::take(), ElementsAre(HasSubstr("socket.send() raised exception")));
  });
}

// B375, B392
TEST_F(TransportsTest, AResetIsTheReasonOfTheLoss) {
  run([]() -> Coroutine<> {
    auto record = std::make_shared<Record>();
    EventLoop& loop = get_running_loop();
    Server server = co_await loop.create_server([&record] { return std::make_unique<Recorder>(record); }, "127.0.0.1",
                                                0, {.spread = false});
    Socket client(AF_INET);
    co_await loop.sock_connect(client, server.sockets().front().getsockname());
    co_await loop.sock_sendall(client, "last words");
    co_await until([&record] { return record->received == "last words"; });
    const linger at_once{.l_onoff = 1, .l_linger = 0};
    ::setsockopt(client.fileno(), SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
    client.close();
    co_await until([&record] { return record->lost(); });
    EXPECT_THAT(record->events.back(), HasSubstr("Connection reset by peer"));
    server.close();
    co_await server.wait_closed();
  });
}

// Writing to who does not listen any more.
TEST_F(TransportsTest, ABrokenPipeIsTheReasonOfTheLoss) {
  run([]() -> Coroutine<> {
    Wire wire = co_await make_wire();
    wire.left->pause_reading();  // so that it does not see the end
    wire.right->abort();
    co_await until([&wire] { return wire.right_record->lost(); });
    wire.left->write("x");
    co_await both_lost(wire);
    EXPECT_THAT(wire.left_record->events.back(), HasSubstr("Broken pipe"));
  });
}

class ThrowingCallbacksTest : public TransportsTest, public testing::WithParamInterface<const char*> {};

TEST_P(ThrowingCallbacksTest, EndTheConnectionAndAreReported) {
  run([]() -> Coroutine<> {
    const std::string which = GetParam();
    Wire wire = co_await make_wire([&which](Wire& made) {
      made.right_record->then = [which](const std::string& event) {
        if (event == which) throw std::runtime_error("thrown");
      };
    });
    wire.left->write("x");
    wire.left->close();
    co_await both_lost(wire);
    EXPECT_THAT(Reports::take(), ElementsAre(HasSubstr("exception: thrown")));
    EXPECT_EQ(wire.right_record->events.back(), which == "lost" ? "lost" : "lost: exception: thrown");
  });
}
INSTANTIATE_TEST_SUITE_P(Each, ThrowingCallbacksTest, testing::Values("made", "data", "eof", "lost"));

// B386
TEST_F(TransportsTest, ExtraInfoOutlivesTheConnection) {
  run([]() -> Coroutine<> {
    EventLoop& loop = get_running_loop();
    Server server = co_await loop.create_server([] { return std::make_unique<test::Echo>(); }, "127.0.0.1", 0);
    const Address where = server.sockets().front().getsockname();
    auto record = std::make_shared<Record>();
    auto [transport, protocol] = co_await loop.create_connection(
        [&record] { return std::make_unique<Recorder>(record); }, "127.0.0.1", where.port());
    const auto mine = transport->get_extra_info<TransportSocket>("socket", TransportSocket(-1));
    EXPECT_EQ(mine.getpeername(), where);
    EXPECT_EQ(mine.getsockopt(SOL_SOCKET, SO_TYPE), SOCK_STREAM);
    EXPECT_EQ(transport->get_extra_info<int>("nothing", 7), 7);
    EXPECT_EQ(transport->get_extra_info<std::string>("peername", "another type"), "another type");
    const Address self = mine.getsockname();
    transport->close();
    co_await until([&record] { return record->lost(); });
    EXPECT_EQ(transport->get_extra_info<Address>("peername"), where);
    EXPECT_EQ(transport->get_extra_info<Address>("sockname"), self);
    EXPECT_EQ(transport->get_extra_info<TransportSocket>("socket", TransportSocket(-1)).fileno(), -1);
    EXPECT_EQ(&transport->get_loop(), &loop);
    server.close();
    co_await server.wait_closed();
  });
}

// B391
TEST_F(TransportsTest, ABareProtocolIsEnough) {
  run([]() -> Coroutine<> {
    EventLoop& loop = get_running_loop();
    auto [left, right] = Socket::pair();
    auto plain = co_await loop.create_connection([] { return std::make_shared<Protocol>(); }, std::move(left));
    std::weak_ptr<Transport> transport = plain.first;
    plain.first->set_write_buffer_limits(0);
    plain.first->write(pattern(1 << 20));
    plain = {};
    EXPECT_FALSE(transport.expired()) << "the loop keeps it";
    const std::string first = co_await loop.sock_recv(right, 3);
    EXPECT_EQ(first, pattern(3));
    right.close();
    co_await until([&transport] { return transport.expired(); });
  });
}

// A loop that ends with open connections closes them, and calls nobody.
TEST_F(TransportsTest, TheLoopMayEndFirst) {
  auto left = std::make_shared<Record>();
  auto right = std::make_shared<Record>();
  std::shared_ptr<Transport> kept;
  run([&]() -> Coroutine<> {
    Wire wire = co_await make_wire([&](Wire& made) {
      made.left_record = left;
      made.right_record = right;
    });
    kept = wire.left;
    wire.right->pause_reading();
    wire.left->write(pattern(1 << 20));
  });
  EXPECT_THAT(left->events, ElementsAre("made", "pause"));
  EXPECT_THAT(right->events, ElementsAre("made"));
  EXPECT_TRUE(kept->is_closing());
  kept->close();
  kept->write("nothing");
}

}  // namespace
}  // namespace ouro
