"""What `verifier.options` in YAML may set for the transformer verifiers. No torch."""

from dataclasses import dataclass
from enum import StrEnum


class Engine(StrEnum):
    """What computes the scores."""

    transformers = "transformers"  # with a KV cache for each trajectory
    vllm = "vllm"  # its pooling, with its prefix cache


@dataclass(frozen=True, kw_only=True)
class TransformerOptions:
    """Of every verifier that is a transformer."""

    kv_cache_gib: float = 1.0  # keys and values of trajectories; the least recently used are dropped and read again

    def __post_init__(self) -> None:
        if self.kv_cache_gib <= 0:
            raise ValueError(f"kv_cache_gib must be > 0, got {self.kv_cache_gib:g}")


@dataclass(frozen=True, kw_only=True)
class PooledOptions(TransformerOptions):
    """Of one that vLLM's pooling can serve too."""

    engine: Engine = Engine.transformers


@dataclass(frozen=True, kw_only=True)
class SeparatorOptions(PooledOptions):
    """Of a classifier of the tokens that separate steps."""

    separator: str = "\n"  # as in training (TRL's `step_separator`)

    def __post_init__(self) -> None:
        TransformerOptions.__post_init__(self)
        if not self.separator:
            raise ValueError("separator must not be empty")
