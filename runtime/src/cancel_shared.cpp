// Cancellation in a group.
//
// It walks as it does on one loop (core.cpp, gather_cancel.cpp): from a task to what that awaits, and at a gather to
// the gather's children. Gathers stand in a list until it is their turn, so that it needs no stack, however they are
// nested. Here tasks run, end and go meanwhile, so the walk holds a reference to each record on which it stands, and a
// count of each floating parent's gather (pin()). One walk at a time goes through a group (WorkerGroup::cancelling),
// which makes the marks on gathers the walk's own; nothing of the user's runs under that lock: what is destroyed is
// destroyed after it.
//
// What belongs to one worker is left to that worker: pinned tasks, sleeps, errands get a message, a callback of their
// loop. The request counts at once; for a floating task word_due says that a cancellation is due, so it hears of it
// wherever it resumes, if the message comes too late.
//
// Rings. A chain that changes under the walk may look like a ring that it is not: then a task stops waiting although
// what it waits for could have been cancelled. A real ring stands still, and is found:
//  - One of tasks that await each other, by the chain: in the records that can be read here (find_shared_ring), and on
//    the way from loop to loop (Trail). One of them stops waiting.
//  - One that goes through gathers. All messages that follow from one request carry its number, and a gather is walked
//    over once for each number (GatherState::swept), so the walk ends. It follows each wait of a ring that it comes to,
//    and so ends there in one of two ways. It comes to a gather that it has walked over: one of the ring, if it came
//    round. Or to a pinned task that another request's message has reached since this one's was sent, and which must
//    not hear twice. In both cases a search begins there, which finds the ring (ring_search.cpp); if there is none, for
//    there may just be two ways down, it does nothing.
#include <array>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <ouro/runtime/base_event_loop.hpp>
#include <ouro/runtime/futures.hpp>

#include "drive.hpp"
#include "group_walk.hpp"
#include "shared.hpp"
#include "worker.hpp"

namespace ouro::detail {

namespace {

// What the task awaits, if that is a future or a task.
FutureHandle next_of(FutureState& state) noexcept {
  if (!state.has(flag_task)) return FutureHandle();
  if (!state.floating()) {
    if (running_loop != state.home || !state.waiting_on) return FutureHandle();
    FutureState* next = state.waiting_on->forward();
    return next ? handle_of(*next) : FutureHandle();
  }
  RecordLock lock(state);
  FutureState* next = state.waiting_on ? state.waiting_on->forward() : nullptr;
  return next ? handle_of(*next) : FutureHandle();
}

// As find_ring().
FutureState* find_shared_ring(FutureState& first) noexcept {
  FutureHandle mark = handle_of(first);
  std::uint64_t steps = 0;
  std::uint64_t limit = 2;
  for (FutureHandle at = next_of(first); at.get(); at = next_of(*at.get())) {
    if (at.get() == mark.get()) return at.get();
    if (++steps == limit) {
      mark = at;
      steps = 0;
      limit *= 2;
    }
  }
  return nullptr;
}

// A task to which a message goes. A gather's child does not outlive its gather for that.
class HeldTask {
 public:
  // Requires: the task is not done, and stays so during the call.
  explicit HeldTask(FutureState& task) noexcept : task_(handle_of(task)) {
    if (task.has(flag_gathered) && task.floating() && task.gather->pin()) gather_ = task.gather;
  }
  HeldTask(HeldTask&& other) noexcept : task_(std::move(other.task_)), gather_(std::exchange(other.gather_, nullptr)) {}
  ~HeldTask() {
    task_ = FutureHandle();
    if (gather_) gather_->unpin();
  }
  FutureState& operator*() const noexcept { return *task_.get(); }

 private:
  FutureHandle task_;
  GatherState* gather_ = nullptr;
};

}  // namespace

void leave_ring(FutureState& task) noexcept {
  FutureHandle awaited = next_of(task);
  if (!awaited.get()) return;
  bool left = false;
  {
    RecordLock lock(*awaited.get());
    if (awaited.get()->done()) return;  // it has been told, or is about to be
    Waiter* const first = awaited.get()->waiters;
    for (Waiter* waiter = first; waiter && !left; waiter = waiter->next == first ? nullptr : waiter->next) {
      if (!FutureAwaiterBase::waits_for(*waiter, task)) continue;
      left = true;
      unlink_waiter(*awaited.get(), *waiter);
      break;
    }
  }
  if (left) {
    // It may have caught the CancelledError for which it is here, and wait for something else by now: it hears of
    // another one then, for what it awaits is not done.
    RecordLock(task).set(word_due);
    return make_ready(task);
  }
  // It is just about to wait, on its worker: that has got so far when it comes to its messages.
  send(home_of(task), [held = HeldTask(task)] {
    bool due = false;
    {
      RecordLock lock(*held);
      due = (lock.word() & word_due) != 0;
    }
    if (due) leave_ring(*held);
  });
}

class SharedCancel {
 public:
  // `sweep`: the number of the request of which this is a part; 0 for a new one.
  SharedCancel(WorkerGroup& group, const std::string& message, std::uint64_t sweep = 0) noexcept
      : group_(group), scope_(group), message_(kept(message)) {
    outer_ = std::exchange(group.walk, this);
    if (sweep != 0) {
      sweep_ = sweep;
    } else {
      sweep_ = outer_ ? outer_->sweep_ : ++group.sweeps;
    }
  }
  ~SharedCancel() {
    group_.walk = outer_;
    if (outer_) outer_->scope_.take_over(scope_);
  }
  SharedCancel(const SharedCancel&) = delete;

