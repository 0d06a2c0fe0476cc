// Servers: EventLoop's create_server and its kin give a Server.
#pragma once

#include <chrono>
#include <cstddef>
#include <memory>
#include <vector>

#include <ouro/io/sockets.hpp>
#include <ouro/runtime/clock.hpp>
#include <ouro/runtime/config.hpp>
#include <ouro/runtime/coroutine.hpp>

namespace ouro {

class EventLoop;

namespace detail {
class ServerState;
}  // namespace detail

// asyncio's backlog is 100. When a burst overflows it Linux sends SYN cookies, from which, where processors are busy,
// it may make a second connection of one that has ended: nobody is at its other end, and its handler waits for ever.
struct ServerOptions {
  int family = 0;              // AF_INET or AF_INET6 alone
  int backlog = 1024;          // connections that may wait to be accepted
  bool reuse_address = true;   // a port whose last connections still linger
  bool reuse_port = false;     // several servers of one port, among which the kernel distributes connections
  bool keep_alive = false;     // ask the other side now and then whether it is still there
  bool start_serving = true;   // false: only start_serving() or serve_forever() begin to accept
  bool cleanup_socket = true;  // close() removes the file of a unix socket, if it is still the server's
  bool spread = true;          // in a group, connections live on all its loops; false: on the server's
};

// Accepts connections, for each of which it makes a protocol. A handle: copies are the same server, and the loop keeps
// it alive until it is closed and its connections have ended, whether there is a handle or not.
//
// In a group the server uses all loops: its own accepts for all, and deals the connections out. Of the loop in turn and
// one other the one that has fewer of them gets the next, so that there are as many on each, however long they last. A
// connection stays on its loop: there the factory is called for it, its protocol is, and the task of its handler runs.
// So a factory, or a handler, is called on several loops at the same time, and what connections share needs locks; or
// ServerOptions::spread off, which keeps them all on the server's loop.
// Threads: the loop's; in a group, those of all its loops.
class OURO_EXPORT Server {
 public:
  // The sockets that it listens on; none once it is closed. Lifetime: until then.
  std::vector<TransportSocket> sockets() const;
  bool is_serving() const noexcept;
  // Lifetime: the loop's.
  EventLoop& get_loop() const noexcept;

  // Accepts from now on; again does nothing.
  // Throws: RuntimeError if it is closed, OSError. If cancelled: at once, before it began.
  [[nodiscard]] Coroutine<> start_serving();
  // The same, and waits. It ends by being cancelled, which close() does too: then CancelledError is thrown.
  // Throws: RuntimeError if it is closed, or being awaited already. If cancelled: the server is closed, and its
  // connections are awaited, before CancelledError is thrown; a second cancellation does not await them.
  [[nodiscard]] Coroutine<> serve_forever();

  // Accepts no more, and gives its addresses back; connections go on. Closing twice is harmless.
  void close();
  // Waits until it is closed, and all its connections have ended. If cancelled: CancelledError; nothing else changes.
  [[nodiscard]] Coroutine<> wait_closed();
  // Closes the connections that there are now, as their close() does; or as their abort() does. In a group each loop
  // does so soon; a connection that is on its way to its loop is met there.
  void close_clients();
  void abort_clients();

  // A graceful end: closes the server, gives its connections `patience` to end by themselves, and aborts those that
  // have not. True if there were none of these. If cancelled: CancelledError; the server is closed, and the connections
  // go on.
  [[nodiscard]] Coroutine<bool> drain(Duration patience);
  template <class Rep, class Period>
  [[nodiscard]] Coroutine<bool> drain(std::chrono::duration<Rep, Period> patience) {
    return drain(saturated(patience));
  }

  // For the library.
  explicit Server(std::shared_ptr<detail::ServerState> state) noexcept : state_(std::move(state)) {}

 private:
  template <class D>
  static Duration saturated(D patience) noexcept {
    return detail::saturating_duration(patience);
  }

  std::shared_ptr<detail::ServerState> state_;
};

}  // namespace ouro
