// The end of a run, and SIGINT.
//
// SIGINT. The handler counts, and has the loop look (raise_interrupt is async-signal-safe); everything else happens on
// the loop's thread: the first signal cancels the main task, the second throws KeyboardInterrupt out of run_forever.
// Only one runner handles it at a time, on the main thread, and only if nobody else does.
#include <ouro/io/runners.hpp>

#include <pthread.h>

#include <atomic>
#include <csignal>
#include <optional>
#include <string>
#include <vector>

#include <ouro/io/policies.hpp>
#include <ouro/io/processors.hpp>
#include <ouro/runtime/events.hpp>
#include <ouro/runtime/futures.hpp>
#include <ouro/runtime/generators.hpp>
#include <ouro/runtime/shutdown.hpp>

#include "crew.hpp"

namespace ouro {
namespace {

// Written by the main thread, read by the handler that interrupts it or runs on another thread: the loop to wake, and
// how often SIGINT came. Sequentially consistent, for they are rare.
std::atomic<BaseEventLoop*> interrupted_loop{nullptr};
std::atomic<int> interrupts{0};
std::atomic<int> handlers_at_work{0};

void on_sigint(int) {
  handlers_at_work.fetch_add(1);
  if (BaseEventLoop* loop = interrupted_loop.load()) {
    interrupts.fetch_add(1);
    loop->raise_interrupt();
  }
  handlers_at_work.fetch_sub(1);
}

// A process that was forked inside a run is not part of it: SIGINT ends it, or the run that it begins itself.
void watch_forks() {
  static const int watched = ::pthread_atfork(nullptr, nullptr, [] {
    handlers_at_work.store(0);
    if (interrupted_loop.exchange(nullptr)) ::signal(SIGINT, SIG_DFL);
  });
  static_cast<void>(watched);
}

// Handles SIGINT for the time of one run.
class Interruptible {
 public:
  Interruptible(BaseEventLoop& loop, detail::FutureState& task) : loop_(loop) {
    struct sigaction current{};
    if (!detail::is_main_thread() || interrupted_loop.load() || ::sigaction(SIGINT, nullptr, &current) != 0 ||
        (current.sa_flags & SA_SIGINFO) != 0 || current.sa_handler != SIG_DFL) {
      return;
    }
    watch_forks();
    interrupts.store(0);
    interrupted_loop.store(&loop);
    loop.set_interrupt_handler([this, &task] {
      const int came = interrupts.load();
      if (came > 0 && !cancelled_ && !task.done()) {
        cancelled_ = true;
        detail::cancel(task, std::string());
      }
      if (came > 1) throw KeyboardInterrupt();
    });
    struct sigaction ours{};
    ours.sa_handler = &on_sigint;
    ::sigemptyset(&ours.sa_mask);
    installed_ = ::sigaction(SIGINT, &ours, &before_) == 0;
  }

  ~Interruptible() {
    if (interrupted_loop.load() != &loop_) return;
    if (installed_) ::sigaction(SIGINT, &before_, nullptr);
    interrupted_loop.store(nullptr);
    while (handlers_at_work.load() != 0) {
    }
    loop_.set_interrupt_handler(nullptr);
  }

  bool cancelled() const noexcept { return cancelled_; }

