// Sleeping on a word of memory. Whoever waits for another thread does so here: std::condition_variable loses signals in
// the C library of Debian 12 (glibc bug 25847, versions 2.27 to 2.40), and is three words where one will do.
#pragma once

#include <cstdint>

#include <ouro/runtime/clock.hpp>
#include <ouro/runtime/config.hpp>
#include <ouro/runtime/detail/atomic.hpp>

namespace ouro::detail {

// Sleeps while `word` holds `expected`, until a wake on the word or `deadline` of the steady clock (TimePoint::max():
// none). May return early for no reason; signals do not end it. Returns false if the deadline has passed. Orders
// nothing: the caller reads the word again.
OURO_EXPORT bool futex_wait(const Atomic<std::uint32_t>& word, std::uint32_t expected,
                            TimePoint deadline = TimePoint::max()) noexcept;

// Wakes up to `most` of those who sleep on `word`. The word need not exist any more; then, at worst, a stranger wakes
// early. Async-signal-safe; leaves errno alone.
OURO_EXPORT void futex_wake(const Atomic<std::uint32_t>& word, std::uint32_t most) noexcept;

}  // namespace ouro::detail
