# SPDX-License-Identifier: Apache-2.0
"""The version of the package, which its library must have too (project() in CMakeLists.txt)."""
__version__ = "0.1.0"
