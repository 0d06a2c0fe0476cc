// Every name of the table in README.md, used: check_blocks.py compares the two, and this compiles and runs.
#include <ouro/ouro.hpp>

#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <coroutine>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <future>
#include <memory>
#include <optional>
#include <span>
#include <stdexcept>
#include <stop_token>
#include <string>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

using namespace std::chrono_literals;

namespace {

void check(bool right, const char* what) {
  if (right) return;
  std::fprintf(stderr, "wrong: %s\n", what);
  std::exit(1);
}

ouro::Coroutine<int> f(int x) {
  co_await ouro::sleep(0s);
  co_return x;
}

std::unique_ptr<ouro::EventLoop> make_loop() { return std::make_unique<ouro::EventLoop>(); }

// ---- Coroutines, tasks, gather ----

static_assert(ouro::is_coroutine<ouro::Coroutine<int>> && ouro::is_coroutine_function<decltype(f)>);
static_assert(ouro::isfuture<ouro::Task<>> && ouro::Awaitable<ouro::Task<int>> &&
              ouro::CoroutineCallable<decltype(f)&, int>);
static_assert(ouro::Awaiter<decltype(ouro::sleep(1s))>);
static_assert(std::is_same_v<ouro::await_result_t<ouro::Coroutine<int>>, int>);

ouro::Coroutine<> coroutines_and_tasks() {
  check(co_await ouro::sleep(1ms, 7) == 7, "sleep");
  co_await ouro::sleep_until(ouro::get_running_loop().time() + 1ms);

  ouro::Task<int> task = ouro::create_task(f(1), {.name = "first", .eager_start = true});
  check(task.get_name() == "first" && task.cancelling() == 0 && task.uncancel() == 0, "a task");
  check(task.get_stack().empty() && ouro::all_tasks().size() == 2, "get_stack, all_tasks");  // it is ready
  task.set_name("renamed");
  check(co_await task == 1 && co_await ouro::create_task(f, 2) == 2, "create_task");
  ouro::AnyTask self = ouro::current_task();
  check(!self.done(), "current_task");

  auto [a, b] = co_await ouro::gather(f(3), f(4));
  std::vector<ouro::Coroutine<int>> many;
  many.push_back(f(5));
  std::vector<int> results = co_await ouro::gather(std::move(many));
  auto [outcome] = co_await ouro::gather(ouro::return_exceptions, f(6));
  static_assert(std::is_same_v<decltype(outcome), ouro::Outcome<int>>);
  check(a + b + results[0] + outcome.value() == 18, "gather");
  std::vector<int> numbers{1, 2, 3};
  results = co_await ouro::map(f, numbers, {.limit = 2});
  check(results == numbers, "map");
  ouro::MapLimit limit(1);
  limit.set(limit.get() + 1);
  auto as_they_come = ouro::map_unordered(f, numbers, limit);
  static_assert(ouro::AsyncIterable<decltype(as_they_come)>);
  while (auto one = co_await as_they_come.next()) check(one->value == numbers[one->index], "map_unordered");
  ouro::ForkScope scope;
  int forked = 0, called = 0;
  co_await scope.fork(forked, f(1));
  co_await scope.call(called, f(2));
  co_await scope.join();
  check(forked == 1 && called == 2, "ForkScope");
  check(co_await ouro::ensure_future(f(8)) == 8, "ensure_future");
}

// ---- Futures, exceptions ----

ouro::Coroutine<> futures() {
  ouro::EventLoop& loop = ouro::get_running_loop();
  ouro::Future<int> future = loop.create_future<int>();
  int called = 0;
  ouro::CallbackToken token = future.add_done_callback([&](ouro::Future<int>) { ++called; });
  check(future.remove_done_callback(token) == 1, "remove_done_callback");
  future.add_done_callback([&](ouro::Future<int>) { ++called; });
  future.set_result(9);
  check(future.done() && future.result() == 9 && !future.exception() && co_await future == 9, "a future");
  check(called == 0 && &future.get_loop() == &loop && future.created().line() != 0, "get_loop, created");
  co_await ouro::sleep(0s);
  check(called == 1, "add_done_callback");

  ouro::Future<> failed = loop.create_future();
  failed.set_exception(std::runtime_error("it failed"));
  check(failed.exception() != nullptr, "set_exception");
  ouro::Future<> cancelled = loop.create_future();
  check(cancelled.cancel("enough") && cancelled.cancelled(), "cancel");
  try {
    co_await cancelled;
  } catch (const ouro::CancelledError& error) {
    check(error.message() == "enough", "CancelledError");
  }
  static_assert(std::is_base_of_v<ouro::RuntimeError, ouro::InvalidStateError>);
  static_assert(std::is_base_of_v<ouro::RuntimeError, ouro::StopIteration>);
  static_assert(std::is_base_of_v<ouro::RuntimeError, ouro::TimeoutError>);
  static_assert(std::is_base_of_v<ouro::RuntimeError, ouro::DeadlockError>);
  static_assert(std::is_base_of_v<std::exception, ouro::ValueError>);
  static_assert(std::is_base_of_v<ouro::OSError, ouro::FileNotFoundError>);
  static_assert(std::is_base_of_v<ouro::ConnectionError, ouro::ConnectionRefusedError>);
  static_assert(!std::is_base_of_v<std::exception, ouro::CancelledError>);
  static_assert(!std::is_base_of_v<std::exception, ouro::KeyboardInterrupt>);
  static_assert(!std::is_base_of_v<std::exception, ouro::GeneratorExit>);
}

// ---- Deadlines, waits, task groups ----

ouro::Coroutine<> deadlines_and_groups() {
  check(co_await ouro::wait_for(f(1), 1s) == 1 && co_await ouro::timeout(1s, f(2)) == 2, "wait_for, timeout");
  ouro::TimePoint time = ouro::get_running_loop().time() + 1h;
  check(co_await ouro::timeout_at(time, f(3)) == 3, "timeout_at");
  bool expired = true;
  co_await ouro::timeout(1s, [&](ouro::Timeout& scope) -> ouro::Coroutine<> {
    scope.reschedule(*scope.when() + 1h);
    expired = scope.expired();
    co_return;
  });
  std::vector<ouro::Task<int>> tasks{ouro::create_task(f(4)), ouro::create_task(f(5))};
  auto [done, pending] = co_await ouro::wait(tasks, {.timeout = 1s, .return_when = ouro::FIRST_COMPLETED});
  int sum = 0;
  for (auto next : ouro::as_completed(tasks)) sum += co_await next;
  auto all = ouro::as_completed(tasks);
  ouro::Task<int> task = *co_await all.next();
  check(!expired && done.size() + pending.size() == 2 && sum == 9 && co_await ouro::shield(task) > 3, "waits");
  std::vector attempts{[] { return f(6); }};
  auto race = co_await ouro::staggered_race(attempts, 250ms);
  check(race.winner_result == 6 && race.winner_index == 0U && !race.exceptions.front(), "staggered_race");

  ouro::TaskGroup group;
  group.create_task(f(6));
  group.cancel();
  co_await group.join();
  auto body = [](ouro::TaskGroup& inside) -> ouro::Coroutine<> {
    inside.create_task([]() -> ouro::Coroutine<> {
      throw ouro::ValueError("wrong");
      co_return;
    });
    co_return;
  };
  try {
    co_await ouro::task_group(body);
  } catch (const ouro::ExceptionGroup& errors) {
    auto [values, rest] = errors.split<ouro::ValueError>();
    check(errors.exceptions().size() == 1 && values && !rest && errors.leaves().size() == 1, "ExceptionGroup");
    check(!errors.subgroup<ouro::OSError>(), "subgroup");
  }
}

// ---- Names and addresses ----

ouro::Coroutine<> names_and_addresses() {
  std::vector<ouro::AddressInfo> found = co_await ouro::getaddrinfo("localhost", 80, {.type = SOCK_STREAM});
  ouro::Address address = ouro::Address::ip("127.0.0.1", 80);
  check(!found.empty() && ouro::Address::parse("127.0.0.1:80") == address, "getaddrinfo, Address");
  check(address.host() == "127.0.0.1" && address.port() == 80, "host, port");
  check(ouro::Address::unix_path("/run/socket").str() == "/run/socket", "unix_path, str");
  try {
    co_await ouro::getnameinfo(ouro::Address());
  } catch (const ouro::gaierror& error) {
    check(error.operation() == "getnameinfo", "gaierror");
  }
}

// ---- Generators ----

ouro::Generator<int, int> echo() {
  int got = 0;
  for (;;) got = co_yield got;
}

ouro::AsyncGenerator<int> ticks(int count) {
  for (int i = 0; i < count; ++i) {
    co_await ouro::sleep(0s);
    co_yield i;
  }
}

ouro::Coroutine<int> sum(ouro::AsyncGenerator<int>& generator) {
  int total = 0;
  while (auto value = co_await generator.next()) total += *value;
  co_return total;
}

ouro::Coroutine<> generators() {
  auto mirror = echo();
  check(mirror.next() == 0 && mirror.send(5) == 5 && mirror.try_next() == 0, "a generator");
  try {
    mirror.throw_(std::runtime_error("out"));
  } catch (const std::runtime_error&) {
  }
  mirror.close();
  auto stopped = ticks(3);
  check(co_await stopped.next() == 0, "next");
  co_await stopped.aclose();
  check(co_await ouro::aclosing(ticks(4), sum) == 6, "aclosing");
  co_await ouro::shutdown_asyncgens(ouro::get_running_loop());
}

// ---- Threads and executors ----

ouro::Coroutine<> threads() {
  ouro::EventLoop& loop = ouro::get_running_loop();
  check(co_await ouro::to_thread([](int x) { return x; }, 1) == 1, "to_thread");
  ouro::ThreadPoolExecutor pool(2, {.max_queued = 100, .thread_name_prefix = "names"});
  check(co_await loop.run_in_executor(&pool, [] { return 2; }) == 2, "run_in_executor");
  ouro::ConcurrentFuture<int> future = ouro::executor_submit(pool, [] { return 3; });
  check(co_await ouro::wrap_future(future) == 3, "wrap_future");
  check(pool.queue_depth() == 0 && pool.max_workers() == 2 && pool.threads() > 0, "the pool");
  std::thread other([&loop] {
    check(ouro::run_coroutine_threadsafe(f(4), loop).result() == 4, "run_coroutine_threadsafe");
    loop.call_soon_threadsafe([] {});
  });
  co_await ouro::to_thread([&other] { other.join(); });
  loop.set_default_executor(std::make_shared<ouro::ThreadPoolExecutor>(1));
  co_await ouro::shutdown_default_executor(loop, 10s);
  static_assert(std::is_base_of_v<ouro::Executor, ouro::ThreadPoolExecutor>);
  pool.shutdown();
}

// ---- Locks and queues ----

ouro::Coroutine<> locks() {
  ouro::Lock lock;
  co_await lock.acquire();
  check(lock.locked() && !lock.try_acquire(), "Lock");
  lock.release();
  {
    auto guard = co_await lock.scoped();
  }
  ouro::Event event;
  event.set();
  check(event.is_set() && co_await event.wait(), "Event");
  event.clear();
  ouro::Semaphore semaphore(2);
  ouro::BoundedSemaphore bounded(1);
  auto permit = co_await semaphore.scoped();
  check(co_await bounded.acquire() && !semaphore.locked(), "Semaphore");
  ouro::Condition condition(lock);
  ouro::Task<> waits = ouro::create_task([](ouro::Condition& c) -> ouro::Coroutine<> {
    auto guard = co_await c.scoped();
    co_await c.wait();
    co_await c.wait_for([] { return true; });
  }(condition));
  co_await ouro::sleep(0s);
  {
    auto guard = co_await condition.scoped();
    condition.notify();
    condition.notify_all();
  }
  co_await waits;
  ouro::Barrier barrier(1);
  check(co_await barrier.wait() == 0 && barrier.parties() == 1 && barrier.n_waiting() == 0, "Barrier");
  co_await barrier.abort();
  try {
    co_await barrier.wait();
  } catch (const ouro::BrokenBarrierError&) {
    check(barrier.broken(), "BrokenBarrierError");
  }
  co_await barrier.reset();
  ouro::RWLock rw;
  {
    auto reading = co_await rw.scoped_read();
  }
  auto writing = co_await rw.scoped_write();
}

ouro::Coroutine<> queues() {
  ouro::Queue<int> queue({.maxsize = 1});
  co_await queue.put(1);
  try {
    queue.put_nowait(2);
  } catch (const ouro::QueueFull&) {
    check(queue.full() && queue.qsize() == 1 && queue.maxsize() == 1, "QueueFull");
  }
  check(co_await queue.get() == 1, "Queue");
  queue.task_done();
  co_await queue.join();
  try {
    queue.get_nowait();
  } catch (const ouro::QueueEmpty&) {
    check(queue.empty(), "QueueEmpty");
  }
  queue.shutdown();
  try {
    co_await queue.get();
  } catch (const ouro::QueueShutDown&) {
    queue.shutdown(true);
  }
  ouro::PriorityQueue<int> least;
  ouro::LifoQueue<int> last;
  least.put_nowait(1);
  last.put_nowait(2);
  ouro::Channel<int> channel(1024);
  co_await channel.send(least.get_nowait());
  check(channel.try_send(last.get_nowait()) && channel.try_recv() == 1, "Channel");
  channel.close();
  check(co_await channel.recv() == 2 && co_await channel.recv() == std::nullopt, "Channel::close");
}

// ---- Context variables, other libraries ----

ouro::ContextVar<int> request("request", 0);

ouro::Coroutine<> contexts() {
  ouro::Token<int> token = request.set(1);
  const ouro::Context context = ouro::copy_context();
  request.reset(token);
  const int seen = context.run([] { return request.get(); });
  ouro::Handle handle = ouro::get_running_loop().call_soon([] {}, context);
  ouro::Task<int> task = ouro::create_task(f(1), {.context = &context});
  check(seen == 1 && request.get() == 0 && context.copy().size() == 1 && context.contains(request), "Context");
  check(task.get_context() == handle.get_context() && co_await task == 1, "get_context");
  ouro::ContextVar<int> bare("bare");
  bool thrown = false;
  try {
    bare.get();
  } catch (const ouro::LookupError&) {
    thrown = true;
  }
  check(thrown, "LookupError");
}

ouro::Coroutine<> interop() {
  std::stop_source source;
  check(co_await ouro::cancel_on_stop(source.get_token(), f(1)) == 1, "cancel_on_stop");
  auto stoppable = [](std::stop_token) { return f(2); };
  check(co_await ouro::stop_on_cancel(stoppable) == 2, "stop_on_cancel");
  std::promise<int> promise;
  promise.set_value(3);
  check(co_await ouro::wrap_future(promise.get_future()) == 3, "wrap_future");
  const auto future = ouro::ConcurrentFuture<int>::create();
  check(ouro::ConcurrentFuture<int>::from_address(future.to_address()).try_set_result(4), "from_address");
  co_await ouro::resume_here(std::suspend_never());
}

// ---- The loop, policies, runners ----

void loop_by_hand() {
  std::unique_ptr<ouro::EventLoop> loop = ouro::new_event_loop();
  ouro::set_event_loop(loop.get());
  check(&ouro::get_event_loop() == loop.get() && !loop->is_running(), "get_event_loop");
  ouro::Handle handle = loop->call_soon([] {});
  handle.cancel();
  ouro::TimerHandle timer = loop->call_later(1ms, [&] { loop->stop(); });
  ouro::TimerHandle at = loop->call_at(loop->time() + 1h, [] {});
  check(handle.cancelled() && timer.when() < at.when(), "handles");
  int reports = 0;
  loop->set_exception_handler([&](ouro::EventLoop&, const ouro::ExceptionContext&) { ++reports; });
  check(loop->get_exception_handler() != nullptr, "get_exception_handler");
  loop->call_exception_handler({.message = "told", .exception = nullptr, .task = {}, .created = {}});
  loop->set_debug(true);
  loop->slow_callback_duration = 1s;
  loop->deadlock_grace = 2s;
  loop->set_spin(10us);
  loop->set_task_factory(ouro::eager_task_factory);
  check(loop->get_debug() && loop->get_task_factory() && reports == 1, "the loop's settings");
  loop->run_forever();
  auto task = loop->create_task(f(1));
  check(loop->run_until_complete(task) == 1 && loop->counters().turns <= loop->counters().looks + 1000, "run");
  ouro::set_event_loop(nullptr);
  loop->close();
  check(loop->is_closed(), "close");
}

void policies_and_runners() {
  std::shared_ptr<ouro::EventLoopPolicy> before = ouro::get_event_loop_policy();
  ouro::set_event_loop_policy(std::make_shared<ouro::DefaultEventLoopPolicy>());
  ouro::Runner runner({.debug = true, .loop_factory = make_loop});
  check(runner.run(f(1)) == 1 && runner.run(f(2)) == 2 && runner.get_loop().get_debug(), "Runner");
  runner.close();
  ouro::set_event_loop_policy(before);
}

ouro::Coroutine<int> several_loops() {
  ouro::Task<int> floating = ouro::spawn(f(1));
  ouro::Task<int> pinned = ouro::workers().back()->create_task(f(2));
  check(&ouro::current_loop() == &ouro::get_running_loop() && ouro::workers().size() == 4, "workers");
  co_return co_await floating + co_await pinned;
}

// ---- Sockets ----

ouro::Coroutine<> sockets() {
  ouro::EventLoop& loop = ouro::get_running_loop();
  ouro::Socket server(AF_INET);
  server.bind(ouro::Address::ip("127.0.0.1", 0));
  server.listen();
  ouro::Socket client(AF_INET);
  co_await loop.sock_connect(client, server.getsockname());
  auto [connection, peer] = co_await loop.sock_accept(server);
  check(peer == client.getsockname(), "sock_accept");
  co_await loop.sock_sendall(connection, "hello");
  std::string hello = co_await loop.sock_recv(client, 2);
  std::array<std::byte, 3> rest;
  check(co_await loop.sock_recv_into(client, rest) == 3 && hello == "he", "sock_recv");

  ouro::Socket one(AF_INET, SOCK_DGRAM);
  one.bind(ouro::Address::ip("127.0.0.1", 0));
  check(co_await loop.sock_sendto(one, "x", one.getsockname()) == 1, "sock_sendto");
  auto [datagram, from] = co_await loop.sock_recvfrom(one, 10);
  check(datagram == "x" && from == one.getsockname(), "sock_recvfrom");

  bool called = false;
  loop.add_writer(client.fileno(), [&called](bool value) { called = value; }, true);
  loop.add_reader(client.fileno(), [] {});
  while (!called) co_await ouro::sleep(0s);
  check(loop.remove_writer(client.fileno()) && loop.remove_reader(client.fileno()), "watches");
}

// ---- Transports and servers ----

class Shout : public ouro::Protocol {
 public:
  void connection_made(ouro::Transport& transport) override { transport_ = &transport; }
  void data_received(std::span<const std::byte> data) override { transport_->write(data); }

