# SPDX-License-Identifier: Apache-2.0
"""One OpenMP runtime in a process: two pools spin against each other and cost most of the speed of both.

The wheel's library names no OpenMP runtime of its own; it takes the symbols from whatever this module has made global. In order: a
runtime that the process already has (PyTorch's, by any file name), the one in the folder of an installed torch (found without
importing it), the one in the wheel. A library built in a checkout names libgomp.so.1, and that name is satisfied by a runtime that
was loaded before under it.
"""
import importlib.util
import os
import pathlib
import re

_RUNTIME = re.compile(r"lib(gomp|iomp5|omp)[-.].*", re.ASCII)  # GCC's, Intel's, LLVM's: all offer GCC's entry points


def mapped():
    """Paths of the OpenMP runtimes that this process has, in the order of the memory map, each once."""
    paths = {}
    try:
        with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as maps:
            for line in maps:
                fields = line.rstrip("\n").split(None, 5)
                if len(fields) == 6 and _RUNTIME.match(fields[5].rpartition("/")[2]):
                    paths[fields[5]] = None
    except OSError:
        pass
    return list(paths)


def _of_torch():
    """Runtimes in the folder of an installed torch, which is not imported."""
    try:
        found = importlib.util.find_spec("torch")
    except (ImportError, ValueError):  # no torch, or something half made of that name
        found = None
    for folder in (found.submodule_search_locations or ()) if found else ():
        root = pathlib.Path(folder)
        for place in (root / "lib", root.parent / "torch.libs"):
            if place.is_dir():
                yield from sorted(str(path) for path in place.iterdir() if _RUNTIME.match(path.name))


def share(foreign, own):
    """Makes one runtime global; returns its handle, to be kept, and its path. None: neither here, nor in torch, nor at `own`."""
    flags = os.RTLD_NOW | os.RTLD_GLOBAL | os.RTLD_NODELETE
    for path in (*mapped(), *_of_torch(), str(own)):
        try:
            return foreign.dlopen(path, flags), path
        except OSError:
            continue  # deleted since, or of another architecture: the next one
    return None
