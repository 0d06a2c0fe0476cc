// One turn of a loop in a group: what a single loop does (base_event_loop.cpp), and the floating tasks.
//
// A turn
//   1. look: as on a single loop; a floating task whose timer or operation has ended goes to the newest end of the
//      deque, so that it runs soon, though others may take it.
//   2. run what was ready on this loop: pinned tasks and callbacks, events, timers, what was sent.
//   3. run floating tasks: by turns one from the deque, newest first, and one from the lane, oldest first. A gather's
//      child that ends makes room for the next (LoopState::hop), within the budget.
//   4. with nothing left: search (below).
//
// Fairness. After every `looks_every` runs of one kind the loop looks, and everything else gets as many. What is oldest
// in the deque would wait for ever behind a program that always makes something newer: if an entry has been the oldest
// for `patience` looks, the loop runs it. From the injection queue one is taken at every look.
//
// Searching. A worker with nothing to do looks at the others in a random order, over and over, for as long as spinning
// has paid lately; then it sleeps. How nobody is left asleep is told in idle_workers.hpp, and for what is sent to one
// loop at LoopState::inbox; a worker that sleeps says so in both places, and looks at everything afterwards. Where the
// system has a barrier of which one side is free (barrier.hpp), a push is a plain store, and the sleeper pays; but only
// when it has slept for a while, and looks for the second time.
#include <algorithm>
#include <array>
#include <thread>
#include <utility>

#include <ouro/runtime/base_event_loop.hpp>

#include "drive.hpp"
#include "shared.hpp"
#include "timer_wheel.hpp"
#include "turns.hpp"
#include "worker.hpp"

