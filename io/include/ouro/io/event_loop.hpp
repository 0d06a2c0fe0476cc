// The loop that programs use: a BaseEventLoop that sleeps in io_uring, with the operations that need one.
#pragma once

#include <concepts>
#include <cstddef>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include <ouro/io/addresses.hpp>
#include <ouro/io/datagrams.hpp>
#include <ouro/io/detail/connections.hpp>
#include <ouro/io/detail/watchers.hpp>
#include <ouro/io/protocols.hpp>
#include <ouro/io/resolver.hpp>
#include <ouro/io/servers.hpp>
#include <ouro/io/sockets.hpp>
#include <ouro/io/transports.hpp>
#include <ouro/runtime/base_event_loop.hpp>
#include <ouro/runtime/clock.hpp>
#include <ouro/runtime/config.hpp>
#include <ouro/runtime/futures.hpp>
#include <ouro/runtime/parker.hpp>

namespace ouro {
namespace detail {
class Network;
class Proactor;
// What carries out the loop's operations; nullptr: it sleeps on something else.
Proactor* proactor_of(const EventLoop& loop) noexcept;
Network& network_of(EventLoop& loop);
// Ends the connections, servers and watches of a loop that is closed. Destructors of the program's run.
void end_network(EventLoop& loop) noexcept;
}  // namespace detail

// One event loop. A thread runs one at a time; a loop may be made on one thread and run on another.
//
// Its ring is made by the first run_* on the thread that calls it.
// Throws: from run_*, OSError that names the cause and the remedy if the system denies io_uring.
class OURO_EXPORT EventLoop : public BaseEventLoop {
 public:
  using ExceptionHandler = std::function<void(EventLoop&, const ExceptionContext&)>;

  EventLoop();
  // A loop that sleeps on something else, for policies that provide it.
  explicit EventLoop(std::unique_ptr<Parker> parker, const Clock& clock = Clock::steady());
  ~EventLoop() override;

  // Receives what nobody could catch; an empty function: the default handler, which writes to stderr.
  void set_exception_handler(ExceptionHandler handler);
  const ExceptionHandler& get_exception_handler() const noexcept { return handler_; }

  // ---- Descriptors ----

  // Calls `callback(args...)` once a turn for as long as `fd` can be read (written), or has an error or hung up; in
  // place of the callback that it had for that, and in a copy of the current context. If the kernel cannot watch it,
  // the exception handler hears of it, and it is watched no more.
  // Threads: the loop's. Throws: RuntimeError for a loop without a ring, ValueError for a negative descriptor.
  // Lifetime: call remove_* before the descriptor is closed.
  template <class F, class... Args>
    requires std::invocable<std::decay_t<F>&, std::decay_t<Args>&...>
  void add_reader(int fd, F&& callback, Args&&... args) {
    watch(fd, detail::Watchers::For::reading, std::forward<F>(callback), std::forward<Args>(args)...);
  }
  template <class F, class... Args>
    requires std::invocable<std::decay_t<F>&, std::decay_t<Args>&...>
  void add_writer(int fd, F&& callback, Args&&... args) {
    watch(fd, detail::Watchers::For::writing, std::forward<F>(callback), std::forward<Args>(args)...);
  }
  // The callback is not called any more, even if it stands in the queue already. False if there was none.
  bool remove_reader(int fd) { return watchers().remove(fd, detail::Watchers::For::reading); }
  bool remove_writer(int fd) { return watchers().remove(fd, detail::Watchers::For::writing); }

  // ---- Sockets ----
  //
  // Each is awaited by a task of this loop, or of one of its group: then it is the ring of the loop on which the task
  // runs that carries it out. One at a time on a socket for each direction.
  // Suspends: always, but for an empty sock_sendall. Throws: OSError, RuntimeError on another loop's task.
  // Lifetime: the socket and the buffer, until it has been awaited.

