// The promises of queues. But for the errors, all of it runs under the queue's lock.
//
// An item is promised to a getter when both are there, and room is kept for a putter; the getter takes it, and the
// putter puts its item in, when it runs. So a priority queue gives the least item of that moment, a cancelled putter
// has put nothing in, and what is to be passed on is a number.
#include <ouro/runtime/queues.hpp>

#include <algorithm>
#include <limits>

namespace ouro::detail {

QueueState::QueueState(std::ptrdiff_t maxsize) noexcept
    : limit_(maxsize > 0 ? static_cast<std::size_t>(maxsize) : std::numeric_limits<std::size_t>::max()),
      maxsize_(maxsize) {
  refresh();
}

void QueueState::refresh(bool getter_enters, bool putter_enters) noexcept {
  const bool gets = putters_.empty() && !putter_enters;
  const bool puts = getters_.empty() && !getter_enters && limit_ > reserved_;
  get_above_ = gets ? promised_ : std::numeric_limits<std::size_t>::max();
  put_below_ = puts ? limit_ - reserved_ : 0;
}

void QueueState::item_came(Wakes& wakes) noexcept {
  while (has_item() && !getters_.empty()) {
    ++promised_;
    wake(*getters_.front(), &woken_, wakes);
  }
  refresh();
}

void QueueState::item_left(Wakes& wakes) noexcept {
  while (has_room() && !putters_.empty()) {
    ++reserved_;
    wake(*putters_.front(), &woken_, wakes);
  }
  refresh();
}

void QueueState::getter_runs(ListWaiter& getter) noexcept {
  if (!has_something(getter)) return;  // it was woken by the shutdown
  forget(getter);
  if (promised_ > 0) --promised_;  // it was kept, unless the items were dropped
  refresh();
}

void QueueState::putter_runs(ListWaiter& putter) noexcept {
  if (!has_something(putter)) return;
  forget(putter);
  --reserved_;
  refresh();
}

const SyncKind QueueState::getting = ListWaiter::kind_of(
    "Queue",
    [](SyncState& object, ListWaiter& waiter) noexcept -> WaitList* {
      auto& queue = static_cast<QueueState&>(object);
      if (queue.has_item()) {
        ++queue.promised_;
        queue.woken_.push_back(waiter);
        queue.refresh();
        return nullptr;
      }
      if (queue.shut_down_) return nullptr;
      queue.refresh(true);
      return &queue.getters_;
    },
    [](SyncState& object, ListWaiter&, bool woken, Wakes& wakes) noexcept {
      auto& queue = static_cast<QueueState&>(object);
      if (woken && queue.promised_ > 0) --queue.promised_;
      queue.item_came(wakes);
    });

const SyncKind QueueState::putting = ListWaiter::kind_of(
    "Queue",
    [](SyncState& object, ListWaiter& waiter) noexcept -> WaitList* {
      auto& queue = static_cast<QueueState&>(object);
      if (queue.has_room()) {
        ++queue.reserved_;
        queue.woken_.push_back(waiter);
        queue.refresh();
        return nullptr;
      }
      if (queue.shut_down_) return nullptr;
      queue.refresh(false, true);
      return &queue.putters_;
    },
    [](SyncState& object, ListWaiter&, bool woken, Wakes& wakes) noexcept {
      auto& queue = static_cast<QueueState&>(object);
      if (woken) --queue.reserved_;
      queue.item_left(wakes);
    });

const SyncKind QueueState::joining = ListWaiter::kind_of(
    "Queue",
    [](SyncState& object, ListWaiter&) noexcept -> WaitList* {
      auto& queue = static_cast<QueueState&>(object);
      return queue.unfinished_ == 0 ? nullptr : &queue.joiners_;
    },
    nullptr);

void QueueState::finish_join(Wakes& wakes) noexcept {
  while (!joiners_.empty()) wake(*joiners_.front(), nullptr, wakes);
}

void QueueState::shut_down(bool immediate, Wakes& wakes) noexcept {
  shut_down_ = true;
  limit_ = 0;
  if (immediate) {
    unfinished_ -= std::min(unfinished_, size_);
    size_ = promised_ = 0;
    if (unfinished_ == 0) finish_join(wakes);
  }
  while (!getters_.empty()) wake(*getters_.front(), nullptr, wakes);
  while (!putters_.empty()) wake(*putters_.front(), nullptr, wakes);
  refresh();
}

void QueueState::throw_empty() { throw QueueEmpty("the queue is empty", "get() waits for an item"); }
void QueueState::throw_full() { throw QueueFull("the queue is full", "put() waits for room"); }
void QueueState::throw_shut_down() { throw QueueShutDown("the queue is shut down"); }
void QueueState::throw_done_too_often() { throw ValueError("task_done() called too many times"); }

}  // namespace ouro::detail
