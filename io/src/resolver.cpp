// The system's resolver, called on a thread of an executor; and at once where it would look nothing up.
//
// Whether a host is a number, the system itself is asked: with AI_NUMERICHOST it answers at once, just as it would have
// answered without, or says that it is none. So nothing here knows what a number looks like.
#include <ouro/io/resolver.hpp>

#include <netdb.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <memory>
#include <source_location>
#include <system_error>
#include <utility>

#include <ouro/runtime/clock.hpp>
#include <ouro/runtime/events.hpp>
#include <ouro/runtime/exceptions.hpp>
#include <ouro/runtime/tasks.hpp>

namespace ouro {
namespace {

// ---- The error ----

class ResolverCategory final : public std::error_category {
 public:
  const char* name() const noexcept override { return "getaddrinfo"; }
  std::string message(int error) const override { return ::gai_strerror(error); }
};

const std::error_category& resolver_category() noexcept {
  static const auto* const category = new ResolverCategory;  // a thread may read it while the process ends
  return *category;
}

const char* hint_for(int error) noexcept {
  switch (error) {
    case EAI_NONAME:
    case EAI_NODATA:
      return "Check how the host and the service are written, and that a name server or /etc/hosts knows the host.";
    case EAI_AGAIN:
      return "The name server did not answer: try again later; /etc/resolv.conf says which one is asked.";
    case EAI_FAIL:
      return "The name server refused: ask another one, in /etc/resolv.conf.";
    case EAI_SERVICE:
      return "/etc/services has no such service for this type of socket: give the port as a number.";
    case EAI_FAMILY:
    case EAI_ADDRFAMILY:
      return "The host has no address of the family that was asked for: ask for AF_INET, AF_INET6, or either by 0.";
    case EAI_SOCKTYPE:
      return "The type of socket and the protocol do not go together: leave the protocol 0.";
    case EAI_BADFLAGS:
      return "The flags contradict each other: AI_CANONNAME needs a host.";
    default:
      return "";
  }
}

// `system_error`: errno after the call.
[[noreturn]] void throw_error(int error, int system_error, std::string_view operation, std::string_view object) {
  if (error == EAI_SYSTEM) throw_os_error(system_error, operation, object);
  throw gaierror(error, operation, object);
}

// ---- Asked on any thread ----

struct Query {
  std::string host;
  std::string service;
  AddressInfoOptions options;

  std::string subject() const {
    if (service.empty()) return host;
    return (host.find(':') == std::string::npos ? host : "[" + host + "]") + ":" + service;
  }
};

struct Answer {
  int error = 0;
  int system_error = 0;
  std::vector<AddressInfo> found;
};

Answer ask(const Query& query, int more_flags) {
  addrinfo hints{};
  hints.ai_family = query.options.family;
  hints.ai_socktype = query.options.type;
  hints.ai_protocol = query.options.protocol;
  hints.ai_flags = query.options.flags | more_flags;
  addrinfo* list = nullptr;
  Answer answer;
  answer.error = ::getaddrinfo(query.host.empty() ? nullptr : query.host.c_str(),
                               query.service.empty() ? nullptr : query.service.c_str(), &hints, &list);
  answer.system_error = errno;
  if (answer.error != 0) return answer;
  const std::unique_ptr<addrinfo, decltype(&::freeaddrinfo)> owner(list, &::freeaddrinfo);
  for (const addrinfo* info = list; info; info = info->ai_next) {
    answer.found.push_back({info->ai_family, info->ai_socktype, info->ai_protocol,
                            info->ai_canonname ? info->ai_canonname : "",
                            Address::from_sockaddr(info->ai_addr, info->ai_addrlen)});
  }
  return answer;
}

std::vector<AddressInfo> found_by(Answer answer, const Query& query) {
  if (answer.error != 0) throw_error(answer.error, answer.system_error, "getaddrinfo", query.subject());
  return std::move(answer.found);
}

NameInfo name_at(const Address& address, int flags) {
  char host[NI_MAXHOST];
  char service[NI_MAXSERV];
  // The system would take others too; a unix path it reads to a NUL that need not be there.
  int error = EAI_FAMILY;
  if (address.is_ipv4() || address.is_ipv6()) {
    error = ::getnameinfo(address.data(), static_cast<socklen_t>(address.size()), host, sizeof host, service,
                          sizeof service, flags);
  }
  if (error != 0) throw_error(error, errno, "getnameinfo", address.str());
  return {host, service};
}

// ---- On the loop's thread ----

// A future that is done already.
template <class R, class Ask>
Future<R> answered(BaseEventLoop& loop, Ask ask) {
  Future<R> future(detail::PlainFuture<R>::make(loop.home_of_errands(), std::source_location::current()));
  try {
    future.set_result(ask());
  } catch (...) {
    future.set_exception(std::current_exception());
  }
  return future;
}

class Stopwatch {
 public:
  explicit Stopwatch(Duration& took) noexcept : took_(took), began_(Clock::steady().now()) {}
  Stopwatch(const Stopwatch&) = delete;
  ~Stopwatch() { took_ = Clock::steady().now() - began_; }

