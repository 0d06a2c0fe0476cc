// fork and join: a gather whose children come one after the other, while the parent runs.
//
// In a group, of a floating task: fork() puts the caller's continuation into the deque, as a share without children
// (GatherShare::end is zero), and the child runs in its place. A child that ends with that share still the newest entry
// takes it out, and the caller goes on: no atomic counter has been touched. Whoever takes the continuation otherwise, a
// thief or this worker's own loop because the child waits for something, adds one to `taken_`, which is the running
// caller's own; and a child that ends without finding a continuation subtracts one from `pending`. Both are anonymous:
// a child that comes late may find the continuation of a later fork, and the sums are right all the same.
//
// `pending` is far above any number of children until the join takes `far - taken_` from it. What is left are the
// children that have not ended; who brings it to zero, the join or a child, has the caller go on.
//
// While nothing has been taken, every child has ended by the time its caller goes on. So all forks of a task use the
// first place of the tables, and a join finds everything done.
//
// A continuation that is taken makes the task public first (shared.hpp), while it does not run: its children may look
// for it, and are found through it, from then on. So the children of a private task have all run on its thread.
//
// Of a pinned task, and on a single loop: the child and then the caller come to the front of the turn.
#include <algorithm>
#include <coroutine>
#include <cstdio>
#include <exception>
#include <new>
#include <optional>
#include <utility>

#include <ouro/runtime/detail/context_state.hpp>
#include <ouro/runtime/exceptions.hpp>
#include <ouro/runtime/fork_join.hpp>

#include "drive.hpp"
#include "gather_shared.hpp"
#include "shared.hpp"
#include "worker.hpp"

