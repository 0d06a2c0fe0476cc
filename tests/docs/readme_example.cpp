// The program of README.md; readme_example.expected is what it prints.
#include <ouro/ouro.hpp>

#include <cstdio>
#include <utility>
#include <vector>

using namespace std::chrono_literals;

ouro::Coroutine<int> square(int x) {
  co_await ouro::sleep(10ms);  // all 2,000 of them sleep at the same time
  co_return (x * x);
}

ouro::Coroutine<> program() {
  std::vector<ouro::Coroutine<int>> coroutines;
  for (int i = 0; i < 2000; ++i) coroutines.push_back(square(i));
  std::vector<int> squares = co_await ouro::gather(std::move(coroutines));
  std::printf("%zu squares, the last is %d\n", squares.size(), squares.back());

  ouro::Task<int> task = ouro::create_task(square(7));       // runs beside us from now on
  int answer = co_await ouro::to_thread([] { return 42; });  // blocking work leaves the loop's thread
  std::printf("%d and %d\n", answer, co_await task);
}

int main() { ouro::run(program()); }
