// The limit of waiting: bare coroutines that sleep on a wheel of milliseconds, wake another thread, and have a function
// called by one. The works of two threads run twice: with both on one processor, where the one that waits yields it,
// and with one on each, where it spins (for wake up to 50 µs, then it sleeps in a futex). The better of the two is the
// limit.
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <ctime>
#include <thread>

#include "bare.hpp"

namespace {

using bench::Task;

// Frames that are due in the same millisecond hang in one list; the node is in the awaiter, that is, in the frame.
struct Sleep;
Sleep* wheel[64];

std::uint64_t now_ms() { return static_cast<std::uint64_t>(bench::wall_ns() / 1e6); }

struct Sleep {
  std::uint64_t ms;
  Sleep* next = nullptr;
  std::coroutine_handle<> frame = nullptr;

  bool await_ready() noexcept { return false; }
  void await_suspend(std::coroutine_handle<> suspended) noexcept {
    frame = suspended;
    next = std::exchange(wheel[(now_ms() + ms + 1) % 64], this);
  }
  void await_resume() noexcept {}
};

[[gnu::noinline]] Task sleeping(std::uint64_t i) {
  co_await Sleep{1 + i % 10};
  co_return i;
}

void sleep_until_ms(std::uint64_t ms) {
  timespec at{};
  at.tv_sec = static_cast<std::time_t>(ms / 1000);
  at.tv_nsec = static_cast<long>(ms % 1000) * 1'000'000;
  clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, nullptr);
}

std::vector<std::uint64_t> gather_sleep(std::size_t n, std::size_t) {
  std::vector<std::uint64_t> results(n);
  std::uint64_t pending = n;
  std::uint64_t turned_to = now_ms();
  for (std::size_t i = 0; i < n; ++i) {
    const Task task = sleeping(i);
    task.join_into(results[i], pending);
    task.frame.resume();
  }
  while (pending > 0) {
    sleep_until_ms(turned_to + 1);
    for (const std::uint64_t now = now_ms(); turned_to <= now; ++turned_to) {
      for (Sleep* sleep = std::exchange(wheel[turned_to % 64], nullptr); sleep != nullptr;) {
        std::exchange(sleep, sleep->next)->frame.resume();
      }
    }
  }
  return results;
}

// Where the main thread and the other one run.
struct Placement {
  const char* name;
  int main;
  int other;
};
Placement placement{"free", -1, -1};

void pin(int processor) {
  cpu_set_t only;
  CPU_ZERO(&only);
  CPU_SET(static_cast<std::size_t>(processor), &only);
  pthread_setaffinity_np(pthread_self(), sizeof only, &only);
}

// What the allowed processors permit.
std::vector<Placement> placements() {
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  sched_getaffinity(0, sizeof allowed, &allowed);
  std::vector<int> processors;
  for (int i = 0; i < CPU_SETSIZE; ++i) {
    if (CPU_ISSET(static_cast<std::size_t>(i), &allowed)) processors.push_back(i);
  }
  std::vector<Placement> found = {{"together", processors[0], processors[0]}};
  if (processors.size() > 1) found.push_back({"apart", processors[0], processors[1]});
  return found;
}

// One look after another: lets the other thread run, or spares it the bus.
void between_looks() {
  if (placement.main == placement.other) {
    sched_yield();
  } else {
    __builtin_ia32_pause();
  }
}

// A counter that one thread raises and another waits for. Values of `parked`: 0, or 1 while the waiter may be in the
// futex; both words are seq_cst, so that either the waiter sees the new count or the poster sees it parked.
struct alignas(128) Signal {
  std::atomic<std::uint32_t> count{0};
  std::atomic<std::uint32_t> parked{0};

  void post() {
    const std::uint32_t next = count.load() + 1;
    count.store(next);
    if (parked.load() != 0) syscall(SYS_futex, &count, FUTEX_WAKE_PRIVATE, 1, nullptr, nullptr, 0);
  }
  void wait_for(std::uint32_t wanted) {
    const double spin_until = bench::wall_ns() + 50'000;
    while (count.load() != wanted) {
      for (int i = 0; i < 32 && count.load() != wanted; ++i) between_looks();
      if (bench::wall_ns() > spin_until) return park(wanted);
    }
  }
  void park(std::uint32_t wanted) {
    parked.store(1);
    for (std::uint32_t seen; (seen = count.load()) != wanted;) {
      syscall(SYS_futex, &count, FUTEX_WAIT_PRIVATE, seen, nullptr, nullptr, 0);
    }
    parked.store(0);
  }
};

