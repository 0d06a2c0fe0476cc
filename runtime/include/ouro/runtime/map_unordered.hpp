// map over asynchronous ranges, map with a limit that changes while it runs, and map_unordered: results as they come.
// Here each child is a task. Over a range that is there, with a fixed limit, the map of map.hpp is faster.
#pragma once

#include <concepts>
#include <coroutine>
#include <cstddef>
#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <ranges>
#include <source_location>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <ouro/runtime/awaitable.hpp>
#include <ouro/runtime/config.hpp>
#include <ouro/runtime/coroutine.hpp>
#include <ouro/runtime/detail/map_job.hpp>
#include <ouro/runtime/detail/map_state.hpp>
#include <ouro/runtime/exceptions.hpp>
#include <ouro/runtime/futures.hpp>
#include <ouro/runtime/gather.hpp>
#include <ouro/runtime/generators.hpp>
#include <ouro/runtime/map.hpp>
#include <ouro/runtime/sleep.hpp>
#include <ouro/runtime/tasks.hpp>

namespace ouro {

// How many children of a map may be unfinished at a time, if that is to change while it runs. Several maps may have the
// same; each of them may then have as many children.
// Threads: those of the loops whose tasks run the maps.
// Lifetime: it may go before the maps, which keep the last limit.
class MapLimit {
 public:
  // Throws: ValueError for zero.
  explicit MapLimit(std::size_t limit) : state_(std::make_shared<detail::LimitState>(limit)) {}
  MapLimit(const MapLimit&) = delete;

  std::size_t get() const noexcept { return state_->get(); }
  // Raised, further children start at once; lowered, none starts until as many have ended.
  // Throws: ValueError for zero, and nothing changes.
  void set(std::size_t limit) { state_->set(limit); }

  // For the library.
  const std::shared_ptr<detail::LimitState>& state() const noexcept { return state_; }

