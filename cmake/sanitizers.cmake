# ouro_sanitizers: linked PRIVATE by the libraries, the tests and the benchmarks. Empty unless OURO_SANITIZE is set.
add_library(ouro_sanitizers INTERFACE)

# ouro_sanitize_tests_flags: what the unit tests add. Checks of every access take as long to compile as all else
# together, and AddressSanitizer's own are calls there; the libraries, the programs and the servers have all of them.
set(ouro_sanitize_tests_flags)

if(OURO_SANITIZE STREQUAL "address")
  set(ouro_sanitize_flags -fsanitize=address,undefined -fno-sanitize-recover=all)
  if(CMAKE_CXX_COMPILER_ID STREQUAL "Clang")
    set(ouro_sanitize_tests_flags -fsanitize-address-outline-instrumentation
      -fno-sanitize=null,alignment,vptr,object-size,pointer-overflow,function)
  endif()
elseif(OURO_SANITIZE STREQUAL "thread")
  set(ouro_sanitize_flags -fsanitize=thread)
elseif(OURO_SANITIZE)
  message(FATAL_ERROR "OURO_SANITIZE is '${OURO_SANITIZE}': set it to address, to thread or to nothing")
endif()

if(OURO_SANITIZE)
  target_compile_options(ouro_sanitizers INTERFACE ${ouro_sanitize_flags} -fno-omit-frame-pointer)
  target_link_options(ouro_sanitizers INTERFACE ${ouro_sanitize_flags})
endif()
