// Which task waits for whom, and who among them waits for ever.
//
// The graph is a picture of a moment in which nothing runs; it changes nothing. A node is a suspended task. From it an
// edge leads to each task whose doing it is that the wait ends: the awaited one, each child of a gather, each member of
// a group, who holds a lock. A task that waits for all of them is stuck if one of these is; a task that waits for the
// first of several (wait() with FIRST_COMPLETED, as_completed) if all of these are. Who waits for something that has no
// owner (an event, a queue, a plain future, a lock whose holder has ended) may be helped by anybody, and is not stuck.
// So: those who can still be helped are marked, and all to whom that leads, until there are no more; what is left are
// rings of tasks that wait for each other, and those that need one of them.
//
// A lock has no owner, as asyncio's has none: any task may release it. It remembers who acquired it, and that is taken
// for the holder. What a map has not made yet, and the readers beyond the fourth of a lock, are not seen; that
// hides a ring, and invents none.
//
// Threads: the one that looks, while no other runs what is looked at: src/deadlock.cpp says how that is.
#pragma once

#include <cstddef>
#include <cstdint>
#include <source_location>
#include <string>
#include <vector>

#include <ouro/runtime/detail/core.hpp>
#include <ouro/runtime/detail/gather_state.hpp>
#include <ouro/runtime/detail/wait_list.hpp>

namespace ouro::detail {

// Calls f with the place of each await of a suspended task, innermost first, until it gives false.
template <class F>
void walk_awaits(FutureState& task, F&& f) {
  if (!f(task.waiting_on->site) || task.has(flag_foreign)) return;
  for (void* frame = task.leaf; frame != task.frame();) {
    auto* inner = reinterpret_cast<FutureState*>(static_cast<char*>(frame) + sizeof(FrameHeader));
    if (!f(inner->awaiter->site)) return;
    frame = inner->awaiter->parent.address();
  }
}

// What one wait needs: filled in by what is waited for (WaiteeKind::needs). Each throws std::bad_alloc.
class Needs {
 public:
  // One of them is enough.
  void any_of() noexcept { any_ = true; }
  // The future or task has to be done; nothing, if it is, or is nullptr.
  void future(const FutureState* of);
  // The lock has to be released by its holder, who may be unknown. `shared`: it may also be on another loop.
  void holder(const Holder& holder, bool shared);
  // The object is gone, and nobody will end the wait but a cancellation.
  void destroyed() noexcept { destroyed_ = true; }

 private:
  friend class WaitGraph;
  enum class Kind : std::uint8_t { task, future, holder, shared_holder };
  struct Need {
    Kind kind;
    std::uint32_t newest;          // of a holder
    std::uint32_t newest_named;    // likewise
    std::uint32_t target;          // the node, once it is known
    const FutureState* record;     // only its address is used
    std::source_location created;  // of a plain future

    bool is_lock() const noexcept { return kind == Kind::holder || kind == Kind::shared_holder; }
  };

  std::vector<Need> all_;  // of all nodes, one after the other
  bool any_ = false;
  bool destroyed_ = false;
};

class WaitGraph {
 public:
  // Adds a task that has not ended; in a group, under its lock. False: it waits for something that is not the
  // library's, and nobody can say anything.
  // Throws: std::bad_alloc, as all that follows.
  bool add(FutureState& task);
  // Adds the children of a gather that belongs to one loop. False: see add().
  bool add_children(GatherState& gather);
  // All have been added: finds out who is stuck.
  void solve();

  std::size_t size() const noexcept { return nodes_.size(); }
  bool is_stuck(const FutureState& task) const noexcept;
  // The first task that is, or nullptr.
  FutureState* first_stuck() const noexcept;
  // The ring for which the stuck task waits, and how the task comes to wait for that.
  std::string describe_ring(const FutureState& from);
  // Who waits where for what: all, but no more than a screen holds.
  std::string describe_all();

 private:
  static constexpr std::uint32_t none = 0xffffffffU;
  struct Node {
    FutureState* task;
    const FutureState* gather;  // whose gather it is a child of; or nullptr
    std::uint32_t number;       // of its default name; 0: it has none
    std::uint32_t named_as;     // likewise, of one that was made with a name
    const char* what;
    std::source_location site;
    std::uint32_t first;  // of its needs
    std::uint32_t end;
    std::uint32_t child = none;  // the newest child of its gather; their chain
    std::uint32_t next_child = none;
    std::uint32_t parent = none;
    std::uint32_t left = 0;  // how many of its needs are not known to be met some day
    bool any;
    bool destroyed;
    bool stuck = true;
  };

  std::uint32_t find(const FutureState* task) const noexcept;
  static bool is_older(const Node& node, const Needs::Need& lock) noexcept;
  void resolve();
  std::uint32_t next_stuck(const Node& node, const Needs::Need** by) const noexcept;
  std::string name(std::uint32_t at) const;
  std::string place(const Node& node) const;
  std::string holder_text(const Node& node, const Needs::Need& need) const;
  std::string subject(const Node& node, const Needs::Need& need) const;
  static std::string way_of_waiting(const Node& node, const Needs::Need* need);
  std::string describe(std::uint32_t at) const;

  Needs needs_;
  std::vector<Node> nodes_;
  std::vector<std::pair<const FutureState*, std::uint32_t>> places_;  // sorted by address
};

}  // namespace ouro::detail
