// Sockets and the sock_* operations: over TCP, unix sockets and datagrams, in both modes of a descriptor, over one loop
// and over several; cancellations in all moments, and what closes with operations in flight.
#include <gmock/gmock.h>

#include <fcntl.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstddef>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <ouro/io/errors.hpp>
#include <ouro/io/event_loop.hpp>
#include <ouro/io/policies.hpp>
#include <ouro/io/sockets.hpp>
#include <ouro/runtime/gather.hpp>
#include <ouro/runtime/sleep.hpp>
#include <ouro/runtime/tasks.hpp>
#include <ouro/runtime/thread_parker.hpp>
#include <ouro/runtime/timeouts.hpp>

#include "support/group.hpp"

namespace ouro {
namespace {

using namespace std::chrono_literals;
using test::end_of;
using test::thrown_by;
using testing::HasSubstr;

std::size_t open_descriptors() {
  const std::filesystem::directory_iterator all("/proc/self/fd");
  return static_cast<std::size_t>(std::distance(begin(all), end(all)));
}

// At the end of a test every descriptor has been closed.
class SocketsTest : public test::GroupsOfAnySize {
 protected:
  void TearDown() override {
    EXPECT_EQ(open_descriptors(), descriptors_before_) << "descriptors leaked";
    GroupsOfAnySize::TearDown();
  }