 private:
  ouro::Transport* transport_ = nullptr;
};

class Listen : public ouro::BufferedProtocol {
 public:
  std::span<std::byte> get_buffer(std::size_t) override { return buffer_; }
  void buffer_updated(std::size_t bytes) override { heard += bytes; }
  std::size_t heard = 0;

 private:
  std::array<std::byte, 8> buffer_;
};

static_assert(std::is_base_of_v<ouro::BaseProtocol, Shout> && std::is_base_of_v<ouro::ReadTransport, ouro::Transport> &&
              std::is_base_of_v<ouro::WriteTransport, ouro::Transport>);

ouro::Coroutine<> transports() {
  ouro::EventLoop& loop = ouro::get_running_loop();
  const auto factory = [] { return std::make_unique<Shout>(); };
  const auto listens = [] { return std::make_shared<Listen>(); };
  const char* host = "127.0.0.1";
  ouro::Server server = co_await loop.create_server(factory, host, 0, {.spread = false});
  const int port = server.sockets().front().getsockname().port();
  auto [transport, protocol] = co_await loop.create_connection(listens, host, port);
  check(transport->get_extra_info<ouro::Address>("peername").port() == port, "get_extra_info");
  const std::string hello = "hello";
  transport->share()->write_soon(std::as_bytes(std::span(hello)));
  while (protocol->heard != 5) co_await ouro::sleep(0s);
  server.close();
  server.close_clients();
  co_await server.wait_closed();
  check(co_await server.drain(5s), "drain");

  const std::string name = std::string("\0ouro names test ", 17) + std::to_string(::getpid());
  ouro::Server local = co_await loop.create_unix_server(factory, name);
  auto [quiet, nobody] = co_await loop.create_unix_connection(listens, name);
  quiet->close();
  ouro::Task<> serving = loop.create_task(local.serve_forever());
  while (!quiet->is_closing()) co_await ouro::sleep(0s);
  co_await ouro::sleep(0s);
  serving.cancel();
  std::vector<ouro::Task<>> ends(1, serving);
  co_await ouro::wait(ends);
}

// ---- Datagrams ----

class Note : public ouro::DatagramProtocol {
 public:
  void datagram_received(std::span<const std::byte> data, const ouro::Address&) override { heard += data.size(); }
  std::size_t heard = 0;
};

ouro::Coroutine<> datagrams() {
  ouro::EventLoop& loop = ouro::get_running_loop();
  const auto factory = [] { return std::make_unique<Note>(); };
  auto [there, note] = co_await loop.create_datagram_endpoint(factory, {.local = {"localhost", 0}});
  const ouro::Address address = there->getsockname();
  auto [transport, protocol] = co_await loop.create_datagram_endpoint(factory, {.remote = address});
  transport->sendto("hello");
  transport->sendto("hello", address);
  while (note->heard != 10) co_await ouro::sleep(0s);
  check(transport->getpeername() == address, "getpeername");
  std::shared_ptr<ouro::DatagramTransport> handle = transport->share();
  handle->close();
  there->close();
}

// ---- Streams ----

ouro::Coroutine<> answer(ouro::StreamReader& reader, ouro::StreamWriter& writer) {
  while (auto line = co_await reader.next()) writer.write(*line);
}

static_assert(std::is_base_of_v<ouro::Protocol, ouro::StreamReaderProtocol>);

ouro::Coroutine<> streams() {
  ouro::Server server = co_await ouro::start_server(answer, "127.0.0.1", 0);
  const int port = server.sockets().front().getsockname().port();
  auto [reader, writer] = co_await ouro::open_connection("127.0.0.1", port, {.limit = 1024});
  writer.writelines({"one\n", "two\nthree\nfour\nfi"});
  co_await writer.drain();
  check(co_await reader.readline_view() == "one\n", "readline_view");
  check(co_await reader.readexactly_view(1) == "t" && co_await reader.readuntil_view('\n') == "wo\n", "views");
  check(co_await reader.readuntil("r") == "thr" && co_await reader.readexactly(3) == "ee\n", "readuntil");
  check(co_await reader.read_view(1) == "f" && co_await reader.readline() == "our\n", "read_view");
  writer.write_eof();
  bool incomplete = false;
  try {
    static_cast<void>(co_await reader.readuntil());
  } catch (const ouro::IncompleteReadError& error) {
    incomplete = error.partial() == "fi" && !error.expected();
  }
  check(incomplete && reader.at_eof() && co_await reader.read() == "", "IncompleteReadError");
  writer.close();
  co_await writer.wait_closed();
  server.close();

  const std::string name = std::string("\0ouro names streams ", 20) + std::to_string(::getpid());
  ouro::Server local = co_await ouro::start_unix_server(answer, name);
  auto [in, out] = co_await ouro::open_unix_connection(name);
  out.write_eof();
  check(co_await in.read(1) == "" && out.can_write_eof(), "open_unix_connection");
  local.close();

  ouro::StreamReader fed({.limit = 1});
  fed.feed_data("long");
  bool overrun = false;
  try {
    static_cast<void>(co_await fed.readuntil());
  } catch (const ouro::LimitOverrunError& error) {
    overrun = error.consumed() == 4;
  }
  check(overrun, "LimitOverrunError");
}

}  // namespace

int main() {
  check(ouro::run(several_loops(), {.workers = 4, .pin_to_cores = true}) == 3, "several loops");
  for (auto* part : {coroutines_and_tasks, futures, deadlines_and_groups, names_and_addresses, generators, threads,
                     locks, queues, sockets, transports, datagrams, streams, contexts, interop})
    ouro::run(part(), {.spin = 0us});
  loop_by_hand();
  policies_and_runners();
  return 0;
}
