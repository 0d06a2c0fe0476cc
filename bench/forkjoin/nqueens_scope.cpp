#include <array>

#include "on_ouro.hpp"
#include "works.hpp"

namespace {

ouro::Coroutine<std::uint64_t> queens(forkjoin::Board board, int n) {
  if (board.queens == n) co_return std::uint64_t{1};
  std::array<int, forkjoin::Board::most> rows;
  std::size_t allowed = 0;
  for (int row = 0; row < n; ++row) {
    if (board.allows(row)) rows[allowed++] = row;
  }
  if (allowed == 0) co_return std::uint64_t{0};
  std::array<std::uint64_t, forkjoin::Board::most> sums;
  ouro::ForkScope scope;
  for (std::size_t i = 0; i + 1 < allowed; ++i) co_await scope.fork(sums[i], queens(board.with(rows[i]), n));
  co_await scope.call(sums[allowed - 1], queens(board.with(rows[allowed - 1]), n));
  co_await scope.join();
  std::uint64_t sum = 0;
  for (std::size_t i = 0; i < allowed; ++i) sum += sums[i];
  co_return sum;
}

}  // namespace

int main(int argc, char** argv) {
  return forkjoin::run_on_ouro("scope", forkjoin::nqueens_work, argc, argv,
                               [](std::uint64_t n) { return queens(forkjoin::Board(), static_cast<int>(n)); });
}
