// Queue, PriorityQueue and LifoQueue: what tasks hand to each other, with a bound, with join() and shutdown().
//
// Fair: who waits for an item, or for room, is promised the next one, and nobody takes it from him. A promised item
// stays in the queue until that task runs, but is not counted by qsize() any more; so a cancelled one loses nothing.
//
// As locks are (locks.hpp): made inside a loop that is alone, a queue is that loop's and has nothing atomic; made in a
// group, or outside any run, it may be used by the tasks of any loop, and where nothing suspends from any thread. The
// items are moved, compared and made room for under the queue's lock then: what they do there must be short, and use no
// queue. An item whose move throws may be lost by it. Lifetime: until the waits for it have returned.
#pragma once

#include <concepts>
#include <coroutine>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <source_location>
#include <type_traits>
#include <utility>

#include <ouro/runtime/config.hpp>
#include <ouro/runtime/detail/core.hpp>
#include <ouro/runtime/detail/queue_items.hpp>
#include <ouro/runtime/detail/wait_list.hpp>
#include <ouro/runtime/exceptions.hpp>

namespace ouro {

struct QueueOptions {
  std::ptrdiff_t maxsize = 0;  // the most items that it holds; 0 or less: as many as there are
};

namespace detail {

// What a queue is besides its items: how many there are and to whom they are promised, and who waits.
class OURO_EXPORT QueueState : public SyncState {
 public:
  explicit QueueState(std::ptrdiff_t maxsize) noexcept;

  // Whether join() need not wait.
  bool is_finished() const noexcept {
    const Hold hold(*this);
    return unfinished_ == 0;
  }

  static const SyncKind getting;
  static const SyncKind putting;
  static const SyncKind joining;

 protected:
  ~QueueState() {
    getters_.let_go_if_any();
    putters_.let_go_if_any();
    joiners_.let_go_if_any();
    woken_.let_go_if_any();
  }

  // The short ways, of a queue that is not shared and for which nobody waits.
  bool may_get_quickly() const noexcept { return home_ && size_ > get_above_; }
  bool may_put_quickly() const noexcept { return home_ && size_ < put_below_; }
  bool has_item() const noexcept { return size_ > promised_; }
  bool has_room() const noexcept { return size_ + reserved_ < limit_; }

  // Under the lock, after an item went in, or out: keeps the promises that this allows.
  void item_came(Wakes& wakes) noexcept;
  void item_left(Wakes& wakes) noexcept;
  // Under the lock: a task that was woken runs.
  void getter_runs(ListWaiter& getter) noexcept;
  void putter_runs(ListWaiter& putter) noexcept;
  void shut_down(bool immediate, Wakes& wakes) noexcept;
  void finish_join(Wakes& wakes) noexcept;
  [[noreturn]] static void throw_empty();
  [[noreturn]] static void throw_full();
  [[noreturn]] static void throw_shut_down();
  [[noreturn]] static void throw_done_too_often();

  // Under the lock, after every change but those of the short ways.
  void refresh(bool getter_enters = false, bool putter_enters = false) noexcept;

  std::size_t size_ = 0;      // of the items
  std::size_t get_above_;     // promised_, or too much if the short way is closed
  std::size_t put_below_;     // the limit less reserved_, or 0
  std::size_t promised_ = 0;  // of these to getters that have not run
  std::size_t reserved_ = 0;  // room, for putters that have not run
  std::size_t limit_;         // of both; 0 once it is shut down
  std::size_t unfinished_ = 0;
  const std::ptrdiff_t maxsize_;
  bool shut_down_ = false;
  WaitList getters_;
  WaitList putters_;
  WaitList joiners_;
  WaitList woken_;  // getters and putters that have been promised something, and have not run
};

class [[nodiscard("it does nothing until it is awaited")]] QueueJoinAwaiter final : public ListWaiter {
 public:
  explicit QueueJoinAwaiter(QueueState& queue) noexcept : ListWaiter(queue) {}

  bool await_ready() const noexcept { return static_cast<QueueState*>(object_)->is_finished(); }
  template <class Promise>
  void await_suspend(std::coroutine_handle<Promise> coroutine,
                     std::source_location where = std::source_location::current()) {
    suspend(task_of(coroutine, "Queue"), coroutine.address(), QueueState::joining, where);
  }
  void await_resume() {
    if (has_waited()) resume();
  }
};

template <class Queue>
class GetAwaiter;
template <class Queue>
class PutAwaiter;

// What the three queues do alike.
template <class T, class Items>
class BasicQueue : public QueueState {
 public:
  using value_type = T;

