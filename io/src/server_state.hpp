// A server: its listeners, and how many connections it has.
//
// A Listener is one listening socket, its accept request, and the event in which connections that came are made
// transports. It is accepting (the request is in flight), at rest (a timer will start it anew, because the system had
// no descriptor or memory left for a connection) or closing. The descriptor is closed when the request has ended, since
// the kernel would go on listening else; so that nobody can connect meanwhile, it is shut down before.
//
// The server is kept by its loop's Network until it is closed, its listeners are too, and its last connection has
// ended: gone().
//
// Threads: the loop's, but for what is atomic, and for what never changes after create_server.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <ouro/io/detail/connections.hpp>
#include <ouro/io/detail/operation.hpp>
#include <ouro/io/protocols.hpp>
#include <ouro/io/servers.hpp>
#include <ouro/io/sockets.hpp>
#include <ouro/runtime/detail/atomic.hpp>
#include <ouro/runtime/detail/loop_event.hpp>
#include <ouro/runtime/events.hpp>
#include <ouro/runtime/futures.hpp>

#include "fd.hpp"

namespace ouro::detail {

class Network;

class Listener final : private Operation, private LoopEvent {
 public:
  // `path`: of a unix socket's file, which close() removes; or empty.
  Listener(ServerState& server, Socket socket, std::string path);
  ~Listener();

  int fileno() const noexcept { return socket_.fileno(); }
  // Throws: OSError.
  void start(int backlog);
  void close() noexcept;
  bool is_open() const noexcept { return static_cast<bool>(socket_); }
  // The loop ends.
  void end() noexcept;

 private:
  void complete(int result, unsigned flags) noexcept override;
  static const Kind event_kind;
  void happen();
  void accept();
  void go_on(int error);
  void rest(int error);
  void remove_file() noexcept;

  ServerState& server_;
  Socket socket_;
  std::string path_;
  dev_t device_ = 0;  // of the file
  ino_t inode_ = 0;
  std::vector<Fd> accepted_;
  TimerHandle timer_;
  int error_ = 0;       // with which the request ended
  unsigned rests_ = 0;  // one after the other
  bool resting_ = false;
  bool closing_ = false;
  bool ends_ = false;
};

class ServerState : public std::enable_shared_from_this<ServerState> {
 public:
  ServerState(Network& network, ProtocolFactory factory, int backlog)
      : network_(&network), loop_(network.loop), factory_(std::move(factory)), backlog_(backlog) {}

  void listen_on(Socket socket, std::string path) {
    listeners_.push_back(std::make_unique<Listener>(*this, std::move(socket), std::move(path)));
  }

  Network& network() const noexcept { return *network_; }
  EventLoop& loop() const noexcept { return loop_; }
  // It is closed, all has ended, and the loop may be gone.
  bool is_over() const noexcept { return over_.load(std::memory_order_relaxed); }
  std::vector<TransportSocket> sockets() const;
  bool is_serving() const noexcept { return serving_.load(std::memory_order_relaxed); }

  void start();
  void close();
  void close_clients(bool abort);
  // Makes a transport of it.
  void accepted(Fd fd);
  void attach() noexcept { ++active_; }
  void detach() {
    if (--active_ == 0) check_gone();
  }
  void check_gone();
  void report(const char* message, const std::exception_ptr& error) noexcept;
  // The loop ends.
  void end() noexcept;

  static Coroutine<> serve_forever(std::shared_ptr<ServerState> self);
  static Coroutine<> wait_closed(std::shared_ptr<ServerState> self);
  static Coroutine<bool> drain(std::shared_ptr<ServerState> self, Duration patience);

 private:
  bool gone() const noexcept;

  Network* network_;  // nullptr once it is over
  EventLoop& loop_;
  const ProtocolFactory factory_;
  const int backlog_;
  std::vector<std::unique_ptr<Listener>> listeners_;
  std::size_t active_ = 0;
  std::vector<Future<>> waiters_;
  std::optional<Future<>> forever_;
  // Relaxed: hints to other threads.
  Atomic<bool> serving_{false};
  Atomic<bool> closed_{false};
  Atomic<bool> over_{false};
};

}  // namespace ouro::detail
