// What README.md recommends: the forms that are right where g++ 12 goes wrong, and how a denied ring is told.
#include <ouro/ouro.hpp>

#include <cstdio>
#include <string>
#include <utility>

using namespace std::chrono_literals;

struct Request {
  std::string host;
  int retries = 0;
};

ouro::Coroutine<std::size_t> send(Request request) {
  co_await ouro::sleep(1ms);
  co_return request.host.size();
}

ouro::Coroutine<> safe_forms(std::string name, std::string other, bool swapped) {
  Request request{.host = name, .retries = 3};
  std::size_t sent = co_await send(std::move(request));

  auto length = [name] { return name.size(); };
  std::size_t size = co_await ouro::to_thread(std::move(length));

  std::string chosen = swapped ? other : name;
  std::size_t picked = co_await ouro::to_thread([&chosen] { return chosen.size(); });

  ouro::Task<std::size_t> task = ouro::create_task([name]() -> ouro::Coroutine<std::size_t> {
    co_await ouro::sleep(1ms);
    co_return name.size();  // the task keeps the lambda, and with it what it captured
  });
  std::printf("%zu %zu %zu %zu\n", sent, size, picked, co_await task);
}

int main() {
  try {
    ouro::run(safe_forms("a name that is too long for the small buffer of a string", "another", false));
  } catch (const ouro::OSError& error) {
    std::fprintf(stderr, "%s\n%s\n", error.what(), error.hint().c_str());
    return 1;
  }
}
