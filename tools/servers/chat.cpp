// A chat for telnet and nc: who connects says a name, and from then on each line goes to all others. Who does not read
// is dropped, so that the others need not wait.
#include <algorithm>
#include <cctype>
#include <cstddef>
#include <list>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "common.hpp"

namespace {

using ouro::Coroutine;
using ouro::StreamReader;
using ouro::StreamWriter;

constexpr std::size_t line_bytes = 1000;
constexpr std::size_t backlog_bytes = 256 * 1024;

// All on one loop: nothing is locked, and between two co_awaits nothing changes.
class Room {
 public:
  struct Member {
    std::string name;
    StreamWriter& writer;
  };

  bool has(std::string_view name) const {
    return std::any_of(members_.begin(), members_.end(), [name](const Member& one) { return one.name == name; });
  }
  Member& enter(std::string name, StreamWriter& writer) {
    members_.push_back({std::move(name), writer});
    tell("* " + members_.back().name + " is here\n", &members_.back());
    return members_.back();
  }
  void leave(Member& member) {
    const std::string name = member.name;
    members_.remove_if([&member](const Member& one) { return &one == &member; });
    tell("* " + name + " has left\n", nullptr);
  }
  void say(const Member& member, std::string_view text) {
    std::string line = "<" + member.name + "> ";
    line.append(text).append("\n");
    tell(line, &member);
  }
  std::string names() const {
    std::string all;
    for (const Member& one : members_) all.append(all.empty() ? "" : ", ").append(one.name);
    return all.empty() ? "nobody" : all;
  }

 private:
  void tell(const std::string& line, const Member* but) {
    for (Member& one : members_) {
      if (&one == but) continue;
      if (one.writer.transport().get_write_buffer_size() > backlog_bytes) {
        one.writer.transport().abort();
      } else {
        one.writer.write(line);
      }
    }
  }

  std::list<Member> members_;
};

// The line without its end, and without what terminals would take for commands.
std::string words_of(std::string_view line) {
  std::string words;
  for (const char c : line) {
    if (static_cast<unsigned char>(c) >= ' ' && c != 127) words += c;
  }
  return words;
}

bool is_name(std::string_view name) {
  return !name.empty() && name.size() <= 16 &&
         std::all_of(name.begin(), name.end(), [](unsigned char c) { return std::isalnum(c) != 0; });
}

Coroutine<> visit(Room& room, StreamReader& reader, StreamWriter& writer) {
  writer.write("What is your name?\n");
  std::string name;
  while (true) {
    const std::optional<std::string> line = co_await reader.next();
    if (!line) co_return;
    name = words_of(*line);
    if (is_name(name) && !room.has(name)) break;
    writer.write("A name is up to 16 letters and digits, and nobody else's here. What is yours?\n");
    co_await writer.drain();
  }
  writer.write("* Here are: " + room.names() + "\n");
  struct Visit {
    Room& room;
    Room::Member& member;
    ~Visit() { room.leave(member); }
  } visit{room, room.enter(name, writer)};
  while (const std::optional<std::string> line = co_await reader.next()) {
    const std::string words = words_of(*line);
    if (!words.empty()) room.say(visit.member, words);
  }
}

Coroutine<> welcome(Room& room, StreamReader& reader, StreamWriter& writer) {
  bool chatters = false;
  try {
    co_await visit(room, reader, writer);
  } catch (const ouro::ValueError&) {
    chatters = true;  // a line beyond the limit
  } catch (const ouro::OSError&) {
    // The connection is lost.
  }
  if (chatters) writer.write("* Too long. Goodbye.\n");
}

Coroutine<> chat(servers::Listen listen) {
  Room room;
  auto guest = [&room](StreamReader& reader, StreamWriter& writer) { return welcome(room, reader, writer); };
  ouro::Server server =
      co_await ouro::start_server(guest, listen.host, listen.port, ouro::StreamOptions{.limit = line_bytes});
  co_await servers::serve(server);
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("A chat for telnet and nc.");
  servers::Listen listen;
  listen.add_to(app, false);
  CLI11_PARSE(app, argc, argv);
  return servers::run(chat(listen), listen);
}
