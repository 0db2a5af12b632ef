# SPDX-License-Identifier: Apache-2.0
"""The optimizers in transformers' Trainer and in timm's registry; and the example script in miniature."""
import pathlib
import re
import subprocess
import sys

import pytest
import torch
from dropin.torch import optim
from test_torch_optim import near

ROOT = pathlib.Path(__file__).parents[2]


def imported(name):
    """The module; a skip that says why where it does not import."""
    try:
        __import__(name)
        return sys.modules[name]
    except Exception as error:  # timm wants a torchvision that was built for the torch that is here
        pytest.skip(f"SKIPPED: {name} does not import here: {type(error).__name__}: {error}")


def llama():
    transformers = imported("transformers")
    torch.manual_seed(4)
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(
        vocab_size=64, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=1,
        max_position_embeddings=32))


def test_names():
    assert optim.named("AdamW") == optim.named("adamw") == (optim.AdamW, {})
    made, kwargs = optim.named("adamw:beta2=0.95,lr=0.5")
    assert made is optim.AdamW and kwargs == {"betas": (0.9, 0.95), "lr": 0.5}
    with pytest.raises(ValueError, match="unknown name 'lyon'; did you mean 'lion'"):
        optim.named("lyon")


def test_trainer(tmp_path):
    transformers = imported("transformers")
    imported("accelerate")
    from dropin.integrations.transformers_trainer import optimizer_cls_and_kwargs

    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path), max_steps=4, per_device_train_batch_size=2, learning_rate=1e-2, weight_decay=0.1, adam_beta2=0.95,
        use_cpu=True, report_to=[], disable_tqdm=True, save_strategy="no", logging_strategy="no", max_grad_norm=1.0, seed=1)
    data = [{"input_ids": (torch.arange(8) * (i + 1)) % 64, "labels": (torch.arange(8) * (i + 1)) % 64} for i in range(8)]
    trained = []
    for cls_and_kwargs in (optimizer_cls_and_kwargs("adamw", arguments), None):
        trainer = transformers.Trainer(model=llama(), args=arguments, train_dataset=data, optimizer_cls_and_kwargs=cls_and_kwargs)
        trainer.train()
        trained.append(trainer.model)
        if cls_and_kwargs:
            kind = type(getattr(trainer.optimizer, "optimizer", trainer.optimizer))
            assert kind is optim.AdamW
    near(trained[0].parameters(), trained[1].parameters(), 1e-4)


def test_timm():
    imported("timm")
    import dropin.integrations.timm  # noqa: F401
    import timm.optim

    model = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.LayerNorm(3))
    made = timm.optim.create_optimizer_v2(model, "dropin-adamw", lr=0.01, weight_decay=0.05)
    assert type(made) is optim.AdamW and sorted(g["weight_decay"] for g in made.param_groups) == [0.0, 0.05]
    assert {"dropin-" + name.replace("_", "-") for name in optim.NAMES} <= set(timm.optim.list_optimizers())


def test_the_example_script():
    imported("transformers")
    script = str(ROOT / "examples" / "torch_llama.py")
    ran = subprocess.run([sys.executable, script, "--steps", "12", "--optimizer", "adamw8bit", "--width", "32", "--layers", "1", "--length", "16"],
                         capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    losses = [float(x) for x in re.findall(r"loss (\d+\.\d+)", ran.stdout)]
    assert len(losses) >= 2 and losses[-1] < losses[0]
    assert re.search(r"optimizer state: \d+ bytes, \d+\.\d\d a parameter", ran.stdout)
