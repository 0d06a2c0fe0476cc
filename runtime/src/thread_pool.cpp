// The pool of threads behind run_in_executor: who wakes whom.
//
// Jobs lie in one queue. A thread of the pool is working (it runs jobs), searching (it is awake and looks for one)
// or asleep. One word, `word_`, counts these and those that live, has a bit for "shut", and a ticket that each
// submission raises:
//
//   1. A submitter pushes its job, then raises the ticket, and so learns what was true after the push. If no thread
//      was searching, it wakes one that sleeps; if none sleeps and the limit allows, it starts one. Otherwise it
//      does nothing: most submissions end here, without a system call.
//   2. A searching thread that finds a job leaves the searching. If it was the last and the queue is not empty, it
//      does for its successor what a submitter would do: submitters relied on it.
//   3. A searching thread that finds nothing for a while moves itself from the searching to the sleeping, looks once
//      more whether there is anything, and sleeps. If there is, it takes itself back and searches on. It must not take
//      a job before it has: it may have to wait for a permit (step 4), which another sleeper can take, and the job
//      would sleep with it.
//   4. Whoever wakes moves one from the sleeping to the searching by a compare-and-swap, which makes it the only
//      waker, and then raises `permits_` and wakes one sleeper there. Sleepers are not told apart: any may take the
//      permit. A thread that wants to take itself back and finds nobody sleeping has been given a permit, and waits
//      for that.
//
// No wake-up is lost: the submitter's step 1 and the sleeper's step 3 are read-modify-writes of one word, so one
// comes first. If the submitter's does, the sleeper's acquires what it released, and the last look finds the job. If
// the sleeper's does, the submitter sees a sleeper. (It is Dekker's pattern; on two words it would take two
// sequentially consistent fences, which ThreadSanitizer does not see and which cost as much.) The same holds for
// step 2 in the place of step 3. A thread that is being started counts as searching. The only thread of a pool of
// one is relied on by nobody: it is counted as searching when it is started or woken, and then never again, which
// keeps the word out of its way.
//
// At most one thread searches by spinning: the second goes to sleep at once. The spin yields the processor between
// looks, for the submitter may share it, and adapts: it doubles when it paid or would have, and halves when it did
// not.
//
// A pool of one thread takes jobs in bulk (Batch). With several, a job that waits for its neighbour in the batch
// would wait for ever, so there each is taken alone.
//
// Shutdown sets its bit and wakes everybody. A thread that sees the bit and an empty queue leaves the living, looks
// once more, and ends, or comes back for what it found: the same pattern again. A submission that sees the bit was
// too late; but if a thread still lives, that one finds the job and runs it, and the submission counts. If none
// does, nobody but late submitters will look at the queue again: each takes out, under the mutex, what is there, and
// throws if its own job is among it.
//
// A job that blocks in ConcurrentFuture::result() on a job of its own executor runs that one first if nobody has
// begun it (SubmittedJob::help), so nested waits need no free thread. What remains is a ring through a loop: all
// threads wait for tasks of a loop that wait for jobs of this executor. That cannot be told from a slow loop, so it
// is not made an error; when all threads have waited for a second while jobs lie in the queue, a line on stderr says
// so, once a pool.
//
// Rejected: a lock and a condition variable (130-160 ns a job, and glibc loses signals); a queue for each thread (a
// blocked job holds up what lies behind it); holding completed jobs back to post them in chains (the next job may
// wait for the first one's effect).
#include "thread_pool.hpp"

#include <pthread.h>
#include <sched.h>
#include <signal.h>

#include <chrono>
#include <cstdio>
#include <exception>
#include <new>
#include <string>
#include <utility>

#include <ouro/runtime/detail/futex.hpp>
#include <ouro/runtime/exceptions.hpp>

namespace ouro {
namespace {

constexpr Duration spin_longest = std::chrono::microseconds(50);
constexpr Duration spin_shortest = std::chrono::microseconds(2);
constexpr Duration pause_shortest = std::chrono::nanoseconds(500);
constexpr Duration pause_longest = std::chrono::microseconds(4);
constexpr Duration start_retry = std::chrono::milliseconds(100);

// A number that no two threads ever share, unlike their ids and addresses.
std::uint64_t thread_serial() noexcept {
  static constinit detail::Atomic<std::uint64_t> last{0};  // counts; orders nothing
  constinit thread_local std::uint64_t serial = 0;
  if (OURO_UNLIKELY(serial == 0)) serial = last.fetch_add(1, std::memory_order_relaxed) + 1;
  return serial;
}

// Blocks all signals but those that a fault raises in the thread itself; threads made meanwhile inherit that.
class SignalsBlocked {
 public:
  SignalsBlocked() noexcept {
    sigset_t set;
    sigfillset(&set);
    for (const int fault : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGABRT, SIGSYS, SIGPROF}) sigdelset(&set, fault);
    pthread_sigmask(SIG_SETMASK, &set, &before_);
  }
  SignalsBlocked(const SignalsBlocked&) = delete;
  SignalsBlocked& operator=(const SignalsBlocked&) = delete;
  ~SignalsBlocked() { pthread_sigmask(SIG_SETMASK, &before_, nullptr); }

