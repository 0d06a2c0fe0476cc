// What waiting for one of several things has in common, with a time limit or without: wait, shield and as_completed.
//
// A task waits by one WaitCore, and any of several may end its wait: a future, the timer, a cancellation. The first one
// wins, and makes the task ready; the others find it over. In a group they are on several threads, so the word that
// decides is exchanged there. And a future that was done elsewhere may be about to tell a node that lies in the task's
// frame: so who gives up a node waits for it (`drop()`), for the few instructions that telling takes.
#pragma once

#include <coroutine>
#include <cstdint>
#include <source_location>

#include <ouro/runtime/config.hpp>
#include <ouro/runtime/detail/atomic.hpp>
#include <ouro/runtime/detail/core.hpp>
#include <ouro/runtime/detail/loop_timer.hpp>

namespace ouro::detail {

// One of the futures that something waits for. Its owner keeps a handle to it.
struct OURO_EXPORT WaitNode : Waiter {
  // What the future's end means for the owner; called wherever it was completed.
  using Heard = void (*)(WaitNode& self, FutureState& done) noexcept;

  WaitNode() noexcept : Waiter{nullptr, nullptr, nullptr} {}
  WaitNode(const WaitNode&) = delete;

  // Hears of `of` from now on. False: it is done.
  bool link(FutureState& of, Heard what) noexcept;
  // Hears of it no more, and is not touched by anybody else afterwards.
  void drop() noexcept;

  FutureState* future = nullptr;  // while it is linked, or was told
  Heard heard = nullptr;
  void* owner = nullptr;
  std::uint32_t index = 0;
  Atomic<bool> told{false};  // by another thread, maybe: it has touched this for the last time

 private:
  static void notified(Waiter& self, FutureState& done) noexcept;
};

class OURO_EXPORT WaitCore : public Waitee {
 public:
  WaitCore() noexcept {}
  WaitCore(const WaitCore&) noexcept : WaitCore() {}  // before it waits: there is nothing to copy
  ~WaitCore() = default;

  // True: this call ended the wait, and nobody else does; the task resumes after go(). False: it was over.
  bool win() noexcept;
  // The last touch of who has won: the task may resume, and this be gone.
  void go() noexcept { let_go(); }
  void end() noexcept {
    if (win()) go();
  }

 protected:
  // Ends the wait at `deadline`. Before begin(). Throws: std::bad_alloc.
  void limit(FutureState& task, TimePoint deadline) { timer_.arm(task, deadline, &timed_out, this); }
  void limit(FutureState& task, Duration delay);
  // The task waits; but it does not resume before arrive().
  void begin(FutureState& task, void* leaf, std::source_location where, const WaiteeKind& of) noexcept;
  // The last act of await_suspend.
  void arrive() noexcept;

  // The task has resumed: it waits for nothing, and no timer will come.
  void resume() noexcept;
  // Whether CancelledError is due; and throws it.
  bool is_cancelled() const noexcept {
    return task_ && (task_->all_flags() & (flag_must_cancel | flag_deliver_cancel)) != 0;
  }
  [[noreturn]] void throw_it() { throw_cancelled(*task_); }
  bool waited() const noexcept { return task_ != nullptr; }
  // Whether others than the loop's thread may end it.
  bool is_shared() const noexcept { return shared_; }

  static bool cancel(Waitee& self, FutureState& task, const std::string& message) noexcept;

 private:
  static void timed_out(void* self) noexcept { static_cast<WaitCore*>(self)->end(); }
  void let_go() noexcept;

  FutureState* task_ = nullptr;
  LoopTimer timer_;
  Atomic<std::uint32_t> holds_{2};  // one until somebody has won, one until arrive()
  Atomic<bool> over_{false};
  bool shared_ = false;
};

}  // namespace ouro::detail
