// The least that a coroutine can be: a frame from a free list, a slot for its result, a counter to join on. No
// exceptions, no cancellation, no task object, no loop. Shared by the two programs that measure the limit.
#pragma once

#include <coroutine>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <exception>
#include <utility>
#include <vector>

#include "driver.hpp"

namespace bench {

// Frames of one size: the last one freed is the next one given.
struct FreeList {
  struct Free {
    Free* next;
  };
  Free* head = nullptr;
  char* bump = nullptr;
  char* end = nullptr;

  void* get(std::size_t bytes) {
    if (head != nullptr) [[likely]]
      return std::exchange(head, head->next);
    if (static_cast<std::size_t>(end - bump) < bytes) {
      constexpr std::size_t slab_bytes = std::size_t{1} << 22;
      bump = static_cast<char*>(std::aligned_alloc(4096, slab_bytes));
      if (bump == nullptr) std::abort();
      end = bump + slab_bytes;
    }
    return std::exchange(bump, bump + bytes);
  }
  void put(void* frame) { head = new (frame) Free{head}; }
};

inline thread_local FreeList free_lists[64];  // by size, in steps of 16 bytes

struct Task {
  struct promise_type {
    std::uint64_t value = 0;
    std::uint64_t* slot = nullptr;     // where gather wants the result
    std::uint64_t* pending = nullptr;  // how many are still to come

    static void* operator new(std::size_t bytes) {
      const std::size_t step = (bytes + 15) / 16;
      return free_lists[step].get(step * 16);
    }
    static void operator delete(void* frame, std::size_t bytes) { free_lists[(bytes + 15) / 16].put(frame); }

    struct Finish {
      bool await_ready() noexcept { return false; }
      void await_suspend(std::coroutine_handle<promise_type> finished) noexcept {
        promise_type& promise = finished.promise();
        *promise.slot = promise.value;
        --*promise.pending;
        finished.destroy();
      }
      void await_resume() noexcept {}
    };
    Task get_return_object() { return {std::coroutine_handle<promise_type>::from_promise(*this)}; }
    std::suspend_always initial_suspend() noexcept { return {}; }
    Finish final_suspend() noexcept { return {}; }
    void return_value(std::uint64_t result) { value = result; }
    void unhandled_exception() { std::terminate(); }
  };

  std::coroutine_handle<promise_type> frame;

  void join_into(std::uint64_t& slot, std::uint64_t& pending) const {
    frame.promise().slot = &slot;
    frame.promise().pending = &pending;
  }
};

}  // namespace bench
