# SPDX-License-Identifier: Apache-2.0
"""dropin.torch's attention functions: equal to PyTorch's own in values and gradients, whatever the layout, mask or dtype."""
import itertools
import math

import dropin
import dropin.torch as dt
import pytest
import torch
import torch.nn.functional as F

KINDS = ["softmax", "sigmoid"]
FUNCTION = {"softmax": dt.softmax_attention, "sigmoid": dt.sigmoid_attention}
TOLERANCE = {torch.float32: 2e-5, torch.float64: 1e-11, torch.bfloat16: 3e-2}


def tensors(batch, q, k, heads, kv_heads, dim, dim_v=None, dtype=torch.float64, grad=True):
    shapes = ((batch, heads, q, dim), (batch, kv_heads, k, dim), (batch, kv_heads, k, dim_v or dim))
    return [torch.randn(shape, dtype=dtype).requires_grad_(grad) for shape in shapes]


def eager(kind, q, k, v, keep=None, added=0.0, bias=None, scale=None):
    """The definition, in the dtype of q: keep and added broadcast to the logits."""
    groups = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    x = q @ k.transpose(2, 3) * (q.shape[3] ** -0.5 if scale is None else scale) + added
    if kind == "sigmoid":
        x = x + (-math.log(max(k.shape[2], 1)) if bias is None else bias)
    if keep is not None:
        x = x.masked_fill(~keep, -math.inf)
    p = torch.sigmoid(x) if kind == "sigmoid" else torch.nan_to_num(torch.softmax(x, 3))
    return p @ v


def equal(got, want, dtype, label=""):
    size = max(1.0, want.abs().max().item()) if want.numel() else 1.0
    assert got.shape == want.shape, label
    error = (got.double() - want.double()).abs().max().item() if got.numel() else 0.0
    assert error <= TOLERANCE[dtype] * size, f"{label}: {error:.3g} of {size:.3g}"


def compare(kind, inputs, want, leaves=None, dtype=torch.float64, **keywords):
    """Values and gradients of every leaf."""
    leaves = inputs if leaves is None else leaves
    out = FUNCTION[kind](*inputs, **keywords)
    assert out.dtype == inputs[0].dtype
    equal(out, want, dtype, "out")
    grad = torch.randn(want.shape, dtype=torch.float64)
    got = torch.autograd.grad(out, leaves, grad.to(out.dtype))
    right = torch.autograd.grad(want, leaves, grad.to(want.dtype))
    for number, (a, b) in enumerate(zip(got, right)):
        assert a.dtype == leaves[number].dtype
        equal(a, b, dtype, f"gradient {number}")


def causal(q, k, bottom_right=False):
    return torch.ones(q, k, dtype=torch.bool).tril(k - q if bottom_right else 0)


