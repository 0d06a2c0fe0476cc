// How tasks wait for a channel. All but wake_one(), runs() and shut() are called under its lock.
#include <ouro/runtime/channel.hpp>

#include <bit>

namespace ouro::detail {

namespace {

std::size_t checked(std::size_t capacity) {
  if (capacity == 0) throw ValueError("Channel capacity must be > 0");
  return capacity;
}

}  // namespace

ChannelState::ChannelState(std::size_t capacity)
    : capacity_(checked(capacity)), closed_bit_(std::bit_ceil(capacity_ + 1)), one_lap_(2 * closed_bit_) {}

// Sequentially consistent: pairs with item_came() and room_came(). Who calls it looks afterwards whether there is
// something.
void ChannelState::show(Side& side) noexcept {
  if (side.woken.empty()) side.hint.store(side.count, std::memory_order_seq_cst);
}

// Wakes the one who has waited longest. Nobody else is woken until that one runs.
void ChannelState::wake_first(Side& side, Wakes& wakes) noexcept {
  --side.count;
  side.hint.store(0, std::memory_order_relaxed);  // who reads an old one looks under the lock
  wake(*side.waiting.front(), &side.woken, wakes);
}

void ChannelState::wake_one(Side& side) noexcept {
  Wakes wakes;
  const Hold hold(*this);
  if (!side.waiting.empty() && side.woken.empty()) wake_first(side, wakes);
}

void ChannelState::runs(Side& side, ListWaiter& waiter) noexcept {
  const Hold hold(*this);
  if (has_something(waiter)) forget(waiter);
  show(side);
}

void ChannelState::shut() noexcept {
  Wakes wakes;
  const Hold hold(*this);  // before it is seen: see let_closer_leave()
  if (home_) {
    tail_.store(tail_.load(std::memory_order_relaxed) | closed_bit_, std::memory_order_relaxed);
  } else {
    tail_.fetch_or(closed_bit_, std::memory_order_seq_cst);
  }
  for (Side* side : {&receivers_, &senders_}) {
    while (!side->waiting.empty()) wake_first(*side, wakes);
  }
}

WaitList* ChannelState::enter(Side& side, bool (ChannelState::*may_go)() const noexcept) noexcept {
  ++side.count;
  show(side);
  if (!(this->*may_go)()) return &side.waiting;
  --side.count;
  show(side);
  return nullptr;
}

void ChannelState::pass_on(Side& side, bool (ChannelState::*may_go)() const noexcept, bool woken,
                           Wakes& wakes) noexcept {
  if (!woken) --side.count;
  show(side);
  if (woken && side.woken.empty() && !side.waiting.empty() && (this->*may_go)()) wake_first(side, wakes);
}

const SyncKind ChannelState::receiving = ListWaiter::kind_of(
    "Channel",
    [](SyncState& object, ListWaiter&) noexcept {
      auto& channel = static_cast<ChannelState&>(object);
      return channel.enter(channel.receivers_, &ChannelState::may_receive);
    },
    [](SyncState& object, ListWaiter&, bool woken, Wakes& wakes) noexcept {
      auto& channel = static_cast<ChannelState&>(object);
      channel.pass_on(channel.receivers_, &ChannelState::may_receive, woken, wakes);
    });

const SyncKind ChannelState::sending = ListWaiter::kind_of(
    "Channel",
    [](SyncState& object, ListWaiter&) noexcept {
      auto& channel = static_cast<ChannelState&>(object);
      return channel.enter(channel.senders_, &ChannelState::may_send);
    },
    [](SyncState& object, ListWaiter&, bool woken, Wakes& wakes) noexcept {
      auto& channel = static_cast<ChannelState&>(object);
      channel.pass_on(channel.senders_, &ChannelState::may_send, woken, wakes);
    });

void ChannelState::throw_closed() { throw QueueShutDown("the channel is closed"); }

}  // namespace ouro::detail
