// Where coroutine frames, futures and callback handles get their memory: out of line, so that translation units of
// every build type share one allocator. How it works is told in src/frame_pool.cpp.
#pragma once

#include <cstddef>
#include <cstdint>

#include <ouro/runtime/config.hpp>

namespace ouro::detail {

// Sizes up to this come from lists, in classes of `frame_class_bytes`.
inline constexpr std::size_t frame_class_bytes = 16;
inline constexpr std::size_t frame_classes = 64;
// A class is named by where its list lies among the lists: class times this.
inline constexpr std::size_t frame_list_bytes = 32;

OURO_EXPORT void* allocate_small_frame(std::size_t list_offset);
OURO_EXPORT void free_small_frame(void* memory, std::size_t list_offset) noexcept;
OURO_EXPORT void* allocate_large_frame(std::size_t bytes);
OURO_EXPORT void free_large_frame(void* memory, std::size_t bytes) noexcept;

// Memory for `bytes`, aligned to 16.
// Threads: any. Throws: std::bad_alloc. Complexity: a few instructions for up to 1 KiB when the thread's list holds
// one.
inline void* allocate_frame(std::size_t bytes) {
  const std::size_t size_class = (bytes - 1) / frame_class_bytes;
  return size_class < frame_classes ? allocate_small_frame(size_class * frame_list_bytes) : allocate_large_frame(bytes);
}

// Gives back what allocate_frame(bytes) gave, on any thread.
inline void free_frame(void* memory, std::size_t bytes) noexcept {
  const std::size_t size_class = (bytes - 1) / frame_class_bytes;
  size_class < frame_classes ? free_small_frame(memory, size_class * frame_list_bytes)
                             : free_large_frame(memory, bytes);
}

// Zeros, of which most will never be touched: what is large comes as pages that cost nothing until then, while the heap
// would have to clear what it has used before.
// Threads: any. Throws: std::bad_alloc.
OURO_EXPORT void* allocate_zeros(std::size_t bytes);
OURO_EXPORT void free_zeros(void* memory, std::size_t bytes) noexcept;

// The ledger: how many frames are alive, whichever thread allocated them.
// Requires: no other thread allocates or frees meanwhile; else the number means nothing.
OURO_EXPORT std::uint64_t frames_alive() noexcept;

// Counts the allocations of the thread that made it, large and small, while it lives. They take the long way then.
class OURO_EXPORT FrameCounter {
 public:
  FrameCounter() noexcept;
  FrameCounter(const FrameCounter&) = delete;
  ~FrameCounter();
  std::uint64_t count() const noexcept;

 private:
  std::uint64_t before_;
};

}  // namespace ouro::detail
