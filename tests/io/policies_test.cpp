// Which loop belongs to which thread: policies, the current loop, the running loop, and forked children.
#include <gtest/gtest.h>

#include <fcntl.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <filesystem>
#include <latch>
#include <memory>
#include <set>
#include <string>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

#include <ouro/io/event_loop.hpp>
#include <ouro/io/policies.hpp>
#include <ouro/io/runners.hpp>
#include <ouro/runtime/exceptions.hpp>
#include <ouro/runtime/sleep.hpp>

#include "support/child.hpp"
#include "support/test_run.hpp"

namespace ouro {
namespace {

using namespace std::chrono_literals;
using test::in_child;

template <class Body>
std::string text_of(Body body) {
  try {
    body();
  } catch (const RuntimeError& error) {
    return error.what();
  }
  return {};
}

Coroutine<EventLoop*> running_loop() { co_return &get_running_loop(); }
Coroutine<EventLoop*> current_loop() {
  co_await sleep(0s);
  co_return &get_event_loop();
}
Coroutine<int> give(int value) {
  co_await sleep(1ms);
  co_return value;
}

class OwnLoop : public EventLoop {
 public:
  int marks = 0;
};

class CountingPolicy : public DefaultEventLoopPolicy {
 public:
  std::unique_ptr<EventLoop> new_event_loop() override {
    ++made;
    return std::make_unique<OwnLoop>();
  }
  int made = 0;
};

// Every test has a policy of its own, so that no thread has a loop yet.
class Policies : public testing::Test, public test::OverLoops {
 protected:
  Policies() { set_event_loop_policy(policy); }
  ~Policies() override { set_event_loop_policy(nullptr); }

