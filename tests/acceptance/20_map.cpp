// A coroutine for each element of a range, made when it is started: with a bound, and in order.
// The part over two loops, `ouro::run(run(), {.workers = 2})` and its line, waits for the workers.
#include <ouro/ouro.hpp>

#include <algorithm>
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

ouro::Coroutine<> bounded() {
  std::vector<int> numbers(1000, 1);
  int inside = 0, most = 0;
  auto busy = [&](int one) -> ouro::Coroutine<int> {
    most = std::max(most, ++inside);
    co_await ouro::sleep(100us);
    --inside;
    co_return one;
  };
  auto ones = co_await ouro::map(busy, numbers, {.limit = 10});
  std::printf("%zu results, at most %d at once\n", ones.size(), most);

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
  ouro::run(run());
  ouro::run(bounded());
}
