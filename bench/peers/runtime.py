# SPDX-License-Identifier: Apache-2.0
"""What it costs to alternate products of torch with our attention, on one OpenMP runtime: CALLS of either alone, then CALLS pairs.

Two runtimes would spin against each other: on two threads a small product then takes up to forty times as long.

    PYTHONPATH=python .venv/bin/python bench/peers/runtime.py [--threads N] [--rounds N] [--record]
"""
import argparse
import os

import dropin
import torch
from alternate import alternate, print_table, record, warn_if_busy
from dropin import _openmp

CALLS = 20
PRODUCTS = [(2048, 64, 64), (512, 512, 512), (1024, 1024, 1024)]
SHAPE = (1, 256, 8, 64)  # batch, length, heads, dim


def measure(product, threads, rounds):
    m, k, n = product
    a, b, c = torch.randn(m, k), torch.randn(k, n), torch.empty(m, n)
    q, out = torch.randn(SHAPE), torch.empty(SHAPE)
    ours = dropin.Attention("softmax")

    def run(with_torch, with_ours):
        for _ in range(CALLS):
            if with_torch:
                torch.mm(a, b, out=c)
            if with_ours:
                ours.forward(q, q, q, out, threads=threads)

    seconds = alternate({"torch": lambda: run(True, False), "ours": lambda: run(False, True), "both": lambda: run(True, True)}, rounds)
    alone = seconds["torch"] + seconds["ours"]
    return ["x".join(map(str, product)), *(f"{1e3 * seconds[name] / CALLS:.3f}" for name in ("torch", "ours", "both")),
            f"{seconds['both'] / alone:.2f}"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--record", action="store_true", help="put the table into bench/results.csv")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    warn_if_busy(arguments.threads)
    runtimes = _openmp.mapped()
    print(f"PyTorch {torch.__version__}, dropin {dropin.__version__}, {arguments.threads} threads; OpenMP: {', '.join(runtimes)}\n")
    rows = [measure(product, arguments.threads, arguments.rounds) for product in PRODUCTS]
    titles = ["torch.mm", "alone ms", "our attention alone ms", "a pair ms", "pair / both alone"]
    print_table(titles, rows)
    if arguments.record:
        record("runtime", titles, rows, arguments.threads)


if __name__ == "__main__":
    main()
