# SPDX-License-Identifier: Apache-2.0
"""The operators under everything that torch does with operators: opcheck, gradcheck, compile, autocast, vmap, checkpointing, workers."""
import math
import threading

import dropin.torch as dt
import pytest
import torch
import torch.utils.checkpoint
from torch.profiler import profile

KINDS = ["softmax", "sigmoid"]
FUNCTION = {"softmax": dt.softmax_attention, "sigmoid": dt.sigmoid_attention}
FORWARD = {kind: getattr(torch.ops.dropin, f"{kind}_attention").default for kind in KINDS}


def tensors(batch=2, q=5, k=7, heads=4, kv_heads=2, dim=8, dtype=torch.float64, grad=True):
    return [torch.randn(shape, dtype=dtype).requires_grad_(grad)
            for shape in ((batch, heads, q, dim), (batch, kv_heads, k, dim), (batch, kv_heads, k, dim))]


def optional(**given):
    from dropin.torch._extras import NAMES
    return [given.get(name) for name in (*NAMES, "seed")]


def cases(kind):
    """(arguments of the operator) of every sort."""
    q, k, v = tensors()
    window = (-1, -1, True)
    yield q, k, v, "", True, *window
    yield *tensors(dtype=torch.float32), "", True, -1, 0, False
    yield *tensors(dtype=torch.bfloat16), "", True, *window
    yield *tensors(grad=False), "", False, *window
    yield q.transpose(2, 3).contiguous().transpose(2, 3), k, v, "", True, *window
    yield q, k, v, "", True, 2, 1, False, *optional(attn_mask=torch.rand(5, 7) > 0.3)
    yield q, k, v, "", True, *window, *optional(attn_mask=torch.randn(2, 1, 5, 7, dtype=torch.float64))
    yield q, k, v, "dropout=0.3", True, *window, *optional(seed=torch.tensor(7))
    yield q, k, v, "", True, *window, *optional(slopes=torch.rand(2, 4, dtype=torch.float64, requires_grad=True),
                                                key_bias=torch.randn(7, requires_grad=True))
    yield q, k, v, "train_scale=on", True, *window, *optional(parameter_2=torch.tensor(0.5, dtype=torch.float64, requires_grad=True))
    yield q, k, v, "", True, *window, *optional(query_lengths=torch.tensor([5, 2]), key_lengths=torch.tensor([1, 7]))
    packed = [torch.randn(9, heads, 8, dtype=torch.float64, requires_grad=True) for heads in (4, 2, 2)]
    cu = torch.tensor([0, 3, 9], dtype=torch.int32)
    yield *packed, "", True, -1, 0, True, *optional(cu_q=cu, cu_k=cu)
    if kind == "sigmoid":
        yield q, k, v, "train_bias=on,form=head", True, *window, *optional(parameter_0=torch.randn(4, requires_grad=True))


