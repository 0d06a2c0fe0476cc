// Datagrams over loopback and a stream over a unix socket.
#include <ouro/ouro.hpp>

#include <unistd.h>

#include <cctype>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <span>
#include <string>

using namespace std::chrono_literals;

class Mirror : public ouro::DatagramProtocol {
 public:
  void connection_made(ouro::DatagramTransport& transport) override { transport_ = &transport; }
  void datagram_received(std::span<const std::byte> data, const ouro::Address& from) override { transport_->sendto(data, from); }

 private:
  ouro::DatagramTransport* transport_ = nullptr;
};

class Asker : public ouro::DatagramProtocol {
 public:
  explicit Asker(ouro::Future<std::string> answer) : answer_(std::move(answer)) {}
  void connection_made(ouro::DatagramTransport& transport) override { transport.sendto(std::string_view("marco")); }
  void datagram_received(std::span<const std::byte> data, const ouro::Address&) override {
    answer_.set_result(std::string(reinterpret_cast<const char*>(data.data()), data.size()));
  }

 private:
  ouro::Future<std::string> answer_;
};

ouro::Coroutine<> shout(ouro::StreamReader& reader, ouro::StreamWriter& writer) {
  std::string text = co_await reader.readuntil('.');
  for (char& c : text) c = static_cast<char>(std::toupper(c));
  writer.write(text);
  co_await writer.drain();
  writer.close();
}

ouro::Coroutine<> run() {
  ouro::EventLoop& loop = ouro::get_running_loop();

  auto [mirror, mirror_protocol] = co_await loop.create_datagram_endpoint([] { return std::make_unique<Mirror>(); },
                                                                          {.local = {"127.0.0.1", 0}});
  auto answer = loop.create_future<std::string>();
  const int port = mirror->getsockname().port();
  auto [asker, asker_protocol] = co_await loop.create_datagram_endpoint([&] { return std::make_unique<Asker>(answer); },
                                                                        {.remote = {"127.0.0.1", port}});
  std::string heard = co_await ouro::wait_for(answer, 1s);
  std::printf("%s\n", heard.c_str());
  mirror->close();
  asker->close();

  const auto path = std::filesystem::temp_directory_path() / ("ouro-" + std::to_string(::getpid()) + ".sock");
  auto server = co_await ouro::start_unix_server(shout, path);
  auto [reader, writer] = co_await ouro::open_unix_connection(path);
  writer.write("hello, unix.");
  co_await writer.drain();
  std::string loud = co_await reader.read();
  std::printf("%s\n", loud.c_str());
  server.close();
  co_await server.wait_closed();
}

int main() { ouro::run(run(), {.workers = 4}); }
