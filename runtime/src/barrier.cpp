#include "barrier.hpp"

#include <linux/membarrier.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <ouro/runtime/config.hpp>

namespace ouro::detail {

#if OURO_TSAN

bool has_heavy_barrier() noexcept { return false; }
void heavy_barrier() noexcept {}

#else

bool has_heavy_barrier() noexcept {
  static const bool registered = ::syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0, 0) == 0;
  return registered;
}

void heavy_barrier() noexcept { ::syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0); }

#endif

}  // namespace ouro::detail
