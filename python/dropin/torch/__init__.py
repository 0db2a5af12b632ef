# SPDX-License-Identifier: Apache-2.0
"""The parts of dropin as PyTorch knows them: attention as functions and modules, optimizers, on the caller's own memory.

Names are looked up when they are first used, so that attention does not wait for the optimizers nor they for it.
"""
import importlib

_SOURCES = ("attention", "optim")  # modules of this package, asked in turn for a public name


def _source(name):
    return importlib.import_module(f"{__name__}.{name}")


def __getattr__(name):
    if name in _SOURCES:
        return _source(name)
    if name == "__all__":
        return sorted(public for source in _SOURCES for public in _source(source).__all__)
    if not name.startswith("_"):
        for source in map(_source, _SOURCES):
            if name in source.__all__:
                globals()[name] = getattr(source, name)
                return globals()[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted({*globals(), *__getattr__("__all__"), *_SOURCES})
