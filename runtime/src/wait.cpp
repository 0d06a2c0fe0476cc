// Waiting for several futures, and behind a shield.
#include <ouro/runtime/wait.hpp>

#include <algorithm>
#include <functional>
#include <string>

#include <ouro/runtime/detail/spin_lock.hpp>

#include "drive.hpp"
#include "shared.hpp"
#include "wait_graph.hpp"
#include "worker.hpp"

namespace ouro {
namespace detail {

// ---- One future ----

void WaitNode::notified(Waiter& self, FutureState& done) noexcept {
  auto& node = static_cast<WaitNode&>(self);
  node.heard(node, done);
  node.told.store(true, std::memory_order_release);  // pairs with the acquire in drop()
}

bool WaitNode::link(FutureState& of, Heard what) noexcept {
  heard = what;
  notify = &notified;
  future = &of;
  if (of.has(flag_shared)) {
    if (link_shared_waiter(of, *this)) return true;
  } else if (!of.done()) {
    link_waiter(of, *this);
    return true;
  }
  future = nullptr;
  return false;
}

void WaitNode::drop() noexcept {
  if (!future) return;
  FutureState& of = *std::exchange(future, nullptr);
  if (!of.has(flag_shared)) {
    if (next) unlink_waiter(of, *this);
    return;
  }
  if (told.load(std::memory_order_acquire) || unlink_shared_waiter(of, *this)) return;
  for (std::uint32_t attempt = 0; !told.load(std::memory_order_acquire); ++attempt) wait_for_lock(attempt);
}

// ---- The wait ----

void WaitCore::limit(FutureState& task, Duration delay) {
  limit(task, saturating_add(home_of(task).clock->now(), delay));
}

void WaitCore::begin(FutureState& task, void* leaf, std::source_location where, const WaiteeKind& of) noexcept {
  task_ = &task;
  shared_ = home_of(task).worker != nullptr;
  kind = &of;
  site = where;
  task.leaf = leaf;
  if (OURO_UNLIKELY(task.has(flag_shared))) {
    publish(task);
    begin_shared_wait(task, *this);
  } else {
    task.waiting_on = this;
  }
  if (OURO_UNLIKELY(task.has(flag_must_cancel))) end();  // it is woken by arrive()
}

void WaitCore::arrive() noexcept { let_go(); }

bool WaitCore::win() noexcept {
  // Relaxed: what the winner did, the task has by the hold that the winner lets go of.
  if (shared_) return !over_.exchange(true, std::memory_order_relaxed);
  if (over_.load(std::memory_order_relaxed)) return false;
  over_.store(true, std::memory_order_relaxed);
  return true;
}

void WaitCore::let_go() noexcept {
  FutureState& task = *task_;
  if (OURO_UNLIKELY(shared_)) {
    // Acquire and release: with the other hold's, so that the task finds what both did.
    if (holds_.fetch_sub(1, std::memory_order_acq_rel) == 1) wake_shared(task);
    return;
  }
  const std::uint32_t left = holds_.load(std::memory_order_relaxed) - 1;
  holds_.store(left, std::memory_order_relaxed);
  if (left == 0 && !task.home->closed) wake(task);
}

void WaitCore::resume() noexcept {
  if (OURO_UNLIKELY(shared_)) end_shared_wait(*task_);
  if (timer_.armed()) static_cast<void>(timer_.disarm());
}

bool WaitCore::cancel(Waitee& self, FutureState& task, const std::string&) noexcept {
  auto& core = static_cast<WaitCore&>(self);
  if (!core.win()) return false;  // the task is on its way to run
  task.set(flag_deliver_cancel);
  core.go();
  return true;
}

// ---- Several ----

const WaiteeKind ManyWait::wait_kind{&WaitCore::cancel, nullptr, nullptr, "wait",
                                     [](const Waitee& waitee, Needs& needs) {
                                       const auto& self = static_cast<const ManyWait&>(waitee);
                                       // An exception would do, and whoever does not wait for ever may throw one.
                                       if (self.options_.return_when != ReturnWhen::all_completed) needs.any_of();
                                       for (std::size_t i = 0; i < self.count_; ++i)
                                         needs.future(self.nodes_[i].future);
                                     }};

void ManyWait::check_options() const {
  if (options_.return_when > ReturnWhen::all_completed) {
    throw ValueError("Invalid return_when value: " + std::to_string(static_cast<int>(options_.return_when)));
  }
}

std::size_t ManyWait::check_futures(std::vector<FutureState*>& futures) {
  if (futures.empty()) throw ValueError("Set of Tasks/Futures is empty.");
  std::vector<std::pair<FutureState*, std::size_t>> sorted;
  sorted.reserve(futures.size());
  for (std::size_t i = 0; i < futures.size(); ++i) sorted.emplace_back(futures[i], i);
  const auto less = [](const auto& a, const auto& b) {
    return a.first != b.first ? std::less<>()(a.first, b.first) : a.second < b.second;
  };
  std::sort(sorted.begin(), sorted.end(), less);
  for (std::size_t i = 1; i < sorted.size(); ++i) {
    if (sorted[i].first == sorted[i - 1].first) futures[sorted[i].second] = nullptr;
  }
  std::erase(futures, nullptr);
  return futures.size();
}

bool ManyWait::ends(const FutureState& done) const noexcept {
  return options_.return_when == ReturnWhen::first_completed ||
         (options_.return_when == ReturnWhen::first_exception && done.outcome() == outcome_exception);
}

bool ManyWait::is_over(const std::vector<FutureState*>& futures) const noexcept {
  bool all = true;
  for (const FutureState* future : futures) {
    if (!future->done()) {
      all = false;
    } else if (ends(*future)) {
      return true;
    }
  }
  return all;
}

void ManyWait::suspend(FutureState& task, void* leaf, std::source_location where,
                       const std::vector<FutureState*>& futures) {
  for (FutureState* future : futures) prepare_await(task, *future);
  nodes_ = std::make_unique<WaitNode[]>(futures.size());
  if (options_.timeout) limit(task, *options_.timeout);
  count_ = futures.size();
  left_.store(count_, std::memory_order_relaxed);
  begin(task, leaf, where, wait_kind);
  for (std::size_t i = 0; i < count_; ++i) {
    nodes_[i].owner = this;
    if (!nodes_[i].link(*futures[i], &heard)) heard(nodes_[i], *futures[i]);
  }
  arrive();
}

void ManyWait::heard(WaitNode& node, FutureState& done) noexcept {
  auto& self = *static_cast<ManyWait*>(node.owner);
  bool last = false;
  if (self.is_shared()) {
    // Relaxed: what the others did, the task has when it has dropped their nodes.
    last = self.left_.fetch_sub(1, std::memory_order_relaxed) == 1;
  } else {
    const std::size_t left = self.left_.load(std::memory_order_relaxed) - 1;
    self.left_.store(left, std::memory_order_relaxed);
    last = left == 0;
  }
  if (last || self.ends(done)) self.end();
}

void ManyWait::drop_nodes() noexcept {
  for (std::size_t i = 0; i < count_; ++i) nodes_[i].drop();
  count_ = 0;
}

// ---- A shield ----

const WaiteeKind ShieldAwaiterBase::shield_kind{
    &WaitCore::cancel, nullptr, nullptr, "shield", [](const Waitee& waitee, Needs& needs) {
      needs.future(static_cast<const ShieldAwaiterBase&>(waitee).future_.get());
    }};

ShieldAwaiterBase::~ShieldAwaiterBase() { node_.drop(); }

void ShieldAwaiterBase::suspend(FutureState& task, void* leaf, std::source_location where) {
  prepare_await(task, *future_.get());
  begin(task, leaf, where, shield_kind);
  node_.owner = this;
  const auto ends = [](WaitNode& node, FutureState&) noexcept { static_cast<ShieldAwaiterBase*>(node.owner)->end(); };
  if (!node_.link(*future_.get(), ends)) end();
  arrive();
}

void ShieldAwaiterBase::check_resumed() {
  if (!waited()) return;
  resume();
  node_.drop();
  if (is_cancelled()) throw_it();
}

}  // namespace detail
}  // namespace ouro
