// Allocations that fail while transports send and receive: whoever could not keep something ends the connection with
// std::bad_alloc, and what the other side got is all that was written up to some point. A datagram that could not be
// kept is not sent, and that is all. A program of its own, because
// it replaces operator new.
#include <gmock/gmock.h>

#include <cstddef>
#include <cstdlib>
#include <memory>
#include <new>
#include <ostream>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <ouro/ouro.hpp>

#include "support/wire.hpp"

namespace {

// While it is not negative, so many more allocations succeed on this thread and the next one fails.
thread_local long allocations_left = -1;
thread_local bool failed = false;

[[maybe_unused]] void* allocate(std::size_t bytes) {
  if (allocations_left >= 0 && allocations_left-- == 0) {
    failed = true;
    throw std::bad_alloc();
  }
  if (void* memory = std::malloc(bytes != 0 ? bytes : 1)) return memory;
  throw std::bad_alloc();
}

}  // namespace

#if !OURO_TSAN  // which has operators of its own, not to be replaced
void* operator new(std::size_t bytes) { return allocate(bytes); }
void* operator new[](std::size_t bytes) { return allocate(bytes); }
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete[](void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
void operator delete[](void* memory, std::size_t) noexcept { std::free(memory); }
#endif

namespace ouro {
namespace {

using test::BufferedRecorder;
using test::make_wire;
using test::pattern;
using test::Record;
using test::Recorder;
using test::Reports;
using test::until;
using test::Wire;

class NetworkMemory : public test::WireTest {
 protected:
  void SetUp() override {
    if (OURO_TSAN) GTEST_SKIP() << "no allocation fails";
  }
};

// Writes, and knows what was taken.
struct Pen {
  Transport* transport;
  std::string taken = {};

  void write(std::string_view data) {
    try {
      transport->write(data);
      taken += data;
    } catch (const std::bad_alloc&) {
      // Nothing of it is sent.
    }
  }
  void writelines(std::string_view one, std::string_view two) {
    try {
      transport->writelines({one, two});
      taken += one;
      taken += two;
    } catch (const std::bad_alloc&) {
      // As above.
    }
  }
};

struct Way {
  const char* name;
  bool inside;  // a callback
  void (*write)(Pen& pen, std::string_view data);
};

std::ostream& operator<<(std::ostream& out, const Way& way) { return out << way.name; }

class NetworkMemoryWrites : public NetworkMemory, public testing::WithParamInterface<Way> {};

Coroutine<> both_lost(Wire& wire) {
  co_await until([&wire] { return wire.left_record->lost() && wire.right_record->lost(); });
}

// A handler of the loop's that writes to the transport when it is told that something could not be kept: that would
// follow a gap.
class WritingHandler {
 public:
  explicit WritingHandler(Transport& transport) {
    loop_.set_exception_handler([&transport, before = before_](EventLoop& loop, const ExceptionContext& context) {
      if (context.message == "Fatal write error on socket transport") transport.write("late");
      before(loop, context);
    });
  }
  ~WritingHandler() { loop_.set_exception_handler(before_); }
  WritingHandler(const WritingHandler&) = delete;

 private:
  EventLoop& loop_ = get_running_loop();
  const EventLoop::ExceptionHandler before_ = loop_.get_exception_handler();
};

// Writes while the n-th allocation fails, and more when allocations succeed again. False: none was left to fail.
Coroutine<bool> fails_at(long n, const Way& way, const std::string& data) {
  Wire wire = co_await make_wire();
  const WritingHandler handler(*wire.left);
  Pen pen{wire.left.get()};
  pen.taken.reserve(data.size() + 10);
  const auto write = [&] {
    failed = false;
    allocations_left = n;
    way.write(pen, data);
    allocations_left = -1;
    pen.write("tail");
    wire.left->close();
  };
  if (way.inside) {
    wire.left_record->then = [&](const std::string& event) {
      if (event == "data") write();
    };
    wire.right->write("go");
  } else {
    write();
  }
  co_await both_lost(wire);
  const std::string& got = wire.right_record->received;
  if (wire.left_record->has("lost: exception: std::bad_alloc")) {
    EXPECT_TRUE(failed);
    EXPECT_TRUE(pen.taken.starts_with(got)) << "allocation " << n << ": " << got.size() << " bytes";
  } else {
    EXPECT_TRUE(got == pen.taken) << "allocation " << n << ": " << got.size() << " of " << pen.taken.size();
  }
  Reports::take();
  co_return failed;
}

TEST_P(NetworkMemoryWrites, NothingIsMissingInTheMiddle) {
  run([]() -> Coroutine<> {
    const std::string data = pattern(1 << 19);  // more than the kernel takes
    long n = 0;
    for (;; ++n) {
      const bool some_failed = co_await fails_at(n, GetParam(), data);
      if (!some_failed) break;
    }
    EXPECT_GE(n, 2) << "the queue, and a part of it";
  });
}

void write_whole(Pen& pen, std::string_view data) { pen.write(data); }
void write_lines(Pen& pen, std::string_view data) {
  pen.writelines(data.substr(0, data.size() / 2), data.substr(data.size() / 2));
}
void write_pieces(Pen& pen, std::string_view data) {
  for (std::size_t at = 0; at < data.size(); at += 3000) pen.write(data.substr(at, 3000));
}

INSTANTIATE_TEST_SUITE_P(Ways, NetworkMemoryWrites,
                         testing::Values(Way{"write", false, write_whole}, Way{"writelines", false, write_lines},
                                         Way{"pieces", false, write_pieces}, Way{"write_inside", true, write_whole},
                                         Way{"writelines_inside", true, write_lines},
                                         Way{"pieces_inside", true, write_pieces}),
                         [](const auto& each) { return std::string(each.param.name); });

// A transport that is paused has to keep what has come already: pieces of the kernel's, or what is left of one.
template <class R>
Coroutine<bool> fails_to_keep(long n) {
  EventLoop& loop = get_running_loop();
  auto record = std::make_shared<Record>();
  auto [mine, other] = Socket::pair();
  auto made = co_await loop.create_connection([&record] { return std::make_unique<R>(record); }, std::move(mine));
  Transport& transport = *made.first;
  failed = false;
  record->then = [&, n](const std::string& event) {
    if (event != "data" || record->pieces != 1) return;
    transport.pause_reading();
    allocations_left = n;
  };
  const std::string data = pattern(100'000);
  co_await loop.sock_sendall(other, data);
  co_await until([&record] { return record->pieces != 0; });
  allocations_left = -1;
  if (!failed) transport.abort();
  co_await until([&record] { return record->lost(); });
  EXPECT_EQ(record->events.back(), failed ? "lost: exception: std::bad_alloc" : "lost");
  Reports::take();
  co_return failed;
}

TEST_F(NetworkMemory, WhatCannotBeKeptEndsTheConnection) {
  run([]() -> Coroutine<> {
    for (long n = 0; n < 2; ++n) {
      const bool rest_failed = co_await fails_to_keep<BufferedRecorder>(n);
      EXPECT_TRUE(rest_failed) << "allocation " << n;
      static_cast<void>(co_await fails_to_keep<Recorder>(n));  // nothing is kept without the kernel's buffers
    }
  });
}

// ---- Datagrams ----

// B399
TEST_F(NetworkMemory, ADatagramThatCannotBeKeptIsNotSent) {
  run([]() -> Coroutine<> {
    EventLoop& loop = get_running_loop();
    Socket reader(AF_UNIX, SOCK_DGRAM);
    reader.bind(Address::unix_path(""));
    const DatagramOptions options{.remote = reader.getsockname()};
    const auto factory = [] { return std::make_unique<DatagramProtocol>(); };
    auto [transport, protocol] = co_await loop.create_datagram_endpoint(factory, options);
    std::vector<std::string> sent;
    for (long n = 0; n < 100; ++n) {
      const std::string data = std::to_string(n) + pattern(100);
      allocations_left = n % 3;
      try {
        transport->sendto(data);
        allocations_left = -1;
        sent.push_back(data);
      } catch (const std::bad_alloc&) {
        // Nothing of it is sent.
      }
      allocations_left = -1;
    }
    EXPECT_LT(sent.size(), 60U);
    EXPECT_GT(sent.size(), 30U);
    for (const std::string& data : sent) {
      const auto [got, from] = co_await loop.sock_recvfrom(reader, 1000);
      EXPECT_EQ(got, data);
    }
    EXPECT_FALSE(transport->is_closing());
    transport->close();
    co_await until([&held = protocol] { return held.use_count() == 1; });
  });
}

}  // namespace
}  // namespace ouro
