// What a cancellation leaves behind: for each awaitable of locks, queues and channels the line that its declaration
// says after "If cancelled", at each moment: before it begins to wait, while it waits, in the turn in which it ends
// (before that and after), and when it has ended.
#include <gmock/gmock.h>

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <ouro/runtime/channel.hpp>
#include <ouro/runtime/conditions.hpp>
#include <ouro/runtime/locks.hpp>
#include <ouro/runtime/queues.hpp>
#include <ouro/runtime/sleep.hpp>

#include "support/sync_fixture.hpp"

namespace ouro {
namespace {

using namespace std::chrono_literals;

// One awaitable: it has to wait until complete().
class Contract {
 public:
  virtual ~Contract() = default;
  // Awaits it, and undoes what it got.
  virtual Coroutine<> wait() = 0;
  virtual void complete() = 0;
  // After complete(), and the end of the task: true if all is as if it had not been awaited.
  virtual bool untouched() = 0;
};

class LockContract final : public Contract {
 public:
  explicit LockContract(bool guarded) : guarded_(guarded) { lock_.try_acquire(); }
  Coroutine<> wait() override {
    if (guarded_) {
      auto guard = co_await lock_.scoped();
    } else {
      co_await lock_.acquire();
      lock_.release();
    }
  }
  void complete() override { lock_.release(); }
  bool untouched() override { return lock_.try_acquire(); }

 private:
  const bool guarded_;
  Lock lock_;
};

class SemaphoreContract final : public Contract {
 public:
  explicit SemaphoreContract(bool guarded) : guarded_(guarded) {}
  Coroutine<> wait() override {
    if (guarded_) {
      auto guard = co_await semaphore_.scoped();
    } else {
      co_await semaphore_.acquire();
      semaphore_.release();
    }
  }
  void complete() override { semaphore_.release(); }
  bool untouched() override { return semaphore_.try_acquire() && semaphore_.locked(); }

 private:
  const bool guarded_;
  Semaphore semaphore_{0};
};

class EventContract final : public Contract {
 public:
  Coroutine<> wait() override { co_await event_.wait(); }
  void complete() override { event_.set(); }
  bool untouched() override { return event_.is_set(); }

 private:
  Event event_;
};

class ReadContract final : public Contract {
 public:
  explicit ReadContract(bool guarded) : guarded_(guarded) { lock_.try_acquire_write(); }
  Coroutine<> wait() override {
    if (guarded_) {
      auto guard = co_await lock_.scoped_read();
    } else {
      co_await lock_.acquire_read();
      lock_.release_read();
    }
  }
  void complete() override { lock_.release_write(); }
  bool untouched() override { return lock_.try_acquire_write(); }

 private:
  const bool guarded_;
  RWLock lock_;
};

class WriteContract final : public Contract {
 public:
  explicit WriteContract(bool guarded) : guarded_(guarded) { lock_.try_acquire_read(); }
  Coroutine<> wait() override {
    if (guarded_) {
      auto guard = co_await lock_.scoped_write();
    } else {
      co_await lock_.acquire_write();
      lock_.release_write();
    }
  }
  void complete() override { lock_.release_read(); }
  bool untouched() override { return lock_.try_acquire_write(); }

 private:
  const bool guarded_;
  RWLock lock_;
};

// The lock is held again when the wait ends, however it ends.
class ConditionContract final : public Contract {
 public:
  explicit ConditionContract(bool predicate) : predicate_(predicate) {}
  Coroutine<> wait() override {
    auto guard = co_await condition_.scoped();
    struct Check {
      explicit Check(Condition& of) : condition(of) {}
      Check(const Check&) = delete;
      ~Check() { EXPECT_TRUE(condition.locked()); }
      Condition& condition;
    } const check(condition_);
    if (predicate_) {
      co_await condition_.wait_for([this] { return completed_; });
    } else {
      co_await condition_.wait();
    }
  }
  void complete() override {
    completed_ = true;
    if (!lock_.try_acquire()) return;  // it is about to end
    condition_.notify();
    lock_.release();
  }
  bool untouched() override { return lock_.try_acquire(); }

 private:
  const bool predicate_;
  bool completed_ = false;
  Lock lock_;
  Condition condition_{lock_};
};

class ConditionLockContract final : public Contract {
 public:
  explicit ConditionLockContract(bool guarded) : guarded_(guarded) { lock_.try_acquire(); }
  Coroutine<> wait() override {
    if (guarded_) {
      auto guard = co_await condition_.scoped();
    } else {
      co_await condition_.acquire();
      condition_.release();
    }
  }
  void complete() override { lock_.release(); }
  bool untouched() override { return lock_.try_acquire(); }

