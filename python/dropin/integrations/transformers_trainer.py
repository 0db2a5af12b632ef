# SPDX-License-Identifier: Apache-2.0
"""Our optimizers in transformers' Trainer:

    trainer = Trainer(model=model, args=arguments, optimizer_cls_and_kwargs=optimizer_cls_and_kwargs("adamw8bit", arguments), …)
"""
from dropin.torch import optim


def optimizer_cls_and_kwargs(name="adamw8bit", arguments=None, **options):
    """The class and the keywords for Trainer's argument of that name.

    name: a class of dropin.torch ("AdamW8bit"), or the text of the command line ("adamw8bit", "adamw:bits=8,block=64").
    arguments: TrainingArguments, whose learning_rate, adam_beta1, adam_beta2 and adam_epsilon are taken where the optimizer has such
        options (weight decay is the Trainer's own business: it makes groups with and without).
    options: keywords of the class, on top of both.
    """
    made, kwargs = optim.named(name)
    if arguments is not None:
        known = {option.name: option for option in made.options}
        kwargs["lr"] = arguments.learning_rate
        if "betas" in known:
            kwargs["betas"] = (arguments.adam_beta1, arguments.adam_beta2, *known["betas"].default[2:])
        if "eps" in known:
            kwargs["eps"] = arguments.adam_epsilon
    return made, {**kwargs, **options}