 private:
  BaseEventLoop& loop_;
  bool installed_ = false;
  bool cancelled_ = false;
  struct sigaction before_{};
};

// A main task that SIGINT has cancelled: the run ends with KeyboardInterrupt.
void rethrow_interrupt(bool cancelled_by_it, detail::FutureState& task) {
  if (!cancelled_by_it || !task.cancelled()) return;
  detail::add_ref(task);
  if (AnyTask(detail::FutureHandle(task)).uncancel() == 0) throw KeyboardInterrupt();
}

Coroutine<> await_all(std::vector<AnyTask> tasks) {
  for (const AnyTask& task : tasks) co_await detail::CompletionAwaiter(task.handle());
}

}  // namespace

void detail::report_failures(EventLoop& loop, const std::vector<AnyTask>& tasks) {
  for (const AnyTask& task : tasks) {
    if (!task.done() || task.cancelled()) continue;
    if (std::exception_ptr exception = task.exception()) {
      ExceptionContext context;
      context.message = "unhandled exception during run() shutdown";
      context.exception = std::move(exception);
      context.task = task.get_name();
      context.created = task.created();
      loop.call_exception_handler(context);
    }
  }
}

Runner::Runner(RunOptions options) : options_(options) {
  if (options_.workers == 0) options_.workers = static_cast<unsigned>(process_cpu_count());
  if (options_.workers > detail::most_workers) {
    throw ValueError("run: " + std::to_string(options_.workers) + " workers: a group has 48 at most");
  }
}

Runner::~Runner() {
  try {
    close();
  } catch (...) {
    if (loop_) {
      ExceptionContext context;
      context.message = "unhandled exception while a Runner was closed";
      context.exception = std::current_exception();
      loop_->call_exception_handler(context);
    }
  }
}

void Runner::check_usable() const {
  if (closed_) throw RuntimeError("Runner is closed");
  if (detail::running_state()) throw RuntimeError("run() cannot be called from a running event loop");
}

EventLoop& Runner::get_loop() {
  if (closed_) throw RuntimeError("Runner is closed");
  if (!loop_) {
    std::unique_ptr<EventLoop> made = detail::make_worker_loop(options_);
    if (options_.workers != 1) crew_ = std::make_unique<Crew>(options_, *made);
    loop_ = std::move(made);
    if (!options_.loop_factory) set_event_loop(loop_.get());
  }
  return *loop_;
}

// Who never sets a variable gets no context. What is set on this thread after the first run is not the runner's.
const Context* Runner::own_context() {
  if (!context_ && has_run_ && detail::contexts_in_use()) context_.emplace();
  return context_ ? &*context_ : nullptr;
}

void Runner::keep_context(detail::FutureState& task) noexcept {
  if (std::exchange(has_run_, true) || context_ || !detail::contexts_in_use()) return;
  try {
    context_.emplace(detail::cell_of_task(task));
  } catch (...) {
    // Without memory the next run begins with an empty one.
  }
}

void Runner::run_main(detail::FutureState& task) {
  Interruptible interruptible(*loop_, task);
  loop_->run_until_done(task);
  rethrow_interrupt(interruptible.cancelled(), task);
}

void Runner::run_main_on_crew(detail::FutureState& task, void (*schedule)(void* context), void* context) {
  const Crew::Running running(*crew_);
  Interruptible interruptible(*loop_, task);
  detail::set_main(*detail::group_of(*loop_), &task);
  schedule(context);
  loop_->run_until_done(task);
  rethrow_interrupt(interruptible.cancelled(), task);
}

void Runner::cancel_all_tasks() {
  if (crew_) return crew_->cancel_all_tasks(*loop_);
  std::vector<AnyTask> tasks = all_tasks(*loop_);
  if (tasks.empty()) return;
  for (AnyTask& task : tasks) task.cancel();
  loop_->run_until_complete(await_all(tasks));
  detail::report_failures(*loop_, tasks);
}

void Runner::close() {
  if (closed_) return;
  if (loop_ && loop_->is_running()) throw RuntimeError("Cannot close a Runner whose loop is running");
  closed_ = true;
  if (!loop_) return;
  struct Close {
    Runner& runner;
    ~Close() {
      EventLoop& loop = *runner.loop_;
      try {
        if (runner.crew_) runner.crew_->leave();
        loop.close();
        if (!runner.options_.loop_factory) set_event_loop(nullptr);
      } catch (...) {
        ExceptionContext context;
        context.message = "unhandled exception at the end of run()";
        context.exception = std::current_exception();
        loop.call_exception_handler(context);
      }
    }
  } last{*this};
  if (loop_->is_closed()) return;
  std::optional<Crew::Running> running;
  if (crew_) running.emplace(*crew_);
  cancel_all_tasks();
  loop_->run_until_complete(shutdown_asyncgens(*loop_));
  loop_->run_until_complete(shutdown_default_executor(*loop_, std::chrono::seconds(300)));
}

}  // namespace ouro
