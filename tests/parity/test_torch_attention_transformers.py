# SPDX-License-Identifier: Apache-2.0
"""attn_implementation="dropin_…" in real model classes of transformers with random weights."""
import math

import dropin.torch as dt
import pytest
import torch

transformers = pytest.importorskip("transformers", reason="SKIPPED: transformers is not installed (tests/requirements.txt)")
door = pytest.importorskip("dropin.integrations.transformers")

SIZES = dict(vocab_size=97, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=64)
MODELS = {
    "llama": (transformers.LlamaForCausalLM, lambda: transformers.LlamaConfig(num_key_value_heads=2, **SIZES)),
    "qwen2": (transformers.Qwen2ForCausalLM, lambda: transformers.Qwen2Config(
        num_key_value_heads=1, use_sliding_window=True, sliding_window=5, max_window_layers=1, **SIZES)),
    "gpt2": (transformers.GPT2LMHeadModel, lambda: transformers.GPT2Config(
        vocab_size=97, n_positions=64, n_embd=32, n_layer=2, n_head=4, attn_pdrop=0.0, embd_pdrop=0.0, resid_pdrop=0.0)),
    "bert": (transformers.BertForMaskedLM, lambda: transformers.BertConfig(
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, **SIZES)),
}


def model(name, implementation, state=None):
    cls, config = MODELS[name]
    torch.manual_seed(11)
    made = cls._from_config(config(), attn_implementation=implementation)
    if state:
        made.load_state_dict(state)
    return made


def pair(name, implementation):
    """The model with sdpa and with another attention, same weights."""
    first = model(name, "sdpa")
    return first, model(name, implementation, first.state_dict())