  // The next connection of a listening socket, and whose it is. If cancelled: CancelledError, unless a connection came
  // first: that is given, and the cancellation is due at the next await.
  [[nodiscard("it does nothing until it is awaited")]] detail::SockAccept sock_accept(const Socket& socket) {
    return detail::SockAccept(*this, socket);
  }
  // Connects, or for a datagram socket sets who the other side is. If cancelled: CancelledError, unless it ended first;
  // the socket is then of no use but to be closed.
  [[nodiscard("it does nothing until it is awaited")]] detail::SockConnect sock_connect(const Socket& socket,
                                                                                        const Address& address) {
    return detail::SockConnect(*this, socket, address);
  }
  // Up to `bytes` bytes; none: the other side has ended. If cancelled: CancelledError, unless data came first: that is
  // given, and the cancellation is due at the next await.
  [[nodiscard("it does nothing until it is awaited")]] detail::SockReceive sock_recv(const Socket& socket,
                                                                                     std::size_t bytes) {
    return detail::SockReceive(*this, socket, bytes);
  }
  // The same into `buffer`; gives how many. If cancelled: as sock_recv.
  [[nodiscard("it does nothing until it is awaited")]] detail::SockReceiveInto sock_recv_into(
      const Socket& socket, std::span<std::byte> buffer) {
    return detail::SockReceiveInto(*this, socket, buffer);
  }
  // A datagram, cut off at `bytes` bytes, and its sender. If cancelled: as sock_recv.
  [[nodiscard("it does nothing until it is awaited")]] detail::SockReceiveFrom sock_recvfrom(const Socket& socket,
                                                                                             std::size_t bytes) {
    return detail::SockReceiveFrom(*this, socket, bytes);
  }
  // The same into `buffer`; gives how many bytes, too. If cancelled: as sock_recv.
  [[nodiscard("it does nothing until it is awaited")]] detail::SockReceiveFromInto sock_recvfrom_into(
      const Socket& socket, std::span<std::byte> buffer) {
    return detail::SockReceiveFromInto(*this, socket, buffer);
  }
  // Sends all of it. If cancelled: CancelledError, and how much was sent is unknown; unless all was.
  [[nodiscard("it does nothing until it is awaited")]] detail::SockSendAll sock_sendall(
      const Socket& socket, std::span<const std::byte> data) {
    return detail::SockSendAll(*this, socket, data);
  }
  [[nodiscard("it does nothing until it is awaited")]] detail::SockSendAll sock_sendall(const Socket& socket,
                                                                                        std::string_view data) {
    return detail::SockSendAll(*this, socket, std::as_bytes(std::span(data)));
  }
  // Sends one datagram; gives how many bytes went. A unix socket whose other side has no room is tried again each turn.
  // If cancelled: CancelledError, unless it was sent.
  [[nodiscard("it does nothing until it is awaited")]] detail::SockSendTo sock_sendto(const Socket& socket,
                                                                                      std::span<const std::byte> data,
                                                                                      const Address& address) {
    return detail::SockSendTo(*this, socket, data, address);
  }
  [[nodiscard("it does nothing until it is awaited")]] detail::SockSendTo sock_sendto(const Socket& socket,
                                                                                      std::string_view data,
                                                                                      const Address& address) {
    return detail::SockSendTo(*this, socket, std::as_bytes(std::span(data)), address);
  }

  // ---- Connections and servers ----
  //
  // `factory` is called without arguments and gives a std::unique_ptr or std::shared_ptr to the protocol of a new
  // connection: a class that derives from Protocol or BufferedProtocol. The transport keeps it. Transports and servers
  // belong to this loop, whichever loop of a group the caller runs on; what a server accepts to any of the group's,
  // where its factory is called, perhaps on several at the same time (servers.hpp).

  // Connects to a host, by name or in numbers, trying one of its addresses after the other; or, with
  // happy_eyeballs_delay, several at once. Gives the transport, and the protocol, whose connection_made() has returned.
  // Throws: what the lookup or the attempts do (happy_eyeballs.hpp says how many errors become one), what the factory
  // does; nothing is left open then. If cancelled: so are the attempts; when they have ended CancelledError is thrown.
  template <class F>
    requires detail::MakesProtocols<F>
  [[nodiscard]] auto create_connection(F factory, std::string_view host, int port, ConnectionOptions options = {})
      -> Coroutine<detail::Connection<detail::protocol_of_t<F>>> {
    return detail::pinned(*this, detail::connect(*this, std::move(factory),
                                                 detail::connect_to_host(*this, std::string(host), port, options)));
  }
  // With a stream socket that is connected, and belongs to the transport from now on.
  // Throws: ValueError for any other socket.
  template <class F>
    requires detail::MakesProtocols<F>
  [[nodiscard]] auto create_connection(F factory, Socket socket)
      -> Coroutine<detail::Connection<detail::protocol_of_t<F>>> {
    return detail::pinned(*this, detail::connect(*this, std::move(factory), detail::use_socket(std::move(socket), 0)));
  }
  // The same to a unix socket: its path, or an abstract name with its leading NUL. If cancelled: CancelledError.
  template <class F>
    requires detail::MakesProtocols<F>
  [[nodiscard]] auto create_unix_connection(F factory, std::string_view path)
      -> Coroutine<detail::Connection<detail::protocol_of_t<F>>> {
    return detail::pinned(
        *this, detail::connect(*this, std::move(factory), detail::connect_to_path(*this, std::string(path))));
  }
  template <class F>
    requires detail::MakesProtocols<F>
  [[nodiscard]] auto create_unix_connection(F factory, Socket socket)
      -> Coroutine<detail::Connection<detail::protocol_of_t<F>>> {
    return detail::pinned(*this,
                          detail::connect(*this, std::move(factory), detail::use_socket(std::move(socket), AF_UNIX)));
  }