  std::shared_ptr<CountingPolicy> policy = std::make_shared<CountingPolicy>();
};

TEST_F(Policies, GiveTheMainThreadOneLoopOnDemand) {  // B79
  EventLoop& loop = get_event_loop();
  EXPECT_EQ(&get_event_loop(), &loop);
  EXPECT_EQ(&policy->get_event_loop(), &loop);
  EXPECT_EQ(policy->made, 1);
  EXPECT_EQ(loop.run_until_complete(running_loop()), &loop);
}

TEST_F(Policies, GiveNoLoopAfterNoneWasSet) {  // B80
  get_event_loop();
  set_event_loop(nullptr);
  EXPECT_EQ(text_of([] { get_event_loop(); }), "There is no current event loop in this thread");
  EXPECT_EQ(policy->made, 1);
}

TEST_F(Policies, GiveOtherThreadsALoopOnRequestOnly) {  // B79
  std::thread([&] {
    EXPECT_EQ(text_of([] { get_event_loop(); }), "There is no current event loop in this thread");
    const std::unique_ptr<EventLoop> loop = new_event_loop();
    EXPECT_NE(text_of([] { get_event_loop(); }), "");
    set_event_loop(loop.get());
    EXPECT_EQ(&get_event_loop(), loop.get());
    EXPECT_EQ(loop->run_until_complete(current_loop()), loop.get());
    set_event_loop(nullptr);
    EXPECT_NE(text_of([] { get_event_loop(); }), "");
  }).join();
  EXPECT_EQ(policy->made, 1);
}

static_assert(!std::is_invocable_v<decltype(&set_event_loop), int*>);  // B82
static_assert(!std::is_invocable_v<decltype(&set_event_loop_policy), std::shared_ptr<EventLoop>>);
static_assert(std::is_abstract_v<EventLoopPolicy>);  // B61

TEST_F(Policies, MakeNewLoopsThatAreNobodysCurrentOne) {  // B83
  EventLoop& current = get_event_loop();
  const std::unique_ptr<EventLoop> one = new_event_loop();
  const std::unique_ptr<EventLoop> two = new_event_loop();
  EXPECT_NE(one.get(), two.get());
  EXPECT_NE(one.get(), &current);
  EXPECT_EQ(&get_event_loop(), &current);
}

TEST_F(Policies, GiveTheRunningLoopInsideOne) {  // B84
  EventLoop& other = get_event_loop();
  const std::unique_ptr<EventLoop> loop = new_event_loop();
  EXPECT_EQ(text_of([] { get_running_loop(); }), "no running event loop");
  EXPECT_EQ(loop->run_until_complete(running_loop()), loop.get());
  EXPECT_EQ(loop->run_until_complete(current_loop()), loop.get());
  EventLoop* in_callback = nullptr;
  loop->call_soon([&] {
    in_callback = &get_event_loop();
    EXPECT_EQ(&get_running_loop(), in_callback);
    loop->stop();
  });
  loop->run_forever();
  EXPECT_EQ(in_callback, loop.get());
  EXPECT_EQ(text_of([] { get_running_loop(); }), "no running event loop");
  EXPECT_EQ(&get_event_loop(), &other);
}

TEST_F(Policies, GiveTheRunningLoopEvenWhenNoneIsSet) {  // B84
  set_event_loop(nullptr);
  const std::unique_ptr<EventLoop> loop = new_event_loop();
  EXPECT_EQ(loop->run_until_complete(current_loop()), loop.get());
}

TEST_F(Policies, DecideWhatALoopIs) {  // B87
  EXPECT_EQ(get_event_loop_policy(), policy);
  EXPECT_NE(dynamic_cast<OwnLoop*>(&get_event_loop()), nullptr);
  EXPECT_NE(dynamic_cast<OwnLoop*>(new_event_loop().get()), nullptr);
  EXPECT_TRUE(run([]() -> Coroutine<bool> { co_return dynamic_cast<OwnLoop*>(&get_running_loop()) != nullptr; }));
  EXPECT_EQ(policy->made, 2 + static_cast<int>(test::forced_workers()));
}

TEST_F(Policies, AreFreeToKeepTheirLoopsThemselves) {  // B87
  class OneLoopForAll : public EventLoopPolicy {
   public:
    EventLoop& get_event_loop() override { return loop_; }
    void set_event_loop(EventLoop* loop) override { set_ = loop; }
    std::unique_ptr<EventLoop> new_event_loop() override { return std::make_unique<EventLoop>(); }
    EventLoop* set_ = nullptr;

   private:
    EventLoop loop_;
  };
  const auto own = std::make_shared<OneLoopForAll>();
  set_event_loop_policy(own);
  EXPECT_EQ(&get_event_loop(), &own->get_event_loop());
  std::thread([&] { EXPECT_EQ(&get_event_loop(), &own->get_event_loop()); }).join();
  EventLoop mine;
  set_event_loop(&mine);
  EXPECT_EQ(own->set_, &mine);
}

TEST_F(Policies, KeepWhatTheyHandedOutWhenTheyAreReplaced) {
  EventLoop& first = get_event_loop();
  set_event_loop_policy(std::make_shared<CountingPolicy>());
  EventLoop& second = get_event_loop();
  EXPECT_NE(&first, &second);
  EXPECT_EQ(first.run_until_complete(give(1)), 1);
  set_event_loop_policy(policy);
  EXPECT_EQ(&get_event_loop(), &first);
}

TEST_F(Policies, AreReplacedByTheDefaultOneForNone) {
  set_event_loop_policy(nullptr);
  const std::shared_ptr<EventLoopPolicy> standard = get_event_loop_policy();
  EXPECT_NE(standard, nullptr);
  EXPECT_EQ(standard, get_event_loop_policy());
  EXPECT_NE(standard, policy);
}

TEST_F(Policies, ForgetALoopThatIsDestroyed) {
  {
    const std::unique_ptr<EventLoop> loop = new_event_loop();
    set_event_loop(loop.get());
    EXPECT_EQ(&get_event_loop(), loop.get());
  }
  EXPECT_NE(dynamic_cast<OwnLoop*>(&get_event_loop()), nullptr);  // a new one, as for a thread that never had any
  EXPECT_EQ(policy->made, 2);
}

TEST_F(Policies, ForgetALoopThatAnotherThreadDestroys) {
  std::unique_ptr<EventLoop> loop = new_event_loop();
  std::latch set(1);
  std::latch destroyed(1);
  std::thread thread([&] {
    set_event_loop(loop.get());
    set.count_down();
    destroyed.wait();
    EXPECT_NE(text_of([] { get_event_loop(); }), "");
  });
  set.wait();
  loop.reset();
  destroyed.count_down();
  thread.join();
}

TEST_F(Policies, ForgetAThreadThatHasEnded) {
  const std::unique_ptr<EventLoop> loop = new_event_loop();
  for (int i = 0; i < 100; ++i) {
    std::thread([&] {
      EXPECT_NE(text_of([] { get_event_loop(); }), "");  // nothing of an earlier thread of the same number
      set_event_loop(loop.get());
    }).join();
  }
}

TEST_F(Policies, ServeManyThreadsAtOnce) {
  constexpr int threads = 8;
  std::latch ready(threads);
  std::atomic<int> good{0};
  std::vector<std::thread> all;
  for (int i = 0; i < threads; ++i) {
    all.emplace_back([&, i] {
      EventLoop loop;
      set_event_loop(&loop);
      ready.arrive_and_wait();
      if (&get_event_loop() == &loop && loop.run_until_complete(give(i)) == i) good.fetch_add(1);
    });
  }
  for (std::thread& thread : all) thread.join();
  EXPECT_EQ(good.load(), threads);
}

TEST_F(Policies, AreReplacedWhileOthersAsk) {
  std::atomic<bool> over{false};
  std::thread asker([&] {
    while (!over.load()) EXPECT_NE(get_event_loop_policy(), nullptr);
  });
  for (int i = 0; i < 100; ++i) set_event_loop_policy(std::make_shared<CountingPolicy>());
  over.store(true);
  asker.join();
}

// ---- Descriptors and forks ----

TEST_F(Policies, LeaveNoDescriptorBehindWhenALoopIsDestroyed) {  // B37
  const auto lowest_free = [] {
    const int fd = ::dup(0);
    ::close(fd);
    return fd;
  };
  const int before = lowest_free();
  for (int i = 0; i < 10; ++i) EXPECT_EQ(run(give(i)), i);
  EXPECT_EQ(lowest_free(), before);
}

TEST_F(Policies, LeaveTheStandardDescriptorsAsTheyAre) {  // B38
  int before[3];
  for (int fd = 0; fd < 3; ++fd) before[fd] = ::fcntl(fd, F_GETFD);
  run([&]() -> Coroutine<> {
    for (int fd = 0; fd < 3; ++fd) EXPECT_EQ(::fcntl(fd, F_GETFD), before[fd]);
    co_return;
  });
  for (int fd = 0; fd < 3; ++fd) EXPECT_EQ(::fcntl(fd, F_GETFD), before[fd]);
}

TEST_F(Policies, MakeDescriptorsThatNoProgramInherits) {  // B38
  const auto open_descriptors = [] {
    std::set<int> open;
    for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
      open.insert(std::stoi(entry.path().filename().string()));
    }
    std::erase_if(open, [](int fd) { return ::fcntl(fd, F_GETFD) < 0; });  // the listing's own
    return open;
  };
  const std::set<int> before = open_descriptors();
  run([&]() -> Coroutine<> {
    co_await sleep(0s);
    int opened = 0;
    for (const int fd : open_descriptors()) {
      if (before.contains(fd)) continue;
      EXPECT_TRUE((::fcntl(fd, F_GETFD) & FD_CLOEXEC) != 0) << fd;
      ++opened;
    }
    EXPECT_GE(opened, 2);  // the ring and the eventfd
  });
}

TEST_F(Policies, LetAForkedChildMakeItsOwnLoop) {  // B85
  EventLoop& mine = get_event_loop();
  mine.run_until_complete(give(1));
  EXPECT_TRUE(in_child([&] { return run(give(7)) == 7 && run(give(8)) == 8; }));
  EXPECT_TRUE(in_child([&] {
    EventLoop& own = get_event_loop();
    return &own != &mine && own.run_until_complete(give(9)) == 9;
  }));
  EXPECT_EQ(mine.run_until_complete(give(2)), 2);
}

TEST_F(Policies, HideTheRunningLoopFromAForkedChild) {  // B86
#if OURO_TSAN
  OURO_TEST_ALONE("ThreadSanitizer lets a forked child start no threads");
#endif
  const auto fork_inside = []() -> Coroutine<bool> {
    EventLoop& mine = get_running_loop();
    co_await sleep(1ms);
    const bool good = in_child([&] {
      const bool none = text_of([] { get_running_loop(); }) == "no running event loop";
      return none && &get_event_loop() != &mine && run(give(7)) == 7;
    });
    co_await sleep(1ms);
    co_return good && &get_running_loop() == &mine;
  };
  EXPECT_TRUE(run(fork_inside));
}

TEST_F(Policies, LetAChildRunOnInItsCopyOfTheLoop) {  // B86
  const auto fork_inside = []() -> Coroutine<bool> {
    const pid_t parent = ::getpid();
    int status = -1;
    const pid_t child = ::fork();
    if (child == 0) {
      for (int i = 0; i < 100; ++i) co_await sleep(0s);
      co_await sleep(1ms);
      ::_exit(::getpid() != parent ? 0 : 1);
    }
    while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
    }
    co_return status == 0;
  };
  EXPECT_TRUE(run(fork_inside));
}

TEST_F(Policies, LetAForkedChildOfAnotherThreadMakeItsOwnLoop) {  // B86
#if OURO_TSAN
  OURO_TEST_ALONE("ThreadSanitizer lets a forked child start no threads");
#endif
  run([]() -> Coroutine<> {
    bool good = false;
    std::thread([&] { good = in_child([] { return run(give(7)) == 7; }); }).join();
    EXPECT_TRUE(good);
    co_return;
  });
}

}  // namespace
}  // namespace ouro
