#include "context_map.hpp"

#include <bit>
#include <new>

#include <ouro/runtime/detail/frame_pool.hpp>

namespace ouro::detail {

namespace {

constexpr unsigned bits_a_level = 4;

unsigned bit_of(std::uint64_t variable, unsigned shift) noexcept { return 1U << (variable >> shift & 15U); }
unsigned place_of(const ContextMap& map, unsigned bit) noexcept {
  return static_cast<unsigned>(std::popcount(map.present & (bit - 1)));
}
unsigned size_of(const ContextMap& map) noexcept { return static_cast<unsigned>(std::popcount(map.present)); }
std::size_t bytes_for(unsigned entries) noexcept { return sizeof(ContextMap) + entries * sizeof(void*); }

ContextValue* value_in(void* entry) noexcept { return static_cast<ContextValue*>(entry); }
ContextMap* branch_in(void* entry) noexcept { return static_cast<ContextMap*>(entry); }

ContextMap* allocate_map(unsigned entries) { return ::new (allocate_frame(bytes_for(entries))) ContextMap; }

// One entry of a node.
struct Entry {
  void* to;
  bool branch;

  void add_ref() const noexcept { branch ? branch_in(to)->add_ref() : value_in(to)->add_ref(); }
  void drop_ref() const noexcept { branch ? branch_in(to)->drop_ref() : value_in(to)->drop_ref(); }
};

Entry entry_at(ContextMap& map, unsigned bit) noexcept {
  return {map.entries()[place_of(map, bit)], (map.branches & bit) != 0};
}

// The node with one entry changed, added or (nullptr) left out. Takes the entry's reference over in any case.
MapRef copy_with(ContextMap& from, unsigned bit, Entry changed) {
  const unsigned present = changed.to ? from.present | bit : from.present & ~bit;
  ContextMap* made = nullptr;
  try {
    made = allocate_map(static_cast<unsigned>(std::popcount(present)));
  } catch (...) {
    if (changed.to) changed.drop_ref();
    throw;
  }
  made->present = static_cast<std::uint16_t>(present);
  made->branches = static_cast<std::uint16_t>((from.branches & ~bit) | (changed.to && changed.branch ? bit : 0));
  void** next = made->entries();
  for (unsigned left = present; left != 0; left &= left - 1) {
    const unsigned each = left & -left;
    if (each == bit) {
      *next++ = changed.to;
      continue;
    }
    const Entry entry = entry_at(from, each);
    entry.add_ref();
    *next++ = entry.to;
  }
  return MapRef(made);
}

// Takes the entry's reference over in any case.
MapRef with_one(unsigned bit, Entry only) {
  ContextMap* made = nullptr;
  try {
    made = allocate_map(1);
  } catch (...) {
    only.drop_ref();
    throw;
  }
  made->present = static_cast<std::uint16_t>(bit);
  *made->entries() = only.to;
  return MapRef(made);
}

MapRef with(ContextMap& map, unsigned shift, const ValueRef& value) {
  const unsigned bit = bit_of(value->variable, shift);
  if (map.present & bit) {
    const Entry there = entry_at(map, bit);
    if (there.branch) {
      return copy_with(map, bit, {with(*branch_in(there.to), shift + bits_a_level, value).release(), true});
    }
    if (value_in(there.to)->variable != value->variable) {
      const unsigned below = shift + bits_a_level;
      ContextValue* const other = value_in(there.to);
      const MapRef one = with_one(bit_of(other->variable, below), {ValueRef::share(other).release(), false});
      return copy_with(map, bit, {with(*one, below, value).release(), true});
    }
  }
  return copy_with(map, bit, {ValueRef(value).release(), false});
}

// nullptr: nothing is left.
MapRef without(ContextMap& map, unsigned shift, std::uint64_t variable) {
  const unsigned bit = bit_of(variable, shift);
  const Entry there = map.present & bit ? entry_at(map, bit) : Entry{nullptr, false};
  if (!there.to) return MapRef::share(&map);
  if (!there.branch) {
    if (value_in(there.to)->variable != variable) return MapRef::share(&map);
    return map.present == bit ? MapRef() : copy_with(map, bit, {nullptr, false});
  }
  MapRef below = without(*branch_in(there.to), shift + bits_a_level, variable);
  if (!below) return map.present == bit ? MapRef() : copy_with(map, bit, {nullptr, false});
  if (size_of(*below) == 1 && below->branches == 0) {
    return copy_with(map, bit, {ValueRef::share(value_in(below->entries()[0])).release(), false});
  }
  return copy_with(map, bit, {below.release(), true});
}

}  // namespace

void ContextMap::drop_ref() noexcept {
  if (refs.fetch_sub(1, std::memory_order_acq_rel) != 1) return;
  for (unsigned left = present; left != 0; left &= left - 1) entry_at(*this, left & -left).drop_ref();
  const std::size_t bytes = bytes_for(size_of(*this));
  this->~ContextMap();
  free_frame(this, bytes);
}

ContextValue* find_value(ContextMap* map, std::uint64_t variable) noexcept {
  for (unsigned shift = 0; map; shift += bits_a_level) {
    const unsigned bit = bit_of(variable, shift);
    if ((map->present & bit) == 0) return nullptr;
    const Entry entry = entry_at(*map, bit);
    if (!entry.branch) return value_in(entry.to)->variable == variable ? value_in(entry.to) : nullptr;
    map = branch_in(entry.to);
  }
  return nullptr;
}

MapRef map_with(ContextMap* map, const ValueRef& value) {
  if (map) return with(*map, 0, value);
  return with_one(bit_of(value->variable, 0), {ValueRef(value).release(), false});
}

MapRef map_without(ContextMap* map, std::uint64_t variable) { return map ? without(*map, 0, variable) : MapRef(); }

ContextValue** place_to_replace(ContextMap* map, std::uint64_t variable) noexcept {
  for (unsigned shift = 0; map; shift += bits_a_level) {
    // Acquire: pairs with the release of who let go of it last.
    if (map->refs.load(std::memory_order_acquire) != 1) return nullptr;
    const unsigned bit = bit_of(variable, shift);
    if ((map->present & bit) == 0) return nullptr;
    void** const entry = map->entries() + place_of(*map, bit);
    if ((map->branches & bit) == 0) {
      return value_in(*entry)->variable == variable ? reinterpret_cast<ContextValue**>(entry) : nullptr;
    }
    map = branch_in(*entry);
  }
  return nullptr;
}

std::size_t count_values(ContextMap* map) noexcept {
  if (!map) return 0;
  std::size_t count = 0;
  for (unsigned left = map->present; left != 0; left &= left - 1) {
    const Entry entry = entry_at(*map, left & -left);
    count += entry.branch ? count_values(branch_in(entry.to)) : 1;
  }
  return count;
}

}  // namespace ouro::detail
