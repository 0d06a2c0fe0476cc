#include <ouro/io/event_loop.hpp>

#include <utility>

#include <ouro/runtime/exceptions.hpp>

#include <ouro/io/policies.hpp>

#include "network.hpp"
#include "proactor.hpp"

namespace ouro {

EventLoop::EventLoop() : EventLoop(std::make_unique<detail::Proactor>()) {}

EventLoop::EventLoop(std::unique_ptr<Parker> parker, const Clock& clock) : BaseEventLoop(std::move(parker), clock) {
  state().event_loop = this;
  proactor_ = dynamic_cast<detail::Proactor*>(state().parker);
}

EventLoop::~EventLoop() {
  if (!is_running()) close();
  detail::end_network(*this);
  detail::forget_event_loop(*this);
}

detail::Proactor* detail::proactor_of(const EventLoop& loop) noexcept { return loop.proactor_; }

detail::Network& detail::network_of(EventLoop& loop) {
  if (!loop.network_) {
    if (!loop.proactor_) throw RuntimeError("connections of a loop without a ring", "use an EventLoop of its own");
    loop.network_ = std::make_unique<Network>(loop, *loop.proactor_);
  }
  return *loop.network_;
}

void detail::end_network(EventLoop& loop) noexcept {
  loop.network_.reset();
  loop.watchers_.reset();
}

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
