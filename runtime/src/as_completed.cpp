// Futures in the order in which they end.
#include <ouro/runtime/as_completed.hpp>

#include <utility>

#include "drive.hpp"
#include "shared.hpp"
#include "wait_graph.hpp"
#include "worker.hpp"

namespace ouro::detail {

namespace {

// Throws: RuntimeError unless both are the same loop, or loops of one group.
void require_same(const LoopState& one, const LoopState& other) {
  if (OURO_LIKELY(&one == &other)) return;
  if (one.worker && other.worker && &one.worker->group == &other.worker->group) return;
  throw RuntimeError("as_completed got a future attached to a different loop",
                     "await it on its own loop, or use run_coroutine_threadsafe and wrap_future");
}

}  // namespace

// ---- The line ----

void Completions::start(const std::vector<FutureState*>& futures, OptionalDelay timeout) {
  LoopState* here = running_state();
  if (!here && !futures.empty()) here = &home_of(*futures.front());
  for (const FutureState* future : futures) require_same(*here, home_of(*future));
  loop_ = here;
  shared_ = here && here->worker;
  if (timeout && !futures.empty()) {
    FutureState& task = require_task("as_completed");
    const TimePoint when = saturating_add(home_of(task).clock->now(), *timeout);
    timer_.arm(task, when, &timed_out, this, shared_);
  }
  nodes_ = std::make_unique<WaitNode[]>(futures.size());
  order_ = std::make_unique<std::uint32_t[]>(futures.size());
  count_ = futures.size();
  for (std::size_t i = 0; i < count_; ++i) {
    nodes_[i].owner = this;
    nodes_[i].index = static_cast<std::uint32_t>(i);
    if (!nodes_[i].link(*futures[i], &heard)) give(nodes_[i].index, false);
  }
}

void Completions::stop() noexcept {
  if (timer_.armed()) static_cast<void>(timer_.disarm());
  for (std::size_t i = 0; i < count_; ++i) nodes_[i].drop();
}

bool Completions::ask(bool* counted) noexcept {
  lock();
  const bool before = counted && *counted;
  const bool more = before || asked_ < count_;
  if (more && !before) ++asked_;
  if (counted) *counted = more;
  unlock();
  return more;
}

bool Completions::exhausted() const noexcept {
  lock();
  const bool all = asked_ == count_;
  unlock();
  return all;
}

void Completions::heard(WaitNode& node, FutureState&) noexcept {
  static_cast<Completions*>(node.owner)->give(node.index, false);
}

void Completions::give(std::uint32_t index, bool back) noexcept {
  lock();
  if (too_late_ && !back) return unlock();
  if (back) {
    order_[--taken_] = index;
  } else {
    order_[ended_++] = index;
  }
  while (NextWait* wait = first_) {
    leave_line(*wait);
    // One that was cancelled cannot go before it has had the lock.
    if (!wait->win()) continue;
    static_cast<void>(take(wait->index_));  // there is this one alone, or nobody would be in the line
    unlock();
    return wait->go();
  }
  unlock();
}

bool Completions::take(std::uint32_t& index) noexcept {
  if (taken_ == ended_) return false;
  index = order_[taken_++];
  return true;
}

NextWait* Completions::leave_line(NextWait& wait) noexcept {
  (wait.prev_ ? wait.prev_->next_ : first_) = wait.next_;
  (wait.next_ ? wait.next_->prev_ : last_) = wait.prev_;
  wait.in_line_ = false;
  return &wait;
}

void Completions::timed_out(void* self) noexcept {
  auto& all = *static_cast<Completions*>(self);
  all.lock();
  all.too_late_ = true;
  while (NextWait* wait = all.first_) {
    all.leave_line(*wait);
    if (!wait->win()) continue;
    all.unlock();
    wait->go();
    all.lock();
  }
  all.unlock();
}

// ---- One who waits ----

const WaiteeKind NextWait::next_kind{&WaitCore::cancel, nullptr, nullptr, "as_completed",
                                     [](const Waitee& waitee, Needs& needs) {
                                       const Completions& of = *static_cast<const NextWait&>(waitee).of_;
                                       needs.any_of();
                                       for (std::size_t i = 0; i < of.count_; ++i) needs.future(of.nodes_[i].future);
                                     }};

NextWait::~NextWait() {
  if (!waited()) return;
  of_->lock();
  if (in_line_) of_->leave_line(*this);
  of_->unlock();
}

bool NextWait::await_ready() noexcept {
  if (!of_->ask(counted_)) {
    exhausted_ = true;
    return true;
  }
  of_->lock();
  const bool ready = of_->take(index_) || of_->too_late_;
  of_->unlock();
  return ready;
}

void NextWait::suspend(FutureState& task, void* leaf, std::source_location where) {
  if (of_->loop_) require_same(*of_->loop_, home_of(task));
  begin(task, leaf, where, next_kind);
  of_->lock();
  const bool ready = of_->take(index_) || of_->too_late_;
  if (!ready) {
    prev_ = std::exchange(of_->last_, this);
    (prev_ ? prev_->next_ : of_->first_) = this;
    next_ = nullptr;
    in_line_ = true;
  }
  of_->unlock();
  if (ready) end();
  arrive();
}

void NextWait::throw_exhausted() {
  throw RuntimeError("as_completed: every one of them has been awaited", "await each element once, or use next()");
}

std::uint32_t NextWait::take_next() {
  if (exhausted_) return none;
  if (waited()) {
    resume();
    const bool cancelled = is_cancelled();
    of_->lock();
    if (in_line_) of_->leave_line(*this);
    if (cancelled) --of_->asked_;  // it goes without one
    if (cancelled && counted_) *counted_ = false;
    of_->unlock();
    if (cancelled) {
      if (index_ != none) of_->give(std::exchange(index_, none), true);
      throw_it();
    }
  }
  if (index_ == none) throw TimeoutError("the deadline has passed");
  if (counted_) {
    of_->lock();
    *counted_ = false;  // it has had its one
    of_->unlock();
  }
  return std::exchange(index_, none);
}

}  // namespace ouro::detail
