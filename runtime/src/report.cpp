// Errors that have no caller to go to: the exception handler, and what it writes without one.
#include "report.hpp"

#include <cxxabi.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <typeinfo>

#include <ouro/runtime/base_event_loop.hpp>
#include <ouro/runtime/exceptions.hpp>

namespace ouro {
namespace detail {

namespace {

void print_type(const std::type_info& type) noexcept {
  int status = 0;
  char* const name = abi::__cxa_demangle(type.name(), nullptr, nullptr, &status);
  std::fprintf(stderr, "  %s: ", name ? name : type.name());
  std::free(name);
}

}  // namespace

void print_error(const ExceptionContext& context) noexcept {
  std::fprintf(stderr, "ouro: %s\n",
               context.message.empty() ? "Unhandled exception in event loop" : context.message.c_str());
  if (!context.task.empty()) std::fprintf(stderr, "  task: %s\n", context.task.c_str());
  if (context.created.line() != 0) {
    std::fprintf(stderr, "  created at %s:%u in %s\n", context.created.file_name(), context.created.line(),
                 context.created.function_name());
  }
  if (!context.exception) return;
  try {
    std::rethrow_exception(context.exception);
  } catch (const std::exception& error) {
    print_type(typeid(error));
    std::fprintf(stderr, "%s\n", error.what());
  } catch (const CancelledError& error) {
    std::fprintf(stderr, "  CancelledError: %s\n", error.message().c_str());
  } catch (...) {
    std::fprintf(stderr, "  an exception that is no std::exception\n");
  }
}

void report_error(LoopState& home, const ExceptionContext& context) noexcept {
  if (home.loop) {
    home.loop->call_exception_handler(context);
  } else {
    print_error(context);
  }
}

}  // namespace detail

void BaseEventLoop::default_exception_handler(const ExceptionContext& context) { detail::print_error(context); }

void BaseEventLoop::call_exception_handler(const ExceptionContext& context) noexcept {
  if (!exception_handler_) {
    detail::print_error(context);
    return;
  }
  try {
    // A copy: the handler may replace itself.
    ExceptionHandler handler = exception_handler_;
    handler(*this, context);
  } catch (const KeyboardInterrupt&) {
    state_->interrupt = std::current_exception();
    state_->attention = true;
    state_->budget = std::min<std::uint32_t>(state_->budget, 1);
  } catch (...) {
    ExceptionContext broken;
    try {
      broken.message = "Unhandled error in exception handler, which was told: " + context.message;
    } catch (...) {
      broken.message.clear();
    }
    broken.exception = std::current_exception();
    detail::print_error(broken);
    detail::print_error(context);
  }
}

}  // namespace ouro
