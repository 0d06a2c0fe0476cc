// Proactor: operations, wake-ups, deadlines, and its lives on several threads and in forked children; each with every
// fallback of the ring. Nothing here sleeps: threads wait for each other, and park() for the kernel.
#include "proactor.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <cstdlib>
#include <iostream>
#include <latch>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include <ouro/io/errors.hpp>
#include <ouro/runtime/exceptions.hpp>

namespace ouro::detail {
namespace {

class Counter final : public Operation {
 public:
  void complete(int result, unsigned flags) noexcept override {
    EXPECT_EQ((flags & completion_more) == 0, state() == State::done);
    last_result = result;
    ++completions;
  }
  int last_result = 1;
  int completions = 0;
};

struct Pipe {
  Pipe() {
    int ends[2] = {-1, -1};
    if (::pipe(ends) != 0) std::abort();
    reader.reset(ends[0]);
    writer.reset(ends[1]);
  }
  void put(char byte) const { ASSERT_EQ(::write(writer.get(), &byte, 1), 1); }
  Fd reader;
  Fd writer;
};

void await(Proactor& proactor, const Operation& operation) {
  while (operation.in_flight()) proactor.park(TimePoint::max());
}

TimePoint now() { return Clock::steady().now(); }

// A forked child's exit status; its Proactors are destroyed before it ends.
template <class Body>
int status_of_child(Body body) {
  const pid_t child = ::fork();
  if (child == 0) {
    int status = 100;
    try {
      status = body();
    } catch (const std::exception& error) {
      std::cerr << "in the child: " << error.what() << std::endl;
    }
    ::_exit(status);
  }
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  return WIFEXITED(status) ? WEXITSTATUS(status) : 200;
}

// The parameter is OURO_RING_DISABLE.
class ProactorTest : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override { ::setenv("OURO_RING_DISABLE", GetParam(), 1); }
  void TearDown() override { ::unsetenv("OURO_RING_DISABLE"); }
};

TEST_P(ProactorTest, MakesNoRingBeforeItIsPolled) {
  Proactor proactor;
  EXPECT_EQ(proactor.features().sq_entries, 0U);
  EXPECT_TRUE(proactor.idle());
  proactor.poll();
  EXPECT_NE(proactor.features().sq_entries, 0U);
  EXPECT_TRUE(proactor.idle());
  EXPECT_NE(proactor.describe(), "");
}

TEST_P(ProactorTest, CompletesANop) {
  Proactor proactor;
  Counter operation;
  EXPECT_EQ(operation.state(), Operation::State::idle);
  proactor.nop(operation);
  EXPECT_EQ(operation.state(), Operation::State::submitted);
  EXPECT_FALSE(proactor.idle());
  await(proactor, operation);
  EXPECT_EQ(operation.state(), Operation::State::done);
  EXPECT_EQ(operation.last_result, 0);
  EXPECT_TRUE(proactor.idle());
  proactor.nop(operation);
  await(proactor, operation);
  EXPECT_EQ(operation.completions, 2);
}

TEST_P(ProactorTest, PollAloneMakesProgress) {
  Proactor proactor;
  Pipe pipe;
  Counter operation;
  proactor.poll_add(operation, pipe.reader.get(), POLLIN);
  while (proactor.poll()) {
  }
  pipe.put('x');
  while (operation.in_flight()) proactor.poll();
  EXPECT_EQ(operation.last_result, POLLIN);
}

TEST_P(ProactorTest, ReadsWhatArrives) {
  Proactor proactor;
  Pipe pipe;
  Counter operation;
  std::array<std::byte, 8> buffer{};
  proactor.read(operation, pipe.reader.get(), buffer, Proactor::current_position);
  proactor.poll();
  EXPECT_TRUE(operation.in_flight());
  pipe.put('x');
  await(proactor, operation);
  EXPECT_EQ(operation.last_result, 1);
  EXPECT_EQ(buffer[0], std::byte{'x'});
}

TEST_P(ProactorTest, EndsACancelledOperationWithItsLastCompletion) {
  Proactor proactor;
  Pipe pipe;
  Counter polled;
  Counter unsubmitted;
  proactor.cancel(polled);  // not in flight: nothing
  proactor.poll_add(polled, pipe.reader.get(), POLLIN);
  proactor.poll();
  proactor.poll_add(unsubmitted, pipe.reader.get(), POLLIN);
  proactor.cancel(polled);
  proactor.cancel(polled);
  proactor.cancel(unsubmitted);
  EXPECT_EQ(polled.state(), Operation::State::cancelling);
  EXPECT_EQ(polled.completions, 0);
  await(proactor, polled);
  await(proactor, unsubmitted);
  EXPECT_EQ(polled.last_result, -ECANCELED);
  EXPECT_EQ(polled.completions, 1);
  EXPECT_EQ(unsubmitted.last_result, -ECANCELED);
  EXPECT_TRUE(proactor.idle());
}

// A socket for datagrams that is not connected counts as ready though the other side has no room: the kernel tries it
// again and again, and a cancel may come while it is between two places.
TEST_P(ProactorTest, ACancelThatMissesIsRepeated) {
  Proactor proactor;
  const Fd sender(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  const Fd receiver(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  sockaddr_un name{};
  name.sun_family = AF_UNIX;
  ASSERT_EQ(::bind(receiver.get(), reinterpret_cast<sockaddr*>(&name), sizeof(sa_family_t)), 0);
  socklen_t length = sizeof name;
  ASSERT_EQ(::getsockname(receiver.get(), reinterpret_cast<sockaddr*>(&name), &length), 0);
  iovec part{.iov_base = const_cast<char*>("x"), .iov_len = 1};
  msghdr message{};
  message.msg_name = &name;
  message.msg_namelen = length;
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  while (::sendmsg(sender.get(), &message, MSG_DONTWAIT) == 1) continue;
  for (int turns = 0; turns < 200; ++turns) {
    Counter operation;
    proactor.send_message(operation, sender.get(), &message, 0);
    for (int i = 0; i < turns; ++i) proactor.poll();
    proactor.cancel(operation);
    await(proactor, operation);
    EXPECT_TRUE(operation.last_result == -ECANCELED || operation.last_result == -EINTR) << operation.last_result;
  }
  EXPECT_TRUE(proactor.idle());
}

TEST_P(ProactorTest, DeliversASuccessThatWasFasterThanItsCancel) {
  Proactor proactor;
  Counter operation;
  for (int i = 0; i < 100; ++i) {
    proactor.nop(operation);
    proactor.cancel(operation);
    await(proactor, operation);
    EXPECT_EQ(operation.last_result, 0);
  }
  EXPECT_EQ(operation.completions, 100);
}

TEST_P(ProactorTest, CancelsMoreThanTheQueueHolds) {
  Proactor proactor(4);
  Pipe pipe;
  std::vector<Counter> operations(100);
  for (Counter& operation : operations) proactor.poll_add(operation, pipe.reader.get(), POLLIN);
  for (Counter& operation : operations) proactor.cancel(operation);
  for (Counter& operation : operations) {
    await(proactor, operation);
    EXPECT_EQ(operation.last_result, -ECANCELED);
    EXPECT_EQ(operation.completions, 1);
  }
  EXPECT_TRUE(proactor.idle());
}

TEST_P(ProactorTest, SurvivesAnOverflownCompletionQueue) {
  Proactor proactor(1);
  proactor.poll();
  std::atomic<int> value{0};
  std::vector<Counter> operations(200);
  for (int round = 1; round <= 20; ++round) {
    for (Counter& operation : operations) proactor.nop(operation);
    std::thread([&] {
      value.store(round, std::memory_order_release);
      proactor.unpark();
    }).join();
    for (Counter& operation : operations) await(proactor, operation);
  }
  for (const Counter& operation : operations) EXPECT_EQ(operation.completions, 20);
  // The overflow has ended the watch on the eventfd; it must have been taken up again.
  std::thread waker([&] {
    value.store(100, std::memory_order_release);
    proactor.unpark();
  });
  while (value.load(std::memory_order_acquire) != 100) proactor.park(TimePoint::max());
  waker.join();
}

TEST_P(ProactorTest, StartsOperationsFromACompletion) {
  struct Chain final : Operation {
    void complete(int, unsigned) noexcept override {
      if (--left > 0) proactor->nop(*this);
    }
    Proactor* proactor = nullptr;
    int left = 50;
  };
  Proactor proactor(2);
  std::array<Chain, 8> chains;
  for (Chain& chain : chains) {
    chain.proactor = &proactor;
    proactor.nop(chain);
  }
  for (Chain& chain : chains) {
    await(proactor, chain);
    EXPECT_EQ(chain.left, 0);
  }
}

TEST_P(ProactorTest, ParksUntilTheDeadline) {
  Proactor proactor;
  proactor.poll();
  for (const Duration delay : {Duration(std::chrono::microseconds(50)), Duration(std::chrono::milliseconds(5))}) {
    const TimePoint deadline = now() + delay;
    int rounds = 0;
    while (now() < deadline) {
      proactor.park(deadline);
      ++rounds;
    }
    EXPECT_LE(rounds, 3);
  }
  proactor.park(TimePoint::min());  // long past: no wait
  proactor.park(now());
}

TEST_P(ProactorTest, EndsAWaitBeforeItsDeadline) {
  Proactor proactor;
  Counter operation;
  proactor.nop(operation);
  proactor.park(now() + std::chrono::hours(24 * 365 * 200));
  while (operation.in_flight()) proactor.park(now() + std::chrono::hours(1));
  proactor.unpark();
  proactor.park(now() + std::chrono::hours(1));
}

TEST_P(ProactorTest, TakesInAnUnparkOnce) {
  Proactor proactor;
  while (proactor.poll()) {
  }
  proactor.unpark();
  proactor.unpark();
  int wakes = 0;
  for (int i = 0; i < 1000; ++i) wakes += proactor.poll() ? 1 : 0;
  EXPECT_EQ(wakes, 1);
}

TEST_P(ProactorTest, LatchesAnUnparkFromBeforeTheRing) {
  Proactor proactor;
  std::thread([&] { proactor.unpark(); }).join();
  proactor.park(TimePoint::max());
  std::thread([&] { proactor.unpark(); }).join();
  proactor.park(TimePoint::max());
}

TEST_P(ProactorTest, LosesNoUnpark) {
  constexpr int rounds = 3000;
  Proactor proactor;
  std::atomic<int> asked{0};
  std::atomic<int> answered{0};
  int plain = 0;  // unsynchronised on purpose: the wake-up must order it
  std::thread waker([&] {
    for (int round = 1; round <= rounds; ++round) {
      plain = round;
      asked.store(round, std::memory_order_release);
      proactor.unpark();
      while (answered.load(std::memory_order_acquire) != round) std::this_thread::yield();
    }
  });
  for (int round = 1; round <= rounds; ++round) {
    while (asked.load(std::memory_order_acquire) != round) proactor.park(TimePoint::max());
    EXPECT_EQ(plain, round);
    answered.store(round, std::memory_order_release);
  }
  waker.join();
}

TEST_P(ProactorTest, MergesUnparksOfManyThreads) {
  constexpr int threads = 4;
  constexpr int per_thread = 2000;
  Proactor proactor;
  std::atomic<int> posted{0};
  std::vector<std::thread> wakers;
  for (int i = 0; i < threads; ++i) {
    wakers.emplace_back([&] {
      for (int n = 0; n < per_thread; ++n) {
        posted.fetch_add(1, std::memory_order_release);
        proactor.unpark();
      }
    });
  }
  while (posted.load(std::memory_order_acquire) != threads * per_thread) proactor.park(TimePoint::max());
  for (std::thread& waker : wakers) waker.join();
  while (proactor.poll()) {
  }
}

TEST_P(ProactorTest, WakesFromLoopToLoop) {
  constexpr int rounds = 1000;
  struct Side {
    Proactor proactor;
    std::atomic<int> turn{0};
  };
  Side left;
  Side right;
  const auto play = [](Side& self, Side& other, int first) {
    for (int i = 0; i < rounds; ++i) {
      while (self.turn.load(std::memory_order_acquire) != i + first) self.proactor.park(TimePoint::max());
      other.turn.store(i + 1, std::memory_order_release);
      other.proactor.unpark();
    }
  };
  std::thread thread([&] { play(right, left, 1); });
  play(left, right, 0);
  thread.join();
}

Proactor* signalled = nullptr;

TEST_P(ProactorTest, UnparksFromASignalHandler) {
  Proactor proactor;
  while (proactor.poll()) {
  }
  signalled = &proactor;
  struct sigaction action{};
  action.sa_handler = [](int) { signalled->unpark(); };
  struct sigaction before{};
  ASSERT_EQ(::sigaction(SIGUSR1, &action, &before), 0);
  errno = 77;
  ASSERT_EQ(::raise(SIGUSR1), 0);
  EXPECT_EQ(errno, 77);
  proactor.park(TimePoint::max());
  ASSERT_EQ(::sigaction(SIGUSR1, &before, nullptr), 0);
}

TEST_P(ProactorTest, MovesToAnotherThreadWhenNothingIsInFlight) {
  Proactor proactor;
  Counter operation;
  std::thread([&] {
    proactor.nop(operation);
    await(proactor, operation);
    proactor.unpark();  // into a ring that nobody will reap
  }).join();
  proactor.park(TimePoint::max());
  proactor.nop(operation);
  await(proactor, operation);
  EXPECT_EQ(operation.completions, 2);
}

TEST_P(ProactorTest, LeavesItsNewThreadsOtherRingAlone) {
  Proactor resident;
  Proactor guest;
  resident.poll();
  std::thread([&] { guest.poll(); }).join();
  guest.poll();  // closes the ring of the other thread, whose registration had the number of this one's
  Counter operation;
  resident.nop(operation);
  await(resident, operation);
  EXPECT_EQ(operation.last_result, 0);
}

TEST_P(ProactorTest, MovesWhileOthersUnpark) {
  Proactor proactor;
  std::atomic<bool> stop{false};
  std::atomic<int> posted{0};
  std::thread waker([&] {
    while (!stop.load(std::memory_order_acquire)) {
      posted.fetch_add(1, std::memory_order_release);
      proactor.unpark();
      std::this_thread::yield();
    }
  });
  for (int move = 0; move < 50; ++move) {
    std::thread([&] {
      const int before = posted.load(std::memory_order_acquire);
      while (posted.load(std::memory_order_acquire) == before) proactor.park(TimePoint::max());
    }).join();
  }
  stop.store(true, std::memory_order_release);
  waker.join();
}

TEST_P(ProactorTest, RefusesToMoveWithOperationsInFlight) {
  Proactor proactor;
  Pipe pipe;
  Counter operation;
  Counter other;
  std::latch started(1);
  std::latch refused(1);
  std::thread owner([&] {
    proactor.poll_add(operation, pipe.reader.get(), POLLIN);
    proactor.poll();
    started.count_down();
    refused.wait();
    pipe.put('x');
    await(proactor, operation);
  });
  started.wait();
  EXPECT_THROW(proactor.poll(), RuntimeError);
  EXPECT_THROW(proactor.park(TimePoint::max()), RuntimeError);
  EXPECT_THROW(proactor.nop(other), RuntimeError);
  EXPECT_FALSE(other.in_flight());
  refused.count_down();
  owner.join();
  EXPECT_EQ(operation.last_result, POLLIN);
  proactor.poll();
}

TEST_P(ProactorTest, RefusesAnOperationOfAnotherThread) {
  Proactor proactor;
  proactor.poll();
  std::thread([&] {
    Counter operation;
    EXPECT_THROW(proactor.nop(operation), RuntimeError);
  }).join();
  Counter operation;
  proactor.nop(operation);
  await(proactor, operation);
}

TEST_P(ProactorTest, EndsOperationsWhenDestroyed) {
  Pipe pipe;
  std::vector<Counter> operations(20);
  {
    Proactor proactor(4);
    for (Counter& operation : operations) proactor.poll_add(operation, pipe.reader.get(), POLLIN);
    proactor.poll();
    proactor.cancel(operations.front());
  }
  for (const Counter& operation : operations) {
    EXPECT_EQ(operation.completions, 1);
    EXPECT_EQ(operation.last_result, -ECANCELED);
  }
}

TEST_P(ProactorTest, EndsOperationsWhenDestroyedAfterItsThread) {
  Pipe pipe;
  Counter operation;
  auto proactor = std::make_unique<Proactor>();
  std::thread([&] {
    proactor->poll_add(operation, pipe.reader.get(), POLLIN);
    proactor->poll();
  }).join();
  proactor.reset();
  EXPECT_EQ(operation.completions, 1);
  EXPECT_EQ(operation.last_result, -ECANCELED);
}

TEST_P(ProactorTest, LeavesNoDescriptorBehind) {
  const auto lowest_free = [] { return Fd(::dup(0)).get(); };
  const int before = lowest_free();
  for (int i = 0; i < 20; ++i) {
    auto unused = std::make_unique<Proactor>();
    auto used = std::make_unique<Proactor>();
    used->poll();
    std::thread([&] { used->poll(); }).join();
    used->poll();
  }
  EXPECT_EQ(lowest_free(), before);
}

TEST_P(ProactorTest, ReportsAnEventfdThatTheProgramHasReplaced) {
  const Fd unusable(::open("/", O_PATH | O_CLOEXEC));
  const int number = Fd(::dup(0)).get();
  Proactor proactor;
  ASSERT_EQ(::dup2(unusable.get(), number), number);
  EXPECT_THROW(proactor.poll(), OSError);
  EXPECT_THROW(proactor.park(TimePoint::max()), OSError);
}

TEST_P(ProactorTest, LivesOnInAForkedChild) {
  Proactor proactor;
  Counter operation;
  proactor.nop(operation);
  await(proactor, operation);
  proactor.unpark();  // pending in both
  EXPECT_EQ(status_of_child([&] {
              proactor.park(TimePoint::max());
              for (int i = 0; i < 100; ++i) {
                proactor.nop(operation);
                await(proactor, operation);
                proactor.unpark();
                proactor.park(TimePoint::max());
              }
              return operation.completions == 101 ? 0 : 1;
            }),
            0);
  proactor.park(TimePoint::max());
  for (int i = 0; i < 1000; ++i) {
    proactor.nop(operation);
    await(proactor, operation);
  }
  EXPECT_EQ(operation.completions, 1001);
}

TEST_P(ProactorTest, DoesNotLetAChildWaitForItsParentsOperations) {
  Proactor proactor;
  Pipe pipe;
  Counter operation;
  proactor.poll_add(operation, pipe.reader.get(), POLLIN);
  proactor.poll();
  EXPECT_EQ(status_of_child([&] {
              int refusals = 0;
              for (int i = 0; i < 2; ++i) {
                try {
                  proactor.poll();
                } catch (const RuntimeError&) {
                  ++refusals;
                }
              }
              proactor.cancel(operation);  // the parent's: nothing
              proactor.unpark();
              proactor.~Proactor();
              return refusals == 2 && operation.completions == 1 ? 0 : 1;
            }),
            0);
  EXPECT_TRUE(operation.in_flight());
  pipe.put('x');
  await(proactor, operation);
  EXPECT_EQ(operation.last_result, POLLIN);
}

INSTANTIATE_TEST_SUITE_P(Fallbacks, ProactorTest,
                         testing::Values("", "defer_taskrun", "defer_taskrun,single_issuer",
                                         "defer_taskrun,single_issuer,coop_taskrun,submit_all", "taskrun_flag",
                                         "registered_ring", "ext_arg", "multishot_poll", "skip_success",
                                         "defer_taskrun,single_issuer,coop_taskrun,submit_all,registered_ring,"
                                         "msg_ring,ext_arg,multishot_poll,skip_success"));

}  // namespace
}  // namespace ouro::detail
