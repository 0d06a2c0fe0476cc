// Which address is connected to: order, delays, and the errors of all told as one.
#include <gmock/gmock.h>

#include <sys/socket.h>

#include <cerrno>
#include <chrono>
#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <ouro/io/detail/happy_eyeballs.hpp>
#include <ouro/io/errors.hpp>
#include <ouro/runtime/exception_group.hpp>
#include <ouro/runtime/sleep.hpp>
#include <ouro/runtime/tasks.hpp>

#include "support/manual_clock.hpp"

namespace ouro {
namespace {

using namespace std::chrono_literals;
using detail::ConnectOrder;
using test::describe;
using testing::ElementsAre;
using testing::IsEmpty;

using Log = std::vector<std::string>;

// Addresses by their last figure: "4.1" is IPv4, "6.1" IPv6.
AddressInfo info(const std::string& name) {
  const bool ipv4 = name.starts_with("4.");
  const std::string last = name.substr(2);
  return {ipv4 ? AF_INET : AF_INET6, SOCK_STREAM, 0, "", Address::ip(ipv4 ? "10.0.0." + last : "fd00::" + last, 80)};
}
std::vector<AddressInfo> infos(const Log& names) {
  std::vector<AddressInfo> made;
  for (const std::string& name : names) made.push_back(info(name));
  return made;
}
std::string name_of(const AddressInfo& info) {
  const std::string host = info.address.host();
  return (info.family == AF_INET ? "4." : "6.") + host.substr(host.find_last_of(".:") + 1);
}
Log names(const std::vector<AddressInfo>& list) {
  Log told;
  for (const AddressInfo& info : list) told.push_back(name_of(info));
  return told;
}

// ---- The order ----

TEST(Interleave, TakesTheFamiliesInTurn) {
  const auto list = infos({"6.1", "6.2", "6.3", "6.4", "4.1", "4.2"});
  EXPECT_THAT(names(detail::interleave(list, 1)), ElementsAre("6.1", "4.1", "6.2", "4.2", "6.3", "6.4"));
  EXPECT_THAT(names(detail::interleave(list, 2)), ElementsAre("6.1", "6.2", "4.1", "6.3", "4.2", "6.4"));
  EXPECT_THAT(names(detail::interleave(list, 3)), ElementsAre("6.1", "6.2", "6.3", "4.1", "6.4", "4.2"));
  EXPECT_THAT(names(detail::interleave(list, 99)), ElementsAre("6.1", "6.2", "6.3", "6.4", "4.1", "4.2"));
  EXPECT_THAT(names(detail::interleave(infos({"4.1", "6.1", "6.2", "4.2"}), 1)),
              ElementsAre("4.1", "6.1", "4.2", "6.2"));
  EXPECT_THAT(names(detail::interleave(infos({"4.1", "4.2"}), 1)), ElementsAre("4.1", "4.2"));
  EXPECT_THAT(detail::interleave({}, 5), IsEmpty());
}

// ---- The errors ----

std::exception_ptr refused(int error, const std::string& object) {
  try {
    throw_os_error(error, "connect", object);
  } catch (...) {
    return std::current_exception();
  }
}
std::exception_ptr thrown(std::vector<std::exception_ptr> errors, bool all_errors = false) {
  try {
    detail::throw_connect_errors(std::move(errors), all_errors);
  } catch (...) {
    return std::current_exception();
  }
}

// B358
TEST(ConnectErrors, OneIsThrownAsItIs) {
  const std::exception_ptr error = refused(ECONNREFUSED, "10.0.0.1:80");
  EXPECT_EQ(thrown({error}), error);
  EXPECT_EQ(thrown({error, refused(ECONNREFUSED, "10.0.0.1:80")}), error);  // the same text
}

// B358
TEST(ConnectErrors, SeveralAreToldAsOne) {
  const auto error = thrown({refused(ECONNREFUSED, "10.0.0.1:80"), refused(ENETUNREACH, "[fd00::1]:80")});
  const auto* told = exception_as<OSError>(error);
  ASSERT_NE(told, nullptr);
  EXPECT_EQ(typeid(*told), typeid(OSError));
  EXPECT_STREQ(told->what(),
               "Multiple exceptions: connect 10.0.0.1:80: Connection refused, "
               "connect [fd00::1]:80: Network is unreachable");
  EXPECT_EQ(told->errno_value(), ECONNREFUSED);
  EXPECT_EQ(told->operation(), "connect");
}

// B358: what is the same of all is kept.
TEST(ConnectErrors, TheClassOfACommonErrnoIsKept) {
  const auto error = thrown({refused(ECONNREFUSED, "10.0.0.1:80"), refused(ECONNREFUSED, "[fd00::1]:80")});
  const auto* told = exception_as<ConnectionRefusedError>(error);
  ASSERT_NE(told, nullptr);
  EXPECT_STREQ(told->what(),
               "Multiple exceptions: connect 10.0.0.1:80: Connection refused, "
               "connect [fd00::1]:80: Connection refused");
}

// B358
TEST(ConnectErrors, AllOfThemOnDemand) {
  const std::vector errors{refused(ECONNREFUSED, "10.0.0.1:80"), refused(ECONNREFUSED, "10.0.0.1:80")};
  const auto error = thrown(errors, true);
  const auto* group = exception_as<ExceptionGroup>(error);
  ASSERT_NE(group, nullptr);
  EXPECT_EQ(group->exceptions(), errors);
  EXPECT_EQ(group->message(), "create_connection failed");
}

TEST(ConnectErrors, OthersThanTheSystemsAreTold) {
  const auto error = thrown({std::make_exception_ptr(gaierror(-2, "getaddrinfo", "nowhere")),
                             std::make_exception_ptr(7), std::make_exception_ptr(CancelledError())});
  const auto* told = exception_as<OSError>(error);
  ASSERT_NE(told, nullptr);
  EXPECT_STREQ(told->what(),
               "Multiple exceptions: getaddrinfo nowhere: Name or service not known, unknown exception, cancelled");
}

TEST(ConnectErrors, WithoutAddressesThereIsOneToo) {
  const auto error = thrown({}, true);
  ASSERT_NE(exception_as<OSError>(error), nullptr);
  EXPECT_STREQ(exception_as<OSError>(error)->what(), "getaddrinfo() returned empty list");
}

// ---- Connecting ----

// What connecting to an address does.
struct Peer {
  Duration takes = 0ms;
  int error = 0;
};

class HappyEyeballs : public testing::Test {
 protected:
  using Socket = std::unique_ptr<test::Counted>;

