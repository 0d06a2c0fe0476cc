#include <ouro/runtime/config.hpp>

#include <cstdio>
#include <cstdlib>

#include <ouro/runtime/clock.hpp>

namespace ouro {
namespace {

class Steady final : public Clock {
 public:
  TimePoint now() const noexcept override { return std::chrono::steady_clock::now(); }
};

// Never destroyed: threads of a default executor may read it while the process ends.
union Lasting {
  Steady clock;
  constexpr Lasting() noexcept : clock() {}
  constexpr ~Lasting() {}
};

constinit Lasting steady_clock;

}  // namespace

const Clock& Clock::steady() noexcept { return steady_clock.clock; }

namespace detail {

void assertion_failed(const char* condition, const char* file, int line) noexcept {
  std::fprintf(stderr, "ouro: %s:%d: assertion failed: %s\n", file, line, condition);
  std::abort();
}

}  // namespace detail
}  // namespace ouro
