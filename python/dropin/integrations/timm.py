# SPDX-License-Identifier: Apache-2.0
"""Our optimizers in timm's registry: after `import dropin.integrations.timm`,

    optimizer = timm.optim.create_optimizer_v2(model, "dropin-adamw8bit", lr=1e-3, weight_decay=0.05)
"""
from dropin.torch import optim
from timm.optim._optim_factory import OptimInfo, default_registry


def _register():
    # timm reads what stands before an underscore as a wrapper ("lookahead_")
    for name, made in optim.NAMES.items():
        options = {option.name: option for option in made.options}
        betas = len(options["betas"].default) if "betas" in options else 0
        default_registry.register(OptimInfo(
            name="dropin-" + name.replace("_", "-"), opt_class=made, description=made.__doc__.split("\n", 1)[0], has_eps="eps" in options,
            has_momentum="momentum" in options, has_betas=betas > 0, num_betas=betas or 2))


_register()
