// How the children of a gather or a map store their results, each at its end: typed, in line where it matters.
#pragma once

#include <cstdint>
#include <exception>
#include <memory>
#include <optional>
#include <type_traits>
#include <utility>

#include <ouro/runtime/config.hpp>
#include <ouro/runtime/detail/core.hpp>
#include <ouro/runtime/detail/gather_state.hpp>
#include <ouro/runtime/detail/result.hpp>

namespace ouro::detail {

// Results of this type are stored as they are, in an array, and storing them cannot fail.
template <class T>
inline constexpr bool has_plain_slot =
    std::is_void_v<T> || (std::is_nothrow_move_assignable_v<T> && std::is_default_constructible_v<T> &&
                          !std::is_reference_v<T> && !std::is_same_v<std::remove_cv_t<T>, bool>);

// The value or the exception of `child` goes to its slot.
template <class T>
void store_in_slot(GatherState& gather, std::uint32_t index, FutureResult<T>& child, bool copy) {
  if constexpr (std::is_void_v<T>) {
    if (gather.slot_kind == SlotKind::outcome) {
      auto* slot = gather.indirect ? static_cast<Outcome<void>**>(gather.slot_table())[index]
                                   : static_cast<Outcome<void>*>(gather.slots) + index;
      *slot = Outcome<void>(std::in_place);
    }
  } else {
    const auto value = [&]() -> decltype(auto) {
      if constexpr (std::is_reference_v<T>) {
        return child.value();
      } else {
        return static_cast<T&&>(child.value());
      }
    };
    const auto place = [&](auto* first) {
      using Slot = std::remove_pointer_t<decltype(first)>;
      return gather.indirect ? static_cast<Slot**>(gather.slot_table())[index] : first + index;
    };
    using Held = std::conditional_t<std::is_reference_v<T>, std::remove_reference_t<T>*, std::remove_cv_t<T>>;
    const auto held = [&]() -> Held {
      if constexpr (std::is_reference_v<T>) {
        return std::addressof(value());
      } else if constexpr (is_copyable<T>) {
        return copy ? T(child.value()) : T(std::move(child.value()));
      } else {
        // While a task is at its end and still linked, one reference is the loop's own.
        if (copy && handles_of(child) > (child.has(flag_linked) && !child.has(flag_shared) ? 2U : 1U)) {
          throw_shared_result();
        }
        return std::move(child.value());
      }
    };
    if (gather.slot_kind == SlotKind::value) {
      if constexpr (std::is_default_constructible_v<Held> && std::is_move_assignable_v<Held>) {
        *place(static_cast<Held*>(gather.slot_table())) = held();
      }
    } else if (gather.slot_kind == SlotKind::optional) {
      place(static_cast<std::optional<Held>*>(gather.slot_table()))->emplace(held());
    } else if constexpr (std::is_reference_v<T>) {
      *place(static_cast<Outcome<T>*>(gather.slot_table())) = Outcome<T>(std::in_place, value());
    } else {
      *place(static_cast<Outcome<T>*>(gather.slot_table())) = Outcome<T>(std::in_place, held());
    }
  }
}

template <class T>
void store_exception_in_slot(GatherState& gather, std::uint32_t index, std::exception_ptr exception) {
  auto* slot = gather.indirect ? static_cast<Outcome<T>**>(gather.slot_table())[index]
                               : static_cast<Outcome<T>*>(gather.slots) + index;
  *slot = Outcome<T>(std::move(exception));
}

OURO_EXPORT std::exception_ptr exception_or_cancellation(FutureState& state);

template <class T>
OURO_NOINLINE void give_to_gather_slowly(GatherState& gather, FutureResult<T>& child) noexcept {
  if (child.outcome() == outcome_value) {
    try {
      store_in_slot<T>(gather, child.child.index, child, false);
    } catch (...) {
      if (gather.slot_kind == SlotKind::outcome) {
        store_exception_in_slot<T>(gather, child.child.index, std::current_exception());
      } else {
        gather.child_failed(child, std::current_exception());
      }
    }
  } else if (gather.slot_kind == SlotKind::outcome) {
    store_exception_in_slot<T>(gather, child.child.index, exception_or_cancellation(child));
  } else {
    gather.child_failed(child, child.outcome() == outcome_exception ? child.exception() : nullptr);
  }
}

// At the final_suspend of a gathered child. True if its frame is to go.
template <class T>
bool give_to_gather(FutureResult<T>& child) noexcept {
  GatherState& gather = *child.gather;
  give_to_gather_slowly<T>(gather, child);
  return gather.child_done(child);
}

// The ends of most children, in line: a value that is stored as it is, no handle, nothing unusual.
inline constexpr unsigned direct_child = flag_task | flag_gathered | flag_started | flag_direct;
inline constexpr unsigned first_step_child = flag_task | flag_gathered | flag_started | flag_first_step;

template <class T>
OURO_INLINE inline void store_plainly(GatherState& gather, FutureResult<T>& child, std::uint32_t index) noexcept {
  if constexpr (!std::is_void_v<T>) static_cast<T*>(gather.slots)[index] = static_cast<T&&>(child.value());
}
// Storing a value may run an assignment of the user's, which may get hold of the task.
template <class T>
bool held_meanwhile(const FutureResult<T>& child) noexcept {
  if constexpr (std::is_void_v<T> || std::is_trivially_move_assignable_v<T>) {
    return false;
  } else {
    return !child.has(flag_direct) && !child.has(flag_first_step);
  }
}
// flag_direct: a child of a gather. True if its frame is to go.
template <class T>
OURO_INLINE inline bool give_to_slot(FutureResult<T>& child) noexcept {
  GatherState& gather = *child.gather;
  FutureState** const children = gather.children;
  const std::uint32_t index = child.child.index;
  store_plainly<T>(gather, child, index);
  children[index] = nullptr;
  if (--gather.pending == 0) gather.finish();
  if (OURO_UNLIKELY(held_meanwhile<T>(child))) return gather.let_go(child);
  child.home->current = nullptr;  // as let_go()
  return true;
}
// A floating child that nobody has heard of. True if its frame is to go.
inline constexpr unsigned private_child =
    flag_task | flag_gathered | flag_started | flag_direct | flag_first_step | flag_shared;
template <class T>
OURO_INLINE inline bool give_to_shared_slot(FutureResult<T>& child) noexcept {
  GatherState& gather = *child.gather;
  const std::uint32_t index = child.child.index;
  if constexpr (!std::is_void_v<T>) {
    T* slot = gather.indirect ? static_cast<T**>(gather.slot_table())[index] : static_cast<T*>(gather.slots) + index;
    *slot = static_cast<T&&>(child.value());
  }
  if (OURO_UNLIKELY(held_meanwhile<T>(child))) return gather.shared_child_done(child);
  return OURO_LIKELY(gather.private_child_ended(child) != nullptr);
}
// flag_first_step: a child of a map. The runner looks. True if its frame is to go.
template <class T>
OURO_INLINE inline bool give_to_slot_at_once(FutureResult<T>& child) noexcept {
  GatherState& gather = *child.gather;
  store_plainly<T>(gather, child, child.child.index);
  gather.ended_at_once = true;
  if (OURO_UNLIKELY(held_meanwhile<T>(child))) return gather.let_go(child);
  child.home->current = nullptr;
  return true;
}

}  // namespace ouro::detail
