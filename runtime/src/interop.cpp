// The parts of interop that are no templates: the way from a stop request to a task.
#include <ouro/runtime/interop.hpp>

namespace ouro::detail {

void StopLink::request(const std::shared_ptr<StopLink>& self) {
  const std::lock_guard lock(self->mutex_);
  if (!self->loop_) return;
  try {
    self->loop_->call_soon_threadsafe([self] { self->cancel(); });
  } catch (const RuntimeError&) {
    // The loop is closing: it destroys the task.
  }
}

// On a loop's thread; in a group the task may end on another at the same time, and waits for this at the cut. No second
// request comes in from what the cancellation calls: a token is stopped once.
void StopLink::cancel() noexcept {
  const std::lock_guard lock(mutex_);
  if (task_) detail::cancel(*task_, "stop was requested");
}

void StopLink::cut() noexcept {
  const std::lock_guard lock(mutex_);
  task_ = nullptr;
  loop_ = nullptr;
}

StopScope::StopScope(const std::stop_token& token, FutureState& task)
    : loop_(require_running()),
      remote_(token.stop_possible() ? 1 : 0),
      link_(std::make_shared<StopLink>(task, *loop_.loop)),
      callback_(token, Call{link_}) {
  loop_.remote_tasks.fetch_add(remote_, std::memory_order_relaxed);
}

StopScope::~StopScope() {
  link_->cut();
  loop_.remote_tasks.fetch_sub(remote_, std::memory_order_relaxed);
}

void throw_stopped() { throw CancelledError("stop was requested"); }

void throw_no_state() { throw ValueError("wrap_future: the std::future has no state; each can be wrapped once"); }

}  // namespace ouro::detail
