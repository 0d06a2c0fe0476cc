// getaddrinfo and getnameinfo: the system's own answers, and who is asked where.
#include <gmock/gmock.h>

#include <netdb.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <atomic>
#include <chrono>
#include <exception>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <ouro/io/errors.hpp>
#include <ouro/io/resolver.hpp>
#include <ouro/ouro.hpp>

#include "support/group.hpp"
#include "support/loop_fixture.hpp"
#include "support/test_run.hpp"

namespace ouro {
namespace {

using namespace std::chrono_literals;
using namespace std::string_literals;
using testing::Contains;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;

using Infos = std::vector<AddressInfo>;

// What the system says, asked by the test itself.
struct Told {
  int error = 0;
  Infos infos;

  friend bool operator==(const Told&, const Told&) = default;
};

Told by_libc(const std::string& host, const std::string& service, const AddressInfoOptions& options) {
  addrinfo hints{};
  hints.ai_family = options.family;
  hints.ai_socktype = options.type;
  hints.ai_protocol = options.protocol;
  hints.ai_flags = options.flags;
  addrinfo* list = nullptr;
  Told told;
  told.error =
      ::getaddrinfo(host.empty() ? nullptr : host.c_str(), service.empty() ? nullptr : service.c_str(), &hints, &list);
  for (const addrinfo* info = list; info; info = info->ai_next) {
    told.infos.push_back({info->ai_family, info->ai_socktype, info->ai_protocol,
                          info->ai_canonname ? info->ai_canonname : "",
                          Address::from_sockaddr(info->ai_addr, info->ai_addrlen)});
  }
  if (list) ::freeaddrinfo(list);
  return told;
}

Coroutine<Told> by_ouro(std::string host, std::string service, AddressInfoOptions options) {
  Told told;
  try {
    told.infos = co_await getaddrinfo(host, service, options);
  } catch (const gaierror& error) {
    told.error = error.errno_value();
  }
  co_return told;
}

// Its jobs wait until the test has them run on a thread.
class HeldExecutor final : public Executor {
 public:
  ~HeldExecutor() override { EXPECT_THAT(jobs_, IsEmpty()); }

  void submit(Job& job) override {
    if (shut_down_) throw RuntimeError("it takes nothing");
    const std::lock_guard hold(mutex_);
    jobs_.push_back(&job);
  }
  void shutdown(bool, bool) override { shut_down_ = true; }

  std::size_t held() {
    const std::lock_guard hold(mutex_);
    return jobs_.size();
  }
  void run() {
    std::thread([this] {
      for (Job* job : std::exchange(jobs_, {})) job->run();
    }).join();
  }

 private:
  std::mutex mutex_;
  std::vector<Job*> jobs_;
  std::atomic<bool> shut_down_{false};
};

// Counts what it passes on.
class CountingExecutor final : public Executor {
 public:
  void submit(Job& job) override {
    ++submitted;
    pool_.submit(job);
  }
  void shutdown(bool wait, bool cancel_futures) override { pool_.shutdown(wait, cancel_futures); }

  std::atomic<int> submitted{0};

