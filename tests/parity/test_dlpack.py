# SPDX-License-Identifier: Apache-2.0
"""Arrays handed over by DLPack, both ways, between the library, numpy and torch: the same memory, freed once, at the right time."""
import gc
import subprocess
import sys
import weakref

import dropin
import numpy
import pytest
import torch
from dropin import _dlpack

DTYPES = ["float32", "float64", "float16", "int8", "uint8", "int16", "int32", "int64", "bool"]


class Old:
    """What spoke DLPack before version 1."""

    def __init__(self, array):
        self.array = array

    def __dlpack__(self):
        return self.array.__dlpack__()

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()


@pytest.mark.parametrize("dtype", [*DTYPES, "bfloat16"])
@pytest.mark.parametrize("wrap", [lambda x: x, Old], ids=["version 1", "before"])
def test_from_torch(dtype, wrap):
    x = torch.arange(24).to(getattr(torch, dtype)).reshape(2, 3, 4).transpose(0, 2)
    view = dropin.from_dlpack(wrap(x))
    assert (view.shape, view.stride(), view.dtype, view.data_ptr()) == (tuple(x.shape), x.stride(), dtype, x.data_ptr())
    back = torch.from_dlpack(view)
    assert back.data_ptr() == x.data_ptr() and torch.equal(back, x)


@pytest.mark.parametrize("dtype", DTYPES)
def test_from_numpy(dtype):
    x = numpy.arange(24).astype(dtype).reshape(2, 3, 4)[:, ::-1, ::2]
    view = dropin.from_dlpack(x)
    assert view.stride() == tuple(s // x.itemsize for s in x.strides) and view.data_ptr() == x.ctypes.data
    for back in (numpy.from_dlpack(view), numpy.asarray(view)):
        assert back.ctypes.data == x.ctypes.data and numpy.array_equal(back, x)


@pytest.mark.parametrize("dtype", DTYPES)
def test_ours_is_read_by_numpy_and_torch(dtype):
    made = dropin.zeros((3, 5), dtype)
    assert made.data_ptr() % 64 == 0
    a, b, c = numpy.asarray(made), numpy.from_dlpack(made), torch.from_dlpack(made)
    c[1, 2] = 1
    assert a[1, 2] == 1 and b[1, 2] == 1 and a.sum() == 1 and str(a.dtype) == dtype
    assert a.ctypes.data == b.ctypes.data == c.data_ptr() == made.data_ptr()


def test_empty_and_scalar():
    assert numpy.from_dlpack(dropin.zeros((0, 3))).shape == (0, 3)
    assert torch.from_dlpack(dropin.zeros(())).shape == ()


def test_the_producer_lives_as_long_as_the_view():
    x = numpy.arange(1000.0)
    told = weakref.ref(x)
    view = dropin.from_dlpack(x)
    del x
    again = torch.from_dlpack(view)
    del view
    gc.collect()
    assert told() is not None and torch.equal(again, torch.arange(1000.0, dtype=torch.float64))
    del again
    gc.collect()
    assert told() is None


def test_ours_lives_as_long_as_its_readers():
    made = dropin.zeros((1000,))
    told = weakref.ref(made)
    readers = [numpy.from_dlpack(made), torch.from_dlpack(made), torch.from_dlpack(Old(made))]
    assert len(_dlpack._lent) == 3
    del made
    gc.collect()
    while readers:
        assert told() is not None
        assert (numpy.asarray(readers.pop()) == 0).all()
        gc.collect()
    assert told() is None and not _dlpack._lent


def test_a_capsule_that_nobody_takes_is_let_go():
    made = dropin.zeros((3,))
    for version in (None, (1, 0)):
        capsule = made.__dlpack__(max_version=version)
        assert len(_dlpack._lent) == 1
        del capsule
        assert not _dlpack._lent


def test_read_only():
    x = numpy.arange(3.0)
    x.flags.writeable = False
    view = dropin.from_dlpack(x)
    assert view.readonly and not numpy.asarray(view).flags.writeable and not numpy.from_dlpack(view).flags.writeable
    with pytest.raises(dropin.DropinError, match="read-only"):
        dropin.from_dlpack(x, writable=True)
    with pytest.raises(BufferError, match="read-only"):
        view.__dlpack__()


def test_what_cannot_be_is_named():
    with pytest.raises(TypeError, match="list has no __dlpack__"):
        dropin.from_dlpack([1.0])
    with pytest.raises(dropin.DropinError, match="code=5"):
        dropin.from_dlpack(numpy.zeros(3, numpy.complex64))
    with pytest.raises(TypeError, match="dtype complex64; must be one of float32"):
        dropin.zeros((3,), "complex64")
    with pytest.raises(BufferError, match="must be the CPU"):
        dropin.zeros((3,)).__dlpack__(dl_device=(2, 0))
    with pytest.raises(BufferError, match="copy=True"):
        dropin.zeros((3,)).__dlpack__(copy=True)
    with pytest.raises(AttributeError, match="numpy has no bfloat16"):
        dropin.zeros((3,), "bfloat16").__array_interface__

    class Used:
        def __dlpack_device__(self):
            return (1, 0)

        def __dlpack__(self, **_):
            capsule = numpy.zeros(3).__dlpack__()
            torch.utils.dlpack.from_dlpack(capsule)
            return capsule

    with pytest.raises(TypeError, match="no unused"):
        dropin.from_dlpack(Used())

    class Far:
        def __dlpack_device__(self):
            return (2, 0)

        __dlpack__ = None

    with pytest.raises(BufferError, match=r"device \(2, 0\); must be the CPU"):
        dropin.from_dlpack(Far())


def test_attention_takes_whatever_speaks_dlpack():
    q, k, v, out = (numpy.random.randn(2, 5, 3, 8) for _ in range(4))
    part = dropin.Attention("sigmoid")
    want = part.forward(q, k, v, out.copy())
    got = dropin.zeros((2, 5, 3, 8), "float64")
    assert part.forward(Old(q), dropin.from_dlpack(k), torch.from_numpy(v), got) is got
    assert numpy.array_equal(numpy.asarray(got), want)
    d_q, d_k, d_v = (dropin.zeros((2, 5, 3, 8), "float64") for _ in range(3))
    part.backward(q, k, v, want, Old(want), d_q, Old(d_k), d_v)
    rights = [numpy.empty_like(q) for _ in range(3)]
    part.backward(q, k, v, want, want, *rights)
    assert all(map(numpy.array_equal, map(numpy.asarray, (d_q, d_k, d_v)), rights))


def test_readers_that_outlive_everything():
    """At the end of the process modules vanish in an order of their own."""
    script = """if True:
        import sys, dropin, numpy, torch
        sys.kept = [numpy.from_dlpack(dropin.zeros((9,))), torch.from_dlpack(dropin.zeros((9,))), dropin.zeros((9,)).__dlpack__(),
                    dropin.from_dlpack(torch.zeros(9)), dropin.from_dlpack(numpy.zeros(9))]
        class Last:
            def __init__(self): self.me, self.kept = self, list(sys.kept)
        last = Last()
    """
    assert subprocess.run([sys.executable, "-X", "faulthandler", "-c", script]).returncode == 0
