#include <ouro/io/event_loop.hpp>

#include <utility>

#include <ouro/io/policies.hpp>

#include "proactor.hpp"

namespace ouro {

EventLoop::EventLoop() : EventLoop(std::make_unique<detail::Proactor>()) {}

EventLoop::EventLoop(std::unique_ptr<Parker> parker, const Clock& clock) : BaseEventLoop(std::move(parker), clock) {
  state().event_loop = this;
  proactor_ = dynamic_cast<detail::Proactor*>(state().parker);
}

EventLoop::~EventLoop() {
  if (!is_running()) close();
  watchers_.reset();
  detail::forget_event_loop(*this);
}

detail::Proactor* detail::proactor_of(const EventLoop& loop) noexcept { return loop.proactor_; }

detail::Watchers& EventLoop::watchers() {
  if (!watchers_) watchers_ = std::make_unique<detail::Watchers>(*this);
  return *watchers_;
}

void EventLoop::set_exception_handler(ExceptionHandler handler) {
  handler_ = std::move(handler);
  if (!handler_) {
    BaseEventLoop::set_exception_handler(nullptr);
    return;
  }
  BaseEventLoop::set_exception_handler([](BaseEventLoop& base, const ExceptionContext& context) {
    auto& loop = static_cast<EventLoop&>(base);
    ExceptionHandler current = loop.handler_;  // a copy: the handler may replace itself
    current(loop, context);
  });
}

Future<std::vector<AddressInfo>> EventLoop::getaddrinfo(std::string_view host, std::string_view service,
                                                        AddressInfoOptions options) {
  return detail::look_up(*this, host, service, options);
}

Future<std::vector<AddressInfo>> EventLoop::getaddrinfo(std::string_view host, int port, AddressInfoOptions options) {
  return detail::look_up(*this, host, port, options);
}

Future<NameInfo> EventLoop::getnameinfo(const Address& address, int flags) {
  return detail::look_up_name(*this, address, flags);
}

}  // namespace ouro
