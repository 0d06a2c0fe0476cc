// getaddrinfo and getnameinfo: names and addresses, looked up beside the loop, and their error.
//
// The constants are the system's: AF_*, SOCK_* in <sys/socket.h>, AI_*, NI_*, EAI_* in <netdb.h>. 0 asks for no
// restriction.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include <ouro/io/addresses.hpp>
#include <ouro/io/errors.hpp>
#include <ouro/runtime/base_event_loop.hpp>
#include <ouro/runtime/config.hpp>
#include <ouro/runtime/futures.hpp>

namespace ouro {

// One way to reach a host: what socket() is called with, and the address.
struct AddressInfo {
  int family = 0;
  int type = 0;
  int protocol = 0;
  std::string canonname;  // of the first, if AI_CANONNAME asked for it
  Address address;

  friend bool operator==(const AddressInfo&, const AddressInfo&) = default;
};

struct AddressInfoOptions {
  int family = 0;    // AF_INET, AF_INET6
  int type = 0;      // SOCK_STREAM, SOCK_DGRAM; without it each address comes once for each
  int protocol = 0;  // IPPROTO_TCP, ...
  int flags = 0;     // AI_PASSIVE, AI_CANONNAME, ...
};

struct NameInfo {
  std::string host;
  std::string service;

  friend bool operator==(const NameInfo&, const NameInfo&) = default;
};

// A lookup failed. what() reads "getaddrinfo nowhere.example:80: Name or service not known"; errno_value() is the EAI_*
// number, object() the host and service, hint() what to do about it.
class OURO_EXPORT gaierror : public OSError {
 public:
  gaierror(int error, std::string_view operation, std::string_view object);
};

// The addresses of a host, in the order in which they should be tried. An empty host is none: with AI_PASSIVE the
// address of all interfaces, else loopback. The service is a name, "http", or a number; an empty one is port 0.
//
// The lookup is the system's, on a thread of the running loop's default executor; a host in numbers beside a port in
// numbers is answered at once. In debug mode one that takes slow_callback_duration is reported.
// Throws: the future gaierror, or OSError where the system failed; the call itself ValueError for a port beyond 65535
// and for a NUL, RuntimeError without a running loop or if its executor is shut down.
// If cancelled: a lookup that has begun goes on on its thread, and its result is dropped.
[[nodiscard]] OURO_EXPORT Future<std::vector<AddressInfo>> getaddrinfo(std::string_view host, std::string_view service,
                                                                       AddressInfoOptions options = {});
[[nodiscard]] OURO_EXPORT Future<std::vector<AddressInfo>> getaddrinfo(std::string_view host, int port,
                                                                       AddressInfoOptions options = {});

// The name of an IPv4 or IPv6 address, and that of its port's service. What has no name is given in numbers, unless
// NI_NAMEREQD is among the flags; with NI_NUMERICHOST and NI_NUMERICSERV there is nothing to look up.
// Throws, If cancelled: as getaddrinfo.
[[nodiscard]] OURO_EXPORT Future<NameInfo> getnameinfo(const Address& address, int flags = 0);

namespace detail {

Future<std::vector<AddressInfo>> look_up(BaseEventLoop& loop, std::string_view host, std::string_view service,
                                         const AddressInfoOptions& options);
Future<std::vector<AddressInfo>> look_up(BaseEventLoop& loop, std::string_view host, int port,
                                         const AddressInfoOptions& options);
Future<NameInfo> look_up_name(BaseEventLoop& loop, const Address& address, int flags);

}  // namespace detail
}  // namespace ouro
