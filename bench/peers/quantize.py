# SPDX-License-Identifier: Apache-2.0
"""Our 8-bit block codec against bitsandbytes' on the CPU, on the same threads, alternated, in one run.

Both encode and decode blocks of 256 f32 values. Ours writes into memory that is there; theirs is the operator that its optimizers call,
which allocates its results. The limit is an in-place scaling by torch that takes its turn in the same rounds: 8 bytes an element
against 5 and a scale's 4/256.

A second table counts what the definition says: the code of s = x / absmax is the number of mid-points of the map strictly below s. Each
side is judged by its own map; a table value comes back when encoding it, in a block whose absmax is 1, gives its own index.

    .venv/bin/pip install --no-deps bitsandbytes
    PYTHONPATH=python .venv/bin/python bench/peers/quantize.py [--threads N] [--rounds N] [--record]
"""
import argparse
import os
import platform

import bitsandbytes
import bitsandbytes.functional
import dropin
import torch
from alternate import alternate, print_table, record, warn_if_busy
from dropin._array import fill_tensor
from dropin._library import check, execution, ffi, lib

BLOCK = 256
SIZES = [1 << 20, 1 << 24]


class Ours:
    """di_quantize and di_dequantize over torch's memory."""

    def __init__(self, signed, threads):
        self.exec = execution(threads)
        self.options = ffi.new("di_quantize_options *")
        check(lib.di_quantize_defaults(self.options))
        self.options.block, self.options.is_signed = BLOCK, signed
        values, count = ffi.new("float[256]"), ffi.new("int32_t *")
        check(lib.di_quantize_map(signed, 7, 8, values, count))
        self.map = torch.tensor(list(values), dtype=torch.float32)

    def prepare(self, x):
        self.codes = torch.empty(x.shape, dtype=torch.uint8)
        self.scales = torch.empty((x.numel() + BLOCK - 1) // BLOCK)
        self.back = torch.empty_like(x)
        self.tensors = [fill_tensor(ffi.new("di_tensor *"), a) for a in (x, self.codes, self.scales, self.back)]

    def quantize(self):
        x, codes, scales, _ = self.tensors
        check(lib.di_quantize(self.exec, x, self.options, codes, scales))

    def dequantize(self):
        _, codes, scales, back = self.tensors
        check(lib.di_dequantize(self.exec, codes, scales, self.options, back))


class Theirs:
    def __init__(self, signed):
        self.map = bitsandbytes.functional.create_dynamic_map(signed=signed).to(torch.float32)

    def prepare(self, x):
        self.x = x

    def quantize(self):
        self.codes, self.scales = torch.ops.bitsandbytes.quantize_blockwise.default(self.x, self.map, BLOCK)

    def dequantize(self):
        self.back = torch.ops.bitsandbytes.dequantize_blockwise.default(self.codes, self.scales, self.map, BLOCK, torch.float32)


def sample(signed, count):
    x = torch.randn(count)
    return x if signed else x * x  # what Adam's two states look like


def measure(signed, count, threads, rounds):
    x, other = sample(signed, count), torch.ones(count)
    ours, theirs = Ours(signed, threads), Theirs(signed)
    for side in (ours, theirs):
        side.prepare(x)
        side.quantize()
    seconds = alternate({"ours q": ours.quantize, "theirs q": theirs.quantize, "ours d": ours.dequantize, "theirs d": theirs.dequantize,
                         "scale": lambda: other.mul_(1.0000001)}, rounds)
    limit = 8 * count / seconds["scale"]
    each = 5 + 4 / BLOCK
    rows = []
    for letter, name in (("q", "quantize"), ("d", "dequantize")):
        mine, peer = seconds["ours " + letter], seconds["theirs " + letter]
        rows.append([name, "signed" if signed else "unsigned", f"{count >> 20} M", f"{1e9 * mine / count:.3f}", f"{1e9 * peer / count:.3f}",
                     f"{peer / mine:.2f}", f"{each * count / mine / 1e9:.1f}", f"{each * count / mine / limit:.2f}"])
    return rows


def misses(side, x):
    """Codes that are not the definition's, zeros that do not stay zero; x is in whole blocks."""
    side.prepare(x)
    side.quantize()
    side.dequantize()
    blocks = x.view(-1, BLOCK)
    most = blocks.abs().amax(1, keepdim=True)
    middles = (side.map[1:] + side.map[:-1]) * 0.5
    want = torch.bucketize(blocks / most, middles).to(torch.uint8).view(-1)
    return int((side.codes.view(-1) != want).sum()), int(((x == 0) & (side.back.view(-1) != 0)).sum())


def judge(signed, side):
    total = 1 << 20
    normal = misses(side, sample(signed, total))[0]
    decades = sample(signed, total) * torch.exp2(-24 * torch.rand(total))
    alone = torch.zeros(total)  # a weight with a gradient among 255 without
    alone[::BLOCK] = 1 + torch.rand(total // BLOCK)
    moved = misses(side, alone)[1]
    block = torch.ones(256, BLOCK)
    block[:, 1] = side.map
    misses(side, block.view(-1))
    lost = int((side.codes.view(-1, BLOCK)[:, 1] != torch.arange(256)).sum())
    zeros = total - total // BLOCK
    return [f"{1e6 * normal / total:.0f}", f"{1e6 * misses(side, decades)[0] / total:.0f}", f"{moved / zeros:.3f}", str(lost)]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--record", action="store_true", help="put the tables into bench/results.csv")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    warn_if_busy(arguments.threads)
    rows = [row for count in SIZES for signed in (True, False) for row in measure(signed, count, arguments.threads, arguments.rounds)]
    print(f"bitsandbytes {bitsandbytes.__version__}, PyTorch {torch.__version__}, dropin {dropin.__version__}, {arguments.threads} threads, "
          f"{platform.machine()}; blocks of {BLOCK}, median of {arguments.rounds}, alternated\n")
    titles = ["pass", "map", "elements", "ours ns", "bitsandbytes ns", "bitsandbytes / ours", "ours GB/s", "of scaling in place"]
    print_table(titles, rows)
    counts = [[name, "signed" if signed else "unsigned", *judge(signed, side)] for signed in (True, False)
              for name, side in (("ours", Ours(signed, arguments.threads)), ("bitsandbytes", Theirs(signed)))]
    wrong = ["quantiser", "map", "wrong codes in a million, normal", "in a million, over 24 binades", "zeros that do not stay zero",
             "of 256 map values not coming back"]
    print()
    print_table(wrong, counts)
    if arguments.record:
        record("quantize", titles, rows, arguments.threads)
        record("quantize_codes", wrong, counts, arguments.threads)


if __name__ == "__main__":
    main()
