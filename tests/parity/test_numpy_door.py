# SPDX-License-Identifier: Apache-2.0
"""dropin on numpy arrays, without torch: attention and 8-bit codes against their definitions, optimizer steps and their state."""
import gc
import inspect
import os
import subprocess
import sys

import dropin
import numpy
import pytest
from dropin import DropinError, ffi, lib

BATCH, LENGTH, KEYS, HEADS, KV_HEADS, DIM, DIM_V = 2, 7, 11, 4, 2, 8, 6


def sample(*shape, dtype="float32", seed=0):
    return numpy.asarray(numpy.random.default_rng(seed).standard_normal(shape), dtype)


def inputs(dtype="float32"):
    return [sample(*shape, dtype=dtype, seed=i) for i, shape in enumerate(
        [(BATCH, LENGTH, HEADS, DIM), (BATCH, KEYS, KV_HEADS, DIM), (BATCH, KEYS, KV_HEADS, DIM_V)])]


def reference(part, q, k, v, *, causal=False, window=(-1, -1), query_lengths=None, key_lengths=None, mask=None, slopes=None,
              key_bias=None, bias=0.0):
    """The formula of <dropin/attention.h> in double."""
    q, k, v = (numpy.asarray(x, float) for x in (q, k, v))
    k, v = (x.repeat(HEADS // KV_HEADS, axis=2) for x in (k, v))
    out = numpy.zeros((*q.shape[:3], v.shape[3]))
    for b in range(BATCH):
        rows = LENGTH if query_lengths is None else query_lengths[b]
        keys = KEYS if key_lengths is None else key_lengths[b]
        distance = numpy.arange(LENGTH)[:, None] + (keys - rows) - numpy.arange(KEYS)
        valid = (numpy.arange(KEYS) < keys) & (numpy.arange(LENGTH)[:, None] < rows)
        keep = numpy.broadcast_to(valid, (HEADS, LENGTH, KEYS)).copy()
        right = 0 if causal else window[1]
        keep &= (distance >= -right if right >= 0 else True) & (distance <= window[0] if window[0] >= 0 else True)
        x = numpy.einsum("ihd,jhd->hij", q[b], k[b]) / numpy.sqrt(DIM) + bias
        x += 0 if key_bias is None else numpy.broadcast_to(key_bias, (BATCH, KEYS))[b]
        x -= 0 if slopes is None else numpy.broadcast_to(slopes, (BATCH, HEADS))[b][:, None, None] * abs(distance)
        if mask is not None:
            dense = numpy.broadcast_to(mask, (BATCH, HEADS, LENGTH, KEYS))[b]
            keep, x = (keep & dense, x) if dense.dtype == bool else (keep, x + dense)
        if part == "softmax":
            x = numpy.where(keep, x, -numpy.inf)
            p = numpy.exp(x - x.max(-1, keepdims=True, initial=-1e300))
            p = p / numpy.maximum(p.sum(-1, keepdims=True), 1e-300)
        else:
            p = numpy.where(keep, 1 / (1 + numpy.exp(-x)), 0)
        out[b] = numpy.einsum("hij,jhd->ihd", p, v[b])
    return out


CASES = {
    "plain": {}, "causal": {"causal": True}, "window": {"window": (3, 1)}, "causal window": {"causal": True, "window": (4, -1)},
    "lengths": {"query_lengths": [5, 7], "key_lengths": [11, 4]},
    "bool mask": {"mask": numpy.arange(KEYS) % 3 > 0},
    "whole mask": {"mask": sample(BATCH, HEADS, LENGTH, KEYS, seed=9) > -1},
    "turned mask": {"mask": (sample(KEYS, LENGTH, seed=9) > -1).T},
    "added mask": {"mask": sample(HEADS, 1, KEYS, seed=5)}, "one for all keys": {"mask": sample(LENGTH, 1, seed=5)},
    "slopes": {"slopes": [0.5, 0.25, 0.125, 0.0]}, "slopes of each": {"slopes": abs(sample(BATCH, HEADS, seed=3))},
    "key bias": {"key_bias": sample(KEYS, seed=4)}, "key bias of each": {"key_bias": sample(BATCH, KEYS, seed=4)},
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("part", ["softmax", "sigmoid"])
def test_attention(part, case):
    function, keywords = getattr(dropin, f"{part}_attention"), CASES[case]
    bias = {"bias": -1.5} if part == "sigmoid" else {}
    for dtype, tolerance in (("float32", 1e-5), ("float64", 1e-13)):
        q, k, v = inputs(dtype)
        out = function(q, k, v, **keywords, **bias, threads=2)
        assert out.dtype == dtype and out.shape == (BATCH, LENGTH, HEADS, DIM_V)
        assert abs(out - reference(part, q, k, v, **keywords, **bias)).max() < tolerance


def test_any_strides():
    q, k, v = inputs()
    expected = dropin.softmax_attention(q, k, v)
    for turn in (lambda x: numpy.asfortranarray(x), lambda x: numpy.repeat(x, 2, -1)[..., ::2], lambda x: x[::-1].copy()[::-1],
                 lambda x: numpy.ascontiguousarray(x.swapaxes(1, 2)).swapaxes(1, 2), lambda x: x[..., ::-1].copy()[..., ::-1]):
        assert (dropin.softmax_attention(turn(q), turn(k), turn(v)) == expected).all()


@pytest.mark.parametrize("text", ["softmax", "sigmoid:bias=-1", "softmax:dropout=0.3"])
def test_gradients_are_the_differences(text):
    arrays = inputs("float64")
    keywords = {"causal": True, "key_bias": sample(KEYS, dtype="float64"), "seed": 7 if "dropout" in text else None}
    out, gradient = dropin.numpy.attention_vjp(text, *arrays, **keywords)
    d_out = sample(*out.shape, dtype="float64", seed=8)
    for which, ours in enumerate(gradient(d_out)):
        assert ours.shape == arrays[which].shape
        for place in [(0, 0, 0, 0), (1, 3, 1, 2), (1, 6, 1, 5)]:
            moved = [[x.copy() for x in arrays] for _ in range(2)]
            moved[0][which][place] += 1e-6
            moved[1][which][place] -= 1e-6
            up, down = ((dropin.numpy.attention(text, *x, **keywords) * d_out).sum() for x in moved)
            assert abs((up - down) / 2e-6 - ours[place]) < 1e-7


def test_a_function_for_every_part():
    names = dropin.numpy.functions()
    assert {"softmax_attention", "sigmoid_attention"} <= set(names) <= set(dir(dropin.numpy))
    for name, function in names.items():
        parameters = inspect.signature(function).parameters
        assert list(parameters)[:3] == ["query", "key", "value"] and "dropout" in parameters
        assert all(word in function.__doc__ for word in parameters) and function.__name__ == name
    assert inspect.signature(dropin.sigmoid_attention).parameters["bias"].default == "auto"


def test_bad_attention_is_named():
    q, k, v = inputs()
    for error, message, call in [
        (ValueError, r"query has shape \[7, 4, 8\]; must be \[batch, length, heads, dim\]",
         lambda: dropin.softmax_attention(q[0], k, v)),
        (TypeError, "query is int64; must be float32 or float64", lambda: dropin.softmax_attention(q.astype(int), k, v)),
        (TypeError, "query is float32, key float64 and value float32", lambda: dropin.softmax_attention(q, k.astype(float), v)),
        (ValueError, r"key \[2, 11, 2, 8\] and value \[2, 10, 2, 6\] disagree", lambda: dropin.softmax_attention(q, k, v[:, 1:])),
        (ValueError, r"mask has shape \[3\]; must be broadcastable to \[2, 4, 7, 11\]",
         lambda: dropin.softmax_attention(q, k, v, mask=numpy.ones(3, bool))),
        (ValueError, r"slopes has shape \[3\]; must be \[4\] or \[2, 4\]",
         lambda: dropin.softmax_attention(q, k, v, slopes=[1, 2, 3])),
        (ValueError, "has dropout and there is no seed", lambda: dropin.softmax_attention(q, k, v, dropout=0.5)),
        (TypeError, 'unexpected keyword argument \'bais\'; did you mean "bias"',
         lambda: dropin.sigmoid_attention(q, k, v, bais=0)),
        (DropinError, "sigmoid: dropout=2", lambda: dropin.sigmoid_attention(q, k, v, dropout=2.0, seed=0)),
        (ValueError, "no part 'sigmod'", lambda: dropin.numpy.attention("sigmod", q, k, v)),
        (DropinError, "heads", lambda: dropin.softmax_attention(q[:, :, :3], k, v)),
        (ValueError, r"d_out is \[1, 7, 4, 6\] float32; must be \[2, 7, 4, 6\] float32",
         lambda: dropin.numpy.attention_vjp("softmax", q, k, v)[1](numpy.ones((1, LENGTH, HEADS, DIM_V), "float32"))),
    ]:
        with pytest.raises(error, match=message):
            call()


# ---- 8-bit codes -----------------------------------------------------------------------------------------------------------------


def code_map(signed):
    """Seven decades e of 2^e (signed) or 2^(e + 1) equal cells, their mid-points; 0 and 1."""
    values = [0.0, 1.0]
    for e in range(7):
        cells = 2 ** (e + (not signed))
        values += [10.0 ** (e - 6) * (0.1 + 0.9 * (2 * j + 1) / (2 * cells)) for j in range(cells)]
    values += [-x for x in values if 0 < x < 1] if signed else []
    return numpy.sort(numpy.array(values, "float32"))


@pytest.mark.parametrize("signed", [True, False], ids=["signed", "unsigned"])
@pytest.mark.parametrize("block", [32, 256, 4096])
def test_codes_are_their_definition(block, signed):
    table = code_map(signed)
    assert len(table) == 256 and (dropin.numpy.quantize_map(signed) == table).all()
    x = sample(70_001) * 10.0 ** numpy.arange(-4, 3).repeat(10_001)[:70_001].astype("float32")
    x[5000:10_000] = 0
    codes, scales = dropin.quantize(x, block=block, signed=signed, threads=2)
    assert codes.dtype == "uint8" and codes.shape == x.shape and scales.dtype == "float32" and len(scales) == -(-len(x) // block)
    blocks = numpy.pad(x, (0, -len(x) % block)).reshape(-1, block)
    assert (scales == abs(blocks).max(1)).all()
    middle = (table[1:] + table[:-1]) / numpy.float32(2)
    with numpy.errstate(invalid="ignore"):
        share = numpy.nan_to_num(blocks / scales[:, None]).reshape(-1)[: len(x)]
    expected = numpy.searchsorted(middle, share if signed else numpy.maximum(share, 0), side="left")
    assert (codes == expected).all()
    back = dropin.dequantize(codes, scales, block=block, signed=signed)
    assert (back == table[codes] * scales.repeat(block)[: len(x)]).all()


def test_forms_of_codes():
    x = sample(40, 50, dtype="float64")
    codes, scales = dropin.quantize(x.T)
    assert codes.shape == (50, 40) and (codes == dropin.quantize(x.T.astype("float32"))[0]).all()
    assert dropin.dequantize(codes, scales, dtype="float64").dtype == "float64"
    assert abs(dropin.dequantize(codes, scales) - x.T).max() < 0.02 * abs(x).max()
    led = -numpy.linspace(0, 1, 64, dtype="float32")
    assert dropin.dequantize(*dropin.quantize(led, signed_scale=True))[-1] == -1 != dropin.dequantize(*dropin.quantize(led))[-1]
    drawn = [dropin.quantize(x, stochastic=True, seed=seed)[0] for seed in (0, 0, 1)]
    assert (drawn[0] == drawn[1]).all() and (drawn[0] != drawn[2]).any()
    assert dropin.quantize(numpy.array([1, -1e-9], "float32"), sign_repair=True)[0][1] == 126
    table = numpy.linspace(-1, 1, 256, dtype="float32")
    assert abs(dropin.dequantize(*dropin.quantize(x, map=table), map=table) - x).max() < 0.004 * abs(x).max()
    assert dropin.quantize(numpy.zeros((3, 0), "float32"))[0].shape == (3, 0)
    assert len(dropin.numpy.quantize_map(True, 3, 4)) < 17


def test_bad_codes_are_named():
    x = sample(100)
    codes, scales = dropin.quantize(x)
    for error, message, call in [
        (DropinError, "block=100", lambda: dropin.quantize(x, block=100)),
        (TypeError, "dtype uint16", lambda: dropin.quantize(x.astype("uint16"))),
        (DropinError, "i64", lambda: dropin.quantize(x.astype("int64"))),
        (DropinError, "map", lambda: dropin.quantize(x, map=numpy.ones(7))),
        (DropinError, "scales", lambda: dropin.dequantize(codes, scales[:0])),
        (DropinError, "exponent_bits=9", lambda: dropin.numpy.quantize_map(True, 9)),
    ]:
        with pytest.raises(error, match=message):
            call()


# ---- optimizers ------------------------------------------------------------------------------------------------------------------


def arrays(dtype="float32"):
    return {"weight": sample(33, 17, dtype=dtype, seed=1), "bias": sample(17, dtype=dtype, seed=2), "one": numpy.ones((), dtype)}


@pytest.mark.parametrize("dtype,tolerance", [("float32", 1e-6), ("float64", 1e-14)])
def test_adamw_is_its_definition(dtype, tolerance):
    ours = arrays(dtype)
    theirs = {name: array.astype(float) for name, array in ours.items()}
    moments = {name: (numpy.zeros(x.shape), numpy.zeros(x.shape)) for name, x in theirs.items()}
    optimizer = dropin.optimizer("adamw:lr=0.01,beta2=0.95", threads=2)
    assert optimizer.add({name: ours[name] for name in ("weight", "one")}) == 0
    assert optimizer.add([ours["bias"]], ["bias"], weight_decay=0, lr=0.005) == 1
    for step in range(1, 6):
        gradients = {name: numpy.asarray(sample(*x.shape, dtype=dtype, seed=step) * 3, dtype) for name, x in ours.items()}
        norm = numpy.sqrt(sum((g.astype(float) ** 2).sum() for g in gradients.values()))
        report = optimizer.step(gradients, max_norm=1.0)
        assert report.finite and report.updated == 3 and abs(report.grad_norm / norm - 1) < 1e-6
        for name, x in theirs.items():
            g = gradients[name].astype(float) * min(1, 1 / (norm + 1e-6))
            decay, lr = (0, 0.005) if name == "bias" else (0.01, 0.01)
            first, second = moments[name]
            first[...] = 0.9 * first + 0.1 * g
            second[...] = 0.95 * second + 0.05 * g**2
            x *= 1 - lr * decay
            x -= lr * (first / (1 - 0.9**step)) / (numpy.sqrt(second / (1 - 0.95**step)) + 1e-8)
    for name, x in theirs.items():
        assert abs(ours[name] - x).max() <= tolerance * abs(x).max()
    assert optimizer.steps == 5 and [list(optimizer.state[name]) for name in ours] == [["step", "exp_avg", "exp_avg_sq"]] * 3
    assert "3 parameters, 5 steps" in repr(optimizer)


def texts():
    """Every part of the slot, and every usual name."""
    count, found = ffi.new("int64_t *"), []
    records = lib.di_optimizer_list(count)
    found += [ffi.string(records[i].part.name).decode() for i in range(count[0])]
    aliases = lib.di_optimizer_aliases(count)
    return found + [ffi.string(aliases[i].name).decode() for i in range(count[0])]


@pytest.mark.parametrize("text", texts())
def test_state_resumes_to_the_bit(text):
    text += (":" if ":" not in text else ",") + "lr=0.01"
    shape = (70, 90)  # above the least size of 8-bit state

    def run(weights, optimizer, steps):
        for step in steps:
            optimizer.step([sample(*shape, seed=step)])
        return weights

    def made(weights):
        optimizer = dropin.optimizer(text, seed=5)
        optimizer.add({"w": weights})
        return optimizer

    straight = sample(*shape)
    before = straight.copy()
    run(straight, made(straight), range(6))
    assert (straight != before).any() and numpy.isfinite(straight).all()

    resumed = before.copy()
    first = made(resumed)
    run(resumed, first, range(3))
    saved = {name: {key: value.copy() for key, value in values.items()} for name, values in first.state.items()}
    assert first.state_bytes == sum(value.nbytes for values in saved.values() for value in values.values())
    second = made(resumed)
    second.load_state(saved, first.steps)
    run(resumed, second, range(3, 6))
    assert (resumed == straight).all()


def test_views_outlive_the_optimizer():
    weights = sample(100)
    optimizer = dropin.optimizer("adamw")
    optimizer.add([weights])
    optimizer.step([sample(100, seed=1)])
    state = optimizer.state["p0"]["exp_avg"]
    kept = state.copy()
    del optimizer
    gc.collect()
    others = [numpy.full(100, i, "float32") for i in range(50)]
    assert (state == kept).all() and len(others) == 50


def test_writing_to_the_state_counts():
    ours = [sample(9), sample(9)]
    optimizers = [dropin.optimizer("adamw:weight_decay=0") for _ in ours]
    for optimizer, weights in zip(optimizers, ours):
        optimizer.add([weights])
        optimizer.step([numpy.ones(9, "float32")])
    optimizers[1].state["p0"]["exp_avg"][:] = 0
    for optimizer in optimizers:
        optimizer.step([numpy.zeros(9, "float32")])
    assert (ours[0] != ours[1]).all()


def test_gradients_in_any_order_strides_and_number():
    ours = [sample(6, 5), sample(4)]
    theirs = [x.copy() for x in ours]
    gradient = sample(5, 6, seed=2).T
    one, other = dropin.optimizer("adamw"), dropin.optimizer("adamw")
    one.add(ours)
    other.add({"a": theirs[0], "b": theirs[1]})
    report = one.step([gradient, None])
    assert (report.updated, report.skipped) == (1, 1) and other.step({"a": gradient.copy()}) == pytest.approx(report, nan_ok=True)
    assert all((x == y).all() for x, y in zip(ours, theirs)) and (theirs[1] == sample(4)).all()
    one.change(0, lr=0.5)
    before = ours[0].copy()
    one.step([gradient, None])
    assert abs(ours[0] - before).max() > 0.1
    bad = gradient.copy()
    bad[2, 2] = numpy.nan
    before = ours[0].copy()
    assert not one.step([bad, None], max_norm=1.0).finite and (ours[0] == before).all()


def test_bad_optimizers_are_named():
    optimizer, weights = dropin.optimizer("adamw"), sample(4, 3)
    optimizer.add({"w": weights})
    for error, message, call in [
        (DropinError, "adamv.*did you mean|adamv.*nearest", lambda: dropin.optimizer("adamv")),
        (DropinError, "weight_decay=-1", lambda: dropin.optimizer("adamw:weight_decay=-1")),
        (DropinError, "betta", lambda: optimizer.add([sample(2)], betta=1)),
        (DropinError, "w", lambda: optimizer.add({"w": sample(2)})),
        (DropinError, "w", lambda: optimizer.add({"again": weights})),
        (TypeError, "parameter p1 is a list; must be a numpy array", lambda: optimizer.add([[1.0, 2.0]])),
        (ValueError, "parameter t is not C-contiguous", lambda: optimizer.add({"t": sample(3, 4).T})),
        (ValueError, "parameter r is read-only", lambda: optimizer.add({"r": numpy.broadcast_to(numpy.float32(1), (1,))})),
        (DropinError, "i64", lambda: optimizer.add({"i": numpy.zeros(3, "int64")})),
        (ValueError, "2 arrays and 1 names", lambda: optimizer.add([sample(2), sample(3)], ["x"])),
        (ValueError, r"the gradient of w is \[3, 4\] float32; must be \[4, 3\] float32", lambda: optimizer.step([weights.T])),
        (ValueError, r"the gradient of w is \[4, 3\] float64; must be", lambda: optimizer.step([weights.astype(float)])),
        (ValueError, "2 gradients for 1 parameters", lambda: optimizer.step([weights, weights])),
        (KeyError, "a gradient for 'v'; there is no such parameter", lambda: optimizer.step({"v": weights + 1})),
        (DropinError, "max_norm", lambda: optimizer.step([weights + 1], max_norm=-1.0)),
        (DropinError, "gradient of w lies in the memory of its value", lambda: optimizer.step([weights])),
        (ValueError, "state of w: there is none", lambda: optimizer.load_state({})),
        (ValueError, "state of w: exp_avg is missing", lambda: optimizer.load_state({"w": {"step": [0]}})),
        (ValueError, r"exp_avg is \[2\] float64; must be \[4, 3\] float32",
         lambda: optimizer.load_state({"w": {**optimizer.state["w"], "exp_avg": numpy.zeros(2)}})),
    ]:
        before = weights.copy()
        with pytest.raises(error, match=message):
            call()
        assert (weights == before).all() and optimizer.steps == 0
    assert optimizer.add([sample(2)]) == 1  # nothing of the refused ones was added


def test_nothing_imports_torch():
    code = ("import sys, dropin; assert not {'numpy', 'torch', 'cffi'} & set(sys.modules) - before; import dropin.numpy; "
            "o = dropin.optimizer('adamw'); o.add([dropin.numpy.numpy.zeros(3)]); "
            "dropin.softmax_attention(*[dropin.numpy.numpy.zeros((1, 2, 3, 4))] * 3); assert 'torch' not in sys.modules")
    subprocess.run([sys.executable, "-c", "import sys; before = set(sys.modules); " + code], check=True, env=dict(os.environ))
