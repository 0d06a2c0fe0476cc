// gather: several awaitables at once, their results together.
#pragma once

#include <array>
#include <coroutine>
#include <cstddef>
#include <functional>
#include <memory>
#include <optional>
#include <source_location>
#include <tuple>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include <ouro/runtime/awaitable.hpp>
#include <ouro/runtime/config.hpp>
#include <ouro/runtime/coroutine.hpp>
#include <ouro/runtime/detail/gather_slots.hpp>
#include <ouro/runtime/detail/gather_state.hpp>
#include <ouro/runtime/futures.hpp>

namespace ouro {

// As the first argument of gather and map: errors and cancellations of children become results.
struct ReturnExceptions {};
inline constexpr ReturnExceptions return_exceptions{};

namespace detail {

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

  explicit GatherRange(std::vector<Child> children) noexcept : children_(std::move(children)) {}

  std::size_t size() const noexcept { return children_.size(); }

  void bind(GatherState& gather, FutureState**& list, GatherNode*& nodes) {
    results_.resize(children_.size());
    gather.slots = results_.data();
    gather.slot_kind = ResultSlots<T, Outcomes>::kind;
    if constexpr (isfuture<Child>) {
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
  // Values are stored as they are if all of them can be.
  static constexpr bool plain = !Outcomes && (has_plain_slot<ValueOf<Children>> && ...);
  template <class T>
  using HeldOf = HeldResult<std::conditional_t<std::is_void_v<T>, int, T>>;
  template <class T>
  using SlotOf = std::conditional_t<Outcomes, Outcome<T>,
                                    std::conditional_t<std::is_void_v<T>, std::monostate,
                                                       std::conditional_t<plain, HeldOf<T>, std::optional<HeldOf<T>>>>>;
  template <class T>
  using ElementOf = std::conditional_t<Outcomes, Outcome<T>, std::conditional_t<std::is_void_v<T>, std::monostate, T>>;

 public:
  template <class... Awaitables>
  explicit GatherTuple(std::in_place_t, Awaitables&&... awaitables)
      : children_(pass_child(std::forward<Awaitables>(awaitables))...) {}
  // Before it is bound: there is nothing but the children.
  GatherTuple(GatherTuple&& other) noexcept : children_(std::move(other.children_)) {}
  ~GatherTuple() = default;

  static constexpr std::size_t size() noexcept { return sizeof...(Children); }

  void bind(GatherState& gather, FutureState**& list, GatherNode*& nodes) {
    list = list_.data();
    bind_each(std::index_sequence_for<Children...>());
    gather.slots = slot_table_.data();
    gather.indirect = true;
    gather.slot_kind = Outcomes ? SlotKind::outcome : plain ? SlotKind::value : SlotKind::optional;
    if constexpr ((isfuture<Children> || ...)) nodes = nodes_.data();
  }

  std::tuple<ElementOf<ValueOf<Children>>...> take() { return take_each(std::index_sequence_for<Children...>()); }

  void set_exception(std::size_t i, const std::exception_ptr& exception) {
    const auto set = [&]<std::size_t... I>(std::index_sequence<I...>) {
      ((I == i ? static_cast<void>(std::get<I>(slots_) = SlotOf<ValueOf<Children>>(exception)) : void()), ...);
    };
    set(std::index_sequence_for<Children...>());
  }

 private:
  template <std::size_t... I>
  void bind_each(std::index_sequence<I...>) {
    (check_one<I>(), ...);
    (bind_one<I>(), ...);
  }

  template <std::size_t I>
  void check_one() const {
    const auto& child = std::get<I>(children_);
    if constexpr (!isfuture<std::remove_cvref_t<decltype(child)>>) {
      if (OURO_UNLIKELY(!child)) throw_awaited_twice();
    }
  }

  template <std::size_t I>
  void bind_one() {
    auto& child = std::get<I>(children_);
    using Child = std::remove_cvref_t<decltype(child)>;
    slot_table_[I] = &std::get<I>(slots_);
    if constexpr (isfuture<Child>) {
      list_[I] = nullptr;
      nodes_[I].future = &child.handle().state();
      nodes_[I].store = &store_future<ValueOf<Child>>;
    } else {
      list_[I] = child.release();
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

  std::tuple<Children...> children_;
  std::tuple<SlotOf<ValueOf<Children>>...> slots_;
  std::array<void*, sizeof...(Children)> slot_table_;  // set by bind(), as the next
  std::array<FutureState*, sizeof...(Children)> list_;
  std::array<GatherNode, (isfuture<Children> || ... || false) ? sizeof...(Children) : 0> nodes_;
};

// ---- The awaiter and what gather() returns ----

template <class Storage, bool Outcomes>
class GatherAwaiter final : public GatherState {
 public:
  explicit GatherAwaiter(Storage&& storage) : storage_(std::move(storage)) { this->return_exceptions = Outcomes; }
  GatherAwaiter(GatherAwaiter&& other) : GatherState(std::move(other)), storage_(std::move(other.storage_)) {
    this->return_exceptions = Outcomes;
  }
  ~GatherAwaiter() {
    if (OURO_UNLIKELY(this->holds_children)) destroy_children();
  }

  bool await_ready() const noexcept { return storage_.size() == 0; }

  template <class Promise>
  void await_suspend(std::coroutine_handle<Promise> coroutine,
                     std::source_location where = std::source_location::current()) {
    FutureState& task = task_of(coroutine, "gather");
    count = listed = static_cast<std::uint32_t>(storage_.size());
    children = nullptr;
    storage_.bind(*this, children, nodes);
    if (!children) listed = 0;
    if (nodes) {
      home = task.home;
      shared = waiting = false;
      holds_children = true;  // if that throws
      check_futures(task);
    }
    if (OURO_UNLIKELY(task.floating())) return start_shared(task, coroutine.address(), where);
    start(&GatherState::run_fixed, task, coroutine.address(), where);
  }

  auto await_resume() {
    if (this->parent) rethrow_if_failed();
    if constexpr (Outcomes) {
      if (this->trouble) {
        for (auto& [index, exception] : this->trouble->unrun) storage_.set_exception(index, exception);
      }
    }
    return storage_.take();
  }

 private:
  Storage storage_;
};

}  // namespace detail

// What gather() gives: to be awaited, once. The children are scheduled when it is awaited, in their order.
//
// The results come in the order of the arguments. At the first error the children given as coroutines are cancelled and
// awaited, then the error is thrown; futures and tasks of the caller run on. With return_exceptions every child's
// Outcome is returned instead.
// If cancelled: all children are, futures and tasks of the caller too; when they have ended, CancelledError is thrown.
template <class Storage, bool Outcomes>
class [[nodiscard("a gather does nothing until it is awaited")]] Gather {
 public:
  explicit Gather(Storage storage) noexcept : storage_(std::move(storage)) {}
  template <class... Awaitables>
  explicit Gather(std::in_place_t place, Awaitables&&... awaitables)
      : storage_(place, std::forward<Awaitables>(awaitables)...) {}

  detail::GatherAwaiter<Storage, Outcomes> operator co_await() {
    if (taken_) detail::throw_awaited_twice();
    taken_ = true;
    return detail::GatherAwaiter<Storage, Outcomes>(std::move(storage_));
  }

 private:
  Storage storage_;
  bool taken_ = false;
};

// Several of different types: a tuple of their results, std::monostate for void.
template <class... Awaitables>
  requires((Awaitable<std::remove_cvref_t<Awaitables>> || CoroutineCallable<std::decay_t<Awaitables>&>) && ...)
auto gather(Awaitables&&... awaitables) {
  using Storage = detail::GatherTuple<false, detail::GatherChild<Awaitables>...>;
  return Gather<Storage, false>(std::in_place, std::forward<Awaitables>(awaitables)...);
}
template <class... Awaitables>
  requires((Awaitable<std::remove_cvref_t<Awaitables>> || CoroutineCallable<std::decay_t<Awaitables>&>) && ...)
auto gather(ReturnExceptions, Awaitables&&... awaitables) {
  using Storage = detail::GatherTuple<true, detail::GatherChild<Awaitables>...>;
  return Gather<Storage, true>(std::in_place, std::forward<Awaitables>(awaitables)...);
}

namespace detail {

template <bool Outcomes, class A>
auto gather_vector(std::vector<A> awaitables) {
  using Child = GatherChild<A&&>;
  using Storage = GatherRange<Child, Outcomes>;
  if constexpr (std::is_same_v<Child, A>) {
    return Gather<Storage, Outcomes>(Storage(std::move(awaitables)));
  } else {
    std::vector<Child> children;
    children.reserve(awaitables.size());
    for (A& awaitable : awaitables) children.push_back(gather_child(std::move(awaitable)));
    return Gather<Storage, Outcomes>(Storage(std::move(children)));
  }
}

}  // namespace detail

// Many of one type: a vector of their results; nothing for void; std::reference_wrapper for references.
// Complexity: one allocation for the results; with futures one more.
template <class A>
auto gather(std::vector<A> awaitables) {
  return detail::gather_vector<false>(std::move(awaitables));
}
template <class A>
auto gather(ReturnExceptions, std::vector<A> awaitables) {
  return detail::gather_vector<true>(std::move(awaitables));
}

}  // namespace ouro
