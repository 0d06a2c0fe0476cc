// Who of a group's workers searches for work and who sleeps: the waking for work that any worker may take (what lies in
// a deque or in the injection queue). What is sent to one worker goes through its inbox, which has a word of its own.
//
// A worker is busy, searching, or asleep. One word says which: a bit for each that sleeps, and how many search. All
// that happens are read-modify-writes of it.
//
//   1. Whoever makes work visible looks at the word after that (wake_one()). If somebody searches, or nobody sleeps, it
//      does nothing: most pushes end with this one load. Otherwise it takes one sleeper's bit away and counts it as
//      searching, by one compare-and-swap, so it is the only one to wake it; and unparks it.
//   2. A worker that has nothing to do becomes a searcher (begin_search()), unless half of the workers are ones
//      already, and looks at everything.
//   3. A searcher that finds work says so (found()). If it was the last, somebody sleeps, and there may be more, it
//      does what a pusher would do: pushers relied on it. So wake-ups go from worker to worker, one after the other.
//   4. A worker that finds nothing sets its bit, and leaves the searching, in one step (fall_asleep()); then it looks
//      at everything once more; then it parks. If that look finds work, or when it comes out of the park for a reason
//      of its own, it takes its bit away itself (wake_up()), and searches again. If the bit is gone, somebody is waking
//      it: it has been counted as searching then, and the unpark, which is latched, comes or has come.
//
// No wake-up is lost. Work X is made visible by a sequentially consistent store or read-modify-write (a push; one that
// only releases is not enough: a queue of another make needs a counter beside it), and then the word is read; a worker
// changes the word in step 4, and then reads what step 1 wrote: all sequentially consistent. So either the pusher sees
// the sleeper's bit, or the sleeper sees X (Dekker's pattern). If the pusher did nothing because somebody searched:
// that one finds work, and step 3 looks whether X is still there after it has left the searching; or it finds none, and
// step 4 looks at X after it has left the searching. The last of the searchers to leave comes after the pusher's load
// in the order of the word's changes, so its look sees X.
//
// That a worker is busy does not help: it may stay so for long. So the last to fall asleep looks again like any other.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>

#include <ouro/runtime/config.hpp>
#include <ouro/runtime/detail/atomic.hpp>

namespace ouro::detail {

class IdleWorkers {
 public:
  static constexpr unsigned limit = 48;  // of workers

  // Requires: at most `limit` workers. All are busy.
  explicit IdleWorkers(unsigned workers) noexcept : workers_(workers) {}

  // ---- Whoever made work visible: any thread ----

  // False: wake_one() would do nothing. One load.
  bool should_wake() const noexcept {
    const Word seen = word_.load(std::memory_order_seq_cst);
    return searching(seen) == 0 && sleeping(seen) != 0;
  }

  // The number of a worker that the caller has to unpark, or -1.
  int wake_one() noexcept {
    Word seen = word_.load(std::memory_order_seq_cst);
    for (;;) {
      if (searching(seen) != 0 || sleeping(seen) == 0) return -1;
      const int worker = std::countr_zero(sleeping(seen));
      const Word woken = (seen & ~bit(static_cast<unsigned>(worker))) + searching_one;
      if (word_.compare_exchange_weak(seen, woken, std::memory_order_seq_cst, std::memory_order_seq_cst)) return worker;
    }
  }

  // ---- A worker, of itself ----

  // Requires: it is busy. False if enough others search: it may fall asleep.
  bool begin_search() noexcept {
    Word seen = word_.load(std::memory_order_relaxed);
    do {
      if (2 * searching(seen) >= workers_ && searching(seen) != 0) return false;
    } while (
        !word_.compare_exchange_weak(seen, seen + searching_one, std::memory_order_seq_cst, std::memory_order_relaxed));
    return true;
  }

  // A searcher found work, and is busy. True if it was the last, and somebody sleeps: it has to look whether there is
  // more, and then to call wake_one(). (Who falls asleep later looks himself.)
  bool found() noexcept {
    const Word before = word_.fetch_sub(searching_one, std::memory_order_seq_cst);
    return searching(before) == 1 && sleeping(before) != 0;
  }

  // It has nothing to do. What comes next is one more look at everything.
  void fall_asleep(unsigned worker, bool was_searching) noexcept {
    word_.fetch_add(bit(worker) - (was_searching ? searching_one : 0), std::memory_order_seq_cst);
  }

  // It does not sleep any more, and searches. False if somebody else has said so.
  bool wake_up(unsigned worker) noexcept {
    Word seen = word_.load(std::memory_order_relaxed);
    do {
      if ((seen & bit(worker)) == 0) return false;
    } while (!word_.compare_exchange_weak(seen, seen - bit(worker) + searching_one, std::memory_order_seq_cst,
                                          std::memory_order_relaxed));
    return true;
  }

  // All sleep, and nobody has been woken. What they did before they fell asleep is visible then.
  bool all_asleep() const noexcept { return word_.load(std::memory_order_seq_cst) == bit(workers_) - 1; }

  // ---- Snapshots ----
  // Zero while none sleeps or searches.
  const Atomic<std::uint64_t>& word() const noexcept { return word_; }
  bool sleeps(unsigned worker) const noexcept { return (word_.load(std::memory_order_relaxed) & bit(worker)) != 0; }
  unsigned sleepers() const noexcept {
    return static_cast<unsigned>(std::popcount(sleeping(word_.load(std::memory_order_relaxed))));
  }
  unsigned searchers() const noexcept {
    return static_cast<unsigned>(searching(word_.load(std::memory_order_relaxed)));
  }

 private:
  using Word = std::uint64_t;

  // How many search (16 bits), and a bit for each that sleeps (48).
  static constexpr Word searching_one = Word{1} << limit;
  static constexpr Word searching(Word word) noexcept { return word >> limit; }
  static constexpr Word sleeping(Word word) noexcept { return word & (searching_one - 1); }
  static constexpr Word bit(unsigned worker) noexcept { return Word{1} << worker; }

  const unsigned workers_;
  alignas(64) Atomic<Word> word_{0};
};

}  // namespace ouro::detail
