// The order of the addresses, and several errors told as one.
#include <ouro/io/detail/happy_eyeballs.hpp>

#include <algorithm>
#include <cerrno>
#include <string>
#include <system_error>

#include <ouro/runtime/exception_group.hpp>
#include <ouro/runtime/exceptions.hpp>

namespace ouro::detail {
namespace {

std::string text_of(const std::exception_ptr& error) {
  if (const auto* known = exception_as<std::exception>(error)) return known->what();
  return exception_as<CancelledError>(error) ? "cancelled" : "unknown exception";
}

// 0 if it is none of the system's.
int errno_of(const std::exception_ptr& error) {
  const auto* refused = exception_as<OSError>(error);
  return refused && refused->code().category() == std::system_category() ? refused->errno_value() : 0;
}

}  // namespace

std::vector<AddressInfo> interleave(std::vector<AddressInfo> infos, std::size_t first_family_count) {
  std::vector<std::vector<AddressInfo>> families;
  for (AddressInfo& info : infos) {
    const auto is_its = [&](const auto& family) { return family.front().family == info.family; };
    auto family = std::find_if(families.begin(), families.end(), is_its);
    if (family == families.end()) family = families.emplace(family);
    family->push_back(std::move(info));
  }
  std::vector<AddressInfo> ordered;
  std::vector<std::size_t> taken(families.size());
  const auto take = [&](std::size_t family) {
    if (taken[family] == families[family].size()) return;
    ordered.push_back(std::move(families[family][taken[family]++]));
  };
  for (std::size_t i = 1; i < first_family_count && !families.empty() && taken[0] < families[0].size(); ++i) take(0);
  while (ordered.size() < infos.size()) {
    for (std::size_t family = 0; family < families.size(); ++family) take(family);
  }
  return ordered;
}

void throw_connect_errors(std::vector<std::exception_ptr> errors, bool all_errors) {
  if (errors.empty()) throw_os_error(EADDRNOTAVAIL, "connect", "", {}, "getaddrinfo() returned empty list");
  if (all_errors) throw ExceptionGroup("create_connection failed", std::move(errors));
  const std::string first = text_of(errors.front());
  const int error = errno_of(errors.front());
  std::string text = "Multiple exceptions: " + first;
  bool same_text = true;
  bool same_errno = true;
  for (std::size_t i = 1; i < errors.size(); ++i) {
    const std::string next = text_of(errors[i]);
    same_text = same_text && next == first;
    same_errno = same_errno && errno_of(errors[i]) == error;
    text += ", " + next;
  }
  if (same_text) std::rethrow_exception(errors.front());
  if (same_errno && error != 0) throw_os_error(error, "connect", "", {}, std::move(text));
  throw OSError(error, "connect", "", {}, std::move(text));
}

}  // namespace ouro::detail
