// wait, for the first or all of several futures; shield, which keeps a cancellation from a future.
#pragma once

#include <chrono>
#include <concepts>
#include <coroutine>
#include <cstddef>
#include <memory>
#include <ranges>
#include <source_location>
#include <type_traits>
#include <utility>
#include <vector>

#include <ouro/runtime/config.hpp>
#include <ouro/runtime/detail/atomic.hpp>
#include <ouro/runtime/detail/wait_core.hpp>
#include <ouro/runtime/exceptions.hpp>
#include <ouro/runtime/futures.hpp>
#include <ouro/runtime/tasks.hpp>
#include <ouro/runtime/timeouts.hpp>

namespace ouro {

// When wait() comes back.
enum class ReturnWhen : std::uint8_t {
  first_completed,  // one is done
  first_exception,  // one has failed, or all are done; one that was cancelled has not failed
  all_completed,
};
inline constexpr ReturnWhen FIRST_COMPLETED = ReturnWhen::first_completed;
inline constexpr ReturnWhen FIRST_EXCEPTION = ReturnWhen::first_exception;
inline constexpr ReturnWhen ALL_COMPLETED = ReturnWhen::all_completed;

struct WaitOptions {
  OptionalDelay timeout = {};  // after that it comes back with what is done
  ReturnWhen return_when = ALL_COMPLETED;
};

// What wait() gives: each future once, in the order in which they were given.
template <class F>
struct WaitResult {
  std::vector<F> done;
  std::vector<F> pending;
};

// Futures and tasks, with their type or without.
template <class F>
concept FutureLike = std::derived_from<std::remove_cvref_t<F>, AnyFuture>;

namespace detail {

class OURO_EXPORT ManyWait : public WaitCore {
 public:
  explicit ManyWait(const WaitOptions& options) : options_(options) { check_options(); }
  ManyWait(ManyWait&& other) noexcept : WaitCore(other), options_(other.options_) {}
  ~ManyWait() = default;

 protected:
  // The futures, sorted apart: those that came twice go to the end. Returns how many are left.
  static std::size_t check_futures(std::vector<FutureState*>& futures);
  bool is_over(const std::vector<FutureState*>& futures) const noexcept;
  void suspend(FutureState& task, void* leaf, std::source_location where, const std::vector<FutureState*>& futures);
  void drop_nodes() noexcept;

 private:
  static const WaiteeKind wait_kind;
  static void heard(WaitNode& node, FutureState& done) noexcept;
  void check_options() const;
  bool ends(const FutureState& done) const noexcept;

  WaitOptions options_;
  std::unique_ptr<WaitNode[]> nodes_;
  std::size_t count_ = 0;
  Atomic<std::size_t> left_{0};  // that are not done
};

template <class F>
class WaitAwaiter final : public ManyWait {
 public:
  WaitAwaiter(std::vector<F> futures, const WaitOptions& options) : ManyWait(options), futures_(std::move(futures)) {}
  WaitAwaiter(WaitAwaiter&&) = default;
  ~WaitAwaiter() { drop_nodes(); }

  bool await_ready() {
    states_.reserve(futures_.size());
    for (const F& future : futures_) states_.push_back(&future.handle().state());
    check_futures(states_);
    return is_over(states_);
  }

  template <class Promise>
  void await_suspend(std::coroutine_handle<Promise> coroutine,
                     std::source_location where = std::source_location::current()) {
    suspend(task_of(coroutine, "wait"), coroutine.address(), where, states_);
  }

  WaitResult<F> await_resume() {
    if (waited()) {
      resume();
      drop_nodes();
      if (is_cancelled()) throw_it();
    }
    WaitResult<F> result;
    std::size_t next = 0;
    for (F& future : futures_) {
      if (next == states_.size() || future.handle().get() != states_[next]) continue;  // it came before
      ++next;
      (future.done() ? result.done : result.pending).push_back(std::move(future));
    }
    return result;
  }

