// The parts of tasks that are no templates.
#include <ouro/runtime/tasks.hpp>

#include <optional>

#include <ouro/runtime/base_event_loop.hpp>
#include <ouro/runtime/detail/gather_state.hpp>

#include "drive.hpp"
#include "shared.hpp"
#include "wait_graph.hpp"
#include "worker.hpp"

namespace ouro {
namespace detail {

LoopState& state_of(BaseEventLoop& loop) noexcept { return loop.state(); }

void suspended_eagerly(LoopState& home, FutureState& state) noexcept {
  leave_first_step(state);
  number_task(state, home);
  link_task(state);
}

namespace {

// Runs a new task up to its first suspension, inside whatever runs now.
inline void start_eagerly(LoopState& home, FutureState& state) {
  FutureState* outer = home.current;
  home.current = &state;
  state.leaf = state.frame();
  drive_here(state.leaf);
  home.current = outer;
  if (!state.done()) suspended_eagerly(home, state);
}

// The task has no number that would say which of two is older; so it gets one of another series.
void name_new(LoopState& home, FutureState& state, std::string_view name) {
  set_name(state, name);
  rare_if(state)->named_as = home.last_named += home.number_step;
}

// Lets the factory see the task and change the options. If it throws, the record becomes a coroutine again, and its
// owner destroys it; unless somebody kept a handle: then it stays, as a task that was cancelled before it ran.
void apply_factory(LoopState& home, FutureState& state, TaskOptions& options) {
  const std::string_view name = options.name;
  state.refs = 2;  // the view given to the factory is a handle; the other is ours, for the time of the call
  try {
    home.loop->get_task_factory()(*home.loop, AnyTask(FutureHandle(state)), options);
    if (options.name.data() != name.data()) set_name(state, options.name);
  } catch (...) {
    if (state.refs == 1) {
      // flag_task stays: nobody complains that the coroutine was never awaited.
      delete_rare(state);
      set_stage(state, 0, flag_task);
      --home.live;
    } else {
      // The coroutine is one of the handles from now on.
      state.clear(flag_must_cancel);
      state.set_outcome(outcome_cancelled);
      settle(state);
    }
    throw;
  }
  --state.refs;
}

// Its name and its context.
void equip(LoopState& home, FutureState& state, const TaskOptions& options) {
  if (!options.name.empty()) name_new(home, state, options.name);
  if (OURO_LIKELY(!contexts_in_use())) return;
  give_context(state, options.context);
  if (Rare* rare = state.rare ? rare_if(state) : nullptr; rare && !rare->named) rare->number = new_number(home);
}

// A named task, one with a context, one that a factory sees, debug mode, a closed loop.
OURO_NOINLINE void schedule_specially(LoopState& home, FutureState& state, const TaskOptions& given) {
  TaskOptions options = given;
  if (home.closed) throw RuntimeError("Event loop is closed", "make a new loop with new_event_loop()");
  if (home.debug) check_thread(home, "create_task");
  equip(home, state, options);
  state.home = &home;
  ++home.live;
  number_task(state, home);
  state.leaf = const_cast<FrameHeader*>(&first_step);
  state.set(flag_task);
  if (home.has_factory) apply_factory(home, state, options);
  if (options.context != given.context) give_context(state, options.context);
  state.refs += 2;
  if ((options.eager_start || home.eager) && home.running && !state.has(flag_must_cancel)) {
    state.set(flag_started);
    return start_eagerly(home, state);
  }
  link_task(state);
  home.ready.push_back(state);
}

}  // namespace

namespace {

// As apply_factory(), for a shared record: as soon as the factory has seen it, handles may be used on any worker.
void apply_factory_in_group(LoopState& home, FutureState& state, TaskOptions& options) {
  const std::string_view name = options.name;
  try {
    add_ref(state);
    home.loop->get_task_factory()(*home.loop, AnyTask(FutureHandle(state)), options);
    if (options.name.data() != name.data()) set_name(state, options.name);
  } catch (...) {
    // One is the coroutine's. If there is no other, none can come, for no list names the task yet.
    if (handles_of(state) == 1) {
      delete_rare(state);
      set_stage(state, 0, flag_task);
      discount_record_in_group(home);
    } else {
      state.set_outcome(outcome_cancelled);
      settle_shared(state);
      leave_shared(state);
    }
    throw;
  }
}

bool is_cancel_due(const FutureState& task) noexcept {
  return (__atomic_load_n(&task.cancel_word, __ATOMIC_RELAXED) & word_due) != 0;
}

}  // namespace

// A task of a group. `home`: the loop to which it is pinned, or for a floating one the worker that makes it.
OURO_NOINLINE void schedule_in_group(LoopState& home, bool floats, FutureState& state, const TaskOptions& given) {
  TaskOptions options = given;
  if (home.closed) throw RuntimeError("Event loop is closed", "make a new loop with new_event_loop()");
  LoopState* here = running_loop;
  if (home.debug && !floats) check_thread(home, "create_task");
  equip(here && here->worker ? *here : home, state, options);
  state.home = &home;
  state.leaf = const_cast<FrameHeader*>(&first_step);
  if (state.rare == 0) state.rare = std::uintptr_t{new_number(home)} << 1 | 1;
  count_record(home);
  set_stage(state, 1 | own_ref, state.all_flags() | flag_task | flag_shared,
            state.cancel_word | (floats ? unsigned{word_floating} : 0U));
  // From here on others may see it. Until it is scheduled nobody else writes its flags or its leaf.
  if (home.has_factory) apply_factory_in_group(home, state, options);
  if (options.context != given.context) give_context(state, options.context);
  Worker& counter = here && here->worker ? *here->worker : *home.worker;
  counter.made.add_release(1);
  const bool local = here == &home;
  if ((options.eager_start || home.eager) && local && home.running && !is_cancel_due(state)) {
    state.set(flag_started);
    FutureState* outer = home.current;
    FutureState* hop = std::exchange(home.hop, nullptr);
    home.current = &state;
    state.leaf = state.frame();
    drive_here(state.leaf);
    home.current = outer;
    // What it left to be run next would wait for the caller.
    if (FutureState* next = std::exchange(home.hop, hop)) {
      home.worker->push(next);
      home.worker->group.work_visible();
    }
    // An awaiter that is not the library's has told nobody. A floating one may run elsewhere by now.
    if (!floats && !state.done()) publish(state);
    return;
  }
  if (floats) {
    home.worker->push(&state);
    home.worker->group.work_visible();
    return;
  }
  publish(state);
  if (local || (!here && home.worker->index == 0)) {  // or before the first loop runs, on its thread
    home.ready.push_back(state);
  } else {
    post_to(home, state);
  }
}

void schedule_floating(LoopState& worker, FutureState& state, const Context* context, std::source_location where) {
  state.created = where;
  TaskOptions options;
  options.context = context;
  schedule_in_group(worker, true, state, options);
}

void schedule_task(LoopState* given, FutureState& state, const TaskOptions& options, std::source_location where) {
  const bool inherits = !given;
  LoopState* on = !given || given == floats() ? running_loop : given;
  if (OURO_UNLIKELY(!on)) require_running();
  LoopState& home = *on;
  state.created = where;
  if (OURO_UNLIKELY(home.worker != nullptr)) {
    const bool as_current = inherits && home.current && home.current->floating();
    return schedule_in_group(home, as_current || given == floats(), state, options);
  }
  if (OURO_UNLIKELY(home.special || !options.name.empty() || contexts_in_use())) {
    return schedule_specially(home, state, options);
  }
  state.home = &home;
  ++home.live;
  number_task(state, home);
  set_stage(state, 2, flag_task);
  state.leaf = const_cast<FrameHeader*>(&first_step);
  link_task(state);
  home.ready.push_back(state);
}

unsigned take_request_back(FutureState& task) noexcept {
  if (OURO_UNLIKELY(task.has(flag_shared))) {
    RecordLock lock(task);
    if (task.cancel_requests() > 0) lock.forget_request();
    if (task.cancel_requests() == 0) lock.clear(word_due);
  } else if (task.cancel_requests() > 0) {
    --task.cancel_word;
  }
  // Of a floating task the flag is its own thread's, which is the one that may call this.
  if (task.cancel_requests() == 0 && task.has(flag_must_cancel)) {
    task.clear(flag_must_cancel);
    reset_unstarted(task);
  }
  return task.cancel_requests();
}

}  // namespace detail

int AnyTask::uncancel() { return static_cast<int>(detail::take_request_back(handle_.state())); }

std::vector<std::source_location> AnyTask::get_stack() const {
  detail::FutureState& state = handle_.state();
  std::vector<std::source_location> stack;
  std::optional<detail::RecordLock> lock;
  if (state.floating()) {
    lock.emplace(state);
  } else if (state.has(detail::flag_shared) && detail::running_state() != state.home) {
    return stack;  // its own thread may be running it
  }
  if (state.done() || !state.has(detail::flag_started) || !state.waiting_on) return stack;
  detail::walk_awaits(state, [&stack](const std::source_location& site) {
    stack.push_back(site);
    return true;
  });
  return stack;
}

void eager_task_factory(BaseEventLoop&, AnyTask, TaskOptions& options) { options.eager_start = true; }

namespace {

AnyTask handle_to(detail::FutureState& state) {
  detail::open_to_handles(state);
  detail::add_ref(state);
  return AnyTask(detail::FutureHandle(state));
}

AnyTask current_of(detail::LoopState& loop) { return loop.current ? handle_to(*loop.current) : AnyTask(); }

std::vector<AnyTask> tasks_of(detail::LoopState& loop) {
  std::vector<AnyTask> tasks;
  if (loop.worker) {
    for (detail::FutureHandle& task : detail::all_shared_tasks(loop.worker->group)) tasks.emplace_back(std::move(task));
    return tasks;
  }
  for (detail::FutureState* task = loop.tasks; task; task = task->link.next) tasks.push_back(handle_to(*task));
  // The first step of an eager task, or of a map's child: it is in no list before it suspends.
  if (detail::FutureState* current = loop.current; current && !current->done()) {
    const bool listed = current->has(detail::flag_gathered) ? current->child.position != detail::not_listed
                                                            : current->has(detail::flag_linked);
    if (!listed) tasks.push_back(handle_to(*current));
  }
  for (detail::GatherState* gather = loop.gathers; gather; gather = gather->older) {
    gather->each_child([&](detail::FutureState& child) { tasks.push_back(handle_to(child)); });
  }
  return tasks;
}

}  // namespace

AnyTask current_task() { return current_of(detail::require_running()); }
AnyTask current_task(BaseEventLoop& loop) { return current_of(loop.state()); }
std::vector<AnyTask> all_tasks() { return tasks_of(detail::require_running()); }
std::vector<AnyTask> all_tasks(BaseEventLoop& loop) { return tasks_of(loop.state()); }

}  // namespace ouro
