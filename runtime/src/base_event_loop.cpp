// One turn of the loop, and the loop's life.
//
// A turn
//   1. look: let the parker submit and reap, what it completes goes to `events_`; move due timers to `due_`, and what
//      other threads sent to `injected_`. If nothing at all is ready: spin, then park until the next deadline, and look
//      again.
//   2. run exactly what was ready when the turn began (`batch`); what becomes ready meanwhile waits for the next turn.
//   3. run `events_`, `due_` and `injected_`.
// A turn that begins with work and with budget left skips the look: a lone task that yields costs no clock reading and
// no look at the ring.
//
// Fairness. After every `looks_every` runs the loop looks in the middle of a batch, and runs what the look found, at
// most `looks_every` of each kind, before it goes on with the batch. So with any number of ready tasks a due timer, a
// completed operation and a posted callback get their turn within 61 runs of each kind. A gather's runner takes part:
// it counts its children against the budget and queues itself at the front of the batch again.
//
// Sleeping. The inbox word decides (see LoopState::inbox): the loop exchanges nullptr for asleep(), and does not sleep
// if that fails; a poster that replaces asleep() unparks, which is latched, so that it does not matter whether the loop
// is inside park() yet. Before it parks, the loop spins on the parker and the inbox, for as long as that has paid
// lately.
#include <ouro/runtime/base_event_loop.hpp>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <thread>
#include <typeinfo>

#include <ouro/runtime/detail/context_state.hpp>
#include <ouro/runtime/detail/errand.hpp>
#include <ouro/runtime/detail/gather_state.hpp>
#include <ouro/runtime/detail/generator_state.hpp>
#include <ouro/runtime/detail/loop_event.hpp>
#include <ouro/runtime/detail/loop_timer.hpp>
#include <ouro/runtime/exceptions.hpp>

#include "drive.hpp"
#include "report.hpp"
#include "shared.hpp"
#include "timer_wheel.hpp"
#include "turns.hpp"
#include "worker.hpp"

