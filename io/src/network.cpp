#include "network.hpp"

#include <algorithm>

#include <ouro/io/event_loop.hpp>
#include <ouro/runtime/exceptions.hpp>

#include "proactor.hpp"
#include "server_state.hpp"
#include "socket_transport.hpp"

namespace ouro::detail {

namespace {

constexpr std::size_t scratch_bytes = 64 * 1024;

}  // namespace

Network::~Network() {
  while (transports_) transports_->end();
  for (const auto& server : servers_) server->end();
}

void Network::link(SocketTransport& transport) noexcept {
  transport.next_ = transports_;
  if (transports_) transports_->previous_ = &transport;
  transports_ = &transport;
}

void Network::unlink(SocketTransport& transport) noexcept {
  (transport.previous_ ? transport.previous_->next_ : transports_) = transport.next_;
  if (transport.next_) transport.next_->previous_ = transport.previous_;
  transport.next_ = transport.previous_ = nullptr;
}

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
