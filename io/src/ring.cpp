// How a ring is made, filled and emptied.
//
// Set-up. Each flag came with some kernel, and an older one refuses the whole call with EINVAL. So the flags form a
// ladder in the order in which they came, and we climb down until the kernel agrees: 6.1 defers task work to the
// owner's own enters (worth 20 to 30 % of a small request), 6.0 knows of the single issuer, 5.19 spares the
// interrupt, 5.18 goes on after a bad SQE, and 5.15 has none of it. What OURO_RING_DISABLE names is left out on every
// rung.
//
// Memory. The queues are charged to RLIMIT_MEMLOCK, of which all processes of a user share one account, and the charge
// of a closed ring is returned late. So ENOMEM is ordinary: take half as many entries, down to a handful, and only
// then give up.
//
// Refusals. Containers deny io_uring by seccomp, administrators by a sysctl, and a filter may let the set-up pass and
// refuse the enter. Each ends in an OSError whose hint says what to change; none is retried.
//
// The submission queue. We prepare SQEs behind liburing's private tail, and flush() shows them to the kernel. The
// kernel takes them in io_uring_enter only, so its head is stable outside that call. A few SQEs are out of reach of
// operations, so that a cancel or the wake-up poll finds room in the same turn. If the queue is full it is submitted at
// once, without looking at completions, since the caller may be in the middle of taking one in. If the kernel will not
// take it (EBUSY with an overflown completion queue before 5.16, EAGAIN for want of memory), further SQEs are kept
// aside, in order.
//
// The completion queue. It has four times as many entries. When it overflows the kernel keeps one-shot completions in a
// list (FEAT_NODROP, 5.5) and says so in a flag, but posts them only to an enter with GETEVENTS; multishot requests it
// ends. With deferred task work nothing at all arrives without GETEVENTS, hence every enter() asks for events, and
// nobody waits for a completion by looking.
//
// Timed waits. The timeout is an argument of the wait (EXT_ARG, 5.11). Without that it is a request of its own that
// ends by itself at the next completion (a count of 1), the way liburing does it.
//
// fork. A child shares the queues' pages; if it submits, the parent's ring is ruined for ever (measured: a child that
// fails with EEXIST has already overwritten the tail). So the pages are not inherited at all (MADV_DONTFORK), and
// close() in a child closes the descriptor and forgets the addresses, where the child may have mapped something else
// meanwhile.
#include "ring.hpp"

#include <fcntl.h>
#include <liburing.h>
#include <linux/capability.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <deque>
#include <string_view>

#include <ouro/io/detail/operation.hpp>
#include <ouro/io/errors.hpp>
#include <ouro/runtime/exceptions.hpp>

#include "fd.hpp"

