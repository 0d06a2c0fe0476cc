// A transport's life.
//
//     begin() → open → closing → lost
//
//   open: the receive request is in flight unless reading is paused, the other side has ended, or a piece has ended the
//     request; happen() starts it anew. What the kernel could not take at once is in the queue, whose request is in
//     flight while there is something in it.
//   closing: close() or abort() was called, or something failed. Receiving is being cancelled; pieces that still come
//     are dropped. After close() the queue is sent; after the others it is cancelled too.
//   lost: when no request is in flight any more, and nothing is left to send, connection_lost() is called, and then the
//     descriptor is closed. In this order: a descriptor that were closed under a request would stay open in the kernel,
//     send no end to the other side, and its number might be another's by then.
//
// complete() and sent() only take down what the kernel says, and raise the event; all calls of the protocol come from
// happen(), when the event has its turn, so that they never come inside a call of the program's. (connection_made()
// comes from begin(), pause_writing() from inside write().) The loop's reference, self_, goes with connection_lost():
// until then no handle is needed.
//
// Receiving. One multishot request, whose pieces lie in buffers of the kernel's choice: the protocol reads them there.
// A transport that is paused copies what still comes, and gives the buffers back, or who does not read would stop those
// who do. Out of buffers the request ends with ENOBUFS, and is started anew in the next turn, when those that hold
// pieces have had theirs. A kernel without it (before 6.0) is asked whether there is something to read, and that is
// read into a buffer of the loop's.
//
// Sending. What a protocol writes in small pieces from inside a callback is gathered, and queued when that returns: the
// requests of all transports go to the kernel together, at the end of the turn, so that the other sides are not woken
// one by one (with a system call for each, 64 connections of 64 bytes took 1.2 to 1.6 times the time, of 16 KiB 1.4).
// So do pieces up to 64 KiB, and those of write_soon(), from wherever: their request is made at once, and filled up
// until it reaches the kernel. What is sent on as it was received stays where the kernel put it. Any other write is a
// system call at once, if nothing is queued: it copies nothing. What the kernel does not take is copied into the queue.
//
// Writing inside pause_writing() is allowed, and goes behind what was written before. So wherever that may be called,
// what its writes change must be in order: the cork is emptied before it is filled again, and what it held is queued
// before the protocol hears of it. Who could not queue something fails the transport: what the other side gets is
// always all that was written up to some point.
//
// A KeyboardInterrupt of the protocol's leaves the loop, which may be run again: happen() is then raised once more.
//
// Calls of the protocol see one context: a copy of that in which the connection or its server was made.
//
// Everything belongs to the loop's thread, but closing_, lost_, and the names with their lock. Once it is lost the loop
// may be gone: a transport that is lost touches nothing of it. In a group its LoopState lives as long as that of any
// other loop.
#include "socket_transport.hpp"

#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include <ouro/io/errors.hpp>
#include <ouro/io/event_loop.hpp>
#include <ouro/io/sockets.hpp>
#include <ouro/runtime/exceptions.hpp>

#include "network.hpp"
#include "proactor.hpp"
#include "send_queue.hpp"
#include "server_state.hpp"

