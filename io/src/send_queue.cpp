#include "send_queue.hpp"

#include <poll.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <new>
#include <utility>

#include <ouro/runtime/detail/frame_pool.hpp>

#include "proactor.hpp"
#include "socket_transport.hpp"

namespace ouro::detail {

struct SendQueue::Chunk {
  Chunk* next;
  std::size_t begin;  // what has been sent
  std::size_t end;    // what has been written
  std::size_t capacity;

  static Chunk* make(std::size_t capacity) {
    return ::new (allocate_frame(sizeof(Chunk) + capacity)) Chunk{nullptr, 0, 0, capacity};
  }
  void free() noexcept { free_frame(this, sizeof(Chunk) + capacity); }
  std::byte* data() noexcept { return reinterpret_cast<std::byte*>(this + 1); }
};

void SendQueue::append(std::span<const std::byte> data) {
  if (last_ && last_->capacity - last_->end >= data.size()) {
    std::memcpy(last_->data() + last_->end, data.data(), data.size());
    last_->end += data.size();
  } else {
    const std::size_t usual = (first_ ? chunk_bytes : first_chunk_bytes) - sizeof(Chunk);
    const std::size_t capacity = data.size() <= usual ? usual : std::max(data.size(), chunk_bytes - sizeof(Chunk));
    Chunk* const chunk = Chunk::make(capacity);
    std::memcpy(chunk->data(), data.data(), data.size());
    chunk->end = data.size();
    (last_ ? last_->next : first_) = chunk;
    last_ = chunk;
  }
  bytes_ += data.size();
}

void SendQueue::start(Proactor& proactor, int fd) {
  if (in_flight()) {
    if (!polls_ && made_at_ == proactor.submissions()) list_parts();
    return;
  }
  if (OURO_UNLIKELY(polls_)) return proactor.poll_add(*this, fd, POLLOUT);
  list_parts();
  proactor.send_message(*this, fd, &message_, 0);
  made_at_ = proactor.submissions();
}

void SendQueue::list_parts() noexcept {
  std::size_t parts = 0;
  for (Chunk* chunk = first_; chunk && parts != parts_max; chunk = chunk->next) {
    parts_[parts++] = {.iov_base = chunk->data() + chunk->begin, .iov_len = chunk->end - chunk->begin};
  }
  message_.msg_iov = parts_;
  message_.msg_iovlen = parts;
}

void SendQueue::consume(std::size_t bytes) noexcept {
  bytes_ -= bytes;
  while (bytes != 0) {
    Chunk* const chunk = first_;
    const std::size_t here = std::min(bytes, chunk->end - chunk->begin);
    chunk->begin += here;
    bytes -= here;
    if (chunk->begin != chunk->end) return;
    first_ = chunk->next;
    if (!first_) last_ = nullptr;
    chunk->free();
  }
}

void SendQueue::clear() noexcept {
  while (first_) std::exchange(first_, first_->next)->free();
  last_ = nullptr;
  bytes_ = 0;
}

void SendQueue::complete(int result, unsigned) noexcept {
  if (OURO_UNLIKELY(polls_)) {
    polls_ = false;
    if (result > 0) result = 0;  // the events
  } else {
    polls_ = result == -EAGAIN;
  }
  if (result > 0) consume(static_cast<std::size_t>(result));
  owner_.sent(result < 0 ? -result : 0);
}

}  // namespace ouro::detail
