"""The FLOPs behind the ledger, against values computed by hand and against what PyTorch counts."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlamaForCausalLM

from orchestrator.core.flops import ModelShape, llama_shape

SHAPE = ModelShape(weights_per_token=1000, head_weights=500, num_layers=2, attention_width=8)
LLAMA = {
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 16,
    "vocab_size": 32,
}


def test_reading_after_a_cached_context_counts_weights_attention_and_head():
    # 3 tokens: 2 x 1000 each; they attend to 5, 6 and 7 tokens, 4 x 2 layers x 8 wide each; one logit: 2 x 500
    assert SHAPE.flops(new_tokens=3, context_tokens=4, logits=1) == 6000 + 4 * 2 * 8 * (5 + 6 + 7) + 1000


def test_sampling_reads_what_is_not_cached_and_every_sampled_token_but_the_last():
    # 6 tokens of the prefix and 2 of the 3 sampled are read; they attend to 5, 6, ..., 12 tokens
    assert SHAPE.sampling_flops(prefix=10, cached=4, sampled=3) == 8 * 2000 + 64 * sum(range(5, 13)) + 3 * 1000
    assert SHAPE.sampling_flops(prefix=10, cached=4, sampled=0) == 0


def test_the_flops_of_parts_add_up():
    whole = SHAPE.flops(new_tokens=9, context_tokens=0, logits=2)
    first, rest = (
        SHAPE.flops(new_tokens=5, context_tokens=0, logits=1),
        SHAPE.flops(new_tokens=4, context_tokens=5, logits=1),
    )
    assert first + rest == whole


def test_the_shape_of_a_llama_is_counted_matrix_by_matrix():
    # per layer: q and o of 8 x 8, k and v of 8 x 4, gate, up and down of 8 x 16
    assert llama_shape(LLAMA) == ModelShape(
        weights_per_token=2 * (64 + 64 + 32 + 32 + 3 * 128), head_weights=256, num_layers=2, attention_width=8
    )
    wide = llama_shape({**LLAMA, "head_dim": 4})  # q and o of 8 x 16, k and v of 8 x 8
    assert (wide.weights_per_token, wide.attention_width) == (2 * (128 + 128 + 64 + 64 + 3 * 128), 16)
    alone = llama_shape({name: value for name, value in LLAMA.items() if name != "num_key_value_heads"})
    assert alone.weights_per_token == 2 * (4 * 64 + 3 * 128)


@pytest.mark.parametrize("tokens", [1, 4])
@pytest.mark.parametrize("reads", [False, True], ids=["samples", "tells every token's log-probability"])
def test_a_real_model_costs_what_the_formula_says(tokens, reads):
    config = LlamaConfig(**LLAMA, tie_word_embeddings=False, attn_implementation="eager")
    model = LlamaForCausalLM(config).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros((1, tokens), dtype=torch.long), logits_to_keep=0 if reads else 1)  # 0: all
    shape = llama_shape(LLAMA)
    # PyTorch computes the whole square of scores, of which a causal model needs the lower triangle
    unneeded = 4 * shape.num_layers * shape.attention_width * (tokens * tokens - tokens * (tokens + 1) // 2)
    reading = shape.reading_flops(prefix=tokens) if reads else 0
    assert counter.get_total_flops() - unneeded == shape.flops(new_tokens=tokens, context_tokens=0, logits=1) + reading