@pytest.mark.parametrize("kind", KINDS)
class TestOperator:
    def test_opcheck(self, kind):
        for case in cases(kind):
            torch.library.opcheck(FORWARD[kind], case)

    def test_opcheck_of_the_backward(self, kind):
        operator = getattr(torch.ops.dropin, f"{kind}_attention_backward").default
        for q, k, v, *rest in cases(kind):
            q, k, v = (x.detach() for x in (q, k, v))
            out, saved = FORWARD[kind](q, k, v, *rest)
            if rest[1]:
                torch.library.opcheck(operator, (torch.randn_like(out), q, k, v, out, saved, 5, *rest),
                                      test_utils=("test_schema", "test_faketensor", "test_autograd_registration"))

    def test_gradcheck(self, kind):
        q, k, v = tensors(q=4, k=5, heads=2, kv_heads=1, dim=3)
        slopes, bias = (torch.rand(n, dtype=torch.float64, requires_grad=True) for n in (2, 5))
        scale = torch.tensor(0.8, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(
            lambda *x: FUNCTION[kind](*x[:3], is_causal=True, slopes=x[3], key_bias=x[4], scale=x[5], enable_gqa=True),
            (q, k, v, slopes, bias, scale))

    def test_gradcheck_by_the_dispatcher(self, kind):
        q, k, v = tensors(q=4, k=5, heads=2, kv_heads=1, dim=3)
        assert torch.autograd.gradcheck(lambda *x: FORWARD[kind](*x, "", True, -1, 0, False)[0], (q, k, v))

    def test_the_short_way_gives_the_same_bits(self, kind):
        inputs = tensors(dtype=torch.float32)
        short = FUNCTION[kind](*inputs, is_causal=True, enable_gqa=True)
        operator = FORWARD[kind](*inputs, "", True, -1, 0, True)[0]
        assert torch.equal(short, operator)
        grad = torch.randn_like(short)
        for a, b in zip(torch.autograd.grad(short, inputs, grad), torch.autograd.grad(operator, inputs, grad)):
            assert torch.equal(a, b)

    def test_the_profiler_sees_it(self, kind):
        with profile() as seen:
            FUNCTION[kind](*tensors(grad=False), enable_gqa=True)
        assert f"dropin::{kind}_attention" in {event.key for event in seen.key_averages()}

    def test_second_derivatives_are_refused(self, kind):
        inputs = tensors()
        (dq,) = torch.autograd.grad(FUNCTION[kind](*inputs, enable_gqa=True).sum(), inputs[0], create_graph=True)
        with pytest.raises(NotImplementedError, match=f"second derivatives of {kind} attention are not offered"):
            dq.sum().backward()

    def test_vmap_is_refused(self, kind):
        inputs = tensors(grad=False)
        with pytest.raises(NotImplementedError, match="vmap .*is not offered; fold the mapped dimension into the batch"):
            torch.func.vmap(lambda q, k, v: FUNCTION[kind](q[None], k[None], v[None], enable_gqa=True))(*inputs)

    def test_func_grad(self, kind):
        q, k, v = tensors()
        loss = lambda q: FUNCTION[kind](q, k, v, enable_gqa=True).square().sum()  # noqa: E731
        (want,) = torch.autograd.grad(loss(q), q)
        assert torch.equal(torch.func.grad(loss)(q.detach()), want)

    def test_autocast(self, kind):
        inputs = tensors(dtype=torch.float32)
        wide = FUNCTION[kind](*inputs, enable_gqa=True)
        with torch.autocast("cpu", torch.bfloat16):
            out = FUNCTION[kind](*inputs, enable_gqa=True)
            assert FUNCTION[kind](*(x.double() for x in inputs), enable_gqa=True).dtype == torch.float64
            mixed = FUNCTION[kind](inputs[0].bfloat16(), *inputs[1:], enable_gqa=True)
        assert out.dtype == mixed.dtype == torch.bfloat16
        assert (out.float() - wide).abs().max() < 3e-2
        grads = torch.autograd.grad(out.float().sum(), inputs)
        for got, want in zip(grads, torch.autograd.grad(wide.sum(), inputs)):
            assert got.dtype == torch.float32 and (got - want).abs().max() < 6e-2

    def test_meta_tensors(self, kind):
        out = FUNCTION[kind](*(x.to("meta") for x in tensors()), enable_gqa=True)
        assert out.device.type == "meta" and out.shape == (2, 4, 5, 8)

    def test_inference_mode(self, kind):
        inputs = tensors(grad=False)
        with torch.inference_mode():
            assert torch.equal(FUNCTION[kind](*inputs, enable_gqa=True), FUNCTION[kind](*inputs, enable_gqa=True))

    def test_without_grad_nothing_is_recorded(self, kind):
        inputs = tensors()
        with torch.no_grad():
            assert not FUNCTION[kind](*inputs, enable_gqa=True).requires_grad

    def test_gradient_checkpointing(self, kind):
        inputs = tensors()
        run = lambda *x: FUNCTION[kind](*x, dropout_p=0.3, enable_gqa=True)  # noqa: E731
        grads = []
        for reentrant in (None, True, False):
            torch.manual_seed(1)
            out = run(*inputs) if reentrant is None else torch.utils.checkpoint.checkpoint(run, *inputs, use_reentrant=reentrant)
            torch.manual_seed(2)
            grads.append(torch.autograd.grad(out.sum(), inputs) if reentrant is not True else self.backward(out, inputs))
        for other in grads[1:]:
            assert all(torch.equal(a, b) for a, b in zip(grads[0], other))

    @staticmethod
    def backward(out, inputs):
        """Reentrant checkpointing goes by .backward() alone."""
        out.sum().backward()
        grads = [x.grad for x in inputs]
        for x in inputs:
            x.grad = None
        return grads

    def test_threads_of_python_do_not_share_scratch(self, kind):
        inputs = [tensors(q=40, k=40, dtype=torch.float32) for _ in range(4)]
        want = [torch.autograd.grad(FUNCTION[kind](*x, enable_gqa=True).sum(), x) for x in inputs]
        wrong = []

        def run(x, right):
            for _ in range(50):
                if not all(map(torch.equal, torch.autograd.grad(FUNCTION[kind](*x, enable_gqa=True).sum(), x), right)):
                    wrong.append(x)

        workers = [threading.Thread(target=run, args=pair) for pair in zip(inputs, want)]
        [worker.start() for worker in workers]
        [worker.join() for worker in workers]
        assert not wrong

    def test_threads_give_the_same_bits(self, kind):
        inputs = tensors(q=70, k=90, dtype=torch.float32)
        found = []
        for threads in (1, 2, 7):
            torch.set_num_threads(threads)
            out = FUNCTION[kind](*inputs, enable_gqa=True)
            found.append((out, *torch.autograd.grad(out.square().sum(), inputs)))
        assert all(torch.equal(a, b) for other in found[1:] for a, b in zip(found[0], other))

    def test_fake_saved_bytes_are_the_kernel_s(self, kind):
        from dropin.torch._kernel import Geometry
        from dropin.torch._operator import OPERATORS
        for dtype in (torch.float32, torch.float64):
            for sizes in ((1, 1, 1), (2, 3, 17), (5, 4, 33), (2, 2, 0)):
                q = torch.randn(sizes[0], sizes[1], sizes[2], 4, dtype=dtype)
                geometry = Geometry(q, q, q, False)
                part = OPERATORS[kind].part
                assert part.saved_bytes("", dtype, geometry) == part._saved("", dtype, *sizes)
                assert len(FORWARD[kind](q, q, q, "", True, -1, -1, True)[1]) == part.saved_bytes("", dtype, geometry)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@pytest.mark.parametrize("kind", KINDS)
class TestCompile:
    """fullgraph=True: one graph, no break."""

    @pytest.fixture(autouse=True)
    def fresh(self):
        torch._dynamo.reset()

    def same(self, function, inputs, backend, dynamic=None):
        compiled = torch.compile(function, backend=backend, fullgraph=True, dynamic=dynamic)
        torch.manual_seed(3)
        want = function(*inputs)
        torch.manual_seed(3)
        got = compiled(*inputs)
        assert torch.equal(got, want)
        leaves = [x for x in inputs if x.requires_grad]
        grad = torch.randn_like(want)
        for a, b in zip(torch.autograd.grad(got, leaves, grad), torch.autograd.grad(want, leaves, grad)):
            assert torch.allclose(a, b, rtol=1e-12, atol=1e-13)
        return compiled

    def test_plain(self, kind, backend):
        self.same(lambda q, k, v: FUNCTION[kind](q * 2, k, v, is_causal=True, enable_gqa=True).sin(), tensors(), backend)

    def test_everything(self, kind, backend):
        q, k, v = tensors()
        slopes = torch.rand(4, dtype=torch.float64, requires_grad=True)
        scale = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
        mask = torch.rand(2, 1, 5, 7) > 0.3
        self.same(lambda q, k, v, slopes, scale, mask: FUNCTION[kind](q, k, v, mask, slopes=slopes, scale=scale, window=(3, 3),
                                                                      enable_gqa=True), [q, k, v, slopes, scale, mask], backend)

    def test_options(self, kind, backend):
        options = {"bias": -1.5} if kind == "sigmoid" else {}
        self.same(lambda q, k, v: FUNCTION[kind](q, k, v, scale=0.25, enable_gqa=True, alibi=True, **options), tensors(), backend)

    def test_lengths(self, kind, backend):
        q, k, v = tensors()
        self.same(lambda q, k, v, n: FUNCTION[kind](q, k, v, key_lengths=n, enable_gqa=True), [q, k, v, torch.tensor([2, 7])], backend)

    def test_dropout_is_torch_s_own_random_state(self, kind, backend):
        compiled = self.same(lambda q, k, v: FUNCTION[kind](q, k, v, dropout_p=0.5, enable_gqa=True), tensors(), backend)
        inputs = tensors()
        assert not torch.equal(compiled(*inputs), compiled(*inputs))

    def test_other_ranks(self, kind, backend):
        inputs = [torch.randn(2, 3, 4, 5, 8, dtype=torch.float64, requires_grad=True) for _ in range(3)]
        self.same(FUNCTION[kind], inputs, backend)

    def test_lengths_of_the_graph_may_change(self, kind, backend):
        compiled = torch.compile(lambda q, k, v: FUNCTION[kind](q, k, v, enable_gqa=True), backend=backend, fullgraph=True, dynamic=True)
        compiled(*tensors(q=5, k=7))
        with torch.compiler.set_stance("fail_on_recompile"):
            for length in (6, 9, 30):
                inputs = tensors(q=length, k=length + 2)
                got, want = compiled(*inputs), FUNCTION[kind](*inputs, enable_gqa=True)
                assert torch.equal(got, want)
                for a, b in zip(torch.autograd.grad(got.sum(), inputs), torch.autograd.grad(want.sum(), inputs)):
                    assert torch.allclose(a, b, rtol=1e-12, atol=1e-13)

    def test_autocast(self, kind, backend):
        def run(*inputs):
            with torch.autocast("cpu", torch.bfloat16):
                return FUNCTION[kind](*inputs, enable_gqa=True)
        self.same(run, tensors(dtype=torch.float32), backend)

    def test_bfloat16(self, kind, backend):
        self.same(lambda q, k, v: FUNCTION[kind](q, k, v, enable_gqa=True), tensors(dtype=torch.bfloat16), backend)


class Items(torch.utils.data.Dataset):
    """Every item is an attention of its own."""

    def __init__(self, module=None):
        self.module = module

    def __len__(self):
        return 6

    def __getitem__(self, index):
        q = torch.randn(1, 2, 40, 8, generator=torch.Generator().manual_seed(index))
        with torch.no_grad():
            return self.module(q, q, q)[0] if self.module else dt.softmax_attention(q, q, q)[0]


@pytest.mark.parametrize("start", ["fork", "spawn"])
@pytest.mark.parametrize("whole", [False, True], ids=["function", "module"])
def test_workers(start, whole):
    items = Items(dt.SigmoidAttention(2, 8, 40) if whole else None)
    want = torch.stack([items[i] for i in range(6)])  # the parent's OpenMP threads have run by now
    loader = torch.utils.data.DataLoader(items, batch_size=2, num_workers=2, multiprocessing_context=start, timeout=60)
    assert torch.equal(torch.cat(list(loader)), want)


def test_nan_in_what_is_masked_reaches_nothing():
    q, k, v = tensors(kv_heads=4)
    mask = torch.ones(5, 7, dtype=torch.bool)
    mask[:, 3] = False
    bad_k, bad_v = (x.detach().clone() for x in (k, v))
    bad_k[:, :, 3], bad_v[:, :, 3] = math.nan, math.inf
    for kind in KINDS:
        assert torch.equal(FUNCTION[kind](q, bad_k, bad_v, mask), FUNCTION[kind](q, k, v, mask))
