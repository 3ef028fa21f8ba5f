"""A batched sampler for small Llama checkpoints, for training and evaluation only (runs sample through vLLM).

Prompts are left-padded, so that all rows write the same cache position; rotary positions are relative, so the padding
shifts nothing. Finished rows leave the batch.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import LlamaForCausalLM
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

ROWS_AT_ONCE = 1024


@torch.inference_mode()
def sample(
    model: LlamaForCausalLM,
    prompts: Sequence[list[int]],
    *,
    num_samples: int,
    temperature: float,
    max_new_tokens: int,
    seed: int,
) -> list[list[list[int]]]:
    """`num_samples` completions of every prompt, as ids with their end token; temperature 0 is greedy."""
    generator = torch.Generator().manual_seed(seed)
    by_length = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))  # long prompts have long solutions
    num_prompts = max(1, ROWS_AT_ONCE // num_samples)
    completions: list[list[list[int]]] = [[] for _ in prompts]
    for start in range(0, len(prompts), num_prompts):
        chosen = by_length[start : start + num_prompts]
        rows = _sample_rows(model, [prompts[i] for i in chosen], num_samples, temperature, max_new_tokens, generator)
        for k, i in enumerate(chosen):
            completions[i] = rows[k * num_samples : (k + 1) * num_samples]
    return completions


def _sample_rows(
    model: LlamaForCausalLM,
    prompts: list[list[int]],
    num_samples: int,
    temperature: float,
    max_new_tokens: int,
    generator: torch.Generator,
) -> list[list[int]]:
    config, longest = model.config, max(map(len, prompts))
    pad, eos = config.pad_token_id, config.eos_token_id
    ids = torch.tensor([[pad] * (longest - len(prompt)) + prompt for prompt in prompts])
    first = torch.tensor([longest - len(prompt) for prompt in prompts])
    position = torch.arange(longest)
    causal = position[:, None] >= position[None, :]
    mask = causal & (position >= first[:, None, None]) | torch.eye(longest, dtype=torch.bool)
    shape = (len(prompts), config.num_key_value_heads, longest + max_new_tokens, config.head_dim)
    caches = [(torch.zeros(shape), torch.zeros(shape)) for _ in range(config.num_hidden_layers)]
    logits = _forward(model, ids, 0, caches, mask)

    logits = logits.repeat_interleave(num_samples, 0)
    caches = [(k.repeat_interleave(num_samples, 0), v.repeat_interleave(num_samples, 0)) for k, v in caches]
    first = first.repeat_interleave(num_samples)
    alive = torch.arange(len(first))
    out = torch.full((len(first), max_new_tokens), pad)
    for step in range(max_new_tokens):
        if temperature == 0:
            token = logits.argmax(-1)
        else:
            token = torch.multinomial((logits / temperature).softmax(-1), 1, generator=generator)[:, 0]
        out[alive, step] = token
        keep = token != eos
        if not keep.any():
            break
        if keep.float().mean() < 0.8 or step + 1 == max_new_tokens:  # compact the batch now and then
            token, first, alive = token[keep], first[keep], alive[keep]
            caches = [(k[keep], v[keep]) for k, v in caches]
        end = longest + step
        seen = torch.arange(end + 1) >= first[:, None, None]
        logits = _forward(model, token[:, None], end, caches, seen)
        out[alive[token == eos], step + 1 :] = pad
        logits[token == eos] = F.one_hot(torch.tensor(eos), logits.shape[-1]) * 1e9  # stays finished
    return [row[: row.index(eos) + 1] if eos in row else row for row in out.tolist()]


def _forward(
    model: LlamaForCausalLM, ids: Tensor, start: int, caches: list[tuple[Tensor, Tensor]], mask: Tensor
) -> Tensor:
    """Logits (rows, vocabulary) after the last token; writes keys and values at `start` into the caches."""
    rows, length = ids.shape
    config, body = model.config, model.model
    hidden = body.embed_tokens(ids)
    cos, sin = body.rotary_emb(hidden, torch.arange(start, start + length)[None])
    for layer, (keys, values) in zip(body.layers, caches, strict=True):
        attention, normed = layer.self_attn, layer.input_layernorm(hidden)
        q, k, v = (
            projection(normed).view(rows, length, -1, config.head_dim).transpose(1, 2)
            for projection in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        q, k = apply_rotary_pos_emb(q, k, cos, sin)
        keys[:, :, start : start + length], values[:, :, start : start + length] = k, v
        seen_keys, seen_values = keys[:, :, : start + length], values[:, :, : start + length]
        mixed = F.scaled_dot_product_attention(q, seen_keys, seen_values, mask[:, None], enable_gqa=True)
        hidden = hidden + attention.o_proj(mixed.transpose(1, 2).reshape(rows, length, -1))
        hidden = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
    logits: Tensor = model.lm_head(body.norm(hidden[:, -1]))
    return logits
