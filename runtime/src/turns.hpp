// What the turns of a single loop and of one in a group have in common.
#pragma once

#include <chrono>
#include <cstdint>

#include <ouro/runtime/base_event_loop.hpp>
#include <ouro/runtime/detail/core.hpp>

#include "drive.hpp"

namespace ouro::detail {

inline constexpr std::uint32_t looks_every = 61;
inline constexpr std::chrono::nanoseconds shortest_spin = std::chrono::microseconds(2);

// Of a task; harmless for anything else, and for nullptr.
inline void prefetch_frame(const ReadyNode* node) noexcept {
  const std::uintptr_t frame = reinterpret_cast<std::uintptr_t>(node) - sizeof(FrameHeader);
  __builtin_prefetch(reinterpret_cast<const void*>(frame));
  __builtin_prefetch(reinterpret_cast<const void*>(frame + 64));
  __builtin_prefetch(reinterpret_cast<const void*>(frame + 128));
}

inline void pause_for(std::uint32_t times) noexcept {
  for (; times != 0; --times) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
  }
}

}  // namespace ouro::detail

namespace ouro {

inline void BaseEventLoop::run_node(detail::ReadyNode& node) {
  if (OURO_UNLIKELY(state_->debug)) return run_node_debug(node);
  state_->current = static_cast<detail::FutureState*>(&node);
  detail::drive_inline(node.leaf);
}

// Runs what is left of the batch, within the budget. True if that was all.
inline bool BaseEventLoop::run_chunk() {
  detail::LoopState& s = *state_;
  while (!s.batch.empty()) {
    detail::ReadyNode* node = s.batch.pop_front();
    detail::prefetch_frame(node->next);
    run_node(*node);
    if (--s.budget == 0) return s.batch.empty();
  }
  return true;
}

}  // namespace ouro
