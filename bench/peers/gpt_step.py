# SPDX-License-Identifier: Apache-2.0
"""One GPT training step, ours on a tape against PyTorch eager with fused attention: the same model, weights, batch and AdamW.

6 layers, width 384, 6 heads, context 256, batch 8, vocabulary 65, RoPE left out on both sides (learned positions), clip 1.0.
--memory measures instead the growth of resident size over 10 steps, each side in a process of its own.

    PYTHONPATH=python .venv/bin/python bench/peers/gpt_step.py [--threads N] [--rounds N] [--memory] [--record]
"""
import argparse
import os
import resource
import subprocess
import sys

LAYERS, WIDTH, HEADS, CONTEXT, BATCH, VOCABULARY = 6, 384, 6, 256, 8, 65


def torch_model():
    """(step function, parameters by name, tokens, targets)"""
    import torch
    import torch.nn.functional as F
    from torch import nn

    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
            self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH, bias=False), nn.Linear(WIDTH, WIDTH, bias=False)
            self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH, bias=False), nn.Linear(4 * WIDTH, WIDTH, bias=False)

        def forward(self, x):
            q, k, v = self.qkv(self.norm1(x)).view(BATCH, CONTEXT, 3, HEADS, -1).permute(2, 0, 3, 1, 4)
            attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self.out(attended.transpose(1, 2).reshape(BATCH, CONTEXT, WIDTH))
            return x + self.down(F.gelu(self.up(self.norm2(x))))

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(VOCABULARY, WIDTH)
            self.positions = nn.Parameter(torch.zeros(CONTEXT, WIDTH))
            self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
            self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, VOCABULARY, bias=False)
            for p in self.parameters():
                if p.dim() > 1:
                    nn.init.trunc_normal_(p, std=0.02, a=-0.04, b=0.04)

        def forward(self, tokens, targets):
            x = self.embedding(tokens) + self.positions
            for block in self.blocks:
                x = block(x)
            return F.cross_entropy(self.head(self.norm(x)).view(-1, VOCABULARY), targets.view(-1))

    torch.manual_seed(0)
    model = Model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
    tokens, targets = (torch.randint(VOCABULARY, (BATCH, CONTEXT), dtype=torch.int64) for _ in range(2))

    def step():
        optimizer.zero_grad(set_to_none=True)
        loss = model(tokens, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return loss.item()

    return step, {name: p.detach() for name, p in model.named_parameters()}, tokens, targets


class OurModel:
    """The same model on a tape, its parameters in numpy arrays of our own."""

    def __init__(self, weights, tokens, targets, threads):
        import dropin
        import numpy
        from dropin import check, ffi, lib
        from dropin._array import fill_tensor
        self.ffi, self.lib, self.check, self.numpy, self.keep = ffi, lib, check, numpy, []
        self.context = dropin.execution(threads)
        self.parameters = {}
        for name, value in weights.items():
            value, record = numpy.array(value, numpy.float32), ffi.new("di_parameter *")
            grad = numpy.zeros_like(value)
            record.size, record.name = ffi.sizeof("di_parameter"), name.encode()
            fill_tensor(record.value, value)
            fill_tensor(record.grad, grad)
            self.keep += [value, grad]
            self.parameters[name] = record
        handle = ffi.new("di_tape **")
        check(lib.di_tape_create(self.context, lib.DI_F32, handle))
        self.tape = handle[0]
        self.tokens, self.targets = (x.numpy().astype(numpy.int32) for x in (tokens, targets))
        self.loss = self._record(fill_tensor)
        optimizer = ffi.new("di_optimizer_instance **")
        check(lib.di_optimizer_create(self.context, b"adamw:beta2=0.95,weight_decay=0", optimizer))
        records = list(self.parameters.values())
        check(lib.di_optimizer_add(optimizer[0], ffi.NULL, ffi.new("di_parameter *[]", records), len(records)))
        self.optimizer, self.outputs = optimizer[0], ffi.new("di_var *", self.loss)

    def _external(self, array, fill_tensor):
        tensor = self.ffi.new("di_tensor *")
        fill_tensor(tensor, array)
        return self.lib.di_external(self.tape, tensor, False)

    def _record(self, fill_tensor):
        ffi, lib, tape, p = self.ffi, self.lib, self.tape, self.parameters
        none = ffi.new("di_var *")[0]
        x = lib.di_embedding(tape, self._external(self.tokens, fill_tensor), p["embedding.weight"])
        self.places = self.tokens * 0 + self.numpy.arange(CONTEXT, dtype="int32")
        positions = self._external(self.places, fill_tensor)
        x = lib.di_add(tape, x, lib.di_embedding(tape, positions, p["positions"]))
        config = ffi.new("di_attention_config *", {"size": ffi.sizeof("di_attention_config"), "heads": HEADS, "kv_heads": HEADS,
                                                   "dim": WIDTH // HEADS, "dim_v": WIDTH // HEADS, "max_length": CONTEXT})
        shape = ffi.new("int64_t[4]", [BATCH, CONTEXT, 3 * HEADS, WIDTH // HEADS])
        flat = ffi.new("int64_t[3]", [BATCH, CONTEXT, WIDTH])
        for layer in range(LAYERS):
            get = lambda name: p[f"blocks.{layer}.{name}"]  # noqa: E731, B023
            module = ffi.new("di_attention_module **")
            self.check(lib.di_attention_create(self.context, b"softmax", lib.DI_F32, config, module))
            h = lib.di_layer_norm(tape, x, get("norm1.weight"), get("norm1.bias"), 1e-5)
            h = lib.di_reshape(tape, lib.di_linear(tape, h, get("qkv.weight"), ffi.NULL, none, False), 4, shape)
            h = lib.di_reshape(tape, lib.di_attend_packed(tape, module[0], h, -1, 0, none, none), 3, flat)
            x = lib.di_linear(tape, h, get("out.weight"), ffi.NULL, x, False)
            h = lib.di_layer_norm(tape, x, get("norm2.weight"), get("norm2.bias"), 1e-5)
            h = lib.di_gelu(tape, lib.di_linear(tape, h, get("up.weight"), ffi.NULL, none, False))
            x = lib.di_linear(tape, h, get("down.weight"), ffi.NULL, x, False)
        x = lib.di_layer_norm(tape, x, p["norm.weight"], p["norm.bias"], 1e-5)
        logits = lib.di_linear(tape, x, p["head.weight"], ffi.NULL, none, False)
        loss = lib.di_cross_entropy(tape, logits, self._external(self.targets, fill_tensor))
        self.check(lib.di_tape_status(tape))
        return loss

    def step(self):
        self.check(self.lib.di_forward(self.tape, self.outputs, 1, True))
        loss = self.lib.di_scalar(self.tape, self.loss)
        self.check(self.lib.di_backward(self.tape, self.outputs, self.ffi.NULL, 1))
        self.check(self.lib.di_optimizer_step(self.context, self.optimizer, 1e-3, 1.0, 1.0, self.ffi.NULL))
        return loss

    def cost(self):
        cost = self.ffi.new("di_tape_cost *")
        self.check(self.lib.di_tape_plan(self.tape, self.outputs, 1, True, cost))
        return cost


def resident():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def memory_of(side, threads):
    """Growth of the peak resident size over the model's own bytes and 10 steps, in this process."""
    import torch
    torch.set_num_threads(threads)
    a = torch.randn(256, 256, requires_grad=True)
    (a @ a).sum().backward()  # what a first use of either library loads is not the step's
    if side == "torch":
        before = resident()
        step = torch_model()[0]
    else:
        import dropin  # noqa: F401
        step_torch, weights, tokens, targets = torch_model()
        weights = {k: v.numpy().copy() for k, v in weights.items()}
        del step_torch
        before = resident()
        step = OurModel(weights, tokens, targets, threads).step
    for _ in range(10):
        step()
    print(resident() - before)


def show(bench, titles, rows, arguments):
    from alternate import print_table, record
    print_table(titles, rows)
    if arguments.record:
        record(bench, titles, rows, arguments.threads)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--record", action="store_true", help="put the table into bench/results.csv")
    parser.add_argument("--side", choices=["ours", "torch"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        memory_of(arguments.side, arguments.threads)
        return
    if arguments.memory:
        grown = {side: int(subprocess.run([sys.executable, __file__, "--side", side, "--threads", str(arguments.threads)],
                                          check=True, capture_output=True, text=True).stdout) for side in ("ours", "torch")}
        show("gpt_step memory", ["growth of resident size, weights and 10 steps", "MB", "of PyTorch"],
             [[name, f"{grown[side] / 1e6:.1f}", f"{grown[side] / grown['torch']:.2f}"] for name, side in (("ours", "ours"), ("PyTorch", "torch"))],
             arguments)
        return
    import torch
    from alternate import alternate, warn_if_busy
    torch.set_num_threads(arguments.threads)
    warn_if_busy(arguments.threads)
    torch_step, weights, tokens, targets = torch_model()
    ours = OurModel({k: v.numpy().copy() for k, v in weights.items()}, tokens, targets, arguments.threads)
    losses = [(ours.step(), torch_step()) for _ in range(3)]
    if any(abs(a - b) > 1e-3 for a, b in losses):
        sys.exit(f"the two models disagree: {losses}")
    a, b, c = torch.randn(2048, 2048), torch.randn(2048, 2048), torch.empty(2048, 2048)
    seconds = alternate({"ours": ours.step, "torch": torch_step, "mm": lambda: torch.mm(a, b, out=c)}, arguments.rounds)
    rate, cost = 2 * 2048**3 / seconds["mm"], ours.cost()
    flops = cost.forward_flops + cost.backward_flops
    print(f"PyTorch {torch.__version__}, {arguments.threads} threads; first losses {losses[0][0]:.4f} and {losses[0][1]:.4f}; "
          f"product rate {rate / 1e9:.1f} GFLOP/s; median of {arguments.rounds}, alternated\n")
    show("gpt_step", ["step", "ms", "PyTorch / ours", "share of products", "arena MB"],
         [["ours", f"{1e3 * seconds['ours']:.1f}", f"{seconds['torch'] / seconds['ours']:.2f}", f"{100 * flops / rate / seconds['ours']:.0f} %", f"{cost.arena_bytes / 1e6:.1f}"],
          ["PyTorch", f"{1e3 * seconds['torch']:.1f}", "1.00", f"{100 * flops / rate / seconds['torch']:.0f} %", "–"]], arguments)


if __name__ == "__main__":
    main()
