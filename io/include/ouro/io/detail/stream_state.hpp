// What is behind a StreamReader and a StreamWriter: what was received and not been read yet, who waits for more of it,
// and who waits to be allowed to write.
//
// Who may touch what. Data comes on the transport's loop; who reads and writes may be a floating task of a group. So
// both are SyncStates (runtime's detail/wait_list.hpp): with nothing atomic on a loop that is alone, else guarded. The
// transport is paused and resumed under the lock, in the order in which that was decided.
//
// A reader that waits leaves its request in the list, and is woken once it can be answered, not at each piece that
// comes; what was searched already is not searched again. The answer stays in the buffer until the task runs, so that a
// cancellation takes nothing with it. In between nobody else reads.
#pragma once

#include <coroutine>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <optional>
#include <source_location>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include <ouro/io/transports.hpp>
#include <ouro/runtime/config.hpp>
#include <ouro/runtime/detail/core.hpp>
#include <ouro/runtime/detail/wait_list.hpp>

namespace ouro::detail {

class ReaderState;
class FlowState;

// What a reader wants. Trivial: awaiters keep it.
struct ReadRequest {
  enum class Want : std::uint8_t { some, all, exactly, line, until };
  Want want;
  bool one_char = false;  // the separator is `one`
  char one = '\n';
  std::size_t bytes = 0;
  std::string_view separator = {};
  std::span<const std::string_view> separators = {};  // several, in place of the one
  std::size_t searched = 0;                           // so many bytes hold no separator

  const char* name() const noexcept;
};

// One that waits for data.
class ReadWait : public ListWaiter {
 protected:
  friend class ReaderState;
  ReadWait(ReaderState& reader, const ReadRequest& request) noexcept;
  ReadWait(ReadWait&& other) noexcept : ListWaiter(std::move(other)), request_(other.request_) {}
  ~ReadWait() = default;

  ReadRequest request_;
  bool refused_ = false;  // another one was first
};

class OURO_EXPORT ReaderState : public SyncState {
 public:
  // Throws: ValueError for a limit of 0.
  explicit ReaderState(std::size_t limit);
  ~ReaderState();

  void feed_data(std::span<const std::byte> data);
  void feed_eof() noexcept;
  void set_exception(std::exception_ptr error) noexcept;
  std::exception_ptr exception() const noexcept;
  bool at_eof() const noexcept;
  void set_transport(std::shared_ptr<ReadTransport> transport) noexcept;

  // Reads without waiting, if that can be. Result: std::string, std::string_view into the buffer, or a
  // std::optional<std::string> that is empty at the end.
  template <class Result>
  bool read_now(ReadRequest& request, Result& result);
  // The same for one that was woken.
  template <class Result>
  void finish(ReadWait& waiter, Result& result);

  static const SyncKind reading;

 private:
  struct Verdict;

  std::string_view unread() const noexcept { return std::string_view(data_).substr(begin_); }
  std::size_t size() const noexcept { return data_.size() - begin_; }
  void append(std::string_view more);
  void give_back() noexcept;
  void consume(std::size_t bytes) noexcept;
  void resume_transport() noexcept;
  Verdict look(ReadRequest& request) const noexcept;
  Verdict look_for_separator(ReadRequest& request) const noexcept;
  void wake_reader(Wakes& wakes) noexcept;
  template <class Result>
  void conclude(const ReadRequest& request, const Verdict& verdict, Result& result);
  void take(std::size_t bytes, std::string& to);
  void take(std::size_t bytes, std::string_view& to) noexcept;
  void take(std::size_t bytes, std::optional<std::string>& to);

  std::string data_;  // never in place: a view stays where it is when the string is moved
  std::size_t begin_ = 0;
  const std::size_t limit_;
  std::string retired_;  // a buffer into which a view was given
  std::exception_ptr exception_;
  std::shared_ptr<ReadTransport> transport_;
  WaitList waiting_;
  WaitList woken_;  // the one that can be answered, and has not run
  bool eof_ = false;
  bool paused_ = false;  // the transport
  bool lent_ = false;    // a view into data_ was given, which lasts until the next read
};

extern template bool ReaderState::read_now(ReadRequest&, std::string&);
extern template bool ReaderState::read_now(ReadRequest&, std::string_view&);
extern template bool ReaderState::read_now(ReadRequest&, std::optional<std::string>&);
extern template void ReaderState::finish(ReadWait&, std::string&);
extern template void ReaderState::finish(ReadWait&, std::string_view&);
extern template void ReaderState::finish(ReadWait&, std::optional<std::string>&);

inline ReadWait::ReadWait(ReaderState& reader, const ReadRequest& request) noexcept
    : ListWaiter(reader), request_(request) {}

template <class Result>
class [[nodiscard("it does nothing until it is awaited")]] ReadAwaiter final : public ReadWait {
 public:
  ReadAwaiter(ReaderState& reader, const ReadRequest& request) noexcept : ReadWait(reader, request) {}
  ReadAwaiter(ReadAwaiter&& other) noexcept : ReadWait(std::move(other)) {}

