// How connections and servers are made: what EventLoop's create_connection, create_server and their kin are made of.
//
// All that is made here belongs to the loop whose function was called; what a server accepts, to any loop of its group.
// In a group the caller may float, and be on
// another loop after each await: so the work is done by a task that is pinned there.
#pragma once

#include <concepts>
#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include <ouro/io/detail/happy_eyeballs.hpp>
#include <ouro/io/protocols.hpp>
#include <ouro/io/servers.hpp>
#include <ouro/io/sockets.hpp>
#include <ouro/io/transports.hpp>
#include <ouro/runtime/base_event_loop.hpp>
#include <ouro/runtime/config.hpp>
#include <ouro/runtime/coroutine.hpp>
#include <ouro/runtime/tasks.hpp>

namespace ouro {

struct ConnectionOptions {
  int family = 0;                              // AF_INET or AF_INET6 alone
  int protocol = 0;                            // IPPROTO_TCP, ...
  int flags = 0;                               // of getaddrinfo
  Address local_addr = {};                     // what the socket is bound to before it connects
  OptionalDelay happy_eyeballs_delay = {};     // after that time the next address is tried too
  std::optional<std::size_t> interleave = {};  // so many of the first family first; 1 with a delay, else 0
  bool all_errors = false;                     // if all addresses fail, an ExceptionGroup instead of one error
};

namespace detail {

// What was made, and nobody will have, is given up.
template <class T, class P>
void undo(const std::pair<std::shared_ptr<T>, std::shared_ptr<P>>& connection) {
  connection.first->abort();
}
inline void undo(Server server) { server.close(); }
inline void undo(bool) noexcept {}

// Runs the work on `loop` in a group, and where the caller is if the loop is alone. A caller who is cancelled when the
// task has just ended gets neither its result nor its error.
template <class T>
Coroutine<T> pinned(BaseEventLoop& loop, Coroutine<T> work) {
  if (!loop.state().worker) co_return co_await std::move(work);
  Task<T> task = loop.create_task(std::move(work));
  std::exception_ptr cancelled;
  try {
    co_return co_await task;
  } catch (const CancelledError&) {
    cancelled = std::current_exception();
  }
  if (task.done() && !task.cancelled() && !task.exception()) {
    if constexpr (!std::is_void_v<T>) undo(task.result());
  }
  std::rethrow_exception(cancelled);
}

using ProtocolFactory = std::function<std::shared_ptr<StreamProtocol>()>;

// What a factory makes: it gives a std::unique_ptr or a std::shared_ptr to a protocol.
template <class F>
using protocol_of_t = typename std::remove_cvref_t<std::invoke_result_t<F&>>::element_type;

template <class F>
concept MakesProtocols = std::invocable<F&> && std::derived_from<protocol_of_t<F>, StreamProtocol> &&
                         std::convertible_to<std::invoke_result_t<F&>, std::shared_ptr<protocol_of_t<F>>>;

// A connection that was made: with whom it speaks, and who speaks for us.
template <class P>
using Connection = std::pair<std::shared_ptr<Transport>, std::shared_ptr<P>>;

// A stream socket that is connected to the host.
OURO_EXPORT Coroutine<Socket> connect_to_host(EventLoop& loop, std::string host, int port, ConnectionOptions options);
OURO_EXPORT Coroutine<Socket> connect_to_path(EventLoop& loop, std::string path);
// Checks that it is a stream socket. Throws: ValueError.
OURO_EXPORT Coroutine<Socket> use_socket(Socket socket, int family);

// Calls connection_made(). On the loop's thread.
OURO_EXPORT std::shared_ptr<Transport> start_transport(EventLoop& loop, Socket socket,
                                                       std::shared_ptr<StreamProtocol> protocol);

template <class F>
Coroutine<Connection<protocol_of_t<F>>> connect(EventLoop& loop, F factory, Coroutine<Socket> connecting) {
  Socket socket = co_await std::move(connecting);
  std::shared_ptr<protocol_of_t<F>> protocol = factory();
  std::shared_ptr<Transport> transport = start_transport(loop, std::move(socket), protocol);
  co_return Connection<protocol_of_t<F>>(std::move(transport), std::move(protocol));
}

OURO_EXPORT Coroutine<Server> serve_hosts(EventLoop& loop, ProtocolFactory factory, std::vector<std::string> hosts,
                                          int port, ServerOptions options);
OURO_EXPORT Coroutine<Server> serve_path(EventLoop& loop, ProtocolFactory factory, std::string path,
                                         ServerOptions options);
OURO_EXPORT Coroutine<Server> serve_socket(EventLoop& loop, ProtocolFactory factory, Socket socket, int family,
                                           ServerOptions options);

template <class F>
ProtocolFactory any_protocol(F factory) {
  return [factory = std::move(factory)]() mutable -> std::shared_ptr<StreamProtocol> { return factory(); };
}

}  // namespace detail
}  // namespace ouro
