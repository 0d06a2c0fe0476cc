#include <ouro/runtime/config.hpp>

#include <cstdio>
#include <cstdlib>

#include <ouro/runtime/clock.hpp>

namespace ouro {

const Clock& Clock::steady() noexcept {
  class Steady final : public Clock {
   public:
    TimePoint now() const noexcept override { return std::chrono::steady_clock::now(); }
  };
  static const Steady clock;
  return clock;
}

namespace detail {

void assertion_failed(const char* condition, const char* file, int line) noexcept {
  std::fprintf(stderr, "ouro: %s:%d: assertion failed: %s\n", file, line, condition);
  std::abort();
}

}  // namespace detail
}  // namespace ouro
