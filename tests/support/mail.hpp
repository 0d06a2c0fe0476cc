// Endpoints of datagrams in tests: a protocol that writes down what it is told, and where endpoints may be.
#pragma once

#include <netinet/in.h>
#include <sys/socket.h>

#include <cstdlib>
#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <ostream>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <ouro/ouro.hpp>

#include "support/wire.hpp"

namespace ouro::test {

// What a Mailbox was told; it outlives it.
struct Mail {
  std::vector<std::string> events;  // "made", "error: <what>", "pause", "resume", "lost", "lost: <what>"
  std::vector<std::string> received;
  std::vector<Address> senders;  // of each
  DatagramTransport* transport = nullptr;
  std::function<void(const std::string&)> then;  // after each of the events, and of "data"

  void add(const std::string& event) {
    if (event != "data") events.push_back(event);
    if (then) then(event);
  }
  bool has(std::string_view event) const {
    for (const std::string& known : events) {
      if (known.substr(0, event.size()) == event) return true;
    }
    return false;
  }
  bool lost() const { return has("lost"); }
  std::size_t errors() const {
    std::size_t count = 0;
    for (const std::string& known : events) {
      if (known.substr(0, 5) == "error") ++count;
    }
    return count;
  }
};

class Mailbox final : public DatagramProtocol {
 public:
  explicit Mailbox(std::shared_ptr<Mail> mail) : mail_(std::move(mail)) {}

  void connection_made(DatagramTransport& transport) override {
    mail_->transport = &transport;
    mail_->add("made");
  }
  void datagram_received(std::span<const std::byte> data, const Address& from) override {
    mail_->received.push_back(text_of(data));
    mail_->senders.push_back(from);
    mail_->add("data");
  }
  void error_received(std::exception_ptr error) override { mail_->add("error: " + describe(error)); }
  void pause_writing() override { mail_->add("pause"); }
  void resume_writing() override { mail_->add("resume"); }
  void connection_lost(std::exception_ptr error) override {
    mail_->transport = nullptr;
    mail_->add(error ? "lost: " + describe(error) : "lost");
  }

 private:
  std::shared_ptr<Mail> mail_;
};

// An endpoint with its mail.
struct Box {
  std::shared_ptr<Mail> mail = std::make_shared<Mail>();
  std::shared_ptr<DatagramTransport> transport;

  auto factory() const {
    return [mail = mail] { return std::make_unique<Mailbox>(mail); };
  }
  const std::vector<std::string>& received() const noexcept { return mail->received; }
};

inline Coroutine<Box> open_box(DatagramOptions options, std::function<void(Box&)> prepare = {}) {
  Box box;
  if (prepare) prepare(box);
  auto made = co_await get_running_loop().create_datagram_endpoint(box.factory(), options);
  box.transport = made.first;
  co_return box;
}
inline Coroutine<Box> open_box(Socket socket) {
  Box box;
  auto made = co_await get_running_loop().create_datagram_endpoint(box.factory(), std::move(socket));
  box.transport = made.first;
  co_return box;
}

inline Coroutine<> close_box(const Box& box) {
  box.transport->close();
  co_await until([&box] { return box.mail->lost(); });
}

template <class... Boxes>
Coroutine<> close_boxes(const Boxes&... boxes) {
  const Box* const all[] = {&boxes...};
  for (const Box* box : all) co_await close_box(*box);
}

// What kind of endpoints a test is about, and whether the ring may receive many datagrams by one request.
struct Kind {
  int family;
  bool many = true;

  // A place that is free.
  Address somewhere() const {
    if (family == AF_UNIX) return Address::unix_path("");
    return Address::ip(family == AF_INET ? "127.0.0.1" : "::1", 0);
  }
  std::string name() const {
    const std::string of = family == AF_UNIX ? "unix" : family == AF_INET ? "inet" : "inet6";
    return of + (many ? "_many" : "_one_by_one");
  }
};
inline std::ostream& operator<<(std::ostream& out, const Kind& kind) { return out << kind.name(); }

// A loop that is made while it lives has no such request.
class NoMultishot {
 public:
  NoMultishot() {
    if (const char* before = std::getenv(variable)) before_ = before;
    std::string words = before_.value_or("");
    ::setenv(variable, words.append(words.empty() ? "" : ",").append("multishot_receive").c_str(), 1);
  }
  NoMultishot(const NoMultishot&) = delete;
  ~NoMultishot() {
    if (before_) {
      ::setenv(variable, before_->c_str(), 1);
    } else {
      ::unsetenv(variable);
    }
  }

 private:
  static constexpr const char* variable = "OURO_RING_DISABLE";
  std::optional<std::string> before_;
};

}  // namespace ouro::test
