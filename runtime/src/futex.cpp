// Linux's futex, in its private form: the words are this process's.
#include <ouro/runtime/detail/futex.hpp>

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <ctime>

namespace ouro::detail {
namespace {

static_assert(sizeof(Atomic<std::uint32_t>) == sizeof(std::uint32_t));

// An absolute time for the kernel. What lies before the clock's start has passed all the same.
timespec to_timespec(TimePoint when) noexcept {
  constexpr std::int64_t second = 1'000'000'000;
  const std::int64_t count = when.time_since_epoch().count();
  timespec time{};
  if (count <= 0) return time;
  time.tv_sec = static_cast<std::time_t>(count / second);
  time.tv_nsec = static_cast<long>(count % second);
  return time;
}

}  // namespace

bool futex_wait(const Atomic<std::uint32_t>& word, std::uint32_t expected, TimePoint deadline) noexcept {
  const int saved = errno;
  const timespec time = to_timespec(deadline);
  bool in_time = true;
  // WAIT_BITSET takes an absolute time, on the monotonic clock that steady_clock is: a retry needs no arithmetic.
  while (syscall(SYS_futex, &word, FUTEX_WAIT_BITSET | FUTEX_PRIVATE_FLAG, expected,
                 deadline == TimePoint::max() ? nullptr : &time, nullptr, FUTEX_BITSET_MATCH_ANY) != 0) {
    if (errno == EINTR) continue;
    in_time = errno != ETIMEDOUT;
    break;
  }
  errno = saved;
  return in_time;
}

void futex_wake(const Atomic<std::uint32_t>& word, std::uint32_t most) noexcept {
  const int saved = errno;
  const int count = most > INT_MAX ? INT_MAX : static_cast<int>(most);
  syscall(SYS_futex, &word, FUTEX_WAKE | FUTEX_PRIVATE_FLAG, count, nullptr, nullptr, 0);
  errno = saved;
}

}  // namespace ouro::detail
