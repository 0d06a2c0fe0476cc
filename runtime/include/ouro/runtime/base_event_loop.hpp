// The loop without the network: callbacks, timers, tasks, the executor. io's EventLoop derives from it.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <source_location>
#include <type_traits>
#include <utility>

#include <ouro/runtime/clock.hpp>
#include <ouro/runtime/config.hpp>
#include <ouro/runtime/coroutine.hpp>
#include <ouro/runtime/detail/atomic.hpp>
#include <ouro/runtime/detail/counter.hpp>
#include <ouro/runtime/events.hpp>
#include <ouro/runtime/executors.hpp>
#include <ouro/runtime/futures.hpp>
#include <ouro/runtime/parker.hpp>
#include <ouro/runtime/tasks.hpp>

namespace ouro {

namespace detail {
class WaitGraph;
[[noreturn, gnu::cold]] OURO_EXPORT void throw_nan_delay();
}  // namespace detail

// What a loop has done so far. Each number was true at some moment of the call that gave it.
struct LoopCounters {
  std::uint64_t runs = 0;    // steps of tasks and callbacks, as the loop counts them for fairness: at its looks
  std::uint64_t turns = 0;   // that began with a look
  std::uint64_t looks = 0;   // at the parker, the timers and the inbox
  std::uint64_t parks = 0;   // times it went to sleep
  std::uint64_t spins = 0;   // waits that a spin ended
  std::uint64_t posts = 0;   // chains taken from the inbox
  std::uint64_t enters = 0;  // calls of the system in which it submitted, completed or slept
  // In a group:
  std::uint64_t steals = 0;          // floating tasks, and shares of gathers, that it took from other workers
  std::uint64_t steal_attempts = 0;  // looks at another worker
  std::uint64_t wakeups = 0;         // of other workers, for work that they may take
};

// Runs callbacks and tasks on one thread, and sleeps on its Parker when there are none.
//
// Threads: the one that runs it, or before it runs the one that made it, except for members that say otherwise.
class OURO_EXPORT BaseEventLoop {
 public:
  using ExceptionHandler = std::function<void(BaseEventLoop&, const ExceptionContext&)>;

  explicit BaseEventLoop(std::unique_ptr<Parker> parker, const Clock& clock = Clock::steady());
  // Closes it.
  virtual ~BaseEventLoop();
  BaseEventLoop(const BaseEventLoop&) = delete;

  // ---- Running ----

  // Runs until stop(). Called after stop(), makes one turn that does not sleep.
  // Throws: RuntimeError if it is closed or running, or another loop runs on this thread; KeyboardInterrupt from a
  // callback or task, after which it can run again.
  void run_forever();

  // Runs until the awaitable is done, and gives its result or throws its exception. A future or task given as an lvalue
  // keeps its result; a coroutine, a gather or a callable becomes a task.
  // Throws: as run_forever; ValueError for a future of another loop; RuntimeError if the loop is stopped before;
  // DeadlockError if the awaitable waits, through whatever others, for tasks that wait for each other.
  template <class A>
    requires Awaitable<std::remove_cvref_t<A>>
  decltype(auto) run_until_complete(A&& awaitable, std::source_location where = std::source_location::current()) {
    check_runnable();
    if constexpr (isfuture<A>) {
      using T = typename detail::FutureValue<std::remove_cvref_t<A>>::type;
      std::remove_cvref_t<A> future = std::forward<A>(awaitable);
      run_until_done(future.handle().state());
      if constexpr (std::is_lvalue_reference_v<A>) {
        return copy_result<T>(future);
      } else {
        return detail::take_value<T>(future.handle().state());
      }
    } else {
      auto task = detail::schedule(state_, detail::to_coroutine(std::forward<A>(awaitable)), TaskOptions(), where);
      using T = typename decltype(task)::value_type;
      run_until_done(task.handle().state());
      return detail::take_value<T>(task.handle().state());
    }
  }
  template <class F>
    requires CoroutineCallable<std::decay_t<F>&>
  decltype(auto) run_until_complete(F&& f) {
    check_runnable();
    return run_until_complete(detail::to_coroutine(std::forward<F>(f)));
  }

