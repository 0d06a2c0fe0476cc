// gather and map of a floating parent: children that any worker of the group may start.
//
// The children that have not started are a share, a range of indices. Whoever holds the share takes the next child from
// it, puts the share into his deque and runs the child, in place of whatever ran before: the parent that suspended
// (which transfers to its first child), or the child that ended. When a child ends and its share is still the newest
// entry of the deque, the worker takes it out again and goes on; so a fork-join program that nobody steals from runs
// depth first, like calls, with one exchange on the deque for two children (two where a push is not light:
// barrier.hpp). A thief takes the share from the other end of the deque, puts one half of what is left back for others
// to steal, and goes on with the other half.
//
// `pending` counts the shares and the children that have started and not ended; the futures of the caller; and
// cancellers (pin()). Who counts down to zero owns the parent, and resumes it where it is. While the parent is private
// (shared.hpp) a worker that finds nobody's counts but its own needs no read-modify-write: only holders of counts,
// their children, and cancellers change it, and cancellers do not find a private parent.
//
// Public children are named in `children`, with the lowest bit of the address set, under `lock`; a child's entry is
// nullptr while it is private. How the gather ends early (first_error, cancel_requested, aborting) is changed under
// `lock`; `aborting` is read without it when a child is to be started, and the rest when all is over.
#include <utility>

#include <ouro/runtime/detail/gather_state.hpp>
#include <ouro/runtime/fork_join.hpp>

#include "drive.hpp"
#include "gather_shared.hpp"
#include "shared.hpp"
#include "worker.hpp"

