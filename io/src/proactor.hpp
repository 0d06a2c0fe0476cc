// What an EventLoop sleeps on: a Parker over an io_uring, and the operations that it carries out.
//
// The protocol is in proactor.cpp. In short: everything here belongs to the thread that runs the loop, unpark() to any.
// The object is cheap to make and has no ring until a thread first polls it.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include <ouro/io/detail/operation.hpp>
#include <ouro/runtime/detail/counter.hpp>
#include <ouro/runtime/parker.hpp>

#include "fd.hpp"
#include "ring.hpp"
#include "ring_buffers.hpp"

namespace ouro::detail {

class Proactor final : public Parker {
 public:
  // The offset for read() that means: where the descriptor stands; the only one for pipes and sockets.
  static constexpr std::uint64_t current_position = ~std::uint64_t{0};

  // `entries`: SQEs in the ring to come; 0: what OURO_RING_ENTRIES says, or Ring::default_entries.
  // Throws: OSError if there is no descriptor left.
  explicit Proactor(unsigned entries = 0);

  // Cancels what is in flight and awaits it. On another thread than the last to poll, a ring that only its own thread
  // may use is closed instead, and each operation completes with -ECANCELED; a read from a file may then still be under
  // way, so end the operations before.
  ~Proactor() override;

  bool poll() override;
  void park(TimePoint deadline) override;
  void unpark() noexcept override;
  bool idle() const noexcept override { return in_flight_ == 0; }
  std::uint64_t enters() const noexcept override { return enters_.get(); }

  // Each starts `operation`, which must be idle or done and stays in place until its last CQE. Nothing reaches the
  // kernel before the next poll() or park(), unless the queue is full. complete() is called from those two only.
  // Throws: OSError when the kernel refuses, std::bad_alloc, RuntimeError on a thread that does not run the loop; the
  // operation is then as before.

  // Ends at once, with 0.
  void nop(Operation& operation);
  // Ends when `fd` has one of the events of poll(2) in `mask`; the result is the events.
  void poll_add(Operation& operation, int fd, unsigned mask);
  // read(2), or pread(2) at `offset`. Lifetime: `buffer` until the last CQE.
  void read(Operation& operation, int fd, std::span<std::byte> buffer, std::uint64_t offset);
  // accept4(2), connect(2), recv(2), send(2), recvmsg(2), sendmsg(2); none raises SIGPIPE. A descriptor in
  // non-blocking mode ends them with -EAGAIN where they would wait (connect also then goes on by itself).
  // Lifetime: all that is pointed to, until the last CQE.
  void accept(Operation& operation, int fd, sockaddr* address, unsigned* length, int flags);
  void connect(Operation& operation, int fd, const sockaddr* address, unsigned length);
  void receive(Operation& operation, int fd, std::span<std::byte> buffer, int flags);
  void send(Operation& operation, int fd, std::span<const std::byte> data, int flags);
  void receive_message(Operation& operation, int fd, msghdr* message, int flags);
  void send_message(Operation& operation, int fd, const msghdr* message, int flags);

  // While this number stays the same, what a request points to may still be changed.
  std::uint64_t submissions() const noexcept { return ring_ ? ring_->calls() : 0; }

  // Each connection that comes is a completion, until the last one. Without the kernel's multishot requests that is the
  // first one.
  void accept_multishot(Operation& operation, int fd, int flags);
  // Each piece that comes is a completion, until the last one; a piece lies in one of buffers(). Its flags name it.
  // Requires: receives_many().
  void receive_multishot(Operation& operation, int fd);
  // True if the kernel has receive_multishot(), and buffers for it. The loop's thread; makes the ring, and the buffers.
  bool receives_many();
  ReceiveBuffers& buffers() noexcept { return *buffers_; }
  // The same with datagrams and datagram_buffers(). `message`: its datagram_name_bytes, and nothing else.
  // Lifetime: the message, until the last CQE.
  void receive_message_multishot(Operation& operation, int fd, msghdr* message);
  bool receives_many_datagrams();
  DatagramBuffers& datagram_buffers() noexcept { return *datagram_buffers_; }

  // Asks the kernel to end `operation` early. It ends with its last CQE as ever, which may bring a success that was
  // faster. Asking again, or asking for one that is not in flight, does nothing.
  void cancel(Operation& operation) noexcept;

  // Cancels it and waits for its last CQE, for an owner that is being destroyed; other operations that end meanwhile
  // are completed as ever. On another thread than the last to poll it closes the ring, as the destructor does.
  void finish(Operation& operation) noexcept;

  // How many operations the kernel has not ended yet.
  std::size_t in_flight() const noexcept { return in_flight_; }

  // What the ring makes use of; all zero before the first poll().
  RingFeatures features() const noexcept { return ring_ ? ring_->features() : RingFeatures{}; }

  // The same for a log.
  std::string describe() const { return ring_ ? ring_->describe() : "io_uring: not made yet"; }

 private:
  bool attached() const noexcept;
  void attach();
  void make_ring();
  void leave_ring(Ring::Closer closer) noexcept;
  void renew_after_fork();
  template <class Buffers>
  bool has_buffers(std::unique_ptr<Buffers>& buffers, std::optional<bool>& known);

  void start(Operation& operation);
  void started(Operation& operation) noexcept;
  bool turn(Duration timeout);
  void prepare() noexcept;
  bool dispatch() noexcept;
  bool finish(const RingCompletion& completion) noexcept;
  void ask_again() noexcept;
  void take_wake() noexcept;
  void kick() noexcept;
  void back_off() noexcept;
  void drain() noexcept;
  void abandon() noexcept;

  // The loop's thread.
  std::optional<Ring> ring_;
  OperationList operations_;  // in flight, but for
  OperationList cancelling_;  // those that the kernel was asked to cancel,
  OperationList backlog_;     // and those whose cancel still waits for an SQE
  std::size_t in_flight_ = 0;
  std::uint64_t owner_ = 0;  // the thread of ring_
  unsigned fork_count_ = 0;  // how many forks lay between the first process and the one of ring_
  unsigned entries_;
  unsigned quiet_polls_ = 0;
  std::unique_ptr<ReceiveBuffers> buffers_;  // pieces in them outlive the ring
  std::optional<bool> receives_many_;        // of ring_, once somebody asked
  std::unique_ptr<DatagramBuffers> datagram_buffers_;
  std::optional<bool> receives_many_datagrams_;
  Counter enters_;
  bool wake_armed_ = false;  // a poll request for wake_fd_ is in the ring
  int wake_error_ = 0;       // errno of that request, until a turn reports it
  bool closing_ = false;

  // Any thread. Apart from the loop's own words, so that a busy loop does not wait for their cache line.
  Fd wake_fd_;  // an eventfd; the number stays the same from construction to destruction

  // 0: no wake-up is on its way. 1: somebody has undertaken to send one. Set by unpark(), cleared by take_wake(), whose
  // exchanges pair with each other.
  alignas(64) std::atomic<std::uint32_t> wake_{0};

  // How many calls of unpark() are under way. The destructor waits until there are none.
  std::atomic<std::uint32_t> callers_{0};
};

}  // namespace ouro::detail
