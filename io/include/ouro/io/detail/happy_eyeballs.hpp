// Which of a host's addresses to connect to: RFC 8305, as asyncio's create_connection does it.
#pragma once

#include <cstddef>
#include <exception>
#include <optional>
#include <utility>
#include <vector>

#include <ouro/io/errors.hpp>
#include <ouro/io/resolver.hpp>
#include <ouro/runtime/config.hpp>
#include <ouro/runtime/coroutine.hpp>
#include <ouro/runtime/staggered.hpp>
#include <ouro/runtime/timeouts.hpp>

namespace ouro::detail {

struct ConnectOrder {
  OptionalDelay delay = {};                    // of the next attempt; without it they are made one after the other
  std::optional<std::size_t> interleave = {};  // so many of the first family first; default: 1 with a delay, else 0
  bool all_errors = false;                     // if all fail, an ExceptionGroup of them
};

// Takes from each family in turn, in the order in which the families come, after the first `first_family_count` - 1 of
// the first one. Within a family the order stays.
OURO_EXPORT std::vector<AddressInfo> interleave(std::vector<AddressInfo> infos, std::size_t first_family_count);

// What connecting throws when all attempts have failed: the errors as one. If all have the same text, the first of
// them; if they have the same errno, what that errno is thrown as; else OSError. The text names all.
[[noreturn, gnu::cold]] OURO_EXPORT void throw_connect_errors(std::vector<std::exception_ptr> errors, bool all_errors);

// Gives what `connect(info)`, a Coroutine<T>, gives for the first address with which it does not fail; T owns the
// socket, so that one which connects too late is closed. Without a delay only an OSError leads to the next address.
// If cancelled: so are the attempts; when they have ended CancelledError is thrown.
template <class T, class Connect>
Coroutine<T> connect_to_any(std::vector<AddressInfo> infos, Connect connect, ConnectOrder order) {
  const std::size_t first = order.interleave.value_or(order.delay ? 1 : 0);
  if (first != 0) infos = interleave(std::move(infos), first);
  std::vector<std::exception_ptr> errors;
  if (order.delay && infos.size() > 1) {
    const auto attempt_at = [&connect](AddressInfo info) {
      return [connect, info = std::move(info)]() mutable { return connect(info); };
    };
    std::vector<decltype(attempt_at(AddressInfo()))> attempts;
    for (AddressInfo& info : infos) attempts.push_back(attempt_at(std::move(info)));
    StaggeredResult<T> result = co_await staggered_race(std::move(attempts), order.delay);
    if (result.winner_index) co_return std::move(*result.winner_result);
    errors = std::move(result.exceptions);
  } else {
    for (const AddressInfo& info : infos) {
      try {
        co_return co_await connect(info);
      } catch (const OSError&) {
        errors.push_back(std::current_exception());
      }
    }
  }
  throw_connect_errors(std::move(errors), order.all_errors);
}

}  // namespace ouro::detail
