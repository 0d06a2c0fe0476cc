// A timer by which something else than a sleep ends: it calls a function of the library on the loop where it was armed.
//
// It belongs to a wait, or to a scope in a coroutine's frame, and to a task. What is called makes tasks ready or
// cancels them, and runs nothing of the user's; so it is called in the middle of the loop's look at its timers, in
// their order.
//
// Who may touch the node. A wheel is its loop's, and only that loop's thread may change what is linked in it. A task of
// a single loop, or one that is pinned, arms and disarms on one thread: the node lies in the frame, and nothing is
// atomic. A floating task may come to its end on another worker while its timer hangs in the wheel where it was armed.
// So there the node is allocated, and one word decides between the two threads:
//   armed -> firing    by the loop, when the time has come; the function is called, then the word becomes `fired`
//   armed -> left      by the task, when it needs the timer no more
// The task that finds `firing` waits for `fired`: for as long as the function runs, which waits for nobody. So when
// disarm() has returned the function does not run any more, and never will; and it only runs while the task is inside.
// A node that was left on another worker is put into that worker's list of such (under a lock), which the worker
// empties when it arms a timer the next time, meets one of them in its wheel, or ends. Nobody is woken for it: a loop
// that sleeps arms nothing meanwhile, so no more nodes lie about than it had armed.
#pragma once

#include <cstdint>

#include <ouro/runtime/clock.hpp>
#include <ouro/runtime/config.hpp>
#include <ouro/runtime/detail/atomic.hpp>
#include <ouro/runtime/detail/core.hpp>
#include <ouro/runtime/detail/timer_node.hpp>

namespace ouro::detail {

class OURO_EXPORT LoopTimer {
 public:
  using Fire = void (*)(void* owner) noexcept;

  LoopTimer() noexcept {}
  LoopTimer(const LoopTimer&) = delete;
  ~LoopTimer() {
    if (OURO_UNLIKELY(node_ != nullptr)) static_cast<void>(disarm());
  }

  // Calls fire(owner) at `deadline`, in the next look if that has passed.
  // `moves`: it may be disarmed on another thread of the group, though the task is pinned.
  // Threads: the one that runs `task`. Requires: it is not armed. Throws: std::bad_alloc for one that may move.
  void arm(FutureState& task, TimePoint deadline, Fire fire, void* owner, bool moves = false);
  // True: it has not fired, and will not. False: it has, and fire() has returned.
  // Threads: the one that runs the task. Requires: armed.
  bool disarm() noexcept;

  bool armed() const noexcept { return node_ != nullptr; }
  // Whether the function has been called, or is about to be.
  bool has_fired() const noexcept {
    return node_ && node_->state.load(std::memory_order_acquire) >= Node::firing;  // pairs with the stores in expire()
  }

  struct Node : TimerNode {
    enum State : std::uint8_t { waiting, left, firing, fired };

    void (*call)(void*) noexcept;
    void* owner;
    LoopState* home;
    Node* next_left;
    Atomic<State> state{waiting};
    bool shared;
  };
  // The loop's: the node's time has come, and it is out of the wheel.
  static void expire(TimerNode& timer) noexcept;

 private:
  Node own_;
  Node* node_ = nullptr;  // the one that is armed
};

}  // namespace ouro::detail
