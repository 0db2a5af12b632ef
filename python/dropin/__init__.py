# SPDX-License-Identifier: Apache-2.0
"""The C library dropin from Python: the loader and the attention kernels, as far as parity tests and peer benchmarks need them."""
from dropin._library import DropinError, check, execution, ffi, lib
from dropin.attention import Attention

__version__ = ffi.string(lib.di_version()).decode()
__all__ = ["Attention", "DropinError", "check", "execution", "ffi", "lib", "__version__"]
