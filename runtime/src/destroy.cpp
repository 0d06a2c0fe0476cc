// The end of records: what is reported, in which order frames go.
#include <cstdio>
#include <utility>

#include <ouro/runtime/base_event_loop.hpp>
#include <ouro/runtime/detail/context_state.hpp>
#include <ouro/runtime/events.hpp>

#include "drive.hpp"
#include "report.hpp"
#include "shared.hpp"
#include "worker.hpp"

namespace ouro::detail {

namespace {

FutureState& state_at(void* frame) noexcept {
  return *reinterpret_cast<FutureState*>(static_cast<char*>(frame) + sizeof(FrameHeader));
}

void destroy_frame(void* frame) noexcept { std::coroutine_handle<>::from_address(frame).destroy(); }

}  // namespace

namespace {

void report_unretrieved(FutureState& state) noexcept {
  state.clear(flag_unretrieved);
  ++state.refs;  // the handler may look at it
  ExceptionContext context;
  try {
    context.message =
        state.has(flag_task) ? "Task exception was never retrieved" : "Future exception was never retrieved";
    context.exception = exception_of(state);
    if (state.has(flag_task)) context.task = name_of(state);
    context.created = state.created;
    const ContextScope scope(state.has(flag_task) ? context_word(state) : 0);
    report_error(state.has(flag_shared) && running_loop ? *running_loop : *state.home, context);
  } catch (...) {
    std::fputs("ouro: out of memory while reporting an exception that was never retrieved\n", stderr);
  }
  --state.refs;
}

}  // namespace

void retire(FutureState& state) noexcept {
  if (OURO_UNLIKELY(state.has(flag_unretrieved))) report_unretrieved(state);
  if (OURO_UNLIKELY(state.home->worker != nullptr)) return discount_record_in_group(*state.home);
  --state.home->live;
}

OURO_NOINLINE void settle_debts(FutureState& state) noexcept {
  // Dropped while pending: nobody awaits it, for awaiters hold references; its callbacks go with it.
  if (state.waiters) notify_waiters(state);
  if (state.has(flag_unretrieved)) report_unretrieved(state);
}

namespace {

// What the frame held, tasks that held tasks say, follows one by one and not inside each other.
OURO_NOINLINE void destroy_doomed(LoopState& home) noexcept {
  home.destroying = true;
  while (ReadyNode* next = home.doomed) {
    home.doomed = next->next;
    destroy_frame(static_cast<FutureState*>(next)->frame());
    if (home.worker) {
      discount_record_in_group(home);
    } else {
      --home.live;
    }
  }
  home.destroying = false;
}

}  // namespace

void destroy(FutureState& state) noexcept {
  LoopState& home = *state.home;
  if (OURO_UNLIKELY(state.has(flag_shared))) return destroy_shared(state);
  if (OURO_UNLIKELY(state.waiters != nullptr || state.has(flag_unretrieved))) {
    if (state.has(flag_gathered)) return;  // its gather owns it still; the count was of handles alone
    settle_debts(state);
  }
  if (OURO_UNLIKELY(home.destroying)) {
    state.next = home.doomed;
    home.doomed = &state;
    return;
  }
  home.destroying = true;
  destroy_frame(state.frame());
  home.destroying = false;
  if (OURO_UNLIKELY(home.doomed != nullptr)) destroy_doomed(home);
  if (OURO_UNLIKELY(home.worker != nullptr)) return discount_record_in_group(home);
  if (OURO_UNLIKELY(--home.live == 0)) release_loop_state(home);
}

void destroy_unstarted(FutureState& coroutine) noexcept {
  if (OURO_UNLIKELY(coroutine.refs != 0)) return drop_ref(coroutine);  // a task factory kept a handle and threw
  if (!coroutine.has(flag_task)) report_never_awaited(coroutine);
  destroy_frame(coroutine.frame());
}

void destroy_nested(FutureState& outermost) noexcept {
  if (outermost.has(flag_foreign) || !outermost.has(flag_started)) return;
  void* frame = outermost.leaf;
  while (frame != outermost.frame()) {
    NestedAwaiter* awaiter = state_at(frame).awaiter;
    void* parent = awaiter->parent.address();
    awaiter->child = nullptr;
    destroy_frame(frame);
    frame = parent;
  }
  outermost.leaf = outermost.frame();
}

void destroy_suspended(FutureState& outermost) noexcept {
  destroy_nested(outermost);
  destroy_frame(outermost.frame());
}

void report_never_awaited(const FutureState& state) noexcept {
  const LoopState* loop = running_state();
  if (OURO_LIKELY(!loop || !loop->debug)) return;
  std::fprintf(stderr, "ouro: coroutine '%s' was never awaited (%s:%u)\n", state.created.function_name(),
               state.created.file_name(), state.created.line());
}

}  // namespace ouro::detail
