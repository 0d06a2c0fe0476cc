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
// Which loop a connection lives on. The listeners are on the server's loop, its home, for all time. Home accepts; on a
// loop that is alone, or with ServerOptions::spread off, it keeps what comes. In a group it deals connections out: of
// the loop in turn, and one other, the one that has fewer of this server's gets the next; the one in turn if they have
// as many (M. Mitzenmacher, The Power of Two Choices in Randomized Load Balancing, doi:10.1109/71.963420; here one goes
// by turns, and the other is a different one in each round: that needs no random numbers, and is exact while none has
// ended). A message takes the descriptor to the loop, which calls the factory, makes the transport, and keeps it. A
// loop that has left too many of these lying, since it is busy with something long, gets no more; if that is so of
// both, home keeps the connection.
//
// The end. active_ counts the connections, those on their way too, and one more for the listeners until the last of
// these is closed. Home raises it, when a listener gives it a connection: so never from zero. Whoever has ended one of
// what it counts lowers it: the loop of a connection, or home. So it is zero once, after all that was ever accepted,
// and exactly one decrement makes it so, be it that of close() or of any connection. That one has the rest done at
// home, become_gone(): at once if it is there, else by posting the server, which is an event and so needs no memory to
// be sent. Home's Network keeps the server until then.
//
// close_clients() at home sends each loop that has connections a message. Each loop takes its messages in the order in
// which home sent them, so it comes behind all connections that were dealt out before.
//
// The end of the loop. Loops of a group end together, when none of them runs any more. Messages that were not taken go
// with their loop's inbox, and close what they hold; transports end without detach(), so active_ stays as it is, and
// nobody waits for it. A server that was posted is dropped with home's inbox, which is shut before the Network goes.
//
// Calls of the factory, and of the protocols, see copies of the context in which the server was made, each connection
// its own.
//
// Threads: home's, but for
//   what never changes after create_server: the factory, which all loops call, the context, which loops are dealt to;
//   active_ and the counts of a Share: home raises them, the loop of a connection lowers them;
//   closed_, serving_: written by home, hints to others;
//   over_: who sees it (acquire) sees that network_ is nullptr, and may use the rest, which does not change any more;
//   the last reference, which may go on any thread: by then nothing is left that is home's.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <exception>
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

class ServerState : public std::enable_shared_from_this<ServerState>, private LoopEvent {
 public:
  ServerState(Network& network, ProtocolFactory factory, const ServerOptions& options);

  void listen_on(Socket socket, Listener::From from, std::string path) {
    listeners_.push_back(std::make_unique<Listener>(*this, std::move(socket), from, std::move(path)));
    ++open_listeners_;
  }

  Network& network() const noexcept { return *network_; }
  EventLoop& loop() const noexcept { return loop_; }
  // Of the loop. Requires: it is not over, or another loop of the group lives.
  using LoopEvent::home;
  // It is closed, all has ended, and the loop may be gone. Acquire: pairs with become_over().
  bool is_over() const noexcept { return over_.load(std::memory_order_acquire); }
  std::vector<TransportSocket> sockets() const;
  bool is_serving() const noexcept { return serving_.load(std::memory_order_relaxed); }

  void start();
  void close();
  void close_clients(bool abort);
  // A listener has it.
  void accepted(Fd fd);
  // A listener that was open is closed. The last one may take the server with it.
  void listener_closed() {
    if (--open_listeners_ == 0) leave();
  }
  // A connection has ended. Threads: that of `on`, the loop on which it was. Lifetime: the caller's reference, to its
  // end.
  void detach(const LoopState& on);
  // Threads: that of `loop`.
  static void report(EventLoop& loop, const char* message, const std::exception_ptr& error) noexcept;
  // The loop ends.
  void end() noexcept;

  static Coroutine<> serve_forever(std::shared_ptr<ServerState> self);
  static Coroutine<> wait_closed(std::shared_ptr<ServerState> self);
  static Coroutine<bool> drain(std::shared_ptr<ServerState> self, Duration patience);

 private:
  // What a loop has of the server's connections. On a line of its own: two loops write it.
  struct alignas(64) Share {
    LoopState* loop = nullptr;
    // Relaxed: nobody learns anything else from them; active_ says when all have ended.
    Atomic<std::uint32_t> connections{0};
    Atomic<std::uint32_t> on_their_way{0};  // so many of them
  };

  static const Kind event_kind;
  // Acquire: pairs with the release in leave().
  bool gone() const noexcept { return active_.load(std::memory_order_acquire) == 0; }
  bool has_connections() const noexcept;
  void leave();
  void become_gone();
  void become_over() noexcept;
  void check_open() const;
  void deal_to_all_of_group();
  Share& share_of(const LoopState& loop) noexcept;
  Share& next_share() noexcept;
  void deal(Fd fd);
  void arrive(LoopState& loop, Fd fd);
  void connect(LoopState& on, Fd fd);
  static void close_clients_on(EventLoop& loop, const ServerState& server, bool abort);
  std::shared_ptr<StreamProtocol> make_protocol(const CellRef& context);

  Network* network_;  // nullptr once it is over
  EventLoop& loop_;
  const ProtocolFactory factory_;
  const int backlog_;
  const std::uint32_t most_on_their_way_;  // to one loop: all that waited to be accepted may come at once
  const MapRef context_;                   // what the variables were when it was made
  std::vector<std::unique_ptr<Listener>> listeners_;
  std::size_t open_listeners_ = 0;
  std::vector<Share> shares_;  // of each loop of the group, by its place; empty: all connections stay at home
  std::size_t turn_ = 0;       // whose share had the last one by turns
  std::size_t step_ = 1;       // from that to the other choice
  std::vector<Future<>> waiters_;
  std::optional<Future<>> forever_;
  // Zero: all has ended. The last decrement (acquire-release) has seen all others. On a loop that keeps all connections
  // home alone writes it, and no instruction is atomic.
  Atomic<std::size_t> active_{1};
  // Relaxed: hints to other threads.
  Atomic<bool> serving_{false};
  Atomic<bool> closed_{false};
  Atomic<bool> over_{false};  // release and acquire: become_over(), is_over()
};

}  // namespace ouro::detail
