# SPDX-License-Identifier: Apache-2.0
"""Finds the shared library, reads its declarations, turns statuses into exceptions.

$DROPIN_LIBRARY names the library; otherwise it lies in the package (lib/, as the wheel has it), or in the build folder of
the package's checkout, or where `make install` puts it. Its declarations (dropin.cdef) lie beside it or in PREFIX/share/dropin.
What does not fit together is one sentence in an ImportError, with the path and the reason.
"""
import importlib.util
import os
import pathlib
import struct

from dropin import _declarations, _openmp
from dropin._version import __version__

_PACKAGE = pathlib.Path(__file__).resolve().parent


class DropinError(Exception):
    """A call failed; the text is the library's message, `status` its di_status."""

    def __init__(self, message, status):
        super().__init__(message)
        self.status = status

    def __reduce__(self):  # pickles: worker processes send their exceptions home
        return type(self), (str(self), self.status)


# ---- where it is -------------------------------------------------------------------------------------------------------


def _find():
    named = os.environ.get("DROPIN_LIBRARY")
    if named:
        path = pathlib.Path(named).resolve()
        if not path.is_file():
            raise ImportError(f"dropin: there is no library at {path}, which DROPIN_LIBRARY names")
        return path
    inside = _PACKAGE / "lib" / "libdropin.so"
    if inside.parent.is_dir():
        if not inside.is_file():
            raise ImportError(f"dropin: there is no library at {inside}; install the package again")
        return inside
    tried = [_PACKAGE.parents[1] / "build" / "libdropin.so"]
    for prefix in ("/usr/local", "/usr"):
        folder = pathlib.Path(prefix, "lib")
        tried += [folder / "libdropin.so", *sorted(folder.glob("*-linux-gnu/libdropin.so"))]
    for path in tried:
        if path.is_file():
            return path.resolve()
    raise ImportError(f"dropin: there is no library at {', '.join(map(str, tried))}; run make, or set DROPIN_LIBRARY")


def _check_whole(path):
    """A cut ELF file would be mapped, and kill the process at the first touch of what is missing."""
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        head = file.read(64)
        if len(head) == 64 and head[:6] == b"\x7fELF\x02\x01":
            segments, sections, *_, each, count, section_bytes, section_count, _ = struct.unpack("<8xQQIHHHHHH", head[24:])
            ends = [sections + section_bytes * section_count, segments + each * count]
            file.seek(min(segments, size))
            table = file.read(each * count)
            if each >= 56 and len(table) == each * count:
                for at in range(0, len(table), each):
                    offset, bytes_in_file = struct.unpack_from("<8xQ16xQ", table, at)
                    ends.append(offset + bytes_in_file)
            if max(ends) > size:
                raise ImportError(f"dropin: {path} is damaged: {size} bytes, its own header tells of {max(ends)}")


# ---- its declarations ---------------------------------------------------------------------------------------------------


def _write(path, source):
    """For the next import, where the folder may be written to."""
    try:
        part = path.with_name(f"{path.name}.part-{os.getpid()}")
        part.write_text(source, encoding="ascii")
        os.replace(part, path)
    except OSError:
        pass


def _declared(library):
    """The FFI object of dropin.cdef, kept beside it as dropin_declarations.py."""
    places = (library.parent, *(parent / "share" / "dropin" for parent in library.parents))
    found = next((place / "dropin.cdef" for place in places if (place / "dropin.cdef").is_file()), None)
    if found is None:
        raise ImportError(f"dropin: there is no dropin.cdef beside {library}; build the project first (make)")
    text = found.read_bytes()
    crc = _declarations.crc_of(text)
    kept = found.with_name("dropin_declarations.py")
    try:
        spec = importlib.util.spec_from_file_location("dropin_declarations", kept)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        if module.CRC == crc:
            return module.ffi
    except (OSError, SyntaxError, AttributeError, ImportError):
        pass  # not there, or of another build or another cffi: made anew
    source, names = _declarations.source_of(text), {}
    _write(kept, source)
    exec(source, names)
    return names["ffi"]


# ---- loading --------------------------------------------------------------------------------------------------------------


def _load():
    path = _find()
    _check_whole(path)
    foreign = _declared(path)
    openmp = _openmp.share(foreign, path.with_name("libgomp.so.1"))
    try:
        loaded = foreign.dlopen(str(path), os.RTLD_NOW | os.RTLD_NODELETE)
        version = foreign.string(loaded.di_version()).decode()
    except (OSError, AttributeError, foreign.error) as error:
        reason = str(error).partition(f"{path}': ")[2].removeprefix(f"{path}: ") or error  # that says the path up to twice
        raise ImportError(f"dropin: {path} cannot be loaded: {reason}") from None
    if version != __version__:
        raise ImportError(f"dropin: {path} is version {version}; this package ({_PACKAGE}) needs {__version__}")
    return foreign, loaded, openmp


ffi, lib, _runtime = _load()  # the runtime's handle is kept: letting go of it would unload it


def check(status):
    """Raises DropinError unless `status` is DI_OK."""
    if status != lib.DI_OK:
        raise DropinError(ffi.string(lib.di_message()).decode(errors="replace"), int(status))


# ---- execution contexts ---------------------------------------------------------------------------------------------------

_EXEC = ffi.typeof("di_exec *")
_default = {}  # DROPIN_CPU → what the machine offers; asked once, for that reads affinity and the container's quota
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_default.clear)  # a worker may have another affinity


def _ask():
    context = ffi.new(_EXEC)
    check(lib.di_exec_init(context))
    return context


def execution(threads=None, *, seed=0, step=0, train=False, work=None):
    """A di_exec of one's own: threads of this process's affinity unless given; `work` is (address, bytes)."""
    level = os.environ.get("DROPIN_CPU")
    if level not in _default:
        _default[level] = _ask()
    context = ffi.new(_EXEC, _default[level][0])
    if threads is not None:
        context.threads = threads
    context.seed, context.step = seed, step
    context.flags = lib.DI_TRAIN if train else 0
    if work is not None:
        context.work, context.work_bytes = work
    return context
