// Plain memory: who wrote and read each byte last, and what of it is allocated.
//
// The program and the library are compiled with -fsanitize=thread, so each access to memory that may be shared calls
// one of the functions at the end of this file. Two accesses of a byte, one of them a plain write, race unless the
// first happened before the second; which is first in the execution at hand does not matter, for a race is a matter of
// what orders them. To free is to write. An access by an atomic operation conflicts with plain writes only: with the
// construction of the atomic, and with its end.
//
// What the C library does in memory by itself (memcpy), and what lies compiled in libstdc++ (std::string's parts), is
// not seen.
#include <dlfcn.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>

#include "machine.hpp"

namespace ouro::model {
namespace {

constexpr std::size_t pages_max = std::size_t{1} << 14;
constexpr std::size_t heap_bytes = std::size_t{8} << 20;  // a thread's

// "function+0x12" as far as the symbols go.
std::string symbol(const void* pc) {
  Dl_info info;
  std::array<char, 512> text;
  if (!pc || dladdr(pc, &info) == 0) return "?";
  const char* const name = info.dli_sname;
  const auto base = reinterpret_cast<std::uintptr_t>(name ? info.dli_saddr : info.dli_fbase);
  int status = 1;
  char* plain = name ? abi::__cxa_demangle(name, nullptr, nullptr, &status) : nullptr;
  std::snprintf(text.data(), text.size(), "%s+%#zx",
                plain  ? plain
                : name ? name
                       : "program",
                static_cast<std::size_t>(reinterpret_cast<std::uintptr_t>(pc) - base));
  std::free(plain);
  return text.data();
}

}  // namespace

Shadow::Shadow() : pages_(pages_max) {
  const auto reserve = [](std::size_t bytes) {
    void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) std::abort();
    return memory;
  };
  heap_ = static_cast<char*>(reserve(heap_bytes * threads_max));
  heap_pages_ = static_cast<Page*>(reserve(heap_bytes * threads_max / page_bytes * sizeof(Page)));
}

void Shadow::reset() noexcept {
  ++generation_;
  pages_used_ = 0;
  last_ = nullptr;
  parted_.clear();
  cut_.fill(0);
  chunks_.clear();
  log_.clear();
}

Shadow::Page& Shadow::page(std::uintptr_t key) {
  if (last_ && last_->key == key) return *last_;
  const std::uintptr_t on_heap = key - reinterpret_cast<std::uintptr_t>(heap_) / page_bytes;
  Page* found = nullptr;
  if (on_heap < heap_bytes * threads_max / page_bytes) {
    found = heap_pages_ + on_heap;
  } else {
    std::size_t slot = static_cast<std::size_t>(mix(key, 7)) & (pages_max - 1);
    while (pages_[slot].generation == generation_ && pages_[slot].key != key) slot = (slot + 1) & (pages_max - 1);
    found = &pages_[slot];
    if (found->generation != generation_ && ++pages_used_ > pages_max / 2) {
      std::fprintf(stderr, "model: the program uses more than 512 KiB of memory in one execution\n");
      std::abort();
    }
  }
  if (found->generation != generation_) {
    found->key = key;
    found->generation = generation_;
    found->shared = 0;
    found->parted.fill(0);
    found->cells.fill(Cell());
  }
  last_ = found;
  return *found;
}

// Notes an access, unless it conflicts with an earlier one.
bool Shadow::admit(Cell& cell, Touch how) noexcept {
  Machine& m = machine();
  const unsigned me = m.current();
  const VectorClock& known = m.self().view.known;
  if (cell.freed || cell.written > known[cell.writer]) return false;
  if (how == Touch::read || how == Touch::atomic || how == Touch::word) {
    cell.read[me] = known[me];
    return true;
  }
  for (unsigned other = 0; other < threads_max; ++other) {
    if (other != me && cell.read[other] > known[other]) return false;
  }
  cell.written = known[me];
  cell.writer = static_cast<std::uint8_t>(me);
  cell.freed = how == Touch::free;
  return true;
}

