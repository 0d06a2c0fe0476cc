// What contexts are made of: values of variables, immutable maps of them that contexts share, and the cells that say
// which map a context has now.
//
// Who has which. A task, a callback, a thread outside any loop has one word (ContextWord): 0, nothing; the address of a
// map, a snapshot of the context of whoever made it; or with the lowest bit set that of a cell. A snapshot costs one
// count, and becomes a cell when something is set, or when somebody asks for the Context. So tasks that only read never
// have one. A gathered child has 0 and reads through its gather's parent, which waits for it: it costs nothing at all.
//
// Nothing of this exists in a program that has never set a variable: it pays for a look at contexts_in_use() where a
// task or callback is made, and where a callback ends.
//
// The map is a trie with 16 branches a level over the variables' numbers, which are given in order and never again; so
// no two collide, and the first 16 lie in one node. Setting copies the nodes on the way, or replaces the value in place
// if no other context has seen them.
//
// Threads: values and maps are immutable but for their counts. A cell's map is changed under its lock, for a Context
// may be shared by tasks on several workers. A task's word goes from 0 or a snapshot to a cell, once, and what it was
// before lives as long as the cell: so a child may read it without a lock.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

#include <ouro/runtime/config.hpp>
#include <ouro/runtime/detail/atomic.hpp>
#include <ouro/runtime/detail/core.hpp>
#include <ouro/runtime/detail/spin_lock.hpp>

namespace ouro {
class Context;
}

namespace ouro::detail {

// A Context has been made or a variable set, some time, in this process. Relaxed: who has got anything from a thread
// that did so has got it by ways that order.
OURO_EXPORT extern constinit Atomic<bool> contexts_used;
inline bool contexts_in_use() noexcept { return contexts_used.load(std::memory_order_relaxed); }
OURO_EXPORT void use_contexts() noexcept;

// A value of a variable, in as many contexts as it was inherited by.
struct ContextValue {
  Atomic<std::uint32_t> refs{1};  // acquire-release at the last decrement, so that the end sees all uses
  const std::uint64_t variable;
  void (*const destroy)(ContextValue& self) noexcept;

  void add_ref() noexcept { refs.fetch_add(1, std::memory_order_relaxed); }
  void drop_ref() noexcept {
    if (refs.fetch_sub(1, std::memory_order_acq_rel) == 1) destroy(*this);
  }
};

// Copies a value that is trivially copyable, in few instructions: it may be called under a lock.
using CopyValue = void (*)(const ContextValue& value, void* to) noexcept;

// A node of a map. Behind it lie as many entries as `present` has bits: values, or where `branches` says so nodes.
struct ContextMap {
  Atomic<std::uint32_t> refs{1};  // as above
  std::uint16_t present = 0;
  std::uint16_t branches = 0;

  void** entries() noexcept { return reinterpret_cast<void**>(this + 1); }
  void add_ref() noexcept { refs.fetch_add(1, std::memory_order_relaxed); }
  OURO_EXPORT void drop_ref() noexcept;
};
static_assert(sizeof(ContextMap) == 8);

// Holds one reference.
template <class T>
class ContextRef {
 public:
  ContextRef() noexcept = default;
  explicit ContextRef(T* counted) noexcept : to_(counted) {}  // takes it over
  ContextRef(ContextRef&& other) noexcept : to_(std::exchange(other.to_, nullptr)) {}
  ContextRef(const ContextRef& other) noexcept : to_(other.to_) {
    if (to_) to_->add_ref();
  }
  ContextRef& operator=(ContextRef other) noexcept {
    std::swap(to_, other.to_);
    return *this;
  }
  ~ContextRef() {
    if (to_) to_->drop_ref();
  }
  static ContextRef share(T* counted) noexcept {
    if (counted) counted->add_ref();
    return ContextRef(counted);
  }

  T* get() const noexcept { return to_; }
  T* operator->() const noexcept { return to_; }
  T& operator*() const noexcept { return *to_; }
  explicit operator bool() const noexcept { return to_ != nullptr; }
  T* release() noexcept { return std::exchange(to_, nullptr); }

 private:
  T* to_ = nullptr;
};
using ValueRef = ContextRef<ContextValue>;
using MapRef = ContextRef<ContextMap>;

// A context: what can be changed, and is the same for everybody who refers to it.
class OURO_EXPORT ContextCell {
 public:
  // Throws: std::bad_alloc.
  static ContextCell* make(MapRef map);

  void add_ref() noexcept { refs_.fetch_add(1, std::memory_order_relaxed); }
  void drop_ref() noexcept;

  MapRef map() noexcept;  // as it is now
  // Gives the value that was there before. Throws: std::bad_alloc.
  ValueRef set(ValueRef value);
  void erase(std::uint64_t variable);
  ValueRef find(std::uint64_t variable) noexcept;
  // Lets `copy` read the value. False if there is none.
  bool read(std::uint64_t variable, void* to, CopyValue copy) noexcept;

  // For Context::run: false if somebody is inside.
  bool enter() noexcept { return !entered_.exchange(true, std::memory_order_acquire); }
  void leave() noexcept { entered_.store(false, std::memory_order_release); }

 private:
  explicit ContextCell(MapRef map) noexcept : first_(map), map_(std::move(map)) {}
  ~ContextCell() = default;

  Atomic<std::uint32_t> refs_{1};
  Atomic<bool> entered_{false};  // acquire and release are a pair: one run comes after the other
  SpinLock lock_;                // of map_
  const MapRef first_;           // for those who read the word that was a snapshot
  MapRef map_;
};
using CellRef = ContextRef<ContextCell>;

using ContextWord = std::uintptr_t;
inline ContextWord word_for(ContextCell& cell) noexcept { return reinterpret_cast<ContextWord>(&cell) | 1; }
OURO_EXPORT void drop_context_word(ContextWord word) noexcept;

// What the code that runs now sees.
OURO_EXPORT ValueRef current_value(std::uint64_t variable) noexcept;
OURO_EXPORT bool read_current_value(std::uint64_t variable, void* to, CopyValue copy) noexcept;
// The context of the code that runs now; made if it has none. Throws: std::bad_alloc.
OURO_EXPORT CellRef current_cell();
OURO_EXPORT MapRef current_map() noexcept;
// A copy of that, for a callback; nullptr if it is empty.
OURO_EXPORT ContextCell* inherited_cell();
// One reference to the cell of `context`.
OURO_EXPORT ContextCell* cell_of(const Context& context) noexcept;

// Gives a task that is being made its context: `given`, or a snapshot of the current one.
// Requires: nobody else knows the record. Throws: std::bad_alloc.
OURO_EXPORT void give_context(FutureState& task, const Context* given);
// The same for a child of a parent that goes on. Without memory it sees what its parent does.
OURO_EXPORT void give_fork_context(FutureState& child, FutureState& parent) noexcept;
OURO_EXPORT CellRef cell_of_task(FutureState& task);

// Makes a context the current one on this thread until it goes.
class OURO_EXPORT ContextScope {
 public:
  explicit ContextScope(ContextWord word) noexcept;  // lives as long as the scope
  ~ContextScope();
  ContextScope(const ContextScope&) = delete;

 private:
  ContextSlot* slot_;
  ContextSlot outer_;
  ContextWord word_;
};
// What a task left; 0 for nothing.
OURO_EXPORT ContextWord context_word(const FutureState& task) noexcept;
// A callback that had no context has set something.
void drop_loose_context(LoopState& loop) noexcept;

}  // namespace ouro::detail
