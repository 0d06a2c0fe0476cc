// Servers of several loops in tests: protocols that say on which loop they are, clients of theirs, and a fixture over
// whose groups no descriptor is left open.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstddef>
#include <exception>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <ouro/ouro.hpp>
#include <ouro/runtime/detail/worker_group.hpp>

#include "support/wire.hpp"

namespace ouro::test {

inline unsigned place_here() { return detail::place_of(get_running_loop()); }

// What the loops have and had of a server's connections. Threads: any.
struct Tally {
  std::array<std::atomic<int>, detail::most_workers> made{};
  std::atomic<int> all{0};
  std::atomic<int> open{0};

  int most() const { return *std::max_element(made.begin(), made.end()); }
  int least(std::size_t loops) const {
    return *std::min_element(made.begin(), made.begin() + static_cast<std::ptrdiff_t>(loops));
  }
};

// Answers each piece by the place of its loop, and never leaves that.
class Guest final : public Protocol {
 public:
  explicit Guest(Tally& tally) : tally_(tally) {}
  void connection_made(Transport& transport) override {
    transport_ = &transport;
    check();
    ++tally_.made[place_here()];
    ++tally_.all;
    ++tally_.open;
  }
  void data_received(std::span<const std::byte>) override {
    check();
    transport_->write(std::string(1, static_cast<char>('a' + place_here())));
  }
  void connection_lost(std::exception_ptr) override {
    check();
    --tally_.open;
  }

 private:
  void check() { EXPECT_EQ(&transport_->get_loop(), &get_running_loop()); }

  Tally& tally_;
  Transport* transport_ = nullptr;
};

inline auto guests(Tally& tally) {
  return [&tally] { return std::make_unique<Guest>(tally); };
}

inline Coroutine<Socket> connected_to(Address address) {
  Socket socket(address.family());
  co_await get_running_loop().sock_connect(socket, address);
  co_return socket;
}

inline Coroutine<std::vector<Socket>> many_connected_to(Address address, int many) {
  std::vector<Socket> sockets;
  for (int i = 0; i < many; ++i) sockets.push_back(co_await connected_to(address));
  co_return sockets;
}

// What it answers; "" if it has been closed, in whatever way.
inline Coroutine<std::string> answer_to(const Socket& socket) {
  std::string answer;
  try {
    co_await get_running_loop().sock_sendall(socket, "x");
    answer = co_await get_running_loop().sock_recv(socket, 1);
  } catch (const OSError&) {
    // It was reset.
  }
  co_return answer;
}

// Waits until each has been closed.
inline Coroutine<> all_closed(const std::vector<Socket>& sockets) {
  for (const Socket& socket : sockets) {
    std::string piece = "x";
    while (!piece.empty()) {
      try {
        piece = co_await get_running_loop().sock_recv(socket, 100);
      } catch (const OSError&) {
        piece.clear();  // it was reset
      }
    }
  }
}

inline Coroutine<> close_and_wait(Server server) {
  server.close();
  co_await server.wait_closed();
}

inline Address address_of(const Server& server) { return server.sockets().front().getsockname(); }

// No descriptor is left open.
class GroupServers : public test::GroupsOfAnySize {
 protected:
  void TearDown() override {
    EXPECT_EQ(test::open_descriptors(), descriptors_before_) << "descriptors leaked";
    GroupsOfAnySize::TearDown();
  }
  static std::size_t loops() { return GetParam(); }

 private:
  const std::size_t descriptors_before_ = test::open_descriptors();
};

}  // namespace ouro::test
