#include "on_tbb.hpp"
#include "works.hpp"

namespace {

using forkjoin::Node;

std::uint64_t nodes(Node node);

// `Sums` holds what the children give.
template <class Sums>
std::uint64_t nodes_of(Node node, std::size_t children, Sums& sums) {
  tbb::task_group group;
  for (std::size_t i = 0; i + 1 < children; ++i) {
    group.run([&sums, i, child = node.child(i)] { sums[i] = nodes(child); });
  }
  std::uint64_t sum = 1 + nodes(node.child(children - 1));
  group.wait();
  for (std::size_t i = 0; i + 1 < children; ++i) sum += sums[i];
  return sum;
}

std::uint64_t nodes(Node node) {
  const unsigned children = node.children();
  if (children == 0) return 1;
  std::array<std::uint64_t, Node::most> sums;
  return nodes_of(node, children, sums);
}

std::uint64_t tree(std::uint64_t n) {
  std::vector<std::uint64_t> sums(n);
  return nodes_of(Node(), n, sums);
}

}  // namespace

int main(int argc, char** argv) { return forkjoin::run_on_tbb(forkjoin::tree_work, argc, argv, tree); }
