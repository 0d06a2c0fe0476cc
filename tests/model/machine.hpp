// The inside of the checker: threads as fibers, the trail of decisions, plain memory. One object, `machine`.
//
// A fiber is a stack, and a copy of the program's thread-local variables and of the exceptions in flight, which are
// exchanged when another one goes on. `active` is true while code of the program runs; in the checker, on whatever
// stack, it is false, and every stand-in then does what the real thing does.
#pragma once

#include <cxxabi.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include <model/checked_atomic.hpp>
#include <model/checker.hpp>
#include <model/mutants.hpp>

#include "memory.hpp"

namespace ouro::model {

extern bool active;

// While one lives, the checker is at work.
class Inside {
 public:
  Inside() noexcept { active = false; }
  Inside(const Inside&) = delete;
  Inside& operator=(const Inside&) = delete;
  ~Inside() { active = true; }
};

// What happened to each byte of plain memory, for data races; and the program's heap. See shadow.cpp.
class Shadow {
 public:
  // `word`: atomic, of what is plain at other times.
  enum class Touch : std::uint8_t { read, write, atomic, word, free };

  Shadow();
  Shadow(const Shadow&) = delete;
  Shadow& operator=(const Shadow&) = delete;

  void reset() noexcept;
  void touch(const void* address, std::size_t bytes, Touch how, const void* pc);

  // Fresh memory that is not from here.
  void forget(const void* address, std::size_t bytes);

  // Each thread cuts its memory from a piece of its own, so that addresses depend on what it did alone. Nothing is
  // used twice in one execution.
  void* allocate(std::size_t bytes, std::size_t alignment);
  void free(void* memory, const void* pc);
  bool owns(const void* memory) const noexcept;
  std::string leaks() const;
  [[noreturn]] void report(std::uintptr_t address, Touch how, const void* pc, unsigned other, Tick tick, bool wrote,
                           bool freed);

 private:
  struct Cell {
    Tick written;
    std::uint8_t writer;
    bool freed;
    std::array<Tick, threads_max> read;  // atomic accesses too: only what is plain conflicts with them
  };
  static constexpr std::size_t word_bytes = 8;
  static constexpr std::size_t page_words = 8;
  static constexpr std::size_t page_bytes = word_bytes * page_words;
  // A word has one cell until a part of it is used, and then one for each byte.
  struct Page {
    std::uintptr_t key;
    std::uint32_t generation;
    std::uint8_t shared;                           // a bit for each word that atomic operations use too
    std::array<std::uint32_t, page_words> parted;  // where in parted_ its cells are, and 1; or 0
    std::array<Cell, page_words> cells;
  };
  struct Chunk {
    void* address;
    std::size_t bytes;
    unsigned thread;
    bool live;
  };
  struct Logged {
    std::uintptr_t address;
    std::size_t bytes;
    Stamp by;
    bool writes;
    const void* pc;
  };

  bool again(const void* address, Touch how) const noexcept;
  Page& page(std::uintptr_t key);
  bool admit(Cell& cell, Touch how) noexcept;
  void check_word(std::uintptr_t address, unsigned from, unsigned to, Touch how, const void* pc);
  [[noreturn]] void refuse(const Cell& cell, std::uintptr_t address, Touch how, const void* pc);
  std::string describe(std::uintptr_t address) const;

  std::vector<Page> pages_;  // of what is not on the heap, by a hash
  Page* heap_pages_;
  std::vector<std::array<Cell, word_bytes>> parted_;
  std::size_t pages_used_ = 0;
  Page* last_ = nullptr;
  std::uint32_t generation_ = 1;
  char* heap_;
  std::array<std::size_t, threads_max> cut_{};
  std::vector<Chunk> chunks_;
  std::vector<Logged> log_;  // while tracing
};

enum class Status : std::uint8_t { ready, yielded, in_futex, in_mutex, in_join, ended };

struct Thread {
  Status status = Status::ended;
  bool stayed = false;       // went on after a yield since something changed
  unsigned passed_over = 0;  // yields of others, since it ran last, in which it could have
  bool timed = false;        // in_futex with a deadline
  bool woken = false;        // by futex_wake, not by the deadline
  View view;
  std::uint64_t history = 0;  // a hash of what it did and read
  const void* waits_for = nullptr;
  unsigned joins = 0;
  std::function<void()> body;
  std::function<void()> delayed;  // an operation that a mutant put off
  void* stack = nullptr;
  void* pointer = nullptr;  // where the stack was left
  std::vector<char> locals;
  std::array<void*, 2> exceptions{};
  std::string last;  // what it did last, while tracing
};

class Machine {
 public:
  Machine();
  Machine(const Machine&) = delete;
  Machine& operator=(const Machine&) = delete;

  Report explore(const Options& options, const std::function<void()>& program);

  // ---- For the operations; on a fiber, inside ----

