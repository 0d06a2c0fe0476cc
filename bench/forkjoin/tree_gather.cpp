#include "on_ouro.hpp"
#include "works.hpp"

namespace {

using forkjoin::Node;

ouro::Coroutine<std::uint64_t> nodes(Node node, std::uint64_t children) {
  if (children == 0) co_return std::uint64_t{1};
  std::vector<ouro::Coroutine<std::uint64_t>> parts;
  parts.reserve(children);
  for (std::uint64_t i = 0; i < children; ++i) {
    const Node child = node.child(i);
    parts.push_back(nodes(child, child.children()));
  }
  const std::vector<std::uint64_t> sums = co_await ouro::gather(std::move(parts));
  std::uint64_t sum = 1;
  for (const std::uint64_t one : sums) sum += one;
  co_return sum;
}

}  // namespace

int main(int argc, char** argv) {
  return forkjoin::run_on_ouro("gather", forkjoin::tree_work, argc, argv,
                               [](std::uint64_t n) { return nodes(Node(), n); });
}
