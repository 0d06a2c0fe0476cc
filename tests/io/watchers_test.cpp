// add_reader and add_writer: once a turn for as long as the descriptor is ready; replaced, removed in all moments.
#include <gmock/gmock.h>

#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <ouro/io/event_loop.hpp>
#include <ouro/io/sockets.hpp>
#include <ouro/runtime/contextvars.hpp>
#include <ouro/runtime/sleep.hpp>
#include <ouro/runtime/tasks.hpp>
#include <ouro/runtime/thread_parker.hpp>

#include "support/loop_fixture.hpp"

namespace ouro {
namespace {

using namespace std::chrono_literals;
using test::describe;
using test::thrown_by;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

using Loop = test::Tested<EventLoop>;

class WatchersTest : public testing::Test {
 protected:
  WatchersTest() {
    loop->set_exception_handler([this](EventLoop&, const ExceptionContext& context) {
      reports.push_back(context.message);
      reports.back().append(": ").append(describe(context.exception));
    });
  }

  void TearDown() override {
    loop.reset();
    EXPECT_THAT(reports, IsEmpty());
    EXPECT_EQ(test::live_frames(), frames_before);
  }

  void send(std::string_view text) {
    ASSERT_EQ(::write(one.fileno(), text.data(), text.size()), static_cast<ssize_t>(text.size()));
  }
  char receive() {
    char c = '?';
    EXPECT_EQ(::read(other.fileno(), &c, 1), 1);
    return c;
  }
  // Runs the loop until the condition holds.
  template <class Condition>
  void run_until(Condition condition) {
    const auto wait = [&]() -> Coroutine<> {
      while (!condition()) co_await sleep(0s);
    };
    loop->run_until_complete(wait());
  }
  // Some turns, in which the ring is looked at.
  void some_turns() {
    const auto wait = []() -> Coroutine<> { co_await sleep(2ms); };
    loop->run_until_complete(wait());
  }

