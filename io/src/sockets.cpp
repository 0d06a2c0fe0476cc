#include <ouro/io/sockets.hpp>

#include <poll.h>
#include <sys/socket.h>

#include <cerrno>
#include <utility>

#include <ouro/io/errors.hpp>

#include "fd.hpp"
#include "proactor.hpp"

namespace ouro {

namespace {

std::string named(int fd) { return "socket " + std::to_string(fd); }

sockaddr* as_sockaddr(sockaddr_storage& storage) noexcept { return reinterpret_cast<sockaddr*>(&storage); }

template <class F>
Address name_of(int fd, const char* operation, F get) {
  sockaddr_storage storage;
  socklen_t length = sizeof storage;
  if (get(fd, as_sockaddr(storage), &length) < 0) throw_os_error(errno, operation, named(fd));
  return Address::from_sockaddr(as_sockaddr(storage), length);
}

int option_of(int fd, int level, int option) {
  int value = 0;
  socklen_t length = sizeof value;
  if (::getsockopt(fd, level, option, &value, &length) < 0) throw_os_error(errno, "getsockopt", named(fd));
  return value;
}

void set_option(int fd, int level, int option, int value) {
  if (::setsockopt(fd, level, option, &value, sizeof value) < 0) throw_os_error(errno, "setsockopt", named(fd));
}

}  // namespace

Socket::Socket(int family, int type, int protocol) {
  const int fd = ::socket(family, type | SOCK_CLOEXEC, protocol);
  if (fd < 0) throw_os_error(errno, "socket", "");
  descriptor_ = detail::SharedDescriptor(fd);
}

Socket Socket::adopt(int fd) { return Socket(detail::SharedDescriptor(fd)); }

std::pair<Socket, Socket> Socket::pair(int type) {
  int both[2];
  if (::socketpair(AF_UNIX, type | SOCK_CLOEXEC, 0, both) < 0) throw_os_error(errno, "socketpair", "");
  detail::Fd second(both[1]);
  Socket one = adopt(both[0]);
  return {std::move(one), adopt(second.release())};
}

int Socket::family() const { return getsockopt(SOL_SOCKET, SO_DOMAIN); }
int Socket::type() const { return getsockopt(SOL_SOCKET, SO_TYPE); }

void Socket::bind(const Address& address) {
  if (::bind(fileno(), address.data(), static_cast<socklen_t>(address.size())) < 0)
    throw_os_error(errno, "bind", address.str());
}

void Socket::listen(int backlog) {
  if (::listen(fileno(), backlog) < 0) throw_os_error(errno, "listen", named(fileno()));
}

Address Socket::getsockname() const { return name_of(fileno(), "getsockname", ::getsockname); }
Address Socket::getpeername() const { return name_of(fileno(), "getpeername", ::getpeername); }

int Socket::getsockopt(int level, int option) const { return option_of(fileno(), level, option); }
void Socket::setsockopt(int level, int option, int value) { set_option(fileno(), level, option, value); }

void Socket::shutdown(int how) {
  if (::shutdown(fileno(), how) < 0) throw_os_error(errno, "shutdown", named(fileno()));
}

int TransportSocket::family() const { return option_of(fd_, SOL_SOCKET, SO_DOMAIN); }
int TransportSocket::type() const { return option_of(fd_, SOL_SOCKET, SO_TYPE); }
Address TransportSocket::getsockname() const { return name_of(fd_, "getsockname", ::getsockname); }
Address TransportSocket::getpeername() const { return name_of(fd_, "getpeername", ::getpeername); }
int TransportSocket::getsockopt(int level, int option) const { return option_of(fd_, level, option); }
void TransportSocket::setsockopt(int level, int option, int value) const { set_option(fd_, level, option, value); }

namespace detail {

SharedDescriptor::SharedDescriptor(int fd) {
  Fd owned(fd);
  if (fd < 0) return;
  shared_ = new Shared{{1}, fd};
  static_cast<void>(owned.release());
}

int SharedDescriptor::release() noexcept { return shared_ ? std::exchange(shared_->fd, -1) : -1; }

void SharedDescriptor::drop() noexcept {
  // Acquire and release, with each other: the last one comes after what all the others did.
  if (shared_->uses.fetch_sub(1, std::memory_order_acq_rel) != 1) return;
  Fd(shared_->fd).reset();
  delete shared_;
}

std::string SockWait::object() const { return named(fd()); }

// ---- accept ----

SockAccept::SockAccept(const BaseEventLoop& loop, const Socket& socket) noexcept
    : SockWait("sock_accept", loop, socket, POLLIN) {}

// A connection that came when nobody waited for it any more is closed with the object.
SockAccept::~SockAccept() {
  end();
  Fd(accepted_).reset();
}

void SockAccept::begin(Proactor& proactor) {
  length_ = sizeof address_;
  proactor.accept(operation(), fd(), as_sockaddr(address_), &length_, SOCK_CLOEXEC);
}

bool SockAccept::take(int result) noexcept {
  accepted_ = result;
  return true;
}

std::pair<Socket, Address> SockAccept::await_resume() {
  resume();
  Socket socket = Socket::adopt(std::exchange(accepted_, -1));
  return {std::move(socket), Address::from_sockaddr(as_sockaddr(address_), length_)};
}

// ---- connect ----

SockConnect::SockConnect(const BaseEventLoop& loop, const Socket& socket, const Address& address) noexcept
    : SockWait("sock_connect", loop, socket, POLLOUT), address_(address) {}

void SockConnect::begin(Proactor& proactor) {
  proactor.connect(operation(), fd(), address_.data(), static_cast<unsigned>(address_.size()));
}

// A socket in non-blocking mode has been connecting by itself. A unix socket that found the other's queue full has not.
int SockConnect::retry() noexcept {
  int error = 0;
  socklen_t length = sizeof error;
  if (::getsockopt(fd(), SOL_SOCKET, SO_ERROR, &error, &length) < 0) return -errno;
  if (error != 0) return -error;
  sockaddr_storage peer;
  length = sizeof peer;
  return ::getpeername(fd(), as_sockaddr(peer), &length) == 0 ? 0 : -ECONNREFUSED;
}

void SockConnect::await_resume() { resume(); }

std::string SockConnect::object() const { return address_.str(); }

// ---- receive ----

SockReceiveInto::SockReceiveInto(const BaseEventLoop& loop, const Socket& socket, std::span<std::byte> buffer) noexcept
    : SockWait("sock_recv_into", loop, socket, POLLIN), buffer_(buffer) {}

void SockReceiveInto::begin(Proactor& proactor) { proactor.receive(operation(), fd(), buffer_, 0); }

SockReceive::SockReceive(const BaseEventLoop& loop, const Socket& socket, std::size_t bytes)
    : SockWait("sock_recv", loop, socket, POLLIN), data_(bytes, '\0') {}

void SockReceive::begin(Proactor& proactor) {
  proactor.receive(operation(), fd(), std::as_writable_bytes(std::span(data_)), 0);
}

std::string SockReceive::await_resume() {
  data_.resize(static_cast<std::size_t>(resume()));
  return std::move(data_);
}

SockReceiveFromInto::SockReceiveFromInto(const BaseEventLoop& loop, const Socket& socket,
                                         std::span<std::byte> buffer) noexcept
    : SockWait("sock_recvfrom", loop, socket, POLLIN), buffer_(buffer) {}

void SockReceiveFromInto::begin(Proactor& proactor) {
  part_ = {.iov_base = buffer_.data(), .iov_len = buffer_.size()};
  message_ = msghdr{};
  message_.msg_name = &address_;
  message_.msg_namelen = sizeof address_;
  message_.msg_iov = &part_;
  message_.msg_iovlen = 1;
  proactor.receive_message(operation(), fd(), &message_, 0);
}

std::pair<std::size_t, Address> SockReceiveFromInto::await_resume() {
  const auto bytes = static_cast<std::size_t>(resume());
  return {bytes, Address::from_sockaddr(as_sockaddr(address_), message_.msg_namelen)};
}

SockReceiveFrom::SockReceiveFrom(const BaseEventLoop& loop, const Socket& socket, std::size_t bytes)
    : SockReceiveFromInto(loop, socket, {}), data_(bytes, '\0') {
  set_buffer(std::as_writable_bytes(std::span(data_)));
}

SockReceiveFrom::SockReceiveFrom(SockReceiveFrom&& other) noexcept
    : SockReceiveFromInto(std::move(other)), data_(std::move(other.data_)) {
  set_buffer(std::as_writable_bytes(std::span(data_)));  // a short string's own
}

std::pair<std::string, Address> SockReceiveFrom::await_resume() {
  auto [bytes, address] = SockReceiveFromInto::await_resume();
  data_.resize(bytes);
  return {std::move(data_), address};
}

// ---- send ----

SockSendAll::SockSendAll(const BaseEventLoop& loop, const Socket& socket, std::span<const std::byte> data) noexcept
    : SockWait("sock_sendall", loop, socket, POLLOUT), left_(data) {}

// MSG_WAITALL: newer kernels go on by themselves after a short send.
void SockSendAll::begin(Proactor& proactor) { proactor.send(operation(), fd(), left_, MSG_WAITALL); }

bool SockSendAll::take(int result) noexcept {
  left_ = left_.subspan(static_cast<std::size_t>(result));
  return left_.empty();
}

SockSendTo::SockSendTo(const BaseEventLoop& loop, const Socket& socket, std::span<const std::byte> data,
                       const Address& address) noexcept
    : SockWait("sock_sendto", loop, socket, POLLOUT), data_(data), address_(address) {}

void SockSendTo::begin(Proactor& proactor) {
  part_ = {.iov_base = const_cast<std::byte*>(data_.data()), .iov_len = data_.size()};
  message_ = msghdr{};
  message_.msg_name = const_cast<sockaddr*>(address_.data());
  message_.msg_namelen = static_cast<socklen_t>(address_.size());
  message_.msg_iov = &part_;
  message_.msg_iovlen = 1;
  // Where a unix socket's other side has no room the kernel would try again by itself, and then send an empty datagram
  // (Linux 6.18). So this does: in each turn, as poll(2) calls such a socket ready.
  proactor.send_message(operation(), fd(), &message_, MSG_DONTWAIT);
}

std::string SockSendTo::object() const { return address_.str(); }

}  // namespace detail
}  // namespace ouro
