// The four works, without their runtimes: what every variant computes, and what it must give. None has a cut-off: every
// call of the recursion is a task, down to the leaves.
//
// fib       fib(n), two calls each: nothing but the price of a task
// skynet    n leaves (a power of ten), ten calls each; a leaf gives its number
// nqueens   n queens on a board of n: a call for each square in the next column that no queen attacks
// tree      an unbalanced tree as in the UTS benchmark (Olivier et al., LCPC 2006, doi:10.1007/978-3-540-72521-3_18),
//           binomial: a root with n children; every other node has eight children with a probability just below one
//           eighth, else none, as the hash of its place says. Of the 5,123,137 nodes for n = 2,000 one child of the
//           root holds 96 %, and the deepest lies at 1,624.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "program.hpp"

namespace forkjoin {

inline Outcome fib_serially(std::uint64_t n) {
  std::uint64_t previous = 1, number = 0;  // fib(-1), fib(0)
  for (std::uint64_t i = 0; i < n; ++i) {
    const std::uint64_t next = previous + number;
    previous = number;
    number = next;
  }
  return {number, 2 * (number + previous) - 1};
}

inline Outcome skynet_serially(std::uint64_t n) {
  std::uint64_t tasks = 0;
  for (std::uint64_t level = n; level > 0; level /= 10) tasks += level;
  return {n * (n - 1) / 2, tasks};
}

// The rows of the queens that stand, one in each column from the left.
struct Board {
  static constexpr std::size_t most = 16;

  std::array<signed char, most> rows{};
  int queens = 0;

  bool allows(int row) const {
    for (int column = 0; column < queens; ++column) {
      const int other = rows[static_cast<std::size_t>(column)];
      if (row == other || row - other == queens - column || other - row == queens - column) return false;
    }
    return true;
  }
  Board with(int row) const {
    Board next = *this;
    next.rows[static_cast<std::size_t>(next.queens++)] = static_cast<signed char>(row);
    return next;
  }
};

inline Outcome queens_on(const Board& board, int n) {
  Outcome sum{board.queens == n, 1};
  if (board.queens == n) return sum;
  for (int row = 0; row < n; ++row) {
    if (!board.allows(row)) continue;
    const Outcome part = queens_on(board.with(row), n);
    sum.result += part.result;
    sum.tasks += part.tasks;
  }
  return sum;
}

inline Outcome nqueens_serially(std::uint64_t n) {
  if (n > Board::most) std::fputs("nqueens: n is 16 at most\n", stderr), std::exit(2);
  return queens_on(Board(), static_cast<int>(n));
}

// A node of the tree.
struct Node {
  static constexpr unsigned most = 8;

  std::uint64_t hash = 350;

  Node child(std::uint64_t i) const {
    // The finaliser of splitmix64.
    std::uint64_t x = hash + (i + 1) * 0x9e3779b97f4a7c15;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
    x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
    return {x ^ (x >> 31)};
  }
  unsigned children() const { return (hash >> 40) < static_cast<std::uint64_t>(0.12487 * (1 << 24)) ? most : 0; }
};

inline std::uint64_t nodes_under(const Node& node, std::uint64_t children) {
  std::uint64_t nodes = 1;
  for (std::uint64_t i = 0; i < children; ++i) {
    const Node child = node.child(i);
    nodes += nodes_under(child, child.children());
  }
  return nodes;
}

inline Outcome tree_serially(std::uint64_t n) {
  const std::uint64_t nodes = nodes_under(Node(), n);
  return {nodes, nodes};
}

inline constexpr Work fib_work{"fib", 35, fib_serially};
inline constexpr Work skynet_work{"skynet", 1'000'000, skynet_serially};
inline constexpr Work nqueens_work{"nqueens", 12, nqueens_serially};
inline constexpr Work tree_work{"tree", 2'000, tree_serially};

}  // namespace forkjoin