  bool cancel(FutureState& first) noexcept {
    const bool accepted = cancel_chain(first);
    walk();
    return accepted;
  }

  // A gather that fails: its children are to end, the futures of the caller go on.
  void fail(GatherState& gather) noexcept {
    if (outer_) {
      outer_->enlist(gather, GatherState::Walked::to_fail);  // its turn comes
      return;
    }
    enlist(gather, GatherState::Walked::to_fail);
    walk();
  }

  // The task of this gather is about to wait, and a cancellation is due.
  void cancel_children(GatherState& gather) noexcept {
    enlist(gather, GatherState::Walked::to_cancel);
    walk();
  }

 private:
  // Without memory the message is lost, and the cancellation is not.
  static std::string kept(const std::string& message) noexcept {
    try {
      return message;
    } catch (...) {
      return {};
    }
  }

  // False if it is over.
  bool enlist(GatherState& gather, GatherState::Walked how) noexcept {
    using Walked = GatherState::Walked;
    const bool listed = gather.walked > Walked::before;
    if (listed && how == Walked::to_fail) return true;
    // A pinned task's gather lives until its parent resumes, which nobody does meanwhile.
    if (gather.shared && !scope_.hold(gather)) return false;  // or without memory: its children are not asked
    if (listed || (gather.walked == Walked::before && gather.swept == sweep_ && how == Walked::to_cancel)) {
      if (gather.walked == Walked::to_fail) gather.walked = how;
      suspect(gather);
      return true;
    }
    gather.walked = how;
    gather.swept = sweep_;
    gather.next_walked = nullptr;
    *end_ = &gather;
    end_ = &gather.next_walked;
    return true;
  }

  // The walk has come here before: through a ring, it may be.
  void suspect(GatherState& gather) noexcept {
    try {
      if (suspects_.empty() || suspects_.back() != &gather) suspects_.push_back(&gather);
    } catch (...) {
      // Without memory a ring is not found.
    }
  }

  void walk() noexcept {
    for (GatherState* gather = first_; gather; gather = gather->next_walked) {
      const bool failed = gather->walked == GatherState::Walked::to_fail;
      gather->walked = GatherState::Walked::done;
      std::string aside;
      if (failed) aside.swap(message_);  // its children end because of the failure
      if (gather->shared) {
        visit_floating(*gather, failed);
      } else {
        visit_pinned(*gather, failed);
      }
      if (failed) aside.swap(message_);
    }
    // The marks go when all have been met, so that none is met twice.
    while (GatherState* gather = first_) {
      first_ = gather->next_walked;
      gather->walked = GatherState::Walked::before;
    }
    end_ = &first_;
    if (OURO_UNLIKELY(!suspects_.empty())) search_suspects();
  }

  OURO_NOINLINE void search_suspects() noexcept {
    if (!outer_) {
      search_rings(&scope_, &group_, suspects_, nullptr, message_);
    } else {
      for (GatherState* gather : suspects_) {
        if (!gather->shared || outer_->scope_.hold(*gather)) outer_->suspect(*gather);
      }
    }
    suspects_.clear();
  }

  void visit_floating(GatherState& gather, bool failed) noexcept {
    if (!failed) gather.begin_abort(nullptr, true, message_);
    std::array<FutureState*, 64> children;
    for (std::uint32_t from = 0; from < gather.count_of();) {
      const std::size_t n = gather.collect_public(children.data(), children.size(), from);
      for (std::size_t i = 0; i < n; ++i) {
        cancel_chain(*children[i]);
        drop_ref(*children[i]);
      }
    }
    if (!gather.nodes) return;
    if (failed) return gather.let_go_of_futures();
    cancel_futures(gather);
  }

