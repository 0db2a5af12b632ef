# SPDX-License-Identifier: Apache-2.0
"""Two gloo processes on this machine: DistributedDataParallel, FSDP2; the state gathered, saved and reloaded by one process."""
import pytest
import torch
import torch.distributed
import torch.multiprocessing
from dropin.torch import optim
from test_torch_optim import CLASSES, near, refused

STEPS = 3


def model():
    torch.manual_seed(5)
    return torch.nn.Sequential(torch.nn.Linear(8, 33), torch.nn.Tanh(), torch.nn.Linear(33, 6))


def batch(step):
    return torch.randn(4, 8, generator=torch.Generator().manual_seed(step))


def train(net, optimizer, steps, rows=slice(None)):
    for step in steps:
        optimizer.zero_grad()
        net(batch(step)[rows]).square().mean().backward()
        optimizer.step()


def straight(name, steps):
    net = model()
    optimizer = CLASSES[name](net.parameters(), lr=0.01)
    train(net, optimizer, range(steps))
    return net, optimizer


def data_parallel(rank):
    net = torch.nn.parallel.DistributedDataParallel(model())
    optimizer = optim.AdamW(net.parameters(), lr=0.01)
    train(net, optimizer, range(STEPS), slice(2 * rank, 2 * rank + 2))
    near(net.parameters(), straight("AdamW", STEPS)[0].parameters(), 1e-5)


def shards(rank, folder):
    from torch.distributed.checkpoint.state_dict import (StateDictOptions, get_model_state_dict, get_optimizer_state_dict,
                                                         set_optimizer_state_dict)
    from torch.distributed.fsdp import fully_shard

    whole = StateDictOptions(full_state_dict=True)
    net = fully_shard(model())
    optimizer = optim.AdamW(net.parameters(), lr=0.01)
    train(net, optimizer, range(STEPS))
    expected, one = straight("AdamW", STEPS)
    near([p.full_tensor() for p in net.parameters()], expected.parameters(), 1e-6)
    gathered = get_optimizer_state_dict(net, optimizer, options=whole)
    weights = get_model_state_dict(net, options=whole)
    if rank == 0:
        for name, p in expected.named_parameters():
            near([gathered["state"][name]["exp_avg"]], [one.state[p]["exp_avg"]], 1e-6)
        torch.save({"weights": weights, "optimizer": gathered}, folder / "whole.pt")
    torch.distributed.barrier()
    # what was gathered goes back to the shards of a fresh optimizer
    again = fully_shard(model())
    other = optim.AdamW(again.parameters(), lr=0.5)
    read = torch.load(folder / "whole.pt", weights_only=True)
    torch.distributed.checkpoint.state_dict.set_model_state_dict(again, read["weights"], options=whole)
    set_optimizer_state_dict(again, other, read["optimizer"], options=whole)
    for o, n in ((optimizer, net), (other, again)):
        train(n, o, [STEPS])
    for p, q in zip(net.parameters(), again.parameters()):
        assert torch.equal(p.to_local(), q.to_local())
    assert other.param_groups[0]["lr"] == 0.01
    sharded = list(net.parameters())
    refused(r"parameter #0 is distributed .* and max_norm", lambda: optim.AdamW(sharded, max_norm=1.0))
    refused(r"parameter #0 is distributed .* and per_layer", lambda: optim.AdamW(sharded, per_layer=True))
    for name, made in CLASSES.items():  # every other one works or is refused by name
        try:
            third = made(sharded)
        except ValueError as error:
            assert "is distributed" in str(error)
            continue
        train(net, third, [STEPS + 1])


EIGHT = {"lr": 0.01, "block": 32, "min_8bit_size": 64}


def wide():
    torch.manual_seed(6)
    return torch.nn.Linear(32, 16)  # two shards of 8 blocks of 32


def train_wide(net, optimizer, steps):
    for step in steps:
        optimizer.zero_grad()
        net(torch.randn(4, 32, generator=torch.Generator().manual_seed(step))).square().mean().backward()
        optimizer.step()


def codes(rank, folder):
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict, get_optimizer_state_dict
    from torch.distributed.fsdp import fully_shard

    whole = StateDictOptions(full_state_dict=True)
    net = fully_shard(wide())
    optimizer = optim.AdamW8bit(net.parameters(), **EIGHT)
    train_wide(net, optimizer, range(STEPS))
    kept = {"optimizer": get_optimizer_state_dict(net, optimizer, options=whole), "weights": get_model_state_dict(net, options=whole)}
    train_wide(net, optimizer, [STEPS])
    kept["after"] = get_model_state_dict(net, options=whole)
    if rank == 0:
        torch.save(kept, folder / "codes.pt")
    torn = optim.AdamW8bit(fully_shard(model()).parameters(), **EIGHT)
    refused("exp_avg_scale of parameter #0 cannot be gathered: blocks of its state lie across shards", torn.state_dict)


def worker(rank, folder):
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    try:
        data_parallel(rank)
        shards(rank, folder)
        codes(rank, folder)
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="this PyTorch has no gloo")
def test_two_processes(tmp_path):
    torch.multiprocessing.spawn(worker, (tmp_path,), nprocs=2)
    from torch.distributed.checkpoint.state_dict import StateDictOptions, set_optimizer_state_dict

    read = torch.load(tmp_path / "whole.pt", weights_only=True)
    net = model()
    net.load_state_dict(read["weights"])
    optimizer = optim.AdamW(net.parameters())
    set_optimizer_state_dict(net, optimizer, read["optimizer"], options=StateDictOptions(full_state_dict=True))
    train(net, optimizer, [STEPS])
    near(net.parameters(), straight("AdamW", STEPS + 1)[0].parameters(), 1e-5)
    read = torch.load(tmp_path / "codes.pt", weights_only=True)
    net = wide()
    net.load_state_dict(read["weights"])
    optimizer = optim.AdamW8bit(net.parameters(), **EIGHT)
    set_optimizer_state_dict(net, optimizer, read["optimizer"], options=StateDictOptions(full_state_dict=True))
    assert optimizer.state[net.weight]["exp_avg"].dtype == torch.uint8 and optimizer.state[net.weight]["exp_avg_scale"].shape == (16,)
    train_wide(net, optimizer, [STEPS])
    near(net.parameters(), read["after"].values(), 1e-5)
