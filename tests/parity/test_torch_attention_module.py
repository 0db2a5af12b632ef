# SPDX-License-Identifier: Apache-2.0
"""dropin.torch's attention modules: parameters, state, copies, and what is built at import from the option rows."""
import copy
import inspect
import io
import math
import pickle
import subprocess
import sys

import dropin
import dropin.torch as dt
import pytest
import torch
from dropin.torch.attention import FUNCTIONS, MODULES, RECIPES

HEADS, DIM, LENGTH = 4, 8, 12
EVERY = dict(train_scale=True, alibi=True, train_slopes=True)
MADE = {
    "softmax": lambda **o: dt.SoftmaxAttention(HEADS, DIM, **{**EVERY, **o}),
    "sigmoid": lambda **o: dt.SigmoidAttention(HEADS, DIM, LENGTH, **{**EVERY, "train_bias": True, "form": "head", **o}),
}
KINDS = list(MADE)


def inputs(length=LENGTH, dtype=torch.float32):
    return [torch.randn(2, HEADS, length, DIM, dtype=dtype) for _ in range(3)]


@pytest.mark.parametrize("kind", KINDS)
class TestModule:
    def test_equals_the_function(self, kind):
        module, (q, k, v) = MADE[kind](is_causal=True), inputs()
        bias = {"bias": module.bias} if kind == "sigmoid" else {}
        want = FUNCTIONS[f"{kind}_attention"](q, k, v, is_causal=True, scale=module.scale, slopes=module.slopes, **bias)
        assert torch.equal(module(q, k, v), want)

    def test_all_its_parameters_learn(self, kind):
        module = MADE[kind](dtype=torch.float64, is_causal=True)
        q, k, v = inputs(dtype=torch.float64)
        names = dict(module.named_parameters())
        assert set(names) == {"scale", "slopes"} | ({"bias"} if kind == "sigmoid" else set())
        assert torch.autograd.gradcheck(
            lambda *values: torch.func.functional_call(module, dict(zip(names, values)), (q, k, v)), tuple(names.values()))

    def test_state_of_plain_tensors(self, kind, tmp_path):
        module = MADE[kind]()
        with torch.no_grad():
            for x in module.parameters():
                x.add_(torch.rand_like(x))
        torch.save(module.state_dict(), tmp_path / "state.pt")
        state = torch.load(tmp_path / "state.pt", weights_only=True)
        assert all(type(x) is torch.Tensor for x in state.values())
        other = MADE[kind]()
        other.load_state_dict(state)
        x = inputs()
        assert torch.equal(module(*x), other(*x))

    def test_a_missing_tensor_is_named(self, kind):
        state = MADE[kind]().state_dict()
        del state["slopes"]
        with pytest.raises(RuntimeError, match="slopes"):
            MADE[kind]().load_state_dict(state)

    def test_copies(self, kind):
        module, x = MADE[kind](), inputs()
        file = io.BytesIO()
        torch.save(module, file)
        file.seek(0)
        for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module)), torch.load(file, weights_only=False)):
            assert torch.equal(module(*x), other(*x)) and repr(other) == repr(module)
            with torch.no_grad():
                other.slopes.zero_()
            assert not torch.equal(module(*x), other(*x))

    def test_conversion(self, kind):
        module, x = MADE[kind](), inputs()
        want = module(*x)
        assert (module.double()(*(y.double() for y in x)) - want).abs().max() < 1e-5
        low = module.bfloat16()(*(y.bfloat16() for y in x))
        assert low.dtype == torch.bfloat16 and (low - want).abs().max() < 3e-2

    def test_mixed_dtypes(self, kind):
        """float32 parameters with bfloat16 activations, as autocast has it."""
        module, x = MADE[kind](), inputs()
        with torch.autocast("cpu", torch.bfloat16):
            out = module(*x)
        out.float().sum().backward()
        assert out.dtype == torch.bfloat16 and all(p.grad.dtype == torch.float32 for p in module.parameters())

    def test_dropout_in_training_alone(self, kind):
        module, x = MADE[kind](dropout=0.5), inputs()
        assert not torch.equal(module(*x), module(*x))
        module.eval()
        assert torch.equal(module(*x), module(*x))

    @pytest.mark.parametrize("backend", ["eager", "aot_eager"])
    def test_compile(self, kind, backend):
        torch._dynamo.reset()
        module, x = MADE[kind](dropout=0.3), inputs()
        compiled = torch.compile(module, backend=backend, fullgraph=True)
        torch.manual_seed(1)
        want = module(*x)
        torch.manual_seed(1)
        got = compiled(*x)
        assert torch.equal(got, want)
        parameters = list(module.parameters())
        for a, b in zip(torch.autograd.grad(got.square().sum(), parameters), torch.autograd.grad(want.square().sum(), parameters)):
            assert torch.allclose(a, b, rtol=1e-5, atol=1e-6)

    def test_grouped_heads(self, kind):
        module = MADE[kind](kv_heads=2, dim_v=5)
        q, k, v = torch.randn(2, 4, 6, 8), torch.randn(2, 2, 6, 8), torch.randn(2, 2, 6, 5)
        assert module(q, k, v).shape == (2, 4, 6, 5)

    def test_every_option_changes_the_result_or_is_refused(self, kind):
        values = {"bias": -1.0, "form": "key", "train_bias": True, "scale": 0.1, "train_scale": True, "alibi": True, "train_slopes": True,
                  "dropout": 0.5}
        size = (HEADS, DIM, LENGTH)
        plain, x = MODULES[f"{kind.capitalize()}Attention"](*size), inputs()
        for row in RECIPES[kind].rows:
            try:
                changed = type(plain)(*size, **{row.name: values[row.name]})
            except dropin.DropinError as error:
                assert row.name in str(error)
                continue
            described = {name: (p.shape, p.requires_grad) for name, p in changed.state_dict(keep_vars=True).items()}
            before = {name: (p.shape, p.requires_grad) for name, p in plain.state_dict(keep_vars=True).items()}
            assert described != before or not torch.equal(changed(*x), plain(*x)), row.name
            assert row.name in repr(changed)


