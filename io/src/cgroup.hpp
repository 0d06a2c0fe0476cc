// The parts of process_cpu_count(), apart for tests.
#pragma once

#include <cstddef>
#include <filesystem>
#include <optional>

namespace ouro::detail {

// How many processors the control groups of a process allow it, rounded up; none if nothing limits it. `membership` is
// /proc/self/cgroup, `mount` is /sys/fs/cgroup. A limit holds for everything below it, so every level is looked at.
std::optional<std::size_t> cgroup_processors(const std::filesystem::path& membership,
                                             const std::filesystem::path& mount);

}  // namespace ouro::detail
