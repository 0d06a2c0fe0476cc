#include "on_ouro.hpp"
#include "works.hpp"

namespace {

ouro::Coroutine<std::uint64_t> queens(forkjoin::Board board, int n) {
  if (board.queens == n) co_return std::uint64_t{1};
  std::vector<ouro::Coroutine<std::uint64_t>> parts;
  parts.reserve(static_cast<std::size_t>(n));
  for (int row = 0; row < n; ++row) {
    if (board.allows(row)) parts.push_back(queens(board.with(row), n));
  }
  if (parts.empty()) co_return std::uint64_t{0};
  const std::vector<std::uint64_t> sums = co_await ouro::gather(std::move(parts));
  std::uint64_t sum = 0;
  for (const std::uint64_t one : sums) sum += one;
  co_return sum;
}

}  // namespace

int main(int argc, char** argv) {
  return forkjoin::run_on_ouro("gather", forkjoin::nqueens_work, argc, argv,
                               [](std::uint64_t n) { return queens(forkjoin::Board(), static_cast<int>(n)); });
}
