// The buffers that a loop's transports receive into. The kernel takes one when data has come, so a connection that is
// idle holds none.
//
// A buffer is the kernel's (in the ring that both share), or holds a piece that has been received and is in a list of
// its transport, until that gives it back. Transports pass pieces on in the turn in which they came, or copy them, so
// the kernel never waits for long; a connection that sends without end gets what there is, and no more. They are few
// enough to stay in the processor's cache, until a connection that holds none finds none: then they become twice as
// many. (1,000 connections that answer at once took 1.4 times the time with 128: most requests ended without one.)
//
// What is sent on as it came is not copied: its buffer is lent to the queue that sends it. Not more than half of them
// are, so those who do not take what they are sent stop nobody: from then on it is copied.
//
// Datagrams have buffers of their own, each for the largest that UDP has, with what the kernel says of it before: 4.25
// MiB of addresses once a loop has an endpoint, of which a page each is memory if the datagrams are small.
#pragma once

#include <sys/socket.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

namespace ouro::detail {

class Ring;

// `group_number`: by which the kernel knows them. `how_many_first`: of them the kernel has so many until grow().
template <unsigned short group_number, unsigned how_many_first, unsigned how_many, std::size_t bytes_each>
class BufferGroup {
 public:
  static constexpr unsigned short group = group_number;
  static constexpr unsigned count = how_many;
  static constexpr std::size_t size = bytes_each;
  static constexpr std::uint16_t none = 0xffff;

  // Throws: OSError.
  BufferGroup();
  ~BufferGroup();
  BufferGroup(const BufferGroup&) = delete;
  BufferGroup& operator=(const BufferGroup&) = delete;

  // Gives the kernel all that hold no piece, for this ring. False if it refuses.
  bool attach(Ring& ring) noexcept;

  // There were too few. What one call of the kernel says many times counts once.
  void grow(std::uint64_t call) noexcept;

  // Pieces in the order in which they came.
  struct List {
    std::uint16_t first = none;
    std::uint16_t last = none;
    bool empty() const noexcept { return first == none; }
  };
  void push(List& list, std::uint16_t id, std::size_t bytes) noexcept {
    pieces_[id] = {static_cast<std::uint32_t>(bytes), none, 1, false};
    (list.empty() ? list.first : pieces_[list.last].next) = id;
    list.last = id;
  }
  std::uint16_t pop(List& list) noexcept {
    const std::uint16_t id = list.first;
    list.first = pieces_[id].next;
    return id;
  }
  std::span<std::byte> piece(std::uint16_t id) const noexcept { return {memory_ + id * size, pieces_[id].bytes}; }
  // The buffer is the kernel's again.
  void give_back(std::uint16_t id) noexcept;

  // One more needs the piece, until it releases it. False if too many are lent.
  bool lend(std::uint16_t id) noexcept {
    Piece& piece = pieces_[id];
    if (!piece.lent) {
      if (lent_ >= lent_max()) return false;
      piece.lent = true;
      ++lent_;
    }
    ++piece.users;
    return true;
  }
  unsigned lent() const noexcept { return lent_; }
  unsigned lent_max() const noexcept { return used_ / 2; }
  // Whoever popped it, or borrowed it, needs it no more.
  void release(std::uint16_t id) noexcept {
    Piece& piece = pieces_[id];
    if (--piece.users != 0) return;
    if (piece.lent) --lent_;
    give_back(id);
  }

 private:
  struct Piece {
    std::uint32_t bytes;  // 0: the kernel's
    std::uint16_t next;
    std::uint16_t users;
    bool lent;
  };

  std::byte* memory_ = nullptr;  // of the buffers
  void* shared_ = nullptr;       // the ring of those that are the kernel's
  Piece pieces_[count] = {};
  unsigned used_ = how_many_first;
  std::uint64_t grown_at_ = ~std::uint64_t{0};
  unsigned lent_ = 0;
};

using ReceiveBuffers = BufferGroup<0, 128, 1024, 16 * 1024>;
using DatagramBuffers = BufferGroup<1, 64, 64, 68 * 1024>;
extern template class BufferGroup<0, 128, 1024, 16 * 1024>;
extern template class BufferGroup<1, 64, 64, 68 * 1024>;

// A datagram, where it lies. Lifetime: the buffer's.
struct ReceivedDatagram {
  std::span<const std::byte> data;
  const sockaddr* from;
  std::size_t from_bytes;
  bool truncated;
};

// So much room for the sender is before the data of each: what a multishot request is told.
inline constexpr std::size_t datagram_name_bytes = 112;

// What a piece of DatagramBuffers holds.
ReceivedDatagram datagram_in(std::span<const std::byte> piece) noexcept;

}  // namespace ouro::detail
