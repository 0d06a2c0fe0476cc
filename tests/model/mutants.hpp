// Mutants: small changes of the library's code, made by the checker while it runs, at places that are named by what
// stands there. A model that does not fail with a mutant has not looked at that place.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include <model/checker.hpp>

namespace ouro::model {

enum class Mutate : std::uint8_t {
  weaken,          // the (success) order becomes `order`
  weaken_failure,  // the failure order of a compare-exchange becomes `order`
  drop,            // it is not done; a read-modify-write gives what is there
  delay,           // it is done after the thread's next operation
  tear,            // a read-modify-write becomes a load and a store
  pretend,         // a load gives `value` without looking; a compare-exchange succeeds without writing
  no_wake,         // futex_wake does nothing
  custom,          // nothing by itself: the program, or a stand-in, asks for it by name with mutated()
};

// Where: the function's name, and of its operations of this kind the `nth`, from above.
struct Mutation {
  Mutate what;
  std::string_view function = {};
  std::string_view operation = {};
  unsigned nth = 0;
  std::memory_order order = std::memory_order_relaxed;
  std::uint64_t value = 0;
};

// True if this is the mutation of the run.
bool mutated(std::string_view custom) noexcept;

struct Mutant {
  std::string name;
  Mutation mutation;
};

// A weaker order that no model tells from the one that is there, and why that one is there.
struct Excuse {
  std::string_view function;
  std::string_view operation;
  unsigned nth;
  Mutate what;  // weaken or weaken_failure
  std::memory_order order;
  const char* why;
};

struct Model {
  const char* name;
  std::function<void()> program;
  Options options = {};
};

// Explores the models without a mutation: a failure is one of the test. Prints what it took. The environment's
// OURO_MODEL_MORE=1 adds one preemption to each bound, and takes minutes.
void expect_correct(const std::vector<Model>& models);

// Explores the models with each mutant, with rising bounds, until one fails; a mutant that survives them all is a
// failure of the test. The mutants are those given, and each order in `files` made one step weaker unless there is an
// excuse. Prints the kills; gives the lowest bound that kills all.
unsigned expect_killed(const std::vector<Model>& models, std::vector<Mutant> mutants,
                       const std::vector<Excuse>& excuses, const std::vector<std::string_view>& files);

}  // namespace ouro::model
