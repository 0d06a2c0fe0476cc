// The pool's queue in the models: it takes the place of runtime/src/inject_queue.hpp, beside which the CMakeLists.txt
// here lays copies of the pool's sources. moodycamel's queue is not under test, and its blocks and hash tables would
// be most of every execution. This one promises what that one does, and no more:
//
//   - pop() finds an element whose push happened before; one that did not, it may miss.
//   - Who loses the race for the last element holds, for a few instructions, a place of the next one as well: another
//     pop() then finds nothing though something is there. Here: it claims before it knows, and takes the claim back.
//   - size() counts what has been taken, not what is claimed, and may be old.
//
// One word counts pushes, claims and what was taken; it orders nothing. Nothing is ever used twice: 8 pushes are all
// that an execution may make.
#pragma once

#include <sched.h>

#include <array>
#include <cstddef>
#include <cstdint>

#include <model/mutants.hpp>
#include <ouro/runtime/detail/atomic.hpp>

namespace ouro::detail {

template <class T>
class InjectQueue {
 public:
  class Producer {
   public:
    explicit Producer(InjectQueue&) noexcept {}
  };
  class Consumer {
   public:
    explicit Consumer(InjectQueue&) noexcept {}
  };

  bool push(T& element) {
    const std::size_t mine = pushed(word_.fetch_add(pushed_one, std::memory_order_relaxed));
    model::check(mine < places, "the model's queue is long enough");
    elements_[mine].store(&element, std::memory_order_release);  // pairs with the acquire in pop()
    return true;
  }
  bool push(Producer&, T& element) { return push(element); }

  T* pop() {
    std::uint64_t word = word_.load(std::memory_order_relaxed);
    if (claims(word) >= pushed(word)) return nullptr;
    word = word_.fetch_add(claims_one, std::memory_order_relaxed);
    const std::size_t mine = claims(word);
    if (mine >= pushed(word)) {
      word_.fetch_sub(claims_one, std::memory_order_relaxed);
      return nullptr;
    }
    word_.fetch_add(taken_one, std::memory_order_relaxed);
    T* element = nullptr;
    while (!(element = elements_[mine].load(std::memory_order_acquire))) sched_yield();
    return element;
  }
  T* pop(Consumer&) { return pop(); }
  std::size_t pop_bulk(Consumer&, T** elements, std::size_t most) {
    std::size_t count = 0;
    while (count < most && (elements[count] = pop()) != nullptr) ++count;
    return count;
  }
  T* pop_last(Consumer& consumer) {
    if (model::mutated("pop_last does not look")) return nullptr;
    for (;;) {
      if (T* element = pop(consumer)) return element;
      if (model::mutated("pop_last trusts pop") || count() == 0) return nullptr;
      sched_yield();
    }
  }

  std::size_t size() const { return model::mutated("size is not looked at") ? 0 : count(); }

 private:
  std::size_t count() const {
    const std::uint64_t word = word_.load(std::memory_order_relaxed);
    return pushed(word) - taken(word);
  }

  static constexpr std::size_t places = 8;
  static constexpr std::uint64_t pushed_one = 1, claims_one = 1 << 8, taken_one = 1 << 16;
  static constexpr std::size_t pushed(std::uint64_t word) noexcept { return word & 0xff; }
  static constexpr std::size_t claims(std::uint64_t word) noexcept { return word >> 8 & 0xff; }
  static constexpr std::size_t taken(std::uint64_t word) noexcept { return word >> 16 & 0xff; }

  Atomic<std::uint64_t> word_{0};
  std::array<Atomic<T*>, places> elements_{};
};

}  // namespace ouro::detail
