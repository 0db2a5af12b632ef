# SPDX-License-Identifier: Apache-2.0
"""What a call of attention from PyTorch costs over the C call, at a shape so small that nothing else shows, on one thread.

The C call is made through cffi with everything prepared. "dispatcher" calls the registered operator itself, as compiled graphs do;
"empty operator" is one of the same schema that only makes its two results: what PyTorch takes for any operator written in Python.
Everything runs in turn, in rounds shorter than a slice of the scheduler; the least of the rounds counts.

    PYTHONPATH=python .venv/bin/python bench/peers/operator_call.py [--rounds N] [--record]
"""
import argparse
import time

import dropin
import dropin.torch as dt
import torch
import torch.nn.functional as F
from alternate import print_table, record, warn_if_busy
from dropin import ffi, lib
from dropin.torch import _operator

CALLS = 50  # a round


def bare(kind, q, k, v):
    """The C call on the memory of q, k and v, everything prepared."""
    part = dropin.Attention(kind)
    views, out = [x.transpose(1, 2) for x in (q, k, v)], torch.empty(q.shape[0], q.shape[2], q.shape[1], v.shape[3])
    keywords = {"threads": 1}
    shape, io = part._shape(*views, keywords), part._io(*views, out, keywords)
    exec_, call, record_, options, none = part._exec(shape, False, keywords), lib.di_attention_forward, part.record, part.options, ffi.NULL
    keep = (part, views, out)
    return lambda: keep and call(exec_, record_, options, shape, io, none)


def empty_operator():
    """An operator of attention's schema without attention."""
    library = torch.library.Library("dropin_bench", "DEF")
    library.define("empty" + _operator._FORWARD)
    library.impl("empty", lambda q, *_: (torch.empty_like(q), torch.empty(0, dtype=torch.uint8)), "CPU")
    return library, torch.ops.dropin_bench.empty.default


def repeated(function):
    def run():
        began = time.perf_counter()
        for _ in range(CALLS):
            function()
        return time.perf_counter() - began
    return run


def without_grad(function):
    return torch.no_grad()(repeated(function))


def least(contenders, rounds):
    """{name: least microseconds a call}."""
    seconds = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, run in contenders.items():
            seconds[name].append(run())
    return {name: 1e6 * min(times) / CALLS for name, times in seconds.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--record", action="store_true", help="put the table into bench/results.csv")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warn_if_busy(1)
    q, k, v = (torch.randn(1, 1, 4, 8) for _ in range(3))
    gq, gk, gv = (x.clone().requires_grad_() for x in (q, k, v))
    grad = torch.ones_like(q)
    library, empty = empty_operator()
    contenders = {"C call": without_grad(bare("softmax", q, k, v))}
    for kind in ("softmax", "sigmoid"):
        function, operator = getattr(dt, f"{kind}_attention"), getattr(torch.ops.dropin, f"{kind}_attention").default
        contenders[f"{kind}_attention"] = without_grad(lambda f=function: f(q, k, v))
        contenders[f"{kind}_attention, dispatcher"] = without_grad(lambda o=operator: o(q, k, v, "", False, -1, -1, True))
        contenders[f"{kind}_attention, recorded for autograd"] = repeated(lambda f=function: f(gq, gk, gv))
        contenders[f"{kind}_attention, forward and backward"] = repeated(
            lambda f=function: torch.autograd.grad(f(gq, gk, gv), (gq, gk, gv), grad))
    contenders["empty operator"] = without_grad(lambda: empty(q, k, v, "", False, -1, -1, True))
    contenders["F.scaled_dot_product_attention"] = without_grad(lambda: F.scaled_dot_product_attention(q, k, v))
    contenders["F.scaled_dot_product_attention, recorded for autograd"] = repeated(lambda: F.scaled_dot_product_attention(gq, gk, gv))
    contenders["F.scaled_dot_product_attention, forward and backward"] = repeated(
        lambda: torch.autograd.grad(F.scaled_dot_product_attention(gq, gk, gv), (gq, gk, gv), grad))
    microseconds = least(contenders, arguments.rounds)
    print(f"PyTorch {torch.__version__}, dropin {dropin.__version__}, 1 thread; least of {arguments.rounds} rounds of {CALLS} calls\n")
    titles = ["call (1x1x4x8)", "microseconds", "over the C call"]
    cells = [[name, f"{value:.1f}", f"{value - microseconds['C call']:.1f}"] for name, value in microseconds.items()]
    print_table(titles, cells)
    if arguments.record:
        record("operator", titles, cells, 1)
    del library


if __name__ == "__main__":
    main()