  explicit BasicQueue(QueueOptions options = {}) : QueueState(options.maxsize) {}

  // Takes the next item; waits for one if there is none.
  // Suspends: if empty(). Throws: QueueShutDown if it is shut down and empty; RuntimeError for a queue of another loop.
  // If cancelled: no item is taken; one that was promised to the caller goes to whose turn is next.
  auto get() noexcept { return GetAwaiter<BasicQueue>(*this); }
  // Puts an item in; waits for room if it is full.
  // Suspends: if full(). Throws: QueueShutDown once it is shut down; RuntimeError for a queue of another loop.
  // If cancelled: the item is not put in; room that was kept for the caller goes to whose turn is next.
  template <class U = T>
    requires std::constructible_from<T, U&&>
  auto put(U&& item) {
    return PutAwaiter<BasicQueue>(*this, std::forward<U>(item));
  }
  // Throws: QueueEmpty if empty(); QueueShutDown if it is shut down besides.
  T get_nowait() {
    if (OURO_LIKELY(may_get_quickly())) {
      T item = items_.pop();
      --size_;
      return item;
    }
    Wakes wakes;
    const Hold hold(*this);
    if (!has_item()) shut_down_ ? throw_shut_down() : throw_empty();
    return take(wakes);
  }
  // Throws: QueueFull if full(), QueueShutDown if it is shut down.
  template <class U = T>
    requires std::constructible_from<T, U&&>
  void put_nowait(U&& item) {
    if (OURO_LIKELY(may_put_quickly())) {
      items_.push(std::forward<U>(item));
      ++size_;
      ++unfinished_;
      return;
    }
    Wakes wakes;
    const Hold hold(*this);
    if (!has_room()) shut_down_ ? throw_shut_down() : throw_full();
    add(std::forward<U>(item), wakes);
  }

  // One item that was got has been dealt with. Throws: ValueError if more than were put in.
  void task_done() {
    Wakes wakes;
    const Hold hold(*this);
    if (unfinished_ == 0) throw_done_too_often();
    if (--unfinished_ == 0) finish_join(wakes);
  }
  // Waits until task_done() was called for every item.
  // Suspends: unless that is so. Throws: RuntimeError for a queue of another loop.
  // If cancelled: nothing is left behind.
  auto join() noexcept { return QueueJoinAwaiter(*this); }

  // From now on nothing is put in. With `immediate` what is in it is dropped, and counts as done. Those who wait get
  // QueueShutDown, unless an item or the end of join() is theirs.
  void shutdown(bool immediate = false) {
    std::optional<decltype(items_.take_all())> dropped;  // goes when the lock has been let go of
    Wakes wakes;
    const Hold hold(*this);
    if (immediate) dropped.emplace(items_.take_all());
    shut_down(immediate, wakes);
  }

  // The items that nobody has been promised.
  std::size_t qsize() const noexcept {
    const Hold hold(*this);
    return size_ - promised_;
  }
  bool empty() const noexcept { return qsize() == 0; }
  // True if put_nowait() would not find room. While an item is promised, both this and empty() may be true.
  bool full() const noexcept {
    const Hold hold(*this);
    return maxsize_ > 0 && size_ + reserved_ >= static_cast<std::size_t>(maxsize_);
  }
  std::ptrdiff_t maxsize() const noexcept { return maxsize_; }

 protected:
  BasicQueue(QueueOptions options, Items items) : QueueState(options.maxsize), items_(std::move(items)) {}

 private:
  friend class GetAwaiter<BasicQueue>;
  friend class PutAwaiter<BasicQueue>;

  T take(Wakes& wakes) {
    T item = items_.pop();
    --size_;
    item_left(wakes);
    return item;
  }
  template <class U>
  void add(U&& item, Wakes& wakes) {
    items_.push(std::forward<U>(item));
    ++size_;
    ++unfinished_;
    item_came(wakes);
  }

  Items items_;
};

template <class Queue>
class [[nodiscard("it does nothing until it is awaited")]] GetAwaiter final : public ListWaiter {
  using T = typename Queue::value_type;

