# SPDX-License-Identifier: Apache-2.0
"""Npy files written by numpy are read, ours are read by numpy; the other way round for every order, dtype and format."""
import io

import dropin
import numpy
import pytest
from dropin import check, ffi, lib
from dropin._array import fill_tensor
from numpy.lib import format as npy

DTYPES = {"f2": lib.DI_F16, "f4": lib.DI_F32, "f8": lib.DI_F64, "i1": lib.DI_I8, "i2": lib.DI_I16, "i4": lib.DI_I32,
          "i8": lib.DI_I64, "u1": lib.DI_U8, "b1": lib.DI_BOOLEAN}
SHAPES = [(), (1,), (7,), (0,), (3, 0, 2), (5, 4), (2, 3, 4), (1, 2, 1, 3, 1, 2, 1, 2), (300, 70)]


def sample(shape, dtype):
    array = numpy.random.default_rng(1).standard_normal(shape) * 50
    return numpy.asarray(array > 0 if dtype == "b1" else array, dtype=dtype)


def read(path):
    """The file as a numpy array with the strides that the library gave it."""
    tensor = ffi.new("di_tensor *")
    context = dropin.execution()
    check(lib.di_npy_read(context, str(path).encode(), tensor))
    count = int(lib.di_tensor_bytes(tensor))
    shape = tuple(tensor.shape[i] for i in range(tensor.rank))
    dtype = numpy.dtype(next(name for name, value in DTYPES.items() if value == tensor.dtype))
    raw = bytes(ffi.buffer(tensor.data, count)) if count else b""
    strides = tuple(tensor.stride[i] * dtype.itemsize for i in range(tensor.rank))
    lib.di_release(context, tensor.data, count)
    return numpy.ndarray(shape, dtype, raw, strides=strides)


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)], ids=str)
@pytest.mark.parametrize("order", "CF")
@pytest.mark.parametrize("dtype", DTYPES)
def test_numpys_files_are_read(tmp_path, dtype, order, version):
    for shape in SHAPES:
        array = numpy.asarray(sample(shape, dtype), order=order)
        with open(tmp_path / "theirs.npy", "wb") as file:
            npy.write_array(file, array, version=version)
        ours, theirs = read(tmp_path / "theirs.npy"), numpy.load(tmp_path / "theirs.npy")
        assert ours.dtype == theirs.dtype and ours.shape == theirs.shape
        if theirs.size > 0:
            for flag in ("f_contiguous", "c_contiguous"):
                assert getattr(ours.flags, flag) == getattr(theirs.flags, flag)
        assert ours.tobytes() == theirs.tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("view", ["whole", "turned", "every second", "backwards", "repeated"])
def test_ours_are_read_by_numpy(tmp_path, dtype, view):
    for shape in SHAPES:
        whole = sample(shape, dtype)
        if not shape and view not in ("whole", "turned"):
            continue
        array = {"whole": lambda: whole, "turned": lambda: whole.T, "every second": lambda: whole[::2],
                 "backwards": lambda: whole[::-1],
                 "repeated": lambda: numpy.broadcast_to(whole[:1], whole.shape) if shape[0] else whole}[view]()
        tensor = fill_tensor(ffi.new("di_tensor *"), array)
        check(lib.di_npy_write(dropin.execution(), str(tmp_path / "ours.npy").encode(), tensor))
        theirs = numpy.load(tmp_path / "ours.npy", allow_pickle=False)
        assert theirs.dtype == array.dtype and theirs.shape == array.shape and (theirs == array).all()
        content = (tmp_path / "ours.npy").read_bytes()
        assert content.startswith(b"\x93NUMPY\x01\x00") and (len(content) - array.nbytes) % 64 == 0
        with io.BytesIO(content) as file:
            assert npy.read_magic(file) == (1, 0) and npy.read_array_header_1_0(file) == (array.shape, False, array.dtype)


@pytest.mark.parametrize("array", [numpy.zeros(3, ">f4"), numpy.zeros(3, "<c8"), numpy.zeros(3, "<u2"), numpy.zeros(3, "V2"),
                                   numpy.zeros(3, "U4"), numpy.zeros(3, [("x", "<f4")]), numpy.zeros((1,) * 9, "f4")],
                         ids=["big-endian", "complex", "u2", "raw", "text", "record", "nine axes"])
def test_others_are_refused(tmp_path, array):
    numpy.save(tmp_path / "other.npy", array)
    with pytest.raises(dropin.DropinError, match=r"other\.npy: ") as caught:
        read(tmp_path / "other.npy")
    assert caught.value.status == lib.DI_EFORMAT


def test_objects_are_refused(tmp_path):
    numpy.save(tmp_path / "other.npy", numpy.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(dropin.DropinError, match=r"other\.npy: descr='\|O'"):
        read(tmp_path / "other.npy")
