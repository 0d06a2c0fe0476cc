// An HTTP/1.1 server: "/plaintext" says hello, everything else is a file of a folder.
#include <chrono>
#include <cstddef>
#include <exception>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

#include "common.hpp"
#include "files.hpp"
#include "http.hpp"

namespace {

namespace http = servers::http;
using ouro::Coroutine;
using servers::File;
using servers::Folder;

class Site final : public http::Handler {
 public:
  explicit Site(const Folder* folder) : folder_(folder) {}

  void respond(http::Connection& connection, const http::Request& request) override {
    constexpr std::string_view text = "text/plain";
    if (request.method != HTTP_GET && request.method != HTTP_HEAD) {
      return connection.respond(HTTP_STATUS_METHOD_NOT_ALLOWED, text, "Method Not Allowed\n", "Allow: GET, HEAD\r\n");
    }
    if (request.target == "/plaintext") return connection.respond(HTTP_STATUS_OK, text, "Hello, World!");
    std::optional<std::string> path = servers::path_of(request.target);
    if (!path) return connection.respond(HTTP_STATUS_BAD_REQUEST, text, "Bad Request\n");
    if (!folder_) return connection.respond(HTTP_STATUS_NOT_FOUND, text, "Not Found\n");
    const bool head = request.method == HTTP_HEAD;
    ouro::get_running_loop().create_task(send(connection.shared_from_this(), *folder_, std::move(*path), head));
  }

 private:
  // A task for each request of a file: the disk is read on other threads.
  static Coroutine<> send(std::shared_ptr<http::Connection> connection, const Folder& folder, std::string path,
                          bool head) {
    bool failed = false;
    try {
      co_await send_file(*connection, folder, path, head);
    } catch (const std::system_error&) {
      failed = true;
    }
    // The head may have gone with a length.
    if (failed) connection->abort();
  }

  static Coroutine<> send_file(http::Connection& connection, const Folder& folder, const std::string& path, bool head) {
    auto open = [&folder, &path] { return folder.open(path); };
    const std::optional<File> file = co_await ouro::to_thread(open);
    if (!file) {
      connection.respond(HTTP_STATUS_NOT_FOUND, "text/plain", "Not Found\n");
      co_return;
    }
    connection.begin(HTTP_STATUS_OK, servers::content_type_of(path), file->bytes());
    if (!head) {
      const bool sent = co_await send_content(connection, *file);
      if (!sent) co_return;
    }
    connection.end();
  }

  // False if it cannot be sent: then nothing may follow on this connection.
  static Coroutine<bool> send_content(http::Connection& connection, const File& file) {
    connection.write(file.beginning());
    std::size_t sent = file.beginning().size();
    while (sent < file.bytes()) {
      const bool stays = co_await connection.drained();
      if (!stays) co_return false;
      auto read = [&file, sent] { return file.read(sent, Folder::piece_bytes); };
      const std::string piece = co_await ouro::to_thread(read);
      if (piece.empty()) break;
      connection.write(piece);
      sent += piece.size();
    }
    if (sent != file.bytes()) connection.abort();  // it was cut off meanwhile
    co_return sent == file.bytes();
  }

  const Folder* folder_;
};

Coroutine<> serve_http(servers::Listen listen, Site& site, const http::Limits& limits) {
  ouro::EventLoop& loop = ouro::get_running_loop();
  auto factory = [&site, &limits] { return std::make_shared<http::Connection>(site, limits); };
  const ouro::ServerOptions options{.backlog = 1024};
  ouro::Server server = co_await loop.create_server(factory, listen.host, listen.port, options);
  co_await servers::serve(server);
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Serves the files of a folder, and \"Hello, World!\" as /plaintext.");
  servers::Listen listen;
  listen.port = 8080;
  std::string root;
  unsigned patience_seconds = 60;
  listen.add_to(app);
  app.add_option("--root", root, "the folder; without it there are no files")->check(CLI::ExistingDirectory);
  app.add_option("--patience", patience_seconds, "seconds until a client that does nothing is dropped")
      ->check(CLI::Range(1U, 86400U))
      ->capture_default_str();
  CLI11_PARSE(app, argc, argv);

  http::Limits limits;
  limits.patience = std::chrono::seconds(patience_seconds);
  std::optional<Folder> folder;
  if (!root.empty()) folder.emplace(root);
  Site site(folder ? &*folder : nullptr);
  return servers::run(serve_http(listen, site, limits), listen);
}
