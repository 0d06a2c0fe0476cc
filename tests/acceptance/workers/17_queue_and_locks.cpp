// A producer, consumers and a bound between them over four loops; then the other primitives.
#include <ouro/ouro.hpp>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <string>
#include <vector>

using namespace std::chrono_literals;

ouro::Coroutine<> consumer(ouro::Queue<int>& queue, std::atomic<long>& sum) {
  for (;;) {
    sum += co_await queue.get();
    queue.task_done();
  }
}

// Who comes first is not said: the order is one of six.
ouro::Coroutine<> holder(ouro::Lock& lock, std::string& order, char name) {
  auto guard = co_await lock.scoped();
  order += name;
  co_await ouro::sleep(1ms);
}

ouro::Coroutine<> run() {
  ouro::Queue<int> queue({.maxsize = 8});
  std::atomic<long> sum{0};
  std::vector<ouro::Task<>> consumers;
  for (int i = 0; i < 3; ++i) consumers.push_back(ouro::create_task(consumer(queue, sum)));
  for (int i = 1; i <= 1000; ++i) co_await queue.put(i);
  co_await queue.join();
  for (auto& task : consumers) task.cancel();
  std::printf("sum %ld, left %zu\n", sum.load(), queue.qsize());
  try {
    (void)queue.get_nowait();
  } catch (const ouro::QueueEmpty&) {
    std::puts("QueueEmpty");
  }
  for (auto& task : consumers) {
    try {
      co_await task;
    } catch (const ouro::CancelledError&) {
    }
  }

  ouro::Lock lock;
  std::string order;
  co_await ouro::gather(holder(lock, order, 'a'), holder(lock, order, 'b'), holder(lock, order, 'c'));
  std::sort(order.begin(), order.end());
  std::printf("in turn %s, locked %d\n", order.c_str(), lock.locked());

  ouro::Event event;
  auto waiting = ouro::create_task([](ouro::Event& opened) -> ouro::Coroutine<bool> { co_return co_await opened.wait(); }(event));
  co_await ouro::sleep(0s);
  event.set();
  const bool came = co_await waiting;
  std::printf("event %d\n", came);

  ouro::Semaphore semaphore(2);
  std::atomic<int> inside{0}, most{0};
  auto enter = [&]() -> ouro::Coroutine<> {
    auto guard = co_await semaphore.scoped();
    const int now = ++inside;
    for (int before = most; before < now && !most.compare_exchange_weak(before, now);) {
    }
    while (most < 2) co_await ouro::sleep(0s);
    --inside;
  };
  std::vector<ouro::Coroutine<>> many;
  for (int i = 0; i < 10; ++i) many.push_back(enter());
  co_await ouro::gather(std::move(many));
  std::printf("at most %d inside\n", most.load());

  ouro::Barrier barrier(3);
  auto meet = [&]() -> ouro::Coroutine<int> { co_return co_await barrier.wait(); };
  auto [x, y, z] = co_await ouro::gather(meet(), meet(), meet());
  std::printf("barrier %d\n", x + y + z);

  auto [done, pending] = co_await ouro::wait(
      [] {
        std::vector<ouro::Task<int>> tasks;
        for (int delay : {1, 2000, 3000}) {
          tasks.push_back(ouro::create_task([](int ms) -> ouro::Coroutine<int> {
            co_await ouro::sleep(ms * 1ms);
            co_return ms;
          }(delay)));
        }
        return tasks;
      }(),
      {.return_when = ouro::FIRST_COMPLETED});
  std::printf("done %zu pending %zu\n", done.size(), pending.size());
}

int main() { ouro::run(run(), {.workers = 4}); }
