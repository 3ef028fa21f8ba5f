"""DeepConf: a vote of the samples that the policy wrote most confidently (Fu et al., "Deep Think with Confidence",
arXiv 2508.15260). No verifier.

The paper's confidence of a token is the negated mean log-probability of its k likeliest alternatives. Here only the
sampled token's own is known, so confidence is made of that: exp of the mean log-probability of the tokens, or of the
least confident group of them. Offline, all samples are written to their end and the most confident share votes. Online,
a warm-up says how confident that share is, and a later sample is stopped once it falls below.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

from orchestrator.core.nouns import Candidate, Problem, SearchResult, Selection, Step, Trajectory
from orchestrator.core.protocols import Session, Strategy
from strategies.checks import require
from strategies.concurrency import together
from strategies.selection import as_candidates, most_voted


class Confidence(StrEnum):
    mean = "mean"
    lowest_group = "lowest_group"


@dataclass(frozen=True, kw_only=True)
class DeepConf(Strategy):
    """n samples. The most confident share of those with an answer votes, each with the weight of its confidence."""

    n: int = 16
    keep: float = 0.5  # share that votes, rounded up
    confidence: Confidence = Confidence.mean
    group_tokens: int = 1024  # a group is steps in a row with so many tokens or more; online: tokens between two looks
    n_warmup: int | None = None  # samples before the first may be stopped; None: offline, no sample is

    costly: ClassVar[tuple[str, ...]] = ("n",)
    needs_tokens: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require(self.n >= 1, f"deepconf: n must be >= 1, got {self.n}")
        require(0 < self.keep <= 1, f"deepconf: keep must be above 0 and at most 1, got {self.keep}")
        require(self.group_tokens >= 1, f"deepconf: group_tokens must be >= 1, got {self.group_tokens}")
        require(
            self.n_warmup is None or 1 <= self.n_warmup <= self.n,
            f"deepconf: n_warmup must be between 1 and n={self.n} (or null for offline), got {self.n_warmup}",
        )
        require(  # a mean that has fallen may rise again
            self.n_warmup is None or self.confidence == Confidence.lowest_group,
            f"deepconf: n_warmup needs confidence: lowest_group, got {self.confidence}",
        )

    async def search(self, problem: Problem, session: Session) -> SearchResult:
        root = await session.start(problem)
        bar = None
        if self.n_warmup is None:
            samples = await session.rollout([root], self.n, scored=False, logprobs=True)
        else:
            samples = await self._above(None, self.n_warmup, root, session)
            bar = bar_of([self.of(sample.steps) for sample in samples], self.keep)
            samples += await self._above(bar, self.n - self.n_warmup, root, session)
        candidates = tuple(
            Candidate(trajectory=candidate.trajectory, aggregate_score=self.of(candidate.trajectory.steps))
            for candidate in as_candidates(samples, None)
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
            detail={"voters": voters, "bar": bar, "stopped": self.n - len(samples)},
        )

    async def _above(self, bar: float | None, n: int, root: Trajectory, session: Session) -> list[Trajectory]:
        """Those of n samples that never fell below the bar, in order. None: there is none yet."""
        samples = await together(self._sample(root, session, bar) for _ in range(n))
        return [sample for sample in samples if sample is not None]

    async def _sample(self, root: Trajectory, session: Session, bar: float | None) -> Trajectory | None:
        """One sample, written `group_tokens` at a time; None if it fell below the bar."""
        sample = root
        while not sample.status.done:
            [sample] = await session.rollout([sample], scored=False, logprobs=True, max_tokens=self.group_tokens)
            confidence = self.of(sample.steps)
            if not sample.status.done and bar is not None and confidence is not None and confidence < bar:
                session.release([sample])
                return None
        return sample

    def of(self, steps: Sequence[Step]) -> float | None:
        """The confidence of a sample, in (0, 1]; None where no log-probability is known."""
        return mean_confidence(steps) if self.confidence is Confidence.mean else lowest_group(steps, self.group_tokens)


def mean_confidence(steps: Sequence[Step]) -> float | None:
    """The geometric mean of the probabilities that the sampled tokens had; None where none is known."""
    known = [(step.logprob, len(step.token_ids)) for step in steps if step.logprob is not None]
    if not known:
        return None
    return math.exp(math.fsum(logprob for logprob, _ in known) / sum(tokens for _, tokens in known))


def lowest_group(steps: Sequence[Step], group_tokens: int) -> float | None:
    """The confidence of the least confident group: the shortest runs of steps that end with each step and have
    `group_tokens` tokens or more. All steps are one group where there are fewer tokens."""
    groups: list[float | None] = []
    first = tokens = 0
    for end, step in enumerate(steps, start=1):
        tokens += len(step.token_ids)
        while tokens - len(steps[first].token_ids) >= group_tokens:
            tokens -= len(steps[first].token_ids)
            first += 1
        if tokens >= group_tokens or (end == len(steps) and not groups):
            groups.append(mean_confidence(steps[first:end]))
    return min((confidence for confidence in groups if confidence is not None), default=None)


def bar_of(confidences: Sequence[float | None], keep: float) -> float | None:
    """The least confidence in the most confident share; None where none is known. Who is as confident is in it, too."""
    known = sorted((confidence for confidence in confidences if confidence is not None), reverse=True)
    num_kept = math.ceil(keep * len(known) - 1e-9)  # 0.28 of 25 is 7, though the product is above it
    return known[num_kept - 1] if known else None
