#include "on_tbb.hpp"
#include "works.hpp"

namespace {

std::uint64_t skynet(std::uint64_t first, std::uint64_t size) {
  if (size == 1) return first;
  const std::uint64_t part = size / 10;
  std::array<std::uint64_t, 10> sums;
  tbb::task_group group;
  for (std::size_t i = 0; i < 9; ++i) {
    group.run([&sums, i, first, part] { sums[i] = skynet(first + i * part, part); });
  }
  sums[9] = skynet(first + 9 * part, part);
  group.wait();
  std::uint64_t sum = 0;
  for (const std::uint64_t one : sums) sum += one;
  return sum;
}

}  // namespace

int main(int argc, char** argv) {
  return forkjoin::run_on_tbb(forkjoin::skynet_work, argc, argv, [](std::uint64_t n) { return skynet(0, n); });
}
