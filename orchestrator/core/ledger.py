"""What a search cost, and what it may cost."""

from dataclasses import dataclass, fields


@dataclass(frozen=True, slots=True, kw_only=True)
class Ledger:
    """Compute spent, in exact counts; FLOPs by the formula in `orchestrator.core.flops`. Ledgers add up."""

    prompt_tokens: int = 0  # sent to the policy as prefixes, over all requests
    cached_tokens: int = 0  # of those, served from the prefix cache
    generated_tokens: int = 0  # sampled by the policy, discarded ones included
    discarded_tokens: int = 0  # sampled past a boundary or lost with a replica, in no trajectory
    verifier_tokens: int = 0  # read by the verifier, repeats included
    reingested_tokens: int = 0  # of those, read again because a state was lost
    policy_flops: float = 0.0
    verifier_flops: float = 0.0
    candidates: int = 0

    def __add__(self, other: "Ledger") -> "Ledger":
        return Ledger(**{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(Ledger)})


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """Hard caps for one problem; None is no cap. Never exceeded by one token."""

    policy_tokens: int | None = None

    def __post_init__(self) -> None:
        if self.policy_tokens is not None and self.policy_tokens < 1:
            raise ValueError(f"budget: policy_tokens must be >= 1 (or null for no cap), got {self.policy_tokens}")
