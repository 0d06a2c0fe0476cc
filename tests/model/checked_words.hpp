// The compiler's atomic operations on plain objects, in the builds of the model checker: what of a record several
// threads share is a plain word in the records that one thread has to itself (detail/record.hpp), and so no Atomic.
//
// This header is included before everything else, after the parts of the standard library whose own use of those
// operations is to stay what it is. From here on each of them lands in the checker, with its place in the source. Such
// a word is atomic and plain by turns: a plain write, which nothing may run beside, begins it anew; what atomic
// operations write is in the object as well, for whoever reads it plainly.
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <coroutine>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <source_location>
#include <string>
#include <thread>
#include <tuple>
#include <utility>
#include <variant>
#include <vector>

#include <model/checked_atomic.hpp>

namespace ouro::model {

std::uint64_t load_word(const void* at, unsigned size, std::memory_order order, const Place& place) noexcept;
void store_word(void* at, unsigned size, std::uint64_t value, std::memory_order order, const Place& place) noexcept;
std::uint64_t change_word(void* at, unsigned size, Change how, std::uint64_t operand, std::memory_order order,
                          const Place& place) noexcept;
bool compare_exchange_word(void* at, unsigned size, std::uint64_t& expected, std::uint64_t desired,
                           std::memory_order success, std::memory_order failure, bool weak,
                           const Place& place) noexcept;

template <class T>
class CheckedWord {
 public:
  using Value = std::remove_const_t<T>;
  static_assert(std::is_trivially_copyable_v<Value> && sizeof(T) <= sizeof(std::uint64_t));

  explicit CheckedWord(T* at, Place place = Place::current()) noexcept : at_(at), place_(place) {}

  Value load(int order) const noexcept { return from_bits(load_word(at_, sizeof(T), in(order), place_)); }
  void store(Value value, int order) const noexcept { store_word(at_, sizeof(T), to_bits(value), in(order), place_); }
  template <class U>
  Value change(Change how, U operand, int order) const noexcept {
    return from_bits(change_word(at_, sizeof(T), how, to_bits(static_cast<Value>(operand)), in(order), place_));
  }
  bool compare_exchange(Value* expected, Value desired, bool weak, int success, int failure) const noexcept {
    std::uint64_t bits = to_bits(*expected);
    const bool done =
        compare_exchange_word(at_, sizeof(T), bits, to_bits(desired), in(success), in(failure), weak, place_);
    if (!done) *expected = from_bits(bits);
    return done;
  }

 private:
  static std::memory_order in(int order) noexcept { return static_cast<std::memory_order>(order); }
  static std::uint64_t to_bits(Value value) noexcept {
    std::uint64_t bits = 0;
    __builtin_memcpy(&bits, &value, sizeof(T));
    return bits;
  }
  static Value from_bits(std::uint64_t bits) noexcept {
    Value value;
    __builtin_memcpy(&value, &bits, sizeof(T));
    return value;
  }

  T* at_;
  Place place_;
};

}  // namespace ouro::model

// NOLINTBEGIN: these names are the compiler's
#define __atomic_load_n(at, order) ::ouro::model::CheckedWord(at).load(order)
#define __atomic_store_n(at, value, order) ::ouro::model::CheckedWord(at).store(value, order)
#define __atomic_exchange_n(at, value, order) \
  ::ouro::model::CheckedWord(at).change(::ouro::model::Change::exchange, value, order)
#define __atomic_fetch_add(at, operand, order) \
  ::ouro::model::CheckedWord(at).change(::ouro::model::Change::add, operand, order)
#define __atomic_fetch_sub(at, operand, order) \
  ::ouro::model::CheckedWord(at).change(::ouro::model::Change::subtract, operand, order)
#define __atomic_fetch_or(at, operand, order) \
  ::ouro::model::CheckedWord(at).change(::ouro::model::Change::disjoin, operand, order)
#define __atomic_sub_fetch(at, operand, order) (__atomic_fetch_sub(at, operand, order) - (operand))
#define __atomic_compare_exchange_n(at, expected, desired, weak, success, failure) \
  ::ouro::model::CheckedWord(at).compare_exchange(expected, desired, weak, success, failure)
// NOLINTEND
