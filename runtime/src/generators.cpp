// The parts of generators that are no templates.
#include <ouro/runtime/generators.hpp>

#include <cxxabi.h>

#include <cstdio>
#include <string>
#include <typeinfo>
#include <utility>

#include "report.hpp"
#include "shared.hpp"
#include "worker.hpp"

namespace ouro::detail {

// ---- Generator ----

void throw_stop_iteration() {
  throw StopIteration("the generator has no further value", "try_next() gives nothing instead of throwing");
}

void throw_generator_running() { throw ValueError("generator already executing"); }

void throw_send_unstarted() {
  throw RuntimeError("can't send non-None value to a just-started generator", "call next() first");
}

void throw_nothing_to_send() {
  throw RuntimeError("the generator waits for a value of a type without a default", "call send()");
}

void rethrow_given(std::exception_ptr exception) {
  if (!exception) throw ValueError("throw_: the exception_ptr is null");
  std::rethrow_exception(std::move(exception));
}

// ---- AsyncGenerator ----

namespace {

void report(LoopState& home, const char* message, std::exception_ptr exception, std::source_location created) noexcept {
  try {
    ExceptionContext context;
    context.message = message;
    context.exception = std::move(exception);
    context.created = created;
    report_error(home, context);
  } catch (...) {
    std::fprintf(stderr, "ouro: out of memory while reporting: %s\n", message);
  }
}

}  // namespace

namespace {

// In a group the first loop has the lists, under the group's guard.
LoopState& lists_of(LoopState& home) noexcept { return home.worker ? home.worker->group.workers.front()->state : home; }

std::unique_lock<std::recursive_mutex> lock_lists(const LoopState* loop) {
  return loop ? lock_group(*loop) : std::unique_lock<std::recursive_mutex>();
}

}  // namespace

AsyncGeneratorState::~AsyncGeneratorState() {
  unlink();
  if (owner) *owner = nullptr;
}

void AsyncGeneratorState::unlink() noexcept {
  const auto hold = lock_lists(loop);
  if (!link_) return;
  *link_ = older_;
  if (older_) older_->link_ = link_;
  link_ = nullptr;
}

void AsyncGeneratorState::move_to(AsyncGeneratorState*& list) noexcept {
  const auto hold = lock_lists(loop);
  unlink();
  link_ = &list;
  older_ = list;
  if (older_) older_->link_ = &older_;
  list = this;
}

void AsyncGeneratorState::enter_first(FutureState& in, const char* operation) {
  if (running) throw RuntimeError(std::string(operation) + ": asynchronous generator is already running");
  LoopState& lists = lists_of(home_of(in));
  if (loop == &lists) return;
  if (loop) {
    throw RuntimeError(std::string(operation) + ": asynchronous generator is attached to a different loop",
                       "use it on the loop on which it started");
  }
  loop = &lists;
  move_to(loop->asyncgens);
  if (loop->asyncgens_shut_down) {
    report(*loop, "asynchronous generator was scheduled after loop.shutdown_asyncgens() call", nullptr, created);
  }
}

void AsyncGeneratorState::store_exit() noexcept {
  const std::type_info* type = abi::__cxa_current_exception_type();
  if (closing && type && *type == typeid(GeneratorExit)) return;
  store_current_exception();
}

void AsyncGeneratorState::finish() {
  const bool ignored_exit = value != nullptr;
  const std::exception_ptr thrown = outcome() == outcome_exception ? exception() : nullptr;
  destroy();
  if (ignored_exit) throw RuntimeError("async generator ignored GeneratorExit", "a generator that is closed must end");
  if (thrown) std::rethrow_exception(thrown);
}

bool AsyncGeneratorState::abandon() noexcept {
  owner = nullptr;
  if (running) return false;  // whoever awaits the value will notice
  LoopState* here = running_state();
  if (!loop || loop->closed || !here || &lists_of(*here) != loop) {
    destroy();
    return false;
  }
  if (!finaliser) return true;
  // The task that should have closed it was cancelled before it ran: left to shutdown_asyncgens.
  finaliser = nullptr;
  move_to(loop->asyncgens);
  return false;
}

void begin_asyncgen_shutdown(LoopState& home) noexcept {
  const auto hold = lock_lists(&home);
  home.asyncgens_shut_down = true;
  AsyncGeneratorState* generator = home.closing_asyncgens;
  while (generator) {
    AsyncGeneratorState& left = *std::exchange(generator, generator->older_);
    if (left.finaliser && !left.finaliser->done()) continue;
    left.finaliser = nullptr;
    left.move_to(home.asyncgens);
  }
}

bool refuse_running(AsyncGeneratorState& generator) noexcept {
  if (!generator.running) return false;
  LoopState& home = *generator.loop;
  generator.move_to(home.closing_asyncgens);
  try {
    throw RuntimeError("aclose(): asynchronous generator is already running");
  } catch (...) {
    report_asyncgen_error(home, generator.created);
  }
  return true;
}

FutureState* closing_task(LoopState& home) noexcept {
  const auto hold = lock_lists(&home);
  for (AsyncGeneratorState* generator = home.closing_asyncgens; generator; generator = generator->older_) {
    FutureState* task = generator->finaliser;
    if (!task || task->done()) continue;
    open_to_handles(*task);
    add_ref(*task);
    return task;
  }
  return nullptr;
}

void drop_asyncgens(LoopState& home) noexcept {
  while (home.closing_asyncgens) home.closing_asyncgens->move_to(home.asyncgens);
  while (AsyncGeneratorState* generator = home.asyncgens) {
    generator->unlink();
    generator->loop = nullptr;
    if (!generator->owner) generator->destroy();
  }
}

void report_asyncgen_error(LoopState& home, std::source_location created) noexcept {
  report(home, "an error occurred during closing of asynchronous generator", std::current_exception(), created);
}

}  // namespace ouro::detail
