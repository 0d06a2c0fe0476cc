// A hierarchical timer wheel in exact order: timers come out by deadline to the nanosecond, equal deadlines in the
// order in which they were inserted, as from a sorted list, at the price of a wheel. It knows no clock, starts nothing
// and owns no timer: `now` is an argument, and nodes live with whoever waits.
//
// Source: G. Varghese, T. Lauck, "Hashed and Hierarchical Timing Wheels" (SOSP 1987), DOI 10.1145/41457.37504,
// scheme 7. Deviations: a slot is only a bucket, never a rounding, since it is sorted before anything of it fires;
// empty slots are skipped with bitmaps, so that time may jump; and the wheel turns only when somebody asks.
//
// Geometry. Times are counted from TimePoint::min() (a stamp, unsigned, so that a clock may start anywhere). A tick is
// 2^17 ns = 131 us; a tick number has 47 bits, read as eight digits of six bits. Level L has a slot for each value of
// digit L:
//     level        0        1       2      3       4       5       6          7
//     slot is      131 us   8.4 ms  537 ms 34.4 s  36.7 m  39.1 h  104 days   18.3 years
// Besides the 512 slots there are three lists: `due` (sorted), `early` (see below), `never` (TimePoint::max()).
//
// Where a timer is. `cursor_` is a tick up to which everything has been taken out of the slots.
//   (I1) A timer whose tick T <= cursor_ is in due or early. One with T > cursor_ is in the slot digit(T, L) of level
//   L,
//        the highest digit in which T and the cursor differ.
// So in each level only slots after the cursor's digit are in use, everything in a level comes before everything in the
// next, and the first slot of the lowest level in use holds the nearest timers. The cursor may move on, without
// touching a timer, up to just before the start of that slot: the digits above L are the same for both, and digit L
// stays below the slot's, hence (I1) holds still. insert() does that, so that a quiet loop's new timers land close.
//   (I2) No deadline in due, early or a slot is before bound_, and no slot in use starts before it.
// bound_ is what makes the turn without a due timer cheap: one comparison. cancel() leaves it too low, which costs one
// walk down the slow path, where it is set anew.
//
// Advancing. When due and early are empty and the first slot in use starts at or before `now`, the cursor goes to it
// and the slot is emptied. Level 0: into due, sorted. Above: the timers are inserted anew, relative to the new cursor
// (cascaded), each at most once per level. Two shortcuts, both of which keep (I1): a lone timer that is due is handed
// out at once, and the cursor goes to its tick; a slot that ends before `now` is sorted as it is, whatever its level,
// and the cursor goes to its end.
//
// Order. Claim: of two timers with equal deadlines that are both armed, the one inserted first comes first in its list.
// Their ticks are equal, so by (I1) they are in the same slot, or both in due or early. Lists are appended to at the
// end; emptying a slot walks it from the front, and the lists it cascades to are empty when it begins, because lower
// levels are served first; the sorts are stable; merging into due, and inserting into it, goes behind equals. For early
// see there. Thus no sequence number is stored. Different deadlines: due is sorted, and by (I1) and the order of the
// slots whatever is not in due or early comes later than all that is.
//
// Inserting into the tick that is current (a zero delay, a deadline in the past) must find its exact place in due.
// Such deadlines mostly increase, so the search goes from the back and mostly ends at once. Where it does not end
// within search_max steps, the timer goes to the end of `early`, unsorted, with the least and the greatest deadline in
// it kept as bounds; when the least becomes due before due's first, early is sorted and merged. To keep ties in order,
// a timer not later than early's greatest goes to early too, even if its place in due is near: so of equal deadlines
// those in due are older than those in early, and those in due win the merge. A flood in any order is thus sorted once.
// The bad case left is a steady one: n timers within one tick, in random order, each re-armed into the same tick:
// O(sqrt(n)) each.
//
// Memory. What a million timers cost is cache misses, and the walk along a list is a chain of them, 100 ns each. So a
// slot is walked once per visit, into an array of {deadline, node}; that array is sorted (by counting ranks if small,
// else by radix, stable both), and what then touches the nodes again knows their addresses beforehand and prefetches.
// And once there are many timers, each slot notes up to sixteen of its timers as waypoints, evenly spaced: the walk
// proceeds from all of them at the same time. Waypoints are hints for speed; a cancelled one is struck out.
// The array grows to the largest slot and is given back if that was huge. Without memory the wheel works on in batches
// of capacity_first, slower; it never fails. Rejected: slots that are arrays (no O(1) cancel without holes, hence
// garbage under a load of timeouts that are all cancelled); handing out timers from the sorted array (the same);
// sorting the list in place (140 ns a timer at 13,000 in a slot, against 20).
//
// Cost, with N armed: insert and cancel O(1); a timer's expiry O(1) amortised, at most a move per level and its share
// of a sort; about 11 KB a wheel, 72 KB more from 16,384 timers on.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include <ouro/runtime/clock.hpp>
#include <ouro/runtime/config.hpp>
#include <ouro/runtime/detail/timer_node.hpp>