// Of the word at `address` the bytes from `from` to `to`.
void Shadow::check_word(std::uintptr_t address, unsigned from, unsigned to, Touch how, const void* pc) {
  Page& of = page(address / page_bytes);
  const std::size_t word = address / word_bytes % page_words;
  const auto bit = static_cast<std::uint8_t>(1U << word);
  if (how == Touch::word) {
    of.shared |= bit;
  } else if ((of.shared & bit) != 0 && how != Touch::atomic) {
    machine().meet_plainly(address + from, address + to, how != Touch::read, pc);
  }
  const bool whole = from == 0 && to == word_bytes;
  if (of.parted[word] == 0) {
    if (whole) {
      if (!admit(of.cells[word], how)) refuse(of.cells[word], address, how, pc);
      return;
    }
    parted_.emplace_back().fill(of.cells[word]);
    of.parted[word] = static_cast<std::uint32_t>(parted_.size());
  }
  auto& cells = parted_[of.parted[word] - 1];
  for (unsigned byte = from; byte < to; ++byte) {
    if (!admit(cells[byte], how)) refuse(cells[byte], address + byte, how, pc);
  }
}

// True if a whole word of the heap is used once more by the thread that used it last, and nothing has happened since:
// there is nothing to note. Most accesses are of this kind.
bool Shadow::again(const void* address, Touch how) const noexcept {
  const std::uintptr_t offset = reinterpret_cast<std::uintptr_t>(address) - reinterpret_cast<std::uintptr_t>(heap_);
  if (offset >= heap_bytes * threads_max || offset % word_bytes != 0) return false;
  const Page& of = heap_pages_[offset / page_bytes];
  const std::size_t word = offset / word_bytes % page_words;
  if (of.generation != generation_ || of.parted[word] != 0) return false;
  const Cell& cell = of.cells[word];
  const unsigned me = machine().current();
  const Tick now = machine().self().view.known[me];
  if (cell.freed) return false;
  return (cell.written == now && cell.writer == me) || (how == Touch::read && cell.read[me] == now);
}

void Shadow::touch(const void* address, std::size_t bytes, Touch how, const void* pc) {
  Machine& m = machine();
  if (bytes == word_bytes && how != Touch::free && again(address, how)) return;
  if (m.is_local(address) || m.warming_up) return;  // whose memory is the C library's
  const auto first = reinterpret_cast<std::uintptr_t>(address);
  for (std::uintptr_t at = first; at < first + bytes;) {
    const std::uintptr_t word = at / word_bytes * word_bytes;
    const std::uintptr_t end = std::min(first + bytes, word + word_bytes);
    check_word(word, static_cast<unsigned>(at - word), static_cast<unsigned>(end - word), how, pc);
    at = end;
  }
  if (m.tracing()) {
    log_.push_back(
        {first, bytes, {m.current(), m.self().view.known[m.current()]}, how == Touch::write || how == Touch::free, pc});
  }
}

void Shadow::forget(const void* address, std::size_t bytes) {
  const auto first = reinterpret_cast<std::uintptr_t>(address);
  for (std::uintptr_t at = first / word_bytes * word_bytes; at < first + bytes; at += word_bytes) {
    Page& of = page(at / page_bytes);
    const std::size_t word = at / word_bytes % page_words;
    of.parted[word] = 0;
    of.cells[word] = Cell();
  }
}

void Shadow::refuse(const Cell& cell, std::uintptr_t address, Touch how, const void* pc) {
  const VectorClock& known = machine().self().view.known;
  if (cell.freed || cell.written > known[cell.writer]) {
    report(address, how, pc, cell.writer, cell.written, true, cell.freed);
  }
  unsigned other = 0;
  while (other == machine().current() || cell.read[other] <= known[other]) ++other;
  report(address, how, pc, other, cell.read[other], false, false);
}

std::string Shadow::describe(std::uintptr_t address) const {
  const std::string plain = machine().describe(reinterpret_cast<const void*>(address));
  for (const Chunk& chunk : chunks_) {
    const auto from = reinterpret_cast<std::uintptr_t>(chunk.address);
    if (address < from || address >= from + chunk.bytes) continue;
    return plain + ", byte " + std::to_string(address - from) + " of " + std::to_string(chunk.bytes) +
           " allocated by T" + std::to_string(chunk.thread);
  }
  return plain;
}

