// The half of an endpoint that sends: datagram_endpoint.cpp says how it works.
#include <poll.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <string>
#include <utility>

#include <ouro/io/event_loop.hpp>
#include <ouro/runtime/exceptions.hpp>

#include "datagram_endpoint.hpp"
#include "network.hpp"
#include "proactor.hpp"

namespace ouro::detail {

namespace {

constexpr std::uint8_t drops_reported = 5;
constexpr std::chrono::microseconds shortest_rest{50};
constexpr unsigned doublings = 8;  // to 12.8 ms

bool finds_no_room(int error) noexcept { return error == EAGAIN || error == EINTR; }

// What ICMP says.
bool is_heard_of_others(int error) noexcept {
  switch (error) {
    case ECONNREFUSED:
    case EHOSTUNREACH:
    case EHOSTDOWN:
    case ENETUNREACH:
    case ENOPROTOOPT:
    case EPROTO:
      return true;
    default:
      return false;
  }
}

}  // namespace

const Address* DatagramEndpoint::checked(const Address* to) const {
  if (!to || !*to) {
    if (!usual_) throw ValueError("sendto: without a remote address of the endpoint's it needs one");
    return &usual_;
  }
  if (usual_ && *to != usual_) {
    std::string text = "sendto: invalid address: must be none, or ";
    throw ValueError(text.append(usual_.str()));
  }
  return to;
}

// True if nobody wants it any more.
bool DatagramEndpoint::drop_send() {
  if (OURO_UNLIKELY(is_lost()) && !is_here()) return true;
  if (OURO_LIKELY(!is_closing())) return false;
  if (dropped_ < drops_reported && ++dropped_ == drops_reported) {
    report("socket.send() raised exception: an endpoint that is closed is sent to again and again.", nullptr);
  }
  return true;
}

void DatagramEndpoint::sendto(std::span<const std::byte> data, const Address* to) {
  to = checked(to);
  if (OURO_UNLIKELY(is_elsewhere())) {
    std::string copy(reinterpret_cast<const char*>(data.data()), data.size());
    return do_there([copy = std::move(copy), there = *to](DatagramEndpoint& self) { self.sendto(copy, &there); });
  }
  if (OURO_UNLIKELY(drop_send())) return;
  if (OURO_LIKELY(queue_.empty())) {
    const int error = send_or_hear(data, *to);
    if (OURO_LIKELY(error == 0)) return;
    if (!finds_no_room(error)) return refused(error, *to);
  }
  enqueue(data, *to);
}

// 0, or why not.
int DatagramEndpoint::send_now(std::span<const std::byte> data, const Address& to) noexcept {
  iovec part{const_cast<std::byte*>(data.data()), data.size()};
  msghdr message{};
  if (!connected_) {
    message.msg_name = const_cast<sockaddr*>(to.data());
    message.msg_namelen = static_cast<socklen_t>(to.size());
  }
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  return ::sendmsg(fd_.get(), &message, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 ? errno : 0;
}

// What a connected socket has heard of an earlier datagram, by ICMP, it says when the next one is sent, which it does
// not send then (udp(7)).
int DatagramEndpoint::send_or_hear(std::span<const std::byte> data, const Address& to) {
  const int error = send_now(data, to);
  if (OURO_LIKELY(error == 0) || !connected_ || !internet_ || !is_heard_of_others(error)) return error;
  refused(error, to);
  return send_now(data, to);
}

void DatagramEndpoint::refused(int error, const Address& to) {
  std::exception_ptr exception = os_error("sendto", error, to);
  if (is_fault_of_socket(error)) return fail("Fatal write error on datagram transport", std::move(exception));
  errors_.push_back(std::move(exception));
  raise();
}

void DatagramEndpoint::enqueue(std::span<const std::byte> data, const Address& to) {
  queue_.push_back({std::string(reinterpret_cast<const char*>(data.data()), data.size()), to});
  queued_bytes_ += data.size() + overhead;
  if (queue_.size() == 1) wait_for_room(false);
  if (!aborted_) check_high_water();
}

// As many as a turn allows.
void DatagramEndpoint::send_queued() {
  if (OURO_UNLIKELY(aborted_)) {
    queue_.clear();
    queued_bytes_ = 0;
  }
  for (unsigned left = datagrams_a_turn; !queue_.empty() && !blocked_ && !aborted_; --left) {
    if (left == 0) return raise();
    const Queued& first = queue_.front();
    const int error = send_or_hear(std::as_bytes(std::span(first.data)), first.to);
    if (finds_no_room(error)) return wait_for_room(left == datagrams_a_turn);
    rests_ = 0;
    const Address to = first.to;
    queued_bytes_ -= first.data.size() + overhead;
    queue_.pop_front();
    if (OURO_UNLIKELY(error != 0)) refused(error, to);
  }
}

// `ready_for_nothing`: poll(2) has called it ready, and nothing could be sent.
void DatagramEndpoint::wait_for_room(bool ready_for_nothing) {
  try {
    if (ready_for_nothing) {
      timer_ = loop_.call_later(shortest_rest * (1 << std::min(rests_, doublings)), [this] { try_again(); });
      ++rests_;
    } else {
      network_.proactor.poll_add(room_, fd_.get(), POLLOUT);
    }
    blocked_ = true;
  } catch (...) {
    fail("Fatal write error on datagram transport", std::current_exception());
  }
}

void DatagramEndpoint::try_again() noexcept {
  blocked_ = false;
  if (!is_lost()) raise();
}

void DatagramEndpoint::set_write_buffer_limits(WriteBufferLimits limits) {
  if (limits.low > limits.high) {
    throw ValueError("high (" + std::to_string(limits.high) + ") must be >= low (" + std::to_string(limits.low) + ")");
  }
  low_ = limits.low;
  high_ = limits.high;
  check_high_water();
}

void DatagramEndpoint::check_high_water() {
  if (writing_paused_ || !protocol_ || queued_bytes_ <= high_) return;
  writing_paused_ = true;
  call_and_report("protocol.pause_writing() failed", [this] { protocol_->pause_writing(); });
}

// Whether what was queued has been sent, or refused.
void DatagramEndpoint::check_low_water() {
  if (OURO_LIKELY(!writing_paused_) || aborted_ || queued_bytes_ > low_) return;
  writing_paused_ = false;
  call_and_report("protocol.resume_writing() failed", [this] { protocol_->resume_writing(); });
}

}  // namespace ouro::detail
