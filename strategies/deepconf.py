"""DeepConf: a vote of the samples that the policy wrote most confidently (Fu et al., "Deep Think with Confidence",
arXiv 2508.15260). No verifier.

The confidence of a token is the negated mean log-probability of the k = 20 likeliest tokens at its place, that of a
group the mean over a sliding window of tokens. Offline, all samples are written to their end and the most confident
share votes. Online, a warm-up says how confident that share is. A later sample is stopped by the engine as soon as a
group of its tokens falls below, and all that are being written are aborted once the leading answer has a share
`consensus` of the votes' weight.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import ClassVar

from orchestrator.core.confidence import ConfidenceFloor, group_means
from orchestrator.core.nouns import Candidate, Problem, SearchResult, Selection, Status, Trajectory
from orchestrator.core.protocols import Session, Strategy
from strategies.certainty import TOP_K, token_confidences
from strategies.checks import require
from strategies.concurrency import racing
from strategies.selection import as_candidates, most_voted
from strategies.voting import leading_share

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
    consensus: float | None = 0.95  # online: the leader's share of the votes' weight at which sampling ends; None: none

    costly: ClassVar[tuple[str, ...]] = ("n",)

    def __post_init__(self) -> None:
        require(self.n >= 1, f"deepconf: n must be >= 1, got {self.n}")
        require(0 < self.keep <= 1, f"deepconf: keep must be above 0 and at most 1, got {self.keep}")
        require(self.group_tokens >= 1, f"deepconf: group_tokens must be >= 1, got {self.group_tokens}")
        require(
            self.n_warmup is None or 1 <= self.n_warmup <= self.n,
            f"deepconf: n_warmup must be between 1 and n={self.n} (or null for offline), got {self.n_warmup}",
        )
        require(
            self.consensus is None or 0.5 < self.consensus <= 1,
            f"deepconf: consensus must be above 0.5 and at most 1 (or null for never), got {self.consensus}",
        )
        require(
            self.n_warmup is None or self.consensus is None or num_kept(self.n_warmup, self.keep) >= 2,
            f"deepconf: consensus needs two votes of the warm-up, got one: keep {self.keep} of {self.n_warmup} samples",
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
        samples = await session.rollout([root], self.n_warmup or self.n, scored=False, logprobs=TOP_K)
        bar = None if self.n_warmup is None else bar_of([self.of(sample) for sample in samples], self.keep)
        num_begun, num_stopped = len(samples), 0
        if self.n_warmup is not None and not await self._settled(samples, bar, session):
            num_begun = self.n
            samples, num_stopped = await self._above(bar, samples, root, session)
        votes = await self._votes(samples, bar, session)
        voters = [index for index, group in enumerate(votes.groups) if group is not None]
        return SearchResult(
            candidates=votes.candidates,
            chosen=most_voted(votes.candidates, votes.groups, weighted=True),
            selection=Selection.WEIGHTED,
            detail={
                "voters": voters,
                "bar": votes.bar,
                "samples": num_begun,
                "stopped": num_stopped,
                "aborted": num_begun - num_stopped - len(samples),
            },
        )

    async def _above(
        self, bar: float | None, warmup: Sequence[Trajectory], root: Trajectory, session: Session
    ) -> tuple[list[Trajectory], int]:
        """The warm-up and the later samples that ended above the bar before the vote was settled, and how many fell
        below it. No bar: nothing is known to compare with."""
        floor = None if bar is None else ConfidenceFloor(group_tokens=self.group_tokens, least=bar)
        samples, num_stopped = list(warmup), 0
        rollouts = (
            session.rollout([root], scored=False, logprobs=TOP_K, floor=floor) for _ in range(self.n - len(warmup))
        )
        async with racing(rollouts) as ended:
            for rollout in ended:
                [sample] = await rollout
                if sample.status is Status.RUNNING:
                    session.release([sample])
                    num_stopped += 1
                    continue
                samples.append(sample)
                if await self._settled(samples, bar, session):
                    break
        return sorted(samples, key=lambda sample: sample.path), num_stopped

    async def _settled(self, samples: Sequence[Trajectory], bar: float | None, session: Session) -> bool:
        if self.consensus is None:
            return False
        votes = await self._votes(samples, bar, session)
        weights = [candidate.aggregate_score or 0.0 for candidate in votes.candidates]
        return leading_share(votes.groups, weights) >= self.consensus

    async def _votes(self, samples: Sequence[Trajectory], bar: float | None, session: Session) -> "_Votes":
        """What each sample votes for, with its confidence as the weight. No bar: these samples set it."""
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
        may_vote = [own is not None and bar is not None and own >= bar for own in confidences]
        votes = [group if may else None for group, may in zip(groups, may_vote, strict=True)]
        return _Votes(candidates=candidates, groups=votes, bar=bar)

    def of(self, sample: Trajectory) -> float | None:
        """The confidence of a sample, above 0; None where nothing is known of its tokens."""
        return sample_confidence(token_confidences(sample.steps), self.confidence, self.group_tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Votes:
    candidates: tuple[Candidate, ...]
    groups: Sequence[int | None]  # the answer that each votes for; None: it has no vote
    bar: float | None  # the least confidence that votes


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
    return known[num_kept(len(known), keep) - 1] if known else None


def num_kept(num: int, keep: float) -> int:
    return math.ceil(keep * num - 1e-9)  # 0.28 of 25 is 7, though the product is above it