 private:
  Duration& took_;
  TimePoint began_;
};

void report_slow(BaseEventLoop& loop, const std::string& subject, Duration took, std::source_location created) {
  if (took < loop.slow_callback_duration) return;
  const auto us = std::chrono::duration_cast<std::chrono::microseconds>(took).count();
  ExceptionContext context;
  context.message = "Getting address info " + subject + " took " + std::to_string(us / 1000) + "." +
                    std::to_string(us % 1000 + 1000).substr(1) + " ms";
  context.created = created;
  loop.call_exception_handler(context);
}

// What `ask` gives on a thread of the default executor.
template <class R, class Ask>
Future<R> sent_out(BaseEventLoop& loop, std::string subject, Ask ask) {
  if (!loop.get_debug()) return loop.run_in_executor(nullptr, std::move(ask));
  const auto took = std::make_shared<Duration>();
  auto timed = [took, ask = std::move(ask)]() -> R {
    const Stopwatch watch(*took);
    return ask();
  };
  Future<R> future = loop.run_in_executor(nullptr, std::move(timed));
  future.add_done_callback([took, subject = std::move(subject)](const Future<R>& done) {
    // After a cancellation the thread may still be at work, and `took` is its.
    if (!done.cancelled()) report_slow(done.get_loop(), subject, *took, done.created());
  });
  return future;
}

void check_text(std::string_view text) {
  if (text.find('\0') != std::string_view::npos) throw ValueError("getaddrinfo: a host or service has no NUL in it");
}

// True for a number, which is looked up nowhere.
bool check_port(std::string_view service) {
  if (service.empty()) return true;
  if (!std::all_of(service.begin(), service.end(), [](char c) { return c >= '0' && c <= '9'; })) return false;
  unsigned port = 0;
  const auto end = service.data() + service.size();
  if (std::from_chars(service.data(), end, port).ec != std::errc() || port > 65535) {
    throw ValueError("port " + std::string(service) + " is not in 0..65535");
  }
  return true;
}

}  // namespace

gaierror::gaierror(int error, std::string_view operation, std::string_view object)
    : OSError(std::error_code(error, resolver_category()), operation, object, hint_for(error)) {}

namespace detail {

Future<std::vector<AddressInfo>> look_up(BaseEventLoop& loop, std::string_view host, std::string_view service,
                                         const AddressInfoOptions& options) {
  using Found = std::vector<AddressInfo>;
  check_text(host);
  check_text(service);
  Query query{std::string(host), std::string(service), options};
  if (check_port(service)) {
    Answer answer = ask(query, AI_NUMERICHOST | AI_NUMERICSERV);
    const bool is_name = answer.error == EAI_NONAME && !host.empty() && (options.flags & AI_NUMERICHOST) == 0;
    if (!is_name) return answered<Found>(loop, [&] { return found_by(std::move(answer), query); });
  }
  std::string subject = query.subject();
  return sent_out<Found>(loop, std::move(subject),
                         [query = std::move(query)] { return found_by(ask(query, 0), query); });
}

Future<std::vector<AddressInfo>> look_up(BaseEventLoop& loop, std::string_view host, int port,
                                         const AddressInfoOptions& options) {
  if (port < 0) throw ValueError("port " + std::to_string(port) + " is not in 0..65535");
  return look_up(loop, host, std::to_string(port), options);
}

Future<NameInfo> look_up_name(BaseEventLoop& loop, const Address& address, int flags) {
  const auto ask = [address, flags] { return name_at(address, flags); };
  const bool is_ip = address.is_ipv4() || address.is_ipv6();
  constexpr int nothing_to_look_up = NI_NUMERICHOST | NI_NUMERICSERV;
  if (!is_ip || (flags & nothing_to_look_up) == nothing_to_look_up) return answered<NameInfo>(loop, ask);
  return sent_out<NameInfo>(loop, address.str(), ask);
}

}  // namespace detail

Future<std::vector<AddressInfo>> getaddrinfo(std::string_view host, std::string_view service,
                                             AddressInfoOptions options) {
  return detail::look_up(*detail::require_running().loop, host, service, options);
}

Future<std::vector<AddressInfo>> getaddrinfo(std::string_view host, int port, AddressInfoOptions options) {
  return detail::look_up(*detail::require_running().loop, host, port, options);
}

Future<NameInfo> getnameinfo(const Address& address, int flags) {
  return detail::look_up_name(*detail::require_running().loop, address, flags);
}

}  // namespace ouro