class TestAgainstTorch:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
    @pytest.mark.parametrize("lengths", [(33, 33), (17, 40), (40, 17), (1, 9)], ids=str)
    @pytest.mark.parametrize("is_causal", [False, True])
    def test_scaled_dot_product_attention(self, lengths, is_causal, dtype):
        inputs = tensors(2, *lengths, 4, 4, 16, dtype=dtype)
        want = F.scaled_dot_product_attention(*inputs, is_causal=is_causal)
        compare("softmax", inputs, want, dtype=dtype, is_causal=is_causal)

    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("bottom_right", [False, True])
    @pytest.mark.parametrize("lengths", [(23, 23), (12, 31), (31, 12)], ids=str)
    def test_alignment(self, kind, lengths, bottom_right):
        inputs = tensors(2, *lengths, 2, 2, 8)
        keep = causal(*lengths, bottom_right)
        compare(kind, inputs, eager(kind, *inputs, keep=keep), is_causal=True, bottom_right=bottom_right)

    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("bottom_right", [False, True])
    def test_window(self, kind, bottom_right):
        inputs = tensors(1, 20, 29, 2, 1, 8)
        i, j = torch.arange(20)[:, None] + (9 if bottom_right else 0), torch.arange(29)[None, :]
        keep = (j >= i - 5) & (j <= i + 3)
        compare(kind, inputs, eager(kind, *inputs, keep=keep), window=(5, 3), bottom_right=bottom_right, enable_gqa=True)
        compare(kind, inputs, eager(kind, *inputs, keep=keep & (j <= i)), window=(5, -1), bottom_right=bottom_right, is_causal=True)

    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("shape", [(1, 1, 1, 19), (2, 1, 13, 19), (2, 4, 13, 19), (13, 19), (13, 1), (1, 4, 13, 1), (19,), ()], ids=str)
    @pytest.mark.parametrize("boolean", [True, False])
    def test_masks_broadcast(self, kind, shape, boolean):
        inputs = tensors(2, 13, 19, 4, 2, 8)
        mask = torch.rand(shape) > 0.3 if boolean else torch.randn(shape, dtype=torch.float64)
        keep, added = (mask, 0.0) if boolean else (None, mask)
        compare(kind, inputs, eager(kind, *inputs, keep=keep, added=added), attn_mask=mask, enable_gqa=True)

    @pytest.mark.parametrize("kind", KINDS)
    def test_masks_that_are_views(self, kind):
        inputs = tensors(2, 13, 19, 4, 4, 8)
        whole = torch.rand(2, 1, 19, 13) > 0.5
        mask = whole.transpose(2, 3)
        compare(kind, inputs, eager(kind, *inputs, keep=mask), attn_mask=mask)
        mask = (torch.rand(2, 4, 26, 38) > 0.5)[:, :, ::2, ::2]
        compare(kind, inputs, eager(kind, *inputs, keep=mask), attn_mask=mask)

    @pytest.mark.parametrize("kind", KINDS)
    def test_a_mask_beside_is_causal(self, kind):
        inputs, mask = tensors(1, 9, 9, 2, 2, 8), torch.rand(9, 9) > 0.5
        compare(kind, inputs, eager(kind, *inputs, keep=mask & causal(9, 9)), attn_mask=mask, is_causal=True)

    def test_rows_that_keep_nothing_are_zero(self):
        q, k, v = tensors(1, 4, 5, 1, 1, 8)
        mask = torch.ones(4, 5, dtype=torch.bool)
        mask[2] = False
        for kind in KINDS:
            out = FUNCTION[kind](q, k, v, mask)
            assert torch.all(out[0, 0, 2] == 0)
            (dq,) = torch.autograd.grad(out.sum(), q)
            assert torch.all(dq[0, 0, 2] == 0) and torch.isfinite(dq).all()

    @pytest.mark.parametrize("kind", KINDS)
    def test_scale(self, kind):
        inputs = tensors(2, 7, 9, 3, 3, 8)
        compare(kind, inputs, eager(kind, *inputs, scale=0.3), scale=0.3)
        compare(kind, inputs, eager(kind, *inputs, scale=0.0), scale=0.0)

    def test_grouped_heads_as_torch_has_them(self):
        inputs = tensors(2, 11, 13, 6, 2, 8)
        compare("softmax", inputs, F.scaled_dot_product_attention(*inputs, enable_gqa=True), enable_gqa=True)
        one = tensors(2, 11, 13, 6, 1, 8)
        compare("softmax", one, F.scaled_dot_product_attention(*one))

    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("shapes", [
        [(5, 8), (7, 8), (7, 4)], [(3, 5, 8), (3, 7, 8), (3, 7, 4)], [(2, 2, 3, 5, 8), (2, 2, 3, 7, 8), (2, 2, 3, 7, 4)],
        [(2, 1, 3, 5, 8), (1, 2, 3, 7, 8), (2, 2, 3, 7, 4)], [(2, 3, 5, 8), (1, 3, 7, 8), (1, 3, 7, 4)],
        [(2, 3, 0, 8), (2, 3, 7, 8), (2, 3, 7, 4)], [(2, 3, 5, 8), (2, 3, 0, 8), (2, 3, 0, 4)], [(0, 3, 5, 8), (0, 3, 7, 8), (0, 3, 7, 4)],
    ], ids=str)
    def test_other_ranks(self, kind, shapes):
        inputs = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
        q, k, v = inputs
        x = q @ k.transpose(-1, -2) * 8**-0.5
        p = torch.softmax(x, -1) if kind == "softmax" else torch.sigmoid(x - math.log(max(k.shape[-2], 1)))
        compare(kind, inputs, p @ v)

    def test_five_dimensions_with_a_mask(self):
        inputs = [torch.randn(2, 3, 4, 5, 8, dtype=torch.float64, requires_grad=True) for _ in range(3)]
        for shape in [(2, 3, 4, 5, 5), (2, 3, 1, 5, 5), (2, 1, 1, 5, 5), (1, 1, 5, 5), (5, 5)]:
            mask = torch.randn(shape, dtype=torch.float64)
            compare("softmax", inputs, F.scaled_dot_product_attention(*inputs, attn_mask=mask), attn_mask=mask)


