// What all servers here have in common: where they listen, on how many loops, and how they end.
#pragma once

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <string>
#include <utility>

#include <CLI/CLI.hpp>
#include <ouro/ouro.hpp>

namespace servers {

struct Listen {
  std::string host = "127.0.0.1";
  int port = 0;
  unsigned workers = 1;
  unsigned spin_us = 0;

  // `loops`: whether the server can use several.
  void add_to(CLI::App& app, bool loops = true) {
    app.add_option("--host", host, "the name or address to listen on")->capture_default_str();
    app.add_option("--port", port, "the port; 0: one that is free")->check(CLI::Range(0, 65535));
    app.add_option("--spin-us", spin_us, "how long a loop looks for work before it sleeps")->capture_default_str();
    if (!loops) return;
    app.add_option("--workers", workers, "loops, each on a thread; 0: one for each processor")->capture_default_str();
  }
};

// Who started it reads from this line where it listens.
inline void announce(const ouro::Address& address) {
  std::printf("listening on %s\n", address.str().c_str());
  std::fflush(stdout);
}

// Until SIGINT, which cancels the main task; its connections have a moment to end then.
inline ouro::Coroutine<> serve(ouro::Server server) {
  announce(server.sockets().front().getsockname());
  ouro::Future<> forever = ouro::get_running_loop().create_future();
  std::exception_ptr stopped;
  try {
    co_await forever;
  } catch (const ouro::CancelledError&) {
    stopped = std::current_exception();
  }
  co_await server.drain(std::chrono::seconds(5));
  std::rethrow_exception(stopped);
}

// Runs `main` until it ends, or SIGINT ends it.
template <class Main>
int run(Main main, const Listen& listen) {
  try {
    ouro::run(std::move(main), {.workers = listen.workers, .spin = std::chrono::microseconds(listen.spin_us)});
    return EXIT_SUCCESS;
  } catch (const ouro::KeyboardInterrupt&) {
    return EXIT_SUCCESS;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return EXIT_FAILURE;
  }
}

}  // namespace servers
