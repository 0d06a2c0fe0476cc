// as_completed: several awaitables, one after the other as they end.
#pragma once

#include <coroutine>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <memory>
#include <optional>
#include <ranges>
#include <source_location>
#include <type_traits>
#include <utility>
#include <vector>

#include <ouro/runtime/config.hpp>
#include <ouro/runtime/detail/loop_timer.hpp>
#include <ouro/runtime/detail/spin_lock.hpp>
#include <ouro/runtime/detail/wait_core.hpp>
#include <ouro/runtime/exceptions.hpp>
#include <ouro/runtime/futures.hpp>
#include <ouro/runtime/tasks.hpp>
#include <ouro/runtime/timeouts.hpp>

namespace ouro {
namespace detail {

class NextWait;

// The futures in the order in which they end, and the line of those who wait for the next one. In a group all of it is
// under the lock.
class OURO_EXPORT Completions {
 public:
  Completions() noexcept = default;
  Completions(const Completions&) = delete;

  // One more will be awaited; false if that has been said of all. `counted`: what an element keeps of it, which may be
  // awaited again after a cancellation; nullptr: there is no element.
  bool ask(bool* counted) noexcept;
  bool exhausted() const noexcept;

 protected:
  ~Completions() = default;

  // Begins to hear of the futures, whose handles live until stop().
  void start(const std::vector<FutureState*>& futures, OptionalDelay timeout);
  void stop() noexcept;

 private:
  friend class NextWait;
  static void heard(WaitNode& node, FutureState& done) noexcept;
  static void timed_out(void* self) noexcept;
  // Gives a future to the one who has waited longest, or keeps it. `back`: one who had it does not want it.
  void give(std::uint32_t index, bool back) noexcept;
  bool take(std::uint32_t& index) noexcept;  // under the lock
  NextWait* leave_line(NextWait& wait) noexcept;
  void lock() const noexcept {
    if (shared_) lock_.lock();
  }
  void unlock() const noexcept {
    if (shared_) lock_.unlock();
  }

  std::unique_ptr<WaitNode[]> nodes_;
  std::unique_ptr<std::uint32_t[]> order_;  // in which they ended; those from taken_ to ended_ are nobody's yet
  std::size_t count_ = 0;
  std::size_t ended_ = 0;
  std::size_t taken_ = 0;
  std::size_t asked_ = 0;
  NextWait* first_ = nullptr;
  NextWait* last_ = nullptr;
  LoopTimer timer_;
  LoopState* loop_ = nullptr;  // where it was made; the futures are that loop's, or its group's
  mutable SpinLock lock_;
  bool too_late_ = false;
  bool shared_ = false;
};

template <class F>
class CompletionsOf final : public Completions {
 public:
  CompletionsOf(std::vector<F> given, OptionalDelay timeout) : futures(std::move(given)) {
    std::vector<FutureState*> states;
    states.reserve(futures.size());
    for (const F& future : futures) states.push_back(&future.handle().state());
    start(states, timeout);
  }
  ~CompletionsOf() { stop(); }

  std::vector<F> futures;
};

// What a loop over them hands out.
template <class F>
struct CompletedElement {
  explicit CompletedElement(std::shared_ptr<CompletionsOf<F>> of) noexcept : all(std::move(of)) {}

  std::shared_ptr<CompletionsOf<F>> all;
  bool counted = false;  // among those asked for, and not taken; under the lock
};

// The wait for one of them.
class OURO_EXPORT NextWait : public WaitCore {
 public:
  // `counted`: an element's, as for Completions::ask(); `keep` holds both.
  NextWait(Completions& of, std::shared_ptr<void> keep, bool* counted) noexcept
      : of_(&of), keep_(std::move(keep)), counted_(counted) {}
  NextWait(NextWait&& other) noexcept
      : WaitCore(other), of_(other.of_), keep_(std::move(other.keep_)), counted_(other.counted_) {}
  ~NextWait();

  bool await_ready() noexcept;
  template <class Promise>
  void await_suspend(std::coroutine_handle<Promise> coroutine,
                     std::source_location where = std::source_location::current()) {
    suspend(task_of(coroutine, "as_completed"), coroutine.address(), where);
  }

 protected:
  static constexpr std::uint32_t none = 0xffffffffU;
  // Which one it got; none: all were asked for before. Throws: TimeoutError, CancelledError.
  std::uint32_t take_next();
  [[noreturn]] static void throw_exhausted();

  Completions* of_;

 private:
  friend class Completions;
  static const WaiteeKind next_kind;
  void suspend(FutureState& task, void* leaf, std::source_location where);

