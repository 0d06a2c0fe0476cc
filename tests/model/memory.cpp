#include "memory.hpp"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <utility>

namespace ouro::model {
namespace {

constexpr std::size_t totals_max = 128;  // as many as a mask has bits

bool is_total(std::memory_order order) noexcept { return order == std::memory_order_seq_cst; }

[[noreturn]] void give_up(const char* why) {
  std::fprintf(stderr, "model: %s\n", why);
  std::abort();
}

}  // namespace

bool acquires(std::memory_order order) noexcept {
  return order == std::memory_order_acquire || order == std::memory_order_consume ||
         order == std::memory_order_acq_rel || order == std::memory_order_seq_cst;
}

bool releases(std::memory_order order) noexcept {
  return order == std::memory_order_release || order == std::memory_order_acq_rel || order == std::memory_order_seq_cst;
}

void Memory::reset(unsigned stale) noexcept {
  stale_left_ = stale;
  ++generation_;
  used_ = 0;
  hash_ = 0;
  totals_.clear();
}

Location* Memory::find(const void* address) noexcept {
  const auto key = reinterpret_cast<std::uintptr_t>(address);
  std::size_t slot = static_cast<std::size_t>(mix(key, 1)) & (table_.size() - 1);
  for (; table_[slot].generation == generation_; slot = (slot + 1) & (table_.size() - 1)) {
    if (table_[slot].address == key) return &locations_[table_[slot].index];
  }
  return nullptr;
}

// From here on the location holds `initial`, and has since the beginning of time.
void Memory::begin(Location& made, std::uint64_t initial) noexcept {
  hash_ -= made.hash_;
  made.hash_ = 0;
  made.overwritten_ = false;
  made.read_.fill(0);
  made.wrote_.fill(0);
  made.stores_.clear();
  made.order_.clear();
  for (auto& seen : made.seen_) seen.clear();
  made.looked_at_.fill(false);
  made.old_read_.fill(0);
  made.caught_up_.fill(0);
  made.accesses_.clear();
  made.stores_.push_back({initial, Stamp{0, 0}, VectorClock(), false, 0});
  made.order_.push_back(0);
}

Location& Memory::at(const void* address, std::uint64_t initial) {
  if (Location* found = find(address)) {
    if (found->overwritten_) begin(*found, initial);
    return *found;
  }
  const auto key = reinterpret_cast<std::uintptr_t>(address);
  std::size_t slot = static_cast<std::size_t>(mix(key, 1)) & (table_.size() - 1);
  while (table_[slot].generation == generation_) slot = (slot + 1) & (table_.size() - 1);
  if (used_ > table_.size() / 2) give_up("more than 512 atomics in one execution");
  if (used_ == locations_.size()) {
    locations_.reserve(table_.size());  // references stay good
    locations_.emplace_back();
  }
  table_[slot] = Slot{key, generation_, static_cast<std::uint32_t>(used_)};
  Location& made = locations_[used_++];
  made.address_ = key;
  made.hash_ = 0;
  begin(made, initial);
  return made;
}

void Memory::forget(const void* address) noexcept {
  if (Location* found = find(address)) found->overwrite();
}

bool Location::conflicts(unsigned thread, const VectorClock& known, bool writes) noexcept {
  bool found = false;
  for (unsigned other = 0; other < threads_max; ++other) {
    if (other == thread) continue;
    found = found || wrote_[other] > known[other] || (writes && read_[other] > known[other]);
  }
  (writes ? wrote_ : read_)[thread] = known[thread];
  return found;
}

// The place of the oldest store that the thread may still read, knowing `known`.
std::uint16_t Memory::oldest_visible(const Location& at, unsigned thread, const VectorClock& known) const noexcept {
  std::uint16_t oldest = at.stores_[at.caught_up_[thread]].place;
  for (unsigned other = 0; other < threads_max; ++other) {
    const auto& seen = at.seen_[other];
    for (std::size_t i = seen.size(); i-- > 0;) {
      if (seen[i].tick <= known[other]) {
        oldest = std::max(oldest, at.stores_[seen[i].store].place);
        break;  // what a thread sees only gets newer
      }
    }
  }
  return oldest;
}

// True if a read-modify-write has read the store at this place: nothing may come between the two.
bool Memory::taken(const Location& at, std::uint16_t place) const noexcept {
  return place + 1U < at.order_.size() && at.stores_[at.order_[place + 1U]].exchanged;
}

void Memory::insert(Location& at, std::uint16_t place, const Location::Store& store) {
  at.stores_.push_back(store);
  at.order_.insert(at.order_.begin() + place, static_cast<std::uint16_t>(at.stores_.size() - 1));
  for (std::size_t i = place; i < at.order_.size(); ++i) at.stores_[at.order_[i]].place = static_cast<std::uint16_t>(i);
}

void Memory::remove_last(Location& at) noexcept {
  const std::uint16_t place = at.stores_.back().place;
  at.order_.erase(at.order_.begin() + place);
  at.stores_.pop_back();
  for (std::size_t i = place; i < at.order_.size(); ++i) at.stores_[at.order_[i]].place = static_cast<std::uint16_t>(i);
}

void Memory::note(Location& at, unsigned thread, const View& view, std::uint16_t store, bool writes, bool acquire,
                  bool total) {
  VectorClock known = view.known;
  if (acquire) known.join(at.stores_[store].carried);
  int number = -1;
  if (total) {
    if (totals_.size() == totals_max) give_up("more than 128 seq_cst operations in one execution");
    number = static_cast<int>(totals_.size());
    totals_.push_back({{thread, view.known[thread]}, false, view.known, known, 0});
  }
  at.accesses_.push_back({{thread, view.known[thread]}, store, writes, number, known});
}

void Memory::forget_last(Location& at) noexcept {
  if (at.accesses_.back().total >= 0) totals_.pop_back();
  at.accesses_.pop_back();
}

// True if the seq_cst operations can still be put into one order. A constraint from A to B is a bit of A in the mask of
// B; the constraints are those of [atomics.order] 4, where of a location's accesses a store at place p has rank 2p, and
// a load of it 2p + 1: coherence-ordered-before is to have the lower rank.
bool Memory::ordered() const {
  std::array<TotalMask, totals_max> before{};
  const std::size_t count = totals_.size();
  for (std::size_t b = 0; b < count; ++b) {
    before[b] = totals_[b].after;
    for (std::size_t a = 0; a < count; ++a) {
      // Of the same thread; or something behind A in its thread happened before B's thread came to B.
      const Stamp from = totals_[a].by;
      if (a != b && totals_[b].before[from.thread] > from.tick) before[b] |= TotalMask{1} << a;
    }
  }
  struct Ranked {
    unsigned rank;
    TotalMask sources, targets;
  };
  static std::vector<Ranked> ranked;
  for (std::size_t i = 0; i < used_; ++i) {
    const Location& at = locations_[i];
    ranked.clear();
    for (const Location::Access& access : at.accesses_) {
      Ranked entry{at.stores_[access.store].place * 2U + !access.writes, 0, 0};
      if (access.total >= 0) entry.sources = entry.targets = TotalMask{1} << access.total;
      for (std::size_t f = 0; f < count; ++f) {
        if (!totals_[f].fence) continue;
        if (access.known.knows(totals_[f].by) && access.by.thread != totals_[f].by.thread)
          entry.sources |= TotalMask{1} << f;
        if (access.by.thread == totals_[f].by.thread) {
          (totals_[f].by.tick < access.by.tick ? entry.sources : entry.targets) |= TotalMask{1} << f;
        } else if (totals_[f].known.knows(access.by)) {
          entry.targets |= TotalMask{1} << f;
        }
      }
      if (entry.sources | entry.targets) ranked.push_back(entry);
    }
    std::sort(ranked.begin(), ranked.end(), [](const Ranked& a, const Ranked& b) { return a.rank < b.rank; });
    TotalMask lower = 0, same = 0;
    for (std::size_t r = 0; r < ranked.size(); ++r) {
      if (r != 0 && ranked[r].rank != ranked[r - 1].rank) {
        lower |= same;
        same = 0;
      }
      same |= ranked[r].sources;
      if (lower == 0) continue;
      for (std::size_t b = 0; b < count; ++b) {
        if ((ranked[r].targets >> b & 1) != 0) before[b] |= lower;
      }
    }
  }
  // An order exists if the operations can be taken away one after the other, each when nothing is left before it.
  TotalMask left = count == totals_max ? ~TotalMask{0} : (TotalMask{1} << count) - 1;
  for (bool any = true; any && left != 0;) {
    any = false;
    for (std::size_t b = 0; b < count; ++b) {
      if ((left >> b & 1) != 0 && (before[b] & left) == 0) {
        left &= ~(TotalMask{1} << b);
        any = true;
      }
    }
  }
  return left == 0;
}

bool Memory::permitted(Location& at, unsigned thread, const View& view, Candidate what, bool reads, bool writes,
                       std::memory_order order) {
  if (totals_.empty() && !is_total(order)) return true;
  std::uint16_t store = what.store;
  if (writes) {
    const std::uint16_t place = reads ? static_cast<std::uint16_t>(at.stores_[store].place + 1) : store;
    const VectorClock carried = reads ? at.stores_[store].carried : VectorClock();
    insert(at, place, {0, {thread, view.known[thread]}, carried, reads, 0});
    store = static_cast<std::uint16_t>(at.stores_.size() - 1);
  }
  note(at, thread, view, store, writes, reads && acquires(order), is_total(order));
  const bool possible = ordered();
  forget_last(at);
  if (writes) remove_last(at);
  return possible;
}

// Of candidates_, the newest of which is the first.
Memory::Candidate Memory::choose_candidate(Location& at, unsigned thread, bool reads) {
  std::uint16_t none = 0;
  std::uint16_t& old = reads ? at.old_read_[thread] : none;
  if (stale_left_ == 0) {
    // The newest, or the one that it has been reading.
    const auto same = std::find_if(candidates_.begin() + 1, candidates_.end(),
                                   [&](const Candidate& candidate) { return candidate.store + 1U == old; });
    if (same == candidates_.end()) {
      candidates_.resize(1);
    } else {
      candidates_[1] = *same;
      candidates_.resize(2);
    }
  }
  const Candidate chosen = candidates_[choose_(static_cast<unsigned>(candidates_.size()))];
  if (chosen.store != candidates_[0].store && chosen.store + 1U != old) {
    --stale_left_;
    old = static_cast<std::uint16_t>(chosen.store + 1);
  }
  return chosen;
}

Effect Memory::commit_load(Location& at, unsigned thread, View& view, std::uint16_t store, std::memory_order order) {
  note(at, thread, view, store, false, acquires(order), is_total(order));
  const Location::Store& from = at.stores_[store];
  at.seen_[thread].push_back({view.known[thread], store});
  at.looked_at_[thread] = true;
  ++view.known[thread];
  (acquires(order) ? view.known : view.unacquired).join(from.carried);
  return {from.value, from.by, false, static_cast<unsigned>(at.order_.size() - 1 - from.place)};
}

Effect Memory::load(Location& at, unsigned thread, View& view, std::memory_order order, const VectorClock* more) {
  VectorClock known = view.known;
  if (more) known.join(*more);
  const std::uint16_t oldest = oldest_visible(at, thread, known);
  candidates_.clear();
  for (std::size_t place = at.order_.size(); place-- > oldest;) {
    const Candidate candidate{at.order_[place], false};
    if (permitted(at, thread, view, candidate, true, false, order)) candidates_.push_back(candidate);
  }
  const Candidate chosen = choose_candidate(at, thread, true);
  return commit_load(at, thread, view, chosen.store, order);
}

void Memory::rehash(Location& at) noexcept {
  hash_ -= at.hash_;
  std::uint64_t hash = mix(at.address_, at.order_.size());
  for (const std::uint16_t store : at.order_) {
    hash = mix(hash, std::uint64_t{at.stores_[store].by.thread} << 32 | at.stores_[store].by.tick);
  }
  at.hash_ = hash;
  hash_ += hash;
}

Effect Memory::store(Location& at, unsigned thread, View& view, std::uint64_t value, std::memory_order order) {
  const std::uint16_t oldest = oldest_visible(at, thread, view.known);
  candidates_.clear();
  for (std::size_t place = at.order_.size(); place > oldest; --place) {
    if (taken(at, static_cast<std::uint16_t>(place - 1))) continue;
    const Candidate candidate{static_cast<std::uint16_t>(place), false};
    if (permitted(at, thread, view, candidate, false, true, order)) candidates_.push_back(candidate);
  }
  const std::uint16_t place = choose_candidate(at, thread, false).store;
  const Stamp by{thread, view.known[thread]};
  insert(at, place, {value, by, releases(order) ? view.known : view.fenced, false, 0});
  const auto made = static_cast<std::uint16_t>(at.stores_.size() - 1);
  note(at, thread, view, made, true, false, is_total(order));
  at.seen_[thread].push_back({by.tick, made});
  ++view.known[thread];
  rehash(at);
  return {value, by, true, static_cast<unsigned>(at.order_.size() - 1U - place)};
}

Memory::Candidate Memory::choose_source(Location& at, unsigned thread, const View& view, std::memory_order order) {
  const std::uint16_t oldest = oldest_visible(at, thread, view.known);
  candidates_.clear();
  for (std::size_t place = at.order_.size(); place-- > oldest;) {
    if (taken(at, static_cast<std::uint16_t>(place))) continue;
    const Candidate candidate{at.order_[place], true};
    if (permitted(at, thread, view, candidate, true, true, order)) candidates_.push_back(candidate);
  }
  return choose_candidate(at, thread, true);
}

Effect Memory::commit_exchange(Location& at, unsigned thread, View& view, Candidate from, std::uint64_t value,
                               std::memory_order order) {
  const Location::Store source = at.stores_[from.store];
  const Stamp by{thread, view.known[thread]};
  VectorClock carried = releases(order) ? view.known : view.fenced;
  carried.join(source.carried);
  insert(at, static_cast<std::uint16_t>(source.place + 1), {value, by, carried, true, 0});
  const auto made = static_cast<std::uint16_t>(at.stores_.size() - 1);
  // What it acquires is what the store that it read carried.
  VectorClock known = view.known;
  if (acquires(order)) known.join(source.carried);
  note(at, thread, view, made, true, false, is_total(order));
  at.accesses_.back().known = known;
  if (is_total(order)) totals_.back().known = known;
  at.seen_[thread].push_back({by.tick, made});
  ++view.known[thread];
  (acquires(order) ? view.known : view.unacquired).join(source.carried);
  rehash(at);
  return {source.value, source.by, true, static_cast<unsigned>(at.order_.size() - 2U - source.place)};
}

Effect Memory::compare_exchange(Location& at, unsigned thread, View& view, std::uint64_t expected,
                                std::uint64_t desired, std::memory_order success, std::memory_order failure) {
  const std::uint16_t oldest = oldest_visible(at, thread, view.known);
  candidates_.clear();
  for (std::size_t place = at.order_.size(); place-- > oldest;) {
    const std::uint16_t store = at.order_[place];
    const bool equal = at.stores_[store].value == expected;
    if (equal && taken(at, static_cast<std::uint16_t>(place))) continue;
    const Candidate candidate{store, equal};
    if (permitted(at, thread, view, candidate, true, equal, equal ? success : failure))
      candidates_.push_back(candidate);
  }
  const Candidate chosen = choose_candidate(at, thread, true);
  if (chosen.exchanges) return commit_exchange(at, thread, view, chosen, desired, success);
  return commit_load(at, thread, view, chosen.store, failure);
}

unsigned Memory::fence(unsigned thread, View& view, std::memory_order order, TotalMask after) {
  const VectorClock before = view.known;
  const Stamp by{thread, view.known[thread]};
  if (acquires(order)) view.known.join(view.unacquired);
  if (is_total(order)) {
    if (totals_.size() == totals_max) give_up("more than 128 seq_cst operations in one execution");
    totals_.push_back({by, true, before, view.known, after});
  }
  if (releases(order)) view.fenced = view.known;
  ++view.known[thread];
  return totals_.empty() ? 0 : static_cast<unsigned>(totals_.size() - 1);
}

void Memory::catch_up(unsigned thread) noexcept {
  for (std::size_t i = 0; i < used_; ++i) {
    Location& at = locations_[i];
    if (!std::exchange(at.looked_at_[thread], false)) continue;
    at.caught_up_[thread] = at.order_.back();
  }
}

}  // namespace ouro::model
