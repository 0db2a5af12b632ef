# SPDX-License-Identifier: Apache-2.0
install(DIRECTORY include/dropin DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
