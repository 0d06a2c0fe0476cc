// HTTP/1.1 for a server: requests are read by http-parser, as they come, and answered in their order.
//
//     head, body → respond() → Reply at once, or later
//
// Requests that are pipelined are answered one after the other. While one is answered later, those behind it wait where
// they are, unparsed, and so they do while the client does not read what it was sent.
#pragma once

#include <http_parser.h>

#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include <ouro/ouro.hpp>

namespace servers::http {

struct Limits {
  std::size_t target_bytes = 8 * 1024;                 // beyond: 414
  std::size_t body_bytes = 1 << 20;                    // beyond: 413
  ouro::Duration patience = std::chrono::seconds(60);  // for a whole head, and between two requests; beyond: closed
};

struct Request {
  http_method method = HTTP_GET;
  std::string target;
  std::string body;
  bool keeps_alive = true;
};

class Connection;

// Answers requests. Lifetime: as long as the server.
class Handler {
 public:
  virtual ~Handler() = default;
  // Answers with Connection's respond(), now or in a task later on, or with begin() and what follows it.
  // Lifetime: the request, until it is answered; the connection, as long as a shared_from_this() of it.
  virtual void respond(Connection& connection, const Request& request) = 0;
};

class Connection final : public ouro::Protocol, public std::enable_shared_from_this<Connection> {
 public:
  Connection(Handler& handler, const Limits& limits);

  // A whole answer; `type` is that of its content.
  void respond(unsigned status, std::string_view type, std::string_view body, std::string_view more_headers = {});
  // The head of an answer whose `bytes` bytes follow by write(), and then end().
  void begin(unsigned status, std::string_view type, std::size_t bytes, std::string_view more_headers = {});
  void write(std::string_view data);
  void end();
  // The answer cannot be completed: the client sees that by the connection's end.
  void abort();
  // Waits while the client does not read. False: it has gone.
  ouro::Coroutine<bool> drained();

  void connection_made(ouro::Transport& transport) override;
  void data_received(std::span<const std::byte> data) override;
  bool eof_received() override;
  void connection_lost(std::exception_ptr error) override;
  void pause_writing() override;
  void resume_writing() override;

 private:
  enum class Phase { reads, answers, ends };

  static Connection& of(http_parser* parser) { return *static_cast<Connection*>(parser->data); }
  static const http_parser_settings& settings();
  int begin_request();
  int add_target(const char* at, std::size_t bytes);
  int end_head();
  int add_body(const char* at, std::size_t bytes);

  std::size_t parse(std::string_view input);
  void go_on();
  void hand_over();
  void refuse(unsigned status);
  void add_head(unsigned status, std::string_view type, std::size_t bytes, std::string_view more_headers);
  void answered();
  void flush();
  void watch();

  Handler& handler_;
  const Limits& limits_;
  ouro::Transport* transport_ = nullptr;
  ouro::TimerHandle timer_;
  http_parser parser_;
  Request request_;
  std::string rest_;     // what came, and was not parsed yet
  std::string answers_;  // those that go together
  ouro::Future<> drained_;
  unsigned refused_ = 0;  // the status with which the request that is being read will be refused
  unsigned moves_ = 0;    // requests that came, and answers that went on
  unsigned moves_seen_ = 0;
  Phase phase_ = Phase::reads;
  bool parses_ = false;
  bool paused_ = false;  // the client has to read first
  bool holds_ = false;   // reading is paused, for enough waits to be parsed
  bool ended_ = false;   // the client has sent all
  bool lost_ = false;
};

}  // namespace servers::http
