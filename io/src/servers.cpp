#include <ouro/io/servers.hpp>

#include <algorithm>
#include <exception>
#include <new>
#include <utility>

#include <ouro/io/event_loop.hpp>
#include <ouro/runtime/detail/worker_group.hpp>
#include <ouro/runtime/exceptions.hpp>
#include <ouro/runtime/timeouts.hpp>

#include "network.hpp"
#include "server_state.hpp"
#include "socket_transport.hpp"

namespace ouro {
namespace detail {

namespace {

// A loop that is not given a processor for a few milliseconds does not get there.
constexpr int least_of_most_on_their_way = 128;

}  // namespace

// Posted to home by whoever lowered active_ to zero elsewhere.
const LoopEvent::Kind ServerState::event_kind{
    [](LoopEvent& self) { static_cast<ServerState&>(self).become_gone(); }, [](LoopEvent&) noexcept {}  // end() follows
};

ServerState::ServerState(Network& network, ProtocolFactory factory, const ServerOptions& options)
    : LoopEvent(network.loop.state(), event_kind),
      network_(&network),
      loop_(network.loop),
      factory_(std::move(factory)),
      backlog_(options.backlog),
      most_on_their_way_(static_cast<std::uint32_t>(std::max(options.backlog, least_of_most_on_their_way))),
      context_(contexts_in_use() ? current_map() : MapRef()) {
  if (options.spread && home().worker) deal_to_all_of_group();
}

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

void ServerState::close_clients_on(EventLoop& loop, const ServerState& server, bool abort) {
  for (const auto& transport : network_of(loop).connections_of(server)) {
    if (abort) {
      transport->abort();
    } else {
      transport->close();
    }
  }
}

void ServerState::close_clients(bool abort) {
  if (!network_) return;
  for (Share& share : shares_) {
    if (share.loop == &home() || share.connections.load(std::memory_order_relaxed) == 0) continue;
    call_at_home(*share.loop, [self = shared_from_this(), loop = share.loop, abort] {
      close_clients_on(*loop->event_loop, *self, abort);
    });
  }
  close_clients_on(loop_, *this, abort);
}

void ServerState::report(EventLoop& loop, const char* message, const std::exception_ptr& error) noexcept {
  ExceptionContext context;
  try {
    context.message = message;
  } catch (...) {
    context.message.clear();
  }
  context.exception = error;
  loop.call_exception_handler(context);
}

// ---- What was accepted ----

// If one of the loops can have no connections, none but home has any.
void ServerState::deal_to_all_of_group() {
  const WorkerGroup& group = *group_of(loop_);
  std::vector<Share> shares(size_of(group));
  for (unsigned i = 0; i < shares.size(); ++i) {
    shares[i].loop = &worker_of(group, i).state();
    if (!shares[i].loop->event_loop || !proactor_of(*shares[i].loop->event_loop)) return;
  }
  turn_ = (place_of(loop_) + shares.size() - 1) % shares.size();  // home has the first
  shares_.swap(shares);
}

ServerState::Share& ServerState::next_share() noexcept {
  turn_ = (turn_ + 1) % shares_.size();
  if (turn_ == 0) step_ = step_ % (shares_.size() - 1) + 1;
  Share& in_turn = shares_[turn_];
  Share& other = shares_[(turn_ + step_) % shares_.size()];
  const bool fewer =
      other.connections.load(std::memory_order_relaxed) < in_turn.connections.load(std::memory_order_relaxed);
  const auto takes = [this](const Share& share) {
    return share.on_their_way.load(std::memory_order_relaxed) < most_on_their_way_;
  };
  Share& first = fewer ? other : in_turn;
  if (OURO_LIKELY(takes(first))) return first;
  Share& second = fewer ? in_turn : other;
  return takes(second) ? second : share_of(home());
}

ServerState::Share& ServerState::share_of(const LoopState& loop) noexcept { return shares_[place_of(*loop.loop)]; }

void ServerState::accepted(Fd fd) {
  if (OURO_UNLIKELY(!shares_.empty())) return deal(std::move(fd));
  active_.store(active_.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
  connect(home(), std::move(fd));
}

void ServerState::deal(Fd fd) {
  Share& share = next_share();
  active_.fetch_add(1, std::memory_order_relaxed);  // whoever lowers it has what follows from a message
  share.connections.fetch_add(1, std::memory_order_relaxed);
  if (share.loop == &home()) return connect(home(), std::move(fd));
  share.on_their_way.fetch_add(1, std::memory_order_relaxed);
  try {
    call_at_home(*share.loop, [self = shared_from_this(), loop = share.loop, fd = std::move(fd)]() mutable {
      self->arrive(*loop, std::move(fd));
    });
  } catch (const std::bad_alloc&) {
    report(loop_, "Error on transport creation for incoming connection", std::current_exception());
    share.on_their_way.fetch_sub(1, std::memory_order_relaxed);
    detach(*share.loop);
  }
}

void ServerState::arrive(LoopState& loop, Fd fd) {
  share_of(loop).on_their_way.fetch_sub(1, std::memory_order_relaxed);
  connect(loop, std::move(fd));
}

// Makes a transport of it, on the loop that runs.
void ServerState::connect(LoopState& on, Fd fd) {
  std::shared_ptr<SocketTransport> transport;
  EventLoop& loop = *on.event_loop;
  try {
    CellRef context;
    if (OURO_UNLIKELY(contexts_in_use())) context = CellRef(ContextCell::make(context_));
    std::shared_ptr<StreamProtocol> protocol = make_protocol(context);
    if (!protocol) throw RuntimeError("the protocol factory of a server gave no protocol");
    transport = std::make_shared<SocketTransport>(network_of(loop), std::move(fd), std::move(protocol),
                                                  shared_from_this(), std::move(context));
  } catch (const KeyboardInterrupt&) {
    fd.reset();
    detach(on);
    throw;
  } catch (...) {
    report(loop, "Error on transport creation for incoming connection", std::current_exception());
    fd.reset();
    return detach(on);
  }
  transport->begin();
}

std::shared_ptr<StreamProtocol> ServerState::make_protocol(const CellRef& context) {
  if (OURO_LIKELY(!context)) return factory_();
  const ContextScope scope(word_for(*context));
  return factory_();
}

// ---- The end ----

void ServerState::detach(const LoopState& on) {
  if (OURO_UNLIKELY(!shares_.empty())) share_of(on).connections.fetch_sub(1, std::memory_order_relaxed);
  leave();
}

// One of what active_ counts has ended.
void ServerState::leave() {
  if (OURO_LIKELY(shares_.empty())) {
    const std::size_t left = active_.load(std::memory_order_relaxed) - 1;
    active_.store(left, std::memory_order_relaxed);
    if (left == 0) become_gone();
    return;
  }
  // Release: what was done with the connection comes before whatever follows from the end; pairs with the acquire of
  // the last one, and of gone().
  if (active_.fetch_sub(1, std::memory_order_acq_rel) != 1) return;
  if (running_state() == &home()) {
    become_gone();
  } else {
    post_to(home(), *this);  // if that is closed, so is the group
  }
}

bool ServerState::has_connections() const noexcept {
  return active_.load(std::memory_order_relaxed) > (open_listeners_ != 0 ? 1U : 0U);
}

void ServerState::become_gone() {
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
    late = self->has_connections();
  }
  if (late) self->close_clients(true);
  co_await wait_closed(self);
  co_return !late;
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
