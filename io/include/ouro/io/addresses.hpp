// Address: where a socket is, as one value for all families.
#pragma once

#include <compare>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

#include <ouro/runtime/config.hpp>

struct sockaddr;  // <sys/socket.h>, which a program needs for its constants only

namespace ouro {

// An IPv4 or IPv6 address with a port, or the name of a unix socket; or none. An address of any other family is kept as
// the kernel gave it.
//
// A plain value, which can be copied as bytes: it holds what the kernel reads, 112 bytes in all, for a unix name has up
// to 108. Nothing in it is allocated, and what many are kept of may ask the kernel instead.
// Threads: any.
class OURO_EXPORT Address {
 public:
  // No address: family 0 (AF_UNSPEC), size 0.
  constexpr Address() noexcept = default;

  // Of a host written in numbers, "127.0.0.1", "::1", "fe80::1%eth0"; names are for getaddrinfo. The scope behind the
  // percent sign is an interface's name or its number.
  // Throws: ValueError that names the text.
  static Address ip(std::string_view host, int port, std::uint32_t flow_info = 0);
  // What str() writes of such an address, "127.0.0.1:80", "[::1]:80", "[fe80::1%eth0]:80"; without a port, 0.
  // Throws: ValueError that names the text.
  static Address parse(std::string_view text);
  // Of a unix socket. A leading NUL makes it Linux's abstract name: every byte counts, and there is no file. The empty
  // one is the unnamed address; bind() replaces it by an abstract name of the kernel's choice.
  // Throws: ValueError for a path of more than 107 bytes or with a NUL in it, a name of more than 107 behind its NUL.
  static Address unix_path(std::string_view path);
  // What the kernel gave: `size` bytes, none where it had no address to give.
  // Throws: ValueError for a size that the family cannot have.
  static Address from_sockaddr(const ::sockaddr* data, std::size_t size);

  // What the kernel is given. Lifetime: this address's.
  const ::sockaddr* data() const noexcept { return reinterpret_cast<const ::sockaddr*>(bytes_); }
  std::size_t size() const noexcept { return size_; }

  // AF_INET, AF_INET6, AF_UNIX, ...
  int family() const noexcept;
  bool is_ipv4() const noexcept;
  bool is_ipv6() const noexcept;
  bool is_unix() const noexcept;
  // Only this machine reaches it: 127.0.0.0/8, also mapped into IPv6; ::1; a unix socket.
  bool is_loopback() const noexcept;
  explicit operator bool() const noexcept { return size_ != 0; }

  // Without a port, 0.
  std::uint16_t port() const noexcept;
  // The same host, another port. Throws: ValueError if it has no port, or for a port beyond 65535.
  Address with_port(int port) const;
  // The host in numbers, "127.0.0.1" or "fe80::1%2": the scope is a number here. Of others, "".
  std::string host() const;
  // IPv6 alone has them; of others, 0.
  std::uint32_t flow_info() const noexcept;
  std::uint32_t scope_id() const noexcept;
  // The unix path; an abstract name with its leading NUL. Of the unnamed address, and of others, "".
  std::string path() const;

  // "127.0.0.1:80", "[fe80::1%2]:80", a unix path, "\x00name" of an abstract one; of the unnamed address, and of none,
  // "". Of another family "family 16, 12 bytes".
  std::string str() const;

  // By family, then address, then port, scope and flow; unix names byte by byte.
  friend OURO_EXPORT std::strong_ordering operator<=>(const Address& a, const Address& b) noexcept;
  friend OURO_EXPORT bool operator==(const Address& a, const Address& b) noexcept;

  std::size_t hash() const noexcept;

 private:
  alignas(4) unsigned char bytes_[110] = {};  // a sockaddr; what is beyond its size is zero
  std::uint16_t size_ = 0;
};

}  // namespace ouro

template <>
struct std::hash<ouro::Address> {
  std::size_t operator()(const ouro::Address& address) const noexcept { return address.hash(); }
};
