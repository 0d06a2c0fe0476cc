// Waiting in the list of an object, and the end of that. The rules are in detail/wait_list.hpp.
#include <ouro/runtime/detail/wait_list.hpp>

#include <string>

#include <ouro/runtime/exceptions.hpp>

#include "drive.hpp"
#include "shared.hpp"
#include "wait_graph.hpp"
#include "worker.hpp"

namespace ouro::detail {

namespace {

// Of a task that is suspended or runs here: which kind its home is never changes.
bool in_group(const FutureState& task) noexcept { return home_of(task).worker != nullptr; }

}  // namespace

LoopState* SyncState::home_of_new() noexcept {
  LoopState* const here = running_loop;
  return here && !here->worker ? here : nullptr;
}

const LoopState* SyncState::loop_of_thread() noexcept { return running_loop; }

// ---- Waking ----

void Wakes::wake_all() noexcept {
  for (ReadyNode* node = first_; node;) {
    ReadyNode* const next = node->next;  // the task may run elsewhere as soon as it is woken
    wake_shared(static_cast<FutureState&>(*node));
    node = next;
  }
}

void SyncState::wake(ListWaiter& waiter, WaitList* into, Wakes& wakes) noexcept {
  FutureState& task = *waiter.task_;
  LoopState& home = home_of(task);
  waiter.list_->remove(waiter);
  if (into) into->push_back(waiter);
  waiter.set_stage(into ? ListWaiter::Stage::woken : ListWaiter::Stage::none);
  if (home.worker) {
    // A group that ends destroys its tasks, and has them in chains of its own.
    if (OURO_LIKELY(!home.worker->group.ending)) wakes.add(task);
    return;
  }
  if (&home != running_loop) {
    post_to(home, task);  // if it is closed, the task is about to be destroyed
    return;
  }
  task.waiting_on = nullptr;
  if (OURO_LIKELY(!home.closed)) home.ready.push_back(task);
}

void WaitList::let_go() noexcept {
  while (ListWaiter* waiter = first_) {
    const bool waits = waiter->stage() == ListWaiter::Stage::waiting;
    remove(*waiter);
    waiter->set_stage(waits ? ListWaiter::Stage::orphan : ListWaiter::Stage::none);
  }
}

// ---- Waiting ----

namespace {

[[noreturn]] OURO_NOINLINE void throw_other_loop(const char* what) {
  throw RuntimeError(std::string(what) + " is bound to a different event loop",
                     "make it where it is used; one that was made outside any run may be used anywhere");
}

}  // namespace

// False: a cancellation is due, and the task is on its way to hear of it.
bool ListWaiter::begin(FutureState& task, void* frame, const SyncKind& of, std::source_location where) {
  LoopState& home = home_of(task);
  if (OURO_UNLIKELY(object_->home_ && object_->home_ != &home)) throw_other_loop(of.what);
  kind = &of;
  site = where;
  list_ = nullptr;
  set_stage(Stage::none);
  task_ = &task;
  task.leaf = frame;
  if (home.worker) {
    if (task.has(flag_shared)) publish(task);
    if (OURO_UNLIKELY(task.floating() && running_loop != &home)) move_here(task);
    begin_shared_wait(task, *this);
  } else {
    task.waiting_on = this;
  }
  if (OURO_LIKELY(!task.has(flag_must_cancel))) return true;
  // It is delivered from here on: uncancel() does not call it off any more.
  task.clear(flag_must_cancel);
  task.set(flag_deliver_cancel);
  if (home.worker) {
    make_ready(task);
  } else {
    detail::wake(task);
  }
  return false;
}

void ListWaiter::suspend(FutureState& task, void* frame, const SyncKind& of, std::source_location where, bool ahead) {
  if (!begin(task, frame, of, where)) return;
  {
    SyncState::Hold hold(*object_);
    if (WaitList* list = of.enter(*object_, *this)) {
      set_stage(Stage::waiting);
      ahead ? list->push_front(*this) : list->push_back(*this);
      return;
    }
    if (list_) set_stage(Stage::woken);
  }
  if (in_group(task)) {
    make_ready(task);
  } else {
    detail::wake(task);
  }
}

void ListWaiter::resume() {
  FutureState& task = *task_;
  if (in_group(task)) {
    end_shared_wait(task);
  } else {
    task.waiting_on = nullptr;
  }
  if (OURO_UNLIKELY(task.has(flag_must_cancel) || task.has(flag_deliver_cancel))) {
    abandon();
    task_ = nullptr;
    throw_cancelled(task);
  }
  task_ = nullptr;
}

void ListWaiter::pass_on(bool woken, Wakes& wakes) noexcept {
  if (list_) list_->remove(*this);
  set_stage(Stage::none);
  const auto* how = static_cast<const SyncKind*>(kind);
  if (how->pass_on) how->pass_on(*object_, *this, woken, wakes);
}

// It does not wait any more, whatever it was given.
void ListWaiter::abandon() noexcept {
  if (stage() != Stage::waiting && stage() != Stage::woken) return;
  Wakes wakes;
  SyncState::Hold hold(*object_);
  if (stage() != Stage::none) pass_on(stage() == Stage::woken, wakes);
}

bool ListWaiter::cancel_wait(Waitee& waitee, FutureState& task, const std::string&) noexcept {
  auto& self = static_cast<ListWaiter&>(waitee);
  if (self.stage() == Stage::orphan) {
    self.set_stage(Stage::none);
  } else if (self.stage() != Stage::waiting) {
    return false;  // it is on its way to run
  } else {
    Wakes wakes;
    SyncState::Hold hold(*self.object_);
    if (self.stage() != Stage::waiting) return false;
    self.pass_on(false, wakes);
  }
  task.set(flag_deliver_cancel);
  detail::wake(task);
  return true;
}

void ListWaiter::tell_needs(const Waitee& waitee, Needs& needs) {
  const auto& self = static_cast<const ListWaiter&>(waitee);
  if (self.stage() == Stage::orphan) return needs.destroyed();
  if (self.stage() != Stage::waiting) return;
  SyncState::Hold hold(*self.object_);
  const auto* how = static_cast<const SyncKind*>(self.kind);
  if (how->holders && self.stage() == Stage::waiting) how->holders(*self.object_, needs);
}

}  // namespace ouro::detail