class TestBias:
    def test_auto_is_resolved_once(self):
        module = dt.SigmoidAttention(HEADS, DIM, 100)
        assert module.bias.item() == pytest.approx(-math.log(100)) and not list(module.parameters())
        assert "bias" in module.state_dict()
        x = inputs()
        assert torch.equal(module(*x), dt.sigmoid_attention(*x, bias=torch.tensor(-math.log(100))))

    @pytest.mark.parametrize("form,shape", [("scalar", (1,)), ("head", (HEADS,)), ("key", (20,))])
    def test_forms(self, form, shape):
        module = dt.SigmoidAttention(HEADS, DIM, 20, form=form, train_bias=True, dtype=torch.float64)
        assert isinstance(module.bias, torch.nn.Parameter) and module.bias.shape == shape and module.bias.dtype == torch.float64
        module(*inputs(dtype=torch.float64)).sum().backward()
        assert module.bias.grad.shape == shape
        if form == "key":
            assert (module.bias.grad[LENGTH:] == 0).all() and (module.bias.grad[:LENGTH] != 0).all()
            with pytest.raises(ValueError, match=r"bias has shape \[20\]; must be at least \[30\]"):
                module(*inputs(30, torch.float64))

    def test_a_length_is_asked_for_where_it_counts(self):
        with pytest.raises(ValueError, match="sigmoid: max_length=None; bias depends on the longest length of training"):
            dt.SigmoidAttention(HEADS, DIM)
        assert dt.SigmoidAttention(HEADS, DIM, bias=-3.0).bias.item() == -3.0
        dt.SoftmaxAttention(HEADS, DIM)


class TestBuiltFromRows:
    """Nothing about an option is typed twice."""

    @pytest.mark.parametrize("kind", KINDS)
    def test_signatures(self, kind):
        rows = {row.name: row.value for row in RECIPES[kind].rows}
        module = inspect.signature(MODULES[f"{kind.capitalize()}Attention"]).parameters
        assert {name: module[name].default for name in rows} == rows
        function = inspect.signature(FUNCTIONS[f"{kind}_attention"]).parameters
        assert list(function)[:8] == ["query", "key", "value", "attn_mask", "dropout_p", "is_causal", "scale", "enable_gqa"]
        for name, value in rows.items():
            if name in ("scale", "dropout"):
                assert name not in function or function[name].default is None
            elif not name.startswith("train_"):
                assert function[name].default == value

    @pytest.mark.parametrize("kind", KINDS)
    def test_documentation(self, kind):
        for made in (FUNCTIONS[f"{kind}_attention"], MODULES[f"{kind.capitalize()}Attention"]):
            assert made.__module__ == "dropin.torch" and "arXiv" in made.__doc__
            for row in RECIPES[kind].own:
                assert row.name in made.__doc__ and row.help in made.__doc__

    def test_repr(self):
        assert repr(dt.SigmoidAttention(4, 8, 64, bias=-2.5, is_causal=True, window=(3, 0))) == \
            "SigmoidAttention(heads=4, dim=8, max_length=64, is_causal=True, window=(3, 0), bias=-2.5)"
        assert repr(dt.SoftmaxAttention(4, 8)) == "SoftmaxAttention(heads=4, dim=8)"

    def test_misspelt(self):
        with pytest.raises(TypeError, match=r"SigmoidAttention\(\) got an unexpected keyword argument 'train_bais'; did you mean \"train_bias\""):
            dt.SigmoidAttention(4, 8, 64, train_bais=True)
        with pytest.raises(dropin.DropinError, match="train_slopes=on without alibi"):
            dt.SoftmaxAttention(4, 8, train_slopes=True)
        with pytest.raises(AttributeError, match="has no attribute 'SigmoydAttention'"):
            dt.SigmoydAttention  # noqa: B018


def test_numpy_s_door_does_not_import_torch():
    script = """if True:
        import sys
        sys.modules["torch"] = None
        import dropin, numpy
        part = dropin.Attention("sigmoid:bias=auto")
        q = numpy.random.randn(1, 5, 2, 8).astype(numpy.float32)
        assert part.forward(q, q, q, numpy.empty_like(q)).any()
        assert sys.modules["torch"] is None
    """
    subprocess.run([sys.executable, "-c", script], check=True)
