// The parts of gather and map that are no templates: the runner of a gather, errors, cancellation, destruction.
#include <ouro/runtime/detail/gather_state.hpp>

#include <ouro/runtime/exceptions.hpp>
#include <ouro/runtime/gather.hpp>
#include <ouro/runtime/map.hpp>

#include "drive.hpp"
#include "shared.hpp"
#include "wait_graph.hpp"
#include "worker.hpp"

namespace ouro::detail {

const WaiteeKind GatherState::gather_kind{
    [](Waitee& self, FutureState&, const std::string& message) noexcept {
      return static_cast<GatherState&>(self).cancel_all(message);
    },
    nullptr, [](Waitee& self) noexcept { return static_cast<GatherState&>(self).take_suspended_child(); }, "gather",
    // Its own children say of themselves whose they are. Futures it may have let go of when it ends early.
    [](const Waitee& waitee, Needs& needs) {
      const auto& self = static_cast<const GatherState&>(waitee);
      if (!self.nodes || self.stop_requested()) return;
      for (std::uint32_t i = 0; i < self.count; ++i) needs.future(self.nodes[i].future);
    }};

GatherState::Trouble& GatherState::trouble_of() {
  if (!trouble) trouble = new Trouble;
  troubled = true;
  return *trouble;
}

void GatherState::end_trouble() noexcept {
  troubled = false;
  first_error = nullptr;
  delete std::exchange(trouble, nullptr);
}

void GatherState::set_cancel_message(const std::string& message) noexcept {
  if (message.empty() && !trouble) return;
  try {
    trouble_of().cancel_message = message;
  } catch (...) {
    // Without memory the cancellation goes on without its message.
  }
}

void GatherState::never_destroyed(void*) { OURO_ASSERT(false); }

void GatherState::start(void (*run)(void*), FutureState& task, void* frame, std::source_location where) noexcept {
  begin(task, frame, where);
  resume = run;
  destroy = &never_destroyed;
  task.waiting_on = this;
  pending = fixed ? count + std::uint64_t{1} : 1;
  listed = children ? count : 0;
  next_child = 0;
  brake = 0;
  child_flags = 0;
  if (slot_kind == SlotKind::value && !indirect) child_flags = fixed ? flag_direct : flag_first_step;
  older = home->gathers;
  newer = nullptr;
  if (older) older->newer = this;
  home->gathers = this;
  leaf = static_cast<FrameHeader*>(this);
  home->ready.push_back(*this);
  if (nodes) {
    for (std::uint32_t i = 0; i < count; ++i) {
      nodes[i].gather = this;
      nodes[i].index = i;
      nodes[i].notify = &notified;
    }
  }
  if (OURO_UNLIKELY(task.has(flag_shared))) publish(task);
  if (OURO_UNLIKELY(task.has(flag_must_cancel))) {
    const Rare* rare = task.rare ? rare_if(task) : nullptr;
    if (cancel_all(rare ? rare->cancel_message : std::string())) task.clear(flag_must_cancel);
  }
}

void GatherState::prepare_futures(FutureState& task) {
  parent = &task;
  home = task.home;
  listed = children ? count : 0;
  shared = waiting = false;
  holds_children = true;  // if that throws
  for (std::uint32_t i = 0; i < count; ++i) {
    if (!nodes[i].future) continue;
    if (&home_of(*nodes[i].future) != task.home && !same_group(*nodes[i].future, task)) {
      throw ValueError("The future belongs to a different loop than the one specified as the loop argument");
    }
    prepare_await(task, *nodes[i].future);
  }
}

void GatherState::start_future(GatherNode& node) noexcept {
  if (OURO_UNLIKELY(node.future->has(flag_shared))) {
    node.linked = true;
    if (link_shared_waiter(*node.future, node)) return;
    node.linked = false;
  }
  if (node.future->done()) {
    home->current = nullptr;
    future_done(node);
  } else {
    node.linked = true;
    link_waiter(*node.future, node);
  }
}

// A child that was cancelled, through its handle, before it could start: its body never runs a line.
void GatherState::end_unstarted(FutureState& child) noexcept {
  home->current = nullptr;
  child.clear(flag_must_cancel);
  child.set_outcome(outcome_cancelled);
  if (return_exceptions) {
    try {
      trouble_of().unrun.emplace_back(child.child.index, exception_or_cancellation(child));
    } catch (...) {
      fail(std::current_exception());
    }
  } else {
    child_failed(child, nullptr);
  }
  if (child_done(child)) std::coroutine_handle<>::from_address(child.frame()).destroy();
}

void GatherState::run_fixed(void* header) {
  auto& self = *static_cast<GatherState*>(static_cast<FrameHeader*>(header));
  LoopState& loop = *self.home;
  FutureState** const children = self.children;
  const std::uint32_t last = self.count;
  while (self.next_child < last && OURO_LIKELY(!self.aborting)) {
    const std::uint32_t i = self.next_child++;
    FutureState* child = children ? children[i] : nullptr;
    if (OURO_UNLIKELY(child == nullptr)) {
      self.start_future(self.nodes[i]);
      continue;
    }
    if (i + 12 < last) {
      const auto ahead = reinterpret_cast<std::uintptr_t>(children[i + 12]);  // nullptr for a future: harmless
      __builtin_prefetch(reinterpret_cast<const void*>(ahead - sizeof(FrameHeader)), 1);
      __builtin_prefetch(reinterpret_cast<const void*>(ahead + sizeof(FutureState)), 1);
      __builtin_prefetch(reinterpret_cast<const void*>(ahead + sizeof(FutureState) + 64), 1);
    }
    const unsigned flags = child->all_flags();
    if (OURO_LIKELY((flags & flag_gathered) == 0)) {
      self.adopt_new_child(*child, i, flags | flag_started);
    } else if (flags & flag_must_cancel) {
      self.end_unstarted(*child);
      continue;
    } else {
      child->leaf = child->frame();  // a cancellation that was called off may have replaced it
      child->set(flag_started);
    }
    loop.current = child;
    drive_here(child->frame());
    if (--loop.budget == 0) {
      loop.budget = 1;  // the loop counts the runner itself
      loop.batch.push_front(self);
      return;
    }
  }
  self.runner_done();
}

void GatherState::runner_done() noexcept {
  if (fixed) {
    home->current = nullptr;  // destructors run, and the last child may be gone
    // Aborted: what has not been started never is.
    for (std::uint32_t i = next_child; i < count; ++i) {
      if (children && children[i]) {
        FutureState* child = std::exchange(children[i], nullptr);
        if (handles_of(*child) == 0) {
          std::coroutine_handle<>::from_address(child->frame()).destroy();
        } else {
          child->set_outcome(outcome_cancelled);
          keep_child(*child);
        }
      }
      --pending;
    }
    next_child = count;
  }
  if (--pending == 0) finish();
}

void GatherState::keep_child(FutureState& child) noexcept {
  child.waiters = nullptr;
  count_record(*home);
  if (OURO_UNLIKELY(child.has(flag_shared))) {
    RecordLock hold(child);
    const unsigned flags = (child.all_flags() | flag_done) & ~unsigned{flag_gathered};
    // Release: as in close_list().
    __atomic_store_n(&child.flags, static_cast<std::uint16_t>(flags), __ATOMIC_RELEASE);
    return;
  }
  child.set(flag_done);
  child.clear(flag_gathered);
}

void GatherState::refill() noexcept {
  starved = false;
  home->ready.push_back(*this);
}

void GatherState::forget(FutureState& child) noexcept {
  const std::uint32_t position = child.child.position;
  FutureState* last = children[listed - 1];
  children[position] = last;
  last->child.position = position;
  --listed;
  as_map().map_kind->unlisted(*this, listed);
}

void GatherState::finish() noexcept {
  waiting = false;
  holds_children = false;
  listed = 0;
  (newer ? newer->older : home->gathers) = older;
  if (older) older->newer = newer;
  if (OURO_LIKELY(!home->closed)) wake(*parent);
}

void GatherState::child_failed(FutureState& child, std::exception_ptr exception) noexcept {
  fail(exception ? std::move(exception) : exception_or_cancellation(child));
}

void GatherState::fail(std::exception_ptr exception) noexcept {
  if (OURO_UNLIKELY(shared)) return fail_shared(std::move(exception));
  if (first_error) return;
  first_error = std::move(exception);
  troubled = true;
  abort();
  if (!cancel_requested) {
    cancel_children(std::string(), false);
    if (walked == Walked::no) let_go_of_futures();
  }
  if (OURO_UNLIKELY(starved)) refill();
}

void GatherState::begin_cancel(const std::string& message) noexcept {
  cancel_requested = true;
  if (first_error) cancelled_late = true;
  abort();
  set_cancel_message(message);
}

bool GatherState::cancel_all(const std::string& message) noexcept {
  const bool unstarted = has_unstarted();
  if (!waiting) return false;
  begin_cancel(message);
  const bool any = cancel_children(message, true);
  if (OURO_UNLIKELY(starved)) refill();
  return any || unstarted;
}

void GatherState::let_go_of_futures() noexcept {
  if (!nodes) return;
  for (std::uint32_t i = 0; i < count; ++i) {
    if (shared ? nodes[i].future != nullptr : nodes[i].linked) let_go_of(nodes[i]);
  }
}

void GatherState::let_go_of(GatherNode& node) noexcept {
  if (OURO_UNLIKELY(shared || node.future->has(flag_shared))) {
    if (!unlink_shared_waiter(*node.future, node)) return;  // it is done, and about to tell; or not linked
    if (shared) return unpin();
    node.linked = false;
  } else {
    node.linked = false;
    unlink_waiter(*node.future, node);
  }
  if (waiting) --pending;
}

void GatherState::arrived(void* leaf) {
  auto& node = *static_cast<GatherNode*>(static_cast<FrameHeader*>(leaf));
  LoopState& home = *node.gather->home;
  home.current = nullptr;
  node.linked = false;
  if (OURO_LIKELY(!home.closed)) node.gather->future_done(node);
}

void GatherState::notified(Waiter& waiter, FutureState& done) noexcept {
  auto& node = static_cast<GatherNode&>(waiter);
  GatherState& gather = *node.gather;
  if (OURO_UNLIKELY(done.has(flag_shared))) {
    if (gather.home->worker->group.ending) return;
    if (gather.shared) {
      gather.future_done(node);
    } else if (running_loop == gather.home) {
      node.linked = false;
      gather.future_done(node);
    } else {
      // The gather belongs to its parent's thread.
      node.resume = &arrived;
      node.destroy = &never_destroyed;  // what marks a gather's own entries
      node.leaf = static_cast<FrameHeader*>(&node);
      post_to(*gather.home, node);
    }
    return;
  }
  node.linked = false;
  if (OURO_UNLIKELY(node.gather->home->closed)) return;
  node.gather->future_done(node);
}

void GatherState::future_done(GatherNode& node) noexcept {
  FutureState& future = *node.future;
  try {
    if (future.outcome() == outcome_value || return_exceptions) {
      node.store(node);
    } else {
      fail(exception_or_cancellation(future));
    }
  } catch (...) {
    fail(std::current_exception());
  }
  if (OURO_UNLIKELY(shared)) return unpin();
  if (--pending == 0) finish();
}

void GatherState::rethrow_slowly() {
  if (OURO_UNLIKELY(counted_abort)) leave_group_abort();
  check_cancelled(*parent);
  if (first_error && !cancelled_late) std::rethrow_exception(std::move(first_error));
  if (cancel_requested) throw CancelledError(cancel_message());
}

FutureState* GatherState::take_suspended_child() noexcept {
  if (OURO_UNLIKELY(shared)) return take_public_child();
  while (children && listed > 0) {
    FutureState* child = std::exchange(children[listed - 1], nullptr);
    --listed;
    if (!child) continue;
    if (child->has(flag_started) || handles_of(*child) != 0) return child;
    std::coroutine_handle<>::from_address(child->frame()).destroy();
  }
  return nullptr;
}

void GatherState::destroy_children() noexcept {
  while (FutureState* child = take_suspended_child()) bury(*home, *child);
  if (!waiting) return;
  if (OURO_UNLIKELY(shared)) {
    let_go_of_futures();
    waiting = false;
    return;
  }
  // Its parent is destroyed with the loop.
  (newer ? newer->older : home->gathers) = older;
  if (older) older->newer = newer;
  let_go_of_futures();
  waiting = false;
}

void throw_too_many_elements() { throw ValueError("map: in a group a range can have 4,294,967,294 elements"); }
void throw_zero_limit() { throw ValueError("map: the limit must be at least 1"); }

}  // namespace ouro::detail
