// What can be awaited, and what comes of it.
#pragma once

#include <concepts>
#include <coroutine>
#include <type_traits>
#include <utility>

#include <ouro/runtime/config.hpp>

namespace ouro {
namespace detail {

template <class T>
concept MemberCoAwait = requires(T&& value) { static_cast<T&&>(value).operator co_await(); };
template <class T>
concept FreeCoAwait = requires(T&& value) { operator co_await(static_cast<T&&>(value)); };

template <class T>
decltype(auto) awaiter_of(T&& value) {
  if constexpr (MemberCoAwait<T>) {
    return static_cast<T&&>(value).operator co_await();
  } else if constexpr (FreeCoAwait<T>) {
    return operator co_await(static_cast<T&&>(value));
  } else {
    return static_cast<T&&>(value);
  }
}

template <class T>
using AwaiterOf = decltype(awaiter_of(std::declval<T>()));

}  // namespace detail

// What co_await itself needs: the three functions of an awaiter.
template <class T>
concept Awaiter = requires(std::remove_reference_t<T>& awaiter) {
  { awaiter.await_ready() } -> std::convertible_to<bool>;
  awaiter.await_resume();
};

// What may stand behind co_await: a Coroutine, a Future, a Task, a gather, or any type with operator co_await.
template <class T>
concept Awaitable =
    requires(T&& value) { detail::awaiter_of(static_cast<T&&>(value)); } && Awaiter<detail::AwaiterOf<T>>;

// The type of `co_await expression`.
template <Awaitable T>
using await_result_t = decltype(std::declval<std::remove_reference_t<detail::AwaiterOf<T>>&>().await_resume());

}  // namespace ouro
