# SPDX-License-Identifier: Apache-2.0
"""Reads and writes the optimizer state of bitsandbytes: `state1, absmax1, qmap1`, …, nested under a key of their own (0.49.2 on) or
flat; blocks of 2048 (up to 0.43) or 256. Their tables come along with the codes, which are decoded with them until the next step."""
import torch
from dropin._library import check, ffi, lib

NESTED = "__bnb_optimizer_quant_state__"
BLOCK = 256
_SQUARES = ("exp_avg_sq", "square_avg", "sum")  # never negative: in the unsigned map


def flatten(entry):
    """The nested layout as the flat one."""
    if NESTED not in entry:
        return entry
    return {**{key: value for key, value in entry.items() if key != NESTED}, **entry[NESTED]}


def is_one(entry):
    """Is this entry in the names of bitsandbytes?"""
    return "state1" in entry


def read_group(options, group):
    """The options that a group of theirs names. Its `betas` hold the momentum of SGD and the decay of RMSprop; its `alpha` is AdEMAMix's."""
    names = {option.name: option for option in options}
    made = {key: value for key, value in group.items() if key in ("lr", "eps", "weight_decay") and key in names}
    betas = tuple(group.get("betas", ()))
    if "betas" in names:
        made["betas"] = betas[:len(names["betas"].default)]
    elif betas and ("alpha" in names or "momentum" in names):
        made["alpha" if "alpha" in names else "momentum"] = betas[0]
    if "t_alpha" in names:
        made.update({key: group[key] for key in ("alpha", "t_alpha", "t_beta3") if key in group})
    strange = {"betas", "eps", "alpha", "t_alpha", "t_beta3", "params"}
    return {**made, **{key: value for key, value in group.items() if key not in names and key not in strange}}


def write_group(group):
    """A group of ours with the keys that theirs read."""
    betas = group.get("betas") or (group.get("alpha", group.get("momentum", 0.0)), group.get("dampening", 0.0))
    made = {**group, "betas": tuple(betas), "eps": group.get("eps", 0.0), "alpha": 0.0, "t_alpha": None, "t_beta3": None}
    if "t_alpha" in group:
        made.update({key: None if group[key] == "auto" else group[key] for key in ("alpha", "t_alpha", "t_beta3")})
    return made


def values_of(views):
    """The names of what is one value for each element, in the order of the rule."""
    shape = next((view.shape for key, view in views.items() if key != "step"), None)
    return [key for key, view in views.items() if key != "step" and not key.endswith(("_scale", "_table")) and view.shape == shape]