  bool await_ready() { return reader().read_now(request_, result_); }
  template <class Promise>
  void await_suspend(std::coroutine_handle<Promise> coroutine,
                     std::source_location where = std::source_location::current()) {
    suspend(task_of(coroutine, "StreamReader"), coroutine.address(), ReaderState::reading, where);
  }
  Result await_resume() {
    if (has_waited()) {
      resume();
      reader().finish(*this, result_);
    }
    return std::move(result_);
  }

 private:
  ReaderState& reader() const noexcept { return static_cast<ReaderState&>(*object_); }

  Result result_{};
};

// Whether a connection may be written to, and what tasks on other loops have written and its own has not sent.
class OURO_EXPORT FlowState : public SyncState {
 public:
  FlowState() noexcept = default;
  ~FlowState();

  void made() noexcept;
  void pause() noexcept;
  void resume() noexcept;
  void lost(std::exception_ptr error) noexcept;

  // The transport's loop. Requires: made(). Lifetime: as long as any loop of the group.
  LoopState& home() const noexcept { return *on_; }
  // Whether the caller is on it.
  bool is_here() const noexcept { return !is_shared() || running_state() == on_; }
  // Elsewhere: keeps it, and calls `ask`, which asks the transport's loop for a flush(), unless another one is on its
  // way. It is called under the lock: a close() that follows comes behind it, whoever has asked.
  // Throws: RuntimeError after end(); what `ask` throws, and std::bad_alloc: nothing is kept then.
  template <class Ask>
  void add(std::span<const std::span<const std::byte>> pieces, Ask ask);
  // On the transport's loop. Sends what was kept.
  void flush(Transport& transport);
  // Nothing may be written any more.
  void end() noexcept;

  static const SyncKind draining;
  static const SyncKind closing;

 private:
  friend class DrainAwaiter;
  friend class ClosedAwaiter;

  // True: a flush has to be asked for.
  bool keep(std::span<const std::span<const std::byte>> pieces);
  bool is_full() const noexcept;
  void wake_drainers() noexcept;
  void wake_all(WaitList& waiters, Wakes& wakes) noexcept;
  // Throws: what ended the connection, or ConnectionResetError.
  [[noreturn]] void throw_lost() const;

  LoopState* on_ = nullptr;  // the transport's loop
  std::string kept_;
  std::exception_ptr error_;
  WaitList drainers_;
  WaitList closers_;
  bool paused_ = false;
  bool lost_ = false;
  bool flush_is_due_ = false;
  bool ended_ = false;
};

template <class Ask>
void FlowState::add(std::span<const std::span<const std::byte>> pieces, Ask ask) {
  const Hold hold(*this);
  const std::size_t before = kept_.size();
  try {
    if (keep(pieces)) ask();
  } catch (...) {
    kept_.resize(before);
    throw;
  }
  flush_is_due_ = !kept_.empty();
}

class OURO_EXPORT DrainAwaiter final : public ListWaiter {
 public:
  DrainAwaiter(FlowState& flow, const ReaderState& reader, const Transport& transport) noexcept
      : ListWaiter(flow), reader_(reader), transport_(transport) {}
  DrainAwaiter(DrainAwaiter&& other) noexcept
      : ListWaiter(std::move(other)), reader_(other.reader_), transport_(other.transport_) {}

  bool await_ready();
  template <class Promise>
  void await_suspend(std::coroutine_handle<Promise> coroutine,
                     std::source_location where = std::source_location::current()) {
    suspend(task_of(coroutine, "StreamWriter"), coroutine.address(), FlowState::draining, where);
  }
  void await_resume();

 private:
  friend class FlowState;
  const ReaderState& reader_;
  const Transport& transport_;
  bool closing_ = false;
};

class OURO_EXPORT ClosedAwaiter final : public ListWaiter {
 public:
  explicit ClosedAwaiter(FlowState& flow) noexcept : ListWaiter(flow) {}

  bool await_ready() const noexcept;
  template <class Promise>
  void await_suspend(std::coroutine_handle<Promise> coroutine,
                     std::source_location where = std::source_location::current()) {
    suspend(task_of(coroutine, "StreamWriter"), coroutine.address(), FlowState::closing, where);
  }
  void await_resume();
};

}  // namespace ouro::detail