class TestLayouts:
    """What a caller's tensors may look like in memory."""

    def base(self):
        return torch.randn(2, 14, 4, 24, dtype=torch.float64, requires_grad=True)

    VIEWS = {
        "transposed": lambda x: x.transpose(1, 2)[..., :8],
        "packed": lambda x: x[..., 8:16].transpose(1, 2),
        "stepped": lambda x: x.transpose(1, 2)[..., ::3],
        "every other row": lambda x: x[:, ::2].transpose(1, 2)[..., :8],
        "head expanded": lambda x: x[:, :, :1, :8].expand(-1, -1, 4, -1).transpose(1, 2),
        "batch expanded": lambda x: x[:1, :, :, :8].expand(2, -1, -1, -1).transpose(1, 2),
        "last expanded": lambda x: x[..., :1].expand(-1, -1, -1, 8).transpose(1, 2),
        "turned": lambda x: x[..., :8].transpose(1, 2).transpose(2, 3).contiguous().transpose(2, 3),
    }

    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("name", VIEWS)
    def test_views(self, kind, name):
        leaves = [self.base() for _ in range(3)]
        inputs = [self.VIEWS[name](x) for x in leaves]
        compare(kind, inputs, eager(kind, *inputs), leaves=leaves)

    @pytest.mark.parametrize("kind", KINDS)
    def test_gradients_that_are_expanded_or_strided(self, kind):
        inputs = tensors(2, 5, 6, 3, 3, 8)
        got = torch.autograd.grad(FUNCTION[kind](*inputs).sum(), inputs)
        want = torch.autograd.grad(eager(kind, *inputs).sum(), inputs)
        for a, b in zip(got, want):
            equal(a, b, torch.float64)
        got = torch.autograd.grad(FUNCTION[kind](*inputs)[..., ::2].exp().sum(), inputs)
        want = torch.autograd.grad(eager(kind, *inputs)[..., ::2].exp().sum(), inputs)
        for a, b in zip(got, want):
            equal(a, b, torch.float64)

    def test_no_copy_where_the_last_dimension_is_contiguous(self, monkeypatch):
        from dropin.torch import _operator
        called = []
        monkeypatch.setattr(_operator, "rows_ready", lambda x: called.append(x) or x.contiguous())
        packed = torch.randn(2, 9, 4, 24).transpose(1, 2)
        dt.softmax_attention(packed[..., :8], packed[..., 8:16], packed[..., 16:])
        assert not called
        dt.softmax_attention(packed[..., ::3], packed[..., 8:16], packed[..., 16:])
        assert called

    def test_the_result_lies_as_a_projection_wants_it(self):
        out = dt.softmax_attention(*tensors(2, 5, 6, 3, 3, 8, grad=False))
        assert out.transpose(1, 2).is_contiguous()

    def test_some_gradients_alone(self):
        for kind in KINDS:
            inputs = tensors(2, 5, 6, 3, 3, 8)
            for wanted in itertools.product([False, True], repeat=3):
                given = [x.detach().requires_grad_(w) for x, w in zip(inputs, wanted)]
                out = FUNCTION[kind](*given)
                assert out.requires_grad == any(wanted)
                if any(wanted):
                    out.sum().backward()
                for x, w in zip(given, wanted):
                    assert (x.grad is not None) == w
                    if w:
                        place = [y is x for y in given].index(True)
                        (want,) = torch.autograd.grad(eager(kind, *inputs).sum(), inputs[place])
                        equal(x.grad, want, torch.float64)


