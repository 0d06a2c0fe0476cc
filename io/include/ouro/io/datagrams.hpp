// Endpoints of datagrams: what EventLoop's create_datagram_endpoint is told, and how it makes one.
//
// The options are what a caller may write in braces inside a co_await, so they own nothing (README.md, "Traps"). What
// their text says is copied into an EndpointPlan before anything is awaited.
#pragma once

#include <concepts>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

#include <ouro/io/addresses.hpp>
#include <ouro/io/detail/connections.hpp>
#include <ouro/io/protocols.hpp>
#include <ouro/io/sockets.hpp>
#include <ouro/io/transports.hpp>
#include <ouro/runtime/config.hpp>
#include <ouro/runtime/coroutine.hpp>

namespace ouro {

// One end of a datagram endpoint: {"localhost", 80}, a host by name or in numbers with a port; an Address; or
// {"/path"}, a unix socket's path, or its abstract name with the leading NUL. {} is none.
// Lifetime: the text, until the function that gets it has returned.
class EndpointName {
 public:
  enum class Form : std::uint8_t { none, host, path, address };

  constexpr EndpointName() noexcept = default;
  constexpr EndpointName(std::string_view host, int port) noexcept : form_(Form::host), text_(host), port_(port) {}
  constexpr EndpointName(std::string_view path) noexcept : form_(Form::path), text_(path) {}
  EndpointName(const Address& address) noexcept : form_(address ? Form::address : Form::none), address_(address) {}

  constexpr Form form() const noexcept { return form_; }
  constexpr std::string_view text() const noexcept { return text_; }
  constexpr int port() const noexcept { return port_; }
  const Address& address() const noexcept { return address_; }

 private:
  Form form_ = Form::none;
  std::string_view text_ = {};
  int port_ = 0;
  Address address_ = {};
};

struct DatagramOptions {
  EndpointName local = {};       // where it receives; the empty host is all interfaces
  EndpointName remote = {};      // to whom it is connected: it receives from nobody else
  int family = 0;                // AF_INET, AF_INET6 or AF_UNIX alone; it must be told if there is no address
  int proto = 0;                 // IPPROTO_UDP, ...
  int flags = 0;                 // of getaddrinfo
  bool reuse_port = false;       // several endpoints of one port, among which the kernel distributes what comes
  bool allow_broadcast = false;  // it may send to all, and is not connected: the remote address only is the usual one
};

static_assert(std::is_trivially_destructible_v<DatagramOptions>);

namespace detail {

// The options, and what they are about.
struct EndpointPlan {
  explicit EndpointPlan(const DatagramOptions& from)
      : options(from), local_text(from.local.text()), remote_text(from.remote.text()) {}
  EndpointPlan(EndpointPlan&&) noexcept = default;
  EndpointPlan& operator=(EndpointPlan&&) noexcept = default;
  ~EndpointPlan() = default;

  DatagramOptions options;  // the text in them may be gone
  std::string local_text;
  std::string remote_text;
};

// A socket that is bound and connected as it was wished, and where it sends to if nothing else is said.
struct EndpointSocket {
  EndpointSocket() noexcept = default;
  explicit EndpointSocket(Socket made) noexcept : socket(std::move(made)) {}

  Socket socket;
  Address usual = {};  // not that to which it is connected
};

// Throws: ValueError for options that do not fit together, what the lookup does, OSError; nothing is left open then.
OURO_EXPORT Coroutine<EndpointSocket> make_endpoint_socket(EventLoop& loop, EndpointPlan plan);
// Checks that it is a datagram socket. Throws: ValueError.
OURO_EXPORT Coroutine<EndpointSocket> use_endpoint_socket(Socket socket);

// Calls connection_made(). On the loop's thread.
OURO_EXPORT std::shared_ptr<DatagramTransport> start_endpoint(EventLoop& loop, EndpointSocket made,
                                                              std::shared_ptr<DatagramProtocol> protocol);

template <class F>
concept MakesDatagramProtocols = std::invocable<F&> && std::derived_from<protocol_of_t<F>, DatagramProtocol> &&
                                 std::convertible_to<std::invoke_result_t<F&>, std::shared_ptr<protocol_of_t<F>>>;

// An endpoint that was made, and who speaks for us.
template <class P>
using Endpoint = std::pair<std::shared_ptr<DatagramTransport>, std::shared_ptr<P>>;

template <class F>
Coroutine<Endpoint<protocol_of_t<F>>> open_endpoint(EventLoop& loop, F factory, Coroutine<EndpointSocket> making) {
  EndpointSocket made = co_await std::move(making);
  std::shared_ptr<protocol_of_t<F>> protocol = factory();
  std::shared_ptr<DatagramTransport> transport = start_endpoint(loop, std::move(made), protocol);
  co_return Endpoint<protocol_of_t<F>>(std::move(transport), std::move(protocol));
}

}  // namespace detail
}  // namespace ouro
