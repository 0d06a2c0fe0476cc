// The model checker: runs a small program of a few threads in every way that the C++ memory model and a scheduler can
// make it run, up to a bound on preemptions, and says how it fails if it does.
//
// The program is a function; std::thread, std::mutex, sched_yield and the library's futex are the checker's while it
// runs (stand_ins.cpp), and so are the library's atomics (checked_atomic.hpp), also those on plain words
// (checked_words.hpp). The files under test are the library's own, compiled once more: with -fsanitize=thread, whose
// calls for each access to plain memory land in the checker (shadow.cpp) instead of ThreadSanitizer. So a data race, or
// a use after free, is found wherever it is, and nothing in the library is written for the checker. The way of
// C11Tester (Luo and Demsky, ASPLOS 2021, doi 10.1145/3445814.3446711).
//
// An execution is a sequence of decisions: which thread makes the next step, and for a step which of its possible
// effects it has (memory.hpp). All are tried, depth first, by running the program again from its start along the trail
// of decisions so far. To leave a thread that could have gone on is a preemption, and there are at most as many as the
// bound says (Musuvathi and Qadeer, "Iterative context bounding", PLDI 2007, doi 10.1145/1250734.1250785).
//
// Which operations can be in conflict, over the same atomic with no order between them, is found out on the way: before
// any other there is no preemption, for none would have an effect that one before the next conflict has not.
//
// What has been executed is a graph: for each thread the sequence of its operations and of the stores that they read,
// for each location its modification order. The rest of the execution depends on nothing else, so one that arrives at
// a graph where another has been, with the same thread at work and no more preemptions left, ends there. Graphs are
// told apart by a hash of 64 bits.
//
// It finds: a failed check() or assertion, a data race, a use after free (also one that did not happen this time, if
// nothing orders access and free), memory left behind, threads that wait for ever, threads that spin for ever.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <initializer_list>
#include <set>
#include <source_location>
#include <string>
#include <vector>

namespace ouro::model {

struct Mutation;

// A place in the source where something atomic is done.
struct Site {
  std::string file, function;
  unsigned line = 0, column = 0;
  std::string operation;  // "load", "fetch_add", ...
  std::memory_order order{}, failure{};
  bool fails = false;  // it has an order for failure
};

struct Options {
  unsigned preemptions = 3;
  // How often in an execution compare_exchange_weak may fail, and futex_wait return, for no reason.
  unsigned surprises = 0;
  // How many of an execution's operations may have another effect than the newest possible: read an old value, or write
  // behind a newer one. Enough, unless the program reads so much that it never ends.
  unsigned stale = 1000;
  unsigned steps_max = 4000;  // in one execution; more count as spinning for ever
  std::uint64_t executions_max = 3'000'000;
  bool heavy_barrier = false;  // the system has one (src/barrier.hpp)
  bool leaks = true;
  bool warm_up = true;         // a first execution, for function-local statics, with memory of the C library
  bool cut_off = true;         // executions that arrive where another has been
  bool only_contested = true;  // threads are preempted before operations in conflict with another one's, and no others
  // One change of the program; nullptr: none. Its place is found among `sites`, those of a run without it.
  const Mutation* mutation = nullptr;
  const std::vector<Site>* sites = nullptr;
  // A schedule that failed before: runs that one alone.
  std::string schedule;
};

struct Report {
  bool failed = false;
  bool complete = false;  // everything within the bound was tried
  std::string message;
  std::string trace;     // the failing execution, step by step
  std::string schedule;  // the same, to be replayed
  std::uint64_t executions = 0;
  std::uint64_t states = 0;
  double seconds = 0;
  std::vector<Site> sites;              // that were met, by file and line
  std::set<std::vector<int>> outcomes;  // what record() was told

  std::string summary() const;
};

// Runs the program in all ways. It must do the same each time but for what the checker decides.
Report explore(const Options& options, const std::function<void()>& program);

// ---- For programs ----

// Fails the execution unless it holds.
void check(bool holds, const char* what, std::source_location place = std::source_location::current());
[[noreturn]] void fail(const std::string& why);
// Collects an outcome.
void record(std::initializer_list<int> outcome);
// Names a variable in traces.
void name(const void* variable, const char* as);

}  // namespace ouro::model
