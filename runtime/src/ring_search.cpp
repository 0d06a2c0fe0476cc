// Rings of waits that go through gathers: tasks each of which ends only after the next. On one loop and in a group.
//
// A search begins where a cancellation has come round (gather_cancel.cpp, cancel_shared.cpp), and looks at what waits
// for what below; it cancels nothing. What it goes from and to are tasks that are in no gather, which alone can be
// awaited: such a task is looked at together with the children of its gather, and theirs, which all float as it does,
// or are all pinned to its loop. So they are looked at in one go: floating ones anywhere, pinned ones on their thread,
// to which a message goes. What it has seen is a graph: from each task to those for which it or somebody inside it
// waits. All of it, as all that a search does, is under WorkerGroup::cancelling; on a single loop it is done at once.
//
// A wait that would close a ring in the graph does not come into it, but is broken there and then, by the thread that
// may: the task stops awaiting, or the gather lets go of the future, as if it were over, and ends as one that was
// cancelled, if nothing else ends it. Children that a gather owns are inside, so every wait in the graph can be broken.
//
// Why no ring is left. A ring of tasks that wait for each other stands still until one of these waits is broken. A
// search that comes to one of its tasks comes to the next, for each task is looked at once it is known; so it looks at
// all of them. When it looks at the last, the waits of the others are in the graph, or one of them has been broken; so
// each wait by which the last one closes the ring is seen to do so. A wait that ends meanwhile may stay in the graph,
// and let a ring be seen where there was none at any one time. Then somebody who was cancelled stops waiting for what
// was cancelled too.
//
// A wait is broken under the lock of what is awaited. If it is just about to begin, the one who begins it looks after
// that whether he was asked to stop (link_futures, suspend_shared, leave_ring).
//
// References are held to tasks in no gather alone, so no child outlives its gather for a search.
#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "drive.hpp"
#include "group_walk.hpp"
#include "shared.hpp"
#include "worker.hpp"

namespace ouro::detail {

class RingSearch : public std::enable_shared_from_this<RingSearch> {
 public:
  RingSearch(WorkerGroup* group, const std::string& message) : group_(group), message_(message) {
    nodes_.emplace_back();  // where it begins, for which nobody waits
  }
  RingSearch(const RingSearch&) = delete;
  ~RingSearch() = default;

  void begin(GroupWalk* walk, const std::vector<GatherState*>& gathers, FutureState* task) {
    walk_ = walk;
    inside_ = gathers;
    try {
      if (task) look_at(*task, 0);
      look_inside(0);
      look_at_known();
    } catch (...) {
      given_up_ = true;
      throw;
    }
  }

 private:
  static constexpr std::uint32_t none = 0xffffffffU;
  struct Node {
    FutureHandle task;
    std::uint32_t waits = none;  // the first in waits_
    std::uint32_t round = 0;     // the last one of leads() that came here
  };
  struct Wait {
    std::uint32_t target;
    std::uint32_t next;
  };

  // On the thread of a pinned task that is to be looked at.
  void arrive(std::uint32_t at) noexcept {
    GroupWalk walk(*group_);
    if (OURO_UNLIKELY(group_->ending || given_up_)) return;
    walk_ = &walk;
    try {
      look_at(*nodes_[at].task.get(), at);
      look_inside(at);
      look_at_known();
    } catch (...) {
      given_up_ = true;
    }
  }

  // First known, first looked at: most ways that meet do so before anything is known of what lies behind.
  void look_at_known() {
    while (next_ < nodes_.size()) {
      const std::uint32_t at = next_++;
      FutureState& task = *nodes_[at].task.get();
      if (!group_ || task.floating() || task.home == running_loop) {
        look_at(task, at);
        look_inside(at);
      } else {
        send(*task.home, [search = shared_from_this(), at] { search->arrive(at); });
      }
    }
  }

  // What the task, which is inside node `at`, waits for.
  void look_at(FutureState& task, std::uint32_t at) {
    FutureHandle awaited;
    if (task.floating()) {
      RecordLock lock(task);
      if (task.done() || !task.waiting_on) return;
      if (FutureState* next = task.waiting_on->forward()) {
        if (lock.word() & word_due) return;  // it has been told to stop
        awaited = handle_of(*next);
      } else if (GatherState* gather = GatherState::from(*task.waiting_on)) {
        if (walk_->hold(*gather)) inside_.push_back(gather);
      }
    } else {
      if (task.done() || !task.waiting_on) return;
      if (FutureState* next = task.waiting_on->forward()) {
        awaited = handle_of(*next);
      } else if (GatherState* gather = GatherState::from(*task.waiting_on)) {
        inside_.push_back(gather);
      }
    }
    if (awaited.get() && !add_wait(at, *awaited.get())) stop_awaiting(task, *awaited.get());
  }