  // Ends run_forever after the callbacks that are ready now.
  // Throws: RuntimeError for a loop in a group, which ends with its run().
  void stop();
  bool is_running() const noexcept { return running_.load(std::memory_order_relaxed); }
  bool is_closed() const noexcept { return state_->closed; }

  // Drops the callbacks, destroys the tasks that are not done (destructors only, innermost frame first, their futures
  // cancelled, one report for all of them), shuts the executor down without waiting. Closing twice is harmless.
  // Throws: RuntimeError while it runs.
  void close();

  // ---- Callbacks ----

  // Runs `callback` in the next turn, after those that were given before.
  // Throws: RuntimeError if the loop is closed, and in debug mode on another thread.
  template <class F>
    requires std::invocable<std::decay_t<F>&>
  Handle call_soon(F&& callback, std::source_location where = std::source_location::current()) {
    check_open();
    return soon(std::forward<F>(callback), nullptr, where);
  }
  // The same in `context`, and not in a copy of the current one.
  template <class F>
    requires std::invocable<std::decay_t<F>&>
  Handle call_soon(F&& callback, const Context& context, std::source_location where = std::source_location::current()) {
    check_open();
    return soon(std::forward<F>(callback), &context, where);
  }

  // The same from any thread, and wakes the loop.
  // Threads: any, while the loop object lives. Throws: RuntimeError if the loop is closed.
  template <class F>
    requires std::invocable<std::decay_t<F>&>
  Handle call_soon_threadsafe(F&& callback, std::source_location where = std::source_location::current()) {
    return soon_threadsafe(std::forward<F>(callback), nullptr, where);
  }
  template <class F>
    requires std::invocable<std::decay_t<F>&>
  Handle call_soon_threadsafe(F&& callback, const Context& context,
                              std::source_location where = std::source_location::current()) {
    return soon_threadsafe(std::forward<F>(callback), &context, where);
  }

  // Runs `callback` at `when` on the loop's clock, or as soon as possible after; in order of time, ties in order of the
  // calls. TimePoint::max() is never. Throws: as call_soon; call_later ValueError for a NaN.
  template <class F>
    requires std::invocable<std::decay_t<F>&>
  TimerHandle call_at(TimePoint when, F&& callback, std::source_location where = std::source_location::current()) {
    check_open();
    return at(when, std::forward<F>(callback), nullptr, where);
  }
  template <class F>
    requires std::invocable<std::decay_t<F>&>
  TimerHandle call_at(TimePoint when, F&& callback, const Context& context,
                      std::source_location where = std::source_location::current()) {
    check_open();
    return at(when, std::forward<F>(callback), &context, where);
  }
  template <class Rep, class Period, class F>
    requires std::invocable<std::decay_t<F>&>
  TimerHandle call_later(std::chrono::duration<Rep, Period> delay, F&& callback,
                         std::source_location where = std::source_location::current()) {
    return call_at(time_after(delay), std::forward<F>(callback), where);
  }
  template <class Rep, class Period, class F>
    requires std::invocable<std::decay_t<F>&>
  TimerHandle call_later(std::chrono::duration<Rep, Period> delay, F&& callback, const Context& context,
                         std::source_location where = std::source_location::current()) {
    return call_at(time_after(delay), std::forward<F>(callback), context, where);
  }

  // The loop's clock now.
  // Threads: any.
  TimePoint time() const noexcept { return state_->clock->now(); }

  // ---- Futures and tasks ----

  template <class T = void>
  Future<T> create_future(std::source_location where = std::source_location::current()) {
    return Future<T>(detail::PlainFuture<T>::make(*state_, where));
  }

