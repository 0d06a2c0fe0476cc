// The foreign program: it knows ouro only as its users do.
#include <ouro/ouro.hpp>

#include <cstdio>

using namespace std::chrono_literals;

ouro::Coroutine<int> half() {
  co_await ouro::sleep(1ms);
  co_return 21;
}

ouro::Coroutine<int> answer() {
  auto [a, b] = co_await ouro::gather(half(), half());
  co_return a + b;
}

int main() {
  const int result = ouro::run(answer());
  std::printf("the answer is %d\n", result);
  return result == 42 ? 0 : 1;
}
