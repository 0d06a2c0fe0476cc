// Sockets, and what a coroutine awaits of them: EventLoop's sock_* functions give the awaiters below.
#pragma once

#include <sys/socket.h>
#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include <ouro/io/addresses.hpp>
#include <ouro/io/detail/io_wait.hpp>
#include <ouro/runtime/config.hpp>
#include <ouro/runtime/detail/atomic.hpp>

namespace ouro {
namespace detail {

class SockWait;

// A descriptor that a Socket and the operations on it share: the last one closes it. So its number is not another's
// while an operation may name it.
class OURO_EXPORT SharedDescriptor {
 public:
  SharedDescriptor() noexcept = default;
  // Throws: std::bad_alloc; the descriptor is closed then.
  explicit SharedDescriptor(int fd);
  SharedDescriptor(const SharedDescriptor& other) noexcept : shared_(other.shared_) {
    // Relaxed: whoever copies it has one.
    if (shared_) shared_->uses.fetch_add(1, std::memory_order_relaxed);
  }
  SharedDescriptor(SharedDescriptor&& other) noexcept : shared_(std::exchange(other.shared_, nullptr)) {}
  SharedDescriptor& operator=(SharedDescriptor other) noexcept {
    std::swap(shared_, other.shared_);
    return *this;
  }
  ~SharedDescriptor() {
    if (shared_) drop();
  }

  int get() const noexcept { return shared_ ? shared_->fd : -1; }
  // Nobody closes it any more.
  int release() noexcept;

 private:
  struct Shared {
    Atomic<std::uint32_t> uses;
    int fd;
  };
  void drop() noexcept;

  Shared* shared_ = nullptr;
};

}  // namespace detail

// A socket, closed when the object goes and no operation is in flight on it; move-only. It is in blocking mode, which
// only the members below notice that call the system at once: an awaited operation waits in the ring.
// Threads: one at a time.
class OURO_EXPORT Socket {
 public:
  // None: fileno() is -1.
  Socket() noexcept = default;
  // socket(2), with close-on-exec.
  // Throws: OSError.
  explicit Socket(int family, int type = SOCK_STREAM, int protocol = 0);
  Socket(Socket&&) noexcept = default;
  Socket& operator=(Socket&&) noexcept = default;

  // Takes a descriptor over, as it is.
  static Socket adopt(int fd);
  // A connected pair of unix sockets.
  // Throws: OSError.
  static std::pair<Socket, Socket> pair(int type = SOCK_STREAM);

  explicit operator bool() const noexcept { return fileno() >= 0; }
  int fileno() const noexcept { return descriptor_.get(); }
  // Gives the descriptor away without closing it. Requires: no operation is in flight on it.
  [[nodiscard]] int detach() noexcept { return std::exchange(descriptor_, {}).release(); }
  // Closes it: at once, or when the last operation in flight has ended, which it does not hasten. Leaves errno alone.
  void close() noexcept { descriptor_ = {}; }

  // Each Throws: OSError.
  int family() const;
  int type() const;
  void bind(const Address& address);
  void listen(int backlog = 128);
  Address getsockname() const;
  Address getpeername() const;
  int getsockopt(int level, int option) const;
  void setsockopt(int level, int option, int value);
  void shutdown(int how);

 private:
  friend class detail::SockWait;
  explicit Socket(detail::SharedDescriptor descriptor) noexcept : descriptor_(std::move(descriptor)) {}

  detail::SharedDescriptor descriptor_;
};

namespace detail {

class OURO_EXPORT SockWait : public IoWait {
 protected:
  SockWait(const char* name, const BaseEventLoop& loop, const Socket& socket, unsigned ready_mask) noexcept
      : IoWait(name, &loop, socket.fileno(), ready_mask), descriptor_(socket.descriptor_) {}
  SockWait(SockWait&& other) noexcept : IoWait(std::move(other)), descriptor_(std::move(other.descriptor_)) {}
  ~SockWait() = default;

  std::string object() const override;

 private:
  SharedDescriptor descriptor_;
};

class OURO_EXPORT SockAccept final : public SockWait {
 public:
  SockAccept(const BaseEventLoop& loop, const Socket& socket) noexcept;
  SockAccept(SockAccept&& other) noexcept : SockWait(std::move(other)) {}
  ~SockAccept();
  std::pair<Socket, Address> await_resume();

