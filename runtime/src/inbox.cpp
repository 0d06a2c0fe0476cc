// How other threads reach a loop; the protocol is told at LoopState::inbox.
#include <ouro/runtime/detail/core.hpp>
#include <ouro/runtime/parker.hpp>

namespace ouro::detail {

bool post_to(LoopState& loop, ReadyNode& node) noexcept {
  bool counted = false;
  ReadyNode* seen = loop.inbox.load(std::memory_order_relaxed);
  for (;;) {
    if (seen == shut()) {
      if (counted) loop.posters.fetch_sub(1, std::memory_order_release);
      return false;
    }
    if (seen == asleep() && !counted) {
      loop.posters.fetch_add(1, std::memory_order_relaxed);  // ordered by the exchange below
      counted = true;
    }
    node.next = seen == asleep() ? nullptr : seen;
    // Release: the loop sees the node as it was made (pairs with the acquire in take_inbox and close). A success that
    // replaces asleep() also publishes `posters`.
    if (loop.inbox.compare_exchange_weak(seen, &node, std::memory_order_release, std::memory_order_relaxed)) break;
  }
  if (counted) {
    if (seen == asleep()) loop.parker->unpark();
    loop.posters.fetch_sub(1, std::memory_order_release);  // pairs with the acquire in ~BaseEventLoop
  }
  return true;
}

void release_loop_state(LoopState& home) noexcept {
  if (!home.loop) delete &home;
}

}  // namespace ouro::detail
