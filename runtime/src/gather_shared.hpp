// The steps of a gather of a floating parent that its sources share: gather_shared.cpp tells what they are for.
#pragma once

#include <cstdint>

#include <ouro/runtime/detail/gather_state.hpp>

#include "shared.hpp"
#include "worker.hpp"

namespace ouro::detail {

// Acquire: pairs with the release in subtract_count(), for who finds no counts but his own.
inline std::uint64_t load_count(const std::uint64_t& word) noexcept { return __atomic_load_n(&word, __ATOMIC_ACQUIRE); }
inline void add_count(std::uint64_t& word, std::uint64_t n) noexcept { __atomic_fetch_add(&word, n, __ATOMIC_RELAXED); }
// Acquire and release: the last one has everything that the others did.
inline std::uint64_t subtract_count(std::uint64_t& word, std::uint64_t n) noexcept {
  return __atomic_sub_fetch(&word, n, __ATOMIC_ACQ_REL);
}

// A share without children: the parent goes on where it forked (fork_join.cpp).
inline bool is_continuation(const GatherShare& share) noexcept { return share.end == 0; }

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

inline bool GatherState::keeps_parent_private() const noexcept { return is_private(*parent); }

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
  if (load_count(pending) == counts && keeps_parent_private()) {
    pending = 0;
  } else if (subtract_count(pending, counts) != 0) {
    return;
  }
  finish_shared(worker);
}

// The same of one count, when the child that had it, and was started from `from`, is gone: the parent runs next, here,
// or (nullptr) not yet.
inline FutureState* GatherState::count_down_here(Worker& worker, GatherShare* from) noexcept {
  if (OURO_LIKELY(load_count(pending) == 1 && keeps_parent_private())) {
    pending = 0;  // so the child was private, too
  } else {
    if (from == became_public()) destroy_left_over();  // the child itself, if its last handle went as it ended
    if (subtract_count(pending, 1) != 0) return nullptr;
  }
  waiting = false;
  holds_children = false;
  FutureState* const task = parent;
  set_home(*task, worker.state);
  return task;
}

// Atomic because of collect_public(), which reads the entries of others.
inline FutureState* GatherState::take_child(std::uint32_t i) noexcept {
  FutureState* child = __atomic_load_n(&children[i], __ATOMIC_RELAXED);
  __atomic_store_n(&children[i], nullptr, __ATOMIC_RELAXED);
  return child;
}

inline void GatherState::start_child(FutureState& child, std::uint32_t i, GatherShare* from, Worker& worker) noexcept {
  prepare_child(child, i, from, worker.state);
  hop(worker, child);
}

// Takes the share out again, if nobody has stolen it and nothing came after it. It need not be one any more.
inline bool GatherState::take_back(GatherShare* from, Worker& worker) noexcept {
  ReadyNode* const entry = entry_of(*from);
  if (!worker.deque.pop_if(entry)) return false;
  // Another gather's share may have the address of one of ours that has gone.
  if (OURO_LIKELY(from->gather == this)) return true;
  worker.push_again(entry);
  return false;
}

inline void GatherState::release_share(GatherShare& from) noexcept {
  if (&from != &share) free_frame(&from, sizeof(GatherShare));
}

// True if no further child is to be started.
inline bool GatherState::stopped(Worker& worker) noexcept {
  if (OURO_UNLIKELY(stop_requested())) return true;
  if (OURO_LIKELY(worker.group.aborting.load(std::memory_order_relaxed) == 0)) return false;
  return stopped_from_above();
}

}  // namespace ouro::detail
