// The load on an echo server: connections that each keep `depth` messages under way, from one thread.
//   load --port P [--connections 64] [--bytes 64] [--depth 1] [--seconds 1] [--warm-up 0.3] [--server PID]
// Every byte is checked. Prints one RESULT line: requests per second, percentiles of their time, and the processor time
// of the server (all its threads) for each.
#include <arpa/inet.h>
#include <getopt.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <string>
#include <vector>

#include "network/uring.hpp"

namespace {

using Clock = std::chrono::steady_clock;

constexpr unsigned deepest = 63;

struct Options {
  std::uint16_t port = 0;
  std::size_t connections = 64;
  std::size_t bytes = 64;
  unsigned depth = 1;
  double seconds = 1;
  double warm_up = 0.3;
  int server = 0;
};

struct Connection {
  int fd = -1;
  unsigned due = 0;          // messages to be sent
  std::size_t received = 0;  // bytes, all in all
  bool sends = false;
  std::array<Clock::time_point, deepest + 1> begun{};  // of those under way: a ring
  unsigned first = 0;
  unsigned last = 0;
};

std::uint64_t nanoseconds(clockid_t clock) {
  timespec now{};
  if (clock_gettime(clock, &now) != 0) return 0;
  return static_cast<std::uint64_t>(now.tv_sec) * 1'000'000'000 + static_cast<std::uint64_t>(now.tv_nsec);
}

// Byte number i of what each connection sends.
std::byte pattern(std::size_t i, std::size_t bytes) {
  const std::size_t place = i % bytes;
  return static_cast<std::byte>(place * 131 + (place >> 8));
}

class Load {
 public:
  explicit Load(const Options& options)
      : options_(options),
        ring_(options.bytes * options.depth <= 2048 ? 2048 : 256, options.bytes * options.depth <= 2048 ? 2048 : 65536),
        messages_(options.bytes * options.depth),
        connections_(options.connections) {
    for (std::size_t i = 0; i < messages_.size(); ++i) messages_[i] = pattern(i, options_.bytes);
    if (options_.server != 0 && clock_getcpuclockid(options_.server, &server_) != 0) {
      network::fail("--server: no such process", ESRCH);
    }
    for (Connection& connection : connections_) {
      connection.fd = connect();
      connection.due = options_.depth;
    }
  }

  void run() {
    for (std::size_t i = 0; i < connections_.size(); ++i) {
      ring_.receive(connections_[i].fd, i << 1);
      send(i);
    }
    until(options_.warm_up);
    times_.clear();
    const std::uint64_t server_before = nanoseconds(server_);
    const double seconds = until(options_.seconds);
    const std::uint64_t server_ns = options_.server != 0 ? nanoseconds(server_) - server_before : 0;
    report(seconds, server_ns);
  }

