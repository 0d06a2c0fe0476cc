// Runs that would never end: when the loop looks for tasks that wait for each other, and what it does when it finds
// them. Who waits for whom is wait_graph.hpp's.
//
// When. Only while run() or run_until_complete() waits for something; run_forever() is there to wait for others. And
// only if nothing is in sight: the loop is about to sleep without a deadline, nothing is ready, and what it knows of
// cannot wake it: no operation is in flight, so no signal handler, reader or child process either, as these are
// operations; no job is out in an executor, and no future follows another thread's; no other thread waits for a task of
// run_coroutine_threadsafe, which it might cancel. What is left are call_soon_threadsafe() and its kin, which no loop
// can foresee: so it sleeps for `deadlock_grace` first. SIGINT, which a Runner handles, is not in sight: it would end
// any deadlock.
//
// What it costs. A loop with something in sight asks a few words on its way into a sleep, and that is all. One that
// another thread wakes all the time has its sleeps bounded by the grace, which none of them reaches. A look takes time
// in proportion to the tasks; the next one comes no sooner than after a hundred times of that, and not at all before
// something has woken the loop.
//
// What it does.
//   - The awaited task is stuck: it is in a ring of tasks that wait for each other, or needs one that is. DeadlockError
//     comes out of the run, with the ring. Only a cancellation, or a release of a lock by somebody else than its
//     holder, could break it; it would have to come from another thread that had nothing to do with the loop for as
//     long as the grace. Who does that sets the grace to never. (tokio says nothing; Go ends the program with "all
//     goroutines are asleep" at once, for there no thread is outside.)
//   - Others are stuck, the awaited one is not: one report to the exception handler, and the loop waits on.
//   - Nobody is stuck: one report that lists who waits for what, and the loop waits on. A program that is fed by other
//     threads alone sees that once, if its first food is late.
// Each report comes once in a run. If a task awaits something that is not the library's (an awaiter that another thread
// resumes by hand), nobody can say what will wake it: that counts as in sight.
#include <algorithm>
#include <exception>
#include <new>
#include <string>
#include <utility>

#include <ouro/runtime/base_event_loop.hpp>
#include <ouro/runtime/detail/errand.hpp>
#include <ouro/runtime/detail/gather_state.hpp>
#include <ouro/runtime/exceptions.hpp>

#include "wait_graph.hpp"

namespace ouro {

namespace {

constexpr int looks_share = 100;  // of the time at most one part is for looks

constexpr const char* remedy =
    "acquire locks in one order everywhere, let no task await one that awaits it, or wait with timeout()";

}  // namespace

BaseEventLoop::Awaited::Awaited(BaseEventLoop& loop, detail::FutureState& state) noexcept : state_(*loop.state_) {
  state_.awaited = &state;
  loop.looked_ = loop.ring_reported_ = loop.wait_reported_ = false;
}

bool BaseEventLoop::nothing_in_sight(TimePoint deadline) const noexcept {
  const detail::LoopState& s = *state_;
  return s.awaited && deadline == TimePoint::max() && !looked_ && !s.errands &&
         s.remote_tasks.load(std::memory_order_relaxed) == 0 && parker_->idle();
}

TimePoint BaseEventLoop::grace_ends() const noexcept {
  return detail::saturating_add(time(), std::max(deadlock_grace, looks_share * last_look_));
}

// The loop has slept until `until`, unless something woke it.
void BaseEventLoop::look_if_quiet(TimePoint until) {
  const detail::LoopState& s = *state_;
  looked_ = s.ready.empty() && injected_.empty() && !interrupted_.load(std::memory_order_relaxed) && time() >= until;
  if (looked_) look_for_deadlock();
}

void BaseEventLoop::look_for_deadlock() {
  const TimePoint began = time();
  try {
    detail::WaitGraph graph;
    for (detail::FutureState* task = state_->tasks; task; task = task->link.next) {
      if (!graph.add(*task)) return;
    }
    for (detail::GatherState* gather = state_->gathers; gather; gather = gather->older) {
      if (!graph.add_children(*gather)) return;
    }
    graph.solve();
    last_look_ = time() - began;
    tell_of_deadlock(graph);
  } catch (const std::bad_alloc&) {
    // Without memory nobody is told.
  }
}

void BaseEventLoop::tell_of_deadlock(detail::WaitGraph& graph) {
  if (graph.is_stuck(*state_->awaited)) throw DeadlockError(graph.describe_ring(*state_->awaited), remedy);
  if (detail::FutureState* stuck = graph.first_stuck(); stuck && !std::exchange(ring_reported_, true)) {
    report_wait(graph.describe_ring(*stuck));
  }
  if (std::exchange(wait_reported_, true)) return;
  const bool one = graph.size() == 1;
  report_wait((one ? std::string("The only task waits") : "All " + std::to_string(graph.size()) + " tasks wait") +
              ", and nothing is in sight that would wake " + (one ? "it" : "them") +
              "; the loop waits for other threads" + graph.describe_all());
}

void BaseEventLoop::report_wait(std::string text) noexcept {
  ExceptionContext context;
  context.message = std::move(text);
  call_exception_handler(context);
}

}  // namespace ouro
