// gather and map of a floating parent: children that any worker of the group may start.
//
// The children that have not started are a share, a range of indices. Whoever holds the share takes the next child from
// it, puts the share into his deque and runs the child, in place of whatever ran before: the parent that suspended, or
// the child that ended. When a child ends and its share is still the newest entry of the deque, the worker takes it out
// again and goes on; so a fork-join program that nobody steals from runs depth first, like calls, with one exchange on
// the deque for two children (two where a push is not light: barrier.hpp). A thief takes the share from the other end
// of the deque, puts one half of what is left back for others to steal, and goes on with the other half.
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

#include "drive.hpp"
#include "shared.hpp"
#include "worker.hpp"

namespace ouro::detail {

namespace {

constexpr std::uint32_t unlimited = 0xffffffffU;

std::uint64_t load(const std::uint64_t& word) noexcept { return __atomic_load_n(&word, __ATOMIC_ACQUIRE); }
void add(std::uint64_t& word, std::uint64_t n) noexcept { __atomic_fetch_add(&word, n, __ATOMIC_RELAXED); }
// Acquire and release: the last one has everything that the others did.
std::uint64_t subtract(std::uint64_t& word, std::uint64_t n) noexcept {
  return __atomic_sub_fetch(&word, n, __ATOMIC_ACQ_REL);
}

void* frame_or_nothing(std::size_t bytes) noexcept {
  try {
    return allocate_frame(bytes);
  } catch (...) {
    return nullptr;
  }
}

// `target` runs next on this worker: when what runs now has suspended or ended.
inline void hop(Worker& worker, FutureState& target) noexcept {
  LoopState& loop = worker.state;
  if (OURO_UNLIKELY(--loop.budget == 0 || loop.hop)) {
    if (loop.budget == 0) loop.budget = 1;
    worker.push(&target);
    worker.group.work_visible();
    return;
  }
  loop.hop = &target;
}

}  // namespace

inline bool GatherState::keeps_parent_private() const noexcept { return is_private(*parent); }

// ---- The steps that every child takes ----

inline void GatherState::finish_shared(Worker* worker) noexcept {
  waiting = false;
  holds_children = false;
  if (worker) {
    hop(*worker, *parent);
  } else {
    make_ready(*parent);
  }
}

inline void GatherState::count_down(Worker* worker, unsigned counts) noexcept {
  if (load(pending) == counts && keeps_parent_private()) {
    pending = 0;
  } else if (subtract(pending, counts) != 0) {
    return;
  }
  finish_shared(worker);
}

// Atomic because of collect_public(), which reads the entries of others.
inline FutureState* GatherState::take_child(std::uint32_t i) noexcept {
  FutureState* child = __atomic_load_n(&children[i], __ATOMIC_RELAXED);
  __atomic_store_n(&children[i], nullptr, __ATOMIC_RELAXED);
  return child;
}

inline void GatherState::prepare_child(FutureState& child, std::uint32_t i, GatherShare& from, Worker& worker) noexcept {
  child.leaf = child.frame();
  child.home = &worker.state;
  child.gather = this;
  child.child.index = i;
  child.child.share = &from;
  set_stage(child, own_ref, flag_task | flag_gathered | flag_started | flag_first_step | flag_shared | child_flags,
            word_floating);
}

inline void GatherState::start_child(FutureState& child, std::uint32_t i, GatherShare& from, Worker& worker) noexcept {
  prepare_child(child, i, from, worker);
  hop(worker, child);
}

// Takes the share out again, if nobody has stolen it and nothing came after it.
inline bool GatherState::take_back(GatherShare& from, Worker& worker) noexcept {
  if (!worker.deque.pop_if(entry_of(from))) return false;
  // Another gather's share may have the address of one of ours that has gone.
  if (OURO_LIKELY(from.gather == this)) return true;
  worker.push(entry_of(from));
  return false;
}

inline void GatherState::release_share(GatherShare& from) noexcept {
  if (&from != &share) free_frame(&from, sizeof(GatherShare));
}

// ---- Starting ----

void GatherState::start_shared(FutureState& task, void* frame, std::source_location where) noexcept {
  if (OURO_UNLIKELY(running_loop != task.home)) move_here(task);
  Worker& worker = *task.home->worker;
  begin(task, frame, where);
  shared = true;
  child_flags = slot_kind == SlotKind::value ? flag_direct : 0;
  running_now = 0;
  held_back = nullptr;
  share = {this, 0, children || !fixed ? count : 0, nullptr};
  pending = 1;  // the share
  if (nodes) publish(task);
  if (OURO_LIKELY(is_private(task))) {
    task.waiting_on = this;
  } else {
    begin_shared_wait(task, *this);
  }
  if (OURO_UNLIKELY(task.has(flag_must_cancel))) {
    task.clear(flag_must_cancel);
    cancel_children_shared();
  }
  if (nodes) link_futures();
  worker.state.current = nullptr;
  // The usual case of advance(), by itself.
  if (OURO_LIKELY(fixed && share.end > 1 && load(pending) == 1 && is_private(task)) && OURO_LIKELY(!stopped(worker))) {
    if (FutureState* first = take_child(0)) {
      pending = 2;
      share.next = 1;
      worker.push(entry_of(share));
      worker.group.work_visible();
      return start_child(*first, 0, share, worker);
    }
  }
  advance(share, worker, 0);
}

void GatherState::link_futures() noexcept {
  for (std::uint32_t i = 0; i < count; ++i) {
    GatherNode& node = nodes[i];
    if (!node.future) continue;
    node.gather = this;
    node.index = i;
    node.notify = &notified;
    node.linked = true;
    add(pending, 1);
    if (!link_shared_waiter(*node.future, node)) {
      node.linked = false;
      future_done(node);
    }
  }
  // A cancellation that came in between has not met those that were linked after it, but for their being futures that
  // it cancelled: each tells.
  if (OURO_UNLIKELY(stop_requested())) let_go_of_futures();
}

// True if no further child is to be started.
inline bool GatherState::stopped(Worker& worker) noexcept {
  if (OURO_UNLIKELY(stop_requested())) return true;
  if (OURO_LIKELY(worker.group.aborting.load(std::memory_order_relaxed) == 0)) return false;
  return stopped_from_above();
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

void GatherState::advance(GatherShare& from, Worker& worker, unsigned spare) noexcept {
  for (;;) {
    if (OURO_UNLIKELY(from.next == from.end || stopped(worker))) return retire(from, worker, spare);
    if (OURO_UNLIKELY(most_running != unlimited) && !may_start_shared(from)) {
      if (spare) count_down(&worker, spare);
      return;
    }
    const std::uint32_t i = from.next++;
    const bool last = from.next == from.end;
    if (!last) {
      if (spare == 0) {
        if (load(pending) == 1 && keeps_parent_private()) {
          pending = 2;
        } else {
          add(pending, 1);
        }
      }
      worker.push(entry_of(from));
      worker.group.work_visible();
    } else {
      release_share(from);
      // The share's count is the child's from here on.
      if (spare != 0) {
        if (load(pending) == 2 && keeps_parent_private()) {
          pending = 1;
        } else {
          subtract(pending, 1);
        }
      }
    }
    if (FutureState* child = make_or_fail(i, worker)) return start_child(*child, i, from, worker);
    // Nothing to start there: a future of the caller, or a map that failed.
    if (last || !take_back(from, worker)) return count_down(&worker, 1);
    spare = 1;
  }
}

FutureState* GatherState::make_child(std::uint32_t i) { return take_child(i); }

FutureState* GatherState::make_or_fail(std::uint32_t i, Worker& worker) noexcept {
  if (OURO_LIKELY(fixed)) return take_child(i);
  worker.state.current = parent;  // f and the range run in the name of the task that called map
  try {
    FutureState* child = make_child(i);
    worker.state.current = nullptr;
    return child;
  } catch (...) {
    worker.state.current = nullptr;
    fail_shared(std::current_exception());
    if (most_running != unlimited) one_less_runs(worker);
    return nullptr;
  }
}

void GatherState::run_share(GatherShare& share, Worker& worker, bool stolen) noexcept {
  GatherState& gather = *share.gather;
  worker.state.current = nullptr;
  const std::uint32_t left = share.end - share.next;
  if (stolen && left > 1) {
    if (void* memory = frame_or_nothing(sizeof(GatherShare))) {
      const std::uint32_t middle = share.end - left / 2;
      auto* half = ::new (memory) GatherShare{&gather, middle, share.end, nullptr};
      share.end = middle;
      add(gather.pending, 1);
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
  if (OURO_UNLIKELY(most_running != unlimited)) release_held(worker);
  count_down(&worker, 1 + spare);
}

// ---- A limit ----

// False: as many run as may; the share waits until one of them ends.
bool GatherState::may_start_shared(GatherShare& from) noexcept {
  SpinLock::Hold hold(lock);
  if (running_now < most_running) {
    ++running_now;
    return true;
  }
  from.held_next = held_back;
  held_back = &from;
  return false;
}

void GatherState::one_less_runs(Worker& worker) noexcept {
  GatherShare* freed = nullptr;
  {
    SpinLock::Hold hold(lock);
    --running_now;
    freed = held_back;
    if (freed) held_back = freed->held_next;
  }
  if (!freed) return;
  worker.push(entry_of(*freed));
  worker.group.work_visible();
}

void GatherState::release_held(Worker& worker) noexcept {
  GatherShare* held = nullptr;
  {
    SpinLock::Hold hold(lock);
    held = std::exchange(held_back, nullptr);
  }
  while (held) {
    worker.push(entry_of(*std::exchange(held, held->held_next)));
    worker.group.work_visible();
  }
}

// ---- Children that end ----

// A child's frame and arguments go before its parent can resume, wherever that is: what its end leads to waits until
// the loop has the frame behind it (LoopState::ended).
inline void GatherState::leave_end(GatherShare* from) noexcept {
  LoopState* here = running_loop;
  if (OURO_UNLIKELY(!here || !here->worker)) {
    // Resumed by hand, by a thread that is no worker.
    return count_down(nullptr, 1);
  }
  here->current = nullptr;                                               // the destructors of the arguments may ask
  if (OURO_UNLIKELY(here->ended != nullptr)) finish_end(*here->worker);  // two, resumed by hand
  here->ended = this;
  here->ended_share = from;
}

void GatherState::private_child_ended(FutureState& child) noexcept { leave_end(child.child.share); }

void GatherState::finish_end(Worker& worker) {
  GatherState& gather = *std::exchange(worker.state.ended, nullptr);
  GatherShare* const from = worker.state.ended_share;
  if (OURO_UNLIKELY(!from)) destroy_left_over();  // the child itself, if its last handle went as it ended
  if (OURO_UNLIKELY(gather.most_running != unlimited)) gather.one_less_runs(worker);
  if (!from || !gather.take_back(*from, worker)) return gather.count_down(&worker, 1);
  gather.run_children(*from, worker);
}

// Where fork-join programs are: runs the children of a share, one after the other for as long as each ends in its first
// step. Requires: the share is in no deque, and the child that has ended before is counted still. What has ended or
// suspended when it returns is LoopState's. A child that returns may have been the last, and this gather have gone.
void GatherState::run_children(GatherShare& from, Worker& worker) {
  LoopState& loop = worker.state;
  for (;;) {
    if (OURO_UNLIKELY(!fixed) || OURO_UNLIKELY(worker.group.aborting.load(std::memory_order_relaxed) != 0)) break;
    const std::uint32_t i = from.next;
    FutureState* const child = children[i];
    if (OURO_UNLIKELY(child == nullptr)) break;
    if (i + 1 != from.end) {
      take_child(i);
      from.next = i + 1;
      worker.push(entry_of(from));
      worker.group.work_visible();
    } else {
      if (&from != &share || load(pending) != 2 || !keeps_parent_private()) break;
      take_child(i);
      pending = 1;
    }
    prepare_child(*child, i, from, worker);
    if (OURO_UNLIKELY(loop.budget <= 1 || loop.hop || loop.debug)) return hop(worker, *child);
    --loop.budget;
    loop.current = child;
    drive_inline(child->frame());
    if (loop.ended != this || loop.ended_share != &from || OURO_UNLIKELY(loop.hop != nullptr)) return;
    loop.ended = nullptr;
    if (!take_back(from, worker)) return count_down(&worker, 1);
  }
  advance(from, worker, 1);
}

bool GatherState::shared_child_done(FutureState& child) noexcept {
  if (is_private(child)) {
    take_belongings(child);
    leave_end(child.child.share);
    return true;
  }
  unlist_shared(child);
  // Nobody comes by another handle if there is none.
  const bool goes = handles_of(child) == 0;
  if (!goes) {
    RecordLock record(child);
    child.waiters = nullptr;
    const unsigned flags = (child.all_flags() | flag_done) & ~unsigned{flag_gathered};
    __atomic_store_n(&child.flags, static_cast<std::uint16_t>(flags), __ATOMIC_RELEASE);
    count_record(home_of(child));
  } else {
    take_belongings(child);
  }
  leave_end(nullptr);
  return goes;
}

}  // namespace ouro::detail
