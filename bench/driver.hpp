// What the C++ programs of the main job share: arguments, the rule of sampling, the RESULT lines. It knows no library,
// so that ouro, its C++ peers and the bare limit are timed by the same code; the peers in other languages follow the
// same rule.
//
// A work is measured at each of its sizes. One sample repeats the work until it lasts `sample_ms`; there are `runs`
// samples, fewer where the budget of the work ends. A size that would not fit into what is left of the budget is
// skipped, with a line that says so.
#pragma once

#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

namespace bench {

struct Options {
  std::vector<std::string> works;  // empty: all of them
  std::vector<std::size_t> sizes = {2'000, 10'000, 100'000, 1'000'000};
  std::size_t runs = 7;
  double budget_s = 4;  // for one work, all its sizes together
  double sample_ms = 30;
  std::string allocate = "none";  // bare's: what a round of gather allocates besides its frames
  unsigned workers = 2;           // group_job's: how many loops
  double spin_us = -1;            // and how long they look for work before they sleep; negative: as they like

  bool wants(std::string_view work) const {
    return works.empty() || std::find(works.begin(), works.end(), work) != works.end();
  }
};

// What counts as the time of a sample: the clock on the wall, or the processor time of all threads (then the wall is
// told beside it).
enum class Meter { wall, cpu };

struct Label {
  const char* peer;
  const char* work;
  int threads = 1;
  Meter meter = Meter::wall;
  const char* placement = nullptr;  // of two threads, where the program decides it
};

inline std::vector<std::string> split(std::string_view list) {
  std::vector<std::string> parts;
  while (!list.empty()) {
    const std::size_t comma = std::min(list.find(','), list.size());
    parts.emplace_back(list.substr(0, comma));
    list.remove_prefix(std::min(comma + 1, list.size()));
  }
  return parts;
}

// Exits with 2 on an argument that it does not know: a typing error must not pass for a measurement.
inline Options parse(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; i += 2) {
    const std::string_view name = argv[i];
    const char* const value = i + 1 < argc ? argv[i + 1] : "";
    if (name == "--works") {
      options.works = split(value);
    } else if (name == "--sizes") {
      options.sizes.clear();
      for (const std::string& part : split(value)) options.sizes.push_back(std::strtoull(part.c_str(), nullptr, 10));
    } else if (name == "--runs") {
      options.runs = std::max<std::size_t>(1, std::strtoull(value, nullptr, 10));
    } else if (name == "--budget") {
      options.budget_s = std::strtod(value, nullptr);
    } else if (name == "--sample-ms") {
      options.sample_ms = std::strtod(value, nullptr);
    } else if (name == "--allocate") {
      options.allocate = value;
    } else if (name == "--workers") {
      options.workers = static_cast<unsigned>(std::max<std::size_t>(1, std::strtoull(value, nullptr, 10)));
    } else if (name == "--spin-us") {
      options.spin_us = std::strtod(value, nullptr);
    } else {
      std::fprintf(stderr, "usage: %s [--works A,B] [--sizes N,N] [--runs N] [--budget S] [--sample-ms MS]\n", argv[0]);
      std::exit(2);
    }
  }
  return options;
}

[[noreturn]] inline void fail(const char* what) {
  std::fprintf(stderr, "wrong result: %s\n", what);
  std::exit(1);
}

// The results of the gathered coroutines are their indices.
inline void check(const std::vector<std::uint64_t>& results, std::size_t n) {
  if (results.size() != n) fail("a result is missing");
  for (std::size_t i = 0; i < n; ++i) {
    if (results[i] != i) fail("a result is not in its place");
  }
}

inline double wall_ns() {
  return std::chrono::duration<double, std::nano>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

inline double cpu_ns() {
  rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = static_cast<double>(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec);
  const auto microseconds = static_cast<double>(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec);
  return seconds * 1e9 + microseconds * 1e3;
}

// One work under its budget. `rounds(n, count)`, given to measure(), does the work of size n count times; the results
// of the last time, where it returns them, are checked outside the sample.
class Work {
 public:
  Work(const Options& options, Label label) : options_(options), label_(label), began_ns_(wall_ns()) {}

  template <class Rounds>
  void measure_sizes(const std::vector<std::size_t>& sizes, Rounds rounds) {
    for (std::size_t i = 0; i < sizes.size(); ++i) measure(sizes[i], sizes.size() - i, rounds);
  }

  template <class Rounds>
  void measure(std::size_t n, std::size_t sizes_left, Rounds& rounds) {
    const double left_ns = options_.budget_s * 1e9 - (wall_ns() - began_ns_);
    const double predicted_ns = item_ns_ * static_cast<double>(n);
    if (predicted_ns > left_ns) return skip(n, predicted_ns);
    const double until_ns = wall_ns() + left_ns / static_cast<double>(sizes_left);
    const double sample_ns = options_.sample_ms * 1e6;
    samples_.clear();
    walls_.clear();

    take(n, 1, rounds);
    if (walls_[0] < sample_ns)
      take(n, 1, rounds);  // the first met cold caches; the second tells how often a sample repeats
    std::size_t count = 1;
    if (label_.meter == Meter::wall)
      count = std::max<std::size_t>(1, static_cast<std::size_t>(sample_ns / walls_.back()));
    item_ns_ = walls_.back() / static_cast<double>(n);
    if (walls_[0] < sample_ns) samples_.clear(), walls_.clear();
    while (samples_.empty() || (samples_.size() < options_.runs && wall_ns() < until_ns)) take(n, count, rounds);
    report(n);
  }

 private:
  template <class Rounds>
  void take(std::size_t n, std::size_t count, Rounds& rounds) {
    const double cpu_began = label_.meter == Meter::cpu ? cpu_ns() : 0;
    const double began = wall_ns();
    if constexpr (std::is_void_v<decltype(rounds(n, count))>) {
      rounds(n, count);
      keep(n * count, wall_ns() - began, cpu_began);
    } else {
      decltype(auto) results = rounds(n, count);
      keep(n * count, wall_ns() - began, cpu_began);
      check(results, n);
    }
  }

  void keep(std::size_t items, double took, double cpu_began) {
    const double metered = label_.meter == Meter::cpu ? cpu_ns() - cpu_began : took;
    walls_.push_back(took);
    samples_.push_back(metered / static_cast<double>(items));
  }

  void report(std::size_t n) {
    std::sort(samples_.begin(), samples_.end());
    std::sort(walls_.begin(), walls_.end());
    std::printf("RESULT peer=%s work=%s N=%zu threads=%d ns=%.2f min=%.2f max=%.2f runs=%zu", label_.peer, label_.work,
                n, label_.threads, samples_[samples_.size() / 2], samples_.front(), samples_.back(), samples_.size());
    if (label_.meter == Meter::cpu) std::printf(" wall_ms=%.2f", walls_[walls_.size() / 2] / 1e6);
    if (label_.placement != nullptr) std::printf(" placement=%s", label_.placement);
    std::puts("");
    std::fflush(stdout);
  }

  void skip(std::size_t n, double predicted_ns) const {
    std::printf("SKIP peer=%s work=%s N=%zu reason=budget predicted_s=%.1f\n", label_.peer, label_.work, n,
                predicted_ns / 1e9);
    std::fflush(stdout);
  }

  const Options& options_;
  Label label_;
  double began_ns_;
  double item_ns_ = 0;           // wall time of one item at the size before: what the next size will cost
  std::vector<double> samples_;  // metered ns of one item
  std::vector<double> walls_;    // wall ns of a whole sample
};

template <class Rounds>
void run(const Options& options, Label label, const std::vector<std::size_t>& sizes, Rounds rounds) {
  if (options.wants(label.work)) Work(options, label).measure_sizes(sizes, rounds);
}

}  // namespace bench
