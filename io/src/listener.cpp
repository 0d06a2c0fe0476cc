#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <utility>

#include <ouro/io/errors.hpp>
#include <ouro/io/event_loop.hpp>

#include "network.hpp"
#include "proactor.hpp"
#include "server_state.hpp"

namespace ouro::detail {

namespace {

constexpr auto shortest_rest = std::chrono::milliseconds(100);
constexpr auto longest_rest = std::chrono::milliseconds(1000);

// accept(2) also tells of errors of the connection that it was about to give: the next one may be well.
bool is_of_one_connection(int error) noexcept {
  switch (error) {
    case EAGAIN:
    case EINTR:
    case ECONNABORTED:
    case ECONNRESET:
    case EPROTO:
    case EPERM:
    case ETIMEDOUT:
    case ENETDOWN:
    case ENOPROTOOPT:
    case EHOSTDOWN:
    case ENONET:
    case EHOSTUNREACH:
    case ENETUNREACH:
      return true;
    default:
      return false;
  }
}

bool is_want_of_resources(int error) noexcept {
  return error == EMFILE || error == ENFILE || error == ENOBUFS || error == ENOMEM;
}

std::exception_ptr accept_error(int error, int fd) {
  try {
    throw_os_error(error, "accept", "socket " + std::to_string(fd),
                   error == EMFILE ? "Raise the limit with ulimit -n or LimitNOFILE= in a systemd unit." : "");
  } catch (...) {
    return std::current_exception();
  }
}

}  // namespace

const LoopEvent::Kind Listener::event_kind{[](LoopEvent& self) { static_cast<Listener&>(self).happen(); },
                                           [](LoopEvent&) noexcept {}};

Listener::Listener(ServerState& server, Socket socket, From from, std::string path)
    : LoopEvent(server.home(), event_kind),
      server_(server),
      socket_(std::move(socket)),
      fd_(socket_.fileno()),
      from_(from),
      path_(std::move(path)) {
  struct stat file;
  if (!path_.empty() && ::stat(path_.c_str(), &file) == 0) {
    device_ = file.st_dev;
    inode_ = file.st_ino;
  }
}

Listener::~Listener() = default;

void Listener::start() {
  if (!in_flight()) accept();
}

void Listener::accept() { server_.network().proactor.accept_multishot(*this, fileno(), SOCK_CLOEXEC); }

void Listener::complete(int result, unsigned) noexcept {
  if (polls_ && result >= 0) {
    polls_ = false;
  } else if (result >= 0) {
    Fd fd(result);
    if (closing_) return raise();
    rests_ = 0;
    try {
      accepted_.push_back(std::move(fd));
    } catch (const std::bad_alloc&) {
      // The connection is closed: there is no memory for it.
    }
  } else if (result != -ECANCELED) {
    error_ = -result;
  }
  if (!ends_) raise();
}

void Listener::happen() {
  take_accepted();
  // If it was closed meanwhile the event is raised: it cannot go while it stands in a queue.
  if (in_flight() || !is_open() || is_raised()) return;
  if (closing_) {
    socket_.close();
    return server_.listener_closed();
  }
  if (!resting_) go_on(std::exchange(error_, 0));
}

void Listener::take_accepted() {
  // A KeyboardInterrupt leaves the loop, which may be run again: then the others have their turn.
  struct Again {
    Listener* listener;
    ~Again() {
      if (listener) listener->raise();
    }
  } again{this};
  while (taken_ != accepted_.size()) {
    Fd fd = std::move(accepted_[taken_++]);
    if (closing_) continue;
    // Those of the library's have it from their listener. It fails for a unix socket.
    const int on = 1;
    if (from_ == From::caller) ::setsockopt(fd.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    server_.accepted(std::move(fd));
  }
  again.listener = nullptr;
  taken_ = 0;
  accepted_ = std::vector<Fd>();
}

// The request has ended.
void Listener::go_on(int error) {
  if (error != 0 && !is_of_one_connection(error)) return rest(error);
  try {
    if (error == EAGAIN) {
      server_.network().proactor.poll_add(*this, fileno(), POLLIN);
    } else {
      accept();
    }
  } catch (...) {
    return rest(ENOMEM);
  }
  polls_ = error == EAGAIN;
}

// Nothing would change if it tried again at once, and that for ever.
void Listener::rest(int error) {
  if (rests_ == 0) {
    server_.report(server_.loop(),
                   is_want_of_resources(error) ? "socket.accept() out of system resource" : "Accept failed on a socket",
                   accept_error(error, fileno()));
  }
  const auto pause = std::min(shortest_rest * (1 << std::min(rests_, 4U)), longest_rest);
  ++rests_;
  try {
    timer_ = server_.loop().call_later(pause, [this] {
      resting_ = false;
      raise();
    });
    resting_ = true;
  } catch (const std::bad_alloc&) {
    raise();  // it tries again at once
  }
}

void Listener::close() noexcept {
  if (closing_) return;
  closing_ = true;
  timer_.cancel();
  timer_ = TimerHandle();  // the listener may go on another thread, the loop have the cancelled timer still
  if (from_ == From::library) ::shutdown(fileno(), SHUT_RD);
  remove_file();
  if (in_flight()) server_.network().proactor.cancel(*this);
  raise();
}

void Listener::remove_file() noexcept {
  struct stat file;
  if (path_.empty() || ::stat(path_.c_str(), &file) != 0) return;
  if (file.st_dev == device_ && file.st_ino == inode_) ::unlink(path_.c_str());
}

void Listener::end() noexcept {
  ends_ = true;
  if (!closing_) remove_file();
  closing_ = true;
  if (in_flight()) server_.network().proactor.finish(*this);
  accepted_.clear();
  socket_.close();
}

}  // namespace ouro::detail
