#include <ouro/runtime/detail/errand.hpp>

#include <sched.h>

#include <array>
#include <utility>

#include <ouro/runtime/futures.hpp>

#include "shared.hpp"

namespace ouro::detail {

namespace {

// The errand's reference is not counted among the handles: whoever has the only one may move the result out of it.
void add_own_ref(FutureState& future) noexcept {
  if (future.has(flag_shared)) {
    __atomic_fetch_add(&future.refs, own_ref, __ATOMIC_RELAXED);
  } else {
    future.refs += own_ref;
  }
}

void drop_own_ref(FutureState& future) noexcept {
  if (future.has(flag_shared)) {
    // Acquire and release: with drop_shared_ref().
    if (__atomic_fetch_sub(&future.refs, own_ref, __ATOMIC_ACQ_REL) == own_ref) destroy_shared(future);
    return;
  }
  future.refs -= own_ref;
  if (future.refs == 0) destroy(future);
}

}  // namespace

void Errand::set_out() noexcept {
  FutureState& future = *future_;
  LoopState& home = *home_;
  add_own_ref(future);
  future.waiting_on = this;
  future.link.prev = nullptr;
  future.link.next = home.errands;
  if (home.errands) home.errands->link.prev = &future;
  home.errands = &future;
}

namespace {

void unlink(LoopState& home, FutureState& future) noexcept {
  (future.link.prev ? future.link.prev->link.next : home.errands) = future.link.next;
  if (future.link.next) future.link.next->link.prev = future.link.prev;
  future.waiting_on = nullptr;
}

}  // namespace

void Errand::discard() noexcept {
  FutureState& future = *future_;
  unlink(*home_, future);
  release();
  drop_own_ref(future);
}

namespace {

// What this thread has sent home lately.
constexpr std::size_t remembered = 8;
struct Recent {
  std::array<const void*, remembered> errands;
  std::size_t next;
};
constinit thread_local Recent recent{};

}  // namespace

void Errand::come_back() noexcept {
  before_[0] = recent.errands[(recent.next - 3) % remembered];
  before_[1] = std::exchange(recent.errands[recent.next % remembered], this);
  ++recent.next;
  State seen = State::out;
  // Relaxed on success: what this thread has written is released by the post.
  if (!state_.compare_exchange_strong(seen, State::returning, std::memory_order_relaxed,
                                      std::memory_order_acquire)) {  // pairs with the release in let_go()
    release();
  } else if (!post_to(*home_, *this)) {
    state_.store(State::stranded, std::memory_order_release);  // pairs with the acquire in drop()
  }
}

bool Errand::let_go(bool cancelled) noexcept {
  leave_source(cancelled);
  // All that is needed of the errand is read before the exchange: after it, another thread may free it.
  LoopState& home = *home_;
  FutureState& future = *future_;
  State seen = State::out;
  // Release: pairs with the acquire in wanted() and in the failing exchange of come_back().
  if (!state_.compare_exchange_strong(seen, State::dropped, std::memory_order_release, std::memory_order_relaxed)) {
    return false;
  }
  unlink(home, future);
  drop_own_ref(future);
  return true;
}

const WaiteeKind Errand::errand_kind{[](Waitee& self, FutureState& future, const std::string&) noexcept {
                                       return static_cast<Errand&>(self).given_up(future);
                                     },
                                     nullptr, nullptr, "executor"};

bool Errand::given_up(FutureState& future) noexcept {
  // If it is on its way back it will find the future cancelled; until then it stays linked, and so to be found.
  if (!let_go(true)) future.waiting_on = this;
  return true;
}

void Errand::drop() noexcept {
  if (let_go(false)) return;
  while (state_.load(std::memory_order_acquire) != State::stranded) sched_yield();
  discard();
}

Errand* Errand::of(ReadyNode& node) noexcept {
  auto* header = static_cast<FrameHeader*>(node.leaf);
  return header->resume == &Errand::returned ? static_cast<Errand*>(header) : nullptr;
}

void Errand::returned(void* leaf) {
  auto& errand = *static_cast<Errand*>(static_cast<FrameHeader*>(leaf));
  FutureState& future = *errand.future_;
  // Errands come in chains: the next one's future is fetched while this one's task is made ready.
  if (errand.next) {
    if (const Errand* next = of(*errand.next)) __builtin_prefetch(next->future_, 1);
  }
  errand.home_->current = nullptr;
  unlink(*errand.home_, future);
  if (OURO_UNLIKELY(future.has(flag_shared))) {
    // Another worker may be cancelling it.
    if (errand.cancelled_) {
      detail::cancel(future, std::string());
    } else if (claim(future)) {
      errand.deliver(future);
      settle(future);
    }
  } else if (!future.done()) {
    if (errand.cancelled_) {
      detail::cancel(future, std::string());
    } else {
      errand.deliver(future);
      settle(future);
    }
  }
  errand.release();
  drop_own_ref(future);
}

void prefetch_before(const ReadyNode& node) noexcept {
  auto* header = static_cast<FrameHeader*>(node.leaf);
  if (header->resume != &Errand::returned) return;
  // By two steps the walk is soon eight nodes ahead; by one it would meet the first eight unprepared.
  for (const void* errand : static_cast<Errand*>(header)->before_) {
    const auto before = reinterpret_cast<std::uintptr_t>(errand);
    __builtin_prefetch(reinterpret_cast<const void*>(before), 1);
    __builtin_prefetch(reinterpret_cast<const void*>(before + 64), 1);
  }
}

void drop_errands(LoopState& loop) noexcept {
  while (FutureState* future = loop.errands) static_cast<Errand*>(future->waiting_on)->drop();
}

}  // namespace ouro::detail
