// The limit of an echo server: io_uring by hand, with all that pays. A multishot accept, multishot receives into buffers
// of the ring, and each buffer is sent back as it is. uring_echo PORT
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <deque>

#include "network/uring.hpp"

namespace {

enum class Kind : std::uint32_t { accept, receive, send };

struct Piece {
  unsigned buffer;
  unsigned bytes;
};

struct Connection {
  std::deque<Piece> waiting;  // the first one is being sent
  bool receives = false;
  bool sends = false;
  bool failed = false;
};

class Server {
 public:
  explicit Server(std::uint16_t port) {
    listener_ = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const int on = 1;
    setsockopt(listener_, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    setsockopt(listener_, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);  // those accepted inherit it
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (bind(listener_, reinterpret_cast<const sockaddr*>(&address), sizeof address) || listen(listener_, 4096)) {
      network::fail("bind", errno);
    }
    ring_.accept(listener_, data(Kind::accept, 0));
  }

  [[noreturn]] void serve() {
    while (true) {
      ring_.turn([this](const io_uring_cqe& cqe) { take(cqe); });
    }
  }

 private:
  static std::uint64_t data(Kind kind, int fd) {
    return static_cast<std::uint64_t>(kind) << 32 | static_cast<std::uint32_t>(fd);
  }

  void take(const io_uring_cqe& cqe) {
    const int fd = static_cast<int>(static_cast<std::uint32_t>(cqe.user_data));
    const bool more = (cqe.flags & IORING_CQE_F_MORE) != 0;
    switch (static_cast<Kind>(cqe.user_data >> 32)) {
      case Kind::accept:
        if (cqe.res >= 0) {
          connections_[static_cast<std::size_t>(cqe.res)].receives = true;
          ring_.receive(cqe.res, data(Kind::receive, cqe.res));
        }
        if (!more) ring_.accept(listener_, data(Kind::accept, 0));
        return;
      case Kind::receive: return received(fd, cqe, more);
      case Kind::send: return sent(fd, cqe.res);
    }
  }

  void received(int fd, const io_uring_cqe& cqe, bool more) {
    Connection& connection = connections_[static_cast<std::size_t>(fd)];
    if (cqe.res > 0) {
      connection.waiting.push_back({cqe.flags >> IORING_CQE_BUFFER_SHIFT, static_cast<unsigned>(cqe.res)});
      if (!connection.sends) send(fd, connection);
    }
    if (more) return;
    if (cqe.res > 0 || cqe.res == -ENOBUFS) {
      ring_.publish();
      ring_.receive(fd, data(Kind::receive, fd));
      return;
    }
    connection.receives = false;
    end(fd, connection);
  }

  void send(int fd, Connection& connection) {
    const Piece& piece = connection.waiting.front();
    ring_.send(fd, ring_.buffer(piece.buffer), piece.bytes, data(Kind::send, fd));
    connection.sends = true;
  }

  void sent(int fd, int result) {
    Connection& connection = connections_[static_cast<std::size_t>(fd)];
    ring_.give_back(connection.waiting.front().buffer);
    connection.waiting.pop_front();
    connection.sends = false;
    if (result < 0) connection.failed = true;
    if (connection.failed || connection.waiting.empty()) return end(fd, connection);
    send(fd, connection);
  }

  void end(int fd, Connection& connection) {
    if (connection.receives || connection.sends) return;
    for (const Piece& piece : connection.waiting) ring_.give_back(piece.buffer);
    connection = {};
    close(fd);
  }

  network::Ring ring_{1024, 16384};
  std::array<Connection, 65536> connections_;
  int listener_;
};

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fprintf(stderr, "uring_echo PORT\n");
    return 2;
  }
  network::allow_many_descriptors();
  auto* server = new Server(static_cast<std::uint16_t>(std::atoi(argv[1])));  // it is too large for a stack
  server->serve();
}
