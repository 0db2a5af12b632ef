# SPDX-License-Identifier: Apache-2.0
"""Softmax against F.scaled_dot_product_attention, sigmoid against its eager form; values and every gradient, float and double."""
import dropin
import pytest
import torch
import torch.nn.functional as F

TOLERANCE = {torch.float32: 2e-5, torch.float64: 1e-11}
SHAPES = [  # batch, q_length, k_length, heads, kv_heads, dim, dim_v
    (2, 33, 33, 4, 4, 16, 16),
    (1, 130, 257, 2, 2, 64, 64),
    (2, 65, 65, 9, 3, 72, 40),
    (1, 1, 300, 8, 1, 59, 59),
    (1, 257, 100, 2, 1, 128, 128),
]


def inputs(shape, dtype):
    batch, q_length, k_length, heads, kv_heads, dim, dim_v = shape
    make = lambda *size: torch.randn(*size, dtype=dtype)  # noqa: E731
    return (make(batch, q_length, heads, dim), make(batch, k_length, kv_heads, dim), make(batch, k_length, kv_heads, dim_v),
            make(batch, q_length, heads, dim_v))


def keep_mask(shape, causal, left):
    """The (causal, window) mask aligned bottom-right."""
    q_length, k_length = shape[1:3]
    middle = torch.arange(q_length)[:, None] + (k_length - q_length)
    key = torch.arange(k_length)[None, :]
    keep = torch.ones(q_length, k_length, dtype=torch.bool)
    if causal:
        keep &= key <= middle
    if left >= 0:
        keep &= key >= middle - left
    return keep


def logits(q, k, bias, keep, extra):
    groups = q.shape[2] // k.shape[2]
    k = k.repeat_interleave(groups, 2)
    x = torch.einsum("bihd,bjhd->bhij", q, k) * q.shape[3] ** -0.5 + bias
    if extra is not None:
        x = x + extra
    return x.masked_fill(~keep, float("-inf"))


def reference(kind, q, k, v, bias, keep, extra):
    groups = q.shape[2] // k.shape[2]
    wide = lambda x: x.repeat_interleave(groups, 2).transpose(1, 2)  # noqa: E731
    if kind == "softmax":
        mask = torch.zeros(keep.shape, dtype=q.dtype).masked_fill(~keep, float("-inf"))
        mask = mask + extra if extra is not None else mask
        out = F.scaled_dot_product_attention(q.transpose(1, 2), wide(k), wide(v), attn_mask=mask)
        out = out * keep.any(1)[:, None]  # torch leaves NaN or a mean in empty rows; ours are 0 by contract
        return torch.nan_to_num(out).transpose(1, 2)
    p = torch.sigmoid(logits(q, k, bias, keep, extra))
    return (p @ wide(v)).transpose(1, 2)


def compare(text, shape, dtype, causal=False, left=-1, dense=False):
    kind = text.partition(":")[0]
    q, k, v, d_out = inputs(shape, dtype)
    part = dropin.Attention(text)
    keep = keep_mask(shape, causal, left)
    extra = torch.randn(shape[0], shape[3], shape[1], shape[2], dtype=dtype) if dense else None
    bias = -torch.log(torch.tensor(float(shape[2]), dtype=torch.float64)).item()
    keywords = dict(causal=causal, left=left, mask=extra)
    out = part.forward(q, k, v, torch.full(d_out.shape, float("nan"), dtype=dtype), **keywords)
    grads = [torch.full_like(x, float("nan")) for x in (q, k, v)]
    part.backward(q, k, v, out, d_out, *grads, **keywords)
    if kind == "softmax" and not keep.any(1).all():  # gradients of torch's empty rows are NaN: take the kept rows alone
        rows = keep.any(1)
        q, d_out, keep, out = q[:, rows], d_out[:, rows], keep[rows], out[:, rows]
        extra = extra[:, :, rows] if dense else None
        assert torch.all(grads[0][:, ~rows] == 0)
        grads[0] = grads[0][:, rows]
    wide = [x.double().requires_grad_() for x in (q, k, v)]
    want = reference(kind, *wide, bias, keep, extra.double() if dense else None)
    expected = torch.autograd.grad(want, wide, d_out.double())
    for name, got, right in zip(("out", "dq", "dk", "dv"), (out, *grads), (want, *expected)):
        error = (got.double() - right).abs().max().item()
        size = max(1.0, right.abs().max().item())
        assert error <= TOLERANCE[dtype] * size, f"{text} {shape} {name}: {error:.3g} of {size:.3g}"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["f32", "f64"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("text", ["softmax", "sigmoid"])
class TestAgainstTorch:
    def test_full(self, text, shape, dtype):
        compare(text, shape, dtype)

    def test_causal(self, text, shape, dtype):
        compare(text, shape, dtype, causal=True)

    def test_window(self, text, shape, dtype):
        compare(text, shape, dtype, causal=True, left=19)

    def test_additive_mask(self, text, shape, dtype):
        compare(text, shape, dtype, dense=True)


def test_packed_projection_is_read_in_place():
    qkv = torch.randn(2, 50, 3, 4, 32)
    q, k, v = qkv.unbind(2)
    out = dropin.Attention("softmax").forward(q, k, v, torch.empty(2, 50, 4, 32), causal=True)
    want = F.scaled_dot_product_attention(*(x.transpose(1, 2) for x in (q, k, v)), is_causal=True).transpose(1, 2)
    assert torch.allclose(out, want, atol=2e-6)


def test_alibi_has_its_full_value():
    """Sigmoid is not invariant to translation: the row-constant part of ALiBi counts."""
    q, k, v, _ = inputs((1, 20, 20, 4, 4, 16, 16), torch.float64)
    slopes = torch.tensor([0.5, 0.25, 0.125, 0.0625], dtype=torch.float64)
    out = dropin.Attention("sigmoid:bias=-1").forward(q, k, v, torch.empty_like(q), slopes=slopes)
    distance = (torch.arange(20)[:, None] - torch.arange(20)[None, :]).abs()
    want = reference("sigmoid", q, k, v, -1.0, torch.ones(20, 20, dtype=torch.bool), -slopes[:, None, None] * distance)
    assert (out - want).abs().max() < 1e-12


@pytest.mark.parametrize("text,message", [
    ("sigmoid:bais=0", 'did you mean "bias"'),
    ("sigmoid:bias=abc", "bias=abc"),
    ("sigmoid:bias=nan", "bias=nan"),
])
def test_bad_options_are_named(text, message):
    with pytest.raises(dropin.DropinError, match=message):
        dropin.Attention(text)


def test_bad_shapes_are_named():
    q, k, v, out = inputs((1, 5, 5, 4, 3, 8, 8), torch.float32)
    with pytest.raises(dropin.DropinError, match="heads=4 .* kv_heads=3"):
        dropin.Attention("softmax").forward(q, k, v, out)
    with pytest.raises(ValueError, match="last dimension"):
        dropin.Attention("softmax").forward(q.transpose(2, 3), k, v, out)
