// Addresses: text, bytes, and what the kernel's sizes mean.
//
// Every address is stored in one form: fields that mean nothing are zero, a unix path ends with a NUL if there is room,
// and so two addresses are the same exactly if their bytes are.
#include <ouro/io/addresses.hpp>

#include <arpa/inet.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <algorithm>
#include <charconv>
#include <cstring>
#include <system_error>
#include <type_traits>

#include <ouro/runtime/exceptions.hpp>

namespace ouro {
namespace {

constexpr std::size_t path_at = offsetof(sockaddr_un, sun_path);
constexpr std::size_t path_room = sizeof(sockaddr_un::sun_path);

static_assert(sizeof(Address) == 112 && std::is_trivially_copyable_v<Address>);
static_assert(sizeof(sockaddr_un) == 110 && sizeof(sockaddr_in6) < 110);

template <class Sockaddr>
Sockaddr as(const Address& address) noexcept {
  Sockaddr found;
  std::memcpy(&found, address.data(), sizeof found);
  return found;
}

// With its bytes shown where they are not text.
std::string escaped(std::string_view bytes) {
  constexpr char digits[] = "0123456789abcdef";
  std::string text;
  for (const char character : bytes) {
    const auto byte = static_cast<unsigned char>(character);
    if (character == '\\') {
      text += "\\\\";
    } else if (byte >= 0x20 && byte != 0x7f) {
      text += character;
    } else {
      text += "\\x";
      text += digits[byte >> 4];
      text += digits[byte & 15];
    }
  }
  return text;
}

[[noreturn, gnu::cold]] void refuse(std::string_view text, const std::string& why) {
  throw ValueError("'" + escaped(text) + "' is no address: " + why);
}

// All of `text` as a number.
bool read_number(std::string_view text, std::uint32_t& number) noexcept {
  const char* const end = text.data() + text.size();
  const auto [stopped, error] = std::from_chars(text.data(), end, number);
  return error == std::errc() && stopped == end;
}

std::uint16_t checked_port(int port) {
  if (port < 0 || port > 65535) throw ValueError("port " + std::to_string(port) + " is not in 0..65535");
  return static_cast<std::uint16_t>(port);
}

// inet_pton reads to a NUL: the text must have none of its own.
template <class Address>
bool read_host(int family, std::string_view text, Address& into) noexcept {
  char copy[INET6_ADDRSTRLEN];
  if (text.size() >= sizeof copy || text.find('\0') != std::string_view::npos) return false;
  copy[text.copy(copy, text.size())] = '\0';
  return ::inet_pton(family, copy, &into) == 1;
}

std::uint32_t read_scope(std::string_view host, std::string_view scope) {
  std::uint32_t number = 0;
  if (read_number(scope, number)) return number;
  char name[IF_NAMESIZE];
  if (!scope.empty() && scope.size() < sizeof name && scope.find('\0') == std::string_view::npos) {
    name[scope.copy(name, scope.size())] = '\0';
    number = ::if_nametoindex(name);
  }
  if (number == 0) refuse(host, "there is no network interface '" + escaped(scope) + "'");
  return number;
}

// By value, in the order of the numbers.
template <class T>
std::strong_ordering compare_bytes(const T& a, const T& b) noexcept {
  return std::memcmp(&a, &b, sizeof a) <=> 0;
}

std::strong_ordering compare_ipv4(const sockaddr_in& a, const sockaddr_in& b) noexcept {
  if (const auto order = compare_bytes(a.sin_addr, b.sin_addr); order != 0) return order;
  return ntohs(a.sin_port) <=> ntohs(b.sin_port);
}

std::strong_ordering compare_ipv6(const sockaddr_in6& a, const sockaddr_in6& b) noexcept {
  if (const auto order = compare_bytes(a.sin6_addr, b.sin6_addr); order != 0) return order;
  if (const auto order = ntohs(a.sin6_port) <=> ntohs(b.sin6_port); order != 0) return order;
  if (const auto order = a.sin6_scope_id <=> b.sin6_scope_id; order != 0) return order;
  return ntohl(a.sin6_flowinfo) <=> ntohl(b.sin6_flowinfo);
}

std::string_view bytes_of(const Address& address) noexcept {
  return {reinterpret_cast<const char*>(address.data()), address.size()};
}

}  // namespace

// ---- Made ----

Address Address::ip(std::string_view host, int port, std::uint32_t flow_info) {
  sockaddr_in ipv4{};
  ipv4.sin_family = AF_INET;
  ipv4.sin_port = htons(checked_port(port));
  if (read_host(AF_INET, host, ipv4.sin_addr)) {
    if (flow_info != 0) refuse(host, "flow information is of IPv6 alone");
    return from_sockaddr(reinterpret_cast<const sockaddr*>(&ipv4), sizeof ipv4);
  }
  sockaddr_in6 ipv6{};
  ipv6.sin6_family = AF_INET6;
  ipv6.sin6_port = ipv4.sin_port;
  ipv6.sin6_flowinfo = htonl(flow_info);
  const std::size_t percent = host.find('%');
  if (!read_host(AF_INET6, host.substr(0, percent), ipv6.sin6_addr)) {
    refuse(host, "it must be numeric, as 127.0.0.1 or ::1; getaddrinfo() finds the address of a name");
  }
  if (percent != std::string_view::npos) ipv6.sin6_scope_id = read_scope(host, host.substr(percent + 1));
  return from_sockaddr(reinterpret_cast<const sockaddr*>(&ipv6), sizeof ipv6);
}

Address Address::parse(std::string_view text) {
  std::string_view host = text;
  std::string_view port;
  bool has_port = false;
  if (text.starts_with('[')) {
    const std::size_t end = text.find(']');
    if (end == std::string_view::npos) refuse(text, "the bracket is not closed");
    host = text.substr(1, end - 1);
    if (host.find(':') == std::string_view::npos) refuse(text, "only IPv6 stands in brackets");
    port = text.substr(end + 1);
    has_port = !port.empty();
    if (has_port && port.front() != ':') refuse(text, "what follows the bracket is no port");
    if (has_port) port.remove_prefix(1);
  } else if (const std::size_t colon = text.find(':');
             colon != std::string_view::npos && text.find(':', colon + 1) == std::string_view::npos) {
    host = text.substr(0, colon);  // a single colon: no IPv6 address has that
    port = text.substr(colon + 1);
    has_port = true;
  }
  std::uint32_t number = 0;
  if (has_port && (!read_number(port, number) || number > 65535)) refuse(text, "the port is not in 0..65535");
  return ip(host, static_cast<int>(number));
}

Address Address::unix_path(std::string_view path) {
  const bool abstract = path.starts_with('\0');
  if (!abstract && path.find('\0') != std::string_view::npos) refuse(path, "a path has no NUL in it");
  // A path keeps its closing NUL: there are programs that need it.
  if (path.size() > (abstract ? path_room : path_room - 1)) {
    refuse(path, "the name of a unix socket has at most 107 bytes, this one " + std::to_string(path.size() - abstract) +
                     "; use a shorter directory, or a relative path");
  }
  sockaddr_un name{};
  name.sun_family = AF_UNIX;
  path.copy(name.sun_path, path.size());
  return from_sockaddr(reinterpret_cast<const sockaddr*>(&name), path_at + path.size());
}

Address Address::from_sockaddr(const sockaddr* data, std::size_t size) {
  Address address;
  if (size == 0) return address;
  // The kernel counts the NUL behind a path that leaves no room for it, and so gives one more than there are.
  const std::size_t held = std::min(size, sizeof address.bytes_);
  if (held >= sizeof(sa_family_t)) std::memcpy(address.bytes_, data, held);
  const int family = held >= sizeof(sa_family_t) ? address.family() : AF_UNSPEC;
  bool right = size >= sizeof(sa_family_t) && size <= sizeof address.bytes_;
  std::size_t kept = held;
  if (family == AF_INET) {
    right = size >= sizeof(sockaddr_in);
    kept = sizeof(sockaddr_in);
    std::memset(address.bytes_ + offsetof(sockaddr_in, sin_zero), 0, sizeof(sockaddr_in::sin_zero));
  } else if (family == AF_INET6) {
    right = size >= sizeof(sockaddr_in6);
    kept = sizeof(sockaddr_in6);
  } else if (family == AF_UNIX) {
    right = right || size == sizeof(sockaddr_un) + 1;
    const auto* const path = reinterpret_cast<const char*>(address.bytes_) + path_at;
    if (held > path_at && path[0] != '\0') {
      kept = std::min(path_at + ::strnlen(path, held - path_at) + 1, sizeof(sockaddr_un));
    }
  }
  if (!right) {
    throw ValueError("an address of family " + std::to_string(family) + " does not have " + std::to_string(size) +
                     " bytes");
  }
  if (kept < sizeof address.bytes_) std::memset(address.bytes_ + kept, 0, sizeof address.bytes_ - kept);
  address.size_ = static_cast<std::uint16_t>(kept);
  return address;
}

Address Address::with_port(int port) const {
  const std::uint16_t number = htons(checked_port(port));
  if (!is_ipv4() && !is_ipv6()) throw ValueError("an address without a port cannot be given one: '" + str() + "'");
  Address other = *this;
  static_assert(offsetof(sockaddr_in, sin_port) == offsetof(sockaddr_in6, sin6_port));
  std::memcpy(other.bytes_ + offsetof(sockaddr_in, sin_port), &number, sizeof number);
  return other;
}

// ---- Asked ----

int Address::family() const noexcept {
  sa_family_t family = AF_UNSPEC;
  std::memcpy(&family, bytes_, sizeof family);
  return family;
}

bool Address::is_ipv4() const noexcept { return family() == AF_INET; }
bool Address::is_ipv6() const noexcept { return family() == AF_INET6; }
bool Address::is_unix() const noexcept { return family() == AF_UNIX; }

bool Address::is_loopback() const noexcept {
  if (is_ipv4()) return ntohl(as<sockaddr_in>(*this).sin_addr.s_addr) >> 24 == 127;
  if (!is_ipv6()) return is_unix();
  const in6_addr host = as<sockaddr_in6>(*this).sin6_addr;
  if (IN6_IS_ADDR_V4MAPPED(&host)) return host.s6_addr[12] == 127;
  return IN6_IS_ADDR_LOOPBACK(&host);
}

std::uint16_t Address::port() const noexcept {
  if (!is_ipv4() && !is_ipv6()) return 0;
  return ntohs(as<sockaddr_in>(*this).sin_port);  // it lies at the same place in both
}

std::string Address::host() const {
  char text[INET6_ADDRSTRLEN] = {};
  if (is_ipv4()) {
    const in_addr host = as<sockaddr_in>(*this).sin_addr;
    return ::inet_ntop(AF_INET, &host, text, sizeof text);
  }
  if (!is_ipv6()) return {};
  const auto ipv6 = as<sockaddr_in6>(*this);
  std::string host = ::inet_ntop(AF_INET6, &ipv6.sin6_addr, text, sizeof text);
  if (ipv6.sin6_scope_id != 0) host.append("%").append(std::to_string(ipv6.sin6_scope_id));
  return host;
}

std::uint32_t Address::flow_info() const noexcept {
  return is_ipv6() ? ntohl(as<sockaddr_in6>(*this).sin6_flowinfo) : 0;
}

std::uint32_t Address::scope_id() const noexcept { return is_ipv6() ? as<sockaddr_in6>(*this).sin6_scope_id : 0; }

std::string Address::path() const {
  if (!is_unix()) return {};
  std::string_view path = bytes_of(*this).substr(path_at);
  if (!path.starts_with('\0')) path = path.substr(0, path.find('\0'));
  return std::string(path);
}

std::string Address::str() const {
  if (is_ipv4()) return host() + ":" + std::to_string(port());
  if (is_ipv6()) return std::string("[").append(host()).append("]:").append(std::to_string(port()));
  if (is_unix()) {
    std::string path = this->path();
    return path.starts_with('\0') ? escaped(path) : path;
  }
  if (size_ == 0) return {};
  return "family " + std::to_string(family()) + ", " + std::to_string(size_) + " bytes";
}

// ---- Compared ----

bool operator==(const Address& a, const Address& b) noexcept { return bytes_of(a) == bytes_of(b); }

std::strong_ordering operator<=>(const Address& a, const Address& b) noexcept {
  if (const auto order = a.family() <=> b.family(); order != 0) return order;
  if (a.is_ipv4()) return compare_ipv4(as<sockaddr_in>(a), as<sockaddr_in>(b));
  if (a.is_ipv6()) return compare_ipv6(as<sockaddr_in6>(a), as<sockaddr_in6>(b));
  return bytes_of(a) <=> bytes_of(b);
}

std::size_t Address::hash() const noexcept { return std::hash<std::string_view>()(bytes_of(*this)); }

}  // namespace ouro