def block_of(owner, name, key, elements, scales, preferred=BLOCK):
    """The block that makes `scales` scales of so many elements."""
    for block in (preferred, 256, 2048, *(32 << i for i in range(8))):
        if -(-elements // block) == scales:
            return block
    raise ValueError(f"{owner}: {key} of parameter {name} has {scales} scales; {elements} elements have {-(-elements // 256)} in blocks of "
                     f"256, {-(-elements // 2048)} in blocks of 2048")


def _need(owner, name, entry, key):
    if key not in entry:
        raise ValueError(f"{owner}: {key} of parameter {name} is missing in the state dict")
    if not isinstance(entry[key], torch.Tensor):
        raise TypeError(f"{owner}: {key} of parameter {name} is {type(entry[key]).__name__}; must be a tensor")
    return entry[key]


def rename(owner, name, parameter, views, entry):
    """Their names as ours: {"step", "exp_avg", "exp_avg_scale", "exp_avg_table", …}."""
    wanted = values_of(views)
    found = []  # (codes or values, scales, table)
    for number in ("1", "2"):
        if f"state{number}" not in entry:
            continue
        state = _need(owner, name, entry, f"state{number}")
        pair = state.ndim == parameter.ndim + 1 and len(state) == 2  # two means in one tensor (AdEMAMix)
        parts = list(state) if pair else [state]
        if state.dtype != torch.uint8:
            found += [(part, None, None) for part in parts]
            continue
        table = _need(owner, name, entry, f"qmap{number}")
        if f"absmax{number}" in entry:
            scales = _need(owner, name, entry, f"absmax{number}")
            if pair and (scales.ndim != 2 or len(scales) != 2):
                raise ValueError(f"{owner}: absmax{number} of parameter {name} is {list(scales.shape)}; must have two rows")
            found += [(part, row, table) for part, row in zip(parts, scales if pair else [scales])]
        else:  # block_wise=False: one scale for all
            scale = _need(owner, name, entry, f"max{number}").float().reshape(1)
            found += [(part, scale.expand(-(-part.numel() // BLOCK)), table) for part in parts]
    if len(found) != len(wanted):
        raise ValueError(f"{owner}: the state of parameter {name} was made by another algorithm: bitsandbytes kept {len(found)} values an "
                         f"element; {owner} keeps {len(wanted)} ({', '.join(wanted)})")
    made = {"step": entry.get("step", 0)}
    for key, (values, scales, table) in zip(wanted, found):
        made[key] = values
        if scales is not None:
            made.update({f"{key}_scale": scales, f"{key}_table": table})
    return made


def load_codes(owner, name, instance, index, key, codes, scales, table, preferred):
    """Codes with the table that they were made with."""
    if codes.dtype != torch.uint8:
        raise TypeError(f"{owner}: {key} of parameter {name} is {codes.dtype}; must be torch.uint8")
    held = instance.parameters[index]
    if tuple(codes.shape) != tuple(held.shape):
        raise ValueError(f"{owner}: {key} of parameter {name} is {list(codes.shape)}; must be {list(held.shape)}")
    codes, scales, table = codes.contiguous(), scales.float().contiguous(), table.float().contiguous()
    block = block_of(owner, name, f"{key}_scale", codes.numel(), scales.numel(), preferred)
    pointer = [ffi.cast(f"{kind} *", tensor.data_ptr()) for kind, tensor in (("uint8_t", codes), ("float", scales), ("float", table))]
    check(lib.di_optimizer_load_codes(instance.handle, index, key.encode(), pointer[0], pointer[1], scales.numel(), block, pointer[2],
                                      table.numel()))


def _map(is_signed):
    values, count = torch.empty(256), ffi.new("int32_t *")
    check(lib.di_quantize_map(is_signed, 7, 8, ffi.cast("float *", values.data_ptr()), count))
    return values


def write(owner, index, group, entry):
    """Our entry of one parameter in their nested layout."""
    names = values_of(entry)
    others = [key for key in entry if key != "step" and key not in names and not key.removesuffix("_scale").removesuffix("_table") in names]
    pair = len(names) == 3 and names[0].endswith("_fast")
    if others or len(names) > 2 + pair:
        raise ValueError(f"{owner}: bitsandbytes has no place for {', '.join(others or names)} of parameter #{index}")
    coded = [key for key in names if f"{key}_scale" in entry]
    state = {}
    for number, keys in (("1", names[:1 + pair]), ("2", names[1 + pair:])):
        if not keys:
            continue
        tensors = [entry[key] for key in keys]
        state[f"state{number}"] = torch.stack(tensors) if pair and number == "1" else tensors[0]
        if not coded:
            continue
        scales = [entry[f"{key}_scale"] for key in keys]
        elements = tensors[0].numel()
        if -(-elements // BLOCK) != scales[0].numel():
            raise ValueError(f"{owner}: bitsandbytes has blocks of {BLOCK}; those of parameter #{index} are of {group.get('block')}")
        state[f"absmax{number}"] = torch.stack(scales) if pair and number == "1" else scales[0]
        is_signed = keys[0] not in _SQUARES or (group.get("compat") == "bnb" and number == "1")
        state[f"qmap{number}"] = entry.get(f"{keys[0]}_table", _map(is_signed))
    return {"step": int(entry["step"].item()), NESTED: state}