 private:
  int connect() const {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(options_.port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    // The server may be about to listen.
    for (int tries = 0;; ++tries) {
      const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
      if (fd < 0) network::fail("socket", errno);
      const int on = 1;
      setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
      if (::connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0) return fd;
      if (tries == 100) network::fail("connect", errno);
      close(fd);
      usleep(20'000);
    }
  }

  double until(double seconds) {
    const Clock::time_point begin = Clock::now();
    const auto end = begin + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
    Clock::time_point heard = begin;
    Clock::time_point now = begin;
    while (now < end) {
      bool anything = false;
      ring_.turn([&](const io_uring_cqe& cqe) {
        anything = true;
        take(cqe);
      });
      now = Clock::now();
      if (anything) heard = now;
      if (now - heard > std::chrono::seconds(5)) network::fail("the server does not answer", ETIMEDOUT);
    }
    return std::chrono::duration<double>(now - begin).count();
  }

  void take(const io_uring_cqe& cqe) {
    const std::size_t i = cqe.user_data >> 1;
    if ((cqe.user_data & 1) != 0) {
      if (cqe.res < 0) network::fail("send", -cqe.res);
      connections_[i].sends = false;
      return send(i);
    }
    if (cqe.res == 0) network::fail("the server closed a connection", ECONNRESET);
    if (cqe.res < 0 && cqe.res != -ENOBUFS) network::fail("receive", -cqe.res);
    if (cqe.res > 0) received(i, cqe);
    if ((cqe.flags & IORING_CQE_F_MORE) != 0) return;
    ring_.publish();
    ring_.receive(connections_[i].fd, i << 1);
  }

  void received(std::size_t i, const io_uring_cqe& cqe) {
    Connection& connection = connections_[i];
    const unsigned buffer = cqe.flags >> IORING_CQE_BUFFER_SHIFT;
    const auto size = static_cast<std::size_t>(cqe.res);
    check(connection.received, ring_.buffer(buffer), size);
    ring_.give_back(buffer);
    const std::size_t before = connection.received / options_.bytes;
    connection.received += size;
    const auto whole = static_cast<unsigned>(connection.received / options_.bytes - before);
    if (whole == 0) return;
    const Clock::time_point now = Clock::now();
    for (unsigned k = 0; k < whole; ++k) {
      const auto took = std::chrono::nanoseconds(now - connection.begun[connection.first++ & deepest]).count();
      times_.push_back(static_cast<std::uint32_t>(std::min<std::int64_t>(took, UINT32_MAX)));
    }
    connection.due += whole;
    send(i);
  }

  void check(std::size_t from, const std::byte* data, std::size_t size) const {
    for (std::size_t done = 0; done < size;) {
      const std::size_t place = (from + done) % options_.bytes;
      const std::size_t part = std::min(size - done, options_.bytes - place);
      if (std::memcmp(data + done, messages_.data() + place, part) != 0) network::fail("wrong bytes", EBADMSG);
      done += part;
    }
  }

  void send(std::size_t i) {
    Connection& connection = connections_[i];
    if (connection.sends || connection.due == 0) return;
    const Clock::time_point now = Clock::now();
    for (unsigned k = 0; k < connection.due; ++k) connection.begun[connection.last++ & deepest] = now;
    ring_.send(connection.fd, messages_.data(), connection.due * options_.bytes, i << 1 | 1);
    connection.due = 0;
    connection.sends = true;
  }

  void report(double seconds, std::uint64_t server_ns) {
    if (times_.empty()) network::fail("no answers", ETIMEDOUT);
    const auto count = static_cast<double>(times_.size());
    auto percentile = [this](double part) {
      const auto place = static_cast<std::ptrdiff_t>(part * static_cast<double>(times_.size() - 1));
      std::nth_element(times_.begin(), times_.begin() + place, times_.end());
      return times_[static_cast<std::size_t>(place)] / 1e3;
    };
    std::printf(
        "RESULT work=echo connections=%zu bytes=%zu depth=%u requests=%zu requests_per_s=%.0f server_ns=%.1f "
        "p50_us=%.1f p99_us=%.1f\n",
        options_.connections, options_.bytes, options_.depth, times_.size(), count / seconds,
        static_cast<double>(server_ns) / count, percentile(0.5), percentile(0.99));
  }

  Options options_;
  network::Ring ring_;
  std::vector<std::byte> messages_;
  std::vector<Connection> connections_;
  std::vector<std::uint32_t> times_;
  clockid_t server_ = 0;
};

Options parse(int argc, char** argv) {
  Options options;
  const option names[] = {{"port", 1, nullptr, 'p'},   {"connections", 1, nullptr, 'c'}, {"bytes", 1, nullptr, 'b'},
                          {"depth", 1, nullptr, 'd'},  {"seconds", 1, nullptr, 's'},     {"warm-up", 1, nullptr, 'w'},
                          {"server", 1, nullptr, 'S'}, {nullptr, 0, nullptr, 0}};
  for (int name; (name = getopt_long(argc, argv, "", names, nullptr)) != -1;) {
    switch (name) {
      case 'p':
        options.port = static_cast<std::uint16_t>(std::atoi(optarg));
        break;
      case 'c':
        options.connections = std::strtoul(optarg, nullptr, 10);
        break;
      case 'b':
        options.bytes = std::strtoul(optarg, nullptr, 10);
        break;
      case 'd':
        options.depth = static_cast<unsigned>(std::atoi(optarg));
        break;
      case 's':
        options.seconds = std::atof(optarg);
        break;
      case 'w':
        options.warm_up = std::atof(optarg);
        break;
      case 'S':
        options.server = std::atoi(optarg);
        break;
      default:
        std::exit(2);
    }
  }
  if (options.port == 0 || options.connections == 0 || options.bytes == 0 || options.depth == 0 ||
      options.depth > deepest) {
    std::fprintf(stderr, "load: --port is needed; connections, bytes and depth are 1 or more, depth 63 at most\n");
    std::exit(2);
  }
  return options;
}

}  // namespace

int main(int argc, char** argv) {
  const Options options = parse(argc, argv);
  network::allow_many_descriptors();
  Load load(options);
  load.run();
}