  // The gathers that were found inside node `at`, and those inside them.
  void look_inside(std::uint32_t at) {
    while (!inside_.empty()) {
      GatherState& gather = *inside_.back();
      inside_.pop_back();
      if (gather.shared) {
        look_at_public_children(gather, at);
      } else {
        for (std::uint32_t i = 0; gather.waiting && i < gather.listed; ++i) {
          FutureState* child = gather.children[i];
          if (child && child->has(flag_started)) look_at(*child, at);
        }
      }
      for (std::uint32_t i = 0; gather.nodes && gather.waiting && i < gather.count; ++i) {
        GatherNode& node = gather.nodes[i];
        if (!node.future || !(gather.shared ? waits_for_shared(*node.future, node) : node.linked)) continue;
        if (!add_wait(at, *node.future)) let_go(gather, node);
      }
    }
  }

  void look_at_public_children(GatherState& gather, std::uint32_t at) {
    std::array<FutureState*, 64> found;
    std::array<FutureHandle, 64> children;
    for (std::uint32_t from = 0; from < gather.count_of();) {
      const std::size_t n = gather.collect_public(found.data(), found.size(), from);
      for (std::size_t i = 0; i < n; ++i) children[i] = FutureHandle(*found[i]);
      for (std::size_t i = 0; i < n; ++i) look_at(*children[i].get(), at);
    }
  }

  // False: it closes a ring.
  bool add_wait(std::uint32_t at, FutureState& target) {
    if (!target.has(flag_task) || target.done()) return true;
    const auto [place, fresh] = places_.try_emplace(&target, static_cast<std::uint32_t>(nodes_.size()));
    const std::uint32_t to = place->second;
    if (fresh) {
      nodes_.emplace_back().task = handle_of(target);
    } else if (leads(to, at)) {
      return false;
    }
    waits_.push_back({to, nodes_[at].waits});
    nodes_[at].waits = static_cast<std::uint32_t>(waits_.size() - 1);
    return true;
  }

  bool leads(std::uint32_t from, std::uint32_t to) {
    ++round_;
    way_.assign(1, from);
    while (!way_.empty()) {
      const std::uint32_t at = way_.back();
      way_.pop_back();
      if (at == to) return true;
      if (std::exchange(nodes_[at].round, round_) == round_) continue;
      for (std::uint32_t i = nodes_[at].waits; i != none; i = waits_[i].next) way_.push_back(waits_[i].target);
    }
    return false;
  }

  void stop_awaiting(FutureState& task, FutureState& awaited) noexcept {
    if (!task.floating()) {
      {
        MaybeLock lock(task);
        count_request(task);
        remember_message(task, message_);
      }
      if (!task.waiting_on->cancel(task, message_)) owe_cancel(task);
      return;
    }
    {
      RecordLock lock(task);
      if (task.done() || !task.waiting_on || task.waiting_on->forward() != &awaited) return;
      lock.count_request();
      remember_message(task, message_);
      lock.set(word_due);
    }
    leave_ring(task);
  }

  void let_go(GatherState& gather, GatherNode& node) noexcept {
    if (gather.shared) {
      if (!gather.stop_requested()) gather.begin_abort(nullptr, true, message_);
      gather.let_go_of(node);
      return;
    }
    if (!gather.aborting) gather.begin_cancel(message_);
    gather.let_go_of(node);
    if (gather.pending == 0) return gather.finish();
    if (OURO_UNLIKELY(gather.starved)) gather.refill();
  }

  WorkerGroup* const group_;
  const std::string message_;
  GroupWalk* walk_ = nullptr;  // the one that goes on
  std::vector<Node> nodes_;
  std::vector<Wait> waits_;
  std::unordered_map<const FutureState*, std::uint32_t> places_;
  std::uint32_t next_ = 1;            // the first node that has not been looked at
  std::vector<GatherState*> inside_;  // the node that is looked at
  std::vector<std::uint32_t> way_;    // of leads()
  std::uint32_t round_ = 0;
  bool given_up_ = false;  // there was no memory
};

void search_rings(GroupWalk* walk, WorkerGroup* group, const std::vector<GatherState*>& gathers, FutureState* task,
                  const std::string& message) noexcept {
  try {
    std::make_shared<RingSearch>(group, message)->begin(walk, gathers, task);
  } catch (...) {
    // Without memory a ring stays.
  }
}

}  // namespace ouro::detail
