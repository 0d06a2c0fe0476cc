// Cancellation, timeouts, shields and task groups, in tasks that float: what asyncio's users rely on. A task that was
// made may not have begun when its maker has yielded once, and one that was cancelled may be faster than who did it, so
// that is waited for. The order is CPython 3.13's; 3.11 and 3.12 differ in the end: their task group leaves the parent's
// count of cancellations at 1.
#include <ouro/ouro.hpp>

#include <atomic>
#include <cstdio>
#include <exception>
#include <stdexcept>
#include <string>

using namespace std::chrono_literals;

// `heard`: who cancelled it has said so; the two may be on different workers.
ouro::Coroutine<std::string> careful(const std::atomic<bool>* heard = nullptr) {
  std::exception_ptr cancelled;
  try {
    co_await ouro::sleep(10s);
  } catch (const ouro::CancelledError&) {
    cancelled = std::current_exception();
  }
  if (!cancelled) co_return "never";
  while (heard && !*heard) co_await ouro::sleep(0s);
  std::puts("cleaning up");
  std::rethrow_exception(cancelled);
}

ouro::Coroutine<> run() {
  std::atomic<bool> heard = false;
  auto task = ouro::create_task(careful(&heard), {.name = "careful"});
  while (task.get_stack().empty()) co_await ouro::sleep(0s);
  const bool accepted = task.cancel();
  std::printf("%s: cancel %d cancelling %d\n", std::string(task.get_name()).c_str(), accepted, task.cancelling());
  heard = true;
  try {
    co_await task;
  } catch (const ouro::CancelledError&) {
    std::printf("cancelled %d\n", task.cancelled());
  }

  try {
    co_await ouro::wait_for(careful(), 20ms);
  } catch (const ouro::TimeoutError&) {
    std::puts("TimeoutError");
  }

  auto inner = ouro::create_task([]() -> ouro::Coroutine<int> {
    co_await ouro::sleep(30ms);
    co_return 42;
  }());
  try {
    co_await ouro::wait_for(ouro::shield(inner), 10ms);
  } catch (const ouro::TimeoutError&) {
    std::puts("TimeoutError, and the shielded task goes on");
  }
  const int answer = co_await inner;
  std::printf("shielded: %d\n", answer);

  try {
    ouro::TaskGroup group;
    group.create_task(careful());
    group.create_task([]() -> ouro::Coroutine<> {
      co_await ouro::sleep(5ms);
      throw std::runtime_error("one failed");
    }());
    co_await group.join();
  } catch (const ouro::ExceptionGroup& errors) {
    std::printf("ExceptionGroup of %zu\n", errors.exceptions().size());
  }

  auto outcomes = co_await ouro::gather(ouro::return_exceptions, careful(), []() -> ouro::Coroutine<int> {
    throw std::logic_error("bad");
    co_return 1;
  }(), []() -> ouro::Coroutine<int> { co_return 2; }());
  (void)outcomes;
}

ouro::Coroutine<> outer() {
  try {
    co_await ouro::timeout(1s, run());
  } catch (const ouro::TimeoutError&) {
    std::puts("the gather was cancelled in time");
  }
}

int main() { ouro::run(outer(), {.workers = 4}); }
