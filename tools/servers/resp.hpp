// Requests of Redis' protocol (RESP 2): an array of strings, as programs send them, or a line of words, as people do.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace servers::resp {

constexpr std::size_t arguments_max = std::size_t{1} << 20;
constexpr std::size_t argument_bytes_max = std::size_t{64} << 20;
constexpr std::size_t line_bytes_max = std::size_t{64} << 10;

struct Parsed {
  enum class State { whole, partial, wrong };
  State state;
  std::size_t used = 0;    // whole: so many bytes of the input
  const char* error = "";  // wrong: why
};

// Reads the request with which `input` begins. whole: `arguments` are views into it; none for an empty line.
Parsed parse(std::string_view input, std::vector<std::string_view>& arguments);

// Replies, written behind what `to` holds.
void add_simple(std::string& to, std::string_view text);
void add_error(std::string& to, std::string_view text);
void add_integer(std::string& to, long long value);
void add_bulk(std::string& to, std::string_view value);
void add_nothing(std::string& to);
void add_array(std::string& to, std::size_t elements);

}  // namespace servers::resp
