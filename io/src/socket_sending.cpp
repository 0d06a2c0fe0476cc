// The half of a transport that sends: socket_transport.cpp says how it works.
#include <sys/socket.h>
#include <sys/uio.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <string>
#include <utility>

#include <ouro/io/event_loop.hpp>
#include <ouro/runtime/exceptions.hpp>

#include "network.hpp"
#include "proactor.hpp"
#include "send_queue.hpp"
#include "server_state.hpp"
#include "socket_transport.hpp"

namespace ouro::detail {

namespace {

constexpr std::uint8_t drops_reported = 5;
// What is written inside a callback, and is not larger, waits for the end of the turn; what is not small only while all
// transports together have not more waiting.
constexpr std::size_t soon_max = 64 * 1024;
constexpr std::size_t queued_max = 4 * 1024 * 1024;

}  // namespace

// True if nobody wants it any more.
bool SocketTransport::drop_write() {
  if (OURO_UNLIKELY(is_lost()) && !is_here()) return true;
  if (OURO_UNLIKELY(eof_written_)) throw RuntimeError("Cannot call write() after write_eof()");
  if (OURO_LIKELY(!is_closing())) return false;
  if (dropped_writes_ < drops_reported && ++dropped_writes_ == drops_reported) {
    report("socket.send() raised exception: a connection that is closed is written to again and again.", nullptr);
  }
  return true;
}

void SocketTransport::write(std::span<const std::byte> data) {
  if (OURO_UNLIKELY(is_elsewhere())) {
    std::string copy(reinterpret_cast<const char*>(data.data()), data.size());
    return do_there([copy = std::move(copy)](SocketTransport& self) { self.write(std::string_view(copy)); });
  }
  if (OURO_UNLIKELY(drop_write()) || data.empty()) return;
  Network::Cork& cork = network_.cork;
  if (cork.owner == this) {
    const bool fits = data.size() <= Network::Cork::size / 4;
    const bool full = data.size() > Network::Cork::size - cork.used;
    if (full || !fits) queue_cork();
    if (is_closing()) return;
    if (fits) {
      if (!cork.data) cork.data = std::make_unique_for_overwrite<std::byte[]>(Network::Cork::size);
      std::memcpy(cork.data.get() + cork.used, data.data(), data.size());
      cork.used += data.size();
      if (full) start_sending();
      return;
    }
  }
  if (cork.owner && may_wait(data.size())) return send_soon(data);
  send(data);
}

// Not in the child of a fork(), which has no loop that would send it, nor where no loop runs yet.
bool SocketTransport::may_wait(std::size_t bytes) const noexcept {
  return is_here() && bytes <= soon_max && (bytes <= Network::Cork::size / 4 || network_.queued < queued_max);
}

void SocketTransport::write_soon(std::span<const std::byte> data) {
  if (is_elsewhere()) return write(data);
  if (OURO_UNLIKELY(drop_write()) || data.empty()) return;
  if (network_.cork.owner == this) return write(data);
  may_wait(data.size()) ? send_soon(data) : send(data);
}

// The request reaches the kernel with all others of this turn.
void SocketTransport::send_soon(std::span<const std::byte> data) {
  enqueue(data);
  if (!aborted_) start_sending();
}

void SocketTransport::writelines(std::span<const std::span<const std::byte>> pieces) {
  if (OURO_UNLIKELY(is_elsewhere())) {
    std::string copy;
    for (const auto piece : pieces) copy.append(reinterpret_cast<const char*>(piece.data()), piece.size());
    return do_there([copy = std::move(copy)](SocketTransport& self) { self.write(std::string_view(copy)); });
  }
  if (OURO_UNLIKELY(drop_write())) return;
  if (network_.cork.owner == this) queue_cork();
  std::size_t sent = 0;
  if (!queue_ && !is_closing()) {
    std::array<iovec, 64> parts;
    msghdr message{};
    message.msg_iov = parts.data();
    for (const auto piece : pieces) {
      if (message.msg_iovlen == parts.size()) break;
      if (!piece.empty()) parts[message.msg_iovlen++] = {const_cast<std::byte*>(piece.data()), piece.size()};
    }
    if (message.msg_iovlen == 0) return;
    const ssize_t bytes = ::sendmsg(fd_.get(), &message, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (bytes < 0 && errno != EAGAIN && errno != EINTR) {
      return fail("Fatal write error on socket transport", "send", errno);
    }
    sent = bytes < 0 ? 0 : static_cast<std::size_t>(bytes);
  }
  if (is_closing()) return;
  for (const auto piece : pieces) {
    const std::size_t here = std::min(sent, piece.size());
    sent -= here;
    if (here != piece.size()) enqueue(piece.subspan(here));
    if (aborted_) return;
  }
  if (queue_) start_sending();
}

// Calls no protocol. What is queued is to be sent: start_sending().
void SocketTransport::queue_cork() {
  const std::size_t used = std::exchange(network_.cork.used, 0);
  if (used != 0 && !aborted_) enqueue(std::span(network_.cork.data.get(), used));
}

// pause_writing() may write into it anew.
void SocketTransport::flush_cork() {
  while (network_.cork.used != 0) {
    queue_cork();
    if (aborted_) return;
    start_sending();
  }
}

// Sends what the kernel takes at once, and leaves the rest to the queue.
void SocketTransport::send(std::span<const std::byte> data) {
  if (OURO_LIKELY(!queue_)) {
    const ssize_t bytes = ::send(fd_.get(), data.data(), data.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
    if (OURO_LIKELY(bytes == static_cast<ssize_t>(data.size()))) return;
    if (bytes < 0 && errno != EAGAIN && errno != EINTR) {
      return fail("Fatal write error on socket transport", "send", errno);
    }
    if (bytes > 0) data = data.subspan(static_cast<std::size_t>(bytes));
  }
  enqueue(data);
  if (!aborted_) start_sending();
}

// Without memory the transport fails: what came before may have been sent, what comes after must not be.
void SocketTransport::enqueue(std::span<const std::byte> data) {
  try {
    const bool lends = !queue_ && data.size() > Network::Cork::size / 4;
    if (!queue_) queue_ = std::make_unique<SendQueue>(*this, network_);
    // Who has not taken what it was sent before gets copies.
    if (!lends || !queue_->append_given(data)) queue_->append(data);
  } catch (const std::bad_alloc&) {
    // Closed first: what an exception handler writes must not follow a gap.
    const std::exception_ptr error = std::current_exception();
    force_close(error);
    report("Fatal write error on socket transport", error);
  }
}

void SocketTransport::start_sending() {
  try {
    queue_->start(network_.proactor, fd_.get());
  } catch (...) {
    return fail("Fatal write error on socket transport", std::current_exception());
  }
  check_high_water();
}

void SocketTransport::sent(int error) noexcept {
  const bool goes_on = error == 0 || error == EAGAIN || error == EINTR;
  if (!goes_on && error != ECANCELED) write_error_ = error;
  if (is_lost()) return;
  if (goes_on && !aborted_ && !queue_->empty()) {
    try {
      queue_->start(network_.proactor, fd_.get());
    } catch (...) {
      write_error_ = ENOMEM;
    }
  }
  raise();
}

std::size_t SocketTransport::get_write_buffer_size() const noexcept {
  if (is_lost()) return 0;
  return (queue_ ? queue_->bytes() : 0) + (network_.cork.owner == this ? network_.cork.used : 0);
}

void SocketTransport::set_write_buffer_limits(WriteBufferLimits limits) {
  if (limits.low > limits.high) {
    throw ValueError("high (" + std::to_string(limits.high) + ") must be >= low (" + std::to_string(limits.low) + ")");
  }
  low_ = limits.low;
  high_ = limits.high;
  check_high_water();
}

void SocketTransport::check_high_water() {
  if (writing_paused_ || !protocol_ || get_write_buffer_size() <= high_) return;
  writing_paused_ = true;
  call_and_report("protocol.pause_writing() failed", [this] { protocol_->pause_writing(); });
}

void SocketTransport::write_eof() {
  if (is_elsewhere()) return do_there([](SocketTransport& self) { self.write_eof(); });
  if (is_closing() || eof_written_) return;
  if (network_.cork.owner == this) flush_cork();
  eof_written_ = true;
  if (queue_ || is_closing()) return;
  shut_ = true;
  ::shutdown(fd_.get(), SHUT_WR);
}

}  // namespace ouro::detail