@pytest.mark.parametrize("kind", KINDS)
class TestDtypes:
    def test_bfloat16_is_storage(self, kind):
        inputs = tensors(2, 33, 40, 4, 2, 16, dtype=torch.bfloat16)
        wide = [x.detach().double().requires_grad_() for x in inputs]
        out, want = FUNCTION[kind](*inputs, enable_gqa=True), eager(kind, *wide)
        assert out.dtype == torch.bfloat16
        equal(out, want, torch.bfloat16)
        grad = torch.randn_like(out)
        for got, right in zip(torch.autograd.grad(out, inputs, grad), torch.autograd.grad(want, wide, grad.double())):
            assert got.dtype == torch.bfloat16
            equal(got, right, torch.bfloat16)

    def test_bfloat16_rounds_the_result_alone(self, kind):
        inputs = tensors(1, 9, 12, 2, 2, 16, dtype=torch.bfloat16, grad=False)
        assert torch.equal(FUNCTION[kind](*inputs), FUNCTION[kind](*(x.float() for x in inputs)).bfloat16())

    def test_others_are_named(self, kind):
        q, k, v = tensors(1, 3, 3, 1, 1, 8, dtype=torch.float32, grad=False)
        with pytest.raises(TypeError, match="query has dtype torch.float16; must be float32, float64 or bfloat16"):
            FUNCTION[kind](q.half(), k.half(), v.half())
        with pytest.raises(TypeError, match="query is torch.float32, key torch.float64, value torch.float32; must be one dtype"):
            FUNCTION[kind](q, k.double(), v)


@pytest.mark.parametrize("kind", KINDS)
class TestMore:
    """What torch's function does not have."""

    def test_lengths(self, kind):
        inputs = tensors(3, 7, 9, 2, 2, 8)
        q_lengths, k_lengths = torch.tensor([7, 3, 0]), torch.tensor([9, 4, 2])
        keep = (torch.arange(7)[None, :, None] < q_lengths[:, None, None]) & (torch.arange(9)[None, None, :] < k_lengths[:, None, None])
        bias = -k_lengths.double().log()[:, None, None, None]
        want = eager(kind, *inputs, keep=keep[:, None], bias=bias)
        compare(kind, inputs, want, query_lengths=q_lengths, key_lengths=k_lengths)

    def test_packed(self, kind):
        cu_q, cu_k = torch.tensor([0, 4, 4, 11]), torch.tensor([0, 3, 5, 12])
        q, k, v = (torch.randn(n, 2, 8, dtype=torch.float64, requires_grad=True) for n in (11, 12, 12))
        whole = []
        for a, b, c, d in zip(cu_q[:-1], cu_q[1:], cu_k[:-1], cu_k[1:]):
            one = [x.transpose(0, 1)[None] for x in (q[a:b], k[c:d], v[c:d])]
            whole.append(eager(kind, *one, keep=causal(b - a, d - c, True))[0].transpose(0, 1))
        compare(kind, [q, k, v], torch.cat(whole), cu_q=cu_q, cu_k=cu_k, is_causal=True, bottom_right=True)

    @pytest.mark.parametrize("per_batch", [False, True])
    def test_slopes_and_key_bias_are_trained(self, kind, per_batch):
        inputs = tensors(3, 7, 9, 2, 1, 8)
        slopes = torch.rand((3, 2) if per_batch else (2,), dtype=torch.float64, requires_grad=True)
        bias = torch.randn((3, 9) if per_batch else (9,), dtype=torch.float64, requires_grad=True)
        distance = (torch.arange(7)[:, None] - torch.arange(9)[None, :]).abs()
        added = -slopes.view(-1, 2, 1, 1) * distance + bias.view(-1, 1, 1, 9)
        compare(kind, inputs, eager(kind, *inputs, added=added), [*inputs, slopes, bias], slopes=slopes, key_bias=bias, enable_gqa=True)

    def test_scale_as_a_tensor(self, kind):
        inputs, scale = tensors(2, 7, 9, 2, 2, 8), torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
        compare(kind, inputs, eager(kind, *inputs, scale=scale), [*inputs, scale], scale=scale)

    def test_alibi(self, kind):
        inputs = tensors(2, 7, 9, 4, 4, 8)
        slopes = torch.tensor([2.0 ** -2, 2.0 ** -4, 2.0 ** -6, 2.0 ** -8], dtype=torch.float64)
        distance = (torch.arange(7)[:, None] - torch.arange(9)[None, :]).abs()
        compare(kind, inputs, eager(kind, *inputs, added=-slopes[:, None, None] * distance), alibi=True)

    def test_dropout_follows_torch_s_generator(self, kind):
        q, k, v = tensors(2, 30, 30, 2, 2, 8)
        draw = lambda seed: torch.manual_seed(seed) and FUNCTION[kind](q, k, v, dropout_p=0.4)  # noqa: E731
        a, b, other = draw(3), draw(3), draw(4)
        assert torch.equal(a, b) and not torch.equal(a, other)
        assert not torch.equal(a, FUNCTION[kind](q, k, v))
        many = torch.stack([FUNCTION[kind](q, k, v, dropout_p=0.4).detach() for _ in range(400)])
        want = FUNCTION[kind](q, k, v).detach()
        assert ((many.mean(0) - want).abs() <= 6 * many.std(0) / 20 + 1e-9).all()

    def test_dropout_s_gradient_is_that_of_its_mask(self, kind):
        q, k, v = tensors(1, 6, 6, 1, 1, 4)
        def run(*inputs):
            torch.manual_seed(5)
            return FUNCTION[kind](*inputs, dropout_p=0.5)
        assert torch.autograd.gradcheck(run, (q, k, v))


