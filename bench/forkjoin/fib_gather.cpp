#include "on_ouro.hpp"
#include "works.hpp"

namespace {

ouro::Coroutine<std::uint64_t> fib(std::uint64_t n) {
  if (n < 2) co_return n;
  const auto [one, other] = co_await ouro::gather(fib(n - 1), fib(n - 2));
  co_return one + other;
}

}  // namespace

int main(int argc, char** argv) { return forkjoin::run_on_ouro("gather", forkjoin::fib_work, argc, argv, fib); }
