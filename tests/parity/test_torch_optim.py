# SPDX-License-Identifier: Apache-2.0
"""The optimizer classes against torch.optim: the same numbers, constructor, groups, schedules, and refusals by name."""
import inspect
import warnings

import pytest
import torch
from dropin import DropinError
from dropin.torch import optim

SHAPES = [(1,), (7, 13), (3, 5, 11), (1000,), (129, 131), (0, 4)]
CLASSES = {name: getattr(optim, name) for name in optim.__all__ if name not in ("Optimizer", "StableEmbedding")}
TWINS = [name for name, made in CLASSES.items() if hasattr(torch.optim, name)]
VARIANTS = [{}, {"weight_decay": 0.1}, {"maximize": True}, {"momentum": 0.9}, {"momentum": 0.9, "nesterov": True},
            {"momentum": 0.8, "dampening": 0.3, "weight_decay": 0.01}, {"betas": (0.8, 0.95), "eps": 1e-5}, {"alpha": 0.9, "eps": 1e-4},
            {"lr_decay": 0.1, "initial_accumulator_value": 0.5}]
CASES = [(name, variant) for name in TWINS for variant in VARIANTS
         if set(variant) <= {option.name for option in CLASSES[name].options}]


def tensors(shapes=SHAPES, dtype=torch.float32):
    return [torch.randn(*shape, dtype=dtype).requires_grad_() for shape in shapes]


def twins(parameters):
    return [p.detach().clone().requires_grad_() for p in parameters]


def draw(*lists, scale=1.0):
    for group in zip(*lists):
        gradient = torch.randn_like(group[0]) * scale
        for p in group:
            p.grad = gradient.clone()


def near(ours, theirs, tolerance=1e-6):
    for x, y in zip(ours, theirs):
        if x.numel():
            assert (x.detach() - y.detach()).abs().max() <= tolerance * y.detach().abs().max()


def same(ours, theirs):
    return all(torch.equal(x.detach(), y.detach()) for x, y in zip(ours, theirs))


# ---- the same numbers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype,tolerance", [(torch.float32, 1e-6), (torch.float64, 1e-13)], ids=["f32", "f64"])
@pytest.mark.parametrize("name,options", CASES, ids=[f"{n}-{'-'.join(v) or 'plain'}" for n, v in CASES])
def test_twenty_steps(name, options, dtype, tolerance):
    ours = tensors(dtype=dtype)
    theirs = twins(ours)
    made = []
    for module, p in ((optim, ours), (torch.optim, theirs)):
        o = getattr(module, name)([{"params": p[:3]}, {"params": p[3:], "lr": 3e-3}], lr=1e-2, **options)
        made.append((o, torch.optim.lr_scheduler.CosineAnnealingLR(o, 20)))
    for step in range(20):
        draw(ours, theirs, scale=10.0 ** (step % 3 - 1))
        if step % 4 == 1:
            ours[1].grad = theirs[1].grad = None
        for o, scheduler in made:
            o.step()
            scheduler.step()
    near(ours, theirs, tolerance)