 private:
  const std::size_t descriptors_before_ = open_descriptors();
};
INSTANTIATE_TEST_SUITE_P(Workers, SocketsTest, testing::Values(1U, 2U, 4U));

Socket listener() {
  Socket socket(AF_INET);
  socket.bind(Address::ip("127.0.0.1", 0));
  socket.listen();
  return socket;
}

void set_non_blocking(const Socket& socket) {
  ASSERT_EQ(::fcntl(socket.fileno(), F_SETFL, ::fcntl(socket.fileno(), F_GETFL) | O_NONBLOCK), 0);
}

// So many bytes, whatever pieces they come in.
Coroutine<std::string> receive_all(EventLoop& loop, const Socket& socket, std::size_t bytes) {
  std::string data;
  while (data.size() < bytes) {
    std::string piece = co_await loop.sock_recv(socket, bytes - data.size());
    if (piece.empty()) break;
    data += piece;
  }
  co_return data;
}

Coroutine<> echo_once(Socket socket, std::size_t bytes) {
  EventLoop& loop = get_running_loop();
  const std::string data = co_await receive_all(loop, socket, bytes);
  co_await loop.sock_sendall(socket, data);
}

// Until it has begun and awaits something.
template <class T>
Coroutine<> waits(const Task<T>& task) {
  co_await test::until([&task] { return task.done() || !task.get_stack().empty(); });
}

std::string pattern(std::size_t bytes) {
  std::string text(bytes, '\0');
  for (std::size_t i = 0; i < bytes; ++i) text[i] = static_cast<char>((i * 7 + i / 251) % 256);
  return text;
}

// B407, B411
TEST_P(SocketsTest, AcceptConnectSendAndReceive) {
  const auto main = []() -> Coroutine<> {
    EventLoop& loop = get_running_loop();
    const Socket server = listener();
    Socket client(AF_INET);
    auto accepting = create_task(
        [](const Socket& from) -> Coroutine<std::pair<Socket, Address>> {
          co_return co_await get_running_loop().sock_accept(from);
        },
        std::cref(server));
    co_await loop.sock_connect(client, server.getsockname());
    auto [socket, peer] = co_await std::move(accepting);
    EXPECT_EQ(peer, client.getsockname());
    EXPECT_EQ(socket.getsockname(), client.getpeername());
    EXPECT_EQ(socket.family(), AF_INET);
    EXPECT_EQ(socket.type(), SOCK_STREAM);
    EXPECT_NE(::fcntl(socket.fileno(), F_GETFD) & FD_CLOEXEC, 0);

    const std::string data = pattern(4 << 20);  // more than the buffers of a socket hold
    auto echo = create_task(echo_once(std::move(socket), data.size()));
    auto sending =
        create_task([](const Socket& to,
                       const std::string& what) -> Coroutine<> { co_await get_running_loop().sock_sendall(to, what); },
                    std::cref(client), std::cref(data));
    const std::string answer = co_await receive_all(loop, client, data.size());
    EXPECT_TRUE(answer == data);
    co_await std::move(sending);
    co_await std::move(echo);
    const std::string end = co_await loop.sock_recv(client, 10);
    EXPECT_EQ(end, "");
    co_await loop.sock_sendall(client, "");
  };
  run(main());
}

// B407
TEST_P(SocketsTest, IntoABufferOfTheCallers) {
  const auto main = []() -> Coroutine<> {
    EventLoop& loop = get_running_loop();
    auto [one, other] = Socket::pair();
    co_await loop.sock_sendall(one, "hello");
    std::array<std::byte, 3> buffer;
    const std::size_t first = co_await loop.sock_recv_into(other, buffer);
    EXPECT_EQ(first, 3U);
    EXPECT_EQ(static_cast<char>(buffer[2]), 'l');
    const std::size_t second = co_await loop.sock_recv_into(other, buffer);
    EXPECT_EQ(second, 2U);
    one.shutdown(SHUT_WR);
    const std::size_t last = co_await loop.sock_recv_into(other, buffer);
    EXPECT_EQ(last, 0U);
  };
  run(main());
}

// Descriptors that the program has made non-blocking wait all the same.
TEST_P(SocketsTest, NonBlockingDescriptorsWaitToo) {
  const auto main = []() -> Coroutine<> {
    EventLoop& loop = get_running_loop();
    const Socket server = listener();
    set_non_blocking(server);
    Socket client(AF_INET, SOCK_STREAM | SOCK_NONBLOCK);
    auto accepting = create_task(
        [](const Socket& from) -> Coroutine<std::pair<Socket, Address>> {
          co_return co_await get_running_loop().sock_accept(from);
        },
        std::cref(server));
    co_await waits(accepting);
    co_await loop.sock_connect(client, server.getsockname());
    auto [socket, peer] = co_await std::move(accepting);
    set_non_blocking(socket);
    const std::string data = pattern(3 << 20);
    auto echo = create_task(echo_once(std::move(socket), data.size()));
    co_await waits(echo);
    auto sending =
        create_task([](const Socket& to,
                       const std::string& what) -> Coroutine<> { co_await get_running_loop().sock_sendall(to, what); },
                    std::cref(client), std::cref(data));
    const std::string answer = co_await receive_all(loop, client, data.size());
    EXPECT_TRUE(answer == data);
    co_await std::move(sending);
    co_await std::move(echo);
  };
  run(main());
}

// B410
TEST_P(SocketsTest, Datagrams) {
  const auto main = []() -> Coroutine<> {
    EventLoop& loop = get_running_loop();
    Socket one(AF_INET, SOCK_DGRAM);
    Socket other(AF_INET6, SOCK_DGRAM);
    one.bind(Address::ip("127.0.0.1", 0));
    other.bind(Address::ip("::1", 0));
    Socket third(AF_INET, SOCK_DGRAM);
    const std::size_t sent = co_await loop.sock_sendto(third, "marco", one.getsockname());
    EXPECT_EQ(sent, 5U);
    const auto [data, from] = co_await loop.sock_recvfrom(one, 100);
    EXPECT_EQ(data, "marco");
    EXPECT_EQ(from.host(), "127.0.0.1");
    EXPECT_EQ(from.port(), third.getsockname().port());
    const std::size_t back = co_await loop.sock_sendto(one, std::string_view("polo"), from);
    EXPECT_EQ(back, 4U);
    std::array<std::byte, 2> buffer;
    const auto [bytes, sender] = co_await loop.sock_recvfrom_into(third, buffer);
    EXPECT_EQ(bytes, 2U);  // the rest of the datagram is gone
    EXPECT_EQ(sender, one.getsockname());
    co_await loop.sock_sendto(other, "", other.getsockname());
    const auto [empty, itself] = co_await loop.sock_recvfrom(other, 100);
    EXPECT_EQ(empty, "");
    EXPECT_EQ(itself, other.getsockname());
  };
  run(main());
}

TEST_P(SocketsTest, UnixPathsAndAbstractNames) {
  const auto main = []() -> Coroutine<> {
    EventLoop& loop = get_running_loop();
    const std::string name = "ouro-sockets-test-" + std::to_string(::getpid());
    const std::string path = (std::filesystem::temp_directory_path() / name).string();
    for (const std::string& place : {path, std::string(1, '\0') + name}) {
      Socket server(AF_UNIX);
      server.bind(Address::unix_path(place));
      server.listen();
      Socket client(AF_UNIX);
      co_await loop.sock_connect(client, Address::unix_path(place));
      auto [socket, peer] = co_await loop.sock_accept(server);
      EXPECT_EQ(peer.path(), "");
      EXPECT_EQ(client.getpeername().path(), place);
      co_await loop.sock_sendall(client, "x");
      const std::string data = co_await loop.sock_recv(socket, 1);
      EXPECT_EQ(data, "x");
    }
    std::filesystem::remove(path);
  };
  run(main());
}

// B411
TEST_P(SocketsTest, ErrorsNameTheOperationAndTheObject) {
  const auto main = []() -> Coroutine<> {
    EventLoop& loop = get_running_loop();
    Address nobody;
    {
      Socket gone(AF_INET);
      gone.bind(Address::ip("127.0.0.1", 0));
      nobody = gone.getsockname();
    }
    Socket client(AF_INET);
    try {
      co_await loop.sock_connect(client, nobody);
      ADD_FAILURE() << "somebody was there";
    } catch (const ConnectionRefusedError& error) {
      EXPECT_EQ(error.operation(), "sock_connect");
      EXPECT_EQ(error.object(), nobody.str());
    }
    Socket local(AF_UNIX);
    try {
      co_await loop.sock_connect(local, Address::unix_path("/nowhere/at/all"));
      ADD_FAILURE() << "somebody was there";
    } catch (const FileNotFoundError& error) {
      EXPECT_EQ(error.object(), "/nowhere/at/all");
    }
    Socket closed;
    const std::string receiving = co_await end_of(loop.sock_recv(closed, 1));
    EXPECT_THAT(receiving, HasSubstr("sock_recv socket -1"));
    // No SIGPIPE: the error arrives.
    auto [one, other] = Socket::pair();
    other.close();
    try {
      co_await loop.sock_sendall(one, "x");
      ADD_FAILURE() << "sent to nobody";
    } catch (const BrokenPipeError&) {
    }
    EXPECT_THROW(one.bind(Address::ip("127.0.0.1", 0)), OSError);
    EXPECT_THROW(Socket(AF_INET, 12345), OSError);
  };
  run(main());
}

// B408, B415, T25
TEST_P(SocketsTest, ACancelledReceiveTakesNothing) {
  const auto main = []() -> Coroutine<> {
    EventLoop& loop = get_running_loop();
    auto [one, other] = Socket::pair();
    for (int i = 0; i < 3; ++i) {
      auto waiting = create_task(loop.sock_recv(other, 100));
      if (i > 0) co_await waits(waiting);
      waiting.cancel();
      const std::string end = co_await end_of(std::move(waiting));
      EXPECT_EQ(end, "CancelledError: ");
    }
    const auto limited = [](EventLoop& on, const Socket& from) -> Coroutine<std::string> {
      co_return co_await wait_for(on.sock_recv(from, 100), 1ms);
    };
    const std::string late = co_await end_of(limited(loop, other));
    EXPECT_THAT(late, HasSubstr("TimeoutError"));
    co_await loop.sock_sendall(one, "all of it");
    const std::string data = co_await loop.sock_recv(other, 100);
    EXPECT_EQ(data, "all of it");
  };
  run(main());
}

// T25: cancelled at the moment at which data comes. What was received is given, and the cancellation is due at the next
// await; or nothing was received.
TEST_P(SocketsTest, NoByteIsLostInTheRaceOfDataAndCancellation) {
  const auto main = []() -> Coroutine<> {
    EventLoop& loop = get_running_loop();
    auto [one, other] = Socket::pair();
    std::atomic<int> received = 0;
    std::atomic<int> cancelled = 0;
    int accepted = 0;
    const auto receive_one = [](const Socket& from, std::atomic<int>& count, std::atomic<int>& broken) -> Coroutine<> {
      try {
        const std::string data = co_await get_running_loop().sock_recv(from, 1);
        count += static_cast<int>(data.size());
        co_await sleep(0s);
      } catch (const CancelledError&) {
        ++broken;
      }
    };
    constexpr int times = 500;
    for (int i = 0; i < times; ++i) {
      auto task = create_task(receive_one, std::cref(other), std::ref(received), std::ref(cancelled));
      co_await sleep(0s);
      if (i % 2 == 0) co_await loop.sock_sendall(one, "x");
      accepted += task.cancel() ? 1 : 0;
      if (i % 2 != 0) co_await loop.sock_sendall(one, "x");
      const std::string end = co_await end_of(std::move(task));
      if (!end.empty()) ++cancelled;  // it had not begun
    }
    // Each of them is heard of; on several loops, unless the task ended on another one while it was asked.
    EXPECT_LE(cancelled, accepted);
    if (workers().size() == 1) {
      EXPECT_EQ(cancelled, accepted);
    }
    while (received < times) {
      const std::string rest = co_await wait_for(loop.sock_recv(other, times), 10s);
      received += static_cast<int>(rest.size());
    }
    EXPECT_EQ(received, times);
  };
  run(main());
}

// B412
TEST_P(SocketsTest, ACancelledAcceptLosesNoConnection) {
  const auto main = []() -> Coroutine<> {
    EventLoop& loop = get_running_loop();
    const Socket server = listener();
    std::atomic<int> accepted = 0;
    const auto accept_one = [](const Socket& from, std::atomic<int>& count) -> Coroutine<> {
      auto [socket, peer] = co_await get_running_loop().sock_accept(from);
      ++count;
    };
    constexpr int times = 100;
    for (int i = 0; i < times; ++i) {
      auto task = create_task(accept_one, std::cref(server), std::ref(accepted));
      co_await sleep(0s);
      Socket client(AF_INET);
      co_await loop.sock_connect(client, server.getsockname());
      task.cancel();
      static_cast<void>(co_await end_of(std::move(task)));
    }
    while (accepted < times) {
      auto [socket, peer] = co_await wait_for(loop.sock_accept(server), 10s);
      ++accepted;
    }
    EXPECT_EQ(accepted, times);
  };
  run(main());
}

// B409
TEST_P(SocketsTest, ACancelledConnectCanBeTriedAgainWithAnotherSocket) {
  const auto main = []() -> Coroutine<> {
    EventLoop& loop = get_running_loop();
    const Socket server = listener();
    Socket first(AF_INET);
    auto connecting = create_task(loop.sock_connect(first, server.getsockname()));
    connecting.cancel();
    const std::string end = co_await end_of(std::move(connecting));
    EXPECT_THAT(end, testing::AnyOf("CancelledError: ", ""));  // on another worker it may have been faster
    Socket second(AF_INET);
    co_await loop.sock_connect(second, server.getsockname());
    EXPECT_EQ(second.getpeername(), server.getsockname());
  };
  run(main());
}

// A send that waits for room is broken off; what went before went in order.
TEST_P(SocketsTest, ACancelledSend) {
  const auto main = []() -> Coroutine<> {
    EventLoop& loop = get_running_loop();
    auto [one, other] = Socket::pair();
    const std::string data = pattern(8 << 20);
    auto sending =
        create_task([](const Socket& to,
                       const std::string& what) -> Coroutine<> { co_await get_running_loop().sock_sendall(to, what); },
                    std::cref(one), std::cref(data));
    const std::string first = co_await loop.sock_recv(other, 1000);
    EXPECT_EQ(first, data.substr(0, first.size()));
    sending.cancel();
    const std::string end = co_await end_of(std::move(sending));
    EXPECT_EQ(end, "CancelledError: ");
    one.close();
    const std::string rest = co_await receive_all(loop, other, data.size());
    EXPECT_LT(first.size() + rest.size(), data.size());
    EXPECT_TRUE(rest == data.substr(first.size(), rest.size()));
  };
  run(main());
}

// B413: the number stays the socket's until the operation has ended.
TEST_P(SocketsTest, ClosedUnderAnOperation) {
  const auto main = []() -> Coroutine<> {
    EventLoop& loop = get_running_loop();
    auto [one, other] = Socket::pair();
    const int number = other.fileno();
    auto receiving = create_task(loop.sock_recv(other, 10));
    co_await waits(receiving);
    other.close();
    EXPECT_EQ(other.fileno(), -1);
    const Socket next(AF_UNIX);
    EXPECT_NE(next.fileno(), number);
    co_await loop.sock_sendall(one, "late");
    const std::string data = co_await std::move(receiving);
    EXPECT_EQ(data, "late");
    const std::string after = co_await end_of(loop.sock_recv(other, 10));
    EXPECT_THAT(after, HasSubstr("sock_recv socket -1"));
  };
  run(main());
}

// Floating tasks wait on whatever worker they are, and are woken there.
TEST_P(SocketsTest, ManyClientsAtOnce) {
  constexpr int rounds = 20;
  const auto client = [](Address where, int i) -> Coroutine<int> {
    EventLoop& loop = get_running_loop();
    Socket socket(AF_INET);
    co_await loop.sock_connect(socket, where);
    for (int round = 0; round < rounds; ++round) {
      const std::string text = std::to_string(i) + ":" + std::to_string(round) + ";";
      co_await loop.sock_sendall(socket, text);
      const std::string answer = co_await receive_all(loop, socket, text.size());
      if (answer != text) co_return round;
    }
    co_return rounds;
  };
  const auto serve = [](Socket socket) -> Coroutine<> {
    EventLoop& loop = get_running_loop();
    for (;;) {
      const std::string data = co_await loop.sock_recv(socket, 4096);
      if (data.empty()) break;
      co_await loop.sock_sendall(socket, data);
    }
  };
  const auto main = [&]() -> Coroutine<> {
    constexpr int clients = 60;
    const Socket server = listener();
    auto accepting = create_task(
        [](const Socket& from, auto handle) -> Coroutine<> {
          std::vector<Task<>> tasks;
          for (int i = 0; i < clients; ++i) {
            auto [socket, peer] = co_await get_running_loop().sock_accept(from);
            tasks.push_back(spawn(handle(std::move(socket))));
          }
          co_await gather(std::move(tasks));
        },
        std::cref(server), serve);
    std::vector<Coroutine<int>> all;
    for (int i = 0; i < clients; ++i) all.push_back(client(server.getsockname(), i));
    const std::vector<int> right = co_await gather(std::move(all));
    EXPECT_THAT(right, testing::Each(rounds));
    co_await std::move(accepting);
  };
  run(main());
}

// B415: the loop goes while tasks wait for operations of the ring.
TEST(SocketsOfALoopThatEnds, WhatWaitsIsEnded) {
  const std::size_t before = open_descriptors();
  std::size_t reports = 0;
  {
    auto [one, other] = Socket::pair();
    Socket server = listener();
    EventLoop loop;
    loop.set_exception_handler([&](EventLoop&, const ExceptionContext&) { ++reports; });
    const auto receive = [&]() -> Coroutine<> { static_cast<void>(co_await loop.sock_recv(other, 100)); };
    const auto accept = [&]() -> Coroutine<> { static_cast<void>(co_await loop.sock_accept(server)); };
    const auto start = [&]() -> Coroutine<> {
      const auto receiving = create_task(receive());
      const auto accepting = create_task(accept());
      co_await waits(receiving);
      co_await waits(accepting);
    };
    loop.run_until_complete(start());
    loop.close();
  }
  EXPECT_EQ(reports, 1U);
  EXPECT_EQ(open_descriptors(), before);
  EXPECT_EQ(test::live_frames(), 0U);
}

TEST(SocketsOfALoopThatEnds, ALoopWithoutARing) {
  EventLoop loop(std::make_unique<ThreadParker>());
  auto [one, other] = Socket::pair();
  const auto receive = [&, &from = other]() -> Coroutine<> { static_cast<void>(co_await loop.sock_recv(from, 1)); };
  EXPECT_THAT(thrown_by([&] { loop.run_until_complete(receive()); }), HasSubstr("sock_recv on a loop without a ring"));
}

TEST(SocketsOfALoopThatEnds, ATaskOfAnotherLoop) {
  EventLoop mine;
  EventLoop other;
  auto [one, two] = Socket::pair();
  const auto receive = [&, &from = one]() -> Coroutine<> { static_cast<void>(co_await other.sock_recv(from, 1)); };
  EXPECT_THAT(thrown_by([&] { mine.run_until_complete(receive()); }),
              HasSubstr("sock_recv of a loop that does not run this task"));
}

}  // namespace
}  // namespace ouro
