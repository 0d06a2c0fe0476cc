// Contexts that several workers have: a cell whose map one sets while another reads, copies or enters it, and maps that
// are shared, and changed in place as soon as nobody else has them.
#include <memory>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include <model/group.hpp>
#include <model/mutants.hpp>
#include <ouro/runtime/contextvars.hpp>
#include <ouro/runtime/tasks.hpp>

namespace {

using ouro::Context;
using ouro::ContextVar;
using ouro::Coroutine;
using ouro::RuntimeError;
using ouro::Task;
using ouro::detail::ContextCell;
using ouro::detail::ContextWord;
using ouro::model::check;
using ouro::model::Excuse;
using ouro::model::Group;
using ouro::model::Model;
using ouro::model::Mutant;
using ouro::model::Mutate;

constexpr auto relaxed = std::memory_order_relaxed;

// A value whose own memory says whether it is whole.
struct Value {
  explicit Value(int n) : memory(std::make_unique<int>(n)) {}
  Value(const Value& other) : Value(*other.memory) {}
  Value& operator=(const Value&) = delete;
  std::unique_ptr<int> memory;
};
int number_in(const std::optional<Value>& value) { return value ? *value->memory : 0; }

struct Variables {
  ContextVar<Value> value{"value"};
  ContextVar<int> number{"number", 0};
};

// One sets in the context, the other looks at it.
void set_and_read() {
  Variables variables;
  const Context context;
  std::thread other([&variables, context] {
    const int seen = number_in(context.get(variables.value));
    check(seen == 0 || seen == 1, "a value is whole");
  });
  context.run([&] { variables.value.set(Value(1)); });
  other.join();
  check(number_in(context.get(variables.value)) == 1, "what was set is there");
}

// One goes on setting, in place when it may, while the other's copy has the map as it was.
void set_and_copy() {
  Variables variables;
  Context context;
  context.run([&] { variables.value.set(Value(1)); });
  std::thread other([&variables, context] {
    const Context copy = context.copy();
    const int seen = number_in(copy.get(variables.value));
    check(seen == 1 || seen == 2, "a copy is what there was at one moment");
    check(number_in(copy.get(variables.value)) == seen, "and stays so");
  });
  context.run([&] { variables.value.set(Value(2)); });
  check(number_in(context.get(variables.value)) == 2, "what was set is there");
  context = Context();
  other.join();
}

// Two copies of one context, each set by its own thread.
void two_copies() {
  Variables variables;
  Context context;
  context.run([&] { variables.value.set(Value(1)); });
  const auto change = [&variables](const Context& copy, int n) {
    check(number_in(copy.get(variables.value)) == 1, "a copy begins with what there was");
    copy.run([&] { variables.value.set(Value(n)); });
    check(number_in(copy.get(variables.value)) == n, "and goes its own way");
  };
  std::thread other([&change, copy = context.copy()] { change(copy, 2); });
  change(std::exchange(context, Context()), 3);
  other.join();
}

// Only one is inside.
void one_enters() {
  Variables variables;
  const Context context;
  int inside = 0;  // plain: two would be a race
  const auto enter = [&] {
    try {
      context.run([&] { check(++inside > 0, "it is entered"); });
    } catch (const RuntimeError&) {
    }
  };
  std::thread other(enter);
  enter();
  other.join();
  check(inside >= 1, "one at least gets in");
}

Coroutine<> does_nothing() { co_return; }

// A task of a group is given a context while a child on another worker looks there for one. `named`: so that the child
// has found its belongings before.
void given_while_looked_at(bool named) {
  Group group(2);
  Task<> task;
  group.as(0, [&] {
    task = ouro::spawn(does_nothing());
    if (named) task.set_name("with a name");
  });
  std::thread other = group.thread(1, [&task] {
    const ContextWord word = ouro::detail::context_word(task.handle().state());
    if (word == 0) return;
    check(!reinterpret_cast<ContextCell*>(word - 1)->find(1), "nothing was set");
  });
  group.as(0, [&] {
    check(task.get_context().size() == 0, "nothing was set");
    group.run(0);
  });
  other.join();
}

const std::vector<Model> models{
    {"set and read", &set_and_read, {}},
    {"set and copy", &set_and_copy, {}},
    {"two copies", &two_copies, {}},
    {"one enters", &one_enters, {}},
    {"given while a child looks", [] { given_while_looked_at(false); }, {}},
    {"given while a child looks, named", [] { given_while_looked_at(true); }, {}},
};

const std::vector<Mutant> mutants{
    {"a context is entered in two steps", {Mutate::tear, "enter", "exchange"}},
    {"a cell's count goes down in two steps", {Mutate::tear, "ContextCell::drop_ref", "fetch_sub"}},
    {"a map's count goes down in two steps", {Mutate::tear, "ContextMap::drop_ref", "fetch_sub"}},
    {"a map that others have is changed in place", {Mutate::pretend, "place_to_replace", "load", 0, relaxed, 1}},
};

const std::vector<Excuse> excuses{};

TEST(ContextsModel, Correct) { ouro::model::expect_correct(models); }
TEST(ContextsModel, Mutants) {
  ouro::model::expect_killed(models, mutants, excuses, {"contextvars.cpp", "context_map.cpp", "context_state.hpp"});
}

}  // namespace
