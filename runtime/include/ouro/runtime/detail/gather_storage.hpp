// What a gather keeps: its children, and the places of their results.
#pragma once

#include <array>
#include <cstddef>
#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <tuple>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include <ouro/runtime/config.hpp>
#include <ouro/runtime/coroutine.hpp>
#include <ouro/runtime/detail/gather_slots.hpp>
#include <ouro/runtime/detail/gather_state.hpp>
#include <ouro/runtime/futures.hpp>

namespace ouro::detail {

template <class T>
using HeldResult =
    std::conditional_t<std::is_reference_v<T>, std::add_pointer_t<std::remove_reference_t<T>>, std::remove_cv_t<T>>;

// The results of a homogeneous gather, while its children run.
template <class T, bool Outcomes>
class ResultSlots {
  using Held = HeldResult<T>;
  static constexpr bool direct = !std::is_reference_v<T> && !std::is_same_v<Held, bool> &&
                                 std::is_default_constructible_v<Held> && std::is_move_assignable_v<Held>;
  using Slot = std::conditional_t<Outcomes, Outcome<T>, std::conditional_t<direct, Held, std::optional<Held>>>;

 public:
  static constexpr SlotKind kind = Outcomes ? SlotKind::outcome : direct ? SlotKind::value : SlotKind::optional;

  void resize(std::size_t count) { slots_.resize(count); }
  std::size_t size() const noexcept { return slots_.size(); }
  void* data() noexcept { return slots_.data(); }
  void set_exception(std::size_t i, std::exception_ptr exception) { slots_[i] = Slot(std::move(exception)); }

  auto take() {
    if constexpr (Outcomes || direct) {
      return std::move(slots_);
    } else {
      using Element =
          std::conditional_t<std::is_reference_v<T>, std::reference_wrapper<std::remove_reference_t<T>>, Held>;
      std::vector<Element> results;
      results.reserve(slots_.size());
      for (auto& slot : slots_) {
        if constexpr (std::is_reference_v<T>) {
          results.emplace_back(**slot);
        } else {
          results.push_back(std::move(*slot));
        }
      }
      return results;
    }
  }

 private:
  std::vector<Slot> slots_;
};

template <>
class ResultSlots<void, false> {
 public:
  static constexpr SlotKind kind = SlotKind::value;
  void resize(std::size_t count) noexcept { count_ = count; }
  std::size_t size() const noexcept { return count_; }
  void* data() noexcept { return nullptr; }
  void take() const noexcept {}

 private:
  std::size_t count_ = 0;
};

// How a child gets into a gather: a future of the caller's by its handle, anything else as a coroutine.
template <class A>
auto gather_child(A&& awaitable) {
  if constexpr (isfuture<A>) {
    return std::remove_cvref_t<A>(std::forward<A>(awaitable));
  } else {
    return to_coroutine(std::forward<A>(awaitable));
  }
}
template <class A>
using GatherChild = decltype(gather_child(std::declval<A>()));

// The same, but what is a child already is not moved on the way.
template <class A>
decltype(auto) pass_child(A&& awaitable) {
  if constexpr (std::is_same_v<GatherChild<A>, A> && !std::is_reference_v<A>) {
    return static_cast<A&&>(awaitable);
  } else {
    return gather_child(std::forward<A>(awaitable));
  }
}

template <class T>
void store_future(GatherNode& node) {
  FutureState& future = *node.future;
  if (future.outcome() == outcome_value) {
    store_in_slot<T>(*node.gather, node.index, static_cast<FutureResult<T>&>(future), true);
  } else {
    store_exception_in_slot<T>(*node.gather, node.index, exception_or_cancellation(future));
  }
}

// ---- A vector of coroutines, or of futures ----

template <class Child, bool Outcomes>
class GatherRange {
 public:
  using T = typename Child::value_type;

  static constexpr bool all_owned = !isfuture<Child>;
  static constexpr bool all_futures = isfuture<Child>;
  static constexpr SlotKind kind = ResultSlots<T, Outcomes>::kind;
  static constexpr bool indirect = false;
  static constexpr bool owns_early = false;  // the children are coroutines until it starts

  explicit GatherRange(std::vector<Child> children) noexcept : children_(std::move(children)) {}

  std::size_t size() const noexcept { return children_.size(); }
  void drop() noexcept {}

  void bind(void*& slots, FutureState**& list, GatherNode*& nodes) {
    results_.resize(children_.size());
    slots = results_.data();
    if constexpr (isfuture<Child>) {
      list = nullptr;
      nodes_ = std::make_unique<GatherNode[]>(children_.size());
      for (std::size_t i = 0; i < children_.size(); ++i) {
        nodes_[i].future = &children_[i].handle().state();
        nodes_[i].store = &store_future<T>;
      }
      nodes = nodes_.get();
    } else {
      static_assert(sizeof(Child) == sizeof(FutureState*) && std::is_standard_layout_v<Child>);
      for (const Child& child : children_) {
        if (OURO_UNLIKELY(!child)) throw_awaited_twice();
      }
      list = reinterpret_cast<FutureState**>(children_.data());
    }
  }

  auto take() { return results_.take(); }
  void set_exception(std::size_t i, std::exception_ptr exception) { results_.set_exception(i, std::move(exception)); }

