// The frame pool. Each thread keeps a magazine of free frames, an array of their addresses, for every size class of 16
// bytes up to 1 KiB; it allocates from its own magazines and frees into its own, whichever thread a frame came from, so
// no operation is atomic. A thread whose magazine is full keeps it as a spare and hands the spare that it had to the
// depot, one lock a magazine; a thread that runs dry takes one from there before it cuts new frames from a slab
// (Bonwick and Adams, "Magazines and Vmem", USENIX 2001). Unlike a linked list, a magazine says how many frames it
// holds without counting, needs no look into a frame that has left the cache, and names the next ones to prefetch.
//
// Slabs come from mmap and are never given back: the first is small, so that a program with ten tasks stays small, the
// later ones are 2 MiB, aligned to that, and advised to be huge pages (at a million frames a third of the time is TLB
// misses otherwise). glibc's malloc costs 14-60 ns more a frame once its heap has aged.
//
// The ledger. What is alive are the frames that were cut less those that lie in magazines. `top` is written by its
// owner alone and read by frames_alive() from elsewhere: relaxed. Allocations themselves are not counted, but on a
// thread with a FrameCounter: there every list looks empty and full at once, so that each one takes the long way.
//
// Under AddressSanitizer the pool steps aside for operator new, so that a use after free of a frame is seen.
#include <ouro/runtime/detail/frame_pool.hpp>

#include <pthread.h>
#include <sys/mman.h>

#include <algorithm>
#include <array>
#include <mutex>
#include <new>
#include <utility>

