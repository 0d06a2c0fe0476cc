// ExceptionGroup: what it says, and how it is taken apart.
#include <gmock/gmock.h>

#include <exception>
#include <stdexcept>
#include <string>
#include <vector>

#include <ouro/runtime/exception_group.hpp>
#include <ouro/runtime/exceptions.hpp>

#include "support/loop_fixture.hpp"

namespace ouro {
namespace {

using test::describe;
using test::thrown_by;
using testing::ElementsAre;

std::exception_ptr error(const char* text) { return std::make_exception_ptr(std::runtime_error(text)); }
std::exception_ptr bad_value(const char* text) { return std::make_exception_ptr(ValueError(text)); }
std::exception_ptr grouped(std::string message, std::vector<std::exception_ptr> members) {
  return std::make_exception_ptr(ExceptionGroup(std::move(message), std::move(members)));
}

// "outer[a b inner[c]]"
std::string shape(const ExceptionGroup& group) {
  std::string text = group.message() + "[";
  for (const std::exception_ptr& member : group.exceptions()) {
    if (text.back() != '[') text += ' ';
    if (const auto* inner = exception_as<ExceptionGroup>(member)) {
      text += shape(*inner);
    } else if (const auto* known = exception_as<std::exception>(member)) {
      text += known->what();
    } else {
      text += '?';
    }
  }
  return text + "]";
}
std::string shape(const ExceptionGroup::Half& half) { return half ? shape(*half) : "none"; }

TEST(ExceptionGroupTest, SaysHowManyThereAre) {
  const ExceptionGroup one("unhandled errors in a TaskGroup", {error("a")});
  EXPECT_STREQ(one.what(), "unhandled errors in a TaskGroup (1 sub-exception)");
  EXPECT_EQ(one.message(), "unhandled errors in a TaskGroup");
  const ExceptionGroup two("m", {error("a"), error("b")});
  EXPECT_STREQ(two.what(), "m (2 sub-exceptions)");
  EXPECT_EQ(two.exceptions().size(), 2U);
}

TEST(ExceptionGroupTest, IsNeverEmpty) {
  EXPECT_EQ(thrown_by([] { return ExceptionGroup("m", {}); }),
            "ValueError: second argument (exceptions) must be a non-empty sequence");
  EXPECT_EQ(thrown_by([] { return ExceptionGroup("m", {error("a"), nullptr}); }),
            "ValueError: Item 1 of second argument (exceptions) is null");
}

TEST(ExceptionGroupTest, IsCaughtAsAStandardException) {
  try {
    throw ExceptionGroup("m", {std::make_exception_ptr(42)});
  } catch (const std::exception& caught) {
    EXPECT_STREQ(caught.what(), "m (1 sub-exception)");
  }
}

TEST(ExceptionGroupTest, CopiesShareTheMembers) {
  const ExceptionGroup group("m", {error("a")});
  const ExceptionGroup copy = group;
  EXPECT_EQ(&copy.exceptions(), &group.exceptions());
  static_assert(std::is_nothrow_copy_constructible_v<ExceptionGroup>);
}

TEST(ExceptionGroupTest, SplitsByTypeAndKeepsTheShape) {
  const ExceptionGroup group("outer", {error("a"), grouped("inner", {bad_value("b"), error("c")}), bad_value("d")});
  const auto [values, rest] = group.split<ValueError>();
  EXPECT_EQ(shape(values), "outer[inner[b] d]");
  EXPECT_EQ(shape(rest), "outer[a inner[c]]");
}

TEST(ExceptionGroupTest, AHalfWithoutLeavesIsNone) {
  const ExceptionGroup group("m", {error("a")});
  const auto [values, rest] = group.split<ValueError>();
  EXPECT_EQ(shape(values), "none");
  EXPECT_EQ(&rest->exceptions(), &group.exceptions());
  const auto [errors, none] = group.split<std::runtime_error>();
  EXPECT_EQ(shape(errors), "m[a]");
  EXPECT_EQ(shape(none), "none");
}

TEST(ExceptionGroupTest, AGroupThatMatchesIsTakenWhole) {
  const ExceptionGroup group("outer", {grouped("inner", {bad_value("b")}), error("a")});
  EXPECT_EQ(shape(group.split<ExceptionGroup>().first), "outer[inner[b] a]");
  EXPECT_EQ(shape(group.split<std::exception>().first), "outer[inner[b] a]");
  const auto is_inner = [](const std::exception_ptr& member) {
    const auto* inner = exception_as<ExceptionGroup>(member);
    return inner && inner->message() == "inner";
  };
  EXPECT_EQ(shape(group.split(is_inner).first), "outer[inner[b]]");
  EXPECT_EQ(shape(group.split(is_inner).second), "outer[a]");
}

TEST(ExceptionGroupTest, ASubgroupIsTheMatchingHalf) {
  const ExceptionGroup group("m", {error("a"), bad_value("b")});
  EXPECT_EQ(shape(group.subgroup<ValueError>()), "m[b]");
  EXPECT_EQ(shape(group.subgroup([](const std::exception_ptr&) { return false; })), "none");
}

TEST(ExceptionGroupTest, DerivesAGroupWithTheSameMessage) {
  EXPECT_EQ(shape(ExceptionGroup("m", {error("a")}).derive({error("x"), error("y")})), "m[x y]");
}

TEST(ExceptionGroupTest, FindsWhatWasThrownAtAnyDepth) {
  const ExceptionGroup group(
      "o", {grouped("i", {error("a"), grouped("j", {bad_value("b")})}), std::make_exception_ptr(42), bad_value("c")});
  EXPECT_EQ(group.leaves().size(), 4U);
  EXPECT_TRUE(group.contains<ValueError>());
  EXPECT_TRUE(group.contains<int>());
  EXPECT_FALSE(group.contains<CancelledError>());
  std::vector<std::string> seen;
  EXPECT_EQ(group.for_each<ValueError>([&](const ValueError& found) { seen.emplace_back(found.what()); }), 2U);
  EXPECT_THAT(seen, ElementsAre("b", "c"));
}

TEST(ExceptionGroupTest, AnExceptionIsSeenAsACatchSeesIt) {
  const std::exception_ptr exception = bad_value("b");
  ASSERT_NE(exception_as<std::invalid_argument>(exception), nullptr);
  EXPECT_STREQ(exception_as<std::invalid_argument>(exception)->what(), "b");
  EXPECT_EQ(exception_as<std::runtime_error>(exception), nullptr);
  EXPECT_EQ(exception_as<int>(nullptr), nullptr);
  EXPECT_EQ(describe(exception), "ValueError: b");
}

}  // namespace
}  // namespace ouro
