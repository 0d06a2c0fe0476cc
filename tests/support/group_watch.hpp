// Watches a group of loops: that no worker sleeps while there is work that it could take. The protocol promises that a
// sleeper is woken, or looks for itself 5 ms after a light push at the latest (group_turns.cpp). What a watch calls a
// fault is much longer, for the threads of a test wait for processors: it is one entry of a deque, a lane or the
// injection queue that lies there, and one worker that sleeps on, for all of
//   2 s of samples in which nobody searches, or
//   10 s of samples in which somebody seems to.
// If the watch itself comes late to a sample, the machine has no time for the others either: it begins anew.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <ouro/runtime/detail/worker_group.hpp>

namespace ouro::test {

class GroupWatch {
 public:
  using Clock = std::chrono::steady_clock;

  struct Bounds {
    Clock::duration period = std::chrono::milliseconds(20);  // of the samples
    Clock::duration quiet = std::chrono::seconds(2);
    Clock::duration searching = std::chrono::seconds(10);
  };

  // Of the watches that begin later. Not while one watches.
  static void set_bounds(const Bounds& bounds) noexcept;
  // What all watches have found since the last call. A fault is written to stderr too when it is found: the test may
  // hang by it. Threads: any.
  static std::vector<std::string> take_faults();
  static bool any_fault() noexcept;
  // The longest time since the last call that an entry lay and a worker slept, and nobody searched. Threads: any.
  static Clock::duration take_longest() noexcept;

  // Requires: the group's loops run, and it lives as long as the watch.
  explicit GroupWatch(detail::WorkerGroup& group);
  ~GroupWatch();
  GroupWatch(const GroupWatch&) = delete;

 private:
  // Something that has stayed as it is.
  struct Steady {
    // `what`: tells it from others; `holds`: it is there at all.
    void see(bool holds, std::uint64_t what, Clock::time_point now) noexcept;
    Clock::time_point since = Clock::time_point::max();  // never
    std::uint64_t what = 0;
  };

  void watch();
  void sample(Clock::time_point now);
  void begin_anew() noexcept;
  void report(Clock::duration idle, bool searching);

  detail::WorkerGroup& group_;
  const Bounds bounds_;
  std::vector<Steady> sleeps_;  // of each worker
  std::vector<Steady> lies_;    // the oldest of each deque and each lane, and of the injection queue
  Steady quiet_;                // nobody searches
  bool reported_ = false;
  std::mutex mutex_;
  std::condition_variable ended_;
  bool end_ = false;
  std::thread thread_;  // last: it uses the rest
};

// Watches the group for as long as its first loop is there, from that one's first turn on. For a loop in no group it
// does nothing.
template <class Loop>
class Watched : public Loop {
 public:
  template <class... Args>
  explicit Watched(Args&&... args) : Loop(std::forward<Args>(args)...) {
    this->call_soon([this] {
      if (detail::WorkerGroup* group = detail::group_of(*this); group && detail::place_of(*this) == 0) {
        watch_ = std::make_unique<GroupWatch>(*group);
      }
    });
  }

 private:
  std::unique_ptr<GroupWatch> watch_;  // ends before the loop does
};

}  // namespace ouro::test
