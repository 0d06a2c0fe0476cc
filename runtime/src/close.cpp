// The end of a loop: what was queued is dropped, what is suspended is buried, what is out in executors is let go of.
//
// The order matters. The inbox is shut first, so that nothing arrives any more. Callbacks go before tasks, for they may
// hold handles to them; and once more after them, for the destructors of tasks may have scheduled some (which throws by
// then) or have come to the ready queue by other ways. Generators follow, then the errands, then the executor.
#include <exception>
#include <memory>
#include <string>
#include <utility>

#include <ouro/runtime/base_event_loop.hpp>
#include <ouro/runtime/detail/errand.hpp>
#include <ouro/runtime/detail/gather_state.hpp>
#include <ouro/runtime/detail/generator_state.hpp>
#include <ouro/runtime/detail/loop_event.hpp>
#include <ouro/runtime/exceptions.hpp>

#include "drive.hpp"
#include "shared.hpp"
#include "timer_wheel.hpp"
#include "worker.hpp"

namespace ouro {

namespace {

// A callback, an errand that came back, or the frame of a task that ended, which is let go of; tasks and gathers are
// buried elsewhere.
void let_go(detail::ReadyNode& node) noexcept {
  auto* header = static_cast<detail::FrameHeader*>(node.leaf);
  if (detail::CallbackNode::is_one(*header)) {
    static_cast<detail::CallbackNode*>(header)->abandon();
  } else if (detail::Errand* errand = detail::Errand::of(node)) {
    errand->discard();
  } else if (detail::LoopEvent* event = detail::LoopEvent::of(node)) {
    event->drop();
  } else {
    detail::discard_ended(node);
  }
}

}  // namespace

void BaseEventLoop::drop_callbacks() noexcept {
  for (detail::ReadyQueue* queue : {&state_->batch, &state_->ready, &events_, &due_, &injected_}) {
    while (!queue->empty()) let_go(*queue->pop_front());
  }
  while (detail::TimerNode* timer = state_->timers->pop_any()) {
    if (timer->kind == detail::timer_of_callback) let_go(*timer->target);
  }
}

void BaseEventLoop::forget_queues() noexcept {
  take_inbox(state_->inbox.exchange(nullptr, std::memory_order_acquire));
  drop_callbacks();
}

void BaseEventLoop::destroy_tasks() noexcept {
  std::size_t pending = 0;
  ExceptionContext context;
  for (detail::FutureState* task = state_->tasks; task; task = task->link.next) {
    ++pending;
    if (!task->link.next) {
      try {
        context.task = detail::name_of(*task);
        context.created = task->created;
      } catch (...) {
        context.task.clear();
      }
    }
  }
  if (pending != 0) {
    try {
      context.message = pending == 1
                            ? "Task was destroyed but it is pending!"
                            : std::to_string(pending) + " tasks were destroyed but they are pending! The first:";
    } catch (...) {
      context.message.clear();
    }
    call_exception_handler(context);
  }
  while (detail::FutureState* task = state_->tasks) {
    state_->tasks = task->link.next;
    task->clear(detail::flag_linked);
    detail::bury(*state_, *task);
  }
}

void BaseEventLoop::close() {
  if (state_->worker && !state_->worker->group.ending) {
    throw RuntimeError("close() on a loop in a group", "the group's loops end together, when run() ends");
  }
  if (is_running())
    throw RuntimeError("Cannot close a running event loop", "stop() it, and close it when run_* has returned");
  if (state_->inbox.load(std::memory_order_relaxed) == detail::shut()) return;
  state_->closed = true;
  state_->closing = true;
  detail::update_special(*state_);
  detail::LoopState* outer = detail::set_running_state(nullptr);
  take_inbox(state_->inbox.exchange(detail::shut(), std::memory_order_acquire));
  drop_callbacks();
  destroy_tasks();
  drop_callbacks();
  detail::drop_asyncgens(*state_);
  detail::drop_errands(*state_);
  if (std::shared_ptr<Executor> executor = std::exchange(executor_, nullptr)) {
    try {
      executor->shutdown(false, false);
    } catch (...) {
      ExceptionContext context;
      context.message = "the executor could not be shut down";
      context.exception = std::current_exception();
      call_exception_handler(context);
    }
  }
  executor_shut_down_ = true;
  state_->closing = false;
  detail::set_running_state(outer);
}

}  // namespace ouro
