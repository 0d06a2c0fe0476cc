// The graph of waits: gathered, solved, and told in words.
#include "wait_graph.hpp"

#include <cxxabi.h>

#include <algorithm>
#include <cstdlib>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

namespace ouro::detail {

namespace {

constexpr std::size_t most_lines = 24;

// A place in the library's own coroutines says little to the user.
bool is_in_library(const std::source_location& site) noexcept {
  const std::string_view file = site.file_name();
  return file.find("include/ouro/runtime/") != std::string_view::npos ||
         file.find("include/ouro/io/") != std::string_view::npos;
}

// Where the task awaits, as its author sees it: the innermost await outside the library, or else the innermost.
std::source_location place_of_await(FutureState& task) noexcept {
  std::source_location site = task.waiting_on->site;
  walk_awaits(task, [&site](const std::source_location& outer) {
    if (is_in_library(outer)) return true;
    site = outer;
    return false;
  });
  return site;
}

// g++ calls a coroutine's body by a name that it has made up, `void f(f(int)::_Z1fi.Frame*)`: what it was made of is in
// there.
std::string function_of(const std::source_location& site) {
  const std::string name = site.function_name();
  const std::size_t end = name.rfind(".Frame*)");
  const std::size_t begin = name.rfind("::_Z");
  if (end == std::string::npos || begin == std::string::npos || begin > end) return name;
  const std::string symbol = name.substr(begin + 2, end - begin - 2);
  int status = 0;
  char* const found = abi::__cxa_demangle(symbol.c_str(), nullptr, nullptr, &status);
  if (!found) return name;
  const std::unique_ptr<char, decltype(&std::free)> text(found, &std::free);
  return text.get();
}

std::string text_of(const std::source_location& site) {
  return std::string(site.file_name()) + ":" + std::to_string(site.line()) + " in " + function_of(site);
}

}  // namespace

// ---- Gathering ----

void Needs::future(const FutureState* of) {
  if (!of || of->done()) return;
  all_.push_back({of->has(flag_task) ? Kind::task : Kind::future, 0, 0, 0, of, of->created});
}

void Needs::holder(const Holder& holder, bool shared) {
  all_.push_back({shared ? Kind::shared_holder : Kind::holder, holder.newest, holder.newest_named, 0, holder.task, {}});
}

bool WaitGraph::add(FutureState& task) {
  Waitee* const waitee = task.waiting_on;
  if (!waitee) return false;
  needs_.any_ = needs_.destroyed_ = false;
  const auto first = static_cast<std::uint32_t>(needs_.all_.size());
  if (waitee->kind->needs) {
    waitee->kind->needs(*waitee, needs_);
  } else {
    needs_.future(waitee->forward());
  }
  Node node{};
  node.task = &task;
  node.what = waitee->kind->what;
  node.site = place_of_await(task);
  node.first = first;
  node.end = static_cast<std::uint32_t>(needs_.all_.size());
  node.any = needs_.any_;
  node.destroyed = needs_.destroyed_;
  const Rare* const more = rare_if(task);
  node.named_as = task.rare && more ? more->named_as : 0;
  node.number = static_cast<std::uint32_t>(task.rare & 1 ? task.rare >> 1 : task.rare ? more->number : 0);
  node.gather = task.has(flag_gathered) ? task.gather->parent_task() : nullptr;
  nodes_.push_back(node);
  return true;
}

bool WaitGraph::add_children(GatherState& gather) {
  for (std::uint32_t i = 0; i < gather.listed; ++i) {
    FutureState* const child = gather.children[i];
    if (child && child->has(flag_started) && !add(*child)) return false;
  }
  return true;
}

// ---- Solving ----

std::uint32_t WaitGraph::find(const FutureState* task) const noexcept {
  const auto less = [](const auto& place, const FutureState* of) { return std::less<>()(place.first, of); };
  const auto at = std::lower_bound(places_.begin(), places_.end(), task, less);
  return at != places_.end() && at->first == task ? at->second : none;
}

// Made before the lock was acquired, as far as its number tells: children of a gather have none, and each loop of a
// group has numbers of its own.
bool WaitGraph::is_older(const Node& node, const Needs::Need& lock) noexcept {
  if (node.gather) return true;
  const std::uint32_t own = node.named_as ? node.named_as : node.number;
  const std::uint32_t newest = node.named_as ? lock.newest_named : lock.newest;
  return own <= newest || (own - newest) % home_of(*node.task).number_step != 0;
}

// The tasks behind the addresses, and the children behind their parents.
void WaitGraph::resolve() {
  places_.reserve(nodes_.size());
  for (std::uint32_t i = 0; i < nodes_.size(); ++i) places_.emplace_back(nodes_[i].task, i);
  std::sort(places_.begin(), places_.end(),
            [](const auto& a, const auto& b) { return std::less<>()(a.first, b.first); });
  for (Needs::Need& need : needs_.all_) {
    need.target = need.record ? find(need.record) : none;
    if (need.is_lock() && need.target != none && !is_older(nodes_[need.target], need)) need.target = none;
  }
  for (std::uint32_t i = 0; i < nodes_.size(); ++i) {
    Node& node = nodes_[i];
    node.left = node.end - node.first;
    if (!node.gather) continue;
    node.parent = find(node.gather);
    if (node.parent == none) continue;
    Node& parent = nodes_[node.parent];
    node.next_child = std::exchange(parent.child, i);
  }
  for (Node& node : nodes_) {
    for (std::uint32_t child = node.child; child != none; child = nodes_[child].next_child) ++node.left;
  }
}

void WaitGraph::solve() {
  resolve();
  // Who needs whom, the other way round: for each node a chain of those that need it.
  struct Link {
    std::uint32_t who;
    std::uint32_t next;
  };
  std::vector<Link> links;
  std::vector<std::uint32_t> needed_by(nodes_.size(), none);
  std::vector<std::uint32_t> helped;
  const auto help = [&](std::uint32_t at) {
    if (std::exchange(nodes_[at].stuck, false)) helped.push_back(at);
  };
  const auto one_less = [&](std::uint32_t at) {
    Node& node = nodes_[at];
    if (--node.left == 0 || node.any) help(at);
  };
  for (std::uint32_t i = 0; i < nodes_.size(); ++i) {
    if (nodes_[i].left == 0) help(i);
    for (std::uint32_t n = nodes_[i].first; n < nodes_[i].end; ++n) {
      const std::uint32_t target = needs_.all_[n].target;
      if (target == none) {
        one_less(i);
      } else {
        links.push_back({i, std::exchange(needed_by[target], static_cast<std::uint32_t>(links.size()))});
      }
    }
  }
  while (!helped.empty()) {
    const std::uint32_t at = helped.back();
    helped.pop_back();
    for (std::uint32_t l = needed_by[at]; l != none; l = links[l].next) one_less(links[l].who);
    if (nodes_[at].parent != none) one_less(nodes_[at].parent);
  }
}

bool WaitGraph::is_stuck(const FutureState& task) const noexcept {
  const std::uint32_t at = find(&task);
  return at != none && nodes_[at].stuck;
}

FutureState* WaitGraph::first_stuck() const noexcept {
  for (const Node& node : nodes_) {
    if (node.stuck) return node.task;
  }
  return nullptr;
}

// A stuck task for which this stuck one waits, and (not of a gather's child) why.
std::uint32_t WaitGraph::next_stuck(const Node& node, const Needs::Need** by) const noexcept {
  for (std::uint32_t n = node.first; n < node.end; ++n) {
    const Needs::Need& need = needs_.all_[n];
    if (need.target == none || !nodes_[need.target].stuck) continue;
    *by = &need;
    return need.target;
  }
  std::uint32_t oldest = none;
  for (std::uint32_t child = node.child; child != none; child = nodes_[child].next_child) {
    if (nodes_[child].stuck) oldest = child;
  }
  *by = nullptr;
  return oldest;
}

// ---- In words ----

std::string WaitGraph::name(std::uint32_t at) const { return name_of(*nodes_[at].task); }

std::string WaitGraph::place(const Node& node) const {
  return name_of(*node.task) + " waits at " + text_of(node.site) + " for ";
}

std::string WaitGraph::holder_text(const Node& node, const Needs::Need& need) const {
  const std::string lock = node.what;
  if (need.target != none && nodes_[need.target].task == node.task) return lock + ", which it holds itself";
  if (need.target != none) return lock + ", which " + name(need.target) + " holds";
  if (!need.record) return lock + ", which no task holds";
  if (need.kind == Needs::Kind::shared_holder) return lock + ", whose holder has ended, or is elsewhere";
  return lock + ", whose holder has ended without a release";
}

std::string WaitGraph::subject(const Node& node, const Needs::Need& need) const {
  if (need.is_lock()) return holder_text(node, need);
  if (need.kind == Needs::Kind::future) return "a future that was made at " + text_of(need.created);
  return need.target == none ? "a task" : name(need.target);
}

// How it waits, where that is not said by what it waits for.
std::string WaitGraph::way_of_waiting(const Node& node, const Needs::Need* need) {
  if ((need && need->is_lock()) || node.what == std::string_view("future")) return {};
  return std::string(" (") + node.what + ")";
}

// For the list: the first thing that it needs, and how many more.
std::string WaitGraph::describe(std::uint32_t at) const {
  const Node& node = nodes_[at];
  std::string text = place(node);
  std::size_t others = node.end - node.first;
  for (std::uint32_t child = node.child; child != none; child = nodes_[child].next_child) ++others;
  if (others == 0) return text + node.what + (node.destroyed ? ", which has been destroyed" : "");
  const Needs::Need* const need = node.first == node.end ? nullptr : &needs_.all_[node.first];
  text += need ? subject(node, *need) : name(node.child);
  if (others > 1) text += " and " + std::to_string(others - 1) + " more";
  return text + way_of_waiting(node, need);
}

std::string WaitGraph::describe_ring(const FutureState& from) {
  std::vector<std::pair<std::uint32_t, const Needs::Need*>> way;  // from each the reason to go on to the next
  std::vector<std::uint32_t> position(nodes_.size(), none);
  std::uint32_t at = find(&from);
  while (position[at] == none) {
    position[at] = static_cast<std::uint32_t>(way.size());
    const Needs::Need* by = nullptr;
    const std::uint32_t next = next_stuck(nodes_[at], &by);
    way.emplace_back(at, by);
    at = next;
  }
  const std::size_t begin = position[at];
  const std::size_t length = way.size() - begin;
  const auto line = [&](std::size_t i) {
    const auto [who, why] = way[i];
    const Node& node = nodes_[who];
    const std::uint32_t next = i + 1 == way.size() ? at : way[i + 1].first;
    return "\n  " + place(node) + (why ? subject(node, *why) : name(next)) + way_of_waiting(node, why);
  };
  std::string text = length == 1 ? "Deadlock: a task waits for itself"
                                 : "Deadlock: " + std::to_string(length) + " tasks wait for each other";
  for (std::size_t i = 0; i < length; ++i) {
    if (i == most_lines) {
      text += "\n  and " + std::to_string(length - i) + " more";
      break;
    }
    text += line(begin + i);
  }
  if (begin == 0) return text;
  text += "\nand for these";
  for (std::size_t i = 0; i < begin && i < most_lines; ++i) text += line(i);
  return text;
}

std::string WaitGraph::describe_all() {
  std::string text;
  std::size_t lines = 0;
  for (std::uint32_t i = static_cast<std::uint32_t>(nodes_.size()); i > 0; --i) {
    if (lines++ == most_lines) return text + "\n  and " + std::to_string(i) + " more";
    text += "\n  " + describe(i - 1);
  }
  return text;
}

}  // namespace ouro::detail
