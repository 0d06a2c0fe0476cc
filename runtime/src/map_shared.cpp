// map of a floating parent: how a worker takes children from its share, and the limit of how many run.
#include <algorithm>
#include <cstdint>
#include <utility>

#include <ouro/runtime/detail/gather_state.hpp>

#include "gather_shared.hpp"

namespace ouro::detail {

namespace {

void* frame_or_nothing(std::size_t bytes) noexcept {
  try {
    return allocate_frame(bytes);
  } catch (...) {
    return nullptr;
  }
}

}  // namespace

// The worker that holds `held` of the counts has to hold `needed`. Requires: neither is zero.
inline void GatherState::change_counts(unsigned held, unsigned needed) noexcept {
  if (held == needed) return;
  if (load_count(pending) == held && keeps_parent_private()) {
    pending = needed;
  } else {
    add_count(pending, std::uint64_t{needed} - held);
  }
}

// nullptr: there is no memory.
GatherShare* GatherState::make_share(std::uint32_t from, std::uint32_t to, std::uint32_t bite) noexcept {
  void* const memory = frame_or_nothing(sizeof(GatherShare));
  return memory ? ::new (memory) GatherShare{this, from, to, nullptr, 0, bite} : nullptr;
}

// A map without a limit: children that end in their first steps run several at a time, so that tiny ones pay nothing
// for the deque. How many, a bite, grows from one while all end so, and is a small part of what is left in the share,
// which others can steal meanwhile (Polychronopoulos and Kuck, "Guided self-scheduling", IEEE ToC 1987). Should that be
// stolen, and somebody look for work, the rest of the bite becomes a share after the child that runs.
//
// Counts: one of the share; one of the bite, and one of its child that runs, who takes it along if he suspends. `spare`
// are held beyond the share's. A worker whose budget ends leaves the counts of its bite with the share, for whoever
// goes on with it: workers that run shares of one map side by side write nothing in common until their shares end.
void GatherState::advance_map(GatherShare& first, Worker& worker, unsigned spare) {
  constexpr std::uint32_t longest = 32;
  LoopState& loop = worker.state;
  for (GatherShare* from = &first;;) {
    spare += std::exchange(from->spare, 0U);
    if (OURO_UNLIKELY(from->next == from->end || stopped(worker))) return retire(*from, worker, spare);
    const std::uint32_t left = from->end - from->next;
    const std::uint32_t wanted = from->bite;
    const std::uint32_t taken = std::max(1U, std::min({wanted, left / (4 * worker.group.size), loop.budget}));
    MapRun run{loop, from, worker.group.idle.word(), from->next, from->next + taken, true};
    from->next = run.end;
    const bool last = from->next == from->end;
    change_counts(1 + spare, last ? 2 : 3);
    if (last) {
      release_share(*from);
    } else {
      worker.push(entry_of(*from));
      worker.group.work_visible();
    }
    do {
      as_map().map_kind->run_some(*this, run);
    } while (run.all_ended && run.next != run.end && !stop_requested() && worker.deque.size() != 0);
    loop.budget -= std::min(loop.budget - 1, taken);
    if (OURO_LIKELY(run.all_ended && (run.next == run.end || stop_requested()))) {
      if (last || !take_back(from, worker)) return count_down(&worker, 2);
      if (taken == wanted && wanted < longest) from->bite = 2 * wanted;
      spare = 2;
      if (loop.budget <= 1) {
        from->spare = spare;
        worker.push_again(entry_of(*from));
        return worker.group.work_visible();
      }
    } else {
      from = leave_bite(run, worker);
      if (!from) return;
      spare = 1;
    }
  }
}

// Somebody wants the rest of a bite, or (not `all_ended`) something else runs first: it becomes a share. That is for
// the caller to go on with if it is not nullptr; one count is held beyond its own.
GatherShare* GatherState::leave_bite(MapRun& run, Worker& worker) {
  for (;;) {
    const bool rest = run.next != run.end && !stop_requested();
    GatherShare* const left = rest ? make_share(run.next, run.end, 1) : nullptr;
    if (run.all_ended && left) return left;
    if (!run.all_ended && (left || !rest)) {
      if (left) {
        worker.push(entry_of(*left));
        worker.group.work_visible();
      } else {
        count_down(&worker, 1);
      }
      return nullptr;
    }
    // No memory: the bite is finished here, and what was to run first waits in the deque.
    if (!run.all_ended) {
      if (run.loop.ended) finish_end(worker);
      if (run.loop.hop) worker.push(std::exchange(run.loop.hop, nullptr));
      change_counts(1, 2);
      run.all_ended = true;
    }
    while (run.all_ended && run.next != run.end && !stop_requested()) as_map().map_kind->run_some(*this, run);
    if (run.all_ended) {
      count_down(&worker, 2);
      return nullptr;
    }
  }
}

// ---- A limit ----

// False: as many run as may; the share waits until one of them ends.
bool GatherState::may_start_shared(GatherShare& from) noexcept {
  SpinLock::Hold hold(lock);
  MapGather& map = as_map();
  if (map.running_now < map.most_running) {
    ++map.running_now;
    return true;
  }
  from.held_next = map.held_back;
  map.held_back = &from;
  return false;
}

void GatherState::one_less_runs(Worker& worker) noexcept {
  GatherShare* freed = nullptr;
  {
    SpinLock::Hold hold(lock);
    MapGather& map = as_map();
    --map.running_now;
    freed = map.held_back;
    if (freed) map.held_back = freed->held_next;
  }
  if (!freed) return;
  worker.push(entry_of(*freed));
  worker.group.work_visible();
}

void GatherState::release_held(Worker& worker) noexcept {
  GatherShare* held = nullptr;
  {
    SpinLock::Hold hold(lock);
    held = std::exchange(as_map().held_back, nullptr);
  }
  while (held) {
    worker.push(entry_of(*std::exchange(held, held->held_next)));
    worker.group.work_visible();
  }
}

}  // namespace ouro::detail
