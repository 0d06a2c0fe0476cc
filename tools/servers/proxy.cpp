// A TCP proxy: what a client sends goes to the upstream, what that answers goes back. Each direction ends by itself: a
// client that has sent all its data can still wait for the answer.
#include <cstddef>
#include <string>
#include <string_view>
#include <utility>

#include "common.hpp"

namespace {

using ouro::Coroutine;
using ouro::StreamReader;
using ouro::StreamWriter;

constexpr std::size_t piece_bytes = 64 * 1024;

struct Upstream {
  std::string host = "127.0.0.1";
  int port = 0;
};

// One direction. drain() makes the one side wait for the other.
Coroutine<> pump(StreamReader& from, StreamWriter& to) {
  while (true) {
    const std::string_view piece = co_await from.read_view(piece_bytes);
    if (piece.empty()) break;
    to.write(piece);
    co_await to.drain();
  }
  to.write_eof();
}

// A side that breaks the connection ends both directions.
Coroutine<> forward(StreamReader& reader, StreamWriter& writer, const Upstream& upstream) {
  auto [answers, requests] = co_await ouro::open_connection(upstream.host, upstream.port);
  auto both = [&](ouro::TaskGroup& directions) -> Coroutine<> {
    directions.create_task(pump(reader, requests));
    directions.create_task(pump(answers, writer));
    co_return;
  };
  co_await ouro::task_group(both);
}

// What happens to connections is no fault of the proxy's: both are closed.
Coroutine<> serve_client(StreamReader& reader, StreamWriter& writer, const Upstream& upstream) {
  try {
    co_await forward(reader, writer, upstream);
  } catch (const ouro::ExceptionGroup& errors) {
    const auto others = errors.split<ouro::OSError>().second;
    if (others) throw *others;
  } catch (const ouro::OSError&) {
  }
}

Coroutine<> proxy(servers::Listen listen, Upstream upstream) {
  auto client = [&upstream](StreamReader& reader, StreamWriter& writer) {
    return serve_client(reader, writer, upstream);
  };
  ouro::Server server = co_await ouro::start_server(client, listen.host, listen.port);
  co_await servers::serve(server);
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Forwards TCP connections to an upstream.");
  servers::Listen listen;
  Upstream upstream;
  listen.add_to(app);
  app.add_option("--upstream-host", upstream.host, "where connections are forwarded to")->capture_default_str();
  app.add_option("--upstream-port", upstream.port, "its port")->required()->check(CLI::Range(1, 65535));
  CLI11_PARSE(app, argc, argv);
  return servers::run(proxy(listen, upstream), listen);
}
