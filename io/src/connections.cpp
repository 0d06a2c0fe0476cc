// Sockets that connect, sockets that listen, and what is made of both.
#include <ouro/io/detail/connections.hpp>

#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include <ouro/io/errors.hpp>
#include <ouro/io/event_loop.hpp>
#include <ouro/io/resolver.hpp>
#include <ouro/runtime/detail/context_state.hpp>
#include <ouro/runtime/exceptions.hpp>

#include "fd.hpp"
#include "network.hpp"
#include "server_state.hpp"
#include "socket_transport.hpp"

namespace ouro::detail {

namespace {

bool is_internet(int family) noexcept { return family == AF_INET || family == AF_INET6; }

// Small writes are not held back until the other side has confirmed the last one.
void set_nodelay(const Socket& socket, int family) noexcept {
  const int on = 1;
  if (is_internet(family)) ::setsockopt(socket.fileno(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

// The ring waits by itself only for a descriptor in blocking mode. Requires: it is a connection's, which nobody shares.
void make_blocking(const Socket& socket) noexcept {
  const int flags = ::fcntl(socket.fileno(), F_GETFL);
  if (flags >= 0 && (flags & O_NONBLOCK) != 0) ::fcntl(socket.fileno(), F_SETFL, flags & ~O_NONBLOCK);
}

void check_stream(const Socket& socket, int family) {
  if (!socket) throw ValueError("a socket was expected, and this one is closed");
  if (socket.type() != SOCK_STREAM) throw ValueError("A Stream Socket was expected, got another type");
  if (family != 0 && socket.family() != family) throw ValueError("A UNIX Domain Stream Socket was expected");
}

void bind_to(Socket& socket, const Address& address) {
  if (::bind(socket.fileno(), address.data(), static_cast<socklen_t>(address.size())) == 0) return;
  const int error = errno;
  throw_os_error(error, "bind", address.str(), {},
                 "error while attempting to bind on address " + address.str() + ": " + std::string(::strerror(error)));
}

Coroutine<Socket> connect_one(EventLoop& loop, AddressInfo info, Address local) {
  Socket socket(info.family, info.type, info.protocol);
  if (local) {
    if (local.family() != info.family) {
      throw_os_error(EADDRNOTAVAIL, "bind", local.str(), {},
                     "no matching local address with family=" + std::to_string(info.family) + " found");
    }
    bind_to(socket, local);
  }
  co_await loop.sock_connect(socket, info.address);
  set_nodelay(socket, info.family);
  co_return socket;
}

struct ConnectOne {
  EventLoop* loop;
  Address local;
  Coroutine<Socket> operator()(AddressInfo info) const { return connect_one(*loop, std::move(info), local); }
};

}  // namespace

// ---- Connections ----

Coroutine<Socket> connect_to_host(EventLoop& loop, std::string host, int port, ConnectionOptions options) {
  AddressInfoOptions wanted;
  wanted.family = options.family;
  wanted.type = SOCK_STREAM;
  wanted.protocol = options.protocol;
  wanted.flags = options.flags;
  std::vector<AddressInfo> infos = co_await look_up(loop, host, port, wanted);
  ConnectOrder order;
  order.delay = options.happy_eyeballs_delay;
  order.interleave = options.interleave;
  order.all_errors = options.all_errors;
  ConnectOne connect{&loop, options.local_addr};
  Coroutine<Socket> connecting = connect_to_any<Socket>(std::move(infos), connect, order);
  co_return co_await std::move(connecting);
}

Coroutine<Socket> connect_to_path(EventLoop& loop, std::string path) {
  const Address address = Address::unix_path(path);
  Socket socket(AF_UNIX);
  co_await loop.sock_connect(socket, address);
  co_return socket;
}

Coroutine<Socket> use_socket(Socket socket, int family) {
  check_stream(socket, family);
  make_blocking(socket);
  set_nodelay(socket, socket.family());
  co_return socket;
}

std::shared_ptr<Transport> start_transport(EventLoop& loop, Socket socket, std::shared_ptr<StreamProtocol> protocol) {
  if (!protocol) throw ValueError("the protocol factory gave no protocol");
  Fd fd(socket.detach());
  CellRef context;
  if (OURO_UNLIKELY(contexts_in_use())) context = CellRef(ContextCell::make(current_map()));
  auto transport = std::make_shared<SocketTransport>(network_of(loop), std::move(fd), std::move(protocol), nullptr,
                                                     std::move(context));
  transport->begin();
  return transport;
}

// ---- Servers ----

namespace {

// Nothing, where the family is not to be had on this machine.
Socket bound(const AddressInfo& info, const ServerOptions& options) {
  const int fd = ::socket(info.family, info.type | SOCK_CLOEXEC, info.protocol);
  if (fd < 0 && (errno == EAFNOSUPPORT || errno == EPROTONOSUPPORT)) return Socket();
  if (fd < 0) throw_os_error(errno, "socket", info.address.str());
  Socket socket = Socket::adopt(fd);
  if (options.reuse_address) socket.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1);
  if (options.reuse_port && is_internet(info.family)) socket.setsockopt(SOL_SOCKET, SO_REUSEPORT, 1);
  if (options.keep_alive) socket.setsockopt(SOL_SOCKET, SO_KEEPALIVE, 1);
  if (info.family == AF_INET6) socket.setsockopt(IPPROTO_IPV6, IPV6_V6ONLY, 1);
  try {
    bind_to(socket, info.address);
  } catch (const OSError& error) {
    if (error.errno_value() != EADDRNOTAVAIL) throw;
    return Socket();
  }
  set_nodelay(socket, info.family);  // those that it accepts have it from here
  return socket;
}

Server finish_server(EventLoop& loop, std::shared_ptr<ServerState> state, const ServerOptions& options) {
  network_of(loop).keep(state);
  if (options.start_serving) {
    try {
      state->start();
    } catch (...) {
      state->close();
      throw;
    }
  }
  return Server(std::move(state));
}

}  // namespace

void remove_stale_file(const std::string& path) noexcept {
  struct stat file;
  if (path.empty() || path.front() == '\0' || ::stat(path.c_str(), &file) != 0 || !S_ISSOCK(file.st_mode)) return;
  ::unlink(path.c_str());
}

Coroutine<Server> serve_hosts(EventLoop& loop, ProtocolFactory factory, std::vector<std::string> hosts, int port,
                              ServerOptions options) {
  AddressInfoOptions wanted;
  wanted.family = options.family;
  wanted.type = SOCK_STREAM;
  wanted.flags = AI_PASSIVE;
  if (hosts.empty()) hosts.emplace_back();
  std::vector<AddressInfo> infos;
  for (const std::string& host : hosts) {
    const std::vector<AddressInfo> found = co_await look_up(loop, host, port, wanted);
    for (const AddressInfo& info : found) {
      const auto same = [&info](const AddressInfo& known) { return known.address == info.address; };
      if (std::none_of(infos.begin(), infos.end(), same)) infos.push_back(info);
    }
  }
  auto state = std::make_shared<ServerState>(network_of(loop), std::move(factory), options);
  bool any = false;
  for (const AddressInfo& info : infos) {
    Socket socket = bound(info, options);
    if (!socket) continue;
    any = true;
    state->listen_on(std::move(socket), Listener::From::library, {});
  }
  if (!any) {
    std::string all;
    for (const AddressInfo& info : infos) all.append(all.empty() ? "" : ", ").append(info.address.str());
    throw_os_error(EADDRNOTAVAIL, "bind", all, {}, "could not bind on any address out of " + all);
  }
  co_return finish_server(loop, std::move(state), options);
}

Coroutine<Server> serve_path(EventLoop& loop, ProtocolFactory factory, std::string path, ServerOptions options) {
  const Address address = Address::unix_path(path);
  Socket socket(AF_UNIX);
  remove_stale_file(path);
  if (::bind(socket.fileno(), address.data(), static_cast<socklen_t>(address.size())) != 0) {
    const int error = errno;
    if (error == EADDRINUSE) {
      throw_os_error(error, "bind", address.str(), {}, "Address " + address.str() + " is already in use");
    }
    throw_os_error(error, "bind", address.str());
  }
  auto state = std::make_shared<ServerState>(network_of(loop), std::move(factory), options);
  if (!options.cleanup_socket || path.empty() || path.front() == '\0') path.clear();
  state->listen_on(std::move(socket), Listener::From::library, std::move(path));
  co_return finish_server(loop, std::move(state), options);
}

Coroutine<Server> serve_socket(EventLoop& loop, ProtocolFactory factory, Socket socket, int family,
                               ServerOptions options) {
  check_stream(socket, family);
  auto state = std::make_shared<ServerState>(network_of(loop), std::move(factory), options);
  std::string path = socket.getsockname().path();
  if (!options.cleanup_socket || path.empty() || path.front() == '\0') path.clear();
  state->listen_on(std::move(socket), Listener::From::caller, std::move(path));
  co_return finish_server(loop, std::move(state), options);
}

}  // namespace ouro::detail
