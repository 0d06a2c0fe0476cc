// The buffers that a loop's transports receive into. The kernel takes one when data has come, so a connection that is
// idle holds none.
//
// A buffer is the kernel's (in the ring that both share), or holds a piece that has been received and is in a list of
// its transport, until that gives it back. Transports pass pieces on in the turn in which they came, or copy them, so
// the kernel never waits for long; a connection that sends without end gets what there is, and no more. They are as
// many as are ready in one turn of a busy loop, and few enough to stay in the processor's cache.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

namespace ouro::detail {

class Ring;

class ReceiveBuffers {
 public:
  static constexpr unsigned short group = 0;
  static constexpr unsigned count = 128;
  static constexpr std::size_t size = 16 * 1024;
  static constexpr std::uint16_t none = 0xffff;

  // Throws: OSError.
  ReceiveBuffers();
  ~ReceiveBuffers();
  ReceiveBuffers(const ReceiveBuffers&) = delete;
  ReceiveBuffers& operator=(const ReceiveBuffers&) = delete;

  // Gives the kernel all that hold no piece, for this ring. False if it refuses.
  bool attach(Ring& ring) noexcept;

  // Pieces in the order in which they came.
  struct List {
    std::uint16_t first = none;
    std::uint16_t last = none;
    bool empty() const noexcept { return first == none; }
  };
  void push(List& list, std::uint16_t id, std::size_t bytes) noexcept {
    pieces_[id] = {static_cast<std::uint32_t>(bytes), none};
    (list.empty() ? list.first : pieces_[list.last].next) = id;
    list.last = id;
  }
  std::uint16_t pop(List& list) noexcept {
    const std::uint16_t id = list.first;
    list.first = pieces_[id].next;
    return id;
  }
  std::span<std::byte> piece(std::uint16_t id) const noexcept { return {memory_ + id * size, pieces_[id].bytes}; }
  // The piece has been used: the buffer is the kernel's again.
  void give_back(std::uint16_t id) noexcept;

 private:
  struct Piece {
    std::uint32_t bytes;  // 0: the kernel's
    std::uint16_t next;
  };

  std::byte* memory_ = nullptr;  // of the buffers
  void* shared_ = nullptr;       // the ring of those that are the kernel's
  Piece pieces_[count] = {};
};

}  // namespace ouro::detail
