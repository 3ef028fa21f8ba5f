"""Typed configuration of the runtime's parts. YAML is merged into these; unknown keys and wrong types are errors."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from orchestrator.core.nouns import Message


def _at_least(owner: str, name: str, value: float | None, least: float) -> None:
    if value is not None and value < least:
        raise ValueError(f"{owner}: {name} must be >= {least:g}, got {value}")


def _check_scaling(owner: str, config: "PolicyConfig | VerifierConfig") -> None:
    _at_least(owner, "replicas", config.replicas, 1)
    _at_least(owner, "min_replicas", config.min_replicas, 1)
    if config.max_replicas is None:
        if config.min_replicas is not None:
            raise ValueError(f"{owner}: min_replicas needs max_replicas, got min_replicas {config.min_replicas} alone")
        return
    _at_least(owner, "max_replicas", config.max_replicas, config.min_replicas or 1)
    if config.replicas != 1:
        raise ValueError(
            f"{owner}: wanted replicas (a fixed number), or min_replicas and max_replicas, got replicas "
            f"{config.replicas} and max_replicas {config.max_replicas}"
        )


def most_replicas(config: "PolicyConfig | VerifierConfig") -> int:
    """How many there may be at one time."""
    return config.max_replicas or config.replicas


def _check_thinking(value: Any) -> None:
    if isinstance(value, Mapping):
        if set(value) == {"start", "end"} and all(isinstance(v, str) and v.strip() for v in value.values()):
            return
    elif isinstance(value, str) and value:
        return
    raise ValueError(
        "policy: thinking must be auto, none, a reasoning parser's name or {start: ..., end: ...}, neither blank, "
        f"got {value!r}"
    )


@dataclass(frozen=True, kw_only=True)
class StepConfig:
    """Where a step ends: at the token that completes a delimiter, or every so many tokens; and where thinking does."""

    delimiters: list[str] = field(default_factory=lambda: ["\n\n"])
    thinking_delimiters: list[str] | None = None  # of steps of the thinking; None: the same
    every_tokens: int | None = None  # when set, delimiters are not looked at

    def __post_init__(self) -> None:
        _at_least("steps", "every_tokens", self.every_tokens, 1)
        if self.every_tokens is None and (not self.delimiters or "" in self.delimiters):
            raise ValueError(f"steps: delimiters must be non-empty strings, got {self.delimiters}")
        if self.thinking_delimiters is not None and "" in self.thinking_delimiters:
            raise ValueError(f"steps: thinking_delimiters must be non-empty strings, got {self.thinking_delimiters}")


@dataclass(frozen=True, kw_only=True)
class PlacementConfig:
    """On which nodes of a cluster Ray starts the replicas of a pool."""

    spread: bool = False  # over as many nodes as there are; else as Ray does: it fills a node by half, then the next
    labels: dict[str, str] = field(default_factory=dict)  # on nodes with these labels alone (Ray's label selector)


@dataclass(frozen=True, kw_only=True)
class PolicyConfig:
    """A pool of engines that serve one model."""

    engine: str = "vllm"  # a key of `orchestrator.policy.engines.ENGINES`
    model: str  # a folder with a Hugging Face checkpoint (or, with a network, a hub id); of a server: its name there
    urls: list[str] = field(default_factory=list)  # engine openai: of servers, as http://host:8000/v1; one replica each
    tokenizer: str = ""  # engine openai: a folder with the model's tokenizer (or a hub id)
    api_key_env: str | None = None  # engine openai: the environment variable that holds the servers' key
    request_timeout_s: float = 600.0  # engine openai: without a token, or an answer
    flops_per_token: float | None = None  # engine openai: 2 x the weights, where the tokenizer's folder can't tell
    replicas: int = 1
    min_replicas: int | None = None  # with max_replicas: in place of `replicas`, a number that moves with the work
    max_replicas: int | None = None
    dtype: str = "auto"  # auto: bfloat16 where the device computes it natively, else float32
    max_model_len: int | None = None  # None: the model's own
    max_num_seqs: int = 256  # sequences that one engine decodes together
    spare_seqs: int = 64  # an engine that runs fewer sequences than this has room for speculation
    kv_cache_gib: float = 1.0  # CPU builds: size of the KV cache, of the blocks kept for forks included
    gpu_memory_utilization: float = 0.9  # CUDA builds
    tensor_parallel_size: int = 1  # GPUs of a replica
    num_gpus: float | None = None  # share of a GPU that Ray sets aside for a replica; None: tensor_parallel_size
    placement: PlacementConfig = field(default_factory=PlacementConfig)
    block_size: int | None = None  # None: 32 on CPU (short prefixes are cached too), vLLM's own on CUDA
    engine_args: dict[str, Any] = field(default_factory=dict)  # engine vllm: its other arguments, by vLLM's names
    system_prompt: str = ""  # first message of every prompt
    examples: list[Message] = field(default_factory=list)  # messages before the problem's: few-shot examples
    thinking: Any = "auto"  # auto: as the chat template says; none; a vLLM reasoning parser; {start: ..., end: ...}
    tool_parser: str = "auto"  # auto: as the chat template says; none; a vLLM tool parser
    chat_template_kwargs: dict[str, Any] = field(default_factory=dict)  # such as enable_thinking: false
    max_restarts: int = 3  # per replica
    start_timeout_s: float = 600.0
    stall_timeout_s: float = 120.0  # a busy replica that shows no progress for so long counts as dead

    def __post_init__(self) -> None:
        _check_thinking(self.thinking)
        if not self.tool_parser:
            raise ValueError("policy: tool_parser must be auto, none or a tool parser's name, got ''")
        for example in self.examples:
            if example.role not in ("user", "assistant"):
                raise ValueError(f"policy: examples: role must be user or assistant, got {example.role!r}")
        _check_scaling("policy", self)
        for name in ("max_num_seqs", "tensor_parallel_size", "max_model_len"):
            _at_least("policy", name, getattr(self, name), 1)
        for name in ("max_restarts", "spare_seqs"):
            _at_least("policy", name, getattr(self, name), 0)
        if self.num_gpus is not None and not (0 < self.num_gpus <= 1 and self.tensor_parallel_size == 1):
            raise ValueError(
                "policy: num_gpus must be above 0 and at most 1, with tensor_parallel_size 1, got "
                f"{self.num_gpus:g} with tensor_parallel_size {self.tensor_parallel_size}"
            )


@dataclass(frozen=True, kw_only=True)
class VerifierConfig:
    """A pool of replicas of one verifier."""

    name: str = "streaming_prm"  # a key of `verifiers.VERIFIERS`
    model: str = ""
    options: dict[str, Any] = field(default_factory=dict)  # of this verifier alone: its entry in `verifiers` says which
    replicas: int = 1
    min_replicas: int | None = None  # with max_replicas: in place of `replicas`, a number that moves with the work
    max_replicas: int | None = None
    slots: int = 1024  # states resident on a replica's device
    host_slots: int = 4096  # states spilled to host memory before the oldest is dropped (and rebuilt from tokens)
    batch_tokens: int = 4096  # most tokens (padding included) in one micro-batch
    num_cpus: int = 1  # cores (and torch threads) of a replica
    num_gpus: float = 0.0  # share of a GPU that a replica takes; 0: it runs on its cores
    placement: PlacementConfig = field(default_factory=PlacementConfig)
    max_restarts: int = 3  # per replica; those that a reading costs which turns out to be the fault are not counted
    start_timeout_s: float = 300.0
    stall_timeout_s: float = 120.0  # a busy replica that finishes nothing for so long counts as lost

    def __post_init__(self) -> None:
        _check_scaling("verifier", self)
        for name in ("slots", "batch_tokens", "num_cpus"):
            _at_least("verifier", name, getattr(self, name), 1)
        for name in ("host_slots", "num_gpus", "max_restarts"):
            _at_least("verifier", name, getattr(self, name), 0)


@dataclass(frozen=True, kw_only=True)
class RuntimeEnvConfig:
    """What Ray gives to the processes that it starts on the nodes: its `runtime_env`, by its names."""

    working_dir: str | None = None  # copied from here to the nodes, whose Python imports from it; or a URI
    excludes: list[str] = field(default_factory=list)  # of working_dir, patterns as in .gitignore
    pip: list[str] = field(default_factory=list)  # packages that each node installs first
    env_vars: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.excludes and self.working_dir is None:
            raise ValueError("runtime_env: excludes are of working_dir, got no working_dir")

    @property
    def given(self) -> dict[str, Any]:
        """What is set, as Ray takes it."""
        return {name: value for name, value in vars(self).items() if value}


@dataclass(frozen=True, kw_only=True)
class RayConfig:
    """Where Ray runs."""

    address: str | None = None  # None: a local Ray of this process; else `auto`, or `ray://host:port`, or `host:port`
    num_cpus: int | None = None  # local Ray only; None: what is needed by the replicas
    runtime_env: RuntimeEnvConfig = field(default_factory=RuntimeEnvConfig)
