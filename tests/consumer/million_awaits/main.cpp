// A million awaits of coroutines that complete at once, and a deep chain, on an 8 MiB stack. A release ouro is linked
// into this program built with and without optimisation: where the compiler makes no tail call, the trampoline must.
#include <ouro/ouro.hpp>

#include <sys/resource.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>

ouro::Coroutine<int> one() { co_return 1; }

ouro::Coroutine<int> total(int count) {
  int sum = 0;
  for (int i = 0; i < count; ++i) sum += co_await one();
  co_return sum;
}

ouro::Coroutine<int> chain(int depth) {
  if (depth == 0) co_return 0;
  co_return 1 + co_await chain(depth - 1);
}

// A stack's limit is read when the program starts, so a larger one is lowered and the program begins again.
void limit_stack(char** argv) {
  rlimit limit{};
  const rlim_t bytes = 8U << 20U;
  if (getrlimit(RLIMIT_STACK, &limit) != 0 || limit.rlim_cur <= bytes) return;
  limit.rlim_cur = bytes;
  if (setrlimit(RLIMIT_STACK, &limit) == 0) execv("/proc/self/exe", argv);
  std::perror("cannot lower the stack's limit");
  std::exit(2);
}

int main(int, char** argv) {
  limit_stack(argv);
  const int sum = ouro::run(total(1'000'000));
  const int depth = ouro::run(chain(100'000));
  std::printf("%d awaits, %d deep, tail calls %d\n", sum, depth, OURO_TAIL_CALLS);
  return sum == 1'000'000 && depth == 100'000 ? 0 : 1;
}
