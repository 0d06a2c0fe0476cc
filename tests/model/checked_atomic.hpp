// The stand-in for std::atomic in the builds of the model checker: <ouro/runtime/detail/atomic.hpp> includes it there,
// and the library's own code is compiled with it. The value lives in the checker's memory.hpp; the object is an address
// and the first value. Each operation says where it stands in the source, so that a mutant can name it.
#pragma once

#include <atomic>
#include <cstdint>
#include <source_location>
#include <type_traits>

namespace ouro::model {

using Place = std::source_location;

enum class Change : std::uint8_t { exchange, add, subtract, conjoin, disjoin, differ };

// Outside an exploration these act on the object itself.
void made(void* at, unsigned size) noexcept;
std::uint64_t load(const void* at, unsigned size, std::memory_order order, const Place& place) noexcept;
void store(void* at, unsigned size, std::uint64_t value, std::memory_order order, const Place& place) noexcept;
std::uint64_t change(void* at, unsigned size, Change how, std::uint64_t operand, std::memory_order order,
                     const Place& place) noexcept;
// Writes what it found to `expected` if that was something else.
bool compare_exchange(void* at, unsigned size, std::uint64_t& expected, std::uint64_t desired,
                      std::memory_order success, std::memory_order failure, bool weak, const Place& place) noexcept;
void fence(std::memory_order order, const Place& place = Place::current()) noexcept;

constexpr std::memory_order failure_of(std::memory_order success) noexcept {
  return success == std::memory_order_acq_rel   ? std::memory_order_acquire
         : success == std::memory_order_release ? std::memory_order_relaxed
                                                : success;
}

template <class T>
class CheckedAtomic {
  static_assert(std::is_trivially_copyable_v<T> && sizeof(T) <= sizeof(std::uint64_t));
  using Order = std::memory_order;
  static constexpr Order total = std::memory_order_seq_cst;

 public:
  using value_type = T;
  static constexpr bool is_always_lock_free = true;

  constexpr CheckedAtomic() noexcept : CheckedAtomic(T()) {}
  constexpr CheckedAtomic(T value) noexcept : value_(value) {  // NOLINT: converts, as std::atomic does
    if (!std::is_constant_evaluated()) made(&value_, sizeof(T));
  }
  CheckedAtomic(const CheckedAtomic&) = delete;
  CheckedAtomic& operator=(const CheckedAtomic&) = delete;

  T load(Order order = total, Place place = Place::current()) const noexcept {
    return from_bits(model::load(&value_, sizeof(T), order, place));
  }
  void store(T value, Order order = total, Place place = Place::current()) noexcept {
    model::store(&value_, sizeof(T), to_bits(value), order, place);
  }
  T exchange(T value, Order order = total, Place place = Place::current()) noexcept {
    return from_bits(model::change(&value_, sizeof(T), Change::exchange, to_bits(value), order, place));
  }
  bool compare_exchange_strong(T& expected, T desired, Order success, Order failure,
                               Place place = Place::current()) noexcept {
    return compare(expected, desired, success, failure, false, place);
  }
  bool compare_exchange_strong(T& expected, T desired, Order order = total, Place place = Place::current()) noexcept {
    return compare(expected, desired, order, failure_of(order), false, place);
  }
  bool compare_exchange_weak(T& expected, T desired, Order success, Order failure,
                             Place place = Place::current()) noexcept {
    return compare(expected, desired, success, failure, true, place);
  }
  bool compare_exchange_weak(T& expected, T desired, Order order = total, Place place = Place::current()) noexcept {
    return compare(expected, desired, order, failure_of(order), true, place);
  }
  T fetch_add(T operand, Order order = total, Place place = Place::current()) noexcept {
    return arithmetic(Change::add, operand, order, place);
  }
  T fetch_sub(T operand, Order order = total, Place place = Place::current()) noexcept {
    return arithmetic(Change::subtract, operand, order, place);
  }
  T fetch_and(T operand, Order order = total, Place place = Place::current()) noexcept {
    return arithmetic(Change::conjoin, operand, order, place);
  }
  T fetch_or(T operand, Order order = total, Place place = Place::current()) noexcept {
    return arithmetic(Change::disjoin, operand, order, place);
  }
  T fetch_xor(T operand, Order order = total, Place place = Place::current()) noexcept {
    return arithmetic(Change::differ, operand, order, place);
  }

  operator T() const noexcept { return load(); }  // NOLINT: as std::atomic
  T operator=(T value) noexcept {                 // NOLINT: likewise
    store(value);
    return value;
  }

 private:
  static std::uint64_t to_bits(T value) noexcept {
    std::uint64_t bits = 0;
    __builtin_memcpy(&bits, &value, sizeof(T));
    return bits;
  }
  static T from_bits(std::uint64_t bits) noexcept {
    T value;
    __builtin_memcpy(&value, &bits, sizeof(T));
    return value;
  }
  T arithmetic(Change how, T operand, Order order, const Place& place) noexcept {
    static_assert(std::is_integral_v<T>);
    return from_bits(model::change(&value_, sizeof(T), how, to_bits(operand), order, place));
  }
  bool compare(T& expected, T desired, Order success, Order failure, bool weak, const Place& place) noexcept {
    std::uint64_t bits = to_bits(expected);
    const bool done =
        model::compare_exchange(&value_, sizeof(T), bits, to_bits(desired), success, failure, weak, place);
    if (!done) expected = from_bits(bits);
    return done;
  }

  T value_;
};

}  // namespace ouro::model
