# SPDX-License-Identifier: Apache-2.0
"""8-bit state: its size, loading of 32-bit state, and checkpoints of bitsandbytes, old and new, both ways."""
import copy

import pytest
import torch
from dropin._library import check, execution, ffi, lib
from dropin.torch import optim
from test_torch_optim import CLASSES, draw, near, refused, same, twins
from test_torch_optim_state import run, saved

N = 5000  # elements of the large tensor: neither a multiple of 256 nor of 2048
# ours, theirs, keywords of both, keywords of theirs
PEERS = [("AdamW8bit", "AdamW8bit", {}, {}), ("Lion8bit", "Lion8bit", {}, {}), ("SGD8bit", "SGD8bit", {"lr": 0.01, "momentum": 0.9}, {}),
         ("RMSprop8bit", "RMSprop8bit", {"lr": 0.01}, {}), ("Adagrad8bit", "Adagrad8bit", {"lr": 0.01}, {}),
         ("AdEMAMix8bit", "AdEMAMix8bit", {}, {}), ("AdamW", "AdamW32bit", {}, {})]


def parameters():
    torch.manual_seed(7)
    return [torch.randn(50, N // 50).requires_grad_(), torch.randn(300).requires_grad_()]


def quantise(values, is_signed, block):
    """Codes, scales and table of a tensor, with a table that is a little off ours, as theirs is."""
    values = values.contiguous()
    table, count = torch.empty(256), ffi.new("int32_t *")
    check(lib.di_quantize_map(is_signed, 7, 8, ffi.cast("float *", table.data_ptr()), count))
    table = torch.where(torch.arange(256) % 3 == 0, table * (1 + 2.0**-23), table).clamp(-1, 1)
    blocks = -(-values.numel() // block)
    padded = torch.nn.functional.pad(values.flatten(), (0, blocks * block - values.numel())).view(blocks, block)
    scales = padded.abs().amax(1)
    codes = torch.bucketize(padded / scales[:, None], (table[:-1] + table[1:]) / 2)
    return codes.flatten()[:values.numel()].to(torch.uint8).view(values.shape), scales, table


def bnb_entry(p, block=256, nested=True, seed=3):
    torch.manual_seed(seed)
    entry = {}
    for number, value in (("1", torch.randn(p.shape)), ("2", torch.rand(p.shape))):
        entry[f"state{number}"], entry[f"absmax{number}"], entry[f"qmap{number}"] = quantise(value, number == "1", block)
    return {"step": 3, "__bnb_optimizer_quant_state__": entry} if nested else {"step": 3, **entry}


def decoded(entry, number, block):
    codes, scales, table = (entry[f"{key}{number}"] for key in ("state", "absmax", "qmap"))
    return (table[codes.long()].flatten() * scales.repeat_interleave(block)[:codes.numel()]).view(codes.shape)


def bnb_dict(ps, **keywords):
    small = {"step": 3, "state1": torch.randn(300), "state2": torch.rand(300)}
    if keywords.get("nested", True):
        small = {"step": 3, "__bnb_optimizer_quant_state__": {k: v for k, v in small.items() if k != "step"}}
    group = {"lr": 0.02, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.01, "alpha": 0.0, "t_alpha": None, "t_beta3": None,
             "params": [0, 1]}
    return {"state": {0: bnb_entry(ps[0], **keywords), 1: small}, "param_groups": [group]}


def test_state_is_two_bytes_an_element():
    ps = [torch.randn(1 << 18).requires_grad_()]
    optimizer = optim.AdamW8bit(ps)
    assert 2.03 < optimizer.state_bytes() / (1 << 18) <= 2.04
    assert optim.AdamW(ps).state_bytes() == 8 * (1 << 18) + 8
    shown = optimizer.state[ps[0]]
    assert shown["exp_avg"].dtype == torch.uint8 and shown["exp_avg_scale"].shape == (1024,)


@pytest.mark.parametrize("nested", [True, False])
@pytest.mark.parametrize("block", [256, 2048])
def test_their_codes_are_decoded_with_their_table(block, nested):
    ps = parameters()
    state_dict = saved(bnb_dict(ps, block=block, nested=nested))
    entry = bnb_entry(ps[0], block=block, nested=False)
    means = [decoded(entry, number, block) for number in "12"]
    optimizer = optim.AdamW8bit(ps)
    optimizer.load_state_dict(state_dict)
    assert optimizer.state[ps[0]]["step"] == 3 and optimizer.param_groups[0]["lr"] == 0.02
    assert torch.equal(optimizer.state[ps[0]]["exp_avg"], entry["state1"])
    # the next step equals one of torch's from the decoded means
    theirs = twins(ps)
    reference = torch.optim.AdamW(theirs)
    copied = saved(optimizer.state_dict())
    again = optim.AdamW8bit(twins(ps))
    again.load_state_dict(copied)  # tables and all
    draw(ps, theirs, again.param_groups[0]["params"])
    reference.load_state_dict({"param_groups": [{**reference.state_dict()["param_groups"][0], "lr": 0.02, "betas": (0.9, 0.95)}], "state": {
        0: {"step": torch.tensor(3.0), "exp_avg": means[0].clone(), "exp_avg_sq": means[1].clone()},
        1: {key: copied["state"][1][key] for key in ("step", "exp_avg", "exp_avg_sq")}}})
    for o in (optimizer, reference, again):
        o.step()
    near(ps, theirs)
    assert same(ps, again.param_groups[0]["params"])
    assert set(optimizer.state[ps[0]]) == {"step", "exp_avg", "exp_avg_scale", "exp_avg_sq", "exp_avg_sq_scale"}
    # 32 bits take the values
    wide = optim.AdamW(parameters())
    wide.load_state_dict(state_dict)
    assert torch.equal(wide.state[wide.param_groups[0]["params"][0]]["exp_avg"], means[0])


def test_one_scale_for_a_whole_tensor():
    ps = parameters()
    state_dict = bnb_dict(ps, nested=False)
    entry = state_dict["state"][0]
    for number in "12":
        del entry[f"absmax{number}"]
        entry[f"max{number}"], entry[f"new_max{number}"] = torch.tensor([2.5]), torch.tensor([0.0])
    optimizer = optim.AdamW8bit(ps)
    optimizer.load_state_dict(state_dict)
    assert (optimizer.state[ps[0]]["exp_avg_scale"] == 2.5).all()


@pytest.mark.parametrize("name", ["AdamW", "Adam", "SGD", "RMSprop", "Adagrad"])
def test_32_bit_state_of_torch_becomes_codes(name):
    keywords = {"lr": 0.01, "momentum": 0.9} if name == "SGD" else {"lr": 0.01}
    theirs = parameters()
    first = getattr(torch.optim, name)(theirs, **keywords)
    run([first], [theirs], 3, 0)
    ours = twins(theirs)
    second = CLASSES[name + "8bit"](ours, **keywords)
    second.load_state_dict(saved(first.state_dict()))
    shown = second.state[ours[0]]
    assert shown["step"] == (3 if name != "SGD" else 1) and torch.uint8 in {view.dtype for view in shown.values()}
    assert second.state[ours[1]]["step"] == shown["step"]
    run([first, second], [theirs, ours], 1, 1)
    assert (ours[1] - theirs[1]).abs().max() < 1e-6 * theirs[1].abs().max() and (ours[0] - theirs[0]).abs().mean() < 1e-3


def test_what_does_not_fit_is_named_and_changes_nothing():
    ps = parameters()
    optimizer = optim.AdamW8bit(ps)
    run([optimizer], [ps], 2, 0)
    before = saved(optimizer.state_dict())
    good = bnb_dict(ps)

    def broken(match, change):
        bad = copy.deepcopy(good)
        change(bad["state"][0]["__bnb_optimizer_quant_state__"])
        refused(match, lambda: optimizer.load_state_dict(bad))
        now = optimizer.state_dict()["state"]
        for index, entry in before["state"].items():
            assert all(torch.equal(value, now[index][key]) for key, value in entry.items())

    broken("absmax2 of parameter #0 is missing|max2 of parameter #0 is missing", lambda e: e.pop("absmax2"))
    broken("qmap1 of parameter #0 is missing", lambda e: e.pop("qmap1"))
    broken("7 scales; 5000 elements have 20 in blocks of 256", lambda e: e.update(absmax1=torch.ones(7)))
    broken("descend|ascend|sorted", lambda e: e.update(qmap1=e["qmap1"].flip(0)))
    broken("256", lambda e: e.update(qmap1=e["qmap1"][:255]))
    broken("another algorithm: bitsandbytes kept 1 values", lambda e: e.pop("state2"))
    broken(r"exp_avg of parameter #0 is \[5\]; must be \[50, 100\]", lambda e: e.update(state1=e["state1"].flatten()[:5]))
    run([optimizer], [ps], 1, 0)


def test_what_bitsandbytes_cannot_hold_is_named():
    ps = parameters()
    refused("blocks of 256; those of parameter #0 are of 64", optim.AdamW8bit(ps, block=64).to_bitsandbytes)
    refused("no place for", optim.RMSprop8bit(ps, momentum=0.9, centered=True).to_bitsandbytes)


@pytest.mark.parametrize("ours,theirs,keywords,more", PEERS, ids=[p[0] for p in PEERS])
def test_to_and_from_bitsandbytes(ours, theirs, keywords, more):
    try:
        bitsandbytes = pytest.importorskip("bitsandbytes", reason="SKIPPED: bitsandbytes is not installed")
    except Exception as error:
        pytest.skip(f"SKIPPED: bitsandbytes does not import here: {error}")
    peer_class = getattr(bitsandbytes.optim, theirs, None)
    if peer_class is None:
        pytest.skip(f"SKIPPED: this bitsandbytes has no {theirs}")
    ps = parameters()
    peer = peer_class(ps, **keywords, **more)
    run([peer], [ps], 3, 0)
    qs = twins(ps)
    mine = CLASSES[ours](qs, **keywords)
    mine.load_state_dict(saved(peer.state_dict()))
    assert mine.state[qs[0]]["step"] == 3
    back = mine.to_bitsandbytes()
    for index, entry in peer.state_dict()["state"].items():
        theirs_flat = entry.get("__bnb_optimizer_quant_state__", entry)
        for key, value in back["state"][index]["__bnb_optimizer_quant_state__"].items():
            assert torch.equal(value, theirs_flat[key]), key  # codes, scales and tables as they were
    other = peer_class(twins(ps), **keywords, **more)
    other.load_state_dict(back)
    rs = other.param_groups[0]["params"]
    run([peer, other, mine], [ps, rs, qs], 1, 1)
    assert same(ps, rs)
    # small tensors are in 32 bits on both sides
    near([qs[1]], [ps[1]], 1e-5)
    assert (qs[0] - ps[0]).abs().max() < 2e-3 * ps[0].abs().max()
    once_more = peer_class(twins(qs), **keywords, **more)
    once_more.load_state_dict(mine.to_bitsandbytes())
    run([mine, once_more], [qs, once_more.param_groups[0]["params"]], 2, 2)
    near([qs[1]], [once_more.param_groups[0]["params"][1]], 1e-5)
