#include "support/group_watch.hpp"

#include <algorithm>
#include <atomic>
#include <iostream>
#include <utility>

#include "worker.hpp"

namespace ouro::test {
namespace {

std::mutex faults_mutex;
std::vector<std::string> faults;
std::atomic<bool> fault{false};
std::atomic<GroupWatch::Clock::rep> longest{0};
GroupWatch::Bounds bounds_of_all;

std::string milliseconds(GroupWatch::Clock::duration time) {
  return std::to_string(std::chrono::duration_cast<std::chrono::milliseconds>(time).count()) + " ms";
}

}  // namespace

void GroupWatch::set_bounds(const Bounds& bounds) noexcept { bounds_of_all = bounds; }

std::vector<std::string> GroupWatch::take_faults() {
  const std::lock_guard hold(faults_mutex);
  fault = false;
  return std::exchange(faults, {});
}

bool GroupWatch::any_fault() noexcept { return fault; }

GroupWatch::Clock::duration GroupWatch::take_longest() noexcept { return Clock::duration(longest.exchange(0)); }

void GroupWatch::Steady::see(bool holds, std::uint64_t of, Clock::time_point now) noexcept {
  if (!holds) {
    since = Clock::time_point::max();
  } else if (since == Clock::time_point::max() || of != what) {
    since = now;
    what = of;
  }
}

GroupWatch::GroupWatch(detail::WorkerGroup& group)
    : group_(group), bounds_(bounds_of_all), sleeps_(group.size), lies_(2 * group.size + 1), thread_([this] {
        watch();
      }) {}

GroupWatch::~GroupWatch() {
  {
    const std::lock_guard hold(mutex_);
    end_ = true;
  }
  ended_.notify_one();
  thread_.join();
}

void GroupWatch::watch() {
  Clock::time_point before = Clock::now();
  std::unique_lock hold(mutex_);
  while (!ended_.wait_for(hold, bounds_.period, [this] { return end_; })) {
    const Clock::time_point now = Clock::now();
    if (now - before > 3 * bounds_.period) begin_anew();
    before = now;
    sample(now);
  }
}

void GroupWatch::begin_anew() noexcept {
  for (Steady& sleep : sleeps_) sleep = Steady();
  for (Steady& entry : lies_) entry = Steady();
  quiet_ = Steady();
}

// Reads nothing but atomics, which all outlive the loops.
void GroupWatch::sample(Clock::time_point now) {
  for (unsigned i = 0; i < group_.size; ++i) {
    const detail::Worker& worker = *group_.workers[i];
    // Who wakes up searches, and so counts its looks at others.
    sleeps_[i].see(group_.idle.sleeps(i), worker.steal_attempts.get(), now);
    const auto see = [now](Steady& oldest, const auto& queue) {
      const std::int64_t place = queue.oldest();
      oldest.see(queue.size() != 0, static_cast<std::uint64_t>(place), now);
    };
    see(lies_[2 * i], worker.deque);
    see(lies_[2 * i + 1], worker.lane);
  }
  // How many have been taken out of the injection queue tells its oldest.
  const std::size_t injected = group_.injection.size();
  lies_.back().see(injected != 0, group_.injections.load() - injected, now);
  quiet_.see(group_.idle.searchers() == 0, 0, now);

  const auto oldest = [](const std::vector<Steady>& all) {
    const auto earlier = [](const Steady& a, const Steady& b) { return a.since < b.since; };
    return std::min_element(all.begin(), all.end(), earlier)->since;
  };
  const Clock::time_point both = std::max(oldest(sleeps_), oldest(lies_));
  if (both == Clock::time_point::max()) return;
  const Clock::time_point all = std::max(both, quiet_.since);
  if (all != Clock::time_point::max()) {
    longest = std::max(longest.load(), (now - all).count());
    if (now - all > bounds_.quiet) return report(now - all, false);
  }
  if (now - both > bounds_.searching) report(now - both, true);
}

void GroupWatch::report(Clock::duration idle, bool searching) {
  if (std::exchange(reported_, true)) return;
  std::string text = "a worker has slept for " + milliseconds(idle) + " beside work that it could take" +
                     (searching ? ", though somebody seems to search" : ", and nobody searches") + "; " +
                     std::to_string(group_.idle.searchers()) + " search, " + std::to_string(group_.injection.size()) +
                     " in the injection queue";
  for (unsigned i = 0; i < group_.size; ++i) {
    const detail::Worker& worker = *group_.workers[i];
    const detail::ReadyNode* inbox = worker.state.inbox.load();
    text += "\n  worker " + std::to_string(i) + (group_.idle.sleeps(i) ? ": asleep, " : ": awake, ") +
            std::to_string(worker.deque.size()) + " in its deque, " + std::to_string(worker.lane.size()) +
            " in its lane, inbox " +
            (!inbox                      ? "empty"
             : inbox == detail::asleep() ? "asleep"
                                         : "full or shut") +
            ", " + std::to_string(worker.steals.get()) + " steals of " + std::to_string(worker.steal_attempts.get());
  }
  std::cerr << text << std::endl;
  const std::lock_guard hold(faults_mutex);
  faults.push_back(std::move(text));
  fault = true;
}

}  // namespace ouro::test