namespace ouro::detail {

static_assert(completion_more == IORING_CQE_F_MORE);
static_assert(completion_buffer == IORING_CQE_F_BUFFER && completion_buffer_shift == IORING_CQE_BUFFER_SHIFT);
static_assert(sizeof(RingCompletion) == sizeof(io_uring_cqe));

struct Ring::Queues {
  io_uring ring{};
  __kernel_timespec timeout{};
  std::deque<io_uring_sqe> spill;  // requests that the full queue could not take, in order
};

namespace {

constexpr unsigned entries_min = 8;  // where halving ends
constexpr unsigned cq_per_sq = 4;

struct Feature {
  std::string_view name;
  bool RingFeatures::* member;
  unsigned setup_flag;  // 0: not a flag of io_uring_setup
};

constexpr std::array<Feature, 11> known_features{{
    {"submit_all", &RingFeatures::submit_all, IORING_SETUP_SUBMIT_ALL},
    {"coop_taskrun", &RingFeatures::coop_taskrun, IORING_SETUP_COOP_TASKRUN},
    {"taskrun_flag", &RingFeatures::taskrun_flag, IORING_SETUP_TASKRUN_FLAG},
    {"single_issuer", &RingFeatures::single_issuer, IORING_SETUP_SINGLE_ISSUER},
    {"defer_taskrun", &RingFeatures::defer_taskrun, IORING_SETUP_DEFER_TASKRUN},
    {"registered_ring", &RingFeatures::registered_ring, 0},
    {"ext_arg", &RingFeatures::ext_arg, 0},
    {"multishot_poll", &RingFeatures::multishot_poll, 0},
    {"skip_success", &RingFeatures::skip_success, 0},
    {"multishot_accept", &RingFeatures::multishot_accept, 0},
    {"multishot_receive", &RingFeatures::multishot_receive, 0},
}};

// May be disabled like the others, for scripts that force every fallback. No ring uses it: see proactor.cpp.
constexpr std::string_view unused_feature = "msg_ring";

constexpr std::array<unsigned, 5> ladder{
    IORING_SETUP_SUBMIT_ALL | IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_TASKRUN_FLAG | IORING_SETUP_DEFER_TASKRUN,
    IORING_SETUP_SUBMIT_ALL | IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_TASKRUN_FLAG | IORING_SETUP_COOP_TASKRUN,
    IORING_SETUP_SUBMIT_ALL | IORING_SETUP_TASKRUN_FLAG | IORING_SETUP_COOP_TASKRUN,
    IORING_SETUP_SUBMIT_ALL,
    0,
};

// Everything, less what OURO_RING_DISABLE names.
RingFeatures allowed_features() {
  RingFeatures allowed;
  for (const Feature& feature : known_features) allowed.*feature.member = true;
  const char* value = std::getenv("OURO_RING_DISABLE");
  std::string_view rest = value == nullptr ? "" : value;
  while (!rest.empty()) {
    const std::string_view word = rest.substr(0, rest.find(','));
    rest.remove_prefix(std::min(rest.size(), word.size() + 1));
    if (word.empty() || word == unused_feature) continue;
    const auto* found = std::find_if(known_features.begin(), known_features.end(),
                                     [word](const Feature& feature) { return feature.name == word; });
    if (found == known_features.end()) {
      std::string text = "OURO_RING_DISABLE: unknown word '" + std::string(word) + "'; known are";
      for (const Feature& feature : known_features) text.append(" ").append(feature.name);
      throw RuntimeError(text.append(" ").append(unused_feature), "Separate the words with commas and nothing else.");
    }
    allowed.*found->member = false;
  }
  return allowed;
}

unsigned wanted_entries() {
  const char* value = std::getenv("OURO_RING_ENTRIES");
  if (value == nullptr || *value == '\0') return Ring::default_entries;
  char* end = nullptr;
  errno = 0;
  const unsigned long entries = std::strtoul(value, &end, 10);
  if (*value < '0' || *value > '9' || *end != '\0' || errno != 0 || entries == 0 || entries > 32768) {
    throw RuntimeError("OURO_RING_ENTRIES: '" + std::string(value) + "' is not a number from 1 to 32768");
  }
  return static_cast<unsigned>(entries);
}

std::string memlock_limit() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_MEMLOCK, &limit) != 0) return "unknown";
  if (limit.rlim_cur == RLIM_INFINITY) return "unlimited";
  return std::to_string(limit.rlim_cur / 1024) + " KiB";
}

// The digit in /proc/sys/kernel/io_uring_disabled (6.6), or '0'.
char io_uring_disabled() noexcept {
  char digit = '0';
  const Fd file(::open("/proc/sys/kernel/io_uring_disabled", O_RDONLY | O_CLOEXEC));
  if (file && ::read(file.get(), &digit, 1) != 1) digit = '0';
  return digit;
}

// Whether this process may do what kernel.io_uring_disabled=1 leaves to administrators, root without capabilities is
// none.
bool has_sys_admin() noexcept {
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3]{};
  return ::syscall(SYS_capget, &header, data) == 0 && (data[0].effective & (1U << CAP_SYS_ADMIN)) != 0;
}

[[noreturn]] void throw_denied(std::string_view call, bool by_sysctl_perhaps) {
  const char disabled = by_sysctl_perhaps ? io_uring_disabled() : '0';
  if (disabled == '2') {
    throw_os_error(EPERM, call, "(kernel.io_uring_disabled is 2)",
                   "io_uring is switched off for every process of this machine. An administrator can allow it with "
                   "sysctl kernel.io_uring_disabled=0.");
  }
  if (disabled == '1' && !has_sys_admin()) {
    throw_os_error(EPERM, call, "(kernel.io_uring_disabled is 1)",
                   "io_uring is allowed only to the group in kernel.io_uring_group and to processes with "
                   "CAP_SYS_ADMIN. Join that group, or set sysctl kernel.io_uring_disabled=0.");
  }
  throw_os_error(EPERM, call, "(denied by a seccomp filter)",
                 "The default seccomp profile of Docker, containerd and Kubernetes denies io_uring. Run the container "
                 "with --security-opt seccomp=PROFILE.json, a profile that allows io_uring_setup, io_uring_enter and "
                 "io_uring_register; seccomp=unconfined shows whether this is the cause.");
}

