// What a loop sleeps on. The seam between runtime/, which knows nothing of descriptors, and whatever wakes a loop: a
// futex (ThreadParker), an io_uring (io's Proactor), later epoll or a simulated machine.
#pragma once

#include <cstdint>

#include <ouro/runtime/clock.hpp>
#include <ouro/runtime/config.hpp>

namespace ouro {

class OURO_EXPORT Parker {
 public:
  virtual ~Parker() = default;

  // Hands to the system what has been prepared, and completes what has ended, without sleeping. Each completion marks
  // its operation done and makes its task ready; nothing of the user's runs here. Returns true if anything completed
  // or an unpark() was taken in. Cheap when there is nothing to do: a busy loop calls it every few dozen tasks, a
  // spinning one all the time.
  // The first call on a thread (and the first after the loop moved to another thread) sets up what belongs to it.
  // Throws: OSError (io) when the system refuses; the loop's run_* passes it on.
  virtual bool poll() = 0;

  // As poll(), but sleeps until something completes, until unpark() has been called since the last return from poll()
  // or park(), or until `deadline` (TimePoint::max(): no deadline). May return early for no reason.
  virtual void park(TimePoint deadline) = 0;

  // Makes the current or the next park() return. Latched: never lost, however early it comes; several may merge.
  // Threads: any; async-signal-safe.
  virtual void unpark() noexcept = 0;

  // How often it has called the system to submit, complete or sleep. Threads: any.
  virtual std::uint64_t enters() const noexcept { return 0; }

  // True if nothing is in flight that could ever complete: only unpark() or a deadline would end a park().
  virtual bool idle() const noexcept = 0;

 protected:
  Parker() = default;
  Parker(const Parker&) = delete;
  Parker& operator=(const Parker&) = delete;
};

}  // namespace ouro
