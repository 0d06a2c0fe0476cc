// The inbox of a loop: posters against a loop that goes to sleep, and against one that closes and dies. It is the real
// loop with the real ThreadParker; each poster is a thread that calls call_soon_threadsafe. A lost wake-up shows as a
// deadlock, a poster that comes too late to a dying loop as a use after free.
#include <chrono>
#include <memory>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include <model/mutants.hpp>
#include <ouro/runtime/base_event_loop.hpp>
#include <ouro/runtime/thread_parker.hpp>

namespace {

using ouro::BaseEventLoop;
using ouro::model::check;
using ouro::model::Excuse;
using ouro::model::Model;
using ouro::model::Mutant;
using ouro::model::Mutate;
using ouro::model::Options;

constexpr auto relaxed = std::memory_order_relaxed;
constexpr auto acquire = std::memory_order_acquire;
constexpr auto release = std::memory_order_release;

std::unique_ptr<BaseEventLoop> make_loop() {
  auto loop = std::make_unique<BaseEventLoop>(std::make_unique<ouro::ThreadParker>());
  loop->set_spin(std::chrono::nanoseconds(0));
  return loop;
}

// The loop stops with the last of them and is destroyed at once: a poster may not have returned from unpark().
void posters_and_the_end(int threads, int posts) {
  auto loop = make_loop();
  BaseEventLoop* const shared = loop.get();
  int seen = 0;
  std::vector<int> next(static_cast<std::size_t>(threads), 0);
  std::vector<std::thread> posters;
  posters.reserve(static_cast<std::size_t>(threads));
  for (int poster = 0; poster < threads; ++poster) {
    posters.emplace_back([=, &seen, &next] {
      for (int post = 0; post < posts; ++post) {
        shared->call_soon_threadsafe([=, &seen, &next] {
          check(next[static_cast<std::size_t>(poster)]++ == post, "posts of one thread arrive in order");
          if (++seen == threads * posts) shared->stop();
        });
      }
    });
  }
  loop->run_forever();
  check(seen == threads * posts, "every post arrives");
  loop.reset();
  for (std::thread& poster : posters) poster.join();
}

// A post that comes while the loop is being closed runs or is refused; the callback goes either way.
void a_post_while_it_closes() {
  auto loop = make_loop();
  BaseEventLoop* const shared = loop.get();
  auto alive = std::make_unique<int>(1);
  std::thread poster([=, value = std::move(alive)]() mutable {
    try {
      shared->call_soon_threadsafe([kept = std::move(value)] { check(*kept == 1, "the callback's own is whole"); });
    } catch (const ouro::RuntimeError&) {
    }
  });
  loop->close();
  poster.join();
  loop.reset();
}

// An interrupt uses the parker alone.
void an_interrupt_wakes() {
  auto loop = make_loop();
  BaseEventLoop* const shared = loop.get();
  loop->set_interrupt_handler([=] { shared->stop(); });
  std::thread other([=] { shared->raise_interrupt(); });
  loop->run_forever();
  other.join();
}

// The loop is woken by an interrupt and ends, while the poster that replaced asleep() has yet to unpark.
void woken_by_another() {
  auto loop = make_loop();
  BaseEventLoop* const shared = loop.get();
  loop->set_interrupt_handler([] {});
  std::thread poster([=] { shared->call_soon_threadsafe([=] { shared->stop(); }); });
  std::thread other([=] { shared->raise_interrupt(); });
  loop->run_forever();
  other.join();  // who interrupts sees to it that the loop lives
  loop.reset();
  poster.join();
}

// `surprises`: how often an exchange fails, or a sleep ends, for no reason.
Options bound(unsigned preemptions, unsigned surprises = 0) {
  Options options;
  options.preemptions = preemptions;
  options.surprises = surprises;
  return options;
}

const std::vector<Model> models{
    {"one poster, and the end", [] { posters_and_the_end(1, 1); }, bound(3, 1)},
    {"one poster twice, and the end", [] { posters_and_the_end(1, 2); }, {}},
    {"two posters, and the end", [] { posters_and_the_end(2, 1); }, bound(1)},
    {"a post while the loop closes", &a_post_while_it_closes, bound(3, 2)},
    {"a poster, and another who wakes", &woken_by_another, bound(1)},
    {"an interrupt", &an_interrupt_wakes, bound(3, 2)},
};

const std::vector<Mutant> mutants{
    {"poll takes the word in two steps", {Mutate::tear, "ThreadParker::poll", "exchange"}},
    {"an interrupt is not looked for again before the sleep", {Mutate::pretend, "BaseEventLoop::look", "load", 2}},

    {"a post is exchanged in two steps", {Mutate::tear, "post_to", "compare_exchange_weak"}},
    {"posters are not counted", {Mutate::drop, "post_to", "fetch_add"}},
    {"posters are counted behind the exchange", {Mutate::delay, "post_to", "fetch_add"}},
    {"a poster that did not wake is not counted down", {Mutate::drop, "post_to", "fetch_sub"}},
    {"the destructor does not wait", {Mutate::pretend, "~BaseEventLoop", "load"}},
    {"a look takes the chain in two steps", {Mutate::tear, "BaseEventLoop::look", "exchange"}},
    {"it falls asleep in two steps", {Mutate::tear, "wait_for_work", "compare_exchange_strong"}},
    {"it sleeps without saying so", {Mutate::pretend, "wait_for_work", "compare_exchange_strong"}},
    {"who was asleep takes the chain in two steps", {Mutate::tear, "wait_for_work", "exchange"}},
    {"close takes the chain in two steps", {Mutate::tear, "BaseEventLoop::close", "exchange"}},
    {"park forgets an unpark that came before", {Mutate::pretend, "ThreadParker::park", "compare_exchange_strong"}},
    {"park goes to sleep in two steps", {Mutate::tear, "ThreadParker::park", "compare_exchange_strong"}},
    {"park takes the word in two steps", {Mutate::tear, "ThreadParker::park", "exchange"}},
    {"unpark does not say so", {Mutate::drop, "ThreadParker::unpark", "exchange"}},
    {"unpark is told in two steps", {Mutate::tear, "ThreadParker::unpark", "exchange"}},
    {"the futex is not woken", {Mutate::no_wake}},
};

const char* const own = "what it replaces is the loop's own nullptr, and who replaces asleep() acquires nothing";
const std::vector<Excuse> excuses{
    {"wait_for_work", "compare_exchange_strong", 0, Mutate::weaken, acquire, own},
    {"wait_for_work", "compare_exchange_strong", 0, Mutate::weaken, release, own},
    {"ThreadParker::park", "compare_exchange_strong", 0, Mutate::weaken, relaxed, "as its comment says"},
    {"ThreadParker::park", "compare_exchange_strong", 0, Mutate::weaken_failure, relaxed,
     "the exchange behind it acquires the same store"},
};

TEST(InboxModel, Correct) { ouro::model::expect_correct(models); }
TEST(InboxModel, Mutants) {
  ouro::model::expect_killed(models, mutants, excuses,
                             {"inbox.cpp", "base_event_loop.cpp", "close.cpp", "thread_parker.cpp"});
}

}  // namespace
