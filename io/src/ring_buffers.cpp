#include "ring_buffers.hpp"

#include <liburing.h>
#include <sys/mman.h>

#include <cerrno>
#include <new>

#include <ouro/io/errors.hpp>

#include "ring.hpp"

namespace ouro::detail {

namespace {

constexpr std::size_t shared_bytes = ReceiveBuffers::count * sizeof(io_uring_buf);

void* map(std::size_t bytes) {
  void* memory = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) throw_os_error(errno, "mmap", "(buffers to receive into)");
  return memory;
}

}  // namespace

ReceiveBuffers::ReceiveBuffers() {
  shared_ = map(shared_bytes);
  try {
    memory_ = static_cast<std::byte*>(map(count * size));
  } catch (...) {
    ::munmap(shared_, shared_bytes);
    throw;
  }
}

ReceiveBuffers::~ReceiveBuffers() {
  ::munmap(shared_, shared_bytes);
  ::munmap(memory_, count * size);
}

bool ReceiveBuffers::attach(Ring& ring) noexcept {
  ::io_uring_buf_ring_init(static_cast<io_uring_buf_ring*>(shared_));
  if (!ring.register_buffers(shared_, count, group)) return false;
  for (unsigned id = 0; id < count; ++id) {
    if (pieces_[id].bytes == 0) give_back(static_cast<std::uint16_t>(id));
  }
  return true;
}

void ReceiveBuffers::give_back(std::uint16_t id) noexcept {
  pieces_[id] = {};
  auto* shared = static_cast<io_uring_buf_ring*>(shared_);
  ::io_uring_buf_ring_add(shared, memory_ + id * size, size, id, ::io_uring_buf_ring_mask(count), 0);
  ::io_uring_buf_ring_advance(shared, 1);
}

}  // namespace ouro::detail
