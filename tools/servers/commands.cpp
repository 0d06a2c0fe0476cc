#include "commands.hpp"

#include <algorithm>
#include <array>
#include <charconv>
#include <chrono>
#include <cstddef>
#include <limits>
#include <optional>

#include "resp.hpp"

namespace servers {

namespace {

using namespace resp;
using Clock = Keyspace::Clock;
using Entry = Keyspace::Entry;

using Arguments = std::span<const std::string_view>;

constexpr std::string_view not_an_integer = "ERR value is not an integer or out of range";
constexpr std::string_view syntax_error = "ERR syntax error";

bool same(std::string_view word, std::string_view upper) {
  return std::equal(word.begin(), word.end(), upper.begin(), upper.end(),
                    [](char a, char b) { return (a >= 'a' && a <= 'z' ? static_cast<char>(a - 'a' + 'A') : a) == b; });
}

std::optional<long long> number_of(std::string_view text) {
  long long number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end != text.data() + text.size() || text.empty()) return std::nullopt;
  return number;
}

// A moment so many of `unit` from now; none for what is no number, not positive, or too far.
std::optional<Clock::time_point> moment_of(std::string_view text, std::chrono::milliseconds unit) {
  constexpr long long longest = std::chrono::milliseconds(std::chrono::hours(24 * 365 * 100)).count();
  const std::optional<long long> number = number_of(text);
  if (!number || *number <= 0 || *number > longest / unit.count()) return std::nullopt;
  return Clock::now() + *number * unit;
}

// ---- One key ----

void get(Keyspace& keys, Arguments words, std::string& to) {
  keys.look(words[1], [&to](const Entry* entry) { entry ? add_bulk(to, entry->value) : add_nothing(to); });
}

struct SetOptions {
  bool only_new = false, only_old = false, keeps_end = false, gives_old = false;
  Clock::time_point ends = Keyspace::never;
};

// What is wrong with them, or nothing.
std::string_view read(Arguments words, SetOptions& options) {
  for (std::size_t i = 3; i < words.size(); ++i) {
    const bool seconds = same(words[i], "EX");
    if (seconds || same(words[i], "PX")) {
      if (++i == words.size()) return syntax_error;
      const auto ends = moment_of(words[i], seconds ? std::chrono::seconds(1) : std::chrono::milliseconds(1));
      if (!ends) return "ERR invalid expire time in 'set' command";
      options.ends = *ends;
    } else if (same(words[i], "NX")) {
      options.only_new = true;
    } else if (same(words[i], "XX")) {
      options.only_old = true;
    } else if (same(words[i], "KEEPTTL")) {
      options.keeps_end = true;
    } else if (same(words[i], "GET")) {
      options.gives_old = true;
    } else {
      return syntax_error;
    }
  }
  if (options.only_new && options.only_old) return syntax_error;
  return options.keeps_end && options.ends != Keyspace::never ? syntax_error : "";
}

void set_with_options(Keyspace& keys, Arguments words, const SetOptions& options, std::string& to) {
  const bool there = keys.look(words[1], [&](const Entry* entry) {
    if (options.gives_old) entry ? add_bulk(to, entry->value) : add_nothing(to);
    return entry != nullptr;
  });
  const bool sets = there ? !options.only_new : !options.only_old;
  if (sets) {
    keys.change(words[1], [&](Entry& entry, bool) {
      entry.value.assign(words[2]);
      if (!options.keeps_end) entry.ends = options.ends;
    });
  }
  if (options.gives_old) return;
  sets ? add_simple(to, "OK") : add_nothing(to);
}

void set(Keyspace& keys, Arguments words, std::string& to) {
  if (words.size() > 3) {
    SetOptions options;
    const std::string_view wrong = read(words, options);
    if (!wrong.empty()) return add_error(to, wrong);
    return set_with_options(keys, words, options, to);
  }
  keys.change(words[1], [&words](Entry& entry, bool) {
    entry.value.assign(words[2]);
    entry.ends = Keyspace::never;
  });
  add_simple(to, "OK");
}

void append(Keyspace& keys, Arguments words, std::string& to) {
  keys.change(words[1], [&](Entry& entry, bool) {
    if (entry.value.size() + words[2].size() > argument_bytes_max) {
      return add_error(to, "ERR string exceeds maximum allowed size");
    }
    entry.value.append(words[2]);
    add_integer(to, static_cast<long long>(entry.value.size()));
  });
}

void strlen(Keyspace& keys, Arguments words, std::string& to) {
  keys.look(words[1],
            [&to](const Entry* entry) { add_integer(to, entry ? static_cast<long long>(entry->value.size()) : 0); });
}

void count(Keyspace& keys, std::string_view name, std::optional<long long> by, std::string& to) {
  if (!by) return add_error(to, not_an_integer);
  keys.change(name, [&](Entry& entry, bool fresh) {
    const std::optional<long long> before = fresh ? 0 : number_of(entry.value);
    long long after = 0;
    if (!before || __builtin_add_overflow(*before, *by, &after)) {
      if (fresh) entry.value = "0";
      return add_error(to, before ? "ERR increment or decrement would overflow" : not_an_integer);
    }
    entry.value = std::to_string(after);
    add_integer(to, after);
  });
}

void incr(Keyspace& keys, Arguments words, std::string& to) { count(keys, words[1], 1, to); }
void decr(Keyspace& keys, Arguments words, std::string& to) { count(keys, words[1], -1, to); }
void incrby(Keyspace& keys, Arguments words, std::string& to) { count(keys, words[1], number_of(words[2]), to); }
void decrby(Keyspace& keys, Arguments words, std::string& to) {
  std::optional<long long> by = number_of(words[2]);
  if (by && *by == std::numeric_limits<long long>::min()) by.reset();
  count(keys, words[1], by ? std::optional(-*by) : by, to);
}

void expire_in(Keyspace& keys, Arguments words, std::chrono::milliseconds unit, std::string& to) {
  const std::optional<long long> number = number_of(words[2]);
  if (!number) return add_error(to, not_an_integer);
  if (*number <= 0) return add_integer(to, keys.erase(words[1]) ? 1 : 0);
  const auto ends = moment_of(words[2], unit);
  if (!ends) return add_error(to, "ERR invalid expire time");
  keys.look(words[1], [&](Entry* entry) {
    if (entry) entry->ends = *ends;
    add_integer(to, entry ? 1 : 0);
  });
}
void expire(Keyspace& keys, Arguments words, std::string& to) { expire_in(keys, words, std::chrono::seconds(1), to); }
void pexpire(Keyspace& keys, Arguments words, std::string& to) {
  expire_in(keys, words, std::chrono::milliseconds(1), to);
}

void time_left(Keyspace& keys, std::string_view name, std::chrono::milliseconds unit, std::string& to) {
  keys.look(name, [&](const Entry* entry) {
    if (!entry) return add_integer(to, -2);
    if (entry->ends == Keyspace::never) return add_integer(to, -1);
    const auto left = std::chrono::ceil<std::chrono::milliseconds>(entry->ends - Clock::now());
    add_integer(to, (left.count() + unit.count() - 1) / unit.count());
  });
}
void ttl(Keyspace& keys, Arguments words, std::string& to) { time_left(keys, words[1], std::chrono::seconds(1), to); }
void pttl(Keyspace& keys, Arguments words, std::string& to) {
  time_left(keys, words[1], std::chrono::milliseconds(1), to);
}
void persist(Keyspace& keys, Arguments words, std::string& to) {
  keys.look(words[1], [&to](Entry* entry) {
    const bool had = entry && entry->ends != Keyspace::never;
    if (had) entry->ends = Keyspace::never;
    add_integer(to, had ? 1 : 0);
  });
}
void type(Keyspace& keys, Arguments words, std::string& to) {
  keys.look(words[1], [&to](const Entry* entry) { add_simple(to, entry ? "string" : "none"); });
}

// ---- Several ----

void del(Keyspace& keys, Arguments words, std::string& to) {
  add_integer(to, std::count_if(words.begin() + 1, words.end(), [&](auto name) { return keys.erase(name); }));
}
void exists(Keyspace& keys, Arguments words, std::string& to) {
  const auto there = [&](std::string_view name) {
    return keys.look(name, [](const Entry* entry) { return entry != nullptr; });
  };
  add_integer(to, std::count_if(words.begin() + 1, words.end(), there));
}
void mget(Keyspace& keys, Arguments words, std::string& to) {
  add_array(to, words.size() - 1);
  for (std::size_t i = 1; i < words.size(); ++i) get(keys, words.subspan(i - 1), to);
}
void mset(Keyspace& keys, Arguments words, std::string& to) {
  if (words.size() % 2 == 0) return add_error(to, "ERR wrong number of arguments for 'mset' command");
  for (std::size_t i = 1; i < words.size(); i += 2) {
    keys.change(words[i], [&](Entry& entry, bool) {
      entry.value.assign(words[i + 1]);
      entry.ends = Keyspace::never;
    });
  }
  add_simple(to, "OK");
}

// ---- The server ----

void ping(Keyspace&, Arguments words, std::string& to) {
  words.size() > 1 ? add_bulk(to, words[1]) : add_simple(to, "PONG");
}
void echo(Keyspace&, Arguments words, std::string& to) { add_bulk(to, words[1]); }
void dbsize(Keyspace& keys, Arguments, std::string& to) { add_integer(to, static_cast<long long>(keys.size())); }
void flush(Keyspace& keys, Arguments, std::string& to) {
  keys.clear();
  add_simple(to, "OK");
}
void select(Keyspace&, Arguments words, std::string& to) {
  words[1] == "0" ? add_simple(to, "OK") : add_error(to, "ERR DB index is out of range");
}
// redis-cli asks for the commands, redis-benchmark for the configuration: there is nothing to tell.
void nothing(Keyspace&, Arguments, std::string& to) { add_array(to, 0); }

struct Command {
  std::string_view name;
  std::size_t least, most;  // words, with the name
  void (*run)(Keyspace&, Arguments, std::string&);
};

constexpr std::size_t any = std::numeric_limits<std::size_t>::max();

// Those that are asked for most come first.
constexpr std::array commands{
    Command{"GET", 2, 2, get},       Command{"SET", 3, any, set},         Command{"INCR", 2, 2, incr},
    Command{"DEL", 2, any, del},     Command{"MGET", 2, any, mget},       Command{"MSET", 3, any, mset},
    Command{"PING", 1, 2, ping},     Command{"EXISTS", 2, any, exists},   Command{"DECR", 2, 2, decr},
    Command{"INCRBY", 3, 3, incrby}, Command{"DECRBY", 3, 3, decrby},     Command{"APPEND", 3, 3, append},
    Command{"STRLEN", 2, 2, strlen}, Command{"EXPIRE", 3, 3, expire},     Command{"PEXPIRE", 3, 3, pexpire},
    Command{"TTL", 2, 2, ttl},       Command{"PTTL", 2, 2, pttl},         Command{"PERSIST", 2, 2, persist},
    Command{"UNLINK", 2, any, del},  Command{"TYPE", 2, 2, type},         Command{"ECHO", 2, 2, echo},
    Command{"DBSIZE", 1, 1, dbsize}, Command{"FLUSHALL", 1, 2, flush},    Command{"FLUSHDB", 1, 2, flush},
    Command{"SELECT", 2, 2, select}, Command{"COMMAND", 1, any, nothing}, Command{"CONFIG", 1, any, nothing},
};

}  // namespace

bool execute(Keyspace& keys, std::span<const std::string_view> request, std::string& to) {
  const std::string_view name = request[0];
  for (const Command& command : commands) {
    if (!same(name, command.name)) continue;
    if (request.size() < command.least || request.size() > command.most) {
      add_error(to, std::string("ERR wrong number of arguments for '").append(name).append("' command"));
    } else {
      command.run(keys, request, to);
    }
    return true;
  }
  if (same(name, "QUIT")) {
    add_simple(to, "OK");
    return false;
  }
  std::string shown(name.substr(0, 128));
  std::replace_if(shown.begin(), shown.end(), [](unsigned char c) { return c < ' '; }, ' ');
  add_error(to, std::string("ERR unknown command '").append(shown).append("'"));
  return true;
}

}  // namespace servers
