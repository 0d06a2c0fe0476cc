// An echo server in asyncio's three styles: streams, a protocol, and bare sockets.
#include <netdb.h>
#include <sys/socket.h>

#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "common.hpp"

namespace {

using ouro::Coroutine;
using servers::Listen;

constexpr std::size_t piece_bytes = 64 * 1024;

// ---- Streams ----

Coroutine<> echo_stream(ouro::StreamReader& reader, ouro::StreamWriter& writer) {
  try {
    while (true) {
      const std::string_view piece = co_await reader.read_view(piece_bytes);
      if (piece.empty()) break;
      writer.write(piece);
      co_await writer.drain();
    }
  } catch (const ouro::ConnectionError&) {
    // The other side has gone.
  }
}

Coroutine<> with_streams(Listen listen) {
  ouro::Server server = co_await ouro::start_server(echo_stream, listen.host, listen.port);
  co_await servers::serve(server);
}

// ---- A protocol ----

class Echo final : public ouro::Protocol {
 public:
  void connection_made(ouro::Transport& transport) override { transport_ = &transport; }
  void data_received(std::span<const std::byte> data) override { transport_->write(data); }
  // Who does not read is not read from.
  void pause_writing() override { transport_->pause_reading(); }
  void resume_writing() override { transport_->resume_reading(); }

 private:
  ouro::Transport* transport_ = nullptr;
};

Coroutine<> with_a_protocol(Listen listen) {
  ouro::EventLoop& loop = ouro::get_running_loop();
  auto factory = [] { return std::make_unique<Echo>(); };
  ouro::Server server = co_await loop.create_server(factory, listen.host, listen.port);
  co_await servers::serve(server);
}

// ---- Bare sockets ----

Coroutine<> echo_socket(ouro::Socket socket) {
  ouro::EventLoop& loop = ouro::get_running_loop();
  try {
    while (true) {
      const std::string piece = co_await loop.sock_recv(socket, piece_bytes);
      if (piece.empty()) break;
      co_await loop.sock_sendall(socket, piece);
    }
  } catch (const ouro::ConnectionError&) {
    // The other side has gone.
  }
}

// In a group the tasks of connections float: whichever loop is free goes on with them.
Coroutine<> with_sockets(Listen listen) {
  ouro::EventLoop& loop = ouro::get_running_loop();
  const ouro::AddressInfoOptions stream{.type = SOCK_STREAM, .flags = AI_PASSIVE};
  const std::vector<ouro::AddressInfo> found = co_await loop.getaddrinfo(listen.host, listen.port, stream);
  const ouro::Address address = found.front().address;
  ouro::Socket listener(address.family());
  listener.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1);
  listener.bind(address);
  listener.listen();
  servers::announce(listener.getsockname());
  auto accept_all = [&loop, &listener](ouro::TaskGroup& connections) -> Coroutine<> {
    while (true) {
      auto [socket, peer] = co_await loop.sock_accept(listener);
      connections.create_task(echo_socket(std::move(socket)));
    }
  };
  co_await ouro::task_group(accept_all);
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Sends back whatever it is sent.");
  Listen listen;
  std::string style = "streams";
  listen.add_to(app);
  app.add_option("--style", style, "how it is written")
      ->check(CLI::IsMember({"streams", "protocol", "sockets"}))
      ->capture_default_str();
  CLI11_PARSE(app, argc, argv);

  if (style == "protocol") return servers::run(with_a_protocol(listen), listen);
  if (style == "sockets") return servers::run(with_sockets(listen), listen);
  return servers::run(with_streams(listen), listen);
}
