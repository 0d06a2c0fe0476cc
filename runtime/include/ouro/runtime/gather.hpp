// gather: several awaitables at once, their results together.
#pragma once

#include <coroutine>
#include <cstddef>
#include <cstdint>
#include <source_location>
#include <type_traits>
#include <utility>
#include <vector>

#include <ouro/runtime/awaitable.hpp>
#include <ouro/runtime/config.hpp>
#include <ouro/runtime/coroutine.hpp>
#include <ouro/runtime/detail/gather_state.hpp>
#include <ouro/runtime/detail/gather_storage.hpp>
#include <ouro/runtime/futures.hpp>

namespace ouro {

// As the first argument of gather and map: errors and cancellations of children become results.
struct ReturnExceptions {};
inline constexpr ReturnExceptions return_exceptions{};

namespace detail {

// ---- What gather() returns, and its awaiter ----

// A gather with its children and their results.
template <class Storage, bool Outcomes>
class GatherBody final : public GatherState {
 public:
  template <class... Args>
  explicit GatherBody(std::in_place_t, Args&&... args) : storage_(std::forward<Args>(args)...) {
    prepare();
  }
  GatherBody(GatherBody&& other) : GatherState(std::move(other)), storage_(std::move(other.storage_)) {
    prepare();
    this->awaited = other.awaited;
  }
  ~GatherBody() {
    if (OURO_LIKELY(!this->holds_children)) return;
    if (this->parent) {
      destroy_children();
    } else {
      storage_.drop();
    }
  }

  void take_once() {
    if (OURO_UNLIKELY(this->awaited)) throw_awaited_twice();
    this->awaited = true;
  }
  bool empty() const noexcept { return storage_.size() == 0; }

  // Gives the frame to run next.
  OURO_INLINE void* begin_in(FutureState& task, void* frame, std::source_location where) {
    this->count = static_cast<std::uint32_t>(storage_.size());
    storage_.bind(this->slots, this->children, this->nodes);
    if constexpr (Storage::all_owned) {
      return launch_owned(task, frame, where);
    } else {
      prepare_futures(task);
      return launch(task, frame, where);
    }
  }

  auto take() {
    if (this->parent) rethrow_if_failed();
    if constexpr (Outcomes) {
      if (this->trouble) {
        for (auto& [index, exception] : this->trouble->unrun) storage_.set_exception(index, exception);
      }
    }
    return storage_.take();
  }

 private:
  void prepare() noexcept {
    this->slot_kind = Storage::kind;
    this->indirect = Storage::indirect;
    this->return_exceptions = Outcomes;
    this->holds_children = Storage::owns_early;
    this->child_stage = stage_of_children(Storage::kind);
  }

  Storage storage_;
};

OURO_TRANSFER_NAMESPACE {

// g++ 12 copies an awaiter that operator co_await gives by reference, so this is one that refers.
template <class Body>
class GatherAwaiter {
 public:
  explicit GatherAwaiter(Body& body) noexcept : body_(&body) {}

  bool await_ready() const noexcept { return body_->empty(); }
  template <class Promise>
  OURO_INLINE std::coroutine_handle<> await_suspend(std::coroutine_handle<Promise> coroutine,
                                                    std::source_location where = std::source_location::current()) {
    void* const next = body_->begin_in(task_of(coroutine, "gather"), coroutine.address(), where);
    return transfer(std::coroutine_handle<>::from_address(next));
  }
  auto await_resume() { return body_->take(); }

 private:
  Body* body_;
};

}  // namespace transfer
}  // namespace detail

OURO_TRANSFER_NAMESPACE {

// What gather() gives: to be awaited, once. The children are scheduled when it is awaited, in their order.
//
// The results come in the order of the arguments. At the first error the children given as coroutines are cancelled and
// awaited, then the error is thrown; futures and tasks of the caller run on. With return_exceptions every child's
// Outcome is returned instead.
// If cancelled: all children are, futures and tasks of the caller too; when they have ended, CancelledError is thrown.
// Lifetime: the children and their results lie in it, so it stays where it is, and lives, until the co_await is over.
template <class Storage, bool Outcomes>
class [[nodiscard("a gather does nothing until it is awaited")]] Gather {
  using Body = detail::GatherBody<Storage, Outcomes>;

 public:
  template <class... Args>
  explicit Gather(std::in_place_t place, Args&&... args) : body_(place, std::forward<Args>(args)...) {}

  detail::GatherAwaiter<Body> operator co_await() {
    body_.take_once();
    return detail::GatherAwaiter<Body>(body_);
  }

 private:
  Body body_;
};

// Several of different types: a tuple of their results, std::monostate for void.
template <class... Awaitables>
  requires((Awaitable<std::remove_cvref_t<Awaitables>> || CoroutineCallable<std::decay_t<Awaitables>&>) && ...)
auto gather(Awaitables&&... awaitables) {
  using Storage = detail::GatherTuple<false, detail::GatherChild<Awaitables>...>;
  return Gather<Storage, false>(std::in_place, std::in_place, std::forward<Awaitables>(awaitables)...);
}
template <class... Awaitables>
  requires((Awaitable<std::remove_cvref_t<Awaitables>> || CoroutineCallable<std::decay_t<Awaitables>&>) && ...)
auto gather(ReturnExceptions, Awaitables&&... awaitables) {
  using Storage = detail::GatherTuple<true, detail::GatherChild<Awaitables>...>;
  return Gather<Storage, true>(std::in_place, std::in_place, std::forward<Awaitables>(awaitables)...);
}

}  // namespace transfer

namespace detail {
OURO_TRANSFER_NAMESPACE {

template <bool Outcomes, class A>
auto gather_vector(std::vector<A> awaitables) {
  using Child = GatherChild<A&&>;
  using Storage = GatherRange<Child, Outcomes>;
  if constexpr (std::is_same_v<Child, A>) {
    return Gather<Storage, Outcomes>(std::in_place, std::move(awaitables));
  } else {
    std::vector<Child> children;
    children.reserve(awaitables.size());
    for (A& awaitable : awaitables) children.push_back(gather_child(std::move(awaitable)));
    return Gather<Storage, Outcomes>(std::in_place, std::move(children));
  }
}

}  // namespace transfer
}  // namespace detail

OURO_TRANSFER_NAMESPACE {

// Many of one type: a vector of their results; nothing for void; std::reference_wrapper for references.
// Complexity: one allocation for the results; with futures one more.
template <class A>
auto gather(std::vector<A> awaitables) {
  return detail::gather_vector<false>(std::move(awaitables));
}
template <class A>
auto gather(ReturnExceptions, std::vector<A> awaitables) {
  return detail::gather_vector<true>(std::move(awaitables));
}

}  // namespace transfer
}  // namespace ouro
