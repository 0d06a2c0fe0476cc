#include "on_ouro.hpp"
#include "works.hpp"

namespace {

ouro::Coroutine<std::uint64_t> skynet(std::uint64_t first, std::uint64_t size) {
  if (size == 1) co_return first;
  const std::uint64_t part = size / 10;
  std::vector<ouro::Coroutine<std::uint64_t>> parts;
  parts.reserve(10);
  for (std::uint64_t i = 0; i < 10; ++i) parts.push_back(skynet(first + i * part, part));
  const std::vector<std::uint64_t> sums = co_await ouro::gather(std::move(parts));
  std::uint64_t sum = 0;
  for (const std::uint64_t one : sums) sum += one;
  co_return sum;
}

}  // namespace

int main(int argc, char** argv) {
  return forkjoin::run_on_ouro("gather", forkjoin::skynet_work, argc, argv,
                               [](std::uint64_t n) { return skynet(0, n); });
}
