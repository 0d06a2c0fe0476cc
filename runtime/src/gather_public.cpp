// A group's gathers as others see them: the list of public children, and how a gather ends early. The rest, and who may
// touch what, is in gather_shared.cpp.
#include <array>
#include <memory>
#include <utility>

#include <ouro/runtime/detail/gather_state.hpp>

#include "shared.hpp"
#include "worker.hpp"

namespace ouro::detail {

namespace {

FutureState* tagged(FutureState& child) noexcept {
  return reinterpret_cast<FutureState*>(reinterpret_cast<std::uintptr_t>(&child) | 1);
}

}  // namespace

// ---- The list of public children ----

GatherState::Listed GatherState::list_shared(FutureState& child) noexcept {
  SpinLock::Hold hold(lock);
  if (!child.has(flag_first_step)) return Listed::before;
  child.clear(flag_first_step | flag_direct);
  children[child.child.index] = tagged(child);
  return aborting ? Listed::aborting : Listed::now;
}

void GatherState::unlist_shared(FutureState& child) noexcept {
  SpinLock::Hold hold(lock);
  children[child.child.index] = nullptr;
}

std::size_t GatherState::collect_public(FutureState** found, std::size_t most, std::uint32_t& from) noexcept {
  std::size_t n = 0;
  SpinLock::Hold hold(lock);
  for (const std::uint32_t all = count_of(); from < all && n < most; ++from) {
    // Entries of children that have not started change without the lock.
    const auto bits =
        reinterpret_cast<std::uintptr_t>(children ? __atomic_load_n(&children[from], __ATOMIC_RELAXED) : nullptr);
    if (!(bits & 1)) continue;
    found[n] = reinterpret_cast<FutureState*>(bits - 1);
    add_ref(*found[n]);
    ++n;
  }
  return n;
}

void GatherState::append_children(FutureState& task, std::vector<FutureHandle>& tasks) {
  GatherState* gather = nullptr;
  if (!task.floating()) return;
  {
    RecordLock record(task);
    gather = task.waiting_on ? from(*task.waiting_on) : nullptr;
    if (!gather || !gather->pin()) return;
  }
  struct Unpin {
    GatherState& gather;
    ~Unpin() { gather.unpin(); }
  } unpin{*gather};
  std::array<FutureState*, 64> found;
  for (std::uint32_t place = 0; place < gather->count_of();) {
    tasks.reserve(tasks.size() + found.size());
    const std::size_t n = gather->collect_public(found.data(), found.size(), place);
    for (std::size_t i = 0; i < n; ++i) tasks.emplace_back(*found[i]);
  }
}

// For the end of the group: a public child, taken out. Those that have not started go.
FutureState* GatherState::take_public_child() noexcept {
  for (std::uint32_t i = 0; children && i < count; ++i) {
    const auto bits = reinterpret_cast<std::uintptr_t>(std::exchange(children[i], nullptr));
    if (bits & 1) return reinterpret_cast<FutureState*>(bits - 1);
    if (bits != 0) std::coroutine_handle<>::from_address(reinterpret_cast<FutureState*>(bits)->frame()).destroy();
  }
  return nullptr;
}

// ---- Ending early ----

bool GatherState::begin_abort(std::exception_ptr error, bool cancelled, const std::string& message) noexcept {
  std::unique_ptr<Trouble> fresh;
  try {
    if (!message.empty()) {
      fresh = std::make_unique<Trouble>();
      fresh->cancel_message = message;
    }
  } catch (...) {
    // Without memory the cancellation goes on without its message.
  }
  bool first = false;
  {
    SpinLock::Hold hold(lock);
    if (cancelled) {
      if (first_error) cancelled_late = true;
      cancel_requested = true;
      if (fresh && trouble) {
        trouble->cancel_message.swap(fresh->cancel_message);
      } else if (fresh) {
        trouble = fresh.release();
      }
    } else {
      if (first_error) return false;
      first_error.swap(error);
    }
    troubled = true;
    first = !std::exchange(counted_abort, true);
    __atomic_store_n(&aborting, true, __ATOMIC_RELAXED);
  }
  if (first) home->worker->group.aborting.fetch_add(1, std::memory_order_relaxed);
  return first;
}

std::string GatherState::locked_cancel_message() noexcept {
  try {
    SpinLock::Hold hold(lock);
    return cancel_message();
  } catch (...) {
    return std::string();
  }
}

void GatherState::leave_group_abort() noexcept {
  if (!std::exchange(counted_abort, false)) return;
  home->worker->group.aborting.fetch_sub(1, std::memory_order_relaxed);
}

void GatherState::fail_shared(std::exception_ptr exception) noexcept {
  if (begin_abort(std::move(exception), false, std::string())) cancel_children_in_group(false);
}

bool GatherState::pin() noexcept {
  // Acquire: meets the release in subtract_count(); the lock under which the gather was found orders the rest.
  std::uint64_t seen = __atomic_load_n(&pending, __ATOMIC_ACQUIRE);
  do {
    if (seen == 0) return false;
  } while (!__atomic_compare_exchange_n(&pending, &seen, seen + 1, true, __ATOMIC_ACQUIRE, __ATOMIC_ACQUIRE));
  return true;
}

void GatherState::unpin() noexcept {
  // Acquire and release: the last one has everything that the others did.
  if (__atomic_sub_fetch(&pending, 1, __ATOMIC_ACQ_REL) != 0) return;
  waiting = false;
  holds_children = false;
  make_ready(*parent);
}

}  // namespace ouro::detail
