// What a loop hands out for its callbacks, and what it says when something went wrong where nobody could catch it.
#pragma once

#include <exception>
#include <source_location>
#include <string>
#include <utility>

#include <ouro/runtime/clock.hpp>
#include <ouro/runtime/config.hpp>
#include <ouro/runtime/detail/callback_node.hpp>

namespace ouro {

class Context;

// An error that had no caller to go to, as an exception handler receives it.
struct ExceptionContext {
  std::string message;           // what happened, in asyncio's words
  std::exception_ptr exception;  // nullptr if there is none
  std::string task;              // the name of the task that it concerns, or empty
  std::source_location created;  // where the task, future or callback was made; line() is 0 where that is unknown
};

// A scheduled callback. Dropping it changes nothing; cancel() calls the callback off.
// Threads: the loop's; one from call_soon_threadsafe may be used on any.
class OURO_EXPORT Handle {
 public:
  Handle() noexcept = default;
  // For the library: takes over one reference.
  explicit Handle(detail::CallbackNode* node) noexcept : node_(node) {}
  Handle(const Handle& other) noexcept : node_(other.node_) {
    if (node_) node_->add_ref();
  }
  Handle(Handle&& other) noexcept : node_(std::exchange(other.node_, nullptr)) {}
  Handle& operator=(Handle other) noexcept {
    std::swap(node_, other.node_);
    return *this;
  }
  ~Handle() {
    if (node_) node_->drop_ref();
  }

  // The callback will not run, and what it captured is destroyed now. Does nothing if it has run or was cancelled.
  void cancel() noexcept {
    if (node_) node_->cancel();
  }
  bool cancelled() const noexcept { return node_ && node_->is_cancelled(); }

  // The context that the callback runs in; a new one if that is empty. Throws: std::bad_alloc.
  Context get_context() const;

  friend bool operator==(const Handle& a, const Handle& b) noexcept { return a.node_ == b.node_; }

 protected:
  detail::CallbackNode* node_ = nullptr;
};

// A callback scheduled for a time.
class OURO_EXPORT TimerHandle : public Handle {
 public:
  using Handle::Handle;

  // The time on the loop's clock; also after it fired or was cancelled.
  TimePoint when() const noexcept { return node_ ? node_->when : TimePoint{}; }
};

}  // namespace ouro
