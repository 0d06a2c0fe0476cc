// How many processors this process may use.
#pragma once

#include <cstddef>

#include <ouro/runtime/config.hpp>

namespace ouro {

// The processors that the calling thread may run on (as Python's os.process_cpu_count), and no more than the quota of
// its control group allows (docker run --cpus, CPUQuota= of systemd, limits.cpu of Kubernetes), rounded up; at least 1.
// Threads: any. Complexity: some small files are read.
OURO_EXPORT std::size_t process_cpu_count();

}  // namespace ouro
