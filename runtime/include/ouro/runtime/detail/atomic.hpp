// The atomics of every lock-free file: those of <atomic>, by another name. A build of the model checker (OURO_MODEL,
// tests/model) puts its own in their place, which let it decide what each operation reads and who goes first.
#pragma once

#ifdef OURO_MODEL
#include <model/checked_atomic.hpp>
#else
#include <atomic>
#endif

namespace ouro::detail {

#ifdef OURO_MODEL
template <class T>
using Atomic = model::CheckedAtomic<T>;
#else
template <class T>
using Atomic = std::atomic<T>;
#endif

}  // namespace ouro::detail