  // Listens on all addresses of a host, or of several, each but once; the empty host is all interfaces. Port 0 is one
  // of the kernel's choice for each address: sockets() tells which.
  // Throws: what the lookup does, OSError; nothing is left open then. If cancelled: CancelledError, and there is no
  // server.
  template <class F>
    requires detail::MakesProtocols<F>
  [[nodiscard]] Coroutine<Server> create_server(F factory, std::string_view host, int port,
                                                ServerOptions options = {}) {
    std::vector<std::string> hosts(1, std::string(host));
    return create_server(std::move(factory), std::move(hosts), port, options);
  }
  template <class F>
    requires detail::MakesProtocols<F>
  [[nodiscard]] Coroutine<Server> create_server(F factory, std::vector<std::string> hosts, int port,
                                                ServerOptions options = {}) {
    return detail::pinned(
        *this, detail::serve_hosts(*this, detail::any_protocol(std::move(factory)), std::move(hosts), port, options));
  }
  // On a stream socket that is bound, and belongs to the server from now on; its mode stays as it is, and what else has
  // it, in other processes say, goes on listening when the server is closed. Throws: ValueError for any other socket.
  template <class F>
    requires detail::MakesProtocols<F>
  [[nodiscard]] Coroutine<Server> create_server(F factory, Socket socket, ServerOptions options = {}) {
    return detail::pinned(
        *this, detail::serve_socket(*this, detail::any_protocol(std::move(factory)), std::move(socket), 0, options));
  }
  // On a unix socket: its path, where a socket that nobody serves any more is replaced, or an abstract name.
  // Throws: OSError. If cancelled: as create_server.
  template <class F>
    requires detail::MakesProtocols<F>
  [[nodiscard]] Coroutine<Server> create_unix_server(F factory, std::string_view path, ServerOptions options = {}) {
    return detail::pinned(
        *this, detail::serve_path(*this, detail::any_protocol(std::move(factory)), std::string(path), options));
  }
  template <class F>
    requires detail::MakesProtocols<F>
  [[nodiscard]] Coroutine<Server> create_unix_server(F factory, Socket socket, ServerOptions options = {}) {
    return detail::pinned(*this, detail::serve_socket(*this, detail::any_protocol(std::move(factory)),
                                                      std::move(socket), AF_UNIX, options));
  }

  // ---- Datagrams ----

  // An endpoint that is bound to the local address of the options, and connected to the remote one; of the addresses
  // that the lookups find, the first of each family is tried. A unix socket without a local path has no name, and
  // nobody can answer it; a file at the path that is a socket is replaced, and stays when the endpoint is closed.
  // `factory` is called as above and gives a class that derives from DatagramProtocol. Gives the transport, and the
  // protocol, whose connection_made() has returned. Both belong to this loop.
  // Throws: ValueError for options that do not fit together, what the lookups do, OSError, what the factory does;
  // nothing is left open then. If cancelled: CancelledError, and there is no endpoint.
  template <class F>
    requires detail::MakesDatagramProtocols<F>
  [[nodiscard]] auto create_datagram_endpoint(F factory, DatagramOptions options)
      -> Coroutine<detail::Endpoint<detail::protocol_of_t<F>>> {
    return detail::pinned(*this,
                          detail::open_endpoint(*this, std::move(factory),
                                                detail::make_endpoint_socket(*this, detail::EndpointPlan(options))));
  }
  // On a datagram socket, bound and connected or not, which belongs to the transport from now on; its mode stays as it
  // is. Throws: ValueError for any other socket.
  template <class F>
    requires detail::MakesDatagramProtocols<F>
  [[nodiscard]] auto create_datagram_endpoint(F factory, Socket socket)
      -> Coroutine<detail::Endpoint<detail::protocol_of_t<F>>> {
    return detail::pinned(
        *this, detail::open_endpoint(*this, std::move(factory), detail::use_endpoint_socket(std::move(socket))));
  }

  // ---- Names ----

  // As the functions of the same names (resolver.hpp), with this loop's default executor. If cancelled: as these.
  [[nodiscard]] Future<std::vector<AddressInfo>> getaddrinfo(std::string_view host, std::string_view service,
                                                             AddressInfoOptions options = {});
  [[nodiscard]] Future<std::vector<AddressInfo>> getaddrinfo(std::string_view host, int port,
                                                             AddressInfoOptions options = {});
  [[nodiscard]] Future<NameInfo> getnameinfo(const Address& address, int flags = 0);

 private:
  friend detail::Proactor* detail::proactor_of(const EventLoop& loop) noexcept;
  friend detail::Network& detail::network_of(EventLoop& loop);
  friend void detail::end_network(EventLoop& loop) noexcept;

  detail::Watchers& watchers();
  template <class F, class... Args>
  void watch(int fd, detail::Watchers::For what, F&& callback, Args&&... args) {
    using Callback = detail::TypedWatchCallback<std::decay_t<F>, std::decay_t<Args>...>;
    watchers().add(fd, what, std::make_unique<Callback>(std::forward<F>(callback), std::forward<Args>(args)...));
  }

  ExceptionHandler handler_;
  detail::Proactor* proactor_ = nullptr;
  std::unique_ptr<detail::Watchers> watchers_;
  std::unique_ptr<detail::Network> network_;
};

}  // namespace ouro
