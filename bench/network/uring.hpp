// What the load and the limit of the network's benchmarks have in common: a ring with the best set-up, and buffers that
// it chooses from.
#pragma once

#include <liburing.h>
#include <sys/mman.h>
#include <sys/resource.h>

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace network {

[[noreturn]] inline void fail(const char* what, int error) {
  std::fprintf(stderr, "%s: %s\n", what, std::strerror(error));
  std::exit(EXIT_FAILURE);
}

inline void* pages(std::size_t bytes) {
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) fail("mmap", errno);
  return memory;
}

inline void allow_many_descriptors() {
  rlimit limit{};
  getrlimit(RLIMIT_NOFILE, &limit);
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
}

class Ring {
 public:
  Ring(unsigned buffers, std::size_t buffer_bytes) : count_(buffers), bytes_(buffer_bytes) {
    io_uring_params params{};
    params.flags = IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP;
    params.cq_entries = 16384;
    if (int error = io_uring_queue_init_params(2048, &ring_, &params)) fail("io_uring_setup", -error);
    io_uring_register_ring_fd(&ring_);
    memory_ = static_cast<std::byte*>(pages(count_ * bytes_));
    buffers_ = static_cast<io_uring_buf_ring*>(pages(count_ * sizeof(io_uring_buf)));
    io_uring_buf_reg reg{};
    reg.ring_addr = reinterpret_cast<std::uintptr_t>(buffers_);
    reg.ring_entries = count_;
    if (int error = io_uring_register_buf_ring(&ring_, &reg, 0)) fail("io_uring_register_buf_ring", -error);
    io_uring_buf_ring_init(buffers_);
    for (unsigned i = 0; i < count_; ++i) give_back(i);
    publish();
  }
  Ring(const Ring&) = delete;

  std::byte* buffer(unsigned id) const { return memory_ + id * bytes_; }
  std::size_t buffer_bytes() const { return bytes_; }
  // Seen by the kernel with publish().
  void give_back(unsigned id) {
    io_uring_buf_ring_add(buffers_, buffer(id), static_cast<unsigned>(bytes_), static_cast<unsigned short>(id),
                          io_uring_buf_ring_mask(count_), given_++);
  }
  void publish() {
    if (given_ != 0) io_uring_buf_ring_advance(buffers_, given_);
    given_ = 0;
  }

  void accept(int fd, std::uint64_t user_data) {
    io_uring_sqe* entry = free_entry();
    io_uring_prep_multishot_accept(entry, fd, nullptr, nullptr, 0);
    entry->user_data = user_data;
  }
  void receive(int fd, std::uint64_t user_data) {
    io_uring_sqe* entry = free_entry();
    io_uring_prep_recv_multishot(entry, fd, nullptr, 0, 0);
    entry->flags |= IOSQE_BUFFER_SELECT;
    entry->user_data = user_data;
  }
  void send(int fd, const void* data, std::size_t size, std::uint64_t user_data) {
    io_uring_sqe* entry = free_entry();
    io_uring_prep_send(entry, fd, data, size, MSG_WAITALL | MSG_NOSIGNAL);
    entry->user_data = user_data;
  }

  // Submits, waits for one completion, 100 ms at most, and gives all that are there to `take`.
  template <class Take>
  void turn(Take take) {
    publish();
    io_uring_cqe* cqe = nullptr;
    __kernel_timespec patience{0, 100'000'000};
    const int error = io_uring_submit_and_wait_timeout(&ring_, &cqe, 1, &patience, nullptr);
    if (error < 0 && error != -ETIME && error != -EINTR && error != -EAGAIN && error != -EBUSY) {
      fail("io_uring_enter", -error);
    }
    unsigned head = 0;
    unsigned taken = 0;
    io_uring_for_each_cqe(&ring_, head, cqe) {
      ++taken;
      take(*cqe);
    }
    io_uring_cq_advance(&ring_, taken);
  }

 private:
  io_uring_sqe* free_entry() {
    io_uring_sqe* entry;
    while (!(entry = io_uring_get_sqe(&ring_))) io_uring_submit(&ring_);
    return entry;
  }

  io_uring ring_{};
  io_uring_buf_ring* buffers_ = nullptr;
  std::byte* memory_ = nullptr;
  unsigned count_;
  std::size_t bytes_;
  int given_ = 0;
};

}  // namespace network
