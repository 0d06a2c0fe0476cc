# How tests are made: GoogleTest, one executable a file, each test case a ctest with a timeout.
find_package(GTest REQUIRED)
find_package(Python3 REQUIRED COMPONENTS Interpreter)
include(GoogleTest)

# main() of every test, what watches groups, and the one precompiled header that they share: GoogleTest and the public
# headers of the runtime cost more to read than most tests. (What a header forgets to include, the check of the headers
# finds.)
get_target_property(ouro_read_by_tests ouro_runtime HEADER_SET)
list(FILTER ouro_read_by_tests EXCLUDE REGEX "/detail/")
add_library(ouro_test_main STATIC
  ${PROJECT_SOURCE_DIR}/tests/support/main.cpp ${PROJECT_SOURCE_DIR}/tests/support/group_watch.cpp)
target_include_directories(ouro_test_main PRIVATE ${PROJECT_SOURCE_DIR}/tests ${PROJECT_SOURCE_DIR}/runtime/src)
target_link_libraries(ouro_test_main PUBLIC GTest::gmock ouro::runtime
  PRIVATE concurrentqueue::concurrentqueue ouro_warnings ouro_sanitizers)
set_target_properties(ouro_test_main PROPERTIES CXX_EXTENSIONS OFF)
target_precompile_headers(ouro_test_main PRIVATE
  <gmock/gmock.h> <gtest/gtest.h> <algorithm> <atomic> <chrono> <coroutine> <deque> <exception> <functional> <map>
  <memory> <mutex> <optional> <stdexcept> <string> <thread> <tuple> <utility> <vector> ${ouro_read_by_tests})
# With these ccache can keep what was compiled with the precompiled header.
target_compile_options(ouro_test_main PUBLIC
  $<$<CXX_COMPILER_ID:GNU>:-fpch-preprocess> "$<$<CXX_COMPILER_ID:Clang>:SHELL:-Xclang -fno-pch-timestamp>")

# ouro_add_test(<folder>/<stem> [LABELS label...] [TIMEOUT seconds] [SERIAL])
# builds tests/<folder>/<stem>_test.cpp, where folder is runtime or io: the library that the test sees, with its
# private headers. Labels default to unit; a test gets 60 s (more under a sanitizer) and is killed then.
function(ouro_add_test name)
  cmake_parse_arguments(PARSE_ARGV 1 arg "SERIAL" "TIMEOUT" "LABELS")
  if(NOT arg_LABELS)
    set(arg_LABELS unit)
  endif()
  if(NOT arg_TIMEOUT)
    set(arg_TIMEOUT 60)
  endif()
  if(OURO_SANITIZE)
    math(EXPR arg_TIMEOUT "${arg_TIMEOUT} * 4")
  endif()
  set(serial OFF)
  if(arg_SERIAL)
    set(serial ON)
  endif()
  string(REGEX MATCH "^(runtime|io)/" folder ${name})
  string(REGEX REPLACE "/$" "" folder "${folder}")
  if(OURO_TESTS AND NOT name MATCHES "${OURO_TESTS}")
    return()
  endif()
  if(NOT folder)
    message(FATAL_ERROR "ouro_add_test(${name}): name the test <folder>/<stem>, with folder runtime or io")
  endif()
  string(REPLACE / _ target ${name}_test)
  add_executable(${target} ${PROJECT_SOURCE_DIR}/tests/${name}_test.cpp)
  target_precompile_headers(${target} REUSE_FROM ouro_test_main)
  target_include_directories(${target} PRIVATE ${PROJECT_SOURCE_DIR}/tests ${PROJECT_SOURCE_DIR}/${folder}/src)
  target_link_libraries(${target} PRIVATE ouro_test_main ouro::${folder} ouro_warnings ouro_sanitizers
    concurrentqueue::concurrentqueue $<$<STREQUAL:${folder},io>:liburing::liburing>)
  # Half of g++'s time is what -O3 adds to -O1; programs and benchmarks are built as a user builds them. (Symmetric
  # transfer needs calls that are jumps.)
  target_compile_options(${target} PRIVATE
    "$<$<AND:$<CXX_COMPILER_ID:GNU>,$<CONFIG:Release>>:SHELL:-O1 -foptimize-sibling-calls>")
  target_compile_options(${target} PRIVATE ${ouro_sanitize_tests_flags})
  set_target_properties(${target} PROPERTIES CXX_EXTENSIONS OFF)
  gtest_discover_tests(${target} TEST_PREFIX ${name}. DISCOVERY_MODE PRE_TEST DISCOVERY_TIMEOUT 60)
  # gtest_discover_tests takes a list of labels apart and loses what follows it; so the properties are set after it.
  file(WRITE ${CMAKE_CURRENT_BINARY_DIR}/${target}_properties.cmake "if(${target}_TESTS)
  set_tests_properties(\${${target}_TESTS}
    PROPERTIES LABELS \"${arg_LABELS}\" TIMEOUT ${arg_TIMEOUT} RUN_SERIAL ${serial})
endif()
")
  set_property(DIRECTORY APPEND PROPERTY
    TEST_INCLUDE_FILES ${CMAKE_CURRENT_BINARY_DIR}/${target}_properties.cmake)
endfunction()
