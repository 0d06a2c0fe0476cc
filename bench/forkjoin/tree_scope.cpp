#include <vector>

#include "on_ouro.hpp"
#include "works.hpp"

namespace {

using forkjoin::Node;

ouro::Coroutine<std::uint64_t> nodes(Node node, std::uint64_t children) {
  if (children == 0) co_return std::uint64_t{1};
  std::vector<std::uint64_t> sums(children);
  ouro::ForkScope scope;
  for (std::uint64_t i = 0; i + 1 < children; ++i) {
    const Node child = node.child(i);
    co_await scope.fork(sums[i], nodes(child, child.children()));
  }
  const Node last = node.child(children - 1);
  co_await scope.call(sums[children - 1], nodes(last, last.children()));
  co_await scope.join();
  std::uint64_t sum = 1;
  for (const std::uint64_t one : sums) sum += one;
  co_return sum;
}

}  // namespace

int main(int argc, char** argv) {
  return forkjoin::run_on_ouro("scope", forkjoin::tree_work, argc, argv,
                               [](std::uint64_t n) { return nodes(Node(), n); });
}
