# SPDX-License-Identifier: Apache-2.0
"""State dicts: plain tensors, to and from torch's classes, continued bit for bit; what does not fit is named and changes nothing."""
import copy
import io
import pickle

import pytest
import torch
from dropin.torch import optim
from test_torch_optim import CLASSES, TWINS, draw, near, refused, same, tensors, twins

SHAPES = [(7, 13), (1000,), (3, 5, 11), (65, 130)]


def saved(state_dict):
    """Through torch.save and back, without code."""
    file = io.BytesIO()
    torch.save(state_dict, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def run(optimizers, parameters, steps, seed):
    torch.manual_seed(seed)
    for _ in range(steps):
        draw(*parameters)
        for optimizer in optimizers:
            optimizer.step()


@pytest.mark.parametrize("how", ["state_dict", "deepcopy", "pickle"])
@pytest.mark.parametrize("name", CLASSES)
def test_resume_equals_the_straight_run(name, how):
    ours = tensors(SHAPES)
    first = CLASSES[name]([{"params": ours[:2]}, {"params": ours[2:], "lr": 0.01}])
    run([first], [ours], 3, 0)
    if how == "state_dict":
        others = twins(ours)
        second = CLASSES[name]([{"params": others[:2]}, {"params": others[2:]}])
        second.load_state_dict(saved(first.state_dict()))
    else:
        second = copy.deepcopy(first) if how == "deepcopy" else pickle.loads(pickle.dumps(first))
        others = [p for group in second.param_groups for p in group["params"]]
    assert second.param_groups[1]["lr"] == 0.01 and second.state_bytes() == first.state_bytes()
    run([first, second], [ours, others], 3, 1)
    assert same(ours, others)


@pytest.mark.parametrize("name", CLASSES)
def test_state_is_shown_without_copies(name):
    ours = tensors(SHAPES)
    optimizer = CLASSES[name](ours)
    run([optimizer], [ours], 2, 0)
    bytes_shown = 0
    for p in ours:
        views = optimizer.state[p]
        assert views["step"] == 2
        assert all(view.data_ptr() == again.data_ptr() for view, again in zip(views.values(), optimizer.state[p].values()))
        bytes_shown += sum(view.nbytes for view in views.values())
    assert bytes_shown == optimizer.state_bytes()
    kept = [view for key, view in optimizer.state[ours[3]].items() if key != "step"]
    before = [view.clone() for view in kept]
    run([optimizer], [ours], 1, 1)
    assert not kept or not all(torch.equal(x, y) for x, y in zip(kept, before))  # plain SGD keeps none
    del optimizer
    assert all(torch.isfinite(view.float()).all() for view in kept)  # they keep the memory


@pytest.mark.parametrize("options", [{}, {"momentum": 0.9, "dampening": 0.2}, {"momentum": 0.9}, {"weight_decay": 0.1}])
@pytest.mark.parametrize("name", TWINS)
def test_torchs_state_loads_here_and_ours_there(name, options):
    if not set(options) <= {option.name for option in CLASSES[name].options}:
        return
    theirs = tensors(SHAPES)
    first = getattr(torch.optim, name)(theirs, **options)
    run([first], [theirs], 3, 0)
    ours = twins(theirs)
    second = CLASSES[name](ours)
    second.load_state_dict(saved(first.state_dict()))
    run([first, second], [theirs, ours], 3, 1)
    near(ours, theirs)
    back = twins(ours)
    third = getattr(torch.optim, name)(back)
    third.load_state_dict(saved(second.state_dict()))
    run([second, third], [ours, back], 3, 2)
    near(ours, back)


def test_what_does_not_fit_is_named_and_changes_nothing():
    ours = tensors(SHAPES)
    optimizer = optim.AdamW(ours, lr=0.01)
    run([optimizer], [ours], 2, 0)
    good = saved(optimizer.state_dict())

    def broken(match, change):
        bad = copy.deepcopy(good)
        bad["param_groups"][0]["lr"] = 5.0
        change(bad)
        refused(match, lambda: optimizer.load_state_dict(bad))
        assert optimizer.param_groups[0]["lr"] == 0.01 and optimizer.state[ours[3]]["step"] == 2
        for key, value in good["state"][3].items():
            assert torch.equal(value, optimizer.state[ours[3]][key].to(value.dtype))

    broken("exp_avg_sq of parameter #3 is missing", lambda d: d["state"][3].pop("exp_avg_sq"))
    broken(r"exp_avg of parameter #3 is \[1\]; must be \[65, 130\]", lambda d: d["state"][3].update(exp_avg=torch.zeros(1)))
    broken("exp_avg of parameter #3 is torch.int64", lambda d: d["state"][3].update(exp_avg=torch.zeros(65, 130).long()))
    broken("exp_avg of parameter #3 is str", lambda d: d["state"][3].update(exp_avg="zeros"))
    broken("has max_exp_avg_sq for parameter #3", lambda d: d["state"][3].update(max_exp_avg_sq=torch.zeros(65, 130)))
    broken("parameter #3 was made by another algorithm: it holds momentum_buffer",
           lambda d: d["state"].update({3: {"momentum_buffer": torch.zeros(65, 130)}}))
    broken("step=-1.0 of parameter #3", lambda d: d["state"][3].update(step=torch.tensor(-1.0)))
    broken("different number of parameter groups", lambda d: d["param_groups"].append(d["param_groups"][0]))
    broken("group 0 has 3 parameters; here are 4", lambda d: d["param_groups"][0]["params"].pop())
    broken("no 'state'", lambda d: d.pop("state"))
    broken("amsgrad=True is not offered", lambda d: d["param_groups"][0].update(amsgrad=True))
    broken("eps=-3", lambda d: d["param_groups"][0].update(eps=-3))
    broken("betas", lambda d: d["param_groups"][0].update(betas=(0.9,)))
    run([optimizer], [ours], 1, 1)


def test_a_parameter_without_an_entry_starts_anew():
    ours = tensors(SHAPES)
    optimizer = optim.AdamW(ours)
    run([optimizer], [ours], 2, 0)
    state_dict = saved(optimizer.state_dict())
    del state_dict["state"][1]
    optimizer.load_state_dict(state_dict)
    assert optimizer.state[ours[1]]["step"] == 0 and optimizer.state[ours[1]]["exp_avg"].abs().max() == 0
    assert optimizer.state[ours[0]]["step"] == 2


def test_hooks_are_called():
    ours = tensors(SHAPES)
    optimizer, called = optim.AdamW(ours), []
    optimizer.register_state_dict_post_hook(lambda o, d: called.append("saved"))
    optimizer.register_load_state_dict_pre_hook(lambda o, d: called.append("before"))
    optimizer.register_load_state_dict_post_hook(lambda o: called.append("after"))
    optimizer.register_step_pre_hook(lambda o, a, k: called.append("step"))
    optimizer.load_state_dict(optimizer.state_dict())
    run([optimizer], [ours], 1, 0)
    assert called == ["saved", "before", "after", "step"]


def test_per_layer_goes_on_after_a_load():
    model = torch.nn.Linear(4, 2)
    optimizer = optim.AdamW(model.parameters(), per_layer=True)
    model(torch.randn(3, 4)).sum().backward()
    optimizer.load_state_dict(saved(optimizer.state_dict()))
    model(torch.randn(3, 4)).sum().backward()
    assert [int(optimizer.state[p]["step"]) for p in model.parameters()] == [2, 2]
