# cmake --install: libraries, headers, find_package(ouro) and pkg-config.
include(CMakePackageConfigHelpers)
include(GNUInstallDirs)

set(ouro_cmake_dir ${CMAKE_INSTALL_LIBDIR}/cmake/ouro)
set_target_properties(ouro_runtime PROPERTIES EXPORT_NAME runtime)
set_target_properties(ouro_io PROPERTIES EXPORT_NAME io)

install(TARGETS ouro_runtime ouro_io ouro EXPORT ouroTargets FILE_SET HEADERS)
install(EXPORT ouroTargets NAMESPACE ouro:: DESTINATION ${ouro_cmake_dir})

if(NOT DEFINED BUILD_SHARED_LIBS)
  set(BUILD_SHARED_LIBS OFF)
endif()
configure_package_config_file(cmake/ouroConfig.cmake.in ouroConfig.cmake INSTALL_DESTINATION ${ouro_cmake_dir})
write_basic_package_version_file(ouroConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/ouroConfig.cmake ${PROJECT_BINARY_DIR}/ouroConfigVersion.cmake
  cmake/Findliburing.cmake DESTINATION ${ouro_cmake_dir})

# The .pc file finds its prefix from where it lies, so that an installed tree may be moved.
set(ouro_pc_dir ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
file(RELATIVE_PATH ouro_pc_prefix /prefix/${ouro_pc_dir} /prefix)
string(REGEX REPLACE "/$" "" ouro_pc_prefix ${ouro_pc_prefix})
set(ouro_pc_requires Requires)
if(BUILD_SHARED_LIBS)
  set(ouro_pc_requires Requires.private)
endif()
configure_file(cmake/ouro.pc.in ouro.pc @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/ouro.pc DESTINATION ${ouro_pc_dir})
