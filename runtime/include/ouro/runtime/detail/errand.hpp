// Errand: something that a loop waits for and another thread does. It goes out with the loop's plain future, and
// comes back through the loop's inbox with a result for it.
//
// It is linked into LoopState::errands through the future (which is no task, so its links are free), so that neither
// going out nor coming back writes to another errand, which another thread may hold.
//
// While it is out, the callable and the result belong to the executor's thread, the future and its links to the
// loop's. `state_` decides how it ends:
//   out -> dropped: by the loop's thread, because the future was cancelled or the loop closes. The loop has unlinked
//     it and let go of the future; whoever has it frees it, and looks at nothing of the loop.
//   out -> returning: by the executor's thread, before it touches the inbox. From here to the end of the post the
//     loop does not go away.
//   returning -> stranded: by the executor's thread, when the inbox was shut. The errand is left to the loop, which
//     is closing.
// The first two are exchanges, so one of them happens. The one to dropped releases, and who finds it acquires, so
// that the loop's last touch comes before the free; stranded likewise. The way home is ordered by the inbox.
//
// The end of the loop. A loop may close, and be destroyed with its state, while its errands are out. Nothing is
// counted for that on the way; the handshake is the state. close() does, in this order:
//   1. It exchanges the inbox for shut(): posts from now on fail.
//   2. It discards what the inbox and the ready queues hold, errands among it (of(), discard()).
//   3. drop_errands(): each one that is out is dropped by an exchange; the executor's thread frees it when it gets
//      to it, without a look at the loop. One that is returning is between its exchange and the end of its post,
//      which is going to fail: the loop waits until it is stranded, a few instructions, and frees it.
//   4. It waits until LoopState::posters is zero: nobody is about to unpark.
// After that no thread of an executor touches the loop, its state or its parker.
#pragma once

#include <cstdint>
#include <string>

#include <ouro/runtime/config.hpp>
#include <ouro/runtime/detail/atomic.hpp>
#include <ouro/runtime/detail/core.hpp>

namespace ouro::detail {

class OURO_EXPORT Errand : public FrameHeader, public ReadyNode, public Waitee {
 public:
  Errand(LoopState& home, FutureState& future) noexcept
      : FrameHeader{&Errand::returned, nullptr},
        ReadyNode{nullptr, static_cast<FrameHeader*>(this)},
        Waitee(errand_kind),
        home_(&home),
        future_(&future) {}

  // Sets out: the future names it as what it waits for, and gets a reference. The loop's thread.
  void set_out() noexcept;
  // The future was cancelled. The loop's thread.
  bool given_up(FutureState& future) noexcept;

  // Lets go of the future without telling it, and frees the errand: no other thread has seen it yet, or it came back to
  // a loop that closes. The loop's thread.
  void discard() noexcept;

  // The loop closes; its inbox is shut, and empty. The loop's thread; the errand is not the loop's afterwards.
  void drop() noexcept;

  // The errand behind an entry of a ready queue, or nullptr if it is something else.
  static Errand* of(ReadyNode& node) noexcept;

 protected:
  virtual ~Errand() = default;

  // False if it has been dropped: then nobody wants the work, and who asks frees it with release(). The executor's
  // thread.
  bool wanted() const noexcept {
    return state_.load(std::memory_order_acquire) != State::dropped;  // pairs with the release in let_go()
  }
  // Sends it home, or frees it if nobody is there; it is gone then. The executor's thread.
  void come_back() noexcept;

  virtual void deliver(FutureState& future) noexcept = 0;  // the loop's thread; the future is pending
  virtual void release() noexcept = 0;                     // destroys and frees
  // The loop has no more use for it: lets go of what it waits for, and with `cancelled`, because its future was, tells
  // it so. That may bring it back at once. The loop's thread.
  virtual void leave_source(bool /*cancelled*/) noexcept {}

  bool cancelled_ = false;  // the work was given up: set before come_back()

 private:
  friend void prefetch_before(const ReadyNode& node) noexcept;
  enum class State : std::uint8_t { out, returning, dropped, stranded };

  static const WaiteeKind errand_kind;
  static void returned(void* leaf);
  // The loop has no use for it any more. False if it is on its way back.
  bool let_go(bool cancelled) noexcept;

  Atomic<State> state_{State::out};
  // What its thread sent home three and eight errands ago: hints, never followed.
  const void* before_[2] = {};
  LoopState* home_;
  FutureState* future_;  // one reference; the loop's thread only
};

// For whoever walks a chain of posted nodes, each of which lies in the cache of the processor that posted it: fetches
// what will be met some nodes later, if the node is an errand.
void prefetch_before(const ReadyNode& node) noexcept;

// Lets go of all errands of a loop: for its close(), when the inbox is shut and what was in it has been discarded.
// Waits for those that are in the middle of coming back, which is a matter of instructions.
OURO_EXPORT void drop_errands(LoopState& loop) noexcept;

}  // namespace ouro::detail
