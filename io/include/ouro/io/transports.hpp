// What a connection is to a program: something that can be written to and closed, and that calls a protocol.
#pragma once

#include <any>
#include <cstddef>
#include <initializer_list>
#include <memory>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include <ouro/io/addresses.hpp>
#include <ouro/io/protocols.hpp>
#include <ouro/runtime/config.hpp>

namespace ouro {

class EventLoop;

// From how many bytes on that wait to be sent a protocol is paused, and down to how many before it is resumed.
struct WriteBufferLimits {
  std::size_t low;
  std::size_t high;
};

// A transport belongs to its loop. Threads: the loop's. In a group those of all its loops: there write(), writelines(),
// write_eof(), close(), abort(), pause_reading() and resume_reading() are done on the transport's loop soon, in order.
// It lives until connection_lost() has returned, and for as long as somebody has a handle to it.
class OURO_EXPORT BaseTransport {
 public:
  virtual ~BaseTransport();
  BaseTransport(const BaseTransport&) = delete;
  BaseTransport& operator=(const BaseTransport&) = delete;

  // Receives no more, sends what waits to be sent, then closes; connection_lost() is called with nullptr, never before
  // this returns. Closing twice is harmless.
  virtual void close() = 0;
  // True from close(), abort() or the loss of the connection on. Threads: any.
  virtual bool is_closing() const noexcept = 0;

  // What is known of the connection under that name, "peername" and "sockname" for instance, each an Address, or
  // `otherwise` if there is nothing of this name and type. A name that was asked for once is remembered; one that was
  // not may be gone once the other side is.
  template <class T>
  T get_extra_info(std::string_view name, T otherwise = {}) const {
    std::any found = extra_info(name);
    T* const value = std::any_cast<T>(&found);
    return value ? std::move(*value) : std::move(otherwise);
  }

 protected:
  BaseTransport() noexcept = default;
  virtual std::any extra_info(std::string_view name) const = 0;
};

class OURO_EXPORT ReadTransport : public virtual BaseTransport {
 public:
  virtual bool is_reading() const noexcept = 0;
  // The protocol gets no data until resume_reading(); the other side will have to wait. Both may be repeated.
  virtual void pause_reading() = 0;
  virtual void resume_reading() = 0;
};

class OURO_EXPORT WriteTransport : public virtual BaseTransport {
 public:
  // Sends the data, or what cannot be sent now later on; never waits. What is written to a transport that is closing is
  // dropped; at the fifth time the exception handler hears of it.
  // Throws: RuntimeError after write_eof(); std::bad_alloc, and nothing of it is sent. Without memory for what has to
  // wait the transport is aborted instead, and connection_lost gets std::bad_alloc. Lifetime: the data, until it
  // returns.
  virtual void write(std::span<const std::byte> data) = 0;
  void write(std::string_view data) { write(std::as_bytes(std::span(data))); }
  // The same, but small pieces may go to the kernel with what else is written in this turn of the loop.
  virtual void write_soon(std::span<const std::byte> data) { write(data); }
  // As write(), with pieces, as one.
  virtual void writelines(std::span<const std::span<const std::byte>> pieces) = 0;
  void writelines(std::span<const std::string_view> pieces);
  void writelines(std::initializer_list<std::string_view> pieces) {
    writelines(std::span(pieces.begin(), pieces.size()));
  }

  // Tells the other side, behind what waits to be sent, that no more will come. Reading goes on.
  virtual void write_eof() = 0;
  virtual bool can_write_eof() const noexcept = 0;
  // Closes without sending what waits to be sent.
  virtual void abort() = 0;

  // How many bytes wait to be sent.
  virtual std::size_t get_write_buffer_size() const noexcept = 0;
  virtual WriteBufferLimits get_write_buffer_limits() const noexcept = 0;
  // 64 KiB and 16 KiB at first. Throws: ValueError if low is more than high.
  virtual void set_write_buffer_limits(WriteBufferLimits limits) = 0;
  // With a quarter of it for low.
  void set_write_buffer_limits(std::size_t high) { set_write_buffer_limits({.low = high / 4, .high = high}); }
};

// A connection that is a stream of bytes in both directions.
class OURO_EXPORT Transport : public ReadTransport, public WriteTransport {
 public:
  // Who gets the next data, and all that follows; nullptr once the connection is lost. connection_made() is not called.
  virtual void set_protocol(std::shared_ptr<detail::StreamProtocol> protocol) = 0;
  virtual std::shared_ptr<detail::StreamProtocol> get_protocol() const noexcept = 0;

  // A handle to it, which connection_made() is not given.
  virtual std::shared_ptr<Transport> share() = 0;
  // The loop that it belongs to. Threads: any.
  virtual EventLoop& get_loop() const noexcept = 0;
};

// An endpoint of datagrams. Threads: as BaseTransport says; in a group sendto(), close() and abort() are done on its
// loop soon, in order.
class OURO_EXPORT DatagramTransport : public BaseTransport {
 public:
  // Sends the data as one datagram, an empty one too: now, or if there is no room, later on; never waits. Without an
  // address it goes to the remote one of the endpoint. What is sent to a transport that is closing is dropped; at the
  // fifth time the exception handler hears of it. What the system refuses error_received() is told, soon.
  // Datagrams leave in order, so one to a unix socket whose queue is full holds up the others.
  // Throws: ValueError for an address that is not the remote one of an endpoint that has one, and for none (nullptr, or
  // an empty Address) where it has none; std::bad_alloc, and it is not sent.
  // Lifetime: the data and the address, until it returns.
  virtual void sendto(std::span<const std::byte> data, const Address* to = nullptr) = 0;
  void sendto(std::span<const std::byte> data, const Address& to) { sendto(data, &to); }
  void sendto(std::string_view data, const Address* to = nullptr) { sendto(std::as_bytes(std::span(data)), to); }
  void sendto(std::string_view data, const Address& to) { sendto(data, &to); }
  // Closes without sending what waits to be sent.
  virtual void abort() = 0;

  // How many bytes wait to be sent, with what each datagram takes beside its data.
  virtual std::size_t get_write_buffer_size() const noexcept = 0;
  virtual WriteBufferLimits get_write_buffer_limits() const noexcept = 0;
  // 64 KiB and 16 KiB at first. Throws: ValueError if low is more than high.
  virtual void set_write_buffer_limits(WriteBufferLimits limits) = 0;
  // With a quarter of it for low.
  void set_write_buffer_limits(std::size_t high) { set_write_buffer_limits({.low = high / 4, .high = high}); }

  // Who gets the next datagram, and all that follows; nullptr once it is closed. connection_made() is not called.
  virtual void set_protocol(std::shared_ptr<DatagramProtocol> protocol) = 0;
  virtual std::shared_ptr<DatagramProtocol> get_protocol() const noexcept = 0;

  // Where it is, and to whom it is connected: none if it is not. Threads: any of the loop's group.
  Address getsockname() const { return get_extra_info<Address>("sockname"); }
  Address getpeername() const { return get_extra_info<Address>("peername"); }

  // A handle to it, which connection_made() is not given.
  virtual std::shared_ptr<DatagramTransport> share() = 0;
  // The loop that it belongs to. Threads: any.
  virtual EventLoop& get_loop() const noexcept = 0;
};

}  // namespace ouro