 private:
  std::vector<F> futures_;
  std::vector<FutureState*> states_;
};

}  // namespace detail

// What wait() gives: to be awaited, once.
template <class F>
class [[nodiscard("a wait does nothing until it is awaited")]] Wait {
 public:
  Wait(std::vector<F> futures, const WaitOptions& options) : futures_(std::move(futures)), options_(options) {}

  detail::WaitAwaiter<F> operator co_await() { return detail::WaitAwaiter<F>(std::move(futures_), options_); }

 private:
  std::vector<F> futures_;
  WaitOptions options_;
};

// Waits until the first or all of the futures are done, as `return_when` says, or `timeout` has passed; and tells which
// are. Their errors stay with them; nobody is cancelled. Coroutines are not accepted: make tasks of them.
// Throws: ValueError if there are none; RuntimeError for a future of another loop.
// If cancelled: the futures go on, and CancelledError is thrown.
template <FutureLike F>
Wait<F> wait(std::vector<F> futures, WaitOptions options = {}) {
  return Wait<F>(std::move(futures), options);
}
// The same for any range of them.
template <std::ranges::input_range R>
  requires FutureLike<std::ranges::range_value_t<R>>
auto wait(R&& futures, WaitOptions options = {}) {
  std::vector<std::ranges::range_value_t<R>> list;
  for (auto&& future : futures) list.push_back(std::forward<decltype(future)>(future));
  return Wait<std::ranges::range_value_t<R>>(std::move(list), options);
}

// ---- shield ----

namespace detail {

class OURO_EXPORT ShieldAwaiterBase : public WaitCore {
 public:
  explicit ShieldAwaiterBase(FutureHandle future) noexcept : future_(std::move(future)) {}
  ShieldAwaiterBase(ShieldAwaiterBase&& other) noexcept : WaitCore(other), future_(std::move(other.future_)) {}
  ~ShieldAwaiterBase();

  bool await_ready() const { return future_.state().done(); }
  template <class Promise>
  void await_suspend(std::coroutine_handle<Promise> coroutine,
                     std::source_location where = std::source_location::current()) {
    suspend(task_of(coroutine, "shield"), coroutine.address(), where);
  }

 protected:
  void check_resumed();
  FutureHandle future_;

 private:
  static const WaiteeKind shield_kind;
  void suspend(FutureState& task, void* leaf, std::source_location where);
  WaitNode node_;
};

template <class T, bool Kept>
class ShieldAwaiter final : public ShieldAwaiterBase {
 public:
  using ShieldAwaiterBase::ShieldAwaiterBase;
  std::conditional_t<Kept, SharedResult<T>, T> await_resume() {
    check_resumed();
    if constexpr (Kept) {
      return require_value<T>(*future_.get()).value();
    } else {
      return take_value<T>(*future_.get());
    }
  }
};

}  // namespace detail

// What shield() gives: as often as it is awaited, it waits for the future inside.
template <class F>
class [[nodiscard("a shield is there to be awaited")]] Shield {
 public:
  using value_type = typename F::value_type;
  explicit Shield(F inner) noexcept : inner_(std::move(inner)) {}

  // The future or task inside, which goes on whatever happens to who waits.
  const F& inner() const noexcept { return inner_; }

  detail::ShieldAwaiter<value_type, true> operator co_await() const& {
    return detail::ShieldAwaiter<value_type, true>(inner_.handle());
  }
  detail::ShieldAwaiter<value_type, false> operator co_await() && {
    return detail::ShieldAwaiter<value_type, false>(std::move(inner_).handle());
  }

 private:
  F inner_;
};

// Awaiting it gives what the future or task gives, but a cancellation of who awaits does not reach that. A coroutine
// becomes a task at once. If the future itself is cancelled, so is who awaits.
// Throws: RuntimeError without a running loop, for what is no future; a coroutine is destroyed then.
// If cancelled: what is inside goes on, and CancelledError is thrown; an error that it ends with later is reported
// unless somebody else looks at it.
template <class A>
  requires Awaitable<std::remove_cvref_t<A>>
auto shield(A&& awaitable, std::source_location where = std::source_location::current()) {
  auto inner = ensure_future(std::forward<A>(awaitable), where);
  return Shield<decltype(inner)>(std::move(inner));
}

}  // namespace ouro
