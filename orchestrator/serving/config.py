"""Typed configuration of the endpoint. YAML is merged into it; unknown keys and wrong types are errors."""

from dataclasses import dataclass, field, replace
from typing import Any

from orchestrator.core.answers import AnswerFormat
from orchestrator.core.config import PolicyConfig, RayConfig, StepConfig, VerifierConfig
from orchestrator.core.ledger import Budget
from orchestrator.core.protocols import Sampling
from orchestrator.serving.key_classes import KeysConfig


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What no request may exceed, whatever it asks for."""

    max_n: int = 64  # any strategy's `n`, `simulations`, `expansion` and `lookahead`
    max_tokens: int = 4096  # per candidate
    max_body_bytes: int = 1_048_576
    body_timeout_s: float = 10.0  # for a request's body to arrive
    max_messages: int = 64
    max_prompt_tokens: int | None = None  # None: as the policy's context has room
    max_concurrent: int = 32  # searches in flight
    max_queued: int = 64  # requests that wait for a place among these; one more is answered 429 at once
    queue_timeout_s: float = 30.0  # for a request to wait
    timeout_s: float = 300.0  # from the request to its answer
    drain_s: float = 20.0  # when the server stops, requests in progress answer within it, with the best found by then

    def __post_init__(self) -> None:
        for name in ("max_n", "max_tokens", "max_body_bytes", "max_messages", "max_concurrent"):
            if getattr(self, name) < 1:
                raise ValueError(f"limits: {name} must be >= 1, got {getattr(self, name)}")
        if self.max_queued < 0:
            raise ValueError(f"limits: max_queued must be >= 0, got {self.max_queued}")
        if self.max_prompt_tokens is not None and self.max_prompt_tokens < 1:
            raise ValueError(f"limits: max_prompt_tokens must be >= 1, got {self.max_prompt_tokens}")
        for name in ("body_timeout_s", "queue_timeout_s", "timeout_s", "drain_s"):
            if not getattr(self, name) > 0:
                raise ValueError(f"limits: {name} must be > 0, got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class TraceLimits:
    """How much is kept of past requests, in memory, for the page to open. They hold what was asked and answered."""

    keep: int = 100  # traces; 0: none
    max_bytes: int = 33_554_432  # of all of them together, about

    def __post_init__(self) -> None:
        if self.keep < 0:
            raise ValueError(f"traces: keep must be >= 0, got {self.keep}")
        if self.max_bytes < 1:
            raise ValueError(f"traces: max_bytes must be >= 1, got {self.max_bytes}")


@dataclass(frozen=True, kw_only=True)
class Effort:
    """What a `reasoning_effort` buys."""

    strategy: str | None = None  # of a request that names none; None: the default one
    params: dict[str, Any] = field(default_factory=dict)  # of that strategy
    budget: Budget = field(default_factory=Budget)  # of the search, within that of every request
    max_thinking_tokens: int | None = None  # None: as `sampling` has it
    chat_template_kwargs: dict[str, Any] = field(default_factory=dict)  # such as enable_thinking: false

    def __post_init__(self) -> None:
        if self.params and self.strategy is None:
            raise ValueError(f"efforts: params are of a strategy, got none and params {', '.join(self.params)}")
        if self.max_thinking_tokens is not None and self.max_thinking_tokens < 1:
            raise ValueError(f"efforts: max_thinking_tokens must be >= 1, got {self.max_thinking_tokens}")


@dataclass(frozen=True, kw_only=True)
class ApplicationConfig:
    """The endpoint as an application of Ray Serve: where it stands among others, and in how many processes."""

    name: str = "headrace"  # among the applications of a Serve that already runs
    route_prefix: str = "/"  # of its routes
    replicas: int = 1  # processes that answer; several share a named pool, behind Serve's proxies
    max_replicas: int | None = None  # so many when requests pile up; None: always `replicas`

    @property
    def proxied(self) -> bool:
        """Whether it needs Serve's proxies, also where no other application runs."""
        return (self.max_replicas or self.replicas) > 1 or self.route_prefix != "/"

    def __post_init__(self) -> None:
        if not self.name:
            raise ValueError("application: name must not be empty")
        prefix = self.route_prefix
        if not prefix.startswith("/") or (prefix.endswith("/") and prefix != "/") or "{" in prefix:
            raise ValueError(f"application: route_prefix: wanted /, or a path such as /math, got {prefix!r}")
        if self.replicas < 1:
            raise ValueError(f"application: replicas must be >= 1, got {self.replicas}")
        if self.max_replicas is not None and self.max_replicas < self.replicas:
            raise ValueError(f"application: max_replicas must be >= replicas={self.replicas}, got {self.max_replicas}")