namespace ouro::detail {
namespace {

constexpr std::size_t class_bytes = frame_class_bytes;
constexpr std::size_t class_count = frame_classes;
constexpr std::uint32_t magazine_frames = 504;
constexpr std::uint32_t most_cut_at_once = 64;
constexpr std::size_t first_slab_bytes = std::size_t{64} << 10;
constexpr std::size_t slab_bytes = std::size_t{2} << 20;
constexpr std::size_t prefetch_distance = 8;

struct Magazine {
  Magazine* next;       // in a list of the depot
  std::uint64_t count;  // of frames, while no FreeList uses it
  void* padding[6];     // what lies `prefetch_distance` before the first frame may be read
  void* frames[magazine_frames];
};
static_assert(sizeof(Magazine) == 4096 && offsetof(Magazine, frames) >= prefetch_distance * sizeof(void*));

// The frames of one size that a thread holds: frames[0..top) of `magazine`.
struct FreeList {
  void** top;
  void** bottom;       // empty if top is here
  void** limit;        // full if top is here
  Magazine* magazine;  // nullptr at first
};
static_assert(sizeof(FreeList) == frame_list_bytes);

struct ThreadPool {
  std::array<FreeList, class_count> lists;
  std::array<FreeList, class_count> hidden;    // what `lists` held, while a FrameCounter lives
  std::array<Magazine*, class_count> spares;   // a full one, an empty one, or nullptr
  std::array<std::uint8_t, class_count> cuts;  // how many frames to cut the next time
  std::uint64_t cut;                           // frames from a slab, and from the heap less those given back to it
  std::uint64_t counted;                       // allocations under a FrameCounter
  std::uint32_t counters;                      // FrameCounters that live
  char* slab;
  char* slab_end;
  bool registered;
  bool reaped;  // the thread is ending: nothing stays here any more
  bool has_slab;
  ThreadPool* next;  // in the depot's list of live pools
  ThreadPool* prev;
};

// Trivial and constant-initialised, so that reaching it is one instruction and no guard.
constinit thread_local ThreadPool pool{};

// A frame that a thread could not keep, for want of memory for a magazine.
struct StrayFrame {
  StrayFrame* next;
};

// What threads share. Never destroyed: threads may outlive static destruction.
struct Depot {
  std::mutex mutex;
  std::array<Magazine*, class_count> filled{};
  Magazine* empty = nullptr;
  std::array<StrayFrame*, class_count> strays{};
  std::uint64_t frames = 0;  // in `filled` and `strays`
  ThreadPool* pools = nullptr;
  std::uint64_t cut = 0;  // by threads that ended
};

void forget_other_threads() noexcept;

Depot& depot() noexcept {
  alignas(Depot) static std::byte storage[sizeof(Depot)];
  static Depot* instance = [] {
    // A child that is forked while another thread holds the lock would wait for it for ever.
    ::pthread_atfork([] { depot().mutex.lock(); }, [] { depot().mutex.unlock(); }, &forget_other_threads);
    return new (storage) Depot;
  }();
  return *instance;
}

template <class T>
T read(const T& word) noexcept {
  return __atomic_load_n(&word, __ATOMIC_RELAXED);
}
template <class T>
void write(T& word, T value) noexcept {
  __atomic_store_n(&word, value, __ATOMIC_RELAXED);
}

std::uint64_t held(const ThreadPool& by) noexcept {
  std::uint64_t frames = 0;
  for (std::size_t c = 0; c < class_count; ++c) {
    for (const FreeList* list : {&by.lists[c], &by.hidden[c]}) {
      frames += static_cast<std::uint64_t>(read(list->top) - read(list->bottom));
    }
    if (const Magazine* spare = read(by.spares[c])) frames += read(spare->count);
  }
  return frames;
}

// In a forked child, with the lock held: the other threads are gone, and their pools with their stacks. What they held
// is lost; it is not alive.
void forget_other_threads() noexcept {
  Depot& shared = depot();
  for (const ThreadPool* other = shared.pools; other; other = other->next) {
    if (other != &pool) shared.cut += other->cut - held(*other);
  }
  shared.pools = pool.registered && !pool.reaped ? &pool : nullptr;
  pool.next = pool.prev = nullptr;
  shared.mutex.unlock();
}

// Takes the magazine out of the list of class `c`, and says in it how many frames it holds.
Magazine* unload(std::size_t c) noexcept {
  FreeList& list = pool.lists[c];
  Magazine* magazine = list.magazine;
  if (magazine) write(magazine->count, static_cast<std::uint64_t>(list.top - magazine->frames));
  list.magazine = nullptr;
  write<void**>(list.top, nullptr);
  write<void**>(list.bottom, nullptr);
  list.limit = nullptr;
  return magazine;
}

void load(std::size_t c, Magazine& magazine) noexcept {
  FreeList& list = pool.lists[c];
  list.magazine = &magazine;
  write(list.bottom, magazine.frames);
  list.limit = magazine.frames + magazine_frames;
  write(list.top, magazine.frames + magazine.count);
}

// Puts the list of class `c` out of sight of the short way, or back.
void hide(std::size_t c) noexcept {
  FreeList& list = pool.lists[c];
  FreeList& hidden = pool.hidden[c];
  const FreeList held = list;
  list.magazine = hidden.magazine;
  write(list.top, hidden.top);
  write(list.bottom, hidden.bottom);
  list.limit = hidden.limit;
  hidden.magazine = held.magazine;
  write(hidden.top, held.top);
  write(hidden.bottom, held.bottom);
  hidden.limit = held.limit;
}

void hide_all() noexcept {
  for (std::size_t c = 0; c < class_count; ++c) hide(c);
}

// Requires: the depot's lock.
void deposit(Depot& shared, std::size_t c, Magazine* magazine) noexcept {
  if (!magazine) return;
  Magazine*& list = magazine->count == 0 ? shared.empty : shared.filled[c];
  magazine->next = list;
  list = magazine;
  shared.frames += magazine->count;
}

// Gives what an ending thread holds to the depot.
struct Reaper {
  ~Reaper() {
    if (pool.counters != 0) hide_all();
    Depot& shared = depot();
    std::scoped_lock lock(shared.mutex);
    for (std::size_t c = 0; c < class_count; ++c) {
      deposit(shared, c, pool.spares[c]);
      deposit(shared, c, unload(c));
    }
    shared.cut += pool.cut;
    (pool.prev ? pool.prev->next : shared.pools) = pool.next;
    if (pool.next) pool.next->prev = pool.prev;
    pool = ThreadPool{};
    pool.registered = pool.reaped = true;
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

// An empty magazine; nullptr without memory.
Magazine* new_magazine(Depot& shared) noexcept {
  {
    std::scoped_lock lock(shared.mutex);
    if (Magazine* magazine = shared.empty) {
      shared.empty = magazine->next;
      return magazine;
    }
  }
  // Not from the heap: a program's own allocations are not disturbed, nor is the count of them in tests.
  constexpr std::size_t count = 16;
  void* memory = ::mmap(nullptr, count * sizeof(Magazine), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return nullptr;
  auto* magazines = static_cast<Magazine*>(memory);  // zeros, which is what an empty magazine is
  std::scoped_lock lock(shared.mutex);
  for (std::size_t i = 1; i < count; ++i) deposit(shared, 0, magazines + i);
  return magazines;
}

// Gives an empty magazine, or nullptr, for one of class `c` with frames in it; false if there is none.
bool exchange_empty(Depot& shared, std::size_t c) noexcept {
  std::scoped_lock lock(shared.mutex);
  Magazine* filled = shared.filled[c];
  if (!filled) return false;
  shared.filled[c] = filled->next;
  shared.frames -= filled->count;
  deposit(shared, c, unload(c));
  load(c, *filled);
  return true;
}

void* take_stray(Depot& shared, std::size_t c) noexcept {
  std::scoped_lock lock(shared.mutex);
  StrayFrame* frame = shared.strays[c];
  if (!frame) return nullptr;
  shared.strays[c] = frame->next;
  --shared.frames;
  return frame;
}

// New frames of class `c` into its empty magazine, more each time; the lowest address is given out first.
void cut_frames(std::size_t c) {
  FreeList& list = pool.lists[c];
  const std::size_t bytes = (c + 1) * class_bytes;
  // Frames of whole cache lines begin with one: they touch one line less, and share none.
  if (bytes % 64 == 0) pool.slab += -reinterpret_cast<std::uintptr_t>(pool.slab) % 64;
  if (pool.slab_end - pool.slab < static_cast<std::ptrdiff_t>(bytes)) new_slab();
  const auto fit = static_cast<std::size_t>(pool.slab_end - pool.slab) / bytes;
  const auto count = std::min<std::size_t>(fit, std::max<std::size_t>(4, pool.cuts[c]));
  pool.cuts[c] = static_cast<std::uint8_t>(std::min<std::size_t>(2 * count, most_cut_at_once));
  for (std::size_t i = 0; i < count; ++i) list.bottom[i] = pool.slab + (count - 1 - i) * bytes;
  write(list.top, list.bottom + count);
  pool.slab += count * bytes;
  write(pool.cut, pool.cut + count);
}

// The thread's other objects are destroyed after its pool: each frame comes from the depot or the heap, and goes to the
// depot.
void* allocate_late(std::size_t c) {
  Depot& shared = depot();
  if (void* stray = take_stray(shared, c)) return stray;
  void* memory = ::operator new((c + 1) * class_bytes);  // it becomes one of the pool's
  std::scoped_lock lock(shared.mutex);
  ++shared.cut;
  return memory;
}

void free_late(void* memory, std::size_t c) noexcept {
  Depot& shared = depot();
  std::scoped_lock lock(shared.mutex);
  shared.strays[c] = ::new (memory) StrayFrame{shared.strays[c]};
  ++shared.frames;
}

// The list of class `c` is empty: a frame from the spare magazine, the depot, or a slab.
void* refill(std::size_t c) {
  if (OURO_UNLIKELY(pool.reaped)) return allocate_late(c);
  register_thread();
  FreeList& list = pool.lists[c];
  if (list.top == list.bottom) {
    Depot& shared = depot();
    if (Magazine* spare = pool.spares[c]; spare && spare->count != 0) {
      write(pool.spares[c], unload(c));
      load(c, *spare);
    } else if (!exchange_empty(shared, c)) {
      if (void* stray = take_stray(shared, c)) return stray;
      if (!list.magazine) {
        Magazine* magazine = new_magazine(shared);
        if (!magazine) throw std::bad_alloc();
        load(c, *magazine);
      }
      cut_frames(c);
    }
  }
  void** top = list.top - 1;
  write(list.top, top);
  return *top;
}

// The list of class `c` is full: its magazine becomes the spare one, and a full one that was goes to the depot.
void put_away(void* memory, std::size_t c) noexcept {
  if (OURO_UNLIKELY(pool.reaped)) return free_late(memory, c);
  register_thread();
  FreeList& list = pool.lists[c];
  if (list.top == list.limit) {
    Depot& shared = depot();
    Magazine* empty = pool.spares[c];
    Magazine* full = nullptr;
    if (empty && empty->count != 0) full = std::exchange(empty, nullptr);
    if (!empty) empty = new_magazine(shared);
    if (!empty) return free_late(memory, c);
    write(pool.spares[c], unload(c));
    load(c, *empty);
    if (full) {
      std::scoped_lock lock(shared.mutex);
      deposit(shared, c, full);
    }
  }
  *list.top = memory;
  write(list.top, list.top + 1);
}

FreeList& list_at(std::size_t offset) noexcept {
  return *reinterpret_cast<FreeList*>(reinterpret_cast<char*>(pool.lists.data()) + offset);
}

OURO_NOINLINE void* allocate_slowly(std::size_t c) {
  if (OURO_LIKELY(pool.counters == 0)) return refill(c);
  ++pool.counted;
  hide(c);
  struct Hide {
    std::size_t c;
    ~Hide() { hide(c); }
  } again{c};
  if (FreeList& list = pool.lists[c]; list.top != list.bottom) {
    write(list.top, list.top - 1);
    return *list.top;
  }
  return refill(c);
}

OURO_NOINLINE void free_slowly(void* memory, std::size_t c) noexcept {
  if (OURO_LIKELY(pool.counters == 0)) return put_away(memory, c);
  hide(c);
  put_away(memory, c);
  hide(c);
}

}  // namespace

namespace {

void count_large(std::uint64_t change) noexcept {
  register_thread();
  if (OURO_UNLIKELY(pool.reaped)) {
    Depot& shared = depot();
    std::scoped_lock lock(shared.mutex);
    shared.cut += change;
  } else {
    write(pool.cut, pool.cut + change);
  }
}

}  // namespace

void* allocate_large_frame(std::size_t bytes) {
  void* memory = ::operator new(bytes);
  count_large(1);
  pool.counted += pool.counters != 0;
  return memory;
}

void free_large_frame(void* memory, std::size_t bytes) noexcept {
  count_large(~std::uint64_t{0});
  ::operator delete(memory, bytes);
}

void* allocate_small_frame(std::size_t list_offset) {
  if (OURO_ASAN) return allocate_large_frame((list_offset / frame_list_bytes + 1) * class_bytes);
  FreeList& list = list_at(list_offset);
  void** top = list.top;
  if (OURO_UNLIKELY(top == list.bottom)) return allocate_slowly(list_offset / frame_list_bytes);
  void* frame = *--top;
  write(list.top, top);
  const auto ahead = reinterpret_cast<std::uintptr_t>(*(top - prefetch_distance));  // some word, near the bottom
  __builtin_prefetch(reinterpret_cast<const void*>(ahead), 1);
  __builtin_prefetch(reinterpret_cast<const void*>(ahead + 64), 1);
  __builtin_prefetch(reinterpret_cast<const void*>(ahead + 128), 1);
  return frame;
}

void free_small_frame(void* memory, std::size_t list_offset) noexcept {
  if (OURO_ASAN) return free_large_frame(memory, (list_offset / frame_list_bytes + 1) * class_bytes);
  FreeList& list = list_at(list_offset);
  void** top = list.top;
  if (OURO_UNLIKELY(top == list.limit)) return free_slowly(memory, list_offset / frame_list_bytes);
  *top = memory;
  write(list.top, top + 1);
}

namespace {

constexpr std::size_t zeros_from_heap = std::size_t{64} << 10;  // up to here clearing is cheaper than a mapping

}  // namespace

void* allocate_zeros(std::size_t bytes) {
  if (bytes <= zeros_from_heap) {
    void* const memory = std::calloc(bytes, 1);
    if (!memory) throw std::bad_alloc();
    return memory;
  }
  void* const memory = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  return memory;
}

void free_zeros(void* memory, std::size_t bytes) noexcept {
  if (bytes <= zeros_from_heap) {
    std::free(memory);
  } else {
    ::munmap(memory, bytes);
  }
}

std::uint64_t frames_alive() noexcept {
  register_thread();
  Depot& shared = depot();
  std::scoped_lock lock(shared.mutex);
  std::uint64_t alive = shared.cut - shared.frames;
  for (const ThreadPool* p = shared.pools; p; p = p->next) alive += read(p->cut) - held(*p);
  return alive;
}

FrameCounter::FrameCounter() noexcept {
  register_thread();
  if (pool.counters++ == 0) hide_all();
  before_ = pool.counted;
}

FrameCounter::~FrameCounter() {
  if (!pool.reaped && --pool.counters == 0) hide_all();
}

std::uint64_t FrameCounter::count() const noexcept { return pool.counted - before_; }

}  // namespace ouro::detail
