#include "send_queue.hpp"

#include <poll.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <new>
#include <utility>

#include <ouro/runtime/detail/frame_pool.hpp>

#include "network.hpp"
#include "proactor.hpp"
#include "socket_transport.hpp"

namespace ouro::detail {

struct SendQueue::Chunk {
  Chunk* next;
  std::size_t begin;  // what has been sent
  std::size_t end;    // what has been written
  std::size_t capacity;
  std::byte* data;      // behind this, or in a piece
  std::uint16_t piece;  // or none
};

SendQueue::Chunk* SendQueue::make(std::size_t capacity) {
  const std::size_t bytes = sizeof(Chunk) + capacity;
  void* const memory = bytes == SmallChunks::chunk_bytes   ? network_.small_chunks.take()
                       : bytes == LargeChunks::chunk_bytes ? network_.large_chunks.take()
                                                           : allocate_frame(bytes);
  Chunk* const chunk = ::new (memory) Chunk{nullptr, 0, 0, capacity, nullptr, ReceiveBuffers::none};
  chunk->data = reinterpret_cast<std::byte*>(chunk + 1);
  network_.queued += capacity;
  return chunk;
}

void SendQueue::free(Chunk* chunk) noexcept {
  if (chunk->piece != ReceiveBuffers::none) {
    network_.proactor.buffers().release(chunk->piece);
    return free_frame(chunk, sizeof(Chunk));
  }
  network_.queued -= chunk->capacity;
  const std::size_t bytes = sizeof(Chunk) + chunk->capacity;
  if (bytes == SmallChunks::chunk_bytes) return network_.small_chunks.give_back(chunk);
  if (bytes == LargeChunks::chunk_bytes) return network_.large_chunks.give_back(chunk);
  free_frame(chunk, bytes);
}

void SendQueue::link(Chunk* chunk) noexcept {
  (last_ ? last_->next : first_) = chunk;
  last_ = chunk;
}

void SendQueue::append(std::span<const std::byte> data) {
  constexpr std::size_t small = SmallChunks::chunk_bytes - sizeof(Chunk);
  constexpr std::size_t large = LargeChunks::chunk_bytes - sizeof(Chunk);
  if (last_ && last_->capacity - last_->end >= data.size()) {
    std::memcpy(last_->data + last_->end, data.data(), data.size());
    last_->end += data.size();
    bytes_ += data.size();
    return;
  }
  // All memory first.
  Chunk* const before = last_;
  const std::size_t usual = first_ ? small : first_chunk_bytes - sizeof(Chunk);
  const std::size_t capacity = data.size() <= usual       ? usual
                               : data.size() <= small     ? small
                               : data.size() <= split_max ? large
                                                          : data.size();
  try {
    for (std::size_t room = 0; room < data.size(); room += capacity) link(make(capacity));
  } catch (...) {
    Chunk* made = before ? std::exchange(before->next, nullptr) : std::exchange(first_, nullptr);
    last_ = before;
    while (made) free(std::exchange(made, made->next));
    throw;
  }
  bytes_ += data.size();
  for (Chunk* chunk = before ? before->next : first_; chunk; chunk = chunk->next) {
    chunk->end = std::min(data.size(), capacity);
    std::memcpy(chunk->data, data.data(), chunk->end);
    data = data.subspan(chunk->end);
  }
}

bool SendQueue::append_given(std::span<const std::byte> data) {
  const Network::Given& given = network_.given;
  if (!given.has(data)) return false;
  void* const memory = allocate_frame(sizeof(Chunk));
  if (!network_.proactor.buffers().lend(given.id)) {
    free_frame(memory, sizeof(Chunk));
    return false;
  }
  auto* const there = const_cast<std::byte*>(data.data());
  link(::new (memory) Chunk{nullptr, 0, data.size(), data.size(), there, given.id});
  bytes_ += data.size();
  return true;
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
    parts_[parts++] = {.iov_base = chunk->data + chunk->begin, .iov_len = chunk->end - chunk->begin};
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
    free(chunk);
  }
}

void SendQueue::clear() noexcept {
  while (first_) free(std::exchange(first_, first_->next));
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
