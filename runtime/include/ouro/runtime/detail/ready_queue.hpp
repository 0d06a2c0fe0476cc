// What a loop runs: entries of an intrusive queue, each of which names something that can be resumed.
#pragma once

#include <ouro/runtime/config.hpp>

namespace ouro::detail {

// An entry of a ready queue. `leaf` is what the loop resumes: the address of a coroutine frame, or of something that
// imitates one (its first word is void (*)(void*)), so that the loop makes one indirect call and no test.
struct ReadyNode {
  ReadyNode* next;
  void* leaf;
};

// What imitates a frame begins with these two words, as g++ and clang lay frames out on every platform they serve.
struct FrameHeader {
  void (*resume)(void*);
  void (*destroy)(void*);
};

// First in, first out; intrusive.
class ReadyQueue {
 public:
  bool empty() const noexcept { return head_ == nullptr; }

  void push_back(ReadyNode& node) noexcept {
    node.next = nullptr;
    (head_ ? tail_->next : head_) = &node;
    tail_ = &node;
  }

  void push_front(ReadyNode& node) noexcept {
    node.next = head_;
    if (!head_) tail_ = &node;
    head_ = &node;
  }

  // Requires: !empty().
  ReadyNode* pop_front() noexcept {
    ReadyNode* node = head_;
    head_ = node->next;
    return node;
  }

  ReadyNode* front() const noexcept { return head_; }

  // The entry that is alone, or nullptr; it is taken out.
  // Requires: !empty().
  ReadyNode* take_only() noexcept {
    ReadyNode* node = head_;
    if (node->next) return nullptr;
    head_ = nullptr;
    return node;
  }

  // Gives all entries away, and is empty afterwards. The two words were written by two stores, often just now: read as
  // one (what compilers like to do) they would wait until both have left the store buffer, at five times the price.
  ReadyQueue take() noexcept {
    ReadyQueue taken;
    ReadyNode* head = head_;
    asm("" : "+r"(head));
    taken.head_ = head;
    taken.tail_ = tail_;
    head_ = nullptr;
    return taken;
  }

  // Appends a chain that is linked from its newest entry back to its oldest. `meet` is called with each.
  template <class Meet>
  void splice_back_reversed(ReadyNode& newest, Meet meet) noexcept {
    ReadyNode* oldest = nullptr;
    for (ReadyNode* node = &newest; node != nullptr;) {
      ReadyNode* next = node->next;
      meet(*node);
      node->next = oldest;
      oldest = node;
      node = next;
    }
    (head_ ? tail_->next : head_) = oldest;
    tail_ = &newest;
  }

  // Appends all of `other`, which is empty afterwards.
  void splice_back(ReadyQueue& other) noexcept {
    if (!other.head_) return;
    (head_ ? tail_->next : head_) = other.head_;
    tail_ = other.tail_;
    other.head_ = nullptr;
  }

 private:
  ReadyNode* head_ = nullptr;
  ReadyNode* tail_ = nullptr;  // meaningless while empty
};

}  // namespace ouro::detail