def run(made, mask=None):
    tokens = torch.randint(0, 97, (3, 20), generator=torch.Generator().manual_seed(1))
    result = made(input_ids=tokens, labels=tokens, attention_mask=mask)
    made.zero_grad()
    result.loss.backward()
    return result.logits, {n: p.grad for n, p in made.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("padded", [None, "left", "right"])
def test_softmax_equals_sdpa(name, padded):
    mask = None
    if padded:
        mask = torch.ones(3, 20, dtype=torch.long)
        for row, length in enumerate((20, 13, 6)):
            mask[row, length:] = 0
        mask = mask.flip(1) if padded == "left" else mask
    theirs, ours = pair(name, "dropin_softmax")
    (want, right), (got, grads) = run(theirs, mask), run(ours, mask)
    rows = slice(None) if mask is None else mask.bool()  # logits of padding are nobody's
    assert (got - want)[rows].abs().max() < 1e-5
    if padded != "left":  # there the loss counts padded rows, which are 0 here and something else there
        assert grads.keys() == right.keys()
        for key in grads:
            assert (grads[key] - right[key]).abs().max() < 1e-5, key


@pytest.mark.parametrize("name", MODELS)
def test_sigmoid_runs_and_learns(name):
    made = model(name, "dropin_sigmoid")
    assert made.config._attn_implementation == "dropin_sigmoid"
    optimizer = torch.optim.AdamW(made.parameters(), lr=1e-2)
    losses = []
    for _ in range(12):
        losses.append(run(made)[0].new_tensor(0) + made(input_ids=torch.arange(40).view(2, 20), labels=torch.arange(40).view(2, 20)).loss)
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[-1] < 0.7 * losses[0]


def test_sigmoid_s_bias_is_of_the_longest_length():
    """Not of the keys so far: a token generated later must not change what the earlier ones saw."""
    module = model("llama", "dropin_sigmoid").model.layers[0].self_attn
    q, k, v = (torch.randn(1, heads, 7, 8) for heads in (4, 2, 2))
    out, weights = transformers.AttentionInterface()["dropin_sigmoid"](module, q, k, v, None, scaling=0.3)
    assert weights is None
    want = dt.sigmoid_attention(q, k, v, is_causal=True, scale=0.3, enable_gqa=True, bias=-math.log(64))
    assert torch.equal(out, want.transpose(1, 2))


@pytest.mark.parametrize("implementation", ["dropin_softmax", "dropin_sigmoid"])
@pytest.mark.parametrize("name", ["llama", "qwen2", "gpt2"])
def test_generation_with_the_cache_equals_the_whole(name, implementation):
    made = model(name, implementation).eval()
    prompt = torch.randint(1, 97, (2, 9))
    tokens = made.generate(prompt, max_new_tokens=6, do_sample=False, pad_token_id=0, eos_token_id=None)
    with torch.no_grad():
        for step in range(9, 15):
            assert torch.equal(made(tokens[:, :step]).logits[:, -1].argmax(-1), tokens[:, step])


def test_dropout_goes_by_the_model_s_mode():
    config = MODELS["gpt2"][1]()
    config.attn_pdrop = 0.5
    made = transformers.GPT2LMHeadModel._from_config(config, attn_implementation="dropin_softmax")
    tokens = torch.arange(12)[None]
    a, b = made.train()(tokens).logits, made(tokens).logits
    assert not torch.equal(a, b)
    assert torch.equal(made.eval()(tokens).logits, made(tokens).logits)


def test_bfloat16():
    made = model("llama", "dropin_sigmoid").bfloat16()
    logits, grads = run(made)
    assert logits.dtype == torch.bfloat16 and all(torch.isfinite(g).all() for g in grads.values())


@pytest.mark.parametrize("implementation", ["dropin_softmax", "dropin_sigmoid"])
def test_compile_in_one_graph(implementation):
    torch._dynamo.reset()
    made = model("llama", implementation)
    tokens = torch.arange(20)[None]
    want = made(tokens, use_cache=False).logits
    got = torch.compile(made, backend="aot_eager", fullgraph=True)(tokens, use_cache=False).logits
    assert (got - want).abs().max() < 1e-5


def test_options_go_by_a_name_of_one_s_own():
    door.register("sigmoid_of_mine", "sigmoid", alibi=True, bias=-2.0)
    module = model("llama", "sigmoid_of_mine").model.layers[0].self_attn
    q, k, v = (torch.randn(1, heads, 7, 8) for heads in (4, 2, 2))
    out, _ = transformers.AttentionInterface()["sigmoid_of_mine"](module, q, k, v, None)
    want = dt.sigmoid_attention(q, k, v, is_causal=True, enable_gqa=True, bias=-2.0, alibi=True)
    assert torch.equal(out, want.transpose(1, 2))


def test_what_is_not_offered_is_refused():
    module = model("llama", "dropin_softmax").model.layers[0].self_attn
    q, k, v = (torch.randn(1, heads, 7, 8) for heads in (4, 2, 2))
    call = transformers.AttentionInterface()["dropin_softmax"]
    for argument in ("softcap", "s_aux", "output_attentions"):
        with pytest.raises(ValueError, match=f"dropin_softmax: {argument} is given; .* is not offered"):
            call(module, q, k, v, None, **{argument: 1.0})
    with pytest.raises(TypeError, match="'bais'; did you mean \"bias\""):
        door.register("x", "sigmoid", bais=1)
    with pytest.raises(ValueError, match="part='sigmoyd'; must be one of softmax, sigmoid"):
        door.register("x", "sigmoyd")


def test_a_bias_of_positions_is_added():
    module = model("llama", "dropin_softmax").model.layers[0].self_attn
    q, k, v = (torch.randn(1, heads, 7, 8) for heads in (4, 2, 2))
    bias, mask = torch.randn(1, 4, 7, 7), torch.ones(7, 7, dtype=torch.bool).tril()[None, None]
    for given in (mask, torch.zeros(7, 7).masked_fill(~mask, -math.inf)):
        out, _ = transformers.AttentionInterface()["dropin_softmax"](module, q, k, v, given, position_bias=bias)
        want = dt.softmax_attention(q, k, v, bias.masked_fill(~mask, -math.inf), enable_gqa=True)
        assert torch.equal(out, want.transpose(1, 2))
