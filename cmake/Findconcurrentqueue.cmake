# Finds moodycamel's header-only queue and defines concurrentqueue::concurrentqueue, so that sources say
# #include <concurrentqueue.h>. Distributions put the header into different folders and ship no CMake file.
find_path(concurrentqueue_INCLUDE_DIR concurrentqueue.h
  PATH_SUFFIXES concurrentqueue concurrentqueue/moodycamel moodycamel)
mark_as_advanced(concurrentqueue_INCLUDE_DIR)

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(concurrentqueue REQUIRED_VARS concurrentqueue_INCLUDE_DIR
  REASON_FAILURE_MESSAGE "install its header (on Debian: apt-get install libconcurrentqueue-dev)")

if(concurrentqueue_FOUND AND NOT TARGET concurrentqueue::concurrentqueue)
  add_library(concurrentqueue::concurrentqueue INTERFACE IMPORTED)
  target_include_directories(concurrentqueue::concurrentqueue INTERFACE ${concurrentqueue_INCLUDE_DIR})
endif()