namespace ouro {
namespace {

using detail::looks_every;
using detail::shortest_spin;

constexpr std::chrono::nanoseconds default_spin = std::chrono::microseconds(50);

bool debug_from_environment() noexcept {
  const char* value = std::getenv("OURO_DEBUG");
  return value && *value != '\0' && !(value[0] == '0' && value[1] == '\0');
}

}  // namespace

// ---- Life ----

BaseEventLoop::BaseEventLoop(std::unique_ptr<Parker> parker, const Clock& clock)
    : state_(new detail::LoopState),
      parker_(std::move(parker)),
      spin_longest_(std::thread::hardware_concurrency() > 1 ? default_spin : std::chrono::nanoseconds(0)),
      spin_now_(spin_longest_) {
  state_->loop = this;
  state_->clock = &clock;
  state_->parker = parker_.get();
  set_debug(debug_from_environment());
  try {
    state_->timers = new detail::TimerWheel;
  } catch (...) {
    delete state_;
    throw;
  }
}

BaseEventLoop::~BaseEventLoop() {
  if (!is_running()) BaseEventLoop::close();
  while (state_->posters.load(std::memory_order_acquire) != 0) std::this_thread::yield();
  delete state_->timers;
  state_->timers = nullptr;
  state_->parker = nullptr;
  state_->loop = nullptr;
  if (state_->worker) {
    detail::leave_group(*state_);
  } else if (state_->live == 0) {
    delete state_;
  }
}

void BaseEventLoop::throw_closed() {
  throw RuntimeError("Event loop is closed", "make a new loop with new_event_loop()");
}

void BaseEventLoop::check_runnable() const {
  check_open();
  if (is_running()) throw RuntimeError("This event loop is already running");
  if (state_->worker && !state_->worker->may_run) {
    throw RuntimeError("run_forever() or run_until_complete() on a loop in a group", "its Runner runs it, with run()");
  }
  if (detail::running_state()) throw RuntimeError("Cannot run the event loop while another loop is running");
}

bool BaseEventLoop::is_elsewhere_in_group() const noexcept {
  const detail::LoopState* here = detail::running_state();
  // Before the first loop runs it is used on its thread.
  return here != state_ && (here || state_->worker->index != 0);
}

void BaseEventLoop::stop() {
  if (state_->worker) {
    throw RuntimeError("stop() on a loop in a group", "the group's loops end together, when run() ends");
  }
  end_run();
}

void BaseEventLoop::end_run() noexcept {
  stopping_ = true;
  state_->attention = true;
}

void BaseEventLoop::interrupt_with(std::exception_ptr exception) noexcept {
  state_->interrupt = std::move(exception);
  state_->attention = true;
}

// ---- Running ----

void BaseEventLoop::run_forever() {
  check_runnable();
  struct Running {
    BaseEventLoop& loop;
    explicit Running(BaseEventLoop& l) : loop(l) {
      loop.running_.store(true, std::memory_order_relaxed);
      loop.state_->running = true;
      detail::set_running_state(loop.state_);
    }
    ~Running() {
      loop.running_.store(false, std::memory_order_relaxed);
      loop.state_->running = false;
      loop.stopping_ = false;
      loop.state_->current = nullptr;
      detail::drop_loose_context(*loop.state_);
      loop.state_->budget = 0;
      detail::set_running_state(nullptr);
    }
  } running(*this);
  if (state_->worker) {
    run_group_turns();
  } else {
    run_turns();
  }
}

void BaseEventLoop::run_turns() {
  detail::LoopState& s = *state_;
  bool late = false;  // the look comes after a whole budget: what it finds goes before the batch
  do {
    ++counters_.turns;
    look();
    s.batch.splice_back(s.ready);
    if (late) run_found();
    run_batch();
    // Turns without a look: nothing waits but what is ready, and the budget is not used up.
    if (none_found()) run_ready();
    late = s.budget == 0;
  } while (!stopping_);
  parker_->poll();  // what was begun in the last turn is not left lying until the next run
  if (s.interrupt) std::rethrow_exception(std::exchange(s.interrupt, nullptr));
}

inline void BaseEventLoop::run_ready() {
  detail::LoopState& s = *state_;
  // A task that forks leaves itself and the child in the batch.
  while (s.budget != 0 && !s.attention && !s.ready.empty() && s.batch.empty()) {
    if (detail::ReadyNode* only = s.ready.take_only()) {
      run_node(*only);
      --s.budget;
      continue;
    }
    s.batch = s.ready.take();
    if (run_chunk()) continue;
    run_batch();
    if (!none_found()) return;
  }
}

// A whole turn: the batch, with looks in between, and what the looks found.
void BaseEventLoop::run_batch() {
  for (;;) {
    const bool finished = state_->budget == 0 ? state_->batch.empty() : run_chunk();
    if (!finished) look();
    run_found();
    if (finished) return;
  }
}

void BaseEventLoop::run_found() {
  if (!events_.empty()) run_some(events_, looks_every);
  if (!due_.empty()) run_some(due_, looks_every);
  if (!injected_.empty()) run_some(injected_, looks_every);
}

void BaseEventLoop::run_some(detail::ReadyQueue& queue, std::uint32_t most) {
  for (; most != 0 && !queue.empty(); --most) {
    detail::ReadyNode* node = queue.pop_front();
    detail::prefetch_frame(node->next);
    run_node(*node);
  }
}

void BaseEventLoop::run_node_debug(detail::ReadyNode& node) {
  detail::LoopState& s = *state_;
  auto* header = static_cast<detail::FrameHeader*>(node.leaf);
  const bool callback = detail::CallbackNode::is_one(*header);
  std::string what;
  ExceptionContext context;
  if (callback) {
    context.created = static_cast<detail::CallbackNode*>(header)->site;
    what = "callback";
  } else if (!detail::Errand::of(node) && !detail::LoopEvent::of(node) && !detail::GatherState::is_runner(*header)) {
    auto& task = static_cast<detail::FutureState&>(node);
    context.created = task.created;
    context.task = detail::name_of(task);
    what = "task";
  }
  const TimePoint began = time();
  s.current = static_cast<detail::FutureState*>(&node);
  detail::drive_inline(node.leaf);
  const auto took = time() - began;
  if (took < slow_callback_duration || what.empty()) return;
  const auto ms = std::chrono::duration_cast<std::chrono::microseconds>(took).count();
  context.message = "Executing " + what + " took " + std::to_string(ms / 1000) + "." +
                    std::to_string(ms % 1000 + 1000).substr(1) + " ms";
  call_exception_handler(context);
}

void BaseEventLoop::look() {
  detail::LoopState& s = *state_;
  ++counters_.looks;
  if (s.budget < looks_every) counters_.runs.add(looks_every - s.budget);
  s.current = nullptr;
  if (OURO_UNLIKELY(s.context.word != 0)) detail::drop_loose_context(s);  // a destructor, say, has set something
  s.budget = looks_every;
  s.attention = stopping_;
  if (OURO_UNLIKELY(interrupted_.load(std::memory_order_relaxed))) {
    interrupted_.store(false, std::memory_order_relaxed);
    if (interrupt_handler_) interrupt_handler_();
  }
  if (OURO_UNLIKELY(s.interrupt != nullptr)) std::rethrow_exception(std::exchange(s.interrupt, nullptr));

  // What the parker completes is kept apart from what was ready before.
  struct Apart {
    detail::LoopState& s;
    detail::ReadyQueue& events;
    detail::ReadyQueue ready;
    Apart(detail::LoopState& state, detail::ReadyQueue& queue) : s(state), events(queue), ready(state.ready.take()) {}
    ~Apart() {
      events.splice_back(s.ready);
      s.ready = ready;
    }
  } apart(s, events_);
  if (s.worker) s.worker->looking = true;
  parker_->poll();
  if (s.worker) s.worker->looking = false;
  fire_timers();
  if (s.inbox.load(std::memory_order_relaxed)) take_inbox(s.inbox.exchange(nullptr, std::memory_order_acquire));
  if (apart.ready.empty() && s.ready.empty() && s.batch.empty() && none_found() && !stopping_ &&
      !interrupted_.load(std::memory_order_relaxed)) {  // one that came since: poll() has taken its wake-up
    if (!s.worker) {
      wait_for_work();
    } else if (!has_floating()) {
      s.worker->looking = true;
      search_for_work();
      s.worker->looking = false;
    }
    fire_timers();
  }
}

void BaseEventLoop::wait_for_work() {
  detail::LoopState& s = *state_;
  const TimePoint deadline = s.timers->next_deadline();
  if (spin(deadline)) {
    ++counters_.spins;
    if (s.inbox.load(std::memory_order_relaxed)) take_inbox(s.inbox.exchange(nullptr, std::memory_order_acquire));
    return;
  }
  detail::ReadyNode* seen = nullptr;
  const TimePoint until = OURO_UNLIKELY(s.awaited && !looked_) && nothing_in_sight(deadline)
                              ? detail::saturating_add(time(), grace())
                              : deadline;
  // Release and acquire: pairs with posters on both sides; see LoopState::inbox.
  if (s.inbox.compare_exchange_strong(seen, detail::asleep(), std::memory_order_acq_rel, std::memory_order_relaxed)) {
    ++counters_.parks;
    const TimePoint before = spin_longest_.count() != 0 ? time() : TimePoint();
    try {
      parker_->park(until);
    } catch (...) {
      take_inbox(s.inbox.exchange(nullptr, std::memory_order_acquire));
      throw;
    }
    if (spin_longest_.count() != 0) {
      const TimePoint now = time();
      if (now < until && now - before < 2 * spin_longest_) spin_now_ = spin_longest_;  // a spin would have paid
    }
  }
  take_inbox(s.inbox.exchange(nullptr, std::memory_order_acquire));
  looked_ = false;
  if (OURO_UNLIKELY(until != deadline)) look_if_quiet(until);
}

bool BaseEventLoop::spin(TimePoint deadline) {
  if (spin_now_ < shortest_spin) return false;
  detail::LoopState& s = *state_;
  const TimePoint end = std::min(deadline, detail::saturating_add(time(), spin_now_));
  for (;;) {
    if (s.inbox.load(std::memory_order_relaxed) || interrupted_.load(std::memory_order_relaxed) || parker_->poll() ||
        !s.ready.empty()) {
      spin_now_ = spin_longest_;
      return true;
    }
    detail::pause_for(4);
    if (time() >= end) break;
    std::this_thread::yield();  // who is to wake us may share this processor, and would not run otherwise
  }
  if (deadline <= end) return true;
  spin_now_ /= 2;
  return false;
}

void BaseEventLoop::take_inbox(detail::ReadyNode* newest) noexcept {
  if (!newest || newest == detail::asleep() || newest == detail::shut()) return;
  ++counters_.posts;
  injected_.splice_back_reversed(*newest, detail::prefetch_before);
}

// Before the loop runs: what was posted comes before what call_soon adds next.
void BaseEventLoop::take_posts() noexcept {
  if (!state_->inbox.load(std::memory_order_relaxed)) return;
  take_inbox(state_->inbox.exchange(nullptr, std::memory_order_acquire));
  state_->ready.splice_back(injected_);
}

void BaseEventLoop::fire_timers() noexcept {
  detail::LoopState& s = *state_;
  if (s.timers->size() == 0) return;
  const TimePoint now = time();
  std::uint32_t left = looks_every;
  detail::ReadyQueue floating;
  while (detail::TimerNode* timer = s.timers->pop_due(now)) {
    if (timer->kind == detail::timer_of_task) {
      auto& task = *static_cast<detail::FutureState*>(timer->target);
      if (OURO_UNLIKELY(task.floating())) {
        floating.push_back(task);  // waiting_on: see shared.hpp
        if (--left == 0) break;
        continue;
      }
      task.waiting_on = nullptr;
    } else if (timer->kind == detail::timer_of_call) {
      // What it makes ready stands among the timers, in their order.
      const detail::ReadyQueue before = s.ready.take();
      detail::LoopTimer::expire(*timer);
      due_.splice_back(s.ready);
      s.ready = before;
      if (--left == 0) break;
      continue;
    }
    due_.push_back(*timer->target);
    if (--left == 0) break;
  }
  if (OURO_UNLIKELY(!floating.empty())) push_due(floating);
}

void BaseEventLoop::run_until_done(detail::FutureState& state) {
  if (&detail::home_of(state) != state_ && !(state_->worker && detail::home_of(state).worker &&
                                             &state_->worker->group == &detail::home_of(state).worker->group))
    throw ValueError("The future belongs to a different loop than the one specified as the loop argument");
  struct Stop : detail::Waiter {
    explicit Stop(BaseEventLoop& loop) {
      next = prev = nullptr;
      auto callback = [&loop] { loop.end_run(); };
      using Node = detail::TypedCallbackNode<decltype(callback)>;
      node = Node::make(loop.state(), std::source_location(), loop.state().worker != nullptr, callback);
      notify = [](detail::Waiter& self, detail::FutureState&) noexcept {
        auto& stop = static_cast<Stop&>(self);
        stop.node->add_ref();
        if (detail::running_loop == stop.node->home) {
          stop.node->home->ready.push_back(*stop.node);
        } else if (!detail::post_to(*stop.node->home, *stop.node)) {
          stop.node->abandon();
        }
        stop.told.store(true, std::memory_order_release);
      };
    }
    ~Stop() {
      node->cancel();
      node->drop_ref();
    }
    detail::CallbackNode* node;
    detail::Atomic<bool> told{false};  // by another thread of the group, maybe: it has touched this for the last time
  } stop(*this);
  const bool shared = state.has(detail::flag_shared);
  const bool linked = shared ? detail::link_shared_waiter(state, stop) : !state.done();
  if (!linked) {
    stop.node->add_ref();
    state_->ready.push_back(*stop.node);
  } else if (!shared) {
    detail::link_waiter(state, stop);
  }
  struct Unlink {
    Stop& stop;
    detail::FutureState& state;
    bool linked;
    ~Unlink() {
      if (!state.has(detail::flag_shared)) {
        if (stop.next) detail::unlink_waiter(state, stop);
      } else if (linked && !detail::unlink_shared_waiter(state, stop)) {
        while (!stop.told.load(std::memory_order_acquire)) std::this_thread::yield();
      }
    }
  } unlink{stop, state, linked};
  const Awaited awaited(*this, state);
  try {
    run_forever();
  } catch (...) {
    if (state.done()) state.clear(detail::flag_unretrieved);  // the caller hears of the other exception
    throw;
  }
  if (!state.done()) throw RuntimeError("Event loop stopped before Future completed.");
}

// ---- Callbacks ----

bool BaseEventLoop::post(detail::ReadyNode& node) noexcept { return detail::post_to(*state_, node); }

void BaseEventLoop::arm(detail::CallbackNode& node, TimePoint when) noexcept {
  node.when = when;
  node.timer.deadline = when;
  node.timer.target = &node;
  node.timer.kind = detail::timer_of_callback;
  const TimePoint now = time();
  state_->timers->insert(node.timer, now);
  if (when <= now) state_->attention = true;
}

void detail::ArmLater::operator()() {
  CallbackNode& node = *std::exchange(node_, nullptr);
  if (node.is_cancelled()) {
    node.drop_ref();
  } else {
    loop_->arm(node, node.when);
  }
}

void BaseEventLoop::raise_interrupt() noexcept {
  interrupted_.store(true, std::memory_order_relaxed);
  parker_->unpark();
}

LoopCounters BaseEventLoop::counters() const noexcept {
  LoopCounters counters;
  counters.runs = counters_.runs.get();
  counters.turns = counters_.turns.get();
  counters.looks = counters_.looks.get();
  counters.parks = counters_.parks.get();
  counters.spins = counters_.spins.get();
  counters.posts = counters_.posts.get();
  counters.enters = parker_->enters();
  if (const detail::Worker* worker = state_->worker) {
    counters.steals = worker->steals.get();
    counters.steal_attempts = worker->steal_attempts.get();
    counters.wakeups = worker->wakeups.get();
  }
  return counters;
}

void BaseEventLoop::set_spin(std::chrono::nanoseconds longest) noexcept {
  spin_longest_ = std::max(longest, std::chrono::nanoseconds(0));
  spin_now_ = spin_longest_;
}

// ---- Tasks ----

void BaseEventLoop::set_task_factory(TaskFactory factory) {
  using Plain = void (*)(BaseEventLoop&, AnyTask, TaskOptions&);
  const Plain* plain = factory.target<Plain>();
  state_->eager = plain && *plain == &eager_task_factory;
  state_->has_factory = factory && !state_->eager;
  detail::update_special(*state_);
  factory_ = std::move(factory);
}

}  // namespace ouro