[[noreturn]] void throw_setup_failed(int error, unsigned entries) {
  const std::string size = "(" + std::to_string(entries) + " entries)";
  switch (error) {
    case EPERM:
      throw_denied("io_uring_setup", true);
    case ENOSYS:
      throw_os_error(error, "io_uring_setup", "(no io_uring in this kernel)",
                     "The kernel is older than 5.1, was built without CONFIG_IO_URING, or is a sandbox such as gVisor "
                     "that lacks it. Linux 5.15 or newer is needed.");
    case ENOMEM:
      throw_os_error(error, "io_uring_setup",
                     "(" + std::to_string(entries) + " entries, RLIMIT_MEMLOCK " + memlock_limit() + ")",
                     "The memory that a user's processes may lock together is used up. Raise it with ulimit -l, "
                     "LimitMEMLOCK= in a systemd unit or docker run --ulimit memlock=-1, or grant CAP_IPC_LOCK.");
    case EMFILE:
      throw_os_error(error, "io_uring_setup", size,
                     "The process has as many descriptors open as RLIMIT_NOFILE allows. Close some, or raise it with "
                     "ulimit -n or LimitNOFILE= in a systemd unit.");
    default:
      throw_os_error(error, "io_uring_setup", size);
  }
}

[[noreturn]] void throw_enter_failed(int error, int fd) {
  if (error == EPERM) throw_denied("io_uring_enter", false);
  const std::string object = "ring " + std::to_string(fd);
  if (error == EBADR) {
    throw_os_error(error, "io_uring_enter", object,
                   "The kernel had no memory to keep a completion and lost it; operations in flight may never end.");
  }
  throw_os_error(error, "io_uring_enter", object);
}

}  // namespace

Ring::Ring(unsigned entries) : queues_(std::make_unique<Queues>()) {
  set_up(entries != 0 ? entries : wanted_entries());
  // Queues that a child would share are worse than no ring.
  if (const int error = ::io_uring_ring_dontfork(&queues_->ring); error < 0) {
    close(Closer::owner);
    throw_os_error(-error, "madvise", "(MADV_DONTFORK of a ring)");
  }
  if (features_.registered_ring) register_descriptor();
}

Ring::~Ring() { close(Closer::owner); }

namespace {

// The pages that one thread's ring gives back may be the next ones that the kernel gives to another's. It orders the
// two, but liburing maps them by system calls that ThreadSanitizer does not see.
char mappings;

}  // namespace

void Ring::set_up(unsigned entries) {
  const RingFeatures allowed = allowed_features();
  unsigned allowed_flags = 0;
  for (const Feature& feature : known_features) {
    if (allowed.*feature.member) allowed_flags |= feature.setup_flag;
  }
  io_uring_params params{};
  int error = EINVAL;
  for (;; entries /= 2) {
    for (const unsigned rung : ladder) {
      params = io_uring_params{};
      params.flags = (rung & allowed_flags) | IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP;
      params.cq_entries = entries * cq_per_sq;
      error = -::io_uring_queue_init_params(entries, &queues_->ring, &params);
      if (error != EINVAL) break;
    }
    if (error != ENOMEM || entries / 2 < entries_min) break;
  }
  if (error != 0) throw_setup_failed(error, entries);
  take_from_kernel(&mappings);

  const io_uring& ring = queues_->ring;
  fd_ = enter_fd_ = ring.ring_fd;
  sq_tail_ = &ring.sq.sqe_tail;
  sq_head_ = ring.sq.khead;
  sq_flags_ = ring.sq.kflags;
  cq_head_ = ring.cq.khead;
  cq_tail_ = ring.cq.ktail;
  attention_ = IORING_SQ_CQ_OVERFLOW | IORING_SQ_TASKRUN;
  reserve_ = std::min(params.sq_entries / 4, 8U);

  features_ = allowed;
  for (const Feature& feature : known_features) {
    if (feature.setup_flag != 0) features_.*feature.member = (params.flags & feature.setup_flag) != 0;
  }
  features_.sq_entries = params.sq_entries;
  features_.cq_entries = params.cq_entries;
  features_.ext_arg = allowed.ext_arg && (params.features & IORING_FEAT_EXT_ARG) != 0;
  features_.multishot_poll = allowed.multishot_poll && (params.features & IORING_FEAT_RSRC_TAGS) != 0;  // also 5.13
  features_.skip_success = allowed.skip_success && (params.features & IORING_FEAT_CQE_SKIP) != 0;
  if (allowed.multishot_accept || allowed.multishot_receive) probe();
}

