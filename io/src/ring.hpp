// One io_uring: its set-up, its two queues, and the one system call that serves both. With ring.cpp the only place that
// knows liburing; above it, requests are described by functions and completions are plain values.
//
// A ring belongs to the thread that made it. Others may only close() it, once the owner no longer uses it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include <ouro/runtime/clock.hpp>

struct io_uring_sqe;
struct msghdr;
struct sockaddr;

namespace ouro::detail {

// What a ring makes use of: what the kernel has, less what OURO_RING_DISABLE takes away.
struct RingFeatures {
  unsigned sq_entries = 0;
  unsigned cq_entries = 0;
  bool submit_all = false;         // 5.18: a bad SQE does not end the batch
  bool coop_taskrun = false;       // 5.19: no interrupt for task work
  bool taskrun_flag = false;       // 5.19: a flag in shared memory tells that there is task work
  bool single_issuer = false;      // 6.0: the kernel may rely on one submitting thread
  bool defer_taskrun = false;      // 6.1: task work runs only when the owner waits or asks for events
  bool registered_ring = false;    // 5.18: the descriptor is looked up once, not at every enter
  bool ext_arg = false;            // 5.11: a wait takes its timeout as an argument
  bool multishot_poll = false;     // 5.13: one poll request reports many times
  bool skip_success = false;       // 5.17: a cancel that succeeded needs no CQE
  bool multishot_accept = false;   // 5.19: one request accepts many connections
  bool multishot_receive = false;  // 6.0: one request receives many times, into buffers of a ring (5.19)
};

// In the flags of a CQE: another one of the same request will follow (IORING_CQE_F_MORE).
inline constexpr unsigned completion_more = 1U << 1;
// The kernel chose a buffer (IORING_CQE_F_BUFFER), whose number stands in the upper half.
inline constexpr unsigned completion_buffer = 1U << 0;
inline constexpr unsigned completion_buffer_shift = 16;

// One CQE.
struct RingCompletion {
  std::uint64_t user_data;
  std::int32_t result;
  std::uint32_t flags;
};

// How an enter ended, apart from the errors that it throws.
enum class Entered : std::uint8_t {
  done,         // submitted, or something arrived
  timed_out,    // nothing arrived in time
  interrupted,  // a signal handler ran
  busy,         // the kernel lacks memory, or room for completions: reap, then try again
};

class Ring {
 public:
  static constexpr unsigned default_entries = 512;

  // No limit to a wait.
  static constexpr Duration forever = Duration::max();

  // Makes a ring for the calling thread; fewer than `entries` SQEs if the memory limit does not allow as many. 0: what
  // OURO_RING_ENTRIES says, or default_entries.
  // Throws: OSError with a hint when the system refuses, RuntimeError for an environment variable that makes no sense.
  explicit Ring(unsigned entries);
  ~Ring();
  Ring(const Ring&) = delete;
  Ring& operator=(const Ring&) = delete;

  const RingFeatures& features() const noexcept { return features_; }

  // "io_uring: 512 sq, 2048 cq, submit_all, …".
  std::string describe() const;

  // Looks, each a few loads of memory that the kernel shares with us.
  bool has_completions() const noexcept { return *cq_head_ != __atomic_load_n(cq_tail_, __ATOMIC_ACQUIRE); }
  bool has_submissions() const noexcept {
    return *sq_tail_ != __atomic_load_n(sq_head_, __ATOMIC_RELAXED) || spilled_ != 0;
  }
  // The kernel holds back completions until we enter: deferred work, or an overflown queue.
  bool kernel_waits() const noexcept { return (__atomic_load_n(sq_flags_, __ATOMIC_RELAXED) & attention_) != 0; }
  // How often the kernel was called: a request that was made since the last call has not been looked at.
  std::uint64_t calls() const noexcept { return calls_; }
  unsigned completions() const noexcept { return __atomic_load_n(cq_tail_, __ATOMIC_ACQUIRE) - *cq_head_; }

