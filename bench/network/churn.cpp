// Connects to a server and goes away again, N times: churn PORT N. Every second one says a byte and waits for the
// answer; every third one goes with a reset. Prints one RESULT line.
#include <arpa/inet.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <chrono>

#include "network/uring.hpp"

namespace {

int connect_to(std::uint16_t port) {
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) network::fail("socket", errno);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  while (connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    // All ports are in their last minute.
    if (errno != EADDRNOTAVAIL) network::fail("connect", errno);
    usleep(1000);
  }
  return fd;
}

void say(int fd) {
  char byte = 'x';
  if (send(fd, &byte, 1, MSG_NOSIGNAL) != 1) network::fail("send", errno);
  if (recv(fd, &byte, 1, 0) != 1) network::fail("no answer", errno);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr, "churn PORT N\n");
    return 2;
  }
  const auto port = static_cast<std::uint16_t>(std::atoi(argv[1]));
  const long count = std::atol(argv[2]);
  const auto begin = std::chrono::steady_clock::now();
  for (long i = 0; i < count; ++i) {
    const int fd = connect_to(port);
    if (i % 2 == 0) say(fd);
    // Without a reset its port would wait a minute; so the others take turns with the servers' side.
    const linger reset{1, 0};
    if (i % 3 == 0) setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
    close(fd);
  }
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
  std::printf("RESULT work=churn connections=%ld per_s=%.0f\n", count, static_cast<double>(count) / took.count());
}
