// moodycamel's ConcurrentQueue, wrapped once: a queue of pointers that any thread fills and any thread empties. In
// order for each producer, in no order between them.
//
// Besides the narrower interface, one caveat of its has an answer here. A consumer that lost a race for the last
// element holds, for a few instructions, a place of the next one as well: another consumer then finds nothing though
// something is there. Who is about to sleep must not trust that; pop_last() looks at the sizes as well.
#pragma once

#include <sched.h>

#include <cstddef>

#include <ouro/runtime/config.hpp>

// What concurrentqueue.h includes comes before it, and so outside the pragma.
#include <algorithm>
#include <array>
#include <atomic>
#include <cassert>
#include <climits>
#include <cstdint>
#include <limits>
#include <mutex>
#include <thread>
#include <type_traits>
#include <utility>
#if OURO_TSAN && defined(__clang__)
#pragma clang attribute push(__attribute__((no_sanitize("thread"))), apply_to = function)
#endif
#include <concurrentqueue.h>
#if OURO_TSAN && defined(__clang__)
#pragma clang attribute pop
#endif

namespace ouro::detail {

template <class T>
class InjectQueue {
  using Queue = moodycamel::ConcurrentQueue<T*>;

 public:
  // A place of its own for a thread that pushes often (half the price); one thread at a time.
  class Producer {
   public:
    explicit Producer(InjectQueue& queue) : token_(queue.queue_) {}

   private:
    friend InjectQueue;
    moodycamel::ProducerToken token_;
  };

  // Where a thread goes on looking; one thread at a time.
  class Consumer {
   public:
    explicit Consumer(InjectQueue& queue) : token_(queue.queue_) {}

   private:
    friend InjectQueue;
    moodycamel::ConsumerToken token_;
  };

  // False if there is no memory.
  bool push(T& element) { return queue_.enqueue(&element); }
  bool push(Producer& producer, T& element) { return queue_.enqueue(producer.token_, &element); }

  // nullptr if there seems to be none.
  T* pop(Consumer& consumer) {
    T* element = nullptr;
    return queue_.try_dequeue(consumer.token_, element) ? element : nullptr;
  }
  T* pop() {
    T* element = nullptr;
    return queue_.try_dequeue(element) ? element : nullptr;
  }
  std::size_t pop_bulk(Consumer& consumer, T** elements, std::size_t most) {
    return queue_.try_dequeue_bulk(consumer.token_, elements, most);
  }

  // nullptr only if every push that happened before the call has been popped.
  T* pop_last(Consumer& consumer) {
    for (;;) {
      if (T* element = pop(consumer)) return element;
      if (size() == 0) return nullptr;
      sched_yield();
    }
  }

  // A snapshot.
  std::size_t size() const { return queue_.size_approx(); }

 private:
  Queue queue_;
};

}  // namespace ouro::detail