  Thread& self() noexcept { return threads_[current_]; }
  unsigned current() const noexcept { return current_; }
  unsigned choose(unsigned count);
  // Before an operation: another thread may go first.
  void step();
  // Before one on `at`. No other thread needs to go first if none will ever be in conflict with it over that; which
  // addresses are contested is found out on the way, and then the exploration begins anew. (Every execution has one of
  // the same effect in which threads leave off only where it matters, unless that first conflict is in it.)
  void step(const void* at);
  // It is about to be done: what happened there is a conflict if nothing puts the two in order.
  void meets(Location& location, const void* at, bool writes);
  void contest(const void* at);
  // What a sequentially consistent operation comes to where nothing is contested: its place in the one order says no
  // more than what puts it in order with all others there.
  std::memory_order simplify(std::memory_order order, const void* at, bool reads, bool writes) const;
  // A plain access of words that atomic operations use too.
  void meet_plainly(std::uintptr_t from, std::uintptr_t to, bool writes, const void* pc);
  void yield();
  // After an operation: `result` is what the thread can tell of it.
  void did(const char* what, const void* at, const Place* place, std::uint64_t result, const Effect* effect = nullptr,
           std::memory_order order = std::memory_order_relaxed);
  // Something was written that others may wait for.
  void changed() noexcept;
  // Waits; returns when another thread has made it ready.
  void block(Status why, const void* on);
  bool surprise();
  // Registers a site; gives the mutation if it is meant.
  const Mutation* meet(const Place& place, const char* operation, std::memory_order order,
                       const std::memory_order* failure);
  const Mutation* mutation() const noexcept { return options_.mutation; }
  unsigned spawn(std::function<void()> body);
  [[noreturn]] void fail(const std::string& why);

  bool has_heavy_barrier() const noexcept { return options_.heavy_barrier; }
  // Every thread executes a sequentially consistent fence, where it is.
  void heavy_barrier(const Place& place);
  void lock(const void* mutex, bool recursive = false);
  bool try_lock(const void* mutex);
  void unlock(const void* mutex);
  bool futex_wait(const void* word, std::uint32_t initial, std::uint32_t expected, bool timed);
  void futex_wake(const void* word, std::uint32_t most);
  void join(unsigned thread);
  // An atomic of the standard library, at work in real memory.
  void foreign_atomic(const void* at, std::memory_order order, bool writes, const void* pc);

  bool tracing() const noexcept { return tracing_; }
  // True for the program's thread-local variables: each fiber has its own at the same address.
  bool is_local(const void* address) const noexcept { return address >= locals_ && address < locals_ + locals_bytes_; }
  std::string describe(const void* address) const;
  Thread& thread(unsigned number) noexcept { return threads_[number]; }

  Memory memory;
  Shadow shadow;
  std::set<std::vector<int>> outcomes;
  std::map<const void*, std::string> names;
  bool warming_up = false;  // the first execution: function-local statics are made

 private:
  struct Decision {
    std::uint16_t chosen, count;
  };
  struct Mutex {
    int owner = -1;
    unsigned again = 0;  // a recursive one: locked so often besides
    VectorClock known;
    std::uint64_t hash = 0;
  };
  struct Futex {
    std::vector<unsigned> waiters;
    VectorClock known;  // to who waked; the kernel's lock orders waits behind it
    std::uint64_t hash = 0;
  };
  struct Foreign {
    VectorClock known;
    std::uint64_t hash = 0;
  };
  enum class End : std::uint8_t { complete, pruned, restarts, failed };
  struct SiteKey {
    const char* file;
    const char* operation;
    unsigned line, column;
    auto operator<=>(const SiteKey&) const = default;
  };
  struct SiteEntry {
    Site site;
    bool mutated;
  };

  static void enter();
  void run(const std::function<void()>& program);
  void search(unsigned preemptions, std::uint64_t executions_max, Report& report);
  void reset();
  bool backtrack();
  unsigned choose_step(unsigned count);
  void decide(bool stays, bool costs);
  bool somebody_ready() const noexcept;
  void nobody_ready();
  void look_up(bool stays, bool costs);
  void switch_to(unsigned thread);
  [[noreturn]] void leave(End end);
  void save_locals(Thread& of) noexcept;
  void load_locals(const Thread& of) noexcept;
  void resolve_mutation();
  void rechain(std::uint64_t& hash) noexcept;

  Options options_;
  std::array<Thread, threads_max> threads_;
  unsigned count_ = 0;
  unsigned current_ = 0;
  unsigned left_ = 0;       // preemptions
  unsigned surprises_ = 0;  // left
  unsigned steps_ = 0;
  unsigned fruitless_ = 0;  // rounds of yielding since something changed
  std::vector<Decision> trail_;
  std::size_t depth_ = 0;
  bool tracing_ = false;
  bool replaying_ = false;  // a given schedule
  std::string trace_;
  std::string message_;
  End end_ = End::complete;
  std::unordered_set<const void*> contested_;
  std::map<const void*, std::unordered_set<const void*>> contested_of_;  // by program; too many do no harm
  const std::function<void()>* program_ = nullptr;
  std::uint64_t order_hash_ = 0;  // of mutexes, futexes and foreign atomics
  std::unordered_map<const void*, Mutex> mutexes_;
  std::unordered_map<const void*, Futex> futexes_;
  std::unordered_map<std::uintptr_t, Foreign> foreigners_;
  std::vector<std::pair<std::uint64_t, std::uint8_t>> visited_;
  std::size_t visited_count_ = 0;
  std::map<SiteKey, SiteEntry> sites_;
  std::string mutated_file_;
  unsigned mutated_line_ = 0, mutated_column_ = 0;
  Thread controller_;
  char* locals_ = nullptr;
  std::size_t locals_bytes_ = 0;
  std::vector<char> first_locals_;
};

extern Machine* const the_machine;
inline Machine& machine() noexcept { return *the_machine; }

}  // namespace ouro::model
