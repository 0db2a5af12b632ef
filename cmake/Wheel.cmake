# SPDX-License-Identifier: Apache-2.0
# The library as the Python wheel has it, and what goes into the wheel (component `wheel`, installed by scikit-build-core).
#
# It names no OpenMP runtime: python/dropin/_openmp.py makes one global before, PyTorch's where there is one, else the libgomp that
# lies beside the library. cJSON is found beside it, too; scripts/wheel.sh puts it into the wheel.
#
# DI_PREBUILT=FOLDER takes library and declarations from a build folder where they are made already, and compiles nothing.
if(NOT DI_PREBUILT)
  add_library(dropin_wheel SHARED EXCLUDE_FROM_ALL ${objects})
  target_link_libraries(dropin_wheel PRIVATE PkgConfig::CJSON m)
  target_link_options(dropin_wheel PRIVATE -s -Wl,-z,now)
  set_target_properties(dropin_wheel PROPERTIES OUTPUT_NAME dropin NO_SONAME ON LIBRARY_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/wheel)
  set(prebuilt ${CMAKE_BINARY_DIR})
else()
  set(prebuilt ${DI_PREBUILT})
  add_custom_target(dropin_wheel)
  add_custom_target(dropin_declarations)
endif()

if(SKBUILD)
  find_package(Python REQUIRED COMPONENTS Interpreter)
  if(NOT OpenMP_gomp_LIBRARY)
    find_package(OpenMP REQUIRED COMPONENTS C)
  endif()
  if(NOT OpenMP_gomp_LIBRARY)
    message(FATAL_ERROR "The wheel needs GCC's OpenMP runtime, libgomp (the compiler is ${CMAKE_C_COMPILER_ID})")
  endif()
  file(REAL_PATH ${OpenMP_gomp_LIBRARY} libgomp)
  find_file(libgomp_copyright copyright PATHS /usr/share/doc/libgomp1 /usr/share/licenses/libgomp NO_DEFAULT_PATH)
  if(NOT libgomp_copyright)
    message(FATAL_ERROR "The wheel carries libgomp and needs its licence: -Dlibgomp_copyright=FILE")
  endif()
  install(FILES ${libgomp} DESTINATION dropin/lib RENAME libgomp.so.1 COMPONENT wheel)
  install(FILES ${libgomp_copyright} DESTINATION ${SKBUILD_METADATA_DIR}/licenses RENAME libgomp.txt COMPONENT wheel)
  install(FILES ${prebuilt}/wheel/libdropin.so ${prebuilt}/dropin.cdef DESTINATION dropin/lib COMPONENT wheel)
  # dropin_declarations.py, as the loader would make it at its first import
  install(CODE "execute_process(COMMAND ${Python_EXECUTABLE} ${CMAKE_SOURCE_DIR}/python/dropin/_declarations.py ${prebuilt}/dropin.cdef
      ${CMAKE_BINARY_DIR}/dropin_declarations.py COMMAND_ERROR_IS_FATAL ANY)" COMPONENT wheel)
  install(FILES ${CMAKE_BINARY_DIR}/dropin_declarations.py DESTINATION dropin/lib COMPONENT wheel)
  # cJSON's licence stands at the head of its header.
  find_file(CJSON_HEADER cJSON.h PATH_SUFFIXES cjson REQUIRED)
  file(READ ${CJSON_HEADER} cjson_head LIMIT 2000)
  string(REGEX MATCH "^/\\*.*THE SOFTWARE\\.[ \n]*\\*/" cjson_licence "${cjson_head}")
  if(NOT cjson_licence)
    message(FATAL_ERROR "${CJSON_HEADER}: no licence at its head")
  endif()
  file(WRITE ${CMAKE_BINARY_DIR}/licences/cJSON.txt "${cjson_licence}\n")
  install(FILES ${CMAKE_BINARY_DIR}/licences/cJSON.txt DESTINATION ${SKBUILD_METADATA_DIR}/licenses COMPONENT wheel)
endif()