  // As CancelWalk's.
  void visit_pinned(GatherState& gather, bool failed) noexcept {
    if (!gather.waiting) return;
    const bool unstarted = gather.has_unstarted();
    if (!failed) gather.begin_cancel(message_);
    bool any = false;
    for (std::uint32_t i = 0; i < gather.listed; ++i) {
      FutureState* child = gather.children[i];
      if (child && child->has(flag_started)) any = cancel_chain(*child) || any;
    }
    if (failed) {
      gather.let_go_of_futures();
      if (gather.pending == 0) return gather.finish();
    } else {
      any = cancel_futures(gather) || any;
      if (!any && !unstarted) owe_cancel(*gather.parent);
    }
    if (OURO_UNLIKELY(gather.starved)) gather.refill();
  }

  // True if any accepted.
  bool cancel_futures(GatherState& gather) noexcept {
    bool any = false;
    for (std::uint32_t i = 0; gather.nodes && i < gather.count; ++i) {
      FutureState* future = gather.nodes[i].future;
      if (!future || future->done()) continue;
      any = (future->has(flag_task) ? cancel_chain(*future) : cancel_plain(*future, true)) || any;
    }
    return any;
  }

  // True: it was not done when asked.
  bool cancel_chain(FutureState& first) noexcept { return cancel_chain(first, Trail()); }

  // The way that a cancellation has come from loop to loop. A ring that goes through several loops is found on the way
  // round, by the mark that it comes to again (Brent). The mark is an address and no more, for it changes threads.
  struct Trail {
    const void* mark = nullptr;
    std::uint64_t steps = 0;
    std::uint64_t limit = 2;

    // True: it has been here.
    bool step(const FutureState& at) noexcept {
      if (mark == &at) return true;
      if (++steps >= limit || !mark) {
        mark = &at;
        steps = 0;
        limit *= 2;
      }
      return false;
    }
  };

  bool cancel_chain(FutureState& first, Trail trail, FutureHandle above = FutureHandle()) noexcept {
    if (first.done() && !above.get()) return false;
    return follow(handle_of(first), std::move(above), find_shared_ring(first), trail);
  }

  // Asks `at` to end, or what that waits for, and so on. `above`: the task that waits for it and has been asked, if
  // any; so nobody else hears of the cancellation if `at` is done, or is about to be, before it has been asked. False:
  // that was so, and there is none above.
  bool follow(FutureHandle at, FutureHandle above, FutureState* ring, Trail trail) noexcept {
    while (FutureState* state = at.get()) {
      if (trail.step(*state)) ring = state;
      FutureHandle next;
      if (state->has(flag_task) ? count(*state) : cancel_plain(*state, above.get() != nullptr)) {
        if (!state->has(flag_task)) return true;
        next = ask(*state, nullptr, trail, state == ring);
        above = std::move(at);
      } else {
        if (!above.get()) return false;
        next = ask(*above.get(), state, trail, false);
      }
      at = std::move(next);
    }
    return true;
  }

  // A task whose request has been counted hears of it; or what it awaits is to be asked instead. `over`: what it may
  // still await, but has been asked in vain.
  FutureHandle ask(FutureState& task, const FutureState* over, const Trail& trail, bool in_ring) noexcept {
    if (OURO_UNLIKELY(group_.ending)) return FutureHandle();  // it is about to be destroyed
    if (task.floating()) return cancel_floating(task, over, in_ring);
    if (running_loop == task.home) return cancel_pinned(task, over, in_ring);
    {
      RecordLock lock(task);
      lock.set(word_due);
    }
    send(*task.home, [task = handle_of(task), message = message_, trail, in_ring, sweep = sweep_] {
      if (!task.get()->done()) {
        SharedCancel(*group_of_loop(*task.get()->home), message, sweep).deliver(*task.get(), trail, in_ring);
      }
    });
    return FutureHandle();
  }

  // False if it is done.
  bool count(FutureState& task) noexcept {
    if (!task.has(flag_shared)) {
      remember_message(task, message_);
      count_request(task);
      return true;
    }
    RecordLock lock(task);
    if (task.done()) return false;
    lock.count_request();
    remember_message(task, message_);
    return true;
  }

  // A request that has been counted reaches the pinned task's thread, unless the task has heard of it by itself.
  void deliver(FutureState& task, const Trail& trail, bool in_ring) noexcept {
    bool heard = false;
    {
      RecordLock lock(task);
      heard = (lock.word() & word_due) == 0;
      lock.clear(word_due);
    }
    if (OURO_UNLIKELY(heard)) return search_rings(&scope_, &group_, suspects_, &task, message_);
    FutureHandle next = cancel_pinned(task, nullptr, in_ring);
    if (next.get()) cancel_chain(*next.get(), trail, handle_of(task));
    walk();
  }

