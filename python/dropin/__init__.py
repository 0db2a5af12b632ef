# SPDX-License-Identifier: Apache-2.0
"""The C library dropin from Python: the loader, and its doors, which are imported when they are first used.

dropin.Attention      the attention kernels on arrays that the caller owns
"""
import importlib

from dropin._library import DropinError, check, execution, ffi, lib
from dropin._version import __version__

_LATER = {"Attention": "attention"}  # name → module that has it
_MODULES = ("attention",)

__all__ = ["DropinError", "check", "execution", "ffi", "lib", "__version__", *_LATER]


def __getattr__(name):
    if name in _LATER:
        value = getattr(importlib.import_module("dropin." + _LATER[name]), name)
        globals()[name] = value
        return value
    if name in _MODULES:
        return importlib.import_module("dropin." + name)
    raise AttributeError(f"module 'dropin' has no attribute {name!r}")


def __dir__():
    return sorted({*globals(), *__all__, *_MODULES})
