// A worker's deque of floating tasks: the owner pushes and pops at one end, last in first out; every other worker
// steals at the other end, first in first out.
//
// Chase and Lev, "Dynamic circular work-stealing deque", SPAA 2005, with the memory orders of Le, Pop, Cohen and Zappa
// Nardelli, "Correct and efficient work-stealing for weak memory models", PPoPP 2013; in place of their fences all
// accesses to `top_` and `bottom_` that the proof needs are sequentially consistent, which is as fast, and which
// ThreadSanitizer sees.
//
// The elements are [top, bottom). `top_` only grows, and whoever raises it by a compare-and-swap has taken that
// element. The owner takes the newest without one if there are at least two: it lowers `bottom_` first, then reads
// `top_`; a thief reads `top_` first, then `bottom_`. In the one order of these four accesses either the owner sees the
// thief's raised `top_`, or the thief sees the lowered `bottom_` and leaves the element alone. The last element is
// decided by the compare-and-swap.
//
// Parking. A push ends with a sequentially consistent store, and empty() is made of such loads: so of a worker that
// pushes and then looks who sleeps, and one that says that it sleeps and then looks at the deques, one sees the other
// (idle_workers.hpp). A light push leaves the barrier to the one that sleeps (barrier.hpp).
//
// The array doubles when it is full. A thief may still read the old one, so old arrays are kept until the end: all
// together they are as large as the last.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include <ouro/runtime/config.hpp>
#include <ouro/runtime/detail/atomic.hpp>

#include "barrier.hpp"

namespace ouro::detail {

template <class T>
class StealDeque {
 public:
#ifdef OURO_MODEL
  static constexpr std::size_t default_capacity = 2;  // every execution of a model makes its own
#else
  static constexpr std::size_t default_capacity = 256;
#endif

  // Requires: a capacity that is a power of two.
  explicit StealDeque(std::size_t capacity = default_capacity) {
    arrays_.push_back(std::make_unique<Array>(capacity));
    newest_ = arrays_.back().get();
    array_.store(newest_, std::memory_order_relaxed);
  }
  StealDeque(const StealDeque&) = delete;

  // ---- The owner's ----

  // Throws: std::bad_alloc when it has to grow; the element is not in it then.
  void push(T* element) { push(element, false); }

  // With `light` the store only releases: who sleeps has a barrier for both sides (barrier.hpp).
  OURO_INLINE void push(T* element, bool light) {
    const std::int64_t bottom = bottom_.load(std::memory_order_relaxed);
    Array* array = newest_;
    if (OURO_UNLIKELY(bottom - top_seen_ >= array->capacity())) array = make_room(bottom);
    put_in(array, bottom, element, light);
  }

  // False if push() would look how far thieves have come, or grow.
  OURO_INLINE bool has_room() const noexcept {
    return bottom_.load(std::memory_order_relaxed) - top_seen_ < newest_->capacity();
  }

  // Puts what pop_if() or pop() has just taken out in again. There is room: thieves only make more. Its old place still
  // holds it, or it was the last, and then the owner has raised `top_` after every thief before it. Or something new,
  // of which has_room() has said so.
  OURO_INLINE void put_back(T* element, bool light) noexcept {
    put_in(newest_, bottom_.load(std::memory_order_relaxed), element, light);
  }

  // Takes the newest element out if it is this one.
  OURO_INLINE bool pop_if(const T* element) noexcept {
    const std::int64_t bottom = bottom_.load(std::memory_order_relaxed) - 1;
    std::int64_t top = top_.load(std::memory_order_relaxed);
    if (top > bottom || newest_->at(bottom).load(std::memory_order_relaxed) != element) return false;
    bottom_.exchange(bottom, std::memory_order_seq_cst);  // as in pop()
    top = top_.load(std::memory_order_seq_cst);
    if (OURO_LIKELY(top < bottom)) return true;
    return pop_last(top, bottom) != nullptr;
  }

  // The newest element, or nullptr.
  T* pop() noexcept {
    const std::int64_t bottom = bottom_.load(std::memory_order_relaxed) - 1;
    // Nothing in it costs no read-modify-write: `top_` only grows, so an old value does no harm.
    if (top_.load(std::memory_order_relaxed) > bottom) return nullptr;
    bottom_.exchange(bottom, std::memory_order_seq_cst);
    std::int64_t top = top_.load(std::memory_order_seq_cst);
    if (OURO_LIKELY(top < bottom)) return newest_->at(bottom).load(std::memory_order_relaxed);
    return pop_last(top, bottom);
  }

