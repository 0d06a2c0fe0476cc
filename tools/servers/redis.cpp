// A server that speaks Redis' protocol, for redis-cli, redis-benchmark and whoever keeps strings in a Redis. On several
// loops it uses all cores for the same keys.
#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "commands.hpp"
#include "common.hpp"
#include "keyspace.hpp"
#include "resp.hpp"

namespace {

namespace resp = servers::resp;
using ouro::Coroutine;
using servers::Keyspace;

// What one client's callbacks need only until they return, each loop has once.
struct Scratch {
  std::vector<std::string_view> arguments;
  std::string replies;
};

Scratch& scratch() {
  thread_local Scratch one;
  return one;
}

constexpr std::size_t replies_at_once = 64 * 1024;
constexpr std::size_t request_bytes_max = 2 * resp::argument_bytes_max;

class Client final : public ouro::Protocol {
 public:
  explicit Client(Keyspace& keys) : keys_(keys) {}

  void connection_made(ouro::Transport& transport) override { transport_ = &transport; }

  void data_received(std::span<const std::byte> data) override {
    const std::string_view more(reinterpret_cast<const char*>(data.data()), data.size());
    if (rest_.empty()) {
      const std::size_t used = answer(more);
      rest_.assign(more.substr(used));
    } else {
      rest_.append(more);
      answer_rest();
    }
  }

  // A client that does not read its replies is not read from, and what it has asked for already waits.
  void pause_writing() override {
    paused_ = true;
    transport_->pause_reading();
  }
  void resume_writing() override {
    paused_ = false;
    if (!rest_.empty()) answer_rest();
    if (!paused_) transport_->resume_reading();
  }

 private:
  void answer_rest() {
    const std::size_t used = answer(rest_);
    if (used == rest_.size()) {
      rest_ = std::string();
    } else {
      rest_.erase(0, used);
    }
  }

  // Answers all whole requests, unless the client has to read first, and gives how many bytes they were.
  std::size_t answer(std::string_view input) {
    Scratch& own = scratch();
    own.replies.clear();
    std::size_t used = 0;
    bool stays = true;
    while (stays && !paused_) {
      const resp::Parsed parsed = resp::parse(input.substr(used), own.arguments);
      if (parsed.state == resp::Parsed::State::partial) break;
      if (parsed.state == resp::Parsed::State::wrong) {
        resp::add_error(own.replies, std::string("ERR Protocol error: ").append(parsed.error));
        stays = false;
        break;
      }
      used += parsed.used;
      if (!own.arguments.empty()) stays = servers::execute(keys_, own.arguments, own.replies);
      if (own.replies.size() >= replies_at_once) send(own.replies);
    }
    if (stays && input.size() - used > request_bytes_max) {
      resp::add_error(own.replies, "ERR Protocol error: too big a request");
      stays = false;
    }
    send(own.replies);
    if (stays) return used;
    transport_->close();
    return input.size();
  }

  void send(std::string& replies) {
    if (!replies.empty()) transport_->write(replies);
    if (replies.capacity() > 4 * replies_at_once) {
      replies = std::string();
    } else {
      replies.clear();
    }
  }

  Keyspace& keys_;
  ouro::Transport* transport_ = nullptr;
  std::string rest_;     // what has not been answered yet
  bool paused_ = false;  // the client has to read first
};

Coroutine<> redis(servers::Listen listen, Keyspace& keys) {
  ouro::EventLoop& loop = ouro::get_running_loop();
  auto factory = [&keys] { return std::make_unique<Client>(keys); };
  ouro::Server server = co_await loop.create_server(factory, listen.host, listen.port);
  co_await servers::serve(server);
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("A Redis server for strings.");
  servers::Listen listen;
  listen.port = 6379;
  listen.add_to(app);
  CLI11_PARSE(app, argc, argv);
  Keyspace keys;
  return servers::run(redis(listen, keys), listen);
}
