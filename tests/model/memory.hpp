// The memory of a model: what an atomic operation may read, and where a store may go in its location's modification
// order.
//
// It is the memory model of C++20 (as Lahav, Vafeiadis, Kang, Hur and Dreyer repaired it in "Repairing sequential
// consistency in C/C++11", PLDI 2017, doi 10.1145/3062341.3062352), without load buffering: an operation reads only
// what has been executed already. Everything else that the standard permits is offered as a choice:
//
//   - Each location keeps all its stores, in modification order. A load may read any store that coherence leaves it:
//     none older than one that happened before, or that an operation which happened before has read or written.
//   - A store goes anywhere in the order behind those, for the order of execution is not the modification order.
//   - A read-modify-write reads a store that no other one has read, and goes directly behind it.
//   - Happens-before is kept in vector clocks. A store carries what its readers acquire: the clock of the thread
//     (release), or of its last release fence (relaxed), and for a read-modify-write what the store that it read
//     carried as well: the release sequences of C++20.
//   - A choice is offered only if there is still a single total order of the seq_cst operations and fences, consistent
//     with strongly-happens-before and with coherence ([atomics.order] 4): the constraints form a graph without a
//     circle. The newest store is always a choice, so no execution gets stuck.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <vector>

namespace ouro::model {

inline constexpr unsigned threads_max = 6;
using Tick = std::uint16_t;
__extension__ typedef unsigned __int128 TotalMask;  // of sequentially consistent operations

// One operation of one thread; tick 0 of any thread happened before everything.
struct Stamp {
  unsigned thread = 0;
  Tick tick = 0;
};

class VectorClock {
 public:
  Tick operator[](unsigned thread) const noexcept { return ticks_[thread]; }
  Tick& operator[](unsigned thread) noexcept { return ticks_[thread]; }
  bool knows(Stamp of) const noexcept { return ticks_[of.thread] >= of.tick; }
  void join(const VectorClock& other) noexcept {
    for (unsigned i = 0; i < ticks_.size(); ++i) ticks_[i] = ticks_[i] < other.ticks_[i] ? other.ticks_[i] : ticks_[i];
  }

 private:
  alignas(16) std::array<Tick, 8> ticks_{};
};

// What a thread knows. Its own component of `known` is the tick of its next operation.
struct View {
  VectorClock known;
  VectorClock fenced;      // at its last release fence
  VectorClock unacquired;  // what its relaxed loads have found, for an acquire fence to take
};

inline std::uint64_t mix(std::uint64_t a, std::uint64_t b) noexcept {
  std::uint64_t x = (a ^ (b + 0x9e3779b97f4a7c15ULL + (a << 6) + (a >> 2))) * 0xff51afd7ed558ccdULL;
  x ^= x >> 32;
  return x * 0xc4ceb9fe1a85ec53ULL ^ x >> 29;
}

bool acquires(std::memory_order order) noexcept;
bool releases(std::memory_order order) noexcept;

class Location {
 public:
  struct Store {
    std::uint64_t value;
    Stamp by;
    VectorClock carried;  // what an acquiring reader gets
    bool exchanged;       // a read-modify-write: stays directly behind its predecessor
    std::uint16_t place;  // in the modification order
  };

  const std::vector<Store>& stores() const noexcept { return stores_; }
  const Store& newest() const noexcept { return stores_[order_.back()]; }

  // Stored by a thread that did so when the reader could not know.
  const Store* unknown_to(const VectorClock& known) const noexcept {
    for (const Store& store : stores_) {
      if (!known.knows(store.by)) return &store;
    }
    return nullptr;
  }
  // True if another thread has done something here that nothing puts in order with what `thread` is about to do.
  bool conflicts(unsigned thread, const VectorClock& known, bool writes) noexcept;
  void overwrite() noexcept { overwritten_ = true; }
  bool overwritten() const noexcept { return overwritten_; }

 private:
  friend class Memory;

  // One operation, for the order of the seq_cst ones.
  struct Access {
    Stamp by;
    std::uint16_t store;
    bool writes;
    int total;          // its number among the seq_cst operations, or -1
    VectorClock known;  // what happened before it
  };
  struct Seen {
    Tick tick;
    std::uint16_t store;
  };

