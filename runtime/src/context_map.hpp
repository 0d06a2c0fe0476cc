// The map of a context: a persistent trie. See detail/context_state.hpp.
//
// Source: Bagwell, "Ideal Hash Trees" (2001), with numbers in place of hashes: these differ, so nothing collides.
#pragma once

#include <cstddef>
#include <cstdint>

#include <ouro/runtime/detail/context_state.hpp>

namespace ouro::detail {

// nullptr stands for an empty map.
ContextValue* find_value(ContextMap* map, std::uint64_t variable) noexcept;
// Throws: std::bad_alloc.
MapRef map_with(ContextMap* map, const ValueRef& value);
MapRef map_without(ContextMap* map, std::uint64_t variable);
// Where the variable's value is, if nobody else sees the map; else nullptr.
ContextValue** place_to_replace(ContextMap* map, std::uint64_t variable) noexcept;
std::size_t count_values(ContextMap* map) noexcept;

}  // namespace ouro::detail
