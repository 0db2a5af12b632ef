# SPDX-License-Identifier: Apache-2.0
"""The optimizers that torch has equal it over 20 steps on odd shapes, groups and a schedule."""
import dropin
import pytest
import torch
from dropin import check, ffi, lib
from dropin._array import fill_tensor

SHAPES = [(1,), (7, 13), (3, 5, 11), (1000,), (129, 257)]
RATE = 3e-3

# our text, torch's class and arguments
CASES = {
    "sgd": ("sgd", torch.optim.SGD, {}),
    "sgd_momentum": ("sgd:momentum=0.9,weight_decay=0.1", torch.optim.SGD, {"momentum": 0.9, "weight_decay": 0.1}),
    "sgd_dampening": ("sgd:momentum=0.8,dampening=0.3", torch.optim.SGD, {"momentum": 0.8, "dampening": 0.3}),
    "sgd_nesterov": ("sgd:momentum=0.9,nesterov,maximize", torch.optim.SGD,
                     {"momentum": 0.9, "nesterov": True, "maximize": True}),
    "adam": ("adam", torch.optim.Adam, {}),
    "adam_decay": ("adam:weight_decay=0.1,beta1=0.3,eps=1e-6,maximize", torch.optim.Adam,
                   {"weight_decay": 0.1, "betas": (0.3, 0.999), "eps": 1e-6, "maximize": True}),
    "adamw": ("adamw:beta2=0.95,weight_decay=0.1", torch.optim.AdamW, {"betas": (0.9, 0.95), "weight_decay": 0.1}),
    "adam_decoupled": ("adam:weight_decay=0.1,decoupled", torch.optim.AdamW, {"weight_decay": 0.1}),
    "rmsprop": ("rmsprop:weight_decay=0.01", torch.optim.RMSprop, {"weight_decay": 0.01}),
    "rmsprop_momentum": ("rmsprop:momentum=0.5,alpha=0.9", torch.optim.RMSprop, {"momentum": 0.5, "alpha": 0.9}),
    "rmsprop_centered": ("rmsprop:centered,eps=1e-3", torch.optim.RMSprop, {"centered": True, "eps": 1e-3}),
    "adagrad": ("adagrad", torch.optim.Adagrad, {}),
    "adagrad_decay": ("adagrad:lr_decay=0.1,weight_decay=0.1,initial_accumulator_value=0.3", torch.optim.Adagrad,
                      {"lr_decay": 0.1, "weight_decay": 0.1, "initial_accumulator_value": 0.3}),
}


def parameter(name, value, grad, flags=0):
    made = ffi.new("di_parameter *")
    made.size = ffi.sizeof("di_parameter")
    made.name = name.encode()
    made.flags = flags
    fill_tensor(made.value, value)
    fill_tensor(made.grad, grad)
    return made


def ours_and_theirs(text, make, arguments, dtype, clip, steps=20):
    """The weights of both after the same steps."""
    ours = [torch.randn(*shape, dtype=dtype) for shape in SHAPES]
    theirs = [x.clone().requires_grad_() for x in ours]
    grads = [torch.empty_like(x) for x in ours]
    records = [parameter(f"p{i}", x, g) for i, (x, g) in enumerate(zip(ours, grads))]
    instance = ffi.new("di_optimizer_instance **")
    context = dropin.execution(2)
    separator = "," if ":" in text else ":"
    check(lib.di_optimizer_create(context, f"{text}{separator}lr={RATE}".encode(), instance))
    check(lib.di_optimizer_add(instance[0], ffi.NULL, ffi.new("di_parameter *[]", records[:3]), 3))
    check(lib.di_optimizer_add(instance[0], f"weight_decay=0,lr={2 * RATE}".encode(),
                               ffi.new("di_parameter *[]", records[3:]), 2))
    torch_optimizer = make([{"params": theirs[:3]}, {"params": theirs[3:], "weight_decay": 0.0}], lr=RATE, **arguments)
    for step in range(steps):
        rate = RATE * (step + 1) / steps
        for grad, x, record in zip(grads, theirs, records):
            grad.copy_(torch.randn_like(grad) * 10.0 ** (step % 5 - 3))
            x.grad = grad.clone()
            record.has_grad = True
        if clip:
            torch.nn.utils.clip_grad_norm_(theirs, clip)
        for factor, group in zip((1, 2), torch_optimizer.param_groups):
            group["lr"] = rate * factor
        torch_optimizer.step()
        check(lib.di_optimizer_step(context, instance[0], rate, 1.0, clip, ffi.NULL))
    lib.di_optimizer_destroy(instance[0])
    return ours, [x.detach() for x in theirs]


@pytest.mark.parametrize("dtype,tolerance", [(torch.float32, 1e-6), (torch.float64, 1e-14)], ids=["f32", "f64"])
@pytest.mark.parametrize("clip", [0.0, 0.7])
@pytest.mark.parametrize("case", CASES)
def test_twenty_steps(case, clip, dtype, tolerance):
    for x, y in zip(*ours_and_theirs(*CASES[case], dtype, clip)):
        assert (x - y).abs().max() <= tolerance * y.abs().max()


@pytest.mark.parametrize("case", ["sgd_momentum", "adamw", "rmsprop", "adagrad"])
def test_bf16_weights(case):
    """One rounding of f32 arithmetic here, one after every operation there: 1e-2 over 20 steps."""
    for x, y in zip(*ours_and_theirs(*CASES[case], torch.bfloat16, 0.0)):
        assert (x.float() - y.float()).abs().max() <= 1e-2 * y.float().abs().max()
