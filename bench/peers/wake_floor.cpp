// The floor of a wake-up there and back between two threads, each pinned to a processor of its own: by a word in memory
// for which the other one spins, by a futex in which it sleeps, and by IORING_OP_MSG_RING from ring to ring, where it
// sleeps in io_uring_enter.
#include <liburing.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <thread>

#include "driver.hpp"

namespace {

void pin(int processor) {
  cpu_set_t only;
  CPU_ZERO(&only);
  CPU_SET(static_cast<std::size_t>(processor), &only);
  pthread_setaffinity_np(pthread_self(), sizeof only, &only);
}

// The first two that are allowed.
std::array<int, 2> processors() {
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  sched_getaffinity(0, sizeof allowed, &allowed);
  std::array<int, 2> found{};
  std::size_t count = 0;
  for (int i = 0; i < CPU_SETSIZE && count < 2; ++i) {
    if (CPU_ISSET(static_cast<std::size_t>(i), &allowed)) found[count++] = i;
  }
  if (count < 2) bench::fail("two processors are needed");
  return found;
}

struct alignas(128) Count {
  std::atomic<std::uint32_t> value{0};

  void spin_for(std::uint32_t wanted) {
    while (value.load(std::memory_order_acquire) != wanted) __builtin_ia32_pause();
  }
  void sleep_for(std::uint32_t wanted) {
    for (std::uint32_t seen; (seen = value.load()) != wanted;) {
      syscall(SYS_futex, &value, FUTEX_WAIT_PRIVATE, seen, nullptr, nullptr, 0);
    }
  }
  void wake() { syscall(SYS_futex, &value, FUTEX_WAKE_PRIVATE, 1, nullptr, nullptr, 0); }
};

// `ping` and `pong` do the i-th there and back, from one.
template <class Ping, class Pong>
void trips(const std::array<int, 2>& on, std::size_t n, std::size_t count, Ping ping, Pong pong) {
  const auto all = static_cast<std::uint32_t>(n * count);
  std::thread other([&] {
    pin(on[1]);
    for (std::uint32_t i = 1; i <= all; ++i) pong(i);
  });
  for (std::uint32_t i = 1; i <= all; ++i) ping(i);
  other.join();
}

class Ring {
 public:
  Ring() {
    io_uring_params params{};
    params.flags = IORING_SETUP_COOP_TASKRUN;
    if (io_uring_queue_init_params(64, &ring_, &params) != 0) bench::fail("io_uring is not allowed here");
  }
  Ring(const Ring&) = delete;
  ~Ring() { io_uring_queue_exit(&ring_); }

  void send(Ring& to) {
    io_uring_sqe* sqe = io_uring_get_sqe(&ring_);
    io_uring_prep_msg_ring(sqe, to.ring_.ring_fd, 0, 1, 0);
    sqe->flags |= IOSQE_CQE_SKIP_SUCCESS;
  }
  void submit() { io_uring_submit(&ring_); }
  void submit_and_sleep() {
    io_uring_cqe* cqe = nullptr;
    do {
      io_uring_submit_and_wait(&ring_, 1);
    } while (io_uring_peek_cqe(&ring_, &cqe) != 0);
    io_uring_cqe_seen(&ring_, cqe);
  }

 private:
  io_uring ring_{};
};

}  // namespace

int main(int argc, char** argv) {
  const bench::Options options = bench::parse(argc, argv);
  const std::array<int, 2> on = processors();
  pin(on[0]);
  bench::run(options, {"floor", "wake_spin", 2}, {20'000}, [&](std::size_t n, std::size_t count) {
    Count there, back;
    trips(
        on, n, count,
        [&](std::uint32_t i) {
          there.value.store(i, std::memory_order_release);
          back.spin_for(i);
        },
        [&](std::uint32_t i) {
          there.spin_for(i);
          back.value.store(i, std::memory_order_release);
        });
  });
  bench::run(options, {"floor", "wake_futex", 2}, {2'000}, [&](std::size_t n, std::size_t count) {
    Count there, back;
    trips(
        on, n, count, [&](std::uint32_t i) { there.value.store(i), there.wake(), back.sleep_for(i); },
        [&](std::uint32_t i) { there.sleep_for(i), back.value.store(i), back.wake(); });
  });
  bench::run(options, {"floor", "wake_msg_ring", 2}, {2'000}, [&](std::size_t n, std::size_t count) {
    Ring here, there;
    trips(
        on, n, count, [&](std::uint32_t) { here.send(there), here.submit_and_sleep(); },
        [&](std::uint32_t) { there.submit_and_sleep(), there.send(here), there.submit(); });
  });
}