 private:
  std::shared_ptr<detail::LimitState> state_;
};

// A result of map_unordered, and the number of its element, from 0. `value`: a std::reference_wrapper for coroutines
// that give references, with return_exceptions an Outcome; for void there is none.
template <class T>
struct MapResult {
  std::size_t index;
  T value;
};
template <>
struct MapResult<void> {
  std::size_t index;
};

namespace detail {

OURO_TRANSFER_NAMESPACE {

// The child keeps its element and `f`: what it was made from goes before them.
template <class Job, class T>
Coroutine<T> map_child(std::shared_ptr<Job> job, std::shared_ptr<typename Job::Child> child, Coroutine<T> made) {
  static_cast<void>(job);
  static_cast<void>(child);
  co_return co_await std::move(made);
}

// Throws: what `f` throws.
template <class Job, class Item>
void start_map_child(const std::shared_ptr<Job>& job, Item&& item) {
  auto child = std::make_shared<typename Job::Child>(static_cast<Item&&>(item));
  auto made = to_coroutine(std::invoke(job->f, child->item.pass()));
  if (OURO_UNLIKELY(!made)) throw_awaited_twice();
  const std::source_location where = made.get()->created;
  auto task = schedule(nullptr, map_child(job, child, std::move(made)), TaskOptions(), where);
  job->add(std::move(child), task.handle());
}

// What makes the children, in a task of its own; others get their turn between some and others.
template <class Job>
Coroutine<> feed_map(std::shared_ptr<Job> job) {
  using Step = MapState::Step;
  constexpr unsigned at_a_time = 32;
  try {
    if constexpr (decltype(job->source)::is_async) {
      for (unsigned n = 1;; ++n) {
        Step step = job->next_step();
        while (step == Step::wait) {
          co_await job->room.wait();
          step = job->next_step();
        }
        if (step == Step::stop) break;
        auto item = co_await job->source.get().next();
        if (!item || job->next_step() == Step::stop) break;
        start_map_child(job, *std::move(item));
        if (n % at_a_time == 0) co_await sleep(Duration(0));
      }
    } else {
      auto at = std::ranges::begin(job->source.view());
      const auto end = std::ranges::end(job->source.view());
      for (unsigned n = 1;; ++n) {
        Step step = job->next_step();
        while (step == Step::wait) {
          co_await job->room.wait();
          step = job->next_step();
        }
        if (step == Step::stop) break;
        if (n > 1) ++at;  // only now: it may run the user's code
        if (at == end) break;
        start_map_child(job, *at);
        if (n % at_a_time == 0) co_await sleep(Duration(0));
      }
    }
  } catch (const CancelledError&) {
    throw;  // an error of the map, unless the taker asked for it
  } catch (...) {
    job->source_failed(std::current_exception());
  }
}

// Why the taker leaves.
struct MapEnd {
  std::exception_ptr error;
  std::string message;  // of a cancellation
  bool left = false;    // cancelled, or closed: an error that comes while children end is told in place of that
};

// In a catch block.
inline void leave_map(MapEnd& end) {
  end.error = std::current_exception();
  try {
    throw;
  } catch (const CancelledError& error) {
    end.left = true;
    end.message = error.message();
  } catch (const GeneratorExit&) {
    end.left = true;
  } catch (...) {
  }
}

// The taker leaves: what runs is cancelled, and ends; then the source is closed.
// Throws: `end.error`, or what has come instead.
template <class Job>
Coroutine<> end_map(Job& job, MapEnd& end) {
  if (end.error) job.stop(end.message);
  bool cancelled_late = false;
  while (!job.settled()) {
    bool again = false;
    try {
      co_await job.came.wait();
    } catch (const CancelledError& error) {
      again = true;
      cancelled_late = !end.left;
      end.error = std::current_exception();
      end.message = error.message();
    }
    if (again) job.stop(end.message);
  }
  if (std::exception_ptr later = job.drain(); later && end.left) {
    end.error = std::move(later);
    end.left = false;
  }
  if constexpr (requires { job.source.get().aclose(); }) {
    try {
      co_await job.source.get().aclose();
    } catch (const CancelledError&) {
      end.error = std::current_exception();
    } catch (...) {
      if (!end.error || (end.left && !cancelled_late)) end.error = std::current_exception();
    }
  }
  if (end.error) std::rethrow_exception(std::move(end.error));
}

// All results, in the order of the elements.
template <bool Outcomes, class F, class Source>
auto map_in_order(F f, Source source, MapBound bound)
    -> Coroutine<typename MapList<typename MapJob<F, Source, Outcomes>::Value>::Type> {
  using Job = MapJob<F, Source, Outcomes>;
  using Taken = MapState::Taken;
  const auto job =
      std::make_shared<Job>(std::move(f), std::move(source), std::move(bound), MapState::Counts::unfinished);
  const MapGuard guard(*job);
  MapList<typename Job::Value> results;
  MapEnd end;
  try {
    job->begin(create_task(feed_map(job)).handle());
    std::shared_ptr<MapChild> child;
    for (Taken taken = job->take(child, end.error); taken != Taken::over && taken != Taken::failed;
         taken = job->take(child, end.error)) {
      if (taken == Taken::wait) {
        co_await job->came.wait();
      } else {
        results.put(child->number, [&child]() -> decltype(auto) { return Job::value_of(*child); });
        child.reset();
      }
    }
  } catch (...) {
    leave_map(end);
  }
  co_await end_map(*job, end);
  co_return results.take();
}

// Each when it has come.
template <bool Outcomes, class F, class Source>
auto map_as_they_come(F f, Source source, MapBound bound)
    -> AsyncGenerator<MapResult<typename MapJob<F, Source, Outcomes>::Value>> {
  using Job = MapJob<F, Source, Outcomes>;
  using Taken = MapState::Taken;
  const auto job = std::make_shared<Job>(std::move(f), std::move(source), std::move(bound), MapState::Counts::untaken);
  const MapGuard guard(*job);
  MapEnd end;
  try {
    job->begin(create_task(feed_map(job)).handle());
    std::shared_ptr<MapChild> child;
    for (Taken taken = job->take(child, end.error); taken != Taken::over && taken != Taken::failed;
         taken = job->take(child, end.error)) {
      if (taken == Taken::wait) {
        co_await job->came.wait();
      } else if constexpr (std::is_void_v<typename Job::Value>) {
        MapResult<void> result{child->number};
        Job::value_of(*child);
        child.reset();
        co_yield std::move(result);
      } else {
        MapResult<typename Job::Value> result{child->number, Job::value_of(*child)};
        child.reset();
        co_yield std::move(result);
      }
    }
  } catch (...) {
    leave_map(end);
  }
  co_await end_map(*job, end);
}

}  // namespace transfer

template <class Limit>
MapBound map_bound(Limit& limit) {
  if constexpr (std::is_same_v<std::remove_const_t<Limit>, MapLimit>) {
    return MapBound(limit.state());
  } else {
    if (limit.limit == 0) throw_zero_limit();
    return MapBound(limit.limit);
  }
}

}  // namespace detail

// map over what must be awaited for its next element: an AsyncGenerator, another map_unordered. Awaits `f(element)` for
// each, at most `limit` at a time; gives the results in the order of the elements. The next element is asked for when
// there is room for its child, so nothing is read ahead. Errors are as in gather: at the first one, of a child, of `f`
// or of the source, no further child is started, those that run are cancelled and awaited, then it is thrown. Whatever
// happens, the source is closed (aclose) before the map ends; what that throws comes out if nothing else does.
// Threads: `f` and the source run in a task of the map's own, one call at a time; children have the caller's home.
// Lifetime: a source given as an lvalue is referred to; an rvalue, and `f`, live in the map. An element given by value
// lives as long as its child, so that may take it by reference; a reference that is given is passed on.
// If cancelled: so are the children and the source; when they have ended, CancelledError is thrown.
// Throws: ValueError for a limit of zero.
template <class F, class S>
  requires(detail::MapsOver<F, S> && !std::ranges::viewable_range<S>)
[[nodiscard("a map does nothing until it is awaited")]] auto map(F&& f, S&& source, MapOptions options = {}) {
  return detail::map_in_order<false, std::decay_t<F>>(std::forward<F>(f), detail::map_source(std::forward<S>(source)),
                                                      detail::map_bound(options));
}
template <class F, class S>
  requires(detail::MapsOver<F, S> && !std::ranges::viewable_range<S>)
[[nodiscard("a map does nothing until it is awaited")]] auto map(ReturnExceptions, F&& f, S&& source,
                                                                 MapOptions options = {}) {
  return detail::map_in_order<true, std::decay_t<F>>(std::forward<F>(f), detail::map_source(std::forward<S>(source)),
                                                     detail::map_bound(options));
}

// map with a limit that may change while it runs, over a range or an asynchronous source; all else is as above.
// If cancelled: as above.
template <class F, detail::MapSource S>
  requires detail::MapsOver<F, S>
[[nodiscard("a map does nothing until it is awaited")]] auto map(F&& f, S&& source, MapLimit& limit) {
  return detail::map_in_order<false, std::decay_t<F>>(std::forward<F>(f), detail::map_source(std::forward<S>(source)),
                                                      detail::map_bound(limit));
}
template <class F, detail::MapSource S>
  requires detail::MapsOver<F, S>
[[nodiscard("a map does nothing until it is awaited")]] auto map(ReturnExceptions, F&& f, S&& source, MapLimit& limit) {
  return detail::map_in_order<true, std::decay_t<F>>(std::forward<F>(f), detail::map_source(std::forward<S>(source)),
                                                     detail::map_bound(limit));
}

// The results of `f(element)` as they come, first those of children that end first, each with the number of its
// element: an AsyncGenerator of MapResult. It is over when all have been taken.
//
//     auto pages = map_unordered(fetch, urls, {.limit = 8});
//     while (auto page = co_await pages.next()) std::printf("%zu: %zu bytes\n", page->index, page->value.size());
//
// Children start with the first next(), and go on while nobody asks. Of children that have started and results that
// have not been taken there are `limit` at most, all together; without a limit there may be as many as elements.
// Errors are as in gather: the results of those that ended before come first; then next() cancels and awaits the rest,
// and throws. If nobody waits for a result at that moment, children that run are cancelled with the next call; none is
// started. With return_exceptions the errors of children are results.
//
// The end, of whatever kind, is one: children are cancelled and awaited, then the source is closed, also by aclose(),
// and results that nobody has taken go. A generator that is dropped half way is closed by a task of the loop. aclose()
// throws the error of a child that has failed and was not taken, or fails now. One that never began has no children,
// and is destroyed with its source.
// Threads, lifetime, limit: as map() above.
// If cancelled: next() ends it: children and source are cancelled, and when they have ended, CancelledError is thrown.
// Throws: ValueError for a limit of zero.
template <class F, detail::MapSource S>
  requires detail::MapsOver<F, S>
auto map_unordered(F&& f, S&& source, MapOptions options = {}) {
  return detail::map_as_they_come<false, std::decay_t<F>>(
      std::forward<F>(f), detail::map_source(std::forward<S>(source)), detail::map_bound(options));
}
template <class F, detail::MapSource S>
  requires detail::MapsOver<F, S>
auto map_unordered(F&& f, S&& source, MapLimit& limit) {
  return detail::map_as_they_come<false, std::decay_t<F>>(
      std::forward<F>(f), detail::map_source(std::forward<S>(source)), detail::map_bound(limit));
}
template <class F, detail::MapSource S>
  requires detail::MapsOver<F, S>
auto map_unordered(ReturnExceptions, F&& f, S&& source, MapOptions options = {}) {
  return detail::map_as_they_come<true, std::decay_t<F>>(
      std::forward<F>(f), detail::map_source(std::forward<S>(source)), detail::map_bound(options));
}
template <class F, detail::MapSource S>
  requires detail::MapsOver<F, S>
auto map_unordered(ReturnExceptions, F&& f, S&& source, MapLimit& limit) {
  return detail::map_as_they_come<true, std::decay_t<F>>(
      std::forward<F>(f), detail::map_source(std::forward<S>(source)), detail::map_bound(limit));
}

}  // namespace ouro
