// A callback that another thread sent: the loop that runs it, the sender that cancels it or lets go of its handle, the
// loop that closes under it. Exactly one of them has the callable, and the last one frees the node.
#include <chrono>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include <model/mutants.hpp>
#include <ouro/runtime/base_event_loop.hpp>
#include <ouro/runtime/thread_parker.hpp>

namespace {

using ouro::BaseEventLoop;
using ouro::Handle;
using ouro::model::check;
using ouro::model::Excuse;
using ouro::model::Model;
using ouro::model::Mutant;
using ouro::model::Mutate;

constexpr auto relaxed = std::memory_order_relaxed;
constexpr auto acquire = std::memory_order_acquire;
constexpr auto release = std::memory_order_release;

std::unique_ptr<BaseEventLoop> make_loop() {
  auto loop = std::make_unique<BaseEventLoop>(std::make_unique<ouro::ThreadParker>());
  loop->set_spin(std::chrono::nanoseconds(0));
  return loop;
}

// A callable that says what became of it: run at most once, destroyed exactly once, its own plain memory intact.
struct Fate {
  int runs = 0;
  int ends = 0;
};
class Callable {
 public:
  explicit Callable(Fate& fate) : fate_(&fate), own_(std::make_unique<int>(7)) {}
  Callable(Callable&& other) noexcept : fate_(std::exchange(other.fate_, nullptr)), own_(std::move(other.own_)) {}
  ~Callable() {
    if (fate_) ++fate_->ends;
  }
  void operator()() {
    check(own_ && *own_ == 7, "the callable is whole when it runs");
    ++fate_->runs;
  }

 private:
  Fate* fate_;
  std::unique_ptr<int> own_;
};

// The sender cancels while the loop may be running it.
void cancelled_while_it_runs() {
  auto loop = make_loop();
  BaseEventLoop* const shared = loop.get();
  Fate fate;
  std::thread sender([=, &fate] {
    Handle handle = shared->call_soon_threadsafe(Callable(fate));
    handle.cancel();
    shared->call_soon_threadsafe([=] { shared->stop(); });
  });
  loop->run_forever();
  sender.join();
  check(fate.runs <= 1, "it runs once at most");
  check(fate.ends == 1, "the callable is destroyed once");
  loop.reset();
}

// Two threads copy a handle and cancel it.
void cancelled_by_two() {
  auto loop = make_loop();
  BaseEventLoop* const shared = loop.get();
  Fate fate;
  Handle handle;
  std::thread sender([&, shared] { handle = shared->call_soon_threadsafe(Callable(fate)); });
  sender.join();
  const auto copy_and_cancel = [&] {
    Handle copy = handle;
    copy.cancel();
  };
  std::thread other(copy_and_cancel);
  copy_and_cancel();
  other.join();
  handle = Handle();
  check(fate.runs == 0 && fate.ends == 1, "the callable is destroyed once");
  loop->stop();
  loop->run_forever();
  loop.reset();
}

// The loop closes while the sender holds the handle, and lets go of it.
void let_go_while_it_closes() {
  auto loop = make_loop();
  BaseEventLoop* const shared = loop.get();
  Fate fate;
  Handle handle;
  std::thread sender([&, shared] { handle = shared->call_soon_threadsafe(Callable(fate)); });
  sender.join();
  std::thread other([&] {
    handle.cancel();
    static_cast<void>(handle.cancelled());
    handle = Handle();
  });
  loop->close();
  other.join();
  check(fate.runs == 0 && fate.ends == 1, "the callable is destroyed once");
  loop.reset();
}

const std::vector<Model> models{
    {"cancelled while it runs", &cancelled_while_it_runs, {}},
    {"cancelled by two", &cancelled_by_two, {}},
    {"let go of while the loop closes", &let_go_while_it_closes, {}},
};

const std::vector<Mutant> mutants{
    {"begin exchanges in two steps", {Mutate::tear, "CallbackNode::begin", "compare_exchange_strong"}},
    {"begin takes everything for pending", {Mutate::pretend, "CallbackNode::begin", "compare_exchange_strong"}},
    {"drop_ref counts in two steps", {Mutate::tear, "drop_ref", "fetch_sub"}},
    {"add_ref does not count", {Mutate::drop, "add_ref", "fetch_add"}},
    {"add_ref counts in two steps", {Mutate::tear, "add_ref", "fetch_add"}},
    {"free takes a cancelled one for pending", {Mutate::pretend, "CallbackNode::free", "load"}},
};

const char* const by_inbox =
    "whoever has a node has got it through the inbox or a handle, and the count orders its end";
const std::vector<Excuse> excuses{
    {"CallbackNode::begin", "compare_exchange_strong", 0, Mutate::weaken, acquire, by_inbox},
    {"CallbackNode::begin", "compare_exchange_strong", 0, Mutate::weaken, release, by_inbox},
    {"CallbackNode::begin", "compare_exchange_strong", 0, Mutate::weaken_failure, relaxed, by_inbox},
    {"is_cancelled", "load", 0, Mutate::weaken, relaxed, "who sees it cancelled sees what came before the cancel"},
    {"End::~End", "store", 0, Mutate::weaken, relaxed, "the same for who sees that it is not cancelled but done"},
    {"CallbackNode::free", "load", 0, Mutate::weaken, relaxed, "the last decrement of the count has acquired already"},
};

TEST(CallbackNodeModel, Correct) { ouro::model::expect_correct(models); }
TEST(CallbackNodeModel, Mutants) {
  ouro::model::expect_killed(models, mutants, excuses, {"callback_node.hpp", "futures.cpp"});
}

}  // namespace
