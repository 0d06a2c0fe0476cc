// What takes the place of the system while a program runs under the checker: threads, mutexes, sched_yield, memory, the
// clock, the library's futex and frames. Outside of a program each does what the original does.
//
// The functions of the C library are replaced by functions of the same names in the test's executable, which the
// linker prefers; the originals are found behind them. The library's barrier.cpp, config.cpp, frame_pool.cpp,
// futex.cpp and spin_lock.cpp are not linked: what they define is here. Frames come from the program's heap, each for
// itself, so that a use after free is seen (as the pool does under AddressSanitizer). A reading of the clock is an hour
// later than the last one of its thread, so that everything that spins for a time spins once.
#include <dlfcn.h>
#include <pthread.h>
#include <signal.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>

#include <ouro/runtime/clock.hpp>
#include <ouro/runtime/config.hpp>
#include <ouro/runtime/detail/frame_pool.hpp>
#include <ouro/runtime/detail/futex.hpp>
#include <ouro/runtime/detail/spin_lock.hpp>

#include "barrier.hpp"
#include "machine.hpp"

namespace {

using ouro::model::active;
using ouro::model::Inside;
using ouro::model::machine;

template <class Function>
Function* original(const char* name) noexcept {
  return reinterpret_cast<Function*>(dlsym(RTLD_NEXT, name));
}

void* allocate(std::size_t bytes, std::size_t alignment) {
  if (active) {
    const Inside inside;
    if (!machine().warming_up) return machine().shadow.allocate(bytes, alignment);
  }
  void* memory = alignment > 16 ? std::aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment)
                                : std::malloc(bytes == 0 ? 1 : bytes);
  if (!memory) throw std::bad_alloc();
  return memory;
}

// Memory of executions that broke off is nobody's.
void release(void* memory, const void* pc) noexcept {
  if (!memory) return;
  if (!active) {
    if (ouro::model::the_machine && machine().shadow.owns(memory)) return;
    std::free(memory);
    return;
  }
  const Inside inside;
  if (machine().shadow.owns(memory)) {
    machine().shadow.free(memory, pc);
  } else {
    std::free(memory);
  }
}

}  // namespace

// ---- Memory ----

void* operator new(std::size_t bytes) { return allocate(bytes, 16); }
void* operator new(std::size_t bytes, std::align_val_t alignment) {
  return allocate(bytes, static_cast<std::size_t>(alignment));
}
void operator delete(void* memory) noexcept { release(memory, __builtin_return_address(0)); }
void operator delete(void* memory, std::size_t) noexcept { release(memory, __builtin_return_address(0)); }
void operator delete(void* memory, std::align_val_t) noexcept { release(memory, __builtin_return_address(0)); }
void operator delete(void* memory, std::size_t, std::align_val_t) noexcept {
  release(memory, __builtin_return_address(0));
}

// ---- The C library ----

extern "C" {

int pthread_create(pthread_t* thread, const pthread_attr_t* attributes, void* (*start)(void*), void* argument) {
  if (!active) return original<decltype(pthread_create)>("pthread_create")(thread, attributes, start, argument);
  const Inside inside;
  machine().step();
  const unsigned number = machine().spawn([start, argument] { start(argument); });
  *thread = number;
  machine().did("starts a thread", nullptr, nullptr, number);
  return 0;
}

int pthread_join(pthread_t thread, void** result) {
  if (!active) return original<decltype(pthread_join)>("pthread_join")(thread, result);
  const Inside inside;
  machine().join(static_cast<unsigned>(thread));
  return 0;
}

int pthread_detach(pthread_t thread) {
  if (!active) return original<decltype(pthread_detach)>("pthread_detach")(thread);
  return 0;
}

int pthread_mutex_lock(pthread_mutex_t* mutex) {
  if (!active) return original<decltype(pthread_mutex_lock)>("pthread_mutex_lock")(mutex);
  const Inside inside;
  machine().lock(mutex, mutex->__data.__kind == PTHREAD_MUTEX_RECURSIVE);
  return 0;
}

int pthread_mutex_trylock(pthread_mutex_t* mutex) {
  if (!active) return original<decltype(pthread_mutex_trylock)>("pthread_mutex_trylock")(mutex);
  const Inside inside;
  return machine().try_lock(mutex) ? 0 : EBUSY;
}

int pthread_mutex_unlock(pthread_mutex_t* mutex) {
  if (!active) return original<decltype(pthread_mutex_unlock)>("pthread_mutex_unlock")(mutex);
  const Inside inside;
  machine().unlock(mutex);
  return 0;
}

int pthread_sigmask(int how, const sigset_t* set, sigset_t* old) {
  if (!active) return original<decltype(pthread_sigmask)>("pthread_sigmask")(how, set, old);
  return 0;
}

int pthread_setname_np(pthread_t thread, const char* name) {
  if (!active) return original<decltype(pthread_setname_np)>("pthread_setname_np")(thread, name);
  return 0;
}

int sched_yield() {
  if (!active) return original<decltype(sched_yield)>("sched_yield")();
  const Inside inside;
  machine().yield();
  return 0;
}

// Exceptions lie in memory of the C library, which may have been another thread's exception before.
void* __cxa_allocate_exception(std::size_t bytes) noexcept {  // NOLINT: the name is the compilers'
  static auto* const allocate_one = original<void*(std::size_t)>("__cxa_allocate_exception");
  void* const memory = allocate_one(bytes);
  if (active) {
    const Inside inside;
    machine().shadow.forget(memory, bytes);
  }
  return memory;
}

}  // extern "C"

// ---- The library's ground ----

namespace ouro {

const Clock& Clock::steady() noexcept {
  class Leaping final : public Clock {
   public:
    TimePoint now() const noexcept override {
      constinit thread_local std::int64_t hours = 0;
      return TimePoint(std::chrono::hours(++hours));
    }
  };
  static constinit const Leaping clock;
  return clock;
}

namespace detail {

void assertion_failed(const char* condition, const char* file, int line) noexcept {
  model::fail(std::string("assertion failed: ") + condition + " (" + file + ":" + std::to_string(line) + ")");
}

bool futex_wait(const Atomic<std::uint32_t>& word, std::uint32_t expected, TimePoint deadline) noexcept {
  const Inside inside;
  std::uint32_t initial = 0;
  __builtin_memcpy(&initial, &word, sizeof initial);
  return machine().futex_wait(&word, initial, expected, deadline != TimePoint::max());
}

void futex_wake(const Atomic<std::uint32_t>& word, std::uint32_t most) noexcept {
  const Inside inside;
  machine().futex_wake(&word, most);
}

void wait_for_lock(std::uint32_t) noexcept { sched_yield(); }

bool has_heavy_barrier() noexcept { return model::machine().has_heavy_barrier(); }
void heavy_barrier() noexcept {
  if (!active) return;
  const Inside inside;
  machine().heavy_barrier(model::Place::current());
}

void* allocate_small_frame(std::size_t list_offset) {
  return operator new((list_offset / frame_list_bytes + 1) * frame_class_bytes);
}
void free_small_frame(void* memory, std::size_t) noexcept { operator delete(memory); }
void* allocate_large_frame(std::size_t bytes) { return operator new(bytes); }
void free_large_frame(void* memory, std::size_t) noexcept { operator delete(memory); }
void* allocate_zeros(std::size_t bytes) { return std::memset(operator new(bytes), 0, bytes); }
void free_zeros(void* memory, std::size_t) noexcept { operator delete(memory); }
std::uint64_t frames_alive() noexcept { return 0; }

}  // namespace detail
}  // namespace ouro
