# SPDX-License-Identifier: Apache-2.0
"""State dicts: ours and torch's are one format, {"state": {index: {name: tensor}}, "param_groups": [...]}."""
import copy
import itertools

import torch
from dropin.torch import _bitsandbytes
from dropin.torch._instance import is_dtensor, local

_EXACT = 1 << 24  # whole numbers that float32, torch's dtype of "step", holds


def step_tensor(steps):
    """The step as torch keeps it: a float tensor without dimensions."""
    return torch.tensor(float(steps), dtype=torch.float32 if steps <= _EXACT else torch.float64)


# ---- sharded parameters ------------------------------------------------------------------------------------------------------


def sharded_like(parameter, view):
    """A state tensor of a shard as a distributed tensor: of the parameter's shape, or scales of its blocks where every shard has whole
    blocks; anything else (the step) stays plain."""
    from torch.distributed.tensor import DTensor

    if view.shape == parameter._local_tensor.shape and view.ndim:
        return DTensor.from_local(view, parameter.device_mesh, parameter.placements, run_check=False, shape=parameter.shape,
                                  stride=parameter.stride())
    mesh, placements = parameter.device_mesh, parameter.placements
    if view.ndim == 1 and mesh.ndim == 1 and placements[0].is_shard(0) and view.numel():
        block = -(-parameter._local_tensor.numel() // view.numel())
        block = 1 << (block - 1).bit_length()
        total = -(-parameter.numel() // block)
        rows, each = parameter.shape[0], parameter.numel() // max(1, parameter.shape[0])
        chunk, chunk_of_scales = -(-rows // mesh.size()), -(-total // mesh.size())
        if chunk * each % block == 0 and chunk * each // block == chunk_of_scales:
            return DTensor.from_local(view, mesh, placements, run_check=False, shape=(total,), stride=(1,))
    return view


def _refuse_torn(optimizer, index, parameter, entry):
    for key, value in entry.items():
        if key != "step" and is_dtensor(parameter) and not is_dtensor(value) and value.ndim:
            raise RuntimeError(f"{type(optimizer).__name__}: {key} of parameter #{index} cannot be gathered: blocks of its state lie across "
                               "shards; choose a block that divides the shards, or bits=32")


# ---- writing -----------------------------------------------------------------------------------------------------------------


def write(optimizer, packed):
    """torch's state_dict() with steps as torch keeps them."""
    by_index = dict(enumerate(itertools.chain.from_iterable(group["params"] for group in optimizer.param_groups)))
    state = {}
    for index, entry in packed["state"].items():
        if index in by_index:
            _refuse_torn(optimizer, index, by_index[index], entry)
            entry = {**entry, "step": step_tensor(entry["step"].item())}
        state[index] = entry
    return {**packed, "state": state}


def to_bitsandbytes(optimizer):
    packed = optimizer.state_dict()
    groups = [group for group in optimizer.param_groups for _ in group["params"]]
    state = {index: _bitsandbytes.write(type(optimizer).__name__, index, groups[index], entry) for index, entry in packed["state"].items()}
    return {**packed, "state": state, "param_groups": [_bitsandbytes.write_group(group) for group in packed["param_groups"]]}


# ---- reading -----------------------------------------------------------------------------------------------------------------


def _steps_of(owner, name, entry):
    """The step; SGD of torch keeps none: 1 where there is a buffer."""
    step = entry.get("step")
    if step is None:
        return int(any(isinstance(value, torch.Tensor) for value in entry.values()))
    step = step.item() if isinstance(step, torch.Tensor) else step
    if not float(step).is_integer() or step < 0:
        raise ValueError(f"{owner}: step={step} of parameter {name}; must be a whole number of at least 0")
    return int(step)


def _check_entry(owner, name, views, entry):
    wanted, there = [key for key in views if key != "step"], [key for key in entry if key != "step"]
    keeps = f"{owner} keeps {', '.join(wanted) or 'nothing'}"
    if there and wanted and not set(wanted) & set(there):
        raise ValueError(f"{owner}: the state of parameter {name} was made by another algorithm: it holds {', '.join(there)}; {keeps}")
    for key in wanted:
        if key not in entry:
            raise ValueError(f"{owner}: {key} of parameter {name} is missing in the state dict; it holds {', '.join(there) or 'nothing'}")
    for key in there:
        if key not in views:
            raise ValueError(f"{owner}: the state dict has {key} for parameter {name}; {keeps}")
        value, view = entry[key], views[key]
        if not isinstance(value, torch.Tensor):
            raise TypeError(f"{owner}: {key} of parameter {name} is {type(value).__name__}; must be a tensor")
        if value.shape != view.shape and not (is_dtensor(view) and value.shape == local(view).shape):
            raise ValueError(f"{owner}: {key} of parameter {name} is {list(value.shape)}; must be {list(view.shape)}")
        if value.is_complex() or value.is_floating_point() != view.is_floating_point():
            raise TypeError(f"{owner}: {key} of parameter {name} is {value.dtype}; must be {view.dtype}")


def _copy(view, value):
    if is_dtensor(view) and not is_dtensor(value) and value.shape == view.shape and value.shape != local(view).shape:
        from torch.distributed.tensor import distribute_tensor

        value = distribute_tensor(value, view.device_mesh, view.placements)
    local(view).copy_(local(value))


def _with_tables(views, entry):
    """The values whose codes came with a table of their own."""
    return [key for key in entry if key in views and f"{key}_scale" in entry and f"{key}_table" in entry]


def take(optimizer, name, parameter, group, entry):
    """Writes the entry of one parameter into its fresh state."""
    owner, instance, index = type(optimizer).__name__, optimizer._instance, optimizer._place[id(parameter)]
    entry = _bitsandbytes.flatten({key: value for key, value in entry.items() if value is not None})
    views = optimizer.state[parameter]
    if _bitsandbytes.is_one(entry):
        entry = _bitsandbytes.rename(owner, name, parameter, views, entry)
    steps = _steps_of(owner, name, entry)
    if not steps and not any(key != "step" for key in entry):
        return 0
    coded = [key for key in views if f"{key}_scale" in views]
    plain = coded and all(isinstance(entry.get(key), torch.Tensor) and entry[key].is_floating_point() for key in coded)
    if plain:  # 32-bit state for an optimizer in 8 bits
        views = optimizer._convert(index, parameter, 32)
    theirs = _with_tables(views, entry)
    apart = {part for key in theirs for part in (key, f"{key}_scale", f"{key}_table")}
    rest = {key: value for key, value in entry.items() if key not in apart}
    views = {key: view for key, view in views.items() if key not in apart}
    _check_entry(owner, name, views, rest)
    for key in views:
        if key != "step":
            _copy(views[key], rest[key])
    for key in theirs:
        _bitsandbytes.load_codes(owner, name, instance, index, key, *(local(entry[part]) for part in (key, f"{key}_scale", f"{key}_table")),
                                 group.get("block"))
    if plain or theirs:
        views = optimizer._convert(index, parameter, 8) if plain else optimizer._show(index, parameter)
    local(views["step"]).fill_(steps)
    return steps


def load(optimizer, state_dict):
    """Optimizer.load_state_dict: into a fresh instance, which takes the old one's place when everything has fitted."""
    owner = type(optimizer).__name__
    state_dict = state_dict.copy()
    for hook in optimizer._optimizer_load_state_dict_pre_hooks.values():
        result = hook(optimizer, state_dict)
        state_dict = state_dict if result is None else result
    for key in ("state", "param_groups"):
        if key not in state_dict:
            raise ValueError(f"{owner}: the state dict has no {key!r}")
    groups, saved = optimizer.param_groups, copy.deepcopy(state_dict["param_groups"])
    if len(groups) != len(saved):
        raise ValueError(f"{owner}: loaded state dict has a different number of parameter groups: {len(saved)}; here are {len(groups)}")
    for number, (group, theirs) in enumerate(zip(groups, saved)):
        if len(group["params"]) != len(theirs["params"]):
            raise ValueError(f"{owner}: loaded state dict contains a parameter group that doesn't match the size of optimizer's group: "
                             f"group {number} has {len(theirs['params'])} parameters; here are {len(group['params'])}")
        for key, value in theirs.items():
            optimizer._check_switch(key, value)
    if any(isinstance(entry, dict) and _bitsandbytes.is_one(_bitsandbytes.flatten(entry)) for entry in state_dict["state"].values()):
        saved = [{**_bitsandbytes.read_group(optimizer.options, theirs), "params": theirs["params"]} for theirs in saved]
    before = optimizer._keep()
    try:
        for group, theirs in zip(groups, saved):
            group.update({key: value for key, value in theirs.items() if key != "params"})
        optimizer._renew(before["order"])
        most = 0
        for number, (group, theirs) in enumerate(zip(groups, saved)):
            names = optimizer._names(number)
            entries = [(p, state_dict["state"].get(index)) for index, p in zip(theirs["params"], group["params"])]
            optimizer._admit(number, [p for p, entry in entries if entry])
            for parameter, entry in entries:
                if entry:
                    most = max(most, take(optimizer, names[id(parameter)], parameter, group, entry))
        optimizer._instance.set_steps(most)
    except Exception:
        optimizer._bring_back(before)
        raise
    optimizer._let_go(before)
    known = {index for theirs in saved for index in theirs["params"]}
    optimizer.state.update({key: value for key, value in state_dict["state"].items() if key not in known})
    for hook in optimizer._optimizer_load_state_dict_post_hooks.values():
        hook(optimizer)
