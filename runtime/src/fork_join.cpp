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
// A continuation that is taken makes the task public first (shared.hpp), while it does not run: its children may look
// for it, and are found through it, from then on. So whatever a private task's children are, they ran on its thread.
//
// Of a pinned task, and on a single loop: the child and then the caller come to the front of the turn.
#include <algorithm>
#include <cstdio>
#include <exception>
#include <utility>

#include <ouro/runtime/fork_join.hpp>

#include "drive.hpp"
#include "gather_shared.hpp"
#include "shared.hpp"
#include "worker.hpp"

namespace ouro::detail {

void ForkState::open(FutureState& task, void* frame, std::source_location where) noexcept {
  begin(task, frame, where);
  children = room_ == first_room ? first_children_.data() : children;
  slots = room_ == first_room ? static_cast<void*>(first_slots_.data()) : slots;
  count = listed = next_child = 0;
  taken_ = 0;
  if (task.floating()) {
    shared = true;
    fixed = false;
    child_flags = flag_direct;
    pending = far;
    running_now = 0;
    held_back = nullptr;
    share = {this, 0, 0, nullptr};
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
void ForkState::close() noexcept {
  waiting = false;
  holds_children = false;
  if (shared) return;
  listed = 0;
  (newer ? newer->older : home->gathers) = older;
  if (older) older->newer = newer;
}

void ForkState::free_table() noexcept {
  free_frame(children, std::size_t{room_} * (sizeof(FutureState*) + sizeof(void*)));
}

// Requires: the lock, if the task is public.
void ForkState::grow() {
  const std::uint32_t room = 4 * room_;
  void* const memory = allocate_frame(std::size_t{room} * (sizeof(FutureState*) + sizeof(void*)));
  auto* const larger = static_cast<FutureState**>(memory);
  auto* const places = reinterpret_cast<void**>(larger + room);
  std::copy_n(children, count, larger);
  std::copy_n(static_cast<void**>(slots), count, places);
  if (room_ != first_room) free_table();
  room_ = room;
  children = larger;
  slots = places;
}

std::uint32_t ForkState::add(FutureState* child, void* slot) {
  if (OURO_UNLIKELY(count == room_)) grow();
  children[count] = child;
  static_cast<void**>(slots)[count] = slot;
  return count++;
}

void ForkState::fork(FutureState& task, void* frame, FutureState& child, void* slot, std::source_location where) {
  const bool floating = task.floating();
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
    destroy_unstarted(child);
    return hop(worker, task);
  }
  std::uint32_t index = 0;
  try {
    if (OURO_LIKELY(is_private(task))) {
      index = add(nullptr, slot);
    } else {
      SpinLock::Hold hold(lock);
      index = add(nullptr, slot);
    }
  } catch (...) {
    destroy_unstarted(child);
    throw;
  }
  prepare_child(child, index, share, loop);
  worker.push(entry_of(share));
  // The task and this scope belong to whoever takes that entry.
  worker.group.work_visible();
  loop.current = nullptr;
  hop(worker, child);
}

void ForkState::fork_pinned(FutureState& task, FutureState& child, void* slot) {
  if (OURO_UNLIKELY(aborting)) {
    destroy_unstarted(child);
    return home->batch.push_front(task);
  }
  std::uint32_t index = 0;
  try {
    index = add(&child, slot);
  } catch (...) {
    destroy_unstarted(child);
    throw;
  }
  ++pending;
  listed = next_child = count;
  adopt_new_child(child, index, child.all_flags() | flag_started);
  home->batch.push_front(task);
  home->batch.push_front(child);
}

FutureState& ForkState::take_continuation(GatherShare& continuation) noexcept {
  auto& scope = static_cast<ForkState&>(*continuation.gather);
  ++scope.taken_;
  publish(*scope.parent);
  return *scope.parent;
}

void ForkState::join_later(FutureState& task, void* frame, std::source_location where) noexcept {
  task.leaf = frame;
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

// The scope goes with its children: the task is destroyed where it is suspended, or does not keep the contract.
void ForkState::abandon() noexcept {
  const LoopState* const here = running_state();
  if (here && here->current == parent && !here->closing && !here->closed) {
    std::fputs(
        "ouro: a ForkScope was destroyed between fork() and join(): co_await scope.join() on every way out of the "
        "coroutine, and use scope.call() for what may throw before it\n",
        stderr);
    std::terminate();
  }
  destroy_children();
}

}  // namespace ouro::detail