namespace ouro::detail {

namespace {

constexpr unsigned pieces_a_turn = 16;  // 256 KiB, while others wait for their turn

std::exception_ptr os_error(const char* operation, int error, int fd) {
  try {
    throw_os_error(error, operation, "socket " + std::to_string(fd));
  } catch (...) {
    return std::current_exception();
  }
}

// What happens to connections: the other side reset it, or cannot be reached any more.
bool is_loss(int error) noexcept {
  switch (error) {
    case ECONNRESET:
    case EPIPE:
    case ECONNABORTED:
    case ECONNREFUSED:
    case ESHUTDOWN:
    case ETIMEDOUT:
    case EHOSTUNREACH:
    case ENETUNREACH:
    case ENETDOWN:
      return true;
    default:
      return false;
  }
}

}  // namespace

const LoopEvent::Kind SocketTransport::event_kind{
    [](LoopEvent& self) { static_cast<SocketTransport&>(self).happen(); }, [](LoopEvent&) noexcept {}  // end() follows
};

SocketTransport::SocketTransport(Network& network, Fd fd, std::shared_ptr<StreamProtocol> protocol,
                                 std::shared_ptr<ServerState> server, CellRef context)
    : LoopEvent(network.loop.state(), event_kind),
      network_(network),
      loop_(network.loop),
      protocol_(std::move(protocol)),
      server_(std::move(server)),
      context_(std::move(context)),
      fd_(std::move(fd)) {}

SocketTransport::~SocketTransport() = default;

SocketTransport::Rare& SocketTransport::rare() {
  if (!rare_) rare_ = std::make_unique<Rare>();
  return *rare_;
}

// ---- Calls from other loops of a group ----

bool SocketTransport::is_elsewhere() const noexcept {
  if (is_lost()) return false;  // nothing will be done, and the loop may be gone
  const LoopState* here = running_state();
  return here != &home() && (here || home().worker);
}

// ---- Calls of the protocol ----

void SocketTransport::report(const char* message, const std::exception_ptr& error) noexcept {
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

// Whatever small pieces f writes go together. False if it threw, after which the transport is being closed.
template <class F>
bool SocketTransport::call(const char* what, F f) {
  Network::Cork& cork = network_.cork;
  const bool corks = cork.owner == nullptr;
  if (corks) cork.owner = this;
  struct Uncork {
    Network::Cork* cork;
    ~Uncork() {
      if (!cork) return;
      OURO_ASSERT(cork->used == 0);
      cork->used = 0;  // nothing of it may ever go to another connection
      cork->owner = nullptr;
    }
  } uncork{corks ? &cork : nullptr};
  try {
    in_context(f);
    if (corks) flush_cork();
    return true;
  } catch (const KeyboardInterrupt&) {
    force_close(nullptr);
    throw;
  } catch (...) {
    fail(what, std::current_exception());
    return false;
  }
}

void SocketTransport::fail(const char* message, std::exception_ptr error) {
  report(message, error);
  force_close(std::move(error));
}

void SocketTransport::fail(const char* message, const char* operation, int error) {
  std::exception_ptr exception = os_error(operation, error, fd_.get());
  if (!is_loss(error)) report(message, exception);
  force_close(std::move(exception));
}

void SocketTransport::begin() {
  self_ = shared_from_this();
  network_.link(*this);
  call("Fatal error: protocol.connection_made() call failed.", [this] { protocol_->connection_made(*this); });
  made_ = true;
  arm();
}

void SocketTransport::happen() {
  bool ends = false;
  try {
    ends = go_on();
  } catch (const KeyboardInterrupt&) {
    raise();  // the loop may be run again, and is to find the rest undone
    throw;
  } catch (...) {
    fail("Fatal error on socket transport", std::current_exception());  // without memory for what was received
  }
  if (ends) finish();
}

// True if it is time to finish().
bool SocketTransport::go_on() {
  if (OURO_UNLIKELY(rare_ != nullptr)) drop_retired();
  if (OURO_UNLIKELY(write_error_ != 0) && !aborted_) {
    fail("Fatal write error on socket transport", "send", std::exchange(write_error_, 0));
  }
  if (readable_) receive_at_once();
  deliver();
  const bool eof_waits = eof_written_ && !shut_;
  if ((queue_ || eof_waits || is_closing()) && settle()) return true;
  arm();
  return false;
}

// ---- Receiving ----

void SocketTransport::arm() {
  if (in_flight() || is_closing() || paused_ || ended_ || read_error_ != 0 || !made_) return;
  if (rare_ && !rare_->backlog.empty()) return;
  try {
    Proactor& proactor = network_.proactor;
    polls_ = nonblocking_ || !proactor.receives_many();
    if (OURO_LIKELY(!polls_)) {
      proactor.receive_multishot(*this, fd_.get());
    } else {
      proactor.poll_add(*this, fd_.get(), POLLIN);
    }
  } catch (...) {
    fail("Fatal read error on socket transport", std::current_exception());
  }
}

void SocketTransport::complete(int result, unsigned flags) noexcept {
  if (OURO_LIKELY((flags & completion_buffer) != 0)) {
    const auto id = static_cast<std::uint16_t>(flags >> completion_buffer_shift);
    if (OURO_LIKELY(result > 0)) {
      network_.proactor.buffers().push(pieces_, id, static_cast<std::size_t>(result));
    } else {
      network_.proactor.buffers().give_back(id);
    }
  }
  if (OURO_UNLIKELY(result <= 0 || polls_)) {
    if (polls_ && result > 0) {
      readable_ = true;
    } else if (result == 0) {
      ended_ = true;
    } else if (result == -EAGAIN) {
      nonblocking_ = true;
    } else if (result == -ENOBUFS) {
      if (pieces_.empty() && !polls_) network_.proactor.buffers().grow(network_.proactor.submissions());
    } else if (result != -EINTR && result != -ECANCELED) {
      read_error_ = -result;
    }
  }
  if (OURO_LIKELY(!is_lost())) raise();
}

void SocketTransport::receive_at_once() {
  readable_ = false;
  if (paused_ || is_closing()) return;
  const std::span<std::byte> buffer = network_.scratch();
  const ssize_t bytes = ::recv(fd_.get(), buffer.data(), buffer.size(), MSG_DONTWAIT);
  if (bytes > 0) {
    feed(buffer.first(static_cast<std::size_t>(bytes)));
  } else if (bytes == 0) {
    ended_ = true;
  } else if (errno != EAGAIN && errno != EINTR) {
    read_error_ = errno;
  }
}

void SocketTransport::deliver() {
  if (OURO_UNLIKELY(rare_ && !rare_->backlog.empty() && !paused_ && !is_closing())) {
    const std::string backlog = std::exchange(rare_->backlog, {});
    feed(std::as_bytes(std::span(backlog)));
  }
  ReceiveBuffers* const buffers = pieces_.empty() ? nullptr : &network_.proactor.buffers();
  for (unsigned left = pieces_a_turn; !pieces_.empty() && !paused_ && !is_closing(); --left) {
    if (left == 0) return raise();
    struct Taken {
      Network& network;
      ReceiveBuffers& buffers;
      std::uint16_t id;
      ~Taken() {
        network.given = {};
        buffers.release(id);
      }
    } taken{network_, *buffers, buffers->pop(pieces_)};
    const std::span<std::byte> piece = buffers->piece(taken.id);
    network_.given = {piece.data(), piece.size(), taken.id};
    feed(piece);
  }
  if (OURO_UNLIKELY(!pieces_.empty())) {
    if (is_closing()) {
      drop_pieces();
    } else {
      hold_pieces();
    }
  }
  if (OURO_UNLIKELY(ended_ || read_error_ != 0)) tell_eof();
}

// Passes it on, or keeps what the protocol does not want now.
void SocketTransport::feed(std::span<const std::byte> data) {
  while (!data.empty() && !paused_ && !is_closing()) data = data.subspan(pass_on(data));
  if (data.empty() || is_closing()) return;
  rare().backlog.insert(0, reinterpret_cast<const char*>(data.data()), data.size());
}

std::size_t SocketTransport::pass_on(std::span<const std::byte> data) {
  if (OURO_LIKELY(protocol_->form() == StreamProtocol::Form::received)) {
    call("Fatal error: protocol.data_received() call failed.",
         [&] { static_cast<Protocol&>(*protocol_).data_received(data); });
    return data.size();
  }
  auto& protocol = static_cast<BufferedProtocol&>(*protocol_);
  std::span<std::byte> buffer;
  const bool got = call("Fatal error: protocol.get_buffer() call failed.", [&] {
    buffer = protocol.get_buffer(data.size());
    if (buffer.empty()) throw RuntimeError("get_buffer() returned an empty buffer");
  });
  if (!got || is_closing()) return data.size();
  const std::size_t bytes = std::min(buffer.size(), data.size());
  std::memcpy(buffer.data(), data.data(), bytes);
  call("Fatal error: protocol.buffer_updated() call failed.", [&] { protocol.buffer_updated(bytes); });
  return bytes;
}

// Copies what the kernel's buffers hold.
void SocketTransport::hold_pieces() {
  ReceiveBuffers& buffers = network_.proactor.buffers();
  std::string& backlog = rare().backlog;
  while (!pieces_.empty()) {
    const std::span<std::byte> piece = buffers.piece(pieces_.first);
    backlog.append(reinterpret_cast<const char*>(piece.data()), piece.size());
    buffers.release(buffers.pop(pieces_));
  }
}

void SocketTransport::drop_pieces() noexcept {
  while (!pieces_.empty()) network_.proactor.buffers().release(network_.proactor.buffers().pop(pieces_));
}

// The other side's end, or an error, once all that came before it has been passed on.
void SocketTransport::tell_eof() {
  if (paused_ || is_closing() || !pieces_.empty() || (rare_ && !rare_->backlog.empty())) return;
  if (read_error_ != 0) return fail("Fatal read error on socket transport", "recv", read_error_);
  if (told_end_) return;
  told_end_ = true;
  bool keep_open = false;
  call("Fatal error: protocol.eof_received() call failed.", [&] { keep_open = protocol_->eof_received(); });
  if (!keep_open) close();
}

void SocketTransport::pause_reading() {
  if (is_elsewhere()) return do_there([](SocketTransport& self) { self.pause_reading(); });
  if (is_closing() || paused_) return;
  paused_ = true;
  if (in_flight()) network_.proactor.cancel(*this);
}

void SocketTransport::resume_reading() {
  if (is_elsewhere()) return do_there([](SocketTransport& self) { self.resume_reading(); });
  if (is_closing() || !paused_) return;
  paused_ = false;
  if (made_) raise();
}

// ---- The end ----

void SocketTransport::close() {
  if (is_elsewhere()) return do_there([](SocketTransport& self) { self.close(); });
  if (is_closing()) return;
  if (network_.cork.owner == this) flush_cork();
  if (is_closing()) return;  // it could not be queued, or pause_writing() did the same
  closing_.store(true, std::memory_order_relaxed);
  if (in_flight()) network_.proactor.cancel(*this);
  raise();
}

void SocketTransport::abort() {
  if (is_elsewhere()) return do_there([](SocketTransport& self) { self.abort(); });
  force_close(nullptr);
}

void SocketTransport::force_close(std::exception_ptr error) noexcept {
  if (aborted_ || is_lost()) return;
  aborted_ = true;
  closing_.store(true, std::memory_order_relaxed);
  if (!error_) error_ = std::move(error);
  if (network_.cork.owner == this) network_.cork.used = 0;
  if (in_flight()) network_.proactor.cancel(*this);
  if (queue_ && queue_->in_flight()) network_.proactor.cancel(*queue_);
  raise();
}

// What follows when something has been sent, or it is being closed. True if nothing is left to be done.
bool SocketTransport::settle() {
  if (queue_ && !queue_->in_flight()) {
    if (aborted_ || queue_->empty()) {
      queue_.reset();
    } else {
      start_sending();
    }
  }
  if (writing_paused_ && !aborted_ && get_write_buffer_size() <= low_) {
    writing_paused_ = false;
    call_and_report("protocol.resume_writing() failed", [this] { protocol_->resume_writing(); });
  }
  if (queue_) return false;
  if (eof_written_ && !shut_ && !is_closing()) {
    shut_ = true;
    ::shutdown(fd_.get(), SHUT_WR);
  }
  return is_closing() && !in_flight() && !is_raised();
}

void SocketTransport::finish() {
  struct End {
    SocketTransport& transport;
    std::shared_ptr<SocketTransport> self;
    ~End() {
      transport.close_socket(self.use_count() > 1);
      transport.drop_retired();
      transport.protocol_.reset();
      if (transport.server_) std::exchange(transport.server_, nullptr)->detach(transport.home());
    }
  } end{*this, std::move(self_)};
  become_lost();
  network_.unlink(*this);
  call_and_report("protocol.connection_lost() failed", [this] { protocol_->connection_lost(error_); });
}

void SocketTransport::end() noexcept {
  const std::shared_ptr<SocketTransport> self = std::move(self_);
  aborted_ = true;
  become_lost();
  if (in_flight()) network_.proactor.finish(*this);
  if (queue_ && queue_->in_flight()) network_.proactor.finish(*queue_);
  drop_pieces();
  network_.unlink(*this);
  queue_.reset();
  close_socket(false);
  drop_retired();
  protocol_.reset();
  server_.reset();
}

void SocketTransport::drop_retired() noexcept {
  if (!rare_ || rare_->retired.empty()) return;
  const auto retired = std::exchange(rare_->retired, {});
}

void SocketTransport::set_protocol(std::shared_ptr<StreamProtocol> protocol) {
  if (!protocol) throw ValueError("set_protocol: the protocol is null");
  if (is_lost()) return;
  rare().retired.push_back(protocol_);
  protocol_ = std::move(protocol);
  raise();  // when no callback runs any more those can go
}

// `asked_for`: somebody may still ask for names, and what the kernel can say of them it can say for the last time.
void SocketTransport::close_socket(bool asked_for) noexcept {
  Fd closes;
  const SpinLock::Hold hold(names_lock_);
  if (asked_for) {
    try {
      static_cast<void>(name_of("sockname"));
      static_cast<void>(name_of("peername"));
    } catch (...) {
      // Without memory nothing is remembered.
    }
  }
  closes = std::move(fd_);
}

std::any SocketTransport::extra_info(std::string_view name) const {
  const SpinLock::Hold hold(names_lock_);
  if (name == "socket") return fd_ ? std::any(TransportSocket(fd_.get())) : std::any();
  if (name != "peername" && name != "sockname") return {};
  return name_of(name);
}

std::any SocketTransport::name_of(std::string_view name) const {
  if (!names_) names_ = std::make_unique<Names>();
  std::optional<Address>& known = name == "peername" ? names_->peername : names_->sockname;
  if (!known && fd_) {
    sockaddr_storage storage;
    socklen_t length = sizeof storage;
    auto* const address = reinterpret_cast<sockaddr*>(&storage);
    const int failed =
        name == "peername" ? ::getpeername(fd_.get(), address, &length) : ::getsockname(fd_.get(), address, &length);
    if (failed == 0) known = Address::from_sockaddr(address, length);
  }
  return known ? std::any(*known) : std::any();
}

}  // namespace ouro::detail
