// The slow half of the wheel: advancing, emptying slots, sorting. What holds and why: see the head of timer_wheel.hpp.
#include "timer_wheel.hpp"

#include <new>
#include <utility>

namespace ouro::detail {

TimerWheel::~TimerWheel() {
  shrink();
  delete[] waypoints_;
}

TimerNode* TimerWheel::detach(std::uint32_t id) noexcept {
  TimerNode* head = lists_[id].head;
  lists_[id] = List();
  occupied_[id / slots] &= ~(std::uint64_t{1} << (id % slots));
  return head;
}

void TimerWheel::append_early(TimerNode& node, Stamp at) noexcept {
  const bool first = lists_[early].head == nullptr;
  early_min_ = first ? at : std::min(early_min_, at);
  early_max_ = first ? at : std::max(early_max_, at);
  append(node, early);
}

void TimerWheel::insert_apart(TimerNode& node, Stamp at) noexcept {
  if (at == end_of_time) return append(node, never);
  bound_ = std::min(bound_, at);
  if (lists_[early].head != nullptr && at <= early_max_) return append_early(node, at);
  List& list = lists_[due];
  TimerNode* before = list.tail;
  for (int step = 0; before != nullptr && before->deadline > node.deadline; before = before->prev) {
    if (++step > search_max) return append_early(node, at);
  }
  node.slot = due;
  node.prev = before;
  node.next = before != nullptr ? before->next : list.head;
  (before != nullptr ? before->next : list.head) = &node;
  (node.next != nullptr ? node.next->prev : list.tail) = &node;
  occupied_[due / slots] |= 1;
}

TimerNode* TimerWheel::pop_slow(Stamp present) noexcept {
  for (;;) {
    TimerNode* node = lists_[due].head;
    if (lists_[early].head != nullptr) {
      if (early_min_ <= present && (node == nullptr || early_min_ < stamp(node->deadline))) {
        empty(early, Aim::sort);
        continue;
      }
      if (node == nullptr) {
        bound_ = early_min_;
        return nullptr;
      }
    }
    if (node == nullptr) {
      node = advance(present);
      if (node == nullptr) return nullptr;
    }
    const Stamp at = stamp(node->deadline);
    if (at <= present) {
      if (node->next != nullptr) __builtin_prefetch(node->next->next, 1);
      unlink(*node);
      return node;
    }
    bound_ = lists_[early].head != nullptr ? std::min(at, early_min_) : at;
    return nullptr;
  }
}

unsigned TimerWheel::lowest_level() const noexcept {
  unsigned used = used_;
  while (used != 0 && occupied_[__builtin_ctz(used)] == 0) used &= used - 1;
  return used != 0 ? static_cast<unsigned>(__builtin_ctz(used)) : levels;
}

// Due and early are empty. Returns the timer that is now the first, due or not; nullptr if it is in a slot still.
TimerNode* TimerWheel::advance(Stamp present) noexcept {
  for (;;) {
    const unsigned level = lowest_level();
    used_ &= ~0U << level;
    if (level == levels) {
      bound_ = end_of_time;
      return nullptr;
    }
    const auto index = static_cast<unsigned>(__builtin_ctzll(occupied_[level]));
    const Tick start = start_of(level, index);
    const Tick present_tick = present >> tick_bits;
    if (start > present_tick) {
      bound_ = start << tick_bits;
      return nullptr;
    }
    const std::uint32_t id = level * slots + index;
    TimerNode* alone = lists_[id].head;
    if (alone->next == nullptr && stamp(alone->deadline) <= present) {
      cursor_ = stamp(alone->deadline) >> tick_bits;
      return alone;
    }
    const Tick last = start + ((Tick{1} << (level * level_bits)) - 1);
    const bool whole = level == 0 || last < present_tick;
    cursor_ = whole ? last : start;
    empty(id, whole ? Aim::sort : Aim::cascade);
    if (lists_[due].head != nullptr) return lists_[due].head;
  }
}

void TimerWheel::empty(std::uint32_t id, Aim aim) noexcept {
  TimerNode* rest = detach(id);
  std::size_t count = 0;
  if (waypoints_ != nullptr && id < due && waypoints_[id].count != 0) {
    count = gather_wide(rest, waypoints_[id]);
    if (count != 0) rest = nullptr;
    waypoints_[id].count = 0;
  }
  if (count == 0) count = gather(rest);
  for (;;) {
    if (aim == Aim::cascade) count = cascade(count);
    merge_into_due(sort(count), count);
    if (rest == nullptr) break;
    count = gather(rest);
  }
  if (capacity_ > capacity_kept) shrink();
}

// Takes the list from `node` on into entries_; without memory for all of it, as many as fit, and `node` is the rest.
std::size_t TimerWheel::gather(TimerNode*& node) noexcept {
  std::size_t count = 0;
  do {
    if (count == capacity_ && !grow(2 * count, count)) break;
    entries_[count++] = Entry{stamp(node->deadline), node};
    node = node->next;
  } while (node != nullptr);
  return count;
}

// As gather(), for the whole list or, without memory, for nothing of it. The waypoints cut the list into chains, which
// are walked side by side, so that their cache misses overlap: once to count, then to take, each chain to its place.
std::size_t TimerWheel::gather_wide(TimerNode* head, const Waypoints& waypoints) noexcept {
  constexpr std::size_t chains_max = waypoints_max + 1;
  TimerNode* starts[chains_max];
  std::size_t places[chains_max] = {};
  std::size_t chains = 0;
  if ((head->slot & waypoint_flag) == 0) starts[chains++] = head;
  for (std::size_t i = 0; i < waypoints.count; ++i) starts[chains++] = waypoints.nodes[i];
  const auto walk = [&](auto visit) {
    TimerNode* at[chains_max];
    std::size_t chain[chains_max];
    std::size_t left = chains;
    std::copy_n(starts, chains, at);
    for (std::size_t i = 0; i < chains; ++i) chain[i] = i;
    while (left > 0) {
      for (std::size_t i = 0; i < left; ++i) {
        visit(chain[i], at[i]);
        at[i] = at[i]->next;
      }
      for (std::size_t i = left; i-- > 0;) {
        if (at[i] != nullptr && (at[i]->slot & waypoint_flag) == 0) continue;
        at[i] = at[--left];
        chain[i] = chain[left];
      }
    }
  };
  walk([&](std::size_t chain, TimerNode*) { ++places[chain]; });
  std::size_t total = 0;
  for (std::size_t i = 0; i < chains; ++i) total += std::exchange(places[i], total);
  if (total > capacity_ && !grow(total, 0)) return 0;
  walk([&](std::size_t chain, TimerNode* node) { entries_[places[chain]++] = Entry{stamp(node->deadline), node}; });
  return total;
}

// Places the entries anew, relative to the cursor; those of the cursor's own tick stay, and their count is returned.
std::size_t TimerWheel::cascade(std::size_t count) noexcept {
  std::size_t kept = 0;
  for (std::size_t i = 0; i < count; ++i) {
    if (i + prefetch_ahead < count) __builtin_prefetch(entries_[i + prefetch_ahead].node, 1);
    const Entry entry = entries_[i];
    const Tick tick = entry.at >> tick_bits;
    if (tick == cursor_) {
      entries_[kept++] = entry;
    } else {
      place(*entry.node, tick, level_of(tick));
    }
  }
  return kept;
}

const TimerWheel::Entry* TimerWheel::sort(std::size_t count) noexcept {
  if (count < 2) return entries_;
  if (count <= rank_max) return rank_sort(count);
  Stamp least = entries_[0].at;
  Stamp most = least;
  bool sorted = true;
  for (std::size_t i = 1; i < count; ++i) {
    sorted &= entries_[i - 1].at <= entries_[i].at;
    least = std::min(least, entries_[i].at);
    most = std::max(most, entries_[i].at);
  }
  return sorted ? entries_ : radix_sort(count, least, most);
}

// Counts for each entry how many come before it: as fast as anything for a few dozen, because nothing is mispredicted.
const TimerWheel::Entry* TimerWheel::rank_sort(std::size_t count) noexcept {
  std::uint32_t ranks[rank_max];
  for (std::size_t i = 0; i < count; ++i) {
    const Stamp key = entries_[i].at;
    std::uint32_t rank = 0;
    for (std::size_t j = 0; j < i; ++j) {
      const bool after = entries_[j].at > key;
      ranks[j] += after;
      rank += !after;
    }
    ranks[i] = rank;
  }
  Entry* target = entries_ + capacity_;
  for (std::size_t i = 0; i < count; ++i) target[ranks[i]] = entries_[i];
  return target;
}

// From the lowest digit up, over the bits in which the deadlines differ, with digits of about log2(count) bits, so that
// clearing and summing the counters costs no more than moving the entries.
const TimerWheel::Entry* TimerWheel::radix_sort(std::size_t count, Stamp least, Stamp most) noexcept {
  const unsigned key_bits = static_cast<unsigned>(64 - __builtin_clzll(most - least));
  const unsigned wanted = std::min(digit_bits_max, static_cast<unsigned>(63 - __builtin_clzll(count)));
  const unsigned passes = (key_bits + wanted - 1) / wanted;
  const unsigned digit_bits = (key_bits + passes - 1) / passes;
  const Stamp mask = (Stamp{1} << digit_bits) - 1;
  Entry* source = entries_;
  Entry* target = entries_ + capacity_;
  for (unsigned pass = 0; pass < passes; ++pass) {
    const unsigned shift = pass * digit_bits;
    std::size_t starts[std::size_t{1} << digit_bits_max];
    std::fill_n(starts, mask + 1, std::size_t{0});
    for (std::size_t i = 0; i < count; ++i) ++starts[(source[i].at - least) >> shift & mask];
    std::size_t sum = 0;
    for (std::size_t digit = 0; digit <= mask; ++digit) {
      const std::size_t size = starts[digit];
      starts[digit] = sum;
      sum += size;
    }
    for (std::size_t i = 0; i < count; ++i) target[starts[(source[i].at - least) >> shift & mask]++] = source[i];
    std::swap(source, target);
  }
  return source;
}

void TimerWheel::merge_into_due(const Entry* entries, std::size_t count) noexcept {
  if (count == 0) return;
  List& list = lists_[due];
  TimerNode* after = list.head;
  TimerNode* before = nullptr;
  for (std::size_t i = 0; i < count; ++i) {
    if (i + prefetch_ahead < count) __builtin_prefetch(entries[i + prefetch_ahead].node, 1);
    TimerNode* node = entries[i].node;
    while (after != nullptr && stamp(after->deadline) <= entries[i].at) {
      before = after;
      after = after->next;
    }
    node->slot = due;
    node->prev = before;
    (before != nullptr ? before->next : list.head) = node;
    before = node;
    node->next = after;
    if (after != nullptr) after->prev = node;
  }
  if (after == nullptr) list.tail = before;
  occupied_[due / slots] |= 1;
}

bool TimerWheel::grow(std::size_t wanted, std::size_t used) noexcept {
  std::size_t capacity = capacity_;
  while (capacity < wanted) capacity *= 2;
  Entry* entries = new (std::nothrow) Entry[2 * capacity];
  if (entries == nullptr) return false;
  std::copy_n(entries_, used, entries);
  shrink();
  entries_ = entries;
  capacity_ = capacity;
  return true;
}

void TimerWheel::shrink() noexcept {
  if (entries_ != first_entries_) delete[] entries_;
  entries_ = first_entries_;
  capacity_ = capacity_first;
}

void TimerWheel::mark(TimerNode& node) noexcept {
  if (waypoints_ == nullptr) {
    if (size_ < waypoints_from) return;
    waypoints_ = new (std::nothrow) Waypoints[levels * slots]();
    if (waypoints_ == nullptr) return;
  }
  Waypoints& points = waypoints_[node.slot];
  if (points.count == 0) points.stride = 1;
  if (++points.passed < points.stride) return;
  points.passed = 0;
  if (points.count == waypoints_max) {
    for (std::size_t i = 0; i < waypoints_max / 2; ++i) {
      points.nodes[2 * i]->slot &= ~waypoint_flag;
      points.nodes[i] = points.nodes[2 * i + 1];
    }
    points.count = waypoints_max / 2;
    points.stride *= 2;
  }
  points.nodes[points.count++] = &node;
  node.slot |= waypoint_flag;
}

void TimerWheel::unmark(TimerNode& node) noexcept {
  node.slot &= ~waypoint_flag;
  Waypoints& points = waypoints_[node.slot];
  TimerNode** end = points.nodes + points.count;
  TimerNode** found = std::find(points.nodes, end, &node);
  std::copy(found + 1, end, found);
  --points.count;
}

TimerNode* TimerWheel::pop_any() noexcept {
  for (unsigned word = 0; word <= levels; ++word) {
    if (occupied_[word] == 0) continue;
    TimerNode* node = lists_[word * slots + static_cast<unsigned>(__builtin_ctzll(occupied_[word]))].head;
    unlink(*node);
    return node;
  }
  return nullptr;
}

TimerWheel::Stamp TimerWheel::least(const List& list, Stamp bound) noexcept {
  Stamp result = end_of_time;
  int seen = 0;
  for (const TimerNode* node = list.head; node != nullptr; node = node->next) {
    if (++seen > scan_max) return bound;
    result = std::min(result, stamp(node->deadline));
  }
  return result;
}

TimePoint TimerWheel::next_deadline() const noexcept {
  Stamp result = end_of_time;
  if (lists_[due].head != nullptr) result = stamp(lists_[due].head->deadline);
  result = std::min(result, least(lists_[early], early_min_));
  if (result != end_of_time) return time_of(result);
  const unsigned level = lowest_level();
  if (level == levels) return TimePoint::max();
  const auto index = static_cast<unsigned>(__builtin_ctzll(occupied_[level]));
  return time_of(least(lists_[level * slots + index], start_of(level, index) << tick_bits));
}

}  // namespace ouro::detail
