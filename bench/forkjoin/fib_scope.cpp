#include "on_ouro.hpp"
#include "works.hpp"

namespace {

ouro::Coroutine<std::uint64_t> fib(std::uint64_t n) {
  if (n < 2) co_return n;
  std::uint64_t one = 0, other = 0;
  ouro::ForkScope scope;
  co_await scope.fork(one, fib(n - 1));
  co_await scope.call(other, fib(n - 2));
  co_await scope.join();
  co_return one + other;
}

}  // namespace

int main(int argc, char** argv) { return forkjoin::run_on_ouro("scope", forkjoin::fib_work, argc, argv, fib); }