void wake(std::size_t n, std::size_t count) {
  const auto trips = static_cast<std::uint32_t>(n * count);
  Signal there;
  Signal back;
  std::thread other([&] {
    pin(placement.other);
    for (std::uint32_t i = 1; i <= trips; ++i) there.wait_for(i), back.post();
  });
  for (std::uint32_t i = 1; i <= trips; ++i) there.post(), back.wait_for(i);
  other.join();
}

// One thread puts calls in, the other takes them out. Each side publishes its index once in 32 entries, or when it has
// no more.
struct CallRing {
  static constexpr std::size_t capacity = 16'384;
  struct Call* slots[capacity];
  alignas(128) std::atomic<std::size_t> published{0};
  alignas(128) std::size_t written = 0;  // the producer's alone
  alignas(128) std::size_t read = 0;     // the consumer's alone

  void put(Call* call) {
    slots[written++ % capacity] = call;
    if (written % 32 == 0) publish();
  }
  void publish() { published.store(written, std::memory_order_release); }  // pairs with the acquire in take_all()

  template <class Use>
  void take_all(Use use) {
    for (const std::size_t end = published.load(std::memory_order_acquire); read != end; ++read)
      use(slots[read % capacity]);
  }
};

CallRing to_pool;
CallRing from_pool;
std::atomic<bool> pool_stops{false};

int one() { return 1; }

struct Call {
  int (*function)();
  int result = 0;
  std::coroutine_handle<> frame = nullptr;

  bool await_ready() noexcept { return false; }
  void await_suspend(std::coroutine_handle<> suspended) noexcept {
    frame = suspended;
    to_pool.put(this);
  }
  int await_resume() noexcept { return result; }
};

[[gnu::noinline]] Task calling(std::uint64_t i) {
  const int result = co_await Call{one};
  co_return i + static_cast<std::uint64_t>(result) - 1;
}

void pool_thread() {
  pin(placement.other);
  while (!pool_stops.load()) {
    to_pool.take_all([](Call* call) {
      call->result = call->function();
      from_pool.put(call);
    });
    from_pool.publish();
    between_looks();
  }
}

void call_all(std::size_t n, std::vector<std::uint64_t>& results) {
  std::uint64_t pending = n;
  for (std::size_t i = 0; i < n; ++i) {
    const Task task = calling(i);
    task.join_into(results[i], pending);
    task.frame.resume();
  }
  to_pool.publish();
  while (pending > 0) {
    from_pool.take_all([](Call* call) { call->frame.resume(); });
    if (pending > 0) between_looks();
  }
}

void executor(const bench::Options& options) {
  if (!options.wants("executor_single") && !options.wants("executor_10k")) return;
  const bench::Label single{"bare", "executor_single", 2, bench::Meter::wall, placement.name};
  const bench::Label at_once{"bare", "executor_10k", 2, bench::Meter::wall, placement.name};
  std::vector<std::uint64_t> results(10'000);
  pool_stops.store(false);
  std::thread pool(pool_thread);
  bench::run(options, single, {20'000}, [&](std::size_t n, std::size_t count) {
    for (std::size_t i = 0; i < n * count; ++i) call_all(1, results);
  });
  bench::run(options, at_once, {10'000}, [&](std::size_t n, std::size_t count) {
    for (; count > 0; --count) call_all(n, results);
    return results;
  });
  pool_stops.store(true);
  pool.join();
}

}  // namespace

int main(int argc, char** argv) {
  const bench::Options options = bench::parse(argc, argv);
  bench::run(options, {"bare", "gather_sleep", 1, bench::Meter::cpu}, options.sizes, gather_sleep);
  for (const Placement& next : placements()) {
    placement = next;
    pin(placement.main);
    bench::run(options, {"bare", "wake", 2, bench::Meter::wall, placement.name}, {20'000}, wake);
    executor(options);
  }
}
