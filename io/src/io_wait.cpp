#include <ouro/io/detail/io_wait.hpp>

#include <cerrno>
#include <string>

#include <ouro/io/errors.hpp>
#include <ouro/io/event_loop.hpp>
#include <ouro/runtime/detail/worker_group.hpp>
#include <ouro/runtime/exceptions.hpp>

#include "proactor.hpp"

namespace ouro::detail {

namespace {

Proactor& proactor_for(const LoopState& home, const BaseEventLoop* asked, const char* operation) {
  Proactor* proactor = home.event_loop ? proactor_of(*home.event_loop) : nullptr;
  if (OURO_UNLIKELY(!proactor)) {
    throw RuntimeError(std::string(operation) + " on a loop without a ring",
                       "run it on an EventLoop, which sleeps in io_uring");
  }
  if (OURO_LIKELY(!asked || asked == home.loop)) return *proactor;
  const WorkerGroup* group = group_of(*asked);
  if (!group || group != group_of(*home.loop)) {
    throw RuntimeError(std::string(operation) + " of a loop that does not run this task",
                       "call it on get_running_loop()");
  }
  return *proactor;
}

}  // namespace

const WaiteeKind IoWait::io_kind{
    [](Waitee& self, FutureState&, const std::string&) noexcept { return static_cast<IoWait&>(self).ask_to_end(); },
    nullptr, nullptr, "I/O"};

void IoWait::suspend(FutureState& task, void* leaf, std::source_location where) {
  task.leaf = leaf;
  task_ = &task;
  if (OURO_UNLIKELY(task.has(flag_shared))) settle_here(task);
  Proactor& proactor = proactor_for(*task.home, loop_, name_);
  // A cancellation that is due comes before the operation has begun.
  if (OURO_UNLIKELY(task.has(flag_must_cancel))) return wake(task);
  begin(proactor);
  proactor_ = &proactor;
  kind = &io_kind;
  site = where;
  begin_wait(task, *this);
  // One that came meanwhile, from another worker.
  if (OURO_UNLIKELY(task.has(flag_must_cancel))) {
    task.clear(flag_must_cancel);
    ask_to_end();
  }
}

bool IoWait::ask_to_end() noexcept {
  if (!in_flight()) return false;
  asked_ = true;
  proactor_->cancel(*this);
  return true;
}

// Tries again after EAGAIN, or goes on with what is left. False: it has ended, with result_.
bool IoWait::go_on() noexcept {
  try {
    if (polls_) {
      proactor_->poll_add(*this, fd_, ready_mask_);
    } else {
      begin(*proactor_);
    }
    return true;
  } catch (const OSError& error) {
    result_ = -error.errno_value();
  } catch (...) {
    result_ = -ENOMEM;
  }
  return false;
}

void IoWait::complete(int result, unsigned flags) noexcept {
  static_cast<void>(flags);  // none of these brings several CQEs
  result_ = result;
  // A thread of the kernel's that waited in the call was broken off: by the cancel, or by something that is not ours.
  if (OURO_UNLIKELY(result == -EINTR)) {
    if (!asked_ && go_on()) return;
    if (asked_) result_ = -ECANCELED;
  } else if (polls_) {
    polls_ = false;
    if (result >= 0) result_ = retry();
    if (result_ == -EAGAIN && !asked_ && go_on()) return;
  } else if (result_ == -EAGAIN && !asked_) {
    polls_ = true;
    if (go_on()) return;
    polls_ = false;
  } else if (result_ >= 0 && !take(result_)) {
    if (asked_) {
      result_ = -ECANCELED;
    } else if (go_on()) {
      return;
    }
  }
  if (asked_ && result_ == -EAGAIN) result_ = -ECANCELED;
  FutureState& task = *task_;
  if (OURO_UNLIKELY(task.home->closing)) return;  // the frame is being destroyed, or will be
  if (OURO_UNLIKELY(asked_)) task.set(result_ == -ECANCELED ? flag_deliver_cancel : flag_must_cancel);
  wake(task);
}

int IoWait::retry() noexcept { return -EAGAIN; }

int IoWait::resume() {
  FutureState& task = *task_;
  if (OURO_UNLIKELY(task.has(flag_shared))) end_shared_wait(task);
  const unsigned due = proactor_ ? flag_deliver_cancel : flag_deliver_cancel | flag_must_cancel;
  if (OURO_UNLIKELY(task.all_flags() & due)) throw_cancelled(task);
  if (OURO_UNLIKELY(result_ < 0)) fail(-result_);
  return result_;
}

std::string IoWait::object() const { return "descriptor " + std::to_string(fd_); }

void IoWait::fail(int error) const { throw_os_error(error, name_, object()); }

void IoWait::finish() noexcept { proactor_->finish(*this); }

}  // namespace ouro::detail
