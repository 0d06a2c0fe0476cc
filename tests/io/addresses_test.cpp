// Address: text, bytes, and what the kernel gives.
#include <gmock/gmock.h>

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <string>
#include <string_view>
#include <type_traits>
#include <unordered_set>
#include <vector>

#include <ouro/io/addresses.hpp>
#include <ouro/runtime/exceptions.hpp>

#include "fd.hpp"

namespace ouro {
namespace {

using namespace std::string_literals;
using testing::AllOf;
using testing::HasSubstr;

static_assert(std::is_trivially_copyable_v<Address> && std::is_trivially_destructible_v<Address>);
static_assert(sizeof(Address) == 112);

std::string refusal(auto make) {
  try {
    static_cast<void>(make());
  } catch (const ValueError& error) {
    return error.what();
  }
  return "accepted";
}

template <class Sockaddr>
Sockaddr as(const Address& address) {
  Sockaddr found{};
  EXPECT_EQ(address.size(), sizeof found);
  std::memcpy(&found, address.data(), std::min(sizeof found, address.size()));
  return found;
}

Address from(const sockaddr_un& name, std::size_t size) {
  return Address::from_sockaddr(reinterpret_cast<const sockaddr*>(&name), size);
}

constexpr std::size_t path_at = offsetof(sockaddr_un, sun_path);

// ---- IPv4, IPv6 ----

TEST(Address, IsNoneAtFirst) {
  constexpr Address none;
  EXPECT_FALSE(none);
  EXPECT_EQ(none.family(), AF_UNSPEC);
  EXPECT_EQ(none.size(), 0U);
  EXPECT_EQ(none.str(), "");
  EXPECT_EQ(none, Address::from_sockaddr(nullptr, 0));
  EXPECT_NE(none, Address::ip("0.0.0.0", 0));
}

TEST(Address, ReadsIPv4) {
  const Address address = Address::ip("127.0.0.1", 80);
  EXPECT_TRUE(address && address.is_ipv4() && !address.is_ipv6() && !address.is_unix());
  EXPECT_EQ(address.family(), AF_INET);
  EXPECT_EQ(address.host(), "127.0.0.1");
  EXPECT_EQ(address.port(), 80);
  EXPECT_EQ(address.str(), "127.0.0.1:80");
  EXPECT_EQ(address.path(), "");
  const auto bytes = as<sockaddr_in>(address);
  EXPECT_EQ(bytes.sin_port, htons(80));
  EXPECT_EQ(bytes.sin_addr.s_addr, htonl(INADDR_LOOPBACK));
}

// B361
TEST(Address, ReadsIPv6WithItsScopeAndFlow) {
  EXPECT_EQ(Address::ip("::1", 80).str(), "[::1]:80");
  EXPECT_EQ(Address::ip("0:0:0:0:0:0:0:1", 80), Address::ip("::1", 80));
  const Address address = Address::ip("fe80::1%7", 443, 0x12345);
  EXPECT_EQ(address.family(), AF_INET6);
  EXPECT_EQ(address.host(), "fe80::1%7");
  EXPECT_EQ(address.str(), "[fe80::1%7]:443");
  EXPECT_EQ(address.scope_id(), 7U);
  EXPECT_EQ(address.flow_info(), 0x12345U);
  const auto bytes = as<sockaddr_in6>(address);
  EXPECT_EQ(bytes.sin6_port, htons(443));
  EXPECT_EQ(bytes.sin6_flowinfo, htonl(0x12345));
  EXPECT_EQ(bytes.sin6_scope_id, 7U);
  EXPECT_EQ(Address::ip("fe80::1%lo", 1).scope_id(), 1U);  // loopback is the first interface of every namespace
  EXPECT_EQ(Address::ip("::ffff:10.0.0.1", 1).host(), "::ffff:10.0.0.1");
}

TEST(Address, RefusesWhatIsNoNumericHost) {
  for (const std::string host :
       {"", "localhost", "127.0.0", "127.0.0.1.2", "256.0.0.1", "1.2.3.4%lo", ":", "::1::", "g::1", "[::1]", " ::1",
        "::1 ", "fe80::1%", "fe80::1%nowhere0", "fe80::1%4294967296"}) {
    EXPECT_THAT(refusal([&] { return Address::ip(host, 1); }),
                AllOf(HasSubstr("'" + host + "'"), HasSubstr("is no address")))
        << host;
  }
  EXPECT_THAT(refusal([] { return Address::ip("127.0.0.1\0"s, 1); }), HasSubstr("'127.0.0.1\\x00'"));
  EXPECT_THAT(refusal([] { return Address::ip("fe80::1%lo\0"s, 1); }), HasSubstr("no network interface"));
  EXPECT_THAT(refusal([] { return Address::ip(std::string(5000, '1'), 1); }), HasSubstr("is no address"));
  EXPECT_THAT(refusal([] { return Address::ip("localhost", 1); }), HasSubstr("getaddrinfo()"));
  EXPECT_THAT(refusal([] { return Address::ip("fe80::1%nowhere0", 1); }), HasSubstr("interface 'nowhere0'"));
  EXPECT_THAT(refusal([] { return Address::ip("127.0.0.1", 1, 9); }), HasSubstr("flow"));
}

// B361
TEST(Address, ChecksThePort) {
  EXPECT_EQ(Address::ip("::1", 65535).port(), 65535);
  for (const int port : {-1, 65536, 70000}) {
    EXPECT_EQ(refusal([&] { return Address::ip("::1", port); }),
              "port " + std::to_string(port) + " is not in 0..65535");
  }
}

TEST(Address, ParsesWhatItWrites) {
  for (const Address& address : {Address::ip("127.0.0.1", 80), Address::ip("0.0.0.0", 0), Address::ip("::", 65535),
                                 Address::ip("fe80::1%7", 1), Address::ip("::ffff:1.2.3.4", 5)}) {
    EXPECT_EQ(Address::parse(address.str()), address) << address.str();
  }
  EXPECT_EQ(Address::parse("10.1.2.3"), Address::ip("10.1.2.3", 0));
  EXPECT_EQ(Address::parse("::1"), Address::ip("::1", 0));
  EXPECT_EQ(Address::parse("[::1]"), Address::ip("::1", 0));
  EXPECT_EQ(Address::parse("fe80::1%lo"), Address::ip("fe80::1%1", 0));
}

TEST(Address, ParsesNothingElse) {
  for (const std::string text : {"", ":", ":80", "localhost:80", "127.0.0.1:", "127.0.0.1:x", "127.0.0.1:-1",
                                 "127.0.0.1:+1", "127.0.0.1:65536", "127.0.0.1: 80", "127.0.0.1:80 ", "[::1", "[::1]80",
                                 "[::1]:", "[::1]:99999999999", "[127.0.0.1]:80", "::1]:80", "/run/socket"}) {
    EXPECT_THAT(refusal([&] { return Address::parse(text); }), HasSubstr("is no address")) << text;
  }
}

TEST(Address, GivesTheSameHostAnotherPort) {
  EXPECT_EQ(Address::ip("127.0.0.1", 80).with_port(0), Address::ip("127.0.0.1", 0));
  EXPECT_EQ(Address::ip("fe80::1%7", 80, 5).with_port(81), Address::ip("fe80::1%7", 81, 5));
  EXPECT_THROW(static_cast<void>(Address::ip("::1", 1).with_port(65536)), ValueError);
  EXPECT_THROW(static_cast<void>(Address::unix_path("/a").with_port(1)), ValueError);
  EXPECT_THROW(static_cast<void>(Address().with_port(1)), ValueError);
}

TEST(Address, KnowsLoopback) {
  for (const char* host : {"127.0.0.1", "127.255.0.9", "::1", "::ffff:127.0.0.1"}) {
    EXPECT_TRUE(Address::ip(host, 1).is_loopback()) << host;
  }
  for (const char* host : {"128.0.0.1", "0.0.0.0", "::", "::2", "::ffff:126.0.0.1", "fe80::1"}) {
    EXPECT_FALSE(Address::ip(host, 1).is_loopback()) << host;
  }
  EXPECT_TRUE(Address::unix_path("/a").is_loopback());
  EXPECT_FALSE(Address().is_loopback());
}

// ---- Unix ----

TEST(Address, HoldsUnixPaths) {
  const Address address = Address::unix_path("/run/socket");
  EXPECT_TRUE(address.is_unix());
  EXPECT_EQ(address.path(), "/run/socket");
  EXPECT_EQ(address.str(), "/run/socket");
  EXPECT_EQ(address.port(), 0);
  EXPECT_EQ(address.host(), "");
  EXPECT_EQ(address.size(), path_at + 12);  // with its NUL
  EXPECT_EQ(Address::unix_path(std::string(107, 'a')).path().size(), 107U);
  EXPECT_THAT(refusal([] { return Address::unix_path(std::string(108, 'a')); }),
              AllOf(HasSubstr("107 bytes"), HasSubstr("108"), HasSubstr("aaa")));
  EXPECT_THAT(refusal([] { return Address::unix_path("/a\0b"s); }), HasSubstr("'/a\\x00b'"));
}

TEST(Address, CountsEachByteOfAnAbstractName) {
  const Address address = Address::unix_path("\0a\0\\b"s);
  EXPECT_EQ(address.size(), path_at + 5);
  EXPECT_EQ(address.path(), "\0a\0\\b"s);
  EXPECT_EQ(address.str(), "\\x00a\\x00\\\\b");
  EXPECT_NE(address, Address::unix_path("\0a\0\\b\0"s));
  EXPECT_EQ(Address::unix_path("\0"s).size(), path_at + 1);
  EXPECT_EQ(Address::unix_path(std::string(108, '\0')).path(), std::string(108, '\0'));
  EXPECT_THROW(static_cast<void>(Address::unix_path(std::string(109, '\0'))), ValueError);
}

TEST(Address, HoldsTheUnnamedUnixAddress) {
  const Address address = Address::unix_path("");
  EXPECT_TRUE(address && address.is_unix());
  EXPECT_EQ(address.size(), path_at);
  EXPECT_EQ(address.path(), "");
  EXPECT_EQ(address.str(), "");
  EXPECT_NE(address, Address());
  EXPECT_NE(address, Address::unix_path("\0"s));
}

// ---- From the kernel ----

TEST(Address, ReadsUnixAddressesOfEverySize) {
  sockaddr_un name{};
  name.sun_family = AF_UNIX;
  EXPECT_EQ(from(name, path_at), Address::unix_path(""));
  std::memset(name.sun_path, 'p', sizeof name.sun_path);           // no NUL
  for (const std::size_t size : {sizeof name, sizeof name + 1}) {  // the kernel counts one behind it
    const Address full = from(name, size);
    EXPECT_EQ(full.path(), std::string(108, 'p'));
    EXPECT_EQ(full.size(), sizeof name);
  }
  name.sun_path[3] = '\0';  // what follows means nothing
  EXPECT_EQ(from(name, sizeof name), Address::unix_path("ppp"));
  EXPECT_EQ(from(name, path_at + 3), Address::unix_path("ppp"));
  EXPECT_EQ(from(name, path_at + 2), Address::unix_path("pp"));
  name.sun_path[0] = '\0';
  EXPECT_EQ(from(name, path_at + 5), Address::unix_path("\0pp\0p"s));
}

TEST(Address, RefusesSizesThatCannotBe) {
  sockaddr_storage storage{};
  const auto of = [&](int family, std::size_t size) {
    storage.ss_family = static_cast<sa_family_t>(family);
    return refusal([&] { return Address::from_sockaddr(reinterpret_cast<const sockaddr*>(&storage), size); });
  };
  EXPECT_EQ(of(AF_INET, 1), "an address of family 0 does not have 1 bytes");
  EXPECT_EQ(of(AF_INET, 15), "an address of family 2 does not have 15 bytes");
  EXPECT_EQ(of(AF_INET, 16), "accepted");
  EXPECT_EQ(of(AF_INET6, 27), "an address of family 10 does not have 27 bytes");
  EXPECT_EQ(of(AF_INET6, 28), "accepted");
  EXPECT_EQ(of(AF_UNIX, 112), "an address of family 1 does not have 112 bytes");
  EXPECT_EQ(of(AF_NETLINK, 12), "accepted");
  EXPECT_EQ(of(AF_NETLINK, 111), "an address of family 16 does not have 111 bytes");
}

TEST(Address, KeepsOtherFamiliesAsTheyAre) {
  sockaddr_storage storage{};
  storage.ss_family = AF_NETLINK;
  const auto* data = reinterpret_cast<const sockaddr*>(&storage);
  const Address address = Address::from_sockaddr(data, 12);
  EXPECT_EQ(address.family(), AF_NETLINK);
  EXPECT_EQ(address.size(), 12U);
  EXPECT_EQ(address.str(), "family 16, 12 bytes");
  EXPECT_EQ(std::memcmp(address.data(), data, 12), 0);
  EXPECT_NE(address, Address::from_sockaddr(data, 11));
}

TEST(Address, ForgetsWhatMeansNothing) {
  sockaddr_in bytes{};
  bytes.sin_family = AF_INET;
  bytes.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  std::memset(bytes.sin_zero, 0xff, sizeof bytes.sin_zero);
  EXPECT_EQ(Address::from_sockaddr(reinterpret_cast<const sockaddr*>(&bytes), sizeof bytes),
            Address::ip("127.0.0.1", 0));
}

// A socket bound to it says so.
Address bound(const Address& address) {
  const detail::Fd socket(::socket(address.family(), SOCK_STREAM | SOCK_CLOEXEC, 0));
  EXPECT_GE(socket.get(), 0);
  EXPECT_EQ(::bind(socket.get(), address.data(), static_cast<socklen_t>(address.size())), 0) << std::strerror(errno);
  sockaddr_storage storage{};
  socklen_t size = sizeof storage;
  EXPECT_EQ(::getsockname(socket.get(), reinterpret_cast<sockaddr*>(&storage), &size), 0);
  return Address::from_sockaddr(reinterpret_cast<const sockaddr*>(&storage), size);
}

TEST(Address, ComesBackFromTheKernel) {
  const Address ipv4 = bound(Address::ip("127.0.0.1", 0));
  EXPECT_EQ(ipv4, Address::ip("127.0.0.1", ipv4.port()));
  EXPECT_NE(ipv4.port(), 0);
  const Address name = Address::unix_path("\0ouro addresses_test "s + std::to_string(::getpid()) + "\0"s);
  EXPECT_EQ(bound(name), name);
  const Address chosen = bound(Address::unix_path(""));
  EXPECT_EQ(chosen.path().size(), 6U);  // an abstract name of five digits
  EXPECT_EQ(chosen.path().front(), '\0');
}

TEST(Address, ComesBackFromTheKernelAsAPath) {
  char folder[] = "/tmp/ouro_addresses_XXXXXX";
  ASSERT_NE(::mkdtemp(folder), nullptr);
  const std::string prefix = folder + "/"s;
  const std::string longest = prefix + std::string(107 - prefix.size(), 'x');
  for (const std::string& path : {prefix + "s", longest}) {
    EXPECT_EQ(bound(Address::unix_path(path)), Address::unix_path(path));
    EXPECT_EQ(::unlink(path.c_str()), 0);
  }
  // A path of 108 bytes, as other programs may bind it: there is no room for a NUL.
  sockaddr_un name{};
  name.sun_family = AF_UNIX;
  const std::string full = longest + "y";
  full.copy(name.sun_path, full.size());
  EXPECT_EQ(bound(from(name, sizeof name)).path(), full);
  EXPECT_EQ(::unlink(full.c_str()), 0);
  EXPECT_EQ(::rmdir(folder), 0);
}

TEST(Address, ComesBackFromTheKernelAsIPv6) {
  const detail::Fd socket(::socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (socket.get() < 0) GTEST_SKIP() << "this machine has no IPv6";
  const Address address = Address::ip("::1", 0);
  if (::bind(socket.get(), address.data(), static_cast<socklen_t>(address.size())) != 0) {
    GTEST_SKIP() << "loopback has no IPv6 address here";
  }
  const Address back = bound(address);
  EXPECT_EQ(back, Address::ip("::1", back.port()));
}

// ---- Compared ----

TEST(Address, HasAnOrder) {
  const std::vector<Address> ordered = {
      Address(),
      Address::unix_path(""),
      Address::unix_path("\0b"s),
      Address::unix_path("a"),
      Address::unix_path("b"),
      Address::ip("1.0.0.2", 1),
      Address::ip("1.0.0.2", 256),  // of larger bytes, were they compared as they lie
      Address::ip("2.0.0.1", 0),
      Address::ip("200.0.0.1", 0),
      Address::ip("::1", 9),
      Address::ip("::1", 256),
      Address::ip("fe80::1", 1),
      Address::ip("fe80::1", 1, 5),
      Address::ip("fe80::1%1", 1),
      Address::ip("fe80::1%256", 1),
  };
  for (std::size_t i = 0; i < ordered.size(); ++i) {
    for (std::size_t j = 0; j < ordered.size(); ++j) {
      EXPECT_EQ(ordered[i] <=> ordered[j], i <=> j) << ordered[i].str() << " and " << ordered[j].str();
      EXPECT_EQ(ordered[i] == ordered[j], i == j);
    }
  }
}

TEST(Address, IsAKey) {
  const std::unordered_set<Address> known = {Address::ip("127.0.0.1", 1), Address::ip("127.0.0.1", 2),
                                             Address::ip("::1", 1), Address::unix_path("a"), Address()};
  EXPECT_EQ(known.size(), 5U);
  EXPECT_TRUE(known.contains(Address::parse("[::1]:1")));
  EXPECT_FALSE(known.contains(Address::ip("127.0.0.1", 3)));
}

}  // namespace
}  // namespace ouro
