// Ring: set-up under every refusal that a system can think of, and the queues when they are full.
#include "ring.hpp"

#include <gtest/gtest.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstddef>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <iostream>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <ouro/io/errors.hpp>
#include <ouro/runtime/exceptions.hpp>

#include "proactor.hpp"

namespace ouro::detail {
namespace {

// An environment variable for as long as it lives.
class Variable {
 public:
  Variable(const char* name, const char* value) : name_(name) { ::setenv(name, value, 1); }
  ~Variable() { ::unsetenv(name_); }
  Variable(const Variable&) = delete;
  Variable& operator=(const Variable&) = delete;

 private:
  const char* name_;
};

// Runs `body` in a forked child; true if it returns true.
bool in_child(const std::function<bool()>& body) {
  const pid_t child = ::fork();
  if (child == 0) {
    bool good = false;
    try {
      good = body();
    } catch (const std::exception& error) {
      std::cerr << "in the child: " << error.what() << std::endl;
    }
    ::_exit(good ? 0 : 1);
  }
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

// From now on system call `number` fails with `error`; if `flags_without` is not 0, only when none of these bits is in
// its fourth argument.
bool deny(long number, int error, unsigned flags_without = 0) {
  std::vector<sock_filter> program{
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
      BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, static_cast<unsigned>(number), 0, 3),
      BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, args) + 3 * sizeof(__u64)),
      BPF_JUMP(BPF_JMP | BPF_JSET | BPF_K, flags_without, 1, 0),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | static_cast<unsigned>(error)),
      BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
  };
  const sock_fprog filter{static_cast<unsigned short>(program.size()), program.data()};
  return ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && ::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) == 0;
}

constexpr unsigned get_events = 1;  // IORING_ENTER_GETEVENTS

// An unprivileged user of this test's own, with a limit to the memory that it may lock.
bool become_limited(rlim_t memlock_bytes) {
  const rlimit limit{memlock_bytes, memlock_bytes};
  if (::setrlimit(RLIMIT_MEMLOCK, &limit) != 0) return false;
  if (::geteuid() != 0) return true;
  const uid_t user = 200'000 + static_cast<uid_t>(::getpid());
  return ::setresgid(user, user, user) == 0 && ::setresuid(user, user, user) == 0;
}

bool contains(std::string_view text, std::string_view part) { return text.find(part) != text.npos; }

// What `body` throws, as "what | hint"; empty if nothing.
template <class Error>
std::string caught(const std::function<void()>& body) {
  try {
    body();
  } catch (const Error& error) {
    return std::string(error.what()) + " | " + error.hint();
  }
  return {};
}

class Counter final : public Operation {
 public:
  void complete(int result, unsigned) noexcept override {
    last_result = result;
    ++completions;
  }
  int last_result = 1;
  int completions = 0;
};

std::vector<std::uint64_t> reap_all(Ring& ring) {
  std::vector<std::uint64_t> seen;
  std::array<RingCompletion, 3> batch{};
  while (const unsigned count = ring.reap(batch)) {
    for (unsigned i = 0; i < count; ++i) seen.push_back(batch[i].user_data);
  }
  return seen;
}

TEST(Ring, TakesWhatTheKernelHas) {
  const Ring ring(64);
  const RingFeatures& features = ring.features();
  EXPECT_EQ(features.sq_entries, 64U);
  EXPECT_GE(features.cq_entries, 4 * features.sq_entries);
  if (features.defer_taskrun) {
    EXPECT_TRUE(features.single_issuer && features.taskrun_flag && features.submit_all);
    EXPECT_FALSE(features.coop_taskrun);
  }
  EXPECT_TRUE(contains(ring.describe(), "64 sq"));
}

TEST(Ring, CompletesInOneEnter) {
  Ring ring(8);
  EXPECT_FALSE(ring.has_submissions());
  ring.nop(11);
  ring.nop(12);
  EXPECT_TRUE(ring.has_submissions());
  EXPECT_EQ(ring.enter(2), Entered::done);
  EXPECT_FALSE(ring.has_submissions());
  EXPECT_EQ(ring.completions(), 2U);
  EXPECT_EQ(reap_all(ring), (std::vector<std::uint64_t>{11, 12}));
  EXPECT_FALSE(ring.has_completions());
}

TEST(Ring, ReportsATimeout) {
  Ring ring(8);
  if (!ring.features().ext_arg) GTEST_SKIP();
  EXPECT_EQ(ring.enter(1, std::chrono::microseconds(100)), Entered::timed_out);
}

TEST(Ring, SubmitsAFullQueueAndLosesNothingWhenItOverflows) {
  Ring ring(1);
  ASSERT_EQ(ring.features().cq_entries, 4U);
  std::vector<std::uint64_t> expected;
  for (std::uint64_t i = 100; i < 164; ++i) {
    ring.nop(i);
    expected.push_back(i);
  }
  std::vector<std::uint64_t> seen;
  while (seen.size() < expected.size()) {
    ring.enter(1);
    for (const std::uint64_t user_data : reap_all(ring)) seen.push_back(user_data);
  }
  EXPECT_EQ(seen, expected);
  EXPECT_FALSE(ring.kernel_waits());
}

