// The limit of gather and of yield: bare coroutines, no runtime.
//
// queued: all are made, put into a ring, and run in that order: what asyncio's order costs at least, as children start
// after the
//         parent has suspended, first in, first out.
// eager:  each is run when it is made, so that its frame stays in the nearest cache: what map and eager tasks cost at
// least.
//
// --allocate none     the results live outside the loop, one vector for all rounds
// --allocate results  a vector of results per round, as gather returns one
// --allocate all      that, and a vector of handles that is filled before any of them is queued, as a program passes
// one to gather
#include "bare.hpp"

namespace {

using bench::Task;

enum class Allocate { none, results, all };

// The ready queue.
class Ring {
 public:
  explicit Ring(std::size_t capacity_min) {
    std::size_t capacity = 1;
    while (capacity < capacity_min) capacity *= 2;
    slots_.resize(capacity);
    mask_ = capacity - 1;
  }
  void push(std::coroutine_handle<> frame) { slots_[tail_++ & mask_] = frame.address(); }
  void run() {
    while (head_ != tail_) std::coroutine_handle<>::from_address(slots_[head_++ & mask_]).resume();
  }

 private:
  std::vector<void*> slots_;
  std::size_t head_ = 0;
  std::size_t tail_ = 0;
  std::size_t mask_ = 0;
};

Ring* ring;

struct Yield {
  bool await_ready() noexcept { return false; }
  void await_suspend(std::coroutine_handle<> frame) noexcept { ring->push(frame); }
  void await_resume() noexcept {}
};

[[gnu::noinline]] Task immediate(std::uint64_t i) { co_return i; }

[[gnu::noinline]] Task yielding(std::uint64_t i) {
  co_await Yield{};
  co_return i;
}

[[gnu::noinline]] Task yielding_often(std::uint64_t i, std::size_t times) {
  for (; times > 0; --times) co_await Yield{};
  co_return i;
}

template <Task (*make)(std::uint64_t)>
void queued(std::size_t n, std::vector<std::uint64_t>& results, Allocate allocate) {
  std::uint64_t pending = n;
  if (allocate == Allocate::all) {
    std::vector<Task> tasks;
    tasks.reserve(n);
    for (std::size_t i = 0; i < n; ++i) tasks.push_back(make(i));
    for (std::size_t i = 0; i < n; ++i) {
      tasks[i].join_into(results[i], pending);
      ring->push(tasks[i].frame);
    }
    ring->run();
  } else {
    for (std::size_t i = 0; i < n; ++i) {
      const Task task = make(i);
      task.join_into(results[i], pending);
      ring->push(task.frame);
    }
    ring->run();
  }
  if (pending != 0) bench::fail("a coroutine did not finish");
}

template <Task (*make)(std::uint64_t)>
void eager(std::size_t n, std::vector<std::uint64_t>& results, Allocate) {
  std::uint64_t pending = n;
  for (std::size_t i = 0; i < n; ++i) {
    const Task task = make(i);
    task.join_into(results[i], pending);
    task.frame.resume();
  }
  ring->run();
  if (pending != 0) bench::fail("a coroutine did not finish");
}

using Gather = void (*)(std::size_t, std::vector<std::uint64_t>&, Allocate);

void measure(const bench::Options& options, const char* work, Gather gather, Allocate allocate) {
  Ring ready(1);
  std::vector<std::uint64_t> results;
  std::size_t prepared = 0;
  const auto rounds = [&](std::size_t n, std::size_t count) -> const std::vector<std::uint64_t>& {
    if (prepared != n) ready = Ring(n + 16), results.assign(n, 0), prepared = n;
    ring = &ready;
    for (; count > 0; --count) {
      if (allocate != Allocate::none) {
        results = {};
        results = std::vector<std::uint64_t>(n);
      }
      gather(n, results, allocate);
    }
    return results;
  };
  bench::run(options, {"bare", work}, options.sizes, rounds);
}

void yield_one_task(std::size_t n, std::size_t count) {
  Ring ready(16);
  ring = &ready;
  for (; count > 0; --count) {
    std::uint64_t pending = 1;
    std::uint64_t result = 0;
    const Task task = yielding_often(7, n);
    task.join_into(result, pending);
    task.frame.resume();
    ring->run();
    if (pending != 0 || result != 7) bench::fail("yield");
  }
}

}  // namespace

int main(int argc, char** argv) {
  const bench::Options options = bench::parse(argc, argv);
  const Allocate allocate = options.allocate == "all"       ? Allocate::all
                            : options.allocate == "results" ? Allocate::results
                                                            : Allocate::none;
  measure(options, "imm_queued_recycled", queued<immediate>, allocate);
  measure(options, "imm_eager_recycled", eager<immediate>, allocate);
  measure(options, "yield_queued_recycled", queued<yielding>, allocate);
  measure(options, "yield_eager_recycled", eager<yielding>, allocate);
  bench::run(options, {"bare", "yield_1task"}, {1'000'000}, yield_one_task);
}
