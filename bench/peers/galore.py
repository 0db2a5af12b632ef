# SPDX-License-Identifier: Apache-2.0
"""GaLore's step and its refresh against galore-torch and LAPACK on the same threads, alternated, in one run.

Step: ours against galore_torch's AdamW between refreshes, and torch.optim.AdamW(fused=True) of the same matrix. Refresh: our whole step
with a new basis (cold: random start; warm: from the old one, the gradient having moved) against torch.linalg.svd of the gradient alone,
whose singular values fall as 1/k; "energy" is that of our basis over that of the best one of its rank. galore-torch is left out where it
is not installed.

    PYTHONPATH=python .venv/bin/python bench/peers/galore.py [--threads N] [--rounds N] [--record]
"""
import argparse
import importlib
import importlib.util
import pathlib
import sys
import types

import torch
from alternate import alternate, print_table, record, warn_if_busy
from dropin.torch import optim

STEPS = [(512, 512, 128), (2048, 2048, 128), (2048, 2048, 512), (5461, 2048, 128)]
REFRESHES = [(512, 512, 128), (2048, 2048, 128)]


def official():
    """galore_torch.adamw without the parts of the package that want transformers; None where it is not installed."""
    found = importlib.util.find_spec("galore_torch")
    if found is None:
        return None
    package, versions = types.ModuleType("official_galore"), types.ModuleType("transformers.utils.versions")
    package.__path__ = [str(pathlib.Path(found.submodule_search_locations[0]))]
    versions.require_version = lambda *_: None
    held = sys.modules.get("transformers.utils.versions")
    sys.modules.update({"official_galore": package, "transformers.utils.versions": versions})
    try:
        return importlib.import_module("official_galore.adamw").AdamW
    finally:
        del sys.modules["transformers.utils.versions"]
        if held is not None:
            sys.modules["transformers.utils.versions"] = held


def falling(m, n):
    """Singular values 1, 1/2, 1/3, …"""
    side = min(m, n)
    left, right = (torch.linalg.qr(torch.randn(size, side)).Q for size in (m, n))
    return (left / torch.arange(1, side + 1)) @ right.T


def ours(parameter, rank, threads, **options):
    text = ",".join([f"rank={rank}", *(f"{key}={value}" for key, value in options.items())])
    return optim.GaLoreAdamW([parameter], lr=1e-3, projector=f"[galore:{text}]", threads=threads)


def with_gradient(gradient):
    parameter = torch.nn.Parameter(torch.randn(gradient.shape))
    parameter.grad = gradient.clone()
    return parameter


def measure_steps(shape, peer, threads, rounds):
    m, n, rank = shape
    gradient = falling(m, n)
    made = {"dropin": ours(with_gradient(gradient), rank, threads, gap=10**6),
            "fused AdamW": torch.optim.AdamW([with_gradient(gradient)], fused=True)}
    if peer:
        group = {"params": [with_gradient(gradient)], "rank": rank, "update_proj_gap": 10**6, "scale": 0.25, "proj_type": "std"}
        made["galore-torch"] = peer([group], lr=1e-3, no_deprecation_warning=True)
    for optimizer in made.values():
        optimizer.step()  # the first one finds the basis
    seconds = alternate({name: optimizer.step for name, optimizer in made.items()}, rounds)
    theirs = seconds.get("galore-torch")
    return [f"step {m}x{n}", rank, f"{1e3 * seconds['dropin']:.2f}", f"{1e3 * theirs:.2f}" if theirs else "-",
            f"{theirs / seconds['dropin']:.2f}" if theirs else "-", f"{1e3 * seconds['fused AdamW']:.2f}", "-"]


def energy(parameter, optimizer, gradient, rank):
    """Of the basis in the state, over that of the best basis."""
    state = optimizer.state[parameter]
    held = gradient @ state["basis_v"] if "basis_v" in state else state["basis_u"].T @ gradient
    best = torch.linalg.svdvals(gradient.double())[:rank]
    return float((held.double() ** 2).sum() / (best**2).sum())


def measure_refreshes(shape, threads, rounds):
    m, n, rank = shape
    gradient = falling(m, n)
    moved = [gradient + 0.003 * gradient.norm() / gradient.numel()**0.5 * torch.randn(m, n) for _ in range(4)]
    warm = with_gradient(gradient)
    follower = ours(warm, rank, threads, gap=1)
    follower.step()
    turn = 0

    def refresh():
        nonlocal turn
        turn += 1
        warm.grad.copy_(moved[turn % 4])
        follower.step()

    cold = {}

    def start():
        cold["p"] = with_gradient(gradient)
        cold["o"] = ours(cold["p"], rank, threads, gap=1)
        cold["o"].step()

    seconds = alternate({"warm": refresh, "cold": start, "svd": lambda: torch.linalg.svd(gradient, full_matrices=False)}, rounds)
    held = {"warm": energy(warm, follower, warm.grad, rank), "cold": energy(cold["p"], cold["o"], gradient, rank)}
    return [[f"{kind} refresh {m}x{n}", rank, f"{1e3 * seconds[kind]:.2f}", f"{1e3 * seconds['svd']:.2f}",
             f"{seconds['svd'] / seconds[kind]:.1f}", "-", f"{held[kind]:.5f}"] for kind in ("warm", "cold")]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--record", action="store_true", help="put the table into bench/results.csv")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    warn_if_busy(arguments.threads)
    peer = official()
    if peer is None:
        print("note: galore-torch is not installed")
    rows = [measure_steps(shape, peer, arguments.threads, arguments.rounds) for shape in STEPS]
    for shape in REFRESHES:
        rows += measure_refreshes(shape, arguments.threads, arguments.rounds)
    titles = ["what", "rank", "ours ms", "peer ms", "peer / ours", "fused AdamW ms", "energy"]
    print(f"PyTorch {torch.__version__}, {arguments.threads} threads, median of {arguments.rounds}, alternated; "
          "the peer of a step is galore-torch, of a refresh torch.linalg.svd\n")
    print_table(titles, rows)
    if arguments.record:
        record("galore", titles, rows, arguments.threads)


if __name__ == "__main__":
    main()
