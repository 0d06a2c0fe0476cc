// What a Handle refers to: a callback in the ready queue, or on its way there through a timer or from another thread.
#pragma once

#include <cstdint>
#include <source_location>
#include <string>
#include <utility>

#include <ouro/runtime/config.hpp>
#include <ouro/runtime/detail/atomic.hpp>
#include <ouro/runtime/detail/context_state.hpp>
#include <ouro/runtime/detail/core.hpp>
#include <ouro/runtime/detail/frame_pool.hpp>
#include <ouro/runtime/detail/timer_node.hpp>

namespace ouro::detail {

void disarm_timer(LoopState& home, TimerNode& timer) noexcept;

// Imitates a frame, so that the loop resumes it like a task.
//
// `state` decides who runs or drops the callable: pending -> running by the loop, pending -> cancelled by whoever
// cancels (any thread, for a node made by call_soon_threadsafe). The winner of that exchange alone touches the
// callable; the exchange is acquire-release, so that it sees the callable as it was made. `refs` counts the handles and
// the loop's own reference; its last decrement (acquire-release) frees the node. Nodes of one thread (not
// `threadsafe`) use plain loads and stores on both.
//
// A node with a context has the address of its cell behind it: those without are no larger, and need no look at it.
class OURO_EXPORT CallbackNode : public FrameHeader, public ReadyNode {
 public:
  enum State : std::uint8_t { pending, running, done, cancelled };
  // What a node does with its callable: one constant for each type of these.
  struct Kind {
    void (*call)(CallbackNode&);
    void (*drop)(CallbackNode&) noexcept;
    std::uint32_t bytes;  // of the node
  };

  // Threads: any if `threadsafe`, else the loop's.
  void cancel() noexcept;
  bool is_cancelled() const noexcept { return state_.load(std::memory_order_acquire) == cancelled; }

  // Two references, a handle's and the loop's, before anybody else sees the node.
  void begin_shared() noexcept { refs_.store(2, std::memory_order_relaxed); }

  void add_ref() noexcept {
    if (is_threadsafe()) {
      refs_.fetch_add(1, std::memory_order_relaxed);
    } else {
      refs_.store(refs_.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
    }
  }
  void drop_ref() noexcept {
    if (ways_ != 0) return drop_ref_otherwise();
    const std::uint32_t left = refs_.load(std::memory_order_relaxed) - 1;
    refs_.store(left, std::memory_order_relaxed);
    if (left == 0) free(*this);
  }

  // True if what imitates a frame is a callback's node.
  static bool is_one(const FrameHeader& header) noexcept {
    return header.resume == &CallbackNode::run || header.resume == &CallbackNode::run_in_context;
  }

  // nullptr: it has none.
  ContextCell* context() noexcept { return ways_ & way_context ? *cell_place() : nullptr; }

  // The loop lets go of a node that will never run.
  void abandon() noexcept;

  LoopState* home = nullptr;
  std::source_location site;
  TimerNode timer;  // armed for call_later and call_at
  union {
    TimePoint when;  // written by call_later and call_at
  };

 protected:
  static constexpr std::uint8_t way_threadsafe = 1;
  static constexpr std::uint8_t way_context = 2;

  CallbackNode(LoopState& loop, std::source_location where, bool threadsafe, const Kind& kind) noexcept  // NOLINT: when
      : FrameHeader{&CallbackNode::run, nullptr},
        ReadyNode{nullptr, static_cast<FrameHeader*>(this)},
        home(&loop),
        site(where),
        kind_(&kind),
        ways_(threadsafe ? way_threadsafe : 0) {}
  ~CallbackNode() = default;

  // There is room for its address behind the node, whose it is from now on.
  void set_context(ContextCell& cell) noexcept {
    ways_ |= way_context;
    *cell_place() = &cell;
    resume = &CallbackNode::run_in_context;
  }

 private:
  static void run(void* leaf);
  static void run_in_context(void* leaf);
  static void free(CallbackNode& node) noexcept;
  void drop_ref_otherwise() noexcept;
  bool is_threadsafe() const noexcept { return (ways_ & way_threadsafe) != 0; }
  ContextCell** cell_place() noexcept {
    return reinterpret_cast<ContextCell**>(reinterpret_cast<char*>(this) + kind_->bytes);
  }
  bool begin(State to) noexcept;
  void report_failure(const std::string& detail) noexcept;

  const Kind* kind_;
  Atomic<std::uint32_t> refs_{1};
  Atomic<State> state_{pending};
  std::uint8_t ways_;  // constant once others see the node
};

template <class F>
class TypedCallbackNode final : public CallbackNode {
 public:
  template <class G>
  static TypedCallbackNode* make(LoopState& loop, std::source_location where, bool threadsafe, G&& callable) {
    return make_with(0, loop, where, threadsafe, std::forward<G>(callable));
  }
  // The same with a context: the one given, or (nullptr) a copy of the current one if there is any.
  template <class G>
  OURO_INLINE static TypedCallbackNode* make_in(const Context* given, LoopState& loop, std::source_location where,
                                                bool threadsafe, G&& callable) {
    if (!given && OURO_LIKELY(!contexts_in_use())) return make(loop, where, threadsafe, std::forward<G>(callable));
    CellRef cell(given ? cell_of(*given) : inherited_cell());
    if (!cell) return make(loop, where, threadsafe, std::forward<G>(callable));
    auto* const node = make_with(sizeof(ContextCell*), loop, where, threadsafe, std::forward<G>(callable));
    node->set_context(*cell.release());
    return node;
  }

  F& callable() noexcept { return callable_; }

 private:
  template <class G>
  OURO_INLINE static TypedCallbackNode* make_with(std::size_t behind, LoopState& loop, std::source_location where,
                                                  bool threadsafe, G&& callable) {
    static_assert(alignof(F) <= 16, "an over-aligned callback: capture a pointer to what is over-aligned");
    void* memory = allocate_frame(sizeof(TypedCallbackNode) + behind);
    try {
      return ::new (memory) TypedCallbackNode(loop, where, threadsafe, std::forward<G>(callable));
    } catch (...) {
      free_frame(memory, sizeof(TypedCallbackNode) + behind);
      throw;
    }
  }
  template <class G>
  TypedCallbackNode(LoopState& loop, std::source_location where, bool threadsafe, G&& callable)
      : CallbackNode(loop, where, threadsafe, kind), callable_(std::forward<G>(callable)) {}
  ~TypedCallbackNode() {}  // NOLINT: drop() destroys the callable

  static void call(CallbackNode& node) { static_cast<void>(static_cast<TypedCallbackNode&>(node).callable_()); }
  static void drop(CallbackNode& node) noexcept { static_cast<TypedCallbackNode&>(node).callable_.~F(); }
  static const Kind kind;

  union {
    F callable_;
  };
};

template <class F>
constexpr CallbackNode::Kind TypedCallbackNode<F>::kind{&call, &drop, sizeof(TypedCallbackNode)};

// Arms a timer on its loop's thread; lets go of it if that never comes to it.
class ArmLater {
 public:
  ArmLater(BaseEventLoop& loop, CallbackNode& node) noexcept : loop_(&loop), node_(&node) {}
  ArmLater(ArmLater&& other) noexcept : loop_(other.loop_), node_(std::exchange(other.node_, nullptr)) {}
  ~ArmLater() {
    if (node_) node_->abandon();
  }
  OURO_EXPORT void operator()();

 private:
  BaseEventLoop* loop_;
  CallbackNode* node_;
};

}  // namespace ouro::detail
