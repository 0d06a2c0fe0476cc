// Errors that have no caller to go to.
#pragma once

#include <ouro/runtime/detail/core.hpp>
#include <ouro/runtime/events.hpp>

namespace ouro::detail {

// To the loop's exception handler, or to stderr if the loop is gone.
void report_error(LoopState& home, const ExceptionContext& context) noexcept;

// In asyncio's words, to stderr.
void print_error(const ExceptionContext& context) noexcept;

}  // namespace ouro::detail
