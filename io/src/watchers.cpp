#include <ouro/io/detail/watchers.hpp>

#include <poll.h>

#include <cerrno>
#include <exception>
#include <source_location>
#include <string>

#include <ouro/io/detail/operation.hpp>
#include <ouro/io/errors.hpp>
#include <ouro/io/event_loop.hpp>
#include <ouro/runtime/detail/callback_node.hpp>
#include <ouro/runtime/detail/context_state.hpp>
#include <ouro/runtime/exceptions.hpp>

#include "proactor.hpp"

namespace ouro::detail {

// One descriptor, and one of its directions. Its states: asked (the operation is in flight), called (its callback
// stands in the ready queue, or runs), removed (in either of these). It deletes itself when it is removed and idle.
class Watch final : public Operation {
 public:
  Watch(Watchers& owner, int fd, Watchers::For what, std::unique_ptr<WatchCallback> callback)
      : owner_(owner), fd_(fd), what_(what), callback_(std::move(callback)) {}
  ~Watch() { drop_prepared(); }

  // Throws: as Proactor::poll_add.
  void ask() {
    prepare();
    proactor().poll_add(*this, fd_, what_ == Watchers::For::reading ? POLLIN : POLLOUT);
  }

  void replace(std::unique_ptr<WatchCallback> callback) noexcept {
    // What runs stays where it is until it has returned.
    (running_ ? next_callback_ : callback_).swap(callback);
  }

  void remove() noexcept {
    removed_ = true;
    if (running_) return;
    if (in_flight()) {
      later_ = owner_.leaving_;
      if (later_) later_->earlier_ = this;
      owner_.leaving_ = this;
      return proactor().cancel(*this);
    }
    delete this;
  }

  // The loop ends.
  void end() noexcept {
    if (removed_) unlink();
    removed_ = stays_ = true;
    if (in_flight()) proactor().finish(*this);
    delete this;
  }

 private:
  struct Run {
    Watch* watch;
    void operator()() const { watch->run(); }
  };

  Proactor& proactor() const noexcept { return *proactor_of(owner_.loop_); }

  // It leaves those that leave.
  void unlink() noexcept {
    (earlier_ ? earlier_->later_ : owner_.leaving_) = later_;
    if (later_) later_->earlier_ = earlier_;
  }

  // The callback's entry is made beforehand: a completion must not fail.
  void prepare() {
    if (prepared_) return;
    LoopState& state = owner_.loop_.state();
    auto* node = TypedCallbackNode<Run>::make(state, std::source_location(), false, Run{this});
    node->begin_shared();
    prepared_ = node;
  }
  void drop_prepared() noexcept {
    if (!prepared_) return;
    CallbackNode* node = std::exchange(prepared_, nullptr);
    Handle(node).cancel();
    if (!queued_) node->abandon();
  }

  void complete(int result, unsigned) noexcept override {
    if (removed_) {
      if (stays_) return;
      unlink();
      delete this;
      return;
    }
    LoopState& state = owner_.loop_.state();
    if (state.closing || state.closed) return;
    error_ = result < 0 ? -result : 0;
    queued_ = true;
    state.ready.push_back(*prepared_);
  }

  void run() {
    std::exchange(prepared_, nullptr)->drop_ref();
    queued_ = false;
    running_ = true;
    const Again again(*this);
    if (error_ != 0) throw_os_error(error_, "poll", "descriptor " + std::to_string(fd_), "it is watched no more");
    callback_->run();
  }

  // Whatever the callback did.
  struct Again {
    explicit Again(Watch& watch) noexcept : watch_(watch) {}
    Again(const Again&) = delete;
    ~Again() { watch_.ran(); }
    Watch& watch_;
  };
  void ran() noexcept {
    running_ = false;
    if (next_callback_) callback_ = std::move(next_callback_);
    if (!removed_ && error_ == 0) {
      try {
        return ask();
      } catch (...) {
        ExceptionContext context;
        context.exception = std::current_exception();
        owner_.loop_.call_exception_handler(context);
      }
    }
    if (!removed_) owner_.watches_.erase({fd_, what_});
    delete this;
  }

  Watchers& owner_;
  const int fd_;
  const Watchers::For what_;
  std::unique_ptr<WatchCallback> callback_;
  std::unique_ptr<WatchCallback> next_callback_;  // replaced by the one that runs
  Watch* earlier_ = nullptr;                      // among those that leave
  Watch* later_ = nullptr;
  CallbackNode* prepared_ = nullptr;  // one reference, and the loop's until it is queued
  int error_ = 0;
  bool queued_ = false;
  bool running_ = false;
  bool removed_ = false;
  bool stays_ = false;  // whoever ends it deletes it
};

void WatchCallback::run() {
  if (OURO_LIKELY(!context_)) return call();
  const ContextScope scope(word_for(*context_));
  call();
}

Watchers::Watchers(EventLoop& loop) noexcept : loop_(loop) {}

Watchers::~Watchers() {
  for (const auto& [key, watch] : watches_) watch->end();
  while (leaving_) leaving_->end();
}

void Watchers::check_thread() const {
  if (loop_.is_running() && running_state() != &loop_.state()) {
    throw RuntimeError("a descriptor's watch was changed on a thread that does not run its loop",
                       "use call_soon_threadsafe");
  }
}

void Watchers::add(int fd, For what, std::unique_ptr<WatchCallback> callback) {
  check_thread();
  if (loop_.is_closed()) throw RuntimeError("Event loop is closed", "watch descriptors on a loop that is open");
  if (fd < 0) throw ValueError("Invalid file descriptor: " + std::to_string(fd));
  if (!proactor_of(loop_)) throw RuntimeError("add_reader on a loop without a ring", "use an EventLoop of its own");
  const auto found = watches_.find({fd, what});
  if (found != watches_.end()) return found->second->replace(std::move(callback));
  auto watch = std::make_unique<Watch>(*this, fd, what, std::move(callback));
  const auto place = watches_.emplace(std::pair(fd, what), watch.get()).first;
  try {
    watch->ask();
  } catch (...) {
    watches_.erase(place);
    throw;
  }
  static_cast<void>(watch.release());
}

bool Watchers::remove(int fd, For what) {
  check_thread();
  const auto found = watches_.find({fd, what});
  if (found == watches_.end()) return false;
  Watch* const watch = found->second;
  watches_.erase(found);
  watch->remove();
  return true;
}

}  // namespace ouro::detail
