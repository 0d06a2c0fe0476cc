#include <ouro/io/servers.hpp>

#include <exception>
#include <utility>

#include <ouro/io/event_loop.hpp>
#include <ouro/runtime/exceptions.hpp>
#include <ouro/runtime/timeouts.hpp>

#include "network.hpp"
#include "server_state.hpp"
#include "socket_transport.hpp"

namespace ouro {
namespace detail {

std::vector<TransportSocket> ServerState::sockets() const {
  std::vector<TransportSocket> sockets;
  if (closed_.load(std::memory_order_relaxed)) return sockets;
  for (const auto& listener : listeners_) sockets.emplace_back(listener->fileno());
  return sockets;
}

void ServerState::check_open() const {
  if (closed_.load(std::memory_order_relaxed)) throw RuntimeError("the server is closed", "create another one");
}

void ServerState::start() {
  check_open();
  if (serving_.load(std::memory_order_relaxed)) return;
  for (const auto& listener : listeners_) listener->listen(backlog_);
  for (const auto& listener : listeners_) listener->start();
  serving_.store(true, std::memory_order_relaxed);
}

void ServerState::close() {
  if (closed_.load(std::memory_order_relaxed)) return;
  closed_.store(true, std::memory_order_relaxed);
  serving_.store(false, std::memory_order_relaxed);
  for (const auto& listener : listeners_) listener->close();
  if (forever_) forever_->cancel();
}

void ServerState::close_clients(bool abort) {
  if (!network_) return;
  for (const auto& transport : network_->connections_of(*this)) {
    if (abort) {
      transport->abort();
    } else {
      transport->close();
    }
  }
}

void ServerState::report(const char* message, const std::exception_ptr& error) noexcept {
  ExceptionContext context;
  try {
    context.message = message;
  } catch (...) {
    context.message.clear();
  }
  context.exception = error;
  loop_.call_exception_handler(context);
}

std::shared_ptr<StreamProtocol> ServerState::make_protocol(const CellRef& context) {
  if (OURO_LIKELY(!context)) return factory_();
  const ContextScope scope(word_for(*context));
  return factory_();
}

void ServerState::accepted(Fd fd) {
  std::shared_ptr<SocketTransport> transport;
  try {
    CellRef context;
    if (OURO_UNLIKELY(contexts_in_use())) context = CellRef(ContextCell::make(context_));
    std::shared_ptr<StreamProtocol> protocol = make_protocol(context);
    if (!protocol) throw RuntimeError("the protocol factory of a server gave no protocol");
    transport = std::make_shared<SocketTransport>(*network_, std::move(fd), std::move(protocol), shared_from_this(),
                                                  std::move(context));
  } catch (const KeyboardInterrupt&) {
    throw;
  } catch (...) {
    return report("Error on transport creation for incoming connection", std::current_exception());
  }
  transport->begin();
}

bool ServerState::gone() const noexcept {
  if (!closed_.load(std::memory_order_relaxed) || active_ != 0) return false;
  for (const auto& listener : listeners_) {
    if (listener->is_open()) return false;
  }
  return true;
}

void ServerState::check_gone() {
  if (!network_ || !gone()) return;
  for (Future<>& waiter : std::exchange(waiters_, {})) {
    if (!waiter.done()) waiter.set_result();
  }
  Network& network = *network_;
  become_over();
  network.let_go(*this);
}

void ServerState::become_over() noexcept {
  network_ = nullptr;
  over_.store(true, std::memory_order_release);  // pairs with is_over()
}

void ServerState::end() noexcept {
  closed_.store(true, std::memory_order_relaxed);
  serving_.store(false, std::memory_order_relaxed);
  for (const auto& listener : listeners_) listener->end();
  waiters_.clear();
  forever_.reset();
  become_over();
}

Coroutine<> ServerState::wait_closed(std::shared_ptr<ServerState> self) {
  if (!self->network_ || self->gone()) co_return;
  Future<> gone = self->network_->loop.create_future();
  std::erase_if(self->waiters_, [](const Future<>& waiter) { return waiter.done(); });  // cancelled
  self->waiters_.push_back(gone);
  co_await gone;
}

Coroutine<> ServerState::serve_forever(std::shared_ptr<ServerState> self) {
  self->check_open();
  if (self->forever_) throw RuntimeError("the server is already being awaited on serve_forever()");
  self->start();
  Future<> forever = self->network_->loop.create_future();
  self->forever_ = forever;
  std::exception_ptr stopped;
  try {
    co_await forever;
  } catch (const CancelledError&) {
    stopped = std::current_exception();
  }
  self->forever_.reset();
  self->close();
  co_await wait_closed(self);
  std::rethrow_exception(stopped);
}

Coroutine<bool> ServerState::drain(std::shared_ptr<ServerState> self, Duration patience) {
  self->close();
  bool late = false;
  try {
    co_await wait_for(wait_closed(self), patience);
  } catch (const TimeoutError&) {
    late = true;
  }
  if (!late) co_return true;
  self->close_clients(true);
  co_await wait_closed(self);
  co_return false;
}

namespace {

Coroutine<> start_there(std::shared_ptr<ServerState> state) {
  state->start();
  co_return;
}

// On the server's loop, at once or soon.
template <class F>
void at_home(const std::shared_ptr<ServerState>& state, F f) {
  if (state->is_over()) return;
  LoopState& home = state->home();
  const LoopState* here = running_state();
  if (here == &home || (!here && !home.worker)) return f(*state);
  call_at_home(home, [state, f] { f(*state); });
}

template <class T>
Coroutine<T> run_at_home(const ServerState& state, Coroutine<T> work) {
  return state.is_over() ? std::move(work) : pinned(state.loop(), std::move(work));
}

}  // namespace
}  // namespace detail

std::vector<TransportSocket> Server::sockets() const { return state_->sockets(); }
bool Server::is_serving() const noexcept { return state_->is_serving(); }
EventLoop& Server::get_loop() const noexcept { return state_->loop(); }

Coroutine<> Server::start_serving() { return detail::run_at_home(*state_, detail::start_there(state_)); }
Coroutine<> Server::serve_forever() { return detail::run_at_home(*state_, detail::ServerState::serve_forever(state_)); }
Coroutine<> Server::wait_closed() { return detail::run_at_home(*state_, detail::ServerState::wait_closed(state_)); }
Coroutine<bool> Server::drain(Duration patience) {
  return detail::run_at_home(*state_, detail::ServerState::drain(state_, patience));
}

void Server::close() {
  detail::at_home(state_, [](detail::ServerState& state) { state.close(); });
}
void Server::close_clients() {
  detail::at_home(state_, [](detail::ServerState& state) { state.close_clients(false); });
}
void Server::abort_clients() {
  detail::at_home(state_, [](detail::ServerState& state) { state.close_clients(true); });
}

}  // namespace ouro
