// OSError: its text, its accessors, and the class for each errno.
#include <gtest/gtest.h>

#include <cerrno>
#include <string>
#include <system_error>
#include <type_traits>

#include <ouro/io/errors.hpp>

namespace ouro {
namespace {

template <class Error>
void expect_class(int error) {
  try {
    throw_os_error(error, "open", "file");
    FAIL() << "returned";
  } catch (const OSError& caught) {
    EXPECT_EQ(typeid(caught), typeid(Error)) << error;
    EXPECT_EQ(caught.errno_value(), error);
  }
}

TEST(OSError, NamesOperationObjectAndErrno) {
  try {
    throw_os_error(ECONNREFUSED, "connect", "127.0.0.1:80", "Is the server running?");
    FAIL() << "returned";
  } catch (const ConnectionRefusedError& error) {
    EXPECT_STREQ(error.what(), "connect 127.0.0.1:80: Connection refused");
    EXPECT_EQ(error.errno_value(), ECONNREFUSED);
    EXPECT_EQ(error.operation(), "connect");
    EXPECT_EQ(error.object(), "127.0.0.1:80");
    EXPECT_EQ(error.hint(), "Is the server running?");
    EXPECT_EQ(error.code(), std::errc::connection_refused);
  }
}

TEST(OSError, ReadsWellWithoutAnObject) {
  const OSError error(EMFILE, "eventfd", "");
  EXPECT_STREQ(error.what(), "eventfd: Too many open files");
  EXPECT_EQ(error.hint(), "");
}

// Several failures told as one: the class and the number are those of the errno still.
TEST(OSError, MayHaveATextOfItsOwn) {
  try {
    throw_os_error(ECONNREFUSED, "connect", "", "hint", "both refused");
    FAIL() << "returned";
  } catch (const ConnectionRefusedError& error) {
    EXPECT_STREQ(error.what(), "both refused");
    EXPECT_STREQ(static_cast<const std::exception&>(error).what(), "both refused");
    EXPECT_EQ(error.errno_value(), ECONNREFUSED);
    EXPECT_EQ(error.operation(), "connect");
    EXPECT_EQ(error.hint(), "hint");
  }
}

TEST(OSError, StillHasATextWhenItHasBeenMovedFrom) {
  OSError error(ENOENT, "open", "/nowhere");
  const OSError other = std::move(error);
  EXPECT_NE(error.what(), nullptr);  // NOLINT: that is what is asked
  EXPECT_STREQ(other.what(), "open /nowhere: No such file or directory");
}

TEST(OSError, IsChosenByErrno) {
  expect_class<BlockingIOError>(EAGAIN);
  expect_class<BlockingIOError>(EWOULDBLOCK);
  expect_class<BlockingIOError>(EALREADY);
  expect_class<BlockingIOError>(EINPROGRESS);
  expect_class<ChildProcessError>(ECHILD);
  expect_class<BrokenPipeError>(EPIPE);
  expect_class<BrokenPipeError>(ESHUTDOWN);
  expect_class<ConnectionAbortedError>(ECONNABORTED);
  expect_class<ConnectionRefusedError>(ECONNREFUSED);
  expect_class<ConnectionResetError>(ECONNRESET);
  expect_class<FileExistsError>(EEXIST);
  expect_class<FileNotFoundError>(ENOENT);
  expect_class<InterruptedError>(EINTR);
  expect_class<IsADirectoryError>(EISDIR);
  expect_class<NotADirectoryError>(ENOTDIR);
  expect_class<PermissionError>(EACCES);
  expect_class<PermissionError>(EPERM);
  expect_class<ProcessLookupError>(ESRCH);
  expect_class<OSError>(ETIMEDOUT);
  expect_class<OSError>(EADDRINUSE);
}

TEST(OSError, HasPythonsFamily) {
  EXPECT_TRUE((std::is_base_of_v<ConnectionError, BrokenPipeError>));
  EXPECT_TRUE((std::is_base_of_v<ConnectionError, ConnectionAbortedError>));
  EXPECT_TRUE((std::is_base_of_v<ConnectionError, ConnectionRefusedError>));
  EXPECT_TRUE((std::is_base_of_v<ConnectionError, ConnectionResetError>));
  EXPECT_TRUE((std::is_base_of_v<OSError, ConnectionError>));
  EXPECT_TRUE((std::is_base_of_v<std::system_error, OSError>));
  EXPECT_THROW(throw_os_error(ECONNRESET, "recv", ""), ConnectionError);
  EXPECT_THROW(throw_os_error(ENOENT, "open", ""), std::exception);
}

TEST(OSError, CopiesWithoutThrowing) {
  EXPECT_TRUE(std::is_nothrow_copy_constructible_v<OSError>);
  const OSError original(ENOENT, "open", std::string(100, 'x'), "hint");
  const OSError copy = original;
  EXPECT_EQ(copy.object(), original.object());
  EXPECT_STREQ(copy.what(), original.what());
}

}  // namespace
}  // namespace ouro