// No flag tells of multishot requests, but operations that came with the same kernels do: socket with 5.19's accept,
// send_zc with 6.0's receive.
void Ring::probe() noexcept {
  io_uring_probe* known = ::io_uring_get_probe_ring(&queues_->ring);
  const auto knows = [known](int operation) { return known && ::io_uring_opcode_supported(known, operation) != 0; };
  features_.multishot_accept = features_.multishot_accept && knows(IORING_OP_SOCKET);
  features_.multishot_receive = features_.multishot_receive && knows(IORING_OP_SEND_ZC);
  if (known) ::io_uring_free_probe(known);
}

// The registration belongs to the calling thread and not to the ring; liburing would make and undo it on whatever
// thread is at hand, so it is done here.
void Ring::register_descriptor() noexcept {
  io_uring_rsrc_update slot{};
  slot.offset = ~0U;  // any free one
  slot.data = static_cast<__u64>(fd_);
  features_.registered_ring = ::io_uring_register(static_cast<unsigned>(fd_), IORING_REGISTER_RING_FDS, &slot, 1) == 1;
  if (features_.registered_ring) enter_fd_ = static_cast<int>(slot.offset);
}

bool Ring::register_buffers(void* memory, unsigned entries, unsigned short group) noexcept {
  io_uring_buf_reg request{};
  request.ring_addr = reinterpret_cast<std::uintptr_t>(memory);
  request.ring_entries = entries;
  request.bgid = group;
  return ::io_uring_register_buf_ring(&queues_->ring, &request, 0) == 0;
}

void Ring::close(Closer closer) noexcept {
  if (fd_ < 0) return;
  if (closer == Closer::forked) {
    Fd(fd_).reset();
  } else {
    if (closer == Closer::owner && features_.registered_ring) {
      io_uring_rsrc_update slot{};
      slot.offset = static_cast<__u32>(enter_fd_);
      static_cast<void>(::io_uring_register(static_cast<unsigned>(fd_), IORING_UNREGISTER_RING_FDS, &slot, 1));
    }
    publish_to_kernel(&mappings);
    ::io_uring_queue_exit(&queues_->ring);
  }
  fd_ = enter_fd_ = -1;
}

std::string Ring::describe() const {
  std::string text =
      "io_uring: " + std::to_string(features_.sq_entries) + " sq, " + std::to_string(features_.cq_entries) + " cq";
  for (const Feature& feature : known_features) {
    if (features_.*feature.member) text.append(", ").append(feature.name);
  }
  return text;
}

// How many SQEs are free.
unsigned Ring::room() const noexcept {
  return features_.sq_entries - (*sq_tail_ - __atomic_load_n(sq_head_, __ATOMIC_RELAXED));
}

// An SQE, or null if there is none for this use.
io_uring_sqe* Ring::take_sqe(Use use) noexcept {
  if (room() <= (use == Use::operation ? reserve_ : 0)) return nullptr;
  return ::io_uring_get_sqe(&queues_->ring);
}

// The SQE of an operation: one of the queue, the queue being submitted if it is full, or else one kept aside. Once some
// are kept aside all that follow are, so that their order stays.
io_uring_sqe& Ring::operation_sqe() {
  if (OURO_LIKELY(spilled_ == 0)) {
    if (io_uring_sqe* sqe = take_sqe(Use::operation)) return *sqe;
    if (submit() == Entered::done) {
      if (io_uring_sqe* sqe = take_sqe(Use::operation)) return *sqe;
    }
  }
  io_uring_sqe& kept = queues_->spill.emplace_back();
  ++spilled_;
  return kept;
}

bool Ring::try_cancel(std::uint64_t target, std::uint64_t user_data) noexcept {
  if (spilled_ != 0) return false;  // the target may be among those, and must reach the kernel first
  io_uring_sqe* sqe = take_sqe(Use::internal);
  if (sqe == nullptr) return false;
  ::io_uring_prep_cancel64(sqe, target, 0);
  if (features_.skip_success) sqe->flags |= IOSQE_CQE_SKIP_SUCCESS;
  sqe->user_data = user_data;
  return true;
}

bool Ring::try_poll_wake(std::uint64_t user_data, int fd) noexcept {
  io_uring_sqe* sqe = take_sqe(Use::internal);
  if (sqe == nullptr) return false;
  if (features_.multishot_poll) {
    ::io_uring_prep_poll_multishot(sqe, fd, POLLIN);
  } else {
    ::io_uring_prep_poll_add(sqe, fd, POLLIN);
  }
  sqe->user_data = user_data;
  return true;
}

