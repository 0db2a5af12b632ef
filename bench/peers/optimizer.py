# SPDX-License-Identifier: Apache-2.0
"""A step of our optimizers against PyTorch's and bitsandbytes' on the same threads, alternated, in one run.

Peers: torch.optim.AdamW(fused=True), and bitsandbytes' AdamW8bit on the CPU where it is installed. The limit is the in-place scaling of
one array, in the same rounds, at its bytes a second, over the bytes of the step: for a parameter in f32, 4 read and 4 written, 4 of its
gradient, and the state read and written, 8 + 8 bytes in 32 bits, 2 (1 + 4/256) + the same in 8.

    PYTHONPATH=python .venv/bin/python bench/peers/optimizer.py [--millions N] [--threads N] [--rounds N] [--record]
"""
import argparse
import os

import torch
from alternate import alternate, print_table, record, warn_if_busy
from dropin.torch import optim

BYTES = {32: 28.0, 8: 12 + 4 * (1 + 4 / 256)}  # of one step, a parameter
LARGE = "one tensor of {} M"
SMALL = "148 tensors of 1000"


def filled(shapes):
    """Parameters with gradients."""
    made = [torch.randn(shape).requires_grad_() for shape in shapes]
    for p in made:
        p.grad = torch.randn_like(p) * 0.01
    return made


def bitsandbytes_class():
    try:
        import bitsandbytes
    except Exception as error:  # it may be there and not load
        print(f"note: no bitsandbytes here ({type(error).__name__}: {error})")
        return None
    return bitsandbytes.optim.AdamW8bit


def state_bytes(optimizer):
    if hasattr(optimizer, "state_bytes"):
        return optimizer.state_bytes()
    flat = [entry.get("__bnb_optimizer_quant_state__", entry) for entry in optimizer.state.values()]
    return sum(t.nbytes for entry in flat for key, t in entry.items() if isinstance(t, torch.Tensor) and not key.startswith("qmap"))


def contenders(shapes, peer):
    """{name: optimizer}, each on parameters of its own."""
    made = {"dropin AdamW8bit": optim.AdamW8bit(filled(shapes)), "dropin AdamW": optim.AdamW(filled(shapes)),
            "torch AdamW(fused)": torch.optim.AdamW(filled(shapes), fused=True)}
    if peer:
        made["bitsandbytes AdamW8bit"] = peer(filled(shapes))
    return made


def measure(label, shapes, peer, rounds):
    made = contenders(shapes, peer)
    total = sum(torch.Size(shape).numel() for shape in shapes)
    array = torch.randn(total)
    runs = {name: optimizer.step for name, optimizer in made.items()}
    seconds = alternate({**runs, "scale": lambda: array.mul_(1.0000001)}, rounds)
    rate = 8 * total / seconds["scale"]
    rows = []
    for name, optimizer in made.items():
        bits = 8 if "8bit" in name and not label.startswith(SMALL) else 32
        limit = BYTES[bits] * total / rate
        rows.append([label, name, f"{1e3 * seconds[name]:.3f}", f"{seconds['torch AdamW(fused)'] / seconds[name]:.2f}",
                     f"{seconds['bitsandbytes AdamW8bit'] / seconds[name]:.2f}" if peer else "",
                     f"{100 * limit / seconds[name]:.0f} %" if not label.startswith(SMALL) else "", f"{state_bytes(optimizer) / total:.3f}"])
    if not label.startswith(SMALL):
        rows.append([label, "scaling in place", f"{1e3 * seconds['scale']:.3f}", "", "", f"{rate / 1e9:.1f} GB/s", ""])
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--millions", type=int, default=16, help="parameters of the large tensor, in units of 2^20")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--record", action="store_true", help="put the table into bench/results.csv")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    warn_if_busy(arguments.threads)
    peer = bitsandbytes_class()
    rows = measure(SMALL, [(1000,)] * 148, None, 5 * arguments.rounds)
    if peer:  # its step of many milliseconds leaves cold caches to whoever comes next: rounds of its own
        rows += measure(SMALL + ", with bitsandbytes", [(1000,)] * 148, peer, arguments.rounds)
    rows += measure(LARGE.format(arguments.millions), [(arguments.millions << 10, 1 << 10)], peer, arguments.rounds)
    titles = ["parameters", "optimizer", "ms a step", "PyTorch / it", "bitsandbytes / it", "of the limit", "state bytes a parameter"]
    print(f"{arguments.threads} threads; medians of {arguments.rounds} alternated steps, {5 * arguments.rounds} of the small tensors")
    print_table(titles, rows)
    if arguments.record:
        record("optimizer", titles, rows, arguments.threads)


if __name__ == "__main__":
    main()