 private:
  sigset_t before_;
};

void linger(Duration time) noexcept {
  const TimePoint end = Clock::steady().now() + time;
  do {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
  } while (Clock::steady().now() < end);
}

// "prefix_N", cut at the front part so that it fits the kernel's 15 characters.
void name_this_thread(const std::string& prefix, std::size_t number) noexcept {
  std::array<char, 16> name;
  std::array<char, 12> suffix;
  const int length = std::snprintf(suffix.data(), suffix.size(), "_%zu", number);
  std::snprintf(name.data(), name.size(), "%.*s%s", 15 - length, prefix.c_str(), suffix.data());
  pthread_setname_np(pthread_self(), name.data());
}

[[noreturn]] void throw_shut_down() {
  throw RuntimeError("cannot schedule new futures after shutdown", "make a new executor");
}

}  // namespace

// One thread of the pool.
class ThreadPoolExecutor::Pool::Worker final : public detail::ExecutorThread {
 public:
  explicit Worker(Pool& pool)
      : ExecutorThread(*pool.owner_), pool_(pool), consumer_(pool.queue_), alone_(pool.max_workers == 1) {}

  void work() noexcept {
    detail::set_executor_thread(this);
    while (Job* job = search()) {
      if (std::exchange(searching_, false)) pool_.leave_search();
      for (; job; job = take()) {
        pool_.release_place();
        if (OURO_UNLIKELY(pool_.cancelling_.load(std::memory_order_relaxed))) {
          job->cancel();
        } else {
          job->run();
        }
      }
    }
    detail::set_executor_thread(nullptr);
  }

  void block() noexcept override { pool_.blocked_.fetch_add(1, std::memory_order_relaxed); }
  void unblock() noexcept override { pool_.blocked_.fetch_sub(1, std::memory_order_relaxed); }
  void still_blocked() noexcept override { pool_.report_all_blocked(); }

 private:
  Job* take() noexcept;
  void adapt_pause(std::size_t size) noexcept;
  Job* search() noexcept;
  Job* spin() noexcept;
  Job* sleep() noexcept;
  Job* leave_or_find() noexcept;
  Word searching_share() const noexcept { return searching_ ? searching_one : 0; }

  Pool& pool_;
  detail::InjectQueue<Job>::Consumer consumer_;
  const bool alone_;
  bool searching_ = true;            // counted as such: it was started, or woken, to search
  std::size_t last_batch_ = 0;       // alone: how many jobs it took the last time; 0: they come one at a time
  Duration pause_ = pause_shortest;  // alone: how long it then waits for the next ones
  Duration spin_ = spin_longest;
};

Job* ThreadPoolExecutor::Pool::Worker::take() noexcept {
  if (!alone_) return pool_.queue_.pop(consumer_);
  if (Job* job = pool_.batch_.take()) return job;
  if (last_batch_ != 0) linger(pause_);
  std::array<Job*, detail::batch_jobs> jobs;
  const std::size_t size = pool_.queue_.pop_bulk(consumer_, jobs.data(), jobs.size());
  adapt_pause(size);
  return pool_.batch_.fill(jobs.data(), size);
}

// A thread that is faster than those who submit would look at the queue after each job, and so take the lines of the
// queue, the word and the job away from them while they write. So it waits for several.
// A longer wait has to pay: who awaits each job before the next would only wait longer.
void ThreadPoolExecutor::Pool::Worker::adapt_pause(std::size_t size) noexcept {
  if (size < detail::batch_jobs / 2) {
    pause_ = 2 * size > 3 * last_batch_ ? std::min(pause_ * 2, pause_longest) : std::max(pause_ / 2, pause_shortest);
  }
  last_batch_ = size < detail::batch_jobs ? size : 0;
}

// A job; or nullptr when the pool is shut down and nothing is left.
Job* ThreadPoolExecutor::Pool::Worker::search() noexcept {
  for (;;) {
    if (Job* job = spin()) return job;
    if (pool_.is_shut()) return leave_or_find();
    if (Job* job = sleep()) return job;
  }
}

