// run and Runner: a loop from its making to its orderly end.
#pragma once

#include <chrono>
#include <memory>
#include <optional>
#include <type_traits>
#include <utility>
#include <vector>

#include <ouro/io/event_loop.hpp>
#include <ouro/runtime/contextvars.hpp>
#include <ouro/runtime/coroutine.hpp>
#include <ouro/runtime/detail/worker_group.hpp>
#include <ouro/runtime/exceptions.hpp>
#include <ouro/runtime/tasks.hpp>

namespace ouro {

struct RunOptions {
  // How many loops share the work, each on a thread of its own, the first on the calling one; 0: as many as processors
  // that the process may use (process_cpu_count()). With one, everything is asyncio as it is known.
  unsigned workers = 1;
  bool pin_to_cores = false;                 // each worker stays on one of the processors on which the thread may run
  std::optional<bool> debug = std::nullopt;  // default: as the environment says (OURO_DEBUG)
  std::unique_ptr<EventLoop> (*loop_factory)() = nullptr;       // default: the policy's new_event_loop()
  std::optional<std::chrono::nanoseconds> spin = std::nullopt;  // how long the loop looks for work before it sleeps
};

// Several runs on one loop, and its end.
//
// The loop is made by the first use. On the main thread SIGINT, unless the program handles it, cancels the main task; a
// second one raises KeyboardInterrupt out of run() at the loop's next look.
class OURO_EXPORT Runner {
 public:
  // Throws: ValueError for more than 48 workers.
  explicit Runner(RunOptions options = {});
  // As close(); what that throws is reported to the exception handler.
  ~Runner();
  Runner(const Runner&) = delete;
  Runner& operator=(const Runner&) = delete;

  // Runs a coroutine, or what else can be awaited or called for one, in a task, and gives its result.
  // All runs have one context: what a main task sets, the next one sees. It begins as a copy of the caller's.
  // Throws: what it threw; RuntimeError when the runner is closed or a loop runs on this thread; KeyboardInterrupt if
  // SIGINT ended it; DeadlockError if it waits for tasks that wait for each other.
  template <class A>
    requires(Awaitable<std::remove_cvref_t<A>> || CoroutineCallable<std::decay_t<A>&>)
  decltype(auto) run(A&& awaitable, std::source_location where = std::source_location::current()) {
    return run_in(nullptr, detail::to_coroutine(std::forward<A>(awaitable)), where);
  }
  // The same in `context`.
  template <class A>
    requires(Awaitable<std::remove_cvref_t<A>> || CoroutineCallable<std::decay_t<A>&>)
  decltype(auto) run(A&& awaitable, const Context& context,
                     std::source_location where = std::source_location::current()) {
    return run_in(&context, detail::to_coroutine(std::forward<A>(awaitable)), where);
  }

  // The loop; made if need be.
  // Throws: RuntimeError when the runner is closed.
  EventLoop& get_loop();

  // Cancels and awaits the tasks that are left, closes the asynchronous generators, waits for the default executor
  // (300 s at most), closes the loop. Closing twice is harmless.
  void close();

 private:
  class Crew;

  template <class T>
  decltype(auto) run_in(const Context* given, Coroutine<T> coroutine, std::source_location where) {
    check_usable();
    EventLoop& loop = get_loop();
    TaskOptions options;
    options.context = given ? given : own_context();
    Runner* const keeper = given ? nullptr : this;
    if (crew_) {
      if (!coroutine) detail::throw_awaited_twice();
      Task<T> task;
      auto schedule = [&] {
        detail::schedule_floating(loop.state(), *coroutine.get(), options.context, where);
        task = Task<T>(*coroutine.release());
      };
      const Keep keep{keeper, *coroutine.get()};
      run_main_on_crew(*coroutine.get(), [](void* call) { (*static_cast<decltype(schedule)*>(call))(); }, &schedule);
      return detail::take_value<T>(task.handle().state());
    }
    Task<T> task = detail::schedule(&loop.state(), std::move(coroutine), options, where);
    const Keep keep{keeper, task.handle().state()};
    run_main(task.handle().state());
    return detail::take_value<T>(task.handle().state());
  }

  void check_usable() const;
  // nullptr: there is none yet, and the first main task's will be it.
  const Context* own_context();
  void keep_context(detail::FutureState& task) noexcept;
  // At the end of a run.
  struct Keep {
    Runner* runner;  // nullptr: the run's context was given
    detail::FutureState& task;
    ~Keep() {
      if (runner) runner->keep_context(task);
    }
  };
  void run_main(detail::FutureState& task);
  // Runs until the task is done that `schedule(context)` makes of the record; SIGINT cancels it from the first moment.
  void run_main_on_crew(detail::FutureState& task, void (*schedule)(void* context), void* context);
  void cancel_all_tasks();

  RunOptions options_;
  std::unique_ptr<EventLoop> loop_;
  std::unique_ptr<Crew> crew_;  // the other workers
  std::optional<Context> context_;
  bool has_run_ = false;
  bool closed_ = false;
};

// The loops that run together here, the calling thread's among them: one, or those of the group in order.
// Throws: RuntimeError without a running loop. Lifetime: the loops live until the run ends.
OURO_EXPORT std::vector<EventLoop*> workers();
// The loop on which the caller runs now. A floating task may be on another after each co_await.
// Throws: RuntimeError without a running loop.
OURO_EXPORT EventLoop& current_loop();

// Runs `main` on a new loop, and closes that: the usual way into a program.
// Throws: what main threw; RuntimeError inside a running loop; DeadlockError if main waits, through whatever others,
// for tasks that wait for each other: all are cancelled and awaited then.
template <class A>
  requires(Awaitable<std::remove_cvref_t<A>> || CoroutineCallable<std::decay_t<A>&>)
decltype(auto) run(A&& main, RunOptions options = {}, std::source_location where = std::source_location::current()) {
  auto coroutine = detail::to_coroutine(std::forward<A>(main));
  Runner runner(options);
  if constexpr (std::is_void_v<typename decltype(coroutine)::value_type>) {
    runner.run(std::move(coroutine), where);
    runner.close();
  } else {
    decltype(auto) result = runner.run(std::move(coroutine), where);
    runner.close();
    return result;
  }
}

}  // namespace ouro
