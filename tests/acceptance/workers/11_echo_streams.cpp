// A server and its clients over real sockets, in coroutines.
#include <ouro/ouro.hpp>

#include <cstdio>
#include <string>
#include <vector>

ouro::Coroutine<> echo(ouro::StreamReader& reader, ouro::StreamWriter& writer) {
  while (true) {
    std::string line = co_await reader.readline();
    if (line.empty()) break;  // end of file
    writer.write(line);
    co_await writer.drain();
  }
  writer.close();
  co_await writer.wait_closed();
}

ouro::Coroutine<std::string> ask(int port, int i) {
  auto [reader, writer] = co_await ouro::open_connection("127.0.0.1", port);
  writer.write("hello " + std::to_string(i) + "\n");
  co_await writer.drain();
  std::string answer = co_await reader.readline();
  writer.close();
  co_await writer.wait_closed();
  co_return answer;
}

ouro::Coroutine<> run() {
  auto server = co_await ouro::start_server(echo, "127.0.0.1", 0);
  const int port = server.sockets().front().getsockname().port();
  std::vector<ouro::Coroutine<std::string>> clients;
  for (int i = 0; i < 500; ++i) clients.push_back(ask(port, i));
  auto answers = co_await ouro::gather(std::move(clients));
  int right = 0;
  for (std::size_t i = 0; i < 500; ++i) right += answers[i] == "hello " + std::to_string(i) + "\n";
  std::printf("%d right answers\n", right);
  server.close();
  co_await server.wait_closed();

  try {
    co_await ouro::open_connection("127.0.0.1", port);
  } catch (const ouro::ConnectionRefusedError&) {
    std::puts("ConnectionRefusedError");
  }
}

int main() { ouro::run(run(), {.workers = 4}); }
