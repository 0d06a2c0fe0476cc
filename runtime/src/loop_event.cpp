#include <ouro/runtime/detail/loop_event.hpp>

namespace ouro::detail {

LoopEvent* LoopEvent::of(ReadyNode& node) noexcept {
  auto* header = static_cast<FrameHeader*>(node.leaf);
  return header->resume == &LoopEvent::run ? static_cast<LoopEvent*>(header) : nullptr;
}

void LoopEvent::run(void* leaf) {
  auto& event = *static_cast<LoopEvent*>(static_cast<FrameHeader*>(leaf));
  event.home_->current = nullptr;
  event.raised_ = false;
  event.kind_->happen(event);
}

}  // namespace ouro::detail
