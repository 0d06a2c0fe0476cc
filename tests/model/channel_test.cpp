// Channels between workers: values that are sent while others receive, wait, are cancelled, or close it. A value that
// is lost, torn or received twice is seen by what arrives, or as a data race in its plain memory; a wake-up that is
// lost, by a task that has not ended.
#include <array>
#include <memory>
#include <optional>
#include <thread>
#include <utility>

#include <gtest/gtest.h>

#include <model/group.hpp>
#include <model/mutants.hpp>
#include <ouro/runtime/channel.hpp>
#include <ouro/runtime/tasks.hpp>

namespace {

using ouro::Channel;
using ouro::Coroutine;
using ouro::Task;
using ouro::model::check;
using ouro::model::Excuse;
using ouro::model::Group;
using ouro::model::Model;
using ouro::model::Mutant;
using ouro::model::Mutate;
using ouro::model::Options;

constexpr auto acquire = std::memory_order_acquire;
constexpr auto acq_rel = std::memory_order_acq_rel;

using Values = Channel<int>;

Coroutine<> send(Values& channel, int from, int count) {
  for (int i = 0; i < count; ++i) co_await channel.send(from + i);
}
Coroutine<> receive(Values& channel, int count, int& sum) {
  for (int i = 0; i < count; ++i) {
    const std::optional<int> value = co_await channel.recv();
    check(value.has_value(), "it is not closed");
    sum += *value;
  }
}
Coroutine<> receive_all(Values& channel, int& sum) {
  while (const std::optional<int> value = co_await channel.recv()) sum += *value;
}

// One sends, on another worker one receives. With a capacity of one both wait.
void handed_over(std::size_t capacity, int count) {
  Group group(2);
  Values channel(capacity);
  int sum = 0;
  std::thread other = group.thread(1, [&] { ouro::spawn(receive(channel, count, sum)); });
  group.as(0, [&] {
    ouro::spawn(send(channel, 1, count));
    group.run(0);
  });
  other.join();
  group.settle();
  check(sum == count * (count + 1) / 2, "each value arrives, once");
  check(channel.empty(), "nothing else is there");
}

// Two threads that take without waiting, while a third has put in.
void taken_by_two() {
  Values channel(2);
  check(channel.try_send(1) && channel.try_send(2), "there is room");
  int sum = 0;
  std::thread other([&] {
    if (const std::optional<int> value = channel.try_recv()) sum += *value;
  });
  const std::optional<int> mine = channel.try_recv();
  other.join();
  check(mine && sum + *mine == 3, "each gets one");
}

// Two that put in without waiting, and then it is full.
void put_by_two() {
  Values channel(2);
  std::thread other([&] { check(channel.try_send(1), "there is room"); });
  check(channel.try_send(2), "there is room");
  other.join();
  check(!channel.try_send(3) && channel.full(), "now there is none");
  const std::optional<int> first = channel.try_recv();
  const std::optional<int> second = channel.try_recv();
  check(first && second && *first + *second == 3, "both are there");
}

// Two that wait, and two that send one each.
void two_wait() {
  Group group(2);
  Values channel(2);
  int first = 0;
  int second = 0;
  group.as(0, [&] {
    ouro::spawn(receive(channel, 1, first));
    ouro::spawn(receive(channel, 1, second));
    group.run(0);
  });
  std::thread other = group.thread(1, [&] { check(channel.try_send(1), "there is room"); });
  group.as(0, [&] {
    check(channel.try_send(2), "there is room");
    group.run(0);
  });
  other.join();
  group.settle();
  check(first + second == 3, "each gets one");
}

// One of two that wait is cancelled while a value comes: the other one gets it.
void cancelled() {
  Group group(2);
  Values channel(1);
  int first = 0;
  int second = 0;
  Task<> task;
  group.as(0, [&] {
    task = ouro::spawn(receive(channel, 1, first));
    ouro::spawn(receive(channel, 1, second));
    group.run(0);
  });
  std::thread other = group.thread(1, [&] { check(channel.try_send(1), "there is room"); });
  bool accepted = false;
  group.as(0, [&] {
    accepted = task.cancel();
    group.run(0);
  });
  other.join();
  group.settle();
  check(accepted == task.cancelled(), "it hears of it");
  if (second == 0) {
    check(first == 1, "it came too late");
    check(channel.try_send(1), "there is room");
    group.settle();
  }
  check(second == 1, "the value is not lost");
}

// It is closed while one sends and one receives: what was sent arrives.
void closed() {
  Group group(3);
  Values channel(1);
  int sum = 0;
  bool sent = false;
  std::thread other = group.thread(1, [&] { ouro::spawn(receive_all(channel, sum)); });
  std::thread closer = group.thread(2, [&] { channel.close(); });
  group.as(0, [&] {
    try {
      sent = channel.try_send(1);
    } catch (const ouro::QueueShutDown&) {
    }
    group.run(0);
  });
  closer.join();
  other.join();
  group.settle();
  check(sum == static_cast<int>(sent), "what was sent arrives, and nothing else");
}

Options bound(unsigned preemptions, unsigned stale = 1000) {
  Options options;
  options.preemptions = preemptions;
  options.stale = stale;
  return options;
}

const std::vector<Model> models{
    {"handed over", [] { handed_over(1, 2); }, bound(2, 1)},
    {"handed over, with room", [] { handed_over(2, 3); }, bound(1, 1)},
    {"taken by two", &taken_by_two, bound(3)},
    {"put by two", &put_by_two, bound(3)},
    {"two wait", &two_wait, bound(2, 1)},
    {"one is cancelled", &cancelled, bound(2, 1)},
    {"it is closed", &closed, bound(2, 1)},
};

const std::vector<Mutant> mutants{
    {"a place is claimed in two steps", {Mutate::tear, "move_on", "compare_exchange_weak"}},
    {"a place is not claimed", {Mutate::pretend, "move_on", "compare_exchange_weak"}},
    {"a value is not shown", {Mutate::drop, "try_put", "store"}},
    {"a place is not given back", {Mutate::drop, "try_receive", "store"}},
    {"who waits does not say so", {Mutate::drop, "show", "store"}},
    {"it is not closed", {Mutate::drop, "shut", "fetch_or"}},
    {"it is closed in two steps", {Mutate::tear, "shut", "fetch_or"}},
};

const std::vector<Excuse> excuses{
    {"shut", "fetch_or", 0, Mutate::weaken, acq_rel, "whoever waits looks under the lock, which close() holds"},
    {"is_empty", "load", 0, Mutate::weaken, acquire, "an old head says that something is there: one look in vain"},
    {"is_full", "load", 1, Mutate::weaken, acquire, "an old tail says that there is room: one look in vain"},
    {"is_closed", "load", 0, Mutate::weaken, acquire, "whoever waits looks under the lock, which close() takes"},
    {"wake_next_receiver", "load", 0, Mutate::weaken, acquire,
     "its own show() came before; who waits since has looked"},
    {"wake_next_sender", "load", 0, Mutate::weaken, acquire, "the same"},
    {"try_put", "load", 2, Mutate::weaken, acquire, "whether it is full is asked again before a wait"},
    {"try_receive", "load", 2, Mutate::weaken, acquire, "whether it is empty is asked again before a wait"},
};

TEST(ChannelModel, Correct) { ouro::model::expect_correct(models); }
TEST(ChannelModel, Mutants) {
  // One preemption finds them all.
  std::vector<Model> quick = models;
  for (Model& model : quick) model.options.preemptions = 1;
  ouro::model::expect_killed(quick, mutants, excuses, {"channel.hpp", "channel.cpp"});
}

}  // namespace