 private:
  ThreadPoolExecutor pool_{1};
};

class Resolver : public test::LoopTest {
 protected:
  std::shared_ptr<HeldExecutor> hold_jobs() {
    auto executor = std::make_shared<HeldExecutor>();
    loop.set_default_executor(executor);
    return executor;
  }
  std::shared_ptr<CountingExecutor> count_jobs() {
    auto executor = std::make_shared<CountingExecutor>();
    loop.set_default_executor(executor);
    return executor;
  }
  // The error that awaiting it throws.
  template <class A>
  std::exception_ptr error_of(A awaitable) {
    try {
      static_cast<void>(run(std::move(awaitable)));
    } catch (...) {
      return std::current_exception();
    }
    return nullptr;
  }
};

Coroutine<Infos> look_up(std::string host, std::string service, AddressInfoOptions options = {}) {
  co_return co_await getaddrinfo(host, service, options);
}
Coroutine<NameInfo> name_at(Address address, int flags) { co_return co_await getnameinfo(address, flags); }

// ---- getaddrinfo ----

// B361, B368: what the system says, and no thread is asked.
TEST_F(Resolver, AnswersNumbersAtOnce) {
  const auto executor = count_jobs();
  for (const std::string host : {"127.0.0.1", "::1", "127.1", "0x7f000001", "fe80::1%1", "::ffff:1.2.3.4", ""}) {
    for (const std::string service : {"", "0", "80", "65535"}) {
      for (const int type : {0, static_cast<int>(SOCK_STREAM), static_cast<int>(SOCK_DGRAM), 77}) {
        for (const int flags : {0, AI_PASSIVE, AI_NUMERICHOST, AI_CANONNAME, 1 << 30}) {
          const AddressInfoOptions options{.type = type, .flags = flags};
          const Told told = run(by_ouro(host, service, options));
          EXPECT_EQ(told, by_libc(host, service, options)) << host << " " << service << " " << type << " " << flags;
        }
      }
    }
  }
  EXPECT_EQ(executor->submitted, 0);
}

// B361, B368
TEST_F(Resolver, AsksForTheFamilyAndProtocol) {
  const auto executor = count_jobs();
  for (const std::string host : {"127.0.0.1", "::1", ""}) {
    for (const int family : {0, AF_INET, AF_INET6, AF_UNIX}) {
      for (const int protocol : {0, static_cast<int>(IPPROTO_TCP), static_cast<int>(IPPROTO_UDP)}) {
        for (const int flags : {0, AI_V4MAPPED}) {
          const AddressInfoOptions options{.family = family, .protocol = protocol, .flags = flags};
          EXPECT_EQ(run(by_ouro(host, "80", options)), by_libc(host, "80", options))
              << host << " " << family << " " << protocol << " " << flags;
        }
      }
    }
  }
  const Infos infos = run(look_up("::1", "80", {.family = AF_INET6, .type = SOCK_STREAM}));
  ASSERT_EQ(infos.size(), 1U);
  EXPECT_EQ(infos[0], (AddressInfo{AF_INET6, SOCK_STREAM, IPPROTO_TCP, "", Address::ip("::1", 80)}));
}

// B361: no host is any address, or loopback.
TEST_F(Resolver, TakesNoHostForAnyAddress) {
  const Infos any = run(look_up("", "80", {.family = AF_INET, .type = SOCK_STREAM, .flags = AI_PASSIVE}));
  ASSERT_EQ(any.size(), 1U);
  EXPECT_EQ(any[0].address, Address::ip("0.0.0.0", 80));
  const Infos own = run(look_up("", "80", {.family = AF_INET6, .type = SOCK_STREAM}));
  ASSERT_EQ(own.size(), 1U);
  EXPECT_EQ(own[0].address, Address::ip("::1", 80));
}

// B368: what has to be looked up is looked up on a thread, with the system's result and order.
TEST_F(Resolver, LooksNamesUpOnAThread) {
  const auto executor = count_jobs();
  int expected = 0;
  for (const std::string service : {"", "80", "http", "no such service"}) {
    for (const std::string host : {"localhost", "127.0.0.1"}) {
      const AddressInfoOptions options{.type = SOCK_STREAM};
      EXPECT_EQ(run(by_ouro(host, service, options)), by_libc(host, service, options)) << host << " " << service;
      if (host == "localhost" || service.size() > 2) ++expected;
      EXPECT_EQ(executor->submitted, expected) << host << " " << service;
    }
  }
  EXPECT_EQ(run(by_ouro("localhost", "80", {.flags = AI_NUMERICHOST})).error, EAI_NONAME);  // asked nowhere
  EXPECT_EQ(executor->submitted, expected);
}

// B368
TEST_F(Resolver, DoesNotHoldUpTheLoop) {
  const auto executor = hold_jobs();
  const std::string host = "localhost";
  Task<Infos> task = loop.create_task(look_up(host, "80", {.type = SOCK_STREAM}));
  turn(3);
  EXPECT_FALSE(task.done());
  EXPECT_EQ(executor->held(), 1U);
  executor->run();
  EXPECT_EQ(run(task), by_libc(host, "80", {.type = SOCK_STREAM}).infos);
}

TEST_F(Resolver, ACancelledLookupDropsItsResult) {
  const auto executor = hold_jobs();
  Task<Infos> task = loop.create_task(look_up("localhost", "80"));
  turn(2);
  task.cancel();
  EXPECT_EQ(test::describe(error_of(task)), "CancelledError: ");
  EXPECT_EQ(executor->held(), 1U);  // its thread goes on
  executor->run();
  turn(2);
}

TEST_F(Resolver, TheLoopMayCloseBeforeTheAnswerComes) {
  const auto executor = hold_jobs();
  {
    Task<Infos> task = loop.create_task(look_up("localhost", "80"));
    turn(2);
  }
  destroy_loop();
  EXPECT_THAT(take_reports(), testing::SizeIs(1));  // of the task that was destroyed
  executor->run();
}

TEST_F(Resolver, AnErrorNamesTheHostAndTheRemedy) {
  const std::exception_ptr error = error_of(look_up("localhost", "80", {.flags = AI_NUMERICHOST}));
  const auto* refused = exception_as<gaierror>(error);
  ASSERT_NE(refused, nullptr);
  EXPECT_STREQ(refused->what(), "getaddrinfo localhost:80: Name or service not known");
  EXPECT_EQ(refused->errno_value(), EAI_NONAME);
  EXPECT_EQ(refused->code().category().name(), "getaddrinfo"s);
  EXPECT_EQ(refused->operation(), "getaddrinfo");
  EXPECT_EQ(refused->object(), "localhost:80");
  EXPECT_THAT(refused->hint(), HasSubstr("/etc/hosts"));
  EXPECT_NE(exception_as<OSError>(error), nullptr);

  const std::exception_ptr service = error_of(look_up("::1", "no such service", {.type = SOCK_STREAM}));
  ASSERT_NE(exception_as<gaierror>(service), nullptr);
  EXPECT_THAT(exception_as<gaierror>(service)->what(), HasSubstr("getaddrinfo [::1]:no such service: "));
  EXPECT_THAT(exception_as<gaierror>(service)->hint(), HasSubstr("/etc/services"));
}

// B361
TEST_F(Resolver, RefusesWhatIsNoHostOrPort) {
  const auto port = [](int number) -> Coroutine<Infos> { co_return co_await getaddrinfo("::1", number); };
  for (const int number : {-1, 65536}) {
    EXPECT_EQ(test::describe(error_of(port(number))),
              "ValueError: port " + std::to_string(number) + " is not in 0..65535");
  }
  EXPECT_EQ(run(port(7)).front().address, Address::ip("::1", 7));
  EXPECT_EQ(test::describe(error_of(look_up("::1", "99999999999999"))),
            "ValueError: port 99999999999999 is not in 0..65535");
  EXPECT_THAT(test::describe(error_of(look_up("::1\0"s, "80"))), HasSubstr("ValueError: "));
  EXPECT_THAT(test::describe(error_of(look_up("::1", "80\0"s))), HasSubstr("ValueError: "));
}

TEST_F(Resolver, NeedsALoopAndItsExecutor) {
  if (test::forced_workers() == 1) {
    EXPECT_EQ(test::thrown_by([] { return getaddrinfo("::1", 80); }), "RuntimeError: no running event loop");
    EXPECT_EQ(test::thrown_by([] { return getnameinfo(Address()); }), "RuntimeError: no running event loop");
  }
  hold_jobs()->shutdown(false, false);
  EXPECT_EQ(test::describe(error_of(look_up("localhost", "80"))), "RuntimeError: it takes nothing");
  EXPECT_EQ(run(look_up("127.0.0.1", "80", {.type = SOCK_STREAM})).size(), 1U);
}

TEST_F(Resolver, DebugModeReportsSlowLookups) {
  std::vector<std::string> texts;
  const auto lookup_reports = [&] {
    texts.clear();
    for (const ExceptionContext& report : take_reports()) {
      if (report.message.find("address info") != std::string::npos) texts.push_back(report.message);
    }
    return texts;
  };
  loop.set_debug(true);
  loop.slow_callback_duration = 1h;
  run(look_up("localhost", "80"));
  turn(2);
  EXPECT_THAT(lookup_reports(), IsEmpty());

  loop.slow_callback_duration = 0ns;  // everything is slow
  run(look_up("localhost", "80"));
  error_of(look_up("localhost", "no such service"));
  turn(2);
  EXPECT_THAT(lookup_reports(),
              testing::ElementsAre(testing::MatchesRegex("Getting address info localhost:80 took [0-9]+\\.[0-9]+ ms"),
                                   HasSubstr("localhost:no such service")));
  const auto executor = hold_jobs();
  Task<Infos> task = loop.create_task(look_up("localhost", "80"));
  turn(2);
  task.cancel();
  turn(3);
  executor->run();
  turn(2);
  EXPECT_THAT(lookup_reports(), IsEmpty());  // its thread was at work still
}

// ---- getnameinfo ----

// B368
TEST_F(Resolver, GivesTheNamesOfTheSystem) {
  const auto executor = count_jobs();
  const Address address = Address::ip("127.0.0.1", 80);
  int expected = 0;
  for (const int flags : {0, NI_NUMERICHOST, NI_NUMERICSERV, NI_NUMERICHOST | NI_NUMERICSERV, NI_DGRAM, NI_NAMEREQD}) {
    char host[NI_MAXHOST];
    char service[NI_MAXSERV];
    ASSERT_EQ(::getnameinfo(address.data(), static_cast<socklen_t>(address.size()), host, sizeof host, service,
                            sizeof service, flags),
              0);
    EXPECT_EQ(run(name_at(address, flags)), (NameInfo{host, service})) << flags;
    if (flags != (NI_NUMERICHOST | NI_NUMERICSERV)) ++expected;
    EXPECT_EQ(executor->submitted, expected);
  }
  EXPECT_EQ(run(name_at(Address::ip("fe80::1%1", 9), NI_NUMERICHOST | NI_NUMERICSERV)), (NameInfo{"fe80::1%lo", "9"}));
}

TEST_F(Resolver, RefusesToNameOtherFamilies) {
  const auto executor = count_jobs();
  for (const Address& address : {Address::unix_path("/run/socket"), Address()}) {
    const std::exception_ptr error = error_of(name_at(address, 0));
    const auto* refused = exception_as<gaierror>(error);
    ASSERT_NE(refused, nullptr);
    EXPECT_EQ(refused->errno_value(), EAI_FAMILY);
    EXPECT_EQ(refused->object(), address.str());
  }
  EXPECT_EQ(executor->submitted, 0);
}

// ---- With loops on a ring, and several of them ----

class ResolverOfLoops : public test::GroupsOfAnySize {};
INSTANTIATE_TEST_SUITE_P(Workers, ResolverOfLoops, testing::Values(1U, 2U, 4U));

// B368
TEST_P(ResolverOfLoops, AnswersWhereTheTaskIs) {
  const Infos expected = by_libc("localhost", "80", {.type = SOCK_STREAM}).infos;
  const auto one = [&expected](int number) -> Coroutine<int> {
    EventLoop& loop = *workers()[static_cast<std::size_t>(number) % workers().size()];
    co_await sleep(0s);
    EXPECT_EQ(co_await loop.getaddrinfo("localhost", "80", {.type = SOCK_STREAM}), expected);
    const Infos infos = co_await loop.getaddrinfo("127.0.0.1", 80, {.type = SOCK_STREAM});
    EXPECT_EQ(infos.front().address, Address::ip("127.0.0.1", 80));
    const NameInfo name = co_await loop.getnameinfo(infos.front().address, NI_NUMERICHOST);
    EXPECT_EQ(name.host, "127.0.0.1");
    co_return number;
  };
  const auto main = [&one]() -> Coroutine<> {
    std::vector<Task<int>> tasks;
    for (int i = 0; i < 100; ++i) tasks.push_back(create_task(one, i));
    for (int i = 0; i < 100; ++i) EXPECT_EQ(co_await tasks[static_cast<std::size_t>(i)], i);
  };
  run(main);
}

TEST_P(ResolverOfLoops, CancelledLookupsLeaveNothingBehind) {
  const auto main = []() -> Coroutine<> {
    for (int round = 0; round < 100; ++round) {
      Task<Infos> task = create_task(look_up("localhost", "80"));
      for (int i = 0; i < round % 8; ++i) co_await sleep(0s);
      task.cancel();
      std::string end;
      try {
        co_await task;
      } catch (...) {
        end = test::describe(std::current_exception());
      }
      EXPECT_TRUE(end.empty() || end == "CancelledError: ") << end;
    }
    ouro::EventLoop& loop = get_running_loop();
    co_await shutdown_default_executor(loop);  // the threads have ended what was cancelled
  };
  run(main);
}

}  // namespace
}  // namespace ouro
