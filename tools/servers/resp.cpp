#include "resp.hpp"

#include <charconv>
#include <system_error>

namespace servers::resp {

namespace {

using State = Parsed::State;

// A number that stands between a sign of what follows and the end of the line: "*3\r\n", "$5\r\n".
struct Count {
  State state;
  long long value = 0;
  std::size_t used = 0;
};

Count read_count(std::string_view input) {
  constexpr std::size_t longest = 32;
  const std::size_t end = input.substr(0, longest).find('\n');
  if (end == std::string_view::npos) return {input.size() < longest ? State::partial : State::wrong};
  if (end < 2 || input[end - 1] != '\r') return {State::wrong};
  Count count{State::whole, 0, end + 1};
  const char* const last = input.data() + end - 1;
  const auto [stop, error] = std::from_chars(input.data() + 1, last, count.value);
  if (error != std::errc() || stop != last) return {State::wrong};
  return count;
}

Parsed parse_array(std::string_view input, std::vector<std::string_view>& arguments) {
  const Count elements = read_count(input);
  if (elements.state == State::partial) return {State::partial};
  if (elements.state == State::wrong || elements.value > static_cast<long long>(arguments_max)) {
    return {State::wrong, 0, "invalid multibulk length"};
  }
  std::size_t at = elements.used;
  for (long long left = elements.value; left > 0; --left) {
    if (at == input.size()) return {State::partial};
    if (input[at] != '$') return {State::wrong, 0, "expected '$'"};
    const Count bytes = read_count(input.substr(at));
    if (bytes.state == State::partial) return {State::partial};
    if (bytes.state == State::wrong || bytes.value < 0 || bytes.value > static_cast<long long>(argument_bytes_max)) {
      return {State::wrong, 0, "invalid bulk length"};
    }
    at += bytes.used;
    const auto size = static_cast<std::size_t>(bytes.value);
    if (input.size() - at < size + 2) return {State::partial};
    if (input[at + size] != '\r' || input[at + size + 1] != '\n') {
      return {State::wrong, 0, "a string is longer than it says"};
    }
    arguments.push_back(input.substr(at, size));
    at += size + 2;
  }
  return {State::whole, at};
}

Parsed parse_line(std::string_view input, std::vector<std::string_view>& arguments) {
  const std::size_t end = input.substr(0, line_bytes_max).find('\n');
  if (end == std::string_view::npos) {
    if (input.size() < line_bytes_max) return {State::partial};
    return {State::wrong, 0, "too big inline request"};
  }
  constexpr std::string_view blank = " \t\r";
  std::string_view line = input.substr(0, end);
  while (true) {
    const std::size_t begin = line.find_first_not_of(blank);
    if (begin == std::string_view::npos) break;
    line.remove_prefix(begin);
    const std::string_view word = line.substr(0, line.find_first_of(blank));
    arguments.push_back(word);
    line.remove_prefix(word.size());
  }
  return {State::whole, end + 1};
}

void add_line(std::string& to, char sign, std::string_view text) {
  to += sign;
  to.append(text).append("\r\n");
}

void add_number(std::string& to, char sign, long long value) {
  char digits[24];
  const auto [end, error] = std::to_chars(digits, digits + sizeof digits, value);
  static_cast<void>(error);  // there is room for any
  add_line(to, sign, {digits, static_cast<std::size_t>(end - digits)});
}

}  // namespace

Parsed parse(std::string_view input, std::vector<std::string_view>& arguments) {
  arguments.clear();
  if (input.empty()) return {State::partial};
  return input.front() == '*' ? parse_array(input, arguments) : parse_line(input, arguments);
}

void add_simple(std::string& to, std::string_view text) { add_line(to, '+', text); }
void add_error(std::string& to, std::string_view text) { add_line(to, '-', text); }
void add_integer(std::string& to, long long value) { add_number(to, ':', value); }
void add_bulk(std::string& to, std::string_view value) {
  add_number(to, '$', static_cast<long long>(value.size()));
  to.append(value).append("\r\n");
}
void add_nothing(std::string& to) { to.append("$-1\r\n"); }
void add_array(std::string& to, std::size_t elements) { add_number(to, '*', static_cast<long long>(elements)); }

}  // namespace servers::resp