  template <class A>
  decltype(auto) run(A&& awaitable) {
    return sim.loop().run_until_complete(std::forward<A>(awaitable));
  }
  // In milliseconds since the start.
  std::string at() {
    const auto passed = sim.clock().now() - start;
    return " " + std::to_string(std::chrono::duration_cast<std::chrono::milliseconds>(passed).count());
  }

  // The socket is open from the first line, as one of the system is.
  Coroutine<Socket> connect(AddressInfo to) {
    const std::string name = name_of(to);
    const Peer peer = peers(name);
    auto socket = std::make_unique<test::Counted>(open);
    log.push_back(name + at());
    co_await sleep(peer.takes);
    if (peer.error != 0) throw_os_error(peer.error, "connect", to.address.str());
    connected.push_back(name);
    co_return std::move(socket);
  }
  Coroutine<Socket> to_any(const Log& list, ConnectOrder order) {
    return detail::connect_to_any<Socket>(
        infos(list), [this](AddressInfo to) { return connect(std::move(to)); }, order);
  }
  std::string error_of(Coroutine<Socket> coroutine) {
    try {
      run(std::move(coroutine));
    } catch (...) {
      return describe(std::current_exception());
    }
    return "nothing";
  }

  test::SimulatedLoop sim;
  const TimePoint start = sim.clock().now();
  std::function<Peer(const std::string&)> peers = [](const std::string&) { return Peer(); };
  Log log;
  Log connected;
  int open = 0;
};

TEST_F(HappyEyeballs, WithoutADelayOneAfterTheOther) {
  peers = [](const std::string& name) { return name == "6.2" ? Peer{1s} : Peer{10s, ETIMEDOUT}; };
  auto socket = run(to_any({"6.1", "4.1", "6.2", "4.2"}, {}));
  EXPECT_THAT(connected, ElementsAre("6.2"));
  EXPECT_THAT(log, ElementsAre("6.1 0", "4.1 10000", "6.2 20000"));
  EXPECT_EQ(open, 1);
}

TEST_F(HappyEyeballs, WithADelayTheFamiliesRace) {
  peers = [](const std::string& name) { return name.starts_with("6.") ? Peer{10s} : Peer{30ms}; };
  auto socket = run(to_any({"6.1", "6.2", "4.1", "4.2"}, {.delay = 250ms}));
  EXPECT_THAT(connected, ElementsAre("4.1"));
  EXPECT_THAT(log, ElementsAre("6.1 0", "4.1 250"));
  EXPECT_EQ(open, 1);  // the other is closed
}

TEST_F(HappyEyeballs, AnOrderOfItsOwn) {
  peers = [](const std::string&) { return Peer{1ms, ECONNREFUSED}; };
  error_of(to_any({"6.1", "6.2", "6.3", "4.1"}, {.delay = 250ms, .interleave = 2}));
  EXPECT_THAT(log, ElementsAre("6.1 0", "6.2 1", "4.1 2", "6.3 3"));
  log.clear();
  error_of(to_any({"6.1", "6.2", "4.1"}, {.delay = 250ms, .interleave = 0}));
  EXPECT_THAT(log, ElementsAre("6.1 4", "6.2 5", "4.1 6"));
  log.clear();
  error_of(to_any({"6.1", "6.2", "4.1"}, {.interleave = 1}));
  EXPECT_THAT(log, ElementsAre("6.1 7", "4.1 8", "6.2 9"));
  EXPECT_EQ(open, 0);
}

// T32: both connect in the same turn, and one is closed.
TEST_F(HappyEyeballs, ALateWinnerIsClosed) {
  peers = [](const std::string& name) { return name == "6.1" ? Peer{260ms} : Peer{10ms}; };
  auto socket = run(to_any({"6.1", "4.1"}, {.delay = 250ms}));
  EXPECT_THAT(connected, ElementsAre("6.1", "4.1"));
  EXPECT_EQ(open, 1);
  socket.reset();
  EXPECT_EQ(open, 0);
}

// B358, T30
TEST_F(HappyEyeballs, WhenAllFailAllAreToldAndClosed) {
  peers = [](const std::string& name) { return Peer{1ms, name == "6.1" ? ENETUNREACH : ECONNREFUSED}; };
  for (const ConnectOrder& order : {ConnectOrder{}, ConnectOrder{.delay = 250ms}}) {
    EXPECT_EQ(error_of(to_any({"6.1", "4.1"}, order)),
              "exception: Multiple exceptions: connect [fd00::1]:80: Network is unreachable, "
              "connect 10.0.0.1:80: Connection refused");
    EXPECT_EQ(error_of(to_any({"6.1", "4.1"}, {.delay = order.delay, .all_errors = true})),
              "exception: create_connection failed (2 sub-exceptions)");
  }
  EXPECT_EQ(error_of(to_any({"4.1"}, {.delay = 250ms})), "exception: connect 10.0.0.1:80: Connection refused");
  EXPECT_EQ(error_of(to_any({}, {.delay = 250ms})), "exception: getaddrinfo() returned empty list");
  EXPECT_EQ(open, 0);
}

TEST_F(HappyEyeballs, WhatIsNoOSErrorEndsTheSequence) {
  peers = [](const std::string& name) -> Peer { throw std::logic_error("wrong " + name); };
  EXPECT_EQ(error_of(to_any({"6.1", "4.1"}, {})), "exception: wrong 6.1");
}

// T30: nobody is left open, wherever the cancellation comes.
TEST_F(HappyEyeballs, ACancellationClosesAll) {
  peers = [](const std::string&) { return Peer{1h}; };
  for (const ConnectOrder& order : {ConnectOrder{}, ConnectOrder{.delay = 250ms}}) {
    auto task = sim.loop().create_task(to_any({"6.1", "6.2", "4.1", "4.2"}, order));
    sim.loop().call_later(600ms, [&] {
      EXPECT_EQ(open, order.delay ? 3 : 1);
      task.cancel();
    });
    EXPECT_THROW(static_cast<void>(run(task)), CancelledError);
    EXPECT_EQ(open, 0);
  }
  EXPECT_THAT(connected, IsEmpty());
}

}  // namespace
}  // namespace ouro