 private:
  const bool guarded_;
  Lock lock_;
  Condition condition_{lock_};
};

// One more comes; if the first one was cancelled, that one waits.
class BarrierContract final : public Contract {
 public:
  explicit BarrierContract(BaseEventLoop& loop) : loop_(loop) {}
  Coroutine<> wait() override { co_await barrier_.wait(); }
  void complete() override { loop_.create_task(come()); }
  bool untouched() override {
    const bool right = barrier_.n_waiting() <= 1;
    barrier_.reset().await_ready();
    return right;
  }

 private:
  Coroutine<> come() {
    try {
      co_await barrier_.wait();
    } catch (const BrokenBarrierError&) {
    }
  }

  BaseEventLoop& loop_;
  Barrier barrier_{2};
};

class GetContract final : public Contract {
 public:
  Coroutine<> wait() override {
    const int item = co_await queue_.get();
    queue_.put_nowait(item);
  }
  void complete() override { queue_.put_nowait(7); }
  bool untouched() override { return queue_.qsize() == 1 && queue_.get_nowait() == 7; }

 private:
  Queue<int> queue_;
};

class PutContract final : public Contract {
 public:
  PutContract() { queue_.put_nowait(1); }
  Coroutine<> wait() override {
    co_await queue_.put(2);
    EXPECT_EQ(queue_.get_nowait(), 2);
  }
  void complete() override { EXPECT_EQ(queue_.get_nowait(), 1); }
  bool untouched() override { return queue_.empty() && !queue_.full(); }

 private:
  Queue<int> queue_{{.maxsize = 1}};
};

class JoinContract final : public Contract {
 public:
  JoinContract() { queue_.put_nowait(1); }
  Coroutine<> wait() override { co_await queue_.join(); }
  void complete() override { queue_.task_done(); }
  bool untouched() override { return queue_.qsize() == 1; }

 private:
  Queue<int> queue_;
};

class ReceiveContract final : public Contract {
 public:
  Coroutine<> wait() override {
    const std::optional<int> value = co_await channel_.recv();
    EXPECT_TRUE(channel_.try_send(*value));
  }
  void complete() override { EXPECT_TRUE(channel_.try_send(7)); }
  bool untouched() override { return channel_.try_recv() == 7 && channel_.empty(); }

 private:
  Channel<int> channel_{2};
};

class SendContract final : public Contract {
 public:
  SendContract() { channel_.try_send(1); }
  Coroutine<> wait() override {
    co_await channel_.send(2);
    EXPECT_EQ(channel_.try_recv(), 2);
  }
  void complete() override { EXPECT_EQ(channel_.try_recv(), 1); }
  bool untouched() override { return channel_.empty(); }

 private:
  Channel<int> channel_{1};
};

struct Row {
  const char* what;
  std::function<std::unique_ptr<Contract>()> make;
};

enum class Moment { before, waiting, then_complete, completed_then, after };

class SyncCancel : public test::SyncTest {
 protected:
  const std::vector<Row> rows{
      {"Lock::acquire", [] { return std::make_unique<LockContract>(false); }},
      {"Lock::scoped", [] { return std::make_unique<LockContract>(true); }},
      {"Semaphore::acquire", [] { return std::make_unique<SemaphoreContract>(false); }},
      {"Semaphore::scoped", [] { return std::make_unique<SemaphoreContract>(true); }},
      {"Event::wait", [] { return std::make_unique<EventContract>(); }},
      {"RWLock::acquire_read", [] { return std::make_unique<ReadContract>(false); }},
      {"RWLock::scoped_read", [] { return std::make_unique<ReadContract>(true); }},
      {"RWLock::acquire_write", [] { return std::make_unique<WriteContract>(false); }},
      {"RWLock::scoped_write", [] { return std::make_unique<WriteContract>(true); }},
      {"Condition::wait", [] { return std::make_unique<ConditionContract>(false); }},
      {"Condition::wait_for", [] { return std::make_unique<ConditionContract>(true); }},
      {"Condition::acquire", [] { return std::make_unique<ConditionLockContract>(false); }},
      {"Condition::scoped", [] { return std::make_unique<ConditionLockContract>(true); }},
      {"Barrier::wait", [this] { return std::make_unique<BarrierContract>(loop); }},
      {"Queue::get", [] { return std::make_unique<GetContract>(); }},
      {"Queue::put", [] { return std::make_unique<PutContract>(); }},
      {"Queue::join", [] { return std::make_unique<JoinContract>(); }},
      {"Channel::recv", [] { return std::make_unique<ReceiveContract>(); }},
      {"Channel::send", [] { return std::make_unique<SendContract>(); }},
  };

