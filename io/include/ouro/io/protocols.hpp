// What a program derives from to speak over a transport: the callbacks of a connection.
//
//     connection_made → (data_received | buffer_updated)* → eof_received? → connection_lost
//
// The first and the last come exactly once each, and all on the transport's loop, one at a time. Between them
// pause_writing and resume_writing come in turn. What a callback throws goes to the exception handler: of
// pause_writing, resume_writing and connection_lost that is all; after any other the transport is aborted, and
// connection_lost gets the same exception.
//
//     connection_made → (datagram_received | error_received)* → connection_lost
//
// are those of a datagram endpoint. There only what connection_made throws ends it: no datagram shall.
//
// All callbacks of a connection see one context: a copy of that in which it was made, or its server.
#pragma once

#include <cstddef>
#include <cstdint>
#include <exception>
#include <span>

#include <ouro/io/addresses.hpp>
#include <ouro/runtime/config.hpp>

namespace ouro {

class DatagramTransport;
class Transport;

// What the protocols of all transports have. Each does nothing here.
class OURO_EXPORT BaseProtocol {
 public:
  BaseProtocol() noexcept = default;
  BaseProtocol(const BaseProtocol&) = default;
  BaseProtocol& operator=(const BaseProtocol&) = default;
  virtual ~BaseProtocol();

  // The connection is closed: nullptr after close(), abort() or the other side's end; else why.
  virtual void connection_lost(std::exception_ptr error);
  // More waits to be sent than the high-water mark allows: stop writing, if you can, until resume_writing().
  virtual void pause_writing();
  // No more than the low-water mark waits any longer.
  virtual void resume_writing();
};

namespace detail {

// A protocol of a Transport, in one of its two forms.
class OURO_EXPORT StreamProtocol : public BaseProtocol {
 public:
  enum class Form : std::uint8_t { received, buffered };
  Form form() const noexcept { return form_; }

  // Lifetime: the transport, until connection_lost() has returned; beyond that for who has a handle to it.
  virtual void connection_made(Transport& transport);
  // The other side will send no more. False: the transport closes itself; true: it can still be written to.
  virtual bool eof_received();

 private:
  explicit StreamProtocol(Form form) noexcept : form_(form) {}
  Form form_;

  template <Form>
  friend class ProtocolOf;
};

// Gives its form to one of the two classes below, and to no other.
template <StreamProtocol::Form own>
class ProtocolOf : public StreamProtocol {
 protected:
  ProtocolOf() noexcept : StreamProtocol(own) {}
};

}  // namespace detail

// A protocol that gets what was received as it came.
class OURO_EXPORT Protocol : public detail::ProtocolOf<detail::StreamProtocol::Form::received> {
 public:
  // Lifetime: the data, until it returns. They are not to be changed: what is written of them may be sent from there.
  virtual void data_received(std::span<const std::byte> data);
};

// A protocol that says where what is received is to go.
class OURO_EXPORT BufferedProtocol : public detail::ProtocolOf<detail::StreamProtocol::Form::buffered> {
 public:
  // A buffer for what comes next; `size_hint` bytes would do. An empty one is an error.
  virtual std::span<std::byte> get_buffer(std::size_t size_hint) = 0;
  // So many bytes of it have been written.
  virtual void buffer_updated(std::size_t bytes) = 0;
};

// A protocol that gets datagrams, each with its sender.
class OURO_EXPORT DatagramProtocol : public BaseProtocol {
 public:
  // Lifetime: the transport, until connection_lost() has returned; beyond that for who has a handle to it.
  virtual void connection_made(DatagramTransport& transport);
  // Empty datagrams come, too. A unix socket without a name has sent what comes from no address.
  // Lifetime: the data and the address, until it returns.
  virtual void datagram_received(std::span<const std::byte> data, const Address& from);
  // An OSError: one datagram could not be sent, or an earlier one did not arrive, as the other side says; or one that
  // came could not be received. It goes on. It comes once for each, and never inside sendto().
  virtual void error_received(std::exception_ptr error);
};

}  // namespace ouro
