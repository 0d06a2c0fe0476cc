// Affinity and the quotas of control groups. Version 2 has one tree, with "cpu.max" (QUOTA or "max", and PERIOD) in
// each directory; version 1 has a tree for the cpu controller, with cpu.cfs_quota_us (-1: none) and cpu.cfs_period_us.
// In a container the path of the membership may not exist below the mount, which then shows the container's own group.
#include <ouro/io/processors.hpp>

#include <sched.h>

#include <algorithm>
#include <cerrno>
#include <fstream>
#include <memory>
#include <string>
#include <string_view>

#include "cgroup.hpp"

namespace ouro {
namespace detail {
namespace {

namespace fs = std::filesystem;

// The first word of a file as a number; none if it is not one.
std::optional<long long> number_in(const fs::path& file) {
  std::ifstream in(file);
  long long number = 0;
  if (in >> number) return number;
  return std::nullopt;
}

std::optional<std::size_t> processors_of(long long quota, long long period) {
  if (quota <= 0 || period <= 0) return std::nullopt;
  return static_cast<std::size_t>((quota + period - 1) / period);
}

std::optional<std::size_t> limit_v2(const fs::path& group) {
  std::ifstream in(group / "cpu.max");
  long long quota = 0;
  long long period = 0;
  if (!(in >> quota >> period)) return std::nullopt;  // "max", or the root, which has no such file
  return processors_of(quota, period);
}

std::optional<std::size_t> limit_v1(const fs::path& group) {
  const auto quota = number_in(group / "cpu.cfs_quota_us");
  const auto period = number_in(group / "cpu.cfs_period_us");
  return quota && period ? processors_of(*quota, *period) : std::nullopt;
}

void take_least(std::optional<std::size_t>& least, std::optional<std::size_t> limit) {
  if (limit) least = std::min(least.value_or(*limit), *limit);
}

// The least limit from `path` below `mount` up to the mount itself.
template <class Limit>
void take_least_above(std::optional<std::size_t>& least, const fs::path& mount, const fs::path& path, Limit limit) {
  for (fs::path rest = path.relative_path(); !rest.empty(); rest = rest.parent_path()) {
    take_least(least, limit(mount / rest));
  }
  take_least(least, limit(mount));
}

bool has_cpu(std::string_view controllers) {
  while (!controllers.empty()) {
    const std::size_t comma = std::min(controllers.find(','), controllers.size());
    if (controllers.substr(0, comma) == "cpu") return true;
    controllers.remove_prefix(std::min(comma + 1, controllers.size()));
  }
  return false;
}

}  // namespace

std::optional<std::size_t> cgroup_processors(const fs::path& membership, const fs::path& mount) {
  std::optional<std::size_t> least;
  std::ifstream in(membership);
  for (std::string line; std::getline(in, line);) {
    // NUMBER:CONTROLLERS:PATH
    const std::size_t first = line.find(':');
    const std::size_t second = first == std::string::npos ? first : line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    const fs::path path = line.substr(second + 1);
    if (controllers.empty()) {
      take_least_above(least, mount, path, limit_v2);
    } else if (has_cpu(controllers)) {
      for (const std::string& name : {controllers, std::string("cpu")}) {
        take_least_above(least, mount / name, path, limit_v1);
      }
    }
  }
  return least;
}

namespace {

std::size_t affinity_processors() {
  // The kernel's mask may be wider than a cpu_set_t: it says so, and we ask again.
  for (std::size_t count = CPU_SETSIZE; count <= (std::size_t{1} << 20); count *= 2) {
    const std::size_t bytes = CPU_ALLOC_SIZE(count);
    const std::unique_ptr<cpu_set_t, void (*)(cpu_set_t*)> set(CPU_ALLOC(count), [](cpu_set_t* p) { CPU_FREE(p); });
    if (!set) break;
    if (::sched_getaffinity(0, bytes, set.get()) == 0) return static_cast<std::size_t>(CPU_COUNT_S(bytes, set.get()));
    if (errno != EINVAL) break;
  }
  return 1;
}

}  // namespace
}  // namespace detail

std::size_t process_cpu_count() {
  const std::size_t allowed = std::max<std::size_t>(1, detail::affinity_processors());
  const auto limit = detail::cgroup_processors("/proc/self/cgroup", "/sys/fs/cgroup");
  return limit ? std::clamp<std::size_t>(*limit, 1, allowed) : allowed;
}

}  // namespace ouro
