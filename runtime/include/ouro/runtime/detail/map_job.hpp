// What a map of map_unordered.hpp is made of, with its types: where its elements come from, its children, its results.
#pragma once

#include <concepts>
#include <cstddef>
#include <functional>
#include <memory>
#include <optional>
#include <ranges>
#include <type_traits>
#include <utility>
#include <vector>

#include <ouro/runtime/awaitable.hpp>
#include <ouro/runtime/config.hpp>
#include <ouro/runtime/coroutine.hpp>
#include <ouro/runtime/detail/gather_slots.hpp>
#include <ouro/runtime/detail/map_state.hpp>
#include <ouro/runtime/detail/result.hpp>
#include <ouro/runtime/futures.hpp>

namespace ouro {

// What can be asked for one value after the other: `co_await source.next()` gives a value or nothing (a std::optional,
// a pointer). An AsyncGenerator is; what has aclose() is closed by who reads it.
template <class S>
concept AsyncIterable = requires(S& source) { source.next(); } && Awaitable<decltype(std::declval<S&>().next())> &&
                        requires(await_result_t<decltype(std::declval<S&>().next())>& value) {
                          static_cast<bool>(value);
                          *value;
                        };

namespace detail {

// ---- Where elements come from ----

// An element, kept as long as its child; or where it is, if the source gives a reference that lasts.
template <class Item, bool lasts>
class KeptItem {
 public:
  explicit KeptItem(Item&& item) : item_(static_cast<Item&&>(item)) {}
  Item&& pass() noexcept { return static_cast<Item&&>(item_); }

 private:
  std::remove_cvref_t<Item> item_;
};
template <class Item>
class KeptItem<Item&, true> {
 public:
  explicit KeptItem(Item& item) noexcept : item_(std::addressof(item)) {}
  Item& pass() noexcept { return *item_; }

 private:
  Item* item_;
};

template <class View>
class RangeSource {
 public:
  static constexpr bool is_async = false;
  using Item = std::ranges::range_reference_t<View>;
  // What an input range refers to goes with its next element.
  using Kept = KeptItem<Item, std::ranges::forward_range<View> && std::is_lvalue_reference_v<Item>>;

  explicit RangeSource(View&& view) : view_(std::move(view)) {}
  View& view() noexcept { return view_; }

 private:
  View view_;
};

// S: what was given, or a reference to it.
template <class S>
class AsyncSource {
 public:
  static constexpr bool is_async = true;
  using Next = await_result_t<decltype(std::declval<std::remove_reference_t<S>&>().next())>;
  using Item = decltype(*std::declval<Next>());
  using Kept = KeptItem<Item, std::is_lvalue_reference_v<Item>>;

  explicit AsyncSource(S&& source) : source_(static_cast<S&&>(source)) {}
  std::remove_reference_t<S>& get() noexcept { return source_; }

 private:
  S source_;
};

template <class R>
concept MapSource = std::ranges::viewable_range<R> || AsyncIterable<std::remove_reference_t<R>>;

template <class R>
auto map_source(R&& range) {
  if constexpr (std::ranges::viewable_range<R>) {
    return RangeSource<std::views::all_t<R>>(std::views::all(std::forward<R>(range)));
  } else {
    return AsyncSource<R>(std::forward<R>(range));
  }
}
template <class R>
using MapSourceOf = decltype(map_source(std::declval<R>()));

template <class F, class R>
concept MapsOver = MapSource<R> && std::invocable<std::decay_t<F>&, typename MapSourceOf<R>::Item>;

template <class T, bool Outcomes>
using MapValue = std::conditional_t<
    Outcomes, Outcome<T>,
    std::conditional_t<std::is_reference_v<T>, std::reference_wrapper<std::remove_reference_t<T>>, T>>;

// With its types.
template <class F, class Source, bool Outcomes>
class MapJob final : public MapState {
 public:
  using Kept = typename Source::Kept;
  using Made = std::invoke_result_t<F&, typename Source::Item>;
  using T = typename decltype(to_coroutine(std::declval<Made>()))::value_type;
  using Value = MapValue<T, Outcomes>;

  struct Child final : MapChild {
    explicit Child(typename Source::Item&& given) : item(static_cast<typename Source::Item&&>(given)) {}
    Kept item;
  };

  MapJob(F&& of, Source&& from, MapBound bound, Counts counts)
      : MapState(std::move(bound), counts, Outcomes), f(std::move(of)), source(std::move(from)) {}

  // Throws: what moving a value throws; RuntimeError for one that can only be moved, and that others have a handle to.
  static Value value_of(MapChild& child) {
    const FutureHandle handle = std::move(child.task);
    FutureState& task = handle.state();
    if constexpr (!Outcomes) {
      return Value(take_value<T>(task));
    } else {
      if (task.outcome() != outcome_value) return Value(exception_or_cancellation(task));
      if constexpr (std::is_void_v<T>) {
        return Value(std::in_place);
      } else {
        return Value(std::in_place, take_value<T>(task));
      }
    }
  }

  F f;
  Source source;
};

// Results by number.
template <class Value>
class MapList {
 public:
  using Type = std::vector<Value>;

  template <class Make>
  void put(std::size_t number, Make make) {
    if (values_.size() <= number) values_.resize(number + 1);
    values_[number].emplace(make());
  }
  Type take() {
    Type list;
    list.reserve(values_.size());
    for (std::optional<Value>& value : values_) list.push_back(std::move(*value));
    return list;
  }

 private:
  std::vector<std::optional<Value>> values_;
};
template <>
class MapList<void> {
 public:
  using Type = void;
  template <class Make>
  void put(std::size_t, Make make) {
    make();
  }
  void take() const noexcept {}
};

}  // namespace detail
}  // namespace ouro
