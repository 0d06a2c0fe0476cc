// StreamReader by itself, fed by hand: what each way to read gives, where it waits, and what the limit does.
#include <gmock/gmock.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <memory>
#include <optional>
#include <random>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <ouro/ouro.hpp>
#include <ouro/runtime/detail/frame_pool.hpp>

#include "support/wire.hpp"

namespace ouro {
namespace {

using namespace std::chrono_literals;
using test::end_of;
using test::pattern;

class StreamReaderTest : public test::WireTest {};

// What feeds the reader piece by piece, each in a turn of its own, and then the end.
Coroutine<> feed(StreamReader& reader, std::vector<std::string> pieces, bool end = true) {
  for (const std::string& piece : pieces) {
    co_await sleep(0s);
    reader.feed_data(piece);
  }
  co_await sleep(0s);
  if (end) reader.feed_eof();
}

Task<> feeding(StreamReader& reader, std::vector<std::string> pieces, bool end = true) {
  return get_running_loop().create_task(feed(reader, std::move(pieces), end));
}

// Counts how it is paused and resumed.
class Gauge final : public ReadTransport {
 public:
  void close() override {}
  bool is_closing() const noexcept override { return false; }
  bool is_reading() const noexcept override { return !paused; }
  void pause_reading() override { paused = true; }
  void resume_reading() override {
    if (fails) {
      fails = false;
      throw std::bad_alloc();
    }
    paused = false;
    ++resumed;
  }
  bool fails = false;
  bool paused = false;
  int resumed = 0;

