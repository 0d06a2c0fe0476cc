// What the program's threads do, seen by the checker: atomics, fences, mutexes, futexes, joins. Each operation lets
// other threads go first (step), has one of its possible effects, and leaves its mark in the thread's history.
//
// A mutex is handed over with all that its last owner knew. The kernel's futex orders its own calls by a lock of a
// bucket: a wait that comes behind a wake sees in the word what the waker had seen, and that is all: neither gives the
// other's writes to the program ("orders nothing", as futex.hpp says).
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <utility>

#include "machine.hpp"

namespace ouro::model {
namespace {

using Order = std::memory_order;

std::uint64_t peek(const void* at, unsigned size) noexcept {
  std::uint64_t value = 0;
  std::memcpy(&value, at, size);
  return value;
}

std::uint64_t changed_value(Change how, std::uint64_t old, std::uint64_t operand, unsigned size) noexcept {
  const std::uint64_t mask = size == 8 ? ~std::uint64_t{0} : (std::uint64_t{1} << size * 8) - 1;
  switch (how) {
    case Change::exchange:
      return operand & mask;
    case Change::add:
      return (old + operand) & mask;
    case Change::subtract:
      return (old - operand) & mask;
    case Change::conjoin:
      return old & operand;
    case Change::disjoin:
      return (old | operand) & mask;
    case Change::differ:
      return (old ^ operand) & mask;
  }
  return old;
}

const char* name_of(Change how) noexcept {
  static constexpr std::array<const char*, 6> names{"exchange",  "fetch_add", "fetch_sub",
                                                    "fetch_and", "fetch_or",  "fetch_xor"};
  return names[static_cast<std::size_t>(how)];
}

const char* name_of(Order order) noexcept {
  static constexpr std::array<const char*, 6> names{"relaxed", "consume", "acquire", "release", "acq_rel", "seq_cst"};
  return names[static_cast<std::size_t>(order)];
}

std::string base_name(const char* path) {
  const char* slash = std::strrchr(path, '/');
  return slash ? slash + 1 : path;
}

// "ouro::detail::post_to" of "bool ouro::detail::post_to(LoopState&, ReadyNode&)".
std::string short_name(std::string signature) {
  const std::size_t with = signature.find(" [");  // g++ writes " [with T = int]", clang " [T = int]"
  if (with != std::string::npos) signature.resize(with);
  const std::size_t open = signature.rfind('(');
  std::size_t end = open == std::string::npos ? signature.size() : open;
  std::size_t begin = end;
  for (int depth = 0; begin > 0 && (depth > 0 || signature[begin - 1] != ' '); --begin) {
    depth += (signature[begin - 1] == '>') - (signature[begin - 1] == '<');
  }
  return signature.substr(begin, end - begin);
}

std::uint64_t bits_of(Stamp stamp) noexcept { return std::uint64_t{stamp.thread} << 16 | stamp.tick; }

}  // namespace

// ---- Sites and mutations ----

const Mutation* Machine::meet(const Place& place, const char* operation, Order order, const Order* failure) {
  const SiteKey key{place.file_name(), operation, place.line(), place.column()};
  auto found = sites_.find(key);
  if (found == sites_.end()) {
    const Site site{base_name(place.file_name()),
                    short_name(place.function_name()),
                    place.line(),
                    place.column(),
                    operation,
                    order,
                    failure ? *failure : std::memory_order_relaxed,
                    failure != nullptr};
    const bool meant = options_.mutation && !mutated_file_.empty() && site.file == mutated_file_ &&
                       site.line == mutated_line_ && site.column == mutated_column_ &&
                       options_.mutation->operation == operation;
    found = sites_.emplace(key, SiteEntry{site, meant}).first;
  }
  return found->second.mutated ? options_.mutation : nullptr;
}

void Machine::did(const char* what, const void* at, const Place* place, std::uint64_t result, const Effect* effect,
                  Order order) {
  Thread& thread = self();
  thread.history = mix(thread.history, result);
  // What it costs to read the same value again depends on this.
  if (effect && effect->stale != 0 && options_.stale != Options().stale) thread.history = mix(thread.history, 0x57a1e);
  if (tracing_) {
    std::array<char, 256> line;
    int used =
        std::snprintf(line.data(), line.size(), "  T%u %-23s %-18s", current_, what, at ? describe(at).c_str() : "");
    if (effect && used > 0) {
      std::snprintf(line.data() + used, line.size() - static_cast<std::size_t>(used), " %s %s%#llx%s",
                    effect->done ? "" : "gives", effect->stale != 0 ? "(an old value) " : "",
                    static_cast<unsigned long long>(effect->value),
                    place ? (std::string("  ") + name_of(order)).c_str() : "");
    }
    trace_ += line.data();
    if (place) trace_ += "  " + base_name(place->file_name()) + ":" + std::to_string(place->line());
    trace_ += "\n";
  }
  if (thread.delayed) {
    const auto delayed = std::exchange(thread.delayed, nullptr);
    delayed();
  }
}

std::string Machine::describe(const void* address) const {
  const auto found = names.find(address);
  if (found != names.end()) return found->second;
  std::array<char, 32> text;
  std::snprintf(text.data(), text.size(), "%p", address);
  return text.data();
}

// ---- Atomics ----

namespace {

// What an operation acts on: an Atomic, or a word that is plain at other times.
struct Target {
  void* at;
  unsigned size;
  bool word;

