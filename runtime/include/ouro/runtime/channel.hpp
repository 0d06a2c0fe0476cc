// Channel: a bounded way for values from many tasks to many tasks, made for speed between workers.
//
// The values lie in a ring, each place of which has a stamp that says for which round it is ready, and for whom: the
// bounded queue of Dmitry Vyukov (1024cores.net, "Bounded MPMC queue"), with the stamps of crossbeam's array channel
// (crossbeam-channel, flavors/array.rs), which allow any capacity and a bit for `closed` in the tail. Deviations: who
// finds a place that somebody is just filling or emptying waits for that one, spinning; and tasks wait here in lists.
//
// Words. `tail_` and `head_`: lap and index of the next place to fill, to empty; a lap is counted in units of
// `one_lap_`. `tail_` has `closed_bit_` besides. A place's stamp: `tail` when it is ready to be filled in that round,
// `tail + 1` when it has been filled; emptied at `head` it becomes `head + one_lap_`. A sender claims a place by moving
// the tail with one compare-and-swap, fills it, and stores the stamp; a receiver likewise with the head. The channel is
// full, or empty, by what these two words say. On a loop that is alone the same steps are plain loads and stores.
//
// Waiting. A task that finds it empty enters the list of receivers under the lock, says so in `receivers_.hint`, and
// looks once more whether it is empty; a sender moves the tail, and looks at the hint afterwards. All four are seq_cst:
// either the task sees the item, or the sender sees the task. Whoever is woken has nothing yet: it tries again, and if
// somebody was faster waits before all others. One is woken at a time (the hint says that nobody waits while one is on
// its way), and wakes the next one if there is more; if it is cancelled, too. Senders wait for room in the same way.
#pragma once

#include <concepts>
#include <coroutine>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <optional>
#include <source_location>
#include <type_traits>
#include <utility>

#include <ouro/runtime/config.hpp>
#include <ouro/runtime/coroutine.hpp>
#include <ouro/runtime/detail/atomic.hpp>
#include <ouro/runtime/detail/core.hpp>
#include <ouro/runtime/detail/spin_lock.hpp>
#include <ouro/runtime/detail/wait_list.hpp>
#include <ouro/runtime/exceptions.hpp>

namespace ouro {
namespace detail {

// A channel without its values.
class OURO_EXPORT ChannelState : public SyncState {
 public:
  // Throws: ValueError for a capacity of zero.
  explicit ChannelState(std::size_t capacity);

  static const SyncKind receiving;
  static const SyncKind sending;

 protected:
  enum class Attempt : std::uint8_t { done, waits, closed };

  // Those who wait on one side.
  struct Side {
    Atomic<std::uint32_t> hint{0};  // how many wait, or 0 while one is on its way; changed under the lock
    std::uint32_t count = 0;
    WaitList waiting;
    WaitList woken;  // at most one, unless the channel is closed
  };

  ~ChannelState() {
    for (Side* side : {&receivers_, &senders_}) {
      side->waiting.let_go_if_any();
      side->woken.let_go_if_any();
    }
  }

  std::uint64_t index_of(std::uint64_t word) const noexcept { return word & (closed_bit_ - 1); }
  std::uint64_t after(std::uint64_t word) const noexcept {
    return index_of(word) + 1 < capacity_ ? word + 1 : (word & ~(one_lap_ - 1)) + one_lap_;
  }
  // Moves the tail or the head. False: somebody else did, and `from` is where it is now.
  bool move_on(Atomic<std::uint64_t>& word, std::uint64_t& from, std::uint64_t to) noexcept {
    if (home_) {
      word.store(to, std::memory_order_relaxed);
      return true;
    }
    // Sequentially consistent: pairs with is_empty() and is_full() of those who begin to wait; see above.
    return word.compare_exchange_weak(from, to, std::memory_order_seq_cst, std::memory_order_relaxed);
  }
  bool is_empty() const noexcept {
    return head_.load(std::memory_order_seq_cst) == (tail_.load(std::memory_order_seq_cst) & ~closed_bit_);
  }
  bool is_full() const noexcept {
    return head_.load(std::memory_order_seq_cst) + one_lap_ == (tail_.load(std::memory_order_seq_cst) & ~closed_bit_);
  }
  bool is_closed() const noexcept { return (tail_.load(std::memory_order_seq_cst) & closed_bit_) != 0; }