@pytest.mark.parametrize("name", TWINS)
def test_the_constructor_is_torchs(name):
    ours = inspect.signature(CLASSES[name]).parameters
    theirs = inspect.signature(getattr(torch.optim, name)).parameters
    positional = [key for key, p in theirs.items() if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert list(ours)[:len(positional)] == positional
    for key, p in theirs.items():
        if key != "params":
            assert ours[key].default == (p.default if not isinstance(p.default, torch.Tensor) else p.default.item()), key


@pytest.mark.parametrize("name", CLASSES)
def test_every_class_tells_of_itself(name):
    made = CLASSES[name]
    optimizer = made(tensors([(3, 4)]))
    for option in made.options:
        assert f"    {option.name}={option.default!r}: {option.help}" in made.__doc__
        assert optimizer.param_groups[0][option.name] == option.default == optimizer.defaults[option.name]
        assert f"{option.name}: {option.default}" in repr(optimizer)
    draw(optimizer.param_groups[0]["params"])
    before = [p.detach().clone() for p in optimizer.param_groups[0]["params"]]
    optimizer.step()
    assert not same(before, optimizer.param_groups[0]["params"])


def test_betas_follow_a_schedule():
    ours = tensors()
    theirs = twins(ours)
    made = []
    for o in (optim.AdamW(ours), torch.optim.AdamW(theirs)):
        made.append((o, torch.optim.lr_scheduler.OneCycleLR(o, max_lr=0.01, total_steps=10)))
    for _ in range(10):
        draw(ours, theirs)
        for o, scheduler in made:
            o.step()
            if scheduler.last_epoch < 10:
                scheduler.step()
    near(ours, theirs)


def test_groups_options_and_late_groups():
    ours = tensors()
    theirs = twins(ours)
    made = [optim.AdamW(ours[:2], lr=torch.tensor(0.01)), torch.optim.AdamW(theirs[:2], lr=0.01)]
    for step in range(6):
        if step == 2:
            made[0].add_param_group({"params": ours[2:], "weight_decay": 0, "betas": (0.5, 0.9)})
            made[1].add_param_group({"params": theirs[2:], "weight_decay": 0, "betas": (0.5, 0.9), "lr": 0.01})
        if step == 4:
            for o in made:
                o.param_groups[0].update(weight_decay=0.3, eps=1e-4)
        draw(ours, theirs)
        for o in made:
            o.step()
    near(ours, theirs)


def test_frozen_parameters_join_when_they_have_a_gradient():
    ours = tensors()
    theirs = twins(ours)
    for p in (ours[1], theirs[1]):
        p.requires_grad_(False)
    made = optim.AdamW(ours), torch.optim.AdamW(theirs)
    assert ours[1] not in made[0].state
    for step in range(4):
        if step == 2:
            ours[1].requires_grad_()
            theirs[1].requires_grad_()
        draw(ours, theirs)
        if step < 2:
            ours[1].grad = theirs[1].grad = None
        for o in made:
            o.step()
    near(ours, theirs)
    assert made[0].state[ours[1]]["step"] == 2


def test_lists_of_parameters_changed_from_outside():
    ours = tensors()
    theirs = twins(ours)
    made = optim.AdamW([{"params": ours[:3]}, {"params": ours[3:]}]), torch.optim.AdamW([{"params": theirs[:3]}, {"params": theirs[3:]}])
    new = tensors([(4, 5)])
    new_twin = twins(new)
    for step in range(4):
        if step == 2:
            for o, extra in zip(made, (new, new_twin)):
                o.param_groups[0]["params"] = [*extra, *o.param_groups[0]["params"][1:]]
        draw([*ours, *new], [*theirs, *new_twin])
        for o in made:
            o.step()
    near([*ours, *new], [*theirs, *new_twin])
    assert made[0].state[ours[1]]["step"] == 4 and made[0].state[new[0]]["step"] == 2


@pytest.mark.parametrize("policy,moved", [("skip", 8), ("reset", 8), ("skip_tensor", 0), ("propagate", 9), ("error", 0)])
def test_a_gradient_that_is_not_finite(policy, moved):
    p, q = tensors([(3, 3), (2,)])
    optimizer = optim.AdamW([p, q], nonfinite=policy)
    draw([p, q])
    p.grad[1, 1] = float("nan")
    before = p.detach().clone()
    if policy == "error":
        refused("nonfinite=error", optimizer.step)
    else:
        optimizer.step()
        assert optimizer.report["nonfinite"] == (1 if policy != "propagate" else 0)
    assert (p.detach() != before).sum() == moved


# ---- how training loops use it ---------------------------------------------------------------------------------------------------


def test_closure_accumulation_and_clipping():
    torch.manual_seed(1)
    ours = torch.nn.Linear(5, 3)
    theirs = torch.nn.Linear(5, 3)
    theirs.load_state_dict(ours.state_dict())
    o, t = optim.AdamW(ours.parameters(), max_norm=0.1), torch.optim.AdamW(theirs.parameters())
    for _ in range(3):
        x = torch.randn(4, 5)

        def closure(model, optimizer):
            optimizer.zero_grad()
            for part in x.split(2):  # accumulates
                loss = model(part).square().sum()
                loss.backward()
            return loss

        loss = o.step(lambda: closure(ours, o))
        expected = closure(theirs, t)
        norm = torch.nn.utils.clip_grad_norm_(theirs.parameters(), 0.1)
        t.step()
        assert torch.allclose(loss, expected)
        assert o.report["grad_norm"] == pytest.approx(norm.item(), rel=1e-5) and o.report["updated"] == 2
    near(ours.parameters(), theirs.parameters())


def test_a_compiled_training_step():
    model = torch.nn.Linear(4, 3)
    optimizer = optim.AdamW8bit(model.parameters(), min_8bit_size=8)

    @torch.compile(backend="eager")
    def train(x):
        optimizer.zero_grad()
        model(x).square().sum().backward()
        optimizer.step()

    for _ in range(3):
        train(torch.randn(2, 4))
    assert optimizer.state[model.weight]["step"] == 3


@pytest.mark.parametrize("unscale", [False, True])
def test_grad_scaler(unscale):
    models = [torch.nn.Linear(5, 3) for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    made = [optim.AdamW(models[0].parameters()), torch.optim.AdamW(models[1].parameters())]
    scalers = [torch.amp.GradScaler("cpu", init_scale=256.0) for _ in range(2)]
    for step in range(4):
        x = torch.randn(4, 5)
        if step == 2:
            x[0, 0] = float("inf")
        for model, optimizer, scaler in zip(models, made, scalers):
            optimizer.zero_grad()
            scaler.scale(model(x).square().sum()).backward()
            if unscale:
                scaler.unscale_(optimizer)
            scaler.step(optimizer)
            scaler.update()
    assert scalers[0].get_scale() == scalers[1].get_scale() == 128.0
    near(models[0].parameters(), models[1].parameters())


def test_a_step_is_seen_by_autograd():
    w = torch.randn(3, requires_grad=True)
    optimizer = optim.AdamW([w])
    loss = (w * w).sum()
    loss.backward(retain_graph=True)
    optimizer.step()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_memory_of_any_kind():
    base = [torch.randn(6, 4), torch.randn(8, 8), torch.randn(5, 6), torch.randn(4, 3, 2, 2).to(memory_format=torch.channels_last)]
    ours = [base[0].t().requires_grad_(), base[1][::2, 1::2].requires_grad_(), base[2].clone().requires_grad_(), base[3].requires_grad_()]
    theirs = twins(ours)
    outside = base[1][1::2].clone()
    made = optim.AdamW(ours, lr=0.1), torch.optim.AdamW(theirs, lr=0.1)
    for step in range(3):
        draw(ours, theirs)
        if step == 1:  # a strided gradient, and weights that have moved
            ours[2].grad = torch.randn(6, 5).t()
            theirs[2].grad = ours[2].grad.clone()
            ours[2].data = ours[2].data.clone()
        for o in made:
            o.step()
    near(ours, theirs)
    assert torch.equal(outside, base[1][1::2])


def test_bf16_weights_and_gradients_of_another_dtype():
    ours = tensors(dtype=torch.bfloat16)
    theirs = [p.detach().float().requires_grad_() for p in ours]
    for p in ours[1:3]:
        p.grad_dtype = torch.float32
    made = optim.AdamW(ours, lr=0.01), torch.optim.AdamW(theirs, lr=0.01)
    for step in range(3):
        if step == 2:  # and back
            ours[1].grad = None
            ours[1].grad_dtype = torch.bfloat16
        for p, q in zip(ours, theirs):
            q.grad = torch.randn_like(q).bfloat16().float()
            p.grad = q.grad.to(p.grad_dtype)
        for o in made:
            o.step()
        for p, q in zip(ours, theirs):
            assert torch.equal(p.detach(), q.detach().bfloat16())
            q.data.copy_(p.detach())  # rounded in storage, as ours are
    ours = tensors(dtype=torch.bfloat16)
    draw(ours)
    stochastic = optim.AdamW(ours, lr=1e-4, weights="stochastic", seed=1)
    before = [p.detach().clone() for p in ours]
    stochastic.step()
    moved = (ours[4].detach() != before[4]).float().mean()  # less than a rounding step: some do, most do not
    assert 0 < moved < 0.5
    refused("weights=stochastic has no effect on parameter #0, which is f32", lambda: optim.AdamW(tensors(), weights="stochastic"))


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("name,options", [("AdamW", {}), ("GaLoreAdamW8bit", {"projector": "galore:rank=2,gap=2", "min_8bit_size": 8})])
def test_per_layer_updates_within_backward(name, options, accumulation):
    def model():
        torch.manual_seed(3)
        return torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2))

    plain, layered = model(), model()
    one = CLASSES[name](plain.parameters(), lr=0.01, **options)
    other = CLASSES[name](layered.parameters(), lr=0.01, per_layer=True, accumulation=accumulation, **options)
    schedulers = [torch.optim.lr_scheduler.ExponentialLR(o, 0.5) for o in (one, other)]
    for _ in range(3):
        for _ in range(accumulation):
            x = torch.randn(3, 4)
            plain(x).square().sum().backward()
            layered(x).square().sum().backward()
        assert all(p.grad is None for p in layered.parameters())
        for o, scheduler in zip((one, other), schedulers):
            o.step()
            o.zero_grad()
            scheduler.step()
        assert same(plain.parameters(), layered.parameters())


