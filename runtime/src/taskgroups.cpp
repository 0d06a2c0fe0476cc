// Task groups: who is in them, and how they abort.
#include <ouro/runtime/taskgroups.hpp>

#include <array>
#include <string>

#include <ouro/runtime/base_event_loop.hpp>
#include <ouro/runtime/events.hpp>

#include "drive.hpp"
#include "group_walk.hpp"
#include "report.hpp"
#include "shared.hpp"
#include "task_group_state.hpp"
#include "worker.hpp"

namespace ouro {
namespace detail {

void TaskGroupState::enter(FutureState& task) {
  open_to_handles(task);  // who is to cancel it must find it
  home = &home_of(task);
  shared = home->worker != nullptr;
  parent = &task;
}

std::string TaskGroupState::describe() {
  std::size_t tasks = 0;
  std::size_t errors = 0;
  bool cancelling = false;
  {
    Lock hold(*this);
    tasks = count;
    for (const GroupChild* child = failed.first; child; child = child->after) ++errors;
    cancelling = aborting;
  }
  std::string text = "TaskGroup <TaskGroup";
  if (tasks != 0) text += " tasks=" + std::to_string(tasks);
  if (errors != 0) text += " errors=" + std::to_string(errors);
  text += cancelling ? " cancelling" : parent ? " entered" : "";
  return text + ">";
}

void TaskGroupState::report(const std::string& message, std::exception_ptr exception) noexcept {
  try {
    ExceptionContext context;
    context.message = message;
    context.exception = std::move(exception);
    if (parent) {
      context.task = name_of(*parent);
      context.created = parent->created;
    }
    LoopState* here = running_state();
    report_error(shared && here ? *here : *home, context);
  } catch (...) {
    print_error(ExceptionContext());
  }
}

// ---- A child ends ----

void TaskGroupState::ended(GroupChild& child, FutureState& done) noexcept {
  const bool has_failed = done.done() && done.outcome() == outcome_exception;
  bool post = false;
  bool keep = false;
  FutureState* woken = nullptr;
  {
    Lock hold(*this);
    if (child.list) --count;
    ChildList::remove(child);
    if (has_failed && !orphaned) {
      done.clear(flag_unretrieved);
      child.error = exception_of(done);
      if (!base_error && is_a<KeyboardInterrupt>(child.error)) base_error = child.error;
      failed.append(child);
      keep = true;
      post = !aborting && !abort_posted && !(joining && unfinished == 1);
      if (post) abort_posted = true;
    }
    if (!post && --unfinished == 0) woken = std::exchange(waiting, nullptr);
  }
  if (!keep) free_child(child);
  if (post) {
    post_abort();
    one_less();
  } else if (woken && !home->closed) {
    wake(*woken);
  }
  drop();
}

void TaskGroupState::one_less() noexcept {
  FutureState* woken = nullptr;
  {
    Lock hold(*this);
    if (--unfinished == 0) woken = std::exchange(waiting, nullptr);
  }
  if (woken && !home->closed) wake(*woken);
}

// ---- Aborting ----

namespace {

struct PostedAbort {
  explicit PostedAbort(TaskGroupState& of) noexcept : state(&of) { state->hold(); }
  PostedAbort(PostedAbort&& other) noexcept : state(std::exchange(other.state, nullptr)) {}
  ~PostedAbort() {
    if (state) state->drop();
  }
  void operator()() const noexcept { state->abort(); }

