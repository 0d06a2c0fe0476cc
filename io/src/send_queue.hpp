// What a transport could not send at once, and the request that sends it.
//
// The bytes lie in chunks, which do not move: the kernel reads them while the request is in flight. Small writes fill
// up the last chunk, behind what the request has of it; large ones get several. What has just been received may stay
// where it is. One request at a time, of a few chunks: two could overtake each
// other. One that was made and has not reached the kernel takes along what is written meanwhile.
#pragma once

#include <sys/socket.h>
#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <span>

#include <ouro/io/detail/operation.hpp>

namespace ouro::detail {

class Network;
class Proactor;
class SocketTransport;

class SendQueue final : public Operation {
 public:
  SendQueue(SocketTransport& owner, Network& network) noexcept : owner_(owner), network_(network) {}
  ~SendQueue() { clear(); }

  bool empty() const noexcept { return bytes_ == 0; }
  std::size_t bytes() const noexcept { return bytes_; }

  // Throws: std::bad_alloc; nothing is queued then.
  void append(std::span<const std::byte> data);
  // The same, but the data are not copied, if they lie in the piece that a protocol of this loop is being given and not
  // too many such pieces wait to be sent. False if nothing was done.
  bool append_given(std::span<const std::byte> data);
  // Sends what there is; if the kernel has a request already, nothing happens. If the last time nothing could be sent
  // at once, because somebody has made the descriptor non-blocking, waits first until something can: that ends without
  // anything sent.
  // Requires: it is not empty. Throws: as Proactor::send_message.
  void start(Proactor& proactor, int fd);
  // Forgets all. Requires: it is not in flight.
  void clear() noexcept;

 private:
  static constexpr std::size_t parts_max = 16;
  static constexpr std::size_t split_max = 64 * 1024;     // what is larger lies in one chunk
  static constexpr std::size_t first_chunk_bytes = 1024;  // most need no more, and it comes from the pool of frames

  struct Chunk;

  void complete(int result, unsigned flags) noexcept override;
  void consume(std::size_t bytes) noexcept;
  void list_parts() noexcept;

  Chunk* make(std::size_t capacity);
  void free(Chunk* chunk) noexcept;
  void link(Chunk* chunk) noexcept;

  SocketTransport& owner_;
  Network& network_;
  Chunk* first_ = nullptr;
  Chunk* last_ = nullptr;
  std::size_t bytes_ = 0;
  bool polls_ = false;
  std::uint64_t made_at_ = 0;  // the request, in the Proactor's submissions()
  msghdr message_{};
  iovec parts_[parts_max];
};

}  // namespace ouro::detail
