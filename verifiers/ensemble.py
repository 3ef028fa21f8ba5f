"""Ensemble: the weighted mixture of what other verifiers believe."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from orchestrator.core.config import VerifierConfig
from orchestrator.core.nouns import Score


@dataclass(frozen=True, kw_only=True)
class Member(VerifierConfig):
    """A verifier of any kind but another ensemble."""

    weight: float = 1.0  # relative to the others'

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.weight > 0:
            raise ValueError(f"weight must be > 0, got {self.weight}")
        if self.name == "ensemble":
            raise ValueError("an ensemble can't be a member of another: list its members there")


@dataclass(frozen=True, kw_only=True)
class Ensemble:
    """Options of an ensemble. It judges whole solutions only as soon as one member does."""

    members: list[Member] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not self.members:
            raise ValueError("members: wanted at least one, got none")

    def mixed(self, scores: Sequence[Score]) -> Score:
        return mixture(scores, [member.weight for member in self.members])


def mixture(scores: Sequence[Score], weights: Sequence[float]) -> Score:
    """Mean and standard deviation of the mixture of distributions: the spread within them, and that of their means."""
    shares = [weight / sum(weights) for weight in weights]
    mean = sum(share * score.mean for share, score in zip(shares, scores, strict=True))
    variance = sum(
        share * (score.std**2 + (score.mean - mean) ** 2) for share, score in zip(shares, scores, strict=True)
    )
    return Score(mean=mean, std=variance**0.5)
