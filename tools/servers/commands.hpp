// The commands of a Redis server for strings.
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "keyspace.hpp"

namespace servers {

// Executes a request, and writes the reply behind what `to` holds. False: the client wants to leave.
// Requires: there is a name of a command.
bool execute(Keyspace& keys, std::span<const std::string_view> request, std::string& to);

}  // namespace servers
