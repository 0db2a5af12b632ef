# SPDX-License-Identifier: Apache-2.0
"""The C library dropin from Python: the loader, and its doors, which are imported when they are first used.

dropin.torch                         PyTorch: attention as functions and modules, optimizers
dropin.numpy                         the same on numpy arrays; the next three are from there
dropin.sigmoid_attention …           a function for every part of the slot `attention`, on [batch, length, heads, dim]
dropin.quantize, dropin.dequantize   block-wise 8-bit codes
dropin.optimizer                     dropin.optimizer("adamw8bit:lr=1e-3") updates arrays in place
dropin.from_dlpack, dropin.zeros     arrays of other libraries and of our own, without a copy both ways (DLPack)
dropin.Attention                     the attention kernels on arrays that the caller owns, forward and backward
"""
import importlib

from dropin._library import DropinError, check, execution, ffi, lib
from dropin._version import __version__

# name → module that has it
_LATER = {"Attention": "attention", **dict.fromkeys(("Buffer", "from_dlpack", "zeros"), "_dlpack"),
          **dict.fromkeys(("dequantize", "optimizer", "quantize"), "numpy")}
_MODULES = ("attention", "integrations", "numpy", "torch")

__all__ = ["DropinError", "check", "execution", "ffi", "lib", "__version__", *_LATER]


def __getattr__(name):
    if name in _MODULES:
        return importlib.import_module("dropin." + name)
    home = _LATER.get(name) or ("numpy" if name.endswith("_attention") else None)
    if home is None or not hasattr(module := importlib.import_module("dropin." + home), name):
        raise AttributeError(f"module 'dropin' has no attribute {name!r}")
    value = globals()[name] = getattr(module, name)
    return value


def __dir__():
    return sorted({*globals(), *__all__, *_MODULES})
