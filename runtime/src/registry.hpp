// The tasks of a group that are in no gather: those that have suspended and not ended. all_tasks and the end of the
// group go through it. Tasks that run to their end without a stop never get here.
//
// A list for each of a few addresses' hashes, each with a lock of its own, so that workers rarely meet.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include <ouro/runtime/detail/atomic.hpp>
#include <ouro/runtime/detail/core.hpp>

#include <ouro/runtime/detail/spin_lock.hpp>

namespace ouro::detail {

class Registry {
 public:
  // Sets flag_linked. Requires: nobody else changes the task's flags.
  void link(FutureState& task) noexcept {
    Shard& shard = shard_of(task);
    SpinLock::Hold hold(shard.lock);
    task.link.prev = nullptr;
    task.link.next = shard.first;
    if (shard.first) shard.first->link.prev = &task;
    shard.first = &task;
    task.set(flag_linked);
  }

  void unlink(FutureState& task) noexcept {
    Shard& shard = shard_of(task);
    SpinLock::Hold hold(shard.lock);
    (task.link.prev ? task.link.prev->link.next : shard.first) = task.link.next;
    if (task.link.next) task.link.next->link.prev = task.link.prev;
    task.clear(flag_linked);
  }

  // Calls `f` with each task that is in it, under the lock of its shard: f takes a reference and does little else.
  template <class F>
  void each(F&& f) {
    for (Shard& shard : shards_) {
      SpinLock::Hold hold(shard.lock);
      for (FutureState* task = shard.first; task; task = task->link.next) f(*task);
    }
  }

  // One of them, taken out; nullptr if there is none. Requires: nobody else uses it.
  FutureState* take_any() noexcept {
    for (Shard& shard : shards_) {
      if (FutureState* task = shard.first) {
        unlink(*task);
        return task;
      }
    }
    return nullptr;
  }

 private:
  struct alignas(64) Shard {
    SpinLock lock;
    FutureState* first = nullptr;
  };

  Shard& shard_of(const FutureState& task) noexcept {
    const auto address = reinterpret_cast<std::uintptr_t>(&task);
    return shards_[(address >> 6 ^ address >> 12) % shards_.size()];
  }

  std::array<Shard, 64> shards_;
};

}  // namespace ouro::detail