// Moves what was kept aside into the queue, as far as there is room.
void Ring::refill() noexcept {
  while (spilled_ != 0) {
    io_uring_sqe* sqe = take_sqe(Use::operation);
    if (sqe == nullptr) return;
    *sqe = queues_->spill.front();
    queues_->spill.pop_front();
    --spilled_;
  }
}

// Shows the prepared SQEs to the kernel; returns how many it has not taken yet. In liburing 2.3 this is private.
unsigned Ring::flush() noexcept {
  io_uring_sq& sq = queues_->ring.sq;
  unsigned tail = *sq.ktail;
  for (; sq.sqe_head != sq.sqe_tail; ++sq.sqe_head, ++tail) {
    if (sq.array != nullptr) sq.array[tail & sq.ring_mask] = sq.sqe_head & sq.ring_mask;
  }
  __atomic_store_n(sq.ktail, tail, __ATOMIC_RELEASE);
  return tail - __atomic_load_n(sq.khead, __ATOMIC_RELAXED);
}

Entered Ring::call(unsigned to_submit, unsigned wait_count, unsigned flags, Duration timeout) {
  ++calls_;
  io_uring_getevents_arg argument{};
  void* argument_at = nullptr;
  std::size_t argument_size = _NSIG / 8;
  if (timeout != forever && wait_count != 0) {
    queues_->timeout = {.tv_sec = timeout.count() / 1'000'000'000, .tv_nsec = timeout.count() % 1'000'000'000};
    argument.ts = reinterpret_cast<std::uintptr_t>(&queues_->timeout);
    argument_at = &argument;
    argument_size = sizeof(argument);
    flags |= IORING_ENTER_EXT_ARG;
  }
  if (features_.registered_ring) flags |= IORING_ENTER_REGISTERED_RING;
  const int result = ::io_uring_enter2(static_cast<unsigned>(enter_fd_), to_submit, wait_count, flags,
                                       static_cast<sigset_t*>(argument_at), argument_size);
  if (OURO_LIKELY(result >= 0)) return Entered::done;
  switch (-result) {
    case ETIME:
      return Entered::timed_out;
    case EINTR:
      return Entered::interrupted;
    case EAGAIN:
    case EBUSY:
    case ENOMEM:
      return Entered::busy;
    default:
      throw_enter_failed(-result, fd_);
  }
}

// Submits without looking at completions.
Entered Ring::submit() {
  const unsigned to_submit = flush();
  return to_submit == 0 ? Entered::done : call(to_submit, 0, 0, forever);
}

// The wait that follows ends after `timeout`, by a request that completes then or together with anything else.
bool Ring::request_timeout(Duration timeout) {
  io_uring_sqe* sqe = take_sqe(Use::internal);
  if (sqe == nullptr && submit() == Entered::done) sqe = take_sqe(Use::internal);
  if (sqe == nullptr) return false;
  queues_->timeout = {.tv_sec = timeout.count() / 1'000'000'000, .tv_nsec = timeout.count() % 1'000'000'000};
  ::io_uring_prep_timeout(sqe, &queues_->timeout, 1, 0);
  sqe->user_data = 0;
  return true;
}

Entered Ring::enter(unsigned wait_count, Duration timeout) {
  bool stuck = false;
  while (spilled_ != 0 && !stuck) {
    refill();
    if (spilled_ != 0) stuck = submit() != Entered::done || room() <= reserve_;
  }
  if (stuck) wait_count = 0;
  if (wait_count != 0 && timeout != forever && !features_.ext_arg) {
    if (!request_timeout(timeout)) wait_count = 0;
    timeout = forever;
  }
  const Entered result = call(flush(), wait_count, IORING_ENTER_GETEVENTS, timeout);
  if (result != Entered::busy) return stuck ? Entered::busy : result;
  // The refused submission kept the kernel from posting what it holds back; without that there may never be room.
  static_cast<void>(call(0, 0, IORING_ENTER_GETEVENTS, forever));
  return Entered::busy;
}

unsigned Ring::reap(std::span<RingCompletion> into) noexcept {
  io_uring_cq& cq = queues_->ring.cq;
  const unsigned head = *cq.khead;
  const unsigned count = std::min(completions(), static_cast<unsigned>(into.size()));
  for (unsigned i = 0; i < count; ++i) {
    const io_uring_cqe& cqe = cq.cqes[(head + i) & cq.ring_mask];
    into[i] = {cqe.user_data, cqe.res, cqe.flags};
  }
  __atomic_store_n(cq.khead, head + count, __ATOMIC_RELEASE);
  return count;
}

}  // namespace ouro::detail
