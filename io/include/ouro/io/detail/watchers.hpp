// The descriptors that a loop watches for add_reader and add_writer.
//
// A watch asks the ring once whether its descriptor is ready. When it is, its callback stands in the ready queue, and
// the ring is asked again when that has run. So what is not read stays announced, once a turn, and a callback that has
// not had its turn is not announced twice.
#pragma once

#include <map>
#include <memory>
#include <tuple>
#include <utility>

#include <ouro/runtime/config.hpp>
#include <ouro/runtime/detail/context_state.hpp>

namespace ouro {
class EventLoop;
}  // namespace ouro

namespace ouro::detail {

class Watch;

class OURO_EXPORT WatchCallback {
 public:
  WatchCallback() : context_(contexts_in_use() ? inherited_cell() : nullptr) {}
  virtual ~WatchCallback() = default;
  // In its context, a copy of that in which it was made.
  void run();

 private:
  virtual void call() = 0;
  CellRef context_;
};

template <class F, class... Args>
class TypedWatchCallback final : public WatchCallback {
 public:
  template <class G, class... More>
  explicit TypedWatchCallback(G&& f, More&&... args) : f_(std::forward<G>(f)), args_(std::forward<More>(args)...) {}

 private:
  void call() override { static_cast<void>(std::apply(f_, args_)); }

  F f_;
  std::tuple<Args...> args_;
};

class OURO_EXPORT Watchers {
 public:
  enum class For : unsigned char { reading, writing };

  explicit Watchers(EventLoop& loop) noexcept;
  // Asks for nothing any more, and waits until the kernel has forgotten all.
  ~Watchers();
  Watchers(const Watchers&) = delete;

  // Throws: RuntimeError, OSError, std::bad_alloc; then what was watched before still is.
  void add(int fd, For what, std::unique_ptr<WatchCallback> callback);
  // False if there was none.
  bool remove(int fd, For what);

 private:
  friend class Watch;
  void check_thread() const;

  EventLoop& loop_;
  std::map<std::pair<int, For>, Watch*> watches_;
  Watch* leaving_ = nullptr;  // those that were removed while the kernel still knew of them
};

}  // namespace ouro::detail