 private:
  std::any extra_info(std::string_view) const override { return {}; }
};

std::string partial_of(const std::exception_ptr& error) {
  try {
    std::rethrow_exception(error);
  } catch (const IncompleteReadError& incomplete) {
    return incomplete.partial();
  } catch (...) {
    return "another error";
  }
}

// The error with which it ends.
template <class T>
Coroutine<std::exception_ptr> error_of(detail::ReadAwaiter<T> reading) {
  try {
    static_cast<void>(co_await std::move(reading));
  } catch (...) {
    co_return std::current_exception();
  }
  co_return nullptr;
}

std::size_t consumed_of(const std::exception_ptr& error) {
  try {
    std::rethrow_exception(error);
  } catch (const LimitOverrunError& overrun) {
    return overrun.consumed();
  } catch (...) {
    return 0;
  }
}

// B305, B306, B309, B320
TEST_F(StreamReaderTest, ReadGivesWhatIsThere) {
  run([]() -> Coroutine<> {
    StreamReader reader({.limit = 3});
    reader.feed_data("");
    std::string got = co_await reader.read(0);
    EXPECT_EQ(got, "");
    reader.feed_data("hello");
    got = co_await reader.read(2);
    EXPECT_EQ(got, "he");
    got = co_await reader.read(100);
    EXPECT_EQ(got, "llo");
    Task<> more = feeding(reader, {"wor", "ld"});
    got = co_await reader.read(100);
    EXPECT_EQ(got, "wor");
    EXPECT_FALSE(reader.at_eof());
    got = co_await reader.read();
    EXPECT_EQ(got, "ld");
    EXPECT_TRUE(reader.at_eof());
    got = co_await reader.read(10);
    EXPECT_EQ(got, "");
    got = co_await reader.read();
    EXPECT_EQ(got, "");
    co_await more;
    StreamReader to_the_end;
    to_the_end.feed_data("all ");
    Task<> rest = feeding(to_the_end, {"of ", "it"});
    got = co_await to_the_end.read(static_cast<std::size_t>(-1));
    EXPECT_EQ(got, "all of it");
    co_await rest;
    EXPECT_THROW(reader.feed_data("late"), RuntimeError);
    EXPECT_THROW(StreamReader({.limit = 0}), ValueError);  // B308
  });
}

// B310, B312
TEST_F(StreamReaderTest, Lines) {
  run([]() -> Coroutine<> {
    StreamReader reader;
    Task<> more = feeding(reader, {"one\ntw", "o", "\n\nth", "ree"});
    std::string got = co_await reader.readline();
    EXPECT_EQ(got, "one\n");
    got = co_await reader.read(1);
    EXPECT_EQ(got, "t");
    got = co_await reader.readline();
    EXPECT_EQ(got, "wo\n");
    got = co_await reader.readline();
    EXPECT_EQ(got, "\n");
    got = co_await reader.readline();
    EXPECT_EQ(got, "three") << "what is left at the end";
    got = co_await reader.readline();
    EXPECT_EQ(got, "");
    co_await more;
  });
}

TEST_F(StreamReaderTest, LinesOneByOne) {
  run([]() -> Coroutine<> {
    StreamReader reader;
    Task<> more = feeding(reader, {"a\nb", "b\n", "\nc"});
    std::string all;
    while (std::optional<std::string> line = co_await reader.next()) all += "[" + *line + "]";
    EXPECT_EQ(all, "[a\n][bb\n][\n][c]");
    co_await more;

    StreamReader numbers;
    numbers.feed_data("1\n2\n3\n");
    numbers.feed_eof();
    auto twice = [](std::string line) -> Coroutine<int> { co_return 2 * std::stoi(line); };
    auto doubling = map(twice, numbers);
    std::vector<int> doubled = co_await std::move(doubling);
    EXPECT_EQ(doubled, (std::vector<int>{2, 4, 6})) << "a reader is the source of a map";
  });
}

// B311
TEST_F(StreamReaderTest, ALineBeyondTheLimit) {
  run([]() -> Coroutine<> {
    StreamReader reader({.limit = 3});
    reader.feed_data("chunk1\nchunk2\n");
    EXPECT_EQ(co_await end_of(reader.readline()), "ValueError: Separator is found, but chunk is longer than limit");
    reader.feed_data("li");
    const std::string kept = co_await reader.read(100);
    EXPECT_EQ(kept, "chunk2\nli") << "what stood behind it";
    Task<> more = feeding(reader, {"long", "er", "ab\n"});
    EXPECT_EQ(co_await end_of(reader.readline()), "ValueError: Separator is not found, and chunk exceed the limit");
    const std::string rest = co_await reader.read();
    EXPECT_EQ(rest, "erab\n") << "what there was of it was dropped";
    co_await more;
  });
}

// B313, B315, B318
TEST_F(StreamReaderTest, UpToASeparator) {
  run([]() -> Coroutine<> {
    StreamReader reader;
    Task<> more = feeding(reader, {"abc", "\r", "\r\nde", "f.", "x--y---", "rest"});
    std::string got = co_await reader.readuntil("\r\n");
    EXPECT_EQ(got, "abc\r\r\n");
    got = co_await reader.readuntil('.');
    EXPECT_EQ(got, "def.");
    got = co_await reader.readuntil("---");
    EXPECT_EQ(got, "x--y---");
    const std::exception_ptr error = co_await error_of(reader.readuntil());
    EXPECT_EQ(partial_of(error), "rest");
    EXPECT_EQ(test::describe(error), "RuntimeError: 4 bytes read on a total of undefined expected bytes");
    EXPECT_TRUE(reader.at_eof());
    EXPECT_EQ(co_await end_of(reader.readuntil("")), "ValueError: Separator should be at least one-byte string");
    co_await more;
  });
}

// B316
TEST_F(StreamReaderTest, NoSeparatorWithinTheLimit) {
  run([]() -> Coroutine<> {
    StreamReader reader({.limit = 7});
    reader.feed_data("some_very_long_dataAA");
    std::exception_ptr error = co_await error_of(reader.readuntil("A"));
    EXPECT_EQ(test::describe(error), "RuntimeError: Separator is found, but chunk is longer than limit");
    EXPECT_EQ(consumed_of(error), 19U);
    error = co_await error_of(reader.readuntil("ABCD"));
    EXPECT_EQ(test::describe(error), "RuntimeError: Separator is not found, and chunk exceed the limit");
    EXPECT_EQ(consumed_of(error), 18U) << "the last three may begin a separator";
    const std::string got = co_await reader.readexactly(consumed_of(error));
    EXPECT_EQ(got, "some_very_long_dat");
    reader.feed_data("BCD");
    const std::string end = co_await reader.readuntil("ABCD");
    EXPECT_EQ(end, "aAABCD");
  });
}

// B317
TEST_F(StreamReaderTest, SeveralSeparators) {
  run([]() -> Coroutine<> {
    StreamReader reader({.limit = 20});
    constexpr std::array<std::string_view, 3> ends{"\r\n", "\n", "STOP"};
    Task<> more = feeding(reader, {"one\r", "\ntwo\nST", "OP", "x", "O\r"});
    std::string got = co_await reader.readuntil(ends);
    EXPECT_EQ(got, "one\r\n");
    got = co_await reader.readuntil(ends);
    EXPECT_EQ(got, "two\n");
    got = co_await reader.readuntil(ends);
    EXPECT_EQ(got, "STOP");
    std::exception_ptr error = co_await error_of(reader.readuntil(ends));
    EXPECT_EQ(partial_of(error), "xO\r");
    co_await more;

    StreamReader other({.limit = 3});
    constexpr std::array<std::string_view, 2> nested{"is", "this is it"};
    other.feed_data("this is it");
    got = co_await other.readuntil(nested);
    EXPECT_EQ(got, "this") << "the one that ends first";
#ifdef __clang__  // g++ 12 takes no braces in a co_await
    StreamReader braces;
    braces.feed_data("one\r\ntwo\nthree");
    got = co_await braces.readuntil({"\r\n", "\n"});
    EXPECT_EQ(got, "one\r\n");
    const std::string_view seen = co_await braces.readuntil_view({"\r\n", "\n"});
    EXPECT_EQ(seen, "two\n");
#endif
    other.feed_data("longer");
    error = co_await error_of(other.readuntil(ends));
    EXPECT_EQ(consumed_of(error), 9U);
    EXPECT_EQ(co_await end_of(other.readuntil(std::span<const std::string_view>())),
              "ValueError: Separator should be at least one-byte string");
  });
}

// B319, B334
TEST_F(StreamReaderTest, Exactly) {
  run([]() -> Coroutine<> {
    StreamReader reader({.limit = 3});
    std::string got = co_await reader.readexactly(0);
    EXPECT_EQ(got, "");
    EXPECT_EQ(co_await end_of(reader.readexactly(static_cast<std::size_t>(-1))),
              "ValueError: readexactly size can not be less than zero");
    Task<> more = feeding(reader, {"ab", "cdef", "gh", "ijk"});
    got = co_await reader.readexactly(7);
    EXPECT_EQ(got, "abcdefg") << "more than twice the limit";
    got = co_await reader.readexactly(1);
    EXPECT_EQ(got, "h");
    const std::exception_ptr error = co_await error_of(reader.readexactly(5));
    EXPECT_EQ(test::describe(error), "RuntimeError: 3 bytes read on a total of 5 expected bytes");
    EXPECT_TRUE(reader.at_eof());
    try {
      std::rethrow_exception(error);
    } catch (const IncompleteReadError& incomplete) {
      const IncompleteReadError copy = incomplete;
      EXPECT_EQ(copy.partial(), "ijk");
      EXPECT_EQ(copy.expected(), 5U);
      EXPECT_EQ(&copy.partial(), &incomplete.partial()) << "copies share it";
    }
    co_await more;
  });
}

// B307
TEST_F(StreamReaderTest, AnError) {
  run([]() -> Coroutine<> {
    StreamReader reader;
    EXPECT_EQ(reader.exception(), nullptr);
    Task<std::string> waiting = get_running_loop().create_task(reader.readexactly(4));
    co_await sleep(0s);
    reader.feed_data("ab");
    reader.set_exception(std::make_exception_ptr(std::runtime_error("reset")));
    EXPECT_EQ(co_await end_of(waiting), "exception: reset");
    EXPECT_EQ(co_await end_of(reader.read(1)), "exception: reset");
    EXPECT_EQ(co_await end_of(reader.readline()), "exception: reset");
    EXPECT_NE(reader.exception(), nullptr);
  });
}

TEST_F(StreamReaderTest, AnErrorAfterACancellation) {
  run([]() -> Coroutine<> {
    StreamReader reader;
    Task<std::string> waiting = get_running_loop().create_task(reader.read(4));
    co_await sleep(0s);
    waiting.cancel();
    reader.set_exception(std::make_exception_ptr(std::runtime_error("reset")));
    EXPECT_THAT(co_await end_of(waiting), testing::StartsWith("CancelledError"));
  });
}

// B321
TEST_F(StreamReaderTest, OneTaskAtATime) {
  run([]() -> Coroutine<> {
    StreamReader reader;
    Task<std::string> first = get_running_loop().create_task(reader.readline());
    co_await sleep(0s);
    EXPECT_EQ(co_await end_of(reader.read(1)),
              "RuntimeError: read() called while another coroutine is already waiting for incoming data");
    reader.feed_data("line\nx");
    EXPECT_THAT(co_await end_of(reader.readuntil()), testing::HasSubstr("readuntil() called while another"))
        << "the line is the first one's, though it has not run";
    EXPECT_EQ(co_await first, "line\n");
    const std::string rest = co_await reader.read(10);
    EXPECT_EQ(rest, "x");
  });
}

// B322
TEST_F(StreamReaderTest, PausesItsTransportAtTwiceTheLimit) {
  run([]() -> Coroutine<> {
    auto gauge = std::make_shared<Gauge>();
    StreamReader reader({.limit = 4});
    reader.set_transport(gauge);
    reader.feed_data("12345678");
    EXPECT_FALSE(gauge->paused);
    reader.feed_data("9");
    EXPECT_TRUE(gauge->paused);
    std::string got = co_await reader.read(4);
    EXPECT_TRUE(gauge->paused);
    got = co_await reader.read(1);
    EXPECT_FALSE(gauge->paused) << "what is left is no more than the limit";
    EXPECT_EQ(gauge->resumed, 1);

    reader.feed_data("abcdefgh");
    EXPECT_TRUE(gauge->paused);
    Task<std::string> waiting = get_running_loop().create_task(reader.readexactly(100));
    co_await sleep(0s);
    EXPECT_FALSE(gauge->paused) << "one waits for more";
    reader.feed_data(std::string(87, 'x'));
    EXPECT_FALSE(gauge->paused) << "and for more still";
    reader.feed_data("y");
    co_await waiting;
    EXPECT_FALSE(gauge->paused);

    reader.feed_data("abcdefghi");
    EXPECT_TRUE(gauge->paused);
    gauge->fails = true;
    got = co_await reader.read(6);
    EXPECT_TRUE(gauge->paused) << "it could not be resumed";
    got = co_await reader.read(1);
    EXPECT_FALSE(gauge->paused) << "the next one tries again";
  });
}

TEST_F(StreamReaderTest, ViewsLastUntilTheNextRead) {
  run([]() -> Coroutine<> {
    StreamReader reader;
    reader.feed_data("first\nsecond\n");
    std::string_view line = co_await reader.readline_view();
    for (int i = 0; i < 1000; ++i) reader.feed_data("more and more\n");
    EXPECT_EQ(line, "first\n") << "though the buffer had to grow";
    line = co_await reader.readuntil_view('\n');
    EXPECT_EQ(line, "second\n");
    for (int i = 0; i < 1000; ++i) {
      line = co_await reader.readline_view();
      EXPECT_EQ(line, "more and more\n");
    }
    reader.feed_data("tail");
    EXPECT_EQ(line, "more and more\n") << "the last of the buffer";
    std::string_view tail = co_await reader.read_view(100);
    EXPECT_EQ(tail, "tail");
    Task<> more = feeding(reader, {"x", "yz"});
    tail = co_await reader.readexactly_view(3);
    EXPECT_EQ(tail, "xyz");
    co_await more;
    tail = co_await reader.read_view(1);
    EXPECT_EQ(tail, "");
  });
}

// The one that waits is in the frame of its task.
TEST_F(StreamReaderTest, WaitingTakesNoFrame) {
  run([]() -> Coroutine<> {
    StreamReader reader;
    Task<> more = feeding(reader, std::vector<std::string>(100, "a line\n"));
    const detail::FrameCounter frames;
    for (int i = 0; i < 100; ++i) {
      const std::string_view line = co_await reader.readline_view();
      EXPECT_EQ(line, "a line\n");
    }
    EXPECT_EQ(frames.count(), 0U);
    co_await more;
  });
}

// Every way to read against a string that is cut by hand, whatever the pieces.
TEST_F(StreamReaderTest, AsACutOfTheWhole) {
  for (unsigned seed = 0; seed < 200; ++seed) {
    run([seed]() -> Coroutine<> {
      std::minstd_rand random(seed + 1);
      std::string whole(random() % 3000, '\0');
      for (char& c : whole) c = "ab\n\r."[random() % 5];
      std::vector<std::string> pieces;
      for (std::size_t at = 0; at < whole.size();) {
        const std::size_t bytes = std::min(whole.size() - at, 1 + random() % (seed % 2 ? 5 : 500));
        pieces.push_back(whole.substr(at, bytes));
        at += bytes;
      }
      StreamReader reader({.limit = 4096});
      Task<> more = feeding(reader, std::move(pieces));
      constexpr std::array<std::string_view, 3> ends{"\r\n", "..", "ab"};
      std::string all;
      while (all.size() < whole.size()) {
        const std::string rest = whole.substr(all.size());
        std::string expected;
        std::string got;
        std::size_t end = std::string::npos;
        switch (random() % 5) {
          case 0:
            expected = rest.substr(0, std::min(rest.find('\n'), rest.size() - 1) + 1);
            got = co_await reader.readline();
            break;
          case 1:
            expected = rest.substr(0, 1 + random() % rest.size());
            got = co_await reader.readexactly(expected.size());
            break;
          case 2:
            for (const std::string_view one : ends) {
              const std::size_t at = rest.find(one);
              if (at != std::string::npos) end = std::min(end, at + one.size());
            }
            if (end == std::string::npos) {
              expected = rest;
              got = partial_of(co_await error_of(reader.readuntil(ends)));
            } else {
              expected = rest.substr(0, end);
              const std::string_view view = co_await reader.readuntil_view(ends);
              got = std::string(view);
            }
            break;
          case 3:
            got = co_await reader.read(1 + random() % 100);
            expected = rest.substr(0, got.size());
            EXPECT_FALSE(got.empty());
            break;
          default:
            const std::string_view view = co_await reader.readline_view();
            got = std::string(view);
            expected = rest.substr(0, std::min(rest.find('\n'), rest.size() - 1) + 1);
        }
        EXPECT_EQ(got, expected) << "seed " << seed << " at " << all.size();
        if (got != expected) break;
        all += got;
      }
      co_await more;
      EXPECT_TRUE(reader.at_eof());
    });
  }
}

// A megabyte line, byte by byte, is searched once: searched anew each time it would take 5 * 10^11 comparisons.
TEST_F(StreamReaderTest, OneByteAtATime) {
  run([]() -> Coroutine<> {
    constexpr std::size_t bytes = 1'000'000;
    StreamReader reader({.limit = 2 * bytes});
    Task<std::string> waiting = get_running_loop().create_task(reader.readuntil("\r\n"));
    co_await sleep(0s);
    for (std::size_t i = 0; i < bytes; ++i) reader.feed_data("\r");
    reader.feed_data("\n");
    EXPECT_EQ((co_await waiting).size(), bytes + 1);
  });
}

// What one task feeds another one reads, on whichever worker.
class FloatingReaders : public test::GroupsOfAnySize {};

Coroutine<> feed_much(StreamReader& reader, const std::string& all) {
  for (std::size_t at = 0; at < all.size(); at += 777) {
    reader.feed_data(std::string_view(all).substr(at, 777));
    if (at % 5 == 0) co_await sleep(0s);
  }
  reader.feed_eof();
}

Coroutine<std::string> read_much(StreamReader& reader) {
  std::string all;
  while (true) {
    const std::string_view piece = co_await reader.read_view(100);
    if (piece.empty()) break;
    all += piece;
    const std::string more = co_await reader.read(1000);
    all += more;
    const std::string line = co_await reader.readline();
    all += line;
  }
  co_return all;
}

TEST_P(FloatingReaders, LoseNothing) {
  run([]() -> Coroutine<> {
    for (int round = 0; round < 20; ++round) {
      StreamReader reader({.limit = 1 << 20});
      const std::string all = pattern(200'000);
      Task<> feeder = spawn(feed_much(reader, all));
      const std::string got = co_await spawn(read_much(reader));
      EXPECT_EQ(got, all);
      co_await feeder;
    }
  });
}

// Two that read the same: who comes second is refused, wherever the first one is; each line is one's. Lines tell how
// long they are.
std::string line_of(std::size_t size) { return std::string(size, static_cast<char>('a' + size % 26)).append("\n"); }

Coroutine<int> count_lines(StreamReader& reader) {
  int lines = 0;
  while (true) {
    try {
      const std::string line = co_await reader.readline();
      if (line.empty()) break;
      EXPECT_EQ(line, line_of(line.size() - 1));
      ++lines;
      continue;
    } catch (const RuntimeError&) {
    }
    co_await sleep(0s);
  }
  co_return lines;
}

TEST_P(FloatingReaders, EachLineIsOnes) {
  run([]() -> Coroutine<> {
    StreamReader reader({.limit = 1 << 20});
    Task<int> first = spawn(count_lines(reader));
    Task<int> second = spawn(count_lines(reader));
    std::string all;
    std::minstd_rand random(1);
    for (int i = 0; i < 20'000; ++i) all += line_of(1 + random() % 40);
    co_await feed_much(reader, all);
    const int lines = co_await first + co_await second;
    EXPECT_EQ(lines, 20'000);
  });
}

INSTANTIATE_TEST_SUITE_P(Workers, FloatingReaders, testing::Values(1U, 2U, 4U));

}  // namespace
}  // namespace ouro
