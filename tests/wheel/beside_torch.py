# SPDX-License-Identifier: Apache-2.0
"""beside_torch.py torch|dropin|PATH: imports dropin after torch, before it, or after the OpenMP runtime at PATH (GCC's under
another file name and soname, as some wheels carry it): one runtime in the process, and both compute."""
import ctypes
import sys

first = sys.argv[1]
if first == "torch":
    import torch

    torch.mm(torch.ones(64, 64), torch.ones(64, 64))
elif first != "dropin":
    ctypes.CDLL(first)
import dropin
from dropin import _openmp

if first in ("torch", "dropin"):
    assert ("torch" in sys.modules) == (first == "torch"), "import dropin imports torch"
    import torch

    q = torch.randn(2, 130, 2, 32)
    out = torch.empty_like(q)
    dropin.Attention("softmax").forward(q, q, q, out, threads=2)
    swapped = q.transpose(1, 2)
    expected = torch.nn.functional.scaled_dot_product_attention(swapped, swapped, swapped).transpose(1, 2)
    assert (out - expected).abs().max() < 1e-5
    assert (dropin.torch.softmax_attention(swapped, swapped, swapped).transpose(1, 2) - expected).abs().max() < 1e-5
    layer = torch.nn.Linear(100, 100)
    before = layer.weight.detach().clone()
    optimizer = dropin.torch.AdamW8bit(layer.parameters(), lr=0.01)
    layer(torch.ones(3, 100)).sum().backward()
    optimizer.step()
    assert (layer.weight - before).abs().max() > 0.005
    assert torch.mm(torch.ones(300, 300), torch.ones(300, 300)).sum() == 300**3
    assert "torch" in _openmp.mapped()[0], _openmp.mapped()
else:
    import numpy

    q = numpy.ones((2, 130, 2, 32), "float32")
    assert (dropin.Attention("softmax").forward(q, q, q, numpy.zeros_like(q), threads=2) == 1).all()
    assert _openmp.mapped() == [first], _openmp.mapped()
assert len(_openmp.mapped()) == 1, _openmp.mapped()
print(f"{first} first: one OpenMP runtime, {_openmp.mapped()[0]}")