  // The place of the oldest element, as it was: it moves when that is taken.
  std::int64_t oldest() const noexcept { return top_.load(std::memory_order_relaxed); }

  // ---- Any thread's ----

  // The oldest element, or nullptr: there is none, or another thread took it first (`lost`).
  T* steal(bool& lost) noexcept {
    lost = false;
    std::int64_t top = top_.load(std::memory_order_seq_cst);
    const std::int64_t bottom = bottom_.load(std::memory_order_seq_cst);
    if (top >= bottom) return nullptr;
    // Acquire: pairs with the release in make_room(). The element itself was released by the store to `bottom_`.
    T* element = array_.load(std::memory_order_acquire)->at(top).load(std::memory_order_relaxed);
    if (top_.compare_exchange_strong(top, top + 1, std::memory_order_seq_cst, std::memory_order_relaxed)) {
      return element;
    }
    lost = true;
    return nullptr;
  }

  // Whether a push that came before in the one order of sequentially consistent accesses has not been taken.
  bool empty() const noexcept {
    const std::int64_t top = top_.load(std::memory_order_seq_cst);
    return top >= bottom_.load(std::memory_order_seq_cst);
  }

  // A snapshot.
  std::size_t size() const noexcept {
    const std::int64_t top = top_.load(std::memory_order_relaxed);
    const std::int64_t bottom = bottom_.load(std::memory_order_relaxed);
    return bottom > top ? static_cast<std::size_t>(bottom - top) : 0;
  }

 private:
  class Array;

  OURO_INLINE void put_in(Array* array, std::int64_t bottom, T* element, bool light) noexcept {
    array->at(bottom).store(element, std::memory_order_relaxed);
    // Releases the element to thieves; sequentially consistent for parking.
    if (OURO_LIKELY(light)) {
      bottom_.store(bottom + 1, std::memory_order_release);
      light_barrier();
    } else {
      bottom_.store(bottom + 1, std::memory_order_seq_cst);
    }
  }

  // The owner lowered `bottom_` to `bottom`, and then saw `top`, which is not below: one element is left, or none.
  T* pop_last(std::int64_t top, std::int64_t bottom) noexcept {
    T* element = nullptr;
    if (top == bottom) {
      element = newest_->at(bottom).load(std::memory_order_relaxed);
      if (!top_.compare_exchange_strong(top, top + 1, std::memory_order_seq_cst, std::memory_order_relaxed)) {
        element = nullptr;
      }
    }
    // Release: a thief that reads it has everything from before, whatever it then takes.
    bottom_.store(bottom + 1, std::memory_order_release);
    return element;
  }

  class Array {
   public:
    explicit Array(std::size_t capacity) : mask_(capacity - 1), elements_(new Atomic<T*>[capacity]) {}
    std::int64_t capacity() const noexcept { return static_cast<std::int64_t>(mask_ + 1); }
    Atomic<T*>& at(std::int64_t i) noexcept { return elements_[static_cast<std::size_t>(i) & mask_]; }

   private:
    const std::size_t mask_;
    const std::unique_ptr<Atomic<T*>[]> elements_;
  };

  // The array after a look at how far thieves have come, or a larger one.
  OURO_NOINLINE Array* make_room(std::int64_t bottom) {
    // Acquire: a thief that raised `top_` has read its element, which is overwritten next.
    top_seen_ = top_.load(std::memory_order_acquire);
    Array* array = newest_;
    if (bottom - top_seen_ < array->capacity()) return array;
    auto larger = std::make_unique<Array>(static_cast<std::size_t>(2 * array->capacity()));
    for (std::int64_t i = top_seen_; i < bottom; ++i) {
      larger->at(i).store(array->at(i).load(std::memory_order_relaxed), std::memory_order_relaxed);
    }
    arrays_.push_back(std::move(larger));
    array = newest_ = arrays_.back().get();
    array_.store(array, std::memory_order_release);  // pairs with the acquire in steal()
    return array;
  }

  // Raised by whoever takes an element at this end. See the head.
  alignas(64) Atomic<std::int64_t> top_{0};
  // Written by the owner alone.
  alignas(64) Atomic<std::int64_t> bottom_{0};
  // The owner's own.
  std::int64_t top_seen_ = 0;  // `top_`, some time ago
  Array* newest_;
  std::vector<std::unique_ptr<Array>> arrays_;
  // The newest array, for thieves.
  alignas(64) Atomic<Array*> array_{nullptr};
};

}  // namespace ouro::detail
