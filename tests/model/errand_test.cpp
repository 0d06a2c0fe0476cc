// Errands: what a loop waits for and another thread does. The thread that brings it back against the loop that goes on,
// cancels the future, or closes and dies, its state with it. The executor here starts a thread for each job, and no
// more; the rest is the library's own.
#include <chrono>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include <model/mutants.hpp>
#include <ouro/runtime/base_event_loop.hpp>
#include <ouro/runtime/thread_parker.hpp>
#include <ouro/runtime/threads.hpp>

namespace {

using ouro::BaseEventLoop;
using ouro::ConcurrentFuture;
using ouro::model::check;
using ouro::model::Excuse;
using ouro::model::Model;
using ouro::model::Mutant;
using ouro::model::Mutate;
using ouro::model::Options;

constexpr auto relaxed = std::memory_order_relaxed;

class ThreadForEach final : public ouro::Executor {
 public:
  explicit ThreadForEach(bool gives_up = false) : gives_up_(gives_up) {}
  ~ThreadForEach() override { shutdown(true, false); }

  void submit(ouro::Job& job) override {
    threads_.emplace_back([&job, give_up = gives_up_] { give_up ? job.cancel() : job.run(); });
  }
  void shutdown(bool wait, bool) override {
    if (!wait) return;
    for (std::thread& thread : threads_) thread.join();
    threads_.clear();
  }

 private:
  bool gives_up_;
  std::vector<std::thread> threads_;
};

std::unique_ptr<BaseEventLoop> make_loop() {
  auto loop = std::make_unique<BaseEventLoop>(std::make_unique<ouro::ThreadParker>());
  loop->set_spin(std::chrono::nanoseconds(0));
  return loop;
}

std::unique_ptr<int> seven() { return std::make_unique<int>(7); }

// The result arrives, and the loop is gone before the thread has returned.
void comes_back() {
  ThreadForEach executor;
  auto loop = make_loop();
  check(*loop->run_until_complete(loop->run_in_executor(&executor, &seven)) == 7, "the result is whole");
  loop.reset();
}

void two_come_back() {
  ThreadForEach executor;
  auto loop = make_loop();
  auto first = loop->run_in_executor(&executor, &seven);
  auto second = loop->run_in_executor(&executor, &seven);
  check(*loop->run_until_complete(std::move(second)) == 7, "the result is whole");
  check(*loop->run_until_complete(std::move(first)) == 7, "the result is whole");
  loop.reset();
}

// Nobody wants it any more: it may be home, on its way, or not begun.
void cancelled(bool loop_goes_on) {
  ThreadForEach executor;
  auto loop = make_loop();
  auto future = loop->run_in_executor(&executor, &seven);
  check(future.cancel(), "a pending future can be cancelled");
  if (loop_goes_on) {
    loop->stop();
    loop->run_forever();
  }
  check(future.cancelled(), "it stays cancelled");
  loop.reset();
}

// The loop closes and dies while it is out, or comes back. `keep`: a handle outlives the loop.
void closed(bool keep, bool gives_up) {
  ThreadForEach executor(gives_up);
  auto loop = make_loop();
  {
    auto future = loop->run_in_executor(&executor, &seven);
    if (!keep) future = {};
    loop->close();
    loop.reset();
  }
}

// The executor gives the job up.
void given_up() {
  ThreadForEach executor(true);
  auto loop = make_loop();
  bool threw = false;
  try {
    loop->run_until_complete(loop->run_in_executor(&executor, &seven));
  } catch (const ouro::CancelledError&) {
    threw = true;
  }
  check(threw, "who waits is told");
  loop.reset();
}

// wrap_future: the errand belongs to a ConcurrentFuture that another thread ends.
void wrapped(bool closes) {
  auto loop = make_loop();
  auto source = ConcurrentFuture<int>::create();
  std::thread producer([source] {
    if (source.set_running_or_notify_cancel()) source.set_result(7);
  });
  auto future = ouro::wrap_future(source, *loop);
  source = {};
  if (closes) {
    loop->close();
  } else if (future.cancel()) {
    loop->stop();
    loop->run_forever();
  }
  future = {};
  loop.reset();
  producer.join();
}

Options bound(unsigned preemptions) {
  Options options;
  options.preemptions = preemptions;
  return options;
}

const std::vector<Model> models{
    {"it comes back", &comes_back, {}},
    {"two come back", &two_come_back, bound(1)},
    {"cancelled, and the end", [] { cancelled(false); }, {}},
    {"cancelled, and a turn", [] { cancelled(true); }, {}},
    {"closed", [] { closed(false, false); }, {}},
    {"closed, with a handle kept", [] { closed(true, false); }, {}},
    {"closed, and given up by the executor", [] { closed(true, true); }, {}},
    {"given up", &given_up, {}},
    {"wrapped and cancelled", [] { wrapped(false); }, {}},
    {"wrapped and closed", [] { wrapped(true); }, {}},
};

const std::vector<Mutant> mutants{
    {"it sets out for home in two steps", {Mutate::tear, "come_back", "compare_exchange_strong"}},
    {"it comes home though it was dropped", {Mutate::pretend, "come_back", "compare_exchange_strong"}},
    {"it does not say that it is stranded", {Mutate::drop, "come_back", "store"}},
    {"it is dropped in two steps", {Mutate::tear, "let_go", "compare_exchange_strong"}},
    {"it is dropped though it returns", {Mutate::pretend, "let_go", "compare_exchange_strong"}},
    {"the loop does not wait until it is stranded", {Mutate::pretend, "Errand::drop", "load", 0, relaxed, 3}},
};

const std::vector<Excuse> excuses{};

TEST(ErrandModel, Correct) { ouro::model::expect_correct(models); }
TEST(ErrandModel, Mutants) { ouro::model::expect_killed(models, mutants, excuses, {"errand.hpp", "errand.cpp"}); }

}  // namespace
