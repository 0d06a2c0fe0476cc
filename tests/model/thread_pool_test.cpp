// The thread pool: submissions against threads that search, go to sleep, are started and end. The pool is the library's
// own; its queue is the models' (inject_queue.hpp). Who waits for a job waits for its result, before the pool is shut
// down, for that would wake everybody: a lost wake-up shows as a deadlock.
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include <model/mutants.hpp>
#include <ouro/runtime/detail/atomic.hpp>
#include <ouro/runtime/detail/futex.hpp>
#include <ouro/runtime/executors.hpp>

namespace {

using ouro::ThreadPoolExecutor;
using ouro::model::check;
using ouro::model::Excuse;
using ouro::model::Model;
using ouro::model::Mutant;
using ouro::model::Mutate;
using ouro::model::Options;

constexpr auto relaxed = std::memory_order_relaxed;
constexpr auto acquire = std::memory_order_acquire;
constexpr auto release = std::memory_order_release;

// Counts down to zero; waiting for that is all that a model's main thread does beside submitting.
class Latch {
 public:
  explicit Latch(std::uint32_t count) : left_(count) {}
  void count_down() noexcept {
    if (left_.fetch_sub(1, std::memory_order_acq_rel) == 1) ouro::detail::futex_wake(left_, 8);
  }
  void wait() noexcept {
    while (const std::uint32_t left = left_.load(acquire)) ouro::detail::futex_wait(left_, left);
  }

 private:
  ouro::detail::Atomic<std::uint32_t> left_;
};

// Knows what became of it. Its memory is plain: a job that two threads run is a data race.
class Piece final : public ouro::Job {
 public:
  explicit Piece(Latch& ended, Latch* first_wait = nullptr) : ended_(&ended), first_wait_(first_wait) {}
  void run() noexcept override {
    if (first_wait_) first_wait_->wait();
    ++runs;
    ended_->count_down();
  }
  void cancel() noexcept override {
    ++cancels;
    ended_->count_down();
  }
  int runs = 0;
  int cancels = 0;