  // Requires: no step() comes between this and what is done with it.
  Location& location(Machine& m) const {
    m.shadow.touch(at, size, word ? Shadow::Touch::word : Shadow::Touch::atomic, __builtin_return_address(0));
    return m.memory.at(at, peek(at, size));
  }
  void written(Machine& m, const Location& location) const {
    if (word) std::memcpy(at, &location.newest().value, size);
    m.changed();
  }
};

std::uint64_t load(Target target, Order order, const Place& place) {
  if (!active) return peek(target.at, target.size);
  const Inside inside;
  Machine& m = machine();
  const Mutation* mutation = m.meet(place, "load", order, nullptr);
  if (mutation && mutation->what == Mutate::pretend) return mutation->value;
  if (mutation && mutation->what == Mutate::weaken) order = mutation->order;
  m.step(target.at);
  Location& location = target.location(m);
  m.meets(location, target.at, false);
  const Effect effect = m.memory.load(location, m.current(), m.self().view, m.simplify(order, target.at, true, false));
  m.did("load", target.at, &place, bits_of(effect.from), &effect, order);
  return effect.value;
}

void store_now(Machine& m, Target target, std::uint64_t value, Order order, const Place& place) {
  m.step(target.at);
  Location& location = target.location(m);
  m.meets(location, target.at, true);
  const Effect effect =
      m.memory.store(location, m.current(), m.self().view, value, m.simplify(order, target.at, false, true));
  target.written(m, location);
  m.did("store", target.at, &place, 1, &effect, order);
}

void store(Target target, std::uint64_t value, Order order, const Place& place) {
  if (!active) {
    std::memcpy(target.at, &value, target.size);
    return;
  }
  const Inside inside;
  Machine& m = machine();
  const Mutation* mutation = m.meet(place, "store", order, nullptr);
  if (mutation && mutation->what == Mutate::drop) return;
  if (mutation && mutation->what == Mutate::weaken) order = mutation->order;
  if (mutation && mutation->what == Mutate::delay) {
    m.self().delayed = [&m, target, value, order, place] { store_now(m, target, value, order, place); };
    return;
  }
  store_now(m, target, value, order, place);
}

std::uint64_t change_now(Machine& m, Target target, Change how, std::uint64_t operand, Order order,
                         const Place& place) {
  m.step(target.at);
  Location& location = target.location(m);
  m.meets(location, target.at, true);
  const Effect effect = m.memory.exchange(
      location, m.current(), m.self().view,
      [&](std::uint64_t old) { return changed_value(how, old, operand, target.size); },
      m.simplify(order, target.at, true, true));
  target.written(m, location);
  m.did(name_of(how), target.at, &place, bits_of(effect.from), &effect, order);
  return effect.value;
}

std::uint64_t change(Target target, Change how, std::uint64_t operand, Order order, const Place& place) {
  if (!active) {
    const std::uint64_t old = peek(target.at, target.size);
    const std::uint64_t value = changed_value(how, old, operand, target.size);
    std::memcpy(target.at, &value, target.size);
    return old;
  }
  const Inside inside;
  Machine& m = machine();
  const Mutation* mutation = m.meet(place, name_of(how), order, nullptr);
  if (!mutation) return change_now(m, target, how, operand, order, place);
  switch (mutation->what) {
    case Mutate::drop:
      return target.location(m).newest().value;
    case Mutate::delay: {
      m.self().delayed = [&m, target, how, operand, order, place] {
        change_now(m, target, how, operand, order, place);
      };
      return target.location(m).newest().value;
    }
    case Mutate::tear: {
      m.step(target.at);
      Location& location = target.location(m);
      m.meets(location, target.at, true);
      const Effect effect = m.memory.load(location, m.current(), m.self().view, order);
      m.did("load (torn)", target.at, &place, bits_of(effect.from), &effect, order);
      store_now(m, target, changed_value(how, effect.value, operand, target.size), order, place);
      return effect.value;
    }
    case Mutate::weaken:
      order = mutation->order;
      break;
    default:
      break;
  }
  return change_now(m, target, how, operand, order, place);
}

bool compare_exchange(Target target, std::uint64_t& expected, std::uint64_t desired, Order success, Order failure,
                      bool weak, const Place& place) {
  if (!active) {
    const std::uint64_t old = peek(target.at, target.size);
    const bool same = old == expected;
    if (same) std::memcpy(target.at, &desired, target.size);
    if (!same) expected = old;
    return same;
  }
  const Inside inside;
  Machine& m = machine();
  const char* const name = weak ? "compare_exchange_weak" : "compare_exchange_strong";
  const Mutation* mutation = m.meet(place, name, success, &failure);
  if (mutation && mutation->what == Mutate::weaken) success = mutation->order;
  if (mutation && mutation->what == Mutate::weaken_failure) failure = mutation->order;
  if (mutation && (mutation->what == Mutate::pretend || mutation->what == Mutate::drop)) return true;
  m.step(target.at);
  Location& location = target.location(m);
  if ((mutation && mutation->what == Mutate::tear) || (weak && m.surprise())) {
    m.meets(location, target.at, mutation != nullptr);
    const Effect effect = m.memory.load(location, m.current(), m.self().view, failure);
    m.did("load (no exchange)", target.at, &place, bits_of(effect.from), &effect, failure);
    if (mutation && effect.value == expected) {
      store_now(m, target, desired, success, place);
      return true;
    }
    expected = effect.value;
    return false;
  }
  m.meets(location, target.at, true);
  const Effect effect = m.memory.compare_exchange(location, m.current(), m.self().view, expected, desired,
                                                  m.simplify(success, target.at, true, true),
                                                  m.simplify(failure, target.at, true, false));
  if (effect.done) target.written(m, location);
  m.did(name, target.at, &place, bits_of(effect.from) << 1 | effect.done, &effect, effect.done ? success : failure);
  if (!effect.done) expected = effect.value;
  return effect.done;
}

void* plain(const void* at) noexcept { return const_cast<void*>(at); }

}  // namespace

void made(void* at, unsigned size) noexcept {
  if (!active) return;
  const Inside inside;
  Machine& m = machine();
  m.shadow.touch(at, size, Shadow::Touch::write, __builtin_return_address(0));
  m.memory.forget(at);
}

std::uint64_t load(const void* at, unsigned size, Order order, const Place& place) noexcept {
  return load(Target{plain(at), size, false}, order, place);
}
void store(void* at, unsigned size, std::uint64_t value, Order order, const Place& place) noexcept {
  store(Target{at, size, false}, value, order, place);
}
std::uint64_t change(void* at, unsigned size, Change how, std::uint64_t operand, Order order,
                     const Place& place) noexcept {
  return change(Target{at, size, false}, how, operand, order, place);
}
bool compare_exchange(void* at, unsigned size, std::uint64_t& expected, std::uint64_t desired, Order success,
                      Order failure, bool weak, const Place& place) noexcept {
  return compare_exchange(Target{at, size, false}, expected, desired, success, failure, weak, place);
}

std::uint64_t load_word(const void* at, unsigned size, Order order, const Place& place) noexcept {
  return load(Target{plain(at), size, true}, order, place);
}
void store_word(void* at, unsigned size, std::uint64_t value, Order order, const Place& place) noexcept {
  store(Target{at, size, true}, value, order, place);
}
std::uint64_t change_word(void* at, unsigned size, Change how, std::uint64_t operand, Order order,
                          const Place& place) noexcept {
  return change(Target{at, size, true}, how, operand, order, place);
}
bool compare_exchange_word(void* at, unsigned size, std::uint64_t& expected, std::uint64_t desired, Order success,
                           Order failure, bool weak, const Place& place) noexcept {
  return compare_exchange(Target{at, size, true}, expected, desired, success, failure, weak, place);
}

void fence(Order order, const Place& place) noexcept {
  if (!active) return;
  const Inside inside;
  Machine& m = machine();
  const Mutation* mutation = m.meet(place, "fence", order, nullptr);
  if (mutation && mutation->what == Mutate::drop) return;
  if (mutation && mutation->what == Mutate::weaken) order = mutation->order;
  m.step();
  m.memory.fence(m.current(), m.self().view, order);
  m.did("fence", nullptr, &place, 2, nullptr, order);
}

// As membarrier(2) does: each other thread executes a fence at some point of its running, after the caller has begun
// and before he goes on. The point is where it stands; the caller may be preempted before that and after it. The fences
// have their order and no more: what threads know of each other, and so what is a data race, stays as it was.
void Machine::heavy_barrier(const Place& place) {
  const Mutation* mutation = meet(place, "heavy_barrier", Order::seq_cst, nullptr);
  if (mutation && mutation->what == Mutate::drop) return;
  step();
  const auto bit = [](unsigned number) { return TotalMask{1} << number; };
  const TotalMask first = bit(memory.fence(current_, self().view, Order::seq_cst));
  TotalMask all = first;
  for (unsigned i = 0; i < count_ && !mutated("a heavy barrier of one thread"); ++i) {
    if (i == current_) continue;  // one that has ended had its fence when it left the processor
    all |= bit(memory.fence(i, threads_[i].view, Order::seq_cst, first));
    threads_[i].history = mix(threads_[i].history, bits_of({current_, self().view.known[current_]}));
  }
  memory.fence(current_, self().view, Order::seq_cst, all);
  did("heavy barrier", nullptr, &place, 4);
}

// ---- What orders by itself ----

// Lets an order of operations that is not a location's enter the state.
void Machine::rechain(std::uint64_t& hash) noexcept {
  order_hash_ -= hash;
  hash = mix(hash, bits_of({current_, self().view.known[current_]}));
  order_hash_ += hash;
}

void Machine::lock(const void* mutex, bool recursive) {
  step();
  shadow.touch(mutex, 1, Shadow::Touch::atomic, nullptr);
  if (Mutex& held = mutexes_[mutex]; recursive && held.owner == static_cast<int>(current_)) {
    ++held.again;
    did("lock, again", mutex, nullptr, held.again);
    return;
  }
  while (mutexes_[mutex].owner >= 0) block(Status::in_mutex, mutex);
  Mutex& taken = mutexes_[mutex];
  taken.owner = static_cast<int>(current_);
  self().view.known.join(taken.known);
  const std::uint64_t before = taken.hash;
  rechain(taken.hash);
  ++self().view.known[current_];
  did("lock", mutex, nullptr, before);
}

bool Machine::try_lock(const void* mutex) {
  step();
  if (mutexes_[mutex].owner >= 0) {
    did("try_lock, in vain", mutex, nullptr, mutexes_[mutex].hash + 1);
    return false;
  }
  lock(mutex);
  return true;
}

void Machine::unlock(const void* mutex) {
  shadow.touch(mutex, 1, Shadow::Touch::atomic, nullptr);
  Mutex& left = mutexes_[mutex];
  if (left.owner != static_cast<int>(current_)) fail("a mutex is unlocked by a thread that has not locked it");
  if (left.again != 0) {
    --left.again;
    did("unlock, once", mutex, nullptr, left.again);
    return;
  }
  left.owner = -1;
  left.known = self().view.known;
  rechain(left.hash);
  ++self().view.known[current_];
  changed();
  for (unsigned i = 0; i < count_; ++i) {
    if (threads_[i].status == Status::in_mutex && threads_[i].waits_for == mutex) threads_[i].status = Status::ready;
  }
  did("unlock", mutex, nullptr, 3);
}

bool Machine::futex_wait(const void* word, std::uint32_t initial, std::uint32_t expected, bool timed) {
  contest(word);
  step();
  shadow.touch(word, 4, Shadow::Touch::atomic, nullptr);
  Futex& futex = futexes_[word];
  const Effect effect =
      memory.load(memory.at(word, initial), current_, self().view, std::memory_order_relaxed, &futex.known);
  const bool sleeps = static_cast<std::uint32_t>(effect.value) == expected && !surprise();
  rechain(futex.hash);
  did(sleeps ? "futex_wait, sleeps" : "futex_wait, does not", word, nullptr, bits_of(effect.from) << 1 | sleeps,
      &effect);
  if (!sleeps) return true;
  Thread& thread = self();
  futex.waiters.push_back(current_);
  thread.timed = timed;
  thread.woken = false;
  block(Status::in_futex, word);
  thread.timed = false;
  did(thread.woken ? "  is woken" : "  its time is over", word, nullptr, thread.woken);
  return thread.woken;
}

void Machine::futex_wake(const void* word, std::uint32_t most) {
  if (options_.mutation && options_.mutation->what == Mutate::no_wake) return;
  step();
  Futex& futex = futexes_[word];
  futex.known.join(self().view.known);
  rechain(futex.hash);
  ++self().view.known[current_];
  did("futex_wake", word, nullptr, futex.waiters.size());
  for (; most != 0 && !futex.waiters.empty(); --most) {
    // The kernel promises no order.
    const unsigned which = choose(static_cast<unsigned>(futex.waiters.size()));
    Thread& woken = threads_[futex.waiters[which]];
    futex.waiters.erase(futex.waiters.begin() + which);
    woken.status = Status::ready;
    woken.woken = true;
    woken.history = mix(woken.history, futex.hash);
  }
  changed();
}

void Machine::join(unsigned thread) {
  step();
  self().joins = thread;
  while (threads_[thread].status != Status::ended) block(Status::in_join, nullptr);
  self().view.known.join(threads_[thread].view.known);
  ++self().view.known[current_];
  did("join", nullptr, nullptr, thread);
}

void Machine::foreign_atomic(const void* at, Order order, bool writes, const void* pc) {
  if (writes) step();
  shadow.touch(at, 1, Shadow::Touch::atomic, pc);
  // Reference counts are read together with their neighbours: eight bytes are one.
  Foreign& foreign = foreigners_[reinterpret_cast<std::uintptr_t>(at) >> 3];
  const std::uint64_t before = foreign.hash;
  if (acquires(order)) self().view.known.join(foreign.known);
  if (writes) {
    if (releases(order)) foreign.known.join(self().view.known);
    rechain(foreign.hash);
    changed();
  }
  ++self().view.known[current_];
  did(writes ? "a count of the library" : "a look at a count", at, nullptr, before);
}

}  // namespace ouro::model
