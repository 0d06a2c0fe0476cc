// A Transport over a stream socket. How it works is at the head of socket_transport.cpp.
#pragma once

#include <any>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <ouro/io/addresses.hpp>
#include <ouro/io/detail/operation.hpp>
#include <ouro/io/transports.hpp>
#include <ouro/runtime/detail/atomic.hpp>
#include <ouro/runtime/detail/context_state.hpp>
#include <ouro/runtime/detail/loop_event.hpp>
#include <ouro/runtime/detail/spin_lock.hpp>
#include <ouro/runtime/exceptions.hpp>

#include "fd.hpp"
#include "network.hpp"
#include "ring_buffers.hpp"

namespace ouro::detail {

class SendQueue;
class ServerState;

class SocketTransport final : public Transport,
                              public std::enable_shared_from_this<SocketTransport>,
                              private LoopEvent,
                              private Operation {
 public:
  // Takes the descriptor over; `server`: of which this is a connection, or nullptr.
  // `context`: that of all calls of the protocol; or nullptr.
  SocketTransport(Network& network, Fd fd, std::shared_ptr<StreamProtocol> protocol,
                  std::shared_ptr<ServerState> server, CellRef context);
  ~SocketTransport() override;

  // Calls connection_made(), and starts to read. From here to connection_lost() the loop keeps it alive.
  void begin();
  // A request of its queue has ended.
  void sent(int error) noexcept;
  // The loop ends: as if it had never been, but for what the kernel has been given.
  void end() noexcept;
  bool is_of(const ServerState& server) const noexcept { return server_.get() == &server; }

  void close() override;
  bool is_closing() const noexcept override { return closing_.load(std::memory_order_relaxed); }
  bool is_reading() const noexcept override { return !paused_ && !is_closing(); }
  void pause_reading() override;
  void resume_reading() override;
  using WriteTransport::write;
  using WriteTransport::writelines;
  void write(std::span<const std::byte> data) override;
  void write_soon(std::span<const std::byte> data) override;
  void writelines(std::span<const std::span<const std::byte>> pieces) override;
  void write_eof() override;
  bool can_write_eof() const noexcept override { return true; }
  void abort() override;
  std::size_t get_write_buffer_size() const noexcept override;
  WriteBufferLimits get_write_buffer_limits() const noexcept override { return {.low = low_, .high = high_}; }
  using WriteTransport::set_write_buffer_limits;
  void set_write_buffer_limits(WriteBufferLimits limits) override;
  void set_protocol(std::shared_ptr<StreamProtocol> protocol) override;
  std::shared_ptr<StreamProtocol> get_protocol() const noexcept override { return protocol_; }
  std::shared_ptr<Transport> share() override { return shared_from_this(); }
  EventLoop& get_loop() const noexcept override { return loop_; }

 private:
  friend class Network;
  struct Rare {
    std::string backlog;                                   // received, but reading was paused
    std::vector<std::shared_ptr<StreamProtocol>> retired;  // replaced, perhaps by callbacks of theirs that still run
  };
  // Once somebody has asked.
  struct Names {
    std::optional<Address> peername, sockname;
  };

  std::any extra_info(std::string_view name) const override;
  void complete(int result, unsigned flags) noexcept override;
  static const Kind event_kind;
  void happen();

  bool is_here() const noexcept { return running_state() == &home(); }
  bool is_elsewhere() const noexcept;
  bool is_lost() const noexcept { return lost_.load(std::memory_order_acquire); }
  void become_lost() noexcept {
    closing_.store(true, std::memory_order_relaxed);
    lost_.store(true, std::memory_order_release);  // pairs with is_lost(): who sees it sees that it is closing, too
  }
  template <class F>
  void do_there(F f);
  template <class F>
  void in_context(F& f);
  template <class F>
  bool call(const char* what, F f);
  template <class F>
  void call_and_report(const char* what, F f);
  void report(const char* message, const std::exception_ptr& error) noexcept;
  [[gnu::cold]] void fail(const char* message, std::exception_ptr error);
  [[gnu::cold]] void fail(const char* message, const char* operation, int error);
  void force_close(std::exception_ptr error) noexcept;

  bool go_on();
  void arm();
  void deliver();
  void feed(std::span<const std::byte> data);
  std::size_t pass_on(std::span<const std::byte> data);
  void receive_at_once();
  void hold_pieces();
  void drop_pieces() noexcept;
  void tell_eof();

  bool drop_write();
  bool may_wait(std::size_t bytes) const noexcept;
  void send(std::span<const std::byte> data);
  void send_soon(std::span<const std::byte> data);
  void enqueue(std::span<const std::byte> data);
  void queue_cork();
  void flush_cork();
  void start_sending();
  void check_high_water();
  bool settle();
  void finish();
  void drop_retired() noexcept;
  void close_socket(bool asked_for) noexcept;
  std::any name_of(std::string_view name) const;
  Rare& rare();

  Network& network_;  // until it is lost
  EventLoop& loop_;   // likewise
  std::shared_ptr<SocketTransport> self_;
  std::shared_ptr<StreamProtocol> protocol_;
  std::shared_ptr<ServerState> server_;
  const CellRef context_;
  std::exception_ptr error_;
  std::unique_ptr<SendQueue> queue_;
  std::unique_ptr<Rare> rare_;
  mutable std::unique_ptr<Names> names_;  // under names_lock_
  SocketTransport* next_ = nullptr;       // of the loop's
  SocketTransport* previous_ = nullptr;
  std::size_t low_ = 16 * 1024;
  std::size_t high_ = 64 * 1024;
  Fd fd_;
  int read_error_ = 0;
  int write_error_ = 0;
  ReceiveBuffers::List pieces_;  // received, and not passed on yet
  std::uint8_t dropped_writes_ = 0;
  // For other threads too. Under the lock anybody may ask for names, of the system too, and fd_ is given up. It is held
  // seldom: twice in a connection's life, and when somebody asks.
  mutable SpinLock names_lock_;
  Atomic<bool> closing_{false};      // relaxed: a hint
  Atomic<bool> lost_{false};         // connection_lost() has been called, or never will be; see become_lost()
  bool aborted_ : 1 = false;         // nothing is sent any more
  bool made_ : 1 = false;            // connection_made() has returned
  bool paused_ : 1 = false;          // reading
  bool polls_ : 1 = false;           // the request asks whether there is something to receive
  bool readable_ : 1 = false;        // and there is
  bool nonblocking_ : 1 = false;     // somebody has made the descriptor so: requests do not wait
  bool ended_ : 1 = false;           // the other side's end was received
  bool told_end_ : 1 = false;        // and eof_received() called
  bool eof_written_ : 1 = false;     // write_eof() was called
  bool shut_ : 1 = false;            // and told to the other side
  bool writing_paused_ : 1 = false;  // the protocol
};

template <class F>
void SocketTransport::do_there(F f) {
  call_at_home(home(), [self = shared_from_this(), f = std::move(f)] { f(*self); });
}

template <class F>
void SocketTransport::in_context(F& f) {
  if (OURO_LIKELY(!context_)) return f();
  const ContextScope scope(word_for(*context_));
  f();
}

template <class F>
void SocketTransport::call_and_report(const char* what, F f) {
  try {
    in_context(f);
  } catch (const KeyboardInterrupt&) {
    throw;
  } catch (...) {
    report(what, std::current_exception());
  }
}

}  // namespace ouro::detail
