// All of ouro.
#pragma once

#include <ouro/io/errors.hpp>
#include <ouro/io/event_loop.hpp>
#include <ouro/io/policies.hpp>
#include <ouro/io/processors.hpp>
#include <ouro/io/runners.hpp>
#include <ouro/runtime/awaitable.hpp>
#include <ouro/runtime/base_event_loop.hpp>
#include <ouro/runtime/clock.hpp>
#include <ouro/runtime/concurrent_future.hpp>
#include <ouro/runtime/config.hpp>
#include <ouro/runtime/coroutine.hpp>
#include <ouro/runtime/events.hpp>
#include <ouro/runtime/exception_group.hpp>
#include <ouro/runtime/exceptions.hpp>
#include <ouro/runtime/executors.hpp>
#include <ouro/runtime/fork_join.hpp>
#include <ouro/runtime/futures.hpp>
#include <ouro/runtime/gather.hpp>
#include <ouro/runtime/generators.hpp>
#include <ouro/runtime/map.hpp>
#include <ouro/runtime/shutdown.hpp>
#include <ouro/runtime/sleep.hpp>
#include <ouro/runtime/tasks.hpp>
#include <ouro/runtime/threads.hpp>
#include <ouro/runtime/timeouts.hpp>
