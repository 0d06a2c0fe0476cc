// A server: its listeners, and how many connections it has.
//
// A Listener is one listening socket, its accept request, and the event in which connections that came are made
// transports. It is accepting (the request is in flight), at rest (a timer will start it anew, because the system had
// no descriptor or memory left for a connection) or closing. The descriptor is closed when the request has ended, since
// the kernel would go on listening else. So that nobody can connect meanwhile, it is shut down before; but not if the
// caller gave it: it may listen for other processes too, which have it from a parent or from systemd, and a shutdown is
// for all of them. For the same reason its options and its mode stay as they are. If that is non-blocking, a request
// that finds no connection ends with EAGAIN, and the listener waits until there is one (polls_) before it asks again.
//
// The server is kept by its loop's Network until it is closed, its listeners are too, and its last connection has
// ended: gone().
//
// Calls of the factory, and of the protocols, see copies of the context in which the server was made, each connection
// its own.
//
// Threads: the loop's, but for what is atomic, and for what never changes after create_server. Who sees over_ (acquire)
// sees that network_ is nullptr, and may use the rest of the state, which does not change any more.
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
#include <ouro/runtime/detail/context_state.hpp>
#include <ouro/runtime/detail/loop_event.hpp>
#include <ouro/runtime/events.hpp>
#include <ouro/runtime/futures.hpp>

#include "fd.hpp"

namespace ouro::detail {

class Network;

class Listener final : private Operation, private LoopEvent {
 public:
  // Whose socket it was before.
  enum class From : bool { library, caller };
  // `path`: of a unix socket's file, which close() removes; or empty.
  Listener(ServerState& server, Socket socket, From from, std::string path);
  ~Listener();

  // What it was, once it is closed. Threads: any.
  int fileno() const noexcept { return fd_; }
  // Each may be repeated. Throws: OSError.
  void listen(int backlog) { socket_.listen(backlog); }
  void start();
  void close() noexcept;
  bool is_open() const noexcept { return static_cast<bool>(socket_); }
  // The loop ends.
  void end() noexcept;

 private:
  void complete(int result, unsigned flags) noexcept override;
  static const Kind event_kind;
  void happen();
  void accept();
  void take_accepted();
  void go_on(int error);
  void rest(int error);
  void remove_file() noexcept;

  ServerState& server_;
  Socket socket_;
  const int fd_;
  const From from_;
  std::string path_;
  dev_t device_ = 0;  // of the file
  ino_t inode_ = 0;
  std::vector<Fd> accepted_;
  std::size_t taken_ = 0;  // so many of them are transports, or closed
  TimerHandle timer_;
  int error_ = 0;       // with which the request ended
  unsigned rests_ = 0;  // one after the other
  bool polls_ = false;  // the request asks whether there is a connection
  bool resting_ = false;
  bool closing_ = false;
  bool ends_ = false;
};

class ServerState : public std::enable_shared_from_this<ServerState> {
 public:
  ServerState(Network& network, ProtocolFactory factory, int backlog)
      : network_(&network),
        loop_(network.loop),
        home_(loop_.state()),
        factory_(std::move(factory)),
        backlog_(backlog),
        context_(contexts_in_use() ? current_map() : MapRef()) {}

  void listen_on(Socket socket, Listener::From from, std::string path) {
    listeners_.push_back(std::make_unique<Listener>(*this, std::move(socket), from, std::move(path)));
  }

  Network& network() const noexcept { return *network_; }
  EventLoop& loop() const noexcept { return loop_; }
  // Of the loop. Requires: it is not over, or another loop of the group lives.
  LoopState& home() const noexcept { return home_; }
  // It is closed, all has ended, and the loop may be gone. Acquire: pairs with become_over().
  bool is_over() const noexcept { return over_.load(std::memory_order_acquire); }
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
  void become_over() noexcept;
  void check_open() const;
  std::shared_ptr<StreamProtocol> make_protocol(const CellRef& context);

  Network* network_;  // nullptr once it is over
  EventLoop& loop_;
  LoopState& home_;
  const ProtocolFactory factory_;
  const int backlog_;
  const MapRef context_;  // what the variables were when it was made
  std::vector<std::unique_ptr<Listener>> listeners_;
  std::size_t active_ = 0;
  std::vector<Future<>> waiters_;
  std::optional<Future<>> forever_;
  // Relaxed: hints to other threads.
  Atomic<bool> serving_{false};
  Atomic<bool> closed_{false};
  Atomic<bool> over_{false};  // release and acquire: become_over(), is_over()
};

}  // namespace ouro::detail