  // Schedules a coroutine on this loop, where it stays.
  // Throws: RuntimeError if the loop is closed; what the task factory throws. The coroutine is destroyed then.
  template <class A>
    requires Awaitable<std::remove_cvref_t<A>>
  auto create_task(A&& awaitable, TaskOptions options = {},
                   std::source_location where = std::source_location::current()) {
    if constexpr (is_coroutine<A>) {
      static_assert(!std::is_lvalue_reference_v<A>, "a coroutine is move-only: pass std::move(coroutine)");
      return detail::schedule(state_, std::move(awaitable), options, where);
    } else {
      auto coroutine = detail::to_coroutine(std::forward<A>(awaitable));
      return detail::schedule(state_, std::move(coroutine), options, where);
    }
  }
  template <class F, class... Args>
    requires CoroutineCallable<std::decay_t<F>&, std::decay_t<Args>...>
  auto create_task(F&& f, Args&&... args) {
    auto coroutine = detail::to_coroutine(std::forward<F>(f), std::forward<Args>(args)...);
    const std::source_location where = coroutine.get()->created;
    return detail::schedule(state_, std::move(coroutine), TaskOptions(), where);
  }

  template <class F, class... Args>
    requires CoroutineCallable<std::decay_t<F>&, std::decay_t<Args>...>
  auto create_task(TaskOptions options, F&& f, Args&&... args) {
    auto coroutine = detail::to_coroutine(std::forward<F>(f), std::forward<Args>(args)...);
    const std::source_location where = coroutine.get()->created;
    return detail::schedule(state_, std::move(coroutine), options, where);
  }

  // Called for every task that is made; nullptr ends that.
  void set_task_factory(TaskFactory factory);
  const TaskFactory& get_task_factory() const noexcept { return factory_; }

  // ---- Executors ----

  // Runs `f(args...)` on a thread of `executor` (nullptr: the default one) and gives its result as a future.
  // If cancelled: so is the future: a job that has not started when the loop hears of that never will; one that runs
  // is not interrupted.
  // Throws: RuntimeError if the loop is closed, or the executor shut down or full.
  template <class F, class... Args>
    requires std::invocable<std::decay_t<F>, std::decay_t<Args>...>
  Future<std::invoke_result_t<std::decay_t<F>, std::decay_t<Args>...>> run_in_executor(Executor* executor, F&& f,
                                                                                       Args&&... args) {
    using R = std::invoke_result_t<std::decay_t<F>, std::decay_t<Args>...>;
    check_open();
    std::shared_ptr<Executor> keeper;
    Executor& on = executor ? *executor : default_executor(keeper);
    detail::LoopState& home = home_of_errands();
    Future<R> future(detail::PlainFuture<R>::make(home, std::source_location::current()));
    using LocalJob = detail::TypedLoopJob<R, std::decay_t<F>, std::decay_t<Args>...>;
    auto* job = new LocalJob(home, future.handle().state(), std::forward<F>(f), std::forward<Args>(args)...);
    detail::submit_job(home, &on, *job);
    return future;
  }

  // The executor behind run_in_executor(nullptr, ...). Without it a ThreadPoolExecutor is made at the first use.
  // Throws: ValueError for nullptr.
  void set_default_executor(std::shared_ptr<Executor> executor);

  // ---- Errors and debugging ----

  // Receives what nobody could catch; nullptr: the default handler, which writes to stderr.
  void set_exception_handler(ExceptionHandler handler) { exception_handler_ = std::move(handler); }
  const ExceptionHandler& get_exception_handler() const noexcept { return exception_handler_; }
  void default_exception_handler(const ExceptionContext& context);
  // Hands the error to the handler; if that throws, to the default one.
  void call_exception_handler(const ExceptionContext& context) noexcept;

  // Checks threads, reports slow callbacks and coroutines that were never awaited. On from the start if the environment
  // has OURO_DEBUG=1.
  void set_debug(bool on) noexcept {
    state_->debug = on;
    detail::update_special(*state_);
  }
  bool get_debug() const noexcept { return state_->debug; }
  // In debug mode a callback or a step of a task that takes longer is reported.
  std::chrono::nanoseconds slow_callback_duration = std::chrono::milliseconds(100);

  // All tasks wait, and nothing that the loop can see will wake one: no timer, operation, job of an executor, or task
  // for which another thread waits. After that time run() and run_until_complete() look who waits for whom. If they
  // need tasks that wait for each other, DeadlockError is thrown; else the exception handler hears, once, which tasks
  // wait where for what, and they wait on: other threads may help. The maximum: never. In a group the first loop's
  // counts.
  std::chrono::nanoseconds deadlock_grace = std::chrono::seconds(1);