  NextWait* next_ = nullptr;
  NextWait* prev_ = nullptr;
  std::shared_ptr<void> keep_;
  std::uint32_t index_ = none;
  bool* counted_;
  bool exhausted_ = false;
  bool in_line_ = false;
};

// Gives the result.
template <class F>
class NextResultAwaiter final : public NextWait {
 public:
  using NextWait::NextWait;
  typename F::value_type await_resume() {
    const std::uint32_t index = take_next();
    if (OURO_UNLIKELY(index == none)) throw_exhausted();
    return take_value<typename F::value_type>(static_cast<CompletionsOf<F>*>(of_)->futures[index].handle().state());
  }
};

// Gives the future.
template <class F>
class NextFutureAwaiter final : public NextWait {
 public:
  using NextWait::NextWait;
  std::optional<F> await_resume() {
    const std::uint32_t index = take_next();
    if (index == none) return std::nullopt;
    return static_cast<CompletionsOf<F>*>(of_)->futures[index];
  }
};

}  // namespace detail

// One element of an AsCompleted: awaiting it gives the result, or throws the error, of the next one that ends.
//
// Threads: as Future. Throws: TimeoutError after the time limit; RuntimeError for a result that can only be moved, if
// there are other handles to the future, and if there are no more elements than have been taken before.
// If cancelled: CancelledError is thrown, and the result goes to who awaits one after this; it may be awaited again.
template <class F>
class [[nodiscard("the next of as_completed is there to be awaited")]] NextCompleted {
 public:
  explicit NextCompleted(std::shared_ptr<detail::CompletedElement<F>> element) noexcept
      : element_(std::move(element)) {}

  detail::NextResultAwaiter<F> operator co_await() const {
    return detail::NextResultAwaiter<F>(*element_->all, element_, &element_->counted);
  }

 private:
  std::shared_ptr<detail::CompletedElement<F>> element_;
};

// What next() of an AsCompleted gives: awaiting it gives the next future or task that is done, as it was given, and
// std::nullopt after the last. Its error stays with it.
//
// Throws: TimeoutError after the time limit.
// If cancelled: CancelledError is thrown, and the future goes to who awaits one after this.
template <class F>
class [[nodiscard("the next of as_completed is there to be awaited")]] NextFuture {
 public:
  explicit NextFuture(std::shared_ptr<detail::CompletionsOf<F>> all) noexcept : all_(std::move(all)) {}

  detail::NextFutureAwaiter<F> operator co_await() const { return detail::NextFutureAwaiter<F>(*all_, all_, nullptr); }

 private:
  std::shared_ptr<detail::CompletionsOf<F>> all_;
};

// Several futures in the order in which they end. In a loop over it each element is to be awaited; or `next()` gives
// the futures themselves. Both take from the same: who stops half way goes on where he was.
//
// Threads: as Future. Lifetime: the elements keep what they need.
template <class F>
class AsCompleted {
 public:
  explicit AsCompleted(std::shared_ptr<detail::CompletionsOf<F>> all) noexcept : all_(std::move(all)) {}

  NextFuture<F> next() const noexcept { return NextFuture<F>(all_); }

  class Iterator {
   public:
    using value_type = NextCompleted<F>;
    using difference_type = std::ptrdiff_t;

    explicit Iterator(const AsCompleted& of) noexcept : all_(of.all_) {}
    // Each call takes one more. Throws: std::bad_alloc.
    NextCompleted<F> operator*() const {
      auto element = std::make_shared<detail::CompletedElement<F>>(all_);
      static_cast<void>(all_->ask(&element->counted));
      return NextCompleted<F>(std::move(element));
    }
    Iterator& operator++() noexcept { return *this; }
    void operator++(int) noexcept {}
    friend bool operator==(const Iterator& it, std::default_sentinel_t) noexcept { return it.all_->exhausted(); }

   private:
    std::shared_ptr<detail::CompletionsOf<F>> all_;
  };
  Iterator begin() const noexcept { return Iterator(*this); }
  std::default_sentinel_t end() const noexcept { return {}; }

 private:
  std::shared_ptr<detail::CompletionsOf<F>> all_;
};

// The awaitables as they end: `for (auto next : all) { auto result = co_await next; }`, or
// `while (auto task = co_await all.next()) { … }`. Coroutines become tasks at once; nobody is cancelled. After
// `timeout` every wait for one that had not ended by then throws TimeoutError.
// Throws: RuntimeError without a running loop, if there are coroutines, for futures of another loop, and outside a task
// with a time limit.
template <class A>
auto as_completed(std::vector<A> awaitables, OptionalDelay timeout = {},
                  std::source_location where = std::source_location::current()) {
  using F = decltype(ensure_future(std::declval<A>(), where));
  std::vector<F> futures;
  if constexpr (std::is_same_v<F, A>) {
    futures = std::move(awaitables);
  } else {
    futures.reserve(awaitables.size());
    for (A& awaitable : awaitables) futures.push_back(ensure_future(std::move(awaitable), where));
  }
  return AsCompleted<F>(std::make_shared<detail::CompletionsOf<F>>(std::move(futures), timeout));
}
// The same for any range of futures.
template <std::ranges::input_range R>
  requires isfuture<std::ranges::range_value_t<R>>
auto as_completed(R&& futures, OptionalDelay timeout = {}) {
  std::vector<std::ranges::range_value_t<R>> list;
  for (auto&& future : futures) list.push_back(std::forward<decltype(future)>(future));
  return as_completed(std::move(list), timeout);
}

}  // namespace ouro
