// The parts of tasks that are no templates.
#include <ouro/runtime/tasks.hpp>

#include <ouro/runtime/base_event_loop.hpp>
#include <ouro/runtime/detail/gather_state.hpp>

#include "drive.hpp"

namespace ouro {
namespace detail {

LoopState& state_of(BaseEventLoop& loop) noexcept { return loop.state(); }

namespace {

// Runs a new task up to its first suspension, inside whatever runs now.
inline void start_eagerly(LoopState& home, FutureState& state) {
  FutureState* outer = home.current;
  home.current = &state;
  state.flags = flag_task | flag_started;
  state.leaf = state.frame();
  drive_inline(state.frame());
  home.current = outer;
  if (!state.done()) link_task(state);
}

void apply_factory(LoopState& home, FutureState& state, TaskOptions& options) {
  add_ref(state);  // the view given to the factory is a handle
  home.loop->get_task_factory()(*home.loop, AnyTask(FutureHandle(state)), options);
}

// What a named task, a factory, debug mode or a closed loop add. Returns whether it starts at once.
OURO_NOINLINE bool prepare_specially(LoopState& home, FutureState& state, const TaskOptions& given) {
  try {
    if (home.closed) throw RuntimeError("Event loop is closed");
    if (home.debug) check_thread(home, "create_task");
    TaskOptions options = given;
    if (!options.name.empty()) set_name(state, options.name);
    if (!home.has_factory) return options.eager_start || home.eager;
    state.refs = 1;
    apply_factory(home, state, options);
    if (options.name.data() != given.name.data()) set_name(state, options.name);
    return options.eager_start;
  } catch (...) {
    // The record becomes a coroutine again, and its owner destroys it.
    state.clear(flag_task);
    state.refs = 0;
    --home.live;
    throw;
  }
}

}  // namespace

void schedule_task(LoopState& home, FutureState& state, const TaskOptions& options, std::source_location where) {
  state.created = where;
  adopt_task(state, home);
  bool eager = options.eager_start;
  if (OURO_UNLIKELY(home.special || !options.name.empty())) eager = prepare_specially(home, state, options);
  state.refs = 2;
  if (eager && home.running) return start_eagerly(home, state);
  link_task(state);
  home.ready.push_back(state);
}

}  // namespace detail

int AnyTask::uncancel() {
  detail::FutureState& state = handle_.state();
  if (state.cancel_requests > 0) --state.cancel_requests;
  if (state.cancel_requests == 0 && state.has(detail::flag_must_cancel)) {
    state.clear(detail::flag_must_cancel);
    detail::reset_unstarted(state);
  }
  return state.cancel_requests;
}

std::vector<std::source_location> AnyTask::get_stack() const {
  detail::FutureState& state = handle_.state();
  std::vector<std::source_location> stack;
  if (state.done() || !state.has(detail::flag_started) || !state.waiting_on) return stack;
  stack.push_back(state.waiting_on->site);
  if (state.has(detail::flag_foreign)) return stack;
  void* frame = state.leaf;
  while (frame != state.frame()) {
    auto* inner = reinterpret_cast<detail::FutureState*>(static_cast<char*>(frame) + sizeof(detail::FrameHeader));
    stack.push_back(inner->awaiter->site);
    frame = inner->awaiter->parent.address();
  }
  return stack;
}

void eager_task_factory(BaseEventLoop&, AnyTask, TaskOptions& options) { options.eager_start = true; }

namespace {

AnyTask handle_to(detail::FutureState& state) {
  detail::add_ref(state);
  return AnyTask(detail::FutureHandle(state));
}

AnyTask current_of(detail::LoopState& loop) { return loop.current ? handle_to(*loop.current) : AnyTask(); }

std::vector<AnyTask> tasks_of(detail::LoopState& loop) {
  std::vector<AnyTask> tasks;
  for (detail::FutureState* task = loop.tasks; task; task = task->link.next) tasks.push_back(handle_to(*task));
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
