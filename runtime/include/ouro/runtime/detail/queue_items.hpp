// What the items of a queue lie in. None of it knows who waits, or any lock.
#pragma once

#include <algorithm>
#include <cstddef>
#include <memory>
#include <utility>
#include <vector>

#include <ouro/runtime/config.hpp>

namespace ouro::detail {

// First in, first out, in a circle that grows.
template <class T>
class FifoItems {
 public:
  FifoItems() noexcept = default;
  FifoItems(const FifoItems&) = delete;
  FifoItems(FifoItems&& other) noexcept { swap(other); }
  ~FifoItems() {
    for (; head_ != tail_; ++head_) std::destroy_at(at(head_));
    if (slots_) std::allocator<T>().deallocate(slots_, mask_ + 1);
  }

  template <class U>
  void push(U&& item) {
    if (OURO_UNLIKELY(tail_ == end_)) grow();
    std::construct_at(at(tail_), std::forward<U>(item));
    ++tail_;
  }
  FifoItems take_all() noexcept { return FifoItems(std::move(*this)); }
  T pop() {
    T* const first = at(head_);
    T item(std::move(*first));
    ++head_;
    ++end_;
    std::destroy_at(first);
    return item;
  }

 private:
  T* at(std::size_t i) const noexcept { return slots_ + (i & mask_); }
  void swap(FifoItems& other) noexcept {
    std::swap(slots_, other.slots_);
    std::swap(mask_, other.mask_);
    std::swap(head_, other.head_);
    std::swap(tail_, other.tail_);
    std::swap(end_, other.end_);
  }
  OURO_NOINLINE void grow() {
    const std::size_t wider = slots_ ? 2 * (mask_ + 1) : 16;
    FifoItems other;
    other.slots_ = std::allocator<T>().allocate(wider);
    other.mask_ = wider - 1;
    other.end_ = wider;
    for (std::size_t i = head_; i != tail_; ++i) {
      std::construct_at(other.at(other.tail_), std::move_if_noexcept(*at(i)));
      ++other.tail_;
    }
    swap(other);
  }

  T* slots_ = nullptr;
  std::size_t mask_ = 0;  // of places: their number is a power of two
  std::size_t head_ = 0;
  std::size_t tail_ = 0;
  std::size_t end_ = 0;  // where the tail has come round to the head
};

template <class T>
class LifoItems {
 public:
  template <class U>
  void push(U&& item) {
    items_.push_back(std::forward<U>(item));
  }
  std::vector<T> take_all() noexcept { return std::exchange(items_, {}); }
  T pop() {
    T item(std::move(items_.back()));
    items_.pop_back();
    return item;
  }

 private:
  std::vector<T> items_;
};

// The least first.
template <class T, class Compare>
class PriorityItems {
 public:
  PriorityItems() = default;
  explicit PriorityItems(Compare less) : greater_{std::move(less)} {}

  template <class U>
  void push(U&& item) {
    items_.push_back(std::forward<U>(item));
    std::push_heap(items_.begin(), items_.end(), greater_);
  }
  std::vector<T> take_all() noexcept { return std::exchange(items_, {}); }
  T pop() {
    std::pop_heap(items_.begin(), items_.end(), greater_);
    T item(std::move(items_.back()));
    items_.pop_back();
    return item;
  }

 private:
  struct Greater {
    Compare less{};
    bool operator()(const T& a, const T& b) const { return less(b, a); }
  };
  std::vector<T> items_;
  Greater greater_;
};

}  // namespace ouro::detail