namespace ouro {

namespace {

constexpr std::chrono::nanoseconds second_look = std::chrono::milliseconds(5);
constexpr std::uint32_t patience = 2048;  // looks, some hundred thousand runs, before the oldest goes first

using detail::ReadyNode;
using detail::Worker;

// The order in which a worker looks at the others: each once, from a random one on.
std::uint64_t next_random(std::uint64_t& seed) noexcept {
  seed ^= seed << 13;
  seed ^= seed >> 7;
  seed ^= seed << 17;
  return seed;
}

// Something to run of another worker, or nullptr.
ReadyNode* steal_from(Worker& victim, Worker& thief) noexcept {
  thief.steal_attempts.add(1);
  for (detail::StealDeque<ReadyNode>* queue : {&victim.deque, &victim.lane}) {
    bool lost = false;
    do {
      if (ReadyNode* entry = queue->steal(lost)) {
        thief.steals.add(1);
        return entry;
      }
    } while (lost);
  }
  return nullptr;
}

ReadyNode* find_elsewhere(Worker& worker) noexcept {
  detail::WorkerGroup& group = worker.group;
  if (group.injection.size() != 0) {
    if (ReadyNode* entry = group.injection.pop(worker.injected)) return entry;
  }
  const auto start = static_cast<unsigned>(next_random(worker.random) >> 33) % group.size;
  for (unsigned i = 0; i < group.size; ++i) {
    Worker& victim = *group.workers[(start + i) % group.size];
    if (&victim == &worker) continue;
    if (ReadyNode* entry = steal_from(victim, worker)) return entry;
  }
  return nullptr;
}

}  // namespace

// ---- Running ----

// Runs an entry of a deque or a lane, and what follows it at once.
inline void BaseEventLoop::run_entry(ReadyNode* entry, bool stolen) {
  detail::LoopState& s = *state_;
  if (detail::GatherShare* share = detail::share_of(entry)) {
    detail::GatherState::run_share(*share, *s.worker, stolen);
  } else {
    auto& task = static_cast<detail::FutureState&>(*entry);
    detail::set_home(task, s);
    run_node(task);
  }
  run_hops();
}

// What a gather or its children left to be run next.
inline void BaseEventLoop::run_hops() {
  detail::LoopState& s = *state_;
  if (OURO_UNLIKELY(s.budget == 0)) s.budget = 1;  // used up: what would follow goes into the deque
  if (OURO_LIKELY(!s.debug)) {
    detail::GatherState::run_hops(*s.worker);
  } else {
    for (;;) {
      if (s.ended) detail::GatherState::finish_end(*s.worker);
      if (!s.hop) break;
      detail::FutureState& task = *std::exchange(s.hop, nullptr);
      detail::set_home(task, s);
      run_node(task);
    }
  }
  detail::destroy_left_over();
}

// Runs floating tasks within the budget. False if there are none left here.
bool BaseEventLoop::run_floating() {
  detail::LoopState& s = *state_;
  Worker& worker = *s.worker;
  s.budget = detail::looks_every;
  run_hops();
  for (;;) {
    ReadyNode* entry = std::exchange(worker.stolen, nullptr);
    if (OURO_UNLIKELY(entry != nullptr)) {
      run_entry(entry, true);
    } else {
      entry = worker.deque.pop();
      if (OURO_UNLIKELY(!entry && worker.unstealable)) {
        detail::GatherShare& share = *worker.unstealable;
        worker.unstealable = std::exchange(share.held_next, nullptr);
        entry = detail::entry_of(share);
      }
      if (entry) run_entry(entry, false);
      bool lost = false;
      ReadyNode* woken = worker.lane.size() != 0 ? worker.lane.steal(lost) : nullptr;
      if (woken) {
        if (s.budget > 1) --s.budget;
        run_entry(woken, false);
      } else if (!entry && !lost) {
        return false;
      }
    }
    if (--s.budget == 0 || stopping_ || s.attention) return true;
  }
}

// What waits for its turn besides the newest.
void BaseEventLoop::run_patient() {
  Worker& worker = *state_->worker;
  state_->budget = detail::looks_every;
  if (worker.group.injection.size() != 0) {
    if (ReadyNode* entry = worker.group.injection.pop(worker.injected)) run_entry(entry, true);
  }
  const std::int64_t oldest = worker.deque.oldest();
  if (oldest != worker.oldest || worker.deque.size() == 0) {
    worker.oldest = oldest;
    worker.oldest_looks = 0;
  } else if (++worker.oldest_looks >= patience) {
    worker.oldest_looks = 0;
    bool lost = false;
    if (ReadyNode* entry = worker.deque.steal(lost)) run_entry(entry, true);
  }
}

void BaseEventLoop::run_group_turns() {
  detail::LoopState& s = *state_;
  do {
    ++counters_.turns;
    look();
    s.batch.splice_back(s.ready);
    // What the search found runs now, or others see it.
    if (s.worker->stolen && !(s.batch.empty() && none_found())) {
      s.worker->push(std::exchange(s.worker->stolen, nullptr));
      s.worker->group.work_visible();
    }
    for (;;) {
      s.budget = detail::looks_every;
      const bool finished = run_chunk();
      run_hops();
      if (!finished) look();
      s.budget = detail::looks_every;
      run_found();
      run_hops();
      run_patient();
      run_floating();
      if (finished) break;
    }
  } while (!stopping_);
  parker_->poll();  // what was begun in the last turn is not left lying until the next run
  if (s.interrupt) std::rethrow_exception(std::exchange(s.interrupt, nullptr));
}

// A floating task that a timer woke: it runs soon, but whoever is free may take it.
void BaseEventLoop::push_due(detail::ReadyQueue& due) noexcept {
  std::array<ReadyNode*, detail::looks_every> nodes;
  std::size_t n = 0;
  while (!due.empty() && n < nodes.size()) nodes[n++] = due.pop_front();
  for (std::size_t i = n; i > 0; --i) state_->worker->push(nodes[i - 1]);
  if (n != 0) state_->worker->group.work_visible();
}

bool BaseEventLoop::has_floating() const noexcept {
  const Worker& worker = *state_->worker;
  return worker.stolen || worker.unstealable || worker.deque.size() != 0 || worker.lane.size() != 0 || state_->hop ||
         state_->ended;
}

// ---- Searching and sleeping ----

// Anything for this loop alone.
inline bool BaseEventLoop::called_upon() {
  detail::LoopState& s = *state_;
  return s.inbox.load(std::memory_order_relaxed) || interrupted_.load(std::memory_order_relaxed) || parker_->poll() ||
         !s.ready.empty() || !none_found() || has_floating();
}

// A searcher has something to run: if it was the last one, somebody else has to go on looking.
void BaseEventLoop::end_search() noexcept {
  detail::WorkerGroup& group = state_->worker->group;
  if (group.idle.found() && group.any_visible(true)) group.work_visible();
}

void BaseEventLoop::search_for_work() {
  detail::LoopState& s = *state_;
  Worker& worker = *s.worker;
  detail::WorkerGroup& group = worker.group;
  bool searching = group.idle.begin_search();
  const TimePoint deadline = s.timers->next_deadline();
  TimePoint end = std::min(deadline, detail::saturating_add(time(), spin_now_));
  for (bool slept = false;;) {
    for (std::uint32_t round = 0;; ++round) {
      if (searching) worker.stolen = find_elsewhere(worker);
      if (worker.stolen || called_upon()) {
        if (searching) end_search();
        if (!slept) {
          ++counters_.spins;
          spin_now_ = spin_longest_;
        }
        if (s.inbox.load(std::memory_order_relaxed)) take_inbox(s.inbox.exchange(nullptr, std::memory_order_acquire));
        return;
      }
      if (time() >= end) break;
      // What is sent to this loop ends the pause: who sends it may wait for the answer.
      for (std::uint32_t i = 0; i < std::min(round, 8U) && !s.inbox.load(std::memory_order_relaxed); ++i) {
        detail::pause_for(1);
      }
      // Who makes work may share this processor, and would not run otherwise. With a processor for each, a yield would
      // only give it to other programs, for as long as they like.
      if (group.crowded) std::this_thread::yield();
    }
    if (deadline <= end) {
      if (searching) end_search();
      return;
    }
    if (!slept) spin_now_ = spin_now_ > detail::shortest_spin ? spin_now_ / 2 : spin_now_;
    if (!sleep_in_group(deadline, searching)) return;
    // It sleeps no more, and searches.
    slept = true;
    searching = true;
    end = TimePoint();
    if (time() >= deadline) {
      end_search();
      return;
    }
  }
}

// Sleeps, unless there is something to do. False: what came is this loop's own, and it does not search. True: it
// searches.
bool BaseEventLoop::sleep_in_group(TimePoint deadline, bool searching) {
  detail::LoopState& s = *state_;
  Worker& worker = *s.worker;
  detail::WorkerGroup& group = worker.group;
  detail::ReadyNode* seen = nullptr;
  // Release and acquire: pairs with posters on both sides; see LoopState::inbox.
  if (!s.inbox.compare_exchange_strong(seen, detail::asleep(), std::memory_order_acq_rel, std::memory_order_relaxed)) {
    if (searching) end_search();
    take_inbox(s.inbox.exchange(nullptr, std::memory_order_acquire));
    return false;
  }
  worker.in_sight = !nothing_in_sight(deadline);
  if (worker.index == 0) group.grace.store(grace().count(), std::memory_order_relaxed);
  group.idle.fall_asleep(worker.index, searching);
  // The barrier that a strict look needs costs as much as a wake-up, so a short sleep goes without: what it might miss,
  // a push of the same instant whose waker saw it awake, it finds when it looks again.
  const bool strictly = !group.light || worker.slept_once;
  bool looked = false;
  if (!group.any_visible(strictly)) {
    ++counters_.parks;
    const TimePoint before = strictly && spin_longest_.count() == 0 ? TimePoint() : time();
    TimePoint until = strictly ? deadline : std::min(deadline, before + second_look);
    const bool last = strictly && !worker.in_sight && group.idle.all_asleep();
    if (OURO_UNLIKELY(last)) until = grace_of_group();
    try {
      parker_->park(until);
    } catch (...) {
      take_inbox(s.inbox.exchange(nullptr, std::memory_order_acquire));
      group.idle.wake_up(worker.index);
      group.gate.pass(group.idle);
      end_search();
      throw;
    }
    if (OURO_UNLIKELY(last && until != deadline) && time() >= until) looked = look_in_group();
    if (before != TimePoint()) {
      const TimePoint now = time();
      if (now < until && now - before < 2 * spin_longest_) spin_now_ = spin_longest_;  // a spin would have paid
      worker.slept_once = !strictly && now >= until;
    }
  }
  // False: somebody else has said so, and counted it among the searchers.
  const bool woken = !group.idle.wake_up(worker.index);
  group.gate.pass(group.idle);
  detail::ReadyNode* const came = s.inbox.exchange(nullptr, std::memory_order_acquire);
  if (OURO_UNLIKELY(group.looked.load(std::memory_order_relaxed)) && !looked &&
      (woken || came != detail::asleep() || !s.ready.empty())) {
    group.looked.store(false, std::memory_order_relaxed);
  }
  take_inbox(came);
  return true;
}

}  // namespace ouro
