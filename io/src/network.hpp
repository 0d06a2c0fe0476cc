// What the connections and servers of one loop have in common: the list of them, and buffers that each uses for the
// time of a call.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <new>
#include <source_location>
#include <span>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <ouro/io/event_loop.hpp>
#include <ouro/runtime/detail/callback_node.hpp>
#include <ouro/runtime/detail/core.hpp>

namespace ouro::detail {

class DatagramEndpoint;
class Proactor;
class ServerState;
class SocketTransport;

// Chunks of what waits to be sent that may be used again: so many are kept at most. From malloc each would come anew
// out of the kernel in every turn of a busy loop: it returns what is free at the end of its heap.
template <std::size_t bytes_each, unsigned kept_max>
class ChunkCache {
 public:
  static constexpr std::size_t chunk_bytes = bytes_each;

  ChunkCache() = default;
  ~ChunkCache() {
    while (first_) ::operator delete(std::exchange(first_, first_->next));
  }
  ChunkCache(const ChunkCache&) = delete;

  // Throws: std::bad_alloc.
  void* take() {
    if (!first_) return ::operator new(chunk_bytes);
    --kept_;
    return std::exchange(first_, first_->next);
  }
  void give_back(void* chunk) noexcept {
    // AddressSanitizer is to see every use of what has been freed.
    if (OURO_ASAN || kept_ == kept_max) return ::operator delete(chunk);
    ++kept_;
    first_ = ::new (chunk) Free{first_};
  }

 private:
  struct Free {
    Free* next;
  };
  Free* first_ = nullptr;
  unsigned kept_ = 0;
};
using SmallChunks = ChunkCache<4 * 1024, 256>;
using LargeChunks = ChunkCache<16 * 1024 + 64, 96>;

class Network {
 public:
  Network(EventLoop& of, Proactor& on) noexcept : loop(of), proactor(on) {}
  // Ends them all, without a word to their protocols.
  ~Network();
  Network(const Network&) = delete;

  void link(SocketTransport& transport) noexcept;
  void unlink(SocketTransport& transport) noexcept;
  void link(DatagramEndpoint& endpoint) noexcept;
  void unlink(DatagramEndpoint& endpoint) noexcept;
  // The connections of a server that there are now.
  std::vector<std::shared_ptr<SocketTransport>> connections_of(const ServerState& server) const;

  // The server lives until it is let go of.
  void keep(std::shared_ptr<ServerState> server) { servers_.push_back(std::move(server)); }
  void let_go(const ServerState& server) noexcept;

  // Where what is received is put that no buffer of the kernel's choice was there for.
  std::span<std::byte> scratch();

  // What a transport writes while it calls its protocol, in small pieces: sent as one when the call returns.
  struct Cork {
    static constexpr std::size_t size = 16 * 1024;
    SocketTransport* owner = nullptr;
    std::size_t used = 0;
    std::unique_ptr<std::byte[]> data;
  };

  // What a protocol is being given, where the kernel put it.
  struct Given {
    const std::byte* begin = nullptr;
    std::size_t size = 0;
    std::uint16_t id = 0;

    bool has(std::span<const std::byte> data) const noexcept {
      return std::greater_equal<>()(data.data(), begin) && std::less_equal<>()(data.data() + data.size(), begin + size);
    }
  };

  EventLoop& loop;
  Proactor& proactor;
  Cork cork;
  Given given;
  std::size_t queued = 0;  // bytes of the chunks of all queues
  SmallChunks small_chunks;
  LargeChunks large_chunks;

 private:
  template <class T>
  static void link_before(T*& first, T& transport) noexcept;
  template <class T>
  static void unlink_from(T*& first, T& transport) noexcept;

  SocketTransport* transports_ = nullptr;
  DatagramEndpoint* endpoints_ = nullptr;
  std::vector<std::shared_ptr<ServerState>> servers_;
  std::unique_ptr<std::byte[]> scratch_;
};

// Calls f on the loop of `home` soon, or never if that is closed: what it would have been about is ended then. It
// touches nothing of the loop's but its state, which lives as long as any loop of its group.
// Threads: the group's. Throws: std::bad_alloc.
template <class F>
void call_at_home(LoopState& home, F&& f) {
  using Node = TypedCallbackNode<std::decay_t<F>>;
  CallbackNode* const node = Node::make(home, std::source_location::current(), true, std::forward<F>(f));
  if (!post_to(home, *node)) node->abandon();
}

// Removes the file of a unix socket that is no more: what an earlier server or endpoint left behind.
void remove_stale_file(const std::string& path) noexcept;

// The loop's, which is made when it is first asked for.
// Throws: RuntimeError for a loop without a ring.
Network& network_of(EventLoop& loop);

}  // namespace ouro::detail
