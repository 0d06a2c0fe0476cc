// What every other header needs first: the version, the export macro, the assertion, and the one switch that depends on
// the compiler. The only header with a #define.
#pragma once

#define OURO_VERSION_MAJOR 0
#define OURO_VERSION_MINOR 1
#define OURO_VERSION_PATCH 0

#define OURO_EXPORT __attribute__((visibility("default")))
#define OURO_NOINLINE __attribute__((noinline))
// For what is shorter than a call, where a large translation unit makes the compiler save on it.
#define OURO_INLINE __attribute__((always_inline))
#define OURO_LIKELY(x) __builtin_expect(static_cast<bool>(x), 1)
#define OURO_UNLIKELY(x) __builtin_expect(static_cast<bool>(x), 0)

// An internal invariant. Checked in builds without NDEBUG; a failure is a bug of the library and aborts with its place.
#ifdef NDEBUG
#define OURO_ASSERT(condition) static_cast<void>(0)
#else
#define OURO_ASSERT(condition) \
  (OURO_LIKELY(condition) ? static_cast<void>(0) : ::ouro::detail::assertion_failed(#condition, __FILE__, __LINE__))
#endif

// Symmetric transfer must be a tail call, or a loop over a million awaits overflows the stack. clang makes it one in
// every mode. g++ does so at -O2 and above, without AddressSanitizer and ThreadSanitizer, and tells a header none of
// that; so the CMake target and the pkg-config file stay silent for g++ unless the build type is known to optimise, and
// the default is the trampoline (+2.4 ns an await, right everywhere).
#if defined(__clang__)
#define OURO_TAIL_CALLS 1
#elif defined(OURO_SYMMETRIC_TRANSFER) && OURO_SYMMETRIC_TRANSFER && defined(__OPTIMIZE__) && \
    !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define OURO_TAIL_CALLS 1
#else
#define OURO_TAIL_CALLS 0
#endif

// Translation units that differ in the switch must not share the templates that depend on it: these live in an inline
// namespace that names it. A coroutine of the one kind may await one of the other: whoever drives looks at the slot.
#if OURO_TAIL_CALLS
#define OURO_TRANSFER_NAMESPACE inline namespace symmetric
#else
#define OURO_TRANSFER_NAMESPACE inline namespace trampoline
#endif

#if defined(__SANITIZE_ADDRESS__)
#define OURO_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define OURO_ASAN 1
#endif
#endif
#ifndef OURO_ASAN
#define OURO_ASAN 0
#endif

#if defined(__SANITIZE_THREAD__)
#define OURO_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define OURO_TSAN 1
#endif
#endif
#ifndef OURO_TSAN
#define OURO_TSAN 0
#endif

namespace ouro::detail {

// Prints the failed condition and its place to stderr, then aborts.
[[noreturn]] OURO_EXPORT void assertion_failed(const char* condition, const char* file, int line) noexcept;

}  // namespace ouro::detail
