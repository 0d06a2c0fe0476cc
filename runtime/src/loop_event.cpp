#include <ouro/runtime/detail/loop_event.hpp>

#include <ouro/runtime/detail/context_state.hpp>

namespace ouro::detail {

LoopEvent* LoopEvent::of(ReadyNode& node) noexcept {
  auto* header = static_cast<FrameHeader*>(node.leaf);
  return header->resume == &LoopEvent::run ? static_cast<LoopEvent*>(header) : nullptr;
}

void LoopEvent::run(void* leaf) {
  auto& event = *static_cast<LoopEvent*>(static_cast<FrameHeader*>(leaf));
  struct End {
    LoopState& home;  // the event may be gone
    ~End() {
      if (OURO_UNLIKELY(contexts_in_use())) drop_loose_context(home);
    }
  } end{*event.home_};
  end.home.current = nullptr;
  event.raised_ = false;
  event.kind_->happen(event);
}

}  // namespace ouro::detail