  void item_came() noexcept {
    if (OURO_UNLIKELY(receivers_.hint.load(std::memory_order_seq_cst) != 0)) wake_one(receivers_);
  }
  void room_came() noexcept {
    if (OURO_UNLIKELY(senders_.hint.load(std::memory_order_seq_cst) != 0)) wake_one(senders_);
  }
  // One that was woken, or need not wait, runs. Others may be woken from now on.
  void receiver_runs(ListWaiter& waiter) noexcept { runs(receivers_, waiter); }
  void sender_runs(ListWaiter& waiter) noexcept { runs(senders_, waiter); }
  // Afterwards: for the next one there may be something as well.
  void wake_next_receiver() noexcept {
    if (receivers_.hint.load(std::memory_order_seq_cst) != 0 && may_receive()) wake_one(receivers_);
  }
  void wake_next_sender() noexcept {
    if (senders_.hint.load(std::memory_order_seq_cst) != 0 && may_send()) wake_one(senders_);
  }
  void shut() noexcept;
  [[noreturn]] static void throw_closed();
  // Who finds it closed may be the last to use it: the one that closes it has left it then.
  void let_closer_leave() noexcept { const Hold hold(*this); }

  const std::uint64_t capacity_;
  const std::uint64_t closed_bit_;  // of the tail: the next power of two above the capacity
  const std::uint64_t one_lap_;
  // Each in cache lines of its own, wherever the channel lies: a coroutine's frame aligns nothing to 64.
  std::byte before_tail_[64];
  Atomic<std::uint64_t> tail_{0};
  std::byte before_head_[64];
  Atomic<std::uint64_t> head_{0};
  std::byte before_sides_[64];
  Side receivers_;
  Side senders_;

 private:
  bool may_receive() const noexcept { return !is_empty() || is_closed(); }
  bool may_send() const noexcept { return !is_full() || is_closed(); }
  void wake_one(Side& side) noexcept;
  void runs(Side& side, ListWaiter& waiter) noexcept;
  static void wake_first(Side& side, Wakes& wakes) noexcept;
  static void show(Side& side) noexcept;
  WaitList* enter(Side& side, bool (ChannelState::*may_go)() const noexcept) noexcept;
  void pass_on(Side& side, bool (ChannelState::*may_go)() const noexcept, bool woken, Wakes& wakes) noexcept;
};

// Waits until there is something to receive, or room to send.
class ChannelAwaiter final : public ListWaiter {
 public:
  ChannelAwaiter(ChannelState& channel, const SyncKind& how, bool again) noexcept
      : ListWaiter(channel), how_(&how), again_(again) {}
  ChannelAwaiter(ChannelAwaiter&&) noexcept = default;

  bool await_ready() const noexcept { return false; }
  template <class Promise>
  void await_suspend(std::coroutine_handle<Promise> coroutine,
                     std::source_location where = std::source_location::current()) {
    suspend(task_of(coroutine, "Channel"), coroutine.address(), *how_, where, again_);
  }
  void await_resume() { resume(); }

