// map: a coroutine for each element of a range, made when it is started. The fast form of a large gather, and with a
// limit the bounded one.
#pragma once

#include <algorithm>
#include <coroutine>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <limits>
#include <memory>
#include <new>
#include <optional>
#include <ranges>
#include <source_location>
#include <type_traits>
#include <utility>
#include <vector>

#include <ouro/runtime/config.hpp>
#include <ouro/runtime/coroutine.hpp>
#include <ouro/runtime/detail/gather_state.hpp>
#include <ouro/runtime/gather.hpp>

namespace ouro {

struct MapOptions {
  std::size_t limit = std::numeric_limits<std::size_t>::max();  // children that are unfinished at a time
};

namespace detail {

[[noreturn, gnu::cold]] OURO_EXPORT void throw_zero_limit();
[[noreturn, gnu::cold]] OURO_EXPORT void throw_too_many_elements();

template <class F, class View, bool Outcomes>
class MapAwaiter final : public MapGather {
  using Made = std::invoke_result_t<F&, std::ranges::range_reference_t<View>>;
  using Child = decltype(to_coroutine(std::declval<Made>()));
  using T = typename Child::value_type;

 public:
  MapAwaiter(F&& f, View&& view, std::size_t limit) : f_(std::move(f)), view_(std::move(view)), limit_(limit) {
    prepare();
  }
  MapAwaiter(MapAwaiter&& other)
      : MapGather(std::move(other)), f_(std::move(other.f_)), view_(std::move(other.view_)), limit_(other.limit_) {
    prepare();
  }
  ~MapAwaiter() {
    if (OURO_UNLIKELY(this->holds_children)) destroy_children();
  }

  bool await_ready() const noexcept { return false; }

  template <class Promise>
  void await_suspend(std::coroutine_handle<Promise> coroutine,
                     std::source_location where = std::source_location::current()) {
    FutureState& task = task_of(coroutine, "map");
    if (OURO_UNLIKELY(task.floating())) {
      prepare_shared();
      return start_shared(task, coroutine.address(), where);
    }
    if constexpr (std::ranges::sized_range<View>) grow(static_cast<std::size_t>(std::ranges::size(view_)));
    position_.emplace(std::ranges::begin(view_));
    start(&MapAwaiter::run, task, coroutine.address(), where);
  }

  auto await_resume() {
    rethrow_if_failed();
    results_.resize(made_);
    return results_.take();
  }

 private:
  void prepare() noexcept {
    this->return_exceptions = Outcomes;
    this->fixed = false;
    this->slot_kind = ResultSlots<T, Outcomes>::kind;
    this->child_stage = stage_of_children(this->slot_kind);
    this->map_kind = &map_functions;
    this->slots = nullptr;
    this->children = nullptr;
    this->count = this->listed = 0;
  }

  void grow(std::size_t size) {
    results_.resize(size);
    this->slots = results_.data();
  }

  static void run(void* leaf) {
    auto& self = *static_cast<MapAwaiter*>(static_cast<GatherState*>(static_cast<FrameHeader*>(leaf)));
    bool finished = true;
    try {
      finished = self.run_children();
    } catch (...) {
      self.fail(std::current_exception());
    }
    if (finished) self.runner_done();
  }

  // Starts children as long as it may. True if there is nothing more to start, ever.
  // Throws: what f and the range throw.
  bool run_children() {
    LoopState& loop = *this->home;
    const unsigned stage = flag_task | flag_gathered | flag_started | this->child_flags;
    const auto end = std::ranges::end(view_);
    auto& position = *position_;
    loop.current = this->parent;  // f and the range run in the name of the task that called map
    while (!(position == end)) {
      if (OURO_UNLIKELY(made_ >= this->brake) && !may_start()) return !this->starved;
      FutureState* const child = make();
      child->leaf = child->frame();
      child->home = &loop;
      child->gather = this;
      child->child.index = static_cast<std::uint32_t>(made_);
      child->child.position = not_listed;
      set_stage(*child, 0, stage);
      ++made_;
      this->ended_at_once = false;
      loop.current = child;
      drive_here(child->leaf);
      loop.current = this->parent;
      if (!this->ended_at_once) list(*child);
      if (OURO_UNLIKELY(this->aborting)) return true;
      ++position;  // only now, because the element of an input range may go with it
      if (--loop.budget == 0) {
        loop.budget = 1;
        loop.batch.push_front(*this);
        return false;
      }
    }
    return true;
  }

