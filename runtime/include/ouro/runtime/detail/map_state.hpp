// A map whose children are tasks: over asynchronous ranges, with results as they come, with a limit that changes.
//
// Two tasks work at it. The feeder, a task of its own, takes elements from the source, calls `f`, and makes a task of
// each child, as many as the limit allows. The taker is who awaits the map, or asks for the next result: it takes the
// children that have ended, in the order in which they did, and when it leaves, however that is, it cancels the rest,
// waits until all have ended, and closes the source. Each waits for the other, and for children, by an Event.
//
// A child hears of nothing: its end is told to its node here, on whichever worker that is. The taker alone takes nodes
// out of `all_`, so it may walk over them while others add some. In a group what changes is under the lock; under it
// nothing is woken, cancelled or freed.
//
// The state lives as long as the taker, the feeder and the children, for a loop that closes destroys them in any order.
// Nodes keep tasks, and tasks their nodes and the state: who takes a node out takes its task from it, and the taker's
// guard sees to those that are left when it is destroyed.
#pragma once

#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <string>
#include <utility>

#include <ouro/runtime/config.hpp>
#include <ouro/runtime/detail/core.hpp>
#include <ouro/runtime/detail/spin_lock.hpp>
#include <ouro/runtime/detail/wait_core.hpp>
#include <ouro/runtime/futures.hpp>
#include <ouro/runtime/locks.hpp>

namespace ouro::detail {

class MapState;

// What a MapLimit and the maps under it share.
class OURO_EXPORT LimitState {
 public:
  // Throws: ValueError for zero.
  explicit LimitState(std::size_t limit);
  LimitState(const LimitState&) = delete;

  std::size_t get() const noexcept {
    const SpinLock::Hold hold(lock_);
    return limit_;
  }
  // Throws: ValueError for zero.
  void set(std::size_t limit);

 private:
  friend class MapState;
  std::shared_ptr<MapState> next_untold() noexcept;

  mutable SpinLock lock_;
  std::size_t limit_;
  std::uint64_t version_ = 0;
  MapState* first_ = nullptr;
};

// The limit of one map: a number, or one that changes.
struct MapBound {
  explicit MapBound(std::size_t limit) : fixed(limit) {}
  explicit MapBound(std::shared_ptr<LimitState> limit) noexcept : changing(std::move(limit)) {}

  std::size_t fixed = 0;
  std::shared_ptr<LimitState> changing;
};

// A child, from its start until it is taken.
struct MapChild : WaitNode {
  FutureHandle task;
  std::size_t number = 0;            // of its element
  std::shared_ptr<MapChild> itself;  // while it is among all
  MapChild* before = nullptr;
  MapChild* after = nullptr;
  MapChild* ended_after = nullptr;
};

class OURO_EXPORT MapState : public std::enable_shared_from_this<MapState> {
 public:
  // What the limit counts: children that have not ended, or those that have not been taken.
  enum class Counts : std::uint8_t { unfinished, untaken };

  MapState(MapBound bound, Counts counts, bool outcomes) noexcept;
  MapState(const MapState&) = delete;

  // ---- For the feeder ----
  enum class Step : std::uint8_t { start, wait, stop };
  // Whether it may start a child; to `wait` is to wait for `room`, and to ask again.
  Step next_step() noexcept;
  // The child has been scheduled.
  void add(std::shared_ptr<MapChild> child, FutureHandle task) noexcept;
  // The source or `f` threw.
  void source_failed(std::exception_ptr error) noexcept;

  // ---- For the taker ----
  // Hears of changes of the limit from now on. Before the feeder is made; after the constructor, for others get a
  // handle to it here.
  void join_limit() noexcept;
  void begin(FutureHandle feeder) noexcept;
  enum class Taken : std::uint8_t { child, failed, over, wait };
  // `child` or, where errors are no results, the error of the first that failed; to `wait` is to wait for `came`.
  Taken take(std::shared_ptr<MapChild>& child, std::exception_ptr& error);
  // Starts no more, and cancels what runs.
  void stop(const std::string& message) noexcept;
  // Nothing runs any more; if not, `came` is to be waited for.
  bool settled() noexcept;
  // When all have ended: the error of the first untaken child that has failed otherwise than by a cancellation.
  std::exception_ptr drain() noexcept;
  // The taker goes.
  void abandon() noexcept;

  void limit_changed() noexcept;

  Event room;
  Event came;

 private:
  friend class LimitState;
  static void heard(WaitNode& node, FutureState& done) noexcept;
  static void feeder_heard(WaitNode& node, FutureState& done) noexcept;
  void fail_after_those() noexcept;
  void ended(MapChild& child, const FutureState& task) noexcept;
  void feeder_ended(const FutureState& task) noexcept;
  std::size_t limit() const noexcept { return bound_.changing ? bound_.changing->get() : bound_.fixed; }
  void cancel_all(const std::string& message) noexcept;
  std::shared_ptr<MapChild> remove(MapChild& child) noexcept;
  MapChild* pop_ended() noexcept;
  void leave_limit() noexcept;
  bool can_be_cancelled() const noexcept;

  class Hold {
   public:
    explicit Hold(const MapState& state) noexcept : lock_(state.shared_ ? &state.lock_ : nullptr) {
      if (lock_) lock_->lock();
    }
    ~Hold() {
      if (lock_) lock_->unlock();
    }
    Hold(const Hold&) = delete;

   private:
    SpinLock* lock_;
  };

  MapBound bound_;
  LoopState* const home_;  // where it was made
  const bool shared_;
  const bool outcomes_;
  const Counts counts_;
  bool stopping_ = false;
  bool failed_ = false;
  bool feeder_ended_ = true;
  bool feeder_cancelled_ = false;
  mutable SpinLock lock_;
  FutureHandle feeder_;
  WaitNode feeder_node_;
  MapChild* all_ = nullptr;
  MapChild* first_ended_ = nullptr;
  MapChild* last_ended_ = nullptr;
  std::size_t started_ = 0;
  std::size_t running_ = 0;  // children that have not ended
  std::size_t untaken_ = 0;
  std::exception_ptr source_error_;
  std::size_t ended_before_error_ = 0;  // how many children had ended when the source failed, or the feeder
  std::size_t taken_ = 0;
  // In the limit's list, under its lock.
  MapState* limit_before_ = nullptr;
  MapState* limit_after_ = nullptr;
  std::uint64_t told_version_ = 0;
};

// In the taker's frame.
class MapGuard {
 public:
  explicit MapGuard(MapState& state) noexcept : state_(state) { state.join_limit(); }
  ~MapGuard() { state_.abandon(); }
  MapGuard(const MapGuard&) = delete;

 private:
  MapState& state_;
};

}  // namespace ouro::detail
