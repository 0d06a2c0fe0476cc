// An endpoint's life is that of a stream transport (socket_transport.cpp): open, closing, lost. Completions only raise
// its event, and all calls of the protocol come from happen(), but connection_made(), which comes from begin(), and
// pause_writing(), which comes from inside sendto(). It ends in one order: requests are cancelled, awaited,
// connection_lost() is called, the descriptor is closed.
//
// Receiving. Of UDP one multishot request takes all that comes, each datagram into a buffer of the kernel's choice that
// has room for any; the protocol reads it there. An endpoint that is idle holds none, and none holds more than what has
// come before its turn: it passes on so many a turn, and the buffers that there are bound the rest. Out of buffers the
// request ends with ENOBUFS. Then the endpoint reads by itself what a turn allows, into a buffer of the loop's, before
// it asks anew: so whoever floods takes the buffers, and cannot take the others' turns. The same is the way of older
// kernels (before 6.0), of descriptors in non-blocking mode, and of other sockets, whose datagrams may be larger than
// any buffer: of these the size is asked first. That costs a system call for each datagram, or two, and a request for
// each turn in which some came. What is cut off all the same, since another process has read what was measured, is
// told as an error.
//
// Sending is a system call at once, while nothing is queued. What finds no room is copied into the queue, and the
// socket is polled before it is tried again: the request of the ring's that would wait by itself sends an empty
// datagram in its place, if it is for a unix socket whose queue is full (Linux 6.18). Of a unix socket that is not
// connected poll(2) cannot know where it will send to, and calls it ready. So where that has been said for nothing the
// endpoint rests by a timer, twice as long each time.
//
// Errors are of one datagram, and the endpoint goes on: what a send brings is taken down and told in the endpoint's
// turn, so that error_received() may send again without end. Those that say that the descriptor is none, or that
// receiving would fail for ever, end it.
//
// Everything belongs to the loop's thread, but closing_, lost_ and what never changes. Once it is lost the loop may be
// gone: an endpoint that is lost touches nothing of it.
#include "datagram_endpoint.hpp"

#include <netinet/in.h>
#include <poll.h>
#include <sys/uio.h>

#include <cerrno>
#include <utility>

#include <ouro/io/errors.hpp>
#include <ouro/io/event_loop.hpp>
#include <ouro/io/sockets.hpp>

#include "proactor.hpp"

