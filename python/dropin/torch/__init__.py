# SPDX-License-Identifier: Apache-2.0
"""The parts of dropin as PyTorch knows them."""
import importlib


def __getattr__(name):
    optim = importlib.import_module("dropin.torch.optim")
    if name == "optim":
        return optim
    if name in optim.__all__:
        return getattr(optim, name)
    raise AttributeError(f"module 'dropin.torch' has no attribute {name!r}")
