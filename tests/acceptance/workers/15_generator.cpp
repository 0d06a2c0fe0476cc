// Coroutines that give a series of values: plain, with send, and asynchronous, in a task that floats.
#include <ouro/ouro.hpp>

#include <cstdio>

using namespace std::chrono_literals;

ouro::Generator<int> countdown(int from) {
  while (from > 0) co_yield from--;
}

ouro::Generator<double, double> average() {
  double sum = 0, mean = 0;
  for (int n = 1;; ++n) {
    sum += co_yield mean;
    mean = sum / n;
  }
}

ouro::AsyncGenerator<int> ticker(int count) {
  for (int i = 0; i < count; ++i) {
    co_await ouro::sleep(5ms);
    co_yield i;
  }
}

ouro::Coroutine<> run() {
  for (int i : countdown(3)) std::printf("%d ", i);
  std::puts("lift-off");

  auto mean = average();
  mean.next();
  std::printf("%.1f", mean.send(10));
  std::printf(" %.1f", mean.send(20));
  std::printf(" %.1f\n", mean.send(60));

  auto ticks = ticker(3);
  while (auto tick = co_await ticks.next()) std::printf("tick %d\n", *tick);
}

int main() { ouro::run(run(), {.workers = 4}); }
