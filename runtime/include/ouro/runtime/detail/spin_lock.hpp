// A lock for a few instructions: nothing of the user's runs under it. Where memory is asked for under one, or the
// system is called, that is said there.
#pragma once

#include <cstdint>

#include <ouro/runtime/config.hpp>
#include <ouro/runtime/detail/atomic.hpp>

namespace ouro::detail {

// What a thread does while another holds a lock: pause a little, then let others run, for the holder may have lost its
// processor.
OURO_EXPORT void wait_for_lock(std::uint32_t attempt) noexcept;

class SpinLock {
 public:
  void lock() noexcept {
    std::uint32_t attempt = 0;
    while (held_.exchange(true, std::memory_order_acquire)) {
      while (held_.load(std::memory_order_relaxed)) wait_for_lock(attempt++);
    }
  }
  void unlock() noexcept { held_.store(false, std::memory_order_release); }

  class Hold {
   public:
    explicit Hold(SpinLock& lock) noexcept : lock_(lock) { lock_.lock(); }
    ~Hold() { lock_.unlock(); }
    Hold(const Hold&) = delete;

   private:
    SpinLock& lock_;
  };

 private:
  Atomic<bool> held_{false};
};

}  // namespace ouro::detail