 public:
  explicit GetAwaiter(Queue& queue) noexcept : ListWaiter(queue) {}
  GetAwaiter(GetAwaiter&& other) noexcept : ListWaiter(std::move(other)) {}

  bool await_ready() {
    Queue& from = queue();
    if (OURO_LIKELY(from.may_get_quickly())) {
      T item = from.items_.pop();
      --from.size_;
      item_.emplace(std::move(item));
      return true;
    }
    Wakes wakes;
    const typename Queue::Hold hold(from);
    if (from.has_item()) {
      item_.emplace(from.take(wakes));
      return true;
    }
    if (from.shut_down_) Queue::throw_shut_down();
    return false;
  }
  template <class Promise>
  void await_suspend(std::coroutine_handle<Promise> coroutine,
                     std::source_location where = std::source_location::current()) {
    suspend(task_of(coroutine, "Queue"), coroutine.address(), QueueState::getting, where);
  }
  T await_resume() {
    if (OURO_LIKELY(item_.has_value())) return std::move(*item_);
    resume();
    Queue& from = queue();
    Wakes wakes;
    const typename Queue::Hold hold(from);
    from.getter_runs(*this);
    if (!from.has_item()) Queue::throw_shut_down();
    try {
      return from.take(wakes);
    } catch (...) {
      from.item_came(wakes);  // it is there still
      throw;
    }
  }

 private:
  Queue& queue() const noexcept { return static_cast<Queue&>(*object_); }
  std::optional<T> item_;
};

template <class Queue>
class [[nodiscard("it does nothing until it is awaited")]] PutAwaiter final : public ListWaiter {
  using T = typename Queue::value_type;

 public:
  template <class U>
  PutAwaiter(Queue& queue, U&& item) : ListWaiter(queue), item_(std::forward<U>(item)) {}
  PutAwaiter(PutAwaiter&& other) noexcept(std::is_nothrow_move_constructible_v<T>)
      : ListWaiter(std::move(other)), item_(std::move(other.item_)) {}

  bool await_ready() {
    Queue& to = queue();
    if (OURO_LIKELY(to.may_put_quickly())) {
      to.items_.push(std::move(item_));
      ++to.size_;
      ++to.unfinished_;
      return true;
    }
    Wakes wakes;
    const typename Queue::Hold hold(to);
    if (to.shut_down_) Queue::throw_shut_down();
    if (!to.has_room()) return false;
    to.add(std::move(item_), wakes);
    return true;
  }
  template <class Promise>
  void await_suspend(std::coroutine_handle<Promise> coroutine,
                     std::source_location where = std::source_location::current()) {
    suspend(task_of(coroutine, "Queue"), coroutine.address(), QueueState::putting, where);
  }
  void await_resume() {
    if (OURO_LIKELY(!has_waited())) return;
    resume();
    Queue& to = queue();
    Wakes wakes;
    const typename Queue::Hold hold(to);
    to.putter_runs(*this);
    if (to.shut_down_) Queue::throw_shut_down();
    try {
      to.add(std::move(item_), wakes);
    } catch (...) {
      to.item_left(wakes);  // the room is
      throw;
    }
  }

 private:
  Queue& queue() const noexcept { return static_cast<Queue&>(*object_); }
  T item_;
};

}  // namespace detail

// First in, first out.
template <class T>
class Queue : public detail::BasicQueue<T, detail::FifoItems<T>> {
 public:
  using detail::BasicQueue<T, detail::FifoItems<T>>::BasicQueue;
};

// Last in, first out.
template <class T>
class LifoQueue : public detail::BasicQueue<T, detail::LifoItems<T>> {
 public:
  using detail::BasicQueue<T, detail::LifoItems<T>>::BasicQueue;
};

// The least item first; of equal ones any. Requires: comparing two does not throw.
template <class T, class Compare = std::less<T>>
class PriorityQueue : public detail::BasicQueue<T, detail::PriorityItems<T, Compare>> {
  using Base = detail::BasicQueue<T, detail::PriorityItems<T, Compare>>;

 public:
  explicit PriorityQueue(QueueOptions options = {}, Compare less = Compare())
      : Base(options, detail::PriorityItems<T, Compare>(std::move(less))) {}
};

}  // namespace ouro
