// Streams: connections and servers for coroutines that read and write.
//
//     ouro::Coroutine<> echo(ouro::StreamReader& reader, ouro::StreamWriter& writer) {
//       while (auto line = co_await reader.next()) {
//         writer.write(*line);
//         co_await writer.drain();
//       }
//     }
//     auto server = co_await ouro::start_server(echo, "127.0.0.1", 8000);
//
// A connection belongs to the loop on which it was opened, one that a server accepted to the loop that it was dealt to
// (servers.hpp), where the task of its handler is pinned. Threads, of readers and writers: the loop's; in a group those
// of all its loops, so that a floating task may have them. What it writes elsewhere goes to the connection's loop soon,
// in order.
#pragma once

#include <sys/socket.h>

#include <concepts>
#include <cstddef>
#include <exception>
#include <initializer_list>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include <ouro/io/detail/connections.hpp>
#include <ouro/io/detail/stream_state.hpp>
#include <ouro/io/protocols.hpp>
#include <ouro/io/servers.hpp>
#include <ouro/io/sockets.hpp>
#include <ouro/io/transports.hpp>
#include <ouro/runtime/config.hpp>
#include <ouro/runtime/coroutine.hpp>
#include <ouro/runtime/exceptions.hpp>

namespace ouro {

struct StreamOptions {
  std::size_t limit = 64 * 1024;  // of a line; at twice as much that nobody reads the other side has to wait
};

// The other side ended before all came that was asked for.
class OURO_EXPORT IncompleteReadError : public RuntimeError {
 public:
  // `expected`: how many bytes; none: up to a separator.
  IncompleteReadError(std::string partial, std::optional<std::size_t> expected);

  // What came. Copies of the error share it.
  const std::string& partial() const noexcept { return *partial_; }
  std::optional<std::size_t> expected() const noexcept { return expected_; }

 private:
  std::shared_ptr<const std::string> partial_;
  std::optional<std::size_t> expected_;
};

// There is no separator within the limit. All that was received is still there to be read.
class OURO_EXPORT LimitOverrunError : public RuntimeError {
 public:
  LimitOverrunError(const std::string& text, std::size_t consumed)
      : RuntimeError(text, "read what is there, or give the stream a higher limit"), consumed_(consumed) {}

  // So many bytes hold no separator: they may be read.
  std::size_t consumed() const noexcept { return consumed_; }

 private:
  std::size_t consumed_;
};

class StreamReaderProtocol;

// The reading half of a stream; move-only.
//
// One task at a time may wait in it. Each of its functions that read
// Throws: RuntimeError if another task waits in it; what ended the connection, or was given to set_exception().
// Suspends: unless it can be answered at once.
// Lifetime: the reader, and separators, until it has been awaited.
// If cancelled: CancelledError; nothing was taken, and all that was received is still there to be read.
class OURO_EXPORT StreamReader {
 public:
  // One that is fed by hand, or to which a protocol is given. Throws: ValueError for a limit of 0.
  explicit StreamReader(StreamOptions options = {});
  explicit StreamReader(std::shared_ptr<StreamReaderProtocol> protocol) noexcept;
  StreamReader(StreamReader&&) noexcept = default;
  StreamReader& operator=(StreamReader&&) noexcept = default;

