// Tasks of a group that come to their end on a thread that is no worker: an awaitable of the user's resumed them there,
// by hand.
//
// A frame that is to go flows off its end on a worker, and the loop that has it behind it does what the end leads to.
// Here there is no such loop. So the frame stays suspended at its end, and is sent to the loop where the task ran last,
// as an entry that imitates one more step: it destroys the frame, and goes on then as after any child that ended.
#include <utility>

#include <ouro/runtime/detail/gather_state.hpp>

#include "drive.hpp"
#include "shared.hpp"
#include "worker.hpp"

namespace ouro::detail {

namespace {

FutureState& take_current() noexcept { return *std::exchange(running_loop->current, nullptr); }

// A child that nobody has a handle to is no record of a loop's.
void destroy_child(FutureState& child) noexcept {
  take_belongings(child);
  std::coroutine_handle<>::from_address(child.frame()).destroy();
}

constinit const FrameHeader task_ended{[](void*) { destroy_shared_now(take_current()); }, nullptr};

constinit const FrameHeader child_ended{[](void*) {
                                          FutureState& child = take_current();
                                          GatherState& gather = *child.gather;
                                          destroy_child(child);
                                          gather.child_left(*running_loop->worker);
                                        },
                                        nullptr};

// Of a child that handles keep: one reference is the entry's.
constinit const FrameHeader child_kept{[](void*) {
                                         FutureState& child = take_current();
                                         GatherState& gather = *child.child.ended_in;
                                         drop_shared_ref(child);
                                         gather.child_left(*running_loop->worker);
                                       },
                                       nullptr};

void set_leaf(FutureState& state, const FrameHeader& header) noexcept {
  state.leaf = const_cast<FrameHeader*>(&header);
}

}  // namespace

LoopState* end_elsewhere(GatherState& gather, FutureState& child, bool goes) noexcept {
  if (goes) {
    set_leaf(child, child_ended);  // for leave_elsewhere(), when it has suspended
    return nullptr;
  }
  set_leaf(child, child_kept);
  child.child.ended_in = &gather;
  add_ref(child);
  post_to(home_of(child), child);  // the loop lives, for the parent waits
  return nullptr;
}

bool leave_elsewhere(FutureState& state) noexcept {
  if (state.leaf != &child_ended) set_leaf(state, task_ended);
  return post_to(home_of(state), state);
}

bool discard_ended(ReadyNode& node) noexcept {
  auto& state = static_cast<FutureState&>(node);
  if (node.leaf == &task_ended) {
    destroy_shared_now(state);
  } else if (node.leaf == &child_ended) {
    destroy_child(state);
  } else if (node.leaf == &child_kept) {
    drop_shared_ref(state);
  } else {
    return false;
  }
  return true;
}

}  // namespace ouro::detail
