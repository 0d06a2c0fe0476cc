// The line "If cancelled: …" of what waits on the network, checked as in cancel_contract_test.cpp; on one loop and on
// four. No byte, no datagram and no connection is lost.
#include <gmock/gmock.h>

#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <ouro/ouro.hpp>

#include "support/cancel_contract.hpp"

namespace ouro {
namespace {

using test::call;
using test::Fate;
using test::Row;
using test::takes;
using test::World;

socklen_t length_of(const Address& address) { return static_cast<socklen_t>(address.size()); }

bool is_ready(const Socket& socket, short events, int milliseconds = 0) {
  pollfd one{socket.fileno(), events, 0};
  return ::poll(&one, 1, milliseconds) == 1;
}

// ---- What comes: a byte, a datagram, a connection ----

Row coming_row(const char* name, std::function<Coroutine<>(World&)> use, int type) {
  Row row{name, std::move(use), Fate::pending};
  row.prepare = [type](World& w) { w.pair = Socket::pair(type); };
  row.complete = [](World& w) { ASSERT_EQ(::send(w.pair.first.fileno(), "x", 1, 0), 1); };
  row.fate = [](World& w) { return w.taken || is_ready(w.pair.second, POLLIN) ? Fate::done : Fate::pending; };
  return row;
}

Row accept_row() {
  Row row{"EventLoop::sock_accept", [](World& w) { return takes(w, get_running_loop().sock_accept(w.listener)); },
          Fate::pending};
  row.prepare = [](World& w) {
    w.listener = Socket(AF_INET);
    w.listener.bind(Address::ip("127.0.0.1", 0));
    w.listener.listen();
    w.address = w.listener.getsockname();
  };
  row.complete = [](World& w) {
    w.others.emplace_back(AF_INET);
    ASSERT_EQ(::connect(w.others.back().fileno(), w.address.data(), length_of(w.address)), 0);
  };
  row.fate = [](World& w) { return w.taken || is_ready(w.listener, POLLIN) ? Fate::done : Fate::pending; };
  return row;
}

// ---- What there is no room for yet ----

// Connections fill the queue of a listener, until one has to wait. What waits behind that is heard of again when the
// kernel asks again, a second later.
Row connect_row() {
  Row row{"EventLoop::sock_connect",
          [](World& w) { return takes(w, get_running_loop().sock_connect(w.pair.first, w.address)); }, Fate::cancelled};
  row.prepare = [](World& w) {
    w.listener = Socket(AF_INET);
    w.listener.bind(Address::ip("127.0.0.1", 0));
    w.listener.listen(0);
    w.address = w.listener.getsockname();
    do {
      w.others.emplace_back(AF_INET, SOCK_STREAM | SOCK_NONBLOCK);
      static_cast<void>(::connect(w.others.back().fileno(), w.address.data(), length_of(w.address)));
    } while (is_ready(w.others.back(), POLLOUT, 20));
    w.others.pop_back();  // which would take the place that becomes free
    w.pair.first = Socket(AF_INET);
  };
  row.complete = [](World& w) {
    w.ends = true;
    for (std::size_t i = 0; i < w.others.size(); ++i) {
      if (!is_ready(w.listener, POLLIN, 20)) break;
      ::close(::accept(w.listener.fileno(), nullptr, nullptr));
    }
  };
  // There is nothing to lose but the connection that it says it has.
  row.fate = [](World& w) {
    sockaddr_storage peer;
    socklen_t length = sizeof peer;
    const bool connected = ::getpeername(w.pair.first.fileno(), reinterpret_cast<sockaddr*>(&peer), &length) == 0;
    return connected || (w.ends && !w.taken) ? Fate::done : Fate::cancelled;
  };
  row.before = Fate::cancelled;
  return row;
}

// The same where the kernel waits on a thread of its own.
Row connect_unix_row() {
  Row row = connect_row();
  row.name = "EventLoop::sock_connect of a unix socket";
  row.prepare = [](World& w) {
    w.listener = Socket(AF_UNIX);
    w.listener.bind(Address::unix_path(""));
    w.listener.listen(0);
    w.address = w.listener.getsockname();
    do {
      w.others.emplace_back(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK);
    } while (::connect(w.others.back().fileno(), w.address.data(), length_of(w.address)) == 0);
    w.others.pop_back();
    w.pair.first = Socket(AF_UNIX);
  };
  return row;
}

// All that was sent arrives once and in order; the last of it is what the row sends, and it may be missing only if that
// was cancelled.
Fate fate_of_sent(World& world) {
  if (world.stuffed.empty()) return Fate::pending;
  std::string& sent = world.stuffed;
  char byte = 0;
  while (::recv(world.pair.second.fileno(), &byte, 1, MSG_DONTWAIT) == 1) sent.push_back(byte);
  const auto last = sent.find('x');
  const bool whole = last == std::string::npos ? !world.taken : last == sent.size() - 1;
  EXPECT_TRUE(whole) << sent << (world.taken ? " and it was sent" : "");
  return whole ? Fate::done : Fate::cancelled;
}
void make_room(World& world) {
  std::array<char, 4096> some;
  for (ssize_t n = 0; (n = ::recv(world.pair.second.fileno(), some.data(), some.size(), MSG_DONTWAIT)) > 0;)
    world.stuffed.append(some.data(), static_cast<std::size_t>(n));
}

Row send_row() {
  Row row{"EventLoop::sock_sendall",
          [](World& w) { return takes(w, get_running_loop().sock_sendall(w.pair.first, "x")); }, Fate::pending};
  row.prepare = [](World& w) {
    w.pair = Socket::pair();
    while (::send(w.pair.first.fileno(), "-", 1, MSG_DONTWAIT) == 1) continue;
  };
  row.complete = &make_room;
  row.fate = &fate_of_sent;
  return row;
}

// The queue of a unix socket for datagrams is full.
Row send_to_row() {
  Row row{"EventLoop::sock_sendto",
          [](World& w) { return takes(w, get_running_loop().sock_sendto(w.pair.first, "x", w.address)); },
          Fate::pending};
  row.prepare = [](World& w) {
    w.pair = {Socket(AF_UNIX, SOCK_DGRAM), Socket(AF_UNIX, SOCK_DGRAM)};
    w.pair.second.bind(Address::unix_path(""));
    w.address = w.pair.second.getsockname();
    while (::sendto(w.pair.first.fileno(), "-", 1, MSG_DONTWAIT, w.address.data(), length_of(w.address)) == 1) continue;
  };
  row.complete = &make_room;
  row.fate = &fate_of_sent;
  return row;
}

// ---- Names ----

// The lookup waits for the only thread of its loop's executor.
template <class F>
Row lookup_row(const char* name, F start) {
  const auto body = [](World& w, F begin) -> Coroutine<> {
    get_running_loop().set_default_executor(w.single);
    auto future = begin(get_running_loop());
    static_cast<void>(co_await future);
  };
  Row row{name, [body, start](World& w) { return body(w, start); }, Fate::pending};
  row.prepare = [](World& w) {
    w.single = std::make_shared<ThreadPoolExecutor>(1);
    static_cast<void>(executor_submit(*w.single, call(w)));
    while (w.begun == 0) std::this_thread::yield();
  };
  row.coroutines = 1;
  row.complete = &test::let_call_end;
  row.fate = &test::fate_of_call;
  return row;
}

std::vector<Row> names() {
  static const Address loopback = Address::ip("127.0.0.1", 1);
  return {
      lookup_row("getaddrinfo", [](EventLoop&) { return getaddrinfo("localhost", 1); }),
      lookup_row("getnameinfo", [](EventLoop&) { return getnameinfo(loopback, NI_NUMERICSERV); }),
      lookup_row("EventLoop::getaddrinfo", [](EventLoop& loop) { return loop.getaddrinfo("localhost", 1); }),
      lookup_row("EventLoop::getnameinfo", [](EventLoop& loop) { return loop.getnameinfo(loopback, NI_NUMERICSERV); }),
  };
}

class NetworkContract : public test::CancelContract {
  std::vector<Row> rows() const override {
    const auto loop = []() -> EventLoop& { return get_running_loop(); };
    std::vector<Row> all = names();
    all.push_back(coming_row(
        "EventLoop::sock_recv", [loop](World& w) { return takes(w, loop().sock_recv(w.pair.second, 10)); },
        SOCK_STREAM));
    all.push_back(coming_row(
        "EventLoop::sock_recv_into",
        [loop](World& w) { return takes(w, loop().sock_recv_into(w.pair.second, w.buffer)); }, SOCK_STREAM));
    all.push_back(coming_row(
        "EventLoop::sock_recvfrom", [loop](World& w) { return takes(w, loop().sock_recvfrom(w.pair.second, 10)); },
        SOCK_DGRAM));
    all.push_back(coming_row(
        "EventLoop::sock_recvfrom_into",
        [loop](World& w) { return takes(w, loop().sock_recvfrom_into(w.pair.second, w.buffer)); }, SOCK_DGRAM));
    all.push_back(accept_row());
    all.push_back(connect_row());
    all.push_back(connect_unix_row());
    all.push_back(send_row());
    all.push_back(send_to_row());
    return all;
  }
};
INSTANTIATE_TEST_SUITE_P(Workers, NetworkContract, testing::Values(1U, 4U));

TEST_P(NetworkContract, BeforeItStarts) { before_it_starts(); }
TEST_P(NetworkContract, WhileItWaits) { while_it_waits(); }
TEST_P(NetworkContract, InTheTurnInWhichItCompletes) { in_the_turn_in_which_it_completes(); }
TEST_P(NetworkContract, Afterwards) { afterwards(); }

}  // namespace
}  // namespace ouro