 private:
  void begin(Proactor& proactor) override;
  bool take(int result) noexcept override;
  sockaddr_storage address_;
  unsigned length_ = 0;
  int accepted_ = -1;
};

class OURO_EXPORT SockConnect final : public SockWait {
 public:
  SockConnect(const BaseEventLoop& loop, const Socket& socket, const Address& address) noexcept;
  SockConnect(SockConnect&& other) noexcept : SockWait(std::move(other)), address_(other.address_) {}
  ~SockConnect() { end(); }
  void await_resume();

 private:
  void begin(Proactor& proactor) override;
  int retry() noexcept override;
  std::string object() const override;
  Address address_;
};

class OURO_EXPORT SockReceiveInto final : public SockWait {
 public:
  SockReceiveInto(const BaseEventLoop& loop, const Socket& socket, std::span<std::byte> buffer) noexcept;
  SockReceiveInto(SockReceiveInto&& other) noexcept : SockWait(std::move(other)), buffer_(other.buffer_) {}
  ~SockReceiveInto() { end(); }
  std::size_t await_resume() { return static_cast<std::size_t>(resume()); }

 private:
  void begin(Proactor& proactor) override;
  std::span<std::byte> buffer_;
};

class OURO_EXPORT SockReceive final : public SockWait {
 public:
  SockReceive(const BaseEventLoop& loop, const Socket& socket, std::size_t bytes);
  SockReceive(SockReceive&& other) noexcept : SockWait(std::move(other)), data_(std::move(other.data_)) {}
  ~SockReceive() { end(); }
  std::string await_resume();

 private:
  void begin(Proactor& proactor) override;
  std::string data_;
};

// The datagram's data, and who sent it.
class OURO_EXPORT SockReceiveFromInto : public SockWait {
 public:
  SockReceiveFromInto(const BaseEventLoop& loop, const Socket& socket, std::span<std::byte> buffer) noexcept;
  SockReceiveFromInto(SockReceiveFromInto&& other) noexcept : SockWait(std::move(other)), buffer_(other.buffer_) {}
  ~SockReceiveFromInto() { end(); }
  std::pair<std::size_t, Address> await_resume();

 protected:
  void set_buffer(std::span<std::byte> buffer) noexcept { buffer_ = buffer; }

 private:
  void begin(Proactor& proactor) override;
  std::span<std::byte> buffer_;
  sockaddr_storage address_;
  iovec part_;
  msghdr message_;
};

class OURO_EXPORT SockReceiveFrom final : public SockReceiveFromInto {
 public:
  SockReceiveFrom(const BaseEventLoop& loop, const Socket& socket, std::size_t bytes);
  SockReceiveFrom(SockReceiveFrom&& other) noexcept;
  ~SockReceiveFrom() { end(); }
  std::pair<std::string, Address> await_resume();

 private:
  std::string data_;
};

class OURO_EXPORT SockSendAll final : public SockWait {
 public:
  SockSendAll(const BaseEventLoop& loop, const Socket& socket, std::span<const std::byte> data) noexcept;
  SockSendAll(SockSendAll&& other) noexcept : SockWait(std::move(other)), left_(other.left_) {}
  ~SockSendAll() { end(); }
  bool await_ready() const noexcept { return left_.empty(); }
  void await_resume() {
    if (started()) resume();
  }

 private:
  void begin(Proactor& proactor) override;
  bool take(int result) noexcept override;
  std::span<const std::byte> left_;
};

class OURO_EXPORT SockSendTo final : public SockWait {
 public:
  SockSendTo(const BaseEventLoop& loop, const Socket& socket, std::span<const std::byte> data,
             const Address& address) noexcept;
  SockSendTo(SockSendTo&& other) noexcept : SockWait(std::move(other)), data_(other.data_), address_(other.address_) {}
  ~SockSendTo() { end(); }
  std::size_t await_resume() { return static_cast<std::size_t>(resume()); }

 private:
  void begin(Proactor& proactor) override;
  std::string object() const override;
  std::span<const std::byte> data_;
  Address address_;
  iovec part_;
  msghdr message_;
};

}  // namespace detail
}  // namespace ouro
