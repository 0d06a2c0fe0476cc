// How the socket of a datagram endpoint is made: the options are checked, names looked up, and of the pairs of a local
// and a remote address that fit together the first is taken with which it can be bound and connected.
#include <ouro/io/datagrams.hpp>

#include <netdb.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <exception>
#include <utility>
#include <vector>

#include <ouro/io/errors.hpp>
#include <ouro/io/event_loop.hpp>
#include <ouro/io/resolver.hpp>
#include <ouro/runtime/detail/context_state.hpp>
#include <ouro/runtime/exceptions.hpp>

#include "datagram_endpoint.hpp"
#include "network.hpp"

namespace ouro::detail {

namespace {

using Form = EndpointName::Form;

// Both ends of a socket to be made; no address where none was asked for.
struct Ends {
  int family;
  int protocol;
  Address local = {};
  Address remote = {};
};

void check_family(const EndpointName& name, int family) {
  const bool is_path = name.form() == Form::path;
  const bool is_unix = is_path || (name.form() == Form::address && name.address().is_unix());
  if (name.form() == Form::none || family == 0 || is_unix == (family == AF_UNIX)) return;
  if (is_unix) throw ValueError("the path of a unix socket was given, and the family of another");
  throw ValueError("for the family AF_UNIX a path was expected");
}

// AF_UNIX, too, if one of the two says so.
int family_of(const DatagramOptions& options) {
  if (options.family != 0) return options.family;
  for (const EndpointName* name : {&options.local, &options.remote}) {
    if (name->form() == Form::path || (name->form() == Form::address && name->address().is_unix())) return AF_UNIX;
  }
  return 0;
}

Address unix_address(const EndpointName& name, const std::string& text) {
  switch (name.form()) {
    case Form::none:
      return {};
    case Form::path:
      return Address::unix_path(text);
    default:
      return name.address();
  }
}

Coroutine<std::vector<AddressInfo>> addresses_of(EventLoop& loop, const EndpointName& name, const std::string& host,
                                                 AddressInfoOptions wanted) {
  std::vector<AddressInfo> found;
  if (name.form() == Form::address) {
    AddressInfo info;
    info.family = name.address().family();
    info.protocol = wanted.protocol;
    info.address = name.address();
    if (wanted.family == 0 || wanted.family == info.family) found.push_back(std::move(info));
  } else if (name.form() == Form::host) {
    found = co_await look_up(loop, host, name.port(), wanted);
  }
  co_return found;
}

// The first address of each family, and protocol: an Address says nothing of that, a name that was looked up does.
void join(std::vector<Ends>& all, const std::vector<AddressInfo>& infos, Address Ends::* end) {
  for (const AddressInfo& info : infos) {
    const auto same = [&info](const Ends& known) {
      const bool any = known.protocol == 0 || info.protocol == 0;
      return known.family == info.family && (any || known.protocol == info.protocol);
    };
    auto at = std::find_if(all.begin(), all.end(), same);
    if (at == all.end()) at = all.insert(at, Ends{info.family, info.protocol});
    if (at->protocol == 0) at->protocol = info.protocol;
    if (!((*at).*end)) (*at).*end = info.address;
  }
}

Coroutine<std::vector<Ends>> internet_ends(EventLoop& loop, EndpointPlan& plan) {
  const DatagramOptions& options = plan.options;
  AddressInfoOptions wanted;
  wanted.family = options.family;
  wanted.type = SOCK_DGRAM;
  wanted.protocol = options.proto;
  std::vector<Ends> all;
  wanted.flags = options.flags | AI_PASSIVE;  // where the host is empty
  const std::vector<AddressInfo> local = co_await addresses_of(loop, options.local, plan.local_text, wanted);
  wanted.flags = options.flags;
  const std::vector<AddressInfo> remote = co_await addresses_of(loop, options.remote, plan.remote_text, wanted);
  join(all, local, &Ends::local);
  join(all, remote, &Ends::remote);
  const auto lacks = [&options](const Ends& ends) {
    return (options.local.form() != Form::none && !ends.local) || (options.remote.form() != Form::none && !ends.remote);
  };
  all.erase(std::remove_if(all.begin(), all.end(), lacks), all.end());
  if (all.empty()) throw ValueError("can not get address information: the two addresses have no family in common");
  co_return all;
}

void connect_to(const Socket& socket, const Address& address) {
  if (::connect(socket.fileno(), address.data(), static_cast<socklen_t>(address.size())) == 0) return;
  throw_os_error(errno, "connect", address.str());
}

// The kernel gives a port to who sends first. So that it can be told from the beginning, it is asked for one now.
void take_port(Socket& socket) {
  const Address name = socket.getsockname();
  if (socket.type() != SOCK_DGRAM || name.port() != 0) return;
  if (name.is_ipv4() || name.is_ipv6()) socket.bind(name);
}

EndpointSocket socket_between(const Ends& ends, const DatagramOptions& options) {
  EndpointSocket made(Socket(ends.family, SOCK_DGRAM, ends.protocol));
  if (options.reuse_port) made.socket.setsockopt(SOL_SOCKET, SO_REUSEPORT, 1);
  if (options.allow_broadcast) made.socket.setsockopt(SOL_SOCKET, SO_BROADCAST, 1);
  if (ends.local) made.socket.bind(ends.local);
  if (ends.remote && options.allow_broadcast) {
    made.usual = ends.remote;
  } else if (ends.remote) {
    connect_to(made.socket, ends.remote);
  }
  take_port(made.socket);
  return made;
}

}  // namespace

Coroutine<EndpointSocket> make_endpoint_socket(EventLoop& loop, EndpointPlan plan) {
  const DatagramOptions& options = plan.options;
  const bool anywhere = options.local.form() == Form::none && options.remote.form() == Form::none;
  if (anywhere && options.family == 0) {
    throw ValueError("unexpected address family: an endpoint needs a local or a remote address, or a family");
  }
  const int family = family_of(options);
  check_family(options.local, family);
  check_family(options.remote, family);
  std::vector<Ends> all;
  if (anywhere) {
    all.push_back(Ends{family, options.proto});
  } else if (family == AF_UNIX) {
    all.push_back(Ends{family, options.proto, unix_address(options.local, plan.local_text),
                       unix_address(options.remote, plan.remote_text)});
    remove_stale_file(all.front().local.path());
  } else {
    all = co_await internet_ends(loop, plan);
  }
  std::exception_ptr first_error;
  for (const Ends& ends : all) {
    try {
      co_return socket_between(ends, options);
    } catch (const OSError&) {
      if (!first_error) first_error = std::current_exception();
    }
  }
  std::rethrow_exception(first_error);
}

Coroutine<EndpointSocket> use_endpoint_socket(Socket socket) {
  if (!socket) throw ValueError("a socket was expected, and this one is closed");
  const int type = socket.type();
  if (type != SOCK_DGRAM && type != SOCK_RAW) throw ValueError("A datagram socket was expected, got another type");
  take_port(socket);
  co_return EndpointSocket(std::move(socket));
}

std::shared_ptr<DatagramTransport> start_endpoint(EventLoop& loop, EndpointSocket made,
                                                  std::shared_ptr<DatagramProtocol> protocol) {
  if (!protocol) throw ValueError("the protocol factory gave no protocol");
  CellRef context;
  if (OURO_UNLIKELY(contexts_in_use())) context = CellRef(ContextCell::make(current_map()));
  auto endpoint =
      std::make_shared<DatagramEndpoint>(network_of(loop), std::move(made), std::move(protocol), std::move(context));
  endpoint->begin();
  return endpoint;
}

}  // namespace ouro::detail
