# SPDX-License-Identifier: Apache-2.0
"""Depth 3: trains a small transformers Llama with random weights on the bytes of a text, with any optimizer of dropin.torch.

    PYTHONPATH=python python examples/torch_llama.py [--optimizer adamw8bit] [--steps 60] [--text FILE]
"""
import argparse
import pathlib
import sys
import time

import dropin
import torch
from dropin.torch import optim
from transformers import LlamaConfig, LlamaForCausalLM


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--optimizer", default="adamw8bit", help="a name with options, e.g. adamw or adamw8bit:block=64")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--lr", type=float, default=3e-3, help="reached after a tenth of the steps, then falling as a cosine to 0")
    parser.add_argument("--text", type=pathlib.Path, help="what to learn; this project's own pages unless given")
    parser.add_argument("--width", type=int, default=96)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--length", type=int, default=64)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save", type=pathlib.Path, help="where to keep weights and optimizer state; goes on from there")
    return parser.parse_args()


def text_of(path):
    """Bytes as a tensor of tokens."""
    paths = [path] if path else sorted(pathlib.Path(__file__).parents[1].glob("**/*.md"))
    return torch.frombuffer(bytearray(b"".join(p.read_bytes() for p in paths)), dtype=torch.uint8).long()


def schedule(step, steps):
    warm = max(1, steps // 10)
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + torch.cos(torch.tensor(torch.pi * (step - warm) / max(1, steps - warm)))).item()


def main():
    options = arguments()
    torch.manual_seed(options.seed)
    model = LlamaForCausalLM(LlamaConfig(
        vocab_size=256, hidden_size=options.width, intermediate_size=3 * options.width, num_hidden_layers=options.layers,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=options.length))
    try:
        make, keywords = optim.named(options.optimizer)
        decayed = [p for p in model.parameters() if p.ndim > 1]
        others = [p for p in model.parameters() if p.ndim <= 1]  # norms
        # what was torch.optim.AdamW(...) before:
        optimizer = make([{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}],
                         **{"lr": options.lr, **keywords})
    except (ValueError, TypeError, dropin.DropinError) as error:
        print(f"torch_llama: {error}", file=sys.stderr)
        return 2
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: schedule(step, options.steps))
    first = 0
    if options.save and options.save.exists():
        kept = torch.load(options.save, weights_only=True)
        model.load_state_dict(kept["model"])
        optimizer.load_state_dict(kept["optimizer"])
        scheduler.load_state_dict(kept["scheduler"])
        first = kept["step"]
    text = text_of(options.text)
    began = time.perf_counter()
    for step in range(first, options.steps):
        draw = torch.Generator().manual_seed(options.seed * 1000003 + step)  # of the step alone, so that a resumed run sees the same
        starts = torch.randint(len(text) - options.length - 1, (options.batch,), generator=draw)
        tokens = torch.stack([text[start:start + options.length] for start in starts])
        optimizer.zero_grad()
        loss = model(input_ids=tokens, labels=tokens).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        if step % max(1, options.steps // 6) == 0 or step == options.steps - 1:
            print(f"step {step + 1:4d}  loss {loss.item():.4f}  lr {optimizer.param_groups[0]['lr']:.2e}")
    parameters = sum(p.numel() for p in model.parameters())
    seconds = (time.perf_counter() - began) / max(1, options.steps - first)
    print(f"{parameters} parameters, {1e3 * seconds:.1f} ms a step, with {type(optimizer).__name__}")
    print(f"optimizer state: {optimizer.state_bytes()} bytes, {optimizer.state_bytes() / parameters:.2f} a parameter")
    if options.save:
        part = options.save.with_suffix(".part")
        torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict(),
                    "step": options.steps}, part)
        part.replace(options.save)
    return 0


if __name__ == "__main__":
    sys.exit(main())
