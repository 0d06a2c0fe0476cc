// Timers that call a function; those of floating tasks, which end on other workers than they began on.
#include <ouro/runtime/detail/loop_timer.hpp>

#include <new>
#include <utility>

#include <ouro/runtime/detail/frame_pool.hpp>

#include "drive.hpp"
#include "shared.hpp"
#include "timer_wheel.hpp"
#include "worker.hpp"

namespace ouro::detail {

namespace {

void free_node(LoopTimer::Node& node) noexcept {
  node.~Node();
  free_frame(&node, sizeof(LoopTimer::Node));
}

// For another worker's loop to take out of its wheel.
void leave_behind(LoopTimer::Node& node) noexcept {
  Worker& worker = *node.home->worker;
  SpinLock::Hold hold(worker.left_lock);
  node.next_left = worker.left_timers.load(std::memory_order_relaxed);
  worker.left_timers.store(&node, std::memory_order_relaxed);  // read without the lock as a hint alone
}

}  // namespace

void free_left_timers(Worker& worker) noexcept {
  LoopTimer::Node* node = nullptr;
  {
    SpinLock::Hold hold(worker.left_lock);
    node = worker.left_timers.load(std::memory_order_relaxed);
    worker.left_timers.store(nullptr, std::memory_order_relaxed);
  }
  while (node) {
    LoopTimer::Node* next = node->next_left;
    if (node->TimerNode::armed()) node->home->timers->cancel(*node);
    free_node(*node);
    node = next;
  }
}

void LoopTimer::arm(FutureState& task, TimePoint deadline, Fire fire, void* owner, bool moves) {
  OURO_ASSERT(!node_);
  Node* node = &own_;
  LoopState* home = task.home;
  if (OURO_UNLIKELY(moves || task.floating())) {
    if (task.floating()) publish(task);  // who is to cancel it must find it
    home = running_loop;
    OURO_ASSERT(home && home->worker);
    if (OURO_UNLIKELY(home->worker->left_timers.load(std::memory_order_relaxed))) free_left_timers(*home->worker);
    node = ::new (allocate_frame(sizeof(Node))) Node;
  }
  node->shared = node != &own_;
  node->deadline = deadline;
  node->kind = timer_of_call;
  node->target = nullptr;
  node->call = fire;
  node->owner = owner;
  node->home = home;
  node->state.store(Node::waiting, std::memory_order_relaxed);
  node_ = node;
  const TimePoint now = home->clock->now();
  home->timers->insert(*node, now);
  if (deadline <= now) home->attention = true;
}

bool LoopTimer::disarm() noexcept {
  Node& node = *std::exchange(node_, nullptr);
  if (OURO_LIKELY(!node.shared)) {
    const bool in_time = node.TimerNode::armed();
    if (in_time) node.home->timers->cancel(node);
    return in_time || node.state.load(std::memory_order_relaxed) == Node::waiting;  // the loop closed meanwhile
  }
  Node::State seen = Node::waiting;
  // Relaxed: whoever meets a node that was left gets it through the lock of the list. Acquire, if it has fired: what
  // the function did (pairs with the release in expire()).
  if (node.state.compare_exchange_strong(seen, Node::left, std::memory_order_relaxed, std::memory_order_acquire)) {
    if (running_loop == node.home || node.home->worker->group.ending) {
      if (node.TimerNode::armed()) node.home->timers->cancel(node);
      free_node(node);
    } else {
      leave_behind(node);
    }
    return true;
  }
  for (std::uint32_t attempt = 0; seen != Node::fired; ++attempt) {
    wait_for_lock(attempt);
    seen = node.state.load(std::memory_order_acquire);  // pairs with the release in expire()
  }
  free_node(node);
  return false;
}

void LoopTimer::expire(TimerNode& timer) noexcept {
  auto& node = static_cast<Node&>(timer);
  if (OURO_LIKELY(!node.shared)) {
    node.state.store(Node::fired, std::memory_order_relaxed);
    return node.call(node.owner);
  }
  Node::State seen = Node::waiting;
  // Relaxed: what the function reads was written on this thread, before the node was armed.
  if (node.state.compare_exchange_strong(seen, Node::firing, std::memory_order_relaxed, std::memory_order_relaxed)) {
    node.call(node.owner);
    node.state.store(Node::fired, std::memory_order_release);  // and it may be gone
  } else {
    free_left_timers(*node.home->worker);
  }
}

}  // namespace ouro::detail