namespace ouro::detail {

namespace {

// It would come again and again.
bool would_fail_for_ever(int error) noexcept {
  switch (error) {
    case EFAULT:
    case EINVAL:
    case ENOTCONN:
    case EOPNOTSUPP:
      return true;
    default:
      return false;
  }
}

template <class F>
Address address_by(F get, int fd) {
  sockaddr_storage storage;
  socklen_t length = sizeof storage;
  auto* const address = reinterpret_cast<sockaddr*>(&storage);
  return get(fd, address, &length) == 0 ? Address::from_sockaddr(address, length) : Address();
}

}  // namespace

const LoopEvent::Kind DatagramEndpoint::event_kind{
    [](LoopEvent& self) { static_cast<DatagramEndpoint&>(self).happen(); }, [](LoopEvent&) noexcept {}  // end() follows
};

DatagramEndpoint::DatagramEndpoint(Network& network, EndpointSocket made, std::shared_ptr<DatagramProtocol> protocol,
                                   CellRef context)
    : LoopEvent(network.loop.state(), event_kind),
      network_(network),
      loop_(network.loop),
      protocol_(std::move(protocol)),
      context_(std::move(context)),
      fd_(made.socket.detach()),
      usual_(made.usual) {
  name_ = address_by(::getsockname, fd_.get());
  if (const Address peer = address_by(::getpeername, fd_.get())) {
    connected_ = true;
    usual_ = peer;
  }
  internet_ = name_.is_ipv4() || name_.is_ipv6();
  form_.msg_namelen = datagram_name_bytes;
}

DatagramEndpoint::~DatagramEndpoint() = default;

std::exception_ptr DatagramEndpoint::os_error(const char* operation, int error, const Address& object) {
  try {
    throw_os_error(error, operation, object.str());
  } catch (...) {
    return std::current_exception();
  }
}

bool DatagramEndpoint::is_fault_of_socket(int error) noexcept { return error == EBADF || error == ENOTSOCK; }

// ---- Calls from other loops of a group ----

bool DatagramEndpoint::is_elsewhere() const noexcept {
  if (is_lost()) return false;  // nothing will be done, and the loop may be gone
  const LoopState* here = running_state();
  return here != &home() && (here || home().worker);
}

// ---- Calls of the protocol ----

void DatagramEndpoint::report(const char* message, const std::exception_ptr& error) noexcept {
  ExceptionContext context;
  try {
    context.message = message;
  } catch (...) {
    context.message.clear();
  }
  context.exception = error;
  // Its own loop may be gone, but not the one that runs.
  const LoopState* const here = running_state();
  BaseEventLoop* const loop = !is_lost() ? &loop_ : here ? here->loop : nullptr;
  if (loop) loop->call_exception_handler(context);
}

void DatagramEndpoint::fail(const char* message, std::exception_ptr error) {
  report(message, error);
  force_close(std::move(error));
}

void DatagramEndpoint::begin() {
  self_ = shared_from_this();
  network_.link(*this);
  const auto make = [this] { protocol_->connection_made(*this); };
  try {
    in_context(make);
  } catch (const KeyboardInterrupt&) {
    force_close(nullptr);
    throw;
  } catch (...) {
    fail("Fatal error: protocol.connection_made() call failed.", std::current_exception());
  }
  made_ = true;
  arm();
}

void DatagramEndpoint::happen() {
  bool ends = false;
  try {
    ends = go_on();
  } catch (const KeyboardInterrupt&) {
    raise();  // the loop may be run again, and is to find the rest undone
    throw;
  } catch (...) {
    fail("Fatal error on datagram transport", std::current_exception());  // without memory for what was received
  }
  if (ends) finish();
}

// True if it is time to finish().
bool DatagramEndpoint::go_on() {
  if (OURO_UNLIKELY(!retired_.empty())) std::exchange(retired_, {}).clear();
  receive();
  take_read_error();
  tell_errors();
  send_queued();
  check_low_water();
  if (OURO_UNLIKELY(is_closing())) {
    return queue_.empty() && errors_.empty() && !in_flight() && !room_.in_flight() && !is_raised();
  }
  arm();
  return false;
}

// ---- Receiving ----

void DatagramEndpoint::arm() {
  if (in_flight() || is_closing() || is_raised() || !made_) return;
  try {
    Proactor& proactor = network_.proactor;
    polls_ = !internet_ || nonblocking_ || !proactor.receives_many_datagrams();
    if (OURO_LIKELY(!polls_)) {
      proactor.receive_message_multishot(*this, fd_.get(), &form_);
    } else {
      proactor.poll_add(*this, fd_.get(), POLLIN);
    }
  } catch (...) {
    fail("Fatal read error on datagram transport", std::current_exception());
  }
}

void DatagramEndpoint::complete(int result, unsigned flags) noexcept {
  if (OURO_LIKELY((flags & completion_buffer) != 0)) {
    const auto id = static_cast<std::uint16_t>(flags >> completion_buffer_shift);
    DatagramBuffers& buffers = network_.proactor.datagram_buffers();
    if (OURO_LIKELY(result > 0)) {
      buffers.push(pieces_, id, static_cast<std::size_t>(result));
    } else {
      buffers.give_back(id);
    }
  }
  if (polls_ ? result > 0 : result == -ENOBUFS) {
    readable_ = true;
  } else if (result == -EAGAIN || (result == -EINVAL && !polls_)) {
    nonblocking_ = true;  // or the kernel has no such request
  } else if (result < 0 && result != -EINTR && result != -ECANCELED) {
    read_error_ = -result;
  }
  if (OURO_LIKELY(!is_lost())) raise();
}

// As many as a turn allows.
void DatagramEndpoint::receive() {
  unsigned left = datagrams_a_turn;
  for (; !pieces_.empty() && !is_closing(); --left) {
    if (left == 0) return raise();
    struct Lent {
      DatagramBuffers& buffers;
      std::uint16_t id;
      ~Lent() { buffers.give_back(id); }
    };
    DatagramBuffers& buffers = network_.proactor.datagram_buffers();
    const Lent lent{buffers, buffers.pop(pieces_)};
    pass_on(datagram_in(buffers.piece(lent.id)));
  }
  for (; readable_ && !is_closing(); --left) {
    if (left == 0) return raise();
    readable_ = receive_one();
  }
  if (is_closing()) drop_pieces();
}

// One that is there, without the ring. False if there is none.
bool DatagramEndpoint::receive_one() {
  std::span<std::byte> buffer = network_.scratch();
  std::unique_ptr<std::byte[]> large;
  if (!internet_) {
    const ssize_t bytes = ::recv(fd_.get(), nullptr, 0, MSG_PEEK | MSG_TRUNC | MSG_DONTWAIT);
    if (bytes > static_cast<ssize_t>(buffer.size())) {
      large = std::make_unique_for_overwrite<std::byte[]>(static_cast<std::size_t>(bytes));
      buffer = {large.get(), static_cast<std::size_t>(bytes)};
    } else if (bytes < 0 && errno != EINTR) {
      if (errno != EAGAIN) read_error_ = errno;
      return false;
    }
  }
  sockaddr_storage from;
  iovec part{buffer.data(), buffer.size()};
  msghdr message{};
  message.msg_name = &from;
  message.msg_namelen = sizeof from;
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  const ssize_t bytes = ::recvmsg(fd_.get(), &message, MSG_DONTWAIT);
  if (bytes < 0) {
    if (errno == EINTR) return true;
    if (errno != EAGAIN) read_error_ = errno;
    return false;
  }
  pass_on({.data = buffer.first(static_cast<std::size_t>(bytes)),
           .from = reinterpret_cast<const sockaddr*>(&from),
           .from_bytes = message.msg_namelen,
           .truncated = (message.msg_flags & MSG_TRUNC) != 0});
  return true;
}

void DatagramEndpoint::pass_on(const ReceivedDatagram& datagram) {
  const Address from = Address::from_sockaddr(datagram.from, datagram.from_bytes);
  if (OURO_UNLIKELY(datagram.truncated)) {
    errors_.push_back(os_error("recvmsg", EMSGSIZE, from));
    return raise();
  }
  call_and_report("protocol.datagram_received() failed", [&] { protocol_->datagram_received(datagram.data, from); });
}

void DatagramEndpoint::drop_pieces() noexcept {
  DatagramBuffers* const buffers = pieces_.empty() ? nullptr : &network_.proactor.datagram_buffers();
  while (!pieces_.empty()) buffers->give_back(buffers->pop(pieces_));
}

// ---- Errors ----

// Once all that came before it has been passed on.
void DatagramEndpoint::take_read_error() {
  if (OURO_LIKELY(read_error_ == 0) || is_closing() || !pieces_.empty()) return;
  const int error = std::exchange(read_error_, 0);
  std::exception_ptr exception = os_error("recvmsg", error, connected_ ? usual_ : name_);
  if (is_fault_of_socket(error) || would_fail_for_ever(error)) {
    return fail("Fatal read error on datagram transport", std::move(exception));
  }
  errors_.push_back(std::move(exception));
}

// Those that there are now: error_received() may bring more.
void DatagramEndpoint::tell_errors() {
  for (std::size_t left = errors_.size(); left != 0 && !aborted_; --left) {
    const std::exception_ptr error = std::move(errors_.front());
    errors_.pop_front();
    call_and_report("protocol.error_received() failed", [&] { protocol_->error_received(error); });
  }
  if (aborted_) errors_.clear();
}

// ---- The end ----

void DatagramEndpoint::close() {
  if (is_elsewhere()) return do_there([](DatagramEndpoint& self) { self.close(); });
  if (is_closing()) return;
  closing_.store(true, std::memory_order_relaxed);
  if (in_flight()) network_.proactor.cancel(*this);
  raise();
}

void DatagramEndpoint::abort() {
  if (is_elsewhere()) return do_there([](DatagramEndpoint& self) { self.abort(); });
  force_close(nullptr);
}

void DatagramEndpoint::force_close(std::exception_ptr error) noexcept {
  if (aborted_ || is_lost()) return;
  aborted_ = true;
  closing_.store(true, std::memory_order_relaxed);
  if (!error_) error_ = std::move(error);
  if (in_flight()) network_.proactor.cancel(*this);
  if (room_.in_flight()) network_.proactor.cancel(room_);
  timer_.cancel();
  raise();
}

void DatagramEndpoint::finish() {
  struct End {
    DatagramEndpoint& endpoint;
    std::shared_ptr<DatagramEndpoint> self;
    ~End() {
      endpoint.fd_.reset();
      endpoint.timer_ = {};
      endpoint.retired_.clear();
      endpoint.protocol_.reset();
    }
  } end{*this, std::move(self_)};
  become_lost();
  network_.unlink(*this);
  call_and_report("protocol.connection_lost() failed", [this] { protocol_->connection_lost(error_); });
}

void DatagramEndpoint::end() noexcept {
  const std::shared_ptr<DatagramEndpoint> self = std::move(self_);
  aborted_ = true;
  become_lost();
  if (in_flight()) network_.proactor.finish(*this);
  if (room_.in_flight()) network_.proactor.finish(room_);
  drop_pieces();
  network_.unlink(*this);
  timer_ = {};
  queue_.clear();
  queued_bytes_ = 0;
  errors_.clear();
  fd_.reset();
  retired_.clear();
  protocol_.reset();
}

void DatagramEndpoint::set_protocol(std::shared_ptr<DatagramProtocol> protocol) {
  if (!protocol) throw ValueError("set_protocol: the protocol is null");
  if (is_lost()) return;
  retired_.push_back(protocol_);
  protocol_ = std::move(protocol);
  raise();  // when no callback runs any more those can go
}

std::any DatagramEndpoint::extra_info(std::string_view name) const {
  if (name == "sockname" && name_) return name_;
  if (name == "peername" && connected_) return usual_;
  if (name == "socket" && fd_) return TransportSocket(fd_.get());
  return {};
}

}  // namespace ouro::detail
