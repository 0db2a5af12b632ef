# SPDX-License-Identifier: Apache-2.0
"""Arrays as the kernels see them: a pointer, a dtype and strides in elements. numpy arrays, torch tensors on the CPU,
and whatever speaks DLPack."""
from dropin._library import ffi, lib

_DTYPES = {"float32": lib.DI_F32, "float64": lib.DI_F64, "bfloat16": lib.DI_BF16, "float16": lib.DI_F16, "bool": lib.DI_BOOLEAN,
           "int8": lib.DI_I8, "uint8": lib.DI_U8, "int16": lib.DI_I16, "int32": lib.DI_I32, "int64": lib.DI_I64}
NAMES = {number: name for name, number in _DTYPES.items()}


def as_array(x):
    """What has a pointer stays; whatever else speaks DLPack is seen through it; None stays None."""
    if x is None or hasattr(x, "data_ptr") or hasattr(x, "ctypes"):
        return x
    from dropin._dlpack import from_dlpack  # which needs this module

    return from_dlpack(x)


def dtype_of(array):
    """The di_dtype of an array; TypeError names one that has none."""
    name = str(array.dtype).removeprefix("torch.")
    if name not in _DTYPES:
        raise TypeError(f"dropin: dtype {name}; must be one of {', '.join(_DTYPES)}")
    return _DTYPES[name]


def strides_of(array):
    """Strides in elements."""
    return array.stride() if hasattr(array, "data_ptr") else tuple(s // array.itemsize for s in array.strides)


def pointer(array):
    """The address of the first element as void *; NULL for None."""
    if array is None:
        return ffi.NULL
    address = array.data_ptr() if hasattr(array, "data_ptr") else array.ctypes.data
    return ffi.cast("void *", address)


def fill_tensor(tensor, array):
    """Writes a di_tensor over the memory of `array`."""
    tensor.data, tensor.dtype, tensor.rank = pointer(array), dtype_of(array), len(array.shape)
    for axis, (size, stride) in enumerate(zip(array.shape, strides_of(array))):
        tensor.shape[axis], tensor.stride[axis] = size, stride
    return tensor


def fill_heads(heads, array, name):
    """Writes a di_heads over [batch, length, heads, dim]; the last stride must be 1."""
    strides = strides_of(array)
    if len(array.shape) != 4:
        raise ValueError(f"attention: {name} has {len(array.shape)} dimensions; must be [batch, length, heads, dim]")
    if strides[3] != 1 and array.shape[3] > 1:
        raise ValueError(f"attention: {name} has stride {strides[3]} in its last dimension; must be 1")
    heads.data = pointer(array)
    heads.batch_stride, heads.length_stride, heads.head_stride = strides[:3]
