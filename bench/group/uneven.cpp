// Connections that stay on their loops, and heavy work that arises unevenly among them: what does stealing bring, and
// what does it cost the connections?
//
// Every loop has connections, which are tasks pinned to it. Most are light: a request each two milliseconds or so, some
// microseconds of work. A few are heavy: each of their requests takes a job of 200 µs of processor time. The jobs come
// up unevenly: the first loop gets `--share` of them, the others the rest. With `--stealing on` a job is spawned, and
// any worker may run it; with `--stealing off` it is a task of the loop on which it arose.
//
// Requests are due at times of their own, not when the last one is done (an open loop): a latency counts from the time
// at which the request was due to its end, and that of a request which was never served to the end of the run. One line
// tells the jobs that were done in each second, and the median and the 99th percentile of both latencies.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <functional>
#include <string_view>
#include <vector>

#include <ouro/ouro.hpp>

namespace {

using Microseconds = std::chrono::duration<double, std::micro>;

struct Options {
  unsigned workers = 2;
  bool stealing = true;
  double share = 0.9;
  double load = 0.6;  // of all workers' time that the jobs take
  double job_us = 200;
  double light_us = 3;
  unsigned light = 32;  // connections on each loop
  unsigned heavy = 16;
  double seconds = 2;
};

Options parse(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; i += 2) {
    const std::string_view name = argv[i];
    const std::string_view value = i + 1 < argc ? argv[i + 1] : "";
    const double number = std::strtod(value.data(), nullptr);
    if (name == "--workers" && number >= 1) {
      options.workers = static_cast<unsigned>(number);
    } else if (name == "--stealing" && (value == "on" || value == "off")) {
      options.stealing = value == "on";
    } else if (name == "--share" && number >= 0 && number <= 1) {
      options.share = number;
    } else if (name == "--load" && number > 0) {
      options.load = number;
    } else if (name == "--job-us" && number > 0) {
      options.job_us = number;
    } else if (name == "--seconds" && number > 0) {
      options.seconds = number;
    } else {
      std::fprintf(stderr,
                   "usage: %s [--workers N] [--stealing on|off] [--share 0..1] [--load 0..] [--job-us US]"
                   " [--seconds S]\n",
                   argv[0]);
      std::exit(2);
    }
  }
  return options;
}

// Work that takes processor time and nothing else. Its length is a number of steps, so that a thread which is not
// running does not get its work done.
class Burner {
 public:
  Burner() {
    constexpr std::uint64_t sample = 200'000;
    double best = 1e9;
    for (int i = 0; i < 20; ++i) {
      const auto began = std::chrono::steady_clock::now();
      burn_steps(sample);
      best = std::min(best, Microseconds(std::chrono::steady_clock::now() - began).count());
    }
    steps_per_us_ = static_cast<double>(sample) / best;
  }
  void burn(double us) const { burn_steps(static_cast<std::uint64_t>(us * steps_per_us_)); }

 private:
  static void burn_steps(std::uint64_t steps) {
    std::uint64_t x = steps;
    for (std::uint64_t i = 0; i < steps; ++i) {
      x = x * 6364136223846793005 + 1;
      asm volatile("" : "+r"(x));
    }
  }
  double steps_per_us_;
};

// One connection's requests: how often, and what became of them. Only its own loop touches it.
struct Connection {
  double mean_us;  // from one request to the next
  std::uint64_t random;
  std::vector<double> latencies_us;
  std::uint64_t served = 0;

  // Exponential, as independent clients are.
  ouro::Duration pause() {
    random = random * 6364136223846793005 + 1442695040888963407;
    const double uniform = (static_cast<double>(random >> 11) + 1) / 9007199254740993.0;
    return std::chrono::duration_cast<ouro::Duration>(Microseconds(-mean_us * std::log(uniform)));
  }
};

struct Run {
  Options options;
  Burner burner;
  ouro::TimePoint end;
};

ouro::Coroutine<> job(const Run& run) {
  run.burner.burn(run.options.job_us);
  co_return;
}

ouro::Coroutine<> light_request(const Run& run) {
  run.burner.burn(run.options.light_us);
  co_return;
}