  std::unique_ptr<Contract> make_contract(const Row& row) {
    if (GetParam() == test::Made::outside) {
      detail::LoopState* const here = detail::set_running_state(nullptr);
      auto made = row.make();
      detail::set_running_state(here);
      return made;
    }
    return run([](const Row& of) -> Coroutine<std::unique_ptr<Contract>> { co_return of.make(); }(row));
  }

  // Awaits it in a task that is cancelled at that moment; with `before`, by itself.
  Task<> start(Contract& contract, Moment moment) {
    return loop.create_task([](Contract& c, bool cancels_itself) -> Coroutine<> {
      if (cancels_itself) current_task().cancel();
      co_await c.wait();
    }(contract, moment == Moment::before));
  }
};

TEST_P(SyncCancel, LeavesBehindWhatItSays) {
  for (const Row& row : rows) {
    for (const Moment moment :
         {Moment::before, Moment::waiting, Moment::then_complete, Moment::completed_then, Moment::after}) {
      SCOPED_TRACE(std::string(row.what) + ", moment " + std::to_string(static_cast<int>(moment)));
      const std::unique_ptr<Contract> contract = make_contract(row);
      Task<> task = start(*contract, moment);
      turn(4);
      EXPECT_EQ(task.done(), moment == Moment::before);
      if (moment == Moment::completed_then || moment == Moment::after) contract->complete();
      if (moment == Moment::after) turn(6);
      EXPECT_EQ(task.done(), moment == Moment::before || moment == Moment::after);
      if (moment != Moment::before) {
        EXPECT_EQ(task.cancel(), moment != Moment::after);
      }
      if (moment == Moment::then_complete) contract->complete();
      turn(6);
      ASSERT_TRUE(task.done());
      EXPECT_EQ(task.cancelled(), moment != Moment::after);
      if (moment == Moment::before || moment == Moment::waiting) contract->complete();
      turn(4);
      EXPECT_TRUE(contract->untouched());
      turn(4);
    }
  }
}

// Those that never wait do what they do, though a cancellation is due; the next await hears of it.
TEST_P(SyncCancel, WhatNeverWaitsIsDone) {
  struct Action {
    const char* what;
    Coroutine<> (*use)(Barrier& barrier);
    bool breaks;
  };
  const Action actions[]{
      {"Barrier::reset", [](Barrier& barrier) -> Coroutine<> { co_await barrier.reset(); }, false},
      {"Barrier::abort", [](Barrier& barrier) -> Coroutine<> { co_await barrier.abort(); }, true},
  };
  for (const Action& action : actions) {
    auto barrier = make<Barrier>(1);
    bool done = false;
    Task<> task = loop.create_task([](Barrier& b, const Action& a, bool& after) -> Coroutine<> {
      current_task().cancel();
      co_await a.use(b);
      after = true;
      co_await sleep(0s);
    }(*barrier, action, done));
    turn(4);
    EXPECT_TRUE(task.cancelled()) << action.what;
    EXPECT_TRUE(done) << action.what;
    EXPECT_EQ(barrier->broken(), action.breaks) << action.what;
  }
}

// What is there at once is given as well.
TEST_P(SyncCancel, WhatDoesNotWaitIsDone) {
  auto barrier = make<Barrier>(1);
  auto lock = make<Lock>();
  auto queue = make<Queue<int>>();
  auto channel = make<Channel<int>>(1U);
  int done = 0;
  Task<> task = loop.create_task([](Barrier& b, Lock& l, Queue<int>& q, Channel<int>& c, int& n) -> Coroutine<> {
    current_task().cancel();
    n += static_cast<int>(co_await b.wait() == 0);
    co_await l.acquire();
    co_await q.put(1);
    co_await c.send(co_await q.get());
    n += co_await c.recv() == 1;
    co_await sleep(0s);
    ++n;
  }(*barrier, *lock, *queue, *channel, done));
  turn(4);
  EXPECT_TRUE(task.cancelled());
  EXPECT_EQ(done, 2);
}

OURO_SYNC_TESTS(SyncCancel);

}  // namespace
}  // namespace ouro
