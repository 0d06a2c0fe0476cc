// What the system refused: OSError and its children, with Python's names, made from errno in one function.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <system_error>

#include <ouro/runtime/config.hpp>

namespace ouro {

// A system call or an operation of the kernel failed. what() reads "connect 127.0.0.1:80: Connection refused": the
// operation, what it was done to, and the text of errno. code() is in std::system_category(), so that it compares with
// std::errc. Copies share their texts, so that copying never throws.
//
// ETIMEDOUT is a plain OSError. In Python it is TimeoutError, which there is an OSError; here TimeoutError says that a
// deadline of this program has passed, while ETIMEDOUT says that a peer did not answer the kernel. A class that were
// both would have std::exception as a base twice, and no catch (const std::exception&) would see it.
class OURO_EXPORT OSError : public std::system_error {
 public:
  // `text`: what() instead, where several failures are told as one.
  OSError(int error, std::string_view operation, std::string_view object, std::string hint = {}, std::string text = {});

  const char* what() const noexcept override;

  // The errno; positive. Of a gaierror, its EAI_* number.
  int errno_value() const noexcept { return code().value(); }

  // What was attempted, such as "connect".
  const std::string& operation() const noexcept;

  // What it was attempted on: an address, a path, a descriptor; empty if there is none.
  const std::string& object() const noexcept;

  // What to do about it, in a sentence or two; empty where there is nothing to add.
  const std::string& hint() const noexcept;

 protected:
  // With a code of another category than errno's.
  OSError(const std::error_code& code, std::string_view operation, std::string_view object, std::string hint,
          std::string text = {});

 private:
  struct Texts;
  std::shared_ptr<const Texts> texts_;
};

// EAGAIN, EALREADY, EINPROGRESS.
class OURO_EXPORT BlockingIOError : public OSError {
 public:
  using OSError::OSError;
};

// ECHILD.
class OURO_EXPORT ChildProcessError : public OSError {
 public:
  using OSError::OSError;
};

// A connection failed, one of the four below.
class OURO_EXPORT ConnectionError : public OSError {
 public:
  using OSError::OSError;
};

// EPIPE, ESHUTDOWN.
class OURO_EXPORT BrokenPipeError : public ConnectionError {
 public:
  using ConnectionError::ConnectionError;
};

// ECONNABORTED.
class OURO_EXPORT ConnectionAbortedError : public ConnectionError {
 public:
  using ConnectionError::ConnectionError;
};

// ECONNREFUSED.
class OURO_EXPORT ConnectionRefusedError : public ConnectionError {
 public:
  using ConnectionError::ConnectionError;
};

// ECONNRESET.
class OURO_EXPORT ConnectionResetError : public ConnectionError {
 public:
  using ConnectionError::ConnectionError;
};

// EEXIST.
class OURO_EXPORT FileExistsError : public OSError {
 public:
  using OSError::OSError;
};

// ENOENT.
class OURO_EXPORT FileNotFoundError : public OSError {
 public:
  using OSError::OSError;
};

// EINTR.
class OURO_EXPORT InterruptedError : public OSError {
 public:
  using OSError::OSError;
};

// EISDIR.
class OURO_EXPORT IsADirectoryError : public OSError {
 public:
  using OSError::OSError;
};

// ENOTDIR.
class OURO_EXPORT NotADirectoryError : public OSError {
 public:
  using OSError::OSError;
};

// EACCES, EPERM.
class OURO_EXPORT PermissionError : public OSError {
 public:
  using OSError::OSError;
};

// ESRCH.
class OURO_EXPORT ProcessLookupError : public OSError {
 public:
  using OSError::OSError;
};

// Throws the child of OSError that Python would choose for `error` (an errno, positive), or OSError itself.
// Threads: any. Throws: always.
[[noreturn, gnu::cold]] OURO_EXPORT void throw_os_error(int error, std::string_view operation, std::string_view object,
                                                        std::string hint = {}, std::string text = {});

}  // namespace ouro
