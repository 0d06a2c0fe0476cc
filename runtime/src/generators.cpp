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
  if (closer) *closer = nullptr;
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

void AsyncGeneratorState::own_listed(AsyncGeneratorState** new_owner) noexcept {
  const auto hold = lock_lists(loop);
  if (owner) *owner = nullptr;
  owner = new_owner;
}

// Out of `idle`; false if somebody else has it. Acquire: pairs with the release of who let it be.
bool AsyncGeneratorState::take(Phase to) noexcept {
  Phase seen = Phase::idle;
  return phase_.compare_exchange_strong(seen, to, std::memory_order_acquire, std::memory_order_relaxed);
}

bool AsyncGeneratorState::enter_first(FutureState& in, const char* operation) {
  const Phase now = phase_.load(std::memory_order_relaxed);
  if (now == Phase::running) {
    throw RuntimeError(std::string(operation) + ": asynchronous generator is already running");
  }
  LoopState& lists = lists_of(home_of(in));
  if (loop && loop != &lists) {
    throw RuntimeError(std::string(operation) + ": asynchronous generator is attached to a different loop",
                       "use it on the loop on which it started");
  }
  if (!take(Phase::running)) return false;
  if (loop) return true;
  bool late = false;
  {
    const auto hold = lock_lists(&lists);
    loop = &lists;
    if (!lists.worker) only_loop_ = loop;
    move_to(lists.asyncgens);
    late = lists.asyncgens_shut_down;
  }
  if (late) {
    report(lists, "asynchronous generator was scheduled after loop.shutdown_asyncgens() call", nullptr, created);
  }
  return true;
}

void AsyncGeneratorState::enter_closing(FutureState& in) noexcept {
  task = &in;
  value = nullptr;
  closing = true;
}

void AsyncGeneratorState::store_exit() noexcept {
  const std::type_info* type = abi::__cxa_current_exception_type();
  if (closing && type && *type == typeid(GeneratorExit)) return;
  store_current_exception();
}

// A frame that a task has closed may be in use by who has the object, on another worker: it is destroyed with that.
bool AsyncGeneratorState::leave_to_owner() noexcept {
  if (phase_.load(std::memory_order_relaxed) != Phase::closing) return false;
  const auto hold = lock_lists(loop);
  finaliser = nullptr;
  if (!held_ && !(owner && loop && loop->worker)) return false;
  phase_.store(Phase::ended, std::memory_order_release);
  return true;
}

void AsyncGeneratorState::finish() {
  const bool ignored_exit = value != nullptr;
  const std::exception_ptr thrown = outcome() == outcome_exception ? exception() : nullptr;
  if (!leave_to_owner()) destroy();
  if (ignored_exit) throw RuntimeError("async generator ignored GeneratorExit", "a generator that is closed must end");
  if (thrown) std::rethrow_exception(thrown);
}

namespace {

// The loop can close generators.
bool is_open_here(const LoopState* loop) noexcept {
  LoopState* here = running_state();
  return loop && !loop->closed && here && &lists_of(*here) == loop;
}

}  // namespace

bool AsyncGeneratorState::abandon() noexcept {
  {
    const auto hold = lock_lists(loop);
    owner = nullptr;
    if (held_) return false;
    if (phase_.load(std::memory_order_acquire) != Phase::ended) {
      if (!take(Phase::closing)) return false;  // whoever awaits its value or its end will notice
      if (is_open_here(loop)) {
        held_ = true;
        move_to(loop->closing_asyncgens);
        return true;
      }
    }
    unlink();
  }
  destroy();
  return false;
}

void AsyncGeneratorState::let_go(FutureState* closing_task) noexcept {
  {
    const auto hold = lock_lists(loop);
    held_ = false;
    const Phase now = phase_.load(std::memory_order_relaxed);
    if (now == Phase::closing) finaliser = closing_task;
    const bool in_group = loop && loop->worker;
    if (now != Phase::ended || (owner && in_group)) return;
    unlink();
  }
  destroy();
}

void AsyncGeneratorState::give_up_closing(LoopState& home, AsyncGeneratorState*& place) noexcept {
  AsyncGeneratorState* generator = nullptr;
  {
    const auto hold = lock_lists(&home);
    generator = std::exchange(place, nullptr);
    if (!generator) return;
    generator->closer = nullptr;
    generator->finaliser = nullptr;
    if (generator->owner || generator->held_ || is_open_here(generator->loop)) {
      generator->phase_.store(Phase::idle, std::memory_order_release);  // pairs with the exchange in take()
      return;
    }
    generator->unlink();
  }
  generator->destroy();
}

bool AsyncGeneratorState::is_left() const noexcept {
  const Phase now = phase_.load(std::memory_order_relaxed);
  return now == Phase::idle || now == Phase::running || (now == Phase::closing && finaliser && finaliser->done());
}

AsyncGeneratorShutdown::AsyncGeneratorShutdown(LoopState& of) noexcept : home_(lists_of(of)) {
  using Phase = AsyncGeneratorState::Phase;
  const auto hold = lock_lists(&home_);
  home_.asyncgens_shut_down = true;
  AsyncGeneratorState* generator = home_.closing_asyncgens;
  while (generator) {
    AsyncGeneratorState& next = *std::exchange(generator, generator->older_);
    if (!next.is_left()) continue;
    if (next.finaliser) {  // it was cancelled before it began, and somebody has a handle to it
      *std::exchange(next.closer, nullptr) = nullptr;
      next.finaliser = nullptr;
      next.phase_.store(Phase::idle, std::memory_order_release);
    }
    next.move_to(home_.asyncgens);
  }
  left_ = std::exchange(home_.asyncgens, nullptr);
  if (left_) left_->link_ = &left_;
}

AsyncGeneratorState* AsyncGeneratorShutdown::take() noexcept {
  for (;;) {
    std::source_location created;
    {
      const auto hold = lock_lists(&home_);
      AsyncGeneratorState* const generator = left_;
      if (!generator) return nullptr;
      generator->move_to(home_.closing_asyncgens);
      if (generator->take(AsyncGeneratorState::Phase::closing)) {
        generator->held_ = true;
        return generator;
      }
      created = generator->created;
    }
    try {
      throw RuntimeError("aclose(): asynchronous generator is already running");
    } catch (...) {
      report_asyncgen_error(home_, created);
    }
  }
}

bool any_asyncgen_closing(LoopState& home) noexcept {
  const auto hold = lock_lists(&home);
  for (AsyncGeneratorState* generator = home.closing_asyncgens; generator; generator = generator->older_) {
    if (generator->phase_.load(std::memory_order_relaxed) == AsyncGeneratorState::Phase::closing &&
        !generator->is_left()) {
      return true;
    }
  }
  return false;
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
    generator->loop = generator->only_loop_ = nullptr;
    if (!generator->owner) generator->destroy();
  }
}

void report_asyncgen_error(LoopState& home, std::source_location created) noexcept {
  report(home, "an error occurred during closing of asynchronous generator", std::current_exception(), created);
}

}  // namespace ouro::detail
