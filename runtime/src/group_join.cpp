// The join of a task group: what its parent waits for, and what comes out.
#include <ouro/runtime/taskgroups.hpp>

#include <string>
#include <vector>

#include "drive.hpp"
#include "shared.hpp"
#include "task_group_state.hpp"
#include "wait_graph.hpp"
#include "worker.hpp"

namespace ouro::detail {

bool GroupJoin::await_ready() {
  TaskGroupState& state = *group_;
  if (&require_task("join") != state.parent) {
    throw RuntimeError(state.describe() + " is joined by another task than its parent");
  }
  bool cancel_rest = false;
  {
    TaskGroupState::Lock hold(state);
    if (state.finished) return true;
    state.joining = true;
    cancel_rest = body_ && !state.aborting;
  }
  if (cancel_rest) state.abort();
  TaskGroupState::Lock hold(state);
  return state.unfinished == 0;
}

void GroupJoin::suspend(FutureState& task, void* leaf, std::source_location where) noexcept {
  TaskGroupState& state = *group_;
  task_ = &task;
  kind = &join_kind;
  site = where;
  task.leaf = leaf;
  if (state.shared) {
    if (task.has(flag_shared)) publish(task);
    begin_wait(task, *this);
  } else {
    task.waiting_on = this;
  }
  if (task.has(flag_must_cancel)) {
    task.clear(flag_must_cancel);
    state.cancelled_in_join = true;
    state.abort();
  }
  TaskGroupState::Lock hold(state);
  if (state.unfinished != 0) {
    state.waiting = &task;
    return;
  }
  hold.open();
  wake(task);
}

const WaiteeKind GroupJoin::join_kind{
    // The children are asked, and when they have ended the parent hears of it: see post_abort().
    [](Waitee& self, FutureState&, const std::string&) noexcept {
      TaskGroupState& state = *static_cast<GroupJoin&>(self).group_;
      bool post = false;
      {
        TaskGroupState::Lock hold(state);
        state.cancelled_in_join = true;
        post = !state.aborting && !state.abort_posted;
        if (post) state.abort_posted = true;
      }
      if (post) state.post_abort();
      return true;
    },
    nullptr,
    // On a single loop the newest goes first, and so a child before its parent, unless that started eagerly.
    [](Waitee& self) noexcept -> FutureState* {
      TaskGroupState& state = *static_cast<GroupJoin&>(self).group_;
      for (;;) {
        GroupChild* child = state.children.first ? state.children.first : state.asked.first;
        if (!child || !state.shared) return nullptr;
        FutureState& task = *child->task;
        ChildList::remove(*child);
        --state.count;
        --state.unfinished;
        if (child->next) unlink_waiter(task, *child);
        free_child(*child);
        state.drop();
        if (!task.has(flag_linked) || task.has(flag_gathered)) continue;
        state.home->worker->group.tasks.unlink(task);
        return &task;
      }
    },
    "task group",
    [](const Waitee& waitee, Needs& needs) {
      TaskGroupState& state = *static_cast<const GroupJoin&>(waitee).group_;
      TaskGroupState::Lock hold(state);
      for (const ChildList* list : {&state.children, &state.asked}) {
        for (const GroupChild* child = list->first; child; child = child->after) needs.future(child->task);
      }
    }};

std::vector<std::exception_ptr> TaskGroupState::take_errors() {
  std::vector<std::exception_ptr> errors;
  while (GroupChild* child = failed.first) {
    errors.push_back(child->error);
    ChildList::remove(*child);
    free_child(*child);
  }
  return errors;
}

bool GroupJoin::finish() {
  TaskGroupState& state = *group_;
  if (state.finished) return true;
  FutureState& parent = *state.parent;
  if (task_) {
    if (state.shared) end_shared_wait(parent);
    if (parent.all_flags() & (flag_must_cancel | flag_deliver_cancel)) {
      parent.clear(flag_must_cancel | flag_deliver_cancel);
      state.cancelled_in_join = true;
    }
  }
  {
    TaskGroupState::Lock hold(state);
    state.finished = true;
  }
  const bool body_cancelled = is_a<CancelledError>(body_);
  if (!state.base_error && is_a<KeyboardInterrupt>(body_)) state.base_error = body_;
  // What the group itself asked of the parent is taken back; what is left are requests from outside.
  const unsigned requests = state.parent_cancelled ? take_request_back(parent) : parent.cancel_requests();
  std::vector<std::exception_ptr> errors = state.take_errors();
  if (state.base_error) {
    for (const std::exception_ptr& error : errors) {
      if (error == state.base_error) continue;
      state.report("TaskGroup task exception was not propagated because the TaskGroup is being closed by an interrupt",
                   error);
    }
    std::rethrow_exception(state.base_error);
  }
  bool propagate = body_cancelled || (state.cancelled_in_join && !state.parent_cancelled);
  if (state.parent_cancelled) propagate = requests != 0 && (propagate || state.cancelled_in_join);
  if (propagate && errors.empty()) {
    if (body_cancelled && !state.cancelled_in_join) std::rethrow_exception(std::move(body_));
    throw CancelledError(cancel_message_of(parent));
  }
  if (body_ && !body_cancelled) errors.push_back(body_);
  if (errors.empty()) return !body_cancelled;
  if (requests != 0) {
    // The parent hears of the request from outside at its next await.
    take_request_back(parent);
    detail::cancel(parent, cancel_message_of(parent));
  }
  if (errors.size() == 1 && is_a<GeneratorExit>(body_)) std::rethrow_exception(std::move(body_));
  throw ExceptionGroup("unhandled errors in a TaskGroup", std::move(errors));
}

}  // namespace ouro::detail