@pytest.mark.parametrize("count,form", [((), "scalar"), (1, "scalar"), (4, "head"), (9, "key"), (12, "key")], ids=str)
def test_bias_as_a_tensor(count, form):
    inputs = tensors(2, 7, 9, 4, 2, 8)
    bias = torch.randn(count, dtype=torch.float64, requires_grad=True)
    shape = {"scalar": lambda: bias.reshape(()), "head": lambda: bias.reshape(-1, 1, 1), "key": lambda: bias[:9]}[form]
    compare("sigmoid", inputs, eager("sigmoid", *inputs, bias=shape()), [*inputs, bias], bias=bias, enable_gqa=True)
    compare("sigmoid", inputs, eager("sigmoid", *inputs, bias=shape()), [*inputs, bias], bias=bias, form=form, enable_gqa=True)


def test_zero_and_infinity_are_values():
    inputs = tensors(1, 4, 5, 1, 1, 8)
    compare("sigmoid", inputs, eager("sigmoid", *inputs, bias=0.0), bias=0.0)
    assert torch.all(dt.sigmoid_attention(*inputs, bias=-math.inf) == 0)


class TestErrors:
    """Each names the argument, its value and the rule."""

    def refused(self, error, match, *inputs, kind="softmax", **keywords):
        with pytest.raises(error, match=match):
            FUNCTION[kind](*inputs, **keywords)

    def test_shapes(self):
        q, k, v = tensors(2, 5, 6, 4, 2, 8, grad=False)
        self.refused(ValueError, r"query \[2, 4, 5, 8\] and key \[2, 2, 6, 8\] disagree in the heads; enable_gqa=True", q, k, v)
        self.refused(ValueError, r"query \[2, 4, 5, 7\] and key \[2, 2, 6, 8\] disagree in the last", q[..., :7], k, v, enable_gqa=True)
        self.refused(ValueError, r"key \[2, 2, 6, 8\] and value \[2, 2, 5, 8\] disagree", q, k, v[:, :, :5], enable_gqa=True)
        self.refused(ValueError, r"query \[2, 4, 5, 8\], key \[3, .*disagree in front", q, torch.cat([k, k[:1]]), v, enable_gqa=True)
        self.refused(ValueError, r"query has shape \[8\]; must be \[batch, heads", q[0, 0, 0], k, v)
        self.refused(dropin.DropinError, "heads=4 is not a multiple of kv_heads=3", q, *tensors(2, 6, 6, 3, 3, 8, grad=False)[:2],
                     enable_gqa=True)

    def test_extras(self):
        q, k, v = tensors(2, 5, 6, 4, 4, 8)
        self.refused(ValueError, r"attn_mask has shape \[4, 6\]; must be broadcastable to \[2, 4, 5, 6\]", q, k, v, torch.ones(4, 6))
        self.refused(TypeError, "attn_mask has dtype torch.int64", q, k, v, torch.ones(5, 6, dtype=torch.int64))
        self.refused(ValueError, "attn_mask wants a gradient", q, k, v, torch.ones(5, 6, requires_grad=True))
        self.refused(ValueError, r"key_lengths has shape \[3\]; must be \[batch\]=\[2\]", q, k, v, key_lengths=torch.ones(3))
        self.refused(dropin.DropinError, r"k_lengths\[1\]=9; must be 0..6", q, k, v, key_lengths=torch.tensor([1, 9]))
        self.refused(ValueError, r"slopes has shape \[3\]; must be \[heads\]=\[4\]", q, k, v, slopes=torch.ones(3))
        self.refused(ValueError, r"key_bias has shape \[5\]; must be \[keys\]=\[6\]", q, k, v, key_bias=torch.ones(5))
        self.refused(ValueError, r"bias has shape \[5\]; must be at least \[6\]", q, k, v, kind="sigmoid", bias=torch.ones(5))
        self.refused(ValueError, r"window=\(-2, 0\); must be -1", q, k, v, window=(-2, 0))

    def test_packed(self):
        q, k, v = (torch.randn(6, 2, 8) for _ in range(3))
        cu = torch.tensor([0, 6])
        self.refused(ValueError, r"cu_k=None; packed sequences need cu_q and cu_k", q, k, v, cu_q=cu)
        self.refused(ValueError, r"cu_q\[-1\]=5; must be the number of rows, 6", q, k, v, cu_q=torch.tensor([0, 5]), cu_k=cu)
        self.refused(dropin.DropinError, r"cu_q\[1\]=-3 is below", q, k, v, cu_q=torch.tensor([0, -3, 6]), cu_k=torch.tensor([0, 3, 6]))
        self.refused(ValueError, r"query has shape \[1, 2, 6, 8\]; must be \[total, heads, dim\]", q.transpose(0, 1)[None], k, v, cu_q=cu,
                     cu_k=cu)

    def test_options(self):
        q, k, v = tensors(2, 5, 6, 4, 4, 8)
        self.refused(TypeError, r"sigmoid_attention\(\) got an unexpected keyword argument 'bais'; did you mean \"bias\"", q, k, v,
                     kind="sigmoid", bais=1)
        self.refused(TypeError, "'iscausal'; did you mean \"is_causal\"", q, k, v, iscausal=True)
        self.refused(TypeError, "unexpected keyword argument 'bias'", q, k, v, bias=1.0)
        self.refused(dropin.DropinError, "dropout=1", q, k, v, dropout_p=1.0)
        self.refused(dropin.DropinError, "bias=nan", q, k, v, kind="sigmoid", bias=math.nan)
        self.refused(dropin.DropinError, "form=heads.*did you mean \"head\"", q, k, v, kind="sigmoid", form="heads")
        self.refused(ValueError, "form='head' without bias as a tensor", q, k, v, kind="sigmoid", form="head")

    def test_what_is_no_tensor(self):
        q, k, v = tensors(2, 5, 6, 4, 4, 8, grad=False)
        self.refused(TypeError, "query is a ndarray; must be a torch.Tensor", q.numpy(), k, v)