  std::uintptr_t address_ = 0;
  std::uint64_t hash_ = 0;
  bool overwritten_ = false;                        // by a plain write: it begins anew
  std::array<Tick, threads_max> read_{}, wrote_{};  // by thread: its last
  std::vector<Store> stores_;
  std::vector<std::uint16_t> order_;                   // stores, oldest first
  std::array<std::vector<Seen>, threads_max> seen_;    // by thread: what its operations have read or written
  std::array<std::uint16_t, threads_max> old_read_{};  // by thread: the old store that it read, and 1; to read it again
                                                       // is not counted
  std::array<bool, threads_max> looked_at_{};          // by thread: loaded since its last yield
  std::array<std::uint16_t, threads_max> caught_up_{};  // by thread: the store that it has seen at its last yield
  std::vector<Access> accesses_;
};

// What an operation did.
struct Effect {
  std::uint64_t value;  // what it read, or wrote
  Stamp from;           // the store that it read or made
  bool done;            // a compare-exchange succeeded
  unsigned stale;       // how many newer stores there were
};

class Memory {
 public:
  // Picks one of `count` possibilities; the first is what a machine would do most often.
  using Choose = unsigned (*)(unsigned count);
  explicit Memory(Choose choose) noexcept : choose_(choose) {}

  // `stale`: how many operations may have another effect than the newest possible. Who reads an old value again, and
  // again, has done so once.
  void reset(unsigned stale) noexcept;
  unsigned stale_left() const noexcept { return stale_left_; }

  // The location at an address; made when it is first met, or first after what it held was forgotten, with `initial` in
  // it from the beginning of time: plain writes, which began it, are in order with whatever comes here, or the program
  // is wrong in another way.
  Location& at(const void* address, std::uint64_t initial);
  // The location at an address, or nullptr if it has not been met.
  Location* find(const void* address) noexcept;
  // An object was made there: what the address held before is forgotten.
  void forget(const void* address) noexcept;

  // `more` (or nullptr) is known to whoever reads on the thread's behalf, besides what the thread knows.
  Effect load(Location& at, unsigned thread, View& view, std::memory_order order, const VectorClock* more = nullptr);
  Effect store(Location& at, unsigned thread, View& view, std::uint64_t value, std::memory_order order);
  // `change` makes the new value of the old one.
  template <class Change>
  Effect exchange(Location& at, unsigned thread, View& view, Change change, std::memory_order order) {
    const Candidate chosen = choose_source(at, thread, view, order);
    return commit_exchange(at, thread, view, chosen, change(at.stores_[chosen.store].value), order);
  }
  Effect compare_exchange(Location& at, unsigned thread, View& view, std::uint64_t expected, std::uint64_t desired,
                          std::memory_order success, std::memory_order failure);
  // A sequentially consistent one gives its number; it comes behind those whose bits are set in `after`, besides what
  // the threads know of each other.
  unsigned fence(unsigned thread, View& view, std::memory_order order, TotalMask after = 0);
  // From here on the thread's loads find what was there now, at the places that it has looked at since the last call.
  void catch_up(unsigned thread) noexcept;

  // The modification orders; the rest of the state is what each thread has read.
  std::uint64_t hash() const noexcept { return hash_; }

 private:
  struct Candidate {
    std::uint16_t store;  // to read; or the place to write at
    bool exchanges;
  };
  // A seq_cst operation or fence.
  struct Total {
    Stamp by;
    bool fence;
    VectorClock before;  // known to its thread when it began
    VectorClock known;   // the same, with what it acquired
    TotalMask after = 0;
  };

  void begin(Location& made, std::uint64_t initial) noexcept;
  std::uint16_t oldest_visible(const Location& at, unsigned thread, const VectorClock& known) const noexcept;
  bool taken(const Location& at, std::uint16_t place) const noexcept;
  Candidate choose_candidate(Location& at, unsigned thread, bool reads);
  Candidate choose_source(Location& at, unsigned thread, const View& view, std::memory_order order);
  Effect commit_exchange(Location& at, unsigned thread, View& view, Candidate from, std::uint64_t value,
                         std::memory_order order);
  Effect commit_load(Location& at, unsigned thread, View& view, std::uint16_t store, std::memory_order order);
  void insert(Location& at, std::uint16_t place, const Location::Store& store);
  void remove_last(Location& at) noexcept;
  void note(Location& at, unsigned thread, const View& view, std::uint16_t store, bool writes, bool acquire,
            bool total);
  void forget_last(Location& at) noexcept;
  bool permitted(Location& at, unsigned thread, const View& view, Candidate what, bool reads, bool writes,
                 std::memory_order order);
  bool ordered() const;
  void rehash(Location& at) noexcept;

  Choose choose_;
  unsigned stale_left_ = 0;
  std::uint64_t hash_ = 0;
  std::vector<Location> locations_;  // the first `used_`
  std::size_t used_ = 0;
  struct Slot {
    std::uintptr_t address;
    std::uint32_t generation;
    std::uint32_t index;
  };
  std::vector<Slot> table_ = std::vector<Slot>(1024);
  std::uint32_t generation_ = 1;
  std::vector<Total> totals_;
  std::vector<Candidate> candidates_;
};

}  // namespace ouro::model
