// A coroutine for each element of a range, made when it is started, over four loops: with a bound, and in order.
#include <ouro/ouro.hpp>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <numeric>
#include <stdexcept>
#include <vector>

using namespace std::chrono_literals;

ouro::Coroutine<long> square(int x) {
  co_await ouro::sleep(0s);
  co_return static_cast<long>(x) * x;
}

ouro::Coroutine<> run() {
  std::vector<int> numbers(100'000);
  std::iota(numbers.begin(), numbers.end(), 0);
  std::vector<long> squares = co_await ouro::map(square, numbers);
  bool ordered = true;
  for (std::size_t i = 0; i < squares.size(); ++i) ordered = ordered && squares[i] == static_cast<long>(i * i);
  std::printf("%zu in order %d\n", squares.size(), ordered);
}

// The first ten wait for each other, so that ten are inside at once; no eleventh ever is.
ouro::Coroutine<int> busy(int one, std::atomic<int>& inside, std::atomic<int>& most) {
  const int now = ++inside;
  for (int before = most; before < now && !most.compare_exchange_weak(before, now);) {
  }
  while (most < 10) co_await ouro::sleep(0s);
  co_await ouro::sleep(100us);
  --inside;
  co_return one;
}

ouro::Coroutine<> bounded() {
  std::vector<int> numbers(1000, 1);
  std::atomic<int> inside{0}, most{0};
  auto ones = co_await ouro::map([&](int one) { return busy(one, inside, most); }, numbers, {.limit = 10});
  std::printf("%zu results, at most %d at once\n", ones.size(), most.load());

  auto fails = [](int) -> ouro::Coroutine<int> {
    throw std::runtime_error("the first error");
    co_return 0;
  };
  try {
    co_await ouro::map(fails, numbers, {.limit = 4});
  } catch (const std::runtime_error& error) {
    std::printf("runtime_error: %s\n", error.what());
  }
}

int main() {
  ouro::run(run(), {.workers = 4});
  ouro::run(bounded(), {.workers = 4});
}
