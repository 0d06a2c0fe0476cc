// A DatagramTransport over a socket. How it works is at the head of datagram_endpoint.cpp.
#pragma once

#include <sys/socket.h>

#include <any>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <list>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <ouro/io/addresses.hpp>
#include <ouro/io/datagrams.hpp>
#include <ouro/io/detail/operation.hpp>
#include <ouro/io/transports.hpp>
#include <ouro/runtime/detail/atomic.hpp>
#include <ouro/runtime/detail/context_state.hpp>
#include <ouro/runtime/detail/loop_event.hpp>
#include <ouro/runtime/events.hpp>
#include <ouro/runtime/exceptions.hpp>

#include "fd.hpp"
#include "network.hpp"
#include "ring_buffers.hpp"

namespace ouro::detail {

class DatagramEndpoint final : public DatagramTransport,
                               public std::enable_shared_from_this<DatagramEndpoint>,
                               private LoopEvent,
                               private Operation {
 public:
  // Takes the socket over. `context`: that of all calls of the protocol; or nullptr.
  DatagramEndpoint(Network& network, EndpointSocket made, std::shared_ptr<DatagramProtocol> protocol, CellRef context);
  ~DatagramEndpoint() override;

  // Calls connection_made(), and starts to receive. From here to connection_lost() the loop keeps it alive.
  void begin();
  // The loop ends: as if it had never been, but for what the kernel has been given.
  void end() noexcept;

  void close() override;
  bool is_closing() const noexcept override { return closing_.load(std::memory_order_relaxed); }
  using DatagramTransport::sendto;
  void sendto(std::span<const std::byte> data, const Address* to) override;
  void abort() override;
  std::size_t get_write_buffer_size() const noexcept override { return queued_bytes_; }
  WriteBufferLimits get_write_buffer_limits() const noexcept override { return {.low = low_, .high = high_}; }
  using DatagramTransport::set_write_buffer_limits;
  void set_write_buffer_limits(WriteBufferLimits limits) override;
  void set_protocol(std::shared_ptr<DatagramProtocol> protocol) override;
  std::shared_ptr<DatagramProtocol> get_protocol() const noexcept override { return protocol_; }
  std::shared_ptr<DatagramTransport> share() override { return shared_from_this(); }
  EventLoop& get_loop() const noexcept override { return loop_; }

 private:
  friend class Network;

  // Waits until the socket can be written to.
  class Room final : public Operation {
   public:
    explicit Room(DatagramEndpoint& endpoint) noexcept : endpoint_(endpoint) {}

   private:
    void complete(int, unsigned) noexcept override { endpoint_.try_again(); }
    DatagramEndpoint& endpoint_;
  };

  static constexpr unsigned datagrams_a_turn = 16;  // while others wait for their turn

  struct Queued {
    std::string data;
    Address to;
  };
  // What one that is queued takes beside its data: this, and its links in the list.
  static constexpr std::size_t overhead = sizeof(Queued) + 2 * sizeof(void*);

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
  void call_and_report(const char* what, F f);
  void report(const char* message, const std::exception_ptr& error) noexcept;
  [[gnu::cold]] static std::exception_ptr os_error(const char* operation, int error, const Address& object);
  // It is of no datagram.
  static bool is_fault_of_socket(int error) noexcept;
  [[gnu::cold]] void fail(const char* message, std::exception_ptr error);
  void force_close(std::exception_ptr error) noexcept;

  bool go_on();
  void arm();
  void receive();
  bool receive_one();
  void pass_on(const ReceivedDatagram& datagram);
  void drop_pieces() noexcept;
  void take_read_error();
  void tell_errors();

  const Address* checked(const Address* to) const;
  bool drop_send();
  int send_now(std::span<const std::byte> data, const Address& to) noexcept;
  int send_or_hear(std::span<const std::byte> data, const Address& to);
  [[gnu::cold]] void refused(int error, const Address& to);
  void enqueue(std::span<const std::byte> data, const Address& to);
  void send_queued();
  void wait_for_room(bool ready_for_nothing);
  void try_again() noexcept;
  void check_high_water();
  void check_low_water();
  void finish();

  Network& network_;  // until it is lost
  EventLoop& loop_;   // likewise
  std::shared_ptr<DatagramEndpoint> self_;
  std::shared_ptr<DatagramProtocol> protocol_;
  const CellRef context_;
  std::exception_ptr error_;
  std::list<std::exception_ptr> errors_;                    // that error_received() is to be told
  std::vector<std::shared_ptr<DatagramProtocol>> retired_;  // replaced, perhaps by callbacks of theirs that still run
  std::list<Queued> queue_;
  std::size_t queued_bytes_ = 0;
  TimerHandle timer_;
  Room room_{*this};
  DatagramEndpoint* next_ = nullptr;  // of the loop's
  DatagramEndpoint* previous_ = nullptr;
  std::size_t low_ = 16 * 1024;
  std::size_t high_ = 64 * 1024;
  Fd fd_;
  int read_error_ = 0;
  DatagramBuffers::List pieces_;  // received, and not passed on yet
  msghdr form_{};                 // of the request's datagrams
  unsigned rests_ = 0;            // one after the other
  std::uint8_t dropped_ = 0;      // that were sent after the end
  // For other threads too.
  Atomic<bool> closing_{false};      // relaxed: a hint
  Atomic<bool> lost_{false};         // connection_lost() has been called, or never will be; see become_lost()
  bool aborted_ : 1 = false;         // nothing is sent any more
  bool made_ : 1 = false;            // connection_made() has returned
  bool polls_ : 1 = false;           // the request asks whether there is something to receive
  bool readable_ : 1 = false;        // and there may be
  bool nonblocking_ : 1 = false;     // the descriptor is: requests do not wait
  bool blocked_ : 1 = false;         // what is queued waits for room
  bool writing_paused_ : 1 = false;  // the protocol
  // Never change.
  bool internet_ = false;
  bool connected_ = false;
  Address usual_;  // where it sends to
  Address name_;
};

template <class F>
void DatagramEndpoint::do_there(F f) {
  call_at_home(home(), [self = shared_from_this(), f = std::move(f)] { f(*self); });
}

template <class F>
void DatagramEndpoint::in_context(F& f) {
  if (OURO_LIKELY(!context_)) return f();
  const ContextScope scope(word_for(*context_));
  f();
}

template <class F>
void DatagramEndpoint::call_and_report(const char* what, F f) {
  try {
    in_context(f);
  } catch (const KeyboardInterrupt&) {
    throw;
  } catch (...) {
    report(what, std::current_exception());
  }
}

}  // namespace ouro::detail
