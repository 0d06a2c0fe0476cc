// How endpoints of datagrams are made: what the options mean, which do not fit together, and that nothing is left open
// when one cannot be made.
#include <gmock/gmock.h>

#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <filesystem>
#include <memory>
#include <semaphore>
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
using test::end_of;
using test::Mail;
using test::Mailbox;
using test::open_box;
using test::until;
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;

class DatagramEndpoints : public test::WireTest {};

int option_of(const Box& box, int option) {
  return box.transport->get_extra_info<TransportSocket>("socket", TransportSocket(-1)).getsockopt(SOL_SOCKET, option);
}

Coroutine<> arrives(Box& from, Box& to, const std::string& data) {
  const std::size_t before = to.received().size();
  from.transport->sendto(data, to.transport->getsockname());
  co_await until([&] { return to.received().size() > before; });
  EXPECT_EQ(to.received().back(), data);
}

// B394
TEST_F(DatagramEndpoints, HostsMayBeNamesOrNumbers) {
  run([]() -> Coroutine<> {
    for (const int family : {AF_INET, AF_INET6}) {
      const char* const number = family == AF_INET ? "127.0.0.1" : "::1";
      Box named = co_await open_box({.local = {"localhost", 0}, .family = AF_INET});
      Box numbered = co_await open_box({.local = {number, 0}});
      Box anywhere = co_await open_box({.local = {"", 0}, .family = family});
      Box nowhere = co_await open_box({.family = family, .proto = IPPROTO_UDP});
      EXPECT_EQ(named.transport->getsockname().host(), "127.0.0.1");
      EXPECT_EQ(numbered.transport->getsockname().host(), number);
      EXPECT_EQ(anywhere.transport->getsockname().host(), family == AF_INET ? "0.0.0.0" : "::");
      for (const Box* box : {&named, &numbered, &anywhere, &nowhere}) {
        EXPECT_NE(box->transport->getsockname().port(), 0);
        EXPECT_FALSE(box->transport->getpeername());
      }
      co_await arrives(nowhere, numbered, "x");
      const int port = numbered.transport->getsockname().port();
      Box connected = co_await open_box({.local = {number, 0}, .remote = {number, port}, .family = family});
      co_await arrives(connected, numbered, "y");
      EXPECT_EQ(connected.transport->getpeername(), numbered.transport->getsockname());
      EXPECT_EQ(numbered.mail->senders.back(), connected.transport->getsockname());
      // One end by its name, the other as an address.
      Box here = co_await open_box({.local = Address::ip(number, 0), .remote = {number, port}});
      Box there = co_await open_box({.local = {number, 0}, .remote = numbered.transport->getsockname()});
      for (Box* box : {&here, &there}) {
        co_await arrives(*box, numbered, "z");
        EXPECT_EQ(box->transport->getpeername(), numbered.transport->getsockname());
      }
      co_await close_boxes(named, numbered, anywhere, nowhere, connected, here, there);
    }
  });
}

// B394: the path of a unix socket, which the endpoint replaces and leaves.
TEST_F(DatagramEndpoints, UnixSocketsHavePaths) {
  run([]() -> Coroutine<> {
    const auto path = std::filesystem::temp_directory_path() / ("ouro-datagrams-" + std::to_string(::getpid()));
    const std::string name = path.string();
    for (int round = 0; round < 2; ++round) {
      Box to = co_await open_box({.local = {name}});
      EXPECT_EQ(to.transport->getsockname(), Address::unix_path(name));
      Box from = co_await open_box({.remote = {name}, .family = AF_UNIX});
      EXPECT_EQ(from.transport->getpeername(), Address::unix_path(name));
      EXPECT_EQ(from.transport->getsockname().path(), "");
      from.transport->sendto("x");
      co_await until([&to] { return !to.received().empty(); });
      EXPECT_FALSE(to.mail->senders.back()) << "it has no name";
      co_await close_box(from);
      co_await close_box(to);
      EXPECT_TRUE(std::filesystem::exists(path));
    }
    std::filesystem::remove(path);
  });
}

// B394
TEST_F(DatagramEndpoints, ASocketMayBeGiven) {
  run([]() -> Coroutine<> {
    auto [one, other] = Socket::pair(SOCK_DGRAM);
    Box left = co_await open_box(std::move(one));
    Box right = co_await open_box(std::move(other));
    left.transport->sendto("x");
    co_await until([&right] { return !right.received().empty(); });
    right.transport->sendto("y", right.mail->senders.back());  // which is none
    co_await until([&left] { return !left.received().empty(); });
    EXPECT_THAT(left.received(), ElementsAre("y"));

    Box unbound = co_await open_box(Socket(AF_INET, SOCK_DGRAM));
    EXPECT_NE(unbound.transport->getsockname().port(), 0);
    Socket connected(AF_INET6, SOCK_DGRAM);
    Box to = co_await open_box({.local = {"::1", 0}});
    co_await get_running_loop().sock_connect(connected, to.transport->getsockname());
    Box from = co_await open_box(std::move(connected));
    EXPECT_EQ(from.transport->getpeername(), to.transport->getsockname());
    co_await arrives(from, to, "z");
    co_await close_boxes(left, right, unbound, to, from);
  });
}

struct Wrong {
  const char* name;
  DatagramOptions options;
  const char* says;
};

