// 10 producers and 10 consumers hand over ten million numbers: through ouro's Channel on the workers of a group, and
// through moodycamel's ConcurrentQueue, by the same tasks on the same workers and by as many threads. Rounds are
// interleaved; the least and the median of each are printed, as ns for each element on the wall.
//
//     channel_job [--workers N] [--elements N] [--rounds N] [--capacity N]
//
// moodycamel's queue has no bound and nobody can wait in it: a producer never waits, and a consumer that finds it empty
// gives others a turn. With a bound of the channel's size (`bounded`) its producers do so, too, when too much is in it.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <exception>
#include <functional>
#include <string_view>
#include <thread>
#include <vector>

#include <concurrentqueue.h>
#include <ouro/ouro.hpp>

using namespace std::chrono_literals;

namespace {

constexpr int each = 10;  // producers, and consumers

struct Job {
  unsigned workers = 2;
  std::uint64_t elements = 10'000'000;
  int rounds = 3;
  std::size_t capacity = 1024;

  std::uint64_t share() const { return elements / each; }
  std::uint64_t sum() const { return each * (share() * (share() - 1) / 2); }
};

void expect(std::uint64_t got, std::uint64_t expected) {
  if (got == expected) return;
  std::fprintf(stderr, "channel_job: the sum is wrong\n");
  std::exit(1);
}

// ---- ouro ----

ouro::Coroutine<> produce(ouro::Channel<std::uint64_t>& channel, std::uint64_t n) {
  for (std::uint64_t i = 0; i < n; ++i) co_await channel.send(i);
}
ouro::Coroutine<std::uint64_t> consume(ouro::Channel<std::uint64_t>& channel) {
  std::uint64_t sum = 0;
  while (auto value = co_await channel.recv()) sum += *value;
  co_return sum;
}
ouro::Coroutine<> through_channel(const Job& job) {
  ouro::Channel<std::uint64_t> channel(job.capacity);
  std::vector<ouro::Task<std::uint64_t>> consumers;
  std::vector<ouro::Task<>> producers;
  for (int i = 0; i < each; ++i) {
    consumers.push_back(ouro::spawn(consume(channel)));
    producers.push_back(ouro::spawn(produce(channel, job.share())));
  }
  for (auto& producer : producers) co_await producer;
  channel.close();
  std::uint64_t sum = 0;
  for (auto& consumer : consumers) sum += co_await consumer;
  expect(sum, job.sum());
}

// ---- moodycamel ----

using Peer = moodycamel::ConcurrentQueue<std::uint64_t>;

ouro::Coroutine<> peer_produce(Peer& queue, std::uint64_t n, std::size_t bound) {
  for (std::uint64_t i = 0; i < n; ++i) {
    while (bound != 0 && queue.size_approx() >= bound) co_await ouro::sleep(0s);
    queue.enqueue(i);
  }
}
ouro::Coroutine<std::uint64_t> peer_consume(Peer& queue, std::atomic<std::uint64_t>& left) {
  std::uint64_t sum = 0;
  std::uint64_t value = 0;
  while (left.load(std::memory_order_relaxed) != 0) {
    std::uint64_t got = 0;
    while (queue.try_dequeue(value)) {
      sum += value;
      ++got;
    }
    left.fetch_sub(got, std::memory_order_relaxed);
    co_await ouro::sleep(0s);
  }
  co_return sum;
}
ouro::Coroutine<> through_peer(const Job& job, std::size_t bound) {
  Peer queue;
  std::atomic<std::uint64_t> left{job.share() * each};
  std::vector<ouro::Task<std::uint64_t>> consumers;
  std::vector<ouro::Task<>> producers;
  for (int i = 0; i < each; ++i) {
    consumers.push_back(ouro::spawn(peer_consume(queue, left)));
    producers.push_back(ouro::spawn(peer_produce(queue, job.share(), bound)));
  }
  for (auto& producer : producers) co_await producer;
  std::uint64_t sum = 0;
  for (auto& consumer : consumers) sum += co_await consumer;
  expect(sum, job.sum());
}

void on_threads(const Job& job) {
  Peer queue;
  std::atomic<std::uint64_t> left{job.share() * each};
  std::atomic<std::uint64_t> sum{0};
  std::vector<std::thread> threads;
  for (int i = 0; i < each; ++i) {
    threads.emplace_back([&] {
      for (std::uint64_t j = 0; j < job.share(); ++j) queue.enqueue(j);
    });
    threads.emplace_back([&] {
      std::uint64_t mine = 0;
      std::uint64_t value = 0;
      while (left.load(std::memory_order_relaxed) != 0) {
        std::uint64_t got = 0;
        while (queue.try_dequeue(value)) {
          mine += value;
          ++got;
        }
        left.fetch_sub(got, std::memory_order_relaxed);
        std::this_thread::yield();
      }
      sum += mine;
    });
  }
  for (std::thread& thread : threads) thread.join();
  expect(sum, job.sum());
}

double ns_for_each(const Job& job, const std::function<void()>& work) {
  const auto begin = std::chrono::steady_clock::now();
  work();
  const std::chrono::duration<double, std::nano> took = std::chrono::steady_clock::now() - begin;
  return took.count() / static_cast<double>(job.elements);
}

Job parse(int argc, char** argv) {
  Job job;
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string_view name = argv[i];
    const auto value = std::strtoull(argv[i + 1], nullptr, 10);
    if (name == "--workers") job.workers = static_cast<unsigned>(value);
    if (name == "--elements") job.elements = value;
    if (name == "--rounds") job.rounds = static_cast<int>(value);
    if (name == "--capacity") job.capacity = value;
  }
  return job;
}

}  // namespace

int main(int argc, char** argv) try {
  const Job job = parse(argc, argv);
  const ouro::RunOptions options{.workers = job.workers};
  struct Row {
    const char* name;
    std::function<void()> work;
    std::vector<double> ns;
  };
  std::vector<Row> rows{
      {"ouro", [&] { ouro::run(through_channel(job), options); }, {}},
      {"moodycamel-tasks", [&] { ouro::run(through_peer(job, 0), options); }, {}},
      {"moodycamel-bounded", [&] { ouro::run(through_peer(job, job.capacity), options); }, {}},
      {"moodycamel-threads", [&] { on_threads(job); }, {}},
  };
  for (int round = 0; round < job.rounds; ++round) {
    for (Row& row : rows) row.ns.push_back(ns_for_each(job, row.work));
  }
  for (Row& row : rows) {
    std::sort(row.ns.begin(), row.ns.end());
    std::printf("RESULT peer=%s work=channel N=%llu threads=%u ns=%.1f min=%.1f max=%.1f runs=%d\n", row.name,
                static_cast<unsigned long long>(job.elements), job.workers, row.ns[row.ns.size() / 2], row.ns.front(),
                row.ns.back(), job.rounds);
  }
} catch (const std::exception& error) {
  std::fprintf(stderr, "channel_job: %s\n", error.what());
  return 1;
}