  // All that comes until the other side ends. If cancelled: as above, of all that follow too.
  auto read() { return reading<std::string>({.want = Want::all}); }
  // As soon as there is something, up to `bytes` bytes of it; none at the end. As in asyncio, -1 is the same as read().
  // If cancelled: as read().
  auto read(std::size_t bytes) {
    const bool all = bytes == static_cast<std::size_t>(-1);
    return reading<std::string>({.want = all ? Want::all : Want::some, .bytes = bytes});
  }
  // Exactly so many, be it more than the limit.
  // Throws: IncompleteReadError at the end, when what there was has been taken. If cancelled: as read().
  auto readexactly(std::size_t bytes) { return reading<std::string>({.want = Want::exactly, .bytes = bytes}); }
  // Up to the end of the line, which is given too; what is left at the end of all; the empty string behind that.
  // Throws: ValueError for a line beyond the limit: it, or what there is of it, is dropped. If cancelled: as read().
  auto readline() { return reading<std::string>({.want = Want::line}); }
  // Up to the separator, which is given too; of several, up to the one that ends first. (g++ 12 takes no braces inside
  // a co_await: give it an array that has a name.)
  // Throws: IncompleteReadError at the end, when what there was has been taken; LimitOverrunError; ValueError for an
  // empty separator. If cancelled: as read().
  auto readuntil(char separator = '\n') {
    return reading<std::string>({.want = Want::until, .one_char = true, .one = separator});
  }
  auto readuntil(std::string_view separator) {
    return reading<std::string>({.want = Want::until, .separator = separator});
  }
  auto readuntil(std::span<const std::string_view> separators) {
    return reading<std::string>({.want = Want::until, .separators = separators});
  }
  auto readuntil(std::initializer_list<std::string_view> separators) {
    return reading<std::string>({.want = Want::until, .separators = std::span(separators.begin(), separators.size())});
  }
  // The next line, or nothing at the end: `while (auto line = co_await reader.next())`. So a reader can be the source
  // of a map(). Throws: as readline(). If cancelled: as read().
  auto next() { return reading<std::optional<std::string>>({.want = Want::line}); }

  // The same without a copy: what is given lies in the reader's buffer.
  // Lifetime: until the next call that reads, of whatever kind. If cancelled: as read().
  auto read_view(std::size_t bytes) { return reading<std::string_view>({.want = Want::some, .bytes = bytes}); }
  // If cancelled: as read().
  auto readexactly_view(std::size_t bytes) {
    return reading<std::string_view>({.want = Want::exactly, .bytes = bytes});
  }
  // If cancelled: as read().
  auto readline_view() { return reading<std::string_view>({.want = Want::line}); }
  // If cancelled: as read().
  auto readuntil_view(char separator = '\n') {
    return reading<std::string_view>({.want = Want::until, .one_char = true, .one = separator});
  }
  auto readuntil_view(std::string_view separator) {
    return reading<std::string_view>({.want = Want::until, .separator = separator});
  }
  auto readuntil_view(std::span<const std::string_view> separators) {
    return reading<std::string_view>({.want = Want::until, .separators = separators});
  }
  auto readuntil_view(std::initializer_list<std::string_view> separators) {
    return reading<std::string_view>(
        {.want = Want::until, .separators = std::span(separators.begin(), separators.size())});
  }

  // The other side has ended, and all was read.
  bool at_eof() const noexcept { return state_->at_eof(); }
  // What reading throws; nullptr: nothing.
  std::exception_ptr exception() const noexcept { return state_->exception(); }

  // For who receives by himself: what came, the end, or an error. Throws: RuntimeError for data after the end.
  void feed_data(std::span<const std::byte> data) { state_->feed_data(data); }
  void feed_data(std::string_view data) { state_->feed_data(std::as_bytes(std::span(data))); }
  void feed_eof() noexcept { state_->feed_eof(); }
  void set_exception(std::exception_ptr error) noexcept { state_->set_exception(std::move(error)); }
  // Which transport is paused when too much waits to be read.
  void set_transport(std::shared_ptr<ReadTransport> transport) noexcept { state_->set_transport(std::move(transport)); }

 private:
  using Want = detail::ReadRequest::Want;

  template <class Result>
  detail::ReadAwaiter<Result> reading(const detail::ReadRequest& request) noexcept {
    return detail::ReadAwaiter<Result>(*state_, request);
  }

  std::shared_ptr<detail::ReaderState> state_;
};

// The writing half of a stream; move-only. When it goes, the connection is closed: what was written is sent before.
class OURO_EXPORT StreamWriter {
 public:
  StreamWriter(std::shared_ptr<Transport> transport, std::shared_ptr<StreamReaderProtocol> protocol) noexcept;
  StreamWriter(StreamWriter&&) noexcept = default;
  StreamWriter& operator=(StreamWriter&& other) noexcept {
    StreamWriter(std::move(other)).swap(*this);
    return *this;
  }
  ~StreamWriter();
  void swap(StreamWriter& other) noexcept {
    transport_.swap(other.transport_);
    protocol_.swap(other.protocol_);
  }

