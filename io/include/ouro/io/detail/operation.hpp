// One operation that the kernel works on: the base of what an awaiter or a transport keeps while it waits.
//
// An operation lives inside its owner and costs no allocation. The kernel knows it by its address (the user_data of its
// SQE), so from the moment a Proactor starts it until its last CQE the object must neither move nor die, nor may the
// memory that the kernel reads or writes for it. Its states:
//
//     idle ──start──▶ submitted ──last CQE──▶ done ──start──▶ submitted …
//                        │ cancel()             ▲
//                        └──────▶ cancelling ───┘ last CQE
//
// A cancel only asks. The operation ends with its last CQE, and with whatever result that brings: -ECANCELED, or a
// success that came first (of 20,000 accepts with a cancel on its way, 633 had accepted). The last CQE is the one whose
// flags lack completion_more (ring.hpp); its result says nothing about being the last, since a full completion queue
// ends a multishot operation with an ordinary result.
//
// All of it belongs to the thread of the Proactor that started the operation.
#pragma once

#include <cstdint>

#include <ouro/runtime/config.hpp>

#if OURO_TSAN
extern "C" {
void __tsan_acquire(void* address);
void __tsan_release(void* address);
}
#endif

namespace ouro::detail {

// A place in a ring of links; a list is such a ring with its own link for a beginning. Leaving needs no list.
struct OperationLink {
  OperationLink* next = this;
  OperationLink* previous = this;

  void unlink() noexcept {
    next->previous = previous;
    previous->next = next;
    next = previous = this;
  }
};

class Operation : private OperationLink {
 public:
  enum class State : std::uint8_t { idle, submitted, cancelling, done };

  // Takes in one CQE. `result` is what the system call would have returned, or a negative errno. When `flags` lack
  // completion_more the state is `done` already, nothing refers to the operation any more, and this function may start
  // it again or destroy it. It marks its owner and makes a task ready; it runs nothing of the user's. While its
  // Proactor is being destroyed it must start nothing.
  // Threads: the Proactor's; if that was destroyed by another thread, the destroying one.
  virtual void complete(int result, unsigned flags) noexcept = 0;

  State state() const noexcept { return state_; }

  // True if the kernel may still touch what belongs to the operation.
  bool in_flight() const noexcept { return state_ == State::submitted || state_ == State::cancelling; }

  Operation(const Operation&) = delete;
  Operation& operator=(const Operation&) = delete;

 protected:
  Operation() noexcept = default;
  ~Operation() { OURO_ASSERT(!in_flight()); }

 private:
  friend class OperationList;
  friend class Proactor;

  State state_ = State::idle;
};

// Operations in the order in which they came.
class OperationList {
 public:
  OperationList() noexcept = default;
  OperationList(const OperationList&) = delete;
  OperationList& operator=(const OperationList&) = delete;

  bool empty() const noexcept { return head_.next == &head_; }
  Operation& front() const noexcept { return static_cast<Operation&>(*head_.next); }

  void push_back(Operation& operation) noexcept {
    OperationLink& link = operation;
    OURO_ASSERT(link.next == &link);
    link.previous = head_.previous;
    link.next = &head_;
    head_.previous->next = &link;
    head_.previous = &link;
  }

  static void remove(Operation& operation) noexcept { operation.unlink(); }

  // Calls f for each; f may remove the one that it is given.
  template <class F>
  void for_each(F f) {
    for (OperationLink* at = head_.next; at != &head_;) {
      OperationLink* const next = at->next;
      f(static_cast<Operation&>(*at));
      at = next;
    }
  }

 private:
  OperationLink head_;
};

// The kernel passes an operation from the thread that starts it to the thread that reaps it, and orders the two;
// ThreadSanitizer does not see that. These two are what tells it.
inline void publish_to_kernel([[maybe_unused]] void* operation) noexcept {
#if OURO_TSAN
  __tsan_release(operation);
#endif
}

inline void take_from_kernel([[maybe_unused]] void* operation) noexcept {
#if OURO_TSAN
  __tsan_acquire(operation);
#endif
}

}  // namespace ouro::detail