  // Requests of operations. They always find room: a full queue is submitted, and what the kernel does not take even
  // then is kept aside, in order.
  // Throws: OSError when the kernel refuses the submission for good, std::bad_alloc; then nothing was requested.
  void nop(std::uint64_t user_data);
  void poll_add(std::uint64_t user_data, int fd, unsigned mask);
  void read(std::uint64_t user_data, int fd, std::span<std::byte> buffer, std::uint64_t offset);
  void accept(std::uint64_t user_data, int fd, sockaddr* address, unsigned* length, int flags);
  void connect(std::uint64_t user_data, int fd, const sockaddr* address, unsigned length);
  void receive(std::uint64_t user_data, int fd, std::span<std::byte> buffer, int flags);
  void send(std::uint64_t user_data, int fd, std::span<const std::byte> data, int flags);
  void receive_message(std::uint64_t user_data, int fd, msghdr* message, int flags);
  void send_message(std::uint64_t user_data, int fd, const msghdr* message, int flags);

  // Each of its CQEs is a connection, or a piece or a datagram in a buffer of the group.
  // Requires: the feature of the name; for datagrams multishot_receive.
  void accept_multishot(std::uint64_t user_data, int fd, int flags);
  void receive_multishot(std::uint64_t user_data, int fd, unsigned short group);
  void receive_message_multishot(std::uint64_t user_data, int fd, msghdr* message, unsigned short group);

  // Lets the kernel take buffers for these two from a ring of io_uring_buf in memory that is aligned to a page.
  // False if it refuses. Lifetime: the memory, until the ring is closed.
  [[nodiscard]] bool register_buffers(void* memory, unsigned entries, unsigned short group) noexcept;

  // Requests of the Proactor itself. False if there is no room; the caller asks again after an enter. Room for a few
  // is kept free of operations.
  [[nodiscard]] bool try_cancel(std::uint64_t target, std::uint64_t user_data) noexcept;
  [[nodiscard]] bool try_poll_wake(std::uint64_t user_data, int fd) noexcept;

  // Submits everything, lets the kernel post what it holds back, and waits until there are `wait_count` completions or
  // `timeout` has passed: one system call, unless more was requested than the queue holds.
  // Throws: OSError.
  Entered enter(unsigned wait_count, Duration timeout = forever);

  // Moves completions out of the queue into `into`; returns how many.
  unsigned reap(std::span<RingCompletion> into) noexcept;

  // Ends the ring. `owner`: the thread that made it calls. `stranger`: another thread; a registered descriptor of the
  // owner's keeps the kernel's side alive until that thread ends. `forked`: a child of the process, in which the ring's
  // memory is not mapped.
  enum class Closer : std::uint8_t { owner, stranger, forked };
  void close(Closer closer) noexcept;

 private:
  struct Queues;  // liburing's io_uring, and what did not fit in it
  enum class Use : std::uint8_t { operation, internal };

  void set_up(unsigned entries);
  void register_descriptor() noexcept;
  void probe() noexcept;
  unsigned room() const noexcept;
  io_uring_sqe* take_sqe(Use use) noexcept;
  io_uring_sqe& operation_sqe();
  void refill() noexcept;
  unsigned flush() noexcept;
  Entered call(unsigned to_submit, unsigned wait_count, unsigned flags, Duration timeout);
  Entered submit();
  bool request_timeout(Duration timeout);

  std::unique_ptr<Queues> queues_;
  const unsigned* sq_tail_ = nullptr;   // ours
  const unsigned* sq_head_ = nullptr;   // the kernel writes it, inside an enter of ours
  const unsigned* sq_flags_ = nullptr;  // the kernel writes it, at any time
  const unsigned* cq_head_ = nullptr;   // ours
  const unsigned* cq_tail_ = nullptr;   // the kernel writes it, at any time
  std::uint64_t calls_ = 0;
  unsigned attention_ = 0;
  unsigned spilled_ = 0;
  unsigned reserve_ = 0;
  int fd_ = -1;
  int enter_fd_ = -1;  // fd_, or its number in the thread's table of registered rings
  RingFeatures features_;
};

}  // namespace ouro::detail