  // Writes without waiting; call drain() now and then, or what the other side does not take fills the memory. Small
  // pieces that a task writes in one turn go to the kernel together. To a connection that is closing it is dropped.
  // Throws: RuntimeError after write_eof(), std::bad_alloc. Lifetime: the data, until it returns.
  void write(std::span<const std::byte> data);
  void write(std::string_view data) { write(std::as_bytes(std::span(data))); }
  // The same with pieces, as one.
  void writelines(std::span<const std::span<const std::byte>> pieces);
  void writelines(std::span<const std::string_view> pieces);
  void writelines(std::initializer_list<std::string_view> pieces) {
    writelines(std::span(pieces.begin(), pieces.size()));
  }

  // Waits while more waits to be sent than the transport's limit allows; any number of tasks may. Of a connection that
  // is being closed it waits for the end.
  // Suspends: if so. Throws: ConnectionResetError, or what ended the connection, once that is lost; what reading
  // throws. Lifetime: the writer, until it has been awaited.
  // If cancelled: CancelledError; what was written is sent all the same.
  [[nodiscard("it does nothing until it is awaited")]] detail::DrainAwaiter drain() noexcept;

  // As of the transport (transports.hpp).
  void write_eof();
  bool can_write_eof() const noexcept { return transport_->can_write_eof(); }
  void close();
  bool is_closing() const noexcept { return transport_->is_closing(); }
  // Waits until the connection is closed: close() does not wait for it.
  // Suspends: unless it is. Throws: what ended the connection, if it was an error. Lifetime: as of drain().
  // If cancelled: CancelledError; nothing else changes.
  [[nodiscard("it does nothing until it is awaited")]] detail::ClosedAwaiter wait_closed() noexcept;

  template <class T>
  T get_extra_info(std::string_view name, T otherwise = {}) const {
    return transport_->get_extra_info<T>(name, std::move(otherwise));
  }
  Transport& transport() const noexcept { return *transport_; }

 private:
  bool writes_here();
  template <class F>
  void do_there(F f);

  std::shared_ptr<Transport> transport_;
  std::shared_ptr<StreamReaderProtocol> protocol_;
};

// What stands between a transport and the two above: open_connection() and start_server() make one for each connection.
class OURO_EXPORT StreamReaderProtocol : public Protocol {
 public:
  // Throws: ValueError for a limit of 0.
  explicit StreamReaderProtocol(StreamOptions options = {}) : reader_(options.limit) {}
  ~StreamReaderProtocol() override;

  void connection_made(Transport& transport) override;
  void data_received(std::span<const std::byte> data) override;
  bool eof_received() override;
  void connection_lost(std::exception_ptr error) override;
  void pause_writing() override;
  void resume_writing() override;

 private:
  friend class StreamReader;
  friend class StreamWriter;

  detail::ReaderState reader_;
  detail::FlowState flow_;
};

// The two halves of a connection.
using Streams = std::pair<StreamReader, StreamWriter>;

// Connects as EventLoop::create_connection does, and gives a reader and a writer.
// Threads: a task of an EventLoop. Throws: as that; ValueError for a limit of 0. If cancelled: as that.
[[nodiscard]] OURO_EXPORT Coroutine<Streams> open_connection(std::string host, int port, StreamOptions options = {},
                                                             ConnectionOptions connection = {});
// With a stream socket that is connected.
[[nodiscard]] OURO_EXPORT Coroutine<Streams> open_connection(Socket socket, StreamOptions options = {});
// The same to a unix socket. If cancelled: as open_connection().
[[nodiscard]] OURO_EXPORT Coroutine<Streams> open_unix_connection(std::string path, StreamOptions options = {});
[[nodiscard]] OURO_EXPORT Coroutine<Streams> open_unix_connection(Socket socket, StreamOptions options = {});

namespace detail {

template <class F>
concept HandlesByReference = std::invocable<F&, StreamReader&, StreamWriter&>;

// What is called with the two halves of each connection of a server.
template <class F>
concept HandlesStreams = HandlesByReference<F> || std::invocable<F&, StreamReader, StreamWriter>;

// All connections of a server share it, for it may be a lambda with captures.
class OURO_EXPORT StreamHandler {
 public:
  virtual ~StreamHandler();
  virtual Coroutine<> handle(StreamReader& reader, StreamWriter& writer) = 0;
};

inline Coroutine<> nothing_to_await() { co_return; }
template <class A>
Coroutine<> only_await(A awaitable) {
  static_cast<void>(co_await std::move(awaitable));
}

template <class F>
class StreamHandlerOf final : public StreamHandler {
 public:
  explicit StreamHandlerOf(F handler) : handler_(std::move(handler)) {}
  Coroutine<> handle(StreamReader& reader, StreamWriter& writer) override {
    if constexpr (HandlesByReference<F>) {
      return call(reader, writer);
    } else {
      return call(std::move(reader), std::move(writer));
    }
  }

