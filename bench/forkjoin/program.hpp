// What the fork-join programs share: arguments, clocks, processors, and the line that bench/forkjoin/compare reads. It
// knows no library, so that all of them are timed by the same code.
//
// A round does the whole work once. The warm-ups are rounds that do not count; every round's result is checked.
#pragma once

#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <string_view>
#include <vector>

namespace forkjoin {

// What the work must give, and in how many calls: each of them is a task.
struct Outcome {
  std::uint64_t result;
  std::uint64_t tasks;
};

struct Work {
  const char* name;
  std::uint64_t n;  // if no --n is given
  Outcome (*serially)(std::uint64_t n);
};

// The processors on which the process may run, in order.
inline std::vector<unsigned> processors() {
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  sched_getaffinity(0, sizeof allowed, &allowed);
  std::vector<unsigned> found;
  for (unsigned i = 0; i < CPU_SETSIZE; ++i) {
    if (CPU_ISSET(i, &allowed)) found.push_back(i);
  }
  return found;
}

inline void pin_to(unsigned processor) {
  cpu_set_t only;
  CPU_ZERO(&only);
  CPU_SET(processor, &only);
  pthread_setaffinity_np(pthread_self(), sizeof only, &only);
}

inline double seconds_of(clockid_t clock) {
  timespec now{};
  clock_gettime(clock, &now);
  return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
}

// The most memory that was resident since the program's image was loaded. What getrusage tells is inherited from the
// process that started this one.
inline double peak_memory_mb() {
  std::FILE* status = std::fopen("/proc/self/status", "r");
  if (status == nullptr) return 0;
  char line[256];
  double kib = 0;
  while (std::fgets(line, sizeof line, status) != nullptr) {
    if (std::strncmp(line, "VmHWM:", 6) == 0) kib = std::strtod(line + 6, nullptr);
  }
  std::fclose(status);
  return kib * 1024 / 1e6;
}

class Program {
 public:
  // Exits with 2 on an argument that it does not know: a typing error must not pass for a measurement.
  Program(const char* peer, const Work& work, int argc, char** argv) : peer_(peer), work_(work), n_(work.n) {
    for (int i = 1; i < argc; ++i) {
      const std::string_view name = argv[i];
      if (name == "--alone") {
        alone_ = true;
        continue;
      }
      const std::uint64_t value = ++i < argc ? std::strtoull(argv[i], nullptr, 10) : 0;
      if (name == "--n" && value > 0) {
        n_ = value;
      } else if (name == "--threads" && value > 0) {
        threads_ = static_cast<unsigned>(value);
      } else if (name == "--runs" && value > 0) {
        runs_ = value;
      } else if (name == "--warm-ups" && i < argc) {
        warm_ups_ = value;
      } else {
        std::fprintf(stderr, "usage: %s [--n N] [--threads N] [--runs N] [--warm-ups N] [--alone]\n", argv[0]);
        std::exit(2);
      }
    }
    expected_ = work.serially(n_);
  }

  std::uint64_t n() const { return n_; }
  unsigned threads() const { return threads_; }
  // All threads but one are kept from the work.
  bool alone() const { return alone_; }
  std::size_t rounds() const { return warm_ups_ + runs_; }

  void begin() {
    cpu_began_ = seconds_of(CLOCK_PROCESS_CPUTIME_ID);
    wall_began_ = seconds_of(CLOCK_MONOTONIC);
  }
  void end(std::uint64_t result) {
    const double wall = seconds_of(CLOCK_MONOTONIC) - wall_began_;
    const double cpu = seconds_of(CLOCK_PROCESS_CPUTIME_ID) - cpu_began_;
    if (result != expected_.result) {
      std::fprintf(stderr, "wrong result: %s(%llu) gave %llu\n", work_.name, static_cast<unsigned long long>(n_),
                   static_cast<unsigned long long>(result));
      std::exit(1);
    }
    if (rounds_done_++ < warm_ups_) return;
    walls_.push_back(wall);
    cpus_.push_back(cpu);
  }

  // One line: the medians, and for ns, the wall time of one task, the least and the most as well.
  void report() {
    std::sort(walls_.begin(), walls_.end());
    std::sort(cpus_.begin(), cpus_.end());
    const double wall = walls_[walls_.size() / 2];
    const double cpu = cpus_[cpus_.size() / 2];
    const double each = 1e9 / static_cast<double>(expected_.tasks);
    std::printf(
        "RESULT peer=%s work=%s N=%llu threads=%u ns=%.3f min=%.3f max=%.3f runs=%zu cpu_ns=%.3f wall_ms=%.2f "
        "cpu_ms=%.2f tasks=%llu rss_mb=%.1f result=%llu\n",
        peer_, work_.name, static_cast<unsigned long long>(n_), alone_ ? 1 : threads_, wall * each,
        walls_.front() * each, walls_.back() * each, walls_.size(), cpu * each, wall * 1e3, cpu * 1e3,
        static_cast<unsigned long long>(expected_.tasks), peak_memory_mb(),
        static_cast<unsigned long long>(expected_.result));
    std::fflush(stdout);
  }

 private:
  const char* peer_;
  const Work& work_;
  std::uint64_t n_;
  unsigned threads_ = 2;
  std::size_t runs_ = 3;
  std::size_t warm_ups_ = 1;
  bool alone_ = false;
  Outcome expected_{};
  double wall_began_ = 0;
  double cpu_began_ = 0;
  std::size_t rounds_done_ = 0;
  std::vector<double> walls_;
  std::vector<double> cpus_;
};

}  // namespace forkjoin