  // How long it looks for work before it sleeps; zero: not at all. It adapts: less and less while that does not pay.
  void set_spin(std::chrono::nanoseconds longest) noexcept;
  // Threads: any. Costs the loop nothing.
  LoopCounters counters() const noexcept;

  // ---- For the library ----
  detail::LoopState& state() noexcept { return *state_; }
  void check_runnable() const;
  Parker& parker() noexcept { return *parker_; }
  // Runs until the record is done.
  void run_until_done(detail::FutureState& state);
  // Posts from any thread; false if the loop is closed.
  bool post(detail::ReadyNode& node) noexcept;
  // Called on the loop's thread at its next look, after raise_interrupt(), which is async-signal-safe.
  void set_interrupt_handler(std::function<void()> handler) { interrupt_handler_ = std::move(handler); }
  void raise_interrupt() noexcept;
  // Drops what is queued and armed: callbacks are let go of, tasks are destroyed elsewhere.
  void forget_queues() noexcept;
  // As stop(), for a loop in a group too.
  void end_run() noexcept;
  // Lets run_* throw this at the loop's next look. The loop's thread.
  void interrupt_with(std::exception_ptr exception) noexcept;
  std::shared_ptr<Executor> take_default_executor() noexcept;
  // Lives while nobody replaces it; in a group, where another worker may, while `keeper` does.
  Executor& default_executor(std::shared_ptr<Executor>& keeper);
  // Where what other threads do for the caller comes back to: here, or if another worker of the group asks, there.
  detail::LoopState& home_of_errands() const noexcept {
    return OURO_UNLIKELY(is_elsewhere()) && detail::running_state() ? *detail::running_state() : *state_;
  }

 private:
  friend class TurnTest;
  friend class detail::ArmLater;
  // A move-only result stays with the caller's future, and is given by reference.
  template <class T>
  static detail::SharedResult<T> copy_result(const Future<T>& future) {
    return future.result();
  }
  void check_open() const {
    if (OURO_UNLIKELY(state_->closed)) throw_closed();
  }
  [[noreturn]] static void throw_closed();
  // Another worker's loop of the group.
  bool is_elsewhere() const noexcept { return state_->worker != nullptr && is_elsewhere_in_group(); }
  bool is_elsewhere_in_group() const noexcept;
  void arm(detail::CallbackNode& node, TimePoint when) noexcept;

  // call_soon and its kin, with the callback's context, or nullptr for a copy of the current one.
  template <class F>
  OURO_INLINE Handle soon(F&& callback, const Context* context, std::source_location where) {
    if (OURO_UNLIKELY(is_elsewhere())) return soon_threadsafe(std::forward<F>(callback), context, where);
    if (state_->debug) detail::check_thread(*state_, "call_soon");
    if (OURO_UNLIKELY(!state_->running)) take_posts();
    auto* node = detail::TypedCallbackNode<std::decay_t<F>>::make_in(context, *state_, where, state_->worker != nullptr,
                                                                     std::forward<F>(callback));
    node->begin_shared();
    state_->ready.push_back(*node);
    return Handle(node);
  }
  template <class F>
  Handle soon_threadsafe(F&& callback, const Context* context, std::source_location where) {
    auto* node =
        detail::TypedCallbackNode<std::decay_t<F>>::make_in(context, *state_, where, true, std::forward<F>(callback));
    Handle handle(node);
    node->begin_shared();
    if (detail::running_state() == state_) {
      state_->ready.push_back(*node);  // in order with call_soon
    } else if (!post(*node)) {
      node->abandon();
      throw_closed();
    }
    return handle;
  }
  template <class F>
  TimerHandle at(TimePoint when, F&& callback, const Context* context, std::source_location where) {
    const bool elsewhere = is_elsewhere();
    if (!elsewhere && state_->debug) detail::check_thread(*state_, "call_at");
    auto* node = detail::TypedCallbackNode<std::decay_t<F>>::make_in(
        context, *state_, where, elsewhere || state_->worker != nullptr, std::forward<F>(callback));
    node->begin_shared();
    node->when = when;
    TimerHandle handle(node);
    if (OURO_UNLIKELY(elsewhere)) {
      call_soon_threadsafe(detail::ArmLater(*this, *node));
    } else {
      arm(*node, when);
    }
    return handle;
  }
  template <class Rep, class Period>
  TimePoint time_after(std::chrono::duration<Rep, Period> delay) const {
    if constexpr (std::is_floating_point_v<Rep>) {
      if (delay.count() != delay.count()) detail::throw_nan_delay();
    }
    return detail::saturating_add(time(), detail::saturating_duration(delay));
  }

