#include "files.hpp"

#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <system_error>

namespace servers {

namespace {

int digit_of(char c) noexcept {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

// The kernel itself sees to it that neither ".." nor a link leads out of the folder.
int open_beneath(int root, const char* path) noexcept {
  open_how how{};
  how.flags = O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY;
  how.resolve = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS;
  int fd = -1;
  do {
    fd = static_cast<int>(::syscall(SYS_openat2, root, path, &how, sizeof how));
  } while (fd < 0 && (errno == EINTR || errno == EAGAIN));
  return fd;
}

bool is_missing(int error) noexcept {
  constexpr std::array errors{ENOENT, ENOTDIR, EACCES, ELOOP, ENAMETOOLONG, EXDEV, ENXIO, EPERM};
  return std::find(errors.begin(), errors.end(), error) != errors.end();
}

}  // namespace

std::optional<std::string> path_of(std::string_view target) {
  target = target.substr(0, target.find_first_of("?#"));
  if (target.empty() || target.front() != '/') return std::nullopt;
  std::string path;
  for (std::size_t i = 1; i < target.size(); ++i) {
    char c = target[i];
    if (c == '%') {
      if (target.size() - i < 3) return std::nullopt;
      const int high = digit_of(target[i + 1]);
      const int low = digit_of(target[i + 2]);
      if (high < 0 || low < 0) return std::nullopt;
      c = static_cast<char>(high * 16 + low);
      i += 2;
    }
    if (c == '\0') return std::nullopt;
    path += c;
  }
  // "//etc/passwd" would be a path from the root of all.
  path.erase(0, std::min(path.find_first_not_of('/'), path.size()));
  if (path.empty() || path.back() == '/') path += "index.html";
  return path;
}

std::string_view content_type_of(std::string_view path) {
  struct Type {
    std::string_view end, type;
  };
  constexpr std::array types{
      Type{".html", "text/html; charset=utf-8"},
      Type{".css", "text/css; charset=utf-8"},
      Type{".js", "text/javascript; charset=utf-8"},
      Type{".json", "application/json"},
      Type{".txt", "text/plain; charset=utf-8"},
      Type{".md", "text/markdown; charset=utf-8"},
      Type{".svg", "image/svg+xml"},
      Type{".png", "image/png"},
      Type{".jpg", "image/jpeg"},
      Type{".gif", "image/gif"},
      Type{".ico", "image/x-icon"},
      Type{".wasm", "application/wasm"},
      Type{".pdf", "application/pdf"},
  };
  for (const Type& one : types) {
    if (path.ends_with(one.end)) return one.type;
  }
  return "application/octet-stream";
}

File::~File() {
  if (fd_ >= 0) ::close(fd_);
}

std::string File::read(std::size_t at, std::size_t bytes) const {
  std::string piece(std::min(bytes, bytes_ - std::min(at, bytes_)), '\0');
  std::size_t got = 0;
  while (got < piece.size()) {
    const ssize_t n = ::pread(fd_, piece.data() + got, piece.size() - got, static_cast<off_t>(at + got));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) throw std::system_error(errno, std::system_category(), "pread");
    if (n == 0) break;  // it was cut off meanwhile
    got += static_cast<std::size_t>(n);
  }
  piece.resize(got);
  return piece;
}

Folder::Folder(const std::string& path) : root_(::open(path.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC)) {
  if (root_ < 0) throw std::system_error(errno, std::system_category(), path);
}

Folder::~Folder() { ::close(root_); }

std::optional<File> Folder::open(const std::string& path) const {
  const int fd = open_beneath(root_, path.c_str());
  if (fd < 0) {
    if (is_missing(errno)) return std::nullopt;
    throw std::system_error(errno, std::system_category(), path);
  }
  File file(fd, 0);
  struct stat facts;
  if (::fstat(fd, &facts) != 0) throw std::system_error(errno, std::system_category(), path);
  if (!S_ISREG(facts.st_mode)) return std::nullopt;
  file.bytes_ = static_cast<std::size_t>(facts.st_size);
  file.beginning_ = file.read(0, piece_bytes);
  return file;
}

}  // namespace servers
