// What README.md says of interfaces that call back: one in the style of C, awaited.
#include <ouro/ouro.hpp>

#include <cstdio>
#include <cstring>
#include <stop_token>
#include <string>
#include <thread>
#include <utility>

using namespace std::chrono_literals;

// Somebody's library: it calls back on a thread of its own.
extern "C" void look_up(const char* name, void (*done)(int size, void* context), void* context) {
  std::thread([=] { done(static_cast<int>(std::strlen(name)), context); }).detach();
}

ouro::Coroutine<int> size_of(std::string name) {
  const auto size = ouro::ConcurrentFuture<int>::create();
  const auto done = [](int n, void* to) { ouro::ConcurrentFuture<int>::from_address(to).try_set_result(n); };
  look_up(name.c_str(), done, size.to_address());
  co_return co_await ouro::wrap_future(size);
}

int count_until(std::stop_token token) {
  int turns = 0;
  while (!token.stop_requested()) ++turns;
  return turns > 0 ? 1 : 0;
}

ouro::Coroutine<> stops() {
  std::stop_source source;
  try {
    ouro::Task<> task = ouro::create_task(ouro::cancel_on_stop(source.get_token(), ouro::sleep(1h)));
    co_await ouro::sleep(1ms);
    source.request_stop();
    co_await std::move(task);
  } catch (const ouro::CancelledError&) {
    std::printf("the sleep was cancelled\n");
  }
  try {
    auto work = [](std::stop_token token) { return ouro::to_thread(count_until, std::move(token)); };
    co_await ouro::timeout(10ms, ouro::stop_on_cancel(work));
  } catch (const ouro::TimeoutError&) {
    std::printf("the thread was stopped\n");
  }
}

int main() {
  std::printf("%d\n", ouro::run(size_of("ouroboros")));
  ouro::run(stops());
}
