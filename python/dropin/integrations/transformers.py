# SPDX-License-Identifier: Apache-2.0
"""Our attention in transformers' models. Importing this registers every part of the slot:

    import dropin.integrations.transformers
    model = AutoModelForCausalLM.from_config(config, attn_implementation="dropin_sigmoid")

Options of a part go by a name of one's own: register("sigmoid_alibi", "sigmoid", alibi=True). What a part draws from the longest length
of training (sigmoid's bias=auto is -ln of it) comes from config.max_position_embeddings once, so that it does not change while tokens
are generated; give the number itself where another one is right.
"""
import functools

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask

from dropin import _options
from dropin.torch.attention import FUNCTIONS, RECIPES, initial

_REFUSED = {"softcap": "a cap of the logits", "s_aux": "attention sinks", "output_attentions": "the weights themselves"}


@functools.lru_cache
def _resolved(name, max_length):
    """Options of the part that depend on the longest length, as numbers."""
    recipe = RECIPES[name]
    rows = {row.name for row in recipe.given if row.kind == "number" and row.auto}
    found = {}
    for index, parameter, count, _ in recipe.part.parameters("", 1, max_length=max_length):
        if parameter in rows and count == 1:
            value, other = (initial(recipe, "", index, 1, 1, length) for length in (max_length, 2 * max_length))
            if not torch.equal(value, other):
                found[parameter] = value.item()
    return tuple(found.items())


_resolved_constant = torch._dynamo.assume_constant_result(_resolved.__wrapped__)


def register(name, part, **options):
    """Makes `attn_implementation=name` run `part` of the slot with these options."""
    if part not in RECIPES:
        raise ValueError(f"transformers: part={part!r}; must be one of {', '.join(RECIPES)}")
    function = FUNCTIONS[f"{part}_attention"]
    known = [row.name for row in RECIPES[part].own]
    if set(options) - set(known):
        raise _options.unknown("register", sorted(set(options) - set(known)), known)

    def attend(module, query, key, value, attention_mask, dropout=0.0, scaling=None, is_causal=None, position_bias=None, **others):
        for argument, what in _REFUSED.items():
            if others.get(argument) is not None and others[argument] is not False:
                raise ValueError(f"{name}: {argument} is given; {what} is not offered")
        causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
        # a mask says it all, and a single query sees every key that is there
        causal = causal and attention_mask is None and query.shape[2] > 1
        if position_bias is not None:
            if attention_mask is not None and attention_mask.dtype == torch.bool:
                position_bias = position_bias.masked_fill(~attention_mask, float("-inf"))
            attention_mask = position_bias if attention_mask is None or attention_mask.dtype == torch.bool else position_bias + attention_mask
        given = options
        longest = getattr(getattr(module, "config", None), "max_position_embeddings", None)
        if isinstance(longest, int) and longest > 0:
            resolve = _resolved_constant if torch.compiler.is_compiling() else _resolved
            given = {**dict(resolve(part, longest)), **options}
        out = function(query, key, value, attention_mask, dropout, causal, scaling, True, **given)
        return out.transpose(1, 2), None

    attend.__name__ = name
    AttentionInterface.register(name, attend)
    AttentionMaskInterface.register(name, sdpa_mask)


for _part in RECIPES:
    register(f"dropin_{_part}", _part)
