// What the interfaces of transports and protocols do by themselves.
#include <ouro/io/transports.hpp>

#include <vector>

#include <ouro/io/protocols.hpp>

namespace ouro {

BaseProtocol::~BaseProtocol() = default;
void BaseProtocol::connection_lost(std::exception_ptr) {}
void BaseProtocol::pause_writing() {}
void BaseProtocol::resume_writing() {}

void detail::StreamProtocol::connection_made(Transport&) {}
bool detail::StreamProtocol::eof_received() { return false; }

void Protocol::data_received(std::span<const std::byte>) {}

void DatagramProtocol::connection_made(DatagramTransport&) {}
void DatagramProtocol::datagram_received(std::span<const std::byte>, const Address&) {}
void DatagramProtocol::error_received(std::exception_ptr) {}

BaseTransport::~BaseTransport() = default;

void WriteTransport::writelines(std::span<const std::string_view> pieces) {
  std::vector<std::span<const std::byte>> bytes;
  bytes.reserve(pieces.size());
  for (const std::string_view piece : pieces) bytes.push_back(std::as_bytes(std::span(piece)));
  writelines(std::span<const std::span<const std::byte>>(bytes));
}

}  // namespace ouro
