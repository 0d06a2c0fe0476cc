// The texts of OSError, and the table from errno to class.
#include <cerrno>
#include <utility>

#include <ouro/io/errors.hpp>

namespace ouro {

struct OSError::Texts {
  std::string operation;
  std::string object;
  std::string hint;
};

namespace {

std::string subject(std::string_view operation, std::string_view object) {
  std::string text(operation);
  if (!text.empty() && !object.empty()) text += ' ';
  text += object;
  return text;
}

}  // namespace

OSError::OSError(int error, std::string_view operation, std::string_view object, std::string hint)
    : std::system_error(std::error_code(error, std::system_category()), subject(operation, object)),
      texts_(std::make_shared<const Texts>(Texts{std::string(operation), std::string(object), std::move(hint)})) {}

const std::string& OSError::operation() const noexcept { return texts_->operation; }
const std::string& OSError::object() const noexcept { return texts_->object; }
const std::string& OSError::hint() const noexcept { return texts_->hint; }

void throw_os_error(int error, std::string_view operation, std::string_view object, std::string hint) {
  switch (error) {
    case EAGAIN:  // and EWOULDBLOCK, the same number on Linux
    case EALREADY:
    case EINPROGRESS:
      throw BlockingIOError(error, operation, object, std::move(hint));
    case ECHILD:
      throw ChildProcessError(error, operation, object, std::move(hint));
    case EPIPE:
    case ESHUTDOWN:
      throw BrokenPipeError(error, operation, object, std::move(hint));
    case ECONNABORTED:
      throw ConnectionAbortedError(error, operation, object, std::move(hint));
    case ECONNREFUSED:
      throw ConnectionRefusedError(error, operation, object, std::move(hint));
    case ECONNRESET:
      throw ConnectionResetError(error, operation, object, std::move(hint));
    case EEXIST:
      throw FileExistsError(error, operation, object, std::move(hint));
    case ENOENT:
      throw FileNotFoundError(error, operation, object, std::move(hint));
    case EINTR:
      throw InterruptedError(error, operation, object, std::move(hint));
    case EISDIR:
      throw IsADirectoryError(error, operation, object, std::move(hint));
    case ENOTDIR:
      throw NotADirectoryError(error, operation, object, std::move(hint));
    case EACCES:
    case EPERM:
      throw PermissionError(error, operation, object, std::move(hint));
    case ESRCH:
      throw ProcessLookupError(error, operation, object, std::move(hint));
    default:
      throw OSError(error, operation, object, std::move(hint));
  }
}

}  // namespace ouro