namespace ouro::detail {

void ForkState::open(FutureState& task, void* frame, std::source_location where) noexcept {
  begin(task, frame, where);
  walked = Walked::no;
  count = listed = next_child = 0;
  taken_ = 0;
  if (task.floating()) {
    shared = true;
    fixed = false;
    pending = far;
    return;
  }
  fixed = true;
  child_flags = 0;
  pending = 1;  // until the join
  older = home->gathers;
  newer = nullptr;
  if (older) older->newer = this;
  home->gathers = this;
}

// Nothing is waited for: the children have ended.
void ForkState::close_pinned() noexcept {
  listed = 0;
  (newer ? newer->older : home->gathers) = older;
  if (older) older->newer = newer;
}

// The tables that the scope has outgrown, too: a child may just look for its place in one of them.
void ForkState::free_tables() noexcept {
  while (Table* const table = std::exchange(newest_, nullptr)) {
    newest_ = table->before;
    free_frame(table, table->bytes);
  }
}

// Room for another child. Others may look at the tables meanwhile: what is new is made aside, without the lock.
void ForkState::make_room(bool is_public) {
  const std::uint32_t room = 4 * room_;
  const std::size_t bytes = sizeof(Table) + std::size_t{room} * (sizeof(FutureState*) + sizeof(void*));
  newest_ = ::new (allocate_frame(bytes)) Table{newest_, bytes};
  auto* const larger = reinterpret_cast<FutureState**>(newest_ + 1);
  auto* const places = reinterpret_cast<void**>(larger + room);
  std::copy_n(static_cast<void**>(slots), count, places);
  room_ = room;
  // Release: pairs with slot_table(), which children read at their ends, without the lock.
  __atomic_store_n(&slots, static_cast<void*>(places), __ATOMIC_RELEASE);
  std::optional<SpinLock::Hold> hold;
  if (is_public) hold.emplace(lock);
  std::copy_n(children, count, larger);
  children = larger;
}

// The number of a new child. Other threads look at the tables only of a public task.
// Throws: std::bad_alloc.
std::uint32_t ForkState::add(FutureState* child, void* slot, bool is_public) {
  if (OURO_UNLIKELY(count == room_)) make_room(is_public);
  static_cast<void**>(slots)[count] = slot;
  children[count] = child;
  const std::uint32_t index = count;
  // Release: pairs with count_of(), of whoever looks for public children.
  __atomic_store_n(&count, index + 1, __ATOMIC_RELEASE);
  return index;
}

namespace {

void destroy_frame(FutureState& child) noexcept { std::coroutine_handle<>::from_address(child.frame()).destroy(); }

}  // namespace

// The usual case: of a private task, of which nothing is or was stolen since the last join, and which its loop runs. So
// all earlier children have ended, and the new one has the first place to itself; it runs at once, in place of the task
// (as in launch_owned()).
void* ForkState::fork(FutureState& task, void* frame, FutureState& child, void* slot, std::source_location where) {
  constexpr unsigned usual = flag_gathered | flag_first_step | flag_shared;
  LoopState* const here = group_loop;
  if (OURO_UNLIKELY((task.all_flags() & (usual | flag_must_cancel)) != usual || !here || here->current != &task ||
                    here->budget <= 1 || here->debug || contexts_in_use())) {
    return fork_unusually(task, frame, child, slot, where);
  }
  Worker& worker = *here->worker;
  if (OURO_UNLIKELY(worker.group.aborting.load(std::memory_order_relaxed) != 0 || !worker.deque.has_room() ||
                    (waiting && (parent != &task || taken_ != 0)))) {
    return fork_unusually(task, frame, child, slot, where);
  }
  parent = &task;
  home = here;
  task.leaf = frame;
  waiting = true;
  shared = true;
  aborting = cancel_requested = counted_abort = cancelled_late = starved = false;
  holds_children = true;
  pending = far;
  taken_ = 0;
  count = 1;
  children[0] = nullptr;
  static_cast<void**>(slots)[0] = slot;
  prepare_child(child, 0, &share, *here);
  --here->budget;
  here->current = &child;
  // The task and this scope belong to whoever takes that entry.
  worker.push_again(entry_of(share));
  if (OURO_UNLIKELY(worker.group.idle.should_wake())) return wake_and_go(child, worker);
  return child.frame();
}

void* ForkState::fork_unusually(FutureState& task, void* frame, FutureState& child, void* slot,
                                std::source_location where) {
  fork_later(task, frame, child, slot, where);
  return std::noop_coroutine().address();
}

void ForkState::fork_later(FutureState& task, void* frame, FutureState& child, void* slot, std::source_location where) {
  const bool floating = task.floating();
  if (OURO_UNLIKELY(waiting && parent != &task)) {
    destroy_frame(child);
    throw_other_task();
  }
  if (OURO_UNLIKELY(floating && running_loop != task.home)) move_here(task);
  if (waiting) {
    task.leaf = frame;
  } else {
    open(task, frame, where);
  }
  if (OURO_UNLIKELY(!floating)) return fork_pinned(task, child, slot);
  Worker& worker = *task.home->worker;
  LoopState& loop = worker.state;
  if (OURO_UNLIKELY(stopped(worker))) {
    loop.current = nullptr;
    destroy_frame(child);
    return hop(worker, task);
  }
  std::uint32_t index = 0;
  try {
    index = add(nullptr, slot, !is_private(task));
  } catch (...) {
    destroy_frame(child);
    throw;
  }
  prepare_child(child, index, &share, loop);
  if (OURO_UNLIKELY(contexts_in_use())) give_fork_context(child, task);
  worker.push(entry_of(share));
  // The task and this scope belong to whoever takes that entry.
  worker.group.work_visible();
  loop.current = nullptr;
  hop(worker, child);
}

void ForkState::fork_pinned(FutureState& task, FutureState& child, void* slot) {
  if (OURO_UNLIKELY(aborting)) {
    home->current = nullptr;
    destroy_frame(child);
    return home->batch.push_front(task);
  }
  std::uint32_t index = 0;
  try {
    index = add(&child, slot, false);
  } catch (...) {
    destroy_frame(child);
    throw;
  }
  ++pending;
  listed = next_child = count;
  adopt_new_child(child, index, child.all_flags() | flag_started);
  if (OURO_UNLIKELY(contexts_in_use())) give_fork_context(child, task);
  home->batch.push_front(task);
  home->batch.push_front(child);
}

void ForkState::throw_other_task() {
  throw RuntimeError("A ForkScope belongs to the task that forked in it, until its join");
}

// The join throws, or a cancellation comes on top: nothing of it is left for the next one.
void ForkState::joined_slowly() {
  struct Forget {
    ForkState& scope;
    ~Forget() {
      scope.end_trouble();
      scope.cancel_requested = scope.aborting = scope.counted_abort = false;
      scope.walked = Walked::no;
      scope.parent = nullptr;
    }
  } forget{*this};
  rethrow_if_failed();
}

FutureState& ForkState::take_continuation(GatherShare& continuation) noexcept {
  auto& scope = static_cast<ForkState&>(*continuation.gather);
  ++scope.taken_;
  publish(*scope.parent);
  return *scope.parent;
}

void ForkState::join_later(FutureState& task, void* frame, std::source_location where) {
  if (OURO_UNLIKELY(parent != &task)) throw_other_task();
  task.leaf = frame;
  kind = &gather_kind;
  site = where;
  if (!shared) {
    begin_wait(task, *this);
    if (OURO_UNLIKELY(task.has(flag_must_cancel))) {
      const Rare* rare = task.rare ? rare_if(task) : nullptr;
      if (cancel_all(rare ? rare->cancel_message : std::string())) task.clear(flag_must_cancel);
    }
    if (--pending == 0) finish();
    return;
  }
  if (OURO_UNLIKELY(running_loop != task.home)) move_here(task);
  Worker& worker = *task.home->worker;
  begin_shared_wait(task, *this);
  if (OURO_UNLIKELY(task.has(flag_must_cancel))) {
    task.clear(flag_must_cancel);
    cancel_children_in_group(true);
  }
  worker.state.current = nullptr;
  if (subtract_count(pending, far - taken_) == 0) finish_shared(&worker);
}

void ForkState::call_failed(FutureState& task, void* frame, std::exception_ptr error,
                            std::source_location where) noexcept {
  if (!waiting) open(task, frame, where);
  fail(std::move(error));
}

// The scope goes before its join: with the loop, or the contract is not kept, and children may run.
void ForkState::abandon() noexcept {
  const bool ending = home->closing || home->closed || (home->worker && home->worker->group.ending);
  if (!ending) {
    std::fputs(
        "ouro: a ForkScope was destroyed between fork() and join(): co_await scope.join() on every way out of the "
        "coroutine, and use scope.call() for what may throw before it\n",
        stderr);
    std::terminate();
  }
  destroy_children();
}

}  // namespace ouro::detail
