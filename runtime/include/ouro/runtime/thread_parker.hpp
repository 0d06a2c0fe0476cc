// ThreadParker: a Parker that only other threads can wake, so that runtime runs, and is tested, without io.
#pragma once

#include <cstdint>

#include <ouro/runtime/clock.hpp>
#include <ouro/runtime/config.hpp>
#include <ouro/runtime/detail/atomic.hpp>
#include <ouro/runtime/parker.hpp>

namespace ouro {

// Sleeps on a futex until unpark() or the deadline.
class OURO_EXPORT ThreadParker final : public Parker {
 public:
  ThreadParker() noexcept = default;

  bool poll() override;
  void park(TimePoint deadline) override;
  void unpark() noexcept override;
  bool idle() const noexcept override { return true; }

 private:
  enum : std::uint32_t { empty, parked, notified };

  // empty: nobody sleeps, nothing came. parked: the owner sleeps or is about to; written by it alone. notified: an
  // unpark() that the owner has not taken in; written by any thread. The owner's exchanges acquire what the unparker's
  // exchange released, so that what was written before unpark() is seen after park().
  detail::Atomic<std::uint32_t> word_{empty};
};

}  // namespace ouro
