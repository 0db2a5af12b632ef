# SPDX-License-Identifier: Apache-2.0
# dropin.cdef: the public headers, preprocessed for cffi (which reads plain declarations). The system's headers stand in as empty
# files: cffi knows bool, size_t and the sized integers.
set(DI_DECLARATIONS ${CMAKE_BINARY_DIR}/dropin.cdef)
set(empty ${CMAKE_BINARY_DIR}/empty_headers)
foreach(header stdbool stddef stdint)
  file(WRITE ${empty}/${header}.h "")
endforeach()
file(GLOB public_headers CONFIGURE_DEPENDS include/dropin/*.h)
add_custom_command(
  OUTPUT ${DI_DECLARATIONS}
  COMMAND ${CMAKE_C_COMPILER} -E -P -nostdinc -DDI_API= -DDI_CALL= -DDI_PRINTF23= -I${empty} -I${CMAKE_SOURCE_DIR}/include
          -x c ${CMAKE_SOURCE_DIR}/include/dropin/dropin.h -o ${DI_DECLARATIONS}
  DEPENDS ${public_headers}
  COMMENT "Preprocessing the declarations for Python")
add_custom_target(dropin_declarations ALL DEPENDS ${DI_DECLARATIONS})
install(FILES ${DI_DECLARATIONS} DESTINATION ${CMAKE_INSTALL_DATAROOTDIR}/dropin)
