// The lines "If cancelled: …" of what awaits the things of others: stop tokens, std::future, coroutines that resume
// elsewhere.
#include <gmock/gmock.h>

#include <coroutine>
#include <stop_token>
#include <thread>
#include <utility>
#include <vector>

#include <ouro/ouro.hpp>

#include "support/cancel_contract.hpp"

namespace ouro {
namespace {

using namespace std::chrono_literals;
using test::awaits;
using test::drop_result;
using test::Fate;
using test::Row;
using test::World;

// A coroutine that heeds stop requests alone.
Coroutine<> until_stopped(World& world, std::stop_token token) {
  ++world.begun;
  while (!token.stop_requested() && !world.source.done()) co_await sleep(0s);
}

Row promise_row() {
  Row row{"wrap_future of a std::future", [](World& w) -> Coroutine<> { co_await wrap_future(w.promise.get_future()); },
          Fate::pending};
  row.complete = [](World& w) {
    w.promise.set_value(7);
    ++w.ended;
    ++w.called;
  };
  row.fate = &test::fate_of_call;
  return row;
}

// Resumed by another thread.
struct Elsewhere {
  World* world;
  bool await_ready() const noexcept { return false; }
  void await_suspend(std::coroutine_handle<> coroutine) const {
    world->elsewhere = coroutine;
    ++world->called;
    ++world->begun;
  }
  int await_resume() const noexcept { return 7; }
};
void resume_elsewhere(World& world) {
  std::thread(world.elsewhere).join();
  ++world.ended;
}

Row elsewhere_row() {
  Row row{"resume_here", [](World& w) { return drop_result(resume_here(Elsewhere{&w})); }, Fate::pending};
  row.coroutines = 1;
  row.complete = &resume_elsewhere;
  row.fate = &test::fate_of_call;
  return row;
}

class InteropContract : public test::CancelContract {
  std::vector<Row> rows() const override {
    const auto nothing = [](World&) {};
    return {
        {"cancel_on_stop", [](World& w) { return drop_result(cancel_on_stop(w.stop.get_token(), awaits(w))); },
         Fate::cancelled, nothing, 1},
        {"stop_on_cancel",
         [](World& w) {
           return drop_result(
               stop_on_cancel([&w](std::stop_token token) { return until_stopped(w, std::move(token)); }));
         },
         Fate::pending, nothing, 1},
        promise_row(),
        elsewhere_row(),
    };
  }
};
INSTANTIATE_TEST_SUITE_P(Workers, InteropContract, testing::Values(1U, 4U));

TEST_P(InteropContract, BeforeItStarts) { before_it_starts(); }
TEST_P(InteropContract, WhileItWaits) { while_it_waits(); }
TEST_P(InteropContract, InTheTurnInWhichItCompletes) { in_the_turn_in_which_it_completes(); }
TEST_P(InteropContract, Afterwards) { afterwards(); }

}  // namespace
}  // namespace ouro
