#include <ouro/io/streams.hpp>

#include <cerrno>
#include <utility>

#include <ouro/io/errors.hpp>
#include <ouro/io/event_loop.hpp>
#include <ouro/io/policies.hpp>
#include <ouro/runtime/exceptions.hpp>

#include "network.hpp"

namespace ouro {

namespace detail {

namespace {

// From how many bytes on that other loops have written, and this one has not sent, drain() waits.
constexpr std::size_t kept_max = 64 * 1024;
// Pieces that are no more than this together are copied, and go with what else is written.
constexpr std::size_t small_bytes = 4 * 1024;

}  // namespace

// ---- Whether a connection may be written to ----

FlowState::~FlowState() {
  drainers_.let_go_if_any();
  closers_.let_go_if_any();
}

void FlowState::made() noexcept {
  const Hold hold(*this);
  on_ = running_state();
}

void FlowState::wake_all(WaitList& waiters, Wakes& wakes) noexcept {
  while (!waiters.empty()) wake(*waiters.front(), nullptr, wakes);
}

void FlowState::pause() noexcept {
  const Hold hold(*this);
  paused_ = true;
}

void FlowState::resume() noexcept {
  Wakes wakes;
  const Hold hold(*this);
  paused_ = false;
  if (!is_full()) wake_all(drainers_, wakes);
}

void FlowState::lost(std::exception_ptr error) noexcept {
  Wakes wakes;
  const Hold hold(*this);
  lost_ = true;
  error_ = std::move(error);
  kept_ = std::string();
  wake_all(drainers_, wakes);
  wake_all(closers_, wakes);
}

bool FlowState::is_full() const noexcept { return paused_ || kept_.size() > kept_max; }

bool FlowState::keep(std::span<const std::span<const std::byte>> pieces) {
  if (lost_) return false;
  if (ended_) throw RuntimeError("Cannot call write() after write_eof()");
  for (const auto piece : pieces) kept_.append(reinterpret_cast<const char*>(piece.data()), piece.size());
  return !kept_.empty() && !flush_is_due_;
}

void FlowState::end() noexcept {
  const Hold hold(*this);
  ended_ = true;
}

void FlowState::wake_drainers() noexcept {
  Wakes wakes;
  const Hold hold(*this);
  if (!is_full()) wake_all(drainers_, wakes);
}

// Who waits for it is woken even if the transport refuses it.
void FlowState::flush(Transport& transport) {
  struct Wake {
    FlowState* flow;
    ~Wake() {
      if (flow) flow->wake_drainers();
    }
  } wake{nullptr};
  std::string kept;
  {
    const Hold hold(*this);
    if (!flush_is_due_) return;
    flush_is_due_ = false;
    kept = std::exchange(kept_, std::string());
  }
  wake.flow = this;
  transport.write_soon(std::as_bytes(std::span(kept)));
}

void FlowState::throw_lost() const {
  if (error_) std::rethrow_exception(error_);
  throw_os_error(ECONNRESET, "drain", "stream", "The connection is closed: open another one.", "Connection lost");
}

const SyncKind FlowState::draining = ListWaiter::kind_of(
    "StreamWriter.drain",
    [](SyncState& object, ListWaiter& waiter) noexcept -> WaitList* {
      auto& flow = static_cast<FlowState&>(object);
      if (flow.lost_) return nullptr;
      if (static_cast<DrainAwaiter&>(waiter).closing_) return &flow.closers_;
      return flow.is_full() ? &flow.drainers_ : nullptr;
    },
    nullptr);

const SyncKind FlowState::closing = ListWaiter::kind_of(
    "StreamWriter.wait_closed",
    [](SyncState& object, ListWaiter&) noexcept -> WaitList* {
      auto& flow = static_cast<FlowState&>(object);
      return flow.lost_ ? nullptr : &flow.closers_;
    },
    nullptr);

bool DrainAwaiter::await_ready() {
  if (std::exception_ptr error = reader_.exception()) std::rethrow_exception(std::move(error));
  auto& flow = static_cast<FlowState&>(*object_);
  closing_ = transport_.is_closing();
  const FlowState::Hold hold(flow);
  if (flow.lost_) flow.throw_lost();
  return !closing_ && !flow.is_full();
}

void DrainAwaiter::await_resume() {
  if (!has_waited()) return;
  resume();
  auto& flow = static_cast<FlowState&>(*object_);
  const FlowState::Hold hold(flow);
  // Of one that was lost without an error since it began to wait all was sent.
  if (flow.lost_ && (flow.error_ || closing_)) flow.throw_lost();
}

bool ClosedAwaiter::await_ready() const noexcept {
  auto& flow = static_cast<FlowState&>(*object_);
  const FlowState::Hold hold(flow);
  return flow.lost_;
}

void ClosedAwaiter::await_resume() {
  if (has_waited()) resume();
  auto& flow = static_cast<FlowState&>(*object_);
  const FlowState::Hold hold(flow);
  if (flow.error_) std::rethrow_exception(flow.error_);
}

}  // namespace detail

// ---- StreamReader ----

StreamReader::StreamReader(StreamOptions options) : state_(std::make_shared<detail::ReaderState>(options.limit)) {}

StreamReader::StreamReader(std::shared_ptr<StreamReaderProtocol> protocol) noexcept {
  detail::ReaderState* const state = &protocol->reader_;
  state_ = std::shared_ptr<detail::ReaderState>(std::move(protocol), state);
}

// ---- StreamWriter ----

StreamWriter::StreamWriter(std::shared_ptr<Transport> transport,
                           std::shared_ptr<StreamReaderProtocol> protocol) noexcept
    : transport_(std::move(transport)), protocol_(std::move(protocol)) {}

StreamWriter::~StreamWriter() {
  if (!transport_ || transport_->is_closing()) return;
  try {
    close();
  } catch (...) {
    // The loop is closed, or there is no memory for a message to it: it ends with the loop.
  }
}

// True on the transport's loop, when what was written elsewhere has been sent. A transport that is closing takes
// nothing, and its loop may be gone.
bool StreamWriter::writes_here() {
  detail::FlowState& flow = protocol_->flow_;
  if (transport_->is_closing()) return true;
  if (!flow.is_here()) return false;
  if (flow.is_shared()) flow.flush(*transport_);
  return true;
}

void StreamWriter::write(std::span<const std::byte> data) {
  if (OURO_LIKELY(writes_here())) return transport_->write_soon(data);
  writelines(std::span<const std::span<const std::byte>>(&data, 1));
}

void StreamWriter::writelines(std::span<const std::span<const std::byte>> pieces) {
  if (OURO_LIKELY(writes_here())) {
    std::size_t bytes = 0;
    for (const auto piece : pieces) bytes += piece.size();
    if (bytes > detail::small_bytes) return transport_->writelines(pieces);
    for (const auto piece : pieces) transport_->write_soon(piece);
    return;
  }
  protocol_->flow_.add(pieces, [this] { do_there([](Transport&) {}); });
}

void StreamWriter::writelines(std::span<const std::string_view> pieces) {
  std::vector<std::span<const std::byte>> spans;
  spans.reserve(pieces.size());
  for (const std::string_view piece : pieces) spans.push_back(std::as_bytes(std::span(piece)));
  writelines(std::span<const std::span<const std::byte>>(spans));
}

detail::DrainAwaiter StreamWriter::drain() noexcept {
  return detail::DrainAwaiter(protocol_->flow_, protocol_->reader_, *transport_);
}

detail::ClosedAwaiter StreamWriter::wait_closed() noexcept { return detail::ClosedAwaiter(protocol_->flow_); }

// On the transport's loop, soon, behind what was written up to then.
template <class F>
void StreamWriter::do_there(F f) {
  detail::call_at_home(protocol_->flow_.home(), [transport = transport_, protocol = protocol_, f] {
    protocol->flow_.flush(*transport);
    f(*transport);
  });
}

void StreamWriter::write_eof() {
  // First: what other loops have written until then is sent before the end, and they write nothing from then on.
  protocol_->flow_.end();
  if (writes_here()) return transport_->write_eof();
  do_there([](Transport& transport) { transport.write_eof(); });
}

void StreamWriter::close() {
  if (writes_here()) return transport_->close();
  do_there([](Transport& transport) { transport.close(); });
}

// ---- StreamReaderProtocol ----

StreamReaderProtocol::~StreamReaderProtocol() = default;

void StreamReaderProtocol::connection_made(Transport& transport) {
  flow_.made();
  reader_.set_transport(transport.share());
}

void StreamReaderProtocol::data_received(std::span<const std::byte> data) { reader_.feed_data(data); }

bool StreamReaderProtocol::eof_received() {
  reader_.feed_eof();
  return true;
}

void StreamReaderProtocol::connection_lost(std::exception_ptr error) {
  reader_.set_transport(nullptr);
  if (error) {
    reader_.set_exception(error);
  } else {
    reader_.feed_eof();
  }
  flow_.lost(std::move(error));
}

void StreamReaderProtocol::pause_writing() { flow_.pause(); }

void StreamReaderProtocol::resume_writing() { flow_.resume(); }

// ---- Connections and servers ----

namespace {

// Makes the protocol of a connection.
struct StreamFactory {
  StreamOptions options;
  std::shared_ptr<StreamReaderProtocol> operator()() const { return std::make_shared<StreamReaderProtocol>(options); }
};

using Made = detail::Connection<StreamReaderProtocol>;

Coroutine<Streams> streams_of(Coroutine<Made> making) {
  Made made = co_await std::move(making);
  StreamReader reader(made.second);
  co_return Streams(std::move(reader), StreamWriter(std::move(made.first), std::move(made.second)));
}

void check(StreamOptions options) {
  if (options.limit == 0) throw ValueError("Limit cannot be <= 0");
}

}  // namespace

Coroutine<Streams> open_connection(std::string host, int port, StreamOptions options, ConnectionOptions connection) {
  check(options);
  const StreamFactory factory{options};
  co_return co_await streams_of(get_running_loop().create_connection(factory, host, port, connection));
}

Coroutine<Streams> open_connection(Socket socket, StreamOptions options) {
  check(options);
  const StreamFactory factory{options};
  co_return co_await streams_of(get_running_loop().create_connection(factory, std::move(socket)));
}

Coroutine<Streams> open_unix_connection(std::string path, StreamOptions options) {
  check(options);
  const StreamFactory factory{options};
  co_return co_await streams_of(get_running_loop().create_unix_connection(factory, path));
}

Coroutine<Streams> open_unix_connection(Socket socket, StreamOptions options) {
  check(options);
  const StreamFactory factory{options};
  co_return co_await streams_of(get_running_loop().create_unix_connection(factory, std::move(socket)));
}

namespace detail {

StreamHandler::~StreamHandler() = default;

namespace {

void report_handler(EventLoop& loop, const std::exception_ptr& error) noexcept {
  ExceptionContext context;
  try {
    context.message = "Unhandled exception in client_connected_cb";
  } catch (...) {
    context.message.clear();
  }
  context.exception = error;
  loop.call_exception_handler(context);
}

// The task of a connection. When it is left, or goes before it began, the writer goes, and the connection is closed:
// unless the handler has given the writer away, and did not throw.
Coroutine<> handle_streams(std::shared_ptr<StreamHandler> handler, std::shared_ptr<Transport> transport,
                           StreamReader its_reader, StreamWriter its_writer) {
  std::exception_ptr error;
  {
    StreamReader reader(std::move(its_reader));
    StreamWriter writer(std::move(its_writer));
    try {
      Coroutine<> work = handler->handle(reader, writer);
      co_await std::move(work);
    } catch (const CancelledError&) {
      throw;
    } catch (const KeyboardInterrupt&) {
      throw;
    } catch (...) {
      error = std::current_exception();
    }
  }
  if (!error) co_return;
  report_handler(transport->get_loop(), error);
  transport->close();
}

class StreamServerProtocol final : public StreamReaderProtocol,
                                   public std::enable_shared_from_this<StreamServerProtocol> {
 public:
  StreamServerProtocol(std::shared_ptr<StreamHandler> handler, StreamOptions options)
      : StreamReaderProtocol(options), handler_(std::move(handler)) {}

  void connection_made(Transport& transport) override {
    StreamReaderProtocol::connection_made(transport);
    const std::shared_ptr<Transport> shared = transport.share();
    StreamReader reader(shared_from_this());
    StreamWriter writer(shared, shared_from_this());
    transport.get_loop().create_task(handle_streams(std::move(handler_), shared, std::move(reader), std::move(writer)));
  }

 private:
  std::shared_ptr<StreamHandler> handler_;
};

ProtocolFactory server_factory(std::shared_ptr<StreamHandler> handler, StreamOptions options) {
  check(options);
  return [handler = std::move(handler), options] { return std::make_shared<StreamServerProtocol>(handler, options); };
}

}  // namespace

Coroutine<Server> serve_streams(std::shared_ptr<StreamHandler> handler, StreamOptions options,
                                std::vector<std::string> hosts, int port, ServerOptions server) {
  EventLoop& loop = get_running_loop();
  ProtocolFactory factory = server_factory(std::move(handler), options);
  return pinned(loop, serve_hosts(loop, std::move(factory), std::move(hosts), port, server));
}

Coroutine<Server> serve_streams(std::shared_ptr<StreamHandler> handler, StreamOptions options, Socket socket,
                                int family, ServerOptions server) {
  EventLoop& loop = get_running_loop();
  ProtocolFactory factory = server_factory(std::move(handler), options);
  return pinned(loop, serve_socket(loop, std::move(factory), std::move(socket), family, server));
}

Coroutine<Server> serve_streams(std::shared_ptr<StreamHandler> handler, StreamOptions options, std::string path,
                                ServerOptions server) {
  EventLoop& loop = get_running_loop();
  ProtocolFactory factory = server_factory(std::move(handler), options);
  return pinned(loop, serve_path(loop, std::move(factory), std::move(path), server));
}

}  // namespace detail
}  // namespace ouro
