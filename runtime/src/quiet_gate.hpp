// How one worker of a group looks at what belongs to the others, while all of them sleep.
//
// The worker that looks closes the gate, and then looks at the word of IdleWorkers; a worker that comes out of its
// sleep is taken out of that word first, by itself or by who wakes it, and then passes the gate. Both are sequentially
// consistent (Dekker's pattern): so either the one that looks sees that somebody is awake, and does not look; or that
// one finds the gate closed, and waits. What a worker did before it fell asleep is in the word's history, and what the
// other one did behind the gate is released by opening it.
//
// Other threads than the workers are not stopped. They reach the inboxes, the injection queue and the records that
// float, and of those what locks guard.
#pragma once

#include <cstdint>

#include <ouro/runtime/detail/atomic.hpp>
#include <ouro/runtime/detail/spin_lock.hpp>

#include "idle_workers.hpp"

namespace ouro::detail {

class QuietGate {
 public:
  // False: another worker has closed it. Else the caller asks IdleWorkers::all_asleep() next.
  bool close() noexcept { return !closed_.exchange(true, std::memory_order_seq_cst); }
  void open() noexcept { closed_.store(false, std::memory_order_release); }  // pairs with the load in pass()

  // Of a worker that does not sleep any more. Acquire: pairs with the exchange of who took its bit away, which comes
  // before the load of the gate by that.
  void pass(const IdleWorkers& idle) noexcept {
    static_cast<void>(idle.word().load(std::memory_order_acquire));
    for (std::uint32_t attempt = 0; closed_.load(std::memory_order_seq_cst); ++attempt) wait_for_lock(attempt);
  }

 private:
  Atomic<bool> closed_{false};
};

}  // namespace ouro::detail
