# ouro_warnings: linked PRIVATE by everything built here, never seen by who uses the library.
add_library(ouro_warnings INTERFACE)

if(OURO_DEVELOPER_MODE)
  # -Wnull-dereference stays out: g++ 12 raises it falsely in optimised coroutine frames.
  target_compile_options(ouro_warnings INTERFACE
    -Wall -Wextra -Wpedantic -Wconversion -Wsign-conversion -Wshadow -Wold-style-cast 
    -Woverloaded-virtual -Wcast-align -Wimplicit-fallthrough -Wextra-semi)
  if(OURO_WERROR)
    target_compile_options(ouro_warnings INTERFACE -Werror)
  endif()
endif()