  // At the brake: true if another child may be started, and how many before the next look is set.
  OURO_NOINLINE bool may_start() {
    if (this->aborting) return false;
    const std::uint64_t running = this->pending - 1;
    if (running >= limit_) {
      this->starved = true;
      return false;
    }
    if (made_ == room_) make_room();
    this->brake = made_ + std::min<std::uint64_t>(room_ - made_, limit_ - running);
    return true;
  }

  // Room for the results of more children, and for their names should they suspend: up to the `room_`th.
  void make_room() {
    if (made_ >= results_.size()) grow(std::max<std::size_t>(64, 2 * results_.size()));
    if (suspended_.capacity() == suspended_.size()) {
      suspended_.reserve(2 * suspended_.size() + 64);
      this->children = suspended_.data();
    }
    room_ = std::min(results_.size(), made_ + suspended_.capacity() - suspended_.size());
  }

  FutureState* make() {
    if constexpr (is_coroutine<Made>) {
      auto coroutine = std::invoke(f_, **position_);
      if (OURO_UNLIKELY(!coroutine)) throw_awaited_twice();
      return coroutine.release();
    } else {
      return to_coroutine(std::invoke(f_, **position_)).release();
    }
  }

  // A child that suspended: from now on a cancellation must find it. The room for it is reserved.
  OURO_NOINLINE void list(FutureState& child) noexcept {
    child.clear(flag_first_step);
    child.child.position = static_cast<std::uint32_t>(suspended_.size());
    suspended_.push_back(&child);
    this->children = suspended_.data();
    this->listed = static_cast<std::uint32_t>(suspended_.size());
    ++this->pending;
    if (OURO_UNLIKELY(this->aborting)) cancel(child, this->cancel_message());  // it cancelled the map in its first step
  }
  static FutureState* make_one(GatherState& self, std::uint32_t i) {
    return static_cast<MapAwaiter&>(self).make_child(i);
  }
  static void run_one_bite(GatherState& self, MapRun& run) { static_cast<MapAwaiter&>(self).run_some(run); }
  static void shorten(GatherState& self, std::uint32_t left) noexcept {
    static_cast<MapAwaiter&>(self).suspended_.resize(left);
  }
  static constexpr MapKind map_functions{&make_one, &run_one_bite, &shorten};

  // ---- In a group: the elements by number ----
  using Iterator = std::ranges::iterator_t<View>;
  using Reference = std::ranges::range_reference_t<View>;
  static constexpr bool by_number = std::ranges::random_access_range<View> && std::ranges::sized_range<View>;
  // Of a range that can be walked again the places; of one that cannot what it gave.
  using Kept = std::conditional_t<std::ranges::forward_range<View>, Iterator,
                                  std::conditional_t<std::is_lvalue_reference_v<Reference>,
                                                     std::ranges::range_value_t<View>, std::remove_cvref_t<Reference>>>;

  void prepare_shared() {
    std::size_t size = 0;
    if constexpr (by_number) {
      position_.emplace(std::ranges::begin(view_));
      size = static_cast<std::size_t>(std::ranges::size(view_));
    } else {
      const auto end = std::ranges::end(view_);
      for (auto at = std::ranges::begin(view_); !(at == end); ++at) {
        if constexpr (std::ranges::forward_range<View>) {
          kept_.push_back(at);
        } else {
          kept_.push_back(*at);
        }
      }
      size = kept_.size();
    }
    if (size >= not_listed) throw_too_many_elements();
    grow(size);
    made_ = size;
    const std::size_t bytes = std::max<std::size_t>(size, 1) * sizeof(FutureState*);
    named_ = {static_cast<FutureState**>(allocate_zeros(bytes)), Free{bytes}};
    this->children = named_.get();
    this->count = static_cast<std::uint32_t>(size);
    if (limit_ < size) {
      this->limited = true;
      this->most_running = static_cast<std::uint32_t>(limit_);
    }
  }

