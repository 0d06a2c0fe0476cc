// Endpoints of datagrams: all that is sent comes, whole and in order, of each family; what waits to be sent; errors,
// and what callbacks throw; the end.
#include <gmock/gmock.h>

#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <ouro/ouro.hpp>

#include "support/mail.hpp"

namespace ouro {
namespace {

using test::Box;
using test::close_box;
using test::close_boxes;
using test::falls_asleep;
using test::Kind;
using test::Mail;
using test::open_box;
using test::pattern;
using test::Reports;
using test::thrown_by;
using test::until;
using testing::Each;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::SizeIs;

class Datagrams : public test::WireTest {};

class DatagramsOfAnyKind : public Datagrams, public testing::WithParamInterface<Kind> {
 protected:
  void SetUp() override {
    if (!GetParam().many) without_.emplace();
  }

 private:
  std::optional<test::NoMultishot> without_;
};
INSTANTIATE_TEST_SUITE_P(Kinds, DatagramsOfAnyKind,
                         testing::Values(Kind{AF_INET}, Kind{AF_INET6}, Kind{AF_UNIX}, Kind{AF_INET, false},
                                         Kind{AF_INET6, false}),
                         testing::PrintToStringParamName());

Coroutine<Box> open_somewhere(Kind kind) { co_return co_await open_box({.local = kind.somewhere()}); }

// ---- There and back ----

// B394
TEST_P(DatagramsOfAnyKind, GoThereAndBack) {
  run([]() -> Coroutine<> {
    Box mirror = co_await open_somewhere(GetParam());
    mirror.mail->then = [&mirror](const std::string& event) {
      if (event == "data") mirror.transport->sendto(mirror.received().back(), mirror.mail->senders.back());
    };
    const Address there = mirror.transport->getsockname();
    EXPECT_FALSE(mirror.transport->getpeername());
    Box asker = co_await open_box({.local = GetParam().somewhere(), .remote = there});
    EXPECT_EQ(asker.transport->getpeername(), there);
    asker.transport->sendto("marco");
    asker.transport->sendto("polo", there);
    co_await until([&asker] { return asker.received().size() == 2; });
    EXPECT_THAT(asker.received(), ElementsAre("marco", "polo"));
    EXPECT_THAT(asker.mail->senders, Each(there));
    EXPECT_THAT(mirror.mail->senders, Each(asker.transport->getsockname()));
    EXPECT_FALSE(asker.transport->is_closing());
    asker.transport->close();
    asker.transport->close();
    EXPECT_TRUE(asker.transport->is_closing());
    EXPECT_FALSE(asker.mail->lost()) << "connection_lost() inside close()";
    co_await until([&asker] { return asker.mail->lost(); });
    co_await close_box(mirror);
    EXPECT_THAT(asker.mail->events, ElementsAre("made", "lost"));
    EXPECT_THAT(mirror.mail->events, ElementsAre("made", "lost"));
    EXPECT_EQ(asker.transport->get_protocol(), nullptr);
    EXPECT_EQ(asker.transport->getpeername(), there);
    EXPECT_EQ(&asker.transport->get_loop(), &get_running_loop());
  });
}

// B394, T28: the empty ones too.
TEST_P(DatagramsOfAnyKind, ComeWholeAndInOrder) {
  run([]() -> Coroutine<> {
    Box to = co_await open_somewhere(GetParam());
    Box from = co_await open_box({.remote = to.transport->getsockname()});
    std::vector<std::string> sent;
    for (int round = 0; round < 10; ++round) {
      for (std::size_t i = 0; i < 20; ++i) sent.push_back(i % 5 == 0 ? "" : pattern(i * 300) + std::to_string(i));
      for (std::size_t i = sent.size() - 20; i < sent.size(); ++i) {
        std::string copy = sent[i];
        from.transport->sendto(copy);
        copy.assign(copy.size(), '?');  // what was sent is the transport's, not ours
      }
      co_await until([&] { return to.received().size() == sent.size(); });
    }
    EXPECT_TRUE(to.received() == sent);
    co_await close_box(from);
    co_await close_box(to);
  });
}

// Nothing is cut off; of unix sockets a datagram may be larger than any buffer.
TEST_P(DatagramsOfAnyKind, ComeWholeHoweverLarge) {
  run([]() -> Coroutine<> {
    Box to = co_await open_somewhere(GetParam());
    Box from = co_await open_box({.remote = to.transport->getsockname()});
    const std::size_t largest = GetParam().family == AF_UNIX ? 150'000 : GetParam().family == AF_INET ? 65'507 : 65'527;
    const std::size_t sizes[] = {1, 16'384, largest};
    for (const std::size_t bytes : sizes) {
      from.transport->sendto(pattern(bytes));
      co_await until([&] { return !to.received().empty(); });
      EXPECT_TRUE(to.received().front() == pattern(bytes)) << to.received().front().size() << " of " << bytes;
      to.mail->received.clear();
    }
    co_await close_box(from);
    co_await close_box(to);
  });
}

// Many at once, to several: nobody is passed over, and the loop has its turns in between.
TEST_P(DatagramsOfAnyKind, AFloodStopsNobody) {
  run([]() -> Coroutine<> {
    EventLoop& loop = get_running_loop();
    constexpr std::size_t each = 150;
    std::vector<Box> boxes;
    std::vector<Socket> senders;
    for (int i = 0; i < 6; ++i) {
      boxes.push_back(co_await open_somewhere(GetParam()));
      senders.emplace_back(GetParam().family, SOCK_DGRAM);
      co_await loop.sock_connect(senders.back(), boxes.back().transport->getsockname());
    }
    std::size_t before = 0;
    std::size_t most = 0;
    boxes.front().mail->then = [&](const std::string&) {
      if (before++ == 0) loop.call_soon([&before, &most] { most = std::max(most, std::exchange(before, 0)); });
    };
    for (std::size_t sent = 0; sent < each;) {
      const std::size_t burst = GetParam().family == AF_UNIX ? 10 : each;
      for (Socket& sender : senders) {
        for (std::size_t i = 0; i < burst; ++i) EXPECT_EQ(::send(sender.fileno(), "x", 1, MSG_DONTWAIT), 1);
      }
      sent += burst;
      for (Box& box : boxes) co_await until([&] { return box.received().size() == sent; });
    }
    co_await until([&before] { return before == 0; });
    EXPECT_LE(most, 32U) << "of one endpoint in one turn, or two";
    for (Box& box : boxes) co_await close_box(box);
  });
}

TEST_P(DatagramsOfAnyKind, ADescriptorMayBeNonBlocking) {
  run([]() -> Coroutine<> {
    Socket socket(GetParam().family, SOCK_DGRAM | SOCK_NONBLOCK);
    socket.bind(GetParam().somewhere());
    Box to = co_await open_box(std::move(socket));
    const bool sleeps = co_await falls_asleep();
    EXPECT_TRUE(sleeps);
    Box from = co_await open_box({.remote = to.transport->getsockname()});
    from.transport->sendto("x");
    from.transport->sendto("y");
    co_await until([&to] { return to.received().size() == 2; });
    EXPECT_THAT(to.received(), ElementsAre("x", "y"));
    co_await close_box(from);
    co_await close_box(to);
  });
}

// ---- What waits to be sent ----

// The other end of a full endpoint is a plain socket, which nobody reads yet. `connected`: of the two ways to wait.
struct Full {
  Socket reader{AF_UNIX, SOCK_DGRAM};
  Box box;

  Coroutine<> open(bool connected) {
    reader.bind(Address::unix_path(""));
    const Address there = reader.getsockname();
    if (connected) {
      box = co_await open_box({.remote = there});
    } else {
      box = co_await open_box({.family = AF_UNIX});
      to_ = there;
    }
  }
  void send(std::string_view data) { box.transport->sendto(data, to_); }

 private:
  Address to_;
};

class FullSockets : public Datagrams, public testing::WithParamInterface<bool> {};
INSTANTIATE_TEST_SUITE_P(Connected, FullSockets, testing::Bool(), testing::PrintToStringParamName());

// B399, T28
TEST_P(FullSockets, LoseNothingAndKeepTheOrder) {
  run([]() -> Coroutine<> {
    EventLoop& loop = get_running_loop();
    Full full;
    co_await full.open(GetParam());
    full.box.transport->set_write_buffer_limits({.low = 1000, .high = 5000});
    std::vector<std::string> sent;
    for (int i = 0; i < 200; ++i) sent.push_back(i % 3 == 0 ? "" : std::to_string(i));
    for (const std::string& data : sent) {
      std::string copy = data;
      full.send(copy);
      copy.assign(copy.size(), '?');
    }
    EXPECT_THAT(full.box.mail->events, ElementsAre("made", "pause"));
    EXPECT_GT(full.box.transport->get_write_buffer_size(), 5000U);
    const bool sleeps = co_await falls_asleep();
    EXPECT_TRUE(sleeps) << "while it waits for room";
    for (const std::string& data : sent) {
      const auto [got, from] = co_await loop.sock_recvfrom(full.reader, 100);
      EXPECT_EQ(got, data);
    }
    co_await until([&full] { return full.box.mail->has("resume"); });
    EXPECT_EQ(full.box.transport->get_write_buffer_size(), 0U);
    EXPECT_THAT(full.box.mail->events, ElementsAre("made", "pause", "resume"));
    co_await close_box(full.box);
  });
}

// B399: an empty datagram takes memory, too (gh-135444).
TEST_P(FullSockets, WhoHeedsPauseWritingHasBoundedMemory) {
  run([]() -> Coroutine<> {
    Full full;
    co_await full.open(GetParam());
    EXPECT_EQ(full.box.transport->get_write_buffer_limits().high, 64U << 10);
    EXPECT_EQ(full.box.transport->get_write_buffer_limits().low, 16U << 10);
    std::size_t count = 0;
    for (; !full.box.mail->has("pause"); ++count) full.send("");
    EXPECT_LT(count, 4000U);
    EXPECT_LT(full.box.transport->get_write_buffer_size(), (64U << 10) + 1000);
    full.box.transport->abort();
    co_await until([&full] { return full.box.mail->lost(); });
    EXPECT_EQ(full.box.transport->get_write_buffer_size(), 0U);
    EXPECT_THAT(full.box.mail->events, ElementsAre("made", "pause", "lost"));
  });
}

// B399: who is paused is resumed when what waits has been refused (gh-156698).
TEST_P(FullSockets, WhatIsRefusedMakesRoom) {
  run([]() -> Coroutine<> {
    Full full;
    co_await full.open(GetParam());
    full.box.transport->set_write_buffer_limits(1000);
    std::size_t queued = 0;
    for (int i = 0; i < 40; ++i) {
      full.send("x");
      if (full.box.transport->get_write_buffer_size() != 0) ++queued;
    }
    EXPECT_TRUE(full.box.mail->has("pause"));
    full.reader.close();
    co_await until([&full] { return full.box.mail->has("resume"); });
    co_await until([&] { return full.box.mail->errors() == queued; });
    EXPECT_EQ(full.box.transport->get_write_buffer_size(), 0U);
    EXPECT_FALSE(full.box.transport->is_closing());
    co_await close_box(full.box);
  });
}

TEST_P(FullSockets, CloseSendsWhatWaits) {
  run([]() -> Coroutine<> {
    EventLoop& loop = get_running_loop();
    Full full;
    co_await full.open(GetParam());
    for (int i = 0; i < 60; ++i) full.send(std::to_string(i));
    full.box.transport->close();
    full.send("dropped");
    for (int i = 0; i < 60; ++i) {
      const auto [got, from] = co_await loop.sock_recvfrom(full.reader, 100);
      EXPECT_EQ(got, std::to_string(i));
    }
    co_await until([&full] { return full.box.mail->lost(); });
    EXPECT_THAT(full.box.mail->events, ElementsAre("made", "lost"));
  });
}

TEST_P(FullSockets, AbortDropsWhatWaits) {
  run([]() -> Coroutine<> {
    Full full;
    co_await full.open(GetParam());
    for (int i = 0; i < 60; ++i) full.send("x");
    co_await falls_asleep();
    full.box.transport->abort();
    full.box.transport->abort();
    EXPECT_FALSE(full.box.mail->lost());
    co_await until([&full] { return full.box.mail->lost(); });
    EXPECT_THAT(full.box.mail->events, ElementsAre("made", "lost"));
  });
}

// Sending inside pause_writing() is allowed, and goes behind what was sent before.
TEST_P(FullSockets, PauseWritingMaySend) {
  run([]() -> Coroutine<> {
    EventLoop& loop = get_running_loop();
    Full full;
    co_await full.open(GetParam());
    full.box.transport->set_write_buffer_limits(0);
    full.box.mail->then = [&full](const std::string& event) {
      if (event == "pause") full.send("inside");
    };
    int sent = 0;
    while (!full.box.mail->has("pause")) full.send(std::to_string(sent++));
    EXPECT_THAT(thrown_by([&] { full.box.transport->set_write_buffer_limits({.low = 2, .high = 1}); }),
                HasSubstr("ValueError"));
    full.send("behind");
    for (int i = 0; i < sent + 2; ++i) {
      const auto [got, from] = co_await loop.sock_recvfrom(full.reader, 100);
      EXPECT_EQ(got, i < sent ? std::to_string(i) : i == sent ? "inside" : "behind");
    }
    full.box.mail->then = nullptr;
    co_await close_box(full.box);
  });
}

// ---- Errors ----

// B400
TEST_P(DatagramsOfAnyKind, WhatIsRefusedIsToldAndNoMore) {
  run([]() -> Coroutine<> {
    Address nobody;
    {
      Socket gone(GetParam().family, SOCK_DGRAM);
      gone.bind(GetParam().somewhere());
      nobody = gone.getsockname();
    }
    Socket there(GetParam().family, SOCK_DGRAM);
    there.bind(nobody);
    Box box = co_await open_box({.remote = nobody});
    there.close();
    box.transport->sendto("x");
    EXPECT_FALSE(box.mail->has("error")) << "inside sendto()";
    co_await until([&box] { return box.mail->has("error"); });
    EXPECT_THAT(box.mail->events.back(), HasSubstr("refused"));
    EXPECT_THAT(box.mail->events.back(), HasSubstr(nobody.str()));
    EXPECT_FALSE(box.transport->is_closing());
    if (GetParam().family != AF_UNIX) {  // where a connection is to a name, and not to a socket
      Box again = co_await open_box({.local = nobody});
      box.transport->sendto("y");
      co_await until([&again] { return !again.received().empty(); });
      co_await close_box(again);
    }
    co_await close_box(box);
    EXPECT_EQ(box.mail->events.back(), "lost");
  });
}

// What is heard of one that nobody took does not keep the next from being sent.
TEST_P(DatagramsOfAnyKind, ARefusalHarmsNoOther) {
  if (GetParam().family == AF_UNIX) return;  // where each is refused by itself
  run([]() -> Coroutine<> {
    Box first = co_await open_somewhere(GetParam());
    const Address name = first.transport->getsockname();
    Box box = co_await open_box({.remote = name});
    co_await close_box(first);
    box.transport->sendto("to nobody");
    Box second = co_await open_box({.local = name});
    for (const char* data : {"one", "two"}) box.transport->sendto(data);
    co_await until([&] { return second.received().size() == 2 && box.mail->errors() == 1; });
    EXPECT_THAT(second.received(), ElementsAre("one", "two"));
    co_await close_boxes(box, second);
    EXPECT_EQ(box.mail->errors(), 1U);
  });
}

// B400: one that is too large is refused, and no other; each is told of.
TEST_P(DatagramsOfAnyKind, OneThatCannotBeSentHarmsNoOther) {
  run([]() -> Coroutine<> {
    Box to = co_await open_somewhere(GetParam());
    Box from = co_await open_box({.remote = to.transport->getsockname()});
    const std::string large(1 << 20, 'x');
    from.transport->sendto("one");
    from.transport->sendto(large);
    from.transport->sendto(large);
    from.transport->sendto("two");
    co_await until([&] { return to.received().size() == 2 && from.mail->errors() == 2; });
    EXPECT_THAT(to.received(), ElementsAre("one", "two"));
    EXPECT_THAT(from.mail->events.back(), HasSubstr("Message too long"));
    co_await close_box(from);
    co_await close_box(to);
  });
}

// Its errors come in turns of their own: they neither recurse nor stop the loop.
TEST_F(Datagrams, ErrorReceivedMaySendAgainWithoutEnd) {
  run([]() -> Coroutine<> {
    Box box = co_await open_box({.local = Address::ip("127.0.0.1", 0)});
    const Address other = Address::ip("::1", 1);  // of a family that the socket does not have
    std::size_t errors = 0;
    box.mail->then = [&](const std::string& event) {
      if (event.substr(0, 5) == "error" && ++errors < 20'000) box.transport->sendto("x", other);
    };
    box.transport->sendto("x", other);
    co_await until([&errors] { return errors == 20'000; });
    co_await close_box(box);
  });
}

// Puts another file in the place of its socket, which lives on in the request that waits.
void replace_socket(const Box& box) {
  const int fd = box.transport->get_extra_info<TransportSocket>("socket", TransportSocket(-1)).fileno();
  const int null = ::open("/dev/null", O_RDWR | O_CLOEXEC);
  EXPECT_EQ(::dup3(null, fd, O_CLOEXEC), fd);
  ::close(null);
}

// B400
TEST_F(Datagrams, AFaultOfTheSocketThatReceivesEndsTheEndpoint) {
  run([]() -> Coroutine<> {
    Box box = co_await open_box({.local = Address::unix_path("")});
    Box from = co_await open_box({.remote = box.transport->getsockname()});
    co_await falls_asleep();
    replace_socket(box);
    from.transport->sendto("x");
    co_await until([&box] { return box.mail->lost(); });
    EXPECT_THAT(box.mail->events, ElementsAre("made", HasSubstr("lost: exception: recvmsg")));
    EXPECT_THAT(Reports::take(), ElementsAre(HasSubstr("Fatal read error on datagram transport")));
    co_await close_box(from);
  });
}

// B400
TEST_F(Datagrams, AFaultOfTheSocketThatSendsEndsTheEndpoint) {
  run([]() -> Coroutine<> {
    Box box = co_await open_box({.remote = Address::ip("127.0.0.1", 9)});
    co_await falls_asleep();
    replace_socket(box);
    box.transport->sendto("x");
    EXPECT_TRUE(box.transport->is_closing());
    co_await until([&box] { return box.mail->lost(); });
    EXPECT_THAT(box.mail->events.back(), HasSubstr("lost: exception: sendto"));
    EXPECT_THAT(Reports::take(), ElementsAre(HasSubstr("Fatal write error on datagram transport")));
  });
}

// A server is not to be ended by what somebody sends it.
TEST_F(Datagrams, WhatCallbacksThrowIsReported) {
  run([]() -> Coroutine<> {
    Box box = co_await open_box({.local = Address::ip("127.0.0.1", 0)}, [](Box& made) {
      made.mail->then = [](const std::string& event) {
        if (event != "made") throw std::runtime_error("in " + event.substr(0, 5));
      };
    });
    const Address self = box.transport->getsockname();
    box.transport->sendto("x", self);
    co_await until([&box] { return box.received().size() == 1; });
    box.transport->sendto("x", Address::ip("::1", 1));
    co_await until([&box] { return box.mail->has("error"); });
    box.transport->sendto("y", self);
    co_await until([&box] { return box.received().size() == 2; });
    co_await close_box(box);
    EXPECT_THAT(Reports::take(), ElementsAre("protocol.datagram_received() failed: exception: in data",
                                             "protocol.error_received() failed: exception: in error",
                                             "protocol.datagram_received() failed: exception: in data",
                                             "protocol.connection_lost() failed: exception: in lost"));
  });
}

TEST_F(Datagrams, WhatConnectionMadeThrowsEndsTheEndpoint) {
  run([]() -> Coroutine<> {
    Box box = co_await open_box({.local = Address::ip("127.0.0.1", 0)}, [](Box& made) {
      made.mail->then = [](const std::string& event) {
        if (event == "made") throw std::runtime_error("thrown");
      };
    });
    EXPECT_TRUE(box.transport->is_closing());
    co_await until([&box] { return box.mail->lost(); });
    EXPECT_THAT(box.mail->events, ElementsAre("made", "lost: exception: thrown"));
    EXPECT_THAT(Reports::take(), ElementsAre(HasSubstr("exception: thrown")));
  });
}

// B402
TEST_P(DatagramsOfAnyKind, AnEndpointWithARemoteAddressSendsToNoOther) {
  run([]() -> Coroutine<> {
    Box to = co_await open_somewhere(GetParam());
    Box other = co_await open_somewhere(GetParam());
    const Address there = other.transport->getsockname();
    Box from = co_await open_box({.remote = to.transport->getsockname()});
    EXPECT_THAT(
        thrown_by([&] { from.transport->sendto("x", there); }),
        HasSubstr("ValueError: sendto: invalid address: must be none, or " + to.transport->getsockname().str()));
    EXPECT_THAT(thrown_by([&] { to.transport->sendto("x"); }), HasSubstr("ValueError: sendto: without"));
    EXPECT_THAT(thrown_by([] { Address::ip("localhost", 1); }), HasSubstr("ValueError"));
    from.transport->sendto("y", Address());
    co_await until([&to] { return !to.received().empty(); });
    EXPECT_THAT(to.received(), ElementsAre("y"));
    co_await close_boxes(to, other, from);
    EXPECT_THAT(other.received(), SizeIs(0));
  });
}

// B403
TEST_P(DatagramsOfAnyKind, WhatIsSentAfterTheEndIsDroppedAndToldOfOnce) {
  run([]() -> Coroutine<> {
    Box to = co_await open_somewhere(GetParam());
    Box from = co_await open_box({.remote = to.transport->getsockname()});
    from.transport->close();
    from.transport->sendto("x");
    co_await close_box(from);
    for (int i = 0; i < 3; ++i) from.transport->sendto("x");
    EXPECT_THAT(Reports::take(), ElementsAre());
    for (int i = 0; i < 20; ++i) from.transport->sendto("x");
    EXPECT_THAT(Reports::take(), ElementsAre(HasSubstr("socket.send() raised exception")));
    co_await close_box(to);
    EXPECT_THAT(to.received(), SizeIs(0));
  });
}

}  // namespace
}  // namespace ouro
