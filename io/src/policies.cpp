// Policies. One table says which loop a thread has under which policy; it is looked at when a program asks for its
// loop, never while a loop runs, so one mutex guards it. Table and policies are never destroyed: other static objects
// may ask for loops while the process ends.
#include <ouro/io/policies.hpp>

#include <pthread.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <mutex>
#include <utility>

#include <ouro/runtime/detail/core.hpp>
#include <ouro/runtime/exceptions.hpp>

namespace ouro {
namespace {

struct Slot {
  std::uint64_t policy;
  pid_t thread;
  EventLoop* loop;  // nullptr: set to none
};

struct Table {
  std::mutex mutex;
  std::vector<Slot> slots;
  std::vector<std::pair<std::uint64_t, std::unique_ptr<EventLoop>>> made;  // on demand, with the policy that did
  std::shared_ptr<EventLoopPolicy> policy;
  std::vector<std::shared_ptr<EventLoopPolicy>> replaced;  // they keep what they handed out
  std::uint64_t last_policy = 0;
};

Table& table() {
  static Table* instance = [] {
    // A child that is forked while another thread holds the lock would wait for it for ever.
    ::pthread_atfork([] { table().mutex.lock(); }, [] { table().mutex.unlock(); }, [] { table().mutex.unlock(); });
    return new Table;
  }();
  return *instance;
}

pid_t thread_id() noexcept { return static_cast<pid_t>(::syscall(SYS_gettid)); }

// Takes the slots of an ending thread with it, for its number may come again.
struct ThreadEnd {
  ~ThreadEnd() {
    Table& all = table();
    std::scoped_lock lock(all.mutex);
    std::erase_if(all.slots, [id = thread_id()](const Slot& slot) { return slot.thread == id; });
  }
};

Slot* find(Table& all, std::uint64_t policy, pid_t thread) noexcept {
  const auto at = std::find_if(all.slots.begin(), all.slots.end(),
                               [&](const Slot& slot) { return slot.policy == policy && slot.thread == thread; });
  return at == all.slots.end() ? nullptr : &*at;
}

}  // namespace

namespace detail {

bool is_main_thread() noexcept { return thread_id() == ::getpid(); }

void forget_event_loop(EventLoop& loop) noexcept {
  Table& all = table();
  std::scoped_lock lock(all.mutex);
  std::erase_if(all.slots, [&](const Slot& slot) { return slot.loop == &loop; });
}

}  // namespace detail

DefaultEventLoopPolicy::DefaultEventLoopPolicy() {
  Table& all = table();
  std::scoped_lock lock(all.mutex);
  id_ = ++all.last_policy;
}

DefaultEventLoopPolicy::~DefaultEventLoopPolicy() = default;

EventLoop& DefaultEventLoopPolicy::get_event_loop() {
  Table& all = table();
  {
    std::scoped_lock lock(all.mutex);
    const Slot* slot = find(all, id_, thread_id());
    if (slot && slot->loop) return *slot->loop;
    if (slot || !detail::is_main_thread()) {
      throw RuntimeError("There is no current event loop in this thread",
                         "set_event_loop(loop), or new_event_loop() and run that one");
    }
  }
  std::unique_ptr<EventLoop> loop = new_event_loop();
  set_event_loop(loop.get());
  std::scoped_lock lock(all.mutex);
  all.made.emplace_back(id_, std::move(loop));
  return *all.made.back().second;
}

void DefaultEventLoopPolicy::set_event_loop(EventLoop* loop) {
  static thread_local ThreadEnd end;
  static_cast<void>(&end);
  Table& all = table();
  std::scoped_lock lock(all.mutex);
  if (Slot* slot = find(all, id_, thread_id())) {
    slot->loop = loop;
  } else {
    all.slots.push_back(Slot{id_, thread_id(), loop});
  }
}

std::unique_ptr<EventLoop> DefaultEventLoopPolicy::new_event_loop() { return std::make_unique<EventLoop>(); }

std::shared_ptr<EventLoopPolicy> get_event_loop_policy() {
  Table& all = table();
  {
    std::scoped_lock lock(all.mutex);
    if (all.policy) return all.policy;
  }
  auto made = std::make_shared<DefaultEventLoopPolicy>();
  std::scoped_lock lock(all.mutex);
  if (!all.policy) all.policy = std::move(made);
  return all.policy;
}

void set_event_loop_policy(std::shared_ptr<EventLoopPolicy> policy) {
  Table& all = table();
  std::scoped_lock lock(all.mutex);
  if (all.policy) all.replaced.push_back(std::move(all.policy));
  all.policy = std::move(policy);
}

EventLoop& get_running_loop() {
  detail::LoopState& loop = detail::require_running();
  if (!loop.event_loop) throw RuntimeError("the running loop is no ouro::EventLoop");
  return *loop.event_loop;
}

EventLoop& get_event_loop() {
  if (const detail::LoopState* loop = detail::running_state(); loop && loop->event_loop) return *loop->event_loop;
  return get_event_loop_policy()->get_event_loop();
}

void set_event_loop(EventLoop* loop) { get_event_loop_policy()->set_event_loop(loop); }

std::unique_ptr<EventLoop> new_event_loop() { return get_event_loop_policy()->new_event_loop(); }

}  // namespace ouro
