# SPDX-License-Identifier: Apache-2.0
"""DLPack both ways, without numpy or torch: from_dlpack(x) sees the memory of any CPU array, zeros(shape, dtype) owns its own.

    view = dropin.from_dlpack(torch_tensor)          # no copy; `view` keeps the tensor's memory alive
    torch.from_dlpack(dropin.zeros((3, 4), "bfloat16"))
"""
import ctypes
import math

from dropin._array import NAMES, _DTYPES
from dropin._library import check, execution, ffi, lib

_UNVERSIONED, _VERSIONED = b"dltensor", b"dltensor_versioned"
_USED = {name: b"used_" + name for name in (_UNVERSIONED, _VERSIONED)}
_TYPES = {_UNVERSIONED: "di_dlpack_managed *", _VERSIONED: "di_dlpack_versioned *"}
_CPU = (1, 0)
_api = ctypes.pythonapi
_Destructor = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_new = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.c_char_p, _Destructor)(("PyCapsule_New", _api))
_is = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.py_object, ctypes.c_char_p)(("PyCapsule_IsValid", _api))
_pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(("PyCapsule_GetPointer", _api))
_rename = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.py_object, ctypes.c_char_p)(("PyCapsule_SetName", _api))
# the same on a capsule that is being destroyed, which must not be counted again
_dying_is = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p)(("PyCapsule_IsValid", _api))
_dying_pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)(("PyCapsule_GetPointer", _api))
_lent = {}  # number → Buffer that somebody reads


@ffi.callback("void(void *)")
def _release(user, lent=_lent, number=ffi.cast):
    lent.pop(int(number("uintptr_t", user)), None)


def _delete(managed):
    if managed.deleter:
        managed.deleter(managed)


@_Destructor
def _destroy(capsule, is_=_dying_is, pointer=_dying_pointer, types=_TYPES, cast=ffi.cast, delete=_delete):
    for name, type_ in types.items():
        if is_(capsule, name):  # nobody took it
            delete(cast(type_, pointer(capsule, name)))


for _forever in (_release, _destroy):  # readers may outlive this module at the end of the process
    _api.Py_IncRef(ctypes.py_object(_forever))


class Buffer:
    """An array of the library: shape, strides in elements, dtype by name. numpy.asarray, numpy.from_dlpack and torch.from_dlpack see
    its memory without a copy."""

    def __init__(self, tensor, owner, readonly=False):
        self._tensor, self._owner, self.readonly = tensor, owner, readonly
        self.shape = tuple(tensor.shape[axis] for axis in range(tensor.rank))
        self.dtype = NAMES[tensor.dtype]

    def data_ptr(self):
        """Address of the first element."""
        return int(ffi.cast("uintptr_t", self._tensor.data))

    def stride(self):
        """In elements."""
        return tuple(self._tensor.stride[axis] for axis in range(self._tensor.rank))

    @property
    def __array_interface__(self):
        size = lib.di_dtype_bytes(self._tensor.dtype)
        kind = {"b": "b", "i": "i", "u": "u", "f": "f"}[self.dtype[0]] if self.dtype != "bfloat16" else None
        if kind is None:
            raise AttributeError("dropin: numpy has no bfloat16; torch.from_dlpack takes it")
        return {"shape": self.shape, "typestr": f"{'|' if size == 1 else '<'}{kind}{size}", "data": (self.data_ptr(), self.readonly),
                "strides": tuple(stride * size for stride in self.stride()), "version": 3}

    def __dlpack_device__(self):
        return _CPU

    def __dlpack__(self, *, stream=None, max_version=None, dl_device=None, copy=None):
        if stream is not None or dl_device not in (None, _CPU):
            raise BufferError(f"dropin: dl_device={dl_device}, stream={stream}; must be the CPU, (1, 0), without a stream")
        if copy:
            raise BufferError("dropin: copy=True; only the memory itself is lent")
        name = _VERSIONED if max_version is not None and max_version[0] >= 1 else _UNVERSIONED
        if self.readonly and name == _UNVERSIONED:
            raise BufferError("dropin: the array is read-only, which DLPack below version 1 cannot say")
        number = id(self)
        while number in _lent:
            number += 1
        managed, context, user = ffi.new(f"{_TYPES[name]}*"), execution(1), ffi.cast("void *", number)
        _lent[number] = self
        try:
            if name == _VERSIONED:
                flags = lib.DI_DLPACK_READ_ONLY if self.readonly else 0
                check(lib.di_dlpack_export_versioned(context, self._tensor, flags, _release, user, managed))
            else:
                check(lib.di_dlpack_export(context, self._tensor, _release, user, managed))
        except BaseException:
            del _lent[number]
            raise
        return _new(int(ffi.cast("uintptr_t", managed[0])), name, _destroy)

    def __repr__(self):
        return f"dropin.Buffer(shape={self.shape}, dtype={self.dtype!r}{', readonly' if self.readonly else ''})"


def from_dlpack(x, *, writable=False):
    """A Buffer over the memory of anything with __dlpack__. With `writable`, read-only memory is refused."""
    if not hasattr(x, "__dlpack__"):
        raise TypeError(f"dropin: {type(x).__name__} has no __dlpack__; must be an array")
    if tuple(x.__dlpack_device__()) != _CPU and x.__dlpack_device__()[0] != lib.DI_DLPACK_CPU:
        raise BufferError(f"dropin: device {tuple(x.__dlpack_device__())}; must be the CPU, (1, 0)")
    try:
        capsule = x.__dlpack__(max_version=(lib.DI_DLPACK_MAJOR, lib.DI_DLPACK_MINOR))
    except TypeError:  # older than version 1
        capsule = x.__dlpack__()
    name = next((name for name in _TYPES if _is(capsule, name)), None)
    if name is None:
        raise TypeError(f"dropin: {type(x).__name__}.__dlpack__ gave no unused \"dltensor\" capsule")
    managed, tensor = ffi.cast(_TYPES[name], _pointer(capsule, name)), ffi.new("di_tensor *")
    if name == _VERSIONED:
        check(lib.di_dlpack_view_versioned(managed, writable, tensor))
        readonly = bool(managed.flags & lib.DI_DLPACK_READ_ONLY)
    else:
        check(lib.di_dlpack_view(ffi.addressof(managed, "tensor"), tensor))
        readonly = False
    _rename(capsule, _USED[name])
    return Buffer(tensor, ffi.gc(managed, _delete), readonly)


def zeros(shape, dtype="float32"):
    """A contiguous Buffer that owns its memory, aligned to 64 bytes."""
    if dtype not in _DTYPES:
        raise TypeError(f"dropin: dtype {dtype}; must be one of {', '.join(_DTYPES)}")
    shape, tensor = tuple(shape), ffi.new("di_tensor *")
    check(lib.di_tensor_make(tensor, ffi.NULL, _DTYPES[dtype], len(shape), ffi.new("int64_t[]", shape)))
    owner = ffi.new("char[]", max(math.prod(shape), 1) * lib.di_dtype_bytes(_DTYPES[dtype]) + 64)
    tensor.data = ffi.cast("void *", (int(ffi.cast("uintptr_t", owner)) + 63) & ~63)
    return Buffer(tensor, owner)
