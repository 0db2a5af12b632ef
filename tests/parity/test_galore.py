# SPDX-License-Identifier: Apache-2.0
"""GaLore and Natural GaLore against their definition in numpy, in double, and against the official GaLore package where it is there."""
import importlib
import pathlib
import sys
import types

import dropin
import numpy as np
import pytest
import torch
from dropin import check, ffi, lib
from dropin._array import fill_tensor

SIDES = ["std", "reverse_std", "right", "left", "full"]
SHAPES = [(24, 16), (16, 24), (20, 20)]


# ---- the definition: specs, sections 2.1 to 2.3, in double ----------------------------------------------------------------------


class GaLore:
    """AdamW on projected gradients, as the papers have it; signs of singular vectors by our rule."""

    def __init__(self, rank, side="std", gap=200, scale=0.25, lr=1e-2, decay=0.0, eps=1e-6, on_refresh="keep", history=0, damping=None):
        self.__dict__.update(locals())
        self.t, self.u, self.v, self.m, self.s, self.past = 0, None, None, 0.0, 0.0, []

    @staticmethod
    def signs(basis):
        top = np.abs(basis).argmax(0)
        return basis * np.sign(basis[top, np.arange(basis.shape[1])])

    def bases(self, g):
        u, _, vt = np.linalg.svd(g, full_matrices=False)
        tall = g.shape[0] >= g.shape[1]
        right = {"std": tall, "reverse_std": not tall, "right": True, "left": False, "full": True}[self.side]
        left = not right or self.side == "full"
        return self.signs(u[:, :self.rank]) if left else None, self.signs(vt[:self.rank].T) if right else None

    def down(self, g):
        g = g if self.u is None else self.u.T @ g
        return g if self.v is None else g @ self.v

    def refresh(self, g):
        old = self.u, self.v
        self.u, self.v = self.bases(g)
        if self.t == 0:
            return
        self.past = []
        for name, power in (("m", 1), ("s", 2)):
            x = getattr(self, name) * (self.on_refresh != "reset")
            if self.on_refresh == "rotate":
                x = x if self.u is None else ((old[0].T @ self.u) ** power).T @ x
                x = x if self.v is None else x @ (old[1].T @ self.v) ** power
            setattr(self, name, x)

    def natural(self, r):
        self.past = [*self.past, r.ravel()][-self.history:]
        g = np.stack(self.past, 1)
        k = g.T @ g
        damping = np.trace(k) / g.shape[1] if self.damping is None else self.damping
        return (g @ np.linalg.solve(k + damping * np.eye(len(k)), np.eye(len(k))[-1])).reshape(r.shape)

    def step(self, w, g):
        if self.t % self.gap == 0:
            self.refresh(g)
        self.t += 1
        r = self.down(g)
        r = self.natural(r) if self.history else r
        self.m = 0.9 * self.m + 0.1 * r
        self.s = 0.999 * self.s + 0.001 * r * r
        d = self.m / (np.sqrt(self.s) + self.eps)
        d = d if self.u is None else self.u @ d
        d = d if self.v is None else d @ self.v.T
        w -= self.lr * np.sqrt(1 - 0.999**self.t) / (1 - 0.9**self.t) * self.scale * d
        w -= self.lr * self.decay * w


# ---- ours -------------------------------------------------------------------------------------------------------------------------


def gradients(shape, steps, dtype, seed=0):
    """They share a subspace, as gradients do, and drift."""
    draw = np.random.default_rng(seed)
    base = draw.standard_normal((shape[0], 6)) @ (draw.standard_normal((6, shape[1])) * 0.7 ** np.arange(6)[:, None])
    for _ in range(steps):
        base = 0.95 * base + 0.3 * draw.standard_normal(shape)
        yield base.astype(dtype)


def ours(text, start, steps, dtype, seed=0):
    w = start.astype(dtype)
    grad = np.zeros_like(w)
    record = ffi.new("di_parameter *")
    record.size = ffi.sizeof("di_parameter")
    record.name = b"w"
    fill_tensor(record.value, w)
    fill_tensor(record.grad, grad)
    instance = ffi.new("di_optimizer_instance **")
    context = dropin.execution(2)
    check(lib.di_optimizer_create(context, text.encode(), instance))
    check(lib.di_optimizer_add(instance[0], ffi.NULL, ffi.new("di_parameter *[]", [record]), 1))
    for g in gradients(start.shape, steps, dtype, seed):
        grad[...] = g
        record.has_grad = True
        check(lib.di_optimizer_step(context, instance[0], float("nan"), 1.0, 0.0, ffi.NULL))
    lib.di_optimizer_destroy(instance[0])
    return w