 private:
  std::vector<Child> children_;
  ResultSlots<T, Outcomes> results_;
  struct NoNodes {};
  [[no_unique_address]] std::conditional_t<isfuture<Child>, std::unique_ptr<GatherNode[]>, NoNodes> nodes_;
};

// ---- A tuple ----

template <bool Outcomes, class... Children>
class GatherTuple {
  template <class Child>
  using ValueOf = typename Child::value_type;
  using First = std::tuple_element_t<0, std::tuple<ValueOf<Children>..., void>>;
  // Values are stored as they are if all of them can be; and if all are of one type, in an array, as a vector's.
  static constexpr bool plain = !Outcomes && (has_plain_slot<ValueOf<Children>> && ...);
  static constexpr bool uniform = plain && (std::is_same_v<First, ValueOf<Children>> && ...);
  template <class T>
  using HeldOf = HeldResult<std::conditional_t<std::is_void_v<T>, int, T>>;
  template <class T>
  using SlotOf = std::conditional_t<Outcomes, Outcome<T>,
                                    std::conditional_t<std::is_void_v<T>, std::monostate,
                                                       std::conditional_t<plain, HeldOf<T>, std::optional<HeldOf<T>>>>>;
  template <class T>
  using ElementOf = std::conditional_t<Outcomes, Outcome<T>, std::conditional_t<std::is_void_v<T>, std::monostate, T>>;
  using Slots = std::conditional_t<uniform, std::array<SlotOf<First>, sizeof...(Children)>,
                                   std::tuple<SlotOf<ValueOf<Children>>...>>;
  struct Nothing {
    Nothing() noexcept = default;
    template <class Child>
    explicit Nothing(Child&&) noexcept {}
  };
  template <class Child>
  using KeptOf = std::conditional_t<isfuture<Child>, Child, Nothing>;
  using Kept = std::conditional_t<(isfuture<Children> || ...), std::tuple<KeptOf<Children>...>, Nothing>;

 public:
  static constexpr bool all_owned = !(isfuture<Children> || ...);
  static constexpr bool all_futures = false;
  static constexpr SlotKind kind = Outcomes ? SlotKind::outcome : plain ? SlotKind::value : SlotKind::optional;
  static constexpr bool indirect = !uniform;
  static constexpr bool owns_early = true;

  template <class... Awaitables>
  explicit GatherTuple(std::in_place_t, Awaitables&&... awaitables)
      : GatherTuple(std::in_place, std::in_place, pass_child(std::forward<Awaitables>(awaitables))...) {}
  // Before it is bound: there is nothing but the children.
  GatherTuple(GatherTuple&& other) noexcept : kept_(std::move(other.kept_)), list_(other.list_) {
    other.list_.fill({});
  }
  ~GatherTuple() = default;

  static constexpr std::size_t size() noexcept { return sizeof...(Children); }

  // It is not awaited.
  void drop() noexcept {
    for (FutureState* child : list_) {
      if (child) destroy_unstarted(*child);
    }
  }

  void bind(void*& slots, FutureState**& list, GatherNode*& nodes) {
    bind_each(std::index_sequence_for<Children...>());
    list = list_.data();
    if constexpr (uniform) {
      slots = slots_.data();
    } else {
      slots = slot_table_.data();
    }
    if constexpr (!all_owned) nodes = nodes_.data();
  }

  std::tuple<ElementOf<ValueOf<Children>>...> take() { return take_each(std::index_sequence_for<Children...>()); }

  void set_exception(std::size_t i, const std::exception_ptr& exception) {
    const auto set = [&]<std::size_t... I>(std::index_sequence<I...>) {
      ((I == i ? static_cast<void>(std::get<I>(slots_) = SlotOf<ValueOf<Children>>(exception)) : void()), ...);
    };
    set(std::index_sequence_for<Children...>());
  }

 private:
  template <class... Given>
  GatherTuple(std::in_place_t, std::in_place_t, Given&&... given)  // NOLINT: values are stored when there are some
      : kept_(keep(given...)), list_{release<Children>(given)...} {}

  static Kept keep(Children&... given) {
    if constexpr (all_owned) {
      return {};
    } else {
      return Kept(KeptOf<Children>(std::move(given))...);
    }
  }
  template <class Child>
  static FutureState* release(Child& child) noexcept {
    if constexpr (isfuture<Child>) {
      return nullptr;
    } else {
      return child.release();
    }
  }

  template <std::size_t... I>
  void bind_each(std::index_sequence<I...>) {
    (check_one<I, Children>(), ...);
    (bind_one<I, Children>(), ...);
  }

  template <std::size_t I, class Child>
  void check_one() const {
    if constexpr (!isfuture<Child>) {
      if (OURO_UNLIKELY(!list_[I])) throw_awaited_twice();
    }
  }

  template <std::size_t I, class Child>
  void bind_one() {
    if constexpr (!uniform) slot_table_[I] = &std::get<I>(slots_);
    if constexpr (isfuture<Child>) {
      nodes_[I].future = &std::get<I>(kept_).handle().state();
      nodes_[I].store = &store_future<ValueOf<Child>>;
    }
  }

  template <std::size_t I>
  decltype(auto) take_one() {
    using T = ValueOf<std::tuple_element_t<I, std::tuple<Children...>>>;
    auto& slot = std::get<I>(slots_);
    if constexpr (Outcomes || plain || std::is_void_v<T>) {
      return std::move(slot);
    } else if constexpr (std::is_reference_v<T>) {
      return static_cast<T>(**slot);
    } else {
      return std::move(*slot);
    }
  }

  template <std::size_t... I>
  std::tuple<ElementOf<ValueOf<Children>>...> take_each(std::index_sequence<I...>) {
    return std::tuple<ElementOf<ValueOf<Children>>...>(take_one<I>()...);
  }

  [[no_unique_address]] Kept kept_;
  std::array<FutureState*, sizeof...(Children)> list_;  // the coroutines' frames
  Slots slots_;
  std::array<void*, uniform ? 0 : sizeof...(Children)> slot_table_;  // set by bind()
  std::array<GatherNode, all_owned ? 0 : sizeof...(Children)> nodes_;
};

}  // namespace ouro::detail
