// How a cancellation, or the first error, of a gather reaches its children: a walk over the gathers that stand below.
// On one loop; in a group it is cancel_shared.cpp's.
//
// What is asked to end is each child; where that waits for a task, the task instead, and so on; and where the chain
// ends at another gather, that one's children. Such gathers form a list, so that gathers in gathers need no stack,
// however they are nested: directly, through tasks, or through futures whose cancellation makes another gather fail.
// Each stands in it once. Marks and list are taken down when the walk is over: nothing of the user's runs in between,
// and a gather that has finished meanwhile lives until its parent resumes.
//
// Tasks that wait for each other through gathers in a ring would wait for ever, each for the end of the next: where the
// walk comes back to a gather from which it came, somebody in the ring stops waiting. That is a gather that lets go of
// a future of the caller's, or a task that lets go of what it awaits; there is one, because owned children alone make
// no ring.
#include <string>

#include <ouro/runtime/detail/gather_state.hpp>

#include "drive.hpp"

namespace ouro::detail {

class CancelWalk {
 public:
  CancelWalk(GatherState& root, const std::string& message) noexcept
      : root_(root), outer_(root.home->cancel_walk), message_(message) {
    root_.home->cancel_walk = this;
    root_.walked = GatherState::Walked::done;
    root_.came_from = nullptr;
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
    return any;
  }

  void enlist(GatherState& gather, GatherState::Walked how, GatherState* from) noexcept {
    gather.walked = how;
    gather.came_from = from;
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
      if (child && child->has(flag_started)) any = cancel_one(gather, *child, message) || any;
    }
    if (also_futures && gather.nodes) {
      for (std::uint32_t i = 0; i < gather.count; ++i) {
        FutureState* future = gather.nodes[i].future;
        if (future && !future->done()) any = cancel_one(gather, *future, message) || any;
      }
    }
    return any;
  }

  bool cancel_one(GatherState& gather, FutureState& child, const std::string& message) noexcept {
    if (GatherState* above = gather_above(gather, child)) {
      break_ring(*above, gather);
      return true;
    }
    GatherState* inner = nullptr;
    const bool accepted = cancel_up_to_gather(child, message, inner);
    if (inner && inner->walked == GatherState::Walked::no) {
      enlist(*inner, GatherState::Walked::to_cancel, &gather);
    } else if (inner && inner->walked == GatherState::Walked::to_fail) {
      inner->walked = GatherState::Walked::to_cancel;
    }
    return accepted;
  }

  // The gather at which the chain from `child` ends, if the walk came from there to `gather`.
  static GatherState* gather_above(GatherState& gather, FutureState& child) noexcept {
    if (child.done() || !child.has(flag_task) || find_ring(child)) return nullptr;
    FutureState* last = &child;
    while (FutureState* next = awaited_by(*last)) last = next;
    GatherState* end = last->has(flag_task) && last->waiting_on ? GatherState::from(*last->waiting_on) : nullptr;
    if (!end || end->walked != GatherState::Walked::done) return nullptr;
    for (GatherState* step = &gather; step; step = step->came_from) {
      if (step == end) return end;
    }
    return nullptr;
  }

  // The ring goes from `top` down to `bottom`, and from there to `top` again.
  void break_ring(GatherState& top, GatherState& bottom) noexcept {
    GatherState* below = &top;
    for (GatherState* above = &bottom; !part(*above, *below) && above != &top; above = above->came_from) below = above;
  }

  // Takes the link away by which `above` waits for the parent of `below`. False if it owns the child.
  bool part(GatherState& above, GatherState& below) noexcept {
    for (std::uint32_t i = 0; i < above.listed; ++i) {
      if (above.children[i] && stop_waiting(*above.children[i], *below.parent)) return true;
    }
    for (std::uint32_t i = 0; above.nodes && i < above.count; ++i) {
      GatherNode& node = above.nodes[i];
      if (!node.linked) continue;
      if (node.future == below.parent) {
        above.let_go_of(node);
        if (above.pending == 0) above.finish();
        return true;
      }
      if (stop_waiting(*node.future, *below.parent)) return true;
    }
    return false;
  }

  // If the chain from `first` comes to `target`: whoever awaits that stops.
  bool stop_waiting(FutureState& first, FutureState& target) noexcept {
    if (find_ring(first)) return false;
    for (FutureState* task = &first; FutureState* next = awaited_by(*task); task = next) {
      if (next != &target) continue;
      count_request(*task);
      return task->waiting_on->cancel(*task, message_);
    }
    return false;
  }

  GatherState& root_;
  CancelWalk* const outer_;
  const std::string& message_;
  GatherState** end_ = &root_.next_walked;
};

bool GatherState::cancel_children(const std::string& message, bool also_futures) noexcept {
  if (OURO_UNLIKELY(home->worker != nullptr)) {
    cancel_children_in_group(also_futures);
    return true;
  }
  if (walked != Walked::no) return true;  // a walk has met it
  if (home->cancel_walk && !also_futures) {
    // It fails because of what a walk cancels: its turn comes.
    home->cancel_walk->enlist(*this, Walked::to_fail, nullptr);
    return true;
  }
  return CancelWalk(*this, message).run(also_futures);
}

}  // namespace ouro::detail
