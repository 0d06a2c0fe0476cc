// A group of workers for models: its workers are threads of the program, without loops. What runs is the library's own
// records, gathers and deques; in place of a loop's turns stands run(), which does what run_entry() of
// src/group_turns.cpp does. Nobody sleeps, and nobody searches but in steal().
#pragma once

#include <memory>
#include <source_location>
#include <thread>
#include <utility>

#include <model/checker.hpp>
#include <ouro/runtime/coroutine.hpp>
#include <ouro/runtime/detail/core.hpp>
#include <ouro/runtime/detail/gather_state.hpp>
#include <ouro/runtime/futures.hpp>
#include <ouro/runtime/tasks.hpp>

#include "drive.hpp"
#include "shared.hpp"
#include "worker.hpp"

namespace ouro::model {

class Group {
 public:
  explicit Group(unsigned workers) : group_(new detail::WorkerGroup(workers)) {
    for (unsigned i = 0; i < workers; ++i) {
      auto* state = new detail::LoopState;
      group_->workers.push_back(std::make_unique<detail::Worker>(*group_, i, *state));
      state->worker = group_->workers.back().get();
      state->last_number = i;
      state->number_step = workers;
      detail::update_special(*state);
    }
  }
  Group(const Group&) = delete;
  Group& operator=(const Group&) = delete;
  // Requires: the program's other threads have ended.
  ~Group() {
    std::uint64_t born = 0;
    std::uint64_t gone = group_->gone_elsewhere;
    for (const auto& worker : group_->workers) {
      born += worker->born.get();
      gone += worker->gone.get();
    }
    check(born == gone, "every record has gone, once");
    check(detail::unfinished(*group_) == 0, "every task has ended");
    check(group_->aborting.load() == 0, "no gather is ending");
    delete group_;
  }

  detail::WorkerGroup* get() noexcept { return group_; }
  detail::LoopState& loop(unsigned worker) noexcept { return group_->workers[worker]->state; }

  template <class T>
  Future<T> make_future(unsigned worker, std::source_location where = std::source_location::current()) {
    return Future<T>(detail::PlainFuture<T>::make(loop(worker), where));
  }

  // The calling thread is this worker while `f` runs.
  template <class F>
  void as(unsigned worker, F&& f) {
    detail::LoopState* const before = detail::set_running_state(&loop(worker));
    std::forward<F>(f)();
    detail::set_running_state(before);
  }
  // A thread that is this worker, does `f`, and then runs what is ready there.
  template <class F>
  std::thread thread(unsigned worker, F f) {
    return std::thread([this, worker, f = std::move(f)]() mutable {
      as(worker, [&] {
        f();
        run(worker);
      });
    });
  }

  // What is left anywhere, messages say. Requires: the program's other threads have ended.
  void settle() {
    for (unsigned i = 0; i < group_->size; ++i) as(i, [&] { run(i); });
  }

  // ---- As a worker ----

  template <class T>
  Task<T> pin(unsigned worker, Coroutine<T> coroutine, std::source_location where = std::source_location::current()) {
    return detail::schedule(&loop(worker), std::move(coroutine), TaskOptions(), where);
  }

  // Runs what is ready there, until nothing is.
  void run(unsigned worker) {
    detail::LoopState& s = loop(worker);
    for (bool more = true; more;) {
      more = take_inbox(s);
      if (detail::ReadyNode* entry = s.worker->deque.pop()) {
        run_entry(s, entry, false);
        more = true;
      }
      if (detail::ReadyNode* entry = take(s.worker->lane)) {
        run_entry(s, entry, false);
        more = true;
      }
    }
  }
  // What that worker would run next, taken away.
  detail::ReadyNode* take_entry(unsigned worker) { return take(loop(worker).worker->deque); }
  // Takes one entry of another one, and runs it. False: there is none.
  bool steal(unsigned worker, unsigned victim) {
    detail::LoopState& s = loop(worker);
    detail::Worker& from = *loop(victim).worker;
    detail::ReadyNode* entry = take(from.deque);
    if (!entry) entry = take(from.lane);
    if (entry) run_entry(s, entry, true);
    return entry != nullptr;
  }

 private:
  static detail::ReadyNode* take(detail::StealDeque<detail::ReadyNode>& queue) {
    for (;;) {
      bool lost = false;
      detail::ReadyNode* const entry = queue.size() != 0 ? queue.steal(lost) : nullptr;
      if (!lost) return entry;
    }
  }

  static void run_node(detail::LoopState& s, detail::ReadyNode& node) {
    s.current = static_cast<detail::FutureState*>(&node);
    detail::drive_inline(node.leaf);
  }
  static void run_entry(detail::LoopState& s, detail::ReadyNode* entry, bool stolen) {
    s.budget = 61;
    if (detail::GatherShare* const share = detail::share_of(entry)) {
      detail::GatherState::run_share(*share, *s.worker, stolen);
    } else {
      auto& task = static_cast<detail::FutureState&>(*entry);
      detail::set_home(task, s);
      run_node(s, task);
    }
    detail::GatherState::run_hops(*s.worker);
    detail::destroy_left_over();
    s.current = nullptr;
  }
  // Pinned tasks and messages. False if there were none.
  static bool take_inbox(detail::LoopState& s) {
    detail::ReadyQueue found;
    detail::ReadyNode* node = s.inbox.load(std::memory_order_relaxed);
    if (node) node = s.inbox.exchange(nullptr, std::memory_order_acquire);
    while (node) found.push_front(*std::exchange(node, node->next));
    found.splice_back(s.batch);
    found.splice_back(s.ready);
    if (found.empty()) return false;
    while (!found.empty()) {
      s.budget = 61;
      run_node(s, *found.pop_front());
      detail::destroy_left_over();
    }
    s.current = nullptr;
    return true;
  }

  detail::WorkerGroup* const group_;
};

}  // namespace ouro::model
