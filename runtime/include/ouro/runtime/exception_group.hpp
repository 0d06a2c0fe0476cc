// ExceptionGroup: several exceptions that were thrown beside each other, as one that can be taken apart by type.
//
// A member may itself be a group, so a group is a tree; its leaves are what was thrown. What is taken out of it (split,
// subgroup) keeps the shape of the tree, without the branches that have become empty.
#pragma once

#include <concepts>
#include <cstddef>
#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <ouro/runtime/config.hpp>

namespace ouro {

// The exception as an E, or nullptr if a `catch (const E&)` would not take it.
// Lifetime: as long as the exception_ptr, or a copy of it.
template <class E>
const E* exception_as(const std::exception_ptr& exception) noexcept {
  if (!exception) return nullptr;
  try {
    std::rethrow_exception(exception);
  } catch (const E& found) {
    return std::addressof(found);
  } catch (...) {
    return nullptr;
  }
}

// Several exceptions and a message. Copies share them.
//
// Threads: any may read it. Unlike Python there is one class for all: what is no std::exception, a number say, may be a
// member, and the group is a std::exception still.
class OURO_EXPORT ExceptionGroup : public std::exception {
 public:
  using Predicate = std::function<bool(const std::exception_ptr&)>;

  // Throws: ValueError if there are none, or one of them is null.
  ExceptionGroup(std::string message, std::vector<std::exception_ptr> exceptions);
  ExceptionGroup(const ExceptionGroup&) noexcept = default;
  ExceptionGroup& operator=(const ExceptionGroup&) noexcept = default;
  ~ExceptionGroup() override;

  // The message and how many there are: "unhandled errors in a TaskGroup (2 sub-exceptions)".
  const char* what() const noexcept override;
  const std::string& message() const noexcept;
  // The members, in the order in which they were thrown. Those that are groups are not taken apart.
  const std::vector<std::exception_ptr>& exceptions() const noexcept;

  // What split() gives: a group each, or nothing.
  using Half = std::optional<ExceptionGroup>;

  // Two groups: of the leaves for which `matches` says yes, and of the rest. A group of which it says yes is taken
  // whole; it is asked about this one first.
  std::pair<Half, Half> split(const Predicate& matches) const;
  // The same by type: what a `catch (const E&)` takes.
  template <class E>
  std::pair<Half, Half> split() const {
    return split([](const std::exception_ptr& member) { return exception_as<E>(member) != nullptr; });
  }

  // The first of the two alone.
  Half subgroup(const Predicate& matches) const;
  template <class E>
  Half subgroup() const {
    return subgroup([](const std::exception_ptr& member) { return exception_as<E>(member) != nullptr; });
  }

  // A group of other exceptions with the same message.
  ExceptionGroup derive(std::vector<std::exception_ptr> exceptions) const;

  // What was thrown, of all depths, in order.
  std::vector<std::exception_ptr> leaves() const;

  // Whether a leaf is an E.
  template <class E>
  bool contains() const {
    for (const std::exception_ptr& leaf : leaves()) {
      if (exception_as<E>(leaf)) return true;
    }
    return false;
  }

  // Calls `f` with each leaf that is an E. Returns how many there were.
  template <class E, std::invocable<const E&> F>
  std::size_t for_each(F&& f) const {
    std::size_t found = 0;
    for (const std::exception_ptr& leaf : leaves()) {
      if (const E* error = exception_as<E>(leaf)) {
        ++found;
        std::invoke(f, *error);
      }
    }
    return found;
  }

 private:
  struct Content;
  std::shared_ptr<const Content> content_;  // what() must not fail, nor a copy
};

}  // namespace ouro
