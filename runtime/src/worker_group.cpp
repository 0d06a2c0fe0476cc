// A group's life: its loops join it before they run, and leave it together. Who may touch what is in shared.hpp.
#include <ouro/runtime/detail/worker_group.hpp>

#include <sched.h>

#include <ouro/runtime/base_event_loop.hpp>
#include <ouro/runtime/exceptions.hpp>

#include "drive.hpp"
#include "shared.hpp"
#include "worker.hpp"

namespace ouro::detail {

Worker::Worker(WorkerGroup& of, unsigned place, LoopState& loop)
    : group(of),
      light(of.light),
      index(place),
      state(loop),
      injected(of.injection),
      random(0x9e3779b97f4a7c15U * (place + 1)) {}

// Without memory it waits where nobody steals it.
void Worker::put_aside(ReadyNode* entry) noexcept {
  if (GatherShare* share = share_of(entry)) {
    share->held_next = std::exchange(unstealable, share);
  } else {
    auto& task = static_cast<FutureState&>(*entry);
    publish(task);  // or the end of the group would not find it
    set_home(task, state);
    state.ready.push_back(task);
  }
}

Worker* running_worker() noexcept {
  LoopState* loop = running_state();
  return loop ? loop->worker : nullptr;
}

std::uint32_t new_number(LoopState& home) noexcept {
  LoopState* here = running_state();
  LoopState& own = here && here->worker ? *here : home;
  return own.last_number += own.number_step;
}

// ---- Records ----

void count_record_in_group(LoopState& home) noexcept {
  if (Worker* here = running_worker(); here && &here->group == &home.worker->group) return here->born.add(1);
  WorkerGroup& group = home.worker->group;
  std::lock_guard hold(group.guard);
  if (group.over) {
    ++group.left;
  } else {
    --group.gone_elsewhere;
  }
}

void discount_record_in_group(LoopState& home) noexcept {
  WorkerGroup& group = home.worker->group;
  if (Worker* here = running_worker(); here && &here->group == &group) return here->gone.add(1);
  bool last = false;
  {
    std::lock_guard hold(group.guard);
    if (group.over) {
      last = --group.left == 0;
    } else {
      ++group.gone_elsewhere;
    }
  }
  if (last) delete &group;
}

// ---- Waking ----

void WorkerGroup::wake_somebody() noexcept {
  wakers.fetch_add(1, std::memory_order_relaxed);  // ordered by the exchange in wake_one()
  const int worker = idle.wake_one();
  if (worker >= 0) {
    workers[static_cast<unsigned>(worker)]->state.parker->unpark();
    if (Worker* here = running_worker()) here->wakeups.add(1);
  }
  wakers.fetch_sub(1, std::memory_order_release);  // pairs with the acquire in end_group()
}

void WorkerGroup::inject(ReadyNode& task) noexcept {
  // The task may be the last of the group, which does not end before this thread has left it. Relaxed: who ends the
  // group has what the task did, and that came after the push.
  struct Inside {
    Atomic<std::uint32_t>& count;
    explicit Inside(Atomic<std::uint32_t>& threads) noexcept : count(threads) {
      count.fetch_add(1, std::memory_order_relaxed);
    }
    Inside(const Inside&) = delete;
    ~Inside() { count.fetch_sub(1, std::memory_order_release); }  // pairs with the acquire in end_group()
  } const inside(wakers);
  if (!injection.push(task)) {
    // Without memory: the first worker runs it.
    auto& record = static_cast<FutureState&>(task);
    publish(record);
    set_home(record, workers.front()->state);
    post_to(workers.front()->state, task);
    return;
  }
  injections.fetch_add(1, std::memory_order_seq_cst);
  work_visible();
}

bool WorkerGroup::any_visible(bool strictly) noexcept {
  if (light && strictly) heavy_barrier();  // the other half of what each push left out
  static_cast<void>(injections.load(std::memory_order_seq_cst));
  if (injection.size() != 0) return true;
  for (const auto& worker : workers) {
    if (!worker->deque.empty() || !worker->lane.empty()) return true;
  }
  return false;
}

// ---- Life ----

WorkerGroup* make_group(unsigned workers) {
  OURO_ASSERT(workers > 1 && workers <= most_workers);
  return new WorkerGroup(workers);
}

void join_group(WorkerGroup& group, BaseEventLoop& loop) {
  LoopState& state = loop.state();
  const auto place = static_cast<unsigned>(group.workers.size());
  OURO_ASSERT(place < group.size && !state.worker && state.live == 0);
  group.workers.push_back(std::make_unique<Worker>(group, place, state));
  state.worker = group.workers.back().get();
  state.last_number = place;
  state.last_named = place;
  state.number_step = group.size;
  update_special(state);
}

void let_run(BaseEventLoop& loop, bool may) noexcept { loop.state().worker->may_run = may; }

void set_main(WorkerGroup& group, FutureState* task) noexcept { group.main.store(task, std::memory_order_relaxed); }

void cancel_unstarted(WorkerGroup& group) noexcept { group.unstarted_cancelled.store(true, std::memory_order_relaxed); }

std::uint64_t unfinished(const WorkerGroup& group) noexcept {
  // First what ended, then what was made: between the two there were at most so many.
  std::uint64_t ended = group.ended_elsewhere.load(std::memory_order_acquire);
  for (const auto& worker : group.workers) ended += worker->ended.get();
  std::uint64_t made = 0;
  for (const auto& worker : group.workers) made += worker->made.get();
  return made - ended;
}

namespace {

// An entry that nobody will run any more. A task that has not suspended becomes one that can be found.
void put_away(ReadyNode* entry) noexcept {
  GatherShare* share = share_of(entry);
  publish(share ? *share->gather->parent_task() : *static_cast<FutureState*>(entry));
}

}  // namespace

void end_group(WorkerGroup& group) noexcept {
  while (group.wakers.load(std::memory_order_acquire) != 0) ::sched_yield();
  for (const auto& worker : group.workers) {
    while (ReadyNode* entry = worker->deque.pop()) put_away(entry);
    while (ReadyNode* entry = worker->lane.pop()) put_away(entry);
    if (worker->stolen) put_away(std::exchange(worker->stolen, nullptr));
    if (worker->state.hop) put_away(std::exchange(worker->state.hop, nullptr));
    while (ReadyNode* entry = group.injection.pop_last(worker->injected)) put_away(entry);
    while (worker->unstealable) worker->unstealable = worker->unstealable->held_next;
  }
  group.ending = true;
  // Nothing is scheduled any more by what is destroyed from now on, or by who hears of it.
  for (const auto& worker : group.workers) {
    worker->state.closed = true;
    worker->state.closing = true;
  }
  for (const auto& worker : group.workers) worker->state.loop->forget_queues();
  bury_tasks(group);
  for (const auto& worker : group.workers) free_left_timers(*worker);
}

// The last loop of the group has been closed and destroyed.
void leave_group(LoopState& state) noexcept {
  WorkerGroup& group = state.worker->group;
  bool last = false;
  {
    std::lock_guard hold(group.guard);
    if (++group.loops_gone == group.workers.size()) {
      std::uint64_t born = 0;
      std::uint64_t gone = group.gone_elsewhere;
      for (const auto& worker : group.workers) {
        born += worker->born.get();
        gone += worker->gone.get();
      }
      group.over = true;
      group.left = born - gone;
      last = group.left == 0;
    }
  }
  if (last) delete &group;
}

WorkerGroup::~WorkerGroup() {
  for (const auto& worker : workers) delete &worker->state;
}

WorkerGroup* group_of(const BaseEventLoop& loop) noexcept {
  const Worker* worker = const_cast<BaseEventLoop&>(loop).state().worker;
  return worker ? &worker->group : nullptr;
}
unsigned size_of(const WorkerGroup& group) noexcept { return group.size; }
BaseEventLoop& worker_of(const WorkerGroup& group, unsigned index) noexcept {
  return *group.workers[index]->state.loop;
}
unsigned place_of(const BaseEventLoop& loop) noexcept {
  const Worker* worker = const_cast<BaseEventLoop&>(loop).state().worker;
  return worker ? worker->index : 0;
}

}  // namespace ouro::detail