  const std::uint64_t frames_before = test::live_frames();
  std::vector<std::string> reports;
  std::vector<std::string> log;
  std::unique_ptr<Loop> loop = std::make_unique<Loop>();
  std::pair<Socket, Socket> sockets = Socket::pair();
  Socket& one = sockets.first;
  Socket& other = sockets.second;
};

// It is called again for what one call has left.
TEST_F(WatchersTest, CallsForAsLongAsThereIsSomething) {
  std::string got;
  loop->add_reader(other.fileno(), [&] { got += receive(); });
  send("abc");
  run_until([&] { return got.size() == 3; });
  EXPECT_EQ(got, "abc");
  some_turns();
  EXPECT_EQ(got, "abc");
  send("d");
  run_until([&] { return got.size() == 4; });
  EXPECT_TRUE(loop->remove_reader(other.fileno()));
}

// B404
TEST_F(WatchersTest, TheNewCallbackTakesThePlaceOfTheOld) {
  loop->add_reader(other.fileno(), [&] { log.push_back("old"); });
  loop->add_reader(
      other.fileno(),
      [&](const std::string& name) {
        receive();
        log.push_back(name);
      },
      std::string("new"));
  send("x");
  run_until([&] { return !log.empty(); });
  some_turns();
  EXPECT_THAT(log, ElementsAre("new"));
  EXPECT_TRUE(loop->remove_reader(other.fileno()));
  EXPECT_FALSE(loop->remove_reader(other.fileno()));
  send("y");
  some_turns();
  EXPECT_THAT(log, ElementsAre("new"));
}

TEST_F(WatchersTest, ACallbackReplacesItself) {
  loop->add_reader(other.fileno(), [&, name = std::string("the first")] {
    receive();
    loop->add_reader(other.fileno(), [&] {
      receive();
      log.push_back("second");
    });
    log.push_back(name);  // it is still there
  });
  send("xy");
  run_until([&] { return log.size() == 2; });
  EXPECT_THAT(log, ElementsAre("the first", "second"));
  EXPECT_TRUE(loop->remove_reader(other.fileno()));
}

// B405
TEST_F(WatchersTest, ReaderAndWriterOfOneDescriptor) {
  int written = 0;
  loop->add_reader(other.fileno(), [&] {
    receive();
    log.push_back("read");
  });
  loop->add_writer(other.fileno(), [&] { ++written; });
  run_until([&] { return written >= 3; });
  EXPECT_TRUE(loop->remove_writer(other.fileno()));
  EXPECT_FALSE(loop->remove_writer(other.fileno()));
  const int before = written;
  send("x");
  run_until([&] { return !log.empty(); });
  EXPECT_EQ(written, before);
  EXPECT_TRUE(loop->remove_reader(other.fileno()));
  EXPECT_FALSE(loop->remove_reader(one.fileno()));
  EXPECT_THAT(thrown_by([&] { loop->add_reader(-1, [] {}); }), HasSubstr("Invalid file descriptor: -1"));
}

// B406
TEST_F(WatchersTest, RemovedInItsOwnCallbackAndByAnothers) {
  auto pair = Socket::pair();
  int calls = 0;
  // Both are ready in the same turn: whoever comes first removes both.
  for (Socket* socket : {&other, &pair.second}) {
    loop->add_reader(socket->fileno(), [&] {
      ++calls;
      EXPECT_TRUE(loop->remove_reader(other.fileno()));
      EXPECT_TRUE(loop->remove_reader(pair.second.fileno()));
    });
  }
  send("x");
  ASSERT_EQ(::write(pair.first.fileno(), "x", 1), 1);
  run_until([&] { return calls > 0; });
  some_turns();
  EXPECT_EQ(calls, 1);
}

// B414: the number may be used again at once.
TEST_F(WatchersTest, RemovedAndClosedAtOnce) {
  for (int i = 0; i < 50; ++i) {
    auto pair = Socket::pair();
    int calls = 0;
    loop->add_reader(pair.second.fileno(), [&] {
      ++calls;
      EXPECT_TRUE(loop->remove_reader(pair.second.fileno()));
    });
    if (i % 2 == 0) {
      some_turns();
      EXPECT_EQ(calls, 0);
      EXPECT_TRUE(loop->remove_reader(pair.second.fileno()));
    } else {
      ASSERT_EQ(::write(pair.first.fileno(), "x", 1), 1);
      run_until([&] { return calls == 1; });
    }
  }
}

TEST_F(WatchersTest, WhatACallbackThrowsIsReportedAndItGoesOn) {
  int calls = 0;
  loop->add_reader(other.fileno(), [&] {
    receive();
    if (++calls == 1) throw std::runtime_error("no");
  });
  send("xy");
  run_until([&] { return calls == 2; });
  ASSERT_EQ(reports.size(), 1U);
  EXPECT_THAT(reports[0], HasSubstr("no"));
  reports.clear();
  EXPECT_TRUE(loop->remove_reader(other.fileno()));
}

TEST_F(WatchersTest, ADescriptorThatIsNoneIsReportedOnce) {
  constexpr int free_number = 1 << 29;  // 536870912: beyond any limit
  loop->add_reader(free_number, [&] { log.push_back("called"); });
  run_until([&] { return !reports.empty(); });
  some_turns();
  ASSERT_EQ(reports.size(), 1U);
  EXPECT_THAT(reports[0], HasSubstr("poll descriptor 536870912"));
  reports.clear();
  EXPECT_FALSE(loop->remove_reader(free_number));
  EXPECT_THAT(log, IsEmpty());
}

TEST_F(WatchersTest, TheOtherSideHangsUp) {
  int calls = 0;
  loop->add_reader(other.fileno(), [&] {
    ++calls;
    EXPECT_TRUE(loop->remove_reader(other.fileno()));
  });
  one.close();
  run_until([&] { return calls == 1; });
}

// B36
TEST_F(WatchersTest, AClosedLoopWatchesNothing) {
  auto held = std::make_shared<int>(0);
  loop->add_reader(other.fileno(), [held] {});
  loop->add_writer(other.fileno(), [held] {});
  some_turns();
  loop->close();
  EXPECT_THAT(thrown_by([&] { loop->add_reader(other.fileno(), [] {}); }), HasSubstr("Event loop is closed"));
  EXPECT_FALSE(loop->remove_reader(one.fileno()));
  loop.reset();
  EXPECT_EQ(held.use_count(), 1);
}

TEST(WatchersOfAnotherLoop, OneWithoutARing) {
  EventLoop loop(std::make_unique<ThreadParker>());
  EXPECT_THAT(thrown_by([&] { loop.add_reader(0, [] {}); }), HasSubstr("a loop without a ring"));
}

TEST_F(WatchersTest, RunsInACopyOfTheContextInWhichItWasMade) {
  ContextVar<int> number("number", 0);
  std::vector<int> seen;
  Context().run([&] {
    number.set(1);
    loop->add_reader(other.fileno(), [&] {
      receive();
      seen.push_back(number.get());
      number.set(number.get() + 1);
    });
    number.set(7);
  });
  send("ab");
  run_until([&] { return seen.size() == 2; });
  EXPECT_THAT(seen, ElementsAre(1, 2));  // a copy, but one for all its calls
  EXPECT_EQ(number.get(), 0);
}

}  // namespace
}  // namespace ouro