 private:
  template <class... Halves>
  Coroutine<> call(Halves&&... halves) {
    using Result = std::invoke_result_t<F&, Halves...>;
    if constexpr (std::is_void_v<Result>) {
      handler_(std::forward<Halves>(halves)...);
      return nothing_to_await();
    } else if constexpr (std::is_same_v<Result, Coroutine<>>) {
      return handler_(std::forward<Halves>(halves)...);
    } else {
      return only_await(handler_(std::forward<Halves>(halves)...));
    }
  }

  F handler_;
};

OURO_EXPORT Coroutine<Server> serve_streams(std::shared_ptr<StreamHandler> handler, StreamOptions options,
                                            std::vector<std::string> hosts, int port, ServerOptions server);
OURO_EXPORT Coroutine<Server> serve_streams(std::shared_ptr<StreamHandler> handler, StreamOptions options,
                                            Socket socket, int family, ServerOptions server);
OURO_EXPORT Coroutine<Server> serve_streams(std::shared_ptr<StreamHandler> handler, StreamOptions options,
                                            std::string path, ServerOptions server);

template <class F>
std::shared_ptr<StreamHandler> stream_handler(F handler) {
  return std::make_shared<StreamHandlerOf<F>>(std::move(handler));
}

}  // namespace detail

// Listens as EventLoop::create_server does, and calls `handler` with the two halves of each connection: by reference,
// then the connection is closed when it has ended; or by value, then it may give them away. A coroutine function's
// coroutine becomes a task of the connection's loop, which is cancelled and awaited at the end of run() as all tasks
// are; the end of the server does not touch it. What it throws goes to that loop's exception handler, and closes the
// connection.
// Threads: a task of an EventLoop; in a group `handler` is called on all loops, on several at the same time, unless
// ServerOptions::spread is off. Throws: as create_server; ValueError for a limit of 0. If cancelled: as that.
template <class F>
  requires detail::HandlesStreams<F>
[[nodiscard]] Coroutine<Server> start_server(F handler, std::string_view host, int port, StreamOptions options = {},
                                             ServerOptions server = {}) {
  std::vector<std::string> hosts(1, std::string(host));
  return detail::serve_streams(detail::stream_handler(std::move(handler)), options, std::move(hosts), port, server);
}
template <class F>
  requires detail::HandlesStreams<F>
[[nodiscard]] Coroutine<Server> start_server(F handler, std::vector<std::string> hosts, int port,
                                             StreamOptions options = {}, ServerOptions server = {}) {
  return detail::serve_streams(detail::stream_handler(std::move(handler)), options, std::move(hosts), port, server);
}
// On a stream socket that is bound.
template <class F>
  requires detail::HandlesStreams<F>
[[nodiscard]] Coroutine<Server> start_server(F handler, Socket socket, StreamOptions options = {},
                                             ServerOptions server = {}) {
  return detail::serve_streams(detail::stream_handler(std::move(handler)), options, std::move(socket), 0, server);
}
// The same on a unix socket. If cancelled: as start_server().
template <class F>
  requires detail::HandlesStreams<F>
[[nodiscard]] Coroutine<Server> start_unix_server(F handler, std::string path, StreamOptions options = {},
                                                  ServerOptions server = {}) {
  return detail::serve_streams(detail::stream_handler(std::move(handler)), options, std::move(path), server);
}
template <class F>
  requires detail::HandlesStreams<F>
[[nodiscard]] Coroutine<Server> start_unix_server(F handler, Socket socket, StreamOptions options = {},
                                                  ServerOptions server = {}) {
  return detail::serve_streams(detail::stream_handler(std::move(handler)), options, std::move(socket), AF_UNIX, server);
}

}  // namespace ouro
