"""FLOPs of a forward pass from a model's configuration.

A multiply-add counts as 2. Per token, every weight of a matrix multiplication is used once (2 x weights), and
attention reads the context: 2 x context x width for the scores and as much for the weighted sum, per layer, with
width = heads x head_dim (Kaplan et al., arXiv 2001.08361, table 1). The output head is counted for sampled tokens
and for the last token of each prefill only, since engines compute no other logits unless they are asked for them.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """What the formula needs. A state-space model has `attention_width` 0: its cost per token is constant."""

    weights_per_token: int  # weights multiplied per token, output head left out
    head_weights: int  # weights of the output head
    num_layers: int
    attention_width: int  # query heads x head_dim

    def flops(self, *, new_tokens: int, context_tokens: int, logits: int) -> float:
        """FLOPs to read `new_tokens` after `context_tokens` that are cached, with `logits` head evaluations."""
        attended = new_tokens * context_tokens + new_tokens * (new_tokens + 1) // 2  # sum of context lengths
        return float(
            2 * self.weights_per_token * new_tokens
            + 4 * self.num_layers * self.attention_width * attended
            + 2 * self.head_weights * logits
        )

    def sampling_flops(self, *, prefix: int, cached: int, sampled: int) -> float:
        """FLOPs to sample tokens after a prefix of which some are cached. The last of them is not read again."""
        if sampled == 0:
            return 0.0
        return self.flops(new_tokens=prefix - cached + sampled - 1, context_tokens=cached, logits=sampled)

    def reading_flops(self, *, prefix: int) -> float:
        """FLOPs that the log-probabilities of a prefix take beside sampling: the head at each token but the last."""
        return self.flops(new_tokens=0, context_tokens=0, logits=prefix - 1)


def llama_shape(config: dict[str, int]) -> ModelShape:
    """The shape of a Llama-like decoder (Llama, Mistral, Qwen2/3) from its Hugging Face `config.json`."""
    hidden, layers = config["hidden_size"], config["num_hidden_layers"]
    heads = config["num_attention_heads"]
    kv_heads = config.get("num_key_value_heads") or heads
    head_dim = config.get("head_dim") or hidden // heads
    attention = hidden * head_dim * (2 * heads + 2 * kv_heads)  # q, o and k, v
    mlp = 3 * hidden * config["intermediate_size"]  # gate, up, down
    return ModelShape(
        weights_per_token=layers * (attention + mlp),
        head_weights=hidden * config["vocab_size"],
        num_layers=layers,
        attention_width=heads * head_dim,
    )