# ---- what is refused ---------------------------------------------------------------------------------------------------------------


def refused(match, function, kinds=(ValueError, TypeError, RuntimeError, DropinError)):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(kinds, match=match):
            function()


def test_parameters_are_refused_by_name():
    p, q = tensors([(3, 4), (5,)])
    refused("number 1 of the group is already there", lambda: optim.AdamW([p, p]))
    refused("more than one parameter group", lambda: optim.AdamW([{"params": [p]}, {"params": [p]}]))
    tied = p.detach().view(12).requires_grad_()
    refused("has the memory of", lambda: optim.AdamW([("a", p), ("b", tied)]))
    refused("parameter weird is torch.complex64", lambda: optim.AdamW([("weird", torch.zeros(3, dtype=torch.complex64, requires_grad=True))]))
    refused("parameter #0 is on meta", lambda: optim.AdamW([torch.zeros(3, device="meta", requires_grad=True)]))
    refused("parameter #1 is sparse", lambda: optim.AdamW([p, torch.eye(3).to_sparse().requires_grad_()]))
    refused("empty parameter list", lambda: optim.AdamW([]))
    refused("f16", lambda: optim.AdamW([torch.zeros(3, dtype=torch.float16, requires_grad=True)]))
    whole = torch.zeros(3, dtype=torch.int64)
    optimizer = optim.AdamW([p, whole])  # never has a gradient
    draw([p])
    optimizer.step()
    optimizer = optim.AdamW([q])
    refused("already there|more than one", lambda: optimizer.add_param_group({"params": [q]}))
    assert len(optimizer.param_groups) == 1