 private:
  Latch* ended_;
  Latch* first_wait_;
};

// One after the other: the thread may have gone to sleep in between, or be about to.
void one_by_one(std::size_t threads) {
  ThreadPoolExecutor pool(threads);
  for (int i = 0; i < 2; ++i) {
    Latch ended(1);
    Piece piece(ended);
    pool.submit(piece);
    ended.wait();
    check(piece.runs == 1, "the job has run");
  }
}

void at_once(std::size_t threads) {
  ThreadPoolExecutor pool(threads);
  Latch ended(2);
  Piece first(ended), second(ended);
  pool.submit(first);
  pool.submit(second);
  ended.wait();
  check(first.runs == 1 && second.runs == 1, "the jobs have run");
}

void two_submit(std::size_t threads) {
  ThreadPoolExecutor pool(threads);
  Latch ended(2);
  Piece first(ended), second(ended);
  std::thread other([&] { pool.submit(first); });
  pool.submit(second);
  ended.wait();
  other.join();
  check(first.runs == 1 && second.runs == 1, "the jobs have run");
}

// The first job waits for the second one: it must not hold it up.
void one_blocks(ThreadPoolExecutor& pool) {
  Latch gate(1), ended(1);
  Piece first(ended, &gate), second(gate);
  pool.submit(first);
  pool.submit(second);
  ended.wait();
  check(first.runs == 1 && second.runs == 1, "the jobs have run");
}

// With two threads that are there already.
void two_threads_one_by_one() {
  ThreadPoolExecutor pool(2);
  one_blocks(pool);
  for (int i = 0; i < 2; ++i) {
    Latch ended(1);
    Piece piece(ended);
    pool.submit(piece);
    ended.wait();
  }
}
void two_threads_two_submit() {
  ThreadPoolExecutor pool(2);
  one_blocks(pool);
  Latch ended(2);
  Piece first(ended), second(ended);
  std::thread other([&] { pool.submit(first); });
  pool.submit(second);
  ended.wait();
  other.join();
  check(first.runs == 1 && second.runs == 1, "the jobs have run");
}

// Who submits and who shuts down both wake.
void two_threads_shut_down() {
  Latch ended(1);
  Piece piece(ended);
  bool refused = false;
  {
    ThreadPoolExecutor pool(2);
    one_blocks(pool);
    std::thread other([&] {
      try {
        pool.submit(piece);
      } catch (const ouro::RuntimeError&) {
        refused = true;
      }
    });
    pool.shutdown(false, false);
    other.join();
    pool.shutdown(true, false);
  }
  check(piece.runs + refused == 1, "a submission counts or is refused");
}

// What is queued runs, or is cancelled, exactly once, and the threads end.
void shut_down(std::size_t threads, bool cancel) {
  Latch ended(2);
  Piece first(ended), second(ended);
  {
    ThreadPoolExecutor pool(threads);
    pool.submit(first);
    pool.submit(second);
    pool.shutdown(true, cancel);
  }
  check(first.runs + first.cancels == 1 && second.runs + second.cancels == 1, "each has run or was cancelled");
  check(cancel || first.cancels + second.cancels == 0, "all run unless they are cancelled");
}

// A submission races with the shutdown: it counts, and then the job runs; or it is refused, and nobody has it.
void submitted_too_late(bool after_one) {
  Latch ended(1), late_ended(1);
  Piece piece(ended), late(late_ended);
  bool refused = false;
  {
    ThreadPoolExecutor pool(1);
    if (after_one) {
      pool.submit(piece);
      ended.wait();
    }
    std::thread other([&] {
      try {
        pool.submit(late);
        late_ended.wait();
      } catch (const ouro::RuntimeError&) {
        refused = true;
      }
    });
    pool.shutdown(false, false);
    other.join();
  }
  check(late.runs + refused == 1, "a submission counts or is refused");
}

// `stale`: how many old values an execution may read.
Options bound(unsigned preemptions, unsigned stale) {
  Options options;
  options.preemptions = preemptions;
  options.stale = stale;
  return options;
}

void one_blocks_of_two() {
  ThreadPoolExecutor pool(2);
  one_blocks(pool);
}

// Those that kill the mutants, the quick ones first.
const std::vector<Model> killers{
    {"one thread, one by one", [] { one_by_one(1); }, bound(2, 1)},
    {"shut down", [] { shut_down(1, false); }, bound(2, 1)},
    {"shut down and cancelled", [] { shut_down(1, true); }, bound(2, 1)},
    {"two threads awake, one by one, uninterrupted", &two_threads_one_by_one, bound(0, 0)},
    {"one blocks", &one_blocks_of_two, bound(1, 1)},
    {"two threads, two at once", [] { at_once(2); }, bound(1, 1)},
    {"two threads, two at once, nothing stale", [] { at_once(2); }, bound(2, 0)},
};
const std::vector<Model> others{
    {"one thread, two at once", [] { at_once(1); }, bound(2, 1)},
    {"the first comes too late", [] { submitted_too_late(false); }, bound(3, 1)},
    {"the second comes too late", [] { submitted_too_late(true); }, bound(2, 0)},
    {"one thread, two submit", [] { two_submit(1); }, bound(1, 1)},
    {"two threads, shut down", [] { shut_down(2, false); }, bound(1, 1)},
    {"two threads awake, one by one", &two_threads_one_by_one, bound(1, 0)},
    {"two threads awake, shut down", &two_threads_shut_down, bound(1, 0)},
    {"two threads awake, two submit", &two_threads_two_submit, bound(1, 0)},
};

const char* const weak = "compare_exchange_weak";
const std::vector<Mutant> mutants{
    {"who goes to sleep does not look again", {Mutate::custom, "pop_last does not look"}},
    {"who leaves the search does not look for its successor", {Mutate::custom, "size is not looked at"}},
    {"nobody is woken", {Mutate::no_wake}},
    {"a submission only reads the word", {Mutate::drop, "Pool::submit", "fetch_add"}},
    {"a submission raises the ticket in two steps", {Mutate::tear, "Pool::submit", "fetch_add"}},
    {"a thread looks, and then says that it sleeps", {Mutate::delay, "Worker::sleep", "fetch_add"}},
    {"a thread says in two steps that it sleeps", {Mutate::tear, "Worker::sleep", "fetch_add"}},
    {"a thread does not say that it sleeps", {Mutate::drop, "Worker::sleep", "fetch_add"}},
    {"who takes itself back does not say so", {Mutate::pretend, "Worker::sleep", weak}},
    {"who takes itself back does so in two steps", {Mutate::tear, "Worker::sleep", weak}},
    {"a searcher is not counted", {Mutate::drop, "Worker::spin", "fetch_add"}},
    {"who found something still counts as searching", {Mutate::drop, "Pool::leave_search", "fetch_sub"}},
    {"a waker does not count whom it wakes", {Mutate::pretend, "Pool::rouse", weak}},
    {"a waker counts in two steps", {Mutate::tear, "Pool::rouse", weak}},
    {"a permit is not granted", {Mutate::drop, "give_permits", "fetch_add"}},
    {"a permit is not used up", {Mutate::pretend, "wait_for_permit", weak}},
    {"a permit is used up in two steps", {Mutate::tear, "wait_for_permit", weak}},
    {"a thread that is started is not counted", {Mutate::drop, "start_thread", "fetch_add"}},
    {"a thread leaves in two steps", {Mutate::tear, "leave_or_find", "fetch_sub"}},
    {"a thread that comes back is not counted", {Mutate::drop, "leave_or_find", "fetch_add"}},
    {"shut does not say so", {Mutate::drop, "Pool::shut", "fetch_or"}},
    {"shut says so in two steps", {Mutate::tear, "Pool::shut", "fetch_or"}},
    {"shut counts the sleepers in two steps", {Mutate::tear, "Pool::shut", weak}},
    {"the thread takes from the batch in two steps", {Mutate::tear, "Batch::take", "fetch_add"}},
    {"who cancels takes from the batch in two steps", {Mutate::tear, "Batch::take_away", weak}},
};
// Of these the order could be weaker as far as two threads and four jobs tell. All changes of the word are
// acquire-release all the same, which costs nothing on x86, and one rule is easier to keep than ten.
const char* const only_counts = "it counts; what relies on the count is ordered where a thread sleeps and a job comes";
const char* const only_tells = "what it tells is in the word itself: nothing else is read, or written, on its strength";
const char* const same_word = "what it orders is ordered by the word already, as the comment at permits_ says";
const char* const no_refill = "an entry that was read before a refill is not taken: the word has changed";
const char* const one_refill = "a refill between two looks of who cancels takes more jobs than an execution has";
const std::vector<Excuse> excuses{
    {"Worker::spin", "fetch_add", 0, Mutate::weaken, acquire, only_counts},
    {"Worker::spin", "fetch_add", 0, Mutate::weaken, release, only_counts},
    {"Worker::sleep", "fetch_add", 0, Mutate::weaken, acquire, only_tells},
    {"Worker::sleep", weak, 0, Mutate::weaken, acquire, only_counts},
    {"Worker::sleep", weak, 0, Mutate::weaken, release, only_counts},
    {"leave_or_find", "fetch_sub", 0, Mutate::weaken, acquire, only_tells},
    {"leave_or_find", "fetch_add", 0, Mutate::weaken, acquire, only_counts},
    {"leave_or_find", "fetch_add", 0, Mutate::weaken, release, only_counts},
    {"Pool::submit", "fetch_add", 0, Mutate::weaken, release, only_tells},
    {"Pool::rouse", weak, 0, Mutate::weaken, acquire, only_counts},
    {"Pool::rouse", weak, 0, Mutate::weaken, release, only_counts},
    {"start_thread", "fetch_add", 0, Mutate::weaken, acquire, "the start of a thread orders what it orders"},
    {"start_thread", "fetch_add", 0, Mutate::weaken, release, "the start of a thread orders what it orders"},
    {"leave_search", "fetch_sub", 0, Mutate::weaken, acquire, only_tells},
    {"give_permits", "fetch_add", 0, Mutate::weaken, relaxed, same_word},
    {"wait_for_permit", weak, 0, Mutate::weaken, relaxed, same_word},
    {"Pool::shut", "fetch_or", 0, Mutate::weaken, acquire,
     "who ends has been joined; a job that still runs is no harm"},
    {"Pool::shut", "fetch_or", 0, Mutate::weaken, release, "what is not cancelled here the last thread finds"},
    {"Pool::shut", weak, 0, Mutate::weaken, acquire, only_counts},
    {"Pool::shut", weak, 0, Mutate::weaken, release, only_counts},
    {"Batch::take", "load", 0, Mutate::weaken, relaxed, no_refill},
    {"Batch::take", "fetch_add", 0, Mutate::weaken, relaxed, no_refill},
    {"Batch::take_away", weak, 0, Mutate::weaken, acquire, no_refill},
    {"Batch::take_away", weak, 0, Mutate::weaken, release, "the load before it has acquired the job"},
    {"Batch::take_away", weak, 0, Mutate::weaken_failure, relaxed, one_refill},
};

TEST(ThreadPoolModel, Correct) {
  ouro::model::expect_correct(killers);
  ouro::model::expect_correct(others);
}
TEST(ThreadPoolModel, Mutants) {
  ouro::model::expect_killed(killers, mutants, excuses, {"thread_pool.hpp", "thread_pool.cpp"});
}

}  // namespace
