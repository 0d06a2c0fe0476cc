// How tasks that are not done go with their loop: innermost frames first, destructors only, without recursion.
//
// A task that waits for a gather has the gather's children inside the frame that is to be destroyed, and they may refer
// to its locals: they go first. The tasks on the way down form a stack, linked through ReadyNode::next, which nobody
// else uses any more.
#include <ouro/runtime/detail/core.hpp>

#include <string>

#include <ouro/runtime/base_event_loop.hpp>

#include "drive.hpp"
#include "shared.hpp"
#include "worker.hpp"

namespace ouro::detail {

namespace {

void bury_one(LoopState& home, FutureState& task) noexcept {
  if (task.has(flag_gathered)) {
    if (handles_of(task) == 0) {
      destroy_suspended(task);
      return;
    }
    destroy_nested(task);
    task.set_outcome(outcome_cancelled);
    task.set(flag_done);
    task.clear(flag_gathered);
    task.waiters = nullptr;
    count_record(home);
    if (task.has(flag_shared)) leave_shared(task);
    return;
  }
  destroy_nested(task);
  task.set_outcome(outcome_cancelled);
  task.set(flag_done);
  task.waiting_on = nullptr;
  if (task.waiters) notify_waiters(task);  // nobody wakes; callbacks go now, and not with the last handle
  if (task.has(flag_shared)) {
    leave_shared(task);
    destroy_left_over();
  } else {
    drop_ref(task);
  }
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

void bury_tasks(WorkerGroup& group) noexcept {
  std::size_t pending = 0;
  ExceptionContext context;
  while (FutureState* task = group.tasks.take_any()) {
    if (pending++ == 0) {
      try {
        context.task = name_of(*task);
        context.created = task->created;
      } catch (...) {
        context.task.clear();
      }
    }
    bury(home_of(*task), *task);
  }
  if (pending == 0) return;
  try {
    context.message = pending == 1
                          ? "Task was destroyed but it is pending!"
                          : std::to_string(pending) + " tasks were destroyed but they are pending! One of them:";
  } catch (...) {
    context.message.clear();
  }
  group.workers.front()->state.loop->call_exception_handler(context);
}

}  // namespace ouro::detail