def test_options_are_refused_by_name():
    (p,) = tensors([(3, 4)])
    refused("unknown option 'weight_deacy'; did you mean 'weight_decay'", lambda: optim.AdamW([p], weight_deacy=1))
    refused("unknown option 'weight_deacy' in a parameter group", lambda: optim.AdamW([{"params": [p], "weight_deacy": 1}]))
    refused("lr=-1", lambda: optim.AdamW([p], lr=-1))
    refused("lr='fast'", lambda: optim.AdamW([p], lr="fast"))
    refused(r"betas=\(0.9,\)", lambda: optim.AdamW([p], betas=(0.9,)))
    refused("beta2=1.5", lambda: optim.AdamW([p], betas=(0.9, 1.5)))
    refused("amsgrad=True is not offered", lambda: optim.AdamW([p], amsgrad=True))
    refused("capturable=True", lambda: optim.AdamW([p], capturable=True))
    refused("differentiable=True", lambda: optim.AdamW([{"params": [p], "differentiable": True}]))
    refused("max_norm=-1", lambda: optim.AdamW([p], max_norm=-1))
    refused("accumulation=0", lambda: optim.AdamW([p], per_layer=True, accumulation=0))
    refused("accumulation=2 without per_layer", lambda: optim.AdamW([p], accumulation=2))
    refused("max_norm=1.0 with per_layer", lambda: optim.AdamW([p], max_norm=1.0, per_layer=True))
    refused("backward=projected is for", lambda: optim.AdamW([p], projector="galore:rank=2,backward=projected"))
    optim.AdamW([{"params": [p], "lr_scale": 1.0, "initial_lr": 0.1, "name": "all"}], foreach=True, fused=True)
    optimizer = optim.AdamW([p])
    draw([p])
    optimizer.param_groups[0]["eps"] = -1
    before = p.detach().clone()
    refused("eps=-1", optimizer.step)
    assert torch.equal(before, p.detach())
    optimizer.param_groups[0]["eps"] = 1e-8
    optimizer.step()
    for change in ({"projector": "galore:rank=2"}, {"bits": 8, "min_8bit_size": 1}):
        optimizer = optim.AdamW([p])
        optimizer.param_groups[0].update(change)
        refused(f"{list(change)[0]}=.*cannot change|other state", optimizer.step)


