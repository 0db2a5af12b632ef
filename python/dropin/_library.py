# SPDX-License-Identifier: Apache-2.0
"""Finds the shared library, reads its declarations, turns statuses into exceptions.

Both files come from the build (libdropin.so, dropin.cdef). $DROPIN_LIBRARY names the library; otherwise it is looked for beside the
package's checkout (build/), then by the system's loader. dropin.cdef lies beside the library or in PREFIX/share/dropin.
"""
import os
import pathlib

import cffi


class DropinError(Exception):
    """A call failed; the text is the library's message, `status` its di_status."""

    def __init__(self, message, status):
        super().__init__(message)
        self.status = status


def _candidates():
    named = os.environ.get("DROPIN_LIBRARY")
    if named:
        yield pathlib.Path(named).resolve()
        return
    yield pathlib.Path(__file__).resolve().parents[2] / "build" / "libdropin.so"
    for folder in ("/usr/local/lib", "/usr/lib"):
        yield from sorted(pathlib.Path(folder).glob("**/libdropin.so"))


def _declarations(library):
    for parent in (library.parent, *library.parents):
        for path in (parent / "dropin.cdef", parent / "share" / "dropin" / "dropin.cdef"):
            if path.is_file():
                return path.read_text()
    raise ImportError(f"dropin: no dropin.cdef beside {library}; build the project first (make)")


def _load():
    tried = []
    for path in _candidates():
        if path.is_file():
            foreign = cffi.FFI()
            foreign.cdef(_declarations(path))
            try:
                return foreign, foreign.dlopen(str(path))
            except OSError as error:
                raise ImportError(f"dropin: {path} cannot be loaded: {error}") from error
        tried.append(str(path))
    raise ImportError(f"dropin: no libdropin.so (tried {', '.join(tried)}); set DROPIN_LIBRARY or run make")


ffi, lib = _load()


def check(status):
    """Raises DropinError unless `status` is DI_OK."""
    if status != lib.DI_OK:
        raise DropinError(ffi.string(lib.di_message()).decode(), int(status))


def execution(threads=None, *, seed=0, step=0, train=False, work=None):
    """A di_exec: threads of this process's affinity unless given; `work` is a buffer (ffi.buffer, numpy, torch)."""
    context = ffi.new("di_exec *")
    check(lib.di_exec_init(context))
    if threads is not None:
        context.threads = threads
    context.seed, context.step = seed, step
    context.flags = lib.DI_TRAIN if train else 0
    if work is not None:
        context.work, context.work_bytes = work
    return context
