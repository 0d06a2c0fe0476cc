#include "http.hpp"

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <ctime>
#include <utility>

namespace servers::http {

namespace {

constexpr std::size_t rest_bytes = 64 * 1024;
constexpr std::size_t answers_bytes = 64 * 1024;

std::string_view reason_of(unsigned status) {
  switch (status) {
#define OURO_REASON(number, name, text) \
  case number:                          \
    return #text;
    HTTP_STATUS_MAP(OURO_REASON)
#undef OURO_REASON
    default:
      return "Unknown";
  }
}

// "Date: ...", anew for each second.
std::string_view date_line() {
  struct Line {
    std::time_t second = -1;
    std::array<char, 64> text{};
    std::size_t size = 0;
  };
  thread_local Line line;
  const std::time_t now = std::time(nullptr);
  if (now != line.second) {
    std::tm parts{};
    ::gmtime_r(&now, &parts);
    line.size = std::strftime(line.text.data(), line.text.size(), "Date: %a, %d %b %Y %H:%M:%S GMT\r\n", &parts);
    line.second = now;
  }
  return {line.text.data(), line.size};
}

}  // namespace

Connection::Connection(Handler& handler, const Limits& limits) : handler_(handler), limits_(limits) {
  ::http_parser_init(&parser_, HTTP_REQUEST);
  parser_.data = this;
}

// ---- Reading requests ----

// The parser is C: nothing may be thrown through it.
const http_parser_settings& Connection::settings() {
  static const http_parser_settings all = [] {
    http_parser_settings settings;
    ::http_parser_settings_init(&settings);
    settings.on_message_begin = [](http_parser* parser) { return of(parser).begin_request(); };
    settings.on_url = [](http_parser* parser, const char* at, std::size_t n) { return of(parser).add_target(at, n); };
    settings.on_headers_complete = [](http_parser* parser) { return of(parser).end_head(); };
    settings.on_body = [](http_parser* parser, const char* at, std::size_t n) { return of(parser).add_body(at, n); };
    settings.on_message_complete = [](http_parser* parser) {
      ::http_parser_pause(parser, 1);  // what follows is parsed once this is answered
      return 0;
    };
    return settings;
  }();
  return all;
}

int Connection::begin_request() {
  request_.target.clear();
  request_.body.clear();
  refused_ = 0;
  return 0;
}

int Connection::add_target(const char* at, std::size_t bytes) {
  if (request_.target.size() + bytes > limits_.target_bytes) {
    refused_ = HTTP_STATUS_URI_TOO_LONG;
    return 0;
  }
  try {
    request_.target.append(at, bytes);
  } catch (...) {
    return -1;
  }
  return 0;
}

int Connection::end_head() {
  request_.method = static_cast<http_method>(parser_.method);
  constexpr auto no_length = ~std::uint64_t{0};
  if (parser_.content_length != no_length && parser_.content_length > limits_.body_bytes) {
    refused_ = HTTP_STATUS_PAYLOAD_TOO_LARGE;
    return -1;  // it is not waited for
  }
  return 0;
}

int Connection::add_body(const char* at, std::size_t bytes) {
  if (request_.body.size() + bytes > limits_.body_bytes) {
    refused_ = HTTP_STATUS_PAYLOAD_TOO_LARGE;
    return -1;
  }
  try {
    request_.body.append(at, bytes);
  } catch (...) {
    return -1;
  }
  return 0;
}

// Gives how many bytes were parsed: up to the end, or to a request that is not answered yet.
std::size_t Connection::parse(std::string_view input) {
  struct Parsing {
    bool& flag;
    explicit Parsing(bool& parses) : flag(parses) { flag = true; }
    ~Parsing() { flag = false; }
  } parsing{parses_};
  std::size_t used = 0;
  while (phase_ == Phase::reads && !paused_ && used < input.size()) {
    used += ::http_parser_execute(&parser_, &settings(), input.data() + used, input.size() - used);
    switch (HTTP_PARSER_ERRNO(&parser_)) {
      case HPE_OK:
        break;
      case HPE_PAUSED:
        ::http_parser_pause(&parser_, 0);
        hand_over();
        break;
      case HPE_HEADER_OVERFLOW:
        refuse(HTTP_STATUS_REQUEST_HEADER_FIELDS_TOO_LARGE);
        break;
      default:
        refuse(refused_ != 0 ? refused_ : unsigned{HTTP_STATUS_BAD_REQUEST});
    }
    if (answers_.size() >= answers_bytes) flush();
  }
  return phase_ == Phase::ends ? input.size() : used;
}

void Connection::hand_over() {
  ++moves_;
  phase_ = Phase::answers;
  request_.keeps_alive = ::http_should_keep_alive(&parser_) != 0;
  if (refused_ != 0) return refuse(refused_);
  if (parser_.upgrade) return refuse(HTTP_STATUS_NOT_IMPLEMENTED);
  handler_.respond(*this, request_);
}

void Connection::data_received(std::span<const std::byte> data) {
  const std::string_view input(reinterpret_cast<const char*>(data.data()), data.size());
  if (rest_.empty()) {
    const std::size_t used = parse(input);
    rest_.assign(input.substr(used));
  } else {
    rest_.append(input);
  }
  if (rest_.size() > rest_bytes && !holds_) {
    holds_ = true;
    transport_->pause_reading();
  }
  flush();
}

// After an answer that came later, or when the client has read.
void Connection::go_on() {
  if (lost_ || parses_) return;
  if (!rest_.empty() && phase_ == Phase::reads && !paused_) {
    const std::string input = std::exchange(rest_, std::string());
    const std::size_t used = parse(input);
    rest_.assign(input, used);
  }
  if (holds_ && rest_.size() <= rest_bytes) {
    holds_ = false;
    transport_->resume_reading();
  }
  flush();
}

bool Connection::eof_received() {
  ended_ = true;
  flush();
  return true;  // what was asked for is still answered
}

// ---- Answering ----

void Connection::add_head(unsigned status, std::string_view type, std::size_t bytes, std::string_view more_headers) {
  if (status == HTTP_STATUS_OK) {
    answers_.append("HTTP/1.1 200 OK\r\n");
  } else {
    answers_.append("HTTP/1.1 ").append(std::to_string(status)).append(" ").append(reason_of(status)).append("\r\n");
  }
  answers_.append(date_line());
  answers_.append("Content-Type: ").append(type).append("\r\nContent-Length: ").append(std::to_string(bytes));
  answers_.append(request_.keeps_alive ? "\r\n" : "\r\nConnection: close\r\n").append(more_headers).append("\r\n");
}

void Connection::respond(unsigned status, std::string_view type, std::string_view body, std::string_view more_headers) {
  if (lost_) return;
  add_head(status, type, body.size(), more_headers);
  if (request_.method != HTTP_HEAD) answers_.append(body);
  answered();
}

void Connection::begin(unsigned status, std::string_view type, std::size_t bytes, std::string_view more_headers) {
  if (!lost_) add_head(status, type, bytes, more_headers);
}

void Connection::write(std::string_view data) {
  if (lost_) return;
  if (!answers_.empty()) transport_->write(std::exchange(answers_, std::string()));
  transport_->write(data);
}

void Connection::end() {
  if (!lost_) answered();
}

void Connection::abort() {
  if (!lost_) transport_->abort();
}

// Says what is wrong, and that this is the end.
void Connection::refuse(unsigned status) {
  request_.keeps_alive = false;
  std::string text(reason_of(status));
  respond(status, "text/plain", text.append("\n"));
}

void Connection::answered() {
  phase_ = request_.keeps_alive ? Phase::reads : Phase::ends;
  go_on();
}

void Connection::flush() {
  if (lost_) return;
  if (!answers_.empty()) {
    transport_->write(answers_);
    answers_.clear();
    if (answers_.capacity() > answers_bytes) answers_ = std::string();
  }
  const bool nothing_follows = ended_ && phase_ == Phase::reads && rest_.empty();
  if (phase_ == Phase::ends || nothing_follows) transport_->close();
}

ouro::Coroutine<bool> Connection::drained() {
  while (paused_ && !lost_) {
    drained_ = ouro::get_running_loop().create_future();
    co_await drained_;
  }
  co_return !lost_;
}

// ---- The connection ----

void Connection::connection_made(ouro::Transport& transport) {
  transport_ = &transport;
  watch();
}

// Who moves nothing from one look to the next is not waited for any longer: no head, no next request, no reading of
// what he was sent. One timer a connection, and a count a request.
void Connection::watch() {
  timer_ = transport_->get_loop().call_later(limits_.patience, [this] {
    const bool waits_for_client = phase_ != Phase::answers || paused_;
    if (waits_for_client && moves_ == moves_seen_) {
      paused_ ? transport_->abort() : transport_->close();
      return;
    }
    moves_seen_ = moves_;
    watch();
  });
}

void Connection::connection_lost(std::exception_ptr) {
  lost_ = true;
  timer_.cancel();
  if (drained_ && !drained_.done()) drained_.set_result();
}

void Connection::pause_writing() { paused_ = true; }

void Connection::resume_writing() {
  paused_ = false;
  ++moves_;
  if (drained_ && !drained_.done()) drained_.set_result();
  go_on();
}

}  // namespace servers::http
