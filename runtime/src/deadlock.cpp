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
//
// In a group nothing must be in sight of any of the loops. The worker that falls asleep last sleeps for the grace; if
// it wakes by itself, it looks for all. While it does, it still counts as asleep, as all others do, and who is woken
// waits at a gate (quiet_gate.hpp); so it may read what belongs to them. What floats it reads under its lock, with a
// handle to each task, as threads that are no workers are not stopped. If by the end somebody has been woken, or
// something has been sent, it forgets what it saw. What it found is sent to the first loop, which ends the run.
#include <algorithm>
#include <exception>
#include <new>
#include <string>
#include <utility>
#include <vector>

#include <ouro/runtime/base_event_loop.hpp>
#include <ouro/runtime/detail/errand.hpp>
#include <ouro/runtime/detail/gather_state.hpp>
#include <ouro/runtime/exceptions.hpp>

#include "group_walk.hpp"
#include "shared.hpp"
#include "wait_graph.hpp"
#include "worker.hpp"

namespace ouro {

namespace {

constexpr int looks_share = 100;  // of the time at most one part is for looks

constexpr const char* remedy =
    "acquire locks in one order everywhere, let no task await one that awaits it, or wait with timeout()";

}  // namespace

BaseEventLoop::Awaited::Awaited(BaseEventLoop& loop, detail::FutureState& state) noexcept : state_(*loop.state_) {
  state_.awaited = &state;
  ++loop.run_number_;
  loop.looked_ = loop.ring_reported_ = loop.wait_reported_ = false;
  if (state_.worker) state_.worker->group.looked.store(false, std::memory_order_relaxed);
}

// Nothing that this loop knows of will wake it.
bool BaseEventLoop::nothing_in_sight(TimePoint deadline) const noexcept {
  const detail::LoopState& s = *state_;
  return deadline == TimePoint::max() && !s.errands && s.remote_tasks.load(std::memory_order_relaxed) == 0 &&
         parker_->idle();
}

// How long to sleep before a look.
std::chrono::nanoseconds BaseEventLoop::grace() const noexcept {
  return state_->awaited ? std::max(deadlock_grace, looks_share * last_look_) : std::chrono::nanoseconds::max();
}

// ---- A loop that is alone ----

// The loop has slept until `until`, unless something woke it.
void BaseEventLoop::look_if_quiet(TimePoint until) {
  const detail::LoopState& s = *state_;
  looked_ = s.ready.empty() && injected_.empty() && !interrupted_.load(std::memory_order_relaxed) && time() >= until;
  if (looked_) look_for_deadlock();
}

void BaseEventLoop::look_for_deadlock() {
  const TimePoint began = time();
  Findings found;
  try {
    detail::WaitGraph graph;
    for (detail::FutureState* task = state_->tasks; task; task = task->link.next) {
      if (!graph.add(*task)) return;
    }
    for (detail::GatherState* gather = state_->gathers; gather; gather = gather->older) {
      if (!graph.add_children(*gather)) return;
    }
    graph.solve();
    found = findings_of(graph);
  } catch (const std::bad_alloc&) {
    return;  // without memory nobody is told
  }
  last_look_ = time() - began;
  if (!found.error.empty()) throw DeadlockError(found.error, remedy);
  tell(found);
}

// What has not been told in this run.
BaseEventLoop::Findings BaseEventLoop::findings_of(detail::WaitGraph& graph) {
  Findings found;
  if (graph.is_stuck(*state_->awaited)) {
    found.error = graph.describe_ring(*state_->awaited);
    return found;
  }
  if (const detail::FutureState* stuck = graph.first_stuck(); stuck && !ring_reported_) {
    found.ring = graph.describe_ring(*stuck);
    ring_reported_ = true;
  }
  if (wait_reported_) return found;
  const bool one = graph.size() == 1;
  found.waits = (one ? std::string("The only task waits") : "All " + std::to_string(graph.size()) + " tasks wait") +
                ", and nothing is in sight that would wake " + (one ? "it" : "them") +
                "; the loop waits for other threads" + graph.describe_all();
  wait_reported_ = true;
  return found;
}

void BaseEventLoop::tell(Findings& found) {
  for (std::string* text : {&found.ring, &found.waits}) {
    if (text->empty()) continue;
    ExceptionContext context;
    context.message = std::move(*text);
    call_exception_handler(context);
  }
}

// ---- A group ----

namespace {

bool is_quiet(const detail::WorkerGroup& group) noexcept {
  if (!group.idle.all_asleep() || group.injection.size() != 0) return false;
  for (const auto& worker : group.workers) {
    if (worker->in_sight || worker->state.inbox.load(std::memory_order_relaxed) != detail::asleep()) return false;
  }
  return true;
}

// False: somebody waits for what is not the library's.
bool gather_waits(detail::WorkerGroup& group, const std::vector<detail::FutureHandle>& tasks,
                  detail::WaitGraph& graph) {
  for (const detail::FutureHandle& task : tasks) {
    const detail::MaybeLock lock(*task.get());
    if (!task.get()->done() && !graph.add(*task.get())) return false;
  }
  // The children of pinned tasks are in no list but that of their gathers.
  for (const auto& worker : group.workers) {
    for (detail::GatherState* gather = worker->state.gathers; gather; gather = gather->older) {
      if (!graph.add_children(*gather)) return false;
    }
  }
  return true;
}

}  // namespace

// Of the worker that fell asleep last, and saw all others asleep: until when it sleeps before it looks.
TimePoint BaseEventLoop::grace_of_group() const noexcept {
  const detail::WorkerGroup& group = state_->worker->group;
  if (group.looked.load(std::memory_order_relaxed)) return TimePoint::max();
  return detail::saturating_add(time(), Duration(group.grace.load(std::memory_order_relaxed)));
}

// True if nothing woke anybody meanwhile.
bool BaseEventLoop::look_in_group() noexcept {
  detail::WorkerGroup& group = state_->worker->group;
  if (!group.gate.close()) return false;
  BaseEventLoop& first = *group.workers.front()->state.loop;
  std::uint64_t run = 0;
  std::vector<detail::FutureHandle> tasks;
  Findings found;
  bool quiet = is_quiet(group) && first.state_->awaited && !first.interrupted_.load(std::memory_order_relaxed);
  if (quiet) {
    run = first.run_number_;
    const TimePoint began = time();
    const detail::GroupWalk walk(group);
    try {
      detail::WaitGraph graph;
      tasks = detail::all_shared_tasks(group);
      const bool complete = gather_waits(group, tasks, graph);
      quiet = is_quiet(group);
      if (complete && quiet) {
        graph.solve();
        found = first.findings_of(graph);
      }
    } catch (const std::bad_alloc&) {
      // Without memory nobody is told.
    }
    first.last_look_ = time() - began;
    group.grace.store(first.grace().count(), std::memory_order_relaxed);
    if (quiet) group.looked.store(true, std::memory_order_relaxed);
  }
  group.gate.open();
  // Who has the last handle destroys a task, which may do anything: so as one that is awake.
  group.idle.wake_up(state_->worker->index);
  tasks.clear();
  if (found.is_empty()) return quiet;
  detail::send(*first.state_, [&first, run, found = std::move(found)]() mutable {
    const detail::LoopState& s = *first.state_;
    if (first.run_number_ != run || !s.awaited || s.awaited->done()) return;
    if (found.error.empty()) return first.tell(found);
    if (!s.interrupt) first.interrupt_with(std::make_exception_ptr(DeadlockError(found.error, remedy)));
  });
  return quiet;
}

}  // namespace ouro
