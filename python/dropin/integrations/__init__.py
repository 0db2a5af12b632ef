# SPDX-License-Identifier: Apache-2.0
"""Doors into other libraries, one module each; importing one imports that library."""
