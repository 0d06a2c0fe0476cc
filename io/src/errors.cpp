// The texts of OSError, and the table from errno to class.
#include <cerrno>
#include <utility>

#include <ouro/io/errors.hpp>

namespace ouro {

struct OSError::Texts {
  std::string operation;
  std::string object;
  std::string hint;
  std::string text;
};

namespace {

std::string subject(std::string_view operation, std::string_view object) {
  std::string text(operation);
  if (!text.empty() && !object.empty()) text += ' ';
  text += object;
  return text;
}

}  // namespace

OSError::OSError(int error, std::string_view operation, std::string_view object, std::string hint, std::string text)
    : OSError(std::error_code(error, std::system_category()), operation, object, std::move(hint), std::move(text)) {}

OSError::OSError(const std::error_code& code, std::string_view operation, std::string_view object, std::string hint,
                 std::string text)
    : std::system_error(code, subject(operation, object)),
      texts_(std::make_shared<const Texts>(
          Texts{std::string(operation), std::string(object), std::move(hint), std::move(text)})) {}

const char* OSError::what() const noexcept {
  return !texts_ || texts_->text.empty() ? std::system_error::what() : texts_->text.c_str();  // none: moved from
}

const std::string& OSError::operation() const noexcept { return texts_->operation; }
const std::string& OSError::object() const noexcept { return texts_->object; }
const std::string& OSError::hint() const noexcept { return texts_->hint; }

void throw_os_error(int error, std::string_view operation, std::string_view object, std::string hint,
                    std::string text) {
  switch (error) {
    case EAGAIN:  // and EWOULDBLOCK, the same number on Linux
    case EALREADY:
    case EINPROGRESS:
      throw BlockingIOError(error, operation, object, std::move(hint), std::move(text));
    case ECHILD:
      throw ChildProcessError(error, operation, object, std::move(hint), std::move(text));
    case EPIPE:
    case ESHUTDOWN:
      throw BrokenPipeError(error, operation, object, std::move(hint), std::move(text));
    case ECONNABORTED:
      throw ConnectionAbortedError(error, operation, object, std::move(hint), std::move(text));
    case ECONNREFUSED:
      throw ConnectionRefusedError(error, operation, object, std::move(hint), std::move(text));
    case ECONNRESET:
      throw ConnectionResetError(error, operation, object, std::move(hint), std::move(text));
    case EEXIST:
      throw FileExistsError(error, operation, object, std::move(hint), std::move(text));
    case ENOENT:
      throw FileNotFoundError(error, operation, object, std::move(hint), std::move(text));
    case EINTR:
      throw InterruptedError(error, operation, object, std::move(hint), std::move(text));
    case EISDIR:
      throw IsADirectoryError(error, operation, object, std::move(hint), std::move(text));
    case ENOTDIR:
      throw NotADirectoryError(error, operation, object, std::move(hint), std::move(text));
    case EACCES:
    case EPERM:
      throw PermissionError(error, operation, object, std::move(hint), std::move(text));
    case ESRCH:
      throw ProcessLookupError(error, operation, object, std::move(hint), std::move(text));
    default:
      throw OSError(error, operation, object, std::move(hint), std::move(text));
  }
}

}  // namespace ouro