Job* ThreadPoolExecutor::Pool::Worker::spin() noexcept {
  if (!alone_ && !searching_) {
    pool_.word_.fetch_add(searching_one, std::memory_order_acq_rel);
    searching_ = true;
  }
  if (Job* job = take()) return job;
  if (searching(pool_.word_.load(std::memory_order_relaxed)) > 1) return nullptr;
  const TimePoint end = Clock::steady().now() + spin_;
  do {
    sched_yield();
    if (Job* job = take()) {
      last_batch_ = 0;
      spin_ = std::min(spin_ * 2, spin_longest);
      return job;
    }
  } while (!pool_.is_shut() && Clock::steady().now() < end);
  spin_ = std::max(spin_ / 2, spin_shortest);
  return nullptr;
}

Job* ThreadPoolExecutor::Pool::Worker::sleep() noexcept {
  Word seen = pool_.word_.fetch_add(sleeping_one - searching_share(), std::memory_order_acq_rel);
  searching_ = true;  // whoever wakes it counts it so; if it takes itself back, it does that itself
  // Looks, and takes nothing: who holds a job must not wait for a permit, which another sleeper may take.
  if (pool_.queue_.size() == 0 && !(seen & shut_bit)) {
    const TimePoint start = Clock::steady().now();
    pool_.wait_for_permit();
    if (Clock::steady().now() - start < 2 * spin_longest) spin_ = spin_longest;
    return nullptr;
  }
  seen = pool_.word_.load(std::memory_order_relaxed);
  while (sleeping(seen) > 0) {
    if (pool_.word_.compare_exchange_weak(seen, seen - sleeping_one + searching_one, std::memory_order_acq_rel,
                                          std::memory_order_relaxed)) {
      return pool_.queue_.pop_last(consumer_);
    }
  }
  pool_.wait_for_permit();
  return nullptr;
}

Job* ThreadPoolExecutor::Pool::Worker::leave_or_find() noexcept {
  pool_.word_.fetch_sub(living_one + searching_share(), std::memory_order_acq_rel);
  Job* job = pool_.queue_.pop_last(consumer_);
  if (job) pool_.word_.fetch_add(living_one + searching_share(), std::memory_order_acq_rel);
  return job;
}

void ThreadPoolExecutor::Pool::submit(Job& job) {
  if (is_shut()) throw_shut_down();
  if (OURO_UNLIKELY(started.load(std::memory_order_relaxed) == 0)) start_thread(true);
  push(job);
  // From here on the job may be gone: only its address is used.
  const Word seen = word_.fetch_add(ticket_one, std::memory_order_acq_rel);
  if (OURO_UNLIKELY(seen & shut_bit)) {
    if (living(seen) == 0 && came_too_late(job)) throw_shut_down();
  } else if (searching(seen) == 0 && (sleeping(seen) > 0 || started.load(std::memory_order_relaxed) < max_workers)) {
    rouse(seen);
  }
}

void ThreadPoolExecutor::Pool::push(Job& job) {
  if (max_queued != unbounded && waiting_.fetch_add(1, std::memory_order_relaxed) >= max_queued) {
    release_place();
    throw RuntimeError("the executor is full: " + std::to_string(max_queued) + " jobs wait for a thread (max_queued)",
                       "await some of the results first, or raise ThreadPoolOptions::max_queued");
  }
  std::uint64_t owner = token_owner_.load(std::memory_order_relaxed);
  const std::uint64_t self = thread_serial();
  if (OURO_UNLIKELY(owner == 0) &&
      token_owner_.compare_exchange_strong(owner, self, std::memory_order_relaxed, std::memory_order_relaxed)) {
    owner = self;
  }
  if (!(owner == self ? queue_.push(token_, job) : queue_.push(job))) {
    release_place();
    throw std::bad_alloc();
  }
}

// The job was pushed when no thread lived. True if nobody has run it: it is the caller's again.
bool ThreadPoolExecutor::Pool::came_too_late(Job& job) noexcept {
  const std::lock_guard lock(mutex_);
  while (Job* found = queue_.pop()) {
    release_place();
    try {
      late_.push_back(found);
    } catch (const std::bad_alloc&) {
      if (found == &job) return true;
      found->cancel();
    }
  }
  return std::erase(late_, &job) != 0;
}

// Step 1 of the head: `seen` is the word as it was when no thread searched.
void ThreadPoolExecutor::Pool::rouse(Word seen) noexcept {
  while (searching(seen) == 0 && sleeping(seen) > 0) {
    if (word_.compare_exchange_weak(seen, seen - sleeping_one + searching_one, std::memory_order_acq_rel,
                                    std::memory_order_relaxed)) {
      give_permits(1);
      return;
    }
  }
  if (searching(seen) == 0 && started.load(std::memory_order_relaxed) < max_workers) start_thread(false);
}

