// Cancellation in a group.
//
// It walks as it does on one loop (core.cpp, gather_cancel.cpp): from a task to what that awaits, and at a gather to
// the gather's children. Here tasks run, end and go meanwhile, so the walk holds a reference to each record on which it
// stands, and a count of each gather (pin()). One walk at a time goes through a group (WorkerGroup::cancelling), which
// makes the marks on gathers the walk's own; nothing of the user's runs under that lock: what is destroyed is destroyed
// after it.
//
// What belongs to one worker is left to that worker: pinned tasks, sleeps, errands get a message, a callback of their
// loop. The request counts at once; for a floating task word_due says that a cancellation is due, so it hears of it
// wherever it resumes, if the message comes too late.
//
// A chain that changes under the walk may look like a ring that it is not: then a task stops waiting although what it
// waits for could have been cancelled. A real ring stands still, and is found.
#include <array>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <ouro/runtime/base_event_loop.hpp>
#include <ouro/runtime/futures.hpp>

#include "drive.hpp"
#include "shared.hpp"
#include "worker.hpp"

namespace ouro::detail {

namespace {

// Runs `f` on the thread of `home`, soon; not at all if the loop is closed, or without memory.
template <class F>
void send(LoopState& home, F f) noexcept {
  try {
    auto* node = TypedCallbackNode<F>::make(home, std::source_location(), true, std::move(f));
    if (!post_to(home, *node)) node->abandon();
  } catch (...) {
    // The cancellation arrives when the wait ends.
  }
}

FutureHandle handle_of(FutureState& state) noexcept {
  add_ref(state);
  return FutureHandle(state);
}

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

}  // namespace

class SharedCancel {
 public:
  SharedCancel(WorkerGroup& group, const std::string& message) noexcept : group_(group), message_(message) {
    group.cancelling.lock();
    outer_ = std::exchange(group.walk, this);
    later_.emplace();
  }
  // Children of which this held the last reference go before their parents resume, and outside the lock.
  ~SharedCancel() {
    group_.walk = outer_;
    if (outer_ && outer_->take_over(pinned_)) pinned_.clear();
    group_.cancelling.unlock();
    later_.reset();
    for (GatherState* gather : pinned_) gather->unpin();
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
  // False if it is over.
  bool enlist(GatherState& gather, GatherState::Walked how) noexcept {
    if (gather.walked != GatherState::Walked::no) {
      if (gather.walked == GatherState::Walked::to_fail) gather.walked = how;
      return true;
    }
    try {
      pinned_.push_back(&gather);
    } catch (...) {
      return false;  // without memory its children are not asked
    }
    if (!gather.pin()) {
      pinned_.pop_back();
      return false;
    }
    gather.walked = how;
    gather.next_walked = nullptr;
    *end_ = &gather;
    end_ = &gather.next_walked;
    return true;
  }

  void walk() noexcept {
    for (GatherState* gather = first_; gather; gather = gather->next_walked) {
      const bool failed = gather->walked == GatherState::Walked::to_fail;
      gather->walked = GatherState::Walked::done;
      if (!failed) gather->begin_abort(nullptr, true, message_);
      visit(*gather, !failed);
    }
    // The marks go when all have been met, so that none is met twice.
    while (GatherState* gather = first_) {
      first_ = gather->next_walked;
      gather->walked = GatherState::Walked::no;
    }
    end_ = &first_;
  }

  bool take_over(const std::vector<GatherState*>& gathers) noexcept {
    try {
      pinned_.insert(pinned_.end(), gathers.begin(), gathers.end());
      return true;
    } catch (...) {
      return false;
    }
  }

  // A task to which a message goes. A gather's child does not outlive its gather for that.
  class Held {
   public:
    // Requires: the task is not done, and stays so during the call.
    explicit Held(FutureState& task) noexcept : task_(handle_of(task)) {
      if (task.has(flag_gathered) && task.floating() && task.gather->pin()) gather_ = task.gather;
    }
    Held(Held&& other) noexcept : task_(std::move(other.task_)), gather_(std::exchange(other.gather_, nullptr)) {}
    ~Held() {
      task_ = FutureHandle();
      if (gather_) gather_->unpin();
    }
    FutureState& operator*() const noexcept { return *task_.get(); }

   private:
    FutureHandle task_;
    GatherState* gather_ = nullptr;
  };

  void visit(GatherState& gather, bool also_futures) noexcept {
    std::array<FutureState*, 64> children;
    for (std::uint32_t from = 0; from < gather.count;) {
      const std::size_t n = gather.collect_public(children.data(), children.size(), from);
      for (std::size_t i = 0; i < n; ++i) {
        cancel_chain(*children[i]);
        drop_ref(*children[i]);
      }
    }
    if (!gather.nodes) return;
    if (!also_futures) return gather.let_go_of_futures();
    for (std::uint32_t i = 0; i < gather.count; ++i) {
      FutureState* future = gather.nodes[i].future;
      if (!future || future->done()) continue;
      if (future->has(flag_task)) {
        cancel_chain(*future);
      } else {
        cancel_plain(*future, true);
      }
    }
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
    send(*task.home, [task = handle_of(task), message = message_, trail, in_ring] {
      if (!task.get()->done()) {
        SharedCancel(*group_of_loop(*task.get()->home), message).deliver(*task.get(), trail, in_ring);
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
    {
      RecordLock lock(task);
      if ((lock.word() & word_due) == 0) return;
      lock.clear(word_due);
    }
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
      gather->cancel_or_owe(message_);
    } else if (!waitee->cancel(task, message_)) {
      owe_cancel(task);
    }
    return FutureHandle();
  }

  FutureHandle cancel_floating(FutureState& task, const FutureState* over, bool in_ring) noexcept {
    LoopState* home = nullptr;
    std::optional<Held> held;
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

  // The task waits in a ring of tasks: it stops waiting.
  static void leave_ring(FutureState& task) noexcept {
    FutureHandle awaited = next_of(task);
    if (!awaited.get()) return;
    {
      RecordLock lock(*awaited.get());
      if (awaited.get()->done()) return;  // it has been told, or is about to be
      Waiter* const first = awaited.get()->waiters;
      for (Waiter* waiter = first; waiter; waiter = waiter->next == first ? nullptr : waiter->next) {
        if (!FutureAwaiterBase::waits_for(*waiter, task)) continue;
        unlink_waiter(*awaited.get(), *waiter);
        make_ready(task);
        return;
      }
    }
    // It is just about to wait, on its worker: that has got so far when it comes to its messages.
    send(home_of(task), [held = Held(task)] {
      bool due = false;
      {
        RecordLock lock(*held);
        due = (lock.word() & word_due) != 0;
      }
      if (due) leave_ring(*held);
    });
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
  const std::string message_;
  SharedCancel* outer_ = nullptr;
  GatherState* first_ = nullptr;
  GatherState** end_ = &first_;
  std::optional<DeferredDestruction> later_;
  std::vector<GatherState*> pinned_;
};

bool cancel_shared(FutureState& first, const std::string& message) noexcept {
  if (first.done()) return false;
  return SharedCancel(home_of(first).worker->group, message).cancel(first);
}

void GatherState::fail_children_shared() noexcept { SharedCancel(home->worker->group, std::string()).fail(*this); }

void GatherState::cancel_children_shared() noexcept {
  const std::string message = cancel_message_of(*parent);
  SharedCancel(home->worker->group, message).cancel_children(*this);
}

}  // namespace ouro::detail