  void run_some(MapRun& run) {
    LoopState& loop = run.loop;
    do {
      const std::uint32_t i = run.next++;
      FutureState* child = nullptr;
      loop.current = this->parent;
      try {
        child = make_child(i);
      } catch (...) {
        loop.current = nullptr;
        return fail_shared(std::current_exception());
      }
      prepare_child(*child, i, run.from, loop);
      loop.current = child;
      drive_here(child->leaf);
      if (loop.ended != this || loop.ended_share != run.from || loop.hop) {
        run.all_ended = false;
        return;
      }
      loop.ended = nullptr;
    } while (run.next != run.end && run.idle.load(std::memory_order_relaxed) == 0 && !this->stop_requested());
  }

  FutureState* make_child(std::uint32_t i) {
    if constexpr (by_number) {
      return release((*position_)[static_cast<std::iter_difference_t<Iterator>>(i)]);
    } else if constexpr (std::ranges::forward_range<View>) {
      return release(*kept_[i]);
    } else {
      return release(static_cast<Reference&&>(kept_[i]));
    }
  }

  template <class Element>
  FutureState* release(Element&& element) {
    if constexpr (is_coroutine<Made>) {
      auto coroutine = std::invoke(f_, std::forward<Element>(element));
      if (OURO_UNLIKELY(!coroutine)) throw_awaited_twice();
      return coroutine.release();
    } else {
      return to_coroutine(std::invoke(f_, std::forward<Element>(element))).release();
    }
  }

  std::vector<Kept> kept_;
  F f_;
  View view_;
  std::size_t limit_;
  std::optional<std::ranges::iterator_t<View>> position_;
  std::size_t made_ = 0;
  std::size_t room_ = 0;
  ResultSlots<T, Outcomes> results_;
  std::vector<FutureState*> suspended_;
  struct Free {
    std::size_t bytes = 0;
    void operator()(FutureState** list) const noexcept { free_zeros(list, bytes); }
  };
  std::unique_ptr<FutureState*[], Free> named_;  // in a group: by their numbers, while they are public
};

template <class F, class View, bool Outcomes>
class [[nodiscard("a map does nothing until it is awaited")]] Map {
 public:
  Map(F f, View view, MapOptions options) : f_(std::move(f)), view_(std::move(view)), options_(options) {
    if (options.limit == 0) throw_zero_limit();
  }

  MapAwaiter<F, View, Outcomes> operator co_await() {
    if (taken_) throw_awaited_twice();
    taken_ = true;
    return MapAwaiter<F, View, Outcomes>(std::move(f_), std::move(view_), options_.limit);
  }

 private:
  F f_;
  View view_;
  MapOptions options_;
  bool taken_ = false;
};

}  // namespace detail

// Awaits `f(element)` for every element, at most `limit` at a time, and gives the results in the order of the elements
// (a vector; nothing for void). Each child is made when it is started. Errors and cancellation are as in gather: at the
// first error no further child is started, those that run are cancelled and awaited, then the error is thrown.
// Threads: in a group with a floating parent `f` is called, and the range read, by several workers at once; a range
// that cannot be indexed is walked to its end before the first child starts.
// Lifetime: a range given as an lvalue is referred to; an rvalue, and `f`, live in the map. An element that the range
// makes anew (a view that transforms, say) goes when `f` returns: a coroutine takes it by value.
// If cancelled: all children are; when they have ended, CancelledError is thrown.
// Throws: ValueError for a limit of zero.
template <class F, std::ranges::viewable_range R>
  requires std::invocable<std::decay_t<F>&, std::ranges::range_reference_t<std::views::all_t<R>>>
auto map(F&& f, R&& range, MapOptions options = {}) {
  using View = std::views::all_t<R>;
  return detail::Map<std::decay_t<F>, View, false>(std::forward<F>(f), std::views::all(std::forward<R>(range)),
                                                   options);
}
template <class F, std::ranges::viewable_range R>
  requires std::invocable<std::decay_t<F>&, std::ranges::range_reference_t<std::views::all_t<R>>>
auto map(ReturnExceptions, F&& f, R&& range, MapOptions options = {}) {
  using View = std::views::all_t<R>;
  return detail::Map<std::decay_t<F>, View, true>(std::forward<F>(f), std::views::all(std::forward<R>(range)), options);
}

}  // namespace ouro