void Shadow::report(std::uintptr_t address, Touch how, const void* pc, unsigned other, Tick tick, bool wrote,
                    bool freed) {
  static constexpr std::array<const char*, 5> verbs{"reads", "writes", "uses", "uses", "frees"};
  Machine& m = machine();
  std::string text = freed                 ? "use after free: "
                     : how == Touch::free  ? "freed while it may be in use: "
                     : how == Touch::write ? "data race: "
                                           : "data race: ";
  text += describe(address) + "\n  T" + std::to_string(m.current()) + " " + verbs[static_cast<std::size_t>(how)] +
          " it at " + symbol(pc) + "\n  T" + std::to_string(other) +
          (freed   ? " has freed it"
           : wrote ? " has written it"
                   : " has read or used it");
  for (const Logged& entry : log_) {
    if (entry.by.thread == other && entry.by.tick == tick && entry.writes == wrote && entry.address <= address &&
        address < entry.address + entry.bytes) {
      text += " at " + symbol(entry.pc);
      break;
    }
  }
  m.fail(text + (freed ? "" : ", and nothing puts the two in order"));
}

// ---- The program's heap ----

void* Shadow::allocate(std::size_t bytes, std::size_t alignment) {
  Machine& m = machine();
  std::size_t& cut = cut_[m.current()];
  if (alignment < 16) alignment = 16;
  const std::size_t begin = (cut + 16 + alignment - 1) / alignment * alignment;
  cut = begin + (bytes + word_bytes - 1) / word_bytes * word_bytes;
  if (cut > heap_bytes) m.fail("the program allocates more than 8 MiB");
  void* memory = heap_ + heap_bytes * m.current() + begin;
  static_cast<std::size_t*>(memory)[-1] = chunks_.size();
  chunks_.push_back({memory, bytes, m.current(), true});
  return memory;
}

bool Shadow::owns(const void* memory) const noexcept {
  return memory >= heap_ && memory < heap_ + heap_bytes * threads_max;
}

void Shadow::free(void* memory, const void* pc) {
  Chunk& chunk = chunks_[static_cast<std::size_t*>(memory)[-1]];
  if (chunk.address != memory || !chunk.live) machine().fail("memory is freed twice");
  touch(memory, chunk.bytes, Touch::free, pc);
  chunk.live = false;
}

std::string Shadow::leaks() const {
  std::string found;
  for (const Chunk& chunk : chunks_) {
    if (!chunk.live) continue;
    found += (found.empty() ? "" : ", ") + std::to_string(chunk.bytes) + " bytes of T" + std::to_string(chunk.thread);
  }
  return found;
}

namespace {

void touch(const void* address, std::size_t bytes, Shadow::Touch how, const void* pc) {
  if (!active) return;
  const Inside inside;
  machine().shadow.touch(address, bytes, how, pc);
}

std::memory_order order_of(int order) noexcept { return static_cast<std::memory_order>(order & 7); }

template <class Do>
auto foreign(const volatile void* at, int order, bool writes, const void* pc, Do act) {
  if (active) {
    const Inside inside;
    machine().foreign_atomic(const_cast<const void*>(at), order_of(order), writes, pc);
  }
  return act();
}

}  // namespace
}  // namespace ouro::model

// ---- What the compilers call ----

using ouro::model::Shadow;
#define OURO_MODEL_PC __builtin_return_address(0)
#define OURO_MODEL_ACCESS(bytes)                                                                                     \
  void __tsan_read##bytes(void* at) { ouro::model::touch(at, bytes, Shadow::Touch::read, OURO_MODEL_PC); }           \
  void __tsan_write##bytes(void* at) { ouro::model::touch(at, bytes, Shadow::Touch::write, OURO_MODEL_PC); }         \
  void __tsan_unaligned_read##bytes(void* at) { ouro::model::touch(at, bytes, Shadow::Touch::read, OURO_MODEL_PC); } \
  void __tsan_unaligned_write##bytes(void* at) { ouro::model::touch(at, bytes, Shadow::Touch::write, OURO_MODEL_PC); }
