// What the sender pays for a callback that it sends to a loop which is busy: run under callgrind, which counts the
// instructions and the system calls of send() alone.
//
//     valgrind --tool=callgrind --toggle-collect=send --collect-systime=yes --fair-sched=yes post_cost --from thread
//
// `--from thread`: the sender is no loop's thread; `--from worker`: it is another loop of the group. It sends in chains
// of 200, each after the loop has run the one before, so that what a callback lies in is used again; the first ones do
// not count. The loop is kept
// busy by a task that yields: it never sleeps, and looks into its inbox as a busy loop does. The other one spins when
// it has nothing to do, because valgrind lets no thread run while one sleeps in io_uring_enter.
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <string_view>
#include <thread>

#include <ouro/ouro.hpp>

namespace {

constexpr int first_chains = 20;
constexpr int chains = 100;
constexpr int chain = 200;

std::atomic<int> arrived{0};
std::atomic<bool> over{false};

void send_chain(ouro::EventLoop& loop) {
  for (int i = 0; i < chain; ++i) {
    loop.call_soon_threadsafe([] { arrived.fetch_add(1, std::memory_order_relaxed); });
  }
}

}  // namespace

// Not in line and with a plain name, for callgrind.
extern "C" [[gnu::noinline]] void send(ouro::EventLoop& loop) { send_chain(loop); }

namespace {

void send_all(ouro::EventLoop& loop) {
  for (int i = 1; i <= first_chains + chains; ++i) {
    if (i <= first_chains) {
      send_chain(loop);
    } else {
      send(loop);
    }
    while (arrived.load(std::memory_order_relaxed) != i * chain) std::this_thread::yield();
  }
  over.store(true);
}

ouro::Coroutine<> busy() {
  while (!over.load()) co_await ouro::sleep(std::chrono::seconds(0));
}

ouro::Coroutine<> program(bool from_worker) {
  ouro::EventLoop& loop = *ouro::workers()[0];
  ouro::Task<> yielding = loop.create_task(busy());
  std::thread thread;
  if (from_worker) {
    ouro::workers()[1]->call_soon_threadsafe([&loop] { send_all(loop); });
  } else {
    thread = std::thread([&loop] { send_all(loop); });
  }
  co_await yielding;
  if (thread.joinable()) thread.join();
}

}  // namespace

int main(int argc, char** argv) try {
  if (argc != 3 || std::string_view(argv[1]) != "--from") {
    std::fprintf(stderr, "usage: %s --from thread|worker\n", argv[0]);
    return 2;
  }
  const bool from_worker = std::string_view(argv[2]) == "worker";
  ouro::run(program(from_worker), {.workers = from_worker ? 2U : 1U, .spin = std::chrono::minutes(1)});
  std::printf("POSTS %d\n", chains * chain);
} catch (const std::exception& error) {
  std::fprintf(stderr, "post_cost: %s\n", error.what());
  return 1;
}