TEST(Ring, KeepsRoomForCancels) {
  for (std::uint64_t requests = 1; requests <= 16; ++requests) {
    Ring ring(8);
    for (std::uint64_t i = 0; i < requests; ++i) ring.nop(100 + i);
    EXPECT_TRUE(ring.try_cancel(999, 0)) << requests;
    EXPECT_TRUE(ring.try_cancel(999, 0)) << requests;
  }
  Ring full(8);
  for (int i = 0; i < 8; ++i) EXPECT_TRUE(full.try_cancel(999, 0));
  EXPECT_FALSE(full.try_cancel(999, 0));
  full.enter(0);
  EXPECT_TRUE(full.try_cancel(999, 0));
}

TEST(Ring, LeavesOutWhatTheEnvironmentDisables) {
  const Variable nothing("OURO_RING_DISABLE", "");
  const Ring whole(8);
  bool RingFeatures::* const members[] = {&RingFeatures::defer_taskrun, &RingFeatures::single_issuer,
                                          &RingFeatures::submit_all,    &RingFeatures::registered_ring,
                                          &RingFeatures::ext_arg,       &RingFeatures::multishot_poll,
                                          &RingFeatures::taskrun_flag,  &RingFeatures::skip_success};
  const char* const words[] = {"defer_taskrun", "single_issuer",  "submit_all",   "registered_ring",
                               "ext_arg",       "multishot_poll", "taskrun_flag", "skip_success"};
  for (std::size_t i = 0; i < std::size(words); ++i) {
    const Variable variable("OURO_RING_DISABLE", words[i]);
    Ring ring(8);
    EXPECT_FALSE(ring.features().*members[i]) << words[i];
    ring.nop(17);
    while (!ring.has_completions()) ring.enter(1, std::chrono::seconds(1));
    EXPECT_EQ(reap_all(ring).front(), 17U) << words[i];
  }
  const Variable variable("OURO_RING_DISABLE", ",defer_taskrun,,coop_taskrun,msg_ring,single_issuer,");
  const Ring plain(8);
  EXPECT_FALSE(plain.features().taskrun_flag);
  EXPECT_EQ(plain.features().ext_arg, whole.features().ext_arg);
}

TEST(Ring, RefusesUnknownWords) {
  const Variable variable("OURO_RING_DISABLE", "defer_taskrun,sqpoll");
  const std::string text = caught<RuntimeError>([] { Ring ring(8); });
  EXPECT_TRUE(contains(text, "unknown word 'sqpoll'")) << text;
  EXPECT_TRUE(contains(text, "multishot_poll")) << text;
}

TEST(Ring, TakesItsSizeFromTheEnvironment) {
  {
    const Variable variable("OURO_RING_ENTRIES", "32");
    EXPECT_EQ(Ring(0).features().sq_entries, 32U);
    EXPECT_EQ(Ring(16).features().sq_entries, 16U);
  }
  EXPECT_EQ(Ring(0).features().sq_entries, Ring::default_entries);
  for (const char* value : {"0", "x", "8x", "-1", "99999999999999999999", "32769"}) {
    const Variable variable("OURO_RING_ENTRIES", value);
    EXPECT_THROW(Ring(0), RuntimeError) << value;
  }
}

// The pages of the process's rings.
std::vector<std::pair<void*, std::size_t>> ring_mappings() {
  std::vector<std::pair<void*, std::size_t>> found;
  std::ifstream maps("/proc/self/maps");
  for (std::string line; std::getline(maps, line);) {
    if (!contains(line, "io_uring")) continue;
    const auto begin = std::stoull(line, nullptr, 16);
    const auto end = std::stoull(line.substr(line.find('-') + 1), nullptr, 16);
    found.emplace_back(reinterpret_cast<void*>(begin), static_cast<std::size_t>(end - begin));
  }
  return found;
}

