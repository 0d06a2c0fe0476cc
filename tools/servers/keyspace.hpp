// What a Redis server keeps: strings by name, some of which end at a time.
//
// Threads: any. The names are spread over parts, each with a lock, which is held for one look-up.
#pragma once

#include <array>
#include <chrono>
#include <cstddef>
#include <functional>
#include <mutex>
#include <string>
#include <string_view>
#include <unordered_map>

namespace servers {

class Keyspace {
 public:
  using Clock = std::chrono::steady_clock;
  static constexpr Clock::time_point never = Clock::time_point::max();

  struct Entry {
    std::string value;
    Clock::time_point ends = never;
  };

  // Calls f with the entry of that name, or nullptr, under its lock; gives what f gives.
  template <class F>
  auto look(std::string_view name, F f) {
    Part& part = part_of(name);
    const std::lock_guard lock(part.mutex);
    return f(find(part, name));
  }
  // The same with an entry that may be changed, and is made if need be; `fresh`: it was.
  template <class F>
  auto change(std::string_view name, F f) {
    Part& part = part_of(name);
    const std::lock_guard lock(part.mutex);
    Entry* entry = find(part, name);
    const bool fresh = entry == nullptr;
    if (fresh) entry = &part.entries.emplace(std::string(name), Entry()).first->second;
    return f(*entry, fresh);
  }
  bool erase(std::string_view name);
  void clear();
  // Those whose time has come, but that nobody has asked for since, count.
  std::size_t size();

 private:
  struct Hash {
    using is_transparent = void;
    std::size_t operator()(std::string_view name) const noexcept { return std::hash<std::string_view>()(name); }
  };
  using Entries = std::unordered_map<std::string, Entry, Hash, std::equal_to<>>;
  struct Part {
    std::mutex mutex;
    Entries entries;
  };

  Part& part_of(std::string_view name) noexcept { return parts_[(Hash()(name) >> 32) % parts_.size()]; }
  static Entry* find(Part& part, std::string_view name);

  std::array<Part, 64> parts_;
};

}  // namespace servers