ouro::Coroutine<> heavy_request(const Run& run) {
  ouro::Task<> task = run.options.stealing ? ouro::spawn(job, std::cref(run)) : ouro::create_task(job, std::cref(run));
  co_await task;
}

ouro::Coroutine<> serve(const Run& run, Connection& connection, ouro::Coroutine<> (*request)(const Run&)) {
  ouro::EventLoop& loop = ouro::current_loop();
  for (ouro::TimePoint due = loop.time() + connection.pause(); due < run.end; due += connection.pause()) {
    ouro::TimePoint now = loop.time();
    if (now < due) co_await ouro::sleep_until(due);
    if (now < run.end) {
      co_await request(run);
      now = loop.time();
      connection.served += now < run.end;
    }
    connection.latencies_us.push_back(Microseconds(now - due).count());
  }
}

double percentile(const std::vector<double>& sorted, double share) {
  return sorted.empty() ? 0 : sorted[static_cast<std::size_t>(share * static_cast<double>(sorted.size() - 1))];
}

struct Sum {
  std::vector<double> latencies_us;
  std::uint64_t served = 0;

  explicit Sum(const std::vector<Connection>& connections) {
    for (const Connection& one : connections) {
      latencies_us.insert(latencies_us.end(), one.latencies_us.begin(), one.latencies_us.end());
      served += one.served;
    }
    std::sort(latencies_us.begin(), latencies_us.end());
  }
};

void report(const Run& run, const std::vector<Connection>& light, const std::vector<Connection>& heavy) {
  Sum lights(light);
  Sum jobs(heavy);
  const Options& options = run.options;
  std::printf(
      "RESULT peer=ouro work=uneven stealing=%s threads=%u share=%.2f load=%.2f jobs_per_s=%.0f due_per_s=%.0f "
      "job_p50_us=%.1f job_p99_us=%.1f light_per_s=%.0f light_p50_us=%.1f light_p99_us=%.1f\n",
      options.stealing ? "on" : "off", options.workers, options.share, options.load,
      static_cast<double>(jobs.served) / options.seconds,
      static_cast<double>(jobs.latencies_us.size()) / options.seconds, percentile(jobs.latencies_us, 0.5),
      percentile(jobs.latencies_us, 0.99), static_cast<double>(lights.served) / options.seconds,
      percentile(lights.latencies_us, 0.5), percentile(lights.latencies_us, 0.99));
}

ouro::Coroutine<> program(Run& run) {
  const Options& options = run.options;
  const std::vector<ouro::EventLoop*> loops = ouro::workers();
  const double jobs_per_us = options.load * static_cast<double>(loops.size()) / options.job_us;
  std::vector<Connection> light;
  std::vector<Connection> heavy;
  for (std::size_t i = 0; i < loops.size(); ++i) {
    const double others = static_cast<double>(std::max<std::size_t>(1, loops.size() - 1));
    const double share = loops.size() == 1 ? 1 : i == 0 ? options.share : (1 - options.share) / others;
    for (unsigned k = 0; k < options.light; ++k) light.push_back({2000, 2 * light.size() + 1, {}, 0});
    // A loop without jobs has connections that never come to their first request.
    const double each = options.heavy / std::max(1e-9, jobs_per_us * share);
    for (unsigned k = 0; k < options.heavy; ++k) heavy.push_back({each, 2 * heavy.size() + 1'000'001, {}, 0});
  }
  run.end = loops[0]->time() + std::chrono::duration_cast<ouro::Duration>(Microseconds(options.seconds * 1e6));
  std::vector<ouro::Task<>> tasks;
  for (std::size_t i = 0; i < light.size(); ++i) {
    tasks.push_back(loops[i / options.light]->create_task(serve(run, light[i], light_request)));
  }
  for (std::size_t i = 0; i < heavy.size(); ++i) {
    tasks.push_back(loops[i / options.heavy]->create_task(serve(run, heavy[i], heavy_request)));
  }
  for (ouro::Task<>& task : tasks) co_await task;
  report(run, light, heavy);
}

}  // namespace

int main(int argc, char** argv) try {
  Run run{parse(argc, argv), Burner(), {}};
  ouro::run(program(run), {.workers = run.options.workers, .pin_to_cores = true});
} catch (const std::exception& error) {
  std::fprintf(stderr, "uneven: %s\n", error.what());
  return 1;
}
