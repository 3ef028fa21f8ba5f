"""DeepConf: a vote of the samples that the policy wrote most confidently (Fu et al., "Deep Think with Confidence",
arXiv 2508.15260). No verifier.

The confidence of a token is the negated mean log-probability of the k = 20 likeliest tokens at its place, that of a
group the mean over a sliding window of tokens. Offline, all samples are written to their end and the most confident
share votes. Online, a warm-up says how confident that share is, and a later sample is stopped by the engine as soon as
a group of its tokens falls below. The paper also stops sampling once the vote is settled; this does not.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import ClassVar

from orchestrator.core.confidence import ConfidenceFloor, group_means
from orchestrator.core.nouns import Problem, SearchResult, Selection, Status, Trajectory
from orchestrator.core.protocols import Session, Strategy
from strategies.certainty import TOP_K, token_confidences
from strategies.checks import require
from strategies.selection import as_candidates, most_voted

_BOTTOM_SHARE = 0.1  # of the groups


class SampleConfidence(StrEnum):
    mean = "mean"  # of all tokens
    lowest_group = "lowest_group"
    bottom_groups = "bottom_groups"  # mean of the least confident tenth of the groups
    tail = "tail"  # of the last group


@dataclass(frozen=True, kw_only=True)
class DeepConf(Strategy):
    """n samples. The most confident share of those with an answer votes, each with the weight of its confidence."""

    n: int = 16
    keep: float = 0.5  # share that votes, rounded up
    confidence: SampleConfidence = SampleConfidence.mean
    group_tokens: int = 2048  # in a group; shorter samples are one group
    n_warmup: int | None = None  # samples before the first may be stopped; None: offline, no sample is

    costly: ClassVar[tuple[str, ...]] = ("n",)

    def __post_init__(self) -> None:
        require(self.n >= 1, f"deepconf: n must be >= 1, got {self.n}")
        require(0 < self.keep <= 1, f"deepconf: keep must be above 0 and at most 1, got {self.keep}")
        require(self.group_tokens >= 1, f"deepconf: group_tokens must be >= 1, got {self.group_tokens}")
        require(
            self.n_warmup is None or 1 <= self.n_warmup <= self.n,
            f"deepconf: n_warmup must be between 1 and n={self.n} (or null for offline), got {self.n_warmup}",
        )
        require(  # the others may rise again
            self.n_warmup is None or self.confidence == SampleConfidence.lowest_group,
            f"deepconf: n_warmup needs confidence: lowest_group, got {self.confidence}",
        )

    @property
    def needs_tokens(self) -> bool:
        return self.n_warmup is not None

    async def search(self, problem: Problem, session: Session) -> SearchResult:
        root = await session.start(problem)
        bar, num_stopped = None, 0
        samples = await session.rollout([root], self.n_warmup or self.n, scored=False, logprobs=TOP_K)
        if self.n_warmup is not None:
            bar = bar_of([self.of(sample) for sample in samples], self.keep)
            later = await self._above(bar, self.n - self.n_warmup, root, session)
            num_stopped = self.n - self.n_warmup - len(later)
            samples = [*samples, *later]
        candidates = tuple(
            replace(one, aggregate_score=self.of(one.trajectory)) for one in as_candidates(samples, None)
        )
        groups = await session.group_answers([candidate.trajectory for candidate in candidates])
        confidences = [
            None if group is None else candidate.aggregate_score
            for candidate, group in zip(candidates, groups, strict=True)
        ]
        if bar is None:
            bar = bar_of(confidences, self.keep)
        voters = [i for i, own in enumerate(confidences) if own is not None and bar is not None and own >= bar]
        votes = [group if index in voters else None for index, group in enumerate(groups)]
        return SearchResult(
            candidates=candidates,
            chosen=most_voted(candidates, votes, weighted=True),
            selection=Selection.WEIGHTED,
            detail={"voters": voters, "bar": bar, "stopped": num_stopped},
        )

    async def _above(self, bar: float | None, n: int, root: Trajectory, session: Session) -> list[Trajectory]:
        """Those of n samples that never fell below the bar, in order. None: nothing is known to compare with."""
        floor = None if bar is None else ConfidenceFloor(group_tokens=self.group_tokens, least=bar)
        samples = await session.rollout([root], n, scored=False, logprobs=TOP_K, floor=floor)
        stopped = [sample for sample in samples if sample.status is Status.RUNNING]
        session.release(stopped)
        return [sample for sample in samples if sample.status is not Status.RUNNING]

    def of(self, sample: Trajectory) -> float | None:
        """The confidence of a sample, above 0; None where nothing is known of its tokens."""
        return sample_confidence(token_confidences(sample.steps), self.confidence, self.group_tokens)


def sample_confidence(tokens: Sequence[float], by: SampleConfidence, group_tokens: int) -> float | None:
    """From the confidences of a sample's tokens; None for none."""
    groups = group_means(tokens, len(tokens) if by == SampleConfidence.mean else group_tokens)
    if not groups:
        return None
    match by:
        case SampleConfidence.lowest_group:
            return min(groups)
        case SampleConfidence.bottom_groups:
            least = sorted(groups)[: math.ceil(_BOTTOM_SHARE * len(groups))]
            return math.fsum(least) / len(least)
        case SampleConfidence.mean | SampleConfidence.tail:
            return groups[-1]


def bar_of(confidences: Sequence[float | None], keep: float) -> float | None:
    """The least confidence in the most confident share; None where none is known. Who is as confident is in it, too."""
    known = sorted((confidence for confidence in confidences if confidence is not None), reverse=True)
    num_kept = math.ceil(keep * len(known) - 1e-9)  # 0.28 of 25 is 7, though the product is above it
    return known[num_kept - 1] if known else None
