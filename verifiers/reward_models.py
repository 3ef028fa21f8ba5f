"""Loads transformers that judge: a backbone and what reads its last hidden states. No code of a checkpoint is run.

What a checkpoint ships as custom code is written here on transformers' Qwen2, under the published names of its weights.
"""

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    Qwen2Config,
    Qwen2Model,
    Qwen2PreTrainedModel,
)
from transformers.utils.logging import disable_progress_bar

from orchestrator.core.flops import ModelShape, llama_shape


class Qwen2ForProcessRewardModel(Qwen2PreTrainedModel):
    """Qwen2.5-Math-PRM: two classes for each token, from two layers."""

    _keys_to_ignore_on_load_unexpected: ClassVar[list[str]] = [r"^lm_head\."]

    def __init__(self, config: Qwen2Config) -> None:
        super().__init__(config)
        self.model = Qwen2Model(config)
        self.score = nn.Sequential(
            nn.Linear(config.hidden_size, config.hidden_size), nn.ReLU(), nn.Linear(config.hidden_size, 2)
        )
        self.post_init()


class Qwen2ForPrmModel(Qwen2PreTrainedModel):
    """Skywork-o1-Open-PRM: one value for each token."""

    _keys_to_ignore_on_load_unexpected: ClassVar[list[str]] = [r"^lm_head\."]

    def __init__(self, config: Qwen2Config) -> None:
        super().__init__(config)
        self.model = Qwen2Model(config)
        self.v_head = nn.ModuleDict({"summary": nn.Linear(config.hidden_size, 1)})
        self.post_init()

    @property
    def score(self) -> nn.Module:
        return self.v_head["summary"]


_LOADERS = {
    "Qwen2ForProcessRewardModel": Qwen2ForProcessRewardModel,
    "Qwen2ForPrmModel": Qwen2ForPrmModel,
    "ForCausalLM": AutoModelForCausalLM,
    "ForTokenClassification": AutoModelForTokenClassification,
    "ForSequenceClassification": AutoModelForSequenceClassification,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class RewardModel:
    """A model on its device."""

    backbone: Any  # of transformers: ids in, last hidden states and a KV cache out
    head: nn.Module  # (n, hidden) -> (n, logits)
    shape: ModelShape
    context_length: int
    vocab_size: int
    model_hash: str

    @property
    def kv_bytes_per_token(self) -> int:
        config = self.backbone.config
        heads = config.num_key_value_heads or config.num_attention_heads
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return int(2 * config.num_hidden_layers * heads * head_dim * self.backbone.dtype.itemsize)

    @torch.inference_mode()
    def logits(self, hidden: Tensor) -> Tensor:
        """(n, hidden) -> (n, logits) in float32."""
        logits: Tensor = self.head(hidden)
        return logits.float()


def context_of(folder: str) -> tuple[int, int]:
    """Context length and vocabulary of a checkpoint, from its config.json. Raises ValueError."""
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"verifier: {folder} can't be loaded: {error}") from error
    return int(config.max_position_embeddings), int(config.vocab_size)


def load_reward_model(folder: str, *, num_logits: int, word_ids: tuple[int, ...], device: str) -> RewardModel:
    """Raises ValueError for a checkpoint that can't be loaded, lacks weights or has another head.

    `word_ids`: the head is those rows of a language model's; empty: the checkpoint has a head of `num_logits` outputs.
    On a CPU everything is float32, which it computes exactly; elsewhere the checkpoint's own dtype is kept.
    """
    disable_progress_bar()  # of which each replica would show one
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        architecture = next(iter(config.architectures or ["none"]))
        loader = next((cls for name, cls in _LOADERS.items() if architecture.endswith(name)), None)
        if loader is None:
            raise ValueError(f"the architecture {architecture} is unknown")
        dtype = torch.float32 if device == "cpu" else "auto"
        model, info = loader.from_pretrained(folder, config=config, dtype=dtype, output_loading_info=True)
    except (OSError, ValueError, RuntimeError) as error:
        raise ValueError(f"verifier: {folder} can't be loaded: {error}") from error
    lacking = sorted(info["missing_keys"])
    if lacking:
        raise ValueError(f"verifier: {folder} lacks {len(lacking)} weights, the first is {lacking[0]}")
    if word_ids:
        head: nn.Module = _rows(model.get_output_embeddings(), word_ids)
    else:
        head = model.score
        [*_, last] = (layer for layer in head.modules() if isinstance(layer, nn.Linear))
        if last.out_features != num_logits:
            raise ValueError(f"verifier: {folder}: the head has {last.out_features} outputs, wanted {num_logits}")
    head_weights = sum(p.numel() for p in head.parameters() if p.ndim == 2)
    model.to(device).eval()
    return RewardModel(
        backbone=model.base_model,
        head=head.to(device).eval(),
        shape=replace(llama_shape(config.to_dict()), head_weights=head_weights),
        context_length=int(config.max_position_embeddings),
        vocab_size=int(config.vocab_size),
        model_hash=checkpoint_hash(folder),
    )


def _rows(lm_head: nn.Linear, ids: tuple[int, ...]) -> nn.Linear:
    """Of a language model's head, the logits of a few tokens."""
    head = nn.Linear(lm_head.in_features, len(ids), bias=False, dtype=lm_head.weight.dtype)
    head.weight = nn.Parameter(lm_head.weight[list(ids)].detach().clone(), requires_grad=False)
    return head


def checkpoint_hash(folder: str) -> str:
    """SHA-256 (hex) over the configuration and, of each file of weights, the size and the first and last megabytes:
    reading all of many gigabytes would take longer than loading them."""
    digest = hashlib.sha256((Path(folder) / "config.json").read_bytes())
    for file in sorted(Path(folder).glob("*.safetensors")):
        size = file.stat().st_size
        digest.update(f"{file.name} {size} ".encode())
        with file.open("rb") as stream:
            digest.update(stream.read(2**20))
            stream.seek(max(0, size - 2**20))
            digest.update(stream.read())
    return digest.hexdigest()