namespace ouro::detail {

// ---- Starting ----

void GatherState::start_shared(FutureState& task, void* frame, std::source_location where) noexcept {
  if (OURO_UNLIKELY(running_loop != task.home)) move_here(task);
  Worker& worker = *task.home->worker;
  begin(task, frame, where);
  shared = true;
  if (limited) {
    as_map().running_now = 0;
    as_map().held_back = nullptr;
  }
  share = {this, 0, children || !fixed ? count : 0, nullptr, 0, 1};
  pending = 1;  // the share
  if (nodes) publish(task);
  if (OURO_LIKELY(is_private(task))) {
    task.waiting_on = this;
  } else {
    begin_shared_wait(task, *this);
  }
  if (OURO_UNLIKELY(task.has(flag_must_cancel))) {
    task.clear(flag_must_cancel);
    cancel_children_in_group(true);
  }
  if (nodes) link_futures();
  worker.state.current = nullptr;
  if (fixed) return advance(share, worker, 0);
  // A map's children run where the worker's loop runs them, not on top of their parent.
  if (share.end == 0) return retire(share, worker, 0);
  worker.push(entry_of(share));
  worker.group.work_visible();
}

void* GatherState::launch(FutureState& task, void* frame, std::source_location where) noexcept {
  if (task.floating()) {
    start_shared(task, frame, where);
  } else {
    start(&GatherState::run_fixed, task, frame, where);
  }
  return std::noop_coroutine().address();
}

// start_shared() of the usual case: a private child of another gather has several children and no futures, and its loop
// runs it. So the first child runs at once, in place of it, and not when the loop has it behind it: that loop is where
// children run, so no stack grows.
void* GatherState::launch_owned(FutureState& task, void* frame, std::source_location where) noexcept {
  constexpr unsigned usual = flag_gathered | flag_first_step | flag_shared;
  LoopState* const here = group_loop;
  if (OURO_UNLIKELY((task.all_flags() & (usual | flag_must_cancel)) != usual || !here || here->current != &task ||
                    count < 2 || here->budget <= 1 || here->debug)) {
    return launch(task, frame, where);
  }
  Worker& worker = *here->worker;
  if (OURO_UNLIKELY(worker.group.aborting.load(std::memory_order_relaxed) != 0 || !worker.deque.has_room())) {
    return launch(task, frame, where);
  }
  begin(task, frame, where);
  shared = true;
  task.waiting_on = this;
  pending = 2;  // the share and its first child
  share.gather = this;
  share.next = 1;
  share.end = count;
  FutureState& first = *take_child(0);
  prepare_child(first, 0, &share, *here);
  --here->budget;
  here->current = &first;
  worker.push_again(entry_of(share));
  if (OURO_UNLIKELY(worker.group.idle.should_wake())) return wake_and_go(first, worker);
  return first.frame();
}

void* GatherState::wake_and_go(FutureState& first, Worker& worker) noexcept {
  worker.group.work_visible();
  return first.frame();
}

void GatherState::link_futures() noexcept {
  for (std::uint32_t i = 0; i < count; ++i) {
    GatherNode& node = nodes[i];
    if (!node.future) continue;
    node.gather = this;
    node.index = i;
    node.notify = &notified;
    add_count(pending, 1);
    if (!link_shared_waiter(*node.future, node)) future_done(node);
  }
  // A cancellation that came in between has not met those that were linked after it, but for their being futures that
  // it cancelled: each tells.
  if (OURO_UNLIKELY(stop_requested())) let_go_of_futures();
}

// A gather above that was cancelled or has failed does not reach those that only private tasks connect with it.
OURO_NOINLINE bool GatherState::stopped_from_above() noexcept {
  for (FutureState* task = parent; task->has(flag_gathered) && is_private(*task);) {
    GatherState& above = *task->gather;
    if (above.stop_requested()) {
      if (begin_abort(nullptr, true, above.locked_cancel_message())) RecordLock(*parent).count_request();
      return true;
    }
    task = above.parent;
  }
  return false;
}

void GatherState::advance(GatherShare& from, Worker& worker, unsigned spare) {
  // Debug runs child by child, but for a share whose counts another worker has left with it.
  if (is_map() && !limited && (!worker.state.debug || from.spare != 0)) {
    return advance_map(from, worker, spare);
  }
  for (;;) {
    if (OURO_UNLIKELY(from.next == from.end || stopped(worker))) return retire(from, worker, spare);
    if (OURO_UNLIKELY(limited) && !may_start_shared(from)) {
      if (spare) count_down(&worker, spare);
      return;
    }
    const std::uint32_t i = from.next++;
    const bool last = from.next == from.end;
    if (!last) {
      if (spare == 0) {
        if (load_count(pending) == 1 && keeps_parent_private()) {
          pending = 2;
        } else {
          add_count(pending, 1);
        }
      }
      worker.push(entry_of(from));
      worker.group.work_visible();
    } else {
      release_share(from);
      // The share's count is the child's from here on.
      if (spare != 0) {
        if (load_count(pending) == 2 && keeps_parent_private()) {
          pending = 1;
        } else {
          subtract_count(pending, 1);
        }
      }
    }
    if (FutureState* child = make_or_fail(i, worker)) {
      return start_child(*child, i, last ? nothing_left : &from, worker);
    }
    // Nothing to start there: a future of the caller, or a map that failed.
    if (last || !take_back(&from, worker)) return count_down(&worker, 1);
    spare = 1;
  }
}

FutureState* GatherState::make_or_fail(std::uint32_t i, Worker& worker) noexcept {
  if (OURO_LIKELY(fixed)) return take_child(i);
  worker.state.current = parent;  // f and the range run in the name of the task that called map
  try {
    FutureState* child = as_map().map_kind->make_child(*this, i);
    worker.state.current = nullptr;
    return child;
  } catch (...) {
    worker.state.current = nullptr;
    fail_shared(std::current_exception());
    if (limited) one_less_runs(worker);
    return nullptr;
  }
}

void GatherState::run_share(GatherShare& share, Worker& worker, bool stolen) {
  worker.state.current = nullptr;
  if (OURO_UNLIKELY(is_continuation(share))) return hop(worker, ForkState::take_continuation(share));
  GatherState& gather = *share.gather;
  const std::uint32_t left = share.end - share.next;
  if (stolen && left > 1) {
    const std::uint32_t middle = share.end - left / 2;
    if (GatherShare* const half = gather.make_share(middle, share.end, gather.is_map() ? share.bite : 1)) {
      share.end = middle;
      add_count(gather.pending, 1);
      worker.push(entry_of(*half));
      worker.group.work_visible();
    }
  }
  gather.advance(share, worker, 0);
}

// No child of the share starts any more.
OURO_NOINLINE void GatherState::retire(GatherShare& from, Worker& worker, unsigned spare) noexcept {
  if (fixed && children) {
    for (std::uint32_t i = from.next; i < from.end; ++i) {
      FutureState* child = take_child(i);
      if (child) std::coroutine_handle<>::from_address(child->frame()).destroy();
    }
  }
  from.next = from.end;
  release_share(from);
  if (OURO_UNLIKELY(limited)) release_held(worker);
  count_down(&worker, 1 + spare);
}

// ---- Children that end ----

// A child's frame and arguments go before its parent can resume, wherever that is: what its end leads to waits until
// the loop has the frame behind it (LoopState::ended).
inline LoopState* GatherState::leave_end(FutureState& child, GatherShare* from, bool goes) noexcept {
  LoopState* here = group_loop;
  if (OURO_UNLIKELY(!here)) return end_elsewhere(*this, child, goes);
  here->current = nullptr;                                               // the destructors of the arguments may ask
  if (OURO_UNLIKELY(here->ended != nullptr)) finish_end(*here->worker);  // two, resumed by hand
  here->ended = this;
  here->ended_share = from;
  return here;
}

LoopState* GatherState::private_child_ended(FutureState& child) noexcept {
  return leave_end(child, child.child.share, true);
}

// The same for one that was sent here: its frame has gone, or is another's.
void GatherState::child_left(Worker& worker) noexcept {
  if (limited) one_less_runs(worker);
  count_down(&worker, 1);
}

// The frame of a child has gone. What this worker runs next in its place, a child or the parent; or nullptr.
inline FutureState* GatherState::follow_child(GatherShare* from, Worker& worker) {
  if (OURO_UNLIKELY(limited)) one_less_runs(worker);
  if (from == nothing_left || !take_back(from, worker)) return count_down_here(worker, from);
  // The usual cases of advance(), by themselves.
  if (OURO_LIKELY(fixed) && OURO_LIKELY(worker.group.aborting.load(std::memory_order_relaxed) == 0)) {
    const std::uint32_t i = from->next;
    FutureState* const child = children[i];
    if (OURO_LIKELY(child != nullptr)) {
      if (i + 1 != from->end) {
        __atomic_store_n(&children[i], nullptr, __ATOMIC_RELAXED);  // as take_child()
        from->next = i + 1;
        worker.push_again(entry_of(*from));
        worker.group.work_visible();
        prepare_child(*child, i, from, worker.state);
        return child;
      }
      if (from == &share && load_count(pending) == 2 && keeps_parent_private()) {
        __atomic_store_n(&children[i], nullptr, __ATOMIC_RELAXED);
        pending = 1;
        prepare_child(*child, i, nothing_left, worker.state);
        return child;
      }
    }
  } else if (is_continuation(*from)) {
    set_home(*parent, worker.state);
    return parent;
  }
  advance(*from, worker, 1);
  return nullptr;
}

void GatherState::finish_end(Worker& worker) {
  GatherState& gather = *std::exchange(worker.state.ended, nullptr);
  if (FutureState* child = gather.follow_child(worker.state.ended_share, worker)) hop(worker, *child);
}

// Where fork-join programs are: one loop that resumes what the last one left.
void GatherState::run_hops(Worker& worker) {
  LoopState& loop = worker.state;
  for (;;) {
    FutureState* target = nullptr;
    if (GatherState* const gather = loop.ended) {
      loop.ended = nullptr;
      target = gather->follow_child(loop.ended_share, worker);
      if (OURO_UNLIKELY(!target)) continue;
      if (OURO_UNLIKELY(loop.budget <= 1 || loop.hop)) {
        hop(worker, *target);
        continue;
      }
      --loop.budget;
    } else if (loop.hop) {
      target = std::exchange(loop.hop, nullptr);
      set_home(*target, loop);
    } else {
      return;
    }
    loop.current = target;
    drive_inline(target->leaf);
  }
}

bool GatherState::shared_child_done(FutureState& child) noexcept {
  if (is_private(child)) {
    take_belongings(child);
    return leave_end(child, child.child.share, true) != nullptr;
  }
  unlist_shared(child);
  // Nobody comes by another handle if there is none.
  const bool goes = handles_of(child) == 0;
  if (!goes) {
    RecordLock record(child);
    child.waiters = nullptr;
    const unsigned flags = (child.all_flags() | flag_done) & ~unsigned{flag_gathered};
    // Release: as in close_list().
    __atomic_store_n(&child.flags, static_cast<std::uint16_t>(flags), __ATOMIC_RELEASE);
    count_record(home_of(child));
  } else {
    take_belongings(child);
  }
  return leave_end(child, became_public(), goes) != nullptr && goes;
}

}  // namespace ouro::detail