#define OURO_MODEL_RMW(bits, type, name)                                                         \
  type __tsan_atomic##bits##_##name(volatile type* at, type operand, int order) {                \
    return ouro::model::foreign(at, order, true, OURO_MODEL_PC,                                  \
                                [&] { return __atomic_##name(at, operand, __ATOMIC_RELAXED); }); \
  }
#define OURO_MODEL_ATOMIC(bits, type)                                                                                  \
  type __tsan_atomic##bits##_load(const volatile type* at, int order) {                                                \
    return ouro::model::foreign(at, order, false, OURO_MODEL_PC,                                                       \
                                [&] { return __atomic_load_n(at, __ATOMIC_RELAXED); });                                \
  }                                                                                                                    \
  void __tsan_atomic##bits##_store(volatile type* at, type value, int order) {                                         \
    ouro::model::foreign(at, order, true, OURO_MODEL_PC, [&] { __atomic_store_n(at, value, __ATOMIC_RELAXED); });      \
  }                                                                                                                    \
  type __tsan_atomic##bits##_exchange(volatile type* at, type value, int order) {                                      \
    return ouro::model::foreign(at, order, true, OURO_MODEL_PC,                                                        \
                                [&] { return __atomic_exchange_n(at, value, __ATOMIC_RELAXED); });                     \
  }                                                                                                                    \
  int __tsan_atomic##bits##_compare_exchange_strong(volatile type* at, type* expected, type desired, int order, int) { \
    return ouro::model::foreign(at, order, true, OURO_MODEL_PC, [&]() -> int {                                         \
      return __atomic_compare_exchange_n(at, expected, desired, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);            \
    });                                                                                                                \
  }                                                                                                                    \
  int __tsan_atomic##bits##_compare_exchange_weak(volatile type* at, type* expected, type desired, int order,          \
                                                  int failure) {                                                       \
    return __tsan_atomic##bits##_compare_exchange_strong(at, expected, desired, order, failure);                       \
  }                                                                                                                    \
  type __tsan_atomic##bits##_compare_exchange_val(volatile type* at, type expected, type desired, int order, int) {    \
    return ouro::model::foreign(at, order, true, OURO_MODEL_PC, [&] {                                                  \
      __atomic_compare_exchange_n(at, &expected, desired, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);                  \
      return expected;                                                                                                 \
    });                                                                                                                \
  }                                                                                                                    \
  OURO_MODEL_RMW(bits, type, fetch_add)                                                                                \
  OURO_MODEL_RMW(bits, type, fetch_sub)                                                                                \
  OURO_MODEL_RMW(bits, type, fetch_and)                                                                                \
  OURO_MODEL_RMW(bits, type, fetch_or)                                                                                 \
  OURO_MODEL_RMW(bits, type, fetch_xor)

extern "C" {
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
OURO_MODEL_ACCESS(1)
OURO_MODEL_ACCESS(2)
OURO_MODEL_ACCESS(4)
OURO_MODEL_ACCESS(8)
OURO_MODEL_ACCESS(16)
void __tsan_read_range(void* at, unsigned long bytes) {
  ouro::model::touch(at, bytes, Shadow::Touch::read, OURO_MODEL_PC);
}
void __tsan_write_range(void* at, unsigned long bytes) {
  ouro::model::touch(at, bytes, Shadow::Touch::write, OURO_MODEL_PC);
}
// A destructor sets the pointer that is there already: no write, as long as the class stays.
void __tsan_vptr_update(void** at, void* value) {
  if (*at != value) ouro::model::touch(at, sizeof(void*), Shadow::Touch::write, OURO_MODEL_PC);
}
void __tsan_vptr_read(void** at) { ouro::model::touch(at, sizeof(void*), Shadow::Touch::read, OURO_MODEL_PC); }
void* __tsan_memcpy(void* to, const void* from, unsigned long bytes) {
  ouro::model::touch(from, bytes, Shadow::Touch::read, OURO_MODEL_PC);
  ouro::model::touch(to, bytes, Shadow::Touch::write, OURO_MODEL_PC);
  return __builtin_memcpy(to, from, bytes);
}
void* __tsan_memmove(void* to, const void* from, unsigned long bytes) {
  ouro::model::touch(from, bytes, Shadow::Touch::read, OURO_MODEL_PC);
  ouro::model::touch(to, bytes, Shadow::Touch::write, OURO_MODEL_PC);
  return __builtin_memmove(to, from, bytes);
}
void* __tsan_memset(void* to, int value, unsigned long bytes) {
  ouro::model::touch(to, bytes, Shadow::Touch::write, OURO_MODEL_PC);
  return __builtin_memset(to, value, bytes);
}
OURO_MODEL_ATOMIC(8, unsigned char)
OURO_MODEL_ATOMIC(16, unsigned short)
OURO_MODEL_ATOMIC(32, unsigned int)
OURO_MODEL_ATOMIC(64, unsigned long)
void __tsan_atomic_thread_fence(int order) { ouro::model::fence(ouro::model::order_of(order)); }
void __tsan_atomic_signal_fence(int) {}
}
