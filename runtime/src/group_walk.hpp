// What the walks over a group's waits have in common: cancel_shared.cpp and ring_search.cpp.
#pragma once

#include <optional>
#include <source_location>
#include <string>
#include <utility>
#include <vector>

#include <ouro/runtime/base_event_loop.hpp>
#include <ouro/runtime/futures.hpp>

#include "shared.hpp"
#include "worker.hpp"

namespace ouro::detail {

// While one lives, no other thread walks through the group, and nothing on which it stands goes.
class GroupWalk {
 public:
  explicit GroupWalk(WorkerGroup& group) noexcept : group_(group) {
    group.cancelling.lock();
    later_.emplace();
  }
  // Children of which it held the last reference go before their parents resume, and outside the lock.
  ~GroupWalk() {
    group_.cancelling.unlock();
    later_.reset();
    for (GatherState* gather : held_) gather->unpin();
  }
  GroupWalk(const GroupWalk&) = delete;

  // Keeps a floating parent's gather until the end of the walk. False if it is over, or without memory.
  bool hold(GatherState& gather) noexcept {
    try {
      held_.push_back(&gather);
    } catch (...) {
      return false;
    }
    if (gather.pin()) return true;
    held_.pop_back();
    return false;
  }
  // Keeps what another one keeps, which ends before this.
  void take_over(GroupWalk& inner) noexcept {
    try {
      held_.insert(held_.end(), inner.held_.begin(), inner.held_.end());
      inner.held_.clear();
    } catch (...) {
      // The other one lets go of them.
    }
  }

 private:
  WorkerGroup& group_;
  std::optional<DeferredDestruction> later_;
  std::vector<GatherState*> held_;
};

inline FutureHandle handle_of(FutureState& state) noexcept {
  add_ref(state);
  return FutureHandle(state);
}

// Runs `f` on the thread of `home`, soon; not at all if the loop is closed, or without memory: then what waits there
// hears of nothing before its wait ends.
template <class F>
void send(LoopState& home, F f) noexcept {
  try {
    auto* node = TypedCallbackNode<F>::make(home, std::source_location(), true, std::move(f));
    if (!post_to(home, *node)) node->abandon();
  } catch (...) {
    // See above.
  }
}

// The floating task stops to await what it awaits. Requires: word_due is set.
void leave_ring(FutureState& task) noexcept;

// Looks for rings of waits that can be reached from these gathers, whose parents float or are this loop's, and from
// this task of this loop, if there is one; and breaks them. In a group `walk` is the one that goes on; on a single loop
// there is neither.
void search_rings(GroupWalk* walk, WorkerGroup* group, const std::vector<GatherState*>& gathers, FutureState* task,
                  const std::string& message) noexcept;

}  // namespace ouro::detail
