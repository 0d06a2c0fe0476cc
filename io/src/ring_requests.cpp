// The requests of operations, each an SQE.
#include <liburing.h>
#include <sys/socket.h>

#include <algorithm>
#include <cstddef>

#include "ring.hpp"

namespace ouro::detail {

void Ring::nop(std::uint64_t user_data) {
  io_uring_sqe& sqe = operation_sqe();
  ::io_uring_prep_nop(&sqe);
  sqe.user_data = user_data;
}

void Ring::poll_add(std::uint64_t user_data, int fd, unsigned mask) {
  io_uring_sqe& sqe = operation_sqe();
  ::io_uring_prep_poll_add(&sqe, fd, mask);
  sqe.user_data = user_data;
}

namespace {

// As read(2) and send(2): more is never transferred at once.
unsigned at_most(std::size_t bytes) noexcept { return static_cast<unsigned>(std::min(bytes, std::size_t{0x7ffff000})); }

}  // namespace

void Ring::read(std::uint64_t user_data, int fd, std::span<std::byte> buffer, std::uint64_t offset) {
  io_uring_sqe& sqe = operation_sqe();
  ::io_uring_prep_read(&sqe, fd, buffer.data(), at_most(buffer.size()), offset);
  sqe.user_data = user_data;
}

void Ring::accept(std::uint64_t user_data, int fd, sockaddr* address, unsigned* length, int flags) {
  io_uring_sqe& sqe = operation_sqe();
  ::io_uring_prep_accept(&sqe, fd, address, length, flags);
  sqe.user_data = user_data;
}

void Ring::connect(std::uint64_t user_data, int fd, const sockaddr* address, unsigned length) {
  io_uring_sqe& sqe = operation_sqe();
  ::io_uring_prep_connect(&sqe, fd, address, length);
  sqe.user_data = user_data;
}

void Ring::receive(std::uint64_t user_data, int fd, std::span<std::byte> buffer, int flags) {
  io_uring_sqe& sqe = operation_sqe();
  ::io_uring_prep_recv(&sqe, fd, buffer.data(), at_most(buffer.size()), flags);
  sqe.user_data = user_data;
}

void Ring::send(std::uint64_t user_data, int fd, std::span<const std::byte> data, int flags) {
  io_uring_sqe& sqe = operation_sqe();
  ::io_uring_prep_send(&sqe, fd, data.data(), at_most(data.size()), flags | MSG_NOSIGNAL);
  sqe.user_data = user_data;
}

void Ring::receive_message(std::uint64_t user_data, int fd, msghdr* message, int flags) {
  io_uring_sqe& sqe = operation_sqe();
  ::io_uring_prep_recvmsg(&sqe, fd, message, static_cast<unsigned>(flags));
  sqe.user_data = user_data;
}

void Ring::send_message(std::uint64_t user_data, int fd, const msghdr* message, int flags) {
  io_uring_sqe& sqe = operation_sqe();
  ::io_uring_prep_sendmsg(&sqe, fd, message, static_cast<unsigned>(flags | MSG_NOSIGNAL));
  sqe.user_data = user_data;
}

void Ring::accept_multishot(std::uint64_t user_data, int fd, int flags) {
  io_uring_sqe& sqe = operation_sqe();
  ::io_uring_prep_multishot_accept(&sqe, fd, nullptr, nullptr, flags);
  sqe.user_data = user_data;
}

void Ring::receive_multishot(std::uint64_t user_data, int fd, unsigned short group) {
  io_uring_sqe& sqe = operation_sqe();
  ::io_uring_prep_recv_multishot(&sqe, fd, nullptr, 0, 0);
  sqe.flags |= IOSQE_BUFFER_SELECT;
  sqe.buf_group = group;
  sqe.user_data = user_data;
}

void Ring::receive_message_multishot(std::uint64_t user_data, int fd, msghdr* message, unsigned short group) {
  io_uring_sqe& sqe = operation_sqe();
  ::io_uring_prep_recvmsg_multishot(&sqe, fd, message, 0);
  sqe.flags |= IOSQE_BUFFER_SELECT;
  sqe.buf_group = group;
  sqe.user_data = user_data;
}

}  // namespace ouro::detail
