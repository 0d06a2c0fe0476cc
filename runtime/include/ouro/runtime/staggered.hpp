// staggered_race: several ways to the same end, tried one after the other but beside each other.
//
// The task that awaits it is the only one that decides: the attempts are tasks of their own, it waits until one of them
// ends or the next one's time has come, and looks. So there is one winner, whatever ends at the same time and on
// whichever worker, and the library waits for the rest before it gives the result.
#pragma once

#include <cstddef>
#include <exception>
#include <optional>
#include <ranges>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include <ouro/runtime/clock.hpp>
#include <ouro/runtime/config.hpp>
#include <ouro/runtime/coroutine.hpp>
#include <ouro/runtime/detail/core.hpp>
#include <ouro/runtime/exceptions.hpp>
#include <ouro/runtime/futures.hpp>
#include <ouro/runtime/tasks.hpp>
#include <ouro/runtime/timeouts.hpp>
#include <ouro/runtime/wait.hpp>

namespace ouro {

// What staggered_race() gives.
template <class T>
struct StaggeredResult {
  // Of the winner, if there was one; std::monostate where the attempts give nothing.
  std::optional<std::conditional_t<std::is_void_v<T>, std::monostate, T>> winner_result;
  std::optional<std::size_t> winner_index;
  // One for each attempt that was started, in their order: the winner's is null, those of the others say how they
  // ended. Who lost has a CancelledError, even if it ended well in the same turn.
  std::vector<std::exception_ptr> exceptions;
};

namespace detail {

// The attempts of a race, in the order of their start.
template <class T>
class Race {
 public:
  explicit Race(std::size_t attempts) {
    tasks_.reserve(attempts);  // so that no task is made that cannot be kept
    result_.exceptions.reserve(attempts);
  }

  template <class F>
  void start(F&& attempt) {
    tasks_.push_back(create_task(std::forward<F>(attempt)));
    result_.exceptions.emplace_back();
  }

  // Takes in what has ended. True: the race is over, or the next attempt need not wait.
  bool look() {
    for (std::size_t i = 0; i < tasks_.size(); ++i) {
      if (is_told(i) || !tasks_[i].done()) continue;
      if (!tasks_[i].cancelled() && !tasks_[i].exception() && !has_winner()) {
        result_.winner_index = i;
        take(tasks_[i]);
      } else {
        result_.exceptions[i] = end_of(tasks_[i]);
      }
    }
    return has_winner() || tasks_.empty() || is_told(tasks_.size() - 1);
  }
  bool has_winner() const noexcept { return result_.winner_index.has_value(); }

  // Those that have not ended, as far as look() knows.
  std::vector<Task<T>> running() const {
    std::vector<Task<T>> left;
    for (std::size_t i = 0; i < tasks_.size(); ++i) {
      if (!is_told(i)) left.push_back(tasks_[i]);
    }
    return left;
  }
  void cancel() {
    for (std::size_t i = 0; i < tasks_.size(); ++i) {
      if (!is_told(i)) tasks_[i].cancel();
    }
  }

  StaggeredResult<T> finish() { return std::move(result_); }

 private:
  bool is_told(std::size_t i) const noexcept { return result_.winner_index == i || result_.exceptions[i]; }

  void take(Task<T>& winner) {
    if constexpr (std::is_void_v<T>) {
      result_.winner_result.emplace();
    } else {
      result_.winner_result.emplace(take_value<T>(winner.handle().state()));
    }
  }
  static std::exception_ptr end_of(const Task<T>& task) {
    try {
      if (std::exception_ptr error = task.exception()) return error;
      // What it gave is destroyed here: the record may live a moment longer, on the worker where the task ended.
      FutureState& state = task.handle().state();
      if (handles_of(state) == 1) static_cast<void>(take_value<T>(state));
    } catch (...) {
      return std::current_exception();  // it was cancelled, as a rule
    }
    return std::make_exception_ptr(CancelledError());
  }

  std::vector<Task<T>> tasks_;
  StaggeredResult<T> result_;
};

// Until one of them ends, or the time has come.
template <class T>
Wait<Task<T>> next_in_race(const Race<T>& race, std::optional<TimePoint> until) {
  WaitOptions options{.timeout = std::nullopt, .return_when = FIRST_COMPLETED};
  if (until) options.timeout = *until - require_running().clock->now();
  return wait(race.running(), options);
}

template <class T, class F>
Coroutine<> run_race(Race<T>& race, std::vector<F>& attempts, OptionalDelay delay) {
  for (F& attempt : attempts) {
    race.start(std::move(attempt));
    std::optional<TimePoint> next;
    if (delay) next = saturating_add(require_running().clock->now(), *delay);
    while (!race.look() && !(next && *next <= require_running().clock->now())) co_await next_in_race(race, next);
    if (race.has_winner()) co_return;
  }
  while (!race.has_winner() && !race.running().empty()) {
    co_await next_in_race(race, std::nullopt);
    race.look();
  }
}

template <class T, class F>
Coroutine<StaggeredResult<T>> staggered(std::vector<F> attempts, OptionalDelay delay) {
  Race<T> race(attempts.size());
  std::exception_ptr broken_off;
  try {
    co_await run_race(race, attempts, delay);
  } catch (...) {
    broken_off = std::current_exception();
  }
  race.cancel();
  while (!race.running().empty()) {
    try {
      co_await wait(race.running());
      race.look();
    } catch (const CancelledError&) {
      broken_off = std::current_exception();
      race.cancel();
    }
  }
  if (broken_off) std::rethrow_exception(broken_off);
  co_return race.finish();
}

template <class F>
using AttemptOf = typename decltype(to_coroutine(std::declval<F>()))::value_type;

}  // namespace detail

// Calls the first of `attempts` for a coroutine and runs that as a task; each time `delay` has passed, or the attempt
// that was started last has failed, the next one too (std::nullopt: only then). The first that ends without an
// exception wins; of several that did so in the same turn, the one that was started first. The others are cancelled.
// It comes back when all have ended: with the winner's result, or without any if all failed or there were none.
//
// What a loser gave in spite of it is destroyed, so what an attempt gives should own what it holds. An attempt lives as
// long as its task's record: in a group of loops that may be a moment longer than the race.
// Throws: RuntimeError without a running loop; what a task factory throws, when the attempts have ended.
// If cancelled: so are the attempts; when they have ended CancelledError is thrown, and a result is destroyed.
template <class F>
  requires CoroutineCallable<F&>
Coroutine<StaggeredResult<detail::AttemptOf<F>>> staggered_race(std::vector<F> attempts, OptionalDelay delay) {
  return detail::staggered<detail::AttemptOf<F>, F>(std::move(attempts), delay);
}
// The same for any range of them.
template <std::ranges::input_range R>
  requires CoroutineCallable<std::ranges::range_value_t<R>&>
auto staggered_race(R&& attempts, OptionalDelay delay) {
  std::vector<std::ranges::range_value_t<R>> list;
  for (auto&& attempt : attempts) list.push_back(std::forward<decltype(attempt)>(attempt));
  return staggered_race(std::move(list), delay);
}

}  // namespace ouro
