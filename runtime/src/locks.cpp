// What locks, events and semaphores do when somebody waits. In all that begins with `enter`, and in serve() and open(),
// the object's lock is held.
#include <ouro/runtime/locks.hpp>

#include <ouro/runtime/detail/wait_list.hpp>
#include <ouro/runtime/exceptions.hpp>

#include "drive.hpp"
#include "wait_graph.hpp"

namespace ouro {

using detail::ListWaiter;
using detail::Needs;
using detail::SyncState;
using detail::WaitList;
using detail::Wakes;

// ---- Lock ----

bool Lock::try_acquire_shared() noexcept {
  const detail::LoopState* const here = detail::running_loop;
  detail::SpinLock::Hold hold(lock_);
  const bool free = state_ == State::unlocked;
  if (free) {
    state_ = State::locked;
    holder_.task = here ? here->current : nullptr;
    holder_.newest = here ? here->last_number : 0;
    holder_.newest_named = here ? here->last_named : 0;
  }
  return free;
}

// It is unlocked, and whose turn is next may lock it.
void Lock::open(Wakes& wakes) noexcept {
  state_ = State::unlocked;
  if (waiting_.empty()) return;
  state_ = State::promised;
  wake(*waiting_.front(), &woken_, wakes);
}

void Lock::release_or_wake() {
  Wakes wakes;
  const Hold hold(*this);
  if (state_ != State::locked) throw RuntimeError("Lock is not acquired.");
  open(wakes);
}

const detail::SyncKind detail::LockWay::kind = ListWaiter::kind_of(
    "Lock",
    [](SyncState& object, ListWaiter& waiter) noexcept -> WaitList* {
      auto& lock = static_cast<Lock&>(object);
      if (lock.state_ != Lock::State::unlocked) return &lock.waiting_;
      lock.state_ = Lock::State::promised;
      lock.woken_.push_back(waiter);
      return nullptr;
    },
    [](SyncState& object, ListWaiter&, bool woken, Wakes& wakes) noexcept {
      if (woken) static_cast<Lock&>(object).open(wakes);
    },
    [](const SyncState& object, Needs& needs) {
      const auto& lock = static_cast<const Lock&>(object);
      if (lock.state_ == Lock::State::locked) needs.holder(lock.holder_, lock.is_shared());
    });

void detail::LockWay::took(Lock& lock, ListWaiter& waiter) noexcept {
  const Lock::Hold hold(lock);
  Lock::forget(waiter);
  lock.state_ = Lock::State::locked;
  lock.note_this_task(lock.holder_);
}

// ---- Event ----

void Event::set_and_wake() noexcept {
  Wakes wakes;
  const Hold hold(*this);
  // Release: pairs with the acquire in is_set().
  set_.store(true, std::memory_order_release);
  while (!waiting_.empty()) wake(*waiting_.front(), nullptr, wakes);
}

const detail::SyncKind detail::EventWay::kind = ListWaiter::kind_of(
    "Event",
    [](SyncState& object, ListWaiter&) noexcept -> WaitList* {
      auto& event = static_cast<Event&>(object);
      return event.is_set() ? nullptr : &event.waiting_;
    },
    nullptr);

// ---- Semaphore ----

Semaphore::Semaphore(std::ptrdiff_t value, std::ptrdiff_t bound) : value_(value), bound_(bound) {
  if (value < 0) throw ValueError("Semaphore initial value must be >= 0");
}

// As many as there are permits get one.
void Semaphore::serve(Wakes& wakes) noexcept {
  while (value_ > 0 && !waiting_.empty()) {
    --value_;
    wake(*waiting_.front(), &woken_, wakes);
  }
}

void Semaphore::release_or_wake() {
  Wakes wakes;
  const Hold hold(*this);
  if (value_ >= bound_) throw ValueError("BoundedSemaphore released too many times");
  ++value_;
  if (waiting_.empty()) return;
  --value_;
  wake(*waiting_.front(), &woken_, wakes);
}

const detail::SyncKind detail::SemaphoreWay::kind = ListWaiter::kind_of(
    "Semaphore",
    [](SyncState& object, ListWaiter& waiter) noexcept -> WaitList* {
      auto& semaphore = static_cast<Semaphore&>(object);
      if (semaphore.value_ == 0 || semaphore.anybody()) return &semaphore.waiting_;
      --semaphore.value_;
      semaphore.woken_.push_back(waiter);
      return nullptr;
    },
    [](SyncState& object, ListWaiter&, bool woken, Wakes& wakes) noexcept {
      auto& semaphore = static_cast<Semaphore&>(object);
      if (!woken) return;
      ++semaphore.value_;
      semaphore.serve(wakes);
    });

// Who came meanwhile had to wait though a permit may have been there.
void detail::SemaphoreWay::took(Semaphore& semaphore, ListWaiter& waiter) noexcept {
  Wakes wakes;
  const Semaphore::Hold hold(semaphore);
  Semaphore::forget(waiter);
  semaphore.serve(wakes);
}

// ---- RWLock ----

namespace {

bool wants_to_write(const ListWaiter& waiter) noexcept { return waiter.kind == &detail::WriteWay::kind; }

}  // namespace

// Who waits gets its turn: the first, and if that reads the readers behind it.
void RWLock::serve(Wakes& wakes) noexcept {
  while (ListWaiter* first = waiting_.front()) {
    if (wants_to_write(*first) ? readers_ != 0 : readers_ == writer) return;
    if (wants_to_write(*first)) {
      readers_ = writer;
    } else {
      ++readers_;
    }
    wake(*first, &woken_, wakes);
  }
}

void RWLock::note_holder() noexcept {
  for (detail::Holder& place : holders_) {
    if (place.task) continue;
    note_this_task(place);
    return;
  }
}

// If it is given back by somebody else, nobody can tell for whom.
void RWLock::forget_holder() noexcept {
  detail::Holder here;
  note_this_task(here);
  for (detail::Holder& place : holders_) {
    if (!here.task || place.task != here.task) continue;
    place.task = nullptr;
    return;
  }
  for (detail::Holder& place : holders_) place.task = nullptr;
}

void RWLock::tell_holders(const SyncState& object, Needs& needs) {
  const auto& lock = static_cast<const RWLock&>(object);
  bool known = false;
  for (const detail::Holder& place : lock.holders_) {
    if (!place.task) continue;
    needs.holder(place, lock.is_shared());
    known = true;
  }
  if (!known && lock.readers_ != 0) needs.holder(detail::Holder(), lock.is_shared());
}

void RWLock::leave(Wakes& wakes) noexcept {
  readers_ = readers_ == writer ? 0 : readers_ - 1;
  serve(wakes);
}

void RWLock::release_read() {
  Wakes wakes;
  const Hold hold(*this);
  if (readers_ <= 0) throw RuntimeError("RWLock is not acquired for reading.");
  forget_holder();
  leave(wakes);
}

void RWLock::release_write() {
  Wakes wakes;
  const Hold hold(*this);
  if (readers_ != writer) throw RuntimeError("RWLock is not acquired for writing.");
  forget_holder();
  leave(wakes);
}

// With a writer gone that did not get its turn, the readers behind it may have theirs.
void RWLock::pass_on(SyncState& object, ListWaiter&, bool woken, Wakes& wakes) noexcept {
  auto& lock = static_cast<RWLock&>(object);
  if (woken) {
    lock.leave(wakes);
  } else {
    lock.serve(wakes);
  }
}

const detail::SyncKind detail::ReadWay::kind = ListWaiter::kind_of(
    "RWLock",
    [](SyncState& object, ListWaiter& waiter) noexcept -> WaitList* {
      auto& lock = static_cast<RWLock&>(object);
      if (lock.readers_ == RWLock::writer || !lock.waiting_.empty()) return &lock.waiting_;
      ++lock.readers_;
      lock.woken_.push_back(waiter);
      return nullptr;
    },
    &RWLock::pass_on, &RWLock::tell_holders);

const detail::SyncKind detail::WriteWay::kind = ListWaiter::kind_of(
    "RWLock",
    [](SyncState& object, ListWaiter& waiter) noexcept -> WaitList* {
      auto& lock = static_cast<RWLock&>(object);
      if (lock.readers_ != 0 || !lock.waiting_.empty()) return &lock.waiting_;
      lock.readers_ = RWLock::writer;
      lock.woken_.push_back(waiter);
      return nullptr;
    },
    &RWLock::pass_on, &RWLock::tell_holders);

void detail::ReadWay::took(RWLock& lock, ListWaiter& waiter) noexcept {
  const RWLock::Hold hold(lock);
  RWLock::forget(waiter);
  lock.note_holder();
}
void detail::WriteWay::took(RWLock& lock, ListWaiter& waiter) noexcept { ReadWay::took(lock, waiter); }

}  // namespace ouro
