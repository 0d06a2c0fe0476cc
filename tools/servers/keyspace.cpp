#include "keyspace.hpp"

namespace servers {

// An entry whose time has come is as good as gone, and goes when it is met.
Keyspace::Entry* Keyspace::find(Part& part, std::string_view name) {
  const auto found = part.entries.find(name);
  if (found == part.entries.end()) return nullptr;
  Entry& entry = found->second;
  if (entry.ends == never || entry.ends > Clock::now()) return &entry;
  part.entries.erase(found);
  return nullptr;
}

bool Keyspace::erase(std::string_view name) {
  Part& part = part_of(name);
  const std::lock_guard lock(part.mutex);
  if (!find(part, name)) return false;
  part.entries.erase(part.entries.find(name));
  return true;
}

void Keyspace::clear() {
  for (Part& part : parts_) {
    Entries gone;
    const std::lock_guard lock(part.mutex);
    gone.swap(part.entries);
  }
}

std::size_t Keyspace::size() {
  std::size_t all = 0;
  for (Part& part : parts_) {
    const std::lock_guard lock(part.mutex);
    all += part.entries.size();
  }
  return all;
}

}  // namespace servers
