// Scopes with a deadline.
#include <ouro/runtime/timeouts.hpp>

#include <cxxabi.h>

#include <exception>
#include <string>
#include <typeinfo>

#include "shared.hpp"

namespace ouro {

namespace {

// A cancellation was asked for, of which the task has not heard.
bool is_cancel_due(const detail::FutureState& task) noexcept {
  return task.has(detail::flag_must_cancel) ||
         (__atomic_load_n(&task.cancel_word, __ATOMIC_RELAXED) & detail::word_due) != 0;
}

}  // namespace

Timeout::~Timeout() {
  // The frame goes: nobody takes the request back, for the task goes too.
  if (timer_.armed()) static_cast<void>(timer_.disarm());
}

std::optional<TimePoint> Timeout::when() const noexcept {
  if (kind_ == Kind::never) return std::nullopt;
  return when_;
}

void Timeout::fire(void* self) noexcept { detail::cancel(*static_cast<Timeout*>(self)->task_, std::string()); }

void Timeout::arm(TimePoint when) {
  // A floating task might go on elsewhere before this worker's timers had their turn.
  if ((at_once_ || task_->floating()) && when <= detail::home_of(*task_).clock->now()) {
    past_ = true;
    return fire(this);
  }
  timer_.arm(*task_, when, &fire, this);
}

void Timeout::enter(detail::FutureState& task) {
  if (task.floating()) detail::publish(task);  // who is to cancel it must find it
  task_ = &task;
  // The task is yet to hear of a request from before: that one's CancelledError will not be this scope's.
  requests_ = static_cast<int>(task.cancel_requests()) - (is_cancel_due(task) ? 1 : 0);
  state_ = State::active;
  if (kind_ == Kind::never) return;
  if (kind_ == Kind::after) {
    when_ = detail::saturating_add(detail::home_of(task).clock->now(), when_.time_since_epoch());
    kind_ = Kind::at;
  }
  arm(when_);
}

bool Timeout::leave() noexcept {
  if (state_ != State::active) return false;
  const bool in_time = (!timer_.armed() || timer_.disarm()) && !past_;
  state_ = in_time ? State::finished : State::expired;
  return !in_time && static_cast<int>(detail::take_request_back(*task_)) <= requests_;
}

void Timeout::reschedule(std::optional<TimePoint> when) {
  const char* why = state_ == State::created ? "created" : state_ == State::finished ? "finished" : "expired";
  if (state_ == State::active) {
    if (!past_ && (!timer_.armed() || timer_.disarm())) {
      why = nullptr;
    } else {
      past_ = true;  // it may have been the timer, which is gone
      why = "expiring";
    }
  }
  if (why) throw RuntimeError(std::string("Cannot change state of ") + why + " Timeout");
  kind_ = when ? Kind::at : Kind::never;
  if (!when) return;
  when_ = *when;
  arm(when_);
}

namespace detail {

void throw_timeout() { std::throw_with_nested(TimeoutError("the deadline has passed")); }
void throw_timeout_unstarted() { throw TimeoutError("the deadline has passed"); }

bool is_cancellation_in_flight() noexcept {
  const std::type_info* type = abi::__cxa_current_exception_type();
  return type && *type == typeid(CancelledError);
}

void drop_unstarted(FutureState* coroutine) noexcept {
  if (!coroutine) return;
  coroutine->set(flag_task);  // as a task that was cancelled before it ran: nobody forgot to await it
  destroy_unstarted(*coroutine);
}

}  // namespace detail
}  // namespace ouro