// Starts a thread if none searches, the limit allows and the system does. With `first` it is needed: throws without it.
void ThreadPoolExecutor::Pool::start_thread(bool first) {
  const TimePoint::rep now = first ? 0 : Clock::steady().now().time_since_epoch().count();
  if (!first && now < retry_start_.load(std::memory_order_relaxed)) return;
  std::unique_lock lock(mutex_);
  const std::size_t number = started.load(std::memory_order_relaxed);
  const Word seen = word_.load(std::memory_order_relaxed);
  if (seen & shut_bit || number == max_workers || (first ? number > 0 : searching(seen) > 0)) return;
  word_.fetch_add(living_one + searching_one, std::memory_order_acq_rel);
  try {
    const SignalsBlocked blocked;
    threads_.emplace_back([pool = shared_from_this(), number] {
      name_this_thread(pool->prefix_, number);
      Worker(*pool).work();
    });
    started.store(number + 1, std::memory_order_relaxed);
  } catch (const std::exception& error) {
    word_.fetch_sub(living_one, std::memory_order_acq_rel);
    leave_search(false);
    if (first) {
      throw RuntimeError(std::string("can't start new thread: ") + error.what(),
                         "raise the limit of processes (ulimit -u, the container's pids limit)");
    }
    retry_start_.store(now + start_retry.count(), std::memory_order_relaxed);
  }
}

// Step 2 of the head.
void ThreadPoolExecutor::Pool::leave_search(bool may_start) noexcept {
  const Word seen = word_.fetch_sub(searching_one, std::memory_order_acq_rel) - searching_one;
  if (searching(seen) != 0 || (sleeping(seen) == 0 && !may_start)) return;
  if (sleeping(seen) == 0 && started.load(std::memory_order_relaxed) == max_workers) return;
  if (queue_.size() > 0) rouse(seen);
}

void ThreadPoolExecutor::Pool::give_permits(std::uint32_t count) noexcept {
  permits_.fetch_add(count, std::memory_order_release);
  detail::futex_wake(permits_, count);
}

void ThreadPoolExecutor::Pool::wait_for_permit() noexcept {
  std::uint32_t permits = permits_.load(std::memory_order_relaxed);
  for (;;) {
    if (permits == 0) {
      detail::futex_wait(permits_, 0);
      permits = permits_.load(std::memory_order_relaxed);
    } else if (permits_.compare_exchange_weak(permits, permits - 1, std::memory_order_acquire,
                                              std::memory_order_relaxed)) {
      return;
    }
  }
}

void ThreadPoolExecutor::Pool::shut(bool cancel_futures) noexcept {
  if (cancel_futures) cancelling_.store(true, std::memory_order_relaxed);
  Word seen = word_.fetch_or(shut_bit, std::memory_order_acq_rel);
  while (sleeping(seen) > 0) {
    const Word all = sleeping(seen);
    if (word_.compare_exchange_weak(seen, seen - all * sleeping_one + all * searching_one, std::memory_order_acq_rel,
                                    std::memory_order_relaxed)) {
      give_permits(static_cast<std::uint32_t>(all));
      break;
    }
  }
  if (!cancel_futures) return;
  for (;;) {
    Job* job = batch_.take_away();
    if (!job) job = queue_.pop();
    if (!job) return;
    release_place();
    job->cancel();
  }
}

void ThreadPoolExecutor::Pool::join() {
  const std::lock_guard joining(join_mutex_);
  std::vector<std::thread> threads;
  {
    const std::lock_guard lock(mutex_);  // who is starting a thread has finished, and nobody begins after shut()
    threads.swap(threads_);
  }
  for (std::thread& thread : threads) thread.join();
}

void ThreadPoolExecutor::Pool::detach() noexcept {
  const std::lock_guard joining(join_mutex_);
  const std::lock_guard lock(mutex_);
  for (std::thread& thread : threads_) thread.detach();
  threads_.clear();
}

void ThreadPoolExecutor::Pool::report_all_blocked() noexcept {
  const std::size_t jobs = depth();
  if (jobs == 0 || blocked_.load(std::memory_order_relaxed) < started.load(std::memory_order_relaxed)) return;
  if (started.load(std::memory_order_relaxed) < max_workers) return;
  if (reported_.exchange(true, std::memory_order_relaxed)) return;
  std::fprintf(
      stderr,
      "ouro: all %zu threads of executor '%s' wait in ConcurrentFuture::result() while %zu jobs are queued for "
      "them; if those results depend on these jobs, they wait for ever: use another executor for one of them\n",
      max_workers, prefix_.c_str(), jobs);
}

}  // namespace ouro