namespace ouro::detail {

class TimerWheel {
 public:
  TimerWheel() noexcept {}
  // The timers that are still armed are forgotten, not touched.
  ~TimerWheel();
  TimerWheel(const TimerWheel&) = delete;
  TimerWheel& operator=(const TimerWheel&) = delete;

  // Arms `node` for `node.deadline`. `now` only helps to place it well.
  // Requires: the node is not armed, stays where it is and keeps its deadline until popped or cancelled.
  // Complexity: O(1).
  void insert(TimerNode& node, TimePoint now) noexcept;

  // Disarms `node`, wherever it is.
  // Requires: the node is armed in this wheel.
  // Complexity: O(1).
  void cancel(TimerNode& node) noexcept;

  // Takes out the earliest timer with a deadline <= `now`, among equal deadlines the one inserted first; nullptr if
  // there is none.
  // Complexity: one comparison if nothing is due.
  TimerNode* pop_due(TimePoint now) noexcept {
    const Stamp present = stamp(now);
    return present < bound_ ? nullptr : pop_slow(present);
  }

  // Takes out any timer, in no particular order; nullptr if none is left. For closing.
  TimerNode* pop_any() noexcept;

  // When to call pop_due() next: never later than the nearest deadline; TimePoint::max() if nothing ever becomes due.
  // Exact if at most scan_max timers share the nearest timer's list; else it may be the start of its slot. Each
  // pop_due() at such a time moves those timers at least one level down, so that a timer is waited for in vain at most
  // once per level, and once more for an early list of which the least was cancelled. Complexity: O(1), at most
  // scan_max timers are looked at.
  TimePoint next_deadline() const noexcept;

  // How many timers are armed, those that never fire included.
  std::size_t size() const noexcept { return size_; }

 private:
  // Nanoseconds since TimePoint::min(): unsigned, in the same order.
  using Stamp = std::uint64_t;
  using Tick = std::uint64_t;

  struct List {
    TimerNode* head = nullptr;
    TimerNode* tail = nullptr;
  };

  // A timer on its way from a slot to where it goes next: what sorting needs, without touching the node.
  struct Entry {
    Stamp at;
    TimerNode* node;
  };

  static constexpr std::size_t waypoints_max = 16;

  // Timers of one slot, in the order of its list, each with waypoint_flag in its `slot`.
  struct Waypoints {
    std::uint32_t count;
    std::uint32_t stride;  // every so many candidates one is taken; doubles when the array is full
    std::uint32_t passed;  // candidates since the last one taken
    TimerNode* nodes[waypoints_max];
  };

  // What a slot is emptied for.
  enum class Aim { sort, cascade };

  static constexpr unsigned tick_bits = 17;
  static constexpr unsigned level_bits = 6;
  static constexpr unsigned levels = 8;
  static constexpr unsigned slots = 64;

  // Ids of lists: level * slots + digit, then these; the bitmap's last word is theirs.
  static constexpr std::uint32_t due = levels * slots;
  static constexpr std::uint32_t early = due + 1;
  static constexpr std::uint32_t never = due + 2;
  static constexpr std::uint32_t lists = due + 3;
  static constexpr std::uint32_t waypoint_flag = 1024;

  static constexpr Stamp end_of_time = ~Stamp{0};
  static constexpr int search_max = 16;
  static constexpr int scan_max = 32;
  static constexpr std::uint32_t candidate_every = 64;
  static constexpr std::size_t waypoints_from = 16384;
  static constexpr std::size_t capacity_first = 64;
  static constexpr std::size_t capacity_kept = 65536;
  static constexpr std::size_t rank_max = 48;
  static constexpr unsigned digit_bits_max = 9;
  static constexpr std::size_t prefetch_ahead = 8;

  static Stamp stamp(TimePoint time) noexcept {
    return static_cast<Stamp>(time.time_since_epoch().count()) ^ (Stamp{1} << 63);
  }
  static TimePoint time_of(Stamp at) noexcept {
    return TimePoint(Duration(static_cast<Duration::rep>(at ^ (Stamp{1} << 63))));
  }
  static Stamp least(const List& list, Stamp bound) noexcept;

  Tick start_of(unsigned level, unsigned index) const noexcept {
    const unsigned shift = level * level_bits;
    return ((cursor_ >> shift & ~Tick{slots - 1}) | index) << shift;
  }

