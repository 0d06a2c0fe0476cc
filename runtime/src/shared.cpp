// Records of a group: waiting, waking, completing, references. The rules are in shared.hpp.
#include "shared.hpp"

#include <ouro/runtime/base_event_loop.hpp>
#include <ouro/runtime/futures.hpp>

#include "drive.hpp"
#include "report.hpp"
#include "worker.hpp"

namespace ouro::detail {

// What another thread left in the record becomes its own. Relaxed: that one held a handle, the end of which whoever
// destroys the record has acquired.
void take_belongings(FutureState& state) noexcept {
  if (__atomic_load_n(&state.cancel_word, __ATOMIC_RELAXED) & word_belongings) state.set(flag_belongings);
}

// ---- Becoming ready ----

namespace {

WorkerGroup* group_of_record(const FutureState& state) noexcept {
  Worker* worker = home_of(state).worker;
  return worker ? &worker->group : nullptr;
}

}  // namespace

void make_ready(FutureState& task) noexcept {
  LoopState* here = running_loop;
  if (OURO_UNLIKELY(group_of_record(task)->ending)) return;  // it is about to be destroyed
  if (!task.floating()) {
    LoopState& home = *task.home;
    if (here == &home) {
      home.ready.push_back(task);
    } else {
      post_to(home, task);
    }
    return;
  }
  WorkerGroup* group = group_of_record(task);
  Worker* worker = here ? here->worker : nullptr;
  if (OURO_UNLIKELY(!worker || &worker->group != group)) return group->inject(task);
  if (worker->looking) {
    worker->push(&task);
  } else {
    worker->push_behind(&task);
  }
  group->work_visible();
}

void move_here(FutureState& task) noexcept {
  LoopState* here = running_loop;
  if (here && here->worker && &here->worker->group == group_of_record(task)) set_home(task, *here);
}

void settle_here(FutureState& task) noexcept {
  publish(task);
  if (task.floating()) move_here(task);
}

void wake_shared(FutureState& task) noexcept {
  if (!task.floating() && running_loop == task.home) task.waiting_on = nullptr;
  make_ready(task);
}

namespace {

void take_due(FutureState& task, RecordLock& lock) noexcept {
  if ((lock.word() & word_due) == 0) return;
  lock.clear(word_due);
  task.set(flag_must_cancel);
}

// A pinned task's wait is its own thread's; another may have asked for its cancellation.
void change_own_wait(FutureState& task, Waitee* waitee) noexcept {
  task.waiting_on = waitee;
  if (OURO_LIKELY((__atomic_load_n(&task.cancel_word, __ATOMIC_RELAXED) & word_due) == 0)) return;
  RecordLock lock(task);
  take_due(task, lock);
}

}  // namespace

void begin_shared_wait(FutureState& task, Waitee& waitee) noexcept {
  if (!task.floating() || is_private(task)) return change_own_wait(task, &waitee);
  RecordLock lock(task);
  take_due(task, lock);
  task.waiting_on = &waitee;
}

void end_shared_wait(FutureState& task) noexcept {
  if (!task.floating() || is_private(task)) return change_own_wait(task, nullptr);
  RecordLock lock(task);
  take_due(task, lock);
  task.waiting_on = nullptr;
}

// ---- Becoming public ----

void publish(FutureState& task) noexcept {
  FutureState* above_cancelled = nullptr;
  for (FutureState* state = &task;;) {
    if (!state->has(flag_gathered)) {
      if (state->has(flag_shared) && state->has(flag_task) && !state->has(flag_linked) && !state->done()) {
        RecordLock lock(*state);
        if (!state->has(flag_linked)) home_of(*state).worker->group.tasks.link(*state);
      }
      break;
    }
    if (!state->floating()) {
      // A pinned gather's child that others will hear of: its own thread tells.
      if (!state->has(flag_shared)) {
        state->refs |= own_ref;
        state->set(flag_shared);
        state->clear(flag_direct | flag_first_step);
      }
      return;
    }
    GatherState& gather = *state->gather;
    const auto listed = gather.list_shared(*state);
    if (listed == GatherState::Listed::before) break;
    if (listed == GatherState::Listed::aborting) above_cancelled = state;
    state = gather.parent_task();
  }
  // The cancellation did not find it: it was private.
  if (OURO_UNLIKELY(above_cancelled != nullptr)) {
    cancel_shared(*above_cancelled, above_cancelled->gather->locked_cancel_message());
  }
}

// ---- Waiters ----

bool link_shared_waiter(FutureState& state, Waiter& waiter) noexcept {
  RecordLock lock(state);
  if (state.done()) return false;
  link_waiter(state, waiter);
  return true;
}

bool unlink_shared_waiter(FutureState& state, Waiter& waiter) noexcept {
  RecordLock lock(state);
  if (state.done() || !waiter.next) return false;
  unlink_waiter(state, waiter);
  return true;
}

bool waits_for_shared(FutureState& state, const Waiter& waiter) noexcept {
  RecordLock lock(state);
  return !state.done() && waiter.next != nullptr;
}

bool claim(FutureState& future) noexcept {
  RecordLock lock(future);
  if (future.done() || future.has(flag_started)) return false;
  future.set(flag_started);
  return true;
}

void unclaim(FutureState& future) noexcept {
  {
    RecordLock lock(future);
    if (OURO_LIKELY((lock.word() & word_due) == 0)) return future.clear(flag_started);
  }
  // A task that waits for it was cancelled meanwhile.
  future.set_outcome(outcome_cancelled);
  settle_shared(future);
}

namespace {

// Makes it done, and takes those who wait for it.
Waiter* close_list(FutureState& state) noexcept {
  RecordLock lock(state);
  Waiter* first = std::exchange(state.waiters, nullptr);
  unsigned flags = state.all_flags() | flag_done;
  if ((flags & outcome_mask) == outcome_exception) flags |= flag_unretrieved;
  // Release: who sees that it is done sees the result (pairs with the acquire in acquire_flags()).
  __atomic_store_n(&state.flags, static_cast<std::uint16_t>(flags), __ATOMIC_RELEASE);
  return first;
}

void tell(FutureState& done, Waiter* first) noexcept {
  if (!first) return;
  first->prev->next = nullptr;
  for (Waiter* waiter = first; waiter;) {
    Waiter* next = waiter->next;  // the waiter may be gone after its call
    waiter->next = waiter->prev = nullptr;
    waiter->notify(*waiter, done);
    waiter = next;
  }
}

}  // namespace

void settle_shared(FutureState& state) noexcept { tell(state, close_list(state)); }

bool complete_shared(FutureState& state) noexcept {
  if (state.has(flag_linked)) {
    if (WorkerGroup* group = group_of_record(state)) group->tasks.unlink(state);
  }
  // Release: who counts it sees what it has done (pairs with the acquires in unfinished()).
  if (LoopState* here = running_loop; here && here->worker) {
    here->worker->ended.add_release(1);
  } else if (WorkerGroup* group = group_of_record(state)) {
    group->ended_elsewhere.fetch_add(1, std::memory_order_release);
  }
  tell(state, close_list(state));
  // Nobody can come by another handle if there is none.
  if (handles_of(state) != 0) return false;
  retire(state);
  take_belongings(state);
  if (LoopState* here = running_loop) here->current = nullptr;  // the frame goes, and its destructors may ask
  return true;
}

// ---- References and the end ----

void destroy_shared_now(FutureState& state) noexcept {
  LoopState& home = *state.home;
  take_belongings(state);
  std::coroutine_handle<>::from_address(state.frame()).destroy();
  discount_record_in_group(home);
}

namespace {

struct LeftOver {
  bool busy = false;
  ReadyNode* first = nullptr;
};
constinit thread_local LeftOver left_over;

OURO_NOINLINE void destroy_all_left() noexcept {
  left_over.busy = true;
  while (ReadyNode* next = left_over.first) {
    left_over.first = next->next;
    destroy_shared_now(static_cast<FutureState&>(*next));
  }
  left_over.busy = false;
}

// For what comes to its end on a thread that is no worker, when its loops are gone.
OURO_NOINLINE void destroy_left_over_at_exit() noexcept {
  struct AtExit {
    ~AtExit() { destroy_left_over(); }
  };
  static thread_local AtExit at_exit;
  static_cast<void>(&at_exit);
}

}  // namespace

DeferredDestruction::DeferredDestruction() noexcept : outer_(std::exchange(left_over.busy, true)) {}
DeferredDestruction::~DeferredDestruction() {
  left_over.busy = outer_;
  if (!outer_ && left_over.first) destroy_all_left();
}

void drop_shared_ref(FutureState& state) noexcept {
  // Acquire and release, with each other and with leave_shared(): whoever drops the last one has everything that the
  // others did.
  if (__atomic_fetch_sub(&state.refs, 1, __ATOMIC_ACQ_REL) == 1) destroy_shared(state);
}

void destroy_shared(FutureState& state) noexcept {
  if (state.waiters || state.has(flag_unretrieved)) settle_debts(state);
  state.next = left_over.first;
  left_over.first = &state;
  if (!left_over.busy) destroy_all_left();
}

void leave_shared(FutureState& state) noexcept {
  // Acquire and release: as in drop_shared_ref().
  if (__atomic_fetch_sub(&state.refs, own_ref, __ATOMIC_ACQ_REL) != own_ref) return;
  // The last handle went while the task came to its end. The frame is destroyed, but not inside its own await_suspend.
  if (state.has(flag_unretrieved)) settle_debts(state);
  if (OURO_UNLIKELY(!group_loop)) {
    if (leave_elsewhere(state)) return;
    destroy_left_over_at_exit();
  }
  state.next = left_over.first;
  left_over.first = &state;
}

void destroy_left_over() noexcept {
  if (OURO_UNLIKELY(left_over.first != nullptr) && !left_over.busy) destroy_all_left();
}

// ---- All of them ----

std::vector<FutureHandle> all_shared_tasks(WorkerGroup& group) {
  std::vector<FutureHandle> tasks;
  std::size_t room = 64;
  for (bool complete = false; !complete; room *= 2) {
    tasks.clear();
    tasks.reserve(room);
    complete = true;
    group.tasks.each([&](FutureState& task) {
      if (tasks.size() == room) {
        complete = false;  // no memory is asked for under a lock
        return;
      }
      add_ref(task);
      tasks.emplace_back(task);
    });
  }
  for (std::size_t i = 0; i < tasks.size(); ++i) {
    const FutureHandle task = tasks[i];
    GatherState::append_children(*task.get(), tasks);
  }
  return tasks;
}

// ---- Awaiting a future ----

void FutureAwaiterBase::suspend_shared(FutureState& task) noexcept {
  FutureState& future = *future_.get();
  if (task.has(flag_shared)) publish(task);
  begin_wait(task, *this);
  if (OURO_UNLIKELY(task.has(flag_must_cancel))) {
    task.clear(flag_must_cancel);
    forward_due_cancel(task);
    // It came back to this very task, through a ring of tasks that wait for each other.
    const bool due = (__atomic_load_n(&task.cancel_word, __ATOMIC_RELAXED) & word_due) != 0;
    if (due || task.has(flag_must_cancel)) return make_ready(task);
  }
  if (future.has(flag_shared)) {
    if (!link_shared_waiter(future, *this)) make_ready(task);
  } else {
    // A pinned gather's child cannot be awaited, so this is a task or future of this very loop, from before it joined.
    if (future.done()) return make_ready(task);
    link_waiter(future, *this);
  }
}

void FutureAwaiterBase::resume_shared() {
  end_shared_wait(*task_);
  if (task_->all_flags() & (flag_must_cancel | flag_deliver_cancel)) throw_cancelled(*task_);
}

}  // namespace ouro::detail
