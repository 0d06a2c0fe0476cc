// The frame pool. Each thread keeps a free list for every size class of 16 bytes up to 1 KiB; it allocates from its own
// lists and frees to its own lists, whichever thread a frame came from, so no operation is atomic. A thread that frees
// more than it allocates hands chains of `chain_frames` frames to the depot, one lock a chain, and a thread that runs
// dry takes a chain from there before it cuts new frames from a slab.
//
// Slabs come from mmap and are never given back: the first is small, so that a program with ten tasks stays small, the
// later ones are 2 MiB, aligned to that, and advised to be huge pages (at a million frames a third of the time is TLB
// misses otherwise). glibc's malloc costs 14-60 ns more a frame once its heap has aged.
//
// Under AddressSanitizer the pool steps aside for operator new, so that a use after free of a frame is seen.
#include <ouro/runtime/detail/frame_pool.hpp>

#include <sys/mman.h>

#include <array>
#include <mutex>
#include <new>

namespace ouro::detail {
namespace {

constexpr std::size_t class_bytes = frame_class_bytes;
constexpr std::size_t class_count = frame_classes;
constexpr std::uint32_t chain_frames = 512;
constexpr std::size_t first_slab_bytes = std::size_t{64} << 10;
constexpr std::size_t slab_bytes = std::size_t{2} << 20;

struct FreeFrame {
  FreeFrame* next;
  FreeFrame* next_chain;  // of the first frame of a chain in the depot
};
static_assert(sizeof(FreeFrame) <= class_bytes);

// The frames of one size that a thread holds. The list is a chain long when `room` is zero: every frame freed lowers
// it, every frame allocated raises it. `room` and `allocated` are written by the owner alone, in one instruction each,
// and read by frame_ledger() from elsewhere: relaxed.
struct FreeList {
  FreeFrame* head;
  std::uint64_t room;       // frames that may be freed before the list is handed over
  std::uint64_t allocated;  // frames, ever
  FreeFrame* spare;         // a whole chain, or nullptr
};
static_assert(sizeof(FreeList) == 32);  // found by a shift

struct ThreadPool {
  std::array<FreeList, class_count> lists;
  std::array<std::uint64_t, class_count> granted;  // room that was not made by allocating
  std::uint64_t large_allocated;                   // what is too large for a list
  std::uint64_t large_freed;
  char* slab;
  char* slab_end;
  bool registered;
  bool has_slab;
  ThreadPool* next;  // in the depot's list of live pools
  ThreadPool* prev;
};

// Trivial and constant-initialised, so that reaching it is one instruction and no guard.
constinit thread_local ThreadPool pool{};

// A relaxed atomic load, an addition and a relaxed atomic store, which g++ would not make one instruction.
inline void raise(std::uint64_t& counter) noexcept {
#if defined(__x86_64__) && !OURO_TSAN
  asm("incq %0" : "+m"(counter) : : "cc");
#else
  __atomic_store_n(&counter, counter + 1, __ATOMIC_RELAXED);
#endif
}

// The same downwards; true if that made it zero or, on the first use, less.
inline bool lower(std::uint64_t& counter) noexcept {
#if defined(__x86_64__) && !OURO_TSAN
  bool used_up;
  asm("decq %0" : "+m"(counter), "=@ccle"(used_up));
  return used_up;
#else
  const std::uint64_t less = counter - 1;
  __atomic_store_n(&counter, less, __ATOMIC_RELAXED);
  return static_cast<std::int64_t>(less) <= 0;
#endif
}

// What threads share. Never destroyed: threads may outlive static destruction.
struct Depot {
  std::mutex mutex;
  std::array<FreeFrame*, class_count> chains{};
  ThreadPool* pools = nullptr;
  FrameLedger ended{0, 0};  // the counts of threads that ended
};

Depot& depot() noexcept {
  alignas(Depot) static std::byte storage[sizeof(Depot)];
  static Depot* instance = new (storage) Depot;
  return *instance;
}

void add_counts(const ThreadPool& from, FrameLedger& to) noexcept {
  const auto read = [](const std::uint64_t& counter) { return __atomic_load_n(&counter, __ATOMIC_RELAXED); };
  for (std::size_t c = 0; c < class_count; ++c) {
    const std::uint64_t allocated = read(from.lists[c].allocated);
    to.allocated += allocated;
    to.freed += allocated + read(from.granted[c]) - read(from.lists[c].room);
  }
  to.allocated += read(from.large_allocated);
  to.freed += read(from.large_freed);
}

// Gives the lists of an ending thread to the depot.
struct Reaper {
  ~Reaper() {
    Depot& shared = depot();
    std::scoped_lock lock(shared.mutex);
    for (std::size_t c = 0; c < class_count; ++c) {
      for (FreeFrame* chain : {pool.lists[c].head, pool.lists[c].spare}) {
        if (!chain) continue;
        chain->next_chain = shared.chains[c];
        shared.chains[c] = chain;
      }
    }
    add_counts(pool, shared.ended);
    (pool.prev ? pool.prev->next : shared.pools) = pool.next;
    if (pool.next) pool.next->prev = pool.prev;
    pool = ThreadPool{};
    pool.registered = true;  // frees by later thread_local destructors stay uncounted and go with the slab
  }
};

void register_thread() noexcept {
  if (pool.registered) return;
  pool.registered = true;
  Depot& shared = depot();
  {
    std::scoped_lock lock(shared.mutex);
    pool.next = shared.pools;
    if (pool.next) pool.next->prev = &pool;
    shared.pools = &pool;
  }
  static thread_local Reaper reaper;
  static_cast<void>(&reaper);
}

void new_slab() {
  const std::size_t bytes = pool.has_slab ? slab_bytes : first_slab_bytes;
  const std::size_t mapped = pool.has_slab ? 2 * slab_bytes : bytes;
  void* memory = ::mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  char* begin = static_cast<char*>(memory);
  if (pool.has_slab) {
    // Twice the size was mapped to find an aligned half; the rest goes back.
    char* const end = begin + mapped;
    const std::size_t skip = (slab_bytes - reinterpret_cast<std::uintptr_t>(begin) % slab_bytes) % slab_bytes;
    if (skip != 0) ::munmap(begin, skip);
    begin += skip;
    if (end != begin + slab_bytes) ::munmap(begin + slab_bytes, static_cast<std::size_t>(end - begin) - slab_bytes);
    ::madvise(begin, slab_bytes, MADV_HUGEPAGE);
  }
  pool.has_slab = true;
  pool.slab = begin;
  pool.slab_end = begin + bytes;
}

// Sets the room of class `c`.
void grant(std::size_t c, std::uint64_t room) noexcept {
  FreeList& list = pool.lists[c];
  __atomic_store_n(&pool.granted[c], pool.granted[c] + room - list.room, __ATOMIC_RELAXED);
  __atomic_store_n(&list.room, room, __ATOMIC_RELAXED);
}

// Begins the list of class `c` with a chain, whose first frame is given out.
void* begin_chain(std::size_t c, FreeFrame* chain) noexcept {
  FreeList& list = pool.lists[c];
  list.head = chain->next;
  raise(list.allocated);
  raise(list.room);
  grant(c, 1);
  return chain;
}

// The list of class `c` is empty: the second one, a chain from the depot, or a new frame.
OURO_NOINLINE void* refill(std::size_t c) {
  FreeList& list = pool.lists[c];
  if (FreeFrame* chain = list.spare) {
    list.spare = nullptr;
    return begin_chain(c, chain);
  }
  register_thread();
  {
    Depot& shared = depot();
    std::scoped_lock lock(shared.mutex);
    if (FreeFrame* chain = shared.chains[c]) {
      shared.chains[c] = chain->next_chain;
      return begin_chain(c, chain);
    }
  }
  const std::size_t bytes = (c + 1) * class_bytes;
  if (static_cast<std::size_t>(pool.slab_end - pool.slab) < bytes) new_slab();
  void* frame = pool.slab;
  pool.slab += bytes;
  raise(list.allocated);
  raise(list.room);
  grant(c, chain_frames);
  return frame;
}

// The list of class `c` is a chain long: it becomes the second one, and the one that was goes to the depot.
OURO_NOINLINE void hand_over(std::size_t c) noexcept {
  FreeList& list = pool.lists[c];
  if (!pool.registered) {
    // The first frame that this thread frees: what it leaves behind must not be lost with it.
    register_thread();
    return grant(c, chain_frames - 1);
  }
  FreeFrame* chain = list.spare;
  list.spare = list.head;
  list.head = nullptr;
  grant(c, chain_frames);
  if (!chain) return;
  Depot& shared = depot();
  std::scoped_lock lock(shared.mutex);
  chain->next_chain = shared.chains[c];
  shared.chains[c] = chain;
}

}  // namespace

void* allocate_large_frame(std::size_t bytes) {
  register_thread();
  void* memory = ::operator new(bytes);
  raise(pool.large_allocated);
  return memory;
}

void free_large_frame(void* memory, std::size_t bytes) noexcept {
  register_thread();
  raise(pool.large_freed);
  ::operator delete(memory, bytes);
}

void* allocate_small_frame(std::size_t c) {
  if (OURO_ASAN) return allocate_large_frame((c + 1) * class_bytes);
  FreeList& list = pool.lists[c];
  FreeFrame* frame = list.head;
  if (OURO_UNLIKELY(frame == nullptr)) return refill(c);
  list.head = frame->next;
  raise(list.allocated);
  raise(list.room);
  // Frames that were freed in the order of their addresses come back in the reverse one: a guess that costs nothing
  // when it is wrong, and hides the cache misses of a million frames when it is right.
  const std::uintptr_t before = reinterpret_cast<std::uintptr_t>(frame) - 1024;
  __builtin_prefetch(reinterpret_cast<const void*>(before), 1);
  __builtin_prefetch(reinterpret_cast<const void*>(before + 64), 1);
  return frame;
}

void free_small_frame(void* memory, std::size_t c) noexcept {
  if (OURO_ASAN) return free_large_frame(memory, (c + 1) * class_bytes);
  FreeList& list = pool.lists[c];
  auto* frame = static_cast<FreeFrame*>(memory);
  frame->next = list.head;
  list.head = frame;
  if (OURO_UNLIKELY(lower(list.room))) hand_over(c);
}

FrameLedger frame_ledger() noexcept {
  register_thread();
  Depot& shared = depot();
  std::scoped_lock lock(shared.mutex);
  FrameLedger ledger = shared.ended;
  for (const ThreadPool* p = shared.pools; p; p = p->next) add_counts(*p, ledger);
  return ledger;
}

}  // namespace ouro::detail
