// How tasks that are not done go with their loop: innermost frames first, destructors only, without recursion.
//
// A task that waits for a gather has the gather's children inside the frame that is to be destroyed, and they may refer
// to its locals: they go first. The tasks on the way down form a stack, linked through ReadyNode::next, which nobody
// else uses any more.
#include <ouro/runtime/detail/core.hpp>

#include "drive.hpp"

namespace ouro::detail {

namespace {

void bury_one(LoopState& home, FutureState& task) noexcept {
  if (task.has(flag_gathered)) {
    if (task.refs == 0) {
      destroy_suspended(task);
      return;
    }
    destroy_nested(task);
    task.set_outcome(outcome_cancelled);
    task.set(flag_done);
    task.clear(flag_gathered);
    task.waiters = nullptr;
    ++home.live;
    return;
  }
  destroy_nested(task);
  task.set_outcome(outcome_cancelled);
  task.set(flag_done);
  task.waiting_on = nullptr;
  if (task.waiters) notify_waiters(task);  // nobody wakes; callbacks go now, and not with the last handle
  drop_ref(task);
}

}  // namespace

void bury(LoopState& home, FutureState& task) noexcept {
  task.next = nullptr;
  ReadyNode* top = &task;
  while (top) {
    auto& state = static_cast<FutureState&>(*top);
    if (state.waiting_on) {
      if (FutureState* child = state.waiting_on->take_child()) {
        child->next = top;
        top = child;
        continue;
      }
    }
    top = top->next;
    bury_one(home, state);
  }
}

}  // namespace ouro::detail
