// Groups of exceptions, and how they are taken apart. Recursion goes as deep as groups lie in groups.
#include <ouro/runtime/exception_group.hpp>

#include <ouro/runtime/exceptions.hpp>

namespace ouro {

struct ExceptionGroup::Content {
  Content(std::string text, std::vector<std::exception_ptr> members)
      : message(std::move(text)),
        exceptions(std::move(members)),
        what(message + " (" + std::to_string(exceptions.size()) + " sub-exception" +
             (exceptions.size() == 1 ? ")" : "s)")) {}

  const std::string message;
  const std::vector<std::exception_ptr> exceptions;
  const std::string what;
};

ExceptionGroup::ExceptionGroup(std::string message, std::vector<std::exception_ptr> exceptions) {
  if (exceptions.empty()) throw ValueError("second argument (exceptions) must be a non-empty sequence");
  for (std::size_t i = 0; i < exceptions.size(); ++i) {
    if (!exceptions[i]) throw ValueError("Item " + std::to_string(i) + " of second argument (exceptions) is null");
  }
  content_ = std::make_shared<const Content>(std::move(message), std::move(exceptions));
}

ExceptionGroup::~ExceptionGroup() = default;

const char* ExceptionGroup::what() const noexcept { return content_->what.c_str(); }
const std::string& ExceptionGroup::message() const noexcept { return content_->message; }
const std::vector<std::exception_ptr>& ExceptionGroup::exceptions() const noexcept { return content_->exceptions; }

ExceptionGroup ExceptionGroup::derive(std::vector<std::exception_ptr> exceptions) const {
  return ExceptionGroup(message(), std::move(exceptions));
}

namespace {

using Members = std::vector<std::exception_ptr>;

void divide(const Members& members, const ExceptionGroup::Predicate& matches, Members& taken, Members& rest) {
  for (const std::exception_ptr& member : members) {
    if (matches(member)) {
      taken.push_back(member);
    } else if (const auto* group = exception_as<ExceptionGroup>(member)) {
      Members inner_taken;
      Members inner_rest;
      divide(group->exceptions(), matches, inner_taken, inner_rest);
      if (inner_taken.empty()) {
        rest.push_back(member);
        continue;
      }
      if (!inner_rest.empty()) rest.push_back(std::make_exception_ptr(group->derive(std::move(inner_rest))));
      taken.push_back(std::make_exception_ptr(group->derive(std::move(inner_taken))));
    } else {
      rest.push_back(member);
    }
  }
}

void collect(const Members& members, Members& leaves) {
  for (const std::exception_ptr& member : members) {
    if (const auto* group = exception_as<ExceptionGroup>(member)) {
      collect(group->exceptions(), leaves);
    } else {
      leaves.push_back(member);
    }
  }
}

}  // namespace

std::pair<ExceptionGroup::Half, ExceptionGroup::Half> ExceptionGroup::split(const Predicate& matches) const {
  if (matches(std::make_exception_ptr(*this))) return {*this, std::nullopt};
  Members taken;
  Members rest;
  divide(exceptions(), matches, taken, rest);
  std::pair<Half, Half> halves;
  if (!taken.empty()) halves.first = derive(std::move(taken));
  if (!rest.empty()) halves.second = halves.first ? derive(std::move(rest)) : *this;
  return halves;
}

ExceptionGroup::Half ExceptionGroup::subgroup(const Predicate& matches) const { return split(matches).first; }

std::vector<std::exception_ptr> ExceptionGroup::leaves() const {
  Members found;
  collect(exceptions(), found);
  return found;
}

}  // namespace ouro
