#include "machine.hpp"

#include <link.h>
#include <sys/mman.h>
#include <sys/single_threaded.h>
#include <ucontext.h>

#include <algorithm>
#include <chrono>
#include <cinttypes>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <tuple>
#include <utility>

#if defined(__x86_64__)
// Leaves a stack, whose pointer is kept at *rdi, for another one.
extern "C" void ouro_model_switch(void** from, void* to) noexcept;
asm(R"(
.text
.type ouro_model_switch,@function
ouro_model_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
)");
#endif

namespace ouro::model {

bool active = false;

namespace {

constexpr std::size_t stack_bytes = std::size_t{256} << 10;
constexpr unsigned passed_over_max = 6;
constexpr std::size_t visited_first = std::size_t{1} << 12;  // grows

int find_locals(dl_phdr_info* info, std::size_t, void* found) {
  auto& place = *static_cast<std::pair<char*, std::size_t>*>(found);
  for (int i = 0; i < info->dlpi_phnum; ++i) {
    if (info->dlpi_phdr[i].p_type != PT_TLS) continue;
    place = {static_cast<char*>(info->dlpi_tls_data), info->dlpi_phdr[i].p_memsz};
  }
  return 1;  // the program itself comes first, and is the only one
}

#if !defined(__x86_64__)
void ouro_model_switch(void** from, void* to) noexcept {
  static std::array<ucontext_t, threads_max + 1> contexts;  // one for each that has left
  static std::array<bool, threads_max + 1> taken{};
  std::size_t free = 0;
  while (taken[free]) ++free;
  taken[free] = true;
  *from = &contexts[free];
  auto* next = static_cast<ucontext_t*>(to);
  const auto index = static_cast<std::size_t>(next - contexts.data());
  if (index < contexts.size()) taken[index] = false;
  swapcontext(&contexts[free], next);
}
#endif

}  // namespace

Machine* const the_machine = new Machine;

Machine::Machine() : memory([](unsigned count) { return machine().choose(count); }) {
  std::pair<char*, std::size_t> found{nullptr, 0};
  dl_iterate_phdr(&find_locals, &found);
  locals_ = found.first;
  locals_bytes_ = locals_ ? found.second : 0;
  for (Thread& thread : threads_) {
    thread.stack =
        mmap(nullptr, stack_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (thread.stack == MAP_FAILED) std::abort();
  }
  std::set_terminate([] {
    if (active) model::fail("std::terminate");
    std::abort();
  });
  __libc_single_threaded = 0;  // or libstdc++ would count references without atomics
}

// ---- Fibers ----

void Machine::save_locals(Thread& of) noexcept {
  of.locals.assign(locals_, locals_ + locals_bytes_);
  std::memcpy(of.exceptions.data(), abi::__cxa_get_globals(), sizeof of.exceptions);
}

void Machine::load_locals(const Thread& of) noexcept {
  std::memcpy(locals_, of.locals.data(), locals_bytes_);
  std::memcpy(abi::__cxa_get_globals(), of.exceptions.data(), sizeof of.exceptions);
}

void Machine::enter() {
  Machine& m = machine();
  active = true;
  try {
    m.threads_[m.current_].body();
  } catch (...) {
    active = false;
    m.fail("an exception leaves a thread");
  }
  active = false;
  Thread& ended = m.self();
  if (ended.delayed) std::exchange(ended.delayed, nullptr)();
  ended.status = Status::ended;
  ended.history = mix(ended.history, 0xe);
  m.changed();
  for (unsigned i = 0; i < m.count_; ++i) {
    if (m.threads_[i].status == Status::in_join && m.threads_[i].joins == m.current_)
      m.threads_[i].status = Status::ready;
  }
  m.decide(false, false);
  std::abort();  // nobody comes back to a thread that has ended
}

unsigned Machine::spawn(std::function<void()> body) {
  if (count_ == threads_max) fail("more than 6 threads");
  const unsigned number = count_++;
  Thread& made = threads_[number];
  made.status = Status::ready;
  made.stayed = made.timed = made.woken = false;
  made.passed_over = 0;
  made.view = View();
  made.view.known[number] = 1;
  made.history = number;
  made.body = std::move(body);
  made.delayed = nullptr;
  made.locals = first_locals_;
  made.exceptions = {};
  made.last.clear();
  if (number != 0) {
    made.view.known.join(self().view.known);
    ++self().view.known[current_];
  }
#if defined(__x86_64__)
  auto** top = reinterpret_cast<void**>(static_cast<char*>(made.stack) + stack_bytes);
  *--top = nullptr;  // where enter() would return to
  *--top = reinterpret_cast<void*>(&Machine::enter);
  for (int i = 0; i < 6; ++i) *--top = nullptr;
  made.pointer = top;
#else
  static std::array<ucontext_t, threads_max> fresh;
  ucontext_t& context = fresh[number];
  getcontext(&context);
  context.uc_stack = {made.stack, 0, stack_bytes};
  context.uc_link = nullptr;
  makecontext(&context, &Machine::enter, 0);
  made.pointer = &context;
#endif
  return number;
}

void Machine::switch_to(unsigned thread) {
  Thread& from = self();
  current_ = thread;
  threads_[thread].passed_over = 0;
  if (from.status != Status::ended) save_locals(from);
  load_locals(threads_[thread]);
  ouro_model_switch(&from.pointer, threads_[thread].pointer);
}

void Machine::leave(End end) {
  end_ = end;
  load_locals(controller_);
  void* nowhere = nullptr;
  ouro_model_switch(&nowhere, controller_.pointer);
  std::abort();
}

void Machine::fail(const std::string& why) {
  message_ = why;
  leave(End::failed);
}

// ---- Decisions ----

unsigned Machine::choose(unsigned count) {
  if (count == 1) return 0;
  if (warming_up) return 0;
  if (depth_ < trail_.size()) {
    if (trail_[depth_].count != count && trail_[depth_].count != 0) {
      std::fprintf(stderr, "model: the program does not do the same each time\n");
      std::abort();
    }
    return trail_[depth_++].chosen;
  }
  trail_.push_back({0, static_cast<std::uint16_t>(count)});
  ++depth_;
  return 0;
}

// The same for a step, which has its place in the trail even where there is no choice: so a schedule can be replayed
// without knowing what was contested.
unsigned Machine::choose_step(unsigned count) {
  if (count != 1) return choose(count);
  if (warming_up) return 0;
  if (depth_ == trail_.size()) trail_.push_back({0, 1});
  ++depth_;
  return 0;
}

bool Machine::backtrack() {
  while (!trail_.empty() && trail_.back().chosen + 1U == trail_.back().count) trail_.pop_back();
  if (trail_.empty()) return false;
  ++trail_.back().chosen;
  return true;
}

// Ends the execution if one with the same past, and as many preemptions left, has been here.
void Machine::look_up(bool stays, bool costs) {
  if (depth_ < trail_.size() || warming_up || tracing_ || !options_.cut_off) return;
  std::uint64_t key = mix(memory.hash() + order_hash_, current_ * 4U + (stays ? 2U : 0U) + (costs ? 1U : 0U));
  key = mix(key, surprises_ << 16 | memory.stale_left());
  for (unsigned i = 0; i < count_; ++i) {
    key = mix(key, threads_[i].history + (static_cast<std::uint64_t>(threads_[i].status) << 1 | threads_[i].stayed));
  }
  key += key == 0;
  if (visited_count_ * 2 > visited_.size()) {
    std::vector<std::pair<std::uint64_t, std::uint8_t>> old(visited_.size() * 4);
    old.swap(visited_);
    for (const auto& entry : old) {
      std::size_t slot = entry.first & (visited_.size() - 1);
      while (visited_[slot].first != 0) slot = (slot + 1) & (visited_.size() - 1);
      if (entry.first != 0) visited_[slot] = entry;
    }
  }
  std::size_t slot = key & (visited_.size() - 1);
  while (visited_[slot].first != 0 && visited_[slot].first != key) slot = (slot + 1) & (visited_.size() - 1);
  if (visited_[slot].first == key) {
    if (visited_[slot].second >= left_) leave(End::pruned);
  } else {
    ++visited_count_;
  }
  visited_[slot] = {key, static_cast<std::uint8_t>(left_)};
}

bool Machine::somebody_ready() const noexcept {
  for (unsigned i = 0; i < count_; ++i) {
    if (threads_[i].status == Status::ready) return true;
  }
  return false;
}

// All wait. Those that yielded look again; then deadlines pass; then it is the end, or a deadlock.
void Machine::nobody_ready() {
  constexpr unsigned rounds_max = 4;
  bool yielded = false, ended = true;
  for (unsigned i = 0; i < count_; ++i) {
    yielded = yielded || threads_[i].status == Status::yielded;
    ended = ended && threads_[i].status == Status::ended;
  }
  if (ended) {
    if (options_.leaks && !warming_up) {
      const std::string left = shadow.leaks();
      if (!left.empty()) fail("memory was left behind: " + left);
    }
    leave(End::complete);
  }
  if (yielded && ++fruitless_ <= rounds_max) {
    for (unsigned i = 0; i < count_; ++i) {
      if (threads_[i].status == Status::yielded) threads_[i].status = Status::ready;
    }
    return;
  }
  for (unsigned i = 0; i < count_; ++i) {
    if (threads_[i].status != Status::in_futex || !threads_[i].timed) continue;
    threads_[i].status = Status::ready;
    auto& waiters = futexes_[threads_[i].waits_for].waiters;
    waiters.erase(std::find(waiters.begin(), waiters.end(), i));
    fruitless_ = 0;
    return;
  }
  static constexpr std::array<const char*, 6> states{
      "ready", "spins", "sleeps on a futex", "waits for a mutex", "waits to join", "has ended"};
  std::string who = yielded ? "threads spin for ever:" : "deadlock:";
  for (unsigned i = 0; i < count_; ++i) {
    who += "\n  T" + std::to_string(i) + " " + states[static_cast<std::size_t>(threads_[i].status)];
    if (threads_[i].waits_for && threads_[i].status != Status::ended) who += " " + describe(threads_[i].waits_for);
  }
  fail(who);
}

// Who goes on. `stays`: the current thread may; `costs`: to take it the processor is a preemption.
void Machine::decide(bool stays, bool costs) {
  if (++steps_ > options_.steps_max) fail("no end after " + std::to_string(steps_) + " steps");
  std::array<unsigned, threads_max> options;
  unsigned count = 0;
  while (count == 0) {
    if (stays) options[count++] = current_;
    if (!costs || left_ > 0) {
      for (unsigned i = 0; i < count_; ++i) {
        if (i != current_ || !stays) {
          if (threads_[i].status == Status::ready) options[count++] = i;
        }
      }
    }
    if (count == 0) nobody_ready();
  }
  // Spinners that write keep each other awake: who has been passed over for long goes first, as it would on a machine.
  for (unsigned i = 0; i < count_ && !costs; ++i) {
    if (threads_[i].passed_over < passed_over_max || threads_[i].status != Status::ready || i == current_) continue;
    options[0] = i;
    count = 1;
    break;
  }
  look_up(stays, costs);
  const unsigned next = options[costs ? choose_step(count) : choose(count)];
  if (next == current_) return;
  if (costs) --left_;
  switch_to(next);
}

void Machine::step() { decide(true, true); }

void Machine::step(const void* at) {
  if (replaying_ || !options_.only_contested || contested_.count(at) != 0) return step();
  if (++steps_ > options_.steps_max) fail("no end after " + std::to_string(steps_) + " steps");
  choose_step(1);
}

void Machine::meets(Location& location, const void* at, bool writes) {
  if (location.conflicts(current_, self().view.known, writes)) contest(at);
}

void Machine::contest(const void* at) {
  if (!options_.only_contested || !contested_.insert(at).second || replaying_ || warming_up) return;
  leave(End::restarts);
}

std::memory_order Machine::simplify(std::memory_order order, const void* at, bool reads, bool writes) const {
  if (order != std::memory_order_seq_cst || !options_.only_contested || replaying_ || contested_.count(at) != 0) {
    return order;
  }
  return !writes ? std::memory_order_acquire : reads ? std::memory_order_acq_rel : std::memory_order_release;
}

void Machine::meet_plainly(std::uintptr_t from, std::uintptr_t to, bool writes, const void* pc) {
  for (std::uintptr_t at = from; at < to; ++at) {
    Location* const location = memory.find(reinterpret_cast<const void*>(at));
    if (!location || location->overwritten()) continue;
    if (writes) {
      location->overwrite();
      continue;
    }
    if (const Location::Store* store = location->unknown_to(self().view.known)) {
      shadow.report(at, Shadow::Touch::read, pc, store->by.thread, store->by.tick, true, false);
    }
    // What is read is what was written last; which that is may not be seen elsewhere.
    const Stamp by = location->newest().by;
    self().history = mix(self().history, std::uint64_t{by.thread} << 16 | by.tick);
  }
}

void Machine::yield() {
  Thread& thread = self();
  memory.catch_up(current_);
  thread.history = mix(thread.history, 0x1e1d);
  if (tracing_) did("yield", nullptr, nullptr, 0);
  for (unsigned i = 0; i < count_; ++i) threads_[i].passed_over += i != current_ && threads_[i].status == Status::ready;
  const bool stays = !thread.stayed;
  thread.status = Status::yielded;
  // To stay is a choice, once: who spins for a time may find that it is over.
  const unsigned me = current_;
  if (stays && somebody_ready()) {
    decide(true, false);
    if (thread.status == Status::yielded && current_ == me) thread.stayed = true;
  } else {
    decide(false, false);
  }
  thread.status = Status::ready;
}

void Machine::changed() noexcept {
  fruitless_ = 0;
  for (unsigned i = 0; i < count_; ++i) {
    if (i == current_) continue;
    threads_[i].stayed = false;
    if (threads_[i].status == Status::yielded) threads_[i].status = Status::ready;
  }
}

void Machine::block(Status why, const void* on) {
  Thread& thread = self();
  thread.status = why;
  thread.waits_for = on;
  decide(false, false);
  thread.waits_for = nullptr;
}

bool Machine::surprise() {
  if (surprises_ == 0 || choose(2) == 0) return false;
  --surprises_;
  return true;
}

// ---- Exploring ----

void Machine::reset() {
  memory.reset(options_.stale);
  shadow.reset();
  mutexes_.clear();
  futexes_.clear();
  foreigners_.clear();
  names.clear();
  order_hash_ = 0;
  count_ = current_ = 0;
  left_ = options_.preemptions;
  surprises_ = options_.surprises;
  steps_ = fruitless_ = 0;
  depth_ = 0;
}

// One execution, along the trail.
void Machine::run(const std::function<void()>& program) {
  reset();
  spawn(program);
  save_locals(controller_);
  load_locals(threads_[0]);
  ouro_model_switch(&controller_.pointer, threads_[0].pointer);
  active = false;
}

void Machine::resolve_mutation() {
  mutated_file_.clear();
  const Mutation* mutation = options_.mutation;
  if (!mutation || !options_.sites) return;
  unsigned left = mutation->nth;
  for (const Site& site : *options_.sites) {
    if (site.operation != mutation->operation || site.function.find(mutation->function) == std::string::npos) continue;
    if (left-- != 0) continue;
    mutated_file_ = site.file;
    mutated_line_ = site.line;
    mutated_column_ = site.column;
    return;
  }
}

// Runs the program in all ways with so many preemptions, until there have been that many executions in all.
void Machine::search(unsigned preemptions, std::uint64_t executions_max, Report& report) {
  options_.preemptions = preemptions;
  report.complete = false;
  do {
    tracing_ = replaying_;
    run(*program_);
    ++report.executions;
    if (end_ == End::failed) return;
    if (end_ == End::restarts) {
      trail_.clear();
      visited_.assign(visited_first, {});
      visited_count_ = 0;
      continue;
    }
    trail_.resize(depth_);
    report.complete = replaying_ || !backtrack();
  } while (!report.complete && report.executions < executions_max);
  if (replaying_) return;
  trail_.clear();
  visited_.assign(visited_first, {});
  report.states = visited_count_;
  visited_count_ = 0;
}

Report Machine::explore(const Options& options, const std::function<void()>& program) {
  const auto began = std::chrono::steady_clock::now();
  options_ = options;
  if (first_locals_.empty()) first_locals_.assign(locals_, locals_ + locals_bytes_);
  trail_.clear();
  outcomes.clear();
  Report report;
  resolve_mutation();
  sites_.clear();
  // A mutant's conflicts are those of the program, and few more.
  std::unordered_set<const void*>& found_contested = contested_of_[&program];
  contested_ = found_contested;
  program_ = &program;
  visited_.assign(visited_first, {});
  visited_count_ = 0;
  if (!options.mutation && options.warm_up) {
    warming_up = true;
    run(program);
    warming_up = false;
    outcomes.clear();
  }
  end_ = End::complete;
  replaying_ = !options.schedule.empty();
  for (std::size_t at = 0; at < options.schedule.size();) {
    std::size_t used = 0;
    trail_.push_back({static_cast<std::uint16_t>(std::stoul(options.schedule.substr(at), &used)), 0});
    at += used + 1;
  }
  trace_.clear();
  // With fewer preemptions most of what is contested is found early.
  constexpr std::uint64_t first_ones = 500;
  const bool looks_first = options.only_contested && !replaying_ && found_contested.empty();
  for (unsigned bound = 0; looks_first && bound < options.preemptions && end_ != End::failed; ++bound) {
    search(bound, report.executions + std::min(first_ones, options.executions_max), report);
  }
  if (end_ != End::failed) search(options.preemptions, report.executions + options.executions_max, report);
  report.failed = end_ == End::failed;
  if (report.failed) {
    trail_.resize(depth_);
    if (!replaying_) {
      tracing_ = true;
      trace_.clear();
      run(program);
      tracing_ = false;
    }
    for (const Decision& decision : trail_) report.schedule += std::to_string(decision.chosen) + ".";
  }
  tracing_ = false;
  found_contested = std::move(contested_);
  report.message = report.failed ? message_ : "";
  report.trace = trace_;
  if (report.failed) report.states = visited_count_;
  report.outcomes = outcomes;
  for (auto& [key, entry] : sites_) report.sites.push_back(entry.site);
  std::sort(report.sites.begin(), report.sites.end(), [](const Site& a, const Site& b) {
    return std::tie(a.file, a.line, a.column, a.operation) < std::tie(b.file, b.line, b.column, b.operation);
  });
  report.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count();
  return report;
}

Report explore(const Options& options, const std::function<void()>& program) {
  return machine().explore(options, program);
}

std::string Report::summary() const {
  std::array<char, 160> line;
  std::snprintf(line.data(), line.size(), "%s: %" PRIu64 " executions, %" PRIu64 " states, %.2f s",
                failed     ? "failed"
                : complete ? "complete"
                           : "incomplete",
                executions, states, seconds);
  return line.data() + (failed ? "\n" + message + "\n" + trace + "schedule: " + schedule + "\n" : "");
}

void check(bool holds, const char* what, std::source_location place) {
  if (holds) return;
  fail(std::string("check failed: ") + what + " (line " + std::to_string(place.line()) + ")");
}

void fail(const std::string& why) {
  if (!active) {
    std::fprintf(stderr, "model: %s\n", why.c_str());
    std::abort();
  }
  active = false;
  machine().fail(why);
}

void record(std::initializer_list<int> outcome) {
  const Inside inside;
  machine().outcomes.insert(std::vector<int>(outcome));
}

void name(const void* variable, const char* as) {
  const Inside inside;
  machine().names[variable] = as;
}

bool mutated(std::string_view custom) noexcept {
  const Mutation* mutation = machine().mutation();
  return mutation && mutation->what == Mutate::custom && mutation->function == custom;
}

}  // namespace ouro::model
