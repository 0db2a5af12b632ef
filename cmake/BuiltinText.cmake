# SPDX-License-Identifier: Apache-2.0
# The built-in text: our own headers and sources, concatenated in byte order of their paths, as a C array.
file(GLOB_RECURSE text_files RELATIVE ${CMAKE_SOURCE_DIR} CONFIGURE_DEPENDS include/*.h src/*.h src/*.c)
list(SORT text_files COMPARE STRING CASE SENSITIVE)
set(DI_BUILTIN_TEXT ${CMAKE_BINARY_DIR}/builtin_text.c)
list(TRANSFORM text_files PREPEND ${CMAKE_SOURCE_DIR}/ OUTPUT_VARIABLE text_paths)
string(REPLACE ";" "\n" text_list "${text_paths}")
file(GENERATE OUTPUT ${CMAKE_BINARY_DIR}/builtin_text.list CONTENT "${text_list}\n")
add_custom_command(
  OUTPUT ${DI_BUILTIN_TEXT}
  COMMAND ${CMAKE_COMMAND} -DLIST=${CMAKE_BINARY_DIR}/builtin_text.list -DOUT=${DI_BUILTIN_TEXT} -P ${CMAKE_SOURCE_DIR}/cmake/EmbedText.cmake
  DEPENDS ${text_paths} ${CMAKE_BINARY_DIR}/builtin_text.list ${CMAKE_SOURCE_DIR}/cmake/EmbedText.cmake
  COMMENT "Embedding the built-in text")
