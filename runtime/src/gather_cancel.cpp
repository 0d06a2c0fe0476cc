// How a cancellation, or the first error, of a gather reaches its children: a walk over the gathers that stand below.
// On one loop; in a group it is cancel_shared.cpp's.
//
// What is asked to end is each child; where that waits for a task, the task instead, and so on; and where the chain
// ends at another gather, that one's children. Such gathers form a list, so that gathers in gathers need no stack,
// however they are nested: directly, through tasks, or through futures whose cancellation makes another gather fail.
// Each stands in it once. Marks and list are taken down when the walk is over: nothing of the user's runs in between,
// and a gather that has finished meanwhile lives until its parent resumes.
//
// Tasks that wait for each other through gathers in a ring would wait for ever, each for the end of the next. The walk
// follows each wait of a ring that it comes to, so it comes to a gather that it has met; from there a search looks for
// rings, and breaks them (ring_search.cpp).
#include <string>
#include <vector>

#include <ouro/runtime/detail/gather_state.hpp>

#include "drive.hpp"
#include "group_walk.hpp"

namespace ouro::detail {

class CancelWalk {
 public:
  CancelWalk(GatherState& root, const std::string& message) noexcept
      : root_(root), outer_(root.home->cancel_walk), message_(message) {
    root_.home->cancel_walk = this;
    root_.walked = GatherState::Walked::done;
    root_.next_walked = nullptr;
  }
  CancelWalk(const CancelWalk&) = delete;
  ~CancelWalk() {
    for (GatherState* gather = &root_; gather; gather = gather->next_walked) gather->walked = GatherState::Walked::no;
    root_.home->cancel_walk = outer_;
  }

  bool run(bool also_futures) noexcept {
    const bool any = cancel_children_of(root_, message_, also_futures);
    for (GatherState* gather = root_.next_walked; gather; gather = gather->next_walked) visit(*gather);
    if (OURO_UNLIKELY(!suspects_.empty())) search_rings(nullptr, nullptr, suspects_, nullptr, message_);
    return any;
  }

  void enlist(GatherState& gather, GatherState::Walked how) noexcept {
    gather.walked = how;
    gather.next_walked = nullptr;
    *end_ = &gather;
    end_ = &gather.next_walked;
  }

 private:
  void visit(GatherState& gather) noexcept {
    const bool failed = gather.walked == GatherState::Walked::to_fail;
    gather.walked = GatherState::Walked::done;
    if (!gather.waiting) return;
    if (failed) {
      cancel_children_of(gather, std::string(), false);
      gather.let_go_of_futures();
      if (gather.pending == 0) return gather.finish();
    } else {
      const bool unstarted = gather.has_unstarted();
      gather.begin_cancel(message_);
      if (!cancel_children_of(gather, message_, true) && !unstarted) owe_cancel(*gather.parent);
    }
    if (OURO_UNLIKELY(gather.starved)) gather.refill();
  }

  // True if anybody accepted.
  bool cancel_children_of(GatherState& gather, const std::string& message, bool also_futures) noexcept {
    bool any = false;
    for (std::uint32_t i = 0; i < gather.listed; ++i) {
      FutureState* child = gather.children[i];
      if (child && child->has(flag_started)) any = cancel_one(*child, message) || any;
    }
    if (also_futures && gather.nodes) {
      for (std::uint32_t i = 0; i < gather.count; ++i) {
        FutureState* future = gather.nodes[i].future;
        if (future && !future->done()) any = cancel_one(*future, message) || any;
      }
    }
    return any;
  }

  bool cancel_one(FutureState& child, const std::string& message) noexcept {
    GatherState* inner = nullptr;
    const bool accepted = cancel_up_to_gather(child, message, inner);
    if (!inner) return accepted;
    if (inner->walked == GatherState::Walked::no) {
      enlist(*inner, GatherState::Walked::to_cancel);
    } else {
      if (inner->walked == GatherState::Walked::to_fail) inner->walked = GatherState::Walked::to_cancel;
      suspect(*inner);
    }
    return accepted;
  }

  void suspect(GatherState& gather) noexcept {
    try {
      if (suspects_.empty() || suspects_.back() != &gather) suspects_.push_back(&gather);
    } catch (...) {
      // Without memory a ring is not found.
    }
  }

  GatherState& root_;
  CancelWalk* const outer_;
  const std::string& message_;
  GatherState** end_ = &root_.next_walked;
  std::vector<GatherState*> suspects_;  // which it met again
};

bool GatherState::cancel_children(const std::string& message, bool also_futures) noexcept {
  if (OURO_UNLIKELY(home->worker != nullptr)) {
    cancel_children_in_group(also_futures);
    return true;
  }
  if (walked != Walked::no) return true;  // a walk has met it
  if (home->cancel_walk && !also_futures) {
    // It fails because of what a walk cancels: its turn comes.
    home->cancel_walk->enlist(*this, Walked::to_fail);
    return true;
  }
  return CancelWalk(*this, message).run(also_futures);
}

}  // namespace ouro::detail
