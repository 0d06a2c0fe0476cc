// Which loop belongs to which thread, and what a loop is made of.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include <ouro/io/event_loop.hpp>
#include <ouro/runtime/config.hpp>

namespace ouro {

// Decides what a loop is and which thread has which. One serves the whole process.
class OURO_EXPORT EventLoopPolicy {
 public:
  virtual ~EventLoopPolicy() = default;

  // The current loop of the calling thread. Throws: RuntimeError if it has none.
  virtual EventLoop& get_event_loop() = 0;
  // Makes `loop` the current one of the calling thread; nullptr: none.
  virtual void set_event_loop(EventLoop* loop) = 0;
  // A new loop, which is nobody's current one.
  virtual std::unique_ptr<EventLoop> new_event_loop() = 0;

 protected:
  EventLoopPolicy() = default;
  EventLoopPolicy(const EventLoopPolicy&) = delete;
  EventLoopPolicy& operator=(const EventLoopPolicy&) = delete;
};

// The main thread gets a loop on demand, other threads by set_event_loop().
// Lifetime: the loops that it makes on demand live until the process ends, also after another policy has replaced it.
class OURO_EXPORT DefaultEventLoopPolicy : public EventLoopPolicy {
 public:
  DefaultEventLoopPolicy();
  ~DefaultEventLoopPolicy() override;

  EventLoop& get_event_loop() override;
  void set_event_loop(EventLoop* loop) override;
  std::unique_ptr<EventLoop> new_event_loop() override;

 private:
  std::uint64_t id_;
};

// The policy of the process. Threads: any.
OURO_EXPORT std::shared_ptr<EventLoopPolicy> get_event_loop_policy();
// Replaces it; nullptr: the default one. Threads: any.
OURO_EXPORT void set_event_loop_policy(std::shared_ptr<EventLoopPolicy> policy);

// The loop that runs on this thread.
// Throws: RuntimeError "no running event loop".
OURO_EXPORT EventLoop& get_running_loop();
// The running loop, else the policy's current one of this thread.
// Throws: RuntimeError if there is neither.
OURO_EXPORT EventLoop& get_event_loop();
OURO_EXPORT void set_event_loop(EventLoop* loop);
OURO_EXPORT std::unique_ptr<EventLoop> new_event_loop();

namespace detail {

// A loop dies: no thread has it as its current one any more.
void forget_event_loop(EventLoop& loop) noexcept;
// True on the thread that main() runs on.
bool is_main_thread() noexcept;

}  // namespace detail
}  // namespace ouro
