# SPDX-License-Identifier: Apache-2.0
"""AdamW equals torch.optim.AdamW over 20 steps on odd shapes, groups and a schedule."""
import dropin
import pytest
import torch
from dropin import check, ffi, lib
from dropin._array import fill_tensor

SHAPES = [(1,), (7, 13), (3, 5, 11), (1000,), (129, 257)]


def parameter(name, value, grad, flags=0):
    made = ffi.new("di_parameter *")
    made.size = ffi.sizeof("di_parameter")
    made.name = name.encode()
    made.flags = flags
    fill_tensor(made.value, value)
    fill_tensor(made.grad, grad)
    return made


@pytest.mark.parametrize("dtype,tolerance", [(torch.float32, 1e-6), (torch.float64, 1e-14)], ids=["f32", "f64"])
@pytest.mark.parametrize("clip", [0.0, 0.7])
def test_twenty_steps(dtype, tolerance, clip):
    ours = [torch.randn(*shape, dtype=dtype) for shape in SHAPES]
    theirs = [x.clone().requires_grad_() for x in ours]
    grads = [torch.empty_like(x) for x in ours]
    records = [parameter(f"p{i}", x, g) for i, (x, g) in enumerate(zip(ours, grads))]
    instance = ffi.new("di_optimizer_instance **")
    context = dropin.execution(2)
    check(lib.di_optimizer_create(context, b"adamw:lr=0.003,beta2=0.95,weight_decay=0.1", instance))
    check(lib.di_optimizer_add(instance[0], ffi.NULL, ffi.new("di_parameter *[]", records[:3]), 3))
    check(lib.di_optimizer_add(instance[0], b"weight_decay=0,eps=1e-6", ffi.new("di_parameter *[]", records[3:]), 2))
    torch_optimizer = torch.optim.AdamW([
        {"params": theirs[:3], "weight_decay": 0.1},
        {"params": theirs[3:], "weight_decay": 0.0, "eps": 1e-6},
    ], lr=3e-3, betas=(0.9, 0.95))
    for step in range(20):
        rate = 3e-3 * (step + 1) / 20
        for grad, x, record in zip(grads, theirs, records):
            grad.copy_(torch.randn_like(grad) * 10.0 ** (step % 5 - 3))
            x.grad = grad.clone()
            record.has_grad = True
        if clip:
            torch.nn.utils.clip_grad_norm_(theirs, clip)
        for group in torch_optimizer.param_groups:
            group["lr"] = rate
        torch_optimizer.step()
        check(lib.di_optimizer_step(context, instance[0], rate, 1.0, clip, ffi.NULL))
    lib.di_optimizer_destroy(instance[0])
    for x, y in zip(ours, theirs):
        assert (x - y).abs().max() <= tolerance * y.abs().max()
