// The parts of context variables that are no templates: which context the running code has, and the map of values.
//
// Which one. On a thread without a loop, the thread's. On a loop's: that of a callback or of Context::run, if it was
// entered in what runs now (ContextSlot); else the task's, or if that is a gathered child that has none, its parent's.
// A callback that has none and sets something gets one in the loop's slot, and the callback's end takes it away.
#include <ouro/runtime/contextvars.hpp>

#include <string>
#include <utility>

#include <ouro/runtime/base_event_loop.hpp>
#include <ouro/runtime/detail/gather_state.hpp>
#include <ouro/runtime/events.hpp>
#include <ouro/runtime/tasks.hpp>

#include "context_map.hpp"
#include "drive.hpp"
#include "shared.hpp"

namespace ouro::detail {

constinit Atomic<bool> contexts_used{false};

void use_contexts() noexcept {
  if (!contexts_in_use()) contexts_used.store(true, std::memory_order_relaxed);
}

std::uint64_t new_context_variable() noexcept {
  static Atomic<std::uint64_t> last{0};
  return last.fetch_add(1, std::memory_order_relaxed) + 1;
}

// ---- Words ----

namespace {

ContextCell* cell_in(ContextWord word) noexcept {
  return word & 1 ? reinterpret_cast<ContextCell*>(word - 1) : nullptr;
}
ContextMap* map_in(ContextWord word) noexcept { return reinterpret_cast<ContextMap*>(word); }

// What is marked and empty: a fork's child, whose parent may set something later.
ContextMap* empty_map() noexcept {
  static ContextMap empty;  // its count never comes to zero
  return &empty;
}

// Out of line: in line g++ 12 takes the word for an address of nothing, and warns.
OURO_NOINLINE MapRef map_of(ContextWord word) noexcept {
  if (ContextCell* cell = cell_in(word)) return cell->map();
  return MapRef::share(map_in(word));
}

}  // namespace

void drop_context_word(ContextWord word) noexcept {
  if (ContextCell* cell = cell_in(word)) return cell->drop_ref();
  if (word) map_in(word)->drop_ref();
}

// ---- Whose ----

namespace {

// Of a thread without a loop.
struct ThreadContext {
  ContextSlot slot;
  ~ThreadContext() { drop_context_word(std::exchange(slot.word, 0)); }
};

OURO_NOINLINE ContextSlot& thread_slot() noexcept {
  thread_local ThreadContext own;
  return own.slot;
}

ContextWord own_word(const FutureState& task) noexcept {
  // Acquire: pairs with rare_of() and with keep(), of an ancestor that another thread gives a name or a Context to.
  const std::uintptr_t rare = __atomic_load_n(&task.rare, __ATOMIC_ACQUIRE);
  if (rare == 0 || rare & 1) return 0;
  return __atomic_load_n(&reinterpret_cast<const Rare*>(rare)->context, __ATOMIC_ACQUIRE);
}

// The slot that stands for what runs now, or nullptr: that is `task`, by itself.
ContextSlot* current_slot(FutureState*& task) noexcept {
  LoopState* loop = running_loop;
  if (!loop) return &thread_slot();
  task = loop->current;
  if (!task || (loop->context.word != 0 && loop->context.owner == task)) return &loop->context;
  return nullptr;
}

ContextWord current_word() noexcept {
  FutureState* task = nullptr;
  if (const ContextSlot* slot = current_slot(task)) return slot->owner == task ? slot->word : 0;
  return context_word(*task);
}

// Makes a task's context one that can be changed. `seen`: the values that it has so far.
CellRef keep(FutureState& task, MapRef seen) {
  CellRef made(ContextCell::make(std::move(seen)));
  ContextWord before = 0;
  {
    const MaybeLock lock(task);
    Rare& rare = rare_of(task);
    if (ContextCell* cell = cell_in(rare.context)) return CellRef::share(cell);
    before = rare.context;
    // Release: pairs with own_word(). Who has read what was there before may go on with it: the cell refers to it.
    __atomic_store_n(&rare.context, word_for(*CellRef(made).release()), __ATOMIC_RELEASE);
  }
  drop_context_word(before);
  return made;
}

}  // namespace

ContextWord context_word(const FutureState& of) noexcept {
  for (const FutureState* task = &of;;) {
    if (const ContextWord word = own_word(*task)) return word;
    if (!task->has(flag_gathered)) return 0;
    task = task->gather->parent_task();
  }
}

CellRef current_cell() {
  FutureState* task = nullptr;
  ContextSlot* slot = current_slot(task);
  if (!slot) {
    if (ContextCell* cell = cell_in(own_word(*task))) return CellRef::share(cell);
    return keep(*task, map_of(context_word(*task)));
  }
  const ContextWord word = slot->owner == task ? slot->word : 0;
  if (ContextCell* cell = cell_in(word)) return CellRef::share(cell);
  CellRef made(ContextCell::make(map_of(word)));
  // What was there is nothing, or a snapshot that a ContextScope was lent.
  slot->word = word_for(*CellRef(made).release());
  slot->owner = task;
  return made;
}

CellRef cell_of_task(FutureState& task) {
  use_contexts();
  MapRef seen;
  {
    // While its lock is held a shared task does not end, and so its parents are there.
    const MaybeLock lock(task);
    if (ContextCell* cell = cell_in(own_word(task))) return CellRef::share(cell);
    seen = map_of(context_word(task));
  }
  return keep(task, std::move(seen));
}

MapRef current_map() noexcept { return map_of(current_word()); }

ContextCell* inherited_cell() {
  MapRef map = current_map();
  return map ? ContextCell::make(std::move(map)) : nullptr;
}

void give_context(FutureState& task, const Context* given) {
  ContextWord word = given ? word_for(*cell_of(*given)) : reinterpret_cast<ContextWord>(current_map().release());
  if (word == 0) return;
  try {
    const MaybeLock lock(task);
    std::swap(rare_of(task).context, word);
  } catch (...) {
    drop_context_word(word);
    throw;
  }
  drop_context_word(word);  // a task factory gave it another
}

void give_fork_context(FutureState& child, FutureState& parent) noexcept {
  MapRef map = map_of(context_word(parent));
  if (!map) map = MapRef::share(empty_map());
  try {
    rare_of(child).context = reinterpret_cast<ContextWord>(map.get());
    map.release();
  } catch (...) {
    // It sees what the parent sees.
  }
}

ContextScope::ContextScope(ContextWord word) noexcept : word_(word) {
  LoopState* loop = running_loop;
  slot_ = loop ? &loop->context : &thread_slot();
  outer_ = std::exchange(*slot_, ContextSlot{word, loop ? loop->current : nullptr, true});
}

ContextScope::~ContextScope() {
  const ContextSlot inner = std::exchange(*slot_, outer_);
  if (inner.word != word_) drop_context_word(inner.word);  // something was set that nobody sees
}

OURO_NOINLINE void drop_loose_context(LoopState& loop) noexcept {
  if (!loop.context.scoped) drop_context_word(std::exchange(loop.context, ContextSlot()).word);
}

// ---- Values ----

ValueRef current_value(std::uint64_t variable) noexcept {
  const ContextWord word = current_word();
  if (ContextCell* cell = cell_in(word)) return cell->find(variable);
  return ValueRef::share(find_value(map_in(word), variable));
}

bool read_current_value(std::uint64_t variable, void* to, CopyValue copy) noexcept {
  const ContextWord word = current_word();
  if (ContextCell* cell = cell_in(word)) return cell->read(variable, to, copy);
  const ContextValue* value = find_value(map_in(word), variable);
  if (value) copy(*value, to);
  return value != nullptr;
}

TokenState set_current_value(ValueRef value) {
  const std::uint64_t variable = value->variable;
  CellRef cell = current_cell();
  ValueRef old = cell->set(std::move(value));
  return TokenState(variable, std::move(cell), std::move(old));
}

void TokenState::reset(std::uint64_t variable, const std::string& name) {
  if (variable_ == 0) {
    throw RuntimeError("reset of ContextVar '" + name + "': the token has already been used once",
                       "each set() gives a token for one reset()");
  }
  if (variable_ != variable) {
    throw ValueError("reset of ContextVar '" + name + "': the token was created by a different ContextVar");
  }
  if (cell_in(current_word()) != context_.get()) {
    throw ValueError("reset of ContextVar '" + name +
                     "': the token was created in a different Context; reset it in the task that called set()");
  }
  if (old_) {
    context_->set(old_);
  } else {
    context_->erase(variable);
  }
  variable_ = 0;
}

void throw_no_context_value(const std::string& name) {
  throw LookupError("get of ContextVar '" + name + "': it has no value in this context",
                    "set() it here or before the task is created, or give a default");
}

// ---- Cells ----

ContextCell* ContextCell::make(MapRef map) {
  return ::new (allocate_frame(sizeof(ContextCell))) ContextCell(std::move(map));
}

void ContextCell::drop_ref() noexcept {
  if (refs_.fetch_sub(1, std::memory_order_acq_rel) != 1) return;
  this->~ContextCell();
  free_frame(this, sizeof(ContextCell));
}

MapRef ContextCell::map() noexcept {
  const SpinLock::Hold hold(lock_);
  return map_;
}

ValueRef ContextCell::find(std::uint64_t variable) noexcept {
  const SpinLock::Hold hold(lock_);
  return ValueRef::share(find_value(map_.get(), variable));
}

bool ContextCell::read(std::uint64_t variable, void* to, CopyValue copy) noexcept {
  const SpinLock::Hold hold(lock_);
  const ContextValue* value = find_value(map_.get(), variable);
  if (value) copy(*value, to);
  return value != nullptr;
}

// Memory is asked for, and values go, without the lock.
ValueRef ContextCell::set(ValueRef value) {
  for (;;) {
    MapRef seen;
    {
      const SpinLock::Hold hold(lock_);
      if (ContextValue** place = place_to_replace(map_.get(), value->variable)) {
        return ValueRef(std::exchange(*place, value.release()));
      }
      seen = map_;
    }
    MapRef made = map_with(seen.get(), value);
    const SpinLock::Hold hold(lock_);
    if (map_.get() != seen.get()) continue;
    std::swap(seen, map_);
    std::swap(map_, made);
    ValueRef old = ValueRef::share(find_value(seen.get(), value->variable));
    return old;
  }
}

void ContextCell::erase(std::uint64_t variable) {
  for (;;) {
    MapRef seen = map();
    MapRef made = map_without(seen.get(), variable);
    const SpinLock::Hold hold(lock_);
    if (map_.get() != seen.get()) continue;
    std::swap(map_, made);
    return;
  }
}

ContextCell* cell_of(const Context& context) noexcept { return CellRef(context.cell_).release(); }

}  // namespace ouro::detail

namespace ouro {

Context::Context() : cell_(detail::ContextCell::make({})) { detail::use_contexts(); }

Context Context::copy() const { return Context(detail::CellRef(detail::ContextCell::make(cell_->map()))); }

std::size_t Context::size() const noexcept { return detail::count_values(cell_->map().get()); }

Context copy_context() {
  detail::use_contexts();
  return Context(detail::CellRef(detail::ContextCell::make(detail::current_map())));
}

detail::ContextCell& Context::Entered::enter(detail::ContextCell& cell) {
  const bool inside = detail::cell_in(detail::current_word()) == &cell;
  if (inside || !cell.enter()) {
    throw RuntimeError("cannot enter context: somebody runs in it already", "copy() it, and run in the copy");
  }
  return cell;
}

Context::Entered::Entered(detail::ContextCell& cell) : cell_(enter(cell)), scope_(detail::word_for(cell)) {}

Context Handle::get_context() const {
  if (detail::ContextCell* cell = node_ ? node_->context() : nullptr) {
    return Context(detail::CellRef::share(cell));
  }
  return Context();
}

Context AnyTask::get_context() const { return Context(detail::cell_of_task(handle_.state())); }

}  // namespace ouro
