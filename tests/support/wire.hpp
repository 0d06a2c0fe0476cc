// Connections in tests: protocols that write down what they are told, and a fixture over whose loops no descriptor is
// left open.
#pragma once

#include <gtest/gtest.h>

#include <sys/socket.h>
#include <unistd.h>

#include <cstddef>
#include <exception>
#include <filesystem>
#include <functional>
#include <iterator>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include <ouro/ouro.hpp>

#include "support/group.hpp"
#include "support/test_run.hpp"

namespace ouro::test {

inline std::string text_of(std::span<const std::byte> data) {
  return {reinterpret_cast<const char*>(data.data()), data.size()};
}

// So many bytes, no two neighbours of which are alike.
inline std::string pattern(std::size_t bytes) {
  std::string text(bytes, '\0');
  for (std::size_t i = 0; i < bytes; ++i) text[i] = static_cast<char>((i * 7 + i / 251) % 256);
  return text;
}

inline std::size_t open_descriptors() {
  const std::filesystem::directory_iterator all("/proc/self/fd");
  return static_cast<std::size_t>(std::distance(begin(all), end(all)));
}

// What a Recorder was told; it outlives it.
struct Record {
  std::vector<std::string> events;  // "made", "data", "eof", "pause", "resume", "lost", "lost: <what>"
  std::string received;
  std::size_t pieces = 0;
  Transport* transport = nullptr;
  bool keep_open = false;                        // after the other side's end
  std::function<void(const std::string&)> then;  // after each of the events

  void add(std::string event) {
    events.push_back(std::move(event));
    if (then) then(std::string(events.back()));
  }
  bool has(std::string_view event) const {
    for (const std::string& known : events) {
      if (known.substr(0, event.size()) == event) return true;
    }
    return false;
  }
  bool lost() const { return has("lost"); }
};

// Everything that Protocol and BufferedProtocol have in common. Data that follows data is one event.
template <class Base>
class RecorderOf : public Base {
 public:
  explicit RecorderOf(std::shared_ptr<Record> record) : record_(std::move(record)) {}

  void connection_made(Transport& transport) override {
    record_->transport = &transport;
    record_->add("made");
  }
  bool eof_received() override {
    record_->add("eof");
    return record_->keep_open;
  }
  void connection_lost(std::exception_ptr error) override {
    record_->transport = nullptr;
    record_->add(error ? "lost: " + describe(error) : "lost");
  }
  void pause_writing() override { record_->add("pause"); }
  void resume_writing() override { record_->add("resume"); }

 protected:
  void got(std::span<const std::byte> data) {
    record_->received += text_of(data);
    ++record_->pieces;
    if (record_->events.back() != "data") {
      record_->add("data");
    } else if (record_->then) {
      record_->then("data");
    }
  }

 private:
  std::shared_ptr<Record> record_;
};

class Recorder final : public RecorderOf<Protocol> {
 public:
  using RecorderOf::RecorderOf;
  void data_received(std::span<const std::byte> data) override { got(data); }
};

class BufferedRecorder final : public RecorderOf<BufferedProtocol> {
 public:
  explicit BufferedRecorder(std::shared_ptr<Record> record, std::size_t bytes = 1000)
      : RecorderOf(std::move(record)), buffer_(bytes) {}
  std::span<std::byte> get_buffer(std::size_t size_hint) override {
    EXPECT_GT(size_hint, 0U);
    return buffer_;
  }
  void buffer_updated(std::size_t bytes) override { got(std::span(buffer_).first(bytes)); }

 private:
  std::vector<std::byte> buffer_;
};

// Sends back whatever comes.
class Echo final : public Protocol {
 public:
  void connection_made(Transport& transport) override { transport_ = &transport; }
  void data_received(std::span<const std::byte> data) override { transport_->write(data); }

 private:
  Transport* transport_ = nullptr;
};

// Two ends of a connection, on this loop, each with its record.
struct Wire {
  std::shared_ptr<Record> left_record = std::make_shared<Record>();
  std::shared_ptr<Record> right_record = std::make_shared<Record>();
  std::shared_ptr<Transport> left;
  std::shared_ptr<Transport> right;
};

// `prepare` sees the records before they are told anything.
inline Coroutine<Wire> make_wire(std::function<void(Wire&)> prepare = {}) {
  EventLoop& loop = get_running_loop();
  Wire wire;
  if (prepare) prepare(wire);
  auto [left, right] = Socket::pair();
  auto made_left = co_await loop.create_connection([&wire] { return std::make_unique<Recorder>(wire.left_record); },
                                                   std::move(left));
  auto made_right = co_await loop.create_connection([&wire] { return std::make_unique<Recorder>(wire.right_record); },
                                                    std::move(right));
  wire.left = made_left.first;
  wire.right = made_right.first;
  co_return wire;
}

// True if the loop sleeps when nothing happens; false if it goes round and round.
inline Coroutine<bool> falls_asleep() {
  EventLoop& loop = get_running_loop();
  const LoopCounters before = loop.counters();
  co_return co_await to_thread([&loop, before] {
    for (;;) {
      const LoopCounters now = loop.counters();
      if (now.parks != before.parks) return true;
      if (now.looks - before.looks > 100'000) return false;
      std::this_thread::yield();
    }
  });
}

// UBSan looks at an object of a type that is new to it through a pipe, which it cannot without descriptors: so what a
// server does is done once before a test takes them away.
inline Coroutine<> rehearse() {
  EventLoop& loop = get_running_loop();
  const auto echo = [] { return std::make_unique<Echo>(); };
  Server server = co_await loop.create_server(echo, "127.0.0.1", 0);
  const Address address = server.sockets().front().getsockname();
  Socket client(AF_INET);
  co_await loop.sock_connect(client, address);
  co_await loop.sock_sendall(client, "x");
  const std::string answer = co_await loop.sock_recv(client, 1);
  EXPECT_EQ(answer, "x");
  client.close();
  server.close();
  co_await server.wait_closed();
  Socket late(AF_INET);
  const std::string error = co_await end_of(loop.sock_connect(late, address));
  EXPECT_NE(error, "");
}

// The main task is pinned to the first loop, as transports are. What the loop reports is kept.
class WireTest : public testing::Test, public OverLoops {
 protected:
  template <class A>
  static decltype(auto) run(A&& main) {
    return OverLoops::run(std::forward<A>(main), {.loop_factory = &quiet_loop});
  }

  void TearDown() override {
    for (const std::string& report : Reports::take()) ADD_FAILURE() << "reported: " << report;
    for (const std::string& fault : GroupWatch::take_faults()) ADD_FAILURE() << fault;
    EXPECT_EQ(open_descriptors(), descriptors_before_) << "descriptors leaked";
    EXPECT_EQ(live_frames(), frames_before_) << "frames, futures or callback nodes leaked";
  }

 private:
  const std::size_t descriptors_before_ = open_descriptors();
  const std::uint64_t frames_before_ = live_frames();
};

}  // namespace ouro::test
