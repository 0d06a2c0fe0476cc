// Files below a folder, for a server: whatever the target says, nothing outside is opened.
#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

namespace servers {

// What a target of HTTP names below the root: without a query, with "%41" as "A"; a folder's index.html. None for what
// is no path.
std::optional<std::string> path_of(std::string_view target);

// By its name's end.
std::string_view content_type_of(std::string_view path);

// A regular file, and how it begins.
class File {
 public:
  File(int fd, std::size_t bytes) noexcept : fd_(fd), bytes_(bytes) {}
  File(File&& other) noexcept
      : fd_(std::exchange(other.fd_, -1)), bytes_(other.bytes_), beginning_(std::move(other.beginning_)) {}
  File& operator=(File&&) = delete;
  ~File();

  std::size_t bytes() const noexcept { return bytes_; }
  const std::string& beginning() const noexcept { return beginning_; }
  // Up to `bytes` bytes from there on; it blocks. Throws: std::system_error.
  std::string read(std::size_t at, std::size_t bytes) const;

 private:
  friend class Folder;
  int fd_;
  std::size_t bytes_;
  std::string beginning_;
};

class Folder {
 public:
  static constexpr std::size_t piece_bytes = 256 * 1024;

  // Throws: std::system_error if there is no such folder.
  explicit Folder(const std::string& path);
  Folder(const Folder&) = delete;
  ~Folder();

  // Opens it and reads the first piece; it blocks. None if there is no such file, or nobody may read it.
  // Throws: std::system_error.
  std::optional<File> open(const std::string& path) const;

 private:
  int root_;
};

}  // namespace servers
