// What locks, events, semaphores, queues and channels cost when nobody waits: run under callgrind, which counts the
// instructions of measured() alone.
//
//     valgrind --tool=callgrind --toggle-collect=measured sync_cost lock own
//
// `own`: the object is that of a loop that is alone; `shared`: it is one that a group's workers may use. Each pair of
// operations is done `times` times, inside a coroutine that does not suspend; what the loop around it costs, `nothing`
// measures.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <memory>
#include <string_view>

#include <ouro/ouro.hpp>

namespace {
constexpr int times = 10'000;
int sink = 0;
}  // namespace

// Not in line and with plain names, for callgrind: a coroutine's body is a function of its own, which these resume.
extern "C" [[gnu::noinline]] void measured(std::coroutine_handle<> frame) { frame.resume(); }

namespace {

// Suspends the coroutine once, to be resumed by measured().
class Here {
 public:
  bool await_ready() const noexcept { return false; }
  void await_suspend(std::coroutine_handle<> frame) const noexcept { measured(frame); }
  void await_resume() const noexcept {}
};
// A coroutine of no runtime: its body is what is measured.
struct Body {
  struct promise_type : ouro::detail::FutureState {
    Body get_return_object() { return {std::coroutine_handle<promise_type>::from_promise(*this)}; }
    std::suspend_always initial_suspend() const noexcept { return {}; }
    std::suspend_always final_suspend() const noexcept { return {}; }
    void return_void() const noexcept {}
    void unhandled_exception() const noexcept { std::terminate(); }
  };
  std::coroutine_handle<> frame;
};

Body nothing() {
  for (int i = 0; i < times; ++i) asm volatile("" : "+m"(sink));
  co_return;
}
Body lock_and_unlock(ouro::Lock& lock) {
  for (int i = 0; i < times; ++i) {
    co_await lock.acquire();
    lock.release();
  }
}
Body scoped_lock(ouro::Lock& lock) {
  for (int i = 0; i < times; ++i) auto guard = co_await lock.scoped();
}
Body acquire_and_release(ouro::Semaphore& semaphore) {
  for (int i = 0; i < times; ++i) {
    co_await semaphore.acquire();
    semaphore.release();
  }
}
Body wait_for_set(ouro::Event& event) {
  for (int i = 0; i < times; ++i) co_await event.wait();
}
Body put_and_get(ouro::Queue<int>& queue) {
  for (int i = 0; i < times; ++i) {
    queue.put_nowait(i);
    sink = queue.get_nowait();
  }
  co_return;
}
Body awaited_put_and_get(ouro::Queue<int>& queue) {
  for (int i = 0; i < times; ++i) {
    co_await queue.put(i);
    sink = co_await queue.get();
  }
}
Body send_and_receive(ouro::Channel<int>& channel) {
  for (int i = 0; i < times; ++i) {
    co_await channel.send(i);
    sink = *co_await channel.recv();
  }
}
Body set_and_clear(ouro::Event& event) {
  for (int i = 0; i < times; ++i) {
    event.set();
    event.clear();
  }
  co_return;
}

struct Objects {
  ouro::Lock lock;
  ouro::Semaphore semaphore{2};
  ouro::Event event;
  ouro::Queue<int> queue{{.maxsize = 16}};
  ouro::Channel<int> channel{16};
};

Body body_of(std::string_view what, Objects& objects) {
  if (what == "lock") return lock_and_unlock(objects.lock);
  if (what == "scoped") return scoped_lock(objects.lock);
  if (what == "semaphore") return acquire_and_release(objects.semaphore);
  if (what == "event") return wait_for_set(objects.event);
  if (what == "set") return set_and_clear(objects.event);
  if (what == "queue") return put_and_get(objects.queue);
  if (what == "awaited-queue") return awaited_put_and_get(objects.queue);
  if (what == "channel") return send_and_receive(objects.channel);
  return nothing();
}

ouro::Coroutine<> program(std::string_view what, std::unique_ptr<Objects> objects) {
  if (!objects) objects = std::make_unique<Objects>();
  objects->event.set();
  Body body = body_of(what, *objects);
  measured(body.frame);
  body.frame.destroy();
  co_return;
}

}  // namespace

int main(int argc, char** argv) try {
  if (argc != 3) {
    std::fprintf(stderr, "usage: %s nothing|lock|scoped|semaphore|event|set|queue|awaited-queue|channel own|shared\n",
                 argv[0]);
    return 2;
  }
  // What is made outside any run is shared, as in a group.
  ouro::run(program(argv[1], std::string_view(argv[2]) == "shared" ? std::make_unique<Objects>() : nullptr));
  std::printf("TIMES %d\n", times);
} catch (const std::exception& error) {
  std::fprintf(stderr, "sync_cost: %s\n", error.what());
  return 1;
}
