#include <ouro/runtime/detail/spin_lock.hpp>

#include <sched.h>

namespace ouro::detail {

void wait_for_lock(std::uint32_t attempt) noexcept {
  if (attempt % 64 == 63) {
    ::sched_yield();
    return;
  }
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace ouro::detail
