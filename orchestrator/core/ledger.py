"""What a search cost, and what it may cost."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from operator import add, attrgetter
from typing import Any

from orchestrator.core.values import made, numerous

Cost = Mapping[str, float]
"""What something added to a ledger: amounts by the names of the fields that add up."""


@numerous
@dataclass(frozen=True, slots=True, kw_only=True)
class Ledger:
    """Compute spent, in exact counts; FLOPs by the formula in `orchestrator.core.flops`. Ledgers add up (the peak by
    its maximum). Seconds are sums over requests that ran at the same time."""

    prompt_tokens: int = 0  # sent to the policy as prefixes, over all requests
    cached_tokens: int = 0  # of those, served from the prefix cache
    generated_tokens: int = 0  # sampled by the policy, discarded ones included
    thinking_tokens: int = 0  # of those, in the policy's thinking and not thrown away by the engine
    discarded_tokens: int = 0  # of the generated, thrown away: past a boundary, taken back or lost with a replica
    speculative_tokens: int = 0  # of the generated: written past a boundary before its verdict, kept or not
    verifier_tokens: int = 0  # read by the verifier, repeats included
    reingested_tokens: int = 0  # of those, read again because a state was lost
    policy_flops: float = 0.0
    verifier_flops: float = 0.0
    candidates: int = 0
    queue_s: float = 0.0  # requests waited for a place in an engine
    engine_s: float = 0.0  # requests were in an engine
    verifier_s: float = 0.0  # readings were with the verifier, waiting included
    peak_state_bytes: int = 0  # verifier states held at the same time

    def __add__(self, other: "Ledger") -> "Ledger":
        sums = map(add, _amounts(self), _amounts(other))
        return made(Ledger, *sums, max(self.peak_state_bytes, other.peak_state_bytes))


_SUMMED = tuple(field.name for field in fields(Ledger))[:-1]  # the last is the peak
_amounts = attrgetter(*_SUMMED)


class Tally:
    """A ledger while costs are added to it. Whoever adds owns it."""

    def __init__(self, start: Ledger = Ledger()) -> None:
        self._sums: dict[str, Any] = dict(zip(_SUMMED, _amounts(start), strict=True))
        self._peak_state_bytes = start.peak_state_bytes

    def add(self, cost: Cost) -> None:
        sums = self._sums
        for name, amount in cost.items():
            sums[name] += amount

    def states_held(self, num_bytes: int) -> None:
        """So much is held of verifier states now."""
        self._peak_state_bytes = max(self._peak_state_bytes, num_bytes)

    def ledger(self) -> Ledger:
        return made(Ledger, *self._sums.values(), self._peak_state_bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """Hard caps for one problem or for a run; None is no cap. Never exceeded by one token or one candidate.

    A fault changes no result, so what it costs is on the ledger and not charged: verifier tokens that are read again
    because a state was lost, and policy tokens that died with a replica before their step was complete.
    """

    policy_tokens: int | None = None
    verifier_tokens: int | None = None
    flops: float | None = None  # of policy and verifier together
    candidates: int | None = None
    seconds: float | None = None  # from the start of the search (or run); then the best answer so far counts

    def __post_init__(self) -> None:
        for name in ("policy_tokens", "verifier_tokens", "candidates"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"budget: {name} must be >= 1 (or null for no cap), got {value}")
        for name in ("flops", "seconds"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"budget: {name} must be > 0 (or null for no cap), got {value}")

    def within(self, other: "Budget") -> "Budget":
        """The lower of both caps, of each kind."""
        lower: dict[str, Any] = {}
        for field in fields(self):
            caps = (getattr(self, field.name), getattr(other, field.name))
            lower[field.name] = min((cap for cap in caps if cap is not None), default=None)
        return Budget(**lower)


@dataclass(frozen=True, slots=True, kw_only=True)
class Remaining:
    """What is left under the caps, of the search and of its run, promises in flight deducted; None: no cap."""

    policy_tokens: int | None
    verifier_tokens: int | None
    flops: float | None
    candidates: int | None
    seconds: float | None

    @property
    def exhausted(self) -> bool:
        """Whether some cap is used up, so that nothing new can be written."""
        left = (self.policy_tokens, self.verifier_tokens, self.flops, self.candidates, self.seconds)
        return any(amount is not None and amount <= 0 for amount in left)
