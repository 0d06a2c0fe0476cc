#include "on_tbb.hpp"
#include "works.hpp"

namespace {

std::uint64_t queens(const forkjoin::Board& board, int n) {
  if (board.queens == n) return 1;
  // The last one is called, so which are allowed must be known first.
  std::array<int, forkjoin::Board::most> rows;
  std::size_t allowed = 0;
  for (int row = 0; row < n; ++row) {
    if (board.allows(row)) rows[allowed++] = row;
  }
  if (allowed == 0) return 0;
  std::array<std::uint64_t, forkjoin::Board::most> sums;
  tbb::task_group group;
  for (std::size_t i = 0; i + 1 < allowed; ++i) {
    group.run([&sums, i, next = board.with(rows[i]), n] { sums[i] = queens(next, n); });
  }
  std::uint64_t sum = queens(board.with(rows[allowed - 1]), n);
  group.wait();
  for (std::size_t i = 0; i + 1 < allowed; ++i) sum += sums[i];
  return sum;
}

}  // namespace

int main(int argc, char** argv) {
  return forkjoin::run_on_tbb(forkjoin::nqueens_work, argc, argv,
                              [](std::uint64_t n) { return queens(forkjoin::Board(), static_cast<int>(n)); });
}
