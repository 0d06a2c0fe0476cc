// The drive loop, inline for the few places that resume frames. It always looks at the transfer slot, so that one build
// of the library serves consumers with tail calls and without.
#pragma once

#include <coroutine>

#include <ouro/runtime/config.hpp>
#include <ouro/runtime/detail/core.hpp>

namespace ouro::detail {

// The loop that runs on this thread; none in a forked child: see set_running_state. For functions that are no
// coroutines.
extern constinit thread_local LoopState* running_loop;
// The same, if that is a worker's.
extern constinit thread_local LoopState* group_loop;

inline void drive_inline(void* frame) {
  std::coroutine_handle<>::from_address(frame).resume();
  while (OURO_UNLIKELY(transfer_slot != nullptr)) {
    void* next = transfer_slot;
    transfer_slot = nullptr;
    std::coroutine_handle<>::from_address(next).resume();
  }
}

}  // namespace ouro::detail
