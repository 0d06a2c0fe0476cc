#include "ring_buffers.hpp"

#include <liburing.h>
#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <new>
#include <utility>

#include <ouro/io/errors.hpp>

#include "ring.hpp"

namespace ouro::detail {

namespace {

void* map(std::size_t bytes) {
  void* memory = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) throw_os_error(errno, "mmap", "(buffers to receive into)");
  return memory;
}

// What a UDP datagram can have, behind what the kernel writes before it.
constexpr std::size_t largest_datagram = 65'535 - 8;
static_assert(DatagramBuffers::size >= sizeof(io_uring_recvmsg_out) + datagram_name_bytes + largest_datagram);

}  // namespace

template <unsigned short group_number, unsigned how_many_first, unsigned how_many, std::size_t bytes_each>
BufferGroup<group_number, how_many_first, how_many, bytes_each>::BufferGroup() {
  shared_ = map(count * sizeof(io_uring_buf));
  try {
    memory_ = static_cast<std::byte*>(map(count * size));
  } catch (...) {
    ::munmap(shared_, count * sizeof(io_uring_buf));
    throw;
  }
}

template <unsigned short group_number, unsigned how_many_first, unsigned how_many, std::size_t bytes_each>
BufferGroup<group_number, how_many_first, how_many, bytes_each>::~BufferGroup() {
  ::munmap(shared_, count * sizeof(io_uring_buf));
  ::munmap(memory_, count * size);
}

template <unsigned short group_number, unsigned how_many_first, unsigned how_many, std::size_t bytes_each>
bool BufferGroup<group_number, how_many_first, how_many, bytes_each>::attach(Ring& ring) noexcept {
  ::io_uring_buf_ring_init(static_cast<io_uring_buf_ring*>(shared_));
  if (!ring.register_buffers(shared_, count, group)) return false;
  for (unsigned id = 0; id < used_; ++id) {
    if (pieces_[id].bytes == 0) give_back(static_cast<std::uint16_t>(id));
  }
  return true;
}

template <unsigned short group_number, unsigned how_many_first, unsigned how_many, std::size_t bytes_each>
void BufferGroup<group_number, how_many_first, how_many, bytes_each>::give_back(std::uint16_t id) noexcept {
  pieces_[id] = {};
  auto* shared = static_cast<io_uring_buf_ring*>(shared_);
  ::io_uring_buf_ring_add(shared, memory_ + id * size, size, id, ::io_uring_buf_ring_mask(count), 0);
  ::io_uring_buf_ring_advance(shared, 1);
}

template <unsigned short group_number, unsigned how_many_first, unsigned how_many, std::size_t bytes_each>
void BufferGroup<group_number, how_many_first, how_many, bytes_each>::grow(std::uint64_t call) noexcept {
  if (std::exchange(grown_at_, call) == call) return;
  const unsigned more = std::min(2 * used_, count);
  while (used_ < more) give_back(static_cast<std::uint16_t>(used_++));
}

template class BufferGroup<0, 128, 1024, 16 * 1024>;
template class BufferGroup<1, 64, 64, 68 * 1024>;

ReceivedDatagram datagram_in(std::span<const std::byte> piece) noexcept {
  io_uring_recvmsg_out about;
  std::memcpy(&about, piece.data(), sizeof about);
  const std::span<const std::byte> name = piece.subspan(sizeof about);
  return {.data = name.subspan(datagram_name_bytes),
          .from = reinterpret_cast<const sockaddr*>(name.data()),
          .from_bytes = std::min<std::size_t>(about.namelen, datagram_name_bytes),
          .truncated = (about.flags & MSG_TRUNC) != 0};
}

}  // namespace ouro::detail
