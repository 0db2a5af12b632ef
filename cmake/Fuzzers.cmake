# SPDX-License-Identifier: Apache-2.0
# tests/fuzz/fuzz_NAME.c with the seeds in tests/fuzz/corpus/NAME: libFuzzer programs (clang, -DDI_FUZZ=ON). OpenMP for clang
# is Debian's libomp-N-dev, the fuzzer's runtime libclang-rt-N-dev.
if(NOT CMAKE_C_COMPILER_ID MATCHES "Clang")
  message(FATAL_ERROR "The fuzzers need clang: -DCMAKE_C_COMPILER=clang (this is ${CMAKE_C_COMPILER_ID})")
endif()
file(GLOB fuzz_sources CONFIGURE_DEPENDS tests/fuzz/fuzz_*.c)
foreach(source ${fuzz_sources})
  get_filename_component(name ${source} NAME_WE)
  add_executable(${name} ${source})
  target_link_libraries(${name} PRIVATE dropin_command)
  target_link_options(${name} PRIVATE -fsanitize=fuzzer)
endforeach()