def test_gradients_are_refused_by_name_and_nothing_is_changed():
    ours = tensors([(3, 4), (5,)])
    optimizer = optim.AdamW(ours)
    before = [p.detach().clone() for p in ours]
    draw(ours)
    ours[1].grad = torch.ones(5).to_sparse()
    refused("gradient of #1 is sparse", optimizer.step)
    draw(ours)
    ours[1].data = ours[1].data[:3]
    refused(r"parameter #1 was \[5\] torch.float32 when it was added and is \[3\]", optimizer.step)
    ours[1].data = before[1].clone()
    ours[1].data = ours[1].data.double()
    refused("is .5. torch.float64 now", optimizer.step)
    ours[1].data = before[1].clone()
    assert same(before, ours) and optimizer.state[ours[0]]["step"] == 0


def test_stable_embedding():
    made = optim.StableEmbedding(30, 8, padding_idx=2, dtype=torch.float64)
    bound = (6 / 38) ** 0.5
    assert made.weight.abs().max() <= bound and made.weight.abs().max() > 0.9 * bound
    assert made.weight[2].abs().max() == 0
    index = torch.tensor([[1, 2, 29]])
    rows = made.weight[index].float()
    expected = torch.nn.functional.layer_norm(rows, (8,)).double()
    out = made(index)
    assert out.dtype == torch.float64 and torch.equal(out, expected)
    out.square().sum().backward()
    assert made.weight.grad[2].abs().max() == 0 and made.norm.weight.grad is not None


def test_memory_is_flat():
    ours = tensors()
    for made in (optim.AdamW(ours), optim.AdamW8bit(ours, min_8bit_size=1)):

        def resident():
            with open("/proc/self/statm", encoding="ascii") as file:
                return int(file.read().split()[1]) * 4096

        for step in range(2000):
            draw(ours[:3])
            made.step()
            made.zero_grad()
            if step == 200:
                before = resident()
        assert resident() - before < 1 << 20
