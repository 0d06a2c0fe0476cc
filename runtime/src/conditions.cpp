// What conditions and barriers do under their locks.
#include <ouro/runtime/conditions.hpp>

#include <ouro/runtime/detail/wait_list.hpp>
#include <ouro/runtime/exceptions.hpp>

namespace ouro::detail {

void ConditionState::wake_some(std::size_t n) noexcept {
  Wakes wakes;
  const Hold hold(*this);
  for (; n > 0 && !waiting_.empty(); --n) wake(*waiting_.front(), nullptr, wakes);
}

const SyncKind ConditionState::kind = ListWaiter::kind_of(
    "Condition", [](SyncState& object, ListWaiter&) noexcept { return &static_cast<ConditionState&>(object).waiting_; },
    nullptr);

// ---- Barrier ----

BarrierState::BarrierState(int parties) : parties_(parties) {
  if (parties < 1) throw ValueError("parties must be >= 1");
}

// Who waits looks again.
void BarrierState::enter_phase(Phase phase, Wakes& wakes) noexcept {
  phase_ = phase;
  while (!waiting_.empty()) wake(*waiting_.front(), nullptr, wakes);
}

int BarrierState::arrive() {
  Wakes wakes;
  const Hold hold(*this);
  if (blocks()) return -1;
  if (phase_ == Phase::broken) throw BrokenBarrierError("Barrier aborted");
  const int place = count_++;
  if (count_ == parties_) enter_phase(Phase::draining, wakes);
  return place;
}

void BarrierState::check_drains() const {
  const Phase now = phase();
  if (now == Phase::broken || now == Phase::resetting) throw BrokenBarrierError("Abort or reset of barrier");
}

void BarrierState::leave() noexcept {
  Wakes wakes;
  const Hold hold(*this);
  if (--count_ == 0) enter_phase(blocks() ? Phase::filling : phase_, wakes);
}

void BarrierState::reset() noexcept {
  Wakes wakes;
  const Hold hold(*this);
  enter_phase(count_ > 0 ? Phase::resetting : Phase::filling, wakes);
}

void BarrierState::abort() noexcept {
  Wakes wakes;
  const Hold hold(*this);
  enter_phase(Phase::broken, wakes);
}

int BarrierState::n_waiting() const noexcept {
  const Hold hold(*this);
  return phase_ == Phase::filling ? count_ : 0;
}

const SyncKind BarrierState::until_drained = ListWaiter::kind_of(
    "Barrier",
    [](SyncState& object, ListWaiter&) noexcept {
      auto& barrier = static_cast<BarrierState&>(object);
      return barrier.blocks() ? &barrier.waiting_ : nullptr;
    },
    nullptr);

const SyncKind BarrierState::until_full = ListWaiter::kind_of(
    "Barrier",
    [](SyncState& object, ListWaiter&) noexcept {
      auto& barrier = static_cast<BarrierState&>(object);
      return barrier.phase_ == Phase::filling ? &barrier.waiting_ : nullptr;
    },
    nullptr);

}  // namespace ouro::detail