TEST(Ring, IsNotInheritedAndLeavesAChildsMemoryAlone) {
  Ring ring(8);
  ring.nop(1);
  const auto mappings = ring_mappings();
  ASSERT_FALSE(mappings.empty());
  EXPECT_TRUE(in_child([&] {
    if (!ring_mappings().empty()) return false;
    for (const auto& [address, bytes] : mappings) {
      void* const own =
          ::mmap(address, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
      if (own != address) return false;
    }
    ring.close(Ring::Closer::forked);
    for (const auto& [address, bytes] : mappings) {
      if (::msync(address, bytes, MS_ASYNC) != 0) return false;  // ENOMEM: not mapped any more
    }
    return true;
  }));
  ring.enter(1);
  EXPECT_EQ(reap_all(ring), (std::vector<std::uint64_t>{1}));
}

TEST(RingRefused, HalvesTheRingUnderATightMemlock) {
  if (::geteuid() != 0) GTEST_SKIP() << "the account of a user with other rings may be used up already";
  EXPECT_TRUE(in_child([] {
    if (!become_limited(64 * 1024)) return false;
    Ring ring(4096);
    ring.nop(5);
    ring.enter(1);
    return ring.features().sq_entries < 4096 && reap_all(ring).size() == 1;
  }));
}

TEST(RingRefused, StatesTheMemlockLimit) {
  EXPECT_TRUE(in_child([] {
    if (!become_limited(0)) return false;
    const std::string text = caught<OSError>([] { Ring ring(256); });
    return contains(text, "RLIMIT_MEMLOCK 0 KiB") && contains(text, "ulimit -l");
  }));
}

TEST(RingRefused, NamesTheDescriptorLimit) {
  EXPECT_TRUE(in_child([] {
    if (!deny(SYS_io_uring_setup, EMFILE)) return false;
    const std::string text = caught<OSError>([] { Ring ring(8); });
    return contains(text, "Too many open files") && contains(text, "RLIMIT_NOFILE");
  }));
}

TEST(RingRefused, TellsSeccompAtSetUp) {
  EXPECT_TRUE(in_child([] {
    if (!deny(SYS_io_uring_setup, EPERM)) return false;
    Proactor proactor;
    const std::string text = caught<PermissionError>([&] { proactor.poll(); });
    return contains(text, "seccomp") && contains(text, "io_uring_enter") && contains(text, "--security-opt");
  }));
}

TEST(RingRefused, TellsSeccompAtEnterAndDoesNotRetry) {
  EXPECT_TRUE(in_child([] {
    if (!deny(SYS_io_uring_enter, EPERM)) return false;
    Counter operation;
    {
      Proactor proactor;
      proactor.nop(operation);
      const std::string poll = caught<PermissionError>([&] { proactor.poll(); });
      const std::string park = caught<PermissionError>([&] { proactor.park(TimePoint::max()); });
      if (!contains(poll, "io_uring_enter") || !contains(poll, "seccomp") || poll != park) return false;
    }
    return operation.last_result == -ECANCELED && operation.completions == 1;
  }));
}

TEST(RingRefused, TellsAKernelWithoutIoUring) {
  EXPECT_TRUE(in_child([] {
    if (!deny(SYS_io_uring_setup, ENOSYS)) return false;
    return contains(caught<OSError>([] { Ring ring(8); }), "5.15");
  }));
}

TEST(RingRefused, WorksWithoutRegister) {
  EXPECT_TRUE(in_child([] {
    if (!deny(SYS_io_uring_register, EPERM)) return false;
    Proactor proactor;
    Counter operation;
    proactor.nop(operation);
    proactor.unpark();
    proactor.park(TimePoint::max());
    while (operation.completions == 0) proactor.park(TimePoint::max());
    return !proactor.features().registered_ring;
  }));
}

// EINTR, and the errors that mean "later": no exception, no spinning, and nothing lost.
TEST(RingRefused, TakesPassingErrorsInItsStride) {
  for (const int error : {EINTR, EAGAIN, EBUSY, ENOMEM}) {
    EXPECT_TRUE(in_child([error] {
      Counter operation;
      {
        Proactor proactor(4);
        proactor.poll();
        if (!deny(SYS_io_uring_enter, error)) return false;
        proactor.nop(operation);
        if (proactor.poll()) return false;
        proactor.park(TimePoint::max());
        if (operation.completions != 0 || proactor.in_flight() != 1) return false;
        ::_exit(0);  // the destructor would wait for the kernel's better mood
      }
      return true;
    })) << error;
  }
}

// A queue that cannot be submitted when it is full: requests are kept aside, and their order with them.
TEST(RingRefused, KeepsRequestsAsideWhenTheKernelIsBusy) {
  EXPECT_TRUE(in_child([] {
    Ring ring(8);
    if (!deny(SYS_io_uring_enter, EBUSY, get_events)) return false;
    std::vector<std::uint64_t> expected;
    for (std::uint64_t i = 100; i < 150; ++i) {
      ring.nop(i);
      expected.push_back(i);
    }
    if (ring.try_cancel(149, 0)) return false;  // must not overtake what it would cancel
    std::vector<std::uint64_t> seen;
    for (std::uint64_t i = 150; seen.size() < expected.size();) {
      ring.enter(1);
      for (const std::uint64_t user_data : reap_all(ring)) seen.push_back(user_data);
      if (i == 160) continue;
      ring.nop(i);  // the queue has room, but others come first
      expected.push_back(i++);
    }
    return seen == expected;
  }));
}

}  // namespace
}  // namespace ouro::detail
