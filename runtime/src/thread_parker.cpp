#include <ouro/runtime/thread_parker.hpp>

#include <ouro/runtime/detail/futex.hpp>

namespace ouro {

bool ThreadParker::poll() {
  // A look without an exchange, because a spinning loop looks all the time: what it misses it finds the next time.
  return word_.load(std::memory_order_relaxed) == notified &&
         word_.exchange(empty, std::memory_order_acquire) == notified;  // pairs with the release in unpark()
}

void ThreadParker::park(TimePoint deadline) {
  std::uint32_t seen = empty;
  // On failure the word is `notified`: acquire, pairs with the release in unpark(). A success needs no order, but g++
  // 12 warns of a weaker one.
  if (word_.compare_exchange_strong(seen, parked, std::memory_order_acquire)) {
    while (word_.load(std::memory_order_relaxed) == parked && detail::futex_wait(word_, parked, deadline)) {
    }
  }
  word_.exchange(empty, std::memory_order_acquire);  // as in poll()
}

void ThreadParker::unpark() noexcept {
  if (word_.exchange(notified, std::memory_order_release) == parked) detail::futex_wake(word_, 1);
}

}  // namespace ouro
