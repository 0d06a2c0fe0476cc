// The loop that programs use: a BaseEventLoop that sleeps in io_uring.
#pragma once

#include <functional>
#include <memory>
#include <string_view>
#include <vector>

#include <ouro/io/addresses.hpp>
#include <ouro/io/resolver.hpp>
#include <ouro/runtime/base_event_loop.hpp>
#include <ouro/runtime/clock.hpp>
#include <ouro/runtime/config.hpp>
#include <ouro/runtime/futures.hpp>
#include <ouro/runtime/parker.hpp>

namespace ouro {

// One event loop. A thread runs one at a time; a loop may be made on one thread and run on another.
//
// Its ring is made by the first run_* on the thread that calls it.
// Throws: from run_*, OSError that names the cause and the remedy if the system denies io_uring.
class OURO_EXPORT EventLoop : public BaseEventLoop {
 public:
  using ExceptionHandler = std::function<void(EventLoop&, const ExceptionContext&)>;

  EventLoop();
  // A loop that sleeps on something else, for policies that provide it.
  explicit EventLoop(std::unique_ptr<Parker> parker, const Clock& clock = Clock::steady());
  ~EventLoop() override;

  // Receives what nobody could catch; an empty function: the default handler, which writes to stderr.
  void set_exception_handler(ExceptionHandler handler);
  const ExceptionHandler& get_exception_handler() const noexcept { return handler_; }

  // ---- Names ----

  // As the functions of the same names (resolver.hpp), with this loop's default executor.
  [[nodiscard]] Future<std::vector<AddressInfo>> getaddrinfo(std::string_view host, std::string_view service,
                                                             AddressInfoOptions options = {});
  [[nodiscard]] Future<std::vector<AddressInfo>> getaddrinfo(std::string_view host, int port,
                                                             AddressInfoOptions options = {});
  [[nodiscard]] Future<NameInfo> getnameinfo(const Address& address, int flags = 0);

 private:
  ExceptionHandler handler_;
};

}  // namespace ouro