  void run_turns();
  bool run_chunk();
  void run_ready();
  void run_batch();
  void run_found();
  bool none_found() const noexcept { return events_.empty() && due_.empty() && injected_.empty(); }
  void run_node(detail::ReadyNode& node);
  void run_some(detail::ReadyQueue& queue, std::uint32_t most);
  void run_node_debug(detail::ReadyNode& node);
  void look();
  void wait_for_work();
  // A run that would never end: src/deadlock.cpp
  class Awaited {
   public:
    Awaited(BaseEventLoop& loop, detail::FutureState& state) noexcept;
    ~Awaited() { state_.awaited = nullptr; }
    Awaited(const Awaited&) = delete;

   private:
    detail::LoopState& state_;
  };
  struct Findings {
    std::string error;
    std::string ring;
    std::string waits;
    bool is_empty() const noexcept { return error.empty() && ring.empty() && waits.empty(); }
  };
  bool nothing_in_sight(TimePoint deadline) const noexcept;
  std::chrono::nanoseconds grace() const noexcept;
  void look_if_quiet(TimePoint until);
  void look_for_deadlock();
  Findings findings_of(detail::WaitGraph& graph);
  void tell(Findings& found);
  TimePoint grace_of_group() const noexcept;
  bool look_in_group() noexcept;
  void report_wait(std::string text) noexcept;
  // In a group: src/group_turns.cpp
  void run_group_turns();
  void run_entry(detail::ReadyNode* entry, bool stolen);
  void run_hops();
  bool run_floating();
  void run_patient();
  void push_due(detail::ReadyQueue& due) noexcept;
  bool has_floating() const noexcept;
  bool called_upon();
  void end_search() noexcept;
  void search_for_work();
  bool sleep_in_group(TimePoint deadline, bool searching);
  bool spin(TimePoint deadline);
  void take_inbox(detail::ReadyNode* newest) noexcept;
  void take_posts() noexcept;
  void fire_timers() noexcept;
  void destroy_tasks() noexcept;
  void drop_callbacks() noexcept;

  detail::LoopState* state_;
  std::unique_ptr<Parker> parker_;
  detail::ReadyQueue events_;            // what completions made ready, this turn
  detail::ReadyQueue due_;               // and timers: their own, so that a flood of completions does not delay them
  detail::ReadyQueue injected_;          // what other threads sent
  detail::Atomic<bool> running_{false};  // read by other workers of a group
  bool stopping_ = false;
  detail::Atomic<bool> interrupted_{false};  // set by raise_interrupt, cleared by look(); carries no data
  std::chrono::nanoseconds spin_longest_;
  std::chrono::nanoseconds spin_now_;
  struct Counters {
    detail::Counter runs, turns, looks, parks, spins, posts;
  };
  Counters counters_;
  std::uint64_t run_number_ = 0;           // of run_until_done()
  bool looked_ = false;                    // since something last happened
  bool ring_reported_ = false;             // in this run
  bool wait_reported_ = false;             // likewise
  std::chrono::nanoseconds last_look_{0};  // how long it took
  TaskFactory factory_;
  ExceptionHandler exception_handler_;
  std::function<void()> interrupt_handler_;
  std::shared_ptr<Executor> executor_;  // in a group the first loop's is all loops'
  bool executor_shut_down_ = false;
};

}  // namespace ouro
