// What ThreadSanitizer cannot see of exceptions: libstdc++ counts the references of an exception with atomics, in a
// library that the sanitizer does not instrument. One thread reads an exception in its catch and lets go of it, another
// one drops the last reference and destroys it: correct, and reported as a race. Clang's builds with
// OURO_SANITIZE=thread, and no others, put these two functions before the C++ library's; each is to the sanitizer what
// the decrement in it is: a release and an acquire. One lock holds the two and the decrement together, so that who
// destroys has seen all others. An exception whose destructor waits for another thread's catch would hang there.
#include <dlfcn.h>
#include <sched.h>

#include <exception>

#include <ouro/runtime/config.hpp>

#if OURO_TSAN && defined(__clang__)

// Plain memory to the sanitizer, or the lock would order what the exceptions themselves do not.
#define OURO_UNSEEN __attribute__((disable_sanitizer_instrumentation, noinline))

extern "C" {
void __tsan_acquire(void* address);
void __tsan_release(void* address);
__attribute__((visibility("default"))) void __cxa_end_catch();
__attribute__((visibility("default"))) void _ZNSt15__exception_ptr13exception_ptr10_M_releaseEv(void** self);
}

namespace {

using EndCatch = void();
using Release = void(void**);

int locked = 0;
// Of this thread: destroying an exception runs its destructor, which may let go of another one.
thread_local int depth = 0;

struct Lock {
  OURO_UNSEEN Lock() noexcept {
    if (depth++ != 0) return;
    while (__atomic_exchange_n(&locked, 1, __ATOMIC_ACQUIRE) != 0) sched_yield();
  }
  OURO_UNSEEN ~Lock() {
    if (--depth == 0) __atomic_store_n(&locked, 0, __ATOMIC_RELEASE);
  }
};

// The C++ library's own. Looked up anew each time: a static would be guarded by what the sanitizer sees.
template <class F>
F* real(const char* name) noexcept {
  return reinterpret_cast<F*>(dlsym(RTLD_NEXT, name));
}

void meet(void* exception) noexcept {
  __tsan_release(exception);
  __tsan_acquire(exception);
}

}  // namespace

void _ZNSt15__exception_ptr13exception_ptr10_M_releaseEv(void** self) {
  auto* const release = real<Release>("_ZNSt15__exception_ptr13exception_ptr10_M_releaseEv");
  const Lock lock;
  if (*self != nullptr) meet(*self);
  release(self);
}

void __cxa_end_catch() {
  auto* const end = real<EndCatch>("__cxa_end_catch");
  const Lock lock;
  std::current_exception() = nullptr;  // lets go of what it returned: by way of the function above
  end();
}

#endif
