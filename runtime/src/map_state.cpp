// A map whose children are tasks: who may start, what has ended, and how all of it ends.
#include <ouro/runtime/detail/map_state.hpp>

#include <string>

#include <ouro/runtime/detail/gather_slots.hpp>
#include <ouro/runtime/exceptions.hpp>
#include <ouro/runtime/map.hpp>

#include "shared.hpp"
#include "worker.hpp"

namespace ouro::detail {

// ---- The limit ----

LimitState::LimitState(std::size_t limit) : limit_(limit) {
  if (limit == 0) throw_zero_limit();
}

// Each map is told when the lock has been let go of, and is kept until it has been.
void LimitState::set(std::size_t limit) {
  if (limit == 0) throw_zero_limit();
  {
    const SpinLock::Hold hold(lock_);
    limit_ = limit;
    ++version_;
  }
  while (const std::shared_ptr<MapState> map = next_untold()) map->limit_changed();
}

std::shared_ptr<MapState> LimitState::next_untold() noexcept {
  const SpinLock::Hold hold(lock_);
  for (MapState* map = first_; map; map = map->limit_after_) {
    if (map->told_version_ == version_) continue;
    map->told_version_ = version_;
    if (std::shared_ptr<MapState> kept = map->weak_from_this().lock()) return kept;
  }
  return nullptr;
}

MapState::MapState(MapBound bound, Counts counts, bool outcomes) noexcept
    : bound_(std::move(bound)),
      home_(running_state()),
      shared_(home_ && home_->worker),
      outcomes_(outcomes),
      counts_(counts) {}

void MapState::join_limit() noexcept {
  LimitState* const limit = bound_.changing.get();
  if (!limit) return;
  const SpinLock::Hold hold(limit->lock_);
  told_version_ = limit->version_;
  limit_after_ = limit->first_;
  if (limit_after_) limit_after_->limit_before_ = this;
  limit->first_ = this;
}

void MapState::leave_limit() noexcept {
  LimitState* const limit = bound_.changing.get();
  if (!limit) return;
  const SpinLock::Hold hold(limit->lock_);
  if (!limit_before_ && limit->first_ != this) return;
  (limit_before_ ? limit_before_->limit_after_ : limit->first_) = limit_after_;
  if (limit_after_) limit_after_->limit_before_ = limit_before_;
  limit_before_ = limit_after_ = nullptr;
}

// The lock, though nothing is changed: the feeder has read the limit under it, and found no room, before or after.
void MapState::limit_changed() noexcept {
  {
    const Hold hold(*this);
  }
  room.set();
}

// ---- The feeder ----

MapState::Step MapState::next_step() noexcept {
  const Hold hold(*this);
  if (stopping_ || failed_) return Step::stop;
  if ((counts_ == Counts::unfinished ? running_ : untaken_) < limit()) return Step::start;
  room.clear();
  return Step::wait;
}

void MapState::add(std::shared_ptr<MapChild> given, FutureHandle task) noexcept {
  MapChild& child = *given;
  FutureState& state = task.state();
  child.owner = this;
  child.task = task;
  child.itself = std::move(given);
  bool late = false;
  {
    const Hold hold(*this);
    child.number = started_++;
    ++running_;
    ++untaken_;
    child.after = all_;
    if (all_) all_->before = &child;
    all_ = &child;
    late = stopping_;
  }
  // It may be taken from here on, once it has ended.
  if (!child.link(state, &heard)) ended(child, state);
  if (late) cancel(state, std::string());
}

void MapState::source_failed(std::exception_ptr error) noexcept {
  {
    const Hold hold(*this);
    source_error_ = std::move(error);
    fail_after_those();
  }
  came.set();
}

// Under the lock: what has ended by now comes before the error.
void MapState::fail_after_those() noexcept {
  failed_ = true;
  ended_before_error_ = started_ - running_;
}

void MapState::feeder_heard(WaitNode& node, FutureState& done) noexcept {
  static_cast<MapState*>(node.owner)->feeder_ended(done);
}

void MapState::feeder_ended(const FutureState& task) noexcept {
  {
    const Hold hold(*this);
    feeder_ended_ = true;
    feeder_cancelled_ = !stopping_ && task.outcome() == outcome_cancelled;
    if (feeder_cancelled_) fail_after_those();
  }
  came.set();
}

// ---- A child ends ----

void MapState::heard(WaitNode& node, FutureState& done) noexcept {
  static_cast<MapState*>(node.owner)->ended(static_cast<MapChild&>(node), done);
}

void MapState::ended(MapChild& child, const FutureState& task) noexcept {
  bool tell_feeder = false;
  {
    const Hold hold(*this);
    child.ended_after = nullptr;
    (last_ended_ ? last_ended_->ended_after : first_ended_) = &child;
    last_ended_ = &child;
    --running_;
    if (!outcomes_ && task.outcome() != outcome_value) failed_ = true;
    tell_feeder = failed_ || counts_ == Counts::unfinished;
  }
  if (tell_feeder) room.set();
  came.set();
}

// ---- The taker ----

void MapState::begin(FutureHandle feeder) noexcept {
  feeder_ = std::move(feeder);
  feeder_ended_ = false;
  feeder_node_.owner = this;
  if (!feeder_node_.link(feeder_.state(), &feeder_heard)) feeder_ended(feeder_.state());
}

MapChild* MapState::pop_ended() noexcept {
  MapChild* const child = first_ended_;
  first_ended_ = child->ended_after;
  if (!first_ended_) last_ended_ = nullptr;
  return child;
}

// Under the lock. It is nobody's afterwards.
std::shared_ptr<MapChild> MapState::remove(MapChild& child) noexcept {
  (child.before ? child.before->after : all_) = child.after;
  if (child.after) child.after->before = child.before;
  return std::move(child.itself);
}

MapState::Taken MapState::take(std::shared_ptr<MapChild>& child, std::exception_ptr& error) {
  bool stop_rest = false;
  {
    const Hold hold(*this);
    stop_rest = failed_ && !stopping_;
  }
  if (stop_rest) stop(std::string());
  {
    const Hold hold(*this);
    if ((source_error_ || feeder_cancelled_) && taken_ == ended_before_error_) {
      if (source_error_) error = std::exchange(source_error_, nullptr);
    } else if (first_ended_) {
      child = remove(*pop_ended());
      --untaken_;
      ++taken_;
    } else if (running_ == 0 && feeder_ended_) {
      return Taken::over;
    } else {
      came.clear();
      return Taken::wait;
    }
  }
  if (!child) {
    if (!error) error = exception_or_cancellation(feeder_.state());
    return Taken::failed;
  }
  child->drop();
  if (!outcomes_ && child->task.state().outcome() != outcome_value) {
    const FutureHandle task = std::move(child->task);
    error = exception_or_cancellation(task.state());
    return Taken::failed;
  }
  if (counts_ == Counts::untaken) room.set();
  return Taken::child;
}

void MapState::stop(const std::string& message) noexcept {
  {
    const Hold hold(*this);
    stopping_ = true;
  }
  room.set();
  cancel_all(message);
}

// Those that are added meanwhile the feeder cancels.
void MapState::cancel_all(const std::string& message) noexcept {
  if (feeder_.get()) cancel(feeder_.state(), message);
  MapChild* child = nullptr;
  {
    const Hold hold(*this);
    child = all_;
  }
  while (child) {
    cancel(child->task.state(), message);
    const Hold hold(*this);
    child = child->after;
  }
}

bool MapState::settled() noexcept {
  const Hold hold(*this);
  if (running_ == 0 && feeder_ended_) return true;
  came.clear();
  return false;
}

std::exception_ptr MapState::drain() noexcept {
  std::exception_ptr first = std::exchange(source_error_, nullptr);
  while (first_ended_) {
    const std::shared_ptr<MapChild> child = remove(*pop_ended());
    child->drop();
    const FutureHandle task = std::move(child->task);
    if (task.state().outcome() != outcome_exception) continue;
    std::exception_ptr error = exception_or_cancellation(task.state());  // it counts as seen
    if (!first && !outcomes_) first = std::move(error);
  }
  return first;
}

// Once all are done their loop may be gone.
bool MapState::can_be_cancelled() const noexcept {
  if (!feeder_.get()) return false;
  const Hold hold(*this);
  bool all_done = feeder_.state().done();
  for (const MapChild* child = all_; child && all_done; child = child->after) all_done = child->task.state().done();
  return !all_done && !home_->closed && !(home_->worker && home_->worker->group.ending);
}

// What runs still, because the taker was destroyed, is cancelled and let go of.
void MapState::abandon() noexcept {
  leave_limit();
  if (OURO_UNLIKELY(can_be_cancelled())) stop(std::string());
  feeder_node_.drop();
  for (;;) {
    std::shared_ptr<MapChild> child;
    {
      const Hold hold(*this);
      stopping_ = true;
      if (!all_) break;
      child = all_->itself;
    }
    child->drop();  // it may be told until then
    const FutureHandle task = std::move(child->task);
    const Hold hold(*this);
    child->itself.reset();  // not the last one
    static_cast<void>(remove(*child));
  }
  first_ended_ = last_ended_ = nullptr;
  feeder_ = FutureHandle();
}

}  // namespace ouro::detail
