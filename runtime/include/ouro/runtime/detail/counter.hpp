// A number that one thread changes, and every thread may read.
#pragma once

#include <cstdint>

#include <ouro/runtime/detail/atomic.hpp>

namespace ouro::detail {

class Counter {
 public:
  void add(std::uint64_t more) noexcept {
    value_.store(value_.load(std::memory_order_relaxed) + more, std::memory_order_relaxed);
  }
  Counter& operator++() noexcept {
    add(1);
    return *this;
  }
  // Release, for a reader that wants to see what was done before it was counted.
  void add_release(std::uint64_t more) noexcept {
    value_.store(value_.load(std::memory_order_relaxed) + more, std::memory_order_release);
  }
  // Acquire: pairs with add_release().
  std::uint64_t get() const noexcept { return value_.load(std::memory_order_acquire); }

 private:
  Atomic<std::uint64_t> value_{0};
};

}  // namespace ouro::detail