  // The highest digit in which `tick`, which is after the cursor, differs from it.
  unsigned level_of(Tick tick) const noexcept {
    return static_cast<unsigned>(63 - __builtin_clzll(tick ^ cursor_)) / level_bits;
  }

  void append(TimerNode& node, std::uint32_t id) noexcept;
  void place(TimerNode& node, Tick tick, unsigned level) noexcept;
  void unlink(TimerNode& node) noexcept;
  TimerNode* detach(std::uint32_t id) noexcept;
  void insert_apart(TimerNode& node, Stamp at) noexcept;
  void append_early(TimerNode& node, Stamp at) noexcept;

  TimerNode* pop_slow(Stamp present) noexcept;
  unsigned lowest_level() const noexcept;
  TimerNode* advance(Stamp present) noexcept;
  void empty(std::uint32_t id, Aim aim) noexcept;
  std::size_t gather(TimerNode*& node) noexcept;
  std::size_t gather_wide(TimerNode* head, const Waypoints& waypoints) noexcept;
  std::size_t cascade(std::size_t count) noexcept;
  const Entry* sort(std::size_t count) noexcept;
  const Entry* rank_sort(std::size_t count) noexcept;
  const Entry* radix_sort(std::size_t count, Stamp least, Stamp most) noexcept;
  void merge_into_due(const Entry* entries, std::size_t count) noexcept;

  bool grow(std::size_t wanted, std::size_t used) noexcept;
  void shrink() noexcept;
  void mark(TimerNode& node) noexcept;
  void unmark(TimerNode& node) noexcept;

  Stamp bound_ = end_of_time;
  Tick cursor_ = 0;
  std::size_t size_ = 0;
  std::uint32_t arrivals_ = 0;  // in slots, cascaded ones again: every candidate_every-th is a candidate for a waypoint
  std::uint32_t used_ = 0;      // levels that may be in use: a clear bit is certain, a set one is verified when read
  std::uint64_t occupied_[levels + 1] = {};
  List lists_[lists];
  Stamp early_min_ = 0;              // no more than the least in early, while that is not empty
  Stamp early_max_ = 0;              // no less than the greatest
  Waypoints* waypoints_ = nullptr;   // one per slot
  Entry* entries_ = first_entries_;  // 2 * capacity_ of them: the second half is the sorts' target
  std::size_t capacity_ = capacity_first;
  Entry first_entries_[2 * capacity_first];
};

inline void TimerWheel::append(TimerNode& node, std::uint32_t id) noexcept {
  List& list = lists_[id];
  node.slot = id;
  node.next = nullptr;
  node.prev = list.tail;
  TimerNode** link = list.tail != nullptr ? &list.tail->next : &list.head;
  *link = &node;
  list.tail = &node;
  occupied_[id / slots] |= std::uint64_t{1} << (id % slots);
  used_ |= 1U << (id / slots);
}

inline void TimerWheel::place(TimerNode& node, Tick tick, unsigned level) noexcept {
  append(node, level * slots + static_cast<std::uint32_t>((tick >> (level * level_bits)) % slots));
  if (++arrivals_ % candidate_every == 0) mark(node);
}

inline void TimerWheel::unlink(TimerNode& node) noexcept {
  if (OURO_UNLIKELY((node.slot & waypoint_flag) != 0)) unmark(node);
  List& list = lists_[node.slot];
  TimerNode** forward = node.prev != nullptr ? &node.prev->next : &list.head;
  TimerNode** backward = node.next != nullptr ? &node.next->prev : &list.tail;
  *forward = node.next;
  *backward = node.prev;
  occupied_[node.slot / slots] &= ~(std::uint64_t{list.head == nullptr} << (node.slot % slots));
  node.slot = TimerNode::not_armed;
  --size_;
}

inline void TimerWheel::insert(TimerNode& node, TimePoint now) noexcept {
  OURO_ASSERT(!node.armed());
  ++size_;
  const Stamp at = stamp(node.deadline);
  const Stamp present = stamp(now);
  if (present < bound_) cursor_ = std::max(cursor_, present >> tick_bits);
  const Tick tick = at >> tick_bits;
  if (tick <= cursor_ || at == end_of_time) return insert_apart(node, at);
  const unsigned level = level_of(tick);
  const unsigned below = tick_bits + level * level_bits;
  bound_ = std::min(bound_, at >> below << below);
  place(node, tick, level);
}

inline void TimerWheel::cancel(TimerNode& node) noexcept {
  OURO_ASSERT(node.armed());
  unlink(node);
}

}  // namespace ouro::detail
