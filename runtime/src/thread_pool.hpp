// The inside of ThreadPoolExecutor. The essay is in thread_pool.cpp.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include <ouro/runtime/clock.hpp>
#include <ouro/runtime/config.hpp>
#include <ouro/runtime/detail/atomic.hpp>
#include <ouro/runtime/executors.hpp>

#include "inject_queue.hpp"

namespace ouro {
namespace detail {

inline constexpr std::size_t batch_jobs = 32;

// The jobs that the only thread of a pool has taken out and not begun. Its thread takes them one by one; who cancels
// the pool's jobs takes the rest away from it.
//
// `word_`: a number of the filling (32 bits), how many there are (16), which is next (16). Only the thread fills, when
// next >= count; both sides take by a read-modify-write that raises `next`, so each entry has one taker. The other side
// reads the entry before its compare-and-swap, which fails if the thread has refilled meanwhile.
class Batch {
 public:
  Job* take() noexcept {
    // Acquire: pairs with the release in take_away(), whose read of an entry comes before the next filling.
    const std::uint64_t word = word_.load(std::memory_order_acquire);
    if (next(word) >= count(word)) return nullptr;
    const std::uint64_t mine = word_.fetch_add(1, std::memory_order_acquire);
    if (OURO_UNLIKELY(next(mine) >= count(mine))) return nullptr;
    prefetch(jobs_[std::min<std::size_t>(next(mine) + 3, batch_jobs - 1)]);
    return jobs_[next(mine)].load(std::memory_order_relaxed);
  }

  Job* fill(Job* const* jobs, std::size_t size) noexcept {
    if (size == 0) return nullptr;
    for (std::size_t i = 1; i < size; ++i) jobs_[i - 1].store(jobs[i], std::memory_order_relaxed);
    for (std::size_t i = 0; i < 3; ++i) prefetch(jobs_[i]);
    const std::uint64_t filling = (word_.load(std::memory_order_relaxed) >> 32) + 1;
    word_.store(filling << 32 | (size - 1) << 16, std::memory_order_release);  // pairs with the acquire in take_away()
    return jobs[0];
  }

  // Threads: any.
  Job* take_away() noexcept {
    std::uint64_t word = word_.load(std::memory_order_acquire);  // pairs with the release in fill()
    while (next(word) < count(word)) {
      Job* job = jobs_[next(word)].load(std::memory_order_relaxed);
      if (word_.compare_exchange_weak(word, word + 1, std::memory_order_acq_rel)) return job;
    }
    return nullptr;
  }

  std::size_t size() const noexcept {
    const std::uint64_t word = word_.load(std::memory_order_relaxed);
    return next(word) < count(word) ? count(word) - next(word) : 0;
  }

 private:
  // A job was written by another processor: it is fetched, to be written, while those before it run.
  static void prefetch(const Atomic<Job*>& entry) noexcept {
    const Job* job = entry.load(std::memory_order_relaxed);  // at worst one that has gone
    __builtin_prefetch(job, 1);
    __builtin_prefetch(reinterpret_cast<const void*>(reinterpret_cast<std::uintptr_t>(job) + 64), 1);
  }
  static std::size_t next(std::uint64_t word) noexcept { return word & 0xffff; }
  static std::size_t count(std::uint64_t word) noexcept { return word >> 16 & 0xffff; }

  Atomic<std::uint64_t> word_{0};
  std::array<Atomic<Job*>, batch_jobs> jobs_{};
};

}  // namespace detail

class ThreadPoolExecutor::Pool : public std::enable_shared_from_this<Pool> {
 public:
  static constexpr std::size_t limit = 32767;  // of max_workers: the word counts in 15 bits
  static constexpr std::size_t unbounded = ThreadPoolOptions().max_queued;

  Pool(const Executor& owner, std::size_t workers, const Options& options)
      : max_workers(workers), max_queued(options.max_queued), owner_(&owner), prefix_(options.thread_name_prefix) {
    if (max_workers == 0) throw ValueError("max_workers must be greater than 0");
    if (max_workers > limit) throw ValueError("max_workers must be at most " + std::to_string(limit));
    if (max_queued == 0) throw ValueError("max_queued must be greater than 0");
    threads_.reserve(max_workers);
  }

  void submit(Job& job);
  void shut(bool cancel_futures) noexcept;
  void join();
  void detach() noexcept;
  std::size_t depth() const noexcept {
    return max_queued != unbounded ? waiting_.load(std::memory_order_relaxed) : queue_.size() + batch_.size();
  }

  const std::size_t max_workers;
  const std::size_t max_queued;
  // How many threads have been started; rises under mutex_, so orders nothing.
  detail::Atomic<std::size_t> started{0};

 private:
  class Worker;
  using Word = std::uint64_t;

  // word_: how many sleep, search, live (15 bits each), shut (1 bit), the ticket of submissions (the rest, wraps).
  static constexpr Word sleeping_one = 1;
  static constexpr Word searching_one = Word{1} << 15;
  static constexpr Word living_one = Word{1} << 30;
  static constexpr Word shut_bit = Word{1} << 45;
  static constexpr Word ticket_one = Word{1} << 46;
  static constexpr Word sleeping(Word word) noexcept { return word & 0x7fff; }
  static constexpr Word searching(Word word) noexcept { return word >> 15 & 0x7fff; }
  static constexpr Word living(Word word) noexcept { return word >> 30 & 0x7fff; }

  bool is_shut() const noexcept { return word_.load(std::memory_order_relaxed) & shut_bit; }
  void push(Job& job);
  void release_place() noexcept {
    if (max_queued != unbounded) waiting_.fetch_sub(1, std::memory_order_relaxed);
  }
  void rouse(Word seen) noexcept;
  void start_thread(bool first);
  void leave_search(bool may_start = true) noexcept;
  bool came_too_late(Job& job) noexcept;
  void wait_for_permit() noexcept;
  void give_permits(std::uint32_t count) noexcept;
  void report_all_blocked() noexcept;

  const Executor* owner_;  // compared, never followed
  std::string prefix_;
  detail::InjectQueue<Job> queue_;
  detail::InjectQueue<Job>::Producer token_{queue_};  // of the thread that submitted first

  // thread_serial() of that thread, or 0 before. Written once by a compare-and-swap; a thread looks for its own number
  // only, so nothing needs an order.
  detail::Atomic<std::uint64_t> token_owner_{0};

  // See the head. All its changes are acquire-release, and pair with each other.
  alignas(64) detail::Atomic<Word> word_{0};

  // Wake-ups that were granted and not taken yet. Raised by wakers, lowered by sleepers; what it orders is ordered by
  // word_ already.
  alignas(64) detail::Atomic<std::uint32_t> permits_{0};
  detail::Atomic<bool> cancelling_{false};  // jobs that have not started are to be cancelled; set before shut_bit
  detail::Atomic<bool> reported_{false};    // the line on stderr has been written
  detail::Atomic<std::size_t> blocked_{0};  // threads in ConcurrentFuture::result(); a count, orders nothing
  detail::Atomic<std::size_t> waiting_{0};  // jobs in queue and batch, if that is bounded; a count, orders nothing
  detail::Atomic<Duration::rep> retry_start_{0};  // no new thread is tried before; orders nothing
  detail::Batch batch_;

  std::mutex mutex_;  // of starting a thread, of the list, of late submitters
  std::vector<std::thread> threads_;
  std::vector<Job*> late_;
  std::mutex join_mutex_;  // of who joins; taken before mutex_
};

}  // namespace ouro
