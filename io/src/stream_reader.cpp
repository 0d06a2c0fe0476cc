// How a reader is answered: what is in the buffer is looked at, and what was asked for taken out. In all that is
// private the lock is held.
#include <algorithm>
#include <cstring>
#include <memory>
#include <string>
#include <utility>

#include <ouro/io/detail/stream_state.hpp>
#include <ouro/io/streams.hpp>
#include <ouro/runtime/exceptions.hpp>

namespace ouro {

// ---- Errors ----

IncompleteReadError::IncompleteReadError(std::string partial, std::optional<std::size_t> expected)
    : RuntimeError(std::to_string(partial.size()) + " bytes read on a total of " +
                   (expected ? std::to_string(*expected) : "undefined") + " expected bytes"),
      partial_(std::make_shared<const std::string>(std::move(partial))),
      expected_(expected) {}

namespace detail {

namespace {

constexpr std::size_t buffer_bytes_min = 64;
// What an idle connection may keep, and from how many bytes on an answer is worth the buffer itself.
constexpr std::size_t buffer_bytes_kept = 256;

constexpr std::size_t none = std::string_view::npos;

std::size_t find(std::string_view in, std::string_view what, std::size_t from) noexcept {
  if (from >= in.size()) return none;
  const char* const begin = in.data() + from;
  const void* const found = what.size() == 1 ? std::memchr(begin, what.front(), in.size() - from)
                                             : ::memmem(begin, in.size() - from, what.data(), what.size());
  return found ? static_cast<std::size_t>(static_cast<const char*>(found) - in.data()) : none;
}

[[noreturn, gnu::cold]] void throw_busy(const ReadRequest& request) {
  throw RuntimeError(
      std::string(request.name()) + "() called while another coroutine is already waiting for incoming data",
      "let one task read, and hand on what it got");
}

void check(const ReadRequest& request) {
  if (request.want == ReadRequest::Want::exactly && static_cast<std::ptrdiff_t>(request.bytes) < 0) {
    throw ValueError("readexactly size can not be less than zero");
  }
  if (request.want != ReadRequest::Want::until || request.one_char) return;
  bool empty = request.separators.empty() && request.separator.empty();
  for (const std::string_view separator : request.separators) empty |= separator.empty();
  if (empty) throw ValueError("Separator should be at least one-byte string");
}

}  // namespace

const char* ReadRequest::name() const noexcept {
  switch (want) {
    case Want::exactly:
      return "readexactly";
    case Want::line:
      return "readline";
    case Want::until:
      return "readuntil";
    default:
      return "read";
  }
}

struct ReaderState::Verdict {
  enum class Kind : std::uint8_t {
    wait,
    take,        // so many bytes
    incomplete,  // the end came before
    too_far,     // the separator is there, so many bytes behind what the limit allows
    too_much,    // so many bytes hold none
  };
  Kind kind;
  std::size_t bytes = 0;
};

ReaderState::ReaderState(std::size_t limit) : limit_(limit) {
  if (limit == 0) throw ValueError("Limit cannot be <= 0");
}

ReaderState::~ReaderState() {
  waiting_.let_go_if_any();
  woken_.let_go_if_any();
}

// ---- What comes ----

void ReaderState::feed_data(std::span<const std::byte> data) {
  if (data.empty()) return;
  Wakes wakes;
  const Hold hold(*this);
  if (eof_) throw RuntimeError("feed_data after feed_eof");
  append({reinterpret_cast<const char*>(data.data()), data.size()});
  wake_reader(wakes);
  // One that waits for more gets it, whatever the limit.
  if (!transport_ || !waiting_.empty() || size() <= limit_ || size() - limit_ <= limit_) return;
  paused_ = true;
  transport_->pause_reading();
}

void ReaderState::append(std::string_view more) {
  if (data_.capacity() - data_.size() < more.size()) {
    if (OURO_UNLIKELY(lent_)) {
      std::string fresh;
      fresh.reserve(std::max(2 * size(), size() + more.size()));
      fresh.append(unread());
      retired_ = std::exchange(data_, std::move(fresh));
      lent_ = false;
      begin_ = 0;
    } else if (begin_ >= size()) {
      data_.erase(0, begin_);  // at most as much as was read since the last time
      begin_ = 0;
    }
  }
  if (data_.capacity() < buffer_bytes_min) data_.reserve(std::max(buffer_bytes_min, more.size()));
  data_.append(more);
}

void ReaderState::feed_eof() noexcept {
  Wakes wakes;
  const Hold hold(*this);
  eof_ = true;
  wake_reader(wakes);
}

void ReaderState::set_exception(std::exception_ptr error) noexcept {
  Wakes wakes;
  const Hold hold(*this);
  exception_ = std::move(error);
  wake_reader(wakes);
}

std::exception_ptr ReaderState::exception() const noexcept {
  const Hold hold(*this);
  return exception_;
}

bool ReaderState::at_eof() const noexcept {
  const Hold hold(*this);
  return eof_ && size() == 0;
}

void ReaderState::set_transport(std::shared_ptr<ReadTransport> transport) noexcept {
  const Hold hold(*this);
  transport_.swap(transport);
}

// ---- Looking ----

ReaderState::Verdict ReaderState::look(ReadRequest& request) const noexcept {
  using Kind = Verdict::Kind;
  switch (request.want) {
    case ReadRequest::Want::some:
      if (request.bytes == 0 || size() != 0 || eof_) return {Kind::take, std::min(request.bytes, size())};
      return {Kind::wait};
    case ReadRequest::Want::all:
      return eof_ ? Verdict{Kind::take, size()} : Verdict{Kind::wait};
    case ReadRequest::Want::exactly:
      if (size() >= request.bytes) return {Kind::take, request.bytes};
      return {eof_ ? Kind::incomplete : Kind::wait};
    default:
      return look_for_separator(request);
  }
}

// The match that ends first counts; of what was searched before only what may be the beginning of a separator is
// searched again.
ReaderState::Verdict ReaderState::look_for_separator(ReadRequest& request) const noexcept {
  using Kind = Verdict::Kind;
  std::string_view single = request.separator;
  if (request.one_char || request.want == ReadRequest::Want::line) single = std::string_view(&request.one, 1);
  const std::span<const std::string_view> separators =
      request.separators.empty() ? std::span<const std::string_view>(&single, 1) : request.separators;
  const std::string_view data = unread();
  std::size_t begin = none;
  std::size_t end = none;
  std::size_t longest = 0;
  for (const std::string_view separator : separators) {
    longest = std::max(longest, separator.size());
    const std::size_t again = std::min(request.searched, separator.size() - 1);
    const std::size_t at = find(data.substr(0, end), separator, request.searched - again);
    if (at == none || at + separator.size() >= end) continue;
    begin = at;
    end = at + separator.size();
  }
  if (end != none) return begin > limit_ ? Verdict{Kind::too_far, begin} : Verdict{Kind::take, end};
  request.searched = data.size();
  const std::size_t without = data.size() >= longest ? data.size() + 1 - longest : 0;
  if (without > limit_) return {Kind::too_much, without};
  return {eof_ ? Kind::incomplete : Kind::wait};
}

// ---- Waiting ----

const SyncKind ReaderState::reading = ListWaiter::kind_of(
    "StreamReader",
    [](SyncState& object, ListWaiter& waiter) noexcept -> WaitList* {
      auto& self = static_cast<ReaderState&>(object);
      auto& reader = static_cast<ReadWait&>(waiter);
      if (!self.waiting_.empty() || !self.woken_.empty()) {
        reader.refused_ = true;
        return nullptr;
      }
      // Since read_now() has searched another worker's read may have taken what is in front.
      if (self.is_shared()) reader.request_.searched = 0;
      if (self.look(reader.request_).kind != Verdict::Kind::wait || self.exception_) {
        self.woken_.push_back(waiter);
        return nullptr;
      }
      self.resume_transport();
      return &self.waiting_;
    },
    nullptr);

void ReaderState::wake_reader(Wakes& wakes) noexcept {
  if (waiting_.empty()) return;
  auto& reader = static_cast<ReadWait&>(*waiting_.front());
  if (exception_ || look(reader.request_).kind != Verdict::Kind::wait) wake(reader, &woken_, wakes);
}

void ReaderState::resume_transport() noexcept {
  if (!paused_) return;
  try {
    if (transport_) transport_->resume_reading();
    paused_ = false;
  } catch (...) {
    // Without memory for a message to the transport's loop: the next read tries again.
  }
}

// ---- Taking ----

template <class Result>
bool ReaderState::read_now(ReadRequest& request, Result& result) {
  check(request);
  const Hold hold(*this);
  if (!waiting_.empty() || !woken_.empty()) throw_busy(request);
  give_back();
  if (exception_) std::rethrow_exception(exception_);
  const Verdict verdict = look(request);
  if (verdict.kind == Verdict::Kind::wait) return false;
  conclude(request, verdict, result);
  return true;
}

template <class Result>
void ReaderState::finish(ReadWait& waiter, Result& result) {
  const Hold hold(*this);
  if (waiter.refused_) throw_busy(waiter.request_);
  forget(waiter);
  const Verdict verdict = look(waiter.request_);
  if (verdict.kind == Verdict::Kind::wait) std::rethrow_exception(exception_);
  conclude(waiter.request_, verdict, result);
}

template <class Result>
void ReaderState::conclude(const ReadRequest& request, const Verdict& verdict, Result& result) {
  const bool is_line = request.want == ReadRequest::Want::line;
  switch (verdict.kind) {
    case Verdict::Kind::incomplete: {
      if (is_line) return take(size(), result);
      std::string partial;
      take(size(), partial);
      const bool exactly = request.want == ReadRequest::Want::exactly;
      throw IncompleteReadError(std::move(partial), exactly ? std::optional(request.bytes) : std::nullopt);
    }
    case Verdict::Kind::too_far:
      if (!is_line) {
        throw LimitOverrunError("Separator is found, but chunk is longer than limit", verdict.bytes);
      }
      consume(verdict.bytes + 1);
      throw ValueError("Separator is found, but chunk is longer than limit");
    case Verdict::Kind::too_much:
      if (!is_line) {
        throw LimitOverrunError("Separator is not found, and chunk exceed the limit", verdict.bytes);
      }
      consume(size());
      throw ValueError("Separator is not found, and chunk exceed the limit");
    default:
      return take(verdict.bytes, result);
  }
}

// Nobody looks at the view any more.
void ReaderState::give_back() noexcept {
  if (!retired_.empty()) retired_ = std::string();
  if (!std::exchange(lent_, false)) return;
  consume(0);
}

void ReaderState::consume(std::size_t bytes) noexcept {
  begin_ += bytes;
  if (!lent_ && begin_ == data_.size()) {
    if (data_.capacity() > buffer_bytes_kept) {
      data_ = std::string();
    } else {
      data_.clear();
    }
    begin_ = 0;
  }
  if (OURO_UNLIKELY(paused_) && size() <= limit_) resume_transport();
}

void ReaderState::take(std::size_t bytes, std::string& to) {
  if (begin_ == 0 && bytes == data_.size() && bytes > buffer_bytes_kept) {
    to = std::exchange(data_, std::string());
    bytes = 0;
  } else {
    to.assign(data_, begin_, bytes);
  }
  consume(bytes);
}

void ReaderState::take(std::size_t bytes, std::string_view& to) noexcept {
  to = unread().substr(0, bytes);
  lent_ = true;
  consume(bytes);
}

void ReaderState::take(std::size_t bytes, std::optional<std::string>& to) {
  if (bytes != 0) take(bytes, to.emplace());
}

template bool ReaderState::read_now(ReadRequest&, std::string&);
template bool ReaderState::read_now(ReadRequest&, std::string_view&);
template bool ReaderState::read_now(ReadRequest&, std::optional<std::string>&);
template void ReaderState::finish(ReadWait&, std::string&);
template void ReaderState::finish(ReadWait&, std::string_view&);
template void ReaderState::finish(ReadWait&, std::optional<std::string>&);

}  // namespace detail
}  // namespace ouro
