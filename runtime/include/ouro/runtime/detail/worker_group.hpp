// Several loops that share floating tasks, as who starts and ends them sees it. What they do is in src/.
#pragma once

#include <cstdint>
#include <source_location>

#include <ouro/runtime/config.hpp>

namespace ouro {
class BaseEventLoop;
class Context;
}  // namespace ouro

namespace ouro::detail {

struct FutureState;
struct LoopState;
class WorkerGroup;

// The most loops that one group can have.
inline constexpr unsigned most_workers = 48;

// A group without loops yet. It lives until it has been ended and the last record of its loops has gone.
// Requires: 2 to most_workers.
OURO_EXPORT WorkerGroup* make_group(unsigned workers);
// `loop` takes the next place in the group; before it runs. Threads: one after the other.
OURO_EXPORT void join_group(WorkerGroup& group, BaseEventLoop& loop);
// Whether run_* may be called on a loop of the group: by who runs the group.
OURO_EXPORT void let_run(BaseEventLoop& loop, bool may) noexcept;
// From now on tasks that have not started never do: they end cancelled when a worker comes to them.
OURO_EXPORT void cancel_unstarted(WorkerGroup& group) noexcept;
// How many of the tasks that were made have not ended: if no more than this, at some moment during the call.
OURO_EXPORT std::uint64_t unfinished(const WorkerGroup& group) noexcept;
// The run is this task's from now on; nullptr: none. Before the task is scheduled.
OURO_EXPORT void set_main(WorkerGroup& group, FutureState* task) noexcept;
// Makes the record a floating task, with two references, for a worker that does not run yet on this thread.
OURO_EXPORT void schedule_floating(LoopState& worker, FutureState& state, const Context* context,
                                   std::source_location where);
// Nobody runs its loops any more. They may be destroyed after it, in any order.
OURO_EXPORT void end_group(WorkerGroup& group) noexcept;

// The group that the loop is one of, or nullptr.
OURO_EXPORT WorkerGroup* group_of(const BaseEventLoop& loop) noexcept;
OURO_EXPORT unsigned size_of(const WorkerGroup& group) noexcept;
OURO_EXPORT BaseEventLoop& worker_of(const WorkerGroup& group, unsigned index) noexcept;
// The place of the loop in its group.
OURO_EXPORT unsigned place_of(const BaseEventLoop& loop) noexcept;

}  // namespace ouro::detail
