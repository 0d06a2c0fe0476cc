// An entry of a ready queue that is neither a task nor a callback, and may stand in it again and again: what an object
// of the loop has to do there when a completion has come for it. It lives in that object and costs no allocation.
#pragma once

#include <ouro/runtime/config.hpp>
#include <ouro/runtime/detail/core.hpp>
#include <ouro/runtime/detail/ready_queue.hpp>

namespace ouro::detail {

// Imitates a frame, and so has no virtual functions. Threads: the loop's.
class OURO_EXPORT LoopEvent : public FrameHeader, public ReadyNode {
 public:
  struct Kind {
    void (*happen)(LoopEvent&);            // its turn has come; may raise it again
    void (*dropped)(LoopEvent&) noexcept;  // the loop closes with the event in a queue
  };

  LoopEvent(const LoopEvent&) = delete;
  LoopEvent& operator=(const LoopEvent&) = delete;

  // The event behind an entry of a ready queue, or nullptr if it is something else.
  static LoopEvent* of(ReadyNode& node) noexcept;
  void drop() noexcept {
    raised_ = false;
    kind_->dropped(*this);
  }

 protected:
  LoopEvent(LoopState& home, const Kind& kind) noexcept
      : FrameHeader{&LoopEvent::run, nullptr},
        ReadyNode{nullptr, static_cast<FrameHeader*>(this)},
        home_(&home),
        kind_(&kind) {}
  ~LoopEvent() { OURO_ASSERT(!raised_); }

  // Its turn will come, once however often it is raised before. Nothing happens on a loop that is closed.
  void raise() noexcept {
    if (raised_ || home_->closed) return;
    raised_ = true;
    home_->ready.push_back(*this);
  }
  LoopState& home() const noexcept { return *home_; }
  bool is_raised() const noexcept { return raised_; }

 private:
  static void run(void* leaf);

  LoopState* home_;
  const Kind* kind_;
  bool raised_ = false;
};

}  // namespace ouro::detail