@dataclass(frozen=True, kw_only=True)
class ServeConfig:
    """One endpoint: one policy, one verifier, every strategy."""

    alias: str  # the model's name in requests; `alias@strategy` names a strategy too
    policy: PolicyConfig
    verifier: VerifierConfig | None = None
    default_strategy: str = "best_of_n"  # of a request that names none
    answer: Any = None  # where an answer stands in a text, in the form of `data.answer`; equal is what math-verify says
    strategies: dict[str, dict[str, Any]] = field(default_factory=dict)  # parameters where a request gives none
    efforts: dict[str, Effort] = field(default_factory=dict)  # by the `reasoning_effort` of a request
    sampling: Sampling = field(default_factory=Sampling)  # where a request says nothing
    steps: StepConfig = field(default_factory=StepConfig)
    budget: Budget = field(default_factory=Budget)  # of one request; `request_budget` is what holds
    limits: Limits = field(default_factory=Limits)
    traces: TraceLimits = field(default_factory=TraceLimits)
    ray: RayConfig = field(default_factory=RayConfig)
    pool: str | None = None  # a named pool (`headrace up`) whose policy and verifier are used; None: started for this
    application: ApplicationConfig = field(default_factory=ApplicationConfig)
    host: str = "127.0.0.1"  # where other machines can reach it, API keys are needed
    port: int = 8000
    keys: KeysConfig = field(default_factory=KeysConfig)
    cors: list[str] = field(default_factory=list)  # origins whose pages may send requests, such as https://a.example
    log_requests: bool = False  # the bodies of requests; prompts are in no log otherwise
    example: str = "What is 12 + 30?"  # a prompt to show who starts the server
    keep_alive_s: float = 10.0  # a stream says so often that its search still runs

    @property
    def request_budget(self) -> Budget:
        """Of one request: `budget`, and never more tokens than `max_n` candidates of `max_tokens` have."""
        most, own = self.limits.max_n * self.limits.max_tokens, self.budget.policy_tokens
        return replace(self.budget, policy_tokens=most if own is None else min(own, most))

    def __post_init__(self) -> None:
        if not self.alias or "@" in self.alias or any(character.isspace() for character in self.alias):
            raise ValueError(f"alias: wanted a name without @ and spaces, got {self.alias!r}")
        try:
            AnswerFormat.parse(self.answer)
        except ValueError as error:
            raise ValueError(f"answer: {error}") from None
        if (self.application.max_replicas or self.application.replicas) > 1 and self.pool is None:
            raise ValueError("application: several replicas share the engines of a named pool: set pool, got none")
        if not 1 <= self.port <= 65535:
            raise ValueError(f"port: wanted 1 to 65535, got {self.port}")
        if not self.keep_alive_s > 0:
            raise ValueError(f"keep_alive_s: must be > 0, got {self.keep_alive_s}")
        if self.sampling.max_tokens > self.limits.max_tokens:
            raise ValueError(
                f"sampling: max_tokens must be <= limits.max_tokens={self.limits.max_tokens}, "
                f"got {self.sampling.max_tokens}"
            )
