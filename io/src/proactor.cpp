// The protocol between a loop, its ring, and whoever wakes it.
//
// Threads. The ring is made by the thread that first polls, since the kernel ties it to that thread (SINGLE_ISSUER,
// DEFER_TASKRUN). A loop that is polled on another thread gets a new ring there, provided that nothing is in flight: an
// operation cannot move, and a ring with deferred work can be reaped by its own thread only (EEXIST for others, for
// ever if that thread has ended). The descriptor for wake-ups is older than any ring and stays, so that unpark() works
// from construction to destruction. After a fork the child's copy must not touch the parent's ring, nor read the
// parent's eventfd: a counter that a pthread_atfork handler raises tells, and the child makes its own of both, the
// eventfd under the same number (dup3), so that unpark() never sees it change.
//
// One turn. (1) Cancels and the wake-up poll that found no room before get it now. (2) One io_uring_enter submits,
// lets the kernel post, and in park() waits; it is left out when a look at shared memory shows that there is nothing to
// submit, nothing held back and nothing to wait for, which is the whole of a poll() on a busy loop. (3) Completions are
// copied out of the queue in batches, so that its room is free again before anything reacts, and each goes to its
// operation. An overflown queue is something held back: the next turn enters again, and so on until it is empty.
// complete() may start and cancel operations. It cannot recurse into a dispatch: a full queue is submitted without
// looking at completions.
//
// Operations. The user_data of an SQE is the Operation's address; 0 and 1 are the Proactor's own requests. Every
// operation is in exactly one of three lists from its start to its last CQE: `backlog_` if it is to be cancelled and
// the cancel has not got an SQE, `cancelling_` if it has, else `operations_`. So a cancel needs no memory and cannot
// fail, and whoever destroys the Proactor can find them all. A cancel that names a finished operation can never hit a
// new one at the same address: it is submitted before that one, and carried out at submission.
//
// A cancel may miss. With deferred task work an operation that could not be carried out, and whose descriptor is ready
// all the same, is nowhere in the kernel that a cancel looks (-ENOENT) until the thread enters again; it then waits in
// a thread of the kernel's, where nobody would ask it any more: a datagram for a unix socket whose queue is full, say.
// So after a miss all that are still to be cancelled are asked once more.
//
// Wake-up. unpark() makes park() return, however early it comes:
//   unpark:     exchange wake_ to 1; if it was 0, write to the eventfd, which a (multishot) poll request watches.
//   take_wake:  when that request completes, read the eventfd, and then exchange wake_ to 0.
// All decisions are exchanges on one word, hence in one order. An unpark() that finds 1 comes before the clearing
// exchange that will follow the other's write, and that exchange precedes the return from poll() or park(): what its
// caller posted is visible to the loop when it looks. One that finds 0 writes. The counter is level, not edge: a write
// from before the ring, before the request, or between the loop's last look and its sleep ends the next wait, and a
// new ring on another thread finds it too. Clearing before reading would lose: an unpark() between the two would find
// its write eaten and wake_ at 1 for ever. A full completion queue ends a multishot request; prepare() makes it anew.
// unpark() is one system call on memory of its own; it takes no lock and preserves errno, so it works in signal
// handlers and on threads without a ring. callers_ keeps the object alive under a waker whose wake-up arrives, and ends
// the program's use of the loop, before unpark() has returned.
//
// MSG_RING was tried, through the waker's own ring and through IORING_REGISTER_SEND_MSG_RING (6.13), and left out: on a
// virtual machine a wake-up of a sleeping thread took 19 to 20 us by any of the three, of which 12 are the waker's,
// since the interrupt of another processor is what costs; waking oneself took 700 ns by message, 500 by eventfd. And a
// message needs a descriptor that may be closed and reused meanwhile, and a queue that a signal handler may have
// interrupted.
//
// Destruction. On the owner's thread: cancel all, wait for every last CQE, close. Elsewhere, or when the kernel refuses
// to go on: close, and complete what is left with -ECANCELED. A thread that has ended has had its operations ended by
// the kernel before; if it still lives, a read from a file could still be writing to its buffer, which is why loops end
// their operations first.
#include "proactor.hpp"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <exception>
#include <utility>

#include <ouro/io/errors.hpp>
#include <ouro/runtime/exceptions.hpp>

