#include "on_tbb.hpp"
#include "works.hpp"

namespace {

std::uint64_t fib(std::uint64_t n) {
  if (n < 2) return n;
  std::uint64_t one = 0;
  tbb::task_group group;
  group.run([&] { one = fib(n - 1); });
  const std::uint64_t other = fib(n - 2);
  group.wait();
  return one + other;
}

}  // namespace

int main(int argc, char** argv) { return forkjoin::run_on_tbb(forkjoin::fib_work, argc, argv, fib); }