// B395
TEST_F(DatagramEndpoints, WhatDoesNotFitTogetherIsRefused) {
  run([]() -> Coroutine<> {
    const std::vector<Wrong> all{
        {"nothing", {}, "ValueError: unexpected address family"},
        {"no address", {.allow_broadcast = true}, "ValueError: unexpected address family"},
        {"two families", {.local = {"127.0.0.1", 0}, .remote = {"::1", 1}}, "ValueError: can not get address"},
        {"not of the family", {.local = Address::ip("::1", 0), .family = AF_INET}, "ValueError: can not get address"},
        {"a path", {.local = {"/tmp/x"}, .family = AF_INET}, "ValueError: the path of a unix socket"},
        {"no path", {.remote = {"127.0.0.1", 1}, .family = AF_UNIX}, "ValueError: for the family AF_UNIX a path"},
        {"one path", {.local = {"/tmp/x"}, .remote = {"127.0.0.1", 1}}, "ValueError: for the family AF_UNIX a path"},
        {"port", {.local = {"127.0.0.1", 65536}}, "ValueError: port 65536"},
        {"negative", {.remote = {"127.0.0.1", -1}}, "ValueError: port -1"},
        {"name", {.local = {"127.0.0.1", 0}, .flags = 0x40000000}, "getaddrinfo"},
    };
    for (const Wrong& wrong : all) {
      const std::string end = co_await end_of(open_box(wrong.options));
      EXPECT_THAT(end, HasSubstr(wrong.says)) << wrong.name;
    }
    auto [one, other] = Socket::pair();
    const std::string stream = co_await end_of(open_box(std::move(one)));
    EXPECT_EQ(stream, "ValueError: A datagram socket was expected, got another type");
    const std::string none = co_await end_of(open_box(Socket()));
    EXPECT_THAT(none, HasSubstr("ValueError: a socket was expected"));
  });
}

// B396
TEST_F(DatagramEndpoints, ABroadcastingOneIsNotConnected) {
  run([]() -> Coroutine<> {
    Box to = co_await open_box({.local = {"127.0.0.1", 0}});
    Box stranger = co_await open_box({.local = {"127.0.0.1", 0}});
    const Address there = to.transport->getsockname();
    Box box = co_await open_box({.local = {"127.0.0.1", 0}, .remote = there, .allow_broadcast = true});
    EXPECT_NE(option_of(box, SO_BROADCAST), 0);
    EXPECT_EQ(option_of(to, SO_BROADCAST), 0);
    EXPECT_FALSE(box.transport->getpeername());
    box.transport->sendto("x");
    co_await until([&to] { return !to.received().empty(); });
    EXPECT_THAT(test::thrown_by([&] { box.transport->sendto("x", stranger.transport->getsockname()); }),
                HasSubstr("ValueError"));
    co_await arrives(stranger, box, "it hears everybody");
    co_await close_boxes(to, stranger, box);
  });
}

TEST_F(DatagramEndpoints, SeveralMayHaveOnePort) {
  run([]() -> Coroutine<> {
    Box one = co_await open_box({.local = {"127.0.0.1", 0}, .reuse_port = true});
    const DatagramOptions same{.local = one.transport->getsockname(), .reuse_port = true};
    Box two = co_await open_box(same);
    EXPECT_EQ(one.transport->getsockname(), two.transport->getsockname());
    co_await close_box(one);
    co_await close_box(two);
  });
}

// B397, T30: the fixture looks for descriptors that are left.
TEST_F(DatagramEndpoints, NothingIsLeftOfOneThatCannotBeMade) {
  run([]() -> Coroutine<> {
    EventLoop& loop = get_running_loop();
    Box taken = co_await open_box({.local = {"127.0.0.1", 0}});
    const std::string bound = co_await end_of(open_box({.local = taken.transport->getsockname()}));
    EXPECT_THAT(bound, AllOf(HasSubstr("bind"), HasSubstr("in use")));
    const std::string missing = co_await end_of(open_box({.remote = {"/nonexistent/ouro"}}));
    EXPECT_THAT(missing, AllOf(HasSubstr("connect /nonexistent/ouro"), HasSubstr("No such file")));
    const std::string no_protocol = co_await end_of(open_box({.family = AF_INET, .proto = 250}));
    EXPECT_THAT(no_protocol, HasSubstr("socket"));

    const auto throws = []() -> std::unique_ptr<DatagramProtocol> { throw std::runtime_error("no protocol"); };
    const std::string thrown = co_await end_of(loop.create_datagram_endpoint(throws, {.local = {"127.0.0.1", 0}}));
    EXPECT_EQ(thrown, "exception: no protocol");
    const auto gives_none = [] { return std::unique_ptr<DatagramProtocol>(); };
    const std::string none = co_await end_of(loop.create_datagram_endpoint(gives_none, {.local = {"127.0.0.1", 0}}));
    EXPECT_EQ(none, "ValueError: the protocol factory gave no protocol");
    auto [one, other] = Socket::pair(SOCK_DGRAM);
    const std::string given = co_await end_of(loop.create_datagram_endpoint(throws, std::move(one)));
    EXPECT_EQ(given, "exception: no protocol");
    co_await close_box(taken);
  });
}

// B397: the lookup waits for the only thread of the executor.
TEST_F(DatagramEndpoints, OneThatIsCancelledIsNotMade) {
  run([]() -> Coroutine<> {
    EventLoop& loop = get_running_loop();
    auto single = std::make_shared<ThreadPoolExecutor>(1);
    std::binary_semaphore gate{0};
    auto held = executor_submit(*single, [&gate] { gate.acquire(); });
    loop.set_default_executor(single);
    auto mail = std::make_shared<Mail>();
    const auto factory = [&mail] { return std::make_unique<Mailbox>(mail); };
    auto task = loop.create_task(loop.create_datagram_endpoint(factory, {.local = {"localhost", 0}}));
    co_await until([&task] { return !task.get_stack().empty(); });
    task.cancel("stop");
    const std::string end = co_await end_of(task);
    EXPECT_EQ(end, "CancelledError: stop");
    EXPECT_TRUE(mail->events.empty());
    gate.release();
    co_await wrap_future(held);
  });
}

}  // namespace
}  // namespace ouro
