// A memory barrier of which one side costs nothing: the rare side, heavy_barrier(), makes every other thread of the
// process execute a full barrier at some point of its running (membarrier(2)). So of a frequent store that is followed
// by a load, and a rare store that is followed by heavy_barrier() and a load, one load sees the other's store, as if
// both sides had a full barrier between the two; the frequent side needs only to keep the compiler's order
// (light_barrier()).
#pragma once

#include <atomic>

namespace ouro::detail {

// False: the system has no such thing, or denies it; both sides need sequentially consistent operations then. The first
// call registers the process. Under ThreadSanitizer, which cannot see it, it is false.
bool has_heavy_barrier() noexcept;

// Requires: has_heavy_barrier().
void heavy_barrier() noexcept;

inline void light_barrier() noexcept { std::atomic_signal_fence(std::memory_order_seq_cst); }

}  // namespace ouro::detail