 private:
  const SyncKind* how_;
  bool again_;
};

}  // namespace detail

OURO_TRANSFER_NAMESPACE {

template <class T>
class Channel;

}  // namespace transfer

namespace detail {
OURO_TRANSFER_NAMESPACE {

template <class T>
class [[nodiscard("it does nothing until it is awaited")]] ReceiveAwaiter {
 public:
  explicit ReceiveAwaiter(Channel<T>& channel) noexcept : channel_(&channel) {}

  bool await_ready() { return channel_->try_receive(item_) != Channel<T>::Attempt::waits; }
  template <class Promise>
  std::coroutine_handle<> await_suspend(std::coroutine_handle<Promise> coroutine,
                                        std::source_location where = std::source_location::current()) {
    Coroutine<std::optional<T>> waits = Channel<T>::receive_later(*channel_);
    waits_.emplace(waits.release());
    return waits_->await_suspend(coroutine, where);
  }
  std::optional<T> await_resume() {
    if (OURO_UNLIKELY(waits_.has_value())) return waits_->await_resume();
    return std::move(item_);
  }

 private:
  Channel<T>* channel_;
  std::optional<T> item_;
  std::optional<CoroutineAwaiter<std::optional<T>>> waits_;
};

template <class T>
class [[nodiscard("it does nothing until it is awaited")]] SendAwaiter {
 public:
  template <class U>
  SendAwaiter(Channel<T>& channel, U&& item) : channel_(&channel), item_(std::forward<U>(item)) {}

  bool await_ready() {
    const auto attempt = channel_->try_put(item_);
    if (OURO_UNLIKELY(attempt == Channel<T>::Attempt::closed)) Channel<T>::throw_closed();
    return attempt == Channel<T>::Attempt::done;
  }
  template <class Promise>
  std::coroutine_handle<> await_suspend(std::coroutine_handle<Promise> coroutine,
                                        std::source_location where = std::source_location::current()) {
    Coroutine<void> waits = Channel<T>::send_later(*channel_, item_);
    waits_.emplace(waits.release());
    return waits_->await_suspend(coroutine, where);
  }
  void await_resume() {
    if (OURO_UNLIKELY(waits_.has_value())) waits_->await_resume();
  }

 private:
  Channel<T>* channel_;
  T item_;
  std::optional<CoroutineAwaiter<void>> waits_;
};

}  // namespace transfer
}  // namespace detail

OURO_TRANSFER_NAMESPACE {

// Values of type T, from many tasks to many. Each is received once; those of one sender in the order in which it sent
// them. For a bound that can change its mind, join() or priorities take a Queue.
//
// Made inside a loop that is alone, it is that loop's and has nothing atomic; made in a group, or outside any run, it
// may be used by the tasks of any loop, and where nothing suspends from any thread.
// Lifetime: until every call on it has returned, and every wait for it: that a value was received does not say that its
// sender has left. Who finds it closed knows that close() has.
template <class T>
class Channel : private detail::ChannelState {
  static_assert(std::is_nothrow_move_constructible_v<T> && std::is_nothrow_destructible_v<T>,
                "a value is moved while its place in the channel is claimed, which must not fail");

 public:
  using value_type = T;

  // Throws: ValueError for a capacity of zero.
  explicit Channel(std::size_t capacity) : ChannelState(capacity), cells_(std::make_unique<Cell[]>(capacity)) {
    for (std::size_t i = 0; i < capacity; ++i) cells_[i].stamp.store(i, std::memory_order_relaxed);
  }
  ~Channel() {
    std::optional<T> rest;
    while (try_receive(rest) == Attempt::done) rest.reset();
  }

  // Hands a value over; waits for room if the channel is full.
  // Suspends: if it is full. Throws: QueueShutDown if it is closed; RuntimeError for a channel of another loop.
  // If cancelled: the value has not been sent.
  template <class U = T>
    requires std::constructible_from<T, U&&>
  auto send(U&& item) {
    return detail::SendAwaiter<T>(*this, std::forward<U>(item));
  }
  // Takes the oldest value; waits for one if there is none. Gives nothing when the channel is closed, and empty.
  // Suspends: if it is empty. Throws: RuntimeError for a channel of another loop.
  // If cancelled: no value has been taken.
  auto recv() noexcept { return detail::ReceiveAwaiter<T>(*this); }

  // Hands it over if there is room. Throws: QueueShutDown if the channel is closed.
  template <class U = T>
    requires std::constructible_from<T, U&&>
  bool try_send(U&& item) {
    T value(std::forward<U>(item));
    const Attempt attempt = try_put(value);
    if (OURO_UNLIKELY(attempt == Attempt::closed)) throw_closed();
    return attempt == Attempt::done;
  }
  // The oldest value if there is one.
  std::optional<T> try_recv() noexcept {
    std::optional<T> item;
    try_receive(item);
    return item;
  }

  // From now on nothing is sent; what was sent is received. Those who wait for room get QueueShutDown.
  void close() noexcept { shut(); }
  bool closed() const noexcept { return is_closed(); }
  // Snapshots, where other threads use it.
  bool empty() const noexcept { return is_empty(); }
  bool full() const noexcept { return is_full(); }
  std::size_t capacity() const noexcept { return static_cast<std::size_t>(capacity_); }

 private:
  friend class detail::ReceiveAwaiter<T>;
  friend class detail::SendAwaiter<T>;

  struct Cell {
    // Written by the one who has claimed the place. Release and acquire: pair with each other, sender and receiver.
    detail::Atomic<std::uint64_t> stamp{0};
    alignas(T) unsigned char bytes[sizeof(T)];

    T* value() noexcept { return std::launder(reinterpret_cast<T*>(bytes)); }
  };

  Attempt try_put(T& item) noexcept {
    std::uint32_t attempt = 0;
    for (std::uint64_t tail = tail_.load(std::memory_order_relaxed);;) {
      if (OURO_UNLIKELY((tail & closed_bit_) != 0)) {
        let_closer_leave();
        return Attempt::closed;
      }
      Cell& cell = cells_[index_of(tail)];
      const std::uint64_t stamp = cell.stamp.load(std::memory_order_acquire);
      if (OURO_LIKELY(stamp == tail)) {
        if (OURO_UNLIKELY(!move_on(tail_, tail, after(tail)))) continue;
        ::new (static_cast<void*>(cell.bytes)) T(std::move(item));
        cell.stamp.store(tail + 1, std::memory_order_release);
        item_came();
        return Attempt::done;
      }
      if (stamp + one_lap_ == tail + 1 && head_.load(std::memory_order_seq_cst) + one_lap_ == tail) {
        return Attempt::waits;
      }
      // Somebody is emptying the place, or others have gone ahead.
      detail::wait_for_lock(attempt++);
      tail = tail_.load(std::memory_order_relaxed);
    }
  }

  Attempt try_receive(std::optional<T>& item) noexcept {
    std::uint32_t attempt = 0;
    for (std::uint64_t head = head_.load(std::memory_order_relaxed);;) {
      Cell& cell = cells_[index_of(head)];
      const std::uint64_t stamp = cell.stamp.load(std::memory_order_acquire);
      if (OURO_LIKELY(stamp == head + 1)) {
        if (OURO_UNLIKELY(!move_on(head_, head, after(head)))) continue;
        item.emplace(std::move(*cell.value()));
        std::destroy_at(cell.value());
        cell.stamp.store(head + one_lap_, std::memory_order_release);
        room_came();
        return Attempt::done;
      }
      if (stamp == head) {
        const std::uint64_t tail = tail_.load(std::memory_order_seq_cst);
        if ((tail & ~closed_bit_) == head) {
          if ((tail & closed_bit_) == 0) return Attempt::waits;
          let_closer_leave();
          return Attempt::closed;
        }
      }
      // Somebody is filling the place, or others have gone ahead.
      detail::wait_for_lock(attempt++);
      head = head_.load(std::memory_order_relaxed);
    }
  }

  static Coroutine<std::optional<T>> receive_later(Channel& channel) {
    std::optional<T> item;
    for (bool again = false;; again = true) {
      detail::ChannelAwaiter turn(channel, receiving, again);
      co_await turn;
      channel.receiver_runs(turn);
      const Attempt attempt = channel.try_receive(item);
      if (attempt == Attempt::waits) continue;
      channel.wake_next_receiver();
      co_return std::move(item);
    }
  }

  static Coroutine<void> send_later(Channel& channel, T& item) {
    for (bool again = false;; again = true) {
      detail::ChannelAwaiter turn(channel, sending, again);
      co_await turn;
      channel.sender_runs(turn);
      const Attempt attempt = channel.try_put(item);
      if (attempt == Attempt::waits) continue;
      channel.wake_next_sender();
      if (attempt == Attempt::closed) throw_closed();
      co_return;
    }
  }

  const std::unique_ptr<Cell[]> cells_;
};

}  // namespace transfer
}  // namespace ouro