def definition(made, start, steps, dtype, seed=0):
    w = start.astype(dtype).astype(np.float64)
    for g in gradients(start.shape, steps, dtype, seed):
        made.step(w, g.astype(np.float64))
    return w


def start(shape):
    return np.random.default_rng(9).standard_normal(shape)


def near(a, b, tolerance):
    assert np.abs(a - b).max() <= tolerance * np.abs(b).max()


@pytest.mark.parametrize("dtype,tolerance", [(np.float32, 1e-4), (np.float64, 1e-9)], ids=["f32", "f64"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("side", SIDES)
def test_199_steps_of_one_interval(side, shape, dtype, tolerance):
    w = ours(f"galore_adamw:lr=0.01,weight_decay=0.1,projector=[galore:rank=5,side={side}]", start(shape), 199, dtype)
    near(w, definition(GaLore(5, side, decay=0.1), start(shape), 199, dtype), tolerance)


@pytest.mark.parametrize("on_refresh", ["keep", "reset", "rotate"])
@pytest.mark.parametrize("side", ["right", "left", "full"])
def test_over_refreshes(side, on_refresh):
    text = f"galore_adamw:lr=0.01,projector=[galore:rank=4,side={side},gap=7,on_refresh={on_refresh},scale=0.5]"
    w = ours(text, start((24, 16)), 60, np.float64)
    near(w, definition(GaLore(4, side, gap=7, on_refresh=on_refresh, scale=0.5), start((24, 16)), 60, np.float64), 1e-9)


@pytest.mark.parametrize("dtype,tolerance", [(np.float32, 1e-4), (np.float64, 1e-9)], ids=["f32", "f64"])
@pytest.mark.parametrize("history", [1, 2, 20])
@pytest.mark.parametrize("damping", [None, 1e-3, 1.0])
def test_natural(damping, history, dtype, tolerance):
    mode = "" if damping is None else f",damping_mode=absolute,damping={damping}"
    w = ours(f"natural_galore_adamw:lr=0.01,projector=[natural_galore:rank=5,gap=30,history={history}{mode}]", start((24, 16)), 80, dtype)
    near(w, definition(GaLore(5, gap=30, history=history, damping=damping), start((24, 16)), 80, dtype), tolerance)


def test_a_random_basis_and_a_quantised_one_differ_from_the_exact_one():
    made = {extra: ours(f"galore_adamw:lr=0.01,projector=[galore:rank=5{extra}]", start((24, 16)), 20, np.float64)
            for extra in ("", ",basis=random", ",basis=online", ",basis_storage=int4", ",basis_storage=bf16")}
    texts = list(made)
    for i, a in enumerate(texts):
        for b in texts[:i]:
            assert np.abs(made[a] - made[b]).max() > 1e-7


# ---- the official package --------------------------------------------------------------------------------------------------------


def official():
    """galore_torch.adamw without the parts of the package that want transformers and bitsandbytes."""
    found = importlib.util.find_spec("galore_torch")
    if found is None:
        pytest.skip("galore-torch is not installed")
    folder = pathlib.Path(found.submodule_search_locations[0])
    versions = types.ModuleType("transformers.utils.versions")
    versions.require_version = lambda *_: None
    held = {name: sys.modules.get(name) for name in ("transformers.utils.versions",)}
    package = types.ModuleType("official_galore")
    package.__path__ = [str(folder)]
    sys.modules.update({"transformers.utils.versions": versions, "official_galore": package})
    try:
        return importlib.import_module("official_galore.adamw").AdamW
    finally:
        for name, module in held.items():
            sys.modules.pop(name) if module is None else sys.modules.update({name: module})


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("side", SIDES)
def test_the_official_optimizer(side, shape):
    """In double; its basis comes from an SVD in f32 all the same, which moves the weights by some 1e-6 of the largest (full: 1e-4)."""
    if side == "reverse_std" and shape == (20, 20):
        pytest.skip("the official code takes a square R for the other side")
    adamw = official()
    p = torch.nn.Parameter(torch.from_numpy(start(shape)))
    optimizer = adamw([{"params": [p], "rank": 5, "update_proj_gap": 200, "scale": 0.25, "proj_type": side}], lr=0.01, weight_decay=0.1,
                      no_deprecation_warning=True)
    for g in gradients(shape, 150, np.float64):
        p.grad = torch.from_numpy(g.copy())
        optimizer.step()
    w = ours(f"galore_adamw:lr=0.01,weight_decay=0.1,projector=[galore:rank=5,side={side}]", start(shape), 150, np.float64)
    near(w, p.detach().numpy(), 5e-4 if side == "full" else 1e-5)
