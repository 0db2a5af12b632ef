# SPDX-License-Identifier: Apache-2.0
"""Our attention against PyTorch on the same threads, alternated, in one run.

Peers: F.scaled_dot_product_attention (fused) for softmax; sigmoid(q kᵀ s + b) v in eager mode for sigmoid. The limit is the product
rate of a large torch.mm that takes its turn in the same rounds. FLOPs: forward 4 B H n² d, backward 2.5 times that, causal half.

    PYTHONPATH=python .venv/bin/python bench/peers/attention.py [--threads N] [--rounds N] [--record]
"""
import argparse
import math
import os
import platform

import dropin
import torch
import torch.nn.functional as F
from alternate import alternate, print_table, record, warn_if_busy

SHAPES = [(4, 8, 1024, 64), (1, 8, 2048, 128), (1, 8, 256, 64), (1, 8, 1024, 64)]  # batch, heads, length, dim


class Contenders:
    """Everything that runs at one shape: ours on [batch, length, heads, dim], torch's on its transposed views of the same memory."""

    def __init__(self, shape, causal, threads):
        batch, heads, length, dim = shape
        self.q, self.k, self.v, self.d_out = (torch.randn(batch, length, heads, dim) for _ in range(4))
        self.causal, self.threads = causal, threads
        self.bias = -math.log(length)
        self.out = torch.empty_like(self.q)
        self.grads = [torch.empty_like(self.q) for _ in range(3)]
        # torch's own best layout: contiguous [batch, heads, length, dim]
        self.torch_inputs = [x.transpose(1, 2).contiguous().requires_grad_() for x in (self.q, self.k, self.v)]
        self.torch_d_out = self.d_out.transpose(1, 2).contiguous()
        self.keep = torch.ones(length, length, dtype=torch.bool).tril()
        self.ours = {"softmax": dropin.Attention("softmax"), "sigmoid": dropin.Attention(f"sigmoid:bias={self.bias}")}

    def ours_forward(self, kind):
        self.ours[kind].forward(self.q, self.k, self.v, self.out, causal=self.causal, threads=self.threads)

    def ours_both(self, kind):
        self.ours_forward(kind)
        self.ours[kind].backward(self.q, self.k, self.v, self.out, self.d_out, *self.grads, causal=self.causal,
                                 threads=self.threads)

    def torch_forward(self, kind, grad=False):
        q, k, v = self.torch_inputs if grad else [x.detach() for x in self.torch_inputs]
        if kind == "softmax":
            return F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        x = q @ k.transpose(2, 3) * q.shape[3] ** -0.5 + self.bias
        return torch.sigmoid(x.masked_fill(~self.keep, float("-inf")) if self.causal else x) @ v

    def torch_both(self, kind):
        torch.autograd.grad(self.torch_forward(kind, grad=True), self.torch_inputs, self.torch_d_out)


def measure(shape, causal, threads, rounds):
    batch, heads, length, dim = shape
    flops = 4 * batch * heads * length * length * dim * (0.5 if causal else 1)
    c = Contenders(shape, causal, threads)
    a, b, product = (torch.randn(2048, 2048) for _ in range(3))
    rows = []
    for pass_name, factor, ours, theirs in (("forward", 1, c.ours_forward, c.torch_forward),
                                            ("forward + backward", 3.5, c.ours_both, c.torch_both)):
        seconds = alternate({
            "softmax": lambda: ours("softmax"), "torch softmax": lambda: theirs("softmax"),
            "sigmoid": lambda: ours("sigmoid"), "torch sigmoid": lambda: theirs("sigmoid"),
            "mm": lambda: torch.mm(a, b, out=product),
        }, rounds)
        rate = 2 * 2048**3 / seconds["mm"]
        for kind in ("softmax", "sigmoid"):
            rows.append({
                "shape": "x".join(map(str, shape)), "mask": "causal" if causal else "full", "pass": pass_name, "part": kind,
                "ms": 1e3 * seconds[kind], "torch_ms": 1e3 * seconds["torch " + kind],
                "times_torch": seconds["torch " + kind] / seconds[kind],
                "of_softmax": seconds[kind] / seconds["softmax"],
                "of_product_rate": flops * factor / seconds[kind] / rate, "rate": rate / 1e9,
            })
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--record", action="store_true", help="put the table into bench/results.csv")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    warn_if_busy(arguments.threads)
    rows = [row for shape in SHAPES for causal in (False, True) for row in measure(shape, causal, arguments.threads, arguments.rounds)]
    rates = [row["rate"] for row in rows]
    print(f"PyTorch {torch.__version__}, dropin {dropin.__version__}, {arguments.threads} threads, {platform.machine()}; "
          f"product rate {min(rates):.0f} … {max(rates):.0f} GFLOP/s; median of {arguments.rounds}, alternated\n")
    titles = ["shape (B H n d)", "mask", "pass", "part", "ours ms", "PyTorch ms", "PyTorch / ours", "/ our softmax", "of product rate"]
    cells = [[r["shape"], r["mask"], r["pass"], r["part"], f"{r['ms']:.2f}", f"{r['torch_ms']:.2f}", f"{r['times_torch']:.2f}",
              f"{r['of_softmax']:.3f}", f"{100 * r['of_product_rate']:.0f} %"] for r in rows]
    print_table(titles, cells)
    if arguments.record:
        record("attention", titles, cells, arguments.threads)


if __name__ == "__main__":
    main()
