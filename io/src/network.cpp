#include "network.hpp"

#include <algorithm>

#include <ouro/io/event_loop.hpp>
#include <ouro/runtime/exceptions.hpp>

#include "datagram_endpoint.hpp"
#include "proactor.hpp"
#include "server_state.hpp"
#include "socket_transport.hpp"

namespace ouro::detail {

namespace {

constexpr std::size_t scratch_bytes = 64 * 1024;

}  // namespace

Network::~Network() {
  while (transports_) transports_->end();
  while (endpoints_) endpoints_->end();
  for (const auto& server : servers_) server->end();
}

template <class T>
void Network::link_before(T*& first, T& transport) noexcept {
  transport.next_ = first;
  if (first) first->previous_ = &transport;
  first = &transport;
}

template <class T>
void Network::unlink_from(T*& first, T& transport) noexcept {
  (transport.previous_ ? transport.previous_->next_ : first) = transport.next_;
  if (transport.next_) transport.next_->previous_ = transport.previous_;
  transport.next_ = transport.previous_ = nullptr;
}

void Network::link(SocketTransport& transport) noexcept { link_before(transports_, transport); }
void Network::unlink(SocketTransport& transport) noexcept { unlink_from(transports_, transport); }
void Network::link(DatagramEndpoint& endpoint) noexcept { link_before(endpoints_, endpoint); }
void Network::unlink(DatagramEndpoint& endpoint) noexcept { unlink_from(endpoints_, endpoint); }

std::vector<std::shared_ptr<SocketTransport>> Network::connections_of(const ServerState& server) const {
  std::vector<std::shared_ptr<SocketTransport>> connections;
  for (SocketTransport* transport = transports_; transport; transport = transport->next_) {
    if (transport->is_of(server)) connections.push_back(transport->shared_from_this());
  }
  return connections;
}

void Network::let_go(const ServerState& server) noexcept {
  const auto found =
      std::find_if(servers_.begin(), servers_.end(), [&](const auto& kept) { return kept.get() == &server; });
  if (found == servers_.end()) return;
  const std::shared_ptr<ServerState> last = std::move(*found);
  servers_.erase(found);
}

std::span<std::byte> Network::scratch() {
  if (!scratch_) scratch_ = std::make_unique_for_overwrite<std::byte[]>(scratch_bytes);
  return {scratch_.get(), scratch_bytes};
}

}  // namespace ouro::detail