  TaskGroupState* state;
};

}  // namespace

// The abort has its turn after what is ready now; and it does not go down through groups in groups by recursion.
void TaskGroupState::post_abort() noexcept {
  LoopState* here = running_loop;
  if (!here || (shared ? !here->worker || &here->worker->group != &home->worker->group : here != home)) here = home;
  try {
    auto* node = TypedCallbackNode<PostedAbort>::make(*here, std::source_location(), shared, PostedAbort(*this));
    if (here == running_loop && !here->closed) {
      here->ready.push_back(*node);
    } else if (!post_to(*here, *node)) {
      node->abandon();
    }
  } catch (...) {
    abort();
  }
}

void TaskGroupState::abort() noexcept {
  FutureHandle in_body;
  {
    Lock hold(*this);
    if (aborting || finished || orphaned) return;
    aborting = true;
    ++unfinished;
    if (!joining) {
      parent_cancelled = true;
      in_body = handle_of(*parent);  // it might go without a join meanwhile
    }
  }
  cancel_children();
  if (in_body.get()) cancel(*in_body.get(), std::string());
  in_body = FutureHandle();
  one_less();
}

void TaskGroupState::cancel_children() noexcept {
  if (!shared) {
    while (GroupChild* child = children.first) {
      ChildList::remove(*child);
      asked.append(*child);
      cancel(*child->task, std::string());
    }
    return;
  }
  std::array<FutureHandle, 64> some;
  for (std::size_t n = some.size(); n == some.size();) {
    n = 0;
    {
      Lock hold(*this);
      while (children.first && n < some.size()) {
        GroupChild& child = *children.first;
        ChildList::remove(child);
        asked.append(child);
        some[n++] = handle_of(*child.task);
      }
    }
    for (std::size_t i = 0; i < n; ++i) {
      cancel(*some[i].get(), std::string());
      some[i] = FutureHandle();
    }
  }
}

void throw_group_cancelled() { throw CancelledError(); }

}  // namespace detail

// ---- The group ----

TaskGroup::TaskGroup() : state_(detail::TaskGroupState::make()) {
  const detail::LoopState* here = detail::running_state();
  if (!here || !here->current) return;
  try {
    state_->enter(*here->current);
  } catch (...) {
    state_->drop();
    throw;
  }
}

detail::TaskGroupState& TaskGroup::enter() {
  if (OURO_LIKELY(state_->parent != nullptr)) return *state_;
  detail::LoopState& here = detail::require_running();
  if (!here.current) throw RuntimeError(state_->describe() + " cannot determine the parent task");
  state_->enter(*here.current);
  if (state_->cancel_on_enter) state_->abort();
  return *state_;
}

void TaskGroup::cancel() noexcept {
  if (!state_->parent) {
    state_->cancel_on_enter = true;
  } else {
    state_->abort();
  }
}

std::size_t TaskGroup::size() const noexcept {
  detail::TaskGroupState::Lock hold(*state_);
  return state_->count;
}

TaskGroup::~TaskGroup() {
  detail::TaskGroupState& state = *state_;
  std::size_t left = 0;
  bool silent = false;
  {
    detail::TaskGroupState::Lock hold(state);
    silent = !state.finished && state.closing();  // a group that is over may outlive its loop
    left = state.finished || silent ? 0 : state.count;
    state.waiting = nullptr;
    if (left == 0) state.orphaned = true;
  }
  if (OURO_UNLIKELY(left != 0)) {
    state.report("TaskGroup was destroyed with " + std::to_string(left) +
                     " unfinished tasks, which are cancelled: co_await its join() before it goes",
                 nullptr);
#ifndef NDEBUG
    detail::assertion_failed("a TaskGroup is joined before it is destroyed", __FILE__, __LINE__);
#endif
    state.cancel_children();
    detail::TaskGroupState::Lock hold(state);
    state.orphaned = true;
  }
  if (!state.finished && !silent) {
    if (state.parent_cancelled && !state.parent->done()) detail::take_request_back(*state.parent);
    for (const detail::GroupChild* child = state.failed.first; child; child = child->after) {
      state.report("TaskGroup was destroyed without a join: exception of a task", child->error);
    }
  }
  state.drop();
}

TaskGroup::Place::Place(TaskGroup& group) : group_(group.enter()), child_(detail::make_child()) {
  detail::TaskGroupState& state = group_;
  const char* why = nullptr;
  {
    detail::TaskGroupState::Lock hold(state);
    if (state.finished || (state.joining && state.unfinished == 0)) {
      why = " is finished";
    } else if (state.aborting) {
      why = " is shutting down";
    } else {
      ++state.unfinished;
    }
  }
  if (!why) return;
  detail::free_child(*child_);
  throw RuntimeError(state.describe() + why);
}

TaskGroup::Place::~Place() {
  if (!child_) return;
  detail::free_child(*child_);
  group_.one_less();
}

detail::LoopState* TaskGroup::Place::home() const noexcept {
  if (!group_.shared) return group_.home;
  return group_.parent->floating() ? detail::floats() : &detail::home_of(*group_.parent);
}

void TaskGroup::Place::fill(detail::FutureState& task) noexcept {
  detail::TaskGroupState& state = group_;
  detail::GroupChild& child = *std::exchange(child_, nullptr);
  child.group = &state;
  child.task = &task;
  child.notify = [](detail::Waiter& self, detail::FutureState& done) noexcept {
    auto& ended = static_cast<detail::GroupChild&>(self);
    ended.group->ended(ended, done);
  };
  child.next = child.prev = nullptr;
  state.hold();
  const bool shared = state.shared;  // the child may end, and the state go, as soon as it is linked
  bool late = false;
  {
    detail::TaskGroupState::Lock hold(state);
    late = state.aborting;
    (late ? state.asked : state.children).append(child);
    ++state.count;
  }
  if (shared ? detail::link_shared_waiter(task, child) : !task.done()) {
    if (!shared) detail::link_waiter(task, child);
    if (OURO_UNLIKELY(late)) detail::cancel(task, std::string());
  } else {
    state.ended(child, task);
  }
}

}  // namespace ouro
