#include <array>

#include "on_ouro.hpp"
#include "works.hpp"

namespace {

ouro::Coroutine<std::uint64_t> skynet(std::uint64_t first, std::uint64_t size) {
  if (size == 1) co_return first;
  const std::uint64_t part = size / 10;
  std::array<std::uint64_t, 10> sums;
  ouro::ForkScope scope;
  for (std::uint64_t i = 0; i < 9; ++i) co_await scope.fork(sums[i], skynet(first + i * part, part));
  co_await scope.call(sums[9], skynet(first + 9 * part, part));
  co_await scope.join();
  std::uint64_t sum = 0;
  for (const std::uint64_t one : sums) sum += one;
  co_return sum;
}

}  // namespace

int main(int argc, char** argv) {
  return forkjoin::run_on_ouro("scope", forkjoin::skynet_work, argc, argv,
                               [](std::uint64_t n) { return skynet(0, n); });
}
