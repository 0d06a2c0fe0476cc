// Time as the loops see it. Nobody else in the project names a clock, so that a test, or a simulated machine, can put
// its own in place.
#pragma once

#include <chrono>
#include <cstdint>
#include <type_traits>

#include <ouro/runtime/config.hpp>

namespace ouro {

using Duration = std::chrono::nanoseconds;
using TimePoint = std::chrono::time_point<std::chrono::steady_clock, Duration>;

// What a loop reads its time from.
class OURO_EXPORT Clock {
 public:
  virtual ~Clock() = default;

  // The time now; never goes back.
  // Threads: any.
  virtual TimePoint now() const noexcept = 0;

  // The machine's monotonic clock.
  static const Clock& steady() noexcept;
};

namespace detail {

// Adds without overflow: what lies beyond the end of time is TimePoint::max(), "never".
inline TimePoint saturating_add(TimePoint base, Duration delay) noexcept {
  Duration::rep sum = 0;
  if (__builtin_add_overflow(base.time_since_epoch().count(), delay.count(), &sum)) {
    return delay.count() > 0 ? TimePoint::max() : TimePoint::min();
  }
  return TimePoint(Duration(sum));
}

// Converts any duration to nanoseconds; saturates, and a floating NaN is refused by the caller beforehand.
template <class Rep, class Period>
constexpr Duration saturating_duration(std::chrono::duration<Rep, Period> delay) noexcept {
  if constexpr (std::is_integral_v<Rep> && Period::den <= std::nano::den && std::nano::den % Period::den == 0) {
    constexpr std::intmax_t factor = std::nano::den / Period::den;
    Duration::rep count = 0;
    if (!__builtin_mul_overflow(delay.count(), factor * Period::num, &count)) return Duration(count);
    return delay.count() > 0 ? Duration::max() : Duration::min();
  }
  using Wide = std::chrono::duration<long double, std::nano>;
  const long double wide = std::chrono::duration_cast<Wide>(delay).count();
  if (wide >= static_cast<long double>(Duration::max().count())) return Duration::max();
  if (wide <= static_cast<long double>(Duration::min().count())) return Duration::min();
  return std::chrono::duration_cast<Duration>(delay);
}

}  // namespace detail
}  // namespace ouro