  // What the task awaits is to be cancelled instead, or nothing: it has heard.
  FutureHandle cancel_pinned(FutureState& task, const FutureState* over, bool in_ring) noexcept {
    if (OURO_UNLIKELY(task.home->closed)) return FutureHandle();  // a destructor asks: the close destroys the task
    Waitee* waitee = task.waiting_on;
    if (!waitee) {
      if (task.has(flag_shared) && !task.has(flag_started)) {
        RecordLock(task).set(word_due);  // another worker may be about to schedule it: its flags are that one's
      } else {
        owe_cancel(task);
      }
      return FutureHandle();
    }
    if (FutureState* inner = in_ring ? nullptr : waitee->forward()) {
      if (inner != over && !inner->done()) return handle_of(*inner);
      owe_cancel(task);  // it is on its way to resume
      return FutureHandle();
    }
    if (GatherState* gather = GatherState::from(*waitee)) {
      enlist(*gather, GatherState::Walked::to_cancel);
    } else if (!waitee->cancel(task, message_)) {
      owe_cancel(task);
    }
    return FutureHandle();
  }

  FutureHandle cancel_floating(FutureState& task, const FutureState* over, bool in_ring) noexcept {
    LoopState* home = nullptr;
    std::optional<HeldTask> held;
    {
      RecordLock lock(task);
      Waitee* waitee = task.waiting_on;
      FutureState* inner = waitee ? waitee->forward() : nullptr;
      if (inner && !in_ring && inner != over && !inner->done()) return handle_of(*inner);
      if (waitee && !inner) {
        GatherState* gather = GatherState::from(*waitee);
        if (gather && enlist(*gather, GatherState::Walked::to_cancel)) return FutureHandle();
      }
      lock.set(word_due);
      if (!waitee || task.done()) return FutureHandle();
      home = &home_of(task);
      if (!in_ring && running_loop != home) held.emplace(task);
    }
    if (in_ring) {
      leave_ring(task);
    } else if (running_loop == home) {
      stop_wait(task);
    } else {
      send(*home, [held = std::move(*held)] { stop_wait(*held); });
    }
    return FutureHandle();
  }

  // On the worker where the task sleeps, if it still does.
  static void stop_wait(FutureState& task) noexcept {
    RecordLock lock(task);  // the task cannot resume before it is let go of, though another worker may have taken it
    Waitee* waitee = task.waiting_on;
    if (!waitee || &home_of(task) != running_loop || waitee->forward() || GatherState::from(*waitee)) return;
    // word_due stays, and is what the task hears.
    if (lock.word() & word_due) static_cast<void>(waitee->cancel(task, std::string()));
  }

  // False: it is done, or somebody completes it.
  bool cancel_plain(FutureState& future, bool waited_for) noexcept {
    {
      RecordLock lock(future);
      if (future.done()) return false;
      if (waited_for || !future.has(flag_started)) remember_message(future, message_);
      if (future.has(flag_started)) {
        if (waited_for) lock.set(word_due);  // if it is not completed after all: see unclaim()
        return false;
      }
      future.set(flag_started);
    }
    future.set_outcome(outcome_cancelled);
    settle_shared(future);
    LoopState& home = *future.home;
    if (running_loop == &home) {
      leave_source(future);
    } else {
      send(home, [held = handle_of(future)] { leave_source(*held.get()); });
    }
    return true;
  }

  // On the thread that gave the future away, to an executor say.
  static void leave_source(FutureState& future) noexcept {
    if (Waitee* source = std::exchange(future.waiting_on, nullptr)) source->cancel(future, std::string());
  }

  static WorkerGroup* group_of_loop(const LoopState& home) noexcept { return &home.worker->group; }

  WorkerGroup& group_;
  GroupWalk scope_;
  std::string message_;
  std::uint64_t sweep_ = 0;
  SharedCancel* outer_ = nullptr;
  GatherState* first_ = nullptr;
  GatherState** end_ = &first_;
  std::vector<GatherState*> suspects_;
};

bool cancel_shared(FutureState& first, const std::string& message) noexcept {
  if (first.done()) return false;
  return SharedCancel(home_of(first).worker->group, message).cancel(first);
}

void GatherState::cancel_children_in_group(bool also_futures) noexcept {
  SharedCancel cancel(home->worker->group, also_futures ? cancel_message_of(*parent) : std::string());
  if (also_futures) {
    cancel.cancel_children(*this);
  } else {
    cancel.fail(*this);
  }
}

}  // namespace ouro::detail
