#include "crew.hpp"

#include <pthread.h>

#include <algorithm>
#include <chrono>
#include <iterator>
#include <string>
#include <unordered_set>
#include <utility>

#include <ouro/io/policies.hpp>
#include <ouro/io/processors.hpp>
#include <ouro/runtime/events.hpp>
#include <ouro/runtime/sleep.hpp>
#include <ouro/runtime/tasks.hpp>

namespace ouro {

namespace detail {

std::unique_ptr<EventLoop> make_worker_loop(const RunOptions& options) {
  std::unique_ptr<EventLoop> loop = options.loop_factory ? options.loop_factory() : new_event_loop();
  if (!loop) throw RuntimeError("the loop factory gave no loop");
  loop->parker().poll();
  if (options.debug) loop->set_debug(*options.debug);
  if (options.spin) loop->set_spin(*options.spin);
  return loop;
}

}  // namespace detail

Runner::Crew::Crew(const RunOptions& options, EventLoop& first)
    : options_(options), first_(first), group_(detail::make_group(options.workers)) {
  detail::join_group(*group_, first);
  if (options.pin_to_cores && ::pthread_getaffinity_np(::pthread_self(), sizeof before_, &before_) == 0) {
    for (int i = 0; i < CPU_SETSIZE; ++i) {
      if (CPU_ISSET(static_cast<unsigned>(i), &before_)) processors_.push_back(static_cast<unsigned>(i));
    }
  }
  try {
    for (unsigned i = 1; i < options.workers && !error_; ++i) {
      threads_.emplace_back([this, i] { work(i); });
      made_.acquire();
    }
  } catch (...) {
    error_ = std::current_exception();
  }
  if (error_) {
    dismiss();
    std::rethrow_exception(error_);
  }
  pin(0);
  stopped_ = std::make_unique<std::latch>(static_cast<std::ptrdiff_t>(threads_.size()));
  started_ = std::make_unique<std::latch>(static_cast<std::ptrdiff_t>(threads_.size()));
  emptied_ = std::make_unique<std::latch>(static_cast<std::ptrdiff_t>(threads_.size()));
  go_.count_down();
  started_->wait();
}

Runner::Crew::~Crew() { OURO_ASSERT(left_ || dismissed_); }

// Not all loops could be made.
void Runner::Crew::dismiss() noexcept {
  dismissed_ = true;
  go_.count_down();
  detail::end_group(*group_);
  buried_.count_down();
  for (std::thread& thread : threads_) thread.join();
}

void Runner::Crew::pin(unsigned index) noexcept {
  if (processors_.empty()) return;
  cpu_set_t one;
  CPU_ZERO(&one);
  CPU_SET(processors_[index % processors_.size()], &one);
  ::pthread_setaffinity_np(::pthread_self(), sizeof one, &one);
}

void Runner::Crew::work(unsigned index) {
  std::unique_ptr<EventLoop> loop;
  bool started = false;
  try {
    pin(index);
    ::pthread_setname_np(::pthread_self(), ("ouro-" + std::to_string(index)).c_str());
    loop = detail::make_worker_loop(options_);
    if (!options_.loop_factory) set_event_loop(loop.get());
    loop->call_soon([this, &started] {
      started = true;
      started_->count_down();
    });
    detail::join_group(*group_, *loop);
  } catch (...) {
    error_ = std::current_exception();
    loop.reset();
  }
  made_.release();
  go_.wait();
  if (!loop) return;
  if (!dismissed_) {
    detail::let_run(*loop, true);
    run(*loop);
    if (!started) started_->count_down();  // it threw at once
    stopped_->count_down();
  }
  buried_.wait();
  try {
    loop->close();
    detail::end_network(*loop);
    if (!options_.loop_factory) set_event_loop(nullptr);
  } catch (...) {
    ExceptionContext context;
    context.message = "unhandled exception at the end of a worker";
    context.exception = std::current_exception();
    loop->call_exception_handler(context);
  }
  // What the program destroys with a loop may know connections, tasks and callbacks of any other one.
  if (!dismissed_) emptied_->arrive_and_wait();
}

void Runner::Crew::run(EventLoop& loop) noexcept {
  for (;;) {
    std::exception_ptr thrown;
    bool goes_on = false;
    try {
      loop.run_forever();
      return;
    } catch (const KeyboardInterrupt&) {
      thrown = std::current_exception();
      goes_on = true;
    } catch (...) {
      thrown = std::current_exception();
      broken_.store(true);
    }
    try {
      const unsigned number = run_number_.load(std::memory_order_relaxed);
      first_.call_soon_threadsafe([this, thrown, number] {
        if (run_number_.load(std::memory_order_relaxed) == number) first_.interrupt_with(thrown);
      });
    } catch (...) {
      broken_.store(true);  // the first loop is closed, or there is no memory: the run ends anyway
    }
    if (!goes_on) return;
  }
}

namespace {

Coroutine<> cancel_until_none(detail::WorkerGroup& group, EventLoop& first) {
  std::vector<AnyTask> met;  // keeps them, so that no address comes twice
  std::unordered_set<const void*> known;
  const AnyTask self = current_task();
  std::chrono::microseconds pause(50);
  // This task is unfinished itself.
  while (detail::unfinished(group) > 1) {
    std::vector<AnyTask> fresh;
    for (AnyTask& task : all_tasks(first)) {
      if (task != self && known.insert(&task.handle().state()).second) fresh.push_back(std::move(task));
    }
    for (AnyTask& task : fresh) task.cancel();
    for (const AnyTask& task : fresh) co_await detail::CompletionAwaiter(task.handle());
    if (fresh.empty()) {
      co_await sleep(pause);
      pause = std::min(2 * pause, std::chrono::microseconds(1000));
    }
    met.insert(met.end(), std::make_move_iterator(fresh.begin()), std::make_move_iterator(fresh.end()));
  }
  detail::report_failures(first, met);
}

}  // namespace

void Runner::Crew::cancel_all_tasks(EventLoop& first) {
  if (broken_.load()) return;  // its tasks would never end
  detail::cancel_unstarted(*group_);
  if (detail::unfinished(*group_) != 0) first.run_until_complete(cancel_until_none(*group_, first));
}

void Runner::Crew::leave() noexcept {
  if (std::exchange(left_, true)) return;
  for (unsigned i = 1; i < detail::size_of(*group_); ++i) {
    BaseEventLoop& loop = detail::worker_of(*group_, i);
    try {
      loop.call_soon_threadsafe([&loop] { loop.end_run(); });
    } catch (...) {
      std::terminate();  // no memory for a callback: the thread cannot be reached
    }
  }
  stopped_->wait();
  detail::end_group(*group_);
  buried_.count_down();
  for (std::thread& thread : threads_) thread.join();
  if (!processors_.empty()) ::pthread_setaffinity_np(::pthread_self(), sizeof before_, &before_);
}

std::vector<EventLoop*> workers() {
  EventLoop& loop = get_running_loop();
  detail::WorkerGroup* group = detail::group_of(loop);
  if (!group) return {&loop};
  std::vector<EventLoop*> loops;
  for (unsigned i = 0; i < detail::size_of(*group); ++i) {
    loops.push_back(&static_cast<EventLoop&>(detail::worker_of(*group, i)));
  }
  return loops;
}

EventLoop& current_loop() { return get_running_loop(); }

}  // namespace ouro