namespace ouro::detail {

namespace {

// The user_data of requests that are no Operation's.
constexpr std::uint64_t for_cancel = 0;
constexpr std::uint64_t for_wake = 1;

constexpr unsigned quiet_polls_max = 64;  // then enter, where no flag tells of deferred work
constexpr int back_off_ms = 1;

// How many forks lie between the first process and this one. Written in the child's only thread.
std::atomic<unsigned> forks{0};

void watch_forks() {
  static const int error = ::pthread_atfork(nullptr, nullptr, [] { forks.fetch_add(1, std::memory_order_relaxed); });
  if (error != 0) throw_os_error(error, "pthread_atfork", "");
}

// A number that no other thread of the process has had.
std::uint64_t this_thread() noexcept {
  static std::atomic<std::uint64_t> last{0};
  thread_local std::uint64_t number = 0;
  if (OURO_UNLIKELY(number == 0)) number = last.fetch_add(1, std::memory_order_relaxed) + 1;
  return number;
}

int make_eventfd() {
  const int fd = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (fd < 0) throw_os_error(errno, "eventfd", "");
  return fd;
}

std::uint64_t user_data_of(const Operation& operation) noexcept { return reinterpret_cast<std::uintptr_t>(&operation); }

}  // namespace

Proactor::Proactor(unsigned entries) : entries_(entries) {
  watch_forks();
  fork_count_ = forks.load(std::memory_order_relaxed);
  wake_fd_.reset(make_eventfd());
}

Proactor::~Proactor() {
  closing_ = true;
  if (fork_count_ != forks.load(std::memory_order_relaxed)) {
    callers_.store(0, std::memory_order_relaxed);  // those threads are the parent's
    if (ring_) leave_ring(Ring::Closer::forked);
  } else if (ring_) {
    const bool owner = attached();
    if (owner) drain();
    leave_ring(owner ? Ring::Closer::owner : Ring::Closer::stranger);
  }
  abandon();
  // Pairs with the release in unpark(): its caller has looked at this object for the last time.
  while (callers_.load(std::memory_order_acquire) != 0) ::sched_yield();
}

// True if the calling thread may use ring_.
bool Proactor::attached() const noexcept {
  return ring_ && owner_ == this_thread() && fork_count_ == forks.load(std::memory_order_relaxed);
}

// Makes attached() true.
void Proactor::attach() {
  if (fork_count_ != forks.load(std::memory_order_relaxed)) renew_after_fork();
  if (in_flight_ != 0) {
    throw RuntimeError(
        std::to_string(in_flight_) + " operations are in flight on the ring of another thread or process",
        "A loop can move to another thread, or be run in a forked child, only when nothing is in "
        "flight: close its transports and await its operations first.");
  }
  if (ring_) leave_ring(Ring::Closer::stranger);
  make_ring();
}

void Proactor::make_ring() {
  ring_.emplace(entries_);
  owner_ = this_thread();
  wake_armed_ = false;
}

void Proactor::leave_ring(Ring::Closer closer) noexcept {
  ring_->close(closer);
  ring_.reset();
  wake_armed_ = false;
  receives_many_.reset();
  receives_many_datagrams_.reset();
}

// In a forked child: everything that the parent shares with us is replaced.
void Proactor::renew_after_fork() {
  Fd fresh(make_eventfd());
  if (::dup3(fresh.get(), wake_fd_.get(), O_CLOEXEC) < 0) throw_os_error(errno, "dup3", "(eventfd)");
  callers_.store(0, std::memory_order_relaxed);  // those threads are the parent's
  if (ring_) leave_ring(Ring::Closer::forked);
  fork_count_ = forks.load(std::memory_order_relaxed);
  if (wake_.load(std::memory_order_relaxed) != 0) kick();  // what was on its way went to the parent
}

bool Proactor::poll() {
  if (OURO_UNLIKELY(!attached())) attach();
  if (!ring_->has_completions() && !ring_->has_submissions() && !ring_->kernel_waits() && wake_armed_ &&
      backlog_.empty() && (ring_->features().taskrun_flag || ++quiet_polls_ < quiet_polls_max)) {
    return false;
  }
  return turn(Duration::zero());
}

void Proactor::park(TimePoint deadline) {
  if (OURO_UNLIKELY(!attached())) attach();
  Duration timeout = Ring::forever;
  if (deadline != TimePoint::max()) {
    const TimePoint now = Clock::steady().now();
    timeout = deadline > now ? deadline - now : Duration::zero();
  }
  turn(timeout);
}

// Submits, waits up to `timeout` if there is nothing to take in, and takes in.
bool Proactor::turn(Duration timeout) {
  prepare();
  const bool wait = timeout > Duration::zero() && !ring_->has_completions() && wake_armed_ && backlog_.empty();
  Entered entered = Entered::done;
  if (wait || ring_->has_submissions() || ring_->kernel_waits() || quiet_polls_ >= quiet_polls_max) {
    quiet_polls_ = 0;
    ++enters_;
    entered = ring_->enter(wait ? 1 : 0, timeout);
  }
  const bool any = dispatch();
  if (OURO_UNLIKELY(wake_error_ != 0) && !closing_) {
    throw_os_error(std::exchange(wake_error_, 0), "poll", "(eventfd " + std::to_string(wake_fd_.get()) + " of a loop)",
                   "If it is a bad descriptor, the program has closed one that is not its own.");
  }
  if (entered == Entered::busy && timeout > Duration::zero() && !any) back_off();
  return any;
}

// What found no SQE in an earlier turn finds one now, or in the next.
void Proactor::prepare() noexcept {
  while (!backlog_.empty()) {
    Operation& operation = backlog_.front();
    if (!ring_->try_cancel(user_data_of(operation), for_cancel)) return;
    OperationList::remove(operation);
    cancelling_.push_back(operation);
  }
  if (!wake_armed_) wake_armed_ = ring_->try_poll_wake(for_wake, wake_fd_.get());
}

// Takes in what is there now; what arrives meanwhile is for the next turn.
bool Proactor::dispatch() noexcept {
  std::array<RingCompletion, 32> batch;
  bool any = false;
  for (unsigned left = ring_->completions(); left != 0;) {
    const unsigned count = ring_->reap(std::span(batch).first(std::min<std::size_t>(left, batch.size())));
    for (unsigned i = 0; i < count; ++i) any = finish(batch[i]) || any;
    left -= count;
  }
  return any;
}

bool Proactor::finish(const RingCompletion& completion) noexcept {
  const bool last = (completion.flags & completion_more) == 0;
  switch (completion.user_data) {
    case for_cancel:
      if (completion.result == -ENOENT) ask_again();
      return false;
    case for_wake:
      if (last) wake_armed_ = false;
      if (completion.result < 0) wake_error_ = -completion.result;
      take_wake();
      return true;
    default:
      break;
  }
  auto& operation = *reinterpret_cast<Operation*>(static_cast<std::uintptr_t>(completion.user_data));
  take_from_kernel(&operation);
  OURO_ASSERT(operation.in_flight());
  if (last) {
    OperationList::remove(operation);
    --in_flight_;
    operation.state_ = Operation::State::done;
  }
  operation.complete(completion.result, completion.flags);
  return true;
}

void Proactor::take_wake() noexcept {
  std::uint64_t count = 0;
  const int saved = errno;
  static_cast<void>(!::read(wake_fd_.get(), &count, sizeof count));
  errno = saved;
  wake_.exchange(0, std::memory_order_acq_rel);  // after the read; acquires what every unpark() before it released
}

void Proactor::unpark() noexcept {
  callers_.fetch_add(1, std::memory_order_relaxed);  // the caller keeps us alive until here
  if (wake_.exchange(1, std::memory_order_acq_rel) == 0) kick();
  callers_.fetch_sub(1, std::memory_order_release);  // pairs with the acquire in the destructor
}

// Makes the eventfd readable. It cannot fail: its counter would have to be full, and then it is readable.
void Proactor::kick() noexcept {
  const std::uint64_t one = 1;
  const int saved = errno;
  static_cast<void>(!::write(wake_fd_.get(), &one, sizeof one));
  errno = saved;
}

// The kernel took nothing and there is nothing to take in: another process may free memory in the meantime.
void Proactor::back_off() noexcept { ::poll(nullptr, 0, back_off_ms); }

void Proactor::start(Operation& operation) {
  OURO_ASSERT(!operation.in_flight());
  if (OURO_UNLIKELY(!attached())) {
    if (ring_ && fork_count_ == forks.load(std::memory_order_relaxed)) {
      throw RuntimeError("an operation was started on a thread that does not run its loop",
                         "Use call_soon_threadsafe or run_coroutine_threadsafe.");
    }
    attach();
  }
  if (OURO_UNLIKELY(closing_)) throw RuntimeError("an operation was started on a loop that is being destroyed");
  publish_to_kernel(&operation);
}

void Proactor::started(Operation& operation) noexcept {
  operation.state_ = Operation::State::submitted;
  operations_.push_back(operation);
  ++in_flight_;
}

void Proactor::nop(Operation& operation) {
  start(operation);
  ring_->nop(user_data_of(operation));
  started(operation);
}

void Proactor::poll_add(Operation& operation, int fd, unsigned mask) {
  start(operation);
  ring_->poll_add(user_data_of(operation), fd, mask);
  started(operation);
}

void Proactor::read(Operation& operation, int fd, std::span<std::byte> buffer, std::uint64_t offset) {
  start(operation);
  ring_->read(user_data_of(operation), fd, buffer, offset);
  started(operation);
}

void Proactor::accept(Operation& operation, int fd, sockaddr* address, unsigned* length, int flags) {
  start(operation);
  ring_->accept(user_data_of(operation), fd, address, length, flags);
  started(operation);
}

void Proactor::connect(Operation& operation, int fd, const sockaddr* address, unsigned length) {
  start(operation);
  ring_->connect(user_data_of(operation), fd, address, length);
  started(operation);
}

void Proactor::receive(Operation& operation, int fd, std::span<std::byte> buffer, int flags) {
  start(operation);
  ring_->receive(user_data_of(operation), fd, buffer, flags);
  started(operation);
}

void Proactor::send(Operation& operation, int fd, std::span<const std::byte> data, int flags) {
  start(operation);
  ring_->send(user_data_of(operation), fd, data, flags);
  started(operation);
}

void Proactor::receive_message(Operation& operation, int fd, msghdr* message, int flags) {
  start(operation);
  ring_->receive_message(user_data_of(operation), fd, message, flags);
  started(operation);
}

void Proactor::send_message(Operation& operation, int fd, const msghdr* message, int flags) {
  start(operation);
  ring_->send_message(user_data_of(operation), fd, message, flags);
  started(operation);
}

void Proactor::accept_multishot(Operation& operation, int fd, int flags) {
  start(operation);
  if (OURO_LIKELY(ring_->features().multishot_accept)) {
    ring_->accept_multishot(user_data_of(operation), fd, flags);
  } else {
    ring_->accept(user_data_of(operation), fd, nullptr, nullptr, flags);
  }
  started(operation);
}

void Proactor::receive_multishot(Operation& operation, int fd) {
  start(operation);
  ring_->receive_multishot(user_data_of(operation), fd, ReceiveBuffers::group);
  started(operation);
}

void Proactor::receive_message_multishot(Operation& operation, int fd, msghdr* message) {
  start(operation);
  ring_->receive_message_multishot(user_data_of(operation), fd, message, DatagramBuffers::group);
  started(operation);
}

template <class Buffers>
bool Proactor::has_buffers(std::unique_ptr<Buffers>& buffers, std::optional<bool>& known) {
  if (OURO_UNLIKELY(!attached())) attach();
  if (OURO_UNLIKELY(!known)) {
    if (ring_->features().multishot_receive && !buffers) {
      try {
        buffers = std::make_unique<Buffers>();
      } catch (const OSError&) {
        // So much address space is not allowed: it goes without, too.
      }
    }
    known = ring_->features().multishot_receive && buffers && buffers->attach(*ring_);
  }
  return *known;
}

bool Proactor::receives_many() { return has_buffers(buffers_, receives_many_); }
bool Proactor::receives_many_datagrams() { return has_buffers(datagram_buffers_, receives_many_datagrams_); }

void Proactor::finish(Operation& operation) noexcept {
  if (attached()) {
    cancel(operation);
    try {
      while (operation.in_flight()) turn(Ring::forever);
      return;
    } catch (const std::exception&) {
      // The kernel refuses to go on.
    }
  }
  if (!operation.in_flight()) return;
  const bool forked = fork_count_ != forks.load(std::memory_order_relaxed);
  if (ring_) leave_ring(forked ? Ring::Closer::forked : Ring::Closer::stranger);
  abandon();
}

void Proactor::cancel(Operation& operation) noexcept {
  if (operation.state_ != Operation::State::submitted) return;
  // In a forked child the operation is the parent's; a loop that is destroyed on another thread than the one that ran
  // it ends its operations with finish(), or with the ring. Here there is no asking for it.
  if (!attached()) return;
  operation.state_ = Operation::State::cancelling;
  const bool asked = backlog_.empty() && ring_->try_cancel(user_data_of(operation), for_cancel);
  OperationList::remove(operation);
  (asked ? cancelling_ : backlog_).push_back(operation);
}

void Proactor::ask_again() noexcept {
  while (!cancelling_.empty()) {
    Operation& operation = cancelling_.front();
    OperationList::remove(operation);
    backlog_.push_back(operation);
  }
}

void Proactor::drain() noexcept {
  operations_.for_each([this](Operation& operation) { cancel(operation); });
  try {
    while (in_flight_ != 0) turn(Ring::forever);
  } catch (const std::exception&) {
    // The kernel refuses to go on; abandon() does the rest.
  }
}

// Ends what the kernel will never report.
void Proactor::abandon() noexcept {
  for (OperationList* list : {&operations_, &cancelling_, &backlog_}) {
    while (!list->empty()) {
      Operation& operation = list->front();
      take_from_kernel(&operation);
      OperationList::remove(operation);
      --in_flight_;
      operation.state_ = Operation::State::done;
      operation.complete(-ECANCELED, 0);
    }
  }
}

}  // namespace ouro::detail
